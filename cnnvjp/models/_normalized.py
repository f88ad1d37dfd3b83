"""Layers whose net input is normalized: what ResNet and MobileNet are made of.

A network is one function of its input and of `Layers`, which numbers the layers in the order
in which they are called and gives each its parameters. Run on shapes alone, the same function
says which parameters there are.
"""

import math
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np

from cnnvjp._checks.options import flag_option
from cnnvjp._types import accumulator
from cnnvjp.affine import add_bias, dense
from cnnvjp.batch_normalization import batch_norm, batch_norm_inference
from cnnvjp.convolution import conv
from cnnvjp.model import Model, Named
from cnnvjp.models._layers import (
    ByLayer,
    Parameters,
    by_layer,
    compiled_init,
    unnamed,
)

_TRUNCATED_DEVIATION = 0.87962566  # of a normal variable that is cut off at −2 and 2
MOMENTUM = 0.9  # of the running statistics: the share that they keep at each step

Network = Callable[[jax.Array, "Layers"], jax.Array]


class Layers:
    """One pass through a network, layer by layer.

    Attributes:
        state: the running statistics after this pass, by layer.
    """

    def __init__(
        self,
        parameters: Callable[[str, tuple[int, ...]], Parameters],
        state: dict[str, Parameters],
        named: Named,
        train: bool,
    ) -> None:
        self._parameters = parameters
        self._before = state
        self._named = named
        self._train = train
        self._count = 0
        self.state: dict[str, Parameters] = {}

    def convolution(
        self, a: jax.Array, maps: int, size: int, *, stride: int = 1, groups: int = 1
    ) -> jax.Array:
        """The net input of a convolution layer: normalized over the batch, no bias."""
        self._count += 1
        name = f"conv{self._count}"
        params = self._parameters(name, (size, size, a.shape[-1] // groups, maps))
        # A border of ⌊k/2⌋, also for strides, as the networks' authors have it: not "SAME".
        lz = conv(a, params["w"], stride=stride, padding=size // 2, groups=groups)
        lz = self._named(f"lz{self._count}", lz)
        n = self._normalized(name, lz, params)
        return self._named(f"n{self._count}", n)

    def activation(self, f: Callable[[jax.Array], jax.Array], n: jax.Array) -> jax.Array:
        """The output of the layer whose net input is n, or of a block that ends with it."""
        return self._named(f"a{self._count}", f(n))

    def classifier(self, a: jax.Array, classes: int) -> jax.Array:
        """The net input of a softmax layer."""
        self._count += 1
        params = self._parameters(f"dense{self._count}", (a.shape[-1], classes))
        return self._named(f"n{self._count}", add_bias(dense(a, params["w"]), params["b"]))

    def _normalized(self, name: str, lz: jax.Array, params: Parameters) -> jax.Array:
        gamma, beta = params["gamma"], params["beta"]
        running = self._before[name]
        if not self._train:
            self.state[name] = dict(running)
            mean, var = running["mean"].astype(lz.dtype), running["var"].astype(lz.dtype)
            return batch_norm_inference(lz, gamma, beta, mean, var)
        n, mean, var = batch_norm(lz, gamma, beta)
        count = lz.size // lz.shape[-1]
        unbiased = var * (count / max(count - 1, 1))
        self.state[name] = {
            "mean": MOMENTUM * running["mean"] + (1 - MOMENTUM) * mean,
            "var": MOMENTUM * running["var"] + (1 - MOMENTUM) * unbiased,
        }
        return n


def normalized_model(network: Network, dtype: np.dtype) -> Model:
    """The `Model` of a network of such layers."""

    def forward(
        params: ByLayer, state: ByLayer, x: jax.Array, named: Named, *, train: bool, key: object
    ) -> tuple[jax.Array, ByLayer]:
        params, state = by_layer("params", params), by_layer("state", state)
        layers = Layers(lambda name, shape: params[name], state, named, flag_option("train", train))
        y = network(x, layers)
        return y, layers.state

    @compiled_init
    def init(key: jax.Array, input_shape: tuple[int, ...]) -> tuple[ByLayer, ByLayer]:
        shapes: dict[str, tuple[int, ...]] = {}

        def zeros(name: str, shape: tuple[int, ...]) -> Parameters:
            shapes[name] = shape
            return _parameters(jnp.zeros(shape, dtype), dtype)

        class Anything(dict):
            def __missing__(self, name: str) -> Parameters:
                return _statistics(shapes[name], dtype)

        def plan(x: jax.Array) -> jax.Array:
            return network(x, Layers(zeros, Anything(), unnamed, train=False))

        jax.eval_shape(plan, jax.ShapeDtypeStruct((1, *input_shape), dtype))
        weights = _drawn(key, shapes, dtype)
        params = {name: _parameters(weights[name], dtype) for name in shapes}
        state = {
            name: _statistics(shape, dtype) for name, shape in shapes.items() if len(shape) > 2
        }
        return params, state

    return Model.named(init, forward)


def _drawn(
    key: jax.Array, shapes: dict[str, tuple[int, ...]], dtype: np.dtype
) -> dict[str, jax.Array]:
    """He's normal weights before relu, Glorot's before the softmax.

    All are cut from one long draw: JAX compiles a generator for each, which takes a while for
    a deep network.
    """
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    draw = jax.random.truncated_normal(key, -2, 2, (sum(sizes.values()),), dtype)
    draw = draw / _TRUNCATED_DEVIATION
    weights, start = {}, 0
    for name, shape in shapes.items():
        fan_in, fan_out = math.prod(shape[:-1]), shape[-1]
        variance = 2 / fan_in if len(shape) > 2 else 2 / (fan_in + fan_out)
        weights[name] = draw[start : start + sizes[name]].reshape(shape) * math.sqrt(variance)
        start += sizes[name]
    chex.assert_type(list(weights.values()), dtype)  # Python's numbers have not widened it
    return weights


def _parameters(w: jax.Array, dtype: np.dtype) -> Parameters:
    """Of a convolution layer or, for a matrix w, of the classifier."""
    maps = w.shape[-1:]
    if w.ndim == 2:
        return {"w": w, "b": jnp.zeros(maps, dtype)}
    return {"w": w, "gamma": jnp.ones(maps, dtype), "beta": jnp.zeros(maps, dtype)}


def _statistics(shape: tuple[int, ...], dtype: np.dtype) -> Parameters:
    """Running statistics of a layer's maps, in at least float32."""
    maps, wide = shape[-1:], accumulator(dtype)
    return {"mean": jnp.zeros(maps, wide), "var": jnp.ones(maps, wide)}
