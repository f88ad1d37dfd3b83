"""Models: what they compute, the names inside them, and the network that was designed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checker import assert_close, check_first_order, normal
from jax import lax

from cnnvjp.convolution import conv_kernel_grad, conv_transpose
from cnnvjp.losses import softmax_cross_entropy
from cnnvjp.model import Model
from cnnvjp.models import (
    autoencoder,
    lenet5,
    mobilenet,
    resnet,
    squares_and_diamonds,
    textbook,
)

KEY = jax.random.key(0)

SMALL = textbook(3, maps=(2, 3), kernel_size=(3, 2), dtype="float64")
SMALL_SHAPE = (11, 10, 2)


def random_params(rng, model, input_shape):
    """Parameters of the shapes that `init` gives, biases not zero, without compiling it."""
    params, state = jax.eval_shape(lambda: model.init(KEY, input_shape))
    return jax.tree.map(lambda a: 0.3 * normal(rng, *a.shape, dtype=a.dtype), params), state


@pytest.fixture(scope="module")
def small():
    """A textbook model's parameters and state in float64, images and labels."""
    rng = np.random.default_rng(7)
    params, state = random_params(rng, SMALL, SMALL_SHAPE)
    return params, state, normal(rng, 4, *SMALL_SHAPE), jnp.array([0, 2, 1, 2])


# ------------------------------------------------------------------------------------------
# Against the same networks in lax and jnp
# ------------------------------------------------------------------------------------------


def lax_conv(x, layer, stride=1, padding="VALID"):
    dims = ("NHWC", "HWIO", "NHWC")
    y = lax.conv_general_dilated(x, layer["w"], (stride, stride), padding, dimension_numbers=dims)
    return y + layer["b"].reshape(1, 1, 1, -1)


def lax_conv_transpose(y, layer, size):
    """What the transpose of a strided convolution is: its vjp."""
    x = jnp.zeros((y.shape[0], *size, layer["w"].shape[-2]), y.dtype)
    without_bias = {"w": layer["w"], "b": jnp.zeros(layer["w"].shape[-1:], y.dtype)}
    _, pullback = jax.vjp(lambda x: lax_conv(x, without_bias, 2, "SAME"), x)
    return pullback(y)[0] + layer["b"].reshape(1, 1, 1, -1)


def lax_pool(x, initial, function):
    return lax.reduce_window(x, initial, function, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def lax_dense(x, layer):
    return x @ layer["w"] + layer["b"].reshape(1, -1)


def lax_textbook(params, x):
    for name in ("conv1", "conv3"):
        x = lax_pool(jax.nn.relu(lax_conv(x, params[name])), -jnp.inf, lax.max)
    columns = x.transpose(0, 3, 2, 1).reshape(len(x), -1)  # [H] 8.26
    return lax_dense(columns, params["dense5"])


def lax_lenet5(params, x, classic):
    f = jnp.tanh if classic else jax.nn.relu

    def pool(x, name):
        if not classic:
            return lax_pool(x, -jnp.inf, lax.max)
        summed = lax_pool(x, 0.0, lax.add)
        pool = jax.tree.map(lambda a: a.reshape(1, 1, 1, -1), params[name])
        return jnp.tanh(summed * pool["w"] + pool["b"])

    x = pool(f(lax_conv(x, params["conv1"])), "pool2")
    x = pool(f(lax_conv(x, params["conv3"])), "pool4").reshape(len(x), -1)
    return lax_dense(
        f(lax_dense(f(lax_dense(x, params["dense5"])), params["dense6"])), params["dense7"]
    )


def lax_autoencoder(params, x):
    a1 = jax.nn.relu(lax_conv(x, params["conv1"], 2, "SAME"))
    a2 = jax.nn.relu(lax_conv(a1, params["conv2"], 2, "SAME"))
    a3 = jax.nn.relu(lax_conv_transpose(a2, params["conv_transpose3"], a1.shape[1:3]))
    return lax_conv_transpose(a3, params["conv_transpose4"], x.shape[1:3])


REFERENCES = {
    "textbook": (textbook(3, maps=(2, 4), dtype="float64"), (25, 22, 2), lax_textbook),
    "lenet5": (
        lenet5(7, dtype="float64"),
        (24, 20, 1),
        lambda params, x: lax_lenet5(params, x, False),
    ),
    "classic lenet5": (
        lenet5(7, classic=True, dtype="float64"),
        (20, 24, 3),
        lambda params, x: lax_lenet5(params, x, True),
    ),
    "autoencoder": (autoencoder((3, 2), dtype="float64"), (7, 10, 2), lax_autoencoder),
}


@pytest.mark.versions
@pytest.mark.parametrize("name", REFERENCES)
def test_values_and_gradients(rng, name):
    model, input_shape, reference = REFERENCES[name]
    params, state = random_params(rng, model, input_shape)
    assert state == {}
    x = normal(rng, 3, *input_shape)
    check_first_order(
        lambda params, x: model.apply(params, state, x, train=True)[0], reference, params, x
    )


@pytest.mark.parametrize("batch", [(), (1,), (2, 3), (0,)])
@pytest.mark.parametrize("name", REFERENCES)
def test_any_batch_axes(name, batch):
    model, input_shape, _ = REFERENCES[name]
    params, state = jax.eval_shape(lambda: model.init(KEY, input_shape))
    x = jax.ShapeDtypeStruct((*batch, *input_shape), "float64")
    y = jax.eval_shape(lambda *a: model.apply(*a, train=False)[0], params, state, x)
    classes = {"textbook": (3,), "autoencoder": input_shape}.get(name, (7,))
    assert y.shape == (*batch, *classes)


def test_vmap_is_the_batch(small):
    params, state, x, _ = small

    def logits(x):
        return SMALL.apply(params, state, x, train=False)[0]

    assert_close(jax.vmap(logits)(x), logits(x))


@pytest.mark.parametrize("make", [textbook, lenet5, autoencoder, squares_and_diamonds])
def test_dtype(make):
    """The parameters' dtype, and so that of the output; a second dtype is an error."""
    model = make(dtype=jnp.bfloat16)
    shape = (15, 15, 1) if make is squares_and_diamonds else (16, 16, 1)
    params, state = jax.eval_shape(lambda: model.init(KEY, shape))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("bfloat16")}

    def output(x):
        return jax.eval_shape(lambda *a: model.apply(*a, train=False)[0], params, state, x)

    assert output(jax.ShapeDtypeStruct(shape, "bfloat16")).dtype == "bfloat16"
    with pytest.raises(TypeError, match="share a dtype"):
        output(jax.ShapeDtypeStruct(shape, "float32"))


# ------------------------------------------------------------------------------------------
# Initial parameters
# ------------------------------------------------------------------------------------------


def test_sizes():
    def sizes(model, shape):
        params, _ = jax.eval_shape(lambda: model.init(KEY, shape))
        return {name: layer["w"].shape for name, layer in params.items()}

    assert sizes(lenet5(), (32, 32, 1)) == {
        "conv1": (5, 5, 1, 6),
        "conv3": (5, 5, 6, 16),
        "dense5": (400, 120),
        "dense6": (120, 84),
        "dense7": (84, 10),
    }
    assert sizes(lenet5(classic=True), (32, 32, 3))["pool4"] == (16,)
    assert sizes(textbook(window=(2, 3)), (28, 33, 1))["dense5"] == (16 * 4 * 1, 10)


def test_initial_weights_keep_the_variance(rng):
    """Net inputs vary as much at the end of a network as at its start, down and up."""
    model = autoencoder((64, 64))
    params, state = model.init(KEY, (16, 16, 64))
    x = normal(rng, 8, 16, 16, 64, dtype="float32")
    for name, value in jax.jit(model.intermediates)(params, state, x).items():
        if name.startswith("n"):
            scale = np.sqrt(np.mean(np.square(np.asarray(value))))
            assert 0.5 < scale < 2, (name, scale)


def number(layer):
    return int("".join(filter(str.isdigit, layer)))


def he(w):
    """Of all but the last axis, which the outputs are counted along."""
    return 2 / np.prod(w[:-1])


def glorot(w):
    return 2 / (np.prod(w[:-1]) + np.prod(w[:-2]) * w[-1])


def upward(w):
    """He's, where the last axis counts the inputs and a pixel is reached by a tap of four."""
    return 2 * 4 / (np.prod(w[:-2]) * w[-1])


VARIANCES = {
    "textbook": (textbook(7, maps=(5, 6), kernel_size=(3, 4), dtype="float64"), (16, 21, 3), [he, he, glorot]),
    "lenet5": (lenet5(7, dtype="float64"), (18, 24, 3), [he, he, he, he, glorot]),
    "classic": (lenet5(7, classic=True, dtype="float64"), (18, 24, 3), [glorot] * 5),
    "autoencoder": (autoencoder((7, 5), dtype="float64"), (9, 8, 3), [he, he, upward, lambda w: upward(w) / 2]),
    "resnet": (resnet(8, 7, dtype="float64"), (4, 6, 3), [he] * 9 + [glorot]),
    "mobilenet": (mobilenet(7, width=0.1, dtype="float64"), (4, 6, 3), [he] * 52 + [glorot]),
}  # fmt: skip


@pytest.mark.parametrize("name", VARIANCES)
def test_initial_parameters(name):
    """The spread of every layer, no number twice in a model, and a key that matters."""
    model, shape, variances = VARIANCES[name]
    init = jax.jit(lambda key: model.init(key, shape))
    (params, state), (again, _), (other, _) = (init(jax.random.key(i)) for i in (1, 1, 2))
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), params, again))
    drawn = []
    layers = sorted(set(params) - {"pool2", "pool4"}, key=number)
    for layer, variance in zip(layers, variances, strict=True):
        w = np.asarray(params[layer]["w"])
        unit = w / np.sqrt(variance(w.shape))
        assert abs(unit.std() - 1) < 3 / np.sqrt(w.size), layer
        assert (w != np.asarray(other[layer]["w"])).all()
        drawn.append(unit.ravel())
    drawn = np.concatenate(drawn)
    assert len(np.unique(drawn.round(12))) == len(drawn)
    assert 2 < abs(drawn).max() < 2 / 0.8796  # cut off at two deviations, and then scaled
    constants = {"b": 0, "beta": 0, "gamma": 1, "mean": 0, "var": 1}
    for layer, arrays in [*params.items(), *state.items()]:
        for which, array in arrays.items():
            if layer not in layers or which != "w":
                assert (array == constants.get(which, 0.25)).all()  # of pooling: the mean


@pytest.mark.parametrize("height", range(1, 10))
def test_autoencoder_recovers_every_size(height):
    """[GBC]: the transpose is told the input's size, of which two lead to the same code."""
    model = autoencoder((2, 1))
    for width in (1, 6, 7, 13):
        params, state = jax.eval_shape(lambda width=width: model.init(KEY, (height, width, 1)))
        x = jax.ShapeDtypeStruct((height, width, 1), "float32")
        values = jax.eval_shape(model.intermediates, params, state, x)
        assert values["n4"].shape == x.shape
        assert values["a2"].shape == (-(-height // 4), -(-width // 4), 1)


# ------------------------------------------------------------------------------------------
# Names: [H] 8.28–8.29
# ------------------------------------------------------------------------------------------

NAMES = {
    "textbook": "lz1 n1 a1 a2 lz3 n3 a3 a4 lz5 n5",
    "lenet5": "lz1 n1 a1 a2 lz3 n3 a3 a4 lz5 n5 a5 lz6 n6 a6 lz7 n7",
    "classic lenet5": "lz1 n1 a1 lz2 n2 a2 lz3 n3 a3 lz4 n4 a4 lz5 n5 a5 lz6 n6 a6 lz7 n7",
    "autoencoder": "lz1 n1 a1 lz2 n2 a2 lz3 n3 a3 lz4 n4",
}


@pytest.mark.parametrize("name", NAMES)
def test_names(rng, name):
    """Intermediate values have their names in order, and the last is the output."""
    model, input_shape, _ = REFERENCES[name]
    params, state = random_params(rng, model, input_shape)
    names = []

    @jax.jit
    def last_and_output(x):
        values = model.intermediates(params, state, x)
        names.extend(values)
        return list(values.values())[-1], model.apply(params, state, x, train=False)[0]

    last, y = last_and_output(normal(rng, 2, *input_shape))
    assert names == NAMES[name].split()
    assert (last == y).all()


@pytest.mark.versions
def test_sensitivities(small):
    """Every step of [H] 8.29–8.31 between the sensitivities that perturbations give."""
    params, state, x, labels = small
    a = SMALL.intermediates(params, state, x)
    zero = jax.tree.map(jnp.zeros_like, a)

    def loss(params, perturbations):
        y, _ = SMALL.apply(params, state, x, train=True, perturbations=perturbations)
        return softmax_cross_entropy(y, labels).sum()

    gradients, d = jax.jit(jax.grad(loss, (0, 1)))(params, zero)
    assert set(d) == set(a)
    assert_close(d["n5"], jax.nn.softmax(a["n5"]) - jax.nn.one_hot(labels, 3, dtype="float64"))
    for layer, name, below in ((1, "conv1", x), (3, "conv3", a["a2"])):
        dn, dlz = d[f"n{layer}"], d[f"lz{layer}"]
        slope = (a[f"n{layer}"] > 0).astype("float64")  # of relu
        assert_close(dn, slope * d[f"a{layer}"])  # 8.53
        assert_close(dlz, dn)  # 8.35
        assert_close(gradients[name]["b"], dn.sum((0, 1, 2)))  # 8.36
        assert_close(gradients[name]["w"], conv_kernel_grad(below, dlz, (3, 2)))  # 8.47
    assert_close(
        d["a2"], conv_transpose(d["lz3"], params["conv3"]["w"], output_size=(4, 4))
    )  # 8.44


def test_a_perturbation_moves_what_comes_after(small):
    params, state, x, _ = small
    plain = SMALL.intermediates(params, state, x)
    shift = jnp.full_like(plain["n5"], 2.0)
    y, _ = SMALL.apply(params, state, x, train=False, perturbations={"n5": shift})
    assert_close(y, plain["n5"] + 2.0)
    y, _ = SMALL.apply(params, state, x, train=False, perturbations={"lz5": shift, "n5": -shift})
    assert_close(y, plain["n5"])


def scaling(key, input_shape):
    return jnp.ones(input_shape), {"calls": jnp.zeros((), jnp.int32)}


def test_a_model_by_hand():
    """init and apply are all that a model needs; it is hashable, and fails kindly for names."""

    def apply(params, state, x, *, train, key=None, perturbations=None):
        return x * params, {"calls": state["calls"] + 1}

    model = Model(scaling, apply)
    assert hash(model) == hash(Model(scaling, apply))
    params, state = model.init(KEY, (2,))
    y, state = model.apply(params, state, jnp.array([1.0, 2.0]), train=True)
    assert y.tolist() == [1, 2] and state["calls"] == 1
    with pytest.raises(ValueError, match=r"intermediates: .* Model\.named"):
        model.intermediates(params, state, y)


def test_named_passes_train_and_key_on():
    def forward(params, state, x, named, *, train, key):
        noise = jax.random.normal(key, x.shape, x.dtype) if train else jnp.zeros_like(x)
        return named("n1", x + noise), {"calls": state["calls"] + 1}

    model = Model.named(scaling, forward)
    params, state = model.init(KEY, (2,))
    x = jnp.array([1.0, 2.0])
    noisy, after = model.apply(params, state, x, train=True, key=KEY)
    assert after["calls"] == 1 and (noisy != x).all()
    assert (model.apply(params, state, x, train=False)[0] == x).all()
    assert (model.intermediates(params, state, x, train=True, key=KEY)["n1"] == noisy).all()
    assert (model.intermediates(params, state, x)["n1"] == x).all()


# ------------------------------------------------------------------------------------------
# [H] E8.10
# ------------------------------------------------------------------------------------------


def squares():
    """Every outline of a square with a side from 5 to 15, anywhere in 15×15."""
    for side in range(5, 16):
        for row in range(16 - side):
            for column in range(16 - side):
                image = np.zeros((15, 15, 1))
                image[row : row + side, column : column + side] = 1
                image[row + 1 : row + side - 1, column + 1 : column + side - 1] = 0
                yield image


def diamonds():
    """Every outline of a diamond of odd width from 5 to 15, anywhere in 15×15."""
    rows, columns, _ = np.indices((15, 15, 1))
    for radius in range(2, 8):
        for row in range(radius, 15 - radius):
            for column in range(radius, 15 - radius):
                yield (abs(rows - row) + abs(columns - column) == radius) * 1.0


@pytest.mark.versions
def test_squares_and_diamonds():
    """Right on every outline there is, by the margin that the design promises."""
    model = squares_and_diamonds()
    params, state = model.init(None, (15, 15, 1))
    rows, columns = np.indices((3, 3))  # of the templates of fig. 8.5
    lines = np.stack([rows == 1, columns == 1, rows == columns, rows + columns == 2], -1)
    assert (np.asarray(params["conv1"]["w"]) == lines[:, :, None]).all()
    for label, outlines, count in ((0, squares(), 506), (1, diamonds(), 286)):
        images = jnp.asarray(np.stack(list(outlines)), jnp.float32)
        assert len(images) == len(np.unique(images, axis=0)) == count
        logits, _ = model.apply(params, state, images, train=False)
        assert (logits[:, label] - logits[:, 1 - label]).min() >= 8
        assert jax.nn.softmax(logits)[:, label].min() > 0.999
        # Each kind is seen by its own two templates, and, thanks to the bias, by no other.
        seen = model.intermediates(params, state, images)["a2"].sum((1, 2)) > 0
        assert (seen == (np.arange(4) // 2 == label)[None]).all()


# ------------------------------------------------------------------------------------------
# Wrong calls
# ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make, shape, text",
    [
        (lenet5, (15, 32, 1), r"covers|window"),
        (squares_and_diamonds, (16, 16, 1), r"got \(16, 16, 1\); it must be \(15, 15, 1\)"),
    ],
)
def test_images_that_do_not_fit(make, shape, text):
    with pytest.raises(ValueError, match=text):
        make().init(KEY, shape)


def test_a_name_is_given_once():
    def forward(params, state, x, named, *, train, key):
        return named("n1", named("n1", x)), state

    with pytest.raises(ValueError, match="'n1' twice"):
        Model.named(scaling, forward).apply(None, None, jnp.ones(2), train=False)
