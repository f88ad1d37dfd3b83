"""What the documentation allows, and the shapes that come out: an account of it that is independent
of the library. Each function takes the arguments of a call, and returns the shape and dtype of
every output, or raises NotAllowedError.
"""

import math
import numbers
import operator

import jax
import jax.numpy as jnp
import numpy as np

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


def resampled(call, *names, least=0):
    """dtype, batch, spatial size, channels, and the factors of a resampling."""
    dtype, x = arrays(call, "x", integers=True)
    ndim = rank(call, *names)
    return dtype, *maps(x, ndim, least), entries(call["factor"], ndim)


def of_downsample(call):
    dtype, batch, size, channels, factors = resampled(call, "factor", "offset")
    offsets = entries(call["offset"], len(size), 0)
    need(all(first < max(n, 1) for first, n in zip(offsets, size, strict=True)))
    kept = [len(range(o, n, f)) for o, n, f in zip(offsets, size, factors, strict=True)]
    return [((*batch, *kept, *channels), dtype)]


def of_upsample(call):
    names = ("factor", "output_size", "offset")
    dtype, batch, size, channels, factors = resampled(call, *names, least=1)
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


def of_sample(call):
    method = choice(call["method"], "nearest", "linear", "cubic")
    choice(call["padding"], "zeros", "edge", "reflect", "mirror", "circular")
    (dtype, x), (other, positions) = arrays(call, "x"), arrays(call, "positions")
    need(other in (dtype, wide(dtype)))
    need(positions and 1 <= positions[-1] <= (2 if method == "cubic" else 3))
    batch, _, channels = maps(x, positions[-1])
    need(len(positions) >= len(batch) + 2 and positions[: len(batch)] == batch)
    return [((*positions[:-1], *channels), dtype)]


def of_normalized_positions(call):
    dtype, grid = arrays(call, "grid")
    flag(call["align_corners"])
    need(grid and 1 <= grid[-1] <= 3)
    entries(call["size"], grid[-1])
    return [(grid, wide(dtype))]


def of_affine_positions(call):
    dtype, matrix = arrays(call, "matrix")
    flag(call["align_corners"])
    need(len(matrix) >= 2 and 1 <= matrix[-2] <= 3 and matrix[-1] == matrix[-2] + 1)
    ndim = matrix[-2]
    if call["input_size"] is not None:
        entries(call["input_size"], ndim)
    return [((*matrix[:-2], *entries(call["output_size"], ndim), ndim), wide(dtype))]


def of_pad(call):
    mode = choice(call["mode"], "constant", "reflect", "edge", "circular")
    dtype, x = arrays(call, "x", integers=True)
    value = call["value"]
    value = value.item() if isinstance(value, np.number) else value
    need(type(value) in (int, float) and holds(dtype, value))
    need(mode == "constant" or value == 0)
    ndim = rank(call, "padding")
    batch, size, channels = maps(x, ndim, least=mode != "constant")
    need(not isinstance(call["padding"], str))
    out = []
    for axis, n in enumerate(size):
        before, after = border(call["padding"], n, 1, 1, axis, ndim)
        limit = {"reflect": n - 1, "circular": n}.get(mode, math.inf)
        need(max(before, after) <= limit and n + before + after >= min(n, 1))
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
    axes_of(call["axis"], len(x))
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
    return [(x, dtype)]


def of_group_norm(call):
    dtype, x = channelwise(call, "gamma", "beta")
    _, _, (channels,) = maps(x, rank(call), least=0)
    need(channels % whole(call["groups"]) == 0)
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
    "sample": of_sample,
    "normalized_positions": of_normalized_positions,
    "affine_positions": of_affine_positions,
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
