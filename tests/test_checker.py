"""The shared checks fail where they should."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checker import (
    assert_close,
    assert_trees_close,
    check_first_order,
    check_low_precision,
    value_and_cotangents,
)

INF, NAN = np.inf, np.nan


@pytest.mark.parametrize("number", [INF, -INF, NAN, 3.0])
def test_what_is_the_same_is_close(number):
    assert_close([1.0, number], [1.0, number], tolerance=0)


@pytest.mark.parametrize(
    "actual, expected", [*itertools.permutations([INF, -INF, NAN, 3.0, 0.0], 2)]
)
def test_what_differs_is_not_close(actual, expected):
    with pytest.raises(AssertionError):
        assert_close([1.0, actual], [1.0, expected], tolerance=1e-3)


def test_errors_are_shares_of_the_largest_magnitude():
    assert_close([1000.5, 1.0], [1000.0, 1.5], tolerance=0.0005)
    with pytest.raises(AssertionError, match=r"error 0.5 of magnitude 1e\+03"):
        assert_close([1000.5, 1.0], [1000.0, 1.5], tolerance=0.00049)


@pytest.mark.parametrize(
    "other", [(np.ones(2),), [np.ones(2, "float32")], [np.ones((1, 2))], [np.ones(2)] * 2]
)
def test_trees_have_one_form(other):
    with pytest.raises(AssertionError):
        assert_trees_close(other, [np.ones(2)])


@jax.custom_vjp
def doubled(x):
    return 2.001 * x  # what nothing that differentiates it computes


doubled.defvjp(lambda x: (2 * x, None), lambda _, dy: (2 * dy,))


@pytest.mark.parametrize(
    "check",
    [
        lambda x: value_and_cotangents(doubled, (x,), x),
        lambda x: check_first_order(doubled, lambda x: 2 * x, x),
        lambda x: check_low_precision(doubled, x, dtype="float32"),
    ],
)
def test_a_function_by_itself_is_checked_too(check):
    with pytest.raises(AssertionError, match=r"error 0\.00"):
        check(jnp.ones(3))
