"""sample, normalized_positions and affine_positions."""

import functools
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
    compiled,
    normal,
)
from jax.scipy.ndimage import map_coordinates
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from numpy.testing import assert_array_equal

from cnnvjp import equations
from cnnvjp.sampling import affine_positions, normalized_positions, sample

NAN, INF = np.nan, np.inf
SIZES = [(5,), (4, 6), (2, 3, 4)]
METHODS = ["nearest", "linear", "cubic"]
PADDINGS = ["zeros", "edge", "reflect", "mirror", "circular"]


def around(rng, size, *out):
    """Positions in an image and up to two of its lengths around it."""
    n = np.array(size)
    return jnp.asarray(rng.uniform(-2 * n - 1, 3 * n, (*out, len(size))))


# ------------------------------------------------------------------------------------------
# Values and gradients
# ------------------------------------------------------------------------------------------

PIXEL = {  # that tap i stands on, of n
    "zeros": lambda i, n: i if 0 <= i < n else None,
    "edge": lambda i, n: min(max(i, 0), n - 1),
    "reflect": lambda i, n: [*range(n), *reversed(range(n))][i % (2 * n)],
    "mirror": lambda i, n: [*range(n), *range(n - 2, 0, -1)][i % max(2 * n - 2, 1)],
    "circular": lambda i, n: i % n,
}


def row(p, n, method, padding):
    """The weights of n pixels at one position, and their slopes from the right."""
    weights, slopes = np.zeros(n), np.zeros(n)
    if method == "nearest":
        taps = {round(p): (1, 0)}  # Python rounds half to even
    else:
        kernel = functools.partial(equations.k_kernel, a=-0.75)
        if method == "linear":
            kernel = lambda d: max(1 - abs(d), 0)
        h = 2.0**-24  # the linear kernel's differences are exact, to the right
        back = 0 if method == "linear" else h
        taps = {
            i: (kernel(p - i), (kernel(p + h - i) - kernel(p - back - i)) / (h + back))
            for i in range(int(np.floor(p)) - 2, int(np.floor(p)) + 4)
        }
    for i, (weight, slope) in taps.items():
        pixel = PIXEL[padding](i, n)
        if pixel is not None:
            weights[pixel] += weight
            slopes[pixel] += slope
    return weights, slopes


# Integers, edges, places between, and far away, in an image of 5 and of 1
PLACES = [
    0.0,
    1.0,
    4.0,
    5.0,
    -1.0,
    -2.0,
    2.25,
    0.125,
    3.75,
    4.25,
    -0.25,
    -1.75,
    5.625,
    7.25,
    -12.375,
]
PLACES += [19.25, -33.25]


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("method", METHODS)
def test_along_one_axis(rng, method, padding):
    """Each weight, and its derivative from the right, integers included."""
    for n in (5, 1):
        x = normal(rng, n, 2)
        rows = [row(p, n, method, padding) for p in PLACES]
        weights, slopes = (np.array(part) for part in zip(*rows, strict=True))
        dy = normal(rng, len(PLACES), 2)
        f = compiled(functools.partial(sample, method=method, padding=padding))
        y, (dx, dp) = f((x, jnp.asarray(PLACES)[:, None]), dy)
        assert_close(y, weights @ x)
        assert_close(dx, weights.T @ dy)
        expected = ((slopes @ x) * dy).sum(-1)
        np.testing.assert_allclose(dp[:, 0], expected, rtol=1e-6, atol=1e-6)


MODES = dict(zip(PADDINGS, ["constant", "nearest", "reflect", "mirror", "wrap"], strict=True))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("method", ["nearest", "linear"])
@pytest.mark.parametrize("padding", PADDINGS)
def test_agrees_with_map_coordinates(rng, size, method, padding):
    order = METHODS.index(method)

    def reference(x, positions):
        one = lambda x: map_coordinates(x, jnp.moveaxis(positions, -1, 0), order, MODES[padding])
        return jax.vmap(one, -1, -1)(x)

    check_first_order(
        functools.partial(sample, method=method, padding=padding),
        reference,
        normal(rng, *size, 2),
        around(rng, size, 3, 4),
    )


def by_matrices(x, positions, method, padding):
    """The same as products with the axes' weights, which JAX can differentiate twice."""
    y = x
    for axis in range(positions.shape[-1]):
        p, n = positions[:, axis], x.shape[axis]
        taps = jnp.floor(p).astype(int)[:, None] + jnp.arange(-1, 3)[None]
        d = abs(p[:, None] - taps.astype(p.dtype))
        if method == "linear":
            weights = jnp.maximum(1 - d, 0)
        else:
            near, far = 1.25 * d**3 - 2.25 * d**2 + 1, -0.75 * (d**3 - 5 * d**2 + 8 * d - 4)
            weights = jnp.where(d <= 1, near, far)
        table = np.array([PIXEL[padding](i, n) for i in range(-99, 99)], "float64")
        pixels = jnp.asarray(table)[taps + 99]
        A = jnp.einsum(
            "pt,ptn->pn",
            weights,
            (pixels[..., None] == np.arange(float(n)).reshape(1, 1, n)).astype(x.dtype),
        )
        y = jnp.einsum("pn,n...->p...", A, y) if axis == 0 else jnp.einsum("pn,pn...->p...", A, y)
    return y


@pytest.mark.parametrize(
    "size, method, padding",
    [
        ((5,), "linear", "mirror"),
        ((3, 4), "linear", "zeros"),
        ((3, 4), "cubic", "edge"),
        ((4, 3), "cubic", "circular"),
        ((2, 3, 2), "linear", "reflect"),
    ],
)
def test_second_order(rng, size, method, padding):
    check_second_order(
        functools.partial(sample, method=method, padding=padding),
        lambda x, p: by_matrices(x, p, method, padding),
        normal(rng, *size, 2),
        around(rng, size, 6),
    )


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_adjoint(rng, size, padding):
    """Quarters of pixels: the weights are dyadic, so that the products are exact."""
    positions = jnp.round(4 * around(rng, size, 2, 7)) / 4
    for method in METHODS[: 2 if len(size) == 3 else 3]:
        f = functools.partial(sample, positions=positions, method=method, padding=padding)
        x = jnp.zeros((2, *size, 2))
        check_adjoint(rng, f, lambda dy, f=f, x=x: jax.vjp(f, x)[1](dy)[0], x.shape)


def test_axes_of_batch_and_output(rng):
    x, positions = normal(rng, 2, 3, 4, 5, 2), around(rng, (4, 5), 2, 3, 2, 1, 3)
    y = sample(x, positions)
    assert y.shape == (2, 3, 2, 1, 3, 2)
    for i, j in itertools.product(range(2), range(3)):
        assert_close(y[i, j], sample(x[i, j], positions[i, j]))
    assert sample(x[:0], positions[:0]).shape == (0, 3, 2, 1, 3, 2)
    assert sample(x, positions[:, :, :0]).shape == (2, 3, 0, 1, 3, 2)


def test_the_linear_kernel_at_a_kink():
    """The derivative from the right, and from the left an instant before."""
    x = jnp.array([[1.0], [10.0], [100.0]])
    slope = jax.grad(lambda p, padding: sample(x, p, padding=padding).sum())
    before = np.nextafter(1.0, 0.0)
    at = lambda p, padding: float(slope(jnp.array([[p]]), padding)[0, 0])
    assert (at(1.0, "zeros"), at(before, "zeros")) == (90, 9)
    assert [at(2.0, padding) for padding in PADDINGS] == [-100, 0, 0, -90, -99]
    assert [at(0.0, padding) for padding in PADDINGS] == [9] * 5
    assert [at(-1.0, padding) for padding in PADDINGS] == [1, 0, 0, -9, -99]


def test_between_two_pixels_the_even_one():
    x = jnp.arange(5.0)[:, None]
    positions = jnp.array([[0.5], [1.5], [2.5], [-0.5], [4.5]])
    assert_array_equal(sample(x, positions, method="nearest")[:, 0], [0, 2, 2, 0, 4])


# ------------------------------------------------------------------------------------------
# Positions that are nowhere, and pixels that are not finite
# ------------------------------------------------------------------------------------------

NOWHERE = [NAN, INF, -INF, 1e30, -1e30, 2.0**31, -(2.0**31), 1e300]


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
@pytest.mark.parametrize("padding", PADDINGS)
def test_positions_that_are_nowhere(padding, dtype):
    """Nothing is read beside the image, and with zeros and edge the gradient is 0."""
    x = jnp.asarray([[1, 3], [2, 4], [8, 16]], dtype)[..., None]
    rows_and_columns = [[(bad, 0.0) for bad in NOWHERE], [(0.0, bad) for bad in NOWHERE]]
    with np.errstate(over="ignore"):
        positions = jnp.asarray(np.array(rows_and_columns).astype(jnp.dtype(dtype)))
    for method in METHODS:
        f = compiled(functools.partial(sample, method=method, padding=padding))
        y, (dx, dp) = f((jnp.stack([x, x]), positions), jnp.ones((2, len(NOWHERE), 1), dtype))
        assert np.isfinite(np.asarray(y, "float64")).all()
        assert np.isfinite(np.asarray(dx, "float64")).all()
        assert np.isfinite(np.asarray(dp, "float64")).all()
        if padding == "zeros":
            assert_array_equal(y, jnp.zeros_like(y))
            assert_array_equal(dp, jnp.zeros_like(dp))
            assert_array_equal(dx, jnp.zeros_like(dx))
        elif padding == "edge":
            assert_array_equal(dp[0, :, 0], np.zeros(len(NOWHERE)))
            assert_array_equal(dp[1, :, 1], np.zeros(len(NOWHERE)))
            assert_array_equal(y[0, :3, 0], [1, 8, 1])
            assert_array_equal(y[1, :3, 0], [1, 3, 1])
        else:
            assert_array_equal(y[:, :3, 0], np.ones((2, 3)))
            assert_array_equal(dp[0, :3, 0], np.zeros(3))


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("method", METHODS)
def test_what_is_not_finite_reaches_what_it_is_a_tap_of(method, padding):
    """The weight 0 does not keep it away, as in PyTorch; a tap outside reads nothing."""
    places = np.array([-3.25, -2.0, -1.0, -0.25, 0.0, 1.0, 1.25, 2.75, 3.0, 4.0, 5.25])
    first = {"nearest": np.round(places), "linear": np.floor(places), "cubic": np.floor(places) - 1}
    count = {"nearest": 1, "linear": 2, "cubic": 4}[method]
    f = compiled(functools.partial(sample, method=method, padding=padding))
    positions = jnp.asarray(places)[:, None]
    for pixel, poison in ((0, NAN), (3, INF)):
        x = jnp.ones((4, 1)).at[pixel].set(poison)
        y, (_, dp) = f((x, positions), jnp.ones((len(places), 1)))
        taps = [[PIXEL[padding](int(i) + k, 4) for k in range(count)] for i in first[method]]
        seen = np.array([pixel in on for on in taps])
        assert_array_equal(~np.isfinite(y[:, 0]), seen)
        assert not (~np.isfinite(dp[:, 0]) & ~seen).any()
    one = np.full(len(places), 1.0)
    one[4] = NAN
    _, (dx, dp) = f((jnp.ones((4, 1)), positions), jnp.asarray(one)[:, None])
    assert_array_equal(~np.isfinite(dx[:, 0]), [pixel in taps[4] for pixel in range(4)])
    assert not np.isnan(np.delete(np.asarray(dp), 4)).any()


# ------------------------------------------------------------------------------------------
# Precisions and devices
# ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("method", METHODS)
def test_low_precision(rng, method, dtype):
    check_low_precision(
        functools.partial(sample, method=method, padding="reflect"),
        normal(rng, 2, 4, 5, 3),
        around(rng, (4, 5), 2, 6),
        dtype=dtype,
        terms=8,
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_positions_of_float32_beside_16_bits(rng, dtype):
    x = normal(rng, 300, 2).astype(dtype)
    positions = jnp.array([[290.25], [3.5]], "float32")
    y, (dx, dp) = compiled(sample)((x, positions), jnp.ones((2, 2), dtype))
    assert (y.dtype, dx.dtype, dp.dtype) == (x.dtype, x.dtype, positions.dtype)
    wide = x.astype("float32")
    assert_close(y[0], (0.75 * wide[290] + 0.25 * wide[291]).astype(dtype))
    assert_close(dp[0], (wide[291] - wide[290]).sum()[None])


def test_a_long_sum_is_held_in_float32():
    """In bfloat16 a sum of ones stops at 256."""
    x, positions = jnp.zeros((2, 1), "bfloat16"), jnp.zeros((4096, 1), "float32")
    dx = jax.grad(lambda x: sample(x, positions).astype("float32").sum())(x)
    assert_array_equal(dx[:, 0], np.array([4096, 0], dx.dtype))


@pytest.mark.versions
def test_sharded_over_the_batch(rng):
    """On a mesh of Explicit axes, in whatever way each is divided, and inside shard_map."""
    x, positions = normal(rng, 4, 5, 4, 2), around(rng, (5, 4), 4, 6)
    gradient = jax.jit(jax.grad(lambda x, p: jnp.sum(jnp.sin(sample(x, p))), (0, 1)))
    expected = gradient(x, positions)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Explicit,))
    for layouts in ((P("data"), P("data")), (P(None, None, "data"), P("data")), (P("data"), P())):
        with jax.set_mesh(mesh):
            placed = [
                jax.device_put(a, NamedSharding(mesh, spec))
                for a, spec in zip((x, positions), layouts, strict=True)
            ]
            for got, want, put in zip(gradient(*placed), expected, placed, strict=True):
                assert_close(got, want)
                assert got.sharding.is_equivalent_to(put.sharding, got.ndim)


def test_no_batch_that_cannot_be_merged():
    mesh = jax.make_mesh((2, 2), ("a", "b"), axis_types=(AxisType.Explicit,) * 2)
    with jax.set_mesh(mesh):
        x = jax.device_put(jnp.ones((2, 2, 3, 1)), NamedSharding(mesh, P(None, "b")))
        with pytest.raises(ValueError, match=r"^x: its batch axes \(2, 2\) are sharded as"):
            sample(x, jnp.ones((2, 2, 5, 1)))


# ------------------------------------------------------------------------------------------
# Normalized coordinates and affine maps
# ------------------------------------------------------------------------------------------


def test_corners():
    """−1 and 1 are the edges of the image, or the centres of its corner pixels."""
    grid = jnp.array([[-1.0, -1.0, -1.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    edges = [[-0.5, -0.5, -0.5], [0.5, 1.0, 1.5], [1.5, 2.5, 3.5]]
    assert_array_equal(normalized_positions(grid, (2, 3, 4)), edges)
    centres = [[0, 0, 0], [0.5, 1, 1.5], [1, 2, 3]]
    assert_array_equal(normalized_positions(grid, (2, 3, 4), align_corners=True), centres)
    assert_array_equal(normalized_positions(grid[:, :1], 1, align_corners=True), np.zeros((3, 1)))


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_positions_of_a_grid(rng, size, align_corners):
    def reference(grid):
        n = np.array(size, "float64").reshape(1, 1, -1)
        g = grid[..., ::-1]
        return (g + 1) * (n - 1) / 2 if align_corners else ((g + 1) * n - 1) / 2

    f = functools.partial(normalized_positions, size=size, align_corners=align_corners)
    check_first_order(f, reference, normal(rng, 2, 3, len(size)))


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("out", [(3,), (2, 4), (3, 1, 2)], ids=str)
def test_positions_of_a_matrix(rng, out, align_corners):
    """A product with every output pixel's coordinates and a 1."""
    ndim = len(out)
    size = tuple(range(4, 4 + ndim))
    unit = [
        np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in out
    ] if align_corners else [(2 * np.arange(n) + 1) / n - 1 for n in out]  # fmt: skip
    grids = np.meshgrid(*unit, indexing="ij")
    ones = np.stack([*grids[::-1], np.ones(out)], axis=-1)

    def reference(matrix):
        grid = jnp.einsum("...e,bde->b...d", jnp.asarray(ones), matrix)
        return normalized_positions(grid, size, align_corners=align_corners)

    f = functools.partial(
        affine_positions, output_size=out, input_size=size, align_corners=align_corners
    )
    check_first_order(f, reference, normal(rng, 2, ndim, ndim + 1))


@pytest.mark.parametrize("align_corners", [False, True])
def test_the_identity_keeps_an_image(rng, align_corners):
    x = normal(rng, 3, 4, 5, 2)
    for ndim in (1, 2, 3):
        matrix = jnp.eye(ndim, ndim + 1)
        positions = affine_positions(matrix, x.shape[:ndim], align_corners=align_corners)
        image = x.reshape(*x.shape[:ndim], -1)
        assert_close(sample(image, positions, padding="edge"), image)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_positions_are_of_at_least_float32(dtype):
    wide = "float64" if dtype == "float64" else "float32"
    grid, matrix = jnp.ones((3, 2), dtype), jnp.ones((2, 3), dtype)
    for f, a in ((normalized_positions, grid), (affine_positions, matrix)):
        positions, pullback = jax.vjp(lambda a, f=f: f(a, (300, 300)), a)
        assert positions.dtype == wide
        assert pullback(positions)[0].dtype == dtype


# ------------------------------------------------------------------------------------------
# PyTorch
# ------------------------------------------------------------------------------------------

# From PyTorch's `grid_sample` of a row 1, 2, 4, 8 at −1.3, −0.9, −0.1, 0.45 and 1.2
PYTORCH = [
    ("nearest", "zeros", False, [0.0, 1.0, 2.0, 4.0, 0.0], [1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0]),
    ("nearest", "zeros", True, [1.0, 1.0, 2.0, 4.0, 8.0], [2.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0, 0.0]),
    ("nearest", "border", False, [1.0, 1.0, 2.0, 4.0, 8.0], [2.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0, 0.0]),
    ("nearest", "border", True, [1.0, 1.0, 2.0, 4.0, 8.0], [2.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0, 0.0]),
    ("nearest", "reflection", False, [1.0, 1.0, 2.0, 4.0, 8.0], [2.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0, 0.0]),
    ("nearest", "reflection", True, [1.0, 1.0, 2.0, 4.0, 8.0], [2.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0, 0.0]),
    ("bilinear", "zeros", False, [0.0, 0.7, 2.6, 5.6, 0.8], [0.7, 0.7, 0.9, 0.5], [0.0, 2.0, 4.0, 8.0, -16.0]),
    ("bilinear", "zeros", True, [0.55, 1.15, 2.7, 4.7, 5.6], [1.4, 0.8, 1.175, 0.875], [1.5, 1.5, 3.0, 6.0, -12.0]),
    ("bilinear", "border", False, [1.0, 1.0, 2.6, 5.6, 8.0], [2.0, 0.7, 0.9, 1.4], [0.0, 0.0, 4.0, 8.0, -0.0]),
    ("bilinear", "border", True, [1.0, 1.15, 2.7, 4.7, 8.0], [1.85, 0.8, 1.175, 1.175], [0.0, 1.5, 3.0, 6.0, -0.0]),
    ("bilinear", "reflection", False, [1.1, 1.0, 2.6, 5.6, 8.0], [1.9, 0.8, 0.9, 1.4], [-2.0, 0.0, 4.0, 8.0, -0.0]),
    ("bilinear", "reflection", True, [1.45, 1.15, 2.7, 4.7, 6.8], [1.4, 1.25, 1.475, 0.875], [-1.5, 1.5, 3.0, 6.0, -6.0]),
    ("bicubic", "zeros", False, [-0.06075, 0.61075, 2.47925, 6.344, 0.683], [0.66025, 0.613, 1.0395, 0.5015], [0.945, 2.235, 2.385, 12.36, -15.18]),
    ("bicubic", "zeros", True, [0.45409375, 1.18028125, 2.53790625, 4.9364140625, 6.209], [1.50096875, 0.72857421875, 1.20585546875, 0.94201953125], [1.4653125, 1.4146875, 1.7409375, 9.00421875, -12.465]),
    ("bicubic", "border", False, [1.0, 0.88975, 2.47925, 5.768, 8.027], [2.0, 0.613, 1.0395, 1.3475], [-0.0, 0.105, 2.385, 8.52, -1.02]),
    ("bicubic", "border", True, [0.89790625, 1.099, 2.53790625, 4.7848203125, 8.441], [1.8635, 0.72857421875, 1.20585546875, 1.2020703125], [-0.2165625, 0.88875, 1.7409375, 6.68109375, 0.315]),
    ("bicubic", "reflection", False, [1.0685, 0.8425, 2.47925, 5.768, 8.27], [1.96525, 0.6545, 0.972, 1.40825], [-1.26, 0.6, 2.385, 8.52, -4.8]),
    ("bicubic", "reflection", True, [1.17465625, 1.01771875, 2.53790625, 4.8606171875, 7.4195], [1.50096875, 1.12738671875, 1.429625, 0.94201953125], [-1.2403125, 0.3628125, 1.7409375, 7.84265625, -5.3325]),
]  # fmt: skip
NAMES = {"bilinear": "linear", "bicubic": "cubic", "border": "edge"}


def grid_sample(x, grid, mode, padding_mode, align_corners):
    """PyTorch's function, of images with channels last."""
    padding = NAMES.get(padding_mode, padding_mode)
    if padding == "reflection":
        padding = "mirror" if align_corners else "reflect"
    ndim = grid.shape[-1]
    positions = normalized_positions(grid, x.shape[-1 - ndim : -1], align_corners=align_corners)
    return sample(x, positions, method=NAMES.get(mode, mode), padding=padding)


@pytest.mark.versions
@pytest.mark.parametrize("mode, padding_mode, align_corners, y, dx, dgrid", PYTORCH)
def test_agrees_with_pytorch(mode, padding_mode, align_corners, y, dx, dgrid):
    x = jnp.array([1.0, 2.0, 4.0, 8.0]).reshape(1, 4, 1)
    grid = jnp.stack([jnp.array([-1.3, -0.9, -0.1, 0.45, 1.2]), jnp.zeros(5)], axis=-1)
    f = lambda x, grid: grid_sample(x, grid, mode, padding_mode, align_corners)
    got, (got_dx, got_dgrid) = compiled(f)((x, grid), jnp.ones((5, 1)))
    for a, b in ((got[:, 0], y), (got_dx.ravel(), dx), (got_dgrid[:, 0], dgrid)):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("size, out", [((5, 7), (4, 6)), ((3, 4, 5), (2, 3, 4)), ((1, 6), (5, 3))])
def test_agrees_with_the_pytorch_that_is_installed(rng, size, out, padding_mode, align_corners):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    ndim = len(size)
    matrix = rng.normal(size=(2, ndim, ndim + 1))
    if min(size) > 1 or not align_corners:  # PyTorch warns of one pixel between two corners
        theirs = functional.affine_grid(torch.tensor(matrix), (2, 1, *size), align_corners)
        positions = affine_positions(jnp.asarray(matrix), size, align_corners=align_corners)
        n, grid = np.array(size), 2 * np.asarray(positions)
        scaled = grid / (n - 1) - 1 if align_corners else (grid + 1) / n - 1
        assert_close(scaled[..., ::-1], theirs.numpy())
    for mode in ["nearest", "bilinear", "bicubic"][: 3 if ndim == 2 else 2]:
        x = torch.tensor(rng.normal(size=(2, 3, *size)), requires_grad=True)
        grid = torch.tensor(rng.uniform(-2.3, 2.3, (2, *out, ndim)), requires_grad=True)
        y = functional.grid_sample(x, grid, mode, padding_mode, align_corners)
        dy = rng.normal(size=y.shape)
        y.backward(torch.tensor(dy))
        f = lambda x, grid, m=mode: grid_sample(x, grid, m, padding_mode, align_corners)
        last = lambda a: jnp.moveaxis(jnp.asarray(a), 1, -1)
        got, (dx, dgrid) = compiled(f)(
            (last(x.detach().numpy()), jnp.asarray(grid.detach().numpy())), last(dy)
        )
        assert_close(got, last(y.detach().numpy()))
        assert_close(dx, last(x.grad.numpy()))
        assert_close(dgrid, grid.grad.numpy())


@pytest.mark.versions
@pytest.mark.parametrize("padding, places", [("edge", (-0.7, 5.3)), ("reflect", (-0.3, 5.4))])
def test_the_gradient_between_two_taps_on_one_pixel_is_zero_itself(rng, padding, places):
    """Not the rounding of a difference."""
    x = normal(rng, 6, 9, 3)
    rows, columns = np.tile(places, 20), rng.uniform(0, 8, 40)
    positions = jnp.stack([jnp.asarray(rows), jnp.asarray(columns)], -1)
    _, pullback = jax.vjp(lambda positions: sample(x, positions, padding=padding), positions)
    (slopes,) = pullback(normal(rng, 40, 3))
    assert not slopes[:, 0].any() and slopes[:, 1].all()
