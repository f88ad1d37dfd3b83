"""roi_align."""

import jax.numpy as jnp
import numpy as np
import pytest
from checker import (
    assert_close,
    check_first_order,
    check_low_precision,
    check_second_order,
    compiled,
    integers,
    normal,
    value_and_cotangents,
)
from numpy.testing import assert_array_equal

from cnnvjp import equations, roi_align


def hat(p, n):
    """How much of each of n pixels is read at the positions p, (..., n): 0 for those far out."""
    nearest = jnp.clip(p, 0, n - 1)
    weights = jnp.maximum(
        0, 1 - jnp.abs(nearest[..., None] - jnp.arange(float(n)).reshape((1,) * p.ndim + (n,)))
    )
    return jnp.where(((p >= -1) & (p <= n))[..., None], weights, 0)


def reference(x, boxes, output_size, scale=1.0, samples=2, aligned=True):
    """Two products with matrices: interpolation is separable, and so are the means."""
    corners = boxes * scale - (0.5 if aligned else 0.0)
    means = []
    for axis, count in enumerate(output_size):
        start, end = corners[..., axis], corners[..., 2 + axis]
        extent = end - start if aligned else jnp.maximum(end - start, 1)
        way = (np.arange(count * samples) + 0.5) / (count * samples)
        p = start[..., None] + extent[..., None] * way.reshape((1,) * start.ndim + way.shape)
        weights = hat(p, x.shape[axis - 3])
        means.append(weights.reshape(*start.shape, count, samples, x.shape[axis - 3]).mean(-2))
    return jnp.einsum("...rih,...rjw,...hwc->...rijc", *means, x)


# batch, size, boxes, output_size, options
CASES = [
    ((2,), (6, 5), 3, (2, 3), {}),
    ((2,), (6, 5), 3, (3, 1), dict(aligned=False, samples=1)),
    ((), (4, 7), 5, (2, 2), dict(scale=0.5, samples=3)),
    ((2, 1), (1, 4), 2, (1, 2), dict(scale=2.0, aligned=False)),
    ((2,), (4, 4), 0, (2, 2), {}),
    ((0,), (4, 4), 2, (2, 2), {}),
]
IDS = [f"{i}-{options}" for i, (*_, options) in enumerate(CASES)]


def some(*indices):
    return pytest.mark.parametrize("case", [pytest.param(CASES[i], id=IDS[i]) for i in indices])


def arguments(rng, case):
    """Maps, and boxes of which some reach beyond them and some are turned over."""
    batch, size, count, _, options = case
    x = normal(rng, *batch, *size, 3)
    scale = options.get("scale", 1.0)
    low, high = -1.5, np.array([*size] * 2) + 1.5
    return x, jnp.asarray(rng.uniform(low, high, (*batch, count, 4)) / scale)


def ours(case):
    return lambda x, boxes: roi_align(x, boxes, case[3], **case[4])


def theirs(case):
    return lambda x, boxes: reference(x, boxes, case[3], **case[4])


@pytest.mark.versions
@some(*range(len(CASES)))
def test_values_and_gradients(rng, case):
    check_first_order(ours(case), theirs(case), *arguments(rng, case))


@pytest.mark.versions
@some(2)
def test_second_order(rng, case):
    check_second_order(ours(case), theirs(case), *arguments(rng, case))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@some(0)
def test_low_precision(rng, case, dtype):
    x, boxes = arguments(rng, case)
    check_low_precision(ours(case), x, jnp.round(boxes * 8) / 8 + 1 / 16, dtype=dtype, terms=50)


def test_linear_in_the_maps(rng):
    """⟨A x, y⟩ = ⟨x, Aᵀ y⟩, exactly: all positions are whole eighths of a pixel."""
    x, dy = (
        integers(rng, 2, 6, 5, 2, dtype="float64"),
        integers(rng, 2, 4, 2, 2, 2, dtype="float64"),
    )
    boxes = integers(rng, 2, 4, 4, dtype="float64", low=-3, high=9)
    y, (dx,) = value_and_cotangents(lambda x: roi_align(x, boxes, 2), (x,), dy)
    assert jnp.vdot(y, dy) == jnp.vdot(x, dx)


BORDER = [-1.0625, -1.0, -0.5, 0.0, 2.0, 2.5, 3.0, 3.0625, np.nan, np.inf, -np.inf]


def test_where_a_point_is_read():
    """From −1 to n the nearest position between the pixels' centres, further out nothing."""
    x = jnp.array([10.0, 20.0, 40.0]).reshape(3, 1, 1)
    places = jnp.array(BORDER)
    boxes = jnp.stack([places, 0 * places, places, 0 * places], -1)  # without extent: one point
    boxes = boxes.at[:, 1].set(0.5).at[:, 3].set(0.5) + jnp.array([[0.5, 0, 0.5, 0]])
    y = roi_align(x, boxes, 1)[:, 0, 0, 0]
    assert_array_equal(y, [0, 10, 10, 10, 40, 40, 40, 0, 0, 0, 0])


@pytest.mark.parametrize("samples", [1, 2, 3])
@pytest.mark.parametrize("aligned", [True, False])
def test_the_whole_image_in_bins_of_one_pixel(rng, aligned, samples):
    """Bins that cover a pixel each: with one point its value, if coordinates are those of edges."""
    x = normal(rng, 5, 4, 2)
    whole = jnp.array([[0.0, 0.0, 5.0, 4.0]])
    y = roi_align(x, whole, (5, 4), samples=samples, aligned=aligned)
    shift = 0.5 if aligned else 0.0
    box = tuple(np.array([0, 0, 5, 4]) - shift)
    for c in range(2):
        expected = equations.he_roi_align(x[..., c], box, (5, 4), samples)
        assert_close(y[0, ..., c], expected)
    if aligned and samples == 1:
        assert_array_equal(y[0], x)


def test_turned_over_boxes_are_read_backwards(rng):
    x = normal(rng, 6, 5, 2)
    y = roi_align(x, jnp.array([[1.0, 0.5, 4.0, 3.5], [4.0, 3.5, 1.0, 0.5]]), (2, 3))
    assert_close(y[1], y[0, ::-1, ::-1])


def test_a_side_that_is_not_aligned_has_a_pixel_at_least(rng):
    """What it then ends at is no longer the box's end, which gets no gradient."""
    x = normal(rng, 1, 6, 6, 2)
    small = jnp.array([[[1.25, 2.0, 1.5, 1.0], [1.25, 2.0, 2.25, 3.0]]])
    large = jnp.array([[[1.25, 2.0, 2.25, 3.0]]])
    run = compiled(lambda x, boxes: roi_align(x, boxes, 2, aligned=False))
    dy = normal(rng, 1, 2, 2, 2, 2)
    y, (_, dboxes) = run((x, small), dy)
    assert_array_equal(y[0, 0], y[0, 1])
    assert_array_equal(y[:, :1], roi_align(x, large, 2, aligned=False))
    assert_array_equal(dboxes[..., 2:], jnp.zeros((1, 2, 2)))
    assert np.all(dboxes[..., :2] != 0)


def test_boxes_outside_or_missing_get_nothing(rng):
    """And nothing of what is infinite at the border, which they do not read."""
    x = normal(rng, 1, 4, 4, 1).at[0, 0].set(np.inf).at[0, -1].set(np.nan)
    x = x.at[0, :, 0].set(np.inf).at[0, :, -1].set(-np.inf)
    far = [[-50, -50, -40, -40], [30, 30, 60, 60], [np.nan, 0, 1, 1], [0, 0, np.inf, 1e300]]
    far = jnp.array([far], float)
    f = lambda x, boxes: roi_align(x, boxes, 2)
    y, (dx, dboxes) = value_and_cotangents(f, (x, far), jnp.ones((1, 4, 2, 2, 1)))
    for result in (y, dx, dboxes):
        assert_array_equal(result, jnp.zeros(result.shape))


def test_what_is_not_finite_stays_in_the_boxes_that_read_it(rng):
    x = normal(rng, 2, 6, 6, 2)
    boxes = jnp.array([[[0, 0, 2, 2], [3, 3, 6, 6]]] * 2, float)
    run = compiled(lambda x, boxes: roi_align(x, boxes, 2))
    dy = normal(rng, 2, 2, 2, 2, 2)
    for value in (np.nan, np.inf):
        y, (dx, dboxes) = run((x.at[1, 4, 4, 0].set(value), boxes), dy)
        bad = ~np.isfinite(y)
        assert bad[1, 1, :, :, 0].any()
        bad[1, 1, :, :, 0] = False
        assert not bad.any() and np.isfinite(dx).all()
        assert_array_equal(~np.isfinite(dboxes).all(-1), [[False, False], [False, True]])


def wave(*shape, step):
    return jnp.asarray(np.sin(step * np.arange(1, 1 + np.prod(shape))).reshape(shape))


TORCHVISION = {
    True: [
        0.4482268379773543, -0.44375624721019563, 0.5088057691950991, -0.381955321280648,
        0.0, 0.6583930179123604, 0.0, 0.5466301646645528,
        -0.6729888836519539, -0.5504599524999052, -0.43825995050457406, -0.48514556134659004,
        -0.8200145029283912, 0.5464668703147457, -0.7676518023884764, 0.35736503639748574,
        -1.1599887619779992,
    ],
    False: [
        0.3607719338034689, -0.3702029130505523, 0.27437879920179736, -0.2216730436061276,
        0.0, 0.5412749958941586, 0.0, 0.4704400558920846,
        -0.626197852437747, -0.626197852437747, -0.4940158120464309, -0.4940158120464309,
        0.0, 0.0, 0.0, 0.0,
        -1.2030689557174332,
    ],
}  # fmt: skip


@pytest.mark.versions
@pytest.mark.parametrize("aligned", [True, False])
def test_torchvision_gives_the_same(aligned):
    """What its `roi_align` gave in float64 (0.29), and the product of dx with a wave."""
    boxes = [[0, 0, 5, 6], [1.5, -4, 3, 2.25], [-0.5, 4, 6.5, 4.5], [3, 5, 1, 1]]
    f = lambda x: roi_align(x, jnp.array([boxes]), 2, scale=1.25, aligned=aligned)
    y, (dx,) = value_and_cotangents(f, (wave(1, 5, 6, 1, step=1),), wave(1, 4, 2, 2, 1, step=2))
    found = jnp.append(y, jnp.vdot(dx, wave(1, 5, 6, 1, step=3)))
    assert_close(found, TORCHVISION[aligned])
