"""``edgefer watch``: a reference subscriber. Hears a device, each event once, and asks for what is missing.

The live table on a terminal, or JSON lines: ``{"topic", "payload"}`` for every message (events once), and
``{"watch": "asked" | "given_up" | "lost", ...}`` for what was done about gaps.
"""

from __future__ import annotations

import json
import logging
import queue
import sys
import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, TypeAdapter

from edgefer.config import Publish
from edgefer.demo.screen import Screen
from edgefer.demo.table import Board
from edgefer.errors import ServiceError
from edgefer.messages import ROOT, Replay, SpoolSeq, StreamId, encode
from edgefer.publish._mqtt_parts import read_password, tls_context
from edgefer.publish._paho import properties
from edgefer.publish._tls import resolved
from edgefer.watch.gaps import Ask, Gaps

if TYPE_CHECKING:
    from paho.mqtt.client import Client, MQTTMessage

log = logging.getLogger("edgefer.watch")

EXPIRY_S = 20
Tell = Callable[[dict[str, Any]], None]
TAILS = TypeAdapter(dict[StreamId, SpoolSeq])


class _Range(BaseModel):
    """Numbers as a replay could ask for them."""

    model_config = ConfigDict(frozen=True, strict=True)
    stream: StreamId
    first: SpoolSeq
    last: SpoolSeq


def _lost(said: dict[str, Any]) -> _Range | None:
    """What an event says will not come."""
    return _Range(stream=said["lost_stream"], first=said["first"], last=said["last"]) if "lost_stream" in said else None


class Watcher:
    """One device over one connection. ``tell`` takes every JSON line; ``run`` calls it in the calling thread."""

    def __init__(self, config: Publish, dev: str, tell: Tell, from_start: bool = False) -> None:
        self._config, self._root, self._tell = config, f"{ROOT}/{dev}/", tell
        self.gaps = Gaps(from_start)
        self._asked: dict[str, Ask] = {}
        self._inbox: queue.SimpleQueue[tuple[str, bytes]] = queue.SimpleQueue()
        self._where = f"broker {config.host}" + ("" if config.host.startswith("/") else f":{config.port}")
        self._fault, self._outage_told = "", False
        self._client: Client | None = None

    def run(self, should_stop: Callable[[], bool]) -> None:
        """Until told to stop. Raises ServiceError when the broker refuses us."""
        self._client = client = self._build()
        client.connect_async(self._config.host, self._config.port, self._config.keepalive_s)
        client.loop_start()
        try:
            while not should_stop():
                self._step()
        finally:
            client.disconnect()
            client.loop_stop()

    def _step(self) -> None:
        if self._fault:
            raise ServiceError(self._fault)
        try:
            topic, payload = self._inbox.get(timeout=0.2)
        except queue.Empty:
            pass
        else:
            self.hear(topic, payload)
        assert self._client is not None
        if self._client.is_connected():
            for ask in self.gaps.due(time.monotonic()):
                self._ask(ask)

    def hear(self, topic: str, payload: bytes) -> None:
        """One message; ``topic`` below the device. What is not of this wire format is said and passed over."""
        try:
            self._take(topic, json.loads(payload) if payload else None)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
            log.warning("%s: not a message of %s: %s", topic, self._root, type(e).__name__)

    def _take(self, topic: str, said: Any) -> None:
        if not isinstance(said, dict):  # empty: a retained message was taken back
            self._tell({"topic": topic, "payload": said})
            return
        if topic.startswith("event/") and not self._event(said):
            return
        if topic == "health":
            self.gaps.tails(TAILS.validate_python(said.get("events", {}), strict=True))
        if topic == "rsp/replay":
            self._answer(said)
        self._tell({"topic": topic, "payload": said})

    def _event(self, said: dict[str, Any]) -> bool:
        """Whether it is new; it is told then."""
        event, lost = _Range(stream=said["stream"], first=said["seq"], last=said["seq"]), _lost(said)
        if not self.gaps.take(event.stream, event.first):
            return False
        if lost is not None:
            gone = self.gaps.lost(lost.stream, lost.first, lost.last)
            self._tell({"watch": "lost", **lost.model_dump(), "missing": gone})
        return True

    def _ask(self, ask: Ask) -> None:
        command = Replay(id=str(uuid.uuid4()), stream=ask.stream, first=ask.first, last=ask.last)
        if self._config.protocol != "5" or self._client is None:
            return
        expiry = properties("PUBLISH", MessageExpiryInterval=EXPIRY_S)
        self._asked[command.id] = ask
        self._client.publish(f"{self._root}cmd/replay", encode(command), 1, False, expiry)
        self._tell({"watch": "asked", "stream": ask.stream, "first": ask.first, "last": ask.last})

    def _answer(self, said: dict[str, Any]) -> None:
        ask = self._asked.pop(said.get("id", ""), None)
        if ask is None or (not said["ok"] and said.get("count") != 0):
            return  # not ours, or refused: asked again later
        gone = self.gaps.answered(ask, said.get("count", 0), time.monotonic())
        if gone:
            self._tell(
                {"watch": "given_up", "stream": ask.stream, "first": ask.first, "last": ask.last, "missing": gone}
            )

    # -- paho -----------------------------------------------------------------------------------------------------

    def _build(self) -> Client:
        from paho.mqtt import client as paho
        from paho.mqtt.enums import CallbackAPIVersion

        five = self._config.protocol == "5"
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            transport="unix" if self._config.host.startswith("/") else "tcp",
            protocol=paho.MQTTv5 if five else paho.MQTTv311,
        )
        client.suppress_exceptions = True
        client.reconnect_delay_set(1, self._config.reconnect_s)
        files = resolved(self._config)
        if files.username:
            client.username_pw_set(files.username, read_password(files))
        context = tls_context(files)
        if context is not None:
            client.tls_set_context(context)
        client.on_connect = self._on_connect
        client.on_connect_fail = self._on_connect_fail
        client.on_message = self._on_message
        return client

    def _on_connect_fail(self, _c: Client, _u: Any) -> None:
        if not self._outage_told:
            self._outage_told = True
            log.warning("%s cannot be reached: %s; trying on", self._where, sys.exc_info()[1])

    def _on_connect(self, client: Client, _u: Any, _f: Any, reason: Any, _p: Any) -> None:
        if reason.is_failure:
            self._fault = f"{self._where} refuses the connection: {reason}; check the user name and the broker's ACL"
            return
        self._outage_told = False
        # The retained health before any event: it says which streams are history.
        for branch in ("health", "status", "meta", "state/#", "event/#", "rsp/#"):
            client.subscribe(self._root + branch, qos=1)

    def _on_message(self, _c: Client, _u: Any, message: MQTTMessage) -> None:
        self._inbox.put((message.topic.removeprefix(self._root), bytes(message.payload)))


def watch(
    config: Publish, dev: str, *, as_json: bool, from_start: bool, should_stop: Callable[[], bool]
) -> None:  # fmt: skip
    """The command. Raises ServiceError when the broker refuses, ConfigError for secrets that cannot be read."""
    teller = _json_line if as_json else _Live()
    watcher = Watcher(config, dev, teller, from_start)
    if isinstance(teller, _Live):
        teller.gaps = watcher.gaps
    watcher.run(should_stop)


def _json_line(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line, separators=(",", ":")) + "\n")
    sys.stdout.flush()


class _Live:
    """The table of the demo with a line about gaps."""

    def __init__(self) -> None:
        self._board, self._screen = Board(), Screen()
        self.gaps = Gaps()

    def __call__(self, line: dict[str, Any]) -> None:
        if "topic" in line and line["payload"] is not None and not line["topic"].startswith("rsp/"):
            self._board.take(line["topic"], line["payload"])
        g = self.gaps
        self._board.note = f"{g.heard} events, {g.duplicates} doubles, {g.missing} missing, {g.given_up} lost"
        self._screen.show(self._board)
