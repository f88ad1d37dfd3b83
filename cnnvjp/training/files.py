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
import errno
import io
import json
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import chex
import jax
import numpy as np

from cnnvjp.training.errors import StorageError, UsageError

TEMPORARY = ".writing"
# Looked for in the messages of libraries that raise no OSError.
DISK_ERRORS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
)


def choose_folder(out: Path | None, model: str) -> Path:
    """Chooses the folder of a new run.

    Args:
        out: the folder that the options name; None for runs/MODEL-TIMESTAMP.
        model: the network's name.

    Returns:
        The folder, which is not made yet.

    Raises:
        UsageError: if the folder holds anything already, or cannot be used.
    """
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    folder = out or Path("runs") / f"{model}-{now}"
    check_name(folder)
    try:
        names = [path.name for path in folder.iterdir()] if folder.exists() else []
    except OSError as error:
        raise _unusable(folder, error.strerror) from error
    if not all(name.endswith(TEMPORARY) for name in names):
        raise UsageError(
            f"--out: got {folder}, which is not empty; name a new or empty folder, or go on with "
            f"the run that is there by --resume {folder}"
        )
    return folder


def check_name(folder: Path) -> None:
    """Checks that a folder's name is one that checkpoints can be saved under.

    Args:
        folder: the run's.

    Raises:
        UsageError: if it is not.
    """
    try:
        str(folder.absolute()).encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"{folder.absolute()}: cannot be the folder of a run, whose name must be valid UTF-8; "
            f"this program reads names as {sys.getfilesystemencoding()}"
        ) from error


def make_folder(folder: Path, about: dict[str, Any]) -> None:
    """Makes a run's folder, or removes from it the files that a killed run left half-written.

    Args:
        folder: the run's.
        about: the contents of config.json, which is written.

    Raises:
        UsageError: if the folder of a new run cannot be made and written; it is not left empty.
        StorageError: if that of an earlier run cannot be written.
    """
    before, resumes = folder.exists(), (folder / "config.json").exists()
    try:
        with storing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for path in folder.glob(f".*{TEMPORARY}"):
                path.unlink(missing_ok=True)
            write_json(folder / "config.json", about)
    except StorageError as error:
        if resumes:
            raise
        if not before:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise _unusable(folder, error.reason) from error


def _unusable(folder: Path, reason: str | None) -> UsageError:
    return UsageError(f"--out: got {folder}, which cannot be used as a folder: {reason}")


def read_config(folder: Path) -> dict[str, Any]:
    """Reads a run's config.json.

    Args:
        folder: the run's.

    Returns:
        Its contents.

    Raises:
        UsageError: if the folder holds no run.
    """
    check_name(folder)
    try:
        return json.loads((folder / "config.json").read_text("utf-8"))
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
    return len(path.read_text("utf-8").splitlines()) if path.exists() else 0


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file under another name and moves it into place, so that it is always whole.

    Args:
        path: the file, which is replaced if it exists.
        content: the bytes.

    Raises:
        StorageError: if the file cannot be written; an earlier one is as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    with storing(path):
        if path.exists() and not path.is_file():  # /dev/stdout, or a named pipe
            path.write_bytes(content)
            return
        try:
            temporary.write_bytes(content)
            temporary.replace(path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Writes a text file.

    Args:
        path: the file.
        lines: its lines, without line ends. Bytes of a path that are not UTF-8 are written as
            JSON escapes them.
    """
    write_bytes(path, "".join(f"{line}\n" for line in lines).encode(errors="backslashreplace"))


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


def reserve(folder: Path, size: int) -> None:
    """Makes sure that there is room for files, by making one of their size and removing it.

    Args:
        folder: where they will be.
        size: how many bytes.

    Raises:
        StorageError: if there is no room, or the folder cannot be written.
    """
    path = folder / f".room.{os.getpid()}{TEMPORARY}"
    with storing(folder):
        try:
            with path.open("wb") as file:
                if hasattr(os, "posix_fallocate"):  # not on macOS
                    os.posix_fallocate(file.fileno(), 0, size)
        finally:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def storing(path: Path) -> Iterator[None]:
    """Converts errors of the disk, and no others, to a StorageError.

    Args:
        path: the file or folder.
    """
    try:
        yield
    except StorageError:  # of a file within
        raise
    except Exception as error:
        reason = disk_error(error)
        if reason is None:
            raise
        raise StorageError(path, reason) from error


def disk_error(error: BaseException | None) -> str | None:
    """The system's message of a disk error, whichever exception carries it.

    Args:
        error: the error, with those that caused it.

    Returns:
        A text such as "No space left on device"; None if the error has another cause.

    Example:
        >>> disk_error(ValueError("Error writing data: No space left on device [28]"))
        'No space left on device'
    """
    while error is not None:
        if isinstance(error, OSError) and error.strerror:
            return error.strerror
        text = str(error)
        for reason in map(os.strerror, DISK_ERRORS):
            if reason in text:
                return reason
        error = error.__cause__ or error.__context__
    return None


@contextlib.contextmanager
def only_errors_logged(level: int = logging.ERROR) -> Iterator[None]:
    """Silences what libraries that log by absl say below a level."""
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)
