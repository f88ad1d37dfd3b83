"""Properties of random geometries: a dozen of each here, thousands with

HYPOTHESIS_PROFILE=deep python -m pytest -q -n auto tests/operations/test_properties.py
"""

import dataclasses
import itertools
from collections.abc import Sequence

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
    message,
    normal,
    value_and_cotangents,
)
from jax import lax
from numpy.testing import assert_array_equal
from references import lax_conv

from cnnvjp import (
    avg_pool,
    conv,
    conv_kernel_grad,
    conv_transpose,
    downsample,
    fold,
    lp_pool,
    max_pool,
    max_unpool,
    min_pool,
    pad,
    pixel_shuffle,
    pixel_unshuffle,
    repeat,
    resize,
    sum_pool,
    unfold,
    upsample,
)
from cnnvjp._windows.geometry import forward_input_size, make_window

pytest.importorskip("hypothesis")

from hypothesis import example, given
from hypothesis import strategies as st

# ------------------------------------------------------------------------------------------
# Where windows stand: drawn, and counted without the library
# ------------------------------------------------------------------------------------------

SAME = ("SAME", "SAME_LOWER")

# Of a window: its largest size and dilation, for each number of spatial axes.
LARGEST = {1: (5, 3), 2: (5, 2), 3: (3, 2)}


@dataclasses.dataclass(frozen=True)
class Placement:
    """A window over an input; options as they are given to the operations."""

    spatial: tuple
    window: tuple
    options: dict

    @property
    def ndim(self):
        return len(self.spatial)

    @property
    def stride(self):
        stride = self.options.get("stride")
        return self.window if stride is None else each(stride, self.ndim)

    def pads(self, axis, n):
        """(before, after) of an axis of n positions."""
        padding, s = self.options["padding"], self.stride[axis]
        extent = self.extent[axis]
        if padding == "FULL":
            return extent - 1, extent - 1
        if isinstance(padding, str):
            return lax.padtype_to_pads((n,), (extent,), (s,), padding)[0]
        pair = each(padding, self.ndim)[axis]
        return pair if isinstance(pair, tuple) else (pair, pair)

    @property
    def extent(self):
        dilation = each(self.options["dilation"], self.ndim)
        return tuple(d * (k - 1) + 1 for k, d in zip(self.window, dilation, strict=True))

    def positions(self, axis, n=None):
        """Every window's taps along an axis, laid down one window after the other."""
        n = self.spatial[axis] if n is None else n
        before, after = self.pads(axis, n)
        d = each(self.options["dilation"], self.ndim)[axis]
        stride, extent = self.stride[axis], self.extent[axis]
        found = []
        for start in itertools.count(-before, stride):
            fits = start + extent <= n + after
            hangs_over = start < n and start + extent < n + after + stride
            if not fits and not (self.options.get("ceil_mode") and hangs_over):
                return found
            found.append(range(start, start + extent, d))

    @property
    def output(self):
        return tuple(len(self.positions(axis)) for axis in range(self.ndim))

    def windows(self):
        """(i, the places of its taps on the input, how many taps are there or on padding)."""
        axes = [self.positions(axis) for axis in range(self.ndim)]
        reach = [n + self.pads(axis, n)[1] for axis, n in enumerate(self.spatial)]
        for i in np.ndindex(*self.output):
            taps = list(itertools.product(*(p[j] for p, j in zip(axes, i, strict=True))))
            places = [
                t for t in taps if all(0 <= p < n for p, n in zip(t, self.spatial, strict=True))
            ]
            yield i, places, sum(all(p < r for p, r in zip(t, reach, strict=True)) for t in taps)

    def input_sizes(self):
        """For each axis, every size that leads to as many windows."""
        return [
            [m for m in range(max(1, n - s + 1), n + s) if len(self.positions(axis, m)) == o]
            for axis, (n, s, o) in enumerate(
                zip(self.spatial, self.stride, self.output, strict=True)
            )
        ]

    def misfit(self):
        """What the error says of a pooling window that cannot stand so, or None."""
        if self.options.get("ceil_mode") and self.options["padding"] in SAME:
            return "ceil_mode: got True with padding="
        if (
            self.options.get("ceil_mode")
            and min(self.pads(axis, n)[1] for axis, n in enumerate(self.spatial)) < 0
        ):
            return "which crops the end of the input, with ceil_mode=True"
        if not all(places for _, places, _ in self.windows()):
            return "has no tap on the"
        return None


def each(option, ndim):
    return tuple(option) if isinstance(option, Sequence) else (option,) * ndim


def per_axis(ndim, low, high):
    """An int, or one for each axis."""
    entry = st.integers(low, high)
    return entry | st.tuples(*[entry] * ndim)


def paddings(low, high):
    """Every form of padding; `high` is the most of each axis."""
    names = st.sampled_from(["VALID", "SAME", "SAME_LOWER", "FULL"])
    entries = [st.integers(low, most) for most in high]
    pairs = [st.tuples(entry, entry) for entry in entries]
    return st.one_of(names, st.integers(low, min(high)), st.tuples(*entries), st.tuples(*pairs))


@st.composite
def placements(draw, pooling=False, padding=None):
    """A window and an input with room for it."""
    ndim = draw(st.integers(1, 3))
    taps, dilations = LARGEST[ndim]
    window = draw(st.tuples(*[st.integers(1, taps)] * ndim))
    options = {"dilation": draw(per_axis(ndim, 1, dilations)), "stride": draw(per_axis(ndim, 1, 3))}
    placement = Placement((1,) * ndim, window, options)
    if pooling:
        options["stride"] = draw(st.just(options["stride"]) | st.none())
        options["ceil_mode"] = draw(st.booleans())
        most = [min(e - 1, 3) for e in placement.extent]  # more has windows without an entry
    else:
        most = [3] * ndim
    options["padding"] = draw(paddings(-2, most)) if padding is None else padding
    least = [1] * ndim
    if options["padding"] not in SAME:
        least = [max(1, e - sum(placement.pads(a, 1))) for a, e in enumerate(placement.extent)]
    spatial = draw(st.tuples(*(st.integers(n, n + 4) for n in least)))
    return dataclasses.replace(placement, spatial=spatial)


def covering(sizes):
    """Few combinations that have every size of every axis."""
    longest = max(map(len, sizes))
    return [tuple(axis[i % len(axis)] for axis in sizes) for i in range(longest)]


def inner(a, b):
    """⟨a, b⟩ in float64."""
    return np.vdot(np.asarray(a, "float64"), np.asarray(b, "float64"))


def positive(rng, *shape):
    """Positive numbers, sums of which do not cancel."""
    return jnp.asarray(rng.uniform(1, 2, size=shape))


def check_rule(rng, linear, shape, *, exact=True):
    """⟨A x, dy⟩ = ⟨x, Aᵀ dy⟩ for the rule Aᵀ that a linear operation carries."""
    draw = (lambda *args: integers(*args, dtype="float64")) if exact else positive
    x = draw(rng, *shape)
    dy = draw(rng, *jax.eval_shape(linear, x).shape)
    y, (dx,) = value_and_cotangents(linear, (x,), dy)
    assert_close(inner(x, dx), inner(y, dy), tolerance=0 if exact else None)


def check_pair(rng, linear, adjoint, shape):
    """⟨A x, dy⟩ = ⟨x, Aᵀ dy⟩ exactly, and each of A and Aᵀ is the rule of the other."""
    x = integers(rng, *shape, dtype="float64")
    dy = integers(rng, *jax.eval_shape(linear, x).shape, dtype="float64")

    @jax.jit
    def both(x, dy):
        y, pullback = jax.vjp(linear, x)
        dx, of_adjoint = jax.vjp(adjoint, dy)
        return y, dx, *of_adjoint(x), *pullback(dy)

    y, dx, y_again, dx_again = both(x, dy)
    assert inner(y, dy) == inner(x, dx)
    assert_array_equal(y_again, y)
    assert_array_equal(dx_again, dx)


# ------------------------------------------------------------------------------------------
# Convolution
# ------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Convolution:
    """The shapes of a convolution's arguments, and its options."""

    placement: Placement
    batch: tuple
    channels: tuple
    groups: int
    flip_kernel: bool

    @property
    def options(self):
        more = {"groups": self.groups, "flip_kernel": self.flip_kernel}
        return self.placement.options | more

    def shapes(self, spatial=None):
        c_in, c_out = self.channels
        x = (*self.batch, *(spatial or self.placement.spatial), c_in)
        return x, (*self.placement.window, c_in // self.groups, c_out)

    def arguments(self, seed, draw=normal, spatial=None):
        rng = np.random.default_rng(seed)
        return tuple(draw(rng, *shape, dtype="float64") for shape in self.shapes(spatial))

    @property
    def output(self):
        return (*self.batch, *self.placement.output, self.channels[1])

    def function(self, x, w):
        return conv(x, w, **self.options)

    def transpose(self, dy, w, size=None):
        size = size or self.placement.spatial
        return conv_transpose(dy, w, output_size=size, **self.options)

    def kernel_grad(self, x, dy):
        return conv_kernel_grad(x, dy, self.placement.window, **self.options)

    @property
    def ends_the_process(self):
        """Whether XLA:CPU may do so in lax's own input gradient."""
        placed = self.placement
        axes = list(zip(placed.window, placed.stride, placed.extent, placed.output, strict=True))
        upsampled = [
            (k, s, e) == (2, 2, 2) and placed.pads(axis, n)[0] == 1
            for axis, ((k, s, e, _), n) in enumerate(zip(axes, placed.spatial, strict=True))
        ]
        return any(upsampled) and any(k > o for k, _, _, o in axes)

    def reference(self, x, w):
        return lax_conv(x, w, **self.options)


@st.composite
def convolutions(draw, padding=None):
    """Dense, grouped and depthwise convolutions."""
    placement = draw(placements(padding=padding))
    groups = draw(st.integers(1, 3))
    per_group = draw(st.sampled_from([1, 2, 9])), draw(st.integers(1, 3))
    channels = tuple(groups * c for c in per_group)
    batch = draw(st.sampled_from([(3,), (2,), (1,), (), (2, 2), (0,)]))
    return Convolution(placement, batch, channels, groups, draw(st.booleans()))


SEEDS = st.integers(0, 999)
COMPARABLE = convolutions().filter(lambda case: not case.ends_the_process)


def found(spatial, window, channels, groups=1, **options):
    """A convolution that was wrong once."""
    placement = Placement(spatial, window, {"stride": 1, "dilation": 1} | options)
    return Convolution(placement, (2,), channels, groups, flip_kernel=False)


CROPPED_BEFORE_AND_PADDED_AFTER = found((4, 3), (2, 2), (2, 3), padding=((-2, 2), (0, 0)))
MORE_KERNEL_THAN_IMAGE = found((4, 1), (2, 3), (16, 1), stride=2, padding=1)
CROPPED_PLANES = found((4, 3, 5), (2, 1, 3), (3, 3), groups=3, stride=3, padding=-1)


@given(COMPARABLE, SEEDS)
@example(CROPPED_PLANES, 0)
def test_conv_and_its_gradients(case, seed):
    check_first_order(case.function, case.reference, *case.arguments(seed), seed=seed)


@given(COMPARABLE, SEEDS)
@example(CROPPED_BEFORE_AND_PADDED_AFTER, 0)
def test_conv_in_float32(case, seed):
    """No entry is further off than a float32 sum of its terms can be."""
    arrays = *case.arguments(seed), normal(np.random.default_rng(seed + 1), *case.output)
    narrow = [np.asarray(a).astype("float32") for a in arrays]
    wide = [a.astype("float64") for a in narrow]
    run = lambda f, x, w, dy: jax.tree.leaves(value_and_cotangents(f, (x, w), dy))
    _, w, dy = arrays
    rounding = max(w.size, dy.size) * float(jnp.finfo("float32").eps) / 2
    for got, want, magnitude in zip(
        run(case.function, *narrow),
        run(case.reference, *wide),
        run(case.reference, *map(np.abs, wide)),
        strict=True,
    ):
        assert got.dtype == jnp.float32
        error = abs(np.asarray(got, "float64") - np.asarray(want))
        assert np.all(error <= rounding * np.asarray(magnitude))


@given(convolutions(), st.sampled_from(["bfloat16", "float16"]), SEEDS)
def test_conv_in_low_precision(case, dtype, seed):
    check_low_precision(case.function, *case.arguments(seed), dtype=dtype)


@given(COMPARABLE, SEEDS)
def test_second_order_of_conv(case, seed):
    check_second_order(case.function, case.reference, *case.arguments(seed), seed=seed)


@given(COMPARABLE, st.sampled_from(["float64", "float32", "bfloat16", "float16"]), SEEDS)
def test_each_of_the_three_is_the_rule_of_the_others(case, dtype, seed):
    """Values and gradients of all three are c(x, w), h(dy, w) and g(x, dy), in exact integers."""
    x, w = case.arguments(seed, integers)
    dy = integers(np.random.default_rng(seed + 1), *case.output, dtype="float64")
    y, (dx, dw) = value_and_cotangents(case.reference, (x, w), dy)
    assert inner(y, dy) == inner(x, dx) == inner(w, dw)

    @jax.jit
    def faces(x, w, dy):
        y, of_conv = jax.vjp(case.function, x, w)
        dx, of_transpose = jax.vjp(case.transpose, dy, w)
        dw, of_kernel_grad = jax.vjp(case.kernel_grad, x, dy)
        return (y, dx, dw), of_conv(dy), of_transpose(x), of_kernel_grad(w)

    values, *cotangents = faces(*(jnp.asarray(np.asarray(a), dtype) for a in (x, w, dy)))
    for got, want in zip(
        jax.tree.leaves((values, cotangents)), (y, dx, dw, dx, dw, y, dw, dx, y), strict=True
    ):
        assert got.dtype == dtype
        assert_array_equal(got, want.astype(dtype))


@given(convolutions(), SEEDS)
@example(MORE_KERNEL_THAN_IMAGE, 0)
def test_transposing_to_every_size_that_leads_to_the_same_output(case, seed):
    rng = np.random.default_rng(seed)
    w = integers(rng, *case.shapes()[1], dtype="float64")
    sizes = case.placement.input_sizes()
    for size in covering(sizes):
        transpose = lambda dy, size=size: case.transpose(dy, w, size)
        check_pair(rng, lambda x: case.function(x, w), transpose, case.shapes(size)[0])
    for beyond in (sizes[0][0] - 1, sizes[0][-1] + 1):
        with pytest.raises(ValueError, match=r"^output_size: got"):
            case.transpose(jnp.zeros(case.output), w, (beyond, *case.placement.spatial[1:]))


@given(convolutions())
def test_shapes_of_convolutions(case):
    x, w = case.arguments(0)
    dy = jax.eval_shape(case.function, x, w)
    assert dy.shape == case.output
    assert jax.eval_shape(case.kernel_grad, x, dy).shape == w.shape
    assert jax.eval_shape(case.transpose, dy, w).shape == x.shape
    options = [case.options[name] for name in ("stride", "padding", "dilation")]
    window = make_window(case.placement.spatial, case.placement.window, *options)
    assert window.output_size == case.placement.output
    largest = case.options["padding"] in SAME
    default = tuple(sizes[-1 if largest else 0] for sizes in case.placement.input_sizes())
    assert (
        jax.eval_shape(lambda dy, w: conv_transpose(dy, w, **case.options), dy, w).shape
        == case.shapes(default)[0]
    )
    assert default == forward_input_size(window.output_size, window.size, *options, None)


@given(convolutions(padding="VALID"), st.integers(0, 2), SEEDS)
def test_conv_of_a_shifted_image_is_the_shifted_conv(case, shift, seed):
    stride = case.placement.stride
    longer = tuple(n + s * shift for n, s in zip(case.placement.spatial, stride, strict=True))
    x, w = case.arguments(seed, integers, spatial=longer)
    x_shifted = x[(..., *(slice(s * shift, None) for s in stride), slice(None))]
    y = case.function(x, w)
    y_shifted = y[(..., *[slice(shift, None)] * case.placement.ndim, slice(None))]
    assert_array_equal(case.function(x_shifted, w), y_shifted)


@given(convolutions(padding="VALID"), st.integers(1, 3), st.integers(0, 4), SEEDS)
def test_circular_conv_of_a_rolled_image_is_the_rolled_conv(case, more, shift, seed):
    placement = case.placement
    overlap = [e - 1 for e in placement.extent]
    size = tuple(s * (-(-e // s) + more) for e, s in zip(overlap, placement.stride, strict=True))
    x, w = case.arguments(seed, integers, spatial=size)
    axes = tuple(range(-1 - placement.ndim, -1))

    @jax.jit
    def circular(x):
        return case.function(pad(x, [(e, 0) for e in overlap], mode="circular"), w)

    x_rolled = jnp.roll(x, [shift * s for s in placement.stride], axes)
    y_rolled = jnp.roll(circular(x), (shift,) * placement.ndim, axes)
    assert_array_equal(circular(x_rolled), y_rolled)


@given(convolutions(), SEEDS)
def test_conv_is_linear_in_each_argument(case, seed):
    (x, w), (u, v) = case.arguments(seed, integers), case.arguments(seed + 1, integers)
    f = jax.jit(case.function)
    assert_array_equal(f(3 * x - u, w), 3 * f(x, w) - f(u, w))
    assert_array_equal(f(x, 3 * w - v), 3 * f(x, w) - f(x, v))


# ------------------------------------------------------------------------------------------
# Pooling
# ------------------------------------------------------------------------------------------

# A rule maps a window's entries, (taps, batch, C), to its value and their derivatives.


def first_largest(entries, count):
    places = np.arange(len(entries)).reshape(-1, 1, 1)
    return entries.max(0), places == entries.argmax(0)


def all_largest(entries, count):
    wins = entries == entries.max(0)
    return entries.max(0), wins / wins.sum(0)


def first_smallest(entries, count):
    y, wins = first_largest(-entries, count)
    return -y, wins


def all_smallest(entries, count):
    y, shares = all_largest(-entries, count)
    return -y, shares


def total(entries, count):
    return entries.sum(0), np.ones_like(entries)


def mean(entries, count):
    return entries.sum(0) / count, np.ones_like(entries) / count


def mean_inside(entries, count):
    return mean(entries, len(entries))


def norm(p):
    def rule(entries, count):
        y = (abs(entries) ** p).sum(0) ** (1 / p)
        return y, np.sign(entries) * abs(entries / np.where(y == 0, 1, y)) ** (p - 1)

    return rule


POOLS = {
    "max-first": (max_pool, {}, first_largest),
    "max-split": (max_pool, {"ties": "split"}, all_largest),
    "min-first": (min_pool, {}, first_smallest),
    "min-split": (min_pool, {"ties": "split"}, all_smallest),
    "sum": (sum_pool, {}, total),
    "avg": (avg_pool, {}, mean),
    "avg-inside": (avg_pool, {"count_include_pad": False}, mean_inside),
    "lp-1": (lp_pool, {"p": 1}, norm(1)),
    "lp-2": (lp_pool, {"p": 2}, norm(2)),
    "lp-2.5": (lp_pool, {"p": 2.5}, norm(2.5)),
}


def pooled(pool, placement, **options):
    """A pooling with its placement bound, or None after the error that it is owed."""
    bound = lambda x: pool(x, placement.window, **placement.options, **options)
    misfit = placement.misfit()
    if misfit is None:
        return bound
    with pytest.raises(ValueError) as error:
        jax.eval_shape(bound, jnp.zeros((*placement.spatial, 1)))
    assert misfit in message(error)
    return None


def by_windows(x, dy, placement, rule):
    """A pooling and its gradient, window by window."""
    y, dx = np.zeros(dy.shape), np.zeros(x.shape)
    for i, places, count in placement.windows():
        entries = np.stack([x[:, *place] for place in places])
        y[:, *i], derivatives = rule(entries, count)
        for place, derivative in zip(places, derivatives, strict=True):
            dx[:, *place] += derivative * dy[:, *i]
    return y, dx


@pytest.mark.parametrize("name", POOLS)
@given(placements(pooling=True), st.booleans(), SEEDS)
def test_pools_window_by_window(name, placement, ties, seed):
    pool, options, rule = POOLS[name]
    f = pooled(pool, placement, **options)
    if f is None:
        return
    rng = np.random.default_rng(seed)
    shape = (2, *placement.spatial, 2)
    x = integers(rng, *shape, dtype="float64", low=-1, high=2) if ties else normal(rng, *shape)
    dy = normal(rng, 2, *placement.output, 2)
    y, (dx,) = value_and_cotangents(f, (x,), dy)
    expected_y, expected_dx = by_windows(np.asarray(x), np.asarray(dy), placement, rule)
    assert_close(y, expected_y)
    assert_close(dx, expected_dx)


@given(placements(pooling=True), st.sampled_from(sorted(POOLS)), SEEDS, st.data())
def test_pools_in_low_precision(placement, name, seed, data):
    pool, options, _ = POOLS[name]
    f = pooled(pool, placement, **options)
    if f is None:
        return
    dtype = data.draw(st.sampled_from(["bfloat16", "float16"]))
    check_low_precision(f, normal(np.random.default_rng(seed), *placement.spatial, 2), dtype=dtype)


@given(placements(pooling=True))
def test_shapes_of_pools(placement):
    x = jnp.zeros((2, *placement.spatial, 3))
    for pool, options, _ in POOLS.values():
        f = pooled(pool, placement, **options)
        assert f is None or jax.eval_shape(f, x).shape == (2, *placement.output, 3)


@given(placements(pooling=True), SEEDS)
def test_sum_and_average_have_their_adjoints_as_rules(placement, seed):
    f, g = pooled(sum_pool, placement), pooled(avg_pool, placement)
    if f is None:
        return
    rng = np.random.default_rng(seed)
    check_rule(rng, f, (*placement.spatial, 2))
    check_rule(rng, g, (*placement.spatial, 2), exact=False)


@given(placements(pooling=True), SEEDS)
def test_max_unpool_is_the_adjoint_of_gathering(placement, seed):
    f = pooled(max_pool, placement, return_argmax=True)
    if f is None:
        return
    rng = np.random.default_rng(seed)
    x = integers(rng, 2, *placement.spatial, 3, dtype="float64", low=-2, high=3)
    dy = integers(rng, 2, *placement.output, 3, dtype="float64")
    no_cotangent = np.zeros(dy.shape, jax.dtypes.float0)
    (y, argmax), (dx,) = value_and_cotangents(f, (x,), (dy, no_cotangent))
    index = argmax.reshape(2, -1, 3)
    gather = lambda x: jnp.take_along_axis(x.reshape(2, -1, 3), index, 1).reshape(y.shape)
    unpool = lambda y: max_unpool(y, argmax, output_size=placement.spatial)
    assert_array_equal(gather(x), y)
    assert_array_equal(unpool(dy), dx)
    check_pair(rng, gather, unpool, x.shape)


@given(placements(pooling=True), SEEDS)
def test_pooling_what_was_unpooled(placement, seed):
    """Windows that do not overlap, and positive entries: nothing of them is lost."""
    apart = tuple(max(s, e) for s, e in zip(placement.stride, placement.extent, strict=True))
    options = placement.options | {"stride": apart}
    placement = dataclasses.replace(placement, options=options)
    f = pooled(max_pool, placement, return_argmax=True)
    if f is None:
        return
    x = jnp.abs(normal(np.random.default_rng(seed), 2, *placement.spatial, 3)) + 0.1
    y, argmax = f(x)
    again, argmax_again = f(max_unpool(y, argmax, output_size=placement.spatial))
    assert_array_equal(again, y)
    assert_array_equal(argmax_again, argmax)


# ------------------------------------------------------------------------------------------
# What moves pixels
# ------------------------------------------------------------------------------------------


@given(placements(), SEEDS)
def test_fold_is_the_adjoint_of_unfold(placement, seed):
    options, rng = placement.options, np.random.default_rng(seed)
    linear = lambda x: unfold(x, placement.window, **options)
    for size in covering(placement.input_sizes()):
        check_pair(rng, linear, lambda y, size=size: fold(y, size, **options), (2, *size, 2))


@st.composite
def sizes(draw, low=1, high=9):
    """The size of an image."""
    return draw(st.integers(1, 3).flatmap(lambda ndim: st.tuples(*[st.integers(low, high)] * ndim)))


@given(sizes(), SEEDS, st.data())
def test_upsample_is_the_adjoint_of_downsample(size, seed, data):
    rng = np.random.default_rng(seed)
    factor = data.draw(per_axis(len(size), 1, 4))
    offset = tuple(data.draw(st.integers(0, n - 1)) for n in size)
    down = lambda x: downsample(x, factor, offset=offset)
    up = lambda y: upsample(y, factor, output_size=size, offset=offset)
    check_pair(rng, down, up, (2, *size, 2))


@given(sizes(high=4), SEEDS, st.data())
def test_repeating_and_shuffling(size, seed, data):
    rng = np.random.default_rng(seed)
    factor = data.draw(st.tuples(*[st.integers(1, 3)] * len(size)))
    shape = (2, *size, 2 * int(np.prod(factor)))
    check_pair(rng, lambda x: repeat(x, factor), lambda y: sum_pool(y, factor), shape)
    shuffle, unshuffle = [lambda a, f=f: f(a, factor) for f in (pixel_shuffle, pixel_unshuffle)]
    check_pair(rng, shuffle, unshuffle, shape)


RESIZING = [
    {"method": "nearest"},
    {"method": "nearest-exact"},
    *({"method": m, "align_corners": a} for m in ("linear", "cubic") for a in (False, True)),
    *({"method": m, "antialias": True} for m in ("linear", "cubic")),
]


@given(sizes(), st.sampled_from(RESIZING), SEEDS, st.data())
def test_resize_has_its_adjoint_as_rule(size, options, seed, data):
    new = data.draw(st.tuples(*[st.integers(1, 12)] * len(size)))
    exact = options["method"].startswith("nearest")
    f = lambda x: resize(x, new, **options)
    check_rule(np.random.default_rng(seed), f, (2, *size, 2), exact=exact)


@given(
    sizes(low=2),
    st.sampled_from(["constant", "reflect", "symmetric", "edge", "circular"]),
    SEEDS,
    st.data(),
)
def test_pad_has_its_adjoint_as_rule(size, mode, seed, data):
    pairs = [data.draw(st.tuples(st.integers(-2, 4), st.integers(-2, 4))) for _ in size]
    f = lambda x: pad(x, pairs, mode=mode)
    largest = [{"reflect": n - 1, "symmetric": n, "circular": n}.get(mode, np.inf) for n in size]
    fits = zip(size, pairs, largest, strict=True)
    if all(max(pair) <= most and n + sum(pair) >= 1 for n, pair, most in fits):
        check_rule(np.random.default_rng(seed), f, (2, *size, 2))
    else:
        with pytest.raises(ValueError, match=r"^padding: got"):
            f(jnp.zeros((2, *size, 2)))
