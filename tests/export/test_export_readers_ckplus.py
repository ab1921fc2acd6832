"""CK+ in its three layouts: labels, people and the frames that lead to each frame."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from face_files import grey, picture, text

from export import data
from export.data import ckplus

FER = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")


def check_ckplus_toy(faces: data.Faces) -> None:
    """S010: three frames of happiness (grey 10, 20, 30); S011: two of contempt (40, 50)."""
    assert faces.person is not None
    assert faces.sequence is not None
    rows = {g: i for i, g in enumerate(grey(faces.images))}
    assert [faces.classes[faces.labels[rows[g]]] for g in (10, 30, 40)] == ["happiness", "happiness", "contempt"]
    assert faces.person[rows[20]] == "S010"
    windows = {g: grey(faces.images[faces.sequence[i]]) for g, i in rows.items()}
    assert windows == {10: [10, 10, 10], 20: [10, 10, 20], 30: [10, 20, 30], 40: [40, 40, 40], 50: [40, 40, 50]}


def test_ckplus_crops(tmp_path: Path) -> None:
    for number, g in ((9, 10), (10, 20), (11, 30)):
        picture(tmp_path / "CK+48" / "happy" / f"S010_004_{number:08}.png", g)
    for number, g in ((3, 40), (4, 50)):
        picture(tmp_path / "CK+48" / "contempt" / f"S011_002_{number:08}.png", g)
    picture(tmp_path / "CK+48" / "happy" / "me.png")
    picture(tmp_path / "CK+48" / "happy" / "S012_001_00000001.png", 90, (50, 48))
    faces = data.load("ckplus", "all", tmp_path)
    check_ckplus_toy(faces)
    assert set(faces.rejected) == {
        "happy/me.png: name is not SUBJECT_SEQUENCE_FRAME",
        "happy/S012_001_00000001.png: 50x48 pixels, not 48x48",
    }


def test_ckplus_original_sequences(tmp_path: Path) -> None:
    def sequence(person: str, clip: str, greys: list[int], label: str | None) -> None:
        for i, g in enumerate(greys, start=1):
            picture(tmp_path / "cohn-kanade-images" / person / clip / f"{person}_{clip}_{i:08}.png", g, (64, 49))
        if label is not None:
            text(tmp_path / "Emotion" / person / clip / f"{person}_{clip}_{len(greys):08}_emotion.txt", label)

    sequence("S010", "004", [200, 210, 10, 20, 30], "   5.0000000e+00\n")
    sequence("S011", "002", [90, 40, 50], "   2.0000000e+00\n")
    text(tmp_path / "cohn-kanade-images" / "S011" / "002" / "S011_002_00000001.png")
    sequence("S011", "003", [60, 60, 60], None)
    sequence("S011", "004", [60, 60], "3.0")
    sequence("S011", "005", [60, 60, 60], "soon")
    (tmp_path / "Emotion" / "S011" / "006").mkdir()
    sequence("S011", "006", [60, 60, 60], None)
    faces = data.load("ckplus", "all", tmp_path)
    check_ckplus_toy(faces)
    images = "cohn-kanade-images"
    assert set(faces.rejected) == {
        f"{images}/S010/004: 2 frames before the last three are not used",
        f"{images}/S011/002/S011_002_00000001.png: empty file",
        f"{images}/S011/003: sequence without a label",
        f"{images}/S011/004: only 2 frames",
        f"{images}/S011/005: label file S011_005_00000003_emotion.txt holds no number of 0 to 7",
        f"{images}/S011/006: sequence without a label",
    }


def test_the_numbers_of_the_label_files(tmp_path: Path) -> None:
    names = ["anger", "contempt", "disgust", "fear", "happiness", "sadness", "surprise"]
    folder = tmp_path / "cohn-kanade-images" / "S010" / "001"
    label = tmp_path / "Emotion" / "S010" / "001" / "S010_001_00000009_emotion.txt"
    for number, name in enumerate(names, start=1):
        text(label, f"   {number}.0000000e+00\n")
        assert ckplus.emotion(tmp_path, folder) == name
    text(label, "0.0")
    assert ckplus.emotion(tmp_path, folder) == "label neutral is not one of the seven"


def test_landmarks_cut_the_frame_to_the_face(tmp_path: Path) -> None:
    frame = np.zeros((200, 300), np.uint8)
    frame[80:140, 200:260] = 240  # the face, far from the middle; its landmarks span 50 pixels of 60
    x, y = np.tile(np.linspace(205, 255, 34), 2), np.repeat([85, 135], 34)
    for i in (1, 2, 3):
        name = f"S010/001/S010_001_{i:08}"
        picture(tmp_path / "cohn-kanade-images" / f"{name}.png")
        cv2.imwrite(str(tmp_path / "cohn-kanade-images" / f"{name}.png"), frame)
        text(tmp_path / "Landmarks" / f"{name}_landmarks.txt", "\n".join(map("{} {}".format, x, y)))
    text(tmp_path / "Landmarks/S010/001/S010_001_00000002_landmarks.txt", "1 2\n3 4")
    text(tmp_path / "Emotion/S010/001/S010_001_00000003_emotion.txt", "1")
    faces = data.load("ckplus", "all", tmp_path)
    assert len(faces) == 2
    assert (faces.images == 240).all()
    assert faces.rejected == (
        "cohn-kanade-images/S010/001/S010_001_00000002.png: no usable Landmarks/.../S010_001_00000002_landmarks.txt",
    )


def test_a_face_at_the_edge_is_cut_within_the_frame() -> None:
    frame = np.arange(100, dtype=np.uint8)[:, None].repeat(80, 1)
    points = np.array([[0.0, 60.0], [50.0, 99.0]])
    assert np.array_equal(ckplus.cut(frame, points), frame[40:100, 0:60])
    assert ckplus.cut(frame, points * 3).shape == (80, 80)


def test_the_shared_view_speaks_fer2013(tmp_path: Path) -> None:
    for i, name in enumerate(ckplus.CLASSES):
        picture(tmp_path / name / f"S01{i}_001_00000001.png", 20 + 10 * i)
    everything, shared = (data.load("ckplus", split, tmp_path) for split in ("all", "shared"))
    assert shared.classes == FER
    assert sorted(shared.labels.tolist()) == [0, 1, 2, 3, 4, 5]
    for faces in (everything, shared):
        told = {g: faces.classes[label] for g, label in zip(grey(faces.images), faces.labels, strict=True)}
        assert told == {20 + 10 * i: n for i, n in enumerate(ckplus.CLASSES) if n in faces.classes}


@pytest.mark.data
def test_ckplus_of_the_pack(real_data: Path) -> None:
    faces = data.load("ckplus", "all", real_data)
    assert faces.person is not None
    assert faces.sequence is not None
    assert (len(faces), len(set(faces.person))) == (981, 118)
    ends = np.setdiff1d(np.arange(981), faces.sequence[:, :-1])
    assert len(ends) == 327
    assert all(len(set(row)) == 3 for row in faces.sequence[ends])
    assert (faces.labels[faces.sequence] == faces.labels[:, None]).all()
    assert len(data.load("ckplus", "shared", real_data)) == 981 - 54
