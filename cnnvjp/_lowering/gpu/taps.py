"""Convolution as a matrix product for every tap: what it sees, times w[m] or dy.

GPUs convolve integers in this way, since cuDNN and MIOpen do not. Each function computes in one
dtype, in which sums may wrap, as in `xla`.
"""

import jax
import jax.numpy as jnp
from jax import lax

from cnnvjp._types import Precision
from cnnvjp._windows.geometry import Window
from cnnvjp._windows.taps import Tap, each_tap, place, reduce_taps, spanned, stack_taps, tap


def correlate(
    x: jax.Array, w: jax.Array, window: Window, groups: int, precision: Precision = None
) -> jax.Array:
    """(N, *spatial, C), (*kernel, C / groups, O) -> (N, *out, O)."""
    x = spanned(x, window, 0)

    def term(m: Tap) -> jax.Array:
        seen = _grouped(tap(x, window, m), groups)
        y = jnp.einsum("...gc,cgo->...go", seen, _grouped(w[m], groups), precision=precision)
        return _merged(y)

    return reduce_taps(window, term, lax.add)


def input_gradient(
    dy: jax.Array, w: jax.Array, window: Window, groups: int, precision: Precision = None
) -> jax.Array:
    """(N, *out, O), (*kernel, C / groups, O) -> (N, *spatial, C)."""
    dy = _grouped(dy, groups)

    def term(m: Tap) -> jax.Array:
        dx = jnp.einsum("...go,cgo->...gc", dy, _grouped(w[m], groups), precision=precision)
        return place(_merged(dx), window, m)

    return reduce_taps(window, term, lax.add)


def kernel_gradient(
    x: jax.Array, dy: jax.Array, window: Window, groups: int, precision: Precision = None
) -> jax.Array:
    """(N, *spatial, C), (N, *out, O) -> (*kernel, C / groups, O)."""
    x = spanned(x, window, 0)
    positions = "nijk"[: dy.ndim - 1]
    dy = _grouped(dy, groups)

    def term(m: Tap) -> jax.Array:
        seen = _grouped(tap(x, window, m), groups)
        subscripts = f"{positions}gc,{positions}go->cgo"
        return _merged(jnp.einsum(subscripts, seen, dy, precision=precision))

    dw = stack_taps(window, term)
    return dw.reshape(*window.size, *dw.shape[1:])


def kernel_gradient_of_patches(
    x: jax.Array, dy: jax.Array, window: Window, groups: int, precision: Precision = None
) -> jax.Array:
    """`kernel_gradient` without groups, as one product with what all taps see side by side."""
    x = spanned(x, window, 0)
    patches = jnp.concatenate([tap(x, window, m) for m in each_tap(window)], axis=-1)
    positions = tuple(range(dy.ndim - 1))
    dw = lax.dot_general(patches, dy, ((positions, positions), ((), ())), precision=precision)
    return dw.reshape(*window.size, x.shape[-1], dy.shape[-1])


def _grouped(x: jax.Array, groups: int) -> jax.Array:
    """(..., C) -> (..., groups, C / groups)."""
    return x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)


def _merged(x: jax.Array) -> jax.Array:
    """The inverse of `_grouped`."""
    return x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])
