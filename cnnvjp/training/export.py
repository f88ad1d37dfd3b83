"""Export: a trained network, parameters and program, as one file that JAX alone runs."""

from typing import NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from cnnvjp.training.batches import scaled
from cnnvjp.training.runs import Run, predict

PLATFORMS = ("cpu", "cuda", "tpu")
TRIED = (1, 5)  # numbers of images on which the file is compared with the network
TOLERANCE = 1e-5  # of probabilities, and of images whose white is 1


class Export(NamedTuple):
    """An exported network.

    Attributes:
        content: the file's content, for `jax.export.deserialize`.
        difference: the largest difference between its results and the network's, on random images.
    """

    content: bytearray
    difference: float


def export_network(run: Run) -> Export:
    """Exports a trained network with its parameters.

    The file's program takes bytes, uint8 (N, height, width, C) for any N, and returns
    probabilities, or reconstructions; it runs on CPUs, NVIDIA GPUs and TPUs.

    Args:
        run: the network, from `load_run`.

    Returns:
        The file's content, compared with the network here.

    Raises:
        RuntimeError: if its results differ from the network's.
    """
    content = exported(run).serialize()
    return Export(content, compared(run, content))


def exported(run: Run) -> jax.export.Exported:
    """The network with its parameters, as an exported function of bytes.

    Args:
        run: the network, from `load_run`.

    Returns:
        The function, for every platform of `PLATFORMS`.
    """
    about = run.about
    # As constants of the program they're part of the file.
    params, state = jax.tree.map(np.asarray, (run.params, run.state))

    def network(images: jax.Array) -> jax.Array:
        x = scaled(images, about["mean"], about["deviation"])
        outputs, _ = run.task.model.apply(params, state, x, train=False)
        return run.task.prediction(outputs)

    shape = jax.export.symbolic_shape(", ".join(("N", *map(str, about["input_shape"]))))
    images = jax.ShapeDtypeStruct(shape, jnp.uint8)
    return jax.export.export(jax.jit(network), platforms=PLATFORMS)(images)


def compared(run: Run, content: bytearray) -> float:
    """Compares the results of an exported network with the network's, on random images.

    Args:
        run: the network.
        content: the file's content.

    Returns:
        The largest difference.

    Raises:
        RuntimeError: if it is larger than rounding explains.
    """
    network = jax.export.deserialize(content)
    rng, largest = np.random.default_rng(0), 0.0
    for count in TRIED:
        images = rng.integers(0, 256, (count, *run.about["input_shape"]), np.uint8)
        difference = np.abs(np.asarray(network.call(images)) - predict(run, images)).max()
        largest = max(largest, float(difference))
    if not largest <= TOLERANCE:
        raise RuntimeError(f"the exported network's results differ by {largest} from the network's")
    return largest
