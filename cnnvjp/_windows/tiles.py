"""The way back through a sliding window, tile by tile.

Cut the padded input into tiles of s pixels along each axis, the stride. Pixel a of tile q is
tap a + s·t of window q − t, for t = 0, 1, … as long as a + s·t < k, and no other window sees
it. The adjoint of a pooling is then one pass over the tiles,

    dx[q·s + a − before] = Σ over t of dy[q − t] where a + s·t < k,

with ⌈k/s⌉ terms along an axis, and one where windows do not overlap: "only expanded", the ⊠ of
[H] P8.3. It equals Σ over m of `place(dy, m)`, k terms mostly of zeros, which is how it is
written where the window is dilated or very long.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import lax

from cnnvjp._types import primal_type
from cnnvjp._windows.axes import pad_spatial
from cnnvjp._windows.geometry import Window

# Terms of a pixel. Max pooling 3×3 s2 of 64 at 8×56×56, both ways: 1.3 ms by tiles, 1.7 by taps (as
# measured for `taps`).
_MOST_TERMS = 64
_LARGEST_TILE = 2**16  # pixels, which are numbered in the compiled program


def fit(window: Window) -> bool:
    """Whether the window's input can be taken tile by tile."""
    small = math.prod(window.stride) <= max(window.taps, _LARGEST_TILE)
    return set(window.dilation) == {1} and small and math.prod(_overlaps(window)) <= _MOST_TERMS


def combined(
    window: Window,
    arrays: tuple[jax.Array, ...],
    term: Callable[..., jax.Array],
    combine: Callable[[jax.Array, jax.Array], jax.Array],
) -> jax.Array:
    """For every pixel of the input, the terms of the windows that see it.

    Args:
        window: where it stands.
        arrays: with an entry for each window, (*batch, *out_spatial, C).
        term: maps the number of a tap in row-major order and the entries of the window whose
            tap it is to what the pixel receives. Numbers are int32, −1 for none; windows that
            do not exist have the entry 0.
        combine: merges two terms.

    Returns:
        (*batch, *spatial, C).
    """
    first = arrays[0].ndim - 1 - window.ndim
    overlaps = _overlaps(window)
    steps, before = window.stride, [low for low, _ in window.padding]
    skipped = [max(low, 0) // s for low, s in zip(before, steps, strict=True)]  # all padding
    tiles = [
        -(-(n + low) // s) - skip
        for n, low, s, skip in zip(window.input_size, before, steps, skipped, strict=True)
    ]
    edges = [
        (over - 1 - skip, skip + count - o)
        for over, skip, count, o in zip(overlaps, skipped, tiles, window.output_size, strict=True)
    ]
    arrays = tuple(pad_spatial(array, edges) for array in arrays)
    shape = arrays[0].shape
    tiled = [*shape[:first], *_pairs(tiles, steps), shape[-1]]
    kept = [*range(first), *range(first, len(tiled) - 1, 2), len(tiled) - 1]

    def at(t: tuple[int, ...]) -> jax.Array:
        start = [over - 1 - earlier for over, earlier in zip(overlaps, t, strict=True)]
        stop = [low + count for low, count in zip(start, tiles, strict=True)]
        seen = [
            lax.slice(a, [0] * first + [*start, 0], [*shape[:first], *stop, shape[-1]])
            for a in arrays
        ]
        return term(
            _numbers(window, t, first), *(lax.broadcast_in_dim(a, tiled, kept) for a in seen)
        )

    total = functools.reduce(combine, map(at, np.ndindex(*overlaps)))
    lengths = [count * s for count, s in zip(tiles, steps, strict=True)]
    total = lax.reshape(
        total, (*shape[:first], *lengths, shape[-1]), out_sharding=primal_type(arrays[0]).sharding
    )
    origin = [low - skip * s for low, skip, s in zip(before, skipped, steps, strict=True)]
    inside = [
        (-low, n + low - length)
        for n, low, length in zip(window.input_size, origin, lengths, strict=True)
    ]
    return pad_spatial(total, inside)


def _overlaps(window: Window) -> tuple[int, ...]:
    """How many windows can see a tile along each axis, ⌈k/s⌉."""
    return tuple(-(-k // s) for k, s in zip(window.size, window.stride, strict=True))


def _numbers(window: Window, t: tuple[int, ...], first: int) -> np.ndarray:
    """The tap that each pixel of a tile is for the window t steps before, shaped like a tile."""
    places = [np.arange(s) + s * steps for s, steps in zip(window.stride, t, strict=True)]
    grid = np.meshgrid(*places, indexing="ij")
    exists = np.logical_and.reduce([place < k for place, k in zip(grid, window.size, strict=True)])
    numbers = np.zeros(window.stride, np.int32)
    for place, k in zip(grid, window.size, strict=True):
        numbers = numbers * k + place
    numbers = np.where(exists, numbers, -1).astype(np.int32)
    return numbers.reshape([1] * first + _pairs([1] * window.ndim, window.stride) + [1])


def _pairs(a: Any, b: Any) -> list[int]:
    return [entry for pair in zip(a, b, strict=True) for entry in pair]
