"""Axes that are padded, reversed, split, merged, shared: what rules and formulations do to shapes.

Axes are split and merged one at a time, which is what arrays that are sharded over other axes
allow.
"""

import math
from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array, lax

from cnnvjp._types import accumulator


def pad_spatial(x: Array, edges: Sequence[tuple[int, ...]], fill: float | Array = 0) -> Array:
    """Pads the spatial axes of (..., *spatial, C) with `fill`.

    Args:
        x: an array.
        edges: (before, after) for each spatial axis, or (before, after, between), where `between`
            entries are put between two neighbours; a negative before or after crops.
        fill: the entry to pad with, a number or an array of x's dtype.
    """
    if not any(map(any, edges)):
        return x
    spatial = [(edge[0], edge[1], sum(edge[2:])) for edge in edges]
    config = [(0, 0, 0)] * (x.ndim - 1 - len(edges)) + spatial + [(0, 0, 0)]
    constant = fill if isinstance(fill, Array) else lax.full_like(x, fill, shape=())
    return lax.pad(x, constant, config)


def rot180(w: Array) -> Array:
    """A kernel rotated by half a turn: every spatial axis of (*kernel, C, O) reversed."""
    return lax.rev(w, range(w.ndim - 2))


def exchange_channels(w: Array, groups: int) -> Array:
    """(*kernel, C_in/G, C_out) -> (*kernel, C_out/G, C_in), within each of the G groups."""
    *kernel, c, o = w.shape
    w = w.reshape(*kernel, c, groups, o // groups)
    return jnp.swapaxes(w, -3, -1).reshape(*kernel, o // groups, groups * c)


def split_cells(x: Array, cell: tuple[int, ...]) -> Array:
    """(..., *(n·b), C) -> (..., *n, *b, C): position i·b + j goes to (i, j)."""
    ndim = len(cell)
    first = x.ndim - 1 - ndim
    for axis, b in enumerate(cell):
        at = first + 2 * axis
        x = split_axis(x, at, (x.shape[at] // b, b))
    pairs = range(first, first + 2 * ndim)
    return x.transpose(*range(first), *pairs[::2], *pairs[1::2], x.ndim - 1)


def merge_cells(x: Array, ndim: int) -> Array:
    """(..., *n, *b, C) -> (..., *(n·b), C), the inverse of `split_cells`."""
    first = x.ndim - 1 - 2 * ndim
    pairs = [first + side * ndim + axis for axis in range(ndim) for side in (0, 1)]
    x = x.transpose(*range(first), *pairs, x.ndim - 1)
    for axis in range(first, first + ndim):
        x = merge_axes(x, axis, 2)
    return x


def split_axis(x: Array, axis: int, sizes: tuple[int, ...]) -> Array:
    """One axis as several, the last of them fastest."""
    return x.reshape(*x.shape[:axis], *sizes, *x.shape[axis + 1 :])


def merge_axes(x: Array, axis: int, count: int) -> Array:
    """`count` neighbouring axes as one, the last of them fastest."""
    merged = math.prod(x.shape[axis : axis + count])
    return x.reshape(*x.shape[:axis], merged, *x.shape[axis + count :])


def broadcast_to(b: Array, z: Array) -> Array:
    """`b`, of the shape of z's last axes, with axes of size 1 for those that share it."""
    return jnp.expand_dims(b, tuple(range(z.ndim - b.ndim)))


def sum_shared(dy: Array, b: Array) -> Array:
    """The adjoint of `broadcast_to`: sums dy over the axes that share b, its leading ones."""
    shared = tuple(range(dy.ndim - b.ndim))
    return jnp.sum(dy, shared, dtype=accumulator(dy.dtype)).astype(b.dtype)
