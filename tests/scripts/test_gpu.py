"""The script for GPUs, on the CPU: it checks, measures, and knows what it may name."""

import dataclasses
import json
from pathlib import Path

import jax.numpy as jnp
import pytest

pytest.importorskip("optax")

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    import gpu

    monkeypatch.setattr(gpu, "SMALL_LAYERS", gpu.SMALL_LAYERS[:1])
    monkeypatch.setattr(gpu, "torch_run", lambda *args: None)
    monkeypatch.setattr(gpu, "our_step", lambda network, cpu_options: lambda: None)
    return gpu


@pytest.mark.cpu
def test_a_quick_run(script, tmp_path, capsys):
    table = dict(script.gpu.FORMULATIONS)
    out = tmp_path / "new" / "gpu.json"
    script.main(["--quick", "--out", str(out), "--only", "kernel gradient float32"])
    results = json.loads(out.read_text())
    (row,) = results["rows"]
    names = {"depthwise, kernel gradient in pieces", "depthwise, kernel gradient by taps"}
    assert set(row["ms"]) == {"ours", "autodiff", *names} and not row["failed"]
    assert all(ms > 0 for ms in row["ms"].values()) and max(row["errors"].values()) < 1e-5
    assert results["checked"]["depthwise, forward"][0] == 1
    assert set(results["steps"]["convnext"]) == {"without", "with"} and not results["left_out"]
    printed = capsys.readouterr().out
    assert "no GPU: these are a CPU's figures, which decide nothing" in printed
    assert "dw5 kernel gradient float32: memory alone" in printed and "measured=" not in printed
    assert table == script.gpu.FORMULATIONS  # nothing stays on


def test_a_wrong_formulation_is_noticed(script, monkeypatch):
    name = "depthwise, forward"
    row = script.gpu.FORMULATIONS[name]

    def wrong(x, w, window, groups, precision=None):
        return row.run(x, w, window, groups) + jnp.float32(0.001)

    assert script.check(name)[1] <= script.SMALL_ERROR
    monkeypatch.setitem(script.gpu.FORMULATIONS, name, dataclasses.replace(row, run=wrong))
    assert script.check(name)[1] > script.SMALL_ERROR
    assert script.difference(jnp.ones(3), jnp.full(3, jnp.nan)) == float("inf")


def test_what_is_named(script):
    pieces, taps = (f"depthwise, kernel gradient {how}" for how in ("in pieces", "by taps"))

    def row(layer, ours, errors=0.0, failed=(), **ms):
        ms = {"ours": ours} | {n.replace("_", " "): t for n, t in ms.items()}
        ms = {{"pieces": pieces, "taps": taps}.get(n, n): t for n, t in ms.items()}
        row = {"layer": layer, "pass": "kernel gradient", "dtype": "float32", "ms": ms}
        return row | {"errors": dict.fromkeys(ms, errors), "failed": dict.fromkeys(failed, "")}

    def named(*rows, checked=0.0):
        found = script.verdict(pieces, list(rows), {pieces: (3, checked)})
        return found["switch"], len(found["slower"])

    fast = row("a", 4.0, pieces=1.0, taps=2.0)
    assert named(fast, row("b", 4.0, pieces=3.0, taps=2.0)) == ("on", 0)
    assert named(fast, row("b", 4.0, pieces=5.0)) == ("in part", 1)
    assert named(row("a", 4.0, pieces=3.0, taps=2.0)) == ("off", 0)
    assert named(row("a", 4.0, pieces=3.95)) == ("off", 0)
    assert named(fast, checked=1e-3) == ("off", 0)
    assert named(row("a", 4.0, errors=0.1, pieces=1.0)) == ("off", 0)
    assert named(row("a", 4.0, errors=float("nan"), pieces=1.0)) == ("off", 0)
    assert named(fast, row("b", 4.0, failed=[pieces])) == ("off", 0)
    assert named() == ("off", 0)
    measured = script.verdict(pieces, [fast], {})["measured"]
    assert measured == "a kernel gradient float32 4 → 1 ms"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--minutes", "0"], "argument --minutes: invalid positive value: '0'"),
        (["--fast"], "unrecognized arguments: --fast"),
        (["--only", "no such row"], "--only: got 'no such row', which no row contains"),
        (["--quick", "--out", "/dev/null/gpu.json"], "--out: [Errno 17] File exists"),
    ],
)
def test_errors_are_one_line(script, arguments, message, capsys):
    with pytest.raises(SystemExit) as error:
        script.main(arguments)
    told = capsys.readouterr().err or str(error.value)
    assert message in told and len(told.splitlines()) == 1 and error.value.code != 0


def test_without_time_it_says_what_it_left_out(script, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(script, "check", lambda name: (1, 0.0))
    script.main(["--quick", "--minutes", "0.0001", "--out", str(tmp_path / "gpu.json")])
    printed = capsys.readouterr().out
    assert "no time was left for: dw5 forward float32" in printed and "step of convnext" in printed


def test_layers_have_formulations(script):
    """Each formulation has rows, so that it can win, and layers that it is checked on."""
    full = [
        (layer, what, dtype) for layer in script.LAYERS for what in script.passes_of(layer)
        for dtype in script.FLOATS
    ]  # fmt: skip
    covered = {name for row in full for name in script.formulations(*row)}
    assert covered == set(script.gpu.FORMULATIONS)
