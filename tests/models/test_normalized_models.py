"""ResNet and MobileNetV2: against lax, their running statistics, and what the authors count."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from checker import assert_close, normal
from jax import lax

from cnnvjp import softmax_cross_entropy, train
from cnnvjp.models import mobilenet, resnet

KEY = jax.random.key(0)


def size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    "model, parameters",
    [
        (resnet(8), 78042),
        (resnet(20), 272474),  # the paper's 0.27 million, and the projections around blocks
        (resnet(18), 11173962),
        (resnet(34), 21282122),
        (mobilenet(), 2236682),
    ],
)
def test_number_of_parameters(model, parameters):
    params, state = jax.eval_shape(lambda: model.init(KEY, (32, 32, 3)))
    assert size(params) == parameters
    assert set(state) == {name for name in params if name.startswith("conv")}


def lax_network(params, x, layer_plan):
    """The network in lax and jnp, from (kernel number, stride, groups, activation) a layer."""

    def normalized(a, number, stride, groups):
        layer = params[f"conv{number}"]
        edge = layer["w"].shape[0] // 2
        a = lax.conv_general_dilated(
            a, layer["w"], (stride, stride), ((edge, edge), (edge, edge)), None, None,
            ("NHWC", "HWIO", "NHWC"), groups,
        )  # fmt: skip
        mean, var = jnp.mean(a, (0, 1, 2), keepdims=True), jnp.var(a, (0, 1, 2), keepdims=True)
        wide = lambda v: v.reshape(1, 1, 1, -1)
        return (a - mean) / jnp.sqrt(var + 1e-5) * wide(layer["gamma"]) + wide(layer["beta"])

    a = layer_plan(normalized, x)
    dense = params[max(params, key=lambda name: name.startswith("dense"))]
    return jnp.mean(a, (1, 2)) @ dense["w"] + dense["b"].reshape(1, -1)


def resnet8(n, x):
    relu = lambda a: jnp.maximum(a, 0)
    a = relu(n(x, 1, 1, 1))
    a = relu(n(relu(n(a, 2, 1, 1)), 3, 1, 1) + a)
    a = relu(n(relu(n(a, 5, 2, 1)), 6, 1, 1) + n(a, 4, 2, 1))
    return relu(n(relu(n(a, 8, 2, 1)), 9, 1, 1) + n(a, 7, 2, 1))


def test_resnet_is_the_network_of_the_paper(rng):
    model = resnet(8, 3, dtype="float64")
    params, state = jax.eval_shape(lambda: model.init(KEY, (9, 8, 2)))
    params = jax.tree.map(lambda a: 0.3 * normal(rng, *a.shape), params)
    state = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), state)
    x = normal(rng, 3, 9, 8, 2)
    ours = jax.jit(lambda params, x: model.apply(params, state, x, train=True)[0])
    theirs = jax.jit(lambda params, x: lax_network(params, x, resnet8))
    assert_close(ours(params, x), theirs(params, x), tolerance=1e-10)
    slope = lambda f: jax.jit(jax.grad(lambda p, x: jnp.sum(jnp.sin(f(p, x)))))(params, x)
    for got, want in zip(*map(jax.tree.leaves, (slope(ours), slope(theirs))), strict=True):
        assert_close(got, want, tolerance=1e-8)


def test_mobilenet_blocks(rng):
    """Depthwise in the middle, narrow at the ends, and x around where sizes agree."""
    model = mobilenet(4, width=0.25, dtype="float64")
    params, _ = jax.eval_shape(lambda: model.init(KEY, (32, 32, 3)))
    assert params["conv2"]["w"].shape == (3, 3, 1, 8)  # the first block expands nothing
    assert params["conv4"]["w"].shape == (1, 1, 8, 48)
    assert params["conv5"]["w"].shape == (3, 3, 1, 48)
    assert params["conv6"]["w"].shape == (1, 1, 48, 8)
    params, state = jax.eval_shape(lambda: model.init(KEY, (32, 32, 3)))
    values = jax.eval_shape(model.intermediates, params, state, jnp.zeros((1, 32, 32, 3)))
    numbers = [int(name[2:]) for name in values if name.startswith("lz")]
    assert values["lz1"].shape[1] == 32
    assert values[f"lz{max(numbers)}"].shape[1] == 4
    assert "a6" in values and "a12" not in values  # with stride 2 nothing goes around


@pytest.mark.versions
def test_running_statistics(rng):
    model = resnet(8, 3, dtype="float64")
    params, state = jax.jit(lambda: model.init(KEY, (8, 8, 2)))()
    x = normal(rng, 4, 8, 8, 2)
    run = jax.jit(model.apply, static_argnames="train")
    _, after = run(params, state, x, train=True)
    lz = lax.conv_general_dilated(
        x, params["conv1"]["w"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    lz = np.asarray(lz).reshape(-1, 16)
    assert_close(after["conv1"]["mean"], 0.1 * lz.mean(0))
    assert_close(after["conv1"]["var"], 0.9 + 0.1 * lz.var(0, ddof=1))
    y, same = run(params, after, x, train=False)
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), same, after))
    single = jnp.concatenate([run(params, after, x[i : i + 1], train=False)[0] for i in range(4)])
    assert_close(y, single, tolerance=1e-10)  # inference knows no batch


def test_a_step_learns():
    model, optimizer = resnet(8, 2), optax.sgd(0.05)
    state = train.create(KEY, model, optimizer, (8, 8, 1))
    step = train.make_train_step(model, softmax_cross_entropy, optimizer)
    x = jax.random.normal(KEY, (16, 8, 8, 1), "float32")
    t = (x.mean((1, 2, 3)) > 0).astype("int32")
    losses = []
    for _ in range(5):
        state, metrics = step(state, (x, t), KEY)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.7 * losses[0]
