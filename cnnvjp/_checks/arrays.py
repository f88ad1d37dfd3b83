"""Checks of array arguments, and what keeps a rule right under every kind of parallelism."""

import contextlib
import math
from typing import TypeGuard

import chex
import jax
import jax.numpy as jnp
import numpy as np

from cnnvjp._types import COMPLEX, FLOATS, is_integer, unify_varying

_KINDS = (jnp.inexact, jnp.complexfloating)


def operands(
    *, integers: bool = False, complex: bool = False, **arrays: object
) -> tuple[jax.Array, ...]:
    """The array arguments of one call, checked and made alike.

    They must share a dtype. A Python number takes the dtype of the first array,
    also where JAX made an array of it, as `jax.jit` does. Inside `shard_map`, every array is
    cast to vary over the mesh axes that any of them varies over: JAX transposes that cast to a
    sum over devices, which is what the cotangent of a replicated argument needs, and the rule
    need not know.

    Args:
        integers: whether integer arrays are welcome.
        complex: whether complex arrays are.
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
        _check_dtype(name, value, integers, complex)
        found = jax.dtypes.canonicalize_dtype(value.dtype)  # float32 for NumPy's, without x64
        if dtype is None:
            first, dtype = name, found
        elif found != dtype:
            widest, other = (first, name) if _is_wider(dtype, found) else (name, first)
            raise TypeError(
                f"{name}: got {found}, but {first} is {dtype}; the arrays of one call share a "
                f"dtype: cast one of them, as in {other}.astype({widest}.dtype)"
            )
    checked = [_as_array(name, value, dtype) for name, value in arrays.items()]
    return unify_varying(*checked)


def _is_wider(a: np.dtype, b: np.dtype) -> bool:
    """Whether `a` is the one to cast to: of the wider kind, or else the larger."""
    kinds = [sum(jnp.issubdtype(dtype, kind) for kind in _KINDS) for dtype in (a, b)]
    return kinds[0] > kinds[1] if kinds[0] != kinds[1] else a.itemsize >= b.itemsize


def _is_array(value: object) -> TypeGuard[chex.Array]:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _was_number(value: chex.Array) -> bool:
    """Whether an array was a Python number, as in jax.grad(f)(0.5): its type is weak."""
    return getattr(value, "weak_type", False) and not value.shape


def _check_dtype(name: str, value: chex.Array, integers: bool, complex: bool) -> None:
    if value.dtype in FLOATS or (integers and is_integer(value.dtype)):
        return
    if complex and value.dtype in COMPLEX:
        return
    real = "real: " * (value.dtype in COMPLEX)
    also = ", complex64 or complex128" * complex
    welcome = ", or an integer of 8 to 64 bits" if integers else ""
    raise TypeError(
        f"{name}: got an array of {value.dtype}; it must be {real}float16, bfloat16, float32 or "
        f"float64{also}{welcome}"
    )


def _as_array(name: str, value: object, dtype: np.dtype | None) -> jax.Array:
    if isinstance(value, jax.Array):
        if not value.weak_type:
            return value
        if not _was_number(value):
            return value.astype(value.dtype)  # rules want no weak types
        _check_dtype(name, value, True, dtype in COMPLEX)
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


def _converted(name: str, value: chex.Array, needed: str) -> jax.Array:
    """An array of another library, such as NumPy, as JAX's."""
    try:
        return jnp.asarray(value)
    except (TypeError, ValueError) as error:  # it has a shape and a dtype, and no numbers
        raise TypeError(f"{name}: got {type(value).__name__}; it must be {needed}") from error


def number_operand(name: str, value: float, dtype: np.dtype) -> jax.Array:
    """A Python number as an array, if `dtype` can hold it."""
    with contextlib.suppress(OverflowError), np.errstate(over="ignore"):
        number = np.asarray(value, dtype)
        if math.isinf(value) or not np.isinf(number):
            return jnp.asarray(value, dtype)
    raise ValueError(f"{name}: got {value!r}, which {dtype} cannot hold; it must be in its range")


def integer_operand(name: str, value: object) -> jax.Array:
    """An array argument that holds indices."""
    if not _is_array(value) or not is_integer(value.dtype):
        got = getattr(value, "dtype", type(value).__name__)
        raise TypeError(f"{name}: got {got}; it must be an array of integers")
    return _converted(name, value, "an array of integers")


def key_operand(key: chex.PRNGKey) -> jax.Array:
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


def check_suffix(name: str, b: jax.Array, z: jax.Array, *, smallest: int) -> None:
    """Checks that b has the shape of z's last axes, of at least `smallest` of them."""
    if not smallest <= b.ndim <= z.ndim or b.shape != z.shape[z.ndim - b.ndim :]:
        tied = ", ".join(["()"] * (smallest == 0) + [str(z.shape[-1:])])
        raise ValueError(
            f"{name}: got the shape {b.shape}; beside an array of shape {z.shape} it must be tied, "
            f"{tied}, or untied, of the shape of the last axes"
        )
