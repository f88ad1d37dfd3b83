"""The devices of one process or several: how arrays are placed on them, and a network's outputs."""

import contextlib
import math
import warnings
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import chex
import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cnnvjp.compiling import jit
from cnnvjp.model import Model
from cnnvjp.training.batches import scaled
from cnnvjp.training.config import Config
from cnnvjp.training.errors import UsageError

Tree = TypeVar("Tree", bound=chex.ArrayTree)  # arrays, or their shapes

LARGEST_BATCH = 500  # images per batch in inference


def start_jax(config: Config) -> None:
    """Makes the devices that the options ask for, and connects the processes.

    Args:
        config: the options.
    """
    if config.onednn:  # whose programs JAX cannot keep in its persistent cache, and says so
        warnings.filterwarnings("ignore", "Error writing persistent compilation cache entry")
    simulated = jax.config.jax_num_cpu_devices  # type: ignore[attr-defined]
    if config.devices > max(1, simulated):
        # Accelerators are as many as there are, and so is everything once JAX has begun.
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", config.devices)
    if config.coordinator is None:
        return
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    address = None if config.coordinator == "auto" else config.coordinator
    jax.distributed.initialize(address, config.processes, config.process_id)


def first_process() -> bool:
    """Whether this is process 0, which alone writes files and prints."""
    return jax.process_index() == 0


class Layout(NamedTuple):
    """How arrays are placed on the devices of all processes.

    Attributes:
        mesh: the devices, along one axis.
        whole: the sharding of arrays that every device has a copy of.
        divided: the sharding of batches.
    """

    mesh: Mesh
    whole: NamedSharding
    divided: NamedSharding

    def batch(self, array: np.ndarray) -> jax.Array:
        """Assembles a batch, of which `array` is this process's share."""
        return jax.make_array_from_process_local_data(self.divided, array)

    def share(self, array: np.ndarray) -> np.ndarray:
        """This process's share of a batch that every process has."""
        size = len(array) // jax.process_count()
        return array[jax.process_index() * size : (jax.process_index() + 1) * size]

    def replicated(self, tree: Tree) -> Tree:
        """Copies a tree of arrays, the same in every process, to every device."""
        return jax.tree.map(lambda array: jax.device_put(array, self.whole), tree)

    def like(self, tree: Tree) -> Tree:
        """Shapes, dtypes and shardings of such a tree, as `Checkpoints.restore` needs them."""
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self.whole), tree
        )


def make_layout(devices: int = 1) -> Layout:
    """The layout on the first devices of each process.

    Args:
        devices: how many of each process; 0 for all.

    Returns:
        The layout.

    Raises:
        UsageError: if there are fewer devices.

    Example:
        >>> make_layout(1).mesh.size
        1
    """
    available = jax.local_device_count()
    if devices > available:
        raise UsageError(f"--devices: got {devices}; there are {available}")
    chosen = [
        device
        for process in range(jax.process_count())
        for device in [d for d in jax.devices() if d.process_index == process][: devices or None]
    ]
    mesh = Mesh(np.array(chosen), ("batch",), axis_types=(AxisType.Auto,))
    whole, divided = (
        NamedSharding(mesh, spec) for spec in (PartitionSpec(), PartitionSpec("batch"))
    )
    return Layout(mesh, whole, divided)


Outputs = Callable[[chex.ArrayTree, chex.ArrayTree, np.ndarray], np.ndarray]


def make_outputs(
    model: Model, mean: list[float], deviation: list[float], layout: Layout
) -> Outputs:
    """A compiled function for inference: `outputs(params, state, images) -> array`.

    Images pass through the network in batches of one size; the last is padded.

    Args:
        model: the network.
        mean: of the training images, per channel.
        deviation: of the training images, per channel.
        layout: the devices.

    Returns:
        The function. Its images are uint8, (N, height, width, C), and its result has N rows.
    """

    def of_batch(params: chex.ArrayTree, state: chex.ArrayTree, images: jax.Array) -> jax.Array:
        y, _ = model.apply(params, state, scaled(images, mean, deviation), train=False)
        return y

    compiled = jit(of_batch, out_shardings=layout.whole)

    def outputs(params: chex.ArrayTree, state: chex.ArrayTree, images: np.ndarray) -> np.ndarray:
        devices = layout.mesh.size
        size = math.ceil(min(LARGEST_BATCH, len(images)) / devices) * devices
        parts = []
        for start in range(0, len(images), size):
            part = images[start : start + size]
            missing = np.zeros((size - len(part), *part.shape[1:]), part.dtype)
            filled = np.concatenate([part, missing])
            batch = layout.batch(layout.share(filled))
            parts.append(np.asarray(compiled(params, state, batch))[: len(part)])
        return np.concatenate(parts)

    return outputs
