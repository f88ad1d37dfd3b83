"""Rules by choice: what `explicit(f, rules=…)` puts in which places.

A key of the mapping says where. It is an operation of ours; a function of `jax.lax` that is one
primitive; another function of JAX, which is found wherever the program computes the very
equations that the function makes of the arrays there; or a predicate on what is found.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.extend import core
from jax.extend.core import JaxprEqn, primitives

from cnnvjp.rewriting._jaxprs import (
    HOLDERS,
    Finding,
    Findings,
    Place,
    Replacement,
    Rewriter,
    finding_of,
    in_place_of,
    is_ours,
    jaxprs_of,
    name_and_file,
    opened,
    operands_of,
    scope_of,
)
from cnnvjp.rewriting._lax_calls import types_of
from cnnvjp.rewriting._own_calls import REPLACEABLE, Function, name_of, spelled
from cnnvjp.rewriting._served import served

Key = Callable[..., Any] | tuple[Callable[..., Any], ...]
Rules = Mapping[Any, Callable[..., Any]]


@dataclasses.dataclass(frozen=True)
class _Match:
    """A call that was found: the equations that make it, and what it calls its function with."""

    operation: str
    operands: Sequence[Any]  # variables
    results: Sequence[Any]
    options: tuple[Any, ...] = ()
    named: tuple[tuple[str, Any], ...] = ()
    length: int = 1


# What a key finds in a place: a call; why it is left, though it is one; or nothing.
_Finder = Callable[[Place], _Match | str | None]


@dataclasses.dataclass(frozen=True)
class _Rule:
    name: str  # unlike that of any other rule of the mapping
    keys: str
    finders: tuple[_Finder, ...]
    function: Function


class Chosen:
    """The rules of one mapping."""

    def __init__(self, rules: Rules):
        """Reads the mapping, and raises a TypeError for what cannot be a rule."""
        if not isinstance(rules, Mapping):
            raise TypeError(
                f"rules: got {type(rules).__name__}; it must be a mapping from operations to "
                "functions of the same arguments"
            )
        self._rules: list[_Rule] = []
        for key, function in rules.items():
            keys = _each(key)
            finders = tuple(map(_finder, keys))
            named = " or ".join(map(_name, keys))
            if not callable(function):
                raise TypeError(
                    f"rules: got {type(function).__name__} for {named}; it must be a function of "
                    "the same arguments"
                )
            number = 1 + sum(_name(function) == _name(rule.function) for rule in self._rules)
            name = _name(function) + (f" ({number})" if number > 1 else "")
            self._rules.append(_Rule(name, named, finders, function))
        by_scope = any(_is_predicate(k) for key in rules for k in _each(key))
        self._inside = Rewriter(lambda place: self._chosen(place) or _own(place), by_scope=by_scope)
        self.rewriter = Rewriter(self._replacement, by_scope=by_scope)

    def check_found(self, findings: Findings, jaxpr: core.ClosedJaxpr) -> None:
        """Raises a ValueError for a rule that has replaced nothing."""
        for rule in self._rules:
            if not any(rule.name in finding.rule.split(" and ") for finding in findings):
                left = [f.reason for f in findings if f.reason.startswith(f"{rule.name} ")]
                shown = ", ".join(sorted(set(_shown(opened(jaxpr))))) or "no operation"
                why = left[0] if left else f"f shows {shown}; {_HINT}"
                raise ValueError(
                    f"rules: nothing in f is {rule.keys}, for which {rule.name} was given; {why}"
                )

    def _replacement(self, place: Place) -> Replacement | None:
        found = self._chosen(place)
        if found is not None:
            return found
        ours = served(place)
        if ours is None or not any(finding.replaced for finding in ours.findings):
            return ours
        # A rule for one of our operations is one for what it has just replaced.
        program = place.jaxpr.replace(eqns=[ours.equation])
        inside = self._inside.gone_through(Place(program, 0, place.scope))
        (finding,) = ours.findings
        names = [inner.rule for inner in inside.findings if inner.rule]
        finding = dataclasses.replace(finding, rule=" and ".join(names))
        return Replacement(inside.equation, (finding,))

    def _chosen(self, place: Place) -> Replacement | None:
        for rule in self._rules:
            for finder in rule.finders:
                match = finder(place)
                if isinstance(match, _Match):
                    return _called(rule, match, place)
                if match:
                    reason = f"{rule.name} cannot replace it: {match}"
                    return Replacement(place.equation, (_described(place, reason=reason),))
        return None


_HINT = (
    "a function of JAX is found where f calls it with its default options; for others give "
    "functools.partial(function, option=…), and for what has an axis more, inside jax.vmap, put "
    "the vmap around explicit"
)


def _each(key: Any) -> tuple[Any, ...]:
    return key if isinstance(key, tuple) and key else (key,)


def _own(place: Place) -> Replacement | None:
    return Replacement(place.equation, ()) if is_ours(place.equation) else None


def _called(rule: _Rule, match: _Match, place: Place) -> Replacement:
    """A call of the rule's function in the place of what was found."""
    kinds, expected = types_of(match.operands), types_of(match.results)
    finding = dataclasses.replace(
        _described(place, rule=rule.name),
        operation=match.operation,
        operands=tuple(kind.str_short() for kind in kinds),
        result=", ".join(kind.str_short() for kind in expected),
    )
    shapes = f"{match.operation}({', '.join(kind.str_short() for kind in kinds)})"
    try:
        compiled = _compiled(rule.function, match.options, match.named, expected)
    except TypeError:  # an option cannot be hashed
        compiled = _compiled.__wrapped__(rule.function, match.options, match.named, expected)
    try:
        (call,) = jax.make_jaxpr(compiled)(*kinds).eqns
    except _Unfit as error:
        got, fitting = error.args
        raise error.kind(
            f"rules: got {got} from {rule.name} in the place of {shapes}; it must be {fitting}"
        ) from None
    except Exception as error:
        error.add_note(f"rules: {rule.name} was called in the place of {shapes}")
        raise
    if len(call.invars) != len(match.operands):
        raise ValueError(
            f"rules: {rule.name} closes over an array that is traced; it must be a function of its "
            "arguments and of constants"
        )
    equation = in_place_of(place.equation, call, match.operands, match.results)
    return Replacement(equation, (finding,), match.length)


class _Unfit(Exception):  # noqa: N818  # becomes an error where more is known
    """What a rule's function returned, and what it must."""

    def __init__(self, kind: type[Exception], got: str, expected: str):
        super().__init__(got, expected)
        self.kind = kind


@functools.lru_cache(maxsize=1024)
def _compiled(
    function: Function,
    options: tuple[Any, ...],
    named: tuple[tuple[str, Any], ...],
    expected: tuple[jax.core.ShapedArray, ...],
) -> Function:
    """One compiled function for all calls that are alike, which returns arrays of these types."""

    def called(*operands: jax.Array) -> list[jax.Array]:
        results = jax.tree.leaves(function(*operands, *options, **dict(named)))
        got = [jax.typeof(result) for result in results]
        texts = [", ".join(kind.str_short() for kind in kinds) for kinds in (got, expected)]
        if [kind.shape for kind in got] != [kind.shape for kind in expected]:
            raise _Unfit(ValueError, *texts)
        if [kind.dtype for kind in got] != [kind.dtype for kind in expected]:
            raise _Unfit(TypeError, *texts)
        return [
            result if have.weak_type == want.weak_type else _retyped(result, want)
            for result, have, want in zip(results, got, expected, strict=True)
        ]

    called.__name__ = _name(function)
    return jax.jit(called)


def _retyped(x: jax.Array, kind: jax.core.ShapedArray) -> jax.Array:
    """An array whose dtype yields to others, or does not, as in a type."""
    return primitives.convert_element_type_p.bind(
        x, new_dtype=kind.dtype, weak_type=kind.weak_type, sharding=None
    )


# ------------------------------------------------------------------------------------------
# What a key finds
# ------------------------------------------------------------------------------------------


def _finder(key: object) -> _Finder:
    if not callable(key):
        raise TypeError(
            f"rules: got the key {key!r}; it must be an operation of this library, such as "
            "cnnvjp.conv, a function of JAX, such as jax.nn.relu or jax.lax.dot_general, a "
            "predicate on a Finding, or a tuple of these"
        )
    if key in REPLACEABLE:
        return functools.partial(_calls_of_ours, key)
    if _module(key) == "cnnvjp":
        fitting = ", ".join(sorted(function.__name__ for function in REPLACEABLE))
        raise TypeError(
            f"rules: got the key {_name(key)}, which has no one place in a program; of this "
            f"library it can be {fitting}"
        )
    if _is_predicate(key):
        return functools.partial(_calls_where, key)
    if _lax_function(_name(key)) is key:
        return functools.partial(_calls_of_lax, key)
    return functools.partial(_calls_of_arrays, key)


def _calls_of_ours(function: Function, place: Place) -> _Match | str | None:
    if not is_ours(place.equation):
        return None
    call = spelled(place.equation)
    if call is not None:
        return _with_options(place.equation, *call) if call[0] is function else None
    if name_of(place.equation) == _CORES.get(function.__name__, function.__name__):
        return "it is inside jax.vmap; put the vmap around explicit"
    return None


_CORES = {"max_pool": "winner_pool", "min_pool": "winner_pool", "layer_norm": "group_norm"}


def _calls_of_lax(function: Function, place: Place) -> _Match | str | None:
    """An equation of the primitive that has the function's name and makes the same equation."""
    equation = place.equation
    if equation.primitive.name != function.__name__:
        return None
    parameters = inspect.signature(function).parameters
    named = {name: value for name, value in equation.params.items() if name in parameters}
    made = jax.make_jaxpr(functools.partial(function, **named))(*types_of(equation.invars)).eqns
    if len(made) != 1 or not _equal(made[0].params, equation.params):
        return f"its options are not those of jax.lax.{function.__name__}"
    return _with_options(equation, function, named)


def _with_options(equation: JaxprEqn, function: Function, named: dict[str, Any]) -> _Match:
    """A call of a function of an equation's arrays: those options by name that have a default."""
    parameters = inspect.signature(function).parameters
    needed = [name for name, p in parameters.items() if p.default is inspect.Parameter.empty]
    required = [name for name in needed if name in named]
    rest = {
        name: value
        for name, value in named.items()
        if name not in required and not _equal(value, parameters[name].default)
    }
    return _Match(
        function.__name__,
        operands_of(equation),
        equation.outvars,
        tuple(named[name] for name in required),
        tuple(rest.items()),
    )


def _calls_of_arrays(function: Function, place: Place) -> _Match | None:
    """Equations that are those which the function makes of arrays alone."""
    arity = _arity(function)
    given = operands_of(place.equation)
    if arity == 1:
        candidates = [[v] for v in {id(v): v for v in given}.values()]
    else:
        candidates = [given] if len(given) == arity else []
    for operands in candidates:
        pattern = _pattern(function, types_of(operands))
        if pattern is None or (arity > 1 and len(pattern.eqns) > 1):
            continue
        found = place.jaxpr.eqns[place.index : place.index + len(pattern.eqns)]
        names = dict(zip(pattern.invars, operands, strict=True))
        if _same_equations(pattern.eqns, found, names):
            results = [names[v] for v in pattern.outvars if v in names]
            inner = {v for equation in found for v in equation.outvars} - set(results)
            if len(results) == len(pattern.outvars) and not inner & _used_outside(place, found):
                return _Match(_name(function), operands, results, length=len(found))
    return None


def _calls_where(predicate: Function, place: Place) -> _Match | str | None:
    """An operation of which a predicate on its `Finding` is true."""
    operation = _operation(place.equation)
    if operation is None:
        return None
    verdict = predicate(_described(place, scope=scope_of(place)))
    if not isinstance(verdict, bool | np.bool_):
        raise TypeError(
            f"rules: got {type(verdict).__name__} from the predicate {_name(predicate)}; it must "
            "return a bool for each Finding"
        )
    if not verdict:
        return None
    if is_ours(place.equation):
        call = spelled(place.equation)
        inside_vmap = "it is inside jax.vmap; put the vmap around explicit"
        return inside_vmap if call is None else _with_options(place.equation, *call)
    function = _lax_function(operation)
    match = function and _calls_of_lax(function, place)
    if isinstance(match, _Match):
        return match
    return _Match(operation, operands_of(place.equation), place.equation.outvars)


def _described(place: Place, reason: str | None = None, **fields: str) -> Finding:
    equation = place.equation
    operation = _operation(equation) or equation.primitive.name
    if is_ours(equation) and (call := spelled(equation)) is not None:
        operation = call[0].__name__
    return finding_of(equation, reason, operation=operation, **fields)


def _operation(equation: JaxprEqn) -> str | None:
    """The name of the function that an equation calls, or of its primitive."""
    name = equation.primitive.name
    if is_ours(equation):
        return name_of(equation)
    if name in ("custom_jvp_call", "custom_vjp_call"):
        return name_and_file(equation.params["call_jaxpr"])[0]
    if name == "jit":
        return None if equation.params["name"].startswith("_") else equation.params["name"]
    return None if name in HOLDERS or name == "shard_map" else name


def _shown(jaxpr: core.Jaxpr) -> Iterator[str]:
    """The names of all operations of a program."""
    for index, equation in enumerate(jaxpr.eqns):
        if _operation(equation):
            yield _described(Place(jaxpr, index)).operation
        if not is_ours(equation):
            for inner in jaxprs_of(equation):
                yield from _shown(inner)


# ------------------------------------------------------------------------------------------
# Functions, as keys
# ------------------------------------------------------------------------------------------


def _is_predicate(key: object) -> bool:
    """Whether a key is a function of neither library, not compiled and with no rule of its own."""
    known = isinstance(key, jax.custom_jvp | jax.custom_vjp) or hasattr(key, "lower")
    return callable(key) and not known and _module(key) not in ("jax", "jaxlib", "cnnvjp")


def _module(function: object) -> str:
    """The library that a function comes from."""
    while isinstance(function, functools.partial):
        function = function.func
    module = getattr(function, "__module__", None) or type(function).__module__
    return module.split(".")[0]


def _name(function: object) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__name__", None) or type(function).__name__


def _lax_function(name: str) -> Function | None:
    """The function of `jax.lax` that is one primitive, by its name."""
    return getattr(lax, name, None) if hasattr(primitives, f"{name}_p") else None


def _arity(function: Function) -> int:
    """How many arrays a function needs."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 1
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [p for p in parameters if p.kind in positional and p.default is p.empty]
    return max(len(needed), 1)


@functools.lru_cache(maxsize=1024)
def _pattern(function: Function, kinds: tuple[jax.core.ShapedArray, ...]) -> core.Jaxpr | None:
    """The program of a function; None if it cannot be traced so or needs constants."""
    try:
        jaxpr = opened(jax.make_jaxpr(function)(*kinds))
    except Exception:  # of arrays of these types it makes nothing
        return None
    return jaxpr if jaxpr.eqns and not jaxpr.constvars else None


# ------------------------------------------------------------------------------------------
# Equality of programs
# ------------------------------------------------------------------------------------------


def _same_equations(
    pattern: Sequence[JaxprEqn], found: Sequence[JaxprEqn], names: dict[Any, Any]
) -> bool:
    """Whether equations are those of a pattern, with the names of its variables changed.

    Args:
        pattern: equations.
        found: equations.
        names: for the variables of the pattern, those in `found`; these equations' are added.
    """
    if len(pattern) != len(found):
        return False
    for p, q in zip(pattern, found, strict=True):
        if p.primitive is not q.primitive or len(p.outvars) != len(q.outvars):
            return False
        if not _same_operands(p.invars, q.invars, names) or not _equal(p.params, q.params):
            return False
        names.update(zip(p.outvars, q.outvars, strict=True))
    return True


def _same_operands(pattern: Sequence[Any], found: Sequence[Any], names: dict[Any, Any]) -> bool:
    if len(pattern) != len(found):
        return False
    for p, q in zip(pattern, found, strict=True):
        if _is_variable(p):
            if names.get(p) is not q:
                return False
        elif _is_variable(q) or p.aval != q.aval or not np.array_equal(p.val, q.val):
            return False
    return True


def _equal(p: Any, q: Any) -> bool:
    """Whether parameters are equal. Functions, which every trace makes anew, do not count."""
    if isinstance(p, core.Jaxpr | core.ClosedJaxpr):
        return isinstance(q, core.Jaxpr | core.ClosedJaxpr) and _same_programs(p, q)
    if isinstance(p, Mapping):
        return (
            isinstance(q, Mapping) and p.keys() == q.keys() and all(_equal(p[n], q[n]) for n in p)
        )
    if isinstance(p, tuple | list):
        return isinstance(q, tuple | list) and len(p) == len(q) and all(map(_equal, p, q))
    if not isinstance(p, type) and (callable(p) or hasattr(p, "call_wrapped")):
        return True
    try:
        return bool(p == q)
    except ValueError:  # arrays
        return np.array_equal(p, q)


def _same_programs(p: core.Jaxpr | core.ClosedJaxpr, q: core.Jaxpr | core.ClosedJaxpr) -> bool:
    if p is q:
        return True
    a, b = opened(p), opened(q)
    if [v.aval for v in a.invars] != [v.aval for v in b.invars]:
        return False
    if not _equal(getattr(p, "consts", ()), getattr(q, "consts", ())):
        return False
    names = dict(zip([*a.constvars, *a.invars], [*b.constvars, *b.invars], strict=True))
    return _same_equations(a.eqns, b.eqns, names) and _same_operands(a.outvars, b.outvars, names)


def _is_variable(operand: object) -> bool:
    return not isinstance(operand, core.Literal)


def _used_outside(place: Place, found: Sequence[JaxprEqn]) -> set[Any]:
    """The variables that a program uses in other equations than these, or returns."""
    later = place.jaxpr.eqns[place.index + len(found) :]
    used = [v for equation in later for v in equation.invars] + [*place.jaxpr.outvars]
    return set(filter(_is_variable, used))
