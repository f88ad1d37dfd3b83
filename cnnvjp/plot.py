"""Drawings of what the rules do: matrices with windows marked, routes, maps, a moving kernel.

Needs matplotlib, which the extra `notebooks` installs; `import cnnvjp` alone does not import this
module. Every function returns a picture that notebooks show and that `save` writes to a file. The
pictures bring their own light ground, so that they read on a dark page as well.
"""

import base64
import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnvjp.convolution import conv_transpose
from cnnvjp.padding import pad
from cnnvjp.pooling import max_pool
from cnnvjp.resampling import upsample

try:
    import PIL.Image
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"cnnvjp.plot draws with matplotlib: pip install 'cnnvjp[notebooks]' ({error})"
    ) from error

PAPER, LINE, FAINT, NAME, INK = "#fbfaf6", "#c9c6bb", "#a5a298", "#57554d", "#23262b"
WRONG = "#f2a594"
SHARED = "#d9d6cc"  # a place that several windows have chosen
TINTS = (
    "#a9d0f2",
    "#f8d08a",
    "#b4dfae",
    "#e7bbe0",
    "#9fdcd5",
    "#f6bfa6",
    "#c9c3f0",
    "#dde08f",
    "#f3b9c6",
)

Place = tuple[int, int]


class Sheet:
    """A picture that is measured in cells, from the upper left corner.

    Args:
        columns, rows: its size in cells.
        alt: what it shows, in words, for those who do not see it.
        cell: a cell's side in inches. By default 0.6, or what makes the sheet 9.4 inches wide.

    Attributes:
        figure, axes: matplotlib's own, for whatever this class has no method for.

    Example:
        >>> sheet = Sheet(4, 3, "Two rows of numbers.")
        >>> sheet.matrix(1, 0.5, [[1, 2], [3, 4]], tints={(0, 0): TINTS[0]})
        >>> sheet.save("numbers.png")  # doctest: +SKIP
        >>> sheet
        Two rows of numbers.
    """

    def __init__(self, columns: float, rows: float, alt: str, *, cell: float | None = None):
        """Makes an empty sheet."""
        cell = min(0.6, 9.4 / columns) if cell is None else cell
        self.alt, self.points = alt, 72 * cell
        self.figure = Figure((columns * cell, rows * cell), dpi=96, facecolor=PAPER)
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self._extent = (0, columns), (rows, 0)
        self.axes.set(xlim=self._extent[0], ylim=self._extent[1])
        self.axes.axis("off")

    def __repr__(self) -> str:
        """What the sheet shows, in words."""
        return self.alt

    def _repr_png_(self) -> bytes:
        small = io.BytesIO()
        # A palette makes notebooks small. Numbers need few colours, maps need shades.
        few = self._image().quantize(160 if self.axes.images else 24, dither=PIL.Image.Dither.NONE)
        few.save(small, "PNG", optimize=True)
        return small.getvalue()

    def _image(self, dpi: int = 96) -> PIL.Image.Image:
        picture = io.BytesIO()
        self.figure.savefig(picture, format="png", facecolor=PAPER, dpi=dpi)
        return PIL.Image.open(picture).convert("RGB")

    def save(self, path: str | os.PathLike[str], **options: Any) -> None:
        """Writes the picture, in the format that the name's ending says (png, pdf, svg, …).

        Args:
            path: where to.
            **options: those of `matplotlib.figure.Figure.savefig`, such as `dpi`.
        """
        self.figure.savefig(path, **({"facecolor": PAPER} | options))

    def box(self, left: float, top: float, columns: float, rows: float, **style: Any) -> None:
        """Draws a rectangle; `style` is that of `matplotlib.patches.Rectangle`."""
        self.axes.add_patch(Rectangle((left, top), columns, rows, **style))

    def frame(
        self,
        left: float,
        top: float,
        columns: float,
        rows: float,
        colour: str = INK,
        **style: Any,
    ) -> None:
        """Draws a rectangle's border, above what is there."""
        style = {"fill": False, "edgecolor": colour, "linewidth": 2, "zorder": 3} | style
        self.box(left, top, columns, rows, **style)

    def text(self, x: float, y: float, string: str, size: float = 0.36, **style: Any) -> None:
        """Writes a line, centred at (x, y), `size` cells high; `$…$` is mathematics."""
        style = {"color": INK, "ha": "center", "va": "center", "zorder": 4} | style
        style = {"math_fontfamily": "dejavusans"} | style
        self.axes.text(x, y, string, fontsize=size * self.points, **style)

    def arrow(self, start: Any, end: Any, **style: Any) -> None:
        """Draws an arrow from (x, y) to (x, y); `style` is that of matplotlib's FancyArrowPatch."""
        style = {"arrowstyle": "-|>", "color": NAME, "linewidth": 1.2, "zorder": 2} | style
        self.axes.annotate("", (end[0], end[1]), (start[0], start[1]), arrowprops=style)

    def matrix(
        self,
        left: float,
        top: float,
        big: Any,
        small: Any = None,
        tints: Mapping[Place, str] | None = None,
        title: str | None = None,
    ) -> None:
        """Draws a matrix, a cell for each entry.

        Args:
            left: the column where it begins.
            top: the row where it begins.
            big: (rows, columns); what the cells show, numbers or mathematics without the `$`;
                nothing where it is "".
            small: (rows, columns); names in the cells' corners, mathematics too.
            tints: the colours of cells that are not white, by (row, column).
            title: a line above it.
        """
        big, tints = np.asarray(big), tints or {}
        for (row, column), entry in np.ndenumerate(big):
            x, y = left + column, top + row
            colour = tints.get((row, column), "white")
            self.box(x, y, 1, 1, facecolor=colour, edgecolor=LINE, linewidth=0.8)
            string = entry if isinstance(entry, str) else _number(entry)
            string = f"${string}$" if string else ""
            name = "" if small is None else small[row][column]
            faint = string == "$0$" and not name and (row, column) not in tints
            offset = 0.57 if name else 0.5
            # Long numbers in smaller letters, so that they stay in their cells.
            size = min(0.36, 1.5 / max(1, len(string) - 2))
            size = 0.36 if isinstance(entry, str) else size
            self.text(x + offset, y + offset, string, size, color=FAINT if faint else INK)
            if name:
                self.text(x + 0.22, y + 0.22, f"${name}$", 0.25, color=NAME)
        if title:
            self.text(left + big.shape[1] / 2, top - 0.42, title, 0.32)

    def image(
        self,
        left: float,
        top: float,
        columns: float,
        rows: float,
        values: Any,
        *,
        limits: tuple[float, float] | None = None,
        colours: str = "gray",
    ) -> None:
        """Draws a map of numbers as a picture, pixel by pixel.

        Args:
            left: the column where it begins.
            top: the row where it begins.
            columns: its width in cells.
            rows: its height in cells.
            values: (rows, columns), or (rows, columns, 3) for red, green and blue in 0 … 1.
            limits: the numbers at the two ends of the colours. By default the least and largest.
            colours: the name of a colour map of matplotlib.
        """
        low, high = _limits(values) if limits is None else limits
        self.axes.imshow(
            np.asarray(values, float),
            extent=(left, left + columns, top + rows, top),
            vmin=low,
            vmax=high,
            cmap=colours,
            interpolation="nearest",
            aspect="auto",
        )
        self.axes.set(xlim=self._extent[0], ylim=self._extent[1])  # imshow has moved them
        self.frame(left, top, columns, rows, LINE, linewidth=0.8)


class Animation:
    """A GIF made of sheets.

    Args:
        frames: what is shown, in turn, all of one size. All get the palette of the last but one.
        durations: how long each stays, in milliseconds.
        alt: what it shows, in words.
    """

    def __init__(self, frames: Sequence[Sheet], durations: Sequence[int], alt: str):
        """Draws the frames."""
        drawn = [frame._image(dpi=80) for frame in frames]
        palette = drawn[-2:][0].quantize(24)
        pictures = [
            image.quantize(palette=palette, dither=PIL.Image.Dither.NONE) for image in drawn
        ]
        written = io.BytesIO()
        first, *others = pictures
        first.save(
            written,
            "GIF",
            save_all=True,
            append_images=others,
            duration=list(durations),
            loop=0,
            optimize=True,
        )
        self.alt, self.data = alt, written.getvalue()

    def __repr__(self) -> str:
        """What the animation shows, in words."""
        return self.alt

    def _repr_html_(self) -> str:
        return f'<img alt="{self.alt}" src="data:image/gif;base64,{self._base64()}">'

    def _base64(self) -> str:
        return base64.b64encode(self.data).decode()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the GIF."""
        with open(path, "wb") as file:
            file.write(self.data)


def window(row: int, column: int, colours: Any, step: int = 1) -> dict[Place, str]:
    """The tints of a kernel that lies at a place of a matrix.

    Args:
        row: where its upper left tap lies,
        column: and in which column.
        colours: (rows, columns) of the kernel; a colour for each tap.
        step: how far apart its taps are: its dilation.

    Returns:
        Colours by place, for `Sheet.matrix`.

    Example:
        >>> window(1, 0, [["red", "blue"]], step=2)
        {(1, 0): 'red', (1, 2): 'blue'}
    """
    return {
        (row + step * m, column + step * n): str(colour)
        for (m, n), colour in np.ndenumerate(np.asarray(colours))
    }


def grid(
    values: Any,
    *,
    windows: Sequence[tuple[int, int, int, int]] = (),
    names: Any = None,
    tints: Mapping[Place, str] | None = None,
    title: str | None = None,
    alt: str | None = None,
) -> Sheet:
    """Draws a matrix of numbers with windows marked.

    Args:
        values: (rows, columns); numbers, or mathematics without the `$`.
        windows: what to mark, each as (row, column, rows, columns).
        names: (rows, columns); small names in the cells' corners.
        tints: the colours of cells, by (row, column). By default those of the windows.
        title: a line above it.
        alt: what it shows, in words. By default its title, or its size.

    Returns:
        The picture.

    Raises:
        ValueError: if values has no two axes, or a window leaves it.

    Example:
        >>> grid([[1, 2, 3], [4, 5, 6]], windows=[(0, 1, 2, 2)])
        A 2×3 matrix.
    """
    values = _matrix("values", values)
    rows, columns = values.shape
    for top, left, height, width in windows:
        if not (0 <= top <= top + height <= rows and 0 <= left <= left + width <= columns):
            raise ValueError(
                f"windows: got {(top, left, height, width)} (row, column, rows, columns), which "
                f"leaves a matrix of {rows}×{columns}"
            )
    alt = alt or title or f"A {rows}×{columns} matrix."
    sheet = Sheet(max(columns, 4) + 1, rows + (1.5 if title else 1), alt)
    x, y = (max(columns, 4) - columns) / 2 + 0.5, 1.0 if title else 0.5
    if tints is None:
        tints = {}
        for number, (row, column, height, width) in enumerate(windows):
            colour = TINTS[number % len(TINTS)]
            tints |= window(row, column, np.full((height, width), colour))
    sheet.matrix(x, y, values, names, tints, title)
    for row, column, height, width in windows:
        sheet.frame(x + column, y + row, width, height)
    return sheet


def routes(
    x: Any,
    window: int | tuple[int, int],
    *,
    stride: int | tuple[int, int] | None = None,
    dy: Any = None,
    ties: str = "first",
    alt: str | None = None,
) -> Sheet:
    """Draws which input wins each window of a max pooling, and what it receives for it.

    Left the input, the winners coloured as their windows; then the output; then, if `dy` is given,
    the gradient that arrives there and the one that the rule of `cnnvjp.max_pool` makes of it. A
    place that wins several windows is grey: their gradients add up there.

    Args:
        x: (rows, columns); the input.
        window: the pooling window's size.
        stride: its stride. By default the window's size.
        dy: (output rows, output columns); the gradient with respect to the output.
        ties: whom the gradient goes to among equals, as in `cnnvjp.max_pool`.
        alt: what it shows, in words.

    Returns:
        The picture.

    Raises:
        ValueError: if x or dy is no matrix, dy has not the output's shape, or as `cnnvjp.max_pool`.

    Example:
        >>> routes([[1, 2], [4, 3]], 2, dy=[[5]])
        The routes of max pooling.
    """
    x = _matrix("x", x).astype(float)

    def pool(x: jax.Array) -> jax.Array:
        return max_pool(x[..., None], window, stride=stride, ties=ties)[..., 0]

    y, backward = jax.vjp(pool, jnp.asarray(x))
    # What one unit of gradient at each output reaches tells the winners, whatever the ties.
    reached = jax.vmap(backward)(jnp.eye(y.size, dtype=y.dtype).reshape(y.size, *y.shape))[0]
    won: dict[Place, list[int]] = {}
    for number, row, column in np.argwhere(np.asarray(reached) != 0):
        won.setdefault((int(row), int(column)), []).append(int(number))
    tint = {place: TINTS[n[0] % len(TINTS)] if len(n) == 1 else SHARED for place, n in won.items()}
    height, width = y.shape
    outputs = {(n // width, n % width): TINTS[n % len(TINTS)] for n in range(y.size)}

    rows = x.shape[0]
    panels = [(x, tint, "x"), (np.asarray(y), outputs, "y")]
    if dy is not None:
        dy = _matrix("dy", dy).astype(float)
        if dy.shape != y.shape:
            raise ValueError(f"dy: got shape {dy.shape}; the output has {y.shape}")
        panels += [
            (dy, outputs, "dy"),
            (np.asarray(backward(jnp.asarray(dy, y.dtype))[0]), tint, "dx"),
        ]
    gaps = (1.6, 1.2, 2.6)[: len(panels) - 1]
    columns = sum(values.shape[1] for values, *_ in panels) + sum(gaps) + 1
    sheet = Sheet(columns, max(rows, height) + 1.7, alt or "The routes of max pooling.")
    middle, left = 1.1 + max(rows, height) / 2, 0.5
    corners: dict[str, tuple[float, float]] = {}
    for (values, colours, title), gap in zip(panels, (*gaps, 0), strict=True):
        corners[title] = left, middle - values.shape[0] / 2
        sheet.matrix(*corners[title], values, None, colours, f"${title}$")
        left += values.shape[1] + gap
        if title == "x":
            sheet.text(left - gap / 2, middle, "→", 0.6)
    if dy is not None:
        for place, numbers in won.items():
            for number in numbers:
                start = np.add(corners["dy"], (number % width + 0.85, number // width + 0.5))
                end = np.add(corners["dx"], (place[1] + 0.1, place[0] + 0.5))
                sheet.arrow(start, end, alpha=0.5)
    return sheet


def images(
    maps: Any,
    *,
    titles: Sequence[str] | None = None,
    columns: int | None = None,
    symmetric: bool = False,
    limits: tuple[float, float] | None = None,
    title: str | None = None,
    alt: str | None = None,
    size: float = 2.0,
) -> Sheet:
    """Draws maps of numbers beside each other.

    Args:
        maps: (N, rows, columns), or (N, rows, columns, 3) for colours in 0 … 1.
        titles: a line above each.
        columns: how many stand in a row. By default all, up to 8.
        symmetric: negative numbers in blue, positive ones in red, and white for zero, instead of
            greys.
        limits: the numbers at the ends of the colours, for all maps. By default each map's own.
        title: a line above all.
        alt: what it shows, in words. By default the title.
        size: the width of a map, in cells of at most 0.6 inches.

    Returns:
        The picture.

    Raises:
        ValueError: if maps has other axes, is empty, or there are not as many titles.

    Example:
        >>> images(np.eye(4).reshape(2, 2, 4), titles=["upper", "lower"], title="A diagonal.")
        A diagonal.
    """
    maps = np.asarray(maps, float)
    if maps.ndim not in (3, 4) or (maps.ndim == 4 and maps.shape[3] != 3) or not maps.size:
        raise ValueError(
            f"maps: got shape {maps.shape}; expected (N, rows, columns), or (N, rows, columns, 3) "
            "for colours"
        )
    if titles is not None and len(titles) != len(maps):
        raise ValueError(f"titles: got {len(titles)} for {len(maps)} maps")
    across = min(len(maps), 8) if columns is None else columns
    down = -(-len(maps) // across)
    height = size * maps.shape[1] / maps.shape[2]
    gap, head = 0.25, 0.25 if titles is None else 0.75
    top = 0.9 if title else 0.25
    width = across * (size + gap) + gap
    sheet = Sheet(width, top + down * (height + head), alt or title or f"{len(maps)} maps.")
    if title:
        sheet.text(width / 2, 0.45, title, 0.36)
    for number, values in enumerate(maps):
        row, column = divmod(number, across)
        x, y = gap + column * (size + gap), top + row * (height + head) + head - 0.25
        ends = limits
        if symmetric and limits is None:
            largest = float(np.max(np.abs(values))) or 1.0
            ends = -largest, largest
        colours = "RdBu_r" if symmetric else "gray"
        sheet.image(x, y, size, height, values, limits=ends, colours=colours)
        if titles is not None:
            sheet.text(x + size / 2, y - 0.27, titles[number], 0.3)
    return sheet


def kernels(w: Any, *, title: str | None = None, alt: str | None = None) -> Sheet:
    """Draws the kernels of a layer: a row for each input channel, a column for each output's.

    Args:
        w: (rows, columns, C_in, C_out), as `cnnvjp.conv` takes it. All are drawn on one scale.
        title: a line above all.
        alt: what it shows, in words.

    Returns:
        The picture: negative weights in blue, positive ones in red.

    Raises:
        ValueError: if w has not four axes, or is empty.

    Example:
        >>> kernels(np.ones((3, 3, 1, 6)))
        6 kernels of 3×3.
    """
    w = np.asarray(w, float)
    if w.ndim != 4 or not w.size:
        raise ValueError(f"w: got shape {w.shape}; expected (rows, columns, C_in, C_out)")
    rows, columns, C_in, C_out = w.shape
    largest = float(np.max(np.abs(w))) or 1.0
    return images(
        w.transpose(2, 3, 0, 1).reshape(C_in * C_out, rows, columns),
        columns=C_out,
        symmetric=True,
        limits=(-largest, largest),
        title=title,
        alt=alt or title or f"{C_in * C_out} kernels of {rows}×{columns}.",
    )


def feature_maps(
    y: Any, *, columns: int | None = None, title: str | None = None, alt: str | None = None
) -> Sheet:
    """Draws the channels of one image, each on its own scale.

    Args:
        y: (rows, columns, C), as the layers of this library return them.
        columns: how many stand in a row. By default all, up to 8.
        title: a line above all.
        alt: what it shows, in words.

    Returns:
        The picture, dark for each map's least number and bright for its largest.

    Raises:
        ValueError: if y has not three axes, or is empty.

    Example:
        >>> feature_maps(np.ones((8, 8, 6)), title="Six maps.")
        Six maps.
    """
    y = np.asarray(y, float)
    if y.ndim != 3 or not y.size:
        raise ValueError(f"y: got shape {y.shape}; expected (rows, columns, C), of one image")
    return images(np.moveaxis(y, -1, 0), columns=columns, title=title, alt=alt)


def backward_animation(
    dy: Any,
    w: Any,
    *,
    stride: int = 1,
    output_size: int | tuple[int, int] | None = None,
    milliseconds: int = 700,
) -> Animation:
    """Shows the gradient of a convolution's input being made, place by place ([GBC] 9.13).

    The gradient at the output is spread by the stride and padded with zeros, and the rotated kernel
    slides over it: each place gives the gradient of one input.

    Args:
        dy: (rows, columns); the gradient at the output, small whole numbers for choice.
        w: (rows, columns); the kernel, at most three by three to have a colour for each tap.
        stride: the forward convolution's.
        output_size: the input's size, as in `cnnvjp.conv_transpose`.
        milliseconds: how long a place stays.

    Returns:
        The animation.

    Raises:
        ValueError: if dy or w is no matrix, or as `cnnvjp.conv_transpose`.

    Example:
        >>> backward_animation([[1, 2], [3, 4]], [[1, 2], [3, 4]]).data[:3]
        b'GIF'
    """
    dy, w = _matrix("dy", dy).astype(float), _matrix("w", w).astype(float)
    dx = np.asarray(
        conv_transpose(
            jnp.asarray(dy)[..., None],
            jnp.asarray(w)[..., None, None],
            stride=stride,
            output_size=output_size,
        )[..., 0]
    )
    rotated = w[::-1, ::-1]
    spread = np.asarray(upsample(jnp.asarray(dy)[..., None], stride))
    # Beside the k − 1 zeros of every side, those for the inputs that no window reached.
    border = [
        (k - 1, n - size) for k, n, size in zip(w.shape, dx.shape, spread.shape[:2], strict=True)
    ]
    padded = np.asarray(pad(jnp.asarray(spread), border))[..., 0]
    spread = spread[..., 0]

    taps = np.array([TINTS[n % len(TINTS)] for n in range(w.size)]).reshape(w.shape)
    rotated_taps = taps[::-1, ::-1]
    # From left to right, with gaps: the kernel, what it slides over, and what comes of it.
    middle = 1.4 + max(padded.shape[0], dx.shape[0]) / 2
    lefts = np.cumsum([0.7, w.shape[1] + 1.4, padded.shape[1] + 1.4])
    columns, rows = lefts[2] + dx.shape[1] + 0.7, 2 * middle + 0.4
    alt = "The rotated kernel slides over the gradient at the output, spread and padded with zeros."

    def draw(kernel: str, operand: str, place: Place | None = None, known: int = 0) -> Sheet:
        """One frame: what the kernel and its operand are by now, and how much of dx is known."""
        sheet = Sheet(columns, rows, alt)

        def put(left: float, width: int, values: np.ndarray, tints: Any, title: str) -> None:
            left += (width - values.shape[1]) / 2
            sheet.matrix(left, middle - values.shape[0] / 2, values, None, tints, title)

        turned = kernel != "w"
        put(
            lefts[0],
            w.shape[1],
            rotated if turned else w,
            window(0, 0, rotated_taps if turned else taps),
            kernel,
        )
        sheet.text(lefts[1] - 0.7, middle, "⊗", 0.6)
        values = {"dy": dy, "dy, spread": spread}.get(operand, padded)
        tints = window(*place, rotated_taps) if place else None
        put(lefts[1], padded.shape[1], values, tints, operand)
        sheet.text(lefts[2] - 0.7, middle, "=", 0.6)
        shown = [_number(value) if n < known else "" for n, value in enumerate(dx.flat)]
        tints = {place: TINTS[1]} if place else None
        put(lefts[2], dx.shape[1], np.reshape(shown, dx.shape), tints, "dx")
        if place:
            row, column = place
            height, width = w.shape
            sheet.frame(lefts[1] + column, middle - padded.shape[0] / 2 + row, width, height)
            sheet.frame(lefts[2] + column, middle - dx.shape[0] / 2 + row, 1, 1)
            met = padded[row : row + height, column : column + width]
            factors = zip(rotated.flat, met.flat, strict=True)
            products = [rf"{_number(a)} \cdot {_signed(b)}" for a, b in factors if b]
            line = f"${' + '.join(products) or '0'} = {_number(dx[place])}$"
            sheet.text(columns / 2, rows - 0.75, line, 0.42)
        return sheet

    kernel, operand = "w, rotated", "dy, padded" if stride == 1 else "dy, spread and padded"
    frames = [draw("w", "dy")]
    if stride > 1:
        frames.append(draw("w", "dy, spread"))
    frames += [draw("w", operand), draw(kernel, operand)]
    introduction = [2 * milliseconds] * len(frames)
    places = list(np.ndindex(dx.shape))
    frames += [draw(kernel, operand, place, n) for n, place in enumerate(places, 1)]
    frames.append(draw(kernel, operand, known=dx.size))
    durations = [*introduction, *(milliseconds for _ in places), 4 * milliseconds]
    return Animation(frames, durations, alt)


def _matrix(name: str, values: Any) -> np.ndarray:
    matrix = np.asarray(values)
    if matrix.ndim != 2 or not matrix.size:
        raise ValueError(f"{name}: got shape {matrix.shape}; expected (rows, columns)")
    return matrix


def _number(value: Any) -> str:
    """A number with few digits, and a proper minus sign in mathematics."""
    return f"{value:.4g}"


def _signed(value: Any) -> str:
    return f"({_number(value)})" if value < 0 else _number(value)


def _limits(values: Any) -> tuple[float, float]:
    """The least and the largest number, apart even where they are the same."""
    low, high = float(np.min(values)), float(np.max(values))
    return (low, high) if high > low else (low - 0.5, high + 0.5)
