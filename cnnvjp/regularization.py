"""Against overfitting: dropout, and the penalty on large weights."""

import functools
from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp
import numpy as np
from chex import ArrayTree
from jax import Array

from cnnvjp._checks.arrays import key_operand, operands
from cnnvjp._checks.compiled import call
from cnnvjp._checks.options import axes_option, number_option
from cnnvjp._types import accumulator, unify_varying, widened, wider

# ------------------------------------------------------------------------------------------
# dropout
# ------------------------------------------------------------------------------------------


def dropout(
    key: chex.PRNGKey, x: chex.Array, rate: float, *, broadcast_axes: int | Sequence[int] = ()
) -> jax.Array:
    """Drops each entry with a probability, and scales up those that stay.

        y = x / (1 − rate) where kept, else 0

    so that y's expectation is x ("inverted" dropout), and nothing is left to do when the
    network is used.

    Gradient, with the same draw:

        dx = dy / (1 − rate) where kept, else 0

    Args:
        key: a `jax.random.key`, or one of the older kind. Each call needs its own; so does,
            inside `shard_map`, each device (`jax.random.fold_in` with the device's index).
        x: of any shape.
        rate: the probability of being dropped, a Python number from 0 to 1. 0 returns x, 1
            zeros.
        broadcast_axes: axes along which one draw is shared. The spatial axes, (-3, -2) for
            images, drop whole maps ("spatial" dropout).

    Returns:
        y, of x's shape and dtype.

    Raises:
        TypeError: if key is not a key, or x not a floating array.
        ValueError: if rate is not from 0 to 1, or x has no such axes.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> y = dropout(jax.random.key(0), jnp.ones((4, 8, 8, 2)), 0.5, broadcast_axes=(1, 2))
        >>> bool((y == y[:, :1, :1]).all()), jnp.unique(y)
        (True, Array([0., 2.], dtype=float32))

    Source: Srivastava et al., "Dropout" (2014); [B], "We Use Advanced Techniques".
    """
    (x,) = operands(x=x)
    key = key_operand(key)
    rate = number_option("rate", rate, low=0, high=1)
    shared = axes_option("broadcast_axes", broadcast_axes, x)
    if rate == 0:
        return x
    drawn = tuple(1 if axis in shared else n for axis, n in enumerate(x.shape))
    # The same draws with 64-bit numbers enabled and without.
    kept = jax.random.bernoulli(key, np.float32(1 - rate), drawn)
    return call(_dropout, x, kept, rate)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _dropout(x, kept, rate):
    return _masked(x, kept, rate)


def _masked(x: Array, kept: Array, rate: float) -> Array:
    scale = 1 / (1 - rate) if rate < 1 else 0.0
    return jnp.where(kept, (widened(x) * scale).astype(x.dtype), 0)


def _dropout_fwd(x, kept, rate):
    return _masked(x, kept, rate), kept


def _dropout_bwd(rate, kept, dy):
    return _masked(dy, kept, rate), None  # diagonal, so its own adjoint; a draw has no gradient


_dropout.defvjp(_dropout_fwd, _dropout_bwd)


# ------------------------------------------------------------------------------------------
# l2_penalty
# ------------------------------------------------------------------------------------------


def l2_penalty(params: ArrayTree) -> jax.Array:
    """Half the sum of all squared weights: L = ½ Σ w².

    Gradient:

        dw = w · dL, so that a step along it makes each weight smaller in proportion

    Args:
        params: a tree of floating arrays, such as the weights of a network without their
            biases. Dtypes may differ from leaf to leaf.

    Returns:
        L, a scalar of the widest dtype of the leaves' sums, which is at least float32; 0 for
        a tree without leaves.

    Raises:
        TypeError: if a leaf is not a floating array.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> params = {"w": jnp.array([3.0, 4.0])}
        >>> l2_penalty(params), jax.grad(l2_penalty)(params)
        (Array(12.5, dtype=float32), {'w': Array([3., 4.], dtype=float32)})

    Source: [B], "We Use Advanced Techniques": "dropout and regularization, to reduce the impact
    of overfitting".
    """
    leaves: list[jax.Array] = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        leaves += operands(**{f"params{jax.tree_util.keystr(path)}": leaf})
    if not leaves:
        return jnp.zeros((), jnp.float32)
    return call(_l2_penalty, unify_varying(*leaves))


@jax.custom_vjp
def _l2_penalty(leaves):
    return _half_sum_of_squares(leaves)


def _half_sum_of_squares(leaves: tuple[Array, ...]) -> Array:
    dtype = functools.reduce(wider, (accumulator(w.dtype) for w in leaves))
    wide = map(widened, leaves)  # of which the squares alone could overflow
    return sum((jnp.sum(w * (w / 2)).astype(dtype) for w in wide), jnp.zeros((), dtype))


def _l2_penalty_fwd(leaves):
    return _half_sum_of_squares(leaves), leaves


def _l2_penalty_bwd(leaves, dloss):
    dleaves = [widened(w) * dloss.astype(accumulator(w.dtype)) for w in leaves]  # ∂(½ w²)/∂w = w
    return (tuple(dw.astype(w.dtype) for dw, w in zip(dleaves, leaves, strict=True)),)


_l2_penalty.defvjp(_l2_penalty_fwd, _l2_penalty_bwd)
