"""A set of one's own, visible and infrared pairs in VIRI's layout, on its whole way: trained, packed, on the device."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the export extra")
for needed in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(needed, reason="needs the export and cpu extras")

import edgefer  # noqa: E402
from edgefer.bundle import DEFAULT, Manifest, open_bundle  # noqa: E402
from edgefer.config import Infer  # noqa: E402
from edgefer.infer import open_network  # noqa: E402
from edgefer.types import UNKNOWN  # noqa: E402
from export import __main__ as command  # noqa: E402
from export import checkpoint, evaluate, framing, golden, lenses, models, pack, recipe, rows, train  # noqa: E402
from export.data.faces import Faces  # noqa: E402
from export.errors import InputError, UsageError  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("default")]
PORTRAITS = all(importlib.util.find_spec(p.package) for p in golden.PORTRAITS)
portraits = pytest.mark.skipif(not PORTRAITS, reason="needs the demo extra (public-domain portraits)")
TEMPLATE = np.array([[14.76, 18.08], [32.24, 18.08], [23.5, 28.1], [16.41, 35.44], [30.59, 35.44]])
LABELS = ("anger", "happiness", "sadness", "neutral")
MINE = """
name = "mine"
template = [[5.0, 6.0], [10.0, 6.0], [7.5, 9.0], [5.5, 12.0], [9.5, 12.0]]
caveat = "Chosen after a look at PublicTest."
[model]
name = "dual-resnet"
widths = [8, 8, 8, 8]
[training]
batch = 16
ema = 0.0
steps = [{ name = "joined", sizes = [[24, 1]], lr = 0.02 }]
[quantisation]
calibration_images = 16
sensitivity_views = 0
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """mine.toml in the folder the commands run in, and an empty EDGEFER_DATA beside it."""
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("EDGEFER_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.toml"
    path.write_text(MINE)
    return path


def _pairs(root: Path, each: int) -> None:
    """The portraits, each crop a little another way; the infrared lens sees them as nothing simulated would look."""
    visible = golden.pairs(48, TEMPLATE, ("visible",), count=4 * each)[0][..., 0]
    for k, face in enumerate(visible):
        for lens, image in (("visible", face), ("infrared", 255 - cv2.GaussianBlur(face, (0, 0), 2))):
            folder = root / lens / ("angry", "happy", "sad", "neutral")[k % 4]
            folder.mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(folder / f"{k:03}.png"), image)


def _noise(root: Path, **count: int) -> None:
    """So many pairs of each class."""
    rng = np.random.default_rng(1)
    for lens in ("visible", "infrared"):
        for label, n in count.items():
            (root / lens / label).mkdir(parents=True)
            for k in range(n):
                cv2.imwrite(str(root / lens / label / f"{k:03}.png"), rng.integers(0, 256, (48, 48), np.uint8))


def _run(verb: str, file: Path, *more: str) -> int:
    return command.main([verb, str(file), "--threads", "1", *more])


def _line(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.splitlines()[-1]


@portraits
def test_a_set_of_ones_own_gets_onto_the_device(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    viri, out = mine.parent / "data" / "viri", mine.parent / "runs" / "viri" / "mine"
    _pairs(viri, 20)
    for verb in ("train", "quantize", "bundle"):
        assert _run(verb, mine, "--data", "viri") == 0, capsys.readouterr().err

    bundle = open_bundle(out / "bundle")
    m = bundle.manifest
    assert (m.name, tuple(m.labels), m.training.simulated) == ("viri-mine", LABELS, "")
    assert (m.training.recipe, list(m.training.data)) == ("mine", ["viri, training rows", "viri, validation rows"])
    assert np.abs(np.array(m.crop.template) - TEMPLATE).max() < 3

    part = rows.of(train.Job(mine, out, data="viri")).part
    visible, infrared, present = lenses.views(part.test, 1)["infrared"]
    assert part.test.infrared is not None
    assert np.array_equal(infrared[..., 0], part.test.infrared)
    with_network = open_network(bundle, Infer(threads=1))
    answers = evaluate.device_logits(with_network, (visible, infrared, present), "", lambda line: None)
    with_network.close()
    results = json.loads((out / "results.json").read_text())
    split, framed = results["splits"].values()
    assert list(results["splits"]) == ["test", "test-framed"]
    assert split["infrared"]["accuracy"] == float((answers.argmax(axis=1) == part.test.labels).mean())
    assert split["visible+infrared"]["images"] == framed["visible+infrared"]["images"] == 12
    assert framed["infrared"]["faces_not_found"] < 6
    assert (results["simulated"], "other_data" in results, "time" in results) == ("", False, False)
    assert results["set"]["validated_on"] == dict.fromkeys(LABELS, 3)

    watch, _ = framing.faces(part.watch, np.array(m.crop.template), m.crop.size)
    chosen = pack.calibrate(pack.answering(out, pack.read_report(out)), m.lenses_needed, watch, 1)
    assert (m.temperature, m.thresholds.min_conf) == (chosen.temperature, chosen.min_conf)

    _the_card_is_of_this_set(out)
    with edgefer.open_bundle(out / "bundle") as estimate:
        picture = cv2.cvtColor(golden.read(golden.PORTRAITS[0]), cv2.COLOR_GRAY2BGR)
        reading = estimate(picture, 255 - picture[..., 0])
    assert set(reading.probs) == set(LABELS)
    assert reading.label in (*LABELS, UNKNOWN)
    _measured_again_until_the_set_changes(mine, out, viri, capsys)


def _the_card_is_of_this_set(out: Path) -> None:
    card = (out / "bundle" / "MODEL_CARD.md").read_text()
    whole = card + (out / "bundle" / "manifest.json").read_text() + (out / "results.json").read_text()
    for other in ("FER2013", "PublicTest", "PrivateTest", "private", "(simulated)", "Web photographs"):
        assert other not in whole, other
    for said in (
        "70/15/15 at random per class, people not kept apart",
        "does not say whose face is whose",
        "| anger | 14 | 3 | 3 |",
        "infrared lens: the set's own infrared pictures",
        "36 validation views",
        "the terms of use of `viri`",
        "Recall by class, test:",
        "mine.toml --data viri --bundle runs/viri/mine/bundle",
    ):
        assert said in card, said


def _measured_again_until_the_set_changes(
    mine: Path, out: Path, viri: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A random split of other pictures tests on some that were trained on."""
    before = (out / "results.json").read_text()
    assert _run("evaluate", mine, "--data", "viri") == 0
    assert (out / "results.json").read_text() == before
    for lens in ("visible", "infrared"):
        (viri / lens / "sad" / "002.png").unlink()
    capsys.readouterr()
    assert _run("evaluate", mine, "--data", "viri") == 66
    assert "not trained on the training rows of viri" in _line(capsys)
    assert _run("bundle", mine, "--data", "viri") == 66
    assert "quantisation.json: made of other pictures than are there now" in _line(capsys)
    assert _run("quantize", mine, "--data", "viri") == 66
    assert "network.pt: trained on other rows of viri" in _line(capsys)
    assert open_bundle(out / "bundle").manifest.name == "viri-mine"


def test_a_set_split_by_its_owner_keeps_its_split_and_its_people(mine: Path) -> None:
    for split, person in (("train", "ann"), ("val", "bob"), ("test", "ann")):
        root = mine.parent / "data" / "paired" / split
        _noise(root, happy=2, sad=2)
        for folder in (root / lens / label for lens in ("visible", "infrared") for label in ("happy", "sad")):
            (folder / person).mkdir()
            for file in folder.glob("*.png"):
                file.rename(folder / person / file.name)
    about = rows.of(train.Job(mine, mine.parent, data="paired")).about
    assert about is not None
    assert about["people_trained_and_tested"] == 1
    assert about["protocol"].startswith("the set's own split, train / test, selection and temperature on val")


def test_a_set_whose_validation_and_test_are_exchanged_is_not_measured(
    mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The pictures that the threshold was chosen on do not say what it is worth."""
    root, job = (
        mine.parent / "data" / "paired",
        train.Job(mine, mine.parent / "runs" / "paired" / "mine", data="paired"),
    )
    for split, n in (("train", 8), ("val", 5), ("test", 5)):
        _noise(root / split, happy=n, sad=n)
    cv2.imwrite(str(root / "val" / "visible" / "sad" / "000.png"), np.zeros((48, 48), np.uint8))
    own = rows.of(job)
    report = {"training_data_sha256": own.part.train.fingerprint, "set": own.about}
    noted = {**report, "validation_data_sha256": own.watch.fingerprint}
    older, bundle = (_manifest(own, pack._data(x)) for x in (report, noted))
    rows.check_bundle(own, bundle, "bundle")
    for old, new in (("val", "was"), ("test", "val"), ("was", "test")):
        (root / old).rename(root / new)
    rows.check_bundle(rows.of(job), older, "bundle")
    with pytest.raises(InputError, match="bundle: its threshold was chosen on other pictures than the validation rows"):
        rows.check_bundle(rows.of(job), bundle, "bundle")
    job.out.mkdir(parents=True)
    (job.out / "quantisation.json").write_text(json.dumps(noted))
    assert _run("bundle", mine, "--data", "paired") == 66
    assert "quantisation.json: made of other pictures than are there now" in _line(capsys)


def _manifest(own: rows.Rows, trained_on: dict[str, str]) -> Manifest:
    m = open_bundle(DEFAULT).manifest
    training = m.training.model_copy(update={"data": trained_on})
    return m.model_copy(update={"labels": list(own.part.train.classes), "training": training})


def test_what_was_measured_on_its_own_set_does_not_hold_on_another(mine: Path) -> None:
    own, other = recipe.read(mine), recipe.read(mine, data="viri")
    assert own.template is not None
    assert (own.caveat, other.caveat, other.template) == ("Chosen after a look at PublicTest.", "", None)
    assert recipe.read(mine, data="fer2013") == own
    given = [[15.0, 18.0], [33.0, 18.0], [24.0, 28.0], [17.0, 35.0], [31.0, 35.0]]
    mine.write_text(f"{MINE}\n[on.viri]\ntemplate = {given}\n")
    assert recipe.read(mine, data="viri").template == [tuple(p) for p in given]


REFUSED = {
    "too few to choose by": ("viri", {"happy": 20, "sad": 20}, 66, "viri: 6 validation pictures.*need 10: add"),
    "one class": ("viri", {"happy": 20}, 66, "happiness is its only expression"),
    "a class without a picture": ("viri", {"happy": 60, "sad": 1}, 66, "no picture of sadness to train on"),
    "folds that were asked for": ("viri:person", {"happy": 20}, 64, "in folds.*no one network to pack.*--data viri$"),
}


@pytest.mark.parametrize("why", sorted(REFUSED))
def test_what_no_bundle_can_be_made_of_is_one_line(why: str, mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, count, code, said = REFUSED[why]
    _noise(mine.parent / "data" / "viri", **count)
    assert _run("quantize", mine, "--data", name) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(said, line), line


@pytest.mark.parametrize("verb", ["quantize", "evaluate"])
def test_a_set_that_comes_in_folds_says_what_to_do(verb: str, mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--bundle", str(DEFAULT)] if verb == "evaluate" else []
    assert _run(verb, mine, "--data", "ckplus", *more) == 64
    assert "ckplus is trained in folds" in (line := _line(capsys))
    assert line.endswith("train with --data paired, folders or thermal")


def test_a_set_without_a_visible_lens_makes_no_bundle_over_two(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its one picture stands in both places: a device's visible lens would show something never seen."""
    (mine.parent / "data" / "thermal").mkdir()
    for split in ("train", "val", "test"):
        _noise(mine.parent / split, happy=10, sad=10)
        (mine.parent / split / "infrared").rename(mine.parent / "data" / "thermal" / split)
    assert _run("quantize", mine, "--data", "thermal") == 64
    assert "the set thermal has no visible lens" in _line(capsys)
    mine.write_text(MINE.replace('"dual-resnet"', '"single"\nmodality = "infrared"'))
    assert rows.of(train.Job(mine, mine.parent, data="thermal")).watch.infrared is not None


def test_of_a_network_over_the_visible_lens_alone_nothing_is_simulated(mine: Path) -> None:
    """Nor has it seen a set's infrared pictures."""
    _noise(mine.parent / "data" / "viri", happy=20, sad=20)
    both = rows.of(train.Job(mine, mine.parent, data="viri"))
    mine.write_text(MINE.replace('"dual-resnet"', '"single"\nmodality = "visible"'))
    one = rows.of(train.Job(mine, mine.parent, data="viri"))
    assert both.about is not None
    assert one.about is not None
    assert both.about["infrared"] == "the set's own infrared pictures"
    assert one.about["infrared"] == "nothing, the network looks at the visible lens alone"
    faces = dataclasses.replace(one.part.train, infrared=None)
    assert lenses.simulated(faces, ("visible",)) == ""
    assert lenses.simulated(faces) == lenses.simulated(faces, ("infrared",)) == lenses.SIMULATED


def test_a_generator_is_not_packed(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine.write_text('name = "faces"\n[model]\nname = "wgan"\n')
    assert _run("quantize", mine) == 64
    assert "a generator of faces is no system" in _line(capsys)


def test_a_bundle_with_other_answers_is_not_measured(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _noise(mine.parent / "data" / "viri", happy=20, sad=20)
    assert _run("evaluate", mine, "--data", "viri", "--bundle", str(DEFAULT)) == 66
    assert "it answers anger, disgust" in (line := _line(capsys))
    assert line.endswith("viri has happiness, sadness; not measured")


def test_a_set_that_is_not_there_is_said_before_anything_is_trained(
    mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the recipe starts from may take a day."""
    further = mine.with_name("further.toml")
    further.write_text(f'{MINE.replace("mine", "further")}\n[start]\n"" = "mine"\n[data]\nname = "paired"\n')
    assert _run("train", further) == 66
    (line,) = capsys.readouterr().err.splitlines()
    assert "no paired found here or in paired/" in line


def test_a_network_of_fewer_classes_is_not_quantised(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _noise(mine.parent / "data" / "viri", happy=40, sad=40)
    plan = recipe.read(mine, data="viri")
    made = rows.of(train.Job(mine, mine.parent, data="viri")).part.train
    weights = mine.parent / "network.pt"
    other = checkpoint.finished(
        models.build(plan.model, 3), plan, ("anger", "fear", "neutral"), made.fingerprint, SPENT
    )
    checkpoint.write(weights, other)
    assert _run("quantize", mine, "--data", "viri", "--checkpoint", str(weights)) == 66
    assert "network.pt: trained on other rows of viri" in _line(capsys)


SPENT = {"epochs": 1}


@portraits
def test_a_name_that_no_bundle_can_bear_is_one_line(quantised: Path, recipe_file: Path, tmp_path: Path) -> None:
    plan = recipe.read(recipe_file).model_copy(update={"name": "My_System"})
    with pytest.raises(UsageError, match="recipe My_System: no bundle: 'name': String should match"):
        pack.pack(plan, quantised, tmp_path / "to", pack.Calibration(1.0, 0.3), lambda bundle: {})
    assert not (tmp_path / "to").exists()


def test_easy_pictures_leave_a_threshold_that_a_driver_can_reach() -> None:
    """Every one right and as sure as can be: "uncertain below 1" would silence the device for good."""
    labels = np.arange(12) % 2
    faces = Faces(np.zeros((12, 48, 48), np.uint8), labels, "", ("happiness", "sadness"))
    found = pack.calibrate(lambda inputs: 60 * np.eye(2, dtype=np.float32)[np.tile(labels, 3)], (), faces, 1)
    assert found == pack.Calibration(temperature=1.0, min_conf=0.9)


def test_a_class_that_is_not_tested_has_no_recall() -> None:
    found = evaluate.figures(np.eye(3, dtype=np.float32)[:2], np.array([0, 1]), 1.0, ["a", "b", "c"])
    assert found["recall"] == {"a": 1.0, "b": 1.0, "c": None}
    assert evaluate.share(found["recall"]["c"]) == "-"


@pytest.mark.parametrize("verb", ["quantize", "bundle", "evaluate", "template"])
def test_a_misspelt_set_is_said_before_its_folder_is_missed(
    verb: str, mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(verb, mine, "--data", "virii") == 64
    assert "did you mean 'viri'?" in _line(capsys)


def test_another_seed_does_not_pass_for_the_recipes_own(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _noise(mine.parent / "data" / "viri", angry=40, happy=40)
    seeded = ("--data", "viri", "--seed", "2")
    assert command.main(["train", str(mine), "--threads", "1", *seeded]) == 0, capsys.readouterr().err
    out = mine.parent / "runs" / "viri" / "seed-2" / "mine"
    assert _run("quantize", mine, "--data", "viri", "--out", str(out)) == 66
    assert "trained with seed 2, not 1" in _line(capsys)
