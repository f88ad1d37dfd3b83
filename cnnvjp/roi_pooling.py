"""Pooling of regions of interest: boxes of any place and size, each read as maps of one size."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cnnvjp import _lowering as lowering
from cnnvjp._checks.compiled import call
from cnnvjp._checks.convolution import on_one_batch_axis
from cnnvjp._checks.options import flag_option, number_option, positive_int
from cnnvjp._checks.sampling import divided_over_the_batch, sampling_operands
from cnnvjp._types import PerAxis, widened
from cnnvjp._windows.axes import merge_axes, split_axis
from cnnvjp._windows.spatial import occupied_size, per_axis


@dataclasses.dataclass(frozen=True)
class _Bins:
    """How `roi_align` divides a box.

    Attributes:
        size: rows and columns of bins.
        samples: points of a bin along each axis.
        scale: the maps' size by that of the image that the boxes are of.
        aligned: whether a pixel's centre, rather than its edge, has the coordinate ½.
    """

    size: tuple[int, ...]
    samples: int
    scale: float
    aligned: bool


def roi_align(
    x: chex.Array,
    boxes: chex.Array,
    output_size: PerAxis,
    *,
    scale: float = 1.0,
    samples: int = 2,
    aligned: bool = True,
) -> jax.Array:
    """Pools boxes of any place and size to one size, without rounding their coordinates.

        y[n, r, i, c] = mean over a of x(n, p, c)
        p             = start + (i + (a + ½)/samples) · extent/output_size

    for a box that begins at start and reaches over extent, the points a of bin i, i and a with
    an entry for rows and one for columns. x(n, p, c) is x interpolated linearly; a point between
    −1 and n along an axis of n pixels reads the nearest position between their centres, and one
    further out, or NaN, reads 0.

    Gradients:

        dx     = dy/samples², spread to the pixels around each p
        dp     = Σ over c of dy/samples² · ∂x(n, p, c)/∂p, at whole numbers to the right
        dboxes = dp from all points: with u = (i + (a + ½)/samples)/output_size, which is how far
                 the point is on its way through the box, 1 − u of it to top or left, u to bottom
                 or right, times scale. torchvision gives none.

    torchvision's `roi_align` is the same with boxes (left, top, right, bottom) and another
    default, `aligned=False`. Its `sampling_ratio=-1`, which takes more points the larger a box is,
    does not fit compiled programs, whose shapes are known before. Points are `samples`² times as
    many as outputs, and are all in memory at once.

    Args:
        x: maps, (*batch, height, width, C), with any number of batch axes. Float.
        boxes: (*batch, R, 4): (top, left, bottom, right) in pixels of the image that x is `scale`
            times, where 0 is an edge of the first pixel. Of x's dtype; of float32 or x's if x has
            16 bits. A box that is turned over is read backwards.
        output_size: bins of a box, an int or (rows, columns).
        scale: x's size by the image's, such as 1/16.
        samples: how many points of a bin are read along each axis, at least 1.
        aligned: whether coordinates are moved by half a pixel, from edges to centres. Without it
            they are taken for those of centres, and a side of at most one pixel of x reaches one
            pixel on from its start: the box's end then has no gradient.

    Returns:
        (*batch, R, *output_size, C).

    Raises:
        TypeError: if the arrays differ in dtype or are not floating.
        ValueError: if shapes or options do not fit together.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.arange(16.0).reshape(4, 4, 1)
        >>> boxes = jnp.array([[0.0, 0.0, 4.0, 4.0], [1.0, 1.0, 2.0, 3.0]])
        >>> roi_align(x, boxes, (1, 2))[:, 0, :, 0]
        Array([[6.5, 8.5],
               [5. , 6. ]], dtype=float32)

    Source: He et al., *Mask R-CNN* (2017), section 3, "RoIAlign".
    """
    x, boxes = sampling_operands(x, boxes=boxes)
    occupied_size(x.shape, 2)
    batch = x.shape[:-3]
    if boxes.shape[:-2] != batch or boxes.ndim != len(batch) + 2 or boxes.shape[-1] != 4:
        fitting = ", ".join([*map(str, batch), "R", "4"])
        raise ValueError(
            f"boxes: got the shape {boxes.shape}; for x of shape {x.shape} it is ({fitting}), with "
            "(top, left, bottom, right) of R boxes"
        )
    bins = _Bins(
        per_axis("output_size", output_size, 2),
        positive_int("samples", samples),
        number_option("scale", scale, low=0),
        flag_option("aligned", aligned),
    )
    x, boxes = divided_over_the_batch(len(batch), x, boxes)
    core = functools.partial(call, _roi_align)
    return on_one_batch_axis(lambda x, boxes: core(x, boxes, bins), 2, x=x, boxes=boxes)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _roi_align(x, boxes, bins):
    return _pooled(x, boxes, bins)


def _pooled(x, boxes, bins):
    points = _points(boxes, bins)
    read = lowering.sample(widened(x), points, "linear", "edge")
    read = jnp.where(_near(points, x), read, 0)
    return _means(read, boxes, bins).astype(x.dtype)


def _roi_align_fwd(x, boxes, bins):
    return _pooled(x, boxes, bins), (x, boxes)


def _roi_align_bwd(bins, residuals, dy):
    x, boxes = residuals
    points = _points(boxes, bins)
    dread = jnp.where(_near(points, x), _shares(widened(dy), bins), 0)
    dx = lowering.spread(dread, points, x.shape[1:-1], "linear", "edge")
    dpoints = lowering.position_gradient(widened(x), dread, points, "linear", "edge")
    dpoints = jnp.where(_near(points, x), dpoints, 0)  # what is not read may be infinite
    return dx.astype(x.dtype), _box_gradient(dpoints, boxes, bins)


_roi_align.defvjp(_roi_align_fwd, _roi_align_bwd)


# ------------------------------------------------------------------------------------------
# The points of all boxes, and back. All points are (N, R, rows, columns, samples, samples): those
# of an axis differ along its bins and its samples alone.
# ------------------------------------------------------------------------------------------

_BINS_AND_SAMPLES = ((2, 4), (3, 5))  # the axes of rows' points and of columns'


def _points(boxes: Array, bins: _Bins) -> Array:
    """The points p = start + (i + (a + ½)/samples) · extent/output_size, (N, points, 2)."""
    start, extent = _start_and_extent(boxes, bins)
    every = (*boxes.shape[:2], *bins.size, bins.samples, bins.samples)
    coordinates = []
    for axis, count in enumerate(bins.size):
        first, step = (jnp.expand_dims(a[..., axis], (2, 3, 4, 5)) for a in (start, extent))
        p = first + _steps(bins, axis).astype(step.dtype) * (step / count)
        coordinates.append(jnp.broadcast_to(p, every))
    return merge_axes(jnp.stack(coordinates, -1), 1, 5)


def _start_and_extent(boxes: Array, bins: _Bins) -> tuple[Array, Array]:
    """Where boxes begin and how far they reach, in pixels of x, (N, R, 2) each."""
    corners = widened(boxes) * bins.scale - (0.5 if bins.aligned else 0)
    start, end = corners[..., :2], corners[..., 2:]
    return start, end - start if bins.aligned else jnp.maximum(end - start, 1)


def _steps(bins: _Bins, axis: int) -> np.ndarray:
    """How far from the box's start a point is, in bins: i + (a + ½)/samples."""
    i, a = np.ogrid[: bins.size[axis], : bins.samples]
    others = set(range(6)) - set(_BINS_AND_SAMPLES[axis])
    return np.expand_dims(i + (a + 0.5) / bins.samples, tuple(others))


def _box_gradient(dpoints: Array, boxes: Array, bins: _Bins) -> Array:
    """The adjoint of `_points`."""
    _, extent = _start_and_extent(boxes, bins)
    dpoints = _by_bins(dpoints, boxes, bins)
    dstart, dend = [], []
    for axis, count in enumerate(bins.size):
        dp = dpoints[..., axis]
        way = _steps(bins, axis).astype(dp.dtype) / count
        to_end = jnp.sum(way * dp, (2, 3, 4, 5))
        if not bins.aligned:  # a side of a pixel, which it has at the least, is not the box's
            to_end = jnp.where(extent[..., axis] > 1, to_end, 0)
        dstart.append(jnp.sum(dp, (2, 3, 4, 5)) - to_end)
        dend.append(to_end)
    return (jnp.stack([*dstart, *dend], -1) * bins.scale).astype(boxes.dtype)


def _near(points: Array, x: Array) -> Array:
    """Which points are on x or up to a pixel beyond, (N, points, 1); NaN is not."""
    size = np.asarray(x.shape[1:-1], points.dtype).reshape(1, 1, 2)
    return jnp.all((points >= -1) & (points <= size), -1, keepdims=True)


def _means(read: Array, boxes: Array, bins: _Bins) -> Array:
    """(N, points, C) -> (N, R, rows, columns, C)."""
    return jnp.mean(_by_bins(read, boxes, bins), (4, 5))


def _shares(dy: Array, bins: _Bins) -> Array:
    """The adjoint of `_means`."""
    share = jnp.expand_dims(dy / bins.samples**2, (4, 5))
    every = (*dy.shape[:4], bins.samples, bins.samples, dy.shape[-1])
    return merge_axes(jnp.broadcast_to(share, every), 1, 5)


def _by_bins(points: Array, boxes: Array, bins: _Bins) -> Array:
    """(N, points, E) -> (N, R, rows, columns, samples, samples, E)."""
    return split_axis(points, 1, (boxes.shape[1], *bins.size, bins.samples, bins.samples))
