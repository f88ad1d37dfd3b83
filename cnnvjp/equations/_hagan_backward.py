"""[H] *Neural Network Design: Deep Learning*, chapter 8: the backward operations, 8.32 to 8.53.

Also what the solved problems and exercises ask for. Shapes are those of `_hagan`; layer m lies on
layer n, and dX stands for ∂F/∂X.
"""

# ruff: noqa: E741 (the letters are the equations')

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from cnnvjp.equations._hagan import blocks, h_8_13, h_8_20
from cnnvjp.equations._notation import (
    Array,
    from_0,
    from_1,
    given,
    over,
    require,
    rot180,
    sizes_within,
)

__all__ = [
    "h_8_33",
    "h_8_34",
    "h_8_36",
    "h_8_38",
    "h_8_39",
    "h_8_40",
    "h_8_41",
    "h_8_44",
    "h_8_45",
    "h_8_47",
    "h_8_48",
    "h_8_52",
    "h_e8_8",
    "h_e8_9",
    "h_p8_1",
    "h_p8_2",
    "h_p8_3",
    "h_p8_4",
]


def h_8_33(LZ: ArrayLike, b: float) -> Array:
    """Summation net input with a tied bias: n_i,j = lz_i,j + b.

    Args:
        LZ: output of the weight function, (S_r, S_c).
        b: the bias of the map.

    Implemented by `cnnvjp.add_bias`. [H] 8.32 and 8.33.
    """
    return given("LZ", LZ, 2) + b


def h_8_34(dN: ArrayLike) -> Array:
    """Across the summation to the weight function: dlz_i,j = 1 × dn_i,j.

    Args:
        dN: (S_r, S_c).

    Implemented by `cnnvjp.add_bias`. [H] 8.34 and 8.35.
    """
    return 1 * given("dN", dN, 2)


def h_8_36(dN: ArrayLike) -> float:
    """Across the summation to the tied bias: db = Σ_i=1…S_r Σ_j=1…S_c dn_i,j.

    A sum over the map, which the source calls average pooling; see `h_8_37_as_printed`.

    Args:
        dN: (S_r, S_c).

    Implemented by `cnnvjp.add_bias`. [H] 8.36.
    """
    dN = given("dN", dN, 2)
    dn = from_1(dN)
    return sum(dn[i, j] for i, j in over((1, dN.shape[0]), (1, dN.shape[1])))


def h_8_38(LW: ArrayLike, A: ArrayLike) -> Array:
    """`h_8_20` again, with the names of the gradient calculation.

    lz^h_i,j = Σ_l=1…Hⁿ Σ_u=1…r Σ_v=1…c lw^h,l_u,v a^l_i+u−1,j+v−1

    Args:
        LW: the kernels, (Hᵐ, Hⁿ, r, c).
        A: maps of layer n, (Hⁿ, rows, cols).

    Implemented by `cnnvjp.conv`. [H] 8.38.
    """
    return h_8_20(LW, A)


def h_8_39(LW: ArrayLike, dLZ: ArrayLike) -> Array:
    """Across the convolution to the maps below, by the chain rule.

    da^l_u′,v′ = Σ_h=1…Hᵐ Σ_i=1…S_r Σ_j=1…S_c dlz^h_i,j ∂lz^h_i,j/∂a^l_u′,v′

    The source sums h to Hⁿ, here and in 8.41 and 8.44; see `h_8_39_as_printed`.

    Args:
        LW: the kernels, (Hᵐ, Hⁿ, r, c).
        dLZ: (Hᵐ, S_r, S_c).

    Returns:
        dA, (Hⁿ, S_r + r − 1, S_c + c − 1).

    Implemented by `cnnvjp.conv_transpose`. [H] 8.39, corrected.
    """
    LW, dLZ, dA = _maps_below(LW, dLZ)
    (H_m, S_r, S_c), (H_n, rows, cols) = dLZ.shape, dA.shape
    da, dlz = from_1(dA), from_1(dLZ)
    for l, u, v in over((1, H_n), (1, rows), (1, cols)):
        for h, i, j in over((1, H_m), (1, S_r), (1, S_c)):
            da[l, u, v] += dlz[h, i, j] * h_8_40(LW[h - 1, l - 1], (i, j), (u, v))
    return dA


def h_8_40(LW: ArrayLike, place: tuple[int, int], pixel: tuple[int, int]) -> float:
    """Derivative of one output of a convolution with respect to one input.

    ∂lz_i,j/∂a_u′,v′ = lw_u′−i+1,v′−j+1 if i ≤ u′ ≤ i+r−1 and j ≤ v′ ≤ j+c−1, else 0

    Args:
        LW: the kernel between the two maps, (r, c).
        place: (i, j), from 1.
        pixel: (u′, v′), from 1.

    Implemented by `cnnvjp.conv_transpose`. [H] 8.40.
    """
    LW, (i, j), (u, v) = given("LW", LW, 2), place, pixel
    r, c = LW.shape
    if i <= u <= i + r - 1 and j <= v <= j + c - 1:
        return from_1(LW)[u - i + 1, v - j + 1]
    return 0.0


def h_8_41(LW: ArrayLike, dLZ: ArrayLike) -> Array:
    """`h_8_39` without the terms that are zero.

    da^l_u′,v′ = Σ_h=1…Hᵐ Σ_i=u′−r+1…u′ Σ_j=v′−c+1…v′ dlz^h_i,j lw^h,l_u′−i+1,v′−j+1

    dlz is 0 outside its map, where i and j lead near the border.

    Arguments and result are those of `h_8_39`.

    Implemented by `cnnvjp.conv_transpose`. [H] 8.41, corrected.
    """
    LW, dLZ, dA = _maps_below(LW, dLZ)
    (H_m, _, r, c), (H_n, rows, cols) = LW.shape, dA.shape
    da, dlz, lw = from_1(dA), from_1(dLZ, zero_outside=True), from_1(LW)
    for l, u, v in over((1, H_n), (1, rows), (1, cols)):
        for h, i, j in over((1, H_m), (u - r + 1, u), (v - c + 1, v)):
            da[l, u, v] += dlz[h, i, j] * lw[h, l, u - i + 1, v - j + 1]
    return dA


def h_8_44(LW: ArrayLike, dLZ: ArrayLike) -> Array:
    """`h_8_41` in i′ = i + r − u′ and j′ = j + c − v′: the kernel's indices run backward.

    da^l_u′,v′ = Σ_h=1…Hᵐ Σ_i′=1…r Σ_j′=1…c lw^h,l_r−i′+1,c−j′+1 dlz^h_i′+u′−r,j′+v′−c

    dlz is 0 outside its map.

    Arguments and result are those of `h_8_39`.

    Implemented by `cnnvjp.conv_transpose`. [H] 8.42 to 8.44, corrected.
    """
    LW, dLZ, dA = _maps_below(LW, dLZ)
    (H_m, _, r, c), (H_n, rows, cols) = LW.shape, dA.shape
    da, dlz, lw = from_1(dA), from_1(dLZ, zero_outside=True), from_1(LW)
    for l, u, v in over((1, H_n), (1, rows), (1, cols)):
        for h, i, j in over((1, H_m), (1, r), (1, c)):
            da[l, u, v] += lw[h, l, r - i + 1, c - j + 1] * dlz[h, i + u - r, j + v - c]
    return dA


def h_8_45(LW: ArrayLike, dLZ: ArrayLike) -> Array:
    """`h_8_44` in matrices: dA^l = Σ_h=1…Hᵐ (rot180 LW^h,l) ⊗ dLZ^h, dLZ^h padded.

    The padding is r − 1 rows and c − 1 columns of zeros on each side. The source sums over l and
    pads nothing; see `h_8_45_as_printed`.

    Arguments and result are those of `h_8_39`.

    Implemented by `cnnvjp.conv_transpose`. [H] 8.45, corrected.
    """
    LW, dLZ, _ = _maps_below(LW, dLZ)
    H_m, H_n, r, c = LW.shape
    padded = np.pad(dLZ, ((0, 0), (r - 1, r - 1), (c - 1, c - 1)))
    return np.stack(
        [sum(h_8_13(rot180(LW[h, l]), padded[h]) for h in range(H_m)) for l in range(H_n)]
    )


def _maps_below(LW: ArrayLike, dLZ: ArrayLike) -> tuple[Array, Array, Array]:
    """The arguments of 8.39 and what follows from it, and dA, still zero."""
    LW, dLZ = given("LW", LW, 4), given("dLZ", dLZ, 3)
    require(LW.shape[0] == dLZ.shape[0], f"LW {LW.shape} and dLZ {dLZ.shape} differ in Hᵐ")
    (_, H_n, r, c), (_, S_r, S_c) = LW.shape, dLZ.shape
    return LW, dLZ, np.zeros((H_n, S_r + r - 1, S_c + c - 1))


def h_8_47(dLZ: ArrayLike, A: ArrayLike) -> Array:
    """Across the convolution to the kernels.

    dlw^h,l_u,v = Σ_i=1…S_r Σ_j=1…S_c dlz^h_i,j a^l_i+u−1,j+v−1

    Args:
        dLZ: (Hᵐ, S_r, S_c).
        A: maps of layer n, (Hⁿ, rows, cols).

    Returns:
        dLW, (Hᵐ, Hⁿ, r, c).

    Implemented by `cnnvjp.conv_kernel_grad`. [H] 8.46 and 8.47.
    """
    dLZ, A = given("dLZ", dLZ, 3), given("A", A, 3)
    (H_m, S_r, S_c), H_n = dLZ.shape, A.shape[0]
    r, c = sizes_within(A.shape[1:], (S_r, S_c))
    dLW = np.zeros((H_m, H_n, r, c))
    dlw, dlz, a = from_1(dLW), from_1(dLZ), from_1(A)
    for h, l, u, v in over((1, H_m), (1, H_n), (1, r), (1, c)):
        for i, j in over((1, S_r), (1, S_c)):
            dlw[h, l, u, v] += dlz[h, i, j] * a[l, i + u - 1, j + v - 1]
    return dLW


def h_8_48(dLZ: ArrayLike, A: ArrayLike) -> Array:
    """`h_8_47` in matrices: dLW^h,l = dLZ^h ⊗ A^l, with dLZ as the kernel.

    Arguments and result are those of `h_8_47`.

    Implemented by `cnnvjp.conv_kernel_grad`. [H] 8.48.
    """
    dLZ, A = given("dLZ", dLZ, 3), given("A", A, 3)
    return np.stack([np.stack([h_8_13(dlz, a) for a in A]) for dlz in dLZ])


def h_8_52(f_dot: Callable[[float], float], N: ArrayLike, dA: ArrayLike) -> Array:
    """Across the activation function: dn^h_i,j = ḟ(n^h_i,j) × da^h_i,j.

    Args:
        f_dot: derivative of the activation at one number.
        N: the net input, (H, S_r, S_c).
        dA: (H, S_r, S_c).

    Implemented by the activations, such as `cnnvjp.relu`. [H] 8.49 to 8.53.
    """
    N, dA = given("N", N, 3), given("dA", dA, 3)
    require(N.shape == dA.shape, f"N {N.shape} and dA {dA.shape} differ in shape")
    H, S_r, S_c = N.shape
    dN = np.zeros_like(N)
    dn, n, da = from_1(dN), from_1(N), from_1(dA)
    for h, i, j in over((1, H), (1, S_r), (1, S_c)):
        dn[h, i, j] = f_dot(n[h, i, j]) * da[h, i, j]
    return dN


def h_p8_1(W: ArrayLike) -> Array:
    """The correlation kernel that does what W does in a convolution: W flipped both ways.

    Args:
        W: the convolution kernel, (r, c).

    Implemented by `cnnvjp.conv` (``flip_kernel=True``). [H] P8.1.
    """
    W = given("W", W, 2)
    r, c = W.shape
    flipped = np.zeros_like(W)
    f, w = from_1(flipped), from_1(W)
    for i, j in over((1, r), (1, c)):
        f[i, j] = w[r - i + 1, c - j + 1]
    return flipped


def h_p8_2(P: ArrayLike) -> Array:
    """Shift an image one pixel to the right and one pixel up, by its impulse response.

    z_x,y = Σ_i Σ_j w_i,j p_x−i,y−j with w_1,1 = 1 and the rest 0, that is z_x,y = p_x−1,y−1

    x counts to the right and y upward, as in P8.1, so that w, drawn as a picture, is
    [[0, 1], [0, 0]]. In an array, whose rows go down, z_row,col = p_row+1,col−1.

    Args:
        P: the image, (rows, cols), its first row on top; 0 outside.

    Returns:
        The shifted image, of P's size.

    Implemented by `cnnvjp.conv` (``padding=((0, 1), (1, 0))``, kernel [[0, 0], [1, 0]]).
    [H] P8.2 and E8.4, corrected.
    """
    upright = given("P", P, 2)[::-1].T  # indices x to the right and y upward
    p, Z = from_0(upright, zero_outside=True), np.zeros_like(upright)
    w = {(0, 0): 0, (1, 0): 0, (0, 1): 0, (1, 1): 1}
    for x, y in over((0, Z.shape[0] - 1), (0, Z.shape[1] - 1)):
        for i, j in over((0, 1), (0, 1)):
            Z[x, y] += w[i, j] * p[x - i, y - j]
    return Z.T[::-1]


def h_p8_3(dLZ: ArrayLike, lw: ArrayLike, r: int, c: int) -> Array:
    """Across average pooling to the maps below: dA^h = lw^h ⊠ᵃᵛᵉ_r,c dLZ^h.

    da^h_u′,v′ = dlz^h_i,j lw^h for r(i−1)+1 ≤ u′ ≤ r·i and c(j−1)+1 ≤ v′ ≤ c·j

    ⊠ repeats each entry r × c times. It is the transpose of ⊞, not its inverse.

    Args:
        dLZ: (H, S_r, S_c).
        lw: one weight for each map, (H,).
        r: rows of the window, and stride from row to row.
        c: columns of the window, and stride from column to column.

    Returns:
        dA, (H, r·S_r, c·S_c).

    Implemented by `cnnvjp.weighted_avg_pool`, and ⊠ by `cnnvjp.repeat`. [H] P8.3.
    """
    dLZ, lw = given("dLZ", dLZ, 3), given("lw", lw, 1)
    require(len(lw) == len(dLZ), f"lw must have {len(dLZ)} weights, got {len(lw)}")
    H, S_r, S_c = dLZ.shape
    dA = np.zeros((H, r * S_r, c * S_c))
    da, dlz = from_1(dA), from_1(dLZ)
    for h, i, j in over((1, H), (1, S_r), (1, S_c)):
        for u, v in over((r * (i - 1) + 1, r * i), (c * (j - 1) + 1, c * j)):
            da[h, u, v] = dlz[h, i, j] * lw[h - 1]
    return dA


def h_p8_4(dLZ: ArrayLike, A: ArrayLike, r: int, c: int) -> Array:
    """Across average pooling to its weights.

    dlw^h = Σ_i=1…S_r Σ_j=1…S_c dlz^h_i,j { Σ_u=1…r Σ_v=1…c a^h_r(i−1)+u,c(j−1)+v }

    Args:
        dLZ: (H, S_r, S_c).
        A: the maps that were pooled, (H, r·S_r, c·S_c).
        r: rows of the window, and stride from row to row.
        c: columns of the window, and stride from column to column.

    Returns:
        dlw, (H,).

    Implemented by `cnnvjp.weighted_avg_pool`. [H] P8.4.
    """
    dLZ, A = _pooled(dLZ, A, r, c)
    (H, S_r, S_c), dlw = dLZ.shape, np.zeros(len(dLZ))
    dlz, a = from_1(dLZ), from_1(A)
    for h, i, j in over((1, H), (1, S_r), (1, S_c)):
        window = over((1, r), (1, c))
        total = sum(a[h, r * (i - 1) + u, c * (j - 1) + v] for u, v in window)
        dlw[h - 1] += dlz[h, i, j] * total
    return dlw


def h_e8_8(dLZ: ArrayLike, A: ArrayLike, r: int, c: int) -> Array:
    """Across max pooling to the maps below; derived, as the exercise asks.

    da^h_u′,v′ = dlz^h_i,j if a^h_u′,v′ is the largest of its window i, j, else 0

    Among equal entries the first in row-major order counts.

    Args:
        dLZ: (H, S_r, S_c).
        A: the maps that were pooled, (H, r·S_r, c·S_c).
        r: rows of the window, and stride from row to row.
        c: columns of the window, and stride from column to column.

    Returns:
        dA, of A's shape.

    Implemented by `cnnvjp.max_pool`. [H] E8.8.
    """
    dLZ, A = _pooled(dLZ, A, r, c)
    (H, S_r, S_c), dA = dLZ.shape, np.zeros_like(A)
    for h in range(H):  # each map on its own
        da, dlz, a = from_1(dA[h]), from_1(dLZ[h]), from_1(A[h])
        for i, j in over((1, S_r), (1, S_c)):
            window = over((r * (i - 1) + 1, r * i), (c * (j - 1) + 1, c * j))
            da[max(window, key=a.__getitem__)] = dlz[i, j]
    return dA


def _pooled(dLZ: ArrayLike, A: ArrayLike, r: int, c: int) -> tuple[Array, Array]:
    dLZ, A = given("dLZ", dLZ, 3), given("A", A, 3)
    expected = (len(A), *blocks(A.shape[1:], r, c))
    require(dLZ.shape == expected, f"dLZ must have shape {expected}, got {dLZ.shape}")
    return dLZ, A


def h_e8_9(LZ: ArrayLike, b: float, dN: ArrayLike) -> tuple[Array, float]:
    """Both paths across a product net input, n_i,j = b lz_i,j; derived, as the exercise asks.

    dlz_i,j = b dn_i,j and db = Σ_i=1…S_r Σ_j=1…S_c lz_i,j dn_i,j

    Args:
        LZ: output of the weight function, (S_r, S_c).
        b: the bias, a scalar.
        dN: (S_r, S_c).

    Returns:
        dLZ, (S_r, S_c), and db.

    Implemented by `cnnvjp.scale`. [H] E8.9.
    """
    LZ, dN = given("LZ", LZ, 2), given("dN", dN, 2)
    require(LZ.shape == dN.shape, f"LZ {LZ.shape} and dN {dN.shape} differ in shape")
    (S_r, S_c), lz, dn = LZ.shape, from_1(LZ), from_1(dN)
    db = sum(lz[i, j] * dn[i, j] for i, j in over((1, S_r), (1, S_c)))
    return b * dN, db
