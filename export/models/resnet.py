"""Two-branch ResNet with the attention gate and feature concatenation: the default early-fusion network.

Paper: Naseem et al. 2025 (ResNet-18 branches, attention on the pooled feature, early fusion by concatenation before
the last fully connected layers). Ours differs where a 48-pixel crop and a car ask for it: a 3x3 stem, narrower
stages, per-image standardisation inside the graph, and a ``present`` mask trained with modality dropout.

Inside a branch the state-dict keys are those of torchvision's ResNet (``conv1.weight``, ``layer1.0.bn2.bias``, ...).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from export.errors import InputError


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016, fig. 2)."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inside != outside:
            self.downsample = nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class AttentionGate(nn.Module):
    """x * sigmoid(W(x * x) + b) on the pooled feature (Naseem et al. 2025, attention equation)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.fc(x * x))


class Branch(nn.Module):
    """One lens: uint8 or float crop [N, 1, H, W] in 0..255 -> feature [N, widths[-1]]."""

    def __init__(self, widths: Sequence[int], stem_stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, widths[0], 3, stem_stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        previous = widths[0]
        for k, width in enumerate(widths):
            stage = nn.Sequential(BasicBlock(previous, width, 1 if k == 0 else 2), BasicBlock(width, width, 1))
            self.add_module(f"layer{k + 1}", stage)
            previous = width
        self.stages = [f"layer{k + 1}" for k in range(len(widths))]
        self.gate = AttentionGate(previous)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(standardise(x.float()))))
        for name in self.stages:
            x = getattr(self, name)(x)
        return self.gate(x.mean(dim=(2, 3)))


def standardise(x: Tensor) -> Tensor:
    """Zero mean, unit deviation per image; the floor of five grey levels keeps a black frame black."""
    x = x - x.mean(dim=(1, 2, 3), keepdim=True)
    return x * torch.rsqrt((x * x).mean(dim=(1, 2, 3), keepdim=True) + 25.0)


def start_from_file(branch: Branch, path: Path) -> int:
    """Take every tensor of a torchvision-style state dict whose name and shape fit; returns how many did.

    ImageNet weights fit a branch of widths 64, 128, 256, 512 but for the stem, which has three colours and 7x7 there:
    a 3x3 stem is summed over the colours. Raises InputError when the file is none or nothing fits.
    """
    try:
        given: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
        if given["conv1.weight"].shape[1] == 3:
            given["conv1.weight"] = given["conv1.weight"].sum(dim=1, keepdim=True)
        own = branch.state_dict()
        fitting = {k: v for k, v in given.items() if k in own and v.shape == own[k].shape}
    except FileNotFoundError:
        raise InputError(f"{path}: no such weights ('model.pretrained')") from None
    except Exception as e:
        raise InputError(f"{path}: not a ResNet state dict ({type(e).__name__}); save one with torch.save") from None
    if not any(v.ndim == 4 for v in fitting.values()):
        raise InputError(f"{path}: no convolution fits the widths of this recipe; ResNet-18 needs [64, 128, 256, 512]")
    branch.load_state_dict(fitting, strict=False)
    return len(fitting)


class SingleLens(nn.Module):
    """One branch with its own classifier: step one of the three-step training, on crops of either lens."""

    def __init__(self, classes: int, widths: Sequence[int], stem_stride: int, dropout: float) -> None:
        super().__init__()
        self.branch = Branch(widths, stem_stride)
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(widths[-1], classes))

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, 1, H, W] -> logits float32 [N, classes]."""
        return self.head(self.branch(x))


class DualLens(nn.Module):
    """Both branches; a lens that is not present contributes a zero feature."""

    def __init__(self, classes: int, widths: Sequence[int], stem_stride: int, dropout: float) -> None:
        super().__init__()
        width = widths[-1]
        self.visible = Branch(widths, stem_stride)
        self.infrared = Branch(widths, stem_stride)
        self.head = nn.Sequential(
            nn.Linear(2 * width + 2, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(width, classes),
        )  # fmt: skip

    def forward(self, visible: Tensor, infrared: Tensor, present: Tensor) -> Tensor:
        """visible, infrared: [N, 1, H, W]; present: float32 [N, 2] of 0 or 1 -> logits float32 [N, classes]."""
        v = self.visible(visible) * present[:, :1]
        i = self.infrared(infrared) * present[:, 1:]
        return self.head(torch.cat((v, i, present), dim=1))

    def start_from(self, single: SingleLens) -> None:
        """Step two: both branches begin as the trained single-lens branch."""
        self.visible.load_state_dict(single.branch.state_dict())
        self.infrared.load_state_dict(single.branch.state_dict())


class DeviceGraph(nn.Module):
    """The one signature of every bundle: raw uint8 [N, H, W, 1] crops and ``present`` in, logits out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, visible: Tensor, infrared: Tensor, present: Tensor) -> Tensor:
        n, h, w, _ = visible.shape
        return self.model(visible.reshape(n, 1, h, w), infrared.reshape(n, 1, h, w), present)
