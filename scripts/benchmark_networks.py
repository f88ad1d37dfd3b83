"""Whole training steps for `benchmark.py`, ours and in Flax, in a process of their own.

A step that follows others in one process can lose half of its speed, because the process's memory
is no longer mapped in huge pages: the benchmark starts this file once for every step that it
measures. Each side trains the same architecture on the same batch, by SGD with momentum.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from benchmark_layers import AUTODIFF, OURS, jit
from benchmark_process import Run, serve
from benchmark_suite import (
    CLASSES,
    CONVNEXT,
    MOBILENET,
    UNET,
    UNET_BOTTOM,
    VGG,
    VGG_DENSE,
    Network,
)

import cnnvjp
from cnnvjp import conv, conv_transpose, dense, gelu, layer_norm, max_pool, relu

EXPLICIT, INJECTION = "explicit", "injection"
LAYER_SCALE = 1e-6

# `weight(*shape)` gives a network its next weights, `weight(*shape, fill=0)` those that begin as
# that number.
Weights = Callable[..., jax.Array]

# ------------------------------------------------------------------------------------------
# Ours
# ------------------------------------------------------------------------------------------


def _convolution(x: jax.Array, weight: Weights, maps: int, size: int, **options: Any) -> jax.Array:
    groups = options.get("groups", 1)
    w = weight(size, size, x.shape[-1] // groups, maps)
    return conv(x, w, weight(maps, fill=0), **options)


def _dense(x: jax.Array, weight: Weights, maps: int) -> jax.Array:
    return dense(x, weight(x.shape[-1], maps), weight(maps, fill=0))


def _layer_norm(x: jax.Array, weight: Weights) -> jax.Array:
    maps = x.shape[-1]
    return layer_norm(x, weight(maps, fill=1), weight(maps, fill=0), eps=1e-6)


def _vgg(x: jax.Array, weight: Weights) -> jax.Array:
    """3×3 convolutions with max pooling after each group, and two dense layers."""
    for maps, count in VGG:
        for _ in range(count):
            x = relu(_convolution(x, weight, maps, 3, padding=1))
        x = max_pool(x, 2)
    x = relu(_dense(cnnvjp.flatten(x), weight, VGG_DENSE))
    return _dense(x, weight, CLASSES)


def _convnext(x: jax.Array, weight: Weights) -> jax.Array:
    """Blocks of 7×7 depthwise convolution, layer norm, and two 1×1 layers with gelu between."""
    for group, (maps, blocks) in enumerate(CONVNEXT):
        if group:
            x = _layer_norm(x, weight)
        x = _convolution(x, weight, maps, 2, stride=2)
        if not group:
            x = _layer_norm(x, weight)
        for _ in range(blocks):
            y = _convolution(x, weight, maps, 7, padding=3, groups=maps)
            y = gelu(_dense(_layer_norm(y, weight), weight, 4 * maps))
            y = _dense(y, weight, maps)
            x = x + cnnvjp.scale(y, weight(maps, fill=LAYER_SCALE))
    return _dense(_layer_norm(cnnvjp.global_avg_pool(x), weight), weight, CLASSES)


def _unet(x: jax.Array, weight: Weights) -> jax.Array:
    """Pairs of 3×3 convolutions, on smaller and smaller maps and back, with skip connections."""

    def pair(x: jax.Array, maps: int) -> jax.Array:
        for _ in range(2):
            x = relu(_convolution(x, weight, maps, 3, padding=1))
        return x

    skipped = []
    for maps in UNET:
        skipped.append(pair(x, maps))
        x = max_pool(skipped[-1], 2)
    x = pair(x, UNET_BOTTOM)
    for maps in reversed(UNET):
        w = weight(2, 2, maps, x.shape[-1])
        x = conv_transpose(x, w, weight(maps, fill=0), stride=2)
        x = pair(jnp.concatenate([skipped.pop(), x], axis=-1), maps)
    return _convolution(x, weight, CLASSES, 1)


def _model(network: Callable[[jax.Array, Weights], jax.Array]) -> cnnvjp.Model:
    """The model whose parameters are the list of a network's weights, in the order of their use."""

    def init(key: jax.Array, input_shape: tuple[int, ...]) -> tuple[list[jax.Array], Any]:
        asked: list[tuple[tuple[int, ...], float | None]] = []

        def weight(*shape: int, fill: float | None = None) -> jax.Array:
            asked.append((shape, fill))
            return jnp.zeros(shape, jnp.float32)

        image = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
        jax.eval_shape(lambda x: network(x, weight), image)
        sizes = [math.prod(shape) for shape, _ in asked]
        normal = jax.random.normal(key, (sum(sizes),), jnp.float32)
        params = []
        for (shape, fill), end in zip(asked, itertools.accumulate(sizes), strict=True):
            drawn = normal[end - math.prod(shape) : end].reshape(shape)
            he = drawn * math.sqrt(2 / math.prod(shape[:-1]))
            params.append(he if fill is None else jnp.full(shape, fill, jnp.float32))
        return params, {}

    def apply(
        params: list[jax.Array], state: Any, x: jax.Array, *, train: bool, key: Any = None
    ) -> tuple[jax.Array, Any]:
        rest = iter(params)
        return network(x, lambda *shape, fill=None: next(rest)), state

    return cnnvjp.Model(init, apply)


NETWORKS = {"vgg": _vgg, "convnext": _convnext, "unet": _unet}


def our_network(name: str) -> cnnvjp.Model:
    """The model of that name."""
    if name in NETWORKS:
        return _model(NETWORKS[name])
    return getattr(cnnvjp.models, name)(classes=CLASSES)


def our_step(network: Network, cpu_options: bool) -> Run:
    """A step of `cnnvjp.train`."""
    x, t = examples(network)
    model, optimizer = our_network(network.name), optax.sgd(0.01, 0.9)
    key = jax.random.key(0)
    state = cnnvjp.train.create(key, model, optimizer, network.image)
    step = cnnvjp.train.make_train_step(
        model,
        cnnvjp.softmax_cross_entropy,
        optimizer,
        compiler_options=None if cpu_options else {},
    )

    def run() -> Any:
        nonlocal state
        state, metrics = step(state, (x, t), key)
        return jax.block_until_ready((state, metrics["loss"]))

    return run


def examples(network: Network) -> tuple[jax.Array, jax.Array]:
    """Random images, and labels for them."""
    x = jax.random.normal(jax.random.key(0), (network.batch, *network.image), jnp.float32)
    labels = (network.batch, *network.labels)
    return x, jnp.arange(math.prod(labels), dtype=jnp.int32).reshape(labels) % CLASSES


# ------------------------------------------------------------------------------------------
# In Flax
# ------------------------------------------------------------------------------------------


def flax_step(
    network: Network,
    *,
    cpu_options: bool = False,
    injected: bool = False,
    rewrite: Callable[..., Any] = lambda loss: loss,
) -> Run:
    """The same step in Flax and Optax."""
    x, t = examples(network)
    module, optimizer = flax_network(network.name, injected=injected), optax.sgd(0.01, 0.9)
    variables = jax.jit(lambda key: module.init(key, x, train=True))(jax.random.key(0))
    params, rest = variables["params"], {k: v for k, v in variables.items() if k != "params"}

    def loss(params: Any, rest: Any) -> Any:
        y, rest = module.apply({"params": params, **rest}, x, train=True, mutable=list(rest))
        return optax.softmax_cross_entropy_with_integer_labels(y, t).mean(), rest

    def step(carry: Any) -> Any:
        params, rest, opt_state = carry
        slopes = jax.value_and_grad(rewrite(loss), has_aux=True)
        (value, rest), gradients = slopes(params, rest)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return (optax.apply_updates(params, updates), rest, opt_state), value

    compiled = jit(step, cpu_options, donate_argnums=0)
    carry = params, rest, optimizer.init(params)

    def run() -> Any:
        nonlocal carry
        carry, value = compiled(carry)
        return jax.block_until_ready((carry, value))

    return run


def flax_network(name: str, *, injected: bool = False) -> Any:
    """The network of this name as a flax.linen module, `module(x, train)`.

    With `injected`, its convolutions and its max pooling use ours: the lines that a user would
    change. Without, it is stock Flax. `nn.ConvTranspose` takes no other convolution.
    """
    import flax.linen as nn

    convolve = cnnvjp.conv_general_dilated if injected else None
    max_pool = cnnvjp.interop.flax_max_pool if injected else nn.max_pool

    def convolution(x: Any, maps: int, size: int, stride: int = 1, groups: int = 1) -> Any:
        return nn.Conv(
            maps,
            (size, size),
            stride,
            padding=size // 2,
            feature_group_count=groups,
            use_bias=False,
            conv_general_dilated=convolve,
        )(x)

    def normalized(x: Any, train: bool) -> Any:
        return nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)

    class LeNet5(nn.Module):
        @nn.compact
        def __call__(self, x: Any, train: bool) -> Any:
            for maps in (6, 16):
                layer = nn.Conv(maps, (5, 5), padding="VALID", conv_general_dilated=convolve)
                x = max_pool(nn.relu(layer(x)), (2, 2), (2, 2))
            x = x.reshape(x.shape[0], -1)
            for width in (120, 84):
                x = nn.relu(nn.Dense(width)(x))
            return nn.Dense(CLASSES)(x)

    class ResNet18(nn.Module):
        @nn.compact
        def __call__(self, x: Any, train: bool) -> Any:
            x = nn.relu(normalized(convolution(x, 64, 3), train))
            for maps in (64, 128, 256, 512):
                for block in range(2):
                    stride = 2 if block == 0 and maps > 64 else 1
                    around = x
                    if stride > 1:
                        around = normalized(convolution(x, maps, 1, stride), train)
                    y = nn.relu(normalized(convolution(x, maps, 3, stride), train))
                    x = nn.relu(normalized(convolution(y, maps, 3), train) + around)
            return nn.Dense(CLASSES)(x.mean((1, 2)))

    class MobileNetV2(nn.Module):
        @nn.compact
        def __call__(self, x: Any, train: bool) -> Any:
            x = nn.relu6(normalized(convolution(x, 32, 3), train))
            for expansion, maps, blocks, first in MOBILENET:
                for block in range(blocks):
                    y, wide = x, x.shape[-1] * expansion
                    if expansion > 1:
                        y = nn.relu6(normalized(convolution(y, wide, 1), train))
                    stride = first if block == 0 else 1
                    y = nn.relu6(normalized(convolution(y, wide, 3, stride, wide), train))
                    y = normalized(convolution(y, maps, 1), train)
                    x = x + y if x.shape == y.shape else y
            x = nn.relu6(normalized(convolution(x, 1280, 1), train))
            return nn.Dense(CLASSES)(x.mean((1, 2)))

    class VGGLike(nn.Module):
        @nn.compact
        def __call__(self, x: Any, train: bool) -> Any:
            for maps, count in VGG:
                for _ in range(count):
                    x = nn.relu(nn.Conv(maps, (3, 3), conv_general_dilated=convolve)(x))
                x = max_pool(x, (2, 2), (2, 2))
            x = nn.relu(nn.Dense(VGG_DENSE)(x.reshape(x.shape[0], -1)))
            return nn.Dense(CLASSES)(x)

    class ConvNeXt(nn.Module):
        @nn.compact
        def __call__(self, x: Any, train: bool) -> Any:
            for group, (maps, blocks) in enumerate(CONVNEXT):
                if group:
                    x = nn.LayerNorm()(x)
                x = nn.Conv(maps, (2, 2), 2, conv_general_dilated=convolve)(x)
                if not group:
                    x = nn.LayerNorm()(x)
                for block in range(blocks):
                    y = nn.Conv(
                        maps, (7, 7), feature_group_count=maps, conv_general_dilated=convolve
                    )(x)
                    y = nn.gelu(nn.Dense(4 * maps)(nn.LayerNorm()(y)))
                    scale = nn.initializers.constant(LAYER_SCALE)
                    y = nn.Dense(maps)(y)
                    x = x + y * self.param(f"scale_{group}_{block}", scale, (maps,))
            return nn.Dense(CLASSES)(nn.LayerNorm()(x.mean((1, 2))))

    class UNet(nn.Module):
        @nn.compact
        def __call__(self, x: Any, train: bool) -> Any:
            def pair(x: Any, maps: int) -> Any:
                for _ in range(2):
                    x = nn.relu(nn.Conv(maps, (3, 3), conv_general_dilated=convolve)(x))
                return x

            skipped = []
            for maps in UNET:
                skipped.append(pair(x, maps))
                x = max_pool(skipped[-1], (2, 2), (2, 2))
            x = pair(x, UNET_BOTTOM)
            for maps in reversed(UNET):
                x = nn.ConvTranspose(maps, (2, 2), (2, 2))(x)
                x = pair(jnp.concatenate([skipped.pop(), x], axis=-1), maps)
            return nn.Conv(CLASSES, (1, 1), conv_general_dilated=convolve)(x)

    networks = {
        "lenet5": LeNet5, "resnet": ResNet18, "mobilenet": MobileNetV2, "vgg": VGGLike,
        "convnext": ConvNeXt, "unet": UNet,
    }  # fmt: skip
    return networks[name]()


def prepare(side: str, network: dict[str, Any], cpu_options: bool = False) -> Run:
    """The step of a network: ours, stock Flax's, or Flax's with one of the two swaps."""
    spec = Network.from_json(network)
    if side == OURS:
        return our_step(spec, cpu_options)
    options: dict[str, dict[str, Any]] = {
        AUTODIFF: {}, EXPLICIT: {"rewrite": cnnvjp.explicit}, INJECTION: {"injected": True}
    }  # fmt: skip
    return flax_step(spec, cpu_options=cpu_options, **options[side])


if __name__ == "__main__":
    serve({"jax": jax.__version__}, prepare)
