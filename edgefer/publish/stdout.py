"""The same JSON as over MQTT, one line each: {"topic": ..., "payload": {...}}."""

from __future__ import annotations

import sys
from typing import TextIO

from edgefer.config import Publish
from edgefer.errors import ServiceError
from edgefer.messages import Command, Message, Meta, Status, encode, topic
from edgefer.stamp import Stamper


class StdoutPublisher:
    """Writes to ``out`` (None: standard output) and flushes every line, so that a pipe sees it at once."""

    def __init__(self, config: Publish, dev: str, stamper: Stamper, out: TextIO | None = None) -> None:
        topic(dev, Status)  # refuses a bad device id here, not at the first message
        self._dev, self._stamper, self._out = dev, stamper, out
        self._open = False
        self._lost = ""
        self._published = self._dropped = 0

    def open(self, meta: Meta) -> None:
        self._out = self._out or sys.stdout
        self._open = True
        self.publish(
            self._stamper.message(Status, state="online", session=max(1, self._stamper.mono_ns() // 1_000_000))
        )
        self.publish(meta)

    def publish(self, message: Message) -> None:
        if not self.connected or self._out is None:
            self._dropped += 1
            return
        line = f'{{"topic":"{topic(self._dev, type(message))}","payload":{encode(message).decode()}}}\n'
        try:
            self._out.write(line)
            self._out.flush()
        except (OSError, ValueError) as e:  # ValueError: the stream was closed under us
            self._lose(e)
            self._dropped += 1
        else:
            self._published += 1

    def _lose(self, error: Exception) -> None:
        gone = isinstance(error, BrokenPipeError)
        self._lost = "the reader of standard output is gone" if gone else f"standard output cannot be written: {error}"

    def check(self) -> None:
        if self._lost:
            raise ServiceError(self._lost)

    def private(self, on: bool) -> None:
        """Nothing is kept on standard output."""

    def take_command(self) -> Command | None:
        return None

    def answer(self, command: Command, ok: bool, reason: str = "") -> None:
        raise NotImplementedError("no command comes from here")

    def renew(self) -> None:
        pass

    def close(self, final: Status) -> None:
        if self.connected:
            self.publish(final)
        self._open = False

    @property
    def connected(self) -> bool:
        return self._open and not self._lost

    def counters(self) -> dict[str, int]:
        return {"published": self._published, "dropped_offline": self._dropped}

    def tails(self) -> dict[str, int]:
        return {}
