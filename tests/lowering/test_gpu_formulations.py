"""Each of the GPUs' formulations against XLA's own, and when each is chosen."""

import collections
import dataclasses
import functools
import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from checker import (
    assert_close,
    assert_trees_close,
    check_first_order,
    check_low_precision,
    check_second_order,
    integers,
    normal,
)
from references import lax_conv

from cnnvjp import _lowering, conv, conv_kernel_grad, conv_transpose, max_pool
from cnnvjp._lowering import cpu, gpu
from cnnvjp._lowering.gpu import taps
from cnnvjp._types import ArrayType
from cnnvjp._windows.geometry import make_window

# ------------------------------------------------------------------------------------------
# Integers, which are always computed so
# ------------------------------------------------------------------------------------------

# x, w, options: one to three dimensions, groups, and more taps than are unrolled
CASES = [
    ((2, 9, 3), (3, 3, 2), dict(stride=2, padding=1)),
    ((2, 6, 7, 4), (3, 2, 4, 5), dict(dilation=(1, 2), padding=((-1, 2), (1, 0)))),
    ((2, 6, 7, 4), (3, 3, 2, 6), dict(groups=2, stride=(2, 3), padding="SAME")),
    ((1, 5, 6, 3), (2, 2, 1, 6), dict(groups=3)),
    ((1, 4, 5, 4, 2), (2, 3, 2, 2, 3), dict(stride=(1, 2, 1), padding=1)),
    ((1, 70, 2), (66, 2, 3), dict(stride=2)),
]


@pytest.mark.versions
@pytest.mark.parametrize("dtype", ["int32", "uint8"])
@pytest.mark.parametrize("x_shape, w_shape, options", CASES, ids=str)
def test_taps_of_integers(rng, x_shape, w_shape, options, dtype):
    x, w = (integers(rng, *shape, dtype=dtype, low=0, high=100) for shape in (x_shape, w_shape))
    options = dict(options)
    groups = options.pop("groups", 1)
    y = lax_conv(x, w, groups=groups, **options)
    window = make_window(
        x_shape[1:-1], w_shape[:-2], options.get("stride", 1), options.get("padding", "VALID"),
        options.get("dilation", 1),
    )  # fmt: skip
    dy = integers(rng, *y.shape, dtype=dtype, low=0, high=100)
    out = ArrayType(x.dtype)
    for name, of_integers, operands in (
        ("correlate", taps.correlate, (x, w)),
        ("input_gradient", taps.input_gradient, (dy, w)),
        ("kernel_gradient", taps.kernel_gradient, (x, dy)),
    ):
        theirs = getattr(_lowering, name)(*operands, window, groups, None, out)
        ours = jax.jit(functools.partial(of_integers, window=window, groups=groups))(*operands)
        assert ours.dtype == theirs.dtype
        assert_close(ours, theirs)


@pytest.mark.parametrize("preferred", [None, "int32"])
def test_gpus_are_given_no_convolution_of_integers(rng, preferred):
    x, w = integers(rng, 2, 6, 6, 4, dtype="int8"), integers(rng, 3, 3, 2, 6, dtype="int8")
    dy = integers(rng, 2, 4, 4, 6, dtype="int8")
    options = dict(groups=2, preferred_element_type=preferred)

    def three(x, w, dy):
        kernel = conv_kernel_grad(x, dy, 3, **options)
        return conv(x, w, **options), conv_transpose(dy, w, **options), kernel

    def convolutions(platform):
        exported = jax.export.export(jax.jit(three), platforms=[platform])(x, w, dy)
        return exported.mlir_module().count("stablehlo.convolution")

    assert [convolutions(platform) for platform in ("cpu", "cuda", "rocm")] == [3, 0, 0]


# ------------------------------------------------------------------------------------------
# The table
# ------------------------------------------------------------------------------------------

CONVOLUTIONS = {n: row for n, row in gpu.FORMULATIONS.items() if row.layers.kind != "pooling"}
POOLING = "max pooling, whole windows"
DOOR = {
    "forward": ("correlation", _lowering.correlate),
    "input gradient": ("input_gradient", _lowering.input_gradient),
    "kernel gradient": ("kernel_gradient", _lowering.kernel_gradient),
}


def drawn(rng, layers, **given):
    """A random layer of a formulation: its window, groups, and the shapes of x, w and dy."""
    while True:
        ndim = int(rng.choice(layers.ndims))
        draw = lambda low, high, ndim=ndim: tuple(rng.integers(low, high, ndim).tolist())
        options = dict(
            stride=draw(1, 4), padding=tuple(zip(draw(-1, 3), draw(-1, 3), strict=True)),
            dilation=draw(1, 3),
        )  # fmt: skip
        try:
            window = make_window(draw(4, 9), draw(1, 4), **options | given)
        except ValueError:  # no window fits
            continue
        if layers.include(layers.kind, window, layers.dtypes[0]):
            break
    groups = int(rng.integers(2, 4)) if layers.kind == "depthwise" else 1
    within = 1 if groups > 1 else 2
    maps = groups * int(rng.integers(1, 3)) if groups > 1 else 3
    n = int(rng.integers(1, 4))
    shapes = dict(
        x=(n, *window.input_size, groups * within), w=(*window.size, within, maps),
        dy=(n, *window.output_size, maps),
    )  # fmt: skip
    return window, groups, shapes


def names_of(what):
    names = {"forward": "x w", "input gradient": "dy w", "kernel gradient": "x dy"}
    return names[what].split()


def operands_of(what, rng, shapes, dtype="float64"):
    return [normal(rng, *shapes[name], dtype=dtype) for name in names_of(what)]


@pytest.mark.versions
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_formulations(rng, name):
    """In random layers of those that each is for."""
    row = CONVOLUTIONS[name]
    layers = [drawn(rng, row.layers) for _ in range(6)]
    operands = [operands_of(row.what, rng, shapes) for *_, shapes in layers]
    _, plain = DOOR[row.what]

    @jax.jit
    def both(operands):
        ours = [row.run(*ab, w, g, None) for ab, (w, g, _) in zip(operands, layers, strict=True)]
        theirs = [
            plain(*ab, window, groups, None, ArrayType(ab[0].dtype))
            for ab, (window, groups, _) in zip(operands, layers, strict=True)
        ]
        return ours, theirs

    assert_trees_close(*both(operands))


def test_pieces_of_whole_lanes(rng):
    """Of 64 channels, and of more positions than one piece has: the same as tap by tap."""
    window = make_window((41,), (3,), 1, 1, 1)
    x, dy = normal(rng, 2, 41, 64), normal(rng, 2, 41, 64)
    pieces, by_taps = (
        CONVOLUTIONS[f"depthwise, kernel gradient {how}"].run for how in ("in pieces", "by taps")
    )
    ours, theirs = jax.jit(lambda *ab: (pieces(*ab, window, 64), by_taps(*ab, window, 64)))(x, dy)
    assert_close(ours, theirs)


def test_infinity_reaches_what_its_window_sees(rng):
    window = make_window((7, 8), (3, 3), 2, 1, 1)
    dy, w = normal(rng, 1, 4, 4, 2).at[0, 1, 2, 0].set(jnp.inf), normal(rng, 3, 3, 1, 2)
    row = CONVOLUTIONS["depthwise, input gradient"]
    dx = np.asarray(row.run(dy, w, window, 2))
    seen = np.zeros_like(dx, bool)
    seen[0, 1:4, 3:6, 0] = True
    assert np.isinf(dx[seen]).all() and np.isfinite(dx[~seen]).all()


# ------------------------------------------------------------------------------------------
# Choosing
# ------------------------------------------------------------------------------------------


@pytest.fixture
def switch_on(monkeypatch):
    """Gives a formulation a measurement, in float64 too. What is traced with it is forgotten."""

    def switch(name):
        row = gpu.FORMULATIONS[name]
        layers = dataclasses.replace(row.layers, dtypes=(*row.layers.dtypes, "float64"))
        row = dataclasses.replace(row, measured="some GPU: 2 -> 1 ms", layers=layers)
        monkeypatch.setitem(gpu.FORMULATIONS, name, row)
        jax.clear_caches()
        return row

    yield switch
    jax.clear_caches()


def chosen(row, window, groups, shapes, dtype="float32"):
    operands = [
        jax.ShapeDtypeStruct(shape, dtype)
        for shape in map(np.shape, operands_of(row.what, np.random.default_rng(0), shapes))
    ]
    return getattr(gpu, DOOR[row.what][0])(*operands, window, groups, None)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_formulation_is_chosen_once_it_is_measured(rng, name, switch_on):
    row = CONVOLUTIONS[name]
    layer = drawn(rng, row.layers)
    before = chosen(row, *layer)
    assert before is None or before.func is not row.run
    row = switch_on(name)
    found = chosen(row, *layer)
    assert found is not None and (before is not None or found.func is row.run)
    assert chosen(row, *layer, dtype="float16") is None


def test_layers():
    layers = gpu.Layers("dense", (2, 9), ndims=(1, 2), strided=False, dilated=True)
    asked = lambda kind, size, stride, dilation, dtype="float32": layers.include(
        kind, make_window((20,) * len(size), size, stride, 0, dilation), jnp.dtype(dtype)
    )
    assert asked("dense", (3, 3), 1, (1, 2)) and asked("dense", (2,), 1, 2, "bfloat16")
    assert not asked("depthwise", (3, 3), 1, 2) and not asked(None, (3, 3), 1, 2)
    assert not asked("dense", (3, 4), 1, 2) and not asked("dense", (1,), 1, 2)
    assert not asked("dense", (2, 2, 2), 1, 2)
    assert not asked("dense", (3, 3), (1, 2), 2)
    assert not asked("dense", (3, 3), 1, 1)
    assert not asked("dense", (3, 3), 1, 2, "float64")
    assert [gpu.kind_of(*pair) for pair in ((3, 1), (1, 1), (1, 2), (2, 2))] == [
        "dense", "dense", "depthwise", None,
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------
# Switched on
# ------------------------------------------------------------------------------------------


def operations(function, platform, *args):
    """How many of each kind the exported program has, but for choices that are made already."""
    text = jax.export.export(jax.jit(function), platforms=[platform])(*args).mlir_module()
    found = re.findall(r"stablehlo\.(?!case|return|constant)(\w+)", text)
    return collections.Counter(found)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_gpus_alone_are_given_it(rng, name, switch_on):
    row = CONVOLUTIONS[name]
    window, groups, shapes = drawn(rng, row.layers)
    operands = operands_of(row.what, rng, shapes, "float32")

    def through_the_door(*operands):
        out = ArrayType(operands[0].dtype)
        return DOOR[row.what][1](*operands, window, groups, None, out)

    before = {p: operations(through_the_door, p, *operands) for p in ("cpu", "cuda", "tpu")}
    switch_on(name)
    alone = operations(lambda *ab: row.run(*ab, window, groups, None), "cuda", *operands)
    for platform in ("cuda", "rocm"):
        found = operations(through_the_door, platform, *operands)
        assert found["convolution"] == alone["convolution"] and not alone - found
    assert before["cuda"] != found
    for platform in ("cpu", "tpu"):
        assert operations(through_the_door, platform, *operands) == before[platform]


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_programs_for_any_number_of_images(rng, name):
    row = CONVOLUTIONS[name]
    window, groups, shapes = drawn(rng, row.layers)
    operands = operands_of(row.what, rng, shapes, "float32")
    run = jax.jit(functools.partial(row.run, window=window, groups=groups))
    (batch,) = jax.export.symbolic_shape("N")
    symbolic = [
        jax.ShapeDtypeStruct(a.shape if dim == "w" else (batch, *a.shape[1:]), a.dtype)
        for dim, a in zip(names_of(row.what), operands, strict=True)
    ]
    assert_close(jax.export.export(run)(*symbolic).call(*operands), run(*operands))


def on_this_platform(monkeypatch):
    """Has CPUs take the GPUs' choices, to run them through the door and its rules."""
    for choice, _ in DOOR.values():
        monkeypatch.setattr(cpu, choice, getattr(gpu, choice))


LAYERS = [
    ((2, 9, 2), (3, 1, 4), dict(groups=2, padding=1)),
    ((2, 6, 7, 2), (3, 2, 1, 2), dict(groups=2, stride=2, padding=((1, -1), (2, 0)))),
    ((2, 7, 7, 2), (2, 2, 2, 3), dict(dilation=2)),
    ((1, 4, 4, 5, 2), (2, 2, 2, 2, 2), dict(stride=(2, 1, 1), padding=1)),
]


@pytest.mark.cpu
@pytest.mark.parametrize("x_shape, w_shape, options", LAYERS, ids=str)
def test_the_rules_stay_right(rng, x_shape, w_shape, options, switch_on, monkeypatch):
    for name in CONVOLUTIONS:
        switch_on(name)
    on_this_platform(monkeypatch)
    x, w = normal(rng, *x_shape), normal(rng, *w_shape)
    ours, theirs = (functools.partial(f, **options) for f in (conv, lax_conv))
    check_first_order(ours, theirs, x, w)
    check_second_order(ours, theirs, x, w)
    if options.get("groups"):
        check_low_precision(ours, x, w, dtype="bfloat16", terms=100)


@pytest.mark.cpu
@pytest.mark.devices(2)
@pytest.mark.parametrize("layer", [LAYERS[1], LAYERS[2]], ids=str)
def test_the_rules_stay_right_on_devices(rng, layer, switch_on, monkeypatch):
    x_shape, w_shape, options = layer
    x, w = normal(rng, *x_shape), normal(rng, *w_shape)

    def gradients(convolution, x, w):
        loss = lambda x, w: jnp.sum(jnp.sin(convolution(x, w, **options)))
        return jax.grad(loss, (0, 1))(x, w)

    expected = jax.jit(functools.partial(gradients, lax_conv))(x, w)
    for name in CONVOLUTIONS:
        switch_on(name)
    on_this_platform(monkeypatch)
    mesh = jax.sharding.Mesh(jax.devices()[:2], "data")  # its axis is Auto
    data, whole = jax.sharding.PartitionSpec("data"), jax.sharding.PartitionSpec()
    divided = jax.shard_map(
        functools.partial(gradients, conv), mesh=mesh, in_specs=(data, whole),
        out_specs=(data, whole),
    )  # fmt: skip
    mapped = jax.vmap(functools.partial(gradients, conv), (0, None))
    each = jax.jit(mapped)(x[:, None], w)
    assert_trees_close(jax.jit(divided)(x, w), expected)
    assert_trees_close((each[0][:, 0], each[1].sum(0)), expected)


# ------------------------------------------------------------------------------------------
# Max pooling
# ------------------------------------------------------------------------------------------


@pytest.mark.cpu
def test_whole_windows(rng, switch_on, monkeypatch):
    """The same winners, of ties too, and the same slopes."""
    x = integers(rng, 2, 7, 8, 1, low=0, high=4, dtype="float64").at[0, 3, 3, 0].set(jnp.nan)
    pool = functools.partial(max_pool, window=5, stride=1, padding=2)

    def run(x):
        slope = lambda x: jax.grad(lambda x: jnp.sum(jnp.sin(pool(x))))(x)
        return pool(x, return_argmax=True), jax.jvp(slope, (x,), (x + 1,))

    expected = jax.jit(run)(x)
    before = {p: operations(pool, p, x) for p in ("cpu", "cuda")}
    switch_on(POOLING)
    assert operations(pool, "cpu", x) == before["cpu"]
    assert operations(pool, "cuda", x)["compare"] > before["cuda"]["compare"]
    either = _lowering.either
    monkeypatch.setattr(_lowering, "either", lambda f, by, x: either(f, {"cpu": by["cuda"]}, x))
    jax.clear_caches()
    assert_trees_close(jax.jit(lambda x: run(x))(x), expected, tolerance=0)
