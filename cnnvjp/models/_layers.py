"""What the models share: parameters of a layer, its net input with names, checked options.

Layers are numbered as in [H] fig. 8.9: a pooling layer counts as one.
"""

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from cnnvjp._checks.arrays import key_operand
from cnnvjp._checks.options import positive_int
from cnnvjp._types import FLOATS, Padding, PerAxis
from cnnvjp._windows.spatial import is_sequence, per_axis
from cnnvjp.affine import add_bias, dense
from cnnvjp.convolution import conv
from cnnvjp.model import Named

Parameters = dict[str, jax.Array]
ByLayer = dict[str, Parameters]
Draw = Callable[[jax.Array, tuple[int, ...]], tuple[ByLayer, ByLayer]]

# Our kernels are (*kernel, C_in // groups, C_out) and our matrices (n_in, n_out), for which
# the axes that JAX's initialisers assume are right: the fan-in is the product of all but the
# last axis.
before_relu = jax.nn.initializers.he_normal()
before_tanh = jax.nn.initializers.glorot_normal()
before_softmax = jax.nn.initializers.glorot_normal()


def compiled_init(init: Draw) -> Draw:
    """Draws all of a model's parameters in one compilation, after a check of what it is given.

    Args:
        init: `init(key, input_shape)` for images, of shape (height, width, channels).
    """
    compiled = jax.jit(init, static_argnums=1)

    @functools.wraps(init)
    def checked(key: jax.Array, input_shape: Sequence[int]) -> tuple[ByLayer, ByLayer]:
        key_operand(key)
        shape = check_input_shape(input_shape)
        try:
            return compiled(key, shape)
        except ValueError as error:
            raise ValueError(
                f"input_shape: got {input_shape!r}, for which a layer has no output: {error}"
            ) from error

    return checked


def layer_params(
    key: jax.Array,
    weight_shape: tuple[int, ...],
    dtype: np.dtype,
    initializer: jax.nn.initializers.Initializer = before_relu,
) -> Parameters:
    """Random weights of one layer, and a bias of zeros for its outputs."""
    return {
        "w": initializer(key, weight_shape, dtype),
        "b": jnp.zeros(weight_shape[-1:], dtype),
    }


def convolution(
    named: Named,
    layer: int,
    a: jax.Array,
    params: Parameters,
    *,
    stride: PerAxis = 1,
    padding: Padding = "VALID",
) -> jax.Array:
    """The net input of a convolution layer, N = W ⊗ A + b ([H] 8.21, 8.32)."""
    lz = named(f"lz{layer}", conv(a, params["w"], stride=stride, padding=padding))
    return named(f"n{layer}", add_bias(lz, params["b"]))


def fully_connected(named: Named, layer: int, a: jax.Array, params: Parameters) -> jax.Array:
    """The net input of a fully connected layer."""
    lz = named(f"lz{layer}", dense(a, params["w"]))
    return named(f"n{layer}", add_bias(lz, params["b"]))


class _Entries(dict[str, Any]):
    """The entries of an argument, with an error that names it where one is missing."""

    def __init__(self, argument: str, entries: object) -> None:
        if not isinstance(entries, Mapping):
            raise TypeError(
                f"{argument}: got {type(entries).__name__}; it must be a dict, as the model's init "
                "returns it"
            )
        super().__init__(entries)
        self._argument = argument

    def __missing__(self, name: str) -> NoReturn:
        raise ValueError(
            f"{self._argument}: got entries for {', '.join(map(repr, self)) or 'nothing'}; it must "
            f"have {name!r} too, as the model's init returns it"
        )


def by_layer(argument: str, tree: object) -> ByLayer:
    """The arrays of each layer, from a tree that may be another model's."""
    layers = _Entries(argument, tree)
    for name, arrays in layers.items():
        layers[name] = _Entries(f"{argument}[{name!r}]", arrays)
    return layers


def unnamed(name: str, value: jax.Array) -> jax.Array:
    """Takes the place of `named` where values are of no interest."""
    return value


def check_input_shape(input_shape: Sequence[int]) -> tuple[int, int, int]:
    """The shape of one image, (height, width, channels)."""
    try:
        height, width, channels = per_axis("input_shape", tuple(input_shape), 3)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"input_shape: got {input_shape!r}; it must be one image's (height, width, channels), "
            "without a batch axis"
        ) from error
    return height, width, channels


def check_maps(maps: Sequence[int]) -> tuple[int, int]:
    """The numbers of feature maps of two layers."""
    if not is_sequence(maps) or len(maps) != 2:
        raise ValueError(f"maps: got {maps!r}; it must be a sequence of 2 ints, each at least 1")
    first, second = per_axis("maps", maps, 2)
    return first, second


def check_classes(classes: int) -> int:
    """The number of classes."""
    return positive_int("classes", classes)


def check_dtype(dtype: DTypeLike | None) -> np.dtype:
    """The dtype of a model's parameters, and so of its input."""
    if dtype is not None:  # which numpy takes for float64
        with contextlib.suppress(TypeError):
            if (checked := jnp.dtype(dtype)) in FLOATS:
                return checked
    raise TypeError(f"dtype: got {dtype!r}; it must be float16, bfloat16, float32 or float64")
