"""How the supported versions of JAX differ, each difference with the version that made it."""

from collections.abc import Callable
from typing import Any

import jax

_VERSION = jax.__version_info__

# lax can transpose a convolution whose output is wider than its operands.
TRANSPOSES_WIDENING = _VERSION >= (0, 10)

# XLA:CPU notices updates in place of a matrix that it has packed for a product. Before, a product
# with a parameter of the program that was donated, as a training step's weights are, used the
# packed copy of the last call.
REPACKS = _VERSION >= (0, 8, 2)

# XLA:CPU folds a gather of a constant correctly where more constants follow.
FOLDS_GATHERS = _VERSION >= (0, 9)

# XLA:CPU's kernel gradient reads dy over and over, from memory where it is large.
REREADS = _VERSION >= (0, 9, 1)

# XLA:CPU computes the multiply-adds of whole maps once. Before, what reads them, a pooling say,
# computed them again for each of its windows, barrier or not.
SUMS_ONCE = _VERSION >= (0, 12)


def cast_varying(x: Any, axes: tuple[str, ...]) -> Any:
    """`x`, inside `shard_map`, as an array that varies over more mesh axes."""
    if hasattr(jax.lax, "pcast"):
        return jax.lax.pcast(x, axes, to="varying")
    return jax.lax.pvary(x, axes)  # type: ignore[attr-defined]  # before JAX 0.8


def varying_axes(x: Any) -> frozenset[str]:
    """The mesh axes over which an array differs between the devices of a `shard_map`."""
    kind = jax.typeof(x)
    manual = getattr(kind, "manual_axis_type", None)  # since JAX 0.12
    return frozenset(kind.vma if manual is None else manual.varying)


def static_arguments(core: Any) -> tuple[int, ...]:
    """The positions of a `custom_vjp` function's static options."""
    if hasattr(core, "nondiff_argnums"):
        return tuple(core.nondiff_argnums)
    return tuple(core.static_argnums)  # of the class that JAX_CUSTOM_VJP3 makes


def undecorated(core: Any) -> Callable[..., Any]:
    """The function that a `custom_vjp` function was made of."""
    return core.fun if hasattr(core, "fun") else core.f


def static_options(equation: Any) -> tuple[Any, ...] | None:
    """The static options of a `custom_vjp` function that an equation calls.

    None if they are not those of the equation's arrays, which `jax.vmap` has given more axes.
    """
    transforms = {function.__name__: args for function, args in equation.params["bwd"].transforms}
    if "_flatten_bwd" not in transforms:
        return None
    (values,) = transforms.get("_prepend_static_args", ((),))
    return tuple(value.val for value in values)


def forward_pass(equation: Any) -> tuple[Any, Any]:
    """The jaxpr of a `custom_vjp` function's forward pass, whose last results are the function's.

    Returns:
        The jaxpr and its constants.
    """
    arrays = len(equation.invars) - equation.params["num_consts"]
    return equation.params["fwd_jaxpr_thunk"].call_wrapped(*(True,) * arrays)
