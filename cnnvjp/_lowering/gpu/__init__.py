"""The formulations for GPUs, and for which layers each is chosen.

A formulation is chosen only if a measurement on a GPU stands beside it in `FORMULATIONS`. None has
been measured yet, so all are off, and GPUs compute floating-point convolutions as `xla` has them.
`python scripts/gpu.py`, on a machine with a GPU, measures all of them and names those to switch on.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import jax

from cnnvjp._lowering import platform, xla
from cnnvjp._lowering.cpu import volumes
from cnnvjp._lowering.gpu import depthwise, taps
from cnnvjp._types import ArrayType, Precision
from cnnvjp._windows.geometry import Window

Pass = Literal["forward", "input gradient", "kernel gradient"]
Kind = Literal["depthwise", "dense", "pooling"]
Function = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Layers:
    """The layers that a formulation is for.

    Attributes:
        kind: what they compute.
        taps: how many taps they have, the fewest and the most.
        ndims: how many spatial axes.
        strided: whether the window moves by more than 1 along any axis; None: either.
        dilated: whether its taps are apart along any axis; None: either.
        dtypes: of their arrays.
    """

    kind: Kind
    taps: tuple[int, int]
    ndims: tuple[int, ...] = (1, 2, 3)
    strided: bool | None = None
    dilated: bool | None = None
    dtypes: tuple[str, ...] = ("float32", "bfloat16")

    def include(self, kind: Kind | None, window: Window, dtype: Any) -> bool:
        """Whether such a layer is among them."""
        fewest, most = self.taps
        return (
            kind == self.kind
            and fewest <= window.taps <= most
            and window.ndim in self.ndims
            and self.strided in (None, max(window.stride) > 1)
            and self.dilated in (None, max(window.dilation) > 1)
            and str(dtype) in self.dtypes
        )


@dataclasses.dataclass(frozen=True)
class Formulation:
    """A row of the table.

    Attributes:
        what: the pass that it computes.
        run: computes it, from two arrays, the window, the groups and the precision; for pooling,
            returns the windows that the window is taken apart into.
        layers: what it is for.
        measured: GPU, JAX, and milliseconds with it and without; it is chosen only if this is
            given.
    """

    what: Pass
    run: Function
    layers: Layers
    measured: str | None = None


def _by_planes(volume: Function, plane: Function) -> Function:
    """A convolution of volumes, with XLA's own convolution of their planes."""

    def run(
        a: jax.Array, b: jax.Array, window: Window, groups: int, precision: Precision = None
    ) -> jax.Array:
        of_planes = functools.partial(
            plane, window=volumes.plane_window(window), groups=groups, precision=precision,
            out=ArrayType(a.dtype),
        )  # fmt: skip
        return volume(a, b, window, of_planes)

    return run


_DEPTHWISE = Layers("depthwise", (2, 64))
_FEW_TAPS = dataclasses.replace(_DEPTHWISE, taps=(2, 9))  # each is a reduction to compile
_DILATED = Layers("dense", (2, 9), ndims=(1, 2), dilated=True)
_VOLUMES = Layers("dense", (2, 64), ndims=(3,), dtypes=("float32",))

# Of several that are measured, the first that is for a layer is chosen. None is measured: all are
# off. `python scripts/gpu.py` measures them.
FORMULATIONS = {
    "depthwise, forward": Formulation("forward", depthwise.correlate, _DEPTHWISE),
    "depthwise, input gradient": Formulation(
        "input gradient", depthwise.input_gradient, _DEPTHWISE
    ),
    "depthwise, kernel gradient in pieces": Formulation(
        "kernel gradient", depthwise.kernel_gradient_in_pieces, _DEPTHWISE
    ),
    "depthwise, kernel gradient by taps": Formulation(
        "kernel gradient", depthwise.kernel_gradient, _FEW_TAPS
    ),
    "dilated, kernel gradient by taps": Formulation(
        "kernel gradient", taps.kernel_gradient_in_turn, _DILATED
    ),
    "dilated, kernel gradient of patches": Formulation(
        "kernel gradient", taps.kernel_gradient_of_patches, _DILATED
    ),
    "3-D, forward by planes": Formulation(
        "forward", _by_planes(volumes.correlate, xla.correlate), _VOLUMES
    ),
    "3-D, input gradient by planes": Formulation(
        "input gradient", _by_planes(volumes.input_gradient, xla.input_gradient), _VOLUMES
    ),
    "3-D, kernel gradient by planes": Formulation(
        "kernel gradient", _by_planes(volumes.kernel_gradient, xla.kernel_gradient), _VOLUMES
    ),
    "max pooling, whole windows": Formulation(
        "forward", lambda window: (window,), Layers("pooling", (17, 49))
    ),
}


def correlation(
    x: jax.Array, w: jax.Array, window: Window, groups: int, precision: Precision
) -> platform.Formulation | None:
    """For y = c(x, w), as the CPU's choice of the same name; so are the two that follow."""
    return _convolution("forward", w.shape[-2], x, window, groups, precision)


def input_gradient(
    dy: jax.Array, w: jax.Array, window: Window, groups: int, precision: Precision
) -> platform.Formulation | None:
    """For dx = h(dy, w)."""
    return _convolution("input gradient", w.shape[-2], dy, window, groups, precision)


def kernel_gradient(
    x: jax.Array, dy: jax.Array, window: Window, groups: int, precision: Precision
) -> platform.Formulation | None:
    """For dw = g(x, dy)."""
    channels = x.shape[-1] // groups
    return _convolution("kernel gradient", channels, x, window, groups, precision)


def pooling_parts(x: jax.Array, window: Window) -> tuple[Window, ...] | None:
    """The windows in which max pooling finds its winners, one after the other."""
    chosen = _chosen("forward", "pooling", window, x.dtype)
    return chosen.run(window) if chosen else None


def kind_of(channels: int, groups: int) -> Kind | None:
    """The kind of a convolution with so many input channels in each group."""
    if groups == 1:
        return "dense"
    return "depthwise" if channels == 1 else None


def _convolution(
    what: Pass, channels: int, x: jax.Array, window: Window, groups: int, precision: Precision
) -> platform.Formulation | None:
    chosen = _chosen(what, kind_of(channels, groups), window, x.dtype)
    if chosen is None:
        return None
    return functools.partial(chosen.run, window=window, groups=groups, precision=precision)


def _chosen(what: Pass, kind: Kind | None, window: Window, dtype: Any) -> Formulation | None:
    for row in FORMULATIONS.values():
        if row.measured and row.what == what and row.layers.include(kind, window, dtype):
            return row
    return None
