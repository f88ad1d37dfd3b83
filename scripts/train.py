"""Trains a network on images.

    python scripts/train.py [--data fashion-mnist] [--model resnet] [--help]
    python scripts/train.py --resume runs/resnet-20261121-193000

Without options it trains LeNet-5 on the 1797 digits that scikit-learn brings along. Results go to
a folder of their own; `training_files` says what is in it. A run that is stopped, by Ctrl-C, by
SIGTERM or by force, goes on by `--resume` and ends as if it hadn't been, bit for bit.

One seed gives the same numbers every time, on the same machine and versions. Several devices, and
several processes on one machine or many, divide each batch among themselves and give the numbers
of one device, up to rounding.
"""

from huge_pages import restart_with_huge_pages

if __name__ == "__main__":  # before the imports below, which take seconds
    restart_with_huge_pages()

import collections
import contextlib
import dataclasses
import functools
import importlib.metadata
import json
import math
import platform
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, NoReturn

import jax
import numpy as np
import optax
import tqdm
from jax.experimental import multihost_utils
from tensorboardX import SummaryWriter
from training_batches import ShuffledBatches, augmented, iterate, scaled
from training_config import Config, UsageError, parse, to_json
from training_data import DataSet, load, statistics
from training_files import (
    Checkpoints,
    choose_folder,
    epochs_done,
    make_folder,
    read_config,
    save_params,
    write_json,
    write_lines,
)
from training_pictures import draw_results
from training_runs import Layout, Outputs, best_epoch, make_layout, make_outputs
from training_tasks import Task, make_task, measured

from cnnvjp import train

PACKAGES = (
    "cnnvjp",
    "jax",
    "jaxlib",
    "optax",
    "orbax-checkpoint",
    "grain",
    "numpy",
    "scikit-learn",
    "matplotlib",
)
MOMENTUM = 0.9  # of SGD
AGREE_EVERY = 10  # updates after which several processes ask each other whether to stop


class Setup(NamedTuple):
    """All that a training is made of, and that doesn't change in it.

    Attributes:
        config: the options.
        task: the network, with its loss.
        data: the images.
        mean: of the training images, per channel; what is taken from images.
        deviation: what they are then divided by.
        layout: the devices.
        optimizer: the Optax optimizer.
        schedule: its learning rate, by the number of the update.
        outputs: what the network makes of images, from (params, state, images).
        per_epoch: updates in an epoch.
        folder: the run's.
    """

    config: Config
    task: Task
    data: DataSet
    mean: list[float]
    deviation: list[float]
    layout: Layout
    optimizer: optax.GradientTransformation
    schedule: Callable[[int], Any]
    outputs: Outputs
    per_epoch: int
    folder: Path


@dataclasses.dataclass
class Progress:
    """How far a run is, beside the train state.

    Attributes:
        update: how many updates there were.
        order: where the iterator over batches is.
        steps: the metrics of the steps in this epoch until now.
        history: the metrics of each epoch.
    """

    update: int = 0
    order: dict[str, Any] | None = None
    steps: list[dict[str, float]] = dataclasses.field(default_factory=list)
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)


class StoppedError(Exception):
    """A signal stopped the run; its checkpoint is saved."""

    def __init__(self, number: int, message: str) -> None:
        """Remembers the signal's number."""
        super().__init__(message)
        self.number = number


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the script with the given command line."""
    try:
        run(parse(arguments, read_config))
    except UsageError as error:
        leave(2, str(error))
    except FloatingPointError as error:
        leave(1, str(error))
    except StoppedError as error:
        leave(128 + error.number, str(error))  # as shells say that a signal ended a process
    except KeyboardInterrupt:
        leave(128 + signal.SIGINT, "interrupted; what had not been saved is lost")


def leave(status: int, message: str) -> NoReturn:
    """Ends with an exit status and a line on standard error."""
    print(f"train.py: {message}", file=sys.stderr)
    raise SystemExit(status) from None


def run(config: Config) -> None:
    """Trains, and leaves the results in the run's folder."""
    started = time.perf_counter()
    # Before the processes meet, so that none finds what another has made.
    folder = config.resume or choose_folder(config)
    epochs = epochs_done(folder)
    if epochs > config.epochs:
        raise UsageError(
            f"--epochs: got {config.epochs}; the run has gone through {epochs} already"
        )
    start_jax(config)
    setup = prepare_run(config, folder)
    state = train.create(
        jax.random.split(jax.random.key(config.seed))[0],
        setup.task.model,
        setup.optimizer,
        setup.data.parts["train"].images.shape[1:],
    )
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    if first_process():
        make_folder(folder)
        write_json(folder / "config.json", describe(setup, parameters))
    counts = [f"{len(part.images)} {name}" for name, part in setup.data.parts.items()]
    counts[0] += "ing"
    say(f"{config.model}: {parameters:,} parameters; {' and '.join(counts)} images")

    state = setup.layout.replicated(state)
    checkpoints = Checkpoints(folder, keep=config.keep)
    try:
        state, progress = resumed(setup, state, checkpoints)
        state = fit(setup, state, progress, checkpoints)
    except FloatingPointError as error:
        last = checkpoints.latest()
        kept = "" if last is None else f"; {folder} keeps the checkpoint after step {last}"
        raise FloatingPointError(f"{error}{kept}") from None
    finally:
        checkpoints.close()

    outputs = setup.outputs(state.params, state.state, setup.data.parts["test"].images)
    if first_process():
        save_params(folder / "params.npz", state.params)
        draw_results(folder, setup.task, setup.data, progress.history, state.params, outputs)
    say(f"final: {summary(setup, progress.history[-1])}")
    best = best_epoch(setup.task, progress.history)
    say(f"best, in epoch {best}: {summary(setup, progress.history[best - 1])}")
    say(f"{time.perf_counter() - started:.0f} s; results in {folder}")


# ------------------------------------------------------------------------------------------
# What is trained, and on what
# ------------------------------------------------------------------------------------------


def start_jax(config: Config) -> None:
    """Makes the devices, and joins the other processes."""
    simulated = jax.config.jax_num_cpu_devices  # type: ignore[attr-defined]
    if config.devices > max(1, simulated):
        # Accelerators are as many as there are, and so is everything once JAX has begun.
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", config.devices)
    if config.coordinator is None:
        return
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    address = None if config.coordinator == "auto" else config.coordinator
    jax.distributed.initialize(address, config.processes, config.process_id)


def first_process() -> bool:
    """Whether this is the process that writes and talks."""
    return jax.process_index() == 0


def say(line: str) -> None:
    """Prints a line, once for all processes."""
    if first_process():
        tqdm.tqdm.write(line, file=sys.stdout)  # above the bar, where there is one
        sys.stdout.flush()


def prepare_run(config: Config, folder: Path) -> Setup:
    """Loads the data and puts the parts of a training together."""
    task = make_task(config)
    layout = make_layout(config.devices)
    devices = layout.mesh.size * config.accumulate
    if config.batch_size % devices:
        raise UsageError(
            f"--batch-size: got {config.batch_size}; it is divided among {layout.mesh.size} "
            f"devices in {config.accumulate} parts, so it must be a multiple of {devices}"
        )
    data = load(config.data, config.data_dir, validation=config.validation, seed=config.seed)
    images = data.parts["train"].images
    if config.batch_size > len(images):
        raise UsageError(
            f"--batch-size: got {config.batch_size}; the training set has {len(images)} images, so "
            f"it must be from 1 to {len(images)}"
        )
    channels = images.shape[-1]
    # An autoencoder's targets are its inputs, and its error is that of images whose white is 1.
    mean, deviation = (
        statistics(images) if task.classifies else ([0.0] * channels, [1.0] * channels)
    )
    per_epoch = len(images) // config.batch_size
    optimizer, schedule = make_optimizer(config, per_epoch)
    outputs = make_outputs(task.model.apply, mean, deviation, layout)
    return Setup(
        config, task, data, mean, deviation, layout, optimizer, schedule, outputs, per_epoch, folder
    )


def make_optimizer(
    config: Config, per_epoch: int
) -> tuple[optax.GradientTransformation, Callable[[int], Any]]:
    """The optimizer, and its learning rate by the number of the update."""
    top, warmup = config.learning_rate, round(config.warmup * per_epoch)
    rest = config.epochs * per_epoch - warmup
    schedule = {
        "cosine": optax.cosine_decay_schedule(top, rest),
        "linear": optax.linear_schedule(top, 0.0, rest),
        "constant": optax.constant_schedule(top),
    }[config.schedule]
    if warmup:
        rising = optax.linear_schedule(0.0, top, warmup)
        schedule = optax.join_schedules([rising, schedule], [warmup])

    def weights(params: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf.ndim > 1, params)

    if config.optimizer == "adam":
        optimizer = optax.adamw(schedule, weight_decay=config.weight_decay, mask=weights)
    else:
        optimizer = optax.chain(
            optax.add_decayed_weights(config.weight_decay, weights),
            optax.sgd(schedule, momentum=MOMENTUM, nesterov=True),
        )
    if config.accumulate > 1:
        optimizer = optax.MultiSteps(optimizer, config.accumulate).gradient_transformation()
    return optimizer, schedule


def resumed(
    setup: Setup, state: train.TrainState, checkpoints: Checkpoints
) -> tuple[train.TrainState, Progress]:
    """The train state and the progress of the last checkpoint; of none, those of a new run."""
    last = checkpoints.latest()
    if last is None:
        return state, Progress()
    model, optimizer = divided(state)
    like = setup.layout.like({"model": model, "optimizer": optimizer})
    restored = checkpoints.restore(last, **like)
    progress = Progress(**restored["progress"])
    # What was written after this checkpoint will be written again, the same.
    write_history(setup.folder, progress.history)
    say(f"resumed after step {last}, with {len(progress.history)} epochs complete")
    return train.TrainState(**restored["model"], **restored["optimizer"]), progress


def divided(state: train.TrainState) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parts of a train state that checkpoints have: what the model needs, and the rest."""
    model = {"params": state.params, "state": state.state}
    return model, {"step": state.step, "opt_state": state.opt_state}


# ------------------------------------------------------------------------------------------
# Training
# ------------------------------------------------------------------------------------------


def fit(
    setup: Setup, state: train.TrainState, progress: Progress, checkpoints: Checkpoints
) -> train.TrainState:
    """Goes through what is left of the epochs; `progress` follows. Returns the final state."""
    config = setup.config
    prepare = make_prepare(setup)
    step = train.make_train_step(
        setup.task.model,
        setup.task.training_loss,
        setup.optimizer,
        mesh=setup.layout.mesh,
        observe=layer_norms,
    )
    key = jax.random.split(jax.random.key(config.seed))[1]
    source = ShuffledBatches(
        setup.data.parts["train"],
        size=config.batch_size,
        epochs=config.epochs,
        parts=config.accumulate,
        seed=config.seed,
        mine=(jax.process_index(), jax.process_count()),
    )
    batches = iterate(source)
    if progress.order is not None:
        batches.set_state(progress.order)
    waiting: collections.deque[dict[str, jax.Array]] = collections.deque()
    # disable=None: no bar where standard error is not a terminal
    bar = tqdm.tqdm(
        total=len(source),
        initial=progress.update,
        unit="step",
        disable=None if first_process() else True,
    )
    with bar, Board(setup.folder, progress) as board, Interruption() as interruption:
        started = time.perf_counter()
        while progress.update < len(source):
            images, labels = next(batches)
            for part in range(config.accumulate):
                number = np.int32(progress.update * config.accumulate + part)
                batch = setup.layout.batch(images[part]), setup.layout.batch(labels[part])
                state, metrics = step(state, prepare(number, *batch), key)
                waiting.append(metrics)
            progress.update += 1
            bar.update()
            stop = interruption.requested(progress.update)
            ended = progress.update % setup.per_epoch == 0
            # Devices always have a step ahead of them, except before something is saved.
            while len(waiting) > (0 if ended or stop else 1):
                note(setup, progress, waiting.popleft())
            if not (ended or stop):
                continue
            progress.order = batches.get_state()
            if ended:
                line = end_epoch(setup, state, progress)
                board.write(line)
                seconds = time.perf_counter() - started
                epoch = f"{len(progress.history):{len(str(config.epochs))}}"
                say(f"epoch {epoch}: {summary(setup, line)}; {seconds:.1f} s")
                started = time.perf_counter()
            if stop or is_due(setup, progress):
                save(setup, state, progress, checkpoints)
            if stop and progress.update < len(source):
                raise StoppedError(stop, stop_message(setup, progress, stop))
    return state


def save(
    setup: Setup, state: train.TrainState, progress: Progress, checkpoints: Checkpoints
) -> None:
    """Saves a checkpoint of all that the run goes on from."""
    history = progress.history
    best = best_epoch(setup.task, history) * setup.per_epoch if history else 0
    checkpoints.save(progress.update, best, *divided(state), dataclasses.asdict(progress))


def make_prepare(setup: Setup) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """The compiled function from a batch of bytes, and the step's number, to (x, t)."""
    config = setup.config

    @functools.partial(jax.jit, out_shardings=setup.layout.divided)
    def prepare(number: Any, images: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
        images = augmented(config.seed, number, images, config.shift, config.flip)
        x = scaled(images, setup.mean, setup.deviation)
        return x, setup.task.target(x, labels)

    return prepare


def layer_norms(gradients: dict[str, Any]) -> dict[str, jax.Array]:
    """The Euclidean length of each layer's gradient."""
    return {f"grad_norm/{layer}": optax.tree.norm(part) for layer, part in gradients.items()}


def note(setup: Setup, progress: Progress, metrics: dict[str, jax.Array]) -> None:
    """Takes down the metrics of a step, which must be finite."""
    numbers = {name: float(value) for name, value in jax.device_get(metrics).items()}
    progress.steps.append(numbers)
    if not all(map(math.isfinite, numbers.values())):
        updates = math.ceil(len(progress.steps) / setup.config.accumulate)
        raise not_finite(setup, progress, len(progress.history) * setup.per_epoch + updates)


def not_finite(setup: Setup, progress: Progress, step: int) -> FloatingPointError:
    """The error that ends a run whose loss or gradient is not finite."""
    return FloatingPointError(
        f"the loss or its gradient is no longer finite at step {step}, in epoch "
        f"{len(progress.history) + 1}; use a smaller --learning-rate than "
        f"{setup.config.learning_rate:g}"
    )


def end_epoch(setup: Setup, state: train.TrainState, progress: Progress) -> dict[str, float]:
    """Measures, and writes the epoch's line of metrics.jsonl, which is returned.

    Figures of training are means over the epoch's steps.
    """
    steps, progress.steps = progress.steps, []
    means = {name: float(np.mean([step[name] for step in steps])) for name in steps[0]}
    pixels = math.prod(setup.data.parts["train"].images.shape[1:])
    figures = {"train": setup.task.figures(means, pixels)}
    for name in [name for name in setup.data.parts if name != "train"]:
        images, labels = setup.data.parts[name]
        outputs = setup.outputs(state.params, state.state, images)
        figures[name] = measured(setup.task, outputs, images, labels)
        if not math.isfinite(figures[name]["loss"]):
            raise not_finite(setup, progress, progress.update)
    line = {
        "epoch": len(progress.history) + 1,
        **{f"{part}_{name}": figures[part][name] for part in figures for name in figures[part]},
        **{name: value for name, value in means.items() if name.startswith("grad_norm")},
        "learning_rate": float(setup.schedule(progress.update - 1)),
    }
    progress.history.append(line)
    write_history(setup.folder, progress.history)
    return line


def is_due(setup: Setup, progress: Progress) -> bool:
    """Whether the end of this epoch is worth a checkpoint."""
    epoch = len(progress.history)
    return (
        epoch % setup.config.checkpoint_every == 0
        or epoch == setup.config.epochs
        or epoch == best_epoch(setup.task, progress.history)
    )


class Interruption:
    """Turns SIGTERM and Ctrl-C into something that the loop asks for between steps.

    A second signal acts as if this weren't here.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        """Waits for none before `with`."""
        self._received = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        self._before = {number: signal.signal(number, self._receive) for number in self.SIGNALS}
        return self

    def __exit__(self, *_: Any) -> None:
        self._restore()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def requested(self, update: int) -> int:
        """The number of a signal that came, or 0: the same answer in all processes."""
        if jax.process_count() == 1:
            return self._received
        if update % AGREE_EVERY:
            return 0
        return int(multihost_utils.process_allgather(np.int32(self._received)).max())


def stop_message(setup: Setup, progress: Progress, number: int) -> str:
    """What a run says that a signal has stopped."""
    return (
        f"stopped by {signal.Signals(number).name} after step {progress.update}; go on with "
        f"{Path(sys.argv[0]).name} --resume {setup.folder}"
    )


# ------------------------------------------------------------------------------------------
# What is reported
# ------------------------------------------------------------------------------------------


class Board:
    """The metrics for TensorBoard, an event file for each time that the run is taken up."""

    def __init__(self, folder: Path, progress: Progress) -> None:
        """What earlier files say of epochs that are still to come is to be ignored."""
        self._writer = None
        if first_process():
            self._writer = SummaryWriter(
                str(folder / "tensorboard"), purge_step=len(progress.history) + 1
            )

    def __enter__(self) -> "Board":
        return self

    def __exit__(self, *_: Any) -> None:
        if self._writer is not None:
            self._writer.close()

    def write(self, line: dict[str, float]) -> None:
        """Adds the metrics of an epoch."""
        if self._writer is None:
            return
        for name, value in line.items():
            if name != "epoch":
                part, _, rest = name.partition("_")
                tag = f"{rest}/{part}" if part in ("train", "validation", "test") else name
                self._writer.add_scalar(tag, value, int(line["epoch"]))
        self._writer.flush()


def write_history(folder: Path, history: list[dict[str, float]]) -> None:
    """Writes metrics.jsonl."""
    if first_process():
        write_lines(folder / "metrics.jsonl", map(json.dumps, history))


def summary(setup: Setup, line: dict[str, float]) -> str:
    """The figures of one epoch in words."""
    measure = setup.task.measure
    parts = []
    for part in setup.data.parts:
        figure = line[f"{part}_{measure}"]
        shown = f"{figure:.2%}" if measure == "accuracy" else f"{figure:.5f}"
        parts.append(f"{part} loss {line[f'{part}_loss']:.4f}, {measure.replace('_', ' ')} {shown}")
    return "; ".join(parts)


def describe(setup: Setup, parameters: int) -> dict[str, Any]:
    """The contents of config.json."""
    parts = {f"{name}_images": len(part.images) for name, part in setup.data.parts.items()}
    return {
        **to_json(setup.config),
        "out": str(setup.folder),
        **parts,
        "updates_per_epoch": setup.per_epoch,
        "input_shape": list(setup.data.parts["train"].images.shape[1:]),
        "mean": setup.mean,
        "deviation": setup.deviation,
        "classes": list(setup.data.classes),
        "parameters": parameters,
        "device": str(jax.devices()[0]),
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in PACKAGES},
        },
    }


def version(package: str) -> str | None:
    """The installed version of a package; None for a checkout that is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
