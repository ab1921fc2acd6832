"""Home Assistant's device discovery: one retained document that turns our topics into entities. Opt-in.

https://www.home-assistant.io/integrations/mqtt: "Device discovery payload". Home Assistant only reads; the privacy
switch is not offered there, since who may command a device is the fleet's to say.
"""

from __future__ import annotations

import json
import math
from typing import Any

from edgefer.messages import ROOT, Health, Meta, StateDriver, Status
from edgefer.types import UNKNOWN

STALE_S = 10.0
"""a value older than this, or than three of its periods, is shown as unavailable"""


def topic(dev: str) -> str:
    """Prefix/device/node/object/config; the id alone in its level, as broker ACL patterns want it."""
    return f"homeassistant/device/edgefer/{dev}/config"


def document(meta: Meta) -> bytes:
    """The discovery document of the device that ``meta`` speaks of, JSON."""
    root = f"{ROOT}/{meta.dev}"
    said = {
        "device": {
            "identifiers": [f"edgefer-{meta.dev}"], "name": f"EdgeFER {meta.dev}", "sw_version": meta.software,
            "model": f"{meta.bundle.name}@{meta.bundle.version}",
        },
        "origin": {"name": "edgefer", "sw_version": meta.software},
        "availability": [{
            "topic": f"{root}/{Status.TOPIC}",
            "value_template": "{{ 'online' if value_json.state == 'online' else 'offline' }}",
        }],
        "qos": 1,
        "components": {key: {"unique_id": f"edgefer-{meta.dev}-{key}", **c} for key, c in _components(meta, root)},
    }  # fmt: skip
    return json.dumps(said, separators=(",", ":")).encode()


def _components(meta: Meta, root: str) -> list[tuple[str, dict[str, Any]]]:
    state_s = 3 / meta.limits.get("state_rate_hz", 5.0)
    state = {"state_topic": f"{root}/{StateDriver.TOPIC}", "expire_after": math.ceil(max(STALE_S, state_s))}
    health = {"state_topic": f"{root}/{Health.TOPIC}", "entity_category": "diagnostic"}
    lens = {"platform": "sensor", "entity_category": "diagnostic", **state}
    labels = [*meta.labels, UNKNOWN]
    return [
        ("expression", {"platform": "sensor", "name": "Expression", "device_class": "enum", "options": labels,
                        "value_template": "{{ value_json.label }}", **state}),
        ("confidence", {"platform": "sensor", "name": "Confidence", "unit_of_measurement": "%",
                        "state_class": "measurement", **state,
                        "value_template": "{{ (value_json.conf * 100) | round(1) if value_json.valid else None }}"}),
        ("valid", {"platform": "binary_sensor", "name": "Reading valid", **state,
                   "value_template": "{{ 'ON' if value_json.valid else 'OFF' }}"}),
        ("why", {"name": "Reason", "value_template": "{{ value_json.why | default(None) }}", **lens}),
        ("visible", {"name": "Visible lens", "value_template": "{{ value_json.quality.lenses[0] }}", **lens}),
        ("infrared", {"name": "Infrared lens", "value_template": "{{ value_json.quality.lenses[1] }}", **lens}),
        ("readings", {"platform": "sensor", "name": "Readings per second", "state_class": "measurement",
                      "value_template": "{{ value_json.rates.readings | round(1) }}", **health}),
        ("memory", {"platform": "sensor", "name": "Memory", "unit_of_measurement": "MB", "state_class": "measurement",
                    "device_class": "data_size", "value_template": "{{ value_json.memory_mb | round(1) }}", **health}),
    ]  # fmt: skip
