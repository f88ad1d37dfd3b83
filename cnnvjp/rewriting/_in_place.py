"""Arguments that a function changes in place, such as lists and the modules of `flax.nnx`.

A traced function gets a copy of its arguments with tracers in it, and what it changes in place
it changes there. These changes are found, and made in the arguments themselves.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from typing import Any

import jax
from jax.tree_util import DictKey, GetAttrKey, SequenceKey

_DELETED, _ARRAY = object(), object()


@dataclasses.dataclass(frozen=True)
class _Node:
    """An object inside the arguments, its copy, and the parts of the copy before the call."""

    original: Any
    copy: Any
    parts: dict[Any, Any]

    def changes(self) -> dict[Any, Any]:
        """The parts of the copy that were set since then, and `_DELETED` for those that left."""
        now = _parts(self.copy)
        changed = {name: v for name, v in now.items() if self.parts.get(name, _DELETED) is not v}
        return changed | {name: _DELETED for name in self.parts if name not in now}


class Copy:
    """A copy of a pytree with other leaves in it.

    An object that stands in the pytree twice, such as a shared layer, is one object in the copy
    too, unlike in the result of `jax.tree.map`.

    Attributes:
        tree: the copy.
    """

    def __init__(self, tree: Any, leaves: dict[int, Any]):
        """`leaves` maps the `id` of a leaf to what replaces it in the copy."""
        self._leaves = leaves
        self._nodes: dict[int, _Node] = {}
        self.tree = self._copied(tree)

    def _copied(self, node: Any) -> Any:
        if jax.tree_util.all_leaves([node]):
            return self._leaves.get(id(node), node)
        if id(node) not in self._nodes:
            copy = jax.tree.map(self._copied, node, is_leaf=lambda child: child is not node)
            self._nodes[id(node)] = _Node(node, copy, _parts(copy))
        return self._nodes[id(node)].copy

    def outcome(self, result: Any) -> tuple[list[Any], "Outcome"]:
        """All arrays in a result and in what was set in the copy in place, and all else."""
        nodes = self._nodes.values()
        objects = {id(n.copy): n.original for n in nodes if _has_attributes(n)}
        _check_result(result, objects)
        leaves, results = _parted(result, objects, lambda leaf: True)
        changes = [(n.original, key, value) for n in nodes for key, value in n.changes().items()]
        arrays, values = _parted(
            [value for _, _, value in changes],
            {id(n.copy): n.original for n in nodes},
            lambda leaf: isinstance(leaf, jax.Array),
        )
        places = [(original, key) for original, key, _ in changes]
        return leaves + arrays, Outcome(results, places, values)


@dataclasses.dataclass(frozen=True)
class _Parted:
    """A pytree without its arrays, so that it can leave the trace that they belong to."""

    tree: Any
    leaves: list[Any]

    def with_arrays(self, arrays: Iterator[Any]) -> Any:
        leaves = [next(arrays) if leaf is _ARRAY else leaf for leaf in self.leaves]
        return jax.tree.unflatten(self.tree, leaves)


def _parted(
    tree: Any, originals: dict[int, Any], is_array: Callable[[Any], bool]
) -> tuple[list[Any], _Parted]:
    """The arrays of a pytree and the rest, with the originals in the place of their copies."""
    leaves, structure = jax.tree.flatten(tree, is_leaf=lambda node: id(node) in originals)
    traced = [id(leaf) not in originals and is_array(leaf) for leaf in leaves]
    rest = [_ARRAY if t else originals.get(id(v), v) for t, v in zip(traced, leaves, strict=True)]
    return [v for t, v in zip(traced, leaves, strict=True) if t], _Parted(structure, rest)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a function returned, and what it set in the copy of its arguments and where."""

    result: _Parted
    places: list[tuple[Any, Any]]
    values: _Parted

    def settle(self, arrays: Sequence[Any]) -> Any:
        """Sets the same in the arguments themselves, and returns the result, with these arrays."""
        found = iter(arrays)
        result, values = self.result.with_arrays(found), self.values.with_arrays(found)
        for (node, key), value in zip(self.places, values, strict=True):
            _set(node, key, value)
        return result


def _check_result(result: Any, objects: dict[int, Any]) -> None:
    """Of what f returns, arrays and numbers come out of a trace, and objects that it was given."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(result, lambda n: id(n) in objects):
        try:
            _ = id(leaf) in objects or jax.typeof(leaf)
        except TypeError:
            name = getattr(leaf, "__qualname__", None) or repr(leaf)
            where = f" (at {jax.tree_util.keystr(path)})" if path else ""
            raise TypeError(
                f"f: it returned {name}, of type {type(leaf).__name__}{where}; under explicit, as "
                "under jax.jit, it must return arrays and numbers, in any pytree"
            ) from None


def _has_attributes(node: _Node) -> bool:
    """Whether an object is more than a container of its items: then a result can be itself."""
    return any(isinstance(key, GetAttrKey) for key in node.parts)


def _parts(node: Any) -> dict[Any, Any]:
    """What can be set in an object: the items of a list or mapping, otherwise its attributes."""
    if isinstance(node, list):
        return {SequenceKey(index): value for index, value in enumerate(node)}
    if isinstance(node, MutableMapping):
        items, _ = jax.tree_util.tree_flatten_with_path(node, lambda child: child is not node)
        if all(isinstance(key, DictKey) for (key,), _ in items):
            return {key: value for (key,), value in items}
    slots = (name for kind in type(node).__mro__ for name in getattr(kind, "__slots__", ()))
    attributes = {name: getattr(node, name) for name in slots if hasattr(node, name)}
    attributes |= getattr(node, "__dict__", {})
    return {GetAttrKey(name): value for name, value in attributes.items()}


def _set(node: Any, key: Any, value: Any) -> None:
    match key:
        case SequenceKey(idx=index):
            node[index:] = [] if value is _DELETED else [value, *node[index + 1 :]]
        case DictKey(key=name) if value is _DELETED:
            del node[name]
        case DictKey(key=name):
            node[name] = value
        case GetAttrKey(name=name) if value is _DELETED:
            delattr(node, name)
        case GetAttrKey(name=name):
            # A frozen object refuses: what its copy got was no change but a value that it keeps.
            with contextlib.suppress(AttributeError):
                setattr(node, name, value)
