"""What the systems have to reach, and whether they do. Pure: results in, verdicts out, and what trains each on.

The bars are FER2013's PrivateTest unless they say otherwise: one network, no test-time augmentation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from export.report import cells
from export.report.material import BUDGET, OURS, Material
from export.report.results import System
from export.report.singles import Standing

Verdict = Literal["met", "not met", "not measured"]
PYCONV, SCENES, CKPLUS_RECIPE = "zou2021-pyconv", "zou2021-wgan-scenes", "zou2021-ckplus"
REDUCED, FULL, CKPLUS = 0.64, 0.693, 0.946
"""least accuracy of PyConv-SE18 at reduced width and at the paper's size, and of the best network on CK+"""
LATITUDE = 0.005
"""share by which an early fusion may stay below a single modality at any step of the light"""
MOST_MINUTES = 1.1 * BUDGET
"""what is still about the budget"""
MERITS = ("SSIM", "Qabf", "VIF")
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Judged:
    what: str
    asked: str
    reached: str
    verdict: Verdict
    command: str
    """what trains it, or goes on with it from its checkpoint"""


def judge(m: Material) -> list[Judged]:
    return [_pyconv_reduced(m), _pyconv_full(m), _ckplus(m), *_early(m), *_wgan(m)]


def _pyconv_reduced(m: Material) -> Judged:
    s = _on_fer2013(m, "reduced")
    what, asked = "PyConv-SE18, reduced width", f"{_percent(REDUCED)} within about {BUDGET} CPU minutes"
    command, minutes = m.command(PYCONV, "reduced"), s.training.budget_minutes if s else None
    if s is None:
        return Judged(what, asked, "", "not measured", command)
    if minutes is None or minutes > MOST_MINUTES:  # a figure, but not one under this bar's condition
        had = f"within {minutes:g} CPU minutes" if minutes else "without a budget"
        return Judged(what, asked, f"{_figure(s)}, but trained {had}", "not measured", command)
    reached = f"{_figure(s)}, budget {minutes:g} CPU minutes, {s.training.cpu_minutes:g} spent"
    return Judged(what, asked, reached, _verdict(s, REDUCED), command)


def _pyconv_full(m: Material) -> Judged:
    s = _on_fer2013(m, "full")
    verdict: Verdict = _verdict(s, FULL) if s else "not measured"
    return Judged(
        "PyConv-SE18, the paper's size", _percent(FULL), _figure(s) if s else "", verdict, m.command(PYCONV, "full")
    )


def _on_fer2013(m: Material, variant: str) -> System | None:
    s = m.result(PYCONV, variant)
    return s if s and s.dataset == "FER2013" else None


def _ckplus(m: Material) -> Judged:
    """Seven classes, ten folds that keep people apart, begun with trained weights: the best network of all."""
    fit = [s for s in m.systems if s.dataset.startswith("CK+") and "by person" in s.protocol]
    fit = [s for s in fit if len(s.folds) == 10 and len(s.labels) == 7 and s.training.starts_from]
    what, asked = "CK+, seven classes, ten folds by person, best network", _percent(CKPLUS)
    if not fit:
        return Judged(what, asked, "", "not measured", m.command(CKPLUS_RECIPE, "full"))
    best = max(fit, key=lambda s: s.accuracy)
    reached = f"{_figure(best)}: {best.key}, begun with {', '.join(best.training.starts_from)}"
    return Judged(what, asked, reached, _verdict(best, CKPLUS), m.command(best.recipe, best.variant, best.on))


def _early(m: Material) -> list[Judged]:
    """Every early fusion of the papers, at each width it was measured at; ablations and other backbones have no bar."""
    plans = [p for p in m.recipes.values() if (p.family, p.role) == ("early", "system") and p.paper != OURS]
    found = [s for s in m.systems if (s.family, s.role) == ("early", "system") and s.paper != OURS and s.darkness]
    have = {s.recipe for s in found}
    open_ones = [_early_row(p.recipe, "", "not measured", m.command(p.recipe, "reduced")) for p in plans
                 if p.recipe not in have]  # fmt: skip
    return [_judged_early(m, s) for s in found] + open_ones


def _early_row(name: str, reached: str, verdict: Verdict, command: str) -> Judged:
    asked = f"at no step of the light more than {100 * LATITUDE:g} points below any of its single modalities"
    return Judged(f"Early fusion, {name}", asked, reached, verdict, command)


def _judged_early(m: Material, s: System) -> Judged:
    it, command = m.standing(s), m.command(s.recipe, s.variant, s.on)
    if it.missing or not it.gaps:
        lack = f"no result of {', '.join(it.missing) or 'a single modality of it'} to stand beside"
        return _early_row(s.key, lack, "not measured", command)
    met = it.worst[0] >= -LATITUDE - _ROUNDING
    return _early_row(s.key, _worst(it), "met" if met else "not met", command)


def _worst(it: Standing) -> str:
    gap, gain = it.worst
    beside = ", ".join(t.key + (f" ({_seeds(t)})" if t.seeds else "") for t in it.singles)
    where = f"light × {gain:g}" + (f", {_seeds(it.system)}" if it.system.seeds else "")
    return f"{cells.points(gap, 2)} points at its worst step ({where}) against the best of {beside}"


def _wgan(m: Material) -> list[Judged]:
    """Every generator in the fusion table against the plain average."""
    methods = m.fusion.methods if m.fusion else {}
    average, command = methods.get("average", {}), m.command(SCENES, "full")
    trained = {k: row for k, row in methods.items() if "wgan" in k.lower() and average}
    if not trained:
        return [_wgan_row("wgan", "", "not measured", command)]
    caveat = "; mind its caveat under Pixel fusion" if m.fusion and m.caveats(m.fusion.about.recipes) else ""
    return [_judged_wgan(name, row, average, caveat, command) for name, row in trained.items()]


def _wgan_row(name: str, reached: str, verdict: Verdict, command: str) -> Judged:
    asked = "more than average fusion on SSIM (sum to both), Qabf and VIF"
    return Judged(f"Pixel fusion, {name}", asked, reached, verdict, command)


def _judged_wgan(name: str, row: dict[str, float], average: dict[str, float], caveat: str, command: str) -> Judged:
    said = ", ".join(f"{k} {row[k]:.4f} against {average[k]:.4f}" for k in MERITS if k in row) + caveat
    if any(k not in row for k in MERITS):
        return _wgan_row(name, said, "not measured", command)
    return _wgan_row(name, said, "met" if all(row[k] > average[k] for k in MERITS) else "not met", command)


def _seeds(s: System) -> str:
    return f"mean of {len(s.seeds)} seeds" if len(s.seeds) > 1 else "one seed"


def _figure(s: System) -> str:
    return f"{_percent(s.accuracy)} ({_seeds(s)})"


def _verdict(s: System, least: float) -> Verdict:
    return "met" if s.accuracy >= least - _ROUNDING else "not met"


def _percent(share: float) -> str:
    return f"{100 * share:.4g} %"
