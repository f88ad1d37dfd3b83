"""What normalizes: inputs, batches, groups of channels, maps, neighbouring channels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checker import (
    assert_close,
    check_first_order,
    check_low_precision,
    check_second_order,
    compiled,
    normal,
    value_and_cotangents,
)
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from cnnvjp.batch_normalization import batch_norm, batch_norm_inference
from cnnvjp.local_response import local_response_norm
from cnnvjp.normalization import group_norm, instance_norm, layer_norm, standardize

LOW = pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])


def positive(rng, *shape):
    return jnp.abs(normal(rng, *shape)) + 0.5


def spread(b, x):
    """A channel's numbers (or a scalar) at each position, by NumPy's own broadcasting."""
    return jnp.broadcast_to(b.reshape((1,) * (x.ndim - b.ndim) + b.shape), x.shape)


# ------------------------------------------------------------------------------------------
# standardize
# ------------------------------------------------------------------------------------------


def standardize_reference(x, mean, std):
    return (x - spread(mean, x)) / spread(std, x)


@pytest.mark.versions
@pytest.mark.parametrize(
    "shape, mean_shape, std_shape",
    [
        ((5,), (), ()),
        ((2, 3, 4), (4,), (4,)),
        ((2, 5, 3, 4), (5, 3, 4), ()),
        ((2, 2, 3, 4), (4,), (3, 4)),
        ((2, 3), (2, 3), (3,)),
        ((0, 3), (3,), (3,)),
        ((), (), ()),
    ],
)
def test_standardize(rng, shape, mean_shape, std_shape):
    args = normal(rng, *shape), normal(rng, *mean_shape), positive(rng, *std_shape)
    check_first_order(standardize, standardize_reference, *args)


def test_standardize_second_order(rng):
    args = normal(rng, 3, 2), normal(rng, 2), positive(rng, 2)
    check_second_order(standardize, standardize_reference, *args)


@LOW
def test_standardize_low_precision(rng, dtype):
    args = normal(rng, 20, 3), normal(rng, 3), positive(rng, 3)
    check_low_precision(standardize, *args, dtype=dtype)


def test_standardize_takes_numbers():
    x = jnp.array([[1.0, 5.0]])
    np.testing.assert_array_equal(standardize(x, 3, 2.0), [[-1.0, 1.0]])


# ------------------------------------------------------------------------------------------
# batch_norm
# ------------------------------------------------------------------------------------------


def batch_norm_reference(x, gamma, beta, eps=1e-5):
    axes = tuple(range(x.ndim - 1))
    mean = jnp.mean(x, axes)
    var = jnp.mean(jnp.square(x), axes) - jnp.square(mean)
    xhat = (x - spread(mean, x)) / jnp.sqrt(spread(var, x) + eps)
    return spread(gamma, x) * xhat + spread(beta, x), mean, var


@pytest.mark.versions
@pytest.mark.parametrize(
    "shape, eps",
    [
        ((6, 3), 1e-5),
        ((1, 7, 2), 0.5),
        ((2, 5, 3, 4), 1e-5),
        ((3, 4, 1), 0),
        ((2, 2, 3, 4, 2), 0.1),
        ((3, 0), 1e-5),
    ],
)
def test_batch_norm(rng, shape, eps):
    args = normal(rng, *shape), normal(rng, shape[-1]), normal(rng, shape[-1])
    check_first_order(
        lambda *args: batch_norm(*args, eps=eps),
        lambda *args: batch_norm_reference(*args, eps=eps),
        *args,
    )


def test_batch_norm_second_order(rng):
    args = normal(rng, 3, 2, 2), normal(rng, 2), normal(rng, 2)
    check_second_order(
        functools.partial(batch_norm, eps=0.1),
        functools.partial(batch_norm_reference, eps=0.1),
        *args,
    )


@LOW
def test_batch_norm_low_precision(rng, dtype):
    args = 3 * normal(rng, 8, 5, 3) + 1, normal(rng, 3), normal(rng, 3)
    check_low_precision(batch_norm, *args, dtype=dtype)
    y, mean, var = batch_norm(*(a.astype(dtype) for a in args))
    assert (y.dtype, mean.dtype, var.dtype) == (dtype, "float32", "float32")


def test_batch_norm_by_hand():
    """Of 0, 0, 2, 2 mean and variance are 1; a gradient of 4 at the first spreads as below."""
    x = jnp.array([[0.0], [0.0], [2.0], [2.0]])
    dy = jnp.array([[4.0], [0.0], [0.0], [0.0]])
    none = jnp.zeros(1)
    f = functools.partial(batch_norm, eps=0)
    (y, mean, var), (dx, dgamma, dbeta) = value_and_cotangents(
        f, (x, jnp.ones(1), jnp.zeros(1)), (dy, none, none)
    )
    np.testing.assert_array_equal(y[:, 0], [-1, -1, 1, 1])
    assert mean == 1 and var == 1
    np.testing.assert_array_equal(dx[:, 0], [2, -2, 0, 0])
    assert dgamma == -4 and dbeta == 4
    # The mean's own gradient is shared equally, the variance's by the deviation.
    dvar = jnp.array([2.0])
    _, (dx, _, _) = value_and_cotangents(
        f, (x, jnp.ones(1), jnp.zeros(1)), (jnp.zeros_like(x), 4 * dvar, dvar)
    )
    np.testing.assert_array_equal(dx[:, 0], [2 - 1, 2 - 1, 2 + 1, 2 + 1])


def test_batch_norm_of_one_position_and_of_constants():
    y, mean, var = batch_norm(jnp.array([2.0, 3.0]), jnp.ones(2), jnp.array([5.0, 6.0]))
    np.testing.assert_array_equal(y, [5, 6])
    np.testing.assert_array_equal(mean, [2, 3])
    np.testing.assert_array_equal(var, [0, 0])
    dx = jax.grad(lambda x: batch_norm(x, jnp.ones(1), jnp.zeros(1))[0][0, 0])(jnp.ones((4, 1)))
    assert_close(dx[:, 0], jnp.array([0.75, -0.25, -0.25, -0.25]) / np.sqrt(1e-5))


def test_the_variance_takes_two_passes(rng):
    """The mean of squares less the square of the mean would have no digit left here."""
    x = normal(rng, 1000, 1, dtype="float32") + 10_000
    _, _, var = batch_norm(x, jnp.ones(1, "float32"), jnp.zeros(1, "float32"))
    assert_close(var, np.var(np.asarray(x, "float64"), 0), tolerance=1e-3)


# The same batch, on one device and in every way of spreading it over several. `TARGETS` make
# a loss in which the outputs y, mean and var are all curved.

DEVICES = 8


class Spread:
    """A batch, its parameters, and the loss that all ways must agree on."""

    def __init__(self, rng):
        self.args = normal(rng, 16, 3, 4), normal(rng, 4), normal(rng, 4)
        self.t, self.t_mean, self.t_var = normal(rng, 16, 3, 4), normal(rng, 4), normal(rng, 4)

    def of_y(self, y, t):
        return jnp.sum(t * jnp.sin(y))

    def of_moments(self, mean, var):
        return jnp.vdot(self.t_mean, jnp.sin(mean)) + jnp.vdot(self.t_var, jnp.cos(var))

    def loss(self, f):
        def total(x, gamma, beta):
            y, mean, var = f(x, gamma, beta)
            return self.of_y(y, self.t) + self.of_moments(mean, var)

        return total

    def gradients(self, f):
        return jax.grad(self.loss(f), (0, 1, 2))


def shard_map(f, in_specs, out_specs, check_vma, shape=(DEVICES,), names=("batch",)):
    mesh = jax.make_mesh(shape, names, axis_types=(AxisType.Auto,) * len(names))
    return jax.shard_map(f, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=check_vma)


def under_shard_map(check_vma):
    """`grad` outside: JAX knows how the statistics are shared."""
    specs = P("batch"), P(), P()
    return shard_map(functools.partial(batch_norm, axis_name="batch"), specs, specs, check_vma)


def over_two_mesh_axes(check_vma):
    specs = P("batch", "width"), P(), P()
    f = functools.partial(batch_norm, axis_name=("batch", "width"))
    return shard_map(f, specs, specs, check_vma, (2, 3), ("batch", "width"))


def under_vmap(out_axes):
    mapped = jax.vmap(
        functools.partial(batch_norm, axis_name="batch"),
        in_axes=(0, None, None),
        out_axes=(0, out_axes, out_axes),
        axis_name="batch",
    )

    def f(x, gamma, beta):
        y, mean, var = mapped(x.reshape(DEVICES, -1, *x.shape[1:]), gamma, beta)
        if out_axes is not None:  # one copy of each for every slice of the batch
            mean, var = mean[1], var[2]
        return y.reshape(x.shape), mean, var

    return f


SPREAD = {
    "shard_map": lambda: under_shard_map(True),
    "shard_map unchecked": lambda: under_shard_map(False),
    "two mesh axes": lambda: over_two_mesh_axes(True),
    "two mesh axes unchecked": lambda: over_two_mesh_axes(False),
    "vmap": lambda: under_vmap(None),
    "vmap with copies": lambda: under_vmap(0),
}


@pytest.mark.versions
@pytest.mark.parametrize("way", SPREAD)
def test_batch_norm_over_devices(rng, way):
    batch = Spread(rng)
    expected = batch.gradients(batch_norm_reference)(*batch.args)
    actual = jax.jit(batch.gradients(SPREAD[way]()))(*batch.args)
    for got, want in zip(actual, expected, strict=True):
        assert_close(got, want, tolerance=1e-11)


@pytest.mark.parametrize("way", ["shard_map", "shard_map unchecked", "vmap"])
def test_batch_norm_over_devices_to_second_order(rng, way):
    batch = Spread(rng)

    def curvature(f):
        return lambda args: jax.jvp(batch.gradients(f), args, args)[1]

    expected = jax.jit(curvature(batch_norm_reference))(batch.args)
    for got, want in zip(jax.jit(curvature(SPREAD[way]()))(batch.args), expected, strict=True):
        assert_close(got, want, tolerance=1e-11)


def test_batch_norm_where_the_variance_overflows_on_one_device(rng):
    """The others' shares are counted in its units."""
    sizes = jnp.array([1e20, 6e18, 2e18, 1.0, 1.0, 1e-20, 0.0, 5e18]).reshape(DEVICES, 1, 1)
    x = normal(rng, DEVICES, 5, 3)
    x = ((x - x.mean(1, keepdims=True)) * sizes).reshape(-1, 3)
    args, dy = (x, normal(rng, 3), normal(rng, 3)), normal(rng, *x.shape)
    run = compiled(lambda *args: under_shard_map(True)(*args)[0])
    y, gradients = run(tuple(a.astype("float32") for a in args), dy.astype("float32"))
    want_y, want = compiled(lambda *args: batch_norm(*args)[0])(args, dy)
    for got, expected in zip((y, *gradients), (want_y, *want), strict=True):
        assert_close(got, expected.astype("float32"), tolerance=1e-5)


@pytest.mark.versions
@pytest.mark.parametrize("check_vma", [True, False])
def test_batch_norm_with_grad_inside_shard_map(rng, check_vma):
    batch = Spread(rng)

    def gradients(x, gamma, beta, t):
        def loss(x, gamma, beta):
            y, mean, var = batch_norm(x, gamma, beta, axis_name="batch")
            of_y, of_moments = batch.of_y(y, t), batch.of_moments(mean, var)
            if check_vma:
                return lax.psum(of_y, "batch") + of_moments
            return of_y + of_moments / DEVICES  # each device's share

        dx, dgamma, dbeta = jax.grad(loss, (0, 1, 2))(x, gamma, beta)
        if not check_vma:
            dgamma, dbeta = lax.psum((dgamma, dbeta), "batch")
        return dx, dgamma, dbeta

    specs = P("batch"), P(), P()
    actual = jax.jit(shard_map(gradients, (*specs, P("batch")), specs, check_vma))(
        *batch.args, batch.t
    )
    expected = batch.gradients(batch_norm_reference)(*batch.args)
    for got, want in zip(actual, expected, strict=True):
        assert_close(got, want, tolerance=1e-11)


@pytest.mark.versions
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_batch_norm_on_a_mesh(rng, kind):
    batch = Spread(rng)
    expected = batch.gradients(batch_norm_reference)(*batch.args)
    mesh = jax.make_mesh((DEVICES,), ("batch",), axis_types=(kind,))
    with jax.set_mesh(mesh):
        along = NamedSharding(mesh, P("batch"))
        everywhere = NamedSharding(mesh, P())
        args = jax.device_put(batch.args, (along, everywhere, everywhere))
        batch.t = jax.device_put(batch.t, along)
        actual = jax.jit(batch.gradients(batch_norm))(*args)
    for got, want in zip(actual, expected, strict=True):
        assert_close(got, want, tolerance=1e-11)


def test_batch_norm_counts_the_slices_of_each_map(rng):
    """The same shapes under a longer axis: nothing compiled for the shorter one is reused."""
    x, gamma, beta = normal(rng, 6, 2, 3), normal(rng, 3), normal(rng, 3)
    mapped = jax.vmap(lambda x: batch_norm(x, gamma, beta, axis_name="batch"), axis_name="batch")
    for slices in (3, 6):
        y, _, var = mapped(x[:slices])
        want, _, want_var = batch_norm_reference(x[:slices], gamma, beta)
        assert_close(y, want)
        assert_close(var[0], want_var)


# ------------------------------------------------------------------------------------------
# batch_norm_inference
# ------------------------------------------------------------------------------------------


def inference_reference(x, gamma, beta, mean, var, eps=1e-5):
    xhat = (x - spread(mean, x)) / jnp.sqrt(spread(var, x) + eps)
    return spread(gamma, x) * xhat + spread(beta, x)


def inference_args(rng, *shape):
    c = shape[-1]
    return (
        normal(rng, *shape), normal(rng, c), normal(rng, c), normal(rng, c), positive(rng, c)
    )  # fmt: skip


@pytest.mark.versions
@pytest.mark.parametrize(
    "shape", [(3,), (4, 2), (2, 5, 3), (2, 3, 4, 2), (0, 3, 2), (1, 2, 2, 2, 3)]
)
def test_batch_norm_inference(rng, shape):
    check_first_order(
        functools.partial(batch_norm_inference, eps=0.1),
        functools.partial(inference_reference, eps=0.1),
        *inference_args(rng, *shape),
    )


def test_batch_norm_inference_second_order(rng):
    check_second_order(batch_norm_inference, inference_reference, *inference_args(rng, 3, 2))


@LOW
def test_batch_norm_inference_low_precision(rng, dtype):
    check_low_precision(batch_norm_inference, *inference_args(rng, 9, 3), dtype=dtype)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_running_statistics_may_be_wider(rng, dtype):
    x, gamma, beta, mean, var = inference_args(rng, 9, 3)
    low = tuple(a.astype(dtype) for a in (x, gamma, beta))
    wide = mean.astype("float32"), var.astype("float32")
    dy = normal(rng, 9, 3, dtype=dtype)
    y, gradients = value_and_cotangents(batch_norm_inference, (*low, *wide), dy)
    assert y.dtype == dtype
    assert [g.dtype for g in gradients] == [dtype] * 3 + ["float32"] * 2
    exact = tuple(a.astype("float64") for a in (*low, *wide))
    want, expected = value_and_cotangents(inference_reference, exact, dy.astype("float64"))
    assert_close(y, want)
    for got, want in zip(gradients, expected, strict=True):
        assert_close(got, want)


def test_inference_agrees_with_training_on_the_same_statistics(rng):
    x, gamma, beta, _, _ = inference_args(rng, 5, 4, 3)
    y, mean, var = batch_norm(x, gamma, beta)
    assert_close(batch_norm_inference(x, gamma, beta, mean, var), y)


# ------------------------------------------------------------------------------------------
# group_norm, layer_norm
# ------------------------------------------------------------------------------------------


def group_norm_reference(x, gamma, beta, groups, ndim, eps=1e-5):
    """Each example and group by itself, cut out and put back."""
    size = x.shape[-1] // groups
    axes = tuple(range(x.ndim - 1 - ndim, x.ndim))
    parts = [x[..., g * size : (g + 1) * size] for g in range(groups)]
    xhat = [
        (part - jnp.mean(part, axes, keepdims=True))
        / jnp.sqrt(jnp.var(part, axes, keepdims=True) + eps)
        for part in parts
    ]
    return spread(gamma, x) * jnp.concatenate(xhat, -1) + spread(beta, x)


# shape, groups, D
GROUPED = [
    ((2, 3, 4, 6), 3, 2),
    ((2, 3, 4, 6), 1, 2),
    ((3, 5, 4), 4, 1),
    ((3, 5, 4), 2, 1),
    ((2, 2, 3, 2, 4), 2, 3),
    ((3, 2, 4), 2, 2),
    ((2, 2, 3, 3, 4), 2, 2),
    ((0, 3, 3, 4), 2, 2),
]


@pytest.mark.versions
@pytest.mark.parametrize("shape, groups, ndim", GROUPED)
def test_group_norm(rng, shape, groups, ndim):
    args = normal(rng, *shape), normal(rng, shape[-1]), normal(rng, shape[-1])
    check_first_order(
        lambda *args: group_norm(*args, groups, spatial_ndim=ndim),
        lambda *args: group_norm_reference(*args, groups, ndim),
        *args,
    )


@pytest.mark.versions
@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 2, 3, 5), (0, 3)])
def test_layer_norm(rng, shape):
    args = normal(rng, *shape), normal(rng, shape[-1]), normal(rng, shape[-1])
    check_first_order(
        functools.partial(layer_norm, eps=0.1),
        lambda *args: group_norm_reference(*args, 1, 0, eps=0.1),
        *args,
    )


@pytest.mark.parametrize(
    "f, reference",
    [
        (
            lambda *args: group_norm(*args, 2, spatial_ndim=1, eps=0.1),
            lambda *args: group_norm_reference(*args, 2, 1, eps=0.1),
        ),
        (
            functools.partial(layer_norm, eps=0.1),
            lambda *args: group_norm_reference(*args, 1, 0, eps=0.1),
        ),
    ],
    ids=["group_norm", "layer_norm"],
)
def test_group_and_layer_norm_second_order(rng, f, reference):
    check_second_order(f, reference, normal(rng, 2, 2, 4), normal(rng, 4), normal(rng, 4))


@LOW
def test_group_and_layer_norm_low_precision(rng, dtype):
    args = 3 * normal(rng, 2, 4, 3, 6) + 1, normal(rng, 6), normal(rng, 6)
    check_low_precision(lambda *args: group_norm(*args, 2), *args, dtype=dtype)
    check_low_precision(layer_norm, *args, dtype=dtype)


def test_layer_norm_by_hand():
    """The example of `test_batch_norm_by_hand`, turned on its side, with a scale per channel."""
    x, gamma = jnp.array([0.0, 0.0, 2.0, 2.0]), jnp.array([2.0, 1.0, 1.0, 1.0])
    dy = jnp.array([2.0, 0.0, 0.0, 0.0])
    y, (dx, dgamma, dbeta) = value_and_cotangents(
        functools.partial(layer_norm, eps=0), (x, gamma, jnp.zeros(4)), dy
    )
    np.testing.assert_array_equal(y, [-2, -1, 1, 1])
    np.testing.assert_array_equal(dx, [2, -2, 0, 0])
    np.testing.assert_array_equal(dgamma, [-2, 0, 0, 0])
    np.testing.assert_array_equal(dbeta, dy)


def test_group_norm_on_an_explicit_mesh(rng):
    x, gamma, beta = normal(rng, 8, 2, 2, 4), normal(rng, 4), normal(rng, 4)
    gradient = jax.grad(lambda *args: jnp.sum(jnp.sin(group_norm(*args, 2))), (0, 1, 2))
    expected = gradient(x, gamma, beta)
    mesh = jax.make_mesh((DEVICES,), ("batch",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        everywhere = NamedSharding(mesh, P())
        args = jax.device_put(
            (x, gamma, beta), (NamedSharding(mesh, P("batch")), everywhere, everywhere)
        )
        for got, want in zip(jax.jit(gradient)(*args), expected, strict=True):
            assert_close(got, want)


# ------------------------------------------------------------------------------------------
# instance_norm
# ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape, ndim", [((2, 5, 3), 1), ((2, 3, 4, 1), 2), ((2, 1, 2, 3, 2, 2), 3), ((0, 3, 2), 1)]
)
def test_instance_norm(rng, shape, ndim):
    args = normal(rng, *shape), normal(rng, shape[-1]), normal(rng, shape[-1])
    check_first_order(
        lambda *args: instance_norm(*args, spatial_ndim=ndim, eps=0.1),
        lambda *args: group_norm_reference(*args, shape[-1], ndim, eps=0.1),
        *args,
    )


def test_instance_norm_second_order(rng):
    args = normal(rng, 2, 3, 2), normal(rng, 2), normal(rng, 2)
    check_second_order(
        lambda *args: instance_norm(*args, spatial_ndim=1, eps=0.1),
        lambda *args: group_norm_reference(*args, 2, 1, eps=0.1),
        *args,
    )


# ------------------------------------------------------------------------------------------
# local_response_norm
# ------------------------------------------------------------------------------------------


def local_response_reference(x, size, alpha, beta, k):
    """Channel by channel; the neighbours cut out."""
    parts = []
    for c in range(x.shape[-1]):
        near = x[..., max(c - size // 2, 0) : c + (size - 1) // 2 + 1]
        parts.append(x[..., c] / (k + alpha / size * jnp.sum(near**2, -1)) ** beta)
    return jnp.stack(parts, -1)


# shape, size, alpha, beta, k
RESPONSES = [
    ((2, 3, 6), 5, 1e-4, 0.75, 1.0),
    ((3, 7), 4, 0.5, 1.0, 0.25),
    ((2, 2, 3, 3), 9, 2.0, -0.5, 2.0),  # more neighbours than channels
    ((4,), 1, 3.0, 1.0, 0.0),
    ((2, 5), 3, 0.0, 2.0, 3.0),
    ((2, 80), 70, 1.0, 0.75, 1.0),  # in a loop
    ((3, 2), 2**31 - 1, 2.0**31, 0.75, 1.0),
    ((0, 3), 2, 1.0, 0.75, 1.0),
]


@pytest.mark.versions
@pytest.mark.parametrize("shape, options", [(shape, options) for shape, *options in RESPONSES])
def test_local_response_norm(rng, shape, options):
    named = dict(zip(["size", "alpha", "beta", "k"], options, strict=True))
    check_first_order(
        functools.partial(local_response_norm, **named),
        functools.partial(local_response_reference, **named),
        normal(rng, *shape),
    )


def test_local_response_second_order(rng):
    options = dict(size=2, alpha=0.8, beta=0.75, k=0.5)
    check_second_order(
        functools.partial(local_response_norm, **options),
        functools.partial(local_response_reference, **options),
        normal(rng, 2, 4),
    )


@LOW
def test_local_response_low_precision(rng, dtype):
    check_low_precision(
        lambda x: local_response_norm(x, alpha=1.0), 3 * normal(rng, 4, 9), dtype=dtype
    )


def test_local_response_of_even_many_neighbours_has_one_more_before():
    """As PyTorch's: of the channels 1 and 2 and the exponent 1, k = 0 and alpha = size."""
    y, (dx,) = value_and_cotangents(
        functools.partial(local_response_norm, size=2, alpha=2.0, beta=1.0, k=0.0),
        (jnp.array([1.0, 2.0]),),
        jnp.array([0.0, 25.0]),
    )
    assert_close(y, jnp.array([1, 2 / 5]))
    assert_close(dx, jnp.array([-4.0, -3.0]))  # d(x₁ / (x₀² + x₁²)): −2 x₀ x₁, x₀² − x₁²
