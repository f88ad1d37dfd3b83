"""What `benchmark.py` measures: layers of real networks, and whole networks.

Each layer of the first list stands for its kind in its network: the CPU formulations were chosen
on layers like these. `benchmark_unseen.py` holds the second list. Batch sizes are such that a pass
takes 2 to 200 milliseconds on two cores, in whichever of the implementations is slower.

This file needs neither JAX nor PyTorch, so that both sides can import it.
"""

import dataclasses
import math
from typing import Any

DENSE, DEPTHWISE, GROUPED = "dense", "depthwise", "grouped"
MAX, AVERAGE, AVERAGE_2 = "max pooling", "average pooling", "2×2 average pooling"
BATCH_NORM, LAYER_NORM, GROUP_NORM = "batch norm", "layer norm", "group norm"
GELU, CROSS_ENTROPY = "gelu", "softmax cross-entropy"
SAMPLING = "bilinear sampling"

PerAxis = int | tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Layer:
    """One row: a layer of a network, with the batch that it is measured at.

    Attributes:
        network: the network that it belongs to.
        name: which of its layers it is.
        family: the group of rows whose mean it counts in.
        x: the input's shape, (N, *spatial, C); for a cross-entropy C is the number of classes.
        kernel: the kernel's or the window's size; () for layers without one.
        maps: output channels of a convolution, 0 for other layers.
        stride: of all axes, or one for each.
        padding: on both sides of all axes, or one for each.
        dilation: of a convolution, on all axes.
        groups: of a convolution or a group norm.
        transposed: whether it is a transposed convolution, from `x` up.
    """

    network: str
    name: str
    family: str
    x: tuple[int, ...]
    kernel: tuple[int, ...] = ()
    maps: int = 0
    stride: PerAxis = 1
    padding: PerAxis = 0
    dilation: int = 1
    groups: int = 1
    transposed: bool = False

    @staticmethod
    def from_json(fields: dict[str, Any]) -> "Layer":
        """The layer that became `fields` by `dataclasses.asdict` and JSON."""
        return Layer(**_with_tuples(fields))

    @property
    def ndim(self) -> int:
        """The number of spatial axes of the kernel or window."""
        return len(self.kernel)

    @property
    def strides(self) -> tuple[int, ...]:
        """The stride of each axis."""
        return _per_axis(self.stride, self.ndim)

    @property
    def paddings(self) -> tuple[int, ...]:
        """The padding of each axis, on both of its sides."""
        return _per_axis(self.padding, self.ndim)

    @property
    def out(self) -> tuple[int, ...]:
        """The output's spatial size."""
        found = []
        axes = zip(self.x[1:], self.kernel, self.strides, self.paddings, strict=False)
        for size, k, stride, padding in axes:
            reach = self.dilation * (k - 1)
            if self.transposed:
                found.append((size - 1) * stride + reach + 1 - 2 * padding)
            else:
                found.append((size + 2 * padding - reach - 1) // stride + 1)
        return tuple(found)

    @property
    def passes(self) -> tuple[str, ...]:
        """The passes that are measured: those of a convolution singly, others' together.

        The backward pass of average pooling needs no result of the forward pass, and has a row
        of its own.
        """
        if self.maps:
            return ("forward", "input gradient", "kernel gradient")
        if self.family == SAMPLING:
            return ("forward", "forward and backward")
        if self.family in (AVERAGE, AVERAGE_2):
            return ("forward and backward", "backward")
        return ("forward and backward",)

    @property
    def w(self) -> tuple[int, ...]:
        """The shape of the forward convolution's kernel, (*kernel, C_in // groups, C_out)."""
        if self.transposed:
            return (*self.kernel, self.maps, self.x[-1])
        return (*self.kernel, self.x[-1] // self.groups, self.maps)

    @property
    def operations(self) -> int:
        """Multiplications and additions of a convolution's pass."""
        if not self.maps:
            return 0
        positions = math.prod(self.x[1:-1] if self.transposed else self.out)
        return 2 * self.x[0] * positions * math.prod(self.w)


def _with_tuples(fields: dict[str, Any]) -> dict[str, Any]:
    """What JSON, which has no tuples, made lists of."""
    return {name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()}


def _per_axis(option: PerAxis, ndim: int) -> tuple[int, ...]:
    return (option,) * ndim if isinstance(option, int) else option


LAYERS = (
    # LeCun et al. 1998, fig. 2 (max pooling in place of its own)
    Layer("LeNet-5", "C1", DENSE, (128, 32, 32, 1), (5, 5), 6),
    Layer("LeNet-5", "C3", DENSE, (128, 14, 14, 6), (5, 5), 16),
    Layer("LeNet-5", "S2", MAX, (128, 28, 28, 6), (2, 2), stride=2),
    # Simonyan, Zisserman 2015, table 1, column D
    Layer("VGG-16", "conv1-2", DENSE, (2, 224, 224, 64), (3, 3), 64, padding=1),
    Layer("VGG-16", "conv3-3", DENSE, (4, 56, 56, 256), (3, 3), 256, padding=1),
    Layer("VGG-16", "conv5-3", DENSE, (16, 14, 14, 512), (3, 3), 512, padding=1),
    Layer("VGG-16", "pool1", MAX, (4, 224, 224, 64), (2, 2), stride=2),
    # He et al. 2016, table 1
    Layer("ResNet-50", "conv1", DENSE, (8, 224, 224, 3), (7, 7), 64, stride=2, padding=3),
    Layer("ResNet-50", "pool1", MAX, (8, 112, 112, 64), (3, 3), stride=2, padding=1),
    Layer("ResNet-50", "conv2 3×3", DENSE, (16, 56, 56, 64), (3, 3), 64, padding=1),
    Layer("ResNet-50", "conv3 1×1", DENSE, (16, 28, 28, 128), (1, 1), 512),
    Layer("ResNet-50", "conv3 s2", DENSE, (16, 56, 56, 128), (3, 3), 128, stride=2, padding=1),
    Layer("ResNet-50", "conv4 shortcut", DENSE, (16, 28, 28, 512), (1, 1), 1024, stride=2),
    Layer("ResNet-50", "conv5 3×3", DENSE, (16, 7, 7, 512), (3, 3), 512, padding=1),
    Layer("ResNet-50", "norm2", BATCH_NORM, (16, 56, 56, 64)),
    # Xie et al. 2017, table 1, 32×4d
    Layer("ResNeXt-50", "conv2", GROUPED, (8, 56, 56, 128), (3, 3), 128, padding=1, groups=32),
    Layer("ResNeXt-50", "conv3", GROUPED, (8, 28, 28, 256), (3, 3), 256, padding=1, groups=32),
    Layer("ResNeXt-50", "conv5", GROUPED, (8, 7, 7, 1024), (3, 3), 1024, padding=1, groups=32),
    # Sandler et al. 2018, table 2
    Layer("MobileNetV2", "dw 112", DEPTHWISE, (8, 112, 112, 32), (3, 3), 32, padding=1, groups=32),
    Layer(
        "MobileNetV2",
        "dw 56 s2",
        DEPTHWISE,
        (16, 56, 56, 144),
        (3, 3),
        144,
        2,
        padding=1,
        groups=144,
    ),
    Layer("MobileNetV2", "dw 14", DEPTHWISE, (32, 14, 14, 384), (3, 3), 384, padding=1, groups=384),
    Layer("MobileNetV2", "expand 14", DENSE, (32, 14, 14, 64), (1, 1), 384),
    Layer("MobileNetV2", "norm 14", BATCH_NORM, (32, 14, 14, 384)),
    # Tan, Le 2019, table 1 (B0)
    Layer(
        "EfficientNet-B0",
        "dw5 28",
        DEPTHWISE,
        (16, 28, 28, 240),
        (5, 5),
        240,
        padding=2,
        groups=240,
    ),
    Layer(
        "EfficientNet-B0",
        "dw5 14 s2",
        DEPTHWISE,
        (16, 14, 14, 672),
        (5, 5),
        672,
        2,
        padding=2,
        groups=672,
    ),
    # Radford et al. 2016, fig. 1: from 16×16 to 32×32
    Layer("DCGAN", "up 3", DENSE, (16, 16, 16, 256), (4, 4), 128, 2, padding=1, transposed=True),
    # Ronneberger et al. 2015, fig. 1
    Layer("U-Net", "up 2×2", DENSE, (4, 32, 32, 256), (2, 2), 128, 2, transposed=True),
    Layer("U-Net", "conv 64", DENSE, (2, 128, 128, 64), (3, 3), 64, padding=1),
    # Szegedy et al. 2016, fig. 5: the pooling branch
    Layer("Inception-v3", "pool branch", AVERAGE, (16, 35, 35, 192), (3, 3), padding=1),
    Layer("Inception-v3", "reduction", MAX, (16, 35, 35, 288), (3, 3), stride=2),
    # Dai et al. 2017, M5: raw speech; and the depthwise layers of QuartzNet (Kriman et al. 2020)
    Layer("speech", "M5 conv2", DENSE, (16, 1000, 64), (3,), 128, padding=1),
    Layer(
        "speech", "QuartzNet dw33", DEPTHWISE, (16, 500, 256), (33,), 256, padding=16, groups=256
    ),
    # Tran et al. 2015, C3D
    Layer("video", "C3D conv2", DENSE, (1, 8, 56, 56, 64), (3, 3, 3), 64, padding=1),
    Layer("video", "C3D pool2", MAX, (1, 16, 56, 56, 128), (2, 2, 2), stride=2),
    # LeCun et al. 1998, as it was; Huang et al. 2017, table 1: between two blocks
    Layer("LeNet-5", "S2 average", AVERAGE_2, (128, 28, 28, 6), (2, 2), stride=2),
    Layer("DenseNet-121", "transition 1", AVERAGE_2, (8, 56, 56, 128), (2, 2), stride=2),
    # Liu et al. 2022, fig. 4, the sizes of table 9
    Layer("ConvNeXt-T", "norm 56", LAYER_NORM, (8, 56, 56, 96)),
    Layer("ConvNeXt-T", "norm 14", LAYER_NORM, (16, 14, 14, 384)),
    Layer("ConvNeXt-T", "gelu 28", GELU, (4, 28, 28, 768)),
    # Wu, He 2018, in ResNet-50; Ho et al. 2020, appendix B
    Layer("ResNet-50", "group norm 56", GROUP_NORM, (8, 56, 56, 64), groups=32),
    Layer("DDPM", "group norm 16", GROUP_NORM, (16, 16, 16, 256), groups=32),
    # One label an image, and one a pixel (Ronneberger et al. 2015)
    Layer("ResNet-50", "loss", CROSS_ENTROPY, (256, 1000)),
    Layer("U-Net", "loss", CROSS_ENTROPY, (4, 388, 388, 2)),
    # Jaderberg et al. 2015: a picture's pixels, and maps', at as many places as there are
    Layer("spatial transformer", "image 64", SAMPLING, (32, 64, 64, 3)),
    Layer("spatial transformer", "maps 64", SAMPLING, (8, 64, 64, 32)),
)


# One of each kind of convolution, for gradients accumulated in a loop over three batches.
IN_LOOPS = (
    Layer("loop", "dense", DENSE, (16, 28, 28, 64), (3, 3), 64, padding=1),
    Layer("loop", "strided", DENSE, (16, 28, 28, 64), (3, 3), 128, stride=2, padding=1),
    Layer("loop", "stem", DENSE, (4, 112, 112, 3), (7, 7), 64, stride=2, padding=3),
    Layer("loop", "1×1", DENSE, (16, 28, 28, 64), (1, 1), 256),
    Layer("loop", "4 groups", GROUPED, (16, 28, 28, 64), (3, 3), 64, padding=1, groups=4),
    Layer("loop", "depthwise", DEPTHWISE, (16, 28, 28, 64), (3, 3), 64, padding=1, groups=64),
    Layer(
        "loop", "transposed", DENSE, (16, 14, 14, 128), (4, 4), 64, 2, padding=1, transposed=True
    ),
    Layer("loop", "1-D", DENSE, (16, 256, 64), (5,), 64, padding=2),
    Layer("loop", "3-D", DENSE, (4, 8, 14, 14, 32), (3, 3, 3), 32, padding=1),
)
BATCHES_IN_LOOP = 3


@dataclasses.dataclass(frozen=True)
class Network:
    """A whole training step: SGD with momentum on random images.

    Attributes:
        name: the function of `cnnvjp.models` or `benchmark_networks.NETWORKS` that makes it.
        image: the shape of one image.
        batch: the number of images.
        labels: the shape of one image's labels: () for a class, its height and width for classes
            of its pixels.
    """

    name: str
    image: tuple[int, int, int]
    batch: int
    labels: tuple[int, ...] = ()

    @staticmethod
    def from_json(fields: dict[str, Any]) -> "Network":
        """The network that became `fields` by `dataclasses.asdict` and JSON."""
        return Network(**_with_tuples(fields))


NETWORKS = (
    Network("lenet5", (32, 32, 1), 128),
    Network("resnet", (32, 32, 3), 64),
    Network("mobilenet", (32, 32, 3), 64),
    Network("vgg", (48, 48, 3), 16),
    Network("convnext", (48, 48, 3), 16),
    Network("unet", (64, 64, 3), 8, labels=(64, 64)),
)

CLASSES = 10

# The networks of more than one file: expansion, maps, blocks and the first block's stride of
# MobileNetV2; maps of the groups of the others, and how many layers or blocks each group has.
MOBILENET = (
    (1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
    (6, 320, 1, 1),
)  # fmt: skip
VGG, VGG_DENSE = ((64, 2), (128, 2), (256, 2)), 256
CONVNEXT = ((64, 2), (128, 2), (256, 2))
UNET, UNET_BOTTOM = (32, 64, 128), 256
