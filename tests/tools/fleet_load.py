"""A fleet on one broker: N simulated devices, each its own MQTT 5 connection, read by shared subscriptions.

    python tests/tools/fleet_load.py --devices 1000 --seconds 60

Starts a mosquitto of its own on loopback. Counted from outside: what left the devices here, what arrived in the reader
processes there, and the broker's processor time and memory in /proc. Not part of the wheel.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import selectors
import shutil
import sys
import tempfile
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import paho.mqtt.client as paho
from mosquitto_broker import Mosquitto
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from wire_samples import one_of_each, stamper

from edgefer.messages import Health, Message, StateDriver, Status, encode, topic
from edgefer.types import now_ns

HEALTH_EVERY_S = 10.0
BOUND_S = 30.0
TOPICS = "edgefer/v1/+/state/#", "edgefer/v1/+/health"
SEQ, MONO = 777_777_777, 888_888_888_888


def reader(port: int, pipe: Connection) -> None:
    """A process that shares the fleet's topics with its siblings; tells what it got when asked."""
    counts: Counter[tuple[str, str]] = Counter()
    latencies: list[int] = []

    def hear(_client: Any, _userdata: Any, message: paho.MQTTMessage) -> None:
        now, said = now_ns(), json.loads(message.payload)
        latencies.append(now - said["mono_ns"])
        counts[said["dev"], message.topic.rsplit("/", 1)[1]] += 1

    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.on_message = hear
    client.on_connect = lambda *_: client.subscribe([(f"$share/load/{name}", 1) for name in TOPICS])
    client.on_subscribe = lambda *_: pipe.send("ready")
    client.connect("127.0.0.1", port)
    client.loop_start()
    while pipe.recv() != "stop":
        pipe.send(len(latencies))
    client.disconnect()
    client.loop_stop()
    pipe.send((np.array(latencies, np.int64), counts))


class Device:
    """One connection that sends what a device sends; ``unacknowledged`` are its QoS 1 messages on their way."""

    def __init__(self, dev: str, port: int) -> None:
        self.dev, self.up, self.unacknowledged = dev, False, set[int]()
        self.sent: Counter[str] = Counter()
        self._templates = {kind: self._template(kind) for kind in (StateDriver, Health)}
        self._expiry = {kind: Properties(PacketTypes.PUBLISH) for kind in (StateDriver, Health)}
        for kind, properties in self._expiry.items():
            properties.MessageExpiryInterval = kind.EXPIRY_S
        self.client = paho.Client(CallbackAPIVersion.VERSION2, client_id=f"edgefer-{dev}", protocol=paho.MQTTv5)
        will = stamper(dev).message(Status, state="offline", session=1)
        self.client.will_set(topic(dev, Status), encode(will), Status.QOS, Status.RETAIN)
        self.client.on_connect = self._on_connect
        self.client.on_publish = lambda _c, _u, mid, *_: self.unacknowledged.discard(mid)
        self.client.connect("127.0.0.1", port, keepalive=60)

    def _on_connect(self, *_: Any) -> None:
        self.up = True

    def _template(self, kind: type[Message]) -> bytes:
        message = next(m for m in one_of_each(stamper(self.dev)) if type(m) is kind)
        return encode(message.model_copy(update={"seq": SEQ, "mono_ns": MONO}))

    def payload(self, kind: type[Message], seq: int) -> bytes:
        """A real message with the next number and the time of now, made cheaply."""
        plain = self._templates[kind].replace(b"%d" % SEQ, b"%d" % seq)
        return plain.replace(b"%d" % MONO, b"%d" % now_ns())

    def send(self, kind: type[Message]) -> None:
        name = kind.TOPIC.rsplit("/", 1)[-1]
        self.sent[name] += 1
        payload = self.payload(kind, self.sent[name])
        info = self.client.publish(topic(self.dev, kind), payload, kind.QOS, kind.RETAIN, self._expiry[kind])
        if kind.QOS:
            self.unacknowledged.add(info.mid)


class Fleet:
    """Every device in one thread, on one selector."""

    def __init__(self, size: int, port: int) -> None:
        self._ears = selectors.DefaultSelector()
        self.devices = [Device(f"load-{k:05d}", port) for k in range(size)]
        for device in self.devices:
            self._ears.register(device.client.socket(), selectors.EVENT_READ, device)
        self._until(lambda: all(device.up for device in self.devices))

    def _until(self, what: Any) -> None:
        end = time.monotonic() + BOUND_S
        while not what():
            if time.monotonic() > end:
                raise SystemExit("fleet_load: the broker does not answer every device")
            self.flush()
            self.listen(0.05)

    def listen(self, timeout_s: float) -> None:
        for key, _ in self._ears.select(max(0.0, timeout_s)):
            key.data.client.loop_read()

    def flush(self) -> None:
        """What a socket did not take at once."""
        for device in self.devices:
            if device.client.want_write():
                device.client.loop_write()

    def drive(self, seconds: float, rate_hz: float) -> float:
        """Send for ``seconds``, what does not fit not at all; how late the last one was against its plan, seconds."""
        n, every = len(self.devices), max(1, round(HEALTH_EVERY_S * rate_hz))
        start, k, late = time.monotonic(), 0, 0.0
        while k < int(n * rate_hz * seconds) and (now := time.monotonic()) < start + seconds:
            due = start + k / (n * rate_hz)
            if now < due:
                self.listen(due - now)
                continue
            device, late = self.devices[k % n], now - due
            device.send(StateDriver)
            if (k // n + k % n) % every == 0:  # the fleet's health messages are spread over the period
                device.send(Health)
            k += 1
            if k % 256 == 0:
                self.flush()
                self.listen(0)
        self._until(lambda: not any(device.unacknowledged for device in self.devices))
        return late

    def sent(self) -> Counter[tuple[str, str]]:
        return Counter({(d.dev, name): n for d in self.devices for name, n in d.sent.items()})

    def close(self) -> None:
        for device in self.devices:
            device.client.disconnect()
            device.client.loop_write()
            device.client.loop_misc()
        self._ears.close()


def usage(pid: int) -> tuple[float, float]:
    """Processor seconds so far and resident MB of process ``pid``."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    ticks = int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK"), int(fields[21]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def measure(devices: int, seconds: float, rate_hz: float = 5.0, readers: int = 2) -> dict[str, Any]:
    """The whole run on a broker of its own."""
    _allow_files(devices + 256)
    binary = shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if binary is None:
        raise SystemExit("fleet_load: mosquitto is not installed (apt install mosquitto)")
    with tempfile.TemporaryDirectory(prefix="fleet-") as folder:
        broker = Mosquitto(binary, Path(folder), {}, "")
        broker.start()
        try:
            return _run(broker, devices, seconds, rate_hz, readers)
        finally:
            broker.stop()


def _allow_files(needed: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise SystemExit(f"fleet_load: {needed} open files are needed, {hard} allowed: ulimit -Hn")
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def _run(broker: Mosquitto, devices: int, seconds: float, rate_hz: float, readers: int) -> dict[str, Any]:
    crew = [_start_reader(broker.port) for _ in range(readers)]
    fleet = Fleet(devices, broker.port)
    try:
        load, (cpu, _), began = os.getloadavg()[0], usage(broker.pid), time.monotonic()
        late = fleet.drive(seconds, rate_hz)
        took = time.monotonic() - began
        _settle(crew, fleet.sent().total())
        cpu_after, memory = usage(broker.pid)
    finally:
        fleet.close()
        heard = [_stop_reader(*one) for one in crew]
    latencies = np.concatenate([times for times, _ in heard]) / 1e6
    arrived = sum((counts for _, counts in heard), Counter[tuple[str, str]]())
    sent = fleet.sent()
    return {
        "devices": devices, "readers": readers, "state_rate_hz": rate_hz, "seconds": round(took, 2),
        "planned_per_s": round(devices * (rate_hz + 1 / HEALTH_EVERY_S), 1),
        "sent": sent.total(), "arrived": arrived.total(),
        "missing": (sent - arrived).total(), "twice": (arrived - sent).total(),
        "messages_per_s": round(arrived.total() / took, 1),
        "latency_ms": {f"p{p}": round(float(np.percentile(latencies, p)), 2) for p in (50, 99, 100)},
        "broker_cpu_percent": round(100 * (cpu_after - cpu) / took, 1), "broker_mb": round(memory, 1),
        "generator_late_ms": round(late * 1e3, 1), "cores": os.cpu_count(), "load_before": round(load, 1),
    }  # fmt: skip


Reader = tuple[multiprocessing.process.BaseProcess, Connection]


def _start_reader(port: int) -> Reader:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=reader, args=(port, theirs), daemon=True)
    process.start()
    if not ours.poll(BOUND_S) or ours.recv() != "ready":
        raise SystemExit("fleet_load: a reader does not start")
    return process, ours


def _settle(crew: list[Reader], expected: int) -> None:
    """Until everything arrived, or nothing more does."""
    seen, quiet = -1, 0
    while seen < expected and quiet < 20:
        time.sleep(0.05)
        before, seen = seen, sum(_asked(pipe) for _, pipe in crew)
        quiet = quiet + 1 if seen == before else 0


def _asked(pipe: Connection) -> int:
    pipe.send("how many")
    return int(pipe.recv())


def _stop_reader(process: multiprocessing.process.BaseProcess, pipe: Connection) -> tuple[Any, Any]:
    pipe.send("stop")
    told = pipe.recv()
    process.join(BOUND_S)
    pipe.close()
    return told[0], told[1]


def main() -> None:
    parser = argparse.ArgumentParser(description="Simulated devices on one mosquitto.")
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=5.0, help="state messages per second and device (5)")
    parser.add_argument("--readers", type=int, default=2, help="processes that share the subscription (2)")
    args = parser.parse_args()
    print(json.dumps(measure(args.devices, args.seconds, args.rate, args.readers), indent=1))


if __name__ == "__main__":
    main()
