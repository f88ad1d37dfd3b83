"""A network on its devices: where arrays lie, what it predicts, and a trained one from its folder.

from training_runs import load_run, predict

run = load_run("runs/lenet5-20261121-193000")
probabilities = predict(run, images)  # uint8, (N, height, width, C)
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from training_batches import scaled
from training_config import Config, UsageError, from_json
from training_files import Checkpoints, read_config
from training_tasks import Task, make_task

LARGEST_BATCH = 500  # images that go through the network at once where it isn't trained


class Layout(NamedTuple):
    """Where arrays lie on the devices of all processes.

    Attributes:
        mesh: the devices, along one axis.
        whole: the sharding of what every device has all of.
        divided: the sharding of batches.
    """

    mesh: Mesh
    whole: NamedSharding
    divided: NamedSharding

    def batch(self, array: np.ndarray) -> jax.Array:
        """The whole batch, of which this process gives its share."""
        return jax.make_array_from_process_local_data(self.divided, array)

    def share(self, array: np.ndarray) -> np.ndarray:
        """This process's share of a batch that all have."""
        size = len(array) // jax.process_count()
        return array[jax.process_index() * size : (jax.process_index() + 1) * size]

    def replicated(self, tree: Any) -> Any:
        """A tree of arrays that every process has, on every device."""
        return jax.tree.map(lambda array: jax.device_put(array, self.whole), tree)

    def like(self, tree: Any) -> Any:
        """What `Checkpoints.restore` needs to know of such a tree, from arrays or their shapes."""
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self.whole), tree
        )


def make_layout(devices: int = 1) -> Layout:
    """The layout for the first devices of each process; 0 takes all."""
    available = jax.local_device_count()
    if devices > available:
        raise UsageError(f"--devices: got {devices}; there are {available}")
    chosen = [
        device
        for process in range(jax.process_count())
        for device in [d for d in jax.devices() if d.process_index == process][: devices or None]
    ]
    mesh = Mesh(np.array(chosen), ("batch",), axis_types=(AxisType.Auto,))
    whole, divided = (
        NamedSharding(mesh, spec) for spec in (PartitionSpec(), PartitionSpec("batch"))
    )
    return Layout(mesh, whole, divided)


Outputs = Callable[[Any, Any, np.ndarray], np.ndarray]


def make_outputs(
    apply: Callable[..., Any], mean: list[float], deviation: list[float], layout: Layout
) -> Outputs:
    """What a network makes of images: `outputs(params, state, images) -> array`.

    Images go through it in batches of one size, of which the last is filled up.
    """

    def of_batch(params: Any, state: Any, images: jax.Array) -> jax.Array:
        y, _ = apply(params, state, scaled(images, mean, deviation), train=False)
        return y

    compiled = jax.jit(of_batch, out_shardings=layout.whole)

    def outputs(params: Any, state: Any, images: np.ndarray) -> np.ndarray:
        devices = layout.mesh.size
        size = math.ceil(min(LARGEST_BATCH, len(images)) / devices) * devices
        parts = []
        for start in range(0, len(images), size):
            part = images[start : start + size]
            missing = np.zeros((size - len(part), *part.shape[1:]), part.dtype)
            filled = np.concatenate([part, missing])
            batch = layout.batch(layout.share(filled))
            parts.append(np.asarray(compiled(params, state, batch))[: len(part)])
        return np.concatenate(parts)

    return outputs


# ------------------------------------------------------------------------------------------
# Trained networks
# ------------------------------------------------------------------------------------------


class Run(NamedTuple):
    """A trained network.

    Attributes:
        config: the options of its training.
        about: the contents of config.json.
        task: the network, with its loss.
        params: its parameters.
        state: what else it needs, such as running statistics.
        update: after how many updates they were saved.
        history: the metrics of each epoch until then.
    """

    config: Config
    about: dict[str, Any]
    task: Task
    params: Any
    state: Any
    update: int
    history: list[dict[str, float]]


def load_run(folder: str | Path, *, best: bool = False) -> Run:
    """A trained network, from the folder of its run.

    Args:
        folder: the run's.
        best: the parameters after the best epoch, instead of the last ones.

    Returns:
        The network with its parameters.

    Raises:
        UsageError: for a folder without a run, or without a checkpoint.
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
    """The epoch of the highest score, counted from 1: of several, the last."""
    return max(range(1, len(history) + 1), key=lambda i: (epoch_score(task, history[i - 1]), i))


def epoch_score(task: Task, line: dict[str, float]) -> float:
    """How good an epoch was, on the images that choose the best."""
    part = "validation" if f"validation_{task.measure}" in line else "test"
    return task.score({task.measure: line[f"{part}_{task.measure}"]})


def predict(run: Run, images: np.ndarray) -> np.ndarray:
    """What a trained network makes of images.

    Args:
        run: the network, from `load_run`.
        images: bytes, (N, *input_shape), such as (N, 28, 28, 1).

    Returns:
        Of a classifier, the probabilities of the classes, (N, classes); of the autoencoder,
        reconstructions whose white is 1.

    Raises:
        TypeError: for images that aren't bytes.
        ValueError: for images of another shape.
    """
    return np.asarray(run.task.prediction(jnp.asarray(raw_outputs(run, images))))


def raw_outputs(run: Run, images: np.ndarray) -> np.ndarray:
    """The outputs of the network itself: of a classifier, logits."""
    images, shape = np.asarray(images), tuple(run.about["input_shape"])
    if images.dtype != np.uint8:
        raise TypeError(f"images: got {images.dtype}; they must be uint8, with white 255")
    if images.shape[1:] != shape or len(images) == 0:
        sizes = ", ".join(map(str, shape))
        raise ValueError(f"images: got the shape {images.shape}; it must be (N, {sizes})")
    about = run.about
    outputs = make_outputs(run.task.model.apply, about["mean"], about["deviation"], make_layout())
    return outputs(run.params, run.state, images)
