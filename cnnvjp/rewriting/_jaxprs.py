"""Rewrites jaxprs: equations are replaced, in a program and in all programs that it holds.

An equation that is replaced becomes a call of a compiled function with the same variables; an
equation that holds jaxprs gets them rewritten. Everything else of a program stays the very
equations that it had: effects, names, shardings, donations.
"""

import dataclasses
import itertools
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import chex
import jax
from jax.extend import core, source_info_util
from jax.extend.core import JaxprEqn

Program = TypeVar("Program", core.Jaxpr, core.ClosedJaxpr)

# Primitives whose jaxprs are rewritten in place. Of the custom rules, these are their primal
# bodies. `shard_map` is none of them: what it holds can only be traced where its axes are bound.
HOLDERS = {
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
_PACKAGE = Path(__file__).parents[1]


@dataclasses.dataclass(frozen=True)
class Finding:
    """One operation of a program, or several alike.

    Attributes:
        operation: lax's name for it, or the name of the function that computes it.
        operands: their types.
        result: its type.
        replaced: whether it was replaced, by one of our operations or by a chosen rule.
        reason: why it was left; empty if it was replaced.
        scope: the names that `jax.named_scope`, and with it Flax and Haiku, put around it.
        source: the line of Python that called for it, as far as JAX knows.
        rule: the name of the chosen rule; empty if it is one of our operations.
        count: how many there are.
    """

    operation: str
    operands: tuple[str, ...]
    result: str
    replaced: bool
    reason: str = ""
    scope: str = ""
    source: str = ""
    rule: str = ""
    count: int = 1

    def __str__(self) -> str:
        verdict = "replaced" if self.replaced else "left"
        what = f"{verdict} {self.count} × {self.operation}({', '.join(self.operands)})"
        where = " ".join(part for part in (self.scope, self.source and f"at {self.source}") if part)
        rule = self.rule and f" by {self.rule}"
        why = self.reason and f": {self.reason}"
        return f"{what} -> {self.result}{rule}{why}" + (where and f"  [{where}]")


Findings = tuple[Finding, ...]


@dataclasses.dataclass(frozen=True)
class Place:
    """An equation in its program.

    Attributes:
        jaxpr: the program.
        index: which of its equations.
        scope: the names around the program, those of the equation not among them.
    """

    jaxpr: core.Jaxpr
    index: int
    scope: str = ""

    @property
    def equation(self) -> JaxprEqn:
        """The equation itself."""
        return self.jaxpr.eqns[self.index]


@dataclasses.dataclass(frozen=True)
class Replacement:
    """What stands in the place of an equation, and of those after it up to a length."""

    equation: JaxprEqn
    findings: Findings
    length: int = 1


class Rewriter:
    """Goes through a program and all that it holds, and replaces equations."""

    def __init__(
        self, replacement: Callable[[Place], Replacement | None], *, by_scope: bool = False
    ):
        """A way of rewriting.

        Args:
            replacement: what to put in a place; None for what is only gone through.
            by_scope: whether that depends on the names around a program.
        """
        self._replacement = replacement
        self._by_scope = by_scope
        # Of every jaxpr that was rewritten, what became of it. A function that is compiled once
        # and called often is one jaxpr, and must stay one for JAX to compile it once.
        self._known: weakref.WeakKeyDictionary[Any, dict[str, tuple[Any, Findings]]]
        self._known = weakref.WeakKeyDictionary()

    def rewritten(self, jaxpr: Program, scope: str = "") -> tuple[Program, Findings]:
        """A jaxpr, closed or not, with replacements in it, and what was found in it.

        It is the very same one if nothing in it was replaced.
        """
        known, name = self._known.setdefault(jaxpr, {}), scope if self._by_scope else ""
        if name not in known:
            replacements = list(self._replacements(opened(jaxpr), scope))
            findings = tuple(finding for r in replacements for finding in r.findings)
            new = None  # itself: as a value it would keep its own key alive
            if any(finding.replaced for finding in findings):
                new = _with_equations(jaxpr, [r.equation for r in replacements])
            known[name] = new, findings
        new, findings = known[name]
        return (jaxpr if new is None else new), findings

    def _replacements(self, jaxpr: core.Jaxpr, scope: str) -> Iterator[Replacement]:
        index = 0
        while index < len(jaxpr.eqns):
            place = Place(jaxpr, index, scope)
            replacement = self._replacement(place) or self.gone_through(place)
            yield replacement
            index += replacement.length

    def gone_through(self, place: Place) -> Replacement:
        """The equation with its jaxprs rewritten."""
        equation, name = place.equation, place.equation.primitive.name
        if name == "shard_map":
            return self._shard_map(place)
        if name in HOLDERS:
            return self._holder(place)
        reason = f"it is inside {name}, which stays as it is"
        return Replacement(equation, tuple(self._left(equation, reason)))

    def _holder(self, place: Place) -> Replacement:
        equation = place.equation
        params, found = dict(equation.params), []
        for name in HOLDERS[equation.primitive.name]:
            held = params[name]
            inside = scope_of(place)
            pairs = [
                self.rewritten(jaxpr, inside)
                for jaxpr in (held if isinstance(held, tuple) else (held,))
            ]
            jaxprs = tuple(jaxpr for jaxpr, _ in pairs)
            params[name] = jaxprs if isinstance(held, tuple) else jaxprs[0]
            found += [finding for _, findings in pairs for finding in findings]
        findings = _within(equation, found)
        changed = any(finding.replaced for finding in findings)
        return Replacement(equation.replace(params=params) if changed else equation, findings)

    def _shard_map(self, place: Place) -> Replacement:
        """The equation traced anew, so that its body is rewritten where its mesh axes are bound."""
        equation = place.equation
        params, found = equation.params, []

        def body(*args: jax.Array) -> list[jax.Array]:
            jaxpr, findings = self.rewritten(params["jaxpr"], scope_of(place))
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
            return Replacement(equation, findings)
        return Replacement(in_place_of(equation, call), findings)

    def _left(self, equation: JaxprEqn, reason: str) -> Iterator[Finding]:
        """What would be replaced in the jaxprs of an equation that is left alone."""
        for jaxpr in jaxprs_of(equation):
            for index, inner in enumerate(jaxpr.eqns):
                found = self._replacement(Place(jaxpr, index))
                for finding in found.findings if found else ():
                    yield dataclasses.replace(finding, replaced=False, reason=reason, rule="")
                yield from self._left(inner, reason)


def opened(jaxpr: core.Jaxpr | core.ClosedJaxpr) -> core.Jaxpr:
    """The jaxpr in one that may be closed."""
    return jaxpr.jaxpr if isinstance(jaxpr, core.ClosedJaxpr) else jaxpr


def jaxprs_of(equation: JaxprEqn) -> Iterator[core.Jaxpr]:
    """The jaxprs among an equation's parameters."""
    for value in equation.params.values():
        for jaxpr in value if isinstance(value, tuple | list) else (value,):
            if isinstance(jaxpr, core.Jaxpr | core.ClosedJaxpr):
                yield opened(jaxpr)


def operands_of(equation: JaxprEqn) -> list[Any]:
    """The variables of an equation's arrays, without constants that have joined them."""
    return list(equation.invars[equation.params.get("num_consts", 0) * _has_rule(equation) :])


def _has_rule(equation: JaxprEqn) -> bool:
    return equation.primitive.name in ("custom_jvp_call", "custom_vjp_call")


def _with_equations(jaxpr: Program, equations: list[JaxprEqn]) -> Program:
    if isinstance(jaxpr, core.Jaxpr):  # since JAX 0.12, closed ones too
        return jaxpr.replace(eqns=equations)
    return jaxpr.replace(jaxpr=jaxpr.jaxpr.replace(eqns=equations))


def in_place_of(
    equation: JaxprEqn,
    call: JaxprEqn,
    invars: Sequence[Any] | None = None,
    outvars: Sequence[Any] | None = None,
) -> JaxprEqn:
    """A traced equation with the variables of another, its names and its context."""
    invars = equation.invars if invars is None else invars
    chex.assert_equal(len(call.invars), len(invars))  # no constant has joined them
    return call.replace(
        invars=list(invars),
        outvars=list(equation.outvars if outvars is None else outvars),
        source_info=equation.source_info,
        ctx=equation.ctx,
    )


def is_ours(equation: JaxprEqn) -> bool:
    """Whether an equation calls the core of one of our operations, such as `_conv`.

    A rule of a user's own for one of our functions, `jax.custom_vjp(cnnvjp.relu)`, is not ours.
    """
    if equation.primitive.name != "custom_vjp_call":
        return False
    name, where = name_and_file(equation.params["call_jaxpr"])
    return name.startswith("_") and where.startswith(f"{_PACKAGE}")


def name_and_file(jaxpr: core.Jaxpr | core.ClosedJaxpr) -> tuple[str, str]:
    """The name of the function that a jaxpr was traced from, and the file that it stands in."""
    name, _, where = (opened(jaxpr).debug_info.func_src_info or "").partition(" at ")
    return name, where.rpartition(":")[0]


def finding_of(equation: JaxprEqn, reason: str | None = None, **fields: Any) -> Finding:
    """What is found at an equation: replaced, or left for a reason; fields are set as given."""
    described = Finding(
        equation.primitive.name,
        tuple(v.aval.str_short() for v in equation.invars),
        ", ".join(v.aval.str_short() for v in equation.outvars),
        reason is None,
        reason or "",
        str(equation.source_info.name_stack),
        _line_of(equation),
    )
    return dataclasses.replace(described, **fields)


def _line_of(equation: JaxprEqn) -> str:
    """The line of Python that called for an equation: of one of ours, that which calls us."""
    line = source_info_util.summarize(equation.source_info)
    if not line.startswith(f"{_PACKAGE}"):
        return line
    traceback: Any = equation.source_info.traceback
    frames = iter(traceback.frames)
    ours = itertools.dropwhile(lambda frame: not _is_in_package(frame), frames)
    callers = itertools.dropwhile(_is_in_package, ours)
    caller = next(callers, None)
    return f"{caller.file_name}:{caller.line_num} ({caller.function_name})" if caller else ""


def _is_in_package(frame: Any) -> bool:
    return frame.file_name.startswith(f"{_PACKAGE}")


def scope_of(place: Place) -> str:
    """The names around an equation, those around its program included."""
    return _joined(place.scope, str(place.equation.source_info.name_stack))


def _within(equation: JaxprEqn, findings: Iterable[Finding]) -> Findings:
    """Findings of an equation's jaxprs, with the names around the equation before theirs."""
    outer = str(equation.source_info.name_stack)
    return tuple(
        dataclasses.replace(f, scope=_joined(outer, f.scope), source=f.source or _line_of(equation))
        for f in findings
    )


def _joined(*scopes: str) -> str:
    return "/".join(scope for scope in scopes if scope)
