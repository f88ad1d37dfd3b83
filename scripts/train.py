"""Trains a network on handwritten digits.

    python scripts/train.py [--model lenet5|textbook|autoencoder] [--help]

The digits are the 1797 that scikit-learn brings along, 8×8, scaled up to 32×32. A fifth of them,
the same share of every class, is held out as the test set. The others are shifted by a few pixels,
anew in every epoch. Results go to a folder of their own:

    config.json           the options as they were resolved, sizes and versions
    metrics.jsonl         a line per epoch
    params.npz            the trained parameters, by names such as "conv1/w"
    curves.png            the metrics over the epochs
    reconstructions.png   (autoencoder) test images and what became of them

One seed gives the same numbers every time, on the same machine and versions.
"""

import dataclasses
import datetime
import importlib.metadata
import io
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
import tqdm
import tyro
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from cnnvjp import models, train
from cnnvjp.losses import half_squared_error, softmax_cross_entropy
from cnnvjp.model import Model
from cnnvjp.resizing import resize

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import MaxNLocator, PercentFormatter

IMAGE_SIZE = (32, 32)
CLASSES = 10
TEST_SHARE = 0.2
LARGEST_SHIFT = 3  # pixels of 32; one pixel of the 8×8 originals is 4
PACKAGES = ("cnnvjp", "jax", "jaxlib", "optax", "numpy", "scikit-learn", "matplotlib")


@dataclasses.dataclass(frozen=True)
class Config:
    """Trains a network on scikit-learn's handwritten digits."""

    model: Literal["lenet5", "textbook", "autoencoder"] = "lenet5"
    """The network: two classifiers, and one that learns to reconstruct the images."""
    epochs: int = 30
    """How often the training set is gone through."""
    batch_size: int = 64
    """Images per step. What is left of an epoch after the last full batch is skipped."""
    learning_rate: float = 3e-3
    """Adam's, at the start; it falls to zero along a cosine."""
    seed: int = 0
    """Fixes the test set, the initial parameters, and the order and shifts of the images."""
    out: Path | None = None
    """Where results go, a new or empty folder. By default runs/MODEL-TIMESTAMP."""


class UsageError(Exception):
    """An option that cannot be used; its message says what would do."""


class Data(NamedTuple):
    """Images in [0, 1], (N, 32, 32, 1), and labels, (N,)."""

    train_images: np.ndarray
    test_images: np.ndarray
    train_labels: np.ndarray
    test_labels: np.ndarray


class Task(NamedTuple):
    """A model with what it is trained towards.

    Attributes:
        model: the network.
        loss: what is minimised, per image.
        loss_name: for the plot.
        target: what the output is compared with, from (images, labels).
        measure: the name of the figure that people ask for, and that figure from the metrics.
    """

    model: Model
    loss: Callable[[jax.Array, jax.Array], jax.Array]
    loss_name: str
    target: Callable[[np.ndarray, np.ndarray], np.ndarray]
    measure: tuple[str, Callable[[dict[str, float]], float]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the script with the given command line."""
    config = tyro.cli(Config, args=arguments, prog="train.py")
    try:
        run(config)
    except UsageError as error:
        print(f"train.py: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except FloatingPointError as error:
        print(f"train.py: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def run(config: Config) -> None:
    """Trains, and leaves the results in the run's folder."""
    started = time.perf_counter()
    check_options(config)
    data = load_data(config.seed)
    if config.batch_size > len(data.train_images):
        raise UsageError(
            f"--batch-size: got {config.batch_size}; the training set has "
            f"{len(data.train_images)} images, so it must be from 1 to {len(data.train_images)}"
        )
    task = make_task(config.model)
    folder = make_folder(config)

    steps = config.epochs * (len(data.train_images) // config.batch_size)
    optimizer = optax.adam(optax.cosine_decay_schedule(config.learning_rate, steps))
    init_key, step_key = jax.random.split(jax.random.key(config.seed))
    state = train.create(init_key, task.model, optimizer, data.train_images.shape[1:])
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    write_json(folder / "config.json", describe(config, folder, data, parameters))
    print(
        f"{config.model}: {parameters:,} parameters; {len(data.train_images)} training and "
        f"{len(data.test_images)} test images"
    )

    state, history = fit(config, task, data, optimizer, state, step_key, folder)

    save_params(folder / "params.npz", state.params)
    plot_curves(folder / "curves.png", history, config.model, task)
    if config.model == "autoencoder":
        plot_reconstructions(folder / "reconstructions.png", task.model, state, data)
    seconds = time.perf_counter() - started
    print(f"final: {summary(task, history[-1])}")
    print(f"{seconds:.0f} s; results in {folder}")


def fit(
    config: Config,
    task: Task,
    data: Data,
    optimizer: optax.GradientTransformation,
    state: train.TrainState,
    key: jax.Array,
    folder: Path,
) -> tuple[train.TrainState, list[dict[str, float]]]:
    """Goes through the epochs; returns the final state and the metrics of each epoch."""
    step = train.make_train_step(task.model, task.loss, optimizer)
    evaluate = train.make_eval_step(task.model, task.loss)
    test_batch = (data.test_images, task.target(data.test_images, data.test_labels))
    rng = np.random.default_rng(config.seed)
    steps = len(data.train_images) // config.batch_size
    history: list[dict[str, float]] = []
    # disable=None: no bar where standard error is not a terminal
    with tqdm.tqdm(total=config.epochs * steps, unit="step", disable=None) as progress:
        for epoch in range(1, config.epochs + 1):
            taken = []
            for chosen in batches(rng, len(data.train_images), config.batch_size):
                images = shifted(rng, data.train_images[chosen])
                batch = (images, task.target(images, data.train_labels[chosen]))
                state, metrics = step(state, batch, key)
                taken.append(metrics)
                progress.update()
            train_metrics = mean_of(taken)
            test_metrics = mean_of([evaluate(state, test_batch)])
            if not all(map(math.isfinite, (*train_metrics.values(), *test_metrics.values()))):
                raise FloatingPointError(
                    f"the loss is no longer finite in epoch {epoch}; use a smaller "
                    f"--learning-rate than {config.learning_rate:g}"
                )
            history.append(record(task, epoch, train_metrics, test_metrics))
            write_lines(folder / "metrics.jsonl", map(json.dumps, history))
            line = f"epoch {epoch:{len(str(config.epochs))}}: {summary(task, history[-1])}"
            progress.write(line, file=sys.stdout)
    return state, history


def batches(rng: np.random.Generator, count: int, size: int) -> Iterator[np.ndarray]:
    """The indices of one epoch's batches, all of the same size, in a new order."""
    shuffled = rng.permutation(count)
    for start in range(0, count - size + 1, size):
        yield shuffled[start : start + size]


def shifted(rng: np.random.Generator, images: np.ndarray) -> np.ndarray:
    """Each image moved by up to LARGEST_SHIFT pixels along both axes, with zeros behind it."""
    reach = LARGEST_SHIFT
    padded = np.pad(images, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    views = np.lib.stride_tricks.sliding_window_view(padded, images.shape[1:3], axis=(1, 2))
    rows, columns = rng.integers(0, 2 * reach + 1, (2, len(images)))
    return np.moveaxis(views[np.arange(len(images)), rows, columns], 1, -1)


def mean_of(metrics: list[dict[str, jax.Array]]) -> dict[str, float]:
    """The mean of each metric over the steps."""
    return {name: float(np.mean([float(m[name]) for m in metrics])) for name in metrics[0]}


# ------------------------------------------------------------------------------------------
# What is trained, and on what
# ------------------------------------------------------------------------------------------


def load_data(seed: int) -> Data:
    """The digits, scaled up and split."""
    digits = load_digits()
    small = jnp.asarray(digits.images[..., None] / 16, jnp.float32)  # grey levels 0 … 16
    images = np.asarray(resize(small, IMAGE_SIZE))
    labels = digits.target.astype(np.int32)
    return Data(
        *train_test_split(images, labels, test_size=TEST_SHARE, random_state=seed, stratify=labels)
    )


def make_task(name: str) -> Task:
    """The model of this name, with its loss and its measure of success."""
    if name == "autoencoder":
        pixels = math.prod(IMAGE_SIZE)
        return Task(
            models.autoencoder(),
            lambda y, t: half_squared_error(y, t, axis=(-3, -2, -1)),
            "half squared error per image",
            lambda images, labels: images,
            ("mean_squared_error", lambda metrics: 2 * metrics["loss"] / pixels),
        )
    return Task(
        models.lenet5(CLASSES) if name == "lenet5" else models.textbook(CLASSES),
        softmax_cross_entropy,
        "cross-entropy",
        lambda images, labels: labels,
        ("accuracy", lambda metrics: metrics["accuracy"]),
    )


def check_options(config: Config) -> None:
    """Raises a UsageError for numbers that no training set could make sense of."""
    if config.epochs < 1:
        raise UsageError(f"--epochs: got {config.epochs}; it must be at least 1")
    if config.batch_size < 1:
        raise UsageError(f"--batch-size: got {config.batch_size}; it must be at least 1")
    if not (math.isfinite(config.learning_rate) and config.learning_rate > 0):
        raise UsageError(
            f"--learning-rate: got {config.learning_rate}; it must be finite and greater than 0"
        )
    if not 0 <= config.seed < 2**32:
        raise UsageError(f"--seed: got {config.seed}; it must be from 0 to {2**32 - 1}")


# ------------------------------------------------------------------------------------------
# What is reported
# ------------------------------------------------------------------------------------------


def record(
    task: Task, epoch: int, train_metrics: dict[str, float], test_metrics: dict[str, float]
) -> dict[str, float]:
    """One line of metrics.jsonl. Figures of training are means over the epoch's steps."""
    measure, from_metrics = task.measure
    return {
        "epoch": epoch,
        "train_loss": train_metrics["loss"],
        f"train_{measure}": from_metrics(train_metrics),
        "test_loss": test_metrics["loss"],
        f"test_{measure}": from_metrics(test_metrics),
        "grad_norm": train_metrics["grad_norm"],
    }


def summary(task: Task, line: dict[str, float]) -> str:
    """The figures of one epoch in words."""
    measure, _ = task.measure
    parts = []
    for part in ("train", "test"):
        figure = line[f"{part}_{measure}"]
        shown = f"{figure:.2%}" if measure == "accuracy" else f"{figure:.5f}"
        parts.append(f"{part} loss {line[f'{part}_loss']:.4f}, {measure.replace('_', ' ')} {shown}")
    return "; ".join(parts)


def describe(config: Config, folder: Path, data: Data, parameters: int) -> dict[str, Any]:
    """The contents of config.json."""
    return {
        **dataclasses.asdict(config),
        "out": str(folder),
        "train_images": len(data.train_images),
        "test_images": len(data.test_images),
        "input_shape": list(data.train_images.shape[1:]),
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


# ------------------------------------------------------------------------------------------
# Files: each is written under another name and then moved into place
# ------------------------------------------------------------------------------------------


def make_folder(config: Config) -> Path:
    """Makes the run's folder, which must not hold anything yet."""
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    folder = config.out or Path("runs") / f"{config.model}-{now}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        occupied = any(folder.iterdir())
    except OSError as error:
        raise UsageError(
            f"--out: got {folder}, which cannot be used as a folder: {error.strerror}"
        ) from error
    if occupied:
        raise UsageError(f"--out: got {folder}, which is not empty; name a new or empty folder")
    return folder


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file in one move, so that none is ever seen half-written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_lines(path: Path, lines: Iterator[str]) -> None:
    """Writes a text file."""
    write_bytes(path, "".join(f"{line}\n" for line in lines).encode())


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON file for people to read."""
    write_lines(path, iter([json.dumps(content, indent=2)]))


def save_params(path: Path, params: Any) -> None:
    """Writes a tree of arrays, each under the names of its path joined by slashes."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    arrays: dict[str, Any] = {
        jax.tree_util.keystr(names, simple=True, separator="/"): np.asarray(leaf)
        for names, leaf in leaves
    }
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_bytes(path, buffer.getvalue())


def save_figure(path: Path, figure: Any) -> None:
    """Writes a figure as a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    plt.close(figure)
    write_bytes(path, buffer.getvalue())


# ------------------------------------------------------------------------------------------
# Pictures
# ------------------------------------------------------------------------------------------

STYLE: Any = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "font.size": 10,
    "grid.color": "0.9",
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}
LINES = {"train": ("training, shifted images", "#888888"), "test": ("test", "#0b62a4")}


def plot_curves(path: Path, history: list[dict[str, float]], model: str, task: Task) -> None:
    """Draws the loss, and the accuracy where there is one, over the epochs."""
    panels = {"loss": task.loss_name}
    if task.measure[0] == "accuracy":
        panels["accuracy"] = "accuracy"
    epochs = [line["epoch"] for line in history]
    with plt.rc_context(STYLE):
        figure, rows = plt.subplots(1, len(panels), figsize=(4.5 * len(panels), 3.2), squeeze=False)
        for axes, (metric, title) in zip(rows[0], panels.items(), strict=True):
            for part, (label, colour) in LINES.items():
                values = [line[f"{part}_{metric}"] for line in history]
                axes.plot(epochs, values, color=colour, marker=".", label=label)
            axes.set_title(f"{model}: {title}")
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.legend()
            if metric == "loss":
                axes.set_yscale("log")
            else:
                axes.yaxis.set_major_formatter(PercentFormatter(1.0))
                if max(values) > 0.95:  # the last percents are what there is to see
                    axes.set_ylim(0.9, 1.003)
        save_figure(path, figure)


def plot_reconstructions(path: Path, model: Model, state: train.TrainState, data: Data) -> None:
    """Draws a test image of each class above its reconstruction."""
    first = [int(np.argmax(data.test_labels == label)) for label in range(CLASSES)]
    images = data.test_images[first]
    reconstructions, _ = model.apply(state.params, state.state, jnp.asarray(images), train=False)
    with plt.rc_context({**STYLE, "axes.grid": False}):
        figure, rows = plt.subplots(2, CLASSES, figsize=(9, 2.1))
        for row, title, pictures in zip(
            rows, ("input", "output"), (images, np.asarray(reconstructions)), strict=True
        ):
            for axes, picture in zip(row, pictures, strict=True):
                axes.imshow(picture[..., 0], cmap="gray_r", vmin=0, vmax=1)
                axes.set_xticks([])
                axes.set_yticks([])
                axes.spines[:].set_visible(False)
            row[0].set_ylabel(title)
        save_figure(path, figure)


if __name__ == "__main__":
    main()
