"""What the formulations share: padding, taps and phases."""

import functools
import itertools
import math
import operator
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from cnnvjp._geometry import Pair, Window

barrier = lax.optimization_barrier  # what is behind it is computed once, not in every fusion


def padded(x: jax.Array, edges: tuple[Pair, ...]) -> jax.Array:
    """Zeros around the spatial axes of (N, *spatial, C); negative edges crop."""
    if not any(map(any, edges)):
        return x
    config = [(0, 0, 0), *((before, after, 0) for before, after in edges), (0, 0, 0)]
    return lax.pad(x, lax.full_like(x, 0, shape=()), config)


class Phase(NamedTuple):
    """The inputs j with j + before ≡ a (mod s), which see every s-th tap of the kernel.

    Attributes:
        residue: a, for each axis.
        kernel: slices that take the phase's taps out of the kernel.
        window: where the phase's rotated taps stand over the output.
    """

    residue: tuple[int, ...]
    kernel: tuple[slice, ...]
    window: Window


def phases(window: Window) -> Iterator[Phase]:
    """The phases of a window's input that see any tap, in row-major order.

    Input j takes dy[i] · w[m] with i·s + d·m = j + before. For j + before = q·s + a these are
    the taps with d·m ≡ a (mod s), at i = q − (d·m − a)/s: a convolution of stride 1 with a
    smaller kernel, and no zeros between the dy.
    """
    per_axis = [list(_axis_phases(window, axis)) for axis in range(window.ndim)]
    for combination in itertools.product(*per_axis):
        residue, taps, sizes, edges, dilations = zip(*combination, strict=True)
        ones, zeros = (1,) * window.ndim, (0,) * window.ndim
        placed = Window(window.output_size, sizes, ones, edges, dilations, zeros)
        yield Phase(residue, taps, placed)


def _axis_phases(window: Window, axis: int) -> Iterator[tuple[int, slice, int, Pair, int]]:
    """Along one axis: a, its taps, how many they are, their padding and their dilation."""
    k, s, d = window.size[axis], window.stride[axis], window.dilation[axis]
    first, last = _phase_range(window, axis)
    step, spread = s // math.gcd(s, d), d // math.gcd(s, d)
    for start in range(min(k, step)):
        a = d * start % s
        taps = len(range(start, k, step))
        reach = spread * (taps - 1)
        before = (d * start - a) // s + reach - first
        after = last - first - window.output_size[axis] - before + reach
        yield a, slice(start, None, step), taps, (before, after), spread


def _phase_range(window: Window, axis: int) -> Pair:
    """The q for which q·s … q·s + s − 1 cover the input, counted from the padding's start."""
    before, s = window.padding[axis][0], window.stride[axis]
    return before // s, -(-(before + window.input_size[axis]) // s)


def woven(
    window: Window, part: Callable[[Phase], jax.Array], batch: int, channels: int, dtype: Any
) -> jax.Array:
    """The input's gradient, from those of its phases.

    Args:
        window: of the forward operation.
        part: maps a phase to its (N, *q, C).
        batch: N.
        channels: C.
        dtype: of the result.
    """
    ranges = [_phase_range(window, axis) for axis in range(window.ndim)]
    parts = {phase.residue: phase for phase in phases(window)}

    def weave(*residue: int) -> jax.Array:
        axis = len(residue)
        if axis == window.ndim:
            if residue in parts:
                return part(parts[residue])
            return jnp.zeros((batch, *(last - first for first, last in ranges), channels), dtype)
        rows = [weave(*residue, a) for a in range(window.stride[axis])]
        if len(rows) == 1:
            return rows[0]
        shape = list(rows[0].shape)
        shape[1 + axis] *= len(rows)
        return jnp.stack(rows, axis=2 + axis).reshape(shape)

    edges = []
    for (first, last), s, n, (before, _) in zip(
        ranges, window.stride, window.input_size, window.padding, strict=True
    ):
        low = before - first * s
        edges.append((-low, low + n - (last - first) * s))
    return padded(weave(), tuple(edges))


def times(x: jax.Array, w: jax.Array) -> jax.Array:
    """The product x · w, w broadcast over the leading axes of x."""
    return x * w.reshape((1,) * (x.ndim - w.ndim) + w.shape)


def summed(terms: list[jax.Array], together: int) -> jax.Array:
    """The sum of the terms, so many of them in one fusion."""
    total = functools.reduce(operator.add, terms[:together])
    for start in range(together, len(terms), together):
        some = functools.reduce(operator.add, terms[start : start + together])
        total = barrier(total) + some
    return total
