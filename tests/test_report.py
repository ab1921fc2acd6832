"""Which messages a reading is worth."""

from __future__ import annotations

from edgefer.messages import EventDriver, EventSystem, Message, StateDriver
from edgefer.report import Reporter
from edgefer.stamp import Stamper
from edgefer.types import UNKNOWN, Lens, LensState, Reading, Why

S = 1_000_000_000
OK, LOST, BLACK = LensState.OK, LensState.LOST, LensState.BLACK


def reading(t_s: float, label: str = "happiness", why: Why | None = None, lenses: tuple = (OK, OK)) -> Reading:
    shown = UNKNOWN if why else label
    return Reading(shown, 0.9, {label: 0.9}, why, 0.9, 0.0, lenses, int(t_s * S))


class Drive:
    """Feeds readings at 25 frames a second and collects what is published."""

    def __init__(self, rate_hz: float = 5.0, lenses: tuple = tuple(Lens)) -> None:
        stamper = Stamper("car", "0" * 8, "00000000-0000-0000-0000-000000000000", wall_ns=lambda: 0, mono_ns=lambda: 0)
        self.reporter, self.t, self.said = Reporter(stamper, "default@1.0.0", rate_hz, lenses), 0.0, list[Message]()

    def go(self, seconds: float, **how: object) -> list[Message]:
        said: list[Message] = []
        for _ in range(round(seconds * 25)):
            said += self.reporter.report(reading(self.t, **how), int(self.t * S))  # type: ignore[arg-type]
            self.t += 0.04
        return said


def of(kind: type[Message], said: list[Message]) -> list[Message]:
    return [m for m in said if isinstance(m, kind)]


def test_states_come_at_their_rate_whatever_the_frame_rate() -> None:
    assert len(of(StateDriver, Drive(5.0).go(4.0))) in (20, 21)
    assert len(of(StateDriver, Drive(2.0).go(4.0))) in (8, 9)
    assert len(of(StateDriver, Drive(30.0).go(4.0))) == 100, "never more than there are readings"


def test_a_change_of_label_is_one_event_at_once() -> None:
    drive = Drive()
    assert not of(EventDriver, drive.go(1.0))
    said = drive.go(1.0, label="neutral")
    events = of(EventDriver, said)
    assert [(e.kind, e.before, e.after) for e in events] == [("label", "happiness", "neutral")]  # type: ignore[attr-defined]
    assert said[0] is events[0]


def test_validity_is_an_event_with_its_reason_and_no_label_change_by_itself() -> None:
    drive = Drive()
    drive.go(1.0)
    gone = of(EventDriver, drive.go(1.0, why=Why.NO_FACE))
    back = of(EventDriver, drive.go(1.0))
    assert [(e.before, e.after, e.why) for e in gone] == [("valid", "invalid", Why.NO_FACE)]  # type: ignore[attr-defined]
    assert [(e.kind, e.after, e.why) for e in back] == [("validity", "valid", None)]  # type: ignore[attr-defined]


def test_a_lens_is_reported_once_when_lost_and_once_when_back() -> None:
    drive = Drive()
    drive.go(1.0)
    lost, back = drive.go(2.0, lenses=(LOST, OK)), drive.go(2.0)
    assert [(e.kind, e.lens, e.state) for e in of(EventSystem, lost)] == [("lens_lost", "visible", LOST)]  # type: ignore[attr-defined]
    assert [(e.kind, e.lens, e.state) for e in of(EventSystem, back)] == [("lens_back", "visible", OK)]  # type: ignore[attr-defined]


def test_the_order_is_seq_and_an_instant_is_the_capture_s_where_there_is_one() -> None:
    """A lens is lost when that is seen; a face changed when its picture was taken, a little earlier than that."""
    drive = Drive(30.0)
    drive.go(1.0)
    said: list[Message] = []
    for n in range(25):
        one = reading(drive.t + n * 0.04, "happiness" if n < 14 else "neutral", lenses=(LOST, OK))
        said += drive.reporter.report(one, one.mono_ns + S // 10)
    (lost,), (changed,) = of(EventSystem, said), of(EventDriver, said)
    assert (lost.seq, changed.seq) == (1, 2)
    assert changed.mono_ns < lost.mono_ns, "so mono_ns does not sort"
    (state,) = [m for m in of(StateDriver, said) if m.mono_ns == changed.mono_ns]
    assert state.mono_ns == int((drive.t + 14 * 0.04) * S), "what a subscriber reckons the latency from"


def test_a_lens_that_was_never_there_is_no_news() -> None:
    drive = Drive(lenses=(Lens.VISIBLE,))
    assert not of(EventSystem, drive.go(5.0, lenses=(OK, LOST)))


def test_a_lens_is_news_within_the_second_that_frozen_leaves_of_two() -> None:
    drive = Drive()
    drive.go(1.0)
    assert of(EventSystem, drive.go(0.8, lenses=(LensState.FROZEN, OK)))


def test_a_lens_that_flickers_is_no_event_and_another_fault_of_a_lost_lens_is() -> None:
    drive = Drive()
    for _ in range(10):
        assert not of(EventSystem, drive.go(0.4, lenses=(OK, BLACK)) + drive.go(0.4))
    drive.go(2.0, lenses=(OK, BLACK))
    assert [e.state for e in of(EventSystem, drive.go(2.0, lenses=(OK, LOST)))] == [LOST]  # type: ignore[attr-defined]
