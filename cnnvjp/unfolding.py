"""Unfolding: the windows of an image side by side (im2col), and their sum (col2im)."""

import functools

import chex
import jax
import numpy as np
from jax import Array

from cnnvjp._checks.arrays import operands
from cnnvjp._checks.compiled import call
from cnnvjp._types import Padding, PerAxis
from cnnvjp._windows.axes import merge_cells, split_cells
from cnnvjp._windows.geometry import Window, forward_input_size, make_window
from cnnvjp._windows.matrices import SparseMatrix, along_axes, transposes
from cnnvjp._windows.spatial import per_axis, spatial_rank, spatial_size

# ------------------------------------------------------------------------------------------
# unfold
# ------------------------------------------------------------------------------------------


def unfold(
    x: chex.Array,
    window: PerAxis,
    *,
    stride: PerAxis = 1,
    padding: Padding = "VALID",
    dilation: PerAxis = 1,
    spatial_ndim: int | None = None,
) -> jax.Array:
    """Copies out every window of an image (im2col): y[i, m] = x[i·s + d·m − before].

    A convolution is then one product of matrices, with the patches as rows.

    Gradient: dx is dy folded, every pixel collecting from the windows it was in (`fold`).

    Args:
        x: images, (*batch, *spatial, C). Float, integer or complex.
        window: the size of the windows, an int or D ints.
        stride: the step between two windows, an int or D ints.
        padding: as in `conv`; taps in the padding are 0.
        dilation: the distance between two taps, an int or D ints.
        spatial_ndim: D, where no option is a sequence; 2 by default.

    Returns:
        (*batch, *out_spatial, *window, C).

    Raises:
        TypeError: if x is not an array of a supported dtype.
        ValueError: if shapes or options do not fit together.

    Example:
        >>> import jax.numpy as jnp
        >>> unfold(jnp.arange(1, 6).reshape(5, 1), (3,), stride=2, padding=1)[..., 0]
        Array([[0, 1, 2],
               [2, 3, 4],
               [4, 5, 0]], dtype=int32)

    Source: the rows of [GBC] 9.8, of which [H] 8.12 is the matrix.
    """
    (x,) = operands(integers=True, complex=True, x=x)
    ndim = spatial_rank(
        spatial_ndim, window=window, stride=stride, padding=padding, dilation=dilation
    )
    size = per_axis("window", window, ndim)
    images = spatial_size(x.shape, ndim)
    placed = make_window(images, size, stride, padding, dilation, argument="window")
    return call(_unfold, x, placed)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _unfold(x, window):
    return _taken_apart(x, window)


def _unfold_fwd(x, window):
    return _taken_apart(x, window), ()


def _unfold_bwd(window, _, dy):
    # [GBC] 9.13 without the products: dx[j] = Σ over i·s + d·m − before = j of dy[i, m]
    return (_put_together(dy, window),)


_unfold.defvjp(_unfold_fwd, _unfold_bwd)


def _taken_apart(x: Array, window: Window) -> Array:
    """im2col."""
    windows = along_axes(x, _window_matrices(window))  # (..., o·k along each axis, C)
    return split_cells(windows, window.size)


def _put_together(patches: Array, window: Window) -> Array:
    """col2im."""
    return along_axes(merge_cells(patches, window.ndim), transposes(_window_matrices(window)))


@functools.lru_cache(maxsize=256)
def _window_matrices(window: Window) -> tuple[SparseMatrix, ...]:
    """For each axis, row i·k + m with a 1 for the pixel under tap m of window i."""
    matrices = []
    for axis, (n, o, k) in enumerate(
        zip(window.input_size, window.output_size, window.size, strict=True)
    ):
        rows = np.flatnonzero(window.inside(axis))  # a tap in the padding leaves its row empty
        columns = window.positions(axis).ravel()[rows]
        matrices.append(SparseMatrix(rows, columns, np.ones(rows.size), (o * k, n)))
    return tuple(matrices)


# ------------------------------------------------------------------------------------------
# fold
# ------------------------------------------------------------------------------------------


def fold(
    patches: chex.Array,
    output_size: PerAxis,
    *,
    stride: PerAxis = 1,
    padding: Padding = "VALID",
    dilation: PerAxis = 1,
    spatial_ndim: int | None = None,
) -> jax.Array:
    """Puts windows back in their places and sums where they overlap (col2im).

        x[j] = Σ over i, m with i·s + d·m − before = j of patches[i, m]

    The adjoint of `unfold`, not its inverse: a pixel that stood in three windows comes back
    three times as large.

    Gradient: the cotangent is unfolded (`unfold`).

    Args:
        patches: windows, (*batch, *out_spatial, *window, C). Float, integer or complex.
        output_size: the spatial size of the unfolded image, an int or D ints.
        stride: that of the unfolding, as are padding and dilation.
        padding: as in `conv`; what falls on it is dropped.
        dilation: the distance between two taps, an int or D ints.
        spatial_ndim: D, where no option is a sequence; 2 by default.

    Returns:
        (*batch, *output_size, C).

    Raises:
        TypeError: if patches is not an array of a supported dtype.
        ValueError: if options do not fit together; for an output_size that unfolding would
            not map to the patches' out_spatial, with those that it would.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.arange(1, 6).reshape(5, 1)
        >>> patches = unfold(x, (3,))
        >>> fold(patches, (5,))[:, 0]  # pixels are in 1, 2, 3, 2 and 1 windows
        Array([1, 4, 9, 8, 5], dtype=int32)

    Source: [GBC] 9.13 with the products left out; [H] 8.41.
    """
    (patches,) = operands(integers=True, complex=True, patches=patches)
    ndim = spatial_rank(
        spatial_ndim, output_size=output_size, stride=stride, padding=padding, dilation=dilation
    )
    if patches.ndim < 2 * ndim + 1 or 0 in patches.shape[-1 - 2 * ndim : -1]:
        raise ValueError(
            f"patches: got the shape {patches.shape}; with {ndim} spatial axes it must be "
            f"(*batch, *out_spatial, *window, channels), with {ndim} sizes of at least 1 for "
            "out_spatial and for window"
        )
    out, size = patches.shape[-1 - 2 * ndim : -1 - ndim], patches.shape[-1 - ndim : -1]
    requested = per_axis("output_size", output_size, ndim)
    images = forward_input_size(
        out, size, stride, padding, dilation, requested, operation="unfolding"
    )
    return call(_fold, patches, make_window(images, size, stride, padding, dilation))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _fold(patches, window):
    return _put_together(patches, window)


def _fold_fwd(patches, window):
    return _put_together(patches, window), ()


def _fold_bwd(window, _, dx):
    # What [GBC] 9.8 multiplies by the kernel: dpatches[i, m] = dx[i·s + d·m − before]
    return (_taken_apart(dx, window),)


_fold.defvjp(_fold_fwd, _fold_bwd)
