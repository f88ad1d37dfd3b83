"""Pooling to a given size: whole maps to one number, or to bins that cover the map.

Bin i of m bins along an axis of n positions covers

    start(i) = ⌊i·n/m⌋  up to and without  stop(i) = ⌈(i+1)·n/m⌉,

so that neighbouring bins share a position where m does not divide n. Both bounds grow with
i: the bins that hold one position follow each other too, and the way back is again a sum over
an interval, "convolution-type" as [B] says of pooling in general.
"""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from cnnvjp import _lowering as lowering
from cnnvjp._checks.arrays import operands
from cnnvjp._checks.compiled import call
from cnnvjp._checks.pooling import check_indexable
from cnnvjp._types import PerAxis, accumulator, shrinking
from cnnvjp._windows.spatial import occupied_size, per_axis, spatial_rank

# ------------------------------------------------------------------------------------------
# global_max_pool
# ------------------------------------------------------------------------------------------


def global_max_pool(x: chex.Array, *, spatial_ndim: int | None = None) -> jax.Array:
    """Takes the largest entry of each map: y[n, c] = max over j of x[n, j, c].

    A NaN in the map wins.

    Gradient ([J], "Pooling Layer"): dx[n, j, c] = dy[n, c] at the first largest entry in
    row-major order, or the first NaN, and 0 elsewhere.

    Args:
        x: maps, (*batch, *spatial, C), with any number of batch axes. Float or integer.
        spatial_ndim: D, 2 by default.

    Returns:
        (*batch, C).

    Raises:
        TypeError: if x is not an array of a supported dtype.
        ValueError: if x has too few axes, an empty one, or more positions than int32 counts.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> x = jnp.array([[1.0, 3.0], [3.0, 2.0]])[..., None]
        >>> global_max_pool(x)
        Array([3.], dtype=float32)
        >>> jax.grad(lambda x: global_max_pool(x).sum())(x)[..., 0]
        Array([[0., 1.],
               [0., 0.]], dtype=float32)

    Source: [H] 8.24 with the window as large as the map; [J], "Pooling Layer".
    """
    (x,) = operands(integers=True, x=x)
    size = occupied_size(x.shape, spatial_rank(spatial_ndim))
    check_indexable("x", size, "adaptive_max_pool(x, 1) looks for winners axis by axis")
    return call(_global_max_pool, x, size)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _global_max_pool(x, size):
    y, _ = _first_largest(_one_spatial_axis(x, size), x.ndim - 1 - len(size))
    return y


def _global_max_pool_fwd(x, size):
    y, winner = _first_largest(_one_spatial_axis(x, size), x.ndim - 1 - len(size))
    return y, winner  # int32, of y's shape: its row-major index in the map


def _global_max_pool_bwd(size, winner, dy):
    axis = dy.ndim - 1
    mask = _is_at(winner, math.prod(size), axis)
    dx = jnp.where(mask, jnp.expand_dims(dy, axis), 0)  # [J], "Pooling Layer"
    return (dx.reshape(*dy.shape[:-1], *size, dy.shape[-1]),)


_global_max_pool.defvjp(_global_max_pool_fwd, _global_max_pool_bwd)


def _one_spatial_axis(x: Array, size: tuple[int, ...]) -> Array:
    """(*batch, *spatial, C) -> (*batch, positions, C)."""
    return x.reshape(*x.shape[: -1 - len(size)], math.prod(size), x.shape[-1])


def _first_largest(x: Array, axis: int) -> tuple[Array, Array]:
    """The largest entry along an axis, or a NaN, and the place where it was first met."""
    winner = lax.argmax(x, axis, jnp.int32)
    entry = jnp.where(_is_at(winner, x.shape[axis], axis), x, 0)
    return jnp.sum(entry, axis, dtype=x.dtype), winner


def _is_at(winner: Array, length: int, axis: int) -> Array:
    """A mask with a new axis of the given length, True at the winner's place on it."""
    shape = [1] * (winner.ndim + 1)
    shape[axis] = length
    return jnp.arange(length, dtype=winner.dtype).reshape(shape) == jnp.expand_dims(winner, axis)


# ------------------------------------------------------------------------------------------
# global_avg_pool
# ------------------------------------------------------------------------------------------


def global_avg_pool(x: chex.Array, *, spatial_ndim: int | None = None) -> jax.Array:
    """Averages each map: y[n, c] = (Σ over j of x[n, j, c]) / (number of positions).

    Gradient ([J], "Pooling Layer"): dx[n, j, c] = dy[n, c] / (number of positions).

    Args:
        x: maps, (*batch, *spatial, C), with any number of batch axes.
        spatial_ndim: D, 2 by default.

    Returns:
        (*batch, C).

    Raises:
        TypeError: if x is not a floating array.
        ValueError: if x has too few axes or an empty one.

    Example:
        >>> import jax.numpy as jnp
        >>> global_avg_pool(jnp.array([[1.0, 3.0], [3.0, 2.0]])[..., None])
        Array([2.25], dtype=float32)

    Source: [B], "Backward Pass: Mean-Pooling"; [J], "Pooling Layer".
    """
    (x,) = operands(x=x)
    return call(_global_avg_pool, x, occupied_size(x.shape, spatial_rank(spatial_ndim)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _global_avg_pool(x, size):
    return _mean_of_map(x, size)


def _mean_of_map(x: Array, size: tuple[int, ...]) -> Array:
    spatial = tuple(range(x.ndim - 1 - len(size), x.ndim - 1))
    mean = lowering.mean(x, lambda wide: jnp.sum(wide, spatial), _positions(size))
    return mean.astype(x.dtype)


def _global_avg_pool_fwd(x, size):
    return _mean_of_map(x, size), ()


def _global_avg_pool_bwd(size, _, dy):
    portion = (dy.astype(accumulator(dy.dtype)) / _positions(size)).astype(dy.dtype)
    dx = _over_map(portion, size)  # [J], "Pooling Layer": "assigned to the whole pooling block"
    return (dx,)


_global_avg_pool.defvjp(_global_avg_pool_fwd, _global_avg_pool_bwd)


def _positions(size: tuple[int, ...]) -> float:
    """The number of positions, as a float: an int may be more than int32 holds."""
    return float(math.prod(size))


def _over_map(y: Array, size: tuple[int, ...]) -> Array:
    """(*batch, C) -> (*batch, *spatial, C)."""
    *batch, channels = y.shape
    y = jnp.expand_dims(y, tuple(range(len(batch), len(batch) + len(size))))
    return jnp.broadcast_to(y, (*batch, *size, channels))


# ------------------------------------------------------------------------------------------
# adaptive_avg_pool
# ------------------------------------------------------------------------------------------


def adaptive_avg_pool(
    x: chex.Array, output_size: PerAxis, *, spatial_ndim: int | None = None
) -> jax.Array:
    """Averages bins that cover the map, as many as asked for.

        y[n, i, c] = mean of x[n, j, c] over start(i) ≤ j < stop(i),
        start(i) = ⌊i·n/m⌋,   stop(i) = ⌈(i+1)·n/m⌉   along an axis of n positions and m bins

    Where m divides n it is `avg_pool` with the window n/m; for m > n, bins repeat positions.

    Gradient ([B], "Backward Pass: Mean-Pooling"):

        dx[n, j, c] = Σ dy[n, i, c] / (size of bin i) over the bins i that hold j

    Args:
        x: maps, (*batch, *spatial, C), with any number of batch axes.
        output_size: m, the number of bins, an int or D ints.
        spatial_ndim: D, where `output_size` is an int; 2 by default.

    Returns:
        (*batch, *output_size, C).

    Raises:
        TypeError: if x is not a floating array.
        ValueError: if x has too few axes or an empty one, or output_size does not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> adaptive_avg_pool(jnp.arange(5.0).reshape(5, 1), (3,))[:, 0]
        Array([0.5, 2. , 3.5], dtype=float32)

    Source: [B], "Backward Pass: Mean-Pooling"; the bins are PyTorch's.
    """
    (x,) = operands(x=x)
    return call(_adaptive_avg_pool, x, *_sizes(x, output_size, spatial_ndim))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _adaptive_avg_pool(x, size, bins):
    return _bin_means(x, size, bins)


def _bin_means(x: Array, size: tuple[int, ...], bins: tuple[int, ...]) -> Array:
    y = x.astype(accumulator(x.dtype))
    for axis, n, m in _spatial_axes(x, size, bins):
        start, stop = _bins(n, m)
        part = shrinking((stop - start).max(), x.dtype)
        y = _interval_sums(y * part, axis, start, stop) / _on_axis((stop - start) * part, axis, y)
    return y.astype(x.dtype)


def _adaptive_avg_pool_fwd(x, size, bins):
    return _bin_means(x, size, bins), ()


def _adaptive_avg_pool_bwd(size, bins, _, dy):
    dx = dy.astype(accumulator(dy.dtype))
    for axis, n, m in _spatial_axes(dy, size, bins):
        start, stop = _bins(n, m)
        # [B], "Backward Pass: Mean-Pooling": ∂ŷ_i/∂y_j = 1 / (size of bin i) where it holds j
        portion = dx / _on_axis(stop - start, axis, dx)
        dx = _interval_sums(portion, axis, *_bins_that_hold(n, m))
    return (dx.astype(dy.dtype),)


_adaptive_avg_pool.defvjp(_adaptive_avg_pool_fwd, _adaptive_avg_pool_bwd)


# ------------------------------------------------------------------------------------------
# adaptive_max_pool
# ------------------------------------------------------------------------------------------


def adaptive_max_pool(
    x: chex.Array, output_size: PerAxis, *, spatial_ndim: int | None = None
) -> jax.Array:
    """Takes the largest entry of bins that cover the map, as many as asked for.

        y[n, i, c] = max of x[n, j, c] over start(i) ≤ j < stop(i)

    with the bins of `adaptive_avg_pool`. Where m divides n it is `max_pool` with the window
    n/m. A NaN in the bin wins.

    Gradient ([J], "Pooling Layer"):

        dx[n, j, c] = Σ dy[n, i, c] over the bins i whose first winner in row-major order is j

    Args:
        x: maps, (*batch, *spatial, C), with any number of batch axes. Float or integer.
        output_size: m, the number of bins, an int or D ints.
        spatial_ndim: D, where `output_size` is an int; 2 by default.

    Returns:
        (*batch, *output_size, C).

    Raises:
        TypeError: if x is not an array of a supported dtype.
        ValueError: if x has too few axes or an empty one, or output_size does not fit.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> x = jnp.array([1.0, 2.0, 5.0, 4.0, 3.0]).reshape(5, 1)
        >>> adaptive_max_pool(x, (3,))[:, 0]
        Array([2., 5., 4.], dtype=float32)
        >>> jax.grad(lambda x: adaptive_max_pool(x, (3,)).sum())(x)[:, 0]
        Array([0., 1., 1., 1., 0.], dtype=float32)

    Source: [J], "Pooling Layer"; the bins are PyTorch's.
    """
    (x,) = operands(integers=True, x=x)
    return call(_adaptive_max_pool, x, *_sizes(x, output_size, spatial_ndim))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _adaptive_max_pool(x, size, bins):
    y, _ = _bin_maxima(x, size, bins)
    return y


def _bin_maxima(
    x: Array, size: tuple[int, ...], bins: tuple[int, ...]
) -> tuple[Array, tuple[Array, ...]]:
    """Axis by axis, the last one first: so the first winner is the first in row-major order."""
    winners = []
    for axis, n, m in reversed(_spatial_axes(x, size, bins)):
        start, stop = _bins(n, m)
        entries, _ = _intervals(x, axis, start, stop)  # the last entry, repeated, never wins
        x, winner = _first_largest(entries, axis + 1)
        winners.append((winner + _on_axis(start, axis, winner)).astype(np.min_scalar_type(n - 1)))
    return x, tuple(reversed(winners))


def _adaptive_max_pool_fwd(x, size, bins):
    return _bin_maxima(x, size, bins)  # the winners' positions along each axis


def _adaptive_max_pool_bwd(size, bins, winners, dy):
    dx = dy.astype(accumulator(dy.dtype))
    for winner, (axis, n, m) in zip(winners, _spatial_axes(dy, size, bins), strict=True):
        holding = _bins_that_hold(n, m)
        errors, inside = _intervals(dx, axis, *holding)
        won_by, _ = _intervals(winner, axis, *holding)
        won = inside & (won_by == _on_axis(np.arange(n), axis, won_by))
        dx = jnp.sum(jnp.where(won, errors, 0), axis + 1)  # [J], "Pooling Layer"
    return (dx.astype(dy.dtype),)


_adaptive_max_pool.defvjp(_adaptive_max_pool_fwd, _adaptive_max_pool_bwd)


# ------------------------------------------------------------------------------------------
# Bins
# ------------------------------------------------------------------------------------------


def _bins(n: int, m: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each of m bins on n positions starts and stops."""
    i = np.arange(m)
    return i * n // m, -(-(i + 1) * n // m)


def _bins_that_hold(n: int, m: int) -> tuple[np.ndarray, np.ndarray]:
    """For each of n positions, the first bin that holds it and the first after that does not."""
    start, stop = _bins(n, m)
    j = np.arange(n)
    return np.searchsorted(stop, j, side="right"), np.searchsorted(start, j, side="right")


def _intervals(
    x: Array, axis: int, start: np.ndarray, stop: np.ndarray
) -> tuple[Array, np.ndarray]:
    """The entries from start to stop along an axis, on a new axis after it.

    Shorter intervals repeat their last entry; the mask that is returned too leaves these out.
    """
    index = start[:, None] + np.arange((stop - start).max())
    inside = index < stop[:, None]
    entries = jnp.take(x, np.minimum(index, stop[:, None] - 1), axis=axis, mode="clip")
    return entries, np.expand_dims(inside, [a for a in range(x.ndim + 1) if a - axis not in (0, 1)])


def _interval_sums(x: Array, axis: int, start: np.ndarray, stop: np.ndarray) -> Array:
    entries, inside = _intervals(x, axis, start, stop)
    return jnp.sum(jnp.where(inside, entries, 0), axis + 1)


def _on_axis(entries: np.ndarray, axis: int, like: Array) -> np.ndarray:
    """One number per position of an axis, shaped to go with `like`."""
    shape = [1] * like.ndim
    shape[axis] = len(entries)
    return entries.reshape(shape).astype(like.dtype)


def _spatial_axes(
    x: Array, size: tuple[int, ...], bins: tuple[int, ...]
) -> list[tuple[int, int, int]]:
    """(axis, n, m) for each spatial axis of maps or their pooled maps."""
    first = x.ndim - 1 - len(size)
    return [(first + axis, n, m) for axis, (n, m) in enumerate(zip(size, bins, strict=True))]


def _sizes(
    x: Array, output_size: PerAxis, spatial_ndim: int | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The size of the maps and the number of bins along each axis, checked."""
    ndim = spatial_rank(spatial_ndim, output_size=output_size)
    return occupied_size(x.shape, ndim), per_axis("output_size", output_size, ndim)
