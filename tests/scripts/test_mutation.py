"""The mutation script: it knows every module and every rule, and tells what survives."""

import json
from pathlib import Path

import pytest

import cnnvjp

pytest.importorskip("cosmic_ray")
pytest.importorskip("tyro")

ROOT = Path(__file__).parents[2]
NETWORKS = {"model", "train", "training", "models", "equations", "plot"}


@pytest.fixture
def mutation(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import mutation

    return mutation


def test_it_knows_every_module_and_their_tests(mutation):
    package = Path(cnnvjp.__file__).parent
    names = {str(path.relative_to(package).with_suffix("")) for path in package.rglob("*.py")}
    names -= {name for name in names if name.split("/")[0] in NETWORKS} | {"__init__"}
    assert set(mutation.TESTS) == {name for name in names if mutation.all_mutants(name)}
    tests = {test for tests in mutation.TESTS.values() for test in tests}
    assert [test for test in tests if len([*(ROOT / "tests").rglob(test)]) != 1] == []


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


def test_two_arguments_change_places(mutation):
    for example in mutation.ExchangeArguments.examples():
        found = mutation.mutate_code(example.pre_mutation_code, mutation.ExchangeArguments(), 0)
        assert found == example.post_mutation_code
    assert mutation.mutate_code("f(x, axis=y)", mutation.ExchangeArguments(), 0) is None


def test_a_sample_goes_round_modules_and_functions(mutation):
    mutants = {module: mutation.all_mutants(module) for module in ("affine", "losses")}
    sample = mutation.sampled(mutants, 20, seed=3)
    assert sample == mutation.sampled(mutants, 20, seed=3)
    assert len(set(sample)) == 20
    assert [mutant.module for mutant in sample[:4]] == ["affine", "losses"] * 2
    assert len({mutant.function for mutant in sample}) == 20


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
