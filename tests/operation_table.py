"""Every public operation once, with arguments that exercise it: the table of the broad tests.

A row gives the differentiable arguments, a function of them, and which of them carry the
batch on their first axis. A new operation adds a row here and is covered by every broad test.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from checker import distinct, integers, normal
from jax import lax

import cnnvjp

BATCH = 4  # divisible among 2 devices


@dataclasses.dataclass(frozen=True, eq=False)
class Operation:
    """One call of a public function.

    Attributes:
        name: the public function.
        f: the call, as a function of its arguments.
        shapes: the shapes of the differentiable arguments.
        batched: whether each of them has the batch axis in front.
        fixed: further arguments that are not differentiated, each with a batch axis.
        draw: how the arguments are drawn, off kinks and ties where there are any.
        keeps_batch: whether the first output has the batch axis, or sums over it.
        over_devices: the call inside `shard_map`, where it differs from f.
    """

    name: str
    f: Callable[..., object]
    shapes: tuple[tuple[int, ...], ...]
    batched: tuple[bool, ...]
    fixed: tuple[jax.Array, ...] = ()
    draw: Callable[..., jax.Array] = normal
    keeps_batch: bool = True
    over_devices: Callable[..., object] | None = None

    def arguments(self, dtype="float64", seed=0):
        """The differentiable arguments."""
        rng = np.random.default_rng(seed)
        return tuple(self.draw(rng, *shape, dtype=dtype) for shape in self.shapes)


def positive(rng, *shape, dtype="float64"):
    """Positive numbers, away from zero."""
    return abs(normal(rng, *shape, dtype=dtype)) + 0.5


def spread_out(rng, *shape, dtype="float64"):
    """Normally distributed numbers that go from −4 to 8, as positions in an image of 6 pixels."""
    return 3 * normal(rng, *shape, dtype=dtype) + 2


IMAGE = (BATCH, 6, 6, 4)
C = (4,)


def image(name, f, *more, **options):
    """An operation on images, and on further arguments that have no batch axis."""
    batched = (True,) + (False,) * len(more)
    return Operation(name, f, (IMAGE, *more), batched, **options)


def elementwise(name, f=None):
    return image(name, f or getattr(cnnvjp, name))


LABELS = integers(np.random.default_rng(1), BATCH, 6, 6, low=0, high=4)
ARGMAX = integers(np.random.default_rng(2), BATCH, 3, 3, 4, low=0, high=36)

CHANNELS_LAST = ("NHWC", "HWIO", "NHWC")

OPERATIONS = [
    image("conv", lambda x, w, b: cnnvjp.conv(x, w, b, stride=2, padding=1), (3, 3, 4, 6), (6,)),
    Operation(
        "conv_transpose",
        lambda y, w, b: cnnvjp.conv_transpose(y, w, b, stride=2, padding=1, output_size=6),
        ((BATCH, 3, 3, 5), (3, 3, 4, 5), (4,)),
        (True, False, False),
    ),
    Operation(
        "conv_kernel_grad",
        lambda x, dy: cnnvjp.conv_kernel_grad(x, dy, 3, stride=2, padding=1),
        (IMAGE, (BATCH, 3, 3, 5)),
        (True, True),
        keeps_batch=False,
    ),
    image("local_conv", lambda x, w, b: cnnvjp.local_conv(x, w, b, stride=2, padding=1), (3, 3, 3, 3, 4, 2), (2,)),
    image("tiled_conv", lambda x, w: cnnvjp.tiled_conv(x, w, padding=1), (2, 2, 3, 3, 4, 2)),
    Operation(
        "local_conv_transpose",
        lambda y, w: cnnvjp.local_conv_transpose(y, w, stride=2, padding=1, output_size=6),
        ((BATCH, 3, 3, 2), (3, 3, 3, 3, 4, 2)),
        (True, False),
    ),
    Operation(
        "tiled_conv_transpose",
        lambda y, w, b: cnnvjp.tiled_conv_transpose(y, w, b),
        ((BATCH, 5, 4, 2), (2, 1, 2, 3, 4, 2), C),
        (True, False, False),
    ),
    Operation(
        "local_conv_kernel_grad",
        lambda x, dy: cnnvjp.local_conv_kernel_grad(x, dy, 3, stride=2, padding=1),
        (IMAGE, (BATCH, 3, 3, 2)),
        (True, True),
        keeps_batch=False,
    ),
    Operation(
        "tiled_conv_kernel_grad",
        lambda x, dy: cnnvjp.tiled_conv_kernel_grad(x, dy, 2, 3),
        (IMAGE, (BATCH, 4, 4, 2)),
        (True, True),
        keeps_batch=False,
    ),
    image("conv_general_dilated", lambda x, w: cnnvjp.conv_general_dilated(x, w, (2, 1), "SAME", dimension_numbers=CHANNELS_LAST), (3, 3, 4, 6)),
    Operation(
        "explicit",
        cnnvjp.explicit(lambda y, w: lax.conv_transpose(y, w, (2, 2), "SAME", dimension_numbers=CHANNELS_LAST)),
        ((BATCH, 3, 3, 4), (3, 3, 4, 6)),
        (True, False),
    ),
    image("max_pool", lambda x: cnnvjp.max_pool(x, 3, stride=2, padding=1), draw=distinct),
    image("max_pool", lambda x: cnnvjp.max_pool(x, 2, ties="split"), draw=distinct),
    image("min_pool", lambda x: cnnvjp.min_pool(x, 2), draw=distinct),
    Operation(
        "max_unpool",
        lambda y, argmax: cnnvjp.max_unpool(y, argmax, output_size=6),
        ((BATCH, 3, 3, 4),),
        (True,),
        (ARGMAX,),
    ),
    image("max_plus_conv", lambda x, w: cnnvjp.max_plus_conv(x, w, stride=2, padding=1), (3, 3, 4)),
    image("min_plus_conv", lambda x, w: cnnvjp.min_plus_conv(x, w, dilation=2), (2, 3, 4)),
    image("avg_pool", lambda x: cnnvjp.avg_pool(x, 3, stride=2, padding=1)),
    image("sum_pool", lambda x: cnnvjp.sum_pool(x, (3, 2), stride=(2, 1))),
    image("lp_pool", lambda x: cnnvjp.lp_pool(x, 2, p=3)),
    image("weighted_avg_pool", lambda x, w: cnnvjp.weighted_avg_pool(x, w, 2), C),
    image("global_max_pool", lambda x: cnnvjp.global_max_pool(x), draw=distinct),
    image("global_avg_pool", lambda x: cnnvjp.global_avg_pool(x)),
    image("adaptive_avg_pool", lambda x: cnnvjp.adaptive_avg_pool(x, (4, 3))),
    image("adaptive_max_pool", lambda x: cnnvjp.adaptive_max_pool(x, (4, 3)), draw=distinct),
    image("downsample", lambda x: cnnvjp.downsample(x, 2, offset=1)),
    image("upsample", lambda x: cnnvjp.upsample(x, (2, 3), offset=1)),
    image("repeat", lambda x: cnnvjp.repeat(x, 2)),
    *(
        image("resize", lambda x, m=m: cnnvjp.resize(x, (9, 4), method=m))
        for m in ("nearest", "nearest-exact", "linear", "cubic")
    ),
    image("resize", lambda x: cnnvjp.resize(x, (9, 4), antialias=True)),
    *(
        Operation(
            "sample",
            functools.partial(cnnvjp.sample, **options),
            (IMAGE, (BATCH, 3, 2)),
            (True, True),
            draw=spread_out,
        )
        for options in (dict(), dict(method="cubic", padding="mirror"))
    ),
    Operation("normalized_positions", lambda g: cnnvjp.normalized_positions(g, (6, 4)), ((BATCH, 3, 2),), (True,)),
    Operation("affine_positions", lambda m: cnnvjp.affine_positions(m, (3, 5), (6, 4)), ((BATCH, 2, 3),), (True,)),
    *(
        image("pad", lambda x, m=m: cnnvjp.pad(x, ((1, 2), (-1, 3)), mode=m))
        for m in ("constant", "reflect", "symmetric", "edge", "circular")
    ),
    image("pixel_shuffle", lambda x: cnnvjp.pixel_shuffle(x, 2)),
    image("pixel_unshuffle", lambda x: cnnvjp.pixel_unshuffle(x, 2)),
    image("unfold", lambda x: cnnvjp.unfold(x, 2, stride=2, padding=1)),
    Operation(
        "fold",
        lambda p: cnnvjp.fold(p, 6, stride=2, padding=1),
        ((BATCH, 4, 4, 2, 2, 3),),
        (True,),
    ),
    Operation(
        "deform_conv",
        lambda x, w, offsets, b, mask: cnnvjp.deform_conv(x, w, offsets, b, mask=mask, stride=2, padding=1),
        (IMAGE, (3, 3, 4, 6), (BATCH, 3, 3, 1, 3, 3, 2), (6,), (BATCH, 3, 3, 1, 3, 3)),
        (True, False, True, False, True),
    ),
    Operation(
        "deform_conv",
        lambda x, w, offsets: cnnvjp.deform_conv(x, w, offsets, groups=2),
        (IMAGE, (3, 2, 2, 6), (BATCH, 4, 5, 2, 3, 2, 2)),
        (True, False, True),
    ),
    Operation(
        "roi_align",
        lambda x, boxes: cnnvjp.roi_align(x, boxes, (2, 3), scale=3.0),
        (IMAGE, (BATCH, 2, 4)),
        (True, True),
    ),
    image("add_bias", cnnvjp.add_bias, C),
    image("scale", cnnvjp.scale, C),
    Operation("dense", cnnvjp.dense, ((BATCH, 3), (3, 5), (5,)), (True, False, False)),
    image("flatten", lambda x: cnnvjp.flatten(x, order="column")),
    Operation("unflatten", lambda v: cnnvjp.unflatten(v, (2, 3, 4)), ((BATCH, 24),), (True,)),
    *map(elementwise, ["relu", "relu6", "leaky_relu", "elu", "sigmoid", "tanh", "softplus", "silu"]),
    *map(elementwise, ["hard_swish", "gelu", "softmax", "log_softmax"]),
    elementwise("implicit", cnnvjp.implicit(cnnvjp.softplus)),
    image("prelu", cnnvjp.prelu, C),
    Operation("standardize", cnnvjp.standardize, (IMAGE, C, C), (True, False, False), draw=positive),
    image("batch_norm", cnnvjp.batch_norm, C, C, over_devices=functools.partial(cnnvjp.batch_norm, axis_name="data")),
    Operation(
        "batch_norm_inference",
        cnnvjp.batch_norm_inference,
        (IMAGE, C, C, C, C),
        (True,) + (False,) * 4,
        draw=positive,
    ),
    image("layer_norm", cnnvjp.layer_norm, C, C),
    image("group_norm", lambda x, gamma, beta: cnnvjp.group_norm(x, gamma, beta, 2), C, C),
    image("instance_norm", cnnvjp.instance_norm, C, C),
    image("local_response_norm", lambda x: cnnvjp.local_response_norm(x, size=4, alpha=0.5)),
    image("dropout", lambda x: cnnvjp.dropout(jax.random.key(0), x, 0.5)),
    Operation("l2_penalty", lambda w, b: cnnvjp.l2_penalty({"w": w, "b": b}), ((3, 3, 2, 4), C), (False, False), keeps_batch=False),
    Operation("half_squared_error", cnnvjp.half_squared_error, ((BATCH, 3), (BATCH, 3)), (True, True)),
    image("softmax_cross_entropy", cnnvjp.softmax_cross_entropy, fixed=(LABELS,)),
    Operation("softmax_cross_entropy", cnnvjp.softmax_cross_entropy, ((BATCH, 3), (BATCH, 3)), (True, True)),
    Operation("sigmoid_cross_entropy", cnnvjp.sigmoid_cross_entropy, ((BATCH, 3), (BATCH, 3)), (True, True)),
]  # fmt: skip
IDS = [f"{i}-{operation.name}" for i, operation in enumerate(OPERATIONS)]


def total(outputs):
    """A curved loss of everything that an operation returns."""
    leaves = [y for y in jax.tree.leaves(outputs) if jnp.issubdtype(y.dtype, jnp.floating)]
    return sum(jnp.sum(jnp.sin(y)) for y in leaves)


def gradients(operation, f):
    """The loss's gradients for all differentiable arguments."""
    argnums = tuple(range(len(operation.shapes)))
    return jax.grad(lambda *args: total(f(*args)), argnums)


def value_and_gradients(operation):
    """All outputs of an operation, and the gradients of the loss of them."""

    def run(*args):
        return operation.f(*args), gradients(operation, operation.f)(*args)

    return run


@functools.cache
def expected(operation):
    """`value_and_gradients`, compiled once for all tests that compare with it."""
    return jax.jit(value_and_gradients(operation))
