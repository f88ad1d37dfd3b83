"""Backward rules that are no derivatives, to be chosen with `explicit(f, rules=…)`.

Each leaves an operation's values as they are and sends something else than its gradient back:

    guided_relu, deconv_relu    what raises an output, in pictures
    lrp_epsilon                 an output's relevance, shared out among the inputs
    straight_through            a gradient where the derivative is zero
    feedback_alignment          errors through fixed random weights

The network is any JAX function, in Flax, Equinox, Haiku or Keras, and stays as it is:

    saliency = jax.grad(explicit(logit, rules={jax.nn.relu: guided_relu}))(image)
"""

import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cnnvjp._checks.options import number_option

Operation = Callable[..., jax.Array]

# ------------------------------------------------------------------------------------------
# relu: guided backpropagation, deconvolutional networks
# ------------------------------------------------------------------------------------------


@jax.custom_vjp
def guided_relu(x: chex.Array) -> jax.Array:
    """Relu with guided backpropagation: only what is positive on both ways passes.

        y = max(x, 0);   dx = dy where x > 0 and dy > 0, and 0 elsewhere

    The gradient of relu looks at x alone, `deconv_relu` at dy alone.

    Args:
        x: net inputs, of any shape.

    Returns:
        y, of x's shape and dtype.

    Raises:
        TypeError: if x is not an array of numbers.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from cnnvjp import explicit
        >>> x, dy = jnp.array([1.0, 1.0, -1.0]), jnp.array([2.0, -2.0, 2.0])
        >>> network = lambda x: jax.nn.relu(x) @ dy
        >>> jax.grad(explicit(network, rules={jax.nn.relu: guided_relu}))(x)
        Array([2., 0., 0.], dtype=float32)

    Source: Springenberg, Dosovitskiy, Brox and Riedmiller, "Striving for Simplicity: The All
    Convolutional Net" (2015), section 3.4.
    """
    return _rectified(x)


def _guided_relu_bwd(y: Array, dy: Array) -> tuple[Array]:
    return (jnp.where((y > 0) & (dy > 0), dy, 0),)


@jax.custom_vjp
def deconv_relu(x: chex.Array) -> jax.Array:
    """Relu with the way back of a deconvolutional network: only what is positive passes.

        y = max(x, 0);   dx = max(dy, 0), whatever x was

    Args:
        x: net inputs, of any shape.

    Returns:
        y, of x's shape and dtype.

    Raises:
        TypeError: if x is not an array of numbers.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from cnnvjp import explicit
        >>> x, dy = jnp.array([1.0, 1.0, -1.0]), jnp.array([2.0, -2.0, 2.0])
        >>> network = lambda x: jax.nn.relu(x) @ dy
        >>> jax.grad(explicit(network, rules={jax.nn.relu: deconv_relu}))(x)
        Array([2., 0., 2.], dtype=float32)

    Source: Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks" (2014),
    section 2.1.
    """
    return _rectified(x)


def _rectified(x: chex.Array) -> Array:
    return jnp.where(x <= 0, 0, x)  # a NaN stays


guided_relu.defvjp(lambda x: (y := _rectified(x), y), _guided_relu_bwd)
deconv_relu.defvjp(lambda x: (_rectified(x), None), lambda _, dy: (_rectified(dy),))


# ------------------------------------------------------------------------------------------
# Layer-wise relevance propagation
# ------------------------------------------------------------------------------------------


def lrp_epsilon(operation: Operation, *, epsilon: float = 1e-6) -> Operation:
    """An operation of sums, such as a convolution, that propagates relevance with the ε-rule.

        R_i = Σ_j x_i w_ij · R_j / (z_j + ε · sign z_j),   z = Σ_i x_i w_ij

    with sign 0 = 1. It is put as a rule for gradients, of which x · dx is the relevance of x, and
    z · dz that of z:

        dx = wᵀ (z · dz / (z + ε · sign z))

    Between the sums, the gradients of relu, of max pooling and of moving data pass relevance on
    as it is: y · dy = x · dx. So x · jax.grad(logit)(x) is the relevance of the input, and where
    ε is small its sum is the logit's, less what the biases have got. With ε = 0 it is x times
    the gradient. A smooth activation has no such rule.

    A sum with its bias is one z: where layers have biases, choose the rule for the addition of
    the bias, `jax.lax.add` or `cnnvjp.add_bias`, with or without one for the product.

    Args:
        operation: a function that is linear in its first argument or in all of its arguments
            together: `cnnvjp.conv`, `cnnvjp.dense`, `cnnvjp.avg_pool`, `cnnvjp.add_bias`,
            `jax.lax.dot_general`, `jax.lax.add`.
        epsilon: ε, a Python number of at least 0, which takes up relevance where z is small.

    Returns:
        A function with the operation's arguments and values.

    Raises:
        TypeError: if operation is not a function.
        ValueError: if epsilon is not a Python number of at least 0.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from cnnvjp import dense, explicit, relu
        >>> x, w = jnp.array([1.0, 2.0]), jnp.array([[1.0, -3.0], [1.0, 1.0]])
        >>> network = lambda x: relu(dense(x, w)).sum()
        >>> rules = {dense: lrp_epsilon(dense, epsilon=1.0)}
        >>> x * jax.grad(explicit(network, rules=rules))(x)  # 3 · (1, 2) / (3 + 1)
        Array([0.75, 1.5 ], dtype=float32)

    Source: Bach, Binder, Montavon, Klauschen, Müller and Samek, "On Pixel-Wise Explanations for
    Non-Linear Classifier Decisions by Layer-Wise Relevance Propagation" (2015), equation 58.
    """
    _check_operation(operation)
    epsilon = number_option("epsilon", epsilon, low=0)

    def forward(operands: tuple[Array, ...], call: Operation) -> Any:
        z, pullback = jax.vjp(call, *operands)
        return z, (z, pullback)

    def backward(residuals: Any, dz: Array) -> tuple[Array, ...]:
        z, pullback = residuals
        stabilized = z + jnp.where(z < 0, -epsilon, epsilon).astype(z.dtype)
        share = jnp.where(stabilized == 0, 1, z / jnp.where(stabilized == 0, 1, stabilized))
        return pullback(share * dz)

    return _with_rule("lrp_epsilon", operation, forward, backward)


# ------------------------------------------------------------------------------------------
# The straight-through estimator
# ------------------------------------------------------------------------------------------


def straight_through(operation: Operation, *, bound: float | None = None) -> Operation:
    """An operation on each entry, such as a sign or a rounding, with the derivative 1.

        y = operation(x);   dx = dy, or dy where |x| ≤ bound and 0 elsewhere

    The true derivative of such a function is 0 wherever it exists, and nothing below it learns.

    Args:
        operation: a function of one array that keeps its shape and dtype: `jnp.sign`,
            `jnp.round`, `jax.lax.sign`.
        bound: a Python number of at least 0 beyond which nothing passes, so that numbers behind
            a sign do not run away; None for no bound.

    Returns:
        A function with the operation's arguments and values.

    Raises:
        TypeError: if operation is not a function.
        ValueError: if bound is not a Python number of at least 0.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from cnnvjp import explicit
        >>> rules = {jnp.sign: straight_through(jnp.sign, bound=1.0)}
        >>> x = jnp.array([-2.0, 0.5])
        >>> jax.grad(explicit(lambda x: jnp.sign(x).sum(), rules=rules))(x)
        Array([0., 1.], dtype=float32)

    Source: Bengio, Léonard and Courville, "Estimating or Propagating Gradients Through
    Stochastic Neurons for Conditional Computation" (2013), section 4; the bound is that of
    Hubara et al., "Binarized Neural Networks" (2016).
    """
    _check_operation(operation)
    limit = np.inf if bound is None else number_option("bound", bound, low=0)

    def forward(operands: tuple[Array, ...], call: Operation) -> Any:
        (x,) = operands
        return call(x), x

    def backward(x: Array, dy: Array) -> tuple[Array]:
        return (jnp.where(jnp.abs(x) <= limit, dy, 0),)

    return _with_rule("straight_through", operation, forward, backward)


# ------------------------------------------------------------------------------------------
# Feedback alignment
# ------------------------------------------------------------------------------------------


def feedback_alignment(
    operation: Operation, key: chex.PRNGKey, *, scale: float | None = None
) -> Operation:
    """A layer whose errors go back through fixed random weights B, not through its own.

        y = x w;   dx = dy Bᵀ in place of dy wᵀ,   dw = xᵀ dy as before

    B is drawn from a normal distribution with the key, and is the same at every call. Layers
    whose weights have one shape share it; for others choose a rule for each, with a key of its
    own, by a predicate on the scope.

    Args:
        operation: a function that is linear in its first argument, x, and its second, w:
            `cnnvjp.dense`, `cnnvjp.conv`, `jax.lax.dot_general`,
            `jax.lax.conv_general_dilated`.
        key: a `jax.random.key`.
        scale: the standard deviation of B's entries, a Python number; by default
            1 / √(entries of w without its last axis).

    Returns:
        A function with the operation's arguments and values.

    Raises:
        TypeError: if operation is not a function.
        ValueError: if scale is not a Python number of at least 0.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from cnnvjp import dense, explicit
        >>> x, w = jnp.array([1.0, 2.0]), jnp.array([[1.0], [3.0]])
        >>> rules = {dense: feedback_alignment(dense, jax.random.key(0))}
        >>> dx, dw = jax.grad(explicit(lambda x, w: dense(x, w).sum(), rules=rules), (0, 1))(x, w)
        >>> dw[:, 0], bool((dx == w[:, 0]).any())
        (Array([1., 2.], dtype=float32), False)

    Source: Lillicrap, Cownden, Tweed and Akerman, "Random synaptic feedback weights support
    error backpropagation for deep learning" (2016).
    """
    _check_operation(operation)
    deviation = None if scale is None else number_option("scale", scale, low=0)

    def forward(operands: tuple[Array, ...], call: Operation) -> Any:
        return call(*operands), (operands, call)

    def backward(residuals: Any, dy: Array) -> tuple[Array, ...]:
        (x, w), call = residuals
        size = np.prod(w.shape[:-1]) ** -0.5 if deviation is None else deviation
        B = (size * jax.random.normal(key, w.shape)).astype(w.dtype)
        _, through_b = jax.vjp(lambda x: call(x, B), x)
        _, through_w = jax.vjp(lambda w: call(x, w), w)
        return *through_b(dy), *through_w(dy)

    return _with_rule("feedback_alignment", operation, forward, backward)


# ------------------------------------------------------------------------------------------
# An operation with another rule
# ------------------------------------------------------------------------------------------


def _with_rule(
    name: str, operation: Operation, forward: Callable[..., Any], backward: Callable[..., Any]
) -> Operation:
    """The operation with a rule: `forward(operands, call)` -> (y, residuals), and `backward`.

    The arguments that are no arrays, and those with a name, are options: they are bound in `call`.
    A report of `explicit` shows the rule's name.
    """

    @functools.wraps(operation)
    def with_rule(*args: Any, **options: Any) -> Array:
        count = sum(isinstance(arg, jax.Array | np.ndarray) for arg in args)
        operands, rest = args[:count], args[count:]

        def call(*operands: Array) -> Array:
            return operation(*operands, *rest, **options)

        ruled = jax.custom_vjp(lambda *operands: call(*operands))
        ruled.defvjp(lambda *operands: forward(operands, jax.tree_util.Partial(call)), backward)
        return ruled(*operands)

    with_rule.__name__ = name
    return with_rule


def _check_operation(operation: object) -> None:
    if not callable(operation):
        raise TypeError(
            f"operation: got {type(operation).__name__}; it must be a function, such as cnnvjp.conv"
        )


__all__ = ["deconv_relu", "feedback_alignment", "guided_relu", "lrp_epsilon", "straight_through"]
