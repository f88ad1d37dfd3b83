"""What a user has who never heard of x64: run by `test_without_x64`, in a process of its own."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from operation_table import OPERATIONS, value_and_gradients

from cnnvjp import dropout, models, train

NARROW = {jnp.dtype(name) for name in ("float32", "int32", "uint8", "uint32")}


def check(tree, what):
    for leaf in jax.tree.leaves(tree):
        if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            assert leaf.dtype in NARROW, (what, leaf.dtype)
            assert np.isfinite(leaf).all(), what


assert not jax.config.jax_enable_x64
drawn = [operation.arguments("float32") for operation in OPERATIONS]
everything = jax.jit(
    lambda drawn: [
        value_and_gradients(operation)(*args, *operation.fixed)
        for operation, args in zip(OPERATIONS, drawn, strict=True)
    ]
)
for operation, results in zip(OPERATIONS, everything(drawn), strict=True):
    check(results, operation.name)

key = jax.random.key(0)
for dtype in ("float32", "bfloat16"):
    x = jnp.ones((100, 100), dtype)
    kept = np.asarray(dropout(key, x, 0.25), "float32")
    rounded = float(jnp.asarray(4 / 3, dtype))
    assert (
        set(np.unique(kept)) == {0.0, np.float32(rounded)} and abs((kept == 0).mean() - 0.25) < 0.02
    )

for model, shape in [
    (models.textbook(), (28, 28, 1)),
    (models.lenet5(), (32, 32, 1)),
    (models.resnet(8), (8, 8, 3)),
    (models.mobilenet(), (32, 32, 3)),
]:
    state = train.create(key, model, optax.sgd(0.1, momentum=0.9), shape)
    check(state, model)
    again = train.create(key, model, optax.sgd(0.1, momentum=0.9), shape)
    assert jax.tree.all(jax.tree.map(np.array_equal, state.params, again.params))
