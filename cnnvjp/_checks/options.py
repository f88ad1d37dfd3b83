"""Checks of options: numbers, flags, names, axes, precisions."""

import contextlib
import math
import numbers
import operator
from collections.abc import Sequence
from typing import Any, SupportsIndex, TypeVar

import jax
import numpy as np

from cnnvjp._types import Precision
from cnnvjp._windows.spatial import int_or_none, is_sequence, static_hint

Name = TypeVar("Name", bound=str)


def positive_int(name: str, value: SupportsIndex) -> int:
    """An option that must be an int of at least 1."""
    try:
        number = 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise ValueError(
            f"{name}: got {value!r}; it must be an int of at least 1{static_hint(value)}"
        )
    return number


def number_option(
    name: str, value: Any, *, low: float = -math.inf, high: float = math.inf
) -> float:
    """An option that is one number between `low` and `high`, known before anything is computed."""
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    with contextlib.suppress(OverflowError):  # of an int beyond float64
        if real and math.isfinite(value) and low <= value <= high:
            return float(value)
    bounds = "" if low == -math.inf else f" of at least {low:g}"
    bounds = bounds if high == math.inf else f" from {low:g} to {high:g}"
    raise ValueError(
        f"{name}: got {value!r}; it must be a finite Python number{bounds}{static_hint(value)}"
    )


def flag_option(name: str, value: object) -> bool:
    """An option that is on or off."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise TypeError(f"{name}: got {value!r}; it must be True or False{static_hint(value)}")


def choice_option(name: str, value: Name, choices: tuple[Name, ...]) -> Name:
    """An option that must be one of a few names."""
    if isinstance(value, str) and value in choices:
        return value
    names = " or ".join(map(repr, choices))
    if len(choices) > 2:
        names = f"one of {', '.join(choices)}"
    raise ValueError(f"{name}: got {value!r}; it must be {names}{static_hint(value)}")


def axes_option(name: str, axes: int | Sequence[int], x: jax.Array) -> tuple[int, ...]:
    """An option that names axes of `x`, one int or a sequence of them, counted from the front."""
    found = [int_or_none(axis) for axis in (axes if is_sequence(axes) else (axes,))]
    entries = [x.ndim if axis is None else axis for axis in found]
    counted = sorted(axis % max(x.ndim, 1) for axis in entries)
    if any(not -x.ndim <= axis < x.ndim for axis in entries) or len(set(counted)) < len(entries):
        raise ValueError(
            f"{name}: got {axes!r}; for x of shape {x.shape} axes are distinct ints from {-x.ndim} "
            f"to {x.ndim - 1}{static_hint(axes)}"
        )
    return tuple(counted)


def hashable_precision(precision: Any) -> Precision:
    """A precision as lax takes it, checked and fit to be a static option."""
    if precision is None:
        return None
    presets = getattr(jax.lax, "DotAlgorithmPreset", jax.lax.Precision)
    if isinstance(precision, presets | jax.lax.DotAlgorithm):
        return precision
    pair = isinstance(precision, tuple | list)
    parts = precision if pair else (precision,)
    try:
        if pair and len(parts) != 2:
            raise ValueError("lax takes pairs")
        for part in parts:
            if not isinstance(part, str | jax.lax.Precision):  # lax's enumeration takes ints too
                raise TypeError("lax takes names")
            jax.lax.Precision(part)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"precision: got {precision!r}; it must be None, 'default', 'high', 'highest', a "
            "jax.lax.Precision, or a pair of them"
        ) from error
    return tuple(precision) if pair else precision
