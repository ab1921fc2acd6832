"""What a finished training says of itself: its recipe, plan, curve and cost, and the cost of what it begins with."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from export import checkpoint, train
from export.budget import PLAN
from export.errors import InputError
from export.report.outdated import PARTS
from export.report.results import CurvePoint, Trained, Training
from export.train import Job

FULL = "full size"


def kept(path: Path) -> dict[str, Any]:
    """All that a finished training left behind, its recipe and cost among it. Raises InputError when there is none."""
    try:
        state = checkpoint.read_state(path)
        if not {"recipe", "data", "spent"} <= set(state):
            raise ValueError
    except FileNotFoundError:
        raise InputError(f"{path}: no checkpoint; run `python -m export train` first") from None
    except Exception as e:  # torch, pickle and zip raise types of their own
        raise InputError(f"{path}: not a checkpoint of this stage ({type(e).__name__}); train again") from None
    return state


def training(job: Job, folds: list[checkpoint.Trained], begun_with: list[str]) -> Training:
    """What all folds together cost; the rest is the first one's. begun_with: recipes, as trained."""
    total = {key: sum(t.spent[key] for t in folds) for key in ("cpu", "wall", "rows")}
    width = "as [reduced.model] of the recipe" if job.reduced else FULL
    made = folds[0].spent
    return Training(
        cpu_minutes=round(total["cpu"] / 60, 1), wall_minutes=round(total["wall"] / 60, 1), epochs=folds[0].epoch,
        images_seen=int(total["rows"]), width=width, precision=made["precision"],
        budget_minutes=made["budget"], starts_from=tuple(dict.fromkeys(begun_with)), parts=parts(job, begun_with),
    )  # fmt: skip


def parts(job: Job, begun_with: list[str]) -> dict[str, float | None]:
    """What every recipe cost that this one begins with, directly or through another: generators have no result."""
    found: dict[str, float | None] = {}
    queue = list(begun_with)
    while queue:
        name = queue.pop(0)
        if name not in found:
            found[name], further = _part(job, name)
            queue += further
    return found


def _part(job: Job, name: str) -> tuple[float | None, list[str]]:
    """CPU minutes of one, all its folds together, and what it begins with in turn."""
    if name.endswith(train.FOREIGN):
        return None, []
    part = job.beside(name)
    try:
        own = train.own_cpu(part)
        return None if own is None else round(own, 1), [*part.recipe.start.values(), *part.recipe.soup]
    except InputError:  # a figure that is not known keeps no other from being known
        return None, []


def trained(folder: Path) -> Trained:
    """What the checkpoint says: today's recipe may be another. Raises InputError when there is none."""
    state = kept(folder / train.NETWORK)
    then = state["recipe"]
    told = {key: then[key] for key in PARTS if key in then}
    return Trained(**told, planned=_planned(folder, then["training"]["steps"], state["spent"].get("budget")))


def _planned(folder: Path, steps: list[dict[str, Any]], budget: float | None) -> dict[str, Any]:
    """step -> sizes: the recipe's own without a budget, else those of the plan that was made for this one."""
    if steps and budget is not None:
        plan: dict[str, Any] = {}
        with contextlib.suppress(FileNotFoundError, ValueError):
            plan = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        steps = plan["steps"] if plan.get("minutes") == budget else []
    return {s["name"]: tuple(map(tuple, s["sizes"])) for s in steps}


def curve(folder: Path) -> tuple[CurvePoint, ...]:
    """Every epoch's loss and watched accuracy, from the log beside the checkpoints; () where there is none."""
    file = folder / "training.jsonl"
    if not file.is_file():
        return ()
    rows = list(_last_of_each(file.read_text(encoding="utf-8").splitlines()))
    return tuple(
        CurvePoint(epoch=k + 1, step=r["step"], loss=r["loss"], watch=r["watch"], lr=r["lr"])
        for k, r in enumerate(rows)
    )


def _last_of_each(lines: list[str]) -> Iterable[dict[str, Any]]:
    """The last row of every epoch: one that was cut off is repeated after a restart, and may be torn."""
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for line in lines:
        with contextlib.suppress(ValueError, KeyError):
            row = json.loads(line)
            found[row["step"], row["epoch"]] = row
    return found.values()
