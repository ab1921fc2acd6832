"""Two lenses, one trunk: each lens has its own early stages, a gate weighs their maps, later stages are shared.

Ours. The papers fuse the pooled features of two whole networks; there a noisy lens still feeds half of what the
classifier reads, and every weight beyond the stem is kept twice. Here the maps of both lenses meet half way as a
weighted mean whose weights each lens earns by its own map, channel by channel: a dark, black or missing lens is weighed
out before anything is decided, and with one lens alive the network is that lens's plain ResNet.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from export.models.grow import Growing
from export.models.network import Batch, Network, one_branch
from export.models.resnet import AttentionGate, Branch, standardise

ABSENT = 30.0
"""taken off the score of a lens that is not there: a share of 1e-13"""
DIM, DIM_COST = 16.0, 3.0
"""a crop whose mean is below DIM grey levels loses DIM_COST per level: at a twentieth of daylight the pair is its other
lens by construction, not by what a gate learned of the dark"""

REFINED = "refined"
"""begins the name of a step that goes on from a network of both lenses"""


class Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    widths: list[int] = Field([32, 64, 128, 256], min_length=2)
    """channels of the stages"""
    blocks: list[int] = Field([2, 2, 2, 2], min_length=2)
    """residual blocks of the stages"""
    stem_stride: int = 1
    shared_from: int = Field(3, ge=2)
    """the first stage that both lenses share, counted from 1"""
    dropout: float = 0.2


class LensStages(nn.Module):
    """Crop [N, 1, S, S] in 0..255 -> map [N, C, H, W]: stem and first stages; state-dict keys as in ``ResNet``."""

    def __init__(self, whole: Branch, stages: Sequence[str]) -> None:
        super().__init__()
        self.conv1, self.bn1 = whole.conv1, whole.bn1
        self.stages = list(stages)
        for name in stages:
            self.add_module(name, getattr(whole, name))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(standardise(x.float()))))
        for name in self.stages:
            x = getattr(self, name)(x)
        return x


class Trunk(nn.Module):
    """Map [N, C, H, W] -> gated pooled feature [N, widths[-1]]."""

    def __init__(self, whole: Branch, stages: Sequence[str]) -> None:
        super().__init__()
        self.stages = list(stages)
        for name in stages:
            self.add_module(name, getattr(whole, name))
        self.gate = AttentionGate(whole.features)

    def forward(self, x: Tensor) -> Tensor:
        for name in self.stages:
            x = getattr(self, name)(x)
        gated: Tensor = self.gate(x.mean(dim=(2, 3)))
        return gated


class LensGate(nn.Module):
    """Two maps [N, C, H, W], and the start [N, 1] that visible has over infrared -> their weighted mean [N, C, H, W].

    The weights, one per lens and channel, are a softmax over the lenses of a score that a lens gets from mean and
    deviation of its own channels. They begin equal.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.visible, self.infrared = (nn.Linear(2 * channels, channels) for _ in range(2))
        for fc in (self.visible, self.infrared):
            nn.init.zeros_(fc.weight)
            nn.init.zeros_(fc.bias)

    def forward(self, visible: Tensor, infrared: Tensor, ahead: Tensor) -> Tensor:
        share = self.share(visible, infrared, ahead)[:, :, None, None]
        return share * visible + (1 - share) * infrared  # a share of 0 is nothing, also in INT8

    def share(self, visible: Tensor, infrared: Tensor, ahead: Tensor) -> Tensor:
        """What the visible lens counts: [N, C] in 0..1; softmax over two is the sigmoid of the difference."""
        return torch.sigmoid(self.visible(_moments(visible)) - self.infrared(_moments(infrared)) + ahead)


def standing(crop: Tensor) -> Tensor:
    """What a lens is worth by the light of its crop [N, 1, S, S] alone: 0, or less where that is dark; [N, 1]."""
    return -DIM_COST * torch.relu(DIM - crop.float().mean(dim=(2, 3)))


def _moments(x: Tensor) -> Tensor:
    """Mean and deviation of every channel: [N, C, H, W] -> float32 [N, 2 C]."""
    x = x.float()
    mean = x.mean(dim=(2, 3))
    spread = ((x - mean[:, :, None, None]) ** 2).mean(dim=(2, 3))
    return torch.cat((mean, torch.sqrt(spread + 1e-6)), dim=1)


class SharedTrunk(Network):
    """Steps named ``single...`` train one lens's way through the network on crops of either lens; any other trains
    everything, with modality dropout, and begins with both lenses' stages equal unless it is named ``refined...``."""

    needs = ()
    fusion = "mid-level: gated weighted mean of both lenses' maps, shared stages behind it"

    def __init__(self, o: Options, classes: int) -> None:
        super().__init__()
        whole, other = (Branch(o.widths, o.stem_stride, blocks=o.blocks) for _ in range(2))
        own, shared = whole.stages[: o.shared_from - 1], whole.stages[o.shared_from - 1 :]
        self.visible, self.infrared = LensStages(whole, own), LensStages(other, own)
        self.mix = LensGate(o.widths[o.shared_from - 2])
        self.trunk = Trunk(whole, shared)
        self.head = nn.Sequential(nn.Dropout(o.dropout), nn.Linear(o.widths[-1], classes))

    def grown(self, given: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weights of a smaller network of this kind, grown to this one's widths and depths: says the same.

        Raises ValueError where a stage here is narrower.
        """
        g = Growing(given, self.state_dict())
        for lens in ("visible", "infrared"):
            g.rng.manual_seed(1)  # the same channels in both lenses: their maps are added
            meet = g.conv(f"{lens}.conv1", f"{lens}.bn1", None)
            for stage in self.visible.stages:
                meet = g.stage(f"{lens}.{stage}", meet)
            g.linear(f"mix.{lens}", meet, meet.twice())
        for stage in self.trunk.stages:
            meet = g.stage(f"trunk.{stage}", meet)
        g.linear("trunk.gate.fc", meet, meet)
        g.linear("head.1", None, meet)
        return g.state

    def forward(self, visible: Tensor, infrared: Tensor, present: Tensor) -> Tensor:
        """visible, infrared: [N, 1, S, S]; present: float32 [N, 2] of 0 or 1 -> logits float32 [N, classes]."""
        ahead = standing(visible) - standing(infrared) + ABSENT * (present[:, :1] - present[:, 1:])
        out: Tensor = self.head(self.trunk(self.mix(self.visible(visible), self.infrared(infrared), ahead)))
        return out

    def predict(self, batch: Batch, step: str) -> Tensor:
        """``single...``: alternate rows show the visible and the infrared lens; out of training the visible one."""
        if not one_branch(step):
            return super().predict(batch, step)
        x = batch[0].clone()
        if self.training:
            x[1::2] = batch[1][1::2]
        out: Tensor = self.head(self.trunk(self.visible(x)))
        return out

    def begin(self, step: str) -> None:
        if not one_branch(step) and not step.startswith(REFINED):
            self.infrared.load_state_dict(self.visible.state_dict())

    def trainable(self, step: str) -> Iterator[tuple[str, nn.Parameter]]:
        parts = ("visible.", "trunk.", "head.") if one_branch(step) else ("",)
        return ((n, p) for n, p in self.named_parameters() if n.startswith(parts))
