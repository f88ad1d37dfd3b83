"""[S] Slides *Back propagation through a Convolutional Layer*.

The slides work one example by hand: a 4×4 input a … p, a 2×2 kernel w₁ … w₄, strides 1 and 2.
These functions hold for any sizes at which the last window ends at the border. Arrays are
(rows, cols); windows are counted from 0.
"""

import numpy as np
from numpy.typing import ArrayLike

from cnnvjp.equations._notation import Array, given, over, require, rot180, sizes_within

__all__ = [
    "s_flipped",
    "s_spread",
    "s_stride",
    "s_stride_backward",
]


def s_stride(x: ArrayLike, w: ArrayLike, stride: int) -> Array:
    """Multiply each window of the input with the kernel and add up.

    Stride 1: y₁ = a w₁ + b w₂ + e w₃ + f w₄, y₂ = b w₁ + c w₂ + f w₃ + g w₄, …
    Stride 2: y₁ as above, y₂ = c w₁ + d w₂ + g w₃ + h w₄, …

    Args:
        x: the input, (H, W).
        w: the kernel, (k₁, k₂).
        stride: distance from window to window; must divide H − k₁ and W − k₂.

    Implemented by `cnnvjp.conv`. [S] the slides that list y₁ … y₉ and Y₁ … Y₄.
    """
    x, w = given("x", x, 2), given("w", w, 2)
    (H, W), (k1, k2) = x.shape, w.shape
    rows, cols = sizes_within(x.shape, w.shape, stride)
    require(
        (H - k1) % stride == (W - k2) % stride == 0,
        f"windows of size {w.shape} at stride {stride} do not end at the border of {x.shape}",
    )
    y = np.zeros((rows, cols))
    for i, j in over((0, rows - 1), (0, cols - 1)):
        for m, n in over((0, k1 - 1), (0, k2 - 1)):
            y[i, j] += x[stride * i + m, stride * j + n] * w[m, n]
    return y


def s_flipped(w: ArrayLike) -> Array:
    """The kernel flipped in both directions: [[w₁, w₂], [w₃, w₄]] → [[w₄, w₃], [w₂, w₁]].

    The slides draw another one; see `s_flipped_as_drawn`.

    Args:
        w: the kernel, (k₁, k₂).

    Implemented by `cnnvjp.conv` (``flip_kernel=True``). [S] "W flipped", corrected.
    """
    return rot180(given("w", w, 2))


def s_spread(delta: ArrayLike, stride: int, kernel_size: tuple[int, int]) -> Array:
    """The deltas with stride − 1 zeros between them and k − 1 zeros around them.

    Stride 2 and a 2×2 kernel: [[0, 0, 0, 0, 0], [0, δ₁, 0, δ₂, 0], [0, 0, 0, 0, 0], …]

    Args:
        delta: the deltas, (rows, cols).
        stride: stride of the forward convolution.
        kernel_size: (k₁, k₂).

    Returns:
        (stride·(rows − 1) + 2k₁ − 1, stride·(cols − 1) + 2k₂ − 1).

    Implemented by `cnnvjp.upsample` and `cnnvjp.pad`. [S] the matrices of zeros and deltas.
    """
    delta, (k1, k2) = given("delta", delta, 2), kernel_size
    require(stride >= 1, f"the stride must be at least 1, got {stride}")
    rows, cols = delta.shape
    spread = np.zeros((stride * (rows - 1) + 2 * k1 - 1, stride * (cols - 1) + 2 * k2 - 1))
    for i, j in over((0, rows - 1), (0, cols - 1)):
        spread[k1 - 1 + stride * i, k2 - 1 + stride * j] = delta[i, j]
    return spread


def s_stride_backward(delta: ArrayLike, w: ArrayLike, stride: int) -> Array:
    """Slide the flipped kernel, one step at a time, over the spread deltas.

    Stride 1: a ← w₁ δ₁, b ← w₁ δ₂ + w₂ δ₁, c ← w₁ δ₃ + w₂ δ₂, d ← w₂ δ₃, …
    Stride 2: a ← w₁ δ₁, b ← w₂ δ₁, c ← w₁ δ₂, d ← w₂ δ₂, …

    Args:
        delta: gradient with respect to y, (rows, cols).
        w: the kernel, (k₁, k₂).
        stride: stride of the forward convolution.

    Returns:
        Gradient with respect to x, (stride·(rows − 1) + k₁, stride·(cols − 1) + k₂).

    Implemented by `cnnvjp.conv_transpose`. [S] the slides with "W flipped".
    """
    w = given("w", w, 2)
    return s_stride(s_spread(delta, stride, w.shape), s_flipped(w), 1)
