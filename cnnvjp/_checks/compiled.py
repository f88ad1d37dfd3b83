"""How a public function calls the `custom_vjp` core that carries its rule."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from cnnvjp._jax_versions import static_arguments


def call(core: jax.custom_vjp, *args: object) -> Any:
    """Calls a core as one compiled function.

    An eager call then costs one dispatch instead of tracing the rule anew. Under an outer
    `jit` the core becomes part of that program, at the latest when it is lowered.

    Args:
        core: a `jax.custom_vjp` function whose `nondiff_argnums` are its static options.
        *args: its arguments.
    """
    return _compiled(core)(*args)


@functools.cache
def _compiled(core: jax.custom_vjp) -> Callable[..., Any]:
    return jax.jit(core, static_argnums=static_arguments(core), inline=True)
