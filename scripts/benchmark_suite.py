"""What `benchmark.py` measures: layers taken from real networks, and whole networks.

Each layer stands for its kind in its network. Batch sizes are such that a pass takes 2 to 200
milliseconds on two cores, in whichever of the implementations is slower.
"""

import dataclasses
from typing import Any

import cnnvjp

DENSE, DEPTHWISE, GROUPED = "dense", "depthwise", "grouped"
MAX, AVERAGE, NORM = "max pooling", "average pooling", "batch norm"


@dataclasses.dataclass(frozen=True)
class Layer:
    """One row: a layer of a network, with the batch that it is measured at.

    Attributes:
        network: whose layer it is.
        name: which one.
        family: what it is counted under.
        x: the input's shape, (N, *spatial, C).
        kernel: the kernel's or the window's size.
        maps: output channels of a convolution, 0 for other layers.
        stride: of all axes.
        padding: on all sides.
        groups: of a convolution.
        transposed: whether it is a transposed convolution, from `x` up.
    """

    network: str
    name: str
    family: str
    x: tuple[int, ...]
    kernel: tuple[int, ...]
    maps: int = 0
    stride: int = 1
    padding: int = 0
    groups: int = 1
    transposed: bool = False

    @property
    def ndim(self) -> int:
        """The number of spatial axes."""
        return len(self.kernel)

    @property
    def passes(self) -> tuple[str, ...]:
        """What is measured: a convolution's passes one by one, other layers' together.

        The way back of average pooling needs nothing of the way there: it has a row of its own.
        """
        if self.maps:
            return ("forward", "input gradient", "kernel gradient")
        if self.family == AVERAGE:
            return ("forward and backward", "backward")
        return ("forward and backward",)

    @property
    def w(self) -> tuple[int, ...]:
        """The shape of the forward convolution's kernel, (*kernel, C_in // groups, C_out)."""
        if self.transposed:
            return (*self.kernel, self.maps, self.x[-1])
        return (*self.kernel, self.x[-1] // self.groups, self.maps)


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
    Layer("ResNet-50", "norm2", NORM, (16, 56, 56, 64), ()),
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
    Layer("MobileNetV2", "norm 14", NORM, (32, 14, 14, 384), ()),
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
    """A whole training step: SGD with momentum on random images."""

    name: str
    image: tuple[int, int, int]
    batch: int


NETWORKS = (
    Network("lenet5", (32, 32, 1), 128),
    Network("resnet", (32, 32, 3), 64),
    Network("mobilenet", (32, 32, 3), 64),
)


# ------------------------------------------------------------------------------------------
# The same networks in Flax
# ------------------------------------------------------------------------------------------


def flax_network(name: str, *, injected: bool = False) -> Any:
    """The network of this name as a flax.linen module, `module(x, train)`.

    With `injected` its convolutions and its pooling are given as ours: the lines that a user
    would change. Without, it is stock Flax.
    """
    import flax.linen as nn

    convolve = cnnvjp.conv_general_dilated if injected else None
    max_pool = cnnvjp.interop.flax_max_pool if injected else nn.max_pool

    def convolution(x: Any, maps: int, size: int, stride: int = 1, groups: int = 1) -> Any:
        return nn.Conv(
            maps,
            (size, size),
            stride,
            padding=size // 2,
            feature_group_count=groups,
            use_bias=False,
            conv_general_dilated=convolve,
        )(x)

    def normalized(x: Any, train: bool) -> Any:
        return nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)

    class LeNet5(nn.Module):
        @nn.compact
        def __call__(self, x: Any, train: bool) -> Any:
            for maps in (6, 16):
                layer = nn.Conv(maps, (5, 5), padding="VALID", conv_general_dilated=convolve)
                x = max_pool(nn.relu(layer(x)), (2, 2), (2, 2))
            x = x.reshape(x.shape[0], -1)
            for width in (120, 84):
                x = nn.relu(nn.Dense(width)(x))
            return nn.Dense(10)(x)

    class ResNet18(nn.Module):
        @nn.compact
        def __call__(self, x: Any, train: bool) -> Any:
            x = nn.relu(normalized(convolution(x, 64, 3), train))
            for maps in (64, 128, 256, 512):
                for block in range(2):
                    stride = 2 if block == 0 and maps > 64 else 1
                    around = x
                    if stride > 1:
                        around = normalized(convolution(x, maps, 1, stride), train)
                    y = nn.relu(normalized(convolution(x, maps, 3, stride), train))
                    x = nn.relu(normalized(convolution(y, maps, 3), train) + around)
            return nn.Dense(10)(x.mean((1, 2)))

    class MobileNetV2(nn.Module):
        @nn.compact
        def __call__(self, x: Any, train: bool) -> Any:
            x = nn.relu6(normalized(convolution(x, 32, 3), train))
            for expansion, maps, blocks, first in MOBILENET:
                for block in range(blocks):
                    y, wide = x, x.shape[-1] * expansion
                    if expansion > 1:
                        y = nn.relu6(normalized(convolution(y, wide, 1), train))
                    stride = first if block == 0 else 1
                    y = nn.relu6(normalized(convolution(y, wide, 3, stride, wide), train))
                    y = normalized(convolution(y, maps, 1), train)
                    x = x + y if x.shape == y.shape else y
            x = nn.relu6(normalized(convolution(x, 1280, 1), train))
            return nn.Dense(10)(x.mean((1, 2)))

    return {"lenet5": LeNet5, "resnet": ResNet18, "mobilenet": MobileNetV2}[name]()


MOBILENET = (
    (1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
    (6, 320, 1, 1),
)  # fmt: skip
