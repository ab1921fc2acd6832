"""Messages and readings to send in tests, with clocks that stand still."""

from __future__ import annotations

from edgefer import messages
from edgefer.messages import EventDriver, EventSystem, Health, Message, Meta, Status
from edgefer.stamp import Stamper, state_message
from edgefer.types import Lens, LensState, Reading, Why

BOOT = "00000000-1111-2222-3333-444444444444"
LABELS = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear")


def stamper(dev: str = "car-1") -> Stamper:
    wall, mono = 1_700_000_000_123_456_789, 50_000_000_000
    return Stamper(dev, "0123abcd", BOOT, wall_ns=lambda: wall, mono_ns=lambda: mono, synchronised=lambda: True)


def reading(why: Why | None = None, probs: dict[str, float] | None = None, **changes: object) -> Reading:
    shares = probs if probs is not None else dict.fromkeys(LABELS, 1 / 7)
    label = "unknown" if why else "happiness"
    lenses = (LensState.OK, LensState.BLACK)
    fields = {"conf": 0.912345, "face_score": 0.87654321, "yaw_deg": -12.345678, "mono_ns": 49_900_000_000, **changes}
    return Reading(label=label, probs=shares, why=why, lenses=lenses, **fields)  # type: ignore[arg-type]


def one_of_each(s: Stamper) -> list[Message]:
    bundle = messages.BundleInfo(name="default", version="1.0", sha256="0" * 64)
    return [
        state_message(s, reading(), "default@1.0"),
        s.message(EventDriver, kind="label", before="neutral", after="happiness", conf=0.9),
        s.message(EventSystem, kind="lens_lost", lens=Lens.VISIBLE, state=LensState.BLACK, detail="night"),
        s.message(Status, state="online", session=7),
        s.message(Meta, software="0.1", bundle=bundle, labels=LABELS, schemas=(), cameras=("v4l2",), limits={"hz": 5}),
        s.message(
            Health,
            rates={"fps": 25.0},
            stages={"infer": messages.StageTime(p50_ms=3.0, p99_ms=9.0)},
            counters={"unpaired": 2},
            spool_depth=0,
            memory_mb=99.5,
            temperatures={"cpu": 51.0},
            uptime_s=12.5,
        ),
    ]
