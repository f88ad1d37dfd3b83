"""`explicit` and `conv_general_dilated`: what lax computes, by our rules.

Programs at random and by hand, under every construct that holds a program of its own: values and
gradients as without, and an account of what was replaced that is independent of the library.
"""

import dataclasses
import functools
import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from checker import (
    assert_close,
    check_first_order,
    check_low_precision,
    check_second_order,
    count_primitives,
    distinct,
    integers,
    normal,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax import lax
from jax.extend import core, source_info_util
from jax.extend.core import primitives
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import cnnvjp
from cnnvjp import explicit
from cnnvjp.rewriting._served import EXPLICIT

NHWC = ("NHWC", "HWIO", "NHWC")
RANDOM = settings(
    max_examples=20,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)


def reported(f, *args, **kwargs):
    """What `explicit` says of f, without running it."""
    reports = []
    jax.eval_shape(explicit(f, report=reports.append), *args, **kwargs)
    (report,) = reports
    return report


LAX = ("conv_general_dilated", "reduce_window", "reduce_window_max", "reduce_window_sum")
LAX += ("reduce_window_min", "select_and_scatter_add", "select_and_gather_add")

# ------------------------------------------------------------------------------------------
# Convolutions
# ------------------------------------------------------------------------------------------


@st.composite
def convolutions(draw):
    """Operand shapes, and options of `lax.conv_general_dilated` under which something comes out."""
    ndim = draw(st.integers(1, 3))
    small = st.integers(1, 3 if ndim < 3 else 2)
    axes = draw(st.permutations(range(ndim + 2))), draw(st.permutations(range(ndim + 2)))
    axes += (draw(st.permutations(range(ndim + 2))),)
    kernel = [draw(small) for _ in range(ndim)]
    upsampled = draw(st.booleans())
    both = upsampled and draw(st.integers(0, 3)) == 0
    lhs_dilation = [draw(small) if upsampled else 1 for _ in range(ndim)]
    strides = [draw(small) if both or not upsampled else 1 for _ in range(ndim)]
    dilation = [draw(st.integers(1, 2)) for _ in range(ndim)]
    groups, copies = draw(st.sampled_from([(1, 1), (1, 1), (2, 1), (3, 1), (1, 2)]))
    channels, maps = groups * draw(small), groups * copies * draw(small)
    size, padding = [], []
    for k, d, up in zip(kernel, dilation, lhs_dilation, strict=True):
        low, high = draw(st.integers(-1, 3)), draw(st.integers(-1, 3))
        reach = d * (k - 1) + 1
        least = max(-(-(reach - low - high - 1) // up) + 1, 1, -low, -high)
        size.append(least + draw(st.integers(0, 4)))
        padding.append((low, high))

    def placed(entries, order):
        return tuple(entries[order.index(axis)] for axis in range(ndim + 2))

    lhs = placed([copies * 2, channels, *size], axes[0])
    rhs = placed([maps, channels // groups, *kernel], axes[1])
    options = dict(
        window_strides=strides,
        padding=padding,
        lhs_dilation=draw(st.sampled_from([lhs_dilation])) if upsampled else None,
        rhs_dilation=dilation,
        dimension_numbers=lax.ConvDimensionNumbers(*map(tuple, axes)),
        feature_group_count=groups,
        batch_group_count=copies,
    )
    return lhs, rhs, options


@pytest.mark.versions
@RANDOM
@given(convolutions())
def test_random_convolutions(case):
    lhs, rhs, options = case
    rng = np.random.default_rng(0)
    args = normal(rng, *lhs), normal(rng, *rhs)
    stock = functools.partial(lax.conv_general_dilated, **options)
    check_first_order(functools.partial(cnnvjp.conv_general_dilated, **options), stock, *args)
    upsampled = max(options["lhs_dilation"] or [1]) > 1
    served = options["batch_group_count"] == 1
    served &= not (upsampled and max(options["window_strides"]) > 1)
    served &= 0 not in jax.eval_shape(stock, *args).shape
    (finding,) = reported(stock, *args).findings
    assert finding.replaced == served, finding


@pytest.mark.parametrize("padding", ["SAME", "VALID", "same", [[1, 2], [0, 1]]])
@pytest.mark.parametrize(
    "numbers",
    [
        None,
        NHWC,
        ("CWNH", "WOHI", "HNWC"),
        lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2)),
    ],
)
def test_forms_of_options(rng, padding, numbers):
    spec = lax.conv_dimension_numbers((1,) * 4, (1,) * 4, numbers)
    lhs, rhs = [0] * 4, [0] * 4
    for axis, n in zip(spec.lhs_spec, (2, 4, 6, 5), strict=True):
        lhs[axis] = n
    for axis, n in zip(spec.rhs_spec, (6, 2, 3, 2), strict=True):
        rhs[axis] = n
    options = dict(padding=padding, dimension_numbers=numbers, feature_group_count=2)
    check_first_order(
        lambda x, w: cnnvjp.conv_general_dilated(x, w, [2, 1], **options),
        lambda x, w: lax.conv_general_dilated(x, w, [2, 1], **options),
        normal(rng, *lhs), normal(rng, *rhs),
    )  # fmt: skip


def test_options_of_numpy_numbers(rng):
    """lax takes them; to `explicit` they are arrays, unless they are bound before."""
    x, w = normal(rng, 2, 4, 6, 5), normal(rng, 6, 2, 3, 2)
    options = dict(
        window_strides=np.array([2, 1]),
        padding=((np.int64(1), 1), np.array([0, 2])),
        rhs_dilation=jnp.array([1, 2]),
        feature_group_count=np.int64(2),
    )
    got = cnnvjp.conv_general_dilated(x, w, **options)
    plain = dict(window_strides=(2, 1), padding=((1, 1), (0, 2)), rhs_dilation=(1, 2))
    assert_close(got, lax.conv_general_dilated(x, w, **plain, feature_group_count=2))


@pytest.mark.parametrize("transpose_kernel", [False, True])
@pytest.mark.parametrize("padding", ["SAME", "VALID", ((1, 0), (2, 1))])
def test_conv_transpose_of_lax(rng, padding, transpose_kernel):
    def up(x, w):
        return lax.conv_transpose(
            x, w, (2, 3), padding, (1, 2),
            dimension_numbers=NHWC, transpose_kernel=transpose_kernel,
        )  # fmt: skip

    args = normal(rng, 2, 4, 3, 4), normal(rng, 3, 2, *((5, 4) if transpose_kernel else (4, 5)))
    assert [f.replaced for f in reported(up, *args).findings] == [True]
    check_first_order(explicit(up), up, *args)
    check_second_order(explicit(up), up, *args)


def test_low_precision_and_integers(rng):
    def convolve(x, w):
        return cnnvjp.conv_general_dilated(x, w, (1, 1), "SAME")

    x, w = normal(rng, 2, 4, 6, 6), normal(rng, 3, 4, 3, 3)
    for dtype in ("bfloat16", "float16"):
        check_low_precision(convolve, x, w, dtype=dtype, terms=72)
        wide = cnnvjp.conv_general_dilated(
            x.astype(dtype), w.astype(dtype), (1, 1), "SAME", preferred_element_type="float32"
        )
        assert wide.dtype == "float32"
    x, w = integers(rng, 2, 4, 6, 6, dtype="int8"), integers(rng, 3, 4, 3, 3, dtype="int8")
    for preferred in (None, "int32"):
        options = dict(preferred_element_type=preferred)
        got = cnnvjp.conv_general_dilated(x, w, (1, 1), "SAME", **options)
        want = lax.conv_general_dilated(x, w, (1, 1), "SAME", **options)
        assert got.dtype == want.dtype and (got == want).all()


IMAGE, KERNEL = jnp.ones((2, 4, 6, 6)), jnp.ones((4, 4, 3, 3))
LEFT = [
    ("batch_group_count is not 1", dict(batch_group_count=2, lhs=jnp.ones((4, 4, 6, 6)))),
    ("both window_strides and lhs_dilation", dict(lhs_dilation=(2, 1), window_strides=(1, 2), padding=((1, 1), (1, 1)))),
    ("preferred_element_type: got dtype('float32')", dict(lhs=IMAGE.astype("int8"), rhs=KERNEL.astype("int8"), preferred_element_type="float32")),
    ("a matrix product, which cnnvjp.dense computes", dict(lhs=IMAGE[..., 0, 0], rhs=KERNEL[..., 0, 0], window_strides=())),
    ("it has 4 spatial axes; conv takes 1, 2 or 3", dict(lhs=jnp.ones((1, 2) + (3,) * 4), rhs=jnp.ones((2, 2) + (2,) * 4), window_strides=(1,) * 4)),
    ("our operation refuses it: w: its size 7 with dilation 1 covers 7 positions", dict(rhs=jnp.ones((4, 4, 7, 3)), padding="VALID")),
    ("no axis may be empty", dict(rhs=KERNEL[:0])),
]  # fmt: skip


@pytest.mark.parametrize("reason, replaced", LEFT, ids=[f"{i}" for i in range(len(LEFT))])
def test_what_goes_to_lax(reason, replaced):
    call = dict(lhs=IMAGE, rhs=KERNEL, window_strides=(1, 1), padding="SAME") | replaced
    arrays = call.pop("lhs"), call.pop("rhs")
    stock = functools.partial(lax.conv_general_dilated, **call)
    (finding,) = reported(stock, *arrays).left
    assert reason in finding.reason
    got, want = cnnvjp.conv_general_dilated(*arrays, **call), stock(*arrays)
    assert got.dtype == want.dtype
    assert_close(got, want)


WEAKLY_TYPED = {
    "convolution": (lambda x: lax.conv(x, x[:1, :, :2, :2], (1, 1), "SAME"), 1),
    "transposed": (lambda x: lax.conv_transpose(x, x[:1, :, :2, :2], (2, 2), "SAME", dimension_numbers=("NCHW", "OIHW", "NCHW")), 1),
    "maximum": (lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 2, 2), (1, 1, 1, 1), "SAME"), 1),
    "sum": (lambda x: lax.reduce_window(x, 0.0, lax.add, (1, 1, 2, 2), (1, 1, 2, 2), "SAME"), 1),
}  # fmt: skip


@pytest.mark.versions
@pytest.mark.parametrize("f, found", WEAKLY_TYPED.values(), ids=WEAKLY_TYPED)
def test_weak_types_stay_weak(f, found):
    """The type of Python's numbers, which yields to the dtype of whatever it meets."""

    def weak(scale):
        numbers = lax.cumsum(lax.cumsum(jnp.full((1, 1, 3, 3), 1.0) * scale, 2), 3)
        assert numbers.weak_type
        return f(numbers)

    report = reported(weak, 2.0)
    assert len(report.replaced) == found and not report.left
    ours, stock = (jax.vjp(jax.jit(g), 2.0) for g in (explicit(weak), weak))
    assert ours[0].aval == stock[0].aval and ours[0].weak_type
    assert_close(ours[0], stock[0])
    (slope,), (expected,) = (pullback(y) for y, pullback in (ours, stock))
    assert slope.aval == expected.aval
    assert_close(slope, expected)


def test_what_is_symbolic_goes_to_lax():
    (batch,) = jax.export.symbolic_shape("n")
    symbolic = jax.ShapeDtypeStruct((batch, 4, 6, 6), "float64")
    kernel = jax.ShapeDtypeStruct(KERNEL.shape, "float64")
    exported = jax.export.export(jax.jit(lambda x, w: cnnvjp.conv_general_dilated(x, w, (1, 1), "SAME")))(symbolic, kernel)  # fmt: skip
    assert_close(exported.call(IMAGE, KERNEL), lax.conv(IMAGE, KERNEL, (1, 1), "SAME"))


def test_out_sharding_goes_to_lax():
    mesh = jax.make_mesh((2,), ("data",), (AxisType.Explicit,), devices=jax.devices()[:2])
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    with jax.set_mesh(mesh) if hasattr(jax, "set_mesh") else jax.sharding.use_mesh(mesh):
        x, w = jax.device_put(IMAGE, sharding), jax.device_put(KERNEL, NamedSharding(mesh, PartitionSpec()))  # fmt: skip
        y = jax.jit(lambda x, w: cnnvjp.conv_general_dilated(x, w, (1, 1), "SAME", out_sharding=sharding))(x, w)  # fmt: skip
    assert_close(y, lax.conv(IMAGE, KERNEL, (1, 1), "SAME"))


def test_one_convolution_on_accelerators():
    """Forward one, and one for each gradient, whatever the layout."""
    for numbers in (None, NHWC):
        x, w = (jnp.ones((2, 8, 8, 8), "float32"), jnp.ones((8, 8, 3, 3), "float32"))
        w = w if numbers is None else w.T

        def both(x, w, numbers=numbers):
            run = functools.partial(cnnvjp.conv_general_dilated, dimension_numbers=numbers)
            y, pullback = jax.vjp(lambda x, w: run(x, w, (2, 2), "SAME"), x, w)
            return y, pullback(y)

        text = jax.export.export(jax.jit(both), platforms=["cuda"])(x, w).mlir_module()
        assert text.count("stablehlo.convolution") == 3


# ------------------------------------------------------------------------------------------
# Window reductions
# ------------------------------------------------------------------------------------------

REDUCTIONS = {
    "max": (lax.max, -np.inf),
    "min": (lax.min, np.inf),
    "add": (lax.add, 0.0),
}


@st.composite
def reductions(draw):
    """A shape, an operation, and the window's options along each axis."""
    ndim = draw(st.integers(1, 5))
    pooled = draw(st.sets(st.integers(0, ndim - 1), max_size=min(ndim, 4)))
    shape, window, strides, padding, dilation = [], [], [], [], []
    for axis in range(ndim):
        inside = axis in pooled
        k, s, d = (draw(st.integers(1, 3)) if inside else 1 for _ in range(3))
        low, high = (draw(st.integers(-1, 2)) if inside else 0 for _ in range(2))
        n = max(d * (k - 1) + 1 - low - high, 1) + draw(st.integers(0, 3))
        for entries, value in zip((shape, window, strides, dilation), (n, k, s, d), strict=True):
            entries.append(value)
        padding.append((low, high))
    return tuple(shape), draw(st.sampled_from(list(REDUCTIONS))), (window, strides, padding, dilation)  # fmt: skip


def reduced_by_taps(operation, window, strides, padding, dilation, x):
    """A window reduction, tap by tap: lax's cannot always be differentiated, or even compiled."""
    x = lax.pad(x, jnp.asarray(REDUCTIONS[operation][1], x.dtype), [(*p, 0) for p in padding])
    sizes = [
        (n - d * (k - 1) - 1) // s * s + 1
        for n, k, s, d in zip(x.shape, window, strides, dilation, strict=True)
    ]
    taps = [np.multiply(m, dilation) for m in np.ndindex(*window)]
    slices = [lax.slice(x, low, low + np.array(sizes), strides) for low in taps]
    return functools.reduce(REDUCTIONS[operation][0], slices)


def all_in_padding(n, k, s, pair, d):
    """Whether some window along an axis has no tap on the n positions."""
    windows = (n + sum(pair) - d * (k - 1) - 1) // s + 1
    return any(not any(0 <= i * s + m * d - pair[0] < n for m in range(k)) for i in range(windows))


@pytest.mark.versions
@RANDOM
@given(reductions())
def test_random_reductions(case):
    shape, operation, (window, strides, padding, dilation) = case
    function, start = REDUCTIONS[operation]

    def stock(x):
        return lax.reduce_window(
            x, start, function, window, strides, padding, window_dilation=dilation
        )

    x = distinct(np.random.default_rng(0), *shape)
    per_axis = list(zip(shape, window, strides, padding, dilation, strict=True))
    pooled = [axis for axis in per_axis if axis[1:4] != (1, 1, (0, 0))]
    served = 1 <= len(pooled) <= 3
    served &= not any(all_in_padding(*axis) for axis in pooled)
    (finding,) = reported(stock, x).findings
    assert finding.replaced == served, finding
    if served:
        by_taps = functools.partial(reduced_by_taps, operation, *case[2])
        check_first_order(explicit(stock), by_taps, x)


@pytest.mark.parametrize("operation", REDUCTIONS)
@pytest.mark.parametrize("dtype", ["float64", "int32", "uint8"])
def test_reductions_by_a_function_that_lax_does_not_know(rng, operation, dtype):
    """JAX cannot differentiate them in reverse; ours can."""
    function = {"max": jnp.maximum, "min": jnp.minimum, "add": jnp.add}[operation]
    start = REDUCTIONS[operation][1]
    if dtype != "float64":
        limits = jnp.iinfo(dtype)
        start = {"max": limits.min, "min": limits.max, "add": 0}[operation]
    x = distinct(rng, 6, 4).astype(dtype)
    start = np.asarray(start, dtype)

    def unknown(x):
        return lax.reduce_window(x, start, lambda a, b: function(a, b), (2, 2), (2, 2), "VALID")

    def known(x):
        return lax.reduce_window(x, start, REDUCTIONS[operation][0], (2, 2), (2, 2), "VALID")

    assert count_primitives(jax.make_jaxpr(unknown)(x).jaxpr, "reduce_window") == 1
    assert len(reported(unknown, x).replaced) == 1
    assert (explicit(unknown)(x) == known(x)).all()
    if dtype == "float64":
        check_first_order(explicit(unknown), known, x)


def test_reductions_that_are_left(rng):
    x = normal(rng, 6, 4)
    reduce = functools.partial(lax.reduce_window, x)
    for reason, f in [
        ("none of max, min and add", lambda: reduce(1.0, lax.mul, (2, 2), (1, 1), "VALID")),
        ("the constant -inf, the identity of max", lambda: reduce(1.0, lambda a, b: jnp.maximum(a, b), (2, 2), (1, 1), "VALID")),
        ("base_dilation", lambda: reduce(0.0, lax.add, (2, 2), (1, 1), "VALID", (2, 1))),
        ("one entry", lambda: reduce(0.0, lax.add, (1, 1), (1, 1), "VALID")),
        ("covers 7 positions", lambda: reduce(0.0, lax.add, (7, 1), (1, 1), "VALID")),
        ("no tap on", lambda: reduce(0.0, lax.add, (2, 1), (1, 1), ((2, 0), (0, 0)))),
    ]:  # fmt: skip
        (finding,) = reported(f).left
        assert reason in finding.reason, finding
        assert_close(explicit(f)(), f())


@pytest.mark.parametrize("length, left", [(2, 0), (64, 0), (65, 1)])
def test_cumulative_reductions(rng, length, left):
    """They are poolings as well: only where they are long is lax faster."""
    x = distinct(rng, 1, length, 1)

    def f(x):
        padding = ((0, 0), (length - 1, 0), (0, 0))
        return lax.reduce_window(x, 0.0, lax.add, (1, length, 1), (1, 1, 1), padding)

    report = reported(f, x)
    assert [f.reason for f in report.left] == ["it is cumulative along axis 1"] * left
    check_first_order(explicit(f), lambda x: jnp.cumsum(x, 1), x)


def test_small_maps_are_pooled_and_not_cumulative(rng):
    """A window of the map's size with "SAME" padding looks cumulative along each axis."""
    x = distinct(rng, 1, 2, 2, 1)

    def f(x):
        return lax.reduce_window(x, 0.0, lax.add, (1, 2, 2, 1), (1, 1, 1, 1), "SAME")

    assert not reported(f, x).left
    check_first_order(explicit(f), lambda x: jnp.cumsum(jnp.cumsum(x[:, ::-1, ::-1], 1), 2)[:, ::-1, ::-1], x)  # fmt: skip


STARTS = [
    ("add", "float64", 1.0), ("add", "int32", 1), ("max", "int32", 0), ("min", "int32", 0),
    ("max", "uint8", 1), ("min", "uint8", 0), ("max", "float64", 0.0), ("min", "float64", -np.inf),
]  # fmt: skip


@pytest.mark.parametrize("operation, dtype, start", STARTS)
@pytest.mark.parametrize("is_constant", [True, False])
def test_reductions_from_another_start(rng, operation, dtype, start, is_constant):
    """A pooling starts from the identity: from another number, or one not known, it is lax's."""
    x = distinct(rng, 6, 4).astype(dtype)
    start = np.asarray(start, dtype)

    def f(x, start=start):
        function = lambda a, b: REDUCTIONS[operation][0](a, b)
        return lax.reduce_window(x, start, function, (2, 2), (2, 2), "VALID")

    args = (x,) if is_constant else (x, start)
    (finding,) = reported(f, *args).left
    assert "it does not start from the constant" in finding.reason
    assert (explicit(f)(*args) == f(*args)).all()


# ------------------------------------------------------------------------------------------
# Programs within programs
# ------------------------------------------------------------------------------------------


def network(w, x):
    """A convolution, a maximum, a transposed convolution and an average: four to replace."""
    y = lax.conv_general_dilated(x, w, (2, 2), "SAME", dimension_numbers=NHWC)
    y = lax.reduce_window(jnp.tanh(y), -jnp.inf, lax.max, (1, 2, 2, 1), (1, 1, 1, 1), "SAME")
    y = lax.conv_transpose(y, w, (2, 2), "SAME", dimension_numbers=NHWC, transpose_kernel=True)
    y = lax.reduce_window(y, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4
    return jnp.sum(jnp.sin(y))


def in_scan(w, x):
    def step(carry, x):
        return carry + network(w, x[None]), carry

    total, trail = lax.scan(step, 0 * x.ravel()[0], x, reverse=True, unroll=2)
    return total + trail.sum()


def in_while(w, x):
    """Its length is known, so that it can be differentiated in reverse."""
    return lax.fori_loop(0, 2, lambda _, total: total + network(w, x), jnp.zeros(()))


def in_unbounded_while(w, x):
    """One that JAX cannot differentiate in reverse, of what needs no derivative."""
    fixed, start = lax.stop_gradient((w, x[0]))

    def condition(x):
        return network(fixed, x[None]) > 1e9

    skipped = lax.while_loop(condition, lambda x: x + network(fixed, x[None]), start)
    return network(w, x) + skipped.sum()


def in_branches(w, x):
    either = lax.cond(x[0, 0, 0, 0] > 0, network, lambda w, x: 2 * network(w, x), w, x)
    return either + lax.switch(1, [lambda w, x: w.sum(), network, lambda w, x: x.sum()], w, x)


def on_a_platform(w, x):
    return lax.platform_dependent(w, x, cpu=lambda w, x: 3 * network(w, x), default=network)


def in_checkpoint(w, x):
    policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    return jax.checkpoint(network, policy=policy)(w, x) + jax.checkpoint(jax.jit(network))(w, x)


def in_vmap(w, x):
    alone = jax.vmap(lambda x: network(w, x[None]))(x).sum()
    both = jax.vmap(lambda w, x: network(w, x[None]))(jnp.stack([w, 2 * w]), x[:2]).sum()
    return alone + both + jax.vmap(lambda w: network(w, x))(jnp.stack([w, 3 * w])).sum()


def all_together(w, x):
    @jax.jit
    def inner(w, x):
        return lax.cond(w[0, 0, 0, 0] > 0, in_scan, in_checkpoint, w, x)

    def step(total, scale):
        return total + jax.checkpoint(inner)(scale * w, x), None

    return jax.jit(lambda scales: lax.scan(step, jnp.zeros(()), scales)[0])(jnp.ones(2))


PROGRAMS = {
    network: 4,
    jax.jit(jax.jit(network)): 4,
    in_scan: 4,
    in_while: 4,
    in_unbounded_while: 12,
    in_branches: 12,
    on_a_platform: 8,
    in_checkpoint: 8,
    in_vmap: 12,
    all_together: 12,
}


def arguments(rng, batch=2):
    return normal(rng, 3, 3, 3, 4), normal(rng, batch, 6, 6, 3)


@pytest.mark.versions
@pytest.mark.parametrize(
    "program, found", PROGRAMS.items(), ids=lambda p: getattr(p, "__name__", "")
)
def test_programs_within_programs(rng, program, found):
    args = arguments(rng)
    report = reported(program, *args)
    assert sum(finding.count for finding in report.replaced) == found and not report.left
    slopes = jax.value_and_grad(explicit(program), (0, 1))
    assert count_primitives(jax.make_jaxpr(explicit(program))(*args).jaxpr, *LAX) == 0
    actual = jax.jit(slopes)(*args)
    expected = jax.jit(jax.value_and_grad(program, (0, 1)))(*args)
    for got, want in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert_close(got, want, tolerance=1e-11)


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0)])
def test_vmap_outside(rng, axes):
    w, x = normal(rng, 2, 3, 3, 3, 4), normal(rng, 2, 2, 6, 6, 3)
    args = [a if axis == 0 else a[0] for a, axis in zip((w, x), axes, strict=True)]

    def mapped(f):
        return jax.jit(jax.vmap(jax.value_and_grad(f, (0, 1)), axes))(*args)

    for got, want in zip(jax.tree.leaves(mapped(explicit(network))), jax.tree.leaves(mapped(network)), strict=True):  # fmt: skip
        assert_close(got, want, tolerance=1e-11)


def test_names_of_mapped_axes(rng):
    """A function that names an axis is traced where the axis is."""
    w, x = arguments(rng)

    def f(x):
        return network(w, x[None]) - lax.pmean(network(w, x[None]), "batch")

    mapped = jax.vmap(explicit(f), axis_name="batch")(x)
    assert_close(mapped, jax.vmap(f, axis_name="batch")(x), tolerance=1e-11)


@pytest.mark.versions
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("check", [True, False])
def test_shard_map(rng, kind, check):
    args = arguments(rng, batch=4)
    mesh = jax.make_mesh((2,), ("data",), (kind,), devices=jax.devices()[:2])
    whole, parts = PartitionSpec(), PartitionSpec("data")

    def mapped(w, x):
        def part(w, x):
            return lax.psum(in_scan(w, x) + jax.jit(network)(w, x), "data")

        return jax.shard_map(
            part, mesh=mesh, in_specs=(whole, parts), out_specs=whole, check_vma=check
        )(w, x)

    with jax.set_mesh(mesh) if hasattr(jax, "set_mesh") else jax.sharding.use_mesh(mesh):
        args = [jax.device_put(a, NamedSharding(mesh, s)) for a, s in zip(args, (whole, parts), strict=True)]  # fmt: skip
        report = reported(mapped, *args)
        assert sum(finding.count for finding in report.replaced) == 8 and not report.left
        actual = jax.jit(jax.value_and_grad(explicit(mapped), (0, 1)))(*args)
        expected = jax.jit(jax.value_and_grad(mapped, (0, 1)))(*args)
    for got, want in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert got.sharding.is_equivalent_to(want.sharding, got.ndim)
        assert_close(got, want, tolerance=1e-11)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_sharded_arrays(rng, kind):
    args = arguments(rng, batch=4)
    mesh = jax.make_mesh((2,), ("data",), (kind,), devices=jax.devices()[:2])
    with jax.set_mesh(mesh) if hasattr(jax, "set_mesh") else jax.sharding.use_mesh(mesh):
        args = [jax.device_put(a, NamedSharding(mesh, PartitionSpec(*s))) for a, s in zip(args, ((), ("data",)), strict=True)]  # fmt: skip
        assert not reported(network, *args).left
        actual = jax.jit(jax.value_and_grad(explicit(network), (0, 1)))(*args)
        expected = jax.jit(jax.value_and_grad(network, (0, 1)))(*args)
    for got, want in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert got.sharding.is_equivalent_to(want.sharding, got.ndim)
        assert_close(got, want, tolerance=1e-11)


def test_primitives_that_call(rng):
    """Two that JAX itself makes now and then: a compiled call's jaxpr put under their names."""
    args = arguments(rng)
    closed = jax.make_jaxpr(jax.jit(network))(*args)
    (call,) = closed.eqns
    for primitive in (primitives.closed_call_p, primitives.call_p):
        body = call.params["jaxpr"]
        params = {"call_jaxpr": body if primitive is primitives.closed_call_p else body.jaxpr}
        jaxpr = closed.jaxpr.replace(eqns=[call.replace(primitive=primitive, params=params)])
        new, findings = EXPLICIT.rewritten(core.ClosedJaxpr(jaxpr, closed.consts))
        assert [finding.replaced for finding in findings] == [True] * 4
        assert_close(core.jaxpr_as_fun(new)(*args)[0], network(*args), tolerance=1e-11)


# ------------------------------------------------------------------------------------------
# Custom rules
# ------------------------------------------------------------------------------------------


@jax.custom_vjp
def with_vjp(w, x):
    return network(w, x)


with_vjp.defvjp(lambda w, x: (network(w, x), w), lambda w, dy: (7 * dy * w, None))


@jax.custom_jvp
def with_jvp(w, x):
    return network(w, x)


@with_jvp.defjvp
def _(primals, tangents):
    return with_jvp(*primals), 7 * jnp.vdot(primals[0], tangents[0])


@pytest.mark.versions
@pytest.mark.parametrize("f", [with_vjp, with_jvp])
def test_custom_rules_are_kept(rng, f):
    """The bodies are rewritten; the derivatives are those that were given, here wrong ones."""
    w, x = arguments(rng)
    assert len(reported(f, w, x).replaced) == 4
    assert_close(explicit(f)(w, x), network(w, x), tolerance=1e-11)
    assert_close(jax.grad(explicit(f))(w, x), 7 * w, tolerance=1e-11)
    assert_close(jax.grad(explicit(jax.jit(f)))(w, x), 7 * w, tolerance=1e-11)


def test_our_own_operations_are_left_alone(rng):
    x = normal(rng, 2, 6, 6, 4)

    def ours(x):
        return cnnvjp.max_pool(cnnvjp.conv(x, jnp.ones((3, 3, 4, 2))), 2)

    assert not reported(ours, x).findings
    assert not reported(explicit(explicit(network)), *arguments(rng)).findings
    texts = [str(jax.make_jaxpr(f)(x)) for f in (ours, explicit(ours))]
    addresses = [re.sub(r"0x\w+", "", text) for text in texts]
    assert addresses[0] == addresses[1]


def test_what_is_a_derivative_already(rng):
    args = arguments(rng)
    (finding,) = [f for f in reported(jax.grad(network), *args).left if "scatter" in f.operation]
    assert finding.operation == "select_and_scatter_add"
    assert "it is part of a derivative that JAX took" in finding.reason
    derivative = jax.jit(explicit(jax.grad(network)))(*args)
    assert_close(derivative, jax.jit(jax.grad(network))(*args), tolerance=1e-11)


def test_derivatives_in_reverse_only(rng):
    w, x = arguments(rng)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(explicit(network), (w, x), (w, x))
    f = explicit(lambda w: network(w, x))
    direction = normal(rng, *w.shape)
    actual = jax.jvp(jax.grad(f), (w,), (direction,))[1]
    expected = jax.jvp(jax.grad(lambda w: network(w, x)), (w,), (direction,))[1]
    assert_close(actual, expected, tolerance=1e-10)


# ------------------------------------------------------------------------------------------
# What stays as it was
# ------------------------------------------------------------------------------------------


def test_compiled_functions_stay_what_they_are(rng):
    w, x = arguments(rng)

    @functools.partial(jax.jit, donate_argnums=1, inline=False)
    def block(w, x):
        return w, x + network(w, x)

    def f(w, x):
        for _ in range(3):
            w, x = block(w, x)
        return x

    calls = [e for e in jax.make_jaxpr(explicit(f))(w, x).eqns if e.primitive.name == "jit"]
    assert len(calls) == 3
    assert len({id(call.params["jaxpr"]) for call in calls}) == 1, "compiled once, called thrice"
    for call in calls:
        assert call.params["name"] == "block"
        assert call.params["donated_invars"] == (False, True)
    again = [e for e in jax.make_jaxpr(explicit(f))(w, x).eqns if e.primitive.name == "jit"]
    assert again[0].params["jaxpr"] is calls[0].params["jaxpr"]


def test_calls_that_are_alike_are_compiled_once(rng):
    """As layers of a network are: one jaxpr of ours, and one of its gradient."""
    w, x = normal(rng, 3, 3, 3, 3), normal(rng, 2, 6, 6, 3)

    def f(w, x):
        for dilation in (1, 1, 2, 1):
            x = lax.conv_general_dilated(
                x, w, (1, 1), "SAME", rhs_dilation=(dilation, 1), dimension_numbers=NHWC
            )
        return x

    calls = [e for e in jax.make_jaxpr(explicit(f))(w, x).eqns if e.primitive.name == "jit"]
    bodies = [call.params["jaxpr"] for call in calls]
    assert [bodies.index(body) for body in bodies] == [0, 0, 2, 0]


def test_lines_and_scopes_stay(rng):
    """What profilers and error messages show of a program is that of the user's own lines."""

    def places(jaxpr):
        """Of every equation that is lax's, or ours in its place: its scopes and its line."""
        for equation in jaxpr.eqns:
            info = equation.source_info
            if equation.primitive.name in LAX or equation.params.get("name") in LAX:
                yield str(info.name_stack), source_info_util.summarize(info)
            else:
                for inner in jax.tree.leaves(list(equation.params.values())):
                    if isinstance(inner, core.Jaxpr | core.ClosedJaxpr):
                        yield from places(getattr(inner, "jaxpr", inner))

    w, x = arguments(rng)
    mesh = jax.make_mesh((1,), ("data",), (AxisType.Auto,), devices=jax.devices()[:1])

    def f(w, x):
        with jax.named_scope("outer"):
            scanned = in_scan(w, x) + jax.jit(jax.named_scope("inner")(network))(w, x)
        whole = PartitionSpec()
        return scanned + jax.shard_map(jax.named_scope("part")(network), mesh=mesh, in_specs=whole, out_specs=whole)(w, x)  # fmt: skip

    ours, stock = (list(places(jax.make_jaxpr(g)(w, x).jaxpr)) for g in (explicit(f), f))
    assert len(stock) == 12 and len({scope for scope, _ in stock}) == 3
    assert len({line for _, line in stock}) == 4
    assert ours == stock


def test_a_program_with_nothing_to_replace_is_the_same(rng):
    inner = jax.jit(lambda x: jnp.sin(x) * 2)

    def f(x):
        return {"y": inner(x), "weak": 2.0 * jnp.ones(())}, [inner(x), None, 3.0]

    x = normal(rng, 3)
    stock, ours = jax.make_jaxpr(f)(x), jax.make_jaxpr(explicit(f))(x)
    assert str(stock) == str(ours)
    assert stock.eqns[0].params["jaxpr"] is ours.eqns[0].params["jaxpr"]
    assert stock.out_avals == ours.out_avals
    assert jax.tree.structure(explicit(f)(x)) == jax.tree.structure(f(x))


def test_arguments_reach_the_function(rng):
    """Arrays are traced; what is none, such as a flag or a function, is itself."""
    seen = []

    def f(tree, /, factor, *, train, act, key):
        seen.append((factor, train, act))
        y = network(**tree) * (factor if train else 1)
        return act(y) + jax.random.normal(key), {"train": jnp.asarray(train)}

    w, x = arguments(rng)
    key = jax.random.key(0)
    options = dict(train=True, act=jnp.tanh, key=key)
    (y, aux), (y2, aux2) = (g({"w": w, "x": np.asarray(x)}, 2, **options) for g in (explicit(f), f))
    assert_close(y, y2, tolerance=1e-11)
    assert aux == aux2
    assert seen == [(2, True, jnp.tanh)] * 2
    assert explicit(f).__name__ == "f"


def test_effects_and_closures(rng):
    printed = []
    w, x = arguments(rng)

    def f(scale):
        def step(total, x):
            y = network(scale * w, x[None])
            jax.debug.callback(printed.append, y)
            return total + y, None

        return lax.scan(step, jnp.zeros(()), x)[0]

    jax.block_until_ready(jax.jit(explicit(f))(1.0))
    jax.effects_barrier()
    assert len(printed) == 2
    # What f closes over may be traced by a transformation around it.
    slope = jax.grad(lambda w: explicit(lambda x: network(w, x))(x))(w)
    assert_close(slope, jax.grad(network)(w, x), tolerance=1e-11)


@jax.tree_util.register_pytree_with_keys_class
class Layer:
    """An object that changes when it is called, as modules of `flax.nnx` do."""

    def __init__(self, w, calls=0):
        self.w, self.calls, self.last = w, calls, None

    def tree_flatten_with_keys(self):
        named = [(jax.tree_util.GetAttrKey(name), getattr(self, name)) for name in ("w", "last")]
        return named, self.calls

    @classmethod
    def tree_unflatten(cls, calls, children):
        new = cls(children[0], calls)
        new.last = children[1]
        return new

    def __call__(self, x):
        self.calls += 1
        self.w = self.w + 1
        self.last = {"y": self.w * x}
        return self.last["y"]


def grow(state, x):
    state.append(x)
    state[0] = state[0] * x
    return x


def shrink(state, x):
    state[:] = [state[1] + x]
    return x


def exchange(state, x):
    state["mean"], state["new"] = x, {"twice": 2 * x, "flag": 2}
    del state["old"]
    return x


def nested(state, x):
    state["a"][0]["b"] += x
    return x


def call_shared(state, x):
    return state[0](x) + state[1](x)


def swap(state, x):
    state[0].last, state[1] = state[2], state[0]
    return x


IN_PLACE = {
    grow: lambda: [jnp.ones(3)],
    shrink: lambda: [jnp.ones(3), jnp.zeros(3), jnp.ones(3)],
    exchange: lambda: {"mean": jnp.zeros(3), "old": jnp.zeros(3)},
    nested: lambda: {"a": ({"b": jnp.ones(3)},)},
    call_shared: lambda: (layer := Layer(jnp.ones(3)), layer),
    swap: lambda: [Layer(jnp.ones(3)), Layer(jnp.zeros(3)), {"c": jnp.ones(3)}],
}


@pytest.mark.parametrize("f, new", IN_PLACE.items(), ids=lambda f: getattr(f, "__name__", ""))
def test_arguments_changed_in_place(rng, f, new):
    """They are changed as f itself changes them, in the very objects, under jit and grad too."""
    x = normal(rng, 3)

    def around(g):
        def loss(x):
            state = new()
            return g(state, x).sum(), state

        return jax.jit(jax.value_and_grad(loss, has_aux=True))

    ours, stock = new(), new()
    results = explicit(f)(ours, x), f(stock, x)
    for got, want in ((results[0], results[1]), (ours, stock), (around(explicit(f))(x), around(f)(x))):  # fmt: skip
        assert jax.tree.structure(got) == jax.tree.structure(want)
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            assert_close(a, b) if isinstance(b, jax.Array) else (a == b)


def test_objects_that_are_given_and_returned_are_the_same(rng):
    layer, inside = Layer(jnp.ones(3)), {"c": jnp.ones(3)}

    def f(layer, inside):
        layer.last = inside
        return [layer], layer.w + 1

    (result,), w = explicit(f)(layer, inside)
    assert result is layer and layer.last is inside
    assert_close(w, layer.w + 1)


def test_frozen_arguments_may_keep_what_they_compute(rng):
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass(frozen=True)
    class Scaled:
        w: jax.Array

        @functools.cached_property
        def twice(self):
            return 2 * self.w

    scaled = Scaled(normal(rng, 3))
    assert_close(explicit(lambda scaled: scaled.twice)(scaled), 2 * scaled.w)


RETURNED = [
    ("'text', of type str;", lambda x: "text"),
    (r"cos, of type \w+ \(at \[1\]\['act'\]\);", lambda x: (x, {"act": jnp.cos})),
    (r".*<lambda>, of type function \(at \[0\]\);", lambda x: [lambda y: x]),
    (r"array\(\['a'\], .*, of type ndarray;", lambda x: np.array(["a"])),
]


@pytest.mark.parametrize("what, f", RETURNED, ids=range(len(RETURNED)))
def test_what_f_may_return(what, f):
    with pytest.raises(
        TypeError, match=f"^f: it returned {what} under explicit, .* arrays and num"
    ):
        explicit(f)(jnp.ones(2))


# ------------------------------------------------------------------------------------------
# The report
# ------------------------------------------------------------------------------------------


def test_report(rng):
    w, x = arguments(rng)

    def f(w, x):
        with jax.named_scope("stem"):
            y = lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=NHWC)

        @jax.jit
        @jax.named_scope("mean")
        def pool(y):
            return lax.reduce_window(y, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")

        with jax.named_scope("twice"):
            z = [pool(y), pool(y)]
        return z, lax.reduce_window(y, 0.0, lax.add, (1, 1, 1, 1), (1, 1, 1, 1), "VALID")

    report = reported(f, w, x)
    convolution, pooling, copy = report.findings
    assert report.replaced == (convolution, pooling) and report.left == (copy,)
    assert convolution.operation == "conv_general_dilated"
    assert convolution.operands == ("float64[2,6,6,3]", "float64[3,3,3,4]")
    assert convolution.result == "float64[2,6,6,4]"
    assert (convolution.scope, convolution.count, convolution.reason) == ("stem", 1, "")
    assert "test_explicit.py" in convolution.source
    assert (pooling.operation, pooling.scope, pooling.count) == (
        "reduce_window_sum",
        "twice/mean",
        2,
    )
    assert copy.reason == "its windows have one entry: nothing is pooled"
    assert [field.name for field in dataclasses.fields(copy)][-1] == "count"
    lines = str(report).splitlines()
    assert lines[0] == "3 replaced, 1 left"
    assert lines[2].startswith("  replaced 2 × reduce_window_sum(float64[2,6,6,4]) -> float64[2,3,3,4]  [twice/mean at ")  # fmt: skip
    assert lines[3].startswith("  left 1 × reduce_window_sum(float64[2,6,6,4]) -> float64[2,6,6,4]: its windows have one entry: nothing is pooled  [at ")  # fmt: skip


def test_report_of_what_is_inside_something_else(rng):
    x = normal(rng, 1, 6, 1)

    def smooth(x):
        return lax.reduce_window(x, 0.0, lax.add, (1, 3, 1), (1, 1, 1), "SAME")

    def f(b):
        return lax.custom_linear_solve(
            lambda x: 4 * x + smooth(x), b, lambda _, b: b, symmetric=True
        )

    assert reported(f, x).left
    for finding in reported(f, x).findings:
        assert finding.reason == "it is inside custom_linear_solve, which stays as it is"
