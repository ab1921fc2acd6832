"""The systems of Naseem, Lee & Kim 2024 and Naseem et al. 2025: single modalities, early, pair-wise and late fusion.

Naseem, Lee & Kim, "Facial Expression Recognition Using Visible, IR, and MSX Images by Early and Late Fusion of Deep
Learning Models", IEEE Access 2024, figs. 3-7. Naseem et al., "Facial expression recognition using visible and IR by
early fusion of deep learning with attention mechanism", PeerJ Computer Science 2025, figs. 3-5.

The papers draw the widths of their added layers in figures only; ours halve from the backbone's 512 to 256 and 128.
Where a camera has no MSX lens, the blend is derived from the aligned pair inside the graph. The fivefold augmentation
of 2025 is not a set made five times as large beforehand: every epoch draws a new view of each pair, the same for both
lenses (`export.data.augment`, ranges in the recipes).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from torch import Tensor, nn
from torch.nn import functional

from export.models import backbones
from export.models.network import BOTH, Batch, Network
from export.models.resnet import AttentionGate, ResNet

Modality = Literal["visible", "infrared", "msx"]


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    backbone: str = "resnet18"
    """resnet18, ghostnet, or one of the compared networks of torchvision"""
    widths: list[int] = Field([64, 128, 256, 512], min_length=1)
    stem: int = 3
    """side of the first convolution; 7 is the standard stem with pooling"""
    stem_stride: int = 1
    attention: bool = False
    """the gate of Naseem et al. 2025 on the pooled feature"""
    dropout: float = 0.3
    msx_is_lens: bool = False
    """the infrared input already is the camera's MSX picture (a data set that has it); not with infrared beside it,
    since there are two inputs: all three modalities derive the blend"""


class SingleOptions(_Options):
    modality: Modality = "visible"


class FusionOptions(_Options):
    modalities: list[Modality] = ["visible", "infrared"]
    frozen: bool = False
    """1-step training: the backbones keep the weights they were given, the fusion head is trained"""

    @field_validator("modalities")
    @classmethod
    def _one_picture_an_input(cls, value: list[str], info: ValidationInfo) -> list[str]:
        if info.data.get("msx_is_lens") and "infrared" in value:
            raise ValueError("with msx_is_lens the infrared input is MSX; take infrared out, or msx_is_lens")
        return value


class PairOptions(_Options):
    attention: bool = True


class Msx(nn.Module):
    """Multispectral blend: the visible lens's fine structure laid over infrared, as the papers' camera does.

    visible, infrared: [N, 1, S, S] in 0..255 -> float32 [N, 1, S, S] in 0..255. The fine structure is what a Gaussian
    of two pixels takes away.
    """

    kernel: Tensor

    def __init__(self, sigma: float = 2.0, radius: int = 4) -> None:
        super().__init__()
        line = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
        line = line / line.sum()
        self.register_buffer("kernel", torch.outer(line, line)[None, None], persistent=False)
        self.radius = radius

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        r = self.radius
        v = visible.float()
        smooth = functional.conv2d(functional.pad(v, (r, r, r, r), mode="replicate"), self.kernel)
        return (infrared.float() + v - smooth).clamp(0.0, 255.0)


class Modal(nn.Module):
    """Backbone and added layers of one modality: both crops in, the feature before the last FC layer out."""

    def __init__(self, o: _Options, modality: Modality) -> None:
        super().__init__()
        self.modality = modality
        self.backbone = backbones.make(o.backbone, o.widths, o.stem_stride, o.stem)
        wide = self.backbone.features
        self.gate: nn.Module = AttentionGate(wide) if o.attention else nn.Identity()
        self.msx = Msx() if modality == "msx" and not o.msx_is_lens else None
        self.features = wide // 4 if modality == "infrared" else wide // 2
        self.neck = _neck(modality, wide, o.dropout)

    def pooled(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """[N, 1, S, S] of each lens -> gated backbone feature [N, widths[-1]]."""
        x = visible if self.modality == "visible" else infrared
        if self.msx is not None:
            x = self.msx(visible, infrared)
        out: Tensor = self.gate(self.backbone(x))
        return out

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        out: Tensor = self.neck(self.pooled(visible, infrared))
        return out


def _neck(modality: Modality, wide: int, dropout: float) -> nn.Sequential:
    """All added layers but the last FC: two dropouts and one FC (visible, MSX; 2024 figs. 3, 5), or three dropouts, two
    activations, a batch norm and two FC (infrared; 2024 fig. 4).

    The text of 2025 counts one dropout and one activation less in infrared; ours stays 2024's, so that the two papers'
    systems differ in the attention gate alone."""
    if modality != "infrared":
        return nn.Sequential(nn.Dropout(dropout), nn.Linear(wide, wide // 2), nn.Dropout(dropout))
    return nn.Sequential(
        nn.Dropout(dropout), nn.Linear(wide, wide // 2), nn.BatchNorm1d(wide // 2), nn.ReLU(),
        nn.Dropout(dropout), nn.Linear(wide // 2, wide // 4), nn.ReLU(), nn.Dropout(dropout),
    )  # fmt: skip


def lenses_of(modalities: Iterable[str]) -> tuple[str, ...]:
    """The lenses behind the modalities; MSX needs both."""
    wanted = set(modalities)
    return BOTH if "msx" in wanted else tuple(x for x in BOTH if x in wanted)


class SingleModality(Network):
    """ResNet-18 on one modality (2024 figs. 3-5); with the attention gate, 2025 figs. 3-4."""

    def __init__(self, o: SingleOptions, classes: int) -> None:
        super().__init__()
        self.uses = self.needs = lenses_of(["infrared" if o.msx_is_lens and o.modality == "msx" else o.modality])
        self.fusion = f"none: {o.modality} alone"
        self.modal = Modal(o, o.modality)
        self.fc = nn.Linear(self.modal.features, classes)

    def forward(self, visible: Tensor, infrared: Tensor, present: Tensor) -> Tensor:
        out: Tensor = self.fc(self.modal(visible, infrared))
        return out

    def cam_layers(self) -> dict[str, nn.Module]:
        return cam_layers({self.modal.modality: self.modal})


def cam_layers(modals: dict[str, Modal]) -> dict[str, nn.Module]:
    return {k: m.backbone.last_map() for k, m in modals.items() if isinstance(m.backbone, ResNet)}


class EarlyFusion(Network):
    """Features concatenated before the last FC layer, ReLU, FC (2024 fig. 6).

    ``frozen`` is the paper's 1-step training; its 3-step training starts the branches from trained single modalities
    (``[start]`` of the recipe) and fine-tunes everything.
    """

    def __init__(self, o: FusionOptions, classes: int) -> None:
        super().__init__()
        self.uses = self.needs = lenses_of(o.modalities)
        self.fusion = f"early: features of {' + '.join(o.modalities)} concatenated before the last FC layer"
        self.branches = nn.ModuleDict({m: Modal(o, m) for m in o.modalities})
        self.fc = nn.Linear(sum(b.features for b in self.modals().values()), classes)
        self.frozen = o.frozen

    def modals(self) -> dict[str, Modal]:
        return {k: m for k, m in self.branches.items() if isinstance(m, Modal)}

    def forward(self, visible: Tensor, infrared: Tensor, present: Tensor) -> Tensor:
        joined = torch.cat([m(visible, infrared) for m in self.modals().values()], dim=1)
        out: Tensor = self.fc(torch.relu(joined))
        return out

    def begin(self, step: str) -> None:
        for modal in self.modals().values():
            modal.backbone.requires_grad_(not self.frozen)

    def train(self, mode: bool = True) -> EarlyFusion:
        """Frozen backbones also keep their batch statistics."""
        super().train(mode)
        for modal in self.modals().values():
            modal.backbone.train(mode and not self.frozen)
        return self

    def cam_layers(self) -> dict[str, nn.Module]:
        return cam_layers(self.modals())


class PairFusion(Network):
    """Gated features of both lenses interleaved (v1, i1, v2, i2, ...), FC 1024->256, ReLU, batch norm, dropout,
    FC 256->K (2025 fig. 5). Dropout stands before the last layer: behind it, it would silence classes."""

    fusion = "early: pooled features of both lenses interleaved pair-wise"

    def __init__(self, o: PairOptions, classes: int) -> None:
        super().__init__()
        self.branches = nn.ModuleDict({"visible": Modal(o, "visible"), "infrared": Modal(o, "infrared")})
        for modal in self.branches.values():
            modal.neck = nn.Identity()  # the pooled feature is fused, not a single modality's own layers
        wide = self.modal("visible").backbone.features
        self.head = nn.Sequential(
            nn.Linear(2 * wide, wide // 2), nn.ReLU(), nn.BatchNorm1d(wide // 2), nn.Dropout(o.dropout),
            nn.Linear(wide // 2, classes),
        )  # fmt: skip

    def modal(self, lens: str) -> Modal:
        found = self.branches[lens]
        assert isinstance(found, Modal)
        return found

    def forward(self, visible: Tensor, infrared: Tensor, present: Tensor) -> Tensor:
        pair = [self.modal(lens).pooled(visible, infrared) for lens in BOTH]
        out: Tensor = self.head(torch.stack(pair, dim=2).flatten(1))
        return out

    def cam_layers(self) -> dict[str, nn.Module]:
        return cam_layers({lens: self.modal(lens) for lens in BOTH})


class LateFusion(Network):
    """Weighted sum of the single modalities' class probabilities (2024 fig. 7); nothing is trained.

    The weights are searched on the validation set, in steps of 0.1 on the simplex; ties go to the more even weights.
    """

    weights: Tensor

    def __init__(self, o: FusionOptions, classes: int) -> None:
        super().__init__()
        self.uses = self.needs = lenses_of(o.modalities)
        self.fusion = f"late: weighted sum of {' + '.join(o.modalities)}"
        singles = {m: SingleModality(SingleOptions(modality=m, **_common(o)), classes) for m in o.modalities}
        self.singles = nn.ModuleDict(singles)
        self.register_buffer("weights", torch.full((len(singles),), 1 / len(singles)))

    def probabilities(self, visible: Tensor, infrared: Tensor, present: Tensor) -> Tensor:
        """float32 [N, modalities, K]."""
        each = [torch.softmax(m(visible, infrared, present).float(), dim=1) for m in self.singles.values()]
        return torch.stack(each, dim=1)

    def forward(self, visible: Tensor, infrared: Tensor, present: Tensor) -> Tensor:
        mixed = (self.probabilities(visible, infrared, present) * self.weights[None, :, None]).sum(dim=1)
        return torch.log(mixed.clamp_min(1e-12))

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def complete(self, batches: Iterable[Batch]) -> str:
        """Search the weights on the validation ``batches``; returns what was found, for the log."""
        seen = [(self.probabilities(*b[:3]), b[3]) for b in batches]
        probs, labels = (torch.cat(x) for x in zip(*seen, strict=True))
        best = max(simplex(len(self.singles)), key=lambda w: _merit(w, probs, labels))
        self.weights.copy_(torch.tensor(best))
        return "late fusion weights " + ", ".join(f"{k} {w:g}" for k, w in zip(self.singles, best, strict=True))


def _common(o: _Options) -> dict[str, object]:
    return {name: getattr(o, name) for name in _Options.model_fields}


def simplex(n: int, steps: int = 10) -> list[tuple[float, ...]]:
    """Every ``n`` weights that are multiples of 1/steps and sum to one."""
    whole = [w for w in product(range(steps + 1), repeat=n) if sum(w) == steps]
    return [tuple(k / steps for k in w) for w in whole]


def _merit(weights: Sequence[float], probs: Tensor, labels: Tensor) -> tuple[int, float]:
    mixed = (probs * torch.tensor(weights)[None, :, None]).sum(dim=1)
    return int((mixed.argmax(dim=1) == labels).sum()), -sum(w * w for w in weights)
