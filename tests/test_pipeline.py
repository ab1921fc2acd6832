"""The main job end to end: two lenses in, messages out, with the network that ships."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from locate_portraits import astronaut

from edgefer import app
from edgefer.capture.fake import FakeSource, Step
from edgefer.capture.rig import Rig
from edgefer.config import Config
from edgefer.config_file import build
from edgefer.demo.show import make_clip
from edgefer.messages import EventDriver, EventSystem, Health, Message, StateDriver
from edgefer.types import Lens, LensState, Reading


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's clip: 20 s, six changes of face, the visible lens dead for two seconds, night from 12 s."""
    return make_clip(tmp_path_factory.mktemp("drive") / "clip")


def replay(drive: Path, **extra: dict[str, object]) -> Config:
    capture = {"kind": "recording", "source": str(drive), "realtime": False}
    return build({"capture": capture, "publish": {"kind": "stdout"}, **extra}, "test")


@pytest.fixture(scope="module")
def heard(drive: Path) -> tuple[list[Reading], list[Message]]:
    """Every reading and every message of the whole drive, frame by frame."""
    readings: list[Reading] = []
    messages: list[Message] = []
    with app.started(replay(drive), on_reading=readings.append) as pipeline:
        pipeline.publisher.publish = messages.append  # type: ignore[method-assign]
        pipeline.run(lambda: False)
    return readings, messages


def of(kind: type[Message], messages: list[Message]) -> list[Message]:
    return [m for m in messages if isinstance(m, kind)]


def test_every_frame_becomes_a_reading(heard: tuple[list[Reading], list[Message]]) -> None:
    readings, messages = heard
    assert 495 <= len(readings) <= 505
    assert 95 <= len(of(StateDriver, messages)) <= 102, "20 s at 5 Hz"


def test_the_drive_shows_its_changes_of_face_by_day_and_by_night(heard: tuple[list[Reading], list[Message]]) -> None:
    changes = [e for e in of(EventDriver, heard[1]) if e.kind == "label"]  # type: ignore[attr-defined]
    assert len(changes) >= 3
    assert len(changes) <= 8, "and it does not flicker"
    night = heard[0][13 * 25 :]
    assert {r.lenses[0] for r in night} == {LensState.BLACK}
    valid = [r for r in night if r.valid]
    assert len(valid) > 0.5 * len(night), "the infrared lens carries on"
    assert "happiness" in {r.label for r in valid}


def test_the_dead_lens_is_named_and_comes_back(heard: tuple[list[Reading], list[Message]]) -> None:
    readings, messages = heard
    events = [(e.kind, e.lens, e.state) for e in of(EventSystem, messages) if e.kind.startswith("lens")]  # type: ignore[attr-defined]
    assert events[:2] == [("lens_lost", "visible", "lost"), ("lens_back", "visible", "ok")]
    assert events[2:] == [("lens_lost", "visible", "black")], "night is a black lens, said once"
    dead = [r for r in readings if r.lenses == (LensState.LOST, LensState.OK)]
    assert len(dead) > 25
    assert all(r.face_score > 0 for r in dead), "the infrared lens shows the face alone"


def test_the_infrared_lens_takes_over_at_nightfall_without_a_jump_in_the_label(
    heard: tuple[list[Reading], list[Message]],
) -> None:
    """The light falls from 9 to 12 s; the face changes at 8.2 and 10.6 s, and not while the lens goes black."""
    readings = heard[0]
    states = [r.lenses[0] for r in readings]
    taken = next(k for k in range(9 * 25, len(states)) if states[k] is LensState.BLACK)
    assert set(states[taken:]) == {LensState.BLACK}, "the present mask does not come and go"
    assert {r.lenses[1] for r in readings[taken - 25 :]} == {LensState.OK}
    around = readings[taken - 12 : taken + 38]
    assert all(r.valid for r in around)
    assert len({r.label for r in around}) == 1, "half a second before, one and a half after"
    steps = [abs(b.probs[b.label] - a.probs[b.label]) for a, b in pairwise(around)]
    assert max(steps) < 0.1, "nor in its probability"


def test_a_network_that_looks_back_forgets_a_lost_face(drive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three frames with the face, two without, one with it."""
    calls: list[str] = []
    seen = [True, True, True, False, False, True]
    with app.started(replay(drive)) as pipeline:
        find, infer = pipeline.locator.find, pipeline.network.infer
        monkeypatch.setattr(pipeline.locator, "find", lambda pair: find(pair) if seen[len(calls)] else None)
        monkeypatch.setattr(pipeline.network, "infer", lambda pair: (calls.append("infer"), infer(pair))[1])
        monkeypatch.setattr(pipeline.network, "reset", lambda: calls.append("reset"))
        pipeline.run(lambda: len(calls) == len(seen))
    assert calls == ["infer" if face else "reset" for face in seen]


class Story:
    """A pipeline on scripted lenses: push pictures, take readings."""

    def __init__(self, config: Config, visible: FakeSource, infrared: FakeSource) -> None:
        self.visible, self.infrared = visible, infrared
        self.readings: list[Reading] = []
        self._news = threading.Condition()
        self.rig = Rig([visible, infrared], config.capture)
        self.config = config

    def take(self, reading: Reading) -> None:
        with self._news:
            self.readings.append(reading)
            self._news.notify_all()

    def until(self, true: Callable[[Reading], bool], timeout_s: float = 10) -> Reading:
        with self._news:
            assert self._news.wait_for(lambda: any(map(true, self.readings)), timeout_s), self.readings[-3:]
            found = next(r for r in self.readings if true(r))
            self.readings.clear()
            return found


@pytest.fixture
def story() -> Story:
    config = build({"publish": {"kind": "stdout"}, "capture": {"reopen_s": 0.1}}, "test")
    return Story(config, FakeSource((Lens.VISIBLE,)), FakeSource((Lens.INFRARED,)))


def pictures(noise: int) -> tuple[np.ndarray, np.ndarray]:
    """A pair with the astronaut; another number gives other sensor noise."""
    grain = np.random.default_rng(noise).integers(0, 4, (480, 640, 3), np.uint8)
    visible = np.clip(astronaut().astype(np.int16) + grain, 0, 255).astype(np.uint8)
    return visible, visible[:, :, 1].copy()


def test_lenses_die_one_after_the_other_and_come_back(story: Story) -> None:
    def feed(visible: bool, infrared: bool, number: int) -> None:
        v, i = pictures(number)
        if visible:
            story.visible.play(v)
        if infrared:
            story.infrared.play(i)

    def watch(visible: bool, infrared: bool, true: Callable[[Reading], bool]) -> Reading:
        """Feed pairs at about 20 a second until a reading is as wanted."""
        done = threading.Event()

        def feeder() -> None:
            k = 0
            while not done.wait(0.05):
                k += 1
                feed(visible, infrared, k)

        thread = threading.Thread(target=feeder)
        thread.start()
        try:
            return story.until(true)
        finally:
            done.set()
            thread.join()

    stop = threading.Event()
    with app.started(story.config, rig=story.rig, on_reading=story.take) as pipeline:
        loop = threading.Thread(target=pipeline.run, args=(stop.is_set,))
        loop.start()
        try:
            both = watch(True, True, lambda r: r.valid and r.lenses == (LensState.OK, LensState.OK))
            assert both.label == "happiness"
            story.visible.play(Step.FAIL)
            alone = watch(False, True, lambda r: r.valid and r.lenses[0] is LensState.LOST)
            assert alone.label == "happiness"
            nothing = watch(False, False, lambda r: r.why == "camera_lost")
            assert nothing.label == "unknown"
            again = watch(True, True, lambda r: r.valid and r.lenses == (LensState.OK, LensState.OK))
            assert again.label == "happiness"
        finally:
            stop.set()
            loop.join()


@pytest.mark.broker
def test_a_drive_over_a_real_broker(drive: Path, mosquitto: object) -> None:
    """Recording -> pipeline -> mosquitto (MQTT 5) -> subscriber: what is published is what is heard."""
    from paho.mqtt import client as mqtt
    from paho.mqtt.enums import CallbackAPIVersion

    port: int = mosquitto.port  # type: ignore[attr-defined]
    heard: list[tuple[str, dict[str, object]]] = []
    subscribed, stopped = threading.Event(), threading.Event()

    def on_message(_c: object, _u: object, m: mqtt.MQTTMessage) -> None:
        heard.append((m.topic, json.loads(m.payload)))
        if m.topic == "edgefer/v1/car-9/status" and heard[-1][1]["state"] == "stopped":
            stopped.set()

    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.on_message = on_message
    client.on_subscribe = lambda *_: subscribed.set()
    client.on_connect = lambda c, *_: c.subscribe("edgefer/v1/+/#", qos=1)
    client.connect("127.0.0.1", port)
    client.loop_start()
    try:
        assert subscribed.wait(10)
        publish = {"kind": "mqtt", "host": "127.0.0.1", "port": port}
        config = replay(drive).model_copy(update={"device": "car-9"})
        config = build({**config.model_dump(exclude_none=True), "publish": publish}, "test")
        app.run(config, lambda: False)
        assert stopped.wait(10)
    finally:
        client.disconnect()
        client.loop_stop()
    kinds = {topic.removeprefix("edgefer/v1/car-9/") for topic, _ in heard}
    assert {"status", "meta", "state/driver", "event/driver", "event/system"} <= kinds
    labels = [p for t, p in heard if t.endswith("event/driver") and p["kind"] == "label"]
    assert len(labels) >= 3
    for name in ("state", "event"):
        seqs = [p["seq"] for t, p in heard if f"/{name}/" in t]
        assert seqs == sorted(seqs), "in order"


def test_health_comes_at_its_period_with_every_stage(drive: Path) -> None:
    messages: list[Message] = []
    with app.started(replay(drive, health={"period_s": 1.0})) as pipeline:
        pipeline.publisher.publish = messages.append  # type: ignore[method-assign]
        pipeline.run(lambda: bool(of(Health, messages)))
    health = of(Health, messages)[0]
    assert set(health.stages) >= {"wait", "locate", "align", "infer", "decide", "publish", "frame", "lag"}  # type: ignore[attr-defined]
    assert health.counters["visible_frames"] > 0  # type: ignore[attr-defined]
    assert health.rates["readings"] > 0  # type: ignore[attr-defined]
