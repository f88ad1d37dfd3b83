"""Padding: images extended beyond their edges, or cropped."""

import dataclasses
import functools
from typing import get_args

import chex
import jax
import numpy as np
from jax import Array

from cnnvjp._checks.arrays import operands
from cnnvjp._checks.compiled import call
from cnnvjp._checks.options import choice_option
from cnnvjp._types import NumericPadding, PadMode, Pair
from cnnvjp._windows.axes import pad_spatial
from cnnvjp._windows.geometry import Window
from cnnvjp._windows.matrices import SparseMatrix, along_axes, copying, transposes
from cnnvjp._windows.spatial import numeric_padding, occupied_size, spatial_rank, spatial_size

# What a convolution's named padding is filled with.
FILLS: dict[str, PadMode] = {
    "CIRCULAR": "circular",
    "REFLECT": "reflect",
    "SYMMETRIC": "symmetric",
    "EDGE": "edge",
}


def pad(
    x: chex.Array,
    padding: NumericPadding,
    *,
    mode: PadMode = "constant",
    value: float = 0,
    spatial_ndim: int | None = None,
) -> jax.Array:
    """Extends images beyond their edges, or crops them: y[i] = x̃[i − before].

    x̃ is x, and beyond its n pixels along each axis

        "constant"   value
        "reflect"    x̃[−j] = x[j]      and x̃[n−1+j] = x[n−1−j]: mirrored in the edge pixels
        "symmetric"  x̃[−j] = x[j−1]    and x̃[n−1+j] = x[n−j]: mirrored in the image's edges
        "edge"       x̃[−j] = x[0]      and x̃[n−1+j] = x[n−1]
        "circular"   x̃[−j] = x[n−j]    and x̃[n−1+j] = x[j−1]: from the other end

    Gradient: dx is dy without the padding, plus, where pixels were copied, what arrives at
    their copies: the adjoint of copying is summing, as for a shared bias in [H] 8.36.

    Args:
        x: images, (*batch, *spatial, C). Float, integer or complex.
        padding: an int for all sides, D ints, or D pairs (before, after). Negative numbers
            crop. Pixels are copied from x as it was before cropping (PyTorch's circular
            padding crops first).
        mode: "constant", "reflect", "symmetric", "edge" or "circular".
        value: the real number around a "constant" padding.
        spatial_ndim: D, where no option is a sequence; 2 by default.

    Returns:
        (*batch, *spatial, C) with n + before + after pixels along each axis.

    Raises:
        TypeError: if x is not an array of a supported dtype or value is not a number.
        ValueError: for an unknown mode, a padding that leaves no pixel, or one larger than
            n − 1 ("reflect") or n ("symmetric", "circular").

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.array([1, 2, 3]).reshape(3, 1)
        >>> pad(x, [(2, 1)], mode="reflect")[:, 0]
        Array([3, 2, 1, 2, 3, 2], dtype=int32)
        >>> pad(x, [(1, -2)], value=9)[:, 0]
        Array([9, 1], dtype=int32)

    Source: [H] 8.16–8.17; [B], "Backpropagation through 2D Convolution".
    """
    choice_option("mode", mode, get_args(PadMode))
    x, constant = _with_value(x, value)
    ndim = spatial_rank(spatial_ndim, padding=padding)
    pairs = numeric_padding(padding, ndim)
    sized = spatial_size if mode == "constant" else occupied_size  # others copy pixels
    size = sized(x.shape, ndim)
    _check_pairs(pairs, size, mode)
    if mode == "constant":
        return call(_pad_constant, x, constant, pairs)
    if value != 0:
        raise ValueError(f"value: got {value!r} with mode={mode!r}; only 'constant' uses it")
    return call(_pad_copies, x, size, pairs, mode)


def filled(x: Array, window: Window, mode: PadMode) -> tuple[Array, Window]:
    """`x` with the window's padding filled by copies, and the window over it, which has none."""
    _check_pairs(window.padding, window.input_size, mode)
    x = call(_pad_copies, x, window.input_size, window.padding, mode)
    none = ((0, 0),) * window.ndim
    size = x.shape[-1 - window.ndim : -1]
    return x, dataclasses.replace(window, input_size=size, padding=none)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _pad_constant(x, value, pairs):
    return pad_spatial(x, pairs, value)


def _pad_constant_fwd(x, value, pairs):
    return pad_spatial(x, pairs, value), ()


def _pad_constant_bwd(pairs, _, dy):
    # [H] 8.16–8.17 reversed: pixels that were added are dropped. Those that were cropped never
    # reached y, and get 0.
    dx = pad_spatial(dy, [(-before, -after) for before, after in pairs])
    return dx, None  # value is a number, with no gradient


_pad_constant.defvjp(_pad_constant_fwd, _pad_constant_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _pad_copies(x, size, pairs, mode):
    return along_axes(x, _copying_matrices(size, pairs, mode))


def _pad_copies_fwd(x, size, pairs, mode):
    return along_axes(x, _copying_matrices(size, pairs, mode)), ()


def _pad_copies_bwd(size, pairs, mode, _, dy):
    # dx = Aᵀ dy: a pixel collects from all its copies, as a shared bias does in [H] 8.36.
    return (along_axes(dy, transposes(_copying_matrices(size, pairs, mode))),)


_pad_copies.defvjp(_pad_copies_fwd, _pad_copies_bwd)


def _copying_matrices(
    size: tuple[int, ...], pairs: tuple[Pair, ...], mode: PadMode
) -> list[SparseMatrix | None]:
    """A for each axis; None is the identity."""
    return [
        None if pair == (0, 0) else _copying_matrix(n, *pair, mode)
        for n, pair in zip(size, pairs, strict=True)
    ]


@functools.lru_cache(maxsize=256)
def _copying_matrix(n: int, before: int, after: int, mode: PadMode) -> SparseMatrix:
    """Row i has a 1 for the pixel whose copy stands at position i − before."""
    position = np.arange(n + before + after) - before
    if mode == "reflect":
        return copying(n - 1 - np.abs(n - 1 - np.abs(position)), n)
    if mode == "symmetric":
        mirrored = np.maximum(position, -1 - position)
        return copying(np.minimum(mirrored, 2 * n - 1 - mirrored), n)
    if mode == "edge":
        return copying(np.clip(position, 0, n - 1), n)
    return copying(position % n, n)


def _with_value(x: chex.Array, value: object) -> tuple[Array, Array]:
    """`x` and `value` as arrays of x's dtype."""
    number = value.item() if isinstance(value, np.number) else value  # NumPy's as Python's
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise TypeError(f"value: got {type(value).__name__}; it must be a number")
    x, constant = operands(integers=True, complex=True, x=x, value=number)
    return x, constant


def _check_pairs(pairs: tuple[Pair, ...], size: tuple[int, ...], mode: PadMode) -> None:
    for axis, (n, pair) in enumerate(zip(size, pairs, strict=True)):
        largest = {"reflect": n - 1, "symmetric": n, "circular": n}.get(mode)
        if largest is not None and max(pair) > largest:
            raise ValueError(
                f"padding: got {pair} for spatial axis {axis}, which has {n} positions; with "
                f"mode={mode!r} it must be at most {largest} on either side"
            )
        if n + sum(pair) < min(n, 1):
            raise ValueError(
                f"padding: got {pair} for spatial axis {axis}, which has {n} positions; one must "
                "remain"
            )
