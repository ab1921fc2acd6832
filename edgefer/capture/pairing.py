"""Which frames belong together: pure, time is an argument.

One slot for each lens; the newest frame wins and what it overwrites is counted. Two frames within the tolerance are
a pair. A frame without a partner waits for it, but never longer than the tolerance or half a frame period: of two
lenses with the same rate one always finds its partner within half a period, and a wait that ends before the next
frame can never cost the live lens a frame.

In lockstep (recordings played as fast as frames are taken) nothing is overwritten, and the decision waits until every
lens that still has frames has shown its next one: replay is deterministic.
"""

from __future__ import annotations

from collections.abc import Collection

from edgefer.types import Frame, Lens

Match = tuple[Frame | None, Frame | None]
"""(visible, infrared), at least one of them a frame"""


class Pairing:
    """The slots of both lenses and the rule that empties them. Not thread-safe: the mailbox holds the lock."""

    def __init__(self, tolerance_ms: float, fps: float, lockstep: bool = False) -> None:
        self._tolerance_ns = round(tolerance_ms * 1e6)
        self._patience_ns = round(min(tolerance_ms * 1e6, 0.5e9 / fps))
        self._lockstep = lockstep
        self._slots: dict[Lens, Frame | None] = dict.fromkeys(Lens)
        self._floor_ns = -1
        self._deadline_ns: int | None = None
        self.drops: dict[Lens, int] = dict.fromkeys(Lens, 0)
        """frames that were overwritten, or that came after a later moment had been delivered"""
        self.unpaired = 0
        """frames delivered alone although the other lens was alive"""

    def put(self, frame: Frame) -> None:
        """Fills the slot of the frame's lens; one from before the last delivery is dropped: time never goes back."""
        if frame.mono_ns <= self._floor_ns:
            self.drops[frame.lens] += 1
            return
        if self._slots[frame.lens] is not None:
            self.drops[frame.lens] += 1
        self._slots[frame.lens] = frame

    def waiting(self, lens: Lens) -> bool:
        """Whether a frame of ``lens`` has not been taken yet."""
        return self._slots[lens] is not None

    def empty(self) -> bool:
        return all(frame is None for frame in self._slots.values())

    def take(self, now_ns: int, awaited: Collection[Lens]) -> Match | None:
        """What can be delivered at ``now_ns``; None when nothing is there or a partner may still come.

        awaited: the lenses that are worth waiting for. No frame is ever delivered twice.
        """
        visible, infrared = self._slots[Lens.VISIBLE], self._slots[Lens.INFRARED]
        if visible is not None and infrared is not None:
            if abs(visible.mono_ns - infrared.mono_ns) <= self._tolerance_ns:
                return self._deliver(visible, infrared)
            older, newer = sorted((visible, infrared), key=lambda f: f.mono_ns)
            return self._apart(older, newer, now_ns, awaited)
        alone = visible or infrared
        return None if alone is None else self._alone(alone, now_ns, awaited)

    def wait_s(self, now_ns: int) -> float:
        """Seconds until a frame that waits for its partner may go alone; infinite when none waits."""
        return float("inf") if self._deadline_ns is None else max(0.0, (self._deadline_ns - now_ns) / 1e9)

    def _apart(self, older: Frame, newer: Frame, now_ns: int, awaited: Collection[Lens]) -> Match | None:
        if self._lockstep:
            self.unpaired += 1
            return self._deliver(older)
        self.drops[older.lens] += 1  # its partner was overwritten; the newer one's may still come
        self._slots[older.lens] = None
        return self._alone(newer, now_ns, awaited)

    def _alone(self, frame: Frame, now_ns: int, awaited: Collection[Lens]) -> Match | None:
        other = Lens.INFRARED if frame.lens is Lens.VISIBLE else Lens.VISIBLE
        if other not in awaited:
            return self._deliver(frame)
        if self._lockstep:
            return None
        if self._deadline_ns is None:  # never moved by later frames: a fast lens must not wait for ever
            self._deadline_ns = frame.mono_ns + self._patience_ns
        if now_ns < self._deadline_ns:
            return None
        self.unpaired += 1
        return self._deliver(frame)

    def _deliver(self, *frames: Frame) -> Match:
        self._deadline_ns = None
        self._floor_ns = min(f.mono_ns for f in frames)
        for frame in frames:
            self._slots[frame.lens] = None
        by_lens = {f.lens: f for f in frames}
        return by_lens.get(Lens.VISIBLE), by_lens.get(Lens.INFRARED)
