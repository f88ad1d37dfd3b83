"""Every operation against finite differences, by JAX's own check, to second order."""

import pytest
from jax.test_util import check_grads
from operation_table import IDS, OPERATIONS


@pytest.mark.parametrize("operation", OPERATIONS, ids=IDS)
def test_check_grads(operation):
    check_grads(
        lambda *args: operation.f(*args, *operation.fixed),
        operation.arguments(),
        order=2,
        modes=["rev"],
        atol=1e-6,
        rtol=1e-6,
        eps=1e-5,
    )
