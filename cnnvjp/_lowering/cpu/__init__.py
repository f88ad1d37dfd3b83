"""The formulations that XLA:CPU runs fastest, chosen from static shapes.

For each of the three operations, and for the sums of pooling, one function chooses the
formulation; None is XLA's own, as `xla` has it. A formulation is a pure function of the
same two arrays, for the same window; it knows neither autodiff nor the names of paddings, and is
tested against the plain one. `scripts/benchmark.py` measures what is gained.

NaN and infinity affect only outputs whose window contains them, and never another image, but for
three formulations that multiply them by the zeros that they fill in, as 0 · ∞ is NaN: blocks of
groups spread them to the other groups of a block, banded matrices to the rest of the rows, and
space to depth to the rest of a cell.
"""

import functools
import math
from collections.abc import Callable

import jax
from jax import lax

from cnnvjp._jax_versions import REREADS, SUMS_ONCE, varying_axes
from cnnvjp._lowering import xla
from cnnvjp._lowering.cpu import (
    banded,
    dense,
    depthwise,
    depthwise_loops,
    grouped,
    onednn,
    unshared,
    volumes,
)
from cnnvjp._lowering.platform import Formulation
from cnnvjp._lowering.settings import with_onednn
from cnnvjp._types import ArrayType, Precision, accumulator
from cnnvjp._windows.geometry import Window

# What decides. Beside each number, a layer on either side of it: its milliseconds with the choice
# that is made → with the other one. float32, JAX 0.12, two cores of an x86-64 server, 2026-11-28;
# `scripts/thresholds.py` measures them again.

# Taps that are unrolled: compiling takes longer with each. Depthwise forward, 64 maps of 8×28×28:
# 11×11 8.2 → 53; 13×13 3.2 → 5.9, and 0.7 s to compile against 5.5.
_MOST_TAPS = 128
# Taps of a kernel gradient, up to which all are unrolled; and, beyond a few taps, the rows of dy up
# to which they are. 5×5, 240 at 16×28×28 8.5 → 24, 2.3 s to compile against 0.5; 7×7, 96 at 4×56×56
# 3.6 → 5.2, 6 s against 0.5; 9×9, 64 at 8×32×32 3.1 → 5.9, 10 s against 0.7.
_UNROLLED_TAPS = 49
_FEW_TAPS = 9
_LOW = 32
# Phases of a strided input gradient: each is compiled. Depthwise 3×3 s2, 64 at 16×56×56: 1.3 → 15.
_MOST_PHASES = 16
# A kernel's rows and columns, from which products with a banded matrix win. Input gradient, 6 → 16
# at 128×14×14: 5×5 2.3 → 6.3; 4×4 4.2 → 2.0.
_LARGE = 5
# Columns of an image for each of the kernel's, times √(C · O), up to which they do: what the zeros
# cost. Input gradient of 7×7 at 40×40: 6 → 4 (32) 8.5 → 11; of 9×9, 12 → 8 (43) 9.0 → 8.0.
_ZEROS = 32
# Channels up to which they do, and from which a phase is worth a convolution of its own. Input
# gradient of 5×5 at 64×14×14: 16 → 16 2.9 → 3.3; 16 → 32 5.7 → 5.1.
_ENOUGH = 16
# Channels of a group whose sums are unrolled. Forward, 3×3, 8 groups at 8×28×28: 64 maps 1.5 → 3.0;
# 128 maps 5.6 → 5.7.
_FEW = 8
# Bytes of one tap's terms, beyond which merged groups are taken. Forward, 3×3, 32 groups of 4 at
# 56×56: 8 images 13 → 22; 32 images 98 → 63.
_UNROLLED_BYTES = 64 << 20
# Pixels from which a phase is worth it. Input gradient of 3×3 s2: 64 → 128 at 64×32×32 34 → 34;
# 128 → 256 at 64×16×16 27 → 33.
_LARGE_MAP = 512
# Bytes of dy, which a kernel's gradient reads many times over. 3×3, 128 maps of 28×28: 32 images
# 54 → 67 undivided; 16 images 24 → 26 divided.
_BATCH_BYTES = 8 << 20
# The same, below _BROAD output channels. 3×3, 64 maps of 56×56: 32 images 60 → 87; 16 images 26 →
# 27.
_SLIM_BATCH_BYTES = 13 << 20
_BROAD = 128
_MOST_BATCHES = 16  # each is compiled
# Products for each output, up to which sums of whole maps win. Forward, 3 → 32 at 64×32×32: 3×3
# 1.7 → 1.8; 5×5 3.2 → 3.9.
_PRODUCTS = 64
# The same, where every position has its own kernel: 5×5, 8 → 8 at 32×20×20 1.1 → 2.4; 16 → 16 at
# 16×25×25 12 → 36.
_UNSHARED_PRODUCTS = 200
_COLOURS = 3  # input channels up to which they do. 3×3, 4 → 32: 2.5 → 2.3
# Channels of a patch, up to which a matrix of patches wins where they overlap. Kernel gradient, 3×3
# at 64×28×28: 2 → 32 1.2 → 2.5; 4 → 32 3.0 → 2.5. Side by side they always do: 2×2 s2, 128 → 256 at
# 4×56×56 7.4 → 10.4; 4×4 s4, 3 → 96 at 8×224×224 2.5 → 6.7.
_NARROW = 18
_WIDE = 32  # output channels from which it does. 1 → 32 0.8 → 1.9; 1 → 16 0.8 → 0.8
# With oneDNN: pixels of dy up to which it computes kernel gradients. 3×3: 256 maps of 64×8×8
# 24 → 30; 512 of 16×14×14 78 → 92; 128 of 64×16×16 37 → 36; 64 of 64×32×32 61 → 36.
_SMALL_MAP = 196
# Elements of the temporaries of a formulation that is chosen, at most: so many times those that it
# reads and writes, or so many.
_TIMES = 3
_ANYWAY = 1 << 20


def correlation(
    x: jax.Array, w: jax.Array, window: Window, groups: int, precision: Precision
) -> Formulation | None:
    """For y = c(x, w).

    Args:
        x: the images, of which the shape counts.
        w: the kernel.
        window: where it stands.
        groups: how many groups the channels fall into.
        precision: as in lax.
    """
    several = x.shape[-1] > 1
    if several and _for_onednn(x, w) and not _would_gather(x, w, groups):
        return functools.partial(
            onednn.correlate, window=window, groups=groups, precision=precision
        )
    if _is_depthwise(w, window, groups):
        unrolled = window.taps <= _MOST_TAPS
        formulation = depthwise.correlate if unrolled else depthwise_loops.correlate
        maps = _batch(x) * w.shape[-1]
        outputs = math.prod(window.output_size)
        fits = _fits(maps * (_padded(window) + outputs), _size(x) + w.size + maps * outputs)
        return functools.partial(formulation, window=window) if fits else None
    if groups > 1:
        if _is_unrolled(w, window, groups, _batch(x), window.output_size):
            return functools.partial(grouped.correlate, window=window, groups=groups)
        if _covers(window, window.input_size):
            return None
        within = _each(correlation, window, precision)
        return functools.partial(grouped.merged, groups=groups, dense=within)
    if _has_depth(window):
        planes = _each(correlation, volumes.plane_window(window), precision)
        return functools.partial(volumes.correlate, window=window, planes=planes)
    few = 1 < window.taps <= _PRODUCTS // w.shape[-2] and w.shape[-2] <= _COLOURS
    if SUMS_ONCE and few:
        return functools.partial(dense.correlate_few, window=window)
    if w.shape[-2] == 1 and _has_short_rows(_batch(x), w.shape[-2:], window):
        return functools.partial(banded.correlate, window=window, precision=precision)
    return None


def input_gradient(
    dy: jax.Array, w: jax.Array, window: Window, groups: int, precision: Precision
) -> Formulation | None:
    """For dx = h(dy, w); arguments as in `correlation`."""
    few_phases = math.prod(window.stride) <= _MOST_PHASES
    wide = w.shape[-2] * groups >= _ENOUGH
    # The phases of a depthwise kernel have two or three taps each: 144 maps of 16×56×56, 3×3 s2,
    # 3.6 → 5.3; 672 of 16×14×14, 5×5 s2 1.2 → 1.5.
    tiny = _is_depthwise(w, window, groups) and set(window.stride) != {1}
    if wide and few_phases and not tiny and _for_onednn(dy, w) and not _would_gather(dy, w, groups):
        return functools.partial(
            onednn.input_gradient, window=window, groups=groups, precision=precision
        )
    if _is_depthwise(w, window, groups) and few_phases:
        unrolled = window.taps <= _MOST_TAPS
        formulation = depthwise.input_gradient if unrolled else depthwise_loops.input_gradient
        maps = _batch(dy) * w.shape[-1]
        reached = zip(window.input_size, window.extent, window.stride, strict=True)
        padded = math.prod((n + e - 1) // s for n, e, s in reached)
        woven = 0 if set(window.stride) == {1} else 2 * maps * math.prod(window.input_size)
        inputs = maps * math.prod(window.input_size)
        fits = _fits(maps * padded + inputs + woven, _size(dy) + w.size + inputs)
        return functools.partial(formulation, window=window, channels=groups) if fits else None
    if groups > 1:
        if few_phases and _is_unrolled(w, window, groups, _batch(dy), window.input_size):
            return functools.partial(grouped.input_gradient, window=window, groups=groups)
        upsampled = zip(window.output_size, window.stride, strict=True)
        if _covers(window, tuple((o - 1) * s + 1 for o, s in upsampled)):
            return None
        within = _each(input_gradient, window, precision)
        return functools.partial(grouped.merged, groups=groups, dense=within)
    if _has_depth(window):
        planes = _each(input_gradient, volumes.plane_window(window), precision)
        return functools.partial(volumes.input_gradient, window=window, planes=planes)
    if _has_short_rows(_batch(dy), w.shape[-2:], window):
        return functools.partial(banded.input_gradient, window=window, precision=precision)
    plain = functools.partial(dense.input_gradient, window=window, precision=precision)
    if window.ndim != 2 or max(window.stride) == 1 or window.taps == 1:
        return plain
    if _falls_into_cells(w.shape[-2], window):
        return functools.partial(dense.input_gradient_by_depth, window=window, precision=precision)
    if few_phases and w.shape[-2] >= _ENOUGH and _is_slow_dilated(window):
        return functools.partial(dense.input_gradient_by_phases, window=window, precision=precision)
    return plain


def kernel_gradient(
    x: jax.Array, dy: jax.Array, window: Window, groups: int, precision: Precision
) -> Formulation | None:
    """For dw = g(x, dy); arguments as in `correlation`."""
    if groups > 1 and x.shape[-1] == groups and _has_few_taps(window):
        return functools.partial(depthwise.kernel_gradient, window=window)
    if groups > 1 and x.shape[-1] == groups and window.ndim > 1:
        copies = 1 if set(window.stride) == {1} else 2
        maps = _batch(x) * dy.shape[-1]
        fits = _fits(maps * _padded(window) * copies + _size(dy), _size(x) + _size(dy))
        return functools.partial(depthwise_loops.kernel_gradient, window=window) if fits else None
    if groups > 1 and math.prod(window.output_size) > math.prod(window.input_size):
        return None  # as in `_covers`: dy is the kernel
    if groups > 1:
        within = _each(kernel_gradient, window, precision)
        return functools.partial(grouped.merged_kernel_gradient, groups=groups, dense=within)
    if window.taps == 1:
        return functools.partial(
            dense.pointwise_kernel_gradient, window=window, precision=precision
        )
    narrow = window.taps * x.shape[-1] <= _NARROW and dy.shape[-1] >= _WIDE
    if narrow or _side_by_side(window):
        return functools.partial(
            dense.kernel_gradient_of_patches, window=window, precision=precision
        )
    if _has_depth(window):
        planes = _each(kernel_gradient, volumes.plane_window(window), precision)
        return functools.partial(volumes.kernel_gradient, window=window, planes=planes)
    channels = x.shape[-1], dy.shape[-1]
    if REREADS and x.shape[-1] == 1 and _has_short_rows(_batch(x), channels, window):
        return functools.partial(banded.kernel_gradient, window=window, precision=precision)
    plain = functools.partial(dense.kernel_gradient, window=window, precision=precision)
    if window.ndim != 2:
        return plain
    if _for_onednn(x, dy) and math.prod(window.output_size) <= _SMALL_MAP:
        return functools.partial(onednn.kernel_gradient, window=window, precision=precision)
    batches = _batches(dy)
    if REREADS and batches > 1:
        return functools.partial(
            dense.kernel_gradient_in_batches, window=window, precision=precision, batches=batches
        )
    return plain


def unshared_correlation(x: jax.Array, w: jax.Array, window: Window) -> Formulation | None:
    """For the sums of a tiled convolution, where w is (*tiles, *kernel, C, O)."""
    local = w.shape[: window.ndim] == window.output_size
    if SUMS_ONCE and local and window.taps * x.shape[-1] <= _UNSHARED_PRODUCTS:
        return functools.partial(unshared.correlate_few, window=window)
    return None


def window_sum(x: jax.Array, window: Window) -> Formulation | None:
    """For the sums over a window's taps: those of a depthwise convolution, without its kernel.

    Windows side by side read every pixel once: their taps are added as they lie.
    """
    if x.ndim != window.ndim + 2 or not _overlap(window) or window.taps > _MOST_TAPS:
        return None
    return functools.partial(depthwise.correlate, w=None, window=window)


def window_spread(dy: jax.Array, window: Window) -> Formulation | None:
    """For the adjoint of `window_sum`; with a stride, tiles are as fast."""
    if set(window.stride) != {1} or window_sum(dy, window) is None:
        return None
    return functools.partial(depthwise.input_gradient, w=None, window=window, channels=dy.shape[-1])


def weighted_sum(x: jax.Array, w: jax.Array) -> jax.Array:
    """As a product with a vector: XLA:CPU would write x · w to memory before it adds it up.

    Layer norm, both ways, 96 channels at 8×56×56: 5.3 → 8.9; 384 at 16×14×14 1.1 → 1.4.
    """
    out = ArrayType(x.dtype)
    return xla.contract(x, w, ((x.ndim - 1,), (0,)), lax.Precision.HIGHEST, out)[..., None]


def _each(
    choose: Callable[..., Formulation | None], window: Window, precision: Precision
) -> Formulation:
    """The formulation for a part of the work, chosen when the part's shapes are known."""

    def run(a: jax.Array, b: jax.Array) -> jax.Array:
        formulation = choose(a, b, window, 1, precision)
        if formulation is None:
            return xla.correlate(a, b, window, 1, precision, ArrayType(a.dtype))
        return formulation(a, b)

    return run


def _batch(x: jax.Array) -> int:
    """How many images there are; 1 where the exported program is for any number."""
    return x.shape[0] if isinstance(x.shape[0], int) else 1


def _size(x: jax.Array) -> int:
    return _batch(x) * math.prod(x.shape[1:])


def _padded(window: Window) -> int:
    """The pixels of a padded image."""
    return math.prod(n + sum(e) for n, e in zip(window.input_size, window.span, strict=True))


def _fits(temporaries: int, given: int) -> bool:
    """Whether a formulation's temporaries are in proportion to what it reads and writes.

    Args:
        temporaries: how many elements they have, about.
        given: the elements of the operands and of the result.
    """
    return temporaries <= max(_TIMES * given, _ANYWAY)


def _covers(window: Window, image: tuple[int, ...]) -> bool:
    """Whether a kernel has more taps than the image pixels: then XLA exchanges the two.

    It is slow then, and slower still with the many zeros of merged groups. Forward, 31×31 s3,
    8 groups, 32 → 128 at 4×28×28: 221 merged, 16 as it is.
    """
    return window.taps > math.prod(image)


def _for_onednn(x: jax.Array, y: jax.Array) -> bool:
    """Whether oneDNN is there to compute with such arrays."""
    return with_onednn() and accumulator(x.dtype) == "float32" and bool(_size(x) and y.size)


def _would_gather(x: jax.Array, w: jax.Array, groups: int) -> bool:
    """Whether XLA may all-gather a sharded batch for this convolution (JAX 0.12).

    It does so for grouped convolutions, lax's own too, unless each group has one input and one
    output channel.
    """
    one_to_one = w.shape[-2] == 1 and w.shape[-1] == groups
    return groups > 1 and not one_to_one and _devices(x) > 1


def _devices(x: jax.Array) -> int:
    """The number of devices that its batch may be sharded over; a traced array does not say."""
    return 1 if varying_axes(x) else jax.device_count()


def _is_depthwise(w: jax.Array, window: Window, groups: int) -> bool:
    within = math.prod(window.size[1:]) <= _MOST_TAPS  # in one iteration of a loop
    return groups > 1 and w.shape[-2] == 1 and within


def _has_few_taps(window: Window) -> bool:
    """Whether a kernel gradient is unrolled whole."""
    if window.ndim == 1:
        return window.taps <= _MOST_TAPS
    low = window.output_size[-2] <= _LOW
    return window.taps <= _FEW_TAPS or (low and window.taps <= _UNROLLED_TAPS)


def _side_by_side(window: Window) -> bool:
    """Whether no pixel is in two patches: together they are no larger than the image."""
    apart = all(k <= s for k, s in zip(window.size, window.stride, strict=True))
    return apart and window.taps <= _MOST_TAPS


def _overlap(window: Window) -> bool:
    axes = zip(window.size, window.stride, window.output_size, strict=True)
    return any(k > s and o > 1 for k, s, o in axes)


def _has_depth(window: Window) -> bool:
    return window.ndim == 3 and window.taps > 1 and window.size[0] <= _MOST_PHASES


def _has_short_rows(batch: int, channels: tuple[int, ...], window: Window) -> bool:
    """A large kernel on a small image, few channels: LeNet's layers."""
    if window.ndim != 2 or window.stride != (1, 1) or min(window.size) < _LARGE:
        return False
    columns = window.input_size[1] + sum(window.span[1])
    zeros = columns * math.sqrt(math.prod(channels)) / window.size[1]
    row = window.size[0] * columns * channels[0]
    (height, width), maps = window.output_size, channels[1]
    read = math.prod(window.input_size) * channels[0] + math.prod(window.output_size) * maps
    fits = _fits(row * (batch * height + 2 * width * maps), batch * read)
    return zeros <= _ZEROS and max(channels) <= _ENOUGH and fits


def _is_unrolled(
    w: jax.Array, window: Window, groups: int, batch: int, size: tuple[int, ...]
) -> bool:
    channels = max(w.shape[-2], w.shape[-1] // groups)
    one_tap = batch * math.prod(size) * groups * channels**2 * w.dtype.itemsize
    few = channels <= _FEW and channels * window.taps <= _MOST_TAPS
    return few and one_tap <= _UNROLLED_BYTES


def _falls_into_cells(channels: int, window: Window) -> bool:
    """Cells of the stride's size: large ones, or few channels and not many zeros to fill."""
    if set(window.dilation) != {1}:
        return False
    covered = dense.cells(window)
    if math.prod(covered) == 1:
        return math.prod(window.stride) > _MOST_PHASES
    filled = math.prod(covered) * math.prod(window.stride)
    return channels < _ENOUGH and filled <= 2 * window.taps


def _is_slow_dilated(window: Window) -> bool:
    """Whether XLA's convolution of the upsampled dy takes longer than its phases."""
    overlapping = window.taps > math.prod(window.stride)
    return overlapping and math.prod(window.input_size) >= _LARGE_MAP


def _batches(dy: jax.Array) -> int:
    """The fewest blocks of images that are small enough: a divisor of the batch.

    Each has images of every device, should the batch be divided among them.
    """
    batch = _batch(dy)
    devices = _devices(dy)
    most = min(batch // devices, _MOST_BATCHES)
    fitting = [q for q in range(1, most + 1) if batch % (q * devices) == 0]
    limit = _BATCH_BYTES if dy.shape[-1] >= _BROAD else _SLIM_BATCH_BYTES
    needed = _size(dy) * dy.dtype.itemsize / limit
    return next((q for q in fitting if q >= needed), max(fitting, default=1))
