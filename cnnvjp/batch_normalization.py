"""Batch normalization: with the statistics of the batch in training, with given ones after it.

The means are taken over everything but the channels, and over devices where asked.
"""

import functools
import math
from collections.abc import Hashable
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax import Array, lax

from cnnvjp import _lowering as lowering
from cnnvjp._checks.arrays import operands
from cnnvjp._checks.compiled import call
from cnnvjp._checks.options import number_option
from cnnvjp._types import accumulator, primal_type, unify_varying, widened
from cnnvjp._windows.axes import broadcast_to
from cnnvjp.normalization import (
    check_statistics,
    inverse_deviation,
    mean_squares,
    normalized,
    per_channel,
    reach,
    scaled,
)

Axes = tuple[Hashable, ...]

# ------------------------------------------------------------------------------------------
# batch_norm
# ------------------------------------------------------------------------------------------


def batch_norm(
    x: chex.Array,
    gamma: chex.Array,
    beta: chex.Array,
    *,
    eps: float = 1e-5,
    axis_name: Hashable | Axes | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalizes each channel over the batch and all positions, in training.

        mean = Σ x / P,   var = Σ (x − mean)² / P,   y = gamma · (x − mean) / √(var + eps) + beta

    where P is the number of values of a channel, on all devices along `axis_name`.

    Gradients, with xhat the normalized x, rstd = 1 / √(var + eps), v = gamma · dy:

        dx = rstd · (v − Σ v / P − xhat · Σ (v · xhat) / P) + dmean / P + dvar · 2 (x − mean) / P
        dgamma = Σ dy · xhat
        dbeta = Σ dy

    In dx the sums are over all devices. dgamma and dbeta are sums over one device: a
    `shard_map` that checks varying axes adds them up where gamma and beta are replicated; in
    one that does not (`check_vma=False`), and where `grad` is taken inside `vmap` or `pmap`,
    sum them with `psum` as every other parameter's gradient.

    Args:
        x: (*batch, *spatial, C), with at least one position.
        gamma: scales, (C,), of x's dtype.
        beta: shifts, (C,), of x's dtype.
        eps: added to the variance; a Python number of at least 0.
        axis_name: the name, or names, of axes mapped by `jax.vmap`, `jax.pmap` or
            `jax.shard_map` over which the statistics are shared. On arrays sharded under
            `jit` alone they are global anyway.

    Returns:
        y, of x's shape and dtype, and the mean and the biased variance, (C,), in at least
        float32. Gradients flow through all three; running statistics are for the caller to
        keep, with `jax.lax.stop_gradient`.

    Raises:
        TypeError: if the arrays differ in dtype or are not floating.
        ValueError: if the shapes do not fit together, x has no position, or no axis has the
            name axis_name.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.array([[1.0, 10.0], [3.0, 30.0]])
        >>> y, mean, var = batch_norm(x, jnp.ones(2), jnp.zeros(2), eps=0.0)
        >>> mean, var
        (Array([ 2., 20.], dtype=float32), Array([  1., 100.], dtype=float32))

    Source: Ioffe and Szegedy, "Batch Normalization" (2015); [B], "We Use Advanced Techniques".
    """
    x, gamma, beta = operands(x=x, gamma=gamma, beta=beta)
    check_statistics(x, gamma=gamma, beta=beta)
    eps = number_option("eps", eps, low=0)
    axes = _mapped_axes(axis_name)
    positions = float(math.prod(x.shape[:-1]) * lax.psum(1, axes))  # int32 may not hold them
    if positions == 0:
        raise ValueError(f"x: got the shape {x.shape}; without a position it has no mean")
    mean = _all_devices(call(_share_of_mean, x, positions), axes)
    var, small = _all_devices(call(_share_of_variance, x, mean, positions), axes)
    y = call(_batch_norm, x, gamma, beta, mean, var, small, eps, axes, positions)
    return y, mean, var


# What x contributes to the statistics here; the sum over devices is JAX's to transpose, since
# only JAX knows whether a cotangent stands for one device's copy or for all of them.


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _share_of_mean(x, positions):
    return lowering.mean(x, _sum_positions, positions)


def _share_of_mean_fwd(x, positions):
    return lowering.mean(x, _sum_positions, positions), x  # x for its shape and dtype


def _share_of_mean_bwd(positions, x, dmean):
    out = primal_type(x)
    share = (dmean / positions).astype(out.dtype)  # ∂mean/∂x = 1/P
    dx = lax.broadcast_in_dim(share, x.shape, (x.ndim - 1,), out_sharding=out.sharding)
    return (dx,)


_share_of_mean.defvjp(_share_of_mean_fwd, _share_of_mean_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _share_of_variance(x, mean, positions):
    return _mean_squares(x, mean, positions)


def _mean_squares(x: Array, mean: Array, positions: float) -> tuple[Array, Array]:
    """The variance, and what it is in units of `reach`², in which no sum overflows."""
    mean = broadcast_to(mean, x)
    var, small = mean_squares(x, mean, lambda wide: _sum_positions(wide) / positions)
    finite = jnp.isfinite(var)  # a sum may be infinite whose mean is not
    root = jnp.sqrt(jnp.where(finite, 1, small)) * reach(var.dtype)
    return jnp.where(finite, var, jnp.where(finite, 1, root) ** 2), small


def _share_of_variance_fwd(x, mean, positions):
    return _mean_squares(x, mean, positions), (x, mean)


def _share_of_variance_bwd(positions, residuals, d_squares):
    x, mean = residuals  # mean in at least float32
    dvar, dsmall = d_squares
    dvar = dvar + dsmall / reach(mean.dtype) / reach(mean.dtype)
    eighth = 0.125 * widened(x) - 0.125 * broadcast_to(mean, x)
    dx = broadcast_to(dvar * (16 / positions), x) * eighth  # ∂var/∂x = 2 (x − mean) / P
    return dx.astype(x.dtype), None  # deviations from the mean sum to 0, over all devices


_share_of_variance.defvjp(_share_of_variance_fwd, _share_of_variance_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(6, 7, 8))
def _batch_norm(x, gamma, beta, mean, var, small, eps, axes, positions):
    return _normalized_by(x, gamma, beta, mean, inverse_deviation(var, small, eps))


def _normalized_by(x: Array, gamma: Array, beta: Array, mean: Array, rstd8: Array) -> Array:
    xhat = normalized(x, per_channel(mean, x), per_channel(rstd8, x))
    return scaled(xhat, gamma, beta)


def _batch_norm_fwd(x, gamma, beta, mean, var, small, eps, axes, positions):
    rstd8 = inverse_deviation(var, small, eps)
    y = _normalized_by(x, gamma, beta, mean, rstd8)
    return y, (x, gamma, mean, rstd8)  # xhat anew from x, which is smaller in 16 bits


def _batch_norm_bwd(eps, axes, positions, residuals, dy):
    # y = gamma · xhat + beta, so the cotangent of xhat is v = gamma · dy. Over the P positions of
    # a channel, on all devices,
    #     xhat = (x − mean) · rstd,   mean = Σ x / P,
    #     rstd = (var + eps)^(−½),    var = Σ (x − mean)² / P,
    # and x acts on xhat along three ways. What each passes on to x:
    #     1. directly:      rstd · v
    #     2. through mean:  −Σ (rstd · v) / P, as ∂mean/∂x = 1/P
    #     3. through var:   −rstd · xhat · Σ (v · xhat) / P, as ∂var/∂x = 2 (x − mean) / P
    #                       and ∂rstd/∂var = −½ rstd³
    # They cancel in part: they are added up before they are rounded.
    x, gamma, mean, rstd8 = residuals  # mean and 8 · rstd in at least float32
    xhat = normalized(x, broadcast_to(mean, x), broadcast_to(rstd8, x))
    wide_dy, scale = widened(dy), widened(gamma)
    # Scaled differently, this xhat does not share a temporary with the one in dx, and XLA:CPU fuses
    # it into the sum. Both passes over 64 maps of 16×56×56: 3.8 ms instead of 4.4.
    sixteenth = 0.0625 * widened(x) - 0.0625 * broadcast_to(mean, x)
    same_xhat = sixteenth * broadcast_to(2 * rstd8, x)
    dgamma = _sum_positions(wide_dy * same_xhat)  # ∂y/∂gamma = xhat
    dbeta = _sum_positions(wide_dy)  # ∂y/∂beta = 1
    v = broadcast_to(scale, x) * wide_dy  # 1
    through_mean = broadcast_to(_all_devices(scale * dbeta, axes) / positions, x)  # 2
    through_var = xhat * broadcast_to(_all_devices(scale * dgamma, axes) / positions, x)  # 3
    dx = broadcast_to(rstd8 / 8, x) * (v - through_mean - through_var)
    # What mean and var pass on to x is in dx already.
    return (
        dx.astype(x.dtype), dgamma.astype(gamma.dtype), dbeta.astype(gamma.dtype),
        None, None, None,
    )  # fmt: skip


_batch_norm.defvjp(_batch_norm_fwd, _batch_norm_bwd)


def _sum_positions(x: Array) -> Array:
    return jnp.sum(x, _all_but_channels(x))


def _all_but_channels(x: Array) -> tuple[int, ...]:
    return tuple(range(x.ndim - 1))


def _all_devices(x: Any, axes: Axes) -> Any:
    return lax.psum(x, axes) if axes else x


def _mapped_axes(axis_name: Hashable | Axes | None) -> Axes:
    """The names as a tuple, each of which some `vmap`, `pmap` or `shard_map` around us binds."""
    if axis_name is None:
        return ()
    axes = tuple(axis_name) if isinstance(axis_name, tuple | list) else (axis_name,)
    for name in axes:
        try:
            lax.psum(1, name)
        except (NameError, TypeError, ValueError) as error:
            raise ValueError(
                f"axis_name: got {axis_name!r}; it must name axes that jax.vmap, jax.pmap or "
                f"jax.shard_map maps around this call, and {name!r} is not one"
            ) from error
    if len(set(axes)) < len(axes):
        raise ValueError(f"axis_name: got {axis_name!r}; it must name each axis once")
    return axes


# ------------------------------------------------------------------------------------------
# batch_norm_inference
# ------------------------------------------------------------------------------------------


def batch_norm_inference(
    x: chex.Array,
    gamma: chex.Array,
    beta: chex.Array,
    mean: chex.Array,
    var: chex.Array,
    *,
    eps: float = 1e-5,
) -> jax.Array:
    """Normalizes each channel by given statistics: y = gamma · (x − mean) / √(var + eps) + beta.

    Gradients, with xhat = (x − mean) · rstd, rstd = 1 / √(var + eps):

        dx = gamma · rstd · dy
        dgamma = Σ dy · xhat
        dbeta = Σ dy
        dmean = −gamma · rstd · Σ dy
        dvar = −½ · gamma · rstd² · Σ dy · xhat

    Args:
        x: (*batch, *spatial, C).
        gamma: scales, (C,), of x's dtype.
        beta: shifts, (C,), of x's dtype.
        mean: running means, (C,), of x's dtype or as `batch_norm` returns them, in at least
            float32.
        var: running variances, (C,), of mean's dtype.
        eps: added to the variance; a Python number of at least 0.

    Returns:
        y, of x's shape and dtype.

    Raises:
        TypeError: if the arrays differ in dtype, other than in the way named, or are not
            floating.
        ValueError: if the shapes do not fit together.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.array([[5.0], [8.0]])
        >>> gamma, beta, mean, var = (jnp.array([v]) for v in (2.0, 1.0, 5.0, 9.0))
        >>> batch_norm_inference(x, gamma, beta, mean, var, eps=0.0)
        Array([[1.],
               [3.]], dtype=float32)

    Source: Ioffe and Szegedy, "Batch Normalization" (2015); [B], "We Use Advanced Techniques".
    """
    x, gamma, beta = operands(x=x, gamma=gamma, beta=beta)
    mean, var = operands(mean=mean, var=var)
    if mean.dtype not in (x.dtype, accumulator(x.dtype)):
        raise TypeError(
            f"mean: got {mean.dtype}; for x of {x.dtype} it must be {x.dtype} or "
            f"{accumulator(x.dtype)}"
        )
    check_statistics(x, gamma=gamma, beta=beta, mean=mean, var=var)
    arrays = unify_varying(x, gamma, beta, mean, var)
    return call(_batch_norm_inference, *arrays, number_option("eps", eps, low=0))


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _batch_norm_inference(x, gamma, beta, mean, var, eps):
    return _normalized_by(x, gamma, beta, mean, 8 * lax.rsqrt(widened(var) + eps))


def _batch_norm_inference_fwd(x, gamma, beta, mean, var, eps):
    rstd = lax.rsqrt(widened(var) + eps)
    return _normalized_by(x, gamma, beta, mean, 8 * rstd), (x, gamma, mean, rstd)


def _batch_norm_inference_bwd(eps, residuals, dy):
    x, gamma, mean, rstd = residuals  # rstd in at least float32
    xhat = normalized(x, per_channel(mean, x), broadcast_to(8 * rstd, x))
    wide_dy, slope = widened(dy), widened(gamma) * rstd
    dx = broadcast_to(slope, x) * wide_dy  # ∂y/∂x = gamma · rstd
    dgamma = _sum_positions(wide_dy * xhat)  # ∂y/∂gamma = xhat
    dbeta = _sum_positions(wide_dy)  # ∂y/∂beta = 1
    dmean = -slope * dbeta  # ∂y/∂mean = −gamma · rstd
    dvar = -0.5 * slope * rstd * dgamma  # ∂rstd/∂var = −½ rstd³, and (x − mean) · rstd = xhat
    return (
        dx.astype(x.dtype), dgamma.astype(gamma.dtype), dbeta.astype(gamma.dtype),
        dmean.astype(mean.dtype), dvar.astype(mean.dtype),
    )  # fmt: skip


_batch_norm_inference.defvjp(_batch_norm_inference_fwd, _batch_norm_inference_bwd)
