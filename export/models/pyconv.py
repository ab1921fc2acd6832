"""PyConv-SE18: ResNet-18 with pyramidal convolutions and channel attention (Zou et al. 2021, section 4.1).

In every basic block the first 3x3 convolution becomes a pyramidal one (Duta et al. 2020), the second a 1x1, after
which a squeeze-and-excitation module weighs the channels. The paper names the ingredients only; the levels are those
of PyConvResNet (kernels 3, 5, 7, 9 in the first stage, one fewer in each later stage).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional

from export.losses import large_margin_cosine
from export.models.network import Batch, Network
from export.models.resnet import standardise

KERNELS = ((3, 5, 7, 9), (3, 5, 7), (3, 5), (3,))
GROUPS = ((1, 4, 8, 16), (1, 4, 8), (1, 4), (1,))
"""per stage, per level (Duta et al. 2020, table 1)"""


class Options(BaseModel):
    """What a recipe may choose; the defaults are the paper's where it says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    widths: tuple[int, int, int, int] = (64, 128, 256, 512)
    """channels of the four stages, multiples of four; the paper's are ResNet-18's"""
    stem_stride: Literal[1, 2] = 1
    """of the 7x7 convolution. ResNet's own, 2 and a max pool, is meant for 224 pixels and would leave 2x2 of a
    44-pixel face; here there is no pool, and stride 1 leaves 6x6, stride 2 leaves 3x3 at a quarter of the work"""
    reduction: int = Field(default=16, ge=1)
    """channels of a stage over those inside its squeeze-and-excitation module (of which there are at least four)"""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """of the pooled feature, before the last fully connected layer"""
    lmc_scale: float = Field(default=16.0, gt=0)
    """s of eq. 11, which the paper does not give: above 5.5, what Wang et al. 2018, eq. 6, ask of 7 classes at 0.99"""
    lmc_margin: float = Field(default=0.2, ge=0, le=1)
    """m of eq. 11, on the cosine; the paper does not give it"""
    lmc_weight: float = Field(default=0.1, ge=0)
    """lambda of eq. 12"""
    crop: int = Field(default=44, ge=0)
    """side of the centre crop that the network sees, pixels; 0 or a side not below the input's means the whole input.
    The paper crops at random in training: the training views are already shifted at random"""
    lens: Literal["visible", "infrared"] = "visible"
    """the one lens it looks at"""


def splits(width: int, levels: int) -> tuple[int, ...]:
    """Output channels per level, sum ``width``: quarters, of which the last level of three takes two."""
    q = width // 4
    return {1: (width,), 2: (width // 2,) * 2, 3: (q, q, 2 * q), 4: (q,) * 4}[levels]


class PyConv(nn.Module):
    """Pyramidal convolution (Duta et al. 2020): parallel levels, larger kernels in more groups, outputs concatenated.

    Each level carries its share of the batch norm that follows (the same arithmetic, channel by channel), so that the
    exporter folds it. Narrow networks have fewer channels in a level than the paper has groups: the groups are then
    the greatest common divisor of groups, input and output channels.
    """

    def __init__(
        self, inside: int, outside: int, stride: int, kernels: tuple[int, ...], groups: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.levels = len(kernels)
        parts = zip(splits(outside, len(kernels)), kernels, groups, strict=True)
        for level, (n, k, g) in enumerate(parts, 1):
            conv = nn.Conv2d(inside, n, k, stride, k // 2, groups=math.gcd(g, inside, n), bias=False)
            self.add_module(f"conv{level}", conv)
            self.add_module(f"bn{level}", nn.BatchNorm2d(n))

    def forward(self, x: Tensor) -> Tensor:
        """[N, inside, H, W] -> [N, outside, ceil(H / stride), ceil(W / stride)]."""
        levels = range(1, self.levels + 1)
        return torch.cat(
            [getattr(self, f"bn{k}")(self._convolved(getattr(self, f"conv{k}"), x)) for k in levels], dim=1
        )

    def _convolved(self, conv: nn.Module, x: Tensor) -> Tensor:
        """In training on a CPU few channels per group are dearer than the whole: the zeros are then multiplied too."""
        if not self.training or x.is_cuda or not isinstance(conv, nn.Conv2d) or not _slow(conv):
            out: Tensor = conv(x)
            return out
        return functional.conv2d(x, block_diagonal(conv.weight, conv.groups), None, conv.stride, conv.padding)


def _slow(conv: nn.Conv2d) -> bool:
    """Measured with oneDNN in bfloat16: dense is faster below 64 input channels, slower from there on."""
    return conv.groups > 1 and conv.in_channels < 64


def block_diagonal(weight: Tensor, groups: int) -> Tensor:
    """Kernels of a grouped convolution [O, I / groups, k, k] -> of the equal dense one [O, I, k, k]."""
    parts = weight.unflatten(0, (groups, -1)).unsqueeze(2)
    mask = torch.eye(groups, dtype=weight.dtype, device=weight.device).reshape(groups, 1, groups, 1, 1, 1)
    return (parts * mask).flatten(2, 3).flatten(0, 1)


class SqueezeExcite(nn.Module):
    """Channel attention: x * sigmoid(W2 relu(W1 mean(x))) (Hu et al. 2018, eq. 2-4)."""

    def __init__(self, width: int, reduction: int) -> None:
        super().__init__()
        inner = max(4, width // reduction)
        self.squeeze, self.excite = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.sigmoid(self.excite(torch.relu(self.squeeze(x.mean(dim=(2, 3))))))
        return x * weight[:, :, None, None]


class Block(nn.Module):
    """Pyramidal convolution, 1x1 convolution, channel attention, shortcut (Zou et al. 2021, fig. 5)."""

    def __init__(self, inside: int, outside: int, stride: int, stage: int, reduction: int) -> None:
        super().__init__()
        self.pyramid = PyConv(inside, outside, stride, KERNELS[stage], GROUPS[stage])
        self.conv2 = nn.Conv2d(outside, outside, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.attention = SqueezeExcite(outside, reduction)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inside != outside:
            self.downsample = nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.pyramid(x))
        return torch.relu(self.attention(self.bn2(self.conv2(y))) + self.downsample(x))


class PyConvSE18(Network):
    """One lens, one branch; cross entropy + 0.1 * large-margin cosine loss (Zou et al. 2021, eq. 12)."""

    def __init__(self, options: Options, classes: int) -> None:
        super().__init__()
        self.options = options
        self.uses = self.needs = (options.lens,)
        self.fusion = f"none: the {options.lens} lens alone"
        self.conv1 = nn.Conv2d(1, options.widths[0], 7, options.stem_stride, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(options.widths[0])
        self.stages = nn.Sequential(*(self._stage(k) for k in range(4)))
        self.dropout = nn.Dropout(options.dropout)
        self.fc = nn.Linear(options.widths[-1], classes)

    def _stage(self, k: int) -> nn.Sequential:
        o = self.options
        inside, width = o.widths[max(0, k - 1)], o.widths[k]
        return nn.Sequential(
            Block(inside, width, 1 if k == 0 else 2, k, o.reduction), Block(width, width, 1, k, o.reduction)
        )

    def feature(self, image: Tensor) -> Tensor:
        """uint8 or float [N, 1, S, S] in 0..255 -> pooled feature [N, widths[-1]]."""
        x = standardise(self._cropped(image).float())
        x = torch.relu(self.bn1(self.conv1(x)))
        pooled: Tensor = self.stages(x).mean(dim=(2, 3))
        return pooled

    def _cropped(self, image: Tensor) -> Tensor:
        side, crop = image.shape[-1], self.options.crop
        if crop == 0 or crop >= side:
            return image
        edge = (side - crop) // 2
        return image[..., edge : edge + crop, edge : edge + crop]

    def classify(self, image: Tensor) -> Tensor:
        """One image per face, as :meth:`feature` -> logits [N, classes]."""
        logits: Tensor = self.fc(self.dropout(self.feature(image)))
        return logits

    def forward(self, visible: Tensor, infrared: Tensor, present: Tensor) -> Tensor:
        return self.classify(visible if self.options.lens == "visible" else infrared)

    def loss(self, batch: Batch, step: str, smoothing: float) -> Tensor:
        return self.loss_of(batch[0] if self.options.lens == "visible" else batch[1], batch[3], smoothing)

    def loss_of(self, image: Tensor, labels: Tensor, smoothing: float) -> Tensor:
        """Eq. 12 for one image per face, scalar. Only the cross entropy is smoothed: the margin needs one class."""
        o, feature = self.options, self.feature(image)
        logits = self.fc(self.dropout(feature)).float()
        entropy = functional.cross_entropy(logits, labels, label_smoothing=smoothing)
        return entropy + o.lmc_weight * large_margin_cosine(feature, self.fc.weight, labels, o.lmc_scale, o.lmc_margin)
