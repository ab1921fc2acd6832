"""Labelled sets by name. A reader takes (folder, split) and finds out by itself in which form the set lies there."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from export.data import ckplus, fer2013, fer2013_folders, folders, jaffe, nvie, paired, rafdb, thermal
from export.data.faces import Faces
from export.data.folders import SIDE, Layout
from export.errors import InputError, UsageError


@dataclass(frozen=True)
class Reader:
    """One set: what it is, the splits it knows, the layouts it can be read from."""

    about: str
    splits: tuple[str, ...]
    layouts: tuple[Layout, ...]
    read: Callable[[Path, str, int], Faces]

    def __call__(self, root: Path, split: str, side: int = SIDE) -> Faces:
        """Faces of one split at ``side`` pixels (archives keep their 48). Raises UsageError, InputError."""
        if split not in self.splits:
            raise UsageError(f"split {split!r} is unknown; this set has {', '.join(self.splits)}")
        if not root.is_dir():
            raise InputError(f"{root}: no such folder")
        return self.read(root, split, side)


FER2013_LAYOUTS = (
    Layout(
        "fer2013.npz (the data pack)",
        lambda root: (root / "fer2013.npz").is_file(),
        lambda root, split, side: fer2013.load(split, root),
    ),
    Layout(
        "a csv with emotion,pixels,Usage",
        lambda root: fer2013_folders.table(root) is not None,
        fer2013_folders.read_csv,
    ),
    Layout(
        "Training|PublicTest|PrivateTest/CLASS/*.jpg or train|test/CLASS/PrivateTest_1.jpg (48x48)",
        fer2013_folders.has_parts,
        fer2013_folders.read_folders,
    ),
)


def _fer2013(root: Path, split: str, side: int) -> Faces:
    return folders.read_any("fer2013", root, FER2013_LAYOUTS, split, side)


READERS = {
    "fer2013": Reader(
        "FER2013, official split; train without twins of the tests",
        ("train", "public", "private", "private-clean"),
        FER2013_LAYOUTS,
        _fer2013,
    ),
    "ckplus": Reader("CK+, last three frames", ("all", "shared"), ckplus.LAYOUTS, ckplus.load),
    "jaffe": Reader("JAFFE", ("all",), jaffe.LAYOUTS, jaffe.load),
    "rafdb": Reader("RAF-DB, basic expressions, official split", ("train", "test"), rafdb.LAYOUTS, rafdb.load),
    "viri": Reader("VIRI, visible + infrared + MSX", folders.PARTS, paired.LAYOUTS, paired.load_viri),
    "nvie": Reader("NVIE, spontaneous, selected as in the papers", ("all",), nvie.LAYOUTS, nvie.load),
    "paired": Reader("any visible + infrared folder", folders.PARTS, paired.LAYOUTS, paired.load),
    "thermal": Reader("a thermal lens alone", folders.PARTS, thermal.LAYOUTS, thermal.load),
    "folders": Reader("any visible folder", folders.PARTS, folders.LAYOUTS, folders.load),
}


def load(name: str, split: str, root: Path | None = None, side: int = SIDE) -> Faces:
    """The faces of set ``name``; ``root``: the set's folder or one above it, else EDGEFER_DATA.

    Raises UsageError for an unknown name or split, InputError when the set is not there or damaged.
    """
    return reader(name)(root or fer2013.data_root(), split, side)


def reader(name: str) -> Reader:
    """Raises UsageError for an unknown name."""
    if name in READERS:
        return READERS[name]
    near = difflib.get_close_matches(name.casefold(), READERS, 1, 0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise UsageError(f"data set {name!r} is unknown; {hint}known: {', '.join(READERS)}")


def splits_there(name: str, root: Path | None = None) -> tuple[str, ...]:
    """The splits of set ``name`` that lie in its folder; where nothing does, all that its reader knows (reading it then
    says what would do). Raises UsageError for an unknown name."""
    known = reader(name)
    place = folders.find(name, root or fer2013.data_root(), known.layouts)
    return known.splits if place is None or place[1].splits is None else tuple(place[1].splits(place[0]))
