"""The MQTT publisher against a real mosquitto: every topic, the will, refusals, a broker that comes and goes."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import paho.mqtt.client as paho
import pytest
from mosquitto_broker import BOUND_S, MakeMosquitto, Mosquitto
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties
from wire_samples import one_of_each, stamper

from edgefer import messages
from edgefer.config import Publish, State
from edgefer.errors import ServiceError
from edgefer.messages import EventDriver, EventSystem, Health, Message, Meta, StateDriver, Status
from edgefer.publish import _link
from edgefer.publish.mqtt import MqttPublisher

pytestmark = pytest.mark.broker
DEPLOY = Path(__file__).parents[2] / "deploy"


class Listener:
    """A subscriber that remembers; ``wait`` returns the first message that fits, or fails after BOUND_S."""

    def __init__(
        self, port: int, protocol: int = paho.MQTTv5, user: str = "", password: str = "", branch: str = "edgefer/#"
    ) -> None:
        self.heard: list[paho.MQTTMessage] = []
        self._news = threading.Condition()
        self._ready = threading.Event()
        self.client = paho.Client(CallbackAPIVersion.VERSION2, protocol=protocol)
        if user:
            self.client.username_pw_set(user, password)
        self.client.on_message = self._hear
        self.client.on_connect = lambda *_: self.client.subscribe(branch, 1)
        self.client.on_subscribe = lambda *_: self._ready.set()
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        assert self._ready.wait(BOUND_S)

    def _hear(self, _client: Any, _userdata: Any, message: paho.MQTTMessage) -> None:
        with self._news:
            self.heard.append(message)
            self._news.notify_all()

    def wait(self, kind: type[Message], **said: object) -> paho.MQTTMessage:
        def fitting() -> list[paho.MQTTMessage]:
            wanted = [m for m in self.heard if m.topic.endswith("/" + kind.TOPIC)]
            return [m for m in wanted if said.items() <= json.loads(m.payload).items()]

        with self._news:
            assert self._news.wait_for(fitting, BOUND_S), f"not heard: {kind.TOPIC} {said}"
            return fitting()[0]

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def listen() -> Iterator[Callable[..., Listener]]:
    made: list[Listener] = []

    def make(*args: Any, **kwargs: Any) -> Listener:
        made.append(Listener(*args, **kwargs))
        return made[-1]

    yield make
    for listener in made:
        listener.close()


@pytest.fixture
def publisher() -> Iterator[Callable[..., MqttPublisher]]:
    """Makes and opens a publisher; closes it after the test."""
    made: list[MqttPublisher] = []

    def make(port: int, *, will_delay_s: int = 5, folder: str = "", **settings: Any) -> MqttPublisher:
        config, state = Publish(port=port, **settings), State(folder=folder, spool_mb=1)
        made.append(MqttPublisher(config, "car-1", stamper(), state, will_delay_s=will_delay_s))
        made[-1].open(sample(Meta))
        return made[-1]

    yield make
    for one in made:
        one.close(sample(Status))


def sample(kind: type[Message]) -> Any:
    return next(m for m in one_of_each(stamper()) if type(m) is kind)


def until(what: Callable[[], object], bound_s: float = BOUND_S) -> None:
    """Look until ``what()`` holds. The publisher offers no event to wait on: its user polls too."""
    end, tick = time.monotonic() + bound_s, threading.Event()
    while not what():
        assert time.monotonic() < end, "did not come true in time"
        tick.wait(0.01)


def test_every_topic_arrives_as_the_table_says(mosquitto: Mosquitto, listen: Any, publisher: Any) -> None:
    live = listen(mosquitto.port)
    sender = publisher(mosquitto.port)
    until(lambda: sender.connected)
    for message in one_of_each(stamper()):
        sender.publish(message)
    schemas = messages.schemas()
    for kind in messages.MESSAGES:
        got = live.wait(kind)
        assert got.topic == f"edgefer/v1/car-1/{kind.TOPIC}"
        assert got.qos == kind.QOS
        assert getattr(got.properties, "MessageExpiryInterval", None) == kind.EXPIRY_S
        jsonschema.validate(json.loads(got.payload), schemas[messages.schema_name(kind)])
    late = listen(mosquitto.port)
    for kind in messages.MESSAGES:
        if kind.RETAIN:
            assert late.wait(kind).retain
    assert not [m for m in late.heard if "/event/" in m.topic]
    until(lambda: sender.counters()["unacknowledged"] == 0)
    assert sender.counters()["published"] == 8  # online and meta on connecting, and the six


def test_a_clean_close_says_stopped_and_leaves_no_will(mosquitto: Mosquitto, listen: Any, publisher: Any) -> None:
    live = listen(mosquitto.port)
    sender = publisher(mosquitto.port, will_delay_s=0)
    session = json.loads(live.wait(Status, state="online").payload)["session"]
    before = threading.active_count()
    started = time.monotonic()
    sender.close(stamper().message(Status, state="stopped", session=1))
    assert time.monotonic() - started < 2
    assert threading.active_count() < before
    live.wait(Status, state="stopped", session=session)
    late = listen(mosquitto.port)
    late.wait(Status, state="stopped")
    assert [json.loads(m.payload)["state"] for m in live.heard if m.topic.endswith("/status")] == ["online", "stopped"]


def test_a_killed_connection_leaves_the_will_and_comes_back(mosquitto: Mosquitto, listen: Any, publisher: Any) -> None:
    live = listen(mosquitto.port)
    sender = publisher(mosquitto.port, will_delay_s=0)
    first = json.loads(live.wait(Status, state="online").payload)["session"]
    link = sender._link._client.socket()
    link.shutdown(socket.SHUT_RDWR)  # the cable is cut: no DISCONNECT is sent
    will = live.wait(Status, state="offline", session=first)
    assert will.qos == 1
    jsonschema.validate(json.loads(will.payload), messages.schemas()["status.v1"])
    live.wait(Status, state="online", session=first + 1)


def test_a_broker_restart_brings_status_and_meta_again(mosquitto: Mosquitto, listen: Any, publisher: Any) -> None:
    sender = publisher(mosquitto.port)
    until(lambda: sender.connected)
    mosquitto.stop()
    until(lambda: not sender.connected)
    for message in (sample(StateDriver), sample(Health), sample(EventSystem)):
        sender.publish(message)
    assert sender.counters()["dropped_offline"] == 2
    mosquitto.start()
    live = listen(mosquitto.port)
    for kind in (Status, Meta, EventSystem):
        live.wait(kind)
    assert [m.topic for m in live.heard if m.topic.endswith(("/state/driver", "/health"))] == []
    assert sender.counters()["connects"] == 2
    sender.check()


def test_a_broker_that_appears_later(
    make_mosquitto: MakeMosquitto, publisher: Any, caplog: pytest.LogCaptureFixture
) -> None:
    broker = make_mosquitto(started=False)
    with caplog.at_level(logging.INFO, "edgefer.publish"):
        sender = publisher(broker.port)
        until(lambda: caplog.records)
        sender.publish(sample(StateDriver))
        sender.check()
        broker.start()
        until(lambda: sender.connected)
    warnings = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert f"127.0.0.1:{broker.port}" in warnings[0]
    assert "refused" in warnings[0]
    assert sender.counters()["dropped_offline"] == 1


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_a_wrong_password_is_one_clear_line(
    protocol: str, make_mosquitto: MakeMosquitto, publisher: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broker = make_mosquitto(users={"car-1": "right"})
    (tmp_path / "pw").write_text("hush-wrong\n")
    settings = {"username": "car-1", "password_file": str(tmp_path / "pw"), "protocol": protocol}
    with caplog.at_level(logging.DEBUG):
        sender = publisher(broker.port, **settings)
        until(lambda: sender._link.fault)
    pattern = f"^broker 127.0.0.1:{broker.port} refuses the connection: .*; check publish.username and publish.password"
    with pytest.raises(ServiceError, match=pattern) as caught:
        sender.check()
    assert "\n" not in str(caught.value)
    assert "hush" not in caplog.text + str(caught.value)


def test_the_shipped_acl_lets_a_device_write_its_own_topics(
    make_mosquitto: MakeMosquitto, listen: Any, publisher: Any, tmp_path: Path
) -> None:
    users = {"car-1": "one", "fleet-monitor": "two"}
    broker = make_mosquitto(users=users, acl=(DEPLOY / "mosquitto.acl").read_text())
    (tmp_path / "pw").write_text("one\n")
    live = listen(broker.port, user="fleet-monitor", password="two")
    sender = publisher(broker.port, username="car-1", password_file=str(tmp_path / "pw"))
    until(lambda: sender.connected)
    for message in one_of_each(stamper()):
        sender.publish(message)
    for kind in messages.MESSAGES:
        live.wait(kind)
    assert sender.counters()["denied"] == 0


def test_an_acl_refusal_is_counted_and_told_once(
    make_mosquitto: MakeMosquitto, publisher: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    acl = "".join(f"pattern write edgefer/v1/%u/{t}\n" for t in ("status", "meta"))
    broker = make_mosquitto(users={"car-1": "one"}, acl=acl)
    (tmp_path / "pw").write_text("one\n")
    sender = publisher(broker.port, username="car-1", password_file=str(tmp_path / "pw"))
    until(lambda: sender.connected)
    clock = stamper()
    for _ in range(3):
        sender.publish(clock.message(EventSystem, kind="started"))
    until(lambda: sender.counters()["denied"] >= 3)
    told = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert len(told) == 1
    assert "edgefer/v1/car-1/event/system" in told[0]
    assert "ACL" in told[0]


def test_an_event_nobody_subscribes_to_is_not_delivered(mosquitto: Mosquitto, publisher: Any) -> None:
    sender = publisher(mosquitto.port)
    until(lambda: sender.counters()["published"] == 2)  # online and meta are retained: delivered to the broker
    sender.publish(sample(EventSystem))
    until(lambda: sender.counters()["unmatched"] == 1)
    assert sender.counters()["published"] == 2


def test_3_1_1_says_the_same_without_properties(mosquitto: Mosquitto, listen: Any, publisher: Any) -> None:
    live = listen(mosquitto.port)
    sender = publisher(mosquitto.port, protocol="3.1.1")
    until(lambda: sender.connected)
    sender.publish(sample(StateDriver))
    got = live.wait(StateDriver)
    assert isinstance(got.properties, Properties)
    assert not hasattr(got.properties, "MessageExpiryInterval")
    live.wait(Meta)
    sender.close(stamper().message(Status, state="stopped", session=1))
    live.wait(Status, state="stopped")


def test_3_1_1_retains_nothing_that_should_expire(mosquitto: Mosquitto, listen: Any, publisher: Any) -> None:
    live = listen(mosquitto.port)
    sender = publisher(mosquitto.port, protocol="3.1.1")
    until(lambda: sender.connected)
    for message in one_of_each(stamper()):
        sender.publish(message)
    for kind in messages.MESSAGES:
        live.wait(kind)
    sender.close(stamper().message(Status, state="stopped", session=1))
    live.wait(Status, state="stopped")
    late = listen(mosquitto.port)
    late.wait(Status, state="stopped")
    late.wait(Meta)
    late.client.publish("edgefer/v1/car-1/last", b"{}")  # the broker answers in order: nothing retained comes after it
    until(lambda: any(m.topic.endswith("/last") for m in late.heard))
    assert {m.topic.removeprefix("edgefer/v1/car-1/") for m in late.heard if m.retain} == {"status", "meta"}


def test_a_broker_that_never_answers_holds_up_neither_publish_nor_close(publisher: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # accepts and never answers
        sender = publisher(deaf.getsockname()[1])
        link, _ = deaf.accept()
        sender.publish(sample(StateDriver))
        assert not sender.connected
        assert sender.counters()["dropped_offline"] == 1
        started = time.monotonic()
        sender.close(stamper().message(Status, state="stopped", session=1))
        assert time.monotonic() - started < 5
        link.close()


def test_a_broker_that_never_answers_is_tried_again(publisher: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_link, "CONNECT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        deaf.settimeout(BOUND_S)
        sender = publisher(deaf.getsockname()[1])
        links = [deaf.accept()[0]]
        until(lambda: sender._link._trying_since is not None and time.monotonic() - sender._link._trying_since > 0.1)
        sender.check()
        links.append(deaf.accept()[0])
        for link in links:
            link.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_network_thread_that_dies_is_replaced(mosquitto: Mosquitto, listen: Any, publisher: Any) -> None:
    live = listen(mosquitto.port)
    sender = publisher(mosquitto.port)
    until(lambda: sender.connected)
    client, dead = sender._link._client, sender._link._client._thread
    read, wait = client._packet_read, client._reconnect_wait

    def once() -> Any:
        client._packet_read = read
        raise ZeroDivisionError("a defect in the client library")

    def once_more() -> Any:
        client._reconnect_wait = wait
        raise ZeroDivisionError("and its successor does not even come to connect")

    client._packet_read, client._reconnect_wait = once, once_more
    client.publish("edgefer/v1/car-1/x", b"", 1)  # its acknowledgement wakes the thread
    dead.join(BOUND_S)
    assert not dead.is_alive()
    until(lambda: sender.check() or sender.counters()["connects"] == 2)
    sender.publish(sample(EventSystem))
    live.wait(EventSystem)
    assert sender.counters()["net_restarts"] == 2


def test_an_event_nobody_hears_waits_for_somebody(mosquitto: Mosquitto, listen: Any, publisher: Any) -> None:
    sender = publisher(mosquitto.port)
    until(lambda: sender.counters()["published"] == 2)
    clock = stamper()
    for _ in range(30):
        sender.publish(clock.message(EventSystem, kind="started"))
    until(lambda: sender.counters()["unmatched"] >= 16)
    assert sender.counters()["spool_depth"] == 30
    live = listen(mosquitto.port)
    live.wait(EventSystem, seq=30)
    numbers = {json.loads(m.payload)["seq"] for m in live.heard if m.topic.endswith("/event/system")}
    assert numbers == set(range(1, 31))


def test_a_topic_that_nobody_subscribes_to_holds_up_no_other_one(
    mosquitto: Mosquitto, listen: Any, publisher: Any
) -> None:
    fleet = listen(mosquitto.port, branch="edgefer/+/+/event/system")
    sender, clock = publisher(mosquitto.port), stamper()
    until(lambda: sender.counters()["published"] == 2)
    for _ in range(30):
        sender.publish(clock.message(EventDriver, kind="label", before="a", after="b"))
    until(lambda: sender.counters()["unmatched"] >= 16)
    for _ in range(30):
        sender.publish(clock.message(EventSystem, kind="started"))
    fleet.wait(EventSystem, seq=60)
    assert [json.loads(m.payload)["seq"] for m in fleet.heard] == list(range(31, 61))
    live = listen(mosquitto.port)
    live.wait(EventDriver, seq=30)
    drivers = [json.loads(m.payload)["seq"] for m in live.heard if m.topic.endswith("/event/driver")]
    assert drivers == list(range(1, 31)), "all of them, in order, once somebody hears them"


def test_a_damaged_spool_is_said_in_an_event(mosquitto: Mosquitto, listen: Any, publisher: Any, tmp_path: Path) -> None:
    (tmp_path / "spool.db").write_bytes(b"no database" * 1000)
    live = listen(mosquitto.port)
    sender = publisher(mosquitto.port, folder=str(tmp_path))
    until(lambda: (sender.check(), [m for m in live.heard if m.topic.endswith("/event/system")])[1])
    said = json.loads(live.wait(EventSystem).payload)
    assert said["kind"] == "spool_lost"
    assert "set aside as spool.db.damaged" in said["detail"]
    jsonschema.validate(said, messages.schemas()["event.system.v1"])


def test_what_an_acl_forbids_is_told_as_lost_once_it_may_be_told(
    make_mosquitto: MakeMosquitto, listen: Any, publisher: Any, tmp_path: Path
) -> None:
    """event/driver is forbidden, event/system is not: the range arrives, and nothing is tried for ever."""
    rights = "".join(f"pattern write edgefer/v1/%u/{t}\n" for t in ("status", "meta", "event/system"))
    acl = rights + "user ear\ntopic read edgefer/#\n"
    broker = make_mosquitto(users={"car-1": "one", "ear": "two"}, acl=acl)
    (tmp_path / "pw").write_text("one\n")
    live = listen(broker.port, user="ear", password="two")
    sender = publisher(broker.port, username="car-1", password_file=str(tmp_path / "pw"))
    until(lambda: sender.connected)
    clock = sender._stamper  # the reports of losses are numbered among these events
    for n in range(5):
        a, b = ("a", "b") if n % 2 else ("b", "a")
        sender.publish(clock.message(EventDriver, kind="label", before=a, after=b))
    until(lambda: sender.counters()["denied"] == 5)
    until(lambda: (sender.check(), sum(json.loads(m.payload).get("count", 0) for m in live.heard) == 5)[1])
    assert sender.counters()["denied"] == 5
    assert sender.counters()["events_lost"] == 5


def test_what_changes_while_it_connects_is_told_all_the_same(
    mosquitto: Mosquitto, publisher: Callable[..., MqttPublisher], listen: Callable[..., Listener],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The pipeline's thread brings a new meta, and privacy, just when the old one is out and nothing is up yet."""
    listener = listen(mosquitto.port)
    subscribe = MqttPublisher._subscribe
    newer = sample(Meta).model_copy(update={"software": "edgefer 9"})

    def meanwhile(self: MqttPublisher) -> None:
        subscribe(self)
        self.publish(newer)
        self.private(True)

    monkeypatch.setattr(MqttPublisher, "_subscribe", meanwhile)
    publisher(mosquitto.port)
    listener.wait(Meta, software="edgefer 9")
    end = time.monotonic() + BOUND_S
    while not [m for m in listener.heard if m.topic.endswith("state/driver") and not m.payload]:
        assert time.monotonic() < end, "the retained state was not taken back"
        time.sleep(0.01)
