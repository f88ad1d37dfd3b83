"""The exceptions with which a run tells its user what to do."""

from pathlib import Path


class UsageError(Exception):
    """An option, or a file that one names, which cannot be used; the message says what would do."""


class StoppedError(Exception):
    """A signal stopped the run, whose checkpoint is saved.

    Attributes:
        number: the signal's number.
        folder: the folder of the run, to resume it.
    """

    def __init__(self, number: int, folder: Path, message: str) -> None:
        """Keeps the signal's number and the run's folder beside the message."""
        super().__init__(message)
        self.number = number
        self.folder = folder
