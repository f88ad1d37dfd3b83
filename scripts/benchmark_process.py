"""Processes that run what `benchmark.py` tells them to, and are idle otherwise.

`Process` is the benchmark's side, `serve` the other one's. A process reads one request a line from
standard input, as JSON, and answers each with a line: "start" prepares what is to be measured,
"time" runs it once. This file needs neither JAX nor PyTorch.
"""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Run = Callable[[], Any]


class Process:
    """One such process.

    Attributes:
        about: what it says of itself.
    """

    def __init__(self, python: str, script: Path) -> None:
        """Starts a script that serves; a RuntimeError if it ends at once."""
        self._process = subprocess.Popen(
            [python, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            self.about = self._answer()
        except RuntimeError:
            self.close()
            raise

    def start(self, **request: Any) -> tuple[Run, float]:
        """Prepares a row.

        Args:
            request: what the script's `prepare` takes.

        Returns:
            A function that runs it once and returns the seconds that it took; and the seconds by
            which the first run took longer than the second, mostly for compiling.

        Raises:
            RuntimeError: if the row cannot be prepared, or the process ended.
        """
        preparing = self._ask({"do": "start", **request})["compile_seconds"]
        return lambda: self._ask({"do": "time"})["seconds"], preparing

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # of which `_answer` tells
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the process ended; what it wrote is above")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()


def serve(about: dict[str, Any], prepare: Callable[..., Run]) -> None:
    """Answers requests until standard input ends.

    Args:
        about: what the process says of itself.
        prepare: takes what `Process.start` was given, and returns a function that runs it once,
            to the end.
    """
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever a library prints is no answer

    def answer(fields: dict[str, Any]) -> None:
        print(json.dumps(fields), file=answers, flush=True)

    def seconds() -> float:
        started = time.perf_counter()
        run()
        return time.perf_counter() - started

    run: Run = lambda: None  # noqa: E731
    answer(about)
    for line in sys.stdin:
        request = json.loads(line)
        if request.pop("do") == "start":
            try:
                run = prepare(**request)
                first = seconds()
                answer({"compile_seconds": max(first - seconds(), 0.0)})
            except Exception as error:  # for the benchmark to report
                lines = str(error).strip().splitlines() or [""]
                answer({"error": f"{type(error).__name__}: {lines[0]}"})
            continue
        taken = seconds()
        time.sleep(0.01)  # its threads wait for more work for a while, and would be in the way
        answer({"seconds": taken})
