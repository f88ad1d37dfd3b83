"""Activations that are smooth everywhere: the sigmoids, and what is gated by one.

As with the other activations, dn = f'(n) ∘ da ([H] 8.53). Every rule saves x, and computes f'
from it: y (1 − y) and 1 − y² are functions of y alone, but of a saturated neuron y is rounded to
1, and the slope with it to 0. In 16 bits, both y and f' are computed in float32 and rounded at
their end.
"""

import functools
import math
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.scipy.special import erfc

from cnnvjp._checks.arrays import operands
from cnnvjp._checks.compiled import call
from cnnvjp._checks.options import flag_option
from cnnvjp._types import widened
from cnnvjp.softmax_activations import to_the_last_place


def _across(slope: Array, dy: Array) -> Array:
    """[H] 8.53: dN = Ḟ ∘ dA."""
    return (slope * widened(dy)).astype(dy.dtype)


def _smaller_share(x: Array) -> Array:
    """`y` or 1 − y for y = sigmoid(x), whichever is smaller: the other is 1 less it."""
    return lax.logistic(jnp.where(x > 0, -x, x))


def _share(x: Array) -> Array:
    """`y = sigmoid(x)`, whose derivative does not cancel either."""
    part = _smaller_share(x)
    return jnp.where(x > 0, 1 - part, part)


def _logistic_slope(x: Array) -> Array:
    """`y (1 − y)` for y = sigmoid(x)."""
    part = _smaller_share(x)
    return part * (1 - part)


# ------------------------------------------------------------------------------------------
# sigmoid
# ------------------------------------------------------------------------------------------


def sigmoid(x: chex.Array) -> jax.Array:
    """The logistic sigmoid: y = σ(x) = 1 / (1 + e⁻ˣ).

    Gradient ([H] 8.53):

        dx = y · (1 − y) · dy

    Args:
        x: net inputs, of any shape.

    Returns:
        y between 0 and 1, of x's shape and dtype.

    Raises:
        TypeError: if x is not a floating array.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> x = jnp.array([-jnp.inf, 0.0, jnp.inf])
        >>> sigmoid(x)
        Array([0. , 0.5, 1. ], dtype=float32)
        >>> jax.grad(lambda x: sigmoid(x).sum())(x)
        Array([0.  , 0.25, 0.  ], dtype=float32)

    Source: [H] 8.49–8.53; [J] 8; [B], "Backpropagation through Convolution: Activation".
    """
    (x,) = operands(x=x)
    return call(_sigmoid, x)


@jax.custom_vjp
def _sigmoid(x):
    return _logistic(x)


def _logistic(x: Array) -> Array:
    return lax.logistic(widened(x)).astype(x.dtype)


def _sigmoid_fwd(x):
    return _logistic(x), x


def _sigmoid_bwd(x, dy):
    return (_across(_logistic_slope(widened(x)), dy),)  # [H] 8.53 with f' = y (1 − y)


_sigmoid.defvjp(_sigmoid_fwd, _sigmoid_bwd)


# ------------------------------------------------------------------------------------------
# tanh
# ------------------------------------------------------------------------------------------


def tanh(x: chex.Array) -> jax.Array:
    """The hyperbolic tangent: y = (eˣ − e⁻ˣ) / (eˣ + e⁻ˣ).

    Gradient ([H] 8.53):

        dx = (1 − y²) · dy

    Args:
        x: net inputs, of any shape.

    Returns:
        y between −1 and 1, of x's shape and dtype.

    Raises:
        TypeError: if x is not a floating array.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> x = jnp.array([-jnp.inf, 0.0, jnp.inf])
        >>> tanh(x)
        Array([-1.,  0.,  1.], dtype=float32)
        >>> jax.grad(lambda x: tanh(x).sum())(x)
        Array([0., 1., 0.], dtype=float32)

    Source: [H] 8.49–8.53; [J] 8; [B], "Backpropagation through Convolution: Activation".
    """
    (x,) = operands(x=x)
    return call(_tanh, x)


@jax.custom_vjp
def _tanh(x):
    return _hyperbolic(x)


def _hyperbolic(x: Array) -> Array:
    return jnp.tanh(widened(x)).astype(x.dtype)


def _tanh_fwd(x):
    return _hyperbolic(x), x


def _tanh_bwd(x, dy):
    # [H] 8.53 with f' = 1 − y², as tanh(x) = 2 sigmoid(2x) − 1
    return (_across(4 * _logistic_slope(2 * widened(x)), dy),)


_tanh.defvjp(_tanh_fwd, _tanh_bwd)


# ------------------------------------------------------------------------------------------
# softplus
# ------------------------------------------------------------------------------------------


def softplus(x: chex.Array) -> jax.Array:
    """A smooth rectifier: y = log(1 + eˣ).

    Gradient ([H] 8.53):

        dx = σ(x) · dy

    Args:
        x: net inputs, of any shape and size: no exponential overflows.

    Returns:
        y, of x's shape and dtype.

    Raises:
        TypeError: if x is not a floating array.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> softplus(jnp.array([-1000.0, 1000.0]))
        Array([   0., 1000.], dtype=float32)
        >>> jax.grad(softplus)(jnp.zeros(()))
        Array(0.5, dtype=float32)

    Source: [H] 8.49–8.53; the function is that of Dugas et al. (2001).
    """
    (x,) = operands(x=x)
    return call(_softplus, x)


@jax.custom_vjp
def _softplus(x):
    return _log_one_plus_exp(x)


def _log_one_plus_exp(x: Array) -> Array:
    wide = widened(x)
    # One selection for max and |·|, whose derivatives at 0 must fit together.
    positive = wide > 0
    linear = jnp.where(positive, wide, 0)
    return (linear + jnp.log1p(jnp.exp(jnp.where(positive, -wide, wide)))).astype(x.dtype)


def _softplus_fwd(x):
    return _log_one_plus_exp(x), x


def _softplus_bwd(x, dy):
    return (_across(_share(widened(x)), dy),)  # [H] 8.53 with f' = sigmoid(x)


_softplus.defvjp(_softplus_fwd, _softplus_bwd)


# ------------------------------------------------------------------------------------------
# silu, gelu: x times a gate
# ------------------------------------------------------------------------------------------

# Beyond ±this, every gate here is 0 or 1 in every dtype. Held within, x can be multiplied by
# what vanishes there, with no ∞ · 0.
_SATURATED = 800.0

Share = Callable[[Array], Array]
Gate = Callable[[Array], tuple[Array, Array]]


def _gated(x: Array, share: Share) -> Array:
    """`x · g(x)`, with 0 at −∞ and ∞ at ∞."""
    wide = widened(x)
    within = jnp.clip(wide, -_SATURATED, _SATURATED)
    return jnp.where(wide > _SATURATED, wide, within * share(within)).astype(x.dtype)


def _gated_slope(x: Array, gate: Gate) -> Array:
    """The derivative of `x · g(x)`: g(x) + x · g'(x)."""
    within = jnp.clip(widened(x), -_SATURATED, _SATURATED)
    g, slope = gate(within)
    return g + within * slope


def _logistic_gate(x: Array) -> tuple[Array, Array]:
    """σ and its derivative, σ(x) · (1 − σ(x)) with no cancellation."""
    return _share(x), _logistic_slope(x)


def _normal_share(x: Array) -> Array:
    """Φ(x), the probability that a standard normal variable is at most x."""
    return erfc(-x * math.sqrt(0.5)) / 2


def _normal_gate(x: Array) -> tuple[Array, Array]:
    """Φ(x) and its density."""
    return _normal_share(x), jnp.exp(-x * x / 2) / math.sqrt(2 * math.pi)


# u(x) = √(2/π) (x + 0.044715 x³)
_SCALE, _CUBIC = math.sqrt(2 / math.pi), 0.044715


def _tanh_share(x: Array) -> Array:
    """Φ(x) ≈ ½ (1 + tanh u); the sum cancels where tanh u is near −1."""
    return (1 + jnp.tanh(_SCALE * (x + _CUBIC * x * x * x))) / 2


def _approximate_normal_gate(x: Array) -> tuple[Array, Array]:
    """The same as σ(2u), without cancellation, and its derivative."""
    g, slope = _logistic_gate(2 * _SCALE * (x + _CUBIC * x * x * x))
    return g, slope * 2 * _SCALE * (1 + 3 * _CUBIC * x * x)


def silu(x: chex.Array) -> jax.Array:
    """The sigmoid linear unit, or swish: y = x · σ(x).

    Gradient ([H] 8.53):

        dx = (σ(x) + x · σ(x) · (1 − σ(x))) · dy

    Args:
        x: net inputs, of any shape and size; y is 0 at −∞ and ∞ at ∞.

    Returns:
        y, of x's shape and dtype.

    Raises:
        TypeError: if x is not a floating array.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> x = jnp.array([-1e9, 0.0, jnp.inf])
        >>> silu(x)
        Array([-0.,  0., inf], dtype=float32)
        >>> jax.grad(lambda x: silu(x).sum())(x)
        Array([0. , 0.5, 1. ], dtype=float32)

    Source: [H] 8.49–8.53; the function is that of Hendrycks and Gimpel (2016).
    """
    (x,) = operands(x=x)
    return call(_silu, x)


@jax.custom_vjp
def _silu(x):
    return _gated(x, _share)


def _silu_fwd(x):
    return _gated(x, _share), x


def _silu_bwd(x, dy):
    return (_across(_gated_slope(x, _logistic_gate), dy),)  # [H] 8.53 with f' = g + x g'


_silu.defvjp(_silu_fwd, _silu_bwd)


def gelu(x: chex.Array, approximate: bool = True) -> jax.Array:
    """The Gaussian error linear unit: y = x · Φ(x), Φ the normal distribution's function.

        approximate:  Φ(x) ≈ ½ (1 + tanh(√(2/π) (x + 0.044715 x³)))
        else:         Φ(x) = ½ (1 + erf(x / √2))

    Gradient ([H] 8.53):

        dx = (Φ(x) + x · Φ'(x)) · dy, with Φ' the derivative of the form that is used

    Args:
        x: net inputs, of any shape and size; y is 0 at −∞ and ∞ at ∞.
        approximate: whether Φ is approximated by a tanh, as by default in jax.nn; in PyTorch
            the default is the exact form.

    Returns:
        y, of x's shape and dtype.

    Raises:
        TypeError: if x is not a floating array, or approximate not a bool.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> x = jnp.array([-1e9, 0.0, jnp.inf])
        >>> gelu(x)
        Array([-0.,  0., inf], dtype=float32)
        >>> jax.grad(lambda x: gelu(x, approximate=False).sum())(x)
        Array([0. , 0.5, 1. ], dtype=float32)

    Source: [H] 8.49–8.53; the function is that of Hendrycks and Gimpel (2016).
    """
    (x,) = operands(x=x)
    return call(_gelu, x, flag_option("approximate", approximate))


def _gelu_share(x: Array, approximate: bool) -> Share:
    if not approximate:
        return _normal_share
    # Forward pass of float32, shape (4, 28, 28, 768), JAX 0.12, two cores: 1.0 ms by tanh, 1.4 by
    # the logistic form, which the backward pass always uses: x multiplies the rounding error of
    # 1 − tanh² u, and 4.5e-6 of the slope is lost.
    return (lambda x: _approximate_normal_gate(x)[0]) if to_the_last_place(x) else _tanh_share


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _gelu(x, approximate):
    return _gated(x, _gelu_share(x, approximate))


def _gelu_fwd(x, approximate):
    return _gated(x, _gelu_share(x, approximate)), x


def _gelu_bwd(approximate, x, dy):
    slope = _gated_slope(x, _approximate_normal_gate if approximate else _normal_gate)
    return (_across(slope, dy),)  # [H] 8.53 with f' = g + x g'


_gelu.defvjp(_gelu_fwd, _gelu_bwd)
