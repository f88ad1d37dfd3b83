"""Dense convolution where XLA:CPU chooses poorly.

Mostly it chooses well: forward passes of more than a few products, input gradients of stride 1
and kernel gradients of moderate size are left to it.
"""

import functools
import math
import operator

import jax
import jax.numpy as jnp
from jax import lax

from cnnvjp._lowering import xla
from cnnvjp._lowering.cpu.arrays import TOGETHER, Phase, barrier, summed, times, woven
from cnnvjp._types import ArrayType, Precision
from cnnvjp._windows.axes import exchange_channels, pad_spatial, rot180
from cnnvjp._windows.geometry import Window, make_window
from cnnvjp._windows.taps import each_tap, tap

# ------------------------------------------------------------------------------------------
# XLA's own, in the one layout that it runs fast in loops too
# ------------------------------------------------------------------------------------------


def input_gradient(dy: jax.Array, w: jax.Array, window: Window, precision: Precision) -> jax.Array:
    """The kernel's channels exchanged in memory."""
    return xla.input_gradient(dy, w, window, 1, precision, ArrayType(dy.dtype), canonical=True)


def kernel_gradient(x: jax.Array, dy: jax.Array, window: Window, precision: Precision) -> jax.Array:
    """Batch and channels exchanged in memory."""
    return xla.kernel_gradient(x, dy, window, 1, precision, ArrayType(x.dtype), canonical=True)


# ------------------------------------------------------------------------------------------
# Forward passes of images with one channel, or three
# ------------------------------------------------------------------------------------------


def correlate_few(x: jax.Array, w: jax.Array, window: Window) -> jax.Array:
    """A multiply-add of whole maps for each tap and channel, in a loop that writes y once."""
    x = barrier(pad_spatial(x, window.span))
    terms = [
        times(lax.slice_in_dim(tap(x, window, m), c, c + 1, axis=-1), w[m][c])
        for m in each_tap(window)
        for c in range(x.shape[-1])
    ]
    return barrier(summed(terms, TOGETHER))


# ------------------------------------------------------------------------------------------
# Strided input gradients
# ------------------------------------------------------------------------------------------


def input_gradient_by_phases(
    dy: jax.Array, w: jax.Array, window: Window, precision: Precision
) -> jax.Array:
    """Phase by phase: convolutions of stride 1, without the zeros of an upsampled dy."""

    def part(phase: Phase) -> jax.Array:
        taps = exchange_channels(rot180(w[phase.kernel]), 1)
        return xla.correlate(dy, taps, phase.window, 1, precision, ArrayType(dy.dtype))

    return woven(window, part, dy.shape[0], w.shape[-2], dy.dtype)


def input_gradient_by_depth(
    dy: jax.Array, w: jax.Array, window: Window, precision: Precision
) -> jax.Array:
    """All phases in one convolution of stride 1, as channels: no phase has enough of its own.

    Space to depth: cells of s × s pixels take the place of pixels, their pixels that of channels.
    The kernel is filled with zeros to whole cells, and falls apart in the same way. Without
    dilation.
    """
    (sh, sw), (kh, kw) = window.stride, cells(window)
    channels, maps = w.shape[-2:]
    filling = (kh * sh - window.size[0], kw * sw - window.size[1])
    w = jnp.pad(w, ((0, filling[0]), (0, filling[1]), (0, 0), (0, 0)))
    w = w.reshape(kh, sh, kw, sw, channels, maps).transpose(0, 2, 1, 3, 4, 5)
    w = barrier(w.reshape(kh, kw, sh * sw * channels, maps))
    taps = exchange_channels(rot180(w), 1)
    full = make_window(window.output_size, (kh, kw), 1, "FULL", 1)
    dx = xla.correlate(dy, taps, full, 1, precision, ArrayType(dy.dtype))
    n, rows, columns, _ = dx.shape
    dx = barrier(dx).reshape(n, rows, columns, sh, sw, channels).transpose(0, 1, 3, 2, 4, 5)
    dx = dx.reshape(n, rows * sh, columns * sw, channels)
    edges = [
        (-before, size + before - length)
        for (before, _), size, length in zip(
            window.padding, window.input_size, dx.shape[1:3], strict=True
        )
    ]
    return pad_spatial(dx, edges)


def cells(window: Window) -> tuple[int, ...]:
    """How many cells of the stride's size the kernel covers along each axis."""
    return tuple(-(-k // s) for k, s in zip(window.size, window.stride, strict=True))


# ------------------------------------------------------------------------------------------
# Kernel gradients
# ------------------------------------------------------------------------------------------


def kernel_gradient_in_batches(
    x: jax.Array, dy: jax.Array, window: Window, precision: Precision, batches: int
) -> jax.Array:
    """Smaller batches of images, one after the other, for which the cache is large enough.

    XLA's product reads the whole of dy again for every few entries of dw. Each batch has images
    from all over the whole one, so that those divided among devices stay where they are.
    """
    x, dy = (a.reshape(a.shape[0] // batches, batches, *a.shape[1:]) for a in (x, dy))
    parts = [kernel_gradient(x[:, i], dy[:, i], window, precision) for i in range(batches)]
    return functools.reduce(operator.add, parts)


def kernel_gradient_of_patches(
    x: jax.Array, dy: jax.Array, window: Window, precision: Precision
) -> jax.Array:
    """Few channels and taps, or patches that do not overlap: their entries, side by side, times dy.

    XLA makes a convolution of it that has hardly an image to slide over.
    """
    channels, x = x.shape[-1], pad_spatial(x, window.span)
    patches = barrier(jnp.concatenate([tap(x, window, m) for m in each_tap(window)], -1))
    return _product(patches, dy, precision).reshape(*window.size, channels, dy.shape[-1])


def pointwise_kernel_gradient(
    x: jax.Array, dy: jax.Array, window: Window, precision: Precision
) -> jax.Array:
    """A kernel of one tap: xᵀ dy over all positions.

    XLA makes a convolution of it whose kernel is as large as the image.
    """
    taken = pad_spatial(x, window.span)
    if set(window.stride) != {1}:
        taken = barrier(tap(taken, window, (0,) * window.ndim))
    dw = _product(taken, dy, precision)
    return dw.reshape(*window.size, *dw.shape)


def _product(x: jax.Array, dy: jax.Array, precision: Precision) -> jax.Array:
    """Σ over all positions of x[p, c] dy[p, o], the smaller of the two transposed."""
    positions = math.prod(x.shape[:-1])
    x, dy = x.reshape(positions, x.shape[-1]), dy.reshape(positions, dy.shape[-1])
    sides = ((0,), (0,)), ((), ())
    if x.shape[-1] <= dy.shape[-1]:
        return lax.dot_general(x, dy, sides, precision=precision)
    return lax.dot_general(dy, x, sides, precision=precision).T
