"""The network of a bundle, read back as weights to go on from."""

from __future__ import annotations

import dataclasses
import importlib.util
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the export extra")
for needed in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(needed, reason="needs the export and cpu extras")

from tiny_network import network  # noqa: E402

from edgefer.bundle import DEFAULT, Temporal, open_bundle  # noqa: E402
from export import __main__ as command  # noqa: E402
from export import checkpoint, golden, lenses, models, onnx_graph, pack, recipe, restore, train, trainer  # noqa: E402
from export.data import fer2013  # noqa: E402
from export.data.faces import Faces  # noqa: E402
from export.errors import InputError  # noqa: E402
from export.models.network import Network  # noqa: E402

PORTRAITS = all(importlib.util.find_spec(p.package) for p in golden.PORTRAITS)
pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("default"),
    pytest.mark.skipif(not PORTRAITS, reason="needs the demo extra (public-domain portraits)"),
]


@pytest.fixture
def bundle(quantised: Path, recipe_file: Path, data_root: Path, tmp_path: Path) -> Path:
    to = tmp_path / "packed"
    pack.pack(recipe.read(recipe_file), quantised, to, pack.Calibration(1.5, 0.3), lambda bundle: {})
    return to


def _restored(recipe_file: Path, bundle: Path, out: Path) -> int:
    return command.main(["restore", str(recipe_file), "--bundle", str(bundle), "--out", str(out)])


def _logits(model: Network, side: int) -> np.ndarray:
    inputs = [torch.from_numpy(x) for x in onnx_graph.random_inputs(64, side)]
    with torch.inference_mode():
        return model(inputs[0].permute(0, 3, 1, 2), inputs[1].permute(0, 3, 1, 2), inputs[2]).numpy()


def test_it_says_what_the_bundle_says_and_its_batches_are_normed_alike(
    bundle: Path, recipe_file: Path, tmp_path: Path
) -> None:
    plan = recipe.read(recipe_file)
    assert _restored(recipe_file, bundle, tmp_path / "out") == 0
    model = checkpoint.load(tmp_path / "out" / train.NETWORK, plan).model
    own = network(plan)
    ours, theirs = _logits(model, plan.crop), _logits(own, plan.crop)
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.98
    assert np.corrcoef(ours.ravel(), _logits(models.build(plan.model, 7).eval(), plan.crop).ravel())[0, 1] < 0.9
    faces = fer2013.load("train").take(np.arange(20))
    batch = next(trainer.batches(faces, plan.crop, model.uses, 1, 20))[:3]
    with torch.no_grad():
        before = model(*batch)
        for norm in (m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)):
            norm.train()
        assert torch.corrcoef(torch.stack((before.ravel(), model(*batch).ravel())))[0, 1] > 0.9


def test_a_recipe_starts_from_it_and_is_taught_by_it(bundle: Path, recipe_file: Path, tmp_path: Path) -> None:
    assert _restored(recipe_file, bundle, tmp_path / "runs" / "tiny") == 0
    text = recipe_file.read_text().replace('"tiny"', '"own"')
    own = recipe_file.with_name("own.toml")
    own.write_text(f'{text}[start]\n"" = "tiny"\n[distil]\nteachers = ["tiny"]\n')
    assert command.main(["train", str(own), "--out", str(tmp_path / "runs" / "own")]) == 0
    assert checkpoint.load(tmp_path / "runs" / "own" / train.NETWORK, recipe.read(own)).epoch > 0


@pytest.mark.parametrize("verb", ["score", "quantize"])
def test_it_does_not_pass_for_a_training_of_the_recipe(
    verb: str, recipe_file: Path, data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would be another release of the recipe, with figures of its own."""
    plan, faces = recipe.read(recipe_file), fer2013.load("train")
    spent = {"epochs": 0, "restored": "default 1.0.0"}
    state = checkpoint.finished(network(plan), plan, faces.classes, faces.fingerprint, spent)
    checkpoint.write(tmp_path / train.NETWORK, state)
    assert command.main([verb, str(recipe_file), "--out", str(tmp_path)]) == 66
    assert "read back from the bundle default 1.0.0, not trained here" in capsys.readouterr().err


def test_a_network_that_is_there_is_not_written_over(
    bundle: Path, recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / train.NETWORK).write_text("days of work")
    assert _restored(recipe_file, bundle, tmp_path) == 64
    assert "choose another --out" in capsys.readouterr().err
    assert (tmp_path / train.NETWORK).read_text() == "days of work"


def test_another_recipe_than_the_bundles_is_refused(
    bundle: Path, recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe_file.write_text(recipe_file.read_text().replace("[8, 8, 16, 16]", "[8, 8, 16, 24]"))
    assert _restored(recipe_file, bundle, tmp_path / "out") == 66
    assert "no network of recipe tiny" in capsys.readouterr().err
    recipe_file.write_text(recipe_file.read_text().replace("dual-resnet", "shared-trunk"))
    assert _restored(recipe_file, bundle, tmp_path / "out") == 66
    assert "no network of recipe tiny" in (line := capsys.readouterr().err)
    assert "give the recipe as it was when the bundle was made of it, tiny" in line
    assert not (tmp_path / "out").exists()


def test_it_needs_no_row_that_it_was_trained_on(bundle: Path, recipe_file: Path, data_root: Path) -> None:
    """Faces of one's own set the batch norms, too; what the bundle has seen, its manifest says."""
    rng = np.random.default_rng(5)
    for split, label, k in product(("train", "val", "test"), ("happy", "sad"), range(12)):
        for lens in ("visible", "infrared"):
            folder = data_root / "paired" / split / lens / label
            folder.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / f"{k}.png"), rng.integers(0, 256, (16, 16), np.uint8))
    (data_root / "fer2013.npz").unlink()
    asked = ["restore", str(recipe_file), "--bundle", str(bundle), "--out", str(data_root / "out")]
    assert command.main(asked) == 66
    assert command.main([*asked, "--faces", "paird"]) == 64
    assert command.main([*asked, "--faces", "paired"]) == 0
    made = checkpoint.load(data_root / "out" / train.NETWORK, recipe.read(recipe_file))
    assert made.labels == tuple(open_bundle(bundle).manifest.labels)
    assert [made.data] == list(open_bundle(bundle).manifest.training.data.values())


def test_a_batch_norm_is_taken_out_of_convolutions_in_one_row() -> None:
    """Of a VGG, where the norm of ``3`` is ``4``: answers as the graph's folded convolutions, in training nearly so."""
    row = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, bias=False), torch.nn.BatchNorm2d(4), torch.nn.ReLU(),
        torch.nn.Conv2d(4, 5, 3, bias=False), torch.nn.BatchNorm2d(5),
    ).eval()  # fmt: skip
    folded = {"0.bias": np.arange(4, dtype=np.float32), "3.bias": np.arange(5, dtype=np.float32) - 2}
    x = torch.rand(8, 1, 12, 12, generator=torch.Generator().manual_seed(1))
    restore._unfold(row, folded, (x,))
    with torch.inference_mode():
        first = torch.relu(row[0](x) + torch.from_numpy(folded["0.bias"])[:, None, None])
        theirs = row[3](first) + torch.from_numpy(folded["3.bias"])[:, None, None]
        assert torch.allclose(row(x), theirs, atol=1e-4)
        assert torch.allclose(row.train()(x), theirs, atol=1e-2)


def test_a_network_over_several_frames_is_refused(tmp_path: Path) -> None:
    """Its graph gives features, no answers to be held against."""
    shipped = open_bundle(DEFAULT)
    (seen,) = shipped.manifest.training.data.values()
    heads = shipped.manifest.graphs
    frames = shipped.manifest.model_copy(update={"temporal": Temporal(window=3, features=8, heads=heads)})
    faces = Faces(np.zeros((2, 48, 48), np.uint8), np.zeros(2, np.int64), seen, tuple(frames.labels))
    plan = recipe.read(command.RECIPES / "default.toml")
    with pytest.raises(InputError, match="over several frames cannot be read back; train default"):
        restore.restore(dataclasses.replace(shipped, manifest=frames), plan, faces, tmp_path / "network.pt")
    assert not (tmp_path / "network.pt").exists()


def test_the_bundle_that_ships_is_read_back(real_data: Path, tmp_path: Path) -> None:
    """Dropped blocks, and layers whose INT8 rounding matters: as many faces read rightly as the bundle reads."""
    plan = recipe.read(command.RECIPES / "default.toml")
    assert command.main(["restore", str(command.RECIPES / "default.toml"), "--out", str(tmp_path)]) == 0
    model = checkpoint.load(tmp_path / train.NETWORK, plan).model
    inputs, labels = lenses.mixed(lenses.head(fer2013.load("public"), 200, 1), 1)
    visible, infrared, present = (torch.from_numpy(x) for x in inputs)
    with torch.inference_mode():
        ours = model(visible.permute(0, 3, 1, 2), infrared.permute(0, 3, 1, 2), present).argmax(1).numpy()
    theirs = onnx_graph.run(open_bundle(DEFAULT).graph("onnxruntime"), inputs).argmax(1)
    assert (ours == theirs).mean() > 0.97
    assert abs((ours == labels).mean() - (theirs == labels).mean()) < 0.02
