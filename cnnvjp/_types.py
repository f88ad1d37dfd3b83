"""What a result must be besides right: its dtype, its sharding, the mesh axes it varies over."""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec, reshard

from cnnvjp._jax_versions import cast_varying, varying_axes

# Options, as their functions are annotated.
Pair = tuple[int, int]
PerAxis = int | Sequence[int]  # one entry for all spatial axes, or one for each
NamedPadding = Literal["VALID", "SAME", "SAME_LOWER", "FULL"]
NumericPadding = int | Sequence[int] | Sequence[Pair]
Padding = NamedPadding | NumericPadding
Ties = Literal["first", "split"]
PadMode = Literal["constant", "reflect", "edge", "circular"]
ResizeMethod = Literal["nearest", "nearest-exact", "linear", "cubic"]
SampleMethod = Literal["nearest", "linear", "cubic"]
SamplePadding = Literal["zeros", "edge", "reflect", "mirror", "circular"]
Order = Literal["row", "column"]
Precision = jax.lax.PrecisionLike

FLOATS = tuple(jnp.dtype(d) for d in ("float16", "bfloat16", "float32", "float64"))


def is_integer(dtype: Any) -> bool:
    """Whether a dtype, which need not be one of NumPy's, is an integer's of whole bytes.

    XLA computes with the narrower ones in part of its operations only.
    """
    return isinstance(dtype, np.dtype) and dtype.kind in "iu"


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


def shrinking(count: float, dtype: Any) -> float:
    """A power of two times which `count` numbers of `dtype` add up within its sums' range.

    It is exact, and so divides sums and counts with no other rounding: their means stay the same.
    """
    if jnp.dtype(dtype) == jnp.float16:  # held in float32
        return 1.0
    return 2.0 ** -math.ceil(math.log2(count))


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


def unify_varying(*arrays: Any) -> tuple[Any, ...]:
    """Casts arrays to the union of the mesh axes that they vary over."""
    varying = [varying_axes(a) for a in arrays]
    union = frozenset[str]().union(*varying)
    return tuple(
        a if have == union else cast_varying(a, tuple(sorted(union - have)))
        for a, have in zip(arrays, varying, strict=True)
    )


def unify_layout(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Lays arrays of one shape out as the first of them that is divided over Explicit axes."""
    shardings = [primal_type(a).sharding for a in arrays]
    divided = [s for s in shardings if s is not None and any(s.spec)]
    if not divided:
        return arrays
    return tuple(
        a if sharding == divided[0] else reshard(a, divided[0])
        for a, sharding in zip(arrays, shardings, strict=True)
    )
