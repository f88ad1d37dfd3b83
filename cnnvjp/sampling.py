"""Sampling: images read at real positions, and the positions that grids and matrices stand for."""

import functools
from typing import get_args

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cnnvjp import _lowering as lowering
from cnnvjp._checks.arrays import operands
from cnnvjp._checks.compiled import call
from cnnvjp._checks.options import choice_option, flag_option
from cnnvjp._checks.sampling import check_positions, on_images_and_positions, sampling_operands
from cnnvjp._types import PerAxis, SampleMethod, SamplePadding, widened
from cnnvjp._windows.spatial import per_axis

# ------------------------------------------------------------------------------------------
# sample
# ------------------------------------------------------------------------------------------


def sample(
    x: chex.Array,
    positions: chex.Array,
    *,
    method: SampleMethod = "linear",
    padding: SamplePadding = "zeros",
) -> jax.Array:
    """Reads images at real positions: y[n, p] = Σ over m of x[n, m] · Π over axes of k(p − m).

        "nearest"   k picks the nearest pixel, of two equally near the even one
        "linear"    k(d) = max(1 − |d|, 0)
        "cubic"     Keys' cubic kernel with the slope −0.75, in one and two dimensions

    The pixels m go on beyond the n of an axis, where they are

        "zeros"      0
        "edge"       x[0] and x[n−1]
        "reflect"    x[−1−j] = x[j] and x[n+j] = x[n−1−j], mirrored in the pixels' edges
        "mirror"     x[−j] = x[j] and x[n−1+j] = x[n−1−j], mirrored in their centres
        "circular"   x[m mod n]

    With `normalized_positions` this is PyTorch's `grid_sample`, whose "border" is "edge" and whose
    "reflection" is "mirror" with `align_corners` and "reflect" without. "nearest" takes positions
    into the image before it rounds them, as PyTorch does.

    Gradients: dx is the adjoint; dp sums over the channels, and is 0 with "nearest":

        dx[n, m] = Σ over p of k(p − m) · dy[n, p]
        dp[n, p] = Σ over m, c of x[n, m, c] · ∂k(p − m)/∂p · dy[n, p, c]

    The linear kernel has kinks, where p is an integer: there dp is the derivative from the right.
    PyTorch's is another where a "border" or "reflection" has its kinks.

    Args:
        x: images, (*batch, *spatial, C), with any number of batch axes.
        positions: (*batch, *out, D), with at least one axis in `out`, in pixels along the
            spatial axes, rows first; 0 is the centre of the first pixel. D is 1, 2 or 3. Of x's
            dtype, or of float32 if that has 16 bits: bfloat16 has no fractions of a pixel beyond
            pixel 128, float16 beyond 1024. At NaN, and at infinity with the periodic paddings
            "reflect", "mirror" and "circular", the value is that of the first pixel with a
            gradient of 0, or 0 with "zeros".
        method: "nearest", "linear" or "cubic".
        padding: "zeros", "edge", "reflect", "mirror" or "circular".

    Returns:
        (*batch, *out, C), of x's dtype. A NaN or infinity in x reaches all positions that it is
        a tap of, with the weight 0 too, as in PyTorch.

    Raises:
        TypeError: if the arrays are not of supported dtypes that go together.
        ValueError: for shapes that do not fit together, an unknown method or padding, or "cubic"
            in three dimensions.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.array([0.0, 10.0, 40.0]).reshape(3, 1)
        >>> positions = jnp.array([[0.5], [1.0], [1.75], [2.5]])
        >>> sample(x, positions)[:, 0]
        Array([ 5. , 10. , 32.5, 20. ], dtype=float32)
        >>> sample(x, positions, method="nearest", padding="edge")[:, 0]
        Array([ 0., 10., 40., 40.], dtype=float32)

    Source: Jaderberg et al., "Spatial Transformer Networks" (2015), 3 to 7; Keys, "Cubic
    Convolution Interpolation for Digital Image Processing" (1981).
    """
    choice_option("method", method, get_args(SampleMethod))
    choice_option("padding", padding, get_args(SamplePadding))
    x, positions = sampling_operands(x, positions)
    ndim = check_positions(x, positions)
    if method == "cubic" and ndim == 3:
        raise ValueError(
            "method: got 'cubic' with positions in 3 dimensions; there it must be 'nearest' or "
            "'linear'"
        )
    return on_images_and_positions(
        lambda x, positions: call(_sample, x, positions, method, padding), ndim, x, positions
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _sample(x, positions, method, padding):
    return lowering.sample(x, positions, method, padding)


def _sample_fwd(x, positions, method, padding):
    return lowering.sample(x, positions, method, padding), (x, positions)


def _sample_bwd(method, padding, residuals, dy):
    x, positions = residuals
    # Jaderberg et al. 6: ∂y/∂x is the weights, and dx = Sᵀ dy
    dx = lowering.spread(dy, positions, x.shape[1:-1], method, padding)
    # Jaderberg et al. 7, from the right at the kinks: ∂y/∂p is the pixels by the weights' slopes
    dpositions = lowering.position_gradient(x, dy, positions, method, padding)
    return dx, dpositions


_sample.defvjp(_sample_fwd, _sample_bwd)


# ------------------------------------------------------------------------------------------
# normalized_positions
# ------------------------------------------------------------------------------------------


def normalized_positions(
    grid: chex.Array, size: PerAxis, *, align_corners: bool = False
) -> jax.Array:
    """Pixels from coordinates that go from −1 to 1 across an image: p = ((g + 1) · n − 1) / 2.

    With `align_corners` −1 and 1 are the centres of the outermost of the n pixels, and not the
    image's edges: p = (g + 1) · (n − 1) / 2.

    Gradient: dg = n/2 · dp, or (n − 1)/2 · dp.

    Args:
        grid: (..., D), the last axis in PyTorch's order, which is x, y, z: columns before rows
            before planes. D is 1, 2 or 3.
        size: the spatial size of the image, an int or D ints, rows first.
        align_corners: what −1 and 1 are.

    Returns:
        Positions for `sample`, (..., D), rows first, of the grid's dtype and at least float32.

    Raises:
        TypeError: if grid is not a floating array.
        ValueError: if it has no last axis of 1, 2 or 3, or for a size that does not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> grid = jnp.array([[-1.0, -1.0], [0.0, 0.0], [1.0, 0.5]])  # x, y
        >>> normalized_positions(grid, (4, 8))
        Array([[-0.5, -0.5],
               [ 1.5,  3.5],
               [ 2.5,  7.5]], dtype=float32)
        >>> normalized_positions(grid, (4, 8), align_corners=True)
        Array([[0.  , 0.  ],
               [1.5 , 3.5 ],
               [2.25, 7.  ]], dtype=float32)

    Source: PyTorch's `torch.nn.functional.grid_sample`; the normalized coordinates of Jaderberg
    et al., "Spatial Transformer Networks" (2015), 1.
    """
    align_corners = flag_option("align_corners", align_corners)
    (grid,) = operands(grid=grid)
    if not grid.ndim or not 1 <= grid.shape[-1] <= 3:
        raise ValueError(
            f"grid: got the shape {grid.shape}; it must be (..., D) with D of 1, 2 or 3"
        )
    return call(_normalized_positions, grid, per_axis("size", size, grid.shape[-1]), align_corners)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _normalized_positions(grid, size, align_corners):
    return _in_pixels(grid, size, align_corners)


def _normalized_positions_fwd(grid, size, align_corners):
    # Of the grid the rule needs the dtype alone.
    return _in_pixels(grid, size, align_corners), jnp.zeros((), grid.dtype)


def _normalized_positions_bwd(size, align_corners, like, dpositions):
    # ∂p/∂g = n/2 along each axis, from rows first back to x first
    dgrid = jnp.flip(dpositions, -1) * _half_size(size, align_corners, dpositions)
    return (dgrid.astype(like.dtype),)


_normalized_positions.defvjp(_normalized_positions_fwd, _normalized_positions_bwd)


def _in_pixels(grid: Array, size: tuple[int, ...], align_corners: bool) -> Array:
    """(g + 1) · n/2 − ½, or (g + 1) · (n − 1)/2, rows first."""
    wide = widened(grid)
    first = 0 if align_corners else 0.5
    return jnp.flip((wide + 1) * _half_size(size, align_corners, wide) - first, -1)


def _half_size(size: tuple[int, ...], align_corners: bool, like: Array) -> Array:
    """How many pixels a coordinate of 1 spans along x, y and z, to multiply (..., D) by."""
    half = (np.array(size[::-1]) - align_corners) / 2
    return jnp.asarray(half.reshape((1,) * (like.ndim - 1) + half.shape), like.dtype)


# ------------------------------------------------------------------------------------------
# affine_positions
# ------------------------------------------------------------------------------------------


def affine_positions(
    matrix: chex.Array,
    output_size: PerAxis,
    input_size: PerAxis | None = None,
    *,
    align_corners: bool = False,
) -> jax.Array:
    """Where the pixels of an output lie in an input that an affine map takes them to: g = A (o, 1).

    o are the coordinates of the output's pixels, g those in the input, which both go from −1 to 1
    as in `normalized_positions`: the identity matrix resizes. This is PyTorch's `affine_grid`,
    in pixels.

    Gradient: dA[d, e] = Σ over the output's pixels of n_d/2 · dp_d · o_e, with o_D = 1, and
    (n_d − 1)/2 with `align_corners`.

    Args:
        matrix: A, (*batch, D, D + 1), its rows and columns in PyTorch's order, x before y before
            z: for D = 2 the last column moves to the right and down. D is 1, 2 or 3.
        output_size: the spatial size of the output, an int or D ints, rows first.
        input_size: the spatial size of the input, an int or D ints; the output's by default.
        align_corners: what −1 and 1 are, as in `normalized_positions`.

    Returns:
        Positions for `sample`, (*batch, *output_size, D), rows first, of the matrix's dtype and
        at least float32.

    Raises:
        TypeError: if matrix is not a floating array.
        ValueError: for a matrix of another shape, or sizes that do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> turned = jnp.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]])
        >>> affine_positions(turned, (2, 2))
        Array([[[0., 1.],
                [1., 1.]],
        <BLANKLINE>
               [[0., 0.],
                [1., 0.]]], dtype=float32)
        >>> x = jnp.array([[1.0, 2.0], [3.0, 4.0]])[..., None]
        >>> sample(x, affine_positions(turned, (2, 2)))[..., 0]
        Array([[2., 4.],
               [1., 3.]], dtype=float32)

    Source: Jaderberg et al., "Spatial Transformer Networks" (2015), 1; PyTorch's
    `torch.nn.functional.affine_grid`.
    """
    align_corners = flag_option("align_corners", align_corners)
    (matrix,) = operands(matrix=matrix)
    ndim = matrix.shape[-2] if matrix.ndim >= 2 else 0
    if not 1 <= ndim <= 3 or matrix.shape[-1] != ndim + 1:
        raise ValueError(
            f"matrix: got the shape {matrix.shape}; it must be (*batch, D, D + 1) with D of 1, 2 "
            "or 3"
        )
    out = per_axis("output_size", output_size, ndim)
    size = out if input_size is None else per_axis("input_size", input_size, ndim)
    return call(_affine_positions, matrix, out, size, align_corners)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _affine_positions(matrix, out, size, align_corners):
    return _in_pixels(_affine_grid(matrix, out, align_corners), size, align_corners)


def _affine_positions_fwd(matrix, out, size, align_corners):
    grid = _affine_grid(matrix, out, align_corners)
    return _in_pixels(grid, size, align_corners), jnp.zeros((), matrix.dtype)


def _affine_positions_bwd(out, size, align_corners, like, dpositions):
    dgrid = jnp.flip(dpositions, -1) * _half_size(size, align_corners, dpositions)
    # Jaderberg et al. 1: ∂g_d/∂A[d, e] = o_e, and 1 in the last column
    pixels = tuple(range(dgrid.ndim - 1 - len(out), dgrid.ndim - 1))
    columns = [jnp.sum(dgrid * o, pixels) for o in _coordinates(out, align_corners, dgrid)]
    return (jnp.stack([*columns, jnp.sum(dgrid, pixels)], axis=-1).astype(like.dtype),)


_affine_positions.defvjp(_affine_positions_fwd, _affine_positions_bwd)


def _affine_grid(matrix: Array, out: tuple[int, ...], align_corners: bool) -> Array:
    """A (o, 1) for every pixel of the output, (*batch, *out, D)."""
    wide = widened(matrix)
    wide = jnp.expand_dims(wide, range(wide.ndim - 2, wide.ndim - 2 + len(out)))
    grid = jnp.broadcast_to(wide[..., -1], (*matrix.shape[:-2], *out, len(out)))
    for column, o in enumerate(_coordinates(out, align_corners, grid)):
        grid = grid + wide[..., column] * o
    return grid


def _coordinates(out: tuple[int, ...], align_corners: bool, like: Array) -> list[Array]:
    """x, y and z of the output's pixels from −1 to 1, each to multiply (*batch, *out, D) by."""
    found = []
    for axis, n in reversed(list(enumerate(out))):
        i = np.arange(n)
        o = (2 * i + 1 - n) / n if not align_corners else (2 * i + 1 - n) / max(n - 1, 1)
        shape = [1] * like.ndim
        shape[like.ndim - 1 - len(out) + axis] = n
        found.append(jnp.asarray(o.reshape(shape), like.dtype))
    return found
