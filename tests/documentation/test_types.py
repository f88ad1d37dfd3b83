"""What type checkers tell a user: right calls are clean, and wrong ones are reported."""

import importlib.util
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import cnnvjp
from cnnvjp import equations, interop, models, plot, rewriting, train

ROOT = Path(cnnvjp.__file__).parents[1]
PROGRAM = Path(__file__).parent / "typed_calls.py"


CALLS = PROGRAM.read_text().splitlines()


def marked(mark):
    """The program's lines that end in this comment."""
    return {line for line in CALLS if line.endswith(f"  # {mark}")}


def checked(name, *options, cwd):
    """What a type checker prints about the program."""
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    environment = os.environ | {"MYPYPATH": str(ROOT), "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    return subprocess.run(
        [sys.executable, "-m", name, *options, str(PROGRAM)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=cwd,
        env=environment,
    )


def test_program_has_right_and_wrong_calls():
    assert len(set(CALLS) - {""}) == len(CALLS) - CALLS.count("")  # a line is known by its text
    assert len(marked("wrong")) >= 50
    assert len(marked("wrong by chex")) >= 5
    assert sum("# wrong" not in line and "(" in line for line in CALLS) >= 40


def test_mypy_reports_the_wrong_calls(tmp_path):
    # Optax and chex do not declare their types, which a user must tell mypy to ignore.
    options = ["--strict", "--ignore-missing-imports", "--output=json", "--config-file="]
    done = checked("mypy", *options, f"--cache-dir={tmp_path}", cwd=tmp_path)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    messages = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    reported = {
        CALLS[message["line"] - 1]
        for message in messages
        if message["severity"] == "error" and Path(tmp_path, message["file"]).samefile(PROGRAM)
    }
    assert reported - marked("wrong by chex") == marked("wrong")


def test_pyright_reports_the_wrong_calls(tmp_path):
    (tmp_path / "pyrightconfig.json").write_text(json.dumps({"extraPaths": [str(ROOT)]}))
    options = ["--pythonpath", sys.executable, "--outputjson"]
    done = checked("pyright", *options, cwd=tmp_path)
    try:
        diagnostics = json.loads(done.stdout)["generalDiagnostics"]
    except ValueError:
        said = (done.stderr or done.stdout).strip().splitlines()
        pytest.skip(f"pyright does not start, which needs Node.js: {said[-1] if said else ''}")
    reported = {
        CALLS[diagnostic["range"]["start"]["line"]]
        for diagnostic in diagnostics
        if diagnostic["severity"] == "error"
    }
    assert reported == marked("wrong") | marked("wrong by chex")


def public():
    """Every public function, and every public method of a public class, by name."""
    for module in (cnnvjp, equations, interop, models, plot, rewriting, train):
        defined = [
            n for n, v in vars(module).items() if getattr(v, "__module__", "") == module.__name__
        ]
        for name in getattr(module, "__all__", defined):
            value = getattr(module, name)
            members = vars(value).items() if inspect.isclass(value) else [("", value)]
            for member, function in members:
                function = getattr(function, "__func__", function)  # of a static method
                if inspect.isfunction(function) and not (member or name).startswith("_"):
                    yield pytest.param(function, id=".".join(filter(None, [name, member])))


@pytest.mark.parametrize("function", list(public()))
def test_public_functions_are_annotated(function):
    signature = inspect.signature(function)
    assert signature.return_annotation not in (inspect.Signature.empty, Any)
    for parameter in signature.parameters.values():
        if parameter.name != "self":
            assert parameter.annotation is not parameter.empty, parameter
        if parameter.kind is not parameter.VAR_KEYWORD:  # of matplotlib
            assert parameter.annotation is not Any, parameter
