"""The publisher's book-keeping without a broker."""

from __future__ import annotations

import tracemalloc

import pytest
from wire_samples import one_of_each, stamper

from edgefer.config import Publish
from edgefer.messages import EventSystem, Meta, StateDriver
from edgefer.publish import _mqtt_parts
from edgefer.publish._mqtt_parts import Ledger, Tally
from edgefer.publish.mqtt import UNSENT_STATES, MqttPublisher


def test_an_acknowledgement_may_be_faster_than_publish_returns() -> None:
    ledger = Ledger()
    assert ledger.done(7, 135, "Not authorized") is None
    assert ledger.sent(7, EventSystem) == (135, "Not authorized")
    assert ledger.sent(8, EventSystem) is None
    assert ledger.done(8, 0, "Success") is EventSystem
    assert ledger.count(1) == 0


def test_a_lost_link_forgets_states_and_keeps_events() -> None:
    ledger = Ledger()
    ledger.sent(1, StateDriver)
    ledger.sent(2, EventSystem)
    ledger.link_lost()
    assert (ledger.count(0), ledger.count(1)) == (0, 1)


def test_a_fault_is_told_again_only_after_a_while() -> None:
    tally = Tally()
    assert [tally.due("a"), tally.due("a"), tally.due("b")] == [True, False, True]
    tally._told["a"] -= _mqtt_parts.TELL_AGAIN_S
    assert tally.due("a")


def test_an_outage_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    sender = MqttPublisher(Publish(), "car-1", stamper())
    for _ in range(3):  # as paho calls it, every 1 to 30 s
        sender._on_connect_fail(None, None)  # type: ignore[arg-type]
    assert [r.getMessage().split(":")[0] for r in caplog.records] == ["broker 127.0.0.1"]


def test_states_behind_a_stuck_socket_are_dropped_and_counted() -> None:
    sender = MqttPublisher(Publish(), "car-1", stamper())
    sender._connected = True
    for mid in range(UNSENT_STATES):  # handed over, never written
        sender._ledger.sent(mid, StateDriver)
    sender.publish(one_of_each(stamper())[0])
    assert sender.counters()["dropped_slow"] == 1


def test_a_night_without_a_broker_costs_little_memory() -> None:
    clock = stamper()
    sender = MqttPublisher(Publish(host="127.0.0.1", port=1), "car-1", clock)  # nobody listens on port 1
    sender.open(next(m for m in one_of_each(clock) if isinstance(m, Meta)))
    event = clock.message(EventSystem, kind="started", detail="x" * 200)
    sender.publish(event)
    tracemalloc.start()
    try:
        for _ in range(1500):
            sender.publish(event)
        grown = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
        sender.close(one_of_each(clock)[3])  # type: ignore[arg-type]
    assert sender.counters()["queue_refused"] == 501
    assert grown < 10e6
