"""[H] *Neural Network Design: Deep Learning*, chapter 8: the forward operations, 8.5 to 8.26.

An image P or V is (rows, cols), a kernel W (rows, cols); feature maps are (map, rows, cols),
kernels between maps (map of this layer h, map of the layer below l, rows, cols). Indices begin at
1, in 8.5 to 8.9 at 0. ``*`` is convolution and ``⊗``, kernel first, cross-correlation.
"""

# ruff: noqa: E741 (the letters are the equations')

import numpy as np
from numpy.typing import ArrayLike

from cnnvjp.equations._notation import (
    Array,
    from_0,
    from_1,
    given,
    over,
    require,
    sizes_within,
)

__all__ = [
    "h_8_5",
    "h_8_6",
    "h_8_8",
    "h_8_9",
    "h_8_12",
    "h_8_13",
    "h_8_14_15",
    "h_8_16_17",
    "h_8_18_19",
    "h_8_20",
    "h_8_21",
    "h_8_22",
    "h_8_24",
    "h_8_26",
    "h_figure_8_1",
]


def h_8_5(P: ArrayLike, W: ArrayLike) -> Array:
    """Convolution as a sum of impulse responses, one for each pixel.

    z_m,n = Σ_i Σ_j p_i,j w_m−i,n−j, where w is 0 outside its matrix

    Args:
        P: the image, (R_r, R_c).
        W: the impulse response, (r, c).

    Returns:
        (R_r + r − 1, R_c + c − 1): every m, n ≥ 0 at which the sum is not empty.

    Implemented by `cnnvjp.conv` (``flip_kernel=True``, ``padding="FULL"``). [H] 8.5.
    """
    P, W = given("P", P, 2), given("W", W, 2)
    (R_r, R_c), (r, c) = P.shape, W.shape
    p, w = from_0(P), from_0(W, zero_outside=True)
    Z = np.zeros((R_r + r - 1, R_c + c - 1))
    for m, n in over((0, R_r + r - 2), (0, R_c + c - 2)):
        for i, j in over((0, R_r - 1), (0, R_c - 1)):
            Z[m, n] += p[i, j] * w[m - i, n - j]
    return Z


def h_8_6(P: ArrayLike, W: ArrayLike) -> Array:
    """`h_8_5` with the two functions exchanged: convolution commutes.

    z_m,n = Σ_i Σ_j w_i,j p_m−i,n−j

    Arguments and result are those of `h_8_5`.

    Implemented by `cnnvjp.conv` (``flip_kernel=True``, ``padding="FULL"``). [H] 8.6.
    """
    return h_8_5(W, P)


def h_8_8(P: ArrayLike, W: ArrayLike) -> Array:
    """Convolution with a kernel of finite size.

    z_m,n = Σ_i=0…r−1 Σ_j=0…c−1 w_i,j p_m−i,n−j, where p is 0 outside the image

    Arguments and result are those of `h_8_5`.

    Implemented by `cnnvjp.conv` (``flip_kernel=True``, ``padding="FULL"``). [H] 8.8.
    """
    P, W = given("P", P, 2), given("W", W, 2)
    (R_r, R_c), (r, c) = P.shape, W.shape
    p, Z = from_0(P, zero_outside=True), np.zeros((R_r + r - 1, R_c + c - 1))
    for m, n in over((0, R_r + r - 2), (0, R_c + c - 2)):
        for i, j in over((0, r - 1), (0, c - 1)):
            Z[m, n] += W[i, j] * p[m - i, n - j]
    return Z


def h_8_9(P: ArrayLike, W: ArrayLike) -> Array:
    """Cross-correlation, indices from 0.

    z_m,n = Σ_i=0…r−1 Σ_j=0…c−1 w_i,j p_m+i,n+j

    Args:
        P: the image, (R_r, R_c).
        W: the kernel, (r, c).

    Returns:
        (R_r − r + 1, R_c − c + 1): every place where the kernel lies within the image.

    Implemented by `cnnvjp.conv`. [H] 8.9.
    """
    P, W = given("P", P, 2), given("W", W, 2)
    rows, cols = sizes_within(P.shape, W.shape)
    Z = np.zeros((rows, cols))
    for m, n in over((0, rows - 1), (0, cols - 1)):
        for i, j in over((0, W.shape[0] - 1), (0, W.shape[1] - 1)):
            Z[m, n] += W[i, j] * P[m + i, n + j]
    return Z


def h_8_12(W: ArrayLike, input_size: tuple[int, int]) -> Array:
    """The matrix that multiplies a stacked image as the kernel slides over it.

    vec(W ⊗ P) = M vec(P): the row of z_m,n holds w_i,j in the column of p_m+i−1,n+j−1.

    ``vec`` stacks columns, so that rows and columns of M count down the columns of Z and P. Mᵀ is
    the input gradient.

    Args:
        W: the kernel, (r, c).
        input_size: (R_r, R_c).

    Returns:
        M, (S_r·S_c, R_r·R_c).

    Implemented by `cnnvjp.conv`, and Mᵀ by `cnnvjp.conv_transpose`. [H] 8.11 and 8.12.
    """
    W, (R_r, R_c) = given("W", W, 2), input_size
    S_r, S_c = sizes_within(input_size, W.shape)
    matrix = np.zeros((S_r * S_c, R_r * R_c))
    M, w = from_1(matrix), from_1(W)

    def place(row: int, col: int, rows: int) -> int:
        """The position of an entry in the stacked columns, from 1."""
        return (col - 1) * rows + row

    for m, n in over((1, S_r), (1, S_c)):
        for i, j in over((1, W.shape[0]), (1, W.shape[1])):
            M[place(m, n, S_r), place(m + i - 1, n + j - 1, R_r)] = w[i, j]
    return matrix


def h_8_13(W: ArrayLike, P: ArrayLike) -> Array:
    """Cross-correlation, indices from 1: Z = W ⊗ P.

    z_m,n = Σ_i=1…r Σ_j=1…c w_i,j p_m+i−1,n+j−1

    Args:
        W: the kernel, (r, c).
        P: the image, (R_r, R_c).

    Returns:
        (S_r, S_c) of 8.14 and 8.15: every place where the kernel lies within the image.

    Implemented by `cnnvjp.conv`. [H] 8.10 and 8.13.
    """
    W, P = given("W", W, 2), given("P", P, 2)
    sizes_within(P.shape, W.shape)
    S_r, S_c = h_8_14_15(P.shape, W.shape)
    Z = np.zeros((S_r, S_c))
    z, w, p = from_1(Z), from_1(W), from_1(P)
    for m, n in over((1, S_r), (1, S_c)):
        for i, j in over((1, W.shape[0]), (1, W.shape[1])):
            z[m, n] += w[i, j] * p[m + i - 1, n + j - 1]
    return Z


def h_figure_8_1(W: ArrayLike, P: ArrayLike, B: ArrayLike) -> Array:
    """A convolution layer with an untied bias, one for each neuron: N = W ⊗ P + B.

    n_i,j = z_i,j + b_i,j, so that db_i,j = dn_i,j

    Args:
        W: the kernel, (r, c).
        P: the image, (R_r, R_c).
        B: the bias, (S_r, S_c).

    Implemented by `cnnvjp.conv` and `cnnvjp.add_bias`. [H] figure 8.1.
    """
    Z, B = h_8_13(W, P), given("B", B, 2)
    require(B.shape == Z.shape, f"B must have shape {Z.shape}, got {B.shape}")
    return Z + B


def h_8_14_15(R: tuple[int, ...], kernel_size: tuple[int, ...]) -> tuple[int, int]:
    """Size of the output: S_r = R_r − r + 1, S_c = R_c − c + 1.

    Args:
        R: size of the input, (R_r, R_c).
        kernel_size: (r, c).

    Implemented by `cnnvjp.conv` (``padding="VALID"``). [H] 8.14 and 8.15.
    """
    return h_8_16_17(R, kernel_size, 0)


def h_8_16_17(R: tuple[int, ...], kernel_size: tuple[int, ...], Pd: int) -> tuple[int, int]:
    """Size of the output with padding: S_r = R_r + 2Pᵈ − r + 1, S_c = R_c + 2Pᵈ − c + 1.

    Args:
        R: size of the input, (R_r, R_c).
        kernel_size: (r, c).
        Pd: zeros added on each side.

    Implemented by `cnnvjp.conv` (``padding=Pd``). [H] 8.16 and 8.17.
    """
    return h_8_18_19(R, kernel_size, Pd, 1)


def h_8_18_19(
    R: tuple[int, ...], kernel_size: tuple[int, ...], Pd: int, St: int
) -> tuple[int, int]:
    """Size of the output with padding and stride.

    S_r = ⌊(R_r + 2Pᵈ − r) / Sᵗ⌋ + 1, S_c = ⌊(R_c + 2Pᵈ − c) / Sᵗ⌋ + 1

    The source has no floor; see `h_8_18_19_as_printed`.

    Args:
        R: size of the input, (R_r, R_c).
        kernel_size: (r, c).
        Pd: zeros added on each side.
        St: the stride.

    Implemented by `cnnvjp.conv` (``padding=Pd``, ``stride=St``). [H] 8.18 and 8.19, corrected.
    """
    S_r, S_c = sizes_within([n + 2 * Pd for n in R], kernel_size, St)
    return S_r, S_c


def h_8_20(W: ArrayLike, A: ArrayLike) -> Array:
    """Convolution between the feature maps of two layers.

    z^h_i,j = Σ_l=1…Hⁿ Σ_u=1…r Σ_v=1…c w^h,l_u,v a^l_i+u−1,j+v−1

    Args:
        W: the kernels, (Hᵐ, Hⁿ, r, c).
        A: maps of layer n, (Hⁿ, rows, cols).

    Returns:
        Maps of layer m, (Hᵐ, S_r, S_c).

    Implemented by `cnnvjp.conv`. [H] 8.20.
    """
    W, A = given("W", W, 4), given("A", A, 3)
    require(W.shape[1] == A.shape[0], f"W {W.shape} and A {A.shape} differ in Hⁿ")
    H_m, H_n, r, c = W.shape
    S_r, S_c = sizes_within(A.shape[1:], (r, c))
    Z = np.zeros((H_m, S_r, S_c))
    z, w, a = from_1(Z), from_1(W), from_1(A)
    for h, i, j in over((1, H_m), (1, S_r), (1, S_c)):
        for l, u, v in over((1, H_n), (1, r), (1, c)):
            z[h, i, j] += w[h, l, u, v] * a[l, i + u - 1, j + v - 1]
    return Z


def h_8_21(W: ArrayLike, A: ArrayLike) -> Array:
    """`h_8_20` in matrices: Z^h = Σ_l=1…Hⁿ W^h,l ⊗ A^l.

    Arguments and result are those of `h_8_20`.

    Implemented by `cnnvjp.conv`. [H] 8.21.
    """
    W, A = given("W", W, 4), given("A", A, 3)
    require(W.shape[1] == A.shape[0], f"W {W.shape} and A {A.shape} differ in Hⁿ")
    H_m, H_n = W.shape[:2]
    return np.stack([sum(h_8_13(W[h, l], A[l]) for l in range(H_n)) for h in range(H_m)])


def h_8_22(V: ArrayLike, r: int, c: int, w: float) -> Array:
    """Pooling by a weighted sum, called average pooling: Z = w ⊞ᵃᵛᵉ_r,c V.

    z_i,j = { Σ_k=1…r Σ_l=1…c v_r(i−1)+k,c(j−1)+l } w

    It is the average if w = 1 / (r·c).

    Args:
        V: the map, (r·rows, c·cols).
        r: rows of the window, and stride from row to row.
        c: columns of the window, and stride from column to column.
        w: the weight, trainable.

    Returns:
        (rows, cols).

    Implemented by `cnnvjp.weighted_avg_pool`. [H] 8.22 and 8.23.
    """
    V = given("V", V, 2)
    rows, cols = blocks(V.shape, r, c)
    Z = np.zeros((rows, cols))
    z, v = from_1(Z), from_1(V)
    for i, j in over((1, rows), (1, cols)):
        z[i, j] = sum(v[r * (i - 1) + k, c * (j - 1) + l] for k, l in over((1, r), (1, c))) * w
    return Z


def h_8_24(V: ArrayLike, r: int, c: int) -> Array:
    """Max pooling: Z = ⊞ᵐᵃˣ_r,c V.

    z_i,j = max { v_r(i−1)+k,c(j−1)+l : k = 1 … r, l = 1 … c }

    Args:
        V: the map, (r·rows, c·cols).
        r: rows of the window, and stride from row to row.
        c: columns of the window, and stride from column to column.

    Returns:
        (rows, cols).

    Implemented by `cnnvjp.max_pool`. [H] 8.24 and 8.25.
    """
    V = given("V", V, 2)
    rows, cols = blocks(V.shape, r, c)
    Z = np.zeros((rows, cols))
    z, v = from_1(Z), from_1(V)
    for i, j in over((1, rows), (1, cols)):
        z[i, j] = max(v[r * (i - 1) + k, c * (j - 1) + l] for k, l in over((1, r), (1, c)))
    return Z


def h_8_26(A: ArrayLike) -> Array:
    """Stack the columns of the feature maps, from the first map to the last.

    vec(A) = [(a¹_1)ᵀ (a¹_2)ᵀ … (a¹_Sc)ᵀ (a²_1)ᵀ … (aᴴ_Sc)ᵀ]ᵀ, where aʰ_j is column j of map h

    Args:
        A: the maps, (H, S_r, S_c).

    Returns:
        (H·S_c·S_r,).

    Implemented by `cnnvjp.flatten` (``order="column"``). [H] 8.26.
    """
    A = given("A", A, 3)
    H, S_r, S_c = A.shape
    a = from_1(A)
    return np.array([a[h, i, j] for h, j, i in over((1, H), (1, S_c), (1, S_r))])


def blocks(size: tuple[int, ...], r: int, c: int) -> tuple[int, int]:
    """Rows and columns of a map in windows of r × c, which it must divide into."""
    rows, cols = size
    require(
        r >= 1 and c >= 1 and rows % r == cols % c == 0,
        f"a map of size {(rows, cols)} does not divide into windows of {r}×{c}",
    )
    return rows // r, cols // c
