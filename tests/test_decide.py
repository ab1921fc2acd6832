"""From scores to readings: smoothing, hysteresis, doubt, and why there is nothing. Time is an argument."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefer.config import Decide
from edgefer.decide import Decider, Hysteresis, Smoother
from edgefer.types import UNKNOWN, Face, FramePair, Lens, LensState, Scores, Why

LABELS = ("happiness", "neutral", "anger")
S = 1_000_000_000
OK, BLACK, FROZEN, LOST = LensState.OK, LensState.BLACK, LensState.FROZEN, LensState.LOST


def pair(t_s: float, visible: LensState = OK, infrared: LensState = OK) -> FramePair:
    return FramePair(None, None, visible, infrared, int(t_s * S))


def face(score: float = 0.9) -> Face:
    marks = np.array([[10, 10], [20, 10], [15, 15], [11, 20], [19, 20]], np.float32)
    return Face(Lens.VISIBLE, (0, 0, 1, 1), marks, score)


def sure(k: int, logit: float = 6.0) -> Scores:
    logits = np.zeros(3, np.float32)
    logits[k] = logit
    return Scores(logits)


def decider(temperature: float = 1.0, min_conf: float = 0.4, **keys: float) -> Decider:
    return Decider(Decide(**keys), LABELS, temperature, min_conf)


@given(st.integers(1, 50), st.floats(0.01, 0.9))
def test_smoothing_does_not_depend_on_the_frame_rate(frames: int, seconds: float) -> None:
    """One long step and many short ones to the same instant end in the same state."""
    start, target = np.array([1, 0, 0], np.float32), np.array([0, 1, 0], np.float32)
    ends = []
    for n in (1, frames):
        smoother = Smoother(0.35, 10.0)
        smoother.update(start, 0)
        for k in range(1, n + 1):
            state = smoother.update(target, int(seconds * S * k / n))
        ends.append(state)
    assert np.allclose(ends[0], ends[1], atol=1e-4)
    assert ends[0][1] == pytest.approx(1 - math.exp(-seconds / 0.35), abs=1e-4)


@given(st.lists(st.tuples(st.floats(0, 3), st.floats(0, 1)), min_size=1, max_size=30))
def test_smoothed_probabilities_stay_probabilities(steps: list[tuple[float, float]]) -> None:
    smoother, t = Smoother(0.35, 1.0), 0.0
    for dt, p in steps:
        t += dt
        state = smoother.update(np.array([p, 1 - p], np.float32), int(t * S))
        assert state.sum() == pytest.approx(1.0, abs=1e-4)
        assert (state >= 0).all()


def test_after_a_long_gap_the_past_is_forgotten() -> None:
    smoother = Smoother(0.35, 1.0)
    smoother.update(np.array([1, 0], np.float32), 0)
    assert smoother.update(np.array([0, 1], np.float32), 2 * S).tolist() == [0, 1]


def test_a_label_changes_only_after_another_led_for_long_enough_and_by_enough() -> None:
    h = Hysteresis(margin=0.1, hold_s=0.2)
    a, b, near = (np.array(p, np.float32) for p in ([0.8, 0.2], [0.2, 0.8], [0.47, 0.53]))
    assert h.update(a, 0) == 0
    assert h.update(b, int(0.1 * S)) == 0
    assert h.update(a, int(0.2 * S)) == 0, "one outlier changes nothing"
    assert h.update(near, int(0.3 * S)) == 0
    assert h.update(near, int(0.9 * S)) == 0, "a lead below the margin never does"
    assert h.update(b, int(1.0 * S)) == 0
    assert h.update(b, int(1.2 * S)) == 1


def test_temperature_softens_and_keeps_the_label() -> None:
    plain = decider(1.0).update(pair(0), face(), sure(0, 3.0))
    soft = decider(2.0).update(pair(0), face(), sure(0, 3.0))
    assert plain.label == soft.label == "happiness"
    assert soft.conf < plain.conf
    assert plain.conf == pytest.approx(math.exp(3) / (math.exp(3) + 2), rel=1e-5)


def test_below_the_threshold_it_says_that_it_does_not_know() -> None:
    reading = decider(min_conf=0.6).update(pair(0), face(), sure(1, 0.5))
    assert (reading.label, reading.why, reading.valid) == (UNKNOWN, Why.UNCERTAIN, False)
    assert set(reading.probs) == set(LABELS)
    assert reading.conf == pytest.approx(max(reading.probs.values()))


def test_the_configured_threshold_beats_the_bundle() -> None:
    assert decider(min_conf=0.99).update(pair(0), face(), sure(1, 3)).why is Why.UNCERTAIN
    assert Decider(Decide(min_conf=0.1), LABELS, 1.0, 0.99).update(pair(0), face(), sure(1, 3)).valid


def test_a_poor_face_is_low_quality() -> None:
    assert decider().update(pair(0), face(0.3), sure(0)).why is Why.LOW_QUALITY


@pytest.mark.parametrize(
    ("visible", "infrared", "why"),
    [(OK, OK, Why.NO_FACE), (BLACK, OK, Why.NO_FACE), (OK, LOST, Why.NO_FACE), (BLACK, BLACK, Why.BLACK),
     (BLACK, LOST, Why.BLACK), (FROZEN, LOST, Why.FROZEN), (FROZEN, FROZEN, Why.FROZEN), (LOST, LOST, Why.CAMERA_LOST)],
)  # fmt: skip
def test_why_there_is_no_face(visible: LensState, infrared: LensState, why: Why) -> None:
    reading = decider().update(pair(0, visible, infrared), None, None)
    assert (reading.why, reading.label, dict(reading.probs)) == (why, UNKNOWN, {})
    assert reading.lenses == (visible, infrared)


def test_a_value_on_the_edge_does_not_flicker() -> None:
    """Face score and confidence that hover about their thresholds change validity now and then, not every frame."""
    rng = np.random.default_rng(0)
    d = decider(min_conf=0.5)
    valid = [
        d.update(pair(k / 25), face(0.6 + rng.normal(0, 0.03)), sure(0, math.log(2) + rng.normal(0, 0.2))).valid
        for k in range(1500)
    ]
    assert sum(a != b for a, b in pairwise(valid)) <= 12, "a minute"


def test_doubt_ends_under_a_threshold_near_one() -> None:
    d = decider(min_conf=0.97, smoothing_s=0.0)
    assert not d.update(pair(0), face(), sure(1, 1)).valid
    assert d.update(pair(1), face(), sure(1, 6)).valid


def test_frames_far_apart_are_no_lead() -> None:
    d = decider(min_conf=0.0, smoothing_s=0.0, forget_s=2.0)
    assert d.update(pair(0.0), face(), sure(0)).label == "happiness"
    assert d.update(pair(0.1), face(), sure(1)).label == "happiness"
    d.update(pair(0.5), None, None)
    assert d.update(pair(1.0), face(), sure(1)).label == "happiness", "it has led for one frame, not for a second"


def test_a_network_that_needs_a_lens_says_nothing_without_it() -> None:
    d = Decider(Decide(), LABELS, 1.0, 0.4, needed=("visible", "infrared"))
    assert d.update(pair(0), face(), sure(0)).valid
    assert d.update(pair(1, visible=BLACK), face(), sure(0)).why is Why.BLACK
    assert d.update(pair(2, infrared=LOST), face(), sure(0)).why is Why.CAMERA_LOST


def test_a_face_lost_for_a_moment_comes_back_under_its_label_for_long_under_its_own() -> None:
    d = decider(min_conf=0.0, forget_s=1.0)
    assert d.update(pair(0.0), face(), sure(0)).label == "happiness"
    assert d.update(pair(0.3), None, None).why is Why.NO_FACE
    assert d.update(pair(0.4), face(), sure(1)).label == "happiness", "hysteresis still holds"
    for t in (0.5, 1.0, 1.8):
        d.update(pair(t), None, None)
    assert d.update(pair(2.0), face(), sure(2)).label == "anger"


def test_a_true_change_shows_within_800_ms_at_25_frames_a_second() -> None:
    d = decider()
    for k in range(25):
        d.update(pair(k / 25), face(), sure(0))
    changed = next(k for k in range(100) if d.update(pair(1 + k / 25), face(), sure(1)).label == "neutral")
    assert changed / 25 <= 0.8
