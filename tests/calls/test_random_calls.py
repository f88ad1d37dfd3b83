"""Calls at random, held against what the documentation allows and the shapes that come out."""

import inspect
import math
import os
import re
import traceback
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from documented import SHAPES_OF, NotAllowedError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from right_calls import ARRAYS, KEY, PUBLIC, C, Foreign, ones, traced

import cnnvjp

PACKAGE = str(Path(cnnvjp.__file__).parent)

ANYTHING = [
    None, True, False, 0, 1, 2, 3, -1, -2, 2**31, 10**400, 0.5, 1.0, -0.5, 2.5, 1e300,
    math.nan, math.inf, -math.inf, 1j, "", "SAME", "VALID", "same", "first", "2", b"22", (), [],
    (1,), (2,), [2, 2], (1, 2), (0, 1), (1, -1), (1, None), (1.0, 1.0), (True, True), (1, 1, 1),
    (2, 2, 2, 2), ((1, 1),), ((1, 0), (0, 1)), ((1, 1, 1), (1, 1, 1)), ("SAME", "SAME"), {},
    {"x": 1}, {2}, range, object(), Foreign(), np.float32, jnp.int32, jnp.dtype("float32"),
    np.int64(2), np.float64(2), np.float32(0.5), np.bool_(True), np.array(2), np.array([2, 2]),
    np.array([[1, 1], [1, 1]]), np.array(["first", "SAME"]), np.array([None, 1]),
    jax.ShapeDtypeStruct((2, 6, 6, 4), "float64"), KEY, jax.random.split(KEY),
    np.zeros(2, "uint32"), np.zeros(3, "uint32"), np.ma.array([1.0, 2.0], mask=[0, 1]),
    ones((), "int32"), ones(4, bool), ones(4, "complex64"), ones(4, "int4"),
]  # fmt: skip
SIZES = [(), (4,), (2,), (2, 4), (0,), (5, 4), (2, 0, 4), (6, 6, 4), (2, 6, 6, 4), (2, 6, 6, 0)]
SIZES += [(0, 6, 6, 4), (2, 0, 6, 4), (3, 3, 4, 4), (2, 3, 3, 2, 2, 4), (1,) * 7]
ANYTHING += [jnp.asarray(np.ones(s, d)) for s in SIZES for d in ("float64", "float32", "int32")]


def per_axis(low, high):
    def drawn(draw, ndim):
        numbers = st.integers(low, high)
        return draw(numbers | st.tuples(*[numbers] * ndim))

    return drawn


def padding(draw, ndim):
    number = st.integers(-1, 2)
    pairs = st.tuples(*[st.tuples(number, number)] * ndim)
    names = st.sampled_from(["VALID", "SAME", "SAME_LOWER", "FULL"])
    return draw(names | number | st.tuples(*[number] * ndim) | pairs)


def one_of(*values):
    return lambda draw, ndim: draw(st.sampled_from(values))


OPTIONS = {
    "stride": per_axis(1, 3),
    "padding": padding,
    "dilation": per_axis(1, 2),
    "offset": per_axis(0, 2),
    "output_size": per_axis(1, 9),
    "input_size": per_axis(1, 9),
    "groups": one_of(1, 2, 4),
    "precision": one_of("highest", ("high", "default"), ["highest"] * 2, jax.lax.Precision.HIGH),
    "preferred_element_type": one_of("float32", "bfloat16", jnp.float64),
    "spatial_ndim": lambda draw, ndim: ndim,
    "ties": one_of("first", "split"),
    "order": one_of("row", "column"),
    "mode": one_of("constant", "reflect", "edge", "circular"),
    "method": one_of("nearest", "nearest-exact", "linear", "cubic"),
    "value": one_of(0, 1, -1.5, np.float32(2), np.inf),
    "p": one_of(1, 1.5, 2, 3),
    "eps": one_of(0, 1e-3, np.float32(1e-3)),
    "axis": one_of(0, -1, 1, -2, (0, 1), None),
    "axis_name": one_of(None, (), []),
    "broadcast_axes": one_of(0, (0, 1), [-2], ()),
    "b": lambda draw, ndim: draw(st.sampled_from([ones(4), ones(5)])),
    "negative_slope": one_of(0, 0.1, -2),
    "alpha": one_of(0, 0.1, 2),
}
FLAG = one_of(True, False)


def image(draw, ndim, channels=4):
    batch = draw(st.lists(st.integers(0, 2), max_size=2))
    size = draw(st.tuples(*[st.integers(1, 6)] * ndim))
    return ones((*batch, *size, channels), draw(st.sampled_from(["float64", "float64", "int32"])))


def images(*names, **more):
    """Required arguments of a function: equal images, then drawn ones, then fixed ones."""

    def drawn(draw, ndim):
        x = image(draw, ndim)
        return {name: x for name in names} | {
            name: value(draw, ndim) if callable(value) else value for name, value in more.items()
        }

    return drawn


def convolved(draw, ndim):
    x, k = image(draw, ndim), draw(st.tuples(*[st.integers(1, 3)] * ndim))
    groups = draw(st.sampled_from([1, 1, 2, 4]))
    b = draw(st.sampled_from([None, ones(4, x.dtype)]))
    return {"x": x, "w": ones((*k, 4 // groups, 4), x.dtype), "b": b, "groups": groups}


def transposed(draw, ndim):
    call = convolved(draw, ndim)
    return {"y": call.pop("x"), **call}


def cotangent(draw, ndim):
    k = draw(st.tuples(*[st.integers(1, 2)] * ndim))
    x = ones((2, *[5] * ndim, 4))
    return {"x": x, "dy": ones((2, *[6 - m for m in k], 4)), "kernel_size": k}


def patches(draw, ndim):
    k = draw(st.tuples(*[st.integers(1, 2)] * ndim))
    return {
        "patches": ones((2, *[4] * ndim, *k, 3)),
        "output_size": tuple(3 + m for m in k),
    }


def sampled(draw, ndim):
    x = image(draw, ndim)
    return {
        "x": x,
        "positions": ones((*x.shape[: -1 - ndim], 3, ndim), x.dtype),
        "method": draw(st.sampled_from(["nearest", "linear", "cubic"])),
        "padding": draw(st.sampled_from(["zeros", "edge", "reflect", "mirror", "circular"])),
    }


WINDOW = images("x", window=per_axis(1, 3))
FACTOR = images("x", factor=per_axis(1, 2))
REQUIRED = dict.fromkeys(SHAPES_OF, images("x")) | {
    "conv": convolved,
    "conv_transpose": transposed,
    "conv_kernel_grad": cotangent,
    **dict.fromkeys(["max_pool", "min_pool", "avg_pool", "sum_pool", "lp_pool", "unfold"], WINDOW),
    "weighted_avg_pool": images("x", window=per_axis(1, 3), weight=C),
    "max_unpool": lambda draw, ndim: (
        (x := image(draw, ndim)),
        {"y": x, "argmax": x.astype(int), "output_size": per_axis(1, 9)(draw, ndim)},
    )[1],
    **dict.fromkeys(["adaptive_avg_pool", "adaptive_max_pool"], images("x", output_size=per_axis(1, 7))),
    **dict.fromkeys(["downsample", "upsample", "repeat", "pixel_shuffle", "pixel_unshuffle"], FACTOR),
    "resize": images("x", size=per_axis(1, 9)),
    "sample": sampled,
    "normalized_positions": lambda draw, ndim: {"grid": ones((2, 3, ndim)), "size": per_axis(1, 9)(draw, ndim)},
    "affine_positions": lambda draw, ndim: {"matrix": ones((2, ndim, ndim + 1)), "output_size": per_axis(1, 9)(draw, ndim)},
    "pad": images("x", padding=padding),
    "fold": patches,
    **dict.fromkeys(["add_bias", "scale"], images("z", b=C)),
    "dense": images("x", w=ones((4, 5))),
    "unflatten": lambda draw, ndim: {"v": ones((3, 12)), "shape": draw(st.sampled_from([(2, 3, 2), (12, 1), [1, 3, 4, 1], (2, 6)]))},
    "prelu": images("x", slope=C),
    "standardize": images("x", mean=C, std=C),
    **dict.fromkeys(["batch_norm", "layer_norm"], images("x", gamma=C, beta=C)),
    "batch_norm_inference": images("x", gamma=C, beta=C, mean=C, var=C),
    "group_norm": images("x", gamma=C, beta=C, groups=one_of(1, 2, 4)),
    "dropout": images("x", key=KEY, rate=one_of(0, 0.5, 1)),
    "l2_penalty": images("params"),
    "half_squared_error": images("y", "t"),
    "softmax_cross_entropy": images("logits", "labels"),
    "sigmoid_cross_entropy": images("logits", "labels"),
}  # fmt: skip


@st.composite
def calls(draw, name):
    """Arguments of a public function that may fit, up to two of them then replaced."""
    ndim = draw(st.sampled_from([1, 2, 2, 2, 3]))
    call = REQUIRED[name](draw, ndim)
    for option in inspect.signature(PUBLIC[name]).parameters.values():
        if option.name not in call:
            given = draw(st.booleans()) or (option.name == "spatial_ndim" and ndim != 2)
            value = OPTIONS.get(option.name, FLAG)
            call[option.name] = value(draw, ndim) if given else option.default
    for replaced in draw(st.lists(st.sampled_from(sorted(call)), max_size=2)):
        call[replaced] = draw(st.sampled_from(ANYTHING))
    return call


def outcome(f, call):
    """The shapes and dtypes that come out, or the error."""
    try:
        outputs = f(**call)
    except (TypeError, ValueError) as error:
        return error
    return [(y.shape, y.dtype) for y in jax.tree.leaves(outputs)]


DEEP = os.environ.get("HYPOTHESIS_PROFILE") == "deep"
RANDOM = settings(
    max_examples=500 if DEEP else 15,
    derandomize=not DEEP,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@pytest.mark.parametrize("name", SHAPES_OF)
def test_random_calls(name):
    f, parameters = PUBLIC[name], inspect.signature(PUBLIC[name]).parameters
    options = [p for p in parameters if p not in ARRAYS | {"params", "key"}]

    @RANDOM
    @given(calls(name))
    def check(call):
        try:
            expected = SHAPES_OF[name](call)
        except NotAllowedError:
            expected = None
        for got in (outcome(f, call), outcome(traced(f, *options), call)):
            if expected is not None:
                assert got == expected
                continue
            assert type(got) in (TypeError, ValueError)
            assert re.match(r"\w*", str(got)).group() in parameters, got
            assert traceback.extract_tb(got.__traceback__)[-1].filename.startswith(PACKAGE), got

    check()
