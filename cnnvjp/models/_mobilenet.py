"""MobileNetV2."""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from cnnvjp._checks.options import number_option
from cnnvjp.activations import relu6
from cnnvjp.adaptive_pooling import global_avg_pool
from cnnvjp.model import Model
from cnnvjp.models._layers import check_classes, check_dtype
from cnnvjp.models._normalized import Layers, normalized_model

# Expansion, maps, blocks and the first block's stride: table 2 of the paper, with the strides
# of its first two halvings left out for images of 32×32.
_GROUPS = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_FIRST, _LAST = 32, 1280


def mobilenet(classes: int = 10, *, width: float = 1.0, dtype: DTypeLike = jnp.float32) -> Model:
    """MobileNetV2 for small images: depthwise convolutions between narrow layers.

        y = n₃(relu6(n₂(relu6(n₁(x))))) + x,   n(x) = batch_norm(conv(x, w))

    n₁ expands the maps sixfold by a 1×1 convolution, n₂ is depthwise, 3×3, and n₃ narrows them
    again by a 1×1 convolution, with no activation behind it; x is added where the sizes agree.
    At the image's size begins a 3×3 convolution of 32 maps; at an eighth of it ends a 1×1
    convolution of 1280, the mean over positions and a softmax layer, whose net input is
    returned. Layers are numbered as in `resnet`.

    Args:
        classes: the number of classes.
        width: the factor by which every layer is wider, at least 0.1; maps are rounded to a
            multiple of 8.
        dtype: of the parameters, and so of the images.

    Returns:
        A `Model` of images (*batch, height, width, C) and logits (*batch, classes), with
        running statistics as its state, as `resnet` has them.

    Raises:
        TypeError: for a dtype that is not supported.
        ValueError: for a number of classes or a width that does not fit.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = mobilenet(width=0.25)
        >>> params, state = jax.eval_shape(lambda: model.init(jax.random.key(0), (32, 32, 3)))
        >>> params["conv2"]["w"].shape  # depthwise
        (3, 3, 1, 8)

    Source: Sandler, Howard, Zhu, Zhmoginov, Chen, "MobileNetV2: Inverted Residuals and Linear
    Bottlenecks" (2018), table 2; depth-wise convolution: [B], "Other Forms".
    """
    classes = check_classes(classes)
    dtype = check_dtype(dtype)
    width = number_option("width", width, low=0.1)

    def network(x: jax.Array, layers: Layers) -> jax.Array:
        a = layers.activation(relu6, layers.convolution(x, _multiple(_FIRST * width), 3))
        for expansion, maps, blocks, stride in _GROUPS:
            for block in range(blocks):
                step = stride if block == 0 else 1
                a = _block(a, layers, expansion, _multiple(maps * width), step)
        last = _multiple(_LAST * max(width, 1.0))
        a = layers.activation(relu6, layers.convolution(a, last, 1))
        return layers.classifier(global_avg_pool(a), classes)

    return normalized_model(network, dtype)


def _block(x: jax.Array, layers: Layers, expansion: int, maps: int, stride: int) -> jax.Array:
    a, wide = x, x.shape[-1] * expansion
    if expansion > 1:
        a = layers.activation(relu6, layers.convolution(x, wide, 1))
    a = layers.activation(relu6, layers.convolution(a, wide, 3, stride=stride, groups=wide))
    n = layers.convolution(a, maps, 1)
    return layers.activation(lambda n: n + x, n) if n.shape == x.shape else n


def _multiple(maps: float) -> int:
    """The nearest multiple of 8, not less than 9/10 of it."""
    nearest = max(8, int(maps + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * maps else nearest
