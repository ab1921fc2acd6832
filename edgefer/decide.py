"""From scores to a reading: calibrated, smoothed over time, steady, and honest about not knowing. Pure; time is an
argument (``pair.mono_ns``), so frame rate and clock of the machine do not matter."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edgefer.config import Decide
from edgefer.types import F32, UNKNOWN, Face, FramePair, Lens, LensState, Reading, Scores, Why

DOUBT_MARGIN = 0.05


class Smoother:
    """First-order low-pass of the probabilities: p += (1 - exp(-dt / tau)) * (new - p).

    Splitting a step in two gives the same state, so the frame rate does not matter.
    """

    def __init__(self, tau_s: float, forget_s: float) -> None:
        self._tau, self._forget = tau_s, forget_s
        self._state: F32 | None = None
        self._at_ns = 0

    def update(self, probs: F32, at_ns: int) -> F32:
        """probs float32 [K] -> smoothed float32 [K] (the filter's own buffer)."""
        dt = max(0.0, (at_ns - self._at_ns) / 1e9)
        self._at_ns = at_ns
        if self._state is None or dt > self._forget:
            self._state = probs.copy()
        else:
            share = 1.0 if self._tau == 0 else 1.0 - math.exp(-dt / self._tau)
            self._state += share * (probs - self._state)
        return self._state


class Hysteresis:
    """The shown label changes only when another has led by ``margin`` for ``hold_s``."""

    def __init__(self, margin: float, hold_s: float) -> None:
        self._margin, self._hold_ns = margin, int(hold_s * 1e9)
        self.label: int | None = None
        self._challenger, self._since_ns = -1, 0

    def update(self, probs: F32, at_ns: int) -> int:
        leader = int(probs.argmax())
        if self.label is None:
            self.label = leader
        if leader == self.label or probs[leader] < probs[self.label] + self._margin:
            self._challenger = -1
        elif leader != self._challenger:
            self._challenger, self._since_ns = leader, at_ns
        if self._challenger >= 0 and at_ns - self._since_ns >= self._hold_ns:
            self.label, self._challenger = self._challenger, -1
        return self.label

    def pause(self, forget: bool) -> None:
        """Nothing was seen: no challenger has led meanwhile, and after a long gap there is no label to keep."""
        self._challenger = -1
        if forget:
            self.label = None


class Doubt:
    """Too low below ``level``, good again only ``DOUBT_MARGIN`` above it: a value on the edge does not flicker.

    Near 1, which no value passes, half of what is left above ``level`` will do.
    """

    def __init__(self, level: float) -> None:
        self._level, self._low = level, False
        self._margin = min(DOUBT_MARGIN, (1.0 - level) / 2)

    def update(self, value: float) -> bool:
        self._low = value < self._level + (self._margin if self._low else 0.0)
        return self._low


class Decider:
    """labels in the network's order; temperature and min_conf (unless configured) of the bundle."""

    def __init__(
        self, config: Decide, labels: Sequence[str], temperature: float, min_conf: float, needed: Sequence[str] = ()
    ) -> None:
        self._config, self._labels, self._temperature = config, tuple(labels), temperature
        self._needed = tuple(Lens(name) for name in needed)
        self._uncertain = Doubt(config.min_conf if config.min_conf is not None else min_conf)
        self._poor = Doubt(config.min_face)
        self._smoother = Smoother(config.smoothing_s, config.forget_s)
        self._face_smoother = Smoother(config.smoothing_s, config.forget_s)
        self._hysteresis = Hysteresis(config.margin, config.hold_s)
        self._scored_ns = 0

    def update(self, pair: FramePair, face: Face | None, scores: Scores | None) -> Reading:
        """One reading per pair; ``scores`` is None when there was no face to look at."""
        if face is None or scores is None or self._lacks(pair):
            self._hysteresis.pause(pair.mono_ns - self._scored_ns > self._config.forget_s * 1e9)
            return self._reading(pair, None, UNKNOWN, 0.0, {}, blind_why(pair, self._needed))
        self._scored_ns = pair.mono_ns
        smooth = self._smoother.update(scores.probabilities(self._temperature), pair.mono_ns)
        label = self._hysteresis.update(smooth, pair.mono_ns)
        conf = float(smooth[label])
        probs = dict(zip(self._labels, smooth.tolist(), strict=True))
        why = self._doubt(face, conf, pair.mono_ns)
        return self._reading(pair, face, self._labels[label] if why is None else UNKNOWN, conf, probs, why)

    def _lacks(self, pair: FramePair) -> bool:
        return any(not pair.state(lens).usable for lens in self._needed)

    def _doubt(self, face: Face, conf: float, at_ns: int) -> Why | None:
        score = float(self._face_smoother.update(np.array([face.score], np.float32), at_ns)[0])
        poor, uncertain = self._poor.update(score), self._uncertain.update(conf)
        if poor:
            return Why.LOW_QUALITY
        return Why.UNCERTAIN if uncertain else None

    @staticmethod
    def _reading(
        pair: FramePair, face: Face | None, label: str, conf: float, probs: dict[str, float], why: Why | None
    ) -> Reading:
        lenses = (pair.visible_state, pair.infrared_state)
        score, yaw = (face.score, face.yaw_deg) if face else (0.0, 0.0)
        return Reading(label, conf, probs, why, score, yaw, lenses, pair.mono_ns)


_BLIND_WHY = (
    (LensState.WRONG_SPECTRUM, Why.WRONG_SPECTRUM),
    (LensState.BLACK, Why.BLACK),
    (LensState.SATURATED, Why.SATURATED),
    (LensState.COVERED, Why.COVERED),
    (LensState.FROZEN, Why.FROZEN),
)
"""what is said of lenses that see nothing, the most telling first"""


def blind_why(pair: FramePair, needed: Sequence[Lens] = ()) -> Why:
    """Why there is nothing: the state of a needed lens, else of all; one that works and shows none is ``no_face``."""
    missing = [pair.state(lens) for lens in needed if not pair.state(lens).usable]
    states = tuple(missing) or (pair.visible_state, pair.infrared_state)
    if any(state.usable for state in states):
        return Why.NO_FACE
    return next((why for state, why in _BLIND_WHY if state in states), Why.CAMERA_LOST)
