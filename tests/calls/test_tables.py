"""Every public function is in every table that the tests, and the reader, go through."""

import ast
import inspect
import re
from pathlib import Path

import pytest
from documented import SHAPES_OF
from operation_table import OPERATIONS
from right_calls import ARRAYS, CALLS, FUNCTIONS, PUBLIC
from test_random_calls import REQUIRED
from test_wrong_calls import BY_NAME, WRONG

TESTS = Path(__file__).parents[1]
README = TESTS.parent / "README.md"

# What reads another library's calls
FOREIGN = {"conv_general_dilated", "explicit"}
# What no equation of the sources says by itself: their words or another's equation are behind it
WITHOUT_EQUATION = FOREIGN | set(
    [
        "adaptive_avg_pool",
        "adaptive_max_pool",
        "batch_norm",
        "batch_norm_inference",
        "dropout",
        "elu",
        "fold",
        "gelu",
        "global_avg_pool",
        "global_max_pool",
        "group_norm",
        "hard_swish",
        "l2_penalty",
        "layer_norm",
        "log_softmax",
        "lp_pool",
        "min_pool",
        "normalized_positions",
        "pixel_shuffle",
        "pixel_unshuffle",
        "prelu",
        "relu6",
        "resize",
        "sigmoid_cross_entropy",
        "softmax",
        "softmax_cross_entropy",
        "standardize",
        "unfold",
    ]
)


def held_against_equations():
    """What the tests of the equations import from the library."""
    for path in (TESTS / "equations").glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "cnnvjp":
                yield from (alias.name for alias in node.names)


TABLES = {
    "OPERATIONS in tests/operation_table.py": {operation.name for operation in OPERATIONS},
    "CALLS in tests/calls/right_calls.py": set(CALLS),
    "SHAPES_OF in tests/calls/documented.py": set(SHAPES_OF) | FOREIGN,
    "REQUIRED in tests/calls/test_random_calls.py": set(REQUIRED) | FOREIGN,
    "the functions in README.md": set(re.findall(r"`(\w+)`", README.read_text())),
    "the tests in tests/equations, or WITHOUT_EQUATION here": {*held_against_equations()}
    | WITHOUT_EQUATION,
}


@pytest.mark.parametrize("table", TABLES)
def test_every_function_is_in_the_table(table):
    assert [name for name in FUNCTIONS if name not in TABLES[table]] == [], f"not in {table}"


def test_the_tables_name_what_exists():
    assert {operation.name for operation in OPERATIONS} == set(FUNCTIONS)
    assert set(CALLS) == set(PUBLIC) == {name for name, *_ in WRONG} | set(FUNCTIONS)
    assert set(SHAPES_OF) | FOREIGN == set(REQUIRED) | FOREIGN == set(FUNCTIONS)
    assert set(FUNCTIONS) >= WITHOUT_EQUATION
    assert not WITHOUT_EQUATION & {*held_against_equations()}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_argument_has_a_wrong_value(name):
    given = {argument for wrong, replaced, *_ in WRONG if wrong == name for argument in replaced}
    given |= ARRAYS | set(BY_NAME)
    parameters = inspect.signature(PUBLIC[name]).parameters
    if name != "conv_general_dilated":  # lax reads its options
        assert [parameter for parameter in parameters if parameter not in given] == [], (
            "neither in BY_NAME nor in WRONG of tests/calls/test_wrong_calls.py"
        )
