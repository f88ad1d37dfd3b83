"""Convolution in three dimensions, as sums of two-dimensional ones.

XLA:CPU's fast kernels take planes only. Each depth tap of the kernel is a two-dimensional
kernel, which sees every plane as an image of its own; what the depth taps find is added up.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from cnnvjp._lowering.cpu.arrays import barrier
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
    x = pad_spatial(x, (window.span[0], (0, 0), (0, 0)))
    y = _accumulated(x, window, lambda x, m: planes(_seen(x, window, m), w[m]))
    return y.reshape(x.shape[0], window.output_size[0], *y.shape[1:])


def input_gradient(dy: jax.Array, w: jax.Array, window: Window, planes: Planes) -> jax.Array:
    """dx[j] = Σ over i·s + d·m = j of h(dy[i], w[m]): each part put back where it was seen."""
    (before, _), stride = window.padding[0], window.stride[0]
    images = dy.reshape(-1, *dy.shape[2:])
    length = (dy.shape[1] - 1) * stride + 1

    def part(images: jax.Array, m: int) -> jax.Array:
        dx = planes(images, w[m])
        dx = dx.reshape(*dy.shape[:2], *dx.shape[1:])
        low = window.dilation[0] * m - before
        edges = (low, window.input_size[0] - low - length, stride - 1)
        return pad_spatial(dx, (edges, (0, 0), (0, 0)))

    return _accumulated(images, window, part)


def kernel_gradient(x: jax.Array, dy: jax.Array, window: Window, planes: Planes) -> jax.Array:
    """dw[m] = g(x[i·s + d·m], dy[i]), summed over all planes i."""
    x = pad_spatial(x, (window.span[0], (0, 0), (0, 0)))
    images = dy.reshape(-1, *dy.shape[2:])
    parts = [planes(_seen(x, window, 0), images)]
    for m in range(1, window.size[0]):
        x, images, parts[-1] = barrier((x, images, parts[-1]))
        parts.append(planes(_seen(x, window, m), images))
    return jnp.stack(parts)


def plane_window(window: Window) -> Window:
    """The window without its depth."""
    return Window(*(getattr(window, field.name)[1:] for field in dataclasses.fields(window)))


def _seen(x: jax.Array, window: Window, m: int) -> jax.Array:
    """The planes of a padded x that depth tap m sees, as images: (N · OD, H, W, C)."""
    stride, start = window.stride[0], m * window.dilation[0]
    length = (window.output_size[0] - 1) * stride + 1
    planes = lax.slice_in_dim(x, start, start + length, stride, axis=1)
    return planes.reshape(-1, *planes.shape[2:])


def _accumulated(
    x: jax.Array, window: Window, part: Callable[[jax.Array, int], jax.Array]
) -> jax.Array:
    """The sum of the depth taps' parts, of which no two are kept at a time."""
    total = part(x, 0)
    for m in range(1, window.size[0]):
        x, total = barrier((x, total))
        total = total + part(x, m)
    return total
