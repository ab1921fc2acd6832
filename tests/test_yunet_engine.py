"""The detector as an engine: our decoding of the raw outputs against OpenCV's own, on real faces."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from locate_portraits import astronaut, two_faces

from edgefer.config import Locate
from edgefer.demo.clip import portraits
from edgefer.errors import ServiceError
from edgefer.locate import Locator
from edgefer.locate.decode import STRIDES, Raw, decode, suppress
from edgefer.locate.yunet import YuNet, YuNetEngine, canvas, check_forward, model_path, opencv_forward
from edgefer.types import U8, Frame, FramePair, Lens, LensState


class Borrowed:
    """A forward function of another library, in place of the GPU's."""

    def __init__(self, forward: object) -> None:
        self._forward, self.closed = forward, 0

    def __call__(self, image: U8) -> Raw:
        return self._forward(image)  # type: ignore[operator]

    def close(self) -> None:
        self.closed += 1


def engine(config: Locate, w: int, h: int) -> YuNetEngine:
    return YuNetEngine(config, Borrowed(opencv_forward(config)), canvas(config, w, h))


def onnx_runtime_forward(image: U8) -> Raw:
    """The file as it is, 640 x 640."""
    ort = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(str(model_path()), providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, {"input": cv2.dnn.blobFromImage(image)}), strict=True))


def turned(image: U8, degrees: float, scale: float) -> U8:
    h, w = image.shape[:2]
    return cv2.warpAffine(image, cv2.getRotationMatrix2D((w / 2, h / 2), degrees, scale), (w, h))


SCENES = {
    "astronaut": astronaut(),
    "odd size": astronaut((500, 333)),
    "large": astronaut((1280, 960)),
    "small": astronaut((200, 150)),
    "two faces": two_faces(),
    "upright": cv2.resize(portraits()[1], (480, 640), interpolation=cv2.INTER_AREA),
    "grey": cv2.cvtColor(astronaut(), cv2.COLOR_BGR2GRAY),
    **{f"turned {d} x{s}": turned(astronaut(), d, s) for d in (-25, 15, 40) for s in (0.6, 1.6)},
}


def same(ours: YuNetEngine, theirs: YuNet, image: U8) -> int:
    """Faces found; every one within a pixel of the frame, in OpenCV's order."""
    a, b = ours.detect(image), theirs.detect(image)
    assert len(a) == len(b)
    for mine, other in zip(a, b, strict=True):
        assert np.abs(np.array(mine.box) - other.box).max() < 1
        assert np.abs(mine.landmarks - other.landmarks).max() < 1
        assert mine.score == pytest.approx(other.score, abs=1e-3)
    return len(a)


@pytest.mark.parametrize("width", [320, 640])
@pytest.mark.parametrize("name", SCENES)
def test_boxes_and_landmarks_are_opencvs_within_a_pixel(name: str, width: int) -> None:
    config, image = Locate(width=width, min_face=0.0), SCENES[name]
    assert same(engine(config, *image.shape[1::-1]), YuNet(config), image) >= 1


def test_the_outputs_of_onnx_runtime_give_the_same_faces() -> None:
    config, image = Locate(width=640, min_face=0.0), cv2.resize(two_faces(), (640, 240))
    fixed = YuNetEngine(config, Borrowed(onnx_runtime_forward), (640, 640))
    theirs = YuNet(config)
    assert same(fixed, theirs, cv2.copyMakeBorder(image, 0, 400, 0, 0, cv2.BORDER_CONSTANT)) == 2


def test_frames_of_another_shape_than_the_engines_fit_in_and_leave_nothing_behind() -> None:
    config = Locate(min_face=0.0)
    one = engine(config, 640, 480)
    tall = cv2.resize(portraits()[1], (480, 960), interpolation=cv2.INTER_AREA)
    before = one.detect(astronaut())
    found = one.detect(tall)
    assert len(found) == 1
    x, y, w, h = found[0].box
    assert 0 <= x <= x + w <= 480
    assert 0 <= y <= y + h <= 960
    again = one.detect(astronaut())
    assert [d.box for d in again] == [d.box for d in before]


def test_many_weak_candidates_are_thinned_as_opencv_does() -> None:
    config = Locate(width=320, min_score=0.02, min_face=0.0)
    for image in (two_faces(), astronaut()):
        assert same(engine(config, *image.shape[1::-1]), YuNet(config), image) >= 2


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(0, 260))
def test_suppression_is_opencvs_on_any_boxes(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    rows = np.zeros((n, 15), np.float32)
    rows[:, :2], rows[:, 2:4] = rng.uniform(-20, 200, (n, 2)), rng.uniform(1, 90, (n, 2))
    rows[:, 14] = rng.choice(np.linspace(0.5, 1, 40), n)
    boxes = [tuple(int(v) for v in row[:4]) for row in rows]
    expected = cv2.dnn.NMSBoxes(boxes, rows[:, 14].tolist(), 0.1, 0.3, 1.0, 200) if n else []
    assert suppress(rows, 200).tolist() == list(np.asarray(expected, int).ravel())


def test_no_face_is_no_row() -> None:
    cells = {s: (64 // s) * (96 // s) for s in STRIDES}
    raw = {f"{k}_{s}": np.zeros((1, cells[s], n), np.float32) for s in STRIDES
           for k, n in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10))}  # fmt: skip
    assert decode(raw, (64, 96), 0.5).shape == (0, 15)


def test_an_engine_that_answers_otherwise_is_refused() -> None:
    config, right = Locate(), opencv_forward(Locate())
    assert check_forward(Borrowed(right), config, (256, 320)) < 1e-3

    def wrong(image: U8) -> Raw:
        return {k: v + (0.05 if k == "kps_16" else 0) for k, v in right(image).items()}

    for forward in (wrong, lambda image: {k: v * np.nan for k, v in right(image).items()}):
        with pytest.raises(ServiceError, match="off by"):
            check_forward(Borrowed(forward), config, (256, 320))


def test_the_locator_uses_and_closes_the_detector_it_is_given() -> None:
    forward = Borrowed(opencv_forward(Locate()))
    locator = Locator(Locate(), 1, YuNetEngine(Locate(), forward, canvas(Locate(), 640, 480)))
    image = astronaut()
    pair = FramePair(Frame(Lens.VISIBLE, image, 0, 0), None, LensState.OK, LensState.LOST, 0)
    ours, theirs = locator.find(pair), Locator(Locate(), 1).find(pair)
    assert ours is not None
    assert theirs is not None
    assert np.abs(ours.landmarks - theirs.landmarks).max() < 1
    locator.close()
    assert forward.closed == 1
