"""Starts a broker, the service as its own process, and a subscriber; shows what the subscriber hears."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgefer.broker import EmbeddedBroker
from edgefer.capture import Recorder
from edgefer.demo import clip, table
from edgefer.demo.screen import Screen
from edgefer.errors import EX_OK, ServiceError

DEVICE = "demo"
Inbox = queue.Queue[tuple[str, bytes]]


def demo(forever: bool) -> int:
    """The whole show; returns the exit code of the service. Raises EdgeferError of one line."""
    with tempfile.TemporaryDirectory(prefix="edgefer-demo-") as folder, EmbeddedBroker() as broker:
        recording = make_clip(Path(folder) / "drive")
        config = Path(folder) / "edgefer.toml"
        config.write_text(configuration(recording, broker.port, forever))
        with subscriber(broker.port) as inbox, service(config, Path(folder) / "log") as process:
            board = watch(inbox, process)
        code = process.returncode
        if code not in (EX_OK, -15):
            raise ServiceError(f"the service ended with {code}: {_last_line(Path(folder) / 'log')}")
    print("\n".join(table.summary(board)))
    return EX_OK


def make_clip(folder: Path) -> Path:
    """Render the drive into a recording, as `edgefer record` would have written it."""
    shown = -1

    def progress(share: float) -> None:
        nonlocal shown
        if int(share * 20) > shown:
            shown = int(share * 20)
            print(f"\rmaking the clip {share:4.0%}", end="" if share < 1 else "\n", file=sys.stderr, flush=True)

    with Recorder(folder, fps=clip.FPS) as recorder:
        for _, frames in clip.render(progress=progress):
            for frame in frames:
                recorder.write(frame)
    return folder


def configuration(recording: Path, port: int, forever: bool) -> str:
    """The configuration file of the demo's service; MQTT 3.1.1 because the embedded broker speaks no 5."""
    return f"""device = "{DEVICE}"
[capture]
kind = "recording"
source = {json.dumps(str(recording))}
repeat = {str(forever).lower()}
[publish]
port = {port}
protocol = "3.1.1"
[health]
period_s = 1.0
"""


@contextmanager
def service(config: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """``edgefer run`` as its own process, ended on the way out."""
    command = [sys.executable, "-m", "edgefer", "run", "--config", str(config)]
    with log.open("wb") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=sink)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def subscriber(port: int) -> Iterator[Inbox]:
    """Everything the device publishes, as (topic below the device, payload)."""
    from paho.mqtt import client as mqtt
    from paho.mqtt.enums import CallbackAPIVersion

    inbox: Inbox = queue.Queue(10_000)
    prefix = f"edgefer/v1/{DEVICE}/"
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv311)
    client.on_connect = lambda c, *_: c.subscribe(prefix + "#", qos=1)
    client.on_message = lambda _c, _u, m: inbox.put((m.topic.removeprefix(prefix), bytes(m.payload)))
    client.connect("127.0.0.1", port)
    client.loop_start()
    try:
        yield inbox
    finally:
        client.disconnect()
        client.loop_stop()


def watch(inbox: Inbox, process: subprocess.Popen[Any]) -> table.Board:
    """Show the board until the service has ended and everything was heard, or Ctrl-C."""
    board, screen = table.Board(), Screen()
    try:
        while process.poll() is None or not inbox.empty():
            try:
                topic, payload = inbox.get(timeout=0.2)
            except queue.Empty:
                continue
            board.take(topic, json.loads(payload))
            screen.show(board)
    except KeyboardInterrupt:
        pass
    return board


def _last_line(log: Path) -> str:
    rows = log.read_text(errors="replace").strip().splitlines()
    return rows[-1] if rows else "it said nothing"
