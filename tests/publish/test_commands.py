"""Commands: what is refused, by judgement and through a real broker; a flood; replay over the wire."""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import paho.mqtt.client as paho
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mosquitto_broker import BOUND_S, MakeMosquitto, Mosquitto
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from torture import Ear, Source
from wire_samples import one_of_each, stamper

from edgefer import messages
from edgefer.config import Publish, State
from edgefer.messages import Command, EventSystem, Meta, Privacy, Rate, StateDriver, Status
from edgefer.publish.commands import BURST, KINDS, MAX_BYTES, REMEMBERED, SHUT_S, WAITING, Desk, Gate, Refusal, judge
from edgefer.publish.mqtt import MqttPublisher

DEPLOY = Path(__file__).parents[2] / "deploy"
SCHEMAS = messages.schemas()
FULL = os.environ.get("EDGEFER_TORTURE") == "full"
ID = "3f2b8a50-1111-4222-8333-444455556666"
GOOD = {
    "privacy": {"id": ID, "on": True},
    "rate": {"id": ID, "rate_hz": 2.5},
    "reload": {"id": ID},
    "replay": {"id": ID, "stream": "0123abcd", "first": 1, "last": 9},
}


def said(name: str, **changes: object) -> bytes:
    return json.dumps({**GOOD[name], **changes}).encode()


@pytest.mark.parametrize("name", GOOD)
def test_a_good_command_is_taken_and_fits_its_schema(name: str) -> None:
    command = judge(name, said(name), retain=False, expiry_s=30)
    assert isinstance(command, KINDS[name])
    jsonschema.validate(GOOD[name], SCHEMAS[f"cmd.{name}.v1"], jsonschema.Draft202012Validator)


BAD = {
    "no JSON": ("rate", b"rate_hz=5", "malformed", False),
    "no such command": ("format", said("rate"), "malformed", False),
    "a deeper topic": ("rate/now", said("rate"), "malformed", False),
    "an unknown key": ("rate", said("rate", path="/etc/passwd"), "malformed", True),
    "a path to load": ("reload", said("reload", bundle="/tmp/x"), "malformed", True),
    "an address to load": ("reload", said("reload", url="http://x"), "malformed", True),
    "too fast": ("rate", said("rate", rate_hz=1e9), "malformed", True),
    "not a number": ("rate", b'{"id":"' + ID.encode() + b'","rate_hz":NaN}', "malformed", True),
    "a text for a truth": ("privacy", said("privacy", on="off"), "malformed", True),
    "backwards": ("replay", said("replay", first=9, last=1), "malformed", True),
    "beyond what the spool can count": ("replay", said("replay", last=2**63), "malformed", True),
    "an id that is none": ("rate", said("rate", id="../../x"), "malformed", False),
    "too large": ("rate", said("rate", pad="x" * MAX_BYTES), "oversize", False),
    "deeply nested": ("rate", b"[" * 4000, "malformed", False),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_command_is_refused_and_answered_only_to_a_sound_id(case: str) -> None:
    name, payload, kind, answered = BAD[case]
    found = judge(name, payload, retain=False, expiry_s=10)
    assert isinstance(found, Refusal)
    assert found.kind == kind
    assert (found.id is not None) == answered
    assert "\n" not in found.reason


def test_retained_commands_and_commands_that_could_be_old_are_refused() -> None:
    for retain, expiry_s, kind in ((True, 10, "retained"), (False, None, "stale"), (False, 31, "stale")):
        found = judge("privacy", said("privacy", on=False), retain=retain, expiry_s=expiry_s)
        assert isinstance(found, Refusal)
        assert found.kind == kind


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
)
bent = st.sampled_from(sorted(GOOD)).flatmap(
    lambda name: st.dictionaries(st.sampled_from([*GOOD[name], "x"]), json_values).map(
        lambda changes: json.dumps({**GOOD[name], **changes}).encode()
    )
)


@settings(max_examples=200, deadline=None)
@given(
    name=st.sampled_from([*GOOD, "x"]) | st.text(max_size=30),
    payload=st.binary(max_size=200) | json_values.map(lambda v: json.dumps(v).encode()) | bent,
    retain=st.booleans(),
    expiry_s=st.none() | st.integers(0, 2**32 - 1),
)
def test_whatever_comes_is_a_command_or_a_refusal(
    name: str, payload: bytes, retain: bool, expiry_s: int | None
) -> None:
    """Never an exception; and what is taken is exactly what the checked-in schema allows."""
    found = judge(name, payload, retain=retain, expiry_s=expiry_s)
    desk = Desk()
    desk.receive(name, payload, retain=retain, expiry_s=expiry_s)
    assert sum(desk.counters().values()) == 1, "everything is counted once"
    if isinstance(found, Command):
        assert not retain
        assert expiry_s is not None
        assert expiry_s <= 30
        jsonschema.validate(json.loads(payload), SCHEMAS[f"cmd.{name}.v1"])


def test_an_id_is_carried_out_once_and_answered_every_time() -> None:
    desk = Desk()
    first = desk.receive("rate", said("rate"), retain=False, expiry_s=9)
    assert isinstance(first, Rate)
    assert desk.receive("rate", said("rate"), retain=False, expiry_s=9) is None, "still under way"
    answer = messages.Response(id=ID, ok=True)
    desk.answered(answer)
    assert desk.receive("rate", said("rate"), retain=False, expiry_s=9) == answer
    assert desk.counters()["cmd_repeated"] == 2
    for _ in range(REMEMBERED):
        desk.receive("rate", said("rate", id=str(uuid.uuid4())), retain=False, expiry_s=9)
    assert len(desk._answers) == REMEMBERED


def test_an_id_is_known_for_a_minute_however_many_come_after_it() -> None:
    """As many as the gate lets pass: the whole burst at once, then ten a second."""
    gate, desk = Gate(), Desk()
    assert gate.admit(100.0)
    assert isinstance(desk.receive("rate", said("rate"), retain=False, expiry_s=9), Rate)
    for at in [100.0] * (BURST - 1) + [100.0 + n * 0.101 for n in range(1, 594)]:
        assert gate.admit(at)
        desk.receive("rate", said("rate", id=str(uuid.uuid4())), retain=False, expiry_s=9)
    assert desk.receive("rate", said("rate"), retain=False, expiry_s=9) is None
    assert desk.counters()["cmd_repeated"] == 1


def test_waiting_commands_are_bounded() -> None:
    desk = Desk()
    assert [desk.enqueue(Privacy(id=ID, on=True)) for _ in range(WAITING + 1)] == [True] * WAITING + [False]
    assert desk.counters()["cmd_busy"] == 1


def test_a_flood_shuts_the_gate_for_a_while() -> None:
    gate = Gate()
    assert [gate.admit(100.0) for _ in range(BURST + 2)] == [True] * BURST + [False, False]
    assert not gate.reopen(100.0 + SHUT_S - 1)
    assert gate.reopen(100.0 + SHUT_S)
    assert gate.admit(100.0 + SHUT_S)
    slow = Gate()
    assert all(slow.admit(t / 5) for t in range(500)), "five a second are no flood"


# -- through a real broker ------------------------------------------------------------------------------------------


class Operator:
    """Sends commands, hears everything."""

    def __init__(self, port: int, user: str = "", password: str = "") -> None:
        self.heard: list[tuple[str, bytes, bool]] = []
        self.refused: list[int] = []
        self._news = threading.Condition()
        ready = threading.Event()
        self.client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        if user:
            self.client.username_pw_set(user, password)
        self.client.on_connect = lambda c, *_: c.subscribe("edgefer/v1/car-1/#", 1)
        self.client.on_subscribe = lambda *_: ready.set()
        self.client.on_message = self._hear
        self.client.on_publish = self._published
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        assert ready.wait(BOUND_S)

    def _hear(self, _c: Any, _u: Any, m: paho.MQTTMessage) -> None:
        with self._news:
            self.heard.append((m.topic.removeprefix("edgefer/v1/car-1/"), bytes(m.payload), m.retain))
            self._news.notify_all()

    def _published(self, _c: Any, _u: Any, _mid: int, reason: Any, _p: Any) -> None:
        with self._news:
            if reason.is_failure:
                self.refused.append(reason.value)
            self._news.notify_all()

    def send(self, name: str, payload: bytes, expiry_s: int | None = 10, **how: Any) -> None:
        properties = Properties(PacketTypes.PUBLISH)
        if expiry_s is not None:
            properties.MessageExpiryInterval = expiry_s
        self.client.publish(
            f"edgefer/v1/car-1/cmd/{name}", payload, how.get("qos", 1), how.get("retain", False), properties
        )

    def ask(self, name: str, **changes: object) -> dict[str, Any]:
        """Send it, with an id of its own; the answer."""
        one = str(uuid.uuid4())
        self.send(name, said(name, id=one, **changes))
        return self.answer(name, one)

    def answer(self, name: str, one: str) -> dict[str, Any]:
        return self.wait(lambda topic, payload: topic == f"rsp/{name}" and json.loads(payload)["id"] == one)

    def wait(self, fits: Callable[[str, bytes], bool], after: int = 0) -> dict[str, Any]:
        def found() -> list[bytes]:
            return [p for t, p, _ in self.heard[after:] if fits(t, p)]

        with self._news:
            assert self._news.wait_for(found, BOUND_S), "not heard"
            return json.loads(found()[0] or b"{}")

    def end(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def operate() -> Iterator[Callable[..., Operator]]:
    made: list[Operator] = []

    def make(*args: Any, **kwargs: Any) -> Operator:
        made.append(Operator(*args, **kwargs))
        return made[-1]

    yield make
    for one in made:
        one.end()


@pytest.fixture
def device(mosquitto: Mosquitto, tmp_path: Path) -> Iterator[MqttPublisher]:
    one = MqttPublisher(Publish(port=mosquitto.port), "car-1", stamper(), State(folder=str(tmp_path), spool_mb=1))
    one.open(next(m for m in one_of_each(stamper()) if isinstance(m, Meta)))
    until(lambda: one.connected)
    yield one
    one.close(stamper().message(Status, state="stopped", session=1))


def until(what: Callable[[], object], bound_s: float = BOUND_S) -> None:
    end, tick = time.monotonic() + bound_s, threading.Event()
    while not what():
        assert time.monotonic() < end, "did not come true in time"
        tick.wait(0.01)


@pytest.mark.broker
def test_a_command_reaches_the_pipeline_and_its_answer_the_sender(
    device: MqttPublisher, mosquitto: Mosquitto, operate: Any
) -> None:
    boss = operate(mosquitto.port)
    until(lambda: (boss.send("rate", said("rate")), device.counters()["cmd_accepted"])[1])
    command = device.take_command()
    assert isinstance(command, Rate)
    device.answer(command, True, "")
    answer = boss.answer("rate", ID)
    assert answer == {"id": ID, "ok": True, "reason": ""}
    jsonschema.validate(answer, SCHEMAS["rsp.v1"], jsonschema.Draft202012Validator)


@pytest.mark.broker
def test_the_broker_and_the_device_refuse_between_them(mosquitto: Mosquitto, operate: Any, tmp_path: Path) -> None:
    """Retained before it came, retained while it is here, without expiry, above 4 KiB, malformed: none is done."""
    boss = operate(mosquitto.port)
    boss.send("privacy", said("privacy"), retain=True)
    device = MqttPublisher(Publish(port=mosquitto.port), "car-1", stamper(), State(folder=str(tmp_path), spool_mb=1))
    device.open(next(m for m in one_of_each(stamper()) if isinstance(m, Meta)))
    try:
        until(lambda: device.counters()["cmd_retained"] == 1)
        boss.send("privacy", said("privacy"), retain=True)
        boss.send("rate", said("rate"), expiry_s=None)
        boss.send("rate", said("rate", pad="x" * 5000))  # the broker drops it: our CONNECT says 4096
        boss.send("rate", b"\xff\xfe")
        until(lambda: device.counters()["cmd_malformed"] == 1)  # it came last, and the broker keeps the order
        counts = device.counters()
        assert (counts["cmd_retained"], counts["cmd_stale"], counts["cmd_oversize"]) == (2, 1, 0)
        assert counts["cmd_accepted"] == 0
        assert device.take_command() is None
        assert boss.answer("rate", ID)["ok"] is False
    finally:
        device.close(stamper().message(Status, state="stopped", session=1))


@pytest.mark.broker
def test_a_range_is_sent_again_on_request(device: MqttPublisher, mosquitto: Mosquitto, operate: Any) -> None:
    clock = stamper()
    boss = operate(mosquitto.port)
    for _ in range(20):
        device.publish(clock.message(EventSystem, kind="started"))
    boss.wait(lambda t, p: t == "event/system" and json.loads(p)["seq"] == 20)
    heard = len(boss.heard)
    answer = boss.ask("replay", stream=clock.stream, first=5, last=9)
    assert (answer["ok"], answer["count"]) == (True, 5)
    boss.wait(lambda t, p: t == "event/system" and json.loads(p)["seq"] == 9, heard)
    again = [json.loads(p) for t, p, _ in boss.heard[heard:] if t == "event/system"]
    assert [(e["seq"], e["replayed"]) for e in again] == [(n, True) for n in range(5, 10)]
    partly = boss.ask("replay", stream=clock.stream, first=19, last=25)
    assert (partly["ok"], partly["count"]) == (True, 2)
    assert "5 of the first 7 are not here" in partly["reason"]
    nothing = boss.ask("replay", stream="ffffffff", first=1, last=2)
    assert (nothing["ok"], nothing["count"]) == (False, 0)


@pytest.mark.broker
def test_a_replay_of_numbers_beyond_all_bounds_is_refused_and_the_service_goes_on(
    device: MqttPublisher, mosquitto: Mosquitto, operate: Any
) -> None:
    boss = operate(mosquitto.port)
    assert boss.ask("replay", last=10**20)["ok"] is False
    assert (boss.ask("replay", last=2**63 - 1) | {"id": ""})["count"] == 0
    device.check()


@pytest.mark.broker
def test_privacy_takes_the_retained_state_back_at_every_connection(
    device: MqttPublisher, mosquitto: Mosquitto, operate: Any
) -> None:
    state = next(m for m in one_of_each(stamper()) if isinstance(m, StateDriver))
    boss = operate(mosquitto.port)
    device.publish(state)
    boss.wait(lambda t, p: t == "state/driver")
    device.private(True)
    boss.wait(lambda t, p: t == "state/driver" and not p)
    heard = len(boss.heard)
    device.publish(state)
    boss.wait(lambda t, p: t == "state/driver" and bool(p), heard)
    late = operate(mosquitto.port)
    late.wait(lambda t, p: t == "meta")
    assert "state/driver" not in {t for t, _, _ in late.heard}
    heard = len(boss.heard)
    device._link.cut()  # the network's doing, not the device's
    boss.wait(lambda t, p: t == "state/driver" and not p, heard)
    assert device.counters()["connects"] == 2


@pytest.mark.broker
def test_the_shipped_acl_says_who_may_command(make_mosquitto: MakeMosquitto, operate: Any, tmp_path: Path) -> None:
    users = {"car-1": "one", "fleet-monitor": "two", "fleet-operator": "three", "car-2": "four"}
    broker = make_mosquitto(users=users, acl=(DEPLOY / "mosquitto.acl").read_text())
    (tmp_path / "pw").write_text("one\n")
    config = Publish(port=broker.port, username="car-1", password_file=str(tmp_path / "pw"))
    device = MqttPublisher(config, "car-1", stamper(), State(folder=str(tmp_path), spool_mb=1))
    device.open(next(m for m in one_of_each(stamper()) if isinstance(m, Meta)))
    try:
        until(lambda: device.connected)
        stranger = operate(broker.port, "car-2", "four")
        stranger.send("privacy", said("privacy"))
        until(lambda: stranger.refused == [135])
        monitor = operate(broker.port, "fleet-monitor", "two")
        monitor.send("privacy", said("privacy"))
        until(lambda: monitor.refused == [135])
        assert monitor.ask("replay")["ok"] is False, "it may ask for events again; these are not here"
        boss = operate(broker.port, "fleet-operator", "three")
        boss.send("privacy", said("privacy"))
        until(lambda: device.counters()["cmd_accepted"] == 2)
    finally:
        device.close(stamper().message(Status, state="stopped", session=1))


@pytest.mark.broker
def test_a_flood_of_commands_changes_nothing(mosquitto: Mosquitto, tmp_path: Path, capsys: Any) -> None:
    """10,000 malformed commands a second, or as many as this machine can send."""
    ear = Ear(mosquitto.port)
    source = Source(mosquitto.port, tmp_path, "--every", "0.05")
    flood = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    flood.connect("127.0.0.1", mosquitto.port)
    seconds, sent = (60.0, 0) if FULL else (3.0, 0)
    try:
        ear.wait(lambda: len(ear.states) > 10)
        quiet = states_per_s(ear, 10.0 if FULL else 1.0)
        memory, before, start = source.memory_mb(), len(ear.states), time.monotonic()
        tick = threading.Event()
        while time.monotonic() < start + seconds:
            for _ in range(100):
                flood.publish("edgefer/v1/car-1/cmd/privacy", b'{"id":1,"on":' + b"[" * 50, 0)
            sent += 100
            tick.wait(max(0.0, start + sent / 10_000 - time.monotonic()))
        took = time.monotonic() - start
        rate = (len(ear.states) - before) / took
        grown = source.memory_mb() - memory
        last = len(ear.events)
        ear.wait(lambda: len(ear.events) > last + 5, says="events go on")
        counts = source.end()
    finally:
        source.process.kill()
        source.process.communicate()
        flood.loop_start()
        flood.disconnect()
        flood.loop_stop()
        ear.end()
    assert counts["cmd_flood"] > 0
    assert counts["cmd_malformed"] <= BURST + took / SHUT_S * BURST
    assert counts["connects"] == 1, "the connection stood"
    assert grown <= 5
    assert rate >= quiet / 2, "the full run says how much exactly"
    if FULL:
        speeds = f"{sent / took:.0f} malformed commands/s for {took:.0f} s: {rate:.2f} states/s ({quiet:.2f} without)"
        with capsys.disabled():
            print(f"\n  flood: {speeds}, memory {grown:+.1f} MB, {counts['cmd_malformed']} looked at, connection stood")


def states_per_s(ear: Ear, seconds: float) -> float:
    before = len(ear.states)
    threading.Event().wait(seconds)
    return (len(ear.states) - before) / seconds
