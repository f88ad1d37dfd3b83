"""resize."""

import math
from fractions import Fraction

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
)
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from cnnvjp.resizing import resize


def kernel(distance, method, a):
    """The linear and the cubic kernel, in exact fractions."""
    if method == "linear":
        return max(1 - distance, 0)
    if distance <= 1:
        return (a + 2) * distance**3 - (a + 3) * distance**2 + 1
    if distance < 2:
        return a * distance**3 - 5 * a * distance**2 + 8 * a * distance - 4 * a
    return 0


def matrix(n, m, method="linear", align_corners=False, antialias=False):
    """A, pixel by pixel, in exact fractions."""
    A = np.zeros((m, n))
    a = Fraction(-1, 2) if antialias else Fraction(-3, 4)
    stretch = max(Fraction(n, m), 1) if antialias else 1
    for i in range(m):
        if method == "nearest":
            A[i, math.floor(Fraction(i * n, m))] = 1
            continue
        if method == "nearest-exact":
            A[i, math.floor((i + Fraction(1, 2)) * n / m)] = 1
            continue
        place = (i + Fraction(1, 2)) * n / m - Fraction(1, 2)
        if align_corners:
            place = Fraction(i * (n - 1), m - 1) if m > 1 else Fraction(0)
        margin = 3 * math.ceil(stretch)
        weights = {
            j: kernel(abs(place - j) / stretch, method, a) for j in range(-margin, n + margin)
        }
        if antialias:
            weights = {j: weight for j, weight in weights.items() if 0 <= j < n}
        total = sum(weights.values())
        for j, weight in weights.items():
            A[i, min(max(j, 0), n - 1)] += float(weight / total)
    return A


def by_matrices(x, size, **options):
    """The resized image as a product with a dense matrix along each axis."""
    first = x.ndim - 1 - len(size)
    for axis, m in enumerate(size, first):
        A = jnp.asarray(matrix(x.shape[axis], m, **options), x.dtype)
        x = jnp.moveaxis(jnp.tensordot(A, x, (1, axis)), 0, axis)
    return x


LINEAR, CUBIC = dict(method="linear"), dict(method="cubic")
ALIGNED, SMOOTH = dict(align_corners=True), dict(antialias=True)

# batch, old size, new size, options
CASES = [
    ((2,), (7,), (3,), dict(method="nearest")),
    ((2,), (5, 6), (11, 4), dict(method="nearest")),
    ((), (3, 4, 5), (4, 3, 5), dict(method="nearest")),
    ((2,), (6,), (37,), dict(method="nearest-exact")),  # halves that floats round down
    ((2, 3), (5, 6), (3, 13), dict(method="nearest-exact")),
    ((2,), (5,), (8,), {}),
    ((2,), (5, 6), (10, 12), {}),
    ((2, 2), (9, 7), (4, 3), {}),
    ((1,), (1, 4), (3, 1), {}),
    ((2,), (4, 5), (4, 5), {}),  # the identity
    ((0,), (4, 5), (3, 9), {}),
    ((2,), (2, 3, 4), (3, 5, 2), {}),
    ((2,), (7,), (4,), ALIGNED),
    ((), (5, 6), (9, 1), ALIGNED),
    ((2,), (3, 2, 4), (2, 5, 7), ALIGNED),
    ((2,), (7,), (3,), SMOOTH),
    ((2,), (9, 4), (4, 7), SMOOTH),
    ((), (5, 4, 3), (2, 3, 4), SMOOTH),
    ((2,), (40,), (2,), SMOOTH),  # more terms than are written out
    ((2,), (2,), (50,), {}),
    ((2,), (6,), (11,), CUBIC),
    ((2,), (6, 5), (3, 8), CUBIC),
    ((1,), (2, 1), (5, 3), CUBIC),  # kernels wider than the image
    ((), (3, 4, 5), (5, 3, 4), CUBIC),
    ((2,), (6, 5), (4, 9), CUBIC | ALIGNED),
    ((2,), (9, 7), (4, 3), CUBIC | SMOOTH),
    ((2,), (5, 6), (8, 6), CUBIC | SMOOTH),
]
IDS = [
    f"{i}-{'x'.join(map(str, old))}-{'x'.join(map(str, new))}-{'-'.join(map(str, options.values()))}"
    for i, (_, old, new, options) in enumerate(CASES)
]
VERSIONS = [1, 6, 14, 18, 25]


def some(indices):
    marks = lambda i: [pytest.mark.versions] if i in VERSIONS else []
    return [pytest.param(CASES[i], id=IDS[i], marks=marks(i)) for i in indices]


@pytest.mark.parametrize("case", some(range(len(CASES))))
def test_values_and_gradients(rng, case):
    batch, old, new, options = case
    x = normal(rng, *batch, *old, 2)
    check_first_order(
        lambda x: resize(x, new, **options), lambda x: by_matrices(x, new, **options), x
    )


@pytest.mark.parametrize("case", some([0, 12]))
def test_second_order(rng, case):
    batch, old, new, options = case
    check_second_order(
        lambda x: resize(x, new, **options),
        lambda x: by_matrices(x, new, **options),
        normal(rng, *batch, *old, 1),
    )


@pytest.mark.parametrize("case", some([8, 18, 25]))
def test_hessian(rng, case):
    batch, old, new, options = case
    check_second_order(
        lambda x: resize(x, new, **options),
        lambda x: by_matrices(x, new, **options),
        normal(rng, *batch, *old, 1),
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("case", some([0, 8, 16]))
def test_low_precision(rng, case, dtype):
    batch, old, new, options = case
    check_low_precision(
        lambda x: resize(x, new, **options), normal(rng, *batch, *old, 3), dtype=dtype
    )


@pytest.mark.parametrize("method, size", [("nearest", 4096), ("linear", 4096)])
def test_long_sums_are_held_in_float32(method, size):
    """In bfloat16 a sum of ones stops at 256."""
    x = jnp.zeros((1, 1), "bfloat16")
    f = lambda x: jnp.sum(resize(x, (size,), method=method).astype("float32"))
    assert jax.grad(f)(x)[0, 0] == size


@pytest.mark.parametrize("method", ["nearest", "nearest-exact"])
@pytest.mark.parametrize("dtype", ["uint8", "int32"])
def test_integers_are_copied(rng, method, dtype):
    x = integers(rng, 2, 5, 3, 2, dtype=dtype, low=0, high=200)
    y = resize(x, (8, 2), method=method)
    assert y.dtype == x.dtype
    assert_close(y, by_matrices(x.astype("float64"), (8, 2), method=method))


@pytest.mark.parametrize("options", [dict(method="nearest"), LINEAR, CUBIC])
def test_adjoint(rng, options):
    """Twice the size: the weights are dyadic, so that the products are exact."""
    size = (8, 6)
    linear = lambda x: resize(x, size, **options)
    x = jnp.zeros((2, 4, 3, 2))
    check_adjoint(rng, linear, lambda dy: jax.vjp(linear, x)[1](dy)[0], x.shape)


# From PyTorch's `interpolate`, of 1, 2, 4, 8, 16.
TORCH = [
    (3, dict(method="nearest"), [1, 2, 8]),
    (8, dict(method="nearest"), [1, 1, 2, 2, 4, 8, 8, 16]),
    (3, dict(method="nearest-exact"), [1, 4, 16]),
    (8, dict(method="nearest-exact"), [1, 1, 2, 4, 4, 8, 16, 16]),
    (3, LINEAR, [4 / 3, 4, 40 / 3]),
    (3, LINEAR | ALIGNED, [1, 4, 16]),
    (3, LINEAR | SMOOTH, [10 / 7, 40 / 9, 88 / 7]),
    (3, CUBIC, [1.2037037037037028, 4.0, 13.703703703703706]),
    (3, CUBIC | SMOOTH, [1.2307692307692315, 4.15813953488372, 12.861538461538466]),
    (8, LINEAR, [1, 1.4375, 2.125, 3.375, 5.25, 7.75, 12.5, 16]),
    (8, LINEAR | ALIGNED, [1, 11 / 7, 16 / 7, 24 / 7, 36 / 7, 52 / 7, 80 / 7, 16]),
    (8, CUBIC, [0.90716552734375, 1.268310546875, 2.12957763671875, 3.02252197265625, 4.9881591796875, 7.4771728515625, 12.884521484375, 16.74267578125]),
    (8, CUBIC | ALIGNED, [1.0, 1.3702623906705544, 2.268221574344027, 3.07871720116618, 4.924198250728874, 6.912536443148683, 11.778425655976669, 16.0]),
    (8, CUBIC | SMOOTH, [0.9280442804428044, 1.2940974997145793, 2.0938720703125, 3.1937255859375, 4.968017578125, 7.636474609375, 13.04304144308711, 16.575645756457565]),
]  # fmt: skip


@pytest.mark.versions
@pytest.mark.parametrize("size, options, expected", TORCH)
def test_agrees_with_pytorch(size, options, expected):
    x = jnp.array([1.0, 2.0, 4.0, 8.0, 16.0])[:, None]
    assert_close(resize(x, (size,), **options)[:, 0], np.asarray(expected, "float64"))


def test_where_jax_image_resize_agrees_and_where_not(rng):
    x = normal(rng, 7, 9, 2, dtype="float32")
    theirs = lambda method, antialias, size: jax.image.resize(
        x, (*size, 2), method, antialias=antialias
    )
    small, large = (3, 4), (9, 20)
    assert_close(resize(x, small, antialias=True), theirs("linear", True, small))
    assert_close(resize(x, small, **CUBIC, antialias=True), theirs("cubic", True, small))
    assert_close(resize(x, large), theirs("linear", False, large))
    assert jnp.abs(resize(x, small) - theirs("linear", True, small)).max() > 0.1
    assert jnp.abs(resize(x, large, **CUBIC) - theirs("cubic", False, large)).max() > 0.1


@pytest.mark.parametrize("poison", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("options", [dict(method="nearest"), LINEAR, LINEAR | SMOOTH, CUBIC])
@pytest.mark.parametrize("n, m", [(4, 7), (6, 3), (40, 2), (2, 40)])
def test_what_is_not_finite_reaches_only_what_uses_it(poison, options, n, m):
    A = matrix(n, m, **options)
    for j in (0, n // 2):
        x, dy = jnp.ones((n, 1)).at[j].set(poison), jnp.ones((m, 1)).at[j].set(poison)
        y, pullback = jax.vjp(lambda x: resize(x, (m,), **options), x)
        assert_close(~np.isfinite(y[:, 0]), A[:, j] != 0)
        if j < m:
            assert_close(~np.isfinite(pullback(dy)[0][:, 0]), A[j] != 0)


@pytest.mark.versions
def test_sharded_over_the_batch(rng):
    """On a mesh of Explicit axes and inside shard_map, the numbers are those of one device."""
    x = normal(rng, 4, 5, 4, 2)
    f = lambda x: jnp.sin(resize(x, (50, 3)))  # written out along one axis, a loop along the other
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(f(x))))
    expected = gradient(x)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        sharded = jax.device_put(x, NamedSharding(mesh, P("data")))
        assert_close(gradient(sharded), expected)
        assert jax.typeof(gradient(sharded)).sharding.spec[0] == "data"
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    each = jax.shard_map(gradient, mesh=mesh, in_specs=P("data"), out_specs=P("data"))
    assert_close(jax.jit(each)(x), expected)
    assert_close(jax.vmap(gradient)(x), expected)


def test_size_of_the_program_does_not_grow():
    """A long row is a loop: the number of equations is that of a row that is twice as long."""
    count = lambda n: len(
        str(jax.make_jaxpr(lambda x: resize(x, (2,), **SMOOTH))(jnp.zeros((n, 1))))
    )
    assert count(400) < 1.1 * count(200)
