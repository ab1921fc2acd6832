"""Which frames belong together: pure, time is an argument.

The slower lens leads: each of its frames takes the nearest frame of the other within the tolerance, and what the faster
lens has to spare is dropped and counted. So two lenses that run free (30 and 25 frames/s, or both 25 and drifting) give
the slower one's rate in pairs, never further apart than half the faster one's period, and nothing queues up.

A leading frame waits for its partner at most the tolerance or half a frame period, and as much longer as the other
lens's frames take longer to arrive: of two lenses with the same rate one always finds its partner within half a period,
and a wait that ends before the next frame can never cost the live lens a frame. Then it goes alone. The faster lens
goes alone when the slower one is overdue by half a period.

In lockstep (recordings played as fast as frames are taken) nothing is overwritten, and the decision waits until every
lens that still has frames has shown its next one: replay is deterministic.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from typing import Final

from edgefer.types import Frame, Lens

Match = tuple[Frame | None, Frame | None]
"""(visible, infrared), at least one of them a frame"""

DEPTH: Final = 4
"""frames a lens may hold for partners that arrive later than it does; enough for 100 ms at 30 frames/s"""
NEAR_SHARE: Final = 0.6
"""of the slower lens's period: frames further apart than this have nearer neighbours, whatever the tolerance"""
OVERDUE: Final = 1.5
"""periods after which the slower lens is not waited for"""
LEAD_MARGIN: Final = 1.02
"""the lead changes hands only for a period this much longer"""


class LensTiming:
    """What is known of one lens: its frame period, how long its frames take to arrive, and when the last one came."""

    def __init__(self, fps: float) -> None:
        self.period_ns = 1e9 / fps
        self.latency_ns = 0.0
        self.stamp_ns: int | None = None
        self.arrival_ns = 0

    def see(self, stamp_ns: int, arrival_ns: int) -> None:
        """Averages over some sixteen frames; a gap counts as two periods at most: a pause is not a rate."""
        if self.stamp_ns is None:
            self.latency_ns = float(arrival_ns - stamp_ns)
        else:
            gap = min(float(stamp_ns - self.stamp_ns), 2 * self.period_ns)
            self.period_ns += (gap - self.period_ns) / 16
        self.latency_ns += (arrival_ns - stamp_ns - self.latency_ns) / 16
        self.stamp_ns, self.arrival_ns = stamp_ns, arrival_ns


class Pairing:
    """The frames that both lenses hold and the rule that takes them. Not thread-safe: the mailbox holds the lock."""

    def __init__(self, tolerance_ms: float, fps: float, lockstep: bool = False) -> None:
        self._limit_ns = round(tolerance_ms * 1e6)
        self._lockstep = lockstep
        self._held: dict[Lens, deque[tuple[Frame, int]]] = {lens: deque() for lens in Lens}
        self._timing = {lens: LensTiming(fps) for lens in Lens}
        self._lead = Lens.VISIBLE
        self._floor_ns = -1
        self._due_ns: float | None = None
        self.drops: dict[Lens, int] = dict.fromkeys(Lens, 0)
        """frames that no pair needed, that were overwritten, or that came after a later moment had been delivered"""
        self.unpaired = 0
        """frames delivered alone although the other lens was alive"""
        self.pairs = 0
        self.skews_ns: deque[int] = deque(maxlen=256)
        """visible less infrared stamp of the last pairs"""

    def put(self, frame: Frame, arrival_ns: int | None = None) -> None:
        """Takes a frame that came at ``arrival_ns`` (None: at its stamp). One that is not later than the last of its
        lens, or than the last delivery, is dropped: time never goes back."""
        arrival_ns = frame.mono_ns if arrival_ns is None else arrival_ns
        held, timing = self._held[frame.lens], self._timing[frame.lens]
        late = timing.stamp_ns is not None and frame.mono_ns <= timing.stamp_ns
        if not late:
            timing.see(frame.mono_ns, arrival_ns)
        if late or frame.mono_ns <= self._floor_ns:
            self.drops[frame.lens] += 1
            return
        if len(held) == DEPTH:
            self._drop_oldest(frame.lens)
        held.append((frame, arrival_ns))

    def waiting(self, lens: Lens) -> bool:
        """Whether a frame of ``lens`` has not been taken yet."""
        return bool(self._held[lens])

    def held(self, lens: Lens) -> int:
        return len(self._held[lens])

    def empty(self) -> bool:
        return not any(self._held.values())

    @property
    def tolerance_ns(self) -> float:
        """Frames further apart than this are no pair now, nanoseconds."""
        return min(self._limit_ns, NEAR_SHARE * max(t.period_ns for t in self._timing.values()))

    def take(self, now_ns: int, awaited: Collection[Lens]) -> Match | None:
        """What can be delivered at ``now_ns``; None when nothing is there or a partner may still come.

        awaited: the lenses that are worth waiting for. No frame is ever delivered twice.
        """
        if self._lockstep:
            return self._take_next(awaited)
        lead = self._choose_lead()
        other = _other(lead)
        self._due_ns = None
        if not self._held[lead]:
            return self._follower_alone(other, lead in awaited, now_ns)
        self._forget_hopeless(lead, other)
        return self._matched(lead, other, other in awaited, now_ns) or self._leader_alone(lead, other, awaited, now_ns)

    def wait_s(self, now_ns: int) -> float:
        """Seconds until what waits may go; infinite when nothing waits."""
        return float("inf") if self._due_ns is None else max(0.0, (self._due_ns - now_ns) / 1e9)

    def _patience_ns(self, lens: Lens) -> float:
        return min(self._limit_ns, 0.5 * self._timing[lens].period_ns)

    def _choose_lead(self) -> Lens:
        """The slower lens; the one that delivers when the other never has."""
        here, there = self._timing[self._lead], self._timing[_other(self._lead)]
        slower = there.period_ns > LEAD_MARGIN * here.period_ns
        if there.stamp_ns is not None and (slower or here.stamp_ns is None):
            self._lead = _other(self._lead)
        return self._lead

    def _matched(self, lead: Lens, other: Lens, alive: bool, now_ns: int) -> Match | None:
        """The newest leading frame that has its partner, unless a nearer one is due."""
        for leader, _ in reversed(self._held[lead]):
            near = [f for f, _ in self._held[other] if abs(f.mono_ns - leader.mono_ns) <= self.tolerance_ns]
            if not near:
                continue
            best = min(near, key=lambda f: abs(f.mono_ns - leader.mono_ns))
            due_ns = self._nearer_due_ns(leader, best) if alive else None
            if due_ns is None or now_ns >= due_ns:
                return self._deliver(leader, best)
            self._wait_until(due_ns)
        return None

    def _nearer_due_ns(self, leader: Frame, best: Frame) -> float | None:
        """When the other lens's next frame should be here, if it will be the nearer one; a quarter period of grace."""
        timing = self._timing[best.lens]
        assert timing.stamp_ns is not None
        next_ns = timing.stamp_ns + timing.period_ns
        if abs(next_ns - leader.mono_ns) >= 0.8 * abs(best.mono_ns - leader.mono_ns):
            return None
        return next_ns + timing.latency_ns + 0.25 * timing.period_ns

    def _leader_alone(self, lead: Lens, other: Lens, awaited: Collection[Lens], now_ns: int) -> Match | None:
        """The newest leading frame whose time to wait is over."""
        if other not in awaited and not self._held[other]:
            return self._deliver(self._held[lead][-1][0])
        extra = self._timing[other].latency_ns - self._timing[lead].latency_ns
        patience = self._patience_ns(lead) + min(max(0.0, extra), (DEPTH - 1) * self._timing[lead].period_ns)
        full = len(self._held[lead]) == DEPTH
        for leader, arrival_ns in reversed(self._held[lead]):
            if any(abs(f.mono_ns - leader.mono_ns) <= self.tolerance_ns for f, _ in self._held[other]):
                continue  # it has a partner and waits for a nearer one
            if full or now_ns >= arrival_ns + patience:
                self.unpaired += 1
                return self._deliver(leader)
            self._wait_until(arrival_ns + patience)
        return None

    def _follower_alone(self, lens: Lens, lead_alive: bool, now_ns: int) -> Match | None:
        if not self._held[lens]:
            return None
        frame, arrival_ns = self._held[lens][-1]
        if not lead_alive:
            return self._deliver(frame)
        timing = self._timing[_other(lens)]
        due_ns = arrival_ns + self._patience_ns(lens)
        if timing.stamp_ns is not None:
            due_ns = max(arrival_ns, timing.arrival_ns + OVERDUE * timing.period_ns)
        if now_ns < due_ns:
            self._wait_until(due_ns)
            return None
        self.unpaired += 1
        return self._deliver(frame)

    def _forget_hopeless(self, lead: Lens, other: Lens) -> None:
        """Leading frames that the other lens has passed by: something newer is there."""
        while self._held[lead] and self._held[other]:
            leader, followers = self._held[lead][0][0], self._held[other]
            if followers[0][0].mono_ns - leader.mono_ns <= self.tolerance_ns:
                return
            self._drop_oldest(lead)

    def _wait_until(self, due_ns: float) -> None:
        self._due_ns = due_ns if self._due_ns is None else min(self._due_ns, due_ns)

    def _take_next(self, awaited: Collection[Lens]) -> Match | None:
        """Lockstep: the older frame, with its partner when that is within the tolerance."""
        frames = [self._held[lens][0][0] for lens in Lens if self._held[lens]]
        if len(frames) == 2 and abs(frames[0].mono_ns - frames[1].mono_ns) <= self._limit_ns:
            return self._deliver(*frames)
        if len(frames) == 2:
            self.unpaired += 1
            return self._deliver(min(frames, key=lambda f: f.mono_ns))
        if not frames or _other(frames[0].lens) in awaited:
            return None
        return self._deliver(frames[0])

    def _deliver(self, *frames: Frame) -> Match:
        """Hands out, and drops of either lens what is not later than that."""
        self._floor_ns = min(f.mono_ns for f in frames)
        for frame in frames:
            held = self._held[frame.lens]
            while held[0][0] is not frame:
                self._drop_oldest(frame.lens)
            held.popleft()
        for lens in Lens:
            while self._held[lens] and self._held[lens][0][0].mono_ns <= self._floor_ns:
                self._drop_oldest(lens)
        by_lens = {f.lens: f for f in frames}
        visible, infrared = by_lens.get(Lens.VISIBLE), by_lens.get(Lens.INFRARED)
        if visible is not None and infrared is not None:
            self.pairs += 1
            self.skews_ns.append(visible.mono_ns - infrared.mono_ns)
        return visible, infrared

    def _drop_oldest(self, lens: Lens) -> None:
        self._held[lens].popleft()
        self.drops[lens] += 1


def _other(lens: Lens) -> Lens:
    return Lens.INFRARED if lens is Lens.VISIBLE else Lens.VISIBLE
