"""The benchmark runs on small rows, both sides of each compute the same, and the draw is fixed."""

import collections
import dataclasses
import json
import math
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest

pytest.importorskip("tyro")
pytest.importorskip("matplotlib")

SCRIPTS = Path(__file__).parents[2] / "scripts"
FAMILIES = [
    "dense", "depthwise", "grouped", "max pooling", "average pooling", "2×2 average pooling",
    "batch norm", "layer norm", "group norm", "gelu", "softmax cross-entropy", "bilinear sampling",
]  # fmt: skip
NAMES = ["lenet5", "resnet", "mobilenet", "vgg", "convnext", "unet"]
LONG = ["resnet", "mobilenet"]  # to compile


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    import benchmark

    return benchmark


@pytest.fixture
def networks(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    import benchmark_networks

    return benchmark_networks


@pytest.fixture
def unseen(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    import benchmark_unseen

    return benchmark_unseen


@pytest.fixture
def torch_side(monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(SCRIPTS)
    import benchmark_torch

    return benchmark_torch


@pytest.fixture(autouse=True)
def libraries_promote():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def as_small(network):
    """The same network with a batch of 2, on images that are as small as it takes."""
    size = 32 if network.name == "lenet5" else 16
    labels = (size, size) if network.labels else ()
    image = (size, size, network.image[-1])
    return dataclasses.replace(network, image=image, batch=2, labels=labels)


# ------------------------------------------------------------------------------------------
# The lists
# ------------------------------------------------------------------------------------------


def test_the_draw_is_even_and_measurable(unseen):
    drawn = unseen.UNSEEN
    assert len(drawn) >= 40 and drawn == unseen.draw(unseen.SEED)
    kinds = collections.Counter(map(unseen.kind, drawn))
    assert len(kinds) == 17 and set(kinds.values()) == {unseen.PER_KIND}
    assert {layer.family for layer in drawn} >= set(FAMILIES) - {
        "2×2 average pooling",
        "bilinear sampling",
    }
    for kind in kinds:
        networks = {layer.network for layer in drawn if unseen.kind(layer) == kind}
        assert len(networks) >= 2, kind
    for layer in drawn:
        assert 1 <= layer.x[0] <= 64 and unseen.measurable(layer), layer
    known = {unseen.shape(layer) for layer in unseen.LAYERS}
    assert not known & {unseen.shape(layer) for layer in drawn}
    assert len({unseen.shape(layer) for layer in drawn}) == len(drawn)
    assert unseen.draw(1) != drawn


def test_the_draw_is_the_one_that_was_measured(unseen):
    """Whoever adds a network, or has another NumPy that draws otherwise, should know."""
    names = "\n".join(f"{layer.network} {layer.name}" for layer in unseen.UNSEEN)
    assert zlib.crc32(names.encode()) == 538574221, names


def test_layers_fit_their_networks(unseen):
    """A wrong size or number of maps in a table shows in the last maps of a network."""
    last = {}
    for layer in unseen.published_layers():
        assert min(layer.out, default=1) >= 1, layer
        space = layer.out if layer.kernel else layer.x[1:-1]
        last[layer.network] = (*space, layer.maps or layer.x[-1])
    ends = {
        "AlexNet": (6, 6, 256), "VGG-19": (14, 14, 512), "GoogLeNet": (4, 4, 512),
        "Inception-v3": (8, 8, 2048), "SqueezeNet": (13, 13, 1000), "U-Net": (388, 388, 2),
        "C3D": (1, 3, 3, 512), "R(2+1)D-18": (1, 7, 7, 512), "HiFi-GAN": (8192, 1),
        "M5": (31, 512), "QuartzNet": (800, 1024), "DenseNet-121": (7, 7, 1024),
        "MobileNetV1": (7, 7, 1024), "MobileNetV2": (7, 7, 1280), "MobileNetV3": (7, 7, 960),
        "EfficientNet-B0": (7, 7, 1280), "MnasNet-A1": (7, 7, 320), "ConvNeXt-T": (7, 7, 768),
        "RegNetX-3.2GF": (7, 7, 1008), "ShuffleNet": (7, 7, 960), "ResNet-50": (7, 7, 2048),
    }  # fmt: skip
    assert {name: last[name] for name in ends} == ends


# ------------------------------------------------------------------------------------------
# Both sides compute the same
# ------------------------------------------------------------------------------------------


def as_small_layer(layer):
    """A layer of the same kind with few channels, few positions and kernels of up to 3 taps."""
    kernel = tuple(min(k, 2 + k % 2) for k in layer.kernel)
    strides = tuple(map(min, layer.strides, kernel))
    paddings = tuple(
        min(p, layer.dilation * (k - 1) // 2) for p, k in zip(layer.paddings, kernel, strict=True)
    )
    groups = min(layer.groups, 4 if layer.family == "depthwise" else 2)
    maps = groups if layer.family == "depthwise" else 2 * groups
    space = [3] * (len(layer.x) - 2)
    if kernel:
        reaches = [
            layer.dilation * (k - 1) + 1 - 2 * p for k, p in zip(kernel, paddings, strict=True)
        ]
        space = [max(reach, 1) + stride + 1 for reach, stride in zip(reaches, strides, strict=True)]
    return dataclasses.replace(
        layer, x=(2, *space, maps if groups > 1 else 3), kernel=kernel, stride=strides,
        padding=paddings, groups=groups, maps=maps if layer.maps else 0,
    )  # fmt: skip


def small_layers(unseen, family):
    """The layers of a family in both lists, made small; those that are then alike only once."""
    layers = [layer for layer in (*unseen.LAYERS, *unseen.UNSEEN) if layer.family == family]
    assert layers
    return list({unseen.shape(small): small for small in map(as_small_layer, layers)}.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_both_sides_compute_the_same(benchmark, unseen, family):
    for layer in small_layers(unseen, family):
        passes = [benchmark.layer_functions(layer, what) for what in layer.passes]

        @jax.jit
        def sides(arguments, passes=passes):
            return [
                {name: f(*args) for name, f in functions.items()}
                for (functions, _), args in zip(passes, arguments, strict=True)
            ]

        for found in sides([arguments for _, arguments in passes]):
            ours, theirs = map(jax.tree.leaves, (found["ours"], found["autodiff"]))
            for got, want in zip(ours, theirs, strict=True):
                assert got.dtype == want.dtype == np.float32
                np.testing.assert_allclose(
                    got, want, atol=2e-6 * np.abs(want).max(), rtol=2e-5, err_msg=str(layer)
                )


@pytest.mark.parametrize("family", FAMILIES)
def test_torch_computes_the_same(benchmark, unseen, torch_side, family):
    import torch
    from benchmark_layers import layer_arrays

    def channels_second(name, array):
        if name == "w":
            return array.transpose(-1, -2, *range(array.ndim - 2))
        return array if name in ("gamma", "beta", "labels", "grid") else np.moveaxis(array, -1, 1)

    for layer in small_layers(unseen, family):
        arrays = layer_arrays(layer)
        tensors = {}
        for name, array in arrays.items():
            per_position = name == "dy" and family == "softmax cross-entropy"
            array = array if per_position else channels_second(name, array)
            tensors[name] = torch.tensor(np.ascontiguousarray(array))
        tensors = {k: v.long() if k == "labels" else v for k, v in tensors.items()}
        operands = [name for name in arrays if name not in ("dy", "labels")]
        for what in layer.passes:
            functions, arguments = benchmark.layer_functions(layer, what)
            want = functions["ours"](*arguments)
            want, names = {
                "forward": ([want], ["y"]),
                "input gradient": ([want], ["x"]),
                "kernel gradient": ([want], ["w"]),
                "backward": ([want], ["x"]),
            }.get(what) or (want[1], operands)
            got = torch_side.layer_pass(layer, what, tensors)()
            got = [got] if isinstance(got, torch.Tensor) else got
            for name, ours, theirs in zip(names, want, got, strict=True):
                ours, theirs = channels_second(name, np.asarray(ours)), theirs.detach().numpy()
                np.testing.assert_allclose(
                    ours, theirs, atol=1e-5 * np.abs(theirs).max(), rtol=1e-4, err_msg=str(layer)
                )


def drawn(shape):
    """Numbers that depend on a weight's shape alone, whatever its name and place in a tree."""
    rng = np.random.default_rng(zlib.crc32(repr(tuple(shape)).encode()))
    scale = math.sqrt(2 / math.prod(shape[:-1])) if len(shape) > 1 else 0.2
    return rng.standard_normal(shape, np.float32) * np.float32(scale)


def our_logits(networks, network):
    model = networks.our_network(network.name)
    params, state = jax.eval_shape(lambda: model.init(jax.random.key(0), network.image))
    sizes = sorted(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    params = jax.tree.map(lambda leaf: drawn(leaf.shape), params)
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), state)
    x, _ = networks.examples(network)
    return x, sizes, lambda: jax.jit(lambda x: model.apply(params, state, x, train=True)[0])(x)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in LONG])
def test_flax_has_the_same_network(benchmark, networks, name):
    pytest.importorskip("flax")
    network = as_small(next(n for n in benchmark.NETWORKS if n.name == name))
    x, sizes, ours = our_logits(networks, network)
    module = networks.flax_network(name)
    variables = jax.eval_shape(lambda: module.init(jax.random.key(0), x, train=True))

    def weight(path, leaf):
        if "ConvTranspose" in jax.tree_util.keystr(path) and len(leaf.shape) == 4:
            kernel = (*leaf.shape[:2], leaf.shape[3], leaf.shape[2])
            return drawn(kernel)[::-1, ::-1].swapaxes(2, 3)
        return drawn(leaf.shape)

    params = jax.tree_util.tree_map_with_path(weight, variables["params"])
    assert sizes == sorted(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    want = jax.jit(lambda x: module.apply({"params": params}, x, train=True))(x)
    np.testing.assert_allclose(ours(), want, rtol=1e-4, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("name", NAMES)
def test_torch_has_the_same_network(benchmark, networks, torch_side, name):
    import torch

    network = as_small(next(n for n in benchmark.NETWORKS if n.name == name))
    x, sizes, ours = our_logits(networks, network)
    model = torch_side.network(name, network.image)
    theirs = []
    with torch.no_grad():
        for parameter in model.parameters():
            shape = tuple(parameter.shape)
            shape = (*shape[2:], *shape[1::-1]) if len(shape) > 1 else shape
            theirs.append(math.prod(shape))
            weight = drawn(shape)
            weight = (
                weight.transpose(-1, -2, *range(weight.ndim - 2)) if weight.ndim > 1 else weight
            )
            parameter.copy_(torch.tensor(np.ascontiguousarray(weight)))
        want = model(torch.tensor(np.moveaxis(np.asarray(x), -1, 1))).numpy()
    assert sizes == sorted(theirs)
    want = np.moveaxis(want, 1, -1)
    np.testing.assert_allclose(ours(), want, rtol=1e-3, atol=1e-4 * np.abs(want).max())


# ------------------------------------------------------------------------------------------
# The program
# ------------------------------------------------------------------------------------------


@pytest.fixture
def quick(benchmark, monkeypatch, tmp_path):
    """Small rows, and no PyTorch."""
    small = [layer for layer in benchmark.LAYERS if layer.network == "LeNet-5"]
    norm = benchmark.Layer("made up", "norm", "layer norm", (2, 3, 3, 4))
    looped = benchmark.Layer("loop", "1-D", "dense", (2, 9, 2), (3,), 2)
    monkeypatch.setattr(benchmark, "LAYERS", [small[1], small[2]])
    monkeypatch.setattr(benchmark, "UNSEEN", [norm])
    monkeypatch.setattr(benchmark, "IN_LOOPS", [looped])
    monkeypatch.setattr(benchmark, "MIDDLING", dataclasses.replace(small[1], padding=1))
    return benchmark.Config(seconds=0.01, steps=False, torch_python="/bin/false", out=tmp_path)


def test_a_row_of_each_kind(benchmark, quick, capsys):
    benchmark.main(quick)
    results = json.loads((quick.out / "results.json").read_text())
    assert [(row["suite"], row["pass"]) for row in results["rows"]] == [
        ("known", "forward"), ("known", "input gradient"), ("known", "kernel gradient"),
        ("known", "forward and backward"), ("unseen", "forward and backward"),
        ("known", "gradients"),
    ]  # fmt: skip
    for row in results["rows"]:
        ratio, low, high = row["to_autodiff"]
        assert 0 < low <= high
        assert ratio == pytest.approx(row["autodiff_ms"] / row["ours_ms"])
        assert row["runs"] >= benchmark.ROUNDS_AT_LEAST
        assert row["compile_seconds"]["ours"] > 0 and row["compile_seconds"]["autodiff"] > 0
    assert (quick.out / "ratios.png").stat().st_size > 1000
    out = capsys.readouterr().out
    assert "geometric means" in out and "GLIBC_TUNABLES=" in out
    assert "known: all layers" in out and "unseen: layer norm, forward and backward" in out
    assert out.count("worst to autodiff") == 2
    assert "an eager call of max_pool" in out and "at batch 256" in out
    assert list(results["batches"]["forward"]) == ["8", "64", "256"]


def test_the_unseen_list_alone(benchmark, quick, capsys):
    benchmark.main(dataclasses.replace(quick, suite="unseen"))
    results = json.loads((quick.out / "results.json").read_text())
    assert [row["suite"] for row in results["rows"]] == ["unseen"]
    assert not results["batches"] and "known" not in capsys.readouterr().out


def test_one_and_the_same_program_is_noticed(benchmark):
    def compiled(f):
        return benchmark.program(jax.jit(f).lower(np.ones(3, np.float32)).compile())

    def double(number):
        return number + number

    assert compiled(lambda x: x + x) == compiled(double)
    assert compiled(lambda x: x + x) != compiled(lambda x: x + 3)


def test_nothing_to_measure_is_an_error(benchmark, quick):
    with pytest.raises(SystemExit, match="--only: got 'no such row'"):
        benchmark.main(dataclasses.replace(quick, only="no such row"))


def test_steps_before_and_after_each_swap(benchmark, networks, monkeypatch, capsys):
    """Each swap is of the same network: three steps from the same start leave the same loss."""
    pytest.importorskip("flax")
    network = dataclasses.replace(benchmark.NETWORKS[0], batch=2)
    losses = {}

    class Here:
        """Measures in this process, where there is no PyTorch."""

        def close(self):
            pass

        def start(self, side, network, cpu_options=False):
            if side == benchmark.TORCH:
                raise RuntimeError("no such library")
            run = networks.prepare(side, network, cpu_options)
            losses[side] = [float(run()[1]) for _ in range(3)]
            return benchmark.timed(run), 1.0

    monkeypatch.setattr(benchmark, "step_process", lambda config, side: Here())
    monkeypatch.setattr(benchmark, "NETWORKS", [network])
    rows = list(benchmark.measure_steps(benchmark.Config(seconds=0.01), [benchmark.TORCH]))
    assert [row["family"] for row in rows] == [
        "training step", "stock Flax step, explicit", "stock Flax step, injection",
    ]  # fmt: skip
    assert all(row["to_autodiff"][0] > 0 and row["runs"] >= 5 for row in rows)
    assert "lenet5, torch: no such library" in capsys.readouterr().out
    np.testing.assert_allclose(
        [losses["explicit"], losses["injection"]], [losses["autodiff"]] * 2, rtol=1e-5
    )


def test_a_process_answers(benchmark, tmp_path, monkeypatch):
    """What a library prints is not taken for an answer, and what fails is told in one line."""
    (tmp_path / "one.py").write_text(
        f"""
import sys
sys.path.insert(0, {str(SCRIPTS)!r})
from benchmark_process import serve

def prepare(number):
    print("preparing")
    return lambda: 1 / number

serve({{"library": "1.0"}}, prepare)
"""
    )
    process = benchmark.Process(benchmark.sys.executable, tmp_path / "one.py")
    assert process.about == {"library": "1.0"}
    run, preparing = process.start(number=2)
    assert run() >= 0 and preparing >= 0
    with pytest.raises(RuntimeError, match="ZeroDivisionError: division by zero"):
        process.start(number=0)
    process.close()
    with pytest.raises(RuntimeError, match="the process ended"):
        benchmark.Process("/bin/false", tmp_path / "one.py")
