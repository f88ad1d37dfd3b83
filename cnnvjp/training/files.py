"""A run's folder, and files that are whole or not there.

    config.json      the options as they were resolved, statistics, sizes and versions
    metrics.jsonl    a line per epoch
    checkpoints/     the last ones and that of the best epoch, each a folder named by its update
    tensorboard/     the metrics for TensorBoard
    params.npz       the trained parameters, by names such as "conv1/w"
    *.png            pictures

Each file is written under another name and then moved into place, and so are checkpoints. Only
TensorBoard's, which are made to be appended to, grow where they are.
"""

import contextlib
import datetime
import io
import json
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import chex
import jax
import numpy as np

from cnnvjp.training.errors import UsageError

TEMPORARY = ".writing"


def choose_folder(out: Path | None, model: str) -> Path:
    """Chooses the folder of a new run.

    Args:
        out: the folder that the options name; None for runs/MODEL-TIMESTAMP.
        model: the network's name.

    Returns:
        The folder, which is not made yet.

    Raises:
        UsageError: if the folder holds anything already.
    """
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    folder = out or Path("runs") / f"{model}-{now}"
    try:
        names = [path.name for path in folder.iterdir()] if folder.exists() else []
    except OSError as error:
        raise _unusable(folder, error) from error
    if not all(name.endswith(TEMPORARY) for name in names):
        raise UsageError(
            f"--out: got {folder}, which is not empty; name a new or empty folder, or go on with "
            f"the run that is there by --resume {folder}"
        )
    return folder


def make_folder(folder: Path) -> None:
    """Makes a run's folder, or removes from it the files that a killed run left half-written.

    Args:
        folder: the run's.

    Raises:
        UsageError: if it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(folder, error) from error
    for path in folder.glob(f".*{TEMPORARY}"):
        path.unlink(missing_ok=True)


def _unusable(folder: Path, error: OSError) -> UsageError:
    return UsageError(f"--out: got {folder}, which cannot be used as a folder: {error.strerror}")


def read_config(folder: Path) -> dict[str, Any]:
    """Reads a run's config.json.

    Args:
        folder: the run's.

    Returns:
        Its contents.

    Raises:
        UsageError: if the folder holds no run.
    """
    try:
        return json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder}: is not the folder of a run: {error}") from error


def epochs_done(folder: Path) -> int:
    """The number of epochs that a run has completed.

    Args:
        folder: the run's, which need not exist.

    Returns:
        The number of lines of metrics.jsonl.
    """
    path = folder / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file under another name and moves it into place, so that it is always whole.

    Args:
        path: the file, which is replaced if it exists.
        content: the bytes.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Writes a text file.

    Args:
        path: the file.
        lines: its lines, without line ends.
    """
    write_bytes(path, "".join(f"{line}\n" for line in lines).encode())


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON file for people to read.

    Args:
        path: the file.
        content: values by name.
    """
    write_lines(path, [json.dumps(content, indent=2, ensure_ascii=False)])


def save_params(path: Path, params: chex.ArrayTree) -> None:
    """Writes a tree of arrays as a file that `numpy.load` reads.

    Args:
        path: the file.
        params: the tree; each array is written under its keys joined by slashes, "conv1/w".
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    arrays: dict[str, np.ndarray] = {
        jax.tree_util.keystr(names, simple=True, separator="/"): np.asarray(leaf)
        for names, leaf in leaves
    }
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    write_bytes(path, buffer.getvalue())


@contextlib.contextmanager
def only_errors_logged() -> Iterator[None]:
    """Silences the information and the warnings of libraries that log by absl."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
