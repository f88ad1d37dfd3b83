"""[GBC] Goodfellow, Bengio and Courville, *Deep Learning* (2016), chapter 9.

Kernels K are (out, in, rows, cols), images V are (in, rows, cols), outputs Z and their gradients
G are (out, rows, cols). Indices begin at 1.
"""

# ruff: noqa: E741 (the letters are the equations')

import numpy as np
from numpy.typing import ArrayLike

from cnnvjp.equations._notation import Array, from_1, given, over, require, sizes_within

__all__ = [
    "gbc_9_8",
    "gbc_9_9",
    "gbc_9_10",
    "gbc_9_11",
    "gbc_9_13",
    "gbc_input_sizes",
]


def gbc_9_8(K: ArrayLike, V: ArrayLike, s: int) -> Array:
    """Convolve a multi-channel image with a stack of kernels at stride s: Z = c(K, V, s).

    Z_i,j,k = Σ_l,m,n V_l,(j−1)s+m,(k−1)s+n K_i,l,m,n

    Args:
        K: the kernels, (out, in, rows, cols).
        V: the image, (in, rows, cols).
        s: the stride, the same for rows and columns.

    Returns:
        Z, (out, rows, cols), wherever the kernel lies within the image.

    Implemented by `cnnvjp.conv`. [GBC] 9.8.
    """
    K, V = given("K", K, 4), given("V", V, 3)
    require(K.shape[1] == V.shape[0], f"K {K.shape} and V {V.shape} differ in input channels")
    maps, channels, rows, cols = K.shape
    J, L = sizes_within(V.shape[1:], (rows, cols), s)

    Z = np.zeros((maps, J, L))
    z, v, kernel = from_1(Z), from_1(V), from_1(K)
    for i, j, k in over((1, maps), (1, J), (1, L)):
        for l, m, n in over((1, channels), (1, rows), (1, cols)):
            z[i, j, k] += v[l, (j - 1) * s + m, (k - 1) * s + n] * kernel[i, l, m, n]
    return Z


def gbc_9_9(w: ArrayLike, V: ArrayLike) -> Array:
    """Unshared convolution: every output has its own weights.

    Z_i,j,k = Σ_l,m,n V_l,j+m−1,k+n−1 w_i,j,k,l,m,n

    Args:
        w: the weights, (out, rows of Z, columns of Z, in, rows, cols).
        V: the image, (in, rows, cols).

    Returns:
        Z, (out, rows, cols).

    Implemented by `cnnvjp.local_conv`. [GBC] 9.9.
    """
    w, V = given("w", w, 6), given("V", V, 3)
    maps, J, L, channels, rows, cols = w.shape
    require(channels == V.shape[0], f"w {w.shape} and V {V.shape} differ in input channels")
    size = sizes_within(V.shape[1:], (rows, cols))
    require(size == (J, L), f"w has weights for {(J, L)} positions; Z has {size}")

    Z = np.zeros((maps, J, L))
    z, v, weights = from_1(Z), from_1(V), from_1(w)
    for i, j, k in over((1, maps), (1, J), (1, L)):
        for l, m, n in over((1, channels), (1, rows), (1, cols)):
            z[i, j, k] += v[l, j + m - 1, k + n - 1] * weights[i, j, k, l, m, n]
    return Z


def gbc_9_10(K: ArrayLike, V: ArrayLike) -> Array:
    """Tiled convolution: outputs cycle through t kernels along each axis.

    Z_i,j,k = Σ_l,m,n V_l,j+m−1,k+n−1 K_i,l,m,n,j%t+1,k%t+1

    The first output along an axis, j = 1, uses kernel 2 if t > 1; the output j = t uses kernel 1.

    Args:
        K: the kernels, (out, in, rows, cols, t, t), where the two t may differ: "straightforward to
            generalize".
        V: the image, (in, rows, cols).

    Returns:
        Z, (out, rows, cols), wherever the kernel lies within the image.

    Implemented by `cnnvjp.tiled_conv`. [GBC] 9.10.
    """
    K, V = given("K", K, 6), given("V", V, 3)
    require(K.shape[1] == V.shape[0], f"K {K.shape} and V {V.shape} differ in input channels")
    maps, channels, rows, cols, t, u = K.shape
    J, L = sizes_within(V.shape[1:], (rows, cols))

    Z = np.zeros((maps, J, L))
    z, v, kernel = from_1(Z), from_1(V), from_1(K)
    for i, j, k in over((1, maps), (1, J), (1, L)):
        for l, m, n in over((1, channels), (1, rows), (1, cols)):
            z[i, j, k] += v[l, j + m - 1, k + n - 1] * kernel[i, l, m, n, j % t + 1, k % u + 1]
    return Z


def gbc_9_11(G: ArrayLike, V: ArrayLike, s: int, kernel_size: tuple[int, int]) -> Array:
    """Gradient of the loss with respect to the kernels: g(G, V, s).

    g(G, V, s)_i,j,k,l = Σ_m,n G_i,m,n V_j,(m−1)s+k,(n−1)s+l

    Args:
        G: gradient with respect to Z, (out, rows, cols).
        V: the image, (in, rows, cols).
        s: the stride of the forward convolution.
        kernel_size: rows and columns of K, which G and V leave open if s > 1.

    Returns:
        The gradient, (out, in, rows, cols).

    Implemented by `cnnvjp.conv_kernel_grad`. [GBC] 9.11.
    """
    G, V = given("G", G, 3), given("V", V, 3)
    _require_output_size(G.shape[1:], V.shape[1:], kernel_size, s)
    (maps, M, N), (channels, _, _), (rows, cols) = G.shape, V.shape, kernel_size

    dK = np.zeros((maps, channels, rows, cols))
    dk, g, v = from_1(dK), from_1(G), from_1(V)
    for i, j, k, l in over((1, maps), (1, channels), (1, rows), (1, cols)):
        for m, n in over((1, M), (1, N)):
            dk[i, j, k, l] += g[i, m, n] * v[j, (m - 1) * s + k, (n - 1) * s + l]
    return dK


def gbc_9_13(K: ArrayLike, G: ArrayLike, s: int, input_size: tuple[int, int]) -> Array:
    """Gradient of the loss with respect to the image: h(K, G, s).

    h(K, G, s)_i,j,k = Σ_{l,m: (l−1)s+m = j} Σ_{n,p: (n−1)s+p = k} Σ_q K_q,i,m,p G_q,l,n

    Args:
        K: the kernels, (out, in, rows, cols).
        G: gradient with respect to Z, (out, rows, cols).
        s: the stride of the forward convolution.
        input_size: rows and columns of V; see `gbc_input_sizes` for why it must be told.

    Returns:
        The gradient, (in, rows, cols).

    Implemented by `cnnvjp.conv_transpose`. [GBC] 9.12 and 9.13.
    """
    K, G = given("K", K, 4), given("G", G, 3)
    require(K.shape[0] == G.shape[0], f"K {K.shape} and G {G.shape} differ in output channels")
    _require_output_size(G.shape[1:], input_size, K.shape[2:], s)
    (maps, channels, rows, cols), (_, L, N) = K.shape, G.shape

    def pairs(target: int, places: int, taps: int) -> list[tuple[int, ...]]:
        """Every (place, tap) at which the kernel touches pixel ``target``."""
        return [(l, m) for l, m in over((1, places), (1, taps)) if (l - 1) * s + m == target]

    dV = np.zeros((channels, *input_size))
    dv, kernel, g = from_1(dV), from_1(K), from_1(G)
    for i, j, k in over((1, channels), (1, input_size[0]), (1, input_size[1])):
        for l, m in pairs(j, L, rows):
            for n, p in pairs(k, N, cols):
                for (q,) in over((1, maps)):
                    dv[i, j, k] += kernel[q, i, m, p] * g[q, l, n]
    return dV


def gbc_input_sizes(output_size: int, kernel_size: int, s: int) -> list[int]:
    """Every input size that the forward convolution maps to the output size, along one axis.

    { n : ⌊(n − k) / s⌋ + 1 = output_size } = { (output_size − 1)s + k + r : r = 0 … s−1 }

    There are s of them: this is why the transpose must be told the size of its output.

    Args:
        output_size: size of Z along the axis.
        kernel_size: size of K along the axis.
        s: the stride.

    Implemented by `cnnvjp.conv_transpose` (``output_size``). [GBC], the text before 9.11.
    """
    smallest = (output_size - 1) * s + kernel_size
    return [smallest + remainder for remainder in range(s)]


def _require_output_size(
    output_size: tuple[int, ...], input_size: tuple[int, ...], kernel_size: tuple[int, ...], s: int
) -> None:
    expected = sizes_within(input_size, kernel_size, s)
    require(
        tuple(output_size) == expected,
        f"G has size {tuple(output_size)}; an input of size {tuple(input_size)}, a kernel of size "
        f"{tuple(kernel_size)} and stride {s} give {expected}",
    )
