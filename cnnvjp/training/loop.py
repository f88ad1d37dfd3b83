"""The training loop: a run from its options to its results, or from its last checkpoint."""

import collections
import dataclasses
import functools
import math
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import chex
import jax
import numpy as np
import optax
import tqdm

from cnnvjp import train
from cnnvjp._output import OutputError
from cnnvjp.training.batches import ShuffledBatches, augmented, iterate, scaled
from cnnvjp.training.checkpoints import Checkpoints
from cnnvjp.training.config import Config, resolved
from cnnvjp.training.devices import first_process, start_jax
from cnnvjp.training.errors import StoppedError, StorageError, UsageError
from cnnvjp.training.files import choose_folder, epochs_done, make_folder, save_params
from cnnvjp.training.pictures import draw_results
from cnnvjp.training.reports import Board, say, summary, write_history
from cnnvjp.training.runs import best_epoch
from cnnvjp.training.setup import Setup, describe, make_setup
from cnnvjp.training.signals import Interruption
from cnnvjp.training.tasks import measured


@dataclasses.dataclass
class Progress:
    """How far a run is, beside the train state.

    Attributes:
        update: the number of updates.
        order: the position of the iterator over batches.
        steps: the metrics of the steps in this epoch until now.
        history: the metrics of each epoch.
    """

    update: int = 0
    order: dict[str, Any] | None = None
    steps: list[dict[str, float]] = dataclasses.field(default_factory=list)
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)


def train_network(config: Config) -> Path:
    """Trains a network, and leaves the results in the run's folder.

    Prints a line per epoch. SIGTERM and Ctrl-C stop it after the current step, so it must be called
    on the main thread.

    Args:
        config: the options; to resume a run, those of `saved_config` with `resume` set.

    Returns:
        The run's folder, for `load_run`.

    Raises:
        UsageError: if an option cannot be used.
        FloatingPointError: if the loss or its gradient is no longer finite.
        StoppedError: if the run was stopped, by a signal, by a file or standard output that cannot
            be written; its last checkpoint is whole.
    """
    config = resolved(config)
    started = time.perf_counter()
    # Before the processes meet, so that none finds what another has made.
    folder = config.resume or choose_folder(config.out, config.model)
    epochs = epochs_done(folder)
    if epochs > config.epochs:
        raise UsageError(
            f"--epochs: got {config.epochs}; the run has gone through {epochs} already"
        )
    start_jax(config)
    setup = make_setup(config, folder)
    state = train.create(
        jax.random.split(jax.random.key(config.seed))[0],
        setup.task.model,
        setup.optimizer,
        setup.data.parts["train"].images.shape[1:],
    )
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    counts = [f"{len(part.images)} {name}" for name, part in setup.data.parts.items()]
    counts[0] += "ing"
    try:
        if first_process():
            make_folder(folder, describe(setup, parameters))
        say(f"{config.model}: {parameters:,} parameters; {' and '.join(counts)} images")
        _run(setup, setup.layout.replicated(state))
        say(f"{time.perf_counter() - started:.0f} s; results in {folder}")
    except StorageError as error:
        raise StoppedError(1, folder, str(error)) from error
    except OutputError as error:
        raise StoppedError(error.status, folder, str(error)) from error
    return folder


def _run(setup: Setup, state: train.TrainState) -> None:
    """Trains for all epochs that are left, and writes the results."""
    folder = setup.folder
    checkpoints = Checkpoints(folder, keep=setup.config.keep)
    try:
        state, progress = resumed(setup, state, checkpoints)
        state = fit(setup, state, progress, checkpoints)
    except FloatingPointError as error:
        last = checkpoints.latest()
        kept = "" if last is None else f"; {folder} keeps the checkpoint after step {last}"
        raise FloatingPointError(f"{error}{kept}") from None
    finally:
        checkpoints.close()

    task, data, history = setup.task, setup.data, progress.history
    outputs = setup.outputs(state.params, state.state, data.parts["test"].images)
    if first_process():
        save_params(folder / "params.npz", state.params)
        draw_results(folder, task, data, history, state.params, outputs)
    say(f"final: {summary(task, data, history[-1])}")
    best = best_epoch(task, history)
    say(f"best, in epoch {best}: {summary(task, data, history[best - 1])}")


def resumed(
    setup: Setup, state: train.TrainState, checkpoints: Checkpoints
) -> tuple[train.TrainState, Progress]:
    """Restores the last checkpoint, if there is one.

    Args:
        setup: the parts of the training.
        state: the train state of a new run.
        checkpoints: the run's.

    Returns:
        The train state and the progress of the last checkpoint, or those of a new run.
    """
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
    """Divides a train state into the items of a checkpoint.

    Args:
        state: the train state.

    Returns:
        The parts that inference needs, and the rest.
    """
    model = {"params": state.params, "state": state.state}
    return model, {"step": state.step, "opt_state": state.opt_state}


def fit(
    setup: Setup, state: train.TrainState, progress: Progress, checkpoints: Checkpoints
) -> train.TrainState:
    """Trains for the rest of the epochs.

    Args:
        setup: the parts of the training.
        state: the train state to start from; it is donated.
        progress: how far the run is; it is updated in place.
        checkpoints: the run's.

    Returns:
        The final train state.

    Raises:
        FloatingPointError: if the loss or its gradient is no longer finite.
        StoppedError: if a signal stopped the run; its checkpoint is saved.
        OutputError: if standard output cannot be written; its checkpoint is saved.
        StorageError: if a file cannot be written.
    """
    config = setup.config
    prepare = make_prepare(setup)
    step = train.make_train_step(
        setup.task.model,
        setup.task.training_loss,
        setup.optimizer,
        mesh=setup.layout.mesh,
        observe=layer_norms,
        compiler_options=None if config.onednn else {},
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
    waiting: collections.deque[train.Metrics] = collections.deque()
    # disable=None: no bar where standard error is not a terminal
    bar = tqdm.tqdm(
        total=len(source),
        initial=progress.update,
        unit="step",
        disable=None if first_process() else True,
    )
    unprinted: OutputError | None = None
    board = Board(setup.folder, len(progress.history))
    with bar, board, Interruption() as interruption:
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
            checkpoints.check()
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
                try:
                    say(f"epoch {epoch}: {summary(setup.task, setup.data, line)}; {seconds:.1f} s")
                except OutputError as error:
                    # Other processes train on until all agree to stop.
                    unprinted = unprinted or error
                    interruption.request(signal.SIGPIPE)
                started = time.perf_counter()
            if stop or is_due(setup, progress):
                save(setup, state, progress, checkpoints)
            if stop and progress.update < len(source):
                if unprinted is not None:
                    raise unprinted
                name = signal.Signals(stop).name
                message = f"stopped by {name} after step {progress.update}"
                raise StoppedError(128 + stop, setup.folder, message)
    return state


def make_prepare(setup: Setup) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """The compiled function that augments and scales a batch of bytes.

    Args:
        setup: the parts of the training.

    Returns:
        The function, from (number of the step, images, labels) to (x, t).
    """
    config = setup.config

    @functools.partial(jax.jit, out_shardings=setup.layout.divided)
    def prepare(
        number: jax.Array, images: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        images = augmented(
            config.seed,
            number,
            images,
            config.shift,
            config.flip,
            rotate=config.rotate,
            zoom=config.zoom,
            elastic=config.elastic,
        )
        x = scaled(images, setup.mean, setup.deviation)
        return x, setup.task.target(x, labels)

    return prepare


def layer_norms(gradients: dict[str, chex.ArrayTree]) -> train.Metrics:
    """The Euclidean norm of each layer's gradient.

    Args:
        gradients: those of the parameters, by layer.

    Returns:
        Metrics named "grad_norm/" and the layer's name.
    """
    return {f"grad_norm/{layer}": optax.tree.norm(part) for layer, part in gradients.items()}


def note(setup: Setup, progress: Progress, metrics: train.Metrics) -> None:
    """Adds the metrics of a step to the progress.

    Args:
        setup: the parts of the training.
        progress: how far the run is; it is updated in place.
        metrics: of the step.

    Raises:
        FloatingPointError: if one of them is not finite.
    """
    numbers = {name: float(value) for name, value in jax.device_get(metrics).items()}
    progress.steps.append(numbers)
    if not all(map(math.isfinite, numbers.values())):
        updates = math.ceil(len(progress.steps) / setup.config.accumulate)
        raise _not_finite(setup, progress, len(progress.history) * setup.per_epoch + updates)


def _not_finite(setup: Setup, progress: Progress, step: int) -> FloatingPointError:
    """The error that ends a run whose loss or gradient is not finite."""
    return FloatingPointError(
        f"the loss or its gradient is no longer finite at step {step}, in epoch "
        f"{len(progress.history) + 1}; use a smaller --learning-rate than "
        f"{setup.config.learning_rate:g}"
    )


def end_epoch(setup: Setup, state: train.TrainState, progress: Progress) -> dict[str, float]:
    """Evaluates the network, and adds the epoch's line to metrics.jsonl.

    Args:
        setup: the parts of the training.
        state: the train state at the end of the epoch.
        progress: how far the run is; it is updated in place.

    Returns:
        The line. Its figures of training are means over the epoch's steps.

    Raises:
        FloatingPointError: if a loss is not finite.
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
            raise _not_finite(setup, progress, progress.update)
    line = {
        "epoch": len(progress.history) + 1,
        **{f"{part}_{name}": figures[part][name] for part in figures for name in figures[part]},
        **{name: value for name, value in means.items() if name.startswith("grad_norm")},
        "learning_rate": float(np.asarray(setup.schedule(progress.update - 1))),
    }
    progress.history.append(line)
    write_history(setup.folder, progress.history)
    return line


def is_due(setup: Setup, progress: Progress) -> bool:
    """Whether to save a checkpoint at the end of this epoch.

    Args:
        setup: the parts of the training.
        progress: how far the run is.

    Returns:
        True for every `checkpoint_every`-th epoch, the last one and the best one until now.
    """
    epoch = len(progress.history)
    return (
        epoch % setup.config.checkpoint_every == 0
        or epoch == setup.config.epochs
        or epoch == best_epoch(setup.task, progress.history)
    )


def save(
    setup: Setup, state: train.TrainState, progress: Progress, checkpoints: Checkpoints
) -> None:
    """Saves a checkpoint with everything that the run resumes from.

    Args:
        setup: the parts of the training.
        state: the train state.
        progress: how far the run is.
        checkpoints: the run's.
    """
    history = progress.history
    best = best_epoch(setup.task, history) * setup.per_epoch if history else 0
    checkpoints.save(progress.update, best, *divided(state), dataclasses.asdict(progress))
