"""Checks of array arguments, and what keeps a rule right under every kind of parallelism."""

import contextlib
import math
import numbers
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from cnnvjp._geometry import int_or_none, is_sequence, static_hint

FLOATS = tuple(jnp.dtype(d) for d in ("float16", "bfloat16", "float32", "float64"))


def operands(
    *, integers: bool = False, optional: tuple[str, ...] = (), **arrays: Any
) -> tuple[Any, ...]:
    """The array arguments of one call, checked and made alike.

    They must be real and share a dtype. A Python number takes the dtype of the first array,
    also where JAX made an array of it, as `jax.jit` does. Inside `shard_map`, every array is
    cast to vary over the mesh axes that any of them varies over: JAX transposes that cast to a
    sum over devices, which is what the cotangent of a replicated argument needs, and the rule
    need not know.

    Args:
        integers: whether integer arrays are welcome.
        optional: the names of arguments that may be None, which stays None.
        **arrays: the arguments by their public names.

    Returns:
        The arrays, in the order given.

    Raises:
        TypeError: for what is not an array of a supported dtype, or differing dtypes.
        ValueError: for a number that their dtype cannot hold.
    """
    first: str | None = None
    dtype = None
    given = [(name, value) for name, value in arrays.items() if _is_array(value)]
    for name, value in [pair for pair in given if not _was_number(pair[1])] or given:
        _check_dtype(name, value, integers)
        found = jax.dtypes.canonicalize_dtype(value.dtype)  # float32 for NumPy's, without x64
        if first is None:
            first, dtype = name, found
        elif found != dtype:
            widest, other = (first, name) if _is_wider(dtype, found) else (name, first)
            raise TypeError(
                f"{name}: got {found}, but {first} is {dtype}; the arrays of one call share a "
                f"dtype: cast one of them, as in {other}.astype({widest}.dtype)"
            )
    checked = [
        None if value is None and name in optional else _as_array(name, value, dtype)
        for name, value in arrays.items()
    ]
    return unify_varying(*checked)


def _is_wider(a: Any, b: Any) -> bool:
    """Whether `a` is the one to cast to: floating beside an integer, or else the larger."""
    floating = [jnp.issubdtype(dtype, jnp.floating) for dtype in (a, b)]
    return floating[0] if floating[0] != floating[1] else a.itemsize >= b.itemsize


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _was_number(value: Any) -> bool:
    """Whether an array was a Python number, as in jax.grad(f)(0.5): its type is weak."""
    return getattr(value, "weak_type", False) and not value.shape


def is_integer(dtype: Any) -> bool:
    """Whether a dtype, which need not be one of NumPy's, is an integer's of whole bytes.

    XLA computes with the narrower ones in part of its operations only.
    """
    return isinstance(dtype, np.dtype) and dtype.kind in "iu"


def _check_dtype(name: str, value: Any, integers: bool) -> None:
    if value.dtype in FLOATS or (integers and is_integer(value.dtype)):
        return
    welcome = ", or an integer of 8 to 64 bits" if integers else ""
    raise TypeError(
        f"{name}: got an array of {value.dtype}; it must be float16, bfloat16, float32 or "
        f"float64{welcome}"
    )


def _as_array(name: str, value: Any, dtype: Any) -> Any:
    if isinstance(value, jax.Array):
        if not value.weak_type:
            return value
        if not _was_number(value):
            return value.astype(value.dtype)  # rules want no weak types
        _check_dtype(name, value, True)
        if not is_integer(value.dtype) and is_integer(dtype):
            raise TypeError(f"{name}: got a float beside arrays of {dtype}; it must be an integer")
        return value.astype(dtype)
    if _is_array(value):
        return _converted(name, value, "a jax or numpy array")
    if isinstance(value, int | float) and not isinstance(value, bool) and dtype is not None:
        if isinstance(value, float) and is_integer(dtype):
            raise TypeError(
                f"{name}: got the float {value!r} beside arrays of {dtype}; it must be an integer"
            )
        return number_operand(name, value, dtype)
    raise TypeError(f"{name}: got {type(value).__name__}; it must be a jax or numpy array")


def _converted(name: str, value: Any, needed: str) -> jax.Array:
    """An array of another library, such as NumPy, as JAX's."""
    try:
        return jnp.asarray(value)
    except (TypeError, ValueError) as error:  # it has a shape and a dtype, and no numbers
        raise TypeError(f"{name}: got {type(value).__name__}; it must be {needed}") from error


def number_operand(name: str, value: float, dtype: Any) -> jax.Array:
    """A Python number as an array, if `dtype` can hold it."""
    with contextlib.suppress(OverflowError), np.errstate(over="ignore"):
        number = np.asarray(value, dtype)
        if math.isinf(value) or not np.isinf(number):
            return jnp.asarray(value, dtype)
    raise ValueError(f"{name}: got {value!r}, which {dtype} cannot hold; it must be in its range")


def integer_operand(name: str, value: Any) -> jax.Array:
    """An array argument that holds indices."""
    if not _is_array(value) or not is_integer(value.dtype):
        got = getattr(value, "dtype", type(value).__name__)
        raise TypeError(f"{name}: got {got}; it must be an array of integers")
    return _converted(name, value, "an array of integers")


def accumulator(dtype: Any) -> np.dtype:
    """The dtype in which sums of `dtype` are held: at least float32, integers as they are."""
    return wider(dtype, jnp.float32) if dtype in FLOATS else jnp.dtype(dtype)


def wider(a: Any, b: Any) -> np.dtype:
    """The smallest dtype that holds both, of two floating ones or two integer ones."""
    a, b = jnp.dtype(a), jnp.dtype(b)
    if a.itemsize != b.itemsize:
        return max(a, b, key=lambda dtype: dtype.itemsize)
    return a if a == b else jnp.dtype("float32")  # float16 beside bfloat16


def widened(x: jax.Array) -> jax.Array:
    """`x` in the dtype of its sums, for arithmetic that is to be rounded once, at its end."""
    return x.astype(accumulator(x.dtype))


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


def flag_option(name: str, value: Any) -> bool:
    """An option that is on or off."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise TypeError(f"{name}: got {value!r}; it must be True or False{static_hint(value)}")


def choice_option(name: str, value: Any, choices: tuple[str, ...]) -> str:
    """An option that must be one of a few names."""
    if isinstance(value, str) and value in choices:
        return value
    names = " or ".join(map(repr, choices))
    if len(choices) > 2:
        names = f"one of {', '.join(choices)}"
    raise ValueError(f"{name}: got {value!r}; it must be {names}{static_hint(value)}")


def axes_option(name: str, axes: Any, x: jax.Array) -> tuple[int, ...]:
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


def key_operand(key: Any) -> jax.Array:
    """One random key, as `jax.random.key` makes it or of the older kind."""
    dtype = getattr(key, "dtype", None) if _is_array(key) else None
    if dtype == np.uint32 and key.ndim:  # the older kind shows its words as a last axis
        try:
            key = jax.random.wrap_key_data(jnp.asarray(key))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"key: got the shape {key.shape} of uint32; it must be one key, as from "
                "jax.random.key(0)"
            ) from error
    elif dtype is None or not jnp.issubdtype(dtype, jax.dtypes.prng_key):
        got = type(key).__name__ if dtype is None else f"an array of {dtype}"
        raise TypeError(f"key: got {got}; it must be one key, as from jax.random.key(0)")
    if key.shape:
        raise ValueError(f"key: got {key.shape} keys; it must be one, as from jax.random.split")
    return key


def varying_axes(x: Any) -> frozenset[str]:
    """The mesh axes over which an array differs between the devices of a `shard_map`."""
    kind = jax.typeof(x)
    manual = getattr(kind, "manual_axis_type", None)  # where newer releases keep it
    return frozenset(kind.vma if manual is None else manual.varying)


def unify_varying(*arrays: Any) -> tuple[Any, ...]:
    """Casts arrays to the union of the mesh axes that they vary over, leaving None alone."""
    varying = [frozenset() if a is None else varying_axes(a) for a in arrays]
    union = frozenset().union(*varying)
    return tuple(
        a if a is None or have == union else _cast_varying(a, tuple(sorted(union - have)))
        for a, have in zip(arrays, varying, strict=True)
    )


def _cast_varying(x: Any, axes: tuple[str, ...]) -> Any:
    if hasattr(jax.lax, "pcast"):
        return jax.lax.pcast(x, axes, to="varying")
    return jax.lax.pvary(x, axes)  # type: ignore[attr-defined]  # before JAX 0.8


class ArrayType(NamedTuple):
    """What a rule must return besides the right numbers: a dtype, and a sharding or None."""

    dtype: np.dtype
    sharding: NamedSharding | None = None


def primal_type(x: jax.Array) -> ArrayType:
    """The type that a cotangent of `x` must have.

    The sharding is set on a mesh with Explicit axes alone: there a contraction over the
    sharded batch must be told how its result is laid out.
    """
    sharding = jax.typeof(x).sharding
    explicit = AxisType.Explicit in getattr(sharding.mesh, "axis_types", ())
    return ArrayType(x.dtype, sharding if explicit else None)


def summed_type(dtype: Any, x: jax.Array, ndim: int) -> ArrayType:
    """The type of a result of `ndim` axes that sums over the batch of `x`: whole everywhere."""
    sharding = primal_type(x).sharding
    if sharding is not None:
        sharding = NamedSharding(sharding.mesh, PartitionSpec(*(None,) * ndim))
    return ArrayType(jnp.dtype(dtype), sharding)


def hashable_precision(precision: Any) -> Any:
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
