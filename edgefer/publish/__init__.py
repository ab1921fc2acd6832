"""Where readings go: one file per way behind ``Publisher``, registered by name.

A publisher decides nothing about content. It takes messages in order and never blocks and never raises for a far end
that is away; what it had to drop, it counts. Events enter through ``publish()`` like everything else: a spool stands
in front of a publisher as one more Publisher.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from edgefer.config import Publish
from edgefer.messages import Message, Meta, Stamper, Status


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

    def renew(self) -> None:
        """Certificates or passwords on disk may be new ones: use them. Nothing where there are none."""

    def close(self, final: Status) -> None:
        """Say ``final``, wait a bounded time until it is through, let go of everything."""

    @property
    def connected(self) -> bool:
        """Whether a message published now would leave at once."""

    def counters(self) -> dict[str, int]:
        """What was published, dropped and refused since open; for the health message."""


def _mqtt(config: Publish, dev: str, stamper: Stamper) -> Publisher:
    from edgefer.publish.mqtt import MqttPublisher

    return MqttPublisher(config, dev, stamper)


def _stdout(config: Publish, dev: str, stamper: Stamper) -> Publisher:
    from edgefer.publish.stdout import StdoutPublisher

    return StdoutPublisher(config, dev, stamper)


PUBLISHERS: dict[str, Callable[[Publish, str, Stamper], Publisher]] = {"mqtt": _mqtt, "stdout": _stdout}


def open_publisher(config: Publish, dev: str, stamper: Stamper) -> Publisher:
    """The publisher ``config.kind`` names, not yet opened. Raises ConfigError for a device id that fits no topic."""
    return PUBLISHERS[config.kind](config, dev, stamper)
