"""FER2013 as the competition's csv or as image folders, with the same official and leak-free splits as the archive.

Pixel-identical duplicates are found in what was read, so the leak-free variants need no list from elsewhere.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from export.data.faces import U8, Faces, fingerprint
from export.data.fer2013 import LABELS
from export.data.folders import Gathered, class_folders, files_below, fit
from export.data.splits import duplicate_groups
from export.errors import InputError

PARTS = ("Training", "PublicTest", "PrivateTest")
"""the official split, as the csv, the folders and the files' names spell it; numbered 0, 1, 2 as in the archive"""

FOLDERS = {"training": 0, "train": 0, "publictest": 1, "privatetest": 2, "test": None}
"""``test`` holds both tests: there the files' names (PrivateTest_10131363.jpg) tell"""

CSV = ("emotion", "pixels", "usage")


def official(found: Gathered, part: list[int], split: str) -> Faces:
    """``train`` (no image that also occurs in a test, none blank), ``public``, ``private``, ``private-clean`` (no
    image that also occurs in Training) of the rows found; ``part`` of each: 0, 1, 2 or UNTOLD."""
    everything = found.faces(LABELS)
    where, group = np.array(part), duplicate_groups(everything.images)
    name, _, kind = split.partition("-")
    keep = where == {"train": 0, "public": 1, "private": 2}[name]
    if split == "train":
        keep &= ~np.isin(group, group[where > 0]) & (everything.images.std(axis=(1, 2)) >= 5)
    elif kind == "clean":
        keep &= ~np.isin(group, group[where == 0])
    if not keep.any():
        raise InputError(f"{found.root}: no image of {split!r} in it")
    images, labels = everything.images[keep], everything.labels[keep]
    return Faces(images, labels, fingerprint(images, labels), LABELS, rejected=everything.rejected)


def table(root: Path) -> Path | None:
    """The csv with the competition's columns in ``root``, whatever it is called."""
    return next((path for path in sorted(root.glob("*.csv")) if set(CSV) <= set(next(rows(path), {}))), None)


def rows(path: Path) -> Iterator[dict[str, str]]:
    """Rows by column name in lower case. Raises InputError when the file is no csv."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as f:
            for row in csv.DictReader(f):
                yield {str(k).strip().casefold(): str(v).strip() for k, v in row.items()}
    except csv.Error as e:
        raise InputError(f"{path}: not a csv ({e}); fetch it again") from None


def read_csv(root: Path, split: str, side: int) -> Faces:
    """Columns emotion, pixels (2304 grey values), Usage; a row that is none is listed with its number."""
    path = table(root)
    if path is None:
        raise InputError(f"{root}: no csv with the columns {', '.join(CSV)}")
    found, parts = Gathered(root, side), []
    for number, row in enumerate(rows(path), start=1):
        read = _row(row)
        if isinstance(read, str):
            found.rejected.append(f"{path.name} row {number}: {read}")
            continue
        face, label, usage = read
        found.images.append(fit(face, side))
        found.labels.append(label)
        parts.append(usage)
    return official(found, parts, split)


def _row(row: dict[str, str]) -> tuple[U8, int, int] | str:
    """(face, label, part), or what is wrong with the row."""
    label, usage = row.get("emotion", ""), row.get("usage", "")
    if label not in {str(i) for i in range(len(LABELS))}:
        return f"emotion {label!r} is none of 0 to {len(LABELS) - 1}"
    if usage not in PARTS:
        return f"Usage {usage!r} is none of {', '.join(PARTS)}"
    try:
        values = np.array(row.get("pixels", "").split(), np.int64)
    except ValueError:
        return "pixels are not all numbers"
    if len(values) != 48 * 48 or values.min() < 0 or values.max() > 255:
        return f"{len(values)} pixels, not 2304 of 0 to 255"
    return values.astype(np.uint8).reshape(48, 48), int(label), PARTS.index(usage)


def part_folders(root: Path) -> Iterator[tuple[Path, int | None]]:
    """The folders of the official split below ``root`` with the part each holds (None: both tests)."""
    for path in sorted(root.iterdir()):
        if path.is_dir() and path.name.casefold() in FOLDERS:
            yield path, FOLDERS[path.name.casefold()]


def has_parts(root: Path) -> bool:
    """Whether ``root`` holds training and test folders."""
    held = [part for _, part in part_folders(root)]
    return 0 in held and len(held) > 1


def read_folders(root: Path, split: str, side: int) -> Faces:
    """train|test/CLASS/*.jpg or Training|PublicTest|PrivateTest/CLASS/*.jpg, each 48x48."""
    found, part, unsure = Gathered(root, side, exact=48), [], 0
    parts = dict(part_folders(root))
    for entry in sorted(root.iterdir()):
        if entry not in parts:
            found.reject(entry, "is no part of the official split")
    for folder, held in parts.items():
        for classes, name in class_folders(folder, found, LABELS):
            for path in files_below(classes):
                if found.add(path, LABELS.index(name)):
                    part.append(_part(path) if held is None else held)
                    unsure += part[-1] == UNTOLD
    if unsure and not split.startswith("train"):
        raise InputError(
            f"{root}: {unsure} files of the test folder do not say which test they are of (PublicTest_1.jpg, "
            f"PrivateTest_1.jpg), so {split!r} cannot be told; sort them into PublicTest/ and PrivateTest/"
        )
    return official(found, part, split)


UNTOLD = 3
"""part of a test image that may be of either test: never learned from, never tested on"""


def _part(path: Path) -> int:
    start = path.name.casefold()
    return next((i for i in (1, 2) if start.startswith(PARTS[i].casefold())), UNTOLD)
