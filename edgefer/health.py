"""How the daemon fares: stage times, rates, memory, temperatures, and the watchdog fed by finished work."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from edgefer.messages import StageTime

STAGES = ("wait", "locate", "align", "infer", "decide", "publish")
"""The pipeline's stages in order; ``wait`` is the time until the cameras had something new."""


class StageTimes:
    """The last ``depth`` durations of every stage, in buffers that are reused."""

    def __init__(self, depth: int = 16384) -> None:
        self._ns = {name: np.zeros(depth, np.int64) for name in (*STAGES, "frame")}
        self._count = dict.fromkeys(self._ns, 0)

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        start = time.perf_counter_ns()
        yield
        self.add(stage, time.perf_counter_ns() - start)

    def add(self, stage: str, ns: int) -> None:
        ring = self._ns[stage]
        ring[self._count[stage] % len(ring)] = ns
        self._count[stage] += 1

    def seconds(self, stage: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Durations held for ``stage``, in seconds, float64 [n], in no order."""
        ring = self._ns[stage]
        return ring[: min(self._count[stage], len(ring))] / 1e9

    def summary(self) -> dict[str, StageTime]:
        """Median and 99th percentile of every stage that has run, in milliseconds."""
        return {name: _percentiles(self.seconds(name)) for name in self._ns if self._count[name]}

    def reset(self) -> None:
        self._count = dict.fromkeys(self._count, 0)

    def count(self, stage: str) -> int:
        return self._count[stage]


def _percentiles(seconds: np.ndarray[tuple[int], np.dtype[np.float64]]) -> StageTime:
    p50, p99 = np.percentile(seconds, (50, 99)) * 1e3
    return StageTime(p50_ms=float(p50), p99_ms=float(p99))


class Watchdog:
    """Tells the service manager that work was finished, at most once a second."""

    def __init__(self, notify: Callable[[str], object], clock: Callable[[], float] = time.monotonic) -> None:
        self._notify, self._clock, self._next = notify, clock, 0.0

    def work_finished(self) -> None:
        now = self._clock()
        if now >= self._next:
            self._next = now + 1.0
            self._notify("WATCHDOG=1")


def memory_mb(status: Path = Path("/proc/self/status")) -> float:
    """Resident set of this process in MB (10^6 bytes); 0 where the kernel does not say."""
    try:
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmRSS:"))
    except (OSError, StopIteration):
        return 0.0
    return int(line.split()[1]) * 1024 / 1e6


def temperatures(root: Path = Path("/sys/class/thermal")) -> dict[str, float]:
    """Degrees Celsius by thermal zone; sensors that are switched off are left out."""
    found = {}
    for zone in sorted(root.glob("thermal_zone*")):
        try:
            name = (zone / "type").read_text().strip().replace(" ", "_")
            found[f"{name}.{zone.name[12:]}"] = int((zone / "temp").read_text()) / 1000
        except (OSError, ValueError):
            continue
    return found
