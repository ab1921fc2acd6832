"""Readers: every layout made anew in a folder, with damaged, stray and unpaired files, each of which must be named."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from export import data
from export.data import ckplus, folders, paired
from export.data.fusion_pairs import FusionPairs
from export.errors import InputError, UsageError

FER = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")


def picture(path: Path, grey: int = 90, size: tuple[int, int] = (48, 48)) -> Path:
    """An image file with texture round ``grey``; ``size``: width, height."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(grey)
    image = np.clip(grey + rng.integers(-30, 31, (size[1], size[0])), 0, 255).astype(np.uint8)
    assert cv2.imwrite(str(path), image)
    return path


def text(path: Path, content: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def cut_short(path: Path) -> Path:
    picture(path, 90, (300, 300))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def grey(images: np.ndarray) -> list[int]:
    """Mean grey of each picture to the nearest ten, which tells the synthetic ones apart."""
    return [int(round(float(image.mean()), -1)) for image in images]


# image folders


def test_every_file_of_a_class_folder_is_a_row_or_a_line(tmp_path: Path) -> None:
    picture(tmp_path / "1_Happy" / "a.png", 100, (96, 96))
    picture(tmp_path / "1_Happy" / "anna" / "b.jpg", 60, (60, 40))
    picture(tmp_path / "angry" / "c.bmp", 200)
    cut_short(tmp_path / "angry" / "d.jpg")
    cut_short(tmp_path / "angry" / "e.png")
    text(tmp_path / "angry" / "f.png")
    text(tmp_path / "angry" / "notes.txt", "x")
    text(tmp_path / "README", "x")
    (tmp_path / ".git").mkdir()
    faces = data.load("folders", "all", tmp_path)
    assert faces.classes == ("anger", "happiness")
    assert grey(faces.images) == [100, 60, 200]
    assert faces.labels.tolist() == [1, 1, 0]
    assert faces.images.shape == (3, 48, 48)
    assert sorted(faces.rejected) == [
        ".git: hidden folder",
        "README: lies beside the class folders",
        "angry/d.jpg: unreadable (damaged or cut short)",
        "angry/e.png: unreadable (damaged or cut short)",
        "angry/f.png: empty file",
        "angry/notes.txt: not an image file",
    ]


def test_a_picture_is_cut_square_and_shrunk_by_area(tmp_path: Path) -> None:
    image = np.zeros((100, 140), np.uint8)
    image[:, 20:120:2] = 200  # stripes of one pixel within the central square; black borders left and right
    (tmp_path / "sad").mkdir()
    cv2.imwrite(str(tmp_path / "sad" / "a.png"), image)
    faces = data.load("folders", "all", tmp_path, side=50)
    assert (faces.images == 100).all()


def test_an_unknown_class_folder_is_refused_with_the_spellings(tmp_path: Path) -> None:
    picture(tmp_path / "happy" / "a.png")
    picture(tmp_path / "bored" / "a.png")
    with pytest.raises(InputError, match=r"'bored' is no expression of this set; .*happiness: happiness, happy, joy"):
        data.load("folders", "all", tmp_path)


@pytest.mark.parametrize(
    ("spelling", "name"),
    [("Angry", "anger"), ("AN", "anger"), ("01-fear", "fear"), ("surprised", "surprise"), ("7", None), ("ok", None)],
)
def test_usual_spellings(spelling: str, name: str | None) -> None:
    assert folders.class_name(spelling) == name


def test_parts_of_a_folder_are_its_splits(tmp_path: Path) -> None:
    picture(tmp_path / "train" / "happy" / "a.png")
    picture(tmp_path / "test" / "happy" / "b.png", 30)
    assert grey(data.load("folders", "test", tmp_path).images) == [30]
    with pytest.raises(InputError, match="no split 'val' in this folder; it has train, test"):
        data.load("folders", "val", tmp_path)


def test_a_set_of_nothing_usable_is_one_line(tmp_path: Path) -> None:
    text(tmp_path / "happy" / "a.png")
    with pytest.raises(InputError, match=r"not one usable face \(first of 1: happy/a.png: empty file\)"):
        data.load("folders", "all", tmp_path)


# FER2013


def write_fer_csv(root: Path) -> None:
    """Training 0 and 1, PublicTest 2, PrivateTest 3 (a twin of 0) and 4; a blank Training row; three broken rows."""
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, 2304) for _ in range(5)]
    pictures[3] = pictures[0]
    usages = ["Training", "Training", "PublicTest", "PrivateTest", "PrivateTest"]
    rows = [f"{i},{' '.join(map(str, p))},{u}" for i, (p, u) in enumerate(zip(pictures, usages, strict=True))]
    rows.append(f"6,{' '.join(['7'] * 2304)},Training")
    rows += ["9,1 2,Training", "1,1 2,Training", "1,,Else"]
    text(root / "icml.csv", "emotion,pixels,Usage\n" + "\n".join(rows) + "\n")


def test_the_competition_csv(tmp_path: Path) -> None:
    write_fer_csv(tmp_path)
    got = {split: data.load("fer2013", split, tmp_path) for split in data.READERS["fer2013"].splits}
    labels = {split: faces.labels.tolist() for split, faces in got.items()}
    assert labels == {"train": [1], "public": [2], "private": [3, 4], "private-clean": [4]}
    assert got["train"].classes == FER
    assert got["train"].rejected == (
        "icml.csv row 7: emotion '9' is none of 0 to 6",
        "icml.csv row 8: 2 pixels, not 2304 of 0 to 255",
        "icml.csv row 9: Usage 'Else' is none of Training, PublicTest, PrivateTest",
    )


def test_the_archive_and_the_csv_give_the_same_faces(tmp_path: Path) -> None:
    write_fer_csv(tmp_path / "csv")
    rows = (tmp_path / "csv" / "icml.csv").read_text().splitlines()[1:7]
    images = np.array([row.split(",")[1].split() for row in rows], np.uint8).reshape(-1, 48, 48)
    (tmp_path / "npz").mkdir()
    np.savez(
        tmp_path / "npz" / "fer2013.npz", images=images, labels=np.array([0, 1, 2, 3, 4, 6], np.uint8),
        split=np.array([0, 0, 1, 2, 2, 0], np.uint8), dup_group=np.array([0, 1, 2, 0, 4, 5], np.int32),
    )  # fmt: skip
    for split in data.READERS["fer2013"].splits:
        one, other = (data.load("fer2013", split, tmp_path / form) for form in ("csv", "npz"))
        assert one.fingerprint == other.fingerprint


@pytest.mark.parametrize(
    ("public", "private"),
    [("PublicTest/sad/1.png", "PrivateTest/sad/2.png"), ("test/sad/PublicTest_1.png", "test/sad/PrivateTest_2.png")],
)
def test_fer2013_as_image_folders(tmp_path: Path, public: str, private: str) -> None:
    root = tmp_path / "fer2013"
    first = "Training" if public.startswith("Public") else "train"
    picture(root / first / "angry" / "1.png", 50)
    picture(root / first / "happy" / "2.png", 100)
    picture(root / first / "happy" / "big.png", 100, (64, 64))
    picture(root / public, 100)  # a twin of the happy one under another label
    picture(root / private, 150)
    text(root / "readme.md")
    train = data.load("fer2013", "train", tmp_path)
    assert (grey(train.images), train.labels.tolist()) == ([50], [0])
    assert grey(data.load("fer2013", "public", tmp_path).images) == [100]
    assert grey(data.load("fer2013", "private", tmp_path).images) == [150]
    assert set(train.rejected) == {
        f"{first}/happy/big.png: 64x64 pixels, not 48x48",
        "readme.md: is no part of the official split",
    }


def test_a_test_folder_that_does_not_say_which_test_is_never_guessed_at(tmp_path: Path) -> None:
    picture(tmp_path / "train" / "angry" / "1.png", 50)
    picture(tmp_path / "train" / "angry" / "2.png", 60)
    picture(tmp_path / "test" / "angry" / "3.png", 60)
    assert grey(data.load("fer2013", "train", tmp_path).images) == [50]
    with pytest.raises(InputError, match="1 files of the test folder do not say which test"):
        data.load("fer2013", "private", tmp_path)


# CK+


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
    text(tmp_path / "Landmarks/S010/001/S010_001_00000002_landmarks.txt", "1 2\n3")
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


# JAFFE, RAF-DB


def test_jaffe_names_say_who_and_what(tmp_path: Path) -> None:
    for i, code in enumerate(("AN", "DI", "FE", "HA", "SA", "SU", "NE")):
        picture(tmp_path / f"K{'AL'[i % 2]}.{code}1.{39 + i}.tiff", 20 + 10 * i, (256, 256))
    picture(tmp_path / "KA.XX1.50.tiff")
    text(tmp_path / "README")
    faces = data.load("jaffe", "all", tmp_path)
    assert faces.person is not None
    by_grey = dict(zip(grey(faces.images), faces.labels.tolist(), strict=True))
    assert by_grey == {20 + 10 * i: i for i in range(7)}
    assert faces.person.tolist() == ["KA"] * 4 + ["KL"] * 3
    assert set(faces.rejected) == {
        "README: not an image file",
        "KA.XX1.50.tiff: name is not PERSON.CLASS.NUMBER (KA.AN1.39.tiff)",
    }


def test_rafdb_list_and_aligned_pictures(tmp_path: Path) -> None:
    names = [f"train_{i:05}" for i in range(1, 8)] + ["test_0001"]
    for i, name in enumerate(names):
        picture(tmp_path / "basic/Image/aligned" / f"{name}_aligned.jpg", 20 + 20 * i, (100, 100))
    lines = [f"{name}.jpg {i % 7 + 1}" for i, name in enumerate(names)]
    lines += ["train_00008.jpg 1", "train_00009.jpg 8"]
    text(tmp_path / "basic/EmoLabel/list_patition_label.txt", "\n".join(lines) + "\n")
    picture(tmp_path / "basic/Image/aligned/train_99999_aligned.jpg")
    train, test = data.load("rafdb", "train", tmp_path), data.load("rafdb", "test", tmp_path)
    wire = ["surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral"]
    assert [train.classes[label] for label in train.labels] == wire
    assert grey(train.images) == [20, 40, 60, 80, 100, 120, 140]
    assert grey(test.images) == [160]
    assert train.rejected == (
        "list_patition_label.txt line 9: train_00008.jpg lacks train_00008_aligned.jpg",
        "list_patition_label.txt line 10: 'train_00009.jpg 8' is not a picture's name and a number of 1 to 7",
        "basic/Image/aligned/train_99999_aligned.jpg: not in list_patition_label.txt",
    )


# pairs


@pytest.mark.parametrize("order", ["lens/class", "class/lens"])
def test_viri_pairs_by_file_name(tmp_path: Path, order: str) -> None:
    def at(lens: str, label: str) -> str:
        return f"{lens}/{label}" if order == "lens/class" else f"{label}/{lens}"

    for label, base in (("angry", 30), ("happy", 60)):
        picture(tmp_path / at("visible", label) / f"VIS_{base}.jpg", base, (500, 500))
        picture(tmp_path / at("infrared", label) / f"{base}-ir.png", base + 100, (500, 500))
        picture(tmp_path / at("MSX", label) / f"{base}.jpg", base + 150, (500, 500))
    picture(tmp_path / at("visible", "happy") / "61.jpg")
    picture(tmp_path / at("MSX", "happy") / "61.jpg")
    picture(tmp_path / at("visible", "happy") / "62.jpg")
    cut_short(tmp_path / at("infrared", "happy") / "62.jpg")
    picture(tmp_path / at("MSX", "happy") / "62.jpg")
    picture(tmp_path / at("visible", "happy") / "60.png", 60)
    faces = data.load("viri", "all", tmp_path, side=64)
    assert faces.infrared is not None
    assert faces.msx is not None
    assert faces.classes == ("anger", "happiness")
    assert (grey(faces.images), grey(faces.infrared), grey(faces.msx)) == ([30, 60], [130, 160], [180, 210])
    assert faces.infrared.shape == faces.msx.shape == (2, 64, 64)
    assert faces.person is None
    infrared, visible, msx = at("infrared", "happy"), at("visible", "happy"), at("MSX", "happy")
    assert set(faces.rejected) == {
        f"{visible}/61.jpg: unpaired, lacks {infrared}/61.*",
        f"{msx}/61.jpg: unpaired, lacks {infrared}/61.*",
        f"{visible}/62.jpg: unpaired, its other file 62.jpg is not usable",
        f"{msx}/62.jpg: unpaired, its other file 62.jpg is not usable",
        f"{infrared}/62.jpg: unreadable (damaged or cut short)",
        f"{visible}/VIS_60.jpg: same pair as 60.png, which is used",
    }


def test_a_folder_per_person_keeps_people_apart(tmp_path: Path) -> None:
    for who, g in (("anna", 40), ("bert", 80)):
        picture(tmp_path / "val" / "vis" / "sad" / who / "1.png", g)
        picture(tmp_path / "val" / "thermal" / "sad" / who / "1.png", g + 100)
    text(tmp_path / "val" / "labels.txt")
    faces = data.load("paired", "val", tmp_path)
    assert faces.person is not None
    assert faces.infrared is not None
    assert (faces.person.tolist(), grey(faces.infrared)) == (["anna", "bert"], [140, 180])
    assert faces.rejected == ("labels.txt: lies beside the folders",)


def test_a_class_of_one_lens_only_is_all_unpaired(tmp_path: Path) -> None:
    for path in ("visible/sad/1.png", "infrared/sad/1.png", "visible/happy/2.png"):
        picture(tmp_path / path)
    faces = data.load("paired", "all", tmp_path)
    assert (len(faces), faces.rejected) == (1, ("visible/happy/2.png: unpaired, lacks infrared of happiness/2.*",))


@pytest.mark.parametrize(
    ("stem", "name"),
    [("IR_0012", "0012"), ("0012-vis", "0012"), ("VL0012", "0012"), ("12ir", "12"), ("Irene", "irene"), ("ir", "ir")],
)
def test_the_name_of_a_pair(stem: str, name: str) -> None:
    assert paired.pair_name(stem) == name


def test_nvie_by_the_rules_of_the_papers(tmp_path: Path) -> None:
    rows = [
        "s1,P1,happy,1.5", "s2,P2,fear,1.01", "s3,P2,disgust,1.0", "s4,P3,sad,2", "s5,P3,disgust,1.4",
        "s6,P3,disgust,much", "s1,P1,fear,2", "s7,,fear,2", "s8,P4,fear,2",
    ]  # fmt: skip
    text(tmp_path / "labels.csv", "\n".join(["sample,subject,expression,intensity", *rows]))
    for i in (1, 2, 3, 4, 6, 7, 8, 9):
        picture(tmp_path / "visible" / f"s{i}.png", 10 * i)
        picture(tmp_path / "infrared" / f"s{i}_ir.png", 100 + 10 * i)
    picture(tmp_path / "visible" / "s5.png")
    text(tmp_path / "infrared" / "s8_ir.png")
    faces = data.load("nvie", "all", tmp_path)
    assert faces.infrared is not None
    assert faces.person is not None
    assert [faces.classes[label] for label in faces.labels] == ["happiness", "fear"]
    assert (grey(faces.images), grey(faces.infrared)) == ([10, 20], [110, 120])
    assert faces.person.tolist() == ["P1", "P2"]
    assert set(faces.rejected) == {
        "labels.csv line 4: s3: mean intensity 1 is not above 1",
        "labels.csv line 5: s4: 'sad' is not one of disgust, fear, happiness",
        "labels.csv line 6: s5: lacks infrared/s5.*",
        "labels.csv line 7: s6: intensity 'much' is no number",
        "labels.csv line 8: s1: second row of this sample",
        "labels.csv line 9: s7: no subject",
        "infrared/s8_ir.png: empty file",
        "visible/s8.png: unpaired, its other file s8_ir.png is not usable",
        "visible/s9.png: no row in labels.csv",
        "infrared/s9_ir.png: no row in labels.csv",
    }


def test_nvie_table_without_a_column_is_one_line(tmp_path: Path) -> None:
    for lens in ("visible", "infrared"):
        (tmp_path / lens).mkdir()
    text(tmp_path / "labels.csv", "sample,expression\n")
    with pytest.raises(InputError, match="lacks the column subject, intensity"):
        data.load("nvie", "all", tmp_path)


def test_thermal_folders_are_the_infrared_lens(tmp_path: Path) -> None:
    picture(tmp_path / "thermal" / "Happy" / "a.jpg", 80)
    picture(tmp_path / "thermal" / "Neutral" / "b.jpg", 120)
    faces = data.load("thermal", "all", tmp_path)
    assert faces.infrared is faces.images
    assert (faces.classes, faces.labels.tolist()) == (("happiness", "neutral"), [0, 1])


def test_fusion_pairs_and_what_is_none(tmp_path: Path) -> None:
    folder = tmp_path / "ir_visible_pairs"
    picture(folder / "A_vi.jpg", 50, (40, 30))
    picture(folder / "A_ir.png", 150, (40, 30))
    picture(folder / "B_vi.png")
    picture(folder / "C_vi.png", 50, (40, 30))
    picture(folder / "C_ir.png", 50, (30, 30))
    picture(folder / "D_vi.png")
    text(folder / "D_ir.png")
    picture(folder / "E.png")
    picture(folder / "A_ir.bmp", 150, (40, 30))
    pairs = FusionPairs(tmp_path)
    assert "B_vi.png: unpaired, lacks B_ir.*" in pairs.rejected
    (name, visible, infrared), *more = pairs
    assert (name, more, grey([visible, infrared]), visible.shape) == ("A", [], [50, 150], (30, 40))
    assert pairs.rejected == (
        "A_ir.png: same half as A_ir.bmp, which is used",
        "B_vi.png: unpaired, lacks B_ir.*",
        "C_ir.png: 40x30 and 30x30 pixels, not aligned with C_vi.png",
        "C_vi.png: 40x30 and 30x30 pixels, not aligned with C_ir.png",
        "D_ir.png: empty file",
        "D_vi.png: unpaired, D_ir.png is not usable",
        "E.png: not named NAME_vi.* or NAME_ir.*",
    )


# the registry


@pytest.mark.parametrize("name", data.READERS)
def test_a_folder_of_nothing_says_what_would_do(name: str, tmp_path: Path) -> None:
    reader = data.READERS[name]
    with pytest.raises(InputError, match=f"no {name} found here") as told:
        data.load(name, reader.splits[0], tmp_path)
    assert all(layout.what in str(told.value) for layout in reader.layouts)
    with pytest.raises(UsageError, match=f"this set has {', '.join(reader.splits)}"):
        data.load(name, "bogus", tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        data.load(name, reader.splits[0], tmp_path / "away")


def test_an_unknown_set_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="'CKplus' is unknown; did you mean 'ckplus'"):
        data.load("CKplus", "all")


# the data pack


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


@pytest.mark.data
def test_thermal_of_the_pack(real_data: Path) -> None:
    faces = data.load("thermal", "all", real_data)
    assert faces.person is not None
    counts = dict(zip(faces.classes, np.bincount(faces.labels).tolist(), strict=True))
    assert counts == {"anger": 61, "fear": 82, "happiness": 130, "sadness": 92, "surprise": 178, "neutral": 97}
    assert np.bincount(faces.person).tolist() == [267, 164, 64, 64, 48, 32, 1]


@pytest.mark.data
def test_fusion_pairs_of_the_pack(real_data: Path) -> None:
    pairs = FusionPairs(real_data)
    assert (len(pairs), sum(1 for _ in pairs), pairs.rejected) == (75, 75, ())
