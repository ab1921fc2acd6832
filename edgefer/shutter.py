"""The array camera behind a shutter: closed, the lenses are let go of and nothing is read. For the pipeline, a rig."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from types import TracebackType

from edgefer.capture.rig import Rig
from edgefer.types import FramePair, Lens


class Shutter:
    """``make`` gives a rig that was not started yet, and another one for every time the shutter opens again.

    One thread calls everything. Raises what ``make`` raises, at once.
    """

    def __init__(self, make: Callable[[], Rig], closed: bool = False) -> None:
        self._make, self._rig = make, make()
        self.closed = closed
        self._used, self._never = False, threading.Event()
        self._before: Counter[str] = Counter()
        self._behind: list[Rig] = []
        self.lenses: tuple[Lens, ...] = self._rig.lenses

    def __enter__(self) -> Shutter:
        if not self.closed:
            self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._rig.stop()

    def _start(self) -> None:
        self._used = True
        self._rig.start()

    def close(self) -> None:
        """Lets go of the lenses; at most the two seconds of `Rig.stop`. Harmless when repeated."""
        if not self.closed:
            self.closed = True
            self._rig.stop()

    def held(self) -> list[str]:
        """The lenses that ``close`` could not let go of since their driver hangs; now, and of all rigs."""
        return list(dict.fromkeys(name for rig in (*self._behind, self._rig) for name in rig.held()))

    def open(self) -> None:
        """Takes the lenses again. Raises what ``make`` raises; the shutter stays closed then."""
        if self.closed:
            if self._used:
                old, self._rig = self._rig, self._make()
                self._before.update(old.counters())
                self._behind = [rig for rig in (*self._behind, old) if rig.held()]
            self._start()
            self.closed = False

    def next_pair(self, timeout_s: float) -> FramePair | None:
        """See `Rig.next_pair`; closed: None after ``timeout_s``."""
        if not self.closed:
            return self._rig.next_pair(timeout_s)
        self._never.wait(timeout_s)
        return None

    def now_ns(self) -> int:
        return self._rig.now_ns()

    def note_face(self, lens: Lens | None) -> None:
        self._rig.note_face(lens)

    def timing(self) -> dict[str, float]:
        return self._rig.timing()

    @property
    def ended(self) -> bool:
        return not self.closed and self._rig.ended

    def stuck(self, limit_s: float) -> bool:
        return not self.closed and self._rig.stuck(limit_s)

    def counters(self) -> dict[str, int]:
        """Of all rigs together, see `Rig.counters`."""
        return {name: n + self._before[name] for name, n in self._rig.counters().items()}
