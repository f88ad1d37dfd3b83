"""Pooling by a winner: the largest or the smallest entry of each window, and the way back to it.

[J] keeps track of the "winning unit": its index is noted during the forward pass and used for
gradient routing during backpropagation ("Pooling Layer"). The index is the winner's place in its
window, counted in row-major order. What sums its window instead is in `sum_pooling`.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, get_args, overload

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from cnnvjp import _lowering as lowering
from cnnvjp._checks.arrays import operands
from cnnvjp._checks.compiled import call
from cnnvjp._checks.options import choice_option, flag_option
from cnnvjp._checks.pooling import check_indexable, pooling_window
from cnnvjp._types import Padding, PerAxis, Ties, accumulator, unify_varying
from cnnvjp._windows import tiles
from cnnvjp._windows.geometry import Window
from cnnvjp._windows.taps import (
    Tap,
    along_axis,
    enters_input,
    place,
    reduce_taps,
    row_major,
    separated,
    spanned,
    stands_on_input,
    tap,
)

# ------------------------------------------------------------------------------------------
# max_pool, min_pool
# ------------------------------------------------------------------------------------------


@overload
def max_pool(
    x: chex.Array,
    window: PerAxis,
    *,
    stride: PerAxis | None = None,
    padding: Padding = "VALID",
    dilation: PerAxis = 1,
    ceil_mode: bool = False,
    ties: Ties = "first",
    return_argmax: Literal[False] = False,
    spatial_ndim: int | None = None,
) -> jax.Array: ...


@overload
def max_pool(
    x: chex.Array,
    window: PerAxis,
    *,
    stride: PerAxis | None = None,
    padding: Padding = "VALID",
    dilation: PerAxis = 1,
    ceil_mode: bool = False,
    ties: Ties = "first",
    return_argmax: Literal[True],
    spatial_ndim: int | None = None,
) -> tuple[jax.Array, jax.Array]: ...


def max_pool(
    x: chex.Array,
    window: PerAxis,
    *,
    stride: PerAxis | None = None,
    padding: Padding = "VALID",
    dilation: PerAxis = 1,
    ceil_mode: bool = False,
    ties: Ties = "first",
    return_argmax: bool = False,
    spatial_ndim: int | None = None,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """Takes the largest entry of each window, channel by channel.

        y[n, i, c] = max over m of x[n, i·s + d·m − before, c]

    Padding never wins, not even against −∞ or an integer dtype's smallest number. A NaN in
    the window wins.

    Gradient ([J], "Pooling Layer"; [B], "Backpropagation: Max-Pooling"; [H] E8.8):

        dx[n, j, c] = Σ dy[n, i, c] over the windows i that the entry at j won

    Args:
        x: maps, (*batch, *spatial, C), with any number of batch axes. Float or integer.
        window: the window's size, an int or D ints.
        stride: the step between two windows, an int or D ints; None sets them side by side,
            `stride=window`. Flax's default is 1.
        padding: "VALID", "SAME" (an odd position after), "SAME_LOWER" (before), "FULL"
            (d·(k−1) on both sides), an int, D ints, or D pairs (before, after); negative
            numbers crop.
        dilation: the distance between two taps of the window, an int or D ints.
        ceil_mode: adds a last window where the stride leaves a remainder, provided that it
            starts on the input or the padding before it, as in PyTorch.
        ties: who gets the gradient where several entries of a window are largest: "first"
            in row-major order, or all in equal shares, "split". If the window holds NaNs,
            the first NaN gets it, or all NaNs share it.
        return_argmax: returns the winner's position too.
        spatial_ndim: D, where no option is a sequence; 2 by default.

    Returns:
        y, (*batch, *out_spatial, C); with `return_argmax` the pair (y, argmax), where argmax
        is int32, of y's shape, and holds the row-major index of the first winner in the
        unpadded spatial plane of its example and channel, as in PyTorch and ONNX.

    Raises:
        TypeError: if x is not an array of a supported dtype.
        ValueError: if shapes or options do not fit together, or a window lies wholly in the
            padding.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> x = jnp.array([[1.0, 5.0, 2.0, 0.0], [3.0, 4.0, 7.0, 7.0]])[..., None]
        >>> y, argmax = max_pool(x, 2, return_argmax=True)
        >>> y[..., 0], argmax[..., 0]
        (Array([[5., 7.]], dtype=float32), Array([[1, 6]], dtype=int32))
        >>> jax.grad(lambda x: max_pool(x, 2).sum())(x)[..., 0]
        Array([[0., 1., 0., 0.],
               [0., 0., 1., 0.]], dtype=float32)

    Source: [H] 8.24, E8.8; [J], "Pooling Layer"; [B], "Backpropagation: Max-Pooling".
    """
    (x,) = operands(integers=True, x=x)
    placed = pooling_window(
        x, window, stride, padding, dilation, ceil_mode=ceil_mode, spatial_ndim=spatial_ndim
    )
    return _checked_pool(x, placed, True, ties, return_argmax)


@overload
def min_pool(
    x: chex.Array,
    window: PerAxis,
    *,
    stride: PerAxis | None = None,
    padding: Padding = "VALID",
    dilation: PerAxis = 1,
    ceil_mode: bool = False,
    ties: Ties = "first",
    return_argmax: Literal[False] = False,
    spatial_ndim: int | None = None,
) -> jax.Array: ...


@overload
def min_pool(
    x: chex.Array,
    window: PerAxis,
    *,
    stride: PerAxis | None = None,
    padding: Padding = "VALID",
    dilation: PerAxis = 1,
    ceil_mode: bool = False,
    ties: Ties = "first",
    return_argmax: Literal[True],
    spatial_ndim: int | None = None,
) -> tuple[jax.Array, jax.Array]: ...


def min_pool(
    x: chex.Array,
    window: PerAxis,
    *,
    stride: PerAxis | None = None,
    padding: Padding = "VALID",
    dilation: PerAxis = 1,
    ceil_mode: bool = False,
    ties: Ties = "first",
    return_argmax: bool = False,
    spatial_ndim: int | None = None,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """Takes the smallest entry of each window, channel by channel.

        y[n, i, c] = min over m of x[n, i·s + d·m − before, c]

    Padding never wins, not even against +∞ or an integer dtype's largest number. A NaN in
    the window wins.

    Gradient, as that of `max_pool`:

        dx[n, j, c] = Σ dy[n, i, c] over the windows i that the entry at j won

    Args:
        x: maps, (*batch, *spatial, C), with any number of batch axes. Float or integer.
        window: the window's size, an int or D ints.
        stride: as in `max_pool`: None is `stride=window`. Flax's default is 1.
        padding: as in `max_pool`.
        dilation: as in `max_pool`.
        ceil_mode: as in `max_pool`.
        ties: as in `max_pool`, for the smallest entries.
        return_argmax: returns the winner's position too.
        spatial_ndim: D, where no option is a sequence; 2 by default.

    Returns:
        y, (*batch, *out_spatial, C); with `return_argmax` the pair (y, argmax), where argmax
        is the position of the winner, the smallest entry, as in `max_pool`.

    Raises:
        TypeError: if x is not an array of a supported dtype.
        ValueError: if shapes or options do not fit together, or a window lies wholly in the
            padding.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.array([3, 1, 4, 1, 5, 9]).reshape(6, 1)
        >>> min_pool(x, (3,))[:, 0]
        Array([1, 1], dtype=int32)

    Source: [H] 8.24, E8.8 for −x.
    """
    (x,) = operands(integers=True, x=x)
    placed = pooling_window(
        x, window, stride, padding, dilation, ceil_mode=ceil_mode, spatial_ndim=spatial_ndim
    )
    return _checked_pool(x, placed, False, ties, return_argmax)


def _checked_pool(
    x: Array, window: Window, largest: bool, ties: Ties, return_argmax: bool
) -> Array | tuple[Array, Array]:
    choice_option("ties", ties, get_args(Ties))
    return_argmax = flag_option("return_argmax", return_argmax)
    if return_argmax:
        check_indexable("return_argmax", window.input_size, "pool parts of x, or without it")
    check_indexable("window", window.size, "pool along one axis after another")
    return call(_winner_pool, x, window, largest, ties, return_argmax)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _winner_pool(x, window, largest, ties, return_argmax):
    y, winner = _strongest(x, window, largest)
    return _outputs(y, winner, window, return_argmax)


def _outputs(
    y: Array, winner: Array, window: Window, return_argmax: bool
) -> Array | tuple[Array, Array]:
    return (y, _flat_index(winner, window)) if return_argmax else y


def _winner_pool_fwd(x, window, largest, ties, return_argmax):
    y, winner = _strongest(x, window, largest)
    if ties == "split":
        y = _mean_of_winners(x, y, window, largest)
        return _outputs(y, winner, window, return_argmax), (x, y)
    # Computed once: XLA would repeat the comparisons for every tap on the way back.
    y, winner = lax.optimization_barrier((y, winner))
    return _outputs(y, winner, window, return_argmax), (winner,)  # in the smallest unsigned dtype


def _winner_pool_bwd(window, largest, ties, return_argmax, residuals, dy):
    if return_argmax:
        dy, _ = dy  # an index has no cotangent
    if ties == "split":
        x, y = residuals
        dx = _share(dy, x, y, window, largest)  # dy / k for each of k equal winners
    else:
        (winner,) = residuals
        dx = _route(dy, winner, window)  # [J], "Pooling Layer"; [B], "Max-Pooling"; [H] E8.8
    return (dx.astype(dy.dtype),)


_winner_pool.defvjp(_winner_pool_fwd, _winner_pool_bwd)


# ------------------------------------------------------------------------------------------
# Forward: the winner, and where it stands in its window
# ------------------------------------------------------------------------------------------


def _strongest(x: Array, window: Window, largest: bool) -> tuple[Array, Array]:
    """The largest (or smallest) entry of each window, and the place where it was first met.

    A NaN beats every number. The padding never wins.

    Returns:
        The entries, and their places in the smallest unsigned dtype that holds them all.
    """
    find = functools.partial(_strongest_of_parts, largest=largest)
    return lowering.in_parts(find, x, window)


def _strongest_of_parts(x: Array, parts: tuple[Window, ...], largest: bool) -> tuple[Array, Array]:
    """The same in windows that see as much as one, each in what the one before it found."""
    dtype = np.min_scalar_type(math.prod(part.taps for part in parts) - 1)
    x, winner = unify_varying(x, lax.full_like(x, 0, dtype=dtype))
    earlier_taps = 1
    for part in parts:
        x, winner = _strongest_of_taps(x, winner, earlier_taps, part, largest)
        earlier_taps *= part.taps
    return x, winner


def _strongest_of_taps(
    x: Array, winner: Array, earlier_taps: int, window: Window, largest: bool
) -> tuple[Array, Array]:
    """A running comparison over the taps; `winner` says where earlier windows found x."""
    x = spanned(x, window, _weakest(x.dtype, largest))
    winner = spanned(winner, window, 0)

    def term(m: Tap) -> Any:
        number = jnp.asarray(row_major(window, m) * earlier_taps).astype(winner.dtype)
        return tap(x, window, m), tap(winner, window, m) + number, enters_input(window, m, x.ndim)

    def combine(best: Any, challenger: Any) -> Any:
        entry, where, _ = best
        other_entry, other_where, enters = challenger
        keeps = other_entry <= entry if largest else other_entry >= entry
        wins = ~(keeps | is_nan(entry))  # nothing is ≤ NaN, and NaN nothing: the first one wins
        if enters is not None:
            wins |= enters  # even −∞ wins against the padding before it
        return (
            jnp.where(wins, other_entry, entry),
            jnp.where(wins, other_where, where),
            enters,
        )

    entry, where, _ = reduce_taps(window, term, combine)
    return entry, where


def _flat_index(winner: Array, window: Window) -> Array:
    """Winners as int32 indices into the unpadded spatial plane, row-major."""
    ndim = window.ndim
    index = jnp.zeros_like(winner, jnp.int32)
    rest = winner.astype(jnp.int32)
    for axis in reversed(range(ndim)):
        rest, m = jnp.divmod(rest, jnp.int32(window.size[axis]))
        start = along_axis(window.positions(axis)[:, 0], axis, window, winner.ndim)
        position = start + m * window.dilation[axis]
        index += position * math.prod(window.input_size[axis + 1 :])
    return index


def _weakest(dtype: Any, largest: bool) -> float | int:
    """The number that beats no other, with which the padding is filled."""
    if jnp.issubdtype(dtype, jnp.floating):
        return -np.inf if largest else np.inf
    info = jnp.iinfo(dtype)
    return int(info.min if largest else info.max)


def is_nan(x: Array) -> Array:
    """Which entries are NaN; of integers none is."""
    return x != x


# ------------------------------------------------------------------------------------------
# Backward: the way to it
# ------------------------------------------------------------------------------------------

# Taps, up to which the way back is not taken apart. Both ways, 5×5 of 512 maps of 16×14×14: 7.6 ms;
# along one axis after the other 14. 7×7 of 256 of 8×20×20: 7.3 and 8.7.
_TOGETHER = 64


def _route(dy: Array, winner: Array, window: Window) -> Array:
    """Gives every window's dy to its winner, summed in at least float32.

    "The error is just assigned to where it comes from ... all the other assigned values of
    zero" ([J], "Pooling Layer"): dx[i·s + d·m − before] += dy[i] where winner[i] = m.
    """
    dy = dy.astype(accumulator(dy.dtype))
    earlier_taps = window.taps
    for part in reversed(separated(window, _TOGETHER)):
        earlier_taps //= part.taps
        if earlier_taps == 1:
            dy = placed(dy, winner, part, lax.add)
        else:  # the windows that an entry won agree on where it was found
            m, earlier_winner = jnp.divmod(winner.astype(jnp.int32), jnp.int32(earlier_taps))
            dy = placed(dy, m, part, lax.add)
            winner = placed(earlier_winner, m, part, lax.max)
    return dy


def placed(entries: Array, winner: Array, window: Window, combine: Callable[..., Array]) -> Array:
    """Every window's entry at its winner's position; those that meet there are combined."""
    if tiles.fit(window):

        def won(m: np.ndarray, winner: Array, entries: Array) -> Array:
            return jnp.where(winner.astype(m.dtype) == m, entries, 0)

        return tiles.combined(window, (winner, entries), won, combine)

    winner = winner.astype(jnp.int32)

    def term(m: Tap) -> Array:
        return place(jnp.where(winner == row_major(window, m), entries, 0), window, m)

    return reduce_taps(window, term, combine)


def _share(dy: Array, x: Array, y: Array, window: Window, largest: bool) -> Array:
    """Splits every window's dy equally among all that equal its winner y."""
    wide = accumulator(dy.dtype)
    wins = _winners(x, y, window, largest)
    count = reduce_taps(window, lambda m: wins(m).astype(wide), lax.add)
    portion = dy.astype(wide) / count
    return reduce_taps(window, lambda m: place(jnp.where(wins(m), portion, 0), window, m), lax.add)


def _mean_of_winners(x: Array, y: Array, window: Window, largest: bool) -> Array:
    """Leaves y as it is, with the derivative that `_share` transposes: the mean over winners.

    What is added is the mean of x − y over the winners, which is zero.
    """
    wide = accumulator(y.dtype)
    wins = _winners(x, y, window, largest)
    x = spanned(x, window, 0)
    finite = jnp.isfinite(y)

    def difference(m: Tap) -> Array:
        return jnp.where(wins(m) & finite, tap(x, window, m) - y, 0).astype(wide)

    count = reduce_taps(window, lambda m: wins(m).astype(wide), lax.add)
    return y + (reduce_taps(window, difference, lax.add) / count).astype(y.dtype)


def _winners(x: Array, y: Array, window: Window, largest: bool) -> Callable[[Tap], Array]:
    """For each tap, whether it equals its window's winner: exactly, or both are NaN."""
    x = spanned(x, window, _weakest(x.dtype, largest))

    def wins(m: Tap) -> Array:
        entry = tap(x, window, m)
        same = (entry == y) | (is_nan(entry) & is_nan(y))
        return same & stands_on_input(window, m, y.ndim)

    return wins
