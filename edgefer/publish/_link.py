"""The connection to the broker behind the MQTT publisher: how it comes about, is kept alive and ends, and what became
of each message that went over it.

A publish counts as published only by the reason code of its PUBACK. Half a link is noticed by the keep-alive, a broker
that never answers and a network thread that died by ``look_after``.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Protocol

from edgefer.config import Publish
from edgefer.messages import Status, encode, topic
from edgefer.publish._flight import Token
from edgefer.publish._mqtt_parts import Ledger, Out, Tally
from edgefer.publish._paho import network_lives, new_client, properties, revive
from edgefer.publish._tls import Secrets
from edgefer.stamp import Stamper

if TYPE_CHECKING:
    from paho.mqtt.client import Client, MQTTMessage, MQTTMessageInfo
    from paho.mqtt.properties import Properties
    from paho.mqtt.reasoncodes import ReasonCode

log = logging.getLogger("edgefer.publish")

SAY_S, END_S = 0.75, 0.5
"""how long close() waits for the last acknowledgement, and for the network thread"""
TCP_S = 1.5
"""a host that does not answer for this long is tried again"""
CONNECT_S = 3.0
"""a broker that takes the connection and says nothing for this long is tried again"""

_CREDENTIALS = "publish.username and publish.password_file"
_FINAL_REFUSALS = {132: "publish.protocol", 133: "device", 134: _CREDENTIALS, 135: _CREDENTIALS}
"""CONNACK reason -> the key to look at. Other refusals (busy, unavailable, banned, quota) may pass by waiting."""


class Owner(Protocol):
    """Who speaks over the connection; all of this is called by paho's thread."""

    def greet(self) -> None:
        """The first words of a new connection; it counts as one only after them, so that nothing overtakes them."""

    def linked(self, receive_maximum: int) -> None:
        """It counts as one now."""

    def unlinked(self) -> None:
        """It is gone, or did not come about."""

    def settled(self, token: Token, value: int) -> None:
        """The broker's reason code for a message that had a token."""

    def received(self, message: MQTTMessage) -> None:
        """What somebody sent to a topic that was subscribed to."""


class MqttLink:
    """One broker connection. ``will_delay_s`` is also the session expiry. ``fault``: why waiting will not help."""

    def __init__(self, config: Publish, dev: str, stamper: Stamper, owner: Owner, will_delay_s: int) -> None:
        self._config, self._dev, self._stamper, self._owner = config, dev, stamper, owner
        self._will_delay_s = will_delay_s
        self._status = topic(dev, Status)  # refuses a bad device id here, not at the first message
        self.name = f"broker {config.host}" + ("" if config.host.startswith("/") else f":{config.port}")
        self._client: Client | None = None
        self._secrets: Secrets | None = None
        self._ledger, self._tally = Ledger(), Tally()
        self.session = 0
        self._trying_since: float | None = None
        self.connected = self._ever_connected = self._closing = self._outage_told = False
        self.fault = ""

    # -- the calls of its owner -----------------------------------------------------------------------------------

    def open(self, packet_bytes: int) -> None:
        """Start connecting in the background. Raises ConfigError for unreadable secrets and certificates."""
        self._client = client = self._build()
        said = self._properties("CONNECT", SessionExpiryInterval=self._will_delay_s, MaximumPacketSize=packet_bytes)
        client.connect_async(self._config.host, self._config.port, self._config.keepalive_s, properties=said)
        client.loop_start()

    @property
    def ready(self) -> bool:
        """Whether a message handed over now would leave at once."""
        return self.connected and not self._closing

    def waiting(self, qos: int) -> int:
        """Messages of ``qos`` handed over and not written (0), or not acknowledged (1)."""
        return self._ledger.count(qos)

    def count(self, name: str) -> None:
        self._tally.add(name)

    def counters(self) -> dict[str, int]:
        """``unacknowledged`` is a level, the others only rise."""
        return {**self._tally.all(), "unacknowledged": self._ledger.count(1)}

    def send(self, payload: bytes, out: Out, expiry_s: int | None) -> MQTTMessageInfo | None:
        """What should expire and cannot (3.1.1) is not retained. None before ``open`` and after ``close``."""
        client = self._client
        if client is None:
            self._tally.add("dropped_offline")
            return None
        expiry = self._properties("PUBLISH", MessageExpiryInterval=expiry_s) if expiry_s else None
        out = out._replace(retain=out.retain and (expiry_s is None or expiry is not None))
        info = client.publish(out.topic, payload, out.qos, out.retain, expiry)
        self._note(out, info)
        return info

    def subscribe(self, name: str) -> None:
        """Seeing which messages are retained."""
        if self._client is None:
            return
        from paho.mqtt.subscribeoptions import SubscribeOptions

        self._client.subscribe(name, options=SubscribeOptions(qos=1, retainAsPublished=True))

    def unsubscribe(self, name: str) -> None:
        if self._client is not None:
            self._client.unsubscribe(name)

    def renew(self) -> None:
        """New certificates or another password on disk: connect anew with them. The broker sees a short outage."""
        if self._fresh_secrets():
            self.cut()

    def look_after(self) -> None:
        """A connect that is never answered, and a network thread that died, are begun anew."""
        trying = self._trying_since
        if trying is not None and time.monotonic() - trying > CONNECT_S:
            self._trying_since = None
            self.cut()
        if self._client is not None and not network_lives(self._client):
            log.error("%s: the network thread has died; starting another", self.name)
            self._tally.add("net_restarts")
            self.cut()
            revive(self._client)

    def cut(self) -> None:
        """Shut the socket: paho's thread sees its end, connects anew and sends again what is not acknowledged."""
        link = self._client.socket() if self._client is not None else None
        if link is not None:
            with contextlib.suppress(OSError):
                # Below TLS: SSLSocket.shutdown would drop its state under the network thread.
                socket.socket.shutdown(link, socket.SHUT_RDWR)  # type: ignore[arg-type]

    def closing(self) -> None:
        """From here on an end of the connection is no outage."""
        self._closing = True

    def close(self, last: MQTTMessageInfo | None) -> None:
        """Wait for ``last``, disconnect, join: at most SAY_S + END_S."""
        client = self._client
        if client is None:
            return
        with contextlib.suppress(ValueError, RuntimeError):  # paho's words for: will never be published
            if last is not None:
                last.wait_for_publish(SAY_S)
        client.disconnect()
        # paho's join has no bound, and its thread may hang in a TLS handshake.
        stopper = threading.Thread(target=client.loop_stop, name="mqtt-stop", daemon=True)
        stopper.start()
        stopper.join(END_S)
        self._client, self.connected = None, False

    # -- inside ---------------------------------------------------------------------------------------------------

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

    def _fresh_secrets(self) -> bool:
        """Whether there were new ones; the client has them."""
        if self._client is None or self._secrets is None or not self._secrets.renew():
            return False
        if self._config.username:
            self._client.username_pw_set(self._config.username, self._secrets.password)
        return True

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
            self._tell_refusal(out.topic, value, reason)
        if out.token is not None:
            self._owner.settled(out.token, value)

    def _tell_refusal(self, name: str, value: int, reason: str) -> None:
        if not self._tally.due(name):
            return
        remedy = f"; allow user '{self._config.username}' to write it in the broker's ACL" if value == 135 else ""
        log.error("%s refuses publishes to %s: %s%s", self.name, name, reason, remedy)

    def _refused(self, reason: ReasonCode) -> None:
        key = _FINAL_REFUSALS.get(reason.value)
        line = f"{self.name} refuses the connection: {reason}" + (f"; check {key}" if key else "")
        if key and not self._ever_connected:
            self.fault = line
        else:
            self._tell_outage(line)

    def _tell_outage(self, line: str) -> None:
        # One line per outage: a broker away for a night must not fill the journal.
        if not self._outage_told:
            self._outage_told = True
            log.warning("%s", line)

    # -- callbacks of paho's thread -------------------------------------------------------------------------------

    def _on_pre_connect(self, client: Client, _userdata: Any) -> None:
        self._fresh_secrets()
        # A fresh number for every attempt: a will of an older connection is recognised by its lower one.
        self.session = max(self.session + 1, self._stamper.mono_ns() // 1_000_000)
        will = self._stamper.message(Status, state="offline", session=self.session)
        delay = self._properties("WILLMESSAGE", WillDelayInterval=self._will_delay_s)
        client.will_set(self._status, encode(will), Status.QOS, Status.RETAIN, delay)

    def _on_socket_open(self, _c: Client, _u: Any, _socket: Any) -> None:
        self._trying_since = time.monotonic()  # TLS is through: from here on it is one packet there, one back

    def _on_connect(self, _c: Client, _u: Any, _flags: Any, reason: ReasonCode, said: Any) -> None:
        self._trying_since = None
        if reason.is_failure:
            self._refused(reason)
            return
        log.info("%s connected", self.name)
        self._tally.add("connects")
        self._ever_connected, self._outage_told = True, False
        self._owner.greet()
        self.connected = True
        self._owner.linked(getattr(said, "ReceiveMaximum", 65535))

    def _on_connect_fail(self, _c: Client, _u: Any) -> None:
        self._trying_since = None
        error = sys.exc_info()[1]  # paho calls this from its except block and passes nothing
        again = f"trying again every {self._config.reconnect_s} s at most"
        self._tell_outage(f"{self.name} cannot be reached: {error}; {again}")

    def _on_disconnect(self, _c: Client, _u: Any, _flags: Any, reason: ReasonCode, _p: Any) -> None:
        was, self.connected, self._trying_since = self.connected, False, None
        self._owner.unlinked()
        self._ledger.link_lost()
        if self._closing or self.fault:
            return
        known = was or self._ever_connected
        hint = "" if known else f"; does it speak MQTT {self._config.protocol}? (publish.protocol)"
        self._tell_outage(f"{self.name} connection lost: {reason}{hint}")

    def _on_publish(self, _c: Client, _u: Any, mid: int, reason: ReasonCode, _p: Any) -> None:
        out = self._ledger.done(mid, reason.value, str(reason))
        if out is not None:
            self._settle(out, reason.value, str(reason))

    def _on_message(self, _c: Client, _u: Any, message: MQTTMessage) -> None:
        self._owner.received(message)

    def _on_log(self, _c: Client, _u: Any, _level: int, line: str) -> None:
        # paho calls every lost connection an error; ours are told once. A broken callback is a defect and is told.
        log.log(logging.ERROR if line.startswith("Caught exception") else logging.DEBUG, "paho: %s", line)
