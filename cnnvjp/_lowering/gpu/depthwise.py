"""Depthwise convolution: every output channel sees one input channel, c = o // multiplier.

Nothing is summed over channels, so each tap is one multiply-add of whole arrays. XLA:GPU compiles
all taps of a forward pass or an input gradient to one loop over the result (JAX 0.11.2, for an
H100), which reads its operands from memory once; a further tap costs reads from the cache only. It
fuses no more than two of the reductions of a kernel gradient, so that tap by tap x and dy are read
for every two taps; in pieces they are read once.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnvjp._types import Precision
from cnnvjp._windows import tiles
from cnnvjp._windows.axes import broadcast_to, pad_spatial, split_axis
from cnnvjp._windows.geometry import Window
from cnnvjp._windows.taps import Tap, place, reduce_taps, spanned, stack_taps, tap

_PIECES = range(16, 32)  # positions of a piece: of 32, XLA would make a reduction of its own
_LANES = 32  # channels of a piece, side by side in memory


def correlate(
    x: jax.Array, w: jax.Array, window: Window, groups: int, precision: Precision = None
) -> jax.Array:
    """y[i, o] = Σ over m of x[i·s + d·m, o // multiplier] w[m, o]."""
    x = spanned(_repeated(x, w.shape[-1]), window, 0)
    return reduce_taps(window, lambda m: _times(tap(x, window, m), w, m), lax.add)


def input_gradient(
    dy: jax.Array, w: jax.Array, window: Window, groups: int, precision: Precision = None
) -> jax.Array:
    """dx[j, c] = Σ over i·s + d·m = j, and the o of c, of dy[i, o] w[m, o]."""
    if tiles.fit(window):
        dx = tiles.combined(window, (dy,), lambda m, dy: _of_tile(dy, w, window, m), lax.add)
    else:
        dx = reduce_taps(window, lambda m: place(_times(dy, w, m), window, m), lax.add)
    return jnp.sum(split_axis(dx, dx.ndim - 1, (groups, w.shape[-1] // groups)), axis=-1)


def kernel_gradient(
    x: jax.Array, dy: jax.Array, window: Window, groups: int, precision: Precision = None
) -> jax.Array:
    """dw[m, o] = Σ over n, i of x[n, i·s + d·m, o // multiplier] dy[n, i, o], tap by tap."""
    x = spanned(_repeated(x, dy.shape[-1]), window, 0)
    positions = tuple(range(dy.ndim - 1))
    dw = stack_taps(window, lambda m: jnp.sum(tap(x, window, m) * dy, positions))
    return dw.reshape(*window.size, 1, dy.shape[-1])


def kernel_gradient_in_pieces(
    x: jax.Array, dy: jax.Array, window: Window, groups: int, precision: Precision = None
) -> jax.Array:
    """`kernel_gradient`, first for pieces of a few positions, then summed over the pieces.

    One loop computes the pieces of all taps: a thread sums one piece for one tap, and its
    neighbours read the same positions from the cache for the taps beside it.
    """
    n, c = dy.shape[0], dy.shape[-1]
    x = spanned(_repeated(x, c), window, 0)
    first = _on_line(window.output_size, window.stride, x.shape[1:-1])
    offset = _on_line(window.size, window.dilation, x.shape[1:-1])
    each = min(_PIECES, key=lambda count: (-first.size % count, -count))
    rest = -first.size % each  # zeros, with which the last piece is filled
    lanes = _LANES if c % _LANES == 0 else c
    x, dy = x.reshape(n, -1, c), dy.reshape(n, -1, c)
    x, dy = pad_spatial(x, [(0, 1)]), pad_spatial(dy, [(0, rest)])
    first = np.pad(first, (0, rest), constant_values=x.shape[1] - 1).reshape(-1, 1, each)

    places = jnp.asarray(first, "int32") + jnp.asarray(offset[None, :, None], "int32")
    seen = jnp.take(x.reshape(n, -1, c // lanes, lanes), places, axis=1, mode="clip")
    sums = jnp.sum(seen * dy.reshape(n, -1, 1, each, c // lanes, lanes), 3)
    sums = lax.optimization_barrier(jnp.swapaxes(sums, 2, 3).reshape(-1, c * window.taps))
    # As a product, which leaves the pieces where they are: a sum would have them transposed.
    ones = lax.full_like(sums, 1, shape=(1, sums.shape[0]))
    total = jnp.matmul(ones, sums, precision="highest").reshape(c // lanes, window.taps, lanes)
    return jnp.swapaxes(total, 0, 1).reshape(*window.size, 1, c)


def _on_line(counts: tuple[int, ...], steps: tuple[int, ...], size: tuple[int, ...]) -> np.ndarray:
    """Positions that are `steps` apart along each axis, numbered on images laid out as a line."""
    axes = [np.arange(count) * step for count, step in zip(counts, steps, strict=True)]
    return np.ravel_multi_index(np.ix_(*axes), size).ravel()


def _of_tile(dy: jax.Array, w: jax.Array, window: Window, m: np.ndarray) -> jax.Array:
    """The products of dy and the taps that a tile's pixels are; 0 where one is none, number −1.

    Args:
        dy: the entries of the windows whose taps they are.
        w: the kernel.
        window: where it stands.
        m: the taps' numbers, shaped like a tile; the first of them is one.
    """
    first = np.unravel_index(m.flat[0], window.size)
    ends = [min(a + s, k) for a, s, k in zip(first, window.stride, window.size, strict=True)]
    absent = [a + s - end for a, s, end in zip(first, window.stride, ends, strict=True)]
    taps = w[tuple(slice(a, end) for a, end in zip(first, ends, strict=True))][..., 0, :]
    taps = pad_spatial(taps, [(0, count) for count in absent])
    product = dy * taps.reshape(*m.shape[:-1], taps.shape[-1])
    return jnp.where(m >= 0, product, 0) if any(absent) else product


def _times(x: jax.Array, w: jax.Array, m: Tap) -> jax.Array:
    return x * broadcast_to(w[m][0], x)


def _repeated(x: jax.Array, channels: int) -> jax.Array:
    """Every channel once for each of the output channels that see it."""
    multiplier = channels // x.shape[-1]
    return x if multiplier == 1 else jnp.repeat(x, multiplier, axis=-1)
