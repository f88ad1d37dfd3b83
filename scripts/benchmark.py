"""Measures the library's layers and training steps on this machine, beside XLA's and PyTorch's.

    python scripts/benchmark.py
    python scripts/benchmark.py --torch-python .venv-torch/bin/python
    python scripts/benchmark.py --suite unseen --no-steps

Each row is a layer of a real network, or one training step of a whole one, in float32. There are
two lists of layers: `benchmark_suite.py` holds those on which the formulations for the CPU were
chosen, `benchmark_unseen.py` others, drawn from published networks and not used for choosing.
Their means are separate; the second list says what to expect from a layer of your own.

Ours is measured against JAX's own gradient of the lax operation (for whole networks, the same
network in Flax), and against PyTorch where it is installed: in eager mode and by `torch.compile`,
except a convolution's passes, which it computes by the same call as eager mode. All run in turn,
one run each, many times over, so that what disturbs the machine disturbs them alike; each whole
step runs in a process of its own. A ratio is how many times faster ours is; its interval is the
95 % interval over the rounds. Where XLA compiles ours and autodiff's to the same program, the ratio
is 1.

Last come stock Flax networks before and after their convolutions and poolings became ours, by
`cnnvjp.explicit` and by injection, and gradients accumulated in a `lax.scan`, beside autodiff's and
beside the same without the loop. Where Linux gives huge pages to programs that ask, all processes
ask, as `train.py` does. It writes a table, `results.json` and `ratios.png`.
"""

import contextlib
import dataclasses
import functools
import itertools
import json
import os
import platform
import re
import runpy
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
import tyro
from benchmark_layers import AUTODIFF, OURS, both_sides, jit, layer_functions
from benchmark_networks import EXPLICIT, INJECTION
from benchmark_process import Process, Run
from benchmark_suite import (
    AVERAGE,
    BATCHES_IN_LOOP,
    DENSE,
    DEPTHWISE,
    IN_LOOPS,
    LAYERS,
    MAX,
    NETWORKS,
    Layer,
)
from benchmark_unseen import UNSEEN
from jax import lax

from cnnvjp._output import command, put, to_output

TORCH_SCRIPT = Path(__file__).with_name("benchmark_torch.py")
STEP_SCRIPT = Path(__file__).with_name("benchmark_networks.py")
HUGE_PAGES = Path(__file__).parents[1] / "cnnvjp" / "training" / "huge_pages.py"
ROUNDS_AT_LEAST = 5
RUNS_AT_MOST = 100  # in one turn
TORCH, COMPILED, UNROLLED = "torch", "torch_compile", "unrolled"
KNOWN_SUITE, UNSEEN_SUITE = "known", "unseen"

BATCHES = (8, 64, 256)
MIDDLING = Layer("ResNet-18 for 32×32", "conv3", DENSE, (8, 16, 16, 128), (3, 3), 128, padding=1)
SMALL = {
    "conv": Layer("", "", DENSE, (1, 8, 8, 3), (3, 3), 8),
    "depthwise conv": Layer("", "", DEPTHWISE, (1, 8, 8, 3), (3, 3), 3, groups=3),
    "max_pool": Layer("", "", MAX, (1, 8, 8, 3), (2, 2), stride=2),
    "avg_pool": Layer("", "", AVERAGE, (1, 8, 8, 3), (2, 2), stride=2),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """What to measure, and for how long.

    Attributes:
        only: rows whose network, layer or family contains this text; all by default.
        suite: which list of layers to measure. Loops and costs belong to the known one.
        seconds: for each row, once it is compiled.
        steps: whether to measure whole training steps too.
        costs: whether to measure how costs grow with the batch, and what a call costs.
        torch_python: a Python that has PyTorch; by default this one, if it has.
        cpu_options: whether ours is compiled with `cnnvjp.cpu_compiler_options()`, which switch
            oneDNN on. Autodiff's is always compiled without, as stock JAX is.
        torch_compile: whether to measure `torch.compile` too, which takes minutes to compile.
        out: the folder for the results, made if need be.
    """

    only: str = ""
    suite: Literal["known", "unseen", "all"] = "all"
    seconds: float = 4.0
    steps: bool = True
    costs: bool = True
    torch_python: str = sys.executable
    cpu_options: bool = True
    torch_compile: bool = True
    out: Path = Path("benchmark")

    def wants(self, suite: str) -> bool:
        """Whether this list is to be measured."""
        return self.suite in ("all", suite)


# ------------------------------------------------------------------------------------------
# Measuring
# ------------------------------------------------------------------------------------------


def _seconds(run: Run) -> float:
    started = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - started


def timed(run: Run) -> Run:
    """A run that returns how long it took, when its result was ready."""
    return lambda: _seconds(run)


def interleaved(
    runs: dict[str, Run], seconds: float, turn: float = 0.1, at_least: int = 1
) -> dict[str, np.ndarray]:
    """Seconds of every run: one of each in turn, until the time is up.

    Each round begins with another one. Of a turn's runs the median counts: the first after another
    process finds its caches cold, and its memory may have been taken away while it was idle.

    Args:
        runs: what to measure.
        seconds: for all of it.
        turn: seconds that a turn's runs take together, about.
        at_least: how many they are at the least.
    """
    turns = {}
    for name, run in runs.items():
        run()
        turns[name] = min(max(at_least, 1 + int(turn / max(run(), 1e-4))), RUNS_AT_MOST)
    times: dict[str, list[float]] = {name: [] for name in runs}
    started = time.perf_counter()
    round = 0
    while time.perf_counter() - started < seconds or round < ROUNDS_AT_LEAST:
        first = round % len(runs)
        for name in [*runs, *runs][first : first + len(runs)]:
            found = [runs[name]() for _ in range(turns[name])]
            times[name].append(float(np.median(found)))
        round += 1
    return {name: np.array(values) for name, values in times.items()}


def ratio(theirs: np.ndarray, ours: np.ndarray) -> tuple[float, float, float]:
    """How many times faster ours is: the ratio of the medians, and its 95 % interval.

    The interval is a bootstrap's over the rounds, so that what slows a round counts on both
    sides.
    """
    rounds = np.random.default_rng(0).integers(len(ours), size=(2000, len(ours)))
    ratios = np.median(theirs[rounds], axis=1) / np.median(ours[rounds], axis=1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(np.median(theirs) / np.median(ours)), float(low), float(high)


def program(compiled: Any) -> str:
    """What XLA compiled to, without the names of things and where in Python they come from."""
    lines = re.findall(r"^(?:%|ENTRY|  |\}).*", compiled.as_text(), re.MULTILINE)
    text = re.sub(r", metadata=\{[^}]*\}|[\w.]+: ", "", "\n".join(lines))
    names: dict[str, str] = {}
    return re.sub(r"%[\w.-]+", lambda found: names.setdefault(found[0], f"%{len(names)}"), text)


def measure_layers(config: Config, torch: dict[str, Process]) -> Iterator[dict[str, Any]]:
    """A result for every pass of every layer, ours beside autodiff's and those processes'."""
    chosen = [
        (suite, layer, what)
        for suite, layers in ((KNOWN_SUITE, LAYERS), (UNSEEN_SUITE, UNSEEN))
        for layer in layers
        for what in layer.passes
        if config.wants(suite) and config.only in f"{layer.network} {layer.name} {layer.family}"
    ]
    for suite, layer, what in tqdm.tqdm(chosen, unit="row", disable=None):
        functions, arguments = layer_functions(layer, what)
        runs: dict[str, Run] = {}
        compiling, temporary, texts = {}, {}, set()
        for name, function in functions.items():
            started = time.perf_counter()
            fast = config.cpu_options and name == OURS
            compiled = jit(function, fast).lower(*arguments).compile()
            compiling[name] = time.perf_counter() - started
            temporary[name] = getattr(compiled.memory_analysis(), "temp_size_in_bytes", 0)
            runs[name] = timed(functools.partial(compiled, *arguments))
            texts.add(program(compiled))
        same = len(texts) == 1
        if same:
            del runs[AUTODIFF]
        for name, process in torch.items():
            if name == COMPILED and layer.maps:
                continue
            request = dict(side=name, layer=dataclasses.asdict(layer), what=what)
            try:
                runs[name], compiling[name] = process.start(**request)
            except RuntimeError as error:
                put(f"{layer.network} {layer.name}, {name}: {error}")
        labels = {"network": layer.network, "layer": layer.name, "family": layer.family}
        times = interleaved(runs, config.seconds)
        row = {"suite": suite, **labels, "pass": what}
        row = summarized(row, times, compiling, temporary)
        if same:  # two runs of one program would measure the noise
            row |= {"same_program": True, f"to_{AUTODIFF}": (1.0, 1.0, 1.0)}
            row[f"{AUTODIFF}_ms"] = row[f"{OURS}_ms"]
        yield row


def measure_steps(config: Config, torch: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Results for the training step of every network, each side in a process of its own.

    The first is ours beside stock Flax's and PyTorch's, the others stock Flax's after each swap.
    """
    for network in NETWORKS:
        wanted = {
            family: sides
            for family, sides in (
                ("training step", {OURS: OURS, AUTODIFF: AUTODIFF, **{t: t for t in torch}}),
                ("stock Flax step, explicit", {OURS: EXPLICIT, AUTODIFF: AUTODIFF}),
                ("stock Flax step, injection", {OURS: INJECTION, AUTODIFF: AUTODIFF}),
            )
            if config.only in f"{network.name} {family}"
        }
        runs, compiling = {}, {}
        with contextlib.ExitStack() as processes:
            for side in dict.fromkeys(side for sides in wanted.values() for side in sides.values()):
                try:
                    process = step_process(config, side)
                    processes.callback(process.close)
                    request: dict[str, Any] = dict(side=side, network=dataclasses.asdict(network))
                    if side in (OURS, EXPLICIT, INJECTION):
                        request["cpu_options"] = config.cpu_options
                    runs[side], compiling[side] = process.start(**request)
                except RuntimeError as error:
                    if side == OURS:
                        raise
                    put(f"{network.name}, {side}: {error}")
            seconds = 3 * config.seconds
            turn = min(1.0, config.seconds)
            times = interleaved(runs, seconds, turn, at_least=3) if runs else {}
        labels = {"suite": KNOWN_SUITE, "network": network.name, "layer": f"batch {network.batch}"}
        for family, sides in wanted.items():
            if sides[OURS] in times:
                found = {name: side for name, side in sides.items() if side in times}
                yield summarized(
                    {**labels, "family": family, "pass": "step"},
                    {name: times[side] for name, side in found.items()},
                    {name: compiling[side] for name, side in found.items()},
                    {},
                )


def step_process(config: Config, side: str) -> Process:
    """A process for one training step of that side."""
    if side in (TORCH, COMPILED):
        return Process(config.torch_python, TORCH_SCRIPT)
    return Process(sys.executable, STEP_SCRIPT)


def measure_loops(config: Config) -> Iterator[dict[str, Any]]:
    """A result for each kind of convolution: the gradients of a few batches, in a `lax.scan`.

    Beside autodiff's in the same loop, ours is measured without it, too.
    """
    for layer in IN_LOOPS:
        if config.only not in f"{layer.network} {layer.name} in a scan":
            continue
        sides = both_sides(layer)
        rng = np.random.default_rng(0)
        w = jnp.asarray(rng.standard_normal(layer.w), "float32")
        batches = jnp.asarray(rng.standard_normal((BATCHES_IN_LOOP, *layer.x)), "float32")
        runs, compiling = {}, {}
        for name, side, accumulate in (
            (OURS, OURS, _in_a_scan), (AUTODIFF, AUTODIFF, _in_a_scan), (UNROLLED, OURS, _unrolled)
        ):  # fmt: skip
            started = time.perf_counter()
            function = functools.partial(accumulate, sides[side])
            fast = config.cpu_options and side == OURS
            compiled = jit(function, fast).lower(w, batches).compile()
            compiling[name] = time.perf_counter() - started
            runs[name] = timed(functools.partial(compiled, w, batches))
        times = interleaved(runs, config.seconds)
        labels = {"suite": KNOWN_SUITE, "network": layer.network, "layer": layer.name}
        row = {**labels, "family": "in a scan", "pass": "gradients"}
        yield summarized(row, times, compiling, {})


def _gradients(f: Callable[..., Any], w: jax.Array, x: jax.Array) -> Any:
    return jax.grad(lambda w, x: jnp.sum(f(x, w) ** 2), (0, 1))(w, x)


def _in_a_scan(f: Callable[..., Any], w: jax.Array, batches: jax.Array) -> Any:
    def step(total: jax.Array, x: jax.Array) -> Any:
        dw, dx = _gradients(f, w, x)
        return total + dw, dx

    return lax.scan(step, jnp.zeros_like(w), batches)


def _unrolled(f: Callable[..., Any], w: jax.Array, batches: jax.Array) -> Any:
    dws, dxs = zip(*(_gradients(f, w, x) for x in batches), strict=True)
    return sum(dws), jnp.stack(dxs)


def measure_batches(seconds: float, cpu_options: bool) -> dict[str, dict[int, float]]:
    """Microseconds an image for every pass of a layer of middling size, at growing batches."""
    found: dict[str, dict[int, float]] = {what: {} for what in MIDDLING.passes}
    for what in MIDDLING.passes:
        runs = {}
        for batch in BATCHES:
            layer = dataclasses.replace(MIDDLING, x=(batch, *MIDDLING.x[1:]))
            functions, arguments = layer_functions(layer, what)
            compiled = jit(functions[OURS], cpu_options).lower(*arguments).compile()
            runs[str(batch)] = timed(functools.partial(compiled, *arguments))
        times = interleaved(runs, seconds)
        for batch in BATCHES:
            found[what][batch] = 1e6 * float(np.median(times[str(batch)])) / batch
    return found


def measure_calls(seconds: float) -> dict[str, tuple[float, float, float]]:
    """For one eager call of a small layer, how many times faster ours is than lax's."""
    found = {}
    for kind, layer in SMALL.items():
        functions, arguments = layer_functions(layer, layer.passes[0])
        if not layer.maps:  # the forward pass alone
            functions, arguments = both_sides(layer), arguments[1:]
        runs = {name: timed(functools.partial(f, *arguments)) for name, f in functions.items()}
        times = interleaved(runs, seconds)
        found[kind] = ratio(times[AUTODIFF], times[OURS])
    return found


def summarized(
    row: dict[str, Any],
    times: dict[str, np.ndarray],
    compiling: dict[str, float],
    temporary: dict[str, int],
) -> dict[str, Any]:
    """A row of results: medians in milliseconds, ratios with their intervals."""
    row = {**row, "runs": len(times[OURS]), "compile_seconds": compiling, "temporary": temporary}
    for name, values in times.items():
        row[f"{name}_ms"] = 1e3 * float(np.median(values))
        if name != OURS:
            row[f"to_{name}"] = ratio(values, times[OURS])
    return row


# ------------------------------------------------------------------------------------------
# Reporting
# ------------------------------------------------------------------------------------------


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    against = {AUTODIFF: "autodiff", TORCH: "PyTorch", COMPILED: "torch.compile"}
    head = ["network", "layer", "pass", "ours ms", *(f"to {name}" for name in against.values())]
    head += ["compile s (to autodiff)", "memory to autodiff"]
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for row in rows:
        cells = [row["network"], row["layer"], measured_part(row), f"{row['ours_ms']:.2f}"]
        for name in against:
            found = row.get(f"to_{name}")
            cells.append("" if found is None else "{:.2f} ({:.2f}–{:.2f})".format(*found))
            if name == AUTODIFF and row.get("same_program"):
                cells[-1] = "same program"
        seconds, space = row["compile_seconds"], row["temporary"]
        ratio = f" ({seconds[OURS] / seconds[AUTODIFF]:.1f}×)" if seconds.get(AUTODIFF) else ""
        cells.append(f"{seconds[OURS]:.1f}{ratio}")
        ours, theirs = (space.get(name) for name in (OURS, AUTODIFF))
        cells.append(f"{ours / theirs:.1f}×" if ours and theirs else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def means(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Geometric means of the ratios by list, family and pass; networks weigh equally in each."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        suite, family = row["suite"], row["family"]
        groups.setdefault(f"{suite}: {family}", []).append(row)
        if row["pass"] != "step":
            groups.setdefault(f"{suite}: {family}, {row['pass']}", []).append(row)
            if f"{UNROLLED}_ms" not in row:
                groups.setdefault(f"{suite}: all layers", []).append(row)
    found: dict[str, dict[str, float]] = {}
    for group, members in groups.items():
        for name in (AUTODIFF, TORCH, COMPILED, UNROLLED):
            networks: dict[str, list[float]] = {}
            for row in members:
                if f"to_{name}" in row:
                    networks.setdefault(row["network"], []).append(np.log(row[f"to_{name}"][0]))
            if networks:
                logs = [np.mean(values) for values in networks.values()]
                found.setdefault(group, {})[name] = float(np.exp(np.mean(logs)))
    return found


def described(row: dict[str, Any]) -> str:
    """Which row it is."""
    return f"{row['suite']}: {row['network']} {row['layer']}, {measured_part(row)}"


def measured_part(row: dict[str, Any]) -> str:
    """The pass of a layer, or the kind of step."""
    return row["family"] if row["pass"] == "step" else row["pass"]


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Ratios to autodiff, and to PyTorch where it was measured, one bar a row."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = [name for name in (AUTODIFF, TORCH) if any(f"to_{name}" in row for row in rows)]
    height = 0.22 * len(rows) + 1.2
    figure, axes = plt.subplots(
        1, len(columns), figsize=(5 + 4.5 * len(columns), height), sharey=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    labels = [described(row) for row in rows]
    for axis, name in zip(axes[0], columns, strict=True):
        ratios = [row.get(f"to_{name}", (np.nan,) * 3) for row in rows]
        middle = np.array([entry[0] for entry in ratios])
        colors = ["#2a7f62" if value >= 1 else "#b5523b" for value in middle]
        axis.barh(range(len(rows)), middle - 1, left=1, color=colors)
        axis.hlines(
            range(len(rows)), [e[1] for e in ratios], [e[2] for e in ratios], color="0.3", lw=1
        )
        axis.axvline(1, color="0.3", lw=1)
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter("{x:g}×")
        axis.xaxis.set_minor_formatter("")
        axis.set_title(f"times faster than {'XLA autodiff' if name == AUTODIFF else 'PyTorch'}")
        axis.grid(axis="x", alpha=0.3)
    axes[0, 0].set_yticks(range(len(rows)), labels, fontsize=7)
    axes[0, 0].invert_yaxis()
    axes[0, 0].margins(y=0.01)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(config: Config) -> None:
    """Measures, prints and writes."""
    torch = torch_processes(config)
    about = {
        "machine": platform.processor() or platform.machine(),
        "device": str(jax.devices()[0]),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "numpy": np.__version__,
        "cores": os.cpu_count(),
        "huge_pages": huge_pages(),
        **(torch[TORCH].about if torch else {}),
    }
    try:
        rows = list(measure_layers(config, torch))
    finally:
        for process in torch.values():
            process.close()
    if config.steps:
        rows += measure_steps(config, torch)
    if config.wants(KNOWN_SUITE):
        rows += measure_loops(config)
    if not rows:
        raise SystemExit(f"--only: got {config.only!r}, which no row contains")
    costs = config.costs and config.wants(KNOWN_SUITE)
    batches = measure_batches(config.seconds, config.cpu_options) if costs else {}
    calls = measure_calls(config.seconds) if costs else {}
    config.out.mkdir(parents=True, exist_ok=True)
    summary = means(rows)
    (config.out / "results.json").write_text(
        json.dumps(
            {"about": about, "means": summary, "rows": rows, "batches": batches, "calls": calls},
            indent=1,
        )
    )
    plot(rows, config.out / "ratios.png")
    with to_output():
        report(config, about, rows, summary, batches, calls)


def torch_processes(config: Config) -> dict[str, Process]:
    """Processes for layers in PyTorch, in eager mode and compiled; none where it is missing."""
    names = (TORCH, COMPILED) if config.torch_compile else (TORCH,)
    try:
        return {name: Process(config.torch_python, TORCH_SCRIPT) for name in names}
    except RuntimeError:
        put("PyTorch is not installed there: it is not measured")
        return {}


def huge_pages() -> str:
    """The setting with which all processes run: the kernel's, and what they ask glibc for."""
    try:
        kernel = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text("utf-8").strip()
    except OSError:
        kernel = "unknown"
    return f"{kernel}; GLIBC_TUNABLES={os.environ.get('GLIBC_TUNABLES', '')}"


def report(
    config: Config,
    about: dict[str, Any],
    rows: list[dict[str, Any]],
    summary: dict[str, dict[str, float]],
    batches: dict[str, dict[int, float]],
    calls: dict[str, tuple[float, float, float]],
) -> None:
    """Prints what was measured."""
    suites = {
        suite: [row for row in rows if row["suite"] == suite]
        for suite in (KNOWN_SUITE, UNSEEN_SUITE)
    }
    for suite, members in suites.items():
        if members:
            print(f"{suite}:\n\n{table(members)}\n")
    print(f"geometric means, {about}")
    for group, ratios in summary.items():
        print(f"  {group:40} " + ", ".join(f"{r:.2f}× {name}" for name, r in ratios.items()))
    for members, name in itertools.product(suites.values(), (AUTODIFF, TORCH)):
        measured = [row for row in members if f"to_{name}" in row]
        if measured:
            worst = min(measured, key=lambda row: row[f"to_{name}"][0])
            print(f"  worst to {name}: {worst[f'to_{name}'][0]:.2f}× ({described(worst)})")
    for what, costs in batches.items():
        each = ", ".join(f"{cost:.0f} at batch {batch}" for batch, cost in costs.items())
        print(f"  µs an image, {MIDDLING.network} {MIDDLING.name}, {what}: {each}")
    for kind, found in calls.items():
        print("  an eager call of {}: {:.2f}× lax ({:.2f}–{:.2f})".format(kind, *found))
    print(f"written to {config.out}")


if __name__ == "__main__":
    # By its path, since the package of which it is a part needs more libraries than this script.
    runpy.run_path(str(HUGE_PAGES))["restart_with_huge_pages"]()
    with command("benchmark.py"):
        with to_output():
            config = tyro.cli(Config, description=__doc__)
        main(config)
