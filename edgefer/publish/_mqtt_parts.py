"""Book-keeping and secrets of the MQTT publisher; nothing here knows paho."""

from __future__ import annotations

import ssl
import threading
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from edgefer.config import Publish
from edgefer.errors import ConfigError
from edgefer.publish._flight import Token

TELL_AGAIN_S = 300.0


class Out(NamedTuple):
    """A message that is out: its topic, QoS, whether it is retained, and the courier's token."""

    topic: str
    qos: int
    retain: bool
    token: Token | None = None


class Ledger:
    """Which message ids are out. Thread-safe; its lock is never held around a call to paho (that deadlocks)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._out: dict[int, Out] = {}
        self._early: dict[int, tuple[int, str]] = {}

    def sent(self, mid: int, out: Out) -> tuple[int, str] | None:
        """Note ``mid`` as out; its (reason code, text) if the acknowledgement was faster than this call."""
        with self._lock:
            early = self._early.pop(mid, None)
            if early is None:
                self._out[mid] = out
            return early

    def done(self, mid: int, value: int, reason: str) -> Out | None:
        """Strike ``mid`` out and return what it was; None while sent() has not been called for it."""
        with self._lock:
            out = self._out.pop(mid, None)
            if out is None:
                self._early[mid] = (value, reason)
            return out

    def link_lost(self) -> None:
        """What was only waiting for the socket (QoS 0) is gone with it; QoS 1 is sent again by paho."""
        with self._lock:
            self._out = {mid: out for mid, out in self._out.items() if out.qos > 0}

    def count(self, qos: int) -> int:
        with self._lock:
            return sum(qos == out.qos for out in self._out.values())


class Tally:
    """Counters that several threads raise, and when a fault was last told."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        names = "published dropped_offline dropped_slow unmatched denied refused connects stalls net_restarts"
        self._counts: Counter[str] = Counter(dict.fromkeys(names.split(), 0))
        self._told: dict[str, float] = {}

    def add(self, name: str) -> None:
        with self._lock:
            self._counts[name] += 1

    def all(self) -> dict[str, int]:
        with self._lock:
            return dict(self._counts)

    def due(self, what: str) -> bool:
        """True at most every TELL_AGAIN_S seconds for ``what``."""
        now = time.monotonic()
        with self._lock:
            if now - self._told.get(what, -TELL_AGAIN_S) < TELL_AGAIN_S:
                return False
            self._told[what] = now
            return True


def read_password(config: Publish) -> str | None:
    """First line of publish.password_file, None without one. Raises ConfigError; never shows the content."""
    if not config.password_file:
        return None
    if not config.username:
        raise ConfigError("'publish.password_file' is set without 'publish.username'")
    try:
        lines = Path(config.password_file).read_text(encoding="utf-8").splitlines()
    except OSError as e:
        raise ConfigError(f"'publish.password_file': {config.password_file}: {e.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"'publish.password_file': {config.password_file}: is not UTF-8 text") from None
    if not lines or not lines[0]:
        raise ConfigError(f"'publish.password_file': {config.password_file}: its first line is empty")
    return lines[0]


def tls_context(config: Publish) -> ssl.SSLContext | None:
    """The TLS settings, None without publish.ca_file. Raises ConfigError naming the key at fault."""
    if not config.ca_file:
        for key in ("cert_file", "key_file"):
            if getattr(config, key):
                raise ConfigError(f"'publish.{key}' is set without 'publish.ca_file', which switches TLS on")
        return None
    if bool(config.cert_file) != bool(config.key_file):
        raise ConfigError("'publish.cert_file' and 'publish.key_file' belong together: set both or none")
    for key in ("ca_file", "cert_file", "key_file"):
        _readable(key, getattr(config, key))
    return _load(config)


def _readable(key: str, path: str) -> None:
    try:
        if path:
            Path(path).read_bytes()
    except OSError as e:
        raise ConfigError(f"'publish.{key}': {path}: {e.strerror}") from None


def _load(config: Publish) -> ssl.SSLContext:
    key = "ca_file"
    try:
        context = ssl.create_default_context(cafile=config.ca_file)
        if config.cert_file:
            key = "cert_file' with 'publish.key_file"
            # An encrypted key would ask on a terminal that is not there; an empty answer makes it fail at once.
            context.load_cert_chain(config.cert_file, config.key_file, password=lambda: "")
    except (ssl.SSLError, ValueError) as e:
        raise ConfigError(f"'publish.{key}': not usable PEM: {e}") from None
    return context
