"""The activations: relu to hard_swish, sigmoid to gelu, softmax and its logarithm."""

import functools
import math
import statistics

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checker import (
    assert_close,
    check_first_order,
    check_low_precision,
    check_second_order,
    normal,
    value_and_cotangents,
)
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from cnnvjp import equations
from cnnvjp.activations import elu, hard_swish, leaky_relu, prelu, relu, relu6
from cnnvjp.smooth_activations import gelu, sigmoid, silu, softplus, tanh
from cnnvjp.softmax_activations import log_softmax, softmax

INF, NAN = math.inf, math.nan
GAUSS = statistics.NormalDist()


def gelu_slope(x):
    u = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    du = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x**2)
    return (1 + math.tanh(u)) / 2 + x * (1 - math.tanh(u) ** 2) * du / 2


def logistic(x):
    return 1 / (1 + math.exp(-x))


# name, the activation, the same in jnp, and its derivative as a function of one number
ENTRYWISE = [
    ("relu", relu, jax.nn.relu, lambda n: float(n > 0)),
    ("relu6", relu6, jax.nn.relu6, lambda n: float(0 < n < 6)),
    (
        "leaky_relu",
        lambda x: leaky_relu(x, 0.3),
        lambda x: jnp.where(x > 0, x, 0.3 * x),
        lambda n: 1.0 if n > 0 else 0.3,
    ),
    (
        "elu",
        lambda x: elu(x, 1.7),
        lambda x: jax.nn.elu(x, 1.7),
        lambda n: 1.0 if n > 0 else 1.7 * math.exp(n),
    ),
    (
        "hard_swish",
        hard_swish,
        lambda x: x * jax.nn.relu6(x + 3) / 6,
        lambda n: 0.0 if n <= -3 else 1.0 if n >= 3 else (2 * n + 3) / 6,
    ),
    (
        "sigmoid",
        sigmoid,
        lambda x: 1 / (1 + jnp.exp(-x)),
        lambda n: logistic(n) * logistic(-n),
    ),
    ("tanh", tanh, jnp.tanh, lambda n: 1 / math.cosh(n) ** 2),
    ("softplus", softplus, lambda x: jnp.log(1 + jnp.exp(x)), logistic),
    (
        "silu",
        silu,
        lambda x: x / (1 + jnp.exp(-x)),
        lambda n: logistic(n) * (1 + n * logistic(-n)),
    ),
    ("gelu", gelu, lambda x: jax.nn.gelu(x, approximate=True), gelu_slope),
    (
        "gelu_exact",
        lambda x: gelu(x, approximate=False),
        lambda x: x * (1 + jax.lax.erf(x / math.sqrt(2))) / 2,
        lambda n: GAUSS.cdf(n) + n * GAUSS.pdf(n),
    ),
]
NAMES = [row[0] for row in ENTRYWISE]
each = pytest.mark.parametrize("name, f, reference, slope", ENTRYWISE, ids=NAMES)


def wide(rng, *shape):
    """Numbers on all pieces, none of them at a kink."""
    return 3 * normal(rng, *shape)


@pytest.mark.versions
@each
def test_values_and_gradients(rng, name, f, reference, slope):
    check_first_order(f, reference, wide(rng, 2, 5, 7))


def all_at_once(functions):
    """Each function of an argument of its own, compiled together."""
    return lambda *xs: tuple(f(x) for f, x in zip(functions, xs, strict=True))


ALL = all_at_once([f for _, f, _, _ in ENTRYWISE])
ALL_REFERENCES = all_at_once([reference for _, _, reference, _ in ENTRYWISE])


@pytest.mark.parametrize("shape", [(), (0, 3)])
def test_any_shape(rng, shape):
    check_first_order(ALL, ALL_REFERENCES, *(wide(rng, *shape) for _ in ENTRYWISE))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_low_precision(rng, dtype):
    check_low_precision(ALL, *(wide(rng, 50) for _ in ENTRYWISE), dtype=dtype)


@each
def test_the_sources_rule(rng, name, f, reference, slope):
    """dN = Ḟ ∘ dA ([H] 8.52, 8.53; [B]), with the derivative written out by hand."""
    n, da = wide(rng, 2, 3, 4), normal(rng, 2, 3, 4)
    _, (dn,) = value_and_cotangents(f, (n,), da)
    assert_close(dn, equations.h_8_52(slope, n, da))
    assert_close(dn, equations.b_activation_backward(da, n, slope))


@each
def test_second_order(rng, name, f, reference, slope):
    check_second_order(f, reference, wide(rng, 12))


# activation, x, y, and y' as the docstrings state it
KINKS = [
    (relu, 0, 0, 0),
    (relu6, 0, 0, 0),
    (relu6, 6, 6, 0),
    (leaky_relu, 0, 0, 0.01),
    (lambda x: leaky_relu(x, -2), 0, 0, -2),
    (lambda x: prelu(x, 0.25), 0, 0, 0.25),
    (elu, 0, 0, 1),
    (lambda x: elu(x, 0.5), 0, 0, 0.5),
    (hard_swish, -3, 0, 0),
    (hard_swish, 3, 3, 1),
]


@pytest.mark.parametrize("f, x, y, slope", KINKS)
def test_at_a_kink(f, x, y, slope):
    x = jnp.asarray(x, "float64")
    assert f(x) == y and jax.grad(f)(x) == slope
    # What JAX makes of the forward pass in a second derivative must take the same side.
    hessian = jax.hessian(lambda p: p[0] * f(p[1]))(jnp.stack([jnp.ones_like(x), x]))
    assert hessian[0, 1] == hessian[1, 0] == slope


# activation, y at −∞ and ∞, y' at −∞ and ∞
LIMITS = [
    (relu, (0, INF), (0, 1)),
    (relu6, (0, 6), (0, 0)),
    (leaky_relu, (-INF, INF), (0.01, 1)),
    (elu, (-1, INF), (0, 1)),
    (hard_swish, (0, INF), (0, 1)),
    (sigmoid, (0, 1), (0, 0)),
    (tanh, (-1, 1), (0, 0)),
    (softplus, (0, INF), (0, 1)),
    (silu, (0, INF), (0, 1)),
    (gelu, (0, INF), (0, 1)),
    (functools.partial(gelu, approximate=False), (0, INF), (0, 1)),
]


@pytest.mark.parametrize("f, values, slopes", LIMITS)
def test_at_infinity_and_close_to_it(f, values, slopes):
    @jax.jit
    def to_second_order(x):
        first = lambda x: jax.grad(lambda x: f(x).sum())(x)
        return f(x), first(x), jax.grad(lambda x: first(x).sum())(x)

    y, first, second = to_second_order(jnp.array([-INF, INF, NAN]))
    np.testing.assert_array_equal(y, [*values, NAN])
    np.testing.assert_array_equal(first[:2], slopes)
    np.testing.assert_array_equal(second[:2], 0)
    for dtype in ("float16", "float64"):
        largest = jnp.finfo(dtype).max
        y, first, second = to_second_order(jnp.array([-largest, largest], dtype))
        assert jnp.isfinite(y).all()
        np.testing.assert_array_equal(first, np.asarray(slopes, dtype))
        np.testing.assert_array_equal(second, 0)


def test_no_digits_are_lost_far_out():
    """Where y is 0 or 1 to all digits, or almost, the derivatives of the others still tell."""
    x = -30.0
    assert_close(jax.grad(elu)(x), math.exp(x), tolerance=1e-14)
    assert_close(softplus(jnp.array(x)), math.log1p(math.exp(x)), tolerance=1e-14)
    assert_close(silu(jnp.array(x)), x * logistic(x), tolerance=1e-14)
    assert_close(gelu(jnp.array(-12.0), False), -12 * math.erfc(12 / math.sqrt(2)) / 2)


# ------------------------------------------------------------------------------------------
# prelu
# ------------------------------------------------------------------------------------------


def prelu_reference(x, slope):
    return jnp.where(x > 0, x, jnp.broadcast_to(slope, x.shape) * x)


@pytest.mark.versions
@pytest.mark.parametrize("shape", [(4,), (2, 3, 5, 4), (0, 4)])
@pytest.mark.parametrize("tied", [False, True])
def test_prelu(rng, shape, tied):
    slope = normal(rng) if tied else normal(rng, 4)
    check_first_order(prelu, prelu_reference, normal(rng, *shape), slope)


def test_prelu_second_order(rng):
    check_second_order(prelu, prelu_reference, normal(rng, 3, 4), normal(rng, 4))


def test_prelu_sums_where_the_input_is_negative():
    x = jnp.array([[-1.0, 2.0], [-3.0, -5.0]])
    dy = jnp.array([[1.0, 1.0], [2.0, 4.0]])
    _, (dx, dslope) = value_and_cotangents(prelu, (x, jnp.array([10.0, 100.0])), dy)
    np.testing.assert_array_equal(dx, [[10, 1], [20, 400]])
    np.testing.assert_array_equal(dslope, [-1 * 1 - 3 * 2, -5 * 4])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_prelu_low_precision(rng, dtype):
    check_low_precision(prelu, normal(rng, 40, 3), normal(rng, 3), dtype=dtype)


def test_prelu_under_vmap_and_on_a_mesh(rng):
    x, slope = normal(rng, 8, 3, 4), normal(rng, 8, 4)
    gradient = jax.grad(lambda x, slope: jnp.sum(jnp.sin(prelu(x, slope))), (0, 1))
    together = jax.vmap(gradient)(x, slope)
    for i in range(2):
        jax.tree.map(lambda a, b, i=i: assert_close(a[i], b), together, gradient(x[i], slope[i]))
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        spread = jax.device_put(x, NamedSharding(mesh, P("batch")))
        dx, dslope = jax.jit(gradient)(spread, jax.device_put(slope[0], NamedSharding(mesh, P())))
        assert jax.typeof(dx).sharding.spec == P("batch", None, None)
    expected = gradient(x, slope[0])
    assert_close(dx, expected[0])
    assert_close(dslope, expected[1])


# ------------------------------------------------------------------------------------------
# softmax, log_softmax
# ------------------------------------------------------------------------------------------


def softmax_reference(x, axis=-1):
    return jnp.exp(x) / jnp.sum(jnp.exp(x), axis, keepdims=True)


def log_softmax_reference(x, axis=-1):
    return x - jnp.log(jnp.sum(jnp.exp(x), axis, keepdims=True))


PAIRS = [(softmax, softmax_reference), (log_softmax, log_softmax_reference)]
both = pytest.mark.parametrize("f, reference", PAIRS, ids=["softmax", "log_softmax"])


@pytest.mark.versions
@pytest.mark.parametrize(
    "shape, axis", [((4,), -1), ((2, 3, 4), -1), ((2, 3, 4), 1), ((0, 3), 1)]
)  # fmt: skip
@both
def test_softmax(rng, f, reference, shape, axis):
    check_first_order(lambda x: f(x, axis=axis), lambda x: reference(x, axis), normal(rng, *shape))


@both
def test_softmax_second_order(rng, f, reference):
    check_second_order(lambda x: f(x, axis=0), lambda x: reference(x, 0), normal(rng, 4, 2))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@both
def test_softmax_low_precision(rng, f, reference, dtype):
    check_low_precision(f, normal(rng, 6, 5), dtype=dtype)


@both
def test_softmax_of_huge_and_of_masked_inputs(f, reference):
    x, offset = jnp.array([1.0, 2.0, 4.0]), 2.0**40  # exact, so that nothing is rounded off
    dy = jnp.array([1.0, -2.0, 0.5])
    for got, want in zip(
        jax.tree.leaves(value_and_cotangents(f, (x + offset,), dy)),
        jax.tree.leaves(value_and_cotangents(reference, (x,), dy)),
        strict=True,
    ):
        assert_close(got, want)
    # An entry of −∞ is as good as absent.
    masked = jnp.array([1.0, -INF, 2.0, 4.0])
    present = np.array([0, 2, 3])
    y, (dx,) = value_and_cotangents(f, (masked,), jnp.array([1.0, 0.0, -2.0, 0.5]))
    want_y, (want_dx,) = value_and_cotangents(f, (x,), dy)
    assert_close(y[present], want_y)
    assert_close(dx[present], want_dx)
    assert dx[1] == 0 and y[1] == (0 if f is softmax else -INF)


def test_softmax_sums_to_one(rng):
    x = 100 * normal(rng, 5, 7)
    assert_close(jnp.sum(softmax(x), -1), jnp.ones(5))
    assert_close(jnp.exp(log_softmax(x)), softmax(x))
    assert softmax(jnp.array([3.0])) == 1 and log_softmax(jnp.array([3.0])) == 0


@pytest.mark.parametrize("f", [softmax, log_softmax])
def test_shares_of_nothing(f):
    for shape, axis in [((5, 0, 0), -1), ((0,), 0), ((2, 0, 3), 1), ((0, 4), 1)]:
        y, pullback = jax.vjp(functools.partial(f, axis=axis), jnp.ones(shape))
        assert y.shape == shape
        assert pullback(y)[0].shape == shape
