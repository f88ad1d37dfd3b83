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
# # The textbook's exercises
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/cnnvjp/cnnvjp/blob/main/notebooks/03_the_textbooks_exercises.ipynb)
#
# Chapter 8 of [H], *Neural Network Design: Deep Learning*, ends with four solved problems and ten exercises. This notebook does all of them: first by hand, then with the functions of this library, with a picture, and with assertions that the two agree. They are ordered by subject:
#
# | section | problem | asks for | answer |
# | --- | --- | --- | --- |
# | 1 | P8.1 | how a convolution's kernel differs from a correlation's | it is turned by half a turn |
# | 2 | P8.2, E8.4 | the kernel that shifts an image right and up | a single 1, right of and above the origin |
# | 3 | E8.5 | the kernel that averages adjacent pixels | two halves beside each other |
# | 4 | E8.6 | what happens if the two operations are confused | another map; turning the kernel undoes it |
# | 5 | E8.1 | what a kernel detects | what looks like it: here a line that falls to the right |
# | 6 | E8.2 | max pooling of that | the line is still seen, less exactly where |
# | 7 | E8.3 | few kernels for a font | four strokes; three templates, if they may be any |
# | 8 | E8.7 | the size of an output, and the padding that keeps it | 8×8, and $P^d = 1$ |
# | 9 | P8.3 | back through average pooling, to the maps | repeat each sensitivity over its window, times the weight |
# | 10 | P8.4 | the same, to the weight | the windows' sums times the sensitivities, summed |
# | 11 | E8.8 | back through max pooling | each sensitivity goes to the largest of its window |
# | 12 | E8.9 | back through a product net input | times the bias; and times the weight function's output, summed |
# | 13 | E8.10 | a network that tells squares from diamonds | designed here, and right on all 792 outlines |
#
# Where an exercise shows an image, a kernel or a font, the one used here is our own. Put the book's in, and the same cells solve it; the assertions that hold our numbers will say so.
#
# The letters are [H]'s. $*$ is convolution and $\otimes$ cross-correlation, with the kernel $\mathbf W$ and the image $\mathbf P$; $\mathbf A$ are the maps below a layer, $\mathbf{LZ}$ what its weight function (a convolution, a pooling) makes of them with its weight $lw$, and $\mathbf N$ its net input. A $d$ in front is the gradient of what is minimized, $F$: $da = \partial F / \partial a$.

# %%
try:
    import cnnvjp
except ModuleNotFoundError:  # as on Colab; --no-deps leaves the JAX that is installed alone
    import subprocess
    import sys

    source = "cnnvjp @ git+https://github.com/cnnvjp/cnnvjp"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", source], check=True)
    import cnnvjp

from itertools import combinations, product

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np

from cnnvjp import equations, models

jax.config.update("jax_enable_x64", True)  # float64, so that the checks can be strict


# %% [markdown]
# `cnnvjp` keeps its channels last: an image is `(rows, columns, channels)`, a kernel `(rows, columns, channels in, channels out)`. Most of the exercises have one map in and one map out. The functions below add and remove the channel axes of size 1.


# %%
def drawn(*rows):
    """An image as the book draws it: a # is a black square, which is 1, and the rest is 0."""
    return np.array([[square == "#" for square in row] for row in rows]).astype(float)


def correlate(W, P, padding=0, stride=1):
    """W ⊗ P, what a convolutional layer computes."""
    y = cnnvjp.conv(P[..., None], W[..., None, None], padding=padding, stride=stride)
    return np.asarray(y[..., 0])


def convolve(W, P, padding=0):
    """W * P, a convolution in the strict sense."""
    y = cnnvjp.conv(P[..., None], W[..., None, None], padding=padding, flip_kernel=True)
    return np.asarray(y[..., 0])


def agree(**results):
    """Asserts that all results have one shape and are equal, up to rounding."""
    first, *others = results.values()
    for other in others:
        assert np.shape(other) == np.shape(first)
        np.testing.assert_allclose(other, first, rtol=1e-12, atol=1e-12)
    print("equal:", ", ".join(results))


def central_differences(function, at):
    """The change of a function as each number of an array goes one up and one down.

    Exact, without any formula for the gradient, where the function is linear in each number.
    """
    steps = jnp.eye(at.size).reshape(-1, *at.shape)
    differences = jax.vmap(lambda e: (function(at + e) - function(at - e)) / 2)(steps)
    return differences.reshape(at.shape)


def errata(where):
    """Prints what does not hold in the book as it is printed."""
    found = [e for e in equations.ERRATA if e.source == "[H]" and e.where.startswith(where)]
    assert found
    for e in found:
        print(f"{e.where}: {e.printed}\n  should be {e.corrected}\n  {e.why}")


# %% [markdown]
# The next cell only draws. Skip it on a first reading.

# %% cellView="form" jupyter={"source_hidden": true}
# @title Drawing
from cnnvjp.plot import FAINT, INK, LINE, NAME, TINTS, Sheet, window

BLUE, RED, MARGIN = "#1f6fb5", "#c8452f", "#eceadf"
NINE, FOUR = np.array(TINTS).reshape(3, 3), np.array(TINTS[:4]).reshape(2, 2)
HEAT = ("#ffffff", "#fbe7c0", "#f7c36b", "#ee8f3c")  # for 0, 1, 2, 3


def heat(values):
    """Tints by a number's size."""
    return {place: HEAT[int(v)] for place, v in np.ndenumerate(values) if v}


def pixels(sheet, left, top, image, title=None, side=1.0):
    """Draws an image: black for 1, white for 0."""
    for (row, column), value in np.ndenumerate(image):
        colour = str(1 - 0.86 * float(value))
        x, y = left + side * column, top + side * row
        sheet.box(x, y, side, side, facecolor=colour, edgecolor=LINE, linewidth=0.7)
    if title:
        sheet.text(left + side * image.shape[1] / 2, top - 0.42, title, 0.32)


def wide(sheet, left, top, values, title=None):
    """Draws a 2×2 matrix with room for long numbers, in the colours of four windows."""
    for (i, j), value in np.ndenumerate(np.asarray(values)):
        x, y = left + 1.6 * j, top + i
        sheet.box(x, y, 1.6, 1, facecolor=FOUR[i, j], edgecolor=LINE, linewidth=0.8)
        sheet.text(x + 0.8, y + 0.5, f"${value:.0f}$")
    if title:
        sheet.text(left + 1.6, top - 0.42, title, 0.34)


def axes(sheet, left, top, across, up, names="ij"):
    """Numbers the columns and rows of a drawing whose origin is at the lower left."""
    for k, label in enumerate(across):
        sheet.text(left + k + 0.5, top + len(up) + 0.35, f"${label}$", 0.3, color=NAME)
    for k, label in enumerate(up[::-1]):
        sheet.text(left - 0.12, top + k + 0.5, f"${label}$", 0.3, color=NAME, ha="right")
    sheet.text(left + len(across) / 2, top + len(up) + 1, f"${names[0]} \\rightarrow$", 0.3)
    sheet.text(left - 0.1, top - 0.35, f"${names[1]} \\uparrow$", 0.3, ha="right")


# %% [markdown]
# # I. What a kernel means
#
# ## 1. P8.1: a convolution turns its kernel
#
# **Problem.** Show how the kernel of a convolution lies on the image, compared with that of a correlation.
#
# **By hand.** The two operations are
#
# $$(\mathbf W * \mathbf P)_{m,n} = \sum_{i,j} p_{i,j}\, w_{m-i,\,n-j} \quad \text{[H] 8.5}, \qquad (\mathbf W \otimes \mathbf P)_{m,n} = \sum_{i,j} w_{i,j}\, p_{m+i,\,n+j} \quad \text{[H] 8.9}.$$
#
# As a picture, $w_{m-i,n-j}$ comes from $w_{i,j}$ in three steps: a minus before $i$ mirrors it left to right, a minus before $j$ top to bottom, and adding $(m, n)$ moves it. The axes are the book's: $i$ to the right and $j$ upward.

# %%
W = np.array([[7, 8, 9], [4, 5, 6], [1, 2, 3]], float)
NUMBERED = {w: colour for w, colour in zip(W.ravel(), NINE.ravel(), strict=True)}


def numbered(sheet, left, top, values, title=None):
    """Draws a matrix in which each of 1 to 9 keeps its colour."""
    tints = {place: NUMBERED[v] for place, v in np.ndenumerate(values) if v in NUMBERED}
    sheet.matrix(left, top, values, None, tints, title)


right, up = np.meshgrid(range(-2, 3), range(2, -3, -1))  # i and j of each place


def w(i, j):
    """The kernel as a function: its lower left entry is w(0, 0), and it is 0 outside."""
    inside = (i >= 0) & (i < 3) & (j >= 0) & (j < 3)
    return np.where(inside, W[np.clip(2 - j, 0, 2), np.clip(i, 0, 2)], 0)


sheet = Sheet(27, 7.9, "The kernel is mirrored left to right, then top to bottom, then moved.")
steps = {
    "$w_{i,j}$": w(right, up),
    "$w_{-i,j}$": w(-right, up),
    "$w_{-i,-j}$": w(-right, -up),
    "$w_{m-i,n-j}$": w(1 - right, 1 - up),
}
for number, (title, values) in enumerate(steps.items()):
    left = 1.2 + 6.6 * number
    numbered(sheet, left, 1.3, values, title)
    first = -2 if number < 3 else -3
    label = (lambda k, of: f"{k}") if number < 3 else (lambda k, of: f"{of}{k:+}" if k else of)
    axes(
        sheet,
        left,
        1.3,
        [label(k, "m") for k in range(first, first + 5)],
        [label(k, "n") for k in range(first, first + 5)],
    )
    [(row, column)] = np.argwhere(values == 1)
    sheet.frame(left + column, 1.3 + row, 1, 1)
    if number:
        sheet.text(left - 1.05, 3.2, "→", 0.5)
sheet

# %% [markdown]
# In the last picture the kernel lies turned by half a turn, with its $w_{0,0} = 1$ (framed) at the pixel $(m, n)$ itself. So **a convolution is a correlation with the kernel flipped both ways**. The direction of the axes does not matter to this; it will matter in section 2.
#
# **In code.** `flip_kernel=True` makes `cnnvjp.conv` a convolution. An image of nine powers of ten shows which entry of the kernel met which pixel: they are the digits of the result.

# %%
flipped = W[::-1, ::-1]
powers = 10.0 ** np.arange(9).reshape(3, 3)  # 1, 10, 100 / …

print(f"W ⊗ P = {correlate(W, powers).item():.0f}   W * P = {convolve(W, powers).item():.0f}")
assert correlate(W, powers) == 321_654_987
assert convolve(W, powers) == 789_456_123
agree(flipped=flipped, of_the_pictures=steps["$w_{-i,-j}$"][2:, :3], h_p8_1=equations.h_p8_1(W))

image = np.array([[3, 1, 4, 1], [5, 9, 2, 6], [5, 3, 5, 8]], float)
agree(
    convolution=convolve(W, image, "FULL"),
    correlation_with_flipped=correlate(flipped, image, "FULL"),
    h_8_5=equations.h_8_5(image, W),
    h_8_6=equations.h_8_6(image, W),  # with the factors exchanged
)
assert not np.array_equal(convolve(W, image, "FULL"), correlate(W, image, "FULL"))

# %% [markdown]
# The same said with an impulse, an image of a single 1: a convolution answers it with the kernel, a correlation with the kernel turned. This is why [H] calls the kernel of a *convolution* an impulse response.

# %%
impulse = drawn("...", ".#.", "...")
sheet = Sheet(
    21.2, 5.2, "An impulse's convolution is the kernel, its correlation the kernel turned."
)
pixels(sheet, 0.6, 1.3, impulse, "impulse P")
numbered(sheet, 5.2, 1.3, W, "kernel W")
numbered(sheet, 11.6, 1.3, convolve(W, impulse, 1), "W * P")
numbered(sheet, 17.2, 1.3, correlate(W, impulse, 1), "W ⊗ P")
sheet.text(9.9, 2.8, "→", 0.6)
sheet

# %%
agree(impulse_response=convolve(W, impulse, 1), kernel=W)
agree(impulse_correlated=correlate(W, impulse, 1), flipped=flipped)

# %% [markdown]
# ## 2. P8.2 and E8.4: shift an image right and up
#
# **Problem.** Moving every pixel one to the right and one up is linear and treats all places alike, so it is a convolution. Find the kernel from the impulse response (P8.2), and try it on a small image (E8.4).
#
# **By hand.** Shift the impulse: the 1 at $(0, 0)$ comes to lie at $(1, 1)$. In the axes of section 1, with $i$ to the right and $j$ upward, the response is
#
# $$w_{1,1} = 1, \quad \text{else } 0, \qquad \text{drawn as a picture:} \quad \mathbf W = \begin{bmatrix} 0 & 1\\ 0 & 0 \end{bmatrix}$$
#
# and [H] 8.8 has one term left, $z_{m,n} = w_{1,1}\, p_{m-1,n-1} = p_{m-1,n-1}$: each pixel takes the value of its neighbour to the left and below.

# %%
before = drawn(".....", ".....", "..#..", ".....", ".....")
after = drawn(".....", "...#.", ".....", ".....", ".....")

sheet = Sheet(20.6, 8, "The impulse is shifted; the kernel is what it becomes.")
for left, picture, title in ((1.4, before, "impulse"), (9.2, after, "impulse response")):
    pixels(sheet, left, 1.3, picture, title)
    axes(sheet, left, 1.3, range(-2, 3), range(-2, 3))
sheet.frame(11.2, 2.3, 2, 2, RED)
sheet.text(7.5, 3.8, "→", 0.6)
sheet.text(15.4, 3.8, "→", 0.6)
sheet.matrix(16.8, 2.3, [[0, 1], [0, 0]], None, {(0, 1): HEAT[2]}, "W")
sheet.frame(16.8, 2.3, 2, 2, RED)
axes(sheet, 16.8, 2.3, range(2), range(2))
sheet

# %% [markdown]
# **In code.** The rows of an array count *downward*. So the origin, which is the lower left entry of $\mathbf W$, must be put there by the padding: one row of zeros below the image, and one column to its left. This also keeps the size. Seen as a correlation, the kernel is turned: the 1 is lower left, where the value comes from.

# %%
P = drawn(".....", ".....", "..#..", ".##..", ".....")
shift = np.array([[0, 1], [0, 0]], float)
right_and_up = ((0, 1), (1, 0))  # (above, below), (left, right)
Z = convolve(shift, P, right_and_up)

sheet = Sheet(25.6, 8.6, "The image, padded below and to the left, and shifted right and up.")
pixels(sheet, 0.6, 1.3, P, "P")
sheet.text(6.5, 3.8, "→", 0.6)
padded = np.asarray(cnnvjp.pad(P[..., None], right_and_up)[..., 0])
pixels(sheet, 7.5, 1.3, padded, "P with zeros below and left")
for row, column in [(k, 0) for k in range(6)] + [(5, k) for k in range(1, 6)]:
    sheet.box(7.5 + column, 1.3 + row, 1, 1, facecolor=MARGIN, edgecolor=LINE, linewidth=0.7)
sheet.text(14.5, 3.8, "⊗", 0.6)
sheet.matrix(15.5, 2.8, shift[::-1, ::-1], None, {(1, 0): HEAT[2]}, "W, turned")
sheet.text(18.5, 3.8, "=", 0.6)
pixels(sheet, 19.6, 1.3, Z, "P, shifted")
sheet.frame(7.5 + 3, 1.3 + 1, 2, 2, RED)
sheet.axes.plot(7.5 + 3.5, 1.3 + 2.5, "o", color="white", markersize=5)
sheet.frame(19.6 + 3, 1.3 + 1, 1, 1, RED)
sheet.text(12.8, 7.9, "each output takes the pixel to the left of it and below (dot)", 0.32)
sheet

# %%
assert np.array_equal(Z, drawn(".....", "...#.", "..##.", ".....", "....."))
agree(
    convolution=Z,
    correlation=correlate(shift[::-1, ::-1], P, right_and_up),
    h_p8_2=equations.h_p8_2(P),
    moved=np.pad(P, right_and_up)[1:, :-1],
)

# %% [markdown]
# **Two errata.** The book's solution says "left" where the problem says right. And its $\mathbf W$ is a picture: put as a *matrix* into [H] 8.8 with rows that count down, the 1 is in the upper row, which is row 0, and nothing moves up.

# %%
worded = equations.h_p8_2_as_worded(P)
printed = convolve(shift, P, ((1, 0), (1, 0)))  # 8.8: the zeros are above and to the left

sheet = Sheet(25.6, 7.4, "The shift asked for, and what the words and the matrix do instead.")
panels = ((P, "P"), (Z, "right and up"), (worded, "the words: left and up"))
for number, (picture, title) in enumerate((*panels, (printed, "the matrix: right only"))):
    pixels(sheet, 0.6 + 6.5 * number, 1.3, picture, title)
    if number > 1:
        sheet.frame(0.6 + 6.5 * number, 1.3, 5, 5, RED)
sheet

# %%
errata("P8.2")
agree(printed=printed, as_printed=equations.h_p8_2_as_printed(P), right_only=np.roll(P, 1, 1))
assert not np.array_equal(worded, Z) and not np.array_equal(printed, Z)

# %% [markdown]
# ## 3. E8.5: average adjacent pixels
#
# **Problem.** An output pixel is the average of adjacent input pixels. i) Which convolution kernel does that? ii) Try it on the image of E8.1. iii) Which correlation kernel does the same?
#
# Which pixels are adjacent is left to us. We take a pixel and its neighbour to the *left*, so that the kernel is not symmetric and iii) has something to ask.
#
# **By hand.** i) As in P8.2, look at what becomes of an impulse. It is seen, by half, at its own place and at the one to its *right*, as that is the place whose left neighbour it is:
#
# $$z_{m,n} = \tfrac12\left(p_{m,n} + p_{m,n-1}\right), \qquad \mathbf W = \begin{bmatrix} 0&0&0\\ 0&\tfrac12&\tfrac12\\ 0&0&0 \end{bmatrix}$$
#
# with the origin in the middle. iii) By P8.1, flip it both ways: $\tfrac12\ \tfrac12\ 0$ in the middle row. A correlation kernel shows where a value comes *from*, a convolution kernel where it goes *to*.
#
# The image of E8.1 (ours) has four lines: one falls to the right, one rises, one is upright and one horizontal.

# %%
IMAGE = drawn(
    "........",
    ".#....#.",
    "..#...#.",
    "...#..#.",
    "........",
    "...#....",
    "..#..###",
    ".#......",
)
response = np.array([[0, 0, 0], [0, 1, 1], [0, 0, 0]]) / 2
from_left = np.array([[0, 0, 0], [1, 1, 0], [0, 0, 0]]) / 2
average = convolve(response, IMAGE, 1)

HALVES = np.array([["0", r"\frac{1}{2}"]])
sheet = Sheet(25.4, 10.9, "The impulse response, the two kernels, and the averaged image.")
pixels(sheet, 0.6, 2, IMAGE, "P")
sheet.text(10.7, 3, "∗", 0.6)
sheet.matrix(12, 1.5, HALVES[0, (2 * response).astype(int)], None, heat(2 * response), "W")
sheet.text(10.7, 8.5, "⊗", 0.6)
sheet.matrix(12, 7, HALVES[0, (2 * from_left).astype(int)], None, heat(2 * from_left), "W, turned")
sheet.text(15.9, 3, "=", 0.6)
sheet.text(15.9, 8.5, "=", 0.6)
pixels(sheet, 16.8, 2, average, "P, averaged")
sheet

# %%
by_hand = IMAGE.copy()
by_hand[:, 1:] += IMAGE[:, :-1]
by_hand /= 2
agree(impulse_response=convolve(response, impulse, 1), kernel=response)
agree(convolution=average, correlation=correlate(from_left, IMAGE, 1), by_hand=by_hand)
assert sorted(set(average.ravel().tolist())) == [0, 0.5, 1]
assert np.argwhere(average == 1).tolist() == [[6, 6], [6, 7]]  # two pixels that are both black

cross = drawn(".#.", "#.#", ".#.") / 4  # all four neighbours: nothing to flip
agree(symmetric=convolve(cross, IMAGE, 1), correlation=correlate(cross, IMAGE, 1))

# %% [markdown]
# Only the horizontal line is black anywhere after the averaging: of the other lines no two pixels are side by side.
#
# ## 4. E8.6: convolution and correlation compared
#
# **Problem.** With one kernel on the image of E8.1, at stride 1 and without padding: i) convolve, ii) correlate, iii) find the correlation kernel that gives what i) gave, iv) check it.
#
# **By hand.** The image is 8×8 and the kernel 3×3, so the maps are 6×6 ([H] 8.14). i) and iii) are P8.1: turn the kernel,
#
# $$\mathbf W = \begin{bmatrix} 1&1&0\\ 0&1&0\\ 0&0&0 \end{bmatrix}, \qquad \mathbf W' = \begin{bmatrix} 0&0&0\\ 0&1&0\\ 0&1&1 \end{bmatrix}, \qquad \mathbf W * \mathbf P = \mathbf W' \otimes \mathbf P.$$
#
# Take the window in the upper left corner (framed): its black pixels are the middle and the lower right one, of which $\mathbf W'$ has both and $\mathbf W$ only the middle: 2 by convolution, 1 by correlation.

# %%
HOOK = drawn("##.", ".#.", "...")
TURNED = HOOK[::-1, ::-1]
convolved, correlated = convolve(HOOK, IMAGE), correlate(HOOK, IMAGE)
differ = convolved != correlated

sheet = Sheet(
    22.4, 18.7, "The convolution, the correlation, and the correlation with the kernel turned."
)
pixels(sheet, 0.6, 1.3, IMAGE, "P")
sheet.frame(0.6, 1.3, 3, 3, RED)
sheet.matrix(11.2, 3.8, HOOK, None, heat(2 * HOOK), "W")
sheet.matrix(16.2, 3.8, TURNED, None, heat(2 * TURNED), "W′, turned")
panels = (
    (convolved, "i)  W * P"),
    (correlated, "ii)  W ⊗ P"),
    (correlate(TURNED, IMAGE), "iv)  W′ ⊗ P"),
)
for number, (values, title) in enumerate(panels):
    left = 0.6 + 7.5 * number
    sheet.matrix(left, 11.3, values, None, heat(values), title)
    sheet.frame(left, 11.3, 1, 1, RED)
sheet.text(7.35, 14.3, "≠", 0.6)
sheet.text(14.85, 14.3, "≠", 0.6)
sheet.text(
    11.2, 18.1, f"i) and ii) differ at {differ.sum()} of 36 places, i) and iv) nowhere", 0.34
)
sheet

# %%
assert convolved.shape == equations.h_8_14_15(IMAGE.shape, HOOK.shape) == (6, 6)
assert (convolved[0, 0], correlated[0, 0]) == (2, 1)
assert differ.sum() == 21
agree(
    convolution=convolved,
    correlation_turned=correlate(TURNED, IMAGE),
    h_8_8_within=equations.h_8_8(IMAGE, HOOK)[2:8, 2:8],  # where the kernel lies on the image
)
agree(correlation=correlated, h_8_13=equations.h_8_13(HOOK, IMAGE))

# %% [markdown]
# # II. Kernels that detect
#
# ## 5. E8.1: a kernel detects what looks like it
#
# **Problem.** Slide a 3×3 kernel over an 8×8 image, at stride 1 and with one row of zeros around it (as a correlation, as from here on). What does the kernel detect?
#
# **By hand.** With the zeros the output is 8×8 again: $8 + 2 \cdot 1 - 3 + 1 = 8$ ([H] 8.16). Ours is a line of three pixels that falls to the right, $w_{1,1} = w_{2,2} = w_{3,3} = 1$, so that
#
# $$z_{m,n} = p_{m-1,n-1} + p_{m,n} + p_{m+1,n+1},$$
#
# how many of a pixel and its two neighbours on that diagonal are black. Three of three: the middle of a line that falls to the right.

# %%
FALLING = drawn("#..", ".#.", "..#")
seen = correlate(FALLING, IMAGE, 1)

sheet = Sheet(25.6, 10.4, "The image, the kernel, and how well each place matches it.")
pixels(sheet, 0.6, 1.3, IMAGE, "P")
sheet.frame(0.6 + 1, 1.3 + 1, 3, 3, RED)
sheet.frame(0.6 + 1, 1.3 + 5, 3, 3, BLUE)
sheet.text(9.9, 5.3, "⊗", 0.6)
sheet.matrix(11.1, 3.8, FALLING, None, heat(2 * FALLING), "W")
sheet.text(15.4, 5.3, "=", 0.6)
sheet.matrix(16.6, 1.3, seen, None, heat(seen), "Z")
sheet.frame(16.6 + 2, 1.3 + 2, 1, 1, RED)
sheet.frame(16.6 + 2, 1.3 + 6, 1, 1, BLUE)
sheet

# %%
by_hand = np.zeros((8, 8))
around = np.pad(IMAGE, 1)
for m, n in np.ndindex(8, 8):
    by_hand[m, n] = around[m, n] + around[m + 1, n + 1] + around[m + 2, n + 2]
agree(conv=seen, by_hand=by_hand, h_8_13=equations.h_8_13(FALLING, around))

assert np.argwhere(seen == 3).tolist() == [[2, 2]]  # the middle of the falling line
assert np.argwhere(seen == 2).tolist() == [[1, 1], [3, 3]]  # its ends
assert seen[6, 2] == 1  # the middle of the rising line

# %% [markdown]
# **It detects lines that fall to the right.** The rising, the horizontal and the upright line never have more than one pixel under the kernel and give no more than 1 each. With a bias of $-2$ and a relu, as in section 13, a single pixel would be left.
#
# ## 6. E8.2: max pooling of that
#
# **Problem.** Max pooling, 2×2 at stride 2, of the answer to E8.1.
#
# **By hand.** The map falls into sixteen windows; each gives its largest entry:
#
# $$z_{i,j} = \max_{k,l \in \{1,2\}} v_{2(i-1)+k,\,2(j-1)+l} \qquad \text{[H] 8.24}$$


# %%
def max_pool(A, size):
    """⊞max: cnnvjp.max_pool of one map."""
    return cnnvjp.max_pool(jnp.asarray(A)[..., None], size)[..., 0]


pooled = np.asarray(max_pool(seen, 2))

sheet = Sheet(17, 10.4, "Sixteen windows of four, and the largest of each.")
sheet.matrix(0.6, 1.3, seen, None, heat(seen), "Z")
for row, column in np.ndindex(4, 4):
    sheet.frame(0.6 + 2 * column, 1.3 + 2 * row, 2, 2, linewidth=1.6)
sheet.text(10.2, 5.3, "→", 0.6)
sheet.matrix(11.8, 3.3, pooled, None, heat(pooled), "max pooling")
sheet.frame(0.6 + 2, 1.3 + 2, 2, 2, RED)
sheet.frame(11.8 + 1, 3.3 + 1, 1, 1, RED)
sheet

# %%
assert pooled.tolist() == [[2, 0, 1, 1], [0, 3, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]]
agree(
    max_pool=pooled,
    blocks=seen.reshape(4, 2, 4, 2).max((1, 3)),
    h_8_24=equations.h_8_24(seen, 2, 2),
)

# %% [markdown]
# The 3 is still there, and there is still only one: a falling line somewhere in rows 3 and 4, columns 3 and 4. Where exactly is forgotten, and that is the purpose. Moved by one pixel to the right and down, the line's middle stays in the same window:

# %%
moved = np.pad(IMAGE, ((1, 0), (1, 0)))[:8, :8]
assert not np.array_equal(correlate(FALLING, moved, 1) == 3, seen == 3)
agree(before=pooled == 3, after=max_pool(correlate(FALLING, moved, 1), 2) == 3)

# %% [markdown]
# ## 7. E8.3: few kernels for a font
#
# **Problem.** Design a minimal set of kernels that helps to identify the letters of a font. Ours has letters of 7×5 pixels.
#
# **By hand.** Letters are made of strokes. Take the templates of [H] figure 8.5: a horizontal, an upright and a slanted line of three pixels. An inner product with a template of $n$ pixels is $n$ only where all of them are black. So a bias of $1 - n$ and a relu leave a 1 there and 0 elsewhere, and a sum over the map counts how often the stroke is found:
#
# $$\text{count} = \sum_{i,j} \mathrm{relu}\big((\mathbf W \otimes \mathbf P)_{i,j} + 1 - n\big).$$
#
# The three lines leave some letters alike that have the same strokes in other places, such as L and T. A fourth template, the round shoulder of an O, sees how strokes meet.

# %%
FONT = """
    .###. ####. .###. ####. ##### ##### .###. #...# .###. ..### #...# #.... #...#
    #...# #...# #...# #...# #.... #.... #...# #...# ..#.. ...#. #..#. #.... ##.##
    #...# #...# #.... #...# #.... #.... #.... #...# ..#.. ...#. #.#.. #.... #.#.#
    ##### ####. #.... #...# ####. ####. #.### ##### ..#.. ...#. ##... #.... #.#.#
    #...# #...# #.... #...# #.... #.... #...# #...# ..#.. ...#. #.#.. #.... #...#
    #...# #...# #...# #...# #.... #.... #...# #...# ..#.. #..#. #..#. #.... #...#
    #...# ####. .###. ####. ##### #.... .###. #...# .###. .##.. #...# ##### #...#

    #...# .###. ####. .###. ####. .#### ##### #...# #...# #...# #...# #...# #####
    #...# #...# #...# #...# #...# #.... ..#.. #...# #...# #...# #...# #...# ....#
    ##..# #...# #...# #...# #...# #.... ..#.. #...# #...# #...# .#.#. .#.#. ...#.
    #.#.# #...# ####. #...# ####. .###. ..#.. #...# #...# #.#.# ..#.. ..#.. ..#..
    #..## #...# #.... #.#.# #.#.. ....# ..#.. #...# #...# #.#.# .#.#. ..#.. .#...
    #...# #...# #.... #..#. #..#. ....# ..#.. #...# .#.#. ##.## #...# ..#.. #....
    #...# .###. #.... .##.# #...# ####. ..#.. .###. ..#.. #...# #...# ..#.. #####
"""
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def font():
    """The letters as images, (26, 7, 5, 1)."""
    letters = []
    for half in FONT.split("\n\n"):
        rows = [line.split() for line in half.splitlines() if line.strip()]
        letters += [drawn(*letter) for letter in zip(*rows, strict=True)]
    return np.stack(letters)[..., None]


def find(letters, templates):
    """Where each template is found, (26, rows, columns, templates): 1 or 0."""
    w = np.stack(templates, axis=-1)[:, :, None]
    n = w.sum((0, 1, 2))
    return cnnvjp.relu(cnnvjp.conv(letters, w, jnp.asarray(1 - n), padding=1))


def count(letters, templates):
    """How often, (26, templates): what is found, summed over the map."""
    found = find(letters, templates)
    return np.asarray(cnnvjp.sum_pool(found, found.shape[1:3])[:, 0, 0].astype(int))


STROKES = {
    "horizontal": drawn("...", "###", "..."),
    "upright": drawn(".#.", ".#.", ".#."),
    "falling": drawn("#..", ".#.", "..#"),
    "shoulder": drawn(".##", "#..", "#.."),
}
letters = font()
strokes = list(STROKES.values())
found, counts = np.asarray(find(letters, strokes)), count(letters, strokes)

# %% cellView="form" jupyter={"source_hidden": true}
# @title The picture
INKS = (BLUE, RED, "#2f8f4e", "#8a3fb0")
sheet = Sheet(
    33.4, 21.2, "The letters with the strokes found in them, and their four counts.", cell=0.28
)
for number, (name, stroke) in enumerate(STROKES.items()):
    left = 2.2 + 7.6 * number
    for (row, column), on in np.ndenumerate(stroke):
        colour = INKS[number] if on else "white"
        sheet.box(left + column, 0.8 + row, 1, 1, facecolor=colour, edgecolor=LINE)
    sheet.text(left + 1.5, 4.4, name, 0.5, color=INKS[number])
LINES = (
    ((-1, 0), (1, 0)),
    ((0, -1), (0, 1)),
    ((-1, -1), (1, 1)),
    ((1, -1), (0, -1), (-1, 0), (-1, 1)),
)
for number in range(26):
    row, column = divmod(number, 13)
    left, top = 0.75 + 2.48 * column, 6.4 + 8.2 * row
    side = 0.4
    pixels(sheet, left, top, letters[number, ..., 0] * 0.25, side=side)
    for i, j, k in np.argwhere(found[number]):
        x = [left + side * (j + 0.5 + 0.8 * dx) for dx, _ in LINES[k]]
        y = [top + side * (i + 0.5 + 0.8 * dy) for _, dy in LINES[k]]
        sheet.axes.plot(x, y, color=INKS[k], linewidth=2.2, zorder=4, solid_capstyle="round")
    sheet.text(left + 1, top - 0.55, LETTERS[number], 0.5)
    for k in range(4):
        y = top + 3.4 + 0.75 * k
        sheet.text(
            left + 1, y, f"{counts[number, k]}", 0.48, color=INKS[k] if counts[number, k] else FAINT
        )
sheet

# %%
table = dict(zip(LETTERS, counts.tolist(), strict=True))
assert table["O"] == [2, 6, 0, 1]  # above and below; three places on each side; one shoulder
assert table["X"] == [0, 0, 3, 0]  # three places of its falling line
assert len(set(map(tuple, counts))) == 26  # no two letters alike

elsewhere = np.pad(letters, ((0, 0), (2, 1), (3, 2), (0, 0)))
agree(here=counts, elsewhere=count(elsewhere, strokes))  # where a letter stands does not matter

# %% [markdown]
# No two letters have the same four counts. And none of the four strokes can be left out:


# %%
def alike(counts):
    """The letters that no count tells apart."""
    groups = {}
    for letter, row in zip(LETTERS, counts.tolist(), strict=True):
        groups.setdefault(tuple(row), []).append(letter)
    return ["".join(group) for group in groups.values() if len(group) > 1]


for k, name in enumerate(STROKES):
    print(
        f"without the {name + ':':12}", " ".join(alike(np.delete(counts, k, axis=1))), "look alike"
    )
    assert alike(np.delete(counts, k, axis=1))
assert alike(counts) == []
assert alike(counts[:, :3]) == ["AD", "LT", "MW"]

# %% [markdown]
# Is four the least? The set is minimal in the sense that each of its strokes is needed. Whether another set is smaller, only a search can say. There are $2^9 - 1 = 511$ templates of black pixels in 3×3. One convolution with 511 output channels counts them all, with a margin around the letters so that no place is missed. Many give the same counts as another, such as a template and the same one moved, and 122 are left. All pairs and all triples of those can be tried.

# %%
templates = [np.reshape(bits, (3, 3)) for bits in product((0.0, 1.0), repeat=9)][1:]
every = count(np.pad(letters, ((0, 0), (3, 3), (3, 3), (0, 0))), templates)
_, first = np.unique(every, axis=1, return_index=True)
tried = sorted(first.tolist())


def tell_apart(sets):
    """The sets of templates whose counts differ for any two letters."""
    sets = np.array(list(sets))
    code = every[:, sets] @ 40 ** np.arange(sets.shape[1])  # the counts are below 40: one number
    distinct = (np.diff(np.sort(code, axis=0), axis=0) != 0).all(axis=0)
    return sets[distinct]


assert every.max() < 40
pairs, triples = tell_apart(combinations(tried, 2)), tell_apart(combinations(tried, 3))
print(
    f"{len(templates)} templates, {len(tried)} different: {len(pairs)} pairs, {len(triples)} triples"
)
assert (len(templates), len(tried), len(pairs), len(triples)) == (511, 122, 0, 9)

# %% [markdown]
# **No two templates tell all letters apart by counting, and three do**, in nine ways. So three is the least for this font, if the templates may be any. Here is one of the nine that still looks like strokes: a horizontal line, an upright one of two pixels, and a bend.

# %%
three = [drawn("...", "###", "..."), drawn("...", ".#.", ".#."), drawn("...", "##.", "..#")]
assert alike(count(letters, three)) == []
agree(here=count(letters, three), elsewhere=count(elsewhere, three))

sheet = Sheet(15.4, 5.2, "Three templates that are enough.")
for number, (template, name) in enumerate(
    zip(three, ("horizontal", "upright", "bend"), strict=True)
):
    pixels(sheet, 0.9 + 5.2 * number, 1.3, template, name)
sheet

# %% [markdown]
# # III. Sizes
#
# ## 8. E8.7: the size of an output
#
# **Problem.** An image of 15×15 meets a 3×3 kernel. i) How large is the output at stride 2 with one row of zeros around the image? ii) At stride 1, which padding keeps the size?
#
# **By hand.**
#
# $$S_r = \frac{R_r + 2P^d - r}{S^t} + 1 \qquad \text{[H] 8.18}$$
#
# i) $(15 + 2 - 3)/2 + 1 = 8$, so 8×8. ii) $15 + 2P^d - 3 + 1 = 15$ gives $P^d = 1$: in general $(r - 1)/2$, if $r$ is odd. A dot is a place of the kernel's middle; framed are its first two windows and its last:

# %%
sheet = Sheet(38.4, 20.6, "The places of the kernel's middle, at stride 2 and at stride 1.")
for number, step in enumerate((2, 1)):
    left, top = 0.8 + 19.6 * number, 1.6
    sheet.box(left, top, 17, 17, facecolor=MARGIN, edgecolor=LINE)
    sheet.box(left + 1, top + 1, 15, 15, facecolor="white", edgecolor=LINE)
    for k in range(1, 17):
        sheet.axes.plot([left + k] * 2, [top, top + 17], color=LINE, linewidth=0.5)
        sheet.axes.plot([left, left + 17], [top + k] * 2, color=LINE, linewidth=0.5)
    places = [1.5 + step * k for k in range(14 // step + 1)]
    for y, x in product(places, places):
        sheet.axes.plot(left + x, top + y, "o", color=INK, markersize=4)
    end = places[-1] - 1.5
    for y, x, colour in ((0, 0, RED), (0, step, BLUE), (end, end, RED)):
        sheet.frame(left + x, top + y, 3, 3, colour)
    size = len(places)
    sheet.text(left + 8.5, 0.9, f"{'i' * (number + 1)})  stride {step}: {size}×{size}", 0.62)
    sheet.text(left + 8.5, top + 17.8, "15×15, and one row of zeros on each side", 0.52, color=NAME)
sheet


# %%
def output_size(rows, kernel, padding, stride):
    """The library's output size; nothing is computed."""
    image = jax.ShapeDtypeStruct((rows, rows), "float64")
    W = jax.ShapeDtypeStruct((kernel, kernel), "float64")

    def conv(W, P):
        return cnnvjp.conv(P[..., None], W[..., None, None], padding=padding, stride=stride)

    return jax.eval_shape(conv, W, image).shape[:2]


assert output_size(15, 3, padding=1, stride=2) == (8, 8)
assert equations.h_8_18_19((15, 15), (3, 3), 1, 2) == (8, 8)
assert [Pd for Pd in range(7) if output_size(15, 3, Pd, 1) == (15, 15)] == [1]
for r in (1, 3, 5, 7):
    assert output_size(15, r, padding=(r - 1) // 2, stride=1) == (15, 15)

# %% [markdown]
# Here 14 is even and the division exact. An image of 16×16 would have 15/2: the lowest row of zeros is never reached, the quotient is rounded down, and the output is 8×8 as well. [H] 8.18 and 8.19 leave that out.

# %%
errata("8.18 and 8.19")
assert output_size(16, 3, padding=1, stride=2) == (8, 8)

# %% [markdown]
# # IV. Backwards
#
# ## 9. P8.3: average pooling, back to the maps
#
# **Problem.** Average pooling in [H] is a sum over each window, times one trained weight per map. Find its path backward to the maps, $d\mathbf{LZ} \rightarrow d\mathbf A$.
#
# **By hand.** For windows of $r \times c$ side by side,
#
# $$lz^h_{i,j} = \Big\{ \sum_{u=1}^{r} \sum_{v=1}^{c} a^h_{r(i-1)+u,\,c(j-1)+v} \Big\}\, lw^h \qquad \text{[H] 8.22}$$
#
# Each $a$ is in one window only, so that the chain rule has a single term, and the derivative of a sum by one of its terms is 1:
#
# $$\frac{\partial\, lz^h_{i,j}}{\partial a^h_{u',v'}} = lw^h \text{ within the window, so} \quad da^h_{u',v'} = lw^h\, dlz^h_{i,j}, \quad\text{in short}\quad d\mathbf A^h = lw^h \boxtimes_{r,c} d\mathbf{LZ}^h,$$
#
# where $\boxtimes$ repeats each entry over $r$ rows and $c$ columns.

# %%
A = jnp.asarray(np.arange(24.0).reshape(2, 2, 6) % 7)  # two maps, 2×6
lw = jnp.array([3.0, 5.0])
dlz = jnp.array([[[1.0, 10.0]], [[2.0, 20.0]]])
size = (2, 3)


def last(maps):
    """Maps as [H] orders them, (H, rows, columns), with channels last."""
    return jnp.moveaxis(jnp.asarray(maps), 0, -1)


def weighted(A, lw, size):
    """lw ⊞ A for maps (H, rows, columns): cnnvjp.weighted_avg_pool."""
    return jnp.moveaxis(cnnvjp.weighted_avg_pool(last(A), lw, size), -1, 0)


LZ, backward = jax.vjp(lambda A: weighted(A, lw, size), A)
(da,) = backward(dlz)


def entries(values):
    """Numbers as text, in full."""
    return np.array([[f"{v:.0f}" for v in row] for row in np.asarray(values)])


sheet = Sheet(19.4, 8.2, "Each sensitivity is repeated over its window, times the weight.")
for h, top in ((0, 1.3), (1, 5)):
    colours = TINTS[2 * h : 2 * h + 2]
    blocks = {}
    for j in range(2):
        blocks |= window(0, 3 * j, np.full((2, 3), colours[j]))
    sheet.text(1.1, top + 1, f"$h = {h + 1}$", 0.36, color=NAME)
    sheet.text(3.9, top + 1, f"$lw^{h + 1} = {lw[h]:g}$", 0.4)
    sheet.text(6.6, top + 1, "⊠", 0.6)
    title = rf"$d\mathbf{{LZ}}^{h + 1}$"
    sheet.matrix(
        7.8, top + 0.5, entries(dlz[h]), None, {(0, j): colours[j] for j in range(2)}, title
    )
    sheet.text(11.2, top + 1, "=", 0.6)
    sheet.matrix(12.6, top, entries(da[h]), None, blocks, rf"$d\mathbf{{A}}^{h + 1}$")
    for j in range(2):
        sheet.frame(12.6 + 3 * j, top, 3, 2)
sheet

# %%
repeated = cnnvjp.scale(cnnvjp.repeat(last(dlz), size), lw)
agree(
    vjp=da,
    repeat=jnp.moveaxis(repeated, -1, 0),
    kronecker=np.stack([lw * np.kron(d, np.ones(size)) for lw, d in zip(lw, dlz, strict=True)]),
    h_p8_3=equations.h_p8_3(dlz, lw, *size),
    differences=central_differences(lambda A: jnp.vdot(dlz, weighted(A, lw, size)), A),
)

# %% [markdown]
# The book calls $\boxtimes$ the reverse of $\boxplus$. It is its *transpose*, $\langle \boxplus \mathbf A, \mathbf D\rangle = \langle \mathbf A, \boxtimes \mathbf D\rangle$, and no inverse: repeated and summed, each number comes back $r \cdot c$ times as large.
#
# **Erratum.** The book's derivative has $a^l$ under it, for any map $l$. It must be $a^h$: pooling takes each map by itself. As printed, every map would hear of all sensitivities.

# %%
errata("P8.3")
as_printed = equations.h_p8_3_as_printed(dlz, lw, *size)
assert np.all(as_printed != np.asarray(da))

down = cnnvjp.sum_pool(last(A), size)
agree(
    transpose=jnp.vdot(down, last(dlz)),
    other_side=jnp.vdot(last(A), cnnvjp.repeat(last(dlz), size)),
)
agree(back_and_forth=cnnvjp.sum_pool(cnnvjp.repeat(last(dlz), size), size), rc=6 * last(dlz))

# %% [markdown]
# ## 10. P8.4: average pooling, to its weight
#
# **Problem.** The other path of the same layer, $d\mathbf{LZ} \rightarrow dlw$.
#
# **By hand.** The weight stands in every $lz_{i,j}$ of its map, before the sum of that window. So the chain rule adds up all places, and each contributes its window's sum:
#
# $$dlw^h = \sum_{i,j} dlz^h_{i,j} \Big\{ \sum_{u,v} a^h_{r(i-1)+u,\,c(j-1)+v} \Big\}, \quad\text{in short}\quad dlw = \boxplus\big(d\mathbf{LZ} \circ (\boxplus\, \mathbf A)\big).$$
#
# The example: $dlw = 14 \cdot 1 + 22 \cdot 10 + 46 \cdot 100 + 54 \cdot 1000 = 58834$.

# %%
A = jnp.arange(1.0, 17).reshape(4, 4)
dlz = jnp.array([[1.0, 10.0], [100.0, 1000.0]])
sums = np.asarray(cnnvjp.sum_pool(A[..., None], 2)[..., 0])
products = sums * np.asarray(dlz)
_, backward = jax.vjp(lambda lw: weighted(A[None], lw, 2), jnp.array([3.0]))
(dlw,) = backward(dlz[None])

sheet = Sheet(27, 6.6, "The windows' sums, times the sensitivities, summed.")
blocks = {}
for i, j in np.ndindex(2, 2):
    blocks |= window(2 * i, 2 * j, np.full((2, 2), FOUR[i, j]))
sheet.matrix(0.6, 1.3, entries(A), None, blocks, r"$\mathbf{A}$")
for i, j in np.ndindex(2, 2):
    sheet.frame(0.6 + 2 * j, 1.3 + 2 * i, 2, 2)
sheet.text(5.9, 3.3, "⊞", 0.6)
sheet.text(5.9, 4.1, "→", 0.6)
sheet.matrix(7.2, 2.3, entries(sums), None, window(0, 0, FOUR), r"$\boxplus\,\mathbf{A}$")
sheet.text(10.2, 3.3, "∘", 0.6)
wide(sheet, 11.2, 2.3, dlz, r"$d\mathbf{LZ}$")
sheet.text(15.3, 3.3, "=", 0.6)
wide(sheet, 16.2, 2.3, products)
sheet.text(20.4, 3.3, "⊞", 0.6)
sheet.text(20.4, 4.1, "→", 0.6)
sheet.text(23.7, 3.3, f"$dlw = {dlw.item():.0f}$", 0.44)
sheet

# %%
assert sums.tolist() == [[14, 22], [46, 54]]
agree(
    vjp=dlw,
    by_hand=[14 * 1 + 22 * 10 + 46 * 100 + 54 * 1000.0],
    sum_pools=cnnvjp.sum_pool(products[..., None], 2)[0, 0],
    h_p8_4=equations.h_p8_4(dlz[None], A[None], 2, 2),
    differences=central_differences(
        lambda lw: jnp.vdot(dlz, weighted(A[None], lw, 2)[0]), jnp.array([3.0])
    ),
)

# %% [markdown]
# **Erratum.** The short form calls both $\boxplus$ average pooling. They are plain sums: the only average there could be is in the value of the weight.

# %%
errata("P8.4")
averages = equations.h_p8_4_as_printed(dlz[None], A[None], 2, 2)
agree(as_printed=16 * averages, right=dlw)  # 4 too small for each of the two averages

# %% [markdown]
# ## 11. E8.8: max pooling, back to the maps
#
# **Problem.** Find $d\mathbf{LZ} \rightarrow d\mathbf A$ for max pooling.
#
# **By hand.** Again each $a$ is in one window. A small change of the largest entry changes the output by as much; a small change of any other entry changes nothing, as long as it does not catch up:
#
# $$\frac{\partial\, lz^h_{i,j}}{\partial a^h_{u',v'}} = \begin{cases} 1 & a^h_{u',v'} \text{ is the largest of its window}\\ 0 & \text{else} \end{cases} \qquad da^h_{u',v'} = \begin{cases} dlz^h_{i,j} & \text{largest of window } (i,j)\\ 0 & \text{else.} \end{cases}$$
#
# So each sensitivity is passed on whole, to one place. There is no weight, and so no second path.

# %%
A = jnp.array(
    [
        [[1, 9, 5, 2, 0, 4], [3, 4, 8, 7, 6, 1], [2, 6, 0, 5, 3, 8], [7, 1, 4, 9, 2, 6]],
        [[7, 2, 0, 1, 5, 3], [6, 1, 3, 4, 2, 6], [0, 3, 9, 8, 1, 4], [5, 2, 7, 0, 6, 3]],
    ],
    float,
)
dlz = jnp.array([[[2, -1], [3, 4]], [[5, -2], [-3, 6]]], float)


def pool_maps(A, ties="first"):
    """⊞max for maps (H, rows, columns): cnnvjp.max_pool."""
    return jnp.moveaxis(cnnvjp.max_pool(last(A), (2, 3), ties=ties), -1, 0)


LZ, backward = jax.vjp(pool_maps, A)
(da,) = backward(dlz)

sheet = Sheet(24.8, 12.7, "The largest of each window, and where each sensitivity goes.")
for h, top in ((0, 1.4), (1, 7.4)):
    won = np.asarray(A[h]) == np.kron(np.asarray(LZ[h]), np.ones(size))
    tints = {(int(u), int(v)): FOUR[u // 2, v // 3] for u, v in np.argwhere(won)}
    sheet.matrix(0.6, top, A[h], None, tints, rf"$\mathbf{{A}}^{h + 1}$")
    sheet.text(7.5, top + 2, "→", 0.6)
    sheet.matrix(8.6, top + 1, LZ[h], None, window(0, 0, FOUR), rf"$\mathbf{{LZ}}^{h + 1}$")
    sheet.matrix(12.6, top + 1, dlz[h], None, window(0, 0, FOUR), rf"$d\mathbf{{LZ}}^{h + 1}$")
    sheet.matrix(18.2, top, da[h], None, tints, rf"$d\mathbf{{A}}^{h + 1}$")
    for i, j in np.ndindex(2, 2):
        sheet.frame(0.6 + 3 * j, top + 2 * i, 3, 2)
        sheet.frame(18.2 + 3 * j, top + 2 * i, 3, 2)
    sheet.text(16.1, top + 2, "→", 0.6)
sheet

# %%
by_hand = np.zeros_like(A)
for h, i, j in np.ndindex(2, 2, 2):
    inside = np.asarray(A[h, 2 * i : 2 * i + 2, 3 * j : 3 * j + 3])
    u, v = np.unravel_index(inside.argmax(), (2, 3))
    by_hand[h, 2 * i + u, 3 * j + v] = dlz[h, i, j]
agree(
    vjp=da,
    by_hand=by_hand,
    h_e8_8=equations.h_e8_8(dlz, A, 2, 3),
    differences=central_differences(lambda A: jnp.vdot(dlz, pool_maps(A)), A),
)
assert np.count_nonzero(da) == dlz.size and da.sum() == dlz.sum()

# %% [markdown]
# The entries of a window are distinct whole numbers, so that a step of one up or down lets no other entry overtake the largest, and the differences are exact here too.
#
# Where two entries are equally large, the maximum has no derivative: to raise one of them raises it, to lower one of them does not. The library gives the sensitivity to the first, or, with `ties="split"`, equal shares to all.

# %%
tied = jnp.array([[[4.0, 4.0, 1.0], [2.0, 4.0, 3.0]]])
up, down = (pool_maps(tied.at[0, 0, 0].add(step)).item() - 4 for step in (0.5, -0.5))
assert (up, down) == (0.5, 0)  # slope 1 upward and 0 downward

for ties in ("first", "split"):
    _, backward = jax.vjp(lambda A, t=ties: pool_maps(A, t), tied)
    print(f"{ties}:", backward(jnp.full((1, 1, 1), 6.0))[0][0].tolist())

# %% [markdown]
# ## 12. E8.9: a product as net input
#
# **Problem.** A layer's net input is the *product* of a scalar bias and the weight function's output, not their sum. Find both paths across it, $d\mathbf N \rightarrow d\mathbf{LZ}$ and $d\mathbf N \rightarrow db$.
#
# **By hand.** $n_{i,j} = b\, lz_{i,j}$. Each $lz$ is in one $n$, and $b$ in all of them:
#
# $$dlz_{i,j} = dn_{i,j}\, \frac{\partial n_{i,j}}{\partial lz_{i,j}} = b\, dn_{i,j}, \qquad db = \sum_{i,j} dn_{i,j}\, \frac{\partial n_{i,j}}{\partial b} = \sum_{i,j} lz_{i,j}\, dn_{i,j}.$$
#
# For the sum, $n_{i,j} = lz_{i,j} + b$, both derivatives are 1: $d\mathbf{LZ} = d\mathbf N$ and $db = \sum dn_{i,j}$ ([H] 8.35, 8.36).

# %%
LZ, b = jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array(7.0)
dn = jnp.array([[1.0, 10.0], [100.0, 1000.0]])
N, backward = jax.vjp(lambda z, b: cnnvjp.scale(z[..., None], b)[..., 0], LZ, b)
dlz, db = backward(dn)

sheet = Sheet(26.2, 9.2, "Both paths across a product net input.")
wide(sheet, 0.9, 1.6, LZ, r"$\mathbf{LZ}$")
sheet.text(5.7, 2.6, "× $b = 7$  →", 0.42)
wide(sheet, 7.3, 1.6, N, r"$\mathbf{N}$")
wide(sheet, 7.3, 5.8, dn, r"$d\mathbf{N}$")
sheet.text(5.7, 6.8, "← × $b$", 0.42)
wide(sheet, 0.9, 5.8, dlz, r"$d\mathbf{LZ}$")
sheet.text(12.1, 6.8, r"∘ $\mathbf{LZ}$  →", 0.42)
wide(sheet, 13.7, 5.8, LZ * dn)
sheet.text(18.2, 6.8, "⊞  →", 0.5)
sheet.text(22.2, 6.8, f"$db = {db:.0f}$", 0.44)
sheet.arrow((8.9, 3.8), (8.9, 4.9))
sheet.text(11.4, 4.3, "the layers above, $F$", 0.34, color=NAME)
sheet.text(16.6, 2.6, r"forward: $n_{i,j} = b\, lz_{i,j}$", 0.42)
sheet


# %%
def both(z, b):
    return jnp.vdot(dn, z * b)


agree(
    vjp=dlz,
    by_hand=7 * dn,
    h_e8_9=equations.h_e8_9(LZ, 7.0, dn)[0],
    differences=central_differences(lambda z: both(z, b), LZ),
)
agree(
    vjp=db,
    by_hand=1 * 1 + 2 * 10 + 3 * 100 + 4 * 1000.0,
    h_e8_9=equations.h_e8_9(LZ, 7.0, dn)[1],
    differences=central_differences(lambda b: both(LZ, b), b),
)

_, backward = jax.vjp(lambda z, b: cnnvjp.add_bias(z[..., None], b[None])[..., 0], LZ, b)
agree(sum_net_input=backward(dn)[0], dN=dn)
agree(sum_net_input=backward(dn)[1], sum_of_dN=dn.sum())

# %% [markdown]
# # V. A designed network
#
# ## 13. E8.10: squares and diamonds
#
# **Problem.** With the four kernels of [H] figure 8.5 (a horizontal, an upright and two slanted lines), design a network that tells squares from diamonds in images of 15×15: a convolution layer, max pooling, and a fully connected layer with softmax. Specify all weights and biases; nothing is trained.
#
# **By hand.** The sides of a square are straight, those of a diamond slanted. So:
#
# 1. **Matched filters.** Slide the four templates over the image, with padding 1 so that lines on the border count. Each place counts how many of the template's three pixels are black. A straight template finds 3 on a square's sides, and nothing more than 2 on a diamond; a slanted one the other way round.
# 2. **Bias and relu.** With the bias $-2$ and relu, 3 becomes 1, and 2, 1 and 0 become 0: $a = \mathrm{relu}(lz - 2)$. Now two of the four maps are empty.
# 3. **Max pooling**, 3×3: from 15×15 to 5×5. Is there such a line around here?
# 4. **Fully connected.** Count the answers: with $s$ straight and $d$ slanted ones, each weight is $+2$ for its own class and $-2$ for the other, and the biases are 0:
#
# $$n_\text{square} = 2s - 2d, \quad n_\text{diamond} = 2d - 2s, \quad p_\text{square} = \frac{1}{1 + e^{-4(s-d)}}.$$
#
# An outline has four sides, each with at least three pixels in a row, so each gives an answer. The parallel sides of a square of 5 or more are too far apart to share a pooling window, so that $s \ge 4$. Those of a diamond of width 5 can share one, so that $d \ge 2$ is all that is certain. The right class is then ahead by $4 \cdot 2 = 8$, and $p \ge 1/(1 + e^{-8}) > 0.999$.
#
# **In code.** This is `cnnvjp.models.squares_and_diamonds`. Its `init` returns the designed weights, whatever the key.

# %%
model = models.squares_and_diamonds(dtype="float64")
params, state = model.init(None, (15, 15, 1))
templates4 = np.moveaxis(params["conv1"]["w"][:, :, 0], -1, 0)
votes = np.asarray(params["dense3"]["w"]).reshape(5, 5, 4, 2)

assert np.array_equal(params["conv1"]["b"], [-2] * 4) and not params["dense3"]["b"].any()
assert (votes == [[2, -2], [2, -2], [-2, 2], [-2, 2]]).all()  # the same at all 25 places

square = np.zeros((15, 15))
square[2:13, 2:13] = 1
square[3:12, 3:12] = 0
rows, columns = np.indices((15, 15))
diamond = (abs(rows - 7) + abs(columns - 7) == 6).astype(float)

# %% cellView="form" jupyter={"source_hidden": true}
# @title Drawing


def stage_by_stage(image, name):
    """Draws all that happens to an image on its way through the network."""
    values = model.intermediates(params, state, jnp.asarray(image)[..., None])
    logits = np.asarray(values["n3"])
    p = np.asarray(cnnvjp.softmax(logits))
    sheet = Sheet(33.6, 26.6, f"A {name} on its way through the designed network.", cell=0.28)
    sheet.image(0.7, 10.3, 5.4, 5.4, image, limits=(0, 1.16), colours="gray_r")
    sheet.text(3.4, 9.6, name, 0.56)
    for x, title in (
        (9.2, "kernels"),
        (14, "matched filter"),
        (20.6, "− 2, relu"),
        (27.2, "max pool 3×3"),
    ):
        sheet.text(x, 0.9, title, 0.54)
    answers = np.asarray(values["a2"]).sum((0, 1))
    for k in range(4):
        top = 1.8 + 5.8 * k
        middle = top + 2.7
        pixels(sheet, 7.9, middle - 1.35, templates4[k], side=0.9)
        sheet.arrow((6.3, 13), (7.7, middle))
        for x, key, most in ((11.4, "lz1", 3), (18, "a1", 1), (24.6, "a2", 1)):
            sheet.image(x, top, 5.4, 5.4, values[key][..., k], limits=(0, most), colours="YlOrBr")
        sheet.text(11.1, middle, "→", 0.5)
        sheet.text(17.4, middle, "→", 0.5)
        sheet.text(24, middle, "→", 0.5)
        signs = "+−" if k < 2 else "−+"
        sheet.text(30.4, middle - 0.9, f"{answers[k]:.0f} found", 0.5, ha="left")
        for line, (sign, shape) in enumerate(zip(signs, ("square", "diamond"), strict=True)):
            sheet.text(30.4, middle + 0.8 * line, f"{shape} {sign}2", 0.46, ha="left", color=NAME)
    for n, colour in enumerate(matplotlib.colormaps["YlOrBr"]([0.0, 1 / 3, 2 / 3, 1.0])):
        sheet.box(11.6 + 1.3 * n, 25.2, 0.6, 0.6, facecolor=colour, edgecolor=LINE)
        sheet.text(12.45 + 1.3 * n, 25.5, f"{n}", 0.45)
    square_n, diamond_n = (f"{n:.0f}".replace("-", "−") for n in logits)
    for x, shape, net, share in (
        (20.7, "square", square_n, p[0]),
        (28.6, "diamond", diamond_n, p[1]),
    ):
        sheet.text(x, 25.5, f"{shape}: n = {net}, p = {share:.3f}", 0.52)
    return sheet


stage_by_stage(square, "square")

# %%
stage_by_stage(diamond, "diamond")

# %% [markdown]
# The square lights no slanted template wholly: at its corners a slanted line meets two black pixels, and no more. The same network, from the book's equations alone:

# %%
for image, name in ((square, "square"), (diamond, "diamond")):
    values = model.intermediates(params, state, jnp.asarray(image)[..., None])
    lz = equations.h_8_20(templates4[:, None], np.pad(image, 1)[None])
    a2 = np.stack([equations.h_8_24(a, 3, 3) for a in np.maximum(lz - 2, 0)])
    straight, slanted = a2[:2].sum(), a2[2:].sum()
    by_hand = np.array([2 * straight - 2 * slanted, 2 * slanted - 2 * straight])
    print(f"{name}: s = {straight:.0f}, d = {slanted:.0f}; ", end="")
    agree(lz1=values["lz1"], h_8_20=last(lz))
    agree(a2=values["a2"], h_8_24=last(a2))
    agree(n3=values["n3"], by_hand=by_hand)
    p = 1 / (1 + np.exp(-4 * (straight - slanted)))
    agree(softmax=cnnvjp.softmax(values["n3"])[0], by_hand=p)

    straight_first = 1 if name == "square" else -1
    full = (np.asarray(lz) == 3).any((1, 2))
    assert full[::straight_first].tolist() == [True, True, False, False]
    assert lz[~full].max() == 2

# %% [markdown]
# **All of them.** Squares with sides of 5 to 15, diamonds with odd widths of 5 to 15, at every place where they fit: 506 and 286 images.


# %%
def squares():
    """Every outline of a square with a side from 5 to 15 in 15×15."""
    for side in range(5, 16):
        for row, column in product(range(16 - side), repeat=2):
            image = np.zeros((15, 15))
            image[row : row + side, column : column + side] = 1
            image[row + 1 : row + side - 1, column + 1 : column + side - 1] = 0
            yield image


def diamonds():
    """Every outline of a diamond of odd width from 5 to 15 in 15×15."""
    for radius in range(2, 8):
        for row, column in product(range(radius, 15 - radius), repeat=2):
            yield (abs(rows - row) + abs(columns - column) == radius).astype(float)


hardest = []
for label, outlines in enumerate((squares(), diamonds())):
    images = np.stack(list(outlines))
    logits, _ = model.apply(params, state, jnp.asarray(images)[..., None], train=False)
    ahead = np.asarray(logits[:, label] - logits[:, 1 - label])
    p = np.asarray(cnnvjp.softmax(logits)[:, label])
    name = ("squares", "diamonds")[label]
    print(
        f"{len(images)} {name}: {(ahead > 0).sum()} right, ahead by {ahead.min():.0f} to {ahead.max():.0f}"
    )
    assert len(np.unique(images, axis=0)) == len(images) == (506, 286)[label]
    assert ahead.min() == (16, 8)[label] and p.min() > 0.999

    answers = model.intermediates(params, state, jnp.asarray(images)[..., None])["a2"].sum((1, 2))
    own, other = answers[:, 2 * label : 2 * label + 2], answers[:, 2 - 2 * label : 4 - 2 * label]
    assert own.min() > 0 and own.sum(1).min() == (4, 2)[label]  # s ≥ 4, d ≥ 2
    assert not other.any()  # no template of the other kind ever matches
    hardest.append(images[ahead.argmin()])

# %% [markdown]
# **What it does not know.** The design is right on what it was made for; on other images it still answers, and may be wrong. The first two images below are those on which it is least ahead. A filled square has lines of all four directions inside and ties; a filled diamond is taken for a square; a dashed outline has no three pixels in a row, and nothing is found.

# %%
filled_square = np.zeros((15, 15))
filled_square[3:12, 3:12] = 1
filled_diamond = (abs(rows - 7) + abs(columns - 7) <= 5).astype(float)
dashed = square * ((rows + columns) % 2 == 0)
strangers = {
    "hardest square": hardest[0],
    "hardest diamond": hardest[1],
    "filled square": filled_square,
    "filled diamond": filled_diamond,
    "dashed square": dashed,
}
images = np.stack(list(strangers.values()))
logits, _ = model.apply(params, state, jnp.asarray(images)[..., None], train=False)
says = np.asarray(cnnvjp.softmax(logits)[:, 0])

sheet = Sheet(22.4, 6.6, "Five images and the probability that the network gives the square.")
for number, (name, image) in enumerate(strangers.items()):
    left = 0.6 + 4.3 * number
    sheet.image(left, 1.2, 4, 4, image, limits=(0, 1.16), colours="gray_r")
    sheet.text(left + 2, 0.7, name, 0.34)
    sheet.text(left + 2, 5.75, f"p(square) = {says[number]:.4f}", 0.34)
sheet

# %%
assert says[0] > 0.999 and says[1] < 0.001
assert says[2] == says[4] == 0.5  # undecided
assert not model.intermediates(params, state, jnp.asarray(dashed)[..., None])["a2"].any()
assert says[3] > 0.999  # wrong

# %% [markdown]
# ## Try it
#
# 1. **E8.5.** Average each pixel with its neighbour *above* instead. Which entries do the two kernels have? Change `response` and `from_left`; which assertions hold what is particular to the left neighbour?
# 2. **E8.3.** Change the font, for instance the middle bar of the G, and run section 7 again. Are the four strokes still enough? Is there a pair of templates now?
# 3. **E8.8.** Pool with windows that overlap, `stride=1`. An entry can then be the largest of several windows. What becomes of "each $a$ is in one window", and of $da$? `cnnvjp.plot.routes` draws it.
# 4. **E8.10.** Add a fifth template, a full 3×3 square, to find filled shapes, and give it votes that make the filled square and the filled diamond right. Is there a choice of votes that works for both, and for the outlines?
