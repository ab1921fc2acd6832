"""Comparisons across papers: ablations, other backbones, the dark, pixel fusion, real infrared, sequences."""

from __future__ import annotations

import statistics

import numpy as np

from export import statistics as tests
from export.report import cells, figures, literature
from export.report.document import Block, Code, Heading, Image, Items, Paragraph, Strong, Table, Text
from export.report.material import Material
from export.report.results import AboutFusion, PixelFusion, System
from export.report.singles import FUSED, Standing

NOTHING = Paragraph("No result yet.")
_ORDER = ("visible", "infrared", "msx", "early", "late", "pixel", "temporal")


def ablations(m: Material) -> list[Block]:
    """Each variant beside the recipe it varies: attention, training steps, modules."""
    beside = _beside(m, "ablation", "What differs")
    return [Heading(2, "Ablations"), *beside, *literature.without_recipe(m)]


def backbones(m: Material) -> list[Block]:
    return [Heading(2, "Comparison backbones"), *_beside(m, "comparison", "Backbone")]


def _beside(m: Material, role: str, label: str) -> list[Block]:
    rows = [_difference(m, s) for s in m.pick(lambda s: s.role == role)]
    columns = (
        "Recipe", label, "Data", "Accuracy % [95 %]", "Beside", "Its accuracy % [95 %]", "Difference, points",
        "Intervals apart", "Parameters", "CPU min",
    )  # fmt: skip
    return [Table(columns, tuple(rows), frozenset({3, 5, 6, 8, 9}))] if rows else [NOTHING]


def _difference(m: Material, s: System) -> tuple[Text, ...]:
    mine, base = s.headline.accuracy, m.find(s.compares_with, s)
    beside: tuple[Text, ...] = (Code(s.compares_with) if s.compares_with else cells.NONE, *(cells.NONE,) * 3)
    if base:
        low, high = sorted((mine, base.headline.accuracy), key=lambda e: e.value)
        apart = "yes" if low.interval_95[1] < high.interval_95[0] else "no"
        apart = cells.NONE if s.seeds or base.seeds else apart  # intervals are of one seed, not of a mean
        gap = cells.points(s.accuracy - base.accuracy) if base.dataset == s.dataset else cells.NONE
        beside = (Code(base.key), cells.accuracy(base), gap, apart)
    cost = (cells.large(s.parameters), cells.minutes(s.training.cpu_minutes))
    return (Code(s.key), s.change or s.title, s.dataset, cells.accuracy(s), *beside, *cost)


def light(m: Material) -> list[Block]:
    """The papers' light and dark as a benchmark: one chart and table per data set."""
    blocks: list[Block] = [Heading(2, "Light robustness"), Paragraph(_LIGHT)]
    measured = m.pick(lambda s: bool(s.darkness))
    for k, dataset in enumerate(dict.fromkeys(s.dataset for s in measured)):
        mine = sorted((s for s in measured if s.dataset == dataset), key=lambda s: _ORDER.index(s.family))
        path = figures.darkness(mine, m.pictures / f"darkness-{k + 1}.png")
        alt = f"Accuracy over the light on the visible lens, {dataset}"
        blocks += [
            Heading(3, dataset),
            Image(path, alt, "Bold: the best of each family over all steps; thin: the others."),
        ]
        blocks += [_light_table(mine), *_beside_singles(m, mine)]
        simulated = dict.fromkeys(s.simulated for s in mine if s.simulated)
        blocks += [Paragraph((Strong("Simulated: "), f"{line}.")) for line in simulated]
    return blocks if measured else [*blocks, NOTHING]


_LIGHT = (
    "After Tables 3 and 4 of Zou et al. 2021, which compare visible, infrared and fused pictures in the light and the "
    "dark with the authors' own recordings. Here the visible lens is darkened in steps (exposure, then shot and read "
    "noise, quantised to 8 bits); the infrared lens keeps its own light."
)


def _light_table(systems: list[System]) -> Table:
    gains = sorted({d.gain for s in systems for d in s.darkness}, reverse=True)
    rows: list[tuple[Text, ...]] = []
    for s in systems:
        at = {d.gain: cells.percent(d.accuracy) for d in s.darkness}
        rows.append((s.family, cells.recipe(s), *(at.get(g, cells.NONE) for g in gains)))
    columns = ("Family", "Recipe", *(f"light × {g:g}" for g in gains))
    caption = "Accuracy, %, by the light on the visible lens."
    return Table(columns, tuple(rows), frozenset(range(2, len(columns))), caption)


def _beside_singles(m: Material, systems: list[System]) -> list[Block]:
    """How far each fusion is ahead of the best of the single modalities it is made of, step by step."""
    every = [m.standing(s) for s in systems if s.family in FUSED]
    gains = sorted({d.gain for s in systems for d in s.darkness}, reverse=True)
    columns = ("Family", "Recipe", "Beside", *(f"light × {g:g}" for g in gains))
    rows = tuple((it.system.family, cells.recipe(it.system), _whom(it), *_gaps(it, gains)) for it in every)
    return [Table(columns, rows, frozenset(range(3, len(columns))), _BESIDE)] if rows else []


_BESIDE = (
    "Fusion less the best of the single modalities it is made of, points, in the same light; the worst step is bold. "
    "Where its training begins with another modality's network, its paper's single of that modality stands in."
)


def _whom(it: Standing) -> str:
    beside = ", ".join(s.key + cells.seeds(s) for s in it.singles) or cells.NONE
    return f"{beside} (no result of {', '.join(it.missing)})" if it.missing else beside


def _gaps(it: Standing, gains: list[float]) -> list[Text]:
    said = {g: cells.points(gap) for g, gap in it.gaps.items()}
    return [Strong(said[g]) if g in said and g == it.worst[1] else said.get(g, cells.NONE) for g in gains]


def pixel(m: Material) -> list[Block]:
    head = Heading(2, "Pixel fusion")
    if m.fusion is None:
        return [head, NOTHING]
    f, path = m.fusion, figures.fusion_bars(m.fusion, m.pictures / "pixel-fusion.png")
    about = f.about
    where = f" of {about.dataset}" if about.dataset else ""
    further = "".join(f" {k}: {v}." for k, v in (about.model_extra or {}).items())
    said = f"Means over {about.pairs} aligned pairs{where}; larger is better, the best is bold.{further} Made by "
    blocks: list[Block] = [head, Paragraph((said, Code(about.command), ".")), _fusion_table(f)]
    lines = (*_against_average(f), *_seen(about), *m.caveats(about.recipes))
    blocks += [Items(lines)] if lines else []
    return [*blocks, Image(path, "Fusion metrics by method, one panel each")]


def _seen(about: AboutFusion) -> list[Text]:
    """What the trained method is, as its checkpoint says."""
    if not about.model:
        return []
    said = ", ".join(f"{k} {v}" for k, v in about.model.items())
    return [(*[part for name in about.recipes for part in (Code(name), ": ")], f"{said}.")]


def _against_average(f: PixelFusion) -> list[Text]:
    """On which metrics each trained fusion is ahead of plain averaging, and on which not."""
    average = f.methods.get("average", {})
    said: list[Text] = []
    for method, row in f.methods.items():
        if average and "wgan" in method.lower():
            ahead = [k for k, v in row.items() if v > average[k]]
            behind = [k for k in row if k not in ahead]
            said.append(f"{method} is ahead of average on {', '.join(ahead) or 'nothing'}"
                        + (f", not on {', '.join(behind)}." if behind else "."))  # fmt: skip
    return said


def _fusion_table(f: PixelFusion) -> Table:
    metrics = list(next(iter(f.methods.values())))
    best = {k: max(row[k] for row in f.methods.values()) for k in metrics}
    rows: list[tuple[Text, ...]] = [
        (method, *(Strong(f"{row[k]:.3f}") if row[k] == best[k] else f"{row[k]:.3f}" for k in metrics))
        for method, row in f.methods.items()
    ]
    return Table(("Method", *metrics), tuple(rows), frozenset(range(1, len(metrics) + 1)))


def thermal(m: Material) -> list[Block]:
    """Real infrared: held-out groups, and what always saying the most frequent class would reach."""
    blocks: list[Block] = [Heading(2, "Real infrared"), Paragraph(_THERMAL)]
    measured = m.pick(lambda s: "thermal" in s.dataset.lower())
    for s in measured:
        totals = [sum(row) for row in s.headline.confusion]
        said = f": {cells.estimate(s.headline.accuracy)} % over all held-out images; always the most frequent class of "
        said += f"these images would reach {cells.percent(max(totals) / sum(totals))} %."
        blocks.append(Paragraph((Code(s.key), said)))
        blocks += [_folds(s)] if s.folds else []
    return blocks if measured else [*blocks, NOTHING]


_THERMAL = (
    "Long-wave infrared pictures of a few people. Neighbouring pictures are nearly equal, so a random split measures "
    "memory; whole groups (people) are held out instead."
)


def _folds(s: System) -> Table:
    rows: list[tuple[Text, ...]] = [
        (f.name, f"{f.images:,}", cells.percent(f.accuracy),
         cells.NONE if f.majority is None else cells.percent(f.majority))
        for f in s.folds
    ]  # fmt: skip
    columns = ("Held out", "Images", "Accuracy %", "Majority class of training %")
    return Table(columns, tuple(rows), frozenset({1, 2, 3}), (Code(s.key), " by held-out part."))


def sequences(m: Material) -> list[Block]:
    """CK+ by person, single frames and sequences of three."""
    blocks: list[Block] = [Heading(2, "CK+ and temporal networks")]
    measured = m.pick(lambda s: s.dataset.startswith("CK+") or s.family == "temporal")
    if not measured:
        return [*blocks, NOTHING]
    columns = ("System", "Data", "Accuracy % [95 %]", "Folds", "Mean of folds %", "Lowest %", "Highest %", "Further")
    blocks.append(Table(columns, tuple(_by_person(s) for s in measured), frozenset(range(2, 7))))
    return [*blocks, *friedman_tests(measured), *(_folds(s) for s in measured if s.folds)]


def friedman_tests(systems: list[System]) -> list[Block]:
    """Do the systems differ over the folds? One line per set and variant with two systems or more on equal folds: of as
    many pictures too, since sequences and single frames are not the same test."""
    groups: dict[tuple[str, str, tuple[tuple[str, int], ...]], list[System]] = {}
    for s in systems:
        if s.folds:
            groups.setdefault((s.dataset, s.variant, tuple((f.name, f.images) for f in s.folds)), []).append(s)
    out: list[Block] = []
    for (dataset, variant, folds), members in groups.items():
        if len(members) > 1:
            shares = np.array([[f.accuracy for f in s.folds] for s in members]).T
            chi, p = tests.friedman(shares)
            names = ", ".join(s.key for s in members)
            said = f"Friedman test over {len(folds)} folds of {dataset}, {variant}: chi-square {chi:.2f}, p {p:.2g}"
            out.append(Paragraph(f"{said} ({names})."))
    return out


def _by_person(s: System) -> tuple[Text, ...]:
    shares = [f.accuracy for f in s.folds]
    folds: tuple[str, ...] = (cells.NONE,) * 4
    if shares:
        spread = f" ± {100 * statistics.stdev(shares):.1f}" if len(shares) > 1 else ""
        mean = cells.percent(statistics.mean(shares)) + spread
        folds = (str(len(shares)), mean, cells.percent(min(shares)), cells.percent(max(shares)))
    further = ", ".join(f"{k} {v:.4g}" for k, v in s.extra.items()) or cells.NONE
    return (cells.name(s), s.dataset, cells.estimate(s.headline.accuracy), *folds, further)
