"""The fault table for lenses, end to end: scripted cameras, reader threads, and the network that ships.

Time is a clock that the test moves, 20 ms a step; the table's seconds are counted on it. Only the replug story runs on
the real one.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import cv2
import numpy as np
import pytest

from edgefer import app, pipeline
from edgefer.capture.fake import FakeSource, Step
from edgefer.capture.rig import Rig
from edgefer.config import Config
from edgefer.config_file import build
from edgefer.demo import clip
from edgefer.messages import EventDriver, EventSystem, Message
from edgefer.types import U8, Lens, LensState, Reading, Why, now_ns

MS = 1_000_000
FRAME_S = 0.04
LONG_S = 20.0
"""a bound that only a failing test reaches"""
NOISE = np.random.default_rng(0).integers(0, 4, (600, 800, 3), np.uint8)


def until(true: Callable[[], bool]) -> None:
    end, tick = time.monotonic() + LONG_S, threading.Event()
    while not true():
        assert time.monotonic() < end, "did not come true in time"
        tick.wait(0.0005)


@cache
def _views() -> dict[Lens, list[U8]]:
    scene = clip.Scene()
    return {Lens.VISIBLE: scene._faces, Lens.INFRARED: scene._infrared}


class Stage:
    """Two lenses that see one of the demo's portraits, with fresh noise in every frame; each may have a fault."""

    def __init__(self) -> None:
        self._views = _views()
        self.person = 0
        self.faults: dict[Lens, str] = dict.fromkeys(Lens, "")
        self._last: dict[Lens, U8] = {}
        self._count = 0

    def picture(self, lens: Lens) -> U8:
        if self.faults[lens] == "frozen":
            return self._last[lens]
        self._count += 1
        y, x = np.random.default_rng(self._count).integers(0, 100, 2)
        grain = NOISE[y : y + 480, x : x + 640]
        view = self._views[lens][self.person] if self.faults[lens] != "black" else np.zeros_like(self._views[lens][0])
        grain = grain // 2 if self.faults[lens] == "black" else grain
        self._last[lens] = cv2.add(view, grain if view.ndim == 3 else grain[..., 0])
        return self._last[lens]


class Drive:
    """A pipeline under a clock of its own."""

    def __init__(self, config: Config, lenses: tuple[Lens, ...] = tuple(Lens)) -> None:
        self.config, self.now, self.stage = config, now_ns(), Stage()
        self.sources = {lens: FakeSource((lens,), clock=self.clock) for lens in lenses}
        self.rig = Rig(list(self.sources.values()), config.capture, self.clock)
        self.readings: list[tuple[int, Reading]] = []
        self.messages: list[tuple[int, Message]] = []
        self.pipeline: pipeline.Pipeline

    def clock(self) -> int:
        return self.now

    @contextmanager
    def running(self) -> Iterator[Drive]:
        with app.started(self.config, rig=self.rig) as self.pipeline:
            self.pipeline.on_reading = lambda r: self.readings.append((self.now, r))
            self.pipeline.publisher.publish = lambda m: self.messages.append((self.now, m))  # type: ignore[method-assign]
            yield self

    def expose(self) -> None:
        """Every lens that is not dead takes a frame, and the readers have passed it on."""
        counts = self.rig.counters()
        for lens, source in self.sources.items():
            if self.stage.faults[lens] not in ("dead", "failed"):
                source.play(self.stage.picture(lens))
                wanted = counts[f"{lens.value}_frames"] + 1
                until(lambda name=f"{lens.value}_frames", n=wanted: self.rig.counters()[name] >= n)  # type: ignore[misc]

    def go(self, seconds: float) -> None:
        for _ in range(round(seconds / FRAME_S)):
            self.now += 20 * MS
            self.pipeline.step()
            self.now += 20 * MS
            self.expose()
            self.pipeline.step()

    def since(self, at: int) -> list[tuple[float, Reading]]:
        """(seconds after ``at``, reading)"""
        return [((t - at) / 1e9, r) for t, r in self.readings if t > at]

    def events(self, kind: type[Message], at: int) -> list[tuple[float, Message]]:
        return [((t - at) / 1e9, m) for t, m in self.messages if t > at and isinstance(m, kind)]


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setattr(pipeline, "WAIT_S", 0.0)
    return build({"publish": {"kind": "stdout"}, "capture": {"reopen_s": 0.1}}, "test")


STATE = {"dead": LensState.LOST, "failed": LensState.LOST, "black": LensState.BLACK, "frozen": LensState.FROZEN}


V, NIR = Lens


@pytest.mark.parametrize(
    ("lens", "fault"), [(V, "dead"), (V, "failed"), (V, "black"), (V, "frozen"), (NIR, "dead"), (NIR, "frozen")]
)
def test_one_lens_down_the_other_goes_on_and_the_fault_is_named(config: Config, lens: Lens, fault: str) -> None:
    with Drive(config).running() as drive:
        drive.go(0.6)
        assert drive.readings[-1][1].valid
        assert drive.readings[-1][1].lenses == (LensState.OK, LensState.OK)
        begin = drive.now
        if fault == "failed":
            drive.sources[lens].broken = True
            drive.sources[lens].play(Step.FAIL)
            until(lambda: drive.sources[lens].closed == 1)
        drive.stage.faults[lens] = fault
        drive.go(2.6)
        after = drive.since(begin)
        assert sum(r.valid for _, r in after) >= 0.8 * 2.6 / FRAME_S, "at least 80 % of the rate"
        named = [t for t, r in after if r.lenses[list(Lens).index(lens)] is STATE[fault]]
        assert named[0] <= 2.0
        assert len(named) == sum(t >= named[0] for t, _ in after), "and stays named"
        events = [(t, m.kind, m.lens, m.state) for t, m in drive.events(EventSystem, begin)]  # type: ignore[attr-defined]
        assert [e[1:] for e in events] == [("lens_lost", lens.value, STATE[fault].value)]
        assert events[0][0] <= 2.0


def test_a_lens_that_opens_two_seconds_after_the_other_is_no_event(config: Config) -> None:
    with Drive(config).running() as drive:
        drive.stage.faults[NIR] = "dead"
        drive.go(2.0)
        drive.stage.faults[NIR] = ""
        begin = drive.now
        drive.go(1.5)
        assert drive.readings[0][0] - begin <= 0.1e9, "with the first pair"
        assert {r.lenses for _, r in drive.readings} == {(LensState.OK, LensState.OK)}
        assert drive.events(EventSystem, 0) == []


def test_a_frozen_visible_lens_does_not_outvote_the_live_one(config: Config) -> None:
    """Both see one person; the visible lens freezes; then another sits there. What is said is what infrared sees."""
    with Drive(config).running() as drive:
        drive.stage.person = 1
        drive.go(0.2)
        drive.stage.faults[Lens.VISIBLE] = "dead"
        drive.go(2.0)
        alone = drive.readings[-1][1].label
    with Drive(config).running() as drive:
        drive.go(0.6)
        drive.stage.faults[Lens.VISIBLE] = "frozen"
        drive.go(1.2)
        drive.stage.person, changed = 1, drive.now
        drive.go(2.0)
        assert drive.since(changed)[-1][1].label == alone


@pytest.mark.parametrize(("fault", "limit_s", "why"), [("frozen", 2.0, Why.FROZEN), ("black", 0.0, Why.BLACK)])
def test_a_blind_visible_lens_alone_yields_no_label(config: Config, fault: str, limit_s: float, why: Why) -> None:
    with Drive(config, (Lens.VISIBLE,)).running() as drive:
        drive.go(0.6)
        before = drive.readings[-1][1]
        assert before.valid
        begin = drive.now
        drive.stage.faults[Lens.VISIBLE] = fault
        drive.go(3.0)
        after = drive.since(begin)
        assert all(not r.valid for t, r in after if t > limit_s)
        assert {r.label for _, r in after} <= {before.label, "unknown"}, "and until then no other than it had"
        assert after[-1][1].why is why
        assert not [m for _, m in drive.events(EventDriver, begin) if m.kind == "label"]  # type: ignore[attr-defined]


def test_inference_ten_times_slower_sees_the_newest_frame_only(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """One inference takes ten frames. Each reading is of the newest frame, and at most two inferences old."""
    slow_s = 10 * FRAME_S
    with Drive(config).running() as drive:
        infer = drive.pipeline.network.infer

        def slow(crops: object) -> object:
            for _ in range(10):
                drive.now += 40 * MS
                drive.expose()
            return infer(crops)  # type: ignore[arg-type]

        monkeypatch.setattr(drive.pipeline.network, "infer", slow)
        drive.go(12 * FRAME_S)
        ages = [(t - r.mono_ns) / 1e9 for t, r in drive.readings if r.valid]
        stamps = [r.mono_ns for _, r in drive.readings if r.valid]
        assert len(ages) >= 8
        assert max(ages) <= 2 * slow_s
        assert np.diff(stamps).min() >= slow_s * 1e9, "nothing that queued up was worked off"
        assert drive.rig.next_pair(0.0) is not None
        assert drive.rig.next_pair(0.0) is None, "one pair waits, whatever came meanwhile"
        assert drive.rig.counters()["visible_drops"] >= 8 * len(ages), "and what was dropped is counted"


def test_a_lens_unplugged_and_replugged_fifty_times() -> None:
    """On the real clock: invalid within a second, valid within five, and nothing is left open."""
    config = build({"publish": {"kind": "stdout"}, "capture": {"reopen_s": 0.1}}, "test")
    stage, source = Stage(), FakeSource((Lens.VISIBLE,))
    rig, seen, news = Rig([source], config.capture), [], threading.Condition()

    def take(reading: Reading) -> None:
        with news:
            seen.append(reading)
            news.notify_all()

    def wait_for(valid: bool, limit_s: float, feed: bool) -> None:
        end = time.monotonic() + limit_s
        while True:
            if feed:
                source.play(stage.picture(Lens.VISIBLE))
            with news:
                news.wait(0.04)
                found = [r for r in seen if r.valid is valid and (valid or r.why is Why.CAMERA_LOST)]
                seen.clear()
            if found:
                return
            assert time.monotonic() < end, f"not {'valid' if valid else 'invalid'} within {limit_s} s"

    stop = threading.Event()
    with app.started(config, rig=rig, on_reading=take) as running:
        loop = threading.Thread(target=running.run, args=(stop.is_set,))
        loop.start()
        try:
            wait_for(True, LONG_S, feed=True)
            before, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
            for _ in range(50):
                source.broken = True
                source.play(Step.FAIL)
                wait_for(False, 1.0, feed=False)
                source.broken = False
                wait_for(True, 5.0, feed=True)
            assert len(os.listdir("/proc/self/fd")) == before
            assert threading.active_count() == threads
        finally:
            stop.set()
            loop.join()
    assert rig.counters()["visible_reopened"] == 50
