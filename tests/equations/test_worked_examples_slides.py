"""[S] *Back propagation through a Convolutional Layer*: every input of the slides' example.

A 4×4 input a … p, a 2×2 kernel w1 … w4, stride 1 and stride 2. The slides end their lists of
terms at input d; here they go on to p. With the numbers chosen the terms can be read off:
wk is k and δi is 10^(i−1), so that input f receives 12034, from the right w4 δ1, w3 δ2,
nothing from δ3, w2 δ4 and w1 δ5.
"""

import re
import string

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from worked import kernel, matrix, one_map, pull_back, worked

from cnnvjp import conv, conv_kernel_grad, conv_transpose, pad, upsample

X = np.arange(1, 17).reshape(4, 4)  # a = 1, b = 2, … p = 16
LETTERS = dict(zip(string.ascii_lowercase, X.ravel(), strict=False))
W = np.array([[1, 2], [3, 4]])
DELTA = {
    1: np.array([[1, 10, 100], [10**3, 10**4, 10**5], [10**6, 10**7, 10**8]]),
    2: np.array([[1, 10], [100, 1000]]),
}

OUTPUTS = {
    1: """
        y1 = a w1 + b w2 + e w3 + f w4
        y2 = b w1 + c w2 + f w3 + g w4
        y3 = c w1 + d w2 + g w3 + h w4
        y4 = e w1 + f w2 + i w3 + j w4
        y5 = f w1 + g w2 + j w3 + k w4
        y6 = g w1 + h w2 + k w3 + l w4
        y7 = i w1 + j w2 + m w3 + n w4
        y8 = j w1 + k w2 + n w3 + o w4
        y9 = k w1 + l w2 + o w3 + p w4
    """,
    2: """
        y1 = a w1 + b w2 + e w3 + f w4
        y2 = c w1 + d w2 + g w3 + h w4
        y3 = i w1 + j w2 + m w3 + n w4
        y4 = k w1 + l w2 + o w3 + p w4
    """,
}
Y = {
    1: [[44, 54, 64], [84, 94, 104], [124, 134, 144]],
    2: [[44, 64], [124, 144]],
}

INPUT_GRADIENTS = {
    1: """
        a ← w1 δ1
        b ← w2 δ1 + w1 δ2
        c ← w2 δ2 + w1 δ3
        d ← w2 δ3
        e ← w3 δ1 + w1 δ4
        f ← w4 δ1 + w3 δ2 + w2 δ4 + w1 δ5
        g ← w4 δ2 + w3 δ3 + w2 δ5 + w1 δ6
        h ← w4 δ3 + w2 δ6
        i ← w3 δ4 + w1 δ7
        j ← w4 δ4 + w3 δ5 + w2 δ7 + w1 δ8
        k ← w4 δ5 + w3 δ6 + w2 δ8 + w1 δ9
        l ← w4 δ6 + w2 δ9
        m ← w3 δ7
        n ← w4 δ7 + w3 δ8
        o ← w4 δ8 + w3 δ9
        p ← w4 δ9
    """,
    2: """
        a ← w1 δ1
        b ← w2 δ1
        c ← w1 δ2
        d ← w2 δ2
        e ← w3 δ1
        f ← w4 δ1
        g ← w3 δ2
        h ← w4 δ2
        i ← w1 δ3
        j ← w2 δ3
        k ← w1 δ4
        l ← w2 δ4
        m ← w3 δ3
        n ← w4 δ3
        o ← w3 δ4
        p ← w4 δ4
    """,
}
DX = {
    1: [
        [1, 12, 120, 200],
        [1003, 12034, 120340, 200400],
        [1003000, 12034000, 120340000, 200400000],
        [3000000, 34000000, 340000000, 400000000],
    ],
    2: [[1, 2, 10, 20], [3, 4, 30, 40], [100, 200, 1000, 2000], [300, 400, 3000, 4000]],
}

KERNEL_GRADIENTS = {
    1: """
        w1 ← a δ1 + b δ2 + c δ3 + e δ4 + f δ5 + g δ6 + i δ7 + j δ8 + k δ9
        w2 ← b δ1 + c δ2 + d δ3 + f δ4 + g δ5 + h δ6 + j δ7 + k δ8 + l δ9
        w3 ← e δ1 + f δ2 + g δ3 + i δ4 + j δ5 + k δ6 + m δ7 + n δ8 + o δ9
        w4 ← f δ1 + g δ2 + h δ3 + j δ4 + k δ5 + l δ6 + n δ7 + o δ8 + p δ9
    """,
    2: """
        w1 ← a δ1 + c δ2 + i δ3 + k δ4
        w2 ← b δ1 + d δ2 + j δ3 + l δ4
        w3 ← e δ1 + g δ2 + m δ3 + o δ4
        w4 ← f δ1 + h δ2 + n δ3 + p δ4
    """,
}
DW = {
    1: [[1209765321, 1320876432], [1654209765, 1765320876]],
    2: [[11931, 13042], [16375, 17486]],
}

SPREAD = {  # δ with stride − 1 zeros between its entries, and k − 1 = 1 around them
    1: [
        [0, 0, 0, 0, 0],
        [0, 1, 10, 100, 0],
        [0, 10**3, 10**4, 10**5, 0],
        [0, 10**6, 10**7, 10**8, 0],
        [0, 0, 0, 0, 0],
    ],
    2: [[0, 0, 0, 0, 0], [0, 1, 0, 10, 0], [0, 0, 0, 0, 0], [0, 100, 0, 1000, 0], [0, 0, 0, 0, 0]],
}
FLIPPED = [[4, 3], [2, 1]]  # [[w4, w3], [w2, w1]]
AS_DRAWN = [[3, 4], [2, 1]]  # [[w3, w4], [w2, w1]], on the slides


@pytest.mark.parametrize("stride", [1, 2])
def test_each_output_is_a_window_times_the_kernel(stride):
    y = matrix(conv(one_map(X), kernel(W), stride=stride))
    assert_array_equal(y, Y[stride])
    assert_array_equal(y.ravel(), worked(OUTPUTS[stride], w=W, **LETTERS))


@pytest.mark.parametrize("stride", [1, 2])
def test_which_deltas_depend_on_each_input(stride):
    """Each δ by itself, the others 0, reaches an input through one weight or not at all."""
    each = np.eye(DELTA[stride].size).reshape(-1, *DELTA[stride].shape, 1)
    reached = conv_transpose(each, kernel(W), stride=stride).reshape(-1, 16)
    lines = INPUT_GRADIENTS[stride].strip().splitlines()
    for received, line in zip(np.transpose(reached), lines, strict=True):
        by_hand = np.zeros(DELTA[stride].size)
        for weight, delta in re.findall(r"w(\d) δ(\d)", line):
            by_hand[int(delta) - 1] = W.flat[int(weight) - 1]
        assert_array_equal(received, by_hand, line)


@pytest.mark.versions
@pytest.mark.parametrize("stride", [1, 2])
def test_delta_reaches_every_input_through_its_weights(stride):
    delta = one_map(DELTA[stride])
    dx, dw = pull_back(lambda x, w: conv(x, w, stride=stride), one_map(X), kernel(W), dy=delta)
    assert_array_equal(matrix(dx), DX[stride])
    assert_array_equal(matrix(dx).ravel(), worked(INPUT_GRADIENTS[stride], w=W, δ=DELTA[stride]))
    assert_array_equal(matrix(conv_transpose(delta, kernel(W), stride=stride)), DX[stride])

    assert_array_equal(matrix(dw), DW[stride])
    assert_array_equal(
        matrix(dw).ravel(), worked(KERNEL_GRADIENTS[stride], δ=DELTA[stride], **LETTERS)
    )
    again = conv_kernel_grad(one_map(X), delta, (2, 2), stride=stride)
    assert_array_equal(matrix(again), DW[stride])


@pytest.mark.parametrize("stride", [1, 2])
def test_one_matrix_operation_does_it_for_all_inputs(stride):
    """The flipped kernel slides, one step at a time, over δ spread among zeros."""
    spread = pad(upsample(one_map(DELTA[stride]), stride), 1)
    assert_array_equal(matrix(spread), SPREAD[stride])
    assert_array_equal(matrix(conv(spread, kernel(FLIPPED))), DX[stride])
    assert_array_equal(matrix(conv(spread, kernel(W), flip_kernel=True)), DX[stride])


@pytest.mark.parametrize("stride", [1, 2])
def test_will_this_idea_work_for_input_b_and_for_the_rows_below(stride):
    """With the kernel that the slides draw it does for a, b, c and d, and not for e."""
    drawn = matrix(conv(one_map(SPREAD[stride]), kernel(AS_DRAWN)))
    assert_array_equal(drawn[0], DX[stride][0])
    assert drawn[1, 0] == {1: 1004, 2: 4}[stride]  # w4 δ1 where w3 δ1 belongs
    assert DX[stride][1][0] == {1: 1003, 2: 3}[stride]
