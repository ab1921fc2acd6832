"""Collects views of the board: from live lenses, from a recording, or from a folder of pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from edgefer.calibrate.boards import Board, Found
from edgefer.calibrate.judge import EDGE_PX, Tally, edge_px, is_grey
from edgefer.calibrate.solve import View
from edgefer.capture import open_rig
from edgefer.capture.picture import read_picture
from edgefer.capture.reel import PICTURES
from edgefer.config import Capture
from edgefer.errors import InputError
from edgefer.types import U8, Lens

MOST = 60
"""views that are kept; more make the solution slower, not better"""
NEWS = 0.04
"""a view is kept when the board moved by this share of the picture's width against every other"""
STILL_PX = 3.0
"""points of a board held still move less between two pictures"""


@dataclass(frozen=True)
class Pair:
    """visible uint8 [H, W, 3], infrared uint8 [H, W], either None; skew_ns between them, 0 where nobody knows."""

    visible: U8 | None
    infrared: U8 | None
    skew_ns: int = 0


@dataclass
class Captures:
    """The views kept so far and what was seen. stream: pairs follow each other, so the board must be held still.

    grey: the visible lens has no colour either, so that nothing tells a swap.
    """

    board: Board
    tolerance_ns: int
    stream: bool
    grey: bool = False
    views: list[View] = field(default_factory=list)
    patches: list[tuple[View, U8, U8]] = field(default_factory=list)
    """views both lenses share, and the pictures, the room outside the board blanked, so that nobody is in them"""
    sizes: dict[Lens, tuple[int, int]] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)
    _last: dict[Lens, Found | None] = field(default_factory=lambda: dict.fromkeys(Lens))

    def take(self, pair: Pair) -> str:
        """Looks at a pair; what came of it, in a few words for the terminal."""
        if pair.visible is None or pair.infrared is None:
            self.tally.alone += 1
            return "one lens alone"
        self.tally.pairs += 1
        self.tally.grey += not self.grey and is_grey(pair.visible)
        if pair.skew_ns > self.tolerance_ns:
            self.tally.apart += 1
            return "not simultaneous"
        greys = {Lens.VISIBLE: cv2.cvtColor(pair.visible, cv2.COLOR_BGR2GRAY), Lens.INFRARED: pair.infrared}
        found = {lens: self._look(lens, grey) for lens, grey in greys.items()}
        verdict = self._verdict(found)
        self._last = found
        if verdict == "kept":
            self._keep(View(found[Lens.VISIBLE], found[Lens.INFRARED]), greys)
        return verdict

    def _look(self, lens: Lens, grey: U8) -> Found | None:
        """The board if it is there and sharp."""
        self.sizes[lens] = (grey.shape[1], grey.shape[0])
        found = self.board.find(grey)
        if found is None:
            return None
        self.tally.seen[lens] += 1
        if edge_px(grey, found) > EDGE_PX:
            self.tally.blurred[lens] += 1
            return None
        return found

    def _verdict(self, found: dict[Lens, Found | None]) -> str:
        if not any(found.values()):
            return "no board"
        if self.stream and not all(_still(self._last[lens], f) for lens, f in found.items()):
            self.tally.moving += 1
            return "hold it still"
        if len(self.views) >= MOST:
            return "enough"
        if not any(f is not None and self._is_news(lens, f) for lens, f in found.items()):
            return "seen before"
        return "kept"

    def _is_news(self, lens: Lens, found: Found) -> bool:
        far = NEWS * self.sizes[lens][0]
        return all(_moved(found, known) > far for view in self.views if (known := view.on(lens)) is not None)

    def _keep(self, view: View, greys: dict[Lens, U8]) -> None:
        self.views.append(view)
        if view.visible is not None and view.infrared is not None:
            self.patches.append(
                (
                    view,
                    _board_alone(greys[Lens.VISIBLE], view.visible),
                    _board_alone(greys[Lens.INFRARED], view.infrared),
                )
            )


def _moved(a: Found, b: Found) -> float:
    """Mean distance of the points both have, pixels; endless when there are none."""
    _, i, j = np.intersect1d(a.ids, b.ids, return_indices=True)
    return float(np.linalg.norm(a.points[i] - b.points[j], axis=1).mean()) if len(i) else float("inf")


def _still(before: Found | None, now: Found | None) -> bool:
    return now is None or (before is not None and _moved(before, now) < STILL_PX)


def _board_alone(grey: U8, found: Found) -> U8:
    mask = np.zeros_like(grey)
    cv2.fillConvexPoly(mask, cv2.convexHull(found.points.round().astype(np.int32)), 255)
    return np.asarray(cv2.bitwise_and(grey, mask), np.uint8)


def from_folder(folder: Path) -> tuple[Iterator[Pair], bool]:
    """(pairs, whether they follow each other) of a recording or of folders visible/ and infrared/.

    Raises InputError.
    """
    if (folder / "recording.json").exists():
        return live(Capture(kind="recording", source=str(folder), realtime=False), lambda: False), True
    files = {lens: _pictures(folder / lens.value) for lens in Lens}
    lone = sorted(set(files[Lens.VISIBLE]) ^ set(files[Lens.INFRARED]))
    if lone:
        raise InputError(f"{folder}: '{lone[0]}' is in one of visible/ and infrared/ only; pairs have equal names")
    return _stills(files), False


def _pictures(folder: Path) -> dict[str, Path]:
    found = {p.stem: p for p in sorted(folder.glob("*")) if p.suffix.lower() in PICTURES}
    if not found:
        raise InputError(f"{folder}: holds no PNG or JPEG picture; name a recording, or a folder with visible/ and "
                         "infrared/")  # fmt: skip
    return found


def _stills(files: dict[Lens, dict[str, Path]]) -> Iterator[Pair]:
    for name, path in files[Lens.VISIBLE].items():
        grey: U8 = cv2.cvtColor(read_picture(files[Lens.INFRARED][name]), cv2.COLOR_BGR2GRAY)
        yield Pair(read_picture(path), grey)


def live(config: Capture, should_stop: Callable[[], bool]) -> Iterator[Pair]:
    """Pairs of the configured lenses until ``should_stop()`` or the end of a recording."""
    with open_rig(config) as rig:
        while not should_stop() and not rig.ended:
            pair = rig.next_pair(0.25)
            if pair is None:
                continue
            v, i = pair.visible, pair.infrared
            skew = abs(v.mono_ns - i.mono_ns) if v is not None and i is not None else 0
            yield Pair(v.image if v is not None else None, i.image if i is not None else None, skew)
