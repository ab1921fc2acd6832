"""Where readings go: one file per way behind ``Publisher``, registered by name.

A publisher decides nothing about content. It takes messages in order and never blocks and never raises for a far end
that is away; what it had to drop, it counts. Events enter through ``publish()`` like everything else; the MQTT
publisher takes them through its spool. Events are stamped and published by one thread: their order is that of seq.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from edgefer.config import Publish, State
from edgefer.messages import Command, Message, Meta, Status
from edgefer.stamp import Stamper


class Publisher(Protocol):
    """The far end. One thread calls open, publish, check and close, in this order."""

    def open(self, meta: Meta) -> None:
        """Begin; says ``status: online`` and ``meta`` whenever the far end is there.

        Raises ConfigError for settings that cannot work, ServiceError for a library that is missing.
        """

    def publish(self, message: Message) -> None:
        """Hand over one message; never blocks on the far end, never raises for its absence."""

    def check(self) -> None:
        """Raises ServiceError, one line, once it is certain that waiting will not help."""

    def private(self, on: bool) -> None:
        """While ``on``, the far end keeps no state; one it has kept is taken back."""

    def take_command(self) -> Command | None:
        """The next command to carry out, None when there is none; to be answered."""

    def answer(self, command: Command, ok: bool, reason: str = "") -> None:
        """Tell the sender how it went."""

    def renew(self) -> None:
        """Certificates or passwords on disk may be new ones: use them. Nothing where there are none."""

    def close(self, final: Status) -> None:
        """Say ``final``, wait a bounded time until it is through, let go of everything."""

    @property
    def connected(self) -> bool:
        """Whether a message published now would leave at once."""

    def counters(self) -> dict[str, int]:
        """What was published, dropped and refused since open, and ``spool_depth``; for the health message."""

    def tails(self) -> dict[str, int]:
        """Highest ``seq`` on disk of the newest event streams; empty without a spool."""


Make = Callable[[Publish, str, Stamper, State], Publisher]


def _mqtt(config: Publish, dev: str, stamper: Stamper, state: State) -> Publisher:
    from edgefer.publish.mqtt import MqttPublisher

    return MqttPublisher(config, dev, stamper, state)


def _stdout(config: Publish, dev: str, stamper: Stamper, state: State) -> Publisher:
    from edgefer.publish.stdout import StdoutPublisher

    return StdoutPublisher(config, dev, stamper)


PUBLISHERS: dict[str, Make] = {"mqtt": _mqtt, "stdout": _stdout}


def open_publisher(config: Publish, dev: str, stamper: Stamper, state: State | None = None) -> Publisher:
    """The publisher ``config.kind`` names, not yet opened. Raises ConfigError for a device id that fits no topic."""
    return PUBLISHERS[config.kind](config, dev, stamper, state or State())
