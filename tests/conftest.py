"""One strict configuration for every test: x64, no silent promotion, 8 simulated devices."""

import os

# The tests compile thousands of small programs and run each once or twice: LLVM's optimisations
# would take longer than they save. XLA's own passes, which rewrite operations, all run.
# Set here, before JAX is imported, and inherited by the processes that tests start.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import jax
import numpy as np
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def rng():
    return np.random.default_rng(0)
