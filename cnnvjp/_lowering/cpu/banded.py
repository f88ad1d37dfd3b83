"""Convolution of small images with few channels, as products with a banded matrix.

XLA's kernels want many channels. With few, a whole row of the image, its columns and channels
together, takes the place of the channels: one row of outputs is the kernel's rows of the image
times a matrix that holds the kernel once for each column of outputs ([H] 8.12, for one row).
Most of it is zero, which the products multiply nevertheless; they are fast enough to win where
the kernel covers a good part of the row. All is for stride 1.
"""

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnvjp._lowering.cpu.arrays import barrier
from cnnvjp._types import Precision
from cnnvjp._windows.axes import pad_spatial
from cnnvjp._windows.geometry import Window


def correlate(x: jax.Array, w: jax.Array, window: Window, precision: Precision) -> jax.Array:
    """Rows of the image times the matrix."""
    rows, matrix = _rows(x, window), _matrix(w, window)
    y = lax.dot_general(rows, matrix, (((2,), (0,)), ((), ())), precision=precision)
    return y.reshape(x.shape[0], *window.output_size, w.shape[-1])


def input_gradient(dy: jax.Array, w: jax.Array, window: Window, precision: Precision) -> jax.Array:
    """Rows of dy times the transposed matrix, each part put back where it was seen."""
    n, oh, ow, maps = dy.shape
    (kh, _), channels, width = window.size, w.shape[-2], _width(window)
    rows = lax.dot_general(
        dy.reshape(n, oh, ow * maps), _matrix(w, window), (((2,), (1,)), ((), ())),
        precision=precision,
    )  # fmt: skip
    rows = barrier(rows.reshape(n, oh, kh, width * channels))
    before, height = window.padding[0][0], window.input_size[0]
    parts = []
    for m in range(kh):
        low = window.dilation[0] * m - before
        parts.append(pad_spatial(rows[:, :, m], ((low, height - low - oh),)))
    dx = functools.reduce(operator.add, parts)
    dx = dx.reshape(n, height, width, channels)
    start, end = window.span[1]
    return pad_spatial(dx, ((0, 0), (-start, -end)))


def kernel_gradient(x: jax.Array, dy: jax.Array, window: Window, precision: Precision) -> jax.Array:
    """Rows of dy times rows of the image, then the sum over each tap's places in the matrix."""
    n, oh, ow, maps = dy.shape
    (kh, kw), channels, width = window.size, x.shape[-1], _width(window)
    rows = _rows(x, window).reshape(n * oh, kh * width * channels)
    matrix = lax.dot_general(
        dy.reshape(n * oh, ow * maps), rows, (((0,), (0,)), ((), ())), precision=precision
    )
    matrix = matrix.reshape(ow, maps, kh, width, channels).transpose(0, 3, 2, 4, 1)
    places = jnp.asarray(_places(window), dy.dtype)
    dw = lax.dot_general(
        places, barrier(matrix.reshape(ow * width, kh * channels * maps)),
        (((0,), (0,)), ((), ())), precision=lax.Precision.HIGHEST,
    )  # fmt: skip
    return dw.reshape(kw, kh, channels, maps).transpose(1, 0, 2, 3)


def _rows(x: jax.Array, window: Window) -> jax.Array:
    """(N, OH, KH · W · C): the rows that each row of outputs sees, side by side."""
    x = pad_spatial(x, window.span)
    n, height, width, channels = x.shape
    x = x.reshape(n, height, width * channels)
    seen = [
        x[:, first : first + window.output_size[0]]
        for first in range(0, window.extent[0], window.dilation[0])
    ]
    return barrier(jnp.concatenate(seen, -1))


def _matrix(w: jax.Array, window: Window) -> jax.Array:
    """(KH · W · C, OW · O): w[m, n] where column i of outputs sees column i + d·n."""
    kh, kw, channels, maps = w.shape
    places = jnp.asarray(_places(window), w.dtype)
    taps = w.transpose(1, 0, 2, 3).reshape(kw, kh * channels * maps)
    spread = lax.dot_general(
        places, taps, (((1,), (0,)), ((), ())), precision=lax.Precision.HIGHEST
    )
    spread = spread.reshape(window.output_size[1], _width(window), kh, channels, maps)
    spread = spread.transpose(2, 1, 3, 0, 4)
    return barrier(spread.reshape(kh * _width(window) * channels, -1))


def _places(window: Window) -> np.ndarray:
    """(OW · W, KW): which tap of which output stands on which column, as zeros and ones."""
    ow, kw, width = window.output_size[1], window.size[1], _width(window)
    places = np.zeros((ow, width, kw))
    i, n = np.indices((ow, kw))
    places[i, i + n * window.dilation[1], n] = 1
    return places.reshape(ow * width, kw)


def _width(window: Window) -> int:
    """The columns of the padded image."""
    return window.input_size[1] + sum(window.span[1])
