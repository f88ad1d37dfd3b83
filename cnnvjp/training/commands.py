"""The command lines of `scripts/`: options, errors in one line, and exit statuses."""

import dataclasses
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import tyro

from cnnvjp.training.config import Config, saved_config
from cnnvjp.training.errors import StoppedError, UsageError
from cnnvjp.training.evaluation import evaluate, write_predictions
from cnnvjp.training.export import PLATFORMS, export_network
from cnnvjp.training.files import write_bytes
from cnnvjp.training.loop import train_network
from cnnvjp.training.reports import shown_figure
from cnnvjp.training.runs import load_run


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
            finite, and 128 + N for signal N, each after a line on standard error.
    """
    try:
        config = tyro.cli(Config, args=arguments, prog=program)
        if config.resume is not None:
            before = saved_config(config.resume)
            config = tyro.cli(Config, args=arguments, prog=program, default=before)
        train_network(config)
    except UsageError as error:
        _leave(program, 2, str(error))
    except FloatingPointError as error:
        _leave(program, 1, str(error))
    except StoppedError as error:
        message = f"{error}; go on with {program} --resume {error.folder}"
        _leave(program, 128 + error.number, message)  # as shells say that a signal ended a process
    except KeyboardInterrupt:
        _leave(program, 128 + signal.SIGINT, "interrupted; what had not been saved is lost")


def evaluate_main(arguments: Sequence[str] | None = None, *, program: str = "evaluate.py") -> None:
    """Evaluates a trained network as a command line says.

    Args:
        arguments: the command line; by default the process's.
        program: the program's name, in the usage text and in errors.

    Raises:
        SystemExit: with status 2 for options that cannot be used, after a line on standard error.
    """
    options = tyro.cli(EvaluateOptions, args=arguments, prog=program)
    try:
        _evaluate(options)
    except UsageError as error:
        _leave(program, 2, str(error))


def _evaluate(options: EvaluateOptions) -> None:
    """Prints the figures, and writes the predictions if the options ask for them."""
    run = load_run(options.folder, best=options.best)
    if options.predictions is not None and not run.task.classifies:
        raise UsageError("--predictions: the network doesn't classify")
    evaluation = evaluate(run, options.part, data_dir=options.data_dir)
    count = len(evaluation.part.images)
    print(f"{run.config.model}, after {run.update} steps, on {count} {options.part} images")
    for name, value in evaluation.figures.items():
        print(f"{name.replace('_', ' ')}: {shown_figure(name, value)}")
    if not run.task.classifies:
        return
    for name, (right, total) in evaluation.right().items():
        print(f"    {name:12} {right:5} of {total}")
    if options.predictions is not None:
        write_predictions(options.predictions, run, evaluation)
        print(f"predictions in {options.predictions}")


def export_main(arguments: Sequence[str] | None = None, *, program: str = "export.py") -> None:
    """Exports a trained network as a command line says.

    Args:
        arguments: the command line; by default the process's.
        program: the program's name, in the usage text and in errors.

    Raises:
        SystemExit: with status 2 for options that cannot be used, after a line on standard error.
        RuntimeError: if the exported network's results differ from the network's.
    """
    options = tyro.cli(ExportOptions, args=arguments, prog=program)
    path = options.out or options.folder / "network.jax"
    try:
        content, difference = export_network(load_run(options.folder, best=options.best))
        write_bytes(path, bytes(content))
    except UsageError as error:
        _leave(program, 2, str(error))
    print(
        f"{path}: {len(content):,} bytes, for {', '.join(PLATFORMS)}; its results differ from the "
        f"network's by at most {difference:.1g}"
    )


def _leave(program: str, status: int, message: str) -> NoReturn:
    """Ends with an exit status and a line on standard error."""
    print(f"{program}: {message}", file=sys.stderr)
    raise SystemExit(status) from None
