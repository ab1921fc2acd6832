"""The driver's face: found by the real detector on real portraits, and kept over time."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from locate_portraits import astronaut, two_faces

from edgefer.config import Locate
from edgefer.errors import ConfigError, ServiceError
from edgefer.locate import Locator
from edgefer.locate.driver import DriverTracker, overlap
from edgefer.locate.yunet import Detection, YuNet, model_path
from edgefer.types import Frame, FramePair, Lens, LensState

MS = 1_000_000


def pair_of(visible: np.ndarray | None, infrared: np.ndarray | None = None, at_ms: int = 0) -> FramePair:
    v = None if visible is None else Frame(Lens.VISIBLE, visible, at_ms * MS, 0)
    i = None if infrared is None else Frame(Lens.INFRARED, infrared, at_ms * MS, 0)
    states = [LensState.OK if f else LensState.LOST for f in (v, i)]
    return FramePair(v, i, states[0], states[1], at_ms * MS)


@pytest.mark.parametrize("size", [(640, 480), (320, 240), (1280, 960)])
def test_eyes_and_mouth_are_where_they_are_at_every_frame_size(size: tuple[int, int]) -> None:
    face = Locator(Locate(), 1).find(pair_of(astronaut(size)))
    assert face is not None
    # Right eye, left eye, nose, mouth corners of the 512-pixel portrait, measured by hand to two pixels.
    by_hand = np.array([(200, 102), (247, 102), (220, 124), (199, 143), (240, 143)]) * (size[0] / 512)
    assert np.abs(face.landmarks - by_hand).max() < 0.015 * size[0]
    assert face.score > 0.8
    assert abs(face.yaw_deg) < 30


def test_the_infrared_lens_finds_the_face_when_the_visible_one_is_dead_or_shows_none() -> None:
    grey = cv2.cvtColor(astronaut(), cv2.COLOR_BGR2GRAY)
    locator = Locator(Locate(), 1)
    dead = locator.find(pair_of(None, grey))
    assert dead is not None
    assert dead.lens is Lens.INFRARED
    locator.forget()
    dark = locator.find(pair_of((astronaut() * 0.01).astype(np.uint8), grey))
    assert dark is not None
    assert dark.lens is Lens.INFRARED


def test_a_face_found_on_infrared_goes_back_to_a_visible_lens_that_shows_it() -> None:
    grey, blank = cv2.cvtColor(astronaut(), cv2.COLOR_BGR2GRAY), np.full((480, 640, 3), 128, np.uint8)
    locator = Locator(Locate(), 1)

    def found(visible: np.ndarray, *at_ms: int) -> list[Lens | None]:
        faces = [locator.find(pair_of(visible, grey, at)) for at in at_ms]
        return [face.lens if face is not None and face.fresh else None for face in faces]

    assert found(astronaut(), 0) == [Lens.VISIBLE]
    assert found(blank, 40, 80, 120) == [None, Lens.INFRARED, Lens.INFRARED]
    assert found(astronaut(), 160, 1000, 1040, 1080) == [Lens.INFRARED, Lens.INFRARED, Lens.VISIBLE, Lens.VISIBLE]
    assert found(blank, *range(1120, 4120, 40)).count(None) == 3, "one look a second that finds nothing, no more"


def test_no_face_is_none() -> None:
    assert Locator(Locate(), 1).find(pair_of(np.full((480, 640, 3), 128, np.uint8))) is None
    assert Locator(Locate(), 1).find(pair_of(None, None)) is None


def test_the_largest_face_in_the_region_is_the_driver() -> None:
    frame = two_faces()
    largest = Locator(Locate(width=640), 1).find(pair_of(frame))
    assert largest is not None
    assert largest.box[0] > 640
    left_seat = Locator(Locate(width=640, region=(0.0, 0.0, 0.5, 1.0)), 1).find(pair_of(frame))
    assert left_seat is not None
    assert left_seat.box[0] < 640


def test_faces_smaller_than_asked_for_do_not_count() -> None:
    assert YuNet(Locate(min_face=0.05)).detect(astronaut())
    assert not YuNet(Locate(min_face=0.5)).detect(astronaut())


def detection(x: float, width: float) -> Detection:
    return Detection((x, 10.0, width, width), np.zeros((5, 2), np.float32), 0.9)


def frame(at_ms: int) -> Frame:
    return Frame(Lens.VISIBLE, np.zeros((100, 200, 3), np.uint8), at_ms * MS, 0)


def test_a_passenger_who_leans_in_takes_nothing_over() -> None:
    tracker = DriverTracker(Locate())
    assert tracker.choose(frame(0), [detection(20, 30)]).box[0] == 20  # type: ignore[union-attr]
    stays = tracker.choose(frame(40), [detection(22, 30), detection(120, 60)])
    assert stays is not None
    assert stays.box[0] == 22
    assert tracker.choose(frame(80), [detection(120, 60)]) is None, "a blink of the detector is no change of seats"
    back = tracker.choose(frame(120), [detection(22, 30), detection(120, 60)])
    assert back is not None
    assert back.box[0] == 22
    gone = tracker.choose(frame(600), [detection(120, 60)])
    assert gone is not None
    assert gone.box[0] == 120


def test_a_face_that_blinks_out_is_held_for_hold_s_and_no_longer() -> None:
    locator = Locator(Locate(hold_s=0.4), 1)
    blank = np.full((480, 640, 3), 128, np.uint8)
    seen = locator.find(pair_of(astronaut(), at_ms=0))
    held = locator.find(pair_of(blank, at_ms=400))
    assert seen is not None
    assert held is not None
    assert (held.box, held.fresh, seen.fresh) == (seen.box, False, True)
    assert locator.find(pair_of(blank, at_ms=401)) is None


def test_overlap_is_intersection_over_union() -> None:
    assert overlap((0, 0, 2, 2), (0, 0, 2, 2)) == 1
    assert overlap((0, 0, 2, 2), (1, 0, 2, 2)) == pytest.approx(1 / 3)
    assert overlap((0, 0, 2, 2), (5, 5, 2, 2)) == 0


def test_a_wrong_or_missing_detector_file_is_refused_by_name(tmp_path: Path) -> None:
    fake = tmp_path / "yunet.onnx"
    with pytest.raises(ConfigError, match=r"locate\.model"):
        model_path(str(fake))
    fake.write_bytes(model_path().read_bytes()[:-1] + b"x")
    with pytest.raises(ConfigError, match=r"yunet\.onnx: .*sha256"):
        model_path(str(fake))


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ServiceError, match="pip install"):
        model_path()
