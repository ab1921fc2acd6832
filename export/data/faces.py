"""What every reader returns: labelled faces of one or several lenses, with whom and where they come from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Faces:
    """images: uint8 [N, H, W] grey, the visible lens (the only one there is, for a thermal set);
    labels: int64 [N], indices into ``classes``."""

    images: U8
    labels: Labels
    fingerprint: str
    """sha256 of pixels and labels, so that a checkpoint says what it has seen"""
    classes: tuple[str, ...]
    """wire names in label order"""
    infrared: U8 | None = None
    """uint8 [N, H, W], aligned with ``images``; None: training simulates a near-infrared lens"""
    msx: U8 | None = None
    """uint8 [N, H, W]: the camera's own blend of both, where a set has it"""
    soft: npt.NDArray[np.float32] | None = None
    """[N, K] training targets in the labels' place (`export.distil`)"""
    onto: npt.NDArray[np.float64] | None = None
    """[N, 2, 3]: what frames each picture as the device would (`export.framing`)"""
    person: npt.NDArray[Any] | None = None
    """[N] whose face it is; None where the set does not say"""
    sequence: npt.NDArray[np.int64] | None = None
    """[N, T] rows of the frames that lead to each row (itself last); None: single pictures"""
    rejected: tuple[str, ...] = field(default=(), repr=False)
    """one line per file that was not used, and why"""

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: npt.NDArray[Any]) -> Faces:
        """The chosen rows (bool mask or indices), with a fingerprint of their own. Sequences are kept when whole."""
        rows = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
        names = ("infrared", "msx", "soft", "onto", "person")
        pick = {n: v[rows] for n in names if (v := getattr(self, n)) is not None}
        images, labels = self.images[rows], self.labels[rows]
        return replace(
            self, images=images, labels=labels, fingerprint=fingerprint(images, labels, pick.get("infrared")),
            sequence=self._sequence(rows), **pick,
        )  # fmt: skip

    def log_frequency(self) -> npt.NDArray[np.float32]:
        """Logarithm of each class's share, float32 [K]; a class without a face counts as one face."""
        count = np.bincount(self.labels, minlength=len(self.classes)).clip(1)
        return np.log(count / count.sum(), dtype=np.float32)

    def _sequence(self, rows: npt.NDArray[Any]) -> npt.NDArray[np.int64] | None:
        if self.sequence is None:
            return None
        place = np.full(len(self.images), -1, np.int64)
        place[rows] = np.arange(len(rows))
        moved = place[self.sequence[rows]]
        if (moved < 0).any():
            raise ValueError("a sequence was cut apart: take whole sequences or whole people")
        return moved


def fingerprint(images: U8, labels: Labels, infrared: U8 | None = None) -> str:
    digest = hashlib.sha256(images.tobytes() + labels.tobytes())
    if infrared is not None:
        digest.update(infrared.tobytes())
    return digest.hexdigest()
