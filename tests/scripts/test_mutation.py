"""The mutation script: it knows every module and every rule, and tells what survives."""

import json
from pathlib import Path

import pytest

import cnnvjp

pytest.importorskip("cosmic_ray")
pytest.importorskip("tyro")

ROOT = Path(__file__).parents[2]


@pytest.fixture
def mutation(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import mutation

    return mutation


def test_it_knows_every_module_and_their_tests(mutation):
    package = Path(cnnvjp.__file__).parent
    names = {str(path.relative_to(package).with_suffix("")) for path in package.rglob("*.py")}
    names -= {"__init__"}
    out = {name for name in names if name.startswith(tuple(mutation.LEFT_OUT))}
    assert set(mutation.TESTS) == {name for name in names - out if mutation.all_mutants(name)}
    tests = {test for tests in mutation.TESTS.values() for test in tests}
    tests |= {f"{file}::{test}" for file, slow in mutation.SLOW.items() for test in slow}
    for file, _, test in (test.partition("::") for test in tests):
        (path,) = (ROOT / "tests").rglob(file)
        assert not test or f"def {test}(" in path.read_text(), test


def test_slow_tests_run_where_they_are_named(mutation):
    file, slow = next(iter(mutation.SLOW.items()))
    path = next((ROOT / "tests").rglob(file)).relative_to(ROOT)
    assert [*mutation.selected(ROOT, (file,))] == [str(path), f"--deselect={path}::{slow[0]}"]
    assert [*mutation.selected(ROOT, (f"{file}::{slow[0]}",))] == [f"{path}::{slow[0]}"]


def test_every_backward_pass_has_mutants(mutation):
    for module in mutation.TESTS:
        of_functions = {mutant.function for mutant in mutation.all_mutants(module)}
        tree = mutation.parso.parse(mutation.path(module).read_text())
        rules = {d.name.value for d in tree.iter_funcdefs() if d.name.value.endswith("_bwd")}
        assert rules <= of_functions


def test_a_mutant_is_one_change_outside_types(mutation):
    mutants = mutation.all_mutants("sum_pooling")
    kinds = {mutant.operator.split("_")[0] for mutant in mutants}
    assert {"ExchangeArguments", "core/NumberReplacer", "core/ReplaceBinaryOperator"} <= kinds
    lines = mutation.path("sum_pooling").read_text().splitlines()
    for mutant in mutants[:: len(mutants) // 20]:
        before, after = mutant.change()
        assert before != after
        assert lines[mutant.line - 1].strip() in before
        assert not before.startswith("def ")


@pytest.mark.parametrize(
    "kind", ["ExchangeArguments", "DropArgument", "SwapPair", "ReuseKey", "ForgetCast"]
)
def test_the_kinds_of_change_that_are_added(mutation, kind):
    operator = mutation.OPERATORS[kind]
    for example in operator.examples():
        found = mutation.mutate_code(example.pre_mutation_code, operator(), example.occurrence)
        assert found == example.post_mutation_code


@pytest.mark.parametrize(
    "kind, code",
    [
        ("ExchangeArguments", "f(x, axis=y)"),
        ("ExchangeArguments", "max(x, y)"),
        ("DropArgument", "f(x)"),
        ("DropArgument", "f()[(x, y)]"),
        ("SwapPair", "[f(a, b) for a in x]"),
        ("SwapPair", "f(a, b)[a, b]"),
        ("SwapPair", "a in (x, y)"),
        ("SwapPair", "isinstance(a, (x, y))"),
        ("SwapPair", "try:\n    f()\nexcept (x, y):\n    pass"),
        ("SwapPair", "__all__ = ['x', 'y']"),
        ("ReuseKey", "def f(key):\n    key1, key2 = split(key)"),
        ("ReuseKey", "def f(key, x):\n    return g(x.key, key=x)"),
        ("ReuseKey", "def f():\n    def g(key1): pass\n    def h(key2): return key2"),
        ("ForgetCast", "x.reshape(d)"),
    ],
)
def test_what_they_leave_alone(mutation, kind, code):
    assert mutation.mutate_code(code, mutation.OPERATORS[kind](), 0) is None


def test_a_sample_goes_round_modules_and_functions(mutation):
    mutants = {module: mutation.all_mutants(module) for module in ("affine", "losses")}
    sample = mutation.sampled(mutants, 20, seed=3)
    assert sample == mutation.sampled(mutants, 20, seed=3)
    assert len(set(sample)) == 20
    assert [mutant.module for mutant in sample[:4]] == ["affine", "losses"] * 2
    assert len({(mutant.module, mutant.function) for mutant in sample}) == 20
    of_one = mutation.sampled({"sum_pooling": mutation.all_mutants("sum_pooling")}, 10**6, seed=0)
    kinds = [mutation.kind_of(m.operator) for m in of_one if m.function == "weighted_avg_pool"]
    assert len(set(kinds)) > 3 and len(set(kinds[: len(set(kinds))])) == len(set(kinds))


def test_what_tests_notice_is_killed_and_the_rest_listed(mutation, monkeypatch, tmp_path, capsys):
    """Geometry's own tests look at sizes, and not at what stands in a padding."""
    noticed = {"_windows/geometry": "forward_input_size", "padding": "_copying_matrix"}
    sample = [
        next(mutant for mutant in mutation.all_mutants(module) if mutant.function == function)
        for module, function in noticed.items()
    ]
    monkeypatch.setattr(mutation, "TESTS", dict.fromkeys(noticed, ("test_geometry.py",)))
    monkeypatch.setattr(mutation, "sampled", lambda *_: sample)
    out = tmp_path / "made" / "results.json"
    with pytest.raises(SystemExit, match="1"):
        mutation.main(mutation.Config(workers=1, out=out))
    assert [result["survived"] for result in json.loads(out.read_text())] == [False, True]
    report = capsys.readouterr().out
    assert "NOT EXPLAINED" in report and "2 mutants, 50.0% killed; 1 survived" in report
