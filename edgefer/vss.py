"""Messages as signals of the COVESA Vehicle Signal Specification (overlay: deploy/vss/edgefer_overlay.vspec).

A pure mapping for whoever writes into a vehicle's signal server. Never a word about fatigue, attention or distraction:
no network here is validated for them.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgefer.messages import EventDriver, Message, Meta, StateDriver
from edgefer.types import Why

BRANCH = "Vehicle.Driver.Emotion"
UNKNOWN = "UNKNOWN"
CATEGORIES = (UNKNOWN, "NEUTRAL", "HAPPINESS", "SURPRISE", "SADNESS", "ANGER", "DISGUST", "FEAR", "CONTEMPT")
"""what Category may say; a network's other labels are valid readings that VSS has no word for"""
SIGNALS = ("Category", "Confidence", "Probabilities", "Labels", "IsValid", "IsEnabled")

Value = bool | float | str | list[float] | list[str]


def signals(message: Message, labels: Sequence[str]) -> dict[str, Value]:
    """VSS path -> value of what ``message`` says; empty for messages VSS has no signal for.

    ``labels``: those of the device's Meta message, in order; needed for Probabilities. Percent, not shares.
    """
    said: dict[str, Value] = {}
    if isinstance(message, StateDriver):
        said = _state(message, labels)
    elif isinstance(message, Meta):
        said = {"Labels": [label.upper() for label in message.labels]}
    elif isinstance(message, EventDriver) and message.kind == "privacy":
        said = {"IsEnabled": message.after == "off"}
    return {f"{BRANCH}.{name}": value for name, value in said.items()}


def _state(state: StateDriver, labels: Sequence[str]) -> dict[str, Value]:
    category = state.label.upper()
    known = state.valid and category in CATEGORIES
    return {
        "Category": category if known else UNKNOWN,
        "Confidence": _percent(state.conf) if known else 0.0,
        "Probabilities": [_percent(state.probs.get(label, 0.0)) for label in labels] if state.probs else [],
        "IsValid": known,
        "IsEnabled": state.why is not Why.PRIVACY,
    }


def _percent(share: float) -> float:
    return round(share * 100, 2)
