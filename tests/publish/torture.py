"""What the torture tests count with, all of it outside the publisher: a subscriber, the spool's file, /proc."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

TOOLS = Path(__file__).parents[1] / "tools"
BOUND_S = 30.0
Key = tuple[str, int]
LIBFAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
EPOCH = "1970-01-01 00:01:00"


def wall_clock(file: Path) -> dict[str, str]:
    """The environment of a process whose wall clock is what ``file`` says, now and whenever it says otherwise."""
    if LIBFAKETIME is None:
        assert os.environ.get("CI") != "true", "libfaketime is not installed, and on CI its tests must run"
        pytest.skip("libfaketime is not installed (apt install faketime)")
    return {
        "LD_PRELOAD": str(LIBFAKETIME), "FAKETIME_TIMESTAMP_FILE": str(file), "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1", "FAKETIME_DISABLE_SHM": "1",
    }  # fmt: skip


class Heard:
    """Events by key, however they were heard; ``wait`` for something to be so."""

    def __init__(self) -> None:
        self.news = threading.Condition()
        self.events: Counter[Key] = Counter()
        self.said: dict[Key, dict[str, Any]] = {}
        self.lost: set[Key] = set()
        self.states: list[float] = []
        self.last_new = 0.0

    def note(self, topic: str, payload: dict[str, Any]) -> None:
        with self.news:
            if topic.startswith("event/"):
                key = (payload["stream"], payload["seq"])
                self.last_new = self.last_new if key in self.events else time.monotonic()
                self.events[key] += 1
                self.said[key] = payload
                for seq in range(payload.get("first", 1), payload.get("last", 0) + 1):
                    self.lost.add((payload["lost_stream"], seq))
            elif topic == "state/driver":
                self.states.append(time.monotonic())
            self.news.notify_all()

    def wait(self, what: Callable[[], object], bound_s: float = BOUND_S, says: str = "") -> float:
        """Seconds until ``what()`` held."""
        start = time.monotonic()
        with self.news:
            assert self.news.wait_for(what, bound_s), f"did not come true in {bound_s} s: {says}"
        return time.monotonic() - start

    def streams(self) -> set[str]:
        return {stream for stream, _ in self.events}

    def of(self, stream: str) -> set[int]:
        return {seq for s, seq in self.events if s == stream}


class Ear(Heard):
    """A subscriber of ours: every delivery counts, doubles too."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self.client.reconnect_delay_set(1, 1)
        branches = [(f"edgefer/v1/car-1/{b}", 1) for b in ("status", "state/#", "event/#", "health")]
        self.client.on_connect = lambda c, *_: c.subscribe(branches)
        ready = threading.Event()
        self.client.on_subscribe = lambda *_: ready.set()
        self.client.on_message = self._hear
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        assert ready.wait(BOUND_S)

    def _hear(self, _c: Any, _u: Any, message: paho.MQTTMessage) -> None:
        if message.payload:
            self.note(message.topic.removeprefix("edgefer/v1/car-1/"), json.loads(message.payload))

    def end(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


class Watch(Heard):
    """`edgefer watch --json --all` as a process: each event once, gaps asked for."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.done: list[dict[str, Any]] = []
        command = [sys.executable, "-m", "edgefer", "watch", "car-1", "--port", str(port), "--json", "--all"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            said = json.loads(line)
            if "watch" in said:
                self.done.append(said)
            elif said["payload"] is not None:
                self.note(said["topic"], said["payload"])

    def end(self) -> None:
        self.process.terminate()
        assert self.process.wait(BOUND_S) == 0
        self._reader.join(BOUND_S)
        assert self.process.stdout is not None
        self.process.stdout.close()


class Source:
    """tests/tools/event_source.py as a process."""

    def __init__(self, port: int, folder: Path, *args: str, env: dict[str, str] | None = None) -> None:
        command = [sys.executable, str(TOOLS / "event_source.py"), str(port), str(folder), *args]
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **(env or {})}
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def end(self) -> dict[str, int]:
        """Its own counters, after a clean stop."""
        self.process.send_signal(signal.SIGTERM)
        out, err = self.process.communicate(timeout=BOUND_S)
        assert self.process.returncode == 0, err
        assert "Traceback" not in err, err
        return json.loads(out.splitlines()[-1])

    def memory_mb(self) -> float:
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1000
        return 0.0

    def threads(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/task").iterdir()))

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))


def on_disk(folder: Path) -> dict[Key, bool]:
    """What the spool's file of a dead or living publisher holds: key -> delivered. Read from a copy."""
    with tempfile.TemporaryDirectory() as copy:
        for file in folder.glob("spool.db*"):
            shutil.copy(file, copy)
        db = sqlite3.connect(Path(copy) / "spool.db")
        try:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            return {
                (stream, seq): bool(done) for stream, seq, done in db.execute("SELECT stream, seq, done FROM event")
            }
        finally:
            db.close()
