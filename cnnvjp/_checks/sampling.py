"""Checks of images and the positions at which they are read."""

import math
from collections.abc import Callable

import jax
from jax.sharding import NamedSharding, PartitionSpec, reshard

from cnnvjp._checks.arrays import operands
from cnnvjp._types import accumulator, primal_type, unify_varying
from cnnvjp._windows.spatial import occupied_size


def sampling_operands(x: object, positions: object) -> tuple[jax.Array, jax.Array]:
    """Images and positions, which have their dtype, or float32 where that has 16 bits."""
    (images,), (places,) = operands(x=x), operands(positions=positions)
    if places.dtype not in (images.dtype, accumulator(images.dtype)):
        operands(x=images, positions=places)  # says which of them to cast
    images, places = unify_varying(images, places)
    return images, places


def check_positions(x: jax.Array, positions: jax.Array) -> int:
    """Checks the shapes (*batch, *spatial, C) and (*batch, *out, D), and returns D."""
    ndim = positions.shape[-1] if positions.ndim else 0
    if not 1 <= ndim <= 3:
        raise ValueError(
            f"positions: got the shape {positions.shape}; it must be (*batch, *out, D) with D of "
            "1, 2 or 3"
        )
    occupied_size(x.shape, ndim)
    batch = x.shape[: -1 - ndim]
    if positions.shape[: len(batch)] != batch or positions.ndim < len(batch) + 2:
        expected = "".join(f"{n}, " for n in batch)
        raise ValueError(
            f"positions: got the shape {positions.shape}; for x of shape {x.shape} it must be "
            f"({expected}*out, {ndim}) with at least one axis in out"
        )
    return ndim


def on_images_and_positions(
    core: Callable[[jax.Array, jax.Array], jax.Array],
    ndim: int,
    x: jax.Array,
    positions: jax.Array,
) -> jax.Array:
    """Calls `core` with the batch axes merged into one, and the axes of the output into another.

    Args:
        core: takes (N, *spatial, C) and (N, P, D), and returns (N, P, C).
        ndim: D.
        x: (*batch, *spatial, C).
        positions: (*batch, *out, D).
    """
    batch = x.shape[: -1 - ndim]
    out = positions.shape[len(batch) : -1]
    x, positions = _divided_over_the_batch(x, positions, len(batch))
    try:
        images = x.reshape(math.prod(batch), *x.shape[len(batch) :])
        places = positions.reshape(math.prod(batch), math.prod(out), ndim)
    except Exception as error:
        if "shard" not in str(error):
            raise
        raise ValueError(
            f"x: its batch axes {batch} are sharded as {jax.typeof(x).sharding.spec} and cannot "
            "be merged; shard the first of them alone, or use jax.vmap for the others"
        ) from error
    y = core(images, places)
    return y.reshape(*batch, *out, y.shape[-1])


def _divided_over_the_batch(
    x: jax.Array, positions: jax.Array, count: int
) -> tuple[jax.Array, jax.Array]:
    """On a mesh with Explicit axes, each image whole, beside its positions."""
    shardings = [primal_type(a).sharding for a in (x, positions)]
    explicit = [sharding for sharding in shardings if sharding is not None]
    if not explicit:
        return x, positions
    divided = [s.spec[:count] for s in explicit if any(s.spec[:count])]
    batch = divided[0] if divided else (None,) * count
    mesh = explicit[0].mesh
    x, positions = (
        reshard(a, NamedSharding(mesh, PartitionSpec(*batch, *(None,) * (a.ndim - count))))
        for a in (x, positions)
    )
    return x, positions
