"""Our operations in a program: which public function an equation computes, with which options.

A program shows of an operation its core, a `custom_vjp` function of arrays and static options.
"""

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jax.extend.core import JaxprEqn

from cnnvjp import (
    activations,
    affine,
    batch_normalization,
    convolution,
    max_pooling,
    normalization,
    smooth_activations,
    softmax_activations,
    sum_pooling,
)
from cnnvjp._checks.convolution import Options
from cnnvjp._jax_versions import static_options
from cnnvjp._types import Ties
from cnnvjp._windows.geometry import Window
from cnnvjp.rewriting._jaxprs import name_and_file, operands_of
from cnnvjp.rewriting._lax_calls import types_of

Function = Callable[..., Any]
Spelled = tuple[Function, dict[str, Any]]  # a public function, and its options by their names


def _placed(window: Window) -> dict[str, Any]:
    """Stride, padding and dilation as options; those that a default says are left out."""
    options: dict[str, Any] = {}
    if set(window.stride) != {1}:
        options["stride"] = window.stride
    if set(window.padding) != {(0, 0)}:
        options["padding"] = window.padding
    if set(window.dilation) != {1}:
        options["dilation"] = window.dilation
    return options


def _pooled(window: Window) -> dict[str, Any]:
    """The same for a pooling, whose stride is its window by default."""
    options = {"window": window.size, **_placed(window), "stride": window.stride}
    if window.stride == window.size:
        del options["stride"]
    return options | ({"ceil_mode": True} if any(window.overhang) else {})


def _convolved(options: Options) -> dict[str, Any]:
    return dict(
        groups=options.groups, flip_kernel=options.flip_kernel, precision=options.precision
    ) | {"preferred_element_type": options.dtype}


def _conv(window: Window, options: Options) -> Spelled:
    return convolution.conv, _placed(window) | _convolved(options)


def _conv_transpose(window: Window, options: Options) -> Spelled:
    placed = _placed(window) | {"output_size": window.input_size}
    return convolution.conv_transpose, placed | _convolved(options)


def _winner_pool(window: Window, largest: bool, ties: Ties, return_argmax: bool) -> Spelled:
    pool = max_pooling.max_pool if largest else max_pooling.min_pool
    return pool, _pooled(window) | dict(ties=ties, return_argmax=return_argmax)


def _avg_pool(window: Window, count_include_pad: bool) -> Spelled:
    return sum_pooling.avg_pool, _pooled(window) | dict(count_include_pad=count_include_pad)


def _group_norm(groups: int, ndim: int, eps: float) -> Spelled:
    if ndim == 0 and groups == 1:
        return normalization.layer_norm, dict(eps=eps)
    return normalization.group_norm, dict(groups=groups, eps=eps, spatial_ndim=ndim)


# By the name of a core, what its static options are to the public function.
_SPELLED: dict[str, Callable[..., Spelled]] = {
    "_conv": _conv,
    "_conv_transpose": _conv_transpose,
    "_winner_pool": _winner_pool,
    "_sum_pool": lambda window: (sum_pooling.sum_pool, _pooled(window)),
    "_avg_pool": _avg_pool,
    "_lp_pool": lambda window, p: (sum_pooling.lp_pool, _pooled(window) | {"p": p}),
    "_dense": lambda precision: (affine.dense, {"precision": precision}),
    "_leaky_relu": lambda slope: (activations.leaky_relu, {"negative_slope": slope}),
    "_elu": lambda alpha: (activations.elu, {"alpha": alpha}),
    "_gelu": lambda approximate: (smooth_activations.gelu, {"approximate": approximate}),
    "_softmax": lambda axis: (softmax_activations.softmax, {"axis": axis}),
    "_log_softmax": lambda axis: (softmax_activations.log_softmax, {"axis": axis}),
    "_group_norm": _group_norm,
    "_batch_norm_inference": lambda eps: (batch_normalization.batch_norm_inference, {"eps": eps}),
}
# Those that act entry by entry and have no options: the same under `jax.vmap`.
_ENTRYWISE = (
    activations.relu,
    activations.relu6,
    activations.hard_swish,
    smooth_activations.sigmoid,
    smooth_activations.tanh,
    smooth_activations.softplus,
    smooth_activations.silu,
)
REPLACEABLE: tuple[Function, ...] = (
    *_ENTRYWISE,
    activations.leaky_relu,
    activations.elu,
    activations.prelu,
    smooth_activations.gelu,
    softmax_activations.softmax,
    softmax_activations.log_softmax,
    convolution.conv,
    convolution.conv_transpose,
    max_pooling.max_pool,
    max_pooling.min_pool,
    sum_pooling.sum_pool,
    sum_pooling.avg_pool,
    sum_pooling.lp_pool,
    affine.add_bias,
    affine.scale,
    affine.dense,
    normalization.layer_norm,
    normalization.group_norm,
    normalization.standardize,
    batch_normalization.batch_norm_inference,
)


def name_of(equation: JaxprEqn) -> str:
    """The name of one of our operations, as far as its core says it."""
    name, _ = name_and_file(equation.params["call_jaxpr"])
    return name.removeprefix("_")


def spelled(equation: JaxprEqn) -> Spelled | None:
    """The public function that an equation computes of its arrays, and its options.

    None inside `jax.vmap`, where arrays have an axis more than the options speak of, and for
    operations that are made of several cores.
    """
    name, file = name_and_file(equation.params["call_jaxpr"])
    options = static_options(equation)
    if options is not None and name in _SPELLED:
        function, named = _SPELLED[name](*options)
        return function, _given(function, named, equation)
    module = importlib.import_module(f"cnnvjp.{Path(file).stem}")
    entire = getattr(module, name[1:], None)
    if entire in _ENTRYWISE or (entire in REPLACEABLE and options == ()):
        return entire, {}
    return None


def _given(function: Function, options: dict[str, Any], equation: JaxprEqn) -> dict[str, Any]:
    """Options without those that a default says."""
    parameters = inspect.signature(function).parameters
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    defaults["preferred_element_type"] = types_of(operands_of(equation))[0].dtype
    return {name: value for name, value in options.items() if value != defaults[name]}
