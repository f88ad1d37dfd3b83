"""Two processes that train together."""

import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import two_processes


def test_two_processes_train_as_one():
    """Two processes over gloo, each with half of the batch, give one process's losses."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = str(probe.getsockname()[1])
    script = Path(__file__).with_name("two_processes.py")
    run = [
        subprocess.Popen(
            [sys.executable, script, str(rank), port],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=240) for process in run]
    finally:
        for process in run:
            process.kill()
    enable_x64 = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64
    with enable_x64(False):
        expected = list(two_processes.losses())
    for process, (printed, errors) in zip(run, outputs, strict=True):
        assert process.returncode == 0, errors
        losses = [float(line[5:]) for line in printed.splitlines() if line.startswith("loss ")]
        np.testing.assert_allclose(losses, expected, rtol=1e-6)
    assert expected[-1] != expected[0]
