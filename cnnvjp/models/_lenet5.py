"""LeNet-5, as it is used today and close to how it was."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from cnnvjp._checks.options import flag_option
from cnnvjp.activations import relu
from cnnvjp.affine import add_bias, flatten
from cnnvjp.max_pooling import max_pool
from cnnvjp.model import Model, Named
from cnnvjp.models._layers import (
    ByLayer,
    Parameters,
    before_relu,
    before_softmax,
    before_tanh,
    by_layer,
    check_classes,
    check_dtype,
    compiled_init,
    convolution,
    fully_connected,
    layer_params,
    unnamed,
)
from cnnvjp.smooth_activations import tanh
from cnnvjp.sum_pooling import weighted_avg_pool


def lenet5(classes: int = 10, *, classic: bool = False, dtype: DTypeLike = jnp.float32) -> Model:
    """LeNet-5: 5×5 convolutions to 6 and 16 maps, 2×2 pooling after each, 3 dense layers.

    The model returns the last layer's net input, n7, as logits: the softmax is part of the
    loss (`softmax_cross_entropy`). Made for images of 32×32; others of at least 16×16 work
    too. By default with relu and max pooling, which train fast.

    With `classic`, closer to LeCun et al. (1998): tanh, and pooling that multiplies the sum of
    a window by a trainable weight, one per map, adds a bias and squashes the result ([H]
    8.22). Of the original, the sparse table of connections into layer 3, the scaled tanh and
    the radial basis functions at the end are left out.

    Values are named as in `textbook`: layers 1 and 3 convolve, 2 and 4 pool (a2, and with
    `classic` lz2, n2 and a2), 5, 6 and 7 are fully connected.

    Args:
        classes: the number of classes.
        classic: tanh and weighted average pooling in place of relu and max pooling.
        dtype: of the parameters, and so of the images.

    Returns:
        A `Model` of images (*batch, height, width, C) and logits (*batch, classes), without
        state.

    Raises:
        TypeError: for a dtype that is not supported, or classic not a bool.
        ValueError: for options, or (from init) an input_shape, that do not fit.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = lenet5()
        >>> params, state = model.init(jax.random.key(0), (32, 32, 1))
        >>> sum(array.size for array in jax.tree.leaves(params))
        61706
        >>> logits, state = model.apply(params, state, jnp.zeros((2, 32, 32, 1)), train=False)
        >>> logits.shape
        (2, 10)

    Source: LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document
    recognition" (1998), fig. 2; [H] 8.20–8.25.
    """
    classes = check_classes(classes)
    dtype = check_dtype(dtype)
    classic = flag_option("classic", classic)
    activation, initializer = (tanh, before_tanh) if classic else (relu, before_relu)

    def pooling(params: ByLayer, layer: int, a: jax.Array, named: Named) -> jax.Array:
        if not classic:
            return named(f"a{layer}", max_pool(a, 2))
        pool = params[f"pool{layer}"]
        lz = named(f"lz{layer}", weighted_avg_pool(a, pool["w"], 2))  # [H] 8.22
        n = named(f"n{layer}", add_bias(lz, pool["b"]))
        return named(f"a{layer}", tanh(n))

    def feature_maps(params: ByLayer, x: jax.Array, named: Named) -> jax.Array:
        a1 = named("a1", activation(convolution(named, 1, x, params["conv1"])))
        a2 = pooling(params, 2, a1, named)
        a3 = named("a3", activation(convolution(named, 3, a2, params["conv3"])))
        a4 = pooling(params, 4, a3, named)
        return a4

    def forward(
        params: ByLayer, state: ByLayer, x: jax.Array, named: Named, *, train: bool, key: object
    ) -> tuple[jax.Array, ByLayer]:
        params = by_layer("params", params)
        a4 = feature_maps(params, x, named)
        a5 = named("a5", activation(fully_connected(named, 5, flatten(a4), params["dense5"])))
        a6 = named("a6", activation(fully_connected(named, 6, a5, params["dense6"])))
        n7 = fully_connected(named, 7, a6, params["dense7"])
        return n7, state

    @compiled_init
    def init(key: jax.Array, input_shape: tuple[int, ...]) -> tuple[ByLayer, ByLayer]:
        key1, key3, key5, key6, key7 = jax.random.split(key, 5)
        params = {
            "conv1": layer_params(key1, (5, 5, input_shape[-1], 6), dtype, initializer),
            "conv3": layer_params(key3, (5, 5, 6, 16), dtype, initializer),
        }
        if classic:
            params["pool2"] = _averaging(6, dtype)
            params["pool4"] = _averaging(16, dtype)
        x = jax.ShapeDtypeStruct(input_shape, dtype)
        a4 = jax.eval_shape(lambda params, x: feature_maps(params, x, unnamed), params, x)
        params["dense5"] = layer_params(key5, (a4.size, 120), dtype, initializer)
        params["dense6"] = layer_params(key6, (120, 84), dtype, initializer)
        params["dense7"] = layer_params(key7, (84, classes), dtype, before_softmax)
        return params, {}

    return Model.named(init, forward)


def _averaging(maps: int, dtype: np.dtype) -> Parameters:
    """A pooling layer that starts as the mean of its 2×2 windows."""
    return {"w": jnp.full(maps, 0.25, dtype), "b": jnp.zeros(maps, dtype)}
