"""Sampling at real positions: rows of channels, gathered and scattered by index."""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnvjp._types import SampleMethod, SamplePadding, accumulator, wider
from cnnvjp._windows.positions import axis_taps

_LARGEST_INT = 2**31 - 1

# Taps; more are a loop. All of a cubic kernel's in two dimensions would take XLA:CPU seconds to
# compile.
_TOGETHER = 8

# Channels; with more, gradients loop over the taps: 4096 bilinear positions in each of 8 images of
# 64×64 with 32 channels took 33 MiB of temporaries, and with the loop 18. A sum over so few is
# written out: with 3, the gradient to the positions took 1.7 milliseconds of CPU time, not 2.4.
_FEW_CHANNELS = 8


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
    dtype, plane = _common_dtype(x, positions), _plane(x)

    def add(y: jax.Array | None, tap: _Tap) -> jax.Array:
        term = tap.weight[..., None] * _gather(plane, tap.pixel, padding).astype(dtype)
        return term if y is None else y + term

    taps = _taps(positions.astype(dtype), x.shape[1:-1], method, padding)
    return _over_taps(add, taps, unrolled=len(taps) <= _TOGETHER).astype(x.dtype)


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
    zeros = jnp.zeros_like(dy, dtype, (len(dy), *_plane_size(size), dy.shape[-1]))

    def add(plane: jax.Array | None, tap: _Tap) -> jax.Array:
        rows = tap.weight[..., None] * wide
        return _scatter_add(zeros if plane is None else plane, tap.pixel, rows, padding)

    taps = _taps(positions.astype(dtype), size, method, padding)
    plane = _over_taps(add, taps, unrolled=_few(taps, dy))
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
    dtype, plane = _common_dtype(x, positions), _plane(x)
    wide = dy.astype(dtype)

    def add(slopes: list[jax.Array] | None, tap: _Tap) -> list[jax.Array]:
        by_weight = _dot(wide, _gather(plane, tap.pixel, padding).astype(dtype))
        terms = [by_weight * slope for slope in tap.slopes]
        return terms if slopes is None else [a + b for a, b in zip(slopes, terms, strict=True)]

    taps = _taps(positions.astype(dtype), x.shape[1:-1], method, padding)
    slopes = _over_taps(add, taps, unrolled=_few(taps, dy))
    return jnp.stack(slopes, axis=-1).astype(positions.dtype)


def _over_taps(add: Callable[[Any, _Tap], Any], taps: list[_Tap], *, unrolled: bool) -> Any:
    """What `add` makes of None and the first tap, of that and the second, and so on.

    In a loop, one tap's rows are in memory at a time, and the program does not grow with the taps.
    """
    first, *others = taps
    if unrolled or not others:
        return functools.reduce(add, taps, None)
    stacked = jax.tree.map(lambda *each: jnp.stack(each), *others)
    return lax.scan(lambda sum_, tap: (add(sum_, tap), None), add(None, first), stacked)[0]


def _few(taps: list[_Tap], dy: jax.Array) -> bool:
    """Whether the rows of all taps together are worth no loop."""
    return len(taps) <= _TOGETHER and dy.shape[-1] <= _FEW_CHANNELS


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    """Σ over the channels of a · b; few of them are written out, which XLA:CPU fuses."""
    channels = a.shape[-1]
    if not 0 < channels <= _FEW_CHANNELS:
        return jnp.sum(a * b, axis=-1)
    return functools.reduce(lax.add, [a[..., c] * b[..., c] for c in range(channels)])


def _common_dtype(x: jax.Array, positions: jax.Array) -> np.dtype:
    return accumulator(wider(x.dtype, positions.dtype))


def _taps(
    positions: jax.Array, size: tuple[int, ...], method: SampleMethod, padding: SamplePadding
) -> list[_Tap]:
    """The taps of D axes: each combination of one along each."""
    along = [axis_taps(positions[..., axis], n, method, padding) for axis, n in enumerate(size)]
    taps = []
    for chosen in itertools.product(*(range(len(axis.pixels)) for axis in along)):
        pixels = [axis.pixels[k] for axis, k in zip(along, chosen, strict=True)]
        weights = [axis.weights[k] for axis, k in zip(along, chosen, strict=True)]
        slopes = [
            functools.reduce(lax.mul, [*weights[:d], axis.slopes[k], *weights[d + 1 :]])
            for d, (axis, k) in enumerate(zip(along, chosen, strict=True))
        ]
        weight = functools.reduce(lax.mul, weights)
        taps.append(_Tap(_index(pixels, size, padding), weight, slopes))
    return taps


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
