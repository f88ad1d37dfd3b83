"""The door between the rules and the machines: what a rule asks for, in whatever way is fastest.

Calls run downward: a rule calls a function of this file; `platform` chooses, when the program is
lowered, between the formulation of `xla`, which every platform has, and those of `cpu` and `gpu`.
What lies below knows neither rules nor the names of paddings.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from cnnvjp._lowering import cpu, gpu, sampling, unshared, xla
from cnnvjp._lowering.gpu import taps
from cnnvjp._lowering.platform import beside_overflow, either, fastest
from cnnvjp._lowering.xla import contract
from cnnvjp._types import (
    ArrayType,
    Precision,
    SampleMethod,
    SamplePadding,
    accumulator,
    shrinking,
    widened,
    wider,
)
from cnnvjp._windows.geometry import Window
from cnnvjp._windows.taps import separated
from cnnvjp._windows.turns import interleaved, taken, turns

__all__ = [
    "beside_overflow",
    "contract",
    "correlate",
    "correlate_tiled",
    "in_parts",
    "input_gradient",
    "kernel_gradient",
    "mean",
    "position_gradient",
    "sample",
    "spread",
    "spread_over_windows",
    "sum_over_windows",
    "tiled_input_gradient",
    "tiled_kernel_gradient",
    "weighted_sum",
]

# Kernels of a tiled convolution, up to which each has a convolution of its own, which is compiled.
# Milliseconds with the choice that is made → with the other one, 3×3, 16 → 16 at 32×28×28, JAX
# 0.12, two cores, 2026-11-28, forward, input and kernel gradient: 3×3 kernels 4.0 → 21, 6.6 → 8.0,
# 7.8 → 19; 5×5 kernels 20 → 4.3, 9.4 → 37, 17 → 9.0, and 1 s to compile against 9.
_MOST_CONVOLUTIONS = 9
# Positions that must share a kernel for it to have one. 2×2 kernels, 3×3, 16 → 16, forward: at
# 32×5×5 0.11 → 0.22; at 32×6×6 0.09 → 0.23.
_ROUNDS = 2

Product = Callable[..., jax.Array]


def _also_of_complex(product: Product) -> Product:
    """A product of real arrays as one of complex ones too: three products of their parts.

    XLA convolves complex numbers slowly on CPUs and not at all on GPUs. There lax does the same:
    Gauss's three multiplications, whose errors are small beside the larger of the two parts.
    """

    @functools.wraps(product)
    def of_either(
        a: jax.Array,
        b: jax.Array,
        window: Window,
        groups: int,
        precision: Precision,
        out: ArrayType,
    ) -> jax.Array:
        if not jnp.iscomplexobj(a):
            return product(a, b, window, groups, precision, out)
        part = ArrayType(jnp.finfo(out.dtype).dtype, out.sharding)
        wide = wider(wider(a.dtype, b.dtype), out.dtype)
        a, b = a.astype(wide), b.astype(wide)

        def real(a: jax.Array, b: jax.Array) -> jax.Array:
            return product(a, b, window, groups, precision, part)

        both = real(a.real + a.imag, b.real)
        return lax.complex(
            both - real(a.imag, b.real + b.imag), both + real(a.real, b.imag - b.real)
        )

    return of_either


@_also_of_complex
def correlate(
    x: jax.Array, w: jax.Array, window: Window, groups: int, precision: Precision, out: ArrayType
) -> jax.Array:
    """y[i] = Σ over m of x[i·s + d·m] w[m], for the channels of each group.

    Args:
        x: images, (N, *spatial, C).
        w: the kernel, (*kernel, C / groups, O).
        window: where the kernel stands over the images.
        groups: how many groups the channels fall into.
        precision: as in lax.
        out: dtype and sharding of the result.

    Returns:
        (N, *window.output_size, O).
    """
    plain = functools.partial(
        xla.correlate, window=window, groups=groups, precision=precision, out=out
    )
    on_cpu = cpu.correlation(x, w, window, groups, precision)
    on_gpu = gpu.correlation(x, w, window, groups, precision)
    of_integers = functools.partial(taps.correlate, window=window, groups=groups)
    faster = {"cpu": on_cpu, "cuda": on_gpu, "rocm": on_gpu}
    return fastest(plain, faster, out, x, w, of_integers=of_integers)


@_also_of_complex
def input_gradient(
    dy: jax.Array, w: jax.Array, window: Window, groups: int, precision: Precision, out: ArrayType
) -> jax.Array:
    """dx[j] = Σ over i·s + d·m = j of dy[i] w[m]: the adjoint of `correlate` in x.

    Args:
        dy: maps, (N, *window.output_size, O).
        w: the kernel, as in `correlate`; so are the other arguments.
        window: where the kernel stands over the images.
        groups: how many groups the channels fall into.
        precision: as in lax.
        out: dtype and sharding of the result.

    Returns:
        (N, *window.input_size, C).
    """
    plain = functools.partial(
        xla.input_gradient, window=window, groups=groups, precision=precision, out=out
    )
    on_cpu = cpu.input_gradient(dy, w, window, groups, precision)
    on_gpu = gpu.input_gradient(dy, w, window, groups, precision)
    of_integers = functools.partial(taps.input_gradient, window=window, groups=groups)
    faster = {"cpu": on_cpu, "cuda": on_gpu, "rocm": on_gpu}
    return fastest(plain, faster, out, dy, w, of_integers=of_integers)


@_also_of_complex
def kernel_gradient(
    x: jax.Array, dy: jax.Array, window: Window, groups: int, precision: Precision, out: ArrayType
) -> jax.Array:
    """dw[m] = Σ over the batch and i of x[i·s + d·m] dy[i]: the adjoint of `correlate` in w.

    Args:
        x: images, as in `correlate`.
        dy: maps, (N, *window.output_size, O).
        window: where the kernel stands over the images.
        groups: how many groups the channels fall into.
        precision: as in lax.
        out: dtype and sharding of the result.

    Returns:
        (*window.size, C / groups, O).
    """
    plain = functools.partial(
        xla.kernel_gradient, window=window, groups=groups, precision=precision, out=out
    )
    on_cpu = cpu.kernel_gradient(x, dy, window, groups, precision)
    on_gpu = gpu.kernel_gradient(x, dy, window, groups, precision)
    of_integers = functools.partial(taps.kernel_gradient, window=window, groups=groups)
    faster = {"cpu": on_cpu, "cuda": on_gpu, "rocm": on_gpu}
    return fastest(plain, faster, out, x, dy, of_integers=of_integers)


def correlate_tiled(
    x: jax.Array, w: jax.Array, window: Window, precision: Precision, out: ArrayType
) -> jax.Array:
    """y[i] = Σ over m of x[i·s + d·m] w[i mod tiles, m].

    Args:
        x: images, (N, *spatial, C).
        w: the kernels, (*tiles, *kernel, C, O).
        window: where a kernel stands over the images.
        precision: as in lax.
        out: dtype and sharding of the result.

    Returns:
        (N, *window.output_size, O).
    """
    tiles = w.shape[: window.ndim]
    if _apart(window, tiles):
        parts = [
            correlate(x, w[turn], part, 1, precision, out) for turn, part in turns(window, tiles)
        ]
        return interleaved(parts, window, tiles)
    plain = functools.partial(unshared.correlate, window=window, precision=precision, out=out)
    return fastest(plain, {"cpu": cpu.unshared_correlation(x, w, window)}, out, x, w)


def tiled_input_gradient(
    dy: jax.Array, w: jax.Array, window: Window, precision: Precision, out: ArrayType
) -> jax.Array:
    """dx[j] = Σ over i·s + d·m = j of dy[i] w[i mod tiles, m]: `correlate_tiled`'s adjoint in x.

    Args:
        dy: maps, (N, *window.output_size, O).
        w: the kernels, as in `correlate_tiled`; so are the other arguments.
        window: where a kernel stands over the images.
        precision: as in lax.
        out: dtype and sharding of the result.

    Returns:
        (N, *window.input_size, C).
    """
    tiles = w.shape[: window.ndim]
    if not _apart(window, tiles):
        return unshared.input_gradient(dy, w, window, precision, out)
    wide = out._replace(dtype=accumulator(out.dtype))
    parts = [
        input_gradient(taken(dy, tiles, turn), w[turn], part, 1, precision, wide)
        for turn, part in turns(window, tiles)
    ]
    return functools.reduce(lax.add, parts).astype(out.dtype)


def tiled_kernel_gradient(
    x: jax.Array,
    dy: jax.Array,
    window: Window,
    tiles: tuple[int, ...],
    precision: Precision,
    out: ArrayType,
) -> jax.Array:
    """dw[a, m] = Σ over the batch and i = a mod tiles of x[i·s + d·m] dy[i]: the adjoint in w.

    Args:
        x: images, as in `correlate_tiled`.
        dy: maps, (N, *window.output_size, O).
        window: where a kernel stands over the images.
        tiles: how many kernels there are along each axis.
        precision: as in lax.
        out: dtype and sharding of the result.

    Returns:
        (*tiles, *window.size, C, O).
    """
    if not _apart(window, tiles):
        return unshared.kernel_gradient(x, dy, window, tiles, precision, out)
    one = out
    if out.sharding is not None:
        spec = PartitionSpec(*out.sharding.spec[window.ndim :])
        one = out._replace(sharding=NamedSharding(out.sharding.mesh, spec))
    parts = [
        kernel_gradient(x, taken(dy, tiles, turn), part, 1, precision, one)
        for turn, part in turns(window, tiles)
    ]
    dw = jnp.stack(parts)
    return dw.reshape(*tiles, *dw.shape[1:])


def _apart(window: Window, tiles: tuple[int, ...]) -> bool:
    """Whether every kernel of a tiled convolution has a convolution of its own."""
    kernels = math.prod(tiles)
    shared = math.prod(window.output_size) >= _ROUNDS * kernels
    return kernels == 1 or (kernels <= _MOST_CONVOLUTIONS and shared)


def mean(x: jax.Array, sum_of: Callable[[jax.Array], jax.Array], count: float) -> jax.Array:
    """A sum by a count that is no smaller, in at least float32.

    A sum may be infinite whose mean is not: then every number is scaled first.

    Args:
        x: an array.
        sum_of: sums it, wide enough already.
        count: what the sum is divided by, at least the number of its terms.
    """
    part = shrinking(count, x.dtype)
    if part == 1:
        return sum_of(widened(x)) / count
    whole, small = beside_overflow(
        lambda x: sum_of(widened(x)), lambda x: sum_of(widened(x) * part), lambda s: s * part, x
    )
    return jnp.where(jnp.isfinite(whole), whole / count, small / (count * part))


def weighted_sum(x: jax.Array, w: jax.Array) -> jax.Array:
    """y[...] = Σ over c of x[..., c] w[c], in x's dtype, with an axis of size 1 in place of c's.

    Args:
        x: an array, (..., C).
        w: weights, (C,), of x's dtype.
    """
    return fastest(xla.weighted_sum, {"cpu": cpu.weighted_sum}, ArrayType(x.dtype), x, w)


def sum_over_windows(x: jax.Array, window: Window) -> jax.Array:
    """y[i] = Σ over m of x[i·s + d·m], channel by channel, in x's dtype.

    Args:
        x: maps, (*batch, *spatial, C).
        window: where it stands over the maps.

    Returns:
        (*batch, *window.output_size, C).
    """
    plain = functools.partial(xla.sum_over_windows, window=window)
    return fastest(plain, {"cpu": cpu.window_sum(x, window)}, ArrayType(x.dtype), x)


def spread_over_windows(dy: jax.Array, window: Window) -> jax.Array:
    """dx[j] = Σ of dy[i] over the windows i that cover j: the adjoint of `sum_over_windows`.

    Args:
        dy: pooled maps, (*batch, *window.output_size, C).
        window: where it stands over the maps.

    Returns:
        (*batch, *window.input_size, C).
    """
    plain = functools.partial(xla.spread_over_windows, window=window)
    return fastest(plain, {"cpu": cpu.window_spread(dy, window)}, ArrayType(dy.dtype), dy)


def in_parts(
    find: Callable[[jax.Array, tuple[Window, ...]], Any], x: jax.Array, window: Window
) -> Any:
    """What is found in a window, or in smaller ones, one after the other, that see as much.

    Args:
        find: takes the maps and those windows; finds the same in any that see as much.
        x: maps, (*batch, *spatial, C).
        window: where it stands over the maps.
    """

    def by(parts: tuple[Window, ...]) -> Callable[[jax.Array], Any]:
        return lambda x: find(x, parts)

    on_gpu = gpu.pooling_parts(x, window)
    faster = by(on_gpu) if on_gpu else None
    return either(by(separated(window)), {"cuda": faster, "rocm": faster}, x)


def sample(
    x: jax.Array, positions: jax.Array, method: SampleMethod, padding: SamplePadding
) -> jax.Array:
    """y[p] = Σ over the taps of positions[p] of weight · x[tap], channel by channel.

    JAX can differentiate it, with respect to x and to the positions.

    Args:
        x: images, (N, *spatial, C), with at least one pixel along each axis.
        positions: (N, P, D), in pixels along the spatial axes, 0 at the first pixel's centre. Of
            any floating dtype; whatever they are, nothing is read outside of x.
        method: "nearest", "linear" or "cubic".
        padding: what lies beyond the edges: "zeros", "edge", "reflect", "mirror" or "circular".

    Returns:
        (N, P, C), of x's dtype.
    """
    return sampling.sample(x, positions, method, padding)


def spread(
    dy: jax.Array,
    positions: jax.Array,
    size: tuple[int, ...],
    method: SampleMethod,
    padding: SamplePadding,
) -> jax.Array:
    """dx[j] = Σ of weight · dy[p] over the taps that stand on j: the adjoint of `sample` in x.

    JAX can differentiate it, with respect to dy and to the positions.

    Args:
        dy: (N, P, C).
        positions: as in `sample`.
        size: the spatial size of x.
        method: as in `sample`.
        padding: as in `sample`.

    Returns:
        (N, *size, C), of dy's dtype.
    """
    return sampling.spread(dy, positions, size, method, padding)


def position_gradient(
    x: jax.Array,
    dy: jax.Array,
    positions: jax.Array,
    method: SampleMethod,
    padding: SamplePadding,
) -> jax.Array:
    """Σ over channels of dy[p] · ∂y[p]/∂positions[p]: from the right, where it has a kink.

    JAX can differentiate it, with respect to x, dy and the positions.

    Args:
        x: images, as in `sample`.
        dy: (N, P, C), of x's dtype.
        positions: as in `sample`.
        method: as in `sample`; with "nearest" the result is 0.
        padding: as in `sample`.

    Returns:
        (N, P, D), of the positions' dtype.
    """
    return sampling.position_gradient(x, dy, positions, method, padding)
