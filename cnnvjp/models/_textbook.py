"""The network of [H] fig. 8.11."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from cnnvjp._types import PerAxis
from cnnvjp._windows.spatial import per_axis
from cnnvjp.activations import relu
from cnnvjp.affine import add_bias, dense, flatten
from cnnvjp.convolution import conv
from cnnvjp.max_pooling import max_pool
from cnnvjp.model import Model, Named
from cnnvjp.models._layers import (
    ByLayer,
    before_softmax,
    by_layer,
    check_classes,
    check_dtype,
    check_maps,
    compiled_init,
    layer_params,
    unnamed,
)


def textbook(
    classes: int = 10,
    *,
    maps: Sequence[int] = (8, 16),
    kernel_size: PerAxis = 5,
    window: PerAxis = 2,
    activation: Callable[[jax.Array], jax.Array] = relu,
    dtype: DTypeLike = jnp.float32,
) -> Model:
    """Two convolution–pooling groups, a conversion to a vector, and a softmax layer.

    The model returns the softmax layer's net input, n5, as logits: the softmax itself is part
    of the loss (`softmax_cross_entropy`), or of a caller who wants probabilities (`softmax`).

    Values have [H]'s names: layer 1 convolves (lz1, n1, a1), layer 2 pools (a2), layers 3 and
    4 likewise, layer 5 is fully connected (lz5, n5). Pooling has neither bias nor transfer
    function here, so that its lz, n and a are one.

    Args:
        classes: the number of classes.
        maps: the numbers of feature maps of the two convolution layers.
        kernel_size: of both convolutions, an int or 2 ints.
        window: of both poolings, an int or 2 ints.
        activation: the transfer function of both convolution layers.
        dtype: of the parameters, and so of the images.

    Returns:
        A `Model` of images (*batch, height, width, C) and logits (*batch, classes), without
        state.

    Raises:
        TypeError: for a dtype that is not supported or an activation that is not a function.
        ValueError: for options, or (from init) an input_shape, that do not fit.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = textbook(classes=3, kernel_size=3)
        >>> params, state = model.init(jax.random.key(0), (16, 16, 1))
        >>> images = jnp.zeros((2, 16, 16, 1))
        >>> logits, state = model.apply(params, state, images, train=False)
        >>> logits.shape, model.intermediates(params, state, images)["a4"].shape
        ((2, 3), (2, 2, 2, 16))

    Source: [H] fig. 8.11, 8.20–8.26.
    """
    classes = check_classes(classes)
    maps1, maps3 = check_maps(maps)
    kernel = per_axis("kernel_size", kernel_size, 2)
    window = per_axis("window", window, 2)
    dtype = check_dtype(dtype)
    if not callable(activation):
        raise TypeError(f"activation: got {type(activation).__name__}; it must be a function")

    def feature_maps(params: ByLayer, x: jax.Array, named: Named) -> jax.Array:
        lz1 = named("lz1", conv(x, params["conv1"]["w"]))
        n1 = named("n1", add_bias(lz1, params["conv1"]["b"]))
        a1 = named("a1", activation(n1))
        a2 = named("a2", max_pool(a1, window))
        lz3 = named("lz3", conv(a2, params["conv3"]["w"]))
        n3 = named("n3", add_bias(lz3, params["conv3"]["b"]))
        a3 = named("a3", activation(n3))
        a4 = named("a4", max_pool(a3, window))
        return a4

    def forward(
        params: ByLayer, state: ByLayer, x: jax.Array, named: Named, *, train: bool, key: object
    ) -> tuple[jax.Array, ByLayer]:
        params = by_layer("params", params)
        a4 = feature_maps(params, x, named)
        vec_a4 = flatten(a4, order="column")  # [H] 8.26
        lz5 = named("lz5", dense(vec_a4, params["dense5"]["w"]))
        n5 = named("n5", add_bias(lz5, params["dense5"]["b"]))
        return n5, state

    @compiled_init
    def init(key: jax.Array, input_shape: tuple[int, ...]) -> tuple[ByLayer, ByLayer]:
        key1, key3, key5 = jax.random.split(key, 3)
        params = {
            "conv1": layer_params(key1, (*kernel, input_shape[-1], maps1), dtype),
            "conv3": layer_params(key3, (*kernel, maps1, maps3), dtype),
        }
        x = jax.ShapeDtypeStruct(input_shape, dtype)
        a4 = jax.eval_shape(lambda params, x: feature_maps(params, x, unnamed), params, x)
        params["dense5"] = layer_params(key5, (a4.size, classes), dtype, before_softmax)
        return params, {}

    return Model.named(init, forward)
