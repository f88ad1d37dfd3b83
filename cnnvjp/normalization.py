"""Normalization of inputs, and within each example; over the batch in `batch_normalization`.

All but `standardize` subtract a mean, divide by a deviation, and scale and shift anew:

    xhat = (x − mean) · rstd,   rstd = 1 / √(var + eps),   y = gamma · xhat + beta
"""

import functools
import math
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cnnvjp import _lowering as lowering
from cnnvjp._checks.arrays import check_suffix, operands
from cnnvjp._checks.compiled import call
from cnnvjp._checks.options import number_option, positive_int
from cnnvjp._types import widened
from cnnvjp._windows.axes import broadcast_to, merge_axes, split_axis, sum_shared
from cnnvjp._windows.spatial import spatial_rank, spatial_size

# Powers of two keep every step within its dtype's range, and are exact. The difference of a huge x
# and the mean may be beyond it, and so may the square of a far smaller x; the rstd of the largest
# is subnormal, which XLA:CPU takes for zero. So x and mean are divided by 8, and rstd multiplied.


def normalized(x: Array, mean: Array, rstd8: Array) -> Array:
    """`xhat`, in the dtype of the statistics, which have axes of size 1 where they are shared."""
    return (0.125 * widened(x) - 0.125 * mean) * rstd8


def mean_squares(
    x: Array, mean: Array, mean_of_wide: Callable[[Array], Array]
) -> tuple[Array, Array]:
    """The mean of (x − mean)², and of ((x − mean) / reach)², for where the first is infinite."""
    shrink = 1 / reach(mean.dtype)

    def plain(x: Array, mean: Array) -> Array:
        return mean_of_wide((widened(x) - mean) ** 2)

    def small(x: Array, mean: Array) -> Array:
        return mean_of_wide((widened(x) * shrink - mean * shrink) ** 2)

    def from_plain(square: Array) -> Array:
        root = jnp.sqrt(jnp.maximum(square, jnp.finfo(square.dtype).tiny))
        return (root * shrink) ** 2

    if x.dtype == jnp.float16:  # whose squares float32 holds
        square = plain(x, mean)
        return square, from_plain(square)
    return lowering.beside_overflow(plain, small, from_plain, x, mean)


def reach(dtype: np.dtype) -> float:
    """By what deviations are divided before they are squared, where they are huge."""
    return 2.0 ** (jnp.finfo(dtype).maxexp * 5 // 8)


def inverse_deviation(square: Array, small: Array, eps: float) -> Array:
    """`8 / √(var + eps)`, of `mean_squares`."""
    finite = jnp.isfinite(square)
    usual = jnp.sqrt(jnp.where(finite, square, 1) + eps)
    return 8 / jnp.where(finite, usual, jnp.sqrt(jnp.where(finite, 1, small)) * reach(small.dtype))


def scaled(xhat: Array, gamma: Array, beta: Array) -> Array:
    """`gamma · xhat + beta`, rounded once to gamma's dtype."""
    y = per_channel(gamma, xhat) * xhat + per_channel(beta, xhat)
    return y.astype(gamma.dtype)


def per_channel(b: Array, x: Array) -> Array:
    """`b` in the dtype of its sums, ready to multiply each position of x."""
    return broadcast_to(widened(b), x)


def check_statistics(x: Array, **arrays: Array) -> None:
    """Checks arrays with one number for each of x's channels."""
    if x.ndim < 1:
        raise ValueError(f"x: got the shape {x.shape}; it must be (*batch, *spatial, C)")
    for name, b in arrays.items():
        if b.shape != x.shape[-1:]:
            raise ValueError(
                f"{name}: got the shape {b.shape}; for x of shape {x.shape} it must be "
                f"{x.shape[-1:]}, one number per channel"
            )


# ------------------------------------------------------------------------------------------
# standardize
# ------------------------------------------------------------------------------------------


def standardize(x: chex.Array, mean: chex.Numeric, std: chex.Numeric) -> jax.Array:
    """Normalizes a network's input by given statistics: y = (x − mean) / std.

    Gradients, with the sums over the axes that share a statistic:

        dx = dy / std
        dmean = −Σ dy / std
        dstd = −Σ dy · (x − mean) / std²

    Args:
        x: inputs, (..., C).
        mean: one number, (); one per channel, (C,); or of the shape of any of x's last axes,
            such as (*spatial, C).
        std: as mean, but not necessarily of its shape; not 0.

    Returns:
        y, of x's shape and dtype.

    Raises:
        TypeError: if the arrays differ in dtype or are not floating.
        ValueError: if mean's or std's shape is not that of x's last axes.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.array([[1.0, 10.0], [3.0, 30.0]])
        >>> standardize(x, mean=x.mean(0), std=x.std(0))
        Array([[-1., -1.],
               [ 1.,  1.]], dtype=float32)

    Source: [B], "We Use Advanced Techniques": "input normalization, to improve training with
    unbalanced datasets".
    """
    x, mean, std = operands(x=x, mean=mean, std=std)
    check_suffix("mean", mean, x, smallest=0)
    check_suffix("std", std, x, smallest=0)
    return call(_standardize, x, mean, std)


@jax.custom_vjp
def _standardize(x, mean, std):
    return _deviation(x, mean, std).astype(x.dtype)


def _deviation(x: Array, mean: Array, std: Array) -> Array:
    return normalized(x, per_channel(mean, x), 8 / per_channel(std, x))


def _standardize_fwd(x, mean, std):
    return _deviation(x, mean, std).astype(x.dtype), (x, mean, std)


def _standardize_bwd(residuals, dy):
    x, mean, std = residuals
    dx = widened(dy) / per_channel(std, dy)  # ∂y/∂x = 1 / std
    dmean = -sum_shared(dx, mean)  # ∂y/∂mean = −1 / std
    dstd = -sum_shared(dx * _deviation(x, mean, std), std)  # ∂y/∂std = −y / std
    return dx.astype(x.dtype), dmean, dstd


_standardize.defvjp(_standardize_fwd, _standardize_bwd)


# ------------------------------------------------------------------------------------------
# group_norm, instance_norm, layer_norm
# ------------------------------------------------------------------------------------------


def group_norm(
    x: chex.Array,
    gamma: chex.Array,
    beta: chex.Array,
    groups: int,
    *,
    eps: float = 1e-5,
    spatial_ndim: int | None = None,
) -> jax.Array:
    """Normalizes each example's groups of channels, over their channels and all positions.

        y = gamma · (x − mean) / √(var + eps) + beta,   mean and var per example and group

    Gradients, with xhat the normalized x, v = gamma · dy and means over the same entries:

        dx = rstd · (v − mean(v) − xhat · mean(v · xhat))
        dgamma = Σ dy · xhat over all but the channels
        dbeta = Σ dy over all but the channels

    Args:
        x: (*batch, *spatial, C).
        gamma: scales, (C,), of x's dtype.
        beta: shifts, (C,), of x's dtype.
        groups: how many groups of neighbouring channels, a divisor of C. One group
            normalizes each example as a whole, C groups each map by itself.
        eps: added to the variance; a Python number of at least 0.
        spatial_ndim: D, 2 by default.

    Returns:
        y, of x's shape and dtype.

    Raises:
        TypeError: if the arrays differ in dtype or are not floating.
        ValueError: if the shapes do not fit together, or groups does not divide C.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.array([1.0, 3.0, 10.0, 30.0])
        >>> group_norm(x.reshape(1, 1, 4), jnp.ones(4), jnp.zeros(4), 2, eps=0.0)[0, 0]
        Array([-1.,  1., -1.,  1.], dtype=float32)

    Source: Wu and He, "Group Normalization" (2018).
    """
    x, gamma, beta = operands(x=x, gamma=gamma, beta=beta)
    ndim = spatial_rank(spatial_ndim)
    spatial_size(x.shape, ndim)
    check_statistics(x, gamma=gamma, beta=beta)
    groups = positive_int("groups", groups)
    if x.shape[-1] % groups:
        raise ValueError(
            f"groups: got {groups}, which does not divide the {x.shape[-1]} channels of x"
        )
    return call(_group_norm, x, gamma, beta, groups, ndim, number_option("eps", eps, low=0))


def instance_norm(
    x: chex.Array,
    gamma: chex.Array,
    beta: chex.Array,
    *,
    eps: float = 1e-5,
    spatial_ndim: int | None = None,
) -> jax.Array:
    """Normalizes each map of each example by itself, over its positions.

        y = gamma · (x − mean) / √(var + eps) + beta,   mean and var per example and channel

    It is `group_norm` with a group for each channel.

    Gradients: as in `group_norm`, with means over the positions.

    Args:
        x: (*batch, *spatial, C).
        gamma: scales, (C,), of x's dtype.
        beta: shifts, (C,), of x's dtype.
        eps: added to the variance; a Python number of at least 0.
        spatial_ndim: D, 2 by default.

    Returns:
        y, of x's shape and dtype.

    Raises:
        TypeError: if the arrays differ in dtype or are not floating.
        ValueError: if the shapes do not fit together.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.array([[1.0, 10.0], [3.0, 30.0]])
        >>> instance_norm(x, jnp.ones(2), jnp.zeros(2), eps=0.0, spatial_ndim=1)
        Array([[-1., -1.],
               [ 1.,  1.]], dtype=float32)

    Source: Ulyanov, Vedaldi and Lempitsky, "Instance Normalization: The Missing Ingredient for
    Fast Stylization" (2016).
    """
    x, gamma, beta = operands(x=x, gamma=gamma, beta=beta)
    ndim = spatial_rank(spatial_ndim)
    spatial_size(x.shape, ndim)
    check_statistics(x, gamma=gamma, beta=beta)
    groups = max(x.shape[-1], 1)
    return call(_group_norm, x, gamma, beta, groups, ndim, number_option("eps", eps, low=0))


def layer_norm(
    x: chex.Array, gamma: chex.Array, beta: chex.Array, *, eps: float = 1e-5
) -> jax.Array:
    """Normalizes over the channels at each position.

        y = gamma · (x − mean) / √(var + eps) + beta,   mean and var over the last axis

    Gradients: as in `group_norm`, with means over the channels.

    Args:
        x: (..., C).
        gamma: scales, (C,), of x's dtype.
        beta: shifts, (C,), of x's dtype.
        eps: added to the variance; a Python number of at least 0.

    Returns:
        y, of x's shape and dtype.

    Raises:
        TypeError: if the arrays differ in dtype or are not floating.
        ValueError: if the shapes do not fit together.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.array([[1.0, 3.0], [10.0, 30.0]])
        >>> layer_norm(x, jnp.ones(2), jnp.zeros(2), eps=0.0)
        Array([[-1.,  1.],
               [-1.,  1.]], dtype=float32)

    Source: Ba, Kiros and Hinton, "Layer Normalization" (2016).
    """
    x, gamma, beta = operands(x=x, gamma=gamma, beta=beta)
    check_statistics(x, gamma=gamma, beta=beta)
    # One group of all channels, with every other axis a batch axis.
    return call(_group_norm, x, gamma, beta, 1, 0, number_option("eps", eps, low=0))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _group_norm(x, gamma, beta, groups, ndim, eps):
    return scaled(normalized(x, *_moments(x, groups, ndim, eps)), gamma, beta)


def _moments(x: Array, groups: int, ndim: int, eps: float) -> tuple[Array, Array]:
    """Mean and 8 · rstd of each group, as `_over_group` has them."""

    def sum_of(wide: Array) -> Array:
        return _over_group(_over_positions(wide, ndim), groups)

    count = _count(x, groups, ndim)
    mean = lowering.mean(x, sum_of, count)
    squares = mean_squares(x, mean, lambda wide: sum_of(wide) / count)
    return mean, inverse_deviation(*squares, eps)


def _over_positions(x: Array, ndim: int) -> Array:
    """Sums over the positions of each example, (*batch, 1, …, C)."""
    return jnp.sum(x, tuple(range(x.ndim - 1 - ndim, x.ndim - 1)), keepdims=True)


def _over_group(sums: Array, groups: int) -> Array:
    """Sums over the channels of each group: at each of them, or once, (…, 1), of one group."""
    last = sums.ndim - 1
    if groups == sums.shape[-1]:
        return sums
    if groups == 1:
        return jnp.sum(sums, last, keepdims=True)
    of_group = split_axis(sums, last, (groups, sums.shape[-1] // groups))
    total = jnp.broadcast_to(jnp.sum(of_group, -1, keepdims=True), of_group.shape)
    return merge_axes(total, last, 2)


def _weighted_over_group(sums: Array, scale: Array, groups: int) -> Array:
    """`_over_group` of sums times a number per channel."""
    if groups == 1:
        return lowering.weighted_sum(sums, scale)
    return _over_group(broadcast_to(scale, sums) * sums, groups)


def _count(x: Array, groups: int, ndim: int) -> float:
    """P, the entries of a group."""
    return float(max(math.prod(x.shape[x.ndim - 1 - ndim :]) // groups, 1))


def _group_norm_fwd(x, gamma, beta, groups, ndim, eps):
    mean, rstd8 = _moments(x, groups, ndim, eps)
    y = scaled(normalized(x, mean, rstd8), gamma, beta)
    return y, (x, gamma, mean, rstd8)  # xhat anew from x, which is smaller in 16 bits


def _group_norm_bwd(groups, ndim, eps, residuals, dy):
    # y = gamma · xhat + beta, so the cotangent of xhat is v = gamma · dy. In a group of P entries
    #     xhat = (x − mean) · rstd,   mean = Σ x / P,
    #     rstd = (var + eps)^(−½),    var = Σ (x − mean)² / P,
    # and x acts on xhat along three ways. What each passes on to x:
    #     1. directly:      rstd · v
    #     2. through mean:  −Σ (rstd · v) / P, as ∂mean/∂x = 1/P
    #     3. through var:   −rstd · xhat · Σ (v · xhat) / P, as ∂var/∂x = 2 (x − mean) / P
    #                       and ∂rstd/∂var = −½ rstd³
    # They cancel in part: they are added up before they are rounded.
    x, gamma, mean, rstd8 = residuals  # mean and 8 · rstd in at least float32
    P = _count(x, groups, ndim)
    wide_dy, scale = widened(dy), widened(gamma)
    xhat = normalized(x, mean, rstd8)
    of_xhat = _over_positions(wide_dy * xhat, ndim)
    of_one = _over_positions(wide_dy, ndim)
    dgamma = sum_shared(of_xhat, gamma)  # ∂y/∂gamma = xhat
    dbeta = sum_shared(of_one, gamma)  # ∂y/∂beta = 1
    v = broadcast_to(scale, x) * wide_dy  # 1
    through_mean = _weighted_over_group(of_one, scale, groups) / P  # 2
    through_var = xhat * (_weighted_over_group(of_xhat, scale, groups) / P)  # 3
    dx = rstd8 / 8 * (v - through_mean - through_var)
    return dx.astype(x.dtype), dgamma, dbeta


_group_norm.defvjp(_group_norm_fwd, _group_norm_bwd)
