"""A soak in accelerated time: the real service on a drive that repeats, as fast as frames go, watched from outside.

    python tests/tools/soak.py --minutes 30 --report soak.json

The recording's clock is the service's clock, so every hour of it is an hour of smoothing, events and states; how many
such hours pass is said in the report, not promised. Memory, threads and descriptors come from /proc, messages from a
subscriber at a mosquitto of its own; only the frame's p99 is the health message's word. Not part of the wheel.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from math import inf
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import paho.mqtt.client as paho
from mosquitto_broker import Mosquitto
from paho.mqtt.enums import CallbackAPIVersion

from edgefer.capture import Recorder
from edgefer.demo import clip

WARM_UP = 0.2
"""share of the run that is not judged: libraries fill their caches"""
MB_PER_HOUR, DRIFT = 1.0, 0.10
"""limits: memory per simulated hour, as much in less than one; the frame's p99 from the first third of what is judged
to the last"""
START_S = 120.0


@dataclass(frozen=True)
class Sample:
    """One look at the service. hours: simulated so far; p99_ms: of the newest health message."""

    wall_s: float
    hours: float
    memory_mb: float
    threads: int
    descriptors: int
    p99_ms: float


def judge(samples: Sequence[Sample]) -> dict[str, Any]:
    """What the run comes to, after the warm-up. Raises ValueError for fewer than 6 samples."""
    kept = list(samples)[int(len(samples) * WARM_UP) :]
    if len(kept) < 6:
        raise ValueError("too short to judge")
    hours = np.array([s.hours for s in kept])
    slope = float(np.polyfit(hours - hours[0], [s.memory_mb for s in kept], 1)[0]) if np.ptp(hours) > 0 else 0.0
    third = len(kept) // 3
    first, last = (float(np.median([s.p99_ms for s in part])) for part in (kept[:third], kept[-third:]))
    drift = last / first - 1 if first > 0 else 0.0
    rise = slope * max(float(np.ptp(hours)), 1e-9)
    passed = {
        "memory": rise < MB_PER_HOUR * max(float(np.ptp(hours)), 1.0),
        "threads": _never_more([s.threads for s in kept]),
        "descriptors": _never_more([s.descriptors for s in kept]),
        "p99": drift < DRIFT,
    }
    return {
        "memory_mb_per_hour": round(slope, 3), "memory_mb": [round(kept[0].memory_mb, 1), round(kept[-1].memory_mb, 1)],
        "threads": sorted({s.threads for s in kept}), "descriptors": sorted({s.descriptors for s in kept}),
        "p99_ms": [round(first, 2), round(last, 2)], "p99_drift": round(drift, 3), "passed": passed,
    }  # fmt: skip


def _never_more(counts: Sequence[int]) -> bool:
    """No higher than in the first third. A moment with fewer is no fault: a video that is reopened drops a thread."""
    return max(counts) <= max(counts[: len(counts) // 3])


class Ear:
    """A subscriber that counts what arrives and keeps the newest health message."""

    def __init__(self, port: int) -> None:
        self.counts: Counter[str] = Counter()
        self.health: dict[str, Any] = {}
        self.first_health, ready = threading.Event(), threading.Event()
        self._span: list[int] = []
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self._client.on_message = self._hear
        self._client.on_connect = lambda *_: self._client.subscribe("edgefer/#", 1)
        self._client.on_subscribe = lambda *_: ready.set()
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        if not ready.wait(START_S):
            raise SystemExit("soak: the broker does not answer")

    def _hear(self, _client: Any, _userdata: Any, message: paho.MQTTMessage) -> None:
        name = message.topic.split("/", 3)[3]
        self.counts[name] += 1
        said = json.loads(message.payload) if message.payload else {}
        if name == "health":
            self.health = said
            self.first_health.set()
        elif name == "state/driver":
            self._span = [*self._span[:1], said["mono_ns"]]

    @property
    def hours(self) -> float:
        """Simulated hours from the first state to the newest."""
        return (self._span[-1] - self._span[0]) / 3.6e12 if self._span else 0.0

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def look(pid: int, began: float, ear: Ear) -> Sample:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    memory, threads = int(status["VmRSS"].split()[0]) * 1024 / 1e6, int(status["Threads"])
    descriptors = len(os.listdir(f"/proc/{pid}/fd"))
    p99 = float(ear.health["stages"]["frame"]["p99_ms"])
    return Sample(round(time.monotonic() - began, 2), round(ear.hours, 5), round(memory, 3), threads, descriptors, p99)


@contextmanager
def service(folder: Path, port: int, drive_s: float, every: int) -> Iterator[subprocess.Popen[bytes]]:
    """``edgefer run`` on a drive of ``drive_s`` seconds that repeats for ever; ``every`` n-th moment of it."""
    with Recorder(folder / "drive", fps=clip.FPS / every) as recorder:
        for _, frames in islice(clip.render(drive_s), 0, None, every):
            for frame in frames:
                recorder.write(frame)
    config = folder / "edgefer.toml"
    config.write_text(
        f'[capture]\nkind = "recording"\nsource = "{folder / "drive"}"\nrepeat = true\nrealtime = false\n'
        f"[publish]\nport = {port}\n[health]\nperiod_s = 1.0\n"
    )
    state = {"STATE_DIRECTORY": str(folder / "state")}  # as the unit has it
    command = [sys.executable, "-m", "edgefer", "run", "--config", str(config)]
    process = subprocess.Popen(command, env=os.environ | state)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def soak(
    seconds: float, drive_s: float = clip.SECONDS, samples: int = 600, simulated_s: float = inf, every: int = 1
) -> dict[str, Any]:
    """Run for ``seconds``, or until ``simulated_s`` of the drive have passed; look at ``samples`` moments of
    ``seconds``; judge. The report: ``verdict``, ``arrived``, ``samples``."""
    binary = shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if binary is None:
        raise SystemExit("soak: mosquitto is not installed (apt install mosquitto)")
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        broker = Mosquitto(binary, Path(name), {}, "")
        broker.start()
        ear = Ear(broker.port)
        try:
            with service(Path(name), broker.port, drive_s, every) as process:
                taken = _watch(process, ear, (seconds, simulated_s), samples)
            ended = process.returncode
        finally:
            ear.close()
            broker.stop()
    return _report(taken, ear, ended)


def _watch(process: subprocess.Popen[bytes], ear: Ear, ends: tuple[float, float], samples: int) -> list[Sample]:
    seconds, simulated_s = ends
    if not ear.first_health.wait(START_S):
        raise SystemExit("soak: the service sends no health message")
    began, hours, taken = time.monotonic(), ear.hours, list[Sample]()
    while (now := time.monotonic() - began) < seconds and (ear.hours - hours) * 3600 < simulated_s:
        if process.poll() is not None:
            raise SystemExit(f"soak: the service ended with {process.returncode} after {now:.0f} s")
        taken.append(look(process.pid, began, ear))
        time.sleep(max(0.0, min(seconds / samples, seconds - now)))
    return taken


def _report(taken: list[Sample], ear: Ear, ended: int) -> dict[str, Any]:
    hours, wall_h = taken[-1].hours - taken[0].hours, (taken[-1].wall_s - taken[0].wall_s) / 3600
    head = {
        "simulated_hours": round(hours, 3),
        "wall_minutes": round(wall_h * 60, 2),
        "times_real": round(hours / wall_h, 1),
    }
    machine = {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)}
    pace = ear.counts["state/driver"] / max(ear.hours * 3600, 1e-9)
    rest = {
        "states_per_simulated_s": round(pace, 2),
        "arrived": dict(ear.counts),
        "exit_code": ended,
        "counters": ear.health["counters"],
        **machine,
    }
    return {**head, "verdict": judge(taken), **rest, "samples": [asdict(s) for s in taken]}


def main() -> int:
    parser = argparse.ArgumentParser(description="The service in accelerated time, watched from outside.")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--simulated-minutes", type=float, default=inf, help="end earlier, after so much of the drive")
    parser.add_argument("--every", type=int, default=1, help="every n-th frame of the drive: n times as fast (1)")
    parser.add_argument("--report", type=Path, default=Path("soak.json"), help="kept here (soak.json)")
    args = parser.parse_args()
    report = soak(args.minutes * 60, simulated_s=args.simulated_minutes * 60, every=args.every)
    args.report.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps({k: v for k, v in report.items() if k != "samples"}, indent=1))
    return 0 if all(report["verdict"]["passed"].values()) and report["exit_code"] == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
