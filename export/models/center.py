"""Center loss: features of a class are drawn to the class's centre (Wen et al. 2016, used by Singh et al. 2025)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class CenterLoss(nn.Module):
    """Half the squared distance of a feature from the centre of its class, mean over the batch (Wen eq. 2).

    The centres are no parameters: each training step moves a class's centre by ``rate`` times the sum of the offsets
    of its features over one more than their number (Wen eq. 4 and algorithm 1), which keeps a class with a single
    wrong label in the batch from being thrown about.
    """

    centres: Tensor

    def __init__(self, classes: int, width: int, rate: float = 0.5) -> None:
        super().__init__()
        self.rate = rate
        self.register_buffer("centres", torch.zeros(classes, width))

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """features: [N, F]; labels: int64 [N] -> scalar float32. Moves the centres while training."""
        with torch.autocast(features.device.type, enabled=False):
            offset = features.float() - self.centres[labels]
            if self.training:
                self._move(offset.detach(), labels)
            return 0.5 * (offset * offset).sum(dim=1).mean()

    def _move(self, offset: Tensor, labels: Tensor) -> None:
        """offset carries no gradient, hence neither do the centres."""
        total = torch.zeros_like(self.centres).index_add_(0, labels, offset)
        count = torch.bincount(labels, minlength=len(self.centres)).to(offset.dtype)
        self.centres += self.rate * total / (1 + count)[:, None]
