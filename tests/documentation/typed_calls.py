"""Right and wrong calls of the public API, for type checkers to read; nothing runs it.

A checker must report each line that ends in `# wrong`, and no other. Whether mypy reports those
with `# wrong by chex` depends on the user: chex, which names the types of arrays, has its types in
its source but does not declare them, and mypy reads them only with `follow_untyped_imports`.
"""

# ruff: noqa: B018 (an attribute shows what type a result has)

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

import cnnvjp
from cnnvjp import equations, interop, models, plot, train

key = jax.random.key(0)
x, w, b = jnp.ones((1, 8, 8, 3)), jnp.ones((3, 3, 3, 4)), jnp.ones(4)
image, labels = np.ones((1, 8, 8, 3), np.float32), jnp.zeros(1, jnp.int32)

# Arrays and sizes
cnnvjp.conv(x, w, b, stride=2, padding=1, dilation=(1, 2))
cnnvjp.conv(image, w, padding=[(1, 1), (0, 2)], preferred_element_type=jnp.float32)
cnnvjp.conv(x, w, precision=jax.lax.Precision.HIGHEST).astype(jnp.float16)
cnnvjp.conv_transpose(x, w, stride=(2, 2), output_size=(16, 16))
cnnvjp.avg_pool(x, 2, count_include_pad=False)
cnnvjp.l2_penalty({"conv": {"w": w, "b": b}})
cnnvjp.dropout(key, x, 0.5)
cnnvjp.deform_conv(x, w, jnp.zeros((1, 6, 6, 1, 3, 3, 2)), b, mask=None, padding="VALID")
cnnvjp.roi_align(x, jnp.ones((1, 5, 4)), (7, 7), scale=0.5, samples=1, aligned=False)
cnnvjp.conv("x", w)  # wrong by chex
cnnvjp.conv(x, [[1.0]])  # wrong by chex
cnnvjp.conv(x, w, stride="2")  # wrong
cnnvjp.conv(x, w, stride=2.0)  # wrong
cnnvjp.conv(x, w, b, 2)  # wrong
cnnvjp.conv(x, w, strides=2)  # wrong
cnnvjp.conv(x)  # wrong
cnnvjp.deform_conv(x, w)  # wrong
cnnvjp.roi_align(x, b, 7, samples=2.0)  # wrong
cnnvjp.avg_pool(x, "2")  # wrong
cnnvjp.avg_pool(x, 2).shapes  # wrong
cnnvjp.relu("x")  # wrong by chex
cnnvjp.batch_norm(x, b)  # wrong
cnnvjp.dropout(key, x, "0.5")  # wrong

# Options with names
cnnvjp.conv(x, w, padding="SAME")
cnnvjp.conv(x, w, padding="CIRCULAR")
cnnvjp.conv(x, w, padding="CAUSAL")
cnnvjp.max_pool(x, 2, ties="split")
cnnvjp.pad(x, 1, mode="reflect")
cnnvjp.pad(x, 1, mode="symmetric")
cnnvjp.resize(x, (16, 16), method="cubic")
cnnvjp.flatten(x, order="column")
cnnvjp.unflatten(b, (2, 2), order="row")
cnnvjp.conv(x, w, padding="SAM")  # wrong
cnnvjp.conv(x, w, padding="same")  # wrong
cnnvjp.conv_transpose(x, w, padding="SAM")  # wrong
cnnvjp.conv_kernel_grad(x, x, 3, padding="SAM")  # wrong
cnnvjp.conv_transpose(x, w, padding="CIRCULAR")  # wrong
cnnvjp.sum_pool(x, 2, padding="SAM")  # wrong
cnnvjp.sum_pool(x, 2, padding="EDGE")  # wrong
cnnvjp.unfold(x, 2, padding="SAM")  # wrong
cnnvjp.max_pool(x, 2, ties="frist")  # wrong
cnnvjp.pad(x, 1, mode="reflct")  # wrong
cnnvjp.resize(x, (16, 16), method="bilinear")  # wrong
cnnvjp.flatten(x, order="rows")  # wrong
cnnvjp.unflatten(b, (2, 2), order="rows")  # wrong

# Results of two kinds
cnnvjp.max_pool(x, 2).astype(jnp.float16)
y, argmax = cnnvjp.max_pool(x, 2, return_argmax=True)
cnnvjp.max_unpool(y, argmax, output_size=(8, 8))
cnnvjp.max_pool(x, 2, return_argmax=True).astype(jnp.float16)  # wrong
cnnvjp.relu(cnnvjp.max_pool(x, 2, return_argmax=True))  # wrong by chex
cnnvjp.min_pool(x, 2, return_argmax=True).astype(jnp.float16)  # wrong
cnnvjp.batch_norm(x, b, b).astype(jnp.float16)  # wrong
cnnvjp.max_unpool(*cnnvjp.max_pool(x, 2, return_argmax=True), output_size=2.5)  # wrong


# explicit, whose result has the signature of what it is given
def loss(w: jax.Array, x: jax.Array, *, scale: float = 1.0) -> jax.Array:
    """The sum of a convolution."""
    return scale * jax.lax.conv(x, w, (1, 1), "SAME").sum()


cnnvjp.explicit(loss)(w, x, scale=2.0).astype(jnp.float16)
cnnvjp.explicit(functools.partial(loss, scale=2.0))(w, x)
cnnvjp.explicit(lambda w, x: loss(w, x))(w, x)
cnnvjp.explicit(loss, report=print)(w, x)
jax.grad(cnnvjp.explicit(loss))(w, x)
jax.jit(cnnvjp.explicit(loss))(w, x)
cnnvjp.explicit(loss)(w)  # wrong
cnnvjp.explicit(loss)(w, "x")  # wrong
cnnvjp.explicit(loss)(w, x, scales=2.0)  # wrong
cnnvjp.explicit(loss)(w, x).shapes  # wrong
cnnvjp.explicit(lambda w, x: loss(w, x))(w)  # wrong
cnnvjp.explicit(w)  # wrong
cnnvjp.explicit(loss, report=lambda: None)  # wrong
cnnvjp.explicit(loss, rules={jax.nn.relu: cnnvjp.rules.guided_relu})(w, x)
cnnvjp.explicit(loss, rules=cnnvjp.rules.guided_relu)  # wrong
cnnvjp.implicit(loss)(w, x, scale=2.0).astype(jnp.float16)
jax.jvp(cnnvjp.implicit(loss), (w, x), (w, x))
cnnvjp.implicit(loss)(w)  # wrong

# Models and training
model, optimizer = models.textbook(10, maps=(4, 8), kernel_size=3), optax.sgd(0.1)
params, state = model.init(key, (16, 16, 1))
logits, state = model.apply(params, state, x, train=False)
params["conv1"]["w"]
model.intermediates(params, state, x)["n3"].shape
cnnvjp.Model(lambda key, input_shape: (jnp.ones(input_shape), {}), lambda p, s, x, **_: (x, s))
models.resnet(8, dtype="bfloat16")
train_state = train.create(key, model, optimizer, (16, 16, 1))
step = train.make_train_step(model, cnnvjp.softmax_cross_entropy, optimizer)
train_state, metrics = step(train_state, (x, labels), key)
train_state, metrics = step(train_state, (image, np.zeros(1)), key)
evaluate = train.make_eval_step(model, cnnvjp.softmax_cross_entropy)
evaluate(train_state, (x, labels))["loss"].item()
train_state.params["conv1"]["w"]
models.textbook("10")  # wrong
models.textbook(10, map=(4, 8))  # wrong
models.textbook(10, activation="relu")  # wrong
models.resnet(8, dtype=8)  # wrong
model.intermediates(params, state, x).shape  # wrong
model.initial(key, (16, 16, 1))  # wrong
cnnvjp.Model(lambda key, input_shape: jnp.ones(input_shape), model.apply)  # wrong
cnnvjp.Model(model.init)  # wrong
train.create(0, model, optimizer, (16, 16, 1))  # wrong
train.create(key, models.textbook, optimizer, (16, 16, 1))  # wrong
train.make_train_step(models.textbook, cnnvjp.softmax_cross_entropy, optimizer)  # wrong
train.make_train_step(model, "softmax_cross_entropy", optimizer)  # wrong
train.make_train_step(model, cnnvjp.softmax_cross_entropy)  # wrong
train.make_eval_step(model, cnnvjp.softmax_cross_entropy, optimizer)  # wrong
step(train_state, x, key)  # wrong
step(train_state, (x,), key)  # wrong
step(train_state, (x, "labels"), key)  # wrong by chex
step(params, (x, labels), key)["loss"]  # wrong
evaluate(train_state, (x, labels), key)  # wrong
train_state.parameters  # wrong

# Layers of other libraries, pictures, the equations
interop.flax_max_pool(x, (2, 2), padding="SAME").shape
interop.equinox_layers({"layer": w})["layer"].shape
plot.grid([[1, 2], [3, 4]], names=[["a", "b"], ["c", "d"]]).save("grid.png")
plot.feature_maps(x[0]).alt.upper()
equations.gbc_9_8(np.ones((4, 3, 3, 3)), np.ones((3, 8, 8)), 1).shape
interop.flax_max_pool(x, 2)  # wrong
interop.flax_max_pool(x, (2, 2), padding="SAM")  # wrong
plot.grid([[1, 2]], window=[(0, 0, 1, 1)])  # wrong
plot.routes([[1.0, 2.0]], 2, ties="frist")  # wrong
equations.gbc_9_8(np.ones((4, 3, 3, 3)), np.ones((3, 8, 8)))  # wrong
equations.gbc_9_90  # wrong
