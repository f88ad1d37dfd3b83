"""Unshared and tiled convolution: local_conv, tiled_conv and their adjoints."""

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
    cotangents,
    integers,
    normal,
    value_and_cotangents,
)
from references import lax_local_conv

from cnnvjp.convolution import conv, conv_kernel_grad, conv_transpose
from cnnvjp.local_convolution import (
    local_conv,
    local_conv_kernel_grad,
    local_conv_transpose,
)
from cnnvjp.tiled_convolution import tiled_conv, tiled_conv_kernel_grad, tiled_conv_transpose

# batch, spatial, tiles (the output's size where every position has its own kernel), kernel, C_in,
# C_out, options
CASES = [
    ((2,), (6,), (4,), (3,), 2, 3, {}),
    ((2,), (5, 6), (4, 4), (2, 3), 3, 2, {}),
    ((), (6, 5), (3, 5), (3, 2), 2, 2, dict(stride=(2, 1), padding="SAME")),
    ((2, 2), (9, 8), (5, 5), (3, 2), 2, 2, dict(dilation=(2, 3), padding=((1, -1), (2, -1)))),
    ((0,), (5, 5), (2, 2), (2, 2), 2, 3, dict(stride=3)),  # an empty batch
    ((2,), (1, 1), (1, 1), (3, 3), 2, 2, dict(padding=1)),  # one pixel
    ((1,), (70,), (6,), (66,), 2, 2, dict(padding=((1, 0),))),  # taps in a loop
    ((1,), (4, 3, 5), (2, 2, 2), (2, 2, 3), 2, 2, dict(stride=(2, 1, 2))),
    # kernels that take turns, with as many rounds as make each a convolution
    ((2,), (10,), (2,), (2,), 2, 3, {}),
    ((2,), (8, 9), (2, 3), (3, 2), 2, 3, dict(padding=((1, 0), (0, 1)))),
    ((2,), (17, 18), (3, 2), (2, 3), 2, 3, dict(stride=(2, 3), dilation=(2, 1), padding=(3, 2))),
    ((), (9, 8), (1, 2), (2, 2), 2, 2, dict(padding=((-1, 0), (1, -2)))),
    ((1,), (5, 4, 5), (2, 1, 2), (2, 2, 2), 2, 2, dict(padding=((1, 0), (0, 0), (1, 0)))),
    ((2,), (6, 7), (1, 1), (3, 3), 2, 3, dict(stride=2, padding="SAME")),
    # with fewer rounds, and the last of them with a rest
    ((2,), (8,), (5,), (2,), 2, 3, {}),
    ((2,), (8, 9), (4, 1), (3, 2), 2, 3, dict(stride=(1, 2), padding=1)),
    ((2,), (7, 9), (3, 4), (2, 2), 2, 2, {}),
    ((1,), (4, 3, 5), (2, 2, 1), (2, 2, 2), 2, 2, dict(padding=((0, 0), (0, 1), (0, -1)))),
]
IDS = [f"{i}-{'x'.join(map(str, c[2]))}-{'x'.join(map(str, c[3]))}" for i, c in enumerate(CASES)]
SECOND_ORDER = [2, 6, 10, 16]
VERSIONS = [2, 6, 9, 16]


def draw(rng, case, dtype="float64"):
    batch, spatial, tiles, kernel, c_in, c_out, options = case
    x = normal(rng, *batch, *spatial, c_in, dtype=dtype)
    return x, normal(rng, *tiles, *kernel, c_in, c_out, dtype=dtype), options


def some(indices):
    marks = lambda i: [pytest.mark.versions] if i in VERSIONS else []
    return [pytest.param(CASES[i], id=IDS[i], marks=marks(i)) for i in indices]


def three(case):
    """c, h and g of a case as functions of their arrays alone."""
    _, spatial, tiles, kernel, _, _, options = case
    return (
        lambda x, w: tiled_conv(x, w, **options),
        lambda y, w: tiled_conv_transpose(y, w, output_size=spatial, **options),
        lambda x, dy: tiled_conv_kernel_grad(x, dy, tiles, kernel, **options),
    )


@pytest.mark.parametrize("case", some(range(len(CASES))))
def test_the_three_and_their_gradients(rng, case):
    """Against lax's unshared convolution and JAX's derivatives of it."""
    x, w, options = draw(rng, case)
    reference = lambda x, w: lax_local_conv(x, w, **options)
    dy = normal(rng, *jax.eval_shape(reference, x, w).shape)
    pulled = lambda x, w, dy: jax.vjp(reference, x, w)[1](dy)
    ours = three(case)
    theirs = (
        reference,
        lambda y, w: pulled(jnp.zeros_like(x), w, y)[0],
        lambda x, dy: pulled(x, jnp.zeros_like(w), dy)[1],
    )
    each = lambda fs: lambda x, w, dy: [fs[0](x, w), fs[1](dy, w), fs[2](x, dy)]
    check_first_order(each(ours), each(theirs), x, w, dy)


@pytest.mark.parametrize("case", some(SECOND_ORDER))
def test_second_order(rng, case):
    x, w, options = draw(rng, case)
    check_second_order(three(case)[0], lambda x, w: lax_local_conv(x, w, **options), x, w)


@pytest.mark.parametrize("case", some([9, 14]))
def test_second_order_of_the_adjoints(rng, case):
    x, w, options = draw(rng, case)
    reference = lambda x, w: lax_local_conv(x, w, **options)
    dy = normal(rng, *jax.eval_shape(reference, x, w).shape)
    pulled = lambda x, w, dy: jax.vjp(reference, x, w)[1](dy)
    _, transposed, kernel_grad = three(case)
    check_second_order(transposed, lambda y, w: pulled(jnp.zeros_like(x), w, y)[0], dy, w)
    check_second_order(kernel_grad, lambda x, dy: pulled(x, jnp.zeros_like(w), dy)[1], x, dy)


@pytest.mark.parametrize("case", some([3, 6, 10, 16]))
def test_the_three_are_each_others_adjoints(rng, case):
    """⟨c(x, w), dy⟩ = ⟨x, h(dy, w)⟩ = ⟨w, g(x, dy)⟩, exactly, in integers."""
    x, w, _ = draw(rng, case)
    x, w = integers(rng, *x.shape), integers(rng, *w.shape)
    c, h, g = three(case)
    y = c(x, w)
    dy = integers(rng, *y.shape)
    dx, dw = h(dy, w), g(x, dy)
    assert y.dtype == dx.dtype == dw.dtype == jnp.int32
    assert jnp.vdot(y, dy) == jnp.vdot(x, dx) == jnp.vdot(w, dw) != 0


@pytest.mark.parametrize("case", some([1, 9]))
def test_linear_in_each_argument(rng, case):
    """The adjoint identity as every linear operation is tested, in float64."""
    x, w, _ = draw(rng, case)
    x, w = (integers(rng, *a.shape, dtype="float64") for a in (x, w))
    c, h, g = three(case)
    check_adjoint(rng, lambda x: c(x, w), lambda y: h(y, w), x.shape)
    check_adjoint(rng, lambda w: c(x, w), lambda y: g(x, y), w.shape)


def test_unshared_is_tiled_by_the_outputs_size(rng):
    x, w, b = normal(rng, 2, 7, 8, 2), normal(rng, 3, 4, 3, 2, 2, 3), normal(rng, 3, 4, 3)
    options = dict(stride=2, padding=((1, 0), (0, 1)))
    y = local_conv(x, w, b, **options)
    assert_close(y, tiled_conv(x, w, b, **options), tolerance=0)
    back = local_conv_transpose(y, w, output_size=(7, 8), **options)
    assert_close(back, tiled_conv_transpose(y, w, output_size=(7, 8), **options), tolerance=0)
    dw = local_conv_kernel_grad(x, y, (3, 2), **options)
    assert_close(dw, tiled_conv_kernel_grad(x, y, (3, 4), (3, 2), **options), tolerance=0)


def test_one_tile_is_conv(rng):
    x, w, b = normal(rng, 2, 7, 8, 2), normal(rng, 3, 2, 2, 3), normal(rng, 3)
    options = dict(stride=2, padding=((1, 0), (0, 1)), dilation=(1, 2))
    tiled = w[None, None]
    y = conv(x, w, b, **options)
    assert_close(tiled_conv(x, tiled, b, **options), y, tolerance=0)
    back = conv_transpose(y, w, output_size=(7, 8), **options)
    tiled_back = tiled_conv_transpose(y, tiled, output_size=(7, 8), **options)
    assert_close(tiled_back, back, tolerance=0)
    dw = conv_kernel_grad(x, y, (3, 2), **options)
    assert_close(tiled_conv_kernel_grad(x, y, 1, (3, 2), **options)[0, 0], dw, tolerance=0)


def test_equal_kernels_are_one(rng):
    """Unshared convolution with the same kernel everywhere is conv; its dw is what conv sums."""
    x, w = normal(rng, 2, 6, 7, 2), normal(rng, 3, 2, 2, 3)
    y = conv(x, w, padding=1)
    repeated = jnp.broadcast_to(w, (*y.shape[1:3], *w.shape))
    assert_close(local_conv(x, repeated, padding=1), y)
    assert_close(local_conv_transpose(y, repeated, padding=1), conv_transpose(y, w, padding=1))
    dw = local_conv_kernel_grad(x, y, (3, 2), padding=1)
    assert_close(dw.sum((0, 1)), conv_kernel_grad(x, y, (3, 2), padding=1))


def test_worked_by_hand():
    """Kernels [1, 0], [1, 1] and [0, 10] over 1, 2, 3, 4; then the first two in turn."""
    x, dy = jnp.array([[1], [2], [3], [4]]), jnp.array([[1], [10], [100]])
    w = jnp.array([[1, 0], [1, 1], [0, 10]]).reshape(3, 2, 1, 1)
    assert local_conv(x, w)[:, 0].tolist() == [1, 5, 40]
    assert local_conv_transpose(dy, w)[:, 0].tolist() == [1, 10, 10, 1000]
    dw = local_conv_kernel_grad(x, dy, (2,))[..., 0, 0]
    assert dw.tolist() == [[1, 2], [20, 30], [300, 400]]
    assert tiled_conv(x, w[:2])[:, 0].tolist() == [1, 5, 3]
    assert tiled_conv_transpose(dy, w[:2])[:, 0].tolist() == [1, 10, 110, 0]
    dw = tiled_conv_kernel_grad(x, dy, (2,), (2,))[..., 0, 0]
    assert dw.tolist() == [[301, 402], [20, 30]]


@pytest.mark.parametrize("shape", [(3,), (4, 4, 3)], ids=["tied", "untied"])
def test_bias(rng, shape):
    x, w, b = normal(rng, 2, 5, 5, 2), normal(rng, 4, 4, 2, 2, 2, 3), normal(rng, *shape)
    add = lambda y, b: y + b.reshape((1,) * (y.ndim - b.ndim) + b.shape)
    check_first_order(local_conv, lambda x, w, b: add(lax_local_conv(x, w), b), x, w, b)
    y, c = normal(rng, 2, 4, 4, 3), normal(rng, *(5, 5)[: len(shape) - 1], 2)
    transposed = lambda y, w: jax.vjp(lambda x: lax_local_conv(x, w), x)[1](y)[0]
    check_first_order(
        tiled_conv_transpose, lambda y, w, c: add(transposed(y, w), c), y, w[:2, :3], c
    )


@pytest.mark.versions
@pytest.mark.parametrize(
    "tiles, dtype", [((6, 6), "bfloat16"), ((2, 2), "float16"), ((6, 6), "float32")], ids=str
)
def test_low_precision(rng, tiles, dtype):
    """Sums over 9·64 products, over 9 taps, over the batch, and over the kernels in turn."""
    x, w = normal(rng, 2, 8, 8, 64), normal(rng, *tiles, 3, 3, 64, 8)
    check_low_precision(tiled_conv, x, w, dtype=dtype)
    y = normal(rng, 2, 6, 6, 8)
    check_low_precision(tiled_conv_transpose, y, w, dtype=dtype)
    check_low_precision(lambda x, y: tiled_conv_kernel_grad(x, y, tiles, 3), x, y, dtype=dtype)


@pytest.mark.parametrize("tiles", [(6,), (2,)], ids=["local", "tiled"])
def test_long_sums_are_held_in_float32(tiles):
    """In bfloat16 a sum of ones stops at 256."""
    y, w = jnp.ones((6, 1), "bfloat16"), jnp.ones((*tiles, 600, 1, 1), "bfloat16")
    x = tiled_conv_transpose(jnp.ones((600, 1), "bfloat16"), jnp.ones((2, 600, 1, 1), "bfloat16"))
    assert x[599, 0] == 600
    assert tiled_conv(jnp.ones((605, 1), "bfloat16"), w)[0, 0] == 600
    dw = tiled_conv_kernel_grad(
        jnp.ones((600, 6, 1), "bfloat16"), jnp.ones((600, 6, 1), "bfloat16"), tiles, (1,)
    )
    assert dw[0, 0, 0, 0] == 600 * 6 // tiles[0]
    assert y.dtype == dw.dtype


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64"])
@pytest.mark.parametrize("tiles", [(4, 4), (2, 2)], ids=["local", "tiled"])
def test_integers(rng, tiles, dtype):
    low = 0 if dtype.startswith("u") else -3
    x = integers(rng, 2, 5, 5, 2, dtype=dtype, low=low, high=4)
    w = integers(rng, *tiles, 2, 2, 2, 3, dtype=dtype, low=low, high=4)
    y = tiled_conv(x, w)
    assert y.dtype == dtype
    exact = np.asarray(lax_local_conv(x.astype("float64"), w.astype("float64")))
    np.testing.assert_array_equal(np.asarray(y, "float64"), exact)


@pytest.mark.parametrize("given, wide", [("bfloat16", "float32"), ("float32", "float64")])
@pytest.mark.parametrize("tiles", [(3, 3), (1, 2)], ids=["local", "tiled"])
def test_preferred_element_type(rng, tiles, given, wide):
    """Output in the wider dtype; cotangents in the primals', compared with the upcast."""
    x, w = normal(rng, 2, 4, 5, 2, dtype=given), normal(rng, *tiles, 2, 3, 2, 3, dtype=given)
    f = lambda x, w: tiled_conv(x, w, preferred_element_type=wide)
    dy = cotangents(rng, jax.eval_shape(f, x, w))
    y, (dx, dw) = value_and_cotangents(f, (x, w), dy)
    upcast = lambda x, w: lax_local_conv(x.astype(wide), w.astype(wide))
    expected, (dx_expected, dw_expected) = value_and_cotangents(upcast, (x, w), dy)
    assert (y.dtype, dx.dtype, dw.dtype) == (wide, given, given)
    for got, want in ((y, expected), (dx, dx_expected), (dw, dw_expected)):
        assert_close(got, want)
    assert tiled_conv_transpose(dy.astype(given), w, preferred_element_type=wide).dtype == wide
    dw = tiled_conv_kernel_grad(x, dy.astype(given), tiles, (2, 3), preferred_element_type=wide)
    assert dw.dtype == wide


@pytest.mark.parametrize("tiles", [(5, 5), (2, 2), (3, 2)], ids=str)
def test_what_is_not_finite_reaches_what_its_windows_see(rng, tiles):
    """The input, the output's cotangent and one kernel, with a row of pixels that no window sees."""
    x, w, dy = normal(rng, 2, 12, 6, 2), normal(rng, *tiles, 3, 2, 2, 2), normal(rng, 2, 5, 5, 2)
    c, h, g = (
        jax.jit(f)
        for f in (
            lambda x, w: tiled_conv(x, w, stride=(2, 1)),
            lambda dy, w: tiled_conv_transpose(dy, w, stride=(2, 1), output_size=(12, 6)),
            lambda x, dy: tiled_conv_kernel_grad(x, dy, tiles, (3, 2), stride=(2, 1)),
        )
    )
    bad = lambda a: ~np.isfinite(np.asarray(a))
    positive = lambda a: jnp.ones_like(a)
    for place in [(0, 0, 0, 0), (1, 4, 3, 1), (0, 11, 2, 0), (1, 11, 5, 1)]:  # the last row: unseen
        one = jnp.zeros_like(x).at[place].set(1)
        poisoned = x.at[place].set(np.nan)
        np.testing.assert_array_equal(bad(c(poisoned, w)), np.asarray(c(one, positive(w))) != 0)
        np.testing.assert_array_equal(bad(g(poisoned, dy)), np.asarray(g(one, positive(dy))) != 0)
    for place in [(0, 0, 0, 0), (1, 3, 4, 1)]:
        one = jnp.zeros_like(dy).at[place].set(1)
        poisoned = dy.at[place].set(np.inf)
        np.testing.assert_array_equal(bad(h(poisoned, w)), np.asarray(h(one, positive(w))) != 0)
        np.testing.assert_array_equal(bad(g(x, poisoned)), np.asarray(g(positive(x), one)) != 0)
    place = (1, 0, 2, 1, 0, 1)
    one, poisoned = jnp.zeros_like(w).at[place].set(1), w.at[place].set(np.nan)
    np.testing.assert_array_equal(bad(c(x, poisoned)), np.asarray(c(positive(x), one)) != 0)
    np.testing.assert_array_equal(bad(h(dy, poisoned)), np.asarray(h(positive(dy), one)) != 0)


def test_output_sizes_of_the_transpose(rng):
    """Every admissible size puts the same values at the same places."""
    y, w = normal(rng, 1, 3, 3, 2), normal(rng, 3, 3, 2, 2, 3, 2)
    largest = local_conv_transpose(y, w, stride=3, output_size=10)
    for size in [(8, 8), (9, 10)]:
        x = local_conv_transpose(y, w, stride=3, output_size=size)
        assert_close(x, largest[:, : size[0], : size[1]])
    assert local_conv_transpose(y, w, stride=3).shape == (1, 8, 8, 3)
    assert local_conv_transpose(y, w, stride=3, padding="SAME").shape == (1, 9, 9, 3)


def test_each_kernel_has_its_own_gradient():
    """A kernel learns from its own positions alone, which is what sharing changes."""
    x, dy = jnp.zeros((1, 6, 1)).at[0, 1, 0].set(1.0), jnp.ones((1, 3, 1))
    dw = lambda tiles: tiled_conv_kernel_grad(x, dy, (tiles,), (2,), stride=2)[..., 0, 0].tolist()
    assert dw(3) == [[0, 1], [0, 0], [0, 0]]
    assert dw(2) == [[0, 1], [0, 0]]
    assert dw(1) == [[0, 1]]


def test_vmap_over_any_argument(rng):
    x, w = normal(rng, 3, 2, 5, 5, 2), normal(rng, 3, 2, 2, 2, 2, 2, 3)
    gradient = jax.jit(jax.grad(lambda x, w: jnp.sum(jnp.sin(tiled_conv(x, w))), (0, 1)))
    for axes in ((0, 0), (0, None), (None, 0)):
        args = tuple(a if axis == 0 else a[0] for a, axis in zip((x, w), axes, strict=True))
        got = jax.jit(jax.vmap(gradient, axes))(*args)
        each = [
            gradient(*(a if axis is None else a[i] for a, axis in zip(args, axes, strict=True)))
            for i in range(3)
        ]
        for g, parts in zip(got, zip(*each, strict=True), strict=True):
            assert_close(g, np.stack(parts))
