"""Dense convolution, where XLA:CPU's own choice is a poor one.

Mostly it is a good one: forward passes, input gradients of stride 1 and most kernel gradients
are left to it.
"""

from typing import Any

import jax
from jax import lax

from cnnvjp._cpu._arrays import Phase, barrier, padded, woven
from cnnvjp._geometry import Window

# Images (N, H, W, C), and a kernel (H, W, O, I) whose channels have changed places.
_LAYOUT = lax.ConvDimensionNumbers((0, 3, 1, 2), (2, 3, 0, 1), (0, 3, 1, 2))


def pointwise_kernel_gradient(
    x: jax.Array, dy: jax.Array, window: Window, precision: Any
) -> jax.Array:
    """A kernel of one tap: xᵀ dy over all positions, the smaller of the two transposed.

    XLA makes a convolution of it whose kernel is as large as the image.
    """
    taken = _strided(padded(x, window.span), window)
    positions = tuple(range(x.ndim - 1))
    if taken.shape[-1] <= dy.shape[-1]:
        dw = lax.dot_general(taken, dy, ((positions, positions), ((), ())), precision=precision)
    else:
        dw = lax.dot_general(dy, taken, ((positions, positions), ((), ())), precision=precision).T
    return dw.reshape(*window.size, *dw.shape)


def _strided(x: jax.Array, window: Window) -> jax.Array:
    if set(window.stride) == {1}:
        return x
    steps = (1, *window.stride, 1)
    return barrier(lax.slice(x, [0] * x.ndim, x.shape, steps))


def input_gradient(dy: jax.Array, w: jax.Array, window: Window, precision: Any) -> jax.Array:
    """Phase by phase: convolutions of stride 1, without the zeros of an upsampled dy."""

    def part(phase: Phase) -> jax.Array:
        taps = lax.rev(w[phase.kernel], (0, 1))
        return lax.conv_general_dilated(
            dy, taps, (1, 1), phase.window.padding, rhs_dilation=phase.window.dilation,
            dimension_numbers=_LAYOUT, precision=precision,
        )  # fmt: skip

    return woven(window, part, dy.shape[0], w.shape[-2], dy.dtype)
