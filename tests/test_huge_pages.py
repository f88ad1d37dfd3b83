"""A program starts again, once, where glibc is to ask for huge pages."""

import collections
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import cnnvjp

ROOT = Path(cnnvjp.__file__).parents[1]
HUGE_PAGES = ROOT / "cnnvjp" / "training" / "huge_pages.py"
SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
MADVISE = "always [madvise] never"

# Prints a line whenever it starts, and one at its end.
PROGRAM = """
import json, os, pathlib, sys
import huge_pages
huge_pages.SETTING = pathlib.Path(os.environ["SETTING"])
print("start", flush=True)
if "--traced" in sys.argv:
    sys.settrace(lambda *event: None)
huge_pages.restart_with_huge_pages("program")
print(json.dumps([os.getpid(), os.environ.get("GLIBC_TUNABLES"), sys.flags.utf8_mode, sys.argv[1:]]))
"""


@pytest.fixture
def start(tmp_path):
    """Runs PROGRAM under a kernel's setting: how often it started, and what it saw at last."""
    (tmp_path / "program.py").write_text(PROGRAM)

    def run(setting, *arguments, tunables=None, python=("-X", "utf8", "program.py")):
        if setting is not None:
            (tmp_path / "enabled").write_text(setting + "\n")
        environment = {**os.environ, "PYTHONPATH": str(HUGE_PAGES.parent), "SETTING": "enabled"}
        environment.pop("GLIBC_TUNABLES", None)
        if tunables is not None:
            environment["GLIBC_TUNABLES"] = tunables
        process = subprocess.Popen(
            [sys.executable, *python, *arguments],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        *starts, last = process.communicate(timeout=60)[0].splitlines()
        assert process.returncode == 0 and set(starts) == {"start"}
        pid, *seen = json.loads(last)
        assert pid == process.pid  # whoever stops or waits for the first one has the second
        return len(starts), *seen

    return run


def test_it_starts_again_with_its_options(start):
    assert start(MADVISE, "--x", "a b") == (2, "glibc.malloc.hugetlb=1", 1, ["--x", "a b"])


def test_other_tunables_are_kept(start):
    others = "glibc.malloc.arena_max=2"
    assert start(MADVISE, tunables=others)[:2] == (2, others + ":glibc.malloc.hugetlb=1")


@pytest.mark.parametrize("setting", ["[always] madvise never", "always madvise [never]", None])
def test_where_the_kernel_does_not_ask(start, setting):
    assert start(setting)[:2] == (1, None)


def test_the_environment_decides(start):
    off = "glibc.malloc.hugetlb=0"
    assert start(MADVISE, tunables=off)[:2] == (1, off)


def test_a_debugger_is_not_shaken_off(start):
    assert start(MADVISE, "--traced")[:2] == (1, None)


def test_what_runs_a_script_is_not_started_again(start):
    """As IPython's %run does."""
    code = "import runpy, sys; sys.argv = ['./program.py']; runpy.run_path('program.py', {}, '__main__')"
    assert start(MADVISE, python=("-c", code))[:2] == (1, None)


def test_a_module_is_started_again_as_one(start):
    again = (2, "glibc.malloc.hugetlb=1", 1, ["--x"])
    assert start(MADVISE, "--x", python=("-X", "utf8", "-m", "program")) == again
    assert (
        start(
            MADVISE, "--x", python=("-X", "utf8", "-m", "cProfile", "-o", "times", "-m", "program")
        )
        == again
    )
    code = "import runpy; runpy.run_module('program', run_name='__main__', alter_sys=True)"
    assert start(MADVISE, python=("-c", code))[:2] == (1, None)


def imports(*command):
    """How often a process imported each module, with the program that it starts again as."""
    environment = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *command, "--help"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage: ") == 1
    return collections.Counter(line.split("|")[-1].strip() for line in done.stderr.splitlines())


def test_training_starts_again():
    """The script does so before it imports JAX, which it finds by its first import, runpy."""
    pytest.importorskip("tyro")
    starts = 2 if SETTING.exists() and "[madvise]" in SETTING.read_text() else 1
    script = imports("scripts/train.py")
    assert (script["runpy"], script["jax"]) == (starts, 1)
    module = imports("-m", "cnnvjp.training")
    assert (module["runpy"], module["jax"]) == (starts, starts)
