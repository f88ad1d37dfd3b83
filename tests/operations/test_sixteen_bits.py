"""Activations and losses at every number that 16 bits can hold, against float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cnnvjp
from cnnvjp import sigmoid_cross_entropy, softmax_cross_entropy

ENTRYWISE = ["relu", "relu6", "leaky_relu", "elu", "hard_swish"]
ENTRYWISE += ["sigmoid", "tanh", "softplus", "silu", "gelu"]


def like(x, *numbers):
    """The same few numbers beside each of x."""
    return jnp.broadcast_to(jnp.array(numbers, x.dtype), (*x.shape, len(numbers)))


def beside_others(x):
    """Rows in which x is the largest of three, or between them, or the least."""
    return jnp.concatenate([x[..., None], like(x, 0.0, -1.5)], -1)


def one_of(f, i):
    return lambda x: f(beside_others(x))[..., i]


# Functions of an array of numbers, each acted on by itself
FUNCTIONS = {
    **{name: getattr(cnnvjp, name) for name in ENTRYWISE},
    "gelu, exact": lambda x: cnnvjp.gelu(x, approximate=False),
    "prelu": lambda x: cnnvjp.prelu(x, jnp.array(0.25, x.dtype)),
    "prelu's slope": jax.vmap(lambda slope: cnnvjp.prelu(jnp.array(-1.75, slope.dtype), slope)),
    **{f"softmax {i}": one_of(cnnvjp.softmax, i) for i in range(2)},
    **{f"log_softmax {i}": one_of(cnnvjp.log_softmax, i) for i in range(2)},
    "half_squared_error": lambda y: cnnvjp.half_squared_error(y[..., None], like(y, 1.5)),
    "half_squared_error's t": lambda t: cnnvjp.half_squared_error(like(t, 1.5), t[..., None]),
    **{
        f"softmax_cross_entropy of {i}": lambda x, i=i: softmax_cross_entropy(
            beside_others(x), jnp.full(x.shape, i)
        )
        for i in range(2)
    },
    **{
        f"softmax_cross_entropy of {shares}": lambda x, shares=shares: softmax_cross_entropy(
            beside_others(x), like(x, *shares)
        )
        for shares in [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.25, 0.25, 0.5)]
    },
    "softmax_cross_entropy's labels": lambda t: softmax_cross_entropy(
        like(t, 2.0, 0.0, -1.5), beside_others(t)
    ),
    **{
        f"sigmoid_cross_entropy of {t}": lambda x, t=t: sigmoid_cross_entropy(
            x, jnp.full_like(x, t)
        )
        for t in (0.0, 0.25, 1.0)
    },
    "sigmoid_cross_entropy's labels": lambda t: sigmoid_cross_entropy(jnp.full_like(t, 1.25), t),
}

# Below, a factor in float32 may be subnormal, which XLA:CPU takes for zero.
VANISHING = 2.0**-119


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_derivatives_are_those_of_float64_rounded(name, dtype):
    """Values and slopes within one unit in the last place, second derivatives of the largest."""

    @jax.jit
    def orders(x):
        slopes = jax.grad(lambda x: FUNCTIONS[name](x).sum())
        return FUNCTIONS[name](x), slopes(x), jax.grad(lambda x: slopes(x).sum())(x)

    info = jnp.finfo(dtype)
    x = jax.lax.bitcast_convert_type(jnp.arange(2**16, dtype="uint16"), jnp.dtype(dtype))
    x = x[jnp.isfinite(x)]
    (*found, curved), (*exact, exactly_curved) = (
        [np.asarray(a, "float64") for a in orders(x.astype(d))] for d in (dtype, "float64")
    )
    for actual, expected in zip(found, exact, strict=True):
        with np.errstate(over="ignore"):
            overflows = np.isinf(expected.astype(jnp.dtype(dtype)))
        assert (actual[overflows] == np.copysign(np.inf, expected[overflows])).all()
        actual, expected = actual[~overflows], expected[~overflows]
        exponent = np.floor(np.log2(np.maximum(abs(expected), float(info.tiny))))
        unit = 2.0 ** (exponent - info.nmant)
        counts = abs(expected) > VANISHING
        assert (abs(actual - expected) <= np.where(counts, unit, VANISHING)).all()
    error = np.where(curved == exactly_curved, 0, abs(curved - exactly_curved))
    assert error.max() <= 2 * float(info.eps) * max(abs(exactly_curved).max(), 1)
