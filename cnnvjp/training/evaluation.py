"""Evaluation: the figures of a trained network on a part of its data set, and its predictions."""

from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from cnnvjp.training.data import load_data
from cnnvjp.training.errors import UsageError
from cnnvjp.training.files import write_lines
from cnnvjp.training.formats import Part
from cnnvjp.training.runs import Run, raw_outputs
from cnnvjp.training.tasks import measured


class Evaluation(NamedTuple):
    """The figures of a network on images.

    Attributes:
        part: the images and their labels.
        classes: the names of the labels 0, 1, ….
        outputs: the network's outputs: of a classifier, logits.
        figures: means over the images by name: "loss", and "accuracy" or "mean_squared_error".
    """

    part: Part
    classes: tuple[str, ...]
    outputs: np.ndarray
    figures: dict[str, float]

    def right(self) -> dict[str, tuple[int, int]]:
        """Of each class, how many images a classifier recognised, and how many there are."""
        guesses, labels = np.argmax(self.outputs, -1), self.part.labels
        counts = {}
        for label, name in enumerate(self.classes):
            right = np.count_nonzero(guesses[labels == label] == label)
            counts[name] = int(right), int(np.count_nonzero(labels == label))
        return counts


def evaluate(run: Run, part: str = "test", *, data_dir: Path | None = None) -> Evaluation:
    """Evaluates a trained network on the images of its run.

    Args:
        run: the network, from `load_run`.
        part: "test", "train" or, if the run held out images for it, "validation".
        data_dir: the folder of the data set's files, if they are elsewhere now.

    Returns:
        Its figures, with the images and the outputs.

    Raises:
        UsageError: if the run has no such part, or the data set's files are not found.
    """
    options = run.config
    data = load_data(
        options.data,
        data_dir or options.data_dir,
        validation=options.validation,
        seed=options.seed,
    )
    if part not in data.parts:
        raise UsageError(f"--part: got {part}; the run has {', '.join(data.parts)}")
    chosen = data.parts[part]
    outputs = raw_outputs(run, chosen.images)
    return Evaluation(chosen, data.classes, outputs, measured(run.task, outputs, *chosen))


def write_predictions(path: Path, run: Run, evaluation: Evaluation) -> None:
    """Writes a CSV file with the label and the prediction of each image.

    Args:
        path: the file.
        run: a classifier.
        evaluation: its evaluation.
    """
    probabilities = np.asarray(run.task.prediction(jnp.asarray(evaluation.outputs)))
    guesses, classes = np.argmax(probabilities, -1), evaluation.classes
    lines = ["image,label,prediction,probability"]
    for index, (label, guess) in enumerate(zip(evaluation.part.labels, guesses, strict=True)):
        sureness = probabilities[index, guess]
        lines.append(f"{index},{classes[label]},{classes[guess]},{sureness:.4f}")
    write_lines(path, lines)
