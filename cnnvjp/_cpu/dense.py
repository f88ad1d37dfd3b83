"""Dense convolution: XLA's own, and what to do where XLA:CPU chooses poorly.

Mostly it chooses well: forward passes of more than a few products, input gradients of stride 1
and kernel gradients of moderate size are left to it.
"""

import functools
import math
import operator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from cnnvjp import _lowering as lowering
from cnnvjp._arguments import ArrayType
from cnnvjp._cpu._arrays import TOGETHER, Phase, barrier, padded, summed, times, woven
from cnnvjp._geometry import Window
from cnnvjp._taps import each_tap, tap

# ------------------------------------------------------------------------------------------
# XLA's own
# ------------------------------------------------------------------------------------------


def correlate(x: jax.Array, w: jax.Array, window: Window, precision: Any) -> jax.Array:
    """The forward pass, c(x, w)."""
    return lowering.correlate(
        x, w, stride=window.stride, padding=window.padding, upsampling=(1,) * window.ndim,
        dilation=window.dilation, groups=1, precision=precision, out=ArrayType(x.dtype),
    )  # fmt: skip


def input_gradient(dy: jax.Array, w: jax.Array, window: Window, precision: Any) -> jax.Array:
    """The input gradient, h(dy, w)."""
    return lowering.correlate(
        dy, lax.rev(w, range(window.ndim)), stride=(1,) * window.ndim,
        padding=window.transposed_padding, upsampling=window.stride, dilation=window.dilation,
        groups=1, exchange_channels=True, precision=precision, out=ArrayType(dy.dtype),
    )  # fmt: skip


def kernel_gradient(x: jax.Array, dy: jax.Array, window: Window, precision: Any) -> jax.Array:
    """The kernel gradient, g(x, dy)."""
    return lowering.correlate_batches(
        x, dy, stride=window.dilation, padding=window.span, dilation=window.stride, groups=1,
        precision=precision, out=ArrayType(x.dtype),
    )  # fmt: skip


# ------------------------------------------------------------------------------------------
# Forward passes of images with one channel, or three
# ------------------------------------------------------------------------------------------


def correlate_few(x: jax.Array, w: jax.Array, window: Window) -> jax.Array:
    """A multiply-add of whole maps for each tap and channel, in a loop that writes y once."""
    x = barrier(padded(x, window.span))
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
    dy: jax.Array, w: jax.Array, window: Window, precision: Any
) -> jax.Array:
    """Phase by phase: convolutions of stride 1, without the zeros of an upsampled dy."""

    def part(phase: Phase) -> jax.Array:
        taps = lax.rev(w[phase.kernel], range(window.ndim))
        return lowering.correlate(
            dy, taps, stride=phase.window.stride, padding=phase.window.padding,
            upsampling=(1,) * window.ndim, dilation=phase.window.dilation, groups=1,
            exchange_channels=True, precision=precision, out=ArrayType(dy.dtype),
        )  # fmt: skip

    return woven(window, part, dy.shape[0], w.shape[-2], dy.dtype)


def input_gradient_of_tiles(
    dy: jax.Array, w: jax.Array, window: Window, precision: Any
) -> jax.Array:
    """All phases in one convolution of stride 1, as channels: no phase has enough of its own.

    Tiles of s × s pixels take the place of pixels, their pixels that of channels. The kernel
    is filled with zeros to whole tiles, and falls apart in the same way. Without dilation.
    """
    (sh, sw), (kh, kw) = window.stride, tiles(window)
    channels, maps = w.shape[-2:]
    filling = (kh * sh - window.size[0], kw * sw - window.size[1])
    w = jnp.pad(w, ((0, filling[0]), (0, filling[1]), (0, 0), (0, 0)))
    w = w.reshape(kh, sh, kw, sw, channels, maps).transpose(0, 2, 1, 3, 4, 5)
    w = barrier(w.reshape(kh, kw, sh * sw * channels, maps))
    dx = lowering.correlate(
        dy, lax.rev(w, (0, 1)), stride=(1, 1), padding=((kh - 1,) * 2, (kw - 1,) * 2),
        upsampling=(1, 1), dilation=(1, 1), groups=1, exchange_channels=True,
        precision=precision, out=ArrayType(dy.dtype),
    )  # fmt: skip
    n, rows, columns, _ = dx.shape
    dx = barrier(dx).reshape(n, rows, columns, sh, sw, channels).transpose(0, 1, 3, 2, 4, 5)
    dx = dx.reshape(n, rows * sh, columns * sw, channels)
    return padded(dx, tuple(
        (-before, size + before - length)
        for (before, _), size, length in zip(
            window.padding, window.input_size, dx.shape[1:3], strict=True
        )
    ))  # fmt: skip


def tiles(window: Window) -> tuple[int, ...]:
    """How many tiles of the stride's size the kernel covers along each axis."""
    return tuple(-(-k // s) for k, s in zip(window.size, window.stride, strict=True))


# ------------------------------------------------------------------------------------------
# Kernel gradients
# ------------------------------------------------------------------------------------------


def kernel_gradient_in_blocks(
    x: jax.Array, dy: jax.Array, window: Window, precision: Any, blocks: int
) -> jax.Array:
    """So many blocks of images one after the other, for which the cache is large enough.

    XLA's product reads the whole of dy again for every few entries of dw. A block has images
    from all over the batch, so that those divided among devices stay where they are.
    """
    x, dy = (a.reshape(a.shape[0] // blocks, blocks, *a.shape[1:]) for a in (x, dy))
    parts = [kernel_gradient(x[:, i], dy[:, i], window, precision) for i in range(blocks)]
    return functools.reduce(operator.add, parts)


def kernel_gradient_of_patches(
    x: jax.Array, dy: jax.Array, window: Window, precision: Any
) -> jax.Array:
    """Few channels and taps: the patches' entries, side by side, times dy.

    XLA makes a convolution of it that has hardly an image to slide over.
    """
    channels, x = x.shape[-1], padded(x, window.span)
    patches = barrier(jnp.concatenate([tap(x, window, m) for m in each_tap(window)], -1))
    return _product(patches, dy, precision).reshape(*window.size, channels, dy.shape[-1])


def pointwise_kernel_gradient(
    x: jax.Array, dy: jax.Array, window: Window, precision: Any
) -> jax.Array:
    """A kernel of one tap: xᵀ dy over all positions.

    XLA makes a convolution of it whose kernel is as large as the image.
    """
    taken = padded(x, window.span)
    if set(window.stride) != {1}:
        taken = barrier(tap(taken, window, (0,) * window.ndim))
    dw = _product(taken, dy, precision)
    return dw.reshape(*window.size, *dw.shape)


def _product(x: jax.Array, dy: jax.Array, precision: Any) -> jax.Array:
    """Σ over all positions of x[p, c] dy[p, o], the smaller of the two transposed."""
    positions = math.prod(x.shape[:-1])
    x, dy = x.reshape(positions, x.shape[-1]), dy.reshape(positions, dy.shape[-1])
    sides = ((0,), (0,)), ((), ())
    if x.shape[-1] <= dy.shape[-1]:
        return lax.dot_general(x, dy, sides, precision=precision)
    return lax.dot_general(dy, x, sides, precision=precision).T
