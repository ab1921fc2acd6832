"""One plain progress line: rewritten in place on a terminal, whole lines anywhere else."""

from __future__ import annotations

import sys
from typing import TextIO


class Progress:
    """Callable that shows a line. A line that starts with ``\\r`` is passing: the next one takes its place."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._terminal = self._stream.isatty()
        self._passing = 0

    def __call__(self, line: str) -> None:
        passing, text = line.startswith("\r"), line.lstrip("\r")
        if not self._terminal:
            self._write(text + "\n")
            return
        self._write("\r" + text.ljust(self._passing) + ("" if passing else "\n"))
        self._passing = len(text) if passing else 0

    def close(self) -> None:
        """Leave a passing line standing, so that what follows starts on a line of its own."""
        if self._passing:
            self._write("\n")
            self._passing = 0

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
