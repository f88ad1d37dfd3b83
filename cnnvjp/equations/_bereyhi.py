"""[B] Bereyhi, *Applied Deep Learning*, chapter 4, slides on backpropagation (2026).

A map is (rows, cols), a tensor (channels, rows, cols), a bank of K filters with C channels
(K, C, rows, cols), so that ``W[k, c]`` is the source's W_k[c]. ∇Z R̂ is called G. The source
numbers no equations; each function names its slide. Its examples, with x₁ … x₉ and w₁ … w₄ counted
row by row, are the 3×3 and 2×2 cases.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from cnnvjp.equations._notation import (
    Array,
    from_1,
    given,
    over,
    require,
    rot180,
    sizes_within,
)

__all__ = [
    "b_activation_backward",
    "b_convolution",
    "b_convolution_1d",
    "b_convolution_3d",
    "b_convolution_backward",
    "b_depthwise_convolution",
    "b_downsampling",
    "b_downsampling_backward",
    "b_filter_gradient",
    "b_max_pooling",
    "b_max_pooling_backward",
    "b_mean_pooling",
    "b_mean_pooling_backward",
    "b_multi_channel",
    "b_multi_channel_backward",
    "b_multi_channel_filter_gradient",
    "b_rearranged_filters",
    "b_upsampling",
    "b_upsampling_backward",
]


def b_max_pooling(Y: ArrayLike, size: tuple[int, int]) -> Array:
    """Largest value of every window, at stride 1.

    Args:
        Y: the map, (H, W).
        size: rows and columns of the window.

    Returns:
        (H − rows + 1, W − cols + 1).

    Implemented by `cnnvjp.max_pool` (``stride=1``). [B] Max-Pooling.
    """
    Y = given("Y", Y, 2)
    rows, cols = sizes_within(Y.shape, size)
    pooled = np.zeros((rows, cols))
    for i, j in over((0, rows - 1), (0, cols - 1)):
        pooled[i, j] = max(Y[pixel] for pixel in _window(i, j, size))
    return pooled


def b_max_pooling_backward(G: ArrayLike, Y: ArrayLike, size: tuple[int, int]) -> Array:
    """Add each pooled derivative to the pixel that won its window.

    ∂R̂/∂y_j = Σ_i ∂R̂/∂ŷ_i ∂ŷ_i/∂y_j, where ∂ŷ_i/∂y_j = 1 if y_j won window i, else 0

    Among equal pixels the first in row-major order wins; the source does not say.

    Args:
        G: gradient with respect to the pooled map, (H − rows + 1, W − cols + 1).
        Y: the map that was pooled, (H, W).
        size: rows and columns of the window.

    Implemented by `cnnvjp.max_pool`. [B] Backpropagation: Max-Pooling.
    """
    Y = given("Y", Y, 2)
    G = _gradient(G, Y.shape, size)
    dY = np.zeros_like(Y)
    for i, j in over((0, G.shape[0] - 1), (0, G.shape[1] - 1)):
        winner = max(_window(i, j, size), key=lambda pixel: Y[pixel])
        dY[winner] += G[i, j]
    return dY


def b_mean_pooling(Y: ArrayLike, size: tuple[int, int]) -> Array:
    """Mean of every window, at stride 1.

    Args:
        Y: the map, (H, W).
        size: rows and columns of the window.

    Implemented by `cnnvjp.avg_pool` (``stride=1``). [B] Mean-Pooling.
    """
    Y = given("Y", Y, 2)
    rows, cols = sizes_within(Y.shape, size)
    pooled = np.zeros((rows, cols))
    for i, j in over((0, rows - 1), (0, cols - 1)):
        pooled[i, j] = sum(Y[pixel] for pixel in _window(i, j, size)) / (size[0] * size[1])
    return pooled


def b_mean_pooling_backward(
    G: ArrayLike, size: tuple[int, int], input_size: tuple[int, int]
) -> Array:
    """Add an equal share of each pooled derivative to every pixel of its window.

    ∂R̂/∂y_j = Σ_{i: y_j in window i} 1/(rows·cols) ∂R̂/∂ŷ_i

    This is a convolution of the zero-padded G with a filter of equal weights.

    Args:
        G: gradient with respect to the pooled map, (H − rows + 1, W − cols + 1).
        size: rows and columns of the window.
        input_size: (H, W).

    Implemented by `cnnvjp.avg_pool`. [B] Backward Pass: Mean-Pooling.
    """
    G, dY = _gradient(G, input_size, size), np.zeros(input_size)
    for i, j in over((0, G.shape[0] - 1), (0, G.shape[1] - 1)):
        for pixel in _window(i, j, size):
            dY[pixel] += G[i, j] / (size[0] * size[1])
    return dY


def b_activation_backward(G: ArrayLike, Z: ArrayLike, f_dot: Callable[[float], float]) -> Array:
    """Back through the entry-wise activation Y = f(Z): ∇Z R̂ = ∇Y R̂ ⊙ ḟ(Z).

    Args:
        G: ∇Y R̂, of Z's shape.
        Z: the activation's argument, any shape.
        f_dot: derivative of the activation at one number.

    Implemented by the activations, such as `cnnvjp.relu`. [B] Activation.
    """
    G, Z = given("G", G, np.ndim(G)), given("Z", Z, np.ndim(Z))
    require(G.shape == Z.shape, f"G {G.shape} and Z {Z.shape} differ in shape")
    dZ = np.zeros_like(Z)
    for entry in np.ndindex(Z.shape):
        dZ[entry] = G[entry] * f_dot(float(Z[entry]))
    return dZ


def b_convolution(X: ArrayLike, W: ArrayLike) -> Array:
    """Two-dimensional convolution at stride 1: Z = Conv(X, W), a cross-correlation.

    z_ij = Σ_m Σ_n w_mn x_i+m−1,j+n−1; in the example z₁ = w₁ x₁ + w₂ x₂ + w₃ x₄ + w₄ x₅

    Args:
        X: the input map, (H, W).
        W: the filter, (rows, cols).

    Implemented by `cnnvjp.conv`. [B] 2D Convolution.
    """
    X, W = given("X", X, 2), given("W", W, 2)
    rows, cols = sizes_within(X.shape, W.shape)
    Z = np.zeros((rows, cols))
    z, w, x = from_1(Z), from_1(W), from_1(X)
    for i, j in over((1, rows), (1, cols)):
        for m, n in over((1, W.shape[0]), (1, W.shape[1])):
            z[i, j] += w[m, n] * x[i + m - 1, j + n - 1]
    return Z


def b_convolution_backward(G: ArrayLike, W: ArrayLike) -> Array:
    """Convolve the zero-padded output gradient with the reversed filter: ∇X R̂ = Conv(G, W̌).

    W̌ is W reversed up to down and left to right. For a forward convolution without padding, G gets
    one row or column of zeros fewer than W has, on each side.

    Args:
        G: ∇Z R̂, (H − rows + 1, W − cols + 1).
        W: the filter, (rows, cols).

    Returns:
        ∇X R̂, (H, W).

    Implemented by `cnnvjp.conv_transpose`. [B] Backpropagation through 2D Convolution.
    """
    G, W = given("G", G, 2), given("W", W, 2)
    rows, cols = W.shape
    padded = np.pad(G, ((rows - 1, rows - 1), (cols - 1, cols - 1)))
    return b_convolution(padded, rot180(W))


def b_filter_gradient(X: ArrayLike, G: ArrayLike) -> Array:
    """Convolve the input map with the output gradient: ∇W R̂ = Conv(X, G).

    Args:
        X: the input map, (H, W).
        G: ∇Z R̂, (H − rows + 1, W − cols + 1).

    Returns:
        ∇W R̂, (rows, cols).

    Implemented by `cnnvjp.conv_kernel_grad`. [B] Gradient w.r.t. Filters.
    """
    return b_convolution(X, G)


def b_multi_channel(X: ArrayLike, W: ArrayLike) -> Array:
    """Convolve a tensor with K filters: Z[k] = Σ_c=1…C Conv(X[c], W_k[c]).

    Args:
        X: the input tensor, (C, H, W).
        W: the filters, (K, C, rows, cols).

    Returns:
        Z, (K, H − rows + 1, W − cols + 1).

    Implemented by `cnnvjp.conv`. [B] Multi-Channel Convolution.
    """
    X, W = given("X", X, 3), given("W", W, 4)
    K, C = W.shape[:2]
    require(X.shape[0] == C, f"X {X.shape} and W {W.shape} differ in channels")
    return np.stack([sum(b_convolution(X[c], W[k, c]) for c in range(C)) for k in range(K)])


def b_rearranged_filters(W: ArrayLike) -> Array:
    """The C filters of the backward pass: W†_c = [W̌_1[c], …, W̌_K[c]].

    Args:
        W: the filters, (K, C, rows, cols).

    Returns:
        W†, (C, K, rows, cols).

    Implemented by `cnnvjp.conv_transpose`. [B] Multi-Channel Convolution.
    """
    W = given("W", W, 4)
    K, C = W.shape[:2]
    return np.stack([np.stack([rot180(W[k, c]) for k in range(K)]) for c in range(C)])


def b_multi_channel_backward(G: ArrayLike, W: ArrayLike) -> Array:
    """Convolve the zero-padded output gradient with C rearranged filters.

    ∇X R̂ = Conv(G, W†_1, …, W†_C), so that ∇X[c] R̂ = Σ_k=1…K Conv(G[k], W̌_k[c])

    The slide's result ends at W†_K; see `b_multi_channel_backward_as_printed`.

    Args:
        G: ∇Z R̂, (K, H − rows + 1, W − cols + 1).
        W: the filters, (K, C, rows, cols).

    Returns:
        ∇X R̂, (C, H, W).

    Implemented by `cnnvjp.conv_transpose`. [B] Backpropagation through Multi-Channel Convolution.
    """
    G, W = given("G", G, 3), given("W", W, 4)
    require(G.shape[0] == W.shape[0], f"G {G.shape} and W {W.shape} differ in output channels")
    rows, cols = W.shape[2:]
    padded = np.pad(G, ((0, 0), (rows - 1, rows - 1), (cols - 1, cols - 1)))
    return b_multi_channel(padded, b_rearranged_filters(W))


def b_multi_channel_filter_gradient(X: ArrayLike, G: ArrayLike) -> Array:
    """Convolve each input channel with each output gradient: ∇W_k[c] R̂ = Conv(X[c], G[k]).

    Args:
        X: the input tensor, (C, H, W).
        G: ∇Z R̂, (K, H − rows + 1, W − cols + 1).

    Returns:
        (K, C, rows, cols).

    Implemented by `cnnvjp.conv_kernel_grad`. [B] Backpropagation through Convolution: Summary.
    """
    X, G = given("X", X, 3), given("G", G, 3)
    return np.stack([np.stack([b_filter_gradient(x, g) for x in X]) for g in G])


def b_downsampling(X: ArrayLike, S: int) -> Array:
    """Keep every S-th row and column: dSample(X, S), z_ij = x_(i−1)S+1,(j−1)S+1.

    Args:
        X: the map, (H, W).
        S: the factor.

    Returns:
        (⌈H / S⌉, ⌈W / S⌉).

    Implemented by `cnnvjp.downsample`. [B] Downsampling.
    """
    X = given("X", X, 2)
    rows, cols = sizes_within(X.shape, (1, 1), S)
    Z = np.zeros((rows, cols))
    z, x = from_1(Z), from_1(X)
    for i, j in over((1, rows), (1, cols)):
        z[i, j] = x[(i - 1) * S + 1, (j - 1) * S + 1]
    return Z


def b_upsampling(X: ArrayLike, S: int) -> Array:
    """Put S − 1 zeros between neighbours: uSample(X, S), z_(i−1)S+1,(j−1)S+1 = x_ij, others 0.

    Args:
        X: the map, (H, W).
        S: the factor.

    Returns:
        ((H − 1)S + 1, (W − 1)S + 1).

    Implemented by `cnnvjp.upsample`. [B] Upsampling.
    """
    X = given("X", X, 2)
    require(S >= 1, f"the factor must be at least 1, got {S}")
    rows, cols = X.shape
    Z = np.zeros(((rows - 1) * S + 1, (cols - 1) * S + 1))
    z, x = from_1(Z), from_1(X)
    for i, j in over((1, rows), (1, cols)):
        z[(i - 1) * S + 1, (j - 1) * S + 1] = x[i, j]
    return Z


def b_downsampling_backward(G: ArrayLike, S: int, input_size: tuple[int, int]) -> Array:
    """Upsample the output gradient, then append zeros up to the input's size.

    The slide only upsamples, which gives the input's size if S divides H − 1 and W − 1; see
    `b_downsampling_backward_as_printed`.

    Args:
        G: ∇Z R̂, (⌈H / S⌉, ⌈W / S⌉).
        S: the factor of the forward pass.
        input_size: (H, W).

    Implemented by `cnnvjp.downsample`. [B] Backpropagation through Downsampling.
    """
    G = given("G", G, 2)
    expected = sizes_within(input_size, (1, 1), S)
    require(G.shape == expected, f"G must have shape {expected}, got {G.shape}")
    dX = np.zeros(input_size)
    upsampled = b_upsampling(G, S)
    dX[: upsampled.shape[0], : upsampled.shape[1]] = upsampled
    return dX


def b_upsampling_backward(G: ArrayLike, S: int) -> Array:
    """Downsample the output gradient: ∇X R̂ = dSample(G, S).

    Args:
        G: ∇Z R̂, ((H − 1)S + 1, (W − 1)S + 1).
        S: the factor of the forward pass.

    Returns:
        ∇X R̂, (H, W).

    Implemented by `cnnvjp.upsample`. [B] Backpropagation through Upsampling.
    """
    return b_downsampling(G, S)


def b_convolution_1d(X: ArrayLike, W: ArrayLike) -> Array:
    """A filter that slides along one axis: z_i = Σ_m w_m x_i+m−1.

    Args:
        X: the signal, (n,).
        W: the filter, (k,).

    Implemented by `cnnvjp.conv`. [B] Other Forms of Convolution.
    """
    return _convolution(given("X", X, 1), given("W", W, 1))


def b_convolution_3d(X: ArrayLike, W: ArrayLike) -> Array:
    """A filter that slides along three axes: z_ijk = Σ_l Σ_m Σ_n w_lmn x_i+l−1,j+m−1,k+n−1.

    Args:
        X: the volume, (depth, rows, cols).
        W: the filter, (depth, rows, cols).

    Implemented by `cnnvjp.conv`. [B] Other Forms of Convolution.
    """
    return _convolution(given("X", X, 3), given("W", W, 3))


def b_depthwise_convolution(X: ArrayLike, W: ArrayLike) -> Array:
    """One filter for each channel, and no sum over the channels: Z[c] = Conv(X[c], W[c]).

    Args:
        X: the input tensor, (C, H, W).
        W: the filters, (C, rows, cols).

    Implemented by `cnnvjp.conv` (``groups=C``). [B] Other Forms of Convolution.
    """
    X, W = given("X", X, 3), given("W", W, 3)
    require(X.shape[0] == W.shape[0], f"X {X.shape} and W {W.shape} differ in channels")
    return np.stack([b_convolution(x, w) for x, w in zip(X, W, strict=True)])


def _convolution(X: Array, W: Array) -> Array:
    """Every tap of the filter at every place of it, in any number of dimensions."""
    Z = np.zeros(sizes_within(X.shape, W.shape))
    for place in np.ndindex(Z.shape):
        for tap in np.ndindex(W.shape):
            Z[place] += W[tap] * X[tuple(p + t for p, t in zip(place, tap, strict=True))]
    return Z


def _window(i: int, j: int, size: tuple[int, int]) -> list[tuple[int, int]]:
    """The pixels of the window that begins at (i, j), in row-major order."""
    return [(i + m, j + n) for m, n in over((0, size[0] - 1), (0, size[1] - 1))]


def _gradient(G: ArrayLike, input_size: tuple[int, ...], size: tuple[int, int]) -> Array:
    G, expected = given("G", G, 2), sizes_within(input_size, size)
    require(G.shape == expected, f"G must have shape {expected}, got {G.shape}")
    return G
