"""CK+ (Lucey et al., 2010): posed faces of 118 people in 327 labelled sequences, of each the last three frames.

Splits: ``all`` (seven classes: FER2013's without neutral, and contempt) and ``shared`` (without contempt, labelled with
FER2013's numbers and classes, so that a network of FER2013 can be tested on it). Frames of a sequence are nearly the
same picture: split by ``person``. Each row's ``sequence`` are the last three rows up to it, the first one repeated
where there are fewer.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from export.data.faces import U8, Faces, fingerprint
from export.data.fer2013 import LABELS, read_npz
from export.data.folders import (
    ORDER,
    SIDE,
    Gathered,
    Layout,
    class_folders,
    decode,
    files_below,
    fit,
    fixed,
    has_class_folders,
    is_image,
    read_any,
)

CLASSES = tuple(name for name in ORDER if name != "neutral")
FRAMES = 3
FILE = "ckplus48.npz"
NAME = re.compile(r"^(S\d+)_(\d+)_(\d+)$", re.IGNORECASE)
PICTURES = "cohn-kanade-images"
CODES = ("neutral", "anger", "contempt", "disgust", "fear", "happiness", "sadness", "surprise")
"""expression of each number in an *_emotion.txt"""


def load(root: Path, split: str = "all", side: int = SIDE) -> Faces:
    """``all`` or ``shared``; uint8 [N, side, side] (the archive's are 48x48 whatever ``side``). Raises InputError."""
    return read_any("ckplus", root, LAYOUTS, split, side)


def windows(person: list[str], clip: list[str], frame: list[int], length: int = FRAMES) -> npt.NDArray[np.int64]:
    """int64 [N, length]: per row the rows of its own and the preceding frames of its sequence, earliest first."""
    out = np.zeros((len(frame), length), np.int64)
    for key in set(zip(person, clip, strict=True)):
        rows = [i for i in range(len(frame)) if (person[i], clip[i]) == key]
        rows.sort(key=lambda i: frame[i])
        for at, row in enumerate(rows):
            out[row] = [rows[max(0, at - back)] for back in reversed(range(length))]
    return out


def view(faces: Faces, split: str) -> Faces:
    """``all``: as it is; ``shared``: the six classes that FER2013 has too. CLASSES gives them FER2013's numbers."""
    if split == "all":
        return faces
    return replace(faces.take(faces.labels != CLASSES.index("contempt")), classes=LABELS)


def read_archive(root: Path, split: str, side: int) -> Faces:
    """``ckplus48.npz`` of the data pack."""
    del side  # its pictures are 48x48 and are left as they are
    d = read_npz(root / FILE, ("images", "labels", "subject", "sequence", "frame", "classes"))
    labels = fixed(d["labels"], d["classes"], CLASSES, root / FILE)
    person = d["subject"].astype(str)
    sequence = windows(person.tolist(), d["sequence"].astype(str).tolist(), d["frame"].tolist())
    digest = fingerprint(d["images"], labels)
    return view(Faces(d["images"], labels, digest, CLASSES, person=person, sequence=sequence), split)


class _Frames(Gathered):
    """Frames with the sequence and the number each has in it."""

    def __init__(self, root: Path, side: int, exact: int | None = None) -> None:
        super().__init__(root, side, exact)
        self.clip: list[str] = []
        self.frame: list[int] = []

    def read(self, path: Path) -> U8 | None:
        """As for any set, but cut to the face where the set came with its landmarks."""
        if not (self.root / "Landmarks").is_dir() or isinstance(image := decode(path), str):
            return super().read(path)
        points = landmarks(self.root, path)
        if points is None:
            self.reject(path, f"no usable Landmarks/.../{path.stem}_landmarks.txt")
            return None
        return fit(cut(image, points), self.side)

    def add_frame(self, path: Path, label: str) -> None:
        name = NAME.match(path.stem)
        if is_image(path) and name is None:
            self.reject(path, "name is not SUBJECT_SEQUENCE_FRAME")
        elif self.add(path, CLASSES.index(label), name and name[1].upper()) and name:
            self.clip.append(name[2])
            self.frame.append(int(name[3]))

    def done(self, split: str) -> Faces:
        more: dict[str, Any] = {"sequence": windows(self.person, self.clip, self.frame)}
        return view(self.faces(CLASSES, **more), split)


def read_crops(root: Path, split: str, side: int) -> Faces:
    """CLASS/S010_004_00000017.png, each 48x48 ("CK+48")."""
    folder = crops(root) or root
    found = _Frames(folder, side, exact=48)
    for classes, name in class_folders(folder, found, CLASSES):
        for path in files_below(classes):
            found.add_frame(path, name)
    return found.done(split)


def crops(root: Path) -> Path | None:
    """The folder of the class folders: ``root`` or its CK+48."""
    return next((folder for folder in (root / "CK+48", root) if has_class_folders(folder)), None)


def read_sequences(root: Path, split: str, side: int) -> Faces:
    """cohn-kanade-images/S010/004/*.png with Emotion/S010/004/*_emotion.txt: the last three frames of a labelled one.

    The pictures are whole camera frames: with Landmarks/S010/004/*_landmarks.txt beside them they are cut to the face,
    without that folder to their central square.
    """
    found = _Frames(root, side)
    for folder in sorted((root / PICTURES).glob("*/*")):
        if not folder.is_dir():
            found.reject(folder, "lies beside the sequences")
            continue
        label, files = emotion(root, folder), [path for path in files_below(folder) if is_image(path)]
        for path in files_below(folder):
            if path not in files:
                found.reject(path, "not an image file")
        if label not in CLASSES or len(files) < FRAMES:
            found.reject(folder, f"only {len(files)} frames" if label in CLASSES else label)
            continue
        if earlier := len(files) - FRAMES:
            found.reject(folder, f"{earlier} frames before the last three are not used")
        for path in files[-FRAMES:]:
            found.add_frame(path, label)
    return found.done(split)


def emotion(root: Path, folder: Path) -> str:
    """Wire name of the sequence ``folder`` from its label file, or why it has none."""
    files = sorted((root / "Emotion" / folder.parent.name / folder.name).glob("*_emotion.txt"))
    if not files:
        return "sequence without a label"
    try:
        name = CODES[int(float(files[0].read_text()))]
    except (ValueError, IndexError, OverflowError, OSError):
        return f"label file {files[0].name} holds no number of 0 to 7"
    return name if name in CLASSES else f"label {name} is not one of the seven"


def landmarks(root: Path, picture: Path) -> npt.NDArray[np.float64] | None:
    """float64 [68, 2], x and y in pixels of the whole frame; None when there is no such file or it holds others."""
    file = root / "Landmarks" / picture.parent.relative_to(root / PICTURES) / f"{picture.stem}_landmarks.txt"
    try:
        points = np.array(file.read_text().split(), np.float64).reshape(-1, 2)
    except (ValueError, OSError):
        return None
    return points if points.shape == (68, 2) and np.isfinite(points).all() else None


def cut(image: U8, points: npt.NDArray[np.float64], margin: float = 1.2) -> U8:
    """The square of ``margin`` times the landmarks' larger extent round their middle, moved to lie in the picture."""
    low, high = points.min(axis=0), points.max(axis=0)
    n = int(np.clip(round(margin * float((high - low).max())), 1, min(image.shape)))
    x, y = (
        int(np.clip(round(float(m) - n / 2), 0, size - n))
        for m, size in zip((low + high) / 2, image.shape[::-1], strict=True)
    )
    return image[y : y + n, x : x + n]


LAYOUTS = (
    Layout(f"{FILE} (the data pack)", lambda p: (p / FILE).is_file(), read_archive),
    Layout(
        f"{PICTURES}/S010/004/*.png with Emotion/S010/004/*_emotion.txt (and Landmarks/)",
        lambda p: (p / PICTURES).is_dir() and (p / "Emotion").is_dir(),
        read_sequences,
    ),
    Layout("CK+48/CLASS/S010_004_00000017.png (48x48)", lambda p: crops(p) is not None, read_crops),
)
