"""The live table: pure, from the last messages of a device to lines of text."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

BAR = 24
KEPT = 10_000
"""newest events, ages and rates that are kept: a show may go on for ever"""
STAGES = ("wait", "locate", "align", "infer", "decide", "publish")


@dataclass
class Board:
    """What a subscriber knows: the newest state, health and status, and counts since it listens."""

    state: dict[str, Any] = field(default_factory=dict)
    health: dict[str, Any] = field(default_factory=dict)
    status: str = "waiting"
    meta: dict[str, Any] = field(default_factory=dict)
    events: deque[str] = field(default_factory=lambda: deque(maxlen=KEPT))
    states: int = 0
    valid: int = 0
    labels: deque[str] = field(default_factory=lambda: deque(maxlen=KEPT))
    """label changes seen in event/driver"""
    ages_ms: deque[int] = field(default_factory=lambda: deque(maxlen=KEPT))
    note: str = ""
    """a last line of somebody else's"""
    rates: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))

    def take(self, topic: str, payload: dict[str, Any]) -> None:
        """One message; ``topic`` is that below the device, ``state/driver`` for one."""
        if topic == "state/driver":
            self.state = payload
            self.states += 1
            self.valid += payload["valid"]
            self.ages_ms.append(payload["quality"]["age_ms"])
        elif topic == "health":
            self.health = payload
            self.rates.append(payload["rates"]["readings"])
        elif topic == "status":
            self.status = payload["state"]
        elif topic == "meta":
            self.meta = payload
        elif topic.startswith("event/"):
            self._event(payload)

    def _event(self, e: dict[str, Any]) -> None:
        if e["kind"] == "label":
            self.labels.append(e["after"])
        change = f"{e['before']} -> {e['after']}" if "before" in e else e.get("lens", e.get("detail", ""))
        why = f" ({e['why']})" if e.get("why") else f" ({e['state']})" if e.get("state") else ""
        self.events.append(f"{e['ts'][11:19]} {e['kind']}: {change}{why}")


def lines(board: Board) -> list[str]:
    """The table, a fixed number of lines for a given bundle."""
    s = board.state
    if not s:
        return [f"edgefer  {board.status}"]
    lenses = s["quality"]["lenses"]
    shown = s["label"].upper() if s["valid"] else f"unknown ({s['why']})"
    top = [
        f"edgefer  {s['dev']}  {board.status}  bundle {s['bundle']}",
        f"  driver    {shown:<24} confidence {s['conf']:5.1%}  age {s['quality']['age_ms']:3d} ms",
        f"  lenses    visible {lenses[0]:<7} infrared {lenses[1]:<7} face {s['quality']['face']:.2f}",
    ]
    probs = s["probs"]
    bars = [f"  {label:<10}{_bar(probs.get(label, 0.0))}" for label in board.meta.get("labels", probs)]
    note = [f"  {board.note}"] if board.note else []
    return [*top, "", *bars, "", *_health(board), "", *_events(board), *note]


def _bar(share: float) -> str:
    return f"{'█' * round(share * BAR):<{BAR}} {share:5.1%}"


def _health(board: Board) -> list[str]:
    h = board.health
    if not h:
        return ["  frames/s  ...", "  stages    ..."]
    stages = "  ".join(f"{n} {h['stages'][n]['p50_ms']:.1f}" for n in STAGES if n in h["stages"])
    return [f"  frames/s  {h['rates']['readings']:.1f}   memory {h['memory_mb']:.0f} MB", f"  ms (p50)  {stages}"]


def _events(board: Board, count: int = 4) -> list[str]:
    recent = list(board.events)[-count:]
    return [f"  {e}" for e in recent] + [""] * (count - len(recent))


def one_line(board: Board) -> str:
    """For a terminal that cannot redraw."""
    s = board.state
    if not s:
        return f"edgefer {board.status}"
    shown = s["label"] if s["valid"] else f"unknown ({s['why']})"
    lenses = "/".join(s["quality"]["lenses"])
    rate = f"{board.health['rates']['readings']:.1f} frames/s" if board.health else ""
    return f"{s['ts'][11:19]}  {shown:<22} {s['conf']:5.1%}  lenses {lenses:<14} {rate}"


def summary(board: Board) -> list[str]:
    """After the show. Medians are over what was received."""
    ages, rates = sorted(board.ages_ms), sorted(board.rates)
    return [
        f"received {board.states} states ({board.valid} valid), {len(board.events)} events over MQTT",
        f"label changes {len(board.labels)}: {' -> '.join(board.labels) or 'none'}",
        f"age of a state when sent: median {ages[len(ages) // 2] if ages else 0} ms; "
        f"frames/s: median {rates[len(rates) // 2] if rates else 0:.1f}",
    ]
