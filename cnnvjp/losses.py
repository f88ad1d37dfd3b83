"""Losses, each summed over what belongs to one example, none averaged over examples.

[J] 9 and 10 start backpropagation from E, and so do these: dE is its cotangent, 1 where E is
what is minimized.
"""

import functools
from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp
from jax import Array, lax

from cnnvjp._checks.arrays import integer_operand, number_operand, operands
from cnnvjp._checks.compiled import call
from cnnvjp._checks.options import axes_option
from cnnvjp._types import is_integer, unify_layout, unify_varying, widened
from cnnvjp.softmax_activations import log_sum_of_powers, shares_less, to_the_last_place

# ------------------------------------------------------------------------------------------
# half_squared_error
# ------------------------------------------------------------------------------------------


def half_squared_error(
    y: chex.Array, t: chex.Array, *, axis: int | Sequence[int] | None = -1
) -> jax.Array:
    """Half the sum of squared errors: E = ½ Σ (t − y)².

    Gradients:

        dy = (y − t) · dE
        dt = (t − y) · dE

    The ½ makes the derivative y − t. It is neither divided by the number of predictions,
    though [J] calls it a mean, nor is it Optax's `squared_error`, which has no ½ and no sum.

    Args:
        y: predictions, of any shape.
        t: targets, of y's shape and dtype.
        axis: the axis or axes summed over; None for all of them.

    Returns:
        E, of y's dtype, and of its shape without the axes summed over.

    Raises:
        TypeError: if the arrays differ in dtype or are not floating.
        ValueError: if their shapes differ, or y has no such axis.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> y, t = jnp.array([1.0, 2.0]), jnp.array([1.0, 5.0])
        >>> jax.value_and_grad(half_squared_error)(y, t)
        (Array(4.5, dtype=float32), Array([ 0., -3.], dtype=float32))

    Source: [J] 9.
    """
    y, t = operands(y=y, t=t)
    if t.shape != y.shape:
        raise ValueError(f"t: got the shape {t.shape}; it must be that of y, {y.shape}")
    axes = tuple(range(y.ndim)) if axis is None else axes_option("axis", axis, y)
    return call(_half_squared_error, *unify_layout(y, t), axes)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _half_squared_error(y, t, axes):
    return _half_sum_of_squared_errors(y, t, axes)


def _half_sum_of_squared_errors(y: Array, t: Array, axes: tuple[int, ...]) -> Array:
    """[J] 9."""
    error = widened(t) - widened(y)
    return jnp.sum(error * (error / 2), axes).astype(y.dtype)  # the square alone could overflow


def _half_squared_error_fwd(y, t, axes):
    return _half_sum_of_squared_errors(y, t, axes), (y, t)  # rather than a third array, t − y


def _half_squared_error_bwd(axes, residuals, dE):
    y, t = residuals
    dy = (widened(y) - widened(t)) * jnp.expand_dims(widened(dE), axes)  # [J] 9: ∂E/∂y = y − t
    dt = -dy  # [J] 9: ∂E/∂t = t − y
    return dy.astype(y.dtype), dt.astype(t.dtype)


_half_squared_error.defvjp(_half_squared_error_fwd, _half_squared_error_bwd)


# ------------------------------------------------------------------------------------------
# softmax_cross_entropy
# ------------------------------------------------------------------------------------------


def softmax_cross_entropy(logits: chex.Array, labels: chex.Array | int) -> jax.Array:
    """The cross entropy of labels and softmax(logits), per example: E = −Σ t · log p.

        p = softmax(logits)   and   t = labels, or the unit vector of an integer label

    Gradients:

        dlogits = (p · Σ t − t) · dE, which is (p − t) · dE where the labels sum to 1
        dlabels = −log p · dE, for labels that are not integers

    A term whose label is 0 and whose logit is −∞, a class that is masked out, is left out of
    E and of both gradients.

    Args:
        logits: net inputs of the softmax, (..., K), of any size.
        labels: the index of each example's class, (...), an integer from 0 to K − 1; or the
            share of each class, (..., K), of logits' dtype. An integer outside that range
            makes E NaN. Its gradient is p · dE then: where such examples are masked with
            `jnp.where(valid, E, 0)`, they have no effect.

    Returns:
        E, (...), of logits' dtype.

    Raises:
        TypeError: if logits are not floating, or labels neither integers nor of their dtype.
        ValueError: if the shapes do not fit together, or there is no class.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> softmax_cross_entropy(jnp.array([1000.0, 0.0]), jnp.array(1))
        Array(1000., dtype=float32)
        >>> jax.grad(softmax_cross_entropy)(jnp.zeros(2), jnp.array(1))
        Array([ 0.5, -0.5], dtype=float32)

    Source: the loss for the softmax layer of [H] fig. 8.11.
    """
    (logits,) = operands(logits=logits)
    if logits.ndim < 1 or logits.shape[-1] == 0:
        raise ValueError(f"logits: got the shape {logits.shape}; it must be (..., K) with K ≥ 1")
    if isinstance(labels, int) and not isinstance(labels, bool):
        labels = number_operand("labels", labels, jnp.dtype("int32"))
    if is_integer(getattr(labels, "dtype", None)):
        labels = integer_operand("labels", labels)
        _check_labels(labels, logits.shape[:-1], logits)
        if labels.dtype.itemsize < 4:  # there may be more classes than it can count
            labels = labels.astype(jnp.int32)
        return call(_index_cross_entropy, *unify_varying(logits, labels))
    logits, shares = operands(logits=logits, labels=labels)
    _check_labels(shares, logits.shape, logits)
    return call(_softmax_cross_entropy, *unify_layout(logits, shares))


def _check_labels(labels: Array, expected: tuple[int, ...], logits: Array) -> None:
    if labels.shape != expected:
        raise ValueError(
            f"labels: got the shape {labels.shape} of {labels.dtype}; for logits of shape "
            f"{logits.shape} it must be {logits.shape[:-1]} of integers, or {logits.shape} of "
            f"{logits.dtype}"
        )


@jax.custom_vjp
def _softmax_cross_entropy(logits, labels):
    return _expected_surprise(logits, labels, *_normalizer(logits))


def _normalizer(logits: Array) -> tuple[Array, Array]:
    """`m` and log Σ e^(x − m), with m the largest logit: two small numbers, kept apart.

    Their sum would lose the logarithm beside a huge m. As m cancels, it has no derivative.
    """
    x = widened(logits)
    largest = lax.stop_gradient(jnp.max(x, -1, keepdims=True))
    return largest, log_sum_of_powers(x - largest, -1, to_the_last_place(logits))


def _log_p(logits: Array, largest: Array, log_sum: Array) -> Array:
    return widened(logits) - largest - log_sum


def _without_masked(log_p: Array, labels: Array) -> Array:
    """Log p with 0 for −∞ where the label is 0, so that the term is 0 and not 0 · ∞."""
    return jnp.where((labels == 0) & (log_p == -jnp.inf), 0, log_p)


def _expected_surprise(logits: Array, labels: Array, largest: Array, log_sum: Array) -> Array:
    log_p = _without_masked(_log_p(logits, largest, log_sum), labels)
    return -jnp.sum(widened(labels) * log_p, -1).astype(logits.dtype)


def _softmax_cross_entropy_fwd(logits, labels):
    largest, log_sum = _normalizer(logits)  # saved in place of p: two numbers per example
    E = _expected_surprise(logits, labels, largest, log_sum)
    return E, (logits, labels, largest, log_sum)


def _softmax_cross_entropy_bwd(residuals, dE):
    logits, labels, largest, log_sum = residuals  # the last two (..., 1), in at least float32
    log_p = _log_p(logits, largest, log_sum)
    t, dE = widened(labels), widened(dE)[..., None]
    # ∂E/∂x_i = −Σ_j t_j ∂(log p_j)/∂x_i = −Σ_j t_j · ((i = j) − p_i)
    dlogits = (
        shares_less(log_p, jnp.sum(t, -1, keepdims=True), t, -1, to_the_last_place(logits)) * dE
    )
    dlabels = -_without_masked(log_p, labels) * dE  # ∂E/∂t = −log p
    return dlogits.astype(logits.dtype), dlabels.astype(labels.dtype)


_softmax_cross_entropy.defvjp(_softmax_cross_entropy_fwd, _softmax_cross_entropy_bwd)


@jax.custom_vjp
def _index_cross_entropy(logits, labels):
    return _surprise(logits, labels, *_normalizer(logits))


def _surprise(logits: Array, labels: Array, largest: Array, log_sum: Array) -> Array:
    known = (labels >= 0) & (labels < logits.shape[-1])
    index = jnp.where(known, labels, 0)[..., None]
    chosen = _log_p(jnp.take_along_axis(logits, index, -1), largest, log_sum)[..., 0]
    return jnp.where(known, -chosen, jnp.nan).astype(logits.dtype)


def _is_label(labels: Array, logits: Array) -> Array:
    """Which class is the example's, as (..., K)."""
    classes = lax.broadcasted_iota(
        labels.dtype, (1,) * labels.ndim + logits.shape[-1:], labels.ndim
    )
    return labels[..., None] == classes


def _index_cross_entropy_fwd(logits, labels):
    largest, log_sum = _normalizer(logits)  # saved in place of p
    return _surprise(logits, labels, largest, log_sum), (logits, labels, largest, log_sum)


def _index_cross_entropy_bwd(residuals, dE):
    logits, labels, largest, log_sum = residuals  # the last two (..., 1), in at least float32
    log_p = _log_p(logits, largest, log_sum)
    t = _is_label(labels, logits).astype(log_p.dtype)
    # −∂(log p at the label)/∂logits = p − t
    dlogits = shares_less(log_p, 1, t, -1, to_the_last_place(logits)) * widened(dE)[..., None]
    return dlogits.astype(logits.dtype), None  # an index has no gradient


_index_cross_entropy.defvjp(_index_cross_entropy_fwd, _index_cross_entropy_bwd)


# ------------------------------------------------------------------------------------------
# sigmoid_cross_entropy
# ------------------------------------------------------------------------------------------


def sigmoid_cross_entropy(logits: chex.Array, labels: chex.Array) -> jax.Array:
    """The cross entropy of each label and its probability σ(x): E = −t log p − (1 − t) log(1 − p).

    It is computed as max(x, 0) − x · t + log(1 + e^−|x|), in which nothing overflows.

    Gradients, with p = σ(logits):

        dlogits = (p − t) · dE
        dlabels = −logits · dE

    Where the logit is infinite and the label agrees with it, the loss and both gradients
    are 0.

    Args:
        logits: net inputs of the sigmoid, of any shape and size.
        labels: from 0 to 1, of logits' shape and dtype.

    Returns:
        E, of logits' shape and dtype: nothing is summed.

    Raises:
        TypeError: if the arrays differ in dtype or are not floating.
        ValueError: if their shapes differ.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> x, t = jnp.array([-1000.0, 1000.0]), jnp.array([0.0, 0.0])
        >>> sigmoid_cross_entropy(x, t)
        Array([   0., 1000.], dtype=float32)
        >>> jax.grad(lambda x: sigmoid_cross_entropy(x, t).sum())(x)
        Array([0., 1.], dtype=float32)

    Source: as `softmax_cross_entropy`, with two classes and the logits x and 0.
    """
    logits, labels = operands(logits=logits, labels=labels)
    if labels.shape != logits.shape:
        raise ValueError(
            f"labels: got the shape {labels.shape}; it must be that of logits, {logits.shape}"
        )
    return call(_sigmoid_cross_entropy, *unify_layout(logits, labels))


@jax.custom_vjp
def _sigmoid_cross_entropy(logits, labels):
    return _binary_surprise(logits, labels)


def _binary_surprise(logits: Array, labels: Array) -> Array:
    x, t = widened(logits), widened(labels)
    # One selection for max and |·|, whose derivatives at 0 must fit together.
    positive = x > 0
    linear = (positive.astype(t.dtype) - t) * _without_certain(x, t)  # max(x, 0) − x · t
    return (linear + jnp.log1p(jnp.exp(jnp.where(positive, -x, x)))).astype(logits.dtype)


def _without_certain(x: Array, t: Array) -> Array:
    """`x` with 0 for ±∞ where the label agrees, so that the term is 0 and not 0 · ∞."""
    agrees = ((x == jnp.inf) & (t == 1)) | ((x == -jnp.inf) & (t == 0))
    return jnp.where(agrees, 0, x)


def _sigmoid_cross_entropy_fwd(logits, labels):
    return _binary_surprise(logits, labels), (logits, labels)


def _sigmoid_cross_entropy_bwd(residuals, dE):
    logits, labels = residuals
    x, t, dE = widened(logits), widened(labels), widened(dE)
    # p − t, from 1 − p where p is the larger part: it cancels with t = 1
    part = lax.logistic(jnp.where(x > 0, -x, x))
    dlogits = jnp.where(x > 0, (1 - t) - part, part - t) * dE
    dlabels = -_without_certain(x, t) * dE  # −log(p / (1 − p)) = −x
    return dlogits.astype(logits.dtype), dlabels.astype(labels.dtype)


_sigmoid_cross_entropy.defvjp(_sigmoid_cross_entropy_fwd, _sigmoid_cross_entropy_bwd)
