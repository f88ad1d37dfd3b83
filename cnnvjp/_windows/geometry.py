"""Where a window stands: the one place that turns sizes and options into positions.

Everything here is plain integers, known before anything is computed. For one axis of n
positions, a window of k taps that are d apart, moved by s over an input with `before` and
`after` positions of padding, tap m of window i stands at

    position(i, m) = i·s − before + d·m,          i = 0 … o−1,  m = 0 … k−1,
    o = ⌊(n + before + after − d·(k−1) − 1) / s⌋ + 1        ([H] 8.18–8.19 with the floor).
"""

import dataclasses
import functools
import math
from typing import get_args

import numpy as np

from cnnvjp._types import ConvPadding, FilledPadding, NamedPadding, Padding, Pair, PerAxis
from cnnvjp._windows.spatial import numeric_padding, per_axis

_SAME = ("SAME", "SAME_LOWER")
NAMED_PADDINGS: tuple[str, ...] = get_args(NamedPadding)
CONV_PADDINGS: tuple[str, ...] = (*NAMED_PADDINGS, *get_args(FilledPadding), "CAUSAL")


@dataclasses.dataclass(frozen=True)
class Window:
    """A kernel's or a pooling window's placement over an input, one entry per spatial axis.

    Attributes:
        input_size: n, the input's size.
        size: k, the number of taps.
        stride: s, the step from one window to the next.
        padding: `(before, after)`; negative entries crop.
        dilation: d, the distance between neighbouring taps.
        overhang: positions that `ceil_mode` added behind the padding, or took away.
    """

    input_size: tuple[int, ...]
    size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[Pair, ...]
    dilation: tuple[int, ...]
    overhang: tuple[int, ...]

    @property
    def ndim(self) -> int:
        """D, the number of spatial axes."""
        return len(self.size)

    @property
    def taps(self) -> int:
        """The number of positions in one window, over all axes."""
        return math.prod(self.size)

    @functools.cached_property
    def extent(self) -> tuple[int, ...]:
        """d·(k−1) + 1: the length that one window covers."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.size, self.dilation, strict=True))

    @functools.cached_property
    def output_size(self) -> tuple[int, ...]:
        """o, the number of windows."""
        return tuple(
            (n + before + after + over - e) // s + 1
            for n, (before, after), over, e, s in zip(
                self.input_size, self.padding, self.overhang, self.extent, self.stride, strict=True
            )
        )

    @functools.cached_property
    def span(self) -> tuple[Pair, ...]:
        """Padding that makes the input exactly as long as the windows reach, (o−1)·s + extent."""
        return tuple(
            (before, (o - 1) * s + e - n - before)
            for n, (before, _), o, s, e in zip(
                self.input_size, self.padding, self.output_size, self.stride, self.extent,
                strict=True,
            )
        )  # fmt: skip

    @functools.cached_property
    def transposed_padding(self) -> tuple[Pair, ...]:
        """Padding of the upsampled output, so that the rotated window visits every input.

        Input j is reached from upsampled position j + before − d·m, m = 0 … k−1. The first
        that is needed is before − d·(k−1), the last n − 1 + before; the upsampled output
        reaches from 0 to (o−1)·s.
        """
        return tuple(
            (e - 1 - before, n - 1 + before - (o - 1) * s)
            for n, (before, _), o, s, e in zip(
                self.input_size, self.padding, self.output_size, self.stride, self.extent,
                strict=True,
            )
        )  # fmt: skip

    def positions(self, axis: int) -> np.ndarray:
        """i·s − before + d·m along one axis, as an array of shape (o, k)."""
        i = np.arange(self.output_size[axis])[:, None]
        m = np.arange(self.size[axis])[None, :]
        return i * self.stride[axis] - self.padding[axis][0] + self.dilation[axis] * m

    def inside(self, axis: int) -> np.ndarray:
        """Which taps of which windows stand on the input, as an array of shape (o, k)."""
        position = self.positions(axis)
        return (position >= 0) & (position < self.input_size[axis])

    def inside_or_padding(self, axis: int) -> np.ndarray:
        """Which taps stand on the input or its padding, not on the overhang of `ceil_mode`."""
        return self.positions(axis) < self.input_size[axis] + max(self.padding[axis][1], 0)


def make_window(
    input_size: tuple[int, ...],
    size: tuple[int, ...],
    stride: PerAxis,
    padding: ConvPadding,
    dilation: PerAxis,
    *,
    ceil_mode: bool = False,
    argument: str = "w",
    names: tuple[str, ...] = NAMED_PADDINGS,
) -> Window:
    """Places a window, or raises a ValueError that names the option at fault.

    Args:
        input_size: the spatial size of the input.
        size: the size of the window, already one int per axis.
        stride: an int or one per axis.
        padding: any of the forms that `pad_pairs` accepts.
        dilation: an int or one per axis.
        ceil_mode: rounds the number of windows up, as long as the last one starts inside.
        argument: what the caller calls the window, for messages.
        names: the names of paddings that the caller takes.
    """
    ndim = len(size)
    strides = per_axis("stride", stride, ndim)
    dilations = per_axis("dilation", dilation, ndim)
    if min(input_size) < 1:
        raise ValueError(f"x: got the spatial size {input_size}; every axis needs a position")
    if ceil_mode and isinstance(padding, str) and padding in _SAME:
        raise ValueError(
            f"ceil_mode: got True with padding={padding!r}, which fixes the output's size already; "
            "give the padding in numbers, or ceil_mode=False"
        )
    pairs = pad_pairs(padding, input_size, size, strides, dilations, names)
    overhang = []
    for axis, (n, k, s, (before, after), d) in enumerate(
        zip(input_size, size, strides, pairs, dilations, strict=True)
    ):
        extent = d * (k - 1) + 1
        room = n + before + after
        if room < extent:
            raise ValueError(
                f"{argument}: its size {k} with dilation {d} covers {extent} positions of spatial "
                f"axis {axis}, which has {n} and padding {(before, after)}, {max(room, 0)} in all; "
                "use a smaller window or dilation, or more padding"
            )
        windows = fitting = (room - extent) // s + 1
        if ceil_mode:
            windows = -((extent - room) // s) + 1
            if (windows - 1) * s >= n + before:  # the last window would start in the padding
                windows -= 1
        overhang.append(0 if windows == fitting else (windows - 1) * s + extent - room)
    return Window(tuple(input_size), tuple(size), strides, pairs, dilations, tuple(overhang))


def forward_input_size(
    output_size: tuple[int, ...],
    size: tuple[int, ...],
    stride: PerAxis,
    padding: Padding,
    dilation: PerAxis,
    requested: PerAxis | None,
    *,
    operation: str = "the forward convolution",
) -> tuple[int, ...]:
    """The input size of a forward convolution whose output has `output_size`.

    Up to `stride` sizes lead to the same output, "so the transpose operation must be
    explicitly told what the size of the original input was" ([GBC], before 9.11). Without
    `requested` it is the smallest, and n·s for the SAME paddings.
    """
    ndim = len(size)
    strides = per_axis("stride", stride, ndim)
    dilations = per_axis("dilation", dilation, ndim)
    same = isinstance(padding, str) and padding in _SAME
    candidates = []
    for axis, (o, k, s, d) in enumerate(zip(output_size, size, strides, dilations, strict=True)):
        extent = d * (k - 1) + 1
        if same:
            smallest = (o - 1) * s + 1
        else:  # these paddings do not depend on the input's size
            any_size = (extent,) * ndim
            before, after = pad_pairs(padding, any_size, size, strides, dilations)[axis]
            smallest = (o - 1) * s + extent - before - after
        sizes = range(max(smallest, 1), smallest + s)
        if not sizes:
            raise ValueError(
                f"padding: got {padding!r}; with it no input of spatial axis {axis} leads to an "
                f"output of {o} (kernel {k}, stride {s}, dilation {d}); use less padding"
            )
        candidates.append(sizes)
    if requested is None:
        return tuple(sizes[-1] if same else sizes[0] for sizes in candidates)
    chosen = per_axis("output_size", requested, ndim)
    if any(n not in sizes for n, sizes in zip(chosen, candidates, strict=True)):
        fitting = " × ".join(
            f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]}…{sizes[-1]}" for sizes in candidates
        )
        raise ValueError(
            f"output_size: got {chosen}; {operation} leads to the size {output_size} from inputs "
            f"of {fitting}"
        )
    return chosen


def pad_pairs(
    padding: ConvPadding,
    input_size: tuple[int, ...],
    size: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    names: tuple[str, ...] = NAMED_PADDINGS,
) -> tuple[Pair, ...]:
    """Any form of padding as `(before, after)` for each axis.

    "VALID" pads nothing. "SAME" pads so that o = ⌈n/s⌉, an odd position after the input;
    "SAME_LOWER" puts it before. "FULL" pads d·(k−1) on both sides, so that every window that
    touches the input counts, "CAUSAL" before it only. The filled paddings have the sizes of
    "SAME". An int pads every side; a sequence gives each axis an int for
    both of its sides, or a pair.
    """
    ndim = len(size)
    if isinstance(padding, str):
        if padding not in names:
            of_conv = padding in CONV_PADDINGS
            raise ValueError(
                f"padding: got {padding!r}{', which only cnnvjp.conv takes' * of_conv}; the names "
                f"are {', '.join(names)}{'; or pad x first, with cnnvjp.pad' * of_conv}"
            )
        pairs = []
        for n, k, s, d in zip(input_size, size, stride, dilation, strict=True):
            extent = d * (k - 1) + 1
            if padding == "VALID":
                pairs.append((0, 0))
            elif padding == "FULL":
                pairs.append((extent - 1, extent - 1))
            elif padding == "CAUSAL":
                pairs.append((extent - 1, 0))
            else:
                total = max((-(-n // s) - 1) * s + extent - n, 0)
                less, more = total // 2, total - total // 2
                pairs.append((more, less) if padding == "SAME_LOWER" else (less, more))
        return tuple(pairs)
    return numeric_padding(padding, ndim, names=names)
