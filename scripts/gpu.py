"""Measures the formulations for GPUs on this machine's GPU, and names those to switch on.

    python scripts/gpu.py
    python scripts/gpu.py --only depthwise --minutes 3
    python scripts/gpu.py --quick

`FORMULATIONS` of `cnnvjp/_lowering/gpu` lists what may be faster than XLA's own convolutions, each
with the layers that it is for. This script first compares each with XLA's on small layers. Then it
measures each, through the library, on layers that fill a GPU, in turn with the library without it,
JAX's autodiff of the lax operation and, if that is installed, PyTorch. Last come training steps
without and with the formulations that won. To switch one on, paste the line `measured=…` that is
printed for it into the table.

Every row is printed as soon as it is measured. The script keeps to the minutes given and lists
the rows it had no time for. `--quick` runs all of it on small layers, on any machine, to test it.
"""

import argparse
import contextlib
import dataclasses
import functools
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch is in this process too

import jax
import jax.numpy as jnp
import numpy as np
from benchmark_layers import AUTODIFF, OURS, both_sides, layer_functions
from benchmark_networks import our_step
from benchmark_suite import BATCH_NORM, DENSE, DEPTHWISE, LAYER_NORM, MAX, Layer, Network

from cnnvjp import _lowering as lowering
from cnnvjp._lowering import gpu
from cnnvjp._types import ArrayType
from cnnvjp._windows.geometry import Window, make_window

Run = Callable[[], Any]

TORCH = "torch"
WIN, LOSS = 1.05, 0.97  # times as fast as without it, from which, and below which
ERROR = {"float32": 5e-3, "bfloat16": 2e-2}  # of the norm: TensorFloat-32 keeps 10 bits
SMALL_ERROR = 2e-5  # of the magnitude, with all bits
FLOATS = ("float32", "bfloat16")


def depthwise(
    name: str, x: tuple[int, ...], kernel: tuple[int, ...], stride: int = 1, **options: Any
) -> Layer:
    """A depthwise layer that keeps the image's size, but for the stride."""
    padding = tuple(k // 2 for k in kernel)
    maps = x[-1]
    return Layer("", name, DEPTHWISE, x, kernel, maps, stride, padding, groups=maps, **options)


# Arrays of 100 MB and more: beyond the cache, and far beyond what starting a kernel takes.
LAYERS = (
    depthwise("QuartzNet dw33", (128, 2000, 256), (33,)),
    depthwise("ConvNeXt dw7", (128, 56, 56, 96), (7, 7)),
    Layer("", "DeepLab d2", DENSE, (32, 65, 65, 256), (3, 3), 256, padding=2, dilation=2),
    depthwise("EfficientNet dw5 s2", (256, 28, 28, 240), (5, 5), 2),
    depthwise("MobileNetV2 dw3", (128, 56, 56, 144), (3, 3)),
    depthwise("MobileNetV2 dw3 s2", (128, 56, 56, 144), (3, 3), 2),
    Layer("", "C3D conv2", DENSE, (8, 16, 56, 56, 64), (3, 3, 3), 128, padding=1),
    Layer("", "max pooling 5×5", MAX, (256, 56, 56, 64), (5, 5), padding=2),
    Layer("", "WaveNet d16", DENSE, (64, 4000, 128), (3,), 128, padding=16, dilation=16),
    Layer("", "C3D s2", DENSE, (8, 16, 56, 56, 64), (3, 3, 3), 64, stride=2, padding=1),
    Layer("", "narrow d2", DENSE, (128, 56, 56, 64), (3, 3), 64, padding=2, dilation=2),
    Layer("", "batch norm", BATCH_NORM, (128, 56, 56, 64)),
    Layer("", "layer norm", LAYER_NORM, (128, 56, 56, 96)),
)
STEPS = (Network("mobilenet", (32, 32, 3), 512), Network("convnext", (48, 48, 3), 256))
SECONDS_OF_A_STEP = 25  # compiled twice

# Of odd sizes, for the comparison with XLA's; quick runs measure the first ones.
SMALL_LAYERS = (
    depthwise("dw5", (2, 41, 6), (5,)),
    depthwise("dw3 s2", (2, 9, 11, 32), (3, 3), 2),
    Layer("", "d2", DENSE, (2, 9, 11, 3), (3, 2), 4, padding=2, dilation=2),
    Layer("", "3-D", DENSE, (2, 5, 6, 7, 3), (2, 3, 3), 4, stride=(2, 1, 1), padding=1),
    Layer("", "max pooling 5×5", MAX, (2, 9, 11, 3), (5, 5), padding=2),
    Layer("", "batch norm", BATCH_NORM, (2, 5, 6, 3)),
    depthwise("dw3 s2 d3", (2, 19, 17, 3), (3, 3), 2, dilation=3),
    depthwise("dw 3-D", (2, 5, 6, 7, 3), (3, 2, 3), 2),
    Layer("", "1-D d3", DENSE, (2, 31, 3), (3,), 4, padding=1, dilation=3),
)
SMALL_STEPS = (Network("convnext", (16, 16, 3), 2),)


# ------------------------------------------------------------------------------------------
# Layers and formulations
# ------------------------------------------------------------------------------------------


def window_of(layer: Layer) -> Window:
    """Where a layer's kernel or window stands."""
    pairs = tuple((p, p) for p in layer.paddings)
    return make_window(layer.x[1:-1], layer.kernel, layer.strides, pairs, layer.dilation)


@functools.lru_cache(maxsize=1)
def arrays_of(layer: Layer, dtype: str) -> dict[str, jax.Array]:
    """Random operands of a layer, and dy, drawn where they are used."""
    shapes = {"x": layer.x}
    if layer.maps:
        shapes["w"] = layer.w
    elif not layer.kernel:
        shapes |= {"gamma": layer.x[-1:], "beta": layer.x[-1:]}
    operands = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes.values()]
    shapes["dy"] = jax.eval_shape(both_sides(layer)[OURS], *operands).shape
    key = jax.random.key(0)
    return {
        name: jax.random.normal(jax.random.fold_in(key, i), shape, dtype)
        for i, (name, shape) in enumerate(shapes.items())
    }


def formulations(layer: Layer, what: str, dtype: str) -> list[str]:
    """The formulations of a layer's pass."""
    if not layer.kernel:
        return []
    window = window_of(layer)
    kind = gpu.kind_of(layer.x[-1] // layer.groups, layer.groups) if layer.maps else "pooling"
    passes = (what,) if layer.maps else ("forward",)  # a pool's forward pass is in both of its rows
    return [
        name
        for name, row in gpu.FORMULATIONS.items()
        if row.what in passes and row.layers.include(kind, window, dtype)
    ]


def passes_of(layer: Layer) -> tuple[str, ...]:
    """The passes to measure."""
    return ("forward", *layer.passes) if layer.family == MAX else layer.passes


@contextlib.contextmanager
def switched_on(names: list[str]) -> Iterator[None]:
    """Has the library choose these formulations, and none else, for what is traced here."""
    table = dict(gpu.FORMULATIONS)
    for name, row in table.items():
        measured = "now" if name in names else None
        gpu.FORMULATIONS[name] = dataclasses.replace(row, measured=measured)
    jax.clear_caches()  # choices are part of traced programs
    try:
        yield
    finally:
        gpu.FORMULATIONS.update(table)
        jax.clear_caches()


# ------------------------------------------------------------------------------------------
# Correctness
# ------------------------------------------------------------------------------------------


def check(name: str) -> tuple[int, float]:
    """On how many small layers a formulation was run, and its largest error there.

    The other side is XLA's own convolution on the CPU, in float32 without TensorFloat-32.
    """
    row = gpu.FORMULATIONS[name]
    plain, operands = {
        "forward": (lowering.correlate, ("x", "w")),
        "input gradient": (lowering.input_gradient, ("dy", "w")),
        "kernel gradient": (lowering.kernel_gradient, ("x", "dy")),
    }[row.what]
    layers = [layer for layer in SMALL_LAYERS if name in formulations(layer, row.what, "float32")]
    layers = [layer for layer in layers if layer.maps]
    rng = np.random.default_rng(0)
    error = 0.0
    for layer in layers:
        window = window_of(layer)
        shapes = {"x": layer.x, "w": layer.w, "dy": (layer.x[0], *layer.out, layer.maps)}
        arrays = [rng.standard_normal(shapes[operand], np.float32) for operand in operands]
        options: dict[str, Any] = dict(window=window, groups=layer.groups, precision="highest")
        ours = np.asarray(jax.jit(functools.partial(row.run, **options))(*arrays))
        with jax.default_device(jax.devices("cpu")[0]):
            out = ArrayType(jnp.dtype("float32"))
            theirs = np.asarray(jax.jit(functools.partial(plain, **options, out=out))(*arrays))
        found = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
        error = max(error, found if math.isfinite(found) else math.inf)
    return len(layers), error


def difference(found: Any, expected: Any) -> float:
    """The largest difference of two trees' leaves, as a share of their norms; NaN is infinite."""

    def norm(x: Any) -> jax.Array:
        return jnp.linalg.norm(x.astype(jnp.float32).ravel())

    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    parts = [float(norm(a - b) / jnp.maximum(norm(b), 1e-30)) for a, b in pairs]
    return max(part if math.isfinite(part) else math.inf for part in parts)


# ------------------------------------------------------------------------------------------
# Time
# ------------------------------------------------------------------------------------------


def interleaved(runs: dict[str, tuple[Run, Callable[[Any], Any]]], quick: bool) -> dict[str, float]:
    """Milliseconds of every run: medians of rounds, in each of which all have a turn.

    Args:
        runs: what starts the work, and what waits for the result of the last start.
        quick: whether one round will do.
    """

    def seconds(name: str, calls: int) -> float:
        run, wait = runs[name]
        started = time.perf_counter()
        for _ in range(calls):
            result = run()
        wait(result)
        return (time.perf_counter() - started) / calls

    calls = {}
    for name in runs:
        seconds(name, 1)  # warms it up
        calls[name] = 1 if quick else min(100, max(3, round(0.01 / seconds(name, 3))))
    times: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(1 if quick else 9):
        first = round_ % len(runs)
        for name in [*runs, *runs][first : first + len(runs)]:
            times[name].append(seconds(name, calls[name]))
    return {name: 1e3 * statistics.median(found) for name, found in times.items()}


def bandwidth(quick: bool) -> float:
    """Bytes that the device reads and writes in a second, in one pass over a large array."""
    x = jnp.ones(1 << (16 if quick else 28), jnp.float32)
    copy = jax.jit(lambda x: x + 1)
    (milliseconds,) = interleaved({"": (lambda: copy(x), jax.block_until_ready)}, quick).values()
    return 2 * x.nbytes / (1e-3 * milliseconds)


def torch_run(layer: Layer, what: str, dtype: str) -> tuple[Run, Callable[[Any], Any]] | None:
    """PyTorch's pass of a layer on the same device, if it is installed and has such a row."""
    if not layer.maps and what == "forward":
        return None
    try:
        import benchmark_torch
        import torch
    except ImportError:
        return None
    on_gpu = jax.default_backend() != "cpu"
    if on_gpu and not torch.cuda.is_available():
        return None
    torch.backends.cudnn.benchmark = True
    with torch.device("cuda" if on_gpu else "cpu"):
        drawn = benchmark_torch.layer_tensors(layer)
    tensors = {name: a.to(getattr(torch, dtype)) for name, a in drawn.items()}
    wait = (lambda _: torch.cuda.synchronize()) if on_gpu else (lambda _: None)
    return benchmark_torch.layer_pass(layer, what, tensors), wait


def measure(layer: Layer, what: str, dtype: str, quick: bool, speed: float) -> dict[str, Any]:
    """A row: milliseconds of each side, those of memory alone, and the formulations' errors."""
    functions, arguments = layer_functions(layer, what, arrays_of(layer, dtype))
    programs: dict[str, Any] = {}
    failed: dict[str, str] = {}
    for name in (OURS, AUTODIFF, *formulations(layer, what, dtype)):
        try:
            with switched_on([name] if name in gpu.FORMULATIONS else []):
                function = functions.get(name, functions[OURS])
                programs[name] = jax.jit(function).lower(*arguments).compile()
                programs[name](*arguments)
        except Exception as error:  # the others are measured all the same
            programs.pop(name, None)
            failed[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    runs: dict[str, tuple[Run, Callable[[Any], Any]]] = {
        name: (functools.partial(program, *arguments), jax.block_until_ready)
        for name, program in programs.items()
    }
    with contextlib.suppress(RuntimeError):  # PyTorch has no such operation for this dtype
        theirs = torch_run(layer, what, dtype)
        if theirs is not None:
            theirs[0]()
            runs[TORCH] = theirs
    result = programs[OURS](*arguments)
    moved = sum(a.nbytes for a in jax.tree.leaves((arguments, result)))
    errors = {
        name: difference(program(*arguments), result)
        for name, program in programs.items()
        if name in gpu.FORMULATIONS
    }
    temporary = {
        name: getattr(program.memory_analysis(), "temp_size_in_bytes", 0)
        for name, program in programs.items()
    }
    return {
        "layer": layer.name, "pass": what, "dtype": dtype, "memory_ms": 1e3 * moved / speed,
        "ms": interleaved(runs, quick), "errors": errors, "temporary_bytes": temporary,
        "failed": failed,
    }  # fmt: skip


def measure_steps(network: Network, names: list[str], quick: bool) -> dict[str, float]:
    """Milliseconds of a training step, without the formulations and with them."""
    found: dict[str, float] = {}
    for side, some in {"without": [], "with": names}.items():
        with switched_on(some):
            run = our_step(network, cpu_options=False)
            found |= interleaved({side: (run, lambda _: None)}, quick)
    return found


# ------------------------------------------------------------------------------------------
# What follows
# ------------------------------------------------------------------------------------------


def verdict(name: str, rows: list[dict[str, Any]], checked: dict[str, Any]) -> dict[str, Any]:
    """Whether to switch a formulation on, and the measurement to put beside it.

    "on": it is the fastest in some row and slower than XLA's own in none. "in part": in some it is
    slower, so that its layers are to be narrowed first. "off": else, and if it is wrong anywhere.

    Args:
        name: of the formulation.
        rows: what `measure` returned.
        checked: for each formulation the number of small layers, and the error there.
    """
    mine = [row for row in rows if name in row["ms"]]
    wrong = [row for row in mine if not row["errors"][name] <= allowed(row)]
    failed = any(name in row["failed"] for row in rows)
    gains = {describe(row): row["ms"][OURS] / row["ms"][name] for row in mine}
    rivals = [{n: row["ms"][n] for n in row["ms"] if n in gpu.FORMULATIONS} for row in mine]
    best = any(
        gains[describe(row)] >= WIN and min(rival, key=lambda n: rival[n]) == name
        for row, rival in zip(mine, rivals, strict=True)
    )
    slower = [row for row, gain in gains.items() if gain < LOSS]
    right = not wrong and not failed and checked.get(name, (0, 0.0))[1] <= SMALL_ERROR
    say = "off" if not (best and right) else "in part" if slower else "on"
    measured = "; ".join(
        f"{describe(row)} {row['ms'][OURS]:.3g} → {row['ms'][name]:.3g} ms" for row in mine
    )
    mean = math.exp(statistics.mean(map(math.log, gains.values()))) if gains else math.nan
    return {
        "switch": say, "mean": mean, "slower": slower, "measured": measured,
        "wrong": [describe(row) for row in wrong],
    }  # fmt: skip


def describe(row: dict[str, Any]) -> str:
    """A row in a few words."""
    return f"{row['layer']} {row['pass']} {row['dtype']}"


def line(row: dict[str, Any]) -> str:
    """A row as it is printed."""
    ours = row["ms"][OURS]
    parts = [f"memory alone {row['memory_ms']:.3f}"]
    for name, ms in row["ms"].items():
        temporary = row["temporary_bytes"].get(name, 0) / 1e6
        parts.append(f"{name} {ms:.3f} ({ours / ms:.2f}×, {temporary:.0f} MB)")
    parts += [f"{n}: WRONG by {e:.1e}" for n, e in row["errors"].items() if not e <= allowed(row)]
    parts += [f"{name}: {text}" for name, text in row["failed"].items()]
    return f"{describe(row)}: " + "; ".join(parts)


def allowed(row: dict[str, Any]) -> float:
    """The error that a row's dtype allows."""
    return ERROR[row["dtype"]]


# ------------------------------------------------------------------------------------------
# The program
# ------------------------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    """Tells of what it cannot use in one line."""

    def error(self, message: str) -> Any:
        """Ends the program with status 2."""
        self.exit(2, f"{self.prog}: {message}\n")


def positive(text: str) -> float:
    """A number above 0."""
    number = float(text)
    if not 0 < number < math.inf:
        raise ValueError
    return number


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = Parser("gpu.py", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small layers, once: a test of this")
    parser.add_argument(
        "--only", default="", help="rows that contain this text: layer, pass, dtype"
    )
    parser.add_argument("--minutes", type=positive, default=6.0, help="about, for all of it")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), help="a file for the results")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    """Checks, measures, and names what to switch on."""
    started = time.perf_counter()
    config = parse(arguments)
    layers, steps = (SMALL_LAYERS[:6], SMALL_STEPS) if config.quick else (LAYERS, STEPS)
    wanted = [
        (layer, what, dtype)
        for dtype in FLOATS
        for layer in layers
        for what in passes_of(layer)
        if config.only in f"{layer.name} {layer.family} {what} {dtype}"
        and (dtype == "float32" or formulations(layer, what, dtype))
        and not (layer.maps and not formulations(layer, what, dtype))
    ]
    if not wanted:
        raise SystemExit(f"--only: got {config.only!r}, which no row contains")
    try:
        config.out.parent.mkdir(parents=True, exist_ok=True)
        config.out.touch()
    except OSError as error:
        raise SystemExit(f"--out: {error}") from error
    decides = jax.default_backend() != "cpu"
    device = jax.devices()[0].device_kind
    results: dict[str, Any] = {
        "jax": jax.__version__, "device": device, "decides": decides, "checked": {}, "rows": [],
        "steps": {}, "left_out": [], "verdicts": {},
    }  # fmt: skip

    def left() -> float:
        return 60 * config.minutes - (time.perf_counter() - started)

    def tell(text: str) -> None:
        print(f"[{time.perf_counter() - started:4.0f} s] {text}", flush=True)
        config.out.write_text(json.dumps(results, indent=1))

    tell(f"JAX {jax.__version__} on {device}")
    if not decides:
        tell("There is no GPU: these are a CPU's figures, which decide nothing.")
    for name, row in gpu.FORMULATIONS.items():
        if row.layers.kind != "pooling":
            count, apart = results["checked"][name] = check(name)
            right = "right" if apart <= SMALL_ERROR else "WRONG"
            tell(f"{name}: {right} on {count} small layers, error {apart:.1e}")
    speed = bandwidth(config.quick)
    tell(f"memory: {speed / 1e9:.0f} GB/s")
    tell("milliseconds (how many times as fast as ours, megabytes of temporaries):")
    for layer, what, dtype in wanted:
        if left() < SECONDS_OF_A_STEP * len(steps):
            results["left_out"].append(f"{layer.name} {what} {dtype}")
            continue
        results["rows"].append(measure(layer, what, dtype, config.quick, speed))
        tell(line(results["rows"][-1]))
    results["verdicts"] = verdicts = {
        name: verdict(name, results["rows"], results["checked"]) for name in gpu.FORMULATIONS
    }
    winners = [name for name, found in verdicts.items() if found["switch"] == "on"]
    for network in steps if winners or config.quick else ():
        if left() < SECONDS_OF_A_STEP:
            results["left_out"].append(f"step of {network.name}")
            continue
        step = results["steps"][network.name] = measure_steps(network, winners, config.quick)
        tell(
            f"step of {network.name}, batch {network.batch}: {step['without']:.2f} ms without, "
            f"{step['with']:.2f} with what won ({step['without'] / step['with']:.2f}×)"
        )
    if results["left_out"]:
        tell(f"no time was left for: {', '.join(results['left_out'])}")
    for name, found in verdicts.items() if decides else ():
        tell(f"{name}: {found['switch']}, mean {found['mean']:.2f}×")
        if found["slower"]:
            tell(f"    slower: {', '.join(found['slower'])}")
        if found["switch"] != "off":
            tell(f'    measured="{device}, JAX {jax.__version__}: {found["measured"]}"')
    tell(f"results in {config.out}")


if __name__ == "__main__":
    main(sys.argv[1:])
