"""Calls that cannot be served: what they raise, and that it says what would fit.

Every option and every array of every public function is given what it cannot be, and then come
calls whose arguments do not fit together; eagerly, and with the arrays traced.
"""

import inspect
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from checker import message
from right_calls import (
    ARRAYS,
    CALLS,
    FUNCTIONS,
    IMAGES,
    KEY,
    LABELS,
    PARAMS,
    PUBLIC,
    ROWS,
    SGD,
    STEPS,
    TEXTBOOK,
    TWO,
    C,
    Foreign,
    W,
    X,
    ones,
    traced,
)

from cnnvjp import models


@pytest.mark.parametrize("name", [name for name in PUBLIC if name not in STEPS])
def test_right_calls(name):
    """What makes the calls below wrong is what they replace."""
    traced(PUBLIC[name])(**CALLS[name])


# ------------------------------------------------------------------------------------------
# What an argument cannot be, whatever the others are
# ------------------------------------------------------------------------------------------

NO_ARRAYS = [None, "1", [[1.0]], (1.0,), {2.0}, True, 1j, Foreign(), np.float32]
NO_ARRAYS += [jax.ShapeDtypeStruct((2, 6, 6, 4), "float64"), np.ma.array([1.0], mask=[True])]
NO_DTYPES = ["bool", "int4", "float8_e4m3fn"]
NOT_PER_AXIS = [-1, 1.5, True, "2", b"22", (1, None), (1.0, 1), (2, -1), (True, 1), np.float64(2)]
NOT_PER_AXIS += [np.array([1.5, 1.5]), {2}, 1j, object, ones(2)]
NOT_PADDING = [1.5, True, None, (1, None), ((1,), (1,)), ((1, 1, 1), (1, 1, 1)), ((1, 1), 1)]
NOT_PADDING += [("SAME", "SAME"), b"11", ((1, 1.0), (1, 1)), {1}, ones(2)]
NOT_FLAGS = ["yes", 1, 0.0, None, (), np.array([True, False]), ones((), bool)]
NOT_CHOICES = ["last", "", None, 1, True, ["first"], ("row",), np.array(["a", "b"])]
NOT_NUMBERS = [None, "1", True, 1j, math.nan, math.inf, -math.inf, 10**400, (1.0,), ones(())]
NOT_COUNTS = [0, -1, 1.0, True, None, "2", (2,), ones(())]
NOT_PRECISIONS = ["best", 3, True, ("high",) * 3, (), (None, "high"), ["best"] * 2, {}]
PER_AXIS = ["stride", "dilation", "window", "factor", "size", "output_size", "kernel_size"]
PER_AXIS += ["tiles"]
PER_AXIS += ["input_size"]
FLAGS = ["flip_kernel", "ceil_mode", "count_include_pad", "return_argmax"]
FLAGS += ["align_corners", "antialias", "approximate", "aligned"]
AN_INT = "it must be an int or a sequence of 2 ints, each at least"
FLOAT = "float16, bfloat16, float32 or float64"
BY_NAME = {  # of an option, or a function's: what it cannot be, the error, and what would fit
    **dict.fromkeys(PER_AXIS, ([0, *NOT_PER_AXIS], ValueError, f"{AN_INT} 1")),
    "offset": (NOT_PER_AXIS, ValueError, f"{AN_INT} 0"),
    "padding": (NOT_PADDING, ValueError, "an int, a sequence of 2 ints, or of 2 pairs (before, a"),
    **dict.fromkeys(FLAGS, (NOT_FLAGS, TypeError, "it must be True or False")),
    "ties": (NOT_CHOICES, ValueError, "it must be 'first' or 'split'"),
    "order": (NOT_CHOICES, ValueError, "it must be 'row' or 'column'"),
    "mode": (
        NOT_CHOICES,
        ValueError,
        "it must be one of constant, reflect, symmetric, edge, circular",
    ),
    "method": (NOT_CHOICES, ValueError, "it must be one of nearest, nearest-exact, linear, cubic"),
    "sample.method": (NOT_CHOICES, ValueError, "it must be one of nearest, linear, cubic"),
    "sample.padding": (
        [*NOT_PADDING, *NOT_CHOICES, "constant"],
        ValueError,
        "it must be one of zeros, edge, reflect, mirror, circular",
    ),
    "groups": (NOT_COUNTS, ValueError, "it must be an int of at least 1"),
    "samples": (NOT_COUNTS, ValueError, "it must be an int of at least 1"),
    "scale": ([-1e-9, *NOT_NUMBERS], ValueError, "it must be a finite Python number of at least 0"),
    "eps": ([-1e-9, *NOT_NUMBERS], ValueError, "it must be a finite Python number of at least 0"),
    "rate": ([-0.1, 1.1, *NOT_NUMBERS], ValueError, "a finite Python number from 0 to 1"),
    "p": ([0.9, *NOT_NUMBERS], ValueError, "it must be a finite Python number of at least 1"),
    "negative_slope": (NOT_NUMBERS, ValueError, "it must be a finite Python number"),
    "alpha": (NOT_NUMBERS, ValueError, "it must be a finite Python number"),
    "k": ([-1e-9, *NOT_NUMBERS], ValueError, "it must be a finite Python number of at least 0"),
    "local_response_norm.size": (NOT_COUNTS, ValueError, "it must be an int of at least 1"),
    "local_response_norm.beta": (NOT_NUMBERS, ValueError, "it must be a finite Python number"),
    "spatial_ndim": (["2", 1.5, True, (2,), 1j], ValueError, "it must be 1, 2 or 3"),
    "precision": (NOT_PRECISIONS, ValueError, "it must be None, 'default', 'high', 'highest', a"),
    "preferred_element_type": (["foo", "int32", "bool", 3, X], TypeError, f"it must be {FLOAT}"),
}
INTEGERS = {"conv", "conv_transpose", "conv_kernel_grad", "max_pool", "min_pool", "max_unpool"}
INTEGERS |= {
    f"{kind}_conv{what}"
    for kind in ("local", "tiled")
    for what in ("", "_transpose", "_kernel_grad")
}
INTEGERS |= {"sum_pool", "global_max_pool", "adaptive_max_pool", "downsample", "upsample", "repeat"}
INTEGERS |= {"max_plus_conv", "min_plus_conv"}
INTEGERS |= {"pad", "pixel_shuffle", "pixel_unshuffle", "unfold", "fold", "flatten", "unflatten"}

COMPLEX = {
    "conv",
    "conv_transpose",
    "conv_kernel_grad",
    "dense",
    "add_bias",
    "sum_pool",
    "avg_pool",
}
COMPLEX |= {"pad", "upsample", "downsample", "repeat", "pixel_shuffle", "pixel_unshuffle"}
COMPLEX |= {"unfold", "fold", "flatten", "unflatten"}


def wrong_options(name):
    """Each option of a function, given what it cannot be."""
    if name == "conv_general_dilated":
        return  # lax reads them
    for option, parameter in inspect.signature(PUBLIC[name]).parameters.items():
        known = BY_NAME.get(option, ([], None, ""))
        values, kind, fitting = BY_NAME.get(f"{name}.{option}", known)
        if fitting.startswith(AN_INT) and parameter.default is not None:
            values = [None, *values]
        for value in values:
            got = "" if isinstance(value, jax.Array) else re.escape(repr(value))
            yield name, {option: value}, kind, rf"^{option}: got {got}.*; .*{re.escape(fitting)}"


def wrong_arrays(name):
    """Each array of a function, given what it cannot be."""
    arrays = {k: v for k, v in CALLS[name].items() if k in ARRAYS and isinstance(v, jax.Array)}
    welcome = f"{FLOAT}{', complex64 or complex128' * (name in COMPLEX)}"
    welcome += ", or an integer of 8 to 64 bits" * (name in INTEGERS)
    for argument, value in arrays.items():
        for wrong in NO_ARRAYS:
            if wrong is not None or argument not in ("b", "mask") or name in ("add_bias", "scale"):
                yield name, {argument: wrong}, TypeError, rf"^{argument}: got .*; it must be "
        labels = name == "softmax_cross_entropy" and argument == "labels"
        dtypes = NO_DTYPES + ["complex64"] * (name not in COMPLEX)
        for dtype in dtypes + ["int32"] * (name not in INTEGERS and not labels):
            real = "real: " * (dtype == "complex64")
            text = rf"^{argument}: got an array of {dtype}; it must be {real}{welcome}$"
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
UNSHARED = ["local_conv", "tiled_conv", "local_conv_transpose", "tiled_conv_transpose"]
ONE_KEY = r"it must be one key, as from jax\.random\.key\(0\)"
MAPS_NOTHING_TO_NOTHING = ["downsample", "repeat", "pixel_shuffle", "pixel_unshuffle", "pad"]

WRONG = [
    # Shapes.
    ("conv", dict(w=W[None, None]), ValueError, r"^w: got the shape \(1, 1, 3, 3, 4, 6\); .* with 1, 2 or 3 spatial axes"),
    ("conv", dict(w=W[..., :0]), ValueError, r"^w: got the shape \(3, 3, 4, 0\); no axis may be empty$"),
    ("conv", dict(x=X[:, :0]), ValueError, r"^x: got the spatial size \(0, 6\)"),
    ("conv", dict(b=ones((2, 4, 4, 6))), ValueError, r"^b: got the shape \(2, 4, 4, 6\)"),
    ("conv", dict(groups=2), ValueError, r"^x: got 4 channels; .* groups=2 fits 4 · 2 = 8$"),
    ("conv", dict(x=X.astype("int8"), w=W.astype("int8"), b=None, preferred_element_type="uint16"), TypeError, r"^preferred_element_type: got 'uint16' for arrays of int8; it must be a signed integer"),
    *(
        (name, {argument: wrong}, ValueError, text)
        for name in ["max_plus_conv", "min_plus_conv"]
        for argument, wrong, text in [
            ("w", C, r"^w: got the shape \(4,\); it must be \(\*window, C\) with 1, 2 or 3 spatial axes, none of them empty$"),
            ("w", ones((2, 0, 4)), r"^w: got the shape \(2, 0, 4\)"),
            ("w", ones((2, 2, 3)), r"^w: got 3 channels; it must have those of x, 4$"),
            ("w", ones((7, 2, 4)), r"^w: its size 7 with dilation 1 covers 7 positions of spatial axis 0, which has 6"),
            ("x", X[0, 0], r"^x: got the shape \(6, 4\); with 2 spatial axes it must be"),
            ("x", X[:, :0], r"^x: got the spatial size \(0, 6\); every axis needs a position$"),
            ("padding", 3, r"^padding: got 3; window 0 of spatial axis 0 \(size 2, dilation 1\) has no tap on the 6"),
            ("stride", (1, 1, 1), r"^stride: got \(1, 1, 1\); it must be an int or a sequence of 2 ints"),
        ]
    ),
    ("conv_transpose", dict(y=X[0, 0]), ValueError, r"^y: got the shape \(6, 4\)"),
    ("conv_kernel_grad", dict(dy=ones((1, 4, 4, 6))), ValueError, r"^dy: got the shape \(1, 4, 4, 6\)"),
    ("conv_kernel_grad", dict(kernel_size=2), ValueError, r"^dy: got the shape \(2, 4, 4, 6\); .*\(2, 5, 5, C_out\)"),
    ("conv_kernel_grad", dict(kernel_size=(3,)), ValueError, r"^dy: got the shape"),
    ("conv_kernel_grad", dict(kernel_size=(3, 3), stride=(1,)), ValueError, r"^kernel_size: the options disagree"),
    # Kernels for every position, or in turn.
    ("local_conv", dict(w=W), ValueError, r"^w: got the shape \(3, 3, 4, 6\), kernels for \(3,\) positions; the output has \(4,\), each"),
    *((name, dict(w=W[0]), ValueError, r"^w: got the shape \(3, 4, 6\); it must be \(\*positions, \*kernel, C_in, C_out\) with as many axes of positions as of the kernel, 1, 2 or 3$") for name in UNSHARED),
    *((name, dict(w=ones((4, 0, 3, 3, 4, 6))), ValueError, r"^w: got the shape \(4, 0, 3, 3, 4, 6\); no axis may be empty$") for name in UNSHARED),
    ("local_conv", dict(w=ones((4, 5, 3, 3, 4, 6))), ValueError, r"^w: got the shape \(4, 5, 3, 3, 4, 6\), kernels for \(4, 5\) positions; the output has \(4, 4\), each of which needs one: \(4, 4, \*kernel, C_in, C_out\)$"),
    ("local_conv", dict(stride=2), ValueError, r"^w: got the shape .* kernels for \(4, 4\) positions; the output has \(2, 2\)"),
    ("tiled_conv", dict(w=ones((4, 5, 3, 3, 4, 6))), ValueError, r"^w: got \(4, 5\) kernels in turn; the output has \(4, 4\) positions, and an axis can have no more kernels than those$"),
    *((name, dict(x=X[..., :3]), ValueError, r"^x: got 3 channels; w of shape \(.*\) fits 4 of them$") for name in ["local_conv", "tiled_conv"]),
    *((name, dict(x=X[0, 0]), ValueError, r"^x: got the shape \(6, 4\); with 2 spatial axes it must be") for name in ["local_conv", "tiled_conv"]),
    *((name, dict(b=C), ValueError, r"^b: got the shape \(4,\); it must be tied, \(6,\), or untied, \(4, 4, 6\)$") for name in ["local_conv", "tiled_conv"]),
    *((name, dict(y=X[..., :3]), ValueError, r"^y: got 3 channels; w of shape \(.*\) are the forward operation's kernels, which have 4 output channels$") for name in UNSHARED[2:]),
    *((name, dict(y=X[:, :0]), ValueError, r"^y: got the spatial size \(0, 6\); every axis needs a position$") for name in UNSHARED[2:]),
    *((name, dict(output_size=9), ValueError, r"^output_size: got \(9, 9\); the forward operation leads to the size \(6, 6\) from inputs of 8 × 8$") for name in UNSHARED[2:]),
    ("local_conv_transpose", dict(y=X[:, :5]), ValueError, r"^w: got the shape .* kernels for \(6, 6\) positions; the output has \(5, 6\)"),
    ("tiled_conv_transpose", dict(y=X[:, :1]), ValueError, r"^w: got \(2, 3\) kernels in turn; the output has \(1, 6\) positions"),
    ("tiled_conv_kernel_grad", dict(tiles=(5, 1)), ValueError, r"^tiles: got \(5, 1\) kernels in turn; the output has \(4, 4\) positions"),
    ("tiled_conv_kernel_grad", dict(tiles=(1,), kernel_size=(3, 3)), ValueError, r"^tiles: the options disagree"),
    *((f"{kind}_conv_kernel_grad", dict(dy=X), ValueError, r"^dy: got the shape \(2, 6, 6, 4\); for x of shape \(2, 6, 6, 4\) and kernel_size \(3, 3\) the output of the forward operation is \(2, 4, 4, C_out\)$") for kind in ["local", "tiled"]),
    *((f"{kind}_conv_kernel_grad", dict(dy=ones((2, 4, 4, 0))), ValueError, r"^dy: got the shape \(2, 4, 4, 0\); it needs a channel$") for kind in ["local", "tiled"]),
    ("adaptive_max_pool", dict(x=3.0), TypeError, r"^x: got float; it must be a jax or numpy array$"),
    ("relu6", dict(x=3.0), TypeError, r"^x: got float; it must be a jax or numpy array$"),
    ("upsample", dict(x=3.0), TypeError, r"^x: got float; it must be a jax or numpy array$"),
    ("max_unpool", dict(argmax=[0]), TypeError, r"^argmax: got list"),
    ("max_unpool", dict(y=X[0, 0], argmax=X[0, 0].astype("int32")), ValueError, r"^y: got the shape \(6, 4\)"),
    ("fold", dict(patches=ones((2, 5, 0, 2, 2, 4))), ValueError, r"^patches: got the shape \(2, 5, 0, 2, 2, 4\)"),
    ("add_bias", dict(b=X[None]), ValueError, r"^b: got the shape \(1, 2, 6, 6, 4\)"),
    ("scale", dict(b=ones(6)), ValueError, r"^b: got the shape \(6,\); .* tied, \(\), \(4,\)"),
    ("scale", dict(z=2.0, b=3.0), TypeError, r"^z: got float; it must be a jax or numpy array$"),
    ("dense", dict(w=C), ValueError, r"^w: got the shape \(4,\); it must be \(n_in, n_out\)$"),
    ("dense", dict(x=C[0]), ValueError, r"^x: got the shape \(\)"),
    ("prelu", dict(slope=ones(2)), ValueError, r"^slope: got the shape \(2,\); .* \(\) or \(4,\)$"),
    ("standardize", dict(mean=ones(3)), ValueError, r"^mean: got the shape \(3,\)"),
    ("batch_norm", dict(x=C[0]), ValueError, r"^x: got the shape \(\)"),
    ("batch_norm_inference", dict(var=ones(2)), ValueError, r"^var: got the shape \(2,\)"),
    ("group_norm", dict(x=X[0, 0]), ValueError, r"^x: got the shape \(6, 4\); with 2 spatial"),
    ("half_squared_error", dict(y=C[0], t=C[0]), ValueError, r"^axis: got -1; for x of shape \(\)"),
    ("softmax_cross_entropy", dict(logits=C[0]), ValueError, r"^logits: got the shape \(\)"),
    ("softmax_cross_entropy", dict(labels=ROWS.astype("int32")), ValueError, r"^labels: .* \(2,\) of integers"),
    ("softmax_cross_entropy", dict(labels=ones(3)), ValueError, r"^labels: .* or \(2, 3\) of float64$"),
    ("log_softmax", dict(x=C[0]), ValueError, r"^axis: got -1; for x of shape \(\)"),
    ("conv", dict(x=X[0, 0]), ValueError, r"^x: got the shape \(6, 4\); with 2 spatial axes it must be \(\*batch, height, width, channels\)$"),
    ("conv", dict(x=X[..., :3]), ValueError, r"^x: got 3 channels; w of shape \(3, 3, 4, 6\) with groups=1 fits 4 · 1 = 4$"),
    ("conv", dict(x=X.astype("uint8"), w=W.astype("uint8"), b=None, preferred_element_type="int16"), TypeError, r"^preferred_element_type: got 'int16' for arrays of uint8; it must be an unsigned integer dtype$"),
    ("conv", dict(x=X.astype("complex64"), w=W.astype("complex64"), b=None, preferred_element_type="float32"), TypeError, r"^preferred_element_type: got 'float32' for arrays of complex64; it must be complex64 or complex128$"),
    ("conv", dict(x=X.astype("complex64")), TypeError, r"^w: got float64, but x is complex64; .* cast one of them, as in w\.astype\(x\.dtype\)$"),
    ("dense", dict(w=W[0, 0].astype("complex64")), TypeError, r"^w: got complex64, but x is float64; .* as in x\.astype\(w\.dtype\)$"),
    ("leaky_relu", dict(negative_slope=math.inf), ValueError, r"^negative_slope: got inf; it must be a finite Python number$"),
    ("scale", dict(z=X.astype("float32"), b=np.array(2.0)), TypeError, r"^b: got float64, but z is float32; the arrays of one call share a dtype"),
    ("conv", dict(x=ones((2, 6, 6, 5))), ValueError, r"^x: got 5 channels; w of shape \(3, 3, 4, 6\) with groups=1 fits 4 · 1 = 4$"),
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
    ("explicit", dict(rules=[len]), TypeError, r"^rules: got list; it must be a mapping from operations to functions of the same arguments$"),
    ("implicit", dict(f=3), TypeError, r"^f: got int; it must be a function$"),
    ("conv_transpose", dict(y=X[..., :3]), ValueError, r"^y: got 3 channels; w of shape \(3, 3, 4, 4\) is the forward convolution's kernel, which has 4 output channels$"),
    ("conv_transpose", dict(y=X[:, :0]), ValueError, r"^y: got the spatial size \(0, 6\); every axis needs a position$"),
    ("conv_transpose", dict(b=ones(3)), ValueError, r"^b: got the shape \(3,\); it must be tied, \(4,\), or untied, \(8, 8, 4\)$"),
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
        if wrong.size or name not in MAPS_NOTHING_TO_NOTHING
    ),
    ("flatten", dict(x=C), ValueError, r"^x: got the shape \(4,\); with 2 spatial axes it must be"),
    ("fold", dict(patches=X), ValueError, r"^patches: got the shape \(2, 6, 6, 4\); with 2 spatial axes it must be \(\*batch, \*out_spatial, \*window, channels\), with 2 sizes of at least 1"),
    ("add_bias", dict(b=ones(6)), ValueError, r"^b: got the shape \(6,\); beside an array of shape \(2, 6, 6, 4\) it must be tied, \(4,\), or untied, of the shape of the last axes$"),
    ("add_bias", dict(b=1.0), ValueError, r"^b: got the shape \(\); .* it must be tied, \(4,\)"),
    ("scale", dict(b=1e300, z=X.astype("float32")), ValueError, r"^b: got 1e\+300, which float32 cannot hold; it must be in its range$"),
    ("scale", dict(b=1e39, z=X.astype("bfloat16")), ValueError, r"^b: got 1e\+39, which bfloat16 cannot hold"),
    ("dense", dict(x=C[:3]), ValueError, r"^x: got the shape \(3,\); for w of shape \(4, 6\) it is \(\*batch, 4\)$"),
    ("dense", dict(w=X), ValueError, r"^w: got the shape \(2, 6, 6, 4\); it must be \(n_in, n_out\)$"),
    ("dense", dict(b=jnp.ones(7)), ValueError, r"^b: got the shape \(7,\); for w of shape \(4, 6\) it is \(6,\)$"),
    ("dense", dict(b=X), ValueError, r"^b: got the shape \(2, 6, 6, 4\); for w of shape \(4, 6\) it is \(6,\)$"),
    ("prelu", dict(slope=X), ValueError, r"^slope: got the shape \(2, 6, 6, 4\); for x of shape \(2, 6, 6, 4\) it must be \(\) or \(4,\)$"),
    ("standardize", dict(std=ROWS), ValueError, r"^std: got the shape \(2, 3\); .* it must be tied, \(\), \(4,\), or untied"),
    ("standardize", dict(mean=-(10**400)), ValueError, r"^mean: got -10+, which float64 cannot hold"),
    *(
        (name, {argument: wrong}, ValueError, rf"^{argument}: got the shape {re.escape(str(np.shape(wrong)))}; for x of shape \(2, 6, 6, 4\) it must be \(4,\), one number per channel$")
        for name in ["batch_norm", "batch_norm_inference", "layer_norm", "group_norm", "instance_norm"]
        for argument in ["gamma", "beta"]
        for wrong in [1.0, ones(3), ones((1, 4))]
    ),
    ("batch_norm", dict(x=X[:0]), ValueError, r"^x: got the shape \(0, 6, 6, 4\); without a position it has no mean$"),
    ("batch_norm_inference", dict(mean=C.astype("float32"), var=C.astype("float32")), TypeError, r"^mean: got float32; for x of float64 it must be float64 or float64$"),
    (
        "batch_norm_inference",
        {"x": C.astype("bfloat16")} | {name: C.astype("bfloat16") for name in ("gamma", "beta", "var")} | {"mean": C.astype("float32")},
        TypeError,
        r"^var: got bfloat16, but mean is float32",
    ),
    ("instance_norm", dict(x=X[0, 0]), ValueError, r"^x: got the shape \(6, 4\); with 2 spatial"),
    ("local_response_norm", dict(x=C[0]), ValueError, r"^x: got the shape \(\); it must be \(\.\.\., C\)$"),
    ("local_response_norm", dict(size=2**31), ValueError, r"^size: got \(2147483648,\); it must be at most 2147483647$"),
    ("local_response_norm", dict(alpha=-1), ValueError, r"^alpha: got -1; it must be a finite Python number of at least 0$"),
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
    ("unfold", dict(window=3, dilation=3), ValueError, r"^window: its size 3 with dilation 3 covers 7"),
    ("unfold", dict(window=(2, 2), stride=(1, 1, 1)), ValueError, r"^window: the options disagree"),
    ("fold", dict(output_size=(6, 6), spatial_ndim=1), ValueError, r"^output_size: the options disagree"),
    ("fold", dict(output_size=40, stride=(2, 3)), ValueError, r"^output_size: got \(40, 40\); .* inputs of 10…11 × 14…16$"),
    ("fold", dict(padding=6), ValueError, r"^padding: got 6; with it no input"),
    ("avg_pool", dict(padding=((0, 0), (0, 2))), ValueError, r"^padding: got .* window 3 of spatial axis 1"),
    ("max_pool", dict(padding=2, dilation=8), ValueError, r"^padding: .*no tap on the 6"),
    ("lp_pool", dict(p=math.inf), ValueError, r"^p: got inf.*max_pool"),
    ("adaptive_avg_pool", dict(output_size=(2,) * 4), ValueError, r"^output_size: got 4 spatial axes"),
    ("adaptive_avg_pool", dict(output_size=(2,), spatial_ndim=2), ValueError, r"^output_size: the options disagree"),
    ("downsample", dict(factor=(2, 2), offset=(0, 0, 0)), ValueError, r"^factor: the options disagree"),
    ("upsample", dict(factor=1, output_size=5), ValueError, r"^output_size: .* inputs of 6 × 6$"),
    ("repeat", dict(factor=(1,) * 4), ValueError, r"^factor: got 4 spatial axes"),
    ("resize", dict(size=(1,) * 4), ValueError, r"^size: got 4 spatial axes; 1, 2 and 3 are supported$"),
    ("resize", dict(size=(3, 3), spatial_ndim=3), ValueError, r"^size: the options disagree .*size for 2"),
    ("resize", dict(method="nearest", align_corners=True), ValueError, r"^align_corners: got True with"),
    ("resize", dict(method="nearest-exact", antialias=True), ValueError, r"^antialias: got True with"),
    ("resize", dict(x=X.astype(bool), method="nearest"), TypeError, r"^x: got an array of bool; .*or an integer"),
    ("pad", dict(padding=(1, 1), spatial_ndim=1), ValueError, r"^padding: the options disagree on the number of"),
    ("pad", dict(padding=((0, 0), (-8, 2))), ValueError, r"^padding: got \(-8, 2\) for spatial axis 1, .*must remain"),
    ("pad", dict(padding=((0, 7), (0, 0)), mode="circular"), ValueError, r"^padding: got \(0, 7\) .*at most 6"),
    ("pad", dict(x=X.astype("int8"), value=0.5), TypeError, r"^value: got the float 0\.5 beside arrays of int8"),
    ("pad", dict(x=X.astype("int8"), value=200), ValueError, r"^value: got 200, which int8 cannot hold"),
    ("unflatten", dict(shape=(12, 0)), ValueError, r"^shape: got \(12, 0\)"),
    ("dropout", dict(broadcast_axes=(0, -4)), ValueError, r"^broadcast_axes: got \(0, -4\); .* distinct"),
    ("dropout", dict(broadcast_axes="0"), ValueError, r"^broadcast_axes: got '0'"),
    # Options of every axis: their length, their range, and what JAX or NumPy made of them.
    ("conv", dict(stride=(1, 1, 1)), ValueError, r"^stride: got \(1, 1, 1\); it must be an int or a sequence of 2 ints, each at least 1$"),
    ("conv", dict(dilation=()), ValueError, r"^dilation: got \(\); it must be an int or a sequence of 2 ints"),
    ("conv", dict(padding=((1, 1),)), ValueError, r"^padding: got \(\(1, 1\),\); it must be one of VALID, SAME, SAME_LOWER, FULL, CIRCULAR, REFLECT, SYMMETRIC, EDGE, CAUSAL, an int"),
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
        (name, dict(padding=wrong), ValueError, rf"^padding: got '{wrong}'; the names are VALID, SAME, SAME_LOWER, FULL{', CIRCULAR, REFLECT, SYMMETRIC, EDGE, CAUSAL' * (name == 'conv')}$")
        for name in FUNCTIONS
        if "padding" in inspect.signature(PUBLIC[name]).parameters and name not in ("pad", "conv_general_dilated", "sample")
        for wrong in ["same", "", "SAMEISH", "VALID "]
    ),
    *(
        (name, dict(padding=of_conv), ValueError, rf"^padding: got '{of_conv}', which only cnnvjp\.conv takes; the names are VALID, SAME, SAME_LOWER, FULL; or pad x first, with cnnvjp\.pad$")
        for name in FUNCTIONS
        if "padding" in inspect.signature(PUBLIC[name]).parameters and name not in ("pad", "conv", "conv_general_dilated", "sample")
        for of_conv in ["CIRCULAR", "CAUSAL"]
    ),
    ("conv", dict(padding="REFLECT", dilation=6), ValueError, r"^padding: got \(6, 6\) for spatial axis 0, which has 6 positions; with mode='reflect' it must be at most 5 on either side$"),
    ("pad", dict(padding="SAME"), ValueError, r"^padding: got 'SAME'; it must be an int, a sequence of 2 ints, or of 2 pairs \(before, after\)$"),
    ("pad", dict(padding=-3), ValueError, r"^padding: got \(-3, -3\) for spatial axis 0, which has 6 positions; one must remain$"),
    ("pad", dict(padding=6, mode="reflect"), ValueError, r"^padding: got \(6, 6\) for spatial axis 0, which has 6 positions; with mode='reflect' it must be at most 5 on either side$"),
    ("pad", dict(value=1, mode="edge"), ValueError, r"^value: got 1 with mode='edge'; only 'constant' uses it$"),
    ("pad", dict(value=1e39, x=X.astype("bfloat16")), ValueError, r"^value: got 1e\+39, which bfloat16 cannot hold"),
    *(("pad", dict(value=wrong), TypeError, r"^value: got \w+; it must be a number$") for wrong in [None, True, "1", 1j, np.complex64(1), np.array(1.0), (1.0,), C[0]]),
    ("resize", dict(method="nearest", antialias=True), ValueError, r"^antialias: got True with method='nearest', which copies pixels; it must be False, or the method linear or cubic$"),
    ("resize", dict(align_corners=True, antialias=True), ValueError, r"^antialias: got True with align_corners=True; at most one of them may be True$"),
    ("sample", dict(x=X[:, :0]), ValueError, r"^x: got the spatial size \(0, 6\); every axis needs a position$"),
    ("sample", dict(x=X[0, 0]), ValueError, r"^x: got the shape \(6, 4\); with 2 spatial axes it must be"),
    ("sample", dict(positions=ones(())), ValueError, r"^positions: got the shape \(\); it must be \(\*batch, \*out, D\) with D of 1, 2 or 3$"),
    *(("sample", dict(positions=ones((2, 3, wrong))), ValueError, rf"^positions: got the shape \(2, 3, {wrong}\); it must be") for wrong in [0, 4]),
    *(("sample", dict(positions=ones(wrong)), ValueError, rf"^positions: got the shape {re.escape(str(wrong))}; for x of shape \(2, 6, 6, 4\) it must be \(2, \*out, 2\) with at least one axis in out$") for wrong in [(2, 2), (3, 3, 2), (2,)]),
    ("sample", dict(x=X[None], positions=ones((1, 2, 3, 3)), method="cubic"), ValueError, r"^x: got the shape|^positions: got the shape|^method: got 'cubic' with positions in 3 dimensions; there it must be 'nearest' or 'linear'$"),
    ("sample", dict(x=X.astype("float32"), positions=ones((2, 3, 2), "bfloat16")), TypeError, r"^positions: got bfloat16, but x is float32; .* as in positions\.astype\(x\.dtype\)$"),
    ("sample", dict(x=X.astype("bfloat16"), positions=ones((2, 3, 2), "float16")), TypeError, r"^positions: got float16, but x is bfloat16; the arrays of one call share a dtype"),
    *(("normalized_positions", dict(grid=ones(wrong)), ValueError, rf"^grid: got the shape {re.escape(str(wrong))}; it must be \(\.\.\., D\) with D of 1, 2 or 3$") for wrong in [(), (3, 0), (2, 4)]),
    *(("affine_positions", dict(matrix=ones(wrong)), ValueError, rf"^matrix: got the shape {re.escape(str(wrong))}; it must be \(\*batch, D, D \+ 1\) with D of 1, 2 or 3$") for wrong in [(), (3,), (2, 2), (3, 2), (0, 1), (4, 5)]),
    # Offsets and boxes.
    ("deform_conv", dict(offsets=X), ValueError, r"^offsets: got the shape \(2, 6, 6, 4\); for x of shape \(2, 6, 6, 4\), a kernel of \(3, 3\) and \(4, 4\) outputs it is \(2, 4, 4, G, 3, 3, 2\), with G offset groups$"),
    ("deform_conv", dict(offsets=ones((2, 4, 4, 1, 3, 3, 1))), ValueError, r"^offsets: got the shape \(2, 4, 4, 1, 3, 3, 1\); .* it is \(2, 4, 4, G, 3, 3, 2\)"),
    ("deform_conv", dict(stride=2), ValueError, r"^offsets: got the shape \(2, 4, 4, 2, 3, 3, 2\); .* it is \(2, 2, 2, G, 3, 3, 2\)"),
    *(("deform_conv", dict(offsets=ones((2, 4, 4, wrong, 3, 3, 2))), ValueError, rf"^offsets: got {wrong} offset groups, axis 3 of the shape .*; their number must divide the 4 channels of x$") for wrong in [0, 3]),
    ("deform_conv", dict(mask=ones((2, 4, 4, 1, 3, 3))), ValueError, r"^mask: got the shape \(2, 4, 4, 1, 3, 3\); beside offsets of shape \(2, 4, 4, 2, 3, 3, 2\) it is \(2, 4, 4, 2, 3, 3\)$"),
    ("deform_conv", dict(b=C), ValueError, r"^b: got the shape \(4,\); it must be tied, \(6,\), or untied, \(4, 4, 6\)$"),
    ("deform_conv", dict(groups=2), ValueError, r"^x: got 4 channels; w of shape \(3, 3, 4, 6\) with groups=2 fits 4 · 2 = 8$"),
    ("deform_conv", dict(w=W[0, 0]), ValueError, r"^w: got the shape \(4, 6\); .* without spatial axes the operation is cnnvjp\.dense$"),
    *(("roi_align", dict(boxes=ones(wrong)), ValueError, rf"^boxes: got the shape {re.escape(str(wrong))}; for x of shape \(2, 6, 6, 4\) it is \(2, R, 4\), with \(top, left, bottom, right\) of R boxes$") for wrong in [(), (3, 4), (2, 3, 5), (2, 1, 3, 4), (3, 3, 4)]),
    ("roi_align", dict(x=X[0, 0]), ValueError, r"^x: got the shape \(6, 4\); with 2 spatial axes it must be"),
    ("roi_align", dict(x=X[:, :0]), ValueError, r"^x: got the spatial size \(0, 6\); every axis needs a position$"),
    ("roi_align", dict(samples=-1), ValueError, r"^samples: got -1; it must be an int of at least 1$"),
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
    *(("models.resnet", dict(depth=wrong), ValueError, rf"^depth: got {wrong}; it must be") for wrong in [9, 2, 0]),
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
    ("Model.apply", dict(perturbations={"n5": 0.0}), TypeError, r"^perturbations\['n5'\]: got float; it must be an array"),
    ("Model.apply", dict(perturbations={"n9": C}), ValueError, r"^perturbations: got 'n9'; the names are lz1, n1, a1"),
    ("Model.apply", dict(perturbations={"n5": C}), TypeError, r"^perturbations\['n5'\]: got float64; it must be an array of float32$"),
    ("Model.apply", dict(perturbations={"n5": IMAGES}), ValueError, r"^perturbations\['n5'\]: got the shape \(2, 10, 10, 1\); it must be \(2, 3\)$"),
    *(("Model.apply with statistics", dict(train=wrong), TypeError, r"^train: got .*; it must be True or False") for wrong in ["no", None, 1, ones((), bool)]),
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
            (dict(batch=(ones((2, 14, 14, 1), "float32"), LABELS)), ValueError, r"^x: got the shape \(2, 8\); for w of shape \(2, 3\) it is"),
        ]
    ),
    *((name, dict(key=wrong), TypeError, rf"^key: got {got}; {ONE_KEY}$") for name in ["step", "step on a mesh"] for wrong, got in [(None, "NoneType"), (C, "an array of float64")]),
    *((name, dict(key=jax.random.split(KEY)), ValueError, r"^key: got \(2,\) keys; it must be one") for name in ["step", "step on a mesh"]),
    ("step on a mesh", dict(key="0"), TypeError, rf"^key: got str; {ONE_KEY}$"),
    *[("step on a mesh", dict(batch=(IMAGES[:1], LABELS[:1])), ValueError, r"^batch: got 1 examples; the mesh divides them among the 2 devices of its axis 'data', so it must be a multiple of 2$")] * (len(TWO) == 2),
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
