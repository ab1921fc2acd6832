"""USTC-NVIE, spontaneous part (Wang et al., 2010), by the selection rules of papers 001 and 000.

The rules are those of Wang et al. (2014): a sample is used when its mean intensity is larger than 1, its expression is
happiness, fear or disgust, and both lenses have a picture of it. Paper 000 is left with 518 samples of 123 people.

The set is given out on request and comes with a spreadsheet of its own, so the form read here is ours: ``labels.csv``
with the columns sample, subject, expression, intensity (one row per sample, the mean of the raters) beside the folders
``visible`` and ``infrared`` with one picture SAMPLE.* each.
"""

from __future__ import annotations

import csv
import math
from pathlib import Path

from export.data.faces import Faces
from export.data.folders import SIDE, Layout, class_name, files_below, is_image, read_any
from export.data.paired import PairsFound, pair_name
from export.errors import InputError

CLASSES = ("disgust", "fear", "happiness")
COLUMNS = ("sample", "subject", "expression", "intensity")
TABLE = "labels.csv"
LEAST = 1.0
"""a sample's mean intensity (0 to 2) must be above this"""


def load(root: Path, split: str = "all", side: int = SIDE) -> Faces:
    """``all``, with ``person``; uint8 [N, side, side]. Raises InputError."""
    return read_any("nvie", root, LAYOUTS, split, side)


def read(root: Path, split: str, side: int) -> Faces:
    """The samples that pass; each other row and each picture without a row is named with the reason."""
    found, seen = PairsFound(root, side), set[str]()
    files = {lens: _pictures(root / lens, found) for lens in ("visible", "infrared")}
    for line, row in rows(root / TABLE):
        sample = pair_name(row["sample"])
        why = "second row of this sample" if sample in seen else rule(row)
        lacks = [f"{lens}/{row['sample']}.*" for lens in files if sample not in files[lens]]
        seen.add(sample)
        if why or lacks:
            found.rejected.append(f"{TABLE} line {line}: {row['sample']}: {why or 'lacks ' + ' and '.join(lacks)}")
            continue
        label = CLASSES.index(class_name(row["expression"]) or "")
        found.add_pair({lens: held[sample] for lens, held in files.items()}, label, row["subject"])
    for held in files.values():
        for sample, path in held.items():
            if sample not in seen:
                found.reject(path, f"no row in {TABLE}")
    return found.done(CLASSES)


def rule(row: dict[str, str]) -> str:
    """Why the row is not used; "" when it passes."""
    try:
        intensity = float(row["intensity"])
    except ValueError:
        intensity = math.nan
    if math.isnan(intensity):
        return f"intensity {row['intensity']!r} is no number"
    if intensity <= LEAST:
        return f"mean intensity {intensity:g} is not above {LEAST:g}"
    if class_name(row["expression"]) not in CLASSES:
        return f"{row['expression']!r} is not one of {', '.join(CLASSES)}"
    return "" if row["subject"] else "no subject"


def rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """(line number, row) of the table. Raises InputError when a column is missing or it is no csv."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as f:
        table = csv.DictReader(f)
        try:
            if missing := [c for c in COLUMNS if c not in (table.fieldnames or [])]:
                raise InputError(f"{path}: lacks the column {', '.join(missing)}; it needs {','.join(COLUMNS)}")
            return [(table.line_num, {c: (row[c] or "").strip() for c in COLUMNS}) for row in table]
        except csv.Error as e:
            raise InputError(f"{path}: not a csv ({e})") from None


def _pictures(folder: Path, found: PairsFound) -> dict[str, Path]:
    out: dict[str, Path] = {}
    for path in files_below(folder):
        if not is_image(path):
            found.reject(path, "not an image file")
        elif (name := pair_name(path.stem)) in out:
            found.reject(path, f"same sample as {out[name].name}, which is used")
        else:
            out[name] = path
    return out


def fits(root: Path) -> bool:
    """Whether the table and both folders are there."""
    return (root / TABLE).is_file() and all((root / lens).is_dir() for lens in ("visible", "infrared"))


LAYOUTS = (Layout(f"{TABLE} ({','.join(COLUMNS)}) with visible/SAMPLE.* and infrared/SAMPLE.*", fits, read),)
