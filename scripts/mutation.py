"""Changes the library in small ways, one at a time, to see whether its tests would notice.

    python scripts/mutation.py
    python scripts/mutation.py --sample 40 --only convolution --seed 1

Cosmic Ray makes the changes, called mutants: a number that is one off, another operator, another
comparison, a condition the other way round. One operator is added here, which exchanges two
arguments of a call, since a rule may be nothing but calls. Each mutant is written into a copy of
the project, and the fast tests of its module are run against it. It is killed if they fail or take
far too long. The sample goes round the modules, and in each module round its functions, so that
every rule has its turn. What survived is listed, each with the reason why no test can tell it from
the original, from `mutation_survivors.py`; without a reason, or with too few killed, the script
fails.
"""

import collections
import concurrent.futures
import dataclasses
import difflib
import itertools
import json
import os
import queue
import random
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

# The fast tests of each module, those first that know it best. What is not here are the networks,
# their training, and the equations, against which the rules are tested.
WRONG = "test_wrong_calls.py"  # of every public function, with what each is told
CONVOLUTION = ("test_convolution.py", "test_cpu_formulations.py")
POOLING = ("test_pooling.py", "test_cpu_formulations.py")
TESTS: dict[str, tuple[str, ...]] = {
    "_checks/arrays": ("test_affine.py", "test_losses.py", "test_regularization.py", WRONG),
    "_checks/compiled": ("test_convolution.py",),
    "_checks/convolution": ("test_convolution.py", WRONG),
    "_checks/options": ("test_regularization.py", "test_affine.py", "test_normalization.py", WRONG),
    "_checks/pooling": ("test_pooling.py", WRONG),
    "_jax_versions": (*CONVOLUTION, "test_affine.py"),
    "_lowering/__init__": (*CONVOLUTION, "test_pooling.py"),
    "_lowering/cpu/__init__": CONVOLUTION[::-1],
    "_lowering/cpu/arrays": CONVOLUTION[::-1],
    "_lowering/cpu/banded": CONVOLUTION[::-1],
    "_lowering/cpu/dense": CONVOLUTION[::-1],
    "_lowering/cpu/depthwise": CONVOLUTION[::-1],
    "_lowering/cpu/grouped": CONVOLUTION[::-1],
    "_lowering/cpu/volumes": CONVOLUTION[::-1],
    "_lowering/platform": CONVOLUTION[::-1],
    "_lowering/xla": (*CONVOLUTION, "test_pooling.py", "test_affine.py"),
    "_types": ("test_affine.py", "test_padding.py", "test_convolution.py", "test_parallel.py"),
    "_windows/axes": ("test_unfolding.py", "test_resampling.py", "test_affine.py", *CONVOLUTION),
    "_windows/geometry": ("test_geometry.py", "test_convolution.py", "test_pooling.py", WRONG),
    "_windows/matrices": ("test_resizing.py", "test_padding.py", "test_unfolding.py"),
    "_windows/spatial": ("test_geometry.py", "test_convolution.py", "test_pooling.py", WRONG),
    "_windows/taps": POOLING,
    "_windows/tiles": ("test_pooling.py",),
    "activations": ("test_activations.py", WRONG),
    "adaptive_pooling": ("test_adaptive_pooling.py", WRONG),
    "affine": ("test_affine.py", WRONG),
    "batch_normalization": ("test_normalization.py", WRONG),
    "convolution": ("test_convolution.py", WRONG),
    "interop": ("test_interop.py", WRONG),
    "losses": ("test_losses.py", WRONG),
    "max_pooling": ("test_pooling.py", WRONG),
    "max_unpooling": ("test_pooling.py", WRONG),
    "normalization": ("test_normalization.py", WRONG),
    "padding": ("test_padding.py", WRONG),
    "regularization": ("test_regularization.py", WRONG),
    "resampling": ("test_resampling.py", WRONG),
    "resizing": ("test_resizing.py", WRONG),
    "rewriting/_drop_in": ("test_explicit.py",),
    "rewriting/_explicit": ("test_explicit.py",),
    "rewriting/_in_place": ("test_explicit.py",),
    "rewriting/_jaxprs": ("test_explicit.py",),
    "rewriting/_lax_calls": ("test_explicit.py",),
    "smooth_activations": ("test_activations.py", WRONG),
    "softmax_activations": ("test_activations.py", WRONG),
    "sum_pooling": ("test_pooling.py", WRONG),
    "unfolding": ("test_unfolding.py", WRONG),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Which mutants to make.

    Attributes:
        sample: how many.
        only: modules whose names contain this text; all by default.
        seed: of the sample.
        workers: how many are tested at a time.
        count: whether to count the mutants of every function instead.
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


class ExchangeArguments(Operator):
    """Exchanges the first two arguments of a call where both are given by position."""

    def mutation_positions(self, node: Any) -> Iterator[Any]:
        """The calls with two such arguments."""
        if node.type == "arglist" and all(self._by_position(part) for part in node.children[:3:2]):
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        """Exchanges them, with the space before each left where it is."""
        first, comma, second = node.children[:3]
        prefixes = [part.get_first_leaf().prefix for part in (first, second)]
        for part, prefix in zip((second, first), prefixes, strict=True):
            part.get_first_leaf().prefix = prefix
        node.children[:3] = second, comma, first
        return node

    @staticmethod
    def _by_position(part: Any) -> bool:
        return part.type != "argument"

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        """What it does."""
        return (Example("f(x, y, z)", "f(y, x, z)"),)


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
OPERATORS["ExchangeArguments"] = ExchangeArguments


def all_mutants(module: str) -> list[Mutant]:
    """Every change of a module, but in annotations."""
    nodes = list(ast_nodes(parso.parse(path(module).read_text())))
    found = []
    for name, operator in OPERATORS.items():
        places = (node for node in nodes for _ in operator().mutation_positions(node))
        for occurrence, node in enumerate(places):
            if not in_annotation(node):
                found.append(Mutant(module, function_of(node), name, occurrence, node.start_pos[0]))
    return found


def ancestors(node: Any) -> Iterator[Any]:
    """A node, and all that it is a part of."""
    while node is not None:
        yield node
        node = node.parent


def in_annotation(node: Any) -> bool:
    """Whether a node is part of a type, or of a signature that is nothing else."""
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
    """Mutants of all modules in turn, and in each module of all functions in turn."""
    rng = random.Random(seed)
    queues = []
    for of_module in mutants.values():
        functions = collections.defaultdict(list)
        for mutant in rng.sample(of_module, len(of_module)):
            functions[mutant.function].append(mutant)
        queues.append(in_turn(functions.values()))
    return list(itertools.islice(in_turn(queues), size))


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
    for name in ("cnnvjp", "tests", "pyproject.toml"):
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


def seconds_to_pass(
    folder: Path, tests: tuple[str, ...], limit: float | None = None
) -> float | None:
    """How long tests take in a copy, or None if they fail or take too long."""
    start = time.monotonic()
    try:
        run = subprocess.run(
            [*PYTEST, *(next((folder / "tests").rglob(name)) for name in tests)],
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
