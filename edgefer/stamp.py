"""Who speaks, when, and which number this message has: the header of every message, from this machine's clocks."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from edgefer.messages import Message, Quality, StateDriver
from edgefer.types import Reading, now_ns

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
CLOCK_FLAGS = (Path("/run/systemd/timesync/synchronized"),)
M = TypeVar("M", bound=Message)
Clock = Callable[[], int]


class Stamper:
    """Makes headers; counts ``seq`` per topic class (``event/driver`` and ``event/system`` share one count).

    Clocks are arguments: ``wall_ns`` UTC and ``mono_ns`` CLOCK_BOOTTIME, both in nanoseconds.
    """

    def __init__(
        self, dev: str, stream: str, boot: str, *, wall_ns: Clock = time.time_ns, mono_ns: Clock = now_ns,
        synchronised: Callable[[], bool] | None = None
    ) -> None:  # fmt: skip
        self.dev, self.stream, self.boot = dev, stream, boot
        self._wall_ns, self.mono_ns = wall_ns, mono_ns
        self._synchronised = synchronised or clock_synchronised
        self._seq: dict[str, Iterator[int]] = {}

    def header(self, kind: type[Message], mono_ns: int | None = None) -> dict[str, Any]:
        """The header fields for a ``kind`` message about the instant ``mono_ns`` (None: now)."""
        now = self.mono_ns()
        at = now if mono_ns is None else mono_ns
        # setdefault and next() are atomic: the network thread stamps status while the pipeline stamps state.
        seq = next(self._seq.setdefault(kind.TOPIC.split("/")[0], count(1)))
        ts = _iso(self._wall_ns() - (now - at))
        named = {"v": 1, "dev": self.dev, "stream": self.stream, "seq": seq, "ts": ts, "mono_ns": at}
        return {**named, "boot": self.boot, "sync": self._synchronised(), "replayed": False}

    def offset_ns(self) -> int:
        """Wall clock minus monotonic clock: constant but for drift, until somebody sets the clock."""
        for _ in range(5):  # a thread that is put to sleep between the two looks would see a step that is none
            before, wall, after = self.mono_ns(), self._wall_ns(), self.mono_ns()
            if after - before < 10_000_000:
                break
        return wall - before

    def message(self, kind: type[M], mono_ns: int | None = None, /, **fields: Any) -> M:
        """A stamped message: ``stamper.message(EventSystem, kind="started")``. Raises pydantic's ValidationError."""
        return kind(**self.header(kind, mono_ns), **fields)


def state_message(stamper: Stamper, reading: Reading, bundle: str) -> StateDriver:
    """The wire form of ``reading``; ``bundle`` is ``name@version``."""
    yaw = reading.yaw_deg if math.isfinite(reading.yaw_deg) else None
    age_ms = max(0, (stamper.mono_ns() - reading.mono_ns) // 1_000_000)
    quality = Quality(face=_share(reading.face_score), yaw_deg=yaw, age_ms=age_ms, lenses=reading.lenses)
    probs = {label: _share(p) for label, p in reading.probs.items()}
    said = {"valid": reading.valid, "why": reading.why, "label": reading.label, "conf": _share(reading.conf)}
    return stamper.message(StateDriver, reading.mono_ns, **said, probs=probs, quality=quality, bundle=bundle)


def _share(value: float) -> float:
    # Sums of float32 end at 1.0000001; a wire message must not die of it.
    return min(1.0, max(0.0, float(value)))


def boot_id(path: Path = BOOT_ID) -> str:
    """The kernel's id of this boot; all zeros where there is none."""
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return "00000000-0000-0000-0000-000000000000"


def new_stream() -> str:
    """A fresh stream id: 8 hexadecimal digits."""
    return secrets.token_hex(4)


def clock_synchronised(flags: tuple[Path, ...] = CLOCK_FLAGS) -> bool:
    """Whether the clock was synchronised since boot: one of ``flags`` exists.

    systemd-timesyncd touches the first. adjtimex(2) is not asked: @system-service leaves it out, and a daemon under
    that filter is killed for the question.
    """
    return any(flag.exists() for flag in flags)


def _iso(wall_ns: int) -> str:
    seconds, rest = divmod(wall_ns, 1_000_000_000)
    at = datetime.fromtimestamp(seconds, timezone.utc)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{rest // 1_000_000:03d}Z"
