"""[GBC] 9.8–9.13: three operations train any convolutional network, at any stride."""

import jax.numpy as jnp
import numpy as np
import pytest
from checker import integers
from numpy.testing import assert_array_equal
from worked import filters, kernels, maps, planes, pull_back, shape_of

from cnnvjp import (
    conv,
    conv_kernel_grad,
    conv_transpose,
    equations,
    local_conv,
    local_conv_kernel_grad,
    local_conv_transpose,
    tiled_conv,
    tiled_conv_kernel_grad,
    tiled_conv_transpose,
)

STRIDES = [1, 2, 3]


@pytest.fixture(params=STRIDES)
def example(request, rng):
    """3 maps to 2, kernel 2×3, image 7×8: at stride 2 and 3 some of its pixels are left over."""
    s = request.param
    K = integers(rng, 2, 3, 2, 3, dtype="float64")
    V = integers(rng, 3, 7, 8, dtype="float64")
    G = integers(rng, 2, 5 // s + 1, 5 // s + 1, dtype="float64")
    return s, K, V, G


@pytest.mark.versions
def test_convolution_and_both_its_gradients(example):
    """c is 9.8, g is 9.11 and h is 9.13; the rule of c consists of g and h."""
    s, K, V, G = example
    forward = lambda x, w: conv(x, w, stride=s)
    assert_array_equal(planes(forward(maps(V), kernels(K))), equations.gbc_9_8(K, V, s))

    dV, dK = pull_back(forward, maps(V), kernels(K), dy=maps(G))
    assert_array_equal(planes(dV), equations.gbc_9_13(K, G, s, (7, 8)))
    assert_array_equal(filters(dK), equations.gbc_9_11(G, V, s, (2, 3)))

    h = conv_transpose(maps(G), kernels(K), stride=s, output_size=(7, 8))
    g = conv_kernel_grad(maps(V), maps(G), (2, 3), stride=s)
    assert_array_equal(h, dV)
    assert_array_equal(g, dK)


def test_three_operations_are_one_number(example):
    """⟨c(K, V), G⟩ = ⟨V, h(K, G)⟩ = ⟨K, g(G, V)⟩."""
    s, K, V, G = example
    c = conv(maps(V), kernels(K), stride=s)
    h = conv_transpose(maps(G), kernels(K), stride=s, output_size=(7, 8))
    g = conv_kernel_grad(maps(V), maps(G), (2, 3), stride=s)
    number = np.vdot(c, maps(G))
    assert number == np.vdot(maps(V), h) == np.vdot(kernels(K), g)
    assert number != 0


def test_no_fourth_operation_is_needed_for_the_transpose(example):
    """A reconstruction x = h(K, y) is trained by c and g: the three are closed under gradients."""
    s, K, V, G = example
    reconstruct = lambda y, w: conv_transpose(y, w, stride=s, output_size=(7, 8))
    dG, dK = pull_back(reconstruct, maps(G), kernels(K), dy=maps(V))
    assert_array_equal(planes(dG), equations.gbc_9_8(K, V, s))
    assert_array_equal(filters(dK), equations.gbc_9_11(G, V, s, (2, 3)))

    correlate = lambda x, dy: conv_kernel_grad(x, dy, (2, 3), stride=s)
    dV, dG = pull_back(correlate, maps(V), maps(G), dy=kernels(K))
    assert_array_equal(planes(dV), equations.gbc_9_13(K, G, s, (7, 8)))
    assert_array_equal(planes(dG), equations.gbc_9_8(K, V, s))


def test_the_sum_of_9_13_by_hand():
    """Stride 2: output 1 lays the kernel on inputs 1–3, output 2 on inputs 3–5; 3 has both."""
    y, w = jnp.array([[1.0], [2.0]]), jnp.array([1.0, 10.0, 100.0]).reshape(3, 1, 1)
    x = conv_transpose(y, w, stride=2)
    assert x[:, 0].tolist() == [1 * 1, 10 * 1, 100 * 1 + 1 * 2, 10 * 2, 100 * 2]


@pytest.mark.parametrize(
    ("stride", "input_sizes"),
    [(1, [10]), (2, [17, 18]), (3, [24, 25, 26]), (4, [31, 32, 33, 34])],
)
def test_several_input_sizes_lead_to_the_same_output(stride, input_sizes):
    """Kernel 3, output 8: "the transpose operation must be explicitly told" which one it was."""
    assert equations.gbc_input_sizes(8, 3, stride) == input_sizes
    w = jnp.array([1.0, 10.0, 100.0]).reshape(3, 1, 1)
    y = jnp.arange(1.0, 9.0)[:, None]
    smallest = conv_transpose(y, w, stride=stride)
    assert smallest.shape == (input_sizes[0], 1)
    for n in input_sizes:
        assert shape_of(lambda x: conv(x, w, stride=stride), (n, 1)) == (8, 1)
        told = conv_transpose(y, w, stride=stride, output_size=n)
        out_of_reach = np.zeros((n - input_sizes[0], 1))  # no window touched these inputs
        assert_array_equal(told, np.concatenate([smallest, out_of_reach]))
    for n in (input_sizes[0] - 1, input_sizes[-1] + 1):
        with pytest.raises(ValueError, match=f"output_size: got .{n}.*{input_sizes[0]}"):
            conv_transpose(y, w, stride=stride, output_size=n)


def test_the_size_depends_on_the_padding_policy_too():
    """Of 8 outputs, by a kernel of 3 at stride 2; the smallest, and n·s for the SAME paddings."""
    sizes = {"VALID": 17, "FULL": 13, "SAME": 16, "SAME_LOWER": 16, 1: 15}
    for padding, size in sizes.items():
        transpose = lambda y, w, p=padding: conv_transpose(y, w, stride=2, padding=p)
        assert shape_of(transpose, (8, 1), (3, 1, 1)) == (size, 1)


# ------------------------------------------------------------------------------------------
# Without sharing, and with some
# ------------------------------------------------------------------------------------------


def partial_derivatives(f, a):
    """Those of a number that is linear in the array `a`."""
    return np.array([f(unit.reshape(a.shape)) for unit in np.eye(a.size)]).reshape(a.shape)


@pytest.mark.versions
def test_unshared_convolution(rng):
    """9.9, and what its two adjoints must be, as it is linear in the weights and in the image."""
    W = integers(rng, 2, 2, 3, 2, 2, 3, dtype="float64")  # out, rows, columns, in, kernel
    V = integers(rng, 2, 3, 5, dtype="float64")
    G = integers(rng, 2, 2, 3, dtype="float64")
    x, w, dy = maps(V), W.transpose(1, 2, 4, 5, 3, 0), maps(G)
    assert_array_equal(planes(local_conv(x, w)), equations.gbc_9_9(W, V))

    dV = partial_derivatives(lambda V: np.vdot(equations.gbc_9_9(W, V), G), V)
    dW = partial_derivatives(lambda W: np.vdot(equations.gbc_9_9(W, V), G), W)
    dx, dw = pull_back(local_conv, x, w, dy=dy)
    assert_array_equal(planes(dx), dV)
    assert_array_equal(dw, dW.transpose(1, 2, 4, 5, 3, 0))
    assert_array_equal(local_conv_transpose(dy, w), dx)
    assert_array_equal(local_conv_kernel_grad(x, dy, (2, 3)), dw)


def in_turn(K):
    """The kernels of 9.10, which begins with the second: "t % t = 0, (t + 1) % t = 1"."""
    return np.roll(np.transpose(K, (4, 5, 2, 3, 1, 0)), (-1, -1), (0, 1))


@pytest.mark.versions
@pytest.mark.parametrize("t", [(1, 1), (2, 1), (2, 3)], ids=str)
def test_tiled_convolution(rng, t):
    """9.10, and its two adjoints."""
    K = integers(rng, 2, 2, 2, 2, *t, dtype="float64")
    V = integers(rng, 2, 5, 6, dtype="float64")
    G = integers(rng, 2, 4, 5, dtype="float64")
    x, w, dy = maps(V), in_turn(K), maps(G)
    assert_array_equal(planes(tiled_conv(x, w)), equations.gbc_9_10(K, V))

    dV = partial_derivatives(lambda V: np.vdot(equations.gbc_9_10(K, V), G), V)
    dK = partial_derivatives(lambda K: np.vdot(equations.gbc_9_10(K, V), G), K)
    dx, dw = pull_back(tiled_conv, x, w, dy=dy)
    assert_array_equal(planes(dx), dV)
    assert_array_equal(dw, in_turn(dK))
    assert_array_equal(tiled_conv_transpose(dy, w), dx)
    assert_array_equal(tiled_conv_kernel_grad(x, dy, t, (2, 2)), dw)


def test_as_many_tiles_as_outputs_are_no_sharing(rng):
    """ "If t is equal to the output width, this is the same as a locally connected layer": with the
    kernels numbered as 9.10 does, the last output has the first."""
    K, V = integers(rng, 3, 2, 2, 2, 4, 5, dtype="float64"), integers(rng, 2, 5, 6, dtype="float64")
    W = np.roll(np.transpose(K, (0, 4, 5, 1, 2, 3)), (-1, -1), (1, 2))
    assert_array_equal(equations.gbc_9_10(K, V), equations.gbc_9_9(W, V))
    one = K[..., :1, :1]
    assert_array_equal(equations.gbc_9_10(one, V), equations.gbc_9_8(one[..., 0, 0], V, 1))
