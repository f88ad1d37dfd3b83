"""[H] *Neural Network Design: Deep Learning*, chapter 8: its equations, 8.1–8.53, in numbers.

The solved problems and exercises are in `test_worked_examples_hagan_problems.py`.
"""

import jax.numpy as jnp
import numpy as np
import pytest
from checker import integers, value_and_cotangents
from numpy.testing import assert_array_equal
from worked import filters, kernel, kernels, maps, matrix, one_map, planes, pull_back, shape_of

from cnnvjp import (
    add_bias,
    conv,
    conv_kernel_grad,
    conv_transpose,
    dense,
    equations,
    flatten,
    max_pool,
    relu,
    sigmoid,
    sum_pool,
    tanh,
    unflatten,
    weighted_avg_pool,
)

W = np.array([[1, 2], [3, 4]])
DIGITS = np.array([[1, 10], [100, 1000]])  # each leaves its own digit in a sum


def convolve(image, w):
    """The * of 8.7: the true convolution, wherever the sum is not empty."""
    return matrix(conv(one_map(image), kernel(w), flip_kernel=True, padding="FULL"))


# ------------------------------------------------------------------------------------------
# Deriving the convolution operation, 8.1–8.7
# ------------------------------------------------------------------------------------------

IMPULSE = np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]])


def test_8_2_impulse_response_is_the_kernel():
    """… of a convolution. A cross-correlation answers with its kernel rotated."""
    response = convolve(IMPULSE, W)
    assert_array_equal(response, [[0, 0, 0, 0], [0, 1, 2, 0], [0, 3, 4, 0], [0, 0, 0, 0]])
    rotated = conv(one_map(IMPULSE), kernel(W), padding="FULL")
    assert_array_equal(matrix(rotated), [[0, 0, 0, 0], [0, 4, 3, 0], [0, 2, 1, 0], [0, 0, 0, 0]])


def test_8_3_to_8_5_an_image_is_a_sum_of_impulses_and_answers_with_a_sum_of_responses():
    P = np.array([[5, 7], [9, 11]])
    impulses = np.eye(4).reshape(2, 2, 2, 2)  # impulses[i, j] is 1 at i, j
    assert_array_equal(np.einsum("ij,ijmn->mn", P, impulses), P)
    responses = conv(impulses[..., None], kernel(W), flip_kernel=True, padding="FULL")[..., 0]
    assert_array_equal(np.einsum("ij,ijmn->mn", P, responses), convolve(P, W))
    assert_array_equal(responses[0, 1], [[0, 1, 2], [0, 3, 4], [0, 0, 0]])  # w_m−0,n−1


def test_8_6_and_8_7_convolution_commutes_and_cross_correlation_does_not():
    by_hand = [[1, 12, 20], [103, 1234, 2040], [300, 3400, 4000]]
    assert_array_equal(convolve(DIGITS, W), by_hand)
    assert_array_equal(convolve(W, DIGITS), by_hand)
    slid = matrix(conv(one_map(DIGITS), kernel(W), padding="FULL"))
    exchanged = matrix(conv(one_map(W), kernel(DIGITS), padding="FULL"))
    assert slid[0, 0] == 4 * 1
    assert exchanged[0, 0] == 1000 * 1


def test_a_position_invariant_transformation_commutes_with_translation():
    P = np.zeros((5, 5))
    P[1:3, 1:3] = DIGITS
    assert_array_equal(
        convolve(np.roll(P, (1, 2), (0, 1)), W), np.roll(convolve(P, W), (1, 2), (0, 1))
    )


# ------------------------------------------------------------------------------------------
# Cross-correlation and weight sharing, 8.9–8.13
# ------------------------------------------------------------------------------------------

P = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]])


def test_8_13_an_inner_product_at_every_place():
    """Figure 8.2: a 3×3 image, a 2×2 kernel and a 2×2 output."""
    z = matrix(conv(one_map(P), kernel(DIGITS)))
    assert_array_equal(z, [[5421, 6532], [8754, 9865]])


def test_8_12_cross_correlation_is_a_multiplication_with_a_matrix():
    """The matrix as printed; vec stacks columns. Going backward its transpose multiplies."""
    w11, w12, w21, w22 = W.ravel().astype(float)
    M = np.array(
        [
            [w11, w21, 0, w12, w22, 0, 0, 0, 0],
            [0, w11, w21, 0, w12, w22, 0, 0, 0],
            [0, 0, 0, w11, w21, 0, w12, w22, 0],
            [0, 0, 0, 0, w11, w21, 0, w12, w22],
        ]
    )
    vec = lambda x: flatten(x, order="column")

    z = conv(one_map(P), kernel(W))
    assert_array_equal(vec(one_map(P)), [1, 4, 7, 2, 5, 8, 3, 6, 9])
    assert_array_equal(vec(z), M @ vec(one_map(P)))
    assert_array_equal(vec(z), dense(vec(one_map(P)), M.T))  # x w, with w = Mᵀ

    dz = one_map(DIGITS)
    assert_array_equal(vec(conv_transpose(dz, kernel(W))), M.T @ vec(dz))

    basis = unflatten(np.eye(9), (3, 3, 1), order="column")  # nine one-point images
    assert_array_equal(vec(conv(basis, kernel(W))).T, M)  # whose answers are M's columns


# ------------------------------------------------------------------------------------------
# Sizes, 8.14–8.19
# ------------------------------------------------------------------------------------------

SIZES = [  # R, kernel, Pᵈ, Sᵗ, and what comes out, S
    ((3, 3), (2, 2), 0, 1, (2, 2)),  # figure 8.2
    ((4, 4), (2, 2), 0, 1, (3, 3)),  # figure 8.3 before the stride
    ((4, 4), (2, 2), 0, 2, (2, 2)),  # figure 8.3: 3 → 2 is no "factor of 2"
    ((3, 3), (3, 3), 1, 1, (3, 3)),  # 8.16: the same size
    ((5, 8), (2, 3), 0, 2, (2, 3)),  # (5 − 2)/2 + 1 = 2½ and (8 − 3)/2 + 1 = 3½: the floor
    ((6, 7), (3, 1), 2, 4, (2, 3)),
]


@pytest.mark.parametrize(("R", "window", "Pd", "St", "S"), SIZES)
def test_8_14_to_8_19_sizes(R, window, Pd, St, S):
    layer = lambda p, w: conv(p, w, stride=St, padding=Pd)
    assert shape_of(layer, (*R, 1), (*window, 1, 1)) == (*S, 1)
    assert equations.h_8_18_19(R, window, Pd, St) == S
    by_formula = tuple((n + 2 * Pd - k) / St + 1 for n, k in zip(R, window, strict=True))
    exact = all((n + 2 * Pd - k) % St == 0 for n, k in zip(R, window, strict=True))
    assert (by_formula == S) == exact


def test_8_16_backward_through_padding():
    """A 2×2 image keeps its size under a 3×3 kernel with Pᵈ = 1; the padding's share is dropped.

    In the weights 1 … 9, w22 = 5 joins every pixel with the output at its own place.
    """
    image, w = one_map([[1, 2], [3, 4]]), kernel(np.arange(1, 10).reshape(3, 3))
    layer = lambda p, w: conv(p, w, padding=1)
    z, (dp, dw) = value_and_cotangents(layer, (image, w), one_map(DIGITS))
    assert_array_equal(
        matrix(z),
        [
            [5 * 1 + 6 * 2 + 8 * 3 + 9 * 4, 4 * 1 + 5 * 2 + 7 * 3 + 8 * 4],
            [2 * 1 + 3 * 2 + 5 * 3 + 6 * 4, 1 * 1 + 2 * 2 + 4 * 3 + 5 * 4],
        ],
    )
    assert_array_equal(matrix(dp), [[1245, 2356], [4578, 5689]])
    assert_array_equal(matrix(dw), [[1000, 2100, 200], [3010, 4321, 402], [30, 43, 4]])


# ------------------------------------------------------------------------------------------
# Multiple kernels and pooling, 8.20–8.26
# ------------------------------------------------------------------------------------------

A = np.array([[[1, 2, 3]], [[4, 5, 6]]])  # Hⁿ = 2 maps of one row
LW = np.array([[[[1, 10]], [[100, 1000]]], [[[10, 1]], [[1000, 100]]]])  # Hᵐ × Hⁿ kernels


def test_8_20_every_map_above_is_a_sum_over_the_maps_below():
    z = planes(conv(maps(A), kernels(LW)))
    assert_array_equal(z[0], [[5421, 6532]])  # 1·1 + 10·2 + 100·4 + 1000·5, …
    assert_array_equal(z[1], [[4512, 5623]])  # 10·1 + 1·2 + 1000·4 + 100·5, …


V = np.arange(1, 17).reshape(4, 4)


def test_8_22_average_pooling_is_a_sum_with_a_weight():
    """Blocks 1 2 5 6, 3 4 7 8, 9 10 13 14 and 11 12 15 16, which sum to 14, 22, 46 and 54."""
    pool = lambda w: matrix(weighted_avg_pool(one_map(V), w, 2))
    assert_array_equal(pool(3.0), [[42, 66], [138, 162]])
    assert_array_equal(pool(1 / 4), [[3.5, 5.5], [11.5, 13.5]])  # the average


def test_8_22_is_a_convolution_of_equal_weights_with_the_stride_of_its_size():
    pooled = weighted_avg_pool(one_map(V), 3.0, 2)
    assert_array_equal(conv(one_map(V), kernel(np.full((2, 2), 3)), stride=2), pooled)


def test_8_24_max_pooling():
    v = [[1, 9, 5, 6], [3, 4, 8, 7], [12, 10, 2, 0], [11, 13, 14, 15]]
    assert_array_equal(matrix(max_pool(one_map(v), 2)), [[9, 8], [13, 15]])


def test_figure_8_8_pools_15x15_to_5x5():
    """Window and stride 3: the last pixel of every block is the largest."""
    image = np.arange(225).reshape(15, 15)
    pooled = matrix(max_pool(one_map(image), 3))
    assert pooled.shape == (5, 5)
    assert_array_equal(pooled, image[2::3, 2::3])


def test_8_26_conversion_stacks_columns_map_by_map():
    two_maps = maps([[[1, 2, 3], [4, 5, 6]], [[7, 8, 9], [10, 11, 12]]])
    stacked = flatten(two_maps, order="column")
    assert_array_equal(stacked, [1, 4, 2, 5, 3, 6, 7, 10, 8, 11, 9, 12])
    assert_array_equal(unflatten(stacked, (2, 3, 2), order="column"), two_maps)


# ------------------------------------------------------------------------------------------
# Across the summation net input function, 8.32–8.37
# ------------------------------------------------------------------------------------------


def test_8_32_to_8_37_tied_bias():
    """dLZ = dN; db is the sum of dN, 10, and not its average, 2½."""
    n, (dlz, db) = value_and_cotangents(add_bias, (one_map(DIGITS), jnp.array([5.0])), one_map(W))
    assert_array_equal(matrix(n), [[6, 15], [105, 1005]])
    assert_array_equal(matrix(dlz), W)
    assert db == 1 + 2 + 3 + 4
    assert_array_equal(matrix(sum_pool(one_map(W), 2)), [db])  # ⊞ over the whole map


def test_figure_8_1_untied_bias():
    """One bias for each neuron: db_i,j = dn_i,j."""
    n, (dlz, db) = value_and_cotangents(
        add_bias, (one_map(DIGITS), one_map([[6, 7], [8, 9]])), one_map(W)
    )
    assert_array_equal(matrix(n), [[7, 17], [108, 1009]])
    assert_array_equal(matrix(dlz), W)
    assert_array_equal(matrix(db), W)


# ------------------------------------------------------------------------------------------
# Across the convolution weight function, 8.38–8.48
# ------------------------------------------------------------------------------------------


@pytest.mark.versions
def test_8_38_to_8_48_by_hand():
    """Example of 8.20: dLZ¹ = 1, 2 and dLZ² = 3, 5."""
    dLZ = maps([[[1, 2]], [[3, 5]]])
    dA, dLW = pull_back(conv, maps(A), kernels(LW), dy=dLZ)
    assert_array_equal(
        planes(dA),
        [
            [[1 + 10 * 3, 10 + 1 * 2 + 1 * 3 + 10 * 5, 10 * 2 + 1 * 5]],
            [[100 + 1000 * 3, 1000 + 100 * 2 + 100 * 3 + 1000 * 5, 1000 * 2 + 100 * 5]],
        ],
    )
    assert_array_equal(
        filters(dLW),
        [  # dLWʰˡ = dLZʰ ⊗ Aˡ
            [[[1 * 1 + 2 * 2, 1 * 2 + 2 * 3]], [[1 * 4 + 2 * 5, 1 * 5 + 2 * 6]]],
            [[[3 * 1 + 5 * 2, 3 * 2 + 5 * 3]], [[3 * 4 + 5 * 5, 3 * 5 + 5 * 6]]],
        ],
    )


def test_8_39_to_8_48_more_maps_above_than_below(rng):
    """The sum over h runs to Hᵐ = 3; with Hⁿ = 2, as printed, a map would be forgotten."""
    LW, dLZ = integers(rng, 3, 2, 3, 2, dtype="float64"), integers(rng, 3, 3, 4, dtype="float64")
    A = integers(rng, 2, 5, 5, dtype="float64")
    dA, dLW = pull_back(conv, maps(A), kernels(LW), dy=maps(dLZ))
    for form in (equations.h_8_39, equations.h_8_41, equations.h_8_44, equations.h_8_45):
        assert_array_equal(planes(dA), form(LW, dLZ))
    for form in (equations.h_8_47, equations.h_8_48):
        assert_array_equal(filters(dLW), form(dLZ, A))
    assert not np.array_equal(planes(dA), equations.h_8_44_as_printed(LW, dLZ))


def test_8_45_rotated_kernel_over_padded_sensitivities():
    """⊗ pads nothing by itself: r − 1 zeros have to be put around dLZ."""
    by_hand = [[1, 12, 20], [103, 1234, 2040], [300, 3400, 4000]]
    rotated = kernel([[4, 3], [2, 1]])
    assert_array_equal(matrix(conv(one_map(DIGITS), rotated, padding=1)), by_hand)
    assert_array_equal(matrix(conv_transpose(one_map(DIGITS), kernel(W))), by_hand)
    assert matrix(conv(one_map(DIGITS), rotated)) == 1234  # unpadded: one pixel of nine


def test_8_48_sensitivities_are_the_kernel():
    by_hand = [[5421, 6532], [8754, 9865]]
    assert_array_equal(matrix(conv(one_map(P), kernel(DIGITS))), by_hand)
    assert_array_equal(matrix(conv_kernel_grad(one_map(P), one_map(DIGITS), (2, 2))), by_hand)


# ------------------------------------------------------------------------------------------
# Across the activation function, and a whole layer, 8.27–8.31 and 8.49–8.53
# ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("activation", "n", "slope"),
    [
        (relu, [[-2, 3], [5, -7]], [[0, 1], [1, 0]]),
        (sigmoid, [[0, 0], [0, 0]], [[1 / 4, 1 / 4], [1 / 4, 1 / 4]]),
        (tanh, [[0, 0], [0, 0]], [[1, 1], [1, 1]]),
    ],
)
def test_8_52_activation(activation, n, slope):
    """dN = Ḟ ∘ dA."""
    dn = pull_back(activation, one_map(n), dy=one_map(4 * DIGITS))
    assert_array_equal(matrix(dn), np.array(slope) * 4 * DIGITS)


def test_8_29_to_8_31_backpropagating_across_a_layer():
    """dNᵐ → dLZ → dAⁿ → dNⁿ, and on the way dNᵐ → db and dLZ → dLW."""
    N = [[1, -2, 3], [4, 5, -6], [-7, 8, 9]]  # net input of layer n, and relu on top of it

    def layer(n, w, b):
        return add_bias(conv(relu(n), w), b)

    dN, dLW, db = pull_back(layer, one_map(N), kernel(W), jnp.array([7.0]), dy=one_map(DIGITS))
    assert db == 1111
    assert_array_equal(matrix(dLW), [[5401, 530], [8054, 9805]])  # of A = 1 0 3, 4 5 0, 0 8 9
    assert_array_equal(matrix(dN), [[1, 0, 20], [103, 1234, 0], [0, 3400, 4000]])
