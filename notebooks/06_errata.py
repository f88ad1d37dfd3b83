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
# # Errata
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/cnnvjp/cnnvjp/blob/main/notebooks/06_errata.ipynb)
#
# The library follows five texts. All five teach the subject well, and some of their formulas do not hold as they are printed: a kernel is flipped once too often, a sum runs over the wrong index, a border of zeros is missing. This is no criticism of the texts. Whoever programs from them will meet these places, and here they can see what is meant.
#
# Each of the 25 entries has three parts: the formula as printed and as corrected; both, computed on a small example; and a third computation that knows neither and tells which is right. For gradients this is a finite difference of the forward pass, elsewhere JAX's own operation or a sum by hand. Every function is in `cnnvjp.equations`; those that end in `_as_printed` (or `_as_drawn`, `_as_worded` …) compute the faulty formula as it stands.
#
# | key | source | entries |
# | --- | --- | --- |
# | [J] | Jefkine, *Backpropagation in Convolutional Neural Networks* (2016), with its readers' comments | 1 to 11 |
# | [H] | *Neural Network Design: Deep Learning*, chapter 8 | 12 to 21 |
# | [B] | Bereyhi, *Applied Deep Learning* (2026), chapter 4 | 22 to 24 |
# | [S] | Slides *Back propagation through a Convolutional Layer* | 25 |
#
# The fifth, [GBC] (Goodfellow, Bengio, Courville, *Deep Learning*, chapter 9), has none in the pages that the library uses.
#
# The faults are of four kinds, and each kind has a test that it does not survive:
#
# | kind | entries | caught by |
# | --- | --- | --- |
# | which way round: flipped not at all, by half, twice, or together with everything else | 2, 4, 7, 9, 10, 19, 25 | kernels and $\delta$ without any symmetry, and a look beyond the first row |
# | an index or its limits | 1, 3, 5, 8, 15, 16, 20, 22 | the formula as a loop over its own indices, with different numbers of maps above and below |
# | a border or a size | 11, 12, 13, 17, 24 | sizes that the stride does not divide |
# | a sum that is called an average, and other words | 6, 14, 18, 21, 23 | finite differences, which compare numbers and not words |

# %%
try:
    import cnnvjp
except ModuleNotFoundError:  # as on Colab; --no-deps leaves the JAX that is installed alone
    import subprocess
    import sys

    source = "cnnvjp @ git+https://github.com/cnnvjp/cnnvjp"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", source], check=True)
    import cnnvjp

import itertools
import math

import jax
import jax.numpy as jnp
import jax.scipy.signal
import numpy as np
from jax import lax

from cnnvjp.plot import INK, LINE, NAME, TINTS, WRONG, Sheet

eq = cnnvjp.equations
jax.config.update("jax_enable_x64", True)  # float64, so that the checks can be strict

# %% [markdown]
# ## The example, and three helpers
#
# One image, one kernel and one $\delta$ serve for most entries; they are those of the first notebook. No number repeats where it could hide a fault, and nothing is symmetric.
#
# * `slope` finds $\partial L/\partial x$ for $L = \sum_i \delta_i f(x)_i$ by central differences. In all examples $L$ is linear or quadratic in each number, so that these are exact with a step of 1.
# * `told_apart` asserts that the corrected formula agrees with the third computation and that the printed one does not, and prints all three.
# * `correlate` is JAX's own sliding kernel, `jax.scipy.signal.correlate2d`.

# %%
I = np.array([[3, 2, 2, 4], [1, 3, 1, 3], [4, 1, 1, 4], [2, 1, 1, 2]], float)  # noqa: E741
K = np.array([[1, 2], [3, 4]], float)
delta = np.array([[3, -2, -1], [1, -2, 3], [-2, -1, -2]], float)

shown = {}


def erratum(source, where):
    """Notes that an entry of `equations.ERRATA` has been shown."""
    (entry,) = (e for e in eq.ERRATA if (e.source, e.where) == (source, where))
    assert (source, where) not in shown
    shown[source, where] = entry


def same(a, b):
    """Whether two results have one shape and are equal, up to rounding."""
    return np.shape(a) == np.shape(b) and np.allclose(a, b, rtol=0, atol=1e-9)


def lines(value):
    """A number, a shape or an array as lines of text; maps stand below each other."""
    if isinstance(value, tuple):
        return [f"({', '.join(f'{v:g}' for v in value)})"]
    if np.ndim(value) == 0:
        return [f"{value:.5g}"]
    if np.ndim(value) == 3:
        return [line for block in value for line in [*lines(block), ""]][:-1]
    rows = [[f"{v:.4g}" for v in row] for row in np.atleast_2d(np.round(value, 9) + 0.0)]
    width = max(len(v) for row in rows for v in row)
    return [" ".join(v.rjust(width) for v in row) for row in rows]


def told_apart(source, where, *, printed, corrected, check):
    """Asserts that the check agrees with the corrected formula, and not with the printed one."""
    erratum(source, where)
    assert same(corrected, check), (corrected, check)
    assert not same(printed, check), (printed, check)
    columns = [["printed", *lines(printed)], ["corrected", *lines(corrected)]]
    columns.append(["check", *lines(check)])
    widths = [max(map(len, column)) for column in columns]
    for row in itertools.zip_longest(*columns, fillvalue=""):
        texts = (text.ljust(width) for text, width in zip(row, widths, strict=True))
        print("    ".join(texts).rstrip())


def slope(f, x, weights=1.0):
    """∂L/∂x for L = Σ weights · f(x), by central differences with a step of 1."""
    x = np.asarray(x, float)
    result = np.zeros_like(x)
    for place in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[place] += 1
        down[place] -= 1
        result[place] = np.sum(weights * (f(up) - f(down))) / 2
    return result


def correlate(image, kernel):
    """JAX's own cross-correlation, where the kernel lies within the image."""
    return jax.scipy.signal.correlate2d(jnp.asarray(image), jnp.asarray(kernel), mode="valid")


def convolve(image, kernel, mode):
    """JAX's own convolution: everywhere ("full"), or where the kernel lies within the image."""
    return jax.scipy.signal.convolve2d(jnp.asarray(image), jnp.asarray(kernel), mode=mode)


def wrong(value, right):
    """Tints of the entries that are wrong."""
    return {(int(i), int(j)): WRONG for i, j in np.argwhere(~np.isclose(value, right))}


GOOD, FAULT = "#2f6fa8", "#c8452c"  # of lines and letters


def no_slope(_):
    """The derivative of no activation."""
    return 1.0


# %% [markdown]
# In the pictures, what is wrong is red.
#
# ## [J] Jefkine
#
# [J] uses two signs, and keeping them apart is most of the work: $\otimes$ is cross-correlation, which slides the kernel as it is, and $\ast$ is convolution, which flips it.
#
# $$(I \otimes K)_{ij} = \sum_{m=0}^{k_1-1}\sum_{n=0}^{k_2-1} I(i+m,\,j+n)\,K(m,n) \quad \text{[J] 1}, \qquad (I \ast K)_{ij} = \sum_{m=0}^{k_1-1}\sum_{n=0}^{k_2-1} I(i-m,\,j-n)\,K(m,n) \quad \text{[J] 2}$$
#
# ### 1. [J] 3: the limits keep their signs
#
# | printed | corrected |
# | --- | --- |
# | $\displaystyle\sum_{m=0}^{k_1-1}\sum_{n=0}^{k_2-1} I(i+m,\,j+n)\,K(-m,-n)$ | $\displaystyle\sum_{m=-(k_1-1)}^{0}\ \sum_{n=-(k_2-1)}^{0} I(i+m,\,j+n)\,K(-m,-n)$ |
#
# From 2 to 3 the signs of $m$ and $n$ are turned, and with them go the limits. As printed, $K(-m,-n)$ is read outside the kernel but for $K(0,0)$, and what remains is the image times $K(0,0) = 1$. The check is JAX's own convolution.

# %%
told_apart(
    "[J]",
    "3",
    printed=eq.j_3_as_printed(I, K),
    corrected=eq.j_3(I, K),
    check=convolve(I, K, "full"),
)
assert same(eq.j_3(I, K), eq.j_2(I, K))
assert same(eq.j_3_as_printed(I, K)[:4, :4], K[0, 0] * I)

# %% [markdown]
# ### 2. [J] 3, the sentence after it: flipped, or symmetric
#
# | printed | corrected |
# | --- | --- |
# | a flipped kernel, $K(-m,-n) = K(m,n)$ | a flipped kernel $K'$, $K'(m,n) = K(-m,-n)$ |
#
# A kernel with $K(-m,-n) = K(m,n)$ is symmetric: flipping does not change it. For such kernels, and only for them, the two operations are the same. What is meant is that convolution with $K$ is cross-correlation with the flipped kernel.

# %%
told_apart(
    "[J]",
    "3, the sentence after it",
    printed=eq.j_1(I, K),  # the kernel as it is
    corrected=eq.j_1(I, K[::-1, ::-1]),
    check=convolve(I, K, "valid"),
)
symmetric = np.array([[1, 2], [2, 1]], float)
assert same(symmetric, symmetric[::-1, ::-1])
assert same(eq.j_1(I, symmetric), convolve(I, symmetric, "valid"))  # here it makes no difference

# %% [markdown]
# ### 3. [J] 4: the filter has no number
#
# | printed | corrected |
# | --- | --- |
# | $\displaystyle(I \ast K)_{ij} = \sum_{m}\sum_{n}\sum_{c=1}^{C} K_{m,n,c}\, I_{i+m,\,j+n,\,c} + b$ | $\displaystyle(I \otimes K)_{ijd} = \sum_{m}\sum_{n}\sum_{c=1}^{C} K_{m,n,c,d}\, I_{i+m,\,j+n,\,c} + b_d$ |
#
# The bank has $D$ filters and $D$ biases, $K \in \mathbb{R}^{k_1 \times k_2 \times C \times D}$. Without the index $d$ there is a single map, of a single filter. The check is `lax.conv_general_dilated`.

# %%
draw = np.random.default_rng(4)
image3 = draw.integers(-3, 4, (4, 4, 3)).astype(float)
bank = draw.integers(-3, 4, (2, 2, 3, 2)).astype(float)
b = np.array([1.0, 2.0])

checked = lax.conv_general_dilated(
    image3[None], bank, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
)
maps, one_map = eq.j_4(image3, bank, b), eq.j_4_as_printed(image3, bank[..., 0], b[0])
assert same(maps, checked[0] + b) and not same(one_map, maps)
assert same(one_map, maps[..., 0])  # one filter of the bank, and no word of the other

told_apart("[J]", "4", printed=one_map.shape, corrected=maps.shape, check=checked[0].shape)

# %% [markdown]
# ### 4. [J] 4 and 5: a star for a cross-correlation
#
# | printed | corrected |
# | --- | --- |
# | $(I \ast K)_{ij} = \sum_m\sum_n K_{m,n}\, I_{i+m,\,j+n} + b$, the kernel being "flipped" | $(I \otimes K)_{ij} + b$ is this sum, and nothing is flipped |
#
# The right-hand side reads $I_{i+m,\,j+n}$; by [J] 1 this is $\otimes$. With [J] 2 read into the left-hand side, the result is another. Here the right-hand side is written out, window by window.

# %%
windows = np.lib.stride_tricks.sliding_window_view(I, (2, 2))
right_hand_side = np.sum(windows * K, axis=(2, 3)) + 7

told_apart(
    "[J]",
    "4 and 5",
    printed=eq.j_5_as_printed(I, K, 7),  # I * K + b, in the sense of 2
    corrected=eq.j_5(I, K, 7),  # I ⊗ K + b
    check=right_hand_side,
)

# %% [markdown]
# ### 5. [J] 6 and 7: one bias, or one for each pixel
#
# | printed | corrected |
# | --- | --- |
# | $x_{i,j} = \sum_m\sum_n w_{m,n}\, o_{i+m,\,j+n} + b_{i,j}$ | $x_{i,j} = \sum_m\sum_n w_{m,n}\, o_{i+m,\,j+n} + b$ |
#
# The notation list, 11 and 17 have one bias for the layer, and a reader noticed it. The difference matters: an untied bias $b_{i,j}$ can turn any $w$ into a perfect fit of any one target. Take a target map and choose the best bias of either kind. The check takes the notation list at its word, with JAX's own sum.

# %%
target = np.array([[20, 20, 24], [25, 11, 24], [17, 9, 21]], float)
without = eq.j_7(I, K, 0)
untied = target - without  # the best b_ij: whatever is missing
tied = np.mean(target - without)  # the best b: the mean of it

print("error with the best untied bias:", np.sum((target - eq.j_7_as_printed(I, K, untied)) ** 2))
print("error with the best tied bias:  ", np.sum((target - eq.j_7(I, K, tied)) ** 2).round(4))
told_apart(
    "[J]",
    "6 and 7",
    printed=eq.j_7_as_printed(I, K, untied),
    corrected=eq.j_7(I, K, tied),
    check=correlate(I, K) + tied,
)
assert eq.j_7_as_printed(I, K, np.full((3, 3), 5)).tolist() == eq.j_7(I, K, 5).tolist()

# %% [markdown]
# ### 6. [J] 9: the mean that is half a sum
#
# | printed | corrected |
# | --- | --- |
# | the mean squared error is $E = \tfrac12\sum_p (t_p - y_p)^2$ | this is half the sum; the mean is $\tfrac1P\sum_p (t_p - y_p)^2$ |
#
# The formula is fine, and its gradient is the simple $y - t$. Only the name does not fit: the gradient of the mean is $\tfrac2P (y - t)$, which is another learning rate. The check adds up $\tfrac12 r^2$ by hand, for $r = -2, 0, 5$.

# %%
t, predicted = np.array([1.0, 2.0, 4.0]), np.array([3.0, 2.0, -1.0])
told_apart(
    "[J]",
    "9",
    printed=eq.j_9_as_named(t, predicted),
    corrected=eq.j_9(t, predicted),
    check=(4 + 0 + 25) / 2,
)
assert same(slope(lambda y: eq.j_9(t, y), predicted), predicted - t)
assert same(slope(lambda y: eq.j_9_as_named(t, y), predicted), 2 / 3 * (predicted - t))

# %% [markdown]
# ### 7. [J] 14: a rotation that is drawn, and undone by the star
#
# | printed (the picture, by a reader's account) | corrected |
# | --- | --- |
# | $\partial E/\partial w_1 = \delta_4 o_1 + \delta_3 o_2 + \delta_2 o_4 + \delta_1 o_5$ | $\partial E/\partial w_1 = \delta_1 o_1 + \delta_2 o_2 + \delta_3 o_4 + \delta_4 o_5$ |
#
# [J] 14 writes the kernel's gradient as $\text{rot}_{180}\lbrace \delta\rbrace \ast o$. Rotated once by the formula and once more by $\ast$, $\delta$ lies on $o$ as it is, which is right. The picture that goes with it is known here by a reader's comment only, which says that it multiplies the rotated $\delta$ with $o$ as it lies.

# %%
o = np.arange(1.0, 10.0).reshape(3, 3)
d4 = np.array([[1, 10], [100, 1000]], float)

told_apart(
    "[J]",
    "14, the picture by a reader's account",
    printed=eq.j_14_as_pictured(d4, o),
    corrected=eq.j_14(d4, o),
    check=slope(lambda w: eq.j_7(o, w, 0), np.zeros((2, 2)), d4),
)
assert eq.j_14(d4, o)[0, 0] == 1 * 1 + 10 * 2 + 100 * 4 + 1000 * 5

# %% [markdown]
# ### 8. [J] 19: the first term has lost its pixel
#
# | printed | corrected |
# | --- | --- |
# | $w_{m',n'}\, f(x_{0-m+m',\,0-n+n'}) + \dots$ | $w_{0,0}\, f(x_{i'-m,\,j'-n}) + \dots$ |
#
# The sum in [J] 18 is over $m'$ and $n'$, and its first term has $m' = n' = 0$. The zeros were put in for $i'$ and $j'$ instead, which are the pixel that the derivative is for and stay. The term does not survive the derivative, so that 20 is right. The check leaves the kernel its first weight only.

# %%
x = 1 + np.abs(I)  # a net input; no accidental zero
pixel, tap = (2, 2), (0, 0)
first_weight = np.where(np.arange(4).reshape(2, 2) == 0, K, 0)
told_apart(
    "[J]",
    "19, the first term",
    printed=eq.j_19_first_term_as_printed(K, x, math.sqrt, pixel, tap),
    corrected=eq.j_19_first_term(K, x, math.sqrt, pixel, tap),
    check=correlate(np.sqrt(x), first_weight)[pixel[0] - tap[0], pixel[1] - tap[1]],
)

# %% [markdown]
# ### 9. [J] 21: the whole sum is rotated
#
# | printed | corrected |
# | --- | --- |
# | $\displaystyle\text{rot}_{180}\Big\lbrace \sum_m\sum_n \delta_{i'+m,\,j'+n}\, w_{m,n}\Big\rbrace f'(x_{i',j'})$ | $\displaystyle\sum_m\sum_n \delta_{i'+m-k_1+1,\,j'+n-k_2+1}\ \text{rot}_{180}\lbrace w\rbrace_{m,n}\ f'(x_{i',j'})$ |
#
# This is the gradient of the input, and a place where several readers of [J] asked. By [J] 20 it is $\sum \delta_{i'-m,\,j'-n}\, w_{m,n}$. To turn the minus into a plus, the *kernel* is rotated and nothing else; the shift by $k - 1$ is the border of zeros.
#
# **What happens if the sum is rotated?** Its indices reach beyond $\delta$ on one side only. But even if they are completed by a border on every side, the rotation turns the gradient round as well:

# %%
gradient = slope(lambda o: eq.j_1(o, K), I, delta)
printed = eq.j_21_as_printed(delta, K, I, no_slope)
padded = np.pad(delta, 1)
completed = eq.j_1(padded, K)[::-1, ::-1]

sheet = Sheet(19.2, 13, "The gradient, and what rotating the sum makes of it.")
tints = {(i, j): TINTS[2 * i + j] for i, j in np.ndindex(2, 2)}
sheet.matrix(0.6, 2.3, K, tints=tints, title="w")
sheet.matrix(4, 1.8, delta, title="δ")
sheet.matrix(9, 1.3, gradient, title="the gradient, by differences")
sheet.matrix(14.6, 1.3, eq.j_21(delta, K, I, no_slope), title="corrected")
sheet.matrix(0.6, 7.3, printed, tints=wrong(printed, gradient), title="printed")
sheet.matrix(
    6, 7.3, completed, tints=wrong(completed, gradient), title="printed, with a whole border"
)
turned = eq.j_21(delta[::-1, ::-1], K, I, no_slope)
sheet.matrix(11.8, 7.3, turned, tints=wrong(turned, gradient), title="gradient for a rotated δ")
sheet.text(10.9, 9.3, "=", 0.6)
sheet.text(0.6, 12.2, "red: not the gradient", 0.34, ha="left", color=NAME)
sheet

# %%
told_apart(
    "[J]",
    "21",
    printed=printed,
    corrected=eq.j_21(delta, K, I, no_slope),
    check=gradient,
)
assert same(completed, turned)  # the gradient of another loss: that of δ turned round
assert not same(completed, gradient)

# %% [markdown]
# The rotated sum, with its border completed, is the gradient that belongs to $\text{rot}_{180}\lbrace \delta\rbrace$: rotating the result of $\otimes$ rotates both of its factors. A $\delta$ that looks the same after half a turn would have hidden the fault.
#
# ### 10. [J] 22: rotated twice is not rotated
#
# | printed | corrected |
# | --- | --- |
# | $\delta \ast \text{rot}_{180}\lbrace w\rbrace \ f'(x)$ | $\delta \ast w\ f'(x)$, or $\delta \otimes \text{rot}_{180}\lbrace w\rbrace \ f'(x)$ with zeros around $\delta$ |
#
# $\ast$ already rotates the kernel. Rotated by the formula, and once more by $\ast$, it is as it was, and slides over $\delta$ unflipped. A reader put it right: with $\otimes$ in the place of $\ast$ the formula holds.

# %%
double = eq.j_22_as_printed(delta, K, I, no_slope)

sheet = Sheet(22, 13.6, "A kernel that is turned twice slides as it was, and gives no gradient.")
turn = {"w": (1, 1), "rot180{w}": (-1, -1), "turned again by *": (1, 1)}
for row, (top, steps, result, title) in enumerate(
    (
        (1.5, ["w", "rot180{w}", "turned again by *"], double, "printed: δ * rot180{w}"),
        (7.9, ["w", "rot180{w}"], eq.j_22(delta, K, I, no_slope), "corrected: δ * w"),
    )
):
    left = 0.6
    for step in steps:
        down, right = turn[step]
        turned_tints = {
            (i, j): TINTS[2 * (i if down > 0 else 1 - i) + (j if right > 0 else 1 - j)]
            for i, j in np.ndindex(2, 2)
        }
        label = "turned once, by *" if row == 1 and step != "w" else step
        sheet.matrix(left, top + 1, K[::down, ::right], tints=turned_tints, title=label)
        if step != steps[-1]:
            sheet.text(left + 2.6, top + 2, "→", 0.5)
        left += 3.4
    sheet.text(10.5, top + 2, "⊗", 0.5)
    sheet.matrix(11.2, top - 0.5, padded, title="δ among zeros")
    sheet.text(16.75, top + 2, "=", 0.5)
    sheet.matrix(17.3, top, result, tints=wrong(result, gradient), title=title)
sheet

# %%
told_apart(
    "[J]",
    "22",
    printed=double,
    corrected=eq.j_22(delta, K, I, no_slope),
    check=gradient,
)
assert same(double, eq.j_1(padded, K))  # the kernel as it was
assert same(eq.j_1(padded, K[::-1, ::-1]), gradient)  # the reader's version

# %% [markdown]
# ### 11. [J] 22, an answer to a reader: without padding
#
# | printed | corrected |
# | --- | --- |
# | backpropagation uses the convolution without zero padding | 14 (for the kernel) is without padding; 22 (for the input) has $k - 1$ zeros on each side of $\delta$ |
#
# Without padding 22 gives fewer deltas than there are pixels: only those that every weight of the kernel has touched.

# %%
told_apart(
    "[J]",
    "22, an answer of the author to a reader",
    printed=eq.j_22_as_answered(delta, K),
    corrected=eq.j_22(delta, K, I, no_slope),
    check=gradient,
)
assert same(eq.j_22_as_answered(delta, K), gradient[1:3, 1:3])  # the middle, and no border

# %% [markdown]
# ## [H] Neural Network Design
#
# ### 12. [H] 8.18 and 8.19: no floor
#
# | printed | corrected |
# | --- | --- |
# | $S_r = (R_r + 2P^d - r)/S^t + 1$ | $S_r = \lfloor (R_r + 2P^d - r)/S^t \rfloor + 1$ |
#
# The division leaves a remainder unless the last window ends at the border. The check asks `lax` for the shape. Of three cases the printed formula gets the first right; shown is the second, a 5×8 image under a 2×3 kernel at stride 2.


# %%
def lax_size(R, kernel_size, padding, stride):
    """The size of a convolution's output, by JAX."""
    shape = jax.eval_shape(
        lambda image, kernel: lax.conv(image, kernel, (stride, stride), [(padding, padding)] * 2),
        jax.ShapeDtypeStruct((1, 1, *R), jnp.float32),
        jax.ShapeDtypeStruct((1, 1, *kernel_size), jnp.float32),
    ).shape
    return shape[2:]


for case in [((4, 4), (2, 2), 0, 2), ((5, 8), (2, 3), 0, 2), ((7, 6), (3, 3), 1, 3)]:
    R, kernel_size, Pd, St = case
    assert eq.h_8_18_19(*case) == lax_size(*case)
    exact = all((n + 2 * Pd - k) % St == 0 for n, k in zip(R, kernel_size, strict=True))
    assert same(eq.h_8_18_19_as_printed(*case), lax_size(*case)) == exact

told_apart(
    "[H]",
    "8.18 and 8.19",
    printed=eq.h_8_18_19_as_printed((5, 8), (2, 3), 0, 2),
    corrected=eq.h_8_18_19((5, 8), (2, 3), 0, 2),
    check=lax_size((5, 8), (2, 3), 0, 2),
)

# %% [markdown]
# ### 13. [H] 8.18, the text before it: a half, rounded up
#
# | printed | corrected |
# | --- | --- |
# | a stride of 2 reduces the size of the output by a factor of 2 | from $S$ to $\lceil S/2 \rceil$ |
#
# The example of [H]'s own figure 8.3, a 4×4 input and a 2×2 kernel, goes from 3 to 2.

# %%
sizes = {n: (lax_size((n, n), (2, 2), 0, 1)[0], lax_size((n, n), (2, 2), 0, 2)[0]) for n in (4, 5)}
for n, (one, two) in sizes.items():
    print(f"{n}×{n} input: {one} at stride 1, {two} at stride 2")
told_apart(
    "[H]",
    "8.18, the text before it",
    printed=sizes[4][0] / 2,
    corrected=math.ceil(sizes[4][0] / 2),
    check=sizes[4][1],
)

# %% [markdown]
# ### 14. [H] 8.36 and 8.37: the bias hears the sum, not the average
#
# | printed | corrected |
# | --- | --- |
# | "the resulting operation is the average pooling operation", $db = \boxplus^{ave}\, \mathbf{dN}$ | $db = \sum_{i}\sum_{j} dn_{i,j}$, as 8.36 has it |
#
# The equation 8.36 is right. The bias moves every $n_{i,j}$ by as much as itself, and every one of them is heard. Only the name is wrong: $\boxplus^{ave}$ is [H]'s sign for a sum *times a weight* (8.23), and without the weight it is a plain sum. Who programs the name gets a gradient that is too small by the number of pixels.
#
# Take $F = \tfrac12 \sum (t - n)^2$ with $n = lz + b$, for which $dn = n - t$. The slope of $F$ against $b$ can be seen:


# %%
def loss_of_bias(bias):
    """F as a function of the bias alone."""
    return 0.5 * np.sum((target - eq.h_8_33(without, float(bias))) ** 2)


bias = 3.0
d_n = eq.h_8_33(without, bias) - target
db, average = eq.h_8_36(d_n), eq.h_8_37_as_printed(d_n)

sheet = Sheet(
    17, 9.4, "The loss against the bias, with the tangent, and a line of the average's slope."
)
axes = sheet.figure.add_axes((0.09, 0.13, 0.55, 0.8), facecolor="white")
at = np.linspace(-7, 7, 101)
axes.plot(at, [loss_of_bias(v) for v in at], color=INK, linewidth=2)
near = np.array([0.4, 5.6])
axes.plot(near, loss_of_bias(bias) + db * (near - bias), color=GOOD, linewidth=2.4)
axes.plot(near, loss_of_bias(bias) + average * (near - bias), color=FAULT, linewidth=2.4)
axes.plot([bias], [loss_of_bias(bias)], "o", color=INK, zorder=5)
axes.set_xlabel("bias b", fontsize=11)
axes.set_ylabel("loss F", fontsize=11)
axes.tick_params(labelsize=10)
for spine in axes.spines.values():
    spine.set_color(LINE)
sheet.matrix(12.4, 1.6, d_n, title="dN")
sheet.text(11.7, 6.3, f"sum, corrected: {db:g}", 0.36, ha="left", color=GOOD)
sheet.text(11.7, 7.2, f"average, printed: {average:.3g}", 0.36, ha="left", color=FAULT)
sheet

# %%
told_apart(
    "[H]",
    "8.36 and 8.37",
    printed=average,
    corrected=db,
    check=(loss_of_bias(bias + 1) - loss_of_bias(bias - 1)) / 2,
)
assert same(average, db / 9)

# %% [markdown]
# ### 15. [H] 8.39, 8.41 and 8.44: too few maps above
#
# | printed | corrected |
# | --- | --- |
# | $\displaystyle da^{n,l}_{u',v'} = \sum_{h=1}^{H^n} \dots$ | $\displaystyle da^{n,l}_{u',v'} = \sum_{h=1}^{H^m} \dots$ |
#
# $h$ counts the maps of the upper layer $m$. A map below feeds all of them and hears from all of them. $H^n$ is the number of maps *below*: with two below and three above, the third is forgotten; with three below and two above, there is no third to be heard.

# %%
LW = draw.integers(-3, 4, (3, 2, 2, 2)).astype(float)  # 3 maps above, 2 below
d_lz = draw.integers(-3, 4, (3, 2, 2)).astype(float)
d_a = slope(lambda a: eq.h_8_38(LW, a), np.zeros((2, 3, 3)), d_lz)

sheet = Sheet(
    12.4, 6.8, "Two maps below hear three maps above; the sum as printed forgets the third."
)
above, below = [(3 + 3.2 * h, 1.6) for h in range(3)], [(4.6 + 3.2 * k, 5.2) for k in range(2)]
for h, (x_above, y_above) in enumerate(above):
    forgotten = h == 2
    for x_below, y_below in below:
        style = {"color": FAULT if forgotten else NAME, "linewidth": 1.8}
        style |= {"linestyle": "dashed" if forgotten else "solid"}
        sheet.arrow((x_above, y_above + 0.45), (x_below, y_below - 0.45), **style)
    colour = WRONG if forgotten else TINTS[h]
    sheet.box(x_above - 0.9, y_above - 0.45, 1.8, 0.9, facecolor=colour, edgecolor=LINE)
    sheet.text(x_above, y_above, f"$dLZ^{h + 1}$", 0.36)
for k, (x_below, y_below) in enumerate(below):
    sheet.box(x_below - 0.9, y_below - 0.45, 1.8, 0.9, facecolor="white", edgecolor=LINE)
    sheet.text(x_below, y_below, f"$dA^{k + 1}$", 0.36)
sheet.text(1.9, 0.6, "$h = 1 \\dots H^m$, with $H^m = 3$", 0.32, ha="left")
sheet.text(1.9, 6.3, "$l = 1 \\dots H^n$, with $H^n = 2$", 0.32, ha="left")
sheet

# %%
told_apart(
    "[H]",
    "8.39, 8.41 and 8.44",
    printed=eq.h_8_44_as_printed(LW, d_lz),
    corrected=eq.h_8_44(LW, d_lz),
    check=d_a,
)
for name in ("h_8_39", "h_8_41"):
    assert same(getattr(eq, name)(LW, d_lz), d_a)
    assert not same(getattr(eq, name + "_as_printed")(LW, d_lz), d_a)
try:
    eq.h_8_44_as_printed(LW.transpose(1, 0, 2, 3), d_lz[:2])  # 2 maps above, 3 below
    raise AssertionError("there is no third map above")
except ValueError as error:
    print(f"2 maps above, 3 below: {error}")

# %% [markdown]
# ### 16. [H] 8.45, the sum: over a letter that is taken
#
# | printed | corrected |
# | --- | --- |
# | $\displaystyle \mathbf{dA}^{n,l} = \sum_{l=1}^{H^n} \big(\text{rot}_{180}\, \mathbf{LW}^{h,l}\big) \otimes \mathbf{dLZ}^{h}$ | $\displaystyle \mathbf{dA}^{n,l} = \sum_{h=1}^{H^m} \big(\text{rot}_{180}\, \mathbf{LW}^{h,l}\big) \otimes \mathbf{dLZ}^{h}$ |
#
# $l$ stands on the left and cannot be summed over, while $h$ stands on the right alone. Read as it is, the formula has a result for each map *above*. Here there are as many maps above as below, and the border of zeros is added by hand (it is the next entry), so that only the sum differs.

# %%
square, d_square = LW[:2], d_lz[:2]
told_apart(
    "[H]",
    "8.45, the sum",
    printed=eq.h_8_45_as_printed(square, np.pad(d_square, ((0, 0), (1, 1), (1, 1)))),
    corrected=eq.h_8_45(square, d_square),
    check=slope(lambda a: eq.h_8_38(square, a), np.zeros((2, 3, 3)), d_square),
)

# %% [markdown]
# ### 17. [H] 8.41, 8.44 and 8.45: no border
#
# | printed | corrected |
# | --- | --- |
# | $(\text{rot}_{180}\,\mathbf{LW}) \otimes \mathbf{dLZ}$ | the same, with $r - 1$ and $c - 1$ zeros on each side of $\mathbf{dLZ}$ |
#
# By 8.13, $\otimes$ stays within its image: it *shrinks* the map by $r - 1$ rows, where $\mathbf{dA}$ is larger by $r - 1$. In 8.41 and 8.44 the indices of $dlz$ run beyond its map, where it must count as 0. With one map above and one below:

# %%
kernel, d_map = K[None, None], delta[None]
told_apart(
    "[H]",
    "8.41, 8.44 and 8.45, the border",
    printed=eq.h_8_45_as_printed(kernel, d_map)[0],
    corrected=eq.h_8_45(kernel, d_map)[0],
    check=gradient,
)

# %% [markdown]
# ### 18 and 19. [H] P8.2: left or right, and which way is up
#
# P8.2 asks for the kernel that shifts an image one pixel to the right and one pixel up, and E8.4 to try it.
#
# | | printed | corrected |
# | --- | --- | --- |
# | 18, the words | the solution shifts "one pixel to the left and one pixel up" | to the right and up, as the problem asks |
# | 19, the matrix | $W = \begin{bmatrix} 0 & 1\\ 0 & 0 \end{bmatrix}$ | $\begin{bmatrix} 0 & 0\\ 1 & 0 \end{bmatrix} \otimes P$, with a row of zeros below $P$ and a column to its left |
#
# The kernel is right if it is seen as a picture in the axes of P8.1, whose origin is at the lower left and where $y$ goes up. As a matrix in 8.8 its rows go down, its upper right entry is $w_{0,1}$, and that shifts to the right only. The image of E8.4:

# %%
P = np.zeros((5, 5))
P[2, 2] = P[3, 1] = P[3, 2] = 1
asked = np.pad(P[1:, :-1], ((0, 1), (1, 0)))  # by hand: drop the top row and the right column

sheet = Sheet(23.8, 7.4, "An image, shifted as asked, as worded, and by the matrix as printed.")
for k, (pixels, title) in enumerate(
    (
        (P, "the image of E8.4"),
        (eq.h_p8_2(P), "corrected: right and up"),
        (eq.h_p8_2_as_worded(P), "as worded: left and up"),
        (eq.h_p8_2_as_printed(P), "as a matrix: right only"),
    )
):
    left = 0.6 + 5.8 * k
    for (row, column), value in np.ndenumerate(pixels):
        expected = (P if k == 0 else asked)[row, column]
        colour = "white" if not value else INK if value == expected else FAULT
        sheet.box(left + column, 1.4 + row, 1, 1, facecolor=colour, edgecolor=LINE, linewidth=0.8)
        if not value and value != expected:
            inset = (left + column + 0.14, 1.4 + row + 0.14, 0.72, 0.72)
            sheet.frame(*inset, FAULT, linewidth=1.6)
    sheet.text(left + 2.5, 0.9, title, 0.36)
sheet.text(
    0.6, 6.85, "red: a pixel that should be white; framed: one that should be black", 0.34,
    ha="left", color=NAME,
)  # fmt: skip
sheet

# %%
told_apart(
    "[H]",
    "P8.2, the words",
    printed=eq.h_p8_2_as_worded(P),
    corrected=eq.h_p8_2(P),
    check=asked,
)

# %%
told_apart(
    "[H]",
    "P8.2 and E8.4, the matrix",
    printed=eq.h_p8_2_as_printed(P),
    corrected=eq.h_8_13([[0, 0], [1, 0]], np.pad(P, ((0, 1), (1, 0)))),
    check=asked,
)

# %% [markdown]
# ### 20. [H] P8.3: pooling takes each map by itself
#
# | printed | corrected |
# | --- | --- |
# | $\displaystyle\frac{\partial lz^{h}_{i,j}}{\partial a^{l}_{u',v'}} = lw^{h}$ within the window | $\displaystyle\frac{\partial lz^{h}_{i,j}}{\partial a^{h}_{u',v'}} = lw^{h}$ within the window, and 0 for $l \ne h$ |
#
# The lines around it are right and say so. Taken by itself the formula connects every map below with every map above.

# %%
A2 = draw.integers(-3, 4, (2, 2, 4)).astype(float)  # two maps of 2×4, windows of 2×2
d_pooled, lw = np.array([[[1, 10]], [[100, 1000]]], float), np.array([3.0, 5.0])


def pooled(maps, weights):
    """[H] 8.22 for each map with its weight."""
    return np.stack([eq.h_8_22(v, 2, 2, w) for v, w in zip(maps, weights, strict=True)])


told_apart(
    "[H]",
    "P8.3",
    printed=eq.h_p8_3_as_printed(d_pooled, lw, 2, 2),
    corrected=eq.h_p8_3(d_pooled, lw, 2, 2),
    check=slope(lambda maps: pooled(maps, lw), A2, d_pooled),
)

# %% [markdown]
# ### 21. [H] P8.4: two averages that are sums
#
# | printed | corrected |
# | --- | --- |
# | $dlw = \boxplus^{ave}\big(\mathbf{dLZ} \circ (\boxplus^{ave} \mathbf{A})\big)$, $\boxplus^{ave}$ being average pooling | $dlw = \sum_{i,j} dlz_{i,j} \big\lbrace \sum_{u,v} a_{r(i-1)+u,\,c(j-1)+v} \big\rbrace$ |
#
# As in 14, the long form above it is right and the name is not: the average that pooling takes is in $lw$ and must not be taken again. With averages $dlw$ is too small by $r \cdot c \cdot S_r \cdot S_c = 2 \cdot 2 \cdot 1 \cdot 2$.

# %%
told_apart(
    "[H]",
    "P8.4",
    printed=eq.h_p8_4_as_printed(d_pooled, A2, 2, 2),
    corrected=eq.h_p8_4(d_pooled, A2, 2, 2),
    check=slope(lambda weights: np.sum(d_pooled * pooled(A2, weights), axis=(1, 2)), lw),
)
assert same(8 * eq.h_p8_4_as_printed(d_pooled, A2, 2, 2), eq.h_p8_4(d_pooled, A2, 2, 2))

# %% [markdown]
# ## [B] Bereyhi
#
# ### 22. [B] Multi-Channel Convolution: C filters, not K
#
# | printed | corrected |
# | --- | --- |
# | $\nabla_{\mathbf X} \hat R = \text{Conv}\big(\nabla_{\mathbf Z} \hat R \mid \mathbf W^\dagger_1, \dots, \mathbf W^\dagger_K\big)$ | $\nabla_{\mathbf X} \hat R = \text{Conv}\big(\nabla_{\mathbf Z} \hat R \mid \mathbf W^\dagger_1, \dots, \mathbf W^\dagger_C\big)$ |
#
# There is a rearranged filter $\mathbf W^\dagger_c$ for each of the $C$ channels of the *input*, and each has $K$ channels. The derivation and the summary have it right; the box with the result ends at $K$. With $C = 3$ and $K = 2$ the third channel of the gradient is missing.

# %%
X3 = draw.integers(-3, 4, (3, 3, 3)).astype(float)  # C = 3 channels of 3×3
W2 = draw.integers(-3, 4, (2, 3, 2, 2)).astype(float)  # K = 2 filters
G2 = draw.integers(-3, 4, (2, 2, 2)).astype(float)
checked = slope(lambda maps: eq.b_multi_channel(maps, W2), X3, G2)
two, three = eq.b_multi_channel_backward_as_printed(G2, W2), eq.b_multi_channel_backward(G2, W2)
assert same(three, checked) and same(two, checked[:2])

told_apart(
    "[B]",
    "Backpropagation through Multi-Channel Convolution",
    printed=two.shape,
    corrected=three.shape,
    check=X3.shape,
)

# %% [markdown]
# ### 23. [B] A slide on upsampling that is headed Downsampling
#
# | printed | corrected |
# | --- | --- |
# | "Backpropagation: Downsampling" | "Backpropagation: Upsampling" |
#
# The slide differentiates $z_1 \dots z_9$ with respect to $x_1 \dots x_4$: four numbers that become nine. Its result, $\partial\hat R/\partial x_1 = \partial\hat R/\partial z_1$, $\partial\hat R/\partial x_2 = \partial\hat R/\partial z_3$ and so on, is that of uSample. dSample makes one number of four, and there is no $z_9$.

# %%
four, nine = np.array([[1, 2], [3, 4]], float), np.arange(1.0, 10.0).reshape(3, 3)
listed = [[nine.flat[0], nine.flat[2]], [nine.flat[6], nine.flat[8]]]  # z₁ z₃ z₇ z₉
assert same(slope(lambda x: eq.b_upsampling(x, 2), four, nine), listed)

told_apart(
    "[B]",
    "the chain rule of upsampling, headed Downsampling",
    printed=eq.b_downsampling(four, 2).shape,
    corrected=eq.b_upsampling(four, 2).shape,
    check=nine.shape,
)

# %% [markdown]
# ### 24. [B] Downsampling: the size is missing
#
# | printed | corrected |
# | --- | --- |
# | $\nabla_{\mathbf X} \hat R = \text{uSample}\big(\nabla_{\mathbf Z} \hat R \mid S\big)$ | $\text{uSample}\big(\nabla_{\mathbf Z} \hat R \mid S\big)$, then zeros up to the size of $\mathbf X$ |
#
# dSample and uSample undo each other's size only if $S$ divides $n - 1$, as in the example of [B], where $n = 3$ and $S = 2$. A map of 4×4 leaves the same four numbers; its last row and column are never read and have the gradient 0. uSample alone cannot know of them. It is [GBC]'s remark on the transpose of a strided convolution, that it must be told the input's size.

# %%
G = np.array([[1, 2], [3, 4]], float)
upsampled = eq.b_downsampling_backward_as_printed(G, 2)

sheet = Sheet(19.6, 12, "Maps of 3×3 and 4×4 leave the same four numbers; uSample fits the first.")
corner = {(2 * i, 2 * j): TINTS[2 * i + j] for i, j in np.ndindex(2, 2)}
for top, n in ((1.4, 3), (6.6, 4)):
    names = np.array([[f"x_{{{n * i + j + 1}}}" for j in range(n)] for i in range(n)])
    sheet.matrix(0.6, top, names, tints=corner, title=f"X, {n}×{n}")
    sheet.text(5.7, top + 1.0, "dSample", 0.27)
    sheet.text(5.7, top + 1.5, "→", 0.6)
    sheet.matrix(6.9, top + 0.5, G, tints={(i // 2, j // 2): c for (i, j), c in corner.items()},
                 title="gradient at Z")  # fmt: skip
    sheet.text(10.1, top + 1.0, "uSample", 0.27)
    sheet.text(10.1, top + 1.5, "→", 0.6)
    sheet.matrix(11.2, top, upsampled, tints=corner, title="as printed")
    corrected = eq.b_downsampling_backward(G, 2, (n, n))
    missing = {(i, j): WRONG for i, j in np.ndindex(n, n) if max(i, j) > 2}
    sheet.matrix(15.2, top, corrected, tints=corner | missing, title=f"gradient, {n}×{n}")
sheet.text(19.2, 11.3, "red: missing from uSample", 0.34, ha="right", color=NAME)
sheet

# %%
for n in (3, 4):
    checked = slope(lambda x: eq.b_downsampling(x, 2), np.zeros((n, n)), G)
    assert same(eq.b_downsampling_backward(G, 2, (n, n)), checked)
    assert same(upsampled, checked) == ((n - 1) % 2 == 0)

told_apart(
    "[B]",
    "Backpropagation through Downsampling",
    printed=upsampled,
    corrected=eq.b_downsampling_backward(G, 2, (4, 4)),
    check=checked,
)

# %% [markdown]
# ## [S] The slides
#
# ### 25. [S] W "flipped": half a flip
#
# | printed | corrected |
# | --- | --- |
# | $\begin{bmatrix} w_3 & w_4\\ w_2 & w_1 \end{bmatrix}$ | $\begin{bmatrix} w_4 & w_3\\ w_2 & w_1 \end{bmatrix}$ |
#
# The upper row is not reversed. The slides check the gradients of $a$ to $d$, the first row, where the upper row of the kernel meets nothing but the border of zeros: all four come out right. From the second row on nothing does. (The first notebook draws every step.)

# %%
drawn = eq.s_flipped_as_drawn(K)
half = eq.s_stride_backward_as_drawn(delta, K, 1)
fields = np.array(TINTS[:4]).reshape(2, 2)
as_drawn = {(0, 0): TINTS[2], (0, 1): TINTS[3], (1, 0): TINTS[1], (1, 1): TINTS[0]}

sheet = Sheet(18, 12.8, "The half-flipped kernel and the flipped one over the padded δ.")
for top, kernel_, tints, result, title in (
    (1.4, drawn, as_drawn, half, "not the gradient"),
    (7.5, eq.s_flipped(K), dict(np.ndenumerate(fields[::-1, ::-1])),
     eq.s_stride_backward(delta, K, 1), "the gradient"),
):  # fmt: skip
    label = "as drawn" if top < 5 else "flipped"
    sheet.matrix(0.8, top + 1.5, kernel_, tints=tints, title=label)
    sheet.text(3.7, top + 2.5, "⊗", 0.6)
    sheet.matrix(4.6, top, padded, tints={(i + 1, j + 1): c for (i, j), c in tints.items()},
                 title="δ, padded")  # fmt: skip
    sheet.frame(5.6, top + 1, 2, 2)
    sheet.text(10.7, top + 2.5, "=", 0.6)
    sheet.matrix(11.7, top + 0.5, result, tints=wrong(result, gradient), title=title)
sheet

# %%
told_apart(
    "[S]",
    "W flipped",
    printed=half,
    corrected=eq.s_stride_backward(delta, K, 1),
    check=slope(lambda x: eq.s_stride(x, K, 1), I, delta),
)
assert same(half[0], gradient[0])  # a to d: the slides' own check cannot tell
assert np.all(half[1:] != gradient[1:])

# %% [markdown]
# ## All of them
#
# Every entry of the library's list has been shown, in its order:

# %%
assert list(shown) == [(e.source, e.where) for e in eq.ERRATA]
for number, entry in enumerate(shown.values(), 1):
    print(f"{number:2} {entry.source} {entry.where}")

# %% [markdown]
# ## Try it
#
# 1. Give the example a symmetric kernel, $K = \begin{bmatrix} 1 & 2\\ 2 & 1 \end{bmatrix}$. Which entries can no longer be told apart? Which others stay?
# 2. Make `LW` of entry 15 have two maps above and two below. Why do 8.39, 8.41 and 8.44 then hold as printed?
# 3. [S] at stride 2: which rows does the half-flipped kernel get right there? Ask `equations.s_stride_backward_as_drawn(delta, w, 2)` with a 2×2 $\delta$.
