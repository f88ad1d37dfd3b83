"""What XLA offers on every platform: convolution, sums over windows, products."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnvjp._jax_versions import REPACKS, TRANSPOSES_WIDENING
from cnnvjp._types import ArrayType, Pair, Precision, wider
from cnnvjp._windows import tiles
from cnnvjp._windows.axes import broadcast_to, exchange_channels, pad_spatial, rot180
from cnnvjp._windows.geometry import Window
from cnnvjp._windows.taps import place, reduce_taps, separated, spanned, tap

# ------------------------------------------------------------------------------------------
# Convolution
#
# A layout other than channels last costs nothing on accelerators, whose compilers lay arrays out
# as they please. XLA:CPU does so outside of loops only: in the body of a `lax.scan` or
# `fori_loop` it ran such a convolution as a naive loop, 5 to 45 times slower (JAX 0.12). With
# `canonical` the arrays are transposed instead.
# ------------------------------------------------------------------------------------------


def correlate(
    x: jax.Array,
    w: jax.Array,
    window: Window,
    groups: int,
    precision: Precision,
    out: ArrayType,
) -> jax.Array:
    """(N, *spatial, C), (*kernel, C / groups, O) -> (N, *out, O)."""
    ones = (1,) * window.ndim
    return _slide(
        x, w, window.stride, window.padding, ones, window.dilation, groups, False, precision, out
    )


def input_gradient(
    dy: jax.Array,
    w: jax.Array,
    window: Window,
    groups: int,
    precision: Precision,
    out: ArrayType,
    *,
    canonical: bool = False,
) -> jax.Array:
    """(N, *out, O), (*kernel, C / groups, O) -> (N, *spatial, C).

    The rotated kernel slides over dy, which is upsampled by the stride and padded.
    """
    w = rot180(w)
    ones = (1,) * window.ndim
    exchanged = groups == 1 and not canonical  # the layout says so, and nothing moves
    return _slide(
        dy, w if exchanged else exchange_channels(w, groups), ones, window.transposed_padding,
        window.stride, window.dilation, groups, exchanged, precision, out,
    )  # fmt: skip


def _slide(
    x: jax.Array,
    w: jax.Array,
    stride: tuple[int, ...],
    padding: tuple[Pair, ...],
    upsampling: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
    exchanged: bool,
    precision: Precision,
    out: ArrayType,
) -> jax.Array:
    """A kernel over images, both as they lie in memory."""
    return _convolve(
        x, w, stride, padding, upsampling, dilation, _layout(x.ndim - 2, exchanged=exchanged),
        precision, out, feature_group_count=groups,
    )  # fmt: skip


def _layout(ndim: int, *, exchanged: bool = False) -> lax.ConvDimensionNumbers:
    """Channels last; with `exchanged` the kernel's last two axes are (O, C)."""
    image = (0, ndim + 1, *range(1, ndim + 1))
    channels = (ndim, ndim + 1) if exchanged else (ndim + 1, ndim)
    return lax.ConvDimensionNumbers(image, (*channels, *range(ndim)), image)


def kernel_gradient(
    x: jax.Array,
    dy: jax.Array,
    window: Window,
    groups: int,
    precision: Precision,
    out: ArrayType,
    *,
    canonical: bool = False,
) -> jax.Array:
    """(N, *spatial, C), (N, *out, O) -> (*kernel, C / groups, O).

    dy slides over x like a kernel whose taps are s apart, in steps of d. The batch takes the
    place of the channels that are summed over, x's channels that of the batch.
    """
    ndim = window.ndim
    spatial = range(1, ndim + 1)
    layout = lax.ConvDimensionNumbers(
        (ndim + 1, 0, *spatial), (ndim + 1, 0, *spatial), (ndim, ndim + 1, *range(ndim))
    )
    if canonical:
        x, dy = jnp.swapaxes(x, 0, -1), jnp.moveaxis(dy, 0, -2)
        layout = _layout(ndim)
    dw = _convolve(
        x, dy, window.dilation, window.span, (1,) * ndim, window.stride, layout, precision, out,
        batch_group_count=groups,
    )  # fmt: skip
    return jnp.moveaxis(dw, 0, -2) if canonical else dw


def _convolve(
    x: jax.Array,
    w: jax.Array,
    stride: tuple[int, ...],
    padding: tuple[Pair, ...],
    upsampling: tuple[int, ...],
    dilation: tuple[int, ...],
    layout: lax.ConvDimensionNumbers,
    precision: Precision,
    out: ArrayType,
    **groups: int,
) -> jax.Array:
    dtype = wider(x.dtype, w.dtype)
    result = wider(dtype, out.dtype)
    widening = result != dtype
    if widening and not TRANSPOSES_WIDENING:
        dtype = result
    x, padding = _around_faults(x, w, padding, upsampling, layout)
    y = lax.conv_general_dilated(
        x.astype(dtype), w.astype(dtype), stride, padding, upsampling, dilation, layout,
        precision=precision,
        # XLA sums float16 and bfloat16 in float32 before it rounds; what is asked for
        # beyond that is asked for here.
        preferred_element_type=result if widening else None,
        out_sharding=out.sharding,
        **groups,
    )  # fmt: skip
    return y.astype(out.dtype)


def _around_faults(
    x: jax.Array,
    w: jax.Array,
    padding: tuple[Pair, ...],
    upsampling: tuple[int, ...],
    layout: lax.ConvDimensionNumbers,
) -> tuple[jax.Array, tuple[Pair, ...]]:
    """Pads x itself where XLA:CPU would not do it well; returns the padding that is left."""
    image = [x.shape[axis] for axis in layout.lhs_spec[2:]]
    kernel = [w.shape[axis] for axis in layout.rhs_spec[2:]]
    covered = any(k > n for k, n in zip(kernel, image, strict=True))
    edges, rest = [(0, 0)] * len(image), list(padding)
    for axis, (before, after) in enumerate(padding):
        if upsampling[axis] == 1 and before < 0 < after:
            # Before JAX 0.12, float32 planes are read beyond their end.
            edges[axis], rest[axis] = (before, after), (0, 0)
        elif covered and upsampling[axis] == kernel[axis] == 2 and before == after == 0:
            # XLA exchanges x and w, but not along this axis, and ends the process.
            edges[axis], rest[axis] = (0, 1), (0, -2)
    return pad_spatial(x, edges), tuple(rest)


# ------------------------------------------------------------------------------------------
# Sums over windows
# ------------------------------------------------------------------------------------------


def sum_over_windows(x: jax.Array, window: Window) -> jax.Array:
    """The taps of every window added up; those of a long window along one axis after another."""
    for part in separated(window):
        x = _sum_taps(spanned(x, part, 0), part)
    return x


def _sum_taps(x: jax.Array, window: Window) -> jax.Array:
    return reduce_taps(window, lambda m: tap(x, window, m), lax.add)


def spread_over_windows(dy: jax.Array, window: Window) -> jax.Array:
    """Every window's dy at each of its taps; what meets there is added."""
    for part in reversed(separated(window)):
        dy = _sum_placed(dy, part)
    return dy


def _sum_placed(dy: jax.Array, window: Window) -> jax.Array:
    if tiles.fit(window):

        def seen(m: np.ndarray, dy: jax.Array) -> jax.Array:
            return dy if m.min() >= 0 else jnp.where(m >= 0, dy, 0)

        return tiles.combined(window, (dy,), seen, lax.add)
    return reduce_taps(window, lambda m: place(dy, window, m), lax.add)


# ------------------------------------------------------------------------------------------
# Products
# ------------------------------------------------------------------------------------------


def contract(
    x: jax.Array,
    w: jax.Array,
    axes: tuple[tuple[int, ...], tuple[int, ...]],
    precision: Precision,
    out: ArrayType,
    *,
    batch: tuple[tuple[int, ...], tuple[int, ...]] = ((), ()),
) -> jax.Array:
    """Multiplies and sums over the axes named for either array; those in `batch` go together."""
    if not REPACKS and jnp.issubdtype(w.dtype, jnp.floating):
        w = jnp.where(jnp.isnan(w), jnp.nan, w)  # equals w, and is no parameter
    return lax.dot_general(
        x, w, (axes, batch), precision=precision, out_sharding=out.sharding,
        preferred_element_type=None if out.dtype == x.dtype else out.dtype,
    ).astype(out.dtype)  # fmt: skip


def weighted_sum(x: jax.Array, w: jax.Array) -> jax.Array:
    """The products added up, in one pass over x where the two are fused."""
    return jnp.sum(x * broadcast_to(w, x), -1, keepdims=True)
