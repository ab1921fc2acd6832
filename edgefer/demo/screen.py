"""Where the live table is drawn."""

from __future__ import annotations

import shutil
import sys
import time

from edgefer.demo import table


class Screen:
    """Redraws in place on a terminal; elsewhere a line a second."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._height, self._next = 0, 0.0

    def show(self, board: table.Board) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + (0.1 if self._terminal else 1.0)
        if not self._terminal:
            print(table.one_line(board), flush=True)
            return
        width = shutil.get_terminal_size().columns
        rows = [row[:width] for row in table.lines(board)]
        up = f"\x1b[{self._height}A" if self._height else ""
        print(up + "".join(f"\x1b[2K{row}\n" for row in rows), end="", flush=True)
        self._height = len(rows)
