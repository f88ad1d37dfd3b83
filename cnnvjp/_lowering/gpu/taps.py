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


def correlate(x: jax.Array, w: jax.Array, window: Window, groups: int) -> jax.Array:
    """(N, *spatial, C), (*kernel, C / groups, O) -> (N, *out, O)."""
    x = spanned(x, window, 0)

    def term(m: Tap) -> jax.Array:
        seen = _grouped(tap(x, window, m), groups)
        return _merged(jnp.einsum("...gc,cgo->...go", seen, _grouped(w[m], groups)))

    return reduce_taps(window, term, lax.add)


def input_gradient(dy: jax.Array, w: jax.Array, window: Window, groups: int) -> jax.Array:
    """(N, *out, O), (*kernel, C / groups, O) -> (N, *spatial, C)."""
    dy = _grouped(dy, groups)

    def term(m: Tap) -> jax.Array:
        dx = _merged(jnp.einsum("...go,cgo->...gc", dy, _grouped(w[m], groups)))
        return place(dx, window, m)

    return reduce_taps(window, term, lax.add)


def kernel_gradient(x: jax.Array, dy: jax.Array, window: Window, groups: int) -> jax.Array:
    """(N, *spatial, C), (N, *out, O) -> (*kernel, C / groups, O)."""
    x = spanned(x, window, 0)
    positions = "nijk"[: dy.ndim - 1]
    dy = _grouped(dy, groups)

    def term(m: Tap) -> jax.Array:
        seen = _grouped(tap(x, window, m), groups)
        return _merged(jnp.einsum(f"{positions}gc,{positions}go->cgo", seen, dy))

    dw = stack_taps(window, term)
    return dw.reshape(*window.size, *dw.shape[1:])


def kernel_gradient_in_turn(
    x: jax.Array, dy: jax.Array, window: Window, groups: int, precision: Precision = None
) -> jax.Array:
    """`kernel_gradient` without groups; what a tap sees is copied once the last copy is used."""
    x = spanned(x, window, 0)
    parts: list[jax.Array] = []
    for m in each_tap(window):
        if parts:
            x, parts[-1] = lax.optimization_barrier((x, parts[-1]))
        parts.append(_over_positions(tap(x, window, m), dy, precision))
    return jnp.stack(parts).reshape(*window.size, x.shape[-1], dy.shape[-1])


def kernel_gradient_of_patches(
    x: jax.Array, dy: jax.Array, window: Window, groups: int, precision: Precision = None
) -> jax.Array:
    """`kernel_gradient` without groups, as one product with what all taps see side by side."""
    x = spanned(x, window, 0)
    patches = jnp.concatenate([tap(x, window, m) for m in each_tap(window)], axis=-1)
    dw = _over_positions(patches, dy, precision)
    return dw.reshape(*window.size, x.shape[-1], dy.shape[-1])


def _over_positions(x: jax.Array, dy: jax.Array, precision: Precision) -> jax.Array:
    """(*positions, C), (*positions, O) -> (C, O)."""
    positions = tuple(range(dy.ndim - 1))
    return lax.dot_general(x, dy, ((positions, positions), ((), ())), precision=precision)


def _grouped(x: jax.Array, groups: int) -> jax.Array:
    """(..., C) -> (..., groups, C / groups)."""
    return x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)


def _merged(x: jax.Array) -> jax.Array:
    """The inverse of `_grouped`."""
    return x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])
