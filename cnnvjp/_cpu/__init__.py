"""The formulations that XLA:CPU runs fastest, chosen from static shapes.

For each of the three operations one function says which formulation is used, or None where
XLA's own is as fast. A formulation is a pure function of the same two arrays, for the same
window; it knows neither autodiff nor the names of paddings, and is tested against the plain
one. `scripts/benchmark.py` measures what is gained.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax

from cnnvjp._cpu import banded, dense, depthwise, grouped
from cnnvjp._geometry import Window

Formulation = Callable[[jax.Array, jax.Array], jax.Array]

_MOST_TAPS = 128  # unrolled; compiling takes longer with each
_MOST_PHASES = 16  # of a strided input gradient: each is compiled
_LARGE = 5  # a kernel's rows and columns, from which products with a banded matrix win
_COLUMNS = 8  # columns of an image, for each of the kernel's, up to which they do
_FEW = 8  # channels of a group whose sums are unrolled
_UNROLLED_BYTES = 8 << 20  # of the result, beyond which each fusion's partial sums leave the cache
_ENOUGH = 16  # input channels from which a phase is worth a convolution of its own


def correlation(
    x: jax.Array, w: jax.Array, window: Window, groups: int, precision: Any, plain: Formulation
) -> Formulation | None:
    """For y = c(x, w).

    Args:
        x: the images, of which the shape counts.
        w: the kernel.
        window: where it stands.
        groups: how many groups the channels fall into.
        precision: as in lax.
        plain: XLA's own convolution without groups.
    """
    if _is_depthwise(w, window, groups):
        return functools.partial(depthwise.correlate, window=window)
    if groups > 1:
        if _is_unrolled(w, window, groups, x.shape[0], window.output_size):
            return functools.partial(grouped.correlate, window=window, groups=groups)
        return functools.partial(grouped.blocks, groups=groups, dense=plain)
    if _has_short_rows(w, window) and w.shape[-2] == 1:
        return functools.partial(banded.correlate, window=window, precision=precision)
    return None


def input_gradient(
    dy: jax.Array, w: jax.Array, window: Window, groups: int, precision: Any, plain: Formulation
) -> Formulation | None:
    """For dx = h(dy, w); arguments as in `correlation`."""
    few_phases = math.prod(window.stride) <= _MOST_PHASES
    if _is_depthwise(w, window, groups) and few_phases:
        return functools.partial(depthwise.input_gradient, window=window, channels=groups)
    if groups > 1:
        if few_phases and _is_unrolled(w, window, groups, dy.shape[0], window.input_size):
            return functools.partial(grouped.input_gradient, window=window, groups=groups)
        return functools.partial(grouped.blocks, groups=groups, dense=plain)
    if _has_short_rows(w, window):
        return functools.partial(banded.input_gradient, window=window, precision=precision)
    strided = window.ndim == 2 and max(window.stride) > 1 and window.taps > 1
    if strided and few_phases and w.shape[-2] >= _ENOUGH:
        return functools.partial(dense.input_gradient, window=window, precision=precision)
    return None


def kernel_gradient(
    x: jax.Array, dy: jax.Array, window: Window, groups: int, precision: Any, plain: Formulation
) -> Formulation | None:
    """For dw = g(x, dy); arguments as in `correlation`."""
    if groups > 1 and x.shape[-1] == groups and window.taps <= _MOST_TAPS:
        return functools.partial(depthwise.kernel_gradient, window=window)
    if window.taps == 1:
        plain = functools.partial(
            dense.pointwise_kernel_gradient, window=window, precision=precision
        )
    if groups > 1:
        return functools.partial(grouped.kernel_gradient_blocks, groups=groups, dense=plain)
    return plain if window.taps == 1 else None


def _is_depthwise(w: jax.Array, window: Window, groups: int) -> bool:
    return groups > 1 and w.shape[-2] == 1 and window.taps <= _MOST_TAPS


def _has_short_rows(w: jax.Array, window: Window) -> bool:
    """A large kernel on a small image, few channels: LeNet's layers."""
    if window.ndim != 2 or window.stride != (1, 1) or min(window.size) < _LARGE:
        return False
    columns = window.input_size[1] + sum(window.span[1])
    return columns <= _COLUMNS * window.size[1] and max(w.shape[-2:]) <= _ENOUGH


def _is_unrolled(
    w: jax.Array, window: Window, groups: int, batch: int, size: tuple[int, ...]
) -> bool:
    channels = max(w.shape[-2], w.shape[-1] // groups)
    terms = channels * window.taps
    small = batch * math.prod(size) * channels * groups * w.dtype.itemsize <= _UNROLLED_BYTES
    return channels <= _FEW and terms <= _MOST_TAPS and small
