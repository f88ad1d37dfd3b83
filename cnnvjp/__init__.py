"""Convolutional networks in JAX with every backward pass written out.

The operations are pure functions of channels-last arrays, (*batch, *spatial, C), and each
carries a `jax.custom_vjp` whose rule is written from the equations of five sources:

    [GBC]  Goodfellow, Bengio, Courville: Deep Learning (2016), chapter 9
    [J]    Jefkine: Backpropagation in Convolutional Neural Networks (2016)
    [B]    Bereyhi: Applied Deep Learning (2026), chapter 4
    [H]    Neural Network Design: Deep Learning, chapter 8
    [S]    Back propagation through a Convolutional Layer (slides)

`cnnvjp.equations` holds those equations themselves, as NumPy loops; `cnnvjp.plot`, to be imported
by itself, draws what the rules do; `cnnvjp.interop` takes them into Flax, Equinox and Haiku;
`cnnvjp.train` makes training steps; `cnnvjp.training`, to be imported by itself, holds whole runs.
"""

from cnnvjp import equations, interop, models, train
from cnnvjp.activations import elu, hard_swish, leaky_relu, prelu, relu, relu6
from cnnvjp.adaptive_pooling import (
    adaptive_avg_pool,
    adaptive_max_pool,
    global_avg_pool,
    global_max_pool,
)
from cnnvjp.affine import add_bias, dense, flatten, scale, unflatten
from cnnvjp.batch_normalization import batch_norm, batch_norm_inference
from cnnvjp.compiling import cpu_compiler_options, jit, use_cpu_compiler_options
from cnnvjp.convolution import conv, conv_kernel_grad, conv_transpose
from cnnvjp.losses import half_squared_error, sigmoid_cross_entropy, softmax_cross_entropy
from cnnvjp.max_pooling import max_pool, min_pool
from cnnvjp.max_unpooling import max_unpool
from cnnvjp.model import Model
from cnnvjp.normalization import group_norm, layer_norm, standardize
from cnnvjp.padding import pad
from cnnvjp.regularization import dropout, l2_penalty
from cnnvjp.resampling import downsample, pixel_shuffle, pixel_unshuffle, repeat, upsample
from cnnvjp.resizing import resize
from cnnvjp.rewriting import conv_general_dilated, explicit
from cnnvjp.sampling import affine_positions, normalized_positions, sample
from cnnvjp.smooth_activations import gelu, sigmoid, silu, softplus, tanh
from cnnvjp.softmax_activations import log_softmax, softmax
from cnnvjp.sum_pooling import avg_pool, lp_pool, sum_pool, weighted_avg_pool
from cnnvjp.unfolding import fold, unfold

__version__ = "0.1.0"

__all__ = [
    "Model",
    "adaptive_avg_pool",
    "adaptive_max_pool",
    "add_bias",
    "affine_positions",
    "avg_pool",
    "batch_norm",
    "batch_norm_inference",
    "conv",
    "conv_general_dilated",
    "conv_kernel_grad",
    "conv_transpose",
    "cpu_compiler_options",
    "dense",
    "downsample",
    "dropout",
    "elu",
    "equations",
    "explicit",
    "flatten",
    "fold",
    "gelu",
    "global_avg_pool",
    "global_max_pool",
    "group_norm",
    "half_squared_error",
    "hard_swish",
    "interop",
    "jit",
    "l2_penalty",
    "layer_norm",
    "leaky_relu",
    "log_softmax",
    "lp_pool",
    "max_pool",
    "max_unpool",
    "min_pool",
    "models",
    "normalized_positions",
    "pad",
    "pixel_shuffle",
    "pixel_unshuffle",
    "prelu",
    "relu",
    "relu6",
    "repeat",
    "resize",
    "sample",
    "scale",
    "sigmoid",
    "sigmoid_cross_entropy",
    "silu",
    "softmax",
    "softmax_cross_entropy",
    "softplus",
    "standardize",
    "sum_pool",
    "tanh",
    "train",
    "unflatten",
    "unfold",
    "upsample",
    "use_cpu_compiler_options",
    "weighted_avg_pool",
]
