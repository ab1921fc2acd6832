"""Training views: one visible face becomes an aligned pair (visible, simulated infrared) with the faults of a car.

Geometry is drawn once and applied to both lenses (a pair stays registered but for the simulated residual error);
light is drawn for each lens by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from edgefer.capture.nir import draw_optics, simulate_nir
from export.data.faces import Faces
from export.recipe import Augment

COARSE = 0.06
"""largest simulated misregistration, share of the side: 6.7 pixels of 112"""
U8 = npt.NDArray[np.uint8]
F64 = npt.NDArray[np.float64]


def draw_geometry(source: int, size: int, rng: np.random.Generator, a: Augment) -> F64:
    """Random mirror, similarity, shear and perspective: float64 [3, 3] from the source square to ``size`` pixels."""
    n = source
    m = np.eye(3)
    turn = rng.uniform(-a.rotation_deg, a.rotation_deg)
    m[:2] = cv2.getRotationMatrix2D((n / 2, n / 2), turn, size / n * rng.uniform(1 - a.zoom, 1 + a.zoom))
    m[:2, 2] += size / 2 - n / 2 + rng.uniform(-a.shift, a.shift, 2) * size
    if a.shear:
        m = _slanted(size, rng.uniform(-a.shear, a.shear)) @ m
    if a.distortion:
        m = _distorted(size, rng, a.distortion) @ m
    if rng.random() < 0.5:
        m = np.array([[-1.0, 0, size - 1], [0, 1, 0], [0, 0, 1]]) @ m
    return m


def _slanted(size: int, shear: float) -> F64:
    return np.array([[1.0, shear, -shear * size / 2], [0, 1, 0], [0, 0, 1]])


def _distorted(size: int, rng: np.random.Generator, share: float) -> F64:
    corners = np.array([[0, 0], [size, 0], [size, size], [0, size]], np.float32)
    moved = corners + rng.uniform(-share, share, (4, 2)).astype(np.float32) * size
    return np.asarray(cv2.getPerspectiveTransform(corners, moved), np.float64)


def warp(face: U8, m: F64, size: int) -> U8:
    """uint8 [H, W] -> uint8 [size, size]."""
    how = {"flags": cv2.INTER_LINEAR, "borderMode": cv2.BORDER_REFLECT_101}
    if np.array_equal(m[2], (0, 0, 1)):
        return np.asarray(cv2.warpAffine(face, m[:2], (size, size), **how), np.uint8)
    return np.asarray(cv2.warpPerspective(face, m, (size, size), **how), np.uint8)


def darken(face: U8, gain: float, rng: np.random.Generator) -> U8:
    """The visible lens at ``gain`` times the light, with shot and read noise, quantised to 8 bits."""
    light = face.astype(np.float32) * gain
    light += rng.standard_normal(face.shape, np.float32) * np.sqrt(0.25 * light + 1.0)
    return np.clip(light, 0, 255).astype(np.uint8)


def sunlit(face: U8, rng: np.random.Generator) -> U8:
    """The visible lens with the sun on one side: uint8 [H, W] -> uint8 [H, W], clipped where the sensor is full.

    The shadow's edge lies near the middle, at any angle, sharp or soft; the exposure favours either side.
    """
    h, w = face.shape
    turn, edge = rng.uniform(0, 2 * np.pi), rng.uniform(-0.5, 0.5)
    width = np.exp(rng.uniform(np.log(0.05), np.log(0.7)))
    y, x = np.mgrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j]
    lit = 1 / (1 + np.exp((edge - x * np.cos(turn) - y * np.sin(turn)) / width))
    shade, sun = rng.uniform(0.3, 1.0), rng.uniform(1.0, 2.5)
    tone = np.exp(rng.uniform(-0.4, 0.4))
    light = np.clip(face * (shade + (sun - shade) * lit), 0, 255)
    return (255 * (light / 255) ** tone).astype(np.uint8)


def relight(face: U8, rng: np.random.Generator, a: Augment) -> U8:
    if rng.random() < a.dark:
        return darken(face, float(np.exp(rng.uniform(np.log(a.darkest), np.log(0.5)))), rng)
    if a.sun and rng.random() < a.sun:
        return sunlit(face, rng)
    mean, gain = float(face.mean()), rng.uniform(1 - a.contrast, 1 + a.contrast)
    offset = rng.uniform(-a.contrast, a.contrast) * 80
    return np.clip((face.astype(np.float32) - mean) * gain + mean + offset, 0, 255).astype(np.uint8)


def erase(rng: np.random.Generator, *views: U8) -> None:
    """Cover the same random rectangle (2-20 % of the area) of every view, in place, with a grey of its own."""
    n = views[0].shape[-1]
    area, ratio = rng.uniform(0.02, 0.2) * n * n, np.exp(rng.uniform(-0.9, 0.9))
    h, w = min(n, max(2, int((area * ratio) ** 0.5))), min(n, max(2, int((area / ratio) ** 0.5)))
    y, x = rng.integers(0, n - h + 1), rng.integers(0, n - w + 1)
    for view in views:
        view[..., y : y + h, x : x + w] = rng.integers(0, 256)


@dataclass(frozen=True)
class Partner:
    """Another face, by its row, that is mixed into an example, and the share 0..1 that the example's own face keeps."""

    row: int
    kept: float


def draw_partner(count: int, rng: np.random.Generator, a: Augment) -> Partner | None:
    """Mixup (Zhang et al. 2018, arXiv 1710.09412, section 2, alpha = 1) of ``a.mixed`` of the examples."""
    if not a.mixed or rng.random() >= a.mixed:
        return None
    return Partner(int(rng.integers(count)), float(rng.uniform(0.5, 1.0)))


def pairs(
    faces: Faces,
    row: int,
    size: int,
    lenses: Sequence[str],
    rng: np.random.Generator,
    a: Augment,
    partner: Partner | None = None,
) -> list[U8]:
    """[visible, infrared] of one example: uint8 [T, size, size] each, one geometry and one light for all frames.

    A lens that the network does not look at is left zero. Without a real infrared lens the near-infrared simulation
    stands in for it. A partner is mixed in before there is light: nothing in a car lights two faces differently.
    """
    m = draw_geometry(faces.images.shape[1], size, rng, a)
    framed = bool(a.framed) and faces.onto is not None and rng.random() < a.framed
    seen = faces if "infrared" in lenses else replace(faces, infrared=None)
    shown = _shown(seen, row, m, framed, size)
    if partner is not None:
        shown = _mixed(shown, _shown(seen, partner.row, m, framed, size), partner.kept)
    optics, light = draw_optics(rng), int(rng.integers(2**32))
    if a.misregistered and rng.random() < a.misregistered:
        optics = replace(optics, shift=tuple(rng.uniform(-COARSE, COARSE, 2)))
    views = [np.zeros((len(shown), size, size), np.uint8) for _ in range(2)]
    for t, (face, real) in enumerate(shown):
        if "infrared" in lenses:
            views[1][t] = simulate_nir(face, optics, rng) if real is None else real
        if "visible" in lenses:
            views[0][t] = relight(face, np.random.default_rng(light), a)
    if rng.random() < a.erase:
        erase(rng, *views)
    if a.black and rng.random() < a.black:
        _blacken(views[int(rng.integers(2))], rng)
    return views


Shown = list[tuple[U8, U8 | None]]


def _shown(faces: Faces, row: int, m: F64, framed: bool, size: int) -> Shown:
    """Face and real infrared picture of every frame, uint8 [size, size] each, in a geometry that was drawn."""
    if framed and faces.onto is not None:
        m = m @ np.vstack((faces.onto[row], (0, 0, 1)))
    rows = [row] if faces.sequence is None else list(faces.sequence[row])
    real = [None if faces.infrared is None else warp(faces.infrared[r], m, size) for r in rows]
    return [(warp(faces.images[r], m, size), x) for r, x in zip(rows, real, strict=True)]


def _mixed(shown: Shown, others: Shown, kept: float) -> Shown:
    def mean(one: U8, other: U8) -> U8:
        return np.asarray(cv2.addWeighted(one, kept, other, 1 - kept, 0.0), np.uint8)

    return [
        (mean(face, other), None if real is None or its is None else mean(real, its))
        for (face, real), (other, its) in zip(shown, others, strict=True)
    ]


def _blacken(view: U8, rng: np.random.Generator) -> None:
    """Nothing but the noise of the sensor, in place."""
    view[:] = np.clip(rng.normal(rng.uniform(0, 6), rng.uniform(0, 2), view.shape), 0, 255).astype(np.uint8)


class PairDataset(Dataset[tuple[torch.Tensor, ...]]):
    """Training examples: visible, infrared uint8 [1, S, S] (sequences [T, 1, S, S]), present float32 [2], label int64,
    or a target float32 [K] where the faces carry softened ones.

    Every view is a function of (seed, epoch, index) alone, so a resumed training sees what an unbroken one would.
    """

    def __init__(self, faces: Faces, size: int, lenses: Sequence[str], augment: Augment, seed: int, epoch: int) -> None:
        self.faces, self.size, self.lenses, self.augment = faces, size, lenses, augment
        self.seed, self.epoch = seed, epoch

    def __len__(self) -> int:
        return len(self.faces)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, ...]:
        rng = np.random.default_rng((self.seed, self.epoch, i))
        partner = draw_partner(len(self), rng, self.augment)
        views = pairs(self.faces, i, self.size, self.lenses, rng, self.augment, partner)
        present = np.ones(2, np.float32)
        if rng.random() < self.augment.lens_lost:
            lost = int(rng.integers(2))
            present[lost] = 0.0
            views[lost][:] = 0
        visible, infrared = (torch.from_numpy(v[:, None] if self.faces.sequence is not None else v) for v in views)
        return visible, infrared, torch.from_numpy(present), self._target(i, partner)

    def _target(self, i: int, partner: Partner | None) -> torch.Tensor:
        if not self.augment.mixed:
            return self._own(i)
        own = self._whole(i)
        return own if partner is None else own * partner.kept + self._whole(partner.row) * (1 - partner.kept)

    def _own(self, i: int) -> torch.Tensor:
        soft = self.faces.soft
        return torch.tensor(self.faces.labels[i]) if soft is None else torch.from_numpy(soft[i])

    def _whole(self, i: int) -> torch.Tensor:
        """A target float32 [K]: the softened one, or a whole label."""
        own = self._own(i)
        return own if own.ndim else torch.nn.functional.one_hot(own, len(self.faces.classes)).float()


def simulated_infrared(images: U8, seed: int) -> U8:
    """The infrared lens of an evaluation set: one fixed draw per image. uint8 [N, H, W] -> uint8 [N, H, W]."""
    out = np.empty_like(images)
    for i, image in enumerate(images):
        rng = np.random.default_rng((seed, i))
        out[i] = simulate_nir(image, draw_optics(rng), rng)
    return out
