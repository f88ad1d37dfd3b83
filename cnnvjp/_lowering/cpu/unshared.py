"""A kernel for every position, with few products for each output."""

import jax
from jax import lax

from cnnvjp._lowering.cpu.arrays import TOGETHER, barrier, summed, times
from cnnvjp._windows.geometry import Window
from cnnvjp._windows.taps import each_tap, spanned, tap


def correlate_few(x: jax.Array, w: jax.Array, window: Window) -> jax.Array:
    """A multiply-add of whole maps for each tap and channel: no patches, no small products."""
    x = barrier(spanned(x, window, 0))
    positions = (slice(None),) * window.ndim
    terms = [
        times(lax.slice_in_dim(tap(x, window, m), c, c + 1, axis=-1), w[(*positions, *m, c)])
        for m in each_tap(window)
        for c in range(x.shape[-1])
    ]
    return barrier(summed(terms, TOGETHER))
