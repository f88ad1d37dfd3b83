"""The options of a training run, and how its folder stores them."""

import dataclasses
import math
import os
from pathlib import Path
from typing import Any, Literal

from cnnvjp.training.errors import UsageError
from cnnvjp.training.files import read_config


@dataclasses.dataclass(frozen=True)
class Config:
    """Trains a network on images."""

    data: Literal["digits", "fashion-mnist", "mnist", "cifar10"] = "digits"
    """The images: scikit-learn's 1797 digits, or files of 60000 to 70000 images."""
    data_dir: Path | None = None
    """Where those files are. By default the usual places, and then openml.org, are tried."""
    model: Literal["lenet5", "textbook", "resnet", "mobilenet", "autoencoder"] = "lenet5"
    """The network: four classifiers, and one that learns to reconstruct the images."""
    depth: int | None = None
    """Of resnet: 18, 34, or 6n + 2; 8 by default."""
    epochs: int = 30
    """How often the training set is gone through."""
    batch_size: int = 64
    """Images per update. What is left of an epoch after the last full batch is skipped."""
    accumulate: int = 1
    """The parts in which a batch goes through the network, where it's too large at once. Their
    gradients are averaged; batch normalization sees the parts by themselves."""
    optimizer: Literal["adam", "sgd"] = "adam"
    """Adam, with its weight decay decoupled, or SGD with a Nesterov momentum of 0.9."""
    learning_rate: float = 3e-3
    """The largest."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls to zero, if it does."""
    warmup: float = 0.0
    """Epochs in which the learning rate rises from zero first."""
    weight_decay: float = 0.0
    """The share, times the learning rate, that weights lose at each update. Biases and the
    parameters of batch normalization are spared."""
    label_smoothing: float = 0.0
    """The share of each label that is spread over all classes, in training."""
    shift: int = 3
    """Training images are moved by up to so many pixels along both axes, anew each time."""
    flip: bool = False
    """Training images are mirrored, left to right, half of the time."""
    rotate: float = 0.0
    """Training images are rotated by up to this many degrees in either direction, anew each
    time."""
    zoom: float = 1.0
    """Training images are enlarged or reduced by up to this factor, anew each time: with 1.2, by
    1/1.2 to 1.2."""
    elastic: float = 0.0
    """Training images are deformed by a smooth random field, anew each time. Its longest
    displacement is this many pixels."""
    validation: int = 0
    """Training images held out to choose the best epoch by. Without any, the test images choose,
    and what is measured on them for the best epoch is too good."""
    seed: int = 0
    """Fixes what is held out, the initial parameters, and the images' order and augmentation."""
    out: Path | None = None
    """Where results go, a new or empty folder. By default runs/MODEL-TIMESTAMP."""
    resume: Path | None = None
    """The folder of a run to go on with, from its last checkpoint. All options are that run's,
    unless they say where and on what it runs; --epochs may be changed too."""
    checkpoint_every: int = 1
    """Epochs from one checkpoint to the next. There is one of the best epoch and of the end too."""
    keep: int = 1
    """How many of the last checkpoints to keep, beside that of the best epoch."""
    onednn: bool = True
    """Compile for CPUs with oneDNN, where jaxlib has it: faster, and rounded elsewise."""
    devices: int = 1
    """How many devices each process divides its batches among; 0 for all that it has."""
    coordinator: str | None = None
    """For several processes: HOST:PORT of the first. "auto" where JAX knows the cluster (Slurm,
    Open MPI, Kubernetes, Cloud TPU). By default $JAX_COORDINATOR_ADDRESS."""
    processes: int | None = None
    """How many processes there are. By default $JAX_NUM_PROCESSES."""
    process_id: int | None = None
    """Which of them this is, from 0. By default $JAX_PROCESS_ID."""


# What a resumed run may be told anew: nothing of it changes what an update computes, but for
# `epochs`, which says how many there are.
CHANGEABLE = {
    "data_dir",
    "epochs",
    "checkpoint_every",
    "keep",
    "devices",
    "coordinator",
    "processes",
    "process_id",
    "resume",
}
PATHS = ("data_dir", "out", "resume")
DEPTH = 8  # of a resnet that is told none
# The models that an option is for, where it is not for all.
MODELS_WITH = {
    "depth": ("resnet",),
    "label_smoothing": ("lenet5", "textbook", "resnet", "mobilenet"),
}


def resolved(config: Config) -> Config:
    """Completes options from the environment, and checks each of them.

    Args:
        config: the options; to resume a run, those of `saved_config` with `resume` set.

    Returns:
        The options that a run is made of.

    Raises:
        UsageError: if an option cannot be used, or differs from that of the run to resume.

    Example:
        >>> resolved(Config(epochs=0))
        Traceback (most recent call last):
        cnnvjp.training.errors.UsageError: --epochs: got 0; it must be at least 1
    """
    if config.resume is not None:
        before = saved_config(config.resume)
        for field in dataclasses.fields(Config):
            old, new = getattr(before, field.name), getattr(config, field.name)
            if new != old and field.name not in CHANGEABLE:
                option = field.name.replace("_", "-")
                raise UsageError(f"--{option}: got {new}; the run to resume was started with {old}")
        config = dataclasses.replace(config, out=config.resume)
    config = _with_environment(config)
    _check(config)
    if config.model == "resnet" and config.depth is None:
        config = dataclasses.replace(config, depth=DEPTH)
    return config


def saved_config(folder: Path) -> Config:
    """The options of a run, from its folder.

    Args:
        folder: the run's.

    Returns:
        The options, except where and on what it ran.

    Raises:
        UsageError: if the folder holds no run.
    """
    return from_json(read_config(folder))


def from_json(saved: dict[str, Any]) -> Config:
    """Reads the options from the contents of a run's config.json.

    Args:
        saved: the contents; options that they lack get their defaults.

    Returns:
        The options, except where and on what the run ran.
    """
    names = {field.name for field in dataclasses.fields(Config)} & saved.keys()
    options = {name: saved[name] for name in names}
    options |= {name: Path(options[name]) for name in PATHS if options.get(name) is not None}
    # Earlier versions accepted and saved these for every model and data set.
    if options.get("model") != "resnet":
        options["depth"] = None
    if options.get("data") == "digits":
        options["data_dir"] = None
    # Where it ran is no property of the run.
    for name in ("coordinator", "processes", "process_id", "resume"):
        options[name] = None
    return Config(**options)


def to_json(config: Config) -> dict[str, Any]:
    """The options as config.json holds them: paths as text.

    Args:
        config: the options.

    Returns:
        Values by name.

    Example:
        >>> to_json(Config(out=Path("runs/first")))["out"]
        'runs/first'
    """
    options = dataclasses.asdict(config)
    return options | {name: options[name] and str(options[name]) for name in PATHS}


def _with_environment(config: Config) -> Config:
    """Fills in what the environment says about several processes."""
    coordinator = config.coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
    numbers = {}
    for name, variable in (("processes", "JAX_NUM_PROCESSES"), ("process_id", "JAX_PROCESS_ID")):
        number = getattr(config, name)
        if number is None and coordinator and variable in os.environ:
            text = os.environ[variable]
            if not text.isdecimal():
                raise UsageError(f"${variable}: got {text!r}; it must be a number")
            number = int(text)
        numbers[name] = number
    return dataclasses.replace(config, coordinator=coordinator, **numbers)


def _check(config: Config) -> None:
    """Raises a UsageError for options of other models, and for numbers that make no sense."""
    for field in dataclasses.fields(Config):
        value, models = getattr(config, field.name), MODELS_WITH.get(field.name)
        if models and config.model not in models and value != field.default:
            option = field.name.replace("_", "-")
            raise UsageError(
                f"--{option}: got {value} for {config.model}; it is for {', '.join(models)}"
            )
    at_least = {
        "epochs": 1,
        "batch_size": 1,
        "accumulate": 1,
        "shift": 0,
        "validation": 0,
        "checkpoint_every": 1,
        "keep": 1,
        "devices": 0,
    }
    for name, least in at_least.items():
        number = getattr(config, name)
        if number < least:
            option = name.replace("_", "-")
            raise UsageError(f"--{option}: got {number}; it must be at least {least}")
    for name, (least, most) in {"rotate": (0, 180), "zoom": (1, 10), "elastic": (0, 10)}.items():
        number = getattr(config, name)
        if not least <= number <= most:
            raise UsageError(f"--{name}: got {number}; it must be from {least} to {most}")
    if not (math.isfinite(config.learning_rate) and config.learning_rate > 0):
        raise UsageError(
            f"--learning-rate: got {config.learning_rate}; it must be finite and greater than 0"
        )
    if not (math.isfinite(config.weight_decay) and config.weight_decay >= 0):
        raise UsageError(
            f"--weight-decay: got {config.weight_decay}; it must be finite and at least 0"
        )
    if not 0 <= config.warmup < config.epochs:
        raise UsageError(
            f"--warmup: got {config.warmup} epochs; of {config.epochs} it must be from 0 to fewer "
            "than all"
        )
    if not 0 <= config.label_smoothing < 1:
        raise UsageError(
            f"--label-smoothing: got {config.label_smoothing}; it must be at least 0 and below 1"
        )
    if config.batch_size % config.accumulate:
        raise UsageError(
            f"--accumulate: got {config.accumulate}; it must divide the batch size, "
            f"{config.batch_size}"
        )
    if not 0 <= config.seed < 2**32:
        raise UsageError(f"--seed: got {config.seed}; it must be from 0 to {2**32 - 1}")
    _check_processes(config)


def _check_processes(config: Config) -> None:
    together = (config.processes, config.process_id)
    if config.coordinator is None:
        if together != (None, None):
            raise UsageError("--processes and --process-id need --coordinator, HOST:PORT")
        return
    if config.out is None:
        raise UsageError("--out: several processes need it, the same folder for all of them")
    if config.coordinator == "auto":
        return
    if config.processes is None or config.process_id is None:
        raise UsageError("--coordinator needs --processes and --process-id, or must be auto")
    if not 0 <= config.process_id < config.processes:
        raise UsageError(
            f"--process-id: got {config.process_id}; of {config.processes} processes it must be "
            f"from 0 to {config.processes - 1}"
        )
