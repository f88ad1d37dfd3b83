"""The pictures of a run."""

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import chex
import jax.numpy as jnp
import numpy as np
from matplotlib import colormaps, font_manager, rc_context, rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import (
    LogLocator,
    MaxNLocator,
    NullFormatter,
    PercentFormatter,
    StrMethodFormatter,
)

from cnnvjp.training.data import DataSet
from cnnvjp.training.files import write_bytes
from cnnvjp.training.formats import Part
from cnnvjp.training.tasks import Task

STYLE: Any = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "font.size": 10,
    "text.parse_math": False,  # a name may have a $ in it
    "grid.color": "0.9",
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}
LINES = {
    "train": ("training", "#888888"),
    "validation": ("validation", "#d95f02"),
    "test": ("test", "#0b62a4"),
}
Layers = Mapping[str, Mapping[str, chex.Array]]
SHOWN_MISTAKES = (4, 8)
UPRIGHT = ("normal", 400)  # style and weight of a font
LARGEST_KERNELS = 64  # kernels that are drawn, at most


def draw_results(
    folder: Path,
    task: Task,
    data: DataSet,
    history: list[dict[str, float]],
    params: Layers,
    outputs: np.ndarray,
) -> None:
    """Draws all pictures of a finished run.

    Args:
        folder: the run's; its name heads the pictures.
        task: what was trained.
        data: the images.
        history: the metrics of each epoch.
        params: the final parameters.
        outputs: the network's outputs for the test images.
    """
    families, (name, *classes) = drawable((folder.name, *data.classes))
    with rc_context({"font.family": families}):
        _draw(folder, name, tuple(classes), task, data.parts["test"], history, params, outputs)


def drawable(texts: Iterable[str]) -> tuple[list[str], list[str]]:
    r"""Finds fonts for texts such as 数字.

    Args:
        texts: what is to be drawn.

    Returns:
        The families of fonts that have its characters, the usual one first; and the texts, with
        "�" where no installed font has a character.

    Example:
        >>> drawable(["digits", "\U0010ffff"])[1]
        ['digits', '�']
    """
    texts = list(texts)
    families = list(rcParams["font.family"])
    usual = font_manager.findfont(font_manager.FontProperties(family=families))
    missing = set("".join(texts)) - {"\n"} - _characters(usual)
    fonts = font_manager.fontManager.ttflist if missing else []
    upright = {font.name: font.fname for font in fonts if (font.style, font.weight) == UPRIGHT}
    for family, path in sorted(upright.items()):
        # The last resort font draws every character as a box.
        if not family.startswith("Last Resort") and missing & _characters(path):
            families.append(family)
            missing -= _characters(path)
    return families, [text.translate(dict.fromkeys(map(ord, missing), "�")) for text in texts]


def _characters(path: str) -> set[str]:
    """The characters of the font in a file."""
    return set(map(chr, font_manager.get_font(path).get_charmap()))


def _draw(
    folder: Path,
    name: str,
    classes: tuple[str, ...],
    task: Task,
    test: Part,
    history: list[dict[str, float]],
    params: Layers,
    outputs: np.ndarray,
) -> None:
    """Draws all pictures, where name and classes can be drawn."""
    draw_curves(folder / "curves.png", name, task, history)
    draw_gradients(folder / "gradients.png", name, history)
    draw_kernels(folder / "kernels.png", name, params)
    if not task.classifies:
        draw_reconstructions(folder / "reconstructions.png", test.images, test.labels, outputs)
        return
    guesses = np.argmax(outputs, -1)
    draw_confusion(folder / "confusion.png", name, test.labels, guesses, classes)
    sureness = np.max(np.asarray(task.prediction(jnp.asarray(outputs))), -1)
    draw_mistakes(
        folder / "mistakes.png", name, test.images, test.labels, guesses, sureness, classes
    )


def draw_curves(path: Path, name: str, task: Task, history: list[dict[str, float]]) -> None:
    """Draws the loss, and the accuracy of a classifier, over the epochs.

    Args:
        path: the PNG file.
        name: of the run, for the title.
        task: what was trained.
        history: the metrics of each epoch, at least one.
    """
    panels = {"loss": task.loss_name}
    if task.classifies:
        panels["accuracy"] = "accuracy"
    epochs = [line["epoch"] for line in history]
    with rc_context(STYLE):
        figure = Figure((4.5 * len(panels), 3.2))
        rows = figure.subplots(1, len(panels), squeeze=False)
        for axes, (metric, title) in zip(rows[0], panels.items(), strict=True):
            largest = 0.0
            for part, (label, colour) in LINES.items():
                if f"{part}_{metric}" not in history[0]:
                    continue
                values = [line[f"{part}_{metric}"] for line in history]
                largest = max(largest, *values)
                axes.plot(epochs, values, color=colour, marker=".", label=label)
            axes.set_title(f"{name}: {title}")
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            # Not "best", which matplotlib warns of where it takes long.
            axes.legend(loc="upper right" if metric == "loss" else "lower right")
            if metric == "loss":
                logarithmic(axes)
            else:
                axes.yaxis.set_major_formatter(PercentFormatter(1.0))
                # The last percents are what there is to see, three times those that are missing.
                axes.set_ylim(max(0.0, min(0.9, 1 - 3 * (1 - largest))), 1.003)
        save_figure(path, figure)


def draw_gradients(path: Path, name: str, history: list[dict[str, float]]) -> None:
    """Draws the norm of each layer's gradient over the epochs, from blue to yellow.

    Args:
        path: the PNG file.
        name: of the run, for the title.
        history: the metrics of each epoch, at least one.
    """
    prefix = "grad_norm/"
    layers = sorted(
        (key.removeprefix(prefix) for key in history[0] if key.startswith(prefix)),
        key=lambda layer: int("".join(filter(str.isdigit, layer)) or 0),
    )
    epochs = [line["epoch"] for line in history]
    with rc_context(STYLE):
        colours = colormaps["viridis"](np.linspace(0, 0.92, len(layers)))
        figure = Figure((6.5, 3.6))
        axes = figure.subplots()
        for layer, colour in zip(layers, colours, strict=True):
            values = [line[f"{prefix}{layer}"] for line in history]
            axes.plot(epochs, values, color=colour, marker=".", label=layer)
        logarithmic(axes)
        axes.set_title(f"{name}: mean length of the gradient, by layer")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        columns = 1 + len(layers) // 15
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), ncols=columns, fontsize=8)
        save_figure(path, figure)


def draw_kernels(path: Path, name: str, params: Layers) -> None:
    """Draws the kernels of the first layer: in colour for colour images.

    Args:
        path: the PNG file.
        name: of the run, for the title.
        params: the parameters, of which ["conv1"]["w"] is drawn, (kh, kw, C, maps).
    """
    kernels = np.asarray(params["conv1"]["w"])[..., :LARGEST_KERNELS]  # (kh, kw, C, maps)
    colour = kernels.shape[2] == 3
    reach = float(np.abs(kernels).max())
    columns = min(8, kernels.shape[-1])
    rows = -(-kernels.shape[-1] // columns)
    with rc_context({**STYLE, "axes.grid": False}):
        figure = Figure((0.8 * columns + 1.2, 0.8 * rows + 0.5))
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        for axes, kernel in zip(grid.flat, np.moveaxis(kernels, -1, 0), strict=False):
            if colour:
                axes.imshow(0.5 + kernel / (2 * reach))
            else:
                axes.imshow(kernel.mean(-1), cmap="RdBu_r", vmin=-reach, vmax=reach)
        if not colour:
            figure.colorbar(grid.flat[0].images[0], ax=grid, shrink=0.8)
        figure.suptitle(f"{name}: kernels of the first layer", fontsize=11, x=0.02, ha="left")
        save_figure(path, figure)


def draw_confusion(
    path: Path, name: str, labels: np.ndarray, guesses: np.ndarray, classes: tuple[str, ...]
) -> None:
    """Draws how often each class was taken for each other one.

    Args:
        path: the PNG file.
        name: of the run, for the title.
        labels: int32, (N,).
        guesses: the predicted labels, (N,).
        classes: the names of the labels 0, 1, ….
    """
    counts = np.zeros((len(classes), len(classes)), int)
    np.add.at(counts, (labels, guesses), 1)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    with rc_context({**STYLE, "axes.grid": False}):
        figure = Figure((6.4, 5.4))
        axes = figure.subplots()
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for (row, column), count in np.ndenumerate(counts):
            if count:
                ink = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, str(count), color=ink, ha="center", va="center", fontsize=8)
        axes.set_xticks(range(len(classes)), classes)
        if max(map(len, classes)) > 2:
            for label in axes.get_xticklabels():
                label.set(rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(classes)), classes)
        axes.set_xlabel("taken for")
        axes.set_ylabel("is")
        right = np.trace(counts) / counts.sum()
        axes.set_title(f"{name}: test images, {right:.2%} right")
        save_figure(path, figure)


def draw_mistakes(
    path: Path,
    name: str,
    images: np.ndarray,
    labels: np.ndarray,
    guesses: np.ndarray,
    sureness: np.ndarray,
    classes: tuple[str, ...],
) -> None:
    """Draws the misclassified test images, the most probable mistakes first.

    Args:
        path: the PNG file.
        name: of the run, for the title.
        images: uint8, (N, height, width, C).
        labels: int32, (N,).
        guesses: the predicted labels, (N,).
        sureness: the probabilities of the predicted labels, (N,).
        classes: the names of the labels 0, 1, ….
    """
    wrong = np.flatnonzero(guesses != labels)
    shown = wrong[np.argsort(-sureness[wrong], kind="stable")]
    with rc_context({**STYLE, "axes.grid": False}):
        rows, columns = SHOWN_MISTAKES
        rows = min(rows, max(1, -(-len(shown) // columns)))
        figure = Figure((9, 1.45 * rows + 0.4))
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        for axes, index in zip(grid.flat, shown, strict=False):
            draw_image(axes, images[index])
            taken = f"{classes[guesses[index]]} {sureness[index]:.0%}"
            axes.set_title(f"{taken}\nis {classes[labels[index]]}", fontsize=7, loc="center")
        figure.suptitle(
            f"{name}: {len(wrong)} of {len(images)} test images mistaken",
            fontsize=11,
            x=0.02,
            ha="left",
        )
        save_figure(path, figure)


def draw_reconstructions(
    path: Path, images: np.ndarray, labels: np.ndarray, outputs: np.ndarray
) -> None:
    """Draws a test image of each class above its reconstruction.

    Args:
        path: the PNG file.
        images: uint8, (N, height, width, C).
        labels: int32, (N,).
        outputs: the reconstructions, whose white is 1, (N, height, width, C).
    """
    first = [int(np.argmax(labels == label)) for label in np.unique(labels)]
    with rc_context({**STYLE, "axes.grid": False}):
        figure = Figure((9, 2.1))
        rows = figure.subplots(2, len(first), squeeze=False)
        for row, title, pictures in zip(
            rows, ("input", "output"), (images[first] / 255, outputs[first]), strict=True
        ):
            for axes, picture in zip(row, pictures, strict=True):
                draw_image(axes, picture)
                axes.set_xticks([])
                axes.set_yticks([])
                axes.spines[:].set_visible(False)
            row[0].set_ylabel(title)
        save_figure(path, figure)


def draw_image(axes: Axes, image: np.ndarray) -> None:
    """Draws one image, bytes or floats whose white is 1; one of grey levels as ink on paper."""
    if image.dtype == np.uint8:
        image = image / 255
    if image.shape[-1] == 3:
        axes.imshow(np.clip(image, 0, 1))
    else:
        axes.imshow(image[..., 0], cmap="gray_r", vmin=0, vmax=1)


def logarithmic(axes: Axes) -> None:
    """Makes the vertical axis logarithmic, with plain numbers on it also within a decade."""
    low, high = axes.get_ylim()
    axes.set_yscale("log")
    steps = (1.0,) if high > 100 * max(low, high / 1e9) else (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
    axes.yaxis.set_major_locator(LogLocator(subs=steps))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def save_figure(path: Path, figure: Figure) -> None:
    """Writes a figure as a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    write_bytes(path, buffer.getvalue())
