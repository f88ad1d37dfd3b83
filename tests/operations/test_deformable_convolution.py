"""deform_conv."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checker import (
    assert_close,
    check_first_order,
    check_low_precision,
    check_second_order,
    compiled,
    distinct,
    integers,
    normal,
    value_and_cotangents,
)
from numpy.testing import assert_array_equal
from references import lax_conv

from cnnvjp import conv, deform_conv

# ------------------------------------------------------------------------------------------
# The reference: interpolation in jnp, whose gradient JAX derives, and lax's convolution over
# patches that lie side by side
# ------------------------------------------------------------------------------------------


def interpolated(x, positions):
    """x(p) with zeros outside: (*spatial, C), (..., D) -> (..., C)."""
    size = x.shape[:-1]
    below = jnp.floor(positions)
    part = positions - below
    total = jnp.zeros((*positions.shape[:-1], x.shape[-1]))
    for corner in itertools.product((0, 1), repeat=len(size)):
        index, weight, inside = [], jnp.ones(positions.shape[:-1]), True
        for axis, up in enumerate(corner):
            i = below[..., axis] + up
            inside &= (i >= 0) & (i < size[axis])
            index.append(jnp.clip(jnp.nan_to_num(i), 0, size[axis] - 1).astype(int))
            weight *= part[..., axis] if up else 1 - part[..., axis]
        total += jnp.where(inside[..., None], weight[..., None] * x[tuple(index)], 0.0)
    return total


def pairs(padding, ndim):
    every = (padding,) * ndim if isinstance(padding, int) else padding
    return [(p, p) if isinstance(p, int) else p for p in every]


def reference(x, w, offsets, mask=None, *, stride=1, padding=0, dilation=1, groups=1):
    ndim = w.ndim - 2
    each = lambda option: (option,) * ndim if isinstance(option, int) else option
    batch, kernel = x.shape[: -1 - ndim], w.shape[:ndim]
    at = len(batch) + ndim
    out, offset_groups = offsets.shape[len(batch) : at], offsets.shape[at]
    s, d, edges = each(stride), each(dilation), pairs(padding, ndim)
    still = np.empty((1,) * len(batch) + (*out, 1, *kernel, ndim))
    for at_once in np.ndindex(*out, *kernel):
        i, m = np.split(np.array(at_once), 2)
        before = np.array([before for before, _ in edges])
        still[(..., *i, 0, *m, slice(None))] = i * s + m * d - before
    positions = offsets + still

    def one_image(x, positions, mask):
        parts = []
        for g, channels in enumerate(jnp.split(x, offset_groups, -1)):
            seen = interpolated(channels, jnp.take(positions, g, ndim))
            parts.append(seen if mask is None else seen * jnp.take(mask, g, ndim)[..., None])
        return jnp.concatenate(parts, -1)  # (*out, *kernel, C)

    for _ in batch:
        one_image = jax.vmap(one_image, (0, 0, None if mask is None else 0))
    patches = one_image(x, positions, mask)
    outputs = int(np.prod(out))
    rows = patches.reshape(*batch, outputs * int(np.prod(kernel)), x.shape[-1])
    column = w.reshape(-1, *w.shape[-2:])
    y = lax_conv(rows, column, stride=len(column), groups=groups)
    return y.reshape(*batch, *out, w.shape[-1])


# batch, spatial, channels, kernel, maps, offset groups, with a mask, options
CASES = [
    ((2,), (6, 5), 4, (3, 3), 6, 1, False, dict(padding=1)),
    ((2,), (6, 7), 4, (3, 2), 3, 2, True, dict(stride=(2, 1), padding=((1, 0), (2, 1)))),
    ((), (7, 6), 4, (2, 3), 4, 4, True, dict(dilation=(2, 1), groups=2)),
    ((3,), (9,), 2, (3,), 2, 2, False, dict(stride=2, padding=1, groups=2)),
    ((2, 1), (6, 4, 5), 2, (2, 1, 3), 3, 1, True, dict(stride=(1, 2, 2), padding=1)),
    ((1,), (4, 6), 3, (1, 1), 2, 3, True, dict(stride=2)),
    ((1,), (6, 6), 2, (3, 3), 1, 1, False, dict(padding=-1)),
    ((0,), (5, 5), 2, (3, 3), 1, 2, True, {}),
]
IDS = [f"{i}-{len(case[1])}D" for i, case in enumerate(CASES)]


def some(*indices):
    return pytest.mark.parametrize("case", [pytest.param(CASES[i], id=IDS[i]) for i in indices])


def arguments(rng, case, reach=1.5):
    """x, w, offsets and perhaps the mask; offsets lead some taps out of the image."""
    batch, size, channels, kernel, maps, offset_groups, with_mask, options = case
    x = normal(rng, *batch, *size, channels)
    w = normal(rng, *kernel, channels // options.get("groups", 1), maps)
    out = jax.eval_shape(lambda x, w: conv(x, w, **options), x, w).shape[len(batch) : -1]
    taps = (*batch, *out, offset_groups, *kernel)
    offsets = reach * normal(rng, *taps, len(size))
    return x, w, offsets, *([normal(rng, *taps)] if with_mask else [])


def ours(case):
    return lambda x, w, offsets, mask=None: deform_conv(x, w, offsets, mask=mask, **case[-1])


def theirs(case):
    return lambda *args: reference(*args, **case[-1])


@pytest.mark.versions
@some(*range(len(CASES)))
def test_values_and_gradients(rng, case):
    check_first_order(ours(case), theirs(case), *arguments(rng, case))


@pytest.mark.versions
@some(1, 3)
def test_second_order(rng, case):
    check_second_order(ours(case), theirs(case), *arguments(rng, case))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@some(1)
def test_low_precision(rng, case, dtype):
    check_low_precision(ours(case), *arguments(rng, case), dtype=dtype, terms=60)


def test_sixteen_bits_and_offsets_of_thirty_two(rng):
    """Offsets that bfloat16 would round: positions and their gradients are float32."""
    x, w = jnp.zeros((1, 300, 1), "bfloat16").at[0, 280:].set(1), jnp.ones((1, 1, 1), "bfloat16")
    offsets = jnp.zeros((1, 300, 1, 1, 1)).at[0, 0].set(279.125).astype("float32")
    y, (dx, _, slope) = value_and_cotangents(
        lambda x, w, offsets: deform_conv(x, w, offsets), (x, w, offsets), jnp.ones_like(x)
    )
    assert y.dtype == dx.dtype == jnp.bfloat16 and slope.dtype == jnp.float32
    assert y[0, 0, 0] == 0.125 and slope[0, 0, 0, 0, 0] == 1
    assert_array_equal(dx[0, 278:282, 0].astype("float32"), [1, 1.875, 1.125, 1])


@pytest.mark.parametrize(
    "options", [dict(padding=1), dict(stride=2, padding="SAME", dilation=2, groups=2)], ids=str
)
def test_offsets_of_zero_are_no_offsets(rng, options):
    """Without a mask, or with one of ones, it is `conv`, in values and gradients; exactly."""
    x = integers(rng, 2, 6, 7, 4, dtype="float64")
    w = integers(rng, 3, 3, 4 // options.get("groups", 1), 6, dtype="float64")
    b = integers(rng, 6, dtype="float64")
    y = jax.eval_shape(lambda x, w: conv(x, w, **options), x, w)
    dy = integers(rng, *y.shape, dtype="float64")
    taps = (*y.shape[:-1], 2, 3, 3)

    @jax.jit
    def both(x, w, b, dy):
        moved = lambda x, w, b: deform_conv(x, w, jnp.zeros((*taps, 2)), b, **options)
        masked = lambda x, w, b: deform_conv(
            x, w, jnp.zeros((*taps, 2)), b, mask=jnp.ones(taps), **options
        )
        still = lambda x, w, b: conv(x, w, b, **options)
        return [(f(x, w, b), jax.vjp(f, x, w, b)[1](dy)) for f in (still, moved, masked)]

    expected, *found = both(x, w, b, dy)
    for result in found:
        jax.tree.map(assert_array_equal, result, expected)


def test_whole_offsets_move_the_taps(rng):
    """All taps one pixel down and two to the left: the image moved the other way."""
    x, w = integers(rng, 1, 6, 7, 2, dtype="float64"), integers(rng, 2, 3, 2, 1, dtype="float64")
    offsets = jnp.broadcast_to(jnp.array([1.0, -2.0]), (1, 5, 5, 1, 2, 3, 2))
    y = conv(x, w, padding=((-1, 1), (2, -2)))
    assert_array_equal(deform_conv(x, w, offsets), y)


def test_linear_in_images_and_kernel(rng):
    """⟨A x, y⟩ = ⟨x, Aᵀ y⟩ for x and for w, exactly: at quarters of a pixel nothing is rounded."""
    x, w = integers(rng, 2, 5, 6, 4, dtype="float64"), integers(rng, 3, 2, 2, 4, dtype="float64")
    offsets = integers(rng, 2, 3, 5, 2, 3, 2, 2, dtype="float64", low=-12, high=13) / 4
    mask = integers(rng, 2, 3, 5, 2, 3, 2, dtype="float64")
    dy = integers(rng, 2, 3, 5, 4, dtype="float64")
    f = lambda x, w: deform_conv(x, w, offsets, mask=mask, groups=2)
    y, (dx, dw) = value_and_cotangents(f, (x, w), dy)
    assert jnp.vdot(y, dy) == jnp.vdot(x, dx) == jnp.vdot(w, dw)


def test_at_whole_numbers_and_borders_the_slope_is_the_one_to_the_right():
    """A tap at p in [−1, n) has the slope of the segment that begins at ⌊p⌋."""
    x = jnp.array([3.0, 10.0, 4.0]).reshape(3, 1)
    positions = jnp.array([-2.0, -1.5, -1.0, 0.0, 1.0, 2.0, 2.5, 3.0, np.inf, -np.inf, np.nan])
    offsets = (positions - jnp.arange(11.0))[:, None, None, None]
    f = lambda offsets: deform_conv(x, jnp.ones((1, 1, 1)), offsets, padding=((0, 8),))
    y, (slope,) = value_and_cotangents(f, (offsets,), jnp.ones((11, 1)))
    assert_array_equal(y[:, 0], [0, 0, 0, 3, 10, 4, 2, 0, 0, 0, 0])
    assert_array_equal(slope[:, 0, 0, 0], [0, 0, 3, 7, -6, -4, -4, 0, 0, 0, 0])


def test_far_and_missing_offsets_read_nothing(rng):
    """Whatever the offset, results are finite, and its own tap alone is without effect."""
    x, w = distinct(rng, 1, 4, 4, 1), jnp.ones((2, 2, 1, 1))
    run = compiled(lambda x, w, offsets: deform_conv(x, w, offsets))
    offsets = jnp.zeros((1, 3, 3, 1, 2, 2, 2))
    dy = jnp.ones((1, 3, 3, 1))
    (y, gradients), tap = run((x, w, offsets), dy), (0, 1, 2, 0, 0, 1, 1)
    for far in (np.nan, np.inf, -np.inf, 1e300, -1e300, 2.0**31, -(2.0**40)):
        moved, found = run((x, w, offsets.at[tap].set(far)), dy)
        assert_close(moved, y.at[0, 1, 2, 0].add(-x[0, 1, 3, 0]))
        assert_array_equal(found[2], gradients[2].at[tap[:-1]].set(0))
        assert_array_equal(found[0], gradients[0].at[0, 1, 3, 0].add(-1))
        assert np.isfinite(found[1]).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_stays_with_what_reads_it(rng, value):
    """Every tap reads the four pixels around it, of its offset group's channels."""
    case = ((2,), (5, 6), 4, (2, 2), 3, 2, True, {})
    x, w, offsets, mask = arguments(rng, case, reach=0)
    x = x.at[1, 2, 3, 0].set(value)
    y, gradients = compiled(ours(case))((x, w, offsets + 0.5, mask), normal(rng, 2, 4, 5, 3))
    dx, dw, doffsets, dmask = gradients
    assert np.isfinite(dx).all()
    assert_array_equal(np.isfinite(dw).all((0, 1, 3)), [False, True, True, True])
    reads = np.zeros((2, 4, 5, 2, 2, 2), bool)  # batch, rows, columns, offset groups, kernel
    for i, j, m, n in np.ndindex(4, 5, 2, 2):
        reads[1, i, j, 0, m, n] = i + m in (1, 2) and j + n in (2, 3)
    assert_array_equal(~np.isfinite(dmask), reads)
    assert_array_equal(~np.isfinite(doffsets), np.stack([reads, reads], -1))
    assert_array_equal(~np.isfinite(y), np.broadcast_to(reads.any((3, 4, 5))[..., None], y.shape))


def wave(*shape, step):
    return jnp.asarray(np.sin(step * np.arange(1, 1 + np.prod(shape))).reshape(shape))


@pytest.mark.versions
def test_torchvision_gives_the_same():
    """What its `deform_conv2d` gave in float64 (0.29), and its gradients' products with waves."""
    arrays = {  # x, w, offsets, mask
        (1, 4, 5, 2): 1,
        (2, 3, 1, 2): 2,
        (1, 3, 3, 2, 2, 3, 2): 3,
        (1, 3, 3, 2, 2, 3): 4,
    }
    x, w, offsets, mask = (wave(*shape, step=step) for shape, step in arrays.items())
    f = lambda x, w, offsets, mask: deform_conv(
        x, w, offsets, mask=mask, stride=2, padding=1, groups=2
    )
    y, gradients = value_and_cotangents(f, (x, w, 2 * offsets, mask), wave(1, 3, 3, 2, step=5))
    expected = [
        0.04197484388323524, -0.07340299474347131, 0.0, 0.5127321069162094, 1.2121873585100646,
        0.266115277449874, 0.17829702532545694, -0.16788552258859687, 0.018104195664471096,
        0.20323454921611794, -0.20452231142032404, -0.8336865797705576, 0.0, -0.37080959027056326,
        -0.09900791037945107, 0.006828402557038769, -0.10113863093032988, -0.04147483824921838,
    ]  # fmt: skip
    assert_close(jnp.ravel(y), expected)
    products = [jnp.vdot(dx, wave(*dx.shape, step=6)) for dx in gradients]
    assert_close(
        jnp.stack(products),
        [1.8080237399618675, -0.24137558050948146, 0.5204331597440652, 0.22033361325178674],
    )
