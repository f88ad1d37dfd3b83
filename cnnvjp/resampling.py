"""Resampling: what pixels do when they are dropped, spread, repeated or rearranged.

Every operation here moves pixels and computes nothing, so that its gradient moves them back:
downsampling and upsampling are each other's adjoints ([B], "Backpropagation: Resampling"),
repeating a pixel has its copies summed, and a rearrangement is undone.
"""

import functools
import math

import chex
import jax
import jax.numpy as jnp
from jax import Array, lax

from cnnvjp._checks.arrays import operands
from cnnvjp._checks.compiled import call
from cnnvjp._types import PerAxis, widened
from cnnvjp._windows.axes import merge_axes, merge_cells, pad_spatial, split_axis, split_cells
from cnnvjp._windows.spatial import occupied_size, per_axis, spatial_rank, spatial_size

# ------------------------------------------------------------------------------------------
# downsample
# ------------------------------------------------------------------------------------------


def downsample(
    x: chex.Array, factor: PerAxis, *, offset: PerAxis = 0, spatial_ndim: int | None = None
) -> jax.Array:
    """Keeps every factor-th pixel along each axis: y[i] = x[offset + i·factor].

    A convolution with a stride is a convolution without, downsampled by the stride.

    Gradient: dx is dy upsampled to x's size ([B], "Backpropagation through Downsampling").

    Args:
        x: images, (*batch, *spatial, C). Float, integer or complex.
        factor: the step from one kept pixel to the next, an int or D ints.
        offset: the first kept pixel, an int or D ints, less than n.
        spatial_ndim: D, where no option is a sequence; 2 by default.

    Returns:
        (*batch, *out_spatial, C) with ⌈(n − offset) / factor⌉ pixels along each axis.

    Raises:
        TypeError: if x is not an array of a supported dtype.
        ValueError: if shapes or options do not fit together.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> x = jnp.arange(5.0).reshape(5, 1)
        >>> downsample(x, (2,))[:, 0]
        Array([0., 2., 4.], dtype=float32)
        >>> jax.grad(lambda x: downsample(x, (3,)).sum())(x)[:, 0]
        Array([1., 0., 0., 1., 0.], dtype=float32)

    Source: [B], "Backpropagation: Downsampling", z = dSample(x | S).
    """
    (x,) = operands(integers=True, complex=True, x=x)
    ndim = spatial_rank(spatial_ndim, factor=factor, offset=offset)
    factors = per_axis("factor", factor, ndim)
    offsets = per_axis("offset", offset, ndim, minimum=0)
    size = spatial_size(x.shape, ndim)
    if any(first >= max(n, 1) for first, n in zip(offsets, size, strict=True)):
        raise ValueError(f"offset: got {offset!r}; it must be less than the spatial size {size}")
    return call(_downsample, x, factors, offsets, size)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _downsample(x, factor, offset, size):
    return _every(x, factor, offset)


def _downsample_fwd(x, factor, offset, size):
    return _every(x, factor, offset), ()


def _downsample_bwd(factor, offset, size, _, dy):
    return (_interspersed(dy, factor, offset, size),)  # [B], "Backpropagation through Downsampling"


_downsample.defvjp(_downsample_fwd, _downsample_bwd)


def _every(x: Array, factor: tuple[int, ...], offset: tuple[int, ...]) -> Array:
    """dSample: x[..., offset::factor, :]."""
    first = x.ndim - 1 - len(factor)
    start = [0] * first + [*offset, 0]
    step = [1] * first + [*factor, 1]
    return lax.slice(x, start, x.shape, step)


def _interspersed(
    x: Array, factor: tuple[int, ...], offset: tuple[int, ...], size: tuple[int, ...]
) -> Array:
    """uSample: factor − 1 zeros between neighbours, offset zeros before, the rest after."""
    first = x.ndim - 1 - len(factor)
    edges = [
        (before, n - before - max((o - 1) * f + 1, 0), f - 1)
        for o, f, before, n in zip(x.shape[first:-1], factor, offset, size, strict=True)
    ]
    return pad_spatial(x, edges)


# ------------------------------------------------------------------------------------------
# upsample
# ------------------------------------------------------------------------------------------


def upsample(
    x: chex.Array,
    factor: PerAxis,
    *,
    output_size: PerAxis | None = None,
    offset: PerAxis = 0,
    spatial_ndim: int | None = None,
) -> jax.Array:
    """Inserts factor − 1 zeros between neighbouring pixels. It does not interpolate: see `resize`.

        y[offset + i·factor] = x[i],   and 0 elsewhere

    `repeat` copies pixels instead. The adjoint of `downsample`; `downsample` undoes it, but it
    restores the size of what was downsampled only if told: 5 pixels and 6 leave the same 3.

    Gradient: dx is dy downsampled ([B], "Backpropagation through Upsampling").

    Args:
        x: images, (*batch, *spatial, C). Float, integer or complex.
        factor: the step from one pixel of x to the next, an int or D ints.
        output_size: the spatial size of the result, an int or D ints, from
            offset + (n − 1)·factor + 1, the default, to offset + n·factor.
        offset: the place of the first pixel, an int or D ints.
        spatial_ndim: D, where no option is a sequence; 2 by default.

    Returns:
        (*batch, *output_size, C).

    Raises:
        TypeError: if x is not an array of a supported dtype.
        ValueError: if options do not fit together; for an output_size that downsampling
            would not map to x's size, with those that it would.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.array([1.0, 2.0]).reshape(2, 1)
        >>> upsample(x, (3,))[:, 0]
        Array([1., 0., 0., 2.], dtype=float32)
        >>> upsample(x, (2,), output_size=5, offset=1)[:, 0]
        Array([0., 1., 0., 2., 0.], dtype=float32)

    Source: [B], "Backpropagation: Upsampling", z = uSample(x | S).
    """
    (x,) = operands(integers=True, complex=True, x=x)
    ndim = spatial_rank(spatial_ndim, factor=factor, output_size=output_size, offset=offset)
    factors = per_axis("factor", factor, ndim)
    offsets = per_axis("offset", offset, ndim, minimum=0)
    size = occupied_size(x.shape, ndim)
    ranges = [
        range(first + (n - 1) * f + 1, first + n * f + 1)
        for n, f, first in zip(size, factors, offsets, strict=True)
    ]
    chosen = tuple(fitting[0] for fitting in ranges)
    if output_size is not None:
        chosen = per_axis("output_size", output_size, ndim)
    if any(m not in fitting for m, fitting in zip(chosen, ranges, strict=True)):
        fitting = " × ".join(f"{r[0]}…{r[-1]}" if len(r) > 1 else f"{r[0]}" for r in ranges)
        raise ValueError(
            f"output_size: got {chosen}; downsampling by {factors} leads to the size {size} from "
            f"inputs of {fitting}"
        )
    return call(_upsample, x, factors, offsets, chosen)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _upsample(x, factor, offset, size):
    return _interspersed(x, factor, offset, size)


def _upsample_fwd(x, factor, offset, size):
    return _interspersed(x, factor, offset, size), ()


def _upsample_bwd(factor, offset, size, _, dy):
    return (_every(dy, factor, offset),)  # [B], "Backpropagation through Upsampling"


_upsample.defvjp(_upsample_fwd, _upsample_bwd)


# ------------------------------------------------------------------------------------------
# repeat
# ------------------------------------------------------------------------------------------


def repeat(x: chex.Array, factor: PerAxis, *, spatial_ndim: int | None = None) -> jax.Array:
    """Expands every pixel to a block of copies, the ⊠ of [H] P8.3: y[i] = x[⌊i / factor⌋].

    Gradient: dx is the sum of dy over each block, the ⊞ that ⊠ is the transpose of.

    Args:
        x: images, (*batch, *spatial, C). Float, integer or complex.
        factor: the size of the blocks, an int or D ints.
        spatial_ndim: D, where no option is a sequence; 2 by default.

    Returns:
        (*batch, *out_spatial, C) with n·factor pixels along each axis.

    Raises:
        TypeError: if x is not an array of a supported dtype.
        ValueError: if shapes or options do not fit together.

    Example:
        >>> import jax.numpy as jnp
        >>> repeat(jnp.array([[1], [2]]).reshape(2, 1, 1), (1, 3))[..., 0]
        Array([[1, 1, 1],
               [2, 2, 2]], dtype=int32)

    Source: [H] P8.3.
    """
    (x,) = operands(integers=True, complex=True, x=x)
    ndim = spatial_rank(spatial_ndim, factor=factor)
    spatial_size(x.shape, ndim)
    return call(_repeat, x, per_axis("factor", factor, ndim))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _repeat(x, factor):
    return _copied(x, factor)


def _repeat_fwd(x, factor):
    return _copied(x, factor), ()


def _repeat_bwd(factor, _, dy):
    cells = split_cells(widened(dy), factor)  # (..., *spatial, *factor, C)
    dx = jnp.sum(cells, axis=range(-1 - len(factor), -1)).astype(dy.dtype)  # ⊞, [H] 8.22
    return (dx,)


_repeat.defvjp(_repeat_fwd, _repeat_bwd)


def _copied(x: Array, factor: tuple[int, ...]) -> Array:
    """Every pixel (1, …, 1, C) becomes a block (*factor, C)."""
    ndim = len(factor)
    pixels = jnp.expand_dims(x, tuple(range(x.ndim - 1, x.ndim - 1 + ndim)))
    cells = jnp.broadcast_to(pixels, (*x.shape[:-1], *factor, x.shape[-1]))
    return merge_cells(cells, ndim)


# ------------------------------------------------------------------------------------------
# pixel_shuffle, pixel_unshuffle
# ------------------------------------------------------------------------------------------


def pixel_shuffle(x: chex.Array, factor: PerAxis, *, spatial_ndim: int | None = None) -> jax.Array:
    """Turns channels into pixels: each pixel's channels become a block of pixels.

        y[i·r + j, c] = x[i, c·r + j]   on one axis; on two, channel c·r² + j₁·r + j₂

    Gradient: dx is dy rearranged back (`pixel_unshuffle`).

    Args:
        x: images, (*batch, *spatial, C·r₁⋯r_D). Float, integer or complex. The channels are in
            PyTorch's order: those of one output channel are neighbours.
        factor: r, the size of the blocks, an int or D ints.
        spatial_ndim: D, where no option is a sequence; 2 by default.

    Returns:
        (*batch, *out_spatial, C) with n·r pixels along each axis.

    Raises:
        TypeError: if x is not an array of a supported dtype.
        ValueError: if the channels do not fill the blocks.

    Example:
        >>> import jax.numpy as jnp
        >>> pixel_shuffle(jnp.arange(8).reshape(1, 1, 8), 2)[..., 0]
        Array([[0, 1],
               [2, 3]], dtype=int32)

    Source: Shi et al. 2016 (arXiv:1609.05158), equation 4; [B] on what resampling moves.
    """
    (x,) = operands(integers=True, complex=True, x=x)
    ndim = spatial_rank(spatial_ndim, factor=factor)
    factors = per_axis("factor", factor, ndim)
    spatial_size(x.shape, ndim)
    if x.shape[-1] % math.prod(factors):
        raise ValueError(
            f"factor: got {factor!r} for {x.shape[-1]} channels, which must be a multiple of "
            f"{math.prod(factors)}, the pixels of a block"
        )
    return call(_pixel_shuffle, x, factors)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _pixel_shuffle(x, factor):
    return _channels_to_pixels(x, factor)


def _pixel_shuffle_fwd(x, factor):
    return _channels_to_pixels(x, factor), ()


def _pixel_shuffle_bwd(factor, _, dy):
    return (_pixels_to_channels(dy, factor),)  # a rearrangement's adjoint is its inverse


_pixel_shuffle.defvjp(_pixel_shuffle_fwd, _pixel_shuffle_bwd)


def pixel_unshuffle(
    x: chex.Array, factor: PerAxis, *, spatial_ndim: int | None = None
) -> jax.Array:
    """Turns pixels into channels, the inverse and the adjoint of `pixel_shuffle`.

        y[i, c·r + j] = x[i·r + j, c]   on one axis; on two, channel c·r² + j₁·r + j₂

    Gradient: dx is dy rearranged back (`pixel_shuffle`).

    Args:
        x: images, (*batch, *spatial, C), whose size the factor divides. Float, integer or complex.
        factor: r, the size of the blocks, an int or D ints.
        spatial_ndim: D, where no option is a sequence; 2 by default.

    Returns:
        (*batch, *out_spatial, C·r₁⋯r_D) with n / r pixels along each axis.

    Raises:
        TypeError: if x is not an array of a supported dtype.
        ValueError: if the factor does not divide the spatial size.

    Example:
        >>> import jax.numpy as jnp
        >>> pixel_unshuffle(jnp.arange(4).reshape(2, 2, 1), 2)
        Array([[[0, 1, 2, 3]]], dtype=int32)

    Source: Shi et al. 2016 (arXiv:1609.05158), equation 4; [B] on what resampling moves.
    """
    (x,) = operands(integers=True, complex=True, x=x)
    ndim = spatial_rank(spatial_ndim, factor=factor)
    factors = per_axis("factor", factor, ndim)
    size = spatial_size(x.shape, ndim)
    if any(n % r for n, r in zip(size, factors, strict=True)):
        raise ValueError(f"factor: got {factor!r}, which must divide the spatial size {size}")
    return call(_pixel_unshuffle, x, factors)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _pixel_unshuffle(x, factor):
    return _pixels_to_channels(x, factor)


def _pixel_unshuffle_fwd(x, factor):
    return _pixels_to_channels(x, factor), ()


def _pixel_unshuffle_bwd(factor, _, dy):
    return (_channels_to_pixels(dy, factor),)  # and the inverse's the rearrangement


_pixel_unshuffle.defvjp(_pixel_unshuffle_fwd, _pixel_unshuffle_bwd)


def _channels_to_pixels(x: Array, factor: tuple[int, ...]) -> Array:
    channels = x.ndim - 1
    cells = split_axis(x, channels, (x.shape[-1] // math.prod(factor), *factor))
    return merge_cells(jnp.moveaxis(cells, channels, -1), len(factor))


def _pixels_to_channels(x: Array, factor: tuple[int, ...]) -> Array:
    cells = split_cells(x, factor)  # (..., *spatial, *factor, C)
    channels = x.ndim - 1
    return merge_axes(jnp.moveaxis(cells, -1, channels), channels, 1 + len(factor))
