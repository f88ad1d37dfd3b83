"""Every equation of the sources against the operation that implements it, on random numbers.

The files `test_worked_examples_*.py` work the sources' examples by hand; here nothing is left
out. Each function below computes one thing in every way that the library has: the operation,
the gradient that another operation's rule gives, a composition. Above it stand the equations
it must agree with, each with the data in its source's order. An equation that is added to
`cnnvjp.equations` and to no function here fails the last test.
"""

import functools
import inspect
import math

import jax.numpy as jnp
import numpy as np
import pytest
from checker import assert_close, distinct, normal
from worked import filters, kernel, kernels, maps, matrix, one_map, planes, pull_back, shape_of

from cnnvjp import (
    add_bias,
    affine_positions,
    avg_pool,
    conv,
    conv_kernel_grad,
    conv_transpose,
    downsample,
    equations,
    flatten,
    half_squared_error,
    leaky_relu,
    max_pool,
    max_unpool,
    pad,
    relu,
    repeat,
    sample,
    scale,
    sigmoid,
    silu,
    softplus,
    sum_pool,
    tanh,
    unflatten,
    upsample,
    weighted_avg_pool,
)

RNG = np.random.default_rng(20160905)
ROWS = {}  # an equation's name: the operation, and how the equation is called


def random(*shape):
    return np.asarray(normal(RNG, *shape))


def agrees_with(**calls):
    """Registers an operation for equations, each given by a function that calls it."""

    def register(operation):
        assert not ROWS.keys() & calls.keys()
        computed = functools.cache(lambda: list(operation()))
        ROWS.update({name: (computed, call) for name, call in calls.items()})
        return operation

    return register


# ------------------------------------------------------------------------------------------
# Convolution of one map. Rows and columns differ in every size.
# ------------------------------------------------------------------------------------------

X, W, DZ, B = random(5, 7), random(2, 3), random(4, 5), random(4, 5)


def tanh_prime(x):
    return 1 - math.tanh(x) ** 2


@agrees_with(
    j_1=lambda equation: equation(X, W),
    j_5=lambda equation: equation(X, W, 0),
    b_convolution=lambda equation: equation(X, W),
    h_8_9=lambda equation: equation(X, W),
    h_8_13=lambda equation: equation(W, X),
)
def cross_correlation():
    yield matrix(conv(one_map(X), kernel(W)))


@agrees_with(
    j_2=lambda equation: equation(X, W),
    j_3=lambda equation: equation(X, W),
    h_8_5=lambda equation: equation(X, W),
    h_8_6=lambda equation: equation(X, W),
    h_8_8=lambda equation: equation(X, W),
)
def convolution():
    yield matrix(conv(one_map(X), kernel(W), flip_kernel=True, padding="FULL"))
    yield matrix(conv(one_map(X), kernel(W[::-1, ::-1]), padding=(1, 2)))


@agrees_with(
    j_6=lambda equation: equation(X, W, 0.5),
    j_7=lambda equation: equation(X, W, 0.5),
)
def cross_correlation_and_tied_bias():
    yield matrix(conv(one_map(X), kernel(W), jnp.array([0.5])))
    yield matrix(add_bias(conv(one_map(X), kernel(W)), jnp.array([0.5])))


@agrees_with(h_figure_8_1=lambda equation: equation(W, X, B))
def cross_correlation_and_untied_bias():
    yield matrix(conv(one_map(X), kernel(W), one_map(B)))


@agrees_with(h_8_12=lambda equation: equation(W, X.shape))
def cross_correlation_as_a_matrix():
    """Its columns are what becomes of one-point images."""
    points = unflatten(np.eye(X.size), (*X.shape, 1), order="column")
    yield flatten(conv(points, kernel(W)), order="column").T
    points = unflatten(np.eye(DZ.size), (*DZ.shape, 1), order="column")
    yield flatten(conv_transpose(points, kernel(W)), order="column")


@agrees_with(
    h_p8_1=lambda equation: equation(W),
    s_flipped=lambda equation: equation(W),
)
def flipped_kernel():
    """A cross-correlation's answer to a one-point image."""
    yield matrix(conv(one_map([[0, 0, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]]), kernel(W)))


@agrees_with(h_p8_2=lambda equation: equation(X))
def shift_right_and_up():
    from_below_left = kernel([[0, 0], [1, 0]])
    yield matrix(conv(one_map(X), from_below_left, padding=((0, 1), (1, 0))))
    yield matrix(pad(one_map(X), ((-1, 1), (1, -1))))


@agrees_with(b_convolution_backward=lambda equation: equation(DZ, W))
def input_gradient():
    yield matrix(pull_back(lambda x: conv(x, kernel(W)), one_map(X), dy=one_map(DZ)))
    yield matrix(conv_transpose(one_map(DZ), kernel(W)))


@agrees_with(
    h_8_40=lambda equation: [
        [[[equation(W, (i, j), (u, v)) for v in range(1, 8)] for u in range(1, 6)]
         for j in range(1, 6)] for i in range(1, 5)
    ]
)  # fmt: skip
def derivative_of_each_output():
    each = np.eye(20).reshape(4, 5, 4, 5, 1)
    anywhere = np.zeros((4, 5, 5, 7, 1))  # the derivative is the same at every image
    yield pull_back(lambda x: conv(x, kernel(W)), anywhere, dy=each)[..., 0]
    yield conv_transpose(each, kernel(W))[..., 0]


@agrees_with(
    j_13=lambda equation: equation(DZ, X),
    j_14=lambda equation: equation(DZ, X),
    b_filter_gradient=lambda equation: equation(X, DZ),
)
def kernel_gradient():
    yield matrix(pull_back(lambda w: conv(one_map(X), w), kernel(W), dy=one_map(DZ)))
    yield matrix(conv_kernel_grad(one_map(X), one_map(DZ), (2, 3)))


@agrees_with(
    j_20=lambda equation: equation(DZ, W, X, tanh_prime),
    j_21=lambda equation: equation(DZ, W, X, tanh_prime),
    j_22=lambda equation: equation(DZ, W, X, tanh_prime),
)
def deltas_through_an_activation():
    yield matrix(pull_back(lambda x: conv(tanh(x), kernel(W)), one_map(X), dy=one_map(DZ)))
    yield matrix(pull_back(tanh, one_map(X), dy=conv_transpose(one_map(DZ), kernel(W))))


@agrees_with(
    j_19_first_term=lambda equation: [
        [equation(W, X, math.tanh, (i + 1, j + 2), (1, 2)) for j in range(5)] for i in range(4)
    ]
)
def first_term_of_every_output():
    yield matrix(conv(tanh(one_map(X)), kernel([[W[0, 0], 0, 0], [0, 0, 0]])))


# ------------------------------------------------------------------------------------------
# Convolution of several maps, 3 below and 2 above
# ------------------------------------------------------------------------------------------

A, K, DZ_MAPS, BIASES = random(3, 5, 6), random(2, 3, 2, 3), random(2, 4, 4), random(2)


@agrees_with(
    gbc_9_8=lambda equation: equation(K, A, 1),
    b_multi_channel=lambda equation: equation(A, K),
    h_8_20=lambda equation: equation(K, A),
    h_8_21=lambda equation: equation(K, A),
    h_8_38=lambda equation: equation(K, A),
)
def cross_correlation_of_maps():
    yield planes(conv(maps(A), kernels(K)))


@agrees_with(j_4=lambda equation: planes(equation(maps(A), kernels(K), BIASES)))
def cross_correlation_of_maps_and_biases():
    yield planes(conv(maps(A), kernels(K), BIASES))


@agrees_with(
    gbc_9_13=lambda equation: equation(K, DZ_MAPS, 1, (5, 6)),
    b_multi_channel_backward=lambda equation: equation(DZ_MAPS, K),
    h_8_39=lambda equation: equation(K, DZ_MAPS),
    h_8_41=lambda equation: equation(K, DZ_MAPS),
    h_8_44=lambda equation: equation(K, DZ_MAPS),
    h_8_45=lambda equation: equation(K, DZ_MAPS),
)
def input_gradient_of_maps():
    yield planes(pull_back(lambda x: conv(x, kernels(K)), maps(A), dy=maps(DZ_MAPS)))
    yield planes(conv_transpose(maps(DZ_MAPS), kernels(K)))


@agrees_with(
    gbc_9_11=lambda equation: equation(DZ_MAPS, A, 1, (2, 3)),
    b_multi_channel_filter_gradient=lambda equation: equation(A, DZ_MAPS),
    h_8_47=lambda equation: equation(DZ_MAPS, A),
    h_8_48=lambda equation: equation(DZ_MAPS, A),
)
def kernel_gradient_of_maps():
    yield filters(pull_back(lambda w: conv(maps(A), w), kernels(K), dy=maps(DZ_MAPS)))
    yield filters(conv_kernel_grad(maps(A), maps(DZ_MAPS), (2, 3)))


@agrees_with(b_rearranged_filters=lambda equation: equation(K))
def kernels_of_the_transpose():
    """What a pixel that every tap reaches hears of each output: the weights that lie on it."""
    each = np.eye(12).reshape(2, 3, 2, 2, 3, 2)  # row, column, k: one 2×3 output of 2 maps each
    heard = np.asarray(conv_transpose(each, kernels(K)))[..., 1, 2, :]
    yield heard.transpose(3, 2, 0, 1)


@agrees_with(b_depthwise_convolution=lambda equation: equation(A, K[0]))
def depthwise_convolution():
    yield planes(conv(maps(A), maps(K[0])[:, :, None, :], groups=3))


@agrees_with(b_convolution_1d=lambda equation: equation(X[0], W[0]))
def convolution_1d():
    yield conv(X[0][:, None], W[0][:, None, None])[:, 0]


@agrees_with(b_convolution_3d=lambda equation: equation(A, K[0]))
def convolution_3d():
    yield conv(A[..., None], K[0][..., None, None])[..., 0]


# ------------------------------------------------------------------------------------------
# Strides and sizes
# ------------------------------------------------------------------------------------------

EVEN, DZ_STRIDED = X[:4], random(2, 3)  # a 2×3 kernel at stride 2 ends at the border of 4×7


@agrees_with(s_stride=lambda equation: equation(EVEN, W, 2))
def strided_cross_correlation():
    yield matrix(conv(one_map(EVEN), kernel(W), stride=2))
    yield matrix(downsample(conv(one_map(EVEN), kernel(W)), 2))


@agrees_with(s_stride_backward=lambda equation: equation(DZ_STRIDED, W, 2))
def strided_input_gradient():
    strided = lambda x: conv(x, kernel(W), stride=2)
    yield matrix(pull_back(strided, one_map(EVEN), dy=one_map(DZ_STRIDED)))
    yield matrix(conv_transpose(one_map(DZ_STRIDED), kernel(W), stride=2))


@agrees_with(s_spread=lambda equation: equation(DZ_STRIDED, 2, (2, 3)))
def spread_deltas():
    yield matrix(pad(upsample(one_map(DZ_STRIDED), 2), (1, 2)))


def output_size(input_size, kernel_size, **options):
    """Of one map: the shape without its channel."""
    size = shape_of(lambda x, w: conv(x, w, **options), (*input_size, 1), (*kernel_size, 1, 1))
    return size[:-1]


@agrees_with(h_8_14_15=lambda equation: equation((5, 7), (2, 3)))
def size():
    yield output_size((5, 7), (2, 3))


@agrees_with(h_8_16_17=lambda equation: equation((5, 7), (2, 3), 2))
def size_with_padding():
    yield output_size((5, 7), (2, 3), padding=2)


@agrees_with(h_8_18_19=lambda equation: equation((5, 7), (2, 3), 2, 3))
def size_with_padding_and_stride():
    yield output_size((5, 7), (2, 3), padding=2, stride=3)


@agrees_with(gbc_input_sizes=lambda equation: equation(5, 3, 4))
def sizes_that_lead_to_5():
    yield [n for n in range(3, 40) if output_size((n,), (3,), stride=4) == (5,)]


# ------------------------------------------------------------------------------------------
# Pooling and resampling
# ------------------------------------------------------------------------------------------

V, V_MAPS = np.asarray(distinct(RNG, 4, 6)), np.asarray(distinct(RNG, 2, 4, 6))
D_SLID, D_SQUARES = random(3, 4), random(2, 3)  # V under 2×3 at stride 1, and in 2×2 blocks
D_BLOCKS, WEIGHTS = random(2, 2, 2), random(2)  # V_MAPS in 2×3 blocks


def max_pooling_gradients(dy, window, stride):
    pool = lambda x: max_pool(x, window, stride=stride)
    yield matrix(pull_back(pool, one_map(V), dy=one_map(dy)))
    _, winners = max_pool(one_map(V), window, stride=stride, return_argmax=True)
    yield matrix(max_unpool(one_map(dy), winners, output_size=V.shape))


@agrees_with(b_max_pooling=lambda equation: equation(V, (2, 3)))
def sliding_max_pooling():
    yield matrix(max_pool(one_map(V), (2, 3), stride=1))


@agrees_with(b_max_pooling_backward=lambda equation: equation(D_SLID, V, (2, 3)))
def sliding_max_pooling_gradient():
    yield from max_pooling_gradients(D_SLID, (2, 3), 1)


@agrees_with(j_max_pooling=lambda equation: equation(V, 2))
def max_pooling_of_squares():
    yield matrix(max_pool(one_map(V), 2))


@agrees_with(j_max_pooling_routing=lambda equation: equation(D_SQUARES, V, 2))
def max_pooling_gradient_of_squares():
    yield from max_pooling_gradients(D_SQUARES, 2, None)


@agrees_with(h_8_24=lambda equation: equation(V, 2, 3))
def max_pooling():
    yield matrix(max_pool(one_map(V), (2, 3)))


@agrees_with(h_e8_8=lambda equation: equation(D_BLOCKS, V_MAPS, 2, 3))
def max_pooling_gradient():
    yield planes(pull_back(lambda x: max_pool(x, (2, 3)), maps(V_MAPS), dy=maps(D_BLOCKS)))


@agrees_with(b_mean_pooling=lambda equation: equation(V, (2, 3)))
def sliding_mean_pooling():
    yield matrix(avg_pool(one_map(V), (2, 3), stride=1))
    yield matrix(conv(one_map(V), kernel(np.full((2, 3), 1 / 6))))


@agrees_with(b_mean_pooling_backward=lambda equation: equation(D_SLID, (2, 3), V.shape))
def sliding_mean_pooling_gradient():
    pool = lambda x: avg_pool(x, (2, 3), stride=1)
    yield matrix(pull_back(pool, one_map(V), dy=one_map(D_SLID)))
    yield matrix(conv(pad(one_map(D_SLID), (1, 2)), kernel(np.full((2, 3), 1 / 6))))


@agrees_with(j_average_pooling=lambda equation: equation(V, 2))
def mean_pooling_of_squares():
    yield matrix(avg_pool(one_map(V), 2))
    yield matrix(weighted_avg_pool(one_map(V), 1 / 4, 2))


@agrees_with(j_average_pooling_routing=lambda equation: equation(D_SQUARES, 2))
def mean_pooling_gradient_of_squares():
    yield matrix(pull_back(lambda x: avg_pool(x, 2), one_map(V), dy=one_map(D_SQUARES)))


@agrees_with(h_8_22=lambda equation: equation(V, 2, 3, 0.3))
def weighted_pooling():
    yield matrix(weighted_avg_pool(one_map(V), 0.3, (2, 3)))
    yield matrix(scale(sum_pool(one_map(V), (2, 3)), 0.3))


def weighted_pooling_gradients():
    pool = lambda x, weight: weighted_avg_pool(x, weight, (2, 3))
    return pull_back(pool, maps(V_MAPS), jnp.asarray(WEIGHTS), dy=maps(D_BLOCKS))


@agrees_with(h_p8_3=lambda equation: equation(D_BLOCKS, WEIGHTS, 2, 3))
def weighted_pooling_gradient():
    yield planes(weighted_pooling_gradients()[0])
    yield planes(scale(repeat(maps(D_BLOCKS), (2, 3)), jnp.asarray(WEIGHTS)))


@agrees_with(h_p8_4=lambda equation: equation(D_BLOCKS, V_MAPS, 2, 3))
def weighted_pooling_gradient_of_its_weights():
    yield weighted_pooling_gradients()[1]


@agrees_with(b_downsampling=lambda equation: equation(X, 3))
def downsampling():
    yield matrix(downsample(one_map(X), 3))


@agrees_with(b_downsampling_backward=lambda equation: equation(D_SQUARES, 3, X.shape))
def downsampling_gradient():
    """By 3 from 5×7 to 2×3, which leaves a row over that no output has seen."""
    dy = one_map(D_SQUARES)
    yield matrix(pull_back(lambda x: downsample(x, 3), one_map(X), dy=dy))
    yield matrix(upsample(dy, 3, output_size=(5, 7)))


@agrees_with(b_upsampling=lambda equation: equation(D_SQUARES, 3))
def upsampling():
    yield matrix(upsample(one_map(D_SQUARES), 3))


@agrees_with(b_upsampling_backward=lambda equation: equation(EVEN, 3))
def upsampling_gradient():
    """2×3 by 3 to 4×7."""
    yield matrix(pull_back(lambda x: upsample(x, 3), one_map(D_SQUARES), dy=one_map(EVEN)))
    yield matrix(downsample(one_map(EVEN), 3))


# ------------------------------------------------------------------------------------------
# Net input, activation, conversion and error
# ------------------------------------------------------------------------------------------


def logistic(x):
    return 1 / (1 + math.exp(-x))


SLOPES = {
    relu: lambda x: float(x > 0),
    leaky_relu: lambda x: 1.0 if x > 0 else 0.01,
    tanh: tanh_prime,
    sigmoid: lambda x: logistic(x) * (1 - logistic(x)),
    softplus: logistic,
    silu: lambda x: logistic(x) * (1 + x * (1 - logistic(x))),
}


@agrees_with(h_8_33=lambda equation: equation(X, 0.5))
def summation():
    yield matrix(add_bias(one_map(X), jnp.array([0.5])))


@agrees_with(h_8_34=lambda equation: equation(X))
def summation_gradient():
    yield matrix(pull_back(lambda z: add_bias(z, jnp.ones(1)), one_map(X), dy=one_map(X)))


@agrees_with(h_8_36=lambda equation: equation(X))
def summation_gradient_of_the_bias():
    yield pull_back(lambda b: add_bias(one_map(X), b), jnp.ones(1), dy=one_map(X))[0]


@agrees_with(h_e8_9=lambda equation: np.append(*equation(B, 0.5, DZ)))
def product_gradients():
    dlz, db = pull_back(scale, one_map(B), jnp.array(0.5), dy=one_map(DZ))
    yield np.append(dlz, db)


@agrees_with(j_8=lambda equation: equation(X, math.tanh))
def activation():
    yield matrix(tanh(one_map(X)))


@agrees_with(
    b_activation_backward=lambda equation: [equation(-A, A, f) for f in SLOPES.values()],
    h_8_52=lambda equation: [equation(f, A, -A) for f in SLOPES.values()],
)
def activation_gradients():
    yield [planes(pull_back(f, maps(A), dy=maps(-A))) for f in SLOPES]


@agrees_with(h_8_26=lambda equation: equation(A))
def conversion_to_a_vector():
    yield flatten(maps(A), order="column")


@agrees_with(j_9=lambda equation: equation(X[0], X[1]))
def error():
    yield half_squared_error(X[1], X[0])


# ------------------------------------------------------------------------------------------
# Sampling at real positions, of which the sources give x before y, and this library rows first
# ------------------------------------------------------------------------------------------

POINTS = RNG.uniform(-1.5, 7.5, (9, 2))  # in the 5×7 image and around it
MATRIX = random(2, 3)


def at_points(f):
    """A function of an image and of points, as one of x and positions."""
    return lambda x, points: f(x, jnp.flip(points, -1))


@agrees_with(
    st_5=lambda equation: equation(X, POINTS),
    st_3=lambda equation: equation(X, POINTS, lambda d: max(1 - abs(d), 0)),
)
def bilinear_sampling():
    yield at_points(sample)(one_map(X), POINTS)[:, 0]


@agrees_with(st_4=lambda equation: equation(X, POINTS))
def sampling_the_nearest():
    yield at_points(functools.partial(sample, method="nearest"))(one_map(X), POINTS)[:, 0]


@agrees_with(k_kernel=lambda equation: [equation(d, -0.75) for d in np.ravel(POINTS) - 2])
def cubic_sampling_of_one_pixel():
    one = jnp.zeros((6, 1)).at[2].set(1.0)
    yield sample(one, jnp.ravel(POINTS)[:, None], method="cubic")[:, 0]


@agrees_with(st_6=lambda equation: equation(POINTS, X.shape))
def sampling_gradients_of_each_output():
    each = jnp.asarray(POINTS)[:, None]  # of an image of its own
    images = jnp.broadcast_to(one_map(X), (9, 5, 7, 1))
    yield pull_back(at_points(sample), images, each, dy=jnp.ones((9, 1, 1)))[0][..., 0]


@agrees_with(st_7=lambda equation: equation(X, POINTS))
def sampling_gradient_of_the_points():
    yield pull_back(at_points(sample), one_map(X), jnp.asarray(POINTS), dy=jnp.ones((9, 1)))[1]


@agrees_with(
    st_1=lambda equation: equation(
        MATRIX, [((2 * j - 2) / 3, (2 * i - 3) / 4) for i in range(4) for j in range(3)]
    )
)
def affine_points():
    positions = affine_positions(MATRIX, (4, 3), (5, 7))
    points = (2 * np.asarray(positions)[..., ::-1] + 1) / [7, 5] - 1
    yield points.reshape(-1, 2)


# ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ROWS)
def test_operation_agrees_with_equation(name):
    computed, call = ROWS[name]
    calls = 0

    def equation(*args):
        nonlocal calls
        calls += 1
        return getattr(equations, name)(*args)

    expected = call(equation)
    assert calls > 0
    for way in computed():
        assert_close(way, expected, tolerance=1e-12)


def test_no_equation_is_left_out():
    """But for what the sources print wrong, which `test_equations.py` tells from the right."""
    public = {name for name, value in vars(equations).items() if inspect.isfunction(value)}
    assert {name for name in public if "_as_" not in name} - {"j_19_first_term_as_printed"} == set(
        ROWS
    )
