"""The array camera: its sources, their threads, and the newest pair of frames."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType

from edgefer.capture.mailbox import Mailbox, States
from edgefer.capture.reader import Reader
from edgefer.capture.source import Clock, Source
from edgefer.config import Capture
from edgefer.types import FramePair, Lens, now_ns

JOIN_S = 2.0
"""how long `Rig.stop` waits for the readers: OpenCV comes back from a read within one second"""


class Rig:
    """Runs one reader thread for each source. A context manager; used once: start, then stop.

    sources: a lens that none serves is LOST and never waited for. Two may serve the same one: the better is looked
    through, and the other takes over when it dies.
    lockstep: nothing is dropped, each reader waits until its frame was taken, and frame times are the clock.
    Raises ValueError when three sources serve the same lens, or two in lockstep.
    """

    def __init__(
        self, sources: Sequence[Source], config: Capture, clock: Clock = now_ns, lockstep: bool = False
    ) -> None:
        units = [_unit(sources, k) for k in range(len(sources))]
        if max(units, default=0) > (0 if lockstep else 1):
            raise ValueError(f"too many sources serve the same lens: {[source.lenses for source in sources]}")
        eyes = [(lens, unit) for source, unit in zip(sources, units, strict=True) for lens in source.lenses]
        self.lenses: tuple[Lens, ...] = tuple(dict.fromkeys(lens for lens, _ in eyes))
        self._mailbox = Mailbox(config, eyes, lockstep, clock)
        self._readers = [
            Reader(source, self._mailbox, config.reopen_s, clock, unit)
            for source, unit in zip(sources, units, strict=True)
        ]

    def start(self) -> None:
        """Starts the readers; they open their sources, so a missing camera delays nobody."""
        self._mailbox.start()
        for reader in self._readers:
            reader.start()

    def stop(self) -> None:
        """Stops the readers and joins them, ``JOIN_S`` seconds at most; then their sources are closed.

        One whose driver hangs is warned of and left behind; its thread does not keep the process alive, and closes
        the source should the driver ever return. Harmless when repeated.
        """
        for reader in self._readers:
            reader.ask_to_stop()
        self._mailbox.close()
        give_up = time.monotonic() + JOIN_S
        for reader in self._readers:
            reader.join(max(0.0, give_up - time.monotonic()))

    def held(self) -> list[str]:
        """The names of the lenses that `stop` could not let go of, and that are open still."""
        return [reader.name for reader in self._readers if reader.held]

    def __enter__(self) -> Rig:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def next_pair(self, timeout_s: float) -> FramePair | None:
        """The newest frames not yet delivered, both when they are within the tolerance, else one of them alone.

        Waits at most ``timeout_s`` seconds. When nothing came: a pair without frames if every lens is LOST, else None
        (also while a camera is still opening, after the end of a recording, and after `stop`). Pair times increase.
        Raises InputError when a recording is damaged, and whatever else stopped a reader.
        """
        return self._mailbox.next_pair(timeout_s)

    def states(self) -> States:
        """What the visible and the infrared lens are worth now."""
        return self._mailbox.states()

    def now_ns(self) -> int:
        """The clock that frame times are measured by; in lockstep the time of the newest frame delivered."""
        return self._mailbox.now_ns()

    @property
    def ended(self) -> bool:
        """Whether every source is over and its last frame was taken. Live cameras never end before `stop`.

        Never after what `next_pair` raises: a loop until the end cannot miss it.
        """
        return self._mailbox.ended

    def stuck(self, limit_s: float) -> bool:
        """Whether every reader that still runs has made no step for longer than ``limit_s``: a driver hangs.

        Reads that bring nothing are steps, and waiting to open a lost camera again is never stuck. False before
        `start` and when every reader has ended. For the watchdog: a hung call cannot be cured from within.
        """
        idle = [reader.idle_s() for reader in self._readers if reader.running]
        return bool(idle) and min(idle) > limit_s

    def counters(self) -> dict[str, int]:
        """Counts since the start, for both lenses: {lens}_frames, _drops, _reopened and _clock_jumps (and _switches
        between two of a kind); pairs and unpaired."""
        counts = self._mailbox.counters()
        for lens in Lens:
            counts[f"{lens.value}_reopened"] = sum(r.reopened for r in self._readers if lens in r.lenses)
        return counts

    def timing(self) -> dict[str, float]:
        """Now, of the lenses: tolerance_ms in force; skew_p50_ms (visible less infrared) and skew_p99_ms (without
        sign) of the last 256 pairs; {lens}_drift_ppm of a lens that stamps with its own clock."""
        return self._mailbox.timing()

    def note_face(self, lens: Lens | None) -> None:
        """On which lens the face was found, None: on none. The one thing that flows back: of two lenses of a spectrum
        the one that shows the face is the better one."""
        self._mailbox.note_face(lens)


def _unit(sources: Sequence[Source], k: int) -> int:
    """How many sources before the k-th serve one of its lenses."""
    return sum(bool(set(sources[k].lenses) & set(earlier.lenses)) for earlier in sources[:k])
