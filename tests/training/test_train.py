"""The training step: what it computes, donates and compiles, on one device and on several."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from checker import assert_close, assert_trees_close, normal
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from cnnvjp import train
from cnnvjp.affine import dense
from cnnvjp.losses import half_squared_error, softmax_cross_entropy
from cnnvjp.model import Model
from cnnvjp.models import squares_and_diamonds, textbook

KEY = jax.random.key(0)
FEATURES, CLASSES, BATCH = 5, 3, 8


def linear_model(log=None, dtype="float64"):
    """Softmax regression with a running mean of its inputs and noise in training.

    `log` receives `(train, key)` at every trace.
    """

    def init(key, input_shape):
        w = np.sin(np.arange(FEATURES * CLASSES)).reshape(*input_shape, CLASSES)
        params = {"w": jnp.asarray(w, dtype), "b": jnp.zeros(CLASSES, dtype)}
        return params, {"mean": jnp.zeros(input_shape, dtype)}

    def apply(params, state, x, *, train, key=None, perturbations=None):
        if log is not None:
            log.append((train, key))
        if train:
            state = {"mean": 0.9 * state["mean"] + 0.1 * x.mean(0)}
            x = x + 0.01 * jax.random.normal(key, x.shape, x.dtype)
        return dense(x - state["mean"][None], params["w"], params["b"]), state

    return Model(init, apply)


@pytest.fixture
def batch(rng):
    return normal(rng, BATCH, FEATURES), jnp.asarray(rng.integers(0, CLASSES, BATCH))


def start(model, optimizer):
    return train.create(KEY, model, optimizer, (FEATURES,))


def copy(tree):
    return jax.tree.map(lambda a: np.array(a), tree)


# ------------------------------------------------------------------------------------------
# One device
# ------------------------------------------------------------------------------------------


@pytest.mark.versions
def test_steps_equal_those_written_by_hand(batch):
    """Gradient descent in plain JAX: parameters, state, metrics, and the key of each step."""
    x, t = batch
    model, optimizer = linear_model(), optax.sgd(0.5)
    train_state = start(model, optimizer)
    params, state = copy(train_state.params), copy(train_state.state)
    step = train.make_train_step(model, softmax_cross_entropy, optimizer)

    def loss(params, mean, key):
        noisy = x + 0.01 * jax.random.normal(key, x.shape, x.dtype)
        y = (noisy - mean[None]) @ params["w"] + params["b"][None]
        return -jax.nn.log_softmax(y)[jnp.arange(BATCH), t].mean(), y

    for number in range(3):
        train_state, metrics = step(train_state, batch, KEY)
        mean = 0.9 * state["mean"] + 0.1 * x.mean(0)
        key = jax.random.fold_in(KEY, number)
        (value, y), gradients = jax.value_and_grad(loss, has_aux=True)(params, mean, key)
        norm = jnp.sqrt(sum(jnp.sum(g**2) for g in gradients.values()))
        params = jax.tree.map(lambda p, g: p - 0.5 * g, params, gradients)
        state = {"mean": mean}
        assert train_state.step == number + 1 and train_state.step.dtype == jnp.int32
        assert_trees_close(train_state.params, params, tolerance=1e-12)
        assert_trees_close(train_state.state, state, tolerance=1e-12)
        assert set(metrics) == {"loss", "grad_norm", "accuracy"}
        assert_close(metrics["loss"], value)
        assert_close(metrics["grad_norm"], norm)
        assert metrics["accuracy"] == np.mean(np.argmax(y, -1) == t)


@pytest.mark.parametrize("mesh", [None, 2])
def test_observed_gradients(batch, mesh):
    """`observe` sees the gradients of the whole batch, and its metrics come with the others."""
    model, optimizer = linear_model(), optax.sgd(0.5)
    train_state = start(model, optimizer)
    before = copy(train_state.params)
    step = train.make_train_step(
        model,
        softmax_cross_entropy,
        optimizer,
        mesh=mesh and jax.make_mesh((mesh,), ("data",), devices=jax.devices()[:mesh]),
        observe=lambda gradients: {name: jnp.sum(g**2) for name, g in gradients.items()},
    )
    train_state, metrics = step(train_state, batch, KEY)
    assert set(metrics) == {"loss", "grad_norm", "accuracy", "w", "b"}
    for name in ("w", "b"):
        gradient = (before[name] - train_state.params[name]) / 0.5
        assert_close(metrics[name], jnp.sum(gradient**2))
    assert_close(metrics["grad_norm"] ** 2, metrics["w"] + metrics["b"])


def test_loss_falls(rng):
    """A convolutional network learns to tell rising from falling slopes, with Adam."""
    x = np.zeros((16, 12, 12, 1), "float32")
    for i, image in enumerate(x):
        image[..., 0] = (np.eye(12) if i % 2 else np.eye(12)[::-1]) + 0.1 * rng.normal(
            size=(12, 12)
        )
    batch = (x, np.arange(16) % 2)
    model, optimizer = textbook(2, maps=(4, 4), kernel_size=3), optax.adam(0.03)
    with jax.numpy_dtype_promotion("standard"):  # Optax relies on it
        train_state = train.create(KEY, model, optimizer, x.shape[1:])
        step = train.make_train_step(model, softmax_cross_entropy, optimizer)
        train_state, first = step(train_state, batch, KEY)
        for _ in range(60):
            train_state, last = step(train_state, batch, KEY)
    assert last["loss"] < 0.1 * first["loss"]
    evaluated = train.make_eval_step(model, softmax_cross_entropy)(train_state, batch)
    assert evaluated["accuracy"] == 1 and evaluated["loss"] < last["loss"]


def test_compiled_once(batch):
    log = []
    model, optimizer = linear_model(log), optax.sgd(0.1, momentum=0.9)
    train_state = start(model, optimizer)
    step = train.make_train_step(model, softmax_cross_entropy, optimizer)
    evaluate = train.make_eval_step(model, softmax_cross_entropy)
    for _ in range(4):
        train_state, _ = step(train_state, batch, KEY)
        evaluate(train_state, batch)
    assert [trained for trained, _ in log] == [True, False]
    assert log[1][1] is None


@pytest.mark.versions
def test_the_train_state_is_donated(batch):
    """Its memory is reused, for every leaf and without a warning, and evaluation spares it."""
    model, optimizer = linear_model(), optax.sgd(0.1, momentum=0.9)
    first = start(model, optimizer)
    train.make_eval_step(model, softmax_cross_entropy)(first, batch)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(first))
    second, _ = train.make_train_step(model, softmax_cross_entropy, optimizer)(first, batch, KEY)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(first))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((second, batch)))


def test_create_takes_only_copies():
    """What a model keeps (a designed network) or an optimizer shares is not overwritten."""
    kept = {"w": jnp.ones((FEATURES, CLASSES)), "b": jnp.zeros(CLASSES)}
    model = Model(lambda key, input_shape: (kept, {}), linear_model().apply)
    model = Model(model.init, lambda p, s, x, **_: (dense(x, p["w"], p["b"]), s))
    keeps_params = optax.GradientTransformation(
        lambda params: params, lambda updates, state, params: (updates, state)
    )
    optimizer = optax.chain(optax.sgd(0.1), keeps_params)
    batch = (jnp.ones((BATCH, FEATURES)), jnp.zeros(BATCH, jnp.int32))
    step = train.make_train_step(model, softmax_cross_entropy, optimizer)
    for _ in range(2):
        train_state, _ = step(start(model, optimizer), batch, KEY)
        assert (kept["w"] == 1).all() and (train_state.opt_state[1]["w"] == 1).all()
    train_state, _ = step(train_state, batch, KEY)
    assert train_state.step == 2


def test_evaluation_is_inference(batch):
    """The running mean is used and not moved, and nothing is random."""
    x, t = batch
    model, optimizer = linear_model(), optax.sgd(0.1)
    train_state = start(model, optimizer)
    train_state = train_state._replace(state={"mean": x[0]})
    metrics = train.make_eval_step(model, softmax_cross_entropy)(train_state, batch)
    y = (x - x[:1]) @ train_state.params["w"]
    assert_close(metrics["loss"], -jax.nn.log_softmax(y)[jnp.arange(BATCH), t].mean())
    assert set(metrics) == {"loss", "accuracy"}


@pytest.mark.parametrize(
    "targets, with_accuracy",
    [
        (np.zeros(BATCH, "int8"), True),
        (np.zeros(BATCH, "uint8"), True),
        (np.zeros((BATCH, CLASSES), "int32"), False),  # several labels at once
        (np.zeros((BATCH, CLASSES)), False),
    ],
)
def test_accuracy_needs_labels(rng, targets, with_accuracy):
    """Integers with one entry for each vector of logits, and nothing else."""

    def loss(y, t):
        return jnp.sum(y, -1)

    model = linear_model()
    evaluate = train.make_eval_step(model, loss)
    metrics = evaluate(start(model, optax.sgd(0.1)), (normal(rng, BATCH, FEATURES), targets))
    assert ("accuracy" in metrics) == with_accuracy


def test_loss_for_each_position(rng):
    """A loss may have more axes than the batch; all of them are averaged over."""
    identity = Model(
        lambda key, input_shape: (jnp.zeros(input_shape), {}),
        lambda params, state, x, **_: (x + params[None], state),
    )
    x, t = normal(rng, 4, 3, 3, 2), normal(rng, 4, 3, 3, 2)
    train_state = train.create(KEY, identity, optax.sgd(1.0), (3, 3, 2))
    step = train.make_train_step(identity, half_squared_error, optax.sgd(1.0))
    train_state, metrics = step(train_state, (x, t), KEY)
    assert_close(metrics["loss"], 0.5 * jnp.square(x - t).sum(-1).mean())
    assert_close(train_state.params, (t - x).sum(0) / (4 * 9))


def test_accuracy_of_each_position(rng):
    """Labels of pixels count as those of images do."""
    model = Model(lambda key, shape: ({}, {}), lambda params, state, x, **_: (x, state))
    x, t = normal(rng, 4, 3, 5, 7), rng.integers(7, size=(4, 3, 5))
    train_state = train.create(KEY, model, optax.sgd(1.0), (3, 5, 7))
    metrics = train.make_eval_step(model, softmax_cross_entropy)(train_state, (x, t))
    assert metrics["accuracy"] == pytest.approx(np.mean(np.argmax(x, -1) == t))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_low_precision(rng, dtype):
    """Parameters and state keep their dtype; metrics are at least float32."""
    model, optimizer = linear_model(dtype=dtype), optax.sgd(0.125)
    train_state = start(model, optimizer)
    batch = (normal(rng, BATCH, FEATURES, dtype=dtype), jnp.zeros(BATCH, jnp.int32))
    expected = jax.tree.map(lambda leaf: leaf.dtype, train_state)
    step = train.make_train_step(model, softmax_cross_entropy, optimizer)
    train_state, metrics = step(train_state, batch, KEY)
    assert jax.tree.map(lambda leaf: leaf.dtype, train_state) == expected
    assert {m.dtype for m in metrics.values()} == {jnp.dtype("float32")}


# ------------------------------------------------------------------------------------------
# Several devices
# ------------------------------------------------------------------------------------------

NETWORK = textbook(3, maps=(2, 3), kernel_size=3, dtype="float64")
IMAGES = (10, 10, 1)


def image_batch(rng):
    return np.asarray(normal(rng, 16, *IMAGES)), rng.integers(0, 3, 16)


def mesh_of(*shape, kind=AxisType.Auto):
    names = ("data", "model")[: len(shape)]
    devices = jax.devices()[: math.prod(shape)]
    return jax.make_mesh(shape, names, axis_types=(kind,) * len(shape), devices=devices)


def three_steps(batch, mesh):
    optimizer = optax.sgd(0.1, momentum=0.9)
    train_state = train.create(KEY, NETWORK, optimizer, IMAGES)
    step = train.make_train_step(NETWORK, softmax_cross_entropy, optimizer, mesh=mesh)
    for _ in range(3):
        train_state, metrics = step(train_state, batch, KEY)
    evaluate = train.make_eval_step(NETWORK, softmax_cross_entropy, mesh=mesh)
    return train_state, metrics, evaluate(train_state, batch)


@pytest.fixture(scope="module")
def one_device():
    batch = image_batch(np.random.default_rng(3))
    return batch, three_steps(batch, None)


@pytest.mark.versions
@pytest.mark.parametrize("count", [2, 8])
def test_a_mesh_gives_the_same_numbers(one_device, count):
    batch, expected = one_device
    actual = three_steps(batch, mesh_of(count))
    assert_trees_close(actual, expected, tolerance=1e-10)
    for leaf in jax.tree.leaves(actual):
        assert leaf.sharding.is_fully_replicated and len(leaf.devices()) == count


@pytest.mark.versions
def test_devices_exchange_gradients_alone():
    """Gradients are summed over the devices; no batch and no parameter is gathered."""
    mesh = mesh_of(2)
    optimizer = optax.sgd(0.1)
    train_state = train.create(KEY, NETWORK, optimizer, IMAGES)
    step = train.make_train_step(NETWORK, softmax_cross_entropy, optimizer, mesh=mesh)
    whole, divided = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))
    args = (train_state, image_batch(np.random.default_rng(3)), KEY)
    compiled = step.__wrapped__.lower(*jax.device_put(args, (whole, divided, whole))).compile()
    text = compiled.as_text()
    assert "all-reduce" in text
    for movement in ("all-gather", "all-to-all", "collective-permute"):
        assert movement not in text
    # Each device holds half of the batch and all of the parameters.
    shardings = jax.tree.leaves(compiled.input_shardings[0])
    assert sum(not sharding.is_fully_replicated for sharding in shardings) == 2


def test_an_explicit_mesh_of_two_axes(batch):
    """The batch is divided along the first axis; Explicit axes are taken to be Auto."""
    mesh = mesh_of(2, 2, kind=AxisType.Explicit)
    model, optimizer = linear_model(), optax.sgd(0.1)
    expected, _ = train.make_train_step(model, softmax_cross_entropy, optimizer)(
        start(model, optimizer), batch, KEY
    )
    step = train.make_train_step(model, softmax_cross_entropy, optimizer, mesh=mesh)
    for given in (batch, jax.device_put(batch, NamedSharding(mesh, P("data")))):
        actual, _ = step(start(model, optimizer), given, KEY)
        assert_trees_close(actual, expected, tolerance=1e-10)


def test_compiled_once_on_a_mesh(batch):
    """Whether the batch lies on the host, on one device, or divided already."""
    log, mesh = [], mesh_of(2)
    model, optimizer = linear_model(log), optax.sgd(0.1, momentum=0.9)
    train_state = start(model, optimizer)
    step = train.make_train_step(model, softmax_cross_entropy, optimizer, mesh=mesh)
    divided = jax.device_put(batch, NamedSharding(mesh, P("data")))
    on_one = jax.device_put(batch, jax.devices()[1])
    for given in (batch, copy(batch), divided, on_one):
        train_state, _ = step(train_state, given, KEY)
    assert len(log) == 1 and step.__wrapped__._cache_size() == 1


def test_a_mesh_donates_too(batch):
    """The state placed on the mesh is reused, and what a caller still holds stays right."""
    model, optimizer = linear_model(), optax.sgd(0.1)
    step = train.make_train_step(model, softmax_cross_entropy, optimizer, mesh=mesh_of(2))
    first = start(model, optimizer)
    before = copy(first.params)
    second, _ = step(first, batch, KEY)
    if not any(leaf.is_deleted() for leaf in jax.tree.leaves(first)):
        assert_trees_close(first.params, before, tolerance=0.0)
    third, _ = step(second, batch, KEY)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(second))
    assert third.step == 2


# ------------------------------------------------------------------------------------------
# Wrong calls
# ------------------------------------------------------------------------------------------

X, T = np.zeros((BATCH, FEATURES)), np.zeros(BATCH, "int32")


@pytest.mark.parametrize("mesh", [(), (2,)], ids=["one device", "mesh"])
@pytest.mark.parametrize(
    "batch, loss, kind, text",
    [
        (X, softmax_cross_entropy, TypeError, r"batch: got one array; it must be a pair \(x, t\)"),
        ((X, T, T), softmax_cross_entropy, TypeError, r"batch: got a tuple of 3"),
        ({"x": X, "t": T}, softmax_cross_entropy, TypeError, r"batch: got a dict"),
        ((X, T[:6]), softmax_cross_entropy, ValueError, r"batch: .*\(8, 5\), \(6,\).*same number"),
        ((X[:0], T[:0]), softmax_cross_entropy, ValueError, r"batch: .* at least one"),
        ((X, np.int32(0)), softmax_cross_entropy, ValueError, r"batch: .*\(\)"),
        ((X, T), lambda y, t: y.mean(), ValueError, r"loss: got an array of shape \(\).*\(8, \.\.\.\)"),
        ((X, T), lambda y, t: y.sum(0), ValueError, r"loss: got an array of shape \(3,\)"),
        ((X, T), lambda y, t: t, TypeError, r"loss: got int32; it must return a floating"),
        ((X, T), lambda y, t: 0.0, TypeError, r"loss: got float"),
    ],
)  # fmt: skip
def test_wrong_batches_and_losses(batch, loss, kind, text, mesh):
    model, optimizer = linear_model(), optax.sgd(0.1)
    train_state = start(model, optimizer)
    mesh = mesh_of(*mesh) if mesh else None
    with pytest.raises(kind, match=text):
        train.make_train_step(model, loss, optimizer, mesh=mesh)(train_state, batch, KEY)
    with pytest.raises(kind, match=text):
        train.make_eval_step(model, loss, mesh=mesh)(train_state, batch)


def test_wrong_mesh(batch):
    model, optimizer = linear_model(), optax.sgd(0.1)
    with pytest.raises(TypeError, match=r"mesh: got list; it must be a jax\.sharding\.Mesh"):
        train.make_train_step(model, softmax_cross_entropy, optimizer, mesh=jax.devices())
    step = train.make_train_step(model, softmax_cross_entropy, optimizer, mesh=mesh_of(2))
    odd = jax.tree.map(lambda a: a[:7], batch)
    with pytest.raises(ValueError, match=r"batch: got 7 examples; .* 2 devices of its axis 'data'"):
        step(start(model, optimizer), odd, KEY)


def test_wrong_input_shape():
    with pytest.raises(ValueError, match="input_shape"):
        train.create(KEY, squares_and_diamonds(), optax.sgd(0.1), (28, 28, 1))
