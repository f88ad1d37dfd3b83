"""Sizes, positions and paddings, against counting."""

import itertools

import numpy as np
import pytest
from checker import message

from cnnvjp._windows.geometry import forward_input_size, make_window, pad_pairs
from cnnvjp._windows.spatial import occupied_size, per_axis, spatial_rank, spatial_size


def counted_windows(n, k, s, before, after, d):
    """How many windows fit, by laying them down one after the other."""
    padded = list(range(n + before + after))
    return sum(1 for start in padded[::s] if start + d * (k - 1) < len(padded))


@pytest.mark.parametrize(
    "n, k, s, d", list(itertools.product((1, 4, 7), (1, 2, 3), (1, 2, 3), (1, 2)))
)
@pytest.mark.parametrize("before, after", [(0, 0), (1, 2), (3, 0), (-1, 4)])
def test_output_size_counts_windows(n, k, s, d, before, after):
    expected = counted_windows(n, k, s, before, after, d)
    if expected == 0:
        with pytest.raises(ValueError, match="^w: its size"):
            make_window((n,), (k,), s, ((before, after),), d)
    else:
        window = make_window((n,), (k,), s, ((before, after),), d)
        assert window.output_size == (expected,)
        assert window.positions(0).shape == (expected, k)
        assert window.positions(0)[0, 0] == -before


@pytest.mark.parametrize(
    "n, k, s, d", list(itertools.product((1, 2, 5, 8), (1, 2, 3, 4), (1, 2, 3), (1, 3)))
)
def test_same_gives_one_window_for_each_stride(n, k, s, d):
    for name, odd_side in (("SAME", 1), ("SAME_LOWER", 0)):
        window = make_window((n,), (k,), s, name, d)
        assert window.output_size == (-(-n // s),)
        ((before, after),) = window.padding
        assert abs(before - after) <= 1
        assert before == after or (after > before) == bool(odd_side)


def test_full_counts_every_window_that_touches_the_input():
    window = make_window((5,), (3,), 1, "FULL", 2)
    assert window.padding == ((4, 4),)
    assert window.output_size == (9,)
    assert window.inside(0).any(axis=1).all()


def test_ceil_mode_keeps_the_last_partial_window_unless_it_starts_in_the_padding():
    floor = make_window((6,), (3,), 2, 0, 1)
    ceil = make_window((6,), (3,), 2, 0, 1, ceil_mode=True)
    assert (floor.output_size, ceil.output_size) == ((2,), (3,))
    assert ceil.overhang == (1,)
    assert ceil.inside_or_padding(0)[-1].tolist() == [True, True, False]
    # the third window would start at padded position 4 = n + before, in the padding
    assert make_window((3,), (1,), 2, ((1, 1),), 1, ceil_mode=True).output_size == (2,)
    # nothing to round up: the same window as without
    assert make_window((7,), (3,), 2, 0, 1, ceil_mode=True) == make_window((7,), (3,), 2, 0, 1)


@pytest.mark.parametrize(
    "k, s, d, p", list(itertools.product((1, 2, 3), (1, 2, 3), (1, 2), (0, 1)))
)
def test_forward_input_size_inverts_the_output_size(k, s, d, p):
    for padding in (p, "SAME", "SAME_LOWER", "FULL", ((2, 0),)):
        sizes = {}
        for n in range(1, 14):
            try:
                window = make_window((n,), (k,), s, padding, d)
            except ValueError:
                continue
            sizes.setdefault(window.output_size, []).append(n)
        for output_size, inputs in sizes.items():
            if 13 in inputs or 12 in inputs or 11 in inputs:
                continue  # the list may go on beyond 13
            default = forward_input_size(output_size, (k,), s, padding, d, None)
            named = isinstance(padding, str) and padding.startswith("SAME")
            assert default == ((output_size[0] * s,) if named else (inputs[0],))
            for n in range(1, 14):
                if n in inputs:
                    assert forward_input_size(output_size, (k,), s, padding, d, n) == (n,)
                else:
                    with pytest.raises(ValueError, match="^output_size: got"):
                        forward_input_size(output_size, (k,), s, padding, d, n)


def test_output_size_error_lists_what_fits():
    with pytest.raises(ValueError) as error:
        forward_input_size((3, 1), (2, 2), 3, 0, 1, (12, 2))
    assert message(error) == (
        "output_size: got (12, 2); the forward convolution leads to the size (3, 1) from inputs "
        "of 8…10 × 2…4"
    )


def test_padding_beyond_the_input_leaves_no_size():
    with pytest.raises(ValueError, match="^padding: got 9; with it no input of spatial axis 0"):
        forward_input_size((1,), (3,), 1, 9, 1, None)


PADDINGS = [
    ("VALID", ((0, 0), (0, 0))),
    (2, ((2, 2), (2, 2))),
    (np.int64(2), ((2, 2), (2, 2))),
    ((1, 2), ((1, 1), (2, 2))),
    ([1, 2], ((1, 1), (2, 2))),
    (((1, 2), (3, 4)), ((1, 2), (3, 4))),
    (np.array([[1, 2], [3, 4]]), ((1, 2), (3, 4))),
    (((-1, 2), [3, -4]), ((-1, 2), (3, -4))),
    ("FULL", ((2, 2), (1, 1))),
]


@pytest.mark.parametrize("padding, expected", PADDINGS, ids=str)
def test_padding_forms(padding, expected):
    assert pad_pairs(padding, (5, 6), (3, 2), (1, 1), (1, 1)) == expected


@pytest.mark.parametrize(
    "padding",
    ["same", "", None, 1.5, True, (1,), (1, 2, 3), ((1, 2),), ((1, 2), (3,)), ((1, 2), 3),
     ((1, 2), (3, None)), (1, "VALID"), {"a": 1}],
    ids=str,
)  # fmt: skip
def test_malformed_padding(padding):
    with pytest.raises(ValueError, match=r"^padding: got .*VALID, SAME, SAME_LOWER, FULL"):
        pad_pairs(padding, (5, 6), (3, 2), (1, 1), (1, 1))


@pytest.mark.parametrize("value", [0, -1, 1.0, True, None, "2", (1,), (1, 2, 3), (1, 0), (1, None)])
def test_malformed_option(value):
    with pytest.raises(ValueError, match="^stride: got .* sequence of 2 ints, each at least 1"):
        per_axis("stride", value, 2)


def test_options_agree_on_the_rank():
    assert spatial_rank(None, window=2, stride=None) == 2
    assert spatial_rank(3, window=2) == 3
    assert spatial_rank(None, window=(2,), padding=((1, 1),)) == 1
    with pytest.raises(
        ValueError, match=r"^window: the options disagree.*window for 1, stride for 2"
    ):
        spatial_rank(None, window=(2,), stride=(1, 1))
    with pytest.raises(ValueError, match=r"^window: the options disagree.*spatial_ndim for 3"):
        spatial_rank(3, window=(2, 2))
    for bad in (0, 4, 1.5, "2", True):
        with pytest.raises(ValueError, match="^spatial_ndim: got"):
            spatial_rank(bad)


def test_spatial_size_names_the_layout():
    assert spatial_size((7, 5, 6, 3), 2) == (5, 6)
    with pytest.raises(
        ValueError, match=r"^y: got the shape \(6, 3\).*\(\*batch, height, width, ch"
    ):
        spatial_size((6, 3), 2, argument="y")


def test_a_map_without_a_position_is_refused_where_one_is_needed():
    assert occupied_size((0, 5, 1, 3), 2) == (5, 1)
    with pytest.raises(ValueError, match=r"^x: got the spatial size \(5, 0\)"):
        occupied_size((2, 5, 0, 3), 2)


def test_window_that_does_not_fit_says_by_how_much():
    with pytest.raises(ValueError) as error:
        make_window((9, 4), (3, 3), 1, 0, 2, argument="window")
    assert message(error) == (
        "window: its size 3 with dilation 2 covers 5 positions of spatial axis 1, which has 4 and "
        "padding (0, 0), 4 in all; use a smaller window or dilation, or more padding"
    )
    with pytest.raises(ValueError, match="^x: got the spatial size"):
        make_window((0, 4), (1, 1), 1, 1, 1)
    with pytest.raises(ValueError, match="^ceil_mode: got True with padding='SAME'"):
        make_window((4,), (2,), 1, "SAME", 1, ceil_mode=True)
