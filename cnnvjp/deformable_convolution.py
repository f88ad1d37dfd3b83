"""Deformable convolution: every tap of the kernel stands where an offset moves it.

What the kernel sees is read first, between the pixels where it must be, and then multiplied:

    patches[i, m, c] = x(i·s − before + d·m + offsets[i, m], c) · mask[i, m]     [Dai] 3, [Zhu] 1
    y[i, o] = Σ over m, c of patches[i, m, c] · w[m, c, o]                        [Dai] 2

[Dai] Dai et al., *Deformable Convolutional Networks* (2017); [Zhu] Zhu et al., *Deformable ConvNets
v2: More Deformable, Better Results* (2019).
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cnnvjp import _lowering as lowering
from cnnvjp._checks.arrays import operands
from cnnvjp._checks.compiled import call
from cnnvjp._checks.convolution import (
    check_bias,
    check_channels,
    check_groups,
    forward_window,
    kernel_ndim,
    on_one_batch_axis,
)
from cnnvjp._checks.sampling import divided_over_the_batch, sampling_operands
from cnnvjp._types import (
    ArrayType,
    Padding,
    PerAxis,
    accumulator,
    summed_type,
    unify_varying,
    widened,
)
from cnnvjp._windows.axes import merge_axes, split_axis
from cnnvjp._windows.geometry import Window
from cnnvjp.affine import bias_added


def deform_conv(
    x: chex.Array,
    w: chex.Array,
    offsets: chex.Array,
    b: chex.Array | None = None,
    *,
    mask: chex.Array | None = None,
    stride: PerAxis = 1,
    padding: Padding = "VALID",
    dilation: PerAxis = 1,
    groups: int = 1,
) -> jax.Array:
    """Convolves images with a kernel whose taps are moved by offsets.

        y[n, i, o] = Σ over m, c of x(n, p, c) · mask[n, i, m] · w[m, c, o]  (+ b[o])
        p          = i·s + d·m − before + offsets[n, i, m]

    where x(n, p, c) is x interpolated linearly along each axis, with zeros outside of the image.
    The channels fall into G offset groups, each with its own offsets and mask. With offsets of 0
    and no mask it is `conv`.

    Gradients, with patches[n, i, m, c] for x(n, p, c) · mask[n, i, m], which w is multiplied by:

        dpatches = dy wᵀ,    dw = patchesᵀ dy,    db = Σ dy
        dx       = dpatches · mask, each spread to the pixels around its p
        doffsets = Σ over c of dpatches · mask · ∂x(n, p, c)/∂p, at whole numbers to the right
        dmask    = Σ over c of dpatches · x(n, p, c)

    Patches are as many times the size of x as the kernel has taps. They are made in each pass
    anew, and not kept between the two.

    torchvision's `deform_conv2d` is the same with its channels second, where (row, column) of the
    offsets are the fastest among them and the kernel's taps follow:

        offsets = offset.reshape(N, G, kh, kw, 2, H, W).transpose(0, 5, 6, 1, 2, 3, 4)
        mask = mask.reshape(N, G, kh, kw, H, W).transpose(0, 4, 5, 1, 2, 3)

    Args:
        x: images, (*batch, *spatial, C_in), with any number of batch axes. Float.
        w: kernel, (*kernel, C_in // groups, C_out), of x's dtype. Its rank gives D, 1 to 3.
        offsets: in pixels, (*batch, *out_spatial, G, *kernel, D), the last axis in the order of
            the spatial axes. G divides C_in. Of x's dtype; of float32 or x's if x has 16 bits. A
            tap whose offset is NaN reads 0.
        b: bias, tied (C_out,) or untied (*out_spatial, C_out), of x's dtype.
        mask: a factor for each tap, (*batch, *out_spatial, G, *kernel), of x's dtype, or None.
        stride: the step between two outputs, an int or D ints.
        padding: as in `conv`. It decides where the kernel stands; whatever it is, taps between
            the outermost pixels and one pixel beyond them fade to 0.
        dilation: the distance between two taps before they are moved, an int or D ints.
        groups: how many groups the channels fall into; as in `conv`, and independent of G.

    Returns:
        (*batch, *out_spatial, C_out), with `conv`'s out_spatial. A NaN or infinity in x reaches
        all taps that are less than a pixel from it or beside it, with the weight 0 too.

    Raises:
        TypeError: if the arrays differ in dtype or are not floating.
        ValueError: if shapes or options do not fit together.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.array([0.0, 10.0, 20.0, 30.0]).reshape(4, 1)
        >>> offsets = jnp.array([0.0, 0.5, -1.0, 0.75]).reshape(4, 1, 1, 1)
        >>> deform_conv(x, jnp.ones((1, 1, 1)), offsets)[:, 0]
        Array([ 0. , 15. , 10. ,  7.5], dtype=float32)

    Source: [Dai] 2–4 and 7; [Zhu] 1, the mask.
    """
    optional: dict[str, Any] = {"mask": mask, "b": b}
    given = {name: array for name, array in optional.items() if array is not None}
    x, w, *others = operands(x=x, w=w, **given)
    x, offsets = sampling_operands(x, offsets=offsets)
    x, w, offsets, *others = unify_varying(x, w, offsets, *others)
    masks = others[: mask is not None]
    ndim = kernel_ndim(w)
    groups = check_groups(groups, w)
    window = forward_window(x, w, stride, padding, dilation)
    check_channels(x, w, groups)
    _check_offsets(x, window, offsets, *masks)
    moved = divided_over_the_batch(x.ndim - 1 - ndim, x, offsets, *masks)

    def on_one(x: Array, offsets: Array, *masks: Array) -> Array:
        return call(_deform_conv, x, w, offsets, masks, window, groups)

    batched: dict[str, Any] = dict(zip(("x", "offsets", "mask"), moved, strict=False))
    y = on_one_batch_axis(on_one, ndim, **batched)
    return y if b is None else bias_added(y, check_bias(others[-1], y, ndim, x=x))


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _deform_conv(x, w, offsets, masks, window, groups):
    return _convolved(x, w, offsets, masks, window, groups)


def _convolved(x, w, offsets, masks, window, groups):
    seen = _seen(x, _positions(offsets, window))
    return _times_kernel(_patches(x, seen, masks, window), w, window, groups)


def _deform_conv_fwd(x, w, offsets, masks, window, groups):
    y = _convolved(x, w, offsets, masks, window, groups)
    return y, (x, w, offsets, masks)  # the patches would be many times as large


def _deform_conv_bwd(window, groups, residuals, dy):
    x, w, offsets, masks = residuals
    dy = merge_axes(dy, 1, window.ndim)
    positions = _positions(offsets, window)
    seen = _seen(x, positions)
    dw = _kernel_gradient(_patches(x, seen, masks, window), dy, w, groups)  # patchesᵀ dy
    dpatches = _patch_gradient(dy, w, window, groups)  # dy wᵀ
    dpatches = _in_groups(merge_axes(dpatches, 1, 2), seen.shape[2])
    dseen = _masked(dpatches, masks, window)
    dx = _image_gradient(dseen, positions, x)  # the adjoint of [Dai] 3
    doffsets = _offset_gradient(x, dseen, positions, offsets, window)  # [Dai] 7
    dmasks = tuple(_mask_gradient(seen, dpatches, mask, window) for mask in masks)  # [Zhu] 1
    return dx, dw, doffsets, dmasks


_deform_conv.defvjp(_deform_conv_fwd, _deform_conv_bwd)


# ------------------------------------------------------------------------------------------
# What the kernel sees: each tap of each window in a row, (N, taps, G, ·), G offset groups
# ------------------------------------------------------------------------------------------


def _positions(offsets: Array, window: Window) -> Array:
    """i·s − before + d·m + offsets[i, m], (N, taps, G, D)."""
    moved = []
    for axis, (o, k) in enumerate(zip(window.output_size, window.size, strict=True)):
        shape = [1] * (offsets.ndim - 1)
        shape[1 + axis], shape[2 + window.ndim + axis] = o, k
        still = np.asarray(window.positions(axis).reshape(shape), accumulator(offsets.dtype))
        moved.append(widened(offsets[..., axis]) + still)
    return _in_a_row(jnp.stack(moved, -1), window)


def _in_a_row(a: Array, window: Window) -> Array:
    """(N, *out_spatial, G, *kernel, E) -> (N, taps, G, E)."""
    a = merge_axes(merge_axes(a, 1, window.ndim), 3, window.ndim)
    return merge_axes(jnp.swapaxes(a, 2, 3), 1, 2)


def _in_place(a: Array, window: Window) -> Array:
    """(N, taps, G, E) -> (N, *out_spatial, G, *kernel, E)."""
    a = jnp.swapaxes(_by_outputs(a, window), 2, 3)
    return split_axis(split_axis(a, 3, window.size), 1, window.output_size)


def _by_outputs(a: Array, window: Window) -> Array:
    """(N, taps, …) -> (N, outputs, kernel, …)."""
    return split_axis(a, 1, (math.prod(window.output_size), window.taps))


def _seen(x: Array, positions: Array) -> Array:
    """x(p), interpolated, (N, taps, G, C / G)."""
    sample = functools.partial(lowering.sample, method="linear", padding="zeros")
    return _each_group(sample)(_in_groups(widened(x), positions.shape[-2]), positions)


def _image_gradient(dseen: Array, positions: Array, x: Array) -> Array:
    spread = functools.partial(
        lowering.spread, size=x.shape[1:-1], method="linear", padding="zeros"
    )
    return merge_axes(_each_group(spread)(dseen, positions), x.ndim - 1, 2).astype(x.dtype)


def _offset_gradient(
    x: Array, dseen: Array, positions: Array, offsets: Array, window: Window
) -> Array:
    gradient = functools.partial(lowering.position_gradient, method="linear", padding="zeros")
    images = _in_groups(widened(x), positions.shape[-2])
    dpositions = _each_group(gradient)(images, dseen, positions)
    return _in_place(dpositions, window).astype(offsets.dtype)


def _masked(seen: Array, masks: tuple[Array, ...], window: Window) -> Array:
    """Every tap times its factor."""
    for mask in masks:
        seen = seen * _in_a_row(widened(mask)[..., None], window)
    return seen


def _patches(x: Array, seen: Array, masks: tuple[Array, ...], window: Window) -> Array:
    """What the kernel is multiplied by, (N, outputs, kernel, C)."""
    patches = _masked(seen, masks, window).astype(x.dtype)
    return _by_outputs(merge_axes(patches, 2, 2), window)


def _mask_gradient(seen: Array, dpatches: Array, mask: Array, window: Window) -> Array:
    dmask = jnp.sum(seen * dpatches, -1, keepdims=True)
    return _in_place(dmask, window)[..., 0].astype(mask.dtype)


def _in_groups(x: Array, groups: int) -> Array:
    return split_axis(x, x.ndim - 1, (groups, x.shape[-1] // groups))


def _each_group(f: Callable[..., Array]) -> Callable[..., Array]:
    """`f` of offset groups as if they were images: arrays are (N, …, G, ·)."""

    def run(*arrays: Array) -> Array:
        result = f(*(merge_axes(jnp.moveaxis(a, -2, 1), 0, 2) for a in arrays))
        n, *_, groups, _ = arrays[0].shape
        return jnp.moveaxis(split_axis(result, 0, (n, groups)), 1, -2)

    return run


# ------------------------------------------------------------------------------------------
# What is multiplied: patches (N, outputs, kernel, C), in groups of channels
# ------------------------------------------------------------------------------------------


def _times_kernel(patches: Array, w: Array, window: Window, groups: int) -> Array:
    """y[i, o] = Σ over m, c of patches[i, m, c] w[m, c, o], [Dai] 2."""
    kernel = _in_groups(merge_axes(w, 0, window.ndim), groups)
    y = lowering.contract(
        _in_groups(patches, groups), kernel, ((2, 4), (0, 1)), None, ArrayType(patches.dtype),
        batch=((3,), (2,)),
    )  # fmt: skip
    y = merge_axes(jnp.moveaxis(y, 0, 2), 2, 2)
    return split_axis(y, 1, window.output_size)


def _patch_gradient(dy: Array, w: Array, window: Window, groups: int) -> Array:
    """dpatches[i, m, c] = Σ over o of dy[i, o] w[m, c, o]."""
    kernel = _in_groups(merge_axes(w, 0, window.ndim), groups)
    dpatches = lowering.contract(
        _in_groups(dy, groups), kernel, ((3,), (3,)), None, ArrayType(accumulator(dy.dtype)),
        batch=((2,), (2,)),
    )  # fmt: skip
    return merge_axes(jnp.moveaxis(dpatches, 0, 3), 3, 2)


def _kernel_gradient(patches: Array, dy: Array, w: Array, groups: int) -> Array:
    """dw[m, c, o] = Σ over the batch and i of patches[i, m, c] dy[i, o]."""
    dw = lowering.contract(  # the smaller of the two first: XLA:CPU lays it out anew
        _in_groups(dy, groups), _in_groups(patches, groups), ((0, 1), (0, 1)), None,
        summed_type(w.dtype, patches, 4), batch=((2,), (3,)),
    )  # fmt: skip
    dw = merge_axes(dw.transpose(2, 3, 0, 1), 2, 2)  # from (G, O / G, kernel, C / G)
    return split_axis(dw, 0, w.shape[:-2])


# ------------------------------------------------------------------------------------------


def _check_offsets(x: Array, window: Window, offsets: Array, mask: Array | None = None) -> None:
    """Checks the offsets' and the mask's shapes against the convolution's."""
    batch = x.shape[: -1 - window.ndim]
    at = len(batch) + window.ndim  # the offset groups' axis
    before, after = (*batch, *window.output_size), (*window.size, window.ndim)
    shape = offsets.shape
    if len(shape) != at + 1 + len(after) or shape[:at] != before or shape[at + 1 :] != after:
        raise ValueError(
            f"offsets: got the shape {shape}; for x of shape {x.shape}, a kernel of {window.size} "
            f"and {window.output_size} outputs it is {_with_groups(before, after)}, with G offset "
            "groups"
        )
    groups = shape[at]
    if groups < 1 or x.shape[-1] % groups:
        raise ValueError(
            f"offsets: got {groups} offset groups, axis {at} of the shape {shape}; their number "
            f"must divide the {x.shape[-1]} channels of x"
        )
    if mask is not None and mask.shape != shape[:-1]:
        raise ValueError(
            f"mask: got the shape {mask.shape}; beside offsets of shape {shape} it is {shape[:-1]}"
        )


def _with_groups(before: tuple[int, ...], after: tuple[int, ...]) -> str:
    return f"({', '.join([*map(str, before), 'G', *map(str, after)])})"
