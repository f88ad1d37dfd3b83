"""Rewrites jaxprs: lax's convolutions and window reductions become calls of our operations.

An equation that one of our operations can compute becomes a call of a function compiled from
it, with the same variables; an equation that holds jaxprs gets them rewritten. Everything else
of a program stays the very equations that it had: effects, names, shardings, donations.
"""

import dataclasses
import functools
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import chex
import jax
from jax.extend import core, source_info_util
from jax.extend.core import JaxprEqn, primitives

from cnnvjp.rewriting._lax_calls import (
    Call,
    Served,
    Unserved,
    convolution,
    generic_pooling,
    pooling,
    types_of,
)

Program = TypeVar("Program", core.Jaxpr, core.ClosedJaxpr)

_SERVED: dict[str, Callable[[Call], Served]] = {
    "conv_general_dilated": convolution,
    "reduce_window_max": pooling("max"),
    "reduce_window_min": pooling("min"),
    "reduce_window_sum": pooling("add"),
    "reduce_window": generic_pooling,
}
# What JAX's own derivatives of window reductions are made of.
_DERIVED = ("select_and_scatter_add", "select_and_scatter", "select_and_gather_add")

# Primitives whose jaxprs are rewritten in place. Of the custom rules, these are their primal
# bodies. `shard_map` is none of them: what it holds can only be traced where its axes are bound.
_HOLDERS = {
    "jit": ("jaxpr",),
    "closed_call": ("call_jaxpr",),
    "call": ("call_jaxpr",),
    "eval_jaxpr": ("call_jaxpr",),  # these two, since JAX 0.12
    "scan": ("jaxpr",),
    "while": ("cond_jaxpr", "body_jaxpr"),
    "cond": ("branches",),
    "remat2": ("jaxpr",),  # jax.checkpoint
    "custom_jvp_call": ("call_jaxpr",),
    "custom_vjp_call": ("call_jaxpr",),
}
_CUSTOM = ("custom_jvp_call", "custom_vjp_call")
_PACKAGE = Path(__file__).parents[1]


@dataclasses.dataclass(frozen=True)
class Finding:
    """One convolution or window reduction of a program, or several alike.

    Attributes:
        operation: lax's name for it.
        operands: their types.
        result: its type.
        replaced: whether one of our operations computes it.
        reason: why it was left; empty if it was replaced.
        scope: the names that `jax.named_scope`, and with it Flax and Haiku, put around it.
        source: the line of Python that called for it, as far as JAX knows.
        count: how many there are.
    """

    operation: str
    operands: tuple[str, ...]
    result: str
    replaced: bool
    reason: str = ""
    scope: str = ""
    source: str = ""
    count: int = 1

    def __str__(self) -> str:
        verdict = "replaced" if self.replaced else "left"
        what = f"{verdict} {self.count} × {self.operation}({', '.join(self.operands)})"
        where = " ".join(part for part in (self.scope, self.source and f"at {self.source}") if part)
        why = self.reason and f": {self.reason}"
        return f"{what} -> {self.result}{why}" + (where and f"  [{where}]")


Findings = tuple[Finding, ...]

# Of every jaxpr that was rewritten, what became of it. A function that is compiled once and
# called often is one jaxpr, and must stay one for JAX to compile it once.
_known: weakref.WeakKeyDictionary[Any, tuple[Any, Findings]] = weakref.WeakKeyDictionary()


def rewritten(jaxpr: Program) -> tuple[Program, Findings]:
    """A jaxpr, closed or not, with our operations in it, and what was found in it.

    It is the very same one if nothing in it could be replaced.
    """
    if jaxpr not in _known:
        pairs = [_equation(equation) for equation in jaxpr.eqns]
        findings = tuple(finding for _, found in pairs for finding in found)
        new = None  # itself: as a value it would keep its own key alive
        if any(finding.replaced for finding in findings):
            new = _with_equations(jaxpr, [equation for equation, _ in pairs])
        _known[jaxpr] = new, findings
    new, findings = _known[jaxpr]
    return (jaxpr if new is None else new), findings


def _with_equations(jaxpr: Program, equations: list[JaxprEqn]) -> Program:
    if isinstance(jaxpr, core.Jaxpr):  # since JAX 0.12, closed ones too
        return jaxpr.replace(eqns=equations)
    return jaxpr.replace(jaxpr=jaxpr.jaxpr.replace(eqns=equations))


def _equation(equation: JaxprEqn) -> tuple[JaxprEqn, Findings]:
    name = equation.primitive.name
    if name in _SERVED:
        return _replaced(equation)
    if name in _DERIVED:
        reason = "it is part of a derivative that JAX took; take derivatives of what is explicit"
        return equation, (_finding(equation, reason),)
    if name == "shard_map":
        return _shard_map(equation)
    if name in _CUSTOM and _is_ours(equation):
        return equation, ()
    if name in _HOLDERS:
        return _holder(equation)
    return equation, tuple(_findings_left(equation, f"it is inside {name}, which stays as it is"))


def _replaced(equation: JaxprEqn) -> tuple[JaxprEqn, Findings]:
    """The equation as a call of ours."""
    kinds = types_of(equation.invars)
    try:
        if not all(isinstance(n, int) for kind in kinds for n in kind.shape):
            raise Unserved("a shape is symbolic")
        (call,) = jax.make_jaxpr(_compiled(Call.of(equation)))(*kinds).eqns
        ours, stock = (types_of(e.outvars)[0] for e in (call, equation))
        if ours != stock:
            raise Unserved(f"its type is {_in_full(stock)}, and ours would be {_in_full(ours)}")
    except Unserved as error:
        return equation, (_finding(equation, str(error)),)
    except (ValueError, TypeError) as error:  # what ours cannot do, they say
        return equation, (_finding(equation, f"our operation refuses it: {error}"),)
    return _in_place_of(equation, call), (_finding(equation),)


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
        y = served(*operands)
        return primitives.convert_element_type_p.bind(
            y, new_dtype=y.dtype, weak_type=True, sharding=None
        )

    return weak


def _in_full(kind: jax.core.ShapedArray) -> str:
    """A type with what its short form leaves out."""
    sharding = f", sharded as {kind.sharding.spec}"
    return kind.str_short() + sharding + (", weakly typed" if kind.weak_type else "")


def _holder(equation: JaxprEqn) -> tuple[JaxprEqn, Findings]:
    """The equation with its jaxprs rewritten."""
    params, found = dict(equation.params), []
    for name in _HOLDERS[equation.primitive.name]:
        held = params[name]
        pairs = [rewritten(jaxpr) for jaxpr in (held if isinstance(held, tuple) else (held,))]
        jaxprs = tuple(jaxpr for jaxpr, _ in pairs)
        params[name] = jaxprs if isinstance(held, tuple) else jaxprs[0]
        found += [finding for _, findings in pairs for finding in findings]
    findings = _within(equation, found)
    changed = any(finding.replaced for finding in findings)
    return (equation.replace(params=params) if changed else equation), findings


def _shard_map(equation: JaxprEqn) -> tuple[JaxprEqn, Findings]:
    """The equation traced anew, so that its body is rewritten where its mesh axes are bound."""
    params, found = equation.params, []

    def body(*args: jax.Array) -> list[jax.Array]:
        jaxpr, findings = rewritten(params["jaxpr"])
        found.append(findings)
        return core.jaxpr_as_fun(core.ClosedJaxpr(jaxpr, ()))(*args)

    # Named so before JAX 0.9, newly_manual_axes after.
    (manual,) = (value for name, value in params.items() if name.endswith("manual_axes"))
    mapped = jax.shard_map(
        body,
        mesh=params["mesh"],
        in_specs=params["in_specs"],
        out_specs=list(params["out_specs"]),
        axis_names=set(manual),
        check_vma=params["check_vma"],
    )
    (call,) = jax.make_jaxpr(mapped)(*(v.aval for v in equation.invars)).eqns
    findings = _within(equation, found[0])
    if not any(finding.replaced for finding in findings):
        return equation, findings
    return _in_place_of(equation, call), findings


def _in_place_of(equation: JaxprEqn, call: JaxprEqn) -> JaxprEqn:
    """A traced equation with the variables of another, its names and its context."""
    chex.assert_equal(len(call.invars), len(equation.invars))  # no constant has joined them
    return call.replace(
        invars=equation.invars,
        outvars=equation.outvars,
        source_info=equation.source_info,
        ctx=equation.ctx,
    )


def _is_ours(equation: JaxprEqn) -> bool:
    """Whether a custom rule is one of this library's: its body is as it should be."""
    source = equation.params["call_jaxpr"].jaxpr.debug_info.func_src_info or ""
    return f" at {_PACKAGE}" in source


def _findings_left(equation: JaxprEqn, reason: str) -> Iterator[Finding]:
    """What is in the jaxprs of an equation that is left alone."""
    for value in equation.params.values():
        for jaxpr in value if isinstance(value, tuple | list) else (value,):
            if isinstance(jaxpr, core.Jaxpr | core.ClosedJaxpr):
                for inner in jaxpr.eqns:
                    if inner.primitive.name in _SERVED:
                        yield _finding(inner, reason)
                    yield from _findings_left(inner, reason)


def _finding(equation: JaxprEqn, reason: str | None = None) -> Finding:
    return Finding(
        equation.primitive.name,
        tuple(v.aval.str_short() for v in equation.invars),
        equation.outvars[0].aval.str_short(),
        reason is None,
        reason or "",
        str(equation.source_info.name_stack),
        source_info_util.summarize(equation.source_info),
    )


def _within(equation: JaxprEqn, findings: Iterable[Finding]) -> Findings:
    """Findings of an equation's jaxprs, with the names around the equation before theirs."""
    outer = str(equation.source_info.name_stack)

    def one(finding: Finding) -> Finding:
        scope = "/".join(part for part in (outer, finding.scope) if part)
        return dataclasses.replace(finding, scope=scope)

    return tuple(map(one, findings))
