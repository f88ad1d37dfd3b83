"""Pooling by a sum: sum, average, p-norm and the average with a trained weight.

A sum over a window is a convolution with a fixed kernel of ones, channel by channel, and so
is the way back: "backpropagation through pooling can be done by a convolution-type
operation" ([B], "Backpropagation through Pooling: Summary"). What picks a winner instead is in
`max_pooling`.
"""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from cnnvjp import _lowering as lowering
from cnnvjp._checks.arrays import operands
from cnnvjp._checks.compiled import call
from cnnvjp._checks.options import flag_option, number_option
from cnnvjp._checks.pooling import pooling_window
from cnnvjp._types import Padding, PerAxis, accumulator, shrinking, widened
from cnnvjp._windows.geometry import Window
from cnnvjp._windows.taps import Tap, place, reduce_taps, spanned, tap

# ------------------------------------------------------------------------------------------
# sum_pool
# ------------------------------------------------------------------------------------------


def sum_pool(
    x: chex.Array,
    window: PerAxis,
    *,
    stride: PerAxis | None = None,
    padding: Padding = "VALID",
    dilation: PerAxis = 1,
    ceil_mode: bool = False,
    spatial_ndim: int | None = None,
) -> jax.Array:
    """Sums each window, channel by channel.

        y[n, i, c] = Σ over m of x[n, i·s + d·m − before, c]

    Gradient ([B], "Backward Pass: Mean-Pooling"; [H] P8.3 with the weight 1):

        dx[n, j, c] = Σ dy[n, i, c] over the windows i that cover j

    Args:
        x: maps, (*batch, *spatial, C), with any number of batch axes. Float, integer or complex.
        window: the window's size, an int or D ints.
        stride: the step between two windows, an int or D ints; None sets them side by side,
            `stride=window`. Flax's default is 1.
        padding: "VALID", "SAME" (an odd position after), "SAME_LOWER" (before), "FULL"
            (d·(k−1) on both sides), an int, D ints, or D pairs (before, after); negative
            numbers crop.
        dilation: the distance between two taps of the window, an int or D ints.
        ceil_mode: adds a last window where the stride leaves a remainder, provided that it
            starts on the input or the padding before it, as in PyTorch.
        spatial_ndim: D, where no option is a sequence; 2 by default.

    Returns:
        (*batch, *out_spatial, C), of x's dtype; sums of floats are held in at least float32,
        those of integers in their own dtype, where they can wrap.

    Raises:
        TypeError: if x is not an array of a supported dtype.
        ValueError: if shapes or options do not fit together, or a window lies wholly in the
            padding.

    Example:
        >>> import jax.numpy as jnp
        >>> sum_pool(jnp.arange(1, 7).reshape(6, 1), (2,))[:, 0]
        Array([ 3,  7, 11], dtype=int32)

    Source: [H] 8.22 with the weight 1, P8.3; [B], "Backward Pass: Mean-Pooling".
    """
    (x,) = operands(integers=True, complex=True, x=x)
    placed = pooling_window(
        x, window, stride, padding, dilation, ceil_mode=ceil_mode, spatial_ndim=spatial_ndim
    )
    return call(_sum_pool, x, placed)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _sum_pool(x, window):
    return lowering.sum_over_windows(widened(x), window).astype(x.dtype)


def _sum_pool_fwd(x, window):
    return lowering.sum_over_windows(widened(x), window).astype(x.dtype), ()


def _sum_pool_bwd(window, _, dy):
    dx = lowering.spread_over_windows(widened(dy), window)  # [B], "Backward Pass: Mean-Pooling"
    return (dx.astype(dy.dtype),)


_sum_pool.defvjp(_sum_pool_fwd, _sum_pool_bwd)


# ------------------------------------------------------------------------------------------
# avg_pool
# ------------------------------------------------------------------------------------------


def avg_pool(
    x: chex.Array,
    window: PerAxis,
    *,
    stride: PerAxis | None = None,
    padding: Padding = "VALID",
    dilation: PerAxis = 1,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    spatial_ndim: int | None = None,
) -> jax.Array:
    """Averages each window, channel by channel.

        y[n, i, c] = (Σ over m of x[n, i·s + d·m − before, c]) / count[i]

    Gradient ([B], "Backward Pass: Mean-Pooling"; [J], "Pooling Layer"):

        dx[n, j, c] = Σ dy[n, i, c] / count[i] over the windows i that cover j

    Args:
        x: maps, (*batch, *spatial, C), with any number of batch axes. Float or complex.
        window: the window's size, an int or D ints.
        stride: as in `sum_pool`: None is `stride=window`. Flax's default is 1.
        padding: as in `sum_pool`.
        dilation: as in `sum_pool`.
        ceil_mode: as in `sum_pool`.
        count_include_pad: whether count[i] is the number of the window's taps that stand on
            the input or its padding, or of those on the input alone. What `ceil_mode` adds
            behind the padding is never counted, as in PyTorch.
        spatial_ndim: D, where no option is a sequence; 2 by default.

    Returns:
        (*batch, *out_spatial, C).

    Raises:
        TypeError: if x is not a floating or complex array.
        ValueError: if shapes or options do not fit together, or a window lies wholly in the
            padding.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> x = jnp.array([[2.0], [4.0], [6.0]])
        >>> avg_pool(x, (2,), padding=((1, 0),))[:, 0]
        Array([1., 5.], dtype=float32)
        >>> avg_pool(x, (2,), padding=((1, 0),), count_include_pad=False)[:, 0]
        Array([2., 5.], dtype=float32)
        >>> jax.grad(lambda x: avg_pool(x, (2,), stride=1).sum())(x)[:, 0]
        Array([0.5, 1. , 0.5], dtype=float32)

    Source: [B], "Backward Pass: Mean-Pooling"; [J], "Pooling Layer".
    """
    (x,) = operands(complex=True, x=x)
    placed = pooling_window(
        x, window, stride, padding, dilation, ceil_mode=ceil_mode, spatial_ndim=spatial_ndim
    )
    return call(_avg_pool, x, placed, flag_option("count_include_pad", count_include_pad))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _avg_pool(x, window, count_include_pad):
    return _average(x, window, count_include_pad)


def _average(x: Array, window: Window, count_include_pad: bool) -> Array:
    sums, part = _sums_in_range(x, window)
    return _divided(sums, _count(window, count_include_pad, x) * part).astype(x.dtype)


def _avg_pool_fwd(x, window, count_include_pad):
    return _average(x, window, count_include_pad), ()


def _avg_pool_bwd(window, count_include_pad, _, dy):
    # "The error is multiplied by 1/(N × N) and assigned to the whole pooling block" ([J]).
    portion = _divided(widened(dy), _count(window, count_include_pad, dy))
    dx = lowering.spread_over_windows(portion, window)  # [B], "Backward Pass: Mean-Pooling"
    return (dx.astype(dy.dtype),)


_avg_pool.defvjp(_avg_pool_fwd, _avg_pool_bwd)


def _count(window: Window, count_include_pad: bool, x: Array) -> np.ndarray:
    """Each window's divisor, shaped to go with x or its pooled maps."""
    counts = np.ones((), int)
    for axis in range(window.ndim):
        counted = window.inside_or_padding if count_include_pad else window.inside
        counts = counts[..., None] * counted(axis).sum(axis=1)
    shape = (1,) * (x.ndim - 1 - window.ndim) + counts.shape + (1,)
    return counts.reshape(shape).astype(jnp.finfo(accumulator(x.dtype)).dtype)


def _divided(x: Array, count: np.ndarray) -> Array:
    """Divides by a real number; a complex x part by part, so that ∞ stays in its part."""
    if jnp.iscomplexobj(x):
        return lax.complex(x.real / count, x.imag / count)
    return x / count


# ------------------------------------------------------------------------------------------
# lp_pool
# ------------------------------------------------------------------------------------------


def lp_pool(
    x: chex.Array,
    window: PerAxis,
    *,
    p: float = 2,
    stride: PerAxis | None = None,
    padding: Padding = "VALID",
    dilation: PerAxis = 1,
    ceil_mode: bool = False,
    spatial_ndim: int | None = None,
) -> jax.Array:
    """Takes the p-norm of each window, channel by channel: "L2-norm pooling" ([J]) for p = 2.

        y[n, i, c] = (Σ over m of |x[n, i·s + d·m − before, c]|^p)^(1/p)

    PyTorch's `lp_pool2d` takes no absolute value and differs for odd p; with `ceil_mode` it
    scales the last windows up as if they were full.

    Gradient: with sign(x) · |x / y|^(p−1) for each window that covers j:

        dx[n, j, c] = Σ dy[n, i, c] · sign(x[n, j, c]) · |x[n, j, c] / y[n, i, c]|^(p−1)

    Where a whole window is zero the norm has a kink: all its derivatives there are 0, as are
    those of |x|^(p−1) at x = 0 where they do not exist (p < 2).

    Args:
        x: maps, (*batch, *spatial, C), with any number of batch axes.
        window: the window's size, an int or D ints.
        p: the norm's exponent, a Python number of at least 1.
        stride: as in `sum_pool`: None is `stride=window`. Flax's default is 1.
        padding: as in `sum_pool`.
        dilation: as in `sum_pool`.
        ceil_mode: as in `sum_pool`.
        spatial_ndim: D, where no option is a sequence; 2 by default.

    Returns:
        (*batch, *out_spatial, C).

    Raises:
        TypeError: if x is not a floating array.
        ValueError: if shapes or options do not fit together, or a window lies wholly in the
            padding.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> x = jnp.array([[3.0], [-4.0], [0.0], [0.0]])
        >>> lp_pool(x, (2,))[:, 0]
        Array([5., 0.], dtype=float32)
        >>> jax.grad(lambda x: lp_pool(x, (2,)).sum())(x)[:, 0]
        Array([ 0.6, -0.8,  0. ,  0. ], dtype=float32)

    Source: [J], "Pooling Layer" (L2-norm pooling).
    """
    (x,) = operands(x=x)
    placed = pooling_window(
        x, window, stride, padding, dilation, ceil_mode=ceil_mode, spatial_ndim=spatial_ndim
    )
    return call(_lp_pool, x, placed, _exponent(p))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _lp_pool(x, window, p):
    return _norm(x, window, p).astype(x.dtype)


def _norm(x: Array, window: Window, p: float) -> Array:
    """The windows' p-norms in at least float32, ‖x‖ = ‖x / s‖ · s with s = max |x|.

    No power can leave the range of its dtype so. The identity holds for any s, which counts
    as a constant in derivatives.
    """
    x = spanned(widened(x), window, 0)
    largest = reduce_taps(window, lambda m: jnp.abs(tap(x, window, m)), lax.max)
    scale = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    scale = lax.stop_gradient(scale)

    def power(m: Tap) -> Array:
        ratio = tap(x, window, m) / scale
        return ratio * ratio if p == 2 else _power(jnp.abs(ratio), p)

    return _power(reduce_taps(window, power, lax.add), 1 / p) * scale


def _lp_pool_fwd(x, window, p):
    y = _norm(x, window, p)
    return y.astype(x.dtype), (x, y)  # y in at least float32


def _lp_pool_bwd(window, p, residuals, dy):
    x, y = residuals
    x = spanned(x.astype(y.dtype), window, 0)
    dy = jnp.where(y == 0, 0, dy.astype(y.dtype))  # nothing passes a window of zeros
    y = jnp.where(y == 0, 1, y)

    def term(m: Tap) -> Array:
        ratio = tap(x, window, m) / y
        # [J], L2-norm pooling, for any p: ∂y/∂x = sign(x) |x / y|^(p−1).
        return place(dy * _signed_power(ratio, p - 1), window, m)

    dx = reduce_taps(window, term, lax.add)
    return (dx.astype(residuals[0].dtype),)


_lp_pool.defvjp(_lp_pool_fwd, _lp_pool_bwd)


def _power(x: Array, p: float) -> Array:
    """x^p for x ≥ 0, with the derivative 0 at 0 even where it would be infinite."""
    return jnp.where(x == 0, 0, jnp.where(x == 0, 1, x) ** p)


def _signed_power(x: Array, p: float) -> Array:
    """sign(x) · |x|^p, with the derivative 0 at 0 even where it would be infinite."""
    if p == 1:
        return x  # the one power whose derivative at 0 is neither 0 nor infinite
    return jnp.sign(x) * _power(jnp.abs(x), p)


def _exponent(p: Any) -> float:
    try:
        number = number_option("p", p, low=1)
    except ValueError as error:
        raise ValueError(f"{error} (p = ∞ is max_pool of |x|)") from None
    return int(number) if number.is_integer() else number


# ------------------------------------------------------------------------------------------
# weighted_avg_pool
# ------------------------------------------------------------------------------------------


def weighted_avg_pool(
    x: chex.Array,
    weight: chex.Numeric,
    window: PerAxis,
    *,
    stride: PerAxis | None = None,
    padding: Padding = "VALID",
    spatial_ndim: int | None = None,
) -> jax.Array:
    """Sums each window and multiplies by a trained weight: Z = w ⊞ V ([H] 8.22–8.23).

        y[n, i, c] = weight[c] · Σ over m of x[n, i·s + m − before, c]

    [H] calls it average pooling; it is one for the weight 1 / (number of taps).

    Gradients ([H] P8.3 and P8.4):

        dx = weight ⊠ dy, every dy expanded over its window; what overlaps is added
        dweight = Σ (dy ∘ Σ over the window of x) over all that shares the weight

    Args:
        x: maps, (*batch, *spatial, C), with any number of batch axes.
        weight: one number, (), or one per channel, (C,), of x's dtype.
        window: the window's size, an int or D ints.
        stride: as in `sum_pool`: None is `stride=window`. Flax's default is 1.
        padding: as in `sum_pool`.
        spatial_ndim: D, where no option is a sequence; 2 by default.

    Returns:
        (*batch, *out_spatial, C).

    Raises:
        TypeError: if the arrays differ in dtype or are not floating.
        ValueError: if shapes or options do not fit together, or a window lies wholly in the
            padding.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> x = jnp.arange(1.0, 5.0).reshape(4, 1)
        >>> weighted_avg_pool(x, 0.5, (2,))[:, 0]
        Array([1.5, 3.5], dtype=float32)
        >>> jax.grad(lambda w: weighted_avg_pool(x, w, (2,)).sum())(jnp.array([0.5]))
        Array([10.], dtype=float32)

    Source: [H] 8.22–8.23, P8.3, P8.4.
    """
    x, w = operands(x=x, weight=weight)
    placed = pooling_window(x, window, stride, padding, spatial_ndim=spatial_ndim)
    if w.shape not in ((), x.shape[-1:]):
        raise ValueError(
            f"weight: got the shape {w.shape}; it must be one number, (), or one per channel, "
            f"{x.shape[-1:]}"
        )
    return call(_weighted_avg_pool, x, w, placed)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _weighted_avg_pool(x, weight, window):
    sums, part = _sums_in_range(x, window)
    return (_weighted(weight, sums) / part).astype(x.dtype)


def _sums_in_range(x: Array, window: Window) -> tuple[Array, float]:
    """The windows' sums, in at least float32, times a power of two that is returned too."""
    part = shrinking(window.taps, x.dtype)
    return lowering.sum_over_windows(widened(x) * part, window), part


def _weighted(weight: Array, x: Array) -> Array:
    """Multiplies x by a weight that is tied over all axes but the channels."""
    weight = weight.astype(x.dtype)
    return jnp.expand_dims(weight, tuple(range(x.ndim - weight.ndim))) * x


def _weighted_avg_pool_fwd(x, weight, window):
    sums, part = _sums_in_range(x, window)
    y = (_weighted(weight, sums) / part).astype(x.dtype)
    return y, (sums, weight)


def _weighted_avg_pool_bwd(window, residuals, dy):
    sums, weight = residuals
    wide = dy.astype(sums.dtype)
    shared = tuple(range(dy.ndim - weight.ndim))
    dx = lowering.spread_over_windows(_weighted(weight, wide), window)  # [H] P8.3: dA = lw ⊠ dLZ
    part = shrinking(window.taps, dy.dtype)
    dweight = jnp.sum(wide * sums, shared) / part  # [H] P8.4: dlw = ⊞ (dLZ ∘ ⊞ A)
    return dx.astype(dy.dtype), dweight.astype(weight.dtype)


_weighted_avg_pool.defvjp(_weighted_avg_pool_fwd, _weighted_avg_pool_bwd)
