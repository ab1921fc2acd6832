"""The soak's tool: its verdict on made-up runs, and a short real one."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from mosquitto_broker import MakeMosquitto

TOOLS = Path(__file__).parent / "tools"


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("skimage", reason="the drive needs the demo extra")
    monkeypatch.syspath_prepend(str(TOOLS))
    import soak

    return soak


def samples(tool: Any, n: int = 100, **change: Any) -> list[Any]:
    """A flat run of 10 simulated hours; ``change``: field -> value at sample ``k``."""
    flat = {"memory_mb": lambda k: 150.0, "threads": lambda k: 9, "descriptors": lambda k: 20, "p99_ms": lambda k: 8.0}
    fields = {**flat, **change}
    return [tool.Sample(k * 1.0, k * 10 / n, **{name: value(k) for name, value in fields.items()}) for k in range(n)]


@pytest.mark.parametrize(
    ("change", "failed"),
    [
        ({}, set()),
        ({"memory_mb": lambda k: 150 + k * 0.12}, {"memory"}),  # 1.2 MB an hour
        ({"memory_mb": lambda k: 150 + k * 0.08}, set()),
        ({"memory_mb": lambda k: 150 + min(k, 15) * 5.0}, set()),  # warming up
        ({"threads": lambda k: 9 + (k > 90)}, {"threads"}),
        ({"threads": lambda k: 9 - (k == 60)}, set()),  # the drive begins again
        ({"descriptors": lambda k: 20 + k // 50}, {"descriptors"}),
        ({"p99_ms": lambda k: 8.0 * (1 + k / 500)}, {"p99"}),
        ({"p99_ms": lambda k: 8.0 + (k == 50) * 100}, set()),  # one slow spell is no drift
    ],
)
def test_the_verdict_names_what_failed(tool: Any, change: dict[str, Any], failed: set[str]) -> None:
    passed = tool.judge(samples(tool, **change))["passed"]
    assert {name for name, good in passed.items() if not good} == failed


def test_memory_of_a_run_below_an_hour_may_rise_by_a_megabyte(tool: Any) -> None:
    def minutes(megabytes: float) -> bool:
        taken = [tool.Sample(k, k / 1200, 150 + megabytes * k / 100, 9, 20, 8.0) for k in range(100)]  # 5 minutes
        return bool(tool.judge(taken)["passed"]["memory"])

    assert minutes(0.5)
    assert not minutes(2.0)


def test_too_short_a_run_is_not_judged(tool: Any) -> None:
    with pytest.raises(ValueError, match="too short"):
        tool.judge(samples(tool, n=6))


@pytest.mark.broker
@pytest.mark.skipif(importlib.util.find_spec("cv2") is None, reason="needs the cpu extra")
def test_three_minutes_of_the_drive(tool: Any, make_mosquitto: MakeMosquitto) -> None:
    """In accelerated time, with every third frame: a quarter of a minute on two free cores."""
    make_mosquitto(started=False)  # skips without one; the tool starts its own
    report = tool.soak(150.0, drive_s=6.0, samples=600, simulated_s=180.0, every=3)
    assert report["exit_code"] == 0
    assert report["verdict"]["passed"]["descriptors"], report["verdict"]
    assert report["verdict"]["passed"]["threads"], report["verdict"]
    assert report["verdict"]["memory_mb"][1] - report["verdict"]["memory_mb"][0] < 5, "p99 is the long run's"
    assert report["simulated_hours"] * 60 > 2.9
    assert 4 < report["states_per_simulated_s"] < 7  # publish.rate_hz = 5 holds in the recording's time
    assert report["arrived"]["state/driver"] > 700
    assert report["arrived"]["health"] >= 3
    assert json.dumps(report)
