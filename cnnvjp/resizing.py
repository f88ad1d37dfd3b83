"""Resizing: images at another size, by copying, linear or cubic interpolation."""

import dataclasses
import functools
import math
from typing import get_args

import chex
import jax
import numpy as np

from cnnvjp._checks.arrays import operands
from cnnvjp._checks.compiled import call
from cnnvjp._checks.options import choice_option, flag_option
from cnnvjp._types import PerAxis, ResizeMethod
from cnnvjp._windows.matrices import SparseMatrix, along_axes, copying, transposes
from cnnvjp._windows.spatial import occupied_size, per_axis, spatial_rank

_COPYING_METHODS = ("nearest", "nearest-exact")


@dataclasses.dataclass(frozen=True)
class _Interpolation:
    """How `resize` finds a value between pixels.

    Attributes:
        method: as in `resize`.
        align_corners: whether the first and last pixels' centres keep their places.
        antialias: whether kernels widen as images shrink.
    """

    method: ResizeMethod
    align_corners: bool
    antialias: bool


def resize(
    x: chex.Array,
    size: PerAxis,
    *,
    method: ResizeMethod = "linear",
    align_corners: bool = False,
    antialias: bool = False,
    spatial_ndim: int | None = None,
) -> jax.Array:
    """Resizes images by interpolation, one axis after the other: y = A x.

        "nearest"         y[i] = x[⌊i·n/m⌋]
        "nearest-exact"   y[i] = x[⌊(i + ½)·n/m⌋]
        "linear"          y[i] = Σ over j of max(1 − |p − j|, 0) · x[j]
        "cubic"           y[i] = Σ over j of k(|p − j|) · x[j], with Keys' cubic kernel k

    for an axis that goes from n pixels to m, at p = (i + ½)·n/m − ½, or i·(n − 1)/(m − 1)
    with `align_corners`. Beyond an edge, its pixel is repeated. An axis that keeps its
    size is copied.

    This is PyTorch's `interpolate` with `size=`. `jax.image.resize` differs: it widens its
    kernels when it shrinks an image, as `antialias` does here, unless told not to, its cubic
    kernel has the slope −0.5, and at the edges it shares out the weight of missing pixels.

    Gradient: dx = Aᵀ dy along each axis: each pixel collects from where it was used.

    Args:
        x: images, (*batch, *spatial, C). Float; the nearest methods take integers too.
        size: the new spatial size, an int or D ints.
        method: "nearest", "nearest-exact", "linear" (bilinear and trilinear where D is 2
            and 3) or "cubic", whose kernel has the slope −0.75 at distance 1.
        align_corners: whether the centres of the corner pixels keep their places, instead of
            the images' edges. For "linear" and "cubic".
        antialias: stretches the kernel by n/m along axes that shrink, so that every pixel
            counts, and leaves out what lies beyond the edges; the cubic kernel then has the
            slope −0.5. For "linear" and "cubic", without `align_corners`.
        spatial_ndim: D, where no option is a sequence; 2 by default.

    Returns:
        (*batch, *size, C), of x's dtype.

    Raises:
        TypeError: if x is not an array of a supported dtype.
        ValueError: for an unknown method, or a size or options that do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.array([0.0, 4.0, 8.0]).reshape(3, 1)
        >>> resize(x, (6,))[:, 0]
        Array([0., 1., 3., 5., 7., 8.], dtype=float32)
        >>> resize(x, (5,), align_corners=True)[:, 0]
        Array([0., 2., 4., 6., 8.], dtype=float32)

    Source: a linear map as the matrix of [H] 8.12; PyTorch's `torch.nn.functional.interpolate`.
    """
    interpolation = _check_method(method, align_corners, antialias)
    (x,) = operands(integers=method in _COPYING_METHODS, x=x)
    ndim = spatial_rank(spatial_ndim, size=size)
    new_size = per_axis("size", size, ndim)
    return call(_resize, x, occupied_size(x.shape, ndim), new_size, interpolation)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _resize(x, old, new, interpolation):
    return along_axes(x, _resizing_matrices(old, new, interpolation))


def _resize_fwd(x, old, new, interpolation):
    return along_axes(x, _resizing_matrices(old, new, interpolation)), ()


def _resize_bwd(old, new, interpolation, _, dy):
    # y = A x, A a matrix like that of [H] 8.12: dx = Aᵀ dy
    return (along_axes(dy, transposes(_resizing_matrices(old, new, interpolation))),)


_resize.defvjp(_resize_fwd, _resize_bwd)


def _resizing_matrices(
    old: tuple[int, ...], new: tuple[int, ...], interpolation: _Interpolation
) -> list[SparseMatrix | None]:
    """A for each axis."""
    return [_interpolation_matrix(n, m, interpolation) for n, m in zip(old, new, strict=True)]


def _check_method(method: ResizeMethod, align_corners: bool, antialias: bool) -> _Interpolation:
    choice_option("method", method, get_args(ResizeMethod))
    align_corners = flag_option("align_corners", align_corners)
    antialias = flag_option("antialias", antialias)
    for name, value in (("align_corners", align_corners), ("antialias", antialias)):
        if value and method in _COPYING_METHODS:
            raise ValueError(
                f"{name}: got {value!r} with method={method!r}, which copies pixels; "
                "it must be False, or the method linear or cubic"
            )
    if align_corners and antialias:
        raise ValueError(
            "antialias: got True with align_corners=True; at most one of them may be True"
        )
    return _Interpolation(method, align_corners, antialias)


# The matrix A of one axis: which pixels a resized pixel mixes, and with which weights. Pixel i of m
# lies over the n pixels of the source at
#
#     (i + ½)·n/m − ½          where the images' edges coincide, half a pixel from the outermost
#                              centres, or
#     i·(n − 1)/(m − 1)        where those centres coincide, with `align_corners`.
#
# Both are fractions of integers and are kept as such: which pixels take part never depends on how a
# division was rounded.


@functools.lru_cache(maxsize=256)
def _interpolation_matrix(n: int, m: int, interpolation: _Interpolation) -> SparseMatrix | None:
    """A, of shape (m, n), for one axis that goes from n pixels to m; None is the identity."""
    if n == m:
        return None
    i = np.arange(m)
    if interpolation.method == "nearest":
        return copying(i * n // m, n)
    if interpolation.method == "nearest-exact":
        return copying((2 * i + 1) * n // (2 * m), n)
    if interpolation.align_corners:
        numerator, denominator = i * (n - 1), max(m - 1, 1)
    else:
        numerator, denominator = (2 * i + 1) * n - m, 2 * m
    return _mixtures(numerator, denominator, n, m, interpolation)


def _mixtures(
    numerator: np.ndarray, denominator: int, n: int, m: int, interpolation: _Interpolation
) -> SparseMatrix:
    """Row i weighs the pixels around numerator[i] / denominator by their distance from it."""
    shrinking = interpolation.antialias and n > m
    unit = 2 * n if shrinking else denominator  # n/m times wider, where 2m is the denominator
    radius = 1 if interpolation.method == "linear" else 2
    reach = math.ceil(radius * unit / denominator)
    below, remainder = np.divmod(numerator, denominator)
    offsets = np.arange(1 - reach, reach + 1)
    distance = np.abs(remainder[:, None] - offsets * denominator) / unit
    if interpolation.method == "linear":
        weights = np.maximum(1 - distance, 0)
    else:
        weights = _cubic(distance, -0.5 if interpolation.antialias else -0.75)
    columns = below[:, None] + offsets
    if interpolation.antialias:  # the pixels that exist share the weight
        weights = np.where((columns >= 0) & (columns < n), weights, 0)
        weights = weights / weights.sum(axis=1, keepdims=True)
    columns = np.clip(columns, 0, n - 1)  # the pixels at the edge go on beyond it
    rows = np.broadcast_to(np.arange(m)[:, None], columns.shape)
    return SparseMatrix(rows, columns, weights, (m, n))


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel, whose slope at distance 1 is a."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0))
