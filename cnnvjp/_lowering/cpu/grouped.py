"""Grouped convolution: the channels fall into groups that do not see one another.

XLA:CPU runs the forward pass group by group and expands the kernel gradient to far more work
than there is. With few channels a group, the sums over them are unrolled into elementwise
work, as depthwise convolution's are. With more, neighbouring groups are merged until they are
worth a dense convolution; their kernel is block-diagonal, and the zeros cost less than the
small products would.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from cnnvjp._lowering.cpu.arrays import Phase, barrier, summed, times, woven
from cnnvjp._windows.axes import exchange_channels, pad_spatial, rot180
from cnnvjp._windows.geometry import Window
from cnnvjp._windows.taps import each_tap, tap

# Beside each number milliseconds with it and with others, measured as those in `cpu`.

# Terms in one fusion: LLVM's loop is slower with more. Forward, 32 groups of 4 at 8×28×28: 1.5;
# with 6 1.6, with 36 1.8.
_TOGETHER = 18
# Channels that a block has at the least. Kernel gradient of the same: 3.9; with 8 3.7, with 32 4.8.
_CHANNELS = 16
# Blocks at the most: each is compiled. Forward, 32 groups of 16 at 8×14×14: 3.5; with 8 6.4.
_MOST = 32

Dense = Callable[..., jax.Array]


def correlate(x: jax.Array, w: jax.Array, window: Window, groups: int) -> jax.Array:
    """Σ over taps m and the group's channels c of x[i·s + d·m, c] w[m, c, o], term by term."""
    return _terms(barrier(pad_spatial(x, window.span)), w, window, groups)


def input_gradient(dy: jax.Array, w: jax.Array, window: Window, groups: int) -> jax.Array:
    """The same, phase by phase, with the kernel's channels exchanged within their groups."""
    w = barrier(exchange_channels(w, groups))

    def part(phase: Phase) -> jax.Array:
        taps = rot180(w[phase.kernel])
        return _terms(barrier(pad_spatial(dy, phase.window.padding)), taps, phase.window, groups)

    return woven(window, part, dy.shape[0], w.shape[-1], dy.dtype)


def _terms(x: jax.Array, w: jax.Array, window: Window, groups: int) -> jax.Array:
    channels = x.shape[-1] // groups
    kernel = w.reshape(*w.shape[:-1], groups, w.shape[-1] // groups)
    terms = []
    for m in each_tap(window):
        seen = tap(x, window, m)
        seen = seen.reshape(*seen.shape[:-1], groups, channels)
        terms += [times(seen[..., c : c + 1], kernel[m][c]) for c in range(channels)]
    y = summed(terms, _TOGETHER)
    return y.reshape(*y.shape[:-2], w.shape[-1])


def merged(images: jax.Array, w: jax.Array, groups: int, dense: Dense) -> jax.Array:
    """Blocks of merged groups, one dense forward pass or input gradient each.

    Args:
        images: x for the forward pass, dy for the input gradient.
        w: the kernel, (*kernel, C/G, O).
        groups: G.
        dense: the pass without groups.
    """
    q = _groups_in_block(groups, w.shape[-2], w.shape[-1] // groups)
    kernels = jnp.split(_block_diagonal(w, groups, q), groups // q, -1)
    return _in_turn(jnp.split(images, groups // q, -1), kernels, dense)


def merged_kernel_gradient(x: jax.Array, dy: jax.Array, groups: int, dense: Dense) -> jax.Array:
    """Blocks of merged groups, one dense kernel gradient each, of which the diagonals count."""
    q = _groups_in_block(groups, x.shape[-1] // groups, dy.shape[-1] // groups)
    parts = jnp.split(x, groups // q, -1), jnp.split(dy, groups // q, -1)
    dw = _in_turn(*parts, dense)
    *kernel, c, o = dw.shape
    dw = dw.reshape(*kernel, q, c // q, groups // q, q, o // groups)
    diagonal = jnp.stack([dw[..., g, :, :, g, :] for g in range(q)], -2)
    return diagonal.reshape(*kernel, c // q, o)


def _in_turn(a: list[jax.Array], b: list[jax.Array], dense: Dense) -> jax.Array:
    """dense(a, b) for the blocks, one after the other: their temporaries take the same place."""
    parts = [dense(a[0], b[0])]
    for mine, other in zip(a[1:], b[1:], strict=True):
        mine, other, parts[-1] = barrier((mine, other, parts[-1]))
        parts.append(dense(mine, other))
    return jnp.concatenate(parts, -1)


def _groups_in_block(groups: int, *channels: int) -> int:
    """How many groups make a block: a divisor of them all."""
    fitting = [q for q in range(1, groups + 1) if groups % q == 0 and groups // q <= _MOST]
    return next((q for q in fitting if q * min(channels) >= _CHANNELS), groups)


def _block_diagonal(w: jax.Array, groups: int, q: int) -> jax.Array:
    """(*kernel, C/G, O) -> (*kernel, q·C/G, O), zeros where a channel is another group's."""
    *kernel, c, o = w.shape
    w = w.reshape(*kernel, 1, c, groups // q, q, o // groups)
    own = jnp.eye(q, dtype=bool).reshape((1,) * len(kernel) + (q, 1, 1, q, 1))
    return jnp.where(own, w, 0).reshape(*kernel, q * c, o)
