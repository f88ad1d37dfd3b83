"""Convolution and its two adjoints, each the other two's rule.

[GBC] shows that three operations are enough to train any convolutional network: c, the
strided convolution (9.8), g, the gradient of its kernel (9.11), and h, that of its input
(9.13). All three are linear in each argument and are tied by one number,

    ⟨c(x, w), dy⟩ = ⟨x, h(dy, w)⟩ = ⟨w, g(x, dy)⟩ = Σ over i, m of w[m] · x[i·s + d·m] · dy[i],

so the gradient of any of them with respect to one argument is one of the other two:

    conv              y  = c(x, w):    dx = h(dy, w)    dw = g(x, dy)
    conv_transpose    x  = h(y, w):    dy = c(dx, w)    dw = g(dx, y)
    conv_kernel_grad  dw = g(x, dy):   dx = h(dy, dw)   d(dy) = c(x, dw)
"""

import functools

import chex
import jax
from jax import Array
from jax.typing import DTypeLike

from cnnvjp import _lowering as lowering
from cnnvjp._checks.arrays import operands
from cnnvjp._checks.compiled import call
from cnnvjp._checks.convolution import (
    Options,
    check_bias,
    check_channels,
    check_groups,
    forward_window,
    kernel_ndim,
    make_options,
    on_one_batch_axis,
)
from cnnvjp._checks.options import positive_int
from cnnvjp._types import (
    ArrayType,
    ConvPadding,
    Padding,
    PerAxis,
    Precision,
    primal_type,
    summed_type,
)
from cnnvjp._windows.axes import rot180
from cnnvjp._windows.geometry import CONV_PADDINGS, Window, forward_input_size, make_window
from cnnvjp._windows.spatial import per_axis, spatial_rank, spatial_size
from cnnvjp.affine import bias_added
from cnnvjp.padding import FILLS, filled

# ------------------------------------------------------------------------------------------
# The three operations, on one batch axis
# ------------------------------------------------------------------------------------------


def _c(x: Array, w: Array, window: Window, options: Options, out: ArrayType) -> Array:
    """[GBC] 9.8, [H] 8.20: y[i] = Σ over m of x[i·s + d·m] w[m], channels summed."""
    w = rot180(w) if options.flip_kernel else w
    return lowering.correlate(x, w, window, options.groups, options.precision, out)


def _h(dy: Array, w: Array, window: Window, options: Options, out: ArrayType) -> Array:
    """[GBC] 9.13: dx[j] = Σ over i·s + d·m = j of dy[i] w[m], output channels summed.

    The rotated kernel slides over dy ([J] 20, [H] 8.44), which was upsampled by the stride
    ([B], "Backpropagation through Downsampling"; [S], stride 2) and padded to the input's
    size ([GBC] on the size that the transpose must be told); its channels trade places ([B],
    "Multi-Channel Convolution": filter W†_c collects channel c of every forward filter).
    """
    w = rot180(w) if options.flip_kernel else w
    return lowering.input_gradient(dy, w, window, options.groups, options.precision, out)


def _g(x: Array, dy: Array, window: Window, options: Options, out: ArrayType) -> Array:
    """[GBC] 9.11, [J] 13, [H] 8.47: dw[m] = Σ over i of x[i·s + d·m] dy[i], batch summed.

    dy slides over x like a kernel whose taps are s apart, in steps of d.
    """
    dw = lowering.kernel_gradient(x, dy, window, options.groups, options.precision, out)
    return rot180(dw) if options.flip_kernel else dw


# ------------------------------------------------------------------------------------------
# conv
# ------------------------------------------------------------------------------------------


def conv(
    x: chex.Array,
    w: chex.Array,
    b: chex.Array | None = None,
    *,
    stride: PerAxis = 1,
    padding: ConvPadding = "VALID",
    dilation: PerAxis = 1,
    groups: int = 1,
    flip_kernel: bool = False,
    precision: Precision = None,
    preferred_element_type: DTypeLike | None = None,
) -> jax.Array:
    """Convolves images with a kernel, as a cross-correlation unless `flip_kernel`.

        y[n, i, o] = Σ over m, c of x[n, i·s + d·m − before, c] · w[m, c, o]  (+ b[o])

    where i and m have an entry for each of the D = 1, 2 or 3 spatial axes. With
    `flip_kernel` it is the true convolution, x[n, i·s − d·m + …].

    Gradients ([GBC] 9.11–9.13):

        dx = h(dy, w), the rotated kernel over the upsampled, padded dy (`conv_transpose`)
        dw = g(x, dy), x against dy (`conv_kernel_grad`)
        db = Σ dy over all that shares the bias (`add_bias`)

    A filled padding is `pad` before the convolution, and its rule comes after these. Of complex
    numbers the rules are the same: in JAX's convention none of them is conjugated.

    Args:
        x: images, (*batch, *spatial, C_in), with any number of batch axes. Float, integer or
            complex.
        w: kernel, (*kernel, C_in // groups, C_out), of x's dtype. Its rank gives D.
        b: bias, tied (C_out,) or untied (*out_spatial, C_out), of x's dtype or the output's.
        stride: the step between two outputs, an int or D ints.
        padding: "VALID", "SAME" (of an odd number, one more after), "SAME_LOWER" (before), "FULL"
            (d·(k−1) on both sides), "CAUSAL" (d·(k−1) before), an int, D ints, or D pairs
            (before, after); negative numbers crop. Or "CIRCULAR", "REFLECT", "SYMMETRIC" or
            "EDGE", for this operation alone: as much as "SAME", filled as `pad` fills it.
        dilation: the distance between two taps, an int or D ints.
        groups: how many groups the channels fall into; `groups=C_in` is depthwise.
        flip_kernel: rotates the kernel by 180°.
        precision: as in `jax.lax.conv_general_dilated`.
        preferred_element_type: the dtype of the output; that of x by default. Sums are held
            in at least float32, those of integers in their own dtype, where they can wrap.

    Returns:
        (*batch, *out_spatial, C_out), with
        ⌊(n + before + after − d·(k−1) − 1) / s⌋ + 1 outputs along each axis.

    Raises:
        TypeError: if the arrays differ in dtype or have none that is supported.
        ValueError: if shapes or options do not fit together.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.arange(9.0).reshape(1, 3, 3, 1)
        >>> w = jnp.array([[1.0, 0.0], [0.0, -1.0]]).reshape(2, 2, 1, 1)
        >>> conv(x, w)[0, ..., 0]
        Array([[-4., -4.],
               [-4., -4.]], dtype=float32)

    Source: [GBC] 9.8 (as 9.11 implies it), 9.11–9.13; [J] 1–2, 13, 20; [H] 8.8–8.9, 8.20; [B].
    """
    x, w = operands(integers=True, complex=True, x=x, w=w)
    ndim = kernel_ndim(w)
    groups = check_groups(groups, w)
    window = forward_window(x, w, stride, padding, dilation, names=CONV_PADDINGS)
    check_channels(x, w, groups)
    options = make_options(x, groups, flip_kernel, precision, preferred_element_type)
    if isinstance(padding, str) and padding in FILLS:
        x, window = filled(x, window, FILLS[padding])
    y = on_one_batch_axis(lambda x: call(_conv, x, w, window, options), ndim, x=x)
    return y if b is None else bias_added(y, check_bias(b, y, ndim, complex=True, x=x))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv(x, w, window, options):
    return _c(x, w, window, options, ArrayType(options.dtype))


def _conv_fwd(x, w, window, options):
    return _c(x, w, window, options, ArrayType(options.dtype)), (x, w)


def _conv_bwd(window, options, residuals, dy):
    x, w = residuals
    dx = _h(dy, w, window, options, primal_type(x))  # [GBC] 9.13
    dw = _g(x, dy, window, options, primal_type(w))  # [GBC] 9.11
    return dx, dw


_conv.defvjp(_conv_fwd, _conv_bwd)


# ------------------------------------------------------------------------------------------
# conv_transpose
# ------------------------------------------------------------------------------------------


def conv_transpose(
    y: chex.Array,
    w: chex.Array,
    b: chex.Array | None = None,
    *,
    stride: PerAxis = 1,
    padding: Padding = "VALID",
    dilation: PerAxis = 1,
    groups: int = 1,
    output_size: PerAxis | None = None,
    flip_kernel: bool = False,
    precision: Precision = None,
    preferred_element_type: DTypeLike | None = None,
) -> jax.Array:
    """The transpose of `conv`: maps what has the shape of its output back to its input's.

        x[n, j, c] = Σ over i·s + d·m − before = j, and o, of y[n, i, o] · w[m, c, o]  (+ b[c])

    Kernel and options are those of the *forward* convolution, whose C_out channels become
    C_in: `transpose_kernel=True` in lax and Flax, where the default differs. Numbers as padding
    are the forward convolution's, as in PyTorch; in lax and Flax they pad the upsampled maps.

    Gradients: for the cotangent dx of the result:

        dy = c(dx, w)  (`conv`),   dw = g(dx, y)  (`conv_kernel_grad`),   db = Σ dx.

    Args:
        y: maps, (*batch, *out_spatial, C_out). Float, integer or complex.
        w: kernel of the forward convolution, (*kernel, C_in // groups, C_out), of y's dtype.
        b: bias, tied (C_in,) or untied (*spatial, C_in), of y's dtype or the output's.
        stride: of the forward convolution, as are padding, dilation, groups and flip_kernel.
        padding: as in `conv`, without the names for `conv` alone.
        dilation: as in `conv`.
        groups: as in `conv`.
        output_size: the spatial size of the forward convolution's input, an int or D ints:
            up to `stride` sizes lead to the same output. By default the smallest, and n·s
            for the SAME paddings.
        flip_kernel: as in `conv`.
        precision: as in `jax.lax.conv_general_dilated`.
        preferred_element_type: the dtype of the output; that of y by default.

    Returns:
        (*batch, *output_size, C_in).

    Raises:
        TypeError: if the arrays differ in dtype or have none that is supported.
        ValueError: if shapes or options do not fit together; for an output_size that the
            forward convolution would not map to y's size, with those that it would.

    Example:
        >>> import jax.numpy as jnp
        >>> y = jnp.array([1.0, 2.0]).reshape(1, 2, 1)
        >>> w = jnp.array([1.0, 10.0, 100.0]).reshape(3, 1, 1)
        >>> conv_transpose(y, w, stride=2)[0, :, 0]
        Array([  1.,  10., 102.,  20., 200.], dtype=float32)
        >>> conv_transpose(y, w, stride=2, output_size=6)[0, :, 0]
        Array([  1.,  10., 102.,  20., 200.,   0.], dtype=float32)

    Source: [GBC] 9.12–9.13; [J] 20–22; [H] 8.38–8.45; [B]; [S].
    """
    y, w = operands(integers=True, complex=True, y=y, w=w)
    ndim = kernel_ndim(w)
    groups = check_groups(groups, w)
    if y.shape[-1:] != w.shape[-1:]:
        raise ValueError(
            f"y: got {y.shape[-1] if y.ndim else 'no'} channels; w of shape {w.shape} is the "
            f"forward convolution's kernel, which has {w.shape[-1]} output channels"
        )
    maps = spatial_size(y.shape, ndim, argument="y")
    if min(maps) < 1:
        raise ValueError(f"y: got the spatial size {maps}; every axis needs a position")
    input_size = forward_input_size(maps, w.shape[:-2], stride, padding, dilation, output_size)
    window = make_window(input_size, w.shape[:-2], stride, padding, dilation)
    options = make_options(y, groups, flip_kernel, precision, preferred_element_type)
    x = on_one_batch_axis(lambda y: call(_conv_transpose, y, w, window, options), ndim, y=y)
    return x if b is None else bias_added(x, check_bias(b, x, ndim, complex=True, y=y))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv_transpose(y, w, window, options):
    return _h(y, w, window, options, ArrayType(options.dtype))


def _conv_transpose_fwd(y, w, window, options):
    return _h(y, w, window, options, ArrayType(options.dtype)), (y, w)


def _conv_transpose_bwd(window, options, residuals, dx):
    y, w = residuals
    dy = _c(dx, w, window, options, primal_type(y))  # [GBC] 9.8: ⟨h(y, w), dx⟩ = ⟨y, c(dx, w)⟩
    dw = _g(dx, y, window, options, primal_type(w))  # [GBC] 9.11: ⟨h(y, w), dx⟩ = ⟨w, g(dx, y)⟩
    return dy, dw


_conv_transpose.defvjp(_conv_transpose_fwd, _conv_transpose_bwd)


# ------------------------------------------------------------------------------------------
# conv_kernel_grad
# ------------------------------------------------------------------------------------------


def conv_kernel_grad(
    x: chex.Array,
    dy: chex.Array,
    kernel_size: PerAxis,
    *,
    stride: PerAxis = 1,
    padding: Padding = "VALID",
    dilation: PerAxis = 1,
    groups: int = 1,
    flip_kernel: bool = False,
    precision: Precision = None,
    preferred_element_type: DTypeLike | None = None,
    spatial_ndim: int | None = None,
) -> jax.Array:
    """The gradient of `conv` with respect to its kernel, as an operation of its own.

        dw[m, c, o] = Σ over n, i of x[n, i·s + d·m − before, c] · dy[n, i, o]

    Gradients: for the cotangent v of the result, which has the kernel's shape:

        dx = h(dy, v)  (`conv_transpose`),   d(dy) = c(x, v)  (`conv`).

    Args:
        x: images, (*batch, *spatial, C_in). Float, integer or complex.
        dy: the cotangent of conv's output, (*batch, *out_spatial, C_out), of x's dtype.
        kernel_size: the kernel's spatial size, an int or D ints. The stride alone does not
            tell it: kernels of several sizes can lead to the same output.
        stride: of the forward convolution, as are padding, dilation, groups and flip_kernel.
        padding: as in `conv`, without the names for `conv` alone.
        dilation: as in `conv`.
        groups: as in `conv`.
        flip_kernel: as in `conv`.
        precision: as in `jax.lax.conv_general_dilated`.
        preferred_element_type: the dtype of the result; that of x by default.
        spatial_ndim: D, where no option is a sequence; 2 by default.

    Returns:
        (*kernel_size, C_in // groups, C_out).

    Raises:
        TypeError: if the arrays differ in dtype or have none that is supported.
        ValueError: if shapes or options do not fit together.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.arange(5.0).reshape(1, 5, 1)
        >>> dy = jnp.array([1.0, 10.0, 100.0]).reshape(1, 3, 1)
        >>> conv_kernel_grad(x, dy, (3,))[:, 0, 0]
        Array([210., 321., 432.], dtype=float32)

    Source: [GBC] 9.11; [J] 13; [H] 8.47; [B], "Gradient w.r.t. Filters".
    """
    x, dy = operands(integers=True, complex=True, x=x, dy=dy)
    ndim = spatial_rank(
        spatial_ndim, kernel_size=kernel_size, stride=stride, padding=padding, dilation=dilation
    )
    kernel = per_axis("kernel_size", kernel_size, ndim)
    images = spatial_size(x.shape, ndim)
    spatial_size(dy.shape, ndim, argument="dy")
    window = make_window(images, kernel, stride, padding, dilation, argument="kernel_size")
    expected = (*x.shape[: -1 - ndim], *window.output_size)
    if dy.shape[:-1] != expected:
        raise ValueError(
            f"dy: got the shape {dy.shape}; for x of shape {x.shape} and kernel_size {kernel} the "
            f"output of the forward convolution is ({', '.join(map(str, expected))}, C_out)"
        )
    groups = positive_int("groups", groups)
    for name, channels in (("x", x.shape[-1]), ("dy", dy.shape[-1])):
        if channels < 1 or channels % groups:
            raise ValueError(
                f"groups: got {groups}, which does not divide the {channels} channels of {name}"
            )
    options = make_options(x, groups, flip_kernel, precision, preferred_element_type)
    return on_one_batch_axis(
        lambda x, dy: call(_conv_kernel_grad, x, dy, window, options),
        ndim,
        maps=False,
        x=x,
        dy=dy,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv_kernel_grad(x, dy, window, options):
    return _g(x, dy, window, options, summed_type(options.dtype, x, x.ndim))


def _conv_kernel_grad_fwd(x, dy, window, options):
    return _g(x, dy, window, options, summed_type(options.dtype, x, x.ndim)), (x, dy)


def _conv_kernel_grad_bwd(window, options, residuals, v):
    x, dy = residuals
    dx = _h(dy, v, window, options, primal_type(x))  # [GBC] 9.13: ⟨g(x, dy), v⟩ = ⟨x, h(dy, v)⟩
    ddy = _c(x, v, window, options, primal_type(dy))  # [GBC] 9.8: ⟨g(x, dy), v⟩ = ⟨dy, c(x, v)⟩
    return dx, ddy


_conv_kernel_grad.defvjp(_conv_kernel_grad_fwd, _conv_kernel_grad_bwd)
