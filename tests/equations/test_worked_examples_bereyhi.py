"""[B] *Applied Deep Learning*, chapter 4: the slides on backpropagation, in numbers.

The slides' example is a 3×3 map y1 … y9 or x1 … x9, a 2×2 window or filter w1 … w4, and an
output z1 … z4 whose gradient is called G here. With G = 1, 10, 100, 1000 each digit of a
gradient tells which output it came from.
"""

import jax
import numpy as np
import pytest
from checker import assert_close, distinct, normal, value_and_cotangents
from numpy.testing import assert_array_equal
from worked import filters, kernel, kernels, maps, matrix, one_map, planes, pull_back, worked

from cnnvjp import (
    avg_pool,
    conv,
    conv_kernel_grad,
    conv_transpose,
    downsample,
    max_pool,
    max_unpool,
    pad,
    relu,
    sigmoid,
    tanh,
    upsample,
)

X = np.arange(1, 10).reshape(3, 3)
W = np.array([[1, 2], [3, 4]])
REVERSED = [[4, 3], [2, 1]]  # up to down and right to left
G = np.array([[1, 10], [100, 1000]])

# ------------------------------------------------------------------------------------------
# Pooling
# ------------------------------------------------------------------------------------------

Y = [[3, 9, 1], [4, 2, 5], [8, 0, 7]]  # y2 wins windows 1 and 2, y7 window 3, y9 window 4


def test_max_pooling():
    """∂R/∂y2 = ∂R/∂ŷ1 + ∂R/∂ŷ2, ∂R/∂y7 = ∂R/∂ŷ3, ∂R/∂y9 = ∂R/∂ŷ4, and 0 for the others."""
    pool = lambda y: max_pool(y, 2, stride=1)
    assert_array_equal(matrix(pool(one_map(Y))), [[9, 9], [8, 7]])
    dy = matrix(pull_back(pool, one_map(Y), dy=one_map(G)))
    assert_array_equal(dy, [[0, 1 + 10, 0], [0, 0, 0], [100, 0, 1000]])


def test_max_pooling_puts_each_derivative_back_in_its_place():
    """The winners' places, counted from 0, are the "filter" of each window."""
    _, places = max_pool(one_map(Y), 2, stride=1, return_argmax=True)
    assert_array_equal(matrix(places), [[1, 1], [6, 8]])
    put_back = max_unpool(one_map(G), places, output_size=(3, 3))
    assert_array_equal(matrix(put_back), [[0, 11, 0], [0, 0, 0], [100, 0, 1000]])


MEAN_POOLING = """
    y1 ← quarter δ1
    y2 ← quarter δ1 + quarter δ2
    y3 ← quarter δ2
    y4 ← quarter δ1 + quarter δ3
    y5 ← quarter δ1 + quarter δ2 + quarter δ3 + quarter δ4
    y6 ← quarter δ2 + quarter δ4
    y7 ← quarter δ3
    y8 ← quarter δ3 + quarter δ4
    y9 ← quarter δ4
"""


def test_mean_pooling():
    pool = lambda y: avg_pool(y, 2, stride=1)
    assert_array_equal(matrix(pool(one_map(Y))), [[18 / 4, 17 / 4], [14 / 4, 14 / 4]])
    dy = matrix(pull_back(pool, one_map(Y), dy=one_map(4 * G)))
    assert_array_equal(dy, [[1, 11, 10], [101, 1111, 1010], [100, 1100, 1000]])
    assert_array_equal(dy.ravel(), worked(MEAN_POOLING, quarter=1 / 4, δ=4 * G))


def test_mean_pooling_backward_is_a_convolution_with_a_fixed_filter():
    quarters = kernel(np.full((2, 2), 1 / 4))
    dy = pull_back(lambda y: avg_pool(y, 2, stride=1), one_map(Y), dy=one_map(4 * G))
    assert_array_equal(conv(pad(one_map(4 * G), 1), quarters), dy)


# ------------------------------------------------------------------------------------------
# Convolution
# ------------------------------------------------------------------------------------------


def test_activation_is_entry_wise():
    """∇Z = ∇Y ⊙ f'(Z), with relu' = 0, 1, 1, 0, sigmoid'(0) = ¼ and tanh'(0) = 1."""
    Z = one_map([[-2, 3], [5, -7]])
    assert_array_equal(matrix(pull_back(relu, Z, dy=one_map(G))), [[0, 10], [100, 0]])
    nowhere = one_map(np.zeros((2, 2)))
    assert_array_equal(matrix(pull_back(sigmoid, nowhere, dy=one_map(G))), G / 4)
    assert_array_equal(matrix(pull_back(tanh, nowhere, dy=one_map(G))), G)


CONVOLUTION = """
    z1 = w1 x1 + w2 x2 + w3 x4 + w4 x5
    z2 = w1 x2 + w2 x3 + w3 x5 + w4 x6
    z3 = w1 x4 + w2 x5 + w3 x7 + w4 x8
    z4 = w1 x5 + w2 x6 + w3 x8 + w4 x9
"""
BACKWARD = """
    x1 ← w1 δ1
    x2 ← w2 δ1 + w1 δ2
    x3 ← w2 δ2
    x4 ← w3 δ1 + w1 δ3
    x5 ← w4 δ1 + w3 δ2 + w2 δ3 + w1 δ4
    x6 ← w4 δ2 + w2 δ4
    x7 ← w3 δ3
    x8 ← w4 δ3 + w3 δ4
    x9 ← w4 δ4
"""
DX = [[1, 12, 20], [103, 1234, 2040], [300, 3400, 4000]]
FILTER_GRADIENT = """
    w1 ← x1 δ1 + x2 δ2 + x4 δ3 + x5 δ4
    w2 ← x2 δ1 + x3 δ2 + x5 δ3 + x6 δ4
    w3 ← x4 δ1 + x5 δ2 + x7 δ3 + x8 δ4
    w4 ← x5 δ1 + x6 δ2 + x8 δ3 + x9 δ4
"""
DW = [[5421, 6532], [8754, 9865]]


def test_2d_convolution():
    z = matrix(conv(one_map(X), kernel(W)))
    assert_array_equal(z, [[37, 47], [67, 77]])
    assert_array_equal(z.ravel(), worked(CONVOLUTION, w=W, x=X))


@pytest.mark.versions
def test_2d_convolution_backward():
    """All nine sums of the input and all four of the filter."""
    dx, dw = pull_back(conv, one_map(X), kernel(W), dy=one_map(G))
    assert_array_equal(matrix(dx), DX)
    assert_array_equal(matrix(dx).ravel(), worked(BACKWARD, w=W, δ=G))
    assert_array_equal(matrix(dw), DW)
    assert_array_equal(matrix(dw).ravel(), worked(FILTER_GRADIENT, x=X, δ=G))


def test_2d_convolution_backward_is_a_convolution_with_the_reversed_filter():
    """To match the dimension G is padded with zeros: by one for a 2×2 filter, "FULL"."""
    reversed_filter = kernel(REVERSED)
    assert_array_equal(matrix(conv(pad(one_map(G), 1), reversed_filter)), DX)
    assert_array_equal(matrix(conv(one_map(G), reversed_filter, padding="FULL")), DX)
    assert_array_equal(matrix(conv_transpose(one_map(G), kernel(W))), DX)


def test_filter_gradient_is_a_convolution_with_the_output_gradient_as_filter():
    assert_array_equal(matrix(conv(one_map(X), kernel(G))), DW)
    assert_array_equal(matrix(conv_kernel_grad(one_map(X), one_map(G), (2, 2))), DW)


# Three channels in and two out, of one row each: W_k[c] has two weights. The gradients are
# powers of 100, so that every pair of digits is a weight.

BANK = np.array(
    [
        [[[1, 2]], [[3, 4]], [[5, 6]]],  # W_1[1], W_1[2], W_1[3]
        [[[7, 8]], [[9, 10]], [[11, 12]]],  # W_2[1], W_2[2], W_2[3]
    ]
)
CHANNELS = np.array([[[1, 2, 3]], [[4, 5, 6]], [[7, 8, 9]]])
G_MAPS = np.array([[[1, 1_00]], [[1_00_00, 1_00_00_00]]])
DX_MAPS = [
    [[7_00_01, 7_08_01_02, 8_00_02_00]],
    [[9_00_03, 9_10_03_04, 10_00_04_00]],
    [[11_00_05, 11_12_05_06, 12_00_06_00]],
]


def test_tensor_to_matrix():
    """One feature map: ∇X[c] = Conv(∇Z | W̌[c]), for each channel by itself."""
    dx, _ = pull_back(conv, maps(CHANNELS), kernels(BANK[:1]), dy=maps(G_MAPS[:1]))
    assert_array_equal(planes(dx), [[[1, 1_02, 2_00]], [[3, 3_04, 4_00]], [[5, 5_06, 6_00]]])


@pytest.mark.versions
def test_tensor_to_tensor():
    """K feature maps: the gradients of what each of them needs add up."""
    z, (dx, dw) = value_and_cotangents(conv, (maps(CHANNELS), kernels(BANK)), maps(G_MAPS))
    assert_array_equal(planes(z), [[[5 + 32 + 83, 8 + 39 + 94]], [[23 + 86 + 173, 38 + 105 + 196]]])
    assert_array_equal(planes(dx), DX_MAPS)
    x_with_delta = [  # ∇W_k[c] = Conv(X[c] | ∇Z[k]), for every k and c by itself
        [[[2_01, 3_02]], [[5_04, 6_05]], [[8_07, 9_08]]],
        [[[2_01_00_00, 3_02_00_00]], [[5_04_00_00, 6_05_00_00]], [[8_07_00_00, 9_08_00_00]]],
    ]
    assert_array_equal(filters(dw), x_with_delta)


def test_rearranged_filters_make_it_one_convolution():
    """W†_c = [W̌_1[c], W̌_2[c]]: C filters with K channels each."""
    rearranged = np.array(
        [
            [[[2, 1]], [[8, 7]]],
            [[[4, 3]], [[10, 9]]],
            [[[6, 5]], [[12, 11]]],
        ]
    )
    padded = pad(maps(G_MAPS), ((0, 0), (1, 1)))
    assert_array_equal(planes(conv(padded, kernels(rearranged))), DX_MAPS)
    assert_array_equal(planes(conv_transpose(maps(G_MAPS), kernels(BANK))), DX_MAPS)


# ------------------------------------------------------------------------------------------
# Resampling
# ------------------------------------------------------------------------------------------

CORNERS = [[1, 3], [7, 9]]
WITH_ZEROS = [[1, 0, 3], [0, 0, 0], [7, 0, 9]]


def test_downsampling_backward_is_upsampling():
    """z1 = x1, z2 = x3, z3 = x7, z4 = x9."""
    dsample = lambda x: downsample(x, 2)
    assert_array_equal(matrix(dsample(one_map(X))), CORNERS)
    dx = pull_back(dsample, one_map(X), dy=one_map(CORNERS))
    assert_array_equal(matrix(dx), WITH_ZEROS)
    assert_array_equal(matrix(upsample(one_map(CORNERS), 2)), WITH_ZEROS)


def test_upsampling_backward_is_downsampling():
    """z1 = x1, z3 = x2, z7 = x3, z9 = x4, and the others 0."""
    usample = lambda x: upsample(x, 2)
    assert_array_equal(matrix(usample(one_map(CORNERS))), WITH_ZEROS)
    dx = pull_back(usample, one_map(CORNERS), dy=one_map(X))
    assert_array_equal(matrix(dx), CORNERS)
    assert_array_equal(matrix(downsample(one_map(X), 2)), CORNERS)


@pytest.mark.parametrize("size", [3, 4, 5, 6])
def test_resampling_undoes_the_size_only_if_the_factor_divides_it_less_one(size):
    """What the slide leaves out: the gradient's size must be told, as in [GBC]."""
    x = np.arange(1.0, size + 1).reshape(size, 1)
    z = downsample(x, 2, spatial_ndim=1)
    there_and_back = upsample(z, 2, spatial_ndim=1)
    assert (len(there_and_back) == size) == ((size - 1) % 2 == 0)
    told = upsample(z, 2, output_size=size, spatial_ndim=1)
    dx = pull_back(lambda x: downsample(x, 2, spatial_ndim=1), x, dy=z)
    assert_array_equal(told, dx)
    assert_array_equal(dx[:, 0], [i + 1 if i % 2 == 0 else 0 for i in range(size)])


# A stride is "convolution or pooling with stride 1, then a resampling unit".

STRIDED = [  # spatial size, window, stride
    ((9,), (3,), 2),
    ((9,), (2,), 4),
    ((7, 8), (3, 2), (3, 1)),
    ((5, 4, 5), (2, 1, 2), (1, 3, 2)),
]
SLIDING = {
    "convolution": lambda x, w, window, stride: conv(x, w, stride=stride),
    "max pooling": lambda x, w, window, stride: max_pool(x, window, stride=stride),
    "mean pooling": lambda x, w, window, stride: avg_pool(x, window, stride=stride),
}


@pytest.mark.parametrize("operation", SLIDING)
@pytest.mark.parametrize(("size", "window", "stride"), STRIDED)
def test_a_stride_is_stride_one_and_downsampling(rng, operation, size, window, stride):
    """In values and in gradients: ∇Z is upsampled first, then goes back through stride 1."""
    slide = SLIDING[operation]

    def strided(x, w):
        return slide(x, w, window, stride)

    def resampled(x, w):
        return downsample(slide(x, w, window, 1), stride, spatial_ndim=len(window))

    args = distinct(rng, *size, 2), normal(rng, *window, 2, 3)
    dy = normal(rng, *jax.eval_shape(strided, *args).shape)
    y, (dx, dw) = value_and_cotangents(strided, args, dy)
    expected, (expected_dx, expected_dw) = value_and_cotangents(resampled, args, dy)
    assert_close(y, expected)
    assert_close(dx, expected_dx)
    assert_close(dw, expected_dw)


# ------------------------------------------------------------------------------------------
# Other forms of convolution
# ------------------------------------------------------------------------------------------


def test_1d_convolution():
    """The filter slides in one direction: 1·1 + 10·2 + 100·3 = 321."""
    x, w = np.array([1.0, 2, 3, 4])[:, None], np.array([1.0, 10, 100]).reshape(3, 1, 1)
    y, (dx, dw) = value_and_cotangents(conv, (x, w), np.array([[1.0], [2.0]]))
    assert_array_equal(y[:, 0], [321, 432])
    assert_array_equal(dx[:, 0], [1, 10 + 2, 100 + 20, 200])
    assert_array_equal(dw[:, 0, 0], [1 + 4, 2 + 6, 3 + 8])


def test_3d_convolution():
    """The filter slides in all three directions; each of its eight taps has a digit."""
    x = np.arange(1.0, 9).reshape(2, 2, 2, 1)
    w = (10.0 ** np.arange(8)).reshape(2, 2, 2, 1, 1)
    y, (dx, dw) = value_and_cotangents(conv, (x, w), np.full((1, 1, 1, 1), 3.0))
    assert y.item() == 87654321
    assert_array_equal(dx, 3 * w[..., 0])
    assert_array_equal(dw[..., 0], 3 * x)

    front_to_back = np.array([1.0, 2.0, 3.0]).reshape(3, 1, 1, 1)
    pair = np.array([1.0, 10.0]).reshape(2, 1, 1, 1, 1)
    assert_array_equal(conv(front_to_back, pair).ravel(), [21, 32])


def test_depthwise_convolution():
    """Every channel has a filter of its own, and nothing is summed over channels."""
    x = maps([[[1, 2, 3]], [[4, 5, 6]]])
    w = np.array([[[[1.0, 100.0]], [[10.0, 1000.0]]]])  # (1, 2, 1, 2): one channel per group
    y, (dx, dw) = value_and_cotangents(
        lambda x, w: conv(x, w, groups=2), (x, w), maps([[[1, 2]], [[3, 5]]])
    )
    assert_array_equal(planes(y), [[[21, 32]], [[5400, 6500]]])
    assert_array_equal(planes(dx), [[[1, 10 + 2, 20]], [[300, 3000 + 500, 5000]]])
    assert_array_equal(filters(dw), [[[[1 + 4, 2 + 6]]], [[[12 + 25, 15 + 30]]]])


def test_all_slide_over_the_input_with_some_filter(rng):
    """Each map of a depthwise convolution is the 2D convolution of one map."""
    x, w = np.asarray(normal(rng, 4, 5, 3)), np.asarray(normal(rng, 2, 3, 1, 3))
    y = np.asarray(conv(x, w, groups=3))
    for c in range(3):
        assert_close(y[..., c : c + 1], conv(x[..., c : c + 1], w[..., c : c + 1]))
