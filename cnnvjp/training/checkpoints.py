"""Checkpoints: those of the last epochs and of the best one, each whole or not there."""

import concurrent.futures
import contextlib
import logging
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from chex import ArrayTree

from cnnvjp.training.files import only_errors_logged, reserve, storing

REMOVED = ".removed"
OVERHEAD = 2**18  # bytes of a checkpoint beside its arrays, roughly


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

    Each has three items: "model", the parameters and the model's state; "optimizer", the rest of
    the train state; and "progress", the rest of what a run resumes from, in JSON.
    """

    def __init__(self, folder: Path, *, keep: int = 1, read_only: bool = False) -> None:
        """Opens the checkpoints of the run in a folder, and removes those half-written.

        Args:
            folder: the run's.
            keep: how many of the last to keep, beside that of the best epoch.
            read_only: whether they are only to be read.
        """
        self._preserved = _LastAndBest(keep)
        self._folder = folder / "checkpoints"
        self._removed = self._folder / REMOVED
        self._watch = concurrent.futures.ThreadPoolExecutor(1)
        self._saved: concurrent.futures.Future[None] | None = None
        if not read_only:
            self._empty()
        with storing(self._folder), only_errors_logged():  # that what is only read is read-only
            options = ocp.CheckpointManagerOptions(
                preservation_policy=self._preserved,
                create=not read_only,
                read_only=read_only,
                cleanup_tmp_directories=not read_only,
                # Moved aside at once, and then removed: a checkpoint is never there by halves.
                todelete_subdir=None if read_only else REMOVED,
            )
            self._manager = ocp.CheckpointManager(
                self._folder.absolute(),
                options=options,
                item_names=("model", "optimizer", "progress"),
            )

    def latest(self) -> int | None:
        """The updates of the last checkpoint; None if there is none."""
        return self._manager.latest_step()

    def save(
        self,
        update: int,
        best: int,
        model: ArrayTree,
        optimizer: ArrayTree,
        progress: dict[str, Any],
    ) -> None:
        """Saves a checkpoint, in the background, and then removes those that aren't kept.

        Args:
            update: the updates until now.
            best: those until the end of the best epoch.
            model: arrays.
            optimizer: arrays.
            progress: values that go into JSON.

        Raises:
            StorageError: if this or the one before cannot be written.
        """
        items = ocp.args.Composite(
            model=ocp.args.StandardSave(model),
            optimizer=ocp.args.StandardSave(optimizer),
            progress=ocp.args.JsonSave(progress),
        )
        if self._saved is not None:
            self._saved.result()  # the one before, by what was the best then
        self._preserved.best = best
        self._empty()
        if jax.process_index() == 0:
            # On a full disk each of Orbax's threads would print a traceback: check for room first.
            arrays = sum(leaf.nbytes for leaf in jax.tree.leaves((model, optimizer)))
            reserve(self._folder, arrays + OVERHEAD)
        with self._writing():
            self._manager.save(update, args=items, force=True)
        self._saved = self._watch.submit(self._wait)

    def check(self) -> None:
        """Raises the error of the last checkpoint, if it has failed in the background.

        Raises:
            StorageError: if it could not.
        """
        if self._saved is not None and self._saved.done():
            self._saved.result()

    def restore(self, update: int, **like: ArrayTree) -> dict[str, Any]:
        """Restores items of a checkpoint.

        Args:
            update: which checkpoint.
            **like: for each item of arrays a tree of `jax.ShapeDtypeStruct` with shardings.
                "progress" is restored with it.

        Returns:
            The items by name.
        """
        items = {name: ocp.args.StandardRestore(tree) for name, tree in like.items()}
        restored = self._manager.restore(
            update, args=ocp.args.Composite(**items, progress=ocp.args.JsonRestore())
        )
        return {name: restored[name] for name in (*like, "progress")}

    def close(self) -> None:
        """Waits until the last checkpoint is saved.

        Raises:
            StorageError: if it could not be.
        """
        self._watch.shutdown()
        with self._writing():
            self._manager.close()
        self._empty()

    def _wait(self) -> None:
        with self._writing():
            self._manager.wait_until_finished()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns errors of the disk into a StorageError, and silences Orbax's log of them."""
        with storing(self._folder), only_errors_logged(logging.CRITICAL):
            yield

    def _empty(self) -> None:
        """Removes what was moved aside, by the process that does so."""
        if jax.process_index() == 0:
            shutil.rmtree(self._removed, ignore_errors=True)
