"""Every operation's gradients on several devices, in every kind of layout JAX has."""

import math

import jax
import numpy as np
import pytest
from checker import assert_close, normal
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from operation_table import IDS, OPERATIONS, expected, gradients, total


def two_devices(kind):
    """A mesh of two devices along the axis "data"."""
    return jax.make_mesh((2,), ("data",), axis_types=(kind,), devices=jax.devices()[:2])


def arguments(operation):
    """The arguments, and for each whether its first axis is the batch."""
    args = (*operation.arguments(), *operation.fixed)
    return args, (*operation.batched, *(True for _ in operation.fixed))


@pytest.mark.parametrize("operation", OPERATIONS, ids=IDS)
def test_every_layout(operation):
    """The batch sharded over an Auto and an Explicit mesh, and in `shard_map`, as on one device."""
    args, _ = arguments(operation)
    _, slopes = expected(operation)(*args)
    for kind in (AxisType.Auto, AxisType.Explicit):
        check_mesh(operation, kind, slopes)
    # dropout draws its mask from the local shape, so devices draw other masks than one would.
    if operation.name != "dropout" and any(operation.batched):
        check_shard_map(operation, slopes)


SIZES = {"data": 2, "four": 4, "rows": 2, "columns": 3, "channels": 2, "copies": 2}
LAYOUTS = {
    "rows and columns": (None, "rows", "columns"),
    "channels": (None, None, None, "channels"),
    "batch, rows and channels": ("data", "rows", None, "channels"),
    "batch and channels": ("four", None, None, "channels"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("operation", OPERATIONS, ids=IDS)
def test_maps_in_parts(operation, layout):
    """Maps divided along other axes than the batch, over 2 to 8 devices, as on one device."""
    args, batched = arguments(operation)
    mesh = mesh_of(filter(None, LAYOUTS[layout]))

    def placed(argument, is_batch):
        divided = zip(argument.shape, LAYOUTS[layout] if is_batch else (), strict=False)
        spec = P(*(axis if axis and size % SIZES[axis] == 0 else None for size, axis in divided))
        return jax.device_put(argument, NamedSharding(mesh, spec))

    _, slopes = expected(operation)(*args)
    with jax.set_mesh(mesh):
        actual = jax.jit(gradients(operation, operation.f))(*map(placed, args, batched))
    for got, want in zip(actual, slopes, strict=True):
        assert_close(got, want, tolerance=1e-11)


def mesh_of(axes):
    """A mesh of Auto axes."""
    axes = tuple(axes)
    sizes = tuple(SIZES[axis] for axis in axes)
    return jax.make_mesh(
        sizes,
        axes,
        axis_types=(AxisType.Auto,) * len(axes),
        devices=jax.devices()[: math.prod(sizes)],
    )


SEVERAL = [o for o in OPERATIONS if len(o.shapes) + len(o.fixed) > 1]


@pytest.mark.parametrize("operation", SEVERAL, ids=[o.name for o in SEVERAL])
def test_one_argument_in_parts(operation):
    """Each argument alone divided along its first or its last axis, as on one device."""
    args, _ = arguments(operation)
    mesh = mesh_of(["data"])

    @jax.jit
    def slopes_by_layout(*args):
        found = [gradients(operation, operation.f)(*args)]
        for i, argument in enumerate(args):
            for spec in {P("data"), P(*[None] * (argument.ndim - 1), "data")}:
                axis = spec.index("data")
                if argument.shape[axis] % 2 == 0:
                    part = jax.lax.with_sharding_constraint(argument, NamedSharding(mesh, spec))
                    found.append(gradients(operation, operation.f)(*args[:i], part, *args[i + 1 :]))
        return found

    whole, *divided = slopes_by_layout(*args)
    assert divided
    for slopes in divided:
        for got, want in zip(slopes, whole, strict=True):
            assert_close(got, want, tolerance=1e-11)


# What JAX's own operations refuse there: sums over divided channels, for whose result there are
# several layouts, selections between arrays of different ones, and slices of what is divided.
REFUSED = {
    ("conv", 0, "last"),
    ("conv", 1, "last"),
    ("conv_general_dilated", 0, "last"),
    ("conv_general_dilated", 1, "last"),
    ("deform_conv", 1, "last"),
    ("explicit", 0, "last"),
    ("explicit", 1, "last"),
    ("local_conv", 1, "last"),
    ("local_response_norm", 0, "last"),
    ("min_plus_conv", 1, "first"),
    ("pixel_shuffle", 0, "last"),
    ("prelu", 1, "first"),
    ("prelu", 1, "last"),
    ("softmax_cross_entropy", 0, "last"),
    ("softmax_cross_entropy", 1, "first"),
    ("softmax_cross_entropy", 1, "last"),
    ("tiled_conv", 0, "last"),
    ("tiled_conv", 1, "first"),
    ("tiled_conv", 1, "last"),
    ("tiled_conv_transpose", 0, "last"),
    ("tiled_conv_transpose", 1, "first"),
    ("tiled_conv_transpose", 1, "last"),
}


@pytest.mark.parametrize("operation", OPERATIONS, ids=IDS)
def test_one_argument_in_parts_of_an_explicit_mesh(operation):
    """The same where the layout is part of the type: each gradient has that of its argument."""
    args, _ = arguments(operation)
    whole = jax.jit(gradients(operation, operation.f))(*args)
    mesh = two_devices(AxisType.Explicit)
    for i, argument in enumerate(args):
        for where in ("first", "last"):
            axis = 0 if where == "first" else argument.ndim - 1
            if argument.ndim == 0 or argument.shape[axis] % 2:
                continue
            specs = [P()] * len(args)
            specs[i] = P(*[None] * axis, "data")
            with jax.set_mesh(mesh):
                placed = [
                    jax.device_put(a, NamedSharding(mesh, spec))
                    for a, spec in zip(args, specs, strict=True)
                ]
                try:
                    divided = jax.jit(gradients(operation, operation.f))(*placed)
                except Exception as error:
                    assert type(error).__name__ == "ShardingTypeError"
                    assert (operation.name, i, where) in REFUSED
                    continue
            for got, want, put in zip(divided, whole, placed, strict=False):
                assert got.sharding.is_equivalent_to(put.sharding, got.ndim)
                assert_close(got, want, tolerance=1e-11)


@pytest.mark.xfail(strict=True, reason="XLA sums lax's kernel gradient over copies of the maps too")
def test_rows_in_parts_and_copies():
    """What the README warns of: the day that this passes, it need not."""
    rng = np.random.default_rng(0)
    x, w = normal(rng, 4, 8, 8, 4), normal(rng, 3, 3, 4, 8)
    mesh = mesh_of(["rows", "copies"])
    rows = NamedSharding(mesh, P(None, "rows"))

    def kernel_gradient(x, w, dy):
        layout = ("NHWC", "HWIO", "NHWC")
        convolve = lambda w: jax.lax.conv_general_dilated(
            x, w, (1, 1), "SAME", dimension_numbers=layout
        )
        return jax.vjp(convolve, w)[1](dy)[0]

    dy = normal(rng, 4, 8, 8, 8)
    expected = jax.jit(kernel_gradient)(x, w, dy)
    assert_close(
        jax.jit(kernel_gradient)(jax.device_put(x, rows), w, jax.device_put(dy, rows)), expected
    )


@pytest.mark.xfail(strict=True, reason="XLA sums lax's input gradient over copies of the maps too")
def test_upsampled_rows_in_parts_and_copies():
    """The same, where a transposed convolution's sum over divided channels makes the copies."""
    rng = np.random.default_rng(0)
    y, w = normal(rng, 4, 6, 6, 4), normal(rng, 3, 3, 6, 4)
    divided = NamedSharding(mesh_of(["rows", "channels"]), P(None, "rows", None, "channels"))

    def loss(y, w):
        layout = ("NHWC", "HWOI", "NHWC")
        x = jax.lax.conv_general_dilated(
            y, w[::-1, ::-1], (1, 1), ((2, 1), (2, 1)), (2, 2), dimension_numbers=layout
        )
        return jax.numpy.sin(x).sum()

    slopes = jax.jit(jax.grad(loss, (0, 1)))
    assert_close(slopes(jax.device_put(y, divided), w)[0], slopes(y, w)[0])


def check_mesh(operation, kind, slopes):
    args, batched = arguments(operation)
    mesh = two_devices(kind)
    with jax.set_mesh(mesh):
        placed = [
            jax.device_put(a, NamedSharding(mesh, P("data") if b else P()))
            for a, b in zip(args, batched, strict=True)
        ]
        actual = jax.jit(gradients(operation, operation.f))(*placed)
    for got, want, argument in zip(actual, slopes, placed, strict=False):
        if kind == AxisType.Explicit:
            assert got.sharding.is_equivalent_to(argument.sharding, got.ndim)
        assert_close(got, want, tolerance=1e-11)


def check_shard_map(operation, slopes):
    """Replicated arguments get the sum over devices, batched ones their own part."""
    args, batched = arguments(operation)
    mesh = two_devices(AxisType.Auto)
    specs = tuple(P("data") if b else P() for b in batched)
    local = operation.over_devices or operation.f

    def loss(*args):
        outputs = local(*args)
        if not operation.keeps_batch:
            return total(jax.lax.psum(outputs, "data"))
        if operation.over_devices:  # what follows the first output is the same on each device
            first, *same = outputs
            return jax.lax.psum(total(first), "data") + total(same)
        return jax.lax.psum(total(outputs), "data")

    argnums = tuple(range(len(operation.shapes)))
    slope = jax.grad(loss, argnums)
    inside = jax.shard_map(slope, mesh=mesh, in_specs=specs, out_specs=specs[: len(argnums)])
    outside = jax.grad(jax.shard_map(loss, mesh=mesh, in_specs=specs, out_specs=P()), argnums)
    for ways in jax.jit(lambda *args: (inside(*args), outside(*args)))(*args):
        for got, want in zip(ways, slopes, strict=True):
            assert_close(got, want, tolerance=1e-11)
