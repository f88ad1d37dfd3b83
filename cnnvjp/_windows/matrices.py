"""A sparse matrix along one axis: y = A x, and its adjoint dx = Aᵀ dy.

What copies or mixes pixels without trained weights (resizing, padding by copies, unfolding)
is such a matrix for each spatial axis. It is known before anything is computed, so that
transposing it is NumPy's work, and both directions run the same few gathers: no sum is
scattered, and a pixel that is infinite or NaN reaches only the results that use it.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnvjp._jax_versions import FOLDS_GATHERS
from cnnvjp._types import widened

# Rows of up to so many terms are written out, and fuse to one pass over x. Longer ones are a
# loop, so that the program's size, and the time to compile it, do not grow with them.
_LONGEST_WRITTEN_OUT = 16


@dataclasses.dataclass(frozen=True, eq=False)
class SparseMatrix:
    """A matrix given by its entries; entries at the same place add up.

    Attributes:
        rows: the row of each entry.
        columns: the column of each entry.
        weights: the entries, float64.
        shape: the number of rows and of columns.
    """

    rows: np.ndarray
    columns: np.ndarray
    weights: np.ndarray
    shape: tuple[int, int]

    @functools.cached_property
    def T(self) -> "SparseMatrix":  # noqa: N802
        """The transpose: rows and columns trade places."""
        return SparseMatrix(self.columns, self.rows, self.weights, self.shape[::-1])

    @functools.cached_property
    def terms(self) -> tuple[np.ndarray, np.ndarray]:
        """Each row's columns and weights, filled up to the longest row with weight 0.

        Two arrays of shape (terms, rows): y[i] = Σ over k of weights[k, i] · x[columns[k, i]].
        """
        places, inverse = np.unique(self.rows * self.shape[1] + self.columns, return_inverse=True)
        totals = np.bincount(inverse.ravel(), self.weights.ravel())
        rows, columns = np.divmod(places[totals != 0], self.shape[1])
        k = np.arange(rows.size) - np.searchsorted(rows, rows)  # the entry's place in its row
        shape = (k.max(initial=0) + 1, self.shape[0])
        filled_columns, filled_weights = np.zeros(shape, "int32"), np.zeros(shape)
        filled_columns[k, rows] = columns
        filled_weights[k, rows] = totals[totals != 0]
        return filled_columns, filled_weights


def copying(columns: np.ndarray, n: int) -> SparseMatrix:
    """The matrix whose row i copies entry columns[i] of n: one 1 in each row."""
    m = columns.size
    return SparseMatrix(np.arange(m), columns, np.ones(m), (m, n))


def along_axes(x: jax.Array, matrices: Sequence[SparseMatrix | None]) -> jax.Array:
    """Multiplies each spatial axis of (..., *spatial, C) by its matrix; None leaves it alone.

    Sums are held in at least float32 and rounded to x's dtype once, after the last axis.
    """
    first = x.ndim - 1 - len(matrices)
    y = widened(x)
    for axis, matrix in enumerate(matrices, first):
        if matrix is not None:
            y = _along_axis(y, matrix, axis)
    return y.astype(x.dtype)


def transposes(matrices: Sequence[SparseMatrix | None]) -> list[SparseMatrix | None]:
    """The matrices of the adjoint: dx = Aᵀ dy along each axis."""
    return [None if matrix is None else matrix.T for matrix in matrices]


def _along_axis(x: jax.Array, matrix: SparseMatrix, axis: int) -> jax.Array:
    """Sums the k-th terms of all rows, one gather for each k."""
    columns, weights = matrix.terms
    copies = bool(np.isin(weights, (0, 1)).all())  # nothing to multiply, whatever the dtype
    filled = bool((weights == 0).any())

    def term(columns: jax.Array, weights: jax.Array) -> jax.Array:
        weight = jnp.expand_dims(weights, [i for i in range(x.ndim) if i != axis])
        y = jnp.take(x, columns, axis=axis, mode="clip")
        if not copies:
            y = y * weight
        return jnp.where(weight == 0, jnp.zeros((), x.dtype), y) if filled else y

    c, w = jnp.asarray(columns), jnp.asarray(weights, x.dtype)
    if not FOLDS_GATHERS:
        x = lax.optimization_barrier(x)
    y, _ = lax.scan(
        lambda y, k: (y + term(*k), None),
        term(c[0], w[0]),
        (c[1:], w[1:]),
        unroll=len(columns) <= _LONGEST_WRITTEN_OUT,
    )
    return y
