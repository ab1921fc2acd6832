"""Home Assistant's discovery as a subscriber of a real mosquitto sees it: there while we run, gone after, opt-in."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import paho.mqtt.client as paho
import pytest
from mosquitto_broker import BOUND_S, MakeMosquitto, Mosquitto
from paho.mqtt.enums import CallbackAPIVersion
from wire_samples import LABELS, one_of_each, stamper

from edgefer import messages
from edgefer.config import Publish
from edgefer.messages import Health, Meta, StateDriver, Status
from edgefer.publish import home_assistant
from edgefer.publish.mqtt import MqttPublisher

pytestmark = pytest.mark.broker
TOPIC = "homeassistant/device/edgefer/car-1/config"


class Hub:
    """Subscribes as Home Assistant does. ``arrived``: topics in order with payload and whether it was retained."""

    def __init__(self, port: int, **login: str) -> None:
        self.arrived: list[tuple[str, bytes, bool]] = []
        self._news, ready = threading.Condition(), threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        if login:
            self._client.username_pw_set(**login)
        self._client.on_message = self._hear
        self._client.on_connect = lambda *_: self._client.subscribe([("homeassistant/#", 1), ("edgefer/#", 1)])
        self._client.on_subscribe = lambda *_: ready.set()
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert ready.wait(BOUND_S)

    def _hear(self, _client: Any, _userdata: Any, message: paho.MQTTMessage) -> None:
        with self._news:
            self.arrived.append((message.topic, message.payload, message.retain))
            self._news.notify_all()

    def wait(self, topic: str, fits: Callable[[bytes], bool] = bool) -> bytes:
        def found() -> list[bytes]:
            return [payload for name, payload, _ in self.arrived if name == topic and fits(payload)]

        with self._news:
            assert self._news.wait_for(found, BOUND_S), f"not heard: {topic}"
            return found()[-1]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def hub() -> Iterator[Callable[..., Hub]]:
    made: list[Hub] = []

    def make(port: int, **login: str) -> Hub:
        made.append(Hub(port, **login))
        return made[-1]

    yield make
    for one in made:
        one.close()


def sample(kind: type[messages.Message]) -> Any:
    return next(m for m in one_of_each(stamper()) if type(m) is kind)


def is_stopped(payload: bytes) -> bool:
    return json.loads(payload)["state"] == "stopped"


def opened(port: int, **settings: Any) -> MqttPublisher:
    sender = MqttPublisher(Publish(port=port, **settings), "car-1", stamper())
    sender.open(sample(Meta))
    return sender


STOPPED = stamper().message(Status, state="stopped", session=1)


def test_the_device_is_there_while_it_runs_also_for_a_late_subscriber_and_gone_after(
    mosquitto: Mosquitto, hub: Any
) -> None:
    live = hub(mosquitto.port)
    sender = opened(mosquitto.port, home_assistant=True)
    try:
        live.wait(TOPIC)
        late = hub(mosquitto.port)
        late.wait(TOPIC)
        assert [retained for name, _, retained in late.arrived if name == TOPIC] == [True]
    finally:
        sender.close(STOPPED)
    live.wait("edgefer/v1/car-1/status", is_stopped)
    assert [payload for name, payload, _ in live.arrived if name == TOPIC][-1] == b""  # heard before `stopped`
    after = hub(mosquitto.port)
    after.wait("edgefer/v1/car-1/status", is_stopped)
    assert [name for name, _, _ in after.arrived if name.startswith("homeassistant")] == []


def test_it_is_opt_in(mosquitto: Mosquitto, hub: Any) -> None:
    live = hub(mosquitto.port)
    sender = opened(mosquitto.port)
    live.wait("edgefer/v1/car-1/meta")
    sender.close(STOPPED)
    live.wait("edgefer/v1/car-1/status", is_stopped)
    assert {name.split("/")[0] for name, _, _ in live.arrived} == {"edgefer"}


def test_every_entity_reads_a_topic_and_fields_we_publish() -> None:
    said = json.loads(home_assistant.document(sample(Meta)))
    assert {"device", "origin", "components"} <= set(said)
    published = {messages.topic("car-1", type(m)): json.loads(messages.encode(m)) for m in one_of_each(stamper())}
    assert said["availability"][0]["topic"] in published
    assert len({c["unique_id"] for c in said["components"].values()}) == len(said["components"])
    for component in said["components"].values():
        assert component["platform"] in {"sensor", "binary_sensor"}
        fields = component["value_template"].split("value_json.")[1:]
        for path in (f.split(" ")[0].split("[")[0].split(")")[0] for f in fields):
            at: Any = published[component["state_topic"]]
            for step in path.split("."):
                if step not in ("why", "readings"):  # absent from a valid state; the sample's rates have another name
                    at = at[step]
    assert said["components"]["expression"]["options"] == [*LABELS, "unknown"]


def test_a_slow_stream_is_not_called_stale_between_two_states() -> None:
    slow = sample(Meta).model_copy(update={"limits": {"state_rate_hz": 0.1}})
    said = json.loads(home_assistant.document(slow))["components"]
    assert said["expression"]["state_topic"].endswith(StateDriver.TOPIC)
    assert said["expression"]["expire_after"] == 30
    assert said["memory"]["state_topic"].endswith(Health.TOPIC)


def test_a_broker_that_forbids_it_is_told_of_and_the_rest_goes_on(
    make_mosquitto: MakeMosquitto, hub: Any, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    acl = "pattern write edgefer/v1/%u/#\nuser hub\ntopic read #\n"
    broker = make_mosquitto(users={"car-1": "secret", "hub": "secret"}, acl=acl)
    live = hub(broker.port, username="hub", password="secret")
    (tmp_path / "password").write_text("secret\n")
    with caplog.at_level(logging.ERROR):
        sender = opened(broker.port, home_assistant=True, username="car-1", password_file=str(tmp_path / "password"))
        live.wait("edgefer/v1/car-1/meta")
        sender.close(STOPPED)
    live.wait("edgefer/v1/car-1/status", is_stopped)
    assert sender.counters()["denied"] >= 1
    assert any(f"publishes to {TOPIC}" in r.getMessage() for r in caplog.records)
