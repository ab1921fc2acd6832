"""Readers of an infrared lens, alone or with a visible one: pairs are right, and what has no partner is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from face_files import cut_short, grey, picture, text

from export import data
from export.data import paired
from export.data.fusion_pairs import FusionPairs
from export.errors import InputError


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
    assert faces.rejected == ("val/labels.txt: lies beside the folders",)


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
