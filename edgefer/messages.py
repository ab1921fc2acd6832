"""The wire format, version 1: what stands on ``edgefer/v1/{dev}/...``. JSON Schema is generated from these models.

Messages only grow: a field may be added, none may be renamed, retyped or taken away within ``v: 1``. Labels are free
text here because the bundle defines them. ``python -m edgefer.messages`` writes deploy/schema.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from edgefer.config import DeviceId
from edgefer.errors import ConfigError
from edgefer.types import UNKNOWN, Lens, LensState, Why

ROOT = "edgefer/v1"
NOTICE = (
    "Estimates visible facial expression, not inner state. Not a driver drowsiness or attention warning system "
    "(DDAW/ADDW) and no substitute for one. No image is stored or sent; no person is identified."
)

Label = Annotated[str, StringConstraints(pattern=r"^[a-z_]{1,24}$")]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._+-]{1,64}$")]
BundleName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._+-]{1,64}@[A-Za-z0-9._+-]{1,32}$")]
BootId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
Instant = Annotated[str, StringConstraints(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")]
Text = Annotated[str, StringConstraints(max_length=512)]
SystemEvent = Literal[
    "lens_lost",
    "lens_back",
    "bundle_activated",
    "bundle_rolled_back",
    "spool_lost",
    "clock_step",
    "started",
    "backend_fallback",
    "lens_degraded",
    "registration_drifted",
    "registration_back",
]
Probability = Annotated[float, Field(ge=0, le=1)]
Natural = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
SpoolSeq = Annotated[int, Field(ge=1, le=2**63 - 1)]
"""a number the spool can look for: SQLite's integers have 64 bits"""
StreamId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8}$")]
CommandId = Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Message(_Part):
    """The header every message carries. TOPIC, QOS, RETAIN and EXPIRY_S (seconds, None: never) say how it travels."""

    TOPIC: ClassVar[str] = ""
    QOS: ClassVar[Literal[0, 1]] = 1
    RETAIN: ClassVar[bool] = False
    EXPIRY_S: ClassVar[int | None] = None
    KEPT: ClassVar[bool] = False
    """True: waits for the broker while it is away. False: worthless by then, dropped and counted."""

    v: Literal[1] = Field(description="version of the wire format")
    dev: DeviceId = Field(description="device id, the third level of the topic")
    stream: str = Field(pattern=r"^[0-9a-f]{8}$", description="new when the daemon counts anew; seq counts inside it")
    seq: int = Field(ge=1, description="rises by one in this topic class (first level after dev): the order")
    ts: Instant = Field(description="UTC; of the capture where there is one. To be trusted only when sync is true")
    mono_ns: Natural = Field(description="the same instant in CLOCK_BOOTTIME nanoseconds; may step back as seq rises")
    boot: BootId = Field(description="/proc/sys/kernel/random/boot_id")
    sync: bool = Field(description="the clock was synchronised since this boot")
    replayed: bool = Field(description="sent again on request")


class Quality(_Part):
    face: Probability = Field(description="score of the face detector")
    yaw_deg: float | None = Field(default=None, description="turn of the head, degrees; absent: not measured")
    age_ms: Natural = Field(description="from capture to this message")
    lenses: tuple[LensState, LensState] = Field(description="visible, infrared")


_INVALID_HAS_WHY = {
    "if": {"properties": {"valid": {"const": False}}},
    "then": {"required": ["why"], "properties": {"why": {"type": "string"}, "label": {"const": UNKNOWN}}},
    "else": {"properties": {"why": {"type": "null"}, "label": {"not": {"const": UNKNOWN}}}},
}


class StateDriver(Message):
    """The stream: the driver's expression now, or why there is none."""

    model_config = ConfigDict(json_schema_extra=_INVALID_HAS_WHY)  # type: ignore[typeddict-item]
    TOPIC = "state/driver"
    QOS = 0
    RETAIN = True
    EXPIRY_S = 5

    valid: bool
    why: Why | None = Field(default=None, description="present exactly when valid is false")
    label: Label = Field(description="a label of the bundle; unknown exactly when valid is false")
    conf: Probability = Field(description="calibrated probability of the label, or of the one not shown for doubt")
    probs: dict[Label, Probability] = Field(description="empty when nothing was seen")
    quality: Quality
    bundle: BundleName = Field(description="name@version of the network")

    @model_validator(mode="after")
    def _invalid_has_why(self) -> StateDriver:
        if self.valid != (self.why is None) or self.valid != (self.label != UNKNOWN):
            raise ValueError("valid, why and label contradict each other")
        return self


class EventDriver(Message):
    """A change of label, of validity or of the privacy switch."""

    TOPIC = "event/driver"
    EXPIRY_S = 7 * 86400
    KEPT = True

    kind: Literal["label", "validity", "privacy"]
    before: Label = Field(description="label; validity: valid or invalid; privacy: on or off")
    after: Label
    conf: Probability | None = None
    why: Why | None = None


class EventSystem(Message):
    """Something happened to the device itself."""

    TOPIC = "event/system"
    EXPIRY_S = 7 * 86400
    KEPT = True

    kind: SystemEvent
    lens: Lens | None = Field(default=None, description="lens_lost, lens_back, lens_degraded")
    state: LensState | None = Field(default=None, description="of lens events: the lens' state after the event")
    detail: Text | None = None
    lost_stream: StreamId | None = Field(default=None, description="spool_lost: events of this stream will not come")
    first: Positive | None = Field(default=None, description="spool_lost: lowest lost seq")
    last: Positive | None = Field(default=None, description="spool_lost: highest lost seq")
    count: Positive | None = Field(default=None, description="spool_lost: how many between first and last are lost")

    @model_validator(mode="after")
    def _lens_events_name_the_lens(self) -> EventSystem:
        if self.kind.startswith("lens_") and (self.lens is None or self.state is None):
            raise ValueError("lens events carry lens and state")
        return self


class Status(Message):
    """Whether the device is there. ``offline`` is the will: the broker says it for a device that vanished."""

    TOPIC = "status"
    RETAIN = True

    state: Literal["online", "stopped", "offline"]
    session: int = Field(ge=1, description="rises with every connection of a boot: ignore offline with a lower one")


class BundleInfo(_Part):
    name: Name
    version: str = Field(pattern=r"^[A-Za-z0-9._+-]{1,32}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Meta(Message):
    """The birth document: what speaks here and what it must not be taken for."""

    TOPIC = "meta"
    RETAIN = True

    software: Text = Field(description="version of edgefer")
    bundle: BundleInfo
    labels: tuple[Label, ...] = Field(description="in the order of the network's outputs")
    schemas: tuple[str, ...] = Field(description="$id of every message's JSON Schema")
    cameras: tuple[Text, ...]
    limits: dict[Name, float] = Field(description="rates, sizes and bounds this device keeps, units in the names")
    notice: Text = NOTICE


class StageTime(_Part):
    p50_ms: float = Field(ge=0)
    p99_ms: float = Field(ge=0)


class Health(Message):
    """How the device fares, every ten seconds."""

    TOPIC = "health"
    RETAIN = True
    EXPIRY_S = 30

    rates: dict[Name, float] = Field(description="per second")
    timing: dict[Name, float] = Field(
        default={},
        description="of the lenses; units in the names. skew: visible less infrared; drift: of a lens's clock",
    )
    stages: dict[Name, StageTime]
    counters: dict[Name, Natural] = Field(description="drops and the like, since start")
    spool_depth: Natural = Field(description="events not yet delivered")
    events: dict[StreamId, Positive] = Field(
        default_factory=dict,
        description="highest seq on disk of the newest event streams: what there is to have",
    )
    memory_mb: float = Field(ge=0, description="resident set")
    temperatures: dict[Name, float] = Field(description="degrees Celsius by sensor")
    power_mode: Name | None = Field(default=None, description="of a Jetson (nvpmodel); absent: there is none")
    uptime_s: float = Field(ge=0)


class Command(_Part):
    """What may be asked of a device on ``cmd/{NAME}``: QoS 1, not retained, message expiry at most 30 s."""

    model_config = ConfigDict(strict=True)
    NAME: ClassVar[str] = ""

    id: CommandId = Field(description="uuid; one seen in the last minute is answered again, not carried out again")


class Privacy(Command):
    """Stop or resume reading. On: no reading, no retained state, lenses released, also after a restart."""

    NAME = "privacy"
    on: bool


class Rate(Command):
    """State messages per second, until the next start."""

    NAME = "rate"
    rate_hz: float = Field(ge=0.1, le=30)


class Reload(Command):
    """Serve the bundle that is staged on the device. Takes no path and no address."""

    NAME = "reload"


class Replay(Command):
    """Send the events ``first`` to ``last`` of ``stream`` again, with ``replayed`` true."""

    NAME = "replay"
    stream: StreamId
    first: SpoolSeq
    last: SpoolSeq

    @model_validator(mode="after")
    def _in_order(self) -> Replay:
        if self.last < self.first:
            raise ValueError("last is below first")
        return self


class Response(_Part):
    """The answer on ``rsp/{NAME}``: QoS 1, expires after 60 s."""

    TOPIC: ClassVar[str] = "rsp"
    EXPIRY_S: ClassVar[int] = 60

    id: CommandId
    ok: bool
    reason: Text = ""
    count: Natural | None = Field(default=None, description="replay: how many of the events are here and follow")


MESSAGES: tuple[type[Message], ...] = (StateDriver, EventDriver, EventSystem, Status, Meta, Health)
COMMANDS: tuple[type[Command], ...] = (Privacy, Rate, Reload, Replay)
M = TypeVar("M", bound=Message)


def encode(message: Message | Command | Response) -> bytes:
    """Compact UTF-8 JSON; absent fields are left out, numbers keep four digits."""
    plain = _rounded(message.model_dump(mode="json", exclude_none=True))
    return json.dumps(plain, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value


def decode(kind: type[M], payload: bytes) -> M:
    """The message in ``payload``. Raises pydantic's ValidationError."""
    return kind.model_validate_json(payload)


def topic(dev: str, kind: type[Message]) -> str:
    """``edgefer/v1/{dev}/...``. Raises ConfigError for a device id that is none."""
    if not re.fullmatch(r"[a-z0-9-]{1,32}", dev):
        raise ConfigError(f"'device' {dev!r}: use a-z, 0-9 and -, 1 to 32 characters, never the VIN")
    return f"{ROOT}/{dev}/{kind.TOPIC}"


def schema_name(kind: type[Message] | type[Command] | type[Response]) -> str:
    return (f"cmd.{kind.NAME}" if issubclass(kind, Command) else kind.TOPIC.replace("/", ".")) + ".v1"


def schema_id(kind: type[Message] | type[Command] | type[Response]) -> str:
    """The ``$id`` that Meta.schemas lists."""
    return f"https://edgefer.invalid/schema/{schema_name(kind)}.json"


def schemas() -> dict[str, dict[str, Any]]:
    """JSON Schema (draft 2020-12) of every message, command and response, by file stem (``state.driver.v1``)."""
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    kinds: tuple[type[Message] | type[Command] | type[Response], ...] = (*MESSAGES, *COMMANDS, Response)
    return {schema_name(kind): {**head, "$id": schema_id(kind), **kind.model_json_schema()} for kind in kinds}


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).parents[1] / "deploy" / "schema"
    for name, schema in schemas().items():
        (folder / f"{name}.json").write_text(json.dumps(schema, indent=1) + "\n", encoding="utf-8")
