"""Convolution with a kernel for every position, or for every so many, on every platform.

A position's patch, the pixels under its window, times its kernel as a matrix: one product of
matrices for each kernel, whose rows are the images and the positions that share it. Kernels are
(*tiles, *kernel, C, O), and position i uses that of i mod tiles.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from cnnvjp._lowering.xla import contract
from cnnvjp._types import ArrayType, Precision, accumulator, wider
from cnnvjp._windows.axes import merge_axes, pad_spatial, split_axis
from cnnvjp._windows.geometry import Window
from cnnvjp._windows.taps import Tap, place, reduce_taps, row_major, spanned, stack_taps, tap
from cnnvjp._windows.turns import by_position, by_turn


def correlate(
    x: jax.Array, w: jax.Array, window: Window, precision: Precision, out: ArrayType
) -> jax.Array:
    """(N, *spatial, C), (*tiles, *kernel, C, O) -> (N, *out, O)."""
    ndim = window.ndim
    x, w = _in_one_dtype(x, w, out)
    rows = by_turn(_patches(x, window), w.shape[:ndim])
    y = contract(
        rows, _matrices(w, ndim), ((rows.ndim - 2, rows.ndim - 1), (ndim, ndim + 1)), precision,
        ArrayType(out.dtype), batch=_of_each_kernel(ndim),
    )  # fmt: skip
    return jnp.moveaxis(by_position(y, window), ndim, 0)


def input_gradient(
    dy: jax.Array, w: jax.Array, window: Window, precision: Precision, out: ArrayType
) -> jax.Array:
    """(N, *out, O), (*tiles, *kernel, C, O) -> (N, *spatial, C)."""
    ndim = window.ndim
    wide = ArrayType(accumulator(out.dtype))  # every pixel is a sum over taps yet
    dy, w = _in_one_dtype(dy, w, wide)
    rows = by_turn(jnp.moveaxis(dy, 0, ndim), w.shape[:ndim])
    patches = contract(
        rows, _matrices(w, ndim), ((rows.ndim - 1,), (ndim + 2,)), precision, wide,
        batch=_of_each_kernel(ndim),
    )  # fmt: skip
    patches = jnp.moveaxis(by_position(patches, window), ndim, 0)
    # XLA ends the process if it divides rows among devices that are spread and cropped in one.
    reached = zip(window.input_size, window.span, strict=True)
    spanning = dataclasses.replace(
        window,
        input_size=tuple(n + before + after for n, (before, after) in reached),
        padding=((0, 0),) * ndim,
        overhang=(0,) * ndim,
    )

    def placed(m: Tap) -> jax.Array:
        seen = lax.dynamic_index_in_dim(patches, row_major(window, m), -2, keepdims=False)
        return place(seen, spanning, m)

    dx = reduce_taps(spanning, placed, lax.add)
    return pad_spatial(dx, [(-before, -after) for before, after in window.span]).astype(out.dtype)


def kernel_gradient(
    x: jax.Array,
    dy: jax.Array,
    window: Window,
    tiles: tuple[int, ...],
    precision: Precision,
    out: ArrayType,
) -> jax.Array:
    """(N, *spatial, C), (N, *out, O) -> (*tiles, *kernel, C, O)."""
    ndim = window.ndim
    x, dy = _in_one_dtype(x, dy, out)
    rows = by_turn(_patches(x, window), tiles)
    slopes = by_turn(jnp.moveaxis(dy, 0, ndim), tiles)
    summed = tuple(range(ndim, 2 * ndim + 1))  # the rounds and the images
    dw = contract(
        rows, slopes, (summed, summed), precision, _whole(out, ndim + 3),
        batch=_of_each_kernel(ndim),
    )  # fmt: skip
    return split_axis(dw, ndim, window.size)


def _of_each_kernel(ndim: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The leading axes of both arrays, along which every kernel has a product of its own."""
    return (tuple(range(ndim)),) * 2


def _in_one_dtype(a: jax.Array, b: jax.Array, out: ArrayType) -> tuple[jax.Array, jax.Array]:
    dtype = wider(wider(a.dtype, b.dtype), out.dtype)
    return a.astype(dtype), b.astype(dtype)


def _patches(x: jax.Array, window: Window) -> jax.Array:
    """(N, *spatial, C) -> (*out, N, taps, C)."""
    x = spanned(x, window, 0)
    return stack_taps(window, lambda m: jnp.moveaxis(tap(x, window, m), 0, -2), -2)


def _matrices(w: jax.Array, ndim: int) -> jax.Array:
    """(*tiles, *kernel, C, O) -> (*tiles, taps, C, O)."""
    return merge_axes(w, ndim, ndim)


def _whole(out: ArrayType, ndim: int) -> ArrayType:
    """The type of a sum over the batch of `ndim` axes, none of them divided."""
    if out.sharding is None:
        return out
    return ArrayType(out.dtype, NamedSharding(out.sharding.mesh, PartitionSpec(*(None,) * ndim)))
