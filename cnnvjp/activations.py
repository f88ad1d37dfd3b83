"""Activations with pieces: each is one formula on one side of a kink, another on the other.

An activation acts entry by entry, and "the entry-wise activation is readily backpropagated"
([B]): with f'(n) the derivative at the net input n,

    dn = f'(n) ∘ da      ([H] 8.53).

Here x is n and y is a. At a kink any number between the slopes at both sides would do; each
docstring states the one taken. Forward passes are selections like the derivatives, so that
what JAX makes of them in a second derivative takes the same side.
"""

import functools

import chex
import jax
import jax.numpy as jnp
from jax import Array

from cnnvjp._checks.arrays import operands
from cnnvjp._checks.compiled import call
from cnnvjp._checks.options import number_option
from cnnvjp._types import widened
from cnnvjp._windows.axes import broadcast_to, sum_shared

# ------------------------------------------------------------------------------------------
# relu
# ------------------------------------------------------------------------------------------


def relu(x: chex.Array) -> jax.Array:
    """The rectified linear unit: y = max(x, 0).

    Gradient ([H] 8.53):

        dx = dy where x > 0, and 0 elsewhere: relu'(0) = 0

    Args:
        x: net inputs, of any shape. NaN stays NaN.

    Returns:
        y, of x's shape and dtype.

    Raises:
        TypeError: if x is not a floating array.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> x = jnp.array([-1.0, 0.0, 2.0])
        >>> relu(x)
        Array([0., 0., 2.], dtype=float32)
        >>> jax.grad(lambda x: relu(x).sum())(x)
        Array([0., 0., 1.], dtype=float32)

    Source: [J], before 1: "thresholding at zero"; [H] 8.49–8.53; [B], "Backpropagation through
    Convolution: Activation".
    """
    (x,) = operands(x=x)
    return call(_relu, x)


@jax.custom_vjp
def _relu(x):
    return _rectified(x)


def _rectified(x: Array) -> Array:
    return jnp.where(x <= 0, 0, x)  # of a NaN the condition is false: it stays


def _relu_fwd(x):
    y = _rectified(x)
    return y, y  # which the next layer keeps too; positive where x is


def _relu_bwd(y, dy):
    return (jnp.where(y > 0, dy, 0),)  # [H] 8.53 with f' = 1 or 0


_relu.defvjp(_relu_fwd, _relu_bwd)


# ------------------------------------------------------------------------------------------
# relu6
# ------------------------------------------------------------------------------------------


def relu6(x: chex.Array) -> jax.Array:
    """The rectified linear unit, capped: y = min(max(x, 0), 6).

    Gradient ([H] 8.53):

        dx = dy where 0 < x < 6, and 0 elsewhere: relu6'(0) = relu6'(6) = 0

    Args:
        x: net inputs, of any shape. NaN stays NaN.

    Returns:
        y, of x's shape and dtype.

    Raises:
        TypeError: if x is not a floating array.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> x = jnp.array([-1.0, 5.0, 7.0])
        >>> relu6(x)
        Array([0., 5., 6.], dtype=float32)
        >>> jax.grad(lambda x: relu6(x).sum())(x)
        Array([0., 1., 0.], dtype=float32)

    Source: [H] 8.49–8.53; the function is that of Krizhevsky, "Convolutional Deep
    Belief Networks on CIFAR-10" (2010).
    """
    (x,) = operands(x=x)
    return call(_relu6, x)


@jax.custom_vjp
def _relu6(x):
    return _capped(x)


def _capped(x: Array) -> Array:
    return jnp.where(x >= 6, 6, _rectified(x))


def _relu6_fwd(x):
    y = _capped(x)
    return y, y  # which the next layer keeps too; between 0 and 6 where x is


def _relu6_bwd(y, dy):
    return (jnp.where((y > 0) & (y < 6), dy, 0),)  # [H] 8.53 with f' = 1 or 0


_relu6.defvjp(_relu6_fwd, _relu6_bwd)


# ------------------------------------------------------------------------------------------
# leaky_relu
# ------------------------------------------------------------------------------------------


def leaky_relu(x: chex.Array, negative_slope: float = 0.01) -> jax.Array:
    """A rectifier that leaks: y = x where x > 0, and negative_slope · x elsewhere.

    Gradient ([H] 8.53):

        dx = dy where x > 0, and negative_slope · dy elsewhere, at 0 too. (In jax.nn the
        derivative at 0 is 1, in PyTorch it is the slope.)

    Args:
        x: net inputs, of any shape.
        negative_slope: a Python number. One that is trained is `prelu`'s.

    Returns:
        y, of x's shape and dtype.

    Raises:
        TypeError: if x is not a floating array.
        ValueError: if negative_slope is not a finite Python number.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> x = jnp.array([-1.0, 0.0, 2.0])
        >>> leaky_relu(x, 0.25)
        Array([-0.25,  0.  ,  2.  ], dtype=float32)
        >>> jax.grad(lambda x: leaky_relu(x, 0.25).sum())(x)
        Array([0.25, 0.25, 1.  ], dtype=float32)

    Source: [H] 8.49–8.53; the function is that of Maas et al. (2013).
    """
    (x,) = operands(x=x)
    return call(_leaky_relu, x, number_option("negative_slope", negative_slope))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _leaky_relu(x, slope):
    return _leaking(x, x > 0, slope)


def _leaking(x: Array, positive: Array, slope: float | Array) -> Array:
    return jnp.where(positive, x, (slope * widened(x)).astype(x.dtype))


def _leaky_relu_fwd(x, slope):
    positive = x > 0
    return _leaking(x, positive, slope), positive


def _leaky_relu_bwd(slope, positive, dy):
    return (_leaking(dy, positive, slope),)  # [H] 8.53 with f' = 1 or the slope


_leaky_relu.defvjp(_leaky_relu_fwd, _leaky_relu_bwd)


# ------------------------------------------------------------------------------------------
# prelu
# ------------------------------------------------------------------------------------------


def prelu(x: chex.Array, slope: chex.Numeric) -> jax.Array:
    """A leaky rectifier with a trained slope: y = x where x > 0, and slope · x elsewhere.

    Gradients:

        dx = dy where x > 0, and slope · dy elsewhere, at 0 too   ([H] 8.53)
        dslope = Σ dy · min(x, 0) over the entries that share the slope

    Args:
        x: net inputs, (..., C).
        slope: one number, (), or one per channel, (C,), of x's dtype.

    Returns:
        y, of x's shape and dtype.

    Raises:
        TypeError: if the arrays differ in dtype or are not floating.
        ValueError: if slope is neither () nor (C,).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> x = jnp.array([[-1.0, -2.0], [3.0, -4.0]])
        >>> jax.grad(lambda slope: prelu(x, slope).sum())(jnp.array([0.25, 0.5]))
        Array([-1., -6.], dtype=float32)

    Source: [H] 8.49–8.53; the function is that of He et al. (2015).
    """
    x, trained = operands(x=x, slope=slope)
    if trained.shape not in ((), x.shape[-1:]):
        raise ValueError(
            f"slope: got the shape {trained.shape}; for x of shape {x.shape} it must be () or "
            f"{x.shape[-1:]}"
        )
    return call(_prelu, x, trained)


@jax.custom_vjp
def _prelu(x, slope):
    return _leaking(x, x > 0, broadcast_to(widened(slope), x))


def _prelu_fwd(x, slope):
    return _leaking(x, x > 0, broadcast_to(widened(slope), x)), (x, slope)


def _prelu_bwd(residuals, dy):
    x, slope = residuals
    dx = _leaking(dy, x > 0, broadcast_to(widened(slope), dy))  # [H] 8.53
    # ∂y/∂slope = x below 0; summed over what shares it, as a bias in [H] 8.36.
    dslope = sum_shared(jnp.where(x > 0, 0, widened(dy) * widened(x)), slope)
    return dx, dslope


_prelu.defvjp(_prelu_fwd, _prelu_bwd)


# ------------------------------------------------------------------------------------------
# elu
# ------------------------------------------------------------------------------------------


def elu(x: chex.Array, alpha: float = 1.0) -> jax.Array:
    """The exponential linear unit: y = x where x > 0, and alpha · (eˣ − 1) elsewhere.

    Gradient ([H] 8.53):

        dx = dy where x > 0, and alpha · eˣ · dy elsewhere: elu'(0) = alpha

    Args:
        x: net inputs, of any shape.
        alpha: −y at x = −∞, a Python number.

    Returns:
        y, of x's shape and dtype.

    Raises:
        TypeError: if x is not a floating array.
        ValueError: if alpha is not a finite Python number.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> x = jnp.array([-jnp.inf, 0.0, 2.0])
        >>> elu(x)
        Array([-1.,  0.,  2.], dtype=float32)
        >>> jax.grad(lambda x: elu(x, 0.5).sum())(x)
        Array([0. , 0.5, 1. ], dtype=float32)

    Source: [H] 8.49–8.53; the function is that of Clevert et al. (2016).
    """
    (x,) = operands(x=x)
    return call(_elu, x, number_option("alpha", alpha))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _elu(x, alpha):
    return _exponential_linear(x, alpha)


def _exponential_linear(x: Array, alpha: float) -> Array:
    return jnp.where(x > 0, x, (alpha * jnp.expm1(_below(x))).astype(x.dtype))


def _elu_fwd(x, alpha):
    return _exponential_linear(x, alpha), x  # from y, alpha · eˣ = y + alpha would cancel


def _elu_bwd(alpha, x, dy):
    below = (alpha * jnp.exp(_below(x)) * widened(dy)).astype(dy.dtype)
    return (jnp.where(x > 0, dy, below),)  # [H] 8.53 with f' = 1 or alpha · eˣ


_elu.defvjp(_elu_fwd, _elu_bwd)


def _below(x: Array) -> Array:
    """`x` up to 0, so that no exponential overflows where it is not selected."""
    return widened(jnp.where(x > 0, 0, x))


# ------------------------------------------------------------------------------------------
# hard_swish
# ------------------------------------------------------------------------------------------


def hard_swish(x: chex.Array) -> jax.Array:
    """A swish made of pieces: y = x · relu6(x + 3) / 6.

    Gradient ([H] 8.53):

        dx = dy · 0             where x ≤ −3
        dx = dy · (2x + 3) / 6  where −3 < x < 3
        dx = dy                 where x ≥ 3
    At both kinks this is the product rule with relu6'(0) = relu6'(6) = 0.

    Args:
        x: net inputs, of any shape.

    Returns:
        y, of x's shape and dtype.

    Raises:
        TypeError: if x is not a floating array.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> x = jnp.array([-4.0, 0.0, 1.5, 4.0])
        >>> hard_swish(x)
        Array([0.   , 0.   , 1.125, 4.   ], dtype=float32)
        >>> jax.grad(lambda x: hard_swish(x).sum())(x)
        Array([0. , 0.5, 1. , 1. ], dtype=float32)

    Source: [H] 8.49–8.53; the function is that of Howard et al., "MobileNetV3" (2019).
    """
    (x,) = operands(x=x)
    return call(_hard_swish, x)


@jax.custom_vjp
def _hard_swish(x):
    return _in_three_pieces(x)


def _in_three_pieces(x: Array) -> Array:
    inner = widened(jnp.where(jnp.abs(x) >= 3, 0, x))  # finite where it is not selected
    middle = (inner * (inner + 3) / 6).astype(x.dtype)
    return jnp.where(x <= -3, 0, jnp.where(x >= 3, x, middle))


def _hard_swish_fwd(x):
    return _in_three_pieces(x), x


def _hard_swish_bwd(x, dy):
    inner = widened(jnp.where(jnp.abs(x) >= 3, 0, x))
    middle = ((2 * inner + 3) / 6 * widened(dy)).astype(dy.dtype)
    return (jnp.where(x <= -3, 0, jnp.where(x >= 3, dy, middle)),)  # [H] 8.53 with f' = (2x + 3)/6


_hard_swish.defvjp(_hard_swish_fwd, _hard_swish_bwd)
