"""The public surface keeps its own conventions."""

import importlib.util
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import jax
import pytest
from operation_table import IDS, OPERATIONS

import cnnvjp
from cnnvjp import interop

PACKAGE = Path(cnnvjp.__file__).parent
TESTS = Path(__file__).parents[1]
FUNCTIONS = sorted(  # those that compute, not the settings of `cnnvjp.compiling`
    name
    for name in cnnvjp.__all__
    if inspect.isfunction(f := getattr(cnnvjp, name)) and f.__module__ != "cnnvjp.compiling"
)
DOCUMENTED = {name: getattr(cnnvjp, name) for name in FUNCTIONS}
DOCUMENTED |= {f"interop.{name}": getattr(interop, name) for name in interop.__all__}

# What may be given by position: arrays, and what the result has no shape without.
POSITIONAL = set(
    [
        "f",
        "x",
        "y",
        "z",
        "v",
        "w",
        "b",
        "dy",
        "t",
        "p",
        "params",
        "key",
        "mean",
        "std",
        "var",
        "gamma",
        "beta",
        "weight",
        "slope",
        "argmax",
        "patches",
        "positions",
        "grid",
        "matrix",
        "logits",
        "labels",
        "window",
        "size",
        "factor",
        "padding",
        "output_size",
        "input_size",
        "kernel_size",
        "shape",
        "rate",
        "groups",
        "negative_slope",
        "alpha",
        "approximate",
    ]
)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_docstring_has_every_section(name):
    text = inspect.getdoc(DOCUMENTED[name])
    summary = text.splitlines()[0]
    assert summary.endswith((".", ")", ":")) or ":" in summary, summary
    for section in ("Args", "Returns", "Raises", "Example", "Source"):
        assert re.search(rf"^{section}:", text, re.MULTILINE), f"{name} has no {section}"
    assert ">>>" in text.split("Example:")[1]
    documented = re.findall(
        r"^ {4}\**(\w+)(?:, \w+)*:", text.split("Args:")[1].split("Returns:")[0], re.M
    )
    parameters = list(inspect.signature(DOCUMENTED[name]).parameters)
    missing = [p for p in parameters if p not in text.split("Args:")[1].split("Returns:")[0]]
    assert not missing, f"{name} does not document {missing}; it documents {documented}"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_options_are_keyword_only(name):
    if name == "conv_general_dilated":
        return  # it has lax's signature
    for parameter in inspect.signature(getattr(cnnvjp, name)).parameters.values():
        if parameter.kind is not parameter.KEYWORD_ONLY:
            assert parameter.name in POSITIONAL, f"{name}: {parameter.name} should be an option"


def primitives(jaxpr):
    """The primitives of a program, those of its compiled parts included."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("jit", "pjit"):
            yield from primitives(equation.params["jaxpr"].jaxpr)
        else:
            yield equation.primitive.name


@pytest.mark.versions
@pytest.mark.parametrize("operation", OPERATIONS, ids=IDS)
def test_every_operation_carries_a_rule(operation):
    """Everything between input and output is inside custom_vjp: JAX derives no gradient."""
    args = (*operation.arguments(), *operation.fixed)
    names = set(primitives(jax.make_jaxpr(operation.f)(*args).jaxpr))
    assert any(name.startswith("custom_vjp_call") for name in names), names
    # What remains outside moves data at most: batch axes merged, a dtype, a draw of random bits.
    moves = {"reshape", "convert_element_type", "broadcast_in_dim", "squeeze", "transpose"}
    random = {
        "random_wrap",
        "random_unwrap",
        "random_bits",
        "random_seed",
        "lt",
        "shift_right_logical",
        "or",
        "bitcast_convert_type",
        "sub",
        "max",
        "mul",
        "add",
    }
    allowed = moves | (random if operation.name == "dropout" else set())
    outside = {n for n in names if not n.startswith("custom_vjp_call")} - allowed
    assert not outside, outside


def test_examples_run():
    """Every docstring's example gives what it says, in JAX's default configuration."""
    code = (
        "import doctest, importlib, pkgutil, sys, cnnvjp\n"
        "names = ['cnnvjp', *(m.name for m in pkgutil.walk_packages(cnnvjp.__path__, 'cnnvjp.'))]\n"
        "names.remove('cnnvjp.interop')  # whose examples need its libraries\n"
        "results = [doctest.testmod(importlib.import_module(name)) for name in names]\n"
        "print(sum(r.attempted for r in results), 'examples')\n"
        "sys.exit(any(r.failed for r in results) or sum(r.attempted for r in results) < 100)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_importing_is_light():
    """`import cnnvjp` loads nothing heavy beside jax and optax."""
    code = (
        "import sys, jax, jax.numpy, optax\n"
        "before = set(sys.modules)\n"
        "import cnnvjp\n"
        "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    unexpected = set(done.stdout.split()) & {
        "matplotlib",
        "sklearn",
        "tyro",
        "tqdm",
        "grain",
        "orbax",
        "tensorboardX",
        "torch",
        "flax",
        "equinox",
        "haiku",
        "pandas",
    }
    assert not unexpected


def test_modules_stay_readable():
    for path in PACKAGE.rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 500, path


# ------------------------------------------------------------------------------------------
# The README
# ------------------------------------------------------------------------------------------

README = PACKAGE.parent / "README.md"


def table_rows(heading):
    """The cells of the table under a heading of the README."""
    section = README.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def test_readme_names_every_function():
    named = {
        name for _, cell in table_rows("The functions") for name in re.findall(r"`(\w+)`", cell)
    }
    assert named - {"Model"} == set(FUNCTIONS)


def test_readme_table_of_equations_names_what_exists():
    rows = table_rows("Equations, functions, rules, tests")
    assert len(rows) > 60
    covered = set()
    for equation, _, _, rules, tests in rows:
        for name in re.findall(r"`(\w+)`", equation):
            assert hasattr(cnnvjp.equations, name), name
            covered.add(name)
        for module, function in re.findall(r"`([\w.]+)\.(\w+)`", rules):
            assert hasattr(importlib.import_module(f"cnnvjp.{module}"), function), (
                module,
                function,
            )
        found = re.findall(r"`(\w+\.py)::(\w+)`", tests)
        assert found, tests
        for file, test in found:
            (path,) = TESTS.rglob(file)
            assert f"def {test}(" in path.read_text(), (file, test)
    oracle = {n for n in dir(cnnvjp.equations) if inspect.isfunction(getattr(cnnvjp.equations, n))}
    assert {name for name in oracle if "_as_" not in name} <= covered


def test_readme_lists_every_erratum():
    listed = {(row[0], row[1]) for row in table_rows("Errata")}
    assert listed == {(e.source, e.where) for e in cnnvjp.equations.ERRATA}


BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
EXAMPLES = [block for block in BLOCKS if block.startswith("import")]


def test_readme_has_examples():
    assert len(EXAMPLES) == 9


def test_readme_examples_run():
    """In JAX's default configuration, one after the other, each with names of its own."""
    libraries = [re.match(r"import (\w+)", example).group(1) for example in EXAMPLES]
    run = [e for e, name in zip(EXAMPLES, libraries, strict=True) if importlib.util.find_spec(name)]
    code = (
        "import sys\nfor example in sys.argv[1:]:\n    print('>>>', example)\n    exec(example, {})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *run], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (reports,) = (part for part in done.stdout.split(">>> ") if "report=print" in part)
    assert "\n2 replaced, 0 left\n" in reports


def test_readme_begins_with_two_commands():
    first = re.search(r"```sh\n(.*?)```", README.read_text(), re.DOTALL).group(1)
    assert len(first.splitlines()) == 2


def test_the_operation_of_contributing_is_right():
    """The code that shows how to add an operation makes one that passes what it says."""
    from jax.test_util import check_grads

    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names = {}
    exec(block, names)
    softsign = names["softsign"]
    x = jax.numpy.array([-2.0, -0.5, 0.25, 3.0])
    expected = [1 / (1 + abs(float(n))) ** 2 for n in x]
    assert jax.grad(lambda x: softsign(x).sum())(x).tolist() == pytest.approx(expected, rel=1e-12)
    check_grads(softsign, (x,), order=2, modes=["rev"], atol=1e-6, rtol=1e-6)
    huge = jax.numpy.array([300.0, -300.0], "float16")
    (dx,) = jax.vjp(softsign, huge)[1](jax.numpy.full(2, 60000.0, "float16"))
    assert dx.tolist() == pytest.approx([60000 / 301**2] * 2, rel=2e-3)
    with pytest.raises(TypeError, match="x: got"):
        softsign(jax.numpy.arange(3))


def test_the_reference_builds(tmp_path):
    """pdoc has every public function, and warns of nothing."""
    modules = ["cnnvjp", "cnnvjp.plot", "cnnvjp.training"]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "pdoc", "-d", "google", "-o", tmp_path, *modules],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    page = (tmp_path / "cnnvjp.html").read_text()
    assert [name for name in FUNCTIONS if f'id="{name}"' not in page] == []
    assert 'id="backward_animation"' in (tmp_path / "cnnvjp" / "plot.html").read_text()
    assert 'id="load_run"' in (tmp_path / "cnnvjp" / "training.html").read_text()
    page = (tmp_path / "cnnvjp" / "interop.html").read_text()
    assert [name for name in interop.__all__ if f'id="{name}"' not in page] == []


def test_there_is_one_version_number():
    """pyproject.toml takes it from the package, and CITATION.cff repeats it."""
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())
    assert "version" not in project["project"]
    assert project["tool"]["hatch"]["version"]["path"] == "cnnvjp/__init__.py"
    citation = (PACKAGE.parent / "CITATION.cff").read_text()
    assert re.findall(r"^version: (.*)$", citation, re.M) == [cnnvjp.__version__]


def test_readme_links_lead_somewhere():
    text = README.read_text()
    links = re.findall(r"\]\(([^)#]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    local = [link for link in links if "://" not in link]
    assert len(local) >= 10
    assert [link for link in local if not (PACKAGE.parent / link).is_file()] == []
    anchors = {
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.*)$", text, re.M)
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= anchors


def test_readme_lists_every_notebook():
    listed = {link for row in table_rows("Notebooks") for link in re.findall(r"\((.*?)\)", row[0])}
    assert listed == {f"notebooks/{path.name}" for path in PACKAGE.parent.glob("notebooks/*.ipynb")}


def test_pictures_of_the_readme_are_of_today(monkeypatch):
    import PIL.Image

    monkeypatch.syspath_prepend(PACKAGE.parent / "scripts")
    from pictures import FOLDER, speeds

    rows = speeds(README.read_text())
    assert len(rows) >= 10
    with PIL.Image.open(FOLDER / "speed.png") as chart:
        assert chart.text["Description"] == repr(rows), "run scripts/pictures.py"
    assert (FOLDER / "convolution_backwards.gif").stat().st_size < 500_000
    with PIL.Image.open(FOLDER / "convolution_backwards.gif") as moving:
        assert moving.n_frames == 4 + 25 + 1
