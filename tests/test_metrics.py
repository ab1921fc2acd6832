"""The Prometheus endpoint: scraped from a running daemon, held to the health message, on loopback only, opt-in."""

from __future__ import annotations

import builtins
import json
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest
from locate_portraits import astronaut
from mosquitto_broker import free_port

from edgefer import metrics
from edgefer.errors import EX_CONFIG, EX_OK, ConfigError, ServiceError
from edgefer.health import StageTimes, named_mode, power_mode

parser = pytest.importorskip("prometheus_client.parser", reason="prometheus-client is not installed: extra metrics")


def scrape(port: int) -> dict[tuple[str, ...], float]:
    """(sample, label value, bucket's bound) -> value, the last two where there are such; read by Prometheus' parser."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
        text = answer.read().decode()
    families = parser.text_string_to_metric_families(text)
    return {
        (s.name, *(s.labels[k] for k in sorted(s.labels, key="le".__eq__))): s.value
        for family in families
        for s in family.samples
    }


def configured(folder: Path, port: int) -> str:
    face, file = folder / "face.png", folder / "edgefer.toml"
    cv2.imwrite(str(face), astronaut())
    file.write_text(
        f'[capture]\nkind = "picture"\nsource = "{face}"\n[publish]\nkind = "stdout"\n'
        f"[health]\nperiod_s = 1.0\nprometheus_port = {port}\n"
    )
    return str(file)


Daemon = subprocess.Popen[str]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[tuple[Daemon, int]]:
    port = free_port()
    command = [sys.executable, "-m", "edgefer", "run", "--config", configured(tmp_path, port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    yield process, port
    process.kill()
    process.communicate()


def next_health(process: Daemon) -> dict[str, Any]:
    assert process.stdout is not None
    for line in process.stdout:
        said = json.loads(line)
        if said["topic"].endswith("/health"):
            payload: dict[str, Any] = said["payload"]
            return payload
    raise AssertionError("the daemon ended")


def listening(port: int) -> set[str]:
    """Local addresses, as the kernel writes them, of the sockets that listen on ``port``."""
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    if Path("/proc/net/tcp6").exists():
        rows += [row.split() for row in Path("/proc/net/tcp6").read_text().splitlines()[1:]]
    return {row[1].split(":")[0] for row in rows if row[3] == "0A" and int(row[1].split(":")[1], 16) == port}


def test_a_running_daemon_shows_what_its_health_messages_say(daemon: tuple[Daemon, int]) -> None:
    process, port = daemon
    before = next_health(process)
    seen = scrape(port)
    after = next_health(process)
    counted = {key[1]: value for key, value in seen.items() if key[0] == "edgefer_count_total"}
    assert set(counted) == set(after["counters"])
    for name, value in counted.items():  # taken between two health messages
        assert before["counters"][name] <= value <= after["counters"][name], name
    assert counted["visible_frames"] > 0
    assert set(before["stages"]) <= {key[1] for key in seen if key[0] == "edgefer_stage_seconds_count"}
    assert seen["edgefer_stage_seconds_count", "decide"] > 0
    assert abs(seen["edgefer_readings_total",] - seen["edgefer_stage_seconds_count", "decide"]) <= 1
    assert seen["edgefer_stage_seconds_bucket", "infer", "+Inf"] == seen["edgefer_stage_seconds_count", "infer"]
    assert seen["edgefer_memory_bytes",] == pytest.approx(after["memory_mb"] * 1e6, rel=0.3)
    assert seen["edgefer_spool_depth",] == after["spool_depth"]
    assert listening(port) == {"0100007F"}  # 127.0.0.1 and nothing else
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == EX_OK
    assert listening(port) == set()


def test_the_counters_are_the_message_s_number_for_number() -> None:
    times, counts, port = StageTimes(), {"published": 7, "visible_drops": 3, "unacknowledged": 2}, free_port()
    with metrics.served(port, times, lambda: counts):
        seen = scrape(port)
        assert {k[1]: v for k, v in seen.items() if k[0] == "edgefer_count_total"} == {
            "published": 7,
            "visible_drops": 3,
        }
        assert seen["edgefer_unacknowledged",] == 2  # a level, no counter
        counts["published"] = 8
        assert scrape(port)["edgefer_count_total", "published"] == 8


def test_stage_times_fall_into_their_buckets() -> None:
    times, port = StageTimes(depth=2), free_port()
    for ms in (0.4, 1.0, 3.0, 3.0, 9000.0):  # more than the ring holds
        times.add("infer", int(ms * 1e6))
    with metrics.served(port, times, dict):
        seen = scrape(port)
    bucket = {key[2]: value for key, value in seen.items() if key[:2] == ("edgefer_stage_seconds_bucket", "infer")}
    assert [bucket[le] for le in ("0.0005", "0.001", "0.002", "0.005", "5.0", "+Inf")] == [1, 2, 2, 4, 4, 5]
    assert seen["edgefer_stage_seconds_sum", "infer"] == pytest.approx(9.0074)
    times.reset()
    assert times.histograms()["infer"] == ([0] * 13, 0)


def test_off_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_Endpoint", None)  # would fail if touched
    with metrics.served(0, StageTimes(), dict):
        pass


def test_a_taken_port_is_one_line_naming_the_key(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=r"health\.prometheus_port"), metrics.served(port, StageTimes(), dict):
            pass
        command = [sys.executable, "-m", "edgefer", "run", "--config", configured(tmp_path, port)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == EX_CONFIG
    assert done.stderr.splitlines()[-1].startswith("edgefer: 'health.prometheus_port'")
    assert "Traceback" not in done.stderr


def test_without_the_library_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("prometheus_client"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ServiceError, match=r"pip install 'edgefer\[metrics\]'"), metrics.served(9, StageTimes(), dict):
        pass


CONF = """
# comment
< PARAM TYPE=FILE NAME=CPU_ONLINE >
< POWER_MODEL ID=0 NAME=MAXN >
CPU_ONLINE CORE_0 1
< POWER_MODEL ID=2 NAME=MODE_30W >
< PM_CONFIG DEFAULT=2 >
"""


@pytest.mark.parametrize(
    ("status", "mode"),
    [
        ("pmode:0000 fmode:fanNull\n", "MAXN"), ("pmode:0002\n", "MODE_30W"), ("pmode:0007\n", "mode-7"),
        ("", None), ("rubbish", None),
    ],
)  # fmt: skip
def test_the_power_mode_s_name_comes_from_nvpmodel_s_files(status: str, mode: str | None) -> None:
    assert named_mode(status, CONF) == mode


def test_no_power_mode_where_there_is_no_nvpmodel_or_it_may_not_be_read(tmp_path: Path) -> None:
    status, conf = tmp_path / "status", tmp_path / "nvpmodel.conf"
    assert power_mode((status, conf)) is None
    status.write_text("pmode:0000 fmode:quiet\n")
    assert power_mode((status, conf)) is None
    conf.write_text(CONF)
    assert power_mode((status, conf)) == "MAXN"
