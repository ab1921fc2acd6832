"""Stories of two lenses of one spectrum: which one is looked through."""

from __future__ import annotations

import numpy as np
import pytest
from capture_helpers import scene

from edgefer.capture.chooser import HOLD_S, Chooser, picture_score
from edgefer.capture.look import look_at
from edgefer.types import LensState

OK, LOST, BLACK, BLURRED = LensState.OK, LensState.LOST, LensState.BLACK, LensState.BLURRED
S = 1_000_000_000
SAME = (0.8, 0.8)


def run(
    chooser: Chooser, seconds: float, start_s: float = 0.0, states: tuple[LensState, LensState] = (OK, OK),
    pictures: tuple[float, float] = SAME, face: tuple[bool, bool] | None = None,
) -> list[int]:  # fmt: skip
    """25 looks a second; ``face``: on which lens a face can be found."""
    said = []
    for k in range(round(seconds * 25)):
        now = round((start_s + k * 0.04) * S)
        if face is not None:
            chooser.face(face[chooser.current], now)
        said.append(chooser.choose(states, pictures, now))
    return said


def test_of_two_equals_the_first_stays() -> None:
    assert set(run(Chooser(), 60, face=(True, True))) == {0}


@pytest.mark.parametrize("state", [LOST, BLACK, LensState.FROZEN, LensState.COVERED])
def test_the_other_takes_over_at_once_when_one_dies_and_keeps_it(state: LensState) -> None:
    chooser = Chooser()
    assert run(chooser, 1)[-1] == 0
    assert run(chooser, 0.04, 1, states=(state, OK)) == [1]
    assert set(run(chooser, 30, 1.04)) == {1}, "no way back without a reason"


def test_when_both_are_dead_nothing_changes() -> None:
    chooser = Chooser()
    assert set(run(chooser, 10, states=(LOST, BLACK))) == {0}
    assert chooser.switches == 0


def test_a_better_picture_wins_after_its_time_and_a_little_better_never() -> None:
    chooser = Chooser()
    said = run(chooser, 4, pictures=(0.4, 0.8))
    assert said.index(1) * 0.04 == pytest.approx(HOLD_S, abs=0.05)
    assert set(run(Chooser(), 20, pictures=(0.7, 0.8))) == {0}


def test_scores_that_waver_do_not_make_it_waver() -> None:
    chooser = Chooser()
    for k in range(200):
        run(chooser, 1, k, pictures=(0.4, 0.8) if k % 2 else (0.8, 0.4))
    assert chooser.switches == 0


def test_a_degraded_lens_gives_way_to_a_healthy_one() -> None:
    assert run(Chooser(), 3, states=(BLURRED, OK))[-1] == 1


def test_the_lens_that_shows_the_face_is_found_and_kept() -> None:
    chooser = Chooser()
    said = run(chooser, 120, face=(False, True))
    assert said.index(1) * 0.04 <= 5
    assert set(said[said.index(1) :]) == {1}


def test_an_empty_seat_is_looked_at_in_turn_but_rarely() -> None:
    chooser = Chooser()
    run(chooser, 120, face=(False, False))
    assert chooser.switches <= 120 / 15


def test_pictures_are_scored_by_edges_and_light() -> None:
    sharp = picture_score(look_at(scene(0)))
    soft = picture_score(look_at(np.full((480, 640), 110, np.uint8)))
    glare = picture_score(look_at(np.maximum(scene(0), np.uint8(252))))
    dim = picture_score(look_at(scene(0) // 8))
    assert sharp > 0.7
    assert soft == glare == 0.0
    assert dim < 0.8 * sharp
    assert picture_score(None) == 0.0
