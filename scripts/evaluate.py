"""Measures a trained network on images, and says what it takes them for.

python scripts/evaluate.py runs/lenet5-20261121-193000
python scripts/evaluate.py runs/lenet5-20261121-193000 --best --predictions test.csv
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import jax.numpy as jnp
import numpy as np
import tyro
from training_config import UsageError
from training_data import DataSet, load
from training_files import write_lines
from training_runs import Run, load_run, raw_outputs
from training_tasks import measured


@dataclasses.dataclass(frozen=True)
class Config:
    """Measures a trained network on images."""

    folder: Annotated[Path, tyro.conf.Positional]
    """The folder of a run of train.py."""
    part: Literal["test", "validation", "train"] = "test"
    """Which images."""
    best: bool = False
    """The parameters after the best epoch, instead of the last ones."""
    data_dir: Path | None = None
    """Where the files of the data set are, if they are elsewhere now."""
    predictions: Path | None = None
    """A CSV file to write: of each image its label, what it is taken for, and how surely."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the script with the given command line."""
    config = tyro.cli(Config, args=arguments, prog="evaluate.py")
    try:
        evaluate(config)
    except UsageError as error:
        print(f"evaluate.py: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def evaluate(config: Config) -> None:
    """Prints the figures, and writes the predictions where they're asked for."""
    run = load_run(config.folder, best=config.best)
    options = run.config
    if config.predictions is not None and not run.task.classifies:
        raise UsageError("--predictions: the network doesn't classify")
    data = load(
        options.data,
        config.data_dir or options.data_dir,
        validation=options.validation,
        seed=options.seed,
    )
    if config.part not in data.parts:
        raise UsageError(f"--part: got {config.part}; the run has {', '.join(data.parts)}")
    images, labels = data.parts[config.part]
    outputs = raw_outputs(run, images)
    print(f"{options.model}, after {run.update} steps, on {len(images)} {config.part} images")
    for name, value in measured(run.task, outputs, images, labels).items():
        shown = f"{value:.2%}" if name == "accuracy" else f"{value:.5f}"
        print(f"{name.replace('_', ' ')}: {shown}")
    if not run.task.classifies:
        return
    guesses = np.argmax(outputs, -1)
    for label, name in enumerate(data.classes):
        of_class = labels == label
        right = np.count_nonzero(guesses[of_class] == label)
        print(f"    {name:12} {right:5} of {np.count_nonzero(of_class)}")
    if config.predictions is not None:
        write_predictions(config.predictions, run, data, labels, outputs)
        print(f"predictions in {config.predictions}")


def write_predictions(
    path: Path, run: Run, data: DataSet, labels: np.ndarray, outputs: np.ndarray
) -> None:
    """Writes the CSV file of the predictions."""
    probabilities = np.asarray(run.task.prediction(jnp.asarray(outputs)))
    guesses = np.argmax(probabilities, -1)
    lines = ["image,label,prediction,probability"]
    for index, (label, guess) in enumerate(zip(labels, guesses, strict=True)):
        sureness = probabilities[index, guess]
        lines.append(f"{index},{data.classes[label]},{data.classes[guess]},{sureness:.4f}")
    write_lines(path, lines)


if __name__ == "__main__":
    main()
