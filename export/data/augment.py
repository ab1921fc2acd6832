"""Training views: one visible face becomes an aligned pair (visible, simulated infrared) with the faults of a car.

Geometry is drawn once and applied to both lenses (a pair stays registered but for the simulated residual error);
light is drawn for each lens by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from edgefer.capture.nir import draw_optics, simulate_nir
from export.data.fer2013 import Faces

U8 = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Augment:
    """Ranges of the random views; every probability is per image."""

    size: int = 48
    rotation_deg: float = 12.0
    zoom: float = 0.15
    shift: float = 0.07
    contrast: float = 0.3
    dark: float = 0.25
    """probability that the visible lens sees a dark cabin"""
    erase: float = 0.3
    """probability that a patch of both lenses is covered (hand, glasses, mask)"""
    lens_lost: float = 0.4
    """probability that one of the two lenses is dead (modality dropout), shared evenly"""


def warp(face: U8, rng: np.random.Generator, a: Augment) -> U8:
    """Random similarity + mirror from the source square to ``a.size``."""
    n = face.shape[0]
    zoom = a.size / n * rng.uniform(1 - a.zoom, 1 + a.zoom)
    m = cv2.getRotationMatrix2D((n / 2, n / 2), rng.uniform(-a.rotation_deg, a.rotation_deg), zoom)
    m[:, 2] += a.size / 2 - n / 2 + rng.uniform(-a.shift, a.shift, 2) * a.size
    if rng.random() < 0.5:
        m[0] = -m[0]
        m[0, 2] += a.size - 1
    return cv2.warpAffine(face, m, (a.size, a.size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


def darken(face: U8, gain: float, rng: np.random.Generator) -> U8:
    """The visible lens at ``gain`` times the light, with shot and read noise, quantised to 8 bits."""
    light = face.astype(np.float32) * gain
    light += rng.standard_normal(face.shape, np.float32) * np.sqrt(0.25 * light + 1.0)
    return np.clip(light, 0, 255).astype(np.uint8)


def relight(face: U8, rng: np.random.Generator, a: Augment) -> U8:
    if rng.random() < a.dark:
        return darken(face, float(np.exp(rng.uniform(np.log(0.02), np.log(0.5)))), rng)
    mean, gain = float(face.mean()), rng.uniform(1 - a.contrast, 1 + a.contrast)
    offset = rng.uniform(-a.contrast, a.contrast) * 80
    return np.clip((face.astype(np.float32) - mean) * gain + mean + offset, 0, 255).astype(np.uint8)


def erase(rng: np.random.Generator, *views: U8) -> None:
    """Cover the same random rectangle (2-20 % of the area) of every view, in place, with a grey of its own."""
    n = views[0].shape[0]
    area, ratio = rng.uniform(0.02, 0.2) * n * n, np.exp(rng.uniform(-0.9, 0.9))
    h, w = min(n, max(2, int((area * ratio) ** 0.5))), min(n, max(2, int((area / ratio) ** 0.5)))
    y, x = rng.integers(0, n - h + 1), rng.integers(0, n - w + 1)
    for view in views:
        view[y : y + h, x : x + w] = rng.integers(0, 256)


def pair(face: U8, rng: np.random.Generator, a: Augment) -> tuple[U8, U8]:
    """(visible, infrared), both uint8 [size, size]."""
    face = warp(face, rng, a)
    infrared = simulate_nir(face, draw_optics(rng), rng)
    visible = relight(face, rng, a)
    if rng.random() < a.erase:
        erase(rng, visible, infrared)
    return visible, infrared


class PairDataset(Dataset[tuple[torch.Tensor, ...]]):
    """Training pairs: visible uint8 [1, S, S], infrared uint8 [1, S, S], present float32 [2], label int64.

    Every view is a function of (seed, epoch, index) alone, so a resumed training sees what an unbroken one would.
    """

    def __init__(self, faces: Faces, augment: Augment, seed: int, epoch: int) -> None:
        self.faces, self.augment, self.seed, self.epoch = faces, augment, seed, epoch

    def __len__(self) -> int:
        return len(self.faces)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, ...]:
        rng = np.random.default_rng((self.seed, self.epoch, i))
        visible, infrared = pair(self.faces.images[i], rng, self.augment)
        present = np.ones(2, np.float32)
        if rng.random() < self.augment.lens_lost:
            lost = int(rng.integers(2))
            present[lost] = 0.0
            (visible, infrared)[lost][:] = 0
        return (
            torch.from_numpy(visible)[None],
            torch.from_numpy(infrared)[None],
            torch.from_numpy(present),
            torch.tensor(self.faces.labels[i]),
        )


def simulated_infrared(images: U8, seed: int) -> U8:
    """The infrared lens of an evaluation set: one fixed draw per image. uint8 [N, H, W] -> uint8 [N, H, W]."""
    out = np.empty_like(images)
    for i, image in enumerate(images):
        rng = np.random.default_rng((seed, i))
        out[i] = simulate_nir(image, draw_optics(rng), rng)
    return out
