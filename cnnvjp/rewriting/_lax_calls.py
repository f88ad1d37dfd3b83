"""lax's convolutions and window reductions, as calls of this library's operations.

An equation of a jaxpr says what is computed with every option spelled out. Each function here
reads those of one primitive and returns the function of its operands that computes the same
with our operations, or raises `Unserved` with the reason why none does.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core
from jax.extend.core import JaxprEqn

from cnnvjp._windows.axes import exchange_channels
from cnnvjp.convolution import conv, conv_transpose
from cnnvjp.max_pooling import max_pool, min_pool
from cnnvjp.sum_pooling import sum_pool

Served = Callable[..., jax.Array]

_POOLS: dict[str, Callable[..., jax.Array]] = {"max": max_pool, "min": min_pool, "add": sum_pool}
_IDENTITIES = {"max": -np.inf, "min": np.inf, "add": 0.0}
_LONGEST_CUMULATIVE = 64  # windows; a sum over more is faster in lax


class Unserved(Exception):  # noqa: N818  # an answer, not an error
    """Why an equation cannot be computed by our operations."""


def types_of(variables: Sequence[core.Var | core.Literal]) -> tuple[jax.core.ShapedArray, ...]:
    """The types of an equation's operands or results, which are arrays in these primitives."""
    return tuple(cast(jax.core.ShapedArray, variable.aval) for variable in variables)


@dataclasses.dataclass(frozen=True)
class Call:
    """What an equation computes: equal for two that compute the same of operands of one type.

    Attributes:
        primitive: its name.
        options: the equation's parameters, with their names.
        operands: their types.
        constants: of each operand that is written as a number, this number; of the others, None.
        result: the type of the first result.
    """

    primitive: str
    options: tuple[tuple[str, Any], ...]
    operands: tuple[jax.core.ShapedArray, ...]
    constants: tuple[Any, ...]
    result: jax.core.ShapedArray

    @classmethod
    def of(cls, equation: JaxprEqn) -> "Call":
        """The call that an equation makes."""
        return cls(
            equation.primitive.name,
            tuple(equation.params.items()),
            types_of(equation.invars),
            tuple(np.asarray(v.val).item() if hasattr(v, "val") else None for v in equation.invars),
            types_of(equation.outvars)[0],
        )

    @property
    def params(self) -> dict[str, Any]:
        """The options by their names."""
        return dict(self.options)


def convolution(call: Call) -> Served:
    """`lax.conv_general_dilated`, as `conv` or, with a dilated input, as `conv_transpose`."""
    params = call.params
    if params["batch_group_count"] != 1:
        raise Unserved("batch_group_count is not 1")
    if params.get("out_sharding") is not None:
        raise Unserved("out_sharding is given")
    strides, upsampling = params["window_strides"], params["lhs_dilation"]
    if not strides:
        raise Unserved(
            "it has no spatial axes: it is a matrix product, which cnnvjp.dense computes"
        )
    if len(strides) > 3:
        raise Unserved(f"it has {len(strides)} spatial axes; conv takes 1, 2 or 3")
    dilation, padding = params["rhs_dilation"], _pairs(params["padding"])
    image, kernel, out = params["dimension_numbers"]
    options: dict[str, Any] = dict(
        dilation=dilation,
        groups=params["feature_group_count"],
        precision=params["precision"],
        preferred_element_type=params["preferred_element_type"],
    )
    # lax names the axes in the order batch, channels, space; ours lie batch, space, channels.
    image_to, kernel_to = (image[0], *image[2:], image[1]), (*kernel[2:], kernel[1], kernel[0])
    out_from = _inverse((out[0], *out[2:], out[1]))

    if max(upsampling, default=1) == 1:

        def correlated(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
            x, w = lax.transpose(lhs, image_to), lax.transpose(rhs, kernel_to)
            y = conv(x, w, stride=strides, padding=padding, **options)
            return lax.transpose(y, out_from)

        return correlated

    if max(strides) > 1:
        raise Unserved("both window_strides and lhs_dilation are above 1")
    shape = call.operands[1].shape
    # The kernel slides over upsampled maps, as the rotated one of a forward convolution does in
    # its transpose. The forward padding is what the kernel's reach, d·(k−1), has beyond lax's.
    reach = [d * (shape[axis] - 1) for d, axis in zip(dilation, kernel[2:], strict=True)]
    forward = [(r - low, r - high) for r, (low, high) in zip(reach, padding, strict=True)]
    size = [call.result.shape[axis] for axis in out[2:]]

    def transposed(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        y, w = lax.transpose(lhs, image_to), lax.transpose(rhs, kernel_to)
        w = exchange_channels(w, options["groups"])
        x = conv_transpose(
            y, w, stride=upsampling, padding=forward, output_size=size, flip_kernel=True, **options
        )
        return lax.transpose(x, out_from)

    return transposed


def pooling(operation: str) -> Callable[[Call], Served]:
    """`lax.reduce_window` with one of the operations "max", "min" and "add", as a pooling."""

    def served(call: Call) -> Served:
        params = call.params
        window, strides = params["window_dimensions"], params["window_strides"]
        padding, dilation = _pairs(params["padding"]), params["window_dilation"]
        size = call.operands[0].shape
        if max(params["base_dilation"], default=1) > 1:
            raise Unserved("base_dilation is above 1")
        pooled = [
            axis
            for axis, (k, s, pair) in enumerate(zip(window, strides, padding, strict=True))
            if k > 1 or s > 1 or pair != (0, 0)
        ]
        if not pooled:
            raise Unserved("its windows have one entry: nothing is pooled")
        if len(pooled) == 1:
            (axis,) = pooled
            reach = dilation[axis] * (window[axis] - 1)
            cumulative = window[axis] >= size[axis] and padding[axis] in ((reach, 0), (0, reach))
            if cumulative and window[axis] > _LONGEST_CUMULATIVE:
                raise Unserved(f"it is cumulative along axis {axis}")
        if len(pooled) > 3:
            raise Unserved(f"its windows extend along {len(pooled)} axes; ours along 1, 2 or 3")
        others = [axis for axis in range(len(size)) if axis not in pooled]
        to = (*others[:-1], *pooled, *others[-1:])

        def of(entries: Sequence[Any]) -> tuple[Any, ...]:
            return tuple(entries[axis] for axis in pooled)

        def pool(x: jax.Array) -> jax.Array:
            x = lax.transpose(x, to)
            x = x if others else x[..., None]
            y = _POOLS[operation](
                x, of(window), stride=of(strides), padding=of(padding), dilation=of(dilation)
            )
            return lax.transpose(y if others else y[..., 0], _inverse(to))

        return pool

    return served


def generic_pooling(call: Call) -> Served:
    """`lax.reduce_window` with a function, if that is one of those above, from its identity."""
    names = [inner.primitive.name for inner in call.params["jaxpr"].eqns]
    if len(call.operands) != 2 or len(names) != 1 or names[0] not in _POOLS:
        raise Unserved("its function is none of max, min and add, of one array")
    identity = _identity(names[0], call.operands[0].dtype)
    if call.constants[1] != identity:
        raise Unserved(
            f"it does not start from the constant {identity}, the identity of {names[0]}"
        )
    pool = pooling(names[0])(call)
    return lambda x, start: pool(x)


def _identity(operation: str, dtype: np.dtype) -> float:
    """The number that an operation leaves alone whatever it is combined with."""
    if jnp.issubdtype(dtype, np.integer) and operation != "add":
        limits = jnp.iinfo(dtype)
        return int(limits.min if operation == "max" else limits.max)
    return _IDENTITIES[operation]


def _pairs(padding: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    return [(int(low), int(high)) for low, high in padding]


def _inverse(permutation: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(axis) for axis in np.argsort(permutation))
