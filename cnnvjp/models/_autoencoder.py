"""A convolutional autoencoder, whose decoder runs convolutions backwards."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from cnnvjp._windows.spatial import spatial_size
from cnnvjp.activations import relu
from cnnvjp.affine import add_bias
from cnnvjp.convolution import conv_transpose
from cnnvjp.model import Model, Named
from cnnvjp.models._layers import (
    ByLayer,
    Parameters,
    by_layer,
    check_dtype,
    check_maps,
    compiled_init,
    convolution,
    layer_params,
)

_KERNEL = (4, 4)  # a multiple of the stride: every pixel that is decoded sees as many taps
_STRIDE = 2

# Going up, a kernel's last axis is the input's, and a pixel is reached by 1 / stride² of the taps.
_before_relu_upward = jax.nn.initializers.variance_scaling(
    2.0 * _STRIDE**2, "fan_in", "truncated_normal", in_axis=-1, out_axis=-2
)
_upward = jax.nn.initializers.variance_scaling(
    1.0 * _STRIDE**2, "fan_in", "truncated_normal", in_axis=-1, out_axis=-2
)


def autoencoder(maps: Sequence[int] = (16, 4), *, dtype: DTypeLike = jnp.float32) -> Model:
    """Two strided convolutions down to a code, two transposed ones up to the input's size.

    Encoder and decoder are [GBC]'s c and h: "convolutional networks with reconstruction
    functions based on the transpose of convolution". Each convolution halves the size and
    rounds up, so that two sizes lead to the same output, and "the transpose operation must be
    explicitly told what the size of the original input was": the decoder is given the size of
    the encoder's input at its level, and so images of any size come back in their own.

    Trained with `half_squared_error` against the input itself. Values: a1 and the code, a2, on
    the way down; a3 and the reconstruction, n4, which has no transfer function, on the way up;
    lz and n of each layer.

    Args:
        maps: the numbers of feature maps of the first level and of the code.
        dtype: of the parameters, and so of the images.

    Returns:
        A `Model` of images (*batch, height, width, C) and reconstructions of the same shape,
        without state.

    Raises:
        TypeError: for a dtype that is not supported.
        ValueError: for options, or (from init) an input_shape, that do not fit.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = autoencoder()
        >>> params, state = model.init(jax.random.key(0), (15, 18, 1))
        >>> images = jnp.zeros((2, 15, 18, 1))
        >>> reconstructions, state = model.apply(params, state, images, train=False)
        >>> reconstructions.shape, model.intermediates(params, state, images)["a2"].shape
        ((2, 15, 18, 1), (2, 4, 5, 4))

    Source: [GBC] 9.8, 9.12–9.13 and the paragraphs around them.
    """
    maps1, maps2 = check_maps(maps)
    dtype = check_dtype(dtype)

    def down(named: Named, layer: int, a: jax.Array, params: Parameters) -> jax.Array:
        return convolution(named, layer, a, params, stride=_STRIDE, padding="SAME")

    def up(
        named: Named, layer: int, a: jax.Array, params: Parameters, like: jax.Array
    ) -> jax.Array:
        lz = conv_transpose(
            a,
            params["w"],
            stride=_STRIDE,
            padding="SAME",
            output_size=spatial_size(like.shape, 2),
        )
        return named(f"n{layer}", add_bias(named(f"lz{layer}", lz), params["b"]))

    def forward(
        params: ByLayer, state: ByLayer, x: jax.Array, named: Named, *, train: bool, key: object
    ) -> tuple[jax.Array, ByLayer]:
        params = by_layer("params", params)
        a1 = named("a1", relu(down(named, 1, x, params["conv1"])))
        a2 = named("a2", relu(down(named, 2, a1, params["conv2"])))
        a3 = named("a3", relu(up(named, 3, a2, params["conv_transpose3"], like=a1)))
        n4 = up(named, 4, a3, params["conv_transpose4"], like=x)
        return n4, state

    @compiled_init
    def init(key: jax.Array, input_shape: tuple[int, ...]) -> tuple[ByLayer, ByLayer]:
        *_, channels = input_shape
        key1, key2, key3, key4 = jax.random.split(key, 4)
        # A transpose has the kernel of the forward convolution: (*kernel, result, input).
        return {
            "conv1": layer_params(key1, (*_KERNEL, channels, maps1), dtype),
            "conv2": layer_params(key2, (*_KERNEL, maps1, maps2), dtype),
            "conv_transpose3": {
                "w": _before_relu_upward(key3, (*_KERNEL, maps1, maps2), dtype),
                "b": jnp.zeros(maps1, dtype),
            },
            "conv_transpose4": {
                "w": _upward(key4, (*_KERNEL, channels, maps1), dtype),
                "b": jnp.zeros(channels, dtype),
            },
        }, {}

    return Model.named(init, forward)
