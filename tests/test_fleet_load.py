"""The load test's tool, small: what it counts is what was sent, and a loss would show."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mosquitto_broker import MakeMosquitto, Mosquitto

from edgefer.messages import Health, StateDriver, decode

pytestmark = pytest.mark.broker
TOOL = Path(__file__).parent / "tools" / "fleet_load.py"


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(TOOL.parent))
    import fleet_load

    return fleet_load


def test_twenty_devices_for_three_seconds(make_mosquitto: MakeMosquitto) -> None:
    make_mosquitto(started=False)  # skips without one; the tool starts its own
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    command = [sys.executable, str(TOOL), "--devices", "20", "--seconds", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["devices"] == 20
    assert said["sent"] >= 20 * 3 * 5  # states, and health now and then
    assert (said["arrived"], said["missing"], said["twice"]) == (said["sent"], 0, 0)
    assert 0 < said["latency_ms"]["p50"] <= said["latency_ms"]["p99"] <= said["latency_ms"]["p100"]
    assert said["broker_mb"] > 1
    assert done.stderr == ""


def test_a_simulated_device_sends_what_a_device_sends(mosquitto: Mosquitto, tool: Any) -> None:
    fleet = tool.Fleet(2, mosquitto.port)
    try:
        for kind in (StateDriver, Health):
            first, second = (decode(kind, fleet.devices[1].payload(kind, seq)) for seq in (1, 2))
            assert (first.dev, first.seq, second.seq) == ("load-00001", 1, 2)
            assert first.mono_ns < second.mono_ns
    finally:
        fleet.close()


def test_a_message_that_does_not_arrive_is_missing(
    tool: Any, monkeypatch: pytest.MonkeyPatch, mosquitto: Mosquitto
) -> None:
    send = tool.Device.send

    def lossy(device: Any, kind: Any) -> None:
        send(device, kind)
        device.sent["driver"] += device.sent["driver"] == 1  # one that never left

    monkeypatch.setattr(tool.Device, "send", lossy)
    said = tool._run(mosquitto, 3, 1.0, 5.0, 1)
    assert (said["missing"], said["twice"]) == (3, 0)
