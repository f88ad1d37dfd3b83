"""conv, conv_transpose and conv_kernel_grad."""

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
    integers,
    normal,
    value_and_cotangents,
)
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from references import lax_conv

from cnnvjp import equations
from cnnvjp.convolution import conv, conv_kernel_grad, conv_transpose

# batch, spatial, kernel, C_in, C_out, options
CASES = [
    ((2,), (7,), (3,), 2, 3, {}),
    ((2,), (9,), (2,), 2, 4, dict(stride=3, padding=1, groups=2)),
    ((), (8,), (4,), 1, 2, dict(stride=2, dilation=2, padding="FULL")),
    ((3,), (5, 6), (2, 3), 3, 2, {}),
    ((1,), (5, 6), (1, 1), 3, 4, {}),
    ((2,), (5, 6), (1, 1), 3, 4, dict(stride=2)),
    ((), (6, 5), (3, 2), 2, 2, dict(stride=(2, 1), padding="SAME")),
    ((2, 2), (6, 7), (2, 2), 2, 3, dict(stride=2, padding="SAME_LOWER")),
    ((2,), (8, 9), (3, 3), 2, 3, dict(stride=2, padding=((1, 0), (2, 1)))),  # remainders
    ((2,), (8, 9), (2, 2), 2, 3, dict(stride=(3, 4))),  # stride beyond the kernel
    ((2,), (9, 8), (3, 2), 2, 3, dict(dilation=(2, 3), padding=(2, 1))),
    ((2,), (9, 8), (3, 3), 2, 2, dict(dilation=2, stride=3, padding=((3, 1), (0, 4)))),
    ((1,), (3, 4), (2, 2), 1, 2, dict(dilation=5, padding=5)),  # dilation beyond the input
    ((2,), (6, 6), (3, 3), 4, 6, dict(groups=2, padding=1)),
    ((2,), (6, 5), (3, 2), 6, 3, dict(groups=3, stride=2)),
    ((2,), (6, 6), (3, 3), 4, 4, dict(groups=4, padding="SAME", stride=2)),  # depthwise
    ((2,), (6, 6), (3, 3), 3, 6, dict(groups=3, dilation=2, padding=2)),  # with a multiplier
    ((2,), (6, 6), (2, 3), 2, 3, dict(flip_kernel=True, padding=((0, 1), (1, 0)))),
    ((2,), (6, 6), (2, 3), 4, 4, dict(flip_kernel=True, groups=2, stride=2, padding="FULL")),
    ((2,), (8, 8), (3, 3), 2, 2, dict(padding=((-1, 2), (2, -2)))),  # cropping
    ((2,), (9, 8), (2, 2), 2, 2, dict(padding=-1, stride=2)),
    ((0,), (6, 6), (3, 3), 2, 3, dict(stride=2)),  # an empty batch
    ((2,), (1, 1), (3, 3), 2, 2, dict(padding=1)),  # one pixel
    ((2,), (2, 3), (5, 4), 2, 2, dict(padding="FULL", stride=2)),  # kernel beyond the image
    ((2,), (4, 5, 3), (2, 3, 2), 2, 3, dict(stride=(2, 1, 1), padding=((0, 1), (1, 1), (0, 0)))),
    ((), (4, 4, 5), (2, 2, 2), 4, 4, dict(groups=2, dilation=(1, 2, 1), padding="SAME")),
]
IDS = [
    f"{i}-{len(c[1])}D-{'-'.join(f'{k}={v}' for k, v in c[5].items())}" for i, c in enumerate(CASES)
]
SECOND_ORDER = [0, 1, 6, 8, 11, 14, 18, 19, 24]
VERSIONS = [1, 8, 11, 14, 18, 24]


def draw(rng, case, dtype="float64"):
    batch, spatial, kernel, c_in, c_out, options = case
    x = normal(rng, *batch, *spatial, c_in, dtype=dtype)
    w = normal(rng, *kernel, c_in // options.get("groups", 1), c_out, dtype=dtype)
    return x, w, options


def some(indices):
    marks = lambda i: [pytest.mark.versions] if i in VERSIONS else []
    return [pytest.param(CASES[i], id=IDS[i], marks=marks(i)) for i in indices]


@pytest.mark.parametrize("case", some(range(len(CASES))))
def test_conv_and_its_gradients(rng, case):
    x, w, options = draw(rng, case)
    check_first_order(
        lambda x, w: conv(x, w, **options), lambda x, w: lax_conv(x, w, **options), x, w
    )


@pytest.mark.parametrize("case", some(range(len(CASES))))
def test_conv_transpose_and_its_gradients(rng, case):
    x, w, options = draw(rng, case)
    size = x.shape[-1 - (w.ndim - 2) : -1]
    y = lax_conv(x, w, **options)

    def reference(y, w):
        return jax.vjp(lambda x: lax_conv(x, w, **options), jnp.zeros_like(x))[1](y)[0]

    check_first_order(
        lambda y, w: conv_transpose(y, w, output_size=size, **options),
        reference,
        normal(rng, *y.shape),
        w,
    )


@pytest.mark.parametrize("case", some(range(len(CASES))))
def test_conv_kernel_grad_and_its_gradients(rng, case):
    x, w, options = draw(rng, case)
    dy = normal(rng, *jax.eval_shape(lambda x, w: lax_conv(x, w, **options), x, w).shape)

    def reference(x, dy):
        return jax.vjp(lambda w: lax_conv(x, w, **options), jnp.zeros_like(w))[1](dy)[0]

    kernel = w.shape[:-2]
    check_first_order(lambda x, dy: conv_kernel_grad(x, dy, kernel, **options), reference, x, dy)


@pytest.mark.parametrize("case", some(SECOND_ORDER))
def test_second_order(rng, case):
    x, w, options = draw(rng, case)
    check_second_order(
        lambda x, w: conv(x, w, **options), lambda x, w: lax_conv(x, w, **options), x, w
    )


def test_second_order_of_the_adjoints(rng):
    x, w, options = draw(rng, CASES[14])
    size, kernel = x.shape[1:3], w.shape[:2]
    pull = lambda x, w, dy, i: jax.vjp(lambda x, w: lax_conv(x, w, **options), x, w)[1](dy)[i]
    dy = normal(rng, *jax.eval_shape(lambda x, w: lax_conv(x, w, **options), x, w).shape)
    check_second_order(
        lambda y, w: conv_transpose(y, w, output_size=size, **options),
        lambda y, w: pull(jnp.zeros_like(x), w, y, 0),
        dy,
        w,
    )
    check_second_order(
        lambda x, dy: conv_kernel_grad(x, dy, kernel, **options),
        lambda x, dy: pull(x, jnp.zeros_like(w), dy, 1),
        x,
        dy,
    )


@pytest.mark.parametrize("case", some([1, 8, 11, 17, 19, 24]))
def test_the_three_are_each_others_adjoints(rng, case):
    """⟨c(x, w), dy⟩ = ⟨x, h(dy, w)⟩ = ⟨w, g(x, dy)⟩, exactly, in integers."""
    x, w, options = draw(rng, case)
    x, w = integers(rng, *x.shape), integers(rng, *w.shape)
    y = conv(x, w, **options)
    dy = integers(rng, *y.shape)
    dx = conv_transpose(dy, w, output_size=x.shape[-1 - (w.ndim - 2) : -1], **options)
    dw = conv_kernel_grad(x, dy, w.shape[:-2], **options)
    assert y.dtype == dx.dtype == dw.dtype == jnp.int32
    assert jnp.vdot(y, dy) == jnp.vdot(x, dx) == jnp.vdot(w, dw) != 0


def test_linear_in_each_argument(rng):
    """The adjoint identity as every linear operation is tested, in float64."""
    w = integers(rng, 3, 2, 2, 3, dtype="float64")
    options = dict(stride=2, padding=((1, 2), (0, 1)), dilation=(2, 1))
    check_adjoint(
        rng,
        lambda x: conv(x, w, **options),
        lambda y: conv_transpose(y, w, output_size=(8, 7), **options),
        (2, 8, 7, 2),
    )


@pytest.mark.versions
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_equations_of_gbc(rng, stride):
    """[GBC] 9.8, 9.11 and 9.13 as printed, in their axis order: (channel, row, column)."""
    V, K = rng.normal(size=(2, 8, 9)), rng.normal(size=(3, 2, 3, 2))
    x, w = jnp.asarray(V).transpose(1, 2, 0), jnp.asarray(K).transpose(2, 3, 1, 0)
    Z = equations.gbc_9_8(K, V, stride)
    G = rng.normal(size=Z.shape)
    dy = jnp.asarray(G).transpose(1, 2, 0)
    y, (dx, dw) = value_and_cotangents(lambda x, w: conv(x, w, stride=stride), (x, w), dy)
    assert_close(y.transpose(2, 0, 1), Z)
    assert_close(dw.transpose(3, 2, 0, 1), equations.gbc_9_11(G, V, stride, (3, 2)))
    assert_close(dx.transpose(2, 0, 1), equations.gbc_9_13(K, G, stride, (8, 9)))


@pytest.mark.parametrize("shape", [(3,), (4, 4, 3)], ids=["tied", "untied"])
def test_bias(rng, shape):
    x, w, b = normal(rng, 2, 5, 5, 2), normal(rng, 2, 2, 2, 3), normal(rng, *shape)
    add = lambda y, b: y + b.reshape((1,) * (y.ndim - b.ndim) + b.shape)
    check_first_order(conv, lambda x, w, b: add(lax_conv(x, w), b), x, w, b)
    y, c = normal(rng, 2, 4, 4, 3), normal(rng, *(5, 5)[: len(shape) - 1], 2)
    check_first_order(
        conv_transpose,
        lambda y, w, c: add(jax.vjp(lambda x: lax_conv(x, w), x)[1](y)[0], c),
        y,
        w,
        c,
    )


@pytest.mark.versions
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_low_precision(rng, dtype):
    """Long sums: 3·3·64 products for y and dx, 2·6·6 for dw, 2·6·6 for db."""
    x, w, b = normal(rng, 2, 8, 8, 64), normal(rng, 3, 3, 64, 8), normal(rng, 8)
    check_low_precision(conv, x, w, b, dtype=dtype)
    y = normal(rng, 2, 3, 3, 8)
    check_low_precision(
        lambda y, w: conv_transpose(y, w, stride=2, output_size=8), y, w, dtype=dtype
    )
    check_low_precision(
        lambda x, y: conv_kernel_grad(x, y, 3, stride=2, padding=0), x, y, dtype=dtype
    )


@pytest.mark.parametrize("dtype", ["int8", "int32", "int64", "uint8"])
def test_integers(rng, dtype):
    low = 0 if dtype.startswith("u") else -3
    x = integers(rng, 2, 5, 5, 2, dtype=dtype, low=low, high=4)
    w = integers(rng, 2, 2, 2, 3, dtype=dtype, low=low, high=4)
    b = integers(rng, 3, dtype=dtype, low=low, high=4)
    y = conv(x, w, b, stride=2)
    assert y.dtype == dtype
    exact = np.asarray(lax_conv(x.astype("float64"), w.astype("float64"), stride=2)) + np.asarray(b)
    np.testing.assert_array_equal(np.asarray(y, "float64"), exact)


@pytest.mark.versions
def test_preferred_element_type(rng):
    """Output in the wider dtype; cotangents in the primals', compared with an upcast conv."""
    for narrow, wide in (("bfloat16", "float32"), ("float16", "float32"), ("float32", "float64")):
        x = normal(rng, 2, 6, 6, 4, dtype=narrow)
        w = normal(rng, 3, 3, 4, 5, dtype=narrow)
        f = lambda x, w, wide=wide: conv(x, w, stride=2, preferred_element_type=wide)
        upcast = lambda x, w, wide=wide: lax_conv(x.astype(wide), w.astype(wide), stride=2)
        y = f(x, w)
        assert y.dtype == wide
        dy = normal(rng, *y.shape, dtype=wide)
        (y, (dx, dw)) = value_and_cotangents(f, (x, w), dy)
        (y_ref, (dx_ref, dw_ref)) = value_and_cotangents(upcast, (x, w), dy)
        assert (dx.dtype, dw.dtype) == (x.dtype, w.dtype)
        assert_close(y, y_ref)
        assert_close(dx, dx_ref)
        assert_close(dw, dw_ref)
        curved = jax.grad(lambda w, f, x: jnp.sum(jax.grad(lambda w: jnp.sum(f(x, w) ** 2))(w)))
        assert_close(curved(w, f, x), curved(w, upcast, x))


def test_preferred_element_type_narrower_and_integers(rng):
    x, w = normal(rng, 2, 5, 5, 2), normal(rng, 2, 2, 2, 3)
    y, (dx, _) = value_and_cotangents(
        lambda x, w: conv(x, w, preferred_element_type="float32"),
        (x, w),
        jnp.ones((2, 4, 4, 3), "float32"),
    )
    assert (y.dtype, dx.dtype) == (jnp.float32, jnp.float64)
    assert_close(y, lax_conv(x, w))
    a, b = (
        integers(rng, 1, 4, 4, 40, dtype="int8", low=100, high=127),
        jnp.full((3, 3, 40, 2), 100, "int8"),
    )
    wide = conv(a, b, preferred_element_type="int32")
    np.testing.assert_array_equal(wide, lax_conv(a.astype("int32"), b.astype("int32")))
    assert wide.max() > 1_000_000


def test_true_convolution_is_commutative_and_answers_an_impulse_with_its_kernel(rng):
    """[H] 8.1–8.7: the response to a one-point image is the kernel, and P * W = W * P."""
    p, w = integers(rng, 4, 5), integers(rng, 3, 2)
    impulse = jnp.zeros((1, 1), "int32").at[0, 0].set(1)
    image = lambda a: a[..., None]
    kernel = lambda a: a[..., None, None]
    full = dict(padding="FULL", flip_kernel=True)
    np.testing.assert_array_equal(conv(image(impulse), kernel(w), **full)[..., 0], w)
    np.testing.assert_array_equal(
        conv(image(p), kernel(w), **full), conv(image(w), kernel(p), **full)
    )
    assert not np.array_equal(
        conv(image(p), kernel(w), padding="FULL"), conv(image(w), kernel(p), padding="FULL")
    )


@pytest.mark.parametrize("flip", [False, True])
def test_position_invariance(rng, flip):
    """[H], "Why Use Convolution?": shifting the image shifts the output."""
    x, w = normal(rng, 1, 12, 12, 2), normal(rng, 3, 3, 2, 2)
    x = x.at[:, :, -3:].set(0).at[:, -3:].set(0)
    shifted = jnp.roll(x, (2, 1), (1, 2))
    y = conv(x, w, padding="FULL", flip_kernel=flip)
    np.testing.assert_array_equal(
        conv(shifted, w, padding="FULL", flip_kernel=flip), jnp.roll(y, (2, 1), (1, 2))
    )


def test_several_layers_into_one_net_input(rng):
    """[H] 8.35: with N = LZ₁ + LZ₂ + b, both dLZ equal dN, so each kernel sees dN alone."""
    x1, x2 = normal(rng, 2, 5, 5, 2), normal(rng, 2, 6, 6, 3)
    w1, w2, b = normal(rng, 2, 2, 2, 4), normal(rng, 3, 3, 3, 4), normal(rng, 4)
    net_input = lambda w1, w2, b: conv(x1, w1, b) + conv(x2, w2)
    dn = normal(rng, 2, 4, 4, 4)
    _, (dw1, dw2, db) = value_and_cotangents(net_input, (w1, w2, b), dn)
    assert_close(dw1, conv_kernel_grad(x1, dn, 2))
    assert_close(dw2, conv_kernel_grad(x2, dn, 3))
    assert_close(db, dn.sum((0, 1, 2)))


def test_transposed_output_sizes(rng):
    """Every admissible output_size puts the same values at the same places."""
    y, w = normal(rng, 1, 3, 3, 2), normal(rng, 2, 2, 3, 2)
    largest = conv_transpose(y, w, stride=3, output_size=10)
    for size in itertools.product((8, 9, 10), repeat=2):
        x = conv_transpose(y, w, stride=3, output_size=size)
        assert x.shape == (1, *size, 3)
        assert_close(x, largest[:, : size[0], : size[1]])
    assert conv_transpose(y, w, stride=3).shape == (1, 8, 8, 3)
    assert conv_transpose(y, w, stride=3, padding="SAME").shape == (1, 9, 9, 3)
    assert conv_transpose(y, w, padding="FULL").shape == (1, 2, 2, 3)


def test_conv_transpose_is_laxs_with_transpose_kernel(rng):
    y, w = normal(rng, 2, 4, 4, 3), normal(rng, 3, 3, 2, 3)
    for padding in ("SAME", "VALID"):
        expected = lax.conv_transpose(
            y, w, (2, 2), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), transpose_kernel=True
        )
        assert_close(conv_transpose(y, w, stride=2, padding=padding), expected)


@pytest.mark.parametrize("groups", [1, 2])
def test_vmap_over_any_argument(rng, groups):
    x, w = normal(rng, 3, 2, 5, 5, 2), normal(rng, 3, 2, 2, 2 // groups, 4)
    loss = lambda x, w: jnp.sum(jnp.sin(conv(x, w, stride=2, groups=groups)))
    gradient = jax.jit(jax.grad(loss, (0, 1)))
    for axes in ((0, 0), (0, None), (None, 0)):
        args = tuple(a if axis == 0 else a[0] for a, axis in zip((x, w), axes, strict=True))
        got = jax.jit(jax.vmap(gradient, axes))(*args)
        each = [
            gradient(*(a if axis is None else a[i] for a, axis in zip(args, axes, strict=True)))
            for i in range(3)
        ]
        for g, parts in zip(got, zip(*each, strict=True), strict=True):
            assert_close(g, np.stack(parts))


@pytest.mark.versions
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
@pytest.mark.parametrize("groups", [1, 2])
def test_sharded_batch(rng, kind, groups):
    x, w, b = normal(rng, 4, 6, 6, 4), normal(rng, 3, 3, 4 // groups, 6), normal(rng, 6)
    loss = lambda w, b, x: jnp.sum(jnp.sin(conv(x, w, b, stride=2, padding=1, groups=groups)))
    expected = jax.grad(loss, (0, 1, 2))(w, b, x)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(kind,), devices=jax.devices()[:2])
    with jax.set_mesh(mesh):
        put = lambda a, *spec: jax.device_put(a, NamedSharding(mesh, P(*spec)))
        actual = jax.jit(jax.grad(loss, (0, 1, 2)))(put(w), put(b), put(x, "data"))
    for got, want in zip(actual, expected, strict=True):
        assert_close(got, want)


@pytest.mark.versions
@pytest.mark.parametrize("inside", [True, False], ids=["grad inside", "grad outside"])
def test_shard_map_with_replicated_weights(rng, inside):
    x, w, b = normal(rng, 4, 6, 6, 2), normal(rng, 3, 3, 2, 3), normal(rng, 3)
    loss = lambda w, b, x: jnp.sum(jnp.sin(conv(x, w, b)))
    expected = jax.grad(loss, (0, 1))(w, b, x)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    specs = dict(mesh=mesh, in_specs=(P(), P(), P("data")))
    if inside:
        f = jax.shard_map(jax.grad(loss, (0, 1)), out_specs=(P(), P()), **specs)
    else:
        total = lambda w, b, x: lax.psum(loss(w, b, x), "data")
        f = jax.grad(jax.shard_map(total, out_specs=P(), **specs), (0, 1))
    for got, want in zip(jax.jit(f)(w, b, x), expected, strict=True):
        assert_close(got, want)


def test_batch_axes_that_cannot_be_merged(rng):
    mesh = jax.make_mesh(
        (2,), ("data",), axis_types=(AxisType.Explicit,), devices=jax.devices()[:2]
    )
    with jax.set_mesh(mesh):
        x = jax.device_put(normal(rng, 3, 4, 5, 5, 2), NamedSharding(mesh, P(None, "data")))
        with pytest.raises(ValueError, match=r"^x: its batch axes \(3, 4\) are sharded as"):
            conv(x, normal(rng, 2, 2, 2, 3))


X, W = jnp.zeros((2, 6, 6, 4)), jnp.zeros((3, 3, 4, 6))


def test_a_kernel_without_spatial_axes_is_a_matrix():
    with pytest.raises(ValueError, match=r"^w: got the shape \(4, 6\); .*cnnvjp.dense"):
        conv(X, W[0, 0])
    with pytest.raises(ValueError, match=r"^w: got the shape \(6,\)") as error:
        conv(X, W[0, 0, 0])
    assert "dense" not in str(error.value)


# padding and stride: planes that XLA would read beyond their end, in float32; a kernel larger than
# the image along one axis, upsampled along the other, which would end the process
@pytest.mark.parametrize(
    "shape, kernel, padding, stride",
    [
        ((2, 4, 3, 2), (2, 2, 2, 3), ((-2, 2), (0, 0)), 1),
        ((2, 4, 1, 16), (2, 3, 16, 1), ((1, 1), (1, 1)), 2),
    ],
)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_around_faults_of_xla(rng, shape, kernel, padding, stride, dtype):
    x, w = integers(rng, *shape, dtype=dtype), integers(rng, *kernel, dtype=dtype)

    def padded_first(x, w):
        x = lax.pad(x, jnp.zeros((), dtype), [(0, 0, 0), *((*p, 0) for p in padding), (0, 0, 0)])
        return lax_conv(x, w, stride=stride)

    f = lambda x, w: conv(x, w, stride=stride, padding=padding)
    y, pullback = jax.vjp(jax.jit(padded_first), x, w)
    dy = integers(rng, *y.shape, dtype=dtype)
    got, (dx, dw) = value_and_cotangents(f, (x, w), dy)
    for found, wanted in zip((got, dx, dw), (y, *pullback(dy)), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_bias_of_a_narrower_output_has_a_wide_gradient():
    """90000 ones: more than float16, the output's dtype, can hold."""
    x, w, b = jnp.zeros((1, 300, 300, 1)), jnp.ones((1, 1, 1, 1)), jnp.zeros(1)

    def loss(b):
        y = conv(x, w, b, preferred_element_type="float16")
        return jnp.sum(y.astype("float64"))

    assert jax.grad(loss)(b) == 90000


def test_half_precisions_meet_in_float32():
    """257 does not fit into bfloat16, the operands' dtype, but into float16, the output's."""
    x, w = jnp.ones((1, 257, 1), "bfloat16"), jnp.ones((257, 1, 1), "bfloat16")
    y = conv(x, w, preferred_element_type="float16")
    assert y.dtype == jnp.float16
    assert y.item() == 257


def test_an_option_under_jit_is_named_as_static():
    x, w = jnp.ones((1, 3, 3, 1)), jnp.ones((2, 2, 1, 1))
    for options in (dict(stride=2), dict(groups=1), dict(flip_kernel=True)):
        with pytest.raises((TypeError, ValueError), match=r"static_argnames"):
            jax.jit(conv)(x, w, **options)


def test_a_call_becomes_part_of_the_program_around_it(rng):
    x, w = normal(rng, 1, 3, 3, 1), normal(rng, 2, 2, 1, 1)
    text = jax.jit(lambda x, w: 2 * conv(x, w)).lower(x, w).as_text()
    assert "func.func private" not in text


@pytest.mark.parametrize(
    "given, preferred",
    [("int8", "int32"), ("uint8", "uint32"), ("bfloat16", "float32"), ("float32", "float64")],
)
@pytest.mark.parametrize("f", [conv, conv_transpose])
def test_a_bias_of_the_output_s_dtype_is_welcome(f, given, preferred):
    x, w = jnp.full((1, 3, 2), 100, given), jnp.full((1, 2, 2), 2, given)
    b = jnp.array([1, 1000], preferred)
    y, pullback = jax.vjp(lambda b: f(x, w, b, preferred_element_type=preferred), b)
    assert y.dtype == preferred
    np.testing.assert_array_equal(y[0, 0], [401, 1400])
    if jnp.issubdtype(preferred, jnp.floating):
        (db,) = pullback(jnp.ones_like(y))
        assert db.dtype == preferred
        np.testing.assert_array_equal(db, [y.shape[1]] * 2)


FILLED = {"CIRCULAR": "wrap", "REFLECT": "reflect", "SYMMETRIC": "symmetric", "EDGE": "edge"}
# spatial, kernel, options
FILLED_CASES = [
    ((7,), (4,), dict(stride=2)),
    ((5, 6), (3, 2), dict(dilation=(2, 1), flip_kernel=True)),
    ((6, 5), (2, 3), dict(stride=(3, 1), groups=2)),  # an axis that needs no padding
    ((3, 4, 3), (2, 3, 1), dict(stride=(1, 2, 1))),
]


def padded_first(x, w, padding, options):
    """jnp.pad, then lax's convolution without padding."""
    ndim = w.ndim - 2
    per_axis = lambda o: (o,) * ndim if isinstance(o, int) else o
    strides, dilations = (per_axis(options.get(o, 1)) for o in ("stride", "dilation"))
    pairs = []
    for n, k, s, d in zip(x.shape[-1 - ndim :], w.shape, strides, dilations, strict=False):
        reach = d * (k - 1)
        total = max((-(-n // s) - 1) * s + reach + 1 - n, 0)
        pairs.append((reach, 0) if padding == "CAUSAL" else (total // 2, total - total // 2))
    around = [(0, 0)] * (x.ndim - 1 - ndim) + pairs + [(0, 0)]
    return lax_conv(jnp.pad(x, around, FILLED.get(padding, "constant")), w, **options)


@pytest.mark.parametrize("padding", [*FILLED, "CAUSAL"])
@pytest.mark.parametrize("size, kernel, options", FILLED_CASES, ids=str)
def test_filled_paddings(rng, size, kernel, options, padding):
    x = normal(rng, 2, *size, 2)
    w = normal(rng, *kernel, 2 // options.get("groups", 1), 4)
    f = lambda x, w: conv(x, w, padding=padding, **options)
    check_first_order(f, lambda x, w: padded_first(x, w, padding, options), x, w)


@pytest.mark.versions
def test_second_order_of_a_filled_padding(rng):
    x, w = normal(rng, 5, 2), normal(rng, 3, 2, 2)
    f = lambda x, w: conv(x, w, padding="SYMMETRIC", dilation=2)
    check_second_order(f, lambda x, w: padded_first(x, w, "SYMMETRIC", dict(dilation=2)), x, w)


def test_circular_padding_commutes_with_rotation_and_causal_sees_no_later_entry(rng):
    x, w = integers(rng, 6, 5, 2), integers(rng, 3, 4, 2, 2)
    circular = lambda x: conv(x, w, padding="CIRCULAR")
    rotated = jnp.roll(x, (2, 1), (0, 1))
    np.testing.assert_array_equal(circular(rotated), jnp.roll(circular(x), (2, 1), (0, 1)))
    seen = jax.jacrev(lambda x: conv(x, w[0] / 1, padding="CAUSAL").sum(-1))(x[0] / 1).any(-1)
    np.testing.assert_array_equal(seen, np.tri(5, dtype=bool) & ~np.tri(5, k=-4, dtype=bool))
