"""Readers of single lenses: every layout made anew, with damaged and stray files, each of which must be named."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from face_files import cut_short, grey, picture, text

from export import data
from export.data import folders
from export.errors import InputError, UsageError

FER = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")


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
