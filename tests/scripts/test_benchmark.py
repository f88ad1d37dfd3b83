"""The benchmark runs, on a row or two: that it is right is for its readers to see."""

import json
from pathlib import Path

import pytest

pytest.importorskip("tyro")
pytest.importorskip("matplotlib")

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    import benchmark

    return benchmark


def test_a_row_of_each_kind(benchmark, tmp_path, capsys, monkeypatch):
    small = [layer for layer in benchmark.LAYERS if layer.network == "LeNet-5"]
    monkeypatch.setattr(benchmark, "LAYERS", [small[1], small[2]])
    looped = benchmark.Layer("loop", "1-D", "dense", (2, 9, 2), (3,), 2)
    monkeypatch.setattr(benchmark, "IN_LOOPS", [looped])
    config = benchmark.Config(seconds=0.01, steps=False, torch_python="/bin/false", out=tmp_path)
    benchmark.main(config)
    results = json.loads((tmp_path / "results.json").read_text())
    assert [row["pass"] for row in results["rows"]] == [
        "forward", "input gradient", "kernel gradient", "forward and backward", "gradients",
    ]  # fmt: skip
    for row in results["rows"]:
        ratio, low, high = row["to_autodiff"]
        assert 0 < low <= high
        assert ratio == pytest.approx(row["autodiff_ms"] / row["ours_ms"])
        assert row["runs"] >= benchmark.ROUNDS_AT_LEAST
    assert (tmp_path / "ratios.png").stat().st_size > 1000
    out = capsys.readouterr().out
    assert "geometric means" in out and "worst to autodiff" in out
    assert "an eager call of max_pool" in out and "at batch 256" in out
    assert list(results["batches"]["forward"]) == ["8", "64", "256"]


def test_one_and_the_same_program_is_noticed(benchmark):
    import jax
    import jax.numpy as jnp

    def compiled(f):
        return benchmark.program(jax.jit(f).lower(jnp.ones(3)).compile())

    def double(number):
        return number + number

    assert compiled(lambda x: x + x) == compiled(double)
    assert compiled(lambda x: x + x) != compiled(lambda x: x + 3)


@pytest.mark.parametrize("kind", ["transposed", "batch norm", "average pooling", "grouped"])
def test_both_sides_compute_the_same(benchmark, kind):
    import dataclasses

    import jax
    import numpy as np

    layer = next(
        a for a in benchmark.LAYERS if kind == a.family or (kind == "transposed" and a.transposed)
    )
    space = (8,) * (len(layer.x) - 2)
    layer = dataclasses.replace(layer, x=(1, *space, layer.x[-1]))
    for what in layer.passes:
        with jax.numpy_rank_promotion("allow"):
            functions, arguments = benchmark.layer_functions(layer, what)
            ours, theirs = (jax.jit(functions[name])(*arguments) for name in ("ours", "autodiff"))
        for got, want in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_allclose(got, want, atol=2e-4 * np.abs(want).max())


def test_nothing_to_measure_is_an_error(benchmark, tmp_path):
    config = benchmark.Config(only="no such row", torch_python="/bin/false", out=tmp_path / "none")
    with pytest.raises(SystemExit, match="--only: got 'no such row'"):
        benchmark.main(config)


def test_stock_networks_before_and_after(benchmark, monkeypatch):
    """Each swap is of the same network: three steps from the same start leave the same loss."""
    import jax
    import numpy as np

    pytest.importorskip("flax")
    network = benchmark.Network("lenet5", (32, 32, 1), 2)
    monkeypatch.setattr(benchmark, "NETWORKS", [network])
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        rows = list(benchmark.measure_swaps(benchmark.Config(seconds=0.01)))
        x, t = benchmark._examples(network)
        losses = []
        for swap in ({}, dict(rewrite=benchmark.cnnvjp.explicit), dict(injected=True)):
            run, _ = benchmark._flax_step(network, x, t, **swap)
            losses.append([float(run()[1]) for _ in range(3)])
    families = [row["family"] for row in rows]
    assert families == ["stock Flax step, explicit", "stock Flax step, injection"]
    assert all(row["to_autodiff"][0] > 0 and row["runs"] >= 5 for row in rows)
    np.testing.assert_allclose(losses[1:], [losses[0]] * 2, rtol=1e-5)
