"""Pictures of matrices, routes and maps."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from cnnvjp._types import Ties
from cnnvjp.max_pooling import max_pool
from cnnvjp.plot._sheet import SHARED, TINTS, Names, Place, Sheet, require_matrix
from cnnvjp.plot._sheet import window as tints_of

_ARROWS = 9  # of a drawing; where there are more, the colours say enough


def grid(
    values: ArrayLike,
    *,
    windows: Sequence[tuple[int, int, int, int]] = (),
    names: Names | None = None,
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
    values = require_matrix("values", values)
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
            tints |= tints_of(row, column, np.full((height, width), colour))
    sheet.matrix(x, y, values, names, tints, title)
    for row, column, height, width in windows:
        sheet.frame(x + column, y + row, width, height)
    return sheet


def routes(
    x: ArrayLike,
    window: int | tuple[int, int],
    *,
    stride: int | tuple[int, int] | None = None,
    dy: ArrayLike | None = None,
    ties: Ties = "first",
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
    x = require_matrix("x", x).astype(float)

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
        dy = require_matrix("dy", dy).astype(float)
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
    if dy is not None and y.size <= _ARROWS:
        for place, numbers in won.items():
            for number in numbers:
                start = np.add(corners["dy"], (width + 0.05, number // width + 0.5))
                end = np.add(corners["dx"], (place[1] + 0.1, place[0] + 0.5))
                sheet.arrow(start, end, alpha=0.5)
    return sheet


def images(
    maps: ArrayLike,
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
        >>> import numpy as np
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


def kernels(w: ArrayLike, *, title: str | None = None, alt: str | None = None) -> Sheet:
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
        >>> import numpy as np
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
    y: ArrayLike, *, columns: int | None = None, title: str | None = None, alt: str | None = None
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
        >>> import numpy as np
        >>> feature_maps(np.ones((8, 8, 6)), title="Six maps.")
        Six maps.
    """
    y = np.asarray(y, float)
    if y.ndim != 3 or not y.size:
        raise ValueError(f"y: got shape {y.shape}; expected (rows, columns, C), of one image")
    return images(np.moveaxis(y, -1, 0), columns=columns, title=title, alt=alt)
