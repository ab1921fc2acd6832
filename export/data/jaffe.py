"""JAFFE (Lyons et al., 1998): 213 posed faces of ten Japanese women; the file's name says who and which expression.

KA.AN1.39.tiff is person KA, anger, first pose, running number 39. Labels are FER2013's.
"""

from __future__ import annotations

import re
from pathlib import Path

from export.data.faces import Faces
from export.data.fer2013 import LABELS
from export.data.folders import SIDE, Gathered, Layout, files_below, is_image, need_class, read_any

NAME = re.compile(r"^([A-Z]{2})[.-](AN|DI|FE|HA|SA|SU|NE)\d*[.-]\d+$", re.IGNORECASE)


def load(root: Path, split: str = "all", side: int = SIDE) -> Faces:
    """``all``, with ``person``; uint8 [N, side, side]. Raises InputError."""
    return read_any("jaffe", root, LAYOUTS, split, side)


def read(root: Path, split: str, side: int) -> Faces:
    """Every picture below ``root`` whose name is in the set's form."""
    found = Gathered(root, side)
    for path in files_below(root):
        if name := NAME.match(path.stem):
            found.add(path, LABELS.index(need_class(name[2], path, LABELS)), name[1].upper())
        else:
            found.reject(
                path, "name is not PERSON.CLASS.NUMBER (KA.AN1.39.tiff)" if is_image(path) else "not an image file"
            )
    return found.faces(LABELS)


def fits(root: Path) -> bool:
    """Whether a picture in ``root`` or in one of its folders is named in the set's form."""
    return any(is_image(p) and NAME.match(p.stem) for pattern in ("*", "*/*") for p in root.glob(pattern))


LAYOUTS = (Layout("KA.AN1.39.tiff and so on", fits, read),)
