"""What the report makes of several seeds of one recipe: their mean where nothing else differs, and what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib", reason="the report's figures")
from report_samples import estimate, mode, system

from export.report import bars, cells, files, material, seeds, write_report
from export.report.results import System

TRAINED = {"model": {"name": "pyconv-se"}, "augment": {"zoom": 0.1}, "training": {}}


def _of(seed: int, accuracy: float, dark: float = 0.4, **changes: Any) -> System:
    """A result with that seed; the recipe's own is 1."""
    light = ({"gain": 1.0, "accuracy": accuracy}, {"gain": 0.1, "accuracy": dark})
    base = {"trained": TRAINED, "darkness": light, "modes": {"visible": {**mode(), "accuracy": estimate(accuracy)}}}
    return system(**{"seed": seed, "repeat": seed != 1, **base, **changes})


def test_the_mean_of_two_seeds_has_their_range_and_of_more_their_deviation() -> None:
    for others, said in (
        ([], "66.0 [64.0, 68.0]"), ([0.64], "65.0 (64.0 to 66.0), 2 seeds"), ([0.64, 0.68], "66.0 ± 2.0, 3 seeds"),
    ):  # fmt: skip
        (row,), _ = seeds.gathered([_of(1, 0.66), *(_of(k, a) for k, a in enumerate(others, start=2))])
        assert cells.accuracy(row) == said
    assert row.darkness[0].accuracy == pytest.approx(0.66)
    assert row.headline.accuracy.value == 0.66


def test_seeds_on_another_set_have_a_mean_of_their_own() -> None:
    there = {"on": "viri", "dataset": "VIRI"}
    rows, repeats = seeds.gathered([_of(1, 0.66), _of(1, 0.80, **there), _of(2, 0.84, **there)])
    assert [(s.key, s.seeds) for s in rows] == [
        ("zou2021-pyconv", {}), ("zou2021-pyconv-on-viri", {"1": 0.80, "2": 0.84})
    ]  # fmt: skip
    assert [(r.system.key, r.why) for r in repeats] == [("zou2021-pyconv-on-viri-seed2", "")]


def _with_trained(**changes: Any) -> dict[str, Any]:
    return {"trained": {**TRAINED, **changes}}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"data_fingerprint": "cd" * 32}, "of other data or another protocol"),
        ({"protocol": "70/15/15"}, "of other data or another protocol"),
        ({"darkness": [{"gain": 1.0, "accuracy": 0.6}]}, "measured in other steps of the light"),
        ({"training": {**system().training.model_dump(), "budget_minutes": 4.0}},
         "trained within 4 CPU minutes, its recipe's own seed within 40 CPU minutes"),
        ({"training": {**system().training.model_dump(), "budget_minutes": None}}, "trained without a budget"),
        ({"training": {**system().training.model_dump(), "precision": "float32"}},
         "trained in float32, its recipe's own seed in bfloat16"),
        ({"trained": None}, "nobody noted what it or its recipe's own seed was trained with"),
        (_with_trained(augment={"zoom": 0.3}), "trained with other views than its recipe's own seed"),
        (_with_trained(training={"batch": 9}, model={"name": "single"}), "another schedule and another network than"),
        ({"seed": 1, "repeat": True}, "its recipe's own result is of the same seed"),
        ({"variant": "reduced"}, "its recipe's own seed has no result"),
        ({"recipe": "other"}, "its recipe's own seed has no result"),
    ],
)  # fmt: skip
def test_what_was_made_otherwise_is_in_no_mean(changes: dict[str, Any], why: str) -> None:
    (row,), (left,) = seeds.gathered([_of(1, 0.66), _of(**{"seed": 2, "accuracy": 0.64, **changes})])
    assert why in left.why
    assert row == _of(1, 0.66)


def test_views_that_have_been_added_since_are_at_their_defaults() -> None:
    own = _of(1, 0.66, **_with_trained(augment={"zoom": 0.1, "black": 0.0}))
    (row,), _ = seeds.gathered([own, _of(2, 0.64)])
    assert len(row.seeds) == 2


def _begun(recipe: str, name: str, seed: int, **training: Any) -> System:
    """A result that begins with the network of another recipe."""
    return _of(
        seed, 0.6, recipe=recipe, training={**system().training.model_dump(), "starts_from": (name,), **training}
    )


NEW = _with_trained(augment={"zoom": 0.3})


@pytest.mark.parametrize(
    ("parents", "why"),
    [
        ([_of(1, 0.6, recipe="eye"), _of(2, 0.6, recipe="eye")], ""),
        ([_of(1, 0.6, recipe="eye"), _of(2, 0.6, recipe="eye", **NEW)],
         "eye-seed2, which it begins with, is apart: trained with other views than its recipe's own seed"),
        ([_of(1, 0.6, recipe="eye"), _of(3, 0.6, recipe="eye")], "eye-seed2, which it begins with, has no result"),
        ([_of(2, 0.6, recipe="eye", repeat=False)], ""),
        ([], ""),
    ],
)  # fmt: skip
def test_what_begins_with_networks_trained_otherwise_is_in_no_mean(parents: list[System], why: str) -> None:
    """Directly or through another, which may have no result of its own."""
    both = [_begun("both", "eye", 1), _begun("both", "eye", 2)]
    all_three = [_begun("all", "both", 1), _begun("all", "both", 2)]
    lone = [_begun("lone", "blend", k, parts={"blend": 1.0, "eye": 1.0}) for k in (1, 2)]
    rows, repeats = seeds.gathered([*all_three, *both, *lone, *parents])
    for name in ("all", "both", "lone"):
        (said,) = (r.why for r in repeats if r.system.recipe == name)
        assert said.startswith(why) if why else not said
        (row,) = (s for s in rows if s.recipe == name)
        assert bool(row.seeds) is not bool(why)


def test_what_is_taught_by_networks_trained_otherwise_is_in_no_mean() -> None:
    taught = _with_trained(distil={"teachers": ["eye"], "share": 0.7})
    found = [_of(k, 0.6, **more) for k in (1, 2) for more in (taught, {"recipe": "eye", **(NEW if k == 2 else {})})]
    assert "zou2021-pyconv" not in {s.recipe for s in seeds.gathered(found)[0] if s.seeds}


def _drawn(tmp_path: Path, *found: System) -> str:
    for s in found:
        files.write(s, tmp_path / "results" / "systems")
    write_report(tmp_path / "results", tmp_path / "none", tmp_path / "out", lambda line: None)
    return (tmp_path / "out" / "report.md").read_text()


def test_the_page_has_one_row_a_system_and_says_how_many_seeds(tmp_path: Path) -> None:
    """The figures are the own seed's; where every result came from is told of each seed; who is left out, and why."""
    page = _drawn(tmp_path, _of(1, 0.70), _of(2, 0.68), _of(3, 0.60, trained=None))
    overview, rest = page.split("## Bars")
    assert [line.split(" | ")[3] for line in overview.splitlines() if "pyconv" in line and line.startswith("| ")] == [
        "69.0 (68.0 to 70.0), 2 seeds"
    ]
    assert "`zou2021-pyconv-seed3` is in no mean: nobody noted what" in overview
    assert "Rows that name no seeds are of one seed." in overview
    assert "one seed each" not in page
    assert "69 % (mean of 2 seeds) | **not met**" in rest
    assert "accuracy 70.0 %" in rest
    assert "Mean of 2 seeds 69.0 (1: 70.0, 2: 68.0)." in rest
    origin = page.split("## How it was measured")[1]
    assert [f"| `zou2021-pyconv{end}` | {k} | `{'ab' * 8}` |" in origin for k, end in ((1, ""), (2, "-seed2"))] == [
        True
    ] * 2
    assert len(list((tmp_path / "out" / "figures").glob("*confusion.png"))) == 1


def test_a_page_of_one_seed_says_so_once(tmp_path: Path) -> None:
    page = _drawn(tmp_path, _of(1, 0.70), _of(1, 0.6, recipe="other"))
    assert page.split("## Bars")[0].count("one seed") == 1


@pytest.mark.parametrize(("other", "verdict"), [(0.494, "met"), (0.48, "not met")])
def test_the_bar_of_the_light_is_judged_on_the_means(tmp_path: Path, other: float, verdict: str) -> None:
    """Of the fusion and of the single modality beside it."""
    fused = {"recipe": "both", "paper": "naseem2024", "family": "early"}
    eye = {"recipe": "eye", "paper": "naseem2024", "family": "visible"}
    found = [_of(1, 0.7, 0.5, **fused), _of(2, 0.7, other, **fused), _of(1, 0.6, 0.51, **eye), _of(2, 0.6, 0.49, **eye)]
    for s in found:
        files.write(s, tmp_path / "systems")
    (row,) = (j for j in bars.judge(material.read(tmp_path, tmp_path, tmp_path)) if "both" in j.what)
    assert row.verdict == verdict
    assert row.reached.endswith("(light × 0.1, mean of 2 seeds) against the best of eye (mean of 2 seeds)")


def test_rows_of_the_light_that_are_means_say_of_how_many_seeds(tmp_path: Path) -> None:
    """Beside rows of one seed, which say nothing."""
    fused = {"recipe": "both", "family": "early"}
    light = _drawn(tmp_path, _of(1, 0.7, **fused), _of(1, 0.6, recipe="eye"), _of(2, 0.6, recipe="eye"))
    rows = [line for line in light.split("## Light robustness")[1].split("\n## ")[0].splitlines() if "| `" in line]
    assert [row.split(" | ")[1:3] for row in rows] == [
        ["`eye` (2 seeds)", "60.0"], ["`both`", "70.0"], ["`both`", "eye (2 seeds)"],
    ]  # fmt: skip


def test_an_ablation_is_held_against_the_mean(tmp_path: Path) -> None:
    """Intervals are of one seed each: they do not say whether means are apart."""
    less = {"recipe": "less", "role": "ablation", "compares_with": "zou2021-pyconv", "change": "without"}
    page = _drawn(tmp_path, _of(1, 0.70), _of(2, 0.68), _of(1, 0.60, **less))
    assert "| `zou2021-pyconv` | 69.0 (68.0 to 70.0), 2 seeds | −9.0 | – |" in page.split("## Ablations")[1]
