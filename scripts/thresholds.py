"""Measures what each threshold of the CPU formulations decides, on both of its sides.

    python scripts/thresholds.py
    python scripts/thresholds.py --only grouped --seconds 2

A formulation is chosen from static shapes by comparing them with thresholds, constants of
`cnnvjp._lowering.cpu` and `cnnvjp._windows`. For each of them this script takes layers at its
edge, compiles one pass of a layer with the threshold as it is and with another value that
decides the other way, and runs the two in turn. A ratio above 1 says how many times faster the
layer is with the value in the code. The lines are what stands beside the constants.
"""

import dataclasses
import functools
import importlib
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import tqdm
import tyro

import cnnvjp

CPU = "_lowering.cpu"
DEPTHWISE, GROUPED = f"{CPU}.depthwise", f"{CPU}.grouped"
DOOR, TAPS, TILES, MATRICES = "_lowering", "_windows.taps", "_windows.tiles", "_windows.matrices"
FORWARD, INPUT, KERNEL, BOTH = "forward", "input gradient", "kernel gradient", "both ways"
Function = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Row:
    """A layer at the edge of a threshold.

    Attributes:
        module: where the constant is, below `cnnvjp`.
        constant: its name there.
        other: the value that decides the other way.
        x: the layer's input, (N, *spatial, C).
        kernel: the kernel's or the window's size, or the size that `resize` goes to.
        maps: output channels of a convolution, 0 for a pooling or a resizing.
        what: the pass that is measured.
        options: of the operation.
        operation: which one.
        onednn: whether it decides where programs are compiled with oneDNN.
    """

    module: str
    constant: str
    other: float
    x: tuple[int, ...]
    kernel: tuple[int, ...]
    maps: int
    what: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    operation: str = "conv"
    onednn: bool = False

    @property
    def layer(self) -> str:
        """The layer in a few words."""
        size = "×".join(map(str, self.kernel))
        image = "×".join(map(str, self.x[:-1]))
        channels = f"{self.x[-1]} → {self.maps}" if self.maps else f"{self.x[-1]}"
        options = "".join(f", {name} {value}" for name, value in self.options.items())
        return f"{self.operation} {size}, {channels} at {image}{options}, {self.what}"


def same(kernel: int, **options: Any) -> dict[str, Any]:
    """The options of a layer that keeps the image's size."""
    return {"padding": kernel // 2, **options}


D64, D240 = same(3, groups=64), same(5, groups=240)
G32 = same(3, groups=32)
S1, DILATED, FINE = {"stride": 1}, {"dilation": 2}, {"antialias": True}
S1P2 = S1 | {"padding": 2}
T2, T3, T4 = ({"tiles": (t, t)} for t in (2, 3, 4))

ROWS = (
    Row(CPU, "_MOST_TAPS", 0, (8, 28, 28, 64), (11, 11), 64, FORWARD, same(11, groups=64)),
    Row(CPU, "_MOST_TAPS", 256, (8, 28, 28, 64), (13, 13), 64, FORWARD, same(13, groups=64)),
    Row(CPU, "_UNROLLED_TAPS", 9, (16, 28, 28, 240), (5, 5), 240, KERNEL, D240),
    Row(CPU, "_UNROLLED_TAPS", 99, (8, 32, 32, 64), (9, 9), 64, KERNEL, same(9, groups=64)),
    Row(CPU, "_LOW", 99, (4, 56, 56, 96), (7, 7), 96, KERNEL, same(7, groups=96)),
    Row(CPU, "_MOST_PHASES", 0, (16, 56, 56, 64), (3, 3), 64, INPUT, same(3, groups=64, stride=2)),
    Row(CPU, "_LARGE", 6, (128, 14, 14, 6), (5, 5), 16, INPUT),
    Row(CPU, "_LARGE", 4, (128, 14, 14, 6), (4, 4), 16, INPUT),
    Row(CPU, "_ZEROS", 0, (59, 40, 40, 6), (7, 7), 4, INPUT, same(7)),
    Row(CPU, "_ZEROS", 99, (23, 40, 40, 12), (9, 9), 8, INPUT),
    Row(CPU, "_ENOUGH", 15, (64, 14, 14, 16), (5, 5), 16, INPUT),
    Row(CPU, "_ENOUGH", 32, (64, 14, 14, 16), (5, 5), 32, INPUT),
    Row(CPU, "_FEW", 7, (8, 28, 28, 64), (3, 3), 64, FORWARD, same(3, groups=8)),
    Row(CPU, "_FEW", 16, (8, 28, 28, 128), (3, 3), 128, FORWARD, same(3, groups=8)),
    Row(CPU, "_UNROLLED_BYTES", 0, (8, 56, 56, 128), (3, 3), 128, FORWARD, G32),
    Row(CPU, "_UNROLLED_BYTES", 1 << 40, (32, 56, 56, 128), (3, 3), 128, FORWARD, G32),
    Row(CPU, "_LARGE_MAP", 1 << 20, (64, 32, 32, 64), (3, 3), 128, INPUT, same(3, stride=2)),
    Row(CPU, "_LARGE_MAP", 0, (64, 16, 16, 128), (3, 3), 256, INPUT, same(3, stride=2)),
    Row(CPU, "_BATCH_BYTES", 1 << 40, (32, 28, 28, 128), (3, 3), 128, KERNEL, same(3)),
    Row(CPU, "_BATCH_BYTES", 4 << 20, (16, 28, 28, 128), (3, 3), 128, KERNEL, same(3)),
    Row(CPU, "_SLIM_BATCH_BYTES", 1 << 40, (32, 56, 56, 64), (3, 3), 64, KERNEL, same(3)),
    Row(CPU, "_SLIM_BATCH_BYTES", 6 << 20, (16, 56, 56, 64), (3, 3), 64, KERNEL, same(3)),
    Row(CPU, "_PRODUCTS", 0, (64, 32, 32, 3), (3, 3), 32, FORWARD, same(3)),
    Row(CPU, "_PRODUCTS", 999, (64, 32, 32, 3), (5, 5), 32, FORWARD, same(5)),
    Row(CPU, "_UNSHARED_PRODUCTS", 0, (32, 20, 20, 8), (5, 5), 8, FORWARD, {}, "local_conv"),
    Row(CPU, "_UNSHARED_PRODUCTS", 999, (16, 25, 25, 16), (5, 5), 16, FORWARD, {}, "local_conv"),
    Row(DOOR, "_MOST_CONVOLUTIONS", 8, (32, 28, 28, 16), (3, 3), 16, FORWARD, T3, "tiled_conv"),
    Row(DOOR, "_MOST_CONVOLUTIONS", 16, (32, 28, 28, 16), (3, 3), 16, INPUT, T4, "tiled_conv"),
    Row(DOOR, "_ROUNDS", 9, (32, 5, 5, 16), (3, 3), 16, FORWARD, T2, "tiled_conv"),
    Row(DOOR, "_ROUNDS", 1, (32, 5, 4, 16), (3, 3), 16, FORWARD, T2, "tiled_conv"),
    Row(CPU, "_COLOURS", 4, (64, 32, 32, 4), (3, 3), 32, FORWARD, same(3)),
    Row(CPU, "_NARROW", 0, (64, 28, 28, 2), (3, 3), 32, KERNEL, same(3)),
    Row(CPU, "_NARROW", 99, (64, 28, 28, 4), (3, 3), 32, KERNEL, same(3)),
    Row(CPU, "_WIDE", 99, (64, 28, 28, 1), (3, 3), 32, KERNEL, same(3)),
    Row(CPU, "_WIDE", 8, (64, 28, 28, 1), (3, 3), 16, KERNEL, same(3)),
    Row(CPU, "_SMALL_MAP", 0, (64, 8, 8, 256), (3, 3), 256, KERNEL, same(3), onednn=True),
    Row(CPU, "_SMALL_MAP", 0, (16, 14, 14, 512), (3, 3), 512, KERNEL, same(3), onednn=True),
    Row(CPU, "_SMALL_MAP", 256, (64, 16, 16, 128), (3, 3), 128, KERNEL, same(3), onednn=True),
    Row(CPU, "_SMALL_MAP", 1024, (64, 32, 32, 64), (3, 3), 64, KERNEL, same(3), onednn=True),
    Row(DEPTHWISE, "TOGETHER", 9, (16, 28, 28, 240), (5, 5), 240, FORWARD, D240),
    Row(DEPTHWISE, "TOGETHER", 49, (16, 28, 28, 240), (7, 7), 240, FORWARD, same(7, groups=240)),
    Row(DEPTHWISE, "_TERMS", 36, (16, 56, 56, 64), (3, 3), 64, KERNEL, D64),
    Row(DEPTHWISE, "_TERMS", 144, (16, 56, 56, 64), (3, 3), 64, KERNEL, D64),
    Row(DEPTHWISE, "_BANDS", 1, (16, 56, 56, 64), (3, 3), 64, KERNEL, D64),
    Row(DEPTHWISE, "_BANDS", 99, (1, 224, 224, 64), (3, 3), 64, KERNEL, D64),
    Row(DEPTHWISE, "_SUMS", 3, (16, 28, 28, 240), (5, 5), 240, KERNEL, D240),
    Row(DEPTHWISE, "_SUMS", 25, (16, 28, 28, 240), (5, 5), 240, KERNEL, D240),
    Row(DEPTHWISE, "_ADDED", 4, (16, 56, 56, 64), (3, 3), 64, KERNEL, D64),
    Row(GROUPED, "_TOGETHER", 6, (8, 28, 28, 128), (3, 3), 128, FORWARD, G32),
    Row(GROUPED, "_TOGETHER", 36, (8, 28, 28, 128), (3, 3), 128, FORWARD, G32),
    Row(GROUPED, "_CHANNELS", 8, (8, 28, 28, 128), (3, 3), 128, KERNEL, G32),
    Row(GROUPED, "_CHANNELS", 32, (8, 28, 28, 128), (3, 3), 128, KERNEL, G32),
    Row(GROUPED, "_MOST", 8, (8, 14, 14, 512), (3, 3), 512, FORWARD, G32),
    Row(TAPS, "_TOGETHER", 25, (8, 56, 56, 64), (5, 5), 0, BOTH, S1, "max_pool"),
    Row(TAPS, "_TOGETHER", 8, (8, 56, 56, 64), (3, 3), 0, BOTH, S1, "max_pool"),
    Row("max_pooling", "_TOGETHER", 16, (16, 14, 14, 512), (5, 5), 0, BOTH, S1P2, "max_pool"),
    Row("max_pooling", "_TOGETHER", 16, (8, 20, 20, 256), (7, 7), 0, BOTH, S1P2, "max_pool"),
    Row(TAPS, "_UNROLLED", 16, (8, 56, 56, 64), (4, 8), 0, BOTH, DILATED, "sum_pool"),
    Row(TILES, "_MOST_TERMS", 0, (8, 56, 56, 64), (3, 3), 0, BOTH, {"stride": 2}, "max_pool"),
    Row(MATRICES, "_LONGEST_WRITTEN_OUT", 64, (8, 224, 224, 3), (28, 28), 0, BOTH, FINE, "resize"),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config:
    """What to measure, and for how long.

    Attributes:
        only: rows whose module, constant or layer contains this text; all by default.
        seconds: for each row, once it is compiled.
    """

    only: str = ""
    seconds: float = 1.5


def function_of(row: Row) -> tuple[Function, list[jax.Array]]:
    """The pass that a row measures, and its arguments."""
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> jax.Array:
        return jax.numpy.asarray(rng.normal(size=shape), "float32")

    x = draw(*row.x)
    if row.operation in ("local_conv", "tiled_conv"):
        return unshared_function_of(row, x)
    if row.operation != "conv":
        layer = functools.partial(getattr(cnnvjp, row.operation), **row.options)

        def both(x: jax.Array) -> Any:
            y, back = jax.vjp(lambda x: layer(x, row.kernel), x)
            return y, back(y)

        return both, [x]
    w = draw(*row.kernel, row.x[-1] // row.options.get("groups", 1), row.maps)
    conv = functools.partial(cnnvjp.conv, **row.options)
    if row.what == FORWARD:
        return conv, [x, w]
    dy = draw(*jax.eval_shape(conv, x, w).shape)
    if row.what == INPUT:
        image = row.x[1:-1]
        return functools.partial(cnnvjp.conv_transpose, output_size=image, **row.options), [dy, w]
    return functools.partial(cnnvjp.conv_kernel_grad, kernel_size=row.kernel, **row.options), [
        x,
        dy,
    ]


def unshared_function_of(row: Row, x: jax.Array) -> tuple[Function, list[jax.Array]]:
    """The same, of a layer with a kernel for every position, or with `tiles` of them in turn."""
    image, kernel = row.x[1:-1], (*row.kernel, row.x[-1], row.maps)
    out = tuple(n - k + 1 for n, k in zip(image, row.kernel, strict=True))
    tiles = row.options.get("tiles", out)
    rng = np.random.default_rng(1)
    w = jax.numpy.asarray(rng.normal(size=(*tiles, *kernel)), "float32")
    if row.what == FORWARD:
        return cnnvjp.tiled_conv, [x, w]
    dy = cnnvjp.tiled_conv(x, w)
    return functools.partial(cnnvjp.tiled_conv_transpose, output_size=image), [dy, w]


def compiled(row: Row, value: float | None) -> tuple[Function, float]:
    """A row's pass with the constant at a value, None being its own, and the seconds it took."""
    module = importlib.import_module(f"cnnvjp.{row.module}")
    own = getattr(module, row.constant)
    setattr(module, row.constant, own if value is None else value)
    try:
        jax.clear_caches()  # choices are part of traced programs
        function, arguments = function_of(row)
        start = time.perf_counter()
        options: dict[str, Any] | None = None if row.onednn else {}
        fast: Any = cnnvjp.jit(function, compiler_options=options)
        program = fast.lower(*arguments).compile()
        seconds = time.perf_counter() - start
    finally:
        setattr(module, row.constant, own)
    return lambda: jax.block_until_ready(program(*arguments)), seconds


def measured(row: Row, seconds: float) -> str:
    """One line of the table."""
    own = getattr(importlib.import_module(f"cnnvjp.{row.module}"), row.constant)
    sides = [compiled(row, None), compiled(row, row.other)]
    times: list[list[float]] = [[], []]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 5:
        for (run, _), found in zip(sides, times, strict=True):
            start = time.perf_counter()
            run()
            found.append(time.perf_counter() - start)
    ours, others = (1e3 * statistics.median(found[1:]) for found in times)
    compiling = f"compiled in {sides[0][1]:.1f} and {sides[1][1]:.1f} s"
    return (
        f"{row.module}.{row.constant} = {own:g}: {ours:.2f} ms; {row.other:g}: {others:.2f} ms "
        f"({others / ours:.2f}×); {compiling}; {row.layer}"
    )


def main(config: Config) -> None:
    """Prints a line for each row."""
    rows = [r for r in ROWS if config.only in f"{r.module}.{r.constant} {r.layer}"]
    if not rows:
        raise SystemExit(f"only: got {config.only!r}, which is in no row")
    print(f"JAX {jax.__version__}, {os.cpu_count()} cores")
    for row in tqdm.tqdm(rows, unit="row", disable=None):
        tqdm.tqdm.write(measured(row, config.seconds))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
