"""Stories of one lens, with explicit times."""

from __future__ import annotations

import numpy as np
import pytest

from edgefer.capture.lens import LensPolicy
from edgefer.types import U8, LensState

MS = 1_000_000


@pytest.fixture
def lens() -> LensPolicy:
    return LensPolicy(lost_s=0.6, frozen_s=1.0, black_level=6.0)


def noisy(level: float, seed: int = 0, shape: tuple[int, ...] = (480, 640, 3)) -> U8:
    return np.clip(np.random.default_rng(seed).normal(level, 2.0, shape), 0, 255).astype(np.uint8)


def test_a_lens_that_has_never_delivered_is_lost(lens: LensPolicy) -> None:
    assert lens.state(0) is LensState.LOST


def test_silence_becomes_lost_at_the_limit_and_a_frame_brings_it_back(lens: LensPolicy) -> None:
    lens.see(noisy(90), 100 * MS)
    assert lens.state(699 * MS) is LensState.OK
    assert lens.state(700 * MS) is LensState.LOST
    lens.see(noisy(90, 1), 900 * MS)
    assert lens.state(900 * MS) is LensState.OK


def test_a_known_failure_is_lost_at_once(lens: LensPolicy) -> None:
    lens.see(noisy(90), 0)
    lens.fail()
    assert lens.state(1) is LensState.LOST


def test_the_same_picture_for_long_is_frozen_and_a_new_one_is_ok(lens: LensPolicy) -> None:
    still = noisy(90)
    for t in range(0, 1000, 40):
        lens.see(still.copy(), t * MS)
        assert lens.state(t * MS) is LensState.OK
    lens.see(still, 1000 * MS)
    assert lens.state(1000 * MS) is LensState.FROZEN
    lens.see(noisy(90, 1), 1040 * MS)
    assert lens.state(1040 * MS) is LensState.OK


def test_a_still_scene_with_sensor_noise_is_not_frozen(lens: LensPolicy) -> None:
    for i in range(100):
        lens.see(noisy(40, i, (480, 640)), i * 40 * MS)
    assert lens.state(99 * 40 * MS) is LensState.OK


def test_a_constant_zero_picture_is_black_not_frozen(lens: LensPolicy) -> None:
    for t in range(0, 3000, 40):
        lens.see(np.zeros((480, 640), np.uint8), t * MS)
    assert lens.state(2960 * MS) is LensState.BLACK


def test_noise_in_the_dark_is_black_and_one_hot_pixel_changes_nothing(lens: LensPolicy) -> None:
    dark = noisy(0.5)
    dark[0, 0] = 255
    lens.see(dark, 0)
    assert lens.state(0) is LensState.BLACK


def test_a_dark_scene_with_a_lamp_in_it_is_not_black(lens: LensPolicy) -> None:
    scene = noisy(0.5)
    scene[:100, :100] = 120
    lens.see(scene, 0)
    assert lens.state(0) is LensState.OK


@pytest.mark.parametrize("shape", [(16, 16), (17, 31, 3), (1, 1), (2048, 1536)])
def test_any_frame_size_is_judged(lens: LensPolicy, shape: tuple[int, ...]) -> None:
    lens.see(noisy(90, 0, shape), 0)
    lens.see(noisy(90, 0, (48, 48)), 40 * MS)
    assert lens.state(40 * MS) is LensState.OK
