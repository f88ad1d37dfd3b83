"""Convolution of integers on GPUs, where cuDNN and MIOpen have none: a product for every tap.

Each function computes in one dtype, in which sums may wrap, as in `xla`.
"""

import jax
import jax.numpy as jnp
from jax import lax

from cnnvjp._windows.geometry import Window
from cnnvjp._windows.taps import Tap, place, reduce_taps, spanned, stack_taps, tap


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


def _grouped(x: jax.Array, groups: int) -> jax.Array:
    """(..., C) -> (..., groups, C / groups)."""
    return x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)


def _merged(x: jax.Array) -> jax.Array:
    """The inverse of `_grouped`."""
    return x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])
