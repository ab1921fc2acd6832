"""When a frame was taken, on the host's clock. Pure.

A lens stamps its frames with the host's clock (V4L2 buffers, arrival times) or with its own (hardware counters, RTP). A
stamp that can be true on the host's clock is left alone: it knows of exposure and transfer what the arrival does not.
Any other is moved by an estimated offset: the least delay seen, which may rise by ``MAX_DRIFT`` again, since a clock of
its own drifts and a queue only ever delays (the leaky minimum of one-way time transfer). A lens whose stamps are true
on the host's clock again, and were off by less than ``JUMP_NS``, had a wild stamp and no clock of its own.
"""

from __future__ import annotations

from collections import deque
from typing import Final

MAX_AGE_NS: Final = 1_000_000_000
"""a stamp this old on arrival is of another clock: no live camera is a second late"""
MAX_EARLY_NS: Final = 5_000_000
JUMP_NS: Final = 250_000_000
"""a step back of this size is a clock that was set; smaller ones are frames out of order"""
MAX_DRIFT: Final = 500e-6
"""ten times what a quartz does, so that a step of temperature is followed too"""
SETTLE: Final = 5
"""frames in a row that must be late before the clock, and not the transport, is blamed; and that must be plausible
before a lens is believed to stamp with the host's clock again"""
DRIFT_WINDOW_S: Final = 60.0


class LensClock:
    """Turns one lens's stamps into host times. ``jumps`` counts the steps of its clock."""

    def __init__(self) -> None:
        self._offset_ns: float | None = None
        """host less device; None: the stamps are the host's own"""
        self._device_ns: int | None = None
        self._host_ns = -(2**62)
        self._arrival_ns = 0
        self._late: list[int] = []
        self._plausible = 0
        """stamps in a row that can be the host's"""
        self._marks: deque[tuple[int, float]] = deque()
        self.jumps = 0

    def host_ns(self, device_ns: int, arrival_ns: int) -> int:
        """The host time of a frame stamped ``device_ns`` that came at ``arrival_ns``, nanoseconds.

        Never later than the arrival by more than ``MAX_EARLY_NS``; later than the frame before if its stamp is.
        """
        back = self._device_ns is not None and device_ns <= self._device_ns
        stepped = self._device_ns is not None and self._device_ns - device_ns >= JUMP_NS
        self._plausible = self._plausible + 1 if _plausible(device_ns, arrival_ns) else 0
        if self._offset_ns is not None and self._plausible >= SETTLE and abs(self._offset_ns) < JUMP_NS:
            self._offset_ns = None
            self._marks.clear()
        elif self._offset_ns is None and (stepped or not self._plausible):
            self.jumps += self._device_ns is not None
            self._anchor(arrival_ns - device_ns, arrival_ns)
        elif self._offset_ns is not None:
            self._track(arrival_ns - device_ns, arrival_ns, stepped)
        self._arrival_ns = arrival_ns
        host = self._moved(device_ns, arrival_ns)
        if not back or stepped:
            self._device_ns = device_ns
            host = max(host, self._host_ns + 1)
        self._host_ns = max(host, self._host_ns)
        return host

    @property
    def drift_ppm(self) -> float:
        """How much faster the lens's clock runs than the host's, parts per million; 0 on the host's own clock, and
        before ``DRIFT_WINDOW_S`` / 4 seconds have shown it."""
        if len(self._marks) < 2:
            return 0.0
        (start_ns, first), (end_ns, last) = self._marks[0], self._marks[-1]
        if end_ns - start_ns < DRIFT_WINDOW_S / 4 * 1e9:
            return 0.0
        return (first - last) / (end_ns - start_ns) * 1e6

    def _moved(self, device_ns: int, arrival_ns: int) -> int:
        if self._offset_ns is None:
            return device_ns
        return min(arrival_ns, device_ns + round(self._offset_ns))

    def _track(self, delay_ns: int, arrival_ns: int, stepped: bool) -> None:
        """Follows the least delay; a step back, or a delay that stays, is a new anchor."""
        assert self._offset_ns is not None
        leak = (arrival_ns - self._arrival_ns) * MAX_DRIFT
        self._late = [*self._late, delay_ns] if delay_ns > self._offset_ns + JUMP_NS else []
        if stepped or len(self._late) >= SETTLE:
            self.jumps += 1
            self._anchor(min(self._late or [delay_ns]), arrival_ns)
            return
        if self._offset_ns - delay_ns >= JUMP_NS:
            self.jumps += 1
            self._anchor(delay_ns, arrival_ns)
            return
        self._offset_ns = min(float(delay_ns), self._offset_ns + leak)
        self._mark(arrival_ns)

    def _anchor(self, delay_ns: int, arrival_ns: int) -> None:
        self._offset_ns, self._late = float(delay_ns), []
        self._marks.clear()
        self._mark(arrival_ns)

    def _mark(self, arrival_ns: int) -> None:
        """One mark a second at most, for the drift."""
        assert self._offset_ns is not None
        if self._marks and arrival_ns - self._marks[-1][0] < 1_000_000_000:
            return
        self._marks.append((arrival_ns, self._offset_ns))
        while arrival_ns - self._marks[0][0] > DRIFT_WINDOW_S * 1e9:
            self._marks.popleft()


def _plausible(stamp_ns: int, arrival_ns: int) -> bool:
    return -MAX_EARLY_NS <= arrival_ns - stamp_ns <= MAX_AGE_NS
