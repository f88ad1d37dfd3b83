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
# # Pooling and resampling, backwards
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/cnnvjp/cnnvjp/blob/main/notebooks/02_pooling_and_resampling_backwards.ipynb)
#
# Between its convolutions a network changes the size of its maps: pooling takes one number from each window, a stride leaves pixels out, upsampling and resizing make pixels. Most of these operations have no weights. What they need is one gradient, with respect to their input $x$, made from what arrives at their output $y$ from above,
#
# $$\delta_i = \frac{\partial L}{\partial y_i}.$$
#
# This notebook derives it for each of them on examples that are small enough to check by eye. Every section makes a claim, shows it, and checks it with assertions. The claims are:
#
# 1. max pooling sends each $\delta$ to the pixel that **won** its window, and nothing to the others;
# 2. where several pixels are **tied**, any shares that add up to 1 will do, and two rules are in use;
# 3. where windows **overlap**, a pixel that wins twice receives both $\delta$, added up;
# 4. once the winners are known, max pooling is a **matrix**, and max unpooling is its transpose;
# 5. mean pooling is a **convolution** with a fixed filter, and so is the way back;
# 6. pooling with a trained **weight** has two gradients: $\delta$ is copied over its window, and the sums of the windows are weighed by $\delta$;
# 7. **downsampling** goes back by upsampling and upsampling by downsampling, so that any stride is a stride of 1 and a resampling;
# 8. but the input's **size** must be told;
# 9. resizing is a **matrix** whose rows sum to 1, and it goes back by the transpose, whose rows need not.
#
# | key | source |
# | --- | --- |
# | [B] | Bereyhi, *Applied Deep Learning* (2026), chapter 4 |
# | [H] | *Neural Network Design: Deep Learning*, chapter 8 |
# | [J] | Jefkine, *Backpropagation in Convolutional Neural Networks* (2016) |
# | [GBC] | Goodfellow, Bengio, Courville, *Deep Learning* (2016), chapter 9 |
#
# They call the same things by different names:
#
# | here | [B] | [H] | [J] |
# | --- | --- | --- | --- |
# | input `x` | $Y$, or $X$ where it is resampled | $V$, or $A$ going back | the pooling block |
# | output `y` | $\hat Y$, or $Z$ | $Z$, or $LZ$ going back | the value of the "winning unit" |
# | `delta` | $\partial \hat R/\partial \hat y_i$, $\nabla_Z \hat R$ | $dLZ$ | the error |

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
import inspect

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.test_util import check_grads

from cnnvjp import (
    equations,
    max_pooling,
    max_unpooling,
    resampling,
    resizing,
    sum_pooling,
)
from cnnvjp.plot import FAINT, INK, LINE, SHARED, TINTS, WRONG, Sheet

jax.config.update("jax_enable_x64", True)  # float64, so that the checks can be strict

# %% [markdown]
# `cnnvjp` keeps its channels last: a map is `(rows, columns, channels)`. All examples here have one channel; `plane` adds it and takes it away again. `pull_back` asks JAX for the gradient of $L = \sum_i \delta_i y_i$, the loss whose gradient at the output is $\delta$.


# %%
def plane(operation):
    """An operation on maps of one channel as an operation on matrices."""

    @functools.wraps(operation)
    def on_matrices(x, *args, **options):
        return operation(x[..., None], *args, **options)[..., 0]

    return on_matrices


max_pool, avg_pool, sum_pool = map(plane, (cnnvjp.max_pool, cnnvjp.avg_pool, cnnvjp.sum_pool))
downsample, upsample, repeat = map(plane, (cnnvjp.downsample, cnnvjp.upsample, cnnvjp.repeat))
resize, pad = map(plane, (cnnvjp.resize, cnnvjp.pad))


def pull_back(forward, x, delta):
    """∂L/∂x by JAX, for L = Σ δ·forward(x)."""
    return jax.jit(jax.grad(lambda x, delta: jnp.vdot(delta, forward(x))))(x, delta)


def differences(forward, x, delta, step):
    """∂L/∂x as each number of x goes up and down by a step; only forward passes."""
    losses = jax.jit(jax.vmap(lambda x: jnp.vdot(delta, forward(x))))
    steps = step * jnp.eye(x.size).reshape(-1, *x.shape)
    return (losses(x + steps) - losses(x - steps)).reshape(x.shape) / (2 * step)


def agree(**results):
    """Asserts that all results have one shape and are equal, up to rounding."""
    first, *others = results.values()
    for other in others:
        assert np.shape(other) == np.shape(first)
        np.testing.assert_allclose(other, first, rtol=0, atol=1e-12)
    print("equal:", ", ".join(results))


# %% [markdown]
# Most examples use $\delta = 1, 10, 100, 1000$: then each digit of a gradient says which output it came from.
#
# The next cell only draws. Skip it on a first reading.

# %% cellView="form" jupyter={"source_hidden": true}
# @title Drawing
EDGES = ["#2f6fa8", "#b07a12", "#3f8a38", "#98509a"]  # TINTS, darker
QUARTER = np.array(TINTS[:4]).reshape(2, 2)


def frames(sheet, left, top, size, stride, count=(2, 2)):
    """The windows' outlines, each a little further inside than the one before."""
    for k, (i, j) in enumerate(np.ndindex(*count)):
        inset = 0.06 + (0.07 * k if stride < size else 0)
        where = left + stride * j + inset, top + stride * i + inset
        sheet.frame(*where, size - 2 * inset, size - 2 * inset, EDGES[k], linewidth=1.8)


def stripes(sheet, left, top, places):
    """Tints the cells: `places` says which windows a cell belongs to."""
    for (row, column), windows in places.items():
        for k, number in enumerate(windows):
            width = 1 / len(windows)
            colour = TINTS[number]
            where = left + column + k * width, top + row
            sheet.box(*where, width, 1, facecolor=colour, edgecolor="none", zorder=1.5)
        sheet.frame(left + column, top + row, 1, 1, LINE, linewidth=0.8, zorder=1.6)


def winners(argmax, shape):
    """The pixels that won, and which windows."""
    places = {}
    for k, index in enumerate(np.ravel(argmax)):
        place = tuple(int(i) for i in np.unravel_index(int(index), shape))
        places.setdefault(place, []).append(k)
    return places


def routing(x, argmax, y, delta, dx, size, stride, alt):
    """Input and output of a max pooling, and the way back of δ."""
    n, places, fields = len(x), winners(argmax, np.shape(x)), dict(np.ndenumerate(QUARTER))
    sheet, middle = Sheet(2 * n + 9.7, n + 2, alt), n / 2 + 1.3
    sheet.matrix(0.6, 1.3, x, title="input x")
    stripes(sheet, 0.6, 1.3, places)
    frames(sheet, 0.6, 1.3, size, stride)
    sheet.text(n + 1.1, middle, "→", 0.6)
    sheet.matrix(n + 1.6, middle - 1, y, tints=fields, title="output y")
    sheet.matrix(n + 5.1, middle - 1, delta, tints=fields, title="δ from above")
    sheet.text(n + 8.1, middle - 0.5, "route", 0.3)
    sheet.text(n + 8.1, middle, "→", 0.6)
    sheet.matrix(n + 9.1, 1.3, dx, title="gradient of x")
    stripes(sheet, n + 9.1, 1.3, places)
    return sheet


def field(sheet, left, top, values, title=None, digits=2, size=0.3):
    """A matrix of weights: the larger, the darker; negative ones are red."""
    for (row, column), value in np.ndenumerate(np.asarray(values, float)):
        strength = min(abs(value), 1)
        full = np.array([47, 111, 168]) if value > 0 else np.array([214, 84, 60])
        colour = (255 + (full - 255) * 0.75 * strength) / 255
        where = left + column, top + row
        sheet.box(*where, 1, 1, facecolor=tuple(colour), edgecolor=LINE, linewidth=0.8)
        string = "0" if abs(value) < 1e-12 else f"{value:.{digits}f}".rstrip("0").rstrip(".")
        colour = FAINT if string == "0" else INK
        sheet.text(where[0] + 0.5, where[1] + 0.5, string.replace("-", "−"), size, color=colour)
    if title:
        sheet.text(left + np.shape(values)[1] / 2, top - 0.4, title, 0.32)


# %% [markdown]
# ## 1. Max pooling: the winner takes it all
#
# Max pooling keeps the largest number of each window. Here the windows are 2×2 and lie side by side:
#
# $$y_{i,j} = \max_{m,n}\; x_{2i+m,\,2j+n} \qquad \text{[H] 8.24}$$
#
# **Claim.** Each $\delta$ goes to the pixel that was the largest of its window; all other pixels receive 0.
#
# Why? Let the winner grow a little: the output grows by as much, so that $\partial y/\partial x = 1$. Let any other pixel of the window grow a little: it still loses, and the output stays, so that $\partial y/\partial x = 0$. [J] calls this gradient routing and its pixel the "winning unit"; [H] E8.8 leaves the derivation as an exercise.
#
# In the picture each window has a colour, and so have its winner and its $\delta$.

# %%
x = jnp.array([[3, 1, 0, 4], [2, 5, 6, 1], [7, 0, 2, 2], [1, 4, 3, 8]], float)
delta = jnp.array([[1, 10], [100, 1000]], float)

pool = functools.partial(max_pool, window=2)
y = pool(x)
_, argmax = cnnvjp.max_pool(x[..., None], 2, return_argmax=True)
dx = pull_back(pool, x, delta)

alt = "Four windows side by side; each δ goes to its window's winner."
routing(x, argmax, y, delta, dx, 2, 2, alt)


# %%
def lax_max_pool(x, size, stride):
    """JAX's own max pooling, which knows nothing of our rule."""
    return lax.reduce_window(x, -jnp.inf, lax.max, (size, size), (stride, stride), "VALID")


agree(
    max_pool=y,
    h_8_24=equations.h_8_24(x, 2, 2),
    j=equations.j_max_pooling(x, 2),
    lax=lax_max_pool(x, 2, 2),
)
agree(
    grad=dx,
    j=equations.j_max_pooling_routing(delta, x, 2),
    h_e8_8=equations.h_e8_8(delta[None], x[None], 2, 2)[0],
    lax=pull_back(lambda x: lax_max_pool(x, 2, 2), x, delta),
    differences=differences(pool, x, delta, step=1 / 4),
)

# %% [markdown]
# The differences are exact because the step is small enough that no other pixel takes the lead.
#
# The backward pass does not compare again. The forward pass notes the winner's place in its window, a number from 0 to 3 here, and this is all that it keeps (but for `ties="split"`, of which more below). What the rule does with it is the equation
#
# $$\frac{\partial L}{\partial x_j} = \sum_{i\,:\; j \text{ won window } i} \delta_i.$$

# %%
print(inspect.getsource(max_pooling._winner_pool_bwd))
print(inspect.getsource(max_pooling._route))

# %% [markdown]
# (`placed` writes each `dy` at its winner's place and adds up what meets there; a window of very many taps is taken apart, an axis at a time.)

# %% [markdown]
# ## 2. Ties: nobody is the one winner
#
# **Claim.** Where several pixels of a window are largest, max pooling has no derivative. Any shares of $\delta$ that are at least 0, go to the tied pixels only and add up to 1 make a *subgradient*, the slope of a plane that touches the function from below. Two choices are in use:
#
# * `ties="first"`: the first of them, row by row, gets everything. This is the default, and what JAX's `lax.reduce_window` does;
# * `ties="split"`: all of them get equal shares. This is what `jnp.max` does.

# %%
x_tied = jnp.array([[5, 5, 3, 7], [1, 5, 7, 0]], float)  # three fives, two sevens
delta_tied = jnp.array([[6, 10]], float)

rules = {
    ties: pull_back(lambda x, ties=ties: max_pool(x, 2, ties=ties), x_tied, delta_tied)
    for ties in ("first", "split")
}

sheet = Sheet(20.2, 4.5, "Two windows with ties, and what their pixels receive by either rule.")
equal = {(0, 0): [0], (0, 1): [0], (1, 1): [0], (0, 3): [1], (1, 2): [1]}
first = {(0, 0): [0], (0, 3): [1]}
for left, numbers, places, title in (
    (0.6, x_tied, equal, "input x"),
    (10.2, rules["first"], first, 'ties="first"'),
    (15.6, rules["split"], equal, 'ties="split"'),
):
    sheet.matrix(left, 1.4, numbers, title=title)
    stripes(sheet, left, 1.4, places)
    frames(sheet, left, 1.4, 2, 2, (1, 2))
sheet.matrix(6.2, 1.9, delta_tied, tints={(0, 0): TINTS[0], (0, 1): TINTS[1]}, title="δ")
sheet.text(9.2, 2.4, "→", 0.6)
sheet


# %%
def jnp_max_pool(x):
    """The same pooling by jnp.max over 2×2 blocks."""
    rows, columns = x.shape
    return x.reshape(rows // 2, 2, columns // 2, 2).max((1, 3))


agree(first=rules["first"], lax=pull_back(lambda x: lax_max_pool(x, 2, 2), x_tied, delta_tied))
agree(split=rules["split"], jnp=pull_back(jnp_max_pool, x_tied, delta_tied))
print(inspect.getsource(max_pooling._share))

# %% [markdown]
# In a formula: with the slopes $g$, and for $\delta \ge 0$, so that $L$ is convex,
#
# $$L(z) \;\ge\; L(x) + \sum_j g_j\,(z_j - x_j) \quad \text{for all } z.$$
#
# Check it at ten thousand places. Shares that add up to more than 1, such as all of $\delta$ for each tied pixel, fail.

# %%
random = np.random.default_rng(0)
z = x_tied + random.normal(size=(10_000, *x_tied.shape))


def loss_at(x):
    """L of one input or of many."""
    return jnp.sum(delta_tied * max_pool(x, 2), axis=(-2, -1))


def is_subgradient(g):
    """Whether the plane with the slopes g lies nowhere above L."""
    return bool(jnp.all(loss_at(z) >= loss_at(x_tied) + jnp.sum(g * (z - x_tied), (-2, -1)) - 1e-9))


everything_to_each = jnp.where(rules["split"] > 0, repeat(delta_tied, 2), 0)
assert is_subgradient(rules["first"])
assert is_subgradient(rules["split"])
assert is_subgradient((rules["first"] + rules["split"]) / 2)  # and all that lies between
assert not is_subgradient(everything_to_each)
print("subgradients: first, split, their mean; not: all of δ to each")

# %% [markdown]
# Ties are not rare: saturated pixels are tied, and below a ReLU whole windows are 0. The latter do not matter, because what the pooling sends there, the ReLU stops. Its gradient is 0 where its input was not positive:

# %%
dead = jnp.array([[-3, -1], [-2, -5]], float)
for ties in ("first", "split"):
    stopped = pull_back(
        lambda x, t=ties: max_pool(cnnvjp.relu(x), 2, ties=t), dead, jnp.ones((1, 1))
    )
    assert not stopped.any()
    assert pull_back(lambda x, t=ties: max_pool(x, 2, ties=t), 0 * dead, jnp.ones((1, 1))).any()

# %% [markdown]
# ## 3. Overlapping windows: a pixel can win more than once
#
# The example of [B] is a 3×3 map $y_1 \dots y_9$ under a 2×2 window at stride 1, whose four windows overlap. The largest number of all is $y_2$, which lies in windows 1 and 2.
#
# **Claim.** A pixel that wins several windows receives the sum of their $\delta$:
#
# $$\frac{\partial \hat R}{\partial y_2} = \sum_{i=1}^{4} \frac{\partial \hat R}{\partial \hat y_i}\frac{\partial \hat y_i}{\partial y_2} = \frac{\partial \hat R}{\partial \hat y_1} + \frac{\partial \hat R}{\partial \hat y_2}, \qquad \frac{\partial \hat R}{\partial y_7} = \frac{\partial \hat R}{\partial \hat y_3}, \qquad \frac{\partial \hat R}{\partial y_9} = \frac{\partial \hat R}{\partial \hat y_4}$$
#
# and the others receive 0 ([B], "Backpropagation: Max-Pooling").

# %%
x3 = jnp.array([[3, 9, 1], [4, 2, 5], [8, 0, 7]], float)  # y₂ wins windows 1 and 2

pool_overlapping = functools.partial(max_pool, window=2, stride=1)
y3 = pool_overlapping(x3)
_, argmax3 = cnnvjp.max_pool(x3[..., None], 2, stride=1, return_argmax=True)
argmax3 = argmax3[..., 0]
dx3 = pull_back(pool_overlapping, x3, delta)

alt = "Four overlapping windows; the 9 wins two of them and receives 1 + 10."
routing(x3, argmax3, y3, delta, dx3, 2, 1, alt)

# %%
assert dx3[0, 1] == 1 + 10
agree(max_pool=y3, b=equations.b_max_pooling(x3, (2, 2)), lax=lax_max_pool(x3, 2, 1))
agree(
    grad=dx3,
    b=equations.b_max_pooling_backward(delta, x3, (2, 2)),
    lax=pull_back(lambda x: lax_max_pool(x, 2, 1), x3, delta),
    differences=differences(pool_overlapping, x3, delta, step=1 / 4),
)

# %% [markdown]
# ## 4. With the winners known it is a matrix; unpooling is its transpose
#
# **Claim.** For given winners, max pooling only picks numbers: $y = P x$, where row $i$ of $P$ has a single 1, in the column of the pixel that won window $i$. The way back is $P^\top \delta$. As an operation of its own this is max unpooling, which puts values back where they came from.
#
# `argmax` is $P$ in short: for each window the column of its 1, counted row by row from 0. Column 1 of $P$ has two ones, as pixel $y_2$ won twice.

# %%
P = jax.nn.one_hot(argmax3.ravel(), x3.size, dtype=float)

sheet = Sheet(26, 11.4, "The matrix of the winners times the pixels, and its transpose times δ.")
rows = {(k, int(column)): TINTS[k] for k, column in enumerate(argmax3.ravel())}
shades = {(k, 0): TINTS[k] for k in range(4)}
sheet.matrix(0.6, 3.8, P, tints=rows, title="P")
sheet.text(10.1, 5.8, "·", 0.6)
sheet.matrix(10.6, 1.3, x3.reshape(-1, 1), title="x")
stripes(sheet, 10.6, 1.3, {(c, 0): ks for (_, c), ks in winners(argmax3, (1, 9)).items()})
sheet.text(12.1, 5.8, "=", 0.5)
sheet.matrix(12.6, 3.8, y3.reshape(-1, 1), tints=shades, title="y")
sheet.matrix(15.6, 1.3, P.T, tints={(c, r): t for (r, c), t in rows.items()}, title="$P^\\top$")
sheet.text(20.1, 5.8, "·", 0.6)
sheet.matrix(20.6, 3.8, delta.reshape(-1, 1), tints=shades, title="δ")
sheet.text(22.3, 5.8, "=", 0.5)
sheet.matrix(23.2, 1.3, dx3.reshape(-1, 1), title="gradient of x")
stripes(sheet, 23.2, 1.3, {(c, 0): ks for (_, c), ks in winners(argmax3, (1, 9)).items()})
sheet


# %%
def unpool(y):
    """Max unpooling by the winners of this section."""
    return cnnvjp.max_unpool(y[..., None], argmax3[..., None], output_size=3)[..., 0]


print("argmax:", argmax3.ravel())
agree(P_x=(P @ x3.ravel()).reshape(2, 2), max_pool=y3)
agree(Pt_delta=(P.T @ delta.ravel()).reshape(3, 3), max_unpool=unpool(delta), grad=dx3)
agree(P=P, jacobian=jax.jacrev(pool_overlapping)(x3).reshape(4, 9))

# %% [markdown]
# Two values that come from one pixel are **added** there. Were the second to overwrite the first, $y_2$ would receive 10 instead of 11, and unpooling would not be the transpose. Its own gradient is then the other direction: $P$ again, which reads $dx$ at the winners' places.

# %%
down = jnp.arange(1.0, 10.0).reshape(3, 3)  # a gradient that arrives at the unpooled map
agree(grad=pull_back(unpool, delta, down), P=(P @ down.ravel()).reshape(2, 2))
agree(adjoint=jnp.vdot(P.T @ delta.ravel(), x3.ravel()), pool=jnp.vdot(delta, y3))

print(inspect.getsource(max_unpooling._max_unpool_bwd))

# %% [markdown]
# ## 5. Mean pooling: everyone gets a share
#
# **Claim.** Each $\delta$ is divided equally among the pixels of its window; where windows overlap, the shares add up. In the example of [B],
#
# $$\frac{\partial \hat R}{\partial y_2} = \tfrac14 \frac{\partial \hat R}{\partial \hat y_1} + \tfrac14 \frac{\partial \hat R}{\partial \hat y_2}, \qquad \frac{\partial \hat R}{\partial y_5} = \tfrac14 \left( \frac{\partial \hat R}{\partial \hat y_1} + \frac{\partial \hat R}{\partial \hat y_2} + \frac{\partial \hat R}{\partial \hat y_3} + \frac{\partial \hat R}{\partial \hat y_4} \right).$$
#
# Forward, mean pooling is a convolution with the fixed filter of four quarters. Back, it is again a convolution with that filter, over $\delta$ in a border of zeros: a filter of equal weights looks the same after half a turn. Here $\delta$ is four times as large as before, so that the digits show who contributes.

# %%
quarters = jnp.full((2, 2), 1 / 4)
mean_pool = functools.partial(avg_pool, window=2, stride=1)
dx_mean = pull_back(mean_pool, x3, 4 * delta)
padded = pad(4 * delta, 1)

sheet = Sheet(14, 5.8, "The filter of quarters slides over the padded δ.")
sheet.matrix(0.6, 2.2, [["1/4", "1/4"], ["1/4", "1/4"]], title="fixed filter")
sheet.text(3.5, 3.2, "⊗", 0.6)
fields = {(1, 1): TINTS[0], (1, 2): TINTS[1], (2, 1): TINTS[2], (2, 2): TINTS[3]}
sheet.matrix(4.4, 1.2, padded, tints=fields, title="4δ, padded")
sheet.text(9.4, 3.2, "=", 0.6)
sheet.matrix(10.4, 1.7, dx_mean, title="gradient of x")
belongs = {
    (row, column): [
        2 * i + j for i, j in np.ndindex(2, 2) if 0 <= row - i <= 1 and 0 <= column - j <= 1
    ]
    for row, column in np.ndindex(3, 3)
}
stripes(sheet, 10.4, 1.7, belongs)
sheet


# %%
def conv(x, w):
    """cnnvjp.conv, for one map in and one map out."""
    return cnnvjp.conv(x[..., None], w[..., None, None])[..., 0]


def lax_mean_pool(x, size, stride):
    """JAX's own sum over windows, divided by their size."""
    sums = lax.reduce_window(x, 0.0, lax.add, (size, size), (stride, stride), "VALID")
    return sums / size**2


agree(
    avg_pool=mean_pool(x3),
    convolution=conv(x3, quarters),
    b=equations.b_mean_pooling(x3, (2, 2)),
    lax=lax_mean_pool(x3, 2, 1),
)
agree(
    grad=dx_mean,
    convolution=conv(padded, quarters),
    b=equations.b_mean_pooling_backward(4 * delta, (2, 2), (3, 3)),
    lax=pull_back(lambda x: lax_mean_pool(x, 2, 1), x3, 4 * delta),
    differences=differences(mean_pool, x3, 4 * delta, step=1),
)

# %% [markdown]
# Side by side, windows share nothing, and what remains is the sentence of [J]: the error times $\tfrac{1}{N \times N}$, for the whole pooling block. By the rule for a stride (section 7) this is still the same convolution, over a $\delta$ that has been spread out.

# %%
side_by_side = pull_back(lambda x: avg_pool(x, 2), x, 4 * delta)
agree(
    grad=side_by_side,
    j=equations.j_average_pooling_routing(4 * delta, 2),
    copies=repeat(delta, 2),
    convolution=conv(pad(upsample(4 * delta, 2), 1), quarters),
)
print(inspect.getsource(sum_pooling._avg_pool_bwd))

# %% [markdown]
# `_spread` is the transpose of summing windows. `_count` is 4 here; at the border of a padded map it can be less.

# %% [markdown]
# ## 6. A pooling that learns
#
# [H] gives average pooling a weight that is trained, one for each map:
#
# $$z_{i,j} = \Big\lbrace \sum_{k=1}^{r}\sum_{l=1}^{c} v_{r(i-1)+k,\,c(j-1)+l} \Big\rbrace \, w, \qquad \mathbf{Z} = w\, \boxplus^{ave}_{r,c} \mathbf{V} \qquad \text{[H] 8.22, 8.23}$$
#
# $\boxplus$ sums each block. (It is the average if $w = 1/(rc)$.)
#
# **Claim.** There are two gradients. Each $\delta$, times the weight, is copied over its block; and the weight's gradient is the sum of the blocks' sums, each times its $\delta$:
#
# $$\mathbf{dA} = lw\; \boxtimes_{r,c}\, \mathbf{dLZ} \qquad \text{[H] P8.3} \qquad\qquad dlw = \sum_{i,j} dlz_{i,j} \Big\lbrace \sum_{u,v} a_{r(i-1)+u,\,c(j-1)+v} \Big\rbrace \qquad \text{[H] P8.4}$$
#
# $\boxtimes$ repeats each number over a block of $r \times c$; the library calls it `repeat`.

# %%
A = jnp.arange(1.0, 17.0).reshape(4, 4)
lw = jnp.array(3.0)
weighted_pool = plane(cnnvjp.weighted_avg_pool)

d_maps, d_weight = jax.grad(lambda A, lw: jnp.vdot(delta, weighted_pool(A, lw, 2)), argnums=(0, 1))(
    A, lw
)
sums = sum_pool(A, 2)

blocks = {(i, j): QUARTER[i // 2, j // 2] for i, j in np.ndindex(4, 4)}
fields = {place: QUARTER[place] for place in np.ndindex(2, 2)}
sheet = Sheet(18, 13.6, "The two gradients of pooling with a weight.")
for left, top, matrix, title in (
    (0.6, 2.2, A, "A"),
    (6.6, 3.2, sums, "sums of blocks"),
    (10.2, 3.2, delta, "dLZ"),
    (0.6, 10, delta, "dLZ"),
    (4.8, 9, repeat(delta, 2), "each over its block"),
    (10.8, 9, d_maps, "dA"),
):
    sheet.matrix(left, top, matrix, tints=blocks if len(matrix) == 4 else fields, title=title)
for x_sign, y_sign, sign, arrow in (
    (5.6, 4.2, "⊞", "→"),
    (9.4, 4.2, "", "∘"),
    (13.2, 4.2, "Σ", "→"),
    (3.7, 11, "⊠", "→"),
    (9.8, 11, f"$\\times {lw:g}$", "→"),
):
    sheet.text(x_sign, y_sign - 0.6, sign, 0.42)
    sheet.text(x_sign, y_sign, arrow, 0.6)
sheet.text(14.1, 4.2, f"$dlw = {d_weight:g}$", 0.4, ha="left")
sheet.text(0.6, 0.7, "back to the weight", 0.4, ha="left", weight="bold")
sheet.text(0.6, 7.4, "back to the map", 0.4, ha="left", weight="bold")
sheet

# %%
assert d_weight == 14 * 1 + 22 * 10 + 46 * 100 + 54 * 1000 == 58_834
agree(forward=weighted_pool(A, lw, 2), h_8_22=equations.h_8_22(A, 2, 2, 3.0), sums=3 * sums)
agree(
    dA=d_maps,
    h_p8_3=equations.h_p8_3(delta[None], [3], 2, 2)[0],
    lax=pull_back(lambda A: 4 * lw * lax_mean_pool(A, 2, 2), A, delta),
    differences=differences(lambda A: weighted_pool(A, lw, 2), A, delta, step=1),
)
agree(
    dlw=d_weight,
    h_p8_4=equations.h_p8_4(delta[None], A[None], 2, 2)[0],
    lax=pull_back(lambda lw: 4 * lw * lax_mean_pool(A, 2, 2), lw, delta),
    differences=differences(lambda lw: weighted_pool(A, lw, 2), lw, delta, step=1),
)

# %% [markdown]
# [H] introduces $\boxtimes$ as the reverse of $\boxplus$. It is the transpose, not the inverse: first copying and then summing multiplies by $rc$.

# %%
agree(sum_of_copies=sum_pool(repeat(delta, 2), 2), four_times=4 * delta)
agree(transpose=pull_back(lambda x: sum_pool(x, 2), A, delta), repeat=repeat(delta, 2))
agree(and_back=pull_back(lambda x: repeat(x, 2), delta, A), sums=sums)
print(inspect.getsource(sum_pooling._weighted_avg_pool_bwd))

# %% [markdown]
# ## 7. A stride is a downsampling
#
# [B] splits a convolution or pooling with a stride into two steps: the same with stride 1, then a unit that keeps every $S$-th pixel, $\text{dSample}(X \mid S)$. Its counterpart $\text{uSample}(X \mid S)$ puts $S - 1$ zeros between neighbours.
#
# **Claim.** Each is the other's way back:
#
# $$\nabla_X \hat R = \text{uSample}(\nabla_Z \hat R \mid S) \ \text{ for } Z = \text{dSample}(X \mid S), \qquad \nabla_X \hat R = \text{dSample}(\nabla_Z \hat R \mid S) \ \text{ for } Z = \text{uSample}(X \mid S).$$
#
# A pixel that was kept receives its $\delta$; one that was left out has no effect and receives 0. A zero that was inserted depends on nothing, so that its $\delta$ is lost.

# %%
nine = jnp.arange(1.0, 10.0).reshape(3, 3)
kept = {place: QUARTER[place[0] // 2, place[1] // 2] for place in np.ndindex(3, 3)}
kept = {(i, j): tint for (i, j), tint in kept.items() if i % 2 == j % 2 == 0}


def numbers(symbol, side):
    """Symbols with a running index: x₁ x₂ …"""
    count = range(1, side**2 + 1)
    return np.array([f"{symbol}_{{{k}}}" for k in count]).reshape(side, side)


spread = np.full((3, 3), "0", "<U12")
spread[::2, ::2] = numbers(r"\delta", 2)

sheet = Sheet(19.2, 9.9, "Downsampling and upsampling, each with its way back.")
for top, (a, b, c, d), (one, two), labels in (
    (
        1.2,
        (numbers("x", 3), numbers("x", 3)[::2, ::2], numbers(r"\delta", 2), spread),
        ("dSample", "uSample"),
        ("x", "y", "δ", "gradient of x"),
    ),
    (
        6.3,
        (
            numbers("x", 2),
            np.where(spread == "0", "0", np.char.replace(spread, r"\delta", "x")),
            numbers(r"\delta", 3),
            numbers(r"\delta", 3)[::2, ::2],
        ),
        ("uSample", "dSample"),
        ("x", "y", "δ", "gradient of x"),
    ),
):
    for left, matrix, label in zip((0.6, 5.6, 10.6, 15.6), (a, b, c, d), labels, strict=True):
        small = len(matrix) == 2
        shift = 0.5 if small else 0
        sheet.matrix(
            left + shift, top + shift, matrix, tints=fields if small else kept, title=label
        )
    for place, word in ((4.6, one), (14.6, two)):
        sheet.text(place, top + 1.0, word, 0.27)
        sheet.text(place, top + 1.5, "→", 0.6)
sheet

# %%
agree(
    back_through_dSample=pull_back(lambda x: downsample(x, 2), nine, delta),
    uSample=upsample(delta, 2),
    b=equations.b_downsampling_backward(delta, 2, (3, 3)),
    slicing=pull_back(lambda x: x[::2, ::2], nine, delta),
)
agree(
    back_through_uSample=pull_back(lambda x: upsample(x, 2), delta, nine),
    dSample=downsample(nine, 2),
    b=equations.b_upsampling_backward(nine, 2),
    setting=pull_back(lambda x: jnp.zeros((3, 3)).at[::2, ::2].set(x), delta, nine),
)
D = jax.jacrev(lambda x: downsample(x, 2))(nine).reshape(4, 9)
U = jax.jacrev(lambda x: upsample(x, 2))(delta).reshape(9, 4)
agree(D=D, U_transposed=U.T)

print(inspect.getsource(resampling._downsample_bwd))
print(inspect.getsource(resampling._upsample_bwd))
print(inspect.getsource(resampling._every))

# %% [markdown]
# So the rule for any stride follows from the rule for stride 1: spread $\delta$ out, then go back as if there were no stride. It holds for convolution, max pooling and mean pooling alike.

# %%
w = jnp.array([[1, 2], [3, 4]], float)
image = jnp.array(random.permutation(36).reshape(6, 6), float)  # no ties

for name, slide in {
    "convolution": lambda x, s: plane(cnnvjp.conv)(x, w[..., None, None], stride=s),
    "max pooling": lambda x, s: max_pool(x, 2, stride=s),
    "mean pooling": lambda x, s: avg_pool(x, 2, stride=s),
}.items():
    for stride in (2, 3, 4):
        strided = functools.partial(slide, s=stride)
        after = downsample(slide(image, 1), stride)
        d = jnp.array(random.integers(1, 9, after.shape), float)
        spread_out = upsample(d, stride, output_size=5)
        np.testing.assert_array_equal(strided(image), after)
        np.testing.assert_allclose(
            pull_back(strided, image, d),
            pull_back(functools.partial(slide, s=1), image, spread_out),
            atol=1e-12,
        )
    print(f"{name}: strides 2, 3 and 4, values and gradients")

# %% [markdown]
# ## 8. The size must be told
#
# **Claim.** Spreading out does not always lead back to the input's size: downsampled by 2, five pixels and six leave the same three. $\text{uSample}$ makes $(3 - 1) \cdot 2 + 1 = 5$ of them. The sixth pixel was left out and has the gradient 0, but $\delta$ does not know that it exists. This is [GBC]'s remark on the transpose of a convolution, that it "must be explicitly told what the size of the original input was".

# %%
three = jnp.array([[1.0, 10.0, 100.0]])
down_row = functools.partial(downsample, factor=(1, 2))

sheet = Sheet(
    20.6, 6.4, "Five and six pixels leave the same three; only the size tells them apart."
)
for top, size in ((1.2, 5), (4.2, 6)):
    row = np.array([[f"x_{{{k}}}" for k in range(1, size + 1)]])
    back = pull_back(down_row, jnp.ones((1, size)), three)
    tints = {(0, 2 * k): TINTS[k] for k in range(3)}
    sheet.matrix(0.6, top, row, tints=tints, title=f"{size} pixels")
    sheet.text(7.6, top + 0.5, "→", 0.6)
    sheet.matrix(8.6, top, three, tints={(0, k): TINTS[k] for k in range(3)}, title="δ")
    sheet.text(12.6, top + 0.5, "→", 0.6)
    sheet.matrix(13.8, top, back, tints=tints | {(0, 5): SHARED}, title=f"gradient, {size} pixels")
sheet

# %%
told = {n: upsample(three, (1, 2), output_size=(1, n)) for n in (5, 6)}
for n, spread_out in told.items():
    back = pull_back(down_row, jnp.ones((1, n)), three)
    agree(grad=back, told=spread_out, b=equations.b_downsampling_backward(three, 2, (1, n)))
agree(untold=upsample(three, (1, 2)), five=told[5])

try:
    upsample(three, (1, 2), output_size=(1, 7))
    raise AssertionError("seven pixels leave four")
except ValueError as error:
    print(error)

# %% [markdown]
# ## 9. Resizing is a matrix
#
# Along one axis, from $n$ pixels to $m$, each new pixel is a weighted sum of old ones: $y = A x$. For linear interpolation pixel $i$ lies over the old pixels at $p_i = (i + \tfrac12)\tfrac{n}{m} - \tfrac12$, and
#
# $$A_{i,j} = \max(1 - |p_i - j|,\, 0),$$
#
# where what falls beyond an edge counts for the pixel at the edge. On images it acts along both axes: $Y = A X B^\top$.
#
# **Claim.** The way back is the transpose, $dX = A^\top\, dY\, B$. The *rows* of $A$ sum to 1, so that a grey area stays as grey as it was. Its *columns* say how much each old pixel counts, and need not sum to the same.


# %%
def linear_matrix(n, m):
    """A of linear interpolation, entry by entry."""
    A = np.zeros((m, n))
    for i in range(m):
        p = (i + 1 / 2) * n / m - 1 / 2
        for j in range(-1, n + 1):
            A[i, np.clip(j, 0, n - 1)] += max(1 - abs(p - j), 0)
    return A


def matrix_of(n, m, **options):
    """A by the library: its columns are what becomes of single pixels."""
    impulses = jnp.eye(n)[..., None]
    return jax.vmap(lambda x: cnnvjp.resize(x, (m,), **options)[:, 0])(impulses).T


matrices = {
    "linear, 4 → 7": matrix_of(4, 7),
    "nearest, 4 → 7": matrix_of(4, 7, method="nearest"),
    "cubic, 4 → 7": matrix_of(4, 7, method="cubic"),
    "linear, 7 → 3": matrix_of(7, 3),
    "linear, 7 → 3, antialias": matrix_of(7, 3, antialias=True),
}

sheet = Sheet(21.2, 18, "The matrices of five resizings, and the sums of their columns.")
corners = [(1.6, 1.3), (8.5, 1.3), (15.4, 1.3), (2, 12.1), (12, 12.1)]
for (left, top), (title, A) in zip(corners, matrices.items(), strict=True):
    field(sheet, left, top, A, title)
    total = A.sum(0, keepdims=True)
    bottom = top + len(A) + 0.5
    for column, value in enumerate(total[0]):
        colour = WRONG if value < 1e-9 else "white"
        sheet.box(left + column, bottom, 1, 1, facecolor=colour, edgecolor=LINE, linewidth=0.8)
        sheet.text(
            left + column + 0.5, bottom + 0.5, f"{value:.2g}" if value < 1 else f"{value:.3g}", 0.3
        )
    sheet.text(left - 0.15, bottom + 0.5, "Σ", 0.36, ha="right")
sheet

# %% [markdown]
# Below each matrix are the sums of its columns, which are what the pixels receive if every $\delta$ is 1. Cubic interpolation has negative weights (red), and still each row sums to 1. Linear interpolation that shrinks 7 pixels to 3 looks at five of them only: two have a column of zeros, and will never hear from the loss. `antialias` widens the kernel so that all take part.

# %%
for A in matrices.values():
    np.testing.assert_allclose(A.sum(1), 1, atol=1e-12)

agree(linear=matrices["linear, 4 → 7"], by_hand=linear_matrix(4, 7))
agree(linear=matrices["linear, 7 → 3"], by_hand=linear_matrix(7, 3))
print("columns of linear, 7 → 3:", np.round(matrices["linear, 7 → 3"].sum(0), 3))
assert int(np.sum(matrices["linear, 7 → 3"].sum(0) == 0)) == 2
assert np.all(matrices["linear, 7 → 3, antialias"].sum(0) > 0)
assert float(matrices["cubic, 4 → 7"].min()) < 0

# %% [markdown]
# The rule is one line: the same matrices, transposed. JAX's own `jax.image.resize` computes the same function where the method is linear (by default it antialiases), and its gradient agrees.

# %%
small = jnp.array(random.integers(0, 9, (4, 7)), float)  # 4 rows to 7, 7 columns to 3
d_large = jnp.array(random.integers(-4, 5, (7, 3)), float)

for antialias in (False, True):
    options = {"method": "linear", "antialias": antialias}
    to_size = functools.partial(resize, size=(7, 3), **options)
    jax_to_size = functools.partial(jax.image.resize, shape=(7, 3), **options)
    A, B = matrix_of(4, 7, antialias=antialias), matrix_of(7, 3, antialias=antialias)
    agree(resize=to_size(small), A_x_Bt=A @ small @ B.T, jax=jax_to_size(small))
    agree(
        grad=pull_back(to_size, small, d_large),
        At_dy_B=A.T @ d_large @ B,
        jax=pull_back(jax_to_size, small, d_large),
        differences=differences(to_size, small, d_large, step=1),
    )

print(inspect.getsource(resizing._resize_bwd))

# %% [markdown]
# ## All together
#
# | operation | forward | back | source | code |
# | --- | --- | --- | --- | --- |
# | max pooling | $y = P x$, one 1 in each row | $P^\top \delta$ | [J] Pooling Layer, [B] Max-Pooling, [H] E8.8 | `max_pooling._winner_pool_bwd` |
# | max unpooling | $P^\top y$ | $P\, dx$ | the same, as an operation | `max_unpooling._max_unpool_bwd` |
# | mean pooling | windows ⊗ equal weights | padded $\delta$ ⊗ the same | [B] Mean-Pooling | `sum_pooling._avg_pool_bwd` |
# | weighted pooling | $w \boxplus V$ | $w \boxtimes \delta$, and $\sum \delta \circ \boxplus V$ | [H] P8.3, P8.4 | `sum_pooling._weighted_avg_pool_bwd` |
# | downsampling | every $S$-th pixel | $\delta$ among zeros | [B] Downsampling | `resampling._downsample_bwd` |
# | upsampling | $x$ among zeros | every $S$-th $\delta$ | [B] Upsampling | `resampling._upsample_bwd` |
# | resizing | $A X B^\top$ | $A^\top \delta B$ | [H] 8.12 for the idea | `resizing._resize_bwd` |
#
# All of them are linear maps (max pooling once its winners are known), and one identity holds for every linear map and its transpose: $\langle \delta, A x \rangle = \langle A^\top \delta, x \rangle$. Last, JAX's finite differences, in random directions, for first and second derivatives:

# %%
operations = {
    "max_pool": lambda x: max_pool(x, 2, stride=1),
    "avg_pool": lambda x: avg_pool(x, 3, stride=2, padding=1),
    "weighted_avg_pool": lambda x: weighted_pool(x, lw, 2),
    "downsample": lambda x: downsample(x, 4),
    "upsample": lambda x: upsample(x, 3),
    "repeat": lambda x: repeat(x, 2),
    "resize": lambda x: resize(x, (4, 9), method="cubic"),
}
for name, operation in operations.items():
    result = operation(image)
    d = jnp.array(random.integers(-4, 5, result.shape), float)
    back = pull_back(operation, image, d)
    np.testing.assert_allclose(jnp.vdot(d, result), jnp.vdot(back, image), atol=1e-10)
    check_grads(jax.jit(operation), (image,), order=2, modes=["rev"])
    print(f"{name}: transpose, first and second derivatives")

# %% [markdown]
# ## Try it
#
# Change the examples and run the notebook again; the claims should still hold, or you should see why not.
#
# 1. Make two numbers of section 1's windows equal. Which assertions fail, and what do the differences find instead? (They go one step up and one step down: what is the mean of the two slopes?)
# 2. Pad a map by 1 and pool it with `avg_pool(..., padding=1, count_include_pad=False)`. What does a $\delta$ at the corner give to its pixels? Read `_count`, then check.
# 3. Resize 4 pixels to 8 instead of 7 in section 9. Now all columns of a matrix sum to the same number, whatever the method. Which number, and why?
