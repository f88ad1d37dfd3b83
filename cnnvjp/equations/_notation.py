"""Indices and sums, written as the sources write them."""

from collections.abc import Iterator, Sequence
from itertools import product
from operator import lt

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def over(*limits: tuple[int, int]) -> Iterator[tuple[int, ...]]:
    """The indices of a sum, both limits included: ``over((1, r), (1, c))`` is Σ_i=1…r Σ_j=1…c."""
    return product(*(range(first, last + 1) for first, last in limits))


class Indexed:
    """An array read and written at indices that begin at ``first``.

    It shares the array's memory. An index outside the array is an IndexError (a negative one
    too, unlike NumPy's) or, with ``zero_outside``, reads as 0.
    """

    def __init__(self, array: Array, first: int, zero_outside: bool) -> None:
        self.array, self.first, self.zero_outside = array, first, zero_outside

    def __getitem__(self, index: tuple[int, ...]) -> float:
        position = self._position(index)
        if self._within(position):
            return self.array.item(position)
        if self.zero_outside:
            return 0.0
        raise self._outside(index)

    def __setitem__(self, index: tuple[int, ...], value: float) -> None:
        position = self._position(index)
        if not self._within(position):
            raise self._outside(index)
        self.array[position] = value

    def _position(self, index: tuple[int, ...]) -> tuple[int, ...]:
        return tuple([i - self.first for i in index])

    def _within(self, position: tuple[int, ...]) -> bool:
        return min(position) >= 0 and all(map(lt, position, self.array.shape))

    def _outside(self, index: tuple[int, ...]) -> IndexError:
        return IndexError(f"index {index} is outside an array of shape {self.array.shape}")


def from_0(array: Array, *, zero_outside: bool = False) -> Indexed:
    """The array with indices 0, 1, …, checked."""
    return Indexed(array, 0, zero_outside)


def from_1(array: Array, *, zero_outside: bool = False) -> Indexed:
    """The array with indices 1, 2, …, as in most of the sources."""
    return Indexed(array, 1, zero_outside)


def given(name: str, value: ArrayLike, ndim: int) -> Array:
    """An argument as a float64 array of the rank that the equation's indices need."""
    array = np.asarray(value, dtype=np.float64)
    require(array.ndim == ndim, f"{name} must have {ndim} axes, got shape {array.shape}")
    return array


def require(condition: bool, message: str) -> None:
    """Raise ValueError with the message unless the condition holds."""
    if not condition:
        raise ValueError(message)


def sizes_within(size: Sequence[int], kernel_size: Sequence[int], s: int = 1) -> tuple[int, ...]:
    """How many places a kernel has within an image, ⌊(n − k) / s⌋ + 1 along each axis."""
    require(s >= 1, f"the stride must be at least 1, got {s}")
    misfit = f"a kernel of size {tuple(kernel_size)} does not fit an image of size {tuple(size)}"
    require(len(size) == len(kernel_size), misfit)
    axes = list(zip(size, kernel_size, strict=True))
    require(all(1 <= k <= n for n, k in axes), misfit)
    return tuple((n - k) // s + 1 for n, k in axes)


def rot180(array: Array) -> Array:
    """The last two axes reversed: up to down and left to right."""
    return array[..., ::-1, ::-1]
