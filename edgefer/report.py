"""Which messages a reading is worth: the state at its rate, an event for every change, health now and then.

Judgement only: messages are returned, not sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from edgefer.messages import EventDriver, EventSystem, Message, StateDriver
from edgefer.stamp import Stamper, state_message
from edgefer.types import Lens, LensState, Reading, Why

LENS_SETTLE_S = 0.5
"""a lens must keep its new state for this long before it is an event"""
CLOCK_STEP_S = 0.5
"""a smaller jump of the wall clock is no event"""


class Reporter:
    """bundle: ``name@version``; rate_hz: state messages per second; lenses: those configured; others are no news."""

    def __init__(self, stamper: Stamper, bundle: str, rate_hz: float, lenses: Iterable[Lens] = tuple(Lens)) -> None:
        self._stamper, self._bundle = stamper, bundle
        self._period_ns, self._due_ns = int(1e9 / rate_hz), 0
        self._last: Reading | None = None
        self._clock = ClockWatch()
        self._label = ""
        self._lenses = [LensWatch(lens) for lens in Lens if lens in set(lenses)]

    @property
    def stamper(self) -> Stamper:
        return self._stamper

    def set_rate(self, rate_hz: float) -> None:
        self._period_ns, self._due_ns = int(1e9 / rate_hz), 0

    def set_bundle(self, bundle: str) -> None:
        """``name@version`` of another network."""
        self._bundle = bundle

    def report(self, reading: Reading, now_ns: int) -> list[Message]:
        """Events first, so that a subscriber hears of a change before it sees the new state."""
        events = (*self._clock_events(), *self._driver_events(reading), *self._lens_events(reading, now_ns))
        messages: list[Message] = [*events]
        self._last = reading
        if now_ns >= self._due_ns:
            self._due_ns = max(self._due_ns + self._period_ns, now_ns + self._period_ns // 2)
            messages.append(self._state(reading))
        return messages

    def _state(self, reading: Reading) -> StateDriver:
        return state_message(self._stamper, reading, self._bundle)

    def _driver_events(self, r: Reading) -> list[EventDriver]:
        was = self._last
        found = []
        if was is not None and (was.why is Why.PRIVACY) != (r.why is Why.PRIVACY):
            before, after = ("on", "off") if was.why is Why.PRIVACY else ("off", "on")
            found.append(self._event(r, kind="privacy", before=before, after=after))
            self._label = ""  # what was before privacy is no news after it
        if was is not None and was.valid != r.valid:
            before, after = ("valid", "invalid") if was.valid else ("invalid", "valid")
            found.append(self._event(r, kind="validity", before=before, after=after, why=r.why))
        if r.valid and self._label not in ("", r.label):
            found.append(self._event(r, kind="label", before=self._label, after=r.label, conf=min(1.0, r.conf)))
        if r.valid:
            self._label = r.label
        return found

    def _event(self, r: Reading, **fields: Any) -> EventDriver:
        return self._stamper.message(EventDriver, r.mono_ns, **fields)

    def _clock_events(self) -> list[EventSystem]:
        step_s = self._clock.update(self._stamper.offset_ns())
        return (
            [] if step_s is None else [self._stamper.message(EventSystem, kind="clock_step", detail=f"{step_s:+.3f} s")]
        )

    def _lens_events(self, r: Reading, now_ns: int) -> list[EventSystem]:
        found: list[EventSystem] = []
        if r.why is Why.PRIVACY:  # released, not lost
            return found
        for watch in self._lenses:
            state = r.lenses[0] if watch.lens is Lens.VISIBLE else r.lenses[1]
            kind = watch.update(state, now_ns)
            if kind is not None:
                found.append(self._stamper.message(EventSystem, now_ns, kind=kind, lens=watch.lens, state=state))
        return found


class ClockWatch:
    """Notices that the wall clock was set: its distance from the monotonic clock jumped between two looks."""

    def __init__(self) -> None:
        self._offset_ns: int | None = None

    def update(self, offset_ns: int) -> float | None:
        """The step in seconds, None when there was none. Slewing (500 ppm) is far below CLOCK_STEP_S between looks."""
        before, self._offset_ns = self._offset_ns, offset_ns
        if before is None or abs(offset_ns - before) < CLOCK_STEP_S * 1e9:
            return None
        return (offset_ns - before) / 1e9


class LensWatch:
    """One lens, each change said once: ``lens_lost`` when it is no more looked through, ``lens_degraded`` when it is
    named but still used, ``lens_back`` when it is OK again."""

    def __init__(self, lens: Lens) -> None:
        self.lens = lens
        self._said = LensState.OK
        self._seen, self._since_ns = LensState.OK, 0

    def update(self, state: LensState, now_ns: int) -> str | None:
        if state is not self._seen:
            self._seen, self._since_ns = state, now_ns
        if state is self._said or now_ns - self._since_ns < LENS_SETTLE_S * 1e9:
            return None
        self._said = state
        if state is LensState.OK:
            return "lens_back"
        return "lens_degraded" if state.usable else "lens_lost"


class Every:
    """True once every ``period_s``, the first time after one whole period."""

    def __init__(self, period_s: float, clock_ns: Callable[[], int]) -> None:
        self._period_ns, self._clock_ns = int(period_s * 1e9), clock_ns
        self._due_ns = clock_ns() + self._period_ns

    def __call__(self) -> bool:
        now = self._clock_ns()
        if now < self._due_ns:
            return False
        self._due_ns = now + self._period_ns
        return True
