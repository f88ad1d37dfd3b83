"""[Dai], [Zhu], [He]: what a network reads between the pixels of a map.

[Dai] Dai et al., *Deformable Convolutional Networks* (2017); [Zhu] Zhu et al., *Deformable ConvNets
v2: More Deformable, Better Results* (2019); [He] He et al., *Mask R-CNN* (2017), section 3,
"RoIAlign". Positions are (row, column), counted from 0 at the centre of the first pixel; maps are
(rows, cols), and 0 outside.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from cnnvjp.equations._notation import Array, given, over, require, sizes_within

__all__ = [
    "dai_2",
    "dai_3",
    "dai_4",
    "dai_7",
    "he_roi_align",
    "zhu_1",
]


def dai_2(x: ArrayLike, w: ArrayLike, offsets: ArrayLike) -> Array:
    """Convolve a map with a kernel whose taps are moved by offsets.

    y(p₀) = Σ_pₙ w(pₙ) · x(p₀ + pₙ + Δpₙ)

    Args:
        x: the map, (H, W).
        w: the kernel, (k₁, k₂); pₙ are its places, from (0, 0).
        offsets: Δpₙ of every p₀, (H − k₁ + 1, W − k₂ + 1, k₁, k₂, 2).

    Returns:
        y, (H − k₁ + 1, W − k₂ + 1).

    Implemented by `cnnvjp.deform_conv`. [Dai] 2.
    """
    offsets = given("offsets", offsets, 5)
    return zhu_1(x, w, offsets, np.ones(offsets.shape[:-1]))


def dai_3(x: ArrayLike, p: Sequence[float]) -> Array:
    """Read a map at a real position.

    x(p) = Σ_q G(q, p) · x(q)

    Args:
        x: the map, (H, W).
        p: the position, (row, column).

    Implemented by `cnnvjp.deform_conv` and `cnnvjp.roi_align`. [Dai] 3.
    """
    x = given("x", x, 2)
    H, W = x.shape
    total = np.zeros(())
    for q in over((0, H - 1), (0, W - 1)):
        total += dai_4(q, p) * x[q]
    return total


def dai_4(q: Sequence[float], p: Sequence[float]) -> Array:
    """The weight of pixel q at the position p, bilinear interpolation's kernel.

    G(q, p) = g(q_x, p_x) · g(q_y, p_y), with g(a, b) = max(0, 1 − |a − b|)

    Args:
        q: the pixel, (row, column).
        p: the position, (row, column).

    Implemented by `cnnvjp.deform_conv` and `cnnvjp.roi_align`. [Dai] 4.
    """
    (q_y, q_x), (p_y, p_x) = given("q", q, 1), given("p", p, 1)
    return np.asarray(max(0.0, 1 - abs(q_x - p_x)) * max(0.0, 1 - abs(q_y - p_y)))


def dai_7(x: ArrayLike, w: ArrayLike, offsets: ArrayLike, dy: ArrayLike) -> Array:
    """Gradient of the loss with respect to the offsets.

    ∂L/∂Δpₙ = ∂L/∂y(p₀) · w(pₙ) · Σ_q ∂G(q, p₀ + pₙ + Δpₙ)/∂Δpₙ · x(q)

    At whole numbers, where g has a kink, the derivative to the right.

    Args:
        x: the map, (H, W).
        w: the kernel, (k₁, k₂).
        offsets: as in `dai_2`.
        dy: gradient with respect to y, (H − k₁ + 1, W − k₂ + 1).

    Returns:
        Of the offsets' shape.

    Implemented by `cnnvjp.deform_conv`. [Dai] 7.
    """
    x, w, dy = given("x", x, 2), given("w", w, 2), given("dy", dy, 2)
    offsets = given("offsets", offsets, 5)
    (H, W), (k1, k2) = x.shape, w.shape
    rows, cols = sizes_within(x.shape, w.shape)
    require(
        offsets.shape == (rows, cols, k1, k2, 2) and dy.shape == (rows, cols),
        f"offsets {offsets.shape} and dy {dy.shape} do not fit x {x.shape} and w {w.shape}",
    )

    def g(a: float, b: float) -> float:
        return max(0.0, 1 - abs(a - b))

    def slope(a: float, b: float) -> float:
        """∂g/∂b."""
        return 1.0 if a - 1 <= b < a else -1.0 if a <= b < a + 1 else 0.0

    gradient = np.zeros_like(offsets)
    for i, j in over((0, rows - 1), (0, cols - 1)):
        for m, n in over((0, k1 - 1), (0, k2 - 1)):
            p_y, p_x = (i + m, j + n) + offsets[i, j, m, n]
            for q_y, q_x in over((0, H - 1), (0, W - 1)):
                dG = np.array([slope(q_y, p_y) * g(q_x, p_x), g(q_y, p_y) * slope(q_x, p_x)])
                gradient[i, j, m, n] += dy[i, j] * w[m, n] * dG * x[q_y, q_x]
    return gradient


def zhu_1(x: ArrayLike, w: ArrayLike, offsets: ArrayLike, modulation: ArrayLike) -> Array:
    """The same, every tap modulated by a scalar.

    y(p) = Σ_k w_k · x(p + p_k + Δp_k) · Δm_k

    Args:
        x: the map, (H, W).
        w: the kernel, (k₁, k₂).
        offsets: Δp_k of every p, (H − k₁ + 1, W − k₂ + 1, k₁, k₂, 2).
        modulation: Δm_k of every p, (H − k₁ + 1, W − k₂ + 1, k₁, k₂).

    Returns:
        y, (H − k₁ + 1, W − k₂ + 1).

    Implemented by `cnnvjp.deform_conv` (``mask=``). [Zhu] 1.
    """
    x, w = given("x", x, 2), given("w", w, 2)
    offsets, modulation = given("offsets", offsets, 5), given("modulation", modulation, 4)
    (k1, k2), (rows, cols) = w.shape, sizes_within(x.shape, w.shape)
    require(
        offsets.shape == (*modulation.shape, 2) == (rows, cols, k1, k2, 2),
        f"offsets {offsets.shape} and modulation {modulation.shape} do not fit x {x.shape} and w "
        f"{w.shape}",
    )
    y = np.zeros((rows, cols))
    for i, j in over((0, rows - 1), (0, cols - 1)):
        for m, n in over((0, k1 - 1), (0, k2 - 1)):
            p = (i + m, j + n) + offsets[i, j, m, n]
            y[i, j] += w[m, n] * dai_3(x, p) * modulation[i, j, m, n]
    return y


def he_roi_align(
    x: ArrayLike, box: Sequence[float], output_size: tuple[int, int], samples: int
) -> Array:
    """Average what is read at regularly spaced points of each bin of a box.

    y_i,j = 1/s² Σ_a,b x(t + (i + (a + ½)/s) · h/H′, l + (j + (b + ½)/s) · w/W′)

    for the box from (t, l) to (t + h, l + w), in H′ × W′ bins of s × s points. The paper leaves
    the border open; as in torchvision, a point from (−1, −1) to (H, W) reads the nearest position
    between the outermost pixels' centres, and one further out reads 0.

    Args:
        x: the map, (H, W).
        box: top, left, bottom and right in the map's coordinates, of which nothing is rounded.
        output_size: (H′, W′).
        samples: s.

    Returns:
        y, (H′, W′).

    Implemented by `cnnvjp.roi_align`. [He] section 3, figure 3.
    """
    x, (top, left, bottom, right) = given("x", x, 2), given("box", box, 1)
    require(samples >= 1, f"samples must be at least 1, got {samples}")
    (H, W), (rows, cols) = x.shape, output_size
    y = np.zeros(output_size)
    for i, j in over((0, rows - 1), (0, cols - 1)):
        for a, b in over((0, samples - 1), (0, samples - 1)):
            p_y = top + (i + (a + 0.5) / samples) * (bottom - top) / rows
            p_x = left + (j + (b + 0.5) / samples) * (right - left) / cols
            if -1 <= p_y <= H and -1 <= p_x <= W:
                nearest = min(max(p_y, 0), H - 1), min(max(p_x, 0), W - 1)
                y[i, j] += dai_3(x, nearest) / samples**2
    return y
