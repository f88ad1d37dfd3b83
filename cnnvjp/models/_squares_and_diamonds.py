"""[H] E8.10: a network that tells squares from diamonds, designed and not trained."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from cnnvjp.activations import relu
from cnnvjp.affine import flatten
from cnnvjp.max_pooling import max_pool
from cnnvjp.model import Model, Named
from cnnvjp.models._layers import (
    ByLayer,
    by_layer,
    check_dtype,
    check_input_shape,
    convolution,
    fully_connected,
)

_SIZE = 15
_WINDOW = 3  # [H] fig. 8.8: from 15×15 to 5×5

# [H] fig. 8.5: templates of a horizontal, a vertical and two slanted lines.
_KERNELS = np.array(
    [
        [[0, 0, 0], [1, 1, 1], [0, 0, 0]],
        [[0, 1, 0], [0, 1, 0], [0, 1, 0]],
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[0, 0, 1], [0, 1, 0], [1, 0, 0]],
    ]
)

# How much each of the four maps speaks for a square and for a diamond.
_VOTES = np.array([[2, -2], [2, -2], [-2, 2], [-2, 2]])


def squares_and_diamonds(*, dtype: DTypeLike = jnp.float32) -> Model:
    """[H] E8.10: tells squares from diamonds with weights that are designed, not trained.

    Images are 15×15, ones on a background of zeros: outlines, one pixel wide, of squares with
    sides of 5 to 15 and of diamonds of odd widths from 5 to 15, anywhere in the image. The
    model is right on all of them. Class 0 is the square, class 1 the diamond; it returns the
    net input n3 as logits, and `softmax` of them are the probabilities.

    The design:

    1. Convolution with the four 3×3 templates of fig. 8.5, padding 1 so that a line on the
       border is seen too. An inner product with a template counts how many of its three
       pixels are lit. The bias −2 and relu leave 1 where all three are, and 0 elsewhere. A
       square lights straight templates whole, at its sides, and no more than two pixels of a
       slanted one, at its corners. A diamond lights slanted templates whole and no more than
       two pixels of a straight one. So two of the four maps are not zero for a square, and the
       other two for a diamond.
    2. Max pooling, 3×3, leaves 5×5 answers to: is there such a line around here?
    3. The fully connected layer counts them: a straight line adds 2 to the square's net input
       and takes 2 from the diamond's, wherever it is, and a slanted line the other way round.
       Its biases are zero, as neither class is favoured.

    Either outline has two pairs of parallel sides, all at least three pixels long. The sides of
    a pair can share a window (they do in a diamond of width 5), so that two answers may be all
    there are. They put the right class ahead by 2 · (2 + 2) = 8: a probability above 0.999.

    Args:
        dtype: of the weights, and so of the images.

    Returns:
        A `Model` of images (*batch, 15, 15, 1) and logits (*batch, 2), without state. Its
        `init` returns the designed weights whatever the key.

    Raises:
        TypeError: for a dtype that is not supported.
        ValueError: (from init) for an input_shape other than (15, 15, 1).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = squares_and_diamonds()
        >>> params, state = model.init(None, (15, 15, 1))
        >>> square = jnp.zeros((15, 15, 1)).at[3:10, 3:10].set(1.0).at[4:9, 4:9].set(0.0)
        >>> logits, _ = model.apply(params, state, square, train=False)
        >>> logits
        Array([ 16., -16.], dtype=float32)

    Source: [H] figs. 8.4–8.8, E8.10.
    """
    dtype = check_dtype(dtype)

    def forward(
        params: ByLayer, state: ByLayer, x: jax.Array, named: Named, *, train: bool, key: object
    ) -> tuple[jax.Array, ByLayer]:
        params = by_layer("params", params)
        a1 = named("a1", relu(convolution(named, 1, x, params["conv1"], padding=1)))
        a2 = named("a2", max_pool(a1, _WINDOW))
        n3 = fully_connected(named, 3, flatten(a2), params["dense3"])
        return n3, state

    def init(key: object, input_shape: Sequence[int]) -> tuple[ByLayer, ByLayer]:
        if check_input_shape(input_shape) != (_SIZE, _SIZE, 1):
            raise ValueError(
                f"input_shape: got {tuple(input_shape)}; it must be {(_SIZE, _SIZE, 1)}"
            )
        answers = (_SIZE // _WINDOW) ** 2
        return {
            "conv1": {
                "w": jnp.asarray(np.moveaxis(_KERNELS, 0, -1)[:, :, None, :], dtype),
                "b": jnp.full(len(_KERNELS), -2, dtype),
            },
            "dense3": {  # a vector of 25 places, each with its four maps
                "w": jnp.asarray(np.tile(_VOTES, (answers, 1)), dtype),
                "b": jnp.zeros(2, dtype),
            },
        }, {}

    return Model.named(init, forward)
