"""``edgefer calibrate``: from pictures of a board to the calibration file that `edgefer.align` reads.

    captures -> judge -> solve -> judge -> file, report

Refusals are lines of text, one for each fault; nothing is written but the report then.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgefer.calibrate import board_map, file, judge
from edgefer.calibrate.boards import Board
from edgefer.calibrate.captures import Captures, Pair
from edgefer.calibrate.report import write_report
from edgefer.calibrate.solve import common, solve_homography, solve_rig
from edgefer.errors import InputError


@dataclass(frozen=True)
class Plan:
    """out: the calibration file; report: an HTML file or None; quick: one homography from one board; grey: the
    visible lens has no colour."""

    board: Board
    out: Path
    report: Path | None = None
    quick: bool = False
    grey: bool = False


def calibrate(plan: Plan, pairs: Iterable[Pair], stream: bool, tolerance_ms: float) -> dict[str, Any]:
    """Collects, judges, solves and writes; returns what was written.

    pairs: until they end, or enough views were seen of a stream. Raises InputError after saying every reason on
    standard error, one line each.
    """
    captures = Captures(plan.board, round(tolerance_ms * 1e6), stream, plan.grey)
    collect(captures, pairs, plan.quick, Screen())
    judged = judge.quick_problems if plan.quick else judge.problems
    problems = judged(plan.board, captures.tally, captures.views, captures.sizes)
    description: dict[str, Any] | None = None
    if not problems:
        description, problems = (_quick if plan.quick else _full)(captures)
    if plan.report is not None:
        write_report(plan.report, captures, description, problems)
    if problems or description is None:
        for line in problems:
            print(f"edgefer: {line}", file=sys.stderr)
        raise InputError(f"{plan.out}: not written, the captures are not good enough ({len(problems)} reasons above)")
    file.write(plan.out, description)
    return description


def collect(captures: Captures, pairs: Iterable[Pair], quick: bool, show: Callable[[Captures, str], None]) -> None:
    """Takes pairs until they end; of a stream until nothing is missing."""
    for pair in pairs:
        show(captures, captures.take(pair))
        if captures.stream and is_enough(captures, quick):
            return


def is_enough(captures: Captures, quick: bool) -> bool:
    board, views, sizes = captures.board, captures.views, captures.sizes
    if quick:
        return not judge.quick_problems(board, captures.tally, views, sizes)
    if len(common(board, views)) < judge.VIEWS + 6:
        return False
    return not judge.problems(board, captures.tally, views, sizes)


def _full(captures: Captures) -> tuple[dict[str, Any] | None, list[str]]:
    fit = solve_rig(captures.board, captures.views, captures.sizes)
    problems = judge.fit_problems(fit)
    return (None if problems else file.rig_description(captures.board, fit, captures.sizes)), problems


def _quick(captures: Captures) -> tuple[dict[str, Any] | None, list[str]]:
    """From the view of the largest board both lenses share."""
    best = max(common(captures.board, captures.views), key=lambda c: float(c.visible.std(0).prod()) * len(c.board))
    homography, rms = solve_homography(best)
    if rms > judge.QUICK_RMS_PX:
        return None, [f"the lenses agree to {rms:.1f} px only: hold the board still and flat"]
    return file.quick_description(captures.board, homography, rms, captures.sizes), []


class Screen:
    """The map, redrawn in place on a terminal; elsewhere a line for every view kept."""

    def __init__(self) -> None:
        self._terminal, self._height = sys.stderr.isatty(), 0

    def __call__(self, captures: Captures, news: str) -> None:
        if not self._terminal:
            if news == "kept":
                print(f"view {len(captures.views)} of pair {captures.tally.pairs}", file=sys.stderr)
            return
        rows = board_map.lines(captures.board, captures.views, captures.sizes, news)
        up = f"\x1b[{self._height}A" if self._height else ""
        print(up + "".join(f"\x1b[2K{row}\n" for row in rows), end="", file=sys.stderr, flush=True)
        self._height = len(rows)
