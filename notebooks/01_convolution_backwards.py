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
# # Convolution, backwards
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/cnnvjp/cnnvjp/blob/main/notebooks/01_convolution_backwards.ipynb)
#
# A convolutional layer turns an input $x$ into an output $y$ with a kernel $w$. Training needs two gradients of the loss $L$: with respect to the kernel, to change it, and with respect to the input, to pass on to the layer below. Both are made from what arrives from above,
#
# $$\delta_k = \frac{\partial L}{\partial y_k}.$$
#
# This notebook works through one small example: a 4×4 input, a 2×2 kernel, first at stride 1 and then at stride 2. Every section makes a claim, shows it, and checks it with assertions. The claims are:
#
# 1. the output is the kernel's sum over each window;
# 2. a chain rule by hand says which $\delta$ reaches which input;
# 3. the input's gradient is the **flipped kernel** sliding over the zero-padded $\delta$;
# 4. the flip must be in both directions, and a slide that draws it otherwise is wrong from the second row on;
# 5. at stride 2, $\delta$ is first **spread out** with zeros in between;
# 6. the input's **size** must be told, because $\delta$ does not know it;
# 7. the kernel's gradient is **$\delta$ sliding over the input**;
# 8. with several maps, each input map hears from **every** output map, through its own kernel, turned;
# 9. all this is a **matrix** and its transpose;
# 10. these equations are the code that runs when JAX differentiates `cnnvjp.conv`;
# 11. finite differences agree, and so do second derivatives.
#
# The example is that of [S], the equations are from [GBC], [J], [B] and [H]:
#
# | key | source |
# | --- | --- |
# | [S] | Slides *Back propagation through a Convolutional Layer* |
# | [GBC] | Goodfellow, Bengio, Courville, *Deep Learning* (2016), chapter 9 |
# | [J] | Jefkine, *Backpropagation in Convolutional Neural Networks* (2016) |
# | [B] | Bereyhi, *Applied Deep Learning* (2026), chapter 4 |
# | [H] | *Neural Network Design: Deep Learning*, chapter 8 |
#
# They call the same things by different names:
#
# | here | [S] | [GBC] | [J] | [B] | [H] |
# | --- | --- | --- | --- | --- | --- |
# | input `x` | $a \dots p$ | $V$ | $o$ | $X$ | $A$ |
# | kernel `w` | $w_1 \dots w_4$ | $K$ | $w$ | $W$ | $LW$ |
# | output `y` | $y_1 \dots y_9$ | $Z$ | $x$ | $Z$ | $LZ$ |
# | `delta`, the gradient at the output | $\delta_1 \dots \delta_9$ | $G$ | $\delta$ | $\nabla Z$ | $dLZ$ |

# %%
try:
    import cnnvjp
except ModuleNotFoundError:  # as on Colab; --no-deps leaves the JAX that is installed alone
    import subprocess
    import sys

    source = "cnnvjp @ git+https://github.com/cnnvjp/cnnvjp"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", source], check=True)
    import cnnvjp

import inspect

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.test_util import check_grads

from cnnvjp import convolution, equations, plot
from cnnvjp.plot import LINE, NAME, WRONG, Sheet, window

jax.config.update("jax_enable_x64", True)  # float64, so that the checks can be strict

# %% [markdown]
# ## The example
#
# The numbers are small, so that every sum can be checked by hand, and $w_1 \dots w_4$ are 1 to 4, so that each weight shows in the results. The $\delta$ would come from the layer above; here they are given.

# %%
x = jnp.array([[3, 2, 2, 4], [1, 3, 1, 3], [4, 1, 1, 4], [2, 1, 1, 2]], float)
w = jnp.array([[1, 2], [3, 4]], float)
delta = jnp.array([[3, -2, -1], [1, -2, 3], [-2, -1, -2]], float)

LETTERS = np.array(list("abcdefghijklmnop")).reshape(4, 4)


def conv(x, w, stride=1):
    """cnnvjp.conv, for one map in and one map out."""
    return cnnvjp.conv(x[..., None], w[..., None, None], stride=stride)[..., 0]


def agree(**results):
    """Asserts that all results have one shape and are equal, up to rounding."""
    first, *others = results.values()
    for other in others:
        assert np.shape(other) == np.shape(first)
        np.testing.assert_allclose(other, first, rtol=0, atol=1e-12)
    print("equal:", ", ".join(results))


# %% [markdown]
# `cnnvjp` keeps its channels last: an image is `(rows, columns, channels)`, a kernel `(rows, columns, channels in, channels out)`. The small `conv` above adds and removes the channel axes of size 1.
#
# The pictures are drawn with `cnnvjp.plot`, whose `Sheet` is measured in cells; the colours of the four weights, and the names of all numbers, are fixed once.

# %%
WEIGHTS = np.array(plot.TINTS[:4]).reshape(2, 2)  # w₁ w₂ / w₃ w₄
FLIPPED = WEIGHTS[::-1, ::-1]


def names(symbol, rows, columns):
    """Symbols with a running index: δ₁ δ₂ …"""
    count = np.arange(1, rows * columns + 1).reshape(rows, columns)
    return np.array([[f"{symbol}_{{{k}}}" for k in row] for row in count])


W, DELTA, Y = names("w", 2, 2), names(r"\delta", 3, 3), names("y", 3, 3)

# %% [markdown]
# ## 1. Forward: the kernel slides over the input
#
# **Claim.** Output $y_k$ is the sum of a window of the input, weighted by the kernel:
#
# $$y_1 = w_1 a + w_2 b + w_3 e + w_4 f.$$
#
# In [GBC] this is $\mathbf{Z} = c(\mathbf{K}, \mathbf{V}, s)$ with stride $s$; for one channel, and counted from 1,
#
# $$Z_{j,k} = \sum_{m,n} V_{(j-1)s+m,\,(k-1)s+n}\, K_{m,n} \qquad \text{[GBC] 9.8}$$
#
# Nothing is flipped here: what is called a convolution in neural networks is a cross-correlation ([J] 1).

# %%
y = conv(x, w)

sheet = Sheet(17, 22.9, "The kernel over each of the nine windows of the input.")
sheet.matrix(1, 1.2, x, LETTERS, window(0, 0, WEIGHTS), title="input x")
sheet.frame(1, 1.2, 2, 2)
sheet.text(6.25, 3.2, "⊗", 0.6)
sheet.matrix(7.5, 2.2, w, W, window(0, 0, WEIGHTS), title="kernel w")
sheet.text(10.75, 3.2, "=", 0.6)
sheet.matrix(12, 1.7, y, Y, title="output y")
sheet.frame(12, 1.7, 1, 1)
for (i, j), total in np.ndenumerate(y):
    left, top = 0.75 + 5.75 * j, 6.7 + 5.5 * i
    sheet.matrix(left, top, x, LETTERS, window(i, j, WEIGHTS))
    sheet.frame(left + j, top + i, 2, 2)
    letters = LETTERS[i : i + 2, j : j + 2].ravel()
    formula = " + ".join(f"w_{k}{letter}" for k, letter in enumerate(letters, 1))
    sheet.text(left + 2, top + 4.45, f"$y_{3 * i + j + 1} = {formula}$ = {total:g}", 0.29)
sheet

# %%
assert y[0, 0] == 1 * 3 + 2 * 2 + 3 * 1 + 4 * 3 == 22  # y₁ = w₁a + w₂b + w₃e + w₄f


def lax_conv(x, w, stride=1):
    """JAX's own convolution, the same way round."""
    axes = ("NHWC", "HWIO", "NHWC")
    images, kernel = x[None, ..., None], w[..., None, None]
    return lax.conv_general_dilated(
        images, kernel, (stride, stride), "VALID", dimension_numbers=axes
    )[0, ..., 0]


agree(
    conv=y,
    slides=equations.s_stride(x, w, 1),
    gbc_9_8=equations.gbc_9_8(w[None, None], x[None], 1)[0],
    j_1=equations.j_1(x, w),
    lax=lax_conv(x, w),
)

# %% [markdown]
# ## 2. Which δ reaches which input?
#
# **Claim.** An input hears from every output that it took part in, through the weight that it was multiplied with there:
#
# $$\frac{\partial L}{\partial x_j} = \sum_i \delta_i \frac{\partial y_i}{\partial x_j}, \qquad \frac{\partial y_i}{\partial x_j} = \text{the weight that multiplies } x_j \text{ in } y_i, \text{ or } 0.$$
#
# Take input $b$. It appears in $y_1$, times $w_2$, and in $y_2$, times $w_1$. So $b \leftarrow w_1\delta_2 + w_2\delta_1$, where $\leftarrow$ stands for "has the gradient".
#
# The program does not need to look. Output $i$ at tap $m$ reads input $i \cdot s + m$; listing all pairs $(i, m)$ by the input they read gives every sum.


# %%
def contributions(input_size, output_size, stride):
    """For each input, the pairs (output i, tap m) with i·s + m = j along both axes."""
    pairs = {j: [] for j in np.ndindex(input_size, input_size)}
    for m in np.ndindex(2, 2):
        for i in np.ndindex(output_size, output_size):
            pairs[i[0] * stride + m[0], i[1] * stride + m[1]].append((i, m))
    return pairs


def terms(pairs, output_size):
    """The pairs as the slides write them, such as w1 δ2 + w2 δ1."""
    numbers = [(2 * m + n + 1, output_size * i + j + 1) for (i, j), (m, n) in pairs]
    return " + ".join(f"w{k} δ{i}" for k, i in numbers)


reaches = contributions(4, 3, stride=1)
for j, pairs in reaches.items():
    print(LETTERS[j], "←", terms(pairs, 3))

# %%
assert terms(reaches[0, 0], 3) == "w1 δ1"  # the four lines of the slides
assert terms(reaches[0, 1], 3) == "w1 δ2 + w2 δ1"
assert terms(reaches[0, 2], 3) == "w1 δ3 + w2 δ2"
assert terms(reaches[0, 3], 3) == "w2 δ3"

# %% [markdown]
# Now draw the same list, with each term put where its $\delta$ lies: $\delta$ that are further to the left and higher up are written further to the left and higher up. Look at $f$, $g$, $j$ and $k$, which all four weights reach.

# %%
sheet = Sheet(15.6, 10, "The terms of each input's gradient, each at the place of its δ.")
for (row, column), pairs in reaches.items():
    left, top = 0.5 + 3.7 * column, 0.5 + 2.3 * row
    sheet.box(left, top, 3.5, 2.1, facecolor="white", edgecolor=LINE)
    sheet.text(left + 0.27, top + 0.3, f"${LETTERS[row, column]}$", 0.32, color=NAME)
    for i, m in pairs:
        down, right = i[0] - row + 1, i[1] - column + 1  # 0 or 1
        x0, y0 = left + 0.55 + 1.45 * right, top + 0.2 + 0.9 * down
        sheet.box(x0, y0, 1.35, 0.8, facecolor=WEIGHTS[m])
        sheet.text(x0 + 0.675, y0 + 0.4, f"${W[m]}{DELTA[i]}$", 0.38)
sheet

# %% [markdown]
# Every cell shows the same pattern, $w_4\ w_3$ above $w_2\ w_1$, or as much of it as there are $\delta$: the kernel, turned by half a turn. The next section uses it.
#
# First, the check that the library's rule has exactly these terms. `cnnvjp.conv_transpose` is the operation that takes $\delta$ back to the input. Both $\delta$ and $w$ are set to 1 in one place and 0 elsewhere, for each of the 9 · 4 pairs; the result must be 1 exactly at the input that the list names.


# %%
def conv_transpose(delta, w, stride=1, output_size=None):
    """cnnvjp.conv_transpose, for one map in and one map out."""
    maps, kernel = delta[..., None], w[..., None, None]
    return cnnvjp.conv_transpose(maps, kernel, stride=stride, output_size=output_size)[..., 0]


one_delta = jnp.eye(9).reshape(9, 3, 3)
one_weight = jnp.eye(4).reshape(4, 2, 2)
each_weight = jax.vmap(conv_transpose, in_axes=(None, 0))
rule = jax.vmap(each_weight, in_axes=(0, None))(one_delta, one_weight)

listed = np.zeros((3, 3, 2, 2, 4, 4))
for j, pairs in reaches.items():
    for i, m in pairs:
        listed[i + m + j] = 1
assert np.array_equal(rule.reshape(listed.shape), listed)
print(f"{int(listed.sum())} terms, 4 for each of the 9 outputs: all as listed")

# %% [markdown]
# ## 3. The flipped kernel slides over the zero-padded δ
#
# **Claim.** The input's gradient is itself a convolution: put a border of zeros around $\delta$, turn the kernel by half a turn, and slide it.
#
# Why the turn? At stride 1, output $i$ reads input $j = i + m$ at tap $m$. Seen from the input, tap $m$ leads to output $i = j - m$: as $m$ goes up, $i$ goes down. Why the border? Near the edge $j - m$ falls outside the outputs, where there is nothing to hear: a zero. On each side it takes one zero fewer than the kernel is long.
#
# $$h(\mathbf{K}, \mathbf{G}, s)_{j,k} = \sum_{\substack{l,m\\ (l-1)s+m=j}}\ \sum_{\substack{n,p\\ (n-1)s+p=k}} K_{m,p}\, G_{l,n} \qquad \text{[GBC] 9.13}$$
#
# for one channel. [GBC] only says which pairs to add up; [J] 20 and [H] 8.44 say that this is the rotated kernel.

# %%
flipped = w[::-1, ::-1]
padded = cnnvjp.pad(delta[..., None], 1)[..., 0]
dx = conv(padded, flipped)

W_FLIPPED, PADDED = W[::-1, ::-1], np.pad(DELTA, 1, constant_values="")

sheet = Sheet(15.7, 6.9, "The flipped kernel and the padded δ give the gradient of the input.")
sheet.matrix(0.6, 2.7, flipped, W_FLIPPED, window(0, 0, FLIPPED), title="w, flipped")
sheet.text(3.5, 3.7, "⊗", 0.6)
sheet.matrix(4.4, 1.2, padded, PADDED, window(0, 0, FLIPPED), title="δ, padded")
sheet.frame(4.4, 1.2, 2, 2)
sheet.text(10.25, 3.7, "=", 0.6)
sheet.matrix(11.1, 1.7, dx, LETTERS, title="gradient of the input")
sheet.frame(11.1, 1.7, 1, 1)
sheet

# %% [markdown]
# And at each of its sixteen places, one for each input:


# %%
def slide_back(places, results, alt):
    """Draws the flipped kernel at every place of the spread and padded δ."""
    sheet, places = Sheet(24.3, 26.4, alt), np.where(places == "", "0", places)
    for (row, column), letter in np.ndenumerate(LETTERS):
        left, top = 0.8 + 5.9 * column, 0.6 + 6.5 * row
        sheet.matrix(left, top, places, tints=window(row, column, FLIPPED))
        sheet.frame(left + column, top + row, 2, 2)
        met = places[row : row + 2, column : column + 2]
        pairs = zip(W_FLIPPED.ravel(), met.ravel(), strict=True)
        products = [weight + place for weight, place in pairs if place != "0"]
        sheet.text(
            left + 2.5, top + 5.4, f"${letter} \\leftarrow {'+'.join(products[::-1])}$", 0.33
        )
        sheet.text(left + 2.5, top + 5.95, f"$= {results[row, column]:g}$", 0.33)
    return sheet


slide_back(PADDED, dx, "The flipped kernel at each of the sixteen places of the padded δ.")

# %% [markdown]
# The sums are those of section 2. Now the numbers: what the sliding gave must equal what `jax.grad` finds for a loss whose gradient at the output is $\delta$, namely $L = \sum_k \delta_k y_k$; the library's own backward operation; the equations of the sources as plain loops; and JAX's differentiation of its own convolution, which knows nothing of our rule.


# %%
def gradients(forward, x, w, delta, stride=1):
    """∂L/∂x and ∂L/∂w by JAX, for L = Σ δ·y."""

    def loss(x, w):
        return jnp.vdot(delta, forward(x, w, stride))

    return jax.grad(loss, argnums=(0, 1))(x, w)


def one(_):
    """The derivative of no activation."""
    return 1.0


agree(
    sliding=dx,
    grad=gradients(conv, x, w, delta)[0],
    conv_transpose=conv_transpose(delta, w),
    slides=equations.s_stride_backward(delta, w, 1),
    gbc_9_13=equations.gbc_9_13(w[None, None], delta[None], 1, (4, 4))[0],
    j_20=equations.j_20(delta, w, x, one),
    h_8_44=equations.h_8_44(w[None, None], delta[None])[0],
    lax=gradients(lax_conv, x, w, delta)[0],
)

# %% [markdown]
# This is the library's code for [GBC] 9.13. It rotates the kernel, pads, and slides; the word `upsampling` will be needed in section 5. `window` holds the sizes and the stride, `correlate` slides a kernel, and the other options are at rest here.

# %%
print(inspect.getsource(convolution._h))

# %% [markdown]
# ## 4. An erratum: half a flip is not enough
#
# The slides draw "W flipped" as $\begin{bmatrix} w_3 & w_4\\ w_2 & w_1 \end{bmatrix}$. Its upper row is not reversed: it should be $\begin{bmatrix} w_4 & w_3\\ w_2 & w_1 \end{bmatrix}$.
#
# **Claim.** With the kernel as drawn, $a$ to $d$ come out right and all of $e$ to $p$ come out wrong. The slides check only $a$ to $d$: there the upper row of the kernel lies on the border of zeros, so that its order does not matter. What is wrong is red.

# %%
drawn = jnp.array([[w[1, 0], w[1, 1]], [w[0, 1], w[0, 0]]])
W_DRAWN = np.array([[W[1, 0], W[1, 1]], [W[0, 1], W[0, 0]]])
DRAWN = np.array([[WEIGHTS[1, 0], WEIGHTS[1, 1]], [WEIGHTS[0, 1], WEIGHTS[0, 0]]])
dx_drawn = conv(padded, drawn)

sheet = Sheet(15.7, 6.9, "The kernel as drawn gives wrong gradients below the first row.")
sheet.matrix(0.6, 2.7, drawn, W_DRAWN, window(0, 0, DRAWN), title="w, as drawn")
sheet.text(3.5, 3.7, "⊗", 0.6)
sheet.matrix(4.4, 1.2, padded, PADDED, window(1, 1, DRAWN), title="δ, padded")
sheet.frame(5.4, 2.2, 2, 2)
sheet.text(10.25, 3.7, "≠", 0.6)
wrong = {(row, column): WRONG for row, column in np.argwhere(dx_drawn != dx)}
sheet.matrix(11.1, 1.7, dx_drawn, LETTERS, wrong, title="not the gradient")
sheet

# %%
erratum = next(e for e in equations.ERRATA if e.source == "[S]")
print(f"{erratum.source}, {erratum.where}: {erratum.printed} should be {erratum.corrected}.")
print(erratum.why)

agree(drawn=dx_drawn, as_drawn=equations.s_stride_backward_as_drawn(delta, w, 1))
assert np.array_equal(dx_drawn[0], dx[0])  # a to d
assert np.all(dx_drawn[1:] != dx[1:])  # e to p

# %% [markdown]
# A test that looks at the first row alone would pass. So would a test whose kernel has $w_3 = w_4$: test gradients with numbers that differ.

# %% [markdown]
# ## 5. Stride 2: δ is spread out
#
# At stride 2 the kernel moves by two, and there are four outputs. The windows do not overlap.

# %%
y2 = conv(x, w, stride=2)
delta2 = jnp.array([[2, -1], [1, 3]], float)
Y2, DELTA2 = names("y", 2, 2), names(r"\delta", 2, 2)

sheet = Sheet(13.2, 6.1, "At stride 2 the four windows tile the input.")
tiles = {}
for row, column in np.ndindex(2, 2):
    tiles |= window(2 * row, 2 * column, WEIGHTS)
sheet.matrix(0.6, 1.2, x, LETTERS, tiles, title="input x")
for row, column in np.ndindex(2, 2):
    sheet.frame(0.6 + 2 * column, 1.2 + 2 * row, 2, 2)
sheet.text(5.6, 3.2, "⊗", 0.6)
sheet.matrix(6.6, 2.2, w, W, window(0, 0, WEIGHTS), title="kernel w")
sheet.text(9.6, 3.2, "=", 0.6)
sheet.matrix(10.6, 2.2, y2, Y2, title="output y")
sheet

# %%
agree(
    conv=y2,
    every_second=y[::2, ::2],  # stride 2 keeps every second output of stride 1
    slides=equations.s_stride(x, w, 2),
    gbc_9_8=equations.gbc_9_8(w[None, None], x[None], 2)[0],
    lax=lax_conv(x, w, 2),
)

reaches2 = contributions(4, 2, stride=2)
for j, pairs in reaches2.items():
    print(LETTERS[j], "←", terms(pairs, 2), end="   " if j[1] < 3 else "\n")

assert [terms(reaches2[0, k], 2) for k in range(4)] == ["w1 δ1", "w2 δ1", "w1 δ2", "w2 δ2"]

# %% [markdown]
# Each input now hears from one output only. **Claim.** The gradient is again the flipped kernel sliding over $\delta$ *in steps of one*, once $\delta$ is spread out: with $s - 1$ zeros between neighbours, and then the border of $k - 1$ zeros.
#
# Why? A stride of 2 gives what a stride of 1 gives, less every second output. The outputs that are left out have no effect on the loss: their $\delta$ is zero. Put those zeros back, and the case is that of section 3.

# %%
spread = cnnvjp.upsample(delta2[..., None], 2)[..., 0]
padded2 = cnnvjp.pad(spread[..., None], 1)[..., 0]
dx2 = conv(padded2, flipped)

SPREAD = np.full((3, 3), "", DELTA2.dtype)
SPREAD[::2, ::2] = DELTA2
PADDED2 = np.pad(SPREAD, 1, constant_values="")

sheet = Sheet(15.2, 6.9, "δ is spread out, then padded.")
sheet.matrix(0.6, 2.7, delta2, DELTA2, title="δ")
sheet.text(3.6, 3.3, "upsample", 0.3)
sheet.text(3.6, 3.8, "→", 0.6)
sheet.matrix(4.6, 2.2, spread, SPREAD, title="spread")
sheet.text(8.6, 3.3, "pad", 0.3)
sheet.text(8.6, 3.8, "→", 0.6)
sheet.matrix(9.6, 1.2, padded2, PADDED2, title="spread and padded")
sheet

# %%
slide_back(PADDED2, dx2, "The flipped kernel at each of the sixteen places of the spread δ.")

# %% [markdown]
# Wherever the kernel lies, it meets exactly one $\delta$ and three zeros. A larger kernel meets more: here, moving, a 3×3 kernel at stride 2, whose windows overlap.

# %%
delta3 = jnp.array([[2, -1], [1, 3]], float)
w3 = jnp.array([[1, 2, 1], [0, 3, 2], [4, 0, 1]], float)
plot.backward_animation(delta3, w3, stride=2)

# %%
agree(
    library=conv_transpose(delta3, w3, stride=2),
    gbc_9_13=equations.gbc_9_13(w3[None, None], delta3[None], 2, (5, 5))[0],
)

# %% [markdown]
# Back to the 2×2 kernel:

# %%
agree(
    sliding=dx2,
    grad=gradients(conv, x, w, delta2, stride=2)[0],
    conv_transpose=conv_transpose(delta2, w, stride=2),
    slides=equations.s_stride_backward(delta2, w, 2),
    gbc_9_13=equations.gbc_9_13(w[None, None], delta2[None], 2, (4, 4))[0],
    lax=gradients(lax_conv, x, w, delta2, stride=2)[0],
)
agree(padded=padded2, slides=equations.s_spread(delta2, 2, (2, 2)))

# %% [markdown]
# The kernel as the slides draw it is wrong here too, but only in the rows $e$ to $h$ and $m$ to $p$. In the other two its upper row meets nothing but zeros.

# %%
dx2_drawn = equations.s_stride_backward_as_drawn(delta2, w, 2)
assert np.array_equal(dx2_drawn[::2], dx2[::2])  # a to d, i to l
assert np.all(dx2_drawn[1::2] != dx2[1::2])  # e to h, m to p

# %% [markdown]
# ## 6. The input's size must be told
#
# **Claim.** From $\delta$, the kernel and the stride alone one cannot say how large the input was. At stride 2, a 5×5 input has the same 2×2 output as a 4×4 input: the last row and column are never read. In the words of [GBC], "the transpose operation must be explicitly told what the size of the original input was".

# %%
x5 = jnp.pad(x, ((0, 1), (0, 1)), constant_values=9)
dx5 = conv_transpose(delta2, w, stride=2, output_size=5)

sheet = Sheet(
    16.2, 12.6, "Inputs of 4×4 and of 5×5 give one output, but gradients of their own size."
)
for image, result, top in ((x, dx2, 1.2), (x5, dx5, 6.9)):
    size = len(image)
    sheet.matrix(0.6, top, image, None, tiles, title=f"input, {size}×{size}")
    for row, column in np.ndindex(2, 2):
        sheet.frame(0.6 + 2 * column, top + 2 * row, 2, 2)
    sheet.text(6.3, top + 2, "→", 0.6)
    sheet.matrix(7.2, top + 1, conv(image, w, 2), Y2, title="output y")
    sheet.text(9.9, top + 2, "←", 0.6)
    sheet.matrix(10.6, top, result, None, title=f"gradient, {size}×{size}")
sheet

# %% [markdown]
# The pixels that no window reads (the nines) have the gradient 0. To make the gradient as large as the input, the spread $\delta$ gets one more row and column of zeros, below and to the right.

# %%
padded5 = cnnvjp.pad(spread[..., None], ((1, 2), (1, 2)))[..., 0]

agree(y_of_4x4=conv(x, w, 2), y_of_5x5=conv(x5, w, 2))
agree(
    sliding=conv(padded5, flipped),
    grad=gradients(conv, x5, w, delta2, stride=2)[0],
    conv_transpose=dx5,
    gbc_9_13=equations.gbc_9_13(w[None, None], delta2[None], 2, (5, 5))[0],
    lax=gradients(lax_conv, x5, w, delta2, stride=2)[0],
)
assert not dx5[4].any() and not dx5[:, 4].any()
agree(of_5x5=dx5[:4, :4], of_4x4=dx2)

# %% [markdown]
# `jax.grad` never has this question: the rule sees the input's size in the forward pass and keeps it. It is `conv_transpose`, used as a layer, that must ask. Without `output_size` it takes the smallest; a size that cannot be is an error.

# %%
assert equations.gbc_input_sizes(output_size=2, kernel_size=2, s=2) == [4, 5]
assert conv_transpose(delta2, w, stride=2).shape == (4, 4)
try:
    conv_transpose(delta2, w, stride=2, output_size=6)
    raise AssertionError("a 6×6 input has a 3×3 output")
except ValueError as error:
    print(error)

# %% [markdown]
# ## 7. The kernel's gradient: δ slides over the input
#
# **Claim.** The gradient of tap $m$ adds up, over all outputs $i$, the product of $\delta_i$ and the input that tap $m$ read for it. So $\delta$ slides over the input as a kernel does, and nothing is flipped:
#
# $$g(\mathbf{G}, \mathbf{V}, s)_{k,l} = \sum_{m,n} G_{m,n}\, V_{(m-1)s+k,\,(n-1)s+l} \qquad \text{[GBC] 9.11}$$
#
# for one channel; at stride 1 also [J] 13 and [H] 8.47. At stride 2 it is the spread $\delta$ that slides (without a border), so that neighbouring $\delta$ read inputs that are two apart.

# %%
dw, dw2 = conv(x, delta), conv(x, spread)

sheet = Sheet(
    21.4, 12.9, "δ at each of its four places over the input, at stride 1 and at stride 2."
)
for top, symbols, result, step in ((1.1, DELTA, dw, 1), (7.4, DELTA2, dw2, 2)):
    extent = step * (len(symbols) - 1) + 1
    for tap, (row, column) in enumerate(np.ndindex(2, 2)):
        left, colour = 0.6 + 5.4 * tap, WEIGHTS[row, column]
        tints = window(row, column, np.full(symbols.shape, colour), step)
        over = np.full((4, 4), "", symbols.dtype)
        for place, symbol in zip(tints, symbols.ravel(), strict=True):
            over[place] = symbol
        sheet.matrix(left, top, x, over, tints, title=f"${W[row, column]}$, stride {step}")
        sheet.frame(left + column, top + row, extent, extent)
        read = [s + LETTERS[p] for s, p in zip(symbols.ravel(), tints, strict=True)]
        formula = "+".join(read if len(read) < 5 else [*read[:2], r"\cdots", read[-1]])
        sheet.text(left + 2, top + 4.4, f"${W[row, column]} \\leftarrow {formula}$", 0.31)
        sheet.text(left + 2, top + 4.95, f"$= {result[row, column]:g}$", 0.31)
sheet


# %%
def conv_kernel_grad(x, delta, stride=1):
    """cnnvjp.conv_kernel_grad of a 2×2 kernel, for one map in and one map out."""
    maps = x[..., None], delta[..., None]
    return cnnvjp.conv_kernel_grad(*maps, kernel_size=2, stride=stride)[..., 0, 0]


agree(
    sliding=dw,
    grad=gradients(conv, x, w, delta)[1],
    conv_kernel_grad=conv_kernel_grad(x, delta),
    gbc_9_11=equations.gbc_9_11(delta[None], x[None], 1, (2, 2))[0, 0],
    j_13=equations.j_13(delta, x),
    h_8_47=equations.h_8_47(delta[None], x[None])[0, 0],
    lax=gradients(lax_conv, x, w, delta)[1],
)
agree(
    sliding=dw2,
    grad=gradients(conv, x, w, delta2, stride=2)[1],
    conv_kernel_grad=conv_kernel_grad(x, delta2, stride=2),
    gbc_9_11=equations.gbc_9_11(delta2[None], x[None], 2, (2, 2))[0, 0],
    lax=gradients(lax_conv, x, w, delta2, stride=2)[1],
)

# %% [markdown]
# The kernel's size must be told for the same reason as the input's: at stride 2 there are several. The 5×5 input has the same 2×2 output with a 3×3 kernel as with a 2×2 kernel.

# %%
assert conv(x5, jnp.ones((3, 3)), stride=2).shape == conv(x5, w, stride=2).shape == (2, 2)

print(inspect.getsource(convolution._g))

# %% [markdown]
# ## 8. Several maps
#
# **Claim.** A layer has a kernel for each pair of an input map and an output map. An output map adds up what its kernels make of all input maps; so, backwards, an input map adds up what comes from all output maps, each through the kernel of that pair, turned:
#
# $$\frac{\partial L}{\partial x^{l}} = \sum_{h} \operatorname{rot180}(w^{h,l}) \otimes \delta^{h} \qquad \text{[H] 8.45, with a border of zeros around } \delta^h$$
#
# $$\frac{\partial L}{\partial w^{h,l}} = \delta^{h} \otimes x^{l} \qquad \text{[H] 8.48}$$
#
# The two indices change their places: the sum forward is over $l$, the sum back over $h$. [B] writes the first as a convolution with *rearranged* filters, $W^\dagger_c = [\check W_1[c], \dots, \check W_K[c]]$: the turned kernels of one input map, taken from all filters. Between the kernels' gradients there is no sum: each pair of maps has its own. (In the picture each $\delta$ has its border of zeros left out.)
#
# Two input maps and three output maps show all of it. The library keeps maps last; the sources count them first.

# %%
maps = jnp.stack([x, jnp.array([[1, 0, 2, 1], [3, 1, 0, 2], [0, 2, 1, 1], [2, 0, 3, 1]])], -1)
w_maps = jnp.array(
    [[[[1, 2], [3, 4]], [[0, 1], [1, 0]]],
     [[[2, -1], [0, 1]], [[1, 1], [-1, 2]]],
     [[[0, 1], [-2, 0]], [[3, 0], [1, -1]]]], float,
).transpose(2, 3, 1, 0)  # (rows, columns, maps in, maps out)  # fmt: skip
delta_maps = jnp.stack([delta, delta.T, -delta[::-1]], -1)


def firsts(a):
    """Maps first, as the sources count them: of maps, or of kernels (out, in, rows, columns)."""
    return np.moveaxis(a, -1, 0) if a.ndim == 3 else np.transpose(a, (3, 2, 0, 1))


dx_maps = jnp.stack(
    [
        sum(conv_transpose(delta_maps[..., h], w_maps[..., c, h]) for h in range(3))
        for c in range(2)
    ],
    -1,
)
dw_maps = jnp.stack(
    [jnp.stack([conv(maps[..., c], delta_maps[..., h]) for c in range(2)], -1) for h in range(3)],
    -1,
)

sheet = Sheet(25.2, 10.8, "Each input map's gradient is a sum over the three output maps.")
for c in range(2):
    top = 1.6 + 5.2 * c
    for h in range(3):
        left = 0.6 + 6.5 * h
        kernel = f"$w^{{{h + 1},{c + 1}}}$, turned"
        sheet.matrix(left, top + 0.5, w_maps[::-1, ::-1, c, h], None, window(0, 0, FLIPPED), kernel)
        sheet.text(left + 2.45, top + 1.5, "⊗", 0.6)
        sheet.matrix(left + 2.9, top, delta_maps[..., h], title=rf"$\delta^{h + 1}$")
        sheet.text(left + 6.2, top + 1.5, "=" if h == 2 else "+", 0.6)
    sheet.matrix(20.6, top - 0.5, dx_maps[..., c], title=f"gradient of input map {c + 1}")
sheet

# %%
grads = jax.grad(
    lambda x, w: jnp.vdot(delta_maps, cnnvjp.conv(x, w)), argnums=(0, 1)
)(maps, w_maps)  # fmt: skip

agree(
    map_by_map=firsts(dx_maps),
    grad=firsts(grads[0]),
    conv_transpose=firsts(cnnvjp.conv_transpose(delta_maps, w_maps)),
    gbc_9_13=equations.gbc_9_13(firsts(w_maps), firsts(delta_maps), 1, (4, 4)),
    h_8_45=equations.h_8_45(firsts(w_maps), firsts(delta_maps)),
    rearranged=equations.b_multi_channel_backward(firsts(delta_maps), firsts(w_maps)),
)
agree(
    pair_by_pair=firsts(dw_maps),
    grad=firsts(grads[1]),
    conv_kernel_grad=firsts(cnnvjp.conv_kernel_grad(maps, delta_maps, 2)),
    gbc_9_11=equations.gbc_9_11(firsts(delta_maps), firsts(maps), 1, (2, 2)),
    h_8_48=equations.h_8_48(firsts(delta_maps), firsts(maps)),
)

# %% [markdown]
# ## 9. The same as a matrix
#
# **Claim.** Stack the input to a vector, column by column, and the convolution is a matrix $M$ ([H] 8.12) with the four weights in every row. Its transpose goes back.
#
# Here the chain rule is short: $\operatorname{vec} y = M \operatorname{vec} x$, so $\operatorname{vec} \partial L / \partial x = M^\top \operatorname{vec} \delta$. A row of $M$ says what an output reads, a column who reads an input. Going down a column one meets the weights in the reverse order: that is the flip.

# %%
M = equations.h_8_12(w, (4, 4))

sheet = Sheet(27, 17.9, "The matrix of the convolution, and its transpose.")
colour_of = dict(zip((0.0, *np.ravel(w)), ("white", *WEIGHTS.ravel()), strict=True))
for matrix, left, top, title in ((M, 0.6, 4.7, "$M$"), (M.T, 17.4, 1.2, r"$M^\top$")):
    tints = {place: colour_of[value] for place, value in np.ndenumerate(matrix) if value}
    sheet.matrix(left, top, matrix, None, tints, title)
sheet


# %%
def vec(a):
    """The columns of a matrix, stacked."""
    return np.ravel(a, order="F")


agree(M=M @ vec(x), conv=vec(y))
agree(M_transposed=M.T @ vec(delta), gradient=vec(dx))
assert M.shape == (9, 16) and np.count_nonzero(M) == 4 * 9
read, heard = M[0][M[0] != 0], M[:, 5][M[:, 5] != 0]
assert list(read) == [1, 3, 2, 4]  # y₁ reads a, e, b, f
assert list(heard) == [4, 2, 3, 1]  # f hears from y₁, y₄, y₂, y₅: the reverse

# %% [markdown]
# ## 10. The rule that runs
#
# **Claim.** The two equations are the code that runs when JAX differentiates `cnnvjp.conv`. It is a `jax.custom_vjp`: JAX does not look inside, but calls `_conv_fwd` on the way forward, which keeps `x` and `w`, and `_conv_bwd` on the way back, which gets them and `dy`, our $\delta$.

# %%
print(inspect.getsource(convolution._conv_fwd))
print(inspect.getsource(convolution._conv_bwd))

assert "custom_vjp" in str(jax.make_jaxpr(conv)(x, w))

# %% [markdown]
# | operation | equation | code | as a function |
# | --- | --- | --- | --- |
# | $y = c(x, w)$ | [GBC] 9.8, [J] 1, [H] 8.20 | `_c` | `cnnvjp.conv` |
# | $\partial L/\partial x = h(\delta, w)$ | [GBC] 9.13, [J] 20, [H] 8.44 | `_h` | `cnnvjp.conv_transpose` |
# | $\partial L/\partial w = g(x, \delta)$ | [GBC] 9.11, [J] 13, [H] 8.47 | `_g` | `cnnvjp.conv_kernel_grad` |
#
# One number ties the three together. Every product $w_m\, x_{i \cdot s + m}\, \delta_i$ occurs once, and it does not matter which factor is taken out of the sum:
#
# $$\langle c(x, w), \delta \rangle = \langle x, h(\delta, w) \rangle = \langle w, g(x, \delta) \rangle.$$

# %%
agree(c=jnp.vdot(y, delta), h=jnp.vdot(x, dx), g=jnp.vdot(w, dw))
agree(c=jnp.vdot(y2, delta2), h=jnp.vdot(x, dx2), g=jnp.vdot(w, dw2))

# %% [markdown]
# ## 11. Finite differences, and second derivatives
#
# **Claim.** The gradients are what a finite difference finds. All checks so far used some formula; this uses none: change one number, and see how the loss changes.
#
# Take [J] 9, $L = \tfrac12 \sum_k (t_k - y_k)^2$, for which $\delta = y - t$ is no longer given but follows from the output. $L$ is quadratic in any one number, and for a quadratic function the central difference is exact with any step. The step here is 1, and no rounding disturbs it.

# %%
target = jnp.array([[20, 20, 24], [25, 11, 24], [17, 9, 21]], float)


def loss(x, w):
    return 0.5 * jnp.sum((target - conv(x, w)) ** 2)


def central_differences(function, at):
    """The change of a function as each number of an array goes one up and one down."""
    steps = jnp.eye(at.size).reshape(-1, *at.shape)
    return jnp.array([(function(at + e) - function(at - e)) / 2 for e in steps]).reshape(at.shape)


dx_loss, dw_loss = jax.grad(loss, argnums=(0, 1))(x, w)
agree(grad=dx_loss, differences=central_differences(lambda x: loss(x, w), x))
agree(grad=dw_loss, differences=central_differences(lambda w: loss(x, w), w))
agree(grad=dx_loss, by_hand=conv_transpose(y - target, w))  # δ = y − t
print(dw_loss)

# %% [markdown]
# JAX has the same test built in, with a random direction. `order=2` differentiates the gradient once more: the rules of `_h` and `_g` are made of the same three operations, so that this works to any order.

# %%
for stride in (1, 2):
    check_grads(lambda x, w, s=stride: conv(x, w, s), (x, w), order=2, modes=["rev"])
    print(f"stride {stride}: first and second derivatives agree with differences")

# %% [markdown]
# ## Try it
#
# Change the example and run the notebook again; the claims should still hold, or you should see why not.
#
# 1. Give the kernel $w_3 = w_4$. Which assertion of section 4 fails, and why? And for which kernels is the flip not needed at all?
# 2. At stride 3, which inputs of a 5×5 image are never read? How many input sizes share the output? Ask `equations.gbc_input_sizes`.
# 3. Stride spreads $\delta$ in the backward pass. What does `dilation=2`, which spreads the *kernel* in the forward pass, do to the two gradients? Read `_h` and `_g`, then check your answer with `cnnvjp.conv(..., dilation=2)`.
