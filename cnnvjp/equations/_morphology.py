"""Grey-scale morphology, which none of the five sources has."""

import numpy as np
from numpy.typing import ArrayLike

from cnnvjp.equations._notation import Array, from_0, given, over, sizes_within

__all__ = [
    "grey_dilation",
    "grey_erosion",
]


def grey_dilation(f: ArrayLike, k: ArrayLike) -> Array:
    """(f ⊕ k)(x) = max { f(x − z) + k(z) : z ∈ K, x − z ∈ F }.

    Args:
        f: the image, (H, W), whose domain F begins at (0, 0).
        k: the structuring function, (k₁, k₂), whose domain K begins at (0, 0).

    Returns:
        (H + k₁ − 1, W + k₂ − 1).

    Implemented by `cnnvjp.max_plus_conv` (``padding="FULL"``) with k rotated by 180°.
    [Haralick, Sternberg and Zhuang 1987] the theorem on grey-scale dilation.
    """
    f, k = given("f", f, 2), given("k", k, 2)
    (H, W), (k1, k2) = f.shape, k.shape
    image, structure = from_0(f), from_0(k)
    result = np.empty((H + k1 - 1, W + k2 - 1))
    for x1, x2 in over((0, H + k1 - 2), (0, W + k2 - 2)):
        result[x1, x2] = max(
            image[x1 - z1, x2 - z2] + structure[z1, z2]
            for z1, z2 in over((0, k1 - 1), (0, k2 - 1))
            if 0 <= x1 - z1 < H and 0 <= x2 - z2 < W
        )
    return result


def grey_erosion(f: ArrayLike, k: ArrayLike) -> Array:
    """(f ⊖ k)(x) = min { f(x + z) − k(z) : z ∈ K }.

    Args:
        f: the image, (H, W).
        k: the structuring function, (k₁, k₂).

    Returns:
        (H − k₁ + 1, W − k₂ + 1), the x for which all x + z lie in f's domain.

    Implemented by `cnnvjp.min_plus_conv` with −k. [Haralick, Sternberg and Zhuang 1987] the
    theorem on grey-scale erosion.
    """
    f, k = given("f", f, 2), given("k", k, 2)
    image, structure = from_0(f), from_0(k)
    rows, cols = sizes_within(f.shape, k.shape)
    result = np.empty((rows, cols))
    for x1, x2 in over((0, rows - 1), (0, cols - 1)):
        result[x1, x2] = min(
            image[x1 + z1, x2 + z2] - structure[z1, z2]
            for z1, z2 in over((0, k.shape[0] - 1), (0, k.shape[1] - 1))
        )
    return result
