"""A file that cannot be used is told by whoever reads the set: to train, to watch, to test, to compare fusions."""

from __future__ import annotations

from pathlib import Path

import pytest
from face_files import picture, text

torch = pytest.importorskip("torch", reason="needs the export extra")
from export import compare, train  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("default")]
ONE = """
name = "one"
crop = 16
[model]
name = "single"
widths = [4, 4]
[training]
batch = 4
ema = 0.0
steps = [{ name = "joined", sizes = [[16, 1]], lr = 0.05 }]
"""
SCENES = """
name = "scenes"
[data]
name = "pairs"
[model]
name = "wgan"
side = 29
epochs = 1
steps = 1
batch = 2
width = 0.1
generator.channels = [2, 2, 2, 2]
"""


def _job(root: Path, recipe: str, data: str = "") -> train.Job:
    file = root / "recipe.toml"
    file.write_text(recipe)
    return train.Job(file, root / "out", data=data)


def test_a_test_picture_that_is_missing_is_told_once(data_root: Path, tmp_path: Path) -> None:
    names = [f"{split}_{k:05}" for split in ("train", "test") for k in range(8)]
    text(data_root / "EmoLabel/list_patition_label.txt", "\n".join(f"{n}.jpg {i % 7 + 1}" for i, n in enumerate(names)))
    for name in (*names[:-1], "stray"):
        picture(data_root / f"Image/aligned/{name}_aligned.jpg", 90, (20, 20))
    said: list[str] = []
    job = _job(tmp_path, ONE, "rafdb")
    train.train(job, said.append)
    assert [line for line in said if "used" in line] == [
        "not used: Image/aligned/stray_aligned.jpg: not in list_patition_label.txt",
        "not used: list_patition_label.txt line 16: test_00007.jpg lacks test_00007_aligned.jpg",
        f"2 files not used, listed in {job.out / 'not-used.txt'}",
    ]


def test_files_of_one_name_in_two_splits_are_two(data_root: Path, tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        for k in range(4):
            picture(data_root / "folders" / split / f"{'happy' if k % 2 else 'sad'}/{k}.png", 90 + k, (20, 20))
        text(data_root / "folders" / split / "sad/x.png")
    job = _job(tmp_path, ONE, "folders")
    train.train(job, lambda line: None)
    listed = (job.out / train.UNUSED).read_text().splitlines()
    assert listed == [f"{split}/sad/x.png: empty file" for split in ("train", "val", "test")]


def test_pairs_of_scenes_that_are_not_used_are_told(data_root: Path, tmp_path: Path) -> None:
    for k in range(18):
        for half in ("vi", "ir"):
            picture(data_root / f"ir_visible_pairs/RoadScene_{k:02}_{half}.png", 60 + k, (64, 64))
    (data_root / "ir_visible_pairs/RoadScene_02_ir.png").unlink()
    text(data_root / "ir_visible_pairs/RoadScene_17_vi.png")
    job = _job(tmp_path, SCENES)
    for done in (train.train, lambda job, say: compare.fusion(job, tmp_path, say)):
        said: list[str] = []
        done(job, said.append)
        assert [line for line in said if "used" in line] == [
            "not used: RoadScene_02_vi.png: unpaired, lacks RoadScene_02_ir.*",
            "not used: RoadScene_17_ir.png: unpaired, RoadScene_17_vi.png is not usable",
            "not used: RoadScene_17_vi.png: empty file",
            f"3 files not used, listed in {job.out / 'not-used.txt'}",
        ]
