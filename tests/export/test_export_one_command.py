"""``bundle --train``: from pictures to a bundle in one command, each stage once, and no bundle of graphs gone stale."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the export extra")
for needed in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(needed, reason="needs the export and cpu extras")

from edgefer.bundle import open_bundle  # noqa: E402
from export import __main__ as command  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("default")]
RECIPE = """
name = "own"
template = [[5.0, 6.0], [10.0, 6.0], [7.5, 9.0], [5.5, 12.0], [9.5, 12.0]]
crop = 16
[data]
name = "viri"
train = "all"
folds = "share"
[model]
name = "dual-resnet"
widths = [8, 8, 8, 8]
[start]
"" = "first"
[training]
batch = 16
ema = 0.0
steps = [{ name = "joined", sizes = [[16, 1]], lr = 0.02 }]
[quantisation]
calibration_images = 8
sensitivity_views = 0
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe that starts from another, and a set of noise, in the folder that the commands run in."""
    rng = np.random.default_rng(1)
    for lens in ("visible", "infrared"):
        for label in ("angry", "happy", "sad", "neutral"):
            folder = tmp_path / "data" / "viri" / lens / label
            folder.mkdir(parents=True)
            for k in range(20):
                cv2.imwrite(str(folder / f"{k:03}.png"), rng.integers(0, 256, (16, 16), np.uint8))
    monkeypatch.setenv("EDGEFER_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "own.toml"
    path.write_text(RECIPE)
    path.with_name("first.toml").write_text(RECIPE.replace('"own"', '"first"').replace('[start]\n"" = "first"\n', ""))
    return path


def _bundle(file: Path, *more: str) -> int:
    return command.main(["bundle", str(file), "--threads", "1", *more])


def _said(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err


def test_one_command_makes_a_bundle_and_repeats_no_stage(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _bundle(own, "--train") == 0, _said(capsys)
    said, out = _said(capsys), own.parent / "runs" / "own"
    assert "own: 56 pictures to train on, 12 watched, 12 to test on" in said
    assert "with all it starts from" in said
    assert "runs/own/bundle, " in said.splitlines()[-1]
    assert open_bundle(out / "bundle").manifest.name == "own"
    made = {name: (out / name).stat().st_mtime_ns for name in ("network.pt", "classifier.onnx", "quantisation.json")}
    assert _bundle(own, "--train") == 0
    assert "own: trained and quantised already" in _said(capsys)
    assert made == {name: (out / name).stat().st_mtime_ns for name in made}
    _graphs_of_other_weights_are_not_packed(own, out, capsys)


def _graphs_of_other_weights_are_not_packed(own: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (out / "bundle" / "manifest.json").read_text()
    state = torch.load(out / "network.pt", weights_only=False)
    next(iter(state["network"].values())).mul_(1.5)
    torch.save(state, out / "network.pt")
    assert _bundle(own) == 66
    assert "quantisation.json: made of other weights or settings (network.pt) than are there now" in _said(capsys)
    assert (out / "bundle" / "manifest.json").read_text() == before
    assert _bundle(own, "--train") == 0
    assert (out / "bundle" / "manifest.json").read_text() != before
    own.write_text(RECIPE.replace("calibration_images = 8", "calibration_images = 9"))
    assert _bundle(own) == 66
    assert "weights or settings" in _said(capsys)
    assert _bundle(own, "--train") == 0
    assert json.loads((out / "quantisation.json").read_text())["calibration"] == "9 training pairs"
    (out / "classifier.onnx").unlink()
    assert _bundle(own, "--train") == 0


def test_what_cannot_be_packed_is_refused_before_the_training(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _bundle(own, "--train", "--checkpoint", "network.pt") == 64
    assert "--train makes the weights itself; take --checkpoint out" in _said(capsys)
    for file in (own.parent / "data" / "viri").glob("*/*/*.png"):
        if int(file.stem) >= 12:
            file.unlink()
    assert _bundle(own, "--train") == 66
    assert "viri: 4 validation pictures" in _said(capsys)
    assert not (own.parent / "runs").exists()
