"""dropout and l2_penalty."""

import chex
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

from cnnvjp.regularization import dropout, l2_penalty

KEY = jax.random.key(7)

# ------------------------------------------------------------------------------------------
# dropout
# ------------------------------------------------------------------------------------------


@pytest.mark.versions
@pytest.mark.parametrize("rate", [0.0, 0.2, 0.75, 1.0])
def test_the_gradient_uses_the_same_draw(rng, rate):
    """Dropout is linear: what ones become is the factor on x, and on dy."""
    x = normal(rng, 20, 3, 4)
    factor = dropout(KEY, jnp.ones_like(x), rate)
    check_first_order(lambda x: dropout(KEY, x, rate), lambda x: factor * x, x)
    assert set(np.unique(factor)) <= {0.0, 1 / (1 - rate) if rate < 1 else 0.0}


def test_at_both_ends():
    x = jnp.array([1.0, jnp.inf, jnp.nan, -3.0])
    np.testing.assert_array_equal(dropout(KEY, x, 0), x)
    np.testing.assert_array_equal(dropout(KEY, x, 1), np.zeros(4))
    np.testing.assert_array_equal(jax.grad(lambda x: dropout(KEY, x, 1.0).sum())(x), np.zeros(4))


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_expectation(rate):
    n = 40_000
    y = np.asarray(dropout(KEY, jnp.ones(n), rate))
    deviation = np.sqrt(rate / (1 - rate) / n)  # of the mean of n such numbers
    assert abs(np.mean(y) - 1) < 4 * deviation
    assert abs(np.mean(y == 0) - rate) < 4 * deviation * (1 - rate)


@pytest.mark.parametrize("axes, drawn", [((1, 2), (0, 3)), (-1, (0, 1, 2)), ([0, -2], (1, 3))])
def test_one_draw_for_the_axes_named(axes, drawn):
    y = np.asarray(dropout(KEY, jnp.ones((8, 3, 4, 9)), 0.5, broadcast_axes=axes))
    shared = tuple(axis for axis in range(4) if axis not in drawn)
    assert (y.min(shared) == y.max(shared)).all()
    assert set(np.unique(y)) == {0, 2}
    for axis in drawn:  # but along the other axes the draws differ
        assert (y.min(axis) != y.max(axis)).any()


def test_second_order(rng):
    x = normal(rng, 6)
    factor = dropout(KEY, jnp.ones_like(x), 0.5)
    check_second_order(lambda x: dropout(KEY, x, 0.5), lambda x: factor * x, x)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_low_precision(rng, dtype):
    """1 / 0.7 is not rounded to the dtype before it multiplies, and the draw is the same."""
    check_low_precision(lambda x: dropout(KEY, x, 0.3), normal(rng, 100), dtype=dtype)


def test_keys():
    x = jnp.ones(64)
    expected = dropout(KEY, x, 0.5)
    older = jax.random.PRNGKey(7)
    np.testing.assert_array_equal(dropout(older, x, 0.5), expected)
    np.testing.assert_array_equal(dropout(np.asarray(older), x, 0.5), expected)
    assert (dropout(jax.random.key(8), x, 0.5) != expected).any()
    keys = jax.random.split(KEY, 3)
    many = jax.jit(jax.vmap(lambda key: dropout(key, x, 0.5)))(keys)
    np.testing.assert_array_equal(many, [dropout(key, x, 0.5) for key in keys])


def test_the_residual_is_the_mask():
    """One byte for each number, and where a draw is shared, one for all that share it."""
    x = jnp.ones((2, 8, 8, 3))
    _, pullback = jax.vjp(lambda x: dropout(KEY, x, 0.5, broadcast_axes=(1, 2)), x)
    saved = [leaf for leaf in jax.tree.leaves(pullback) if leaf.ndim]
    assert [(leaf.dtype, leaf.shape) for leaf in saved] == [("bool", (2, 1, 1, 3))]


def test_dropout_on_an_explicit_mesh(rng):
    x = normal(rng, 8, 6)
    expected = dropout(KEY, x, 0.5)
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        spread = jax.device_put(x, NamedSharding(mesh, P("batch")))
        y, (dx,) = value_and_cotangents(lambda x: dropout(KEY, x, 0.5), (spread,), spread)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(dx, expected)


# ------------------------------------------------------------------------------------------
# l2_penalty
# ------------------------------------------------------------------------------------------


def test_l2_penalty_by_hand():
    params = {"w": jnp.array([[3.0, 4.0]]), "rest": [jnp.array(2.0), None, ()]}
    penalty, gradient = jax.value_and_grad(l2_penalty)(params)
    assert penalty == (9 + 16 + 4) / 2
    chex.assert_trees_all_equal(gradient, params)


@pytest.mark.versions
def test_l2_penalty(rng):
    def reference(a, b):
        return jnp.sum(a**2) / 2 + jnp.sum(b**2) / 2

    args = normal(rng, 3, 3, 2, 4), normal(rng, 0, 2)
    check_first_order(lambda *leaves: l2_penalty(leaves), reference, *args)
    check_second_order(lambda *leaves: l2_penalty(leaves), reference, args[0], normal(rng, 2))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_l2_penalty_low_precision(rng, dtype):
    check_low_precision(l2_penalty, normal(rng, 50, 4), dtype=dtype)
    # 70,000 ones squared sum to more than float16 holds, and than bfloat16 can count.
    assert l2_penalty(jnp.ones(70_000, dtype)) == 35_000


def test_l2_penalty_of_mixed_dtypes_and_of_nothing():
    leaves = [jnp.array([2.0], dtype) for dtype in ("float16", "float32", "float64")]
    penalty, gradient = jax.value_and_grad(l2_penalty)(leaves)
    assert penalty.dtype == "float64" and penalty == 6
    assert [g.dtype for g in gradient] == [w.dtype for w in leaves]
    assert l2_penalty({}) == 0 and l2_penalty(leaves[:2]).dtype == "float32"


def test_l2_penalty_inside_shard_map(rng):
    """Of weights on one device each and of weights on all: the cotangents are what they were."""
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,))
    w, shared = normal(rng, 8, 2), normal(rng, 3)

    def gradient(*leaves):
        return jax.grad(lambda leaves: jax.lax.psum(l2_penalty(leaves), "batch"))(leaves)

    specs = P("batch"), P()
    dw, dshared = jax.jit(jax.shard_map(gradient, mesh=mesh, in_specs=specs, out_specs=specs))(
        w, shared
    )
    assert_close(dw, w)
    assert_close(dshared, 8 * shared)  # it counts on every device


def test_l2_gradient_is_rounded_once():
    """1e-8 is 0 in float16; times 1000 it is not."""
    w = jnp.full(3, 1000, "float16")
    gradient = jax.grad(lambda w: 1e-8 * l2_penalty(w).astype("float32"))(w)
    assert gradient.dtype == jnp.float16
    assert_close(gradient, np.full(3, 1e-5), tolerance=1e-2)
