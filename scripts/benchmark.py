"""Measures the library's layers and training steps on this machine, beside XLA's and PyTorch's.

    python scripts/benchmark.py
    python scripts/benchmark.py --torch-python .venv-torch/bin/python

Each row is a layer of a real network, or one training step of a whole one, in float32. Ours is
measured against JAX's own gradient of the lax operation (for whole networks, the same network in
Flax), and against PyTorch where it is installed. All are run in turn, one run each, many times
over: what disturbs the machine disturbs them alike. A ratio is how many times faster ours is; its
interval is the 95 % interval over the rounds. Where XLA compiles ours and the autodiff's to one
and the same program, the ratio is 1. Last come stock Flax networks before and after their
convolutions and poolings became ours, by `cnnvjp.explicit` and by injection, and gradients that are
accumulated in a `lax.scan`, beside autodiff's and beside the same without the loop. It writes a
table, `results.json` and `ratios.png`.
"""

import dataclasses
import functools
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm
import tyro
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
    Network,
    flax_network,
)
from jax import lax

import cnnvjp
from cnnvjp._output import command, put, to_output

ROUNDS_AT_LEAST = 5
OURS, AUTODIFF, TORCH, UNROLLED = "ours", "autodiff", "torch", "unrolled"

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
        seconds: for each row, once it is compiled.
        steps: whether to measure whole training steps too.
        costs: whether to measure how costs grow with the batch, and what a call costs.
        torch_python: a Python that has PyTorch; by default this one, if it has.
        out: the folder for the results, made if need be.
    """

    only: str = ""
    seconds: float = 4.0
    steps: bool = True
    costs: bool = True
    torch_python: str = sys.executable
    out: Path = Path("benchmark")


Run = Callable[[], Any]


class Torch:
    """A second process, which runs PyTorch when it is told to and is idle otherwise."""

    def __init__(self, python: str) -> None:
        """Starts the process with that Python; a RuntimeError if it has no PyTorch."""
        script = Path(__file__).with_name("benchmark_torch.py")
        self._process = subprocess.Popen(
            [python, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            self.about = self._answer()
        except RuntimeError:
            self.close()
            raise

    def start(self, kind: str, index: int, what: str) -> Run:
        """Prepares a row; the function that is returned gives the seconds of one run."""
        self._ask({"do": "start", "kind": kind, "index": index, "pass": what})
        return lambda: self._ask({"do": "time"})["seconds"]

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the PyTorch process ended; what it wrote is above")
        return json.loads(line)

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()


# ------------------------------------------------------------------------------------------
# Layers
# ------------------------------------------------------------------------------------------


def layer_functions(layer: Layer, what: str) -> tuple[dict[str, Callable[..., Any]], list[Any]]:
    """One pass of a layer, ours and by JAX's autodiff, and its arguments."""
    rng = np.random.default_rng(0)

    def array(shape: tuple[int, ...]) -> jax.Array:
        return jnp.asarray(rng.standard_normal(shape, dtype=np.float32))

    x = array(layer.x)
    if layer.maps:
        w = array(layer.w)
        ours, theirs = _convolutions(layer)
        dy = array(jax.eval_shape(ours, x, w).shape)
        if what == "forward":
            return {OURS: ours, AUTODIFF: theirs}, [x, w]
        side = 0 if what == "input gradient" else 1
        kept = w if side == 0 else x
        return {name: _gradient(f, side, x, w) for name, f in ((OURS, ours), (AUTODIFF, theirs))}, [
            kept,
            dy,
        ]
    if layer.family == "batch norm":
        gamma, beta = array(layer.x[-1:]), array(layer.x[-1:])
        both = {OURS: lambda *args: cnnvjp.batch_norm(*args)[0], AUTODIFF: _lax_batch_norm}
        arguments = [x, gamma, beta]
    else:
        both, arguments = _poolings(layer), [x]
    dy = array(jax.eval_shape(both[OURS], *arguments).shape)
    if what == "backward":
        return {name: _gradient(f, 0, x) for name, f in both.items()}, [dy]
    return {name: _both_ways(f) for name, f in both.items()}, [dy, *arguments]


def _convolutions(layer: Layer) -> tuple[Callable[..., Any], Callable[..., Any]]:
    space = "DHW"[-layer.ndim :]
    dimensions = (f"N{space}C", f"{space}IO", f"N{space}C")
    strides = (layer.stride,) * layer.ndim
    padding = [(layer.padding, layer.padding)] * layer.ndim

    def lax_conv(x: jax.Array, w: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(
            x, w, strides, padding, dimension_numbers=dimensions, feature_group_count=layer.groups
        )

    if layer.transposed:
        flipped = (f"N{space}C", f"{space}OI", f"N{space}C")
        edges = [(k - 1 - layer.padding,) * 2 for k in layer.kernel]

        def lax_transposed(y: jax.Array, w: jax.Array) -> jax.Array:
            turned = lax.rev(w, range(layer.ndim))
            ones = (1,) * layer.ndim
            return lax.conv_general_dilated(
                y, turned, ones, edges, strides, dimension_numbers=flipped
            )

        def ours_transposed(y: jax.Array, w: jax.Array) -> jax.Array:
            return cnnvjp.conv_transpose(y, w, stride=layer.stride, padding=layer.padding)

        return ours_transposed, lax_transposed

    def ours(x: jax.Array, w: jax.Array) -> jax.Array:
        return cnnvjp.conv(x, w, stride=layer.stride, padding=layer.padding, groups=layer.groups)

    return ours, lax_conv


def _gradient(f: Callable[..., Any], side: int, *shapes: jax.Array) -> Callable[..., Any]:
    """The gradient with respect to one argument alone: the rest is not computed.

    What is returned takes the other argument, where there is one, and the cotangent.
    """

    def run(*kept_and_dy: jax.Array) -> jax.Array:
        *arguments, dy = kept_and_dy
        arguments.insert(side, jnp.zeros(shapes[side].shape, shapes[side].dtype))
        return jax.vjp(f, *arguments)[1](dy)[side]

    return run


def _poolings(layer: Layer) -> dict[str, Callable[..., Any]]:
    window, strides = (1, *layer.kernel, 1), (1, *(layer.stride,) * layer.ndim, 1)
    edges = [(0, 0), *[(layer.padding, layer.padding)] * layer.ndim, (0, 0)]
    options: dict[str, Any] = dict(stride=layer.stride, padding=layer.padding)
    if layer.family == "max pooling":
        return {
            OURS: lambda x: cnnvjp.max_pool(x, layer.kernel, **options),
            AUTODIFF: lambda x: lax.reduce_window(x, -jnp.inf, lax.max, window, strides, edges),
        }
    taps = float(np.prod(layer.kernel))
    return {
        OURS: lambda x: cnnvjp.avg_pool(x, layer.kernel, **options),
        AUTODIFF: lambda x: lax.reduce_window(x, 0.0, lax.add, window, strides, edges) / taps,
    }


def _lax_batch_norm(x: jax.Array, gamma: jax.Array, beta: jax.Array) -> jax.Array:
    """As Flax computes it: the variance by the mean of squares."""
    axes = tuple(range(x.ndim - 1))
    mean = jnp.mean(x, axes)
    var = jnp.mean(x * x, axes) - mean * mean
    return (x - mean) * (lax.rsqrt(var + 1e-5) * gamma) + beta


def _both_ways(f: Callable[..., Any]) -> Callable[..., Any]:
    def run(dy: jax.Array, *arguments: jax.Array) -> Any:
        y, pullback = jax.vjp(f, *arguments)
        return y, pullback(dy)

    return run


# ------------------------------------------------------------------------------------------
# Whole training steps
# ------------------------------------------------------------------------------------------


def step_runs(network: Network) -> dict[str, tuple[Run, float]]:
    """A training step, ours and in Flax, each with the seconds that it took to compile."""
    x, t = _examples(network)
    runs = {OURS: _our_step(network, x, t)}
    try:
        runs[AUTODIFF] = _flax_step(network, x, t)
    except ImportError:
        print("Flax is not installed: training steps are not compared with it")
    return runs


def _examples(network: Network) -> tuple[jax.Array, jax.Array]:
    x = jax.random.normal(jax.random.key(0), (network.batch, *network.image))
    return x, jnp.arange(network.batch) % 10


def _our_step(network: Network, x: jax.Array, t: jax.Array) -> tuple[Run, float]:
    model, optimizer = getattr(cnnvjp.models, network.name)(), optax.sgd(0.01, 0.9)
    key = jax.random.key(0)
    state = cnnvjp.train.create(key, model, optimizer, network.image)
    step = cnnvjp.train.make_train_step(model, cnnvjp.softmax_cross_entropy, optimizer)

    def run() -> Any:
        nonlocal state
        state, metrics = step(state, (x, t), key)
        return state, metrics

    return run, _seconds(run)


def _flax_step(
    network: Network,
    x: jax.Array,
    t: jax.Array,
    *,
    injected: bool = False,
    rewrite: Callable[..., Any] = lambda loss: loss,
) -> tuple[Run, float]:
    module, optimizer = flax_network(network.name, injected=injected), optax.sgd(0.01, 0.9)
    variables = jax.jit(lambda key: module.init(key, x, train=True))(jax.random.key(0))
    params, rest = variables["params"], {k: v for k, v in variables.items() if k != "params"}

    def loss(params: Any, rest: Any) -> Any:
        y, rest = module.apply({"params": params, **rest}, x, train=True, mutable=list(rest))
        return optax.softmax_cross_entropy_with_integer_labels(y, t).mean(), rest

    def step(carry: Any) -> Any:
        params, rest, opt_state = carry
        slopes = jax.value_and_grad(rewrite(loss), has_aux=True)
        (value, rest), gradients = slopes(params, rest)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return (optax.apply_updates(params, updates), rest, opt_state), value

    compiled = jax.jit(step, donate_argnums=0)
    carry = params, rest, optimizer.init(params)

    def run() -> Any:
        nonlocal carry
        carry, value = compiled(carry)
        return carry, value

    return run, _seconds(run)


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


def interleaved(runs: dict[str, Run], seconds: float) -> dict[str, np.ndarray]:
    """Seconds of every run: one of each in turn, until the time is up.

    Each round begins with another one: what follows a foreign process finds its caches cold.
    """
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    started = time.perf_counter()
    round = 0
    while time.perf_counter() - started < seconds or round < ROUNDS_AT_LEAST:
        first = round % len(runs)
        for name in [*runs, *runs][first : first + len(runs)]:
            times[name].append(runs[name]())
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


def measure_layers(config: Config, torch: Torch | None) -> Iterator[dict[str, Any]]:
    """A result for every pass of every layer."""
    chosen = [
        (index, layer, what)
        for index, layer in enumerate(LAYERS)
        for what in layer.passes
        if config.only in f"{layer.network} {layer.name} {layer.family}"
    ]
    for index, layer, what in tqdm.tqdm(chosen, unit="row", disable=None):
        functions, arguments = layer_functions(layer, what)
        runs: dict[str, Run] = {}
        compiling, temporary, texts = {}, {}, set()
        for name, function in functions.items():
            started = time.perf_counter()
            compiled = jax.jit(function).lower(*arguments).compile()
            compiling[name] = time.perf_counter() - started
            temporary[name] = getattr(compiled.memory_analysis(), "temp_size_in_bytes", 0)
            runs[name] = timed(functools.partial(compiled, *arguments))
            texts.add(program(compiled))
        same = len(texts) == 1
        if same:
            del runs[AUTODIFF]
        if torch:
            runs[TORCH] = torch.start("layer", index, what)
        times = interleaved(runs, config.seconds)
        row = summarized(
            {"network": layer.network, "layer": layer.name, "family": layer.family, "pass": what},
            times,
            compiling,
            temporary,
        )
        if same:  # two runs of one program would measure the noise
            row |= {"same_program": True, f"to_{AUTODIFF}": (1.0, 1.0, 1.0)}
            row[f"{AUTODIFF}_ms"] = row[f"{OURS}_ms"]
        yield row


def measure_steps(config: Config, torch: Torch | None) -> Iterator[dict[str, Any]]:
    """A result for the training step of every network."""
    for index, network in enumerate(NETWORKS):
        if config.only not in f"{network.name} training step":
            continue
        found = step_runs(network)
        runs = {name: timed(run) for name, (run, _) in found.items()}
        if torch:
            runs[TORCH] = torch.start("step", index, "")
        times = interleaved(runs, 3 * config.seconds)
        compiling = {name: seconds for name, (_, seconds) in found.items()}
        labels = {"layer": f"batch {network.batch}", "family": "training step", "pass": "step"}
        yield summarized({"network": network.name, **labels}, times, compiling, {})


def measure_swaps(config: Config) -> Iterator[dict[str, Any]]:
    """Two results for every stock Flax network: its training step before and after each swap."""
    for network in NETWORKS:
        if config.only not in f"{network.name} stock Flax step":
            continue
        x, t = _examples(network)
        try:
            before = _flax_step(network, x, t)
        except ImportError:
            print("Flax is not installed: its networks are not measured")
            return
        after = {
            "explicit": _flax_step(network, x, t, rewrite=cnnvjp.explicit),
            "injection": _flax_step(network, x, t, injected=True),
        }
        steps = {AUTODIFF: before, **after}
        runs = {name: timed(run) for name, (run, _) in steps.items()}
        times = interleaved(runs, 3 * config.seconds)
        labels = {"layer": f"batch {network.batch}", "pass": "step"}
        for swap in after:
            yield summarized(
                {"network": network.name, **labels, "family": f"stock Flax step, {swap}"},
                {OURS: times[swap], AUTODIFF: times[AUTODIFF]},
                {OURS: after[swap][1], AUTODIFF: before[1]},
                {},
            )


def measure_loops(config: Config) -> Iterator[dict[str, Any]]:
    """A result for each kind of convolution: the gradients of a few batches, in a `lax.scan`.

    Beside autodiff's in the same loop, ours is measured without it, too.
    """
    for layer in IN_LOOPS:
        if config.only not in f"{layer.network} {layer.name} in a scan":
            continue
        ours, autodiff = _convolutions(layer)
        rng = np.random.default_rng(0)
        w = jnp.asarray(rng.standard_normal(layer.w), "float32")
        batches = jnp.asarray(rng.standard_normal((BATCHES_IN_LOOP, *layer.x)), "float32")
        runs, compiling = {}, {}
        for name, f, accumulate in (
            (OURS, ours, _in_a_scan), (AUTODIFF, autodiff, _in_a_scan), (UNROLLED, ours, _unrolled)
        ):  # fmt: skip
            started = time.perf_counter()
            compiled = jax.jit(functools.partial(accumulate, f)).lower(w, batches).compile()
            compiling[name] = time.perf_counter() - started
            runs[name] = timed(functools.partial(compiled, w, batches))
        times = interleaved(runs, config.seconds)
        labels = {"layer": layer.name, "family": "in a scan", "pass": "gradients"}
        yield summarized({"network": layer.network, **labels}, times, compiling, {})


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


def measure_batches(seconds: float) -> dict[str, dict[int, float]]:
    """Microseconds an image for every pass of a layer of middling size, at growing batches."""
    found: dict[str, dict[int, float]] = {what: {} for what in MIDDLING.passes}
    for what in MIDDLING.passes:
        runs = {}
        for batch in BATCHES:
            layer = dataclasses.replace(MIDDLING, x=(batch, *MIDDLING.x[1:]))
            functions, arguments = layer_functions(layer, what)
            compiled = jax.jit(functions[OURS]).lower(*arguments).compile()
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
            functions, arguments = _poolings(layer), arguments[1:]
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
    head = ("network", "layer", "pass", "ours ms", "to autodiff", "to PyTorch", "compile", "memory")
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for row in rows:
        cells = [row["network"], row["layer"], row["pass"], f"{row['ours_ms']:.2f}"]
        for name in (AUTODIFF, TORCH):
            found = row.get(f"to_{name}")
            cells.append("" if found is None else "{:.2f} ({:.2f}–{:.2f})".format(*found))
        if row.get("same_program"):
            cells[-2] = "same program"
        for entry, form in (("compile_seconds", "{:.1f}×"), ("temporary", "{:.1f}×")):
            ours, theirs = (row[entry].get(name) for name in (OURS, AUTODIFF))
            cells.append(form.format(ours / theirs) if ours and theirs else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def means(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Geometric means of the ratios by family and pass; each network weighs equally in one."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["family"], []).append(row)
        if row["pass"] != "step":
            groups.setdefault(f"{row['family']}, {row['pass']}", []).append(row)
            if f"{UNROLLED}_ms" not in row:
                groups.setdefault("all layers", []).append(row)
    found: dict[str, dict[str, float]] = {}
    for group, members in groups.items():
        for name in (AUTODIFF, TORCH, UNROLLED):
            networks: dict[str, list[float]] = {}
            for row in members:
                if f"to_{name}" in row:
                    networks.setdefault(row["network"], []).append(np.log(row[f"to_{name}"][0]))
            if networks:
                logs = [np.mean(values) for values in networks.values()]
                found.setdefault(group, {})[name] = float(np.exp(np.mean(logs)))
    return found


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
    labels = [f"{row['network']} {row['layer']}, {row['pass']}" for row in rows]
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
    torch = None
    try:
        torch = Torch(config.torch_python)
    except RuntimeError:
        put("PyTorch is not installed there: only ratios to autodiff are measured")
    about = {
        "machine": platform.processor() or platform.machine(),
        "device": str(jax.devices()[0]),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "numpy": np.__version__,
        "cores": os.cpu_count(),
        "tunables": os.environ.get("GLIBC_TUNABLES", ""),
        **(torch.about if torch else {}),
    }
    try:
        rows = list(measure_layers(config, torch))
        if config.steps:
            rows += measure_steps(config, torch)
            rows += measure_swaps(config)
        rows += measure_loops(config)
    finally:
        if torch:
            torch.close()
    if not rows:
        raise SystemExit(f"--only: got {config.only!r}, which no row contains")
    batches = measure_batches(config.seconds) if config.costs else {}
    calls = measure_calls(config.seconds) if config.costs else {}
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


def report(
    config: Config,
    about: dict[str, Any],
    rows: list[dict[str, Any]],
    summary: dict[str, dict[str, float]],
    batches: dict[str, dict[int, float]],
    calls: dict[str, tuple[float, float, float]],
) -> None:
    """Prints what was measured."""
    print(table(rows))
    print(f"\ngeometric means, {about}")
    for group, ratios in summary.items():
        print(f"  {group:40} " + ", ".join(f"{r:.2f}× {name}" for name, r in ratios.items()))
    for name in (AUTODIFF, TORCH):
        known = [row for row in rows if f"to_{name}" in row]
        if known:
            worst = min(known, key=lambda row: row[f"to_{name}"][0])
            where = f"{worst['network']} {worst['layer']}, {worst['pass']}"
            print(f"  worst to {name}: {worst[f'to_{name}'][0]:.2f}× ({where})")
    for what, costs in batches.items():
        each = ", ".join(f"{cost:.0f} at batch {batch}" for batch, cost in costs.items())
        print(f"  µs an image, {MIDDLING.network} {MIDDLING.name}, {what}: {each}")
    for kind, found in calls.items():
        print("  an eager call of {}: {:.2f}× lax ({:.2f}–{:.2f})".format(kind, *found))
    print(f"written to {config.out}")


if __name__ == "__main__":
    with command("benchmark.py"):
        with to_output():
            config = tyro.cli(Config, description=__doc__)
        main(config)
