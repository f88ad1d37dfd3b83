"""Which pixels a resized pixel mixes, and with which weights: the matrix A of `resize`.

Pixel i of m lies over the n pixels of the source at

    (i + ½)·n/m − ½          pixels are cells, whose centres are half a pixel inside,
    i·(n − 1)/(m − 1)        with `align_corners`: the first and last centres coincide.

Both are fractions of ints and are kept as such: which pixels take part never depends on how
a division was rounded.
"""

import dataclasses
import functools
import math

import numpy as np

from cnnvjp._sparse import SparseMatrix


@dataclasses.dataclass(frozen=True)
class Interpolation:
    """How `resize` finds a value between pixels.

    Attributes:
        method: one of `METHODS`.
        align_corners: whether the first and last pixels' centres keep their places.
        antialias: whether kernels widen as images shrink.
    """

    method: str
    align_corners: bool
    antialias: bool


METHODS = ("nearest", "nearest-exact", "linear", "cubic")
COPYING_METHODS = ("nearest", "nearest-exact")


@functools.lru_cache(maxsize=256)
def interpolation_matrix(n: int, m: int, interpolation: Interpolation) -> SparseMatrix | None:
    """A, of shape (m, n), for one axis that goes from n pixels to m; None is the identity."""
    if n == m:
        return None
    i = np.arange(m)
    if interpolation.method == "nearest":
        return _copies(i * n // m, n)
    if interpolation.method == "nearest-exact":
        return _copies((2 * i + 1) * n // (2 * m), n)
    if interpolation.align_corners:
        numerator, denominator = i * (n - 1), max(m - 1, 1)
    else:
        numerator, denominator = (2 * i + 1) * n - m, 2 * m
    return _mixtures(numerator, denominator, n, m, interpolation)


def _copies(columns: np.ndarray, n: int) -> SparseMatrix:
    """Every row copies one pixel."""
    return SparseMatrix(np.arange(columns.size), columns, np.ones(columns.size), (columns.size, n))


def _mixtures(
    numerator: np.ndarray, denominator: int, n: int, m: int, interpolation: Interpolation
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
