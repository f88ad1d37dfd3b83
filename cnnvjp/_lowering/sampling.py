"""Sampling at real positions: rows of channels, gathered and scattered by index."""

import functools
import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnvjp._types import SampleMethod, SamplePadding, accumulator, wider
from cnnvjp._windows.positions import axis_taps

_LARGEST_INT = 2**31 - 1


class _Tap(NamedTuple):
    """One tap of all positions.

    Attributes:
        pixel: its index, int32, (N, P, 1) in the flat plane, or (N, P, D) where an int32 cannot
            count them. That of a tap on no pixel lies outside.
        weight: (N, P).
        slopes: the weight's derivatives by each of the D coordinates, (N, P) each.
    """

    pixel: jax.Array
    weight: jax.Array
    slopes: list[jax.Array]


def sample(
    x: jax.Array, positions: jax.Array, method: SampleMethod, padding: SamplePadding
) -> jax.Array:
    """(N, *spatial, C), (N, P, D) -> (N, P, C)."""
    dtype, size = _common_dtype(x, positions), x.shape[1:-1]
    plane = _plane(x)
    terms = (
        tap.weight[..., None] * _gather(plane, tap.pixel, padding).astype(dtype)
        for tap in _taps(positions.astype(dtype), size, method, padding)
    )
    return functools.reduce(lax.add, terms).astype(x.dtype)


def spread(
    dy: jax.Array,
    positions: jax.Array,
    size: tuple[int, ...],
    method: SampleMethod,
    padding: SamplePadding,
) -> jax.Array:
    """(N, P, C), (N, P, D) -> (N, *size, C)."""
    dtype = _common_dtype(dy, positions)
    wide = dy.astype(dtype)
    plane = jnp.zeros_like(dy, dtype, (len(dy), *_plane_size(size), dy.shape[-1]))
    for tap in _taps(positions.astype(dtype), size, method, padding):
        plane = _scatter_add(plane, tap.pixel, tap.weight[..., None] * wide, padding)
    return plane.reshape(len(dy), *size, dy.shape[-1]).astype(dy.dtype)


def position_gradient(
    x: jax.Array,
    dy: jax.Array,
    positions: jax.Array,
    method: SampleMethod,
    padding: SamplePadding,
) -> jax.Array:
    """(N, *spatial, C), (N, P, C), (N, P, D) -> (N, P, D)."""
    if method == "nearest":
        return jnp.zeros_like(positions)
    dtype, size = _common_dtype(x, positions), x.shape[1:-1]
    plane, wide = _plane(x), dy.astype(dtype)
    terms = []
    for tap in _taps(positions.astype(dtype), size, method, padding):
        row = _gather(plane, tap.pixel, padding).astype(dtype)
        by_weight = jnp.sum(wide * row, axis=-1)
        terms.append([by_weight * slope for slope in tap.slopes])
    each = [functools.reduce(lax.add, along) for along in zip(*terms, strict=True)]
    return jnp.stack(each, axis=-1).astype(positions.dtype)


def _common_dtype(x: jax.Array, positions: jax.Array) -> np.dtype:
    return accumulator(wider(x.dtype, positions.dtype))


def _taps(
    positions: jax.Array, size: tuple[int, ...], method: SampleMethod, padding: SamplePadding
) -> Iterator[_Tap]:
    """The taps of D axes: each combination of one along each."""
    along = [axis_taps(positions[..., axis], n, method, padding) for axis, n in enumerate(size)]
    for chosen in itertools.product(*(range(len(taps.pixels)) for taps in along)):
        weights = [taps.weights[k] for taps, k in zip(along, chosen, strict=True)]
        slopes = [taps.slopes[k] for taps, k in zip(along, chosen, strict=True)]
        pixels = [taps.pixels[k] for taps, k in zip(along, chosen, strict=True)]
        yield _Tap(
            _index(pixels, size, padding),
            functools.reduce(lax.mul, weights),
            [
                functools.reduce(lax.mul, [*weights[:axis], slope, *weights[axis + 1 :]])
                for axis, slope in enumerate(slopes)
            ],
        )


def _index(pixels: list[jax.Array], size: tuple[int, ...], padding: SamplePadding) -> jax.Array:
    """The pixels of D axes as one index."""
    if len(_plane_size(size)) > 1:
        return jnp.stack(pixels, axis=-1)
    flat = pixels[0]
    for pixel, n in zip(pixels[1:], size[1:], strict=True):
        flat = flat * jnp.int32(n) + pixel
    if padding == "zeros" and len(size) > 1:
        on_none = [pixel == n for pixel, n in zip(pixels, size, strict=True)]
        flat = jnp.where(functools.reduce(lax.bitwise_or, on_none), math.prod(size), flat)
    return flat[..., None]


def _plane_size(size: tuple[int, ...]) -> tuple[int, ...]:
    """One axis for all pixels, if an int32 can count them."""
    count = math.prod(size)
    return (count,) if count <= _LARGEST_INT else size


def _plane(x: jax.Array) -> jax.Array:
    return x.reshape(len(x), *_plane_size(x.shape[1:-1]), x.shape[-1])


def _gather(plane: jax.Array, index: jax.Array, padding: SamplePadding) -> jax.Array:
    """(N, *plane, C), (N, P, axes) -> (N, P, C): rows of channels, 0 for no pixel."""
    axes = tuple(range(1, plane.ndim - 1))
    numbers = lax.GatherDimensionNumbers(
        offset_dims=(2,),
        collapsed_slice_dims=axes,
        start_index_map=axes,
        operand_batching_dims=(0,),
        start_indices_batching_dims=(0,),
    )
    row = (1,) * (1 + len(axes)) + plane.shape[-1:]
    return lax.gather(plane, index, numbers, row, mode=_mode(padding), fill_value=0)


def _scatter_add(
    plane: jax.Array, index: jax.Array, rows: jax.Array, padding: SamplePadding
) -> jax.Array:
    """The adjoint of `_gather`, added to a plane: rows of no pixel are dropped."""
    axes = tuple(range(1, plane.ndim - 1))
    numbers = lax.ScatterDimensionNumbers(
        update_window_dims=(2,),
        inserted_window_dims=axes,
        scatter_dims_to_operand_dims=axes,
        operand_batching_dims=(0,),
        scatter_indices_batching_dims=(0,),
    )
    return lax.scatter_add(plane, index, rows, numbers, mode=_mode(padding))


def _mode(padding: SamplePadding) -> lax.GatherScatterMode:
    """Only zeros have taps on no pixel; all other indices are those of pixels."""
    if padding == "zeros":
        return lax.GatherScatterMode.FILL_OR_DROP
    return lax.GatherScatterMode.PROMISE_IN_BOUNDS
