"""The exceptions with which a run tells its user what to do."""

from pathlib import Path


class UsageError(Exception):
    """An option, or a file that one names, which cannot be used; the message says what would do."""


class StorageError(Exception):
    """A file cannot be written, such as on a full disk.

    Attributes:
        reason: what the system says of it.
    """

    def __init__(self, path: Path, reason: str) -> None:
        """Names the file and the reason."""
        super().__init__(f"{path}: cannot be written: {reason}")
        self.reason = reason


class StoppedError(Exception):
    """The run was stopped, by a signal or for want of room; it can be resumed.

    Attributes:
        status: the exit status of a program that ends for it: 128 + N for signal N, or 1.
        folder: the folder of the run, to resume it.
    """

    def __init__(self, status: int, folder: Path, message: str) -> None:
        """Keeps the status and the run's folder beside the message."""
        super().__init__(message)
        self.status = status
        self.folder = folder
