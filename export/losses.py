"""Losses that several systems share. Images are float [N, 1, H, W] in 0..1 and lie aligned."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

WINDOW, SIGMA = 11, 1.5
"""Gaussian window of the structural similarity, pixels (Wang et al. 2004, section III-B)"""

NEIGHBOURS = ((0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1))
"""(row, column) offsets of bits 0 to 7: from the right-hand neighbour counter-clockwise round the centre"""


def large_margin_cosine(features: Tensor, weight: Tensor, labels: Tensor, scale: float, margin: float) -> Tensor:
    """Large-margin cosine loss (Zou et al. 2021, eq. 11; Wang et al. 2018, CosFace), scalar float32.

    features: float [N, D]; weight: float [K, D], one row per class; labels: int64 [N]. Both are normalised here, in
    float32 also under autocast. ``margin`` is taken off the cosine of the true class, ``scale`` multiplies all of them.
    """
    with torch.autocast(features.device.type, enabled=False):
        cosine = functional.linear(functional.normalize(features.float()), functional.normalize(weight.float()))
        true = functional.one_hot(labels, len(weight)).to(cosine.dtype)
        return functional.cross_entropy(scale * (cosine - margin * true), labels)


def gaussian(window: int = WINDOW, sigma: float = SIGMA) -> Tensor:
    """Float32 [window], sum one."""
    x = torch.arange(window, dtype=torch.float32) - (window - 1) / 2
    g = torch.exp(-x * x / (2 * sigma * sigma))
    return g / g.sum()


def _blur(x: Tensor, window: int = WINDOW, sigma: float = SIGMA) -> Tensor:
    g = gaussian(window, sigma).to(x)
    return functional.conv2d(functional.conv2d(x, g.reshape(1, 1, 1, -1)), g.reshape(1, 1, -1, 1))


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Mean structural similarity per image, float32 [N] in -1..1 (Zou et al. 2021, eq. 4), differentiable.

    The printed denominator multiplies the squared means and names one deviation twice, so that an image would not
    be like itself; this is the original: (mx^2 + my^2 + c1)(sx^2 + sy^2 + c2) (Wang et al. 2004, eq. 13), with its
    c1 = 0.01^2, c2 = 0.03^2 and Gaussian window, without padding. Images must be 11 pixels or more each way.
    """
    c1, c2 = 0.01**2, 0.03**2
    with torch.autocast(x.device.type, enabled=False):
        x, y = x.float(), y.float()
        mx, my = _blur(x), _blur(y)
        xx, yy, xy = _blur(x * x) - mx * mx, _blur(y * y) - my * my, _blur(x * y) - mx * my
        map_ = (2 * mx * my + c1) * (2 * xy + c2) / ((mx * mx + my * my + c1) * (xx + yy + c2))
        return map_.mean(dim=(1, 2, 3))


def visual_information(source: Tensor, x: Tensor, eye: float = 2.0) -> Tensor:
    """Visual information of ``source`` in ``x`` per image, float32 [N] from 0, differentiable (Sheikh & Bovik 2006).

    Four scales, in 255 grey levels, as `export.fusionmetrics.visual_information` does; ``eye`` is the variance of the
    eye's own noise. Scales at which the image is smaller than the window are left out; 41 pixels have all four.
    """
    with torch.autocast(source.device.type, enabled=False):
        a, b = source.float() * 255, x.float() * 255
        got = there = a.new_zeros(len(a))
        for side in (17, 9, 5, 3):
            if side < 17:
                a, b = (_blur(image, side, side / 5)[..., ::2, ::2] for image in (a, b))
            if min(a.shape[-2:]) < side:
                break
            more, whole = _information(a, b, side, eye)
            got, there = got + more, there + whole
        return got / (there + 1e-6)


def _information(a: Tensor, b: Tensor, side: int, eye: float) -> tuple[Tensor, Tensor]:
    """Bits [N] of ``a`` that ``b`` holds, and that there are."""
    ma, mb = _blur(a, side, side / 5), _blur(b, side, side / 5)
    va, vb, cov = (_blur(p * q, side, side / 5) - m for p, q, m in ((a, a, ma * ma), (b, b, mb * mb), (a, b, ma * mb)))
    va, vb = va.clamp_min(0), vb.clamp_min(0)
    gain = cov / (va + 1e-3)  # in flat places bounded, so that its gradient is
    noise = torch.where(gain < 0, vb, (vb - gain * cov).clamp_min(0))
    kept = gain.clamp_min(0) ** 2 * va / (noise + eye)
    return torch.log2(1 + kept).sum(dim=(1, 2, 3)), torch.log2(1 + va / eye).sum(dim=(1, 2, 3))


def gradient_loss(x: Tensor, y: Tensor) -> Tensor:
    """Mean squared difference of the gradients, scalar (Zou et al. 2021, eq. 5).

    The paper leaves its operator open; here it is the difference of neighbouring pixels, to the right and downwards,
    and the two squares are added.
    """
    d = x - y
    right, down = d[..., :, 1:] - d[..., :, :-1], d[..., 1:, :] - d[..., :-1, :]
    return (right * right).mean() + (down * down).mean()


def soft_lbp(x: Tensor, steepness: float = 50.0) -> Tensor:
    """Local binary pattern with a gradient (Zou et al. 2021, eq. 6), float [N, 1, H-2, W-2] in 0..1.

    The step s(i_p - i_c) has no useful derivative: it is replaced by sigmoid(steepness * (i_p - i_c)), so that at 50
    a difference of 10 grey levels of 255 counts as 0.88 and equal neighbours as one half (the step says 1). Bit p
    belongs to ``NEIGHBOURS[p]``; the code is divided by 255. The outermost pixels have no code.
    """
    h, w = x.shape[-2:]
    centre = x[..., 1:-1, 1:-1]
    code = torch.zeros_like(centre)
    for p, (row, column) in enumerate(NEIGHBOURS):
        neighbour = x[..., 1 + row : h - 1 + row, 1 + column : w - 1 + column]
        code = code + 2**p / 255 * torch.sigmoid(steepness * (neighbour - centre))
    return code


def lbp_loss(x: Tensor, y: Tensor, steepness: float = 50.0) -> Tensor:
    """Mean squared difference of the patterns, scalar (Zou et al. 2021, third term of eq. 3)."""
    return functional.mse_loss(soft_lbp(x, steepness), soft_lbp(y, steepness))
