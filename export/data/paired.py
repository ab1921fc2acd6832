"""Folders of aligned visible + infrared faces, pairs by file name; VIRI (Siddiqui & Javaid, 2020) among them.

Either ROOT/visible/angry/x.jpg + ROOT/infrared/angry/x.jpg or ROOT/angry/visible/x.jpg + ROOT/angry/infrared/x.jpg, in
both cases with msx beside them or without. Two files are a pair when their names are the same but for the ending and
the lens ("vis_012.png", "012-IR.jpg"). Files may lie in a folder per person below that, which then is ``person``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from export.data.faces import U8, Faces
from export.data.folders import (
    SIDE,
    Gathered,
    class_name,
    files_below,
    has_class_folders,
    in_parts,
    is_clutter,
    is_image,
    need_class,
    part,
    present_classes,
    read_any,
)

LENSES = {
    "visible": ("visible", "vis", "vi", "vl", "rgb", "color", "colour"),
    "infrared": ("infrared", "thermal", "lwir", "nir", "ir", "th"),
    "msx": ("msx",),
}
"""lens -> the spellings of its folders and of the marks in its files' names"""

MARKS = "|".join(mark for marks in LENSES.values() for mark in marks)
PREFIX = re.compile(rf"^(?:{MARKS})(?:[ _.-]+|(?=\d))", re.IGNORECASE)
SUFFIX = re.compile(rf"(?:[ _.-]+|(?<=\d))(?:{MARKS})$", re.IGNORECASE)


def lens_name(spelling: str) -> str | None:
    """``visible``, ``infrared`` or ``msx`` of a folder's name; None when it means no lens."""
    return next((lens for lens, known in LENSES.items() if spelling.strip().casefold() in known), None)


def pair_name(stem: str) -> str:
    """What the files of one pair have in common: the name without its lens mark, in lower case."""
    bare = SUFFIX.sub("", PREFIX.sub("", stem))
    return (bare or stem).casefold()


@dataclass(frozen=True)
class Place:
    """All files of one class and one lens."""

    folder: Path
    label: str
    lens: str


@dataclass
class PairsFound(Gathered):
    """Gathered, with the other lenses beside ``images``."""

    others: dict[str, list[U8]] = field(default_factory=dict)

    def add_pair(self, files: dict[str, Path], label: int, person: str | None) -> None:
        """``files``: one per lens. A pair of which one file is not usable is no row; the others are named, too."""
        read = {lens: self.read(path) for lens, path in files.items()}
        if broken := [files[lens].name for lens, face in read.items() if face is None]:
            for lens, face in read.items():
                if face is not None:
                    self.reject(files[lens], f"unpaired, its other file {broken[0]} is not usable")
            return
        for lens, face in read.items():
            (self.images if lens == "visible" else self.others.setdefault(lens, [])).append(face)  # type: ignore[arg-type]
        self.labels.append(label)
        if person is not None:
            self.person.append(person)

    def done(self, classes: tuple[str, ...]) -> Faces:
        more: dict[str, Any] = {lens: np.stack(views) for lens, views in self.others.items()}
        return self.faces(classes, **more)


def load(root: Path, split: str = "all", side: int = SIDE) -> Faces:
    """``all``, or ``train`` / ``val`` / ``test`` where ROOT has these folders; uint8 [N, side, side]."""
    return read_any("paired", root, LAYOUTS, split, side)


def load_viri(root: Path, split: str = "all", side: int = SIDE) -> Faces:
    """VIRI: 566 pairs with MSX in five classes (not public: the layout is the one described above)."""
    return read_any("viri", root, LAYOUTS, split, side)


def read(root: Path, split: str, side: int) -> Faces:
    """Every pair; with an msx folder, every triple. Raises InputError."""
    whole, root = root, part(root, split, fits)
    found = PairsFound(root, side, whole=whole)
    held = list(places(root, found))
    lenses = [lens for lens in LENSES if any(place.lens == lens for place in held)]
    classes = present_classes(place.label for place in held)
    for label in classes:
        files = {lens: _by_name([p for p in held if (p.label, p.lens) == (label, lens)], found) for lens in lenses}
        where = {lens: _where(held, label, lens, whole) for lens in lenses}
        for key in sorted(set().union(*files.values())):
            have = {lens: files[lens][key] for lens in lenses if key in files[lens]}
            if lacks := [f"{where[lens]}/{key[1]}.*" for lens in lenses if lens not in have]:
                for path in have.values():
                    found.reject(path, f"unpaired, lacks {' and '.join(lacks)}")
            else:
                found.add_pair(have, classes.index(label), key[0] or None)
    return found.done(classes)


def _where(held: list[Place], label: str, lens: str, whole: Path) -> str:
    """The folder in which a missing file is missed."""
    named = [place.folder.relative_to(whole).as_posix() for place in held if (place.label, place.lens) == (label, lens)]
    return named[0] if named else f"{lens} of {label}"


def _by_name(held: list[Place], found: Gathered) -> dict[tuple[str, str], Path]:
    """(person or "", pair name) -> image; a second file of the same name is noted."""
    out: dict[tuple[str, str], Path] = {}
    for place in held:
        for path in files_below(place.folder):
            inner = path.relative_to(place.folder).parent.as_posix()
            key = ("" if inner == "." else inner, pair_name(path.stem))
            if not is_image(path):
                found.reject(path, "not an image file")
            elif key in out:
                found.reject(path, f"same pair as {out[key].name}, which is used")
            else:
                out[key] = path
    return out


def places(root: Path, found: Gathered) -> Iterator[Place]:
    """The folders by class and lens, in whichever order they are nested; what is neither is noted or refused."""
    for outer in _folders(root, found):
        lens = lens_name(outer.name)
        label = None if lens else need_class(outer.name, root)
        for inner in _folders(outer, found):
            if lens:
                yield Place(inner, need_class(inner.name, outer), lens)
            elif (named := lens_name(inner.name)) and label:
                yield Place(inner, label, named)
            else:
                found.reject(inner, f"no lens; known: {', '.join(LENSES)}")


def _folders(root: Path, found: Gathered) -> Iterator[Path]:
    for entry in sorted(root.iterdir()):
        if entry.is_dir() and not is_clutter(entry):
            yield entry
        else:
            found.reject(entry, "hidden folder" if entry.is_dir() else "lies beside the folders")


def fits(root: Path) -> bool:
    """Whether visible and infrared folders are nested with folders of expressions in one of the two orders."""
    outer = [p for p in root.iterdir() if p.is_dir()] if root.is_dir() else []
    if {"visible", "infrared"} <= {lens_name(p.name) for p in outer}:
        return any(has_class_folders(p) for p in outer if lens_name(p.name))
    inner = {lens_name(q.name) for p in outer if class_name(p.name) for q in p.iterdir() if q.is_dir()}
    return {"visible", "infrared"} <= inner


LAYOUTS = (
    in_parts("visible/CLASS/x.jpg with infrared/CLASS/x.jpg (and msx/CLASS/x.jpg)", fits, read),
    in_parts("CLASS/visible/x.jpg with CLASS/infrared/x.jpg (and CLASS/msx/x.jpg)", fits, read),
)
