"""Reports of a run: lines on standard output, metrics.jsonl, and events for TensorBoard."""

import json
import sys
from pathlib import Path

import tqdm
from tensorboardX import SummaryWriter

from cnnvjp.training.data import DataSet
from cnnvjp.training.devices import first_process
from cnnvjp.training.files import write_lines
from cnnvjp.training.tasks import Task


def say(line: str) -> None:
    """Prints a line, once for all processes.

    Args:
        line: the text, without a line end.
    """
    if first_process():
        tqdm.tqdm.write(line, file=sys.stdout)  # above the bar, where there is one
        sys.stdout.flush()


def write_history(folder: Path, history: list[dict[str, float]]) -> None:
    """Writes metrics.jsonl.

    Args:
        folder: the run's.
        history: the metrics of each epoch.
    """
    if first_process():
        write_lines(folder / "metrics.jsonl", map(json.dumps, history))


def summary(task: Task, data: DataSet, line: dict[str, float]) -> str:
    """The figures of one epoch in words.

    Args:
        task: what is trained.
        data: the images.
        line: the metrics of the epoch.

    Returns:
        Loss and measure of each part, in one line.
    """
    parts = []
    for part in data.parts:
        shown = shown_figure(task.measure, line[f"{part}_{task.measure}"])
        name = task.measure.replace("_", " ")
        parts.append(f"{part} loss {line[f'{part}_loss']:.4f}, {name} {shown}")
    return "; ".join(parts)


def shown_figure(name: str, value: float) -> str:
    """A loss or a measure as text.

    Args:
        name: the name of the figure.
        value: its value.

    Returns:
        A percentage for an accuracy, a number otherwise.

    Example:
        >>> shown_figure("accuracy", 0.98125), shown_figure("loss", 0.98125)
        ('98.12%', '0.98125')
    """
    return f"{value:.2%}" if name == "accuracy" else f"{value:.5f}"


class Board:
    """The metrics for TensorBoard, in a new event file each time that the run is resumed."""

    def __init__(self, folder: Path, epochs: int) -> None:
        """Opens the event file.

        Args:
            folder: the run's.
            epochs: the number of completed epochs; what earlier files say of later ones is to be
                ignored.
        """
        self._writer = None
        if first_process():
            self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=epochs + 1)

    def __enter__(self) -> "Board":
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def write(self, line: dict[str, float]) -> None:
        """Adds the metrics of an epoch.

        Args:
            line: the metrics by name.
        """
        if self._writer is None:
            return
        for name, value in line.items():
            if name != "epoch":
                part, _, rest = name.partition("_")
                tag = f"{rest}/{part}" if part in ("train", "validation", "test") else name
                self._writer.add_scalar(tag, value, int(line["epoch"]))
        self._writer.flush()
