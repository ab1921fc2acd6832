"""Results of one recipe with several seeds: which of them belong together, and their mean. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from export.report import outdated
from export.report.results import Light, System


@dataclass(frozen=True)
class Repeat:
    """A result of another seed than its recipe's own. why: what keeps it out of the mean; "" where it is in it."""

    system: System
    why: str


def gathered(found: Sequence[System]) -> tuple[list[System], tuple[Repeat, ...]]:
    """Those of the recipes' own seeds, with accuracy and light as means over all seeds that compare; and the others."""
    own = {(s.recipe, s.variant): s for s in found if not s.repeat}
    repeats = tuple(Repeat(s, _apart(own.get((s.recipe, s.variant)), s)) for s in found if s.repeat)
    kept = [r.system for r in repeats if not r.why]
    return [_mean(s, [t for t in kept if (t.recipe, t.variant) == key]) for key, s in own.items()], repeats


def _mean(own: System, others: list[System]) -> System:
    if not others:
        return own
    every = sorted((own, *others), key=lambda s: s.seed)
    steps = zip(*(s.darkness for s in every), strict=True)
    light = tuple(Light(gain=each[0].gain, accuracy=fmean(d.accuracy for d in each)) for each in steps)
    shares = {str(s.seed): s.headline.accuracy.value for s in every}
    return own.model_copy(update={"seeds": shares, "darkness": light})


def _apart(own: System | None, s: System) -> str:
    """What else than the seed is different."""
    if own is None:
        return "its recipe's own seed has no result"
    if s.seed == own.seed:
        return "its recipe's own result is of the same seed"
    if any(getattr(own, name) != getattr(s, name) for name in ("dataset", "protocol", "labels", "data_fingerprint")):
        return "of other data or another protocol than its recipe's own seed"
    if [d.gain for d in own.darkness] != [d.gain for d in s.darkness]:
        return "measured in other steps of the light than its recipe's own seed"
    return _trained_apart(own, s)


def _trained_apart(own: System, s: System) -> str:
    if own.training.budget_minutes != s.training.budget_minutes:
        return f"trained {_budget(s)}, its recipe's own seed {_budget(own)}"
    if own.training.precision != s.training.precision:
        return f"trained in {s.training.precision}, its recipe's own seed in {own.training.precision}"
    if own.trained is None or s.trained is None:
        return "nobody noted what it or its recipe's own seed was trained with"
    differs = outdated.apart(s.trained, own.trained)
    return f"trained with {differs} than its recipe's own seed" if differs else ""


def _budget(s: System) -> str:
    minutes = s.training.budget_minutes
    return "without a budget" if minutes is None else f"within {minutes:g} CPU minutes"
