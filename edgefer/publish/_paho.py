"""A paho client as the publisher needs it; the only place that knows how one is made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgefer.config import Publish
from edgefer.errors import ServiceError
from edgefer.publish._tls import Secrets

if TYPE_CHECKING:
    from paho.mqtt.client import Client
    from paho.mqtt.properties import Properties


def new_client(config: Publish, dev: str, connect_s: float, secrets: Secrets) -> Client:
    """Not connected; ``connect_s`` bounds TCP; a host that begins with / is a Unix socket.

    Raises ServiceError without paho.
    """
    try:
        from paho.mqtt import client as paho
        from paho.mqtt.enums import CallbackAPIVersion
    except ImportError:
        raise ServiceError("MQTT needs paho-mqtt 2: pip install 'paho-mqtt>=2.1'") from None
    five = config.protocol == "5"
    client = paho.Client(
        CallbackAPIVersion.VERSION2,
        transport="unix" if config.host.startswith("/") else "tcp",
        client_id=f"edgefer-{dev}",
        clean_session=None if five else True,
        protocol=paho.MQTTv5 if five else paho.MQTTv311,
    )
    client.suppress_exceptions = True  # an exception in a callback would end paho's thread, silently
    client.connect_timeout = connect_s
    client.reconnect_delay_set(1, config.reconnect_s)
    client.max_inflight_messages_set(0)  # the courier has its own window: paho holds nothing back
    if config.username:
        client.username_pw_set(config.username, secrets.password)
    if secrets.context is not None:
        client.tls_set_context(secrets.context)
    return client


def network_lives(client: Client) -> bool:
    """Whether the thread of ``loop_start`` runs. paho has no call for it; a callback may never come."""
    thread = client._thread
    return thread is not None and thread.is_alive()


def revive(client: Client) -> None:
    """Another network thread; the pair of sockets that woke the dead one is closed, paho would forget it."""
    client.loop_stop()
    client._reset_sockets(sockpair_only=True)
    client.loop_start()


def properties(packet: str, **values: int) -> Properties:
    """MQTT 5 properties of a ``packet`` ("PUBLISH"), by their paho names."""
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties

    found = Properties(getattr(PacketTypes, packet))  # type: ignore[no-untyped-call]
    for name, value in values.items():
        setattr(found, name, value)
    return found
