"""Figures of merit of a fused image: pure numpy and OpenCV. Images uint8 [H, W]; every figure grows with quality."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]
F64 = npt.NDArray[np.float64]
SSIM_WINDOW = (11, 1.5)
"""side and deviation of the Gaussian window, pixels (Wang et al. 2004)"""


def entropy(image: U8) -> float:
    """EN, bits per pixel: -sum p log2 p over the 256 grey levels (Roberts et al. 2008, eq. 1)."""
    return _bits(np.bincount(image.ravel(), minlength=256) / image.size)


def _bits(p: F64) -> float:
    p = p[p > 0]
    return float(-(p * np.log2(p)).sum()) + 0.0


def deviation(image: U8) -> float:
    """SD, grey levels: root mean square distance from the mean."""
    return float(image.astype(np.float64).std())


def spatial_frequency(image: U8) -> float:
    """SF, grey levels: sqrt(RF^2 + CF^2), mean squared steps along rows and columns (Eskicioglu & Fisher 1995)."""
    x = image.astype(np.float64)
    return float(np.sqrt((np.diff(x, axis=1) ** 2).mean() + (np.diff(x, axis=0) ** 2).mean()))


def mutual_information(a: U8, b: U8) -> float:
    """I(a; b), bits, from the joint histogram of 256 x 256 grey levels (Qu, Zhang & Yan 2002, eq. 1)."""
    joint = np.bincount(a.ravel().astype(np.int64) * 256 + b.ravel(), minlength=65536).reshape(256, 256) / a.size
    return _bits(joint.sum(axis=1)) + _bits(joint.sum(axis=0)) - _bits(joint.ravel())


def _inside(x: F64, side: int, sigma: float) -> F64:
    """Gaussian mean, only where the window lies inside the image."""
    edge = side // 2
    blurred = cv2.GaussianBlur(x, (side, side), sigma)
    return blurred[edge : x.shape[0] - edge, edge : x.shape[1] - edge]


def _moments(a: F64, b: F64, side: int, sigma: float) -> tuple[F64, F64, F64, F64, F64]:
    """Local means, variances and covariance."""
    ma, mb = _inside(a, side, sigma), _inside(b, side, sigma)
    va, vb = _inside(a * a, side, sigma) - ma * ma, _inside(b * b, side, sigma) - mb * mb
    return ma, mb, np.maximum(va, 0), np.maximum(vb, 0), _inside(a * b, side, sigma) - ma * mb


def ssim(a: U8, b: U8) -> float:
    """Mean structural similarity, -1..1 (Wang et al. 2004, eq. 13: c1 = 2.55^2, c2 = 7.65^2, 11-pixel window)."""
    ma, mb, va, vb, cov = _moments(a.astype(np.float64), b.astype(np.float64), *SSIM_WINDOW)
    c1, c2 = 2.55**2, 7.65**2
    return float(((2 * ma * mb + c1) * (2 * cov + c2) / ((ma * ma + mb * mb + c1) * (va + vb + c2))).mean())


def edge_transfer(visible: U8, infrared: U8, fused: U8) -> float:
    """Qabf, 0..1: edge strength and orientation carried over (Xydeas & Petrovic 2000, eq. 1-9, their constants)."""
    f = _edges(fused)
    total, weight = 0.0, 0.0
    for source in (visible, infrared):
        s = _edges(source)
        total += float((_kept(s, f) * s[0]).sum())
        weight += float(s[0].sum())
    return total / weight if weight else 0.0


def _edges(image: U8) -> tuple[F64, F64]:
    """Strength and orientation (-pi/2..pi/2) by Sobel's operator."""
    x = image.astype(np.float64)
    across, down = cv2.Sobel(x, cv2.CV_64F, 1, 0, ksize=3), cv2.Sobel(x, cv2.CV_64F, 0, 1, ksize=3)
    with np.errstate(divide="ignore", invalid="ignore"):
        angle = np.where(across == 0, np.pi / 2 * (down != 0), np.arctan(down / across))
    return np.hypot(across, down), angle


def _kept(source: tuple[F64, F64], fused: tuple[F64, F64]) -> F64:
    """Q per pixel: two logistic curves over relative strength and relative orientation."""
    low, high = np.minimum(source[0], fused[0]), np.maximum(source[0], fused[0])
    strength = np.divide(low, high, out=np.zeros_like(low), where=high > 0)
    orientation = 1 - np.abs(source[1] - fused[1]) / (np.pi / 2)
    return np.asarray(0.9994 / (1 + np.exp(-15 * (strength - 0.5))) * 0.9879 / (1 + np.exp(-22 * (orientation - 0.8))))


def visual_information(source: U8, fused: U8) -> float:
    """VIFP: pixel-domain visual information fidelity of ``fused`` as a copy of ``source`` (Sheikh & Bovik 2006).

    Four scales; at each the image is source * g + noise of variance v, and the eye adds noise of variance 2: the ratio
    of sum log(1 + g^2 s / (v + 2)) to sum log(1 + s / 2), s the local variance of the source (their eq. 8-12 with
    scalar fields). 1 for a copy, above 1 for a copy of more contrast, 0 for a source without any.
    """
    a, b = source.astype(np.float64), fused.astype(np.float64)
    got, there = 0.0, 0.0
    for scale in range(4):
        side = 2 ** (4 - scale) + 1
        if scale:
            a, b = (_inside(x, side, side / 5)[::2, ::2] for x in (a, b))
        if min(a.shape) < side:
            break
        more = _information(a, b, side)
        got, there = got + more[0], there + more[1]
    return got / there if there else 0.0


def _information(a: F64, b: F64, side: int, eye: float = 2.0) -> tuple[float, float]:
    _, _, va, vb, cov = _moments(a, b, side, side / 5)
    gain = np.where(va > 1e-10, cov / np.maximum(va, 1e-10), 0.0)
    noise = np.where(gain < 0, vb, np.maximum(vb - gain * cov, 0.0))
    gain = np.maximum(gain, 0.0)
    return float(np.log2(1 + gain**2 * va / (noise + eye)).sum()), float(np.log2(1 + va / eye).sum())


def figures(visible: U8, infrared: U8, fused: U8) -> dict[str, float]:
    """All seven; MI, SSIM and VIF are sums over the two sources."""
    sources = (visible, infrared)
    return {
        "EN": entropy(fused),
        "SD": deviation(fused),
        "SF": spatial_frequency(fused),
        "MI": sum(mutual_information(s, fused) for s in sources),
        "SSIM": sum(ssim(s, fused) for s in sources),
        "Qabf": edge_transfer(visible, infrared, fused),
        "VIF": sum(visual_information(s, fused) for s in sources),
    }
