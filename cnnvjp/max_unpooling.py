"""Max unpooling: pooled values back where they came from, as an operation of its own."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
from jax import Array

from cnnvjp._checks.arrays import integer_operand, operands
from cnnvjp._checks.compiled import call
from cnnvjp._checks.pooling import check_indexable
from cnnvjp._types import PerAxis, accumulator, unify_layout, unify_varying
from cnnvjp._windows.spatial import occupied_size, per_axis, spatial_rank


def max_unpool(
    y: chex.Array,
    argmax: chex.Array,
    *,
    output_size: PerAxis,
    spatial_ndim: int | None = None,
) -> jax.Array:
    """Puts pooled values back where they came from, zeros elsewhere.

        x[n, j, c] = Σ y[n, i, c] over the windows i with argmax[n, i, c] = j

    where j counts the positions of the plane in row-major order. Values that share a place
    are added: the operation is the adjoint of gathering, and the way that `max_pool` sends a
    gradient back. PyTorch keeps one of them. An index outside of the plane is dropped.

    Gradient:

        dy[n, i, c] = dx[n, argmax[n, i, c], c], and 0 where the index was dropped

    Args:
        y: pooled maps, (*batch, *out_spatial, C). Float or integer.
        argmax: of y's shape, integers, as `max_pool` with `return_argmax` returns it.
        output_size: the spatial size of what was pooled, an int or D ints: the pooled maps do
            not tell it, and indices into a plane of another size mean other pixels.
        spatial_ndim: D, where `output_size` is an int; 2 by default.

    Returns:
        (*batch, *output_size, C).

    Raises:
        TypeError: if y is not an array of a supported dtype, or argmax not one of integers.
        ValueError: if shapes or options do not fit together.

    Example:
        >>> import jax.numpy as jnp
        >>> from cnnvjp import max_pool
        >>> y, argmax = max_pool(jnp.array([[3.0], [1.0], [2.0], [4.0]]), (2,), return_argmax=True)
        >>> max_unpool(y, argmax, output_size=(4,))[:, 0]
        Array([3., 0., 0., 4.], dtype=float32)

    Source: [B], "Backpropagation: Max-Pooling", as an operation of its own.
    """
    (y,) = operands(integers=True, y=y)
    argmax = integer_operand("argmax", argmax)
    ndim = spatial_rank(spatial_ndim, output_size=output_size)
    occupied_size(y.shape, ndim, argument="y")
    if argmax.shape != y.shape:
        raise ValueError(f"argmax: got the shape {argmax.shape}; it must be that of y, {y.shape}")
    size = per_axis("output_size", output_size, ndim)
    check_indexable("output_size", size, "unpool parts of y")
    y, argmax = unify_layout(*unify_varying(y, argmax))
    return call(_max_unpool, y, argmax, size)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _max_unpool(y, argmax, size):
    return _scatter_sum(y, argmax, size)


def _max_unpool_fwd(y, argmax, size):
    return _scatter_sum(y, argmax, size), argmax


def _max_unpool_bwd(size, argmax, dx):
    # The adjoint of [B], "Backpropagation: Max-Pooling": ⟨scatter(y), dx⟩ = ⟨y, gather(dx)⟩.
    return _gather(dx, argmax, size), None


_max_unpool.defvjp(_max_unpool_fwd, _max_unpool_bwd)


def _scatter_sum(y: Array, argmax: Array, size: tuple[int, ...]) -> Array:
    positions = math.prod(size)

    def one_map(y: Array, index: Array) -> Array:
        plane = jnp.zeros(positions, accumulator(y.dtype))
        return plane.at[index].add(y.astype(plane.dtype), mode="drop")

    scatter = jax.vmap(one_map, in_axes=-1, out_axes=-1)
    *batch, channels = _flat_shape(y, size)
    for _ in batch[:-1]:
        scatter = jax.vmap(scatter)
    x = scatter(y.reshape(*batch, channels), _flat_index(argmax, size))
    return x.reshape(*batch[:-1], *size, channels).astype(y.dtype)


def _gather(dx: Array, argmax: Array, size: tuple[int, ...]) -> Array:
    *batch, _, channels = _flat_shape(argmax, size)
    plane = dx.reshape(*batch, math.prod(size), channels)
    index = _flat_index(argmax, size)
    dy = jnp.take_along_axis(plane, index, axis=-2, mode="fill", fill_value=0)
    return dy.reshape(argmax.shape)


def _flat_shape(y: Array, size: tuple[int, ...]) -> tuple[int, ...]:
    """(*batch, *out_spatial, C) -> (*batch, the product of out_spatial, C)."""
    split = y.ndim - 1 - len(size)
    return *y.shape[:split], math.prod(y.shape[split:-1]), y.shape[-1]


def _flat_index(argmax: Array, size: tuple[int, ...]) -> Array:
    """The int32 indices of each plane on one axis; those outside of it point beyond its end."""
    positions = math.prod(size)
    index = argmax if argmax.dtype.itemsize == 8 else argmax.astype(jnp.int32)
    outside = (index < 0) | (index >= positions)  # jnp counts negative ones from the end
    index = jnp.where(outside, positions, index).astype(jnp.int32)
    return index.reshape(_flat_shape(argmax, size))
