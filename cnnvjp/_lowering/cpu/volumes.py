"""Convolution in three dimensions, as sums of two-dimensional ones.

XLA:CPU's fast kernels take planes only. Each depth tap of the kernel is a two-dimensional
kernel, which sees every plane as an image of its own; what the depth taps find is added up.
"""

import functools
import operator
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from cnnvjp._windows.axes import pad_spatial
from cnnvjp._windows.geometry import Window

Planes = Callable[[jax.Array, jax.Array], jax.Array]


def correlate(x: jax.Array, w: jax.Array, window: Window, planes: Planes) -> jax.Array:
    """y[i] = Σ over m of c(x[i·s + d·m], w[m]), i and m along the depth.

    Args:
        x: volumes, (N, D, H, W, C).
        w: the kernel.
        window: where it stands.
        planes: the same operation on planes, for the window that `plane_window` gives.
    """
    parts = [planes(seen, w[m]) for m, seen in enumerate(_seen(x, window))]
    y = functools.reduce(operator.add, parts)
    return y.reshape(x.shape[0], window.output_size[0], *y.shape[1:])


def input_gradient(dy: jax.Array, w: jax.Array, window: Window, planes: Planes) -> jax.Array:
    """dx[j] = Σ over i·s + d·m = j of h(dy[i], w[m]): each part put back where it was seen."""
    (before, _), stride = window.padding[0], window.stride[0]
    images = dy.reshape(-1, *dy.shape[2:])
    length = (dy.shape[1] - 1) * stride + 1
    parts = []
    for m in range(window.size[0]):
        part = planes(images, w[m])
        part = part.reshape(*dy.shape[:2], *part.shape[1:])
        low = window.dilation[0] * m - before
        edges = (low, window.input_size[0] - low - length, stride - 1)
        parts.append(pad_spatial(part, (edges, (0, 0), (0, 0))))
    return functools.reduce(operator.add, parts)


def kernel_gradient(x: jax.Array, dy: jax.Array, window: Window, planes: Planes) -> jax.Array:
    """dw[m] = g(x[i·s + d·m], dy[i]), summed over all planes i."""
    images = dy.reshape(-1, *dy.shape[2:])
    return jnp.stack([planes(seen, images) for seen in _seen(x, window)])


def plane_window(window: Window) -> Window:
    """The window without its depth."""
    return Window(
        window.input_size[1:],
        window.size[1:],
        window.stride[1:],
        window.padding[1:],
        window.dilation[1:],
        window.overhang[1:],
    )


def _seen(x: jax.Array, window: Window) -> list[jax.Array]:
    """For each depth tap the planes that it sees, as images: (N · OD, H, W, C)."""
    x = pad_spatial(x, (window.span[0], (0, 0), (0, 0)))
    stride, length = window.stride[0], (window.output_size[0] - 1) * window.stride[0] + 1
    starts = range(0, window.extent[0], window.dilation[0])
    seen = [lax.slice_in_dim(x, start, start + length, stride, axis=1) for start in starts]
    return [planes.reshape(-1, *planes.shape[2:]) for planes in seen]
