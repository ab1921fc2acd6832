"""Results of one recipe with several seeds: which of them belong together, and their mean. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from export.report import outdated
from export.report.results import Light, Row, System, key

Own = Mapping[Row, System]
"""its result of the recipe's own seed"""


@dataclass(frozen=True)
class Repeat:
    """A result of another seed than its recipe's own. why: what keeps it out of the mean; "" where it is in it."""

    system: System
    why: str


def gathered(found: Sequence[System]) -> tuple[list[System], tuple[Repeat, ...]]:
    """Those of the recipes' own seeds, with accuracy and light as means over all seeds that compare; and the others."""
    own = {s.row: s for s in found if not s.repeat}
    alone = {s.key: _apart(own.get(s.row), s) for s in found if s.repeat}
    repeats = tuple(Repeat(s, alone[s.key] or _begun_apart(own, s, alone)) for s in found if s.repeat)
    kept = [r.system for r in repeats if not r.why]
    return [_mean(s, [t for t in kept if t.row == of]) for of, s in own.items()], repeats


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


def _begun_apart(own: Own, s: System, alone: Mapping[str, str]) -> str:
    """What else than the seed is different in what it begins with. alone: key of a repeat -> why it is itself apart."""
    for name in _ancestors(own, s):
        its = own.get((name, s.variant, s.on))
        if its is None or its.seed == s.seed:  # a generator has no result; of this seed it has only the own one
            continue
        other = key(name, s.variant == "reduced", s.seed, s.on)
        if other not in alone:
            return f"{other}, which it begins with, has no result, though its recipe's own seed has one"
        if alone[other]:
            return f"{other}, which it begins with, is apart: {alone[other]}"
    return ""


def _ancestors(own: Own, s: System) -> list[str]:
    """The recipes whose networks it begins with or is taught by, directly or through another."""
    found: dict[str, None] = {}
    queue = [s]
    while queue:
        one = queue.pop(0)
        teachers = (one.trained.distil or {}).get("teachers", ()) if one.trained else ()
        for name in (*one.training.starts_from, *one.training.parts, *teachers):
            if name not in found:
                found[name] = None
                queue += [own[name, s.variant, s.on]] if (name, s.variant, s.on) in own else []
    return list(found)


def _budget(s: System) -> str:
    minutes = s.training.budget_minutes
    return "without a budget" if minutes is None else f"within {minutes:g} CPU minutes"
