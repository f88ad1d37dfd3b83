"""The constant parts of a training: data, network, optimizer and devices, put together."""

import importlib.metadata
import platform
from pathlib import Path
from typing import Any, NamedTuple

import chex
import jax
import optax

from cnnvjp.training.config import Config, to_json
from cnnvjp.training.data import DataSet, load_data, statistics
from cnnvjp.training.devices import Layout, Outputs, make_layout, make_outputs
from cnnvjp.training.errors import UsageError
from cnnvjp.training.tasks import Task, make_task

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


class Setup(NamedTuple):
    """The parts of a training that stay the same throughout it.

    Attributes:
        config: the options.
        task: the network, with its loss.
        data: the images.
        mean: of the training images, per channel; it is subtracted from images.
        deviation: of the training images, per channel; the difference is divided by it.
        layout: the devices.
        optimizer: the Optax optimizer.
        schedule: its learning rate, by the number of the update.
        outputs: the network's outputs, from (params, state, images).
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
    schedule: optax.Schedule
    outputs: Outputs
    per_epoch: int
    folder: Path


def make_setup(config: Config, folder: Path) -> Setup:
    """Loads the data and puts the parts of a training together.

    Args:
        config: options that `resolved` has checked.
        folder: the run's.

    Returns:
        The parts.

    Raises:
        UsageError: if the options do not fit the data or the devices.
    """
    task = make_task(config)
    layout = make_layout(config.devices)
    devices = layout.mesh.size * config.accumulate
    if config.batch_size % devices:
        raise UsageError(
            f"--batch-size: got {config.batch_size}; it is divided among {layout.mesh.size} "
            f"devices in {config.accumulate} parts, so it must be a multiple of {devices}"
        )
    data = load_data(config.data, config.data_dir, validation=config.validation, seed=config.seed)
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
    outputs = make_outputs(task.model, mean, deviation, layout)
    return Setup(
        config, task, data, mean, deviation, layout, optimizer, schedule, outputs, per_epoch, folder
    )


def make_optimizer(
    config: Config, per_epoch: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The optimizer that the options ask for.

    Args:
        config: the options.
        per_epoch: updates in an epoch.

    Returns:
        The optimizer, and its learning rate by the number of the update.

    Example:
        >>> _, schedule = make_optimizer(Config(epochs=10, warmup=2.0, learning_rate=0.1), 50)
        >>> [round(float(schedule(update)), 3) for update in (0, 50, 100, 300, 500)]
        [0.0, 0.05, 0.1, 0.05, 0.0]
    """
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

    def weights(params: chex.ArrayTree) -> chex.ArrayTree:
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


def describe(setup: Setup, parameters: int) -> dict[str, Any]:
    """The contents of config.json.

    Args:
        setup: the parts of the training.
        parameters: the number of trained parameters.

    Returns:
        The options, statistics, sizes and versions, by name.
    """
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
            **{package: _version(package) for package in PACKAGES},
        },
    }


def _version(package: str) -> str | None:
    """The installed version of a package; None for a checkout that is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
