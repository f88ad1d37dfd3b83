"""scripts/train.py, as it is run and as it fails."""

import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import cnnvjp

pytest.importorskip("tyro")
from training_server import few

from cnnvjp.training import batches, data, files, formats, loop
from cnnvjp.training.commands import train_main

ROOT = Path(cnnvjp.__file__).parents[1]
SCRIPT = ROOT / "scripts" / "train.py"
PNG = b"\x89PNG\r\n\x1a\n"
MODULE = "python -m cnnvjp.training"
FAST = ("--epochs", "1", "--batch-size", "64")
FILES = {"config.json", "metrics.jsonl", "params.npz", "checkpoints", "tensorboard"}
PICTURES = {"curves.png", "confusion.png", "gradients.png", "kernels.png", "mistakes.png"}


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs the script's main on few digits, with the promotion that Optax relies on."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data, "digits", few(data.digits))

    def main(*arguments):
        with jax.numpy_dtype_promotion("standard"):
            train_main(arguments)

    return main


def read_metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def with_the_package():
    """The environment of a process that imports this package."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path}


def names(folder):
    return {path.name for path in folder.iterdir()}


@pytest.mark.versions
def test_without_options_it_reaches_98_percent(tmp_path):
    """The whole default run, in a process of its own: figures, files, and a quiet stderr."""
    environment = with_the_package()
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
    assert names(folder) == FILES | PICTURES

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
    assert all((folder / name).read_bytes().startswith(PNG) for name in PICTURES)


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
    for name in FILES - {"config.json", "checkpoints", "tensorboard"}:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    configs = [json.loads((folder / "config.json").read_text()) for folder in (first, second)]
    assert configs[0].pop("out") != configs[1].pop("out")
    assert configs[0] == configs[1]
    assert configs[0]["device"] == str(jax.devices()[0])


def test_autoencoder(run, capsys, tmp_path):
    """Reports the error of the reconstructions, not an accuracy, and shows some."""
    run("--model", "autoencoder", "--epochs", "1", "--batch-size", "160", "--out", "run")
    folder = tmp_path / "run"
    assert names(folder) == FILES | {
        "curves.png",
        "gradients.png",
        "kernels.png",
        "reconstructions.png",
    }
    (line,) = read_metrics(folder)
    layers = ("conv1", "conv2", "conv_transpose3", "conv_transpose4")
    assert set(line) == {
        "epoch",
        "train_loss",
        "train_mean_squared_error",
        "test_loss",
        "test_mean_squared_error",
        "grad_norm",
        *(f"grad_norm/{layer}" for layer in layers),
        "learning_rate",
    }
    squares = [line[f"grad_norm/{layer}"] ** 2 for layer in layers]  # of the only step
    assert line["grad_norm"] == pytest.approx(sum(squares) ** 0.5, rel=1e-5)
    assert line["test_mean_squared_error"] == line["test_loss"] * 2 / 16**2
    out = capsys.readouterr().out
    assert "mean squared error" in out and "accuracy" not in out
    assert (folder / "reconstructions.png").read_bytes().startswith(PNG)
    assert "conv_transpose4/w" in np.load(folder / "params.npz")


def test_order_of_the_batches():
    """Every image at most once in an epoch, in full batches, each time in another order."""
    part = formats.Part(np.arange(83), np.arange(83))
    options = dict(size=8, epochs=3, seed=7)
    whole = batches.ShuffledBatches(part, **options, parts=1, mine=(0, 1))
    epochs = np.array([whole[i][0] for i in range(len(whole))]).reshape(3, 80)
    assert len(whole) == 30
    assert all(len(np.unique(epoch)) == 80 for epoch in epochs)
    assert (epochs[0] != epochs[1]).any() and (epochs[1] != epochs[2]).any()

    # Of each part of a batch, two processes have one half each.
    left, right = (batches.ShuffledBatches(part, **options, parts=2, mine=(i, 2)) for i in range(2))
    for number in (0, 29):
        halves = np.concatenate([left[number][0], right[number][0]], axis=1)
        assert (halves.ravel() == whole[number][0].ravel()).all()


def test_the_iterator_goes_on_where_it_was():
    part = formats.Part(np.arange(40), np.arange(40))
    source = batches.ShuffledBatches(part, size=4, epochs=2, parts=1, seed=0, mine=(0, 1))
    iterator = batches.iterate(source)
    first = [next(iterator) for _ in range(7)]
    place = iterator.get_state()
    rest = list(iterator)
    again = batches.iterate(source)
    again.set_state(place)
    assert [b.tolist() for b, _ in again] == [b.tolist() for b, _ in rest]
    assert len(first) + len(rest) == len(source)


def test_shifts():
    """Each image by itself, as far as it may in every direction, losing nothing but the edge."""
    reach = 2
    images = np.zeros((300, 9, 9, 1), "uint8")
    images[:, 4, 4] = 1
    moved = np.asarray(batches.shifted(jax.random.key(0), images, reach))
    assert moved.shape == images.shape and moved.dtype == images.dtype
    _, rows, columns, _ = np.nonzero(moved)
    assert len(rows) == 300 and set(rows) == set(columns) == set(range(2, 7))
    edge = np.ones((50, 9, 9, 1), "uint8")
    moved = np.asarray(batches.shifted(jax.random.key(0), edge, reach))
    assert moved.min() == 0 and moved[:, 2:-2, 2:-2].all()
    assert (batches.shifted(jax.random.key(0), edge, 0) == edge).all()


def test_flips():
    images = np.arange(200 * 3 * 4 * 2, dtype="uint16").reshape(200, 3, 4, 2)
    result = np.asarray(batches.flipped(jax.random.key(0), images))
    mirrored = np.array([(a == b[:, ::-1]).all() for a, b in zip(result, images, strict=True)])
    same = np.array([(a == b).all() for a, b in zip(result, images, strict=True)])
    assert (mirrored != same).all() and 70 < mirrored.sum() < 130


def test_statistics():
    """Those by which the images have mean 0 and deviation 1 in every channel."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, [100, 200, 256], (50, 8, 8, 3)).astype("uint8")
    x = np.asarray(batches.scaled(images, *data.statistics(images)), "float64")
    np.testing.assert_allclose(x.mean((0, 1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(x.std((0, 1, 2)), 1, rtol=1e-6)
    black = np.zeros((2, 3, 3, 1), "uint8")
    assert data.statistics(black) == ([0.0], [1 / 255])  # and not a division by zero


@pytest.mark.parametrize(
    "arguments, text",
    [
        (["--epochs", "0"], r"--epochs: got 0; it must be at least 1"),
        (["--epochs", "many"], r"Error parsing --epochs"),
        (["--batch-size", "0"], r"--batch-size: got 0; it must be at least 1"),
        (["--batch-size", "161"], r"--batch-size: got 161; .* from 1 to 160"),
        (["--learning-rate", "0"], r"--learning-rate: got 0\.0; it must be finite"),
        (["--learning-rate", "nan"], r"--learning-rate: got nan"),
        (["--learning-rate", "inf"], r"--learning-rate: got inf"),
        (["--seed", "-1"], r"--seed: got -1; it must be from 0 to 4294967295"),
        (["--seed", "4294967296"], r"--seed: got 4294967296"),
        (["--model", "alexnet"], r"invalid choice 'alexnet'"),
        (["--model", "resnet", "--depth", "9"], r"--depth: got 9; it must be 18, 34, or 6n \+ 2"),
        (["--weight-decay", "-1"], r"--weight-decay: got -1\.0"),
        (["--warmup", "30"], r"--warmup: got 30\.0 epochs; of 30"),
        (["--label-smoothing", "1"], r"--label-smoothing: got 1\.0"),
        (["--accumulate", "3"], r"--accumulate: got 3; it must divide the batch size, 64"),
        (["--devices", "9999"], rf"--devices: got 9999; there are {len(jax.devices())}"),
        pytest.param(
            ["--devices", "5"],
            r"--batch-size: got 64; .* must be a multiple of 5",
            marks=pytest.mark.devices(5),
        ),
        (["--validation", "160"], r"--validation: got 160; there are 160"),
        (["--processes", "2"], r"--processes and --process-id need --coordinator"),
        (["--coordinator", "h:1"], r"--out: several processes need it"),
        (["--coordinator", "h:1", "--out", "o"], r"needs --processes and --process-id"),
        (
            ["--coordinator", "h:1", "--out", "o", "--processes", "2", "--process-id", "2"],
            r"--process-id: got 2; of 2 processes it must be from 0 to 1",
        ),
        (["--data", "mnist", "--data-dir", "full"], r"--data-dir: got full, where mnist is not"),
        (["--resume", "full"], r"full: is not the folder of a run"),
        (["--resume", "nothing"], r"nothing: is not the folder of a run"),
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


def test_the_module_does_what_the_script_does(tmp_path):
    """`python -m cnnvjp.training`: the same usage text, errors and statuses, by its own name."""
    ends = []
    for program, command in (("train.py", [str(SCRIPT)]), (MODULE, MODULE.split()[1:])):
        for arguments in (["--help"], ["--epochs", "0"]):
            done = subprocess.run(
                [sys.executable, *command, *arguments],
                cwd=tmp_path,
                env={**with_the_package(), "COLUMNS": "100"},
                capture_output=True,
                text=True,
                timeout=300,
            )
            written = re.sub(r"[\s─│╭╮╰╯]+", " ", done.stdout + done.stderr)
            assert program in written
            ends.append((done.returncode, written.replace(program, "PROGRAM")))
    assert ends[:2] == ends[2:]
    assert [status for status, _ in ends[:2]] == [0, 2]
    assert names(tmp_path) == set()


def test_without_the_extra_it_says_what_to_install():
    code = (
        "import sys\n"
        "sys.modules['tyro'] = sys.modules['grain'] = None\n"
        "import cnnvjp, importlib.util\n"
        "found = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name: None if name in ('tyro', 'grain') else found(name)\n"
        "import cnnvjp.training\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    (*_, last) = done.stderr.splitlines()
    assert last == (
        "ModuleNotFoundError: cnnvjp.training needs grain, tyro: pip install 'cnnvjp[train]'"
    )


def test_importing_it_is_left_to_the_user():
    """`import cnnvjp` does not import it; importing it sets no backend of matplotlib."""
    code = (
        "import sys, cnnvjp\n"
        "assert 'cnnvjp.training' not in sys.modules\n"
        "from cnnvjp.training import load_run, predict\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def events(folder):
    """What TensorBoard reads in a folder: (tag, step) of each scalar."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in folder.iterdir():
        content = path.read_bytes()
        while content:  # the length, its checksum, an event, its checksum
            (length,) = struct.unpack("<Q", content[:8])
            event = Event.FromString(content[12 : 12 + length])
            found += [(value.tag, event.step) for value in event.summary.value]
            content = content[16 + length :]
    return found


def test_events_for_tensorboard(run, tmp_path):
    run("--model", "textbook", "--epochs", "2", "--batch-size", "64", "--out", "run")
    found = events(tmp_path / "run/tensorboard")
    for tag in ("loss/train", "loss/test", "accuracy/test", "grad_norm/conv1", "learning_rate"):
        assert [step for name, step in found if name == tag] == [1, 2], tag


def test_divergence_is_reported(run, capsys, tmp_path):
    with pytest.raises(SystemExit) as stop:
        run("--model", "textbook", *FAST, "--learning-rate", "1e30", "--out", "run")
    assert stop.value.code == 1
    message = capsys.readouterr().err
    pattern = r"no longer finite at step 2, in epoch 1; use a smaller --learning-rate than 1e\+30\n"
    assert re.search(pattern, message)
    assert names(tmp_path / "run") == {"config.json", "checkpoints", "tensorboard"}


def test_divergence_leaves_the_last_good_checkpoint(run, monkeypatch, capsys, tmp_path):
    """Images that aren't numbers from the third step on, in the second epoch."""
    make_prepare = loop.make_prepare

    def broken(setup):
        prepare = make_prepare(setup)

        def prepare_or_not(number, images, labels):
            x, t = prepare(number, images, labels)
            return x / (number < 2), t

        return prepare_or_not

    monkeypatch.setattr(loop, "make_prepare", broken)
    with pytest.raises(SystemExit) as stop:
        run("--model", "textbook", "--epochs", "3", "--batch-size", "64", "--out", "run")
    assert stop.value.code == 1
    message = capsys.readouterr().err
    assert re.search(r"at step 3, in epoch 2; .*; run keeps the checkpoint after step 2\n", message)
    assert len(read_metrics(tmp_path / "run")) == 1

    monkeypatch.setattr(loop, "make_prepare", make_prepare)
    run("--resume", "run")
    assert len(read_metrics(tmp_path / "run")) == 3


def test_a_file_is_whole_or_not_there(monkeypatch, tmp_path):
    """What fails while writing leaves the earlier file and no other."""
    path = tmp_path / "metrics.jsonl"
    files.write_bytes(path, b"old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        files.write_bytes(path, b"new")
    assert names(tmp_path) == {"metrics.jsonl"} and path.read_bytes() == b"old"
