"""The bars: which figure is held against which, on either side of every bound, and what the page says of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from report_samples import LABELS, estimate, mode, system

from export.report import bars, material, sections
from export.report.document import Paragraph, Table
from export.report.material import Material, Plan
from export.report.results import AboutFusion, Fold, PixelFusion, System

SEVEN = (*LABELS, "disgust", "fear", "sadness", "surprise")
START = {"branches.visible": "eye", "branches.msx": "blend"}


def _world(*systems: System, fusion: PixelFusion | None = None, recipes: tuple[Plan, ...] = ()) -> Material:
    return Material(list(systems), {p.recipe: p for p in recipes}, fusion, {}, (), Path())


def _plan(recipe: str, **more: Any) -> Plan:
    return Plan(recipe, "naseem2024", recipe, Path(), f"python -m export train recipes/{recipe}.toml", **more)


def _accuracy(value: float) -> dict[str, Any]:
    return {"visible": {**mode(), "accuracy": estimate(value)}}


def _trained(**changes: Any) -> dict[str, Any]:
    return system().training.model_dump() | changes


def _one(judged: list[bars.Judged], what: str) -> bars.Judged:
    (found,) = (j for j in judged if what in j.what)
    return found


@pytest.mark.parametrize(
    ("accuracy", "minutes", "verdict"),
    [(0.64, 40.0, "met"), (0.6399, 40.0, "not met"), (0.7, 44.0, "met"), (0.7, 44.1, "not measured"),
     (0.7, None, "not measured")],
)  # fmt: skip
def test_the_reduced_bar_asks_for_a_figure_within_the_budget(
    accuracy: float, minutes: float | None, verdict: str
) -> None:
    s = system(variant="reduced", modes=_accuracy(accuracy), training=_trained(budget_minutes=minutes))
    row = _one(bars.judge(_world(s)), "reduced width")
    assert row.verdict == verdict
    assert row.reached.startswith(f"{100 * accuracy:.4g} % (one seed)")
    assert row.command.endswith("zou2021-pyconv.toml --reduced --cpu-minutes 40")


@pytest.mark.parametrize(("accuracy", "verdict"), [(0.693, "met"), (0.692, "not met")])
def test_the_bar_at_the_papers_size_is_of_that_size_and_set(accuracy: float, verdict: str) -> None:
    s = system(modes=_accuracy(accuracy))
    assert _one(bars.judge(_world(s)), "paper's size").verdict == verdict
    for other in (system(variant="reduced", modes=_accuracy(accuracy)), s.model_copy(update={"dataset": "RAF-DB"})):
        assert _one(bars.judge(_world(other)), "paper's size").verdict == "not measured"


def test_seeds_are_averaged_and_said_so() -> None:
    s = system(modes=_accuracy(0.70), seeds={"1": 0.70, "2": 0.68})
    row = _one(bars.judge(_world(s)), "paper's size")
    assert (row.verdict, row.reached) == ("not met", "69 % (mean of 2 seeds)")


def _ckplus(recipe: str, accuracy: float, **changes: Any) -> System:
    k = len(changes.get("labels", SEVEN))
    square = tuple(tuple(3 for _ in range(k)) for _ in range(k))
    base: dict[str, Any] = {
        "dataset": "CK+", "labels": SEVEN, "protocol": "10 folds by person, pooled", "darkness": [],
        "modes": {"visible": {**mode(), "accuracy": estimate(accuracy), "confusion": square}},
        "folds": tuple(Fold(name=f"fold-{n}", images=9, accuracy=0.9).model_dump() for n in range(10)),
        "training": _trained(starts_from=("from-fer2013",)),
    }  # fmt: skip
    return system(recipe, **{**base, **changes})


@pytest.mark.parametrize(("accuracy", "verdict"), [(0.946, "met"), (0.945, "not met")])
def test_the_best_network_counts_on_ckplus(accuracy: float, verdict: str) -> None:
    row = _one(bars.judge(_world(_ckplus("worse", 0.9), _ckplus("best", accuracy))), "CK+")
    assert row.verdict == verdict
    assert row.reached == f"{100 * accuracy:.4g} % (one seed): best, begun with from-fer2013"
    assert "recipes/best.toml" in row.command


@pytest.mark.parametrize(
    "changes",
    [{"labels": LABELS}, {"protocol": "70/15/15 at random"}, {"training": _trained()},
     {"folds": (Fold(name="fold-1", images=9, accuracy=0.9).model_dump(),)}],
)  # fmt: skip
def test_other_protocols_on_ckplus_do_not_count(changes: dict[str, Any]) -> None:
    row = _one(bars.judge(_world(_ckplus("other", 0.97, **changes))), "CK+")
    assert row.verdict == "not measured"
    assert "zou2021-ckplus.toml" in row.command


def _light(*shares: float) -> list[dict[str, float]]:
    return [{"gain": gain, "accuracy": x} for gain, x in zip((1.0, 0.1), shares, strict=False)]


def _naseem(recipe: str, family: str, *light: float, **changes: Any) -> System:
    return system(recipe, paper="naseem2024", family=family, darkness=_light(*light), **changes)


def _early(*light: float) -> System:
    return _naseem("both", "early", *light, training=_trained(starts_from=("eye", "blend")))


@pytest.mark.parametrize(
    ("dark", "verdict", "reached"),
    [(0.495, "met", "−0.50 points at its worst step (light × 0.1)"), (0.494, "not met", "−0.60 points at its worst")],
)
def test_an_early_fusion_is_held_against_each_of_its_modalities(dark: float, verdict: str, reached: str) -> None:
    """MSX is one of them; a better network of another paper, and an infrared one it does not use, are not."""
    others = [system("pyconv", darkness=_light(0.9, 0.9)), _naseem("heat", "infrared", 0.8, 0.8)]
    m = _world(
        _early(0.7, dark), _naseem("eye", "visible", 0.6, 0.2), _naseem("blend", "msx", 0.5, 0.5), *others,
        recipes=(_plan("both", start=START),),
    )  # fmt: skip
    row = _one(bars.judge(m), "both")
    assert (row.verdict, row.reached.startswith(reached)) == (verdict, True)
    assert row.reached.endswith("against the best of eye, blend")


def test_what_it_begins_with_goes_before_its_papers_and_that_before_none() -> None:
    """1-step training starts its MSX branch from the visible network: there it stands beside the paper's own MSX."""
    both = _naseem("both", "early", 0.7, 0.7, training=_trained(starts_from=("eye",)))
    eye = _naseem("eye", "visible", 0.6, 0.6).model_copy(update={"paper": "naseem2025"})
    papers = [_naseem("an eye", "visible", 0.9, 0.9), _naseem("blend", "msx", 0.5, 0.5)]
    start = {"branches.visible.backbone": "eye", "branches.msx.backbone": "eye"}
    it = _world(both, *papers, eye, recipes=(_plan("both", start=start),)).standing(both)
    assert [s.recipe for s in it.singles] == ["eye", "blend"]
    assert it.missing == ()


def test_without_parts_of_that_name_its_modalities_are_the_networks_or_its_lenses() -> None:
    """Pixel fusion begins with a generator and a classifier; a compared backbone begins with nothing."""
    pixel = _naseem("pixel", "pixel", 0.7, 0.7, lenses=("visible", "infrared"))
    trained = {"model": {"modalities": ["visible", "msx"]}, "augment": {}, "training": {}}
    other = _naseem("ghost", "early", 0.7, 0.7, lenses=("visible", "infrared"), trained=trained)
    m = _world(
        pixel, other, _naseem("eye", "visible", 0.6, 0.2), recipes=(_plan("pixel", start={"classifier": "eye"}),)
    )
    assert m.standing(pixel).missing == ("infrared",)
    assert m.standing(other).missing == ("msx",)


def test_a_fusion_whose_modality_has_no_figure_is_not_measured() -> None:
    m = _world(_early(0.7, 0.6), _naseem("eye", "visible", 0.6, 0.2), recipes=(_plan("both", start=START),))
    row = _one(bars.judge(m), "both")
    assert (row.verdict, row.reached) == ("not measured", "no result of msx to stand beside")


def test_an_early_fusion_that_is_not_trained_has_its_row_and_ablations_have_none() -> None:
    plans = (_plan("both", start=START), _plan("1-step", role="ablation"), _plan("alone", family="visible"))
    judged = [j for j in bars.judge(_world(recipes=plans)) if j.what.startswith("Early")]
    assert [(j.what, j.verdict) for j in judged] == [("Early fusion, both", "not measured")]
    assert judged[0].command == "python -m export train recipes/both.toml --reduced --cpu-minutes 40"


def _fusion(**wgan: float) -> PixelFusion:
    average = {"SSIM": 1.5, "Qabf": 0.3, "VIF": 0.5, "EN": 7.0}
    rows = {"average": average, "wgan": {**average, **wgan}}
    return PixelFusion(methods=rows, about=AboutFusion(pairs=3, command="c"))


@pytest.mark.parametrize(
    ("merits", "verdict"),
    [((1.51, 0.31, 0.51), "met"), ((1.5, 0.31, 0.51), "not met"), ((1.51, 0.3, 0.51), "not met"),
     ((1.51, 0.31, 0.5), "not met")],
)  # fmt: skip
def test_the_wgan_must_be_ahead_on_all_three(merits: tuple[float, float, float], verdict: str) -> None:
    fusion = _fusion(**dict(zip(bars.MERITS, merits, strict=True)), EN=1.0)
    row = _one(bars.judge(_world(fusion=fusion)), "wgan")
    assert row.verdict == verdict
    assert f"VIF {merits[2]:.4f} against 0.5000" in row.reached


def test_a_table_without_the_three_or_without_a_wgan_is_not_measured() -> None:
    bare = PixelFusion(methods={"average": {"EN": 7.0}, "wgan": {"EN": 8.0}}, about=AboutFusion(pairs=3, command="c"))
    none = PixelFusion(methods={"average": {"EN": 7.0}}, about=AboutFusion(pairs=3, command="c"))
    for fusion in (bare, none, None):
        assert _one(bars.judge(_world(fusion=fusion)), "wgan").verdict == "not measured"


def test_the_page_counts_the_verdicts_and_has_a_row_for_each(tmp_path: Path) -> None:
    m = material.read(tmp_path, tmp_path, tmp_path)
    _, said, table = sections.verdicts(m)
    assert isinstance(said, Paragraph)
    assert isinstance(table, Table)
    assert str(said.text).startswith("Of 4 bars met: 0, not met: 0, not measured: 4.")
    assert [row[0] for row in table.rows] == [j.what for j in bars.judge(m)]
