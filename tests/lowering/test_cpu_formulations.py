"""Each of the CPU's formulations against XLA's own convolution, and when each is chosen."""

import functools
import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from checker import (
    assert_close,
    assert_trees_close,
    check_first_order,
    normal,
    value_and_cotangents,
)
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from cnnvjp import (
    _lowering,
    avg_pool,
    conv,
    conv_kernel_grad,
    conv_transpose,
    explicit,
    max_pool,
    sum_pool,
)
from cnnvjp._lowering import cpu
from cnnvjp._lowering import unshared as on_every_platform
from cnnvjp._lowering.cpu import dense, grouped, unshared
from cnnvjp._types import ArrayType
from cnnvjp._windows.geometry import make_window

pytestmark = pytest.mark.cpu

# x, w, groups, options: the formulations of the forward pass, input and kernel gradient
CASES = [
    # depthwise: few rows, many rows with rest, borders wider than the image, cropped
    ((2, 9, 8, 3), (3, 3, 1, 3), 3, dict(padding="SAME"), "ddd"),
    ((2, 31, 6, 2), (3, 2, 1, 2), 2, dict(padding="SAME"), "ddd"),
    ((1, 30, 7, 2), (3, 3, 1, 2), 2, dict(stride=2, padding=1), "ddd"),
    ((2, 267, 3, 2), (3, 3, 1, 2), 2, dict(padding="SAME"), "ddd"),
    ((2, 29, 8, 2), (3, 3, 1, 2), 2, dict(stride=(1, 2), padding="SAME"), "ddd"),
    ((2, 12, 11, 2), (5, 3, 1, 2), 2, dict(stride=(2, 3), padding=((2, 1), (0, 3))), "ddd"),
    ((2, 12, 13, 2), (3, 3, 1, 2), 2, dict(dilation=(2, 3), padding="SAME"), "ddd"),
    ((2, 12, 13, 2), (3, 3, 1, 2), 2, dict(dilation=2, stride=2, padding=1), "ddd"),
    ((2, 12, 13, 2), (3, 3, 1, 2), 2, dict(dilation=3, stride=2, padding="FULL"), "ddd"),
    ((1, 12, 11, 2), (3, 3, 1, 2), 2, dict(padding=((-1, 2), (3, -2))), "ddd"),
    ((2, 12, 11, 2), (3, 3, 1, 2), 2, dict(stride=2, padding=((-1, -2), (1, -3))), "ddd"),
    ((2, 2, 2, 2), (3, 3, 1, 2), 2, dict(padding=2), "ddd"),
    ((2, 1, 1, 2), (5, 5, 1, 2), 2, dict(padding=2), "ddd"),
    ((2, 5, 4, 2), (2, 2, 1, 2), 2, dict(stride=3), "ddd"),
    ((2, 9, 9, 2), (1, 1, 1, 2), 2, dict(stride=2), "ddd"),
    ((2, 14, 13, 2), (7, 7, 1, 2), 2, dict(padding=3), "ddd"),
    ((0, 9, 8, 3), (3, 3, 1, 3), 3, dict(padding="SAME"), "ddd"),
    # depthwise with a multiplier
    ((2, 9, 8, 3), (3, 3, 1, 6), 3, dict(padding="SAME"), "ddd"),
    ((2, 9, 8, 3), (3, 3, 1, 9), 3, dict(stride=2), "ddd"),
    # depthwise in one and three dimensions
    ((2, 67, 3), (5, 1, 3), 3, dict(padding="SAME"), "ddd"),
    ((2, 67, 2), (31, 1, 4), 2, dict(padding=15), "ddd"),
    ((2, 40, 3), (5, 1, 3), 3, dict(stride=2, padding=(3,)), "ddd"),
    ((2, 41, 3), (4, 1, 3), 3, dict(stride=3, dilation=2, padding=((-2, 4),)), "ddd"),
    ((2, 5, 3), (1, 1, 3), 3, dict(stride=7), "ddd"),
    ((2, 23, 3), (2, 1, 3), 3, dict(stride=5, dilation=3), "ddd"),
    ((2, 5, 6, 7, 2), (3, 3, 3, 1, 2), 2, dict(padding="SAME"), "ddd"),
    ((2, 7, 6, 6, 2), (3, 2, 3, 1, 4), 2, dict(stride=(2, 1, 2), padding=1), "ddd"),
    ((1, 9, 6, 7, 2), (2, 3, 1, 1, 2), 2, dict(dilation=(3, 1, 2), padding=((-1, 2), 1, 0)), "ddd"),
    # too many taps to unroll
    ((2, 13, 12, 2), (12, 12, 1, 2), 2, dict(padding=1), "lll"),
    # few channels a group: unrolled sums; the kernel gradient in blocks
    ((2, 9, 8, 12), (3, 3, 4, 6), 3, dict(padding="SAME"), "uub"),
    ((2, 9, 8, 12), (3, 3, 4, 9), 3, dict(stride=2, padding=1), "uub"),
    ((2, 9, 8, 4), (2, 3, 2, 6), 2, dict(stride=(3, 1), dilation=(2, 1)), "uub"),
    ((2, 23, 8), (3, 2, 4), 4, dict(padding="SAME"), "uub"),
    ((1, 5, 6, 7, 4), (2, 3, 2, 2, 4), 2, dict(padding=1), "uu-"),
    # more channels: blocks of dense convolutions
    ((1, 5, 6, 40), (3, 3, 10, 8), 4, dict(padding=1), "bbb"),
    ((1, 5, 6, 32), (3, 3, 16, 34), 2, dict(stride=2, padding=1), "bbb"),
    ((1, 9, 20), (3, 10, 4), 2, dict(padding=1), "bbb"),
    ((1, 4, 4, 80), (1, 1, 1, 160), 80, dict(), "ddd"),
    ((1, 3, 3, 132), (1, 1, 2, 132), 66, dict(), "uub"),
    # one tap: a product for the kernel gradient
    ((2, 5, 6, 3), (1, 1, 3, 4), 1, dict(), "--p"),
    ((2, 5, 6, 5), (1, 1, 5, 4), 1, dict(stride=2), "--p"),
    ((2, 7, 5), (1, 5, 4), 1, dict(stride=3, padding=((2, -1),)), "--p"),
    ((2, 3, 4, 5, 3), (1, 1, 1, 3, 4), 1, dict(stride=(1, 2, 1), padding=1), "--p"),
    ((0, 5, 6, 3), (1, 1, 3, 4), 1, dict(), "--p"),
    # strided, with channels enough: phases
    ((1, 24, 22, 16), (3, 3, 16, 4), 1, dict(stride=2, padding=1), "-s-"),
    ((1, 24, 22, 16), (3, 4, 16, 4), 1, dict(stride=(1, 3), padding=((-1, 2), (2, -2))), "-s-"),
    ((1, 22, 24, 16), (3, 3, 16, 2), 1, dict(stride=(4, 2), dilation=(3, 2)), "-s-"),
    ((1, 24, 23, 17), (5, 4, 17, 2), 1, dict(stride=4, dilation=2), "-s-"),
    # a large kernel on a small image with few channels: banded matrices
    ((3, 9, 10, 1), (5, 5, 1, 6), 1, dict(), "fnn"),
    ((3, 9, 10, 1), (5, 6, 1, 6), 1, dict(padding="SAME"), "fnn"),
    ((3, 9, 10, 6), (5, 5, 6, 4), 1, dict(padding=((-1, 2), (3, -1))), "-n-"),
    ((3, 14, 15, 2), (5, 5, 2, 3), 1, dict(dilation=(2, 3), padding=1), "fn-"),
    ((0, 9, 10, 1), (5, 5, 1, 6), 1, dict(), "fnn"),
    ((2, 9, 10, 1), (3, 3, 1, 32), 1, dict(padding=1), "f-m"),
    ((2, 9, 10, 2), (3, 2, 2, 32), 1, dict(dilation=2, padding=((1, 2), (-1, 0))), "f-m"),
    # strided, with few channels: tiles
    ((2, 9, 8, 3), (3, 3, 3, 4), 1, dict(stride=2, padding=1), "ft-"),
    ((2, 11, 13, 3), (7, 7, 3, 4), 1, dict(stride=2, padding=3), "-t-"),
    ((2, 11, 13, 2), (5, 3, 2, 4), 1, dict(stride=(3, 1), padding=((-1, 2), (0, -2))), "ft-"),
    ((2, 10, 15, 20), (5, 5, 20, 4), 1, dict(stride=5), "-tm"),
    ((2, 9, 14, 2), (3, 4, 2, 4), 1, dict(stride=(4, 5)), "ftm"),
    # large: blocks of images
    ((40, 224, 220, 1), (2, 1, 1, 1), 1, dict(), "f-q"),
    ((48, 320, 132, 1), (3, 3, 1, 4), 1, dict(stride=2, padding=1), "ftq"),
    # three dimensions: planes
    ((2, 5, 6, 7, 3), (3, 3, 3, 3, 4), 1, dict(padding=1), "vvv"),
    ((2, 7, 6, 7, 3), (3, 2, 3, 3, 4), 1, dict(stride=(2, 1, 2), padding=((-1, 2), 1, 0)), "vvv"),
    ((1, 9, 6, 7, 16), (2, 3, 1, 16, 2), 1, dict(stride=2, dilation=(3, 2, 1)), "vvv"),
    ((1, 6, 5, 5, 20), (3, 3, 3, 10, 4), 2, dict(padding=1), "bbb"),
    ((0, 5, 6, 7, 3), (3, 3, 3, 3, 4), 1, dict(padding=1), "vvv"),
    # left to XLA
    ((3, 9, 70, 1), (5, 5, 1, 6), 1, dict(), "f--"),
    ((2, 9, 8, 3), (1, 2, 3, 4), 1, dict(stride=(3, 1)), "f--"),
    ((2, 9, 8, 16), (3, 3, 16, 4), 1, dict(stride=2, padding=1), "---"),
    ((1, 24, 22, 16), (2, 3, 16, 4), 1, dict(stride=(2, 3)), "--m"),
    ((2, 9, 8, 3), (3, 3, 3, 4), 1, dict(stride=2, dilation=2, padding=1), "f--"),
    ((2, 9, 8, 16), (3, 3, 16, 4), 1, dict(padding=1), "---"),
    # few channels a group, and more phases than are worth compiling
    ((1, 11, 12, 4), (5, 6, 2, 6), 2, dict(stride=5), "ubb"),
    # few channels: more products than are summed one by one, and in one dimension
    ((2, 13, 14, 1), (9, 8, 1, 4), 1, dict(padding=2), "nnn"),
    ((2, 19, 3), (4, 3, 5), 1, dict(stride=2, dilation=3, padding=((-1, 4),)), "f--"),
    # depthwise, in loops: kernels longer than a piece, other strides, borders, volumes
    ((2, 13, 31, 2), (7, 21, 1, 2), 2, dict(padding="SAME"), "lll"),
    ((2, 33, 9, 2), (13, 11, 1, 4), 2, dict(stride=(1, 2), dilation=(2, 1), padding=12), "lll"),
    ((2, 29, 31, 2), (12, 12, 1, 2), 2, dict(stride=3, padding=((-1, 2), (5, -2))), "lll"),
    ((2, 3, 2, 2), (12, 12, 1, 2), 2, dict(padding="FULL"), "lll"),
    ((1, 45, 4, 2), (5, 2, 1, 2), 2, dict(padding=((2, 2), (3, 0))), "ddl"),
    ((1, 9, 8, 11, 2), (5, 6, 5, 1, 2), 2, dict(stride=(2, 1, 1), padding=2), "lll"),
]

# Where one choice ends and the next begins, axis by axis: of these only the choice is asked for
EDGES = [
    # strides of one axis alone
    ((2, 9, 10, 1), (3, 3, 1, 32), 1, dict(stride=(1, 2)), "ftm"),
    ((2, 9, 10, 1), (3, 3, 1, 32), 1, dict(stride=(2, 1)), "ftm"),
    ((2, 9, 10, 6), (5, 5, 6, 4), 1, dict(stride=(1, 2)), "-t-"),
    ((2, 9, 10, 6), (5, 5, 6, 4), 1, dict(stride=(2, 1)), "-t-"),
    ((1, 24, 22, 16), (4, 1, 16, 4), 1, dict(stride=(3, 1)), "-s-"),
    # dilations of one axis alone
    ((2, 9, 9, 3), (3, 3, 3, 4), 1, dict(stride=2, dilation=(1, 2)), "f--"),
    ((2, 9, 9, 3), (3, 3, 3, 4), 1, dict(stride=2, dilation=(2, 1)), "f--"),
    # kernels and images that are not square, just large or just small enough for banded matrices
    ((2, 9, 10, 6), (5, 4, 6, 4), 1, dict(), "---"),
    ((2, 9, 10, 6), (4, 5, 6, 4), 1, dict(), "---"),
    ((1, 50, 20, 2), (5, 9, 2, 3), 1, dict(), "-n-"),
    ((1, 9, 50, 2), (5, 9, 2, 3), 1, dict(), "-n-"),
    ((1, 12, 70, 2), (9, 5, 2, 3), 1, dict(), "---"),
    ((1, 9, 32, 6), (5, 5, 6, 4), 1, dict(), "-n-"),
    ((1, 9, 33, 6), (5, 5, 6, 4), 1, dict(), "---"),
    ((1, 9, 30, 6), (5, 5, 6, 4), 1, dict(padding=((0, 0), (1, 2))), "---"),
    ((1, 9, 9, 16), (5, 5, 16, 16), 1, dict(), "-n-"),
    ((1, 9, 9, 16), (5, 5, 16, 17), 1, dict(), "---"),
    ((1, 9, 9, 17), (5, 5, 17, 16), 1, dict(), "---"),
    # planes of a volume
    ((1, 17, 3, 4, 2), (16, 1, 2, 2, 3), 1, dict(), "vvv"),
    ((1, 17, 3, 4, 2), (17, 1, 2, 2, 3), 1, dict(), "---"),
    ((1, 3, 18, 4, 2), (2, 17, 1, 2, 3), 1, dict(), "vvv"),
    # channels of a group
    ((1, 9, 9, 16), (3, 3, 8, 16), 2, dict(), "uub"),
    ((1, 9, 9, 8), (3, 3, 4, 18), 2, dict(), "bbb"),
    ((1, 9, 9, 18), (3, 3, 9, 4), 2, dict(), "bbb"),
    ((1, 9, 9, 16), (4, 4, 8, 16), 2, dict(), "uub"),
    ((1, 18, 16), (17, 8, 16), 2, dict(), "b-b"),
    # taps of a depthwise kernel
    ((1, 18, 10, 2), (16, 8, 1, 2), 2, dict(), "ddl"),
    ((1, 44, 4, 2), (43, 3, 1, 2), 2, dict(), "lll"),
    ((1, 130, 2), (129, 1, 2), 2, dict(), "llb"),
    ((1, 2, 10, 14, 2), (2, 10, 13, 1, 2), 2, dict(), "b-l"),
    ((1, 36, 9, 2), (5, 2, 1, 2), 2, dict(), "ddd"),
    ((1, 37, 9, 2), (5, 2, 1, 2), 2, dict(), "ddl"),
    ((1, 99, 9, 2), (3, 3, 1, 2), 2, dict(), "ddd"),
    ((1, 13, 13, 2), (7, 7, 1, 2), 2, dict(), "ddd"),
    ((1, 13, 13, 2), (10, 5, 1, 2), 2, dict(), "ddl"),
    # temporaries that would be out of proportion: maps padded to many times their size
    ((2, 8, 8, 8, 256), (3, 3, 3, 1, 256), 256, dict(stride=4, dilation=3, padding="FULL"), "-bd"),
    # cells of a stride, and the zeros that fill them
    ((1, 9, 9, 2), (2, 4, 2, 4), 1, dict(stride=(4, 2)), "ft-"),
    ((1, 9, 9, 2), (1, 4, 2, 4), 1, dict(stride=(4, 2)), "f--"),
    # channels of a patch
    ((2, 9, 10, 2), (3, 3, 2, 32), 1, dict(), "f-m"),
    ((2, 9, 10, 2), (5, 2, 2, 32), 1, dict(), "f--"),
    ((2, 9, 10, 2), (3, 3, 2, 31), 1, dict(), "f--"),
    ((1, 40, 1), (16, 1, 32), 1, dict(stride=8), "f-m"),
    # patches side by side
    ((1, 9, 9, 16), (2, 2, 16, 4), 1, dict(stride=2), "--m"),
    ((1, 9, 9, 16), (3, 2, 16, 4), 1, dict(stride=2), "---"),
    ((1, 6, 9, 9, 4), (2, 2, 2, 4, 4), 1, dict(stride=2), "vvm"),
    ((1, 12, 12, 16), (12, 11, 16, 4), 1, dict(stride=12), "-t-"),
    # products of an output, input channels
    ((1, 13, 14, 1), (8, 8, 1, 4), 1, dict(), "fnn"),
    ((1, 13, 14, 1), (13, 5, 1, 4), 1, dict(), "nnn"),
    ((1, 13, 14, 3), (7, 3, 3, 4), 1, dict(), "f--"),
    ((1, 13, 14, 4), (3, 3, 4, 4), 1, dict(), "---"),
    # pixels from which phases pay
    ((1, 32, 16, 16), (3, 3, 16, 4), 1, dict(stride=2), "-s-"),
    ((1, 16, 32, 16), (3, 3, 16, 4), 1, dict(stride=2), "-s-"),
    ((1, 31, 16, 16), (3, 3, 16, 4), 1, dict(stride=2), "---"),
]

NAMES = {
    "d": r"depthwise\.",
    "l": r"depthwise_loops\.",
    "u": r"grouped\.(?!merged)",
    "b": r"grouped\.merged",
    "f": "dense.correlate_few",
    "n": "banded.",
    "p": "dense.pointwise_kernel_gradient",
    "m": "dense.kernel_gradient_of_patches",
    "q": "dense.kernel_gradient_in_batches",
    "s": "dense.input_gradient_by_phases",
    "t": "dense.input_gradient_by_depth",
    "v": "volumes.",
}


def lax_convolution(x, w, window, groups):
    space = "DHW"[-window.ndim :]
    layout = (f"N{space}C", f"{space}IO", f"N{space}C")
    return lax.conv_general_dilated(
        x, w, window.stride, window.padding, None, window.dilation, layout, groups
    )


def setup(rng, case, dtype="float64"):
    x_shape, w_shape, groups, options, chosen = case
    x, w = normal(rng, *x_shape, dtype=dtype), normal(rng, *w_shape, dtype=dtype)
    pairs = {"stride": 1, "padding": "VALID", "dilation": 1} | options
    padding = pairs["padding"]
    if isinstance(padding, tuple) and not all(isinstance(p, int) for p in padding):
        pairs["padding"] = tuple((p, p) if isinstance(p, int) else p for p in padding)
    window = make_window(x_shape[1:-1], w_shape[:-2], **pairs)
    dy = normal(rng, x_shape[0], *window.output_size, w_shape[-1], dtype=dtype)
    return x, w, dy, groups, pairs, window, chosen


@pytest.mark.versions
@pytest.mark.parametrize("case", CASES, ids=map(str, range(len(CASES))))
def test_formulations(rng, case):
    x, w, dy, groups, pairs, window, chosen = setup(rng, case)
    pairs["groups"] = groups
    reference = functools.partial(lax_convolution, window=window, groups=groups)

    def ours(x, w, dy):
        return (
            conv(x, w, **pairs),
            conv_transpose(dy, w, output_size=x.shape[1:-1], **pairs),
            conv_kernel_grad(x, dy, w.shape[:-2], **pairs),
        )

    def theirs(x, w, dy):
        y, pullback = jax.vjp(reference, x, w)
        return y, *pullback(dy)

    actual, expected = jax.jit(lambda *args: (ours(*args), theirs(*args)))(x, w, dy)
    assert_trees_close(actual, expected)
    if chosen[0] == "f":  # though this JAX may not get it
        assert_close(dense.correlate_few(x, w, window), expected[0])


@pytest.mark.parametrize("number", [0, 28, 29, 39, 45, 49, 57, 70])
def test_programs_for_any_number_of_images(rng, number):
    """What is exported for a symbolic batch cannot choose by its size."""
    x, w, _, groups, pairs, _, _ = setup(rng, CASES[number])
    (batch,) = jax.export.symbolic_shape("N")

    def run(x, w):
        y, pullback = jax.vjp(lambda x, w: conv(x, w, groups=groups, **pairs), x, w)
        return y, *pullback(y)

    symbolic = jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype)
    exported = jax.export.export(jax.jit(run))(symbolic, w)
    assert_trees_close(exported.call(x, w), run(x, w))


@pytest.mark.devices(8)
@pytest.mark.parametrize("number", [0, 28, 29, 38, 39, 45, 49, 57, 63, 76])
def test_a_divided_batch_stays_where_it_is(rng, number):
    """Nothing is gathered, and the kernel's gradient is summed over the devices once."""
    x, w, _, groups, pairs, _, _ = setup(rng, CASES[number])
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,))
    x, w = (
        jax.ShapeDtypeStruct(shape, "float32", sharding=NamedSharding(mesh, spec))
        for shape, spec in (
            ((16, *x.shape[1:]), PartitionSpec("batch")),
            (w.shape, PartitionSpec()),
        )
    )

    @functools.partial(jax.grad, argnums=(0, 1))
    def gradients(x, w):
        return (conv(x, w, groups=groups, **pairs) ** 2).sum()

    text = jax.jit(gradients).lower(x, w).compile().as_text()
    moved = re.findall(r" (all-\w+|collective-permute)(?:-start)?\(", text)
    assert moved == ["all-reduce"]


@pytest.mark.parametrize(
    "case", CASES + EDGES, ids=[*map(str, range(len(CASES))), *map(str, EDGES)]
)
def test_choice(rng, case):
    x, w, dy, groups, _, window, chosen = setup(rng, case)
    found = (
        cpu.correlation(x, w, window, groups, None),
        cpu.input_gradient(dy, w, window, groups, None),
        cpu.kernel_gradient(x, dy, window, groups, None),
    )
    if jax.__version_info__ < (0, 9, 1):  # XLA's own kernel gradients are as fast as these
        chosen = chosen[:2] + chosen[2].replace("n", "-").replace("q", "-")
    if jax.__version_info__ < (0, 12) and chosen[0] == "f":  # it would be computed many times
        chosen = ("n" if chosen[1] == "n" and w.shape[-2] == 1 else "-") + chosen[1:]
    xlas = None, "dense.input_gradient$", "dense.kernel_gradient$"  # in one layout
    for letter, formulation, xla in zip(chosen, found, xlas, strict=True):
        if letter == "-" and (xla is None or groups > 1):
            assert formulation is None
            continue
        pattern = xla if letter == "-" else NAMES[letter]
        chosen = f"{formulation.func.__module__}.{formulation.func.__name__}"
        assert re.match(f"cnnvjp._lowering.cpu.{pattern}", chosen)


@pytest.mark.parametrize("batch, name", [(32, "correlate"), (33, "merged")])
def test_up_to_64_mebibytes_of_terms_are_unrolled(batch, name):
    x = jax.ShapeDtypeStruct((batch, 64, 64, 32), "float32")
    w = jax.ShapeDtypeStruct((3, 3, 4, 32), "float32")
    found = cpu.correlation(x, w, make_window((64, 64), (3, 3), 1, 1, 1), 8, None)
    assert found.func.__name__ == name


@pytest.mark.parametrize(
    "groups, channels, outputs, blocks",
    [
        (8, 4, 4, 2),  # 16 channels in each
        (8, 4, 2, 1),
        (8, 16, 17, 8),
        (4, 3, 5, 1),  # fewer in all
        (128, 1, 1, 8),
        (128, 16, 16, 32),  # no more blocks than that
    ],
)
def test_how_many_groups_make_a_block(groups, channels, outputs, blocks):
    x, w = jnp.ones((1, 2, groups * channels)), jnp.ones((1, channels, groups * outputs))
    dy = jnp.ones((1, 2, groups * outputs))
    parts = []

    def forward(part, kernel):
        parts.append(part.shape[-1])
        return part @ kernel[0]

    def gradient(part, dpart):
        parts.append(part.shape[-1])
        return jnp.einsum("nic,nio->co", part, dpart)[None]

    y = grouped.merged(x, w, groups, forward)
    dw = grouped.merged_kernel_gradient(x, dy, groups, gradient)
    assert parts == [groups * channels // blocks] * 2 * blocks
    assert_close(y, jnp.full(y.shape, channels))
    assert_close(dw, jnp.full(w.shape, 2))


POOLINGS = [
    ((2, 9, 8, 3), (3, 3), dict(padding=1), "dd"),
    ((2, 9, 8, 3), (3, 3), dict(stride=2, padding=((1, 0), (0, 2))), "d-"),
    ((2, 9, 8, 3), (4, 2), dict(dilation=(2, 1), padding=((-1, 2), (0, 1))), "dd"),
    ((2, 23, 3), (5,), dict(padding="SAME"), "dd"),
    ((2, 5, 6, 7, 2), (2, 3, 2), dict(padding="SAME"), "dd"),
    ((2, 9, 8, 3), (3, 3), dict(stride=3), "--"),
    ((2, 9, 8, 3), (9, 8), dict(), "--"),
    ((2, 14, 13, 1), (12, 12), dict(), "--"),
]


@pytest.mark.versions
@pytest.mark.parametrize("case", POOLINGS, ids=map(str, range(len(POOLINGS))))
def test_window_sums(rng, case):
    shape, size, options, chosen = case
    x = normal(rng, *shape)
    window = make_window(
        shape[1:-1], size, **{"stride": 1, "padding": "VALID", "dilation": 1} | options
    )
    dy = normal(rng, shape[0], *window.output_size, shape[-1])
    found = cpu.window_sum(x, window), cpu.window_spread(dy, window)
    assert [f is None for f in found] == [letter == "-" for letter in chosen]

    def reference(x):
        kernel = jnp.ones((*size, 1, shape[-1]), x.dtype)
        return lax_convolution(x, kernel, window, shape[-1])

    options = {"stride": 1} | options
    check_first_order(lambda x: sum_pool(x, size, **options), reference, x)


@pytest.mark.parametrize(
    "shape, size, stride, chosen",
    [
        ((1, 9, 8, 1), (3, 3), (1, 2), "d-"),
        ((1, 9, 8, 1), (3, 3), (2, 1), "d-"),
        ((1, 9, 8, 1), (3, 1), (1, 1), "dd"),
        ((1, 9, 8, 1), (1, 3), (1, 1), "dd"),
        ((1, 18, 10, 1), (16, 8), (1, 1), "dd"),
        ((1, 44, 4, 1), (43, 3), (1, 1), "--"),
    ],
)
def test_choice_of_window_sums(shape, size, stride, chosen):
    window = make_window(shape[1:-1], size, stride, 0, 1)
    x, dy = jnp.zeros(shape), jnp.zeros((1, *window.output_size, 1))
    found = cpu.window_sum(x, window), cpu.window_spread(dy, window)
    assert [f is None for f in found] == [letter == "-" for letter in chosen]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(
    "case", [CASES[i] for i in (0, 4, 17, 28, 33, 38, 43, 49, 53, 56, 62)], ids=str
)
def test_low_precision(rng, case, dtype):
    """Rounded once: as near to float64 as the output's dtype allows."""
    x, w, dy, groups, pairs, window, _ = setup(rng, case, dtype)
    wide = [np.asarray(a).astype("float64") for a in (x, w, dy)]
    reference = functools.partial(lax_convolution, window=window, groups=groups)
    expected = value_and_cotangents(reference, wide[:2], wide[2])
    actual = value_and_cotangents(functools.partial(conv, groups=groups, **pairs), (x, w), dy)
    tolerance = 4e-6 if dtype == "float32" else float(jnp.finfo(dtype).eps)
    for got, want in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
        assert got.dtype == dtype
        assert_close(got, want, tolerance=tolerance)


def convolutions(f, platform, *args):
    """The window and the group counts of every convolution of the program for a platform."""
    text = jax.export.export(jax.jit(f), platforms=[platform])(*args).mlir_module()
    return sorted(re.findall(r"stablehlo\.convolution.*?(window = .*?\}) :", text)), text


@pytest.mark.parametrize("case", [CASES[i] for i in (2, 17, 30, 39, 44, 49, 53, 56, 62)], ids=str)
def test_accelerators_get_one_convolution_a_pass(rng, case):
    """Those of lax's own gradients: the CPU's formulations stay on the CPU."""
    x, w, dy, groups, pairs, window, _ = setup(rng, case, "float32")

    def passes(convolution):
        def run(x, w, dy):
            y, pullback = jax.vjp(convolution, x, w)
            return y, *pullback(dy)

        return run

    ours = passes(functools.partial(conv, groups=groups, **pairs))
    theirs = passes(functools.partial(lax_convolution, window=window, groups=groups))
    for platform in ("cuda", "rocm", "tpu"):
        expected, _ = convolutions(theirs, platform, x, w, dy)
        found, text = convolutions(ours, platform, x, w, dy)
        assert len(expected) == 3
        assert found == expected
        assert not re.search(r"stablehlo\.(reduce|gather|scatter|select_and_scatter)", text)
    assert convolutions(ours, "cpu", x, w, dy)[0] != expected


@pytest.mark.parametrize("platform", ["cpu", "cuda", "rocm", "tpu"])
def test_pooling_needs_no_scatter(rng, platform):
    x = normal(rng, 2, 9, 8, 3, dtype="float32")
    for pool in (max_pool, avg_pool):
        gradient = jax.grad(lambda x, pool=pool: pool(x, 3, stride=2, padding="SAME").sum())
        text = jax.export.export(jax.jit(gradient), platforms=[platform])(x).mlir_module()
        assert not re.search(r"stablehlo\.(gather|scatter|select_and_scatter|reduce_window)", text)


@pytest.mark.devices(2)
@pytest.mark.parametrize(
    "case",
    [
        ((8, 9, 8, 4), (3, 3, 1, 4), 4, dict(padding="SAME"), "ddd"),
        ((8, 9, 8, 4), (3, 3, 1, 4), 4, dict(stride=2, padding=1), "ddd"),
        ((8, 40, 4), (5, 1, 4), 4, dict(), "ddd"),
        ((8, 4, 5, 5, 2), (3, 3, 3, 1, 2), 2, dict(), "ddd"),
        ((8, 5, 5, 8), (3, 3, 4, 8), 2, dict(), "uub"),
        ((8, 5, 5, 32), (3, 3, 16, 32), 2, dict(), "bbb"),
        ((8, 5, 5, 3), (1, 1, 3, 4), 1, dict(), "--p"),
        ((8, 24, 22, 16), (3, 3, 16, 4), 1, dict(stride=2), "-s-"),
        ((8, 9, 10, 1), (5, 5, 1, 6), 1, dict(), "nnn"),
    ],
    ids=str,
)
def test_a_sharded_batch_is_summed_once_and_never_gathered(rng, case):
    x, w, _, groups, pairs, _, _ = setup(rng, case)
    mesh = jax.sharding.Mesh(jax.devices()[:2], "data")  # its axis is Auto
    divided, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
    loss = lambda x, w: jnp.sum(jnp.sin(conv(x, w, groups=groups, **pairs)))
    step = jax.jit(jax.grad(loss, (0, 1)), out_shardings=(divided, whole))
    text = step.lower(jax.device_put(x, divided), jax.device_put(w, whole)).compile().as_text()
    found = re.findall(r" (all-\w+|collective-permute|reduce-scatter)(?:-start)?\(", text)
    assert found == ["all-reduce"]


LOOPED = {
    "dense": ((4, 9, 9, 20), (3, 3, 20, 24), dict(padding=1)),
    "one tap": ((4, 9, 9, 20), (1, 1, 20, 24), dict()),
    "strided": ((4, 24, 24, 20), (3, 3, 20, 24), dict(padding=1, stride=2)),
    "few channels, strided": ((4, 24, 24, 3), (7, 7, 3, 24), dict(padding=3, stride=2)),
    "dilated": ((4, 9, 9, 20), (3, 3, 20, 24), dict(padding=2, dilation=2)),
    "grouped": ((4, 9, 9, 64), (3, 3, 16, 64), dict(padding=1, groups=4)),
    "line": ((4, 30, 20), (5, 20, 24), dict(padding=2)),
    "volume": ((2, 5, 6, 7, 8), (3, 3, 3, 8, 16), dict(padding=1)),
}


@pytest.mark.versions
@pytest.mark.parametrize("code", ["ours", "explicit"])
@pytest.mark.parametrize("layer", LOOPED)
def test_loops_run_convolutions_in_the_layout_that_is_fast_there(layer, code):
    """XLA:CPU lays a convolution's arrays out anew outside of loops only."""
    shape, kernel, options = LOOPED[layer]
    layer = functools.partial(conv, **options)
    if code == "explicit":
        layer = explicit(functools.partial(stock_convolution, options=options))
    loss = lambda x, w: jnp.sum(jnp.sin(layer(x, w)))

    def summed(xs, w):
        step = lambda total, x: (total + jax.grad(loss, 1)(x, w), jax.grad(loss)(x, w))
        return jax.lax.scan(step, jnp.zeros_like(w), xs)

    xs = jax.ShapeDtypeStruct((2, *shape), "float32")
    text = jax.jit(summed).lower(xs, jax.ShapeDtypeStruct(kernel, "float32")).as_text()
    layouts = set(re.findall(r"dim_numbers = (\S+x\S+->.+?\])", text.replace(", ", ",")))
    channels_last = r"\[b,((?:\d,)+)f\]x\[\1i,o\]->\[b,\1f\]"
    assert layouts
    assert all(re.fullmatch(channels_last, layout) for layout in layouts), layouts


def stock_convolution(x, w, options):
    """What Flax's layers call."""
    ndim = x.ndim - 2
    space = "DHW"[-ndim:]
    pad, stride, dilation = (
        options.get(n, d) for n, d in (("padding", 0), ("stride", 1), ("dilation", 1))
    )
    return jax.lax.conv_general_dilated(
        x, w, (stride,) * ndim, [(pad, pad)] * ndim, rhs_dilation=(dilation,) * ndim,
        dimension_numbers=(f"N{space}C", f"{space}IO", f"N{space}C"),
        feature_group_count=options.get("groups", 1),
    )  # fmt: skip


def test_the_door_names_the_arrays_to_the_choice_in_order(monkeypatch):
    """A choice is made of shapes: of arrays in another order it would be another one."""
    asked = {}
    for name in ("correlation", "input_gradient", "kernel_gradient"):

        def record(a, b, window, groups, precision, name=name):
            asked[name] = a.shape, b.shape, window, groups, precision

        monkeypatch.setattr(cpu, name, record)
    for name in ("window_sum", "window_spread"):
        monkeypatch.setattr(
            cpu, name, lambda a, window, n=name: asked.update({n: (a.shape, window)})
        )
    window = make_window((9, 8), (3, 2), 2, 0, 1)
    x, w, dy = jnp.ones((2, 9, 8, 4)), jnp.ones((3, 2, 2, 6)), jnp.ones((2, 4, 4, 6))
    out = ArrayType(x.dtype)
    _lowering.correlate(x, w, window, 2, "highest", out)
    _lowering.input_gradient(dy, w, window, 2, "highest", out)
    _lowering.kernel_gradient(x, dy, window, 2, "highest", out)
    _lowering.sum_over_windows(x, window)
    _lowering.spread_over_windows(dy, window)
    assert asked == {
        "correlation": (x.shape, w.shape, window, 2, "highest"),
        "input_gradient": (dy.shape, w.shape, window, 2, "highest"),
        "kernel_gradient": (x.shape, dy.shape, window, 2, "highest"),
        "window_sum": (x.shape, window),
        "window_spread": (dy.shape, window),
    }


# x, w, options: one, two and three dimensions
UNSHARED = [
    ((2, 9, 2), (4, 3, 2, 5), dict(stride=2)),
    ((2, 7, 8, 3), (4, 3, 3, 3, 3, 2), dict(stride=(2, 3), padding=((1, 1), (0, 1)))),
    ((1, 3, 4, 4, 1), (2, 2, 3, 2, 3, 2, 1, 2), dict(padding=((0, 0), (-1, 1), (0, 0)))),
]


@pytest.mark.parametrize("x, w, options", UNSHARED, ids=str)
def test_few_products_with_a_kernel_for_every_position(rng, x, w, options):
    x, w = normal(rng, *x), normal(rng, *w)
    ndim = x.ndim - 2
    options = dict(padding="VALID", stride=1, dilation=1) | options
    window = make_window(x.shape[1:-1], w.shape[ndim:-2], **options)
    sums = functools.partial(unshared.correlate_few, window=window)
    products = functools.partial(
        on_every_platform.correlate, window=window, precision=None, out=ArrayType(x.dtype)
    )
    assert_close(jax.jit(sums)(x, w), jax.jit(products)(x, w))


def test_when_products_are_few(monkeypatch):
    """Where each position has its own kernel, and a pooling behind it would not compute it anew."""
    shapes = lambda *shapes: [jax.ShapeDtypeStruct(shape, "float32") for shape in shapes]
    window = make_window((8, 8), (5, 5), 1, "VALID", 1)

    def chosen(channels, tiles):
        x, w = shapes((2, 8, 8, channels), (*tiles, 5, 5, channels, 4))
        return cpu.unshared_correlation(x, w, window) is not None

    monkeypatch.setattr(cpu, "SUMS_ONCE", True)
    assert chosen(1, (4, 4)) and chosen(8, (4, 4))
    assert not chosen(9, (4, 4)) and not chosen(1, (2, 4))
    monkeypatch.setattr(cpu, "SUMS_ONCE", False)
    assert not chosen(1, (4, 4))
