"""The door between the rules and the machines: what a rule asks for, in whatever way is fastest.

Calls run downward: a rule calls a function of this file; `platform` chooses, when the program is
lowered, between the formulation of `xla`, which every platform has, and those of `cpu` and `gpu`.
What lies below knows neither rules nor the names of paddings.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from cnnvjp._lowering import cpu, gpu, sampling, xla
from cnnvjp._lowering.platform import beside_overflow, fastest
from cnnvjp._lowering.xla import contract
from cnnvjp._types import (
    ArrayType,
    Precision,
    SampleMethod,
    SamplePadding,
    shrinking,
    widened,
)
from cnnvjp._windows.geometry import Window

__all__ = [
    "beside_overflow",
    "contract",
    "correlate",
    "input_gradient",
    "kernel_gradient",
    "mean",
    "position_gradient",
    "sample",
    "spread",
    "spread_over_windows",
    "sum_over_windows",
    "weighted_sum",
]


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
    of_integers = functools.partial(gpu.correlate, window=window, groups=groups)
    return fastest(plain, {"cpu": on_cpu}, out, x, w, of_integers=of_integers)


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
    of_integers = functools.partial(gpu.input_gradient, window=window, groups=groups)
    return fastest(plain, {"cpu": on_cpu}, out, dy, w, of_integers=of_integers)


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
    of_integers = functools.partial(gpu.kernel_gradient, window=window, groups=groups)
    return fastest(plain, {"cpu": on_cpu}, out, x, dy, of_integers=of_integers)


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
