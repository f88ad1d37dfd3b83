"""Depthwise convolution with many taps, or on high images: loops, where `depthwise` unrolls.

A program with every tap written out takes seconds to compile. Here the rows of the kernel are the
iterations of a loop, and so are bands of rows of the image for the kernel's gradient: however many
there are, the program stays as it is. A few taps on a low image are up to twice as fast unrolled.
"""

import functools
import math
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnvjp._lowering.cpu.arrays import TOGETHER, Phase, barrier, phases, summed, times, woven
from cnnvjp._lowering.cpu.depthwise import add_each, repeated, summed_over_copies
from cnnvjp._lowering.cpu.volumes import plane_window
from cnnvjp._windows.axes import pad_spatial, rot180
from cnnvjp._windows.geometry import Window
from cnnvjp._windows.taps import tap

# Taps in one reduction, and terms, taps · rows, that LLVM unrolls whole: `depthwise` has more to
# say of both.
_SUMS = 9
_TERMS = 72
_ADDED = 2


def correlate(x: jax.Array, w: jax.Array, window: Window) -> jax.Array:
    """y[i, o] = Σ over m of x[i·s + d·m, o // multiplier] w[m, o]."""
    return _slide(repeated(x, w.shape[-1] // x.shape[-1]), w, window)


def input_gradient(dy: jax.Array, w: jax.Array, window: Window, channels: int) -> jax.Array:
    """dx[j, c] = Σ over i·s + d·m = j, and the o of c, of dy[i, o] w[m, o]: phase by phase."""

    def part(phase: Phase) -> jax.Array:
        return _slide(dy, rot180(w[phase.kernel]), phase.window)

    if set(window.stride) == {1}:
        (phase,) = phases(window)
        dx = part(phase)
    else:
        dx = woven(window, part, dy.shape[0], dy.shape[-1], dy.dtype)
    return summed_over_copies(dx, channels)


def _slide(x: jax.Array, w: jax.Array, window: Window) -> jax.Array:
    """Some rows of the kernel after the other."""
    x = barrier(pad_spatial(x, window.span))
    rows, others = window.size[0], math.prod(window.size[1:])
    together = min(rows, max(1, TOGETHER // others))

    def of_rows(first: Any, many: int) -> jax.Array:
        kernel = lax.dynamic_slice_in_dim(w, first, many)
        taps = ((m, *rest) for m in range(many) for rest in np.ndindex(*window.size[1:]))
        terms = [times(tap(x, window, (first + m[0], *m[1:])), kernel[m][0]) for m in taps]
        return summed(terms, TOGETHER)

    y = of_rows(0, together)
    loops, rest = divmod(rows, together)
    if loops > 1:
        y = lax.fori_loop(1, loops, lambda i, y: y + of_rows(i * together, together), y)
    return y + of_rows(loops * together, rest) if rest else y


def kernel_gradient(x: jax.Array, dy: jax.Array, window: Window) -> jax.Array:
    """dw[m, o] = Σ over n, i of x[n, i·s + d·m, o // multiplier] dy[n, i, o]."""
    x = repeated(x, dy.shape[-1] // x.shape[-1])
    if window.ndim == 2:
        return _of_planes(x, dy, window)
    stride, dilation = window.stride[0], window.dilation[0]
    length = (window.output_size[0] - 1) * stride + 1
    x = pad_spatial(x, (window.span[0], (0, 0), (0, 0)))
    images = dy.reshape(-1, *dy.shape[2:])

    def part(m: jax.Array) -> jax.Array:
        seen = lax.dynamic_slice_in_dim(x, m * dilation, length, 1)[:, ::stride]
        return _of_planes(seen.reshape(-1, *seen.shape[2:]), images, plane_window(window))

    return lax.map(part, jnp.arange(window.size[0]))


def _of_planes(x: jax.Array, dy: jax.Array, window: Window) -> jax.Array:
    """A column of taps after the other; with a stride s, from every s-th column of x."""
    (kh, kw), (_, stride), (_, dilation) = window.size, window.stride, window.dilation
    (above, below), (left, right) = window.span
    columns, first = dy.shape[2], 0
    if stride == 1:  # the rows are as long as x's, or as dy's
        first, left, right = max(left, 0), min(left, 0), min(right, 0)
        right += max(0, columns - x.shape[2] - left - right)
    x = pad_spatial(x, ((above, below), (left, right)))
    gradient: dict[int, jax.Array] = {}
    for residue in sorted({j * dilation % stride for j in range(kw)}):
        taps = [j for j in range(kw) if j * dilation % stride == residue]
        for j, column in gradient.items():  # before there is another copy of x
            x, gradient[j] = barrier((x, column))
        seen = x if stride == 1 else barrier(x[:, :, residue::stride])
        wider = seen.shape[2] - columns
        laid = dy if wider == 0 else barrier(pad_spatial(dy, ((0, 0), (0, wider))))
        for some in (taps[i : i + _SUMS] for i in range(0, len(taps), _SUMS)):
            shifts = [j * dilation // stride - first for j in some]
            found = _of_columns(seen, laid, columns, window, shifts)
            gradient |= {j: found[:, place] for place, j in enumerate(some)}
    return jnp.stack([gradient[j] for j in range(kw)], 1).reshape(kh, kw, 1, -1)


def _of_columns(
    x: jax.Array, dy: jax.Array, columns: int, window: Window, shifts: list[int]
) -> jax.Array:
    """The gradient of some columns of taps, (KH, columns of taps, C), band by band of dy's rows.

    Args:
        x: images, padded along the rows.
        dy: maps, as wide.
        columns: how many columns of dy are its own; what is right of them does not count.
        window: where the kernel stands along the rows.
        shifts: for each column of taps the column of x that the first column of dy meets.
    """
    n, height, width, c = x.shape
    rows, kh = dy.shape[1], window.size[0]
    row, step = window.stride[0] * width * c, window.dilation[0] * width * c
    left, right = max(0, -min(shifts)), max(0, max(shifts))
    behind = rows * window.stride[0] + (kh - 1) * window.dilation[0] - height
    edges = left, behind * width + right
    line = barrier(pad_spatial(x.reshape(n, height * width, c), (edges,))).reshape(n, -1)
    dy = dy.reshape(n, rows, width * c)
    met = np.arange(width) + np.array(shifts)[:, None]
    met = (met >= 0) & (met < width) & (np.arange(width) < columns)
    together = min(kh, max(1, _SUMS // len(shifts)))

    def of_group(line: jax.Array, dy: jax.Array, many: int) -> jax.Array:
        """(many · columns of taps, N, C), the first row of taps at the line's beginning."""
        starts = [m * step + (left + shift) * c for m in range(many) for shift in shifts]
        sums = jnp.stack(_products_summed(line, dy, starts, row))
        sums = sums.reshape(many, len(shifts), n, width, c)
        if not met.all():
            sums = jnp.where(jnp.asarray(met[:, None, :, None]), sums, 0)
        sums = barrier(sums.reshape(len(starts), n, width, c))
        ones = lax.full_like(sums, 1, shape=sums.shape[:3])
        return lax.dot_general(ones, sums, (((2,), (2,)), ((0, 1), (0, 1))))

    def of_band(first: Any, many: int) -> jax.Array:
        """(KH · columns of taps, N, C) for so many rows of dy."""
        around = (left + right) * c
        some = _cut(dy, first, many)
        seen = _cut(line, first * row, many * row + (kh - 1) * step + around)

        def group(first: Any, taps: int) -> jax.Array:
            length = many * row + (taps - 1) * step + around
            return of_group(_cut(seen, first * step, length), some, taps)

        groups, rest = divmod(kh, together)
        parts = [_each(groups, lambda i: group(i * together, together))]
        if rest:
            parts.append(group(groups * together, rest))
        return jnp.concatenate(parts)

    many = _rows_in_band(rows, together * len(shifts))
    bands, rest = divmod(rows, many)
    total = lax.full_like(dy, 0, shape=(kh * len(shifts), n, c))
    total = lax.fori_loop(0, bands, lambda b, total: total + of_band(b * many, many), total)
    if rest:
        total += of_band(bands * many, rest)
    return total.sum(1).reshape(kh, len(shifts), c)


def _each(count: int, part: Callable[[Any], jax.Array]) -> jax.Array:
    """part(0) … part(count − 1), one behind the other."""
    if count == 1:
        return part(0)
    parts = lax.map(part, jnp.arange(count))
    return parts.reshape(-1, *parts.shape[2:])


def _cut(x: jax.Array, start: Any, length: int) -> jax.Array:
    """A piece along axis 1, copied, so that those who read it again find it in the cache."""
    if length == x.shape[1]:
        return x
    return barrier(lax.dynamic_slice_in_dim(x, start, length, 1))


def _rows_in_band(rows: int, taps: int) -> int:
    """How many rows one reduction of so many taps adds: if possible, a divisor of all rows."""
    most = max(1, min(_TERMS // (_ADDED * taps), rows // _ADDED))
    fitting = (r for r in range(most, most // 2, -1) if rows % (_ADDED * r) == 0)
    return min(rows, _ADDED * next(fitting, most))


def _products_summed(
    line: jax.Array, dy: jax.Array, starts: list[int], pitch: int
) -> list[jax.Array]:
    """For each start Σ over rows i of line[:, start + i·pitch : … + width] · dy[:, i], (N, width).

    Args:
        line: x, (N, positions and channels).
        dy: (N, rows, width).
        starts: where row 0 of each tap begins.
        pitch: the distance between two rows on the line, a multiple of the width.
    """
    n, rows, width = dy.shape
    added = _ADDED if rows % _ADDED == 0 else 1
    shape = n, added, rows // added

    def product(start: int, r: int) -> jax.Array:
        # Each a slice of its own: XLA fuses what is used once.
        seen = lax.slice_in_dim(line, start, start + rows * pitch, axis=1)
        if pitch > width:
            seen = seen.reshape(*shape, pitch)[..., :width]
        return seen.reshape(*shape, width)[:, :, r] * dy.reshape(*shape, width)[:, :, r]

    terms = [
        functools.reduce(operator.add, [product(start, r) for r in range(shape[2])])
        for start in starts
    ]
    zeros = [lax.full_like(dy, 0, shape=())] * len(terms)
    return list(lax.reduce(terms, zeros, add_each, (1,)))
