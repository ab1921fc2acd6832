"""Which of two lenses of one spectrum is looked through. Pure: time is an argument.

The one that is usable; of two usable ones the one that shows more: sharp, well exposed, with the face in it. A better
one must stay better for ``HOLD_S``; a lens that dies is replaced at once.
"""

from __future__ import annotations

from typing import Final

from edgefer.capture.look import Look
from edgefer.types import LensState

HOLD_S: Final = 2.0
MARGIN: Final = 0.15
FACE: Final = 0.6
"""what a face in the picture is worth, in sharpness: a sharp picture of the headrest is no use"""
FACE_GONE_S: Final = 2.0
FACE_MEMORY_S: Final = 30.0
"""what was found on the lens not looked through is believed for so long; then it may be tried again"""
DEGRADED: Final = 0.3
MIDDLE_GREY: Final = 110.0


def picture_score(look: Look | None) -> float:
    """Sharpness less the part that is badly exposed, 0 to 1; 0 without a look at the edges."""
    if look is None or look.edges is None:
        return 0.0
    exposure = 1.0 - min(1.0, abs(look.level - MIDDLE_GREY) / MIDDLE_GREY)
    return max(0.0, look.edges.sharpness * (0.5 + 0.5 * exposure) - look.saturated)


class Chooser:
    """Two lenses, 0 and 1. ``current`` is the one looked through; ``switches`` counts the changes."""

    def __init__(self) -> None:
        self.current = 0
        self.switches = 0
        self._better_ns: int | None = None
        self._faces: list[tuple[bool, int] | None] = [None, None]
        self._missing_ns: int | None = None

    def face(self, found: bool, now_ns: int) -> None:
        """Whether the face was found on the current lens; a miss counts when it lasts ``FACE_GONE_S``."""
        if found:
            self._missing_ns = None
            self._faces[self.current] = (True, now_ns)
            return
        if self._missing_ns is None:
            self._missing_ns = now_ns
        if now_ns - self._missing_ns >= FACE_GONE_S * 1e9:
            self._faces[self.current] = (False, now_ns)

    def choose(self, states: tuple[LensState, LensState], pictures: tuple[float, float], now_ns: int) -> int:
        """The lens to look through now, 0 or 1, from their states and `picture_score`."""
        here, there = self.current, 1 - self.current
        if not states[there].usable:
            self._better_ns = None
        elif not states[here].usable:
            self._switch()
        else:
            self._compare(
                self._worth(there, states, pictures, now_ns) - self._worth(here, states, pictures, now_ns), now_ns
            )
        return self.current

    def _compare(self, gain: float, now_ns: int) -> None:
        if gain <= MARGIN:
            self._better_ns = None
            return
        if self._better_ns is None:
            self._better_ns = now_ns
        if now_ns - self._better_ns >= HOLD_S * 1e9:
            self._switch()

    def _switch(self) -> None:
        self.current = 1 - self.current
        self.switches += 1
        self._better_ns = self._missing_ns = None

    def _worth(
        self, unit: int, states: tuple[LensState, LensState], pictures: tuple[float, float], now_ns: int
    ) -> float:
        known = self._faces[unit]
        fresh = known is not None and now_ns - known[1] <= FACE_MEMORY_S * 1e9
        face = FACE if not fresh or (known is not None and known[0]) else 0.0
        return pictures[unit] + face - (DEGRADED if states[unit] is not LensState.OK else 0.0)
