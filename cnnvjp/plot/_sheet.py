"""A picture that is measured in cells."""

import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

try:
    import PIL.Image
    from matplotlib.colors import to_rgb
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
Point = Sequence[float] | np.ndarray
Names = Sequence[Sequence[str]] | np.ndarray


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
        image, none = self._image(), PIL.Image.Dither.NONE
        # A palette makes notebooks small. Maps need shades, all others few colours.
        few = (
            image.quantize(160, dither=none)
            if self.axes.images
            else image.quantize(palette=self._palette(image), dither=none)
        )
        few.save(small, "PNG", optimize=True)
        return small.getvalue()

    def _palette(self, image: PIL.Image.Image) -> PIL.Image.Image:
        """The colours that were chosen, and those between them at the edges of letters."""
        chosen = {PAPER, *(box.get_facecolor() for box in self.axes.patches if box.get_fill())}
        chosen |= {text.get_color() for text in self.axes.texts}
        between = image.quantize(16, PIL.Image.Quantize.MAXCOVERAGE).getpalette() or []
        exact = [round(255 * part) for colour in sorted(map(to_rgb, chosen)) for part in colour]
        palette = PIL.Image.new("P", (1, 1))
        palette.putpalette((exact + between[: 3 * 16])[: 3 * 256])
        return palette

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

    def arrow(self, start: Point, end: Point, **style: Any) -> None:
        """Draws an arrow from (x, y) to (x, y); `style` is that of matplotlib's FancyArrowPatch."""
        style = {"arrowstyle": "-|>", "color": NAME, "linewidth": 1.2, "zorder": 2} | style
        self.axes.annotate("", (end[0], end[1]), (start[0], start[1]), arrowprops=style)

    def matrix(
        self,
        left: float,
        top: float,
        big: ArrayLike,
        small: Names | None = None,
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
        # Long numbers make all letters smaller, so that they stay in their cells.
        numbers = [number(entry) for entry in big.flat if not isinstance(entry, str)]
        size = 0.36 * min(1.0, 4 / max(map(len, numbers), default=4))
        for (row, column), entry in np.ndenumerate(big):
            x, y = left + column, top + row
            colour = tints.get((row, column), "white")
            self.box(x, y, 1, 1, facecolor=colour, edgecolor=LINE, linewidth=0.8)
            string = entry if isinstance(entry, str) else number(entry)
            string = f"${string}$" if string else ""
            name = "" if small is None else small[row][column]
            faint = string == "$0$" and not name and (row, column) not in tints
            offset = 0.57 if name else 0.5
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
        values: ArrayLike,
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


def window(row: int, column: int, colours: ArrayLike, step: int = 1) -> dict[Place, str]:
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


def require_matrix(name: str, values: ArrayLike) -> np.ndarray:
    matrix = np.asarray(values)
    if matrix.ndim != 2 or not matrix.size:
        raise ValueError(f"{name}: got shape {matrix.shape}; expected (rows, columns)")
    return matrix


def number(value: float) -> str:
    """A number with few digits: a whole one with all that it has, up to six."""
    return f"{value:.0f}" if float(value).is_integer() and abs(value) < 1e6 else f"{value:.4g}"


def _limits(values: ArrayLike) -> tuple[float, float]:
    """The least and the largest number, apart even where they are the same."""
    low, high = float(np.min(values)), float(np.max(values))
    return (low, high) if high > low else (low - 0.5, high + 0.5)
