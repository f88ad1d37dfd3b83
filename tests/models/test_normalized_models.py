"""ResNet and MobileNetV2: against lax, their running statistics, and what the authors count."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from checker import assert_trees_close, normal
from jax import lax

from cnnvjp import softmax_cross_entropy, train
from cnnvjp.models import mobilenet, resnet

KEY = jax.random.key(0)


class LaxLayers:
    """Layers in lax and jnp, numbered as they are called, with what the paper says of each.

    Attributes:
        shapes: of each layer's net input before it is normalized, as the model names it.
        state: the running statistics after a pass over a batch.
    """

    def __init__(self, params, state=None):
        self.params, self.before = params, state
        self.shapes, self.state, self.count = {}, {}, 0

    def __call__(self, a, maps, size, stride=1, groups=1):
        self.count += 1
        name, edge = f"conv{self.count}", size // 2
        layer = self.params[name]
        assert layer["w"].shape == (size, size, a.shape[-1] // groups, maps)
        a = lax.conv_general_dilated(
            a, layer["w"], (stride, stride), ((edge, edge), (edge, edge)), None, None,
            ("NHWC", "HWIO", "NHWC"), groups,
        )  # fmt: skip
        self.shapes[f"lz{self.count}"] = a.shape
        mean, var = jnp.mean(a, (0, 1, 2)), jnp.var(a, (0, 1, 2))
        if self.before is not None:
            mean, var = self.before[name]["mean"], self.before[name]["var"]
        unbiased = jnp.var(a, (0, 1, 2), ddof=1)
        self.state[name] = {"mean": 0.2 + 0.1 * mean, "var": 1.8 + 0.1 * unbiased}
        wide = lambda v: v.reshape(1, 1, 1, -1)
        a = (a - wide(mean)) / jnp.sqrt(wide(var) + 1e-5)
        return a * wide(layer["gamma"]) + wide(layer["beta"])

    def classifier(self, a):
        dense = self.params[f"dense{self.count + 1}"]
        return jnp.mean(a, (1, 2)) @ dense["w"] + dense["b"].reshape(1, -1)


def lax_resnet(n, x, groups):
    """From the maps and the number of blocks of each group."""
    relu = lambda a: jnp.maximum(a, 0)
    a = relu(n(x, groups[0][0], 3))
    for i, (maps, blocks) in enumerate(groups):
        for block in range(blocks):
            halved = i > 0 and block == 0
            around = n(a, maps, 1, 2) if halved else a
            a = relu(n(relu(n(a, maps, 3, 1 + halved)), maps, 3) + around)
    return n.classifier(a)


def lax_mobilenet(n, x, plan):
    """From the paper's table 2: expansion, maps, blocks and stride; maps of both ends."""
    first, groups, last = plan
    relu6 = lambda a: jnp.clip(a, 0, 6)
    a = relu6(n(x, first, 3))
    for expansion, maps, blocks, stride in groups:
        for block in range(blocks):
            step, b = (stride if block == 0 else 1), a
            wide = a.shape[-1] * expansion
            if expansion > 1:
                b = relu6(n(b, wide, 1))
            b = n(relu6(n(b, wide, 3, step, wide)), maps, 1)
            a = b + a if step == 1 and a.shape[-1] == maps else b
    return n.classifier(relu6(n(a, last, 1)))


def mobilenet_plan(first, *maps):
    *maps, last = maps
    blocks, strides = (1, 2, 3, 4, 3, 3, 1), (1, 1, 2, 2, 1, 2, 1)
    return first, tuple(zip((1, 6, 6, 6, 6, 6, 6), maps, blocks, strides, strict=True)), last


NARROW, WIDE = (16, 32, 64), (64, 128, 256, 512)
STRUCTURES = {  # and the authors' numbers of parameters, with the projections around blocks
    "resnet 8": (resnet(8), 78042, lax_resnet, [(maps, 1) for maps in NARROW]),
    "resnet 20": (resnet(20), 272474, lax_resnet, [(maps, 3) for maps in NARROW]),
    "resnet 18": (resnet(18), 11173962, lax_resnet, [(maps, 2) for maps in WIDE]),
    "resnet 34": (resnet(34), 21282122, lax_resnet, list(zip(WIDE, (3, 4, 6, 3), strict=True))),
    "mobilenet": (mobilenet(), 2236682, lax_mobilenet, mobilenet_plan(32, 16, 24, 32, 64, 96, 160, 320, 1280)),
}  # fmt: skip


@pytest.mark.parametrize("name", STRUCTURES)
def test_the_layers_are_those_of_the_papers(name):
    """The shape of every kernel and of every net input."""
    model, parameters, reference, plan = STRUCTURES[name]
    params, state = jax.eval_shape(lambda: model.init(KEY, (33, 24, 3)))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == parameters
    assert set(state) == {name for name in params if name.startswith("conv")}
    x = jax.ShapeDtypeStruct((2, 33, 24, 3), "float32")
    values = jax.eval_shape(model.intermediates, params, state, x)
    expected = {}

    def network(params, x):
        layers = LaxLayers(params)
        y = reference(layers, x, plan)
        expected.update(layers.shapes)
        return y

    assert jax.eval_shape(network, params, x).shape == (2, 10)
    assert {n: value.shape for n, value in values.items() if n.startswith("lz")} == expected


@pytest.mark.parametrize(
    "width, maps",
    [
        (1.4, (48, 24, 32, 48, 88, 136, 224, 448, 1792)),
        (0.75, (24, 16, 24, 24, 48, 72, 120, 240, 1280)),
    ],
)
def test_a_wider_or_narrower_mobilenet(width, maps):
    params, _ = jax.eval_shape(lambda: mobilenet(width=width).init(KEY, (8, 8, 3)))
    first, *kernels = (params[f"conv{number}"]["w"].shape for number in range(1, len(params)))
    # A block narrows its maps at its end; the last kernel widens the maps for good.
    narrow = [k[-1] for k in kernels[:-1] if k[0] == 1 and k[-1] < 4 * k[-2]]
    blocks = np.repeat(maps[1:-1], (1, 2, 3, 4, 3, 3, 1))
    assert [first[-1], *narrow, kernels[-1][-1]] == [maps[0], *blocks, maps[-1]]


SMALL_MOBILENET = 8, ((1, 8, 1, 1), (2, 16, 2, 2)), 24
SMALL = {
    "resnet": (lambda: resnet(8, 3, dtype="float64"), lax_resnet, [(maps, 1) for maps in NARROW]),
    "mobilenet": (lambda: mobilenet(3, dtype="float64"), lax_mobilenet, SMALL_MOBILENET),
}


@pytest.mark.versions
@pytest.mark.parametrize("name", SMALL)
def test_values_gradients_and_statistics(rng, monkeypatch, name):
    """In training and inference, against lax, of all parameters and running statistics."""
    for constant, value in zip(("_FIRST", "_GROUPS", "_LAST"), SMALL_MOBILENET, strict=True):
        monkeypatch.setattr(f"cnnvjp.models._mobilenet.{constant}", value)
    make, reference, plan = SMALL[name]
    model, x = make(), normal(rng, 3, 9, 8, 2)
    params, state = jax.eval_shape(lambda: model.init(KEY, x.shape[1:]))
    params = jax.tree.map(lambda a: 3 * normal(rng, *a.shape), params)  # beyond 6 here and there
    state = {
        layer: {"mean": jnp.full(maps.shape, 2 / 9), "var": jnp.full(maps.shape, 2.0)}
        for layer, maps in ((layer, arrays["mean"]) for layer, arrays in state.items())
    }

    def theirs(params, x, train):
        layers = LaxLayers(params, None if train else state)
        return reference(layers, x, plan), layers.state if train else state

    def ours(params, x, train):
        return model.apply(params, state, x, train=train)

    def passes(network, params, x):
        loss = lambda params, x: (jnp.sum(jnp.sin((out := network(params, x, True))[0])), out)
        slopes, trained = jax.grad(loss, (0, 1), has_aux=True)(params, x)
        return trained, slopes, network(params, x, False)

    actual, expected = jax.jit(lambda *args: (passes(ours, *args), passes(theirs, *args)))(
        params, x
    )
    # Added to 1: what moves all of a map that is normalized again has the gradient 0.
    actual, expected = jax.tree.map(lambda a: 1 + a, (actual, expected))
    assert_trees_close(actual, expected, tolerance=1e-10)


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
