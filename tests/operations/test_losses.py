"""half_squared_error, softmax_cross_entropy and sigmoid_cross_entropy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checker import (
    assert_close,
    check_first_order,
    check_low_precision,
    check_second_order,
    integers,
    normal,
    value_and_cotangents,
)
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from cnnvjp import equations
from cnnvjp.losses import half_squared_error, sigmoid_cross_entropy, softmax_cross_entropy

INF = math.inf
LOW = pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])


def shares(rng, *shape):
    """Labels that sum to 1 over the last axis."""
    weights = jnp.exp(normal(rng, *shape))
    return weights / jnp.sum(weights, -1, keepdims=True)


# ------------------------------------------------------------------------------------------
# half_squared_error
# ------------------------------------------------------------------------------------------


@pytest.mark.versions
@pytest.mark.parametrize(
    "shape, axis",
    [
        ((4,), -1),
        ((2, 3, 4), 1),
        ((2, 3, 4), (0, -1)),
        ((2, 3, 4), None),
        ((0, 3), 0),
        ((2, 0), -1),
        ((), None),
        ((2, 3), ()),
    ],
)
def test_half_squared_error(rng, shape, axis):
    check_first_order(
        lambda y, t: half_squared_error(y, t, axis=axis),
        lambda y, t: 0.5 * jnp.sum((t - y) ** 2, axis),
        normal(rng, *shape),
        normal(rng, *shape),
    )


def test_half_squared_error_is_the_sources(rng):
    y, t = normal(rng, 7), normal(rng, 7)
    assert_close(half_squared_error(y, t), equations.j_9(t, y))


def test_half_squared_error_by_hand():
    y, t = jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([[1.0, 0.0], [7.0, 1.0]])
    E, (dy, dt) = value_and_cotangents(half_squared_error, (y, t), jnp.array([1.0, 10.0]))
    np.testing.assert_array_equal(E, [2, 12.5])
    np.testing.assert_array_equal(dy, [[0, 2], [-40, 30]])
    np.testing.assert_array_equal(dt, -dy)


def test_half_squared_error_second_order(rng):
    check_second_order(
        half_squared_error,
        lambda y, t: jnp.sum((t - y) ** 2, -1) / 2,
        normal(rng, 2, 3),
        normal(rng, 2, 3),
    )


@LOW
def test_half_squared_error_low_precision(rng, dtype):
    check_low_precision(half_squared_error, normal(rng, 5, 40), normal(rng, 5, 40), dtype=dtype)


# ------------------------------------------------------------------------------------------
# softmax_cross_entropy
# ------------------------------------------------------------------------------------------


def cross_entropy_reference(logits, labels):
    log_p = logits - jnp.log(jnp.sum(jnp.exp(logits), -1, keepdims=True))
    return -jnp.sum(labels * log_p, -1)


SHAPES = [(3,), (4, 5), (2, 3, 2, 4), (0, 3), (2, 1)]


@pytest.mark.versions
@pytest.mark.parametrize("shape", SHAPES[:4])
def test_shares_as_labels(rng, shape):
    check_first_order(
        softmax_cross_entropy, cross_entropy_reference, normal(rng, *shape), shares(rng, *shape)
    )


def test_labels_need_not_sum_to_one(rng):
    check_first_order(
        softmax_cross_entropy, cross_entropy_reference, normal(rng, 4, 5), normal(rng, 4, 5)
    )


@pytest.mark.versions
@pytest.mark.parametrize("kind", ["int32", "uint8"])
@pytest.mark.parametrize("shape", SHAPES[:4])
def test_integer_labels(rng, shape, kind):
    labels = integers(rng, *shape[:-1], dtype=kind, low=0, high=shape[-1])
    one_hot = jnp.asarray(np.eye(shape[-1])[np.asarray(labels)])
    check_first_order(
        lambda logits: softmax_cross_entropy(logits, labels),
        lambda logits: cross_entropy_reference(logits, one_hot),
        normal(rng, *shape),
    )


def test_small_integers_do_not_wrap_round():
    """Class 300 is not class 44, which is the same in 8 bits."""
    logits = jnp.zeros(301).at[300].set(9.0).at[44].set(5.0)
    loss, slope = jax.value_and_grad(softmax_cross_entropy)(logits, jnp.array(44, "uint8"))
    want, want_slope = jax.value_and_grad(softmax_cross_entropy)(logits, jnp.array(44))
    assert loss == want
    np.testing.assert_array_equal(slope, want_slope)


def test_softmax_cross_entropy_by_hand():
    """Two equal logits: p = ½, E = log 2, and the gradient is p − t."""
    loss, slope = jax.value_and_grad(softmax_cross_entropy)(jnp.zeros(2), jnp.array(1))
    assert_close(loss, math.log(2))
    np.testing.assert_array_equal(slope, [0.5, -0.5])


def test_softmax_cross_entropy_second_order(rng):
    logits = normal(rng, 2, 3)
    check_second_order(softmax_cross_entropy, cross_entropy_reference, logits, shares(rng, 2, 3))
    check_second_order(
        lambda logits: softmax_cross_entropy(logits, jnp.array([2, 0])),
        lambda logits: cross_entropy_reference(logits, jnp.eye(3)[jnp.array([2, 0])]),
        logits,
    )


@LOW
def test_softmax_cross_entropy_low_precision(rng, dtype):
    logits, labels = 3 * normal(rng, 6, 5), integers(rng, 6, low=0, high=5)
    check_low_precision(softmax_cross_entropy, logits, shares(rng, 6, 5), dtype=dtype)
    check_low_precision(lambda x: softmax_cross_entropy(x, labels), logits, dtype=dtype)


@pytest.mark.parametrize("one_hot", [False, True])
def test_huge_and_masked_logits(one_hot):
    def gradients(logits, label):
        labels = jnp.eye(logits.size)[label] if one_hot else jnp.array(label)
        return jax.value_and_grad(softmax_cross_entropy)(logits, labels)

    x = jnp.array([1.0, 2.0, 4.0])
    expected = gradients(x, 0)
    # A power of two offset is exact; beside it, the logarithm of a sum is not lost.
    jax.tree.map(assert_close, gradients(x + 2.0**48, 0), expected)
    # An entry of −∞ is as good as absent.
    loss, slope = gradients(jnp.array([1.0, 2.0, -INF, 4.0]), 0)
    assert_close(loss, expected[0])
    assert_close(slope[jnp.array([0, 1, 3])], expected[1])
    assert slope[2] == 0
    # But not where it is the label.
    assert gradients(jnp.array([-INF, 0.0]), 0)[0] == INF
    for dtype in ("float16", "float32", "float64"):
        largest = jnp.finfo(dtype).max
        label = jnp.eye(2, dtype=dtype)[0] if one_hot else jnp.array(0)
        slope = jax.grad(softmax_cross_entropy)(jnp.array([0, largest], dtype), label)
        np.testing.assert_array_equal(slope, [-1, 1])


def test_a_masked_class_has_no_gradient_in_the_labels():
    logits, labels = jnp.array([0.0, -INF, 0.0]), jnp.array([0.25, 0.0, 0.75])
    dlabels = jax.grad(softmax_cross_entropy, 1)(logits, labels)
    assert_close(dlabels, jnp.array([math.log(2), 0, math.log(2)]))
    hessian = jax.hessian(softmax_cross_entropy)(logits, labels)
    assert_close(hessian, jnp.array([[0.25, 0, -0.25], [0, 0, 0], [-0.25, 0, 0.25]]))


@pytest.mark.parametrize("label", [-1, 3, 2**31 - 1])
def test_a_label_out_of_range_is_not_a_class(label):
    logits = jnp.array([[0.0, 1.0, 2.0], [5.0, 3.0, 1.0]])
    labels = jnp.array([label, 2])

    def masked(logits):
        loss = softmax_cross_entropy(logits, labels)
        return jnp.sum(jnp.where(labels == 2, loss, 0))

    assert jnp.isnan(softmax_cross_entropy(logits, labels)[0])
    gradient = jax.grad(masked)(logits)
    np.testing.assert_array_equal(gradient[0], 0)
    assert_close(gradient[1], jax.grad(softmax_cross_entropy)(logits[1], jnp.array(2)))


def test_softmax_cross_entropy_under_vmap_and_on_a_mesh(rng):
    logits, labels = normal(rng, 8, 5), integers(rng, 8, low=0, high=5)
    gradient = jax.grad(lambda x, t: jnp.sum(softmax_cross_entropy(x, t)))
    expected = gradient(logits, labels)
    assert_close(jax.vmap(gradient)(logits, labels), expected)
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        along = NamedSharding(mesh, P("batch"))
        for sharding in (along, NamedSharding(mesh, P())):  # labels may lie elsewhere
            args = jax.device_put((logits, labels), (along, sharding))
            assert_close(jax.jit(gradient)(*args), expected)
    # Inside shard_map, replicated logits vary with labels that do.
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,))

    def local(row, labels):
        return jax.grad(lambda row: softmax_cross_entropy(row[None], labels).sum())(row)

    total = jax.shard_map(local, mesh=mesh, in_specs=(P(), P("batch")), out_specs=P())
    want = gradient(jnp.broadcast_to(logits[:1], logits.shape), labels).sum(0)
    assert_close(jax.jit(total)(logits[0], labels), want)


# ------------------------------------------------------------------------------------------
# sigmoid_cross_entropy
# ------------------------------------------------------------------------------------------


def binary_reference(x, t):
    p = 1 / (1 + jnp.exp(-x))
    return -t * jnp.log(p) - (1 - t) * jnp.log(1 - p)


@pytest.mark.versions
@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 4), (0, 3)])
def test_sigmoid_cross_entropy(rng, shape):
    x, t = normal(rng, *shape), 1 / (1 + jnp.exp(normal(rng, *shape)))
    check_first_order(sigmoid_cross_entropy, binary_reference, x, t)


def test_sigmoid_cross_entropy_is_softmax_of_two(rng):
    x, t = normal(rng, 6), shares(rng, 6, 2)
    logits = jnp.stack([x, jnp.zeros(6)], -1)
    assert_close(sigmoid_cross_entropy(x, t[:, 0]), softmax_cross_entropy(logits, t))


def test_sigmoid_cross_entropy_second_order(rng):
    x, t = normal(rng, 4), jnp.array([0.0, 1.0, 0.3, 0.5])
    check_second_order(sigmoid_cross_entropy, binary_reference, x, t)
    # At 0, where max(x, 0) and |x| have their kinks, the loss has none.
    zero, t = jnp.array(0.0), jnp.array(0.25)
    assert jax.grad(sigmoid_cross_entropy)(zero, t) == 0.25
    hessian = jax.hessian(lambda p: p[0] * sigmoid_cross_entropy(p[1], p[2]))(
        jnp.array([1.0, 0.0, 0.25])
    )
    # The loss itself is log 2 there, its slopes are ½ − t and 0, its curvatures p(1 − p) and −1.
    np.testing.assert_array_equal(hessian, [[0, 0.25, 0], [0.25, 0.25, -1], [0, -1, 0]])


@LOW
def test_sigmoid_cross_entropy_low_precision(rng, dtype):
    x, t = 3 * normal(rng, 30), 1 / (1 + jnp.exp(normal(rng, 30)))
    check_low_precision(sigmoid_cross_entropy, x, t, dtype=dtype)


def test_sigmoid_cross_entropy_far_out():
    x = jnp.array([-INF, INF, -1e300, 1e300, 1e300, -INF, INF])
    t = jnp.array([0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.5])
    E, (dx, dt) = value_and_cotangents(sigmoid_cross_entropy, (x, t), jnp.ones(7))
    np.testing.assert_array_equal(E, [0, 0, 0, 0, 1e300, INF, INF])
    np.testing.assert_array_equal(dx, [0, 0, 0, 0, 1, -1, 0.5])
    np.testing.assert_array_equal(dt, [0, 0, 1e300, -1e300, -1e300, INF, -INF])
