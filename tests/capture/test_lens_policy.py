"""Stories of one lens, with explicit times."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise

import cv2
import numpy as np
import pytest
from capture_helpers import scene

from edgefer.capture.lens import LIMITS_S, LensPolicy, states_of, swapped
from edgefer.capture.look import look_at
from edgefer.types import U8, LensState

MS = 1_000_000
Picture = Callable[[int], U8]
"""frame number -> picture"""


@pytest.fixture
def lens() -> LensPolicy:
    return make()


def make() -> LensPolicy:
    return LensPolicy(lost_s=0.6, frozen_s=1.0, black_level=6.0)


def noisy(level: float, seed: int = 0, shape: tuple[int, ...] = (480, 640)) -> U8:
    return np.clip(np.random.default_rng(seed).normal(level, 2.0, shape), 0, 255).astype(np.uint8)


def show(lens: LensPolicy, frames: Iterable[tuple[int, U8]], chroma: float | None = None) -> list[LensState]:
    """(millisecond, picture) one after the other; the judgement after each."""
    said = []
    for ms, image in frames:
        lens.see(look_at(image, chroma), ms * MS)
        said.append(lens.state(ms * MS))
    return said


def film(picture: Picture, start_ms: int = 0, seconds: float = 3.0) -> list[tuple[int, U8]]:
    """25 frames a second."""
    return [(start_ms + 40 * k, picture(k)) for k in range(round(25 * seconds))]


def onset_s(said: list[LensState], state: LensState) -> float:
    """Seconds until ``state`` was said, and that it was said ever after."""
    first = said.index(state)
    assert set(said[first:]) == {state}, said
    return first * 0.04


def test_a_lens_that_has_never_delivered_is_lost(lens: LensPolicy) -> None:
    assert lens.state(0) is LensState.LOST


def test_silence_becomes_lost_at_the_limit_and_a_frame_brings_it_back(lens: LensPolicy) -> None:
    show(lens, [(100, scene(0))])
    assert lens.state(699 * MS) is LensState.OK
    assert lens.state(700 * MS) is LensState.LOST
    assert show(lens, [(900, scene(1))]) == [LensState.OK]


def test_a_known_failure_is_lost_at_once_and_leaves_no_old_verdict(lens: LensPolicy) -> None:
    show(lens, film(lambda k: np.zeros((480, 640), np.uint8), seconds=0.2))
    lens.fail()
    assert lens.state(160 * MS) is LensState.LOST
    assert show(lens, [(200, scene(1))]) == [LensState.OK]


def test_an_ordinary_scene_is_ok_in_colour_and_in_grey(lens: LensPolicy) -> None:
    assert set(show(lens, film(scene))) == {LensState.OK}
    assert set(show(make(), film(lambda k: cv2.merge([scene(k)] * 3)))) == {LensState.OK}


def test_the_same_picture_for_long_is_frozen_and_a_new_one_is_ok(lens: LensPolicy) -> None:
    said = show(lens, [(t, scene(0)) for t in range(0, 1001, 40)])
    assert set(said[:-1]) == {LensState.OK}
    assert said[-1] is LensState.FROZEN
    assert show(lens, [(1040, scene(1))]) == [LensState.OK]


def test_a_frozen_picture_with_a_running_clock_in_its_corner_is_frozen(lens: LensPolicy) -> None:
    def clocked(k: int) -> U8:
        image = scene(0)
        cv2.putText(image, f"{k:02d}", (4, 20), cv2.FONT_HERSHEY_PLAIN, 1.0, 255)
        return image

    assert not np.array_equal(clocked(1), clocked(2))
    assert onset_s(show(lens, film(clocked)), LensState.FROZEN) <= 1.04


def test_a_driver_that_hands_out_three_old_buffers_in_turn_is_frozen(lens: LensPolicy) -> None:
    assert onset_s(show(lens, film(lambda k: scene(k % 3))), LensState.FROZEN) <= 1.2


def test_a_still_scene_with_sensor_noise_is_not_frozen(lens: LensPolicy) -> None:
    assert set(show(lens, film(scene, seconds=4))) == {LensState.OK}


def test_a_constant_zero_picture_is_black_not_frozen(lens: LensPolicy) -> None:
    said = show(lens, film(lambda k: np.zeros((480, 640), np.uint8)))
    assert set(said) == {LensState.BLACK}


def test_noise_in_the_dark_is_black_and_one_hot_pixel_changes_nothing(lens: LensPolicy) -> None:
    dark = noisy(0.5)
    dark[0, 0] = 255
    assert show(lens, [(0, dark)]) == [LensState.BLACK]


def test_a_dark_scene_with_a_lamp_in_it_is_not_black(lens: LensPolicy) -> None:
    dark = noisy(0.5)
    dark[:100, :100] = 120
    assert show(lens, [(0, dark)]) == [LensState.OK]


def test_dusk_that_wavers_about_the_limit_does_not_make_the_lens_come_and_go(lens: LensPolicy) -> None:
    """Brightest 1 %: 30, then 5 and 7 in turn, then light again. Black is said once, and ended once."""

    def dusk(k: int) -> U8:
        top = 30 if k < 25 else (5 if k // 12 % 2 else 7) if k < 100 else 40
        return np.random.default_rng(k).integers(0, top + 1, (48, 64)).astype(np.uint8)

    said = show(lens, film(dusk, seconds=6))
    flips = [(a, b) for a, b in pairwise(said) if (a is LensState.BLACK) != (b is LensState.BLACK)]
    assert len(flips) == 2


def test_black_ends_only_after_it_was_light_for_a_while(lens: LensPolicy) -> None:
    show(lens, film(lambda k: noisy(0.5, k), seconds=1))
    said = show(lens, film(scene, 1000, 1))
    assert said[0] is LensState.BLACK
    assert said.index(LensState.OK) * 0.04 == pytest.approx(0.3, abs=0.041)


def test_glare_is_saturated_not_frozen(lens: LensPolicy) -> None:
    white = np.full((480, 640), 255, np.uint8)
    assert onset_s(show(lens, film(lambda k: white)), LensState.SATURATED) <= LIMITS_S[LensState.SATURATED] + 0.04
    assert show(make(), film(lambda k: white, seconds=0.4))[-1] is LensState.OK, "a flash is no fault"


@pytest.mark.parametrize("level", [15, 60, 150])
def test_a_hand_before_the_lens_is_covered(lens: LensPolicy, level: int) -> None:
    y, x = np.mgrid[0:480, 0:640]
    shade = level * (1 - 0.4 * ((x - 320) ** 2 + (y - 240) ** 2) / 400**2)
    said = show(lens, film(lambda k: np.clip(shade + noisy(2, k), 0, 255).astype(np.uint8)))
    assert onset_s(said, LensState.COVERED) <= LIMITS_S[LensState.COVERED] + 0.04


def test_a_smeared_lens_is_blurred_but_still_looked_through(lens: LensPolicy) -> None:
    said = show(lens, film(lambda k: cv2.add(cv2.GaussianBlur(scene(0), (0, 0), 12), noisy(2, k))))
    assert onset_s(said, LensState.BLURRED) <= LIMITS_S[LensState.BLURRED] + 0.04
    assert LensState.BLURRED.usable


def test_a_slightly_soft_lens_is_no_fault(lens: LensPolicy) -> None:
    said = show(lens, film(lambda k: cv2.add(cv2.GaussianBlur(scene(0), (0, 0), 2), noisy(2, k))))
    assert set(said) == {LensState.OK}


def test_an_illuminator_that_misses_every_second_frame_flickers(lens: LensPolicy) -> None:
    said = show(lens, film(lambda k: (scene(k) * (0.5 if k % 2 else 1.0)).astype(np.uint8)))
    assert onset_s(said, LensState.FLICKER) <= 1.0


def test_a_row_of_tunnels_is_no_flicker(lens: LensPolicy) -> None:
    said = show(lens, film(lambda k: (scene(k) * (0.3 if k // 12 % 2 else 1.0)).astype(np.uint8), seconds=6))
    assert set(said) == {LensState.OK}


def test_trees_in_the_sun_flicker_on_both_lenses_and_are_nobodys_fault() -> None:
    def trees(k: int) -> U8:
        return (scene(k) * (0.5 if k % 2 else 1.0)).astype(np.uint8)

    visible, infrared = make(), make()
    show(visible, film(trees, seconds=2))
    show(infrared, film(trees, seconds=2))
    assert infrared.state(1960 * MS) is LensState.FLICKER
    assert states_of(visible, infrared, 1960 * MS) == (LensState.OK, LensState.OK)
    calm = make()
    show(calm, film(scene, seconds=2))
    assert states_of(calm, infrared, 1960 * MS) == (LensState.OK, LensState.FLICKER)


def test_lenses_that_are_swapped_are_named_when_the_infrared_one_has_colour() -> None:
    grey, coloured = cv2.merge([scene(0)] * 3), scene(0)
    assert swapped(look_at(grey), look_at(coloured, chroma=15.0))
    assert not swapped(look_at(grey), look_at(coloured)), "an infrared lens that comes grey proves nothing"
    tinted = grey.copy()
    tinted[..., 2] //= 2
    assert not swapped(look_at(tinted), look_at(coloured, chroma=15.0)), "a visible lens with colour"
    assert not swapped(look_at(noisy(5, shape=(480, 640, 3))), look_at(coloured, chroma=15.0)), "in the dark"


def test_swapped_is_said_after_its_time(lens: LensPolicy) -> None:
    for k in range(60):
        show(lens, [(40 * k, scene(k))])
        lens.set_swapped(True, 40 * k * MS)
        expected = LensState.OK if 0.04 * k < LIMITS_S[LensState.WRONG_SPECTRUM] else LensState.WRONG_SPECTRUM
        assert lens.state(40 * k * MS) is expected
    assert not LensState.WRONG_SPECTRUM.usable


def test_a_lens_that_loses_a_third_of_its_frames_is_dropping() -> None:
    lens, rng = make(), np.random.default_rng(1)
    whole = show(lens, [(40 * k, scene(k)) for k in range(100)])
    assert set(whole) == {LensState.OK}
    broken = show(lens, [(4000 + 40 * k, scene(k)) for k in range(150) if rng.random() > 0.4])
    assert LensState.DROPPING in broken[: round(2.5 * 25 * 0.6)], "named within 2.5 s"
    mended = show(lens, [(10_000 + 40 * k, scene(k)) for k in range(100)])
    assert set(mended[70:]) == {LensState.OK}


def test_a_lens_that_jitters_or_slows_down_drops_nothing() -> None:
    rng = np.random.default_rng(2)
    jitter = show(make(), [(40 * k + int(rng.integers(0, 15)), scene(k)) for k in range(150)])
    assert set(jitter) == {LensState.OK}
    lens = make()
    show(lens, [(40 * k, scene(k)) for k in range(100)])
    slower = show(lens, [(4000 + 80 * k, scene(k)) for k in range(100)])
    assert set(slower[33:]) == {LensState.OK}, "half the rate, regular: long exposure at night"


@pytest.mark.parametrize("shape", [(16, 16), (17, 31, 3), (1, 1), (2048, 1536)])
def test_any_frame_size_is_judged(lens: LensPolicy, shape: tuple[int, ...]) -> None:
    assert show(lens, [(0, noisy(90, 0, shape)), (40, noisy(90, 0, (48, 48)))])[-1] is LensState.OK
