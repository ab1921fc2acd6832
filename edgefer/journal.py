"""Log lines for people and for journald: priorities as <N> prefixes, key fields as key=value, floods cut short."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import TextIO

BURST, PERIOD_S = 10, 60.0
"""so many lines of one kind (logger and format string) in so many seconds; the rest is counted and told"""
KINDS = 256
_PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


def setup(level: str, stream: TextIO | None = None) -> None:
    """The root logger writes to ``stream`` (None: standard error) from ``level`` on."""
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JournalFormatter() if to_journal(stream) else PlainFormatter())
    handler.addFilter(RateLimit(time.monotonic))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def fields(**values: object) -> dict[str, object]:
    """``log.info("...", extra=fields(bundle=...))``: key fields after the message, for whoever searches the journal."""
    return {"fields": values}


def to_journal(stream: TextIO, environ: dict[str, str] | None = None) -> bool:
    """Whether ``stream`` is what $JOURNAL_STREAM (device:inode) names: journald reads it."""
    named = (os.environ if environ is None else environ).get("JOURNAL_STREAM", "")
    try:
        s = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return named == f"{s.st_dev}:{s.st_ino}"


class PlainFormatter(logging.Formatter):
    """LEVEL logger: message key=value ..."""

    def __init__(self, form: str = "%(levelname)s %(name)s: %(message)s") -> None:
        super().__init__(form)

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = getattr(record, "fields", {})
        return super().format(record) + "".join(f" {k}={_value(v)}" for k, v in fields.items())


class JournalFormatter(PlainFormatter):
    """<priority>logger: message key=value ...; every line of a traceback has the priority."""

    def __init__(self) -> None:
        super().__init__("%(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        priority = _PRIORITY.get(record.levelno, 6)
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).splitlines())


def _value(value: object) -> str:
    text = str(value)
    return f'"{text}"' if " " in text or "=" in text else text


class RateLimit:
    """Passes BURST records of a kind per PERIOD_S; the first one after a flood carries how many were left out.

    Errors are records like others: a fault that repeats a thousand times is one fault.
    """

    def __init__(self, clock: Callable[[], float], burst: int = BURST, period_s: float = PERIOD_S) -> None:
        self._clock, self._burst, self._period_s = clock, burst, period_s
        self._kinds: dict[tuple[str, str], tuple[float, int]] = {}
        self._lock = threading.Lock()  # a handler asks its filters before it takes its own

    def filter(self, record: logging.LogRecord) -> bool:
        with self._lock:
            return self._passes(record, (record.name, str(record.msg)), self._clock())

    def _passes(self, record: logging.LogRecord, kind: tuple[str, str], now: float) -> bool:
        since, count = self._kinds.get(kind, (now, 0))
        if now - since >= self._period_s:
            if count > self._burst:
                record.fields = {**getattr(record, "fields", {}), "left_out": count - self._burst}
            since, count = now, 0
        self._kinds[kind] = (since, count + 1)
        if len(self._kinds) > KINDS:
            self._kinds.pop(next(iter(self._kinds)))
        return count < self._burst
