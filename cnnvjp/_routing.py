"""Which position of a window wins, and the way back to it.

[J] keeps track of the "winning unit": its index is noted during the forward pass and used for
gradient routing during backpropagation ("Pooling Layer"). The index is the winner's place in
its window, counted in row-major order.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnvjp._types import accumulator, unify_varying
from cnnvjp._windows import tiles
from cnnvjp._windows.geometry import Window
from cnnvjp._windows.taps import Tap, place, reduce_taps, row_major, separated, spanned, tap


def strongest(x: jax.Array, window: Window, largest: bool) -> tuple[jax.Array, jax.Array]:
    """The largest (or smallest) entry of each window, and the place where it was first met.

    A NaN beats every number. The padding never wins.

    Returns:
        The entries, and their places in the smallest unsigned dtype that holds them all.
    """
    dtype = np.min_scalar_type(window.taps - 1)
    x, places = unify_varying(x, lax.full_like(x, 0, dtype=dtype))
    earlier_taps = 1
    for part in separated(window):
        x, places = _strongest(x, places, earlier_taps, part, largest)
        earlier_taps *= part.taps
    return x, places


def _strongest(
    x: jax.Array, places: jax.Array, earlier_taps: int, window: Window, largest: bool
) -> tuple[jax.Array, jax.Array]:
    """A running comparison over the taps; `places` says where earlier windows found x."""
    x = spanned(x, window, _weakest(x.dtype, largest))
    places = spanned(places, window, 0)

    def term(m: Tap) -> Any:
        number = jnp.asarray(row_major(window, m) * earlier_taps).astype(places.dtype)
        return tap(x, window, m), tap(places, window, m) + number, _enters(window, m, x.ndim)

    def combine(best: Any, challenger: Any) -> Any:
        entry, where, _ = best
        other_entry, other_where, enters = challenger
        keeps = other_entry <= entry if largest else other_entry >= entry
        wins = ~(keeps | _is_nan(entry))  # nothing is ≤ NaN, and NaN nothing: the first one wins
        if enters is not None:
            wins |= enters  # even −∞ wins against the padding before it
        return (
            jnp.where(wins, other_entry, entry),
            jnp.where(wins, other_where, where),
            enters,
        )

    entry, where, _ = reduce_taps(window, term, combine)
    return entry, where


def route(dy: jax.Array, winner: jax.Array, window: Window) -> jax.Array:
    """Gives every window's dy to its winner, summed in at least float32.

    "The error is just assigned to where it comes from ... all the other assigned values of
    zero" ([J], "Pooling Layer"): dx[i·s + d·m − before] += dy[i] where winner[i] = m.
    """
    dy = dy.astype(accumulator(dy.dtype))
    earlier_taps = window.taps
    for part in reversed(separated(window)):
        earlier_taps //= part.taps
        if earlier_taps == 1:
            dy = _placed(dy, winner, part, lax.add)
        else:  # the windows that an entry won agree on where it was found
            m, earlier_winner = jnp.divmod(winner.astype(jnp.int32), jnp.int32(earlier_taps))
            dy = _placed(dy, m, part, lax.add)
            winner = _placed(earlier_winner, m, part, lax.max)
    return dy


def _placed(
    entries: jax.Array, winner: jax.Array, window: Window, combine: Callable[..., jax.Array]
) -> jax.Array:
    """Every window's entry at its winner's position; those that meet there are combined."""
    if tiles.fit(window):

        def won(m: np.ndarray, winner: jax.Array, entries: jax.Array) -> jax.Array:
            return jnp.where(winner.astype(m.dtype) == m, entries, 0)

        return tiles.combined(window, (winner, entries), won, combine)

    winner = winner.astype(jnp.int32)

    def term(m: Tap) -> jax.Array:
        return place(jnp.where(winner == row_major(window, m), entries, 0), window, m)

    return reduce_taps(window, term, combine)


def share(dy: jax.Array, x: jax.Array, y: jax.Array, window: Window, largest: bool) -> jax.Array:
    """Splits every window's dy equally among all that equal its winner y."""
    wide = accumulator(dy.dtype)
    wins = _winners(x, y, window, largest)
    count = reduce_taps(window, lambda m: wins(m).astype(wide), lax.add)
    portion = dy.astype(wide) / count
    return reduce_taps(window, lambda m: place(jnp.where(wins(m), portion, 0), window, m), lax.add)


def mean_of_winners(x: jax.Array, y: jax.Array, window: Window, largest: bool) -> jax.Array:
    """Leaves y as it is, with the derivative that `share` transposes: the mean over winners.

    What is added is the mean of x − y over the winners, which is zero.
    """
    wide = accumulator(y.dtype)
    wins = _winners(x, y, window, largest)
    x = spanned(x, window, 0)
    finite = jnp.isfinite(y)

    def difference(m: Tap) -> jax.Array:
        return jnp.where(wins(m) & finite, tap(x, window, m) - y, 0).astype(wide)

    count = reduce_taps(window, lambda m: wins(m).astype(wide), lax.add)
    return y + (reduce_taps(window, difference, lax.add) / count).astype(y.dtype)


def _winners(
    x: jax.Array, y: jax.Array, window: Window, largest: bool
) -> Callable[[Tap], jax.Array]:
    """For each tap, whether it equals its window's winner: exactly, or both are NaN."""
    x = spanned(x, window, _weakest(x.dtype, largest))

    def wins(m: Tap) -> jax.Array:
        entry = tap(x, window, m)
        same = (entry == y) | (_is_nan(entry) & _is_nan(y))
        for axis in range(window.ndim):
            start = _along_axis(window.positions(axis)[:, 0], axis, window.ndim, y.ndim)
            position = start + window.dilation[axis] * m[axis]
            same &= (position >= 0) & (position < window.input_size[axis])
        return same

    return wins


def flat_index(winner: jax.Array, window: Window) -> jax.Array:
    """Winners as int32 indices into the unpadded spatial plane, row-major."""
    ndim = window.ndim
    index = jnp.zeros_like(winner, jnp.int32)
    rest = winner.astype(jnp.int32)
    for axis in reversed(range(ndim)):
        rest, m = jnp.divmod(rest, jnp.int32(window.size[axis]))
        start = _along_axis(window.positions(axis)[:, 0], axis, ndim, winner.ndim)
        position = start + m * window.dilation[axis]
        index += position * math.prod(window.input_size[axis + 1 :])
    return index


def _weakest(dtype: Any, largest: bool) -> float | int:
    """The number that beats no other, with which the padding is filled."""
    if jnp.issubdtype(dtype, jnp.floating):
        return -np.inf if largest else np.inf
    info = jnp.iinfo(dtype)
    return int(info.min if largest else info.max)


def _is_nan(x: jax.Array) -> jax.Array:
    return x != x  # for integers too, of which none is


def _enters(window: Window, m: Tap, ndim: int) -> jax.Array | None:
    """Whether tap m is its window's first that stands on the input, not on the padding.

    None if there is no padding.
    """
    if all(edge <= 0 for edges in window.span for edge in edges):
        return None
    result = jnp.bool_(True)
    for axis in range(window.ndim):
        first = window.inside(axis).argmax(axis=1)
        result = result & (_along_axis(first, axis, window.ndim, ndim) == m[axis])
    return result


def _along_axis(entries: np.ndarray, axis: int, window_ndim: int, ndim: int) -> jax.Array:
    """One int per window along a spatial axis, shaped to go with an array of `ndim` axes."""
    shape = [1] * ndim
    shape[ndim - 1 - window_ndim + axis] = len(entries)
    return jnp.asarray(entries.reshape(shape), jnp.int32)
