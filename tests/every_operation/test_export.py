"""Every operation and its gradient lower for every platform from here, and come back."""

import jax
import jax.export
import pytest
from checker import assert_close
from operation_table import IDS, OPERATIONS, expected

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


@pytest.mark.parametrize("operation", OPERATIONS, ids=IDS)
def test_export(operation):
    args = (*operation.arguments("float32"), *operation.fixed)
    exported = jax.export.export(expected(operation), platforms=PLATFORMS)(*args)
    assert exported.platforms == PLATFORMS
    again = jax.export.deserialize(exported.serialize())
    for got, want in zip(
        jax.tree.leaves(again.call(*args)), jax.tree.leaves(expected(operation)(*args)), strict=True
    ):
        assert_close(got, want)
