"""The equations of the sources agree with each other, with differences, and with hand-work.

Data are integers in float64, so that everything linear is compared exactly. Sizes differ between
rows and columns, and kernels are asymmetric: a rotation, a transpose or a confused size shows.
"""

import functools
import inspect
import math

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from cnnvjp import equations as eq

RNG = np.random.default_rng(20160905)


def integers(*shape):
    return RNG.integers(-9, 10, shape).astype(np.float64)


def distinct(*shape):
    """Integers ten apart: a step of one changes no maximum."""
    return 10.0 * RNG.permutation(math.prod(shape)).reshape(shape)


def gradient(forward, x, dy):
    """Gradient of ⟨forward(x), dy⟩ by steps of one; exact where forward is linear that far."""
    base, dx = forward(x), np.zeros_like(x)
    for entry in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[entry] = 1
        dx[entry] = np.sum((forward(x + step) - base) * dy)
    return dx


def one(_):
    """The derivative of the identity."""
    return 1.0


def tanh_prime(x):
    return 1 - math.tanh(x) ** 2


def shifted(image, down, right):
    """The image moved, 0 where it came from."""
    rows, cols = image.shape
    framed = np.pad(image, 2)
    return framed[2 - down : 2 - down + rows, 2 - right : 2 - right + cols]


def vec(matrix):
    """Columns of one map, stacked."""
    return matrix.T.ravel()


# One map, stride 1: every source defines the same operation and its two gradients.

X, W = integers(5, 7), integers(2, 3)
Z = integers(4, 5)  # a cotangent of the output's size

CORRELATIONS = {
    "gbc_9_8": lambda x, w: eq.gbc_9_8(w[None, None], x[None], 1)[0],
    "j_1": eq.j_1,
    "j_4": lambda x, w: eq.j_4(x[..., None], w[..., None, None], [0])[..., 0],
    "j_5": lambda x, w: eq.j_5(x, w, 0),
    "j_6": lambda x, w: eq.j_6(x, w, 0),
    "j_7": lambda x, w: eq.j_7(x, w, 0),
    "b_convolution": eq.b_convolution,
    "h_8_8": lambda x, w: eq.h_8_8(x, eq.h_p8_1(w))[1:5, 2:7],
    "h_8_9": eq.h_8_9,
    "h_8_12": lambda x, w: (eq.h_8_12(w, x.shape) @ vec(x)).reshape(5, 4).T,
    "h_8_13": lambda x, w: eq.h_8_13(w, x),
    "h_8_20": lambda x, w: eq.h_8_20(w[None, None], x[None])[0],
    "s_stride": lambda x, w: eq.s_stride(x, w, 1),
}

INPUT_GRADIENTS = {
    "gbc_9_13": lambda w, dz: eq.gbc_9_13(w[None, None], dz[None], 1, X.shape)[0],
    "j_20": lambda w, dz: eq.j_20(dz, w, X, one),
    "j_21": lambda w, dz: eq.j_21(dz, w, X, one),
    "j_22": lambda w, dz: eq.j_22(dz, w, X, one),
    "b_convolution_backward": lambda w, dz: eq.b_convolution_backward(dz, w),
    "b_multi_channel_backward": lambda w, dz: eq.b_multi_channel_backward(dz[None], w[None, None])[
        0
    ],
    "h_8_5, full": lambda w, dz: eq.h_8_5(dz, w),
    "h_8_12 transposed": lambda w, dz: (eq.h_8_12(w, X.shape).T @ vec(dz)).reshape(7, 5).T,
    "h_8_44": lambda w, dz: eq.h_8_44(w[None, None], dz[None])[0],
    "s_stride_backward": lambda w, dz: eq.s_stride_backward(dz, w, 1),
}

KERNEL_GRADIENTS = {
    "gbc_9_11": lambda x, dz: eq.gbc_9_11(dz[None], x[None], 1, W.shape)[0, 0],
    "j_13": lambda x, dz: eq.j_13(dz, x),
    "j_14": lambda x, dz: eq.j_14(dz, x),
    "b_filter_gradient": eq.b_filter_gradient,
    "h_8_47": lambda x, dz: eq.h_8_47(dz[None], x[None])[0, 0],
}


@pytest.mark.parametrize("name", CORRELATIONS)
def test_correlation_of_every_source_is_the_inner_product_with_a_window(name):
    expected = [[np.sum(X[i : i + 2, j : j + 3] * W) for j in range(5)] for i in range(4)]
    assert_array_equal(CORRELATIONS[name](X, W), expected)


@pytest.mark.parametrize("name", INPUT_GRADIENTS)
def test_input_gradient_of_every_source_is_the_exact_difference(name):
    assert_array_equal(INPUT_GRADIENTS[name](W, Z), gradient(lambda x: eq.j_1(x, W), X, Z))


@pytest.mark.parametrize("name", KERNEL_GRADIENTS)
def test_kernel_gradient_of_every_source_is_the_exact_difference(name):
    assert_array_equal(KERNEL_GRADIENTS[name](X, Z), gradient(lambda w: eq.j_1(X, w), W, Z))


@pytest.mark.parametrize("name", ["j_2", "j_3", "h_8_5", "h_8_6", "h_8_8"])
def test_convolution_is_the_padded_correlation_with_the_flipped_kernel(name):
    convolve = getattr(eq, name)
    padded = np.pad(X, ((1, 1), (2, 2)))
    assert_array_equal(convolve(X, W), eq.h_8_13(eq.h_p8_1(W), padded))
    assert_array_equal(convolve(X, W), convolve(W, X))  # it commutes, as [H] 8.7 says


@pytest.mark.parametrize("name", ["j_2", "h_8_5"])
def test_convolution_is_the_product_of_polynomials(name):
    assert_array_equal(getattr(eq, name)([[1, 2, 3]], [[4, 5]]), [np.convolve([1, 2, 3], [4, 5])])


def test_rotation_about_the_origin_needs_no_shift_and_of_an_array_does():
    """[J] 6 and 14: the two readings of rot180."""
    kernel = {(-m, -n): W[m, n] for m, n in np.ndindex(W.shape)}  # rot180{w}(m, n) = w(−m, −n)
    about_origin = [
        [sum(X[i - m, j - n] * w for (m, n), w in kernel.items()) for j in range(5)]
        for i in range(4)
    ]
    assert_array_equal(about_origin, eq.j_7(X, W, 0))
    everywhere = eq.j_2(X, W[::-1, ::-1])
    assert_array_equal(everywhere[1:5, 2:7], eq.j_7(X, W, 0))
    assert not np.array_equal(everywhere[:4, :5], eq.j_7(X, W, 0))


def test_8_12_is_the_matrix_printed_for_a_3x3_image():
    w11, w12, w21, w22 = 2, 3, 5, 7
    assert_array_equal(
        eq.h_8_12([[w11, w12], [w21, w22]], (3, 3)),
        [
            [w11, w21, 0, w12, w22, 0, 0, 0, 0],
            [0, w11, w21, 0, w12, w22, 0, 0, 0],
            [0, 0, 0, w11, w21, 0, w12, w22, 0],
            [0, 0, 0, 0, w11, w21, 0, w12, w22],
        ],
    )


# Several maps: 2 above, 3 below.

MAPS, KERNELS, D_MAPS = integers(3, 4, 6), integers(2, 3, 3, 2), integers(2, 2, 5)

MAP_FORWARD = {
    "gbc_9_8": lambda: eq.gbc_9_8(KERNELS, MAPS, 1),
    "j_4": lambda: eq.j_4(MAPS.transpose(1, 2, 0), KERNELS.transpose(2, 3, 1, 0), [0, 0]).transpose(
        2, 0, 1
    ),
    "b_multi_channel": lambda: eq.b_multi_channel(MAPS, KERNELS),
    "h_8_20": lambda: eq.h_8_20(KERNELS, MAPS),
    "h_8_21": lambda: eq.h_8_21(KERNELS, MAPS),
    "h_8_38": lambda: eq.h_8_38(KERNELS, MAPS),
}
MAP_INPUT_GRADIENTS = {
    "gbc_9_13": lambda: eq.gbc_9_13(KERNELS, D_MAPS, 1, (4, 6)),
    "b_multi_channel_backward": lambda: eq.b_multi_channel_backward(D_MAPS, KERNELS),
    "h_8_39": lambda: eq.h_8_39(KERNELS, D_MAPS),
    "h_8_41": lambda: eq.h_8_41(KERNELS, D_MAPS),
    "h_8_44": lambda: eq.h_8_44(KERNELS, D_MAPS),
    "h_8_45": lambda: eq.h_8_45(KERNELS, D_MAPS),
}
MAP_KERNEL_GRADIENTS = {
    "gbc_9_11": lambda: eq.gbc_9_11(D_MAPS, MAPS, 1, (3, 2)),
    "b_multi_channel_filter_gradient": lambda: eq.b_multi_channel_filter_gradient(MAPS, D_MAPS),
    "h_8_47": lambda: eq.h_8_47(D_MAPS, MAPS),
    "h_8_48": lambda: eq.h_8_48(D_MAPS, MAPS),
}


@functools.cache
def map_gradients():
    """The exact differences of 8.20, with respect to the maps below and to the kernels."""
    return (
        gradient(lambda v: eq.h_8_20(KERNELS, v), MAPS, D_MAPS),
        gradient(lambda k: eq.h_8_20(k, MAPS), KERNELS, D_MAPS),
    )


@pytest.mark.parametrize("name", MAP_FORWARD)
def test_maps_above_are_sums_over_the_maps_below(name):
    expected = [sum(eq.j_1(MAPS[c], KERNELS[k, c]) for c in range(3)) for k in range(2)]
    assert_array_equal(MAP_FORWARD[name](), expected)


@pytest.mark.parametrize("name", MAP_INPUT_GRADIENTS)
def test_gradient_of_the_maps_below_is_the_exact_difference(name):
    assert_array_equal(MAP_INPUT_GRADIENTS[name](), map_gradients()[0])


@pytest.mark.parametrize("name", MAP_KERNEL_GRADIENTS)
def test_gradient_of_the_kernels_is_the_exact_difference(name):
    assert_array_equal(MAP_KERNEL_GRADIENTS[name](), map_gradients()[1])


def test_a_bank_adds_its_own_bias_to_every_map():
    bank, b = KERNELS.transpose(2, 3, 1, 0), np.array([100.0, -100.0])
    image = MAPS.transpose(1, 2, 0)
    assert_array_equal(eq.j_4(image, bank, b) - eq.j_4(image, bank, [0, 0]), np.ones((2, 5, 1)) * b)


# Strides. The sizes leave remainders of several kinds; rows and columns differ in theirs.


@pytest.mark.parametrize("s", [1, 2, 3])
@pytest.mark.parametrize("size", [(4, 6), (5, 4)])
def test_gbc_operations_are_gradients_and_adjoints(s, size):
    K, V = integers(2, 2, 2, 3), integers(2, *size)
    G = integers(*eq.gbc_9_8(K, V, s).shape)
    dV, dK = eq.gbc_9_13(K, G, s, size), eq.gbc_9_11(G, V, s, (2, 3))

    assert_array_equal(dV, gradient(lambda v: eq.gbc_9_8(K, v, s), V, G))
    assert_array_equal(dK, gradient(lambda k: eq.gbc_9_8(k, V, s), K, G))
    product = np.sum(eq.gbc_9_8(K, V, s) * G)
    assert product == np.sum(V * dV) == np.sum(K * dK)


@pytest.mark.parametrize(("output", "k", "s"), [(1, 1, 1), (3, 2, 1), (3, 2, 2), (4, 3, 3)])
def test_every_listed_input_size_and_no_other_leads_to_the_output_size(output, k, s):
    leads = [n for n in range(k, 40) if eq.h_8_18_19((n, n), (k, k), 0, s) == (output, output)]
    assert eq.gbc_input_sizes(output, k, s) == leads


@pytest.mark.parametrize("s", [1, 2, 3])
def test_a_strided_convolution_is_downsampled_and_its_gradient_upsampled(s):
    """[B] takes a stride apart; [S] puts the zeros between the deltas; [GBC] has it in one."""
    x, w = integers(2 * s + 2, 3 * s + 3), integers(2, 3)
    y = eq.gbc_9_8(w[None, None], x[None], s)[0]
    assert_array_equal(eq.b_downsampling(eq.b_convolution(x, w), s), y)
    assert_array_equal(eq.s_stride(x, w, s), y)

    dy = integers(3, 4)
    dx = eq.gbc_9_13(w[None, None], dy[None], s, x.shape)[0]
    assert_array_equal(eq.b_convolution_backward(eq.b_upsampling(dy, s), w), dx)
    assert_array_equal(eq.s_stride_backward(dy, w, s), dx)


SIZES = [  # R, kernel, Pᵈ, Sᵗ, S
    ((3, 4), (2, 2), 0, 1, (2, 3)),
    ((4, 4), (2, 2), 0, 2, (2, 2)),  # figure 8.3
    ((15, 15), (3, 3), 1, 2, (8, 8)),  # E8.7 i
    ((15, 15), (3, 3), 1, 1, (15, 15)),  # E8.7 ii
    ((15, 15), (3, 3), 0, 3, (5, 5)),  # figure 8.8
    ((5, 8), (2, 3), 0, 2, (2, 3)),  # remainders 1 and 1
    ((6, 7), (3, 1), 2, 4, (2, 3)),  # remainders 3 and 2
]


@pytest.mark.parametrize(("R", "kernel_size", "Pd", "St", "S"), SIZES)
def test_output_sizes_are_those_that_come_out(R, kernel_size, Pd, St, S):
    padded = np.pad(integers(*R), Pd)
    assert eq.gbc_9_8(np.ones((1, 1, *kernel_size)), padded[None], St).shape == (1, *S)
    assert eq.h_8_18_19(R, kernel_size, Pd, St) == S
    assert (eq.h_8_16_17(R, kernel_size, Pd) == S) == (St == 1)
    assert (eq.h_8_14_15(R, kernel_size) == S) == (St == 1 and Pd == 0)


# What the sources work out by hand, term by term. A pixel's number is its place, row by row.

HAND_WORKED = {  # gradient: its terms as (weight or pixel, output)
    "[B] x": {
        1: [(1, 1)],
        2: [(2, 1), (1, 2)],
        3: [(2, 2)],
        4: [(3, 1), (1, 3)],
        5: [(4, 1), (3, 2), (2, 3), (1, 4)],
        6: [(4, 2), (2, 4)],
        7: [(3, 3)],
        8: [(4, 3), (3, 4)],
        9: [(4, 4)],
    },
    "[B] w": {
        1: [(1, 1), (2, 2), (4, 3), (5, 4)],
        2: [(2, 1), (3, 2), (5, 3), (6, 4)],
        3: [(4, 1), (5, 2), (7, 3), (8, 4)],
        4: [(5, 1), (6, 2), (8, 3), (9, 4)],
    },
    "[S] stride 1": {
        1: [(1, 1)],
        2: [(1, 2), (2, 1)],
        3: [(1, 3), (2, 2)],
        4: [(2, 3)],
        5: [(3, 1), (1, 4)],  # e, beyond what the slides list
        6: [(4, 1), (3, 2), (2, 4), (1, 5)],
        16: [(4, 9)],
    },
    "[S] stride 2": {
        1: [(1, 1)],
        2: [(2, 1)],
        3: [(1, 2)],
        4: [(2, 2)],
        5: [(3, 1)],
        16: [(4, 4)],
    },
}
WEIGHTS = np.array([[2, 3], [5, 7]])
PIXELS = np.array([[11, 13, 17], [19, 23, 29], [31, 37, 41]])
DELTAS = np.array([[1, 100], [10_000, 1_000_000]])  # keeps the terms apart
NINE_DELTAS = np.array([[43, 47, 53], [59, 61, 67], [71, 73, 79]])

HAND_WORKED_BY = {
    "[B] x": (eq.b_convolution_backward(DELTAS, WEIGHTS), WEIGHTS, DELTAS),
    "[B] w": (eq.b_filter_gradient(PIXELS, DELTAS), PIXELS, DELTAS),
    "[S] stride 1": (eq.s_stride_backward(NINE_DELTAS, WEIGHTS, 1), WEIGHTS, NINE_DELTAS),
    "[S] stride 2": (eq.s_stride_backward(DELTAS, WEIGHTS, 2), WEIGHTS, DELTAS),
}


@pytest.mark.parametrize("example", HAND_WORKED)
def test_terms_worked_by_hand(example):
    computed, factors, deltas = HAND_WORKED_BY[example]
    for place, terms in HAND_WORKED[example].items():
        by_hand = sum(factors.flat[f - 1] * deltas.flat[d - 1] for f, d in terms)
        assert computed.flat[place - 1] == by_hand, f"{example}, entry {place}"


def test_windows_and_zeros_of_the_slides():
    a_to_p = np.arange(1, 17).reshape(4, 4)
    powers = np.array([[1, 100], [10_000, 1_000_000]])  # a window reads off in pairs of digits
    windows = [6050201, 7060302, 8070403, 10090605, 11100706, 12110807, 14131009, 15141110]
    assert_array_equal(eq.s_stride(a_to_p, powers, 1).ravel(), [*windows, 16151211])
    assert_array_equal(eq.s_stride(a_to_p, powers, 2), [[6050201, 8070403], [14131009, 16151211]])
    assert_array_equal(
        eq.s_spread([[1, 2], [3, 4]], 2, (2, 2)),
        [[0] * 5, [0, 1, 0, 2, 0], [0] * 5, [0, 3, 0, 4, 0], [0] * 5],
    )
    assert_array_equal(eq.s_flipped([[1, 2], [3, 4]]), [[4, 3], [2, 1]])


def test_max_pooling_worked_by_hand():
    """[B]: y₂ wins windows 1 and 2, y₇ window 3, y₉ window 4."""
    Y = [[1, 9, 2], [3, 4, 5], [7, 0, 8]]
    G = [[10, 20], [30, 40]]
    assert_array_equal(eq.b_max_pooling(Y, (2, 2)), [[9, 9], [7, 8]])
    assert_array_equal(
        eq.b_max_pooling_backward(G, Y, (2, 2)), [[0, 30, 0], [0, 0, 0], [30, 0, 40]]
    )


def test_mean_pooling_worked_by_hand():
    G = [[4, 40], [400, 4000]]
    assert_array_equal(
        eq.b_mean_pooling_backward(G, (2, 2), (3, 3)),
        [[1, 11, 10], [101, 1111, 1010], [100, 1100, 1000]],
    )


def test_resampling_worked_by_hand():
    x, small = np.arange(1, 10).reshape(3, 3), np.array([[1, 3], [7, 9]])
    zeros_between = [[1, 0, 3], [0, 0, 0], [7, 0, 9]]
    assert_array_equal(eq.b_downsampling(x, 2), small)
    assert_array_equal(eq.b_downsampling_backward(small, 2, (3, 3)), zeros_between)
    assert_array_equal(eq.b_upsampling(small, 2), zeros_between)
    assert_array_equal(eq.b_upsampling_backward(x, 2), small)


# Pooling, resampling, net input and activation: gradients against differences.

POOLED, WEIGHT = distinct(2, 4, 9), np.array([3.0, -2.0])
D_POOLED = integers(2, 2, 3)


def each_map(forward, *by_map):
    """The forward operation of one map, over an array of maps."""
    return lambda maps: np.stack([forward(*entry) for entry in zip(maps, *by_map, strict=True)])


BACKWARD = {  # forward of one argument, the argument, the cotangent, the gradient
    "b_max_pooling": lambda y, g: (
        lambda v: eq.b_max_pooling(v, (2, 3)),
        y,
        g,
        eq.b_max_pooling_backward(g, y, (2, 3)),
    ),
    "b_downsampling": lambda y, g: (
        lambda v: eq.b_downsampling(v, 2),
        y,
        g[:3, :3],
        eq.b_downsampling_backward(g[:3, :3], 2, (5, 6)),
    ),
    "b_downsampling by 4": lambda y, g: (
        lambda v: eq.b_downsampling(v, 4),
        y,
        g[:2, :2],
        eq.b_downsampling_backward(g[:2, :2], 4, (5, 6)),
    ),
    "b_upsampling": lambda y, g: (
        lambda v: eq.b_upsampling(v, 3),
        y[:2, :2],
        g,
        eq.b_upsampling_backward(g, 3),
    ),
    "h_figure_8_1": lambda y, g: (lambda v: eq.h_figure_8_1([[2]], y[:4, :4], v), g, g, g),
    "h_8_33": lambda y, g: (lambda v: eq.h_8_33(v, 5), g, g, eq.h_8_34(g)),
    "h_e8_9": lambda y, g: (lambda v: 5 * v, y[:4, :4], g, eq.h_e8_9(y[:4, :4], 5, g)[0]),
    "h_8_24": lambda *_: (
        each_map(lambda v: eq.h_8_24(v, 2, 3)),
        POOLED,
        D_POOLED,
        eq.h_e8_8(D_POOLED, POOLED, 2, 3),
    ),
    "h_8_22, its maps": lambda *_: (
        each_map(lambda v, w: eq.h_8_22(v, 2, 3, w), WEIGHT),
        POOLED,
        D_POOLED,
        eq.h_p8_3(D_POOLED, WEIGHT, 2, 3),
    ),
    "h_8_22, its weights": lambda *_: (
        each_map(lambda w, v: eq.h_8_22(v, 2, 3, w), POOLED),
        WEIGHT,
        D_POOLED,
        eq.h_p8_4(D_POOLED, POOLED, 2, 3),
    ),
    "h_8_33, its bias": lambda y, g: (
        lambda b: eq.h_8_33(y[:4, :4], b[()]),
        np.array(2.0),
        g,
        eq.h_8_36(g),
    ),
    "h_e8_9, its bias": lambda y, g: (
        lambda b: b * y[:4, :4],
        np.array(2.0),
        g,
        eq.h_e8_9(y[:4, :4], 2, g)[1],
    ),
    "j_max_pooling": lambda y, g: (
        lambda v: eq.j_max_pooling(v, 2),
        y[:4],
        g[:2, :3],
        eq.j_max_pooling_routing(g[:2, :3], y[:4], 2),
    ),
}


@pytest.mark.parametrize("name", BACKWARD)
def test_backward_is_the_exact_difference_of_forward(name):
    forward, x, dy, dx = BACKWARD[name](distinct(5, 6), integers(4, 4))
    assert_array_equal(dx, gradient(forward, x, dy))


@pytest.mark.parametrize(
    ("forward", "x", "dy", "backward"),
    [
        (
            lambda v: eq.b_mean_pooling(v, (2, 3)),
            integers(4, 5),
            integers(3, 3),
            lambda g: eq.b_mean_pooling_backward(g, (2, 3), (4, 5)),
        ),
        (
            lambda v: eq.j_average_pooling(v, 3),
            integers(3, 6),
            integers(1, 2),
            lambda g: eq.j_average_pooling_routing(g, 3),
        ),
    ],
    ids=["b_mean_pooling", "j_average_pooling"],
)
def test_mean_pooling_backward_is_the_difference_of_forward(forward, x, dy, backward):
    assert_allclose(backward(dy), gradient(forward, x, dy), rtol=0, atol=1e-13)


def test_pooling_of_every_source_agrees():
    v = distinct(4, 6)
    assert_array_equal(eq.j_max_pooling(v, 2), eq.h_8_24(v, 2, 2))
    assert_array_equal(eq.b_downsampling(eq.b_max_pooling(v, (2, 2)), 2), eq.h_8_24(v, 2, 2))
    assert_array_equal(eq.j_average_pooling(v, 2), eq.h_8_22(v, 2, 2, 1 / 4))
    assert_array_equal(eq.b_downsampling(eq.b_mean_pooling(v, (2, 2)), 2), eq.h_8_22(v, 2, 2, 0.25))

    delta = integers(2, 3)
    routed = eq.j_max_pooling_routing(delta, v, 2)
    assert_array_equal(eq.h_e8_8(delta[None], v[None], 2, 2)[0], routed)
    strided = eq.b_downsampling_backward(delta, 2, (3, 5))
    assert_array_equal(eq.b_max_pooling_backward(strided, v, (2, 2)), routed)


def test_mean_pooling_backward_is_a_convolution_with_equal_weights():
    g = integers(3, 4)
    weights = np.full((2, 2), 1 / 4)
    assert_array_equal(
        eq.b_mean_pooling_backward(g, (2, 2), (4, 5)), eq.b_convolution_backward(g, weights)
    )


def test_the_first_of_equal_units_wins():
    tie = np.array([[5.0, 7.0], [7.0, 7.0]])
    first = [[0, 1], [0, 0]]
    assert_array_equal(eq.j_max_pooling_routing([[1]], tie, 2), first)
    assert_array_equal(eq.b_max_pooling_backward([[1]], tie, (2, 2)), first)
    assert_array_equal(eq.h_e8_8([[[1]]], tie[None], 2, 2), [first])


def test_expanding_is_the_transpose_of_pooling_and_not_its_inverse():
    """[H] P8.3: ⊠ and ⊞."""
    a, v = integers(2, 3), integers(4, 9)
    expanded = eq.h_p8_3(a[None], [1], 2, 3)[0]
    assert np.sum(eq.h_8_22(v, 2, 3, 1) * a) == np.sum(v * expanded)
    assert_array_equal(eq.h_8_22(expanded, 2, 3, 1), 6 * a)


def test_deltas_cross_the_activation():
    """[J] 8 and 20, [B] activation and [H] 8.52 hold the same factor f′(x)."""
    w, x, step = integers(2, 3) / 9, integers(4, 5) / 9, 1e-6
    delta = integers(3, 3)

    def loss(v):
        return np.sum(eq.j_7(eq.j_8(v, math.tanh), w, 1) * delta)

    expected = np.zeros_like(x)
    for entry in np.ndindex(x.shape):
        d = np.zeros_like(x)
        d[entry] = step
        expected[entry] = (loss(x + d) - loss(x - d)) / (2 * step)

    da = eq.j_20(delta, w, x, one)
    for dx in [
        eq.j_20(delta, w, x, tanh_prime),
        eq.j_21(delta, w, x, tanh_prime),
        eq.j_22(delta, w, x, tanh_prime),
        eq.b_activation_backward(da, x, tanh_prime),
        eq.h_8_52(tanh_prime, x[None], da[None])[0],
    ]:
        assert_allclose(dx, expected, rtol=0, atol=1e-8)


def test_squared_error_and_its_gradient():
    t, y = np.array([1.0, 2.0, 4.0]), np.array([3.0, 2.0, -1.0])
    assert eq.j_9(t, y) == (4 + 0 + 25) / 2
    central = [(eq.j_9(t, y + e) - eq.j_9(t, y - e)) / 2 for e in np.eye(3)]  # exact: quadratic
    assert_array_equal(central, y - t)


def test_stacking_takes_columns_map_by_map():
    maps = np.arange(1, 13).reshape(2, 2, 3)
    assert_array_equal(eq.h_8_26(maps), [1, 4, 2, 5, 3, 6, 7, 10, 8, 11, 9, 12])


def test_other_forms_of_convolution():
    assert_array_equal(eq.b_convolution_1d([1, 2, 3, 4], [10, 1]), [12, 23, 34])
    volume, taps = integers(3, 4, 5), integers(2, 3, 2)
    inner = [
        [
            [np.sum(volume[i : i + 2, j : j + 3, k : k + 2] * taps) for k in range(4)]
            for j in range(2)
        ]
        for i in range(2)
    ]
    assert_array_equal(eq.b_convolution_3d(volume, taps), inner)
    filters = integers(3, 2, 3)
    blocks = np.zeros((3, 3, 2, 3))  # depthwise: no kernel between different channels
    blocks[range(3), range(3)] = filters
    assert_array_equal(
        eq.b_depthwise_convolution(volume, filters), eq.b_multi_channel(volume, blocks)
    )


def test_rearranged_filters_collect_one_channel_of_all_reversed():
    filters = eq.b_rearranged_filters(KERNELS)
    assert filters.shape == (3, 2, 3, 2)
    assert_array_equal(filters[2, 1], np.rot90(KERNELS[1, 2], 2))


def test_shifting_right_and_up():
    """[H] P8.2, E8.4: the exercise's image, and the kernel on rows that go down."""
    image = np.zeros((5, 5))
    image[2, 2] = image[3, 1] = image[3, 2] = 1
    moved = np.zeros((5, 5))
    moved[1, 3] = moved[2, 2] = moved[2, 3] = 1
    assert_array_equal(eq.h_p8_2(image), moved)
    padded = np.pad(X, ((0, 1), (1, 0)))
    assert_array_equal(eq.h_p8_2(X), eq.h_8_13([[0, 0], [1, 0]], padded))


# Errata: what is printed is wrong, what is corrected is right.

ERRATUM_TESTS = {}


def erratum(source, *where):
    def register(test):
        ERRATUM_TESTS.update({(source, place): test for place in where})
        return test

    return register


def input_gradient():
    return gradient(lambda x: eq.j_1(x, W), X, Z)


@erratum("[J]", "3")
def limits_of_3():
    assert_array_equal(eq.j_3(X, W), eq.j_2(X, W))
    assert not np.array_equal(eq.j_3_as_printed(X, W), eq.j_2(X, W))


@erratum("[J]", "3, the sentence after it")
def flipped_kernel():
    within = eq.j_2(X, W)[1:5, 2:7]
    assert_array_equal(within, eq.j_1(X, W[::-1, ::-1]))
    assert not np.array_equal(within, eq.j_1(X, W))
    symmetric = np.array([[1, 2, 3], [3, 2, 1]])  # K(−m, −n) = K(m, n) about its centre
    assert_array_equal(eq.j_2(X, symmetric)[1:5, 2:7], eq.j_1(X, symmetric))


@erratum("[J]", "4")
def filters_of_4():
    image, bank = MAPS.transpose(1, 2, 0), KERNELS.transpose(2, 3, 1, 0)
    maps = eq.j_4(image, bank, [1, 2])
    assert maps.shape == (2, 5, 2)
    for d in range(2):
        one_map = eq.j_4_as_printed(image, bank[..., d], d + 1)
        assert_array_equal(maps[..., d], one_map)
        assert not np.array_equal(maps[..., 1 - d], one_map)


@erratum("[J]", "4 and 5")
def star_of_5():
    window = np.sum(X[:2, :3] * W) + 7  # the right-hand side at i = j = 0
    assert eq.j_5(X, W, 7)[0, 0] == window
    assert eq.j_5_as_printed(X, W, 7).shape == eq.j_5(X, W, 7).shape
    assert eq.j_5_as_printed(X, W, 7)[0, 0] != window


@erratum("[J]", "6 and 7")
def bias_of_7():
    tied = eq.j_7(X, W, 3)
    assert_array_equal(eq.j_7_as_printed(X, W, np.full((4, 5), 3)), tied)
    untied = eq.j_7_as_printed(X, W, Z)
    assert len(np.unique(untied - eq.j_7(X, W, 0))) > 1  # no tied bias gives this
    assert_array_equal(tied - eq.j_7(X, W, 0), np.full((4, 5), 3))


@erratum("[J]", "9")
def mean_of_9():
    t, y = np.array([1.0, 2.0, 4.0]), np.array([3.0, 2.0, -1.0])
    assert eq.j_9(t, y) != eq.j_9_as_named(t, y)
    assert eq.j_9(t, y) == pytest.approx(eq.j_9_as_named(t, y) * 3 / 2)


@erratum("[J]", "14, the picture by a reader's account")
def picture_of_14():
    o = PIXELS.astype(float)
    expected = gradient(lambda w: eq.j_1(o, w), np.zeros((2, 2)), DELTAS)
    assert_array_equal(eq.j_14(DELTAS, o), expected)
    d1, d2, d3, d4 = DELTAS.ravel()
    o1, o2, o4, o5 = o[:2, :2].ravel()
    assert expected[0, 0] == d1 * o1 + d2 * o2 + d3 * o4 + d4 * o5
    pictured = eq.j_14_as_pictured(DELTAS, o)
    assert pictured[0, 0] == d4 * o1 + d3 * o2 + d2 * o4 + d1 * o5 != expected[0, 0]


@erratum("[J]", "19, the first term")
def first_term_of_19():
    only_first = np.zeros_like(W)
    only_first[0, 0] = W[0, 0]
    x = np.abs(X) + 1  # no accidental zero
    for pixel, tap in [((2, 4), (1, 2)), ((3, 3), (0, 1)), ((2, 2), (0, 0))]:
        i, j = np.subtract(pixel, tap)
        term = eq.j_7(eq.j_8(x, math.tanh), only_first, 0)[i, j]
        assert eq.j_19_first_term(W, x, math.tanh, pixel, tap) == term
        assert eq.j_19_first_term_as_printed(W, x, math.tanh, pixel, tap) != term


@erratum("[J]", "21")
def rotation_of_21():
    assert_array_equal(eq.j_21(Z, W, X, one), input_gradient())
    assert not np.array_equal(eq.j_21_as_printed(Z, W, X, one), input_gradient())
    total = eq.j_1(np.pad(Z, ((0, 2), (0, 4))), W)
    assert_array_equal(eq.j_21_as_printed(Z, W, X, one), total[::-1, ::-1])
    kinder = eq.j_1(np.pad(Z, ((1, 1), (2, 2))), W)[::-1, ::-1]  # every i′ at which δ is met
    assert kinder.shape == X.shape
    assert not np.array_equal(kinder, input_gradient())


@erratum("[J]", "22")
def rotation_of_22():
    assert_array_equal(eq.j_22(Z, W, X, one), input_gradient())
    assert not np.array_equal(eq.j_22_as_printed(Z, W, X, one), input_gradient())
    padded = np.pad(Z, ((1, 1), (2, 2)))
    assert_array_equal(eq.j_1(padded, W[::-1, ::-1]), input_gradient())  # with ⊗ it is right


@erratum("[J]", "22, an answer of the author to a reader")
def padding_of_22():
    assert eq.j_22(Z, W, X, one).shape == X.shape
    answered = eq.j_22_as_answered(Z, W)
    assert answered.shape == (3, 3) != X.shape
    assert_array_equal(answered, input_gradient()[1:4, 2:5])


@erratum("[H]", "8.18 and 8.19")
def floor_of_8_18():
    for R, kernel_size, Pd, St, S in SIZES:
        exact = all((n + 2 * Pd - k) % St == 0 for n, k in zip(R, kernel_size, strict=True))
        assert eq.h_8_18_19(R, kernel_size, Pd, St) == S
        assert (eq.h_8_18_19_as_printed(R, kernel_size, Pd, St) == S) == exact
    assert eq.h_8_18_19_as_printed((5, 8), (2, 3), 0, 2) == (2.5, 3.5)


@erratum("[H]", "8.18, the text before it")
def halving_by_stride_2():
    sizes = [
        (eq.h_8_18_19((n, n), (2, 2), 0, 1)[0], eq.h_8_18_19((n, n), (2, 2), 0, 2)[0])
        for n in range(2, 12)
    ]
    assert (3, 2) in sizes
    assert all(strided == (S - 1) // 2 + 1 == math.ceil(S / 2) for S, strided in sizes)
    assert all((2 * strided == S) == (S % 2 == 0) for S, strided in sizes)


@erratum("[H]", "8.36 and 8.37")
def bias_is_a_sum():
    expected = gradient(lambda b: eq.h_8_33(X, b[()]), np.array(0.0), X)
    assert eq.h_8_36(X) == expected
    assert eq.h_8_37_as_printed(X) == pytest.approx(expected / X.size)
    assert expected != 0


@erratum("[H]", "8.39, 8.41 and 8.44")
def sum_over_the_maps_above():
    LW, dLZ = integers(3, 2, 2, 3), integers(3, 3, 4)  # Hᵐ = 3 above, Hⁿ = 2 below
    expected = gradient(lambda a: eq.h_8_38(LW, a), np.zeros((2, 4, 6)), dLZ)
    for name in ["h_8_39", "h_8_41", "h_8_44"]:
        assert_array_equal(getattr(eq, name)(LW, dLZ), expected)
        assert not np.array_equal(getattr(eq, f"{name}_as_printed")(LW, dLZ), expected)
        with pytest.raises(ValueError, match="leaves the 2 maps"):
            getattr(eq, f"{name}_as_printed")(KERNELS, D_MAPS)  # Hᵐ = 2, Hⁿ = 3


@erratum("[H]", "8.45, the sum")
def sum_of_8_45():
    LW, dLZ = integers(2, 2, 2, 3), integers(2, 3, 4)  # as many maps above as below
    expected = gradient(lambda a: eq.h_8_38(LW, a), np.zeros((2, 4, 6)), dLZ)
    padded = np.pad(dLZ, ((0, 0), (1, 1), (2, 2)))  # leaves only the fault in the sum
    printed = eq.h_8_45_as_printed(LW, padded)
    assert_array_equal(eq.h_8_45(LW, dLZ), expected)
    assert printed.shape == expected.shape
    assert not np.array_equal(printed, expected)


@erratum("[H]", "8.41, 8.44 and 8.45, the border")
def padding_of_8_45():
    one_map = W[None, None]  # leaves only the fault at the border
    assert_array_equal(eq.h_8_45(one_map, Z[None])[0], input_gradient())
    printed = eq.h_8_45_as_printed(one_map, Z[None])[0]
    assert printed.shape == (3, 3) != X.shape
    padded = np.pad(Z, ((1, 1), (2, 2)))
    assert_array_equal(eq.h_8_45_as_printed(one_map, padded[None])[0], input_gradient())


@erratum("[H]", "P8.2, the words")
def left_in_p8_2():
    assert_array_equal(eq.h_p8_2(X), shifted(X, down=-1, right=1))
    assert_array_equal(eq.h_p8_2_as_worded(X), shifted(X, down=-1, right=-1))
    assert not np.array_equal(eq.h_p8_2(X), eq.h_p8_2_as_worded(X))


@erratum("[H]", "P8.2 and E8.4, the matrix")
def matrix_of_p8_2():
    assert_array_equal(eq.h_p8_2_as_printed(X), shifted(X, down=0, right=1))
    corrected = eq.h_8_13([[0, 0], [1, 0]], np.pad(X, ((0, 1), (1, 0))))
    assert_array_equal(corrected, shifted(X, down=-1, right=1))
    assert not np.array_equal(corrected, eq.h_p8_2_as_printed(X))


@erratum("[H]", "P8.3")
def maps_of_p8_3():
    forward = each_map(lambda v, w: eq.h_8_22(v, 2, 3, w), WEIGHT)
    expected = gradient(forward, POOLED, D_POOLED)
    assert_array_equal(eq.h_p8_3(D_POOLED, WEIGHT, 2, 3), expected)
    printed = eq.h_p8_3_as_printed(D_POOLED, WEIGHT, 2, 3)
    assert printed.shape == expected.shape
    assert not np.array_equal(printed, expected)
    single = slice(0, 1)  # with one map there is no l ≠ h
    assert_array_equal(
        eq.h_p8_3_as_printed(D_POOLED[single], WEIGHT[single], 2, 3), expected[single]
    )


@erratum("[H]", "P8.4")
def sums_of_p8_4():
    forward = each_map(lambda w, v: eq.h_8_22(v, 2, 3, w), POOLED)
    expected = gradient(forward, WEIGHT, D_POOLED)
    assert np.all(expected != 0)
    assert_array_equal(eq.h_p8_4(D_POOLED, POOLED, 2, 3), expected)
    averages = eq.h_p8_4_as_printed(D_POOLED, POOLED, 2, 3)
    assert_allclose(averages, expected / (2 * 3 * 2 * 3), rtol=1e-13)


@erratum("[B]", "Backpropagation through Multi-Channel Convolution")
def filters_of_the_backward_pass():
    expected = gradient(lambda x: eq.b_multi_channel(x, KERNELS), MAPS, D_MAPS)  # C = 3, K = 2
    assert_array_equal(eq.b_multi_channel_backward(D_MAPS, KERNELS), expected)
    printed = eq.b_multi_channel_backward_as_printed(D_MAPS, KERNELS)
    assert len(printed) == 2 != len(expected)
    with pytest.raises(ValueError, match="W†_3 does not exist"):
        eq.b_multi_channel_backward_as_printed(integers(3, 2, 2), integers(3, 2, 3, 3))


@erratum("[B]", "the chain rule of upsampling, headed Downsampling")
def heading_of_upsampling():
    z = np.arange(1.0, 10.0).reshape(3, 3)  # ∂R/∂z₁ … ∂R/∂z₉
    listed = [[z.flat[0], z.flat[2]], [z.flat[6], z.flat[8]]]
    x = integers(2, 2)
    assert_array_equal(gradient(lambda v: eq.b_upsampling(v, 2), x, z), listed)
    assert eq.b_downsampling(x, 2).shape != z.shape  # what the heading names gives no z₉


@erratum("[B]", "Backpropagation through Downsampling")
def size_of_downsampling():
    for size, fits in [((3, 5), True), ((4, 5), False), ((3, 6), False), ((4, 6), False)]:
        x, g = integers(*size), integers(2, 3)
        expected = gradient(lambda v: eq.b_downsampling(v, 2), x, g)
        assert_array_equal(eq.b_downsampling_backward(g, 2, size), expected)
        assert np.array_equal(eq.b_downsampling_backward_as_printed(g, 2), expected) == fits


@erratum("[S]", "W flipped")
def flipped_kernel_of_the_slides():
    for stride, delta in [(1, NINE_DELTAS), (2, DELTAS)]:
        x = integers(4, 4)
        expected = gradient(lambda v, s=stride: eq.s_stride(v, WEIGHTS, s), x, delta)
        drawn = eq.s_stride_backward_as_drawn(delta, WEIGHTS, stride)
        assert_array_equal(eq.s_stride_backward(delta, WEIGHTS, stride), expected)
        assert_array_equal(drawn[0], expected[0])  # a … d: the slides' check cannot tell
        assert np.all(drawn[1::stride] != expected[1::stride])


@pytest.mark.parametrize("where", ERRATUM_TESTS, ids=" ".join)
def test_erratum(where):
    ERRATUM_TESTS[where]()


def test_every_erratum_is_tested_and_fits_a_table():
    assert [(e.source, e.where) for e in eq.ERRATA] == list(ERRATUM_TESTS)
    for e in eq.ERRATA:
        assert e.printed != e.corrected
        assert not set("|\n") & set("".join(vars(e).values()))
        assert e.why.endswith(".")


# What every function keeps to.

FUNCTIONS = {name: f for name, f in vars(eq).items() if inspect.isfunction(f)}


def test_everything_public_is_exported_and_documented():
    assert set(eq.__all__) == {*FUNCTIONS, "ERRATA", "Erratum"}
    for name, f in FUNCTIONS.items():
        assert inspect.getdoc(f).splitlines()[0].endswith("."), name
        if "_as_" not in name and name != "j_19_first_term":
            assert "Implemented by" in f.__doc__, name
            assert any(f"[{key}]" in f.__doc__ for key in ["GBC", "J", "B", "H", "S", "ST", "K"]), (
                name
            )


M = np.ones((3, 4))
MISFITS = {
    "gbc_9_8, channels": lambda: eq.gbc_9_8(np.ones((1, 2, 2, 2)), M[None], 1),
    "gbc_9_8, stride": lambda: eq.gbc_9_8(np.ones((1, 1, 2, 2)), M[None], 0),
    "gbc_9_11, size of G": lambda: eq.gbc_9_11(M[None], M[None], 1, (2, 2)),
    "gbc_9_13, input size": lambda: eq.gbc_9_13(np.ones((1, 1, 2, 2)), M[None], 2, (9, 9)),
    "j_1, rank": lambda: eq.j_1(M[0], M),
    "j_1, kernel too large": lambda: eq.j_1(M, np.ones((4, 1))),
    "j_4, biases": lambda: eq.j_4(M[..., None], np.ones((2, 2, 1, 3)), [0]),
    "j_9, lengths": lambda: eq.j_9([1, 2], [1]),
    "j_20, deltas": lambda: eq.j_20(M, M, M, one),
    "j_max_pooling, blocks": lambda: eq.j_max_pooling(M, 2),
    "b_max_pooling_backward, gradient": lambda: eq.b_max_pooling_backward(M, M, (2, 2)),
    "b_multi_channel, channels": lambda: eq.b_multi_channel(M[None], np.ones((1, 2, 1, 1))),
    "b_downsampling_backward, gradient": lambda: eq.b_downsampling_backward(M, 2, (3, 4)),
    "h_8_13, kernel too large": lambda: eq.h_8_13(np.ones((1, 5)), M),
    "h_8_22, windows": lambda: eq.h_8_22(M, 2, 2, 1),
    "h_8_44, maps": lambda: eq.h_8_44(np.ones((2, 1, 1, 1)), M[None]),
    "h_p8_3, weights": lambda: eq.h_p8_3(M[None], [1, 2], 2, 2),
    "h_e8_8, sensitivities": lambda: eq.h_e8_8(M[None], M[None], 1, 2),
    "h_e8_9, shapes": lambda: eq.h_e8_9(M, 1, M.T),
    "s_stride, border": lambda: eq.s_stride(M, np.ones((2, 2)), 2),
    "s_flipped_as_drawn, 2×2": lambda: eq.s_flipped_as_drawn(M),
    "st_1, matrix": lambda: eq.st_1(M, np.ones((1, 2))),
    "st_3, points": lambda: eq.st_3(M, M, one),
}


@pytest.mark.parametrize("name", MISFITS)
def test_shapes_that_cannot_be_are_errors(name):
    with pytest.raises(ValueError, match=r"\d"):  # it names what came
        MISFITS[name]()
