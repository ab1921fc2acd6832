"""Feature extractors by name: our ResNet-18, GhostNet, and the networks the papers compare with, from torchvision."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.errors import UsageError
from export.models.ghostnet import GhostNet
from export.models.resnet import ResNet, standardise

COMPARED = {
    "vgg16": "vgg16", "alexnet": "alexnet", "mobilenetv2": "mobilenet_v2", "shufflenetv2": "shufflenet_v2_x1_0",
    "densenet201": "densenet201",
}  # fmt: skip
"""our name -> torchvision's"""


LEAST = 64
"""side of the smallest picture that all of them take"""


class Compared(nn.Module):
    """A torchvision network without its classifier: crop [N, 1, H, W] in 0..255 -> feature [N, features]."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.trunk: nn.Module = _torchvision(name)
        with torch.inference_mode():
            self.features = int(self.trunk.eval()(torch.zeros(1, 3, LEAST, LEAST)).flatten(1).shape[1])

    def forward(self, x: Tensor) -> Tensor:
        x = standardise(x.float())
        if x.shape[-1] < LEAST:  # AlexNet leaves nothing of a smaller picture
            x = functional.interpolate(x, (LEAST, LEAST), mode="bilinear", align_corners=False)
        y: Tensor = self.trunk(x.expand(-1, 3, -1, -1))
        return y.flatten(1)


def _torchvision(name: str) -> nn.Module:
    try:
        zoo: Any = importlib.import_module("torchvision.models")
    except Exception as e:  # an installation that does not fit torch fails in ways of its own
        raise UsageError(f"backbone {name!r} comes from torchvision, which cannot be imported here ({e})") from None
    full: Any = getattr(zoo, COMPARED[name])()
    if name == "shufflenetv2":
        full.fc = nn.Identity()
        return nn.Sequential(full)
    return nn.Sequential(full.features, nn.AdaptiveAvgPool2d(1))


def make(name: str, widths: list[int], stem_stride: int, stem: int) -> Any:
    """Module with an attribute ``features`` (its width). Raises UsageError when it cannot be had here."""
    if name == "resnet18":
        return ResNet(widths, stem_stride, stem)
    if name == "ghostnet":
        return GhostNet(stem_stride)
    if name not in COMPARED:
        raise UsageError(
            f"[model] backbone = {name!r}: unknown; one of resnet18, ghostnet, {', '.join(sorted(COMPARED))}"
        )
    return Compared(name)
