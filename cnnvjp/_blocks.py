"""Axes of n·b positions as n blocks of b.

Axes are split and merged one at a time, which is what arrays that are sharded over other
axes allow.
"""

import math

import jax


def split_blocks(x: jax.Array, block: tuple[int, ...]) -> jax.Array:
    """(..., *(n·b), C) -> (..., *n, *b, C): position i·b + j goes to (i, j)."""
    ndim = len(block)
    first = x.ndim - 1 - ndim
    for axis, b in enumerate(block):
        at = first + 2 * axis
        x = split_axis(x, at, (x.shape[at] // b, b))
    pairs = range(first, first + 2 * ndim)
    return x.transpose(*range(first), *pairs[::2], *pairs[1::2], x.ndim - 1)


def merge_blocks(x: jax.Array, ndim: int) -> jax.Array:
    """(..., *n, *b, C) -> (..., *(n·b), C), the inverse of `split_blocks`."""
    first = x.ndim - 1 - 2 * ndim
    pairs = [first + side * ndim + axis for axis in range(ndim) for side in (0, 1)]
    x = x.transpose(*range(first), *pairs, x.ndim - 1)
    for axis in range(first, first + ndim):
        x = merge_axes(x, axis, 2)
    return x


def split_axis(x: jax.Array, axis: int, sizes: tuple[int, ...]) -> jax.Array:
    """One axis as several, the last of them fastest."""
    return x.reshape(*x.shape[:axis], *sizes, *x.shape[axis + 1 :])


def merge_axes(x: jax.Array, axis: int, count: int) -> jax.Array:
    """`count` neighbouring axes as one, the last of them fastest."""
    merged = math.prod(x.shape[axis : axis + count])
    return x.reshape(*x.shape[:axis], merged, *x.shape[axis + count :])
