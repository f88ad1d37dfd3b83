"""max_plus_conv and min_plus_conv."""

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
    integers,
    normal,
    value_and_cotangents,
)
from scipy import ndimage

from cnnvjp.max_pooling import max_pool, min_pool
from cnnvjp.morphology import max_plus_conv, min_plus_conv

BOTH = pytest.mark.parametrize("f, sign", [(max_plus_conv, 1), (min_plus_conv, -1)])


def windows(n, k, stride, pair, dilation):
    """For each window of an axis, its taps that stand on the input: (tap, position)."""
    before, after = pair
    starts = range(-before, n + after - dilation * (k - 1), stride)
    taps = [[(m, start + dilation * m) for m in range(k)] for start in starts]
    return [[(m, j) for m, j in window if 0 <= j < n] for window in taps]


def loop(x, w, dy, sign, stride=1, padding=0, dilation=1):
    """y, dx and dw, a window after the other; the first winner in row-major order gets dy."""
    size, ndim = w.shape[:-1], w.ndim - 1
    per_axis = lambda o: (o,) * ndim if isinstance(o, int) else o
    pairs = [(p, p) if isinstance(p, int) else p for p in per_axis(padding)]
    axes = [
        windows(*axis)
        for axis in zip(
            x.shape[1:], size, per_axis(stride), pairs, per_axis(dilation), strict=False
        )
    ]
    y = np.empty((len(x), *map(len, axes), x.shape[-1]))
    dx, dw = np.zeros(x.shape), np.zeros(w.shape)
    for n, c, *i in np.ndindex(len(x), x.shape[-1], *map(len, axes)):
        seen = itertools.product(*(axis[place] for axis, place in zip(axes, i, strict=True)))
        best = None
        for taps in seen:
            m, j = zip(*taps, strict=True)
            total = x[(n, *j, c)] + w[(*m, c)]
            if best is None or sign * total > sign * best[0]:
                best = total, m, j
        y[(n, *i, c)], m, j = best
        dx[(n, *j, c)] += dy[(n, *i, c)]
        dw[(*m, c)] += dy[(n, *i, c)]
    return y, dx, dw


# x, w, options
CASES = [
    ((2, 7, 2), (3, 2), {}),
    ((2, 6, 5, 2), (2, 3, 2), dict(stride=2, padding=1)),
    ((2, 7, 6, 1), (3, 2, 1), dict(stride=(2, 3), padding=((2, 0), (0, 1)), dilation=(1, 2))),
    ((1, 6, 6, 2), (2, 2, 2), dict(padding=((-1, 0), (1, -2)))),
    ((2, 4, 3, 4, 2), (2, 3, 2, 2), dict(padding=(0, 1, 1), stride=(1, 2, 1))),
    ((1, 12, 11, 1), (9, 8, 1), dict(stride=2, padding=3)),  # in a loop
    ((1, 90, 1), (70, 1), dict(padding=20, stride=7)),
]
IDS = [f"{len(w) - 1}D-{options}" for _, w, options in CASES]


@BOTH
@pytest.mark.parametrize("x_shape, w_shape, options", CASES, ids=IDS)
def test_every_window_by_itself(rng, x_shape, w_shape, options, f, sign):
    """With ties, in small integers: the first in row-major order wins, and padding never."""
    x, w = (integers(rng, *shape, dtype="float64", low=-2, high=3) for shape in (x_shape, w_shape))
    run = lambda x, w: f(x, w, **options)
    dy = integers(rng, *jax.eval_shape(run, x, w).shape, dtype="float64")
    y, gradients = value_and_cotangents(run, (x, w), dy)
    expected = loop(np.asarray(x), np.asarray(w), np.asarray(dy), sign, **options)
    for got, want in zip((y, *gradients), expected, strict=True):
        np.testing.assert_array_equal(got, want)


def stacked(x, w, sign, stride=1, padding=0, dilation=1):
    """The taps of a 2-D kernel, stacked, and the largest or the smallest of them."""
    x = jnp.pad(
        x, ((0, 0), (padding,) * 2, (padding,) * 2, (0, 0)), constant_values=-sign * jnp.inf
    )
    (rows, columns), (height, width) = w.shape[:2], x.shape[1:3]
    reach = dilation * (rows - 1), dilation * (columns - 1)
    taps = [
        x[
            :,
            dilation * m : height - reach[0] + dilation * m : stride,
            dilation * n : width - reach[1] + dilation * n : stride,
        ]
        + w[None, None, None, m, n]
        for m, n in np.ndindex(rows, columns)
    ]
    return jnp.stack(taps).max(0) if sign > 0 else jnp.stack(taps).min(0)


@pytest.mark.versions
@BOTH
def test_gradients_are_those_of_stacked_taps(rng, f, sign):
    x, w = normal(rng, 2, 7, 6, 3), normal(rng, 3, 2, 3)
    options = dict(stride=2, padding=1, dilation=2)
    reference = lambda x, w: stacked(x, w, sign, **options)
    check_first_order(lambda x, w: f(x, w, **options), reference, x, w)
    check_second_order(lambda x, w: f(x, w, **options), reference, x[:1, :, :, :1], w[..., :1])


def test_scipys_grey_scale_morphology(rng):
    """Which centres the kernel; dilation reflects it, erosion subtracts it."""
    image, structure = rng.normal(size=(6, 5)), rng.normal(size=(3, 3))
    x, w = jnp.asarray(image)[..., None], jnp.asarray(structure)[..., None]
    options = dict(structure=structure, mode="constant")
    dilated = max_plus_conv(x, w[::-1, ::-1], padding="SAME")[..., 0]
    assert_close(dilated, ndimage.grey_dilation(image, cval=-np.inf, **options))
    eroded = min_plus_conv(x, -w, padding="SAME")[..., 0]
    assert_close(eroded, ndimage.grey_erosion(image, cval=np.inf, **options))


def test_erosion_is_the_negation_of_the_dilation_of_the_negation(rng):
    """TensorFlow's `erosion2d(x, k)`: minus its `dilation2d(−x, k rotated)`."""
    x, k = normal(rng, 2, 6, 5, 2), normal(rng, 2, 3, 2)
    rotated = k[::-1, ::-1]
    for padding in ("VALID", "SAME"):
        eroded = min_plus_conv(x, -rotated, stride=2, padding=padding)
        dilated = max_plus_conv(-x, rotated, stride=2, padding=padding)
        np.testing.assert_array_equal(eroded, -dilated)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_kernel_of_zeros_pools(rng, dtype):
    x = integers(rng, 2, 7, 6, 2, dtype=dtype, low=-128, high=-120)
    w = jnp.zeros((3, 2, 2), dtype)
    options = dict(stride=2, padding=1, ceil_mode=True)
    for f, pool in ((max_plus_conv, max_pool), (min_plus_conv, min_pool)):
        np.testing.assert_array_equal(f(x, w, **options), pool(x, (3, 2), **options))


@BOTH
def test_what_is_not_finite(f, sign):
    """Infinite kernels do not let the padding win, and the first NaN of a window does."""
    inf, nan = sign * jnp.inf, jnp.nan
    x, w = jnp.array([[-inf], [1.0], [nan], [nan]]), jnp.array([[inf], [0.0], [inf]])
    y, (dx, dw) = value_and_cotangents(
        lambda x, w: f(x, w, padding=1), (x, w), jnp.array([[1.0], [2.0], [4.0], [8.0]])
    )
    np.testing.assert_array_equal(y, [[inf], [nan], [nan], [nan]])  # ∞ − ∞ is NaN
    np.testing.assert_array_equal(dx, [[2], [1], [12], [0]])
    np.testing.assert_array_equal(dw, [[10], [4], [1]])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_low_precision(rng, dtype):
    x, w = normal(rng, 2, 6, 6, 2), normal(rng, 3, 2, 2)
    check_low_precision(lambda x, w: max_plus_conv(x, w, padding=1), x, w, dtype=dtype, terms=72)
