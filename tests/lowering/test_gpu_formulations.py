"""Convolution of integers as GPUs compute it, against XLA's own."""

import functools

import jax
import jax.export
import pytest
from checker import assert_close, integers
from references import lax_conv

from cnnvjp import _lowering, conv, conv_kernel_grad, conv_transpose
from cnnvjp._lowering import gpu
from cnnvjp._types import ArrayType
from cnnvjp._windows.geometry import make_window

# x, w, options: one to three dimensions, groups, and more taps than are unrolled
CASES = [
    ((2, 9, 3), (3, 3, 2), dict(stride=2, padding=1)),
    ((2, 6, 7, 4), (3, 2, 4, 5), dict(dilation=(1, 2), padding=((-1, 2), (1, 0)))),
    ((2, 6, 7, 4), (3, 3, 2, 6), dict(groups=2, stride=(2, 3), padding="SAME")),
    ((1, 5, 6, 3), (2, 2, 1, 6), dict(groups=3)),
    ((1, 4, 5, 4, 2), (2, 3, 2, 2, 3), dict(stride=(1, 2, 1), padding=1)),
    ((1, 70, 2), (66, 2, 3), dict(stride=2)),
]


@pytest.mark.versions
@pytest.mark.parametrize("dtype", ["int32", "uint8"])
@pytest.mark.parametrize("x_shape, w_shape, options", CASES, ids=str)
def test_taps_of_integers(rng, x_shape, w_shape, options, dtype):
    x, w = (integers(rng, *shape, dtype=dtype, low=0, high=100) for shape in (x_shape, w_shape))
    options = dict(options)
    groups = options.pop("groups", 1)
    y = lax_conv(x, w, groups=groups, **options)
    window = make_window(
        x_shape[1:-1], w_shape[:-2], options.get("stride", 1), options.get("padding", "VALID"),
        options.get("dilation", 1),
    )  # fmt: skip
    dy = integers(rng, *y.shape, dtype=dtype, low=0, high=100)
    out = ArrayType(x.dtype)
    for name, of_integers, operands in (
        ("correlate", gpu.correlate, (x, w)),
        ("input_gradient", gpu.input_gradient, (dy, w)),
        ("kernel_gradient", gpu.kernel_gradient, (x, dy)),
    ):
        theirs = getattr(_lowering, name)(*operands, window, groups, None, out)
        ours = jax.jit(functools.partial(of_integers, window=window, groups=groups))(*operands)
        assert ours.dtype == theirs.dtype
        assert_close(ours, theirs)


@pytest.mark.parametrize("preferred", [None, "int32"])
def test_gpus_are_given_no_convolution_of_integers(rng, preferred):
    x, w = integers(rng, 2, 6, 6, 4, dtype="int8"), integers(rng, 3, 3, 2, 6, dtype="int8")
    dy = integers(rng, 2, 4, 4, 6, dtype="int8")
    options = dict(groups=2, preferred_element_type=preferred)

    def three(x, w, dy):
        kernel = conv_kernel_grad(x, dy, 3, **options)
        return conv(x, w, **options), conv_transpose(dy, w, **options), kernel

    def convolutions(platform):
        exported = jax.export.export(jax.jit(three), platforms=[platform])(x, w, dy)
        return exported.mlir_module().count("stablehlo.convolution")

    assert [convolutions(platform) for platform in ("cpu", "cuda", "rocm")] == [3, 0, 0]
