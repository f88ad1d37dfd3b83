"""What `explicit` replaces: lax's convolutions and window reductions, by our operations."""

import functools
from collections.abc import Callable

import jax
from jax.extend.core import JaxprEqn, primitives

from cnnvjp.rewriting._jaxprs import Place, Replacement, Rewriter, finding_of, in_place_of, is_ours
from cnnvjp.rewriting._lax_calls import (
    Call,
    Served,
    Unserved,
    convolution,
    generic_pooling,
    pooling,
    types_of,
)

_SERVED: dict[str, Callable[[Call], Served]] = {
    "conv_general_dilated": convolution,
    "reduce_window_max": pooling("max"),
    "reduce_window_min": pooling("min"),
    "reduce_window_sum": pooling("add"),
    "reduce_window": generic_pooling,
}
# What JAX's own derivatives of window reductions are made of.
_DERIVED = ("select_and_scatter_add", "select_and_scatter", "select_and_gather_add")


def served(place: Place) -> Replacement | None:
    """What to put in a place: a call of ours, or for a reason nothing."""
    equation, name = place.equation, place.equation.primitive.name
    if name in _SERVED:
        return _replaced(equation)
    if name in _DERIVED:
        reason = "it is part of a derivative that JAX took; take derivatives of what is explicit"
        return Replacement(equation, (finding_of(equation, reason),))
    if is_ours(equation):
        return Replacement(equation, ())  # its body is as it should be
    return None


EXPLICIT = Rewriter(served)


def _replaced(equation: JaxprEqn) -> Replacement:
    """The equation as a call of ours."""
    kinds = types_of(equation.invars)
    try:
        if not all(isinstance(n, int) for kind in kinds for n in kind.shape):
            raise Unserved("a shape is symbolic")
        (call,) = jax.make_jaxpr(_compiled(Call.of(equation)))(*kinds).eqns
        ours, stock = (types_of(e.outvars)[0] for e in (call, equation))
        if ours != stock:
            raise Unserved(f"its type is {in_full(stock)}, and ours would be {in_full(ours)}")
    except Unserved as error:
        return Replacement(equation, (finding_of(equation, str(error)),))
    except (ValueError, TypeError) as error:  # what ours cannot do, they say
        return Replacement(equation, (finding_of(equation, f"our operation refuses it: {error}"),))
    return Replacement(in_place_of(equation, call), (finding_of(equation),))


@functools.lru_cache(maxsize=1024)
def _compiled(call: Call) -> Served:
    """One compiled function for all calls that are alike, which JAX then traces and lowers once."""
    served = _SERVED[call.primitive](call)
    if call.result.weak_type:
        served = _weakly_typed(served)
    served.__name__ = call.primitive
    return jax.jit(served)


def _weakly_typed(served: Served) -> Served:
    """The same with a result whose dtype yields to others, as that of a Python number does."""

    def weak(*operands: jax.Array) -> jax.Array:
        return weakly_typed(served(*operands))

    return weak


def weakly_typed(y: jax.Array) -> jax.Array:
    """`y` with a dtype that yields to others."""
    return primitives.convert_element_type_p.bind(
        y, new_dtype=y.dtype, weak_type=True, sharding=None
    )


def in_full(kind: jax.core.ShapedArray) -> str:
    """A type with what its short form leaves out."""
    sharding = f", sharded as {kind.sharding.spec}"
    return kind.str_short() + sharding + (", weakly typed" if kind.weak_type else "")
