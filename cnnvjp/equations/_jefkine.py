"""[J] Jefkine, *Backpropagation in Convolutional Neural Networks* (2016).

Images and maps are (rows, cols), with channels last where there are any. Indices begin at 0.
The source writes ``⊗`` for cross-correlation (1) and ``*`` for convolution (2).
"""

# ruff: noqa: E741 (the letters are the equations')

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from cnnvjp.equations._notation import (
    Array,
    from_0,
    given,
    over,
    require,
    rot180,
    sizes_within,
)

__all__ = [
    "j_1",
    "j_2",
    "j_3",
    "j_4",
    "j_5",
    "j_6",
    "j_7",
    "j_8",
    "j_9",
    "j_13",
    "j_14",
    "j_20",
    "j_21",
    "j_22",
    "j_average_pooling",
    "j_average_pooling_routing",
    "j_max_pooling",
    "j_max_pooling_routing",
]


def j_1(I: ArrayLike, K: ArrayLike) -> Array:
    """Cross-correlation of an image with a kernel.

    (I ⊗ K)_ij = Σ_m=0…k₁−1 Σ_n=0…k₂−1 I(i+m, j+n) K(m, n)

    Args:
        I: the image, (H, W).
        K: the kernel, (k₁, k₂).

    Returns:
        (H − k₁ + 1, W − k₂ + 1): every place where the kernel lies within the image.

    Implemented by `cnnvjp.conv`. [J] 1.
    """
    I, K = given("I", I, 2), given("K", K, 2)
    k1, k2 = K.shape
    rows, cols = sizes_within(I.shape, K.shape)
    result = np.zeros((rows, cols))
    for i, j in over((0, rows - 1), (0, cols - 1)):
        for m, n in over((0, k1 - 1), (0, k2 - 1)):
            result[i, j] += I[i + m, j + n] * K[m, n]
    return result


def j_2(I: ArrayLike, K: ArrayLike) -> Array:
    """Convolution of an image with a kernel.

    (I * K)_ij = Σ_m=0…k₁−1 Σ_n=0…k₂−1 I(i−m, j−n) K(m, n)

    The image is 0 outside its borders. The kernel lies within the image for k₁ − 1 ≤ i < H and
    k₂ − 1 ≤ j < W; that part of the result is `j_1` with the kernel rotated by 180°.

    Args:
        I: the image, (H, W).
        K: the kernel, (k₁, k₂).

    Returns:
        (H + k₁ − 1, W + k₂ − 1): every i, j at which the sum is not empty.

    Implemented by `cnnvjp.conv` (``flip_kernel=True``, ``padding="FULL"``). [J] 2.
    """
    return _convolution(given("I", I, 2), given("K", K, 2), sign=+1)


def j_3(I: ArrayLike, K: ArrayLike) -> Array:
    """Convolution with the signs of m and n turned, so that it looks like cross-correlation.

    (I * K)_ij = Σ_m=−(k₁−1)…0 Σ_n=−(k₂−1)…0 I(i+m, j+n) K(−m, −n)

    Arguments and result are those of `j_2`. The source leaves the limits as they were in 2; see
    `j_3_as_printed`.

    Implemented by `cnnvjp.conv` (``flip_kernel=True``, ``padding="FULL"``). [J] 3, corrected.
    """
    return _convolution(given("I", I, 2), given("K", K, 2), sign=-1)


def _convolution(image: Array, K: Array, sign: int) -> Array:
    """[J] 2 (sign +1) and [J] 3 (sign −1), where m and n run over the negated range."""
    (H, W), (k1, k2) = image.shape, K.shape
    pixel, kernel = from_0(image, zero_outside=True), from_0(K)
    limits = ((0, k1 - 1), (0, k2 - 1)) if sign > 0 else ((1 - k1, 0), (1 - k2, 0))
    result = np.zeros((H + k1 - 1, W + k2 - 1))
    for i, j in over((0, H + k1 - 2), (0, W + k2 - 2)):
        for m, n in over(*limits):
            result[i, j] += pixel[i - sign * m, j - sign * n] * kernel[sign * m, sign * n]
    return result


def j_4(I: ArrayLike, K: ArrayLike, b: ArrayLike) -> Array:
    """Output of a convolutional layer: a bank of filters over the channels, plus biases.

    (I ⊗ K)_ijd = Σ_m=0…k₁−1 Σ_n=0…k₂−1 Σ_c=1…C K_m,n,c,d I_i+m,j+n,c + b_d

    Args:
        I: the image, (H, W, C).
        K: the bank, (k₁, k₂, C, D).
        b: one bias for each filter, (D,).

    Returns:
        (H − k₁ + 1, W − k₂ + 1, D).

    Implemented by `cnnvjp.conv`. [J] 4, with the index d of the filter that the source leaves out.
    """
    I, K, b = given("I", I, 3), given("K", K, 4), given("b", b, 1)
    k1, k2, C, D = K.shape
    require(I.shape[2] == C, f"I {I.shape} and K {K.shape} differ in channels")
    require(b.shape == (D,), f"b must have shape {(D,)}, got {b.shape}")
    rows, cols = sizes_within(I.shape[:2], (k1, k2))
    result = np.zeros((rows, cols, D))
    for i, j, d in over((0, rows - 1), (0, cols - 1), (0, D - 1)):
        for m, n, c in over((0, k1 - 1), (0, k2 - 1), (0, C - 1)):
            result[i, j, d] += K[m, n, c, d] * I[i + m, j + n, c]
        result[i, j, d] += b[d]
    return result


def j_5(I: ArrayLike, K: ArrayLike, b: float) -> Array:
    """`j_4` for one channel and one filter: a cross-correlation, although written with ``*``.

    (I ⊗ K)_ij = Σ_m=0…k₁−1 Σ_n=0…k₂−1 K_m,n I_i+m,j+n + b

    Args:
        I: the image, (H, W).
        K: the kernel, (k₁, k₂).
        b: the bias.

    Implemented by `cnnvjp.conv`. [J] 5, with ``⊗`` for the source's ``*``.
    """
    return j_1(I, K) + b


def j_6(o: ArrayLike, w: ArrayLike, b: float) -> Array:
    """Net input of a layer as a convolution with the rotated kernel; equal to `j_7`.

    x_ij = (rot180{w} * o)_i+k₁−1,j+k₂−1 + b

    The source writes no shift: it is 0 if rot180{w}(m, n) means w(−m, −n), with its origin kept,
    and (k₁ − 1, k₂ − 1) if it means a rotated array, whose indices begin at 0 again.

    Args:
        o: output of the layer below, (H, W).
        w: the kernel, (k₁, k₂).
        b: the bias, tied.

    Implemented by `cnnvjp.conv` (``flip_kernel=True``). [J] 6.
    """
    o, w = given("o", o, 2), given("w", w, 2)
    (k1, k2), (rows, cols) = w.shape, sizes_within(o.shape, w.shape)
    everywhere = j_2(o, rot180(w))
    x = np.zeros((rows, cols))
    for i, j in over((0, rows - 1), (0, cols - 1)):
        x[i, j] = everywhere[i + k1 - 1, j + k2 - 1] + b
    return x


def j_7(o: ArrayLike, w: ArrayLike, b: float) -> Array:
    """Net input of a layer.

    x_ij = Σ_m Σ_n w_m,n o_i+m,j+n + b

    Args:
        o: output of the layer below, (H, W).
        w: the kernel, (k₁, k₂).
        b: the bias, tied as in [J] 11 and 17; 6 and 7 print it untied (`j_7_as_printed`).

    Implemented by `cnnvjp.conv` and `cnnvjp.add_bias`. [J] 7.
    """
    o, w = given("o", o, 2), given("w", w, 2)
    k1, k2 = w.shape
    rows, cols = sizes_within(o.shape, w.shape)
    x = np.full((rows, cols), float(b))
    for i, j in over((0, rows - 1), (0, cols - 1)):
        for m, n in over((0, k1 - 1), (0, k2 - 1)):
            x[i, j] += w[m, n] * o[i + m, j + n]
    return x


def j_8(x: ArrayLike, f: Callable[[float], float]) -> Array:
    """Output of a layer: o_ij = f(x_ij).

    Args:
        x: the net input, (rows, cols).
        f: the activation of one number.

    Implemented by the activations, such as `cnnvjp.relu`. [J] 8.
    """
    x = given("x", x, 2)
    o = np.zeros_like(x)
    for i, j in over((0, x.shape[0] - 1), (0, x.shape[1] - 1)):
        o[i, j] = f(x[i, j])
    return o


def j_9(t: ArrayLike, y: ArrayLike) -> float:
    """Half the sum of the squared errors: E = ½ Σ_p (t_p − y_p)².

    Args:
        t: the targets, (P,).
        y: the predictions, (P,).

    Implemented by `cnnvjp.half_squared_error`. [J] 9.
    """
    t, y = given("t", t, 1), given("y", y, 1)
    require(t.shape == y.shape, f"t {t.shape} and y {y.shape} differ in shape")
    return sum((t[p] - y[p]) ** 2 for (p,) in over((0, len(t) - 1))) / 2


def j_13(delta: ArrayLike, o: ArrayLike) -> Array:
    """Gradient with respect to the kernel.

    ∂E/∂w_m′,n′ = Σ_i=0…H−k₁ Σ_j=0…W−k₂ δ_ij o_i+m′,j+n′

    Args:
        delta: ∂E/∂x of the layer, (H − k₁ + 1, W − k₂ + 1).
        o: output of the layer below, (H, W).

    Returns:
        (k₁, k₂).

    Implemented by `cnnvjp.conv_kernel_grad`. [J] 10 to 13.
    """
    delta, o = given("delta", delta, 2), given("o", o, 2)
    k1, k2 = sizes_within(o.shape, delta.shape)
    (H, W), dw = o.shape, np.zeros((k1, k2))
    for m, n in over((0, k1 - 1), (0, k2 - 1)):
        for i, j in over((0, H - k1), (0, W - k2)):
            dw[m, n] += delta[i, j] * o[i + m, j + n]
    return dw


def j_14(delta: ArrayLike, o: ArrayLike) -> Array:
    """Gradient with respect to the kernel as a convolution with the rotated deltas.

    ∂E/∂w_m′,n′ = (rot180{δ} * o)_m′+H−k₁,n′+W−k₂

    The shift is δ's size less one, for a rotated array; without it the source's formula holds
    if rot180{δ}(i, j) means δ(−i, −j) (compare `j_6`).

    Arguments and result are those of `j_13`.

    Implemented by `cnnvjp.conv_kernel_grad`. [J] 14.
    """
    delta, o = given("delta", delta, 2), given("o", o, 2)
    (H, W), (k1, k2) = o.shape, sizes_within(o.shape, delta.shape)
    everywhere = j_2(o, rot180(delta))
    dw = np.zeros((k1, k2))
    for m, n in over((0, k1 - 1), (0, k2 - 1)):
        dw[m, n] = everywhere[m + H - k1, n + W - k2]
    return dw


def j_20(delta: ArrayLike, w: ArrayLike, x: ArrayLike, f_prime: Callable[[float], float]) -> Array:
    """Deltas of a layer from those of the layer above.

    ∂E/∂x_i′,j′ = Σ_m=0…k₁−1 Σ_n=0…k₂−1 δ_i′−m,j′−n w_m,n f′(x_i′,j′)

    δ is 0 outside its map.

    Args:
        delta: deltas of the layer above, (H − k₁ + 1, W − k₂ + 1).
        w: kernel of the layer above, (k₁, k₂).
        x: net input of this layer, (H, W).
        f_prime: derivative of the activation at one number.

    Returns:
        (H, W).

    Implemented by `cnnvjp.conv_transpose` and the activations. [J] 16 to 20.
    """
    delta, w, x = _deltas(delta, w, x)
    (k1, k2), d, dx = w.shape, from_0(delta, zero_outside=True), np.zeros_like(x)
    for i, j in over((0, x.shape[0] - 1), (0, x.shape[1] - 1)):
        for m, n in over((0, k1 - 1), (0, k2 - 1)):
            dx[i, j] += d[i - m, j - n] * w[m, n] * f_prime(x[i, j])
    return dx


def j_21(delta: ArrayLike, w: ArrayLike, x: ArrayLike, f_prime: Callable[[float], float]) -> Array:
    """`j_20` as a cross-correlation: the kernel is rotated, and nothing else.

    ∂E/∂x_i′,j′ = Σ_m=0…k₁−1 Σ_n=0…k₂−1 δ_i′+m−k₁+1,j′+n−k₂+1 rot180{w}_m,n f′(x_i′,j′)

    Arguments and result are those of `j_20`. The source rotates the whole sum; see
    `j_21_as_printed`.

    Implemented by `cnnvjp.conv_transpose` and the activations. [J] 21, corrected.
    """
    delta, w, x = _deltas(delta, w, x)
    (k1, k2), d, dx = w.shape, from_0(delta, zero_outside=True), np.zeros_like(x)
    rotated = rot180(w)
    for i, j in over((0, x.shape[0] - 1), (0, x.shape[1] - 1)):
        for m, n in over((0, k1 - 1), (0, k2 - 1)):
            dx[i, j] += d[i + m - k1 + 1, j + n - k2 + 1] * rotated[m, n] * f_prime(x[i, j])
    return dx


def j_22(delta: ArrayLike, w: ArrayLike, x: ArrayLike, f_prime: Callable[[float], float]) -> Array:
    """`j_20` as a convolution in the sense of `j_2`: δ * w, with no rotation.

    ∂E/∂x_i′,j′ = (δ * w)_i′,j′ f′(x_i′,j′)

    Arguments and result are those of `j_20`. The source has δ * rot180{w}, which turns the kernel
    twice; see `j_22_as_printed`.

    Implemented by `cnnvjp.conv_transpose` and the activations. [J] 22, corrected.
    """
    delta, w, x = _deltas(delta, w, x)
    return j_2(delta, w) * j_8(x, f_prime)


def _deltas(delta: ArrayLike, w: ArrayLike, x: ArrayLike) -> tuple[Array, Array, Array]:
    delta, w, x = given("delta", delta, 2), given("w", w, 2), given("x", x, 2)
    expected = sizes_within(x.shape, w.shape)
    require(delta.shape == expected, f"delta must have shape {expected}, got {delta.shape}")
    return delta, w, x


def j_max_pooling(x: ArrayLike, N: int) -> Array:
    """Reduce each N×N block to its largest value, that of the winning unit.

    Args:
        x: the map, (N·rows, N·cols).
        N: side of a block.

    Implemented by `cnnvjp.max_pool`. [J] Pooling Layer.
    """
    x = given("x", x, 2)
    rows, cols = _blocks(x.shape, N)
    pooled = np.zeros((rows, cols))
    for i, j in over((0, rows - 1), (0, cols - 1)):
        pooled[i, j] = max(x[unit] for unit in _block(i, j, N))
    return pooled


def j_max_pooling_routing(delta: ArrayLike, x: ArrayLike, N: int) -> Array:
    """Give the error of each block to its winning unit, and zero to its other units.

    Among equal units the first in row-major order wins; the source does not say.

    Args:
        delta: error of the pooled map, (rows, cols).
        x: the map that was pooled, (N·rows, N·cols).
        N: side of a block.

    Implemented by `cnnvjp.max_pool`. [J] Pooling Layer.
    """
    delta, x = given("delta", delta, 2), given("x", x, 2)
    rows, cols = _blocks(x.shape, N)
    require(delta.shape == (rows, cols), f"delta must be {(rows, cols)}, got {delta.shape}")
    dx = np.zeros_like(x)
    for i, j in over((0, rows - 1), (0, cols - 1)):
        winner = max(_block(i, j, N), key=lambda unit: x[unit])
        dx[winner] = delta[i, j]
    return dx


def j_average_pooling(x: ArrayLike, N: int) -> Array:
    """Reduce each N×N block to its mean.

    Args:
        x: the map, (N·rows, N·cols).
        N: side of a block.

    Implemented by `cnnvjp.avg_pool`. [J] Pooling Layer.
    """
    x = given("x", x, 2)
    rows, cols = _blocks(x.shape, N)
    pooled = np.zeros((rows, cols))
    for i, j in over((0, rows - 1), (0, cols - 1)):
        pooled[i, j] = sum(x[unit] for unit in _block(i, j, N)) / (N * N)
    return pooled


def j_average_pooling_routing(delta: ArrayLike, N: int) -> Array:
    """Give 1/(N×N) of the error of each block to every unit of it.

    Args:
        delta: error of the pooled map, (rows, cols).
        N: side of a block.

    Implemented by `cnnvjp.avg_pool`. [J] Pooling Layer.
    """
    delta = given("delta", delta, 2)
    rows, cols = delta.shape
    dx = np.zeros((N * rows, N * cols))
    for i, j in over((0, rows - 1), (0, cols - 1)):
        for unit in _block(i, j, N):
            dx[unit] = delta[i, j] / (N * N)
    return dx


def _blocks(size: tuple[int, ...], N: int) -> tuple[int, int]:
    rows, cols = size
    require(N >= 1 and rows % N == cols % N == 0, f"{size} does not divide into {N}×{N} blocks")
    return rows // N, cols // N


def _block(i: int, j: int, N: int) -> list[tuple[int, int]]:
    """The units of block (i, j) in row-major order."""
    return [(N * i + m, N * j + n) for m, n in over((0, N - 1), (0, N - 1))]
