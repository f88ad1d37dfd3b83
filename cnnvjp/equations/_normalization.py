"""Normalizations that none of the five sources has, from the papers that introduced them."""

import numpy as np
from numpy.typing import ArrayLike

from cnnvjp.equations._notation import Array, given, over, require

__all__ = [
    "instance_normalization",
    "local_response",
]


def local_response(a: ArrayLike, n: int, k: float, alpha: float, beta: float) -> Array:
    """b_i = a_i / (k + α Σ_j=max(0,i−n/2)…min(N−1,i+n/2) a_j²)^β at every position (x, y).

    Args:
        a: the activities, (N, H, W).
        n: how many adjacent maps, odd.
        k: what is added.
        alpha: the weight of the sum.
        beta: the exponent.

    Implemented by `cnnvjp.local_response_norm`, whose alpha is n times this one. [Krizhevsky,
    Sutskever and Hinton 2012] section 3.3.
    """
    a = given("a", a, 3)
    require(n % 2 == 1, f"n must be odd, got {n}")
    N, H, W = a.shape
    b = np.zeros(a.shape)
    for i, x, y in over((0, N - 1), (0, H - 1), (0, W - 1)):
        total = 0.0
        for (j,) in over((max(0, i - n // 2), min(N - 1, i + n // 2))):
            total += a[j, x, y] ** 2
        b[i, x, y] = a[i, x, y] / (k + alpha * total) ** beta
    return b


def instance_normalization(x: ArrayLike, epsilon: float) -> Array:
    """y_tijk = (x_tijk − μ_ti) / √(σ²_ti + ε) with mean and variance over j, k alone.

    Args:
        x: the batch, (T, C, W, H).
        epsilon: ε.

    Implemented by `cnnvjp.instance_norm`. [Ulyanov, Vedaldi and Lempitsky 2016] the equations of
    instance normalization.
    """
    x = given("x", x, 4)
    T, C, W, H = x.shape
    y = np.zeros(x.shape)
    for t, i in over((0, T - 1), (0, C - 1)):
        mu = sum(x[t, i, j, k] for j, k in over((0, W - 1), (0, H - 1))) / (H * W)
        var = sum((x[t, i, j, k] - mu) ** 2 for j, k in over((0, W - 1), (0, H - 1))) / (H * W)
        for j, k in over((0, W - 1), (0, H - 1)):
            y[t, i, j, k] = (x[t, i, j, k] - mu) / np.sqrt(var + epsilon)
    return y
