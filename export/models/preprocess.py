"""Preparation that travels in the graph, so that the device hands over raw crops: shared by papers 003 and 004.

Every module takes and gives float [N, 1, H, W]; none has weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.models.resnet import standardise

CELL = 8
"""pixels along a side of a cell of gradients (Jayaraman & Mahendran 2025, section on normalisation)"""
BINS = 9
"""of 20 degrees each (eq. 5, 6)"""


class Resize(nn.Module):
    """To ``side`` x ``side`` pixels, bilinear; a picture of that size passes unchanged."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-2:] == (self.side, self.side):
            return x
        return functional.interpolate(x, (self.side, self.side), mode="bilinear", align_corners=False)


def _median(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return torch.maximum(torch.minimum(a, b), torch.minimum(torch.maximum(a, b), c))


class MedianFilter(nn.Module):
    """Median of 3x3 pixels, the border repeated (Singh et al. 2025, section 3.1).

    Three columns are sorted first; the median of nine is the median of the largest of their least, the median of
    their medians and the least of their largest. Minimum and maximum only, which every runtime has.
    """

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        x = functional.pad(x, (1, 1, 1, 1), mode="replicate")
        up, here, down = (x[..., k : k + h, :] for k in range(3))
        least = torch.minimum(torch.minimum(up, here), down)
        most = torch.maximum(torch.maximum(up, here), down)
        low, middle, high = ([s[..., k : k + w] for k in range(3)] for s in (least, _median(up, here, down), most))
        floor = torch.maximum(torch.maximum(*low[:2]), low[2])
        ceiling = torch.minimum(torch.minimum(*high[:2]), high[2])
        return _median(floor, _median(*middle), ceiling)


class GlobalContrastNormalisation(nn.Module):
    """Less the mean, by the deviation of the picture (Singh et al. 2025, section 3.1).

    A floor of five grey levels under the deviation keeps a black picture black, where the paper would divide by 0.
    """

    def forward(self, x: Tensor) -> Tensor:
        return standardise(x)


class HogNormalisation(nn.Module):
    """Divides each pixel by the gradient energy of the blocks around it (Jayaraman & Mahendran 2025, eq. 1-8).

    The paper "normalises the image" by histograms of oriented gradients but goes on with an image, not with the 36
    numbers of a block, and does not say how. Here the factor that eq. 8 divides the histogram of a block by (k, the
    L2 norm of its 2x2 cells' 9 bins) divides the pixels that were counted in it: the mean of k over the four blocks
    of a cell, bilinear between the middles of cells, in grey levels per pixel. Gradients do not see an added
    brightness, so the picture's mean is taken off before. The squared ``floor`` in grey levels is eq. 7's epsilon.

    Eq. 4 folds the angle to 0..90 degrees, which leaves four of the nine bins of eq. 5-6 empty; the bins are
    followed, with unsigned angles of 0..180 degrees. A vote is shared between the two bins nearest to the angle.
    """

    centres: Tensor

    def __init__(self, floor: float = 2.0) -> None:
        super().__init__()
        self.floor = floor
        step = 180.0 / BINS
        self.register_buffer("centres", (torch.arange(BINS).view(1, -1, 1, 1) + 0.5) * step, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Sides must be whole cells: multiples of 8, two at least."""
        energy = functional.interpolate(self.energy(x), scale_factor=CELL, mode="bilinear", align_corners=False)
        return (x - x.mean(dim=(1, 2, 3), keepdim=True)) * torch.rsqrt(energy + self.floor**2)

    def energy(self, x: Tensor) -> Tensor:
        """Squared k of the blocks around each cell, mean of four: [N, 1, H / 8, W / 8], grey levels squared."""
        cells = self.histograms(x)
        power = (cells * cells).sum(dim=1, keepdim=True)
        blocks = 4 * functional.avg_pool2d(power, 2, stride=1)
        return functional.avg_pool2d(functional.pad(blocks, (1, 1, 1, 1), mode="replicate"), 2, stride=1)

    def histograms(self, x: Tensor) -> Tensor:
        """Mean vote of a pixel for each bin (eq. 1-6): [N, 9, H / 8, W / 8], grey levels."""
        h, w = x.shape[-2:]
        x = functional.pad(x, (1, 1, 1, 1), mode="replicate")
        across = x[..., 1 : h + 1, 2:] - x[..., 1 : h + 1, :w]
        upward = x[..., :h, 1 : w + 1] - x[..., 2:, 1 : w + 1]
        safe = torch.where(across.abs() < 1e-6, torch.full_like(across, 1e-6), across)
        slant = torch.rad2deg(torch.atan(upward / safe))
        off = (torch.where(slant < 0, slant + 180, slant) - self.centres).abs()
        share = torch.relu(1 - torch.minimum(off, 180 - off) * (BINS / 180.0))
        return functional.avg_pool2d(share * torch.sqrt(across**2 + upward**2), CELL)
