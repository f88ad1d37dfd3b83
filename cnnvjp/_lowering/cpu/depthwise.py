"""Depthwise convolution: every output channel sees one input channel, c = o // multiplier.

XLA:CPU expands it to a dense convolution whose kernel is almost all zeros. Nothing is summed
over channels, so here it is elementwise work instead: one multiply-add of whole arrays for each
tap, vectorised over the channels, which lie together in memory. XLA fuses the taps into one
loop, so that x is read and y written once.

An image is not padded: a padded copy takes as long as the sums. It is read as one *line* of
pixels, row after row, on which the *pitch* is the distance of two rows of outputs (the stride
times the image's width) and every tap is a *shift*: the same row of outputs, from another place
on. Here is row 2 of the outputs of a 3 × 3 kernel with padding 1:

    a b c d e            a b c d e f g h i j k l m n o p q r s t u v w x y
    f g h i j            0         5         10        15        20
    k l m n o
    p q r s t            tap (0, 0), from  4: [e] f g h i     tap (0, 1), from  5: f g h i j
    u v w x y            tap (1, 0), from  9: [j] k l m n     tap (1, 1), from 10: k l m n o
                         tap (2, 0), from 14: [o] p q r s     tap (2, 1), from 15: p q r s t
                         …                                    tap (2, 2), from 16: q r s t [u]

What stands in brackets is the neighbouring row's pixel, where the padding should be: it is
masked (`_met`), or left out of a sum. The taps of rows 0, 1, 3 and 4 reach beyond the line's
ends: these are computed from a padded piece of it, or added one by one.
"""

import functools
import math
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnvjp._lowering.cpu import volumes
from cnnvjp._lowering.cpu.arrays import (
    TOGETHER,
    Phase,
    barrier,
    phases,
    summed,
    times,
    woven,
)
from cnnvjp._windows.axes import pad_spatial, rot180
from cnnvjp._windows.geometry import Window
from cnnvjp._windows.taps import Tap, each_tap, tap

# How a kernel gradient's reductions are cut. Beside each number milliseconds with it and with
# others, measured as those in `cpu`.

# Terms of one fused reduction: taps · rows · added rows. LLVM stops unrolling a little above, and
# the loop is then slower. 3×3, 64 at 16×56×56: 2.5; with 36 3.9, with 144 5.3.
_TERMS = 100
# Bands of rows that one reduction leaves, up to which they are added up before the last sum. On a
# busy machine, 3×3, 64 at 16×56×56: 7.9; with 1 12. At 1×224×224: 14; with 99 11.
_BANDS = 8
# Taps in one reduction. 5×5, 240 at 16×28×28: 7.3 to 8.2; with 3 9.7, with 25 11.6.
_SUMS = 9
# Rows that the reduction itself adds: XLA unrolls so short an axis whole. 2.4; with 4 2.3.
_ADDED = 2


def correlate(x: jax.Array, w: jax.Array | None, window: Window) -> jax.Array:
    """y[i, o] = Σ over m of x[i·s + d·m, o // multiplier] w[m, o]; without w, the sums of x."""
    multiplier = 1 if w is None else w.shape[-1] // x.shape[-1]
    return _of_images(repeated(x, multiplier), w, window)


def input_gradient(dy: jax.Array, w: jax.Array | None, window: Window, channels: int) -> jax.Array:
    """dx[j, c] = Σ over i·s + d·m = j, and the o of c, of dy[i, o] w[m, o]: phase by phase."""
    return summed_over_copies(_of_phases(dy, w, window), channels)


def summed_over_copies(dx: jax.Array, channels: int) -> jax.Array:
    """The sum over the output channels of each input channel: the adjoint of `repeated`."""
    multiplier = dx.shape[-1] // channels
    if multiplier == 1:
        return dx
    dx = dx.reshape(*dx.shape[:-1], channels, multiplier)
    return functools.reduce(operator.add, [dx[..., q] for q in range(multiplier)])


def _of_phases(dy: jax.Array, w: jax.Array | None, window: Window) -> jax.Array:
    if set(window.stride) == {1}:
        (phase,) = phases(window)
        return _of_images(dy, None if w is None else rot180(w), phase.window)
    windows = [phase.window for phase in phases(window)]
    # One padding for all phases: each crops what it does not reach.
    edges = tuple(
        (
            max(placed.padding[axis][0] for placed in windows),
            max(placed.padding[axis][1] for placed in windows),
        )
        for axis in range(window.ndim)
    )
    wide = barrier(pad_spatial(dy, edges))

    def part(phase: Phase) -> jax.Array:
        inner = tuple(
            (mine[0] - most[0], mine[1] - most[1])
            for mine, most in zip(phase.window.padding, edges, strict=True)
        )
        taps = None if w is None else rot180(w[phase.kernel])
        return _taps(pad_spatial(wide, inner), taps, phase.window)

    return woven(window, part, dy.shape[0], dy.shape[-1], dy.dtype)


def _of_images(x: jax.Array, w: jax.Array | None, window: Window) -> jax.Array:
    """Σ over m of x[i·s + d·m] w[m], all channels one by one."""
    rows = _whole_rows(window) if window.ndim == 2 else range(0)
    if rows and any(edge > 0 for edges in window.span for edge in edges):
        return _rows_of_images(x, w, window, rows)
    return _taps(barrier(pad_spatial(x, window.span)), w, window)


def _rows_of_images(x: jax.Array, w: jax.Array | None, window: Window, whole: range) -> jax.Array:
    """As `_of_images`, for images read as lines: rows whose taps lie on the line, then the others.

    Args:
        x: images.
        w: the kernel.
        window: where it stands.
        whole: the rows of outputs that see nothing beyond the line's ends.
    """
    n, height, width, c = x.shape
    pitch = window.stride[0] * width
    line = x.reshape(n, height * width, c)
    masks = [_met(window, m) for m in range(window.size[1])]

    def part(line: jax.Array, some: range, origin: int = 0) -> jax.Array:
        terms = []
        for m in each_tap(window):
            begin = _line_start(window, some[0], m) - origin
            seen = lax.slice_in_dim(line, begin, begin + len(some) * pitch, axis=1)
            seen = seen.reshape(n, len(some), pitch, c)
            seen = lax.slice_in_dim(seen, 0, _reach(window), window.stride[1], axis=2)
            term, mask = _term(seen, w, m), masks[m[1]]
            terms.append(term if mask is None else jnp.where(mask[:, None], term, 0))
        return summed(terms, TOGETHER)

    def border(some: range) -> jax.Array:
        begin, end = _line_start(window, some[0]), _line_end(window, some[-1])
        low, high = max(begin, 0), min(end, height * width)
        piece = pad_spatial(line[:, low:high], ((low - begin, end - high),))
        return part(barrier(piece), some, begin)

    pieces = [part(line, whole)]
    if whole[0] > 0:
        pieces.insert(0, border(range(whole[0])))
    if whole[-1] + 1 < window.output_size[0]:
        pieces.append(border(range(whole[-1] + 1, window.output_size[0])))
    return jnp.concatenate(pieces, 1)


def _met(window: Window, m: int) -> jax.Array | None:
    """Which columns of outputs meet a pixel of their row at column m of taps; None: all."""
    first = m * window.dilation[1] - window.padding[1][0]
    if first >= 0 and first + _reach(window) <= window.input_size[1]:
        return None
    column = lax.iota(np.int32, window.output_size[1]) * window.stride[1] + first
    return barrier((column >= 0) & (column < window.input_size[1]))


def _whole_rows(window: Window) -> range:
    """The rows of outputs all of whose taps lie on the line, for as long as the pitch.

    None if a row of outputs is longer than the pitch.
    """
    length = window.input_size[0] * window.input_size[1]
    if _reach(window) > window.stride[0] * window.input_size[1]:
        return range(0)
    whole = [
        i
        for i in range(window.output_size[0])
        if _line_start(window, i) >= 0 and _line_end(window, i) <= length
    ]
    return range(whole[0], whole[-1] + 1) if whole else range(0)


def _line_start(window: Window, i: int, m: Tap = (0, 0)) -> int:
    """Where on the line tap m of the first window of row i stands."""
    row, column = (
        d * place - before
        for d, place, (before, _) in zip(window.dilation, m, window.padding, strict=True)
    )
    return (i * window.stride[0] + row) * window.input_size[1] + column


def _reach(window: Window) -> int:
    """From the first column that a tap sees in a row of outputs to the last."""
    return (window.output_size[1] - 1) * window.stride[1] + 1


def _line_end(window: Window, i: int) -> int:
    last = tuple(k - 1 for k in window.size)
    return _line_start(window, i, last) + window.stride[0] * window.input_size[1]


def _taps(x: jax.Array, w: jax.Array | None, window: Window) -> jax.Array:
    """Σ over m of x[i·s + d·m] w[m], for x as long as the windows reach."""
    terms = [_term(tap(x, window, m), w, m) for m in each_tap(window)]
    return summed(terms, TOGETHER)


def _term(seen: jax.Array, w: jax.Array | None, m: Tap) -> jax.Array:
    return seen if w is None else times(seen, w[m][0])


def repeated(x: jax.Array, multiplier: int) -> jax.Array:
    """Every channel once for each of the output channels that see it."""
    return x if multiplier == 1 else jnp.repeat(x, multiplier, axis=-1)


def kernel_gradient(x: jax.Array, dy: jax.Array, window: Window) -> jax.Array:
    """dw[m, o] = Σ over n, i of x[n, i·s + d·m, o // multiplier] dy[n, i, o].

    All taps' products are summed by one reduction of several operands, which XLA compiles to
    one loop: x and dy are read once, not once a tap. It sums over rows, so that what is left
    of each tap is a whole row of columns and channels, long enough to vectorise over; the
    columns are summed last, as a product with a row of ones.
    """
    x = repeated(x, dy.shape[-1] // x.shape[-1])
    if window.ndim == 2:
        return _of_planes(x, dy, window)
    if window.ndim == 1:
        return _of_lines(x, dy, window)
    planes = functools.partial(_of_planes, window=volumes.plane_window(window))
    return volumes.kernel_gradient(x, dy, window, planes)


def _of_planes(x: jax.Array, dy: jax.Array, window: Window) -> jax.Array:
    """Rows of x and dy are laid flat, columns times channels: a tap shifts x along them.

    Nothing is padded, which would cost as much as the sums. Where a shift runs over the end of
    a row, what it meets is of no use and is left out of the last sum; so is what stands between
    the columns that a stride picks. Rows at the border miss some taps and are added one by one.
    """
    (kh, kw), (sh, sw), (dh, dw) = window.size, window.stride, window.dilation
    before = tuple(max(edge, 0) for edge, _ in window.span)
    crop = [(min(start, 0), min(end, 0)) for start, end in window.span]
    reach = _reach(window)
    wider = reach - x.shape[2] - sum(crop[1])  # an output beyond the input
    x = pad_spatial(x, (crop[0], (crop[1][0], crop[1][1] + max(wider, 0))))
    n, height, columns, c = x.shape
    rows, width = dy.shape[1], columns * c
    dy = _repeated_columns(dy, sw, columns).reshape(n, rows, width)

    def row(i: int, m: int) -> int:
        return i * sh + m * dh - before[0]

    def shift(j: int) -> int:
        return j * dw - before[1]

    taps = [(m, j) for m in range(kh) for j in range(kw)]
    starts = [row(0, m) * width + shift(j) * c for m, j in taps]
    pitch = sh * width
    whole = [  # the rows all of whose taps lie in x, when it is read as one line
        i
        for i in range(rows)
        if starts[0] + i * pitch >= 0 and starts[-1] + (i + 1) * pitch <= height * width
    ]
    sums, rest = _rows_summed(x.reshape(n, height * width), dy, starts, pitch, whole)
    rest += sorted(set(range(rows)).difference(whole))

    gradient = []
    for (m, j), parts in zip(taps, sums, strict=True):
        low, high = max(0, -shift(j)), min(reach, columns - shift(j))  # where both have a column
        bands = [part[..., low * c : high * c] for part in parts if low < high]
        few = [part for part in bands if part.shape[1] <= _BANDS]
        parts = [part[:, band] for part in few for band in range(part.shape[1])]
        for i in rest:
            if low < high and 0 <= row(i, m) < height:
                there = x[:, row(i, m), low + shift(j) : high + shift(j)]
                there = there.reshape(n, (high - low) * c)
                parts.append(there * dy[:, i, low * c : high * c])
        totals = [part for part in bands if part.shape[1] > _BANDS]
        if parts:
            totals.append(functools.reduce(operator.add, parts)[:, None])
        totals = [a.reshape(*a.shape[:2], high - low, c)[:, :, -low % sw :: sw] for a in totals]
        zero = lax.full_like(dy, 0, shape=(1, c))
        gradient.append(functools.reduce(operator.add, map(_summed_positions, totals), zero))
    return jnp.concatenate(gradient).reshape(kh, kw, 1, c)


def _of_lines(x: jax.Array, dy: jax.Array, window: Window) -> jax.Array:
    """A line is cut into rows, one after the other in memory, and summed as rows are."""
    n, length, c = dy.shape
    (k,), (s,), (d,) = window.size, window.stride, window.dilation
    rows = _ADDED * (_TERMS // (_ADDED * min(k, _SUMS)))  # for one reduction
    row = length // rows
    cut = rows * row  # what follows is summed as it is
    whole = barrier(dy[:, :cut]).reshape(n, rows, row * c)
    tail = dy[:, cut:].reshape(n, (length - cut) * c)
    # The positions of one residue lie together: then every tap is a contiguous piece.
    reach = (length + (window.extent[0] - 1) // s) * s
    x = pad_spatial(x, ((window.span[0][0], reach - x.shape[1] - window.span[0][0]),))
    gradient: list[Any] = [None] * k
    for b in sorted({m * d % s for m in range(k)}):
        taps = [m for m in range(k) if m * d % s == b]
        line = barrier(x[:, b::s]).reshape(n, reach // s * c)
        starts = [m * d // s * c for m in taps]
        sums, rest = _rows_summed(line, whole, starts, row * c, list(range(rows if row else 0)))
        for m, start, bands in zip(taps, starts, sums, strict=True):
            parts = [part[:, 0] for part in bands]
            for i in rest:
                there = lax.slice_in_dim(
                    line, start + i * row * c, start + (i + 1) * row * c, axis=1
                )
                parts.append(there * whole[:, i])
            pieces = [functools.reduce(operator.add, parts)] if parts else []
            pieces.append(line[:, start + cut * c : start + length * c] * tail)
            total = jnp.concatenate(pieces, 1)
            gradient[m] = _summed_positions(total.reshape(n, total.shape[1] // c, c))
    return jnp.concatenate(gradient).reshape(k, 1, c)


def _repeated_columns(dy: jax.Array, stride: int, columns: int) -> jax.Array:
    """Every column s times, then cut or filled with zeros to x's number of columns."""
    if stride > 1:
        dy = jnp.repeat(dy, stride, axis=2)
    if dy.shape[2] != columns:
        dy = pad_spatial(dy, ((0, 0), (0, columns - dy.shape[2])))
    return dy if stride == 1 and dy.shape[2] == columns else barrier(dy)


def _summed_positions(x: jax.Array) -> jax.Array:
    """(*positions, C) -> (1, C). A product with a row of ones is faster than a reduction."""
    x = barrier(x.reshape(math.prod(x.shape[:-1]), x.shape[-1]))
    return lax.full_like(x, 1, shape=(1, x.shape[0])) @ x


def _rows_summed(
    line: jax.Array, dy: jax.Array, starts: list[int], pitch: int, rows: list[int]
) -> tuple[list[list[jax.Array]], list[int]]:
    """For each start: Σ over rows i of line[:, start + i·pitch : … + width] · dy[:, i].

    Args:
        line: x, (N, positions and channels).
        dy: (N, rows, width).
        starts: where row 0 of each tap begins.
        pitch: the distance between two rows in `line`, a multiple of the width.
        rows: consecutive ones.

    Returns:
        For each start the parts of its sum, (N, bands, width) each, and the rows that are left.
    """
    n, _, width = dy.shape
    sums: list[list[jax.Array]] = [[] for _ in starts]
    together = min(len(starts), _SUMS)
    while len(rows) >= _ADDED:
        each = min(_TERMS // (_ADDED * together), len(rows) // _ADDED)
        # Each reduction costs time to compile: it has as many bands of rows as there are.
        bands = len(rows) // (_ADDED * each)
        first, count = rows[0], bands * _ADDED * each
        shape = (n, bands, _ADDED, each)

        def product(start: int, r: int, first: int = first, shape: Any = shape) -> jax.Array:
            # Each a slice of its own: XLA fuses what is used once.
            count = math.prod(shape[1:])
            begin = start + first * pitch
            piece = lax.slice_in_dim(line, begin, begin + count * pitch, axis=1)
            piece = piece.reshape(*shape[:3], shape[3] * pitch // width, width)
            part = lax.slice_in_dim(dy, first, first + count, axis=1).reshape(*shape, width)
            return piece[:, :, :, r * pitch // width] * part[:, :, :, r]

        for begin in range(0, len(starts), together):
            terms = [
                functools.reduce(operator.add, [product(start, r) for r in range(each)])
                for start in starts[begin : begin + together]
            ]
            zeros = [lax.full_like(dy, 0, shape=())] * len(terms)
            found = lax.reduce(terms, zeros, add_each, (2,))
            for parts, part in zip(sums[begin : begin + together], found, strict=True):
                parts.append(part)
        rows = rows[count:]
    return sums, rows


def add_each(a: list[jax.Array], b: list[jax.Array]) -> list[jax.Array]:
    """What a reduction of several operands does."""
    return [p + q for p, q in zip(a, b, strict=True)]
