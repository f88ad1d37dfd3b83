"""Networks as people write them in Flax, Equinox and Haiku: the same with our rules in them."""

import doctest
import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checker import assert_close, count_primitives

import cnnvjp
from cnnvjp import explicit, interop
from cnnvjp.rules import feedback_alignment, guided_relu


@pytest.fixture(autouse=True)
def as_users_have_it():
    """JAX's own defaults, which these libraries count on."""
    strict = {name: jax.config.values[name] for name in DEFAULTS}
    for name, value in DEFAULTS.items():
        jax.config.update(name, value)
    yield
    for name, value in strict.items():
        jax.config.update(name, value)


DEFAULTS = dict(
    jax_enable_x64=False, jax_numpy_dtype_promotion="standard", jax_numpy_rank_promotion="allow"
)


def images(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), "float32")


LAX = ("conv_general_dilated", "reduce_window_max", "reduce_window_sum")
X, LABELS = images(4, 12, 12, 3), jnp.arange(4, dtype="int32")


def cross_entropy(logits):
    return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(4), LABELS])


def assert_same(actual, expected):
    """Losses, gradients and new statistics, to 1e-5 of the largest entry of all of them.

    Some are nothing but rounding: that of a bias before a normalization is 0.
    """
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    pairs = list(zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True))
    for got, want in pairs:
        assert (got.shape, got.dtype) == (want.shape, want.dtype)
    got, want = (
        np.concatenate([np.ravel(leaf) for leaf in leaves]) for leaves in zip(*pairs, strict=True)
    )
    assert_close(got, want, tolerance=1e-5)


def all_replaced(f, *args, found):
    """Whether everything in f is replaced, and that it is as many as we count in its source."""
    reports = []
    jax.eval_shape(explicit(f, report=reports.append), *args)
    (report,) = reports
    assert not report.left, report
    assert sum(finding.count for finding in report.replaced) == found, report
    return True


# ------------------------------------------------------------------------------------------
# Rules by choice: a network as it is, beside one that was built of the rule
# ------------------------------------------------------------------------------------------


def in_linen(relu):
    nn = pytest.importorskip("flax.linen")

    class Network(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.max_pool(relu(nn.Conv(4, (3, 3))(x)), (2, 2), (2, 2))
            return nn.Dense(3)(relu(nn.Conv(4, (3, 3))(x)).mean((1, 2)))

    network = Network()
    return functools.partial(network.apply, network.init(jax.random.key(0), X))


def in_nnx(relu):
    nnx = pytest.importorskip("flax.nnx")
    rngs = nnx.Rngs(0)
    layers = [nnx.Conv(3, 4, (3, 3), rngs=rngs), relu, nnx.Conv(4, 4, (3, 3), rngs=rngs), relu]
    return nnx.Sequential(*layers, lambda x: x.mean((1, 2)), nnx.Linear(4, 3, rngs=rngs))


def in_equinox(relu):
    eqx = pytest.importorskip("equinox")
    nn, keys = eqx.nn, jax.random.split(jax.random.key(0), 3)
    layers = [nn.Conv2d(3, 4, 3, key=keys[0]), nn.Lambda(relu), nn.Conv2d(4, 4, 3, key=keys[1])]
    layers += [nn.Lambda(relu), nn.Lambda(lambda x: x.mean((1, 2))), nn.Linear(4, 3, key=keys[2])]
    return lambda x: jax.vmap(nn.Sequential(layers))(jnp.moveaxis(x, -1, 1))


def in_haiku(relu):
    hk = pytest.importorskip("haiku")

    def network(x):
        x = hk.max_pool(relu(hk.Conv2D(4, 3)(x)), (2, 2, 1), (2, 2, 1), "SAME")
        return hk.Linear(3)(relu(hk.Conv2D(4, 3)(x)).mean((1, 2)))

    transformed = hk.without_apply_rng(hk.transform(network))
    return functools.partial(transformed.apply, transformed.init(jax.random.key(0), X))


@pytest.mark.versions
@pytest.mark.parametrize("build", [in_linen, in_nnx, in_equinox, in_haiku])
def test_rules_in_networks_as_they_are(build):
    network, guided = build(jax.nn.relu), build(guided_relu)
    rules = {jax.nn.relu: guided_relu}
    ruled, expected, plain = (
        jax.jit(jax.value_and_grad(lambda x, f=f: f(x)[:, 1].sum()))(X)
        for f in (explicit(network, rules=rules), guided, network)
    )
    assert_same(ruled, expected)
    assert jnp.abs(ruled[1] - plain[1]).max() > 0.01 * jnp.abs(plain[1]).max()


@pytest.mark.versions
@pytest.mark.parametrize("build, scope", [(in_linen, "Conv_1"), (in_haiku, "conv2_d_1")])
def test_rules_for_one_layer(build, scope):
    """Flax and Haiku name their layers; the first convolution keeps its gradient."""

    def rule(x, w, **options):
        return feedback_alignment(cnnvjp.conv, jax.random.key(0))(x, w, **options)

    def chosen(finding):
        return finding.operation == "conv" and scope in finding.scope.split("/")

    reports = []
    jax.eval_shape(explicit(build(jax.nn.relu), rules={chosen: rule}, report=reports.append), X)
    assert [finding.rule for finding in reports[0].findings if "conv" in finding.operation] == ["", "rule"]  # fmt: skip


# ------------------------------------------------------------------------------------------
# Flax
# ------------------------------------------------------------------------------------------


def linen_networks():
    """A small ResNet and a small MobileNet, given the convolution and the pooling that they use."""
    nn = pytest.importorskip("flax.linen")

    def network(body, convolution=None, max_pool=nn.max_pool, avg_pool=nn.avg_pool):
        class Network(nn.Module):
            @nn.compact
            def __call__(self, x):
                def conv(x, maps, size, stride=1, groups=1, **options):
                    return nn.Conv(
                        maps, (size, size), stride, feature_group_count=groups,
                        use_bias=False, conv_general_dilated=convolution, **options,
                    )(x)  # fmt: skip

                def norm(x):
                    return nn.BatchNorm(use_running_average=False, momentum=0.9)(x)

                return nn.Dense(5)(body(x, conv, norm, max_pool, avg_pool).mean((1, 2)))

        return Network()

    def resnet(x, conv, norm, max_pool, avg_pool):
        x = nn.relu(norm(conv(x, 8, 3, padding="CIRCULAR")))
        x = max_pool(x, (3, 3), (2, 2), "SAME")
        y = nn.relu(norm(conv(x, 16, 3, 2)))
        y = norm(conv(y, 16, 3, kernel_dilation=2)) + norm(conv(x, 16, 1, 2))
        return avg_pool(nn.relu(y), (2, 2), padding=((1, 0), (0, 1)), count_include_pad=False)

    def mobilenet(x, conv, norm, max_pool, avg_pool):
        x = nn.relu6(norm(conv(x, 8, 3, 2, padding=1)))
        y = nn.relu6(norm(conv(x, 24, 1)))
        y = nn.relu6(norm(conv(y, 24, 3, groups=24)))
        x = x + norm(conv(y, 8, 1))
        return nn.relu6(norm(conv(x, 16, 3, 2, groups=8)))

    return network, {resnet: 4 + 1 + 2, mobilenet: 5}


def linen_loss(module, rest):
    def loss(params, x):
        y, new = module.apply({"params": params, **rest}, x, mutable=list(rest))
        return cross_entropy(y), new

    return loss


@pytest.mark.versions
@pytest.mark.parametrize("which", [0, 1], ids=["resnet", "mobilenet"])
def test_linen(which):
    network, bodies = linen_networks()
    body, found = list(bodies.items())[which]
    stock = network(body)
    ours = network(body, cnnvjp.conv_general_dilated, interop.flax_max_pool, interop.flax_avg_pool)
    variables = jax.jit(stock.init)(jax.random.key(0), X)
    params, rest = variables["params"], {"batch_stats": variables["batch_stats"]}
    loss = linen_loss(stock, rest)

    def step(loss):
        return jax.jit(jax.value_and_grad(loss, has_aux=True))(params, X)

    expected = step(loss)
    assert_same(step(explicit(loss)), expected)
    assert_same(step(linen_loss(ours, rest)), expected)
    assert all_replaced(loss, params, X, found=found)
    for network, lax_calls in ((stock, found), (ours, 0)):
        jaxpr = jax.make_jaxpr(linen_loss(network, rest))(params, X)
        assert count_primitives(jaxpr.jaxpr, *LAX) == lax_calls


@pytest.mark.versions
def test_nnx():
    """The functional way: the module is split outside, and merged in the loss."""
    nnx = pytest.importorskip("flax.nnx")

    class Network(nnx.Module):
        def __init__(self, rngs, **options):
            self.stem = nnx.Conv(3, 8, (3, 3), rngs=rngs, **options)
            self.norm = nnx.BatchNorm(8, rngs=rngs)
            self.depthwise = nnx.Conv(
                8, 8, (3, 3), strides=2, feature_group_count=8, rngs=rngs, **options
            )
            self.up = nnx.ConvTranspose(8, 6, (2, 2), strides=(2, 2), rngs=rngs)
            self.head = nnx.Linear(6, 5, rngs=rngs)

        def __call__(self, x):
            x = nnx.relu(self.norm(self.stem(x)))
            x = nnx.max_pool(x, (2, 2), (2, 2)) + self.depthwise(x)
            return self.head(nnx.avg_pool(self.up(x), (3, 3)).mean((1, 2)))

    def split(**options):
        return nnx.split(Network(nnx.Rngs(0), **options), nnx.Param, ...)

    def loss_of(graph):
        def loss(params, rest, x):
            model = nnx.merge(graph, params, rest, copy=True)
            return cross_entropy(model(x)), nnx.state(model, nnx.BatchStat)

        return loss

    graph, params, rest = split()
    injected, _, _ = split(conv_general_dilated=cnnvjp.conv_general_dilated)

    def step(loss):
        return jax.jit(jax.value_and_grad(loss, has_aux=True))(params, rest, X)

    loss = loss_of(graph)
    expected = step(loss)
    assert_same(step(explicit(loss)), expected)
    assert_same(step(loss_of(injected)), expected)
    assert all_replaced(loss, params, rest, X, found=5)


def stateful_network(nnx):
    """A layer of each kind that changes when it is called, one of them called twice."""

    class Network(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(3, 3, (3, 3), use_bias=False, rngs=rngs)
            self.norm = self.again = nnx.BatchNorm(3, rngs=rngs)
            self.dropout = nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, x):
            x = self.dropout(self.norm(self.conv(x)))
            return jnp.mean(self.again(nnx.max_pool(x, (2, 2), (2, 2))) ** 3)

    return Network(nnx.Rngs(0))


def merged_inside(nnx, around):
    graph, state = nnx.split(stateful_network(nnx))

    def f(state, x):
        network = nnx.merge(graph, state)
        return network(x), nnx.state(network)

    return jax.jit(around(f)), state


def training_step(nnx, around):
    optax = pytest.importorskip("optax")
    network = stateful_network(nnx)
    optimizer = nnx.Optimizer(network, optax.sgd(0.1, momentum=0.9), wrt=nnx.Param)
    graph, state = nnx.split((network, optimizer))

    def step(state, x):
        network, optimizer = nnx.merge(graph, state)
        loss, slopes = nnx.value_and_grad(lambda network: network(x))(network)
        optimizer.update(network, slopes)
        return loss, nnx.state((network, optimizer))

    return jax.jit(around(step)), state


def with_network(step):
    """The same with the module itself, changed in place, as `nnx.jit` lets it be."""

    def made(nnx, around):
        network = stateful_network(nnx)
        compiled = nnx.jit(functools.partial(step, nnx, around))

        def f(_, x):
            loss = compiled(network, x)
            return loss, nnx.state(network)

        return f, None

    return made


def called(nnx, around, network, x):
    return around(lambda network, x: network(x))(network, x)


def differentiated(nnx, around, network, x):
    loss, slopes = nnx.value_and_grad(around(lambda network, x: network(x)))(network, x)
    return loss, nnx.grad(around(lambda network, x: network(x)))(network, x), slopes


def in_remat(nnx, around, network, x):
    return nnx.value_and_grad(nnx.remat(around(lambda network, x: network(x))))(network, x)


def with_remat_inside(nnx, around, network, x):
    return around(nnx.value_and_grad(nnx.remat(lambda network, x: network(x))))(network, x)


def in_scan(nnx, around, network, x):
    body = around(lambda network, x: (network, network(x[None])))
    scan = nnx.scan(body, in_axes=(nnx.Carry, 0), out_axes=(nnx.Carry, 0))
    return scan(network, x)[1]


def switched_off(nnx, around, network, x):
    def f(network, x):
        network.eval()
        return network(x)

    return around(f)(network, x), network.dropout.deterministic


IDIOMS = {
    "merged_inside": merged_inside,
    "training_step": training_step,
    **{
        f.__name__: with_network(f)
        for f in (called, differentiated, in_remat, with_remat_inside, in_scan, switched_off)
    },
}


@pytest.mark.versions
@pytest.mark.parametrize("idiom", IDIOMS)
def test_nnx_modules_that_change_in_place(idiom):
    """Statistics and keys come back as without `explicit`, and the next call goes on from them."""
    nnx = pytest.importorskip("flax.nnx")

    def two_steps(around):
        step, state = IDIOMS[idiom](nnx, around)
        first, state = step(state, X)
        second, state = step(state, X)
        is_key = lambda a: jnp.issubdtype(a.dtype, jax.dtypes.prng_key)
        states = [jax.random.key_data(a) if is_key(a) else a for a in jax.tree.leaves(state)]
        return first, second, states

    reports = []
    actual = two_steps(functools.partial(explicit, report=reports.append))
    assert reports and all(report.replaced for report in reports)
    assert_same(jax.tree.leaves(actual), jax.tree.leaves(two_steps(lambda f: f)))
    losses = [jax.tree.leaves(loss)[0] for loss in actual[:2]]
    assert (losses[0] == losses[1]).all() == (idiom == "switched_off"), "new masks every time"


def test_nnx_modules_that_f_closes_over():
    """As under `jax.jit`, Flax itself says so: the module must be an argument."""
    nnx = pytest.importorskip("flax.nnx")
    norm = nnx.BatchNorm(3, rngs=nnx.Rngs(0))
    with pytest.raises(Exception, match="Cannot mutate BatchStat from a different trace level"):
        explicit(lambda x: norm(x))(X)
    before = norm.mean[...]
    assert_close(explicit(lambda norm, x: norm(x))(norm, X), norm(X), tolerance=1e-5)
    assert (norm.mean[...] != before).all()


POOLS = [
    dict(window_shape=(2, 2)),
    dict(window_shape=(3, 2), strides=(2, 1), padding="SAME"),
    dict(window_shape=(3, 3), strides=(1, 2), padding=[(1, 1), [0, 2]]),
    dict(window_shape=(2,), strides=(2,)),
    dict(window_shape=(2, 2, 2)),
]


@pytest.mark.versions
@pytest.mark.parametrize("options", POOLS, ids=map(str, range(len(POOLS))))
def test_flax_pools(options):
    nn = pytest.importorskip("flax.linen")
    both = [(interop.flax_max_pool, nn.max_pool, {}), (interop.flax_avg_pool, nn.avg_pool, {})]
    both += [(interop.flax_avg_pool, nn.avg_pool, dict(count_include_pad=False))]
    for ours, stock, more in both:

        def slopes(pool, more=more):
            return jax.value_and_grad(lambda x: jnp.sum(jnp.sin(pool(x, **options, **more))))(X)

        assert_same(slopes(ours), slopes(stock))
    alone = X[0] if len(options["window_shape"]) == 2 else X
    assert_same(interop.flax_max_pool(alone, **options), nn.max_pool(alone, **options))


def test_flax_pools_take_every_sequence():
    """Of what Flax takes, tuples alone, these are the same; lists and arrays too."""
    nn = pytest.importorskip("flax.linen")
    expected = nn.max_pool(X, (3, 2), (2, 1))
    for kind in (list, np.array, lambda entries: tuple(map(np.int64, entries))):
        assert_same(interop.flax_max_pool(X, kind((3, 2)), kind((2, 1))), expected)


@pytest.mark.parametrize("pool", [interop.flax_max_pool, interop.flax_avg_pool])
def test_flax_pools_that_do_not_fit(pool):
    nn = pytest.importorskip("flax.linen")
    stock = getattr(nn, pool.__name__.removeprefix("flax_"))
    for options in (
        dict(window_shape=(2, 2), strides=(1,)),
        dict(window_shape=(2,) * 5),
        dict(window_shape=(2, 2), padding="SAMEISH"),
        dict(window_shape=(2, 2), padding=((1, 1),)),
        dict(window_shape=(0, 2)),
    ):
        with pytest.raises(Exception) as expected:
            stock(X, **options)
        with pytest.raises(expected.type, match=f"^{re.escape(str(expected.value))}"):
            pool(X, **options)
    for options, wrong in (
        (dict(window_shape=2), "window_shape: got 2"),
        (dict(window_shape=None), "window_shape: got None"),
        (dict(window_shape="22"), "window_shape: got '22'"),
        (dict(window_shape=(2, 2), strides=2), "strides: got 2"),
    ):
        with pytest.raises(TypeError, match=f"^{wrong}; it must be a sequence of ints$"):
            pool(X, **options)


# ------------------------------------------------------------------------------------------
# Equinox
# ------------------------------------------------------------------------------------------


def equinox_network(eqx):
    """Every kind of layer that is rewritten, in one and two dimensions, and one that is not."""
    nn, keys = eqx.nn, iter(jax.random.split(jax.random.key(0), 8))

    class Scaled(nn.Conv2d):
        """A user's own layer, on top of one of Equinox's."""

        def __call__(self, x, *, key=None):
            return 0.5 * super().__call__(x, key=key)

    return nn.Sequential(
        [
            nn.Conv2d(3, 8, 3, padding="SAME", key=next(keys)),
            nn.Lambda(jax.nn.relu),
            nn.MaxPool2d(3, 2, padding=1, use_ceil=True),
            Scaled(8, 8, 3, groups=8, padding=1, padding_mode="CIRCULAR", key=next(keys)),
            nn.ConvTranspose2d(8, 6, 3, 2, padding=1, output_padding=1, groups=2, key=next(keys)),
            nn.AvgPool2d(2, 2),
            nn.Lambda(lambda x: x.reshape(6, -1)),
            nn.Conv1d(6, 4, 5, stride=2, key=next(keys)),
            nn.MaxPool1d(2),
            nn.AdaptiveAvgPool1d(3),
            nn.Lambda(jnp.ravel),
            nn.Linear(12, 5, key=next(keys)),
        ]
    )


@pytest.mark.versions
def test_equinox():
    eqx = pytest.importorskip("equinox")
    stock = equinox_network(eqx)
    ours = interop.equinox_layers(stock)
    x = jnp.moveaxis(X, -1, 1)

    def loss(model, x):
        return cross_entropy(jax.vmap(model)(x))

    def leaves(tree):
        return jax.tree.leaves(eqx.filter(tree, eqx.is_array))

    expected = eqx.filter_jit(eqx.filter_value_and_grad(loss))(stock, x)
    actual = eqx.filter_jit(eqx.filter_value_and_grad(loss))(ours, x)
    assert_same(leaves(actual), leaves(expected))
    rewritten = eqx.filter_jit(eqx.filter_value_and_grad(explicit(loss)))(stock, x)
    assert_same(leaves(rewritten), leaves(expected))

    def jaxpr(model):
        arrays, static = eqx.partition(model, eqx.is_array)
        return jax.make_jaxpr(lambda a: loss(eqx.combine(a, static), x))(arrays).jaxpr

    assert count_primitives(jaxpr(stock), *LAX) == 7
    assert count_primitives(jaxpr(ours), *LAX) == 0


@pytest.mark.versions
def test_equinox_state():
    eqx = pytest.importorskip("equinox")

    class Network(eqx.Module):
        conv: eqx.nn.Conv2d
        norm: eqx.nn.BatchNorm

        def __init__(self):
            self.conv = eqx.nn.Conv2d(3, 4, 3, key=jax.random.key(0))
            self.norm = eqx.nn.BatchNorm(4, "batch", mode="batch")

        def __call__(self, x, state):
            return self.norm(self.conv(x), state)

    def loss(model, state, x):
        mapped = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
        y, state = mapped(x, state)
        return jnp.mean(y**3), state

    def two_steps(loss):
        step = eqx.filter_jit(eqx.filter_value_and_grad(loss, has_aux=True))
        model, state = eqx.nn.make_with_state(Network)()
        (first, state), slopes = step(model, state, jnp.moveaxis(X, -1, 1))
        return (
            first,
            eqx.filter(slopes, eqx.is_array),
            step(model, state, 2 * jnp.moveaxis(X, -1, 1))[0],
        )

    assert_same(*(jax.tree.leaves(two_steps(f)) for f in (explicit(loss), loss)))


@pytest.mark.versions
def test_equinox_models_stay_what_they_are():
    eqx = pytest.importorskip("equinox")
    stock = equinox_network(eqx)
    ours = interop.equinox_layers(stock)
    for a, b in zip(jax.tree.leaves(stock), jax.tree.leaves(ours), strict=True):
        assert a is b, "weights are shared"
    for a, b in zip(stock.layers, ours.layers, strict=True):
        assert isinstance(b, type(a))
        kept = isinstance(a, eqx.nn.Lambda | eqx.nn.Linear | eqx.nn.AdaptiveAvgPool1d)
        assert (type(a) is type(b)) == kept
    again = interop.equinox_layers(ours)
    assert jax.tree.structure(again) == jax.tree.structure(ours)
    zero = eqx.tree_at(lambda model: model.layers[0].weight, ours, jnp.zeros((8, 3, 3, 3)))
    assert (zero.layers[0](X[0].T) == stock.layers[0].bias).all()
    assert type(zero.layers[0]) is type(ours.layers[0])
    doubled = jax.tree.map(lambda a: 2 * a if eqx.is_array(a) else a, ours)
    assert (doubled.layers[7].weight == 2 * stock.layers[7].weight).all()
    layer = interop.equinox_layers(stock.layers[0])
    assert_close(layer(X[0].T), stock.layers[0](X[0].T), tolerance=1e-5)


# ------------------------------------------------------------------------------------------
# Haiku
# ------------------------------------------------------------------------------------------


@pytest.mark.versions
def test_haiku():
    hk = pytest.importorskip("haiku")

    def network(x, is_training):
        x = hk.Conv2D(8, 3, with_bias=False)(x)
        x = hk.BatchNorm(True, True, 0.9)(x, is_training)
        x = hk.max_pool(jax.nn.relu(x), (2, 2, 1), (2, 2, 1), "SAME")
        x = hk.DepthwiseConv2D(2, 3)(x)
        x = hk.Conv2DTranspose(6, 3, 2)(x)
        x = hk.AvgPool((2, 2, 1), (2, 2, 1), "SAME")(x)
        return hk.Linear(5)(x.mean((1, 2)))

    stock = hk.transform_with_state(network)
    ours = interop.haiku_transformed(stock)
    assert isinstance(ours, hk.TransformedWithState) and ours.init is stock.init
    params, state = stock.init(jax.random.key(0), X, True)

    def step(transformed):
        def loss(params):
            y, new = transformed.apply(params, state, None, X, is_training=True)
            return cross_entropy(y), new

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)

    assert_same(step(ours), step(stock))
    apply = lambda params: stock.apply(params, state, None, X, True)
    assert all_replaced(apply, params, found=6)  # "SAME" averages divide by a sum over windows


@pytest.mark.versions
def test_haiku_relatives():
    hk = pytest.importorskip("haiku")

    def two():
        conv = hk.Conv1D(3, 3)
        return conv, (conv, lambda x: conv(conv(x)))

    x = X[:, :, 0]
    stock = hk.multi_transform(two)
    ours = interop.haiku_transformed(stock)
    assert jax.tree.structure(ours.apply) == jax.tree.structure(stock.apply)
    params = stock.init(jax.random.key(0), x)
    for mine, theirs in zip(ours.apply, stock.apply, strict=True):
        assert_same(mine(params, None, x), theirs(params, None, x))
        assert all_replaced(theirs, params, None, x, found=1 if theirs is stock.apply[0] else 2)
    with pytest.raises(
        TypeError, match=r"^transformed: got function; it must be what hk\.transform"
    ):
        interop.haiku_transformed(two)


# ------------------------------------------------------------------------------------------
# What is documented, without them, and Flax's own tests
# ------------------------------------------------------------------------------------------


@pytest.mark.versions
@pytest.mark.parametrize("name", interop.__all__)
def test_examples_run(name):
    libraries = dict(equinox_layers="equinox", haiku_transformed="haiku")
    pytest.importorskip(libraries.get(name, "flax"))
    (test,) = doctest.DocTestFinder().find(getattr(interop, name), name, globs=vars(interop))
    results = doctest.DocTestRunner().run(test)
    assert results.attempted >= 3 and not results.failed


PARTS = {
    "flax": lambda: interop.flax_max_pool(X, (2, 2)),
    "equinox": lambda: interop.equinox_layers({}),
    "haiku": lambda: interop.haiku_transformed(None),
}


@pytest.mark.parametrize("library", PARTS)
def test_what_is_missing_is_named(monkeypatch, library):
    hidden = [name for name in sys.modules if name.split(".")[0] == library]
    for name in hidden:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(ImportError, match=rf"^{library} is not installed; .*cnnvjp\[interop\]"):
        PARTS[library]()


SOURCE = Path(os.environ.get("FLAX_SOURCE", ""))


@pytest.mark.skipif("FLAX_SOURCE" not in os.environ, reason="names no checkout of Flax")
@pytest.mark.parametrize("file", ["linen/linen_linear_test.py", "nnx/nn/conv_test.py"])
def test_flax_own_tests(file):
    """Flax's tests of its convolution layers, from a checkout of its repository."""
    pytest.importorskip("flax")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull]
    command += ["-p", "flax_injected", "-k", "onv", str(SOURCE / "tests" / file)]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert int(re.search(r"was called (\d+) times", done.stdout).group(1)) > 20, done.stdout[-500:]
