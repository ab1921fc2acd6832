"""What the papers print and how it stands: not reproducible here, claims, and the complete list."""

from __future__ import annotations

from export.report.document import Block, Heading, Paragraph, Table, Text
from export.report.material import Material
from export.report.published import Figure


def not_reproducible(m: Material) -> list[Block]:
    """One row per reason: which figures, and why."""
    reasons: dict[str, list[Figure]] = {}
    for f in m.literature:
        if f.status == "not reproducible here":
            reasons.setdefault(f.reason, []).append(f)
    rows: list[tuple[Text, ...]] = []
    for reason, figures in reasons.items():
        where = dict.fromkeys(f"{m.papers[f.paper].short} ({f.where})" for f in figures)
        data = dict.fromkeys(f.dataset for f in figures)
        rows.append(("; ".join(data), "; ".join(where), str(len(figures)), reason))
    columns = ("Data", "Where published", "Figures", "Why")
    return [Heading(2, "Not reproducible here, and why"), Table(columns, tuple(rows), frozenset({2}))]


def claims(m: Material) -> list[Block]:
    """Figures that contradict their own paper or what FER2013's labels allow: shown as claims only."""
    blocks: list[Block] = [Heading(2, "Claims that cannot be true under an honest split"), Paragraph(_CLAIMS)]
    reasons = dict.fromkeys(f.reason for f in m.literature if f.status == "claim")
    for reason in reasons:
        mine = [f for f in m.literature if f.reason == reason]
        first = mine[0]
        blocks.append(Heading(3, f"{m.papers[first.paper].short}, {first.where}, {first.dataset}"))
        blocks += [Paragraph(f"{reason[0].upper()}{reason[1:]}."), _pivot(mine)]
    return blocks


_CLAIMS = (
    "These figures are listed because they were published. FER2013's paper puts people's accuracy near 65 ± 5 %; 288 "
    "of its 3,589 PrivateTest pictures have an exact twin in Training, and pictures occur under several labels."
)


def everything(m: Material) -> list[Block]:
    blocks: list[Block] = [Heading(2, "Every published figure")]
    blocks.append(Paragraph(_EVERYTHING))
    for key, paper in m.papers.items():
        blocks.append(Heading(3, paper.citation))
        blocks.append(_listing([f for f in m.literature if f.paper == key]))
    return blocks


_EVERYTHING = (
    "As printed: accuracy and the like in percent, shares where the paper prints shares. What a paper quotes or "
    "compares with has no recipe here unless one is named."
)


def _listing(figures: list[Figure]) -> Table:
    grouped: dict[tuple[str, ...], list[str]] = {}
    for f in figures:
        key = (f.system, f.dataset, f.where, f.split, f.status, _beside(f))
        grouped.setdefault(key, []).append(f"{f.metric} {f.value:g}")
    rows: list[tuple[Text, ...]] = [(s, d, "; ".join(v), w, p, t, b) for (s, d, w, p, t, b), v in grouped.items()]
    columns = ("System", "Data", "Figures", "Where", "Split as stated", "How it stands", "Our recipe")
    return Table(columns, tuple(rows))


def _beside(f: Figure) -> str:
    return ", ".join(f.recipes) or (f"none: {f.no_recipe}" if f.no_recipe else "–")


def without_recipe(m: Material) -> list[Block]:
    """Figures of the papers' own systems that nothing here stands beside, each with the reason."""
    rows: list[tuple[Text, ...]] = [
        (f"{m.short(f.paper)}, {f.system}", f.dataset, f"{f.metric} {f.value:g}", f.where, f.status, f.no_recipe)
        for f in m.literature
        if f.no_recipe
    ]
    columns = ("System", "Data", "Figure", "Where", "How it stands", "Why there is no recipe")
    return [Table(columns, tuple(rows), caption="Published, and no recipe stands beside it.")] if rows else []


def _pivot(figures: list[Figure]) -> Table:
    """Systems down, metrics across; the figures of one published table."""
    metrics = tuple(dict.fromkeys(f.metric for f in figures))
    values: dict[str, dict[str, str]] = {}
    for f in figures:
        values.setdefault(f.system, {})[f.metric] = f"{f.value:g}"
    rows: list[tuple[Text, ...]] = [(s, *(v.get(k, "–") for k in metrics)) for s, v in values.items()]
    return Table(("System", *metrics), tuple(rows), frozenset(range(1, len(metrics) + 1)))
