"""What goes over MQTT and what comes in: version 5, or 3.1.1 for brokers that know no better.

Events go through the spool and its courier, which keeps its own window; everything else is worthless while the broker
is away and is dropped and counted. A link without acknowledgements is noticed by the courier; the rest of the
connection's life is in ``_link``.

3.1.1 knows no expiry: what should expire is not retained there, or its last word would be told as news for ever, and
commands are not taken, since an old one could not be told.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from edgefer.config import Publish, State
from edgefer.errors import ServiceError
from edgefer.messages import (
    MESSAGES,
    ROOT,
    Command,
    EventSystem,
    Message,
    Meta,
    Replay,
    Response,
    StateDriver,
    Status,
    encode,
)
from edgefer.publish import home_assistant
from edgefer.publish._flight import Token
from edgefer.publish._link import MqttLink
from edgefer.publish._mailbox import Ask, Notice
from edgefer.publish._mqtt_parts import Out
from edgefer.publish.commands import KINDS, MAX_BYTES, Desk
from edgefer.publish.courier import REPLAY_MAX, Courier
from edgefer.publish.spool import Spool
from edgefer.stamp import Stamper

if TYPE_CHECKING:
    from paho.mqtt.client import MQTTMessage, MQTTMessageInfo

log = logging.getLogger("edgefer.publish")

DRAIN_S = 0.75
"""how long close() lets events go out. A stop has five seconds, and a camera that hangs takes two of them"""
UNSENT = 32
"""messages of one QoS handed over but not written (or acknowledged); more means a stuck link: newer ones are dropped"""

_EXPIRY_S = {kind.TOPIC: kind.EXPIRY_S for kind in MESSAGES}


class MqttPublisher:
    """One broker connection. ``will_delay_s`` is also the session expiry; ``state`` says where the spool lies."""

    def __init__(
        self, config: Publish, dev: str, stamper: Stamper, state: State | None = None, *, will_delay_s: int = 5
    ) -> None:
        self._config, self._dev, self._stamper = config, dev, stamper
        self._state = state or State()
        self._link = MqttLink(config, dev, stamper, self, will_delay_s)
        self._courier, self._desk = Courier(self._open_spool, self), Desk()
        self._meta: Meta | None = None
        self._greeted: Meta | None = None
        self._private = False

    # -- the calls of the Publisher -------------------------------------------------------------------------------

    def open(self, meta: Meta) -> None:
        """Start connecting in the background. Raises ConfigError for unreadable secrets and certificates."""
        self._meta = meta
        self._link.open(MAX_BYTES)
        self._courier.start()

    def publish(self, message: Message) -> None:
        if isinstance(message, Meta):
            self._meta = message
        if message.KEPT:
            self._courier.put(message)
        elif not self._link.ready:
            self._link.count("dropped_offline")
        elif self._link.waiting(message.QOS) >= UNSENT:
            self._link.count("dropped_slow")
        else:
            self._send(message)

    def check(self) -> None:
        """Raises ServiceError when waiting will not help. Tells losses, takes care of a connection that hangs."""
        fault = self._link.fault or self._courier.fault
        if fault:
            raise ServiceError(fault)
        for notice in self._courier.notices():
            self._tell(notice)
        if self._desk.reopen():
            self._subscribe()
        self._link.look_after()

    def private(self, on: bool) -> None:
        """While ``on``, no state is retained, and the one that was is taken back, at every connection anew."""
        self._private = on
        if on and self._link.connected:
            self._clear_state()

    def take_command(self) -> Command | None:
        return self._desk.take()

    def answer(self, command: Command, ok: bool, reason: str = "", count: int | None = None) -> None:
        response = Response(id=command.id, ok=ok, reason=reason[:512], count=count)
        self._desk.answered(response)
        self._respond(command.NAME, response)

    def renew(self) -> None:
        self._link.renew()

    def close(self, final: Status) -> None:
        """Send what can be sent, say ``final`` (with this connection's session number), disconnect, join: at most
        DRAIN_S and what the link takes, and courier.JOIN_S with a disk that hangs."""
        self._courier.close(DRAIN_S)
        self._link.closing()
        last = None
        if self._link.connected:
            self._announce(b"")
            last = self._send(final.model_copy(update={"session": self._link.session}))
        self._link.close(last)

    @property
    def connected(self) -> bool:
        return self._link.connected

    def counters(self) -> dict[str, int]:
        """``unacknowledged`` and ``spool_depth`` are levels, the others only rise."""
        return {**self._link.counters(), **self._courier.counters(), **self._desk.counters()}

    def tails(self) -> dict[str, int]:
        return self._courier.tails()

    def _open_spool(self) -> Spool:
        return Spool(self._state.path(), self._state.spool_mb << 20)

    # -- sending --------------------------------------------------------------------------------------------------

    def _send(self, message: Message) -> MQTTMessageInfo | None:
        kept_back = self._private and isinstance(message, StateDriver)
        retain = message.RETAIN and not kept_back
        out = Out(self._full(message.TOPIC), message.QOS, retain)
        sent = self._link.send(encode(message), out, message.EXPIRY_S)
        if isinstance(message, Meta):
            self._announce(home_assistant.document(message))
        return sent

    def _respond(self, name: str, response: Response) -> None:
        if name in KINDS and self._link.connected and self._link.waiting(1) < UNSENT:
            self._link.send(encode(response), Out(self._full(f"rsp/{name}"), 1, False), Response.EXPIRY_S)

    def _clear_state(self) -> None:
        self._link.send(b"", Out(self._full(StateDriver.TOPIC), 1, True), None)

    def _announce(self, payload: bytes) -> None:
        """To Home Assistant, when that is asked for; empty: takes the device back."""
        if self._config.home_assistant:
            self._link.send(payload, Out(home_assistant.topic(self._dev), 1, True), None)

    def _full(self, below: str) -> str:
        return f"{ROOT}/{self._dev}/{below}"

    def _tell(self, notice: Notice) -> None:
        loss = notice.loss
        if loss is None:
            self._courier.put(self._stamper.message(EventSystem, kind="spool_lost", detail=notice.trouble[:512]))
            return
        said = {"lost_stream": loss.stream, "first": loss.first, "last": loss.last, "count": loss.count}
        self._courier.put(self._stamper.message(EventSystem, kind="spool_lost", **said), settles=loss)

    # -- for the courier ------------------------------------------------------------------------------------------

    def send_event(self, topic: str, payload: bytes, token: Token) -> None:
        if self._link.send(payload, Out(self._full(topic), 1, False, token), _EXPIRY_S[topic]) is None:
            self._courier.settle(token, 128)

    def stalled(self) -> None:
        log.warning("%s acknowledges nothing; connecting anew", self._link.name)
        self._link.count("stalls")
        self._link.cut()

    # -- for the link, on paho's thread ---------------------------------------------------------------------------

    def greet(self) -> None:
        self._send(self._stamper.message(Status, state="online", session=self._link.session))
        self._greeted = self._meta
        if self._greeted is not None:
            self._send(self._greeted)
        self._subscribe()

    def linked(self, receive_maximum: int) -> None:
        """What the pipeline's thread changed while it was not connected yet is looked at once more."""
        if self._private:
            self._clear_state()
        if self._meta is not None and self._meta is not self._greeted:
            self._send(self._meta)
        self._courier.link(True, receive_maximum)

    def unlinked(self) -> None:
        self._courier.link(False)

    def settled(self, token: Token, value: int) -> None:
        self._courier.settle(token, value)

    def received(self, message: MQTTMessage) -> None:
        if self._desk.shut:
            self._desk.count("flood")
        elif self._desk.admit():
            self._receive(message)
        else:
            self._link.unsubscribe(self._full("cmd/#"))
            log.warning("%s: a flood of commands; none are taken for a while", self._link.name)

    # -- commands -------------------------------------------------------------------------------------------------

    def _subscribe(self) -> None:
        """To our commands. The broker's ACL decides who may send them."""
        if self._config.protocol == "5" and not self._desk.shut:
            self._link.subscribe(self._full("cmd/#"))

    def _receive(self, message: MQTTMessage) -> None:
        name = message.topic.removeprefix(self._full("cmd/"))
        expiry_s = getattr(message.properties, "MessageExpiryInterval", None)
        found = self._desk.receive(name, bytes(message.payload), retain=message.retain, expiry_s=expiry_s)
        if isinstance(found, Replay):
            self._courier.replay(Ask(found.stream, found.first, found.last, lambda n: self._answer_replay(found, n)))
        elif isinstance(found, Command) and not self._desk.enqueue(found):
            self.answer(found, False, "too many commands at once")
        elif isinstance(found, Response):
            self._respond(name, found)

    def _answer_replay(self, command: Replay, count: int) -> None:
        asked = min(command.last - command.first + 1, REPLAY_MAX)
        if count < 0:
            self.answer(command, False, "no replay can be taken now; ask again")
        elif count == 0:
            self.answer(command, False, "none of these events is here", 0)
        else:
            reason = "" if count == asked else f"{asked - count} of the first {asked} are not here any more"
            self.answer(command, True, reason, count)
