"""What a lens is worth: pure policies, time is an argument.

| state | is seen by | after |
|---|---|---|
| lost | no frame, or a device that reports its failure | ``lost_s``; at once |
| black | the brightest 1 % is below ``black_level`` | one frame |
| saturated | 60 % of the picture at full scale | 0.5 s |
| frozen | none of the last pictures differs from one of the four before it in 0.5 % of its points | ``frozen_s`` |
| wrong_spectrum | "visible" has no colour while "infrared" has | 1.5 s |
| covered | there is light, twice ``black_level``, but no edge | 1 s |
| blurred | edges, none of them sharp | 1.5 s |
| flicker | brightness turns round 8 times | within 1 s |
| dropping | a quarter of the frames is missing | within 2 s |

The first that applies is said, so what explains most stands first. A fault is over ``BACK_S`` after its cause, black
and saturated by a margin: a lens on the edge must not come and go. Freezing ends with the first new picture.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from edgefer.capture.look import Look, same_picture
from edgefer.capture.meters import Dropping, Flicker, Persisting
from edgefer.types import U8, Lens, LensState

BACK_S: Final = 0.3
BLACK_MARGIN: Final = 2.0
SATURATED_SHARE, SATURATED_BACK = 0.6, 0.5
LEAST_EDGES: Final = 0.002
"""share of the picture: a face, a headrest, a window frame give ten times that"""
BLURRED_BELOW, BLURRED_BACK = 0.50, 0.56
"""sharpness of the demo's portraits, 640 pixels wide, blurred by 8 pixels (sigma); blurred by 3 it is 0.70"""
PRINTS: Final = 4
"""pictures remembered: a driver that hands out old buffers goes round a few of them"""
COLOURLESS, COLOURED = 2.0, 6.0
"""chroma in grey levels of a grey sensor behind a colour format, and the least of a colour sensor in daylight"""
LIT: Final = 40
LIMITS_S: Final = {
    LensState.BLACK: 0.0,
    LensState.SATURATED: 0.5,
    LensState.COVERED: 1.0,
    LensState.WRONG_SPECTRUM: 1.5,
    LensState.BLURRED: 1.5,
    LensState.FLICKER: 0.0,
    LensState.DROPPING: 0.0,
}
"""seconds a cause must last; what flickers or drops is measured over a window, 1 and 2 s"""
_ORDER: Final = (LensState.COVERED, LensState.BLURRED, LensState.FLICKER, LensState.DROPPING)


class LensPolicy:
    """Judges one lens from its looks and the clock: see the table above. LOST before the first frame."""

    def __init__(self, lost_s: float, frozen_s: float, black_level: float) -> None:
        self._lost_ns = round(lost_s * 1e9)
        self._frozen_ns = round(frozen_s * 1e9)
        self._black_level = black_level
        self._prints: deque[U8] = deque(maxlen=PRINTS)
        self._changed_ns = 0
        self._seen_ns: int | None = None
        self._faults = {state: Persisting(limit_s, BACK_S) for state, limit_s in LIMITS_S.items()}
        self._flicker, self._dropping = Flicker(), Dropping()
        self.closely: Look | None = None
        """the last look at edges"""

    def see(self, look: Look, mono_ns: int) -> None:
        """Takes note of a frame captured at ``mono_ns``."""
        if not any(same_picture(look.print, p) for p in self._prints):
            self._changed_ns = mono_ns
            self._prints.append(look.print)
        self._judge_light(look, mono_ns)
        self._judge_edges(look, mono_ns)
        self._set(LensState.FLICKER, self._flicker.see(look.level, mono_ns), mono_ns)
        self._set(LensState.DROPPING, self._dropping.see(mono_ns) > Dropping.SHARE, mono_ns)
        self._seen_ns = mono_ns

    def fail(self) -> None:
        """The device is known to have failed: no need to wait for the silence."""
        self._seen_ns = None
        self._prints.clear()
        self._dropping.reset()
        for fault in self._faults.values():
            fault.reset()

    def set_swapped(self, swapped: bool, mono_ns: int) -> None:
        """What `swapped` says of both lenses."""
        self._set(LensState.WRONG_SPECTRUM, swapped, mono_ns)

    @property
    def flickers(self) -> bool:
        return self._faults[LensState.FLICKER].active

    def state(self, now_ns: int) -> LensState:
        """The judgement at ``now_ns``."""
        if self._seen_ns is None or now_ns - self._seen_ns >= self._lost_ns:
            return LensState.LOST
        for state in (LensState.BLACK, LensState.SATURATED):
            if self._faults[state].active:
                return state
        if self._seen_ns - self._changed_ns >= self._frozen_ns:
            return LensState.FROZEN
        if self._faults[LensState.WRONG_SPECTRUM].active:
            return LensState.WRONG_SPECTRUM
        return next((state for state in _ORDER if self._faults[state].active), LensState.OK)

    def _judge_light(self, look: Look, mono_ns: int) -> None:
        black, bright = self._faults[LensState.BLACK], self._faults[LensState.SATURATED]
        level = self._black_level + (BLACK_MARGIN if black.active else 0.0)
        black.update(look.brightest < level, mono_ns)
        bright.update(look.saturated > (SATURATED_BACK if bright.active else SATURATED_SHARE), mono_ns)

    def _judge_edges(self, look: Look, mono_ns: int) -> None:
        if look.edges is None:
            return
        self.closely = look
        blind = self._faults[LensState.BLACK].active or self._faults[LensState.SATURATED].active
        covered = not blind and look.edges.share < LEAST_EDGES and look.brightest >= 2 * self._black_level
        self._set(LensState.COVERED, covered, mono_ns)
        least = BLURRED_BACK if self._faults[LensState.BLURRED].active else BLURRED_BELOW
        self._set(LensState.BLURRED, not blind and not covered and look.edges.sharpness < least, mono_ns)

    def _set(self, state: LensState, bad: bool, mono_ns: int) -> None:
        self._faults[state].update(bad, mono_ns)


def swapped(visible: Look | None, infrared: Look | None) -> bool:
    """Whether the lenses look exchanged: "visible" is lit and has no colour, "infrared" is lit and has.

    Needs an "infrared" device that speaks a colour format; of two grey devices, or in the dark, nothing can be said.
    """
    if visible is None or infrared is None or visible.chroma is None or infrared.chroma is None:
        return False
    lit = min(visible.brightest, infrared.brightest) >= LIT
    return lit and visible.chroma <= COLOURLESS and infrared.chroma >= COLOURED


def states_of(visible: LensPolicy, infrared: LensPolicy, now_ns: int) -> tuple[LensState, LensState]:
    """Both judgements. When both lenses flicker it is the world (trees in the sun), not the illuminator."""
    said = {lens: policy.state(now_ns) for lens, policy in zip(Lens, (visible, infrared), strict=True)}
    if visible.flickers and infrared.flickers:
        said = {lens: LensState.OK if s is LensState.FLICKER else s for lens, s in said.items()}
    return said[Lens.VISIBLE], said[Lens.INFRARED]
