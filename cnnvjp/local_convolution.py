"""Unshared convolution and its two adjoints: a kernel of its own for every output position.

[GBC] 9.9, a locally connected layer: the tiled convolution with as many tiles as outputs. The rules
are those in `cnnvjp.tiled_convolution`, with i in the place of i mod t:

    ⟨c(x, w), dy⟩ = ⟨x, h(dy, w)⟩ = ⟨w, g(x, dy)⟩ = Σ over i, m of w[i, m] · x[i·s + d·m] · dy[i],

    local_conv              y  = c(x, w):    dx = h(dy, w)    dw = g(x, dy)
    local_conv_transpose    x  = h(y, w):    dy = c(dx, w)    dw = g(dx, y)
    local_conv_kernel_grad  dw = g(x, dy):   dx = h(dy, dw)   d(dy) = c(x, dw)
"""

import chex
import jax
from jax.typing import DTypeLike

from cnnvjp._checks.arrays import operands
from cnnvjp._checks.tiled_convolution import (
    check_unshared,
    forward_window,
    kernel_window,
    transposed_window,
)
from cnnvjp._types import Padding, PerAxis, Precision
from cnnvjp._windows.spatial import spatial_rank
from cnnvjp.tiled_convolution import convolved, kernel_gradients, transposed


def local_conv(
    x: chex.Array,
    w: chex.Array,
    b: chex.Array | None = None,
    *,
    stride: PerAxis = 1,
    padding: Padding = "VALID",
    dilation: PerAxis = 1,
    precision: Precision = None,
    preferred_element_type: DTypeLike | None = None,
) -> jax.Array:
    """Convolves images with a kernel of its own for every output position.

        y[n, i, o] = Σ over m, c of x[n, i·s + d·m − before, c] · w[i, m, c, o]  (+ b[o])

    This is a locally connected layer: positions share no weights, so that what is learned at one
    is not known at another. `conv` shares one kernel among all, `tiled_conv` a few.

    Gradients ([GBC] 9.13 and 9.11, position by position):

        dx = h(dy, w)  (`local_conv_transpose`)
        dw = g(x, dy)  (`local_conv_kernel_grad`)
        db = Σ dy over all that shares the bias (`add_bias`)

    Args:
        x: images, (*batch, *spatial, C_in), with any number of batch axes. Float or integer.
        w: kernels, (*out_spatial, *kernel, C_in, C_out), of x's dtype. Its rank is 2·D + 2.
        b: bias, tied (C_out,) or untied (*out_spatial, C_out), of x's dtype or the output's.
        stride: the step between two outputs, an int or D ints.
        padding: as in `conv`.
        dilation: the distance between two taps, an int or D ints.
        precision: as in `jax.lax.conv_general_dilated`.
        preferred_element_type: the dtype of the output, as in `conv`; that of x by default.

    Returns:
        (*batch, *out_spatial, C_out), of the size that `conv` returns.

    Raises:
        TypeError: if the arrays differ in dtype or have none that is supported.
        ValueError: if shapes or options do not fit together.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.array([1.0, 2.0, 3.0, 4.0]).reshape(4, 1)
        >>> w = jnp.array([[1.0, 0.0], [1.0, 1.0], [0.0, 10.0]]).reshape(3, 2, 1, 1)
        >>> local_conv(x, w)[:, 0]
        Array([ 1.,  5., 40.], dtype=float32)

    Source: [GBC] 9.9, "unshared convolution"; its gradients as those of 9.8, 9.11–9.13.
    """
    x, w = operands(integers=True, x=x, w=w)
    window = forward_window(x, w, stride, padding, dilation)
    check_unshared(w, window)
    return convolved(x, w, b, window, precision, preferred_element_type)


def local_conv_transpose(
    y: chex.Array,
    w: chex.Array,
    b: chex.Array | None = None,
    *,
    stride: PerAxis = 1,
    padding: Padding = "VALID",
    dilation: PerAxis = 1,
    output_size: PerAxis | None = None,
    precision: Precision = None,
    preferred_element_type: DTypeLike | None = None,
) -> jax.Array:
    """The transpose of `local_conv`: maps what has the shape of its output back to its input's.

        x[n, j, c] = Σ over i·s + d·m − before = j, o of y[n, i, o] · w[i, m, c, o]  (+ b[c])

    Kernels and options are those of the *forward* operation, as in `conv_transpose`.

    Gradients: for the cotangent dx of the result:

        dy = c(dx, w)  (`local_conv`),   dw = g(dx, y)  (`local_conv_kernel_grad`),   db = Σ dx.

    Args:
        y: maps, (*batch, *out_spatial, C_out). Float or integer.
        w: kernels of the forward operation, (*out_spatial, *kernel, C_in, C_out), of y's dtype.
        b: bias, tied (C_in,) or untied (*spatial, C_in), of y's dtype or the output's.
        stride: of the forward operation, as are padding and dilation.
        padding: as in `conv`.
        dilation: as in `conv`.
        output_size: the spatial size of the forward operation's input, as in `conv_transpose`.
        precision: as in `jax.lax.conv_general_dilated`.
        preferred_element_type: the dtype of the output; that of y by default.

    Returns:
        (*batch, *output_size, C_in).

    Raises:
        TypeError: if the arrays differ in dtype or have none that is supported.
        ValueError: if shapes or options do not fit together; for an output_size that the
            forward operation would not map to y's size, with those that it would.

    Example:
        >>> import jax.numpy as jnp
        >>> y = jnp.array([1.0, 10.0, 100.0]).reshape(3, 1)
        >>> w = jnp.array([[1.0, 0.0], [1.0, 1.0], [0.0, 10.0]]).reshape(3, 2, 1, 1)
        >>> local_conv_transpose(y, w)[:, 0]
        Array([   1.,   10.,   10., 1000.], dtype=float32)

    Source: [GBC] 9.13, with each output's own kernel as in 9.9.
    """
    y, w = operands(integers=True, y=y, w=w)
    window = transposed_window(y, w, stride, padding, dilation, output_size)
    check_unshared(w, window)
    return transposed(y, w, b, window, precision, preferred_element_type)


def local_conv_kernel_grad(
    x: chex.Array,
    dy: chex.Array,
    kernel_size: PerAxis,
    *,
    stride: PerAxis = 1,
    padding: Padding = "VALID",
    dilation: PerAxis = 1,
    precision: Precision = None,
    preferred_element_type: DTypeLike | None = None,
    spatial_ndim: int | None = None,
) -> jax.Array:
    """The gradient of `local_conv` with respect to its kernels, as an operation of its own.

        dw[i, m, c, o] = Σ over n of x[n, i·s + d·m − before, c] · dy[n, i, o]

    Gradients: for the cotangent v of the result, which has the kernels' shape:

        dx = h(dy, v)  (`local_conv_transpose`),   d(dy) = c(x, v)  (`local_conv`).

    Args:
        x: images, (*batch, *spatial, C_in). Float or integer.
        dy: the cotangent of the output, (*batch, *out_spatial, C_out), of x's dtype.
        kernel_size: the spatial size of one kernel, an int or D ints.
        stride: of the forward operation, as are padding and dilation.
        padding: as in `conv`.
        dilation: as in `conv`.
        precision: as in `jax.lax.conv_general_dilated`.
        preferred_element_type: the dtype of the result; that of x by default.
        spatial_ndim: D, where no option is a sequence; 2 by default.

    Returns:
        (*out_spatial, *kernel_size, C_in, C_out).

    Raises:
        TypeError: if the arrays differ in dtype or have none that is supported.
        ValueError: if shapes or options do not fit together.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.array([1.0, 2.0, 3.0, 4.0]).reshape(1, 4, 1)
        >>> dy = jnp.array([1.0, 10.0, 100.0]).reshape(1, 3, 1)
        >>> local_conv_kernel_grad(x, dy, (2,))[..., 0, 0]
        Array([[  1.,   2.],
               [ 20.,  30.],
               [300., 400.]], dtype=float32)

    Source: [GBC] 9.11, with one position for each kernel, as 9.9 has it.
    """
    x, dy = operands(integers=True, x=x, dy=dy)
    ndim = spatial_rank(
        spatial_ndim, kernel_size=kernel_size, stride=stride, padding=padding, dilation=dilation
    )
    window = kernel_window(x, dy, kernel_size, stride, padding, dilation, ndim)
    return kernel_gradients(x, dy, window, window.output_size, precision, preferred_element_type)
