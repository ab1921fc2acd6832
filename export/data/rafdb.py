"""RAF-DB, basic expressions (Li, Deng, Du, 2017): 15,339 faces in the wild, official train and test.

``list_patition_label.txt`` (spelt so by its authors) has a line "train_00001.jpg 5" per picture; the aligned ones are
called train_00001_aligned.jpg. The list's numbers 1 to 7 are given in CODES; labels are FER2013's.
"""

from __future__ import annotations

from pathlib import Path

from export.data.faces import Faces
from export.data.fer2013 import LABELS
from export.data.folders import SIDE, Gathered, Layout, files_below, read_any

CODES = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")
"""expression of the list's numbers 1, 2, ..."""

LIST = "list_patition_label.txt"
LISTS = tuple(f"{folder}{LIST}" for folder in ("basic/EmoLabel/", "EmoLabel/", "basic/", ""))
IMAGES = ("basic/Image/aligned", "Image/aligned", "basic/aligned", "aligned")


def load(root: Path, split: str, side: int = SIDE) -> Faces:
    """``train`` or ``test``; uint8 [N, side, side] from the aligned 100x100 pictures. Raises InputError."""
    return read_any("rafdb", root, LAYOUTS, split, side)


def read(root: Path, split: str, side: int) -> Faces:
    """The list's rows of one split; a line that is none, a missing picture, a picture not in the list are told."""
    folder, path = _first(root, IMAGES), _first(root, LISTS)
    found, listed = Gathered(root, side), set()
    for line, text in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        name, code = [*text.split(), "", ""][:2]
        picture = folder / f"{Path(name).stem}_aligned{Path(name).suffix}"
        listed.add(picture)
        if not name.startswith(("train_", "test_")) or code not in {str(i + 1) for i in range(len(CODES))}:
            found.rejected.append(f"{path.name} line {line}: {text!r} is not a picture's name and a number of 1 to 7")
        elif not name.startswith(f"{split}_"):
            continue
        elif not picture.is_file():
            found.rejected.append(f"{path.name} line {line}: {name} lacks {picture.name}")
        else:
            found.add(picture, LABELS.index(CODES[int(code) - 1]))
    for stray in files_below(folder):
        if stray not in listed:
            found.reject(stray, f"not in {path.name}")
    return found.faces(LABELS)


def _first(root: Path, places: tuple[str, ...]) -> Path:
    return next(root / place for place in places if (root / place).exists())


def fits(root: Path) -> bool:
    """Whether the list and the folder of aligned pictures are there."""
    return all(any((root / place).exists() for place in places) for places in (LISTS, IMAGES))


LAYOUTS = (Layout(f"basic/EmoLabel/{LIST} with basic/Image/aligned/train_00001_aligned.jpg", fits, read),)
