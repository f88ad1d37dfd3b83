"""What the three convolution operations check before they compute."""

import contextlib
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from cnnvjp._checks.arrays import operands
from cnnvjp._checks.options import flag_option, hashable_precision, positive_int
from cnnvjp._types import COMPLEX, FLOATS, ConvPadding, PerAxis, Precision
from cnnvjp._windows.geometry import NAMED_PADDINGS, Window, make_window
from cnnvjp._windows.spatial import spatial_size


@dataclasses.dataclass(frozen=True)
class Options:
    """What is static in the three operations besides the window.

    Attributes:
        groups: how many groups the channels fall into.
        flip_kernel: whether the kernel is rotated by 180°.
        precision: as in lax, hashable.
        dtype: of the result.
    """

    groups: int
    flip_kernel: bool
    precision: Precision
    dtype: np.dtype


def make_options(
    x: jax.Array,
    groups: int,
    flip_kernel: bool,
    precision: Precision,
    preferred_element_type: DTypeLike | None,
) -> Options:
    """Checks the options that need no geometry."""
    dtype = x.dtype
    if preferred_element_type is not None:
        dtype = _output_dtype(x.dtype, preferred_element_type)
    return Options(
        groups, flag_option("flip_kernel", flip_kernel), hashable_precision(precision), dtype
    )


def _output_dtype(dtype: np.dtype, preferred: DTypeLike) -> np.dtype:
    """The dtype asked for, of the kind of the arrays': floating, complex, signed or unsigned."""
    chosen = None
    if not isinstance(preferred, jax.Array | np.ndarray):
        with contextlib.suppress(TypeError):
            chosen = jnp.dtype(preferred)
    if chosen is not None and (chosen in FLOATS if dtype in FLOATS else chosen.kind == dtype.kind):
        return chosen
    fitting = "float16, bfloat16, float32 or float64"
    if dtype in COMPLEX:
        fitting = "complex64 or complex128"
    elif dtype not in FLOATS:
        fitting = f"{'a signed' if dtype.kind == 'i' else 'an unsigned'} integer dtype"
    raise TypeError(
        f"preferred_element_type: got {preferred!r} for arrays of {dtype}; it must be {fitting}"
    )


def forward_window(
    x: jax.Array,
    w: jax.Array,
    stride: PerAxis,
    padding: ConvPadding,
    dilation: PerAxis,
    *,
    names: tuple[str, ...] = NAMED_PADDINGS,
) -> Window:
    """Places the kernel `w` over the images `x`, with a padding of these names."""
    images = spatial_size(x.shape, kernel_ndim(w))
    return make_window(images, w.shape[:-2], stride, padding, dilation, names=names)


def kernel_ndim(w: jax.Array) -> int:
    """D, from a kernel of shape (*kernel, C_in // groups, C_out)."""
    ndim = w.ndim - 2
    if ndim not in (1, 2, 3):
        hint = "; without spatial axes the operation is cnnvjp.dense" if ndim == 0 else ""
        raise ValueError(
            f"w: got the shape {w.shape}; it must be (*kernel, C_in // groups, C_out) with 1, 2 "
            f"or 3 spatial axes{hint}"
        )
    if 0 in w.shape:
        raise ValueError(f"w: got the shape {w.shape}; no axis may be empty")
    return ndim


def check_groups(groups: int, w: jax.Array) -> int:
    """Checks that the groups divide the kernel's output channels."""
    groups = positive_int("groups", groups)
    if w.shape[-1] % groups:
        raise ValueError(
            f"groups: got {groups}, which does not divide the {w.shape[-1]} output channels of w"
        )
    return groups


def check_channels(x: jax.Array, w: jax.Array, groups: int) -> None:
    """Checks the images' channels against the kernel's and the groups."""
    expected = w.shape[-2] * groups
    if x.shape[-1] != expected:
        raise ValueError(
            f"x: got {x.shape[-1]} channels; w of shape {w.shape} with groups={groups} fits "
            f"{w.shape[-2]} · {groups} = {expected}"
        )


def check_bias(
    b: object, out: jax.Array, ndim: int, *, complex: bool = False, **maps: Any
) -> jax.Array:
    """A bias for `out`, what became of maps: tied (C,) or untied (*out_spatial, C).

    It has the maps' dtype or, where `preferred_element_type` makes it another one, out's.
    """
    ((_, x),) = maps.items()
    if not hasattr(b, "dtype"):
        raise TypeError(f"b: got {type(b).__name__}; it must be an array of {x.dtype}")
    like = {"y": out} if b.dtype == out.dtype else maps
    _, b = operands(integers=True, complex=complex, **like, b=b)
    if b.shape not in (out.shape[-1:], out.shape[-1 - ndim :]):
        raise ValueError(
            f"b: got the shape {b.shape}; it must be tied, {out.shape[-1:]}, or untied, "
            f"{out.shape[-1 - ndim :]}"
        )
    return b


def on_one_batch_axis(
    core: Callable[..., jax.Array], ndim: int, *, maps: bool = True, **arrays: jax.Array
) -> jax.Array:
    """Calls `core` with each array's batch axes merged into one.

    Args:
        core: takes the arrays, each with one batch axis N.
        ndim: D.
        maps: whether the result has the batch axis too, and gets the merged ones back.
        **arrays: by their public names, the first (*batch, *spatial, C), all with its batch.
    """
    ((first, x),) = list(arrays.items())[:1]
    batch = x.shape[: -1 - ndim]
    if len(batch) == 1:
        return core(*arrays.values())
    try:
        merged = [a.reshape(math.prod(batch), *a.shape[len(batch) :]) for a in arrays.values()]
    except Exception as error:
        if "shard" not in str(error):
            raise
        raise ValueError(
            f"{first}: its batch axes {batch} are sharded as {jax.typeof(x).sharding.spec} and "
            "cannot be merged; shard the first of them alone, or use jax.vmap for the others"
        ) from error
    chex.assert_rank(merged[0], 1 + ndim + 1)
    result = core(*merged)
    return result.reshape(*batch, *result.shape[1:]) if maps else result
