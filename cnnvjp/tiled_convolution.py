"""Tiled convolution and its two adjoints; unshared convolution is a case of them.

A convolution has one kernel for all positions. An unshared one has a kernel for each ([GBC] 9.9). A
tiled convolution is between the two: its kernels take turns (9.10), so that with t of them output i
uses kernel i mod t: a convolution if t = 1, an unshared one if t is the output's size. All three
are the same map, linear in x and in w, and as for `conv` one number ties its adjoints to it:

    ⟨c(x, w), dy⟩ = ⟨x, h(dy, w)⟩ = ⟨w, g(x, dy)⟩
                  = Σ over i, m of w[i mod t, m] · x[i·s + d·m] · dy[i],

so that the gradients of each of the three are the other two:

    c, tiled_conv              y  = c(x, w):    dx = h(dy, w)    dw = g(x, dy)
    h, tiled_conv_transpose    x  = h(y, w):    dy = c(dx, w)    dw = g(dx, y)
    g, tiled_conv_kernel_grad  dw = g(x, dy):   dx = h(dy, dw)   d(dy) = c(x, dw)

`cnnvjp.local_convolution` has them where t is the output's size.
"""

import functools

import chex
import jax
from jax import Array
from jax.typing import DTypeLike

from cnnvjp import _lowering as lowering
from cnnvjp._checks.arrays import operands
from cnnvjp._checks.compiled import call
from cnnvjp._checks.convolution import Options, check_bias, make_options, on_one_batch_axis
from cnnvjp._checks.tiled_convolution import (
    check_tiles,
    forward_window,
    kernel_window,
    transposed_window,
)
from cnnvjp._types import ArrayType, Padding, PerAxis, Precision, primal_type, summed_type
from cnnvjp._windows.geometry import Window
from cnnvjp._windows.spatial import per_axis, spatial_rank
from cnnvjp.affine import bias_added

# ------------------------------------------------------------------------------------------
# The three maps, on one batch axis
# ------------------------------------------------------------------------------------------


def _c(x: Array, w: Array, window: Window, options: Options, out: ArrayType) -> Array:
    """[GBC] 9.10, 9.9: y[i] = Σ over m of x[i·s + d·m] w[i mod t, m].

    Stride, padding and dilation place the windows as in `conv`; channels are summed.
    """
    return lowering.correlate_tiled(x, w, window, options.precision, out)


def _h(dy: Array, w: Array, window: Window, options: Options, out: ArrayType) -> Array:
    """dx[j] = Σ over i·s + d·m = j of dy[i] w[i mod t, m], output channels summed.

    [GBC] 9.13, with each dy[i] multiplied by the kernel that made y[i].
    """
    return lowering.tiled_input_gradient(dy, w, window, options.precision, out)


def _g(
    x: Array, dy: Array, window: Window, tiles: tuple[int, ...], options: Options, out: ArrayType
) -> Array:
    """dw[a, m] = Σ over i with i mod t = a of x[i·s + d·m] dy[i], batch summed.

    [GBC] 9.11, with the sum over the positions that share kernel a: an unshared one has one.
    """
    return lowering.tiled_kernel_gradient(x, dy, window, tiles, options.precision, out)


# ------------------------------------------------------------------------------------------
# tiled_conv
# ------------------------------------------------------------------------------------------


def tiled_conv(
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
    """Convolves images with kernels that take turns from one output position to the next.

        y[n, i, o] = Σ over m, c of x[n, i·s + d·m − before, c] · w[i mod t, m, c, o]  (+ b[o])

    where t has an entry for each axis, the number of its kernels: outputs 0, t, 2t, … use kernel 0,
    outputs 1, t + 1, … kernel 1. With t = 1 it is `conv`, with the output's size `local_conv`.

    Gradients ([GBC] 9.13 and 9.11, for the positions of each kernel):

        dx = h(dy, w)  (`tiled_conv_transpose`)
        dw = g(x, dy)  (`tiled_conv_kernel_grad`)
        db = Σ dy over all that shares the bias (`add_bias`)

    Args:
        x: images, (*batch, *spatial, C_in), with any number of batch axes. Float or integer.
        w: kernels, (*tiles, *kernel, C_in, C_out), of x's dtype. Its rank is 2·D + 2. No axis
            has more tiles than output positions.
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
        >>> w = jnp.array([[1.0, 0.0], [1.0, 1.0]]).reshape(2, 2, 1, 1)
        >>> tiled_conv(x, w)[:, 0]
        Array([1., 5., 3.], dtype=float32)

    Source: [GBC] 9.10, "tiled convolution". There positions and kernels are numbered from 1, and
    position 1 uses kernel 1 % t + 1, so that w[0] is its kernel 2 where t > 1.
    """
    x, w = operands(integers=True, x=x, w=w)
    window = forward_window(x, w, stride, padding, dilation)
    check_tiles("w", w.shape[: window.ndim], window)
    return convolved(x, w, b, window, precision, preferred_element_type)


def convolved(
    x: Array,
    w: Array,
    b: chex.Array | None,
    window: Window,
    precision: Precision,
    preferred_element_type: DTypeLike | None,
) -> Array:
    """`tiled_conv` of arguments that fit together."""
    options = make_options(x, 1, False, precision, preferred_element_type)
    y = on_one_batch_axis(lambda x: call(_tiled_conv, x, w, window, options), window.ndim, x=x)
    return y if b is None else bias_added(y, check_bias(b, y, window.ndim, x=x))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _tiled_conv(x, w, window, options):
    return _c(x, w, window, options, ArrayType(options.dtype))


def _tiled_conv_fwd(x, w, window, options):
    return _c(x, w, window, options, ArrayType(options.dtype)), (x, w)


def _tiled_conv_bwd(window, options, residuals, dy):
    x, w = residuals
    tiles = w.shape[: window.ndim]
    dx = _h(dy, w, window, options, primal_type(x))  # [GBC] 9.13, each dy[i] with its kernel
    dw = _g(x, dy, window, tiles, options, primal_type(w))  # [GBC] 9.11, kernel by kernel
    return dx, dw


_tiled_conv.defvjp(_tiled_conv_fwd, _tiled_conv_bwd)


# ------------------------------------------------------------------------------------------
# tiled_conv_transpose
# ------------------------------------------------------------------------------------------


def tiled_conv_transpose(
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
    """The transpose of `tiled_conv`: maps what has the shape of its output back to its input's.

        x[n, j, c] = Σ over i·s + d·m − before = j, o of y[n, i, o] · w[i mod t, m, c, o]  (+ b[c])

    Kernels and options are those of the *forward* operation, as in `conv_transpose`.

    Gradients: for the cotangent dx of the result:

        dy = c(dx, w)  (`tiled_conv`),   dw = g(dx, y)  (`tiled_conv_kernel_grad`),   db = Σ dx.

    Args:
        y: maps, (*batch, *out_spatial, C_out). Float or integer.
        w: kernels of the forward operation, (*tiles, *kernel, C_in, C_out), of y's dtype.
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
        >>> w = jnp.array([[1.0, 0.0], [1.0, 1.0]]).reshape(2, 2, 1, 1)
        >>> tiled_conv_transpose(y, w)[:, 0]
        Array([  1.,  10., 110.,   0.], dtype=float32)

    Source: [GBC] 9.13, with the kernels of 9.10.
    """
    y, w = operands(integers=True, y=y, w=w)
    window = transposed_window(y, w, stride, padding, dilation, output_size)
    check_tiles("w", w.shape[: window.ndim], window)
    return transposed(y, w, b, window, precision, preferred_element_type)


def transposed(
    y: Array,
    w: Array,
    b: chex.Array | None,
    window: Window,
    precision: Precision,
    preferred_element_type: DTypeLike | None,
) -> Array:
    """`tiled_conv_transpose` of arguments that fit together."""
    options = make_options(y, 1, False, precision, preferred_element_type)
    x = on_one_batch_axis(
        lambda y: call(_tiled_conv_transpose, y, w, window, options), window.ndim, y=y
    )
    return x if b is None else bias_added(x, check_bias(b, x, window.ndim, y=y))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _tiled_conv_transpose(y, w, window, options):
    return _h(y, w, window, options, ArrayType(options.dtype))


def _tiled_conv_transpose_fwd(y, w, window, options):
    return _h(y, w, window, options, ArrayType(options.dtype)), (y, w)


def _tiled_conv_transpose_bwd(window, options, residuals, dx):
    y, w = residuals
    tiles = w.shape[: window.ndim]
    dy = _c(dx, w, window, options, primal_type(y))  # 9.10: ⟨h(y, w), dx⟩ = ⟨y, c(dx, w)⟩
    dw = _g(dx, y, window, tiles, options, primal_type(w))  # ⟨h(y, w), dx⟩ = ⟨w, g(dx, y)⟩
    return dy, dw


_tiled_conv_transpose.defvjp(_tiled_conv_transpose_fwd, _tiled_conv_transpose_bwd)


# ------------------------------------------------------------------------------------------
# tiled_conv_kernel_grad
# ------------------------------------------------------------------------------------------


def tiled_conv_kernel_grad(
    x: chex.Array,
    dy: chex.Array,
    tiles: PerAxis,
    kernel_size: PerAxis,
    *,
    stride: PerAxis = 1,
    padding: Padding = "VALID",
    dilation: PerAxis = 1,
    precision: Precision = None,
    preferred_element_type: DTypeLike | None = None,
    spatial_ndim: int | None = None,
) -> jax.Array:
    """The gradient of `tiled_conv` with respect to its kernels, as an operation of its own.

        dw[a, m, c, o] = Σ over n, i with i mod t = a of x[n, i·s + d·m − before, c] · dy[n, i, o]

    Gradients: for the cotangent v of the result, which has the kernels' shape:

        dx = h(dy, v)  (`tiled_conv_transpose`),   d(dy) = c(x, v)  (`tiled_conv`).

    Args:
        x: images, (*batch, *spatial, C_in). Float or integer.
        dy: the cotangent of the output, (*batch, *out_spatial, C_out), of x's dtype.
        tiles: t, the number of kernels along each axis, an int or D ints.
        kernel_size: the spatial size of one kernel, an int or D ints.
        stride: of the forward operation, as are padding and dilation.
        padding: as in `conv`.
        dilation: as in `conv`.
        precision: as in `jax.lax.conv_general_dilated`.
        preferred_element_type: the dtype of the result; that of x by default.
        spatial_ndim: D, where no option is a sequence; 2 by default.

    Returns:
        (*tiles, *kernel_size, C_in, C_out).

    Raises:
        TypeError: if the arrays differ in dtype or have none that is supported.
        ValueError: if shapes or options do not fit together.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.array([1.0, 2.0, 3.0, 4.0]).reshape(1, 4, 1)
        >>> dy = jnp.array([1.0, 10.0, 100.0]).reshape(1, 3, 1)
        >>> tiled_conv_kernel_grad(x, dy, (2,), (2,))[..., 0, 0]
        Array([[301., 402.],
               [ 20.,  30.]], dtype=float32)

    Source: [GBC] 9.11, summed over the positions that share a kernel in 9.10.
    """
    x, dy = operands(integers=True, x=x, dy=dy)
    ndim = spatial_rank(
        spatial_ndim,
        tiles=tiles,
        kernel_size=kernel_size,
        stride=stride,
        padding=padding,
        dilation=dilation,
    )
    window = kernel_window(x, dy, kernel_size, stride, padding, dilation, ndim)
    counts = per_axis("tiles", tiles, window.ndim)
    check_tiles("tiles", counts, window)
    return kernel_gradients(x, dy, window, counts, precision, preferred_element_type)


def kernel_gradients(
    x: Array,
    dy: Array,
    window: Window,
    tiles: tuple[int, ...],
    precision: Precision,
    preferred_element_type: DTypeLike | None,
) -> Array:
    """`tiled_conv_kernel_grad` of arguments that fit together."""
    options = make_options(x, 1, False, precision, preferred_element_type)
    return on_one_batch_axis(
        lambda x, dy: call(_tiled_conv_kernel_grad, x, dy, window, tiles, options),
        window.ndim,
        maps=False,
        x=x,
        dy=dy,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _tiled_conv_kernel_grad(x, dy, window, tiles, options):
    return _g(x, dy, window, tiles, options, _kernels_type(x, window, options))


def _tiled_conv_kernel_grad_fwd(x, dy, window, tiles, options):
    return _g(x, dy, window, tiles, options, _kernels_type(x, window, options)), (x, dy)


def _tiled_conv_kernel_grad_bwd(window, tiles, options, residuals, v):
    x, dy = residuals
    dx = _h(dy, v, window, options, primal_type(x))  # 9.13: ⟨g(x, dy), v⟩ = ⟨x, h(dy, v)⟩
    ddy = _c(x, v, window, options, primal_type(dy))  # 9.10: ⟨g(x, dy), v⟩ = ⟨dy, c(x, v)⟩
    return dx, ddy


_tiled_conv_kernel_grad.defvjp(_tiled_conv_kernel_grad_fwd, _tiled_conv_kernel_grad_bwd)


def _kernels_type(x: Array, window: Window, options: Options) -> ArrayType:
    """The type of all kernels' gradients, which sum over the batch."""
    return summed_type(options.dtype, x, 2 * window.ndim + 2)
