"""A pytest plugin for Flax's own tests: its convolution layers, with ours as the default.

Loaded with `-p flax_injected`, before Flax's test files import the layers. They get subclasses
with Flax's hook set to `cnnvjp.conv_general_dilated`, and a summary says how often it was called.
"""

import functools

import flax.linen
from flax import nnx

import cnnvjp

calls = 0


@functools.wraps(cnnvjp.conv_general_dilated)
def counted(*args, **kwargs):
    global calls
    calls += 1
    return cnnvjp.conv_general_dilated(*args, **kwargs)


def injected_linen(kind):
    """The same class by its name, with another default."""
    annotations = {"conv_general_dilated": object}
    members = {"__annotations__": annotations, "conv_general_dilated": staticmethod(counted)}
    return type(kind)(kind.__name__, (kind,), {**members, "__module__": kind.__module__})


class Conv(nnx.Conv):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **{"conv_general_dilated": counted, **kwargs})


flax.linen.Conv = injected_linen(flax.linen.Conv)
nnx.Conv = Conv


def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(f"cnnvjp.conv_general_dilated was called {calls} times")
