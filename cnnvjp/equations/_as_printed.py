"""The faulty formulas of the sources, computed as they stand; `ERRATA` says what is wrong.

Unless a docstring says otherwise, arguments are those of the corrected function of the same number.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from cnnvjp.equations._bereyhi import b_multi_channel, b_rearranged_filters, b_upsampling
from cnnvjp.equations._hagan import h_8_8, h_8_13, h_8_22
from cnnvjp.equations._hagan_backward import h_8_39, h_8_41, h_8_44, h_p8_3
from cnnvjp.equations._jefkine import j_1, j_2, j_8
from cnnvjp.equations._notation import Array, from_0, given, over, require, rot180
from cnnvjp.equations._slides import s_spread, s_stride

__all__ = [
    "b_downsampling_backward_as_printed",
    "b_multi_channel_backward_as_printed",
    "h_8_18_19_as_printed",
    "h_8_37_as_printed",
    "h_8_39_as_printed",
    "h_8_41_as_printed",
    "h_8_44_as_printed",
    "h_8_45_as_printed",
    "h_p8_2_as_printed",
    "h_p8_2_as_worded",
    "h_p8_3_as_printed",
    "h_p8_4_as_printed",
    "j_3_as_printed",
    "j_4_as_printed",
    "j_5_as_printed",
    "j_7_as_printed",
    "j_9_as_named",
    "j_14_as_pictured",
    "j_19_first_term",
    "j_19_first_term_as_printed",
    "j_21_as_printed",
    "j_22_as_answered",
    "j_22_as_printed",
    "s_flipped_as_drawn",
    "s_stride_backward_as_drawn",
]


def j_3_as_printed(I: ArrayLike, K: ArrayLike) -> Array:  # noqa: E741
    """[J] 3 with the limits of 2: Σ_m=0…k₁−1 Σ_n=0…k₂−1 I(i+m, j+n) K(−m, −n).

    K(−m, −n) is outside the kernel, thus 0, but for m = n = 0.
    """
    I, K = given("I", I, 2), given("K", K, 2)  # noqa: E741
    (H, W), (k1, k2) = I.shape, K.shape
    pixel, kernel = from_0(I, zero_outside=True), from_0(K, zero_outside=True)
    result = np.zeros((H + k1 - 1, W + k2 - 1))
    for i, j in over((0, H + k1 - 2), (0, W + k2 - 2)):
        for m, n in over((0, k1 - 1), (0, k2 - 1)):
            result[i, j] += pixel[i + m, j + n] * kernel[-m, -n]
    return result


def j_4_as_printed(I: ArrayLike, K: ArrayLike, b: float) -> Array:  # noqa: E741
    """[J] 4 with no index for the filter: one map, from a kernel (k₁, k₂, C) and one bias."""
    I, K = given("I", I, 3), given("K", K, 3)  # noqa: E741
    return np.sum([j_1(I[..., c], K[..., c]) for c in range(K.shape[2])], axis=0) + b


def j_5_as_printed(I: ArrayLike, K: ArrayLike, b: float) -> Array:  # noqa: E741
    """[J] 5's left-hand side, I * K, in the sense of 2, where the kernel lies within the image."""
    return _valid(j_2(I, K), np.shape(K)) + b


def j_7_as_printed(o: ArrayLike, w: ArrayLike, B: ArrayLike) -> Array:
    """[J] 7 with an untied bias b_ij, of the shape of x: Σ_m Σ_n w_m,n o_i+m,j+n + b_ij."""
    return j_1(o, w) + given("B", B, 2)


def j_9_as_named(t: ArrayLike, y: ArrayLike) -> float:
    """[J] 9 as it is called, the mean squared error: 1/P Σ_p (t_p − y_p)²."""
    return float(np.mean((given("t", t, 1) - given("y", y, 1)) ** 2))


def j_14_as_pictured(delta: ArrayLike, o: ArrayLike) -> Array:
    """[J] 14's picture by a reader's account: rot180{δ} laid on o as it is, rot180{δ} ⊗ o."""
    return j_1(o, rot180(given("delta", delta, 2)))


def j_19_first_term(
    w: ArrayLike,
    x: ArrayLike,
    f: Callable[[float], float],
    pixel: tuple[int, int],
    tap: tuple[int, int],
) -> float:
    """[J] 19's first term, corrected: w_0,0 f(x_i′−m,j′−n).

    Args:
        w: the kernel, (k₁, k₂).
        x: net input, (H, W).
        f: the activation of one number.
        pixel: (i′, j′).
        tap: (m, n).
    """
    (i, j), (m, n) = pixel, tap
    return given("w", w, 2)[0, 0] * from_0(j_8(x, f), zero_outside=True)[i - m, j - n]


def j_19_first_term_as_printed(
    w: ArrayLike,
    x: ArrayLike,
    f: Callable[[float], float],
    pixel: tuple[int, int],
    tap: tuple[int, int],
) -> float:
    """[J] 19's first term with 0 for i′ and j′: w_0,0 f(x_0−m,0−n), whatever the pixel."""
    return j_19_first_term(w, x, f, (0, 0), tap)


def j_21_as_printed(
    delta: ArrayLike, w: ArrayLike, x: ArrayLike, f_prime: Callable[[float], float]
) -> Array:
    """[J] 21 with the whole sum rotated: rot180{Σ_m Σ_n δ_i′+m,j′+n w_m,n} f′(x_i′,j′)."""
    d, w = from_0(given("delta", delta, 2), zero_outside=True), given("w", w, 2)
    slope = j_8(x, f_prime)
    total = np.zeros_like(slope)
    for i, j in over((0, slope.shape[0] - 1), (0, slope.shape[1] - 1)):
        for m, n in over((0, w.shape[0] - 1), (0, w.shape[1] - 1)):
            total[i, j] += d[i + m, j + n] * w[m, n]
    return rot180(total) * slope


def j_22_as_printed(
    delta: ArrayLike, w: ArrayLike, x: ArrayLike, f_prime: Callable[[float], float]
) -> Array:
    """[J] 22 with ``*`` of 2: (δ * rot180{w}) f′(x)."""
    return j_2(delta, rot180(given("w", w, 2))) * j_8(x, f_prime)


def j_22_as_answered(delta: ArrayLike, w: ArrayLike) -> Array:
    """[J] 22 by the author's answer to a reader: δ * w only where w lies within δ."""
    return _valid(j_2(delta, w), np.shape(w))


def _valid(everywhere: Array, kernel_size: tuple[int, ...]) -> Array:
    """The part of [J] 2 at which the kernel lies within the image."""
    rows, cols = (n - k + 1 for n, k in zip(everywhere.shape, kernel_size, strict=True))
    return everywhere[kernel_size[0] - 1 : rows, kernel_size[1] - 1 : cols]


def h_8_18_19_as_printed(
    R: tuple[int, int], kernel_size: tuple[int, int], Pd: int, St: int
) -> tuple[float, float]:
    """[H] 8.18 and 8.19 with no floor: (R + 2Pᵈ − r) / Sᵗ + 1."""
    S_r, S_c = ((n + 2 * Pd - k) / St + 1 for n, k in zip(R, kernel_size, strict=True))
    return S_r, S_c


def h_8_37_as_printed(dN: ArrayLike) -> float:
    """[H] 8.37 as it is called: the average of dN."""
    return float(np.mean(given("dN", dN, 2)))


def h_8_39_as_printed(LW: ArrayLike, dLZ: ArrayLike) -> Array:
    """[H] 8.39 with h = 1 … Hⁿ."""
    return h_8_39(*_first_maps(LW, dLZ))


def h_8_41_as_printed(LW: ArrayLike, dLZ: ArrayLike) -> Array:
    """[H] 8.41 with h = 1 … Hⁿ."""
    return h_8_41(*_first_maps(LW, dLZ))


def h_8_44_as_printed(LW: ArrayLike, dLZ: ArrayLike) -> Array:
    """[H] 8.44 with h = 1 … Hⁿ."""
    return h_8_44(*_first_maps(LW, dLZ))


def _first_maps(LW: ArrayLike, dLZ: ArrayLike) -> tuple[Array, Array]:
    """The kernels and maps that a sum over h = 1 … Hⁿ reaches."""
    LW, dLZ = given("LW", LW, 4), given("dLZ", dLZ, 3)
    H_m, H_n = LW.shape[:2]
    require(H_n <= H_m, f"h = 1 … {H_n} leaves the {H_m} maps")
    return LW[:H_n], dLZ[:H_n]


def h_8_45_as_printed(LW: ArrayLike, dLZ: ArrayLike) -> Array:
    """[H] 8.45 with the sum over l, and no padding: Σ_l=1…Hⁿ (rot180 LW^h,l) ⊗ dLZ^h.

    The sum leaves h free and l not: the result is (Hᵐ, S_r − r + 1, S_c − c + 1).
    """
    LW, dLZ = given("LW", LW, 4), given("dLZ", dLZ, 3)
    return np.stack(
        [
            sum(h_8_13(rot180(lw), dlz) for lw in kernels)
            for kernels, dlz in zip(LW, dLZ, strict=True)
        ]
    )


def h_p8_2_as_worded(P: ArrayLike) -> Array:
    """[H] P8.2's solution in words: one pixel to the left and one pixel up."""
    return np.pad(given("P", P, 2)[1:, 1:], ((0, 1), (0, 1)))


def h_p8_2_as_printed(P: ArrayLike) -> Array:
    """[H] P8.2's W = [[0, 1], [0, 0]], put into 8.8 with rows that go down; cut to P's size."""
    P = given("P", P, 2)
    return h_8_8(P, [[0, 1], [0, 0]])[: P.shape[0], : P.shape[1]]


def h_p8_3_as_printed(dLZ: ArrayLike, lw: ArrayLike, r: int, c: int) -> Array:
    """[H] P8.3 with ∂lz^h/∂a^l = lw^h for every l: each map below hears of all maps above."""
    routed = h_p8_3(dLZ, lw, r, c)
    return np.stack([routed.sum(axis=0)] * len(routed))


def h_p8_4_as_printed(dLZ: ArrayLike, A: ArrayLike, r: int, c: int) -> Array:
    """[H] P8.4's short form as it is called: both ⊞ᵃᵛᵉ are averages."""
    dLZ, A = given("dLZ", dLZ, 3), given("A", A, 3)
    average = 1 / (r * c)
    return np.array([np.mean(g * h_8_22(a, r, c, average)) for g, a in zip(dLZ, A, strict=True)])


def b_multi_channel_backward_as_printed(G: ArrayLike, W: ArrayLike) -> Array:
    """[B]'s result with K filters, Conv(G, W†_1, …, W†_K): K channels, where X has C."""
    G, W = given("G", G, 3), given("W", W, 4)
    (K, C, rows, cols), filters = W.shape, b_rearranged_filters(W)
    require(K <= C, f"W†_{K} does not exist; there are {C}")
    padded = np.pad(G, ((0, 0), (rows - 1, rows - 1), (cols - 1, cols - 1)))
    return b_multi_channel(padded, filters[:K])


def b_downsampling_backward_as_printed(G: ArrayLike, S: int) -> Array:
    """[B]'s uSample(G, S), which knows nothing of the input's size."""
    return b_upsampling(G, S)


def s_flipped_as_drawn(w: ArrayLike) -> Array:
    """[S]'s "W flipped": [[w₁, w₂], [w₃, w₄]] → [[w₃, w₄], [w₂, w₁]]."""
    w = given("w", w, 2)
    require(w.shape == (2, 2), f"the slides draw a 2×2 kernel, got shape {w.shape}")
    (w1, w2), (w3, w4) = w
    return np.array([[w3, w4], [w2, w1]])


def s_stride_backward_as_drawn(delta: ArrayLike, w: ArrayLike, stride: int) -> Array:
    """[S]'s kernel as drawn, slid over the spread deltas."""
    return s_stride(s_spread(delta, stride, (2, 2)), s_flipped_as_drawn(w), 1)
