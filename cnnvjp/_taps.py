"""A window's taps: one shifted, strided slice of the input for each place in the window.

What slides a window without multiplying by a trained kernel (pooling, unfolding) is written
over these: y = Σ over m of `tap(x, m)`, and its adjoint dx = Σ over m of `place(dy, m)`.
"""

from collections.abc import Iterator

import jax
import numpy as np
from jax import lax

from cnnvjp._geometry import Window

Tap = tuple[int, ...]


def each_tap(window: Window) -> Iterator[Tap]:
    """The window's places m in row-major order."""
    return np.ndindex(*window.size)


def spanned(x: jax.Array, window: Window, fill: float | int) -> jax.Array:
    """The input (..., *spatial, C), padded with `fill` to the length that the windows span."""
    edges = [(before, after, 0) for before, after in window.span]
    return _pad(x, edges, fill)


def tap(x: jax.Array, window: Window, m: Tap) -> jax.Array:
    """Tap m of every window of a spanned input: x[..., i·s + d·m, :], of the output's shape."""
    first = x.ndim - 1 - window.ndim
    start = [0] * x.ndim
    limit = list(x.shape)
    step = [1] * x.ndim
    for axis in range(window.ndim):
        low = window.dilation[axis] * m[axis]
        start[first + axis] = low
        limit[first + axis] = low + (window.output_size[axis] - 1) * window.stride[axis] + 1
        step[first + axis] = window.stride[axis]
    return lax.slice(x, start, limit, step)


def place(dy: jax.Array, window: Window, m: Tap) -> jax.Array:
    """The adjoint of slicing tap m: dy upsampled by the stride, at tap m's place in the input.

    ([B], "Backpropagation through Downsampling"; what falls on the padding is dropped.)
    """
    edges = []
    for axis in range(window.ndim):
        low = window.dilation[axis] * m[axis] - window.padding[axis][0]
        step = window.stride[axis]
        length = (window.output_size[axis] - 1) * step + 1
        edges.append((low, window.input_size[axis] - low - length, step - 1))
    return _pad(dy, edges, 0)


def _pad(x: jax.Array, edges: list[tuple[int, int, int]], fill: float | int) -> jax.Array:
    """lax.pad on the spatial axes."""
    batch = x.ndim - 1 - len(edges)
    constant = lax.full_like(x, fill, shape=())
    return lax.pad(x, constant, [(0, 0, 0)] * batch + edges + [(0, 0, 0)])
