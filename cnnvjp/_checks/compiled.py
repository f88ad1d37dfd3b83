"""How a public function calls the `custom_vjp` core that carries its rule."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import NamedSharding, reshard

from cnnvjp._jax_versions import static_arguments, undecorated
from cnnvjp._types import primal_type


def call(core: jax.custom_vjp, *args: object) -> Any:
    """Calls a core as one compiled function.

    An eager call then costs one dispatch instead of tracing the rule anew. Under an outer
    `jit` the core becomes part of that program, at the latest when it is lowered.

    On a mesh with Explicit axes the layout is part of an array's type, and a cotangent must have
    that of its primal, however the other arguments are divided: it is laid out so here, after
    the rule.

    Args:
        core: a `jax.custom_vjp` function whose `nondiff_argnums` are its static options.
        *args: its arguments.
    """
    static = static_arguments(core)
    arrays = [a for i, a in enumerate(args) if i not in static]
    shardings = [primal_type(a).sharding for a in jax.tree.leaves(arrays)]
    return _compiled(core, tuple(shardings) if any(shardings) else None)(*args)


@functools.cache
def _compiled(
    core: jax.custom_vjp, shardings: tuple[NamedSharding | None, ...] | None
) -> Callable[..., Any]:
    static = static_arguments(core)
    if shardings is not None:
        core = _laid_out(core, shardings)
    return jax.jit(core, static_argnums=static, inline=True)


def _laid_out(core: jax.custom_vjp, shardings: tuple[NamedSharding | None, ...]) -> jax.custom_vjp:
    """A core whose cotangents have the primals' shardings."""
    fwd, rule = core.fwd, core.bwd
    assert fwd is not None and rule is not None

    def bwd(*args: Any) -> Any:
        cotangents, structure = jax.tree.flatten(rule(*args), is_leaf=lambda c: c is None)
        placed = [
            c if c is None or sharding is None else reshard(c, sharding)
            for c, sharding in zip(cotangents, shardings, strict=True)
        ]
        return jax.tree.unflatten(structure, placed)

    laid_out = jax.custom_vjp(undecorated(core), nondiff_argnums=static_arguments(core))
    laid_out.defvjp(fwd, bwd)
    return laid_out
