"""A function of any arguments as one that computes its rewritten program."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import chex
import jax
import numpy as np
from jax.extend import core

from cnnvjp.rewriting._in_place import Copy, Outcome

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def traced(
    f: Callable[Arguments, Result], rewritten: Callable[[core.ClosedJaxpr], core.ClosedJaxpr]
) -> Callable[Arguments, Result]:
    """The function that traces f at every call, and computes what its program is rewritten to."""

    @functools.wraps(f)
    def computed(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        leaves = jax.tree.leaves((args, kwargs))
        arrays = {id(x): x for x in leaves if isinstance(x, jax.Array | np.ndarray | np.generic)}
        outcomes: list[Outcome] = []

        def of_arrays(*tracers: chex.Array) -> list[chex.Array]:
            copy = Copy((args, kwargs), dict(zip(arrays, tracers, strict=True)))
            copied_args, copied_kwargs = copy.tree
            result = f(*copied_args, **copied_kwargs)
            leaves, outcome = copy.outcome(result)
            outcomes.append(outcome)
            return leaves

        closed = rewritten(jax.make_jaxpr(of_arrays)(*arrays.values()))
        return outcomes[0].settle(core.jaxpr_as_fun(closed)(*arrays.values()))

    return computed


def check_function(name: str, value: object) -> None:
    """Checks an argument that is a function."""
    if not callable(value):
        raise TypeError(f"{name}: got {type(value).__name__}; it must be a function")
