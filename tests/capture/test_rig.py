"""The rig under faults, with scripted cameras. Nothing here waits for a fixed time: events decide."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable

import numpy as np
import pytest
from capture_helpers import FakeClock, picture, scene

from edgefer.capture.fake import Event, FakeSource, Step
from edgefer.capture.mailbox import OPENING_S, Mailbox
from edgefer.capture.rig import Rig
from edgefer.config import Capture
from edgefer.errors import CameraError, InputError
from edgefer.types import Frame, FramePair, Lens, LensState

LONG_S = 20.0
"""a bound that only a failing test reaches"""
QUICK = Capture(kind="v4l2", fps=200.0, tolerance_ms=2.0, lost_s=0.05).model_copy(update={"reopen_s": 0.001})
V, NIR = (Lens.VISIBLE,), (Lens.INFRARED,)
EYES = [(lens, 0) for lens in Lens]


class Unplugged(FakeSource):
    """A failure takes the plug out; it is back after ``tries`` attempts to open it (never: None)."""

    def __init__(self, lenses: tuple[Lens, ...], script: Iterable[Event], tries: int | None) -> None:
        super().__init__(lenses, script)
        self._tries = tries
        self.attempts = 0

    def open(self) -> None:
        self.attempts += 1
        self.broken = self.opened > 0 and (self._tries is None or self.attempts <= 1 + self._tries)
        super().open()


def drain(rig: Rig) -> list[FramePair]:
    """All that comes until the end."""
    pairs = []
    while not rig.ended:
        pair = rig.next_pair(LONG_S)
        if pair is not None:
            pairs.append(pair)
    return pairs


def next_lost(rig: Rig) -> FramePair:
    """The first look at which every lens is lost."""
    while (pair := rig.next_pair(0.01)) is None or pair.visible is not None or pair.infrared is not None:
        pass
    return pair


def until(what: Callable[[], bool]) -> None:
    end, tick = time.monotonic() + LONG_S, threading.Event()
    while not what():
        assert time.monotonic() < end, "did not come true in time"
        tick.wait(0.001)


def test_a_pair_carries_both_frames_and_their_states() -> None:
    with Rig([FakeSource(tuple(Lens), [90])], QUICK) as rig:
        pair = rig.next_pair(LONG_S)
    assert pair is not None
    assert pair.visible is not None
    assert pair.infrared is not None
    assert (pair.visible_state, pair.infrared_state) == (LensState.OK, LensState.OK)
    assert pair.visible.image.shape == (48, 64, 3)
    assert pair.infrared.image.shape == (48, 64)


def test_the_newest_frame_wins_and_the_drops_are_counted() -> None:
    source = FakeSource(V, [*range(20, 60), Step.END])
    rig = Rig([source], QUICK)
    rig.start()
    rig._readers[0].join()  # the reader is through before anybody looks
    pair = rig.next_pair(LONG_S)
    assert pair is not None
    assert pair.visible is not None
    assert pair.visible.index == 39
    assert rig.counters()["visible_drops"] == 39
    assert rig.counters()["visible_frames"] == 40
    assert rig.ended
    assert rig.next_pair(LONG_S) is None
    rig.stop()


def test_lockstep_delivers_every_frame() -> None:
    with Rig([FakeSource(tuple(Lens), [*range(20, 120), Step.END])], QUICK, lockstep=True) as rig:
        pairs = drain(rig)
    assert [pair.visible.index for pair in pairs if pair.visible] == list(range(100))
    assert [pair.infrared.index for pair in pairs if pair.infrared] == list(range(100))
    assert rig.counters()["visible_drops"] == 0


def test_a_lens_that_never_delivers_costs_the_other_no_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgefer.capture.mailbox.OPENING_S", 0.0)
    visible, infrared = FakeSource(V), FakeSource(NIR)
    with Rig([visible, infrared], QUICK) as rig:
        for index in range(40):
            visible.play(90)
            pair = rig.next_pair(LONG_S)
            assert pair is not None
            assert pair.visible is not None
            assert pair.visible.index == index
            assert pair.infrared is None
            assert pair.infrared_state is LensState.LOST
    assert rig.counters()["visible_drops"] == 0


def test_a_lens_that_is_not_configured_is_lost_and_never_waited_for() -> None:
    with Rig([FakeSource(V, [90])], QUICK) as rig:
        pair = rig.next_pair(LONG_S)
    assert pair is not None
    assert pair.infrared_state is LensState.LOST
    assert rig.counters()["unpaired"] == 0


def test_when_every_lens_is_lost_the_look_says_so() -> None:
    with Rig([Unplugged(V, [90, Step.FAIL], tries=None)], QUICK) as rig:
        pair = next_lost(rig)
        assert rig.states() == (LensState.LOST, LensState.LOST)
    assert (pair.visible_state, pair.infrared_state) == (LensState.LOST, LensState.LOST)
    assert pair.mono_ns > 0


def test_a_device_that_reports_its_failure_is_lost_before_the_silence_is_long() -> None:
    source = Unplugged(V, [90, Step.FAIL], tries=None)
    with Rig([source], QUICK.model_copy(update={"lost_s": 3600.0})) as rig:
        while source.attempts < 2:
            rig.next_pair(0.001)
        assert rig.states() == (LensState.LOST, LensState.LOST)


def test_cameras_that_are_still_starting_are_not_reported_lost() -> None:
    with Rig([FakeSource(V)], QUICK.model_copy(update={"lost_s": 3600.0})) as rig:
        assert rig.next_pair(0.0) is None


def test_a_replugged_lens_comes_back_with_one_line_a_loss_and_one_a_return(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "edgefer.capture")
    source = Unplugged(V, [90, Step.FAIL, 90, 90, Step.END], tries=5)
    with Rig([source], QUICK) as rig:
        pairs = drain(rig)
    assert source.attempts == 7
    assert pairs[-1].visible_state is LensState.OK
    assert rig.counters()["visible_reopened"] == 1
    assert [r.levelname for r in caplog.records] == ["WARNING", "INFO"]
    assert "the device has failed" in caplog.records[0].getMessage()


def test_descriptors_are_constant_over_50_replugs() -> None:
    before = len(os.listdir("/proc/self/fd"))
    source = FakeSource(V, [*[90, Step.FAIL] * 50, 90, Step.END])
    with Rig([source], QUICK.model_copy(update={"reopen_s": 0.0})) as rig:
        drain(rig)
    assert (source.opened, source.closed) == (51, 51)
    assert rig.counters()["visible_reopened"] == 50
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("script", [[], [90], [Step.FAIL]], ids=["silent", "lockstep frame not taken", "reopen wait"])
def test_stop_joins_the_threads_and_closes_the_sources(script: list[Event]) -> None:
    before = threading.active_count()
    source = FakeSource(V, script)
    rig = Rig([source, FakeSource(NIR)], QUICK.model_copy(update={"reopen_s": 3600.0}), lockstep=True)
    rig.start()
    while source.opened == 0:
        rig.next_pair(0.001)
    rig.stop()
    rig.stop()
    assert threading.active_count() == before
    assert source.closed == source.opened == 1


class Hung(FakeSource):
    """Blocks in one of its calls until released, whatever the timeout: a driver that hangs."""

    def __init__(self, lenses: tuple[Lens, ...] = V, where: str = "read") -> None:
        super().__init__(lenses)
        self._where = where
        self.inside, self.release = threading.Event(), threading.Event()

    def open(self) -> None:
        self._hang("open")
        super().open()

    def read(self, timeout_s: float) -> tuple[Frame, ...]:
        self._hang("read")
        return super().read(timeout_s)

    def _hang(self, where: str) -> None:
        if where == self._where:
            self.inside.set()
            self.release.wait()


def test_a_source_that_hangs_does_not_hang_the_stop(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgefer.capture.rig.JOIN_S", 1.0)
    hung = Hung(NIR)
    hung.play(100)
    rig = Rig([hung, FakeSource(V)], QUICK)
    rig.start()
    assert hung.inside.wait(LONG_S)
    assert rig.held() == []
    stopper = threading.Thread(target=lambda: (rig.stop(), rig.stop()), daemon=True)
    stopper.start()
    stopper.join(LONG_S / 4)
    returned, held = not stopper.is_alive(), rig.held()
    hung.release.set()
    stopper.join(LONG_S)
    assert returned
    assert held == ["infrared"]
    told = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(told) == 1
    assert told[0].startswith("infrared lens: ")
    rig._readers[0].thread.join(LONG_S)
    assert hung.closed == hung.opened == 1, "once the driver lets go, the source is closed"
    assert rig.held() == []
    assert rig.counters()["infrared_frames"] == 0, "what it brings after the stop is not even looked at"


@pytest.mark.parametrize("where", ["open", "read"])
def test_a_hung_driver_is_stuck(where: str, clock: FakeClock) -> None:
    hung = Hung(where=where)
    with Rig([hung], QUICK, clock) as rig:
        assert hung.inside.wait(LONG_S)
        assert not rig.stuck(5.0)
        clock.wait(5.1)
        assert rig.stuck(5.0)
        assert not rig.stuck(6.0)
        hung.release.set()
    assert not rig.stuck(0.0), "all readers have ended"


def test_one_camera_that_goes_on_is_enough_not_to_be_stuck(clock: FakeClock) -> None:
    hung, silent = Hung(NIR), FakeSource(V)
    with Rig([hung, silent], QUICK, clock) as rig:
        assert hung.inside.wait(LONG_S)
        clock.wait(5.1)
        until(lambda: not rig.stuck(5.0))  # empty reads are progress
        silent.play(Step.END)
        until(lambda: rig.stuck(5.0))  # who has ended does not count
        hung.release.set()


def test_waiting_for_the_plug_is_not_stuck(clock: FakeClock) -> None:
    source = Unplugged(V, [Step.FAIL], tries=None)
    rig = Rig([source], QUICK.model_copy(update={"reopen_s": 3600.0}), clock)
    assert not rig.stuck(0.0)
    with rig:
        until(lambda: source.closed == 1)
        clock.wait(5.1)
        until(lambda: not rig.stuck(5.0))
        clock.wait(1000.0)
        assert not rig.stuck(5.0)


def frame(lens: Lens, mono_ns: int) -> Frame:
    return Frame(lens, picture(lens, mono_ns), mono_ns, 0)


def test_while_cameras_start_the_first_frame_waits_for_its_partner(clock: FakeClock) -> None:
    mailbox = Mailbox(QUICK, EYES, False, clock)
    mailbox.post((frame(Lens.VISIBLE, clock()),))
    assert mailbox.next_pair(0.0) is None
    mailbox.post((frame(Lens.INFRARED, clock() + 1),))
    pair = mailbox.next_pair(0.0)
    assert pair is not None
    assert None not in (pair.visible, pair.infrared)


def test_a_lost_lens_is_not_waited_for_at_all(clock: FakeClock) -> None:
    mailbox = Mailbox(QUICK, EYES, False, clock)
    mailbox.start()
    clock.wait(OPENING_S)
    mailbox.post((frame(Lens.VISIBLE, clock()),))
    assert mailbox.next_pair(0.0) is not None
    assert mailbox.counters()["unpaired"] == 0, "a lens alone is not unpaired"


def test_cameras_have_their_opening_time_from_the_start_and_not_from_the_building(clock: FakeClock) -> None:
    rig = Rig([FakeSource(V), FakeSource(NIR)], QUICK, clock)
    clock.wait(60.0)  # the network loads
    assert rig.next_pair(0.0) is None
    with rig:
        clock.wait(OPENING_S - 0.1)
        assert rig.next_pair(0.0) is None
        clock.wait(0.1)
        assert rig.next_pair(0.0) is not None


def test_a_lens_that_opens_later_than_the_other_is_never_called_lost(clock: FakeClock) -> None:
    mailbox, said = Mailbox(QUICK, EYES, False, clock), []
    mailbox.start()
    for k in range(75):
        clock.wait(0.04)
        mailbox.post((frame(Lens.VISIBLE, clock()),))
        if k >= 50:
            mailbox.post((frame(Lens.INFRARED, clock()),))
        pair = mailbox.next_pair(0.0)
        said += [(k, pair.visible_state, pair.infrared_state)] if pair is not None else []
    assert said == [(k, LensState.OK, LensState.OK) for k in range(50, 75)]


def test_a_lens_that_does_not_open_in_time_is_lost_and_the_other_goes_on(clock: FakeClock) -> None:
    mailbox, said = Mailbox(QUICK, EYES, False, clock), {}
    mailbox.start()
    for _ in range(100):
        clock.wait(0.04)
        mailbox.post((frame(Lens.VISIBLE, clock()),))
        pair = mailbox.next_pair(0.0)
        if pair is not None:
            said[clock.now / 1e9 - 1.0] = pair.infrared_state
    assert min(said) == pytest.approx(OPENING_S)
    assert set(said.values()) == {LensState.LOST}
    assert len(said) == 26


def test_a_spare_that_opens_later_keeps_nobody_waiting(clock: FakeClock) -> None:
    mailbox = Mailbox(QUICK, [(Lens.VISIBLE, 0), (Lens.VISIBLE, 1)], False, clock)
    mailbox.start()
    mailbox.post((frame(Lens.VISIBLE, clock()),))
    assert mailbox.next_pair(0.0) is not None
    other = Mailbox(QUICK, [(Lens.VISIBLE, 0), (Lens.VISIBLE, 1)], False, clock)
    other.start()
    other.lose(V, 0)
    assert other.next_pair(0.0) is None, "the spare may be opening still"


def test_cameras_that_have_failed_or_delivered_are_not_opening_any_more(clock: FakeClock) -> None:
    mailbox = Mailbox(QUICK, EYES, False, clock)
    mailbox.start()
    mailbox.lose(NIR)
    assert mailbox.next_pair(0.0) is None, "the other one may be opening still"
    mailbox.post((frame(Lens.VISIBLE, clock()),))
    pair = mailbox.next_pair(0.0)
    assert pair is not None, "nobody waits for a lens that failed"
    assert pair.visible is not None
    clock.wait(QUICK.lost_s + 0.1)
    pair = mailbox.next_pair(0.0)
    assert pair is not None
    assert (pair.visible_state, pair.infrared_state) == (LensState.LOST, LensState.LOST)


def test_stop_lets_a_waiting_look_go() -> None:
    rig = Rig([FakeSource(V)], QUICK.model_copy(update={"lost_s": 3600.0}))
    seen: list[FramePair | None] = []
    looker = threading.Thread(target=lambda: seen.append(rig.next_pair(3600.0)))
    rig.start()
    looker.start()
    rig.stop()
    looker.join(LONG_S)
    assert seen == [None]


def test_a_damaged_recording_is_raised_where_the_frames_are_taken() -> None:
    with Rig([FakeSource(V, [Step.DAMAGED])], QUICK) as rig, pytest.raises(InputError, match="damaged"):
        next_lost(rig)


def test_damage_that_comes_while_nobody_looks_is_still_raised() -> None:
    rig = Rig([FakeSource(V, [Step.DAMAGED])], QUICK)
    rig.start()
    rig._readers[0].join()  # failed and ended before the first look
    with pytest.raises(InputError, match="damaged"):
        drain(rig)
    rig.stop()


def test_a_bug_in_a_source_is_not_swallowed() -> None:
    class Buggy(FakeSource):
        def read(self, timeout_s: float) -> tuple[Frame, ...]:
            raise ZeroDivisionError

    with Rig([Buggy()], QUICK) as rig, pytest.raises(ZeroDivisionError):
        next_lost(rig)


def test_a_source_that_cannot_be_closed_leaves_nobody_waiting() -> None:
    class Clinging(FakeSource):
        def close(self) -> None:
            super().close()
            raise BufferError("cannot close exported pointers exist")

    with Rig([Clinging(V, [90, Step.END])], QUICK) as rig, pytest.raises(BufferError):
        next_lost(rig)


def test_black_and_frozen_lenses_are_named_and_the_other_goes_on() -> None:
    still = np.full((48, 64, 3), 90, np.uint8)
    config = QUICK.model_copy(update={"frozen_s": 0.0, "tolerance_ms": 1000.0})
    visible, infrared = FakeSource(V), FakeSource(NIR)
    states: tuple[LensState, ...] = ()
    with Rig([visible, infrared], config) as rig:
        while states != (LensState.FROZEN, LensState.BLACK):
            visible.play(still)
            infrared.play(np.zeros((48, 64), np.uint8))
            pair = rig.next_pair(LONG_S)
            assert pair is not None
            states = (pair.visible_state, pair.infrared_state)
    assert pair.frame(Lens.VISIBLE) is None


def test_three_sources_for_one_lens_are_refused_and_two_in_lockstep() -> None:
    with pytest.raises(ValueError, match="same lens"):
        Rig([FakeSource(V), FakeSource(V), FakeSource(V)], QUICK)
    with pytest.raises(ValueError, match="same lens"):
        Rig([FakeSource(V), FakeSource(V)], QUICK, lockstep=True)


def test_a_fake_camera_that_is_closed_says_so() -> None:
    with pytest.raises(CameraError, match="before open"):
        FakeSource().read(0.0)


def test_of_two_lenses_of_a_spectrum_the_other_takes_over_when_one_dies(clock: FakeClock) -> None:
    """Both see; the first is unplugged; nobody notices but the counters, and the first comes back as the spare."""
    first, second = Unplugged(V, [], tries=3), FakeSource(V)
    first._clock = second._clock = clock
    config = QUICK.model_copy(update={"lost_s": 0.6})
    with Rig([first, second, FakeSource(NIR, [Step.END], clock)], config, clock) as rig:
        assert rig.lenses == tuple(Lens)

        def shown() -> Frame:
            clock.wait(0.04)
            wanted = rig.counters()["visible_frames"] + (2 if first._fd is not None else 1)
            if first._fd is not None:
                first.play(scene(clock.now))
            second.play(scene(clock.now))
            until(lambda: rig.counters()["visible_frames"] >= wanted)
            clock.wait(0.02)
            pair = rig.next_pair(LONG_S)
            assert pair is not None
            assert pair.visible is not None
            assert pair.visible_state is LensState.OK
            return pair.visible

        until(lambda: first.opened == second.opened == 1)
        first.play(scene(0))
        until(lambda: rig.counters()["visible_frames"] == 1)
        assert {shown().unit for _ in range(5)} == {0}
        first.play(Step.FAIL)
        until(lambda: first.closed == 1)
        assert {shown().unit for _ in range(5)} == {1}, "at once"
        until(lambda: first.opened == 2)
        assert {shown().unit for _ in range(5)} == {1}, "and no way back without a reason"
        assert rig.counters()["visible_switches"] == 1


def test_of_two_lenses_the_one_that_shows_the_face_is_looked_through(clock: FakeClock) -> None:
    mailbox = Mailbox(QUICK, [(Lens.VISIBLE, 0), (Lens.VISIBLE, 1)], False, clock)
    units = []
    for k in range(25 * 8):
        clock.wait(0.04)
        for unit in (0, 1):
            mailbox.post((Frame(Lens.VISIBLE, scene(k * 2 + unit), clock.now, k),), unit)
        pair = mailbox.next_pair(0.0)
        assert pair is not None
        assert pair.visible is not None
        units.append(pair.visible.unit)
        mailbox.note_face(Lens.VISIBLE if units[-1] == 1 else None)
    assert units[0] == 0
    assert set(units[25 * 5 :]) == {1}


def test_a_lens_whose_clock_is_set_back_goes_on(clock: FakeClock) -> None:
    """An hour: without the lens's clock being followed, no frame would count for an hour."""
    mailbox, stamp, delivered = Mailbox(QUICK, EYES[:1], False, clock), clock.now, 0
    for k in range(50):
        clock.wait(0.04)
        stamp += 40_000_000 - (3600 * 10**9 if k == 25 else 0)
        mailbox.post((Frame(Lens.VISIBLE, scene(k), stamp, k),))
        clock.wait(0.001)
        delivered += mailbox.next_pair(0.0) is not None
    assert delivered >= 49
    assert mailbox.counters()["visible_clock_jumps"] == 1


def test_timing_is_told(clock: FakeClock) -> None:
    mailbox = Mailbox(Capture(), EYES, False, clock)
    for k in range(50):
        clock.wait(0.04)
        for lens, late_ns in ((Lens.VISIBLE, 0), (Lens.INFRARED, 6_000_000)):
            mailbox.post((Frame(lens, picture(lens, k), clock.now - late_ns, k),))
        assert mailbox.next_pair(0.0) is not None
    timing = mailbox.timing()
    assert timing["skew_p50_ms"] == timing["skew_p99_ms"] == 6.0
    assert timing["tolerance_ms"] == pytest.approx(24.0)
    assert timing["visible_drift_ppm"] == 0.0
    assert mailbox.counters()["pairs"] == 50
