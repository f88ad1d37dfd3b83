"""Global and adaptive pooling, against one slice per bin."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checker import (
    assert_close,
    check_adjoint,
    check_first_order,
    check_low_precision,
    check_second_order,
    distinct,
    integers,
    normal,
)
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from numpy.testing import assert_array_equal

from cnnvjp.adaptive_pooling import (
    adaptive_avg_pool,
    adaptive_max_pool,
    global_avg_pool,
    global_max_pool,
)
from cnnvjp.max_pooling import max_pool
from cnnvjp.sum_pooling import avg_pool

# ------------------------------------------------------------------------------------------
# The reference: a slice per bin
# ------------------------------------------------------------------------------------------


def flattened(x, ndim):
    """(*batch, *spatial, C) -> (*batch, positions, C)."""
    spatial = x.shape[-1 - ndim : -1]
    return x.reshape(*x.shape[: -1 - ndim], np.prod(spatial), x.shape[-1])


def first_max(x, ndim):
    flat = flattened(x, ndim)
    winner = jnp.argmax(flat, -2, keepdims=True)
    return jnp.take_along_axis(flat, winner, -2).squeeze(-2)


def mean(x, ndim):
    return jnp.mean(flattened(x, ndim), -2)


def binned(reduce, x, bins):
    """`reduce` of each bin, from i·n/m rounded down to (i+1)·n/m rounded up."""
    ndim = len(bins)
    size = x.shape[-1 - ndim : -1]
    cells = []
    for index in np.ndindex(*bins):
        bounds = [
            slice(int(np.floor(i * n / m)), int(np.ceil((i + 1) * n / m)))
            for i, n, m in zip(index, size, bins, strict=True)
        ]
        cells.append(reduce(x[(..., *bounds, slice(None))], ndim))
    return jnp.stack(cells, -2).reshape(*x.shape[: -1 - ndim], *bins, x.shape[-1])


# ------------------------------------------------------------------------------------------
# Values and derivatives
# ------------------------------------------------------------------------------------------

# (shape, output_size)
CASES = [
    ((2, 5, 7, 3), (3, 2)),
    ((1, 6, 4, 2), (2, 4)),  # plain pooling along the first axis, none along the second
    ((2, 3, 5, 2), (5, 7)),  # more bins than positions
    ((4, 7, 2), (1, 1)),
    ((2, 3, 3, 4, 1), (2, 3)),
    ((0, 5, 4, 2), (3, 2)),
    ((2, 1, 1, 2), (3, 1)),
    ((2, 11, 2), (4,)),
    ((1, 4, 3, 5, 2), (3, 2, 2)),
]


@pytest.mark.parametrize(
    "shape, bins",
    [
        pytest.param(*case, marks=[pytest.mark.versions] if i in (0, 2, 8) else [])
        for i, case in enumerate(CASES)
    ],
)
def test_first_order(rng, shape, bins):
    ndim = len(bins)
    tied = integers(rng, *shape, dtype="float64", low=-2, high=3)
    x = normal(rng, *shape)
    check_first_order(
        lambda a, b, c, d: (
            adaptive_max_pool(a, bins),
            adaptive_avg_pool(b, bins),
            global_max_pool(c, spatial_ndim=ndim),
            global_avg_pool(d, spatial_ndim=ndim),
        ),
        lambda a, b, c, d: (
            binned(first_max, a, bins),
            binned(mean, b, bins),
            first_max(c, ndim),
            mean(d, ndim),
        ),
        *(tied, x, tied, x),
    )


@pytest.mark.versions
def test_second_order(rng):
    shape, bins = (2, 3, 4, 2), (2, 5)

    def f(a, b, c, d):
        return (
            adaptive_max_pool(a, bins),
            adaptive_avg_pool(b, bins),
            global_max_pool(c),
            global_avg_pool(d),
        )

    def reference(a, b, c, d):
        return binned(first_max, a, bins), binned(mean, b, bins), first_max(c, 2), mean(d, 2)

    x, y = distinct(rng, *shape), normal(rng, *shape)
    check_second_order(f, reference, x, y, x, y)


def test_second_order_where_entries_tie(rng):
    x = integers(rng, 2, 4, 4, 1, dtype="float64", low=0, high=2)
    check_second_order(
        lambda a, b: (adaptive_max_pool(a, 3), global_max_pool(b)),
        lambda a, b: (binned(first_max, a, (3, 3)), first_max(b, 2)),
        x,
        x,
    )


@pytest.mark.versions
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_low_precision(rng, dtype):
    def f(a, b, c, d):
        return (
            adaptive_max_pool(a, (3, 7)),
            adaptive_avg_pool(b, (3, 7)),
            global_max_pool(c),
            global_avg_pool(d),
        )

    check_low_precision(f, *(normal(rng, 2, 5, 5, 2) for _ in range(4)), dtype=dtype)


@pytest.mark.parametrize("linear", [lambda x: adaptive_avg_pool(x, (4, 5)), global_avg_pool])
def test_adjoint(rng, linear):
    shape = (2, 6, 8, 3)
    _, pullback = jax.vjp(linear, jnp.zeros(shape))
    scaled = lambda x: 48 * linear(x)  # 6 · 8 and every bin's size divide it: exact integers
    check_adjoint(rng, scaled, lambda dy: jnp.round(48 * pullback(dy)[0]), shape)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32"])
def test_integers(rng, dtype):
    x = integers(rng, 2, 5, 4, 3, dtype=dtype, low=0, high=9)
    for f, expected in (
        (lambda x: adaptive_max_pool(x, (3, 2)), binned(first_max, x, (3, 2))),
        (global_max_pool, first_max(x, 2)),
    ):
        assert f(x).dtype == dtype
        assert_array_equal(f(x), expected)


@pytest.mark.parametrize("bins, window", [((3, 2), (2, 4)), ((6, 8), (1, 1)), ((1, 1), (6, 8))])
def test_bins_that_divide_are_windows_side_by_side(rng, bins, window):
    x = integers(rng, 2, 6, 8, 2, dtype="float64")
    check_first_order(
        lambda a, b: (adaptive_max_pool(a, bins), adaptive_avg_pool(b, bins)),
        lambda a, b: (max_pool(a, window), avg_pool(b, window)),
        x,
        x,
    )


# ------------------------------------------------------------------------------------------
# Worked numbers, PyTorch's
# ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bins, means, maxima, slopes",
    [
        (3, [18, 26, 20], [6, 6, 5], [0, 0, 11, 0, 100, 0, 0]),
        (5, [9, 27, 26, 18, 15], [3, 6, 6, 5, 4], [0, 1, 110, 0, 1000, 0, 10000]),
        (
            9,
            [0, 9, 27, 24, 12, 21, 18, 15, 24],
            [0, 3, 6, 6, 2, 5, 5, 4, 4],
            [1, 10, 1100, 10000, 1100000, 0, 110000000],
        ),
    ],
)
def test_adaptive_pools_as_in_pytorch(bins, means, maxima, slopes):
    x = jnp.array([0.0, 3.0, 6.0, 2.0, 5.0, 1.0, 4.0])[:, None]
    assert_close(adaptive_avg_pool(6 * x, (bins,))[:, 0], np.array(means, "float64"))
    y, pullback = jax.vjp(lambda x: adaptive_max_pool(x, (bins,)), x)
    assert_array_equal(y[:, 0], maxima)
    (dx,) = pullback(jnp.array([[10.0**i] for i in range(bins)]))
    assert_array_equal(dx[:, 0], slopes)


@pytest.mark.parametrize("pool", [global_max_pool, lambda x: adaptive_max_pool(x, 1)])
def test_nan_and_infinity(pool):
    def value_and_slope(x):
        y, pullback = jax.vjp(pool, jnp.array(x)[..., None])
        return np.ravel(y), pullback(jnp.ones_like(y))[0][..., 0]

    nan, inf = np.nan, np.inf
    value, slope = value_and_slope([[inf, 1.0], [nan, nan]])
    assert_array_equal(value, [nan])
    assert_array_equal(slope, [[0, 0], [1, 0]])
    value, slope = value_and_slope([[-inf, -inf], [-inf, -inf]])
    assert_array_equal(value, [-inf])
    assert_array_equal(slope, [[1, 0], [0, 0]])


def test_infinity_stays_in_its_bin():
    x = jnp.array([1.0, np.inf, 2.0, 3.0])[:, None]
    y, pullback = jax.vjp(lambda x: adaptive_avg_pool(x, (2,)), x)
    assert_array_equal(y[:, 0], [np.inf, 2.5])
    (dx,) = pullback(jnp.array([np.inf, 1.0])[:, None])
    assert_array_equal(dx[:, 0], [np.inf, np.inf, 0.5, 0.5])


# ------------------------------------------------------------------------------------------
# Transformations and devices
# ------------------------------------------------------------------------------------------


@pytest.mark.versions
def test_under_vmap_shard_map_and_an_explicit_mesh(rng):
    def loss(x):
        pools = global_max_pool(x), global_avg_pool(x)
        pools += adaptive_max_pool(x, (3, 4)), adaptive_avg_pool(x, (7, 2))
        return sum(jnp.sum(jnp.sin(y)) for y in pools)

    slope = jax.grad(loss)
    x = distinct(rng, 8, 5, 6, 2)
    expected = jax.jit(slope)(x)
    assert_close(jax.jit(jax.vmap(slope))(x), expected)

    split = PartitionSpec("batch")
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,))
    mapped = jax.shard_map(slope, mesh=mesh, in_specs=split, out_specs=split)
    assert_close(jax.jit(mapped)(x), expected)

    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        got = jax.jit(slope)(jax.device_put(x, NamedSharding(mesh, split)))
        assert got.sharding.spec[0] == "batch"
        assert_close(got, expected)


def test_more_positions_than_a_byte_counts():
    x = jnp.arange(600.0).reshape(20, 30, 1)
    assert global_max_pool(x) == 599
    assert jnp.argmax(jax.grad(lambda x: global_max_pool(x).sum())(x)) == 599
    line = jnp.arange(600.0).reshape(600, 1)
    gradient = jax.grad(lambda x: adaptive_max_pool(x, (2,)).sum())(line)[:, 0]
    assert_array_equal(jnp.flatnonzero(gradient), [299, 599])


@pytest.mark.parametrize("n, dtype", [(256, "uint8"), (257, "uint16")])
def test_winners_are_kept_in_the_smallest_type(rng, n, dtype):
    _, pullback = jax.vjp(lambda x: adaptive_max_pool(x, (1,)), normal(rng, n, 2))
    assert {leaf.dtype for leaf in jax.tree.leaves(pullback)} == {jnp.dtype(dtype)}
