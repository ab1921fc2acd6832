"""From a recipe to a results file: starts from other recipes, budgets, folds by person, late fusion, scoring."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the export extra")
for needed in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(needed, reason="needs the export and cpu extras")

from export import __main__ as command  # noqa: E402
from export import budget, checkpoint, compare, models, protocol, recipe, score, train, trainer  # noqa: E402
from export.data import augment, fer2013  # noqa: E402
from export.data.faces import Faces  # noqa: E402
from export.errors import InputError, RecipeError, UsageError  # noqa: E402
from export.models import naseem  # noqa: E402
from export.report import files, results  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("default")]
SINGLE = """
name = "{name}"
crop = 16
family = "{modality}"
[model]
name = "single"
modality = "{modality}"
widths = [8, 8, 8, 8]
[training]
batch = 8
ema = 0.5
steps = [{{ name = "joined", sizes = [[16, 1]], lr = 0.05 }}]
"""
LATE = """
name = "late"
crop = 16
family = "late"
[model]
name = "late-fusion"
widths = [8, 8, 8, 8]
[start]
"singles.visible" = "one"
"singles.infrared" = "two"
"""
EARLY = """
name = "early"
crop = 16
[model]
name = "early-fusion"
widths = [8, 8, 8, 8]
frozen = true
[start]
"branches.visible" = "one"
"branches.infrared.backbone" = "one"
[training]
batch = 8
ema = 0.0
steps = [{ name = "joined", sizes = [[16, 1]], lr = 0.05 }]
"""


@pytest.fixture
def recipes(tmp_path: Path, data_root: Path) -> Path:
    folder = tmp_path / "recipes"
    folder.mkdir()
    (folder / "one.toml").write_text(SINGLE.format(name="one", modality="visible"))
    (folder / "two.toml").write_text(SINGLE.format(name="two", modality="infrared"))
    (folder / "late.toml").write_text(LATE)
    (folder / "early.toml").write_text(EARLY)
    return folder


def _job(recipes: Path, name: str, **more: Any) -> train.Job:
    return train.Job(recipes / f"{name}.toml", recipes.parent / "runs" / name, **more)


def test_a_late_fusion_trains_what_it_starts_from_and_is_scored(recipes: Path) -> None:
    said: list[str] = []
    (path,) = train.train(_job(recipes, "late"), said.append)
    assert any(line.startswith("late: late fusion weights visible ") for line in said)
    runs = recipes.parent / "runs"
    one = torch.load(runs / "one" / train.NETWORK, weights_only=False)["network"]
    late = torch.load(path, weights_only=False)["network"]
    assert all(torch.equal(late[f"singles.visible.{k}"], v) for k, v in one.items())
    found = score.score(_job(recipes, "late"), said.append)
    assert list(found.modes) == ["visible+infrared"]
    assert found.modes["visible+infrared"].images == 12
    assert found.clean["visible+infrared"].images == 11
    assert len(found.darkness) == 7
    assert found.extra["weight of visible"] + found.extra["weight of infrared"] == pytest.approx(1)
    assert "simulation" in found.simulated
    again = files.read_one(files.write(found, runs), results.System)
    assert again == found


def test_frozen_backbones_stay_what_they_were_given(recipes: Path, silent: Any) -> None:
    (path,) = train.train(_job(recipes, "early"), silent)
    one = torch.load(recipes.parent / "runs" / "one" / train.NETWORK, weights_only=False)["network"]
    early = torch.load(path, weights_only=False)["network"]
    for k, v in one.items():
        if k.startswith("modal.backbone."):
            own = k.removeprefix("modal.backbone.")
            assert torch.equal(early[f"branches.visible.backbone.{own}"], v)
            assert torch.equal(early[f"branches.infrared.backbone.{own}"], v)
    assert not torch.equal(early["branches.visible.neck.1.weight"], one["modal.neck.1.weight"])


def test_the_infrared_lens_keeps_its_light_in_the_dark(
    recipes: Path, silent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the visible lens sees, the simulation is of the picture in good light."""
    train.train(_job(recipes, "early"), silent)
    shown: list[Any] = []
    kept = score.logits
    monkeypatch.setattr(score, "logits", lambda n, faces, *rest: (shown.append(faces), kept(n, faces, *rest))[1])
    found = score.score(_job(recipes, "early"), silent)
    dark = [x for x in shown if x.images.mean() < 30]
    light = augment.simulated_infrared(fer2013.load("private").images, 1)
    assert len(dark) >= 4
    assert all(np.array_equal(x.infrared, light) for x in dark)
    assert [x.gain for x in found.darkness] == sorted((x.gain for x in found.darkness), reverse=True)


@pytest.mark.parametrize("framed", [0.5, 0.0])
def test_framed_views_do_not_go_on_with_another_template(framed: float, tmp_path: Path) -> None:
    """It is no part of a training whose views are not framed."""
    plan = recipe.Recipe(name="t", model=recipe.Model(name="shared-trunk"), augment=recipe.Augment(framed=framed))
    state = dict.fromkeys(("epoch", "model", "average", "optimiser", "cpu"), 0) | {"data": "seen"}
    torch.save({**state, "recipe": plan.model_dump(mode="json")}, tmp_path / "joined.pt")
    faces = Faces(np.zeros((1, 8, 8), np.uint8), np.zeros(1, np.int64), "seen", ("happiness",))
    assert trainer.begun(tmp_path / "joined.pt", plan, faces) is not None
    moved = plan.model_copy(update={"template": [(1.0, 2.0)] * 5})
    if not framed:
        assert trainer.begun(tmp_path / "joined.pt", moved, faces) is not None
        return
    with pytest.raises(InputError, match="begun with another template"):
        trainer.begun(tmp_path / "joined.pt", moved, faces)


def test_a_training_does_not_go_on_as_another(recipes: Path, data_root: Path, silent: Any) -> None:
    job = _job(recipes, "one")
    train.train(job, silent)
    (job.out / train.NETWORK).unlink()
    text = job.file.read_text()
    job.file.write_text(text.replace("batch = 8", "batch = 4"))
    with pytest.raises(InputError, match=r"joined\.pt: begun with another training; choose another --out"):
        train.train(job, silent)
    job.file.write_text(text)
    with np.load(data_root / "fer2013.npz") as z:
        arrays = {k: z[k] for k in z}
    arrays["labels"][5] ^= 1
    np.savez(data_root / "fer2013.npz", **arrays)
    with pytest.raises(InputError, match="begun with another data"):
        train.train(job, silent)
    (job.out / "joined.pt").write_bytes(b"PK\x03\x04")
    with pytest.raises(InputError, match=r"joined\.pt: not a checkpoint of this stage"):
        train.train(job, silent)


def test_of_two_equal_branches_that_of_the_own_lens_is_taken(tmp_path: Path) -> None:
    torch.manual_seed(0)
    dual = models.build(recipe.Model(name="dual-resnet", widths=[8, 8, 8, 8]), 7)
    plan = recipe.Recipe(name="dual", model=recipe.Model(name="dual-resnet", widths=[8, 8, 8, 8]))
    checkpoint.write(tmp_path / "n.pt", checkpoint.finished(dual, plan, ("a",), "", {"epochs": 1}))
    for lens in ("visible", "infrared"):
        single = models.build(recipe.Model(name="single", modality=lens, attention=True, widths=[8, 8, 8, 8]), 7)
        checkpoint.start(single, "modal.backbone", tmp_path / "n.pt")
        checkpoint.start(single, "modal.gate", tmp_path / "n.pt")
        branch = getattr(dual, lens)
        assert torch.equal(single.modal.backbone.conv1.weight, branch.conv1.weight)
        assert torch.equal(single.modal.gate.fc.weight, branch.gate.fc.weight)


def test_a_part_that_is_not_there_is_named(recipes: Path, silent: Any) -> None:
    file = recipes / "early.toml"
    file.write_text(file.read_text().replace("branches.visible", "branchs.visible"))
    with pytest.raises(RecipeError, match=r"'start\.branchs\.visible': the network has no such part; .*branches"):
        train.train(_job(recipes, "early"), silent)


def test_a_discriminant_space_is_not_inherited() -> None:
    network = models.build(recipe.Model(name="singh", width=0.125, side=32), 7)
    network.projection.zero_()
    network.middle.fill_(3.0)
    network.begin("joined")
    assert torch.equal(network.projection, torch.eye(len(network.projection)))
    assert not network.middle.any()


def test_a_network_of_other_rows_is_not_scored(recipes: Path, data_root: Path, silent: Any) -> None:
    train.train(_job(recipes, "one"), silent)
    _ckplus(data_root)
    out = recipes.parent / "runs" / "one"
    other = recipe.Data(name="ckplus", train="all", folds="person", count=3)
    folds = recipe.read(recipes / "one.toml").model_copy(update={"data": other})
    part = next(protocol.parts(folds, temporal=False))
    with pytest.raises(InputError, match="trained on other data than ckplus fold-1"):
        score._finished(out / train.NETWORK, folds, part)
    state = torch.load(out / train.NETWORK, weights_only=False)
    del state["spent"]["machine"]
    torch.save(state, out / train.NETWORK)
    with pytest.raises(InputError, match="does not say how it was trained"):
        score.score(_job(recipes, "one"), silent)


def test_a_budget_scales_the_epochs_and_is_kept(recipes: Path, silent: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Timed once: whoever goes on does so with the plan that was begun."""
    costs = iter([2.0])
    monkeypatch.setattr(budget, "_epoch_cost", lambda *_: next(costs))
    job = _job(recipes, "one", minutes=0.1)
    train.train(job, silent)
    (job.out / train.NETWORK).unlink()
    train.train(job, silent)
    state = torch.load(job.out / train.NETWORK, weights_only=False)
    assert state["epoch"] == 3
    assert state["spent"]["budget"] == 0.1
    assert state["spent"]["cpu"] > 0


def test_the_cost_of_an_epoch_leaves_the_weights_alone(recipes: Path, data_root: Path, silent: Any) -> None:
    job = _job(recipes, "one")
    network = models.build(job.recipe.model, 7)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    faces = fer2013.load("train")
    job.out.mkdir(parents=True)
    (step,) = job.recipe.training.steps
    assert budget._epoch_cost(step, 16, job.recipe, network, faces, job.out) > 0
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert not list(job.out.iterdir())


def test_what_else_runs_on_the_machine_costs_a_system_no_epochs(
    recipes: Path, data_root: Path, silent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = _job(recipes, "one")
    faces = fer2013.load("train")
    seconds = itertools.accumulate(itertools.cycle((7.0, 90.0, 8.0)))
    monkeypatch.setattr("export.trainer.cpu_seconds", lambda: next(seconds))
    (step,) = job.recipe.training.steps
    recipe = job.recipe.model_copy(update={"training": job.recipe.training.model_copy(update={"batch": 4})})
    cost = budget._epoch_cost(step, 16, recipe, models.build(recipe.model, 7), faces, job.out)
    assert cost == 7.0 * (len(faces) // 4)


def test_what_is_made_of_trained_parts_has_half_the_budget_and_folds_none(recipes: Path) -> None:
    one, early = _job(recipes, "one").recipe, _job(recipes, "early").recipe
    assert (budget.allowed(4.0, one), budget.allowed(4.0, early)) == (4.0, 2.0)
    folds = one.model_copy(update={"data": recipe.Data(name="ckplus", train="all", folds="person")})
    assert budget.allowed(4.0, folds) is None


def test_within_a_budget_no_size_is_left_out() -> None:
    steps = [recipe.Step(sizes=[(32, 4), (48, 1)], lr=0.1)]
    cost = {("joined", 32): 10.0, ("joined", 48): 20.0}
    assert budget.within(steps, cost, 120)[0].sizes == [(32, 8), (48, 2)]
    assert budget.within(steps, cost, 30)[0].sizes == [(32, 1), (48, 1)]
    for seconds in (30, 45, 100, 1000):
        planned = budget.within(steps, cost, seconds)[0].sizes
        assert sum(cost["joined", side] * n for side, n in planned) <= 1.1 * seconds
    with pytest.raises(UsageError, match=r"--cpu-minutes 0\.05: one epoch of each size takes 0\.5 minutes here"):
        budget.within(steps, cost, 3)


def test_a_start_that_does_not_fit_is_named(recipes: Path, silent: Any) -> None:
    file = recipes / "early.toml"
    file.write_text(file.read_text().replace("widths = [8, 8, 8, 8]", "widths = [16, 16, 16, 16]"))
    with pytest.raises(InputError, match=r"network\.pt: nothing in it fits 'branches\.visible'"):
        train.train(_job(recipes, "early"), silent)


def _ckplus(root: Path) -> None:
    """Six people with two sequences of three frames each."""
    rng = np.random.default_rng(0)
    n = 36
    arrays = {
        "images": rng.integers(0, 256, (n, 48, 48), np.uint8), "labels": (np.arange(n) // 3 % 7).astype(np.uint8),
        "subject": np.repeat([f"S{k:03}" for k in range(6)], 6), "sequence": np.tile(np.repeat(["001", "002"], 3), 6),
        "frame": np.tile(np.arange(1, 4, dtype=np.int32), 12),
        "classes": np.array(["anger", "contempt", "disgust", "fear", "happy", "sadness", "surprise"]),
    }  # fmt: skip
    np.savez_compressed(root / "ckplus48.npz", **arrays)


FOLDS = '[data]\nname = "ckplus"\ntrain = "all"\nfolds = "person"\ncount = 3\n'


def test_folds_keep_people_apart_and_test_everybody_once(recipes: Path, data_root: Path, silent: Any) -> None:
    _ckplus(data_root)
    file = recipes / "one.toml"
    file.write_text(file.read_text().replace("[model]", FOLDS + "[model]"))
    job = _job(recipes, "one")
    for part in protocol.parts(job.recipe, temporal=False):
        assert not set(part.train.person) & set(part.test.person)
    assert len(train.train(job, silent)) == 3
    found = score.score(job, silent)
    assert sum(f.images for f in found.folds) == found.headline.images == 36
    assert found.training.images_seen > 0
    assert not found.darkness


def test_a_result_of_another_set_stands_beside_that_of_the_recipes_own(
    recipes: Path, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silent: Any
) -> None:
    _viri(data_root)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(command, "RECIPES", recipes)
    for on in (["--data", "fer2013"], ["--data", "viri"]):  # the first is the recipe's own
        for verb, more in (("train", []), ("score", ["--commit-results"])):
            assert command.main([verb, str(recipes / "one.toml"), *on, *more, "--threads", "1"]) == 0
    assert (tmp_path / "runs" / "one" / "network.pt").is_file()
    own, other = files.read_systems(tmp_path / "results" / "systems")
    assert (own.key, own.dataset, own.headline.images) == ("one", "FER2013", 12)
    assert (other.key, other.dataset) == ("one-on-viri", "VIRI")
    assert command.main(["report", "--latency", "--threads", "1", "--out", str(tmp_path / "page")]) == 0
    page = (tmp_path / "page" / "report.md").read_text()
    assert "`one`" in page
    assert "`one-on-viri`" in page
    network = compare.trained(recipes, other)  # of its activation maps: that of the other set
    assert network is not None
    assert list(network.state_dict().values())[-1].shape == (len(other.labels),) != (len(own.labels),)


def test_temporal_networks_are_tested_on_whole_sequences(data_root: Path) -> None:
    _ckplus(data_root)
    plan = recipe.Recipe.model_validate(
        {
            "name": "t",
            "model": {"name": "singh"},
            "data": {"name": "ckplus", "train": "all", "folds": "person", "count": 3},
        }
    )
    rows = [len(protocol.whole(p.test)) for p in protocol.parts(plan, temporal=True)]
    assert sum(rows) == 12
    assert all(p.train.sequence is not None for p in protocol.parts(plan, temporal=True))


def test_folds_need_people(recipes: Path) -> None:
    file = recipes / "one.toml"
    file.write_text(file.read_text().replace("[model]", '[data]\nfolds = "person"\n[model]'))
    with pytest.raises(RecipeError, match=r"'data\.folds': the set fer2013 does not say"):
        list(protocol.parts(recipe.read(file), temporal=False))


def test_one_command_trains_scores_and_draws(
    recipes: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What cannot run here is named, has a row, and does not stop the others."""
    other = EARLY.replace('"early"', '"vgg"').replace("frozen = true", 'backbone = "nonesuch"')
    (recipes / "vgg.toml").write_text(other)
    for name, value in (("RECIPES", recipes), ("RESULTS", tmp_path / "results")):
        monkeypatch.setattr(command, name, value)
    monkeypatch.setattr(compare, "RUNS", tmp_path / "runs")
    (tmp_path / "results" / "systems").mkdir(parents=True)
    assert command.main(["report", "--train", "--threads", "1", "--out", str(tmp_path / "page")]) == 0
    assert "vgg: passed over: [model] backbone = 'nonesuch'" in capsys.readouterr().err
    page = (tmp_path / "page" / "report.md").read_text()
    before = {s.key: s for s in files.read_systems(tmp_path / "results" / "systems")}
    shutil.rmtree(tmp_path / "runs")  # the time rests on the network, not on its weights
    assert command.main(["report", "--latency", "--threads", "1", "--out", str(tmp_path / "page")]) == 0
    after = {s.key: s for s in files.read_systems(tmp_path / "results" / "systems")}
    assert all(after[k].latency_ms != s.latency_ms and after[k].modes == s.modes for k, s in before.items())
    assert {p.stem for p in (tmp_path / "results" / "systems").glob("*.json")} == {"one", "two", "early", "late"}
    assert "not trained yet" in page


def test_msx_of_the_camera_is_taken_where_a_set_has_it(recipes: Path, data_root: Path) -> None:
    """In the infrared lens's place, and nothing is derived; a set without it is refused."""
    _viri(data_root)
    file = recipes / "two.toml"
    file.write_text(
        file.read_text().replace('modality = "infrared"\nwidths', 'modality = "msx"\nmsx_is_lens = true\nwidths')
    )
    plan = _job(recipes, "two", data="viri").recipe
    network = models.build(plan.model, 5)
    assert isinstance(network, naseem.SingleModality)
    assert network.uses == ("infrared",)
    assert network.modal.msx is None
    (part,) = protocol.parts(plan, temporal=False)
    assert part.test.msx is not None
    assert np.array_equal(part.test.infrared, part.test.msx)
    with pytest.raises(RecipeError, match="no MSX pictures in fer2013"):
        list(protocol.parts(_job(recipes, "two").recipe, temporal=False))


@pytest.mark.parametrize("name", ["msx", "late-vm", "early-vm-1step", "early-vm-3step"])
def test_the_papers_msx_systems_take_viris_own(name: str) -> None:
    plan = recipe.read(Path(recipe.__file__).parent / f"recipes/naseem2024-{name}.toml", reduced=True, data="viri")
    network = models.build(plan.model, 5)
    assert not [m for m in network.modules() if isinstance(m, naseem.Msx)]
    alone = name == "msx"
    assert network.needs == (("infrared",) if alone else ("visible", "infrared"))


def test_one_input_cannot_be_two_pictures() -> None:
    options = {"name": "early-fusion", "modalities": ["visible", "infrared", "msx"], "msx_is_lens": True}
    with pytest.raises(RecipeError, match=r"model\.modalities.*take infrared out, or msx_is_lens"):
        models.build(recipe.Model.model_validate(options), 5)


def test_a_torn_network_file_is_one_line(recipes: Path) -> None:
    job = _job(recipes, "one")
    job.out.mkdir(parents=True)
    (job.out / train.NETWORK).write_bytes(b"PK\x03\x04")
    with pytest.raises(InputError, match=r"network\.pt: not a checkpoint"):
        checkpoint.load(job.out / train.NETWORK, job.recipe)


def _viri(root: Path) -> None:
    """The layout of VIRI: a folder per modality and expression, pairs by file name."""
    rng = np.random.default_rng(1)
    for lens in ("visible", "infrared", "msx"):
        for label in ("angry", "happy", "neutral", "sad", "surprised"):
            folder = root / "viri" / lens / label
            folder.mkdir(parents=True)
            for k in range(8):
                cv2.imwrite(str(folder / f"{k:03}.jpg"), rng.integers(0, 256, (50, 50), np.uint8))


def test_the_papers_fusion_runs_on_a_folder_in_viri_layout(
    recipes: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """3-step training on real pairs: nothing is simulated, the classes are the folder's five."""
    _viri(data_root)
    (data_root / "viri" / "infrared" / "sad" / "003.jpg").unlink()
    monkeypatch.chdir(recipes.parent)
    file = recipes / "early.toml"
    file.write_text(file.read_text().replace("frozen = true\n", ""))
    assert command.main(["train", str(file), "--data", "viri", "--threads", "1"]) == 0
    assert command.main(["score", str(file), "--data", "viri", "--threads", "1"]) == 0
    found = files.read_one(recipes.parent / "runs" / "viri" / "early" / "early-on-viri.json", results.System)
    assert found.labels == ("anger", "happiness", "sadness", "surprise", "neutral")
    assert found.simulated == ""
    assert found.headline.images == 5 * 2
    unused = (recipes.parent / "runs" / "viri" / "early" / "not-used.txt").read_text()
    assert "003.jpg" in unused
    assert "files not used, listed in" in capsys.readouterr().err
    assert "VIRI" in found.dataset


def test_an_unknown_set_is_named(recipes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["train", str(recipes / "one.toml"), "--data", "virri", "--threads", "1"]) == 64
    assert "did you mean 'viri'?" in capsys.readouterr().err
