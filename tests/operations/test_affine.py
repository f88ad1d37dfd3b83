"""add_bias, scale, dense, flatten and unflatten."""

import functools

import jax
import jax.experimental
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

from cnnvjp import conv, conv_kernel_grad, conv_transpose, equations, prelu, relu
from cnnvjp.affine import add_bias, dense, flatten, scale, unflatten


def aligned(b, z):
    return b.reshape((1,) * (z.ndim - b.ndim) + b.shape)


BIAS_SHAPES = [
    ((3, 4, 5, 2), (2,)),
    ((3, 4, 5, 2), (4, 5, 2)),
    ((4, 2), (2,)),
    ((2,), (2,)),
    ((2, 3, 4, 2), (3, 4, 2)),
    ((0, 4, 2), (2,)),
]


@pytest.mark.parametrize("z_shape, b_shape", BIAS_SHAPES)
def test_add_bias(rng, z_shape, b_shape):
    z, b = normal(rng, *z_shape), normal(rng, *b_shape)
    check_first_order(add_bias, lambda z, b: z + aligned(b, z), z, b)


@pytest.mark.parametrize("z_shape, b_shape", [*BIAS_SHAPES, ((3, 4, 2), ())])
def test_scale(rng, z_shape, b_shape):
    z, b = normal(rng, *z_shape), normal(rng, *b_shape)
    check_first_order(scale, lambda z, b: z * aligned(b, z), z, b)


@pytest.mark.versions
@pytest.mark.parametrize(
    "x_shape, with_bias",
    [((3,), True), ((5, 3), True), ((5, 3), False), ((2, 5, 3), True), ((0, 3), True)],
)
def test_dense(rng, x_shape, with_bias):
    args = (normal(rng, *x_shape), normal(rng, 3, 4), *([normal(rng, 4)] if with_bias else []))

    def reference(x, w, b=None):
        y = jnp.einsum("...i,io->...o", x, w)
        return y if b is None else y + aligned(b, y)

    check_first_order(dense, reference, *args)


@pytest.mark.parametrize("order", ["row", "column"])
@pytest.mark.parametrize(
    "shape, ndim", [((2, 3, 4, 2), 2), ((3, 4), 1), ((2, 2, 3, 4, 2), 3), ((0, 3, 2, 2), 2)]
)
def test_flatten_and_unflatten(rng, order, shape, ndim):
    x = normal(rng, *shape)
    maps = shape[-1 - ndim :]

    def reference(x):
        batch = x.shape[: -1 - ndim]
        if order == "column":
            axes = [*range(len(batch)), *reversed(range(len(batch), x.ndim))]
            x = jnp.transpose(x, axes)
        return jnp.reshape(x, (*batch, int(np.prod(maps))))

    forward = lambda x: flatten(x, order=order, spatial_ndim=ndim)
    check_first_order(forward, reference, x)
    back = lambda v: unflatten(v, maps, order=order)
    assert_close(back(forward(x)), x)
    v = normal(rng, *forward(x).shape)
    check_first_order(back, lambda v: jax.vjp(reference, x)[1](v)[0], v)
    check_adjoint(rng, forward, back, shape)


def test_numbers_that_jax_made_arrays_of(rng):
    """As `jax.grad(f)(2)` and `jax.jit` do: they take the dtype of the arrays beside them."""
    z = normal(rng, 3, dtype="float32")
    for number in (2, 2.0):
        y = jax.jit(scale)(z, number)
        assert y.dtype == z.dtype
        assert_close(y, 2 * z)
    with pytest.raises(TypeError, match="^x: got an array of int"):
        jax.jit(relu)(2)


def test_second_order(rng):
    z, b = normal(rng, 2, 3, 4), normal(rng, 3, 4)
    check_second_order(add_bias, lambda z, b: z + aligned(b, z), z, b)
    check_second_order(scale, lambda z, b: z * aligned(b, z), z, b)
    x, w = normal(rng, 3, 2), normal(rng, 2, 4)
    check_second_order(dense, lambda x, w: x @ w, x, w)
    m = normal(rng, 2, 3, 2)
    order = dict(order="column")
    check_second_order(
        lambda m: flatten(m, **order), lambda m: jnp.transpose(m, (2, 1, 0)).reshape(12), m
    )
    check_second_order(
        lambda v: unflatten(v, (2, 3, 2), **order),
        lambda v: jnp.transpose(v.reshape(2, 3, 2), (2, 1, 0)),
        m.reshape(12),
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_low_precision(rng, dtype):
    """Sums of a thousand terms, in x and in the batch."""
    z = normal(rng, 4, 16, 16, 3)
    check_low_precision(add_bias, z, normal(rng, 3), dtype=dtype, terms=1024)
    check_low_precision(scale, z, normal(rng, 3), dtype=dtype, terms=1024)
    check_low_precision(scale, z, normal(rng), dtype=dtype, terms=3072)
    x, w = normal(rng, 1000, 1000), normal(rng, 1000, 8)
    check_low_precision(dense, x, w, normal(rng, 8), dtype=dtype, terms=1000)
    check_low_precision(flatten, z, dtype=dtype)


@pytest.mark.versions
def test_dense_sees_weights_that_were_updated_in_place(rng):
    """XLA:CPU packs a large float32 matrix once and, up to JAX 0.8.1, did not look again."""
    x, w = normal(rng, 360, 400, dtype="float32"), normal(rng, 400, 120, dtype="float32")
    doubled = jax.jit(lambda w: 2 * w, donate_argnums=0)
    forward, backward = jax.jit(dense), jax.jit(lambda w, dx: jax.vjp(dense, dx, w.T)[1](x)[0])
    first = forward(x, w), backward(w, x @ w)
    place = w.unsafe_buffer_pointer()
    w = doubled(w)
    assert w.unsafe_buffer_pointer() == place
    assert_close(forward(x, w), 2 * first[0])
    assert_close(backward(w, x @ w), 2 * first[1])


def test_a_python_number_is_a_scalar_of_the_same_dtype(rng):
    z = normal(rng, 2, 3, dtype="float32")
    assert scale(z, 2).dtype == scale(z, 0.5).dtype == jnp.float32
    assert_close(scale(z, 2), z + z)


def test_equations(rng):
    """[H] 8.33–8.36, a tied bias; 8.26, columns map by map."""
    z, b, dn = rng.normal(size=(3, 4)), 0.7, rng.normal(size=(3, 4))
    y, (dz, db) = value_and_cotangents(
        add_bias, (jnp.asarray(z)[..., None], jnp.asarray([b])), jnp.asarray(dn)[..., None]
    )
    assert_close(y[..., 0], equations.h_8_33(z, b))
    assert_close(dz[..., 0], equations.h_8_34(dn))
    assert_close(db[0], equations.h_8_36(dn))
    maps = rng.normal(size=(2, 3, 4))  # (map, row, column)
    assert_close(
        flatten(jnp.asarray(maps).transpose(1, 2, 0), order="column"), equations.h_8_26(maps)
    )


@pytest.mark.parametrize("dtype", ["int32", "uint8"])
def test_moving_data_takes_integers(rng, dtype):
    x = integers(rng, 2, 3, 4, 2, dtype=dtype, low=0)
    v = flatten(x, order="column")
    assert v.dtype == dtype
    np.testing.assert_array_equal(unflatten(v, (3, 4, 2), order="column"), x)


@pytest.mark.versions
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_sharded_batch(rng, kind):
    x, w, b, s = normal(rng, 4, 2, 2, 3), normal(rng, 12, 5), normal(rng, 5), normal(rng, 3)
    loss = lambda w, b, s, x: jnp.sum(jnp.sin(dense(flatten(scale(x, s), order="column"), w, b)))
    expected = jax.grad(loss, (0, 1, 2, 3))(w, b, s, x)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(kind,), devices=jax.devices()[:2])
    with jax.set_mesh(mesh):
        put = lambda a, *spec: jax.device_put(a, NamedSharding(mesh, P(*spec)))
        actual = jax.jit(jax.grad(loss, (0, 1, 2, 3)))(put(w), put(b), put(s), put(x, "data"))
    for got, want in zip(actual, expected, strict=True):
        assert_close(got, want)


def test_shard_map_with_replicated_weights(rng):
    x, w, b = normal(rng, 4, 3), normal(rng, 3, 5), normal(rng, 5)
    loss = lambda w, b, x: jnp.sum(jnp.sin(dense(x, w, b)))
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    specs = dict(mesh=mesh, in_specs=(P(), P(), P("data")))
    total = jax.shard_map(lambda *a: lax.psum(loss(*a), "data"), out_specs=P(), **specs)
    inside = jax.shard_map(jax.grad(loss, (0, 1)), out_specs=(P(), P()), **specs)
    expected = jax.grad(loss, (0, 1))(w, b, x)
    for gradient in (jax.grad(total, (0, 1)), inside):
        for got, want in zip(jax.jit(gradient)(w, b, x), expected, strict=True):
            assert_close(got, want)


@pytest.mark.parametrize(
    "first, second, remedy",
    [
        ("float32", "float64", r"cast one of them, as in x\.astype\(w\.dtype\)"),
        ("float64", "float32", r"as in w\.astype\(x\.dtype\)"),
        ("float16", "bfloat16", r"as in w\.astype\(x\.dtype\)"),
        ("int64", "float32", r"as in x\.astype\(w\.dtype\)"),
        ("float16", "int32", r"as in w\.astype\(x\.dtype\)"),
    ],
)
def test_arrays_that_differ_are_to_be_cast_to_the_wider(first, second, remedy):
    with pytest.raises(TypeError, match=remedy):
        conv(jnp.zeros((1, 3, 1), first), jnp.zeros((2, 1, 1), second))


def contraction_precisions(f, *args):
    """The precision of every convolution and product in a function's jaxpr."""
    found = []

    def look(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name in ("conv_general_dilated", "dot_general"):
                found.append(equation.params["precision"])
            for parameter in equation.params.values():
                for inner in jax.tree.leaves(parameter, is_leaf=lambda p: hasattr(p, "eqns")):
                    inner = getattr(inner, "jaxpr", inner)
                    if hasattr(inner, "eqns"):
                        look(inner)

    look(jax.make_jaxpr(f)(*args).jaxpr)
    return found


@pytest.mark.parametrize(
    "f, x, w",
    [
        (dense, (3, 4), (4, 2)),
        (conv, (2, 5, 5, 3), (2, 2, 3, 4)),
        (conv, (2, 5, 5, 3), (1, 1, 3, 4)),
        (functools.partial(conv, groups=2), (2, 5, 5, 4), (2, 2, 2, 6)),
        (conv_transpose, (2, 5, 5, 4), (2, 2, 3, 4)),
        (functools.partial(conv_kernel_grad, kernel_size=2), (2, 5, 5, 3), (2, 4, 4, 6)),
    ],
)
def test_precision_reaches_every_pass(rng, f, x, w):
    """Forward, backward, and both of the derivatives of the backward pass."""

    def summed(f):
        return lambda x, w: sum(jnp.sum(jnp.sin(a)) for a in jax.tree.leaves(f(x, w)))

    slopes = jax.grad(summed(lambda x, w: f(x, w, precision="highest")), (0, 1))
    x, w = normal(rng, *x), normal(rng, *w)
    first = contraction_precisions(slopes, x, w)
    second = contraction_precisions(jax.grad(summed(slopes), (0, 1)), x, w)
    assert len(first) >= 3 and len(second) >= 9
    found = first + second
    highest = (lax.Precision.HIGHEST, (lax.Precision.HIGHEST,) * 2)
    assert all(precision in highest for precision in found)


def test_products_of_gradients_are_summed_in_float32():
    """65536 products that float16 alone would round to 0."""
    z, b = jnp.full((65536, 1), 1e-4, "float16"), jnp.ones(1, "float16")
    expected = 65536 * float(z[0, 0]) ** 2
    _, pullback = jax.vjp(scale, z, b)
    assert_close(pullback(z)[1], np.array([expected]), tolerance=1e-3)
    _, pullback = jax.vjp(prelu, -z, b)
    assert_close(pullback(z)[1], np.array([-expected]), tolerance=1e-3)


def test_numpy_float64_without_x64_is_float32():
    newer = hasattr(jax, "enable_x64")
    with jax.enable_x64(False) if newer else jax.experimental.disable_x64():
        x, w, b = np.ones((1, 3, 3, 1)), np.ones((2, 2, 1, 1)), np.ones(1)
        assert conv(x, w, b).dtype == jnp.float32
        assert conv(x, jnp.ones((2, 2, 1, 1))).dtype == jnp.float32
        assert dense(np.ones((2, 3)), jnp.ones((3, 1))).dtype == jnp.float32
