"""The PyTorch side of `benchmark.py`, in a process of its own, perhaps of another Python.

`prepare` builds a layer's pass or a network's training step, in eager mode or by `torch.compile`.
"""

from collections.abc import Callable
from typing import Any

import torch
from benchmark_process import Run, serve
from benchmark_suite import (
    BATCH_NORM,
    CLASSES,
    CONVNEXT,
    CROSS_ENTROPY,
    GELU,
    GROUP_NORM,
    LAYER_NORM,
    MAX,
    MOBILENET,
    SAMPLING,
    UNET,
    UNET_BOTTOM,
    VGG,
    VGG_DENSE,
    Layer,
    Network,
)
from torch import nn
from torch._functorch import config as functorch_config
from torch.nn import functional

LAYER_SCALE = 1e-6
EPS = 1e-5

Tensors = dict[str, torch.Tensor]


# ------------------------------------------------------------------------------------------
# Layers
# ------------------------------------------------------------------------------------------


def layer_tensors(layer: Layer) -> Tensors:
    """Random operands of a layer, named and ordered as `benchmark_layers.layer_arrays` has them."""
    n, *space, channels = layer.x
    tensors = {"x": torch.randn(n, channels, *space)}
    if layer.maps:
        tensors["w"] = torch.randn(layer.w[-1:] + layer.w[-2:-1] + layer.w[:-2])
    elif layer.family in (BATCH_NORM, LAYER_NORM, GROUP_NORM):
        tensors |= {"gamma": torch.randn(channels), "beta": torch.randn(channels)}
    elif layer.family == CROSS_ENTROPY:
        tensors["labels"] = torch.randint(channels, (n, *space))
    elif layer.family == SAMPLING:
        tensors["grid"] = 2.1 * torch.rand(n, *space, len(space)) - 1.05
    return tensors | {"dy": torch.randn_like(layer_function(layer)(*tensors.values()))}


def layer_function(layer: Layer) -> Callable[..., torch.Tensor]:
    """The layer as a function of its operands, which have their channels second."""
    if layer.maps:
        return lambda x, w: torch.convolution(x, w, None, *_convolution_options(layer))
    if layer.kernel:
        kind = "max_pool" if layer.family == MAX else "avg_pool"
        pool = getattr(functional, f"{kind}{layer.ndim}d")
        return lambda x: pool(x, layer.kernel, layer.strides, layer.paddings)

    def batch_norm(x: torch.Tensor, gamma: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
        return functional.batch_norm(x, None, None, gamma, beta, training=True, eps=EPS)

    def layer_norm(x: torch.Tensor, gamma: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
        y = functional.layer_norm(x.movedim(1, -1), gamma.shape, gamma, beta, EPS)
        return y.movedim(-1, 1)

    def group_norm(x: torch.Tensor, gamma: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
        return functional.group_norm(x, layer.groups, gamma, beta, EPS)

    functions: dict[str, Callable[..., torch.Tensor]] = {
        BATCH_NORM: batch_norm,
        LAYER_NORM: layer_norm,
        GROUP_NORM: group_norm,
        SAMPLING: lambda x, grid: functional.grid_sample(x, grid, align_corners=False),
        GELU: lambda x: functional.gelu(x, approximate="tanh"),
        CROSS_ENTROPY: lambda x, labels: functional.cross_entropy(x, labels, reduction="none"),
    }
    return functions[layer.family]


def _convolution_options(layer: Layer) -> list[Any]:
    dilation = [layer.dilation] * layer.ndim
    options = [list(layer.strides), list(layer.paddings), dilation]
    return [*options, layer.transposed, [0] * layer.ndim, layer.groups]


def layer_pass(layer: Layer, what: str, tensors: Tensors, *, compiled: bool = False) -> Run:
    """One pass of a layer, on channels-last tensors."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}

    def contiguous(tensor: torch.Tensor) -> torch.Tensor:
        if tensor is tensors.get("grid"):  # whose last axis are coordinates
            return tensor
        form = formats.get(tensor.ndim, torch.contiguous_format)
        return tensor.contiguous(memory_format=form)

    *operands, dy = map(contiguous, tensors.values())
    f = layer_function(layer)
    if layer.maps:
        if what == "forward":
            return lambda: f(*operands)
        x, w = operands
        wanted = [what == "input gradient", what == "kernel gradient", False]
        back, options = torch.ops.aten.convolution_backward, _convolution_options(layer)
        return lambda: back(dy, x, w, None, *options, wanted)[wanted.index(True)]
    if compiled:
        f = torch.compile(f)
    if what == "forward":
        return lambda: f(*operands)
    floats = [operand.requires_grad_() for operand in operands if operand.is_floating_point()]
    if what == "backward":
        y = f(*operands)
        return lambda: torch.autograd.grad(y, floats, dy, retain_graph=True)
    return lambda: torch.autograd.grad(f(*operands), floats, dy)


# ------------------------------------------------------------------------------------------
# Whole training steps
# ------------------------------------------------------------------------------------------


class Block(nn.Module):
    """A branch around which its input is added, where the sizes agree."""

    def __init__(self, branch: nn.Module, around: nn.Module | None, last: nn.Module) -> None:
        """Takes the branch, what its input goes through to be added, and the activation."""
        super().__init__()
        self.branch, self.around, self.last = branch, around, last

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The block's output."""
        y = self.branch(x)
        return self.last(y + self.around(x)) if self.around is not None else self.last(y)


def network(name: str, image: tuple[int, int, int]) -> nn.Module:
    """The network of this name, for images of (height, width, channels)."""

    def layer(a: int, b: int, size: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
        padding = size // 2
        conv = nn.Conv2d(a, b, size, stride, padding, groups=groups, bias=False)
        return [conv, nn.BatchNorm2d(b)]

    if name == "lenet5":
        return nn.Sequential(
            nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), ChannelsLast(), nn.Flatten(),
            nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, CLASSES),
        )  # fmt: skip
    if name in ("vgg", "convnext", "unet"):
        return {"vgg": _vgg, "convnext": ConvNeXt, "unet": UNet}[name](image)
    parts: list[nn.Module] = []
    around: Any
    if name == "resnet":
        parts += [*layer(3, 64, 3), nn.ReLU()]
        before = 64
        for maps in (64, 128, 256, 512):
            for block in range(2):
                stride = 2 if block == 0 and maps > 64 else 1
                branch = [*layer(before, maps, 3, stride), nn.ReLU(), *layer(maps, maps, 3)]
                around = (
                    nn.Sequential(*layer(before, maps, 1, stride)) if stride > 1 else nn.Identity()
                )
                parts.append(Block(nn.Sequential(*branch), around, nn.ReLU()))
                before = maps
    else:
        parts += [*layer(3, 32, 3), nn.ReLU6()]
        before = 32
        for expansion, maps, blocks, first in MOBILENET:
            for block in range(blocks):
                wide, stride = before * expansion, first if block == 0 else 1
                branch = [*layer(before, wide, 1), nn.ReLU6()] if expansion > 1 else []
                branch += [*layer(wide, wide, 3, stride, wide), nn.ReLU6(), *layer(wide, maps, 1)]
                around = nn.Identity() if before == maps and stride == 1 else None
                parts.append(Block(nn.Sequential(*branch), around, nn.Identity()))
                before = maps
        parts += [*layer(before, 1280, 1), nn.ReLU6()]
        before = 1280
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, CLASSES))


def _vgg(image: tuple[int, int, int]) -> nn.Module:
    height, width, before = image
    parts: list[nn.Module] = []
    for maps, count in VGG:
        for _ in range(count):
            parts += [nn.Conv2d(before, maps, 3, padding=1), nn.ReLU()]
            before = maps
        parts.append(nn.MaxPool2d(2))
    positions = (height >> len(VGG)) * (width >> len(VGG))
    return nn.Sequential(
        *parts, ChannelsLast(), nn.Flatten(), nn.Linear(positions * before, VGG_DENSE), nn.ReLU(),
        nn.Linear(VGG_DENSE, CLASSES),
    )  # fmt: skip


class ChannelsLast(nn.Module):
    """(N, C, H, W) to (N, H, W, C), which moves nothing where the memory is so already."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The same numbers."""
        return x.permute(0, 2, 3, 1)


class ConvNeXtBlock(nn.Module):
    """As the network's authors write it."""

    def __init__(self, maps: int) -> None:
        """Takes the number of maps."""
        super().__init__()
        self.depthwise = nn.Conv2d(maps, maps, 7, padding=3, groups=maps)
        self.rest = nn.Sequential(
            ChannelsLast(), nn.LayerNorm(maps, eps=1e-6), nn.Linear(maps, 4 * maps),
            nn.GELU(approximate="tanh"), nn.Linear(4 * maps, maps),
        )  # fmt: skip
        self.scale = nn.Parameter(torch.full((maps,), LAYER_SCALE))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The block's output."""
        y = self.rest(self.depthwise(x))
        return x + (self.scale * y).permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    """Stages of such blocks, and layer norms before each downsampling and after the first."""

    def __init__(self, image: tuple[int, int, int]) -> None:
        """Takes (height, width, channels)."""
        super().__init__()
        before = image[-1]
        self.norms, self.convs, self.blocks = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for maps, blocks in CONVNEXT:
            self.norms.append(nn.LayerNorm(maps if not len(self.norms) else before, eps=1e-6))
            self.convs.append(nn.Conv2d(before, maps, 2, 2))
            self.blocks.append(nn.Sequential(*(ConvNeXtBlock(maps) for _ in range(blocks))))
            before = maps
        self.head = nn.Sequential(nn.LayerNorm(before, eps=1e-6), nn.Linear(before, CLASSES))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The logits."""

        def normalized(norm: nn.Module, x: torch.Tensor) -> torch.Tensor:
            return norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

        stages = zip(self.norms, self.convs, self.blocks, strict=True)
        for group, (norm, conv, blocks) in enumerate(stages):
            x = conv(normalized(norm, x)) if group else normalized(norm, conv(x))
            x = blocks(x)
        return self.head(x.mean((2, 3)))


class UNet(nn.Module):
    """Pairs of convolutions, on smaller and smaller maps and back, with skip connections."""

    def __init__(self, image: tuple[int, int, int]) -> None:
        """Takes (height, width, channels)."""
        super().__init__()

        def pair(before: int, maps: int) -> nn.Module:
            return nn.Sequential(
                nn.Conv2d(before, maps, 3, padding=1), nn.ReLU(),
                nn.Conv2d(maps, maps, 3, padding=1), nn.ReLU(),
            )  # fmt: skip

        before = image[-1]
        self.down, self.ups, self.back = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for maps in UNET:
            self.down.append(pair(before, maps))
            before = maps
        self.bottom = pair(before, UNET_BOTTOM)
        before = UNET_BOTTOM
        for maps in reversed(UNET):
            self.ups.append(nn.ConvTranspose2d(before, maps, 2, 2))
            self.back.append(pair(2 * maps, maps))
            before = maps
        self.last = nn.Conv2d(before, CLASSES, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The logits of every pixel."""
        skipped = []
        for part in self.down:
            skipped.append(part(x))
            x = functional.max_pool2d(skipped[-1], 2)
        x = self.bottom(x)
        for up, part in zip(self.ups, self.back, strict=True):
            x = part(torch.cat([skipped.pop(), up(x)], dim=1))
        return self.last(x)


def training_step(spec: Network, *, compiled: bool = False) -> Run:
    """One step of SGD with momentum; compiled are the loss and its gradient."""
    height, width, channels = spec.image
    model: Any = network(spec.name, spec.image)
    model.to(memory_format=torch.channels_last)
    x = torch.randn(spec.batch, channels, height, width).contiguous(
        memory_format=torch.channels_last
    )
    labels = (spec.batch, *spec.labels)
    t = torch.arange(torch.Size(labels).numel()).reshape(labels) % CLASSES
    optimizer = torch.optim.SGD(model.parameters(), 0.01, 0.9)

    def loss() -> torch.Tensor:
        return functional.cross_entropy(model(x), t)

    compute = torch.compile(loss) if compiled else loss

    def step() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        value = compute()
        value.backward()
        optimizer.step()
        return value

    return step


def prepare(
    side: str,
    layer: dict[str, Any] | None = None,
    what: str = "",
    network: dict[str, Any] | None = None,
) -> Run:
    """A pass of a layer, or the training step of a network."""
    compiled = side == "torch_compile"
    if network is not None:
        return training_step(Network.from_json(network), compiled=compiled)
    assert layer is not None
    spec = Layer.from_json(layer)
    return layer_pass(spec, what, layer_tensors(spec), compiled=compiled)


if __name__ == "__main__":
    # A compiled backward pass that is run again and again from one forward pass needs its inputs.
    functorch_config.donated_buffer = False
    serve({"torch": torch.__version__, "torch_threads": torch.get_num_threads()}, prepare)
