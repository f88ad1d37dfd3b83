"""Convolutional networks in JAX with every backward pass written out."""

from cnnvjp.affine import add_bias, dense, flatten, scale, unflatten
from cnnvjp.convolution import conv, conv_kernel_grad, conv_transpose
