"""One recipe with several seeds: runs and results of their own, and the same rows and tests."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_samples import system

pytest.importorskip("torch", reason="needs the export extra")
for needed in ("onnx", "onnxscript", "onnxruntime", "matplotlib"):
    pytest.importorskip(needed, reason="needs the export and cpu extras")

from export import __main__ as command  # noqa: E402
from export import budget, checkpoint, compare, protocol, score, train  # noqa: E402
from export.errors import InputError  # noqa: E402
from export.report import files, material  # noqa: E402
from export.report.results import System  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("default")]
STEP = '[training]\nbatch = 8\nema = 0.0\nsteps = [{ name = "joined", sizes = [[16, 1]], lr = 0.05 }]\n'
ONE = 'name = "one"\ncrop = 16\n[model]\nname = "single"\nwidths = [4, 4, 4, 4]\n' + STEP
EARLY = (
    'name = "early"\ncrop = 16\n[model]\nname = "early-fusion"\nwidths = [4, 4, 4, 4]\n'
    '[start]\n"branches.visible.backbone" = "one"\n"branches.infrared.backbone" = "one"\n' + STEP
)
WGAN = """
name = "wgan"
[data]
name = "pairs"
[model]
name = "wgan"
"""


@pytest.fixture
def recipes(tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "recipes"
    folder.mkdir()
    (folder / "one.toml").write_text(ONE)
    (folder / "early.toml").write_text(EARLY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "RECIPES", folder)
    monkeypatch.setattr(command, "RESULTS", tmp_path / "results")
    return folder


def _job(recipes: Path, name: str, out: str = "", **more: Any) -> train.Job:
    return train.Job(recipes / f"{name}.toml", recipes.parent / "runs" / out / name, **more)


def _export(*words: object) -> int:
    return command.main([*map(str, words), "--threads", "1"])


def _seed_of(folder: Path) -> int:
    return int(checkpoint.read_state(folder / train.NETWORK)["recipe"]["seed"])


def test_another_seed_has_its_own_runs_and_result_and_the_report_their_mean(recipes: Path) -> None:
    """What it starts from is of that seed, too; trained on the same rows, tested on the same."""
    for seed in ((), ("--seed", 2)):
        assert _export("train", recipes / "early.toml", *seed) == 0
        assert _export("score", recipes / "early.toml", *seed, "--commit-results") == 0
    runs, into = recipes.parent / "runs", recipes.parent / "results" / "systems"
    assert {p.name: _seed_of(p) for p in (runs / "seed-2").iterdir()} == {"early": 2, "one": 2}
    assert [_seed_of(runs / name) for name in ("early", "one")] == [1, 1]
    own, other = (files.read_one(into / f"{name}.json", System) for name in ("early", "early-seed2"))
    assert (own.seed, own.key, other.seed, other.key) == (1, "early", 2, "early-seed2")
    assert (own.data_fingerprint, own.protocol) == (other.data_fingerprint, other.protocol)
    assert own.curve != other.curve
    (row,) = material.read(into.parent, recipes, recipes).systems
    assert row.seeds == {"1": own.headline.accuracy.value, "2": other.headline.accuracy.value}


def test_the_recipes_own_seed_given_is_none_given(recipes: Path) -> None:
    assert _export("train", recipes / "one.toml", "--seed", 1) == 0
    assert _export("score", recipes / "one.toml", "--seed", 1, "--commit-results") == 0
    assert [p.name for p in (recipes.parent / "runs").iterdir()] == ["one"]
    assert [p.name for p in (recipes.parent / "results" / "systems").iterdir()] == ["one.json"]


def test_the_tests_do_not_change_with_the_seed(recipes: Path, silent: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same weights under another seed: the same figures, in the simulated infrared and in the noise of the dark."""
    train.train(_job(recipes, "early"), silent)
    runs = recipes.parent / "runs"
    shutil.copytree(runs / "early", runs / "seed-2" / "early")
    state = checkpoint.read_state(runs / "early" / train.NETWORK)
    checkpoint.write(runs / "seed-2" / "early" / train.NETWORK, state | {"recipe": state["recipe"] | {"seed": 2}})
    shown: list[Any] = []
    kept = score.logits
    monkeypatch.setattr(score, "logits", lambda n, faces, *rest: (shown.append(faces), kept(n, faces, *rest))[1])
    own = score.score(_job(recipes, "early"), silent)
    other = score.score(_job(recipes, "early", "seed-2", seed=2), silent)
    assert (own.modes, own.clean, own.darkness) == (other.modes, other.clean, other.darkness)
    half = len(shown) // 2
    for a, b in zip(shown[:half], shown[half:], strict=True):
        assert np.array_equal(a.images, b.images)
        assert a.infrared is b.infrared is None or np.array_equal(a.infrared, b.infrared)


@pytest.mark.parametrize("folds", ["share", "person"])
def test_the_split_does_not_change_with_the_seed(recipes: Path, data_root: Path, folds: str) -> None:
    rng = np.random.default_rng(0)
    np.savez_compressed(
        data_root / "ckplus48.npz", images=rng.integers(0, 256, (60, 48, 48), np.uint8), labels=np.arange(60) // 3 % 7,
        subject=np.repeat([f"S{k:03}" for k in range(10)], 6), sequence=np.tile(np.repeat(["001", "002"], 3), 10),
        frame=np.tile(np.arange(1, 4), 20),
        classes=np.array(["anger", "contempt", "disgust", "fear", "happy", "sadness", "surprise"]),
    )  # fmt: skip
    file = recipes / "one.toml"
    file.write_text(ONE.replace("[model]", f'[data]\nname = "ckplus"\ntrain = "all"\nfolds = "{folds}"\n[model]'))
    cut = [
        [(p.train.fingerprint, p.test.fingerprint) for p in protocol.parts(_job(recipes, "one", seed=s).recipe, False)]
        for s in (None, 2, 77)
    ]
    assert cut[0] == cut[1] == cut[2]


def test_a_run_does_not_go_on_with_another_seed(recipes: Path, silent: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is one scored as of another; what the folder holds stays as it is, its plan in spite of another budget."""
    monkeypatch.setattr(budget, "_epoch_cost", lambda *_: 1.0)
    train.train(_job(recipes, "one", minutes=0.1), silent)
    files = {p: p.read_bytes() for p in (recipes.parent / "runs" / "one").iterdir()}
    assert budget.PLAN in {p.name for p in files}
    with pytest.raises(InputError, match=r"joined\.pt: begun with another seed; choose another --out or delete"):
        train.train(_job(recipes, "one", minutes=0.2, seed=2), silent)
    with pytest.raises(InputError, match=r"network\.pt: trained with seed 1, not 2; choose another --out or delete"):
        score.score(_job(recipes, "one", seed=2), silent)
    assert {p: p.read_bytes() for p in (recipes.parent / "runs" / "one").iterdir()} == files


def test_what_is_started_from_is_of_the_same_seed_or_refused(recipes: Path, silent: Any) -> None:
    train.train(_job(recipes, "one"), silent)
    with pytest.raises(InputError, match=r"one/network\.pt: trained with seed 1, not 2; choose another --out"):
        train.train(_job(recipes, "early", seed=2), silent)
    assert not (recipes.parent / "runs" / "early" / train.NETWORK).exists()


def test_the_page_trains_what_has_no_result_of_that_seed(recipes: Path, silent: Any) -> None:
    """A result of another seed is none of this one; timing all anew writes no mean into a file."""
    into = recipes.parent / "results" / "systems"
    files.write(system("one"), into)
    files.write(system("early"), into)
    compare.missing(recipes, into, False, None, silent, seed=2)
    assert sorted(p.stem for p in into.iterdir()) == ["early", "early-seed2", "one", "one-seed2"]
    assert sorted(p.name for p in (recipes.parent / "runs").iterdir()) == ["seed-2"]
    other = (into / "one-seed2.json").read_bytes()
    compare.time_all(recipes, into, silent)
    assert (into / "one-seed2.json").read_bytes() == other
    assert files.read_one(into / "one.json", System).seeds == {}


def test_a_generator_of_another_seed_is_not_trained_already(recipes: Path, silent: Any) -> None:
    (recipes / "wgan.toml").write_text(WGAN.replace('[data]\nname = "pairs"\n', ""))
    job = _job(recipes, "wgan", seed=2)
    job.out.mkdir(parents=True)
    state = {"network": {}, "recipe": {"seed": 1}, "labels": [], "data": "", "spent": {}}
    checkpoint.write(job.out / train.NETWORK, state)
    with pytest.raises(InputError, match=r"wgan/network\.pt: trained with seed 1, not 2"):
        train.train(job, silent)


@pytest.mark.parametrize("wrong", ["-1", "1.5", "one", "4294967296"])
@pytest.mark.parametrize("verb", ["train", "score", "report"])
def test_a_seed_that_is_none_is_refused(verb: str, wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        command.main([verb, *(["x.toml"] if verb != "report" else []), "--seed", wrong])
    assert left.value.code == 64
    assert "argument --seed: must be a whole number from 0 to 4294967295" in (said := capsys.readouterr().err)
    assert said.count("\n") == 1


def test_a_seed_where_there_is_none_to_choose_is_refused(recipes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _export("report", "--seed", 0) == 64
    assert "--seed say how to train: give --train with them" in capsys.readouterr().err
    (recipes / "wgan.toml").write_text(WGAN)
    assert _export("score", recipes / "wgan.toml", "--seed", 2, "--commit-results") == 64
    assert "--seed: the fusion table holds one generator" in capsys.readouterr().err
