"""Normalization of each channel by its neighbours at the same position."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
from jax import Array, lax

from cnnvjp._checks.arrays import operands
from cnnvjp._checks.compiled import call
from cnnvjp._checks.options import number_option, positive_int
from cnnvjp._types import widened
from cnnvjp._windows.geometry import Window
from cnnvjp._windows.spatial import per_axis
from cnnvjp._windows.taps import place, reduce_taps, spanned, tap


def local_response_norm(
    x: chex.Array, *, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> jax.Array:
    """Divides each channel by a power of the energy in `size` neighbouring channels.

        y[c] = x[c] / d[c]^beta,   d[c] = k + alpha / size · Σ over j of x[j]²

    where j runs over the channels from c − ⌊size/2⌋ to c + ⌊(size−1)/2⌋ that there are. This is
    PyTorch's; [Krizhevsky et al.] do not divide alpha by size.

    Gradient, with the sum over the channels c that have j among their neighbours:

        dx[j] = dy[j] / d[j]^beta − 2 · alpha · beta / size · x[j] · Σ dy[c] · x[c] / d[c]^(beta+1)

    Args:
        x: maps, (..., C).
        size: the number of neighbours, an int of at least 1.
        alpha: the weight of their mean square, a Python number of at least 0.
        beta: the exponent, a Python number.
        k: what is added, a Python number of at least 0. If it is 0, neighbours that are all zero
            give NaN.

    Returns:
        y, of x's shape and dtype.

    Raises:
        TypeError: if x is not a floating array.
        ValueError: if x has no axis, or an option is out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.array([1.0, 2.0, 3.0])
        >>> local_response_norm(x, size=3, alpha=3.0, beta=1.0, k=0.0)
        Array([0.2       , 0.14285715, 0.23076923], dtype=float32)

    Source: Krizhevsky, Sutskever and Hinton, "ImageNet Classification with Deep Convolutional
    Neural Networks" (2012), section 3.3.
    """
    (x,) = operands(x=x)
    if x.ndim < 1:
        raise ValueError(f"x: got the shape {x.shape}; it must be (..., C)")
    (size,) = per_axis("size", (positive_int("size", size),), 1)
    alpha = number_option("alpha", alpha, low=0)
    beta, k = number_option("beta", beta), number_option("k", k, low=0)
    return call(_local_response_norm, x, size, alpha, beta, k)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _local_response_norm(x, size, alpha, beta, k):
    y, _ = _normalized(x, size, alpha, beta, k)
    return y


def _normalized(x: Array, size: int, alpha: float, beta: float, k: float) -> tuple[Array, Array]:
    """y, and d in at least float32. The weight goes into x before x² could overflow."""
    window, weighted = _neighbours(x, size), _weighted(x, size, alpha)
    padded = spanned(weighted, window, 0)
    energy = reduce_taps(window, lambda m: jnp.square(tap(padded, window, m)), lax.add)
    d = k + energy[..., 0]
    return (widened(x) / d**beta).astype(x.dtype), d


def _neighbours(x: Array, size: int) -> Window:
    """A window over the channels, in the place of a spatial axis; no longer than it need be."""
    farthest = max(x.shape[-1] - 1, 0)
    before, after = min(size // 2, farthest), min((size - 1) // 2, farthest)
    return Window(x.shape[-1:], (before + 1 + after,), (1,), ((before, after),), (1,), (0,))


def _weighted(x: Array, size: int, alpha: float) -> Array:
    """√(alpha / size) · x, (..., C, 1)."""
    return (widened(x) * math.sqrt(alpha / size))[..., None]


def _local_response_norm_fwd(x, size, alpha, beta, k):
    y, d = _normalized(x, size, alpha, beta, k)
    return y, (x, d)  # d in at least float32


def _local_response_norm_bwd(size, alpha, beta, k, residuals, dy):
    # y = x · d^(−beta), where d[c] = k + Σ over the neighbours j of s[j]² with
    # s = √(alpha / size) · x. So x acts on y along two ways. What each passes on to x:
    #     1. directly:   dy · d^(−beta)
    #     2. through d:  −2 · beta · Σ over c of dy[c] · d[c]^(−beta) · s[c] · s[j] / d[c]
    # Each s is divided by √d by itself: the quotients are at most 1, and d² could overflow.
    x, d = residuals
    window = _neighbours(x, size)
    s, root = _weighted(x, size, alpha), jnp.sqrt(d)[..., None]
    direct = widened(dy) / d**beta  # 1
    # Computed once: XLA would repeat the powers for every tap.
    passed, root = lax.optimization_barrier((direct[..., None] * (s / root), root))
    padded = spanned(s, window, 0)
    through_d = reduce_taps(
        window, lambda m: place(passed * (tap(padded, window, m) / root), window, m), lax.add
    )  # 2
    return ((direct - 2 * beta * through_d[..., 0]).astype(x.dtype),)


_local_response_norm.defvjp(_local_response_norm_fwd, _local_response_norm_bwd)
