"""The passes of a layer for `benchmark.py`: ours, and JAX's autodiff of the lax operation.

The other side is written as the libraries write it that people use: convolutions and poolings as
lax operations, normalizations as Flax has them, the cross-entropy as Optax.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from benchmark_suite import (
    BATCH_NORM,
    CROSS_ENTROPY,
    GELU,
    GROUP_NORM,
    LAYER_NORM,
    MAX,
    SAMPLING,
    Layer,
)
from jax import lax
from jax.scipy.ndimage import map_coordinates

import cnnvjp

OURS, AUTODIFF = "ours", "autodiff"
EPS = 1e-5

Function = Callable[..., Any]


def jit(function: Function, cpu_options: bool, **options: Any) -> Any:
    """Where everything that is measured gets compiled, but for the steps of `cnnvjp.train`.

    Args:
        function: what to compile.
        cpu_options: whether with `cnnvjp.cpu_compiler_options()`.
        **options: as `jax.jit` has them.
    """
    return cnnvjp.jit(function, compiler_options=None if cpu_options else {}, **options)


def layer_arrays(layer: Layer) -> dict[str, np.ndarray]:
    """Random operands of a layer, and dy, a cotangent of its output."""
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {"x": rng.standard_normal(layer.x, np.float32)}
    channels = layer.x[-1:]
    if layer.maps:
        arrays["w"] = rng.standard_normal(layer.w, np.float32)
    elif layer.family in (BATCH_NORM, LAYER_NORM, GROUP_NORM):
        arrays |= {name: rng.standard_normal(channels, np.float32) for name in ("gamma", "beta")}
    elif layer.family == CROSS_ENTROPY:
        arrays["labels"] = rng.integers(layer.x[-1], size=layer.x[:-1], dtype=np.int32)
    elif layer.family == SAMPLING:  # in the image, and a little beyond its edges
        grid = rng.uniform(-1.05, 1.05, (*layer.x[:-1], len(layer.x) - 2))
        arrays["grid"] = grid.astype(np.float32)
    y = jax.eval_shape(both_sides(layer)[OURS], *arrays.values())
    return arrays | {"dy": rng.standard_normal(y.shape, np.float32)}


def layer_functions(layer: Layer, what: str) -> tuple[dict[str, Function], list[jax.Array]]:
    """One pass of a layer, ours and by JAX's autodiff, and its arguments."""
    *operands, dy = map(jnp.asarray, layer_arrays(layer).values())
    sides = both_sides(layer)
    if what == "forward":
        return sides, operands
    if what == "forward and backward":
        floats = tuple(i for i, a in enumerate(operands) if jnp.issubdtype(a.dtype, jnp.floating))
        return {name: _both_ways(f, floats) for name, f in sides.items()}, [dy, *operands]
    wanted = 1 if what == "kernel gradient" else 0
    shape = operands.pop(wanted).shape
    return {name: _gradient(f, wanted, shape) for name, f in sides.items()}, [*operands, dy]


def both_sides(layer: Layer) -> dict[str, Function]:
    """The layer as a function of its operands, ours and the one that autodiff differentiates."""
    if layer.maps:
        return _convolutions(layer)
    if layer.kernel:
        return _poolings(layer)
    axes = tuple(range(len(layer.x)))
    sides: dict[str, dict[str, Function]] = {
        BATCH_NORM: {
            OURS: lambda *args: cnnvjp.batch_norm(*args, eps=EPS)[0],
            AUTODIFF: functools.partial(_flax_norm, axes=axes[:-1]),
        },
        LAYER_NORM: {
            OURS: functools.partial(cnnvjp.layer_norm, eps=EPS),
            AUTODIFF: functools.partial(_flax_norm, axes=axes[-1:]),
        },
        GROUP_NORM: {
            OURS: lambda x, gamma, beta: cnnvjp.group_norm(
                x, gamma, beta, layer.groups, eps=EPS, spatial_ndim=len(axes) - 2
            ),
            AUTODIFF: functools.partial(_flax_group_norm, groups=layer.groups),
        },
        SAMPLING: {OURS: _sampled, AUTODIFF: _map_coordinates},
        GELU: {OURS: cnnvjp.gelu, AUTODIFF: jax.nn.gelu},
        CROSS_ENTROPY: {
            OURS: cnnvjp.softmax_cross_entropy,
            AUTODIFF: optax.softmax_cross_entropy_with_integer_labels,
        },
    }
    return sides[layer.family]


def _convolutions(layer: Layer) -> dict[str, Function]:
    space = "DHW"[-layer.ndim :]
    dimensions = (f"N{space}C", f"{space}IO", f"N{space}C")
    padding = [(p, p) for p in layer.paddings]
    dilation = (layer.dilation,) * layer.ndim
    options: dict[str, Any] = dict(
        stride=layer.strides, padding=layer.paddings, dilation=dilation, groups=layer.groups
    )

    def lax_conv(x: jax.Array, w: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(
            x, w, layer.strides, padding, rhs_dilation=dilation, dimension_numbers=dimensions,
            feature_group_count=layer.groups,
        )  # fmt: skip

    def lax_transposed(y: jax.Array, w: jax.Array) -> jax.Array:
        flipped = (f"N{space}C", f"{space}OI", f"N{space}C")
        edges = [(k - 1 - p,) * 2 for k, p in zip(layer.kernel, layer.paddings, strict=True)]
        turned = lax.rev(w, range(layer.ndim))
        ones = (1,) * layer.ndim
        return lax.conv_general_dilated(
            y, turned, ones, edges, layer.strides, dimension_numbers=flipped
        )

    ours = cnnvjp.conv_transpose if layer.transposed else cnnvjp.conv
    return {
        OURS: functools.partial(ours, **options),
        AUTODIFF: lax_transposed if layer.transposed else lax_conv,
    }


def _poolings(layer: Layer) -> dict[str, Function]:
    window, strides = (1, *layer.kernel, 1), (1, *layer.strides, 1)
    edges = [(0, 0), *[(p, p) for p in layer.paddings], (0, 0)]
    options: dict[str, Any] = dict(stride=layer.strides, padding=layer.paddings)
    if layer.family == MAX:
        return {
            OURS: lambda x: cnnvjp.max_pool(x, layer.kernel, **options),
            AUTODIFF: lambda x: lax.reduce_window(x, -jnp.inf, lax.max, window, strides, edges),
        }
    taps = float(np.prod(layer.kernel))
    return {
        OURS: lambda x: cnnvjp.avg_pool(x, layer.kernel, **options),
        AUTODIFF: lambda x: lax.reduce_window(x, 0.0, lax.add, window, strides, edges) / taps,
    }


def _sampled(x: jax.Array, grid: jax.Array) -> jax.Array:
    return cnnvjp.sample(x, cnnvjp.normalized_positions(grid, x.shape[1:-1]))


def _map_coordinates(x: jax.Array, grid: jax.Array) -> jax.Array:
    size = jnp.array(x.shape[1:-1], x.dtype)
    positions = jnp.moveaxis(((grid[..., ::-1] + 1) * size - 1) / 2, -1, 0)

    def channel(plane: jax.Array, positions: jax.Array) -> jax.Array:
        return map_coordinates(plane, list(positions), order=1)

    image = jax.vmap(channel, (-1, None), -1)
    return jax.vmap(image, (0, 1))(x, positions)


def _flax_norm(
    x: jax.Array, gamma: jax.Array, beta: jax.Array, *, axes: tuple[int, ...]
) -> jax.Array:
    """As `flax.linen.BatchNorm` and `LayerNorm`: the variance from the mean of squares."""
    mean = jnp.mean(x, axes, keepdims=True)
    var = jnp.maximum(0.0, jnp.mean(x * x, axes, keepdims=True) - mean * mean)
    return (x - mean) * (lax.rsqrt(var + EPS) * gamma) + beta


def _flax_group_norm(x: jax.Array, gamma: jax.Array, beta: jax.Array, *, groups: int) -> jax.Array:
    """As `flax.linen.GroupNorm`, which repeats the statistics for the channels of a group."""
    size = x.shape[-1] // groups
    grouped = x.reshape(*x.shape[:-1], groups, size)
    axes = (*range(1, x.ndim - 1), -1)
    mean = jnp.mean(grouped, axes)
    var = jnp.maximum(0.0, jnp.mean(grouped * grouped, axes) - mean * mean)
    each = (x.shape[0], *(1,) * (x.ndim - 2), x.shape[-1])
    mean, var = (jnp.repeat(a, size, axis=-1).reshape(each) for a in (mean, var))
    return (x - mean) * (lax.rsqrt(var + EPS) * gamma) + beta


def _gradient(f: Function, side: int, shape: tuple[int, ...]) -> Function:
    """The gradient with respect to one argument alone: the rest is not computed.

    The function takes the other argument, if there is one, and the cotangent.
    """

    def run(*kept_and_dy: jax.Array) -> jax.Array:
        *arguments, dy = kept_and_dy
        arguments.insert(side, jnp.zeros(shape, dy.dtype))
        return jax.vjp(f, *arguments)[1](dy)[side]

    return run


def _both_ways(f: Function, floats: tuple[int, ...]) -> Function:
    """The output and the gradients with respect to the arguments at those positions."""

    def run(dy: jax.Array, *arguments: jax.Array) -> Any:
        def of_floats(*some: jax.Array) -> Any:
            filled = list(arguments)
            for i, a in zip(floats, some, strict=True):
                filled[i] = a
            return f(*filled)

        y, pullback = jax.vjp(of_floats, *(arguments[i] for i in floats))
        return y, pullback(dy)

    return run
