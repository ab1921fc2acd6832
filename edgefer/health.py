"""How the daemon fares: stage times, rates, memory, temperatures, and the watchdog fed by finished work."""

from __future__ import annotations

import re
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Protocol

import numpy as np

from edgefer.messages import Message, StageTime
from edgefer.types import F64

STAGES = ("wait", "locate", "align", "infer", "decide", "publish")
"""The pipeline's stages in order; ``wait`` is the time until the cameras had something new."""

BUCKETS_NS = tuple(int(ms * 1e6) for ms in (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000))
"""upper bounds of the histograms' buckets; one more has none"""


EXTRA = ("frame", "lag")
"""``frame``: one round of the loop; ``lag``: from the capture of the older frame of a pair to its reading."""


class StageTimes:
    """The last ``depth`` durations of every stage, in buffers that are reused, and a histogram of all."""

    def __init__(self, depth: int = 16384) -> None:
        self._ns = {name: np.zeros(depth, np.int64) for name in (*STAGES, *EXTRA)}
        self._count = dict.fromkeys(self._ns, 0)
        self._clear_histograms()

    def _clear_histograms(self) -> None:
        self._buckets = {name: [0] * (len(BUCKETS_NS) + 1) for name in self._ns}
        self._total_ns = dict.fromkeys(self._ns, 0)

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        start = time.perf_counter_ns()
        yield
        self.add(stage, time.perf_counter_ns() - start)

    def add(self, stage: str, ns: int) -> None:
        ring = self._ns[stage]
        ring[self._count[stage] % len(ring)] = ns
        self._count[stage] += 1
        self._buckets[stage][bisect_left(BUCKETS_NS, ns)] += 1
        self._total_ns[stage] += ns

    def histograms(self) -> dict[str, tuple[list[int], int]]:
        """Stage -> how many durations were at most each of ``BUCKETS_NS`` and how many in all; their sum in ns."""
        return {
            name: (list(accumulate(buckets.copy())), self._total_ns[name]) for name, buckets in self._buckets.items()
        }

    def seconds(self, stage: str) -> F64:
        """Durations held for ``stage``, in seconds, float64 [n], in no order."""
        ring = self._ns[stage]
        return ring[: min(self._count[stage], len(ring))] / 1e9

    def summary(self, since: Mapping[str, int] | None = None) -> dict[str, StageTime]:
        """Median and 99th percentile, in milliseconds, of every stage that ran after the ``counts()`` of ``since``."""
        since = since or dict.fromkeys(self._ns, 0)
        return {
            name: _percentiles(self._newest(name, n - since[name]))
            for name, n in self._count.items()
            if n > since[name]
        }

    def _newest(self, stage: str, n: int) -> F64:
        ring, end = self._ns[stage], self._count[stage]
        return ring[np.arange(end - min(n, len(ring)), end) % len(ring)] / 1e9

    def counts(self) -> dict[str, int]:
        return dict(self._count)

    def reset(self) -> None:
        self._count = dict.fromkeys(self._count, 0)
        self._clear_histograms()


def _percentiles(seconds: F64) -> StageTime:
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


class HealthReports(Protocol):
    """The health message whenever it is due, else None."""

    def __call__(self) -> Message | None: ...

    def set_period(self, period_s: float) -> None: ...


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
            name = re.sub(r"[^A-Za-z0-9_-]", "_", (zone / "type").read_text().strip())[:40]
            found[f"{name}.{zone.name[12:]}"] = int((zone / "temp").read_text()) / 1000
        except (OSError, ValueError):
            continue
    return found


NVPMODEL = (Path("/var/lib/nvpmodel/status"), Path("/etc/nvpmodel.conf"))
"""a Jetson's power mode in use, and the names of all"""


def power_mode(files: tuple[Path, Path] = NVPMODEL) -> str | None:
    """Name of the Jetson's power mode (``MAXN``); None where there is none or it may not be read."""
    try:
        status, conf = (file.read_text(errors="replace") for file in files)
    except OSError:
        return None
    return named_mode(status, conf)


def named_mode(status: str, conf: str) -> str | None:
    """The mode that nvpmodel's ``status`` gives by number (``pmode:0002 ...``), by its name in ``conf``."""
    number = re.search(r"\bpmode:(\d+)", status)
    if number is None:
        return None
    for line in conf.splitlines():
        mode = re.match(r"\s*<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=([A-Za-z0-9._+-]{1,64})\s*>", line)
        if mode is not None and int(mode[1]) == int(number[1]):
            return mode[2]
    return f"mode-{int(number[1])}"
