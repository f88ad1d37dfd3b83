"""The softmax layer's activation, and its logarithm.

These do not act entry by entry: each output depends on all net inputs along an axis, and the
derivative is a matrix, multiplied out below.
"""

import functools

import chex
import jax
import jax.numpy as jnp
from jax import Array, lax

from cnnvjp._checks.arrays import operands
from cnnvjp._checks.compiled import call
from cnnvjp._checks.options import axes_option
from cnnvjp._types import widened
from cnnvjp._windows.spatial import is_sequence

# ------------------------------------------------------------------------------------------
# softmax
# ------------------------------------------------------------------------------------------


def softmax(x: chex.Array, *, axis: int = -1) -> jax.Array:
    """Positive numbers with the sum 1 along an axis: y_i = e^x_i / Σ_j e^x_j.

    Gradient: with ∂y_j/∂x_i = y_j · ((i = j) − y_i):

        dx = y · (dy − Σ_j dy_j · y_j)

    Args:
        x: net inputs, with at least one entry along the axis. Huge ones do no harm: the
            largest is subtracted from all. An entry of −∞ gets the share 0; a row of
            nothing else gives NaN.
        axis: the axis along which the outputs sum to 1.

    Returns:
        y, of x's shape and dtype.

    Raises:
        TypeError: if x is not a floating array.
        ValueError: if x has no such axis.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> x = jnp.array([1e9, 1e9])
        >>> softmax(x)
        Array([0.5, 0.5], dtype=float32)
        >>> jax.grad(lambda x: softmax(x)[0])(x)
        Array([ 0.25, -0.25], dtype=float32)

    Source: the output layer of [H] fig. 8.11; the derivative of an activation, [H] 8.51, with
    an off-diagonal.
    """
    (x,) = operands(x=x)
    return call(_softmax, x, _check_axis(axis, x))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _softmax(x, axis):
    return _shares(x, axis).astype(x.dtype)


def _shares(x: Array, axis: int) -> Array:
    powers = jnp.exp(_below_largest(x, axis))
    return powers / jnp.sum(powers, axis, keepdims=True)


def _softmax_fwd(x, axis):
    y = _shares(x, axis)
    return y.astype(x.dtype), y  # in at least float32


def _softmax_bwd(axis, y, dy):
    # dy times the matrix ∂yᵢ/∂xⱼ = yᵢ (δᵢⱼ − yⱼ). As the shares sum to 1, a number taken from all
    # of dy changes nothing: that of a share of more than half, for which 1 − y would cancel.
    less = widened(dy)
    if to_the_last_place(dy):
        less -= jnp.sum(jnp.where(y > 0.5, less, 0), axis, keepdims=True)
    dx = y * (less - jnp.sum(less * y, axis, keepdims=True))
    return (dx.astype(dy.dtype),)


_softmax.defvjp(_softmax_fwd, _softmax_bwd)


# ------------------------------------------------------------------------------------------
# log_softmax
# ------------------------------------------------------------------------------------------


def log_softmax(x: chex.Array, *, axis: int = -1) -> jax.Array:
    """The logarithm of `softmax`: y_i = x_i − log Σ_j e^x_j.

    Gradient: with ∂y_j/∂x_i = (i = j) − e^y_i:

        dx = dy − e^y · Σ_j dy_j

    Args:
        x: net inputs, with at least one entry along the axis. Huge ones do no harm.
        axis: the axis along which the powers e^y sum to 1.

    Returns:
        y, of x's shape and dtype.

    Raises:
        TypeError: if x is not a floating array.
        ValueError: if x has no such axis.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> x = jnp.array([0.0, 1000.0])
        >>> log_softmax(x)
        Array([-1000.,     0.], dtype=float32)
        >>> jax.grad(lambda x: log_softmax(x)[0])(x)
        Array([ 1., -1.], dtype=float32)

    Source: as for `softmax`.
    """
    (x,) = operands(x=x)
    return call(_log_softmax, x, _check_axis(axis, x))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _log_softmax(x, axis):
    return _log_shares(x, axis).astype(x.dtype)


def _log_shares(x: Array, axis: int) -> Array:
    x_below = _below_largest(x, axis)
    return x_below - log_sum_of_powers(x_below, axis, to_the_last_place(x))


def to_the_last_place(x: Array) -> bool:
    """Whether slopes of shares near 0 and 1 are computed to their own last place, not to that of 1.

    In 16 bits they are: float32 rounds its 1 far above the smallest of them. In float32, where no
    other library's are, it would take two to six times as long.
    """
    return x.dtype != jnp.float32


def log_sum_of_powers(x_below: Array, axis: int, exact: bool) -> Array:
    """Log Σ e^x of numbers whose largest is 0: log(1 + the others), which may be far below 1.

    Args:
        x_below: the numbers, in at least float32.
        axis: along which to sum.
        exact: whether what is below the rounding of 1 counts.
    """
    powers = jnp.exp(x_below)
    if not exact:
        return jnp.log(jnp.sum(powers, axis, keepdims=True))
    ones = (x_below == 0).astype(x_below.dtype)
    others = jnp.sum(powers - ones, axis, keepdims=True)
    return jnp.log1p(others + (jnp.sum(ones, axis, keepdims=True) - 1))


def _log_softmax_fwd(x, axis):
    y = _log_shares(x, axis)
    return y.astype(x.dtype), y  # in at least float32


def _log_softmax_bwd(axis, y, dy):
    wide_dy = widened(dy)
    total = jnp.sum(wide_dy, axis, keepdims=True)
    dx = -shares_less(
        y, total, wide_dy, axis, to_the_last_place(dy)
    )  # dy times ∂yᵢ/∂xⱼ = δᵢⱼ − softmax(x)ⱼ
    return (dx.astype(dy.dtype),)


_log_softmax.defvjp(_log_softmax_fwd, _log_softmax_bwd)


def shares_less(log_p: Array, total: Array | float, t: Array, axis: int, exact: bool) -> Array:
    """`p · total − t`; if exact, from 1 − p for a large share: it cancels with t = total."""
    if not exact:
        return jnp.exp(log_p) * total - t
    larger = log_p > -0.5  # of one share at most
    rest = -jnp.expm1(jnp.sum(jnp.where(larger, log_p, 0), axis, keepdims=True))
    return jnp.where(larger, (total - t) - rest * total, jnp.exp(log_p) * total - t)


def _below_largest(x: Array, axis: int) -> Array:
    """`x` less its largest entry, which changes neither function, and so has no derivative."""
    x = widened(x)
    return x - lax.stop_gradient(jnp.max(x, axis, keepdims=True, initial=-jnp.inf))


def _check_axis(axis: int, x: Array) -> int:
    if is_sequence(axis):
        raise ValueError(f"axis: got {axis!r}; it must be one int")
    (number,) = axes_option("axis", axis, x)
    return number
