"""What `edgefer calibrate` does with its arguments, and what it says afterwards."""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgefer.calibrate import Plan, boards, calibrate, captures, page
from edgefer.config import Capture
from edgefer.errors import EX_OK

A4_MM = (287, 200)
"""what a printer can reach of an A4 sheet"""


def print_board(spec: str, path: Path) -> int:
    """Writes the board and says how to print it."""
    board = boards.parse(spec)
    width, height = page.write_board(board, path)
    fits = "fits A4, landscape" if width <= A4_MM[0] and height <= A4_MM[1] else "larger than A4"
    print(f"{path}: {board}, {width:.0f} x {height:.0f} mm, {fits}\n{page.ADVICE}")
    return EX_OK


def from_folder(args: Namespace) -> int:
    """Calibrates from a recording or a folder of pairs."""
    pairs, stream = captures.from_folder(args.pairs)
    _say(args.out, calibrate(_plan(args), pairs, stream, Capture().tolerance_ms))
    return EX_OK


def from_lenses(args: Namespace, config: Capture, should_stop: Callable[[], bool]) -> int:
    """Calibrates from what the configured lenses see, until all is seen, ``args.seconds`` or a signal."""
    end = time.monotonic() + args.seconds
    print(f"looking for {args.board}; Ctrl-C ends the collection", file=sys.stderr)
    pairs = captures.live(config, lambda: should_stop() or time.monotonic() > end)
    _say(args.out, calibrate(_plan(args), pairs, True, config.tolerance_ms))
    return EX_OK


def _plan(args: Namespace) -> Plan:
    report = args.report if args.report is not None else args.out.with_suffix(".html")
    return Plan(boards.parse(args.board), args.out, report, args.quick, args.grey_visible)


def _say(out: Path, found: Mapping[str, Any]) -> None:
    if "rotation" not in found:
        print(f"{out}: one homography, error {found['rms_px']:.2f} px, right at the distance of the board only")
    else:
        for name in ("visible", "infrared"):
            lens = found[name]
            print(f"{name:<9} focal length {lens['matrix'][0][0]:.1f} px, error {lens['rms_px']:.2f} px")
        print(f"{out}: baseline {found['baseline_mm']:.1f} mm, error {found['rms_px']:.2f} px, {found['views']} views")
    print(f'set align.calibration = "{out}"')
