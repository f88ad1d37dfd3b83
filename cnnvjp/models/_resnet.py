"""Residual networks."""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from cnnvjp._checks.options import positive_int
from cnnvjp.activations import relu
from cnnvjp.adaptive_pooling import global_avg_pool
from cnnvjp.model import Model
from cnnvjp.models._layers import check_classes, check_dtype
from cnnvjp.models._normalized import Layers, normalized_model

# Blocks in each group of the wide networks; the narrow ones have 3 groups of n blocks.
_WIDE = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


def resnet(depth: int = 18, classes: int = 10, *, dtype: DTypeLike = jnp.float32) -> Model:
    """A residual network for small images: blocks of two convolutions, around which x is added.

        y = relu(n₂(relu(n₁(x))) + x),   n(x) = batch_norm(conv(x, w))

    Where a block halves the image and doubles the maps, x goes through a 1×1 convolution of
    stride 2 on its way around. Depths 18 and 34 have groups of 64, 128, 256 and 512 maps;
    depths 6n + 2 (8, 14, 20, 32, 44, 56, 110) have n blocks of each of 16, 32 and 64 maps. All
    begin with a 3×3 convolution at the image's size and end with the mean over positions and a
    softmax layer, whose net input is returned.

    Layers are numbered in the order in which they are computed, those around a block before
    those in it: layer i has lz, n and, where an activation follows it, a. A block's output is
    the a of its last layer.

    Args:
        depth: 18, 34, or 6n + 2 with n ≥ 1.
        classes: the number of classes.
        dtype: of the parameters, and so of the images.

    Returns:
        A `Model` of images (*batch, height, width, C) and logits (*batch, classes). Its state
        holds the running mean and (unbiased) variance of every normalization, of which each
        training step keeps 0.9.

    Raises:
        TypeError: for a dtype that is not supported.
        ValueError: for a depth or a number of classes that does not fit.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = resnet(8, classes=3)
        >>> params, state = model.init(jax.random.key(0), (8, 8, 1))
        >>> logits, state = model.apply(params, state, jnp.ones((2, 8, 8, 1)), train=True)
        >>> logits.shape, state["conv1"]["mean"].shape
        ((2, 3), (16,))

    Source: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition" (2016), sections
    3.3 and 4.2; several layers into one net input: [H] 8.35.
    """
    classes = check_classes(classes)
    dtype = check_dtype(dtype)
    depth = positive_int("depth", depth)
    if depth in _WIDE:
        groups = dict(zip((64, 128, 256, 512), _WIDE[depth], strict=True))
    elif depth % 6 == 2 and depth > 2:
        groups = dict.fromkeys((16, 32, 64), (depth - 2) // 6)
    else:
        raise ValueError(f"depth: got {depth}; it must be 18, 34, or 6n + 2 with n of at least 1")

    def network(x: jax.Array, layers: Layers) -> jax.Array:
        first = next(iter(groups))
        a = layers.activation(relu, layers.convolution(x, first, 3))
        for maps, blocks in groups.items():
            for block in range(blocks):
                a = _block(a, layers, maps, stride=2 if block == 0 and maps != first else 1)
        return layers.classifier(global_avg_pool(a), classes)

    return normalized_model(network, dtype)


def _block(x: jax.Array, layers: Layers, maps: int, stride: int) -> jax.Array:
    around = x
    if stride > 1 or x.shape[-1] != maps:
        around = layers.convolution(x, maps, 1, stride=stride)
    a = layers.activation(relu, layers.convolution(x, maps, 3, stride=stride))
    return layers.activation(relu, layers.convolution(a, maps, 3) + around)
