"""A second list of layers, drawn by a seeded rule from published networks.

**Choose no formulation by these layers**: they show what the library does on layers that it was
not tuned for. To choose one, measure layers of `benchmark_suite.LAYERS`, or others of your own.

`published_layers` builds the networks from the tables and figures of their papers, with the input
size that the paper trains on. Where a paper says only "same" padding, it is half the kernel on both
sides. The mean over all positions with which most networks end is left out, since libraries compute
it as a mean and not by pooling. `draw` leaves out what the first list holds and what is too small
or too large to measure, sets the batch by a rule, and draws as many layers of each kind, from as
many networks as have it.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable

import numpy as np
from benchmark_suite import (
    AVERAGE,
    AVERAGE_2,
    BATCH_NORM,
    CROSS_ENTROPY,
    DENSE,
    DEPTHWISE,
    GELU,
    GROUP_NORM,
    GROUPED,
    LAYER_NORM,
    LAYERS,
    MAX,
    Layer,
    PerAxis,
)

SEED = 0
PER_KIND = 3

# The batch: about so many numbers in x, and no more operations than take about 0.1 s.
NUMBERS, OPERATIONS, LARGEST_BATCH = 1.6e6, 2e10, 64
# What takes less than about 1 ms at that batch, or more than about 0.2 s at a batch of one.
SMALLEST_NUMBERS, SMALLEST_OPERATIONS = 4e5, 2e8
LARGEST_NUMBERS = 6e6


class Builder:
    """Walks through a network, and notes each layer with the shape that reaches it.

    Attributes:
        layers: those so far, with a batch of one.
        size: the spatial size that the next layer gets.
        channels: its channels.
    """

    def __init__(self, network: str, size: tuple[int, ...], channels: int) -> None:
        """Starts at the network's input."""
        self.network, self.size, self.channels = network, size, channels
        self.layers: list[Layer] = []

    def at(self, size: PerAxis, channels: int) -> "Builder":
        """Goes to another place: square maps of a size, or maps of the size given."""
        ndim = len(self.size)
        self.size = (size,) * ndim if isinstance(size, int) else size
        self.channels = channels
        return self

    def conv(
        self,
        maps: int,
        kernel: PerAxis,
        stride: PerAxis = 1,
        padding: PerAxis | None = None,
        *,
        groups: int = 1,
        dilation: int = 1,
        transposed: bool = False,
    ) -> "Builder":
        """A convolution, by default with "same" padding."""
        kernel = (kernel,) * len(self.size) if isinstance(kernel, int) else kernel
        if padding is None:
            padding = tuple(dilation * (k - 1) // 2 for k in kernel)
        depthwise = groups > 1 and groups == self.channels
        family = DEPTHWISE if depthwise else GROUPED if groups > 1 else DENSE
        options = (dilation, groups, transposed)
        self._add(family, kernel, maps, stride, padding, *options)
        self.size, self.channels = self.layers[-1].out, maps
        return self

    def depthwise(self, kernel: int, stride: int = 1, *, dilation: int = 1) -> "Builder":
        """A depthwise convolution with "same" padding."""
        return self.conv(self.channels, kernel, stride, groups=self.channels, dilation=dilation)

    def up(self, maps: int, kernel: int, stride: int, padding: int = 0) -> "Builder":
        """A transposed convolution."""
        return self.conv(maps, kernel, stride, padding, transposed=True)

    def max_pool(self, kernel: PerAxis, stride: PerAxis, padding: int = 0) -> "Builder":
        """Max pooling."""
        return self._pool(MAX, kernel, stride, padding)

    def avg_pool(self, kernel: int, stride: int, padding: int = 0) -> "Builder":
        """Average pooling."""
        family = AVERAGE_2 if kernel == stride == 2 and not padding else AVERAGE
        return self._pool(family, kernel, stride, padding)

    def _pool(self, family: str, kernel: PerAxis, stride: PerAxis, padding: int) -> "Builder":
        kernel = (kernel,) * len(self.size) if isinstance(kernel, int) else kernel
        self._add(family, kernel, 0, stride, padding)
        self.size = self.layers[-1].out
        return self

    def batch_norm(self) -> "Builder":
        """Batch normalization."""
        return self._add(BATCH_NORM)

    def layer_norm(self) -> "Builder":
        """Layer normalization, over the channels."""
        return self._add(LAYER_NORM)

    def group_norm(self, groups: int) -> "Builder":
        """Group normalization."""
        return self._add(GROUP_NORM, groups=groups)

    def gelu(self) -> "Builder":
        """The activation of that name."""
        return self._add(GELU)

    def loss(self) -> "Builder":
        """Softmax cross-entropy, at every position."""
        return self._add(CROSS_ENTROPY)

    def _add(
        self,
        family: str,
        kernel: tuple[int, ...] = (),
        maps: int = 0,
        stride: PerAxis = 1,
        padding: PerAxis = 0,
        dilation: int = 1,
        groups: int = 1,
        transposed: bool = False,
    ) -> "Builder":
        words = [_by(kernel) or family, "up" if transposed else ""]
        words.append(f"{self.channels}→{maps}" if maps else str(self.channels))
        for letter, option in (("s", stride), ("d", dilation), ("g", groups)):
            words.append("" if option == 1 else f"{letter}{_by(option)}")
        words.append(f"at {_by(self.size)}")
        layer = Layer(
            self.network,
            " ".join(filter(None, words)),
            family,
            (1, *self.size, self.channels),
            kernel,
            maps,
            stride,
            padding,
            dilation,
            groups,
            transposed,
        )
        self.layers.append(layer)
        return self


def _by(sizes: PerAxis) -> str:
    return str(sizes) if isinstance(sizes, int) else "×".join(map(str, sizes))


# ------------------------------------------------------------------------------------------
# The networks
# ------------------------------------------------------------------------------------------


def _alexnet() -> Builder:
    """Krizhevsky, Sutskever, Hinton 2012, fig. 2: two groups where two GPUs share a layer."""
    net = Builder("AlexNet", (227, 227), 3)
    net.conv(96, 11, 4, 0).max_pool(3, 2).conv(256, 5, groups=2).max_pool(3, 2)
    net.conv(384, 3).conv(384, 3, groups=2).conv(256, 3, groups=2).max_pool(3, 2)
    return net


def _vgg() -> Builder:
    """Simonyan, Zisserman 2015, table 1, columns D and E, whose layers have the same shapes."""
    net = Builder("VGG-19", (224, 224), 3)
    for maps in (64, 128, 256, 512, 512):
        net.conv(maps, 3).conv(maps, 3).max_pool(2, 2)
    return net.at(14, 512).conv(512, 3)


def _googlenet() -> Builder:
    """Szegedy et al. 2015, table 1; its 3×3 poolings of stride 2 pad one side alone: left out."""
    net = Builder("GoogLeNet", (224, 224), 3)
    net.conv(64, 7, 2).at(56, 64).conv(64, 1).conv(192, 3)
    modules = (
        (28, 192, 64, 96, 128, 16, 32, 32), (28, 256, 128, 128, 192, 32, 96, 64),
        (14, 480, 192, 96, 208, 16, 48, 64), (14, 512, 160, 112, 224, 24, 64, 64),
        (14, 512, 128, 128, 256, 24, 64, 64), (14, 512, 112, 144, 288, 32, 64, 64),
        (14, 528, 256, 160, 320, 32, 128, 128), (7, 832, 256, 160, 320, 32, 128, 128),
        (7, 832, 384, 192, 384, 48, 128, 128),
    )  # fmt: skip
    for size, channels, a, b, c, d, e, f in modules:
        net.at(size, channels).conv(a, 1)
        net.at(size, channels).conv(b, 1).conv(c, 3)
        net.at(size, channels).conv(d, 1).conv(e, 5)
        net.at(size, channels).max_pool(3, 1, 1).conv(f, 1)
    return net.at(14, 512).avg_pool(5, 3).at(7, 1024)


def _inception() -> Builder:
    """Szegedy et al. 2016, table 1 and figures 5 to 7; maps within modules as published with it."""
    net = Builder("Inception-v3", (299, 299), 3)
    net.conv(32, 3, 2, 0).batch_norm().conv(32, 3, 1, 0).conv(64, 3).batch_norm().max_pool(3, 2)
    net.conv(80, 3, 1, 0).batch_norm().conv(192, 3, 2, 0).batch_norm()
    net.at(35, 288).conv(64, 1).conv(96, 3).conv(96, 3)
    net.at(35, 288).conv(48, 1).conv(64, 5).at(35, 288).avg_pool(3, 1, 1).conv(64, 1)
    net.at(35, 288).conv(384, 3, 2, 0).at(35, 288).max_pool(3, 2)
    net.at(17, 768).conv(192, 1).batch_norm().at(17, 768).avg_pool(3, 1, 1)
    for maps in (128, 160, 192):
        net.at(17, 768).conv(maps, 1).conv(maps, (1, 7)).conv(maps, (7, 1)).conv(192, (7, 1))
    net.at(17, 192).conv(320, 3, 2, 0).at(17, 768).max_pool(3, 2)
    for channels in (1280, 2048):
        net.at(8, channels).conv(384, 1).conv(384, (1, 3)).at(8, 384).conv(384, (3, 1))
        net.at(8, channels).conv(448, 1).conv(384, 3).at(8, channels).avg_pool(3, 1, 1)
    return net


def _resnet_18() -> Builder:
    """He et al. 2016, table 1."""
    net = Builder("ResNet-18", (224, 224), 3)
    net.conv(64, 7, 2).batch_norm().max_pool(3, 2, 1)
    for maps in (64, 128, 256, 512):
        before, size, stride = net.channels, net.size, 1 if maps == 64 else 2
        if stride > 1:
            net.conv(maps, 1, stride).at(size, before)
        net.conv(maps, 3, stride).batch_norm().conv(maps, 3)
    return net


def _bottlenecks(net: Builder, groups: int, width: int, *, norm_groups: int = 0) -> Builder:
    """Blocks of 1×1, 3×3 and 1×1 convolutions, of which the 3×3 strides, with their norms."""

    def norm() -> Builder:
        return net.group_norm(norm_groups) if norm_groups else net.batch_norm()

    net.conv(64, 7, 2)
    norm().max_pool(3, 2, 1)
    for group in range(4):
        maps, wide = width << group, 256 << group
        size, before = net.size, net.channels
        for stride in (1 if group == 0 else 2, 1):
            if net.channels != wide:
                net.conv(wide, 1, stride).at(size, before)
            net.conv(maps, 1)
            norm().conv(maps, 3, stride, groups=groups)
            norm().conv(wide, 1)
            norm()
    return net


def _resnet_50() -> Builder:
    """He et al. 2016, table 1."""
    return _bottlenecks(Builder("ResNet-50", (224, 224), 3), 1, 64)


def _resnet_50_group_norm() -> Builder:
    """Wu, He 2018, section 4.1: 32 groups in place of batch norm. Only those are new here."""
    net = _bottlenecks(Builder("ResNet-50 GN", (224, 224), 3), 1, 64, norm_groups=32)
    net.layers = [layer for layer in net.layers if layer.family == GROUP_NORM]
    return net


def _resnext() -> Builder:
    """Xie et al. 2017, table 1, 32×4d."""
    return _bottlenecks(Builder("ResNeXt-50", (224, 224), 3), 32, 128)


def _densenet() -> Builder:
    """Huang et al. 2017, table 1, growth rate 32."""
    net = Builder("DenseNet-121", (224, 224), 3)
    net.conv(64, 7, 2).batch_norm().max_pool(3, 2, 1)
    for count in (6, 12, 24, 16):
        size, first = net.size, net.channels
        for i in range(count):
            net.at(size, first + 32 * i).batch_norm().conv(128, 1).batch_norm().conv(32, 3)
        net.at(size, first + 32 * count).batch_norm()
        if count != 16:
            net.conv(net.channels // 2, 1).avg_pool(2, 2)
    return net


def _squeezenet() -> Builder:
    """Iandola et al. 2016, table 1."""
    net = Builder("SqueezeNet", (224, 224), 3)
    net.conv(96, 7, 2, 2).max_pool(3, 2)
    for fire, (squeeze, expand) in enumerate(
        ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256)), 2
    ):
        net.conv(squeeze, 1)
        size = net.size
        net.conv(expand, 1).at(size, squeeze).conv(expand, 3).at(size, 2 * expand)
        if fire in (4, 8):
            net.max_pool(3, 2)
    return net.conv(1000, 1)


def _shufflenet() -> Builder:
    """Zhang et al. 2018, table 1, three groups."""
    net = Builder("ShuffleNet", (224, 224), 3)
    net.conv(24, 3, 2).batch_norm().max_pool(3, 2, 1)
    for maps in (240, 480, 960):
        size, before = net.size, net.channels
        net.avg_pool(3, 2, 1).at(size, before)
        net.conv(maps // 4, 1, groups=1 if before == 24 else 3).batch_norm().depthwise(3, 2)
        net.conv(maps - before, 1, groups=3).at(net.size, maps)
        net.conv(maps // 4, 1, groups=3).depthwise(3).batch_norm().conv(maps, 1, groups=3)
    return net


def _mobilenet_v1() -> Builder:
    """Howard et al. 2017, table 1."""
    net = Builder("MobileNetV1", (224, 224), 3)
    net.conv(32, 3, 2)
    pairs = ((1, 64), (2, 128), (1, 128), (2, 256), (1, 256), (2, 512), (1, 512), (2, 1024))
    for stride, maps in (*pairs, (1, 1024)):
        net.depthwise(3, stride).batch_norm().conv(maps, 1).batch_norm()
    return net


def _inverted(net: Builder, kernel: int, wide: int, maps: int, stride: int) -> Builder:
    """A 1×1 convolution to more maps, a depthwise one, and one to fewer, with their norms."""
    if wide != net.channels:
        net.conv(wide, 1).batch_norm()
    return net.depthwise(kernel, stride).batch_norm().conv(maps, 1).batch_norm()


def _mobilenet_v2() -> Builder:
    """Sandler et al. 2018, table 2: expansion, maps, blocks, stride."""
    net = Builder("MobileNetV2", (224, 224), 3)
    net.conv(32, 3, 2).batch_norm()
    for expansion, maps, blocks, stride in (
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):  # fmt: skip
        for block in range(blocks):
            _inverted(net, 3, expansion * net.channels, maps, stride if block == 0 else 1)
    return net.conv(1280, 1).batch_norm()


def _mobilenet_v3() -> Builder:
    """Howard et al. 2019, table 1 (large): kernel, expanded maps, maps, stride."""
    net = Builder("MobileNetV3", (224, 224), 3)
    net.conv(16, 3, 2).batch_norm()
    for block in (
        (3, 16, 16, 1), (3, 64, 24, 2), (3, 72, 24, 1), (5, 72, 40, 2), (5, 120, 40, 1),
        (3, 240, 80, 2), (3, 200, 80, 1), (3, 184, 80, 1), (3, 480, 112, 1), (3, 672, 112, 1),
        (5, 672, 160, 2), (5, 960, 160, 1),
    ):  # fmt: skip
        _inverted(net, *block)
    return net.conv(960, 1).batch_norm()


def _efficientnet() -> Builder:
    """Tan, Le 2019, table 1 (B0): expansion, kernel, maps, blocks, stride."""
    net = Builder("EfficientNet-B0", (224, 224), 3)
    net.conv(32, 3, 2).batch_norm()
    for expansion, kernel, maps, blocks, stride in (
        (1, 3, 16, 1, 1), (6, 3, 24, 2, 2), (6, 5, 40, 2, 2), (6, 3, 80, 3, 2), (6, 5, 112, 3, 1),
        (6, 5, 192, 4, 2), (6, 3, 320, 1, 1),
    ):  # fmt: skip
        for block in range(blocks):
            _inverted(net, kernel, expansion * net.channels, maps, stride if block == 0 else 1)
    return net.conv(1280, 1).batch_norm()


def _mnasnet() -> Builder:
    """Tan et al. 2019, fig. 7 (A1): expansion, kernel, maps, blocks, stride."""
    net = Builder("MnasNet-A1", (224, 224), 3)
    net.conv(32, 3, 2).batch_norm()
    for expansion, kernel, maps, blocks, stride in (
        (1, 3, 16, 1, 1), (6, 3, 24, 2, 2), (3, 5, 40, 3, 2), (6, 3, 80, 4, 2), (6, 3, 112, 2, 1),
        (6, 5, 160, 3, 2), (6, 3, 320, 1, 1),
    ):  # fmt: skip
        for block in range(blocks):
            _inverted(net, kernel, expansion * net.channels, maps, stride if block == 0 else 1)
    return net


def _convnext(name: str, first: int) -> Builder:
    """Liu et al. 2022, table 9."""
    net = Builder(name, (224, 224), 3)
    net.conv(first, 4, 4, 0).layer_norm()
    for group in range(4):
        maps = first << group
        if group:
            net.layer_norm().conv(maps, 2, 2, 0)
        net.depthwise(7).layer_norm().conv(4 * maps, 1).gelu().conv(maps, 1)
    return net


def _convmixer() -> Builder:
    """Trockman, Kolter 2022, table 1: ConvMixer-768/32, with patches of 7 and a kernel of 7."""
    net = Builder("ConvMixer-768", (224, 224), 3)
    return net.conv(768, 7, 7, 0).gelu().batch_norm().depthwise(7).gelu().conv(768, 1)


def _regnet(name: str, group_width: int, widths: Iterable[int]) -> Builder:
    """Radosavovic et al. 2020, figures 16 and 18: blocks of 1×1, grouped 3×3 and 1×1."""
    net = Builder(name, (224, 224), 3)
    net.conv(32, 3, 2).batch_norm()
    for maps in widths:
        size, before = net.size, net.channels
        net.conv(maps, 1, 2).at(size, before)
        for stride in (2, 1):
            net.conv(maps, 1).batch_norm().conv(maps, 3, stride, groups=maps // group_width)
            net.batch_norm().conv(maps, 1).batch_norm()
    return net


def _unet() -> Builder:
    """Ronneberger et al. 2015, fig. 1, whose convolutions do not pad."""
    net = Builder("U-Net", (572, 572), 1)
    for maps in (64, 128, 256, 512):
        net.conv(maps, 3, 1, 0).conv(maps, 3, 1, 0).max_pool(2, 2)
    net.conv(1024, 3, 1, 0).conv(1024, 3, 1, 0)
    for maps in (512, 256, 128, 64):
        net.up(maps, 2, 2).at(net.size, 2 * maps).conv(maps, 3, 1, 0).conv(maps, 3, 1, 0)
    return net.conv(2, 1).loss()


def _dcgan() -> Builder:
    """Radford et al. 2016, fig. 1, and its mirror image, the discriminator; kernels of 4."""
    net = Builder("DCGAN", (4, 4), 1024)
    for maps in (512, 256, 128):
        net.up(maps, 4, 2, 1).batch_norm()
    net.up(3, 4, 2, 1)
    for maps in (64, 128, 256, 512):
        net.conv(maps, 4, 2, 1)
    return net


def _pix2pix() -> Builder:
    """Isola et al. 2017, appendix 6.1: the U-Net, whose decoder sees the encoder's maps too."""
    net = Builder("pix2pix", (256, 256), 3)
    for maps in (64, 128, 256, 512, 512, 512, 512):
        net.conv(maps, 4, 2, 1).batch_norm()
    for size, channels, maps in (
        (2, 1024, 512), (4, 1024, 512), (8, 1024, 512), (16, 1024, 256), (32, 512, 128),
        (64, 256, 64), (128, 128, 3),
    ):  # fmt: skip
        net.at(size, channels).up(maps, 4, 2, 1)
    return net


def _segmentation() -> list[Layer]:
    """Losses at every pixel, or every sample of sound: classes and the paper's sizes.

    Long et al. 2015 and Chen et al. 2017 (PASCAL VOC), Badrinarayanan et al. 2017 (CamVid), Paszke
    et al. 2016 (Cityscapes at half its size), and van den Oord et al. 2016: 256 values of a sample,
    one second at 16 kHz. The upsampling of FCN-8s, by 8 and by 2.
    """
    fcn = Builder("FCN-8s", (500, 500), 21).loss().at(70, 21).up(21, 16, 8).at(34, 21).up(21, 4, 2)
    return [
        *fcn.layers,
        *Builder("DeepLabv3", (513, 513), 21).loss().layers,
        *Builder("SegNet", (360, 480), 11).loss().layers,
        *Builder("ENet", (512, 256), 19).loss().layers,
        *Builder("WaveNet", (16000,), 256).loss().layers,
    ]


def _spatial_pyramids() -> list[Layer]:
    """Windows on the last maps: He et al. 2014, table 1; Bochkovskiy et al. 2020, at 608×608."""
    spp, yolo = Builder("SPP-net", (13, 13), 256), Builder("YOLOv4", (19, 19), 512)
    for window, stride in ((5, 4), (7, 6), (13, 13)):
        spp.at(13, 256).max_pool(window, stride)
    for window in (5, 9, 13):
        yolo.at(19, 512).max_pool(window, 1, window // 2)
    return spp.layers + yolo.layers


def _ddpm() -> Builder:
    """Ho et al. 2020, appendix B: 128 maps at 32×32, twice as many below, and skip connections."""
    net = Builder("DDPM", (32, 32), 3)
    net.conv(128, 3)
    for size, maps in ((32, 128), (16, 256), (8, 256), (4, 256)):
        for channels in (maps, 2 * maps, 3 * maps if size == 32 else maps):
            net.at(size, channels).group_norm(32).conv(maps, 3).group_norm(32)
        net.at(size, maps).conv(maps, 1).at(size, maps).conv(maps, 3, 2)
    return net


def _c3d() -> Builder:
    """Tran et al. 2015, fig. 3: clips of 16 frames."""
    net = Builder("C3D", (16, 112, 112), 3)
    net.conv(64, 3).max_pool((1, 2, 2), (1, 2, 2)).conv(128, 3).max_pool(2, 2)
    for maps in (256, 512, 512):
        net.conv(maps, 3).conv(maps, 3).max_pool(2, 2)
    return net


def _r2plus1d() -> Builder:
    """Tran et al. 2018, table 1 and section 3.5: clips of 8 frames, ⌊…⌋ maps between the two."""
    net = Builder("R(2+1)D-18", (8, 112, 112), 3)
    net.conv(45, (1, 7, 7), (1, 2, 2)).batch_norm().conv(64, (3, 1, 1)).batch_norm()
    for maps in (64, 128, 256, 512):
        for stride in (1 if maps == 64 else 2, 1):
            before = net.channels
            between = 27 * before * maps // (9 * before + 3 * maps)
            net.conv(between, (1, 3, 3), (1, stride, stride)).batch_norm()
            net.conv(maps, (3, 1, 1), (stride, 1, 1)).batch_norm()
    return net


def _quartznet() -> Builder:
    """Kriman et al. 2020, table 1 (15×5), on 16 seconds of sound: 1600 frames."""
    net = Builder("QuartzNet", (1600,), 64)
    net.depthwise(33, 2).conv(256, 1).batch_norm()
    for kernel, maps in ((33, 256), (39, 256), (51, 512), (63, 512), (75, 512)):
        net.depthwise(kernel).conv(maps, 1).depthwise(kernel).conv(maps, 1).batch_norm()
    return net.depthwise(87, dilation=2).conv(512, 1).conv(1024, 1)


def _raw_speech() -> list[Layer]:
    """Dai et al. 2017, table 1: M5 and M11, on four seconds at 8 kHz."""
    m5, m11 = Builder("M5", (32000,), 1), Builder("M11", (32000,), 1)
    m5.conv(128, 80, 4, 38).batch_norm().max_pool(4, 4)
    for maps in (128, 256, 512):
        m5.conv(maps, 3).batch_norm().max_pool(4, 4)
    m11.conv(64, 80, 4, 38).batch_norm().max_pool(4, 4)
    for maps in (64, 128, 256, 512):
        m11.conv(maps, 3).batch_norm().conv(maps, 3).max_pool(4, 4)
    return m5.layers + m11.layers


def _conv_tasnet() -> Builder:
    """Luo, Mesgarani 2019, section II: B 128, H 512, P 3, dilations 1 to 128, on 4 s at 8 kHz."""
    net = Builder("Conv-TasNet", (32000,), 1)
    net.conv(512, 16, 8, 4).conv(128, 1).conv(512, 1)
    for power in range(8):
        net.depthwise(3, dilation=1 << power)
    return net.conv(128, 1)


def _hifigan() -> Builder:
    """Kong et al. 2020, table 5 (V1): 32 frames become 8192 samples."""
    net = Builder("HiFi-GAN", (32,), 80)
    net.conv(512, 7)
    for maps, kernel, stride in ((256, 16, 8), (128, 16, 8), (64, 4, 2), (32, 4, 2)):
        net.up(maps, kernel, stride, (kernel - stride) // 2)
        for size in (3, 7, 11):
            net.conv(maps, size).conv(maps, size, dilation=3).conv(maps, size, dilation=5)
    return net.conv(1, 7)


def published_layers() -> list[Layer]:
    """Every layer of every network, with a batch of one; shapes that recur are not left out."""
    networks = [
        _alexnet(), _vgg(), _googlenet(), _inception(), _resnet_18(), _resnet_50(),
        _resnet_50_group_norm(), _resnext(), _densenet(), _squeezenet(), _shufflenet(),
        _mobilenet_v1(), _mobilenet_v2(), _mobilenet_v3(), _efficientnet(), _mnasnet(),
        _convnext("ConvNeXt-T", 96), _convnext("ConvNeXt-B", 128), _convmixer(),
        _regnet("RegNetX-400MF", 16, (32, 64, 160, 384)),
        _regnet("RegNetY-400MF", 8, (48, 104, 208, 440)),
        _regnet("RegNetX-3.2GF", 48, (96, 192, 432, 1008)),
        _unet(), _dcgan(), _pix2pix(), _ddpm(), _c3d(), _r2plus1d(), _quartznet(), _conv_tasnet(),
        _hifigan(),
    ]  # fmt: skip
    layers = [layer for network in networks for layer in network.layers]
    return layers + _segmentation() + _spatial_pyramids() + _raw_speech()


# ------------------------------------------------------------------------------------------
# The draw
# ------------------------------------------------------------------------------------------


def kind(layer: Layer) -> str:
    """The kind that a layer is drawn as."""
    if layer.family == MAX:
        if math.prod(layer.kernel) > 9:
            return "max pooling, large windows"
        return f"max pooling, {'padded' if any(layer.paddings) else 'strided'}"
    if not layer.maps:
        return "average pooling" if layer.family == AVERAGE_2 else layer.family
    if layer.transposed:
        return "transposed"
    if layer.ndim != 2:
        return f"{layer.ndim}-D"
    if layer.groups > 1:
        return layer.family
    if max(layer.strides) > 1:
        return "strided"
    return "pointwise" if layer.kernel == (1, 1) else "dense"


def shape(layer: Layer) -> tuple[object, ...]:
    """What a layer computes, whatever its batch, its network and its name."""
    options = (layer.strides, layer.paddings, layer.dilation, layer.groups, layer.transposed)
    return layer.family, layer.x[1:], layer.kernel, layer.maps, options


def with_batch(layer: Layer) -> Layer:
    """The layer with the batch that it is measured at."""
    batch = NUMBERS / math.prod(layer.x[1:])
    if layer.maps:
        batch = min(batch, OPERATIONS / layer.operations)
    size = min(max(round(batch), 1), LARGEST_BATCH)
    return dataclasses.replace(layer, x=(size, *layer.x[1:]))


def measurable(layer: Layer) -> bool:
    """Whether a pass takes neither less than about 1 ms nor more than about 0.2 s."""
    numbers = math.prod(layer.x)
    enough = numbers >= SMALLEST_NUMBERS or layer.operations >= SMALLEST_OPERATIONS
    return enough and numbers <= LARGEST_NUMBERS and layer.operations <= 2 * OPERATIONS


def draw(seed: int = SEED, per_kind: int = PER_KIND) -> tuple[Layer, ...]:
    """As many layers of each kind, each from another network as long as there are some."""
    taken = {shape(layer) for layer in LAYERS}
    kinds: dict[str, list[Layer]] = {}
    for layer in map(with_batch, published_layers()):
        if shape(layer) not in taken and measurable(layer):
            taken.add(shape(layer))
            kinds.setdefault(kind(layer), []).append(layer)
    drawn: list[Layer] = []
    for name in sorted(kinds):
        rng = np.random.default_rng([seed, *name.encode()])  # whatever other kinds there are
        shuffled = [kinds[name][i] for i in rng.permutation(len(kinds[name]))]
        before: Counter[str] = Counter()  # how many of its network come before each
        ranks = []
        for layer in shuffled:
            ranks.append(before[layer.network])
            before[layer.network] += 1
        order = sorted(range(len(shuffled)), key=lambda i: ranks[i])
        drawn += [shuffled[i] for i in order[:per_kind]]
    return tuple(drawn)


UNSEEN = draw()
