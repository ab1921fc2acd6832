"""The topic tree as an AsyncAPI 3 document, generated from :mod:`edgefer.messages` like the JSON Schemas it points to.

``python -m edgefer.asyncapi`` writes deploy/asyncapi.json; actions are seen from the device.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgefer.messages import COMMANDS, MESSAGES, NOTICE, ROOT, Response, Status, schema_name

BINDING = "0.2.0"
"""version of the MQTT binding"""
COMMAND_EXPIRY_S = 30
DRAFT = "application/schema+json;version=draft-2020-12"


@dataclass(frozen=True)
class Lane:
    """One topic below the device: how it travels and what it carries. ``expiry_s`` None: never."""

    topic: str
    action: Literal["send", "receive"]
    qos: int
    retain: bool
    expiry_s: int | None
    schema: str
    about: str
    reply: str | None = None

    @property
    def key(self) -> str:
        return self.topic.replace("/", ".")


def lanes() -> Iterator[Lane]:
    """Every topic: what the device tells, the commands it obeys, its answers."""
    for kind in MESSAGES:
        yield Lane(kind.TOPIC, "send", kind.QOS, kind.RETAIN, kind.EXPIRY_S, schema_name(kind), _about(kind))
    for command in COMMANDS:
        yield from command_lanes(command, Response)


def command_lanes(command: Any, response: Any) -> Iterator[Lane]:
    """The command's topic and its answer's. A retained command is refused: it would be obeyed again and again."""
    ask, answer = f"cmd/{command.NAME}", f"rsp/{command.NAME}"
    yield Lane(ask, "receive", 1, False, COMMAND_EXPIRY_S, f"cmd.{command.NAME}.v1", _about(command), answer)
    yield Lane(answer, "send", 1, False, response.EXPIRY_S, f"{response.TOPIC}.v1", _about(response))


def _about(kind: type[Any]) -> str:
    return " ".join((kind.__doc__ or "").replace("``", "").split())


def document(tree: tuple[Lane, ...] | None = None) -> dict[str, Any]:
    """The AsyncAPI 3.0.0 document of ``tree`` (None: every lane); JSON Schemas by reference, beside it in schema/."""
    tree = tuple(lanes()) if tree is None else tree
    return {
        "asyncapi": "3.0.0",
        "id": "urn:edgefer:v1",
        "info": {"title": "EdgeFER", "version": "1", "description": NOTICE},
        "defaultContentType": "application/json",
        "servers": {"broker": _server()},
        "channels": {lane.key: _channel(lane) for lane in tree},
        "operations": {f"{lane.action}.{lane.key}": _operation(lane) for lane in tree},
        "components": {
            "parameters": {"device": {"description": "device id: a-z 0-9 -, 1 to 32 characters, never the VIN"}},
            "messages": {lane.key: _message(lane) for lane in tree},
        },
    }


def _server() -> dict[str, Any]:
    will = {"topic": f"{ROOT}/{{device}}/{Status.TOPIC}", "qos": Status.QOS, "retain": Status.RETAIN}
    about = "The fleet's or the vehicle's own broker; publish.* in the configuration says where. 8883 with TLS."
    binding = {"lastWill": {**will, "message": "a status message with state: offline"}, "bindingVersion": BINDING}
    return {
        "host": "127.0.0.1:1883", "protocol": "mqtt", "protocolVersion": "5", "description": about,
        "bindings": {"mqtt": binding},
    }  # fmt: skip


def _channel(lane: Lane) -> dict[str, Any]:
    return {
        "address": f"{ROOT}/{{device}}/{lane.topic}",
        "description": lane.about,
        "parameters": {"device": {"$ref": "#/components/parameters/device"}},
        "messages": {lane.key: {"$ref": f"#/components/messages/{lane.key}"}},
    }


def _operation(lane: Lane) -> dict[str, Any]:
    binding: dict[str, Any] = {"qos": lane.qos, "retain": lane.retain, "bindingVersion": BINDING}
    if lane.expiry_s is not None:
        binding["messageExpiryInterval"] = lane.expiry_s
    said: dict[str, Any] = {"action": lane.action, **_on(lane.key), "bindings": {"mqtt": binding}}
    if lane.reply is not None:
        said["reply"] = _on(lane.reply.replace("/", "."))
    return said


def _on(key: str) -> dict[str, Any]:
    channel = f"#/channels/{key}"
    return {"channel": {"$ref": channel}, "messages": [{"$ref": f"{channel}/messages/{key}"}]}


def _message(lane: Lane) -> dict[str, Any]:
    payload = {"schemaFormat": DRAFT, "schema": {"$ref": f"./schema/{lane.schema}.json"}}
    return {"name": lane.key, "contentType": "application/json", "summary": lane.about, "payload": payload}


if __name__ == "__main__":
    target = Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).parents[1] / "deploy" / "asyncapi.json"
    target.write_text(json.dumps(document(), indent=1) + "\n", encoding="utf-8")
