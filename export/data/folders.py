"""Image files of labelled folders as uint8 grey; every file that is not used is named with the reason.

A picture that is not square is cut to its central square first (squeezing would change the face's proportions), then
resized with INTER_AREA, OpenCV's filter for shrinking without moire.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from export.data.faces import U8, Faces, fingerprint
from export.errors import InputError

SIDE = 48
"""pixels; side of a face unless a reader is asked for another"""

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".pgm", ".webp")

SPELLINGS = {
    "anger": ("anger", "angry", "an", "ang", "rage"),
    "disgust": ("disgust", "disgusted", "di", "dis"),
    "fear": ("fear", "fearful", "afraid", "scared", "fe", "fea"),
    "happiness": ("happiness", "happy", "joy", "ha", "hap"),
    "sadness": ("sadness", "sad", "sa"),
    "surprise": ("surprise", "surprised", "su", "sur"),
    "neutral": ("neutral", "ne", "neu", "calm"),
    "contempt": ("contempt", "contemptuous", "co", "con"),
}
"""wire name -> folder names that mean it; case and a number before or after ("1_happy", "happy-03") do not matter"""

ORDER = tuple(SPELLINGS)
"""Label order of every set without a fixed one; its first seven are FER2013's, so that shared classes share numbers."""


def class_name(spelling: str) -> str | None:
    """Wire name of a folder or class name; None when it means no expression that we know."""
    plain = re.sub(r"^\d+[ _.-]*|[ _.-]*\d+$", "", spelling.strip()).casefold()
    return next((name for name, known in SPELLINGS.items() if plain in known), None)


def need_class(spelling: str, where: Path, among: Iterable[str] = ORDER) -> str:
    """Wire name; raises InputError naming the folder and the spellings that would do."""
    name, allowed = class_name(spelling), tuple(among)
    if name not in allowed:
        known = "; ".join(f"{n}: {', '.join(SPELLINGS[n])}" for n in allowed)
        raise InputError(f"{where}: {spelling!r} is no expression of this set; rename it to one of: {known}")
    return name


def is_clutter(path: Path) -> bool:
    """Folders that systems leave behind (.git, .ipynb_checkpoints, __MACOSX)."""
    return path.name.startswith((".", "__"))


def is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def decode(path: Path) -> U8 | str:
    """uint8 [H, W] grey, or the reason why there is none."""
    if not is_image(path):
        return "not an image file"
    try:
        raw = path.read_bytes()
    except OSError as e:
        return f"unreadable ({e.strerror})"
    if not raw:
        return "empty file"
    try:
        image: U8 | None = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_GRAYSCALE)
    except cv2.error:
        image = None
    return "unreadable (damaged or cut short)" if image is None else image


def fit(image: U8, side: int) -> U8:
    """The central square of uint8 [H, W] at [side, side]."""
    h, w = image.shape
    n = min(h, w)
    square = image[(h - n) // 2 : (h - n) // 2 + n, (w - n) // 2 : (w - n) // 2 + n]
    return square if n == side else cv2.resize(square, (side, side), interpolation=cv2.INTER_AREA)


def read_face(path: Path, side: int, exact: int | None = None) -> U8 | str:
    """uint8 [side, side], or the reason why not; ``exact``: the side in pixels that the file itself must have."""
    image = decode(path)
    if isinstance(image, str):
        return image
    if exact is not None and image.shape != (exact, exact):
        return f"{image.shape[1]}x{image.shape[0]} pixels, not {exact}x{exact}"
    return fit(image, side)


@dataclass
class Gathered:
    """Faces as they are read, file by file; :meth:`faces` closes the list. Paths in ``rejected`` are below
    ``whole``, the folder of all splits, where ``root`` is that of one."""

    root: Path
    side: int = SIDE
    exact: int | None = None
    images: list[U8] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    person: list[str] = field(default_factory=list)
    rejected: list[str] = field(default_factory=list)
    whole: Path | None = None

    def reject(self, path: Path, why: str) -> None:
        above = self.whole or self.root
        name = path.relative_to(above) if path.is_relative_to(above) else path
        self.rejected.append(f"{name.as_posix()}: {why}")

    def read(self, path: Path) -> U8 | None:
        """The face, or None when it is not usable, which is then noted."""
        face = read_face(path, self.side, self.exact)
        if isinstance(face, str):
            self.reject(path, face)
            return None
        return face

    def add(self, path: Path, label: int, person: str | None = None) -> bool:
        """Whether the file became a row."""
        if (face := self.read(path)) is None:
            return False
        self.images.append(face)
        self.labels.append(label)
        if person is not None:
            self.person.append(person)
        return True

    def faces(self, classes: tuple[str, ...], **more: Any) -> Faces:
        """``more``: further fields of Faces. Raises InputError when not one file could be used."""
        if not self.images:
            first = f" (first of {len(self.rejected)}: {self.rejected[0]})" if self.rejected else ""
            raise InputError(f"{self.root}: not one usable face{first}")
        images, labels = np.stack(self.images), np.asarray(self.labels, np.int64)
        if self.person and len(self.person) == len(labels):
            more.setdefault("person", np.asarray(self.person))
        digest = fingerprint(images, labels, more.get("infrared"))
        return Faces(images, labels, digest, classes, rejected=tuple(self.rejected), **more)


def class_folders(root: Path, found: Gathered, among: Iterable[str] = ORDER) -> list[tuple[Path, str]]:
    """(folder, wire name) of each class below ``root``; what lies beside them is noted as rejected."""
    out = []
    for entry in sorted(root.iterdir()):
        if not entry.is_dir():
            found.reject(entry, "lies beside the class folders")
        elif is_clutter(entry):
            found.reject(entry, "hidden folder")
        else:
            out.append((entry, need_class(entry.name, root, among)))
    return out


def files_below(folder: Path) -> Iterator[Path]:
    """Every file below ``folder``, in the order of their names."""
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def present_classes(names: Iterable[str]) -> tuple[str, ...]:
    """The classes that occur, in :data:`ORDER`."""
    have = set(names)
    return tuple(name for name in ORDER if name in have)


def read_classes(root: Path, split: str = "all", side: int = SIDE) -> Faces:
    """CLASS/*.png below ``root`` (or its part): the classes that have a folder, in :data:`ORDER`. Raises InputError."""
    whole, root = root, part(root, split, has_class_folders)
    found = Gathered(root, side, whole=whole)
    folders = class_folders(root, found)
    classes = present_classes(name for _, name in folders)
    for folder, name in folders:
        for path in files_below(folder):
            found.add(path, classes.index(name))
    return found.faces(classes)


def has_class_folders(root: Path) -> bool:
    """Whether ``root`` holds folders and one of them at least is named after an expression."""
    return root.is_dir() and any(p.is_dir() and class_name(p.name) for p in root.iterdir())


PARTS = ("all", "train", "val", "test")
"""splits of a set that any folder may be: ``all`` is what lies in it, the others are folders of these names"""


def part(root: Path, split: str, fits: Callable[[Path], bool]) -> Path:
    """The folder of ``split``; raises InputError naming those that are there."""
    have = parts_there(root, fits)
    if split not in have:
        raise InputError(f"{root}: no split {split!r} in this folder; it has {', '.join(have)}")
    return have[split]


def parts_there(root: Path, fits: Callable[[Path], bool]) -> dict[str, Path]:
    """Those of :data:`PARTS` that lie in ``root``, with their folders."""
    return {name: folder for name in PARTS if fits(folder := root if name == "all" else root / name)}


@dataclass(frozen=True)
class Layout:
    """One form in which a set is handed around."""

    what: str
    """what must lie in the folder, as the user is told"""
    fits: Callable[[Path], bool]
    read: Callable[[Path, str, int], Faces]
    """(folder, split, side) -> faces"""
    splits: Callable[[Path], Iterable[str]] | None = None
    """which of the reader's splits lie in a folder that fits; None: all"""


def in_parts(what: str, fits: Callable[[Path], bool], read: Callable[[Path, str, int], Faces]) -> Layout:
    """A layout in which a set lies whole or as folders train/, val/, test/."""
    return Layout(what, lambda root: bool(parts_there(root, fits)), read, lambda root: parts_there(root, fits))


def find(name: str, root: Path, layouts: tuple[Layout, ...]) -> tuple[Path, Layout] | None:
    """The first layout that fits ``root`` or ``root/name``, and which of the two."""
    for folder in (root, root / name):
        for layout in layouts:
            if folder.is_dir() and layout.fits(folder):
                return folder, layout
    return None


def read_any(name: str, root: Path, layouts: tuple[Layout, ...], split: str, side: int) -> Faces:
    """By the layout that is found. Raises InputError naming every layout when none is."""
    if place := find(name, root, layouts):
        return place[1].read(place[0], split, side)
    forms = "; or ".join(layout.what for layout in layouts)
    raise InputError(f"{root}: no {name} found here or in {name}/; what would do: {forms}")


def fixed(
    labels: npt.NDArray[Any], names: Iterable[str], classes: tuple[str, ...], where: Path
) -> npt.NDArray[np.int64]:
    """Label numbers of the archive ``where`` with class ``names`` of its own as indices into ``classes``.

    Raises InputError when a name or a number means none of them.
    """
    to = np.array([classes.index(need_class(str(name), where, classes)) for name in names], np.int64)
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(to):
        raise InputError(f"{where}: labels {labels.min()} to {labels.max()}, but it names {len(to)} classes")
    return to[labels.astype(np.int64)]


def load(root: Path, split: str = "all", side: int = SIDE) -> Faces:
    """Any labelled set of one visible lens: CLASS/*.jpg, or train|val|test/CLASS/*.jpg. uint8 [N, side, side]."""
    return read_any("folders", root, LAYOUTS, split, side)


LAYOUTS = (in_parts("CLASS/*.jpg or train|val|test/CLASS/*.jpg", has_class_folders, read_classes),)
