"""The systems of each paper: what they reach, what they cost, what was published, and their figures."""

from __future__ import annotations

from collections import Counter

from export.report import bars, cells, figures
from export.report.document import Block, Code, Gallery, Heading, Image, Items, Paragraph, Strong, Table, Text
from export.report.material import OURS, Material, Plan
from export.report.results import Machine, System, Training

_COLUMNS = (
    "System", "Data", "Accuracy % [95 %]", "Published", "How that stands to ours", "Macro precision %",
    "Macro recall %", "Macro F1 %", "Parameters", "MACs", "Latency ms, median / p95", "CPU min",
)  # fmt: skip
_NUMERIC = frozenset({2, *range(5, 12)})


def overview(m: Material) -> list[Block]:
    """All systems in one table, best first within a data set."""
    each = Counter(s.dataset for s in m.systems)
    ordered = sorted(m.systems, key=lambda s: (-each[s.dataset], s.dataset, -s.accuracy))
    rows: list[tuple[Text, ...]] = [
        (
            cells.name(s), m.short(s.paper), s.dataset, cells.accuracy(s), cells.large(s.parameters),
            cells.minutes(s.training.budget_minutes), cells.minutes(s.training.cpu_minutes),
            cells.total(*m.total_cpu(s)), cells.differs(m.differs(s)), "yes" if s.simulated else "no",
        )
        for s in ordered
    ]  # fmt: skip
    columns = (
        "System", "Paper", "Data", "Accuracy % [95 %]", "Parameters", "Budget, CPU min", "CPU min",
        "CPU min with what it starts from", "Trained as", "A lens simulated",
    )  # fmt: skip
    blocks: list[Block] = [Heading(2, "All systems")]
    open_recipes = sum(p.recipe not in m.used | m.bundles for p in m.pending)
    blocks.append(Paragraph(f"Results: {len(m.systems)}. Recipes not trained yet: {open_recipes}."))
    if rows:
        blocks.append(Table(columns, tuple(rows), frozenset(range(3, 8))))
        blocks.append(Paragraph(f"{_READING} {_SEVERAL if any(s.seeds for s in m.systems) else _ONE_SEED}"))
    apart = tuple((Code(r.system.key), f" is in no mean: {r.why}.") for r in m.repeats if r.why)
    return [*blocks, Items(apart)] if apart else blocks


_READING = (
    "Accuracy is of one network (of one per fold where people are held out in turn) without test-time augmentation; "
    "brackets are 95 % bootstrap intervals over the test rows. Rows whose intervals overlap widely are not told apart "
    "by this many images; rows of different budgets compare the trainings as well as the networks."
)
_ONE_SEED = "Every row is of one seed."
_SEVERAL = (
    "Rows that name no seeds are of one seed. Where they do, accuracy is the mean over them ± the standard deviation "
    "(of two, their range); bars and light are means over the seeds, too; all else is of the recipe's own seed."
)


def verdicts(m: Material) -> list[Block]:
    """What the systems have to reach: the figure, the verdict, and the command that goes on."""
    judged = bars.judge(m)
    counted = Counter(j.verdict for j in judged)
    said = ", ".join(f"{verdict}: {counted[verdict]}" for verdict in ("met", "not met", "not measured"))
    rows: list[tuple[Text, ...]] = [
        (j.what, j.asked, j.reached or cells.NONE, Strong(j.verdict), Code(j.command)) for j in judged
    ]
    columns = ("Bar", "Asked", "Reached", "Verdict", "Trained, or goes on, with")
    return [Heading(2, "Bars"), Paragraph(f"Of {len(judged)} bars {said}. {_GOES_ON}"), Table(columns, tuple(rows))]


_GOES_ON = (
    "What was cut off goes on from its last checkpoint with the command beside it; what is finished does with more "
    "--cpu-minutes or more epochs in its recipe (a generator when its network.pt is deleted too). The score command "
    "with the same recipe, --reduced where it has that, and --commit-results brings the figure here."
)


def papers(m: Material) -> list[Block]:
    blocks: list[Block] = []
    for key, paper in m.papers.items():
        about: Text = (Strong(paper.title), f". {paper.citation}. Rebuilt here: {paper.systems}.")
        blocks += [Heading(2, paper.short), Paragraph(about), *_systems(m, key)]
    if m.of(OURS) or any(p.paper == OURS for p in m.pending):
        blocks += [Heading(2, "Ours"), *_systems(m, OURS)]
    return blocks


def _systems(m: Material, paper: str) -> list[Block]:
    mine = m.of(paper)
    waiting = [p for p in m.pending if p.paper == paper]
    rows = [_row(m, s) for s in mine]
    rows += [_waiting(m, p) for p in waiting]
    if not rows:
        return [Paragraph("No recipe of this paper yet.")]
    blocks: list[Block] = [Table(_COLUMNS, tuple(rows), _NUMERIC)]
    beside = [f for s in mine for f in m.beside(s.recipe, s.published)] + [
        f for p in waiting for f in m.beside(p.recipe)
    ]
    blocks += [Items(cells.reasons(beside))] if beside else []
    if mine:
        blocks += [_modes(mine), _protocols(m, mine)]
    for s in mine:
        blocks += [Heading(3, f"Figures of {s.key}"), Gallery(pictures(m, s))]
    return blocks


def _row(m: Material, s: System) -> tuple[Text, ...]:
    head, printed = s.headline, m.beside(s.recipe, s.published)
    return (
        cells.name(s), s.dataset, cells.accuracy(s), cells.published(printed), cells.standing(printed),
        *cells.macro(head), cells.large(s.parameters), cells.large(s.macs), cells.latency(s.latency_ms),
        cells.minutes(s.training.cpu_minutes),
    )  # fmt: skip


def _waiting(m: Material, p: Plan) -> tuple[Text, ...]:
    printed = m.beside(p.recipe)
    gap = (cells.NONE,) * (len(_COLUMNS) - 5)
    first: Text = (f"{p.title} ", Code(p.recipe))
    return (first, cells.NONE, m.remark(p), cells.published(printed), cells.standing(printed), *gap)


def _modes(systems: list[System]) -> Table:
    """Each state of the camera, and the rows without a twin in training."""
    rows: list[tuple[Text, ...]] = [
        (
            Code(s.key), name, f"{mode.images:,}", cells.estimate(mode.accuracy), cells.clean(s.clean.get(name)),
            *cells.macro(mode), f"{mode.ece:.3f}",
        )
        for s in systems
        for name, mode in s.modes.items()
    ]  # fmt: skip
    columns = (
        "Recipe", "Camera", "Images", "Accuracy % [95 %]", "Without twins in training", "Macro precision",
        "Macro recall", "Macro F1", "ECE",
    )  # fmt: skip
    return Table(columns, tuple(rows), frozenset(range(2, 9)), "Each state of the camera.")


def _protocols(m: Material, systems: list[System]) -> Items:
    """What was measured how, each protocol and each simulation said once, then what is each recipe's own."""
    shared: dict[tuple[str, str], list[System]] = {}
    for s in systems:
        shared.setdefault(("", f"{s.dataset}: {s.protocol}."), []).append(s)
        if s.simulated:
            shared.setdefault(("Simulated: ", f"{s.simulated}."), []).append(s)
    lines: list[Text] = [(Strong(mark), said, *_whose(of, systems)) for (mark, said), of in shared.items()]
    return Items((*lines, *map(_own, systems), *m.caveats(_named(systems))))


def _named(systems: list[System]) -> dict[str, None]:
    """Their recipes and those they begin with, each once."""
    return dict.fromkeys(name for s in systems for name in (s.recipe, *s.training.starts_from))


def _whose(of: list[System], systems: list[System]) -> tuple[str, ...]:
    return () if len(of) == len(systems) else (f" ({', '.join(s.key for s in of)})",)


def _own(s: System) -> Text:
    t = s.training
    said = f" {s.fusion}. {cells.epochs(t.epochs)}, {t.images_seen:,} images, {t.width}, {t.precision}"
    said += (f", budget {t.budget_minutes:g} CPU minutes" if t.budget_minutes else "") + "."
    said += f" Begins with {', '.join(t.starts_from)}." if t.starts_from else ""
    if s.seeds:
        each = ", ".join(f"{seed}: {cells.percent(a)}" for seed, a in s.seeds.items())
        said += f" Mean of {len(s.seeds)} seeds {cells.percent(s.accuracy)} ({each})."
    said += f" Further: {', '.join(f'{k} {v:.4g}' for k, v in s.extra.items())}." if s.extra else ""
    return (Code(s.key), said)


def pictures(m: Material, s: System) -> tuple[Image, ...]:
    """Confusion matrix always; learning curve and reliability diagram where the result has them."""
    out, head = [], s.headline
    if s.curve:
        path = figures.curve(s.curve, m.pictures / f"{s.key}-curve.png")
        out.append(Image(path, f"Learning curve of {s.key}: loss {s.curve[0].loss:.2f} to {s.curve[-1].loss:.2f}"))
    path = figures.confusion(head.confusion, s.labels, m.pictures / f"{s.key}-confusion.png")
    out.append(Image(path, f"Confusion matrix of {s.key}, accuracy {cells.percent(head.accuracy.value)} %"))
    if head.reliability:
        path = figures.reliability(head.reliability, head.ece, m.pictures / f"{s.key}-reliability.png")
        out.append(Image(path, f"Reliability diagram of {s.key}, calibration error {head.ece:.3f}"))
    return tuple(out)


def provenance(m: Material) -> list[Block]:
    """Seed, data, machine and time behind every row."""
    columns = (
        "Recipe", "Seed", "Training data, sha256", "Processor", "Cores", "Precision", "Width", "Epochs", "Images seen",
        "CPU min", "Wall min", "Budget, CPU min", "Begins with",
    )  # fmt: skip
    rows: list[tuple[Text, ...]] = [*map(_origin, _every(m)), *_fusion_origin(m)]
    if not rows:
        return []
    numeric = frozenset({1, 4, 7, 8, 9, 10, 11})
    note = (
        "Latency: ONNX Runtime, one thread, one pair at a time; figures of different runs do not compare, --latency "
        "times all in one. MACs: multiply-accumulates for one pair."
    )
    blocks: list[Block] = [Heading(2, "How it was measured"), Paragraph(note), Table(columns, tuple(rows), numeric)]
    blocks += _trained_with(m)
    full = {(s.recipe, s.on) for s in m.systems if s.variant == "full"}
    small = [s for s in m.systems if (s.recipe, s.on) not in full and s.recipe in m.recipes]
    if small:
        blocks.append(
            Paragraph("Measured at reduced width only; at the paper's size each is trained, or goes on, with")
        )
        blocks.append(Items(tuple(Code(m.command(s.recipe, "full", s.on)) for s in small)))
    return blocks


def _trained_with(m: Material) -> list[Block]:
    columns = ("Recipe", "Budget, CPU min", "Views", "Schedule", "Beside the recipe of today")
    rows: list[tuple[Text, ...]] = [
        (
            Code(s.key), cells.minutes(s.training.budget_minutes), cells.views(s.trained), cells.schedule(s.trained),
            cells.differs(m.differs(s)),
        )
        for s in m.systems
        if s.trained
    ]  # fmt: skip
    untold = len(m.systems) - len(rows)
    note = f"Of {untold} results nobody noted what they were trained with: their recipes may have changed since."
    blocks: list[Block] = []
    if rows:
        blocks.append(
            Table(columns, tuple(rows), frozenset({1}), "What each was trained with, as its checkpoint says.")
        )
    return [*blocks, Paragraph(note)] if untold else blocks


def _every(m: Material) -> list[System]:
    """Every result, those of other seeds beside that of the recipe's own."""
    return sorted([*m.systems, *(r.system for r in m.repeats)], key=lambda s: (s.paper, s.key))


def _origin(s: System) -> tuple[Text, ...]:
    return _made(s.key, s.seed, s.data_fingerprint, s.machine, s.training)


def _fusion_origin(m: Material) -> list[tuple[Text, ...]]:
    """The trained method of the fusion table, where its file says how it was made."""
    about = m.fusion.about if m.fusion else None
    if about is None or about.seed is None or about.machine is None or about.training is None:
        return []
    return [_made(", ".join(about.recipes), about.seed, about.data_fingerprint, about.machine, about.training)]


def _made(key: str, seed: int, fingerprint: str, machine: Machine, t: Training) -> tuple[Text, ...]:
    where = f"{machine.processor}, {machine.accelerator}" if machine.accelerator else machine.processor
    return (
        Code(key), str(seed), Code(fingerprint[:16]), where, str(machine.cores), t.precision, t.width, str(t.epochs),
        f"{t.images_seen:,}", cells.minutes(t.cpu_minutes), cells.minutes(t.wall_minutes),
        cells.minutes(t.budget_minutes), ", ".join(t.starts_from) or cells.NONE,
    )  # fmt: skip
