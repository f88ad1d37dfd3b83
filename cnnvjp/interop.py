"""For networks written in Flax, Equinox and Haiku: their layers, computed by these rules.

Each function imports the library that it is for when it is called, and none before. Flax's
convolution layers need nothing from here: they take `cnnvjp.conv_general_dilated` as an option.
"""

import functools
import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import Any, Literal, TypeVar

import chex
import jax
import numpy as np

from cnnvjp.rewriting import explicit

Tree = TypeVar("Tree")
Padding = Literal["SAME", "SAME_LOWER", "VALID"] | Sequence[tuple[int, int]]


def flax_max_pool(
    inputs: chex.Array,
    window_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    padding: Padding = "VALID",
) -> jax.Array:
    """`flax.linen.max_pool`, which is `flax.nnx.max_pool` too, by the rule of `cnnvjp.max_pool`.

    Args:
        inputs: maps, (*batch, *spatial, C).
        window_shape: the window's size along each spatial axis.
        strides: the step between two windows along each; None is 1, unlike in
            `cnnvjp.max_pool`.
        padding: "SAME", "VALID", or a pair (low, high) for each spatial axis.

    Returns:
        (*batch, *out_spatial, C).

    Raises:
        ImportError: if Flax is not installed.
        TypeError: for a window_shape or strides that are no sequence. What else does not fit,
            Flax refuses.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> x = jnp.arange(16.0).reshape(1, 4, 4, 1)
        >>> jax.grad(lambda x: flax_max_pool(x, (2, 2), (2, 2)).sum())(x)[0, :, :, 0]
        Array([[0., 0., 0., 0.],
               [0., 1., 0., 1.],
               [0., 0., 0., 0.],
               [0., 1., 0., 1.]], dtype=float32)

    Source: that of `cnnvjp.max_pool`.
    """
    return _flax_pool("max_pool", inputs, window_shape, strides, padding=padding)


def flax_avg_pool(
    inputs: chex.Array,
    window_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    padding: Padding = "VALID",
    count_include_pad: bool = True,
) -> jax.Array:
    """`flax.linen.avg_pool`, which is `flax.nnx.avg_pool` too, by the rule of `cnnvjp.sum_pool`.

    Args:
        inputs: maps, (*batch, *spatial, C).
        window_shape: the window's size along each spatial axis.
        strides: the step between two windows along each; None is 1, unlike in
            `cnnvjp.avg_pool`.
        padding: "SAME", "VALID", or a pair (low, high) for each spatial axis.
        count_include_pad: whether the average counts the padding.

    Returns:
        (*batch, *out_spatial, C).

    Raises:
        ImportError: if Flax is not installed.
        TypeError: for a window_shape or strides that are no sequence. What else does not fit,
            Flax refuses.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.arange(16.0).reshape(1, 4, 4, 1)
        >>> flax_avg_pool(x, (2, 2), (2, 2))[0, :, :, 0]
        Array([[ 2.5,  4.5],
               [10.5, 12.5]], dtype=float32)

    Source: that of `cnnvjp.sum_pool`.
    """
    options = dict(padding=padding, count_include_pad=count_include_pad)
    return _flax_pool("avg_pool", inputs, window_shape, strides, **options)


def equinox_layers(model: Tree) -> Tree:
    """An Equinox model whose `Conv*`, `ConvTranspose*`, `MaxPool*` and `AvgPool*` compute by ours.

    Each such layer becomes one of a subclass of its class, with the same fields and the very
    same arrays: `isinstance`, `eqx.tree_at` and paths like `model.layers[0].weight` are as
    before. The tree's structure is another one, since it holds the classes: rewrite a model
    before an optimizer or `eqx.tree_deserialise_leaves` sees it.

    Args:
        model: any pytree with Equinox layers in it.

    Returns:
        The model, with those layers replaced.

    Raises:
        ImportError: if Equinox is not installed.

    Example:
        >>> import equinox as eqx, jax, jax.numpy as jnp
        >>> model = eqx.nn.Sequential([eqx.nn.Conv2d(3, 8, 3, key=jax.random.key(0))])
        >>> ours = equinox_layers(model)
        >>> ours.layers[0].weight is model.layers[0].weight
        True
        >>> bool(jnp.allclose(ours(jnp.ones((3, 6, 6))), model(jnp.ones((3, 6, 6)))))
        True

    Source: that of `cnnvjp.explicit`.
    """
    nn = _imported("equinox").nn
    kinds = (nn.Conv, nn.ConvTranspose, nn.Pool)

    def rewritten(node: object) -> object:
        return _as_explicit(node) if isinstance(node, kinds) else node

    return jax.tree.map(rewritten, model, is_leaf=lambda node: isinstance(node, kinds))


def haiku_transformed(transformed: Tree) -> Tree:
    """What `hk.transform`, or one of its relatives, returned, with an apply that computes by ours.

    Every `hk.ConvND`, `hk.ConvNDTranspose` and pooling in it, and whatever else convolves, is
    replaced when apply is traced, as by `cnnvjp.explicit`. Parameters and init stay as they are.

    Args:
        transformed: a `hk.Transformed`, `hk.TransformedWithState`, `hk.MultiTransformed` or
            `hk.MultiTransformedWithState`.

    Returns:
        The same kind of pair of functions.

    Raises:
        ImportError: if Haiku is not installed.
        TypeError: for anything else.

    Example:
        >>> import haiku as hk, jax, jax.numpy as jnp
        >>> network = haiku_transformed(hk.transform(lambda x: hk.Conv2D(8, 3)(x)))
        >>> x = jnp.ones((1, 6, 6, 3))
        >>> params = network.init(jax.random.key(0), x)
        >>> network.apply(params, None, x).shape
        (1, 6, 6, 8)

    Source: that of `cnnvjp.explicit`.
    """
    haiku = _imported("haiku")
    kinds = (
        haiku.Transformed,
        haiku.TransformedWithState,
        haiku.MultiTransformed,
        haiku.MultiTransformedWithState,
    )
    if not isinstance(transformed, kinds):
        raise TypeError(
            f"transformed: got {type(transformed).__name__}; it must be what hk.transform, "
            "hk.transform_with_state, hk.multi_transform or hk.multi_transform_with_state returns"
        )
    return transformed._replace(apply=jax.tree.map(explicit, transformed.apply))


def _flax_pool(
    name: str,
    inputs: chex.Array,
    window_shape: Sequence[int],
    strides: Sequence[int] | None,
    **options: object,
) -> jax.Array:
    """Flax's pooling of this name, whose options are bound before anything is traced."""
    pool = getattr(_imported("flax.linen"), name)
    options["window_shape"] = _as_tuple("window_shape", window_shape)
    options["strides"] = None if strides is None else _as_tuple("strides", strides)
    return explicit(functools.partial(pool, **options))(inputs)


def _as_tuple(argument: str, value: object) -> tuple[int, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence | np.ndarray):
        raise TypeError(f"{argument}: got {value!r}; it must be a sequence of ints")
    return tuple(value)


def _as_explicit(layer: Tree) -> Tree:
    """A layer as one of the class below, with the same fields."""
    kind: Any = type(layer)
    new = object.__new__(_explicit_class(kind))
    for name, value in vars(layer).items():
        object.__setattr__(new, name, value)
    return new


@functools.cache
def _explicit_class(kind: Any) -> Any:
    """The subclass of a layer's class whose call is rewritten; of such a subclass, itself."""
    if getattr(kind, "is_explicit", False):
        return kind
    members = {
        "__call__": explicit(kind.__call__),
        "__module__": __name__,
        "__doc__": kind.__doc__,
        "is_explicit": True,
    }
    return type(kind)(f"Explicit{kind.__name__}", (kind,), members)


def _imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.split(".")[0]:
            raise
        raise ImportError(
            f"{error.name} is not installed; cnnvjp's extra interop brings it: "
            'pip install "cnnvjp[interop]"'
        ) from error


__all__ = ["equinox_layers", "flax_avg_pool", "flax_max_pool", "haiku_transformed"]
