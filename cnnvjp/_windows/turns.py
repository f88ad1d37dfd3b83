"""Windows that take turns: of a tiled convolution, those that share a kernel.

With t kernels along an axis, window i uses kernel i mod t. The windows a, a + t, a + 2t, … are then
those of a plain convolution, whose stride is t times as large, and which begins a·s later:

    position(a + t·q, m) = q·(t·s) − (before − a·s) + d·m.
"""

from collections.abc import Iterator, Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from cnnvjp._windows.axes import merge_axes, merge_cells, pad_spatial, split_axis
from cnnvjp._windows.geometry import Window

Turn = tuple[int, ...]  # the number of a kernel along each axis, a


def turns(window: Window, tiles: tuple[int, ...]) -> Iterator[tuple[Turn, Window]]:
    """Each kernel's number, in row-major order, and the placement of its windows."""
    strides = tuple(s * t for s, t in zip(window.stride, tiles, strict=True))
    for turn in np.ndindex(*tiles):
        padding = []
        for axis, a in enumerate(turn):
            windows = len(range(a, window.output_size[axis], tiles[axis]))
            before = window.padding[axis][0] - window.stride[axis] * a
            reach = (windows - 1) * strides[axis] + window.extent[axis]
            padding.append((before, reach - window.input_size[axis] - before))
        yield (
            turn,
            Window(
                window.input_size,
                window.size,
                strides,
                tuple(padding),
                window.dilation,
                (0,) * window.ndim,
            ),
        )


def taken(y: Array, tiles: tuple[int, ...], turn: Turn) -> Array:
    """The entries of (N, *out, C) that belong to the windows of one kernel."""
    pairs = zip(turn, tiles, strict=True)
    return y[(slice(None), *(slice(a, None, t) for a, t in pairs))]


def interleaved(parts: Sequence[Array], window: Window, tiles: tuple[int, ...]) -> Array:
    """The inverse: (N, *out, C), from what `taken` takes, in row-major order of the kernels."""
    rounds = [-(-o // t) for o, t in zip(window.output_size, tiles, strict=True)]
    whole = [
        pad_spatial(y, [(0, q - o) for q, o in zip(rounds, y.shape[1:-1], strict=True)])
        for y in parts
    ]
    y = split_axis(jnp.stack(whole, -2), window.ndim + 1, tiles)
    return _without_rest(merge_cells(y, window.ndim), 1, window)


def by_turn(y: Array, tiles: tuple[int, ...]) -> Array:
    """(*out, …) -> (*tiles, *rounds, …): position q·t + a goes to (a, q), filled with 0."""
    ndim = len(tiles)
    rest = [(0, -o % t, 0) for o, t in zip(y.shape[:ndim], tiles, strict=True)]
    if any(map(any, rest)):
        y = lax.pad(y, lax.full_like(y, 0, shape=()), rest + [(0, 0, 0)] * (y.ndim - ndim))
    for axis, t in enumerate(tiles):
        y = split_axis(y, 2 * axis, (y.shape[2 * axis] // t, t))
    pairs = range(2 * ndim)
    return y.transpose(*pairs[1::2], *pairs[::2], *range(2 * ndim, y.ndim))


def by_position(y: Array, window: Window) -> Array:
    """(*tiles, *rounds, …) -> (*out, …), the inverse of `by_turn`."""
    ndim = window.ndim
    pairs = [part for axis in range(ndim) for part in (ndim + axis, axis)]
    y = y.transpose(*pairs, *range(2 * ndim, y.ndim))
    for axis in range(ndim):
        y = merge_axes(y, axis, 2)
    return _without_rest(y, 0, window)


def _without_rest(y: Array, first: int, window: Window) -> Array:
    """The positions of windows, without those that filled the last round."""
    return y[(slice(None),) * first + tuple(slice(0, o) for o in window.output_size)]
