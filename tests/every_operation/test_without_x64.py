"""All other tests run with x64; users mostly do not."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def test_without_x64():
    paths = [HERE.parent, HERE.parent.parent]
    run = subprocess.run(
        [sys.executable, "-W", "error", HERE / "without_x64.py"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths)), "JAX_ENABLE_X64": "0"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-2000:]
