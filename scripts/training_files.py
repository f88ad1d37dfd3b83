"""A run's folder: files that are whole or not there, and checkpoints.

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
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from training_config import Config, UsageError

TEMPORARY = ".writing"
REMOVED = ".removed"


def choose_folder(config: Config) -> Path:
    """The folder of a new run, which must not hold anything yet."""
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    folder = config.out or Path("runs") / f"{config.model}-{now}"
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
    """Makes a run's folder, or removes from it what a run that was killed had begun to write."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(folder, error) from error
    for path in folder.glob(f".*{TEMPORARY}"):
        path.unlink(missing_ok=True)


def _unusable(folder: Path, error: OSError) -> UsageError:
    return UsageError(f"--out: got {folder}, which cannot be used as a folder: {error.strerror}")


def read_config(folder: Path) -> dict[str, Any]:
    """The contents of a run's config.json."""
    try:
        return json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder}: is not the folder of a run: {error}") from error


def epochs_done(folder: Path) -> int:
    """How many epochs a run has been through."""
    path = folder / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file in one move, so that none is ever seen half-written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Writes a text file."""
    write_bytes(path, "".join(f"{line}\n" for line in lines).encode())


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON file for people to read."""
    write_lines(path, [json.dumps(content, indent=2, ensure_ascii=False)])


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


@contextlib.contextmanager
def only_errors_logged() -> Iterator[None]:
    """Keeps the libraries that log by absl from saying what they have been asked to do."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


class _LastAndBest:
    """Which checkpoints are kept, as orbax's preservation policies say it."""

    def __init__(self, keep: int) -> None:
        self.keep = keep
        self.best = 0

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Whether to keep each, from the oldest to the newest."""
        last = [checkpoint.step for checkpoint in checkpoints[-self.keep :]]
        return [c.step in last or c.step == self.best for c in checkpoints]


class Checkpoints:
    """The checkpoints of a run, by the number of updates after which each was saved.

    Each has three items: "model", the parameters and what else the model needs to run;
    "optimizer", the rest of the train state; and "progress", what else the run goes on from, in
    JSON.
    """

    def __init__(self, folder: Path, *, keep: int = 1, read_only: bool = False) -> None:
        """Opens the checkpoints of the run in a folder, and removes those half-written.

        Args:
            folder: the run's.
            keep: how many of the last to keep, beside that of the best epoch.
            read_only: whether they are only to be read.
        """
        self._preserved = _LastAndBest(keep)
        self._removed = folder / "checkpoints" / REMOVED
        if not read_only:
            self._empty()
        with only_errors_logged():  # that what is only read is read-only
            options = ocp.CheckpointManagerOptions(
                preservation_policy=self._preserved,
                create=not read_only,
                read_only=read_only,
                cleanup_tmp_directories=not read_only,
                # Moved aside at once, and then removed: a checkpoint is never there by halves.
                todelete_subdir=None if read_only else REMOVED,
            )
            self._manager = ocp.CheckpointManager(
                (folder / "checkpoints").absolute(),
                options=options,
                item_names=("model", "optimizer", "progress"),
            )

    def latest(self) -> int | None:
        """The updates of the last checkpoint; None where there is none."""
        return self._manager.latest_step()

    def save(
        self, update: int, best: int, model: Any, optimizer: Any, progress: dict[str, Any]
    ) -> None:
        """Saves a checkpoint, in the background, and then removes those that aren't kept.

        Args:
            update: the updates until now.
            best: those until the end of the best epoch.
            model: arrays.
            optimizer: arrays.
            progress: what goes into JSON.
        """
        items = ocp.args.Composite(
            model=ocp.args.StandardSave(model),
            optimizer=ocp.args.StandardSave(optimizer),
            progress=ocp.args.JsonSave(progress),
        )
        self._manager.wait_until_finished()  # the one before, by what was the best then
        self._preserved.best = best
        self._empty()
        self._manager.save(update, args=items, force=True)

    def restore(self, update: int, **like: Any) -> dict[str, Any]:
        """Items of a checkpoint, by name.

        Args:
            update: which checkpoint.
            **like: for each item of arrays a tree of `jax.ShapeDtypeStruct` with shardings.
                "progress" is restored with it.
        """
        items = {name: ocp.args.StandardRestore(tree) for name, tree in like.items()}
        restored = self._manager.restore(
            update, args=ocp.args.Composite(**items, progress=ocp.args.JsonRestore())
        )
        return {name: restored[name] for name in (*like, "progress")}

    def close(self) -> None:
        """Waits for what is being saved."""
        self._manager.close()
        self._empty()

    def _empty(self) -> None:
        """Removes what was moved aside, by the process that does so."""
        if jax.process_index() == 0:
            shutil.rmtree(self._removed, ignore_errors=True)
