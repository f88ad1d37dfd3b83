"""Reports of a run: lines on standard output, metrics.jsonl, and events for TensorBoard."""

import json
import sys
import time
from pathlib import Path

import tqdm
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from cnnvjp._output import to_output
from cnnvjp.training.data import DataSet
from cnnvjp.training.devices import first_process
from cnnvjp.training.files import storing, write_lines
from cnnvjp.training.tasks import Task


def say(line: str) -> None:
    """Prints a line, once for all processes.

    Args:
        line: the text, without a line end.

    Raises:
        OutputError: if standard output cannot be written.
    """
    if first_process():
        with to_output():
            tqdm.tqdm.write(line, file=sys.stdout)  # above the bar, where there is one


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

        Raises:
            StorageError: if it cannot be written.
        """
        self._folder = folder / "tensorboard"
        self._writer: EventsWriter | None = None
        if first_process():
            with storing(self._folder):
                self._folder.mkdir(exist_ok=True)
                number = len(list(self._folder.iterdir()))  # its name tells no more than the second
                self._writer = EventsWriter(str(self._folder / "events"), f".{number}")
                start = SessionLog(status=SessionLog.START)
                self._writer.write_event(Event(step=epochs + 1, session_log=start))
                self._writer.flush()

    def __enter__(self) -> "Board":
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            with storing(self._folder):
                self._writer.close()

    def write(self, line: dict[str, float]) -> None:
        """Adds the metrics of an epoch.

        Args:
            line: the metrics by name.

        Raises:
            StorageError: if they cannot be written.
        """
        if self._writer is None:
            return
        with storing(self._folder):
            for name, value in line.items():
                if name != "epoch":
                    part, _, rest = name.partition("_")
                    tag = f"{rest}/{part}" if part in ("train", "validation", "test") else name
                    summary = scalar(tag, value)
                    step = int(line["epoch"])
                    event = Event(wall_time=time.time(), step=step, summary=summary)
                    self._writer.write_event(event)
            self._writer.flush()
