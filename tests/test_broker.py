"""The demo's embedded broker: 3.1.1 in, 3.1.1 out, and silence on the terminal."""

from __future__ import annotations

import builtins
import gc
import importlib.util
import socket
import subprocess
import sys
import threading
from typing import Any

import pytest

from edgefer.broker import EmbeddedBroker
from edgefer.errors import ServiceError

needs_amqtt = pytest.mark.skipif(importlib.util.find_spec("amqtt") is None, reason="amqtt is not installed: extra demo")

# In a process of its own: whatever amqtt leaves on stderr, warnings included, is seen here.
STORY = """
import sys, threading
sys.path[:0] = sys.argv[1:]
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from wire_samples import one_of_each, stamper
from edgefer.broker import EmbeddedBroker
from edgefer.config import Publish
from edgefer.messages import Status
from edgefer.publish import _link, open_publisher
_link.SAY_S = 20  # a busy machine
clock, heard, ready, stopped = stamper(), [], threading.Event(), threading.Event()
def hear(client, userdata, message):
    heard.append(message.topic.removeprefix("edgefer/v1/car-1/"))
    if b'"stopped"' in message.payload:
        stopped.set()
with EmbeddedBroker() as broker:
    listener = paho.Client(CallbackAPIVersion.VERSION2)
    listener.on_message = hear
    listener.on_connect = lambda *_: listener.subscribe("edgefer/#", 1)
    listener.on_subscribe = lambda *_: ready.set()
    listener.connect(broker.host, broker.port)
    listener.loop_start()
    assert ready.wait(10)
    sender = open_publisher(Publish(port=broker.port, protocol="3.1.1"), "car-1", clock)
    samples = one_of_each(clock)
    sender.open(samples[4])
    tick = threading.Event()
    while not sender.connected:
        tick.wait(0.01)
    for message in samples:
        sender.publish(message)
    sender.close(clock.message(Status, state="stopped", session=1))
    assert stopped.wait(10)
    listener.disconnect()
    listener.loop_stop()
print(sorted(set(heard)), threading.active_count())
"""


@needs_amqtt
def test_every_message_passes_and_nothing_is_left_behind() -> None:
    command = [sys.executable, "-W", "default", "-c", STORY, *sys.path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    assert done.stdout == "['event/driver', 'event/system', 'health', 'meta', 'state/driver', 'status'] 1\n"


@needs_amqtt
def test_a_connection_that_is_cut_and_one_left_open_do_not_hold_up_the_stop(capfd: pytest.CaptureFixture[str]) -> None:
    before = threading.active_count()
    with EmbeddedBroker() as broker:
        socket.create_connection((broker.host, broker.port)).close()
        idle = socket.create_connection((broker.host, broker.port))
    idle.close()
    gc.collect()  # an unclosed transport would speak up here
    assert threading.active_count() == before
    assert capfd.readouterr().err == ""


@needs_amqtt
def test_a_taken_port_is_one_clear_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServiceError, match=rf"127\.0\.0\.1:{port}: "), EmbeddedBroker(port):
            pass


def test_without_amqtt_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("amqtt"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ServiceError, match=r"pip install 'edgefer\[demo\]'"):
        EmbeddedBroker().__enter__()
