"""One of two processes that train together over loopback: `two_processes.py RANK PORT`.

Each holds half of every batch. Prints the losses of the run, each on a line after
"loss".
"""

import sys

import jax

TRAINING_STEPS = 5


def batches():
    """The same batches in every process, of which each uses its half."""
    import numpy as np

    rng = np.random.default_rng(0)
    for _ in range(TRAINING_STEPS):
        yield rng.normal(size=(8, 16, 16, 1)).astype("float32"), rng.integers(0, 4, size=8)


def losses(mesh=None, local=lambda batch: batch):
    """The losses of a short training run."""
    import optax

    from cnnvjp import models, softmax_cross_entropy, train

    model, optimizer = models.textbook(4), optax.sgd(0.05, momentum=0.9)
    state = train.create(jax.random.key(0), model, optimizer, (16, 16, 1))
    step = train.make_train_step(model, softmax_cross_entropy, optimizer, mesh=mesh)
    for batch in batches():
        state, metrics = step(state, local(batch), jax.random.key(1))
        yield float(metrics["loss"])


def main(rank, port):
    jax.config.update("jax_num_cpu_devices", 1)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", 2, rank)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    half = slice(4 * rank, 4 * (rank + 1))
    for loss in losses(mesh, lambda batch: tuple(part[half] for part in batch)):
        print("loss", repr(loss), flush=True)
    jax.distributed.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
