"""Pooling by a winner: the largest or the smallest of each window, and the way back.

The forward pass notes which position of the window won, and the backward pass routes the
gradient there and nowhere else ([J], "Pooling Layer"; [B], "Backpropagation: Max-Pooling";
[H] E8.8). What sums its window instead is in `sum_pooling`.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from cnnvjp._checks.arrays import integer_operand, operands
from cnnvjp._checks.compiled import call
from cnnvjp._checks.options import choice_option, flag_option
from cnnvjp._checks.pooling import check_indexable, pooling_window
from cnnvjp._routing import flat_index, mean_of_winners, route, share, strongest
from cnnvjp._types import Padding, PerAxis, accumulator, unify_varying
from cnnvjp._windows.geometry import Window
from cnnvjp._windows.spatial import occupied_size, per_axis, spatial_rank

# ------------------------------------------------------------------------------------------
# max_pool, min_pool
# ------------------------------------------------------------------------------------------


def max_pool(
    x: jax.Array,
    window: PerAxis,
    *,
    stride: PerAxis | None = None,
    padding: Padding = "VALID",
    dilation: PerAxis = 1,
    ceil_mode: bool = False,
    ties: str = "first",
    return_argmax: bool = False,
    spatial_ndim: int | None = None,
) -> Any:
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


def min_pool(
    x: jax.Array,
    window: PerAxis,
    *,
    stride: PerAxis | None = None,
    padding: Padding = "VALID",
    dilation: PerAxis = 1,
    ceil_mode: bool = False,
    ties: str = "first",
    return_argmax: bool = False,
    spatial_ndim: int | None = None,
) -> Any:
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
    x: jax.Array, window: Window, largest: bool, ties: str, return_argmax: bool
) -> Any:
    ties = choice_option("ties", ties, ("first", "split"))
    return_argmax = flag_option("return_argmax", return_argmax)
    if return_argmax:
        check_indexable("return_argmax", window.input_size, "pool parts of x, or without it")
    check_indexable("window", window.size, "pool along one axis after another")
    return call(_winner_pool, x, window, largest, ties, return_argmax)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _winner_pool(
    x: jax.Array, window: Window, largest: bool, ties: str, return_argmax: bool
) -> Any:
    y, winner = strongest(x, window, largest)
    return (y, flat_index(winner, window)) if return_argmax else y


def _winner_pool_fwd(
    x: jax.Array, window: Window, largest: bool, ties: str, return_argmax: bool
) -> Any:
    y, winner = strongest(x, window, largest)
    if ties == "split":
        y = mean_of_winners(x, y, window, largest)
        residuals: tuple[jax.Array, ...] = (x, y)
    else:
        # Computed once: XLA would repeat the comparisons for every tap on the way back.
        y, winner = lax.optimization_barrier((y, winner))
        residuals = (winner,)  # the place in the window, in the smallest unsigned dtype
    return ((y, flat_index(winner, window)) if return_argmax else y), residuals


def _winner_pool_bwd(
    window: Window, largest: bool, ties: str, return_argmax: bool, residuals: Any, dy: Any
) -> Any:
    if return_argmax:
        dy, _ = dy  # an index has no cotangent
    if ties == "split":
        x, y = residuals
        dx = share(dy, x, y, window, largest)
    else:
        (winner,) = residuals
        dx = route(dy, winner, window)  # [J], "Pooling Layer"; [B], "Max-Pooling"; [H] E8.8
    return (dx.astype(dy.dtype),)


_winner_pool.defvjp(_winner_pool_fwd, _winner_pool_bwd)


# ------------------------------------------------------------------------------------------
# max_unpool
# ------------------------------------------------------------------------------------------


def max_unpool(
    y: jax.Array,
    argmax: jax.Array,
    *,
    output_size: PerAxis,
    spatial_ndim: int | None = None,
) -> jax.Array:
    """Puts pooled values back where they came from, zeros elsewhere.

        x[n, j, c] = Σ y[n, i, c] over the windows i with argmax[n, i, c] = j

    where j counts the positions of the plane in row-major order. Values that share a place
    are added: the operation is the adjoint of gathering, and the way that `max_pool` sends a
    gradient back. PyTorch keeps one of them. An index outside of the plane is dropped.

    Gradient:

        dy[n, i, c] = dx[n, argmax[n, i, c], c], and 0 where the index was dropped

    Args:
        y: pooled maps, (*batch, *out_spatial, C). Float or integer.
        argmax: of y's shape, integers, as `max_pool` with `return_argmax` returns it.
        output_size: the spatial size of what was pooled, an int or D ints: the pooled maps do
            not tell it, and indices into a plane of another size mean other pixels.
        spatial_ndim: D, where `output_size` is an int; 2 by default.

    Returns:
        (*batch, *output_size, C).

    Raises:
        TypeError: if y is not an array of a supported dtype, or argmax not one of integers.
        ValueError: if shapes or options do not fit together.

    Example:
        >>> import jax.numpy as jnp
        >>> y, argmax = max_pool(jnp.array([[3.0], [1.0], [2.0], [4.0]]), (2,), return_argmax=True)
        >>> max_unpool(y, argmax, output_size=(4,))[:, 0]
        Array([3., 0., 0., 4.], dtype=float32)

    Source: [B], "Backpropagation: Max-Pooling", as an operation of its own.
    """
    (y,) = operands(integers=True, y=y)
    argmax = integer_operand("argmax", argmax)
    ndim = spatial_rank(spatial_ndim, output_size=output_size)
    occupied_size(y.shape, ndim, argument="y")
    if argmax.shape != y.shape:
        raise ValueError(f"argmax: got the shape {argmax.shape}; it must be that of y, {y.shape}")
    size = per_axis("output_size", output_size, ndim)
    check_indexable("output_size", size, "unpool parts of y")
    y, argmax = unify_varying(y, argmax)
    return call(_max_unpool, y, argmax, size)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _max_unpool(y: jax.Array, argmax: jax.Array, size: tuple[int, ...]) -> jax.Array:
    return _scatter_sum(y, argmax, size)


def _max_unpool_fwd(y: jax.Array, argmax: jax.Array, size: tuple[int, ...]) -> Any:
    return _scatter_sum(y, argmax, size), argmax


def _max_unpool_bwd(size: tuple[int, ...], argmax: jax.Array, dx: jax.Array) -> Any:
    return _gather(dx, argmax, size), None  # ⟨scatter(y), dx⟩ = ⟨y, gather(dx)⟩


_max_unpool.defvjp(_max_unpool_fwd, _max_unpool_bwd)


def _scatter_sum(y: jax.Array, argmax: jax.Array, size: tuple[int, ...]) -> jax.Array:
    positions = math.prod(size)

    def one_map(y: jax.Array, index: jax.Array) -> jax.Array:
        plane = jnp.zeros(positions, accumulator(y.dtype))
        return plane.at[index].add(y.astype(plane.dtype), mode="drop")

    scatter = jax.vmap(one_map, in_axes=-1, out_axes=-1)
    *batch, channels = _flat_shape(y, size)
    for _ in batch[:-1]:
        scatter = jax.vmap(scatter)
    x = scatter(y.reshape(*batch, channels), _flat_index(argmax, size))
    return x.reshape(*batch[:-1], *size, channels).astype(y.dtype)


def _gather(dx: jax.Array, argmax: jax.Array, size: tuple[int, ...]) -> jax.Array:
    *batch, _, channels = _flat_shape(argmax, size)
    plane = dx.reshape(*batch, math.prod(size), channels)
    index = _flat_index(argmax, size)
    dy = jnp.take_along_axis(plane, index, axis=-2, mode="fill", fill_value=0)
    return dy.reshape(argmax.shape)


def _flat_shape(y: jax.Array, size: tuple[int, ...]) -> tuple[int, ...]:
    """(*batch, *out_spatial, C) -> (*batch, the product of out_spatial, C)."""
    split = y.ndim - 1 - len(size)
    return *y.shape[:split], math.prod(y.shape[split:-1]), y.shape[-1]


def _flat_index(argmax: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """The indices of each plane on one axis, the negative ones moved beyond its end."""
    index = argmax.astype(jnp.int64 if argmax.dtype.itemsize == 8 else jnp.int32)
    index = jnp.where(index < 0, math.prod(size), index)  # jnp would count from the end
    return index.reshape(_flat_shape(argmax, size))
