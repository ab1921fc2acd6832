"""The live map in the terminal: where in either picture the board was, and what is still wanted. Pure text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgefer.calibrate.boards import Board
from edgefer.calibrate.judge import TILT_DEG, VIEWS, empty_corners, tilt_deg
from edgefer.calibrate.solve import View, common
from edgefer.types import Lens

ACROSS, DOWN = 16, 6


def cells(views: Sequence[View], lens: Lens, size: tuple[int, int]) -> list[str]:
    """DOWN lines of ACROSS cells: a block where a point of the board was, else a dot."""
    hit = np.zeros((DOWN, ACROSS), bool)
    for view in views:
        found = view.on(lens)
        if found is not None:
            x, y = (found.points / np.array(size) * (ACROSS, DOWN)).astype(int).clip(0, (ACROSS - 1, DOWN - 1)).T
            hit[y, x] = True
    return ["".join("█" if h else "·" for h in row) for row in hit]


def lines(board: Board, views: Sequence[View], sizes: dict[Lens, tuple[int, int]], news: str) -> list[str]:
    """A fixed number of lines: both maps side by side, the count, what came of the last pair, and what to do next."""
    if len(sizes) < 2:
        return [f"waiting for both lenses ({news})"]
    maps = zip(*(cells(views, lens, sizes[lens]) for lens in Lens), strict=True)
    head = f"  {'visible':<{ACROSS}}    infrared"
    shared = len(common(board, views))
    return [head, *(f"  {a}    {b}" for a, b in maps), f"  {shared} of {VIEWS} views, {news}",
            f"  {wanted(board, views, sizes, shared)}"]  # fmt: skip


def wanted(board: Board, views: Sequence[View], sizes: dict[Lens, tuple[int, int]], shared: int) -> str:
    """The next thing to do; empty when nothing is missing."""
    for lens in Lens:
        found = [f for view in views if (f := view.on(lens)) is not None]
        corners = empty_corners(found, sizes[lens])
        if corners and shared >= 3:
            return f"hold the board to the {corners[0]} of the {lens.value} picture"
        if len(found) >= 5 and tilt_deg(board, found, sizes[lens]) < TILT_DEG:
            return "turn the board left, right, up and down"
    return "" if shared >= VIEWS else "move the board to another place, hold it still for a moment"
