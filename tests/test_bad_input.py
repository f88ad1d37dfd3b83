"""Calls that cannot be served: what they raise, and that it says what would fit.

First tables: every option and every array of every public function given what it cannot be, and
calls whose arguments do not fit together; eagerly, and with the arrays traced. Then calls at
random, held against an account of what the documentation allows that is independent of the
library, and of the shapes that come out.
"""

import inspect
import math
import numbers
import operator
import os
import re
import traceback
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from checker import message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType

import cnnvjp
from cnnvjp import Model, models, train

# ------------------------------------------------------------------------------------------
# A call of every public function that is right
# ------------------------------------------------------------------------------------------

KEY = jax.random.key(0)
X, C, W = jnp.ones((2, 6, 6, 4)), jnp.ones(4), jnp.ones((3, 3, 4, 6))
ROWS, LABELS = jnp.ones((2, 3)), jnp.ones(2, "int32")
IMAGES = jnp.ones((2, 10, 10, 1), "float32")

TEXTBOOK, RESNET = models.textbook(3, maps=(2, 2), kernel_size=3), models.resnet(8)
PARAMS, STATE = TEXTBOOK.init(KEY, (10, 10, 1))
RESNET_PARAMS, RESNET_STATE = jax.tree.map(
    lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
    jax.eval_shape(lambda: RESNET.init(KEY, (10, 10, 1))),
)
SGD, LOSS = optax.sgd(0.1), cnnvjp.softmax_cross_entropy
START = train.TrainState(jnp.zeros((), "int32"), PARAMS, STATE, SGD.init(PARAMS))
MESH = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])


def ones(shape, dtype="float64"):
    return jnp.asarray(np.ones(shape, jnp.dtype(dtype)))  # jnp.ones compiles for each shape


def forward(params, state, x, named, *, train, key):
    return named("n1", x), state


PUBLIC = {name: getattr(cnnvjp, name) for name in cnnvjp.__all__}
PUBLIC = {name: f for name, f in PUBLIC.items() if callable(f)}
FUNCTIONS = [name for name, f in PUBLIC.items() if inspect.isfunction(f)]
PUBLIC |= {f"models.{name}": getattr(models, name) for name in models.__all__}
PUBLIC |= {
    f"train.{name}": f
    for name, f in vars(train).items()
    if getattr(f, "__module__", "") == train.__name__ and inspect.isfunction(f) and name[0] != "_"
}
STEPS = {
    "step": train.make_train_step(TEXTBOOK, LOSS, SGD),
    "step on a mesh": train.make_train_step(TEXTBOOK, LOSS, SGD, mesh=MESH),
    "evaluation": train.make_eval_step(TEXTBOOK, LOSS),
    "evaluation on a mesh": train.make_eval_step(TEXTBOOK, LOSS, mesh=MESH),
}
PUBLIC |= STEPS | {
    "Model.named": Model.named,
    "Model.init": TEXTBOOK.init,
    "Model.apply": TEXTBOOK.apply,
    "Model.intermediates": TEXTBOOK.intermediates,
    "Model.apply with statistics": RESNET.apply,
}

IMAGE, POOL, BLOCKS = dict(x=X), dict(x=X, window=2), dict(x=X, factor=2)
CHANNELS = dict(x=X, gamma=C, beta=C)
STEP = dict(train_state=START, batch=(IMAGES, LABELS), key=KEY)
EVALUATION = dict(train_state=START, batch=(IMAGES, LABELS))
CALLS = dict.fromkeys(FUNCTIONS, IMAGE) | {
    "conv": dict(x=X, w=W, b=jnp.ones(6)),
    "conv_transpose": dict(y=X, w=W[..., :4], b=C),
    "conv_general_dilated": dict(
        lhs=X,
        rhs=W,
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    ),
    "explicit": dict(f=cnnvjp.relu),
    "conv_kernel_grad": dict(x=X, dy=jnp.ones((2, 4, 4, 6)), kernel_size=3),
    **dict.fromkeys(["max_pool", "min_pool", "avg_pool", "sum_pool", "lp_pool", "unfold"], POOL),
    "weighted_avg_pool": dict(x=X, weight=C, window=2),
    "max_unpool": dict(y=X, argmax=X.astype("int32"), output_size=8),
    **{name: dict(x=X, output_size=3) for name in ["adaptive_avg_pool", "adaptive_max_pool"]},
    **dict.fromkeys(["downsample", "upsample", "repeat"], BLOCKS),
    **dict.fromkeys(["pixel_shuffle", "pixel_unshuffle"], BLOCKS),
    "resize": dict(x=X, size=3),
    "pad": dict(x=X, padding=1),
    "fold": dict(patches=jnp.ones((2, 5, 5, 2, 2, 4)), output_size=6),
    **{name: dict(z=X, b=C) for name in ["add_bias", "scale"]},
    "dense": dict(x=X, w=W[0, 0], b=jnp.ones(6)),
    "unflatten": dict(v=jnp.ones((2, 12)), shape=(2, 3, 2)),
    "prelu": dict(x=X, slope=C),
    "standardize": dict(x=X, mean=C, std=C),
    **dict.fromkeys(["batch_norm", "layer_norm"], CHANNELS),
    "batch_norm_inference": dict(**CHANNELS, mean=C, var=C),
    "group_norm": dict(**CHANNELS, groups=2),
    "dropout": dict(key=KEY, x=X, rate=0.5),
    "l2_penalty": dict(params={"w": X, "b": [C]}),
    "half_squared_error": dict(y=ROWS, t=ROWS),
    "softmax_cross_entropy": dict(logits=ROWS, labels=ROWS),
    "sigmoid_cross_entropy": dict(logits=ROWS, labels=ROWS),
    **{f"models.{name}": {} for name in models.__all__},
    "Model": dict(init=TEXTBOOK.init, apply=TEXTBOOK.apply),
    "Model.named": dict(init=TEXTBOOK.init, forward=forward),
    "Model.init": dict(key=KEY, input_shape=(10, 10, 1)),
    "Model.apply": dict(params=PARAMS, state=STATE, x=IMAGES, train=False),
    "Model.intermediates": dict(params=PARAMS, state=STATE, x=IMAGES),
    "Model.apply with statistics": dict(
        params=RESNET_PARAMS, state=RESNET_STATE, x=IMAGES, train=False
    ),
    "train.create": dict(key=KEY, model=TEXTBOOK, optimizer=SGD, input_shape=(10, 10, 1)),
    "train.make_train_step": dict(model=TEXTBOOK, loss=LOSS, optimizer=SGD),
    "train.make_eval_step": dict(model=TEXTBOOK, loss=LOSS),
    "step": STEP,
    "step on a mesh": STEP,
    "evaluation": EVALUATION,
    "evaluation on a mesh": EVALUATION,
}


def traced(f, *known):
    """`f` with arrays traced, and known as before what is none or is named."""

    def call(**arguments):
        fixed = {name: arguments.pop(name) for name in known}
        leaves, tree = jax.tree.flatten(arguments)
        is_array = [isinstance(leaf, jax.Array) for leaf in leaves]

        def run(arrays):
            found = iter(arrays)
            mixed = [next(found) if a else v for a, v in zip(is_array, leaves, strict=True)]
            return f(**jax.tree.unflatten(tree, mixed), **fixed)

        arrays = [leaf for leaf, a in zip(leaves, is_array, strict=True) if a]
        return jax.eval_shape(run, arrays) if arrays else f(**arguments, **fixed)

    return call


def test_every_public_function_is_called():
    assert set(CALLS) == set(PUBLIC) == {name for name, *_ in WRONG} | set(FUNCTIONS)


@pytest.mark.parametrize("name", [name for name in PUBLIC if name not in STEPS])
def test_right_calls(name):
    """What makes the calls below wrong is what they replace."""
    traced(PUBLIC[name])(**CALLS[name])


# ------------------------------------------------------------------------------------------
# What an argument cannot be, whatever the others are
# ------------------------------------------------------------------------------------------


class Foreign:
    """What looks like an array and is none that JAX knows."""

    shape, ndim, dtype = (2, 6, 6, 4), 4, "float64"


NO_ARRAYS = [None, "1", [[1.0]], (1.0,), {2.0}, True, 1j, Foreign(), np.float32]
NO_ARRAYS += [jax.ShapeDtypeStruct((2, 6, 6, 4), "float64"), np.ma.array([1.0], mask=[True])]
NO_DTYPES = ["bool", "complex64", "int4", "float8_e4m3fn"]
NOT_PER_AXIS = [-1, 1.5, True, "2", b"22", (1, None), (1.0, 1), (2, -1), (True, 1), np.float64(2)]
NOT_PER_AXIS += [np.array([1.5, 1.5]), {2}, 1j, object, jnp.ones(2)]
NOT_PADDING = [1.5, True, None, (1, None), ((1,), (1,)), ((1, 1, 1), (1, 1, 1)), ((1, 1), 1)]
NOT_PADDING += [("SAME", "SAME"), b"11", ((1, 1.0), (1, 1)), {1}, jnp.ones(2)]
NOT_FLAGS = ["yes", 1, 0.0, None, (), np.array([True, False]), jnp.ones((), bool)]
NOT_CHOICES = ["last", "", None, 1, True, ["first"], ("row",), np.array(["a", "b"])]
NOT_NUMBERS = [None, "1", True, 1j, math.nan, math.inf, -math.inf, 10**400, (1.0,), jnp.ones(())]
NOT_COUNTS = [0, -1, 1.0, True, None, "2", (2,), jnp.ones(())]
NOT_PRECISIONS = ["best", 3, True, ("high",) * 3, (), (None, "high"), ["best"] * 2, {}]
ARRAYS = {"x", "y", "z", "v", "w", "b", "dy", "t", "patches", "weight", "slope", "logits"}
ARRAYS |= {"labels", "mean", "std", "var", "gamma", "beta"}
PER_AXIS = ["stride", "dilation", "window", "factor", "size", "output_size", "kernel_size"]
FLAGS = ["flip_kernel", "ceil_mode", "count_include_pad", "return_argmax"]
FLAGS += ["align_corners", "antialias", "approximate"]
AN_INT = "it must be an int or a sequence of 2 ints, each at least"
FLOAT = "float16, bfloat16, float32 or float64"
BY_NAME = {  # of an option: what it cannot be, the error, and what would fit
    **dict.fromkeys(PER_AXIS, ([0, *NOT_PER_AXIS], ValueError, f"{AN_INT} 1")),
    "offset": (NOT_PER_AXIS, ValueError, f"{AN_INT} 0"),
    "padding": (NOT_PADDING, ValueError, "an int, a sequence of 2 ints, or of 2 pairs (before, a"),
    **dict.fromkeys(FLAGS, (NOT_FLAGS, TypeError, "it must be True or False")),
    "ties": (NOT_CHOICES, ValueError, "it must be 'first' or 'split'"),
    "order": (NOT_CHOICES, ValueError, "it must be 'row' or 'column'"),
    "mode": (NOT_CHOICES, ValueError, "it must be one of constant, reflect, edge, circular"),
    "method": (NOT_CHOICES, ValueError, "it must be one of nearest, nearest-exact, linear, cubic"),
    "groups": (NOT_COUNTS, ValueError, "it must be an int of at least 1"),
    "eps": ([-1e-9, *NOT_NUMBERS], ValueError, "it must be a finite Python number of at least 0"),
    "rate": ([-0.1, 1.1, *NOT_NUMBERS], ValueError, "a finite Python number from 0 to 1"),
    "p": ([0.9, *NOT_NUMBERS], ValueError, "it must be a finite Python number of at least 1"),
    "negative_slope": (NOT_NUMBERS, ValueError, "it must be a finite Python number"),
    "alpha": (NOT_NUMBERS, ValueError, "it must be a finite Python number"),
    "spatial_ndim": (["2", 1.5, True, (2,), 1j], ValueError, "it must be 1, 2 or 3"),
    "precision": (NOT_PRECISIONS, ValueError, "it must be None, 'default', 'high', 'highest', a"),
    "preferred_element_type": (["foo", "int32", "bool", 3, X], TypeError, f"it must be {FLOAT}"),
}
INTEGERS = {"conv", "conv_transpose", "conv_kernel_grad", "max_pool", "min_pool", "max_unpool"}
INTEGERS |= {"sum_pool", "global_max_pool", "adaptive_max_pool", "downsample", "upsample", "repeat"}
INTEGERS |= {"pad", "pixel_shuffle", "pixel_unshuffle", "unfold", "fold", "flatten", "unflatten"}


def wrong_options(name):
    """Each option of a function, given what it cannot be."""
    if name == "conv_general_dilated":
        return  # lax reads them
    for option, parameter in inspect.signature(PUBLIC[name]).parameters.items():
        values, kind, fitting = BY_NAME.get(option, ([], None, ""))
        if fitting.startswith(AN_INT) and parameter.default is not None:
            values = [None, *values]
        for value in values:
            got = "" if isinstance(value, jax.Array) else re.escape(repr(value))
            yield name, {option: value}, kind, rf"^{option}: got {got}.*; .*{re.escape(fitting)}"


def wrong_arrays(name):
    """Each array of a function, given what it cannot be."""
    arrays = {k: v for k, v in CALLS[name].items() if k in ARRAYS and isinstance(v, jax.Array)}
    welcome = f"it must be {FLOAT}" + ", or an integer of 8 to 64 bits" * (name in INTEGERS)
    for argument, value in arrays.items():
        for wrong in NO_ARRAYS:
            if wrong is not None or argument != "b" or name in ("add_bias", "scale"):
                yield name, {argument: wrong}, TypeError, rf"^{argument}: got .*; it must be "
        labels = name == "softmax_cross_entropy" and argument == "labels"
        for dtype in NO_DTYPES + ["int32"] * (name not in INTEGERS and not labels):
            text = rf"^{argument}: got an array of {dtype}; {welcome}$"
            yield name, {argument: ones(value.shape, dtype)}, TypeError, text
        first = next(iter(arrays))
        if argument != first:
            first = {"var": "mean"}.get(argument, first)
            text = rf"^{argument}: got float32, but {first} is float64; .* as in {argument}\.astype"
            if argument != "mean" or name == "standardize":
                yield name, {argument: value.astype("float32")}, TypeError, text


# ------------------------------------------------------------------------------------------
# Arguments that do not fit together, or that only one function has
# ------------------------------------------------------------------------------------------

OLD_KEY = jnp.zeros(2, "uint32")
ONE_KEY = r"it must be one key, as from jax\.random\.key\(0\)"
WRONG = [
    # Shapes.
    ("conv", dict(x=X[0, 0]), ValueError, r"^x: got the shape \(6, 4\); with 2 spatial axes it must be \(\*batch, height, width, channels\)$"),
    ("conv", dict(x=X[..., :3]), ValueError, r"^x: got 3 channels; w of shape \(3, 3, 4, 6\) with groups=1 fits 4 · 1 = 4$"),
    ("conv", dict(x=W, w=X), ValueError, r"^w: its size 6 with dilation 1 covers 6 positions of spatial axis 1, which has 4"),
    ("conv", dict(w=W[0, 0]), ValueError, r"^w: got the shape \(4, 6\); .* without spatial axes the operation is cnnvjp\.dense$"),
    ("conv", dict(w=W[0, 0, 0]), ValueError, r"^w: got the shape \(6,\); it must be \(\*kernel, C_in // groups, C_out\) with 1, 2 or 3"),
    ("conv", dict(w=W[:0]), ValueError, r"^w: got the shape \(0, 3, 4, 6\); no axis may be empty$"),
    ("conv", dict(w=300), ValueError, r"^w: got the shape \(\); it must be"),
    ("conv", dict(x=X.astype("int8"), w=300), ValueError, r"^w: got 300, which int8 cannot hold; it must be in its range$"),
    ("conv", dict(x=X.astype("int8"), w=1.5), TypeError, r"^w: got the float 1\.5 beside arrays of int8; it must be an integer$"),
    ("conv", dict(b=C), ValueError, r"^b: got the shape \(4,\); it must be tied, \(6,\), or untied, \(4, 4, 6\)$"),
    ("conv", dict(b=1.0), TypeError, r"^b: got float; it must be an array of float64$"),
    ("conv_general_dilated", dict(lhs=X[..., :3]), ValueError, r"^conv_general_dilated lhs feature dimension size divided by feature_group_count must equal"),
    ("conv_general_dilated", dict(padding=3), ValueError, r"^padding argument to conv_general_dilated should be a string or a sequence of \(low, high\) pairs, got 3$"),
    *(("explicit", {argument: wrong}, TypeError, rf"^{argument}: got {type(wrong).__name__}; it must be a function$") for argument, wrong in [("f", None), ("f", 3), ("report", "print")]),
    ("conv_transpose", dict(y=X[..., :3]), ValueError, r"^y: got 3 channels; w of shape \(3, 3, 4, 4\) is the forward convolution's kernel, which has 4 output channels$"),
    ("conv_transpose", dict(y=X[:, :0]), ValueError, r"^y: got the spatial size \(0, 6\); every axis needs a position$"),
    ("conv_transpose", dict(b=jnp.ones(3)), ValueError, r"^b: got the shape \(3,\); it must be tied, \(4,\), or untied, \(8, 8, 4\)$"),
    ("conv_kernel_grad", dict(dy=X), ValueError, r"^dy: got the shape \(2, 6, 6, 4\); for x of shape \(2, 6, 6, 4\) and kernel_size \(3, 3\) the output of the forward convolution is \(2, 4, 4, C_out\)$"),
    ("conv_kernel_grad", dict(dy=C), ValueError, r"^dy: got the shape \(4,\); with 2 spatial axes it must be"),
    ("weighted_avg_pool", dict(weight=ROWS), ValueError, r"^weight: got the shape \(2, 3\); it must be one number, \(\), or one per channel, \(4,\)$"),
    ("weighted_avg_pool", dict(weight=10**400), ValueError, r"^weight: got 10+, which float64 cannot hold; it must be in its range$"),
    ("max_unpool", dict(argmax=LABELS), ValueError, r"^argmax: got the shape \(2,\); it must be that of y, \(2, 6, 6, 4\)$"),
    ("max_unpool", dict(argmax=X), TypeError, r"^argmax: got float64; it must be an array of integers$"),
    ("max_unpool", dict(argmax=jnp.int32), TypeError, r"^argmax: got int32; it must be an array of integers$"),
    ("max_unpool", dict(argmax=jax.ShapeDtypeStruct(X.shape, "int32")), TypeError, r"^argmax: got ShapeDtypeStruct; it must be an array of integers$"),
    ("max_unpool", dict(argmax=None), TypeError, r"^argmax: got NoneType; it must be an array of integers$"),
    *(
        (name, {next(iter(CALLS[name])): wrong}, ValueError, text)
        for name in ["max_pool", "min_pool", "avg_pool", "sum_pool", "lp_pool", "weighted_avg_pool", "unfold", "global_avg_pool", "global_max_pool", "adaptive_avg_pool", "adaptive_max_pool", "downsample", "upsample", "repeat", "pixel_shuffle", "pixel_unshuffle", "resize", "pad"]
        for wrong, text in [
            (X[0, 0], r"^x: got the shape \(6, 4\); with 2 spatial axes it must be \(\*batch, height, width, channels\)$"),
            (X[:, :0], r"^x: got the spatial size \(0, 6\); every axis needs a position$"),
        ]
    ),
    ("flatten", dict(x=C), ValueError, r"^x: got the shape \(4,\); with 2 spatial axes it must be"),
    ("fold", dict(patches=X), ValueError, r"^patches: got the shape \(2, 6, 6, 4\); with 2 spatial axes it must be \(\*batch, \*out_spatial, \*window, channels\), with 2 sizes of at least 1"),
    ("add_bias", dict(b=jnp.ones(6)), ValueError, r"^b: got the shape \(6,\); beside an array of shape \(2, 6, 6, 4\) it must be tied, \(4,\), or untied, of the shape of the last axes$"),
    ("add_bias", dict(b=1.0), ValueError, r"^b: got the shape \(\); .* it must be tied, \(4,\)"),
    ("scale", dict(b=1e300, z=X.astype("float32")), ValueError, r"^b: got 1e\+300, which float32 cannot hold; it must be in its range$"),
    ("scale", dict(b=1e39, z=X.astype("bfloat16")), ValueError, r"^b: got 1e\+39, which bfloat16 cannot hold"),
    ("dense", dict(x=C[:3]), ValueError, r"^x: got the shape \(3,\); for w of shape \(4, 6\) it is \(\*batch, 4\)$"),
    ("dense", dict(w=X), ValueError, r"^w: got the shape \(2, 6, 6, 4\); it must be \(n_in, n_out\)$"),
    ("dense", dict(b=X), ValueError, r"^b: got the shape \(2, 6, 6, 4\); for w of shape \(4, 6\) it is \(6,\)$"),
    ("prelu", dict(slope=X), ValueError, r"^slope: got the shape \(2, 6, 6, 4\); for x of shape \(2, 6, 6, 4\) it must be \(\) or \(4,\)$"),
    ("standardize", dict(std=ROWS), ValueError, r"^std: got the shape \(2, 3\); .* it must be tied, \(\), \(4,\), or untied"),
    ("standardize", dict(mean=-(10**400)), ValueError, r"^mean: got -10+, which float64 cannot hold"),
    *(
        (name, {argument: wrong}, ValueError, rf"^{argument}: got the shape {re.escape(str(np.shape(wrong)))}; for x of shape \(2, 6, 6, 4\) it must be \(4,\), one number per channel$")
        for name in ["batch_norm", "batch_norm_inference", "layer_norm", "group_norm"]
        for argument in ["gamma", "beta"]
        for wrong in [1.0, jnp.ones(3), jnp.ones((1, 4))]
    ),
    ("batch_norm", dict(x=X[:0]), ValueError, r"^x: got the shape \(0, 6, 6, 4\); without a position it has no mean$"),
    ("batch_norm_inference", dict(mean=C.astype("float32"), var=C.astype("float32")), TypeError, r"^mean: got float32; for x of float64 it must be float64 or float64$"),
    ("layer_norm", dict(x=1.0), ValueError, r"^x: got the shape \(\); it must be \(\*batch, \*spatial, C\)$"),
    ("half_squared_error", dict(t=C), ValueError, r"^t: got the shape \(4,\); it must be that of y, \(2, 3\)$"),
    ("sigmoid_cross_entropy", dict(labels=C), ValueError, r"^labels: got the shape \(4,\); it must be that of logits, \(2, 3\)$"),
    ("softmax_cross_entropy", dict(logits=ROWS[:, :0]), ValueError, r"^logits: got the shape \(2, 0\); it must be \(\.\.\., K\) with K ≥ 1$"),
    ("softmax_cross_entropy", dict(labels=LABELS[:1]), ValueError, r"^labels: got the shape \(1,\) of int32; for logits of shape \(2, 3\) it must be \(2,\) of integers, or \(2, 3\) of float64$"),
    ("softmax_cross_entropy", dict(labels=1), ValueError, r"^labels: got the shape \(\) of int32; .* it must be \(2,\) of integers"),
    ("softmax_cross_entropy", dict(labels=10**30), ValueError, r"^labels: got 10+, which int32 cannot hold"),
    ("softmax_cross_entropy", dict(labels=jnp.int32), TypeError, r"^labels: got int32; it must be an array of integers$"),
    # Sizes and channels.
    ("conv", dict(groups=4), ValueError, r"^groups: got 4, which does not divide the 6 output channels of w$"),
    ("conv_transpose", dict(groups=3), ValueError, r"^groups: got 3, which does not divide the 4 output channels of w$"),
    ("conv_kernel_grad", dict(groups=4), ValueError, r"^groups: got 4, which does not divide the 6 channels of dy$"),
    ("group_norm", dict(groups=3), ValueError, r"^groups: got 3, which does not divide the 4 channels of x$"),
    ("conv", dict(dilation=3), ValueError, r"^w: its size 3 with dilation 3 covers 7 positions of spatial axis 0, which has 6 and padding \(0, 0\), 6 in all; use a smaller window or dilation, or more padding$"),
    ("conv", dict(padding=-3), ValueError, r"^w: its size 3 .* which has 6 and padding \(-3, -3\), 0 in all; use"),
    ("conv_kernel_grad", dict(kernel_size=7), ValueError, r"^kernel_size: its size 7 with dilation 1 covers 7 positions of spatial axis 0, which has 6"),
    *(
        (name, dict(window=7), ValueError, r"^window: its size 7 with dilation 1 covers 7 positions of spatial axis 0, which has 6 and padding \(0, 0\), 6 in all; use a smaller window")
        for name in ["max_pool", "min_pool", "avg_pool", "sum_pool", "lp_pool", "weighted_avg_pool", "unfold"]
    ),
    *(
        (name, dict(padding=3), ValueError, r"^padding: got 3; window 0 of spatial axis 0 \(size 2, dilation 1\) has no tap on the 6 positions of the input; use less padding$")
        for name in ["max_pool", "min_pool", "avg_pool", "sum_pool", "lp_pool", "weighted_avg_pool"]
    ),
    *(
        (name, dict(padding=padding, ceil_mode=True), ValueError, text)
        for name in ["max_pool", "min_pool", "avg_pool", "sum_pool", "lp_pool"]
        for padding, text in [("SAME", r"^ceil_mode: got True with padding='SAME', .*; give the padding in numbers, or ceil_mode=False$"), (-1, r"^padding: got -1, which crops the end of the input, with ceil_mode=True, .*; crop x first$")]
    ),
    ("conv_transpose", dict(output_size=9), ValueError, r"^output_size: got \(9, 9\); the forward convolution leads to the size \(6, 6\) from inputs of 8 × 8$"),
    ("conv_transpose", dict(output_size=9, stride=2), ValueError, r"^output_size: got \(9, 9\); .* inputs of 13…14 × 13…14$"),
    ("conv_transpose", dict(padding=5), ValueError, r"^padding: got 5; with it no input of spatial axis 0 leads to an output of 6 .*; use less padding$"),
    ("fold", dict(output_size=7), ValueError, r"^output_size: got \(7, 7\); unfolding leads to the size \(5, 5\) from inputs of 6 × 6$"),
    ("upsample", dict(output_size=14), ValueError, r"^output_size: got \(14, 14\); downsampling by \(2, 2\) leads to the size \(6, 6\) from inputs of 11…12 × 11…12$"),
    ("downsample", dict(offset=(0, 6)), ValueError, r"^offset: got \(0, 6\); it must be less than the spatial size \(6, 6\)$"),
    ("pixel_shuffle", dict(factor=3), ValueError, r"^factor: got 3 for 4 channels, which must be a multiple of 9, the pixels of a block$"),
    ("pixel_unshuffle", dict(factor=4), ValueError, r"^factor: got 4, which must divide the spatial size \(6, 6\)$"),
    ("max_unpool", dict(output_size=50_000), ValueError, r"^output_size: got a plane of 50000 × 50000 = 2500000000 positions, of which an int32 index tells at most 2147483647 apart"),
    ("unflatten", dict(shape=(2, 3, 3)), ValueError, r"^shape: got \(2, 3, 3\), which holds 18 entries, for v of shape \(2, 12\)$"),
    ("unflatten", dict(shape=(2, -6)), ValueError, r"^shape: got \(2, -6\); it must be an int or a sequence of 2 ints, each at least 1$"),
    ("unflatten", dict(shape=12), ValueError, r"^shape: got 12; it must be \(\*spatial, C\) with 1 to 3 spatial axes$"),
    ("unflatten", dict(shape=(1, 1, 1, 1, 12)), ValueError, r"^shape: got \(1, 1, 1, 1, 12\); it must be \(\*spatial, C\)"),
    ("unflatten", dict(shape=b"\x02\x06"), ValueError, r"^shape: got b'\\x02\\x06'; it must be"),
    # Options of every axis: their length, their range, and what JAX or NumPy made of them.
    ("conv", dict(stride=(1, 1, 1)), ValueError, r"^stride: got \(1, 1, 1\); it must be an int or a sequence of 2 ints, each at least 1$"),
    ("conv", dict(dilation=()), ValueError, r"^dilation: got \(\); it must be an int or a sequence of 2 ints"),
    ("conv", dict(padding=((1, 1),)), ValueError, r"^padding: got \(\(1, 1\),\); it must be one of VALID, SAME, SAME_LOWER, FULL, an int"),
    ("conv", dict(stride=2**31), ValueError, r"^stride: got 2147483648; it must be at most 2147483647$"),
    ("unfold", dict(dilation=(1, 10**30)), ValueError, r"^dilation: got \(1, 10+\); it must be at most 2147483647$"),
    ("max_pool", dict(padding=-(2**31)), ValueError, r"^padding: got -2147483648; it must be at most 2147483647 on a side$"),
    ("conv", dict(stride=jnp.array(2)), None, r"^stride: got .*; .* \(under jax\.jit, options are known before: name them in its static_argnames\)$"),
    ("max_pool", dict(padding=jnp.array(1)), None, r"^padding: got .* name them in its static_argnames\)$"),
    ("max_pool", dict(spatial_ndim=jnp.array(2)), None, r"^spatial_ndim: got .* name them in its static_argnames\)$"),
    ("group_norm", dict(groups=jnp.array(2)), None, r"^groups: got .* name them in its static_argnames\)$"),
    ("softmax", dict(axis=jnp.array(1)), None, r"^axis: got .* name them in its static_argnames\)$"),
    ("max_pool", dict(window=[]), ValueError, r"^window: got 0 spatial axes; 1, 2 and 3 are supported$"),
    ("max_pool", dict(window=(1, 1), stride=(1,)), ValueError, r"^window: the options disagree on the number of spatial axes \(window for 2, stride for 1\); give each the same number of entries$"),
    ("resize", dict(size=(3, 3), spatial_ndim=1), ValueError, r"^size: the options disagree .* \(size for 2, spatial_ndim for 1\)"),
    *(
        (name, dict(spatial_ndim=wrong), ValueError, rf"^spatial_ndim: got {wrong} spatial axes; 1, 2 and 3 are supported$")
        for name in FUNCTIONS
        if "spatial_ndim" in inspect.signature(PUBLIC[name]).parameters
        for wrong in [0, 4, -1]
    ),
    *(
        (name, dict(padding=wrong), ValueError, rf"^padding: got '{wrong}'; the names are VALID, SAME, SAME_LOWER, FULL$")
        for name in FUNCTIONS
        if "padding" in inspect.signature(PUBLIC[name]).parameters and name not in ("pad", "conv_general_dilated")
        for wrong in ["same", "", "SAMEISH", "VALID "]
    ),
    ("pad", dict(padding="SAME"), ValueError, r"^padding: got 'SAME'; it must be an int, a sequence of 2 ints, or of 2 pairs \(before, after\)$"),
    ("pad", dict(padding=-3), ValueError, r"^padding: got \(-3, -3\) for spatial axis 0, which has 6 positions; one must remain$"),
    ("pad", dict(padding=6, mode="reflect"), ValueError, r"^padding: got \(6, 6\) for spatial axis 0, which has 6 positions; with mode='reflect' it must be at most 5 on either side$"),
    ("pad", dict(value=1, mode="edge"), ValueError, r"^value: got 1 with mode='edge'; only 'constant' uses it$"),
    ("pad", dict(value=1e39, x=X.astype("bfloat16")), ValueError, r"^value: got 1e\+39, which bfloat16 cannot hold"),
    *(("pad", dict(value=wrong), TypeError, r"^value: got \w+; it must be a number$") for wrong in [None, True, "1", 1j, np.complex64(1), np.array(1.0), (1.0,), C[0]]),
    ("resize", dict(method="nearest", antialias=True), ValueError, r"^antialias: got True with method='nearest', which copies pixels; it must be False, or the method linear or cubic$"),
    ("resize", dict(align_corners=True, antialias=True), ValueError, r"^antialias: got True with align_corners=True; at most one of them may be True$"),
    # Axes.
    *(
        (name, dict(axis=wrong), ValueError, rf"^axis: got {re.escape(repr(wrong))}; for x of shape {re.escape(str(shape))} axes are distinct ints from {-len(shape)} to {len(shape) - 1}$")
        for name, shape in [("softmax", X.shape), ("log_softmax", X.shape), ("half_squared_error", ROWS.shape)]
        for wrong in [4, -5, "0", 1.0, True, b"0", {1}, None]
        if wrong is not None or name != "half_squared_error"
    ),
    ("half_squared_error", dict(axis=(0, -2)), ValueError, r"^axis: got \(0, -2\); for x of shape \(2, 3\) axes are distinct ints"),
    ("half_squared_error", dict(axis=(True, 0)), ValueError, r"^axis: got \(True, 0\); for x of shape"),
    ("softmax", dict(axis=(0, 1)), ValueError, r"^axis: got \(0, 1\); it must be one int$"),
    ("dropout", dict(broadcast_axes=4), ValueError, r"^broadcast_axes: got 4; for x of shape \(2, 6, 6, 4\) axes are distinct ints from -4 to 3$"),
    ("dropout", dict(broadcast_axes=None), ValueError, r"^broadcast_axes: got None; for x of shape"),
    *(("batch_norm", dict(axis_name=wrong), ValueError, rf"^axis_name: got {re.escape(repr(wrong))}; it must name axes that jax\.vmap, jax\.pmap or jax\.shard_map maps around this call, and .* is not one$") for wrong in ["i", 0, ("i",), ["i"], (("i",),), {"i"}, True, 1.5]),
    # Keys.
    *((name, dict(key=wrong), TypeError, rf"^key: got {got}; {ONE_KEY}$") for name in ["dropout", "Model.init", "train.create"] for wrong, got in [(0, "int"), (None, "NoneType"), ("0", "str"), (C, "an array of float64"), (jnp.uint32, "_ScalarMeta"), (np.uint32(0), "an array of uint32")]),
    *((name, dict(key=wrong), ValueError, text) for name in ["dropout", "Model.init", "train.create"] for wrong, text in [(jax.random.split(KEY), r"^key: got \(2,\) keys; it must be one, as from jax\.random\.split$"), (jnp.zeros(3, "uint32"), rf"^key: got the shape \(3,\) of uint32; {ONE_KEY}$"), (jnp.zeros((3, 2), "uint32"), r"^key: got \(3,\) keys; it must be one")]),
    ("dropout", dict(key=X, x=KEY), TypeError, r"^x: got an array of key<fry>; it must be float16"),
    ("dropout", dict(x=LABELS), TypeError, r"^x: got an array of int32; it must be float16"),
    ("dropout", dict(x=[1.0]), TypeError, r"^x: got list; it must be a jax or numpy array$"),
    # Trees.
    ("l2_penalty", dict(params={"w": [LABELS]}), TypeError, r"^params\['w'\]\[0\]: got an array of int32; it must be float16"),
    ("l2_penalty", dict(params=[X, 2.0]), TypeError, r"^params\[1\]: got float; it must be a jax or numpy array$"),
    ("l2_penalty", dict(params="w"), TypeError, r"^params: got str; it must be a jax or numpy array$"),
    # Models.
    *((f"models.{name}", dict(dtype=wrong), TypeError, rf"^dtype: got {re.escape(repr(wrong))}; it must be {FLOAT}$") for name in models.__all__ for wrong in ["int32", None, "floaty", 3, "complex64"]),
    *((f"models.{name}", dict(classes=wrong), ValueError, rf"^classes: got {re.escape(repr(wrong))}; it must be an int of at least 1$") for name in ["textbook", "lenet5", "resnet", "mobilenet"] for wrong in [0, 1.5, True, "10", None]),
    *((f"models.{name}", dict(maps=wrong), ValueError, r"^maps: got .*; it must be a(n int or a)? sequence of 2 ints, each at least 1$") for name in ["textbook", "autoencoder"] for wrong in [8, (1, 2, 3), (4, 0), "ab", None]),
    ("models.textbook", dict(kernel_size=(3, 3, 3)), ValueError, r"^kernel_size: got \(3, 3, 3\); it must be an int or a sequence of 2 ints, each at least 1$"),
    ("models.textbook", dict(window=0), ValueError, r"^window: got 0; it must be an int or a sequence of 2 ints"),
    ("models.textbook", dict(activation="relu"), TypeError, r"^activation: got str; it must be a function$"),
    ("models.lenet5", dict(classic="no"), TypeError, r"^classic: got 'no'; it must be True or False$"),
    ("models.resnet", dict(depth=19), ValueError, r"^depth: got 19; it must be 18, 34, or 6n \+ 2 with n of at least 1$"),
    ("models.resnet", dict(depth=18.0), ValueError, r"^depth: got 18\.0; it must be an int of at least 1$"),
    *(("models.mobilenet", dict(width=wrong), ValueError, r"^width: got .*; it must be a finite Python number of at least 0\.1$") for wrong in [0, 0.09, math.nan, math.inf, "1", None]),
    ("Model", dict(init=None), TypeError, r"^init: got None; it must be a function$"),
    ("Model", dict(apply=TEXTBOOK), TypeError, r"^apply: got Model\(.*; it must be a function$"),
    ("Model", dict(intermediates=1), TypeError, r"^intermediates: got 1; it must be a function$"),
    ("Model.named", dict(init=KEY), TypeError, r"^init: got .*; it must be a function$"),
    ("Model.named", dict(forward="forward"), TypeError, r"^forward: got 'forward'; it must be a function$"),
    *(("Model.init", dict(input_shape=wrong), ValueError, rf"^input_shape: got {re.escape(repr(wrong))}; it must be one image's \(height, width, channels\), without a batch axis$") for wrong in [10, None, (10, 10), (2, 10, 10, 1), (10, 0, 1), (10.0, 10, 1), "abc"]),
    ("Model.init", dict(input_shape=(5, 5, 1)), ValueError, r"^input_shape: got \(5, 5, 1\), for which a layer has no output: w: its size 3"),
    *(
        (name, {argument: wrong}, kind, text)
        for name, argument in [("Model.apply", "params"), ("Model.intermediates", "params"), ("Model.apply with statistics", "params"), ("Model.apply with statistics", "state")]
        for wrong, kind, text in [
            (None, TypeError, rf"^{argument}: got NoneType; it must be a dict, as the model's init returns it$"),
            (IMAGES, TypeError, rf"^{argument}: got \w+; it must be a dict"),
            ({}, ValueError, rf"^{argument}: got entries for nothing; it must have 'conv1' too, as the model's init returns it$"),
            ({"conv1": C}, TypeError, rf"^{argument}\['conv1'\]: got \w+; it must be a dict"),
            ({"conv1": {}}, ValueError, rf"^{argument}\['conv1'\]: got entries for nothing; it must have '(w|gamma|mean)' too"),
        ]
    ),
    ("Model.apply", dict(x=IMAGES[..., 0, 0]), ValueError, r"^x: got the shape \(2, 10\); with 2 spatial axes it must be"),
    ("Model.apply", dict(x=IMAGES.astype("float64")), TypeError, r"^w: got float32, but x is float64; the arrays of one call share a dtype: cast one of them"),
    ("Model.apply", dict(x="image"), TypeError, r"^x: got str; it must be a jax or numpy array$"),
    ("Model.apply", dict(perturbations=[C]), TypeError, r"^perturbations: got list; it must be a dict of arrays by the names of the values that they perturb$"),
    ("Model.apply", dict(perturbations={"n9": C}), ValueError, r"^perturbations: got 'n9'; the names are lz1, n1, a1"),
    ("Model.apply", dict(perturbations={"n5": C}), TypeError, r"^perturbations\['n5'\]: got float64; it must be an array of float32$"),
    ("Model.apply", dict(perturbations={"n5": IMAGES}), ValueError, r"^perturbations\['n5'\]: got the shape \(2, 10, 10, 1\); it must be \(2, 3\)$"),
    *(("Model.apply with statistics", dict(train=wrong), TypeError, r"^train: got .*; it must be True or False") for wrong in ["no", None, 1, jnp.ones((), bool)]),
    # Training.
    *(
        (name, dict(model=wrong), TypeError, rf"^model: got .*; it must have the functions init and apply{hint}$")
        for name in ["train.create", "train.make_train_step", "train.make_eval_step"]
        for wrong, hint in [(None, ""), (models.textbook, ": call it first"), (SGD, ""), ("textbook", "")]
    ),
    *(
        (name, dict(optimizer=wrong), TypeError, rf"^optimizer: got .*; it must have the functions init and update{hint}$")
        for name in ["train.create", "train.make_train_step"]
        for wrong, hint in [(None, ""), (optax.adam, ": call it first"), (TEXTBOOK, ""), ("adam", "")]
    ),
    *((name, dict(loss=wrong), TypeError, r"^loss: got .*; it must be a function loss\(y, t\)$") for name in ["train.make_train_step", "train.make_eval_step"] for wrong in [None, "mse", SGD]),
    ("train.make_train_step", dict(observe="norms"), TypeError, r"^observe: got 'norms'; it must be a function observe\(gradients\)$"),
    *((name, dict(mesh=wrong), TypeError, r"^mesh: got \w+; it must be a jax\.sharding\.Mesh$") for name in ["train.make_train_step", "train.make_eval_step"] for wrong in ["data", 2, [1]]),
    ("train.create", dict(input_shape=(2, 10, 10, 1)), ValueError, r"^input_shape: got \(2, 10, 10, 1\); .* without a batch axis$"),
    *(
        (f"{name}{mesh}", wrong, kind, text)
        for name in ["step", "evaluation"]
        for mesh in ["", " on a mesh"]
        for wrong, kind, text in [
            (dict(train_state=PARAMS), TypeError, r"^train_state: got dict; it must be a TrainState, as train\.create returns it$"),
            (dict(train_state=None), TypeError, r"^train_state: got NoneType; it must be a TrainState"),
            (dict(batch=IMAGES), TypeError, r"^batch: got one array; it must be a pair \(x, t\)$"),
            (dict(batch=(IMAGES,)), TypeError, r"^batch: got a tuple of 1; it must be a pair \(x, t\)$"),
            (dict(batch={"x": IMAGES, "t": LABELS}), TypeError, r"^batch: got a dict; it must be a pair"),
            (dict(batch=(IMAGES, [1, 2])), TypeError, r"^batch: got a list as t; it must be an array$"),
            (dict(batch=(IMAGES, LABELS[:1])), ValueError, r"^batch: got arrays of shapes \(2, 10, 10, 1\), \(1,\); x and t must have the same number of examples, at least one, along their first axes$"),
            (dict(batch=(IMAGES[:0], LABELS[:0])), ValueError, r"^batch: got arrays of shapes .* at least one"),
            (dict(batch=(IMAGES, LABELS[0])), ValueError, r"^batch: got arrays of shapes \(2, 10, 10, 1\), \(\)"),
            (dict(batch=(IMAGES, "01")), TypeError, r"^batch: got str; x and t must be arrays$|problematic value is of type <class 'str'> .* path batch\[1\]"),
            (dict(batch=(IMAGES, C[:2])), TypeError, r"^labels: got float64, but logits is float32"),
            (dict(batch=(jnp.ones((2, 14, 14, 1), "float32"), LABELS)), ValueError, r"^x: got the shape \(2, 8\); for w of shape \(2, 3\) it is"),
        ]
    ),
    *((name, dict(key=wrong), TypeError, rf"^key: got {got}; {ONE_KEY}$") for name in ["step", "step on a mesh"] for wrong, got in [(None, "NoneType"), (C, "an array of float64")]),
    *((name, dict(key=jax.random.split(KEY)), ValueError, r"^key: got \(2,\) keys; it must be one") for name in ["step", "step on a mesh"]),
    ("step on a mesh", dict(key="0"), TypeError, rf"^key: got str; {ONE_KEY}$"),
    ("step on a mesh", dict(batch=(IMAGES[:1], LABELS[:1])), ValueError, r"^batch: got 1 examples; the mesh divides them among the 2 devices of its axis 'data', so it must be a multiple of 2$"),
]  # fmt: skip


def check_wrong(name, replaced, kind, text):
    """The error, and the same where arrays are traced; where `kind` is None, there alone."""
    f = PUBLIC[name]
    for call in [f] * (kind is not None) + [traced(f)] * (name not in STEPS):
        with pytest.raises((TypeError, ValueError)) as error:
            call(**CALLS[name] | replaced)
        assert error.type is (kind or ValueError), (replaced, error)
        assert re.search(text, message(error)), (replaced, message(error))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_an_argument_cannot_be(name):
    for rows in (wrong_options, wrong_arrays):
        for row in rows(name):
            check_wrong(*row)


@pytest.mark.parametrize(
    "name, replaced, kind, text",
    WRONG,
    ids=[f"{i}-{name}-{'-'.join(replaced)}" for i, (name, replaced, *_) in enumerate(WRONG)],
)
def test_wrong_calls(name, replaced, kind, text):
    check_wrong(name, replaced, kind, text)


# ------------------------------------------------------------------------------------------
# What the documentation allows
# ------------------------------------------------------------------------------------------

PACKAGE = str(Path(cnnvjp.__file__).parent)
FLOATS = [jnp.dtype(name) for name in ("float16", "bfloat16", "float32", "float64")]


class NotAllowedError(Exception):
    """The documentation does not allow the call."""


def need(condition):
    if not condition:
        raise NotAllowedError


def is_array(value):
    """Whether it is an array of numbers, JAX's or NumPy's."""
    arrays = jax.Array | np.ndarray | np.generic
    masked = isinstance(value, np.ma.MaskedArray)
    return isinstance(value, arrays) and isinstance(value.dtype, np.dtype) and not masked


def holds(dtype, number):
    """Whether a dtype can hold a Python number."""
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return isinstance(number, int) and limits.min <= number <= limits.max
    try:
        return not math.isfinite(number) or abs(number) <= float(jnp.finfo(dtype).max)
    except OverflowError:
        return False


def arrays(call, *names, integers=False):
    """The dtype that the arrays share, and their shapes; Python numbers adapt to it."""
    values = [call[name] for name in names]
    found = {value.dtype for value in values if is_array(value)}
    need(len(found) == 1)
    (dtype,) = found
    need(dtype in FLOATS or (integers and dtype.kind in "iu"))
    for value in values:
        need(is_array(value) or type(value) in (int, float))
        need(is_array(value) or holds(dtype, value))
    return dtype, *(np.shape(value) for value in values)


def wide(dtype):
    """What sums of a dtype are held in."""
    return dtype if dtype == jnp.float64 else jnp.dtype("float32")


def is_sequence(value):
    return isinstance(value, tuple | list) or (isinstance(value, np.ndarray) and value.ndim > 0)


def whole(value, least=1):
    need(not isinstance(value, bool | np.bool_))
    try:
        value = operator.index(value)
    except TypeError:
        raise NotAllowedError from None
    need(least <= value < 2**31)
    return value


def entries(value, ndim, least=1):
    need(not is_sequence(value) or len(value) == ndim)
    return [whole(v, least) for v in (value if is_sequence(value) else [value] * ndim)]


def real(value, low=-math.inf, high=math.inf):
    need(isinstance(value, numbers.Real) and not isinstance(value, bool))
    try:
        need(math.isfinite(value) and low <= value <= high)
    except OverflowError:
        raise NotAllowedError from None


def flag(value):
    need(isinstance(value, bool | np.bool_))
    return bool(value)


def choice(value, *names):
    need(isinstance(value, str) and value in names)
    return value


def precise(value):
    names = ("default", "high", "highest")
    pair = isinstance(value, tuple | list)
    need(not pair or len(value) == 2)
    for part in value if pair else [value]:
        known = part in names if isinstance(part, str) else isinstance(part, jax.lax.Precision)
        need(known or (part is None and not pair))


def rank(call, *names):
    """D."""
    found = {len(call[name]) for name in names if is_sequence(call[name])}
    if call["spatial_ndim"] is not None:
        found.add(whole(call["spatial_ndim"]))
    need(len(found) <= 1)
    (ndim,) = found or {2}
    need(1 <= ndim <= 3)
    return ndim


def maps(shape, ndim, least=1):
    """(*batch, *spatial, C) in its three parts."""
    need(len(shape) > ndim)
    size = shape[-1 - ndim : -1]
    need(min(size) >= least)
    return shape[: -1 - ndim], size, shape[-1:]


def axes_of(value, ndim):
    found = [whole(v, -(2**31)) for v in (value if is_sequence(value) else [value])]
    need(all(-ndim <= axis < ndim for axis in found))
    need(len({axis % ndim for axis in found}) == len(found))
    return {axis % ndim for axis in found}


def border(padding, n, extent, stride, axis, ndim):
    """(before, after) along one axis."""
    if isinstance(padding, str):
        total = max((math.ceil(n / stride) - 1) * stride + extent - n, 0)
        half = (total // 2, total - total // 2)
        forms = {"VALID": (0, 0), "SAME": half, "SAME_LOWER": half[::-1]}
        forms["FULL"] = (extent - 1, extent - 1)
        need(padding in forms)
        return forms[padding]
    if is_sequence(padding) and len(padding) == ndim and all(map(is_sequence, padding)):
        pairs = [entries(pair, 2, -(2**31) + 1) for pair in padding]
        return pairs[axis]
    return (entries(padding, ndim, -(2**31) + 1)[axis],) * 2


def starts(n, k, s, d, pair, ceil_mode=False):
    """Where windows start, counted from the first position of the input."""
    before, after = pair
    extent, end = d * (k - 1) + 1, n + after
    need(n + before + after >= extent)
    found = list(range(-before, end - extent + 1, s))
    if ceil_mode:
        if found[-1] + extent < end:
            found.append(found[-1] + s)
        if found[-1] >= n:
            found.pop()
    return found


def slide(size, k, stride, padding, dilation, ceil_mode=False):
    """For each axis, the starts of its windows."""
    ndim = len(size)
    s, d = entries(stride, ndim), entries(dilation, ndim)
    pairs = [border(padding, size[a], d[a] * (k[a] - 1) + 1, s[a], a, ndim) for a in range(ndim)]
    return [starts(size[a], k[a], s[a], d[a], pairs[a], ceil_mode) for a in range(ndim)], pairs


def counts(*placement, **options):
    return tuple(map(len, slide(*placement, **options)[0]))


def admissible(outputs, k, stride, padding, dilation, asked):
    """The input size that leads to `outputs`: the one asked for, or the default."""
    ndim = len(outputs)
    s, d = entries(stride, ndim), entries(dilation, ndim)
    chosen = None if asked is None else entries(asked, ndim)
    found = []
    for axis, o in enumerate(outputs):
        fitting = []
        for n in range(1, (o + 1) * s[axis] + d[axis] * k[axis] + 40):
            pair = border(padding, n, d[axis] * (k[axis] - 1) + 1, s[axis], axis, ndim)
            try:
                positions = starts(n, k[axis], s[axis], d[axis], pair)
            except NotAllowedError:
                continue
            if len(positions) == o:
                fitting.append(n)
        need(fitting)
        same = isinstance(padding, str) and padding.startswith("SAME")
        default = fitting[-1] if same else fitting[0]
        found.append(default if chosen is None else chosen[axis])
        need(found[-1] in fitting)
    return tuple(found)


def preferred(value, dtype):
    if value is None:
        return dtype
    try:
        chosen = jnp.dtype(value) if not is_array(value) else None
    except TypeError:
        chosen = None
    need(chosen is not None)
    need(chosen in FLOATS if dtype in FLOATS else chosen.kind == dtype.kind)
    return chosen


def kernel(call, images, shape):
    """D and the groups of a convolution with a kernel of a given shape."""
    ndim = len(shape) - 2
    need(1 <= ndim <= 3 and 0 not in shape)
    groups = whole(call["groups"])
    need(shape[-1] % groups == 0)
    flag(call["flip_kernel"])
    precise(call["precision"])
    return ndim, groups


def with_bias(call, names, y, ndim, dtype):
    if call["b"] is not None:
        need(is_array(call["b"]))
        _, *_, b = arrays(call, *names, "b", integers=True)
        need(b in (y[-1:], y[-1 - ndim :]))
    return [(y, preferred(call["preferred_element_type"], dtype))]


SLIDING = ("stride", "padding", "dilation")


def of_conv(call):
    dtype, x, w = arrays(call, "x", "w", integers=True)
    ndim, groups = kernel(call, x, w)
    batch, size, channels = maps(x, ndim)
    need(channels == (w[-2] * groups,))
    out = counts(size, w[:-2], *(call[name] for name in SLIDING))
    return with_bias(call, ("x",), (*batch, *out, w[-1]), ndim, dtype)


def of_conv_transpose(call):
    dtype, y, w = arrays(call, "y", "w", integers=True)
    ndim, groups = kernel(call, y, w)
    batch, size, channels = maps(y, ndim)
    need(channels == w[-1:])
    sliding = [call[name] for name in SLIDING]
    out = admissible(size, w[:-2], *sliding, call["output_size"])
    return with_bias(call, ("y",), (*batch, *out, w[-2] * groups), ndim, dtype)


def of_conv_kernel_grad(call):
    dtype, x, dy = arrays(call, "x", "dy", integers=True)
    ndim = rank(call, "kernel_size", *SLIDING)
    k = entries(call["kernel_size"], ndim)
    batch, size, (c_in,) = maps(x, ndim)
    out = counts(size, k, *(call[name] for name in SLIDING))
    need(dy[:-1] == (*batch, *out) and dy[-1] > 0 and c_in > 0)
    groups = whole(call["groups"])
    need(c_in % groups == 0 and dy[-1] % groups == 0)
    flag(call["flip_kernel"])
    precise(call["precision"])
    return [((*k, c_in // groups, dy[-1]), preferred(call["preferred_element_type"], dtype))]


def pooled(call, x):
    """The shape of pooled maps."""
    call = {"dilation": 1, "ceil_mode": False} | call
    ndim = rank(call, "window", *SLIDING)
    batch, size, channels = maps(x, ndim)
    k, d = entries(call["window"], ndim), entries(call["dilation"], ndim)
    stride = k if call["stride"] is None else call["stride"]
    ceil_mode = flag(call["ceil_mode"])
    same = isinstance(call["padding"], str) and call["padding"].startswith("SAME")
    need(not (ceil_mode and same))
    found, pairs = slide(size, k, stride, call["padding"], call["dilation"], ceil_mode)
    need(not (ceil_mode and min(after for _, after in pairs) < 0))
    for axis, positions in enumerate(found):
        for first in positions:
            taps = range(first, first + d[axis] * k[axis], d[axis])
            need(any(0 <= tap < size[axis] for tap in taps))
    return (*batch, *map(len, found), *channels)


def of_winner_pool(call):
    dtype, x = arrays(call, "x", integers=True)
    y = pooled(call, x)
    choice(call["ties"], "first", "split")
    return [(y, dtype)] + [(y, jnp.dtype("int32"))] * flag(call["return_argmax"])


def of_max_unpool(call):
    dtype, y = arrays(call, "y", integers=True)
    need(is_array(call["argmax"]) and call["argmax"].dtype.kind in "iu")
    ndim = rank(call, "output_size")
    batch, _, channels = maps(y, ndim)
    need(call["argmax"].shape == y)
    return [((*batch, *entries(call["output_size"], ndim), *channels), dtype)]


def of_sum_pool(call):
    dtype, x = arrays(call, "x", integers=True)
    return [(pooled(call, x), dtype)]


def of_avg_pool(call):
    dtype, x = arrays(call, "x")
    flag(call["count_include_pad"])
    return [(pooled(call, x), dtype)]


def of_lp_pool(call):
    dtype, x = arrays(call, "x")
    real(call["p"], low=1)
    return [(pooled(call, x), dtype)]


def of_weighted_avg_pool(call):
    dtype, x, weight = arrays(call, "x", "weight")
    y = pooled(call, x)
    need(weight in ((), x[-1:]))
    return [(y, dtype)]


def of_global_pool(integers):
    def shape(call):
        dtype, x = arrays(call, "x", integers=integers)
        batch, _, channels = maps(x, rank(call))
        return [(batch + channels, dtype)]

    return shape


def of_adaptive_pool(integers):
    def shape(call):
        dtype, x = arrays(call, "x", integers=integers)
        ndim = rank(call, "output_size")
        batch, _, channels = maps(x, ndim)
        return [((*batch, *entries(call["output_size"], ndim), *channels), dtype)]

    return shape


def resampled(call, *names):
    """dtype, batch, spatial size, channels, and the factors of a resampling."""
    dtype, x = arrays(call, "x", integers=True)
    ndim = rank(call, *names)
    return dtype, *maps(x, ndim), entries(call["factor"], ndim)


def of_downsample(call):
    dtype, batch, size, channels, factors = resampled(call, "factor", "offset")
    offsets = entries(call["offset"], len(size), 0)
    need(all(first < n for first, n in zip(offsets, size, strict=True)))
    kept = [len(range(o, n, f)) for o, n, f in zip(offsets, size, factors, strict=True)]
    return [((*batch, *kept, *channels), dtype)]


def of_upsample(call):
    names = ("factor", "output_size", "offset")
    dtype, batch, size, channels, factors = resampled(call, *names)
    offsets = entries(call["offset"], len(size), 0)
    least = [o + (n - 1) * f + 1 for o, n, f in zip(offsets, size, factors, strict=True)]
    asked = call["output_size"]
    chosen = least if asked is None else entries(asked, len(size))
    need(all(m <= n < m + f for m, n, f in zip(least, chosen, factors, strict=True)))
    return [((*batch, *chosen, *channels), dtype)]


def of_repeat(call):
    dtype, batch, size, channels, factors = resampled(call, "factor")
    return [((*batch, *map(operator.mul, size, factors), *channels), dtype)]


def of_pixel_shuffle(call):
    dtype, batch, size, (channels,), factors = resampled(call, "factor")
    block = math.prod(factors)
    need(channels % block == 0)
    return [((*batch, *map(operator.mul, size, factors), channels // block), dtype)]


def of_pixel_unshuffle(call):
    dtype, batch, size, (channels,), factors = resampled(call, "factor")
    need(not any(map(operator.mod, size, factors)))
    blocks = map(operator.floordiv, size, factors)
    return [((*batch, *blocks, channels * math.prod(factors)), dtype)]


def of_resize(call):
    method = choice(call["method"], "nearest", "nearest-exact", "linear", "cubic")
    corners, smooth = flag(call["align_corners"]), flag(call["antialias"])
    copying = method.startswith("nearest")
    need(corners + smooth <= (0 if copying else 1))
    dtype, x = arrays(call, "x", integers=copying)
    ndim = rank(call, "size")
    batch, _, channels = maps(x, ndim)
    return [((*batch, *entries(call["size"], ndim), *channels), dtype)]


def of_pad(call):
    mode = choice(call["mode"], "constant", "reflect", "edge", "circular")
    dtype, x = arrays(call, "x", integers=True)
    value = call["value"]
    value = value.item() if isinstance(value, np.number) else value
    need(type(value) in (int, float) and holds(dtype, value))
    need(mode == "constant" or value == 0)
    ndim = rank(call, "padding")
    batch, size, channels = maps(x, ndim)
    need(not isinstance(call["padding"], str))
    out = []
    for axis, n in enumerate(size):
        before, after = border(call["padding"], n, 1, 1, axis, ndim)
        limit = {"reflect": n - 1, "circular": n}.get(mode, math.inf)
        need(max(before, after) <= limit and n + before + after > 0)
        out.append(n + before + after)
    return [((*batch, *out, *channels), dtype)]


def of_unfold(call):
    dtype, x = arrays(call, "x", integers=True)
    ndim = rank(call, "window", *SLIDING)
    batch, size, channels = maps(x, ndim)
    k = entries(call["window"], ndim)
    out = counts(size, k, *(call[name] for name in SLIDING))
    return [((*batch, *out, *k, *channels), dtype)]


def of_fold(call):
    dtype, patches = arrays(call, "patches", integers=True)
    ndim = rank(call, "output_size", *SLIDING)
    need(len(patches) > 2 * ndim)
    batch, out, k = np.split(np.array(patches[:-1], int), [-2 * ndim, -ndim])
    need(min(*out, *k) > 0)
    need(call["output_size"] is not None)
    sliding = [call[name] for name in SLIDING]
    size = admissible(out, k, *sliding, call["output_size"])
    return [((*batch, *size, patches[-1]), dtype)]


def of_suffix(argument, least):
    """An argument of the shape of the other's last axes."""

    def shape(call):
        dtype, z, b = arrays(call, "z", argument)
        need(least <= len(b) <= len(z) and b == z[len(z) - len(b) :])
        return [(z, dtype)]

    return shape


def of_dense(call):
    optional = () if call["b"] is None else ("b",)
    dtype, x, w, *b = arrays(call, "x", "w", *optional)
    need(len(w) == 2 and x[-1:] == w[:1] and b in ([], [w[1:]]))
    precise(call["precision"])
    return [((*x[:-1], w[1]), dtype)]


def of_flatten(call):
    dtype, x = arrays(call, "x", integers=True)
    choice(call["order"], "row", "column")
    batch, size, channels = maps(x, rank(call), least=0)
    return [((*batch, math.prod(size) * channels[0]), dtype)]


def of_unflatten(call):
    dtype, v = arrays(call, "v", integers=True)
    choice(call["order"], "row", "column")
    need(is_sequence(call["shape"]) and 2 <= len(call["shape"]) <= 4)
    shape = entries(call["shape"], len(call["shape"]))
    need(v[-1:] == (math.prod(shape),))
    return [((*v[:-1], *shape), dtype)]


def of_activation(call):
    dtype, x = arrays(call, "x")
    for name in call.keys() & {"negative_slope", "alpha"}:
        real(call[name])
    if "approximate" in call:
        flag(call["approximate"])
    return [(x, dtype)]


def of_prelu(call):
    dtype, x, slope = arrays(call, "x", "slope")
    need(slope in ((), x[-1:]))
    return [(x, dtype)]


def of_softmax(call):
    dtype, x = arrays(call, "x")
    need(not is_sequence(call["axis"]))
    (axis,) = axes_of(call["axis"], len(x))
    need(x[axis] > 0)
    return [(x, dtype)]


def of_standardize(call):
    dtype, x, *statistics = arrays(call, "x", "mean", "std")
    for b in statistics:
        need(len(b) <= len(x) and b == x[len(x) - len(b) :])
    return [(x, dtype)]


def channelwise(call, *names):
    dtype, x, *rest = arrays(call, "x", *names)
    need(x and all(b == x[-1:] for b in rest))
    real(call["eps"], low=0)
    return dtype, x


def of_batch_norm(call):
    dtype, x = channelwise(call, "gamma", "beta")
    need(call["axis_name"] is None or (is_sequence(call["axis_name"]) and not call["axis_name"]))
    need(0 not in x[:-1])
    return [(x, dtype), (x[-1:], wide(dtype)), (x[-1:], wide(dtype))]


def of_batch_norm_inference(call):
    dtype, x = channelwise(call, "gamma", "beta")
    other, *statistics = arrays(call, "mean", "var")
    need(other in (dtype, wide(dtype)) and statistics == [x[-1:]] * 2)
    return [(x, dtype)]


def of_layer_norm(call):
    dtype, x = channelwise(call, "gamma", "beta")
    need(x[-1] > 0)
    return [(x, dtype)]


def of_group_norm(call):
    dtype, x = channelwise(call, "gamma", "beta")
    _, _, (channels,) = maps(x, rank(call))
    need(channels > 0 and channels % whole(call["groups"]) == 0)
    return [(x, dtype)]


def of_dropout(call):
    key, (dtype, x) = call["key"], arrays(call, "x")
    need(isinstance(key, jax.Array | np.ndarray))
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    need(key.shape == () if typed else (key.dtype == np.uint32 and key.shape == (2,)))
    real(call["rate"], 0, 1)
    axes_of(call["broadcast_axes"], len(x))
    return [(x, dtype)]


def of_l2_penalty(call):
    leaves = jax.tree.leaves(call["params"])
    need(all(is_array(leaf) and leaf.dtype in FLOATS for leaf in leaves))
    double = any(leaf.dtype == jnp.float64 for leaf in leaves)
    return [((), jnp.dtype("float64" if double else "float32"))]


def of_half_squared_error(call):
    dtype, y, t = arrays(call, "y", "t")
    need(y == t)
    axis = call["axis"]
    summed = range(len(y)) if axis is None else axes_of(axis, len(y))
    return [(tuple(n for i, n in enumerate(y) if i not in summed), dtype)]


def of_softmax_cross_entropy(call):
    dtype, logits = arrays(call, "logits")
    need(logits and logits[-1] > 0)
    labels = call["labels"]
    if is_array(labels) and labels.dtype.kind in "iu":
        need(labels.shape == logits[:-1])
    elif type(labels) is int:
        need(logits[:-1] == () and holds(jnp.dtype("int32"), labels))
    else:
        _, _, shape = arrays(call, "logits", "labels")
        need(shape == logits)
    return [(logits[:-1], dtype)]


def of_sigmoid_cross_entropy(call):
    dtype, logits, labels = arrays(call, "logits", "labels")
    need(logits == labels)
    return [(logits, dtype)]


SHAPES_OF = {
    "conv": of_conv,
    "conv_transpose": of_conv_transpose,
    "conv_kernel_grad": of_conv_kernel_grad,
    "max_pool": of_winner_pool,
    "min_pool": of_winner_pool,
    "max_unpool": of_max_unpool,
    "avg_pool": of_avg_pool,
    "sum_pool": of_sum_pool,
    "lp_pool": of_lp_pool,
    "weighted_avg_pool": of_weighted_avg_pool,
    "global_max_pool": of_global_pool(integers=True),
    "global_avg_pool": of_global_pool(integers=False),
    "adaptive_max_pool": of_adaptive_pool(integers=True),
    "adaptive_avg_pool": of_adaptive_pool(integers=False),
    "downsample": of_downsample,
    "upsample": of_upsample,
    "repeat": of_repeat,
    "resize": of_resize,
    "pad": of_pad,
    "pixel_shuffle": of_pixel_shuffle,
    "pixel_unshuffle": of_pixel_unshuffle,
    "unfold": of_unfold,
    "fold": of_fold,
    "add_bias": of_suffix("b", 1),
    "scale": of_suffix("b", 0),
    "dense": of_dense,
    "flatten": of_flatten,
    "unflatten": of_unflatten,
    **dict.fromkeys(["relu", "relu6", "leaky_relu", "elu", "sigmoid", "tanh"], of_activation),
    **dict.fromkeys(["softplus", "silu", "hard_swish", "gelu"], of_activation),
    "prelu": of_prelu,
    "softmax": of_softmax,
    "log_softmax": of_softmax,
    "standardize": of_standardize,
    "batch_norm": of_batch_norm,
    "batch_norm_inference": of_batch_norm_inference,
    "layer_norm": of_layer_norm,
    "group_norm": of_group_norm,
    "dropout": of_dropout,
    "l2_penalty": of_l2_penalty,
    "half_squared_error": of_half_squared_error,
    "softmax_cross_entropy": of_softmax_cross_entropy,
    "sigmoid_cross_entropy": of_sigmoid_cross_entropy,
}

# ------------------------------------------------------------------------------------------
# Calls at random
# ------------------------------------------------------------------------------------------

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
    jnp.ones((), "int32"), jnp.ones(4, bool), jnp.ones(4, "complex64"), jnp.ones(4, "int4"),
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
