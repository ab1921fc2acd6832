"""Figures as the report writes them: percent with one decimal, intervals in brackets, counts with a thin unit."""

from __future__ import annotations

from statistics import stdev

from export.report.document import Code, Strong, Text
from export.report.results import CleanMode, Estimate, Latency, Mode, Published, System, Trained

NONE = "–"
"""a cell without a figure"""
UNTOLD = "not noted (an older result)"


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


def estimate(e: Estimate) -> str:
    """``66.4 [64.8, 67.9]``: percent, 95 % interval."""
    return f"{percent(e.value)} [{percent(e.interval_95[0])}, {percent(e.interval_95[1])}]"


def accuracy(s: System) -> str:
    """Of one seed with its interval; of several ``65.9 ± 0.4, 3 seeds``, of two ``65.9 (65.5 to 66.3), 2 seeds``."""
    if len(s.seeds) < 2:
        return estimate(s.headline.accuracy)
    shares = list(s.seeds.values())
    spread = f"± {percent(stdev(shares))}" if len(shares) > 2 else f"({percent(min(shares))} to {percent(max(shares))})"
    return f"{percent(s.accuracy)} {spread}, {len(shares)} seeds"


def seeds(s: System) -> str:
    """`` (3 seeds)`` behind the name of a system whose figures are means; "" of one seed."""
    return f" ({len(s.seeds)} seeds)" if len(s.seeds) > 1 else ""


def recipe(s: System) -> Text:
    """Its name in a row of figures, and of how many seeds these are the mean."""
    return (Code(s.key), seeds(s))


def points(difference: float, digits: int = 1) -> str:
    """A difference of two shares in percentage points, signed; a true minus sign."""
    rounded = round(100 * difference, digits) + 0.0
    return f"{rounded:+.{digits}f}".replace("-", "−")


def large(n: int) -> str:
    """``1.23 M``: three figures."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if n >= size:
            return f"{n / size:.3g} {unit}" if n / size < 999.5 else f"{n / size:.0f} {unit}"
    return str(n)


def latency(value: Latency | None) -> str:
    return NONE if value is None else f"{value.median:.2f} / {value.p95:.2f}"


def minutes(value: float | None) -> str:
    return NONE if value is None else f"{value:.1f}"


def views(trained: Trained) -> str:
    """Ranges of the random training views by the recipe's keys; those that are 0 are off."""
    return ", ".join(f"{key} {value:g}" for key, value in trained.augment.items() if value) or "as they are"


def schedule(trained: Trained) -> str:
    """``sgd, cosine, batch 128; joined: 22 epochs at 32 px, 1 epoch at 48 px``."""
    t = trained.training
    steps = [
        f"{name}: " + ", ".join(f"{epochs(n)} at {side} px" for side, n in sizes)
        for name, sizes in trained.planned.items()
    ]
    how = f"{t.get('optimiser', '')}, {t.get('schedule', '')}, batch {t.get('batch', '')}"
    return "; ".join([how, *steps]) if t.get("steps") else "nothing trained of its own"


def epochs(n: int) -> str:
    return f"{n} epoch{'s' * (n != 1)}"


def differs(said: str | None) -> Text:
    """How what was trained stands to the recipe of today."""
    if said is None:
        return UNTOLD
    return Strong(f"trained {said}") if said else "as the recipe of today"


def total(minutes: float, untold: list[str]) -> str:
    """``79.4``, or ``2.4 and that of zou2021-wgan`` where nobody can tell what one of the parts cost."""
    return f"{minutes:.1f} and that of {', '.join(untold)}" if untold else f"{minutes:.1f}"


def name(system: System) -> Text:
    return (f"{system.title} ", Code(system.key))


def published(figures: list[Published]) -> str:
    return "; ".join(f"{f.figure:g} {f.what} ({f.where})" for f in figures) or NONE


def standing(figures: list[Published]) -> str:
    """The status of each figure, said once."""
    return "; ".join(dict.fromkeys(f.status for f in figures)) or NONE


def reasons(figures: list[Published]) -> tuple[str, ...]:
    """Why, each said once."""
    return tuple(dict.fromkeys(f"{f.status}: {f.reason}." for f in figures))


def macro(mode: Mode) -> tuple[str, str, str]:
    return estimate(mode.macro_precision), estimate(mode.macro_recall), estimate(mode.macro_f1)


def clean(mode: CleanMode | None) -> str:
    return NONE if mode is None else f"{estimate(mode.accuracy)} on {mode.images:,}"
