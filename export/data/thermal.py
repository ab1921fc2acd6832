"""Faces of a thermal lens alone: the data pack's set, or a folder per expression.

``images`` and ``infrared`` are the same pictures: a network that looks at the infrared lens sees the real one, and
nothing is simulated. There is no visible lens.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from export.data.faces import Faces, fingerprint
from export.data.fer2013 import read_npz
from export.data.folders import (
    SIDE,
    Layout,
    class_name,
    fixed,
    has_class_folders,
    in_parts,
    present_classes,
    read_any,
    read_classes,
)
from export.errors import InputError

FILE = "thermal48.npz"


def load(root: Path, split: str = "all", side: int = SIDE) -> Faces:
    """``all``, from folders also ``train``, ``val``, ``test``; uint8 [N, side, side] (the archive's are 48x48).

    Raises InputError.
    """
    return read_any("thermal", root, LAYOUTS, split, side)


def read_archive(root: Path, split: str, side: int) -> Faces:
    """``thermal48.npz`` of the data pack; ``person`` is its group. Neighbouring video frames: split by person only."""
    del side  # its pictures are 48x48 and are left as they are
    if split != "all":
        raise InputError(f"{root / FILE}: no split {split!r}, the archive has one: all; split it by person")
    d = read_npz(root / FILE, ("images", "labels", "group", "classes"))
    classes = present_classes(class_name(str(name)) or "" for name in d["classes"])
    labels = fixed(d["labels"], d["classes"], classes, root / FILE)
    digest = fingerprint(d["images"], labels, d["images"])
    return Faces(d["images"], labels, digest, classes, infrared=d["images"], person=d["group"])


def read_folders(root: Path, split: str, side: int) -> Faces:
    """CLASS/*.jpg or train|val|test/CLASS/*.jpg."""
    faces = read_classes(root, split, side)
    digest = fingerprint(faces.images, faces.labels, faces.images)
    return replace(faces, infrared=faces.images, fingerprint=digest)


LAYOUTS = (
    Layout(f"{FILE} (the data pack)", lambda p: (p / FILE).is_file(), read_archive),
    in_parts("CLASS/*.jpg or train|val|test/CLASS/*.jpg", has_class_folders, read_folders),
)
