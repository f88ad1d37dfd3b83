# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     notebook_metadata_filter: -jupytext.text_representation.jupytext_version
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Change the backward rule
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/cnnvjp/cnnvjp/blob/main/notebooks/05_change_the_backward_rule.ipynb)
#
# Some ideas about neural networks are about the backward pass alone: the network computes what it always did, and something else than the gradient goes back. In `cnnvjp` every backward rule is a few lines, so each of these ideas is a few lines too: a `jax.custom_vjp` around the library's functions. The claims are:
#
# 1. **guided backpropagation** and the **deconvolutional network** differ from the gradient in one line, the rule of relu;
# 2. a deconvolutional network built by hand, with switches, *is* the backward pass with that line changed;
# 3. the pictures that they make are cleaner than the gradient's;
# 4. but they are no derivative, and say less about the class;
# 5. **feedback alignment**: with fixed random weights on the way back a network learns all the same, and its gradients turn toward the true ones;
# 6. the **straight-through estimator** trains a network whose weights and activations are only ±1, where the true gradient is zero;
# 7. a rule can be chosen for a network that was never written for it, here one of Flax, and so can **relevance propagation**, which shares a logit out among the pixels and the biases without loss.
#
# | key | source |
# | --- | --- |
# | [ZF] | Zeiler, Fergus, *Visualizing and Understanding Convolutional Networks* (2014) |
# | [SDBR] | Springenberg, Dosovitskiy, Brox, Riedmiller, *Striving for Simplicity: The All Convolutional Net* (2015) |
# | [LCTA] | Lillicrap, Cownden, Tweed, Akerman, *Random synaptic feedback weights support error backpropagation for deep learning* (2016) |
# | [BLC] | Bengio, Léonard, Courville, *Estimating or Propagating Gradients Through Stochastic Neurons for Conditional Computation* (2013) |
# | [BBMKMS] | Bach, Binder, Montavon, Klauschen, Müller, Samek, *On Pixel-Wise Explanations for Non-Linear Classifier Decisions by Layer-Wise Relevance Propagation* (2015) |
# | [H] | *Neural Network Design: Deep Learning*, chapter 8 |
# | [GBC] | Goodfellow, Bengio, Courville, *Deep Learning* (2016), chapter 9 |

# %%
try:
    import cnnvjp
except ModuleNotFoundError:  # as on Colab; --no-deps leaves the JAX that is installed alone
    import subprocess
    import sys

    source = "cnnvjp @ git+https://github.com/cnnvjp/cnnvjp"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", source], check=True)
    import cnnvjp

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib import colormaps
from matplotlib.colors import ListedColormap
from sklearn.datasets import load_digits

from cnnvjp import plot, rules, train
from cnnvjp.losses import softmax_cross_entropy
from cnnvjp.model import Model

jax.config.update("jax_enable_x64", True)  # float64, so that the checks can be strict


def agree(**results):
    """Asserts that all results have one shape and are equal, up to rounding."""
    first, *others = results.values()
    for other in others:
        assert np.shape(other) == np.shape(first)
        np.testing.assert_allclose(other, first, rtol=0, atol=1e-12)
    print("equal:", ", ".join(results))


# %% [markdown]
# The next cell only draws. Skip it on a first reading.

# %% cellView="form" jupyter={"source_hidden": true}
# @title Drawing
BLUE, ORANGE, GREEN, GREY = "#2f6fab", "#c8693b", "#4d8b4a", "#8a877d"
GREYS = ListedColormap(colormaps["Greys"](np.linspace(0, 0.8, 9)))
SIGNS = ListedColormap(colormaps["RdBu_r"](np.linspace(0.1, 0.9, 15)))


def table(alt, rows, left, size):
    """Rows of maps, each row with a name; those that have a sign in blue and red."""
    top = 0.15
    sheet = plot.Sheet(9.4, top + len(rows) * (size + 0.1) + 0.05, alt, cell=1)
    for name, maps in rows.items():
        sheet.text(0.15, top + size / 2, name, 0.14, ha="left")
        for column, values in enumerate(np.asarray(maps)):
            largest = np.abs(values).max()
            signed = values.min() < 0
            limits, colours = (-largest if signed else 0, largest), SIGNS if signed else GREYS
            x = left + column * (size + 0.08)
            sheet.image(x, top, size, size, values, limits=limits, colours=colours)
        top += size + 0.1
    return sheet


def diagram(sheet, left, title, below, width=3.85, **settings):
    """Axes for curves on a sheet whose cells are inches."""
    height = sheet.figure.get_size_inches()[1]
    place = left / 9.4, 0.6 / height, width / 9.4, 1 - 1 / height
    axes = sheet.figure.add_axes(place, facecolor=plot.PAPER)
    axes.set(**settings)
    axes.set_title(title, fontsize=10, color=plot.INK)
    axes.set_xlabel(below, fontsize=9, color=plot.NAME)
    axes.tick_params(which="both", labelsize=8, color=plot.LINE, labelcolor=plot.NAME)
    for spine in axes.spines.values():
        spine.set(color=plot.LINE, linewidth=0.8)
    return axes


# %% [markdown]
# ## 1. Three rules for relu
#
# **Claim.** One line tells the three apart. With $x$ the net input and $dy$ what arrives from above,
#
# | rule | $dx$ | what decides |
# | --- | --- | --- |
# | gradient, [H] 8.53 | $dy$ where $x > 0$ | the way forward |
# | deconvolution, [ZF] | $dy$ where $dy > 0$ | the way back |
# | guided, [SDBR] | $dy$ where $x > 0$ and $dy > 0$ | both |
#
# elsewhere 0. Forward, all three are relu.


# %%
def relu_with(rule):
    """Relu forward; backward, dx = rule(x, dy)."""

    @jax.custom_vjp
    def changed_relu(x):
        return cnnvjp.relu(x)

    changed_relu.defvjp(
        lambda x: (cnnvjp.relu(x), x),
        lambda x, dy: (rule(x, dy),),
    )
    return changed_relu


deconv_relu = relu_with(lambda x, dy: jnp.where(dy > 0, dy, 0))
guided_relu = relu_with(lambda x, dy: jnp.where((x > 0) & (dy > 0), dy, 0))

# %% [markdown]
# On an example, with what goes in on the left and what each rule makes of it on the right:

# %%
x = jnp.array([[1, -1, 5], [2, -5, -7], [-3, 2, 4]], float)
dy = jnp.array([[-2, 3, -1], [6, -3, 1], [2, -1, 3]], float)


def pull(relu, x, dy):
    """What goes back through an activation."""
    return jax.vjp(relu, x)[1](dy)[0]


results = {
    "gradient": pull(cnnvjp.relu, x, dy),
    "deconvolution": pull(deconv_relu, x, dy),
    "guided": pull(guided_relu, x, dy),
}

forward = {(int(i), int(j)): "#a9d0f2" for i, j in np.argwhere(x > 0)}
backward = {(int(i), int(j)): "#f8d08a" for i, j in np.argwhere(dy > 0)}
both = {place: "#b4dfae" for place in forward.keys() & backward.keys()}
sheet = plot.Sheet(21, 4.7, "Three rules for relu, on an example of 3×3 numbers.")
sheet.matrix(0.5, 1.2, x, tints=forward, title="x, tinted where > 0")
sheet.matrix(4.5, 1.2, dy, tints=backward, title="dy, tinted where > 0")
sheet.text(8.25, 2.7, "→", 0.6)
for k, (tints, (name, dx)) in enumerate(
    zip((forward, backward, both), results.items(), strict=True)
):
    sheet.matrix(9.5 + 4 * k, 1.2, dx, tints=tints, title=name)
sheet

# %%
agree(gradient=results["gradient"], formula=dy * (x > 0))
agree(deconvolution=results["deconvolution"], formula=cnnvjp.relu(dy))
agree(guided=results["guided"], formula=cnnvjp.relu(dy) * (x > 0))
agree(relu=cnnvjp.relu(x), deconvolution=deconv_relu(x), guided=guided_relu(x))

# The guided rule is the other two, one after the other, in any order.
agree(
    guided=results["guided"],
    gradient_first=pull(deconv_relu, x, results["gradient"]),
    deconvolution_first=pull(cnnvjp.relu, x, results["deconvolution"]),
)

# %% [markdown]
# ## A network to try them on
#
# Two convolution–pooling groups, as in [H] fig. 8.11, then two fully connected layers, on scikit-learn's digits, enlarged to 20×20. Its operations are arguments, so that each can be exchanged for one with another rule.


# %%
def network(
    params, x, *, relu=cnnvjp.relu, conv2=cnnvjp.conv, dense3=cnnvjp.dense, dense4=cnnvjp.dense
):
    """Images (N, 20, 20, 1) to logits (N, 10)."""
    x = cnnvjp.max_pool(relu(cnnvjp.conv(x, params["w1"], params["b1"])), 2)
    x = cnnvjp.max_pool(relu(cnnvjp.add_bias(conv2(x, params["w2"]), params["b2"])), 2)
    x = relu(cnnvjp.add_bias(dense3(cnnvjp.flatten(x), params["w3"]), params["b3"]))
    return cnnvjp.add_bias(dense4(x, params["w4"]), params["b4"])


SHAPES = {"w1": (5, 5, 1, 8), "w2": (5, 5, 8, 16), "w3": (64, 32), "w4": (32, 10)}


@jax.jit
def random_weights(key):
    """Random weights: normal, of the variance 2 / fan-in."""
    draw = jax.nn.initializers.he_normal(dtype=jnp.float64)
    keys = jax.random.split(key, len(SHAPES))
    return {name: draw(k, shape) for k, (name, shape) in zip(keys, SHAPES.items(), strict=True)}


def init(key, input_shape):
    biases = {f"b{name[1]}": jnp.zeros(shape[-1]) for name, shape in SHAPES.items()}
    return random_weights(key) | biases, {}


digits = load_digits()
images = cnnvjp.resize(jnp.asarray(digits.images[..., None] / 16), (20, 20))
labels = jnp.asarray(digits.target)
order = np.random.default_rng(0).permutation(len(labels))
training, testing = order[:1437], order[1437:]
x_test, t_test = images[testing], labels[testing]

# %% [markdown]
# `fit` trains any function of parameters and images in the way of the notebook on training, for 15 passes, and returns the parameters, the losses and the share of the 360 test images that it reads. On the way it can `watch` the parameters.


# %%
def fit(forward, scale=1.0, watch=None):
    """Trains forward(params, x) on the digits, from random weights times a scale."""
    passes, count = 15, len(training) // 64

    def scaled_init(key, input_shape):
        params, state = init(key, input_shape)
        return jax.tree.map(lambda w: scale * w, params), state

    def apply(params, state, x, *, train, key=None, perturbations=None):
        return forward(params, x), state

    model = Model(scaled_init, apply)
    optimizer = optax.adam(optax.cosine_decay_schedule(4e-3, passes * count))
    train_state = train.create(jax.random.key(0), model, optimizer, (20, 20, 1))
    step = train.make_train_step(model, softmax_cross_entropy, optimizer)
    evaluate = train.make_eval_step(model, softmax_cross_entropy)
    shuffled, losses, watched = np.random.default_rng(1), [], []
    for _ in range(passes):
        for batch in shuffled.permutation(training)[: 64 * count].reshape(-1, 64):
            if watch and len(losses) % 11 == 0:  # twice in each pass
                watched.append(watch(train_state.params))
            train_state, metrics = step(
                train_state, (images[batch], labels[batch]), jax.random.key(0)
            )
            losses.append(float(metrics["loss"]))
    accuracy = float(evaluate(train_state, (x_test, t_test))["accuracy"])
    return train_state.params, losses, accuracy, np.array(watched)


params, losses, accuracy, _ = fit(network)
print(f"{accuracy:.1%} of the test images")
assert accuracy > 0.94

# %% [markdown]
# ## 2. The deconvolutional network is a backward pass
#
# [ZF] describe a second network that leads from a unit back to the image: it *unpools* with the switches that max pooling noted on its way, *rectifies*, and *filters* with the transposed kernels.
#
# **Claim.** That is what the backward pass does, with one rule changed. Unpooling is max pooling's rule ([H] E8.8), and filtering with transposed kernels is convolution's ([GBC] 9.13). Only the rectification differs: it looks at what comes back, not at what went forward.
#
# Built by hand, for the largest logit of each of ten test images:

# %%
shown = np.array([np.flatnonzero(t_test == digit)[1] for digit in range(10)])
x, t = x_test[shown], t_test[shown]
logits = network(params, x)
largest = jax.nn.one_hot(jnp.argmax(logits, axis=1), 10)  # where the way back begins

# Forward, with switches.
a1 = cnnvjp.relu(cnnvjp.conv(x, params["w1"], params["b1"]))
a2, switches2 = cnnvjp.max_pool(a1, 2, return_argmax=True)
a3 = cnnvjp.relu(cnnvjp.conv(a2, params["w2"], params["b2"]))
a4, switches4 = cnnvjp.max_pool(a3, 2, return_argmax=True)

# Back: filter, unpool, rectify, filter, …
back = cnnvjp.relu(largest @ params["w4"].T)
back = (back @ params["w3"].T).reshape(a4.shape)
back = cnnvjp.relu(cnnvjp.max_unpool(back, switches4, output_size=4))
back = cnnvjp.conv_transpose(back, params["w2"])
back = cnnvjp.relu(cnnvjp.max_unpool(back, switches2, output_size=16))
back = cnnvjp.conv_transpose(back, params["w1"])


RULES = {"gradient": cnnvjp.relu, "deconvolution": deconv_relu, "guided": guided_relu}


@jax.jit
def saliency(start):
    """What each rule sends from the logits back to the images."""
    return {
        name: pull(functools.partial(network, params, relu=RULES[name]), x, start) for name in RULES
    }


maps = saliency(largest)
agree(by_hand=back, backward_pass_with_the_rule=maps["deconvolution"])

# %% [markdown]
# ## 3. Three saliency maps
#
# **Claim.** The rules that let only positive numbers back make cleaner pictures: neighbouring pixels agree.
#
# Each column is a test image and what comes back from its largest logit. Red raises the logit, blue lowers it, as each rule has it.

# %%
rows = {"image": x[..., 0]} | {name: maps[name][..., 0] for name in RULES}
table("Saliency maps of ten digits, by three rules.", rows, left=1.35, size=0.72)

# %% [markdown]
# To measure it: how alike are a map and the same map moved by one pixel? The correlation, averaged over right and down and over the ten images:


# %%
def smoothness(maps):
    """The correlation of maps (N, rows, columns) with themselves, one pixel away."""

    def correlation(a, b):
        return np.corrcoef(np.ravel(a), np.ravel(b))[0, 1]

    pairs = [(m[:, 1:], m[:, :-1]) for m in maps] + [(m[1:], m[:-1]) for m in maps]
    return np.mean([correlation(a, b) for a, b in pairs])


smooth = {name: smoothness(np.asarray(one[..., 0])) for name, one in maps.items()}
for name in RULES:
    print(f"{name:14} {smooth[name]:.2f}")
assert smooth["guided"] > smooth["gradient"] + 0.1

# %% [markdown]
# ## 4. What the pictures do not say
#
# **Claim.** Only the gradient is a derivative. Move an image a little along any direction, and the logit changes by what the gradient foretells. What the other maps foretell is far off.

# %%
direction = jax.random.normal(jax.random.key(1), x.shape) * (x > 0)  # where there is ink
top = jax.jit(lambda x: (network(params, x) * largest).sum(1))
change = (top(x + 1e-6 * direction) - top(x - 1e-6 * direction)) / 2e-6
foretold = {name: (one * direction).sum((1, 2, 3)) for name, one in maps.items()}

for name in RULES:
    errors = jnp.abs(foretold[name] - change) / jnp.abs(change).max()
    print(f"{name:14} off by {errors.max():.0%} of the largest change")
    assert errors.max() < 1e-6 if name == "gradient" else errors.max() > 0.3

# %% [markdown]
# **Claim.** The cleaner maps say less about the class. Begin at another logit, the second largest, and the gradient changes; the guided map shows much the same picture. Here is the cosine between the two maps of an image, averaged over the ten images:

# %%
second = jax.nn.one_hot(jnp.argsort(logits, axis=1)[:, -2], 10)
others = saliency(second)


def cosine(a, b):
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    return (a * b).sum(1) / (jnp.linalg.norm(a, axis=1) * jnp.linalg.norm(b, axis=1))


alike = {name: float(cosine(maps[name], others[name]).mean()) for name in maps}
for name in RULES:
    print(f"{name:14} {alike[name]:.2f}")
assert alike["guided"] > alike["gradient"] + 0.2

rows = {"image": x[..., 0]}
for name in ("gradient", "guided"):
    rows |= {f"{name},\nlargest": maps[name][..., 0], f"{name},\nsecond": others[name][..., 0]}
table("Maps of the largest and the second largest logit.", rows, left=1.35, size=0.72)

# %% [markdown]
# ## 5. Feedback alignment
#
# Backpropagation sends $\delta$ down through the transposed weights. A brain could hardly do so: the way back would have to know the weights of the way forward. [LCTA] ask what happens if it takes fixed random weights $B$ instead:
#
# $$dx = h(dy, B) \quad \text{in place of} \quad dx = h(dy, w), \qquad dw = g(x, dy) \quad \text{as before.}$$


# %%
def conv_with(feedback):
    """Convolution, with `feedback` in place of the kernel on the way back."""

    @jax.custom_vjp
    def changed_conv(x, w):
        return cnnvjp.conv(x, w)

    def backward(residuals, dy):
        x, w = residuals
        dx = cnnvjp.conv_transpose(dy, feedback)  # [GBC] 9.13, but for the kernel
        dw = cnnvjp.conv_kernel_grad(x, dy, kernel_size=w.shape[:2])  # [GBC] 9.11
        return dx, dw

    changed_conv.defvjp(lambda x, w: (cnnvjp.conv(x, w), (x, w)), backward)
    return changed_conv


def dense_with(feedback):
    """The fully connected layer, with `feedback` in place of its weights on the way back."""

    @jax.custom_vjp
    def changed_dense(x, w):
        return cnnvjp.dense(x, w)

    changed_dense.defvjp(
        lambda x, w: (cnnvjp.dense(x, w), x),
        lambda x, dy: (dy @ feedback.T, x.T @ dy),
    )
    return changed_dense


def with_feedback(feedback, params, x):
    """The network, with tanh, and with feedback weights wherever something is passed down."""
    return network(
        params,
        x,
        relu=cnnvjp.tanh,
        conv2=conv_with(feedback["w2"]),
        dense3=dense_with(feedback["w3"]),
        dense4=dense_with(feedback["w4"]),
    )


# %% [markdown]
# **Claim.** With the true weights as feedback, this is backpropagation. With random ones it gives the same outputs, the same gradient for the last layer, and others below it.

# %%
feedback = jax.tree.map(lambda w: 0.5 * w, random_weights(jax.random.key(8)))
tanh_network = functools.partial(network, relu=cnnvjp.tanh)


def loss(params, x, t, forward):
    return softmax_cross_entropy(forward(params, x), t).mean()


@jax.jit
def both_gradients(params, feedback):
    """The true gradients of the weights and those that feedback gives, on 256 training images."""
    batch = images[training[:256]], labels[training[:256]]
    true = jax.grad(loss)(params, *batch, tanh_network)
    return true, jax.grad(loss)(params, *batch, functools.partial(with_feedback, feedback))


start, _ = init(jax.random.key(0), (20, 20, 1))
true, same = both_gradients(start, start)
for name in params:
    np.testing.assert_allclose(same[name], true[name], rtol=0, atol=1e-12)

true, other = both_gradients(start, feedback)
agree(last_layer=true["w4"], with_random_feedback=other["w4"])
assert not any(jnp.allclose(other[name], true[name]) for name in ("w1", "w2", "w3"))

# %% [markdown]
# **Claim.** The network learns with random feedback: its forward weights come to agree with it, so that the angle between what it takes for the gradient and the true gradient falls below 90°, most of all next to the last layer. It begins with small weights, as in [LCTA].
#
# Does it not just learn its last layer, whose gradient is true? To compare, feedback weights of **zero** stop everything below the last layer from learning.


# %%
@jax.jit
def angles(params):
    """Degrees between the two gradients, for the weights of layers 1, 2 and 3."""
    true, other = both_gradients(params, feedback)
    cosines = [cosine(true[n][None], other[n][None])[0] for n in ("w1", "w2", "w3")]
    return jnp.rad2deg(jnp.arccos(jnp.stack(cosines)))


_, losses_random, accuracy_random, watched = fit(
    functools.partial(with_feedback, feedback), scale=0.3, watch=angles
)
zeros = jax.tree.map(jnp.zeros_like, feedback)
_, losses_zero, accuracy_zero, _ = fit(functools.partial(with_feedback, zeros), scale=0.3)

print(f"random feedback: {accuracy_random:.1%} of the test images")
print(f"zero feedback: {accuracy_zero:.1%} of the test images")
assert accuracy_random > 0.9 > 0.75 > accuracy_zero
assert np.all(watched[0] > 80) and np.all(watched[-10:].mean(0) < 85) and watched[-1, 2] < 50

print("degrees before training:", *np.round(watched[0]).astype(int))
print("degrees after training:", *np.round(watched[-1]).astype(int))

# %% cellView="form" jupyter={"source_hidden": true}
# @title Drawing
sheet = plot.Sheet(9.4, 3.2, "The loss falls, and so does the angle between the gradients.", cell=1)
below = "passes over the training images"
axes = diagram(sheet, 0.65, "loss of each pass", below, ylim=(0, 2.5))
curves = ((losses_zero, GREY, "zero feedback"), (losses_random, BLUE, "random feedback"))
for curve, colour, label in curves:
    means = np.reshape(curve, (15, -1)).mean(1)
    axes.plot(range(1, 16), means, color=colour, marker="o", ms=4, label=label)
axes.legend(fontsize=8, loc="center right", frameon=False)
title = "angle to the true gradient, degrees"
axes = diagram(sheet, 5.35, title, below, ylim=(0, 125), yticks=(0, 30, 60, 90))
for k, colour in enumerate((BLUE, GREEN, ORANGE)):
    axes.plot(np.arange(30) / 2, watched[:, k], color=colour, label=f"layer {k + 1}")
axes.axhline(90, color=plot.LINE, linewidth=0.8)
axes.legend(fontsize=8, loc="lower left", frameon=False)
sheet

# %% [markdown]
# With zero feedback the layers below keep their small random weights, and in these 15 passes the last layer alone does not get far. With random feedback all of them learn, though 90° off at the beginning.
#
# ## 6. The straight-through estimator
#
# The sign of a number has the derivative 0 wherever it has one. A network of signs has no gradient to learn by. [BLC] pass it straight through, as if the sign were the identity; where $|x| > 1$ nothing is passed, so that numbers do not run away:
#
# $$y = \mathrm{sign}(x), \qquad dx = dy \text{ where } |x| \le 1.$$


# %%
def plain_sign(x):
    return jnp.where(x >= 0, 1.0, -1.0)


@jax.custom_vjp
def sign(x):
    return plain_sign(x)


sign.defvjp(lambda x: (plain_sign(x), x), lambda x, dy: (jnp.where(jnp.abs(x) <= 1, dy, 0),))


def binary_network(params, x, sign=sign):
    """The network with signs for weights, and for the outputs of its hidden layers."""
    signs = {
        name: sign(w) / np.sqrt(w[..., 0].size) for name, w in params.items() if name[0] == "w"
    }
    return network(params | signs, x, relu=sign)


# %% [markdown]
# The signs of each layer are divided by the root of the number of its inputs, which keeps the net inputs near 1; and training changes the real numbers behind the signs. **Claim.** The true gradient of these numbers is zero, yet the network learns to read more than four digits in five. (Where a sign turns hangs on the last bit, so that the exact share differs from machine to machine.)


# %%
@jax.jit
def binary_gradients(params):
    batch = images[training[:256]], labels[training[:256]]
    none = jax.grad(loss)(params, *batch, lambda p, x: binary_network(p, x, plain_sign))
    return none, jax.grad(loss)(params, *batch, binary_network)


none, through = binary_gradients(start)
weights = ("w1", "w2", "w3", "w4")
assert not any(none[name].any() for name in weights)
assert all(through[name].any() for name in weights)

binary, losses_binary, accuracy_binary, _ = fit(binary_network)
assert accuracy_binary > 0.8 and np.mean(losses_binary[-22:]) < 0.5 * losses_binary[0]
print("more than 80% of the test images")

# %% [markdown]
# What the trained network computes with: the numbers behind the kernels of layer 1, the signs that it uses, and the outputs of layer 1 for a digit, all ±1.

# %%
signs1 = plain_sign(binary["w1"])
outputs1 = sign(cnnvjp.conv(x[3:4], signs1 / 5, binary["b1"]))
assert set(np.unique(signs1)) == set(np.unique(outputs1)) == {-1.0, 1.0}

x_signs, dy_signs = jnp.array([-3.0, -0.5, 0.0, 0.7, 1.2]), jnp.arange(1.0, 6.0)
agree(rule=pull(sign, x_signs, dy_signs), formula=dy_signs * (jnp.abs(x_signs) <= 1))

rows = {
    "numbers behind": jnp.moveaxis(binary["w1"][:, :, 0], -1, 0),
    "kernels": jnp.moveaxis(signs1[:, :, 0], -1, 0),
    "outputs": jnp.moveaxis(outputs1[0], -1, 0),
}
table("Binary kernels and binary feature maps.", rows, left=1.55, size=0.88)

# %% [markdown]
# ## 7. Rules for a network as it is
#
# The networks above take their operations as arguments. Most do not, such as this one of Flax, whose layers get the weights of the network of section 2:

# %%
import flax.linen as nn


class FlaxNetwork(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.max_pool(nn.relu(nn.Conv(8, (5, 5), padding="VALID")(x)), (2, 2), (2, 2))
        x = nn.max_pool(nn.relu(nn.Conv(16, (5, 5), padding="VALID")(x)), (2, 2), (2, 2))
        x = nn.relu(nn.Dense(32)(x.reshape(len(x), -1)))
        return nn.Dense(10)(x)


layers = zip(("Conv_0", "Conv_1", "Dense_0", "Dense_1"), "1234", strict=True)
weights = {name: {"kernel": params[f"w{k}"], "bias": params[f"b{k}"]} for name, k in layers}


def largest_logits(weights, x):
    return jnp.sum(FlaxNetwork().apply({"params": weights}, x) * largest)


# %% [markdown]
# **Claim.** `cnnvjp.explicit` puts a rule in the place of an operation of any JAX function. `cnnvjp.rules` has those of this notebook, and with the guided one Flax's network gives the very map of section 3:

# %%
guided = {jax.nn.relu: rules.guided_relu}
ruled = cnnvjp.explicit(largest_logits, rules=guided)
by_flax = jax.jit(jax.grad(ruled, argnums=1))(weights, x)
agree(guided=maps["guided"], in_flax_as_it_is=by_flax)

# %% [markdown]
# **Claim.** With the ε-rule of [BBMKMS], what comes back, times what went forward, is the *relevance* of each pixel and each bias, and nothing is lost: together they are the logit. A sum $z_j = \sum_i x_i w_{ij} + b_j$ shares its relevance out among its terms,
#
# $$R_i = \sum_j \frac{x_i w_{ij}}{z_j + \varepsilon\,\mathrm{sign}\,z_j} R_j,$$
#
# where ε takes a little where $z_j$ is small. The sum ends where the bias is added, so that the rule is chosen for that addition.


# %%
def relevance(epsilon):
    """The relevance of the pixels, and of all biases, in the largest logits."""
    addition = {jax.lax.add: rules.lrp_epsilon(jax.lax.add, epsilon=epsilon)}
    ruled = cnnvjp.explicit(largest_logits, rules=addition)
    dweights, dx = jax.jit(jax.grad(ruled, argnums=(0, 1)))(weights, x)
    of_biases = [jnp.sum(weights[name]["bias"] * dweights[name]["bias"]) for name in weights]
    return x * dx, sum(of_biases)


logit = largest_logits(weights, x)
of_pixels, of_biases = relevance(1e-12)
kept_pixels, kept_biases = relevance(0.1)
np.testing.assert_allclose(of_pixels.sum() + of_biases, logit, rtol=1e-6)
assert kept_pixels.sum() + kept_biases < 0.99 * logit
print(f"ε → 0: {float((of_pixels.sum() + of_biases) / logit):.1%} of the logits comes back")
print(f"ε = 0.1: {float((kept_pixels.sum() + kept_biases) / logit):.0%}")

# %% [markdown]
# With ε → 0 it is the gradient times the image. Relevance is where there is ink; the other two also say what more ink would do.

# %%
assert not np.any(kept_pixels[x == 0])
rows = {"image": x[..., 0], "gradient": maps["gradient"][..., 0], "guided": by_flax[..., 0]}
rows |= {"relevance": kept_pixels[..., 0]}
table("Ten digits in a network of Flax, by three rules.", rows, left=1.35, size=0.72)

# %% [markdown]
# ## Try it
#
# 1. Invent a rule for relu: let only *negative* numbers back, or scale what comes back to length 1. What do the maps show?
# 2. Let the largest logit's deconvolution begin at one unit of `a3` instead. Which part of the digit does the unit answer to?
# 3. Take as feedback the forward weights of the beginning, or their negatives: `fit` begins with `0.3 * start`. What do the angles say, and what does the loss do?
# 4. Remove the condition $|x| \le 1$ from the straight-through estimator. How far do the numbers behind the signs run?
