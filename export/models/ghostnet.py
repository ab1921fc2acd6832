"""GhostNet (Han et al. 2020, "GhostNet: More Features from Cheap Operations"), which torchvision does not have.

A ghost module makes half of its channels with a convolution and the other half from those, by a cheap depth-wise one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.models.resnet import standardise

BOTTLENECKS = (
    (3, 16, 16, False, 1), (3, 48, 24, False, 2), (3, 72, 24, False, 1), (5, 72, 40, True, 2), (5, 120, 40, True, 1),
    (3, 240, 80, False, 2), (3, 200, 80, False, 1), (3, 184, 80, False, 1), (3, 184, 80, False, 1),
    (3, 480, 112, True, 1), (3, 672, 112, True, 1), (5, 672, 160, True, 2), (5, 960, 160, False, 1),
    (5, 960, 160, True, 1), (5, 960, 160, False, 1), (5, 960, 160, True, 1),
)  # fmt: skip
"""kernel, expansion, output channels, squeeze and excitation, stride (Han et al. 2020, table 1)"""
LAST = 960


def _conv(inside: int, outside: int, kernel: int, stride: int = 1, groups: int = 1, relu: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(inside, outside, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(outside),
    ]  # fmt: skip
    return nn.Sequential(*layers, nn.ReLU()) if relu else nn.Sequential(*layers)


class Ghost(nn.Module):
    """[N, inside, H, W] -> [N, outside, H, W]; the second half is a 3x3 depth-wise convolution of the first."""

    def __init__(self, inside: int, outside: int, relu: bool) -> None:
        super().__init__()
        own = (outside + 1) // 2
        self.outside = outside
        self.primary = _conv(inside, own, 1, relu=relu)
        self.cheap = _conv(own, own, 3, groups=own, relu=relu)

    def forward(self, x: Tensor) -> Tensor:
        own = self.primary(x)
        return torch.cat((own, self.cheap(own)), dim=1)[:, : self.outside]


class Squeeze(nn.Module):
    """Channel weights from the pooled map, by a hard sigmoid."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(4, channels // 16 * 4)
        self.reduce = nn.Conv2d(channels, inner, 1)
        self.expand = nn.Conv2d(inner, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.expand(torch.relu(self.reduce(x.mean(dim=(2, 3), keepdim=True))))
        return x * functional.relu6(weights + 3.0) / 6.0


class Bottleneck(nn.Module):
    """Ghost expansion, depth-wise convolution where it strides, squeeze and excitation, ghost projection, shortcut."""

    def __init__(self, inside: int, kernel: int, expansion: int, outside: int, squeeze: bool, stride: int) -> None:
        super().__init__()
        parts: list[nn.Module] = [Ghost(inside, expansion, relu=True)]
        if stride > 1:
            parts.append(_conv(expansion, expansion, kernel, stride, groups=expansion, relu=False))
        if squeeze:
            parts.append(Squeeze(expansion))
        self.body = nn.Sequential(*parts, Ghost(expansion, outside, relu=False))
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inside != outside:
            depthwise = _conv(inside, inside, kernel, stride, groups=inside, relu=False)
            self.shortcut = nn.Sequential(*depthwise, *_conv(inside, outside, 1, relu=False))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x) + self.shortcut(x)
        return out


class GhostNet(nn.Module):
    """Crop [N, 1, H, W] in 0..255 -> pooled feature [N, 960]; ``stem_stride`` 2 is the paper's, for 224 pixels."""

    def __init__(self, stem_stride: int) -> None:
        super().__init__()
        blocks: list[nn.Module] = [_conv(1, 16, 3, stem_stride)]
        inside = 16
        for kernel, expansion, outside, squeeze, stride in BOTTLENECKS:
            blocks.append(Bottleneck(inside, kernel, expansion, outside, squeeze, stride))
            inside = outside
        self.blocks = nn.Sequential(*blocks, _conv(inside, LAST, 1))
        self.features = LAST

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.blocks(standardise(x.float()))
        return out.mean(dim=(2, 3))
