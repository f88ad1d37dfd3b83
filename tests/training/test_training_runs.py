"""Runs that are stopped, killed, divided, resumed, measured and exported."""

import contextlib
import errno
import io
import json
import os
import random
import re
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

pytest.importorskip("orbax.checkpoint")
from PIL import Image
from training_server import few

import cnnvjp
from cnnvjp import training
from cnnvjp.model import Model
from cnnvjp.training import Checkpoints, UsageError, commands, devices, export, loop
from cnnvjp.training import data as training_data
from cnnvjp.training.commands import evaluate_main, export_main, train_main
from cnnvjp.training.devices import make_layout
from cnnvjp.training.errors import StorageError

ROOT = Path(cnnvjp.__file__).parents[1]
KILLS = 20
# 10 steps an epoch, and 30 checkpoints.
LONG = ("--model", "textbook", "--batch-size", "16", "--epochs", "30")
PNG_END = b"IEND\xaeB`\x82"


class Server:
    """The other side of training_server.py."""

    def __init__(self, folder):
        self._process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("training_server.py")],
            cwd=folder,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                # Each process compiles the same programs.
                "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.folder = folder
        self._count = 0

    def start(self, *arguments, **environment):
        """Starts train.py; returns its process id and the file that it prints to."""
        self._count += 1
        output = self.folder / f"output-{self._count}"
        command = {"run": arguments, "output": str(output), "environment": environment}
        return self._ask(command), output

    def wait(self, pid):
        """The status with which it ended."""
        return self._ask({"wait": pid})

    def run(self, *arguments):
        """Runs train.py to its end, which must be a good one; returns what it printed."""
        pid, output = self.start(*arguments)
        assert self.wait(pid) == 0, output.read_text()
        return output.read_text()

    def _ask(self, command):
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self):
        self._process.communicate(timeout=60)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("runs"))
    yield server
    server.close()


@pytest.fixture(scope="module")
def undisturbed(server):
    """The folder of a run that nothing stopped."""
    server.run(*LONG, "--out", "undisturbed")
    return server.folder / "undisturbed"


def wait_for(pattern, output, seconds=300):
    """Waits until a run has printed what matches."""
    deadline = time.monotonic() + seconds
    while not (output.exists() and re.search(pattern, output.read_text())):
        assert time.monotonic() < deadline, output.read_text()
        time.sleep(0.005)


def assert_same_run(folder, expected):
    """The same figures and parameters, bit for bit, and the same checkpoints."""
    for name in ("metrics.jsonl", "params.npz"):
        assert (folder / name).read_bytes() == (expected / name).read_bytes(), name
    checkpoints = [{p.name for p in (f / "checkpoints").iterdir()} for f in (folder, expected)]
    assert checkpoints[0] == checkpoints[1]


def assert_whole(folder):
    """Every file is readable, and metrics.jsonl has every epoch once."""
    if (folder / "config.json").exists():
        json.loads((folder / "config.json").read_text())
    if (folder / "metrics.jsonl").exists():
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        epochs = [json.loads(line)["epoch"] for line in lines]
        assert epochs == list(range(1, len(epochs) + 1))
    if (folder / "params.npz").exists():
        np.load(folder / "params.npz")["conv1/w"]
    for picture in folder.glob("*.png"):
        assert picture.read_bytes().endswith(PNG_END), picture
    names = {path.name for path in (folder / "checkpoints").glob("[0-9]*")}
    for name in names:
        if name.isdecimal():  # not one that is being written
            assert (folder / "checkpoints" / name / "_CHECKPOINT_METADATA").exists()


@pytest.mark.versions
def test_signals_stop_a_run_which_goes_on(server, undisturbed):
    """Stopped twice, it saves and says so, and ends with what a run has that wasn't stopped."""
    folder = server.folder / "stopped"
    arguments = (*LONG, "--out", "stopped")
    for number in (signal.SIGTERM, signal.SIGINT):
        pid, output = server.start(*arguments)
        wait_for(r"epoch +\d+: ", output)
        os.kill(pid, number)
        assert server.wait(pid) == 128 + number
        (*_, last) = output.read_text().splitlines()
        stopped = re.search(rf"stopped by {number.name} after step (\d+); go on with", last)
        assert last.endswith("--resume stopped")
        assert stopped[1] in {path.name for path in (folder / "checkpoints").iterdir()}
        assert not (folder / "params.npz").exists()
        arguments = ("--resume", "stopped")
    assert f"resumed after step {stopped[1]}, with" in server.run(*arguments)
    assert_same_run(folder, undisturbed)


def test_statistics_and_random_warps_go_on_too(server):
    """Batch normalization's statistics make a ResNet's test figures, and are no parameters."""
    options = ("--model", "resnet", "--batch-size", "32", "--epochs", "6", "--accumulate", "2")
    options += ("--rotate", "20", "--zoom", "1.2", "--elastic", "1")
    server.run(*options, "--out", "resnet")
    pid, output = server.start(*options, "--out", "resnet-stopped")
    wait_for(r"epoch +1: ", output)
    os.kill(pid, signal.SIGTERM)
    assert server.wait(pid) == 128 + signal.SIGTERM, output.read_text()
    server.run("--resume", "resnet-stopped")
    assert_same_run(server.folder / "resnet-stopped", server.folder / "resnet")


def test_kills_leave_whole_files_and_a_run_that_goes_on(server, undisturbed):
    """At 20 random moments, from the start of a process to the last picture."""
    random.seed(0)
    folder = server.folder / "killed"
    reached = set()
    for _ in range(KILLS):
        new = not (folder / "config.json").exists()
        arguments = (*LONG, "--out", "killed") if new else ("--resume", "killed")
        pid, output = server.start(*arguments)
        if random.random() < 0.7:  # otherwise it is at its beginning
            epochs = random.choice([1, 3])  # by the third, the first one's checkpoint is whole
            wait_for(rf"(?s)(epoch +\d+: .*?){{{epochs}}}|results in", output)
        time.sleep(random.uniform(0, 0.5))
        os.kill(pid, signal.SIGKILL)
        assert server.wait(pid) in (-signal.SIGKILL, 0), output.read_text()
        assert_whole(folder)
        reached |= {path.name for path in (folder / "checkpoints").glob("*")}
    assert any(name.isdecimal() for name in reached)  # it got somewhere between the kills
    server.run("--resume", "killed")
    assert_whole(folder)
    assert_same_run(folder, undisturbed)
    assert not list(folder.glob(".*"))
    assert not [p for p in (folder / "checkpoints").iterdir() if not p.name.isdecimal()]


@pytest.mark.versions
def test_two_processes_train_as_one(server):
    """Over loopback, each with half of every batch: the loss of one process, to 1e-6."""
    short = ("--model", "textbook", "--epochs", "2", "--batch-size", "32", "--flip")
    short += ("--rotate", "20", "--zoom", "1.2", "--elastic", "1")
    server.run(*short, "--out", "one")
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    runs = [
        server.start(
            *(*short, "--out", "two", "--process-id", str(i)),
            JAX_COORDINATOR_ADDRESS=f"localhost:{port}",
            JAX_NUM_PROCESSES="2",
        )
        for i in range(2)
    ]
    for pid, output in runs:
        assert server.wait(pid) == 0, output.read_text()
    one, two = (read_metrics(server.folder / name) for name in ("one", "two"))
    assert len(one) == len(two) == 2
    for name in ("train_loss", "test_loss", "grad_norm"):
        expected = [line[name] for line in one]
        np.testing.assert_allclose([line[name] for line in two], expected, rtol=1e-6)
    assert "test images" in runs[0][1].read_text()
    others = [line for line in runs[1][1].read_text().splitlines() if "[Gloo]" not in line]
    assert others == []  # one of them talks
    # What two processes saved, one can use.
    run, again = (training.load_run(server.folder / name) for name in ("one", "two"))
    images = np.random.default_rng(0).integers(0, 256, (9, 16, 16, 1), "uint8")
    np.testing.assert_allclose(
        training.predict(run, images), training.predict(again, images), atol=1e-5
    )


def read_metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


# ------------------------------------------------------------------------------------------
# In this process, with its 8 simulated devices
# ------------------------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs the script's main on few digits, with the promotion that Optax relies on."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(training_data, "digits", few(training_data.digits))
    monkeypatch.setattr(loop, "draw_results", lambda *_: None)  # which takes a second

    def main(*arguments):
        with jax.numpy_dtype_promotion("standard"):
            train_main(("--model", "textbook", "--batch-size", "48", *arguments))

    return main


@pytest.mark.devices(4)
def test_devices_and_parts_of_batches_give_the_numbers_of_one(run, tmp_path):
    """Batches over 4 devices, in 3 parts whose gradients are averaged."""
    options = ("--epochs", "2", "--shift", "0", "--optimizer", "sgd", "--learning-rate", "0.02")
    run(*options, "--out", "one")
    run(*options, "--devices", "4", "--accumulate", "3", "--out", "divided")
    one, divided = (read_metrics(tmp_path / name) for name in ("one", "divided"))
    for name in ("train_loss", "test_loss", "learning_rate"):
        expected = [line[name] for line in one]
        np.testing.assert_allclose([line[name] for line in divided], expected, rtol=2e-6)


def test_optimizers_schedules_and_validation(run, capsys, tmp_path):
    """Each combination learns; the rate rises and falls; validation images choose the best."""
    options = ("--epochs", "3", "--learning-rate", "0.005", "--weight-decay", "0.01")
    run(*options, "--schedule", "linear", "--warmup", "1", "--validation", "40", "--out", "adam")
    lines = read_metrics(tmp_path / "adam")
    assert "40 validation" in capsys.readouterr().out
    assert [line["learning_rate"] for line in lines] == pytest.approx([0.0025, 0.00375, 0.00125])
    assert lines[-1]["train_loss"] < lines[0]["train_loss"]
    loaded = training.load_run(tmp_path / "adam", best=True)
    best = max(range(3), key=lambda i: (lines[i]["validation_accuracy"], i))
    assert loaded.update == (best + 1) * 2
    run(*options, "--schedule", "constant", "--label-smoothing", "0.1", "--out", "constant")
    lines = read_metrics(tmp_path / "constant")
    assert [line["learning_rate"] for line in lines] == pytest.approx([0.005] * 3)


def events(folder):
    """What TensorBoard reads of each file, by age: where it starts, and (tag, step) of scalars."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    found = []
    for path in sorted(folder.iterdir(), key=lambda path: path.suffix):
        content, starts, scalars = path.read_bytes(), [], []
        while content:  # the length, its checksum, an event, its checksum
            (length,) = struct.unpack("<Q", content[:8])
            event = Event.FromString(content[12 : 12 + length])
            if event.session_log.status == SessionLog.START:
                starts.append(event.step)
            scalars += [(value.tag, event.step) for value in event.summary.value]
            content = content[16 + length :]
        found.append((starts, scalars))
    return found


class Unread(io.StringIO):
    """Standard output whose reader leaves after the first lines."""

    def write(self, text):
        if "epoch 1" in text:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")
        return super().write(text)


@contextlib.contextmanager
def largest_file(size):
    """A disk that takes no more than that of one file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_output_and_disk_that_take_no_more(run, monkeypatch, capsys, tmp_path):
    """Each stops the run in at most one line; it goes on, and ends as if it hadn't been stopped.

    The accuracies are made up: the best epoch is the second, since of the best it is the last, and
    its checkpoint lies between two others.
    """
    make_prepare, measured, numbers = loop.make_prepare, loop.measured, []

    def noted(setup):
        prepare = make_prepare(setup)

        def noting(number, *batch):
            numbers.append(int(number))
            return prepare(number, *batch)

        return noting

    def graded(task, outputs, images, labels):
        figures = measured(task, outputs, images, labels)
        return figures | {"accuracy": [0.7, 0.7, 0.2, 0.3][(len(numbers) - 1) // 6]}

    monkeypatch.setattr(loop, "make_prepare", noted)
    monkeypatch.setattr(loop, "measured", graded)
    # Every file of events in the same second, by which tensorboardX names them.
    clock = types.SimpleNamespace(time=lambda: 1e9)
    monkeypatch.setattr("tensorboardX.event_file_writer.time", clock)
    options = ("--epochs", "4", "--accumulate", "2", "--checkpoint-every", "3", "--flip")
    run(*options, "--out", "whole")
    assert numbers == list(range(24))  # of every part of each of 12 batches another
    checkpoints = {path.name for path in (tmp_path / "whole/checkpoints").iterdir()}
    assert checkpoints == {"6", "12"}
    assert training.load_run("whole", best=True).update == 6

    def stopped(status, *arguments):
        capsys.readouterr()
        numbers.clear()
        with pytest.raises(SystemExit) as stop:
            run(*arguments)
        assert stop.value.code == status
        return capsys.readouterr().err

    with largest_file(100):  # less than config.json
        text = "--out: got run, which cannot be used as a folder: File too large\n"
        assert stopped(2, *options, "--out", "run").endswith(text)
    assert not (tmp_path / "run").exists()
    with largest_file(50_000):  # less than a checkpoint
        text = "train.py: run/checkpoints: cannot be written: File too large; go on with train.py "
        assert stopped(1, *options, "--out", "run") == text + "--resume run\n"
    assert numbers == list(range(6))  # the first epoch, until its checkpoint
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Unread())
        assert stopped(128 + signal.SIGPIPE, "--resume", "run") == ""
    assert numbers == list(range(8))  # and a step more, in the middle of an epoch
    with open("/dev/full", "w") as full, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", full)
        text = "train.py: standard output cannot be written: No space left on device; go on with "
        assert stopped(1, "--resume", "run") == text + "train.py --resume run\n"
    with largest_file(100):
        text = "train.py: run/config.json: cannot be written: File too large; go on with train.py "
        assert stopped(1, "--resume", "run") == text + "--resume run\n"
    assert numbers == []
    numbers += range(8)  # from which the accuracies follow
    run("--resume", "run")
    assert numbers == list(range(24))
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    names = (tmp_path / "run").iterdir()
    assert not [path for path in names if path.name.startswith(".")]
    # Each file of events replaces what earlier ones say from its first epoch on.
    everything = events(tmp_path / "run/tensorboard")
    assert [starts for starts, _ in everything] == [[1], [1], [2]]
    tags = ("loss/train", "loss/test", "accuracy/test", "grad_norm/conv1", "learning_rate")
    for tag in tags:
        steps = [[step for name, step in found if name == tag] for _, found in everything]
        assert steps == [[1], [1], [2, 3, 4]], tag


def test_a_checkpoint_that_fails_in_the_background(monkeypatch, tmp_path):
    """It is told by the step that follows."""
    checkpoints = Checkpoints(tmp_path)
    array = jax.device_put(jnp.zeros(3, "float32"), make_layout(1).whole)
    model = {"params": array, "state": {}}

    wait = checkpoints._manager.wait_until_finished

    def fail():
        wait()
        if threading.current_thread() is not threading.main_thread():
            raise ValueError("Failed to write 5 bytes: No space left on device [28]")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints._manager, "wait_until_finished", fail)
        checkpoints.save(1, 1, model, {"step": array}, {})
        checkpoints._watch.shutdown()
        with pytest.raises(StorageError, match="checkpoints: cannot be written: No space left"):
            checkpoints.check()
    checkpoints.close()


def test_resuming_may_change_where_but_not_what(run, capsys, tmp_path):
    run("--epochs", "1", "--out", "run")
    first = (tmp_path / "run/metrics.jsonl").read_text()
    for arguments, text in (
        (["--learning-rate", "0.1"], r"--learning-rate: got 0\.1; .* started with 0\.003"),
        (["--flip"], r"--flip: got True; .* started with False"),
    ):
        with pytest.raises(SystemExit) as stop:
            run("--resume", "run", *arguments)
        assert stop.value.code == 2 and re.search(text, capsys.readouterr().err)
    run("--resume", "run", "--epochs", "3", "--devices", "2")
    text = (tmp_path / "run/metrics.jsonl").read_text()
    assert text.startswith(first) and len(text.splitlines()) == 3
    run("--resume", "run")  # there is nothing left to do
    assert (tmp_path / "run/metrics.jsonl").read_text() == text
    with pytest.raises(SystemExit):
        run("--resume", "run", "--epochs", "2")
    assert "--epochs: got 2; the run has gone through 3 already" in capsys.readouterr().err
    assert json.loads((tmp_path / "run/config.json").read_text())["epochs"] == 3


def test_checkpoints_keep_the_last_and_the_best(tmp_path):
    """Every array of the train state comes back as it was, and old ones go."""
    optimizer = optax.adam(1e-3)
    params = {"w": jnp.arange(6.0, dtype="float32").reshape(2, 3)}
    model = {"params": params, "state": {"mean": jnp.arange(3.0), "none": {}}}
    rest = {"step": jnp.asarray(7, "int32"), "opt_state": optimizer.init(params)}
    whole = make_layout(1).whole
    model, rest = jax.device_put((model, rest), whole)
    checkpoints = Checkpoints(tmp_path, keep=2)
    for update in range(1, 6):
        scaled = jax.tree.map(lambda a, by=update: a * by, model)
        checkpoints.save(update, min(update, 2), scaled, rest, {"update": update})
    checkpoints.close()
    assert {int(path.name) for path in (tmp_path / "checkpoints").iterdir()} == {2, 4, 5}
    layout = make_layout(1)
    reader = Checkpoints(tmp_path, read_only=True)
    restored = reader.restore(4, model=layout.like(model), optimizer=layout.like(rest))
    reader.close()
    assert restored["progress"] == {"update": 4}
    expected = {"model": jax.tree.map(lambda a: a * 4, model), "optimizer": rest}
    for item, tree in expected.items():
        assert jax.tree.structure(restored[item]) == jax.tree.structure(tree)
        for got, want in zip(jax.tree.leaves(restored[item]), jax.tree.leaves(tree), strict=True):
            assert got.dtype == want.dtype and np.array_equal(got, want)


def test_evaluation_prediction_and_export(run, capsys, monkeypatch, tmp_path):
    """All three give the figures that training wrote."""
    run("--epochs", "3", "--learning-rate", "0.01", "--out", "run")
    (*_, last) = read_metrics(tmp_path / "run")
    test = training.load_data("digits").parts["test"]
    loaded = training.load_run("run")
    probabilities = training.predict(loaded, test.images)
    assert np.mean(probabilities.argmax(-1) == test.labels) == pytest.approx(last["test_accuracy"])
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-5)

    capsys.readouterr()
    evaluate_main(["run", "--predictions", "test.csv"])
    printed = capsys.readouterr().out
    assert printed.startswith("textbook, after 9 steps, on 40 test images\n")
    assert f"loss: {last['test_loss']:.5f}\n" in printed
    assert f"accuracy: {last['test_accuracy']:.2%}\n" in printed
    counts = re.findall(r"^ {4}\w+ +(\d+) of +(\d+)$", printed, re.MULTILINE)
    right, total = np.sum(np.array(counts, int), 0)
    assert total == 40 and right / total == pytest.approx(last["test_accuracy"])
    header, *rows = (tmp_path / "test.csv").read_text().splitlines()
    assert header == "image,label,prediction,probability" and len(rows) == 40
    right = [row.split(",")[1] == row.split(",")[2] for row in rows]
    assert np.mean(right) == pytest.approx(last["test_accuracy"])

    for main, option in ((evaluate_main, "--predictions"), (export_main, "--out")):
        with pytest.raises(SystemExit) as stop:
            main(["run", option, "/dev/full"])
        assert stop.value.code == 1
        error = capsys.readouterr().err
        assert error.endswith(": /dev/full: cannot be written: No space left on device\n")

    for index in (0, 3):
        Image.fromarray(test.images[index, ..., 0]).save(f"{index}.png")
    evaluate_main(["run", "--pictures", "0.png", "3.png"])
    expected = [f"{i}.png: {p.argmax()}, {p.max():.2%}" for i, p in enumerate(probabilities[:4])]
    assert capsys.readouterr().out.splitlines() == expected[::3]

    export_main(["run"])
    assert "run/network.jax: " in capsys.readouterr().out
    network = jax.export.deserialize(bytearray((tmp_path / "run/network.jax").read_bytes()))
    assert network.platforms == ("cpu", "cuda", "tpu")
    for count in (1, 7):
        np.testing.assert_allclose(
            network.call(test.images[:count]), probabilities[:count], atol=1e-6
        )
    # The comparison that the script makes can fail.
    monkeypatch.setattr(export, "predict", lambda run, images: training.predict(run, images // 2))
    with pytest.raises(RuntimeError, match="results differ by"):
        export_main(["run"])


def test_the_examples_of_the_subpackage_run(run, tmp_path):
    """One after the other, as they stand in its docstring."""
    names = {}
    with jax.numpy_dtype_promotion("standard"):
        for block in re.findall(r"```python\n(.*?)```", training.__doc__, re.DOTALL):
            exec(block, names)
    assert set(names["evaluation"].figures) == {"loss", "accuracy"}
    assert names["probabilities"].shape == (40, 10)
    assert (tmp_path / "network.jax").exists()
    assert len(read_metrics(tmp_path / "runs/first")) == 3


def test_what_has_no_run_is_named(run, capsys, tmp_path):
    for main in (evaluate_main, export_main):
        with pytest.raises(SystemExit) as stop:
            main(["nothing"])
        assert stop.value.code == 2
        assert "nothing: is not the folder of a run" in capsys.readouterr().err
    run("--epochs", "1", "--out", "run")
    loaded = training.load_run("run")
    with pytest.raises(TypeError, match="images: got float32; they must be uint8"):
        training.predict(loaded, np.zeros((1, 16, 16, 1), "float32"))
    with pytest.raises(
        ValueError, match=r"got the shape \(1, 28, 28, 1\); it must be \(N, 16, 16, 1"
    ):
        training.predict(loaded, np.zeros((1, 28, 28, 1), "uint8"))
    for path in (tmp_path / "run/checkpoints").iterdir():
        path.rename(tmp_path / path.name)
    with pytest.raises(UsageError, match="run: has no checkpoint yet"):
        training.load_run("run")
    (tmp_path / "run/checkpoints").rmdir()
    with pytest.raises(UsageError, match="run: has no checkpoint yet"):
        training.load_run("run")


def test_an_interrupt_outside_the_loop(run, monkeypatch, capsys):
    def interrupted(config):
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "train_network", interrupted)
    with pytest.raises(SystemExit) as stop:
        run()
    assert stop.value.code == 130
    assert "interrupted; what had not been saved is lost" in capsys.readouterr().err


@pytest.mark.parametrize("count", [3, 8, 10])
def test_batches_of_inference_have_one_size(monkeypatch, count):
    """The last is filled to the size of the others, one that the devices can divide."""
    monkeypatch.setattr(devices, "LARGEST_BATCH", 7)
    sizes = []

    def apply(params, state, x, *, train):
        sizes.append(len(x))
        return x.sum((1, 2, 3)), state

    model = Model(lambda key, shape: ({}, {}), apply)
    outputs = devices.make_outputs(model, [0.0], [1.0], make_layout(2))
    images = np.arange(count * 4, dtype="uint8").reshape(count, 2, 2, 1)
    with jax.numpy_dtype_promotion("standard"):
        found = outputs({}, {}, images)
    assert sizes == [min(8, -(-count // 2) * 2)]  # it is compiled once
    np.testing.assert_allclose(found, images.sum((1, 2, 3)) / 255, rtol=1e-6)
