"""The report: one HTML file with its pictures inside, to be looked at and kept with the unit."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edgefer.calibrate.boards import Board
from edgefer.calibrate.captures import Captures
from edgefer.calibrate.solve import View, common
from edgefer.errors import InputError
from edgefer.types import F64, U8, Lens

STYLE = "body{font:15px sans-serif;max-width:900px;margin:2em auto}td,th{padding:2px 12px;text-align:left}"
LAID = """Both lenses laid over each other at the distance of the homography (red infrared, green visible). A board
nearer or farther is off by the parallax."""
COLOURS = {Lens.VISIBLE: (60, 120, 20), Lens.INFRARED: (40, 40, 190)}


def write_report(
    path: Path, captures: Captures, description: Mapping[str, Any] | None, problems: Sequence[str]
) -> None:
    """description: the calibration file's content, None when there is none. Raises InputError."""
    parts = [_verdict(problems), _numbers(captures, description)]
    for lens in Lens:
        if lens in captures.sizes:
            parts.append(_figure(f"Where the {lens.value} lens saw the board", coverage(captures, lens)))
    if description is not None and captures.patches:
        h = np.asarray(description["homography"])
        parts.append(_figure(LAID, overlay(captures, h)))
    page = f"<!doctype html><meta charset=utf-8><title>Calibration</title><style>{STYLE}</style>" + "".join(parts)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
    except OSError as e:
        raise InputError(f"{path}: cannot be written: {e.strerror}") from None


def coverage(captures: Captures, lens: Lens) -> U8:
    """Every point of every view on a blank picture, uint8 [H, W, 3]."""
    w, h = captures.sizes[lens]
    canvas = np.full((h, w, 3), 245, np.uint8)
    for view in captures.views:
        found = view.on(lens)
        for x, y in found.points if found is not None else ():
            cv2.circle(canvas, (round(float(x)), round(float(y))), 2, COLOURS[lens], -1, cv2.LINE_AA)
    return canvas


def overlay(captures: Captures, homography: F64) -> U8:
    """The boards of the view whose points the homography fits best, in the infrared picture, uint8 [H, W, 3]."""
    errors = [_misfit(captures.board, view, homography) for view, _, _ in captures.patches]
    _, visible, infrared = captures.patches[int(np.argmin(errors))]
    laid = cv2.warpPerspective(visible, homography, (infrared.shape[1], infrared.shape[0]))
    return np.asarray(cv2.merge((np.zeros_like(infrared), laid, infrared)), np.uint8)


def _misfit(board: Board, view: View, homography: F64) -> float:
    """Mean distance of the view's points from where the homography puts them, pixels; endless when few are shared."""
    return min(
        (
            float(
                np.abs(cv2.perspectiveTransform(c.visible[None].astype(np.float64), homography)[0] - c.infrared).mean()
            )
            for c in common(board, [view])
        ),
        default=float("inf"),
    )


def _verdict(problems: Sequence[str]) -> str:
    if not problems:
        return "<h1>Calibration of the lenses</h1>"
    rows = "".join(f"<li>{html.escape(p)}</li>" for p in problems)
    return f"<h1>Not calibrated</h1><ul>{rows}</ul>"


def _numbers(captures: Captures, description: Mapping[str, Any] | None) -> str:
    t = captures.tally
    rows = [("board", str(captures.board)), ("pairs looked at", t.pairs), ("views kept", len(captures.views))]
    rows += [(f"{lens.value}: board seen in", t.seen[lens]) for lens in Lens]
    for lens in Lens if description else ():
        of = (description or {}).get(lens.value)
        if of:
            k = np.asarray(of["matrix"])
            rows.append((f"{lens.value}: focal length", f"{k[0, 0]:.1f} x {k[1, 1]:.1f} px"))
            rows.append((f"{lens.value}: centre", f"{k[0, 2]:.1f}, {k[1, 2]:.1f} px"))
            rows.append((f"{lens.value}: distortion k1 k2 p1 p2 k3", " ".join(f"{v:.4f}" for v in of["distortion"])))
            rows.append((f"{lens.value}: reprojection error", f"{of['rms_px']:.3f} px over {of['views']} views"))
    for key, unit in (("made", ""), ("baseline_mm", "mm"), ("rms_px", "px"), ("views", "")):
        if description and key in description:
            value = description[key]
            rows.append((key, f"{value:.2f} {unit}" if isinstance(value, float) else str(value)))
    return "<table>" + "".join(f"<tr><th>{html.escape(str(k))}<td>{html.escape(str(v))}" for k, v in rows) + "</table>"


def _figure(title: str, image: U8) -> str:
    coded = base64.b64encode(cv2.imencode(".png", image)[1].tobytes()).decode()
    return f"<h2>{html.escape(title)}</h2><img src='data:image/png;base64,{coded}'>"
