"""The publisher's book-keeping without a broker."""

from __future__ import annotations

import pytest
from wire_samples import one_of_each, stamper

from edgefer.config import Publish
from edgefer.publish import _mqtt_parts
from edgefer.publish._mqtt_parts import Ledger, Out, Tally
from edgefer.publish.mqtt import UNSENT, MqttPublisher

STATE, EVENT = Out("state/driver", 0, True), Out("event/system", 1, False)


def test_an_acknowledgement_may_be_faster_than_publish_returns() -> None:
    ledger = Ledger()
    assert ledger.done(7, 135, "Not authorized") is None
    assert ledger.sent(7, EVENT) == (135, "Not authorized")
    assert ledger.sent(8, EVENT) is None
    assert ledger.done(8, 0, "Success") is EVENT
    assert ledger.count(1) == 0


def test_a_lost_link_forgets_states_and_keeps_events() -> None:
    ledger = Ledger()
    ledger.sent(1, STATE)
    ledger.sent(2, EVENT)
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
        sender._link._on_connect_fail(None, None)  # type: ignore[arg-type]
    assert [r.getMessage().split(":")[0] for r in caplog.records] == ["broker 127.0.0.1"]


def test_states_behind_a_stuck_socket_are_dropped_and_counted() -> None:
    sender = MqttPublisher(Publish(), "car-1", stamper())
    sender._link.connected = True
    for mid in range(UNSENT):  # handed over, never written
        sender._link._ledger.sent(mid, STATE)
    sender.publish(one_of_each(stamper())[0])
    assert sender.counters()["dropped_slow"] == 1
