"""What the library's operations are compared with: the same in lax's own, for JAX to differentiate."""

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
