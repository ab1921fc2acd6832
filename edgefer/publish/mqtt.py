"""MQTT through paho: version 5, or 3.1.1 for brokers that know no better.

Events go through the spool and its courier, which keeps its own window; everything else is worthless while the broker
is away and is dropped and counted. A publish counts as published only by the reason code of its PUBACK. Half a link is
noticed by the keep-alive, a link without acknowledgements by the courier, a broker that never answers by ``check``.

3.1.1 knows no expiry: what should expire is not retained there, or its last word would be told as news for ever, and
commands are not taken, since an old one could not be told.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

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
    topic,
)
from edgefer.publish import home_assistant
from edgefer.publish._flight import Token
from edgefer.publish._mqtt_parts import Ledger, Out, Tally
from edgefer.publish._paho import network_lives, new_client, properties, revive
from edgefer.publish._tls import Secrets
from edgefer.publish.commands import KINDS, MAX_BYTES, Desk
from edgefer.publish.courier import REPLAY_MAX, Ask, Courier, Notice
from edgefer.publish.spool import Spool
from edgefer.stamp import Stamper

if TYPE_CHECKING:
    from paho.mqtt.client import Client, MQTTMessage, MQTTMessageInfo
    from paho.mqtt.properties import Properties
    from paho.mqtt.reasoncodes import ReasonCode

log = logging.getLogger("edgefer.publish")

DRAIN_S, SAY_S, END_S = 0.75, 0.75, 0.5
"""how long close() lets events go out, waits for the last acknowledgement, and for the network thread. A stop has five
seconds, and a camera that hangs takes two of them"""
TCP_S = 1.5
"""a host that does not answer for this long is tried again"""
CONNECT_S = 3.0
"""a broker that takes the connection and says nothing for this long is tried again"""
UNSENT = 32
"""messages of one QoS handed over but not written (or acknowledged); more means a stuck link: newer ones are dropped"""

_CREDENTIALS = "publish.username and publish.password_file"
_FINAL_REFUSALS = {132: "publish.protocol", 133: "device", 134: _CREDENTIALS, 135: _CREDENTIALS}
"""CONNACK reason -> the key to look at. Other refusals (busy, unavailable, banned, quota) may pass by waiting."""
_EXPIRY_S = {kind.TOPIC: kind.EXPIRY_S for kind in MESSAGES}


class MqttPublisher:
    """One broker connection. ``will_delay_s`` is also the session expiry; ``state`` says where the spool lies."""

    def __init__(
        self, config: Publish, dev: str, stamper: Stamper, state: State | None = None, *, will_delay_s: int = 5
    ) -> None:
        topic(dev, Status)  # refuses a bad device id here, not at the first message
        self._config, self._dev, self._stamper = config, dev, stamper
        self._state = state or State()
        self._will_delay_s = will_delay_s
        self._where = f"broker {config.host}" + ("" if config.host.startswith("/") else f":{config.port}")
        self._client: Client | None = None
        self._meta: Meta | None = None
        self._secrets: Secrets | None = None
        self._ledger, self._tally, self._desk = Ledger(), Tally(), Desk()
        self._courier = Courier(self._open_spool, self)
        self._session = 0
        self._trying_since: float | None = None
        self._connected = self._ever_connected = self._closing = self._outage_told = self._private = False
        self._fault = ""

    # -- the calls of the Publisher -------------------------------------------------------------------------------

    def open(self, meta: Meta) -> None:
        """Start connecting in the background. Raises ConfigError for unreadable secrets and certificates."""
        self._meta = meta
        self._client = client = self._build()
        self._courier.start()
        said = self._properties("CONNECT", SessionExpiryInterval=self._will_delay_s, MaximumPacketSize=MAX_BYTES)
        client.connect_async(self._config.host, self._config.port, self._config.keepalive_s, properties=said)
        client.loop_start()

    def publish(self, message: Message) -> None:
        if isinstance(message, Meta):
            self._meta = message
        if message.KEPT:
            self._courier.put(message)
        elif self._closing or not self._connected:
            self._tally.add("dropped_offline")
        elif self._ledger.count(message.QOS) >= UNSENT:
            self._tally.add("dropped_slow")
        else:
            self._send(message)

    def check(self) -> None:
        """Raises ServiceError when waiting will not help. Tells losses, takes care of a connection that hangs."""
        fault = self._fault or self._courier.fault
        if fault:
            raise ServiceError(fault)
        for notice in self._courier.notices():
            self._tell(notice)
        if self._desk.reopen():
            self._subscribe()
        self._look_after()

    def private(self, on: bool) -> None:
        """While ``on``, no state is retained, and the one that was is taken back, at every connection anew."""
        self._private = on
        if on and self._connected:
            self._clear_state()

    def take_command(self) -> Command | None:
        return self._desk.take()

    def answer(self, command: Command, ok: bool, reason: str = "", count: int | None = None) -> None:
        response = Response(id=command.id, ok=ok, reason=reason[:512], count=count)
        self._desk.answered(response)
        self._respond(command.NAME, response)

    def renew(self) -> None:
        """New certificates or another password on disk: connect anew with them. The broker sees a short outage."""
        if self._client is None or self._secrets is None or not self._secrets.renew():
            return
        if self._config.username:
            self._client.username_pw_set(self._config.username, self._secrets.password)
        self._cut()

    def close(self, final: Status) -> None:
        """Send what can be sent, say ``final`` (with this connection's session number), disconnect, join: at most
        DRAIN_S + SAY_S + END_S, and courier.JOIN_S with a disk that hangs."""
        self._courier.close(DRAIN_S)
        client, self._closing = self._client, True
        if client is None:
            return
        if self._connected:
            self._announce(b"")
        info = self._send(final.model_copy(update={"session": self._session})) if self._connected else None
        with contextlib.suppress(ValueError, RuntimeError):  # paho's words for: will never be published
            if info is not None:
                info.wait_for_publish(SAY_S)
        client.disconnect()
        # paho's join has no bound, and its thread may hang in a TLS handshake.
        stopper = threading.Thread(target=client.loop_stop, name="mqtt-stop", daemon=True)
        stopper.start()
        stopper.join(END_S)
        self._client, self._connected = None, False

    @property
    def connected(self) -> bool:
        return self._connected

    def counters(self) -> dict[str, int]:
        """``unacknowledged`` and ``spool_depth`` are levels, the others only rise."""
        counts = {**self._tally.all(), **self._courier.counters(), **self._desk.counters()}
        return {**counts, "unacknowledged": self._ledger.count(1)}

    def tails(self) -> dict[str, int]:
        return self._courier.tails()

    def _open_spool(self) -> Spool:
        return Spool(self._state.path(), self._state.spool_mb << 20)

    def _build(self) -> Client:
        self._secrets = Secrets(self._config)
        client = new_client(self._config, self._dev, TCP_S, self._secrets)
        client.on_pre_connect = self._on_pre_connect
        client.on_socket_open = self._on_socket_open
        client.on_connect = self._on_connect
        client.on_connect_fail = self._on_connect_fail
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        client.on_log = self._on_log
        return client

    def _properties(self, packet: str, **values: int) -> Properties | None:
        return properties(packet, **values) if self._config.protocol == "5" else None

    # -- sending --------------------------------------------------------------------------------------------------

    def _send(self, message: Message) -> MQTTMessageInfo | None:
        kept_back = self._private and isinstance(message, StateDriver)
        retain = message.RETAIN and not kept_back
        sent = self._put_out(encode(message), Out(message.TOPIC, message.QOS, retain), message.EXPIRY_S)
        if isinstance(message, Meta):
            self._announce(home_assistant.document(message))
        return sent

    def send_event(self, topic: str, payload: bytes, token: Token) -> None:
        """For the courier."""
        if self._put_out(payload, Out(topic, 1, False, token), _EXPIRY_S[topic]) is None:
            self._courier.settle(token, 128)

    def _respond(self, name: str, response: Response) -> None:
        if name in KINDS and self._connected and self._ledger.count(1) < UNSENT:
            self._put_out(encode(response), Out(f"rsp/{name}", 1, False), Response.EXPIRY_S)

    def _clear_state(self) -> None:
        self._put_out(b"", Out(StateDriver.TOPIC, 1, True), None)

    def _put_out(self, payload: bytes, out: Out, expiry_s: int | None) -> MQTTMessageInfo | None:
        client = self._client
        if client is None:
            self._tally.add("dropped_offline")
            return None
        expiry = self._properties("PUBLISH", MessageExpiryInterval=expiry_s) if expiry_s else None
        out = out._replace(retain=out.retain and (expiry_s is None or expiry is not None))
        info = client.publish(self._full(out), payload, out.qos, out.retain, expiry)
        self._note(out, info)
        return info

    def _announce(self, payload: bytes) -> None:
        """To Home Assistant, when that is asked for; empty: takes the device back."""
        if self._config.home_assistant:
            self._put_out(payload, Out(home_assistant.topic(self._dev), 1, True), None)

    def _full(self, out: Out) -> str:
        return out.topic if out.topic == home_assistant.topic(self._dev) else f"{ROOT}/{self._dev}/{out.topic}"

    def _note(self, out: Out, info: MQTTMessageInfo) -> None:
        from paho.mqtt.enums import MQTTErrorCode

        if out.qos == 0 and info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            self._tally.add("dropped_offline")
            return
        # QoS 1 without a connection returns an error, yet paho keeps and sends it.
        early = self._ledger.sent(info.mid, out)
        if early is not None:
            self._settle(out, *early)

    def _settle(self, out: Out, value: int, reason: str) -> None:
        if value == 16 and not out.retain:
            self._tally.add("unmatched")
        elif value < 128:
            self._tally.add("published")
        else:
            self._tally.add("denied" if value == 135 else "refused")
            self._tell_refusal(self._full(out), value, reason)
        if out.token is not None:
            self._courier.settle(out.token, value)

    def _tell_refusal(self, name: str, value: int, reason: str) -> None:
        if not self._tally.due(name):
            return
        remedy = f"; allow user '{self._config.username}' to write it in the broker's ACL" if value == 135 else ""
        log.error("%s refuses publishes to %s: %s%s", self._where, name, reason, remedy)

    def _tell(self, notice: Notice) -> None:
        loss = notice.loss
        if loss is None:
            self._courier.put(self._stamper.message(EventSystem, kind="spool_lost", detail=notice.trouble[:512]))
            return
        said = {"lost_stream": loss.stream, "first": loss.first, "last": loss.last, "count": loss.count}
        self._courier.put(self._stamper.message(EventSystem, kind="spool_lost", **said), settles=loss)

    # -- keeping the connection alive -----------------------------------------------------------------------------

    def _look_after(self) -> None:
        """A connect that is never answered, and a network thread that died, are begun anew."""
        trying = self._trying_since
        if trying is not None and time.monotonic() - trying > CONNECT_S:
            self._trying_since = None
            self._cut()
        if self._client is not None and not network_lives(self._client):
            log.error("%s: the network thread has died; starting another", self._where)
            self._tally.add("net_restarts")
            self._cut()
            revive(self._client)

    def stalled(self) -> None:
        """For the courier: connected, and nothing is acknowledged."""
        log.warning("%s acknowledges nothing; connecting anew", self._where)
        self._tally.add("stalls")
        self._cut()

    def _cut(self) -> None:
        """Shut the socket: paho's thread sees its end, connects anew and sends again what is not acknowledged."""
        link = self._client.socket() if self._client is not None else None
        if link is not None:
            with contextlib.suppress(OSError):
                # Below TLS: SSLSocket.shutdown would drop its state under the network thread.
                socket.socket.shutdown(link, socket.SHUT_RDWR)  # type: ignore[arg-type]

    # -- commands -------------------------------------------------------------------------------------------------

    def _subscribe(self) -> None:
        """To our commands, seeing which are retained. The broker's ACL decides who may send them."""
        if self._client is None or self._config.protocol != "5" or self._desk.shut:
            return
        from paho.mqtt.subscribeoptions import SubscribeOptions

        options = SubscribeOptions(qos=1, retainAsPublished=True)
        self._client.subscribe(f"{ROOT}/{self._dev}/cmd/#", options=options)

    def _on_message(self, client: Client, _u: Any, message: MQTTMessage) -> None:
        if self._desk.shut:
            self._desk.count("flood")
        elif self._desk.admit():
            self._receive(message)
        else:
            client.unsubscribe(f"{ROOT}/{self._dev}/cmd/#")
            log.warning("%s: a flood of commands; none are taken for a while", self._where)

    def _receive(self, message: MQTTMessage) -> None:
        name = message.topic.removeprefix(f"{ROOT}/{self._dev}/cmd/")
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
            self.answer(command, False, "too many replays at once")
        elif count == 0:
            self.answer(command, False, "none of these events is here", 0)
        else:
            reason = "" if count == asked else f"{asked - count} of the first {asked} are not here any more"
            self.answer(command, True, reason, count)

    # -- callbacks of paho's thread -------------------------------------------------------------------------------

    def _on_pre_connect(self, client: Client, _userdata: Any) -> None:
        if self._secrets is not None and self._secrets.renew() and self._config.username:
            client.username_pw_set(self._config.username, self._secrets.password)
        # A fresh number for every attempt: a will of an older connection is recognised by its lower one.
        self._session = max(self._session + 1, self._stamper.mono_ns() // 1_000_000)
        will = self._stamper.message(Status, state="offline", session=self._session)
        delay = self._properties("WILLMESSAGE", WillDelayInterval=self._will_delay_s)
        client.will_set(topic(self._dev, Status), encode(will), Status.QOS, Status.RETAIN, delay)

    def _on_socket_open(self, _c: Client, _u: Any, _socket: Any) -> None:
        self._trying_since = time.monotonic()  # TLS is through: from here on it is one packet there, one back

    def _on_connect(self, _c: Client, _u: Any, _flags: Any, reason: ReasonCode, properties: Any) -> None:
        self._trying_since = None
        if reason.is_failure:
            self._refused(reason)
            return
        log.info("%s connected", self._where)
        self._tally.add("connects")
        self._ever_connected, self._outage_told = True, False
        self._send(self._stamper.message(Status, state="online", session=self._session))
        said = self._meta
        if said is not None:
            self._send(said)
        self._subscribe()
        self._connected = True  # after these, so that nothing overtakes status and meta
        # What the pipeline's thread changed while it was not connected yet is looked at once more.
        if self._private:
            self._clear_state()
        if self._meta is not None and self._meta is not said:
            self._send(self._meta)
        self._courier.link(True, getattr(properties, "ReceiveMaximum", 65535))

    def _refused(self, reason: ReasonCode) -> None:
        key = _FINAL_REFUSALS.get(reason.value)
        line = f"{self._where} refuses the connection: {reason}" + (f"; check {key}" if key else "")
        if key and not self._ever_connected:
            self._fault = line
        else:
            self._tell_outage(line)

    def _on_connect_fail(self, _c: Client, _u: Any) -> None:
        self._trying_since = None
        error = sys.exc_info()[1]  # paho calls this from its except block and passes nothing
        again = f"trying again every {self._config.reconnect_s} s at most"
        self._tell_outage(f"{self._where} cannot be reached: {error}; {again}")

    def _on_disconnect(self, _c: Client, _u: Any, _flags: Any, reason: ReasonCode, _p: Any) -> None:
        was, self._connected, self._trying_since = self._connected, False, None
        self._courier.link(False)
        self._ledger.link_lost()
        if self._closing or self._fault:
            return
        hint = (
            "" if was or self._ever_connected else f"; does it speak MQTT {self._config.protocol}? (publish.protocol)"
        )
        self._tell_outage(f"{self._where} connection lost: {reason}{hint}")

    def _on_publish(self, _c: Client, _u: Any, mid: int, reason: ReasonCode, _p: Any) -> None:
        out = self._ledger.done(mid, reason.value, str(reason))
        if out is not None:
            self._settle(out, reason.value, str(reason))

    def _on_log(self, _c: Client, _u: Any, _level: int, line: str) -> None:
        # paho calls every lost connection an error; ours are told once. A broken callback is a defect and is told.
        log.log(logging.ERROR if line.startswith("Caught exception") else logging.DEBUG, "paho: %s", line)

    def _tell_outage(self, line: str) -> None:
        # One line per outage: a broker away for a night must not fill the journal.
        if not self._outage_told:
            self._outage_told = True
            log.warning("%s", line)
