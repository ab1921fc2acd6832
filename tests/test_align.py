"""Crop geometry: the similarity fit, the calibration, and one warp a lens."""

from __future__ import annotations

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefer.align import Aligner
from edgefer.align.calibration import Calibration, StereoCalibration, read_calibration
from edgefer.align.geometry import similarity
from edgefer.config import Align
from edgefer.errors import InputError
from edgefer.types import Face, Frame, FramePair, Lens, LensState

TEMPLATE = [(15.0, 18.0), (33.0, 18.0), (24.0, 28.0), (17.0, 36.0), (31.0, 36.0)]
POINTS = np.array(TEMPLATE)


def moved(angle: float, scale: float, shift: tuple[float, float]) -> np.ndarray:
    c, s = scale * math.cos(angle), scale * math.sin(angle)
    return POINTS @ np.array([[c, -s], [s, c]]).T + shift


@given(st.floats(-math.pi, math.pi), st.floats(0.05, 20), st.tuples(st.floats(-500, 500), st.floats(-500, 500)))
def test_any_similarity_is_undone_exactly(angle: float, scale: float, shift: tuple[float, float]) -> None:
    source = moved(angle, scale, shift)
    m = similarity(source, POINTS)
    assert np.allclose(source @ m[:, :2].T + m[:, 2], POINTS, atol=1e-6)


@given(st.lists(st.tuples(st.floats(-50, 50), st.floats(-50, 50)), min_size=5, max_size=5))
def test_no_better_similarity_nearby(noise: list[tuple[float, float]]) -> None:
    """It is the least-squares one: small changes of its four numbers never lower the error."""
    source = 4 * POINTS + np.array(noise)
    m = similarity(source, POINTS)

    def error(a: float, b: float, x: float, y: float) -> float:
        k = m + np.array([[a, -b, x], [b, a, y]])
        return float(((source @ k[:, :2].T + k[:, 2] - POINTS) ** 2).sum())

    best = error(0, 0, 0, 0)
    for step in np.eye(4) * 1e-3:
        assert error(*step) >= best - 1e-9
        assert error(*-step) >= best - 1e-9


def test_points_that_coincide_give_a_finite_matrix() -> None:
    assert np.isfinite(similarity(np.ones((5, 2)), POINTS)).all()


def scene(size: tuple[int, int] = (480, 640)) -> tuple[np.ndarray, np.ndarray]:
    """A picture with a bright disc on every landmark, and the landmarks."""
    marks = moved(0.2, 5.0, (200.0, 100.0))
    image = np.full((*size, 3), 40, np.uint8)
    for x, y in marks:
        cv2.circle(image, (round(x), round(y)), 9, (220, 220, 220), -1)
    return image, marks


def pair_of(visible: np.ndarray | None, infrared: np.ndarray | None) -> FramePair:
    v = None if visible is None else Frame(Lens.VISIBLE, visible, 1, 0)
    i = None if infrared is None else Frame(Lens.INFRARED, infrared, 1, 0)
    states = [LensState.OK if f else LensState.LOST for f in (v, i)]
    return FramePair(v, i, states[0], states[1], 1)


def face_on(lens: Lens, marks: np.ndarray) -> Face:
    return Face(lens, (0, 0, 10, 10), marks.astype(np.float32), 0.9)


def bright_at_template(crop: np.ndarray) -> bool:
    return all(crop[round(y), round(x)] > 150 for x, y in TEMPLATE)


def test_both_lenses_show_the_landmarks_at_the_template() -> None:
    image, marks = scene()
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    cut = Aligner(Align(), 48, 1, TEMPLATE).cut(pair_of(image, grey), face_on(Lens.VISIBLE, marks))
    assert cut.visible.shape == cut.infrared.shape == (1, 48, 48, 1)
    assert bright_at_template(cut.visible[0, :, :, 0])
    assert bright_at_template(cut.infrared[0, :, :, 0])
    assert cut.present.tolist() == [[1.0, 1.0]]


def test_an_infrared_lens_of_half_the_resolution_needs_no_file() -> None:
    image, marks = scene()
    small = cv2.resize(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), (320, 240), interpolation=cv2.INTER_AREA)
    cut = Aligner(Align(), 48, 1, TEMPLATE).cut(pair_of(image, small), face_on(Lens.VISIBLE, marks))
    assert bright_at_template(cut.infrared[0, :, :, 0])


@pytest.mark.parametrize("lens", list(Lens))
def test_a_calibration_carries_the_crop_across_from_either_lens(lens: Lens, tmp_path: Path) -> None:
    image, marks = scene()
    h = np.array([[1.02, 0.01, 14.0], [-0.02, 0.98, -9.0], [1e-5, 2e-5, 1.0]])
    infrared = cv2.warpPerspective(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), h, (640, 480))
    file = tmp_path / "calibration.json"
    file.write_text(json.dumps({"homography": h.tolist(), "visible_size": [640, 480], "infrared_size": [640, 480]}))
    seen = marks if lens is Lens.VISIBLE else cv2.perspectiveTransform(marks[None], h)[0]
    cut = Aligner(Align(calibration=str(file)), 48, 1, TEMPLATE).cut(pair_of(image, infrared), face_on(lens, seen))
    assert bright_at_template(cut.visible[0, :, :, 0])
    assert bright_at_template(cut.infrared[0, :, :, 0])


def test_a_dead_lens_is_zero_and_not_present_also_after_it_lived() -> None:
    image, marks = scene()
    aligner = Aligner(Align(), 48, 3, TEMPLATE)
    aligner.cut(pair_of(image, image[:, :, 0]), face_on(Lens.VISIBLE, marks))
    cut = aligner.cut(pair_of(None, image[:, :, 0]), face_on(Lens.INFRARED, marks))
    assert cut.present.tolist() == [[0.0, 1.0]]
    assert cut.visible.shape == (1, 48, 48, 3)
    assert not cut.visible.any()
    assert cut.infrared.any()


@given(st.sampled_from([0.5, 1.0, 2.0, 3.5]))
def test_calibration_scales_with_the_stream(k: float) -> None:
    """A stream at another resolution than that of the measurement maps the same physical point."""
    h = np.array([[1.0, 0.0, 10.0], [0.0, 1.0, 5.0], [0.0, 0.0, 1.0]])
    m = Calibration(h, (480, 640), (480, 640)).matrix((int(480 * k), int(640 * k)), (480, 640))
    x, y, w = m @ [100 * k, 50 * k, 1]
    assert np.allclose((x / w, y / w), (110, 55))


@pytest.mark.parametrize(
    "text",
    ["", "{}",
     '{"homography": [[1,0,0],[0,1,0],[0,0,1]], "visible_size": [1e999, 4], "infrared_size": [4, 4]}',
     "[1]", '{"homography": 5, "visible_size": [1, 1], "infrared_size": [1, 1]}',
     '{"homography": [[0,0,0],[0,0,0],[0,0,0]], "visible_size": [4, 4], "infrared_size": [4, 4]}'],
)  # fmt: skip
def test_a_bad_calibration_names_the_file(text: str, tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    file.write_text(text)
    with pytest.raises(InputError, match=r"calibration\.json: .*calibrate the lenses again"):
        read_calibration(file)


STEREO: dict[str, object] = {
    "format": 2, "homography": np.eye(3).tolist(), "visible_size": [640, 480], "infrared_size": [320, 240],
    "visible": {"matrix": [[600, 0, 320], [0, 600, 240], [0, 0, 1]], "distortion": [-0.2, 0.05, 0, 0, 0]},
    "infrared": {"matrix": [[250, 0, 160], [0, 250, 120], [0, 0, 1]], "distortion": [0.1, 0, 0, 0, 0]},
    "rotation": np.eye(3).tolist(), "translation_mm": [-50.0, 0.0, 0.0],
}  # fmt: skip
FACE_MM = np.array([(-31.5, -30), (31.5, -30), (0, 0), (-25, 35), (25, 35)])


def stereo(folder: Path, eyes_mm: float = 63.0, **changes: object) -> StereoCalibration:
    file = folder / "stereo.json"
    file.write_text(json.dumps({**STEREO, **changes}))
    read = read_calibration(file, eyes_mm)
    assert isinstance(read, StereoCalibration)
    return read


def placed(at_mm: tuple[float, float, float], half: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Landmarks of a flat face on either lens, [5, 2] each; half: size of the stream to that of the measurement.

    The lens model by hand: x (1 + k1 r^2 + k2 r^4), of x / z.
    """
    seen = []
    for shift, focal, centre, k1, k2 in ((0, 600, (320, 240), -0.2, 0.05), (-50, 250, (160, 120), 0.1, 0)):
        plane = (FACE_MM + at_mm[:2] + (shift, 0)) / at_mm[2]
        r2 = (plane**2).sum(1, keepdims=True)
        seen.append((plane * (1 + k1 * r2 + k2 * r2**2) * focal + centre) * half)
    return seen[0], seen[1]


@pytest.mark.parametrize("half", [1.0, 0.5])
@pytest.mark.parametrize("at_mm", [(0.0, 0.0, 400.0), (120.0, -60.0, 700.0), (-500.0, 300.0, 3500.0)])
def test_a_face_maps_across_at_its_own_distance(at_mm: tuple[float, float, float], half: float, tmp_path: Path) -> None:
    c, (visible, infrared) = stereo(tmp_path), placed(at_mm, half)
    sizes = (round(480 * half), round(640 * half)), (round(240 * half), round(320 * half))
    for lens, marks, size in ((Lens.VISIBLE, visible, sizes[0]), (Lens.INFRARED, infrared, sizes[1])):
        face = face_on(lens, marks)
        mapped = cv2.perspectiveTransform(visible[None], c.matrix(*sizes, face))[0]
        assert np.abs(mapped - infrared).max() < 0.4 * half
        assert c.distance_mm(face, size) == pytest.approx(at_mm[2], rel=0.02)


def test_the_distance_follows_the_person_and_the_turn_of_the_head(tmp_path: Path) -> None:
    marks, _ = placed((0.0, 0.0, 700.0))
    front = face_on(Lens.VISIBLE, marks)
    assert stereo(tmp_path, 66.0).distance_mm(front, (480, 640)) == pytest.approx(700 * 66 / 63, rel=0.01)
    turn = math.radians(25)
    turned = marks.copy()
    turned[:, 0] = 320 + (marks[:, 0] - 320) * math.cos(turn)
    turned[2, 0] += 0.5 * math.sin(turn) * (turned[1, 0] - turned[0, 0])
    assert stereo(tmp_path).distance_mm(face_on(Lens.VISIBLE, turned), (480, 640)) == pytest.approx(700, rel=0.03)
    profile = marks.copy()
    profile[:2, 0] = (318, 322)
    profile[2, 0] = 330
    box_px = 600 * 2.65 * 63 / 700
    side = Face(Lens.VISIBLE, (250.0, 170.0, 100.0, box_px), profile.astype(np.float32), 0.9)
    assert stereo(tmp_path).distance_mm(side, (480, 640)) == pytest.approx(700, rel=0.01)


@pytest.mark.parametrize("marks", [np.full((5, 2), 100.0), np.full((5, 2), -4000.0), POINTS + np.array((640, 480))])
def test_no_face_makes_the_geometry_singular(marks: np.ndarray, tmp_path: Path) -> None:
    m = stereo(tmp_path).matrix((480, 640), (240, 320), face_on(Lens.VISIBLE, marks))
    assert np.isfinite(np.linalg.inv(m)).all()


BAD_STEREO: dict[str, dict[str, object]] = {
    "a later format": {"format": 3},
    "no rotation": {"rotation": [[1, 0, 0], [0, 1, 0], [0, 0, 2]]},
    "a mirror": {"rotation": [[1, 0, 0], [0, 1, 0], [0, 0, -1]]},
    "two coefficients": {"visible": {"matrix": np.eye(3).tolist(), "distortion": [0, 0]}},
    "no focal length": {"visible": {"matrix": np.zeros((3, 3)).tolist(), "distortion": [0] * 5}},
    "no lens": {"infrared": None},
    "an endless baseline": {"translation_mm": [1e999, 0, 0]},
}


@pytest.mark.parametrize("fault", BAD_STEREO)
def test_a_bad_stereo_calibration_is_one_line(fault: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"stereo\.json: .*calibrate the lenses again") as e:
        stereo(tmp_path, **BAD_STEREO[fault])
    assert "\n" not in str(e.value)


def test_a_missing_calibration_names_the_key(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"align\.calibration"):
        read_calibration(tmp_path / "none.json")
