"""Standard output of the command lines in `scripts/`, and how they end if it cannot be written.

If the reader of a pipe has closed it, as in `train.py | head -1`, the program ends silently with
status 141, which is what shells report of a program that SIGPIPE ended. If standard output cannot
be written for another reason, such as a full disk, the program ends with one line on standard error
and status 1. A stream that was closed before the program started, as by `>&-`, is replaced by the
null device.
"""

import contextlib
import io
import os
import signal
import sys
from collections.abc import Iterator
from typing import NoReturn


class OutputError(Exception):
    """Standard output cannot be written.

    Attributes:
        status: the exit status of a program that ends for it.
    """

    def __init__(self, error: OSError) -> None:
        """Says what the system says of it."""
        super().__init__(f"standard output cannot be written: {error.strerror}")
        self.status = 128 + signal.SIGPIPE if isinstance(error, BrokenPipeError) else 1


@contextlib.contextmanager
def to_output() -> Iterator[None]:
    """Flushes standard output at its end; a failure to write it raises an OutputError."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except OSError as error:
        raise OutputError(error) from error


def put(line: str) -> None:
    """Prints a line.

    Args:
        line: the text, without a line end.

    Raises:
        OutputError: if standard output cannot be written.
    """
    with to_output():
        print(line)


@contextlib.contextmanager
def command(program: str) -> Iterator[None]:
    """Ends a program as this module's docstring says; its whole main function belongs within.

    Args:
        program: its name, in errors.

    Raises:
        SystemExit: if standard output cannot be written.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            # For characters that the locale lacks, and bytes of a path that are not valid text.
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
    except OutputError as error:
        leave_unprinted(program, error.status, str(error))


def leave_unprinted(program: str, status: int, message: str) -> NoReturn:
    """Ends a program whose standard output cannot be written.

    Args:
        program: its name.
        status: its exit status; that of a closed pipe is not explained.
        message: what to print on standard error.

    Raises:
        SystemExit: always.
    """
    # When Python exits it flushes what is still buffered, which would fail again.
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if status == 128 + signal.SIGPIPE:
        raise SystemExit(status) from None
    leave(program, status, message)


def leave(program: str, status: int, message: str) -> NoReturn:
    """Ends a program with a line on standard error.

    Args:
        program: its name.
        status: its exit status.
        message: the line.

    Raises:
        SystemExit: always.
    """
    with contextlib.suppress(OSError):
        print(f"{program}: {message}", file=sys.stderr, flush=True)
    raise SystemExit(status) from None
