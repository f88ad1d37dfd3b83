"""What the pooling operations check before they compute."""

import math

import jax
import numpy as np

from cnnvjp._checks.options import flag_option
from cnnvjp._types import Padding, PerAxis
from cnnvjp._windows.geometry import Window, make_window
from cnnvjp._windows.spatial import per_axis, spatial_rank, spatial_size

_LARGEST_INDEX = np.iinfo(np.int32).max


def pooling_window(
    x: jax.Array,
    size: PerAxis,
    stride: PerAxis | None,
    padding: Padding,
    dilation: PerAxis = 1,
    *,
    ceil_mode: bool = False,
    spatial_ndim: int | None = None,
) -> Window:
    """Places a pooling window over the maps `x`; `stride=None` sets windows side by side."""
    ndim = spatial_rank(
        spatial_ndim, window=size, stride=stride, padding=padding, dilation=dilation
    )
    maps = spatial_size(x.shape, ndim)
    sizes = per_axis("window", size, ndim)
    steps = sizes if stride is None else stride
    return sliding_window(maps, sizes, steps, padding, dilation, ceil_mode=ceil_mode)


def sliding_window(
    maps: tuple[int, ...],
    size: tuple[int, ...],
    stride: PerAxis,
    padding: Padding,
    dilation: PerAxis,
    *,
    ceil_mode: bool,
    argument: str = "window",
) -> Window:
    """Places a window over maps of a size, so that each of its places has a tap on them."""
    window = make_window(
        maps,
        size,
        stride,
        padding,
        dilation,
        ceil_mode=flag_option("ceil_mode", ceil_mode),
        argument=argument,
    )
    if ceil_mode and min(after for _, after in window.padding) < 0:
        raise ValueError(
            f"padding: got {padding!r}, which crops the end of the input, with ceil_mode=True, "
            "which reaches beyond it; crop x first"
        )
    for axis in range(window.ndim):
        touches = window.inside(axis).any(axis=1)
        if not touches.all():
            raise ValueError(
                f"padding: got {padding!r}; window {touches.argmin()} of spatial axis {axis} "
                f"(size {size[axis]}, dilation {window.dilation[axis]}) has no tap on the "
                f"{maps[axis]} positions of the input; use less padding"
            )
    return window


def check_indexable(argument: str, size: tuple[int, ...], remedy: str) -> None:
    """Checks that int32 can count the positions of a spatial plane or a window."""
    if math.prod(size) > _LARGEST_INDEX:
        raise ValueError(
            f"{argument}: got a plane of {' × '.join(map(str, size))} = {math.prod(size)} "
            f"positions, of which an int32 index tells at most {_LARGEST_INDEX} apart; {remedy}"
        )
