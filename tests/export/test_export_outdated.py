"""What a result says of its training, and what is said of one that is not of today's recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from report_samples import system

pytest.importorskip("torch", reason="needs the export extra")
for needed in ("onnx", "onnxscript", "onnxruntime", "matplotlib"):
    pytest.importorskip(needed, reason="needs the export and cpu extras")

from export import budget, checkpoint, compare, models, provenance, recipe, score, train  # noqa: E402
from export.report import cells, files, outdated, results, write_report  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("default")]
ONE = """
name = "one"
crop = 16
family = "visible"
[model]
name = "single"
widths = [8, 8, 8, 8]
[augment]
zoom = 0.1
[training]
batch = 8
ema = 0.5
steps = [{ name = "joined", sizes = [[12, 1], [16, 1]], lr = 0.05 }]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    folder = tmp_path / "recipes"
    folder.mkdir()
    (folder / "one.toml").write_text(ONE)
    return folder / "one.toml"


def _then(file: Path, **changes: Any) -> results.Trained:
    now = recipe.read(file).model_dump(mode="json", include=set(outdated.PARTS))
    return results.Trained(**{**now, "planned": {"joined": ((12, 1), (16, 1))}, **changes})


def _change(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_a_result_says_what_was_trained_and_not_what_the_recipe_says_by_now(
    file: Path, data_root: Path, silent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The budget's epochs, not the recipe's two; views of the training, though the file has been changed since."""
    monkeypatch.setattr(budget, "_epoch_cost", lambda *_: 1.0)
    job = train.Job(file, file.parent.parent / "runs" / "one", minutes=0.1)
    train.train(job, silent)
    _change(file, "zoom = 0.1", "zoom = 0.3")
    found = score.score(job, silent)
    assert found.trained is not None
    assert found.trained.augment["zoom"] == 0.1
    assert found.trained.planned == {"joined": ((12, 3), (16, 3))}
    assert found.training.budget_minutes == 0.1
    assert outdated.changed(found.trained, recipe.read(file)) == "with other views than the recipe's of today"
    assert files.read_one(files.write(found, file.parent), results.System) == found
    (job.out / budget.PLAN).write_text("{")
    assert provenance.trained(job.out).planned == {}, "nobody can tell how many epochs the budget paid for"


def test_a_result_notes_what_its_parts_cost_though_they_have_none(file: Path) -> None:
    """Through another recipe too; of weights of others and of what is gone nobody can tell."""
    runs, folder = file.parent.parent / "runs", file.parent
    begun = {"one": {}, "two": {"modal": "one"}, "three": {"modal": "two", "fc": "gone", "modal.gate": "x.pth"}}
    for name, start in begun.items():
        plan = recipe.read(file).model_copy(update={"name": name, "start": start})
        (folder / f"{name}.toml").write_text(ONE.replace('"one"', f'"{name}"').replace("[augment]", _toml(start)))
        made = models.build(plan.model, 7)
        (runs / name).mkdir(parents=True)
        kept = checkpoint.finished(made, plan, (), "", {"epochs": 1, "cpu": 60.0 * len(name)})
        checkpoint.write(runs / name / train.NETWORK, kept)
    job = train.Job(folder / "three.toml", runs / "three")
    assert provenance.parts(job, list(begun["three"].values())) == {"two": 3.0, "one": 3.0, "gone": None, "x.pth": None}
    assert provenance.parts(job.beside("one"), []) == {}
    (runs / "two" / train.NETWORK).write_bytes(b"torn")
    assert provenance.parts(job, list(begun["three"].values()))["two"] is None


def _toml(start: dict[str, str]) -> str:
    return "[start]\n" + "\n".join(f'"{k}" = "{v}"' for k, v in start.items()) + "\n[augment]"


def test_what_has_changed_since_is_named(file: Path) -> None:
    then = _then(file)
    assert outdated.changed(then, recipe.read(file)) == ""
    _change(file, "lr = 0.05", "lr = 0.01")
    _change(file, "zoom = 0.1", "zoom = 0.2")
    said = "with other views and another schedule than the recipe's of today"
    assert outdated.changed(then, recipe.read(file)) == said
    _change(file, "widths = [8,", "widths = [16,")
    assert "another network" in outdated.changed(then, recipe.read(file))


def test_keys_that_came_since_are_at_their_defaults_and_gone_ones_differ(file: Path) -> None:
    older = _then(file)
    older.augment.pop("misregistered")
    assert outdated.changed(older, recipe.read(file)) == ""
    other = _then(file)
    other.augment["blur"] = 0.5
    assert "other views" in outdated.changed(other, recipe.read(file))


def test_an_outdated_result_is_named_and_left_alone(file: Path, tmp_path: Path) -> None:
    """Nothing is trained: there are no data here. Of an older result nobody can tell."""
    into = tmp_path / "results" / "systems"
    files.write(system("one", trained=_then(file).model_dump()), into)
    said: list[str] = []
    compare.missing(file.parent, into, False, None, said.append)
    assert said == []
    _change(file, "zoom = 0.1", "zoom = 0.3")
    files.write(system("older"), into)
    compare.missing(file.parent, into, False, None, said.append)
    assert said == [
        "1 results do not say what they were trained with: older",
        "one: its result was trained with other views than the recipe's of today; to have it made anew, "
        "delete systems/one.json and runs/one",
    ]


def test_the_page_marks_the_row(file: Path, tmp_path: Path) -> None:
    files.write(system("one", trained=_then(file).model_dump()), tmp_path / "results" / "systems")
    files.write(system("older"), tmp_path / "results" / "systems")
    _change(file, "zoom = 0.1", "zoom = 0.3")
    write_report(tmp_path / "results", file.parent, tmp_path / "out", lambda line: None)
    rows = [line for line in (tmp_path / "out" / "report.md").read_text().splitlines() if line.startswith("| ")]
    mine = [r for r in rows if "`one` |" in r and "trained with other views than the recipe's of today" in r]
    assert len(mine) == 2, "in the table of all systems and in that of how it was measured"
    assert "| 40.0 | rotation\\_deg 12, zoom 0.1, shift 0.07," in mine[1]
    assert "sgd, cosine, batch 8; joined: 1 epoch at 12 px, 1 epoch at 16 px" in mine[1]
    assert sum(cells.UNTOLD in r for r in rows if "`older` |" in r) == 1
    assert "Of 1 results nobody noted" in (tmp_path / "out" / "report.md").read_text()
