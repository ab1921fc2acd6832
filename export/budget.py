"""The epochs that a budget of processor time pays for (``--cpu-minutes``)."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path

import numpy as np

from export import checkpoint, trainer
from export.data.faces import Faces
from export.errors import UsageError
from export.models.network import Network
from export.recipe import Recipe, Step
from export.trainer import Say, Trainer

PLAN = "plan.json"
TIMED = 12
"""batches that a budget is worked out from"""


def allowed(minutes: float | None, recipe: Recipe) -> float | None:
    """Minutes of those given: half for a network made of trained parts; None: folds keep the recipe's own epochs."""
    if minutes is None or recipe.data.folds in ("person", "group"):
        return None
    return minutes / 2 if recipe.start or recipe.soup else minutes


def planned(minutes: float | None, recipe: Recipe, network: Network, faces: Faces, out: Path, say: Say) -> list[Step]:
    """The steps with the epochs that the budget pays for; measured once, then kept beside the checkpoints.

    Raises UsageError where the budget does not pay for one epoch of each size.
    """
    steps = recipe.training.steps
    if minutes is None or not steps:
        return steps
    file = out / PLAN
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError):  # a torn plan is made anew
        plan = json.loads(file.read_text(encoding="utf-8"))
        if plan["minutes"] == minutes:
            return [Step.model_validate(s) for s in plan["steps"]]
    say(f"{recipe.name}: timing {TIMED} batches of every size")
    cost = {(s.name, side): _epoch_cost(s, side, recipe, network, faces, out) for s in steps for side, _ in s.sizes}
    steps = within(steps, cost, 60 * minutes)
    for s in steps:
        say(f"{s.name}: " + ", ".join(f"{n} epochs at {side} px" for side, n in s.sizes))
    whole = {"minutes": minutes, "steps": [s.model_dump() for s in steps]}
    checkpoint.write_text(file, json.dumps(whole, indent=1) + "\n")
    return steps


def within(steps: list[Step], cost: dict[tuple[str, int], float], seconds: float) -> list[Step]:
    """``steps`` with their epochs scaled so that they cost ``seconds``; no size falls below one epoch."""
    each = {(s.name, k): cost[s.name, side] for s in steps for k, (side, _) in enumerate(s.sizes)}
    asked = {(s.name, k): n for s in steps for k, (_, n) in enumerate(s.sizes)}
    if sum(each.values()) > 1.5 * seconds:
        least = sum(each.values()) / 60
        raise UsageError(f"--cpu-minutes {seconds / 60:g}: one epoch of each size takes {least:.1f} minutes here")
    factor = seconds / sum(each[key] * n for key, n in asked.items())
    epochs = {key: max(1, math.floor(n * factor + 0.5)) for key, n in asked.items()}
    while sum(each[key] * n for key, n in epochs.items()) > 1.1 * seconds and max(epochs.values()) > 1:
        epochs[max((key for key, n in epochs.items() if n > 1), key=each.__getitem__)] -= 1
    new = [[(side, epochs[s.name, k]) for k, (side, _) in enumerate(s.sizes)] for s in steps]
    return [s.model_copy(update={"sizes": sizes}) for s, sizes in zip(steps, new, strict=True)]


def _epoch_cost(step: Step, side: int, recipe: Recipe, network: Network, faces: Faces, out: Path) -> float:
    """Processor seconds of one epoch at ``side`` pixels, loader included; the weights are put back.

    The quickest batch counts: others on the machine can only make one slower, and would cost the system its epochs.
    """
    before = {k: v.clone() for k, v in network.state_dict().items()}
    one = Trainer(step.model_copy(update={"sizes": [(side, 1)]}), recipe, network, out)
    one.network.train()
    batch = min(recipe.training.batch, len(faces))
    rows = faces if faces.sequence is not None else faces.take(np.arange(min(len(faces), TIMED * batch)))
    took, since = [], trainer.cpu_seconds()
    for examples in one.loader(rows):
        one.learn(examples)
        took.append(trainer.cpu_seconds() - since)
        since += took[-1]
    network.load_state_dict(before)
    return min(took) * max(1, len(faces) // batch)
