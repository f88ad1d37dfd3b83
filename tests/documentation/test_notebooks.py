"""Every notebook runs from top to bottom, and is stored as it runs.

A notebook is a pair: the text (.py) is what is edited, the notebook (.ipynb) what is read. After
a change, of the text or of code that the notebook prints,

    jupytext --update --to ipynb notebooks/NAME.py
    jupyter execute --inplace --NotebookClient.record_timing=False notebooks/NAME.ipynb
"""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

pytestmark = pytest.mark.notebook


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request):
    return request.param


def read(path):
    import nbformat  # not here in the runs that only check versions of JAX

    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def cell_sources(notebook):
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def printed(notebook):
    """What each cell prints and shows: text as it is, of a picture that there is one."""
    shown = []
    for cell in code_cells(notebook):
        text = "".join(
            output.text if output.output_type == "stream" else output.data["text/plain"]
            for output in cell.outputs
        )
        pictures = sum("image/png" in output.get("data", {}) for output in cell.outputs)
        shown.append((cell.execution_count, text, pictures))
    return shown


def test_every_notebook_is_a_pair():
    texts = sorted((ROOT / "notebooks").glob("*.py"))
    assert NOTEBOOKS
    assert [path.stem for path in NOTEBOOKS] == [path.stem for path in texts]


def test_text_and_notebook_agree(path):
    import jupytext

    text = jupytext.read(path.with_suffix(".py"), fmt="py:percent")
    assert cell_sources(read(path)) == cell_sources(text)


def test_stored_outputs(path):
    import nbformat

    notebook = read(path)
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert outputs
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert path.stat().st_size < 500_000


def test_runs_from_top_to_bottom(path, monkeypatch):
    import nbclient

    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    # Networks are trained in it: optimised code computes faster by more than it compiles slower.
    flags = os.environ["XLA_FLAGS"].replace("--xla_backend_optimization_level=0", "")
    monkeypatch.setenv("XLA_FLAGS", flags)
    stored, notebook = read(path), read(path)
    client = nbclient.NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=300,
        record_timing=False,
        resources={"metadata": {"path": path.parent}},
    )
    client.execute()  # raises where a cell does
    assert printed(notebook) == printed(stored), "stale outputs: see this file's first lines"
