"""Where the shipped bundle is wrong and most sure of it: the pictures a reader should see before trusting it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgefer.bundle import Bundle
from edgefer.config import Infer
from edgefer.infer import open_network
from edgefer.types import F32
from export import evaluate, lenses, metrics
from export.data.faces import Faces, Labels
from export.report import figures

PER_CLASS = 6


@dataclass(frozen=True)
class Mistake:
    """row of the test set, classes by number, calibrated probability of the wrong answer."""

    row: int
    true: int
    said: int
    confidence: float


def answers(bundle: Bundle, faces: Faces, seed: int, say: Callable[[str], None]) -> F32:
    """Logits float32 [N, K] with every lens the bundle can use, through the device's path."""
    mode, shown = next(iter(lenses.views(faces, seed, bundle.manifest.lenses_needed).items()))
    network = open_network(bundle, Infer(backend="onnxruntime", threads=1))
    try:
        return evaluate.device_logits(network, shown, f"mistakes of {bundle.title}, {mode}", say)
    finally:
        network.close()


def surest(logits: F32, labels: Labels, temperature: float, count: int = PER_CLASS) -> dict[int, list[Mistake]]:
    """true class -> its ``count`` surest mistakes, surest first."""
    probs = metrics.probabilities(logits, temperature)
    said, confidence = probs.argmax(axis=1), probs.max(axis=1)
    found: dict[int, list[Mistake]] = {}
    for k in np.argsort(-confidence, kind="stable"):
        of_class = found.setdefault(int(labels[k]), [])
        if said[k] != labels[k] and len(of_class) < count:
            of_class.append(Mistake(int(k), int(labels[k]), int(said[k]), float(confidence[k])))
    return {true: found[true] for true in sorted(found) if found[true]}


def montage(found: dict[int, list[Mistake]], faces: Faces, path: Path) -> Path:
    """A PNG, one row per true class, what was said above each face. Holds real faces: never commit it."""
    rows = {
        faces.classes[true]: [
            (f"{faces.classes[m.said]} {m.confidence:.0%}", np.repeat(faces.images[m.row][..., None], 3, axis=2))
            for m in mistakes
        ]
        for true, mistakes in found.items()
    }
    return figures.captioned(rows, path)
