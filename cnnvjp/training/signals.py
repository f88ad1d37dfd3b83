"""Signals that stop a run: SIGTERM and Ctrl-C, noticed between two steps."""

import signal
from types import FrameType
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

AGREE_EVERY = 10  # updates after which several processes agree on whether to stop


class Interruption:
    """Turns SIGTERM and Ctrl-C into a request that the loop looks for between steps.

    It acts within `with`, on the main thread. A second signal acts as it does without it.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        """Handles no signal before `with`."""
        self._received = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        self._before = {number: signal.signal(number, self._receive) for number in self.SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def request(self, number: int) -> None:
        """Asks to stop as if a signal had come.

        Args:
            number: the signal's number.
        """
        self._received = number

    def requested(self, update: int) -> int:
        """Whether to stop, with the same answer in all processes.

        Args:
            update: the number of updates until now.

        Returns:
            The number of the signal that came, or 0.
        """
        if jax.process_count() == 1:
            return self._received
        if update % AGREE_EVERY:
            return 0
        return int(multihost_utils.process_allgather(np.int32(self._received)).max())
