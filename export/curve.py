"""The learning curve beside a training's checkpoints (``training.jsonl``, a row per epoch), and when it is flat.

A row is written before its checkpoint, and :func:`keep` drops those that no checkpoint stands behind: the curve is that
of the one training that the folder holds, however often it was interrupted or begun anew.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from export import checkpoint

LOG = "training.jsonl"
Row = dict[str, Any]


def keep(folder: Path, backed: Callable[[Row], bool]) -> None:
    """Drop the rows that are not ``backed`` by a checkpoint, torn ones, and all but the last of an epoch."""
    path, found = folder / LOG, dict[tuple[str, int], Row]()
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            row = json.loads(line)
            if backed(row):
                found[row.get("step", ""), row["epoch"]] = row
    checkpoint.write_text(path, "".join(f"{json.dumps(row)}\n" for row in found.values()))


def add(folder: Path, row: Row) -> None:
    with (folder / LOG).open("a", encoding="utf-8") as f:
        f.write(json.dumps(row) + "\n")


def plateau_factor(judged: list[float], patience: int = 5) -> float:
    """A tenth for every time what is judged (larger is better) had no new best for ``patience`` epochs.

    The papers name ReduceLROnPlateau and not its settings; five epochs are our choice.
    """
    factor, best, since = 1.0, float("-inf"), 0
    for value in judged:
        since = 0 if value > best else since + 1
        best = max(best, value)
        if since >= patience:
            factor, since = factor * 0.1, 0
    return factor
