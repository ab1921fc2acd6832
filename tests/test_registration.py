"""The registration self-check: measured on real faces, judged over time, said once."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgefer import app
from edgefer.bundle import DEFAULT, open_bundle
from edgefer.capture import Recorder
from edgefer.capture.nir import WHOLE_FRAME, simulate_nir
from edgefer.config import LOOKS, Align, Config
from edgefer.config_file import build
from edgefer.demo.clip import Scene
from edgefer.messages import EventSystem
from edgefer.registration import IN_PART, MOST, DriftWatch, RegistrationCheck, Verdict, offset_px
from edgefer.stamp import Stamper
from edgefer.types import Face, Frame, FramePair, Lens, LensState

S = 1_000_000_000
EYES_PX = 40.8
"""distance of the eyes in the default bundle's crop, at 112"""


def watched(
    offsets: list[tuple[float, float]], every_s: float = 5.0, span_s: float = 300.0
) -> list[tuple[int, Verdict]]:
    """(place, verdict) of all verdicts over ``offsets``, one every ``every_s``; the limit is 4 pixels."""
    watch = DriftWatch(4.0, span_s)
    said = [(k, watch.add(np.array(o), int(k * every_s * S))) for k, o in enumerate(offsets)]
    return [(k, v) for k, v in said if v is not None]


def noise(count: int, mean: tuple[float, float], seed: int = 0, sigma: float = 1.5) -> list[tuple[float, float]]:
    return [tuple(o) for o in np.random.default_rng(seed).normal(mean, sigma, (count, 2))]


def test_a_drift_is_said_once_and_its_end_once() -> None:
    said = watched(noise(100, (0, 0)) + noise(200, (6, -3), 1) + noise(200, (0.5, 0), 2))
    assert [v.drifted for _, v in said] == [True, False]
    assert 140 <= said[0][0] <= 160, "300 s at one look in 5 s, less half a part"
    assert said[0][1].x == pytest.approx(6, abs=0.7)
    assert said[0][1].y == pytest.approx(-3, abs=0.7)
    assert 340 <= said[1][0] <= 360


def test_a_day_of_good_faces_raises_nothing() -> None:
    """24 h at one look in 15 s; every hour another driver, whose eyes put up to 3 pixels on all of them."""
    rng = np.random.default_rng(4)
    day = [o for hour in range(24) for o in noise(240, (float(rng.uniform(-3, 3)), 0.5), hour)]
    assert watched(day, every_s=15.0, span_s=900.0) == []


def test_a_bad_minute_wild_landmarks_and_few_faces_raise_nothing() -> None:
    good = noise(60, (0, 0))
    assert watched(good + noise(19, (15, 0)) + good) == [], "95 s of a hand before the face"
    wild = [(40.0, 40.0) if k % 3 == 0 else o for k, o in enumerate(noise(400, (0, 0)))]
    assert watched(wild) == [], "a third of the landmarks is nonsense"
    assert watched(noise(40, (20, 0)), every_s=20.0) == [], f"fewer than {IN_PART} faces in 100 s say nothing"
    rotating = [(12 * np.cos(k), 12 * np.sin(k)) for k in range(400)]
    assert watched(rotating) == [], "errors all round have no direction"


@pytest.mark.parametrize(("check_s", "frame_s"), [(5.0, 0.04), (0.5, 0.3), (0.1, 0.5)])
def test_the_shortest_span_that_is_accepted_is_judged(check_s: float, frame_s: float) -> None:
    """With a face in three of five looks, which come on frames and so a little late."""
    drift_s = LOOKS * max(check_s, frame_s)
    build({"align": {"check_s": check_s, "drift_s": drift_s}, "capture": {"fps": 1 / frame_s, "lost_s": 1.0}}, "test")
    looks = np.ceil(check_s / frame_s) * frame_s * np.arange(200)
    watch = DriftWatch(4.0, drift_s)
    faces = [watch.add(np.array((9.0, 0.0)), int(t * S)) for k, t in enumerate(looks) if k % 5 < 3]
    assert [v.drifted for v in faces if v is not None] == [True]


def test_on_the_edge_it_does_not_flicker() -> None:
    edge = [(4.0 + 0.5 * np.sin(k / 40), 0.0) for k in range(3000)]
    assert len(watched(edge)) <= 1


def test_its_memory_is_bounded() -> None:
    watch = DriftWatch(4.0, 86400.0)
    said = [watch.add(np.array((9.0, 0.0)), k * 40 * S) for k in range(3000)]
    assert len(watch._seen) <= MOST + 1
    assert [v.drifted for v in said if v is not None] == [True], "and a span of a day is judged all the same"


# On faces: NASA's and the US Navy's portraits, moved and lit by the demo, infrared simulated.


@cache
def bundle():  # type: ignore[no-untyped-def]
    return open_bundle(DEFAULT)


@cache
def scene() -> Scene:
    return Scene()


def shifted(image: np.ndarray, shift: tuple[float, float]) -> np.ndarray:
    m = np.array([[1, 0, shift[0]], [0, 1, shift[1]]], np.float64)
    return cv2.warpAffine(image, m, image.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)


def pair_at(t: float, shift: tuple[float, float], at_ns: int = 0) -> FramePair:
    """The drive's faces at ``t`` seconds by day, the infrared lens ``shift`` frame pixels off."""
    visible, infrared = scene().frames(t, 0, 0)
    v, i = Frame(Lens.VISIBLE, visible.image, at_ns, 0), Frame(Lens.INFRARED, shifted(infrared.image, shift), at_ns, 0)
    return FramePair(v, i, LensState.OK, LensState.OK, at_ns)


def check(**changes: object) -> RegistrationCheck:
    config = build({"align": {"drift_s": 60.0, "check_s": 1.0, "drift_px": 4.0, **changes}}, "test")
    return app.registration_check(config, bundle(), Stamper("t", "0" * 8, "00000000-0000-0000-0000-000000000000"))


TIMES = [0.4 * k for k in range(14)]
"""both portraits, and their change; then the visible lens dies"""


@pytest.mark.parametrize("shift", [(0.0, 0.0), (7.0, 0.0), (-6.0, 9.0), (0.0, -25.0)])
def test_the_offset_is_measured_on_faces(shift: tuple[float, float]) -> None:
    """Within 1 pixel at 112, in the median over a few faces."""
    measure = check()
    locator = app.Locator(Config().locate, 2)
    measured, true = [], []
    for t in TIMES:
        pair = pair_at(t, shift)
        face = locator.find(pair)
        assert face is not None
        windows = measure._cut(pair, face)
        offset = measure.measure(windows.visible[0], windows.infrared[0, :, :, 0])
        if offset is not None:
            axis = face.landmarks[1] - face.landmarks[0]
            turn = complex(*axis.tolist())
            scaled = complex(*shift) * EYES_PX / turn
            measured.append(offset)
            true.append((scaled.real, scaled.imag))
    assert len(measured) > 8
    off = np.median(np.array(measured) - true, 0)
    assert np.linalg.norm(off) < 1.0


def run(drift: float, looks: int = 90) -> list[EventSystem]:
    """Events of a check fed once a second; the infrared lens is ``drift`` frame pixels off after a third."""
    measure, locator, said = check(), app.Locator(Config().locate, 2), []
    for k in range(looks):
        pair = pair_at(TIMES[k % len(TIMES)], (drift, 0.0) if k >= looks / 3 else (0.0, 0.0), k * S)
        locator.forget()
        event = measure(pair, locator.find(pair))
        said += [event] if event is not None else []
    return said


def test_a_lens_that_was_knocked_is_an_event() -> None:
    said = run(16.0, looks=100)
    assert [e.kind for e in said] == ["registration_drifted"]
    assert "edgefer calibrate" in (said[0].detail or "")


def test_a_lens_that_was_not_is_none() -> None:
    assert run(2.0) == []


def test_it_looks_at_its_period_and_at_good_faces_only() -> None:
    asked = []
    measure = check()
    measure._cut = lambda pair, face: (asked.append(pair.mono_ns), cut(pair, face))[1]  # type: ignore[assignment]
    cut = check()._cut
    pair, marks = pair_at(0.0, (0, 0)), np.array([(287, 215), (353, 215), (320, 253), (293, 287), (347, 287)])
    face = Face(Lens.VISIBLE, (270, 180, 100, 130), marks.astype(np.float32), 0.9)
    turned = marks + np.array([(0, 0), (0, 0), (25, 0), (0, 0), (0, 0)])

    def at(ms: int, of: Face | None, **states: LensState) -> None:
        known = {"visible_state": LensState.OK, "infrared_state": LensState.OK} | states
        measure(FramePair(pair.visible, pair.infrared, mono_ns=ms * 1_000_000, **known), of)

    at(0, face)
    at(999, face)
    at(1001, None)
    at(1002, Face(face.lens, face.box, face.landmarks, 0.5))
    at(1003, Face(face.lens, face.box, face.landmarks, 0.9, fresh=False))
    at(1004, Face(face.lens, face.box, turned.astype(np.float32), 0.9))
    at(1005, face, infrared_state=LensState.BLACK)
    at(1006, face)
    assert [ns // 1_000_000 for ns in asked] == [0, 1006]
    assert len(asked) == 2
    off = app.registration_check(Config(align=Align(check_s=0.0)), bundle(), measure._stamper)
    off._cut = lambda pair, face: pytest.fail("0 means never")  # type: ignore[assignment]
    assert off(pair, face) is None


def test_the_pipeline_says_it(tmp_path: Path) -> None:
    """A recording whose infrared lens stands 20 pixels off, through the whole service."""
    visible, infrared = scene().frames(0.5, 0, 0)
    grain = np.random.default_rng(0)
    with Recorder(tmp_path / "r", 5.0, images=True) as recorder:
        for k in range(75):
            for lens, image in ((Lens.VISIBLE, visible.image), (Lens.INFRARED, shifted(infrared.image, (20, 0)))):
                noisy = cv2.add(image, grain.integers(0, 3, image.shape, np.uint8))
                recorder.write(Frame(lens, noisy, k * S // 5, k))
    capture = {"kind": "recording", "source": str(tmp_path / "r"), "realtime": False}
    align = {"check_s": 0.2, "drift_s": 12.0}
    config = build({"capture": capture, "align": align, "publish": {"kind": "stdout"}}, "test")
    said: list[object] = []
    with app.started(config) as pipeline:
        pipeline.publisher.publish = said.append  # type: ignore[method-assign]
        pipeline.run(lambda: False)
    kinds = [m.kind for m in said if isinstance(m, EventSystem)]
    assert kinds.count("registration_drifted") == 1
    assert kinds.count("registration_back") == 0


def test_an_infrared_view_alone_is_no_measurement() -> None:
    dark = np.zeros((480, 640, 3), np.uint8)
    infrared = simulate_nir(scene().frames(0.0, 0, 0)[0].image, WHOLE_FRAME, np.random.default_rng(0))
    measure = check()
    assert offset_px(measure._detect(dark), measure._detect(infrared)) is None
    assert offset_px(measure._detect(infrared), measure._detect(infrared)) is not None
