"""[H] *Neural Network Design: Deep Learning*, chapter 8: solved problems and exercises.

P8.1–P8.4 and E8.1–E8.9, in the order of the book. The text that reached us has no pictures:
where an exercise shows an image, a kernel or a font, the one used here is its own. E8.10, the
network that tells squares from diamonds, is `cnnvjp.models.squares_and_diamonds`.
"""

import jax.numpy as jnp
import numpy as np
from checker import value_and_cotangents
from numpy.testing import assert_array_equal
from worked import kernel, maps, matrix, one_map, planes, pull_back, shape_of

from cnnvjp import conv, equations, max_pool, relu, repeat, scale, sum_pool, weighted_avg_pool


def drawn(*rows):
    """An image drawn in text: a # is a black square, which is 1."""
    return np.array([[square == "#" for square in row] for row in rows]).astype(float)


def correlate(image, w, padding=0):
    return matrix(conv(one_map(image), kernel(w), padding=padding))


def convolve(image, w, padding=0):
    return matrix(conv(one_map(image), kernel(w), padding=padding, flip_kernel=True))


# ------------------------------------------------------------------------------------------
# Solved problems
# ------------------------------------------------------------------------------------------


def test_p8_1_the_kernel_of_a_convolution_is_flipped():
    """Its figures: 7 8 9 over 4 5 6 over 1 2 3 becomes 3 2 1 over 6 5 4 over 9 8 7."""
    W = [[7, 8, 9], [4, 5, 6], [1, 2, 3]]
    flipped = [[3, 2, 1], [6, 5, 4], [9, 8, 7]]
    P = 10 ** np.arange(9).reshape(3, 3)  # the inner product's digits, from the right
    assert convolve(P, W) == 789_456_123
    assert correlate(P, flipped) == 789_456_123
    assert correlate(P, W) == 321_654_987
    assert_array_equal(equations.h_p8_1(W), flipped)


IMAGE_OF_E8_4 = drawn(".....", ".....", "..#..", ".##..", ".....")
SHIFTED = drawn(".....", "...#.", "..##.", ".....", ".....")
RIGHT_AND_UP = {"padding": ((0, 1), (1, 0))}  # zeros come in from below and from the left


def test_p8_2_and_e8_4_shifting_right_and_up():
    """The impulse moves right and up, so the kernel's 1 is right of and above its origin.

    Drawn in P8.1's axes, with the origin at the lower left, that is W = [[0, 1], [0, 0]]. As
    the rows of an array go down, the origin has to be put at its lower left by the padding
    `RIGHT_AND_UP`, which also keeps the size. The correlation kernel is W flipped: each pixel
    takes the value of the one below and to the left of it.
    """
    W = [[0, 1], [0, 0]]
    assert_array_equal(convolve(IMAGE_OF_E8_4, W, **RIGHT_AND_UP), SHIFTED)
    assert_array_equal(correlate(IMAGE_OF_E8_4, [[0, 0], [1, 0]], **RIGHT_AND_UP), SHIFTED)
    assert_array_equal(equations.h_p8_2(IMAGE_OF_E8_4), SHIFTED)

    impulse = drawn("...", ".#.", "...")
    assert_array_equal(convolve(impulse, W, **RIGHT_AND_UP), drawn("..#", "...", "..."))


def test_p8_2_the_matrix_taken_literally_shifts_right_only():
    """8.8 with rows that go down: pixels of index −1 are zeros before the image, on two sides."""
    literally = convolve(IMAGE_OF_E8_4, [[0, 1], [0, 0]], padding=((1, 0), (1, 0)))
    assert_array_equal(literally, drawn(".....", ".....", "...#.", "..##.", "....."))


def test_p8_3_average_pooling_to_the_maps_below():
    """dA = lw ⊠ dLZ: every sensitivity is repeated r × c times. One weight for each map."""
    lw = jnp.array([3.0, 5.0])
    dLZ = maps([[[1, 10]], [[100, 1000]]])
    dA = pull_back(lambda a: weighted_avg_pool(a, lw, (2, 3)), jnp.zeros((2, 6, 2)), dy=dLZ)
    by_hand = [
        [[3, 3, 3, 30, 30, 30], [3, 3, 3, 30, 30, 30]],
        [[500, 500, 500, 5000, 5000, 5000], [500, 500, 500, 5000, 5000, 5000]],
    ]
    assert_array_equal(planes(dA), by_hand)
    assert_array_equal(planes(scale(repeat(dLZ, (2, 3)), lw)), by_hand)


def test_p8_4_average_pooling_to_its_weight():
    """dlw = Σ dLZ ∘ (⊞ A): the blocks' sums 14, 22, 46 and 54, and then a plain sum."""
    A, dLZ = one_map(np.arange(1, 17).reshape(4, 4)), one_map([[1, 10], [100, 1000]])
    dlw = pull_back(lambda lw: weighted_avg_pool(A, lw, 2), jnp.array([3.0]), dy=dLZ)
    assert dlw == 14 + 220 + 4600 + 54000
    assert_array_equal(matrix(sum_pool(dLZ * sum_pool(A, 2), 2)), [dlw])  # ⊞ (dLZ ∘ ⊞ A)


# ------------------------------------------------------------------------------------------
# Exercises
# ------------------------------------------------------------------------------------------

IMAGE_OF_E8_1 = drawn(
    "........",
    ".#....#.",
    "..#...#.",
    "...#..#.",
    "........",
    "...#....",
    "..#..###",
    ".#......",
)
FALLING = drawn("#..", ".#.", "..#")
E8_1 = [
    [1, 0, 0, 0, 0, 1, 0, 0],
    [0, 2, 0, 0, 0, 1, 1, 0],
    [0, 0, 3, 0, 0, 1, 1, 1],
    [0, 0, 0, 2, 0, 0, 1, 1],
    [0, 0, 1, 0, 1, 0, 0, 1],
    [0, 1, 0, 1, 1, 1, 1, 0],
    [1, 0, 1, 0, 1, 1, 1, 1],
    [0, 1, 0, 1, 0, 0, 1, 1],
]


def test_e8_1_a_kernel_detects_what_looks_like_it():
    """Lines that fall to the right, by the 3 in their middle.

    The rising, the horizontal and the upright line have one pixel under the kernel at a time
    and give no more than 1; the ends of the falling line give 2.
    """
    z = correlate(IMAGE_OF_E8_1, FALLING, padding=1)
    assert_array_equal(z, E8_1)
    assert np.argwhere(z == 3).tolist() == [[2, 2]]


def test_e8_2_max_pooling_of_that():
    pooled = matrix(max_pool(one_map(E8_1), 2))
    assert_array_equal(pooled, [[2, 0, 1, 1], [0, 3, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]])


FONT = """
    .###. ####. .###. ####. ##### ##### .###. #...# .###. ..### #...# #.... #...#
    #...# #...# #...# #...# #.... #.... #...# #...# ..#.. ...#. #..#. #.... ##.##
    #...# #...# #.... #...# #.... #.... #.... #...# ..#.. ...#. #.#.. #.... #.#.#
    ##### ####. #.... #...# ####. ####. #.### ##### ..#.. ...#. ##... #.... #.#.#
    #...# #...# #.... #...# #.... #.... #...# #...# ..#.. ...#. #.#.. #.... #...#
    #...# #...# #...# #...# #.... #.... #...# #...# ..#.. #..#. #..#. #.... #...#
    #...# ####. .###. ####. ##### #.... .###. #...# .###. .##.. #...# ##### #...#

    #...# .###. ####. .###. ####. .#### ##### #...# #...# #...# #...# #...# #####
    #...# #...# #...# #...# #...# #.... ..#.. #...# #...# #...# #...# #...# ....#
    ##..# #...# #...# #...# #...# #.... ..#.. #...# #...# #...# .#.#. .#.#. ...#.
    #.#.# #...# ####. #...# ####. .###. ..#.. #...# #...# #.#.# ..#.. ..#.. ..#..
    #..## #...# #.... #.#.# #.#.. ....# ..#.. #...# #...# #.#.# .#.#. ..#.. .#...
    #...# #...# #.... #..#. #..#. ....# ..#.. #...# .#.#. ##.## #...# ..#.. #....
    #...# .###. #.... .##.# #...# ####. ..#.. .###. ..#.. #...# #...# ..#.. #####
"""
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
STROKES = {
    "horizontal": drawn("...", "###", "..."),
    "upright": drawn(".#.", ".#.", ".#."),
    "falling": drawn("#..", ".#.", "..#"),
    "shoulder": drawn(".##", "#..", "#.."),
}


def font():
    """The letters as images, (26, 7, 5, 1)."""
    letters = []
    for half in FONT.split("\n\n"):
        rows = [line.split() for line in half.splitlines() if line.strip()]
        letters += [drawn(*letter) for letter in zip(*rows, strict=True)]
    return np.stack(letters)[..., None]


def strokes_of(images):
    """How often each stroke is found in an image: convolution, relu and sum pooling.

    A stroke of n pixels gives n where it is found; the bias 1 − n leaves 1 of it, and relu
    nothing elsewhere.
    """
    w = np.stack(list(STROKES.values()), axis=-1)[:, :, None]
    found = relu(conv(images, w, jnp.asarray(1 - w.sum((0, 1, 2))), padding=1))
    counts = sum_pool(found, found.shape[1:3]).reshape(len(images), len(STROKES))
    return dict(zip(LETTERS, np.asarray(counts, int).tolist(), strict=True))


def test_e8_3_four_strokes_identify_all_letters():
    """Figure 8.5's horizontal, upright and falling line, and the shoulder of an O.

    The lines count the strokes that a letter is made of. They leave pairs that differ only in
    how the strokes meet: A has one more shoulder than D, T than L, and M than W.
    """
    counts = strokes_of(font())
    assert counts["O"] == [2, 6, 0, 1]  # above and below; three places on each side; one bend
    assert counts["X"] == [0, 0, 3, 0]
    assert counts["Z"] == [6, 0, 0, 0]  # its rising line needs no kernel of its own
    assert len(set(map(tuple, counts.values()))) == 26

    elsewhere = np.pad(font(), ((0, 0), (2, 1), (3, 2), (0, 0)))
    assert strokes_of(elsewhere) == counts  # where a letter stands does not matter

    without = {
        "horizontal": {"BEFP", "IL"},
        "upright": {"AP", "CO", "GHT", "JU", "KNX", "VWY"},
        "falling": {"NW", "PR"},
        "shoulder": {"AD", "LT", "MW"},
    }
    for place, stroke in enumerate(STROKES):  # minimal: without any of the four, some look alike
        alike = {}
        for letter, count in counts.items():
            alike.setdefault(tuple(np.delete(count, place)), []).append(letter)
        confused = {"".join(letters) for letters in alike.values() if len(letters) > 1}
        assert confused == without[stroke]


# E8.5: every output pixel is the average of a pixel and its left neighbour.
RESPONSE = np.array([[0, 0, 0], [0, 1, 1], [0, 0, 0]]) / 2  # an impulse is seen here and right
TWICE_THE_AVERAGE = [
    [0, 0, 0, 0, 0, 0, 0, 0],
    [0, 1, 1, 0, 0, 0, 1, 1],
    [0, 0, 1, 1, 0, 0, 1, 1],
    [0, 0, 0, 1, 1, 0, 1, 1],
    [0, 0, 0, 0, 0, 0, 0, 0],
    [0, 0, 0, 1, 1, 0, 0, 0],
    [0, 0, 1, 1, 0, 1, 2, 2],
    [0, 1, 1, 0, 0, 0, 0, 0],
]


def test_e8_5_averaging_adjacent_pixels():
    """i: the kernel is the impulse response; ii: on the image of E8.1; iii: flip it."""
    assert_array_equal(convolve(drawn("...", ".#.", "..."), RESPONSE, padding=1), RESPONSE)
    assert_array_equal(2 * convolve(IMAGE_OF_E8_1, RESPONSE, padding=1), TWICE_THE_AVERAGE)
    correlation_kernel = np.array([[0, 0, 0], [1, 1, 0], [0, 0, 0]]) / 2
    assert_array_equal(
        2 * correlate(IMAGE_OF_E8_1, correlation_kernel, padding=1), TWICE_THE_AVERAGE
    )


HOOK = drawn("##.", ".#.", "...")
HOOK_ROTATED = drawn("...", ".#.", ".##")
HOOK_CONVOLVED = [
    [2, 1, 0, 0, 1, 2],
    [0, 2, 1, 0, 1, 2],
    [0, 0, 1, 0, 0, 1],
    [0, 1, 1, 0, 0, 0],
    [1, 1, 1, 1, 2, 2],
    [1, 1, 0, 0, 1, 1],
]
HOOK_CORRELATED = [
    [1, 0, 0, 0, 0, 1],
    [1, 2, 0, 0, 0, 2],
    [0, 1, 2, 0, 0, 2],
    [0, 0, 1, 1, 0, 1],
    [0, 0, 1, 0, 0, 0],
    [0, 1, 1, 1, 1, 1],
]


def test_e8_6_convolution_and_correlation():
    """Stride 1, no padding: 8×8 becomes 6×6. The rotated kernel turns one into the other."""
    assert_array_equal(convolve(IMAGE_OF_E8_1, HOOK), HOOK_CONVOLVED)
    assert_array_equal(correlate(IMAGE_OF_E8_1, HOOK), HOOK_CORRELATED)
    assert_array_equal(correlate(IMAGE_OF_E8_1, HOOK_ROTATED), HOOK_CONVOLVED)


def test_e8_7_sizes():
    """i: (15 + 2 − 3)/2 + 1 = 8; ii: 15 + 2Pᵈ − 3 + 1 = 15 for Pᵈ = 1."""
    size = lambda **options: shape_of(lambda x, w: conv(x, w, **options), (15, 15, 1), (3, 3, 1, 1))
    assert size(stride=2, padding=1) == (8, 8, 1)
    assert [Pd for Pd in range(4) if size(padding=Pd) == (15, 15, 1)] == [1]


def test_e8_8_max_pooling_to_the_maps_below():
    """Each sensitivity goes to the largest of its window, in its own map, and 0 elsewhere."""
    A = maps([[[1, 9, 5], [3, 4, 8]], [[7, 2, 0], [6, 1, 3]]])
    dLZ = maps([[[10]], [[100]]])
    dA = pull_back(lambda a: max_pool(a, (2, 3)), A, dy=dLZ)
    assert_array_equal(planes(dA), [[[0, 10, 0], [0, 0, 0]], [[100, 0, 0], [0, 0, 0]]])


def test_e8_9_product_net_input():
    """n = b lz: dlz = b dn, and db = Σ lz dn = 1·1 + 2·10 + 3·100 + 4·1000."""
    LZ, dN = one_map([[1, 2], [3, 4]]), one_map([[1, 10], [100, 1000]])
    n, (dlz, db) = value_and_cotangents(scale, (LZ, jnp.array(7.0)), dN)
    assert_array_equal(matrix(n), [[7, 14], [21, 28]])
    assert_array_equal(matrix(dlz), [[7, 70], [700, 7000]])
    assert db == 4321
