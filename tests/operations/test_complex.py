"""Complex arrays, in every operation that takes them: gradients are those of lax's own operations.

JAX's gradient of a real loss in a complex argument x + iy is ∂/∂x − i ∂/∂y. So the rule of a linear
operation is its transpose, and nothing is conjugated.
"""

import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from checker import normal
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from references import lax_conv

import cnnvjp
from cnnvjp import conv, conv_kernel_grad, conv_transpose, explicit

TOLERANCE = {jnp.dtype("complex64"): 3e-6, jnp.dtype("complex128"): 1e-12}


def drawn(rng, *shape, dtype="complex128"):
    part = jnp.finfo(dtype).dtype
    return lax.complex(normal(rng, *shape, dtype=part), normal(rng, *shape, dtype=part))


def whole(rng, *shape):
    """Gaussian integers, of which complex128 makes exact sums."""
    return jnp.asarray(rng.integers(-5, 6, shape) + 1j * rng.integers(-5, 6, shape))


def assert_close(actual, expected):
    """Each part up to a share of the largest magnitude."""
    assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype)
    actual, expected = np.asarray(actual), np.asarray(expected)
    allowed = TOLERANCE[actual.dtype] * np.abs(expected).max(initial=0)
    assert np.abs(actual - expected).max(initial=0) <= allowed


def add(z, b):
    return z + jnp.broadcast_to(b, z.shape)


def biased(f):
    return lambda x, w, b: add(f(x, w), b)


def pooled(x, window, stride, padding):
    """lax's sum over windows of images."""
    pairs = [(0, 0), (padding, padding), (padding, padding), (0, 0)]
    zero = x.dtype.type(0)
    return lax.reduce_window(x, zero, lax.add, (1, *window, 1), (1, *stride, 1), pairs)


def in_parts(f):
    """A linear map with real entries, of the real and of the imaginary parts."""
    return lambda x: lax.complex(f(x.real), f(x.imag))


def transposed(y, w, size, **options):
    x = jnp.zeros((*y.shape[:-3], *size, w.shape[-2] * options.get("groups", 1)), y.dtype)
    return jax.linear_transpose(lambda x: lax_conv(x, w, **options), x)(y)[0]


def kernel_gradient(x, dy, size, **options):
    w = jnp.zeros((*size, x.shape[-1] // options.get("groups", 1), dy.shape[-1]), x.dtype)
    return jax.linear_transpose(lambda w: lax_conv(x, w, **options), w)(dy)[0]


STRIDED = dict(stride=2, padding=((1, 0), (1, 2)), dilation=(1, 2))
DEPTHWISE = dict(groups=4, padding=((1, 1), (1, 1)))
X = (2, 6, 5, 4)

# name, the call, the same in lax and jnp, the arguments' shapes
CASES = [
    (
        "conv",
        lambda x, w, b: conv(x, w, b, **STRIDED),
        biased(functools.partial(lax_conv, **STRIDED)),
        [X, (3, 2, 4, 3), (3,)],
    ),
    (
        "conv-depthwise",
        lambda x, w: conv(x, w, **DEPTHWISE),
        functools.partial(lax_conv, **DEPTHWISE),
        [X, (3, 3, 1, 8)],
    ),
    (
        "conv-flipped",
        lambda x, w: conv(x, w, groups=2, flip_kernel=True),
        functools.partial(lax_conv, groups=2, flip_kernel=True),
        [X, (2, 3, 2, 2)],
    ),
    (
        "conv-1D",
        lambda x, w: conv(x, w, padding="SAME"),
        functools.partial(lax_conv, padding="SAME"),
        [(2, 7, 3), (4, 3, 2)],
    ),
    ("conv-3D", lambda x, w: conv(x, w), lax_conv, [(2, 3, 4, 4, 2), (2, 2, 3, 2, 2)]),
    (
        "conv-circular",
        lambda x, w: conv(x, w, padding="CIRCULAR"),
        lambda x, w: lax_conv(jnp.pad(x, ((0, 0), (1, 1), (0, 1), (0, 0)), "wrap"), w),
        [X, (3, 2, 4, 3)],
    ),
    (
        "conv_transpose",
        lambda y, w: conv_transpose(y, w, output_size=(6, 5), **STRIDED),
        lambda y, w: transposed(y, w, (6, 5), **STRIDED),
        [(2, 3, 3, 3), (3, 2, 4, 3)],
    ),
    (
        "conv_kernel_grad",
        lambda x, dy: conv_kernel_grad(x, dy, (3, 2), **STRIDED),
        lambda x, dy: kernel_gradient(x, dy, (3, 2), **STRIDED),
        [X, (2, 3, 3, 3)],
    ),
    ("dense", cnnvjp.dense, lambda x, w, b: add(x @ w, b), [(2, 5, 3), (3, 4), (4,)]),
    ("add_bias", cnnvjp.add_bias, add, [X, X[1:]]),
    (
        "sum_pool",
        lambda x: cnnvjp.sum_pool(x, (3, 2), stride=1, padding=1),
        lambda x: pooled(x, (3, 2), (1, 1), 1),
        [X],
    ),
    (
        "avg_pool",
        lambda x: cnnvjp.avg_pool(x, 2, stride=(2, 1)),
        lambda x: pooled(x, (2, 2), (2, 1), 0) / 4,
        [X],
    ),
    *(
        (
            name,
            functools.partial(getattr(cnnvjp, name), **options),
            in_parts(functools.partial(getattr(cnnvjp, name), **options)),
            [shape],
        )
        for name, options, shape in [
            ("avg_pool", dict(window=3, padding=1, count_include_pad=False), X),
            *(
                ("pad", dict(padding=((1, 2), (-1, 3)), mode=mode), X)
                for mode in ["constant", "reflect", "symmetric", "edge", "circular"]
            ),
            ("upsample", dict(factor=(2, 3), offset=1), X),
            ("downsample", dict(factor=2), X),
            ("repeat", dict(factor=2), X),
            ("pixel_shuffle", dict(factor=2), X),
            ("pixel_unshuffle", dict(factor=(2, 1)), X),
            ("unfold", dict(window=2, padding=1), X),
            ("fold", dict(output_size=(3, 4)), (2, 2, 3, 2, 2, 3)),
            ("flatten", dict(order="column"), X),
            ("unflatten", dict(shape=(2, 3, 2)), (2, 12)),
        ]
    ),
]


def loss(f, target):
    """A curved real loss: neither holomorphic nor symmetric in the two parts."""
    return lambda *args: jnp.sum(jnp.sin((f(*args) * target).real) + (f(*args) * target).imag ** 2)


COMPLEX64 = {"conv", "conv_kernel_grad", "dense", "avg_pool"}
CASES_OF_DTYPES = [
    pytest.param(dtype, *rest, id=f"{dtype}-{i}-{name}")
    for i, (name, *rest) in enumerate(CASES)
    for dtype in ["complex64"] * (name in COMPLEX64) + ["complex128"]
]


@pytest.mark.parametrize("dtype, f, reference, shapes", CASES_OF_DTYPES)
def test_values_and_gradients_of_a_real_loss(rng, dtype, f, reference, shapes):
    args = [drawn(rng, *shape, dtype=dtype) for shape in shapes]
    target = drawn(rng, *jax.eval_shape(f, *args).shape, dtype=dtype)

    @jax.jit
    def both(args, target):
        argnums = tuple(range(len(args)))
        return [(g(*args), jax.grad(loss(g, target), argnums)(*args)) for g in (f, reference)]

    for got, want in zip(*map(jax.tree.leaves, both(args, target)), strict=True):
        assert_close(got, want)


@pytest.mark.versions
@pytest.mark.parametrize(
    "f, reference, shapes",
    [pytest.param(*CASES[i][1:], id=CASES[i][0]) for i in (3, 6, 7, 8, 10, 12)],
)
def test_second_order(rng, f, reference, shapes):
    args = [drawn(rng, *shape) for shape in shapes]
    target = drawn(rng, *jax.eval_shape(f, *args).shape)
    directions = [drawn(rng, *shape) for shape in shapes]
    argnums = tuple(range(len(args)))

    @jax.jit
    def both(args, target, directions):
        def curvature(g):
            slope = jax.grad(loss(g, target), argnums)
            along = lambda *args: sum(
                jnp.vdot(s, d).real for s, d in zip(slope(*args), directions, strict=True)
            )
            return jax.grad(along, argnums)(*args), jax.jvp(slope, tuple(args), tuple(directions))[
                1
            ]

        return curvature(f), curvature(reference)

    for got, want in zip(*map(jax.tree.leaves, both(args, target, directions)), strict=True):
        assert_close(got, want)


@pytest.mark.parametrize(
    "f, shape", [pytest.param(f, s[0], id=name) for name, f, _, s in CASES if len(s) == 1]
)
def test_transposes_without_conjugation(rng, f, shape):
    """Σ (A x) y = Σ x (Aᵀ y), exactly; with a conjugate on either side it would not hold."""
    x = whole(rng, *shape) * 36  # which the averages' counts divide
    y, pullback = jax.vjp(f, x)
    dy = whole(rng, *y.shape) * 36
    assert jnp.sum(y * dy) == jnp.sum(x * pullback(dy)[0]) != 0


def test_a_constant_around_complex_maps_is_real():
    y = cnnvjp.pad(jnp.array([[1j]]), ((1, 0),), value=2.5)
    np.testing.assert_array_equal(y, [[2.5], [1j]])


def test_the_three_are_each_others_adjoints(rng):
    """Σ c(x, w) dy = Σ x h(dy, w) = Σ w g(x, dy), exactly."""
    x, w = whole(rng, *X), whole(rng, 3, 2, 4, 3)
    y = conv(x, w, **STRIDED)
    dy = whole(rng, *y.shape)
    dx = conv_transpose(dy, w, output_size=X[1:3], **STRIDED)
    dw = conv_kernel_grad(x, dy, (3, 2), **STRIDED)
    assert jnp.sum(y * dy) == jnp.sum(x * dx) == jnp.sum(w * dw) != 0


def test_preferred_element_type(rng):
    x, w = drawn(rng, 2, 5, 2, dtype="complex64"), drawn(rng, 3, 2, 2, dtype="complex64")
    f = lambda x, w: conv(x, w, preferred_element_type="complex128")
    reference = lambda x, w: lax_conv(x.astype("complex128"), w.astype("complex128"))
    (y, pullback), (expected, exact) = jax.vjp(f, x, w), jax.vjp(reference, x, w)
    assert_close(y, expected)
    for got, want in zip(pullback(y), exact(y), strict=True):
        assert_close(got, want)


def network(x, w, v):
    y = lax_conv(x, w, stride=2, padding="SAME")
    y = pooled(y * y, (2, 2), (2, 2), 0)
    return jnp.sum(jnp.abs(jnp.einsum("nhwc,ck->nk", y, v)) ** 2)


def test_explicit_serves_complex_networks(rng):
    args = drawn(rng, 2, 8, 8, 2), drawn(rng, 3, 3, 2, 4), drawn(rng, 4, 3)
    reports = []
    got = jax.jit(jax.grad(explicit(network, report=reports.append), (0, 1, 2)))(*args)
    assert "2 replaced, 0 left" in str(reports[0])
    expected = jax.jit(jax.grad(network, (0, 1, 2)))(*args)
    for a, b in zip(got, expected, strict=True):
        assert_close(a, b)


def test_under_vmap_scan_and_checkpoint(rng):
    x, w = drawn(rng, 3, 2, 6, 4), drawn(rng, 3, 4, 4)
    f = lambda x, w: jnp.sum(jnp.abs(cnnvjp.avg_pool(conv(x, w, padding="SAME"), (2,))) ** 2)
    slope = jax.grad(f, (0, 1))
    each = [slope(image, w) for image in x]

    @jax.jit
    def three_ways(x, w):
        mapped = jax.vmap(slope, (0, None))(x, w)
        _, scanned = lax.scan(
            lambda c, image: (c, jax.grad(jax.checkpoint(f), (0, 1))(image, w)), 0, x
        )
        return mapped, scanned

    for way in three_ways(x, w):
        for i, expected in enumerate(each):
            for got, want in zip(way, expected, strict=True):
                assert_close(got[i], want)


def layers(x, w, v):
    y = cnnvjp.avg_pool(conv(x, w, padding="SYMMETRIC", groups=2), (2,))
    return jnp.sum(jnp.abs(cnnvjp.dense(cnnvjp.flatten(y, spatial_ndim=1), v)) ** 2)


@pytest.mark.versions
@pytest.mark.devices(2)
def test_on_meshes(rng):
    args = drawn(rng, 4, 6, 4), drawn(rng, 3, 2, 4), drawn(rng, 12, 2)
    slopes = jax.grad(layers, (0, 1, 2))
    expected = jax.jit(slopes)(*args)
    specs = P("data"), P(), P()
    mesh = jax.make_mesh((2,), ("data",), (AxisType.Explicit,), devices=jax.devices()[:2])
    with jax.set_mesh(mesh):
        placed = [
            jax.device_put(a, NamedSharding(mesh, spec))
            for a, spec in zip(args, specs, strict=True)
        ]
        explicitly = jax.jit(slopes)(*placed)
    mesh = jax.make_mesh((2,), ("data",), (AxisType.Auto,), devices=jax.devices()[:2])
    manually = jax.jit(jax.shard_map(slopes, mesh=mesh, in_specs=specs, out_specs=specs))(*args)
    for way in (explicitly, manually):
        for got, want in zip(way, expected, strict=True):
            assert_close(got, want)


def test_export():
    shapes = [jax.ShapeDtypeStruct(s, "complex64") for s in [(4, 6, 4), (3, 2, 4), (12, 2)]]
    slopes = jax.jit(jax.grad(layers, (0, 1, 2)))
    platforms = ("cpu", "cuda", "rocm", "tpu")
    exported = jax.export.export(slopes, platforms=platforms)(*shapes)
    assert [a.dtype for a in exported.out_avals] == ["complex64"] * 3
