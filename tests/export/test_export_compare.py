"""What ``report --train`` does with generators, and what the fusion table says of the one in it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the export extra")
cv2 = pytest.importorskip("cv2", reason="needs the cpu extra")
for needed in ("onnx", "onnxscript", "onnxruntime", "matplotlib"):
    pytest.importorskip(needed, reason="needs the export and cpu extras")

from export import compare, train  # noqa: E402
from export.errors import InputError  # noqa: E402
from export.report import files, results, write_report  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("default")]
SCENES = """
name = "scenes"
paper = "zou2021"
family = "pixel"
seed = 3
caveat = "Its weight was chosen late."
[data]
name = "pairs"
[model]
name = "wgan"
side = 29
epochs = 1
steps = 2
batch = 2
width = 0.1
generator = { channels = [4, 4, 4, 4] }
"""


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe of a tiny generator and 17 pairs of scenes, two to train on, as they lie in the data pack."""
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "scenes.toml").write_text(SCENES)
    rng, folder = np.random.default_rng(0), tmp_path / "data" / "ir_visible_pairs"
    folder.mkdir(parents=True)
    for k in range(17):
        for end in ("vi", "ir"):
            cv2.imwrite(str(folder / f"RoadScene_{k:03}_{end}.png"), rng.integers(0, 256, (40, 40), np.uint8))
    monkeypatch.setenv("EDGEFER_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(compare, "RUNS", tmp_path / "runs")
    return tmp_path


def _report_train(world: Path) -> list[str]:
    said: list[str] = []
    compare.missing(world / "recipes", world / "results" / "systems", False, None, said.append)
    return said


@pytest.fixture
def table(world: Path) -> Path:
    (world / "results").mkdir()
    assert any(line.startswith("wgan: EN") for line in _report_train(world))
    return world / "results" / "pixel-fusion.json"


def test_the_table_says_how_its_generator_was_made(world: Path, table: Path) -> None:
    about = files.read_one(table, results.PixelFusion).about
    assert (about.recipes, about.seed, about.pairs, len(about.data_fingerprint)) == (("scenes",), 3, 15, 64)
    assert about.machine is not None
    assert about.training is not None
    assert about.training.cpu_minutes >= 0
    assert (about.training.epochs, about.training.images_seen) == (1, 4)
    assert about.model["generator"] == {"channels": [4, 4, 4, 4]}
    write_report(world / "results", world / "recipes", world / "out", lambda line: None)
    page = (world / "out" / "report.md").read_text()
    fusion, measured = page.split("## Pixel fusion")[1].split("## How it was measured")
    assert "- **Caveat:** `scenes` Its weight was chosen late." in fusion
    assert "side 29, epochs 1, steps 2" in fusion
    assert f"| `scenes` | 3 | `{about.data_fingerprint[:16]}` |" in measured


def test_other_training_pairs_are_another_fingerprint_and_held_out_ones_are_not(world: Path, table: Path) -> None:
    job = train.Job(world / "recipes" / "scenes.toml", world / "runs" / "scenes")
    before = files.read_one(table, results.PixelFusion).about.data_fingerprint
    folder = world / "data" / "ir_visible_pairs"
    for name, same in (("RoadScene_016_vi.png", True), ("RoadScene_000_ir.png", False)):
        cv2.imwrite(str(folder / name), np.zeros((40, 40), np.uint8))
        compare.fusion(job, world, lambda line: None)
        after = json.loads((world / "pixel-fusion.json").read_text())["about"]["data_fingerprint"]
        assert (after == before) is same


def test_a_table_that_is_there_is_left_and_one_of_other_options_is_named(world: Path, table: Path) -> None:
    before = table.stat().st_mtime_ns
    assert _report_train(world) == []
    file = world / "recipes" / "scenes.toml"
    file.write_text(file.read_text().replace("steps = 2", "steps = 3"))
    (line,) = _report_train(world)
    assert line.startswith("scenes: pixel-fusion.json was measured with other options than the recipe's of today; ")
    assert table.stat().st_mtime_ns == before


def test_a_generator_of_faces_is_not_trained_for_its_own_sake(world: Path) -> None:
    """There are no faces here to train on; who begins with it would ask for it."""
    file = world / "recipes" / "scenes.toml"
    file.write_text(file.read_text().replace('[data]\nname = "pairs"\n', ""))
    assert _report_train(world) == []
    assert not (world / "runs").exists()


def test_a_generator_that_is_not_finished_or_of_another_seed_is_not_scored(
    world: Path, table: Path, silent: Any
) -> None:
    job = train.Job(world / "recipes" / "scenes.toml", world / "runs" / "scenes")
    with pytest.raises(InputError, match=r"network\.pt: trained with seed 3, not 4"):
        compare.fusion(replace(job, seed=4), world, silent)
    (job.out / train.NETWORK).unlink()
    with pytest.raises(InputError, match=r"network\.pt: no checkpoint; run `python -m export train` first"):
        compare.fusion(job, world, silent)
