"""[ST] Jaderberg et al., *Spatial Transformer Networks* (2015), 1 and 3 to 7; [K] Keys (1981).

An image U is (rows, cols); U_nm is its pixel in row n and column m, both counted from 0. Points are
(P, 2), each (x, y): x goes along the columns, y along the rows. A source that counts from 1 counts
points and pixels alike, and gives the same numbers.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from cnnvjp.equations._notation import Array, given, over, require

__all__ = [
    "k_kernel",
    "st_1",
    "st_3",
    "st_4",
    "st_5",
    "st_6",
    "st_7",
]


def st_1(A: ArrayLike, G: ArrayLike) -> Array:
    """An affine map of the output's points: (x^s, y^s) = A (x^t, y^t, 1).

    Args:
        A: A_θ, (2, 3).
        G: the points (x^t, y^t), (P, 2).

    Returns:
        The points (x^s, y^s), (P, 2).

    Implemented by `cnnvjp.affine_positions`. [ST] 1.
    """
    A, G = given("A", A, 2), _points("G", G)
    require(A.shape == (2, 3), f"A must be (2, 3), got {A.shape}")
    mapped = np.zeros_like(G)
    for i, row in over((0, len(G) - 1), (0, 1)):
        mapped[i, row] = A[row, 0] * G[i, 0] + A[row, 1] * G[i, 1] + A[row, 2]
    return mapped


def st_3(U: ArrayLike, points: ArrayLike, k: Callable[[float], float]) -> Array:
    """Sampling with any kernel: V_i = Σ_n Σ_m U_nm k(x_i − m) k(y_i − n).

    Args:
        U: the image, (rows, cols), 0 outside.
        points: (x_i, y_i), (P, 2).
        k: the kernel, a function of a number.

    Implemented by `cnnvjp.sample` (``padding="zeros"``). [ST] 3.
    """
    U, points = given("U", U, 2), _points("points", points)
    V = np.zeros(len(points))
    for i, n, m in over((0, len(points) - 1), *_pixels(U.shape)):
        x, y = points[i]
        V[i] += U[n, m] * k(x - m) * k(y - n)
    return V


def st_4(U: ArrayLike, points: ArrayLike) -> Array:
    """The nearest pixel: V_i = Σ_n Σ_m U_nm δ(⌊x_i + 0.5⌋ − m) δ(⌊y_i + 0.5⌋ − n).

    Of two equally near pixels it is the later one, where PyTorch takes the even one.

    Args:
        U: the image, (rows, cols), 0 outside.
        points: (x_i, y_i), (P, 2).

    Implemented by `cnnvjp.sample` (``method="nearest"``). [ST] 4.
    """
    U, points = given("U", U, 2), _points("points", points)
    V = np.zeros(len(points))
    for i, n, m in over((0, len(points) - 1), *_pixels(U.shape)):
        x, y = points[i]
        V[i] += U[n, m] * (math.floor(x + 0.5) == m) * (math.floor(y + 0.5) == n)
    return V


def st_5(U: ArrayLike, points: ArrayLike) -> Array:
    """Bilinear sampling: V_i = Σ_n Σ_m U_nm max(0, 1 − |x_i − m|) max(0, 1 − |y_i − n|).

    Args:
        U: the image, (rows, cols), 0 outside.
        points: (x_i, y_i), (P, 2).

    Implemented by `cnnvjp.sample`. [ST] 5.
    """
    return st_3(U, points, lambda d: max(0.0, 1.0 - abs(d)))


def st_6(points: ArrayLike, size: tuple[int, int]) -> Array:
    """Its derivative by the image: ∂V_i/∂U_nm = max(0, 1 − |x_i − m|) max(0, 1 − |y_i − n|).

    Args:
        points: (x_i, y_i), (P, 2).
        size: that of the image, (rows, cols).

    Returns:
        (P, rows, cols).

    Implemented by the rule of `cnnvjp.sample` to x. [ST] 6.
    """
    points = _points("points", points)
    dV = np.zeros((len(points), *size))
    for i, n, m in over((0, len(points) - 1), *_pixels(size)):
        x, y = points[i]
        dV[i, n, m] = max(0.0, 1.0 - abs(x - m)) * max(0.0, 1.0 - abs(y - n))
    return dV


def st_7(U: ArrayLike, points: ArrayLike) -> Array:
    """Its derivative by the points: ∂V_i/∂x_i = Σ_n Σ_m U_nm max(0, 1 − |y_i − n|) · s(m).

    s(m) = 0 where |m − x_i| ≥ 1, 1 where m ≥ x_i, and −1 where m < x_i. "Similarly" for y.

    Where x is an integer the cases leave the pixel m = x alone with the slope 1, which is the
    derivative from neither side. From the right it is U_n,x+1 − U_n,x: there pixels with m > x
    have the slope 1, and those with x − 1 < m ≤ x the slope −1, as in `cnnvjp.sample`.

    Args:
        U: the image, (rows, cols), 0 outside.
        points: (x_i, y_i), (P, 2).

    Returns:
        (∂V_i/∂x_i, ∂V_i/∂y_i), (P, 2).

    Implemented by the rule of `cnnvjp.sample` to positions. [ST] 7.
    """
    U, points = given("U", U, 2), _points("points", points)

    def s(m: int, x: float) -> float:
        if abs(m - x) >= 1:
            return 0.0
        return 1.0 if m >= x else -1.0

    dV = np.zeros((len(points), 2))
    for i, n, m in over((0, len(points) - 1), *_pixels(U.shape)):
        x, y = points[i]
        dV[i, 0] += U[n, m] * max(0.0, 1.0 - abs(y - n)) * s(m, x)
        dV[i, 1] += U[n, m] * max(0.0, 1.0 - abs(x - m)) * s(n, y)
    return dV


def k_kernel(d: float, a: float) -> float:
    """The cubic convolution kernel, of which a is the slope at the distance 1.

    (a + 2)|d|³ − (a + 3)|d|² + 1 up to 1; a|d|³ − 5a|d|² + 8a|d| − 4a up to 2; 0 beyond.

    Args:
        d: the distance of a point from a pixel.
        a: −½ in the source; −¾ in PyTorch and here.

    Implemented by `cnnvjp.sample` (``method="cubic"``). [K] the kernel before a is chosen.
    """
    d = abs(d)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    if d < 2:
        return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return 0.0


def _points(name: str, value: ArrayLike) -> Array:
    points = given(name, value, 2)
    require(points.shape[1] == 2, f"{name} must be (P, 2), got {points.shape}")
    return points


def _pixels(size: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    return tuple((0, n - 1) for n in size)
