"""Pooling over windows, against every window's entries gathered one by one."""

import itertools

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
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from numpy.testing import assert_array_equal

from cnnvjp._windows import tiles
from cnnvjp._windows.geometry import make_window
from cnnvjp.max_pooling import max_pool, min_pool
from cnnvjp.max_unpooling import max_unpool
from cnnvjp.sum_pooling import avg_pool, lp_pool, sum_pool, weighted_avg_pool

# ------------------------------------------------------------------------------------------
# The reference: all entries of all windows on one axis
# ------------------------------------------------------------------------------------------


def axis_positions(n, k, s, pads, d, ceil_mode):
    """Every window's tap positions along one axis, by laying windows down one after the other."""
    before, after = pads
    starts = []
    for start in itertools.count(-before, s):
        last = start + d * (k - 1)
        fits = last < n + after
        begins_inside = ceil_mode and start < n and last < n + after + s
        if not (fits or begins_inside):
            break
        starts.append(start)
    return np.array(starts)[:, None] + d * np.arange(k)


def placed(x, window, spatial_ndim=None, *, stride=None, padding="VALID", dilation=1, **options):
    """The windows' positions for each axis, and the padding as pairs."""
    ndim = spatial_ndim or (len(window) if isinstance(window, tuple) else 2)
    size = x.shape[-1 - ndim : -1]
    each = lambda option: option if isinstance(option, tuple) else (option,) * ndim
    k, d = each(window), each(dilation)
    s = k if stride is None else each(stride)
    extent = [b * (a - 1) + 1 for a, b in zip(k, d, strict=True)]
    if padding == "FULL":
        pads = [(e - 1, e - 1) for e in extent]
    elif isinstance(padding, str):
        pads = lax.padtype_to_pads(size, extent, s, padding)
    else:
        pads = [p if isinstance(p, tuple) else (p, p) for p in each(padding)]
    ceil_mode = options.get("ceil_mode", False)
    axes = zip(size, k, s, pads, d, strict=True)
    return [axis_positions(*axis, ceil_mode) for axis in axes], pads


def entries(x, *args, **options):
    """(*batch, *out, taps, C): each window's entries; which are on the input; their indices."""
    positions, _ = placed(x, *args, **options)
    ndim = len(positions)
    size = x.shape[-1 - ndim : -1]
    out = tuple(len(p) for p in positions)
    grids = []
    for axis, p in enumerate(positions):
        shape = [1] * (2 * ndim)
        shape[axis], shape[ndim + axis] = p.shape
        grids.append(np.broadcast_to(p.reshape(shape), out + tuple(p.shape[1] for p in positions)))
    inside = np.all([(g >= 0) & (g < n) for g, n in zip(grids, size, strict=True)], axis=0)
    index = np.ravel_multi_index(
        [np.clip(g, 0, n - 1) for g, n in zip(grids, size, strict=True)], size
    )
    plane = x.reshape(*x.shape[: -1 - ndim], np.prod(size), x.shape[-1])
    shape = (*x.shape[: -1 - ndim], *out, inside[(0,) * ndim].size, x.shape[-1])
    gathered = plane[..., index.ravel(), :].reshape(shape)
    expand = lambda a: a.reshape((1,) * (x.ndim - 1 - ndim) + shape[-2 - ndim : -1] + (1,))
    return gathered, expand(inside), expand(index)


def best(sign, x, *args, ties="first", **options):
    """(y, argmax) of the first winner, or of all if ties are split, for the sign ±1."""
    e, inside, index = entries(x, *args, **options)
    score = jnp.where(inside, e * sign, -jnp.inf)
    first = jnp.argmax(score, -2, keepdims=True)
    y = jnp.take_along_axis(e, first, -2)
    if ties == "split":
        y = sign * jnp.max(score, -2, keepdims=True)
    argmax = jnp.take_along_axis(jnp.broadcast_to(index, e.shape), first, -2)
    return y.squeeze(-2), argmax.squeeze(-2).astype("int32")


def ref_max(x, *args, **options):
    return best(1, x, *args, **options)


def ref_min(x, *args, **options):
    return best(-1, x, *args, **options)


def ref_sum(x, *args, **options):
    e, inside, _ = entries(x, *args, **options)
    return jnp.sum(jnp.where(inside, e, 0), -2)


def ref_avg(x, *args, count_include_pad=True, **options):
    e, inside, _ = entries(x, *args, **options)
    positions, pads = placed(x, *args, **options)
    size = x.shape[-1 - len(pads) : -1]
    counted = np.ones(())
    for p, n, (_, after) in zip(positions, size, pads, strict=True):
        counted = counted[..., None] * (p < n + max(after, 0)).sum(1)
    if not count_include_pad:
        counted = inside.sum(-2).reshape(counted.shape)
    shape = (1,) * (x.ndim - 1 - len(pads)) + counted.shape + (1,)
    return jnp.sum(jnp.where(inside, e, 0), -2) / counted.reshape(shape).astype(x.dtype)


def ref_lp(x, *args, p=2, **options):
    e, inside, _ = entries(x, *args, **options)
    return jnp.sum(jnp.where(inside, jnp.abs(jnp.where(inside, e, 1)) ** p, 0), -2) ** (1 / p)


def ref_weighted(x, weight, *args, **options):
    return jnp.expand_dims(weight, tuple(range(x.ndim - weight.ndim))) * ref_sum(
        x, *args, **options
    )


# ------------------------------------------------------------------------------------------
# Every operation over a table of shapes and options
# ------------------------------------------------------------------------------------------

# (shape, window, options)
CASES = [
    ((2, 5, 7, 3), 2, {}),
    ((1, 6, 6, 2), (3, 2), {"stride": (2, 1)}),
    ((2, 5, 5, 2), 3, {"stride": 2, "padding": 1}),
    ((2, 6, 5, 1), 2, {"stride": 3}),
    ((2, 5, 6, 2), 3, {"stride": 1, "padding": "SAME"}),
    ((1, 5, 4, 2), (2, 4), {"stride": 2, "padding": "SAME_LOWER"}),
    ((1, 4, 4, 2), 3, {"stride": 1, "padding": "FULL", "dilation": 2}),
    ((2, 7, 6, 2), 2, {"stride": 1, "dilation": (2, 3)}),
    ((1, 4, 4, 2), 2, {"stride": 2, "dilation": 5, "padding": 4}),
    ((2, 6, 7, 2), 3, {"stride": 2, "padding": ((0, 1), (2, 0))}),
    ((2, 6, 7, 2), 2, {"padding": ((-1, 0), (1, -2))}),
    ((2, 6, 8, 2), 3, {"stride": 2, "ceil_mode": True}),
    ((1, 5, 6, 2), 2, {"stride": 3, "padding": 1, "ceil_mode": True}),
    ((2, 4, 5, 2), 1, {}),
    ((2, 4, 5, 2), 1, {"stride": 2}),
    ((5, 4, 2), 2, {}),
    ((2, 3, 4, 5, 2), 2, {"stride": 1}),
    ((0, 4, 4, 2), 2, {"padding": 1}),
    ((2, 9, 2), (3,), {"stride": 2, "padding": 1}),
    ((3, 8, 1), (2,), {"stride": 2, "dilation": 3}),
    ((1, 4, 5, 3, 2), 2, {"spatial_ndim": 3}),
    ((1, 4, 5, 4, 1), (2, 3, 2), {"stride": (1, 2, 1), "padding": 1}),
    # Many taps: axis after axis, and a loop where one axis alone has more than 64.
    ((2, 9, 8, 2), (5, 4), {"stride": 2, "padding": 2}),
    ((1, 90, 2), (70,), {"stride": 7, "padding": 20}),
    ((1, 4, 80, 1), (2, 66), {"stride": (1, 5), "padding": (1, 9), "dilation": (2, 1)}),
]
VERSIONS = {2, 12, 22, 24}
CASE_TABLE = [
    pytest.param(
        *case,
        id=f"{case[0]}-{case[1]}-{case[2]}".replace(" ", ""),
        marks=[pytest.mark.versions] if i in VERSIONS else [],
    )
    for i, case in enumerate(CASES)
]


@pytest.mark.parametrize("shape, window, options", CASE_TABLE)
def test_first_order(rng, shape, window, options):
    def f(tied, mean, mean_inside):
        return (
            max_pool(tied, window, return_argmax=True, **options),
            avg_pool(mean, window, **options),
            avg_pool(mean_inside, window, count_include_pad=False, **options),
        )

    def reference(tied, mean, mean_inside):
        return (
            ref_max(tied, window, **options),
            ref_avg(mean, window, **options),
            ref_avg(mean_inside, window, count_include_pad=False, **options),
        )

    tied = integers(rng, *shape, dtype="float64", low=-2, high=3)
    check_first_order(f, reference, tied, normal(rng, *shape), normal(rng, *shape))


@pytest.mark.parametrize("shape, window, options", [CASES[i] for i in (1, 3, 9, 11, 24)])
def test_first_order_of_the_relatives(rng, shape, window, options):
    def f(tied, split, total, norm):
        return (
            min_pool(tied, window, return_argmax=True, **options),
            max_pool(split, window, ties="split", **options),
            sum_pool(total, window, **options),
            lp_pool(norm, window, p=3, **options),
        )

    def reference(tied, split, total, norm):
        return (
            ref_min(tied, window, **options),
            ref_max(split, window, ties="split", **options)[0],
            ref_sum(total, window, **options),
            ref_lp(norm, window, p=3, **options),
        )

    tied = [integers(rng, *shape, dtype="float64", low=-2, high=3) for _ in range(2)]
    check_first_order(f, reference, *tied, normal(rng, *shape), normal(rng, *shape))


@pytest.mark.parametrize("weight_shape", [(), (3,)])
@pytest.mark.parametrize("options", [{}, {"stride": (1, 2), "padding": ((1, 0), (0, 2))}])
def test_first_order_of_the_weighted_average(rng, weight_shape, options):
    check_first_order(
        lambda x, weight: weighted_avg_pool(x, weight, (2, 3), **options),
        lambda x, weight: ref_weighted(x, weight, (2, 3), **options),
        normal(rng, 2, 5, 7, 3),
        normal(rng, *weight_shape),
    )


@pytest.mark.versions
def test_second_order(rng):
    options = {"stride": 1, "padding": ((1, 0), (0, 1))}

    def f(a, b, c, d, e, w):
        return (
            max_pool(a, 2, return_argmax=True, **options),
            min_pool(b, 2, ties="split"),
            avg_pool(c, 2, count_include_pad=False, **options),
            lp_pool(d, 2, p=2.5, **options),
            weighted_avg_pool(e, w, 2, **options),
        )

    def reference(a, b, c, d, e, w):
        return (
            ref_max(a, 2, **options),
            ref_min(b, 2)[0],
            ref_avg(c, 2, count_include_pad=False, **options),
            ref_lp(d, 2, p=2.5, **options),
            ref_weighted(e, w, 2, **options),
        )

    shape = (1, 3, 4, 2)
    untied = [distinct(rng, *shape) for _ in range(2)]
    check_second_order(f, reference, *untied, *(normal(rng, *shape) for _ in range(3)), jnp.ones(2))


def test_second_order_of_long_windows(rng):
    shape, window, options = CASES[-1]

    def f(a, b, c, d):
        return (
            max_pool(a, window, **options),
            max_pool(b, window, ties="split", **options),
            avg_pool(c, window, **options),
            lp_pool(d, window, p=4, **options),
        )

    def reference(a, b, c, d):
        return (
            ref_max(a, window, **options)[0],
            ref_max(b, window, ties="split", **options)[0],
            ref_avg(c, window, **options),
            ref_lp(d, window, p=4, **options),
        )

    tied = integers(rng, *shape, dtype="float64")
    check_second_order(f, reference, distinct(rng, *shape), tied, *(normal(rng, *shape),) * 2)


@pytest.mark.versions
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_low_precision(rng, dtype):
    options = {"stride": 1, "padding": ((1, 0), (0, 1))}

    def f(a, b, c, d, e, w):
        return (
            max_pool(a, 2, **options),
            max_pool(b, 2, ties="split", **options),
            avg_pool(c, 3, **options),
            lp_pool(d, 2, **options),
            weighted_avg_pool(e, w, 2, **options),
        )

    xs = [normal(rng, 2, 6, 6, 2) for _ in range(5)]
    check_low_precision(f, *xs, normal(rng, 2), dtype=dtype)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "uint32", "int64"])
def test_integers(rng, dtype):
    info = jnp.iinfo(dtype)
    x = np.array([info.min, info.max, 1, 5, 5, info.min], dtype).reshape(2, 3, 1)
    options = {"stride": 1, "padding": ((1, 0), (0, 0))}
    pools = jax.jit(
        lambda x: (
            max_pool(x, 2, return_argmax=True, **options),
            min_pool(x, 2, return_argmax=True, **options),
            sum_pool(x, 2, **options),
        )
    )
    (largest, at), (smallest, below), total = pools(x)
    assert largest.dtype == smallest.dtype == total.dtype == dtype
    assert_array_equal(largest[..., 0], [[info.max, info.max], [info.max, info.max]])
    assert_array_equal(at[..., 0], [[1, 1], [1, 1]])
    assert_array_equal(smallest[..., 0], np.array([[info.min, 1], [info.min, info.min]], dtype))
    assert_array_equal(below[..., 0], [[0, 2], [0, 5]])
    padded = np.concatenate([np.zeros((1, 3), dtype), x[..., 0]])
    expected = padded[:-1, :-1] + padded[1:, :-1] + padded[:-1, 1:] + padded[1:, 1:]
    assert_array_equal(total[..., 0], expected)


@pytest.mark.parametrize(
    "linear",
    [
        lambda x: sum_pool(x, 3, stride=2, padding=1),
        lambda x: sum_pool(x, (9, 8), stride=2, padding=4),
        lambda x: avg_pool(x, 2, stride=3, dilation=2, padding=1),
        lambda x: weighted_avg_pool(x, 3.0, 2, padding=((0, 1), (1, 0))),
    ],
)
def test_adjoint(rng, linear):
    shape = (2, 8, 7, 3)
    _, pullback = jax.vjp(linear, jnp.zeros(shape))
    check_adjoint(rng, linear, lambda dy: pullback(dy)[0], shape)


# ------------------------------------------------------------------------------------------
# Worked numbers; PyTorch's for its conventions
# ------------------------------------------------------------------------------------------

# 7·i mod 30 in five rows of six.
STEPS = (jnp.arange(30) * 7 % 30).reshape(5, 6, 1)


def test_max_pool_as_in_pytorch():
    y, argmax = max_pool(
        STEPS, 3, stride=2, padding=1, dilation=(1, 2), ceil_mode=True, return_argmax=True
    )
    assert_array_equal(y[..., 0], [[21, 21, 21], [27, 29, 29], [27, 27, 27]])
    assert_array_equal(argmax[..., 0], [[3, 3, 3], [21, 17, 17], [21, 21, 21]])
    assert argmax.dtype == jnp.int32


@pytest.mark.parametrize(
    "count_include_pad, expected",
    [(True, [[14, 126, 15], [88, 192, 120]]), (False, [[42, 252, 60], [132, 192, 240]])],
)
def test_avg_pool_as_in_pytorch(count_include_pad, expected):
    y = avg_pool(
        STEPS.astype("float64") * 12,
        (2, 3),
        stride=3,
        padding=1,
        ceil_mode=True,
        count_include_pad=count_include_pad,
    )
    assert_close(y[..., 0], np.array(expected, "float64"))


def gradient(pool, x, dy=None):
    """dx for the cotangent dy, all ones by default, of one map (rows, columns)."""

    @jax.jit
    def pulled_back(x, dy):
        y, pullback = jax.vjp(lambda x: pool(x[..., None])[..., 0], x)
        return pullback(jnp.ones_like(y) if dy is None else dy)

    (dx,) = pulled_back(np.asarray(x, "float64"), None if dy is None else np.asarray(dy, "float64"))
    return dx


def test_overlapping_windows_add_what_they_send_to_their_winner():
    x = [[1, 2, 3], [4, 9, 5], [8, 7, 6]]
    dx = gradient(lambda x: max_pool(x, 2, stride=1), x, [[1, 10], [100, 1000]])
    assert_array_equal(dx, [[0, 0, 0], [0, 1111, 0], [0, 0, 0]])
    dx = gradient(lambda x: min_pool(x, 2, stride=1), x, [[1, 10], [100, 1000]])
    assert_array_equal(dx, [[1, 10, 0], [100, 0, 1000], [0, 0, 0]])
    dx = gradient(lambda x: sum_pool(x, 2, stride=1), x, [[1, 10], [100, 1000]])
    assert_array_equal(dx, [[1, 11, 10], [101, 1111, 1010], [100, 1100, 1000]])


def test_a_winner_at_the_input_not_at_its_rotation():
    x = [[9, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 8]]
    dx = gradient(lambda x: max_pool(x, (3, 2)), x, [[1, 10]])
    assert_array_equal(dx, [[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 10]])


@pytest.mark.parametrize("pool", [max_pool, min_pool])
def test_ties(pool):
    x = [[2, 2, 2], [2, 2, 2]]
    options = {"stride": 1, "padding": ((1, 0), (0, 0))}
    first = gradient(lambda x: pool(x, 2, **options), x, [[1, 10], [100, 1000]])
    assert_array_equal(first, [[101, 1010, 0], [0, 0, 0]])
    split = gradient(lambda x: pool(x, 2, ties="split", **options), x, [[4, 40], [400, 4000]])
    assert_array_equal(split, [[102, 1122, 1020], [100, 1100, 1000]])


@pytest.mark.versions
@pytest.mark.parametrize("pool", [max_pool, min_pool])
def test_a_nan_wins_and_the_first_gets_the_gradient(pool):
    nan, inf = np.nan, np.inf
    x = np.array([[inf, -inf, nan, 0.0], [nan, 1.0, nan, 2.0]])
    y, argmax = pool(x[..., None], 2, return_argmax=True)
    assert_array_equal(y[..., 0], [[nan, nan]])
    assert_array_equal(argmax[..., 0], [[4, 2]])
    first = gradient(lambda x: pool(x, 2), x, [[1, 10]])
    assert_array_equal(first, [[0, 0, 10, 0], [1, 0, 0, 0]])
    split = gradient(lambda x: pool(x, 2, ties="split"), x, [[1, 10]])
    assert_array_equal(split, [[0, 0, 5, 0], [1, 0, 5, 0]])


@pytest.mark.parametrize(
    "pool, weakest, window, padding",
    [
        (max_pool, -np.inf, 3, 1),
        (min_pool, np.inf, 3, 1),
        (max_pool, -np.inf, (5, 4), 2),
    ],
)
def test_padding_never_wins_against_infinity(pool, weakest, window, padding):
    x = np.full((3, 4), weakest)
    options = {"stride": 2, "padding": padding, "return_argmax": True}
    y, argmax = jax.jit(lambda x: pool(x, window, **options))(x[..., None])
    assert_array_equal(y, np.full(y.shape, weakest))
    rows, columns = [np.maximum(2 * np.arange(n) - padding, 0) for n in y.shape[:2]]
    assert_array_equal(argmax[..., 0], rows[:, None] * 4 + columns)
    first = gradient(lambda x: pool(x, window, **options)[0], x)
    assert_array_equal(first, np.bincount(np.ravel(argmax), minlength=12).reshape(3, 4))
    split = gradient(lambda x: pool(x, window, ties="split", **options)[0], x)
    assert_close(split.sum(), np.float64(y.size))


def test_the_residual_is_the_winner_alone():
    def saved(window, dtype):
        x = jnp.zeros((1, 32, 300, 1), jnp.float32)
        _, pullback = jax.vjp(lambda x: max_pool(x, window), x)
        (winner,) = [leaf for leaf in jax.tree.leaves(pullback) if leaf.size > 1]
        assert (winner.dtype, winner.size) == (dtype, (32 // window[0]) * (300 // window[1]))

    saved((2, 2), jnp.uint8)
    saved((16, 16), jnp.uint8)
    saved((1, 256), jnp.uint8)
    saved((16, 17), jnp.uint16)


def test_second_order_where_entries_tie(rng):
    x = integers(rng, 2, 4, 4, 1, dtype="float64", low=0, high=2)
    check_second_order(
        lambda a, b: (max_pool(a, 2, stride=1), min_pool(b, 2, stride=1, ties="split")),
        lambda a, b: (ref_max(a, 2, stride=1)[0], ref_min(b, 2, stride=1, ties="split")[0]),
        x,
        x,
    )


# ------------------------------------------------------------------------------------------
# lp_pool at its kinks
# ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [1, 1.5, 2, np.float32(4.0)])
def test_lp_pool_of_zeros_has_derivatives_of_zero(p):
    x = jnp.array([0.0, 0.0, 3.0, -4.0])[:, None]
    f = lambda x: lp_pool(x, (2,), p=p)[:, 0]
    assert f(x)[0] == 0
    assert_close(f(x)[1], np.float64((3.0 ** float(p) + 4.0 ** float(p)) ** (1 / float(p))))
    jacobian = jax.jit(jax.jacrev(f))(x)[..., 0]
    assert_array_equal(jacobian[0], np.zeros(4))
    assert_array_equal(jacobian[1, :2], np.zeros(2))
    for hessian in (jax.jacfwd(jax.jacrev(f)), jax.jacrev(jax.jacrev(f))):
        second = jax.jit(hessian)(x)[:, :, 0, :, 0]
        assert_array_equal(second[0], np.zeros((4, 4)))
        assert np.isfinite(second).all()


@pytest.mark.parametrize("p", [2, 3, 4])
def test_lp_pool_beside_a_zero(rng, p):
    x = jnp.array([0.0, 2.0, 0.0, -1.0, 3.0, 0.0])[:, None]
    check_second_order(
        lambda x: lp_pool(x, (3,), p=p),
        lambda x: jnp.sum(abs(x**p).reshape(2, 3, 1), 1) ** (1 / p),
        x,
    )


def test_lp_pool_of_one_is_the_sum_of_magnitudes(rng):
    x = normal(rng, 2, 5, 5, 2)
    check_first_order(
        lambda x: lp_pool(x, 3, stride=1, p=1), lambda x: sum_pool(abs(x), 3, stride=1), x
    )


# ------------------------------------------------------------------------------------------
# max_unpool
# ------------------------------------------------------------------------------------------


def unpooled(y, argmax, size):
    """One value after the other to its place."""
    ndim = len(size)
    batch = y.shape[: -1 - ndim]
    places = np.prod(size)
    argmax = np.asarray(argmax)
    x = jnp.zeros((*batch, places, y.shape[-1]), y.dtype)
    for at in np.ndindex(*argmax.shape):
        place = int(argmax[at])
        if 0 <= place < places:
            x = x.at[(*at[: len(batch)], place, at[-1])].add(y[at])
    return x.reshape(*batch, *size, y.shape[-1])


@pytest.mark.versions
@pytest.mark.parametrize(
    "shape, size, dtype",
    [
        ((2, 2, 2, 2), (3, 4), "int32"),
        ((3, 2), (5,), "int8"),
        ((2, 1, 1, 2, 2, 1), (2, 3, 1), "uint32"),
        ((0, 2, 2, 1), (3, 3), "int64"),
    ],
)
def test_max_unpool(rng, shape, size, dtype):
    low = 0 if dtype == "uint32" else -2
    argmax = integers(rng, *shape, dtype=dtype, low=low, high=np.prod(size) + 2)
    f = lambda y: max_unpool(y, argmax, output_size=size)
    reference = lambda y: unpooled(y, argmax, size)
    y = normal(rng, *shape)
    check_first_order(f, reference, y)
    if dtype == "int8":
        check_second_order(f, reference, y)
        check_low_precision(f, y, dtype="bfloat16")
        assert_array_equal(f(y.astype("int32")), reference(y.astype("int32")))


@pytest.mark.versions
@pytest.mark.parametrize("dtype, outside", [("int64", 2**32 + 3), ("int64", -(2**32) + 3), ("uint64", 2**63 + 3), ("uint32", 2**32 - 4), ("int32", -4), ("int8", -4)])  # fmt: skip
def test_an_index_outside_of_the_plane_is_dropped_and_never_wraps(dtype, outside):
    argmax = jnp.asarray(np.array([[1], [outside]], dtype))
    y = jnp.array([[2.0], [3.0]])
    x, pullback = jax.vjp(lambda y: max_unpool(y, argmax, output_size=(7,)), y)
    assert_array_equal(x[:, 0], [0, 2, 0, 0, 0, 0, 0])
    assert_array_equal(pullback(jnp.arange(10.0, 17)[:, None])[0][:, 0], [11, 0])


def test_max_unpool_undoes_max_pool(rng):
    x = distinct(rng, 2, 7, 6, 3)
    y, argmax = max_pool(x, 3, stride=2, return_argmax=True)
    flat = x.reshape(2, 42, 3)
    winners = jnp.take_along_axis(flat, argmax.reshape(2, 6, 3), 1).reshape(y.shape)
    assert_array_equal(winners, y)
    dy = normal(rng, *y.shape)
    _, pullback = jax.vjp(lambda x: max_pool(x, 3, stride=2), x)
    assert_close(max_unpool(dy, argmax, output_size=(7, 6)), pullback(dy)[0])


# ------------------------------------------------------------------------------------------
# Transformations and devices
# ------------------------------------------------------------------------------------------


def everything(x, y, argmax):
    return (
        max_pool(x, 3, stride=2, padding=1, return_argmax=True)[0],
        max_pool(x, (1, 70), padding=(0, 35)),
        min_pool(x, 2, ties="split"),
        max_unpool(y, argmax, output_size=8),
        avg_pool(x, (1, 70), padding=(0, 35), count_include_pad=False),
        lp_pool(x, 2),
    )


def loss_gradients(x, y, argmax):
    def loss(x, y):
        return sum(jnp.sum(jnp.sin(out)) for out in everything(x, y, argmax))

    return jax.grad(loss, (0, 1))(x, y)


@pytest.fixture
def batch(rng):
    x, y = distinct(rng, 8, 8, 8, 2), normal(rng, 8, 3, 3, 2)
    return x, y, integers(rng, 8, 3, 3, 2, low=0, high=64)


@pytest.mark.versions
def test_under_vmap_shard_map_and_an_explicit_mesh(batch):
    expected = jax.jit(loss_gradients)(*batch)
    for got, want in zip(jax.jit(jax.vmap(loss_gradients))(*batch), expected, strict=True):
        assert_close(got, want)

    split = PartitionSpec("batch")
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,))
    mapped = jax.shard_map(loss_gradients, mesh=mesh, in_specs=split, out_specs=split)
    for got, want in zip(jax.jit(mapped)(*batch), expected, strict=True):
        assert_close(got, want)

    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        sharded = jax.device_put(batch, NamedSharding(mesh, split))
        for got, want in zip(jax.jit(loss_gradients)(*sharded), expected, strict=True):
            assert got.sharding.spec[0] == "batch"
            assert_close(got, want)


def test_a_replicated_weight_sums_over_devices(rng):
    x, weight = normal(rng, 8, 4, 4, 2), normal(rng, 2)
    slope = jax.grad(lambda weight, x: jnp.sum(jnp.sin(weighted_avg_pool(x, weight, 2))))
    expected = slope(weight, x)
    split, whole = PartitionSpec("batch"), PartitionSpec()
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,))
    mapped = jax.shard_map(slope, mesh=mesh, in_specs=(whole, split), out_specs=whole)
    assert_close(jax.jit(mapped)(weight, x), expected)
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        assert_close(
            jax.jit(slope)(weight, jax.device_put(x, NamedSharding(mesh, split))), expected
        )


HUGE = jax.ShapeDtypeStruct((65536, 32768, 1), jnp.float32)


def test_a_large_plane_needs_no_index():
    shape = jax.eval_shape(lambda x: jax.grad(lambda x: max_pool(x, 2).sum())(x), HUGE).shape
    assert shape == HUGE.shape


@pytest.mark.parametrize("p", [1, 2, 3, 200])
@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_lp_pool_of_any_size(p, size):
    """Powers that leave the range of float32, of norms that do not."""
    x = jnp.array([[3.0], [-4.0]], "float32") * jnp.float32(size)
    y, gradient = jax.value_and_grad(lambda x: lp_pool(x, (2,), p=p).sum())(x)
    wide = np.array([3.0, 4.0])
    norm = np.sum(wide**p) ** (1 / p)
    assert_close(y / jnp.float32(size), norm, tolerance=1e-5)
    assert_close(gradient[:, 0], np.array([1, -1]) * (wide / norm) ** (p - 1), tolerance=1e-4)


@pytest.mark.parametrize(
    "size, stride, dilation, taken",
    [
        ((3, 2), (2, 2), (1, 1), True),
        ((2, 2), (2, 2), (1, 2), False),  # windows are not whole pieces of tiles
        ((1, 64), (1, 1), (1, 1), True),
        ((5, 13), (1, 1), (1, 1), False),  # of 65 terms
        ((2, 2), (5, 6), (1, 1), True),
        ((300, 300), (300, 300), (1, 1), True),
        ((2, 2), (256, 256), (1, 1), True),
        ((2, 2), (256, 257), (1, 1), False),  # of more pixels than are worth numbering
    ],
)
def test_which_windows_go_by_tiles(size, stride, dilation, taken):
    assert tiles.fit(make_window((400, 400), size, stride, "VALID", dilation)) == taken
