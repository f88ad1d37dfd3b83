"""The command lines of `scripts/`: options, errors in one line, and exit statuses."""

import dataclasses
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import numpy as np
import tyro

from cnnvjp._output import OutputError, command, leave, leave_unprinted, put, to_output
from cnnvjp.training.config import Config, saved_config
from cnnvjp.training.errors import StoppedError, StorageError, UsageError
from cnnvjp.training.evaluation import evaluate, write_predictions
from cnnvjp.training.export import PLATFORMS, export_network
from cnnvjp.training.files import write_bytes
from cnnvjp.training.loop import train_network
from cnnvjp.training.picture_files import read_picture
from cnnvjp.training.reports import shown_figure
from cnnvjp.training.runs import Run, load_run, predict

Options = TypeVar("Options")


@dataclasses.dataclass(frozen=True)
class EvaluateOptions:
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
    pictures: tuple[Path, ...] = ()
    """Files of pictures to classify instead, stretched to the network's size; what is transparent
    lies on black."""


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """Writes a trained network as one file."""

    folder: Annotated[Path, tyro.conf.Positional]
    """The folder of a run of train.py."""
    out: Path | None = None
    """The file. By default network.jax in that folder."""
    best: bool = False
    """The parameters after the best epoch, instead of the last ones."""


def train_main(arguments: Sequence[str] | None = None, *, program: str = "train.py") -> None:
    """Trains a network as a command line says.

    Args:
        arguments: the command line; by default the process's.
        program: the program's name, in the usage text and in errors.

    Raises:
        SystemExit: with status 2 for options that cannot be used, 1 for a loss that is no longer
            finite or a file or output that cannot be written, and 128 + N for signal N, each after
            a line on standard error. Only if nobody reads standard output any more, status 141, is
            there none; the run's checkpoint is saved.
    """
    with command(program):
        try:
            config = parsed(Config, arguments, program)
            if config.resume is not None:
                before = saved_config(config.resume)
                config = parsed(Config, arguments, program, before)
            train_network(config)
        except UsageError as error:
            leave(program, 2, str(error))
        except FloatingPointError as error:
            leave(program, 1, str(error))
        except StoppedError as error:
            message = f"{error}; go on with {program} --resume {error.folder}"
            end = leave_unprinted if isinstance(error.__cause__, OutputError) else leave
            end(program, error.status, message)
        except KeyboardInterrupt:
            leave(program, 128 + signal.SIGINT, "interrupted; what had not been saved is lost")


def parsed(
    options: type[Options],
    arguments: Sequence[str] | None,
    program: str,
    default: Options | None = None,
) -> Options:
    """Reads a command line.

    Args:
        options: the dataclass of the options.
        arguments: the command line; None for the process's.
        program: the program's name.
        default: what holds where the command line says nothing.

    Returns:
        The options.

    Raises:
        SystemExit: if the command line asks for help or cannot be read.
    """
    with to_output():
        if default is None:
            return tyro.cli(options, args=arguments, prog=program)
        return tyro.cli(options, args=arguments, prog=program, default=default)


def evaluate_main(arguments: Sequence[str] | None = None, *, program: str = "evaluate.py") -> None:
    """Evaluates a trained network as a command line says.

    Args:
        arguments: the command line; by default the process's.
        program: the program's name, in the usage text and in errors.

    Raises:
        SystemExit: with status 2 for options that cannot be used, and 1 for a file or output that
            cannot be written, after a line on standard error; with 141 if nobody reads the output.
    """
    with command(program):
        options = parsed(EvaluateOptions, arguments, program)
        try:
            _evaluate(options)
        except UsageError as error:
            leave(program, 2, str(error))
        except StorageError as error:
            leave(program, 1, str(error))


def _evaluate(options: EvaluateOptions) -> None:
    """Writes the predictions if the options ask for them, and prints the figures."""
    run = load_run(options.folder, best=options.best)
    if options.predictions is not None and not run.task.classifies:
        raise UsageError("--predictions: the network doesn't classify")
    if options.pictures:
        put("\n".join(_classified(run, options)))
        return
    evaluation = evaluate(run, options.part, data_dir=options.data_dir)
    count = len(evaluation.part.images)
    lines = [f"{run.config.model}, after {run.update} steps, on {count} {options.part} images"]
    for name, value in evaluation.figures.items():
        lines.append(f"{name.replace('_', ' ')}: {shown_figure(name, value)}")
    if run.task.classifies:
        for name, (right, total) in evaluation.right().items():
            lines.append(f"    {name:12} {right:5} of {total}")
    if options.predictions is not None:
        write_predictions(options.predictions, run, evaluation)
        lines.append(f"predictions in {options.predictions}")
    put("\n".join(lines))


def _classified(run: Run, options: EvaluateOptions) -> list[str]:
    """What a classifier takes pictures for: a line for each."""
    if not run.task.classifies:
        raise UsageError("--pictures: the network doesn't classify")
    if options.predictions is not None:
        raise UsageError("--predictions: is for the images of the data set, not for --pictures")
    height, width, channels = run.about["input_shape"]
    shape = (height, width, channels)
    images = np.stack([read_picture(path, shape) for path in options.pictures])
    classes, lines = run.about["classes"], []
    for path, chances in zip(options.pictures, predict(run, images), strict=True):
        guess = int(np.argmax(chances))
        lines.append(f"{path}: {classes[guess]}, {chances[guess]:.2%}")
    return lines


def export_main(arguments: Sequence[str] | None = None, *, program: str = "export.py") -> None:
    """Exports a trained network as a command line says.

    Args:
        arguments: the command line; by default the process's.
        program: the program's name, in the usage text and in errors.

    Raises:
        SystemExit: with status 2 for options that cannot be used, and 1 for a file or output that
            cannot be written, after a line on standard error; with 141 if nobody reads the output.
        RuntimeError: if the exported network's results differ from the network's.
    """
    with command(program):
        options = parsed(ExportOptions, arguments, program)
        path = options.out or options.folder / "network.jax"
        try:
            content, difference = export_network(load_run(options.folder, best=options.best))
            write_bytes(path, bytes(content))
        except UsageError as error:
            leave(program, 2, str(error))
        except StorageError as error:
            leave(program, 1, str(error))
        put(
            f"{path}: {len(content):,} bytes, for {', '.join(PLATFORMS)}; its results differ from "
            f"the network's by at most {difference:.1g}"
        )
