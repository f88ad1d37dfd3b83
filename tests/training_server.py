"""Runs `cnnvjp.training`, each time in a new process that has the libraries imported already.

Reads commands from standard input, a line of JSON each, and answers with a line of JSON:

    {"run": [...], "output": "PATH", "environment": {}} starts training with those arguments, and
                                        answers its process id; what it prints goes to that file
    {"wait": PID}                       answers the status with which that process ended, or minus
                                        the number of the signal that ended it
"""

import importlib
import json
import os
import signal
import sys
import warnings

COUNTS = {"train": 160, "test": 40}


def few(digits):
    """In place of `cnnvjp.training.data.digits`: some of them, at half of the size."""

    def few_digits(seed):
        return {
            name: part._replace(
                images=part.images[: COUNTS[name], ::2, ::2], labels=part.labels[: COUNTS[name]]
            )
            for name, part in digits(seed).items()
        }

    return few_digits


def run(arguments, output, environment):
    """In a child: a training run with its output in a file."""
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ |= environment
    status = 0
    try:
        train_main(arguments)
    except SystemExit as stop:
        status = stop.code or 0
    except BaseException:
        import traceback

        traceback.print_exc()
        status = 99
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def serve():
    running = set()
    for line in sys.stdin:
        command = json.loads(line)
        if "run" in command:
            # JAX has no devices yet, and no threads of its own to lose.
            with warnings.catch_warnings(action="ignore"):
                answer = os.fork()
            if answer == 0:
                run(command["run"], command["output"], command["environment"])
            running.add(answer)
        else:
            answer = os.waitstatus_to_exitcode(os.waitpid(command["wait"], 0)[1])
            running.remove(command["wait"])
        print(json.dumps(answer), flush=True)
    for pid in running:  # those of a test that failed
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    from cnnvjp.training import data
    from cnnvjp.training.commands import train_main

    data.digits = few(data.digits)
    importlib.import_module("orbax.checkpoint.checkpoint_manager")
    serve()
