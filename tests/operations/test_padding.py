"""pad."""

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

from cnnvjp.padding import pad

MODES = ("constant", "reflect", "symmetric", "edge", "circular")


def extended(x, pairs, mode="constant", value=0):
    """Pixel by pixel: the one at i − before, wherever its copy comes from."""
    first = x.ndim - 1 - len(pairs)
    for axis, (before, after) in enumerate(pairs, first):
        n = x.shape[axis]
        pixels = []
        for i in range(-before, n + after):
            if mode == "constant" and not 0 <= i < n:
                pixels.append(jnp.full_like(x[(slice(None),) * axis + (0,)], value))
                continue
            if mode == "reflect":
                i = -i if i < 0 else 2 * (n - 1) - i if i >= n else i
            if mode == "symmetric":
                i = -i - 1 if i < 0 else 2 * n - 1 - i if i >= n else i
            if mode == "edge":
                i = min(max(i, 0), n - 1)
            if mode == "circular":
                i = (i + 20 * n) % n
            pixels.append(x[(slice(None),) * axis + (i,)])
        x = jnp.stack(pixels, axis)
    return x


# batch, size, pairs
CASES = [
    ((2,), (4,), ((2, 1),)),
    ((2,), (4,), ((3, 3),)),  # the largest that reflect takes
    ((), (5,), ((-1, 2),)),
    ((1,), (5,), ((3, -2),)),
    ((2,), (6,), ((-2, -3),)),
    ((2,), (4, 5), ((1, 2), (3, 0))),
    ((2, 3), (3, 4), ((0, 0), (2, 2))),
    ((0,), (3, 4), ((1, 1), (0, 2))),
    ((1,), (3, 4), ((-2, 1), (2, -3))),
    ((2,), (3, 2, 4), ((1, 0), (1, 1), (-1, 3))),
]
VERSIONS = [5, 8]
IDS = [f"{i}-{case[1]}-{case[2]}".replace(" ", "") for i, case in enumerate(CASES)]


def some(indices):
    marks = lambda i: [pytest.mark.versions] if i in VERSIONS else []
    return [pytest.param(CASES[i], id=IDS[i], marks=marks(i)) for i in indices]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", some(range(len(CASES))))
def test_values_and_gradients(rng, case, mode):
    batch, size, pairs = case
    options = dict(mode=mode, value=2.5 if mode == "constant" else 0)
    check_first_order(
        lambda x: pad(x, pairs, **options),
        lambda x: extended(x, pairs, **options),
        normal(rng, *batch, *size, 2),
    )


@pytest.mark.parametrize("mode", MODES)
def test_second_order(rng, mode):
    x = normal(rng, 4, 1)
    pairs = ((2, -1),)
    check_second_order(lambda x: pad(x, pairs, mode=mode), lambda x: extended(x, pairs, mode), x)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("mode", MODES)
def test_low_precision(rng, mode, dtype):
    check_low_precision(
        lambda x: pad(x, ((3, 2), (1, 3)), mode=mode), normal(rng, 2, 4, 5, 2), dtype=dtype
    )


def test_long_sums_are_held_in_float32():
    """In bfloat16 a sum of ones stops at 256."""
    f = lambda x: jnp.sum(pad(x, ((1000, 47),), mode="edge").astype("float32"))
    assert jax.grad(f)(jnp.zeros((1, 1), "bfloat16"))[0, 0] == 1048


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32"])
@pytest.mark.parametrize("mode", MODES)
def test_integers(rng, mode, dtype):
    x = integers(rng, 2, 4, 3, 2, dtype=dtype, low=0, high=100)
    value = 127 if mode == "constant" else 0
    y = pad(x, ((1, -1), (2, 2)), mode=mode, value=value)
    assert y.dtype == x.dtype
    assert_close(y, extended(x, ((1, -1), (2, 2)), mode, value))


@pytest.mark.parametrize("mode", MODES)
def test_adjoint(rng, mode):
    linear = lambda x: pad(x, ((2, 1), (-1, 3)), mode=mode)
    x = jnp.zeros((2, 4, 5, 3))
    check_adjoint(rng, linear, lambda dy: jax.vjp(linear, x)[1](dy)[0], x.shape)


WORKED = [
    ("constant", (2, 1), [9, 9, 1, 2, 3, 4, 9], [4, 8, 16, 32]),
    ("reflect", (2, 1), [3, 2, 1, 2, 3, 4, 3], [4, 10, 81, 32]),
    ("symmetric", (2, 1), [2, 1, 1, 2, 3, 4, 4], [6, 9, 16, 96]),
    ("edge", (2, 1), [1, 1, 1, 2, 3, 4, 4], [7, 8, 16, 96]),
    ("circular", (2, 1), [3, 4, 1, 2, 3, 4, 1], [68, 8, 17, 34]),
    ("constant", (-1, 2), [2, 3, 4, 9, 9], [0, 1, 2, 4]),
    ("reflect", (-1, 2), [2, 3, 4, 3, 2], [0, 17, 10, 4]),
    ("symmetric", (-1, 2), [2, 3, 4, 4, 3], [0, 1, 18, 12]),
    ("edge", (-1, 2), [2, 3, 4, 4, 4], [0, 1, 2, 28]),
    ("circular", (-1, 2), [2, 3, 4, 1, 2], [8, 17, 2, 4]),
    ("edge", (-5, 3), [4, 4], [0, 0, 0, 3]),
    ("constant", (-5, 3), [9, 9], [0, 0, 0, 0]),
]


@pytest.mark.versions
@pytest.mark.parametrize("mode, pair, expected, dx", WORKED)
def test_worked_by_hand(mode, pair, expected, dx):
    """Pixels 1, 2, 3, 4; the cotangent of output i is 2^i, so that sums show their terms."""
    options = dict(mode=mode, value=9 if mode == "constant" else 0)
    x = jnp.array([1.0, 2.0, 3.0, 4.0])[:, None]
    y, pullback = jax.vjp(lambda x: pad(x, [pair], **options), x)
    assert y[:, 0].tolist() == expected
    dy = jnp.array([2.0**i for i in range(len(expected))])[:, None]
    assert pullback(dy)[0][:, 0].tolist() == dx


@pytest.mark.parametrize("padding", [2, (2, 2), ((2, 2), (2, 2)), np.array([[2, 2], [2, 2]])])
def test_forms_of_padding(rng, padding):
    x = normal(rng, 2, 4, 3, 2)
    assert_close(pad(x, padding, mode="reflect"), extended(x, ((2, 2), (2, 2)), "reflect"))


@pytest.mark.parametrize("value", [-np.inf, np.inf, np.nan, -0.0, 3, np.float32(0.5), np.int64(2)])
def test_values_of_the_constant(value):
    y = pad(jnp.ones((2, 1)), [(1, 0)], value=value)
    np.testing.assert_array_equal(y[0, 0], np.float64(value))
    assert np.signbit(y[0, 0]) == np.signbit(value)


@pytest.mark.parametrize("mode", ["reflect", "symmetric", "edge", "circular"])
def test_what_is_not_finite_reaches_only_its_copies(mode):
    x = jnp.array([1.0, np.nan, np.inf, 4.0])[:, None]
    f = lambda x: pad(x, [(2, 3)], mode=mode)
    assert_close(f(x), extended(x, [(2, 3)], mode))
    dy = jnp.arange(9.0)[:, None].at[4].set(np.inf)  # under the third pixel
    dx = jax.vjp(f, x)[1](dy)[0][:, 0]
    assert np.isfinite(dx).tolist() == [True, True, False, True]


@pytest.mark.versions
@pytest.mark.parametrize("mode", ["constant", "circular"])
def test_sharded_over_the_batch(rng, mode):
    """On a mesh of Explicit axes and inside shard_map, the numbers are those of one device."""
    x = normal(rng, 4, 5, 4, 2)
    f = lambda x: jnp.sin(pad(x, ((1, 2), (-1, 3)), mode=mode))
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
