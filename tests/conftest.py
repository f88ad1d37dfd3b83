"""One strict configuration for every test: x64, no silent promotion, 8 simulated devices.

On a GPU the devices are those of the machine: tests that need more are skipped, and so are tests
marked `cpu`.
"""

import gc
import math
import os
import shutil
import tempfile

import jaxlib.version

# The tests compile thousands of small programs and run each once or twice: LLVM's optimisations
# would take longer than they save, and so would splitting a program among threads, or XLA's newer
# emitters of fusions, where it has the others still. XLA's own passes, which rewrite operations,
# all run. Set here, before JAX is imported, and inherited by the processes that tests start.
FLAGS = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
if jaxlib.version.__version_info__ < (0, 11):
    FLAGS += " --xla_cpu_use_fusion_emitters=false"
if (os.environ.get("JAX_PLATFORMS") or "cpu") == "cpu":
    os.environ.setdefault("XLA_FLAGS", FLAGS)

# What one process of a run has compiled, the others load. Every run begins with nothing.
CACHE = None
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    CACHE = tempfile.mkdtemp(prefix="compiled-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = CACHE
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import jax
import numpy as np
import pytest

gc.set_threshold(100_000, 50, 100)  # traces are many small objects, few of them garbage

if "JAX_NUM_CPU_DEVICES" not in os.environ:
    jax.config.update("jax_num_cpu_devices", 8)
if (os.environ.get("JAX_PLATFORMS") or "cpu") != "cpu":  # no TensorFloat-32, which keeps 10 bits
    jax.config.update("jax_default_matmul_precision", "highest")
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_configure(config):
    # An entry that another process is writing cannot be read: the program is compiled again.
    for access in ("reading", "writing"):
        config.addinivalue_line("filterwarnings", f"ignore:Error {access} persistent compilation")


def pytest_unconfigure():
    if CACHE is not None:
        shutil.rmtree(CACHE, ignore_errors=True)


def pytest_collection_modifyitems(config, items):
    """Tests marked versions(only=True) run where versions are asked for, and nowhere else."""
    if "versions" in config.option.markexpr:
        return
    marks = ((item, item.get_closest_marker("versions")) for item in items)
    elsewhere = [item for item, mark in marks if mark is not None and mark.kwargs.get("only")]
    config.hook.pytest_deselected(items=elsewhere)
    items[:] = [item for item in items if item not in set(elsewhere)]


def pytest_runtest_setup(item):
    for mark in item.iter_markers("devices"):
        require_devices(*mark.args)
    if item.get_closest_marker("cpu") and jax.default_backend() != "cpu":
        pytest.skip(f"is about CPUs, and runs on {jax.default_backend()}")


def mesh_or_skip(axis_shapes, *args, make=jax.make_mesh, **kwargs):
    """`jax.make_mesh`, or a skipped test where the machine has too few devices."""
    require_devices(math.prod(axis_shapes))
    return make(axis_shapes, *args, **kwargs)


def require_devices(count):
    if count > len(jax.devices()):
        pytest.skip(f"needs {count} devices, of which there are {len(jax.devices())}")


@pytest.fixture(autouse=True)
def meshes_of_what_there_is(monkeypatch):
    monkeypatch.setattr(jax, "make_mesh", mesh_or_skip)


try:
    from hypothesis import configuration, settings
except ImportError:  # the tests that draw examples are skipped
    pass
else:
    configuration.set_hypothesis_home_dir(os.path.join(tempfile.gettempdir(), "hypothesis"))
    settings.register_profile(
        "quick", max_examples=12, derandomize=True, deadline=None, database=None
    )
    settings.register_profile("deep", max_examples=2000, print_blob=True, deadline=None)
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


@pytest.fixture
def rng():
    return np.random.default_rng(0)
