"""A window's taps: one shifted, strided slice of the input for each place in the window.

Pooling, which slides a window without multiplying by a trained kernel, is written over these:
y = Σ over m of `tap(x, m)`, and its adjoint dx = Σ over m of `place(dy, m)`.
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnvjp._windows.axes import pad_spatial
from cnnvjp._windows.geometry import Window

Tap = tuple[Any, ...]  # one int per axis, or one tracer in the loop over a long window

# Milliseconds beside the numbers: JAX 0.12, two cores, 2026-11-28, by `scripts/thresholds.py`.

# Taps; a window of more is taken apart, an axis at a time. Max pooling of 64 at 8×56×56, stride 1,
# both ways: 3×3 3.3, with 8 5.0; 5×5 9.4, with 25 6.7.
_TOGETHER = 16
_UNROLLED = 64  # taps; with more, the compiled program must not grow with the window


def each_tap(window: Window) -> Iterator[Tap]:
    """The window's places m in row-major order."""
    return np.ndindex(*window.size)


def reduce_taps(
    window: Window, term: Callable[[Tap], Any], combine: Callable[[Any, Any], Any]
) -> Any:
    """Combines the terms of all taps from the left, in row-major order.

    Args:
        window: its taps are unrolled, or looped over where they are many.
        term: maps a tap m to an array or a tuple of them.
        combine: merges what was combined so far with the next term.
    """
    if window.taps <= _UNROLLED:
        return functools.reduce(combine, map(term, each_tap(window)))

    def step(i: jax.Array, combined: Any) -> Any:
        return combine(combined, term(_nth_tap(window, i)))

    return lax.fori_loop(1, window.taps, step, term((0,) * window.ndim))


def stack_taps(window: Window, term: Callable[[Tap], jax.Array], axis: int = 0) -> jax.Array:
    """The terms of all taps, in row-major order on a new axis, the first by default."""
    if window.taps <= _UNROLLED:
        return jnp.stack([term(m) for m in each_tap(window)], axis)
    numbers = jnp.arange(window.taps, dtype=jnp.int32)
    return jnp.moveaxis(lax.map(lambda i: term(_nth_tap(window, i)), numbers), 0, axis)


def separated(window: Window, together: int | None = None) -> tuple[Window, ...]:
    """Windows to be applied one after the other in place of a window of many taps.

    One for each axis, the last axis first: together they have k₀ + k₁ taps, not k₀ · k₁. The
    order keeps the first winner in row-major order. A window of few taps stays as it is.

    Args:
        window: all of it.
        together: how many taps are few, `_TOGETHER` by default.
    """
    if window.taps <= (_TOGETHER if together is None else together):
        return (window,)
    parts: list[Window] = []
    size = window.input_size
    for axis in reversed(range(window.ndim)):
        parts.append(_along(axis, window, size))
        size = parts[-1].output_size
    return tuple(parts)


def row_major(window: Window, m: Tap) -> Any:
    """The number of tap m in row-major order."""
    return sum(place * math.prod(window.size[axis + 1 :]) for axis, place in enumerate(m))


def _nth_tap(window: Window, i: Any) -> Tap:
    """The inverse of `row_major`."""
    return tuple(
        0 if k == 1 else i // math.prod(window.size[axis + 1 :]) % k
        for axis, k in enumerate(window.size)
    )


def _along(axis: int, window: Window, input_size: tuple[int, ...]) -> Window:
    """The window's placement along one axis, a single tap at every position of the others."""

    def only(entries: tuple[Any, ...], elsewhere: Any) -> tuple[Any, ...]:
        return tuple(e if a == axis else elsewhere for a, e in enumerate(entries))

    return Window(
        input_size,
        only(window.size, 1),
        only(window.stride, 1),
        only(window.padding, (0, 0)),
        only(window.dilation, 1),
        only(window.overhang, 0),
    )


def spanned(x: jax.Array, window: Window, fill: float | int) -> jax.Array:
    """The input (..., *spatial, C), padded with `fill` to the length that the windows span."""
    return pad_spatial(x, window.span, fill)


def tap(x: jax.Array, window: Window, m: Tap) -> jax.Array:
    """Tap m of every window of a spanned input: x[..., i·s + d·m, :], of the output's shape."""
    first = x.ndim - 1 - window.ndim
    start = [0] * x.ndim
    limit = list(x.shape)
    step = [1] * x.ndim
    for axis in range(window.ndim):
        low = window.dilation[axis] * m[axis]
        length = (window.output_size[axis] - 1) * window.stride[axis] + 1
        if not isinstance(low, int):  # in a loop
            x = lax.dynamic_slice_in_dim(x, low, length, first + axis)
            low = 0
        start[first + axis] = low
        limit[first + axis] = low + length
        step[first + axis] = window.stride[axis]
    return lax.slice(x, start, limit, step)


def place(dy: jax.Array, window: Window, m: Tap) -> jax.Array:
    """The adjoint of slicing tap m: dy upsampled by the stride, at tap m's place in the input.

    ([B], "Backpropagation through Downsampling"; what falls on the padding is dropped.)
    """
    edges = []
    looped = []
    for axis in range(window.ndim):
        low = window.dilation[axis] * m[axis] - window.padding[axis][0]
        step = window.stride[axis]
        if isinstance(low, int):
            length = (window.output_size[axis] - 1) * step + 1
            edges.append((low, window.input_size[axis] - low - length, step - 1))
        else:  # room for every tap, then the part that tap m sees
            before, after = window.transposed_padding[axis]
            edges.append((before, after, step - 1))
            looped.append((axis, before - low))
    dx = pad_spatial(dy, edges)
    for axis, start in looped:
        spatial = dx.ndim - 1 - window.ndim + axis
        dx = lax.dynamic_slice_in_dim(dx, start, window.input_size[axis], spatial)
    return dx


def stands_on_input(window: Window, m: Tap, ndim: int) -> jax.Array:
    """Which windows have tap m on the input, not on the padding, for arrays of `ndim` axes."""
    result = jnp.bool_(True)
    for axis in range(window.ndim):
        start = along_axis(window.positions(axis)[:, 0], axis, window, ndim)
        position = start + window.dilation[axis] * m[axis]
        result = result & (position >= 0) & (position < window.input_size[axis])
    return result


def enters_input(window: Window, m: Tap, ndim: int) -> jax.Array | None:
    """For which windows tap m is the first that stands on the input, not on the padding.

    None if there is no padding.
    """
    if all(edge <= 0 for edges in window.span for edge in edges):
        return None
    result = jnp.bool_(True)
    for axis in range(window.ndim):
        first = window.inside(axis).argmax(axis=1)
        result = result & (along_axis(first, axis, window, ndim) == m[axis])
    return result


def along_axis(entries: np.ndarray, axis: int, window: Window, ndim: int) -> jax.Array:
    """One int32 per window along a spatial axis, shaped to go with an array of `ndim` axes."""
    shape = [1] * ndim
    shape[ndim - 1 - window.ndim + axis] = len(entries)
    return jnp.asarray(entries.reshape(shape), jnp.int32)
