"""Stage times, memory, temperatures, watchdog."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgefer.health import StageTimes, Watchdog, memory_mb, temperatures


def test_percentiles_are_of_the_last_durations_held() -> None:
    times = StageTimes(depth=100)
    for ms in [500] * 50 + list(range(1, 101)):
        times.add("infer", ms * 1_000_000)
    summary = times.summary()
    assert set(summary) == {"infer"}
    assert summary["infer"].p50_ms == pytest.approx(50.5)
    assert summary["infer"].p99_ms == pytest.approx(99.01)
    assert times.counts()["infer"] == 150


def test_a_slow_spell_shows_at_once_in_what_ran_since() -> None:
    times = StageTimes(depth=100)
    for _ in range(90):
        times.add("infer", 1_000_000)
    before = times.counts()
    for _ in range(30):
        times.add("infer", 10_000_000)
    assert times.summary(before)["infer"].p50_ms == pytest.approx(10)
    assert "infer" not in times.summary(times.counts())


def test_the_watchdog_is_fed_by_work_at_most_once_a_second() -> None:
    said: list[str] = []
    now = [0.0]
    watchdog = Watchdog(said.append, lambda: now[0])
    for k in range(50):
        now[0] = 100 + k * 0.1
        watchdog.work_finished()
    assert said == ["WATCHDOG=1"] * 5


def test_memory_is_of_this_process_and_zero_when_unknown(tmp_path: Path) -> None:
    assert 5 < memory_mb() < 5000
    assert memory_mb(tmp_path / "none") == 0


def test_temperatures_skip_what_cannot_be_read(tmp_path: Path) -> None:
    for name, value in (("0", "45500"), ("1", "")):
        zone = tmp_path / f"thermal_zone{name}"
        zone.mkdir()
        (zone / "type").write_text("cpu@0 (big)\n")
        (zone / "temp").write_text(value)
    assert temperatures(tmp_path) == {"cpu_0__big_.0": 45.5}
