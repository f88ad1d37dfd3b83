"""Convolutions that oneDNN runs, where a program is compiled with it.

XLA:CPU hands a convolution to YNNPACK if that takes it, else to oneDNN. YNNPACK takes images of two
axes: with a third one, of size 1, they are oneDNN's. It takes no upsampled images, no edges to
crop and no kernel that is reversed as it lies.
"""

import jax
import jax.numpy as jnp
from jax import lax

from cnnvjp._lowering.cpu.arrays import Phase, woven
from cnnvjp._types import Pair, Precision
from cnnvjp._windows.axes import exchange_channels, pad_spatial
from cnnvjp._windows.geometry import Window

_AXES = 3
_LAYOUT = ("NDHWC", "DHWIO", "NDHWC")


def correlate(
    x: jax.Array, w: jax.Array, window: Window, groups: int, precision: Precision
) -> jax.Array:
    """y[i] = Σ over m of x[i·s + d·m] w[m], for the channels of each group."""
    return _convolve(x, w, window.stride, window.span, window.dilation, groups, precision)


def input_gradient(
    dy: jax.Array, w: jax.Array, window: Window, groups: int, precision: Precision
) -> jax.Array:
    """dx[j] = Σ over i·s + d·m = j of dy[i] w[m]: phase by phase."""
    w = exchange_channels(w, groups)
    ones = (1,) * window.ndim

    def part(phase: Phase) -> jax.Array:
        placed, taps = phase.window, _rotated(w[phase.kernel])
        return _convolve(dy, taps, ones, placed.span, placed.dilation, groups, precision)

    return woven(window, part, dy.shape[0], w.shape[-1], dy.dtype)


def kernel_gradient(x: jax.Array, dy: jax.Array, window: Window, precision: Precision) -> jax.Array:
    """dw[m] = Σ over the batch and i of x[i·s + d·m] dy[i], batch and channels exchanged."""
    x, dy = jnp.swapaxes(x, 0, -1), jnp.moveaxis(dy, 0, -2)
    dw = _convolve(x, dy, window.dilation, window.span, window.stride, 1, precision)
    return jnp.moveaxis(dw, 0, -2)


def _rotated(w: jax.Array) -> jax.Array:
    """A kernel rotated by half a turn, by its taps in reversed order."""
    *kernel, c, o = w.shape
    return lax.rev(w.reshape(-1, c, o), (0,)).reshape(*kernel, c, o)


def _convolve(
    x: jax.Array,
    w: jax.Array,
    stride: tuple[int, ...],
    padding: tuple[Pair, ...],
    dilation: tuple[int, ...],
    groups: int,
    precision: Precision,
) -> jax.Array:
    ndim = x.ndim - 2
    cropped = tuple((min(before, 0), min(after, 0)) for before, after in padding)
    padded = tuple((max(before, 0), max(after, 0)) for before, after in padding)
    x = pad_spatial(x, cropped)
    more = (1,) * (_AXES - ndim)
    y = lax.conv_general_dilated(
        x.reshape(x.shape[0], *more, *x.shape[1:]), w.reshape(*more, *w.shape),
        (*more, *stride), ((0, 0),) * len(more) + padded, None, (*more, *dilation), _LAYOUT,
        feature_group_count=groups, precision=precision,
    )  # fmt: skip
    return y.reshape(y.shape[0], *y.shape[1 + len(more) :])
