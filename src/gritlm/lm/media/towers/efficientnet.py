"""EfficientNet-Lite0, a small image network (Tan and Le, 2019; Apache-2.0), as an image tower.

Shapes: B images, C channels, H x W grid, M positions of the grid, F features of a position.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

SIZE = 224  # pixels of a side of an input image
GRID = 7  # positions of a side of the features
_FINE = 14  # positions of a side of the finer features
_FINE_STAGE = 4  # index of the stage whose output is the finer features
FEATURES = 1280 + 112 * (_FINE // GRID) ** 2

# Blocks, kernel size, stride, expansion, channels.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


def prepared(pixels_HWC: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return an image (3, H, W) as the network reads it: square on white, values from -1 to 1."""
    from PIL import Image

    image = Image.fromarray(pixels_HWC)
    side = max(image.size)
    square = Image.new("RGB", (side, side), "white")
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    small = square.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    values_HWC = np.asarray(small, dtype=np.float32)
    return ((values_HWC - np.float32(127)) / np.float32(128)).transpose(2, 0, 1)


class EfficientNetLite0(nn.Module):
    """The network, without its classifier, in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _Convolution(3, 32, kernel=3, stride=2)
        channels = 32
        stages = []
        for blocks, kernel, stride, expansion, out in _STAGES:
            stage = []
            for index in range(blocks):
                first = stride if index == 0 else 1
                stage.append(_Block(channels, out, kernel=kernel, stride=first, grow=expansion))
                channels = out
            stages.append(nn.Sequential(*stage))
        self.stages = nn.ModuleList(stages)
        self.head = _Convolution(channels, 1280, kernel=1)
        self.eval().requires_grad_(False)

    @staticmethod
    def from_published(weights: dict[str, Tensor]) -> EfficientNetLite0:
        """Return the network with the weights of its published PyTorch file."""
        network = EfficientNetLite0()
        network.load_state_dict(_renamed(weights))
        return network

    @torch.no_grad()
    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """Return the features (B, M, F) of the grid, those of a finer grid in blocks of four."""
        x = self.stem(pixels_BCHW)
        fine = x
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index == _FINE_STAGE:
                fine = x
        both = torch.cat([self.head(x), F.pixel_unshuffle(fine, _FINE // GRID)], dim=1)
        return both.flatten(2).transpose(1, 2)


class _Convolution(nn.Module):
    """A convolution with TensorFlow's padding, batch normalisation, and ReLU6 or none."""

    def __init__(
        self,
        inputs: int,
        out: int,
        *,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        relu: bool = True,
    ) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inputs, out, kernel, stride, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(out, eps=1e-3)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.convolution(F.pad(x, self._padding(x.shape[-1]))))
        return F.relu6(y) if self.relu else y

    def _padding(self, side: int) -> tuple[int, int, int, int]:
        kernel = self.convolution.kernel_size[0]
        stride = self.convolution.stride[0]
        missing = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        before = missing // 2
        return before, missing - before, before, missing - before


class _Block(nn.Module):
    """An inverted residual block (MBConv) without squeeze and excitation."""

    def __init__(self, inputs: int, out: int, *, kernel: int, stride: int, grow: int) -> None:
        super().__init__()
        inner = inputs * grow
        self.expand = _Convolution(inputs, inner, kernel=1) if grow > 1 else nn.Identity()
        self.depthwise = _Convolution(inner, inner, kernel=kernel, stride=stride, groups=inner)
        self.project = _Convolution(inner, out, kernel=1, relu=False)
        self.residual = stride == 1 and inputs == out

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


_PARTS = {
    "_expand_conv": "expand.convolution",
    "_bn0": "expand.norm",
    "_depthwise_conv": "depthwise.convolution",
    "_bn1": "depthwise.norm",
    "_project_conv": "project.convolution",
    "_bn2": "project.norm",
}
_TOP = {
    "_conv_stem": "stem.convolution",
    "_bn0": "stem.norm",
    "_conv_head": "head.convolution",
    "_bn1": "head.norm",
}


def _renamed(weights: dict[str, Any]) -> dict[str, Tensor]:
    """Return published weights under the names of this module, without the classifier."""
    places = [
        f"stages.{stage}.{index}"
        for stage, (blocks, *_) in enumerate(_STAGES)
        for index in range(blocks)
    ]
    found = {}
    for name, value in weights.items():
        first, _, rest = name.partition(".")
        if first == "_blocks":
            number, part, leaf = rest.split(".")
            found[f"{places[int(number)]}.{_PARTS[part]}.{leaf}"] = value
        elif first in _TOP:
            found[f"{_TOP[first]}.{rest}"] = value
    return found
