"""[J] *Backpropagation in Convolutional Neural Networks*, with its readers' questions.

The example is a 4×4 input, a 3×3 kernel and 2×2 deltas, indices from 0. The weights are the
digits 1 … 9 and the deltas 1, 10, 100, 1000, so that a gradient's digits name its terms.
"""

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from worked import kernel, kernels, maps, matrix, one_map, pull_back, shape_of, worked

from cnnvjp import (
    add_bias,
    avg_pool,
    conv,
    conv_kernel_grad,
    conv_transpose,
    half_squared_error,
    max_pool,
    relu,
    tanh,
    upsample,
)

O = np.arange(1, 17).reshape(4, 4)  # noqa: E741 (o, the output of layer l − 1)
W = np.arange(1, 10).reshape(3, 3)
DELTA = np.array([[1, 10], [100, 1000]])
ROTATED = [[9, 8, 7], [6, 5, 4], [3, 2, 1]]

# ------------------------------------------------------------------------------------------
# Convolution and cross-correlation
# ------------------------------------------------------------------------------------------

IMAGE = [[1, 10], [100, 1000]]
KERNEL = [[1, 2], [3, 4]]


def test_1_and_2_cross_correlation_and_convolution():
    """Where the kernel lies within the image they differ by a rotation."""
    assert matrix(conv(one_map(IMAGE), kernel(KERNEL))) == 1 + 20 + 300 + 4000
    assert matrix(conv(one_map(IMAGE), kernel(KERNEL), flip_kernel=True)) == 4 + 30 + 200 + 1000


def test_2_convolution_everywhere():
    """Σ I(i−m, j−n) K(m, n) for every i, j at which an I(i−m, j−n) exists."""
    everywhere = conv(one_map(IMAGE), kernel(KERNEL), flip_kernel=True, padding="FULL")
    assert_array_equal(matrix(everywhere), [[1, 12, 20], [103, 1234, 2040], [300, 3400, 4000]])


def test_3_convolution_is_cross_correlation_with_the_flipped_kernel():
    flipped = conv(one_map(IMAGE), kernel([[4, 3], [2, 1]]), padding="FULL")
    convolved = conv(one_map(IMAGE), kernel(KERNEL), flip_kernel=True, padding="FULL")
    assert_array_equal(flipped, convolved)


def test_4_a_bank_of_filters():
    """H×W×C into D = 2 filters, each over all C = 3 channels, and one bias for each filter."""
    rgb = jnp.array([[[1.0, 10.0, 100.0]]])  # one pixel
    bank = jnp.array([[[[1.0, 4.0], [2.0, 5.0], [3.0, 6.0]]]])  # (1, 1, C, D)
    y = conv(rgb, bank, jnp.array([7000.0, 8000.0]))
    assert_array_equal(y, [[[7321, 8654]]])


# ------------------------------------------------------------------------------------------
# Forward, 5–9
# ------------------------------------------------------------------------------------------


def test_6_and_7_net_input():
    """x = rot180{w} * o + b, a convolution that rotates back what was rotated; 8: o = f(x)."""
    x = conv(one_map(O), kernel(W), jnp.array([-400.0]))  # the windows weigh 348 … 573
    assert_array_equal(matrix(x), [[-52, -7], [128, 173]])
    again = conv(one_map(O), kernel(ROTATED), jnp.array([-400.0]), flip_kernel=True)
    assert_array_equal(again, x)
    assert_array_equal(matrix(relu(x)), [[0, 0], [128, 173]])


def test_9_error():
    """E = ½ Σ (t − y)², which is no mean; ∂E/∂y = y − t."""
    t, y = jnp.array([1.0, 2.0, 4.0]), jnp.array([3.0, 2.0, -1.0])
    assert half_squared_error(y, t) == (2**2 + 0**2 + 5**2) / 2
    dy, dt = pull_back(half_squared_error, y, t, dy=jnp.array(1.0))
    assert_array_equal(dy, [2, 0, -5])
    assert_array_equal(dt, [-2, 0, 5])


# ------------------------------------------------------------------------------------------
# Weights, 10–14
# ------------------------------------------------------------------------------------------

DELTA_OF_100 = np.array([[1, 1_00], [1_00_00, 1_00_00_00]])  # room for two digits of o
DW = [
    [6_05_02_01, 7_06_03_02, 8_07_04_03],
    [10_09_06_05, 11_10_07_06, 12_11_08_07],
    [14_13_10_09, 15_14_11_10, 16_15_12_11],
]


@pytest.mark.versions
def test_13_weight_gradient():
    """∂E/∂w_m′,n′ = Σ δ_i,j o_i+m′,j+n′: every output has used the weight."""
    dw = pull_back(lambda w: conv(one_map(O), w), kernel(W), dy=one_map(DELTA_OF_100))
    assert_array_equal(matrix(dw), DW)
    again = conv_kernel_grad(one_map(O), one_map(DELTA_OF_100), (3, 3))
    assert_array_equal(matrix(again), DW)


def test_14_weight_gradient_as_a_convolution():
    """rot180{δ} * o: the deltas are the kernel, rotated once by hand and once by `*`."""
    rotated = kernel(DELTA_OF_100[::-1, ::-1])
    assert_array_equal(matrix(conv(one_map(O), rotated, flip_kernel=True)), DW)


def test_does_the_update_of_w1_relate_what_has_no_relation():
    """Titouan Parcollet reads D4 I1 + D3 I2 + D2 I4 + D1 I5 in the picture; it is D1 I1 + …"""
    o = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    dw = pull_back(lambda w: conv(one_map(o), w), kernel(KERNEL), dy=one_map(DELTA))
    assert matrix(dw)[0, 0] == worked("w1 ← D1 I1 + D2 I2 + D3 I4 + D4 I5", D=DELTA, I=o)[0]
    assert matrix(dw)[0, 0] != worked("w1 ← D4 I1 + D3 I2 + D2 I4 + D1 I5", D=DELTA, I=o)[0]
    flipped_at_first = pull_back(
        lambda w: conv(one_map(o), w, flip_kernel=True), kernel(KERNEL), dy=one_map(DELTA)
    )
    assert_array_equal(matrix(flipped_at_first)[::-1, ::-1], matrix(dw))  # Derek Stinson's answer


def test_bias_gradient():
    """PhilS: ∂x/∂b = 1, "what should make ∂E/∂b equal to Σ Σ δ · 1?" It is."""
    layer = lambda b: conv(one_map(O), kernel(W), b)
    assert pull_back(layer, jnp.zeros(1), dy=one_map(DELTA)) == 1 + 10 + 100 + 1000
    net_input = lambda b: add_bias(one_map(O[:2, :2]), b)
    assert pull_back(net_input, jnp.zeros(1), dy=one_map(DELTA)) == 1111


# ------------------------------------------------------------------------------------------
# Deltas, 15–22
# ------------------------------------------------------------------------------------------

# Row 1, column 1, in the middle: w00 δ11 + w01 δ10 + w10 δ01 + w11 δ00.
DX = np.array(
    [
        [1, 12, 23, 30],
        [104, 1245, 2356, 3060],
        [407, 4578, 5689, 6090],
        [700, 7800, 8900, 9000],
    ]
)


@pytest.mark.versions
def test_20_deltas_of_the_layer_below():
    """Σ δ_i′−m,j′−n w_m,n f′(x_i′,j′), with f = relu: f′ is 1 or 0."""
    x = [[1, -2, 3, -4], [-5, 6, -7, 8], [9, 10, -11, -12], [-13, -14, 15, 16]]
    slope = [[1, 0, 1, 0], [0, 1, 0, 1], [1, 1, 0, 0], [0, 0, 1, 1]]
    dx = pull_back(lambda x: conv(relu(x), kernel(W)), one_map(x), dy=one_map(DELTA))
    assert_array_equal(matrix(dx), DX * slope)

    with_slope_1 = pull_back(
        lambda x: conv(tanh(x), kernel(W)), one_map(np.zeros((4, 4))), dy=one_map(DELTA)
    )
    assert_array_equal(matrix(with_slope_1), DX)
    assert_array_equal(matrix(conv_transpose(one_map(DELTA), kernel(W))), DX)


def test_21_only_the_kernel_is_rotated():
    """A cross-correlation of δ, k − 1 zeros around it, with rot180{w}; not a rotated sum."""
    rotated_kernel = conv(one_map(DELTA), kernel(ROTATED), padding=2)
    rotated_sum = conv(one_map(DELTA), kernel(W), padding=2)
    assert_array_equal(matrix(rotated_kernel), DX)
    assert matrix(rotated_sum)[::-1, ::-1][0, 0] == 1000 != DX[0, 0]  # w00 δ11 for w00 δ00


def test_22_deltas_are_a_convolution_with_the_kernel_as_it_is():
    """Alan and Cici Hofsäß ask which it is: δ * w, or δ ⊗ rot180{w}. Not δ * rot180{w}."""
    star = lambda w: matrix(conv(one_map(DELTA), kernel(w), flip_kernel=True, padding="FULL"))
    assert_array_equal(star(W), DX)
    assert star(ROTATED)[0, 0] == 9 != DX[0, 0]


def test_22_needs_zeros_around_the_deltas():
    """The author answers that backpropagation pads nothing; then δ, smaller than w, cannot."""
    with pytest.raises(ValueError, match="use a smaller window or dilation, or more padding"):
        conv(one_map(DELTA), kernel(ROTATED))


def test_what_happens_when_the_stride_is_greater_than_1():
    """Andrea Apicella: rot180{w} slides as before, over deltas with stride − 1 zeros between."""
    strided = lambda x: conv(x, kernel(KERNEL), stride=2)
    dx = pull_back(strided, one_map(O), dy=one_map(DELTA))
    by_hand = [[1, 2, 10, 20], [3, 4, 30, 40], [100, 200, 1000, 2000], [300, 400, 3000, 4000]]
    assert_array_equal(matrix(dx), by_hand)
    apart = upsample(one_map(DELTA), 2)
    assert_array_equal(matrix(apart), [[1, 0, 10], [0, 0, 0], [100, 0, 1000]])
    assert_array_equal(matrix(conv(apart, kernel([[4, 3], [2, 1]]), padding=1)), by_hand)


def test_how_deltas_of_another_depth_go_back():
    """Diego: 3×32×32 through 6 filters of 3×5×5 to 6×28×28. Each input map hears all six."""
    assert shape_of(conv, (32, 32, 3), (5, 5, 3, 6)) == (28, 28, 6)
    dx = conv_transpose(np.ones((28, 28, 6)), np.ones((5, 5, 3, 6)))
    assert dx.shape == (32, 32, 3)
    assert dx[0, 0, 0] == 1 * 6  # a corner lies in one window of each of the six maps
    assert dx[16, 16, 0] == 25 * 6


# ------------------------------------------------------------------------------------------
# Pooling
# ------------------------------------------------------------------------------------------

BLOCKS = [[1, 9, 5, 6], [3, 4, 8, 7], [12, 10, 2, 0], [11, 13, 14, 15]]


def test_max_pooling_assigns_the_error_to_the_winning_unit():
    pool = lambda x: max_pool(x, 2)
    y, index = max_pool(one_map(BLOCKS), 2, return_argmax=True)
    assert_array_equal(matrix(y), [[9, 8], [13, 15]])
    assert_array_equal(matrix(index), [[1, 6], [13, 15]])  # "its index noted", row by row
    dx = pull_back(pool, one_map(BLOCKS), dy=one_map(DELTA))
    assert_array_equal(matrix(dx), [[0, 1, 0, 0], [0, 0, 10, 0], [0, 0, 0, 0], [0, 100, 0, 1000]])


def test_average_pooling_assigns_a_share_to_the_whole_block():
    """1 / (N×N), for N = 2."""
    dx = pull_back(lambda x: avg_pool(x, 2), one_map(BLOCKS), dy=one_map(4 * DELTA))
    by_hand = [[1, 1, 10, 10], [1, 1, 10, 10], [100, 100, 1000, 1000], [100, 100, 1000, 1000]]
    assert_array_equal(matrix(dx), by_hand)


def test_does_routing_multiply_with_the_derivative_of_the_activation():
    """Jason Xu. Pooling has none; the layer below it multiplies with its own, f′(x)."""
    x = one_map([[-1, -2], [-3, -4]])  # the winner is −1, where relu′ = 0
    one = one_map([[1]])
    assert_array_equal(matrix(pull_back(lambda x: max_pool(x, 2), x, dy=one)), [[1, 0], [0, 0]])
    pooled_activation = lambda x: max_pool(relu(x), 2)
    assert_array_equal(matrix(pull_back(pooled_activation, x, dy=one)), np.zeros((2, 2)))


def test_convolution_forward_over_several_maps_is_20_for_each_pair():
    """Two maps below, one above: each receives δ through its own kernel."""
    w = kernels([[[[1, 2]], [[3, 4]]]])  # (1, 2, 1, 2)
    dx = pull_back(lambda x: conv(x, w), maps(np.ones((2, 1, 3))), dy=one_map([[1, 10]]))
    assert_array_equal(dx[0], [[1, 3], [12, 34], [20, 40]])
