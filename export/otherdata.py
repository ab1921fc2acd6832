"""The bundle on faces of other sets, nothing of which was trained on: CK+ and real infrared (thermal) faces.

Their 48-pixel pictures are framed as the device does (`export.framing`); those without a found face are used as they
are, and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgefer.types import F32, F64
from export import data, framing, lenses, metrics
from export.data.faces import Faces
from export.errors import InputError
from export.lenses import Inputs

Answer = Callable[[Inputs, str], F32]


def cross(
    names: list[str], template: F64, side: int, needed: Sequence[str], seed: int, answer: Answer
) -> dict[str, Any]:
    """CK+ with each camera state, infrared simulated; the thermal set on the infrared lens. names: the bundle's labels.

    A set that is not there is left out and said.
    """
    out: dict[str, Any] = {}
    modes = list(lenses.modes(needed))
    thermal = [m for m in modes if m == "infrared"]
    for name, split, shown in (("ckplus", "shared", modes), ("thermal", "all", thermal)):
        try:
            faces = data.load(name, split, side=side)
        except InputError as e:
            out[name] = {"skipped": str(e)}
            continue
        if shown:
            out[name] = _on(name, faces, names, shown, template, side, seed, answer)
    return out


def _on(
    title: str, faces: Faces, names: list[str], modes: list[str], template: F64, side: int, seed: int, answer: Answer
) -> dict[str, Any]:
    known = [c in names for c in faces.classes]
    faces = faces.take(np.array(known)[faces.labels])
    labels = np.array([names.index(c) if c in names else -1 for c in faces.classes])[faces.labels]
    faces, missed = framing.faces(faces, template, side)
    infrared = lenses.infrared(faces, seed)
    shared = np.unique(labels)
    found: dict[str, Any] = {"images": len(faces), "faces_not_found": missed, "classes": [names[k] for k in shared],
                             "majority": float(np.bincount(labels).max() / len(labels))}  # fmt: skip
    for mode in modes:
        logits = answer(lenses.inputs(faces.images, infrared, mode), f"{title}, {mode}")
        found[mode] = {"accuracy": metrics.accuracy(logits, labels),
                       "among_shared_classes": metrics.accuracy(_among(logits, shared), labels),
                       "groups": _groups(logits, labels, faces.person)}  # fmt: skip
    return found


def _among(logits: F32, shared: npt.NDArray[np.int64]) -> F32:
    """The answer when only the classes of that set can be given."""
    out = np.full_like(logits, -np.inf)
    out[:, shared] = logits[:, shared]
    return out


def _groups(logits: F32, labels: npt.NDArray[np.int64], person: npt.NDArray[Any] | None) -> dict[str, Any] | None:
    """Spread over people or groups: how many, mean, worst and best accuracy."""
    if person is None:
        return None
    each = [metrics.accuracy(logits[person == p], labels[person == p]) for p in np.unique(person)]
    return {"count": len(each), "mean": float(np.mean(each)), "worst": float(min(each)), "best": float(max(each))}


def table(found: dict[str, Any]) -> list[str]:
    """Aligned plain text."""
    lines = [f"{'set, not trained on':20}{'lenses':18}{'images':>8}{'accuracy':>10}{'shared only':>13}{'majority':>10}"]
    for name, f in found.items():
        if "skipped" in f:
            lines.append(f"{name:20}left out: {f['skipped']}")
            continue
        for mode in (m for m in lenses.MODES if m in f):
            x = f[mode]
            spread = x["groups"]
            by = f"   by {'group' if name == 'thermal' else 'person'} {spread['worst']:.0%} to {spread['best']:.0%}"
            lines.append(f"{name:20}{mode:18}{f['images']:8}{x['accuracy']:10.2%}{x['among_shared_classes']:13.2%}"
                         f"{f['majority']:10.2%}{by if spread else ''}")  # fmt: skip
    return lines
