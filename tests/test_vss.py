"""The VSS overlay: strict vss-tools takes it, it says what the mapping says, and it never speaks of fatigue."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from wire_samples import LABELS, one_of_each, reading, stamper

from edgefer import vss
from edgefer.messages import EventDriver, Message
from edgefer.stamp import state_message
from edgefer.types import Why

ROOT = Path(__file__).parents[1]
OVERLAY = ROOT / "deploy" / "vss" / "edgefer_overlay.vspec"
BASE = Path(__file__).parent / "vss"
NEVER = ("FatigueLevel", "AttentiveProbability", "DistractionLevel")
needs_vss_tools = pytest.mark.skipif(
    importlib.util.find_spec("vss_tools") is None, reason="vss-tools is not installed: extra dev"
)


def export(overlay: Path, to: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from vss_tools.cli import cli; cli()", "export", "json", "--strict"]
    inputs = ["-s", BASE / "base.vspec", "-l", overlay, "-u", BASE / "units.yaml", "-q", BASE / "quantities.yaml"]
    done = [*command, *map(str, inputs), "-o", str(to)]
    return subprocess.run(done, capture_output=True, text=True, timeout=120, check=False)


@needs_vss_tools
def test_strict_vss_tools_takes_the_overlay_and_finds_the_mapping_s_signals(tmp_path: Path) -> None:
    done = export(OVERLAY, tmp_path / "tree.json")
    assert done.returncode == 0, done.stdout + done.stderr
    tree = json.loads((tmp_path / "tree.json").read_text())
    emotion: dict[str, Any] = tree["Vehicle"]["children"]["Driver"]["children"]["Emotion"]["children"]
    assert set(emotion) == set(vss.SIGNALS)
    assert tuple(emotion["Category"]["allowed"]) == vss.CATEGORIES
    assert emotion["IsEnabled"]["type"] == "actuator"


@needs_vss_tools
def test_strict_vss_tools_refuses_a_spoilt_overlay(tmp_path: Path) -> None:
    spoilt = tmp_path / "overlay.vspec"
    spoilt.write_text(OVERLAY.read_text().replace("Emotion.IsValid", "Emotion.is_valid"))
    assert export(spoilt, tmp_path / "tree.json").returncode != 0


def test_what_no_network_is_validated_for_is_never_written() -> None:
    assert not [name for name in NEVER if name in OVERLAY.read_text() + Path(vss.__file__).read_text()]
    said = {path for message in samples() for path in vss.signals(message, LABELS)}
    assert said == {f"{vss.BRANCH}.{name}" for name in vss.SIGNALS}


def samples() -> list[Message]:
    return one_of_each(stamper())


def test_a_valid_state_in_percent_and_in_the_order_of_labels() -> None:
    probs = {"happiness": 0.9, "neutral": 0.1}
    state = state_message(stamper(), reading(probs=probs), "default@1.0")
    assert vss.signals(state, ("neutral", "happiness", "fear")) == {
        "Vehicle.Driver.Emotion.Category": "HAPPINESS",
        "Vehicle.Driver.Emotion.Confidence": 91.23,
        "Vehicle.Driver.Emotion.Probabilities": [10.0, 90.0, 0.0],
        "Vehicle.Driver.Emotion.IsValid": True,
        "Vehicle.Driver.Emotion.IsEnabled": True,
    }


@pytest.mark.parametrize("why", list(Why))
def test_no_reading_is_unknown_without_confidence(why: Why) -> None:
    said = vss.signals(state_message(stamper(), reading(why, probs={}), "default@1.0"), LABELS)
    assert said["Vehicle.Driver.Emotion.Category"] == "UNKNOWN"
    assert said["Vehicle.Driver.Emotion.Confidence"] == 0.0
    assert said["Vehicle.Driver.Emotion.Probabilities"] == []
    assert said["Vehicle.Driver.Emotion.IsValid"] is False
    assert said["Vehicle.Driver.Emotion.IsEnabled"] is (why is not Why.PRIVACY)


def test_a_label_vss_has_no_word_for_is_not_passed_off_as_another() -> None:
    state = samples()[0].model_copy(update={"label": "boredom"})
    said = vss.signals(state, LABELS)
    assert said["Vehicle.Driver.Emotion.Category"] == "UNKNOWN"
    assert said["Vehicle.Driver.Emotion.IsValid"] is False


@pytest.mark.parametrize(("after", "enabled"), [("on", False), ("off", True)])
def test_the_privacy_switch_is_the_enabled_signal(after: str, enabled: bool) -> None:
    before = "off" if after == "on" else "on"
    event = stamper().message(EventDriver, kind="privacy", before=before, after=after)
    assert vss.signals(event, LABELS) == {"Vehicle.Driver.Emotion.IsEnabled": enabled}


def test_the_readme_s_mapping_names_every_signal() -> None:
    section = (ROOT / "README.md").read_text().split("### Vehicle signals")[1].split("\n#")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.M)) == set(vss.SIGNALS)
