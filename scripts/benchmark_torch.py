"""The PyTorch side of `benchmark.py`, in a process of its own, perhaps of another Python.

It reads one request a line from standard input, as JSON, and answers each with a line: for
"start" it builds what is to be measured, for "time" it runs it once and gives the seconds.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from benchmark_suite import LAYERS, MOBILENET, NETWORKS, Layer
from torch import nn
from torch.nn import functional

Run = Callable[[], Any]


def layer_pass(layer: Layer, what: str) -> Run:
    """One pass of a layer, on channels-last tensors."""
    formats = {3: torch.contiguous_format, 4: torch.channels_last, 5: torch.channels_last_3d}
    memory = formats[len(layer.x)]

    def tensor(*shape: int) -> torch.Tensor:
        return torch.randn(shape).contiguous(memory_format=memory)

    n, *space, channels = layer.x
    x = tensor(n, channels, *space)
    if layer.maps:
        shape = layer.w[-1:] + layer.w[-2:-1] + layer.w[:-2]
        w = tensor(*shape)
        options = ([layer.stride] * layer.ndim, [layer.padding] * layer.ndim, [1] * layer.ndim)
        rest = (layer.transposed, [0] * layer.ndim, layer.groups)
        y = torch.convolution(x, w, None, *options, *rest)
        dy = torch.randn_like(y)
        back = torch.ops.aten.convolution_backward
        wanted = {"input gradient": [True, False, False], "kernel gradient": [False, True, False]}
        if what == "forward":
            return lambda: torch.convolution(x, w, None, *options, *rest)
        return lambda: back(dy, x, w, None, *options, *rest, wanted[what])
    x.requires_grad_()
    f: Any
    if layer.family == "batch norm":
        norm = nn.BatchNorm2d(channels)
        f, inputs = norm, [x, norm.weight, norm.bias]
    else:
        kind = "max_pool" if layer.family == "max pooling" else "avg_pool"
        pool = getattr(functional, f"{kind}{layer.ndim}d")
        f, inputs = lambda x: pool(x, layer.kernel, layer.stride, layer.padding), [x]
    with torch.no_grad():
        dy = torch.randn_like(f(x))
    if what == "backward":
        y = f(x)
        return lambda: torch.autograd.grad(y, inputs, dy, retain_graph=True)
    return lambda: torch.autograd.grad(f(x), inputs, dy)


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


def network(name: str) -> nn.Module:
    """The network of this name."""

    def layer(a: int, b: int, size: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
        padding = size // 2
        conv = nn.Conv2d(a, b, size, stride, padding, groups=groups, bias=False)
        return [conv, nn.BatchNorm2d(b)]

    if name == "lenet5":
        return nn.Sequential(
            nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
        )  # fmt: skip
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
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10))


def training_step(index: int) -> Run:
    """One step of SGD with momentum, in eager mode."""
    spec = NETWORKS[index]
    height, width, channels = spec.image
    model: Any = network(spec.name)
    model.to(memory_format=torch.channels_last)
    x = torch.randn(spec.batch, channels, height, width).contiguous(
        memory_format=torch.channels_last
    )
    t = torch.arange(spec.batch) % 10
    optimizer = torch.optim.SGD(model.parameters(), 0.01, 0.9)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        functional.cross_entropy(model(x), t).backward()
        optimizer.step()

    return step


def main() -> None:
    """Answers requests until standard input ends."""
    run: Any = None
    print(json.dumps({"torch": torch.__version__, "threads": torch.get_num_threads()}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "start":
            index = request["index"]
            run = (
                layer_pass(LAYERS[index], request["pass"])
                if request["kind"] == "layer"
                else training_step(index)
            )
            run()
            print("{}", flush=True)
            continue
        started = time.perf_counter()
        run()
        seconds = time.perf_counter() - started
        time.sleep(0.01)  # its threads wait for more work for a while, and would be in the way
        print(json.dumps({"seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
