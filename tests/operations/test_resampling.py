"""downsample, upsample, repeat, pixel_shuffle and pixel_unshuffle."""

import itertools
import math

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

from cnnvjp import equations
from cnnvjp.convolution import conv
from cnnvjp.resampling import downsample, pixel_shuffle, pixel_unshuffle, repeat, upsample


def every(x, factor, offset):
    """x[offset::factor] along each axis."""
    index = [slice(o, None, f) for f, o in zip(factor, offset, strict=True)]
    return x[(..., *index, slice(None))]


def scattered(x, factor, offset, size):
    """The pixels written into zeros."""
    y = jnp.zeros((*x.shape[: -1 - len(size)], *size, x.shape[-1]), x.dtype)
    index = [
        slice(o, o + (n - 1) * f + 1, f)
        for n, f, o in zip(x.shape[-1 - len(size) : -1], factor, offset, strict=True)
    ]
    return y.at[(..., *index, slice(None))].set(x)


def repeated(x, factor):
    for axis, f in enumerate(factor, x.ndim - 1 - len(factor)):
        x = jnp.repeat(x, f, axis=axis)
    return x


def shuffled(x, factor):
    """Each place of the blocks is filled with every r₁⋯r_D-th channel."""
    block = math.prod(factor)
    size = [n * f for n, f in zip(x.shape[-1 - len(factor) : -1], factor, strict=True)]
    y = jnp.zeros((*x.shape[: -1 - len(factor)], *size, x.shape[-1] // block), x.dtype)
    for channel, place in enumerate(np.ndindex(*factor)):
        index = [slice(j, None, f) for j, f in zip(place, factor, strict=True)]
        y = y.at[(..., *index, slice(None))].set(x[..., channel::block])
    return y


def unshuffled(x, factor):
    """The pixels at one place of the blocks are one channel of each r₁⋯r_D."""
    places = [every(x, factor, place) for place in np.ndindex(*factor)]
    y = jnp.stack(places, axis=-1)
    return y.reshape(*y.shape[:-2], math.prod(y.shape[-2:]))


# batch, size, factor, offset, the size after upsampling
CASES = [
    ((2,), (5,), (1,), (0,), (5,)),
    ((2,), (5,), (2,), (0,), (9,)),
    ((2,), (6,), (3,), (2,), (20,)),  # the largest
    ((1,), (3,), (7,), (1,), (16,)),  # a factor beyond the size
    ((2,), (4, 5), (2, 3), (0, 0), (7, 13)),
    ((), (6, 4), (3, 2), (1, 3), (18, 10)),  # an offset beyond the factor
    ((2, 3), (1, 4), (2, 1), (0, 1), (1, 5)),
    ((0,), (4, 5), (2, 2), (1, 0), (8, 10)),
    ((2,), (3, 2, 4), (2, 1, 3), (1, 0, 0), (6, 2, 11)),
]
IDS = [f"{i}-{'x'.join(map(str, c[1]))}-by-{'x'.join(map(str, c[2]))}" for i, c in enumerate(CASES)]
VERSIONS = [5, 8]


def some(indices):
    marks = lambda i: [pytest.mark.versions] if i in VERSIONS else []
    return [pytest.param(CASES[i], id=IDS[i], marks=marks(i)) for i in indices]


def pairs(case, channels=2):
    """Each operation with the case's options: ours, the reference, the shape of x."""
    batch, size, factor, offset, large = case
    fine = tuple(n * f for n, f in zip(size, factor, strict=True))
    block = math.prod(factor)
    return {
        "downsample": (
            lambda x: downsample(x, factor, offset=offset),
            lambda x: every(x, factor, offset),
            (*batch, *size, channels),
        ),
        "upsample": (
            lambda x: upsample(x, factor, offset=offset, output_size=large),
            lambda x: scattered(x, factor, offset, large),
            (*batch, *size, channels),
        ),
        "repeat": (
            lambda x: repeat(x, factor),
            lambda x: repeated(x, factor),
            (*batch, *size, channels),
        ),
        "pixel_shuffle": (
            lambda x: pixel_shuffle(x, factor),
            lambda x: shuffled(x, factor),
            (*batch, *size, channels * block),
        ),
        "pixel_unshuffle": (
            lambda x: pixel_unshuffle(x, factor),
            lambda x: unshuffled(x, factor),
            (*batch, *fine, channels),
        ),
    }


NAMES = list(pairs(CASES[0]))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", some(range(len(CASES))))
def test_values_and_gradients(rng, case, name):
    ours, reference, shape = pairs(case)[name]
    check_first_order(ours, reference, normal(rng, *shape))


@pytest.mark.parametrize("name", NAMES)
def test_second_order(rng, name):
    ours, reference, shape = pairs(((), (3,), (2,), (1,), (7,)), channels=1)[name]
    check_second_order(ours, reference, normal(rng, *shape))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("name", NAMES)
def test_low_precision(rng, name, dtype):
    ours, _, shape = pairs(CASES[4])[name]
    check_low_precision(ours, normal(rng, *shape), dtype=dtype)


def test_long_sums_are_held_in_float32():
    """In bfloat16 a sum of ones stops at 256."""
    f = lambda x: jnp.sum(repeat(x, 32).astype("float32"))
    assert jax.grad(f)(jnp.zeros((1, 1, 1), "bfloat16"))[0, 0, 0] == 1024


@pytest.mark.parametrize("dtype", ["uint8", "int32"])
@pytest.mark.parametrize("name", [n for n in NAMES if n != "pixel_unshuffle"])
def test_integers(rng, name, dtype):
    ours, reference, shape = pairs(CASES[4])[name]
    x = integers(rng, *shape, dtype=dtype, low=0, high=200)
    assert ours(x).dtype == x.dtype
    assert_close(ours(x), reference(x))
    assert_close(pixel_unshuffle(pixel_shuffle(x, 1), 1), x)


@pytest.mark.parametrize("case", some([2, 4, 5, 8]))
def test_each_is_an_adjoint(rng, case):
    """⟨A x, y⟩ = ⟨x, Aᵀ y⟩, where Aᵀ is a public function too."""
    batch, size, factor, offset, large = case
    down = lambda x: downsample(x, factor, offset=offset)
    up = lambda y: upsample(y, factor, offset=offset, output_size=large)
    check_adjoint(rng, up, down, (*batch, *size, 2))
    check_adjoint(rng, down, up, (*batch, *large, 2))
    ours, _, shape = pairs(case)["pixel_shuffle"]
    check_adjoint(rng, ours, lambda y: pixel_unshuffle(y, factor), shape)
    ours, _, shape = pairs(case)["repeat"]
    check_adjoint(rng, ours, lambda y: jax.vjp(ours, jnp.zeros(shape))[1](y)[0], shape)


def test_shuffling_back(rng):
    x = normal(rng, 2, 3, 4, 12)
    assert_close(pixel_unshuffle(pixel_shuffle(x, (2, 3)), (2, 3)), x)


@pytest.mark.versions
def test_worked_by_hand():
    x = jnp.arange(1, 10).reshape(3, 3, 1)
    few = jnp.array([[1, 2], [3, 4]])[..., None]
    assert downsample(x, 2)[..., 0].tolist() == [[1, 3], [7, 9]]
    assert upsample(few, 2)[..., 0].tolist() == [[1, 0, 2], [0, 0, 0], [3, 0, 4]]
    assert (
        repeat(few, (2, 3))[..., 0].tolist() == [[1, 1, 1, 2, 2, 2]] * 2 + [[3, 3, 3, 4, 4, 4]] * 2
    )
    channels = jnp.arange(12).reshape(1, 1, 12)  # PyTorch's order: c·6 + i·3 + j
    assert pixel_shuffle(channels, (2, 3)).tolist() == [
        [[0, 6], [1, 7], [2, 8]],
        [[3, 9], [4, 10], [5, 11]],
    ]


@pytest.mark.parametrize("size, factor", [((3, 3), 2), ((5, 4), 2), ((7, 5), 3), ((4, 4), 1)])
def test_equations(rng, size, factor):
    x = normal(rng, *size)
    y, pullback = jax.vjp(lambda x: downsample(x[..., None], factor)[..., 0], x)
    assert_close(y, equations.b_downsampling(x, factor))
    dy = normal(rng, *y.shape)
    assert_close(pullback(dy)[0], equations.b_downsampling_backward(dy, factor, size))
    y, pullback = jax.vjp(lambda x: upsample(x[..., None], factor)[..., 0], x)
    assert_close(y, equations.b_upsampling(x, factor))
    dy = normal(rng, *y.shape)
    assert_close(pullback(dy)[0], equations.b_upsampling_backward(dy, factor))


def test_a_block_is_what_the_average_pools_gradient_expands_to(rng):
    dLZ = normal(rng, 3, 2, 4)
    ours = jnp.moveaxis(repeat(jnp.moveaxis(dLZ, 0, -1), (2, 3)), -1, 0)
    assert_close(ours, equations.h_p8_3(dLZ, np.ones(3), 2, 3))


def test_a_stride_is_a_convolution_without_one_then_downsampling(rng):
    x, w = integers(rng, 2, 7, 8, 2, dtype="float64"), integers(rng, 3, 2, 2, 3, dtype="float64")
    assert_close(downsample(conv(x, w, padding=1), (2, 3)), conv(x, w, padding=1, stride=(2, 3)))


@pytest.mark.parametrize("factor, offset, n", [*itertools.product((1, 2, 3), (0, 2), (1, 4))])
def test_upsampling_to_every_size_that_downsampling_maps_back(factor, offset, n):
    x = jnp.ones((n, 1))
    down = lambda y: downsample(y, (factor,), offset=offset)
    for size in range(1, 20):
        if size > offset and jax.eval_shape(down, jnp.ones((size, 1))).shape == x.shape:
            y = upsample(x, (factor,), output_size=size, offset=offset)
            assert y.shape == (size, 1)
            assert_close(down(y), x)
        else:
            with pytest.raises(
                ValueError, match=rf"^output_size: got \({size},\); downsampling by"
            ):
                upsample(x, (factor,), output_size=size, offset=offset)


@pytest.mark.versions
@pytest.mark.parametrize("name", NAMES)
def test_sharded_over_the_batch(rng, name):
    """On a mesh of Explicit axes and inside shard_map, the numbers are those of one device."""
    ours, _, shape = pairs(((4,), (4, 3), (2, 3), (1, 0), (9, 9)))[name]
    x = normal(rng, *shape)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(jnp.sin(ours(x)))))
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
