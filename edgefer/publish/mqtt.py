"""MQTT through paho: version 5, or 3.1.1 for brokers that know no better.

Events wait in paho's queue while the broker is away, bounded and in order; everything else is worthless by then and is
dropped and counted. A publish counts as published only by the reason code of its PUBACK: 16 (nobody subscribes) is not
delivery for an event. Half a link is noticed by the keep-alive.

3.1.1 knows no expiry: what should expire is not retained there, or its last word would be told as news for ever.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from typing import TYPE_CHECKING, Any

from edgefer.config import Publish
from edgefer.errors import ServiceError
from edgefer.messages import Message, Meta, Stamper, Status, encode, topic
from edgefer.publish import home_assistant
from edgefer.publish._mqtt_parts import Ledger, Tally, read_password, tls_context

if TYPE_CHECKING:
    from paho.mqtt.client import Client, MQTTMessageInfo
    from paho.mqtt.properties import Properties
    from paho.mqtt.reasoncodes import ReasonCode

log = logging.getLogger("edgefer.publish")

CLOSE_S = 2.0
"""how long close() waits for the last acknowledgement, and again for the network thread"""
MAX_COMMAND_BYTES = 4096
"""the broker drops larger packets to us"""
RESERVE = 64
"""places in paho's queue that events may not take: status, meta and health get through when events fill theirs"""
UNSENT_STATES = 32
"""states handed over but not yet written to the socket; more means a stuck link, and newer ones are dropped"""

_CREDENTIALS = "publish.username and publish.password_file"
_FINAL_REFUSALS = {132: "publish.protocol", 133: "device", 134: _CREDENTIALS, 135: _CREDENTIALS}
"""CONNACK reason -> the key to look at. Other refusals (busy, unavailable, banned, quota) may pass by waiting."""


class MqttPublisher:
    """One broker connection. ``will_delay_s`` is also the session expiry; ``queue_limit`` bounds waiting events."""

    def __init__(
        self, config: Publish, dev: str, stamper: Stamper, *, will_delay_s: int = 5, queue_limit: int = 1000
    ) -> None:
        topic(dev, Status)  # refuses a bad device id here, not at the first message
        self._config, self._dev, self._stamper = config, dev, stamper
        self._will_delay_s, self._queue_limit = will_delay_s, queue_limit
        self._where = f"broker {config.host}:{config.port}"
        self._client: Client | None = None
        self._meta: Meta | None = None
        self._ledger, self._tally = Ledger(), Tally()
        self._session = 0
        self._connected = self._ever_connected = self._closing = self._outage_told = False
        self._fault = ""

    # -- the five calls of the Publisher --------------------------------------------------------------------------

    def open(self, meta: Meta) -> None:
        """Start connecting in the background. Raises ConfigError for unreadable secrets and certificates."""
        self._meta = meta
        self._client = client = self._build()
        properties = self._properties("CONNECT", SessionExpiryInterval=self._will_delay_s, MaximumPacketSize=MAX_COMMAND_BYTES)  # fmt: skip # noqa: E501
        client.connect_async(self._config.host, self._config.port, self._config.keepalive_s, properties=properties)
        client.loop_start()

    def publish(self, message: Message) -> None:
        if self._closing or not (self._connected or message.KEPT):
            self._tally.add("dropped_offline")
        elif message.KEPT and self._ledger.count(1) >= self._queue_limit:
            self._tally.add("queue_refused")
        elif message.QOS == 0 and self._ledger.count(0) >= UNSENT_STATES:
            self._tally.add("dropped_slow")
        else:
            self._send(message)

    def check(self) -> None:
        if self._fault:
            raise ServiceError(self._fault)

    def close(self, final: Status) -> None:
        """Say ``final`` (with this connection's session number), disconnect, join; at most 2 x CLOSE_S."""
        client, self._closing = self._client, True
        if client is None:
            return
        if self._connected:
            self._announce(b"")
        info = self._send(final.model_copy(update={"session": self._session})) if self._connected else None
        with contextlib.suppress(ValueError, RuntimeError):  # paho's words for: will never be published
            if info is not None:
                info.wait_for_publish(CLOSE_S)
        client.disconnect()
        # paho's join has no bound, and its thread may hang in a TLS handshake.
        stopper = threading.Thread(target=client.loop_stop, name="mqtt-stop", daemon=True)
        stopper.start()
        stopper.join(CLOSE_S)
        self._client, self._connected = None, False

    @property
    def connected(self) -> bool:
        return self._connected

    def counters(self) -> dict[str, int]:
        """``unacknowledged`` is a level, the others only rise."""
        return {**self._tally.all(), "unacknowledged": self._ledger.count(1)}

    # -- building -------------------------------------------------------------------------------------------------

    def _build(self) -> Client:
        try:
            from paho.mqtt import client as paho
            from paho.mqtt.enums import CallbackAPIVersion
        except ImportError:
            raise ServiceError("MQTT needs paho-mqtt 2: pip install 'paho-mqtt>=2.1'") from None
        five = self._config.protocol == "5"
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=f"edgefer-{self._dev}",
            clean_session=None if five else True,
            protocol=paho.MQTTv5 if five else paho.MQTTv311,
        )
        client.suppress_exceptions = True  # an exception in a callback would end paho's thread, silently
        client.connect_timeout = CLOSE_S
        client.reconnect_delay_set(1, 30)
        client.max_queued_messages_set(self._queue_limit + RESERVE)
        self._secure(client)
        client.on_pre_connect = self._on_pre_connect
        client.on_connect = self._on_connect
        client.on_connect_fail = self._on_connect_fail
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_log = self._on_log
        return client

    def _secure(self, client: Client) -> None:
        password = read_password(self._config)
        if self._config.username:
            client.username_pw_set(self._config.username, password)
        context = tls_context(self._config)
        if context is not None:
            client.tls_set_context(context)

    def _properties(self, packet: str, **values: int) -> Properties | None:
        if self._config.protocol != "5":
            return None
        from paho.mqtt.packettypes import PacketTypes
        from paho.mqtt.properties import Properties

        properties = Properties(getattr(PacketTypes, packet))  # type: ignore[no-untyped-call]
        for name, value in values.items():
            setattr(properties, name, value)
        return properties

    # -- sending --------------------------------------------------------------------------------------------------

    def _send(self, message: Message) -> MQTTMessageInfo | None:
        client, kind = self._client, type(message)
        if client is None:
            self._tally.add("dropped_offline")
            return None
        properties = self._properties("PUBLISH", MessageExpiryInterval=kind.EXPIRY_S) if kind.EXPIRY_S else None
        retain = kind.RETAIN and (kind.EXPIRY_S is None or properties is not None)
        info = client.publish(topic(self._dev, kind), encode(message), kind.QOS, retain, properties)
        self._note(kind, info)
        if isinstance(message, Meta):
            self._announce(home_assistant.document(message))
        return info

    def _announce(self, payload: bytes) -> None:
        """To Home Assistant, when that is asked for; empty: takes the device back."""
        if self._config.home_assistant and self._client is not None:
            info = self._client.publish(home_assistant.topic(self._dev), payload, 1, True)
            self._note(home_assistant.Announcement, info)

    def _note(self, kind: type[Message], info: MQTTMessageInfo) -> None:
        from paho.mqtt.enums import MQTTErrorCode

        if info.rc == MQTTErrorCode.MQTT_ERR_QUEUE_SIZE:
            self._tally.add("queue_refused")
        elif kind.QOS == 0 and info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            self._tally.add("dropped_offline")
        else:  # QoS 1 without a connection returns an error, yet paho keeps and sends it
            early = self._ledger.sent(info.mid, kind)
            if early is not None:
                self._settle(kind, *early)

    def _settle(self, kind: type[Message], value: int, reason: str) -> None:
        if value == 16 and not kind.RETAIN:
            self._tally.add("unmatched")
        elif value < 128:
            self._tally.add("published")
        else:
            self._tally.add("denied" if value == 135 else "refused")
            announced = kind is home_assistant.Announcement
            name = home_assistant.topic(self._dev) if announced else topic(self._dev, kind)
            self._tell_refusal(name, value, reason)

    def _tell_refusal(self, name: str, value: int, reason: str) -> None:
        if not self._tally.due(name):
            return
        remedy = f"; allow user '{self._config.username}' to write it in the broker's ACL" if value == 135 else ""
        log.error("%s refuses publishes to %s: %s%s", self._where, name, reason, remedy)

    # -- callbacks of paho's thread -------------------------------------------------------------------------------

    def _on_pre_connect(self, client: Client, _userdata: Any) -> None:
        # A fresh number for every attempt: a will of an older connection is recognised by its lower one.
        self._session = max(self._session + 1, self._stamper.mono_ns() // 1_000_000)
        will = self._stamper.message(Status, state="offline", session=self._session)
        delay = self._properties("WILLMESSAGE", WillDelayInterval=self._will_delay_s)
        client.will_set(topic(self._dev, Status), encode(will), Status.QOS, Status.RETAIN, delay)

    def _on_connect(self, _c: Client, _u: Any, _flags: Any, reason: ReasonCode, _p: Any) -> None:
        if reason.is_failure:
            self._refused(reason)
            return
        log.info("%s connected", self._where)
        self._tally.add("connects")
        self._ever_connected, self._outage_told = True, False
        self._send(self._stamper.message(Status, state="online", session=self._session))
        if self._meta is not None:
            self._send(self._meta)
        self._connected = True  # last, so that nothing overtakes status and meta

    def _refused(self, reason: ReasonCode) -> None:
        key = _FINAL_REFUSALS.get(reason.value)
        line = f"{self._where} refuses the connection: {reason}" + (f"; check {key}" if key else "")
        if key and not self._ever_connected:
            self._fault = line
        else:
            self._tell_outage(line)

    def _on_connect_fail(self, _c: Client, _u: Any) -> None:
        error = sys.exc_info()[1]  # paho calls this from its except block and passes nothing
        self._tell_outage(f"{self._where} cannot be reached: {error}; trying again every 1 to 30 s")

    def _on_disconnect(self, _c: Client, _u: Any, _flags: Any, reason: ReasonCode, _p: Any) -> None:
        was, self._connected = self._connected, False
        self._ledger.link_lost()
        if self._closing or self._fault:
            return
        hint = (
            "" if was or self._ever_connected else f"; does it speak MQTT {self._config.protocol}? (publish.protocol)"
        )
        self._tell_outage(f"{self._where} connection lost: {reason}{hint}")

    def _on_publish(self, _c: Client, _u: Any, mid: int, reason: ReasonCode, _p: Any) -> None:
        kind = self._ledger.done(mid, reason.value, str(reason))
        if kind is not None:
            self._settle(kind, reason.value, str(reason))

    def _on_log(self, _c: Client, _u: Any, _level: int, line: str) -> None:
        # paho calls every lost connection an error; ours are told once. A broken callback is a defect and is told.
        log.log(logging.ERROR if line.startswith("Caught exception") else logging.DEBUG, "paho: %s", line)

    def _tell_outage(self, line: str) -> None:
        # One line per outage: a broker away for a night must not fill the journal.
        if not self._outage_told:
            self._outage_told = True
            log.warning("%s", line)
