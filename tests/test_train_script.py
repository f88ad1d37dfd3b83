"""scripts/train.py, as it is run and as it fails."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import cnnvjp

SCRIPT = Path(__file__).parent.parent / "scripts" / "train.py"
PNG = b"\x89PNG\r\n\x1a\n"
FAST = ("--epochs", "1", "--batch-size", "512")


@pytest.fixture(scope="module")
def script():
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("train_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["train_script"] = module  # where tyro looks up the annotations
    spec.loader.exec_module(module)
    yield module
    del sys.modules["train_script"]


@pytest.fixture
def run(script, monkeypatch, tmp_path):
    """Runs the script's main in an empty folder, with the promotion that Optax relies on."""
    monkeypatch.chdir(tmp_path)

    def main(*arguments):
        with jax.numpy_dtype_promotion("standard"):
            script.main(arguments)

    return main


def read_metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def names(folder):
    return {path.name for path in folder.iterdir()}


@pytest.mark.versions
def test_without_options_it_reaches_98_percent(tmp_path):
    """The whole default run, in a process of its own: figures, files, and a quiet stderr."""
    root = str(Path(cnnvjp.__file__).parent.parent)
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path}
    environment.pop("XLA_FLAGS", None)  # compiled as a user's would be
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--out", "digits"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no progress bar where nobody watches
    folder = tmp_path / "digits"
    assert names(folder) == {"config.json", "metrics.jsonl", "params.npz", "curves.png"}

    metrics = read_metrics(folder)
    assert [line["epoch"] for line in metrics] == list(range(1, 31))
    assert metrics[-1]["test_accuracy"] >= 0.98
    assert metrics[-1]["train_accuracy"] >= 0.98
    assert metrics[-1]["train_loss"] < 0.1 < metrics[0]["train_loss"]
    assert done.stdout.startswith("lenet5: 61,706 parameters; 1437 training and 360 test images")
    assert len(re.findall(r"^epoch +\d+: train loss .* test loss", done.stdout, re.M)) == 30
    assert f"accuracy {metrics[-1]['test_accuracy']:.2%}\n" in done.stdout.split("final: ")[1]

    config = json.loads((folder / "config.json").read_text())
    assert (config["model"], config["epochs"], config["batch_size"]) == ("lenet5", 30, 64)
    assert (config["seed"], config["out"], config["parameters"]) == (0, "digits", 61706)
    assert config["versions"]["jax"] == jax.__version__

    params = np.load(folder / "params.npz")
    assert params["conv1/w"].shape == (5, 5, 1, 6) and params["dense7/b"].shape == (10,)
    assert sum(params[name].size for name in params) == 61706
    assert (folder / "curves.png").read_bytes().startswith(PNG)


def test_one_seed_gives_the_same_figures(run, monkeypatch, capsys, tmp_path):
    """Bit for bit. The second run goes where the first would have by default, with a bar."""
    run("--model", "textbook", *FAST, "--seed", "5", "--out", "first")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    run("--model", "textbook", *FAST, "--seed", "5")
    assert "2/2" in capsys.readouterr().err
    (second,) = (tmp_path / "runs").iterdir()
    assert re.fullmatch(r"textbook-\d{8}-\d{6}", second.name)
    first = tmp_path / "first"
    assert names(first) == names(second)
    for name in names(first) - {"config.json"}:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    configs = [json.loads((folder / "config.json").read_text()) for folder in (first, second)]
    assert configs[0].pop("out") != configs[1].pop("out")
    assert configs[0] == configs[1]
    assert configs[0]["device"] == str(jax.devices()[0])


def test_autoencoder(run, capsys, tmp_path):
    """Reports the error of the reconstructions, not an accuracy, and shows some."""
    run("--model", "autoencoder", *FAST, "--out", "run")
    folder = tmp_path / "run"
    assert names(folder) == {
        "config.json",
        "metrics.jsonl",
        "params.npz",
        "curves.png",
        "reconstructions.png",
    }
    (line,) = read_metrics(folder)
    assert set(line) == {
        "epoch",
        "train_loss",
        "train_mean_squared_error",
        "test_loss",
        "test_mean_squared_error",
        "grad_norm",
    }
    assert line["test_mean_squared_error"] == line["test_loss"] * 2 / 32**2
    out = capsys.readouterr().out
    assert "mean squared error" in out and "accuracy" not in out
    assert (folder / "reconstructions.png").read_bytes().startswith(PNG)
    assert "conv_transpose4/w" in np.load(folder / "params.npz")


def test_data(script):
    """A stratified split that the seed fixes, of images between 0 and 1."""
    data = script.load_data(3)
    assert data.train_images.shape == (1437, 32, 32, 1) and data.test_images.shape == (
        360,
        32,
        32,
        1,
    )
    assert data.train_images.dtype == np.float32 and data.test_labels.dtype == np.int32
    assert data.train_images.min() == 0 and data.train_images.max() == 1
    counts = np.bincount(data.test_labels)
    assert counts.min() >= 35 and counts.max() <= 37
    again, other = script.load_data(3), script.load_data(4)
    assert (again.test_images == data.test_images).all()
    assert (other.test_labels != data.test_labels).any()
    everything = np.concatenate([data.train_images, data.test_images])
    assert len(np.unique(everything, axis=0)) == len(everything) == 1797


def test_batches_and_shifts(script):
    """Every image at most once in an epoch, in full batches; shifts lose nothing but the edge."""
    rng = np.random.default_rng(0)
    epochs = [np.stack(list(script.batches(rng, 103, 10))) for _ in range(2)]
    for epoch in epochs:
        assert epoch.shape == (10, 10) and len(np.unique(epoch)) == 100
    assert (epochs[0] != epochs[1]).any()
    reach = script.LARGEST_SHIFT
    images = np.zeros((200, 32, 32, 1), "float32")
    images[:, 15, 15] = 1
    moved = script.shifted(rng, images)
    assert moved.shape == images.shape and moved.dtype == images.dtype
    _, rows, columns, _ = np.nonzero(moved)
    expected = set(range(15 - reach, 16 + reach))
    assert len(rows) == 200 and set(rows) == set(columns) == expected


@pytest.mark.parametrize(
    "arguments, text",
    [
        (["--epochs", "0"], r"--epochs: got 0; it must be at least 1"),
        (["--epochs", "many"], r"Error parsing --epochs"),
        (["--batch-size", "0"], r"--batch-size: got 0; it must be at least 1"),
        (["--batch-size", "1438"], r"--batch-size: got 1438; .* from 1 to 1437"),
        (["--learning-rate", "0"], r"--learning-rate: got 0\.0; it must be finite"),
        (["--learning-rate", "nan"], r"--learning-rate: got nan"),
        (["--learning-rate", "inf"], r"--learning-rate: got inf"),
        (["--seed", "-1"], r"--seed: got -1; it must be from 0 to 4294967295"),
        (["--seed", "4294967296"], r"--seed: got 4294967296"),
        (["--model", "resnet"], r"invalid choice 'resnet'"),
        (["--frobnicate"], r"Unrecognized options: --frobnicate"),
        (["--out", "full"], r"--out: got full, which is not empty; name a new or empty folder"),
        (["--out", "full/file"], r"--out: got full/file, which cannot be used as a folder"),
    ],
)
def test_wrong_options(run, capsys, tmp_path, arguments, text):
    """Status 2, a message on stderr, and nothing touched."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("precious")
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert re.search(text, message) and "Traceback" not in message
    assert names(tmp_path) == {"full"}
    assert (tmp_path / "full" / "file").read_text() == "precious"


def test_divergence_is_reported(run, capsys, tmp_path):
    with pytest.raises(SystemExit) as stop:
        run("--model", "textbook", *FAST, "--learning-rate", "1e30", "--out", "run")
    assert stop.value.code == 1
    message = capsys.readouterr().err
    assert re.search(r"no longer finite in epoch 1; use a smaller --learning-rate", message)
    assert names(tmp_path / "run") == {"config.json"}


def test_a_file_is_whole_or_not_there(script, monkeypatch, tmp_path):
    """What fails while writing leaves the earlier file and no other."""
    path = tmp_path / "metrics.jsonl"
    script.write_bytes(path, b"old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        script.write_bytes(path, b"new")
    assert names(tmp_path) == {"metrics.jsonl"} and path.read_bytes() == b"old"
