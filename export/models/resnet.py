"""ResNet-18 (our own file, keys as in torchvision) and the default early-fusion network made of two of them.

Paper: Naseem et al. 2025 (ResNet-18 branches, attention on the pooled feature, early fusion by concatenation before
the last fully connected layers). Ours differs where a 48-pixel crop and a car ask for it: a 3x3 stem, narrower
stages, per-image standardisation inside the graph, and a ``present`` mask trained with modality dropout.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from export.errors import InputError
from export.models.network import BOTH, Batch, Network, one_branch

STANDARD_STEM = 7


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


class ResNet(nn.Module):
    """Crop [N, 1, H, W] in 0..255 -> pooled feature [N, widths[-1]]; widths 64, 128, 256, 512 make it ResNet-18.

    ``blocks``: how many each stage has, two where not said.

    ``stem`` is the side of the first convolution: 7 with stride 2 and max pooling is the standard one, for crops of 112
    pixels and more; 3 without pooling keeps what little a crop of 48 pixels has. State-dict keys are torchvision's
    (``conv1.weight``, ``layer1.0.bn2.bias``, ...).
    """

    def __init__(
        self, widths: Sequence[int], stem_stride: int, stem: int = 3, blocks: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, widths[0], stem, stem_stride, stem // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.maxpool: nn.Module = nn.MaxPool2d(3, 2, 1) if stem == STANDARD_STEM else nn.Identity()
        previous = widths[0]
        for k, (width, depth) in enumerate(zip(widths, blocks or [2] * len(widths), strict=True)):
            first = BasicBlock(previous, width, 1 if k == 0 else 2)
            self.add_module(
                f"layer{k + 1}", nn.Sequential(first, *(BasicBlock(width, width, 1) for _ in range(depth - 1)))
            )
            previous = width
        self.stages = [f"layer{k + 1}" for k in range(len(widths))]
        self.features = previous

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(torch.relu(self.bn1(self.conv1(standardise(x.float())))))
        for name in self.stages:
            x = getattr(self, name)(x)
        return x.mean(dim=(2, 3))

    def last_map(self) -> nn.Module:
        """The module whose output is the last map before pooling, for class activation maps."""
        last: nn.Module = getattr(self, self.stages[-1])
        return last


class Branch(ResNet):
    """A ResNet with the attention gate on its pooled feature."""

    def __init__(
        self, widths: Sequence[int], stem_stride: int, stem: int = 3, blocks: Sequence[int] | None = None
    ) -> None:
        super().__init__(widths, stem_stride, stem, blocks)
        self.gate = AttentionGate(self.features)

    def forward(self, x: Tensor) -> Tensor:
        gated: Tensor = self.gate(super().forward(x))
        return gated


def standardise(x: Tensor) -> Tensor:
    """Zero mean, unit deviation per image; the floor of five grey levels keeps a black frame black."""
    x = x - x.mean(dim=(1, 2, 3), keepdim=True)
    return x * torch.rsqrt((x * x).mean(dim=(1, 2, 3), keepdim=True) + 25.0)


def start_from_file(branch: nn.Module, path: Path) -> frozenset[str]:
    """Take every tensor of a torchvision-style state dict whose name and shape fit; returns the names of those.

    ImageNet weights fit a branch of widths 64, 128, 256, 512. Their stem has three colours, which are summed, and is
    7x7: it is taken with ``stem`` = 7 only. Raises InputError when the file is none or nothing fits.
    """
    try:
        given: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
        if given["conv1.weight"].shape[1] == 3:
            given["conv1.weight"] = given["conv1.weight"].sum(dim=1, keepdim=True)
        own = branch.state_dict()
        fitting = {k: v for k, v in given.items() if k in own and v.shape == own[k].shape}
    except FileNotFoundError:
        raise InputError(f"{path}: no such weights ([start] of the recipe)") from None
    except Exception as e:
        raise InputError(f"{path}: not a ResNet state dict ({type(e).__name__}); save one with torch.save") from None
    if not any(v.ndim == 4 for v in fitting.values()):
        raise InputError(f"{path}: no convolution fits the widths of this recipe; ResNet-18 needs [64, 128, 256, 512]")
    branch.load_state_dict(fitting, strict=False)
    return frozenset(fitting)


class Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    widths: list[int] = Field([64, 128, 256, 512], min_length=1)
    """channels of the four stages"""
    stem_stride: int = 1
    dropout: float = 0.2


class DualResNet(Network):
    """Two branches; a lens that is not present contributes a zero feature.

    Two steps: ``single`` trains one branch, with a classifier of its own, on crops of either lens; ``joined`` begins
    both branches with it and trains everything, with modality dropout.
    """

    needs = ()
    fusion = "early: attention-gated features of both lenses, concatenated with the present mask"

    def __init__(self, o: Options, classes: int) -> None:
        super().__init__()
        width = o.widths[-1]
        self.visible = Branch(o.widths, o.stem_stride)
        self.infrared = Branch(o.widths, o.stem_stride)
        self.head = nn.Sequential(
            nn.Linear(2 * width + 2, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(o.dropout),
            nn.Linear(width, classes),
        )  # fmt: skip
        self.alone = nn.Sequential(nn.Dropout(o.dropout), nn.Linear(width, classes))

    def forward(self, visible: Tensor, infrared: Tensor, present: Tensor) -> Tensor:
        """visible, infrared: [N, 1, H, W]; present: float32 [N, 2] of 0 or 1 -> logits float32 [N, classes]."""
        v = self.visible(visible) * present[:, :1]
        i = self.infrared(infrared) * present[:, 1:]
        out: Tensor = self.head(torch.cat((v, i, present), dim=1))
        return out

    def predict(self, batch: Batch, step: str) -> Tensor:
        """``single...``: alternate rows show the visible and the infrared lens; out of training the visible one."""
        if not one_branch(step):
            return super().predict(batch, step)
        x = batch[0].clone()
        if self.training:
            x[1::2] = batch[1][1::2]
        out: Tensor = self.alone(self.visible(x))
        return out

    def begin(self, step: str) -> None:
        if step == "joined":
            self.infrared.load_state_dict(self.visible.state_dict())

    def trainable(self, step: str) -> Iterator[tuple[str, nn.Parameter]]:
        parts = ("visible.", "alone.") if one_branch(step) else ("visible.", "infrared.", "head.")
        return ((n, p) for n, p in self.named_parameters() if n.startswith(parts))

    def cam_layers(self) -> dict[str, nn.Module]:
        return {lens: getattr(self, lens).last_map() for lens in BOTH}


class DeviceGraph(nn.Module):
    """The one signature of every bundle: raw uint8 [N, H, W, 1] crops and ``present`` in, logits out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, visible: Tensor, infrared: Tensor, present: Tensor) -> Tensor:
        n, h, w, _ = visible.shape
        # The cast comes first: TensorRT takes uint8 into nothing else.
        return self.model(visible.float().reshape(n, 1, h, w), infrared.float().reshape(n, 1, h, w), present)
