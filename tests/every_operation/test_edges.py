"""Numbers at the edge: not finite, huge, subnormal, none at all, and more than int32 counts."""

import functools
import itertools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checker import (
    TOLERANCE,
    assert_close,
    check_first_order,
    compiled,
    cotangents,
    message,
    normal,
    value_and_cotangents,
)
from numpy.testing import assert_array_equal
from operation_table import OPERATIONS
from references import lax_conv

from cnnvjp import (
    adaptive_avg_pool,
    adaptive_max_pool,
    add_bias,
    avg_pool,
    batch_norm,
    batch_norm_inference,
    conv,
    conv_kernel_grad,
    conv_transpose,
    dense,
    downsample,
    dropout,
    flatten,
    fold,
    global_avg_pool,
    global_max_pool,
    group_norm,
    half_squared_error,
    l2_penalty,
    layer_norm,
    log_softmax,
    lp_pool,
    max_pool,
    max_unpool,
    min_pool,
    pad,
    pixel_shuffle,
    pixel_unshuffle,
    prelu,
    repeat,
    resize,
    sample,
    sigmoid_cross_entropy,
    softmax,
    softmax_cross_entropy,
    standardize,
    sum_pool,
    unfold,
    upsample,
    weighted_avg_pool,
)

INF, NAN = np.inf, np.nan
DTYPES = ["float64", "float32", "bfloat16", "float16"]


def is_bad(x):
    """Where an array is infinite or NaN."""
    return ~np.isfinite(np.asarray(x, "float64"))


def one_hot(like, place):
    return jnp.zeros_like(like).at[place].set(1)


def places(shape, most=12):
    """Images' corners and borders and what lies inside, in changing images and channels."""
    batch, *size, channels = shape
    axes = [sorted({0, 1, n // 2, n - 1} & set(range(n))) for n in size]
    found = list(itertools.product(*axes))
    found = [*found[:: -(-len(found) // most)], tuple(n - 1 for n in size)]
    return [(i % batch, *place, i % channels) for i, place in enumerate(found)]


# ------------------------------------------------------------------------------------------
# What is not finite reaches what sees it, and nothing else
# ------------------------------------------------------------------------------------------


def exactly(seen):
    return seen


def other_groups(seen):
    """Blocks of groups multiply by the zeros between them."""
    return np.broadcast_to(seen.any(-1, keepdims=True), seen.shape)


def whole_rows(seen):
    """Banded matrices multiply whole rows by zeros."""
    return np.broadcast_to(seen.any((2, 3), keepdims=True), seen.shape)


def rows_of_the_kernel(seen):
    """The same for the kernel's gradient."""
    return np.broadcast_to(seen.any(1, keepdims=True), seen.shape)


def next_pixels(seen):
    """Kernels are filled with zeros to whole tiles of the stride's size, here 2."""
    near = max_pool(jnp.asarray(seen, "float32"), 3, stride=1, padding=1)
    return np.broadcast_to(np.asarray(near).any(-1, keepdims=True), seen.shape)


def own_channel(seen):
    """In the padding, what is not finite meets zeros, as it does in XLA."""
    return np.broadcast_to(seen.any(tuple(range(seen.ndim - 1))), seen.shape)


# x, w, options, and how far a bad number reaches: in the forward pass, the input's gradient
# and the kernel's
CONVOLUTIONS = {
    "depthwise": ((2, 9, 8, 2), (3, 3, 1, 2), dict(groups=2), "eee"),
    "depthwise-SAME": ((2, 5, 6, 2), (3, 3, 1, 2), dict(groups=2, padding="SAME"), "eee"),
    "depthwise-strided": (
        (2, 9, 8, 2),
        (3, 3, 1, 4),
        dict(groups=2, stride=2, padding=((1, 0), (0, 2))),
        "eee",
    ),
    "depthwise-1D": ((2, 47, 2), (5, 1, 2), dict(groups=2), "eee"),
    "depthwise-1D-strided": ((2, 50, 2), (3, 1, 2), dict(groups=2, stride=3, padding=2), "eee"),
    "depthwise-3D": (
        (2, 4, 6, 6, 2),
        (2, 3, 2, 1, 2),
        dict(groups=2, stride=(1, 2, 2), padding=1),
        "eee",
    ),
    "few-channels-a-group": ((2, 7, 8, 4), (3, 2, 2, 6), dict(groups=2, stride=2), "eee"),
    "blocks-of-groups": ((2, 5, 6, 20), (3, 3, 10, 4), dict(groups=2, padding=1), "gge"),
    "banded": ((2, 7, 9, 1), (5, 5, 1, 3), dict(padding=((1, 0), (2, 1))), "rrk"),
    "one-tap": ((2, 5, 6, 3), (1, 1, 3, 4), dict(stride=2), "eee"),
    "patches": ((2, 6, 7, 1), (3, 3, 1, 32), {}, "eee"),
    "phases": ((1, 24, 22, 16), (3, 3, 16, 2), dict(stride=2, padding=1), "eee"),
    "tiles": ((2, 9, 8, 3), (3, 3, 3, 2), dict(stride=2, padding=1), "ete"),
    "planes": ((2, 4, 5, 4, 3), (2, 3, 3, 3, 2), dict(padding=1), "eee"),
    "plain": ((2, 7, 6, 16), (2, 3, 16, 2), dict(stride=2, dilation=2, padding=1), "eee"),
}
REACHES = dict(e=exactly, g=other_groups, r=whole_rows, k=rows_of_the_kernel, t=next_pixels)
VERSIONS = {"depthwise", "depthwise-1D", "banded", "tiles"}


@pytest.mark.cpu  # cuDNN may spread it further
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.versions] * (n in VERSIONS)) for n in CONVOLUTIONS]
)
def test_convolution_of_what_is_not_finite(rng, name):
    x_shape, w_shape, options, letters = CONVOLUTIONS[name]
    x, w = normal(rng, *x_shape), normal(rng, *w_shape)
    reach_c, reach_h, reach_g = (REACHES[letter] for letter in letters)
    dy = normal(rng, *jax.eval_shape(functools.partial(conv, **options), x, w).shape)

    @jax.jit
    def ours(x, w, dy):
        return (
            conv(x, w, **options),
            conv_transpose(dy, w, output_size=x.shape[1:-1], **options),
            conv_kernel_grad(x, dy, w.shape[:-2], **options),
        )

    @jax.jit
    def theirs(x, w, dy):
        y, pullback = jax.vjp(functools.partial(lax_conv, **options), x, w)
        return y, *pullback(dy)

    def check(got, seen, reach):
        seen, bad = np.asarray(seen) != 0, is_bad(got)
        assert bad[seen].all() and not bad[~reach(seen)].any()

    ones = jax.tree.map(jnp.ones_like, (x, w, dy))
    for i, place in enumerate(places(x.shape)):
        y, _, dw = ours(x.at[place].set([NAN, INF, -INF][i % 3]), w, dy)
        y_seen, _, dw_seen = theirs(one_hot(x, place), *ones[1:])
        check(y, y_seen, reach_c)
        check(dw, dw_seen, reach_g)
    for i, place in enumerate(places(dy.shape)):
        _, dx, dw = ours(x, w, dy.at[place].set([NAN, INF, -INF][i % 3]))
        _, dx_seen, dw_seen = theirs(*ones[:2], one_hot(dy, place))
        check(dx, dx_seen, reach_h)
        check(dw, dw_seen, own_channel)
    place = tuple(n - 1 for n in w.shape)
    y, dx, _ = ours(x, w.at[place].set(INF), dy)
    y_seen, dx_seen, _ = theirs(ones[0], one_hot(w, place), ones[2])
    check(y, y_seen, own_channel)
    check(dx, dx_seen, own_channel)


# shape, window, options: side by side, overlapping, strided, dilated, cropped, axis by axis,
# in a loop, and in three dimensions
WINDOWS = [
    ((2, 6, 7, 2), 2, {}),
    ((2, 6, 5, 2), 3, dict(stride=1, padding=1)),
    ((2, 6, 7, 2), 3, dict(stride=2, padding=((0, 1), (2, 0)))),
    ((2, 7, 6, 2), 2, dict(stride=1, dilation=(2, 3))),
    ((2, 6, 7, 2), (3, 2), dict(stride=(2, 4), padding=((-1, 0), (1, -2)))),
    ((2, 9, 8, 2), (5, 4), dict(stride=2, padding=2)),
    ((2, 90, 2), (70,), dict(stride=7, padding=20)),
    ((2, 3, 5, 4, 2), (2, 3, 2), dict(stride=(1, 2, 1), padding=1)),
]


@pytest.mark.parametrize("shape, window, options", WINDOWS, ids=str)
def test_pooling_of_what_is_not_finite(rng, shape, window, options):
    pools = {
        "max": max_pool,
        "min": min_pool,
        "max split": functools.partial(max_pool, ties="split"),
        "sum": sum_pool,
        "average": functools.partial(avg_pool, count_include_pad=False),
        "norm": lp_pool,
    }
    each = lambda *xs: [f(x, window, **options) for f, x in zip(pools.values(), xs, strict=True)]
    run = compiled(each)
    sums = compiled(lambda x: sum_pool(x, window, **options))
    x = normal(rng, *shape)
    args = (x,) * len(pools)
    ones = [jnp.ones_like(y) for y in each(*args)]
    for i, place in enumerate(places(shape, 6)):
        poison = [NAN, INF][i % 2]
        ys, dxs = run((x.at[place].set(poison),) * len(pools), ones)
        seen, _ = sums((one_hot(x, place),), ones[0])
        _, (together,) = sums((x,), seen)
        seen, together = np.asarray(seen) != 0, np.asarray(together) != 0
        for name, y, dx in zip(pools, ys, dxs, strict=True):
            wins = not (name == "min" and poison == INF)
            assert_array_equal(is_bad(y), seen & wins, name)
            assert not is_bad(dx)[~together if "norm" in name else ...].any(), name
    for i, place in enumerate(places(ones[0].shape, 6)):
        _, seen = run(args, [one_hot(dy, place) for dy in ones])
        _, dxs = run(args, [dy.at[place].set([NAN, INF][i % 2]) for dy in ones])
        for name, dx, found in zip(pools, dxs, seen, strict=True):
            assert_array_equal(is_bad(dx), np.asarray(found) != 0, name)


BATCHED = [o for o in OPERATIONS if o.batched[0] and o.name != "batch_norm"]  # it mixes images


def named(operations):
    return pytest.mark.parametrize(
        "operation", operations, ids=[f"{i}-{o.name}" for i, o in enumerate(operations)]
    )


@named([o for o in BATCHED if o.keeps_batch])
def test_what_is_not_finite_stays_in_its_image(operation):
    args = operation.arguments()
    run = compiled(lambda *args: operation.f(*args, *operation.fixed))
    outputs = jax.eval_shape(lambda *args: operation.f(*args, *operation.fixed), *args)
    dy = cotangents(np.random.default_rng(1), outputs)

    def others(y_and_gradients):
        y, gradients = y_and_gradients
        kept = [g for g, batched in zip(gradients, operation.batched, strict=True) if batched]
        return [a[1:] for a in (y, *kept)]

    clean = others(run(args, dy))
    for poison in (NAN, INF):
        spoiled = [
            a.at[0].set(poison) if batched else a
            for a, batched in zip(args, operation.batched, strict=True)
        ]
        for found in (run(tuple(spoiled), dy), run(args, dy.at[0].set(poison))):
            chex.assert_trees_all_equal(others(found), clean)


def test_batch_norm_of_what_is_not_finite_stays_in_its_channel(rng):
    args = normal(rng, 4, 3, 2), normal(rng, 2), normal(rng, 2)
    dy = normal(rng, 4, 3, 2), normal(rng, 2), normal(rng, 2)
    run = compiled(batch_norm)
    clean = jax.tree.map(lambda a: a[..., 0], run(args, dy))
    spoiled = run((args[0].at[1, 2, 1].set(INF), *args[1:]), dy)
    chex.assert_trees_all_equal(jax.tree.map(lambda a: a[..., 0], spoiled), clean)
    assert all(is_bad(a[..., 1]).any() for a in jax.tree.leaves(spoiled[0]))


def test_normalization_of_what_is_not_finite_stays_in_its_group(rng):
    x, gamma, beta = normal(rng, 2, 3, 4), normal(rng, 4), normal(rng, 4)
    normalize = functools.partial(group_norm, groups=2, spatial_ndim=1)
    for f, group in ((normalize, np.s_[1, :, 2:]), (layer_norm, np.s_[1, 2, :])):
        y, (dx, *_) = compiled(f)((x.at[1, 2, 3].set(INF), gamma, beta), jnp.ones((2, 3, 4)))
        mask = np.zeros(x.shape, bool)
        mask[group] = True
        assert_array_equal(is_bad(y), mask)
        assert_array_equal(is_bad(dx), mask)


def test_prelu_sums_for_the_slope_where_it_acts():
    x, slope, dy = jnp.array([[2.0, -3.0]]), jnp.array([0.5, 0.5]), jnp.array([[INF, 1.0]])
    _, (_, dslope) = value_and_cotangents(prelu, (x, slope), dy)
    assert_array_equal(dslope, [0, -3])


def test_dropout_takes_nothing_from_what_it_drops():
    f = lambda x: dropout(jax.random.key(0), x, 0.5)
    kept = f(jnp.ones(8)) > 0
    x, dy = jnp.where(kept, 1.0, INF), jnp.where(kept, 1.0, NAN)
    for result in jax.tree.leaves(value_and_cotangents(f, (x,), dy)):
        assert_array_equal(result, jnp.where(kept, 2, 0))


def test_max_unpool_takes_nothing_from_what_it_drops():
    y, dx = jnp.array([[INF], [1.0], [NAN]]), jnp.array([[INF], [INF], [5.0], [NAN]])
    argmax = jnp.array([[-1], [2], [9]], jnp.int32)
    x, (dy,) = value_and_cotangents(lambda y: max_unpool(y, argmax, output_size=(4,)), (y,), dx)
    assert_array_equal(x[:, 0], [0, 0, 1, 0])
    assert_array_equal(dy[:, 0], [0, 5, 0])


@pytest.mark.parametrize("f, expected", [(softmax, [1, 0]), (log_softmax, [0, -INF])])
def test_a_row_that_is_masked_out_has_no_softmax(f, expected):
    logits, dy = jnp.array([[-INF, -INF], [0.0, -INF]]), jnp.array([[1.0, 0.0], [1.0, 0.0]])
    y, (dx,) = value_and_cotangents(f, (logits,), dy)
    assert is_bad(y[0]).all()
    assert_array_equal(y[1], expected)
    assert_array_equal(dx[1], [0, 0])


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
@pytest.mark.parametrize("zeros", [(0.0, -0.0), (-0.0, 0.0)])
def test_zeros_of_either_sign_tie(zeros, dtype):
    """The first one wins, as everywhere."""
    x = jnp.array(zeros, dtype)[:, None]
    _, gradients = value_and_cotangents(
        lambda *xs: (
            max_pool(xs[0], (2,)),
            min_pool(xs[1], (2,)),
            adaptive_max_pool(xs[2], (1,)),
            global_max_pool(xs[3], spatial_ndim=1),
        ),
        (x,) * 4,
        (jnp.ones((1, 1), dtype),) * 3 + (jnp.ones(1, dtype),),
    )
    for dx in gradients:
        assert_array_equal(dx[:, 0].astype("float32"), [1, 0])


# ------------------------------------------------------------------------------------------
# Huge and subnormal numbers
# ------------------------------------------------------------------------------------------

# dtype, the largest number of an argument, and the error allowed where all is this small: XLA
# may take subnormal numbers for zero.
SIZES = [
    ("float16", float(jnp.finfo("float16").max), 0),
    ("bfloat16", 1e19, 0),
    ("float32", 1e19, 0),  # whose square float32 does not hold
    ("float32", 1e-40, 1e-30),
]
# The mean of the largest numbers is one of them, and what is divided by their deviation is small.
LARGEST = [(dtype, float(jnp.finfo(dtype).max), 1e-36) for dtype in ("float32", "bfloat16")]
OF_MEANS = ["avg_pool", "global_avg_pool", "adaptive_avg_pool"]
OF_MEANS += ["batch_norm", "layer_norm", "group_norm"]


@named(OPERATIONS)
def test_what_the_dtype_can_hold_does_not_overflow(operation):
    """Values and gradients of huge and of subnormal numbers are those of float64."""
    f = lambda *args: operation.f(*args, *operation.fixed)
    run = compiled(f)

    def of_size(size, x):
        return x * (size / jnp.abs(x).max())

    def check(args, dy, dtype, allowed):
        args = [a.astype(dtype) for a in args]
        dy = jax.tree.map(lambda t, y: t.astype(y.dtype), dy, jax.eval_shape(f, *args))
        wide = jax.tree.map(lambda a: a.astype("float64"), (args, dy))
        for got, want in zip(*map(jax.tree.leaves, (run(args, dy), run(*wide))), strict=True):
            with np.errstate(over="ignore"):  # where the result itself is too large
                want = np.asarray(want).astype(got.dtype)
            magnitude = np.abs(want[np.isfinite(want)].astype("float64")).max(initial=allowed)
            tolerance = 4 * TOLERANCE[jnp.dtype(dtype)]
            if allowed and magnitude:
                tolerance = max(tolerance, allowed / magnitude)
            assert_close(got, want, tolerance=tolerance)

    first, *others = operation.arguments()
    dy = cotangents(np.random.default_rng(1), jax.eval_shape(f, first, *others))
    for dtype, size, allowed in SIZES + LARGEST * (operation.name in OF_MEANS):
        check([of_size(size, first), *others], dy, dtype, allowed)
        if not allowed:
            check([first, *others], jax.tree.map(lambda t, s=size: of_size(s, t), dy), dtype, 0)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("p", [1, 1.5, 2, 3])
def test_lp_pool_of_the_largest_numbers(p, dtype):
    largest = jnp.finfo(dtype).max
    x = jnp.array([0, -largest, 0, largest / 4, largest / 4, largest / 4], dtype)[:, None]
    y, gradient = jax.value_and_grad(lambda x: lp_pool(x, (3,), p=p).sum())(x / 2)
    assert_close(y / largest, 0.5 + 3 ** (1 / p) / 8, tolerance=4 * TOLERANCE[jnp.dtype(dtype)])
    slope = 3 ** (1 / p - 1)
    expected = np.array([0, -1, 0, slope, slope, slope], dtype)
    assert_close(gradient[:, 0], expected, tolerance=8 * TOLERANCE[jnp.dtype(dtype)])


def test_what_two_of_the_largest_numbers_would_overflow_in_passing():
    x, one = jnp.full((4, 1), 3e38, "float32"), jnp.ones(1, "float32")
    assert_array_equal(weighted_avg_pool(x, one / 4, (4,)), x[:1])
    assert_close(standardize(x, -x[0], x[0]), jnp.full_like(x, 2))
    w = jnp.array([2e19], "float32")
    assert_close(l2_penalty({"w": w}), jnp.array(2e38, "float32"))
    inference = batch_norm_inference(x, one, 0 * one, -x[0], x[0])
    assert_close(inference, jnp.full_like(x, 2 * np.sqrt(3e38)))


@pytest.mark.cpu
def test_normalization_within_vmap_computes_the_usual_variance_alone(rng):
    """What is computed where it overflows stays a branch of its own, for all images at once."""
    args = normal(rng, 3, 2, 5, 4), normal(rng, 4), normal(rng, 4)
    f = jax.vmap(functools.partial(group_norm, groups=2), (0, None, None))
    assert jax.jit(f).lower(*args).as_text().count("stablehlo.case") >= 1
    assert_close(f(*args), group_norm(*args, 2))


HUGE_LOGITS = [("float16", 1e4), ("bfloat16", 1e4), ("bfloat16", 1e30), ("float32", 1e30)]


@pytest.mark.parametrize("dtype, size", [*HUGE_LOGITS, ("float64", 1e4), ("float64", 1e300)])
def test_huge_logits(dtype, size):
    """Probabilities are exactly 0 and 1, and the losses exactly the distance of the logits."""
    x = jnp.array([[0, size, -size]] * 3, dtype)
    size = x[0, 1]
    labels, p = jnp.arange(3), jnp.array([[0, 1, 0]] * 3, dtype)
    shares = jnp.array([[0.25, 0.5, 0.25]] * 3, dtype)
    ones = jnp.ones(3, dtype)

    def check(f, args, dy, y, gradients):
        got_y, got = value_and_cotangents(f, args, dy)
        assert_array_equal(got_y, y)
        for found, expected in zip(got, gradients, strict=True):
            assert_array_equal(found, expected)

    dy = jnp.array([[1.0, 2.0, 4.0]] * 3, dtype)
    check(softmax, (x,), dy, p, [p * (dy - 2)])
    check(log_softmax, (x,), dy, x - size, [dy - 7 * p])
    eye = jnp.eye(3, dtype=dtype)
    surprise = jnp.array([size, 0, 2 * size], dtype)
    check(lambda x: softmax_cross_entropy(x, labels), (x,), ones, surprise, [p - eye])
    check(softmax_cross_entropy, (x, eye), ones, surprise, [p - eye, size - x])
    check(softmax_cross_entropy, (x, shares), ones, ones * (0.75 * size), [p - shares, size - x])
    right = (x > 0).astype(dtype)
    error = jnp.where(x == 0, jnp.log(2 * jnp.ones_like(x)), jnp.abs(x) * jnp.abs(right - shares))
    slope = jnp.where(x == 0, 0.5, right) - shares
    check(sigmoid_cross_entropy, (x, shares), jnp.ones_like(x), error, [slope, -x])


NORMALIZATIONS = [
    (lambda *args: batch_norm(*args)[0], (0, 1)),
    (lambda *args: group_norm(*args, 1, spatial_ndim=1), (1, 2)),
    (layer_norm, 2),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("f, axes", NORMALIZATIONS, ids=["batch", "group", "layer"])
def test_normalization_of_a_constant(rng, f, axes, dtype):
    """The variance is 0 and eps alone divides: y = beta, dx = gamma · (dy − mean dy) / √eps."""
    x = jnp.full((4, 2, 8), 3, dtype)
    gamma, beta, dy = normal(rng, 8), normal(rng, 8), normal(rng, 4, 2, 8)
    low = [a.astype(dtype) for a in (gamma, beta, dy)]
    y, (dx, dgamma, dbeta) = value_and_cotangents(f, (x, *low[:2]), low[2])
    gamma, beta, dy = (np.asarray(a, "float64") for a in low)
    tolerance = 2 * TOLERANCE[jnp.dtype(dtype)]
    assert_array_equal(np.asarray(y, "float64"), np.broadcast_to(beta, y.shape))
    assert_array_equal(dgamma, np.zeros(8))
    assert_close(dbeta, dy.sum((0, 1)), tolerance=tolerance)
    v = gamma * dy
    assert_close(dx, (v - v.mean(axes, keepdims=True)) / np.sqrt(1e-5), tolerance=tolerance)


# ------------------------------------------------------------------------------------------
# No image, one pixel, and windows that see none
# ------------------------------------------------------------------------------------------


@named([o for o in OPERATIONS if any(o.batched) and o.name != "batch_norm"])  # which refuses it
def test_no_image(operation):
    """Results and gradients have their shapes; where there is nothing to sum, they are 0."""

    def cut(arrays, batched):
        return [a[:0] if b else a for a, b in zip(arrays, batched, strict=True)]

    fixed = [a[:0] for a in operation.fixed]
    f = lambda *args: operation.f(*args, *fixed)
    full = lambda *args: operation.f(*args, *operation.fixed)
    for dtype in DTYPES:
        args = operation.arguments(dtype)
        like = jax.eval_shape(full, *args)
        none = cut(args, operation.batched)
        expected = like.shape if not operation.keeps_batch else (0, *like.shape[1:])
        y = jax.eval_shape(f, *none)
        assert (y.shape, y.dtype) == (expected, like.dtype)
        pull = lambda args, dy: jax.vjp(f, *args)[1](dy)
        for a, da in zip(none, jax.eval_shape(pull, none, y), strict=True):
            assert (da.shape, da.dtype) == (a.shape, a.dtype)
    args = cut(operation.arguments(), operation.batched)
    y, gradients = compiled(f)(args, jnp.ones(expected))
    for result in (y, *gradients):
        assert_array_equal(result, np.zeros(result.shape))


# What cannot be done, or not with these options, to maps without a position
MAY_NEED_POSITIONS = ["conv", "conv_transpose", "conv_kernel_grad", "max_pool", "min_pool"]
MAY_NEED_POSITIONS += ["max_unpool", "avg_pool", "sum_pool", "lp_pool", "weighted_avg_pool"]
MAY_NEED_POSITIONS += ["global_max_pool", "global_avg_pool", "adaptive_avg_pool", "upsample"]
MAY_NEED_POSITIONS += ["adaptive_max_pool", "downsample", "resize", "pad", "unfold", "batch_norm"]
MAY_NEED_POSITIONS += ["sample"]
NEEDS_CHANNELS = ["conv", "conv_kernel_grad", "conv_general_dilated", "softmax_cross_entropy"]
NEEDS_CHANNELS += ["sample"]  # whose positions are cut too


def without_channels(arrays):
    return [a[..., :0] for a in arrays]


@named([o for o in OPERATIONS if o.shapes[0] == (4, 6, 6, 4)])
def test_empty_maps(operation):
    """Without a position, or a channel, the result is empty too, or an error says why not."""
    x, *others = operation.arguments()
    fixed = [jnp.zeros((4, 0, 6), a.dtype) for a in operation.fixed]
    y = jax.eval_shape(operation.f, x, *others, *operation.fixed)
    like = y[0] if operation.name == "batch_norm" else y
    cases = [
        (MAY_NEED_POSITIONS, [x[:, :0], *others], fixed),
        (NEEDS_CHANNELS, without_channels([x, *others]), operation.fixed),
    ]
    for may_refuse, args, more in cases:
        f = lambda *args, more=more: operation.f(*args, *more)
        try:
            y, pullback = jax.vjp(f, *args)
        except ValueError:
            assert operation.name in may_refuse
            continue
        y, *moments = y if operation.name == "batch_norm" else [y]
        assert y.ndim == like.ndim and y.dtype == like.dtype
        gradients = pullback((y, *moments) if moments else y)
        for a, result in zip((None, *args), (y, *gradients), strict=True):
            assert a is None or a.shape == result.shape
            assert_array_equal(result, np.zeros(result.shape))


def test_what_pads_and_multiplies_nothing(rng):
    nothing, image = jnp.ones((2, 0, 3, 2)), jnp.zeros((2, 3, 4, 2))
    y, (dx,) = value_and_cotangents(lambda x: pad(x, ((1, 2), (1, 0))), (nothing,), image)
    assert_array_equal(y, image)
    assert dx.shape == nothing.shape
    assert downsample(nothing, (2, 3)).shape == (2, 0, 1, 2)
    b = normal(rng, 3)
    assert_array_equal(dense(jnp.ones((2, 0)), jnp.ones((0, 3)), b), [b, b])


def copies(x):
    return jnp.broadcast_to(x, (2, 4, 3, 2))


def alone(x):
    """A pixel with zeros around it."""
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))


# What an image of one pixel becomes
ONE_PIXEL = [
    *((lambda x, pool=pool: pool(x, 1), lambda x: x) for pool in (max_pool, avg_pool)),
    (lambda x: max_pool(x, 3, padding=1), lambda x: x),
    (lambda x: min_pool(x, (5, 3), stride=1, padding=(4, 2), dilation=2), lambda x: x),
    (lambda x: sum_pool(x, 3, padding=((2, 0), (1, 1))), lambda x: x),
    (lambda x: sum_pool(x, 3, stride=1, padding="FULL"), lambda x: jnp.tile(x, (1, 3, 3, 1))),
    (lambda x: avg_pool(x, 3, padding=1), lambda x: x / 9),
    (lambda x: avg_pool(x, 3, padding=1, count_include_pad=False), lambda x: x),
    (lambda x: lp_pool(x, (3, 1), padding=(1, 0)), jnp.abs),
    (lambda x: max_pool(x, 4, ceil_mode=True, padding=2), lambda x: x),
    (global_max_pool, lambda x: x[:, 0, 0]),
    (global_avg_pool, lambda x: x[:, 0, 0]),
    (lambda x: adaptive_avg_pool(x, (4, 3)), copies),
    (lambda x: adaptive_max_pool(x, (4, 3)), copies),
    (lambda x: downsample(x, 7), lambda x: x),
    (lambda x: upsample(x, 3, output_size=3, offset=1), alone),
    (lambda x: repeat(x, (4, 3)), copies),
    *(
        (lambda x, options=options: resize(x, (4, 3), **options), copies)
        for options in (
            dict(method="nearest"),
            dict(method="linear"),
            dict(method="cubic"),
            dict(method="linear", align_corners=True),
            dict(method="cubic", antialias=True),
        )
    ),
    (lambda x: pad(x, ((1, 2), (0, 2)), mode="edge"), copies),
    (lambda x: pad(x, 1, mode="circular"), lambda x: jnp.tile(x, (1, 3, 3, 1))),
    (lambda x: pad(x, 0, mode="reflect"), lambda x: x),
    (lambda x: pixel_unshuffle(x, 1), lambda x: x),
    (lambda x: pixel_shuffle(x, (1, 2)), lambda x: x.reshape(2, 1, 2, 1)),
    (lambda x: unfold(x, 3, padding=1), lambda x: alone(x)[:, None, None]),
    (lambda x: fold(x[:, None, None], 1), lambda x: x),
    (flatten, lambda x: x.reshape(2, 2)),
]


def test_one_pixel(rng):
    check_first_order(
        lambda *xs: [f(x) for (f, _), x in zip(ONE_PIXEL, xs, strict=True)],
        lambda *xs: [reference(x) for (_, reference), x in zip(ONE_PIXEL, xs, strict=True)],
        *(normal(rng, 2, 1, 1, 2) for _ in ONE_PIXEL),
    )


# x, w and options of convolutions whose windows lie in the padding, most of them wholly
BEYOND = [
    ((2, 1, 2), (3, 2, 2), dict(padding=4)),
    ((1, 3, 2), (2, 1, 2), dict(groups=2, padding=((5, 0),))),
    ((2, 2, 1, 2), (3, 3, 1, 2), dict(groups=2, stride=2, padding=((4, 0), (0, 5)))),
    ((2, 2, 3, 2), (2, 2, 1, 4), dict(groups=2, dilation=2, padding=6)),
    ((2, 5, 4, 2), (3, 3, 1, 2), dict(groups=2, padding=((-3, 6), (5, -2)))),
    ((1, 2, 3, 2, 2), (2, 2, 2, 1, 2), dict(groups=2, stride=2, padding=3)),
    ((1, 2, 2, 4), (2, 2, 2, 4), dict(groups=2, padding=4)),
    ((1, 2, 1, 20), (2, 3, 10, 4), dict(groups=2, padding=((0, 5), (4, 0)))),
    ((2, 2, 2, 1), (5, 5, 1, 2), dict(padding=((9, 0), (0, 9)))),
    ((2, 2, 3, 2), (3, 3, 2, 2), dict(stride=2, padding=((0, 7), (6, 0)))),
    ((1, 2, 2, 2, 2), (2, 2, 2, 2, 2), dict(padding=3)),
]


@pytest.mark.parametrize("x_shape, w_shape, options", BEYOND, ids=str)
def test_windows_beyond_the_image(rng, x_shape, w_shape, options):
    check_first_order(
        lambda x, w: conv(x, w, **options),
        lambda x, w: lax_conv(x, w, **options),
        normal(rng, *x_shape),
        normal(rng, *w_shape),
    )


# ------------------------------------------------------------------------------------------
# More than int32 counts
# ------------------------------------------------------------------------------------------

SIDE = 2**16
PLANE = jax.ShapeDtypeStruct((1, SIDE, SIDE, 2), "float16")
WIDE_PLANE = jax.ShapeDtypeStruct((1, 2**6, 2**26, 2), "float16")
VOLUME = jax.ShapeDtypeStruct((1, 2048, 1024, 1024, 2), "float16")
CHANNELS = jax.ShapeDtypeStruct((2,), "float16")
PLACES = jax.ShapeDtypeStruct((1, 5, 2), "float32")
KERNEL = lambda *size: jax.ShapeDtypeStruct((*size, 2), "float16")

# Of planes with 2³² positions, and volumes with 2³¹, which no index may name
LARGE = [
    (lambda x, w: conv(x, w, padding=1), PLANE, KERNEL(3, 3, 2)),
    (lambda x, w: conv(x, w, padding=1, groups=2), WIDE_PLANE, KERNEL(3, 3, 1)),
    (lambda x, w: conv(x, w), VOLUME, KERNEL(1, 2, 2, 2)),
    (lambda x, w: conv_transpose(x, w, stride=2), PLANE, KERNEL(3, 3, 2)),
    (lambda x, w: weighted_avg_pool(x, w, 3, stride=2, padding=1), PLANE, CHANNELS),
    (lambda x: max_pool(x, 2, stride=2**15), PLANE),
    (lambda x: max_pool(x, 5, stride=1), PLANE),
    (lambda x: max_pool(x, 2, ties="split"), PLANE),
    (lambda x: max_pool(x, (2**15, 2**15)), PLANE),
    (lambda x: min_pool(x, (2, 2, 2)), VOLUME),
    (lambda x: avg_pool(x, SIDE), PLANE),
    (lambda x: sum_pool(x, 3, stride=2**15), PLANE),
    (lambda x: lp_pool(x, 2), PLANE),
    (global_avg_pool, PLANE),
    (lambda x: global_avg_pool(x, spatial_ndim=3), VOLUME),
    (lambda x: adaptive_avg_pool(x, 1), PLANE),
    (lambda x: adaptive_max_pool(x, 1), PLANE),
    (lambda x: downsample(x, 3), PLANE),
    (lambda x: upsample(x, 2), PLANE),
    (lambda x: repeat(x, 2), PLANE),
    (lambda x: resize(x, (SIDE + 3, SIDE // 2)), PLANE),
    *(
        (lambda x, p, method=method: sample(x, p, method=method), PLANE, PLACES)
        for method in ("nearest", "linear", "cubic")
    ),
    (lambda x: pad(x, 1, mode="reflect"), PLANE),
    (lambda x: pixel_unshuffle(x, 2), PLANE),
    (lambda x: unfold(x, 2), PLANE),
    (flatten, PLANE),
    (add_bias, PLANE, CHANNELS),
    (lambda *args: batch_norm(*args)[0], PLANE, CHANNELS, CHANNELS),
    (batch_norm_inference, PLANE, *[CHANNELS] * 4),
    (layer_norm, PLANE, CHANNELS, CHANNELS),
    (lambda *args: group_norm(*args, 1), PLANE, CHANNELS, CHANNELS),
    (standardize, PLANE, CHANNELS, CHANNELS),
    (softmax, PLANE),
    (lambda x: dropout(jax.random.key(0), x, 0.5), PLANE),
    (l2_penalty, PLANE),
    (lambda y, t: half_squared_error(y, t, axis=None), PLANE, PLANE),
]


def without_x64():
    return (jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64)(False)


@pytest.mark.parametrize("f, args", [(f, args) for f, *args in LARGE])
def test_no_index_is_larger_than_int32(f, args):
    """The program of values and gradients numbers axes, never positions; nothing is run."""
    with without_x64():
        dy = jax.eval_shape(f, *args)
        pull = lambda args, dy: jax.vjp(f, *args)[1](dy)
        text = jax.jit(lambda args, dy: (f(*args), pull(args, dy))).lower(args, dy).as_text()
    for shape in re.findall(r"tensor<([\dx]+)x[su]?i(?:8|16|32)>", text):
        assert max(map(int, shape.split("x"))) < 2**31, shape


TOO_LARGE = [
    (
        lambda x: global_max_pool(x),
        PLANE,
        r"x: got a plane of 65536 × 65536 = 4294967296 .*axis by",
    ),
    (
        lambda x: global_max_pool(x, spatial_ndim=3),
        VOLUME,
        r"x: got a plane of 2048 × 1024 × 1024 = 2147483648 positions, of which an int32",
    ),
    (lambda x: max_pool(x, SIDE), PLANE, r"window: got a plane of 65536 × 65536 = 4294967296"),
    (lambda x: min_pool(x, SIDE), PLANE, r"window: got a plane of 65536 × 65536 = 4294967296"),
    (
        lambda x: min_pool(x, (2, 2, 2), return_argmax=True),
        VOLUME,
        r"return_argmax: got a plane of 2048 × 1024 × 1024 = 2147483648 positions.*or without it",
    ),
    (
        lambda x: max_unpool(x, x.astype("int32"), output_size=SIDE),
        jax.ShapeDtypeStruct((1, 8, 8, 2), "float16"),
        r"output_size: got a plane of 65536 × 65536 = 4294967296 positions, .*parts of y",
    ),
]


@pytest.mark.parametrize("f, x, pattern", TOO_LARGE)
def test_positions_that_int32_cannot_tell_apart(f, x, pattern):
    with pytest.raises(ValueError) as error:
        jax.eval_shape(f, x)
    assert re.match(pattern, message(error)), message(error)


def test_the_most_positions_that_int32_tells_apart():
    most = jax.ShapeDtypeStruct((1, 2**31 - 1, 2), "float16")
    assert jax.eval_shape(lambda x: global_max_pool(x, spatial_ndim=1), most).shape == (1, 2)


def test_a_stride_far_beyond_the_window_is_not_numbered():
    """The program of a gradient does not grow with what lies between the windows."""

    def length(stride):
        x = jax.ShapeDtypeStruct((1, 2 * stride, 2 * stride, 1), "float32")
        gradient = jax.grad(lambda x: max_pool(x, 2, stride=stride).sum())
        return len(jax.jit(gradient).lower(x).as_text())

    assert length(4000) < 2 * length(1000)
