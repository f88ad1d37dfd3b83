"""What unshared and tiled convolution check before they compute, and where their windows stand."""

from jax import Array

from cnnvjp._types import Padding, PerAxis
from cnnvjp._windows.geometry import Window, forward_input_size, make_window
from cnnvjp._windows.spatial import occupied_size, per_axis, spatial_size


def _kernels_ndim(w: Array) -> int:
    """D, from kernels of shape (*tiles, *kernel, C_in, C_out)."""
    if w.ndim not in (4, 6, 8):
        raise ValueError(
            f"w: got the shape {w.shape}; it must be (*positions, *kernel, C_in, C_out) with as "
            "many axes of positions as of the kernel, 1, 2 or 3"
        )
    if 0 in w.shape:
        raise ValueError(f"w: got the shape {w.shape}; no axis may be empty")
    return w.ndim // 2 - 1


def forward_window(
    x: Array, w: Array, stride: PerAxis, padding: Padding, dilation: PerAxis
) -> Window:
    """Places one of the kernels `w` over the images `x`."""
    ndim = _kernels_ndim(w)
    images = spatial_size(x.shape, ndim)
    if x.shape[-1] != w.shape[-2]:
        raise ValueError(
            f"x: got {x.shape[-1]} channels; w of shape {w.shape} fits {w.shape[-2]} of them"
        )
    return make_window(images, w.shape[ndim:-2], stride, padding, dilation)


def transposed_window(
    y: Array,
    w: Array,
    stride: PerAxis,
    padding: Padding,
    dilation: PerAxis,
    output_size: PerAxis | None,
) -> Window:
    """Places one of the kernels `w` over the images that lead to the maps `y`."""
    ndim = _kernels_ndim(w)
    kernel = w.shape[ndim:-2]
    maps = occupied_size(y.shape, ndim, argument="y")
    if y.shape[-1] != w.shape[-1]:
        raise ValueError(
            f"y: got {y.shape[-1]} channels; w of shape {w.shape} are the forward operation's "
            f"kernels, which have {w.shape[-1]} output channels"
        )
    images = forward_input_size(
        maps, kernel, stride, padding, dilation, output_size, operation="the forward operation"
    )
    return make_window(images, kernel, stride, padding, dilation)


def kernel_window(
    x: Array,
    dy: Array,
    kernel_size: PerAxis,
    stride: PerAxis,
    padding: Padding,
    dilation: PerAxis,
    ndim: int,
) -> Window:
    """Places a kernel of the size `kernel_size` over the images `x`, whose output is like `dy`."""
    kernel = per_axis("kernel_size", kernel_size, ndim)
    images = spatial_size(x.shape, ndim)
    spatial_size(dy.shape, ndim, argument="dy")
    window = make_window(images, kernel, stride, padding, dilation, argument="kernel_size")
    expected = (*x.shape[: -1 - ndim], *window.output_size)
    if dy.shape[:-1] != expected:
        raise ValueError(
            f"dy: got the shape {dy.shape}; for x of shape {x.shape} and kernel_size {kernel} the "
            f"output of the forward operation is ({', '.join(map(str, expected))}, C_out)"
        )
    for name, array in (("x", x), ("dy", dy)):
        if array.shape[-1] < 1:
            raise ValueError(f"{name}: got the shape {array.shape}; it needs a channel")
    return window


def check_unshared(w: Array, window: Window) -> None:
    """Checks that there is a kernel for every output position."""
    out = window.output_size
    if w.shape[: window.ndim] != out:
        raise ValueError(
            f"w: got the shape {w.shape}, kernels for {w.shape[: window.ndim]} positions; the "
            f"output has {out}, each of which needs one: ({', '.join(map(str, out))}, *kernel, "
            "C_in, C_out)"
        )


def check_tiles(argument: str, tiles: tuple[int, ...], window: Window) -> None:
    """Checks that every kernel has an output position."""
    if any(t > o for t, o in zip(tiles, window.output_size, strict=True)):
        raise ValueError(
            f"{argument}: got {tiles} kernels in turn; the output has {window.output_size} "
            "positions, and an axis can have no more kernels than those"
        )
