"""The spatial axes of an array: how many there are, and options that have an entry for each."""

import operator
from collections.abc import Sequence
from typing import Any, TypeGuard

import jax
import numpy as np

from cnnvjp._types import ConvPadding, Pair, PerAxis

_LARGEST_NDIM = 3
_LARGEST_INT = 2**31 - 1  # of any option: positions stay far below what 64 bits count


def per_axis(name: str, value: PerAxis, ndim: int, *, minimum: int = 1) -> tuple[int, ...]:
    """An option as one int for each axis, from an int or a sequence of `ndim` ints."""
    entries = _entries(value, ndim)
    if entries is None or min(entries) < minimum:
        raise ValueError(
            f"{name}: got {value!r}; it must be an int or a sequence of {ndim} ints, "
            f"each at least {minimum}{static_hint(value)}"
        )
    if max(entries) > _LARGEST_INT:
        raise ValueError(f"{name}: got {value!r}; it must be at most {_LARGEST_INT}")
    return entries


def numeric_padding(
    padding: ConvPadding, ndim: int, *, names: tuple[str, ...] = ()
) -> tuple[Pair, ...]:
    """Padding given in numbers, as `(before, after)` for each axis.

    Args:
        padding: an int, D ints or D pairs.
        ndim: D.
        names: what the caller accepts besides, for the message.
    """
    both_sides = _entries(padding, ndim)
    pairs: list[tuple[int, ...] | None] = [None]
    if both_sides is not None:
        pairs = [(p, p) for p in both_sides]
    elif is_sequence(padding) and len(padding) == ndim:
        pairs = [_entries(pair, 2) if is_sequence(pair) else None for pair in padding]
    found = tuple((pair[0], pair[1]) for pair in pairs if pair is not None)
    if len(found) < len(pairs):
        named = f"one of {', '.join(names)}, " if names else ""
        raise ValueError(
            f"padding: got {padding!r}; it must be {named}an int, a sequence of {ndim} ints, or of "
            f"{ndim} pairs (before, after){static_hint(padding)}"
        )
    if max(abs(p) for pair in found for p in pair) > _LARGEST_INT:
        raise ValueError(f"padding: got {padding!r}; it must be at most {_LARGEST_INT} on a side")
    return found


def spatial_rank(spatial_ndim: int | None, **options: object) -> int:
    """D, from the options that are sequences, or `spatial_ndim`, or else 2.

    Args:
        spatial_ndim: what the caller asked for, or None.
        **options: options by name; those that are sequences have D entries.
    """
    lengths = {name: len(value) for name, value in options.items() if is_sequence(value)}
    if spatial_ndim is not None:
        asked = int_or_none(spatial_ndim)
        if asked is None:
            raise ValueError(
                f"spatial_ndim: got {spatial_ndim!r}; it must be 1, 2 or 3"
                f"{static_hint(spatial_ndim)}"
            )
        lengths["spatial_ndim"] = asked
    ndims = set(lengths.values()) or {2}
    if len(ndims) > 1:
        described = ", ".join(f"{name} for {length}" for name, length in lengths.items())
        raise ValueError(
            f"{next(iter(lengths))}: the options disagree on the number of spatial axes "
            f"({described}); give each the same number of entries"
        )
    (ndim,) = ndims
    if not 1 <= ndim <= _LARGEST_NDIM:
        name = next(iter(lengths))
        raise ValueError(f"{name}: got {ndim!r} spatial axes; 1, 2 and 3 are supported")
    return ndim


def spatial_size(shape: tuple[int, ...], ndim: int, *, argument: str = "x") -> tuple[int, ...]:
    """The spatial part of a shape (*batch, *spatial, C)."""
    if len(shape) < ndim + 1:
        raise ValueError(
            f"{argument}: got the shape {shape}; with {ndim} spatial axes it must be "
            f"(*batch, {', '.join(('depth', 'height', 'width')[-ndim:])}, channels)"
        )
    return shape[-1 - ndim : -1]


def occupied_size(shape: tuple[int, ...], ndim: int, *, argument: str = "x") -> tuple[int, ...]:
    """`spatial_size`, and a ValueError where an axis is empty."""
    size = spatial_size(shape, ndim, argument=argument)
    if min(size) < 1:
        raise ValueError(f"{argument}: got the spatial size {size}; every axis needs a position")
    return size


def _entries(value: object, count: int) -> tuple[int, ...] | None:
    """`count` ints, from one int or a sequence of them, and None from anything else."""
    values = value if is_sequence(value) else (value,) * count
    found = tuple(int_or_none(entry) for entry in values)
    ints = tuple(entry for entry in found if entry is not None)
    return ints if len(found) == len(ints) == count else None


def is_sequence(value: object) -> TypeGuard[Sequence[Any]]:
    """Whether an option gives each axis its own entry."""
    if isinstance(value, np.ndarray):
        return value.ndim > 0
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray)


def int_or_none(value: Any) -> int | None:
    """An int as such, numpy's included, and None for anything else, bool included."""
    if isinstance(value, bool | np.bool_):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def static_hint(value: Any) -> str:
    """What to say of an option that `jax.jit` turned into an array."""
    if isinstance(value, jax.core.Tracer):
        return " (under jax.jit, options are known before: name them in its static_argnames)"
    return ""
