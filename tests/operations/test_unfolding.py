"""unfold and fold."""

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

from cnnvjp.convolution import conv
from cnnvjp.unfolding import fold, unfold


def stacked(x, window, stride, pairs, dilation):
    """One shifted, strided slice of the padded image for each tap, side by side."""
    ndim = len(window)
    batch = x.ndim - 1 - ndim
    x = jnp.pad(x, [(0, 0)] * batch + [(max(p, 0), max(q, 0)) for p, q in pairs] + [(0, 0)])
    crop = tuple(
        slice(max(-p, 0), n - max(-q, 0))
        for n, (p, q) in zip(x.shape[batch:-1], pairs, strict=True)
    )
    x = x[(..., *crop, slice(None))]
    taps = []
    for m in np.ndindex(*window):
        index = [
            slice(d * j, n - d * (k - 1 - j), s)
            for n, k, s, d, j in zip(x.shape[batch:-1], window, stride, dilation, m, strict=True)
        ]
        taps.append(x[(..., *index, slice(None))])
    y = jnp.stack(taps, axis=-2)
    return y.reshape(*y.shape[:-2], *window, y.shape[-1])


# batch, size, window, stride, pairs, dilation
CASES = [
    ((2,), (7,), (3,), (1,), ((0, 0),), (1,)),
    ((2,), (8,), (3,), (3,), ((0, 0),), (1,)),  # a remainder, neighbours side by side
    ((1,), (9,), (2,), (4,), ((1, 0),), (1,)),  # pixels that no window sees
    ((), (8,), (4,), (2,), ((2, 3),), (2,)),
    ((2,), (30,), (20,), (1,), ((3, 3),), (1,)),  # more terms than are written out
    ((2,), (5, 6), (2, 3), (1, 1), ((0, 0), (0, 0)), (1, 1)),
    ((2,), (5, 6), (1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1)),
    ((0,), (5, 6), (2, 2), (1, 1), ((0, 0), (0, 0)), (1, 1)),
    ((2, 2), (6, 7), (3, 2), (2, 3), ((1, 2), (0, 1)), (1, 1)),
    ((1,), (7, 6), (3, 3), (3, 2), ((-1, 2), (2, -1)), (1, 1)),  # cropping
    ((2,), (2, 3), (2, 2), (1, 2), ((4, 4), (5, 5)), (5, 6)),  # dilation beyond the input
    ((), (4, 3, 5), (2, 2, 3), (1, 1, 2), ((0, 1), (0, 0), (1, 1)), (2, 1, 1)),
]
IDS = [f"{i}-{'x'.join(map(str, c[1]))}-{'x'.join(map(str, c[2]))}" for i, c in enumerate(CASES)]
VERSIONS = [4, 8]


def some(indices):
    marks = lambda i: [pytest.mark.versions] if i in VERSIONS else []
    return [pytest.param(CASES[i], id=IDS[i], marks=marks(i)) for i in indices]


def bound(case):
    """unfold and fold with the case's options, and the reference of unfold."""
    _, size, window, stride, pairs, dilation = case
    options = dict(stride=stride, padding=pairs, dilation=dilation)
    return (
        lambda x: unfold(x, window, **options),
        lambda patches: fold(patches, size, **options),
        lambda x: stacked(x, window, stride, pairs, dilation),
    )


@pytest.mark.parametrize("case", some(range(len(CASES))))
def test_unfold_and_its_gradient(rng, case):
    ours, _, reference = bound(case)
    check_first_order(ours, reference, normal(rng, *case[0], *case[1], 2))


@pytest.mark.parametrize("case", some(range(len(CASES))))
def test_fold_and_its_gradient(rng, case):
    unfolded, folded, reference = bound(case)
    x = jnp.zeros((*case[0], *case[1], 2))
    patches = normal(rng, *jax.eval_shape(unfolded, x).shape)
    check_first_order(folded, lambda patches: jax.vjp(reference, x)[1](patches)[0], patches)


@pytest.mark.parametrize("case", some(range(len(CASES))))
def test_adjoint(rng, case):
    unfolded, folded, _ = bound(case)
    check_adjoint(rng, unfolded, folded, (*case[0], *case[1], 2))


def test_second_order(rng):
    case = CASES[3]
    unfolded, _, reference = bound(case)
    check_second_order(unfolded, reference, normal(rng, *case[1], 1))


@pytest.mark.parametrize("case", some([4, 9]))
def test_hessian(rng, case):
    unfolded, folded, reference = bound(case)
    x = normal(rng, *case[1], 1)
    check_second_order(unfolded, reference, x)
    check_second_order(
        folded, lambda p: jax.vjp(reference, x)[1](p)[0], normal(rng, *unfolded(x).shape)
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("case", some([4, 5]))
def test_low_precision(rng, case, dtype):
    unfolded, folded, _ = bound(case)
    x = normal(rng, *case[0], *case[1], 2)
    check_low_precision(unfolded, x, dtype=dtype)
    check_low_precision(folded, normal(rng, *unfolded(x).shape), dtype=dtype)


def test_long_sums_are_held_in_float32():
    """In bfloat16 a sum of ones stops at 256."""
    patches = jnp.ones((600, 600, 1), "bfloat16")
    assert fold(patches, (1199,))[599, 0] == 600


@pytest.mark.parametrize("dtype", ["int8", "int32"])
def test_integers(rng, dtype):
    unfolded, folded, reference = bound(CASES[8])
    x = integers(rng, 2, 6, 7, 2, dtype=dtype)
    patches = unfolded(x)
    assert patches.dtype == folded(patches).dtype == x.dtype
    assert_close(patches, reference(x))
    visits = folded(jnp.ones_like(patches))
    assert_close(folded(patches), x * visits)


@pytest.mark.parametrize("padding", ["VALID", "SAME", "SAME_LOWER", "FULL", 1, (0, 2)])
@pytest.mark.parametrize("stride", [1, (2, 3)])
def test_convolution_is_a_product_with_the_patches(rng, padding, stride):
    x, w = integers(rng, 2, 6, 7, 3, dtype="float64"), integers(rng, 2, 3, 3, 4, dtype="float64")
    options = dict(stride=stride, padding=padding, dilation=(2, 1))
    patches = unfold(x, (2, 3), **options)
    assert_close(jnp.tensordot(patches, w, 3), conv(x, w, **options))
    sizes = fold(patches, (6, 7), **options).shape
    assert sizes == x.shape


@pytest.mark.versions
def test_worked_by_hand():
    x = jnp.arange(1, 10).reshape(3, 3, 1)
    patches = unfold(x, 2)
    assert patches[..., 0].reshape(4, 4).tolist() == [
        [1, 2, 4, 5],
        [2, 3, 5, 6],
        [4, 5, 7, 8],
        [5, 6, 8, 9],
    ]
    assert fold(patches, 3)[..., 0].tolist() == [[1, 4, 3], [8, 20, 12], [7, 16, 9]]


def test_fold_is_told_the_size_where_several_lead_to_the_same_patches(rng):
    x = normal(rng, 6, 2)
    patches = unfold(x[:5], (2,), stride=3)
    assert_close(patches, unfold(x, (2,), stride=3))
    assert_close(fold(patches, 5, stride=(3,))[:, 0], x[:5, 0] * jnp.array([1.0, 1, 0, 1, 1]))
    assert_close(fold(patches, 6, stride=(3,))[:, 0], x[:, 0] * jnp.array([1.0, 1, 0, 1, 1, 0]))


def test_what_is_not_finite_reaches_only_the_windows_that_see_it():
    x = jnp.ones((6, 1)).at[1].set(np.nan)
    y, pullback = jax.vjp(lambda x: unfold(x, (3,), padding=1), x)
    assert np.argwhere(np.isnan(y[..., 0])).tolist() == [[0, 2], [1, 1], [2, 0]]
    dy = jnp.ones_like(y).at[2, 0].set(np.inf)
    assert np.isfinite(pullback(dy)[0][:, 0]).tolist() == [True, False, True, True, True, True]


@pytest.mark.versions
def test_sharded_over_the_batch(rng):
    """On a mesh of Explicit axes and inside shard_map, the numbers are those of one device."""
    x = normal(rng, 4, 5, 20, 2)
    f = lambda x: fold(jnp.sin(unfold(x, (2, 18))), (5, 20))
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(f(x) ** 2)))
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
