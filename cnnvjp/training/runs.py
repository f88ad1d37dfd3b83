"""Trained networks: loading one from the folder of its run, and its predictions."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cnnvjp.training.checkpoints import Checkpoints
from cnnvjp.training.config import Config, from_json
from cnnvjp.training.devices import make_layout, make_outputs
from cnnvjp.training.errors import UsageError
from cnnvjp.training.files import read_config
from cnnvjp.training.tasks import Task, make_task


class Run(NamedTuple):
    """A trained network.

    Attributes:
        config: the options of its training.
        about: the contents of config.json.
        task: the network, with its loss.
        params: its parameters.
        state: its state, such as running statistics.
        update: number of updates after which they were saved.
        history: the metrics of each epoch until then.
    """

    config: Config
    about: dict[str, Any]
    task: Task
    params: Any  # trees of arrays, by a structure that the model alone knows
    state: Any
    update: int
    history: list[dict[str, float]]


def load_run(folder: str | Path, *, best: bool = False) -> Run:
    """Loads a trained network from the folder of its run.

    Args:
        folder: the run's.
        best: the parameters after the best epoch, instead of the last ones.

    Returns:
        The network with its parameters.

    Raises:
        UsageError: if the folder holds no run, or a run without a checkpoint.

    Example:
        >>> load_run("nowhere")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        cnnvjp.training.errors.UsageError: nowhere: is not the folder of a run: ...
    """
    folder = Path(folder)
    about = read_config(folder)
    if not (folder / "checkpoints").is_dir():
        raise UsageError(f"{folder}: has no checkpoint yet")
    config = from_json(about)
    task, layout = make_task(config), make_layout()
    shapes = jax.eval_shape(lambda: task.model.init(jax.random.key(0), tuple(about["input_shape"])))
    like = layout.like(dict(zip(("params", "state"), shapes, strict=True)))
    checkpoints = Checkpoints(folder, read_only=True)
    try:
        update = checkpoints.latest()
        if update is None:
            raise UsageError(f"{folder}: has no checkpoint yet")
        if best:
            history = checkpoints.restore(update)["progress"]["history"]
            if not history:
                raise UsageError(f"{folder}: has no whole epoch yet")
            update = best_epoch(task, history) * about["updates_per_epoch"]
        restored = checkpoints.restore(update, model=like)
    finally:
        checkpoints.close()
    model, history = restored["model"], restored["progress"]["history"]
    return Run(config, about, task, model["params"], model["state"], update, history)


def best_epoch(task: Task, history: list[dict[str, float]]) -> int:
    """The epoch of the highest score; of several, the last.

    Args:
        task: what was trained.
        history: the metrics of each epoch, at least one.

    Returns:
        The epoch, counted from 1.

    Example:
        >>> task = make_task(Config())
        >>> best_epoch(task, [{"test_accuracy": share} for share in (0.9, 0.95, 0.95, 0.93)])
        3
    """
    return max(range(1, len(history) + 1), key=lambda i: (epoch_score(task, history[i - 1]), i))


def epoch_score(task: Task, line: dict[str, float]) -> float:
    """The score of an epoch, on the images that choose the best.

    Args:
        task: what was trained.
        line: the metrics of the epoch.

    Returns:
        A number that is larger for a better epoch.
    """
    part = "validation" if f"validation_{task.measure}" in line else "test"
    return task.score({task.measure: line[f"{part}_{task.measure}"]})


def predict(run: Run, images: np.ndarray) -> np.ndarray:
    """The predictions of a trained network.

    Args:
        run: the network, from `load_run`.
        images: uint8, (N, *input_shape), such as (N, 28, 28, 1).

    Returns:
        For a classifier, the probabilities of the classes, (N, classes); for the autoencoder,
        reconstructions whose white is 1.

    Raises:
        TypeError: if images is not uint8.
        ValueError: if images has another shape.
    """
    return np.asarray(run.task.prediction(jnp.asarray(raw_outputs(run, images))))


def raw_outputs(run: Run, images: np.ndarray) -> np.ndarray:
    """The outputs of the network itself: for a classifier, logits.

    Args:
        run: the network, from `load_run`.
        images: uint8, (N, *input_shape).

    Returns:
        An array of N rows.

    Raises:
        TypeError: if images is not uint8.
        ValueError: if images has another shape.
    """
    images, shape = np.asarray(images), tuple(run.about["input_shape"])
    if images.dtype != np.uint8:
        raise TypeError(f"images: got {images.dtype}; they must be uint8, with white 255")
    if images.shape[1:] != shape or len(images) == 0:
        sizes = ", ".join(map(str, shape))
        raise ValueError(f"images: got the shape {images.shape}; it must be (N, {sizes})")
    about = run.about
    outputs = make_outputs(run.task.model, about["mean"], about["deviation"], make_layout())
    return outputs(run.params, run.state, images)
