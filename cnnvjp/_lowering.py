"""The convolution that XLA offers, in the two shapes that the rules need, and its product.

This layer knows layouts and dtypes. It knows neither autodiff nor the names of paddings.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from cnnvjp._arguments import ArrayType, accumulator, primal_type, wider
from cnnvjp._geometry import Pair

# Since when lax can transpose a convolution whose output is wider than its operands.
_TRANSPOSES_WIDENING = jax.__version_info__ >= (0, 10)

# Since when XLA:CPU notices that a matrix it has packed for a product was written over: before,
# a product with a parameter of the program, updated in place since the last call (donated, as
# a training step's weights are), took the numbers of that call.
_REPACKS = jax.__version_info__ >= (0, 8, 2)


def fastest(
    plain: Callable[[jax.Array, jax.Array], jax.Array],
    on_cpu: Callable[[jax.Array, jax.Array], jax.Array] | None,
    a: jax.Array,
    b: jax.Array,
    out: ArrayType,
) -> jax.Array:
    """A function that is linear in each of two arrays, in the formulation for its platform.

    The choice falls when the program is lowered, so that one exported for another platform is
    that platform's. Its derivatives are the plain formulation's: being linear in each argument,
    it is its own derivative, and the plain one can be transposed.

    Args:
        plain: XLA's own convolution, for accelerators and wherever it is as fast.
        on_cpu: what is faster on the CPU, if anything is. It computes in one dtype.
        a: one array.
        b: the other.
        out: dtype and sharding of the result.
    """
    explicit = [kind.sharding for kind in (primal_type(a), primal_type(b), out)] != [None] * 3
    if on_cpu is None or explicit or not jnp.issubdtype(a.dtype, jnp.floating):
        return plain(a, b)  # a mesh with Explicit axes wants to be told of every reshape
    dtype = wider(accumulator(wider(a.dtype, b.dtype)), out.dtype)

    @jax.custom_jvp
    def chosen(a: jax.Array, b: jax.Array) -> jax.Array:
        def formulation(a: jax.Array, b: jax.Array) -> jax.Array:
            return on_cpu(a.astype(dtype), b.astype(dtype)).astype(out.dtype)

        return lax.platform_dependent(a, b, cpu=formulation, default=plain)

    def derivative(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
        (a, b), (da, db) = primals, tangents
        parts = []
        if not isinstance(da, SymbolicZero):
            parts.append(plain(da, b))
        if not isinstance(db, SymbolicZero):
            parts.append(plain(a, db))
        y = chosen(a, b)
        return y, functools.reduce(lax.add, parts) if parts else jnp.zeros_like(y)

    chosen.defjvp(derivative, symbolic_zeros=True)
    return chosen(a, b)


def correlate(
    x: jax.Array,
    w: jax.Array,
    *,
    stride: tuple[int, ...],
    padding: tuple[Pair, ...],
    upsampling: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
    exchange_channels: bool = False,
    precision: Any,
    out: ArrayType,
) -> jax.Array:
    """Slides a kernel over images: (N, *spatial, C), (*kernel, C / groups, O) -> (N, *out, O).

    Args:
        x: the images.
        w: the kernel; with `exchange_channels`, its last two axes are (O, C / groups).
        stride: the step between two outputs.
        padding: positions around the upsampled images; negative ones crop.
        upsampling: the distance between two pixels of `x`, zeros in between.
        dilation: the distance between two taps.
        groups: how many groups the channels fall into.
        exchange_channels: whether the kernel's channel axes are exchanged.
        precision: as in lax.
        out: dtype and sharding of the result.
    """
    ndim = x.ndim - 2
    image = (0, ndim + 1, *range(1, ndim + 1))
    channels = (ndim, ndim + 1) if exchange_channels else (ndim + 1, ndim)
    return _convolve(
        x, w, stride, padding, upsampling, dilation,
        lax.ConvDimensionNumbers(image, (*channels, *range(ndim)), image),
        precision, out, feature_group_count=groups,
    )  # fmt: skip


def correlate_batches(
    x: jax.Array,
    dy: jax.Array,
    *,
    stride: tuple[int, ...],
    padding: tuple[Pair, ...],
    dilation: tuple[int, ...],
    groups: int,
    precision: Any,
    out: ArrayType,
) -> jax.Array:
    """Slides maps over images and sums over the batch: the kernel's gradient.

    (N, *spatial, C), (N, *maps, O) -> (*kernel, C / groups, O). The batch takes the place
    of the channels that are summed over, `x`'s channels that of the batch.
    """
    ndim = x.ndim - 2
    spatial = range(1, ndim + 1)
    return _convolve(
        x, dy, stride, padding, (1,) * ndim, dilation,
        lax.ConvDimensionNumbers(
            (ndim + 1, 0, *spatial), (ndim + 1, 0, *spatial), (ndim, ndim + 1, *range(ndim))
        ),
        precision, out, batch_group_count=groups,
    )  # fmt: skip


def _convolve(
    x: jax.Array,
    w: jax.Array,
    stride: tuple[int, ...],
    padding: tuple[Pair, ...],
    upsampling: tuple[int, ...],
    dilation: tuple[int, ...],
    layout: lax.ConvDimensionNumbers,
    precision: Any,
    out: ArrayType,
    **groups: int,
) -> jax.Array:
    dtype = wider(x.dtype, w.dtype)
    result = wider(dtype, out.dtype)
    widening = result != dtype
    if widening and not _TRANSPOSES_WIDENING:
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
    edges, rest = [(0, 0, 0)] * x.ndim, list(padding)
    for i, axis in enumerate(layout.lhs_spec[2:]):
        before, after = padding[i]
        if upsampling[i] == 1 and before < 0 < after:
            # Before JAX 0.12, float32 planes are read beyond their end.
            edges[axis], rest[i] = (before, after, 0), (0, 0)
        elif covered and upsampling[i] == kernel[i] == 2 and before == after == 0:
            # XLA exchanges x and w, but not along this axis, and ends the process.
            edges[axis], rest[i] = (0, 1, 0), (0, -2)
    if not any(map(any, edges)):
        return x, padding
    return lax.pad(x, lax.full_like(x, 0, shape=()), edges), tuple(rest)


def contract(
    x: jax.Array,
    w: jax.Array,
    axes: tuple[tuple[int, ...], tuple[int, ...]],
    precision: Any,
    out: ArrayType,
) -> jax.Array:
    """Multiplies and sums over the axes named for either array."""
    if not _REPACKS:
        w = jnp.where(jnp.isnan(w), jnp.nan, w)  # equals w, and is no parameter
    return lax.dot_general(
        x, w, (axes, ((), ())), precision=precision, out_sharding=out.sharding
    ).astype(out.dtype)


def exchange_group_channels(w: jax.Array, groups: int) -> jax.Array:
    """(*kernel, C_in/G, C_out) -> (*kernel, C_out/G, C_in), within each of G > 1 groups."""
    if groups == 1:
        return w  # the layout says it
    *kernel, c, o = w.shape
    w = w.reshape(*kernel, c, groups, o // groups)
    return jnp.swapaxes(w, -3, -1).reshape(*kernel, o // groups, groups * c)
