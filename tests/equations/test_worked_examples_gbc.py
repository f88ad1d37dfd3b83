"""[GBC] 9.8–9.13: three operations train any convolutional network, at any stride."""

import jax.numpy as jnp
import numpy as np
import pytest
from checker import integers
from numpy.testing import assert_array_equal
from worked import filters, kernels, maps, planes, pull_back, shape_of

from cnnvjp import conv, conv_kernel_grad, conv_transpose, equations

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
