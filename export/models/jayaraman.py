"""DCNN, BiLSTM and dual attention of Jayaraman & Mahendran 2025 (paper 003), split into encoder and head.

What the paper leaves open or prints in two ways, and what is done here:

* Resolution (Table 2, text behind eq. 9): "52 x 42" behind three 5x5 convolutions of a 64x64 picture is 52 x 52 by
  arithmetic, and so without padding and without a pool between; the pools S1, S2 of Table 2 follow C3.
  ``pools = "between"`` puts them behind C1 and C2, the usual place, at a sixth of the cost.
* Convolutions: eq. 21 and the parameter count (F F C + 1) K are those of plain ones; the text also speaks of
  separable ones: ``separable``.
* The attention works on an image "reconstructed" from the BiLSTM's output, so all of it stands behind the BiLSTM, in
  the head. Eq. 12 adds both directions: the final state of each, which has seen the whole window.
* Patches (eq. 13): groups are R_g columns of the image, each cut into R_p patches of (W / R_g) (H / R_p) pixels, so
  a group attends over R_p patches (eq. 14 prints R_g, which fits only where both are equal).
* Eq. 17-18 "Conv3 + (Conv3 - (Keys))": one convolution after the other, first to few channels, then back, as said in
  the text. The landmark-weighted teacher of algorithm 3 needs landmarks that no data set here has; it is left out.
* Eq. 19 names INIAM and does not define it: here ``a (1 + pcp(W b))``, one attention's map weighted by the other's.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from export.models.network import Temporal
from export.models.preprocess import HogNormalisation, Resize


class Options(BaseModel):
    """The paper's sizes are the defaults; ``width`` multiplies every count of channels and neurons."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    lens: Literal["visible", "infrared"] = "visible"
    """the lens it looks at; the paper has one"""
    window: int = Field(3, ge=1, le=32)
    """frames of a sequence"""
    side: int = Field(64, ge=32, le=256, multiple_of=8)
    """pixels the crop is brought to"""
    width: float = Field(1.0, gt=0, le=2)
    """factor of channels and neurons"""
    pools: Literal["after", "between"] = "after"
    """where the two 2x2 max pools stand: both behind the third convolution (Table 2), or behind the first and second"""
    separable: bool = False
    """depth-wise and point-wise convolutions for the second and third"""
    activation: Literal["pcp", "relu"] = "pcp"
    """of the convolutions; the interactive learning has the cubic in any case"""
    dropout: float = Field(0.5, ge=0, lt=1)
    """behind the layer of 300 and before the classifier"""
    image: int = Field(32, ge=8, le=128)
    """pixels along a side of the reconstructed image; a multiple of groups and patches"""
    groups: int = Field(8, ge=1)
    """R_g, groups of patches"""
    patches: int = Field(8, ge=2, multiple_of=2)
    """R_p, patches of a group; distillation halves them for keys and values"""
    channels: int = Field(64, ge=8)
    """C, numbers that describe a patch"""
    channel_groups: int = Field(4, ge=1, le=4)
    """G_w, groups of channels; fewer where a group would keep less than two distilled ones to choose from"""
    layers: int = Field(2, ge=1)
    """cross-fused layers of the dual attention"""


def scaled(count: int, width: float) -> int:
    """``count`` times ``width``, as the nearest multiple of 8, 8 at least."""
    return max(8, round(count * width / 8) * 8)


class PiecewiseCubic(nn.Module):
    """The cubic activation: odd, bounded by 1, slope 1 at 0, its slope continuous everywhere.

    p(x) = x - 4 x^3 / 27 for |x| <= 1.5, beyond it -1 or 1. The paper gives properties and no coefficients; these are
    the only ones of a single odd cubic with that slope that reaches its bound flat.
    """

    def forward(self, x: Tensor) -> Tensor:
        x = torch.clamp(x, -1.5, 1.5)
        return x - x * x * x * (4 / 27)


def _activation(name: str) -> nn.Module:
    return PiecewiseCubic() if name == "pcp" else nn.ReLU()


def convolutions(o: Options) -> nn.Sequential:
    """C1, C2, C3 with batch norm and the pools S1, S2 (Table 2)."""
    counts = [1, *(scaled(c, o.width) for c in (32, 64, 128))]
    layers: list[nn.Module] = []
    for k in range(3):
        inside, outside = counts[k], counts[k + 1]
        if o.separable and k > 0:
            layers.append(nn.Conv2d(inside, inside, 5, groups=inside, bias=False))
            layers.append(nn.Conv2d(inside, outside, 1, bias=False))
        else:
            layers.append(nn.Conv2d(inside, outside, 5, bias=False))
        layers += [nn.BatchNorm2d(outside), _activation(o.activation)]
        if o.pools == "between" and k < 2:
            layers.append(nn.MaxPool2d(2))
    if o.pools == "after":
        layers += [nn.MaxPool2d(2), nn.MaxPool2d(2)]
    return nn.Sequential(*layers)


def map_side(o: Options) -> int:
    """Pixels along a side of the map behind the convolutions and pools."""
    if o.pools == "after":
        return (o.side - 12) // 4
    return ((o.side - 4) // 2 - 4) // 2 - 4


class SpatialAttention(nn.Module):
    """AM_S (eq. 14): within a group, each patch looks at the distilled patches (eq. 17). Tokens [N, R_g, R_p, C]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.keys, self.values = self._distil(channels), self._distil(channels)

    @staticmethod
    def _distil(channels: int) -> nn.Sequential:
        """DN_s: 3x3 to a quarter of the channels, 3x3 back, every second patch of a group dropped by max pooling."""
        return nn.Sequential(
            nn.Conv2d(channels, channels // 4, 3, padding=1, bias=False),
            nn.Conv2d(channels // 4, channels, 3, padding=1, bias=False),
            nn.MaxPool2d((1, 2)),
        )

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        few_k = self.keys(k.permute(0, 3, 1, 2)).permute(0, 2, 1, 3)
        few_v = self.values(v.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        weights = torch.softmax((q @ few_k).float() * q.shape[-1] ** -0.5, dim=-1)
        return weights.to(few_v.dtype) @ few_v + v


class ChannelAttention(nn.Module):
    """AM_C (eq. 15): within a group of channels, each looks at the distilled channels (eq. 18), over all patches."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.keys, self.values = self._distil(channels), self._distil(channels)

    def _distil(self, channels: int) -> nn.Sequential:
        """DN_c: 1x1 to half the channels of each group, then 3x3; the number of patches stays."""
        half = channels // 2
        return nn.Sequential(
            nn.Conv2d(channels, half, 1, groups=self.groups, bias=False),
            nn.Conv2d(half, half, 3, padding=1, bias=False),
        )

    def _grouped(self, x: Tensor) -> Tensor:
        """[N, C, R_g, R_p] -> [N, G_w, C / G_w, P]"""
        return x.flatten(2).unflatten(1, (self.groups, x.shape[1] // self.groups))

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, planes = (x.permute(0, 3, 1, 2) for x in (q, k, v))
        shape = planes.shape[1:]
        few_k, few_v = self._grouped(self.keys(k)), self._grouped(self.values(planes))
        scores = (self._grouped(q) @ few_k.transpose(-1, -2)).float() * (shape[1] * shape[2]) ** -0.5
        mixed = torch.softmax(scores, dim=-1).to(few_v.dtype) @ few_v
        return mixed.flatten(1, 2).unflatten(2, (shape[1], shape[2])).permute(0, 2, 3, 1) + v


class DualAttention(nn.Module):
    """One layer of both attentions, their keys exchanged (eq. 16), residual and normalised (algorithm 1, steps 8-9)."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.spatial_qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.channel_qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.spatial, self.channel = SpatialAttention(channels), ChannelAttention(channels, groups)
        self.spatial_norm, self.channel_norm = nn.LayerNorm(channels), nn.LayerNorm(channels)

    def forward(self, s: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """s, c: [N, R_g, R_p, C], the maps of the spatial and the channel side -> the next ones."""
        q_s, k_s, v_s = self.spatial_qkv(s).chunk(3, dim=-1)
        q_c, k_c, v_c = self.channel_qkv(c).chunk(3, dim=-1)
        s = self.spatial_norm(s + self.spatial(q_s, k_c, v_s))
        return s, self.channel_norm(c + self.channel(q_c, k_s, v_c))


class Interactive(nn.Module):
    """ILM (eq. 19): INIAM(S, C) + INIAM(C, S)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.by_channel, self.by_space = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.pcp = PiecewiseCubic()

    def forward(self, s: Tensor, c: Tensor) -> Tensor:
        return s * (1 + self.pcp(self.by_channel(c))) + c * (1 + self.pcp(self.by_space(s)))


class Jayaraman(Temporal):
    """Encoder: resize, HOG normalisation, DCNN, FC 300. Head: BiLSTM, dual attention, ILM, average pool, classifier."""

    fusion = "none: one lens, an encoder per frame and a head over the last frames"

    def __init__(self, options: Options, classes: int) -> None:
        super().__init__()
        o = self.options = options
        self.window = o.window
        self.uses = self.needs = (o.lens,)
        last, features, channels = scaled(128, o.width), max(12, round(300 * o.width)), scaled(o.channels, o.width)
        self.prepare = nn.Sequential(Resize(o.side), HogNormalisation())
        self.dcnn = convolutions(o)
        self.fc = nn.Sequential(
            nn.Flatten(), nn.Linear(last * map_side(o) ** 2, features, bias=False), nn.BatchNorm1d(features),
            _activation(o.activation), nn.Dropout(o.dropout),
        )  # fmt: skip
        self.lstm = nn.LSTM(features, features, batch_first=True, bidirectional=True)
        self.reconstruct = nn.Linear(features, o.image**2)
        self.embed = nn.Linear((o.image // o.groups) * (o.image // o.patches), channels)
        self.layers = nn.ModuleList(
            DualAttention(channels, min(o.channel_groups, channels // 4)) for _ in range(o.layers)
        )
        self.interact = Interactive(channels)
        self.classify = nn.Sequential(nn.Dropout(o.dropout), nn.Linear(channels, classes))

    def encode(self, visible: Tensor, infrared: Tensor, present: Tensor) -> Tensor:
        x = visible if self.options.lens == "visible" else infrared
        with torch.autocast(x.device.type, enabled=False):
            x = self.prepare(x.float())
        out: Tensor = self.fc(self.dcnn(x))
        return out.float()

    def head(self, features: Tensor) -> Tensor:
        out, _ = self.lstm(features)
        forward, backward = out.chunk(2, dim=-1)
        s = c = self.embed(self.patched(self.reconstruct(forward[:, -1] + backward[:, 0])))
        for layer in self.layers:
            s, c = layer(s, c)
        logits: Tensor = self.classify(self.interact(s, c).mean(dim=(1, 2)))
        return logits.float()

    def patched(self, image: Tensor) -> Tensor:
        """The image's pixels [N, W * H] by group and patch (eq. 13): [N, R_g, R_p, (W / R_g) (H / R_p)]."""
        o = self.options
        tall, broad = o.image // o.patches, o.image // o.groups
        x = image.unflatten(1, (o.patches, tall, o.groups, broad))
        return x.permute(0, 3, 1, 2, 4).flatten(3)
