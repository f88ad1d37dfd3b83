"""Net input and the fully connected layer: bias, scale, dense, and the way between them.

[H] splits a layer into a weight function, a net input function and an activation. The net
input is the sum of the weight function's output and a bias (8.32), or their product (E8.9).
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, get_args

import chex
import jax
from jax import Array

from cnnvjp import _lowering as lowering
from cnnvjp._checks.arrays import check_suffix, operands
from cnnvjp._checks.compiled import call
from cnnvjp._checks.options import choice_option, hashable_precision
from cnnvjp._types import ArrayType, Order, Precision, primal_type, unify_varying, widened
from cnnvjp._windows.axes import broadcast_to, sum_shared
from cnnvjp._windows.spatial import is_sequence, per_axis, spatial_rank, spatial_size

# ------------------------------------------------------------------------------------------
# add_bias
# ------------------------------------------------------------------------------------------


def add_bias(z: chex.Array, b: chex.Array) -> jax.Array:
    """Adds a bias, tied or untied: y = z + b ([H] 8.32).

    Gradients ([H] 8.34–8.37):

        dz = dy
        db = Σ dy over the axes that share the bias

    Args:
        z: net inputs, (..., C). Float or complex.
        b: tied, (C,), one number per map; or untied, of the shape of z's last axes, such as
            (*spatial, C), one number per neuron ([H] fig. 8.1).

    Returns:
        z + b, of z's shape.

    Raises:
        TypeError: if the arrays differ in dtype or are neither floating nor complex.
        ValueError: if b's shape is not that of z's last axes.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> z, b = jnp.zeros((2, 4, 4, 3)), jnp.ones(3)
        >>> jax.grad(lambda b: add_bias(z, b).sum())(b)
        Array([32., 32., 32.], dtype=float32)

    Source: [H] 8.32–8.37.
    """
    z, b = operands(complex=True, z=z, b=b)
    check_suffix("b", b, z, smallest=1)
    return call(_add_bias, z, b)


def bias_added(z: Array, b: Array) -> jax.Array:
    """`add_bias` for operations that have checked both arguments already."""
    return call(_add_bias, *unify_varying(z, b))


@jax.custom_vjp
def _add_bias(z, b):
    return z + broadcast_to(b.astype(z.dtype), z)


def _add_bias_fwd(z, b):
    return z + broadcast_to(b.astype(z.dtype), z), b  # b for its shape and dtype


def _add_bias_bwd(b, dy):
    dz = dy  # [H] 8.35
    db = sum_shared(dy, b)  # [H] 8.36
    return dz, db


_add_bias.defvjp(_add_bias_fwd, _add_bias_bwd)


# ------------------------------------------------------------------------------------------
# scale
# ------------------------------------------------------------------------------------------


def scale(z: chex.Array, b: chex.Numeric) -> jax.Array:
    """Multiplies by a bias, the product net input: y = b · z ([H] E8.9).

    Gradients:

        dz = b · dy
        db = Σ z · dy over the axes that share b

    Args:
        z: outputs of a weight function, (..., C).
        b: one number, (); one per map, (C,); or one per neuron, of the shape of z's last axes.

    Returns:
        b · z, of z's shape.

    Raises:
        TypeError: if the arrays differ in dtype or are not floating.
        ValueError: if b's shape is not that of z's last axes.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> z = jnp.array([[1.0, 2.0], [3.0, 4.0]])
        >>> jax.grad(lambda b: scale(z, b).sum())(jnp.float32(2))
        Array(10., dtype=float32)

    Source: [H] E8.9.
    """
    z, b = operands(z=z, b=b)
    check_suffix("b", b, z, smallest=0)
    return call(_scale, z, b)


@jax.custom_vjp
def _scale(z, b):
    return z * broadcast_to(b, z)


def _scale_fwd(z, b):
    return z * broadcast_to(b, z), (z, b)


def _scale_bwd(residuals, dy):
    z, b = residuals
    dz = broadcast_to(b, dy) * dy  # [H] E8.9: ∂n/∂z = b
    db = sum_shared(widened(z) * widened(dy), b)  # [H] E8.9: ∂n/∂b = z, summed as in 8.36
    return dz, db


_scale.defvjp(_scale_fwd, _scale_bwd)


# ------------------------------------------------------------------------------------------
# dense
# ------------------------------------------------------------------------------------------


def dense(
    x: chex.Array, w: chex.Array, b: chex.Array | None = None, *, precision: Precision = None
) -> jax.Array:
    """The fully connected layer: y = x w (+ b).

    Gradients:

        dx = dy wᵀ
        dw = Σ over the batch of xᵀ dy
        db = Σ over the batch of dy

    Args:
        x: (*batch, n_in). Float or complex.
        w: (n_in, n_out), of x's dtype.
        b: (n_out,), or None.
        precision: as in `jax.lax.dot_general`.

    Returns:
        (*batch, n_out).

    Raises:
        TypeError: if the arrays differ in dtype or are neither floating nor complex.
        ValueError: if the shapes do not fit together.

    Example:
        >>> import jax.numpy as jnp
        >>> dense(jnp.array([1.0, 2.0]), jnp.array([[1.0, 0.0], [0.0, 3.0]]), jnp.ones(2))
        Array([2., 7.], dtype=float32)

    Source: [H] 8.12 with any matrix; [B], "Backward Pass".
    """
    arrays: dict[str, Any] = {"x": x, "w": w} if b is None else {"x": x, "w": w, "b": b}
    x, w, *bias = operands(complex=True, **arrays)
    if w.ndim != 2:
        raise ValueError(f"w: got the shape {w.shape}; it must be (n_in, n_out)")
    if x.ndim < 1 or x.shape[-1] != w.shape[0]:
        raise ValueError(
            f"x: got the shape {x.shape}; for w of shape {w.shape} it is (*batch, {w.shape[0]})"
        )
    if bias and bias[0].shape != w.shape[1:]:
        raise ValueError(
            f"b: got the shape {bias[0].shape}; for w of shape {w.shape} it is {w.shape[1:]}"
        )
    y = call(_dense, x, w, hashable_precision(precision))
    return bias_added(y, *bias) if bias else y


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _dense(x, w, precision):
    return lowering.contract(x, w, ((x.ndim - 1,), (0,)), precision, ArrayType(x.dtype))


def _dense_fwd(x, w, precision):
    return lowering.contract(x, w, ((x.ndim - 1,), (0,)), precision, ArrayType(x.dtype)), (x, w)


def _dense_bwd(precision, residuals, dy):
    x, w = residuals
    batch = tuple(range(x.ndim - 1))
    # A convolution whose kernel covers its input: [GBC] 9.13 and 9.11 with one position.
    dx = lowering.contract(dy, w, ((dy.ndim - 1,), (1,)), precision, primal_type(x))  # dy wᵀ
    dw = lowering.contract(x, dy, (batch, batch), precision, primal_type(w))  # xᵀ dy
    return dx, dw


_dense.defvjp(_dense_fwd, _dense_bwd)


# ------------------------------------------------------------------------------------------
# flatten, unflatten
# ------------------------------------------------------------------------------------------


def flatten(x: chex.Array, *, order: Order = "row", spatial_ndim: int | None = None) -> jax.Array:
    """Turns maps into one vector per example.

    Gradient: dx = unflatten(dv), "reversing the flattening" ([B], "Backward Pass").

    Args:
        x: (*batch, *spatial, C). Float, integer or complex.
        order: "row" reads the array as it lies, channels fastest; flattening in PyTorch has
            channels slowest. "column" stacks the columns of one map after the other ([H]
            8.26): rows fastest, then columns, channels slowest.
        spatial_ndim: D, 2 by default.

    Returns:
        (*batch, the product of the spatial sizes and C).

    Raises:
        TypeError: if x is not an array of a supported dtype.
        ValueError: for an unknown order or too few axes.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.array([[1, 2], [3, 4]]).reshape(2, 2, 1)
        >>> flatten(x), flatten(x, order="column")
        (Array([1, 2, 3, 4], dtype=int32), Array([1, 3, 2, 4], dtype=int32))

    Source: [H] 8.26; [B], "Backward Pass".
    """
    (x,) = operands(integers=True, complex=True, x=x)
    choice_option("order", order, get_args(Order))
    ndim = spatial_rank(spatial_ndim)
    spatial_size(x.shape, ndim)
    return call(_flatten, x, x.shape[-1 - ndim :], order)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _flatten(x, shape, order):
    return _to_vector(x, shape, order)


def _flatten_fwd(x, shape, order):
    return _to_vector(x, shape, order), ()


def _flatten_bwd(shape, order, _, dv):
    return (_to_maps(dv, shape, order),)  # [B], "Backward Pass": "reversing the flattening"


_flatten.defvjp(_flatten_fwd, _flatten_bwd)


def unflatten(v: chex.Array, shape: Sequence[int], *, order: Order = "row") -> jax.Array:
    """Turns vectors back into maps, the inverse and the adjoint of `flatten`.

    Gradient: dv = flatten(dx).

    Args:
        v: (*batch, n). Float, integer or complex.
        shape: (*spatial, C), with n entries in all.
        order: as in `flatten`.

    Returns:
        (*batch, *shape).

    Raises:
        TypeError: if v is not an array of a supported dtype.
        ValueError: for an unknown order or a shape that does not hold n entries.

    Example:
        >>> import jax.numpy as jnp
        >>> unflatten(jnp.arange(4), (2, 2, 1), order="column")[..., 0]
        Array([[0, 2],
               [1, 3]], dtype=int32)

    Source: [B], "Backward Pass"; [H] 8.26.
    """
    (v,) = operands(integers=True, complex=True, v=v)
    choice_option("order", order, get_args(Order))
    if not is_sequence(shape) or len(shape) not in (2, 3, 4):
        raise ValueError(f"shape: got {shape!r}; it must be (*spatial, C) with 1 to 3 spatial axes")
    shape = per_axis("shape", shape, len(shape))
    if v.ndim < 1 or v.shape[-1] != math.prod(shape):
        raise ValueError(
            f"shape: got {shape}, which holds {math.prod(shape)} entries, for v of shape {v.shape}"
        )
    return call(_unflatten, v, shape, order)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _unflatten(v, shape, order):
    return _to_maps(v, shape, order)


def _unflatten_fwd(v, shape, order):
    return _to_maps(v, shape, order), ()


def _unflatten_bwd(shape, order, _, dx):
    return (_to_vector(dx, shape, order),)  # [H] 8.26: the inverse's adjoint is vec itself


_unflatten.defvjp(_unflatten_fwd, _unflatten_bwd)


def _to_vector(x: Array, shape: tuple[int, ...], order: Order) -> Array:
    batch = x.shape[: x.ndim - len(shape)]
    if order == "column":  # the last axis slowest: all of them reversed
        x = x.transpose(*range(len(batch)), *reversed(range(len(batch), x.ndim)))
    return x.reshape(*batch, math.prod(shape))


def _to_maps(v: Array, shape: tuple[int, ...], order: Order) -> Array:
    batch = v.shape[:-1]
    if order == "row":
        return v.reshape(*batch, *shape)
    x = v.reshape(*batch, *reversed(shape))
    return x.transpose(*range(len(batch)), *reversed(range(len(batch), x.ndim)))
