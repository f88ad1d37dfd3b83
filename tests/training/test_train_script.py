"""scripts/train.py, as it is run and as it fails."""

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cnnvjp
from cnnvjp import affine_positions

pytest.importorskip("tyro")
from matplotlib import font_manager
from training_server import few

from cnnvjp.training import (
    batches,
    config,
    data,
    devices,
    files,
    formats,
    loop,
    pictures,
    runs,
    setup,
    tasks,
)
from cnnvjp.training.commands import train_main
from cnnvjp.training.errors import StorageError

ROOT = Path(cnnvjp.__file__).parents[1]
SCRIPT = ROOT / "scripts" / "train.py"
PNG = b"\x89PNG\r\n\x1a\n"
MODULE = "python -m cnnvjp.training"
FAST = ("--epochs", "1", "--batch-size", "64")
NAME = "数字 é $x^$ \t"
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
    """Bit for bit. The second run goes where the first would have by default, with a bar.

    The first's name heads its pictures, with characters that few fonts have.
    """
    run("--model", "textbook", *FAST, "--seed", "5", "--out", NAME)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    run("--model", "textbook", *FAST, "--seed", "5")
    assert "2/2" in capsys.readouterr().err
    (second,) = (tmp_path / "runs").iterdir()
    assert re.fullmatch(r"textbook-\d{8}-\d{6}", second.name)
    first = tmp_path / NAME
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


def test_what_an_autoencoder_is_measured_by():
    """An image whose white is 1: reconstructed as it is, nothing is lost."""
    images = np.random.default_rng(0).integers(256, size=(3, 16, 16, 1), dtype=np.uint8)
    task = tasks.make_task(config.Config(model="autoencoder"))
    outputs, labels = images.astype("float32") / 255, np.zeros(3, "int32")
    assert tasks.measured(task, outputs, images, labels)["loss"] == 0


def test_a_resnet_has_a_depth():
    assert config.resolved(config.Config(model="resnet")).depth == 8
    assert config.resolved(config.Config()).depth is None


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


def turned_6_by_8(x):
    """A quarter turn of images of 6 by 8 pixels within their frame, zeros at the sides."""
    return np.pad(np.rot90(x, 1, (1, 2))[:, 1:-1], ((0, 0), (0, 0), (1, 1), (0, 0)))


def halved_8_by_8(x):
    """Means of 2 by 2 pixels in the middle, zeros around them."""
    means = x.reshape(-1, 4, 2, 4, 2, x.shape[-1]).mean((2, 4))
    return np.pad(means, ((0, 0), (2, 2), (2, 2), (0, 0)))


@pytest.mark.parametrize(
    "size, degrees, factor, expected",
    [
        ((6, 8), 0, 1, lambda x: x),
        ((7, 7), 90, 1, lambda x: np.rot90(x, 1, (1, 2))),
        ((8, 8), -90, 1, lambda x: np.rot90(x, -1, (1, 2))),
        ((6, 8), 90, 1, turned_6_by_8),
        ((6, 8), 180, 1, lambda x: x[:, ::-1, ::-1]),
        ((8, 8), 0, 1 / 2, halved_8_by_8),
        ((7, 13), 0, 3, lambda x: x[:, 2:5, 4:9]),  # at every third pixel
    ],
)
def test_rotation_and_zoom_by_hand(rng, size, degrees, factor, expected):
    """About the centre, counterclockwise, with zeros beyond the edges; bytes are rounded."""
    images = rng.integers(0, 256, (3, *size, 2)).astype("uint8")
    angles = jnp.full(3, np.deg2rad(degrees), "float32")
    matrices = batches.turns(angles, jnp.full(3, factor, "float32"), size)
    positions, step = affine_positions(matrices, size), max(1, int(factor))
    for x, most in ((images, 0.5), (images.astype("float32"), 1e-3)):
        result = batches.read(x, positions)
        assert result.dtype == x.dtype
        wanted = expected(x.astype("float64"))
        np.testing.assert_allclose(result[:, ::step, ::step], wanted, rtol=0, atol=most)


def where_each_pixel_is_from(key, count, size, **amounts):
    """(count, rows, columns, 2): a warped image of its own pixels' rows and columns says it."""
    rows_and_columns = np.stack(np.indices(size), -1).astype("float32")
    images = np.broadcast_to(rows_and_columns, (count, *rows_and_columns.shape))
    return np.asarray(batches.warped(key, jnp.asarray(images), **amounts), "float64")


def test_random_rotation_and_zoom():
    """Each image's own, anywhere within the limits, neither depending on the other."""
    positions = where_each_pixel_is_from(
        jax.random.key(0), 400, (17, 17), rotate=40.0, zoom=1.3, elastic=0.0
    )
    np.testing.assert_allclose(positions[:, 8, 8], 8, atol=1e-5)
    across = positions[:, 8, 9] - positions[:, 8, 8]  # rows down, columns to the right
    down = positions[:, 9, 8] - positions[:, 8, 8]
    np.testing.assert_allclose(down, np.stack([across[:, 1], -across[:, 0]], -1), atol=1e-5)
    angles = np.rad2deg(np.arctan2(across[:, 0], across[:, 1]))
    logarithms = -np.log(np.linalg.norm(across, axis=1)) / np.log(1.3)
    for amounts, most in ((angles, 40), (logarithms, 1)):
        assert len(set(amounts.round(6))) > 390
        assert -most <= amounts.min() < -0.95 * most and 0.95 * most < amounts.max() <= most
        assert abs(amounts.mean()) < 0.1 * most  # its standard deviation is 0.03
    assert abs(np.corrcoef(angles, logarithms)[0, 1]) < 0.2


def test_elastic_deformation():
    """No displacement is longer than it may be, one is as long, and neighbours have similar ones."""
    size, most = (32, 40), 2.0
    key = jax.random.split(jax.random.key(1), 3)[2]
    fields = np.asarray(batches.elastic_fields(key, 200, size), "float64")
    lengths = np.linalg.norm(fields, axis=-1)
    np.testing.assert_allclose(lengths.max((1, 2)), 1, rtol=1e-6)
    # Under a Gaussian filter of 4 pixels noise that is d apart has the correlation exp(-(d/8)²).
    for d in (1, 4, 8):
        for moved in (fields[:, d:, :] * fields[:, :-d, :], fields[:, :, d:] * fields[:, :, :-d]):
            np.testing.assert_allclose(
                moved.mean() / (fields**2).mean(), np.exp(-((d / 8) ** 2)), atol=0.04
            )
    squares = (lengths**2).mean(0)  # as large at the corners as in the middle
    np.testing.assert_allclose(squares, squares.mean(), rtol=0.25)
    assert abs(np.corrcoef(fields[..., 0].ravel(), fields[..., 1].ravel())[0, 1]) < 0.05

    positions = where_each_pixel_is_from(
        jax.random.key(1), 200, size, rotate=0.0, zoom=1.0, elastic=most
    )
    inside = np.s_[:, 2:-2, 2:-2]
    displacements = positions - np.stack(np.indices(size), -1)
    np.testing.assert_allclose(displacements[inside], most * fields[inside], atol=1e-4)


@pytest.mark.devices(4)
def test_devices_warp_their_own_images(rng):
    """The same bytes as one device, and nothing is exchanged."""
    images = rng.integers(0, 256, (8, 12, 12, 1)).astype("uint8")
    results = []
    for count in (1, 4):
        layout = devices.make_layout(count)

        def augment(images):
            number, amounts = jnp.int32(3), dict(rotate=20.0, zoom=1.2, elastic=1.0)
            return batches.augmented(0, number, images, 2, True, **amounts)

        divided = layout.batch(images)
        compiled = jax.jit(augment, out_shardings=layout.divided).lower(divided).compile()
        for movement in ("all-gather", "all-to-all", "all-reduce", "collective-permute"):
            assert movement not in compiled.as_text()
        results.append(np.asarray(compiled(divided)))
    np.testing.assert_array_equal(*results)


def test_each_step_is_augmented_by_keys_of_its_own(monkeypatch):
    """Each of the five random draws has another one, in every step, and by every seed."""
    keys = []

    def noting(draw):
        def noted(key, *arguments, **options):
            keys.append(jax.random.key_data(key).tobytes())
            return draw(key, *arguments, **options)

        return noted

    for name in ("randint", "bernoulli", "uniform", "normal"):
        monkeypatch.setattr(jax.random, name, noting(getattr(jax.random, name)))
    images = np.arange(4 * 5 * 5, dtype="uint8").reshape(4, 5, 5, 1)
    results = set()
    for _ in range(2):
        for seed, number in ((0, 0), (0, 1), (0, 2), (1, 0)):
            amounts = dict(rotate=20.0, zoom=1.2, elastic=1.0)
            result = batches.augmented(seed, np.int32(number), images, 2, True, **amounts)
            results.add(np.asarray(result).tobytes())
    assert len(keys) == 40 and len(set(keys)) == 20
    assert len(results) == 4
    assert (batches.augmented(0, np.int32(0), images, 0, False) == images).all()


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_optimizers_by_hand(name):
    """Two updates: the decay of weights but not of biases, Nesterov's momentum, Adam's moments."""
    w, b = np.array([[1.0, -2.0], [3.0, 4.0]]), np.array([5.0, -6.0])
    gradients = [(w - 1, b + 1), (2 * w + 3, b - 1)]
    rate, decay = 0.1, 0.5
    options = config.Config(
        optimizer=name, learning_rate=rate, weight_decay=decay, schedule="constant"
    )
    optimizer, _ = setup.make_optimizer(options, 10)
    params = {"w": w, "b": b}
    expected = dict(params)
    moments = {key: (0.0, 0.0) for key in params}
    with jax.numpy_dtype_promotion("standard"):
        state = optimizer.init(params)
        for number, (dw, db) in enumerate(gradients, 1):
            updates, state = optimizer.update({"w": dw, "b": db}, state, params)
            params = {key: params[key] + updates[key] for key in params}
            for key, d in (("w", dw), ("b", db)):
                decayed = decay * expected[key] if key == "w" else 0.0
                first, second = moments[key]
                if name == "sgd":
                    d = d + decayed
                    first = d + 0.9 * first
                    step = d + 0.9 * first
                else:
                    first, second = 0.9 * first + 0.1 * d, 0.999 * second + 0.001 * d**2
                    mean = first / (1 - 0.9**number)
                    step = mean / (np.sqrt(second / (1 - 0.999**number)) + 1e-8) + decayed
                moments[key] = first, second
                expected[key] = expected[key] - rate * step
            for key in params:
                np.testing.assert_allclose(params[key], expected[key], rtol=1e-6)


def test_smoothed_labels_by_hand():
    """Of a label 0.2 is spread over all 4 classes; what is reported is not smoothed."""
    task = tasks.make_task(config.Config(label_smoothing=0.2))
    logits, labels = np.array([[1.0, 2.0, 3.0, 4.0], [0.0, 5.0, 1.0, 1.0]]), np.array([2, 1])
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = [
        -(0.85 * logs[0, 2] + 0.05 * (logs[0, 0] + logs[0, 1] + logs[0, 3])),
        -(0.85 * logs[1, 1] + 0.05 * (logs[1, 0] + logs[1, 2] + logs[1, 3])),
    ]
    np.testing.assert_allclose(task.training_loss(logits, labels), expected, rtol=1e-12)
    np.testing.assert_allclose(task.loss(logits, labels), [-logs[0, 2], -logs[1, 1]], rtol=1e-12)


@pytest.mark.parametrize(
    "model, history, best",
    [
        ("lenet5", [{"test_accuracy": share} for share in (0.5, 0.9, 0.9, 0.8)], 3),
        ("lenet5", [{"test_accuracy": 0.0}] * 2, 2),
        ("lenet5", [{"test_accuracy": a, "validation_accuracy": 1 - a} for a in (0.5, 0.9)], 1),
        ("autoencoder", [{"test_mean_squared_error": e} for e in (0.5, 0.1, 0.1, 0.2)], 3),
    ],
)
def test_the_best_epoch_is_the_last_of_the_best(model, history, best):
    assert runs.best_epoch(tasks.make_task(config.Config(model=model)), history) == best


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
        (["--rotate", "181"], r"--rotate: got 181\.0; it must be from 0 to 180"),
        (["--rotate", "nan"], r"--rotate: got nan; it must be from 0 to 180"),
        (["--zoom", "0.9"], r"--zoom: got 0\.9; it must be from 1 to 10"),
        (["--elastic", "-1"], r"--elastic: got -1\.0; it must be from 0 to 10"),
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
        (["--model", "lenet5", "--depth", "18"], r"--depth: got 18 for lenet5; it is for resnet\n"),
        (
            ["--model", "autoencoder", "--label-smoothing", "0.1"],
            r"--label-smoothing: got 0\.1 for autoencoder; it is for lenet5, textbook, resnet, mob",
        ),
        (["--data-dir", "full"], r"--data-dir: got full for digits, which come with scikit-learn"),
        (["--out", "caf\udce9"], r"caf\\udce9: cannot be the folder of a run, .* valid UTF-8"),
        (["--resume", "caf\udce9"], r"caf\\udce9: cannot be the folder of a run"),
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


def test_the_module_does_what_the_script_does(run, capsys, tmp_path):
    """`python -m cnnvjp.training`: the same errors and statuses, by its own name."""
    done = subprocess.run(
        [sys.executable, *MODULE.split()[1:], "--epochs", "0"],
        cwd=tmp_path,
        env=with_the_package(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    with pytest.raises(SystemExit) as stop:
        run("--epochs", "0")
    error = capsys.readouterr().err
    assert (done.returncode, done.stdout) == (stop.value.code, "")
    assert done.stderr == error.replace("train.py", MODULE) != error
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
    """What fails while writing leaves the earlier file and no other, and is one line."""
    path = tmp_path / "metrics.jsonl"
    files.write_bytes(path, b"old")

    def fail(*_):
        raise OSError(errno.ENOSPC, "disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(StorageError, match=f"{path}: cannot be written: disk full"):
        files.write_bytes(path, b"new")
    assert names(tmp_path) == {"metrics.jsonl"} and path.read_bytes() == b"old"
    # What is no file is not replaced by one.
    with pytest.raises(StorageError, match="/dev/full: cannot be written: No space left on device"):
        files.write_bytes(Path("/dev/full"), b"new")


def test_paths_that_are_no_text_come_back(tmp_path):
    """Of the data, say; what is written is UTF-8 that any reader of JSON takes."""
    options = config.to_json(config.Config(data="mnist", data_dir=Path("caf\udce9 é 数")))
    files.write_json(tmp_path / "config.json", options)
    (tmp_path / "config.json").read_bytes().decode()
    assert config.saved_config(tmp_path).data_dir == Path("caf\udce9 é 数")


def test_what_earlier_runs_saved_to_no_end_is_dropped():
    assert config.from_json({"data": "digits", "data_dir": "data"}).data_dir is None
    assert config.from_json({"data": "mnist", "data_dir": "data"}).data_dir == Path("data")
    assert config.from_json({"model": "lenet5", "depth": 8}).depth is None
    assert config.from_json({"model": "resnet", "depth": 20}).depth == 20


def test_characters_and_the_fonts_that_have_them():
    """𝟘 is in fonts that come with matplotlib, but not in the usual one; U+10FFFF is in none."""
    families, texts = pictures.drawable(["é\n𝟘ℵ", "\U0010ffff\t"])
    assert texts == ["é\n𝟘ℵ", "��"] and len(families) >= 1
    lacks = lambda path, text: set(text) - pictures._characters(path)
    font = lambda family: font_manager.findfont(font_manager.FontProperties(family=[family]))
    usual = font(families[0])
    odd = next(c for c in map(chr, range(0x20D0, 0x20F0)) if lacks(usual, c))
    more, (same,) = pictures.drawable([odd])
    assert same == odd and more[:-1] == families[:1]
    assert not lacks(font(more[-1]), odd)
