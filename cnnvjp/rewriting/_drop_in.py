"""Convolution as lax spells it, for code that lets its convolution be given."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import chex
import jax
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from cnnvjp._types import Precision
from cnnvjp.rewriting._explicit import explicit


def conv_general_dilated(
    lhs: chex.Array,
    rhs: chex.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: lax.ConvDimensionNumbers | Sequence[str] | None = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: Precision = None,
    preferred_element_type: DTypeLike | None = None,
    out_sharding: NamedSharding | PartitionSpec | None = None,
) -> jax.Array:
    """Computes what `jax.lax.conv_general_dilated` does, by `conv` or `conv_transpose`.

    It takes that function's place wherever one can be given, as in
    `flax.linen.Conv(..., conv_general_dilated=cnnvjp.conv_general_dilated)`, and in `flax.nnx`.
    Arguments mean what they mean in lax, which reads them; only the gradients come from the
    rules of `conv` and, where lhs_dilation is above 1, of `conv_transpose`. Arrays that are not
    channels-last are transposed before and after.

    These calls go to lax, which differentiates them itself: with batch_group_count above 1,
    with window_strides and lhs_dilation both above 1, with out_sharding, with 0 spatial axes
    or more than 3, with arrays of other dtypes than `conv` takes or a preferred_element_type of
    another kind, with arrays that are empty or of symbolic shapes, and where the kernel does
    not fit.

    Args:
        lhs: images, with axes as dimension_numbers says.
        rhs: kernel, with axes as dimension_numbers says.
        window_strides: the step between two outputs along each spatial axis.
        padding: "SAME", "VALID" or what other name lax knows, or a pair (low, high) for each
            spatial axis.
        lhs_dilation: the distance between two pixels, zeros in between, along each axis.
        rhs_dilation: the distance between two taps along each axis.
        dimension_numbers: None for (N, C, *spatial) and (O, C, *spatial); three strings, as in
            ("NHWC", "HWIO", "NHWC"); or a `jax.lax.ConvDimensionNumbers`.
        feature_group_count: how many groups the channels fall into.
        batch_group_count: how many groups the batch falls into.
        precision: as in lax.
        preferred_element_type: the dtype of the output.
        out_sharding: as in lax.

    Returns:
        The array that lax returns, up to rounding.

    Raises:
        TypeError: as in lax.
        ValueError: as in lax.

    Example:
        >>> import jax.numpy as jnp
        >>> x, w = jnp.arange(9.0).reshape(1, 1, 3, 3), jnp.ones((1, 1, 2, 2))
        >>> conv_general_dilated(x, w, (1, 1), "VALID")[0, 0]
        Array([[ 8., 12.],
               [20., 24.]], dtype=float32)

    Source: [GBC] 9.8, 9.11–9.13, as `conv` and `conv_transpose`.
    """
    options = dict(
        window_strides=window_strides,
        padding=padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers,
        feature_group_count=feature_group_count,
        batch_group_count=batch_group_count,
        precision=precision,
        preferred_element_type=preferred_element_type,
        out_sharding=out_sharding,
    )
    hashable = {name: _hashable(value) for name, value in options.items()}
    return _compiled(tuple(options))(lhs, rhs, **hashable)


@functools.cache
def _compiled(options: tuple[str, ...]) -> Callable[..., jax.Array]:
    """The function behind it, compiled as one, so that an eager call is one dispatch."""

    def computed(lhs: jax.Array, rhs: jax.Array, **options: Any) -> jax.Array:
        # The options are bound before: explicit traces arrays, which numpy's numbers are to it.
        return explicit(functools.partial(lax.conv_general_dilated, **options))(lhs, rhs)

    return jax.jit(computed, static_argnames=options, inline=True)


def _hashable(value: Any) -> Any:
    """An option with its lists and arrays as tuples, as a compiled function needs it."""
    if isinstance(value, jax.Array | np.ndarray):
        value = value.tolist()
    try:
        hash(value)
    except TypeError:
        parts = map(_hashable, value)
        return value._make(parts) if hasattr(value, "_make") else tuple(parts)
    return value
