"""FER2013 (Goodfellow et al., 2013): 48x48 grey faces in seven classes, official split.

The archive is read from ``$EDGEFER_DATA/fer2013.npz`` (arrays ``images`` uint8 [N, 48, 48], ``labels``, ``split``
0 Training / 1 PublicTest / 2 PrivateTest, ``dup_group``: equal numbers mark pixel-identical images).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from export.data.faces import Faces, fingerprint
from export.errors import InputError

LABELS = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")
"""Wire names in the archive's label order (angry, disgust, fear, happy, sad, surprise, neutral)."""

SPLITS = {"train": 0, "public": 1, "private": 2}
ARRAYS = ("images", "labels", "split", "dup_group")


def data_root() -> Path:
    """The folder named by ``EDGEFER_DATA``. Raises InputError when it is not set or not there."""
    value = os.environ.get("EDGEFER_DATA")
    if not value:
        raise InputError("EDGEFER_DATA is not set: point it at the folder that holds fer2013.npz")
    root = Path(value)
    if not root.is_dir():
        raise InputError(f"EDGEFER_DATA={value}: no such folder; point it at the folder that holds fer2013.npz")
    return root


def read_npz(path: Path, names: tuple[str, ...]) -> dict[str, npt.NDArray[Any]]:
    """The named arrays; raises InputError in one line when the file is missing, truncated or lacks one of them."""
    try:
        with path.open("rb") as f, np.load(f, allow_pickle=False) as z:
            return {name: z[name] for name in names}
    except FileNotFoundError:
        raise InputError(f"{path}: not found; see the data section of README.md") from None
    except Exception as e:
        raise InputError(f"{path}: unreadable ({e}); fetch it again and check its sha256") from None


def load(split: str, root: Path | None = None) -> Faces:
    """One split: ``train`` (leak-free), ``public``, ``private`` or ``private-clean``.

    ``train`` drops the 703 Training rows whose image also occurs in a test split and the blank ones; ``private-clean``
    keeps the 3,301 PrivateTest rows without an exact twin in Training.
    """
    d = read_npz((root or data_root()) / "fer2013.npz", ARRAYS)
    where, group = d["split"], d["dup_group"]
    name, _, clean = split.partition("-")
    keep = where == SPLITS[name]
    if name == "train":
        keep &= ~np.isin(group, group[where > 0])
    elif clean:
        keep &= ~np.isin(group, group[where == 0])
    images, labels = d["images"][keep], d["labels"][keep].astype(np.int64)
    if name == "train":
        visible = images.std(axis=(1, 2)) >= 5
        images, labels = images[visible], labels[visible]
    return Faces(images, labels, fingerprint(images, labels), LABELS)


def twin_free(root: Path | None = None) -> npt.NDArray[np.bool_]:
    """Which rows of ``private`` are also in ``private-clean``: bool [3589] for the official archive."""
    d = read_npz((root or data_root()) / "fer2013.npz", ("split", "dup_group"))
    where, group = d["split"], d["dup_group"]
    return ~np.isin(group[where == SPLITS["private"]], group[where == SPLITS["train"]])
