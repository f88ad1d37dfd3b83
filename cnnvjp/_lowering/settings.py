"""Whether what is traced will be compiled with oneDNN, which decides the CPU's formulations."""

import contextlib
import contextvars
from collections.abc import Iterator

from jax.experimental.xla_metadata import set_xla_metadata

# The options that turn oneDNN on in XLA:CPU, where it has it.
ONEDNN = {"xla_cpu_use_onednn": True, "xla_cpu_experimental_onednn_custom_call": True}

_here = contextvars.ContextVar("_here", default=False)
_everywhere = False


def with_onednn() -> bool:
    """Whether the program that is being traced is compiled with `ONEDNN`."""
    return _everywhere or _here.get()


@contextlib.contextmanager
def tracing_with_onednn() -> Iterator[None]:
    """What is traced in this context is compiled with `ONEDNN`.

    JAX keeps what it has traced. It tells contexts apart by their metadata, so that nothing that
    was traced elsewhere is taken here, nor the other way round.
    """
    token = _here.set(True)
    try:
        with set_xla_metadata(cnnvjp="onednn"):
            yield
    finally:
        _here.reset(token)


def compile_all_with_onednn() -> None:
    """Every program from now on is compiled with `ONEDNN`."""
    global _everywhere
    _everywhere = True
