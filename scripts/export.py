"""Writes a trained network as one file that needs nothing of this project to run.

    python scripts/export.py runs/lenet5-20261121-193000

The file holds the parameters and the program, from bytes to probabilities, for CPUs, NVIDIA GPUs
and TPUs, and for any number of images at once. JAX alone runs it:

    import jax
    network = jax.export.deserialize(open("network.jax", "rb").read())
    probabilities = network.call(images)  # uint8, (N, height, width, C)
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import tyro
from training_batches import scaled
from training_config import UsageError
from training_files import write_bytes
from training_runs import Run, load_run, predict

PLATFORMS = ("cpu", "cuda", "tpu")
TRIED = (1, 5)  # numbers of images on which the file is compared with the network
TOLERANCE = 1e-5  # of probabilities, and of images whose white is 1


@dataclasses.dataclass(frozen=True)
class Config:
    """Writes a trained network as one file."""

    folder: Annotated[Path, tyro.conf.Positional]
    """The folder of a run of train.py."""
    out: Path | None = None
    """The file. By default network.jax in that folder."""
    best: bool = False
    """The parameters after the best epoch, instead of the last ones."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the script with the given command line."""
    config = tyro.cli(Config, args=arguments, prog="export.py")
    try:
        path = config.out or config.folder / "network.jax"
        run = load_run(config.folder, best=config.best)
        content = exported(run).serialize()
        difference = compared(run, content)
        write_bytes(path, bytes(content))
    except UsageError as error:
        print(f"export.py: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    print(
        f"{path}: {len(content):,} bytes, for {', '.join(PLATFORMS)}; its results differ from the "
        f"network's by at most {difference:.1g}"
    )


def exported(run: Run) -> Any:
    """The network with its parameters, as a `jax.export.Exported` of a function of bytes."""
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
    """The largest difference between what the file gives here and what the network gives."""
    network = jax.export.deserialize(content)
    rng, largest = np.random.default_rng(0), 0.0
    for count in TRIED:
        images = rng.integers(0, 256, (count, *run.about["input_shape"]), np.uint8)
        difference = np.abs(np.asarray(network.call(images)) - predict(run, images)).max()
        largest = max(largest, float(difference))
    if not largest <= TOLERANCE:
        raise RuntimeError(f"the exported network's results differ by {largest} from the network's")
    return largest


if __name__ == "__main__":
    main()
