"""Convolution of the max-plus and the min-plus algebra: grey-scale dilation and erosion.

Where a convolution multiplies and sums, these add and take the largest or the smallest. As in
`max_pooling`, whose windows have a kernel of zeros, a window's winner is noted on the way forward
and gets all of the gradient; here it is a pair, an entry of x and the kernel's entry beside it.
"""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from cnnvjp._checks.arrays import operands
from cnnvjp._checks.compiled import call
from cnnvjp._checks.pooling import check_indexable, sliding_window
from cnnvjp._types import Padding, PerAxis, accumulator, unify_varying, widened
from cnnvjp._windows.axes import broadcast_to
from cnnvjp._windows.geometry import Window
from cnnvjp._windows.spatial import spatial_size
from cnnvjp._windows.taps import (
    Tap,
    enters_input,
    reduce_taps,
    row_major,
    spanned,
    stack_taps,
    stands_on_input,
    tap,
)
from cnnvjp.max_pooling import is_nan, placed


def max_plus_conv(
    x: chex.Array,
    w: chex.Array,
    *,
    stride: PerAxis = 1,
    padding: Padding = "VALID",
    dilation: PerAxis = 1,
    ceil_mode: bool = False,
) -> jax.Array:
    """Slides a kernel and takes the largest sum, channel by channel: grey-scale dilation.

        y[n, i, c] = max over m of x[n, i·s + d·m − before, c] + w[m, c]

    This is TensorFlow's `dilation2d(x, w)`. As there, and as in `conv`, the kernel is not
    reflected: the dilation of morphology, x ⊕ w, is that with w rotated by 180°. With a kernel
    of zeros it is `max_pool`. Padding never wins; a NaN does.

    Gradients, with m* the winner of the window i in channel c, the first in row-major order:

        dx[n, j, c] = Σ dy[n, i, c] over the windows i with i·s + d·m* − before = j
        dw[m, c] = Σ dy[n, i, c] over the images n and the windows i with m* = m

    Args:
        x: maps, (*batch, *spatial, C), with any number of batch axes. Float or integer.
        w: kernel, (*window, C), of x's dtype. Its rank gives D.
        stride: the step between two windows, an int or D ints; as in `conv` 1 by default.
        padding: "VALID", "SAME" (an odd position after), "SAME_LOWER" (before), "FULL"
            (d·(k−1) on both sides), an int, D ints, or D pairs (before, after); negative
            numbers crop.
        dilation: the distance between two taps, an int or D ints.
        ceil_mode: as in `max_pool`.

    Returns:
        (*batch, *out_spatial, C), of x's dtype. Floats are added and compared in at least
        float32, integers in their own dtype, where sums can wrap.

    Raises:
        TypeError: if the arrays differ in dtype or have none that is supported.
        ValueError: if shapes or options do not fit together, or a window lies wholly in the
            padding.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> x = jnp.array([1.0, 5.0, 4.0, 0.0]).reshape(4, 1)
        >>> w = jnp.array([0.0, 2.0]).reshape(2, 1)
        >>> max_plus_conv(x, w)[:, 0]
        Array([7., 6., 4.], dtype=float32)
        >>> jax.grad(lambda w: max_plus_conv(x, w).sum())(w)[:, 0]
        Array([1., 2.], dtype=float32)

    Source: Ritter and Sussner, "An Introduction to Morphological Neural Networks" (1996);
    Haralick, Sternberg and Zhuang, "Image Analysis Using Mathematical Morphology" (1987).
    """
    return _checked_conv(x, w, stride, padding, dilation, ceil_mode, True)


def min_plus_conv(
    x: chex.Array,
    w: chex.Array,
    *,
    stride: PerAxis = 1,
    padding: Padding = "VALID",
    dilation: PerAxis = 1,
    ceil_mode: bool = False,
) -> jax.Array:
    """Slides a kernel and takes the smallest sum, channel by channel: grey-scale erosion.

        y[n, i, c] = min over m of x[n, i·s + d·m − before, c] + w[m, c]

    Morphology and TensorFlow subtract the kernel: the erosion x ⊖ k is this with w = −k, and
    `erosion2d(x, k)`, which reflects k too, this with w = −k rotated by 180°. With a kernel of
    zeros it is `min_pool`. Padding never wins; a NaN does.

    Gradients: as in `max_plus_conv`, with m* the first of the smallest:

        dx[n, j, c] = Σ dy[n, i, c] over the windows i with i·s + d·m* − before = j
        dw[m, c] = Σ dy[n, i, c] over the images n and the windows i with m* = m

    Args:
        x: maps, (*batch, *spatial, C), with any number of batch axes. Float or integer.
        w: kernel, (*window, C), of x's dtype. Its rank gives D.
        stride: as in `max_plus_conv`, as are the other options.
        padding: as in `max_plus_conv`.
        dilation: as in `max_plus_conv`.
        ceil_mode: as in `max_pool`.

    Returns:
        (*batch, *out_spatial, C), of x's dtype.

    Raises:
        TypeError: if the arrays differ in dtype or have none that is supported.
        ValueError: if shapes or options do not fit together, or a window lies wholly in the
            padding.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.array([3, 1, 4, 1, 5]).reshape(5, 1)
        >>> min_plus_conv(x, jnp.array([0, -2]).reshape(2, 1))[:, 0]
        Array([-1,  1, -1,  1], dtype=int32)

    Source: as of `max_plus_conv`, for −x and −w.
    """
    return _checked_conv(x, w, stride, padding, dilation, ceil_mode, False)


def _checked_conv(
    x: chex.Array,
    w: chex.Array,
    stride: PerAxis,
    padding: Padding,
    dilation: PerAxis,
    ceil_mode: bool,
    largest: bool,
) -> jax.Array:
    x, w = operands(integers=True, x=x, w=w)
    if w.ndim not in (2, 3, 4) or 0 in w.shape[:-1]:
        raise ValueError(
            f"w: got the shape {w.shape}; it must be (*window, C) with 1, 2 or 3 spatial axes, "
            "none of them empty"
        )
    size = w.shape[:-1]
    maps = spatial_size(x.shape, len(size))
    window = sliding_window(
        maps, size, stride, padding, dilation, ceil_mode=ceil_mode, argument="w"
    )
    if x.shape[-1] != w.shape[-1]:
        raise ValueError(f"w: got {w.shape[-1]} channels; it must have those of x, {x.shape[-1]}")
    check_indexable("w", size, "use a smaller kernel")
    return call(_winner_conv, x, w, window, largest)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _winner_conv(x, w, window, largest):
    y, _ = _strongest_sum(x, w, window, largest)
    return y


def _winner_conv_fwd(x, w, window, largest):
    y, winner = _strongest_sum(x, w, window, largest)
    # Computed once: XLA would repeat the comparisons for every tap on the way back.
    y, winner = lax.optimization_barrier((y, winner))
    return y, (winner, w)  # in the smallest unsigned dtype; w for its dtype


def _winner_conv_bwd(window, largest, residuals, dy):
    winner, w = residuals
    wide = dy.astype(accumulator(dy.dtype))
    dx = placed(wide, winner, window, lax.add)  # as max pooling's: [J], "Pooling Layer"
    dw = _by_winner(wide, winner, window)  # ∂(x + w[m*]) / ∂w[m*] = 1
    return dx.astype(dy.dtype), dw.astype(w.dtype)


_winner_conv.defvjp(_winner_conv_fwd, _winner_conv_bwd)


def _strongest_sum(x: Array, w: Array, window: Window, largest: bool) -> tuple[Array, Array]:
    """The largest (or smallest) sum of each window, and the tap where it was first met.

    Returns:
        The sums, and the taps' row-major numbers in the smallest unsigned dtype.
    """
    dtype = np.min_scalar_type(window.taps - 1)
    padded = spanned(widened(x), window, 0)
    kernel = widened(w).reshape(window.taps, w.shape[-1])

    def term(m: Tap) -> Any:
        number = jnp.asarray(row_major(window, m))
        row = lax.dynamic_index_in_dim(kernel, number, keepdims=False)
        seen = tap(padded, window, m)
        total = seen + broadcast_to(row, seen)
        total, first = unify_varying(total, lax.full_like(total, 0, dtype=dtype))
        enters = enters_input(window, m, x.ndim)
        stands = None if enters is None else stands_on_input(window, m, x.ndim)
        return total, first + number.astype(dtype), enters, stands

    def combine(best: Any, challenger: Any) -> Any:
        total, where, _, _ = best
        other_total, other_where, enters, stands = challenger
        keeps = other_total <= total if largest else other_total >= total
        wins = ~(keeps | is_nan(total))  # nothing is ≤ NaN, and NaN nothing: the first one wins
        if enters is not None:
            wins = (wins | enters) & stands  # whatever w adds to the padding
        return (
            jnp.where(wins, other_total, total),
            jnp.where(wins, other_where, where),
            enters,
            stands,
        )

    total, where, _, _ = reduce_taps(window, term, combine)
    return total.astype(x.dtype), where


def _by_winner(dy: Array, winner: Array, window: Window) -> Array:
    """(*batch, *out_spatial, C) -> (*window, C): for each tap the dy of the windows it won."""
    winner = winner.astype(jnp.int32)
    shared = tuple(range(dy.ndim - 1))

    def term(m: Tap) -> Array:
        return jnp.sum(jnp.where(winner == row_major(window, m), dy, 0), shared)

    return stack_taps(window, term).reshape(*window.size, dy.shape[-1])
