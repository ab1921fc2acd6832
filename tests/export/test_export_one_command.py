"""``bundle --train``: from pictures to a bundle in one command, each stage once, and no bundle of graphs gone stale."""

from __future__ import annotations

import json
import shutil
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
SETTINGS = "made of other weights or settings"
SCHEDULE = "network.pt: trained with another training than the recipe's"


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
    assert f"quantisation.json: {SETTINGS} than those of runs/own/network.pt" in _said(capsys)
    assert _bundle(own, "--checkpoint", "typo.pt") == 66
    assert "typo.pt: no checkpoint" in _said(capsys)
    assert (out / "bundle" / "manifest.json").read_text() == before
    assert _bundle(own, "--train") == 0
    assert (out / "bundle" / "manifest.json").read_text() != before
    for torn in ("[]", "{}"):
        (out / "quantisation.json").write_text(torn)
        assert _bundle(own) == 66
        assert "quantisation.json: " in _said(capsys).splitlines()[-1]
    own.write_text(own.read_text().replace("calibration_images = 8", "calibration_images = 9"))
    assert _bundle(own, "--train") == 0
    assert json.loads((out / "quantisation.json").read_text())["calibration"] == "9 training pairs"
    (out / "classifier.onnx").unlink()
    assert _bundle(own) == 66
    assert "classifier.onnx: not found" in _said(capsys)
    (own.parent / "runs" / "first" / "network.pt").write_bytes(b"torn")
    capsys.readouterr()
    assert _bundle(own, "--train") == 0
    assert "CPU min, not known of all it starts from" in _said(capsys)


@pytest.mark.parametrize(
    ("old", "new", "plain", "code", "said"),
    [
        ("widths = [8, 8, 8, 8]", "widths = [8, 8, 8, 16]", SETTINGS, 66, "begun with another model"),
        ("crop = 16", "crop = 24", "made of other pictures", 66, "trained on other rows of viri"),
        ("ema = 0.0", "ema = 0.5", SCHEDULE, 66, "begun with another training"),
        ("[[16, 1]]", "[[16, 2]]", SCHEDULE, 0, "joined 2/2"),
    ],
)
def test_a_recipe_changed_since_is_trained_on_or_refused(
    old: str, new: str, plain: str, code: int, said: str, own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _bundle(own, "--train") == 0
    own.write_text(own.read_text().replace(old, new))
    capsys.readouterr()
    assert _bundle(own) == 66
    assert plain in _said(capsys)
    assert _bundle(own, "--train") == code
    assert said in _said(capsys)


def test_graphs_of_another_crop_are_not_packed(
    recipe_file: Path, data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An archive's pictures keep their size: they are the same ones whatever the crop."""
    for verb in ("train", "quantize"):
        assert command.main([verb, str(recipe_file), "--threads", "1", "--out", str(tmp_path / "tiny")]) == 0
    recipe_file.write_text(recipe_file.read_text().replace("crop = 16", "crop = 12"))
    for more, said in (([], SETTINGS), (["--train"], "begun with another crop")):
        assert _bundle(recipe_file, "--out", str(tmp_path / "tiny"), *more) == 66
        assert said in _said(capsys)


def test_a_soup_follows_its_members(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = 'steps = [{ name = "joined", sizes = [[16, 1]], lr = 0.02 }]'
    mean = RECIPE.replace('[start]\n"" = "first"\n', "").replace(steps, "steps = []")
    own.write_text('soup = ["first", "first"]\n' + mean)
    assert _bundle(own, "--train") == 0
    graph = own.parent / "runs" / "own" / "classifier.onnx"
    before, first = graph.read_bytes(), own.with_name("first.toml")
    first.write_text(first.read_text().replace("[[16, 1]]", "[[16, 2]]"))
    assert command.main(["train", str(first), "--threads", "1"]) == 0
    assert _bundle(own, "--train") == 0
    assert graph.read_bytes() != before
    shutil.rmtree(own.parent / "runs" / "first")
    own.write_text(own.read_text().replace('["first", "first"]', '["first"]'))
    assert _bundle(own, "--train") == 0
    assert (own.parent / "runs" / "first" / "network.pt").is_file()


def test_what_cannot_be_packed_is_refused_before_the_training(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _bundle(own, "--train", "--checkpoint", "network.pt") == 64
    assert "--train makes the weights itself; take --checkpoint out" in _said(capsys)
    for key, text in (("name", RECIPE.replace('"own"', '"Own_Faces"')), ("version", f'version = "1.0"{RECIPE}')):
        own.write_text(text)
        assert _bundle(own, "--train") == 64
        assert f"no bundle: '{key}': String should match pattern" in _said(capsys)
    own.write_text(RECIPE)
    (own.parent / "plain").touch()
    assert _bundle(own, "--train", "--to", "plain/bundle") == 74
    own.write_text(RECIPE.replace("template =", "# "))
    assert _bundle(own, "--train") == 66
    assert "the detector saw no face in the training pictures" in _said(capsys)
    own.write_text(RECIPE)
    for file in (own.parent / "data" / "viri").glob("*/*/*.png"):
        if int(file.stem) >= 12:
            file.unlink()
    assert _bundle(own, "--train") == 66
    assert "viri: 4 validation pictures" in _said(capsys)
    assert not (own.parent / "runs").exists()


def test_the_folder_one_stands_in_is_a_working_folder(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (own.parent / "work").mkdir()
    monkeypatch.chdir(own.parent / "work")
    assert command.main(["train", str(own), "--threads", "1", "--out", "."]) == 0
    assert Path("network.pt").is_file()
    assert Path("../first/network.pt").is_file()
