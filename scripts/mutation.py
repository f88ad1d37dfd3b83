"""Changes the library in small ways, one at a time, to see whether its tests would notice.

    python scripts/mutation.py
    python scripts/mutation.py --sample 40 --only convolution --seed 1

Cosmic Ray makes the changes, called mutants: a number that is one off, another operator, another
comparison, a condition the other way round. Since a function may be nothing but calls, five kinds
of change are added here: two arguments of a call exchanged, an argument dropped, two elements of a
tuple or a list swapped, another random key used, a cast forgotten. Each mutant is written into a
copy of the project, and the fast tests of its module are run against it. It is killed if they fail
or take far too long. The sample goes round the modules, in each module round its functions, and in
each function round the kinds of change, so that every rule and every kind has its turn. What
survived is listed, each with the reason why no test can tell it from the original, from
`mutation_survivors.py`; without a reason, or with too few killed, the script fails.
"""

import collections
import concurrent.futures
import dataclasses
import difflib
import functools
import itertools
import json
import os
import queue
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import parso
import tqdm
import tyro
from cosmic_ray.ast import ast_nodes
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Example, Operator
from cosmic_ray.plugins import get_operator, operator_names
from mutation_survivors import SURVIVORS

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "cnnvjp"
ENOUGH = 0.95

# Modules, and folders of them, that no mutant is made of, and why.
LEFT_OUT = {
    "equations": "the rules are tested against them",
    "plot": "nearly every number is a place, a size or a colour, of which only an eye can judge",
    "training/pictures": "the same",
    "training/__main__": "runs in a process of its own, which takes long to start",
}

# The fast tests of each module, those first that know it best: a file of tests, or one test of it.
WRONG = "test_wrong_calls.py"  # of every public function, with what each is told
CONVOLUTION = ("test_convolution.py", "test_cpu_formulations.py")
ACTIVATIONS = ("test_activations.py", "test_sixteen_bits.py")
POOLING = ("test_pooling.py", "test_cpu_formulations.py")
MODELS = ("test_models.py", "test_normalized_models.py")
SCRIPT, RUNS = "test_train_script.py", "test_training_runs.py"
TESTS: dict[str, tuple[str, ...]] = {
    "_checks/arrays": ("test_affine.py", "test_losses.py", "test_regularization.py", WRONG),
    "_checks/compiled": ("test_convolution.py",),
    "_checks/convolution": ("test_convolution.py", WRONG),
    "_checks/options": ("test_regularization.py", "test_affine.py", "test_normalization.py", WRONG),
    "_checks/pooling": ("test_pooling.py", WRONG),
    "_checks/tiled_convolution": ("test_local_convolution.py", WRONG),
    "_jax_versions": (*CONVOLUTION, "test_affine.py"),
    "_lowering/__init__": (
        *CONVOLUTION,
        "test_pooling.py",
        "test_edges.py",
        "test_gpu_formulations.py",
        "test_local_convolution.py",
    ),
    "_checks/sampling": ("test_sampling.py", WRONG),
    "_lowering/cpu/__init__": (*CONVOLUTION[::-1], "test_bounds.py"),
    "_lowering/cpu/arrays": CONVOLUTION[::-1],
    "_lowering/cpu/banded": CONVOLUTION[::-1],
    "_lowering/cpu/dense": CONVOLUTION[::-1],
    "_lowering/cpu/depthwise": CONVOLUTION[::-1],
    "_lowering/cpu/depthwise_loops": CONVOLUTION[::-1],
    "_lowering/cpu/grouped": CONVOLUTION[::-1],
    "_lowering/cpu/onednn": ("test_onednn.py",),
    "_lowering/cpu/unshared": ("test_cpu_formulations.py",),
    "_lowering/cpu/volumes": CONVOLUTION[::-1],
    "_lowering/gpu/__init__": ("test_gpu_formulations.py",),
    "_lowering/gpu/depthwise": ("test_gpu_formulations.py",),
    "_lowering/gpu/taps": ("test_gpu_formulations.py",),
    "_lowering/platform": (*CONVOLUTION[::-1], "test_gpu_formulations.py", "test_normalization.py"),
    "_lowering/sampling": ("test_sampling.py", "test_edges.py"),
    "_lowering/settings": ("test_onednn.py",),
    "_lowering/unshared": ("test_local_convolution.py",),
    "_lowering/xla": (*CONVOLUTION, "test_pooling.py", "test_affine.py"),
    "_output": ("test_output.py",),
    "_types": ("test_affine.py", "test_padding.py", "test_convolution.py", "test_parallel.py"),
    "_windows/axes": ("test_unfolding.py", "test_resampling.py", "test_affine.py", *CONVOLUTION),
    "_windows/geometry": ("test_geometry.py", "test_convolution.py", "test_pooling.py", WRONG),
    "_windows/matrices": ("test_resizing.py", "test_padding.py", "test_unfolding.py"),
    "_windows/positions": ("test_sampling.py",),
    "_windows/spatial": ("test_geometry.py", "test_convolution.py", "test_pooling.py", WRONG),
    "_windows/taps": (*POOLING, "test_gpu_formulations.py"),
    "_windows/tiles": ("test_pooling.py",),
    "_windows/turns": ("test_local_convolution.py",),
    "activations": (*ACTIVATIONS, WRONG),
    "adaptive_pooling": ("test_adaptive_pooling.py", WRONG),
    "affine": ("test_affine.py", WRONG),
    "batch_normalization": ("test_normalization.py", "test_edges.py", WRONG),
    "compiling": ("test_onednn.py",),
    "convolution": ("test_convolution.py", WRONG),
    "deformable_convolution": ("test_deformable_convolution.py", WRONG),
    "interop": ("test_interop.py", WRONG),
    "local_convolution": ("test_local_convolution.py", WRONG),
    "losses": ("test_losses.py", "test_sixteen_bits.py", WRONG),
    "max_pooling": ("test_pooling.py", WRONG),
    "max_unpooling": ("test_pooling.py", WRONG),
    "model": (MODELS[0], WRONG),
    "models/_autoencoder": (MODELS[0], WRONG),
    "models/_layers": (*MODELS, WRONG),
    "models/_lenet5": (MODELS[0], WRONG),
    "models/_mobilenet": (*MODELS[::-1], WRONG),
    "models/_normalized": (*MODELS[::-1], WRONG),
    "models/_resnet": (*MODELS[::-1], WRONG),
    "models/_squares_and_diamonds": (MODELS[0], WRONG),
    "models/_textbook": (MODELS[0], WRONG),
    "local_response": ("test_normalization.py", "test_edges.py", WRONG),
    "morphology": ("test_morphology.py", "test_edges.py", WRONG),
    "normalization": ("test_normalization.py", "test_edges.py", WRONG),
    "padding": ("test_padding.py", WRONG),
    "regularization": ("test_regularization.py", WRONG),
    "resampling": ("test_resampling.py", WRONG),
    "resizing": ("test_resizing.py", WRONG),
    "rewriting/_chosen": ("test_rules.py",),
    "sampling": ("test_sampling.py", WRONG),
    "rewriting/_drop_in": ("test_explicit.py",),
    "rewriting/_explicit": ("test_explicit.py", WRONG),
    "rewriting/_implicit": ("test_implicit.py",),
    "rewriting/_in_place": ("test_explicit.py",),
    "rewriting/_jaxprs": ("test_explicit.py",),
    "rewriting/_lax_calls": ("test_explicit.py",),
    "rewriting/_own_calls": ("test_rules.py",),
    "rewriting/_served": ("test_explicit.py",),
    "rewriting/_traced": ("test_explicit.py", WRONG),
    "rules": ("test_rules.py",),
    "roi_pooling": ("test_roi_pooling.py", WRONG),
    "smooth_activations": (*ACTIVATIONS, WRONG),
    "softmax_activations": (*ACTIVATIONS, WRONG),
    "sum_pooling": ("test_pooling.py", WRONG),
    "tiled_convolution": ("test_local_convolution.py", WRONG),
    "train": ("test_train.py", WRONG),
    "training/__init__": (RUNS,),
    "training/batches": (SCRIPT, RUNS),
    "training/checkpoints": (RUNS, SCRIPT),
    "training/commands": (RUNS, SCRIPT),
    "training/config": (SCRIPT, RUNS),
    "training/data": ("test_training_data.py", SCRIPT),
    "training/devices": (RUNS, SCRIPT),
    "training/evaluation": (RUNS,),
    "training/export": (RUNS,),
    "training/files": (SCRIPT, RUNS),
    "training/formats": ("test_training_data.py",),
    "training/huge_pages": ("test_huge_pages.py",),
    "training/loop": (SCRIPT, RUNS),
    "training/picture_files": ("test_training_data.py",),
    "training/reports": (SCRIPT, RUNS),
    "training/runs": (RUNS, SCRIPT),
    "training/setup": (SCRIPT, RUNS),
    "training/signals": (f"{RUNS}::test_signals_stop_a_run_which_goes_on",),
    "training/tasks": (SCRIPT, RUNS),
    "unfolding": ("test_unfolding.py", WRONG),
}

# Tests that start processes and take long: they are run where they are named above alone.
SLOW = {
    "test_huge_pages.py": ("test_training_starts_again",),
    SCRIPT: (
        "test_without_options_it_reaches_98_percent",
        "test_the_module_does_what_the_script_does",
        "test_importing_it_is_left_to_the_user",
    ),
    RUNS: (
        "test_signals_stop_a_run_which_goes_on",
        "test_statistics_and_random_warps_go_on_too",
        "test_kills_leave_whole_files_and_a_run_that_goes_on",
        "test_two_processes_train_as_one",
    ),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Which mutants to make.

    Attributes:
        sample: how many.
        only: modules whose names contain this text; all by default.
        seed: of the sample.
        workers: how many are tested at a time.
        count: whether to count the mutants of every function and kind instead.
        out: a file for the results, made with its folder if need be.
    """

    sample: int = 340
    only: str = ""
    seed: int = 0
    workers: int = os.cpu_count() or 1
    count: bool = False
    out: Path = Path("mutation/results.json")


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A module with one change.

    Attributes:
        module: its name in the package.
        function: the outermost function or class that the change is in.
        operator: the name of the kind of change.
        occurrence: which of those that the operator can make.
        line: where it begins.
    """

    module: str
    function: str
    operator: str
    occurrence: int
    line: int

    def source(self) -> str:
        """The module's text with the change."""
        return mutate_code(
            path(self.module).read_text(), OPERATORS[self.operator](), self.occurrence
        )

    def change(self) -> tuple[str, str]:
        """The lines that differ, before and after."""
        lines = path(self.module).read_text().splitlines(), self.source().splitlines()
        found = list(difflib.ndiff(*lines))
        before, after = ([line[2:].strip() for line in found if line[0] == sign] for sign in "-+")
        return " ".join(before), " ".join(after)


def path(module: str) -> Path:
    """A module's file."""
    return PACKAGE / f"{module}.py"


# ------------------------------------------------------------------------------------------
# The changes
# ------------------------------------------------------------------------------------------


def is_named(argument: Any) -> bool:
    """Whether an argument is given by its name, or is a dict of such."""
    return argument.type == "argument" and any(part in ("=", "**") for part in argument.children)


class ExchangeArguments(Operator):
    """Exchanges the first two arguments of a call where both are given by position."""

    def mutation_positions(self, node: Any) -> Iterator[Any]:
        """The calls with two such arguments, but of the larger and the smaller of two numbers."""
        called = node.get_previous_leaf().get_previous_leaf() if node.type == "arglist" else None
        if called is None or called.value in ("max", "min"):
            return
        if not any(is_named(part) for part in node.children[:3:2]):
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        """Exchanges them, with the space before each left where it is."""
        first, comma, second = node.children[:3]
        prefixes = [part.get_first_leaf().prefix for part in (first, second)]
        for part, prefix in zip((second, first), prefixes, strict=True):
            part.get_first_leaf().prefix = prefix
        node.children[:3] = second, comma, first
        return node

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        """What it does."""
        return (Example("f(x, y, z)", "f(y, x, z)"),)


class DropArgument(Operator):
    """Leaves out an argument of a call: one given by its name, or the last of several others."""

    def mutation_positions(self, node: Any) -> Iterator[Any]:
        """The arguments of a call, or of a decorator, that can be left out."""
        for argument in self._arguments(node):
            yield argument.start_pos, argument.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        """Leaves one out, with the comma behind it, or before it if it is the last."""
        argument = self._arguments(node)[index]
        siblings = argument.parent.children
        place = siblings.index(argument)
        if argument.parent is node:
            del siblings[place]
        elif place + 1 < len(siblings):
            del siblings[place : place + 2]
        else:
            del siblings[max(place - 1, 0) :]
        return node

    @staticmethod
    def _arguments(node: Any) -> list[Any]:
        if node.type not in ("trailer", "decorator") or "(" not in node.children:
            return []
        content = node.children[node.children.index("(") + 1]
        parts = content.children[::2] if content.type == "arglist" else [content]
        named = [is_named(part) for part in parts]
        others = [i for i, by_name in enumerate(named) if not by_name]
        return [part for i, part in enumerate(parts) if named[i] or [i] == others[1:][-1:]]

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        """What it does."""
        return (
            Example("f(x, y, axis=z)", "f(x, axis=z)", 0),
            Example("f(x, y, axis=z)", "f(x, y)", 1),
            Example("x.sum(axis=0)", "x.sum()"),
            Example("f(a=x, **options)", "f( **options)", 0),
            Example("@partial(f, a=1)\ndef g(): pass", "@partial(f)\ndef g(): pass"),
        )


class SwapPair(Operator):
    """Swaps neighbours in a tuple, a list or an unpacking."""

    def mutation_positions(self, node: Any) -> Iterator[Any]:
        """The neighbours, but where their order means nothing."""
        if not self._is_sequence(node) or self._is_set(node):
            return
        elements = node.children[::2]
        for left, right in itertools.pairwise(elements):
            yield left.start_pos, right.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        """Swaps them, with the space before each left where it is."""
        place = 2 * index
        first, comma, second = node.children[place : place + 3]
        prefixes = [part.get_first_leaf().prefix for part in (first, second)]
        for part, prefix in zip((second, first), prefixes, strict=True):
            part.get_first_leaf().prefix = prefix
        node.children[place : place + 3] = second, comma, first
        return node

    @staticmethod
    def _is_sequence(node: Any) -> bool:
        kinds = ("testlist_comp", "testlist_star_expr", "testlist", "exprlist")
        return node.type in kinds and node.children[1] == ","

    @staticmethod
    def _is_set(node: Any) -> bool:
        """Whether it says only what is, or is caught, or is public."""
        whole = node.parent if node.type == "testlist_comp" else node
        call = whole.parent.parent if whole.parent.type == "arglist" else None
        assigned = whole.parent.children[0] if whole.parent.type == "expr_stmt" else None
        return (
            text_before(whole) in ("in", "except")
            or (call is not None and text_before(call) == "isinstance")
            or (assigned is not None and assigned.get_code().strip() == "__all__")
        ) and "for" not in whole.parent.children

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        """What it does."""
        return (
            Example("y = (a, b, c)", "y = (b, a, c)", 0),
            Example("y = [a, b, c]", "y = [a, c, b]", 1),
            Example("a, b = f(x)", "b, a = f(x)"),
            Example("for a, b in f(x): pass", "for b, a in f(x): pass"),
            Example("def f(x): return x, (y, z)", "def f(x): return (y, z), x", 0),
        )


class ReuseKey(Operator):
    """Uses another random key, of those that the function has bound before."""

    _KEY = re.compile(r"(\w+_)?keys?\d*|key_\w+")

    def mutation_positions(self, node: Any) -> Iterator[Any]:
        """The uses of a key, each as often as there are others."""
        for _ in self._others(node):
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        """Names the other key instead."""
        node.value = self._others(node)[index]
        return node

    def _others(self, node: Any) -> list[str]:
        if not self._is_key(node) or not self._is_use(node):
            return []
        whole = list(ancestors(node))
        functions = [part for part in whole if part.type == "funcdef"]
        names = [name for function in functions[-1:] for name in ast_nodes(function)]
        bound = {
            name.value
            for name in names
            if self._is_key(name)
            and name.start_pos < node.start_pos
            and self._binding(name) not in (None, *whole)
            and parso.tree.search_ancestor(name, "funcdef") in functions
        }
        return sorted(bound - {node.value})

    @staticmethod
    def _binding(name: Any) -> Any:
        """The parameter or the assignment that gives a name its value."""
        definition = name.get_definition()
        kinds = ("param", "expr_stmt")
        return definition if definition is not None and definition.type in kinds else None

    def _is_key(self, node: Any) -> bool:
        return node.type == "name" and self._KEY.fullmatch(node.value) is not None

    @staticmethod
    def _is_use(name: Any) -> bool:
        named = name.parent.type == "argument" and name.parent.children[:2] == [name, "="]
        attribute = name.parent.type == "trailer" and name.parent.children[0] == "."
        called = name.get_next_leaf() == "("
        return not (named or attribute or called or name.is_definition())

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        """What it does."""
        split = "def f(key):\n    a_key, key2 = split(key)\n    return "
        return (
            Example(f"{split}g(a_key)", f"{split}g(key)", 0),
            Example(f"{split}g(a_key)", f"{split}g(key2)", 1),
            Example(f"{split}g(key=key2)", f"{split}g(key=a_key)", 0),
        )


class ForgetCast(Operator):
    """Leaves an array in the dtype that it has."""

    def mutation_positions(self, node: Any) -> Iterator[Any]:
        """Each `x.astype(dtype)` and `convert_element_type(x, dtype)`."""
        for place in self._casts(node):
            yield node.children[place].start_pos, node.children[place + 1].end_pos

    def mutate(self, node: Any, index: int) -> Any:
        """Leaves x alone."""
        place = self._casts(node)[index]
        method, call = node.children[place : place + 2]
        if method.children[1].value == "astype":
            del node.children[place : place + 2]
        else:
            prefix = node.get_first_leaf().prefix
            del call.children[1].children[1:]
            del node.children[: place + 1]
            call.get_first_leaf().prefix = prefix
        return node

    @staticmethod
    def _casts(node: Any) -> list[int]:
        if node.type not in ("atom_expr", "power"):
            return []
        return [
            place
            for place, (name, call) in enumerate(itertools.pairwise(node.children))
            if name.type == call.type == "trailer"
            and call.children[0] == "("
            and name.children[1].get_code() in ("astype", "convert_element_type")
        ]

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        """What it does."""
        return (
            Example("y = x.astype(d) + 1", "y = x + 1"),
            Example("y = (a + b).astype(d).sum()", "y = (a + b).sum()"),
            Example("y = lax.convert_element_type(x, d)[0]", "y = (x)[0]"),
        )


OWN = (ExchangeArguments, DropArgument, SwapPair, ReuseKey, ForgetCast)
ARITHMETIC = "Add", "Sub", "Mul", "Div", "FloorDiv", "Mod", "Pow"
SETS = "BitOr", "BitAnd", "BitXor"
IDENTITY = "Is", "IsNot"


def _plausible(name: str) -> bool:
    """Whether a change is one that a person might make by mistake.

    Shifts of floats and comparisons by identity in place of others end in an error at once, or say
    the same, and would tell nothing.
    """
    kind, *parts = name.split("/")[-1].split("_")
    if kind == "ReplaceBinaryOperator":
        return set(parts) <= {*ARITHMETIC} or set(parts) <= {*SETS}
    if kind == "ReplaceComparisonOperator":
        return set(parts) <= {*IDENTITY} or not set(parts) & {*IDENTITY}
    if kind == "ReplaceUnaryOperator":
        return parts[0] == "Delete" or parts == ["USub", "UAdd"]
    return kind not in ("RemoveDecorator", "VariableInserter", "VariableReplacer")


OPERATORS = {name: get_operator(name) for name in sorted(operator_names()) if _plausible(name)}
OPERATORS |= {operator.__name__: operator for operator in OWN}


@functools.cache
def all_mutants(module: str) -> list[Mutant]:
    """Every change of a module, but in annotations."""
    nodes = list(ast_nodes(parso.parse(path(module).read_text())))
    found = []
    for name, operator in OPERATORS.items():
        positions = operator().mutation_positions
        places = ((node, start) for node in nodes for start, _ in positions(node))
        for occurrence, (node, (line, _)) in enumerate(places):
            if not in_annotation(node):
                found.append(Mutant(module, function_of(node), name, occurrence, line))
    return found


def ancestors(node: Any) -> Iterator[Any]:
    """A node, and all that it is a part of."""
    while node is not None:
        yield node
        node = node.parent


def text_before(node: Any) -> str:
    """The name or sign that stands before a node."""
    leaf = node.get_previous_leaf() if node.parent else None
    return leaf.value if leaf else ""


def in_annotation(node: Any) -> bool:
    """Whether a node is part of a type, or of a signature that is nothing else."""
    if any(text_before(part) == "Callable" for part in ancestors(node)):
        return True
    if any(part.type == "decorated" and "@overload" in part.get_code() for part in ancestors(node)):
        return True
    return any(
        (whole.type == "funcdef" and part is whole.annotation)
        or (whole.type == "annassign" and part is whole.children[1])
        or (whole.type == "tfpdef" and part is whole.children[2])
        for part, whole in itertools.pairwise(ancestors(node))
    )


def function_of(node: Any) -> str:
    """The name of the outermost definition around a node."""
    outermost = ""
    for part in ancestors(node):
        if part.type in ("funcdef", "classdef"):
            outermost = part.name.value
    return outermost or "the module"


def sampled(mutants: dict[str, list[Mutant]], size: int, seed: int) -> list[Mutant]:
    """Mutants of all modules in turn, in each of all functions, and in each of all kinds."""
    rng = random.Random(seed)
    queues = []
    for of_module in mutants.values():
        functions: dict[str, dict[str, list[Mutant]]] = {}
        for mutant in rng.sample(of_module, len(of_module)):
            kinds = functions.setdefault(mutant.function, {})
            kinds.setdefault(kind_of(mutant.operator), []).append(mutant)
        queues.append(in_turn([in_turn(shuffled(kinds, rng)) for kinds in functions.values()]))
    return list(itertools.islice(in_turn(queues), size))


def shuffled(kinds: dict[str, list[Mutant]], rng: random.Random) -> list[list[Mutant]]:
    """The mutants of each kind, the kinds in any order."""
    return rng.sample(list(kinds.values()), len(kinds))


def kind_of(operator: str) -> str:
    """What the operator changes, whatever into."""
    return operator.split("/")[-1].split("_")[0]


def in_turn(sequences: Iterable[Iterable[Any]]) -> Iterator[Any]:
    """One of each, until all are used up."""
    waiting = [iter(sequence) for sequence in sequences]
    while waiting:
        left = []
        for sequence in waiting:
            for item in itertools.islice(sequence, 1):
                left.append(sequence)
                yield item
        waiting = left


# ------------------------------------------------------------------------------------------
# The tests
# ------------------------------------------------------------------------------------------


def copied(folder: Path) -> Path:
    """A copy of the project, to be changed."""
    for name in ("cnnvjp", "tests", "scripts", "pyproject.toml"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    return folder


def settings(folder: Path) -> dict[str, str]:
    """What makes Python read the copy, and JAX compile only what a change concerns."""
    return {
        "PYTHONPATH": str(folder),
        "PYTHONDONTWRITEBYTECODE": "1",
        "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


# An entry of the cache may be read while another worker writes it. That is no failure.
PYTEST = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
PYTEST += ["-W", "ignore:Error reading persistent", "-W", "ignore:Error writing persistent"]


def selected(folder: Path, tests: tuple[str, ...]) -> Iterator[str]:
    """What tells pytest which tests of a copy to run."""
    for name in tests:
        file, *test = name.split("::")
        path = next((folder / "tests").rglob(file)).relative_to(folder)
        yield "::".join([str(path), *test])
        if not test:
            yield from (f"--deselect={path}::{slow}" for slow in SLOW.get(file, ()))


def seconds_to_pass(
    folder: Path, tests: tuple[str, ...], limit: float | None = None
) -> float | None:
    """How long tests take in a copy, or None if they fail or take too long."""
    start = time.monotonic()
    try:
        run = subprocess.run(
            [*PYTEST, *selected(folder, tests)],
            cwd=folder,
            env={**os.environ, **settings(folder)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=limit,
        )
    except subprocess.TimeoutExpired:
        return None
    return time.monotonic() - start if run.returncode == 0 else None


class Laboratory:
    """Copies of the project, one for each worker."""

    def __init__(self, folder: Path, workers: int) -> None:
        """Makes the copies in a folder."""
        self._free: queue.Queue[Path] = queue.Queue()
        for worker in range(workers):
            self._free.put(copied(folder / str(worker)))
        self._usual: dict[tuple[str, ...], float] = {}

    def measure(self, tests: tuple[str, ...]) -> None:
        """Runs tests of modules that are as they should be."""
        folder = self._free.get()
        usual = seconds_to_pass(folder, tests)
        self._free.put(folder)
        if usual is None:
            raise SystemExit(f"{' '.join(tests)}: they fail without any change")
        self._usual[tests] = usual

    def survives(self, mutant: Mutant) -> bool:
        """Whether the tests pass with a change."""
        folder = self._free.get()
        changed = folder / path(mutant.module).relative_to(ROOT)
        original = changed.read_text()
        changed.write_text(mutant.source())
        tests = TESTS[mutant.module]
        seconds = seconds_to_pass(folder, tests, 60 + 3 * self._usual[tests])
        changed.write_text(original)
        self._free.put(folder)
        return seconds is not None


# ------------------------------------------------------------------------------------------
# The report
# ------------------------------------------------------------------------------------------


def is_rule(function: str) -> bool:
    """Whether a function is a forward or backward pass of a `custom_vjp`."""
    return function.endswith(("_fwd", "_bwd"))


def print_counts(mutants: dict[str, list[Mutant]]) -> None:
    """How many mutants every function has, and those rules that have none."""
    for module, of_module in mutants.items():
        counts = collections.Counter(mutant.function for mutant in of_module)
        print(f"{module}: {len(of_module)}")
        for function, count in sorted(counts.items()):
            print(f"    {function}: {count}")
        kinds = collections.Counter(kind_of(mutant.operator) for mutant in of_module)
        print("    of the kinds", ", ".join(f"{kind}: {n}" for kind, n in sorted(kinds.items())))
        definitions = parso.parse(path(module).read_text()).iter_funcdefs()
        rules = [d.name.value for d in definitions if is_rule(d.name.value)]
        if none := [rule for rule in rules if rule not in counts]:
            print(f"    no mutant: {', '.join(none)}")


def print_report(mutants: dict[str, list[Mutant]], survived: dict[Mutant, bool]) -> bool:
    """Prints what became of the sample; returns whether it is good enough."""
    print(f"{'module':26} mutants  of rules  sampled  of rules  killed")
    for module, of_module in mutants.items():
        chosen = [mutant for mutant in survived if mutant.module == module]
        numbers = (
            len(of_module),
            sum(is_rule(mutant.function) for mutant in of_module),
            len(chosen),
            sum(is_rule(mutant.function) for mutant in chosen),
            sum(not survived[mutant] for mutant in chosen),
        )
        print(f"{module:26} {{:7}}  {{:8}}  {{:7}}  {{:8}}  {{:6}}".format(*numbers))
    survivors = [mutant for mutant, survives in survived.items() if survives]
    unexplained = 0
    for mutant in survivors:
        before, after = mutant.change()
        reason = SURVIVORS.get((mutant.module, after))
        unexplained += reason is None
        print(f"\n{mutant.module}.py:{mutant.line}, {mutant.function}\n  - {before}\n  + {after}")
        print(f"  {reason or 'NOT EXPLAINED'}")
    share = 1 - len(survivors) / len(survived)
    print(f"\n{len(survived)} mutants, {share:.1%} killed; {len(survivors)} survived", end="")
    print(f", {unexplained} of them without a reason" if unexplained else ", each with a reason")
    return share >= ENOUGH and not unexplained


def main(config: Config) -> None:
    """Makes the mutants, tests them and reports."""
    modules = [module for module in TESTS if config.only in module]
    if not modules:
        raise SystemExit(f"--only: got {config.only!r}, which no module of {list(TESTS)} contains")
    mutants = {module: all_mutants(module) for module in modules}
    if config.count:
        print_counts(mutants)
        return
    sample = sampled(mutants, config.sample, config.seed)
    survived = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        concurrent.futures.ThreadPoolExecutor(config.workers) as pool,
    ):
        laboratory = Laboratory(Path(folder), config.workers)
        list(pool.map(laboratory.measure, {TESTS[mutant.module] for mutant in sample}))
        results = pool.map(laboratory.survives, sample)
        for mutant, survives in tqdm.tqdm(zip(sample, results, strict=True), total=len(sample)):
            survived[mutant] = survives
    config.out.parent.mkdir(parents=True, exist_ok=True)
    config.out.write_text(
        json.dumps(
            [dataclasses.asdict(m) | {"survived": survives} for m, survives in survived.items()],
            indent=1,
        )
    )
    if not print_report(mutants, survived):
        raise SystemExit(1)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
