"""What the library's operations are compared with: the same in lax's own, for JAX to differentiate."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

BATCHED = {1: "NWC", 2: "NHWC", 3: "NDHWC"}
KERNEL = {1: "WIO", 2: "HWIO", 3: "DHWIO"}


def lax_conv(x, w, *, stride=1, padding="VALID", dilation=1, groups=1, flip_kernel=False):
    """The same convolution in lax's own operation, batch axes merged."""
    ndim = w.ndim - 2
    every = lambda option: (option,) * ndim if isinstance(option, int) else tuple(option)
    if padding == "FULL":
        padding = tuple(d * (k - 1) for d, k in zip(every(dilation), w.shape[:-2], strict=True))
    if not isinstance(padding, str):
        padding = [(p, p) if isinstance(p, int) else tuple(p) for p in every(padding)]
    if flip_kernel:
        w = jnp.flip(w, range(ndim))
    batch = x.shape[: -1 - ndim]
    y = lax.conv_general_dilated(
        x.reshape(int(np.prod(batch)), *x.shape[-1 - ndim :]),
        w,
        every(stride),
        padding,
        rhs_dilation=every(dilation),
        dimension_numbers=(BATCHED[ndim], KERNEL[ndim], BATCHED[ndim]),
        feature_group_count=groups,
    )
    return y.reshape(*batch, *y.shape[1:])


def lax_local_conv(x, w, *, stride=1, padding="VALID", dilation=1):
    """Kernels that take turns, (*tiles, *kernel, C, O), by lax's unshared convolution."""
    ndim = w.ndim // 2 - 1
    tiles, kernel = w.shape[:ndim], w.shape[ndim:-2]
    every = lambda option: (option,) * ndim if isinstance(option, int) else tuple(option)
    options = dict(stride=stride, padding=padding, dilation=dilation)
    shared = jnp.zeros(w.shape[ndim:], w.dtype)
    out = jax.eval_shape(lambda x: lax_conv(x, shared, **options), x).shape[-1 - ndim : -1]
    w = w[np.ix_(*(np.arange(o) % t for o, t in zip(out, tiles, strict=True)))]
    w = jnp.moveaxis(w, -2, ndim)  # lax's rows are (C, *kernel)
    if not isinstance(padding, str):
        padding = [(p, p) if isinstance(p, int) else tuple(p) for p in every(padding)]
    batch = x.shape[: -1 - ndim]
    y = lax.conv_general_dilated_local(
        x.reshape(int(np.prod(batch)), *x.shape[-1 - ndim :]),
        w.reshape(*out, x.shape[-1] * int(np.prod(kernel)), w.shape[-1]),
        every(stride),
        padding,
        kernel,
        rhs_dilation=every(dilation),
        dimension_numbers=(BATCHED[ndim], KERNEL[ndim], BATCHED[ndim]),
        precision="highest",
    )
    return y.reshape(*batch, *y.shape[1:])
