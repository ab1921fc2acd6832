"""A fused network beside the single modalities it is made of, at each step of the light. Pure: results in, gaps out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from export.report.results import System

SINGLE = ("visible", "infrared", "msx")
"""families of one modality; MSX is one, though both lenses stand behind it"""
FUSED = ("early", "late", "pixel")


@dataclass(frozen=True)
class Standing:
    """gaps: light -> accuracy less that of the best of ``singles`` in that light, as a share; only the steps that all
    of them have. missing: modalities of it that have no result to stand beside."""

    system: System
    singles: tuple[System, ...]
    missing: tuple[str, ...]
    gaps: dict[float, float]

    @property
    def worst(self) -> tuple[float, float]:
        """(gap, light) of the step where it stands worst."""
        return min((gap, gain) for gain, gap in self.gaps.items())


def standing(s: System, systems: Iterable[System], start: Mapping[str, str]) -> Standing:
    """``start`` is the recipe's: part of the network -> recipe it begins with."""
    beside = [t for t in systems if (t.variant, t.dataset) == (s.variant, s.dataset) and t.darkness]
    wanted = _modalities(s, start)
    found = {x: one for x in wanted if (one := _single(s, x, beside))}
    singles = tuple(found.values())
    light = [{d.gain: d.accuracy for d in t.darkness} for t in singles]
    steps = [d for d in s.darkness if light and all(d.gain in one for one in light)]
    gaps = {d.gain: d.accuracy - max(one[d.gain] for one in light) for d in steps}
    return Standing(s, singles, tuple(x for x in wanted if x not in found), gaps)


def _modalities(s: System, start: Mapping[str, str]) -> list[str]:
    """Those its recipe names as parts (``branches.msx``) or its network as modalities, else its lenses."""
    named = {part for key in start for part in key.split(".")} & set(SINGLE)
    if not named and s.trained:
        named = set(s.trained.model.get("modalities", ()))
    return [x for x in SINGLE if x in (named or s.lenses)]


def _single(s: System, modality: str, beside: list[System]) -> System | None:
    """The network it begins with, or where that is of another modality (1-step training) its paper's."""
    alone = [t for t in beside if t.family == modality]
    begun = [t for t in alone if t.recipe in s.training.starts_from]
    return next(iter(begun or [t for t in alone if t.paper == s.paper and t.role == "system"]), None)
