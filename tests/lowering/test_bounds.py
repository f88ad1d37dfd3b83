"""What the CPU's formulations may take: temporaries in proportion to the arrays, small programs."""

import math

import jax
import pytest
from jax import lax

from cnnvjp import conv, conv_kernel_grad, conv_transpose

pytest.importorskip("hypothesis")

from hypothesis import example, given
from hypothesis import strategies as st

pytestmark = pytest.mark.cpu

MEBIBYTE = 1 << 20


def passes(x, w, groups, **options):
    """The three passes, ours and lax's, each with the shapes that it takes."""
    x, w = jax.ShapeDtypeStruct(x, "float32"), jax.ShapeDtypeStruct(w, "float32")
    spatial = "DHW"[-(x.ndim - 2) :]
    kernel, ndim = w.shape[:-2], x.ndim - 2
    padding = options["padding"]
    if padding == "FULL":
        padding = [(options["dilation"] * (k - 1),) * 2 for k in kernel]

    def reference(x, w):
        return lax.conv_general_dilated(
            x, w, (options["stride"],) * ndim, padding, None, (options["dilation"],) * ndim,
            (f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"), groups,
        )  # fmt: skip

    dy = jax.eval_shape(reference, x, w)
    options |= {"groups": groups}
    return [
        (lambda x, w: conv(x, w, **options), reference, (x, w), dy),
        (
            lambda dy, w: conv_transpose(dy, w, output_size=x.shape[1:-1], **options),
            lambda dy, w: jax.linear_transpose(lambda x: reference(x, w), x)(dy)[0],
            (dy, w),
            x,
        ),
        (
            lambda x, dy: conv_kernel_grad(x, dy, kernel, **options),
            lambda x, dy: jax.linear_transpose(lambda w: reference(x, w), w)(dy)[0],
            (x, dy),
            w,
        ),
    ]


@st.composite
def layers(draw):
    """Layers with temporaries that can be seen: large kernels, many or few channels, groups."""
    ndim = draw(st.integers(1, 3))
    most = {1: 31, 2: 31, 3: 9}[ndim]
    kernel = draw(st.lists(st.sampled_from([1, 2, 3, 5, 9, 15, 31]), min_size=ndim, max_size=ndim))
    kernel = [min(k, most) for k in kernel]
    sizes = {1: (64, 1024, 4096), 2: (7, 14, 28, 56, 112), 3: (6, 12, 24)}[ndim]
    spatial = draw(st.lists(st.sampled_from(sizes), min_size=ndim, max_size=ndim))
    groups = draw(st.sampled_from([1, 1, 2, 8, 32]))
    channels = draw(st.sampled_from([(1, 1), (1, 2), (1, 16), (4, 4), (16, 1), (16, 16)]))
    batch = draw(st.sampled_from([1, 4, 32]))
    x = (batch, *spatial, groups * channels[0])
    w = (*kernel, channels[0], groups * channels[1])
    stride, dilation = draw(st.sampled_from([1, 1, 2, 4])), draw(st.sampled_from([1, 1, 2]))
    padding = draw(st.sampled_from(["SAME", "FULL"]))
    return x, w, groups, {"stride": stride, "dilation": dilation, "padding": padding}


def is_moderate(layer):
    x, w, *_ = layer
    return math.prod(x) <= 4 << 20 and math.prod(w) <= 1 << 20


LARGE_BANDED = (2, 56, 56, 16), (9, 9, 16, 16), 1
LARGE_DEPTHWISE = (1, 128, 128, 64), (31, 31, 1, 64), 64
VOLUME = (16, 12, 12, 16, 2), (9, 9, 9, 1, 2), 2
PLAIN = {"stride": 1, "dilation": 1, "padding": "SAME"}


@given(layers().filter(is_moderate))
@example((*LARGE_BANDED, PLAIN))
@example((*LARGE_DEPTHWISE, PLAIN))
@example((*VOLUME, PLAIN | {"dilation": 2, "padding": "FULL"}))
def test_temporaries_are_in_proportion(layer):
    # A depthwise kernel with several maps a channel sees as many copies of its images.
    times = 7 if layer[1][-2] == 1 and layer[1][-1] > layer[2] > 1 else 4
    for ours, laxs, operands, result in passes(*layer[:3], **layer[3]):
        ours, laxs = (
            jax.jit(f).lower(*operands).compile().memory_analysis().temp_size_in_bytes
            for f in (ours, laxs)
        )
        given = sum(4 * a.size for a in (*operands, result))
        assert ours <= max(times * given, 2 * laxs + 10 * MEBIBYTE), (operands, ours, laxs)


@pytest.mark.parametrize("kernel", [3, 7, 21])
def test_programs_hardly_grow_with_the_image(kernel):
    def sizes(rows):
        layer = (1, rows, 64, 4), (kernel, kernel, 1, 4), 4
        return [
            len(jax.jit(ours).lower(*operands).as_text().splitlines())
            for ours, _, operands, _ in passes(*layer, **PLAIN)
        ]

    assert all(high < 2.5 * low for low, high in zip(sizes(64), sizes(448), strict=True))
