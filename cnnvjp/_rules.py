"""How a public function calls the `custom_vjp` core that carries its rule."""

import functools
from collections.abc import Callable
from typing import Any

import jax


def call(core: jax.custom_vjp, *args: Any) -> Any:
    """Calls a core as one compiled function.

    An eager call then costs one dispatch instead of tracing the rule anew. Under an outer
    `jit` the core becomes part of that program, at the latest when it is lowered.

    Args:
        core: a `jax.custom_vjp` function whose `nondiff_argnums` are its static options.
        *args: its arguments.
    """
    return _compiled(core)(*args)


@functools.cache
def _compiled(core: Any) -> Callable[..., Any]:
    # With JAX_CUSTOM_VJP3 the core is an object of another class.
    options = core.nondiff_argnums if hasattr(core, "nondiff_argnums") else core.static_argnums
    return jax.jit(core, static_argnums=tuple(options), inline=True)
