"""Writes a trained network as one file that needs nothing of this project to run.

    python scripts/export.py runs/lenet5-20261121-193000

The file holds the parameters and the program, from bytes to probabilities, for CPUs, NVIDIA GPUs
and TPUs, and for any number of images at once. JAX alone runs it:

    import jax
    network = jax.export.deserialize(open("network.jax", "rb").read())
    probabilities = network.call(images)  # uint8, (N, height, width, C)
"""

from cnnvjp.training.commands import export_main

if __name__ == "__main__":
    export_main()
