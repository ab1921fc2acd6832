"""A broker inside the process, for the demo: amqtt (pure Python, MQTT 3.1.1 only) on a loopback port of its own.

Not for a vehicle: no passwords, no ACL, no persistence. It takes connections from this machine only.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from types import TracebackType
from typing import Any

from edgefer.errors import ServiceError

BOUND_S = 10.0
"""longest start and longest stop, seconds"""
HOST = "127.0.0.1"
NOISY = ("amqtt", "transitions")

log = logging.getLogger("edgefer.broker")


class EmbeddedBroker:
    """``with EmbeddedBroker() as broker:`` serves on ``broker.host``, ``broker.port`` (0: a free one is taken).

    Raises ServiceError when amqtt is missing or the port is taken.
    """

    def __init__(self, port: int = 0) -> None:
        self.host, self.port = HOST, port
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._settled = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="embedded-broker", daemon=True)

    def __enter__(self) -> EmbeddedBroker:
        _need_amqtt()
        # amqtt reports every vanished client as an error; for a demo that is noise on the user's terminal.
        self._levels = {name: logging.getLogger(name).level for name in NOISY}
        for name in NOISY:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self._thread.start()
        if not self._settled.wait(BOUND_S):
            raise ServiceError(f"the embedded broker did not start within {BOUND_S:.0f} s")
        if self._error is not None:
            self._thread.join(BOUND_S)
            raise ServiceError(f"the embedded broker cannot serve on {HOST}:{self.port}: {self._error}")
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(BOUND_S)
        for name, level in self._levels.items():
            logging.getLogger(name).setLevel(level)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception as e:
            self._error = self._error or e
            log.debug("embedded broker ended: %s", e)
        finally:
            self._settled.set()

    async def _serve(self) -> None:
        from amqtt.broker import Broker

        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._loop.set_exception_handler(_quiet)
        broker = Broker(_settings(self.port))
        _close_what_ends(broker)
        await asyncio.wait_for(broker.start(), BOUND_S)
        self.port = broker._servers["default"].instance.sockets[0].getsockname()[1]
        self._settled.set()
        await self._stop.wait()
        await asyncio.wait_for(broker.shutdown(), BOUND_S / 2)


def _close_what_ends(broker: Any) -> None:
    """Make ``broker`` close every connection it is done with: amqtt forgets those that never spoke or were cut."""
    serve = broker.stream_connected

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, listener_name: str) -> None:
        try:
            await serve(reader, writer, listener_name)
        finally:
            writer.transport.abort()

    broker.stream_connected = connected


def _need_amqtt() -> None:
    try:
        import amqtt.broker  # noqa: F401
    except ImportError:
        raise ServiceError("the embedded broker needs amqtt: pip install 'edgefer[demo]'") from None


def _settings(port: int) -> dict[str, Any]:
    anonymous = "amqtt.plugins.authentication.AnonymousAuthPlugin"
    return {
        "listeners": {"default": {"type": "tcp", "bind": f"{HOST}:{port}", "max_connections": 32}},
        "plugins": {anonymous: {"allow_anonymous": True}},
    }


def _quiet(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    # Tasks that amqtt leaves behind a cut connection would print a traceback at shutdown.
    log.debug("embedded broker: %s", context.get("message"))
