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
# # Train a network and watch the sensitivities
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/cnnvjp/cnnvjp/blob/main/notebooks/04_train_a_network.ipynb)
#
# The gradient of a network is computed layer by layer, from the loss down. [H] calls what is passed on the *sensitivities*: derivatives of the loss $F$ with respect to the values between the layers,
#
# $$\mathbf{dN} \equiv \frac{\partial F}{\partial \mathbf{N}}, \quad \mathbf{dLZ} \equiv \frac{\partial F}{\partial \mathbf{LZ}}, \quad \mathbf{dA} \equiv \frac{\partial F}{\partial \mathbf{A}} \qquad \text{[H] 8.28}$$
#
# where a layer's weight function gives $\mathbf{LZ}$, the bias makes it the net input $\mathbf{N}$, and the transfer function makes that the output $\mathbf{A}$. Going back from layer $m$ to layer $n$ below it takes three steps:
#
# $$\mathbf{dN}^m \rightarrow \mathbf{dLZ}^{m,n} \rightarrow \mathbf{dA}^n \rightarrow \mathbf{dN}^n \qquad \text{[H] 8.29}$$
#
# This notebook trains the network of [H] fig. 8.11 on handwritten digits, and then follows one image backward through all of its layers. The claims are:
#
# 1. the network is two pure functions, and the values between its layers have [H]'s names;
# 2. sensitivities are gradients with respect to **perturbations** that are zero, and they foretell how the loss changes;
# 3. 15 passes over 1437 images take it to more than 97 % of 360 others;
# 4. its kernels have changed, and its feature maps show where they fit the image;
# 5. the backward pass **begins** with the softmax's output minus the target;
# 6. each further step, layer by layer, is **one equation** of the book, one function of `cnnvjp`, and what JAX computes;
# 7. the **weights' gradients** branch off on the way;
# 8. finite differences agree with the gradient of the whole network;
# 9. a model of your own, with batch normalization and dropout, takes some twenty lines;
# 10. what a convolution has learned it knows **everywhere**, and a layer that shares no weights does not;
# 11. gradients also reach the **positions** at which an image is read, so that a network learns to straighten rotated digits.
#
# | key | source |
# | --- | --- |
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

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.test_util import check_grads
from matplotlib import colormaps
from matplotlib.colors import ListedColormap
from sklearn.datasets import load_digits

from cnnvjp import equations, models, plot, train
from cnnvjp.losses import softmax_cross_entropy
from cnnvjp.model import Model

jax.config.update("jax_enable_x64", True)  # float64, so that the checks can be strict

# %% [markdown]
# The next cell only draws. Skip it on a first reading.

# %% cellView="form" jupyter={"source_hidden": true}
# @title Drawing
BLUE, ORANGE, GREEN = "#2f6fab", "#c8693b", "#4d8b4a"
GREYS = ListedColormap(colormaps["Greys"](np.linspace(0, 0.8, 9)))
SIGNS = ListedColormap(colormaps["RdBu_r"](np.linspace(0.1, 0.9, 15)))
FORMULAS, SCALES = 2.9, 0.75  # inches: the columns of the formulas and of the colours' ranges


def stages(alt, *rows):
    """Rows of maps with a formula each; those that have a sign in blue and red."""
    room = 9.4 - FORMULAS - SCALES
    rows = [(formula, np.asarray(maps), min(0.72, room / len(maps))) for formula, maps in rows]
    heights = [max(size * maps.shape[1] / maps.shape[2], 0.34) + 0.18 for _, maps, size in rows]
    sheet = plot.Sheet(9.4, sum(heights) + 0.2, alt, cell=1)
    top = 0.2
    for (formula, maps, size), height in zip(rows, heights, strict=True):
        largest = np.abs(maps).max()
        signed = maps.min() < 0 or formula.startswith(r"$\mathbf{d")
        limits = (-largest if signed else 0, largest)
        colours = SIGNS if signed else GREYS
        wide = size - 0.05
        tall = wide * maps.shape[1] / maps.shape[2]
        for k, values in enumerate(maps):
            left = FORMULAS + k * size
            sheet.image(left, top, wide, tall, values, limits=limits, colours=colours)
        sheet.text(0.2, top + tall / 2, formula, 0.14, ha="left")
        scale = f"±{largest:.2g}" if signed else f"0…{largest:.2g}"
        sheet.text(9.45 - SCALES, top + tall / 2, scale, 0.115, ha="left", color=plot.NAME)
        top += height
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
# ## The data
#
# Scikit-learn comes with 1797 digits of 8×8 pixels. We enlarge them to 20×20, so that there is room for two convolutions and two poolings: 20 → 16 → 8 → 4 → 2. All windows of the poolings are full, as the book's equations assume. Of the shuffled images, 360 are kept for testing.

# %%
digits = load_digits()
images = cnnvjp.resize(jnp.asarray(digits.images[..., None] / 16), (20, 20))
labels = jnp.asarray(digits.target)

order = np.random.default_rng(0).permutation(len(labels))
training, testing = order[:1437], order[1437:]
x_test, t_test = images[testing], labels[testing]

one_of_each = [np.flatnonzero(digits.target == digit)[0] for digit in range(10)]
plot.images(1 - images[np.array(one_of_each), ..., 0], columns=10, alt="One digit of each class.")


# %%
def agree(**results):
    """Asserts that all results have one shape and are equal, up to rounding."""
    first, *others = results.values()
    for other in others:
        assert np.shape(other) == np.shape(first)
        np.testing.assert_allclose(other, first, rtol=0, atol=1e-12)
    print("equal:", ", ".join(results))


# %% [markdown]
# ## 1. A network is two pure functions
#
# **Claim.** `models.textbook` gives the network of [H] fig. 8.11. Its `init` makes the parameters, its `apply` maps images to the net input of the softmax layer, and its `intermediates` returns every value on the way, under the book's names.
#
# A name is the value and the number of its layer: layer 1 convolves, layer 2 pools, layers 3 and 4 do the same, layer 5 is fully connected. Pooling has neither bias nor transfer function here, so that its $\mathbf{LZ}$, $\mathbf{N}$ and $\mathbf{A}$ are one, `a2` or `a4`.

# %%
model = models.textbook(dtype=jnp.float64)
params, state = model.init(jax.random.key(0), (20, 20, 1))

for layer, arrays in params.items():
    print(f"{layer:6}", {name: array.shape for name, array in arrays.items()})

values = model.intermediates(params, state, x_test[:1])
print({name: value.shape[1:] for name, value in values.items()})

output, _ = model.apply(params, state, x_test[:1], train=False)
agree(apply=output, n5=values["n5"])

# %% [markdown]
# The forward pass of layer 1, by the book: convolution, bias, transfer function. The functions in `equations` are the book's sums as loops, for maps `(map, row, column)` and kernels `(map, map below, row, column)`.


# %%
def maps(value):
    """(1, row, column, map), as the library has it, to (map, row, column), as the book has it."""
    return np.moveaxis(np.asarray(value)[0], -1, 0)


def kernels(w):
    """(row, column, map below, map) to (map, map below, row, column)."""
    return np.transpose(np.asarray(w), (3, 2, 0, 1))


layer1 = params["conv1"]
lz1 = equations.h_8_20(kernels(layer1["w"]), maps(x_test[:1]))  # [H] 8.20
n1 = [equations.h_8_33(lz, b) for lz, b in zip(lz1, layer1["b"], strict=True)]  # [H] 8.33
a1 = np.maximum(n1, 0)
a2 = [equations.h_8_24(a, 2, 2) for a in a1]  # [H] 8.24

agree(intermediates=maps(values["lz1"]), h_8_20=lz1)
agree(intermediates=maps(values["n1"]), h_8_33=n1)
agree(intermediates=maps(values["a2"]), h_8_24=a2)

# %% [markdown]
# ## 2. Sensitivities are gradients with respect to zeros
#
# **Claim.** Add to a value inside the network a perturbation that is zero. Nothing changes, but now the loss is a function of the perturbation, and its gradient is the sensitivity of that value.
#
# `apply` takes such perturbations by name. One call of `jax.grad` gives all sensitivities.


# %%
def perturbed_loss(perturbations, params, x, t):
    """The loss F of images, summed, with perturbations of the values inside the network."""
    logits, _ = model.apply(params, {}, x, train=False, perturbations=perturbations)
    return softmax_cross_entropy(logits, t).sum()


@jax.jit
def backward(params, x, t):
    """∂F/∂value for every named value, and the gradients of the parameters and the images."""
    values = model.intermediates(params, {}, x)
    zeros = jax.tree.map(jnp.zeros_like, values)
    return jax.grad(perturbed_loss, argnums=(0, 1, 2))(zeros, params, x, t)


d, _, _ = backward(params, x_test[:1], t_test[:1])
print({f"d{name}": value.shape[1:] for name, value in d.items()})
assert all(d[name].shape == values[name].shape for name in values)

# %% [markdown]
# What does a sensitivity foretell? Move all of $\mathbf{N}^3$ a little against $\mathbf{dN}^3$: by $-\varepsilon\, \mathbf{dN}^3$. To first order the loss changes by $-\varepsilon \|\mathbf{dN}^3\|^2$.

# %%
before = perturbed_loss({}, params, x_test[:1], t_test[:1])
for step_size in (1e-2, 1e-3, 1e-4):
    against = {"n3": -step_size * d["n3"]}
    change = perturbed_loss(against, params, x_test[:1], t_test[:1]) - before
    foretold = -step_size * jnp.sum(d["n3"] ** 2)
    print(f"step {step_size:g}: the loss changes by {change / foretold:.4f} of what was foretold")

assert change < 0 and abs(change / foretold - 1) < 1e-3

# %% [markdown]
# ## 3. Training
#
# **Claim.** In 15 passes over the training images the network learns to read more than 97 % of the test images.
#
# `train.make_train_step` compiles one step: the gradient of the mean loss over a batch, an Optax update, and metrics. What a step changes is in its train state, which it takes over and returns anew. After each pass we also look at the mean length of the sensitivities $\mathbf{dN}$ of 256 training images.
#
# In practice one trains in float32; here float64 makes the printed numbers the same on every machine.

# %%
EPOCHS, BATCH = 15, 64
steps = EPOCHS * (len(training) // BATCH)

optimizer = optax.adam(optax.cosine_decay_schedule(4e-3, steps))
train_state = train.create(jax.random.key(0), model, optimizer, (20, 20, 1))
step = train.make_train_step(model, softmax_cross_entropy, optimizer)
evaluate = train.make_eval_step(model, softmax_cross_entropy)


@jax.jit
def mean_lengths(params, x, t):
    """The mean length of dN1, dN3 and dN5 of images."""
    d, _, _ = backward(params, x, t)
    return [jnp.sqrt(jnp.sum(d[n].reshape(len(x), -1) ** 2, 1)).mean() for n in ("n1", "n3", "n5")]


some = training[:256]
losses, test_losses, lengths = (
    [],
    [],
    [mean_lengths(train_state.params, images[some], labels[some])],
)
shuffled = np.random.default_rng(1)
for _ in range(EPOCHS):
    passed = shuffled.permutation(training)[: len(training) // BATCH * BATCH]
    for batch in passed.reshape(-1, BATCH):
        train_state, metrics = step(train_state, (images[batch], labels[batch]), jax.random.key(2))
        losses.append(float(metrics["loss"]))
    test_losses.append(float(evaluate(train_state, (x_test, t_test))["loss"]))
    lengths.append(mean_lengths(train_state.params, images[some], labels[some]))

accuracy = evaluate(train_state, (x_test, t_test))["accuracy"]
print(f"{steps} steps, {accuracy:.1%} of the test images")

assert accuracy > 0.97
assert np.mean(losses[-22:]) < 0.05 * losses[0]

# %% cellView="form" jupyter={"source_hidden": true}
# @title Drawing
sheet = plot.Sheet(9.4, 3.2, "Loss and sensitivities fall as the network learns.", cell=1)
below = "passes over the training images"
axes = diagram(sheet, 0.65, "loss", below, yscale="log")
passes = np.arange(1, steps + 1) / (steps / EPOCHS)
axes.plot(passes, losses, color=BLUE, linewidth=0.8, alpha=0.7, label="training, each batch")
axes.plot(range(1, EPOCHS + 1), test_losses, color=ORANGE, marker="o", ms=4, label="test")
axes.legend(fontsize=8, loc="lower left", frameon=False)
axes = diagram(sheet, 5.35, "mean length of the sensitivities", below, yscale="log")
for layer, colour, curve in zip((1, 3, 5), (BLUE, GREEN, ORANGE), np.array(lengths).T, strict=True):
    label = rf"$\mathbf{{dN}}^{layer}$"
    axes.plot(range(EPOCHS + 1), curve, color=colour, marker="o", ms=4, label=label)
axes.legend(fontsize=9, loc="lower left", frameon=False)
sheet

# %% [markdown]
# The sensitivities fall with the loss: an image that the network is sure of, and right about, has next to nothing to say to its weights. Section 5 shows why.

# %%
first, last = np.array(lengths[0]), np.array(lengths[-1])
assert np.all(last < 0.5 * first)

# %% [markdown]
# ## 4. What it has learned
#
# **Claim.** Training has changed the kernels of layer 1 by about a third of their length, and each feature map shows where its kernel fits the image.
#
# The image from here on is the test image with the largest loss: on an image that the network is sure of, there would be little to see. It also gives the most to learn.

# %%
params = train_state.params
intermediates = jax.jit(model.intermediates)  # compiled: many small operations become one
logits = intermediates(params, {}, x_test)["n5"]
hardest = int(jnp.argmax(softmax_cross_entropy(logits, t_test)))
x, t = x_test[hardest : hardest + 1], t_test[hardest : hardest + 1]
values = intermediates(params, {}, x)

initial, _ = model.init(jax.random.key(0), (20, 20, 1))
moved = params["conv1"]["w"] - initial["conv1"]["w"]
share = jnp.linalg.norm(moved) / jnp.linalg.norm(initial["conv1"]["w"])
print(f"the label is {t[0]}, the network says {jnp.argmax(values['n5'])}")
print(f"layer 1 has changed by {share:.0%} of its initial length")
assert share > 0.25

stages(
    "The kernels before and after training, and the feature maps of one image.",
    ("kernels of layer 1, untrained", kernels(initial["conv1"]["w"])[:, 0]),
    ("kernels of layer 1, trained", kernels(params["conv1"]["w"])[:, 0]),
    ("the image", maps(x)),
    (r"net inputs $\mathbf{N}^1$", maps(values["n1"])),
    (r"outputs $\mathbf{A}^1 = \mathrm{relu}(\mathbf{N}^1)$", maps(values["a1"])),
    (r"pooled: $\mathbf{A}^2$", maps(values["a2"])),
    (r"$\mathbf{A}^3$, from all maps of $\mathbf{A}^2$", maps(values["a3"])),
    (r"pooled: $\mathbf{A}^4$", maps(values["a4"])),
)

# %% [markdown]
# Red is positive, blue negative; maps without a sign are grey. At the right is the range of each row's colours.
#
# The kernels are templates ([H], "Template matching"): a map is large where its piece of the image looks like its kernel. Here, by the equation, at the place where map 1 is largest:

# %%
n1 = maps(values["n1"])[0]
row, column = np.unravel_index(np.argmax(n1), n1.shape)
piece = maps(x)[0][row : row + 5, column : column + 5]
inner_product = np.sum(kernels(params["conv1"]["w"])[0, 0] * piece)  # [H] 8.13
agree(largest=n1.max(), template=inner_product + params["conv1"]["b"][0])

# %% [markdown]
# ## 5. The backward pass begins
#
# **Claim.** For the softmax with cross-entropy, the first sensitivity is output minus target:
#
# $$\mathbf{dn}^5 = \mathrm{softmax}(\mathbf{n}^5) - \mathbf{t}.$$
#
# Its entries are between −1 and 1 and add up to 0. A sure and right answer has $\mathbf{dn}^5 \approx 0$: this is why all sensitivities fell during training.

# %%
d, d_params, d_image = backward(params, x, t)  # what JAX computes, to compare with
probabilities = cnnvjp.softmax(values["n5"])
dn5 = probabilities - jax.nn.one_hot(t, 10)

agree(by_hand=dn5, sensitivity=d["n5"])
assert abs(dn5.sum()) < 1e-12 and jnp.argmin(dn5) == t[0]

# %% cellView="form" jupyter={"source_hidden": true}
# @title Drawing
sheet = plot.Sheet(9.4, 1.75, "Softmax minus target is the first sensitivity.", cell=1)
rows = (
    (r"$\mathrm{softmax}(\mathbf{n}^5)$", probabilities, (0, 1.6), GREYS),
    (r"target $\mathbf{t}$", jax.nn.one_hot(t, 10), (0, 1.6), GREYS),
    (r"$\mathbf{dn}^5 = \mathrm{softmax}(\mathbf{n}^5) - \mathbf{t}$", dn5, (-1.6, 1.6), SIGNS),
)
for k, (formula, numbers, limits, colours) in enumerate(rows):
    sheet.image(3.2, 0.3 + 0.47 * k, 6, 0.4, numbers, limits=limits, colours=colours)
    sheet.text(0.2, 0.5 + 0.47 * k, formula, 0.14, ha="left")
    for j, number in enumerate(np.asarray(numbers)[0]):
        sheet.text(3.5 + 0.6 * j, 0.5 + 0.47 * k, f"{number:.2f}", 0.125)
for j in range(10):
    sheet.text(3.5 + 0.6 * j, 0.17, str(j), 0.125, color=plot.NAME)
sheet

# %% [markdown]
# ## 6. Down the layers
#
# **Claim.** From $\mathbf{dN}^5$ to the image, every step is one equation. We take each from the step above it and compare the result with what JAX computed; the equation's sums, as loops, agree as well.
#
# ### Layer 5 to layer 4
#
# Adding a bias passes the sensitivity on as it is. The fully connected layer takes it through its transposed weights, and the vector becomes maps again, column by column, as [H] 8.26 made it:
#
# $$\mathbf{dLZ}^5 = \mathbf{dN}^5 \quad \text{[H] 8.35} \qquad\quad \mathrm{vec}(\mathbf{dA}^4) = (\mathbf{LW}^5)^T\, \mathbf{dLZ}^5$$
#
# The library multiplies from the left, $y = x w$, so that its `w` is the book's matrix transposed.

# %%
dlz5 = dn5  # [H] 8.35
da4 = cnnvjp.unflatten(dlz5 @ params["dense5"]["w"].T, (2, 2, 16), order="column")

agree(by_hand=dlz5, sensitivity=d["lz5"])
agree(by_hand=da4, sensitivity=d["a4"])
agree(vec=cnnvjp.flatten(da4, order="column")[0], h_8_26=equations.h_8_26(maps(da4)))

# %% [markdown]
# ### Layer 4 to layer 3
#
# Max pooling sends each sensitivity to the entry that won its window ([H] E8.8). The transfer function multiplies it by its derivative at the net input; for relu, 1 where the net input is positive and 0 elsewhere:
#
# $$\mathbf{dN}^3 = \dot{\mathbf{F}}^3 \circ \mathbf{dA}^3 \qquad \text{[H] 8.53}$$

# %%
pooled, argmax = cnnvjp.max_pool(values["a3"], 2, return_argmax=True)
da3 = cnnvjp.max_unpool(da4, argmax, output_size=4)
dn3 = (values["n3"] > 0) * da3  # [H] 8.53
dlz3 = dn3  # [H] 8.35


def relu_dot(n):
    return float(n > 0)


agree(
    by_hand=maps(da3),
    sensitivity=maps(d["a3"]),
    h_e8_8=equations.h_e8_8(maps(da4), maps(values["a3"]), 2, 2),
)
agree(
    by_hand=maps(dn3),
    sensitivity=maps(d["n3"]),
    h_8_52=equations.h_8_52(relu_dot, maps(values["n3"]), maps(da3)),
)
agree(by_hand=dlz3, sensitivity=d["lz3"])

# %%
stages(
    "From dA4 to dLZ3.",
    (r"$\mathbf{dA}^4$, from $(\mathbf{LW}^5)^T\, \mathbf{dLZ}^5$", maps(da4)),
    (r"$\mathbf{A}^3$: who won?", maps(values["a3"])),
    (r"$\mathbf{dA}^3$, to the winners", maps(da3)),
    (r"$\dot{\mathbf{F}}^3 = 1$ or $0$", maps(1.0 * (values["n3"] > 0))),
    (r"$\mathbf{dLZ}^3 = \mathbf{dN}^3 = \dot{\mathbf{F}}^3 \circ \mathbf{dA}^3$", maps(dlz3)),
)

# %% [markdown]
# Where a window of $\mathbf{A}^3$ is all zero, its first entry counts as the winner. It gets the sensitivity, and the next step takes it away again: there the derivative of relu is 0.
#
# ### Layer 3 to layer 2
#
# The convolution sends the sensitivities of all its maps $h$ to each map $l$ below, through the kernels rotated by 180°:
#
# $$\mathbf{dA}^{2,l} = \sum_{h=1}^{H^3} \mathrm{rot180}(\mathbf{LW}^{3,2,h,l}) \otimes \mathbf{dLZ}^{3,2,h} \qquad \text{[H] 8.45}$$
#
# with $\mathbf{dLZ}$ padded by four zeros on each side, since the kernels are 5×5. (The book's sum runs over $l$ to $H^n$: a slip. The notebook on convolution shows why the kernels are rotated.) By hand, with a forward convolution: rotate the kernels, exchange their channels, pad.

# %%
w3 = params["conv3"]["w"]
rotated = w3[::-1, ::-1].swapaxes(2, 3)  # (row, column, h, l): from the maps h to the maps l
da2 = cnnvjp.conv(dlz3, rotated, padding=4)

agree(
    by_hand=maps(da2),
    sensitivity=maps(d["a2"]),
    conv_transpose=maps(cnnvjp.conv_transpose(dlz3, w3)),
    h_8_45=equations.h_8_45(kernels(w3), maps(dlz3)),
)

# %% [markdown]
# ### Layer 2 to layer 1, and to the image
#
# The same three steps once more, and one that training has no use for: on to the image. It says how the loss would change with each pixel.

# %%
_, argmax = cnnvjp.max_pool(values["a1"], 2, return_argmax=True)
da1 = cnnvjp.max_unpool(da2, argmax, output_size=16)  # [H] E8.8
dn1 = (values["n1"] > 0) * da1  # [H] 8.53
dlz1 = dn1  # [H] 8.35
dx = cnnvjp.conv_transpose(dlz1, params["conv1"]["w"])  # [H] 8.45

agree(
    by_hand=maps(da1),
    sensitivity=maps(d["a1"]),
    h_e8_8=equations.h_e8_8(maps(da2), maps(values["a1"]), 2, 2),
)
agree(
    by_hand=maps(dn1),
    sensitivity=maps(d["n1"]),
    h_8_52=equations.h_8_52(relu_dot, maps(values["n1"]), maps(da1)),
)
agree(
    by_hand=maps(dx),
    grad=maps(d_image),
    h_8_45=equations.h_8_45(kernels(params["conv1"]["w"]), maps(dlz1)),
)

stages(
    "From dLZ3 to the image.",
    (r"$\mathbf{dLZ}^3$", maps(dlz3)),
    (
        r"$\mathbf{dA}^2 = \Sigma\, \mathrm{rot180}(\mathbf{LW}^3) \otimes \mathbf{dLZ}^3$",
        maps(da2),
    ),
    (r"$\mathbf{dA}^1$, to the winners", maps(da1)),
    (r"$\mathbf{dLZ}^1 = \mathbf{dN}^1 = \dot{\mathbf{F}}^1 \circ \mathbf{dA}^1$", maps(dlz1)),
    (r"$\mathbf{dP} = \Sigma\, \mathrm{rot180}(\mathbf{LW}^1) \otimes \mathbf{dLZ}^1$", maps(dx)),
    (r"the image $\mathbf{P}$", maps(x)),
)

# %% [markdown]
# $\mathbf{dA}^1$ has one entry in four that is not zero: one winner in each 2×2 window. That is max pooling's part; what else is missing in $\mathbf{dN}^1$ is relu's.

# %%
assert np.count_nonzero(da1.reshape(8, 2, 8, 2, 8), axis=(1, 3)).max() == 1
assert np.count_nonzero(dn1) < np.count_nonzero(da1) <= da1.size // 4

# %% [markdown]
# ## 7. The gradients of weights and biases branch off
#
# **Claim.** A layer's own gradients come from the sensitivities that pass it: the bias's from $\mathbf{dN}$, the weights' from $\mathbf{dLZ}$ and the layer's input.
#
# $$db^h = \sum_{i,j} dn_{i,j}^h \quad \text{[H] 8.36} \qquad\quad \mathbf{dLW}^{m,n,h,l} = \mathbf{dLZ}^{m,n,h} \otimes \mathbf{A}^{n,l} \quad \text{[H] 8.48}$$

# %%
for layer, below, dlz in (("conv3", values["a2"], dlz3), ("conv1", x, dlz1)):
    agree(
        sum=dlz.sum((0, 1, 2)),
        grad=d_params[layer]["b"],
        h_8_36=[equations.h_8_36(dn) for dn in maps(dlz)],
    )
    agree(
        conv_kernel_grad=kernels(cnnvjp.conv_kernel_grad(below, dlz, kernel_size=5)),
        grad=kernels(d_params[layer]["w"]),
        h_8_48=equations.h_8_48(maps(dlz), maps(below)),
    )

vec_a4 = cnnvjp.flatten(values["a4"], order="column")
agree(outer_product=vec_a4.T @ dlz5, grad=d_params["dense5"]["w"])
agree(bias=dn5[0], grad=d_params["dense5"]["b"])

stages(
    "The gradient of the kernels of layer 1.",
    (r"$\mathbf{dLZ}^1$", maps(dlz1)),
    (
        r"$\mathbf{dLW}^1 = \mathbf{dLZ}^1 \otimes \mathbf{P}$",
        kernels(d_params["conv1"]["w"])[:, 0],
    ),
)

# %% [markdown]
# A training step averages these gradients over its batch, since the loss that it lowers is the mean. A batch of three images:

# %%
of_each = [backward(params, x_test[k : k + 1], t_test[k : k + 1])[1] for k in range(3)]


@jax.jit
def mean_loss(params):
    return perturbed_loss({}, params, x_test[:3], t_test[:3]) / 3


of_the_mean = jax.grad(mean_loss)(params)["conv1"]["w"]
agree(
    of_the_mean=of_the_mean,
    mean_of_each=sum(one["conv1"]["w"] for one in of_each) / 3,
)

# %% [markdown]
# ## 8. The whole network, checked without any equation
#
# **Claim.** The gradient agrees with finite differences along random directions. Along a direction $v$ of all parameters together,
#
# $$\frac{F(\theta + \varepsilon v) - F(\theta - \varepsilon v)}{2 \varepsilon} \rightarrow \langle \nabla F(\theta), v \rangle \quad \text{as } \varepsilon \rightarrow 0.$$

# %%
flat, unravel = jax.flatten_util.ravel_pytree(params)
direction = jax.random.normal(jax.random.key(3), flat.shape)
direction = direction / jnp.linalg.norm(direction)


@jax.jit
def along(distance):
    """The mean loss of 64 test images at a distance from the trained parameters."""
    moved = unravel(flat + distance * direction)
    return perturbed_loss({}, moved, x_test[:64], t_test[:64]) / 64


slope = jax.grad(along)(0.0)
distances = 10.0 ** np.arange(-1, -10.1, -0.5)
differences = np.array([(along(e) - along(-e)) / (2 * e) for e in distances])
errors = np.abs(differences / slope - 1)
assert errors.min() < 1e-7

sheet = plot.Sheet(9.4, 2.9, "The error falls with the step, then rounding takes over.", cell=1)
title = "relative error of the finite difference"
axes = diagram(sheet, 2.2, title, r"step $\varepsilon$", 5, xscale="log", yscale="log")
axes.plot(distances, errors + 1e-16, color=BLUE, marker="o", markersize=4)
sheet

# %% [markdown]
# Read it from the right. A large step carries net inputs across relu's kink, and windows change their winners. Then the error falls quickly, until it meets that of rounding, which grows as $1/\varepsilon$. JAX has such a test built in:

# %%
check_grads(mean_loss, (params,), order=1, modes=["rev"], eps=1e-6)
print("check_grads: the gradient of the whole network agrees with differences")


# %% [markdown]
# ## 9. A model of your own
#
# **Claim.** A model needs an `init` and a forward function, some twenty lines in all. With them, everything above works: the training step, the named values, the sensitivities.
#
# This one has what `textbook` has not. *Batch normalization* uses the batch's mean and variance in training and running averages afterwards; these averages are the model's **state**, which `apply` returns anew. *Dropout* is random, and takes the **key**, which is different in every step. Both ask whether this is training.


# %%
def normalized_net(maps=8, classes=10, dropped=0.25, keep=0.9):
    def init(key, input_shape):
        rows, columns, channels = input_shape
        features = (rows - 4) // 2 * ((columns - 4) // 2) * maps
        he = jax.nn.initializers.he_normal(dtype=jnp.float64)
        key1, key2 = jax.random.split(key)
        params = {"w1": he(key1, (5, 5, channels, maps)), "w2": he(key2, (features, classes))}
        params |= {"gamma": jnp.ones(maps), "beta": jnp.zeros(maps), "b2": jnp.zeros(classes)}
        return params, {"mean": jnp.zeros(maps), "var": jnp.ones(maps)}

    def forward(params, state, x, named, *, train, key):
        lz1 = named("lz1", cnnvjp.conv(x, params["w1"]))
        if train:
            n1, mean, var = cnnvjp.batch_norm(lz1, params["gamma"], params["beta"])
            state = {
                "mean": keep * state["mean"] + (1 - keep) * mean,
                "var": keep * state["var"] + (1 - keep) * var,
            }
        else:
            n1 = cnnvjp.batch_norm_inference(lz1, params["gamma"], params["beta"], **state)
        a2 = named("a2", cnnvjp.max_pool(cnnvjp.relu(named("n1", n1)), 2))
        if train:
            a2 = cnnvjp.dropout(key, a2, dropped)
        return named("n3", cnnvjp.dense(cnnvjp.flatten(a2), params["w2"], params["b2"])), state

    return Model.named(init, forward)


# %% [markdown]
# Two passes over the training images are enough to see it learn.

# %%
own, own_optimizer = normalized_net(), optax.adam(3e-3)
own_state = train.create(jax.random.key(0), own, own_optimizer, (20, 20, 1))
own_step = train.make_train_step(own, softmax_cross_entropy, own_optimizer)
own_evaluate = train.make_eval_step(own, softmax_cross_entropy)

own_losses = []
for batch in np.concatenate([training[:1408], training[:1408]]).reshape(-1, BATCH):
    own_state, metrics = own_step(own_state, (images[batch], labels[batch]), jax.random.key(2))
    own_losses.append(float(metrics["loss"]))

own_accuracy = own_evaluate(own_state, (x_test, t_test))["accuracy"]
print(f"{len(own_losses)} steps, {own_accuracy:.1%} of the test images")
assert own_accuracy > 0.9 and np.mean(own_losses[-5:]) < 0.3 * own_losses[0]

# %% [markdown]
# What state, key and `train` do:


# %%
@jax.jit
def net_inputs(x):
    return own.intermediates(own_state.params, own_state.state, x, train=True, key=key1)


key1, key2 = jax.random.split(jax.random.key(5))
seen = net_inputs(images[training])
mean, var = seen["lz1"].mean((0, 1, 2)), seen["lz1"].var((0, 1, 2))

# The running averages follow the statistics of the training images.
assert jnp.all(jnp.abs(own_state.state["mean"] - mean) < 0.5 * jnp.sqrt(var))
assert jnp.all(jnp.abs(jnp.log2(own_state.state["var"] / var)) < 1)

# In training, batch normalization gives each map the mean beta.
agree(mean=seen["n1"].mean((0, 1, 2)), beta=own_state.params["beta"])


def outputs(**how):
    return own.apply(own_state.params, own_state.state, x_test[:32], **how)


# With another key, dropout drops other entries.
y1, state1 = outputs(train=True, key=key1)
y2, state2 = outputs(train=True, key=key2)
assert not jnp.allclose(y1, y2)
assert not jnp.allclose(state1["mean"], own_state.state["mean"])

# Afterwards nothing is random, and the state stays as it is.
y, same = outputs(train=False)
assert jnp.array_equal(y, outputs(train=False)[0])
assert jax.tree.all(jax.tree.map(jnp.array_equal, same, own_state.state))
print("state, key and train do what they should")

# %% [markdown]
# And the gradient of all of it, batch normalization's statistics and a fixed draw of dropout included, agrees with differences:


# %%
@jax.jit
def own_loss(params):
    logits, _ = own.apply(params, own_state.state, x_test[:8], train=True, key=jax.random.key(4))
    return softmax_cross_entropy(logits, t_test[:8]).mean()


check_grads(own_loss, (own_state.params,), order=1, modes=["rev"], eps=1e-6)
print("check_grads: agrees")

# %% [markdown]
# ## 10. What sharing weights is for
#
# **Claim.** A convolution uses one kernel at every position. *Unshared* convolution ([GBC] 9.9, `local_conv`) has the same windows and outputs, but a kernel of its own at each position. Trained with digits on the left of an image, a network with a shared kernel reads them on the right just as well. One without sharing has never trained the kernels there.
#
# Both networks have one such layer of 16 maps, then the largest output of each map, then a dense layer. They begin with the same weights.


# %%
def finder(layer, positions, maps=16, classes=10):
    def init(key, input_shape):
        he = jax.nn.initializers.he_normal(dtype=jnp.float64)
        key1, key2 = jax.random.split(key)
        kernel = he(key1, (5, 5, input_shape[-1], maps))
        params = {"w1": jnp.broadcast_to(kernel, (*positions, *kernel.shape))}
        return params | {"w2": he(key2, (maps, classes)), "b2": jnp.zeros(classes)}, {}

    def forward(params, state, x, named, *, train, key):
        a1 = cnnvjp.relu(named("n1", layer(x, params["w1"], padding="FULL")))
        found = cnnvjp.global_max_pool(a1)
        return named("n2", cnnvjp.dense(found, params["w2"], params["b2"])), state

    return Model.named(init, forward)


small = jnp.asarray(digits.images[..., None] / 16)
left, right = cnnvjp.pad(small, ((0, 0), (0, 6))), cnnvjp.pad(small, ((0, 0), (6, 0)))
finders = {"shared": finder(cnnvjp.conv, ()), "unshared": finder(cnnvjp.local_conv, (12, 18))}
kernels_before, kernels_after, on_the_left, on_the_right = {}, {}, {}, {}
for name, model in finders.items():
    found_state = train.create(jax.random.key(0), model, optax.adam(2e-2), (8, 14, 1))
    kernels_before[name] = found_state.params["w1"].copy()
    found_step = train.make_train_step(model, softmax_cross_entropy, optax.adam(2e-2))
    for batch in np.tile(training[:1408], 5).reshape(-1, BATCH):
        found_state, _ = found_step(found_state, (left[batch], labels[batch]), jax.random.key(0))
    kernels_after[name] = found_state.params["w1"]
    read = jax.jit(lambda params, x, model=model: model.apply(params, {}, x, train=False)[0])
    on_the_left[name] = read(found_state.params, left[testing])
    on_the_right[name] = read(found_state.params, right[testing])


# %%
def accuracy(outputs):
    return float((outputs.argmax(-1) == t_test).mean())


for name in finders:
    places = accuracy(on_the_left[name]), accuracy(on_the_right[name])
    print("{}: {:.0%} on the left, {:.0%} on the right".format(name, *places))

# The shared kernel finds on the right what it finds on the left, number by number.
agree(shared_left=on_the_left["shared"], shared_right=on_the_right["shared"])
assert accuracy(on_the_left["shared"]) > 0.8
assert accuracy(on_the_left["unshared"]) > 0.9 and accuracy(on_the_right["unshared"]) < 0.3

# The kernels whose windows no digit has reached are those of the beginning.
changed = (kernels_before["unshared"] != kernels_after["unshared"]).any((-4, -3, -2, -1))
assert changed[:, :10].any() and not changed[:, 12:].any()

# %% [markdown]
# ## 11. A network that straightens its images
#
# **Claim.** A network can learn where to look. `sample` reads an image at real positions, and its gradient reaches the positions too. With it a network learns from the labels alone to undo rotations.
#
# This is a *spatial transformer* (Jaderberg et al., *Spatial Transformer Networks*, 2015). A small network sees the image and predicts a $2 \times 3$ matrix $A$. `affine_positions` multiplies the coordinates $o$ of each output pixel by it, and `sample` reads the image $x$ at the resulting positions $p$, by interpolation with the kernel $k(d) = \max(1 - |d|, 0)$ along both axes:
#
# $$p = A \begin{pmatrix} o \\ 1 \end{pmatrix}, \qquad y_p = \sum_m k(p - m)\, x_m$$
#
# The digits are rotated by up to 60° either way, anew for each batch.


# %%
REACH = np.deg2rad(60)


def matrices(angles):
    """(N, 2, 3): rotations, counterclockwise in the image that is read."""
    zeros = jnp.zeros_like(angles)
    rows = (jnp.cos(angles), -jnp.sin(angles), zeros), (jnp.sin(angles), jnp.cos(angles), zeros)
    return jnp.stack([jnp.stack(row, -1) for row in rows], -2)


@jax.jit
def rotated(images, angles):
    return cnnvjp.sample(images, cnnvjp.affine_positions(matrices(angles), images.shape[1:3]))


angles = np.random.default_rng(2).uniform(-REACH, REACH, len(testing))
x_rotated = rotated(x_test, angles)

# %% [markdown]
# The classifier is a softmax regression, a single dense layer, which is too weak for rotated digits. `front=True` puts a transformer in front of it. The transformer's last layer starts with zero weights and the bias $(1, 0, 0, 0, 1, 0)$, the identity matrix, so that at first the image stays as it is. (Then every position is an integer, where the kernel has a kink; `sample` takes the derivative from the right.)


# %%
def regression(front):
    def init(key, input_shape):
        params = {"w": jnp.zeros((400, 10)), "b": jnp.zeros(10)}
        if front:
            he = jax.nn.initializers.he_normal(dtype=jnp.float64)
            key1, key2, key3 = jax.random.split(key, 3)
            params |= {"w1": he(key1, (5, 5, 1, 8)), "b1": jnp.zeros(8)}
            params |= {"w2": he(key2, (5, 5, 8, 8)), "b2": jnp.zeros(8)}
            params |= {"w3": he(key3, (32, 32)), "b3": jnp.zeros(32)}
            params |= {"w4": jnp.zeros((32, 6)), "b4": jnp.eye(2, 3).ravel()}
        return params, {}

    def forward(params, state, x, named, *, train, key):
        if front:
            a = x
            for w, b in (("w1", "b1"), ("w2", "b2")):
                n = cnnvjp.add_bias(cnnvjp.conv(a, params[w]), params[b])
                a = cnnvjp.max_pool(cnnvjp.relu(n), 2)
            a = cnnvjp.relu(cnnvjp.dense(cnnvjp.flatten(a), params["w3"], params["b3"]))
            matrix = cnnvjp.dense(a, params["w4"], params["b4"]).reshape(-1, 2, 3)
            matrix = named("matrix", matrix)
            positions = named("positions", cnnvjp.affine_positions(matrix, x.shape[1:3]))
            x = named("straight", cnnvjp.sample(x, positions))
        return named("logits", cnnvjp.dense(cnnvjp.flatten(x), params["w"], params["b"])), state

    return Model.named(init, forward)


def learn(model):
    """Trains on rotated digits; returns the parameters and the accuracy on the test images."""
    passes, batches = 20, len(training) // BATCH
    optimizer = optax.adam(optax.cosine_decay_schedule(6e-3, passes * batches))
    train_state = train.create(jax.random.key(0), model, optimizer, (20, 20, 1))
    step = train.make_train_step(model, softmax_cross_entropy, optimizer)
    drawn = np.random.default_rng(3)
    for _ in range(passes):
        for batch in drawn.permutation(training)[: batches * BATCH].reshape(-1, BATCH):
            x = rotated(images[batch], drawn.uniform(-REACH, REACH, BATCH))
            train_state, _ = step(train_state, (x, labels[batch]), jax.random.key(0))
    evaluate = train.make_eval_step(model, softmax_cross_entropy)
    return train_state.params, float(evaluate(train_state, (x_rotated, t_test))["accuracy"])


straightener = regression(front=True)
_, accuracy_alone = learn(regression(front=False))
straight_params, accuracy_behind = learn(straightener)
print(f"softmax regression by itself: {accuracy_alone:.0%} of the rotated test images")
print(f"behind the transformer: {accuracy_behind:.0%}")
assert accuracy_behind > accuracy_alone + 0.08

# %% [markdown]
# The angles were never given to it. To see that it has found them, take the rotation nearest to each predicted matrix: an image that was rotated by $\alpha$ should be turned back by about $-\alpha$.

# %%
found = jax.jit(straightener.intermediates)(straight_params, {}, x_rotated)
A = np.asarray(found["matrix"])
turned_by = np.arctan2(A[:, 1, 0] - A[:, 0, 1], A[:, 0, 0] + A[:, 1, 1])
left_over = angles + turned_by

correlation = np.corrcoef(angles, turned_by)[0, 1]
print(f"correlation of the angles and the turns back: {correlation:.1f}")
assert correlation < -0.8
assert left_over.std() < 0.6 * angles.std()

# %% cellView="form" jupyter={"source_hidden": true}
# @title Drawing
chosen = [max(np.flatnonzero(t_test == digit), key=lambda i: abs(angles[i])) for digit in range(10)]
sheet = plot.Sheet(9.4, 5.3, "Rotated digits, straightened; the angles and the turns back.", cell=1)
for row, (name, maps_of, degrees) in enumerate(
    (("rotated", x_rotated, angles), ("straightened", found["straight"], left_over))
):
    top = 0.35 + 1.1 * row
    sheet.text(0.1, top + 0.36, name, 0.13, ha="left")
    for k, i in enumerate(chosen):
        left = 1.35 + 0.8 * k
        picture = np.asarray(maps_of[i, ..., 0])
        sheet.image(left, top, 0.74, 0.74, picture, limits=(0, 1), colours=GREYS)
        turn = f"{np.rad2deg(degrees[i]):+.0f}°".replace("-", "−")
        sheet.text(left + 0.37, top - 0.12, turn, 0.12, color=plot.NAME)
axes = sheet.figure.add_axes((0.3, 0.1, 0.4, 0.44), facecolor=plot.PAPER)
axes.plot(np.rad2deg(angles), np.rad2deg(turned_by), ".", color=BLUE, markersize=4)
axes.plot((-60, 60), (60, -60), color=ORANGE, linewidth=1)
axes.set_xlabel("rotated by, degrees", fontsize=9, color=plot.NAME)
axes.set_ylabel("turned back by, degrees", fontsize=9, color=plot.NAME)
axes.tick_params(labelsize=8, color=plot.LINE, labelcolor=plot.NAME)
axes.spines[:].set(color=plot.LINE, linewidth=0.8)
sheet

# %% [markdown]
# Above each digit is its rotation, before and after. The transformer also enlarges, shears and shifts the digits as helps the regression, and leaves part of the rotation where the digit can be read all the same: a 0 most of all.
#
# ### The sensitivities of positions
#
# A perturbation gives the sensitivity of the positions as of any other value. By the equations it is the slope of the interpolated image times the sensitivity of the output pixel, and that of the matrix is a sum over all pixels (Jaderberg et al., 7 and 1):
#
# $$\frac{\partial F}{\partial p} = \delta_p \sum_m \frac{\partial k(p - m)}{\partial p}\, x_m, \qquad \frac{\partial F}{\partial A} = \sum_o \frac{n}{2}\, \frac{\partial F}{\partial p} \begin{pmatrix} o \\ 1 \end{pmatrix}^{\!\top}$$
#
# One unit of the coordinates $o$, which go from −1 to 1 across the image, is $n/2$ pixels. (Positions have rows first, the matrix columns first.) The image is the test image with the largest loss.


# %%
@jax.jit
def straightener_sensitivities(x, t):
    """∂F/∂value for every named value."""

    def loss(perturbations):
        logits, _ = straightener.apply(
            straight_params, {}, x, train=False, perturbations=perturbations
        )
        return softmax_cross_entropy(logits, t).sum()

    values = straightener.intermediates(straight_params, {}, x)
    return values, jax.grad(loss)(jax.tree.map(jnp.zeros_like, values))


worst = int(jnp.argmax(softmax_cross_entropy(found["logits"], t_test)))
x, t = x_rotated[worst : worst + 1], t_test[worst : worst + 1]
values, d = straightener_sensitivities(x, t)

beyond = np.pad(np.asarray(x[0, ..., 0]), 20)  # zeros, where positions leave the image
p = np.asarray(values["positions"][0])
i, j = np.floor(p).astype(int).transpose(2, 0, 1) + 20
f, g = (p - np.floor(p)).transpose(2, 0, 1)
upper_left, upper_right = beyond[i, j], beyond[i, j + 1]
lower_left, lower_right = beyond[i + 1, j], beyond[i + 1, j + 1]
upper, lower = (1 - g) * upper_left + g * upper_right, (1 - g) * lower_left + g * lower_right
left, right = (1 - f) * upper_left + f * lower_left, (1 - f) * upper_right + f * lower_right

dy = np.asarray(d["straight"][0, ..., 0])
dp = np.stack([dy * (lower - upper), dy * (right - left)], -1)
agree(sample=values["straight"][0, ..., 0], by_hand=(1 - f) * upper + f * lower)
agree(sensitivity=d["positions"][0], by_hand=dp)

o = (2 * np.arange(20) + 1 - 20) / 20
columns, rows = np.meshgrid(o, o)
d_matrix = [[np.sum(10 * dp[..., axis] * c) for c in (columns, rows, 1)] for axis in (1, 0)]
agree(sensitivity=d["matrix"][0], by_hand=d_matrix)

# %% cellView="form" jupyter={"source_hidden": true}
# @title Drawing
sheet = plot.Sheet(9.4, 4.3, "Where an image is read, and where the loss pulls.", cell=1)
axes = sheet.figure.add_axes((0.02, 0.03, 0.5, 0.88))
axes.imshow(np.asarray(x[0, ..., 0]), cmap=GREYS, vmin=0, vmax=1.6)
pull = -dp / np.abs(dp).max()
axes.plot(p[..., 1].ravel(), p[..., 0].ravel(), ".", color=BLUE, markersize=2)
axes.quiver(p[..., 1], p[..., 0], pull[..., 1], pull[..., 0], color=ORANGE, angles="xy", scale=14)
axes.set_title(r"$x$, and at each $p$ an arrow $-\partial F/\partial p$", fontsize=10)
axes.set(xlim=(-0.5, 19.5), ylim=(19.5, -0.5))
axes.axis("off")
largest = np.abs(dy).max()
for top, title, picture, limits, colours in (
    (0.35, "$y$, what is read", values["straight"][0, ..., 0], (0, 1.6), GREYS),
    (2.4, r"$\delta = \partial F/\partial y$", dy, (-largest, largest), SIGNS),
):
    sheet.image(6, top, 1.7, 1.7, np.asarray(picture), limits=limits, colours=colours)
    sheet.text(7.9, top + 0.85, title, 0.14, ha="left")
sheet

# %% [markdown]
# Each arrow points to where its pixel should have been read for a lower loss. Where the image is flat there is none: only the two nearest pixels along each axis contribute to a position's sensitivity.

# %% [markdown]
# ## Try it
#
# 1. Follow an image that the network reads well. How long are its sensitivities?
# 2. Use `models.textbook(activation=cnnvjp.tanh)`. Which lines of section 6 must change?
# 3. Check the gradient with respect to the *image* by differences, as in section 8. It fails. Look at the blank corners: how many entries of a window are largest there, and which of them does max pooling's gradient choose? Does `ties="split"` of `cnnvjp.max_pool` help?
# 4. Let the transformer of section 11 predict one angle instead of six numbers, and build its matrix with `matrices`. Which is the better reader, and which finds the angles better?
