"""Arguments that positions share: one number per channel, or per neuron, or one for all."""

from typing import Any

import jax
import jax.numpy as jnp

from cnnvjp._arguments import accumulator


def broadcast_to(b: jax.Array, z: jax.Array) -> jax.Array:
    """`b`, of the shape of z's last axes, with axes of size 1 for those that share it."""
    return jnp.expand_dims(b, tuple(range(z.ndim - b.ndim)))


def sum_shared(dy: jax.Array, b: jax.Array) -> jax.Array:
    """The adjoint of `broadcast_to`: sums dy over the axes that share b, its leading ones."""
    shared = tuple(range(dy.ndim - b.ndim))
    return jnp.sum(dy, shared, dtype=accumulator(dy.dtype)).astype(b.dtype)


def check_suffix(name: str, b: Any, z: jax.Array, *, smallest: int) -> None:
    """Checks that b has the shape of z's last axes, of at least `smallest` of them."""
    if not smallest <= b.ndim <= z.ndim or b.shape != z.shape[z.ndim - b.ndim :]:
        tied = ", ".join(["()"] * (smallest == 0) + [str(z.shape[-1:])])
        raise ValueError(
            f"{name}: got the shape {b.shape}; beside an array of shape {z.shape} it must be tied, "
            f"{tied}, or untied, of the shape of the last axes"
        )
