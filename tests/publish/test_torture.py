"""Faults against the real publisher and a real mosquitto, counted from outside.

`make test` runs them short; `make torture` runs the full counts and prints the figures.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest
from locate_portraits import astronaut
from mosquitto_broker import MakeMosquitto, Mosquitto

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
from stalling_proxy import StallingProxy
from torture import BOUND_S, EPOCH, TOOLS, Ear, Heard, Key, Source, Watch, on_disk, wall_clock

pytestmark = pytest.mark.broker
FULL = os.environ.get("EDGEFER_TORTURE") == "full"
KILLS, DAEMON_KILLS, BROKER_KILLS = (100, 100, 10) if FULL else (5, 2, 2)
HALF_OPEN_S, STALL_S, OFFLINE = (60.0, 20.0, 3_600) if FULL else (4.0, 1.0, 1_000)
RESUME_S = 5.0 if FULL else BOUND_S
"""after a fault shorter than the keep-alive, the keep-alive decides"""
pause = threading.Event().wait
"""the fault itself lasts this long; what follows is waited for"""


@pytest.fixture
def figures(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Prints a line of figures in the full run."""

    def show(line: str) -> None:
        if FULL:
            with capsys.disabled():
                print(f"\n  {line}", flush=True)

    return show


@pytest.fixture
def ending() -> Iterator[Callable[[Any], Any]]:
    """``ending(thing)``: thing.end() after the test."""
    things: list[Any] = []

    def keep(thing: Any) -> Any:
        things.append(thing)
        return thing

    yield keep
    for thing in reversed(things):
        if isinstance(thing, Source):
            thing.process.kill()
            thing.process.communicate()
        else:
            thing.end()


def has_all(heard: Heard, keys: set[Key]) -> Callable[[], bool]:
    return lambda: keys <= set(heard.events)


def holes(heard: Heard) -> int:
    """Numbers of the one stream that are missing below the highest."""
    numbers = heard.of(next(iter(heard.streams())))
    return max(numbers) - len(numbers)


def test_killing_the_publisher_loses_nothing_committed(
    mosquitto: Mosquitto, tmp_path: Path, ending: Any, figures: Any
) -> None:
    ear = ending(Ear(mosquitto.port))
    committed: set[Key] = set()
    doubles, slowest, before = [0], 0.0, 0
    for life in range(KILLS):
        source = ending(Source(mosquitto.port, tmp_path, "--every", "0.01"))
        known = ear.streams()
        ear.wait(lambda known=known: ear.streams() - known, says="a life's first event")  # type: ignore[misc]
        slowest = max(slowest, time.monotonic() - source.started)
        pause(0.05 + life % 7 * 0.04)
        source.kill()
        committed |= set(on_disk(tmp_path))
        now = sum(n - 1 for n in ear.events.values())
        doubles.append(now - before)
        before = now
    ending(Source(mosquitto.port, tmp_path, "--count", "0"))
    ear.wait(has_all(ear, committed), says="every committed event")
    figures(f"{KILLS} SIGKILLs: {len(committed)} committed, 0 lost, doubles a kill at most {max(doubles)}, "
            f"start to first event at most {slowest:.1f} s")  # fmt: skip
    assert len(committed) > KILLS * 10
    assert max(doubles) <= 20
    assert slowest <= 20


def test_killing_the_broker_loses_nothing(mosquitto: Mosquitto, tmp_path: Path, ending: Any, figures: Any) -> None:
    watch = ending(Watch(mosquitto.port))
    source = ending(Source(mosquitto.port, tmp_path, "--every", "0.005"))
    watch.wait(lambda: len(watch.events) > 20)
    slowest = 0.0
    for _ in range(BROKER_KILLS):
        mosquitto.stop()
        pause(0.5)
        mosquitto.start()
        back, states = time.monotonic(), len(watch.states)
        watch.wait(lambda n=states: len(watch.states) > n, says="states again")  # type: ignore[misc]
        slowest = max(slowest, time.monotonic() - back)
        watch.wait(lambda t=back: watch.last_new > t + 0.5, says="events again")  # type: ignore[misc]
    made = stop_making(source, watch, tmp_path)
    figures(f"{BROKER_KILLS} broker SIGKILLs: {made['made']} events, 0 missing ({len(watch.done)} replays asked), "
            f"{made['unmatched']} times nobody, states again after at most {slowest:.1f} s")  # fmt: skip
    assert slowest <= RESUME_S
    assert not [line for line in watch.done if line["watch"] == "given_up"]


def stop_making(source: Source, heard: Heard, folder: Path) -> dict[str, int]:
    """End the source once there is no hole in what was heard. What is not heard then is waiting in the spool's file.

    The source's own counters must agree with that.
    """
    heard.wait(lambda: holes(heard) == 0, says="the holes filled")
    counted = source.end()
    waiting = {key for key, delivered in on_disk(folder).items() if not delivered}
    stream = next(iter(heard.streams()))
    made = {(stream, seq) for seq in range(1, counted["made"] + 1)}
    heard.wait(lambda: made <= set(heard.events) | waiting, says="everything heard, or waiting")
    assert counted["spool_depth"] == len(waiting)
    assert counted["events_committed"] == counted["made"]
    assert counted["events_lost"] == 0
    return counted


@pytest.mark.parametrize("fault", ["stall", "swallow"])
def test_a_link_that_hangs(fault: str, mosquitto: Mosquitto, tmp_path: Path, ending: Any, figures: Any) -> None:
    """stall: nothing moves, then everything; swallow: half-open, what is sent vanishes, new connections too."""
    ear = ending(Ear(mosquitto.port))
    with StallingProxy(mosquitto.host, mosquitto.port) as proxy:
        source = ending(Source(proxy.port, tmp_path, "--every", "0.01"))
        ear.wait(lambda: len(ear.events) > 20)
        memory = source.memory_mb()
        proxy.mode = fault
        pause(STALL_S if fault == "stall" else HALF_OPEN_S)
        quiet = time.monotonic()
        heard_before = len(ear.events)
        proxy.mode = "pass"
        ear.wait(lambda: ear.states and ear.states[-1] > quiet, says="states again")
        resumed = ear.states[-1] - quiet
        ear.wait(lambda: len(ear.events) > heard_before + 20)
        grown = source.memory_mb() - memory
        made = stop_making(source, ear, tmp_path)
    figures(f"{fault}: {made['made']} events, 0 missing, states again after {resumed:.1f} s, memory {grown:+.1f} MB")
    assert resumed <= RESUME_S
    assert grown < 10


def test_a_broker_that_is_away_for_long(
    make_mosquitto: MakeMosquitto, tmp_path: Path, ending: Any, figures: Any
) -> None:
    broker = make_mosquitto(started=False)
    source = ending(Source(broker.port, tmp_path, "--every", "0.0005", "--count", str(OFFLINE), "--spool-mb", "64"))
    until_on_disk(source, OFFLINE)
    memory, threads, descriptors = source.memory_mb(), source.threads(), source.descriptors()
    broker.start()
    ear = ending(Ear(broker.port))
    drained = ear.wait(lambda: len(ear.events) >= OFFLINE, 60, "the whole backlog")
    grown = source.memory_mb() - memory
    figures(f"broker away, {OFFLINE} events: drained in {drained:.1f} s, memory {grown:+.1f} MB, doubles "
            f"{sum(ear.events.values()) - OFFLINE}")  # fmt: skip
    stream = next(iter(ear.streams()))
    assert ear.of(stream) == set(range(1, OFFLINE + 1))
    assert [seq for _, seq in ear.said] == sorted(ear.of(stream)), "first deliveries in order"
    assert grown < 10
    assert (source.threads(), source.descriptors()) <= (threads, descriptors + 1), "one socket more"
    assert source.end()["spool_depth"] == 0


def until_on_disk(source: Source, count: int) -> None:
    """The source has made its events: no more page writes. Seen in /proc, since the file is locked."""
    size, same = -1, 0
    end = time.monotonic() + BOUND_S + count / 500
    while same < 10:
        assert time.monotonic() < end
        now = int(Path(f"/proc/{source.process.pid}/io").read_text().split("write_bytes:")[1].split()[0])
        same = same + 1 if now == size else 0
        size = now
        pause(0.1)


def test_a_full_disk(make_mosquitto: MakeMosquitto, tmp_path: Path, ending: Any, figures: Any) -> None:
    """A tmpfs of 3 MiB that others fill: states go on, the oldest events are dropped, and the drop is counted."""
    broker = make_mosquitto(started=False)
    opened = f"sqlite3.connect('{tmp_path}/spool.db')"
    check = f"import sqlite3; print(*{opened}.execute('PRAGMA integrity_check').fetchone())"
    script = (
        f"set -e; mount -t tmpfs -o size=3m none {tmp_path}\n"
        f"{sys.executable} {TOOLS}/event_source.py {broker.port} {tmp_path} --every 0.001 --count 6000 --spool-mb 1 &\n"
        f'echo $!; wait $!; {sys.executable} -c "{check}"'
    )
    shell = subprocess.Popen(["unshare", "-rm", "sh", "-c", script], stdout=subprocess.PIPE, text=True)
    assert shell.stdout is not None
    bound = threading.Timer(2 * BOUND_S, shell.kill)  # a line that does not come ends the test
    bound.start()
    pid = int(shell.stdout.readline())
    assert shell.stdout.readline() == "ready\n"
    inside = Path(f"/proc/{pid}/root{tmp_path}")
    try:
        log = inside / "spool.db-wal"
        until(lambda: log.exists() and log.stat().st_size > 250_000)  # written over its whole length: open
        fill(inside / "junk")
        assert shutil.disk_usage(inside).free < 4096
        size = sum(f.stat().st_size for f in inside.glob("spool.db*"))
        assert shell.stdout.readline() == "made\n"
        assert sum(f.stat().st_size for f in inside.glob("spool.db*")) == size, "the spool keeps to its own room"
        broker.start()
        ear = ending(Ear(broker.port))
        ear.wait(ear.streams, says="any event")
        stream = next(iter(ear.streams()))
        every = set(range(1, 6001))
        ear.wait(
            lambda: len(ear.events) + len(ear.lost) >= 6000 and accounted(ear, stream) >= every,
            says="every event heard or reported lost",
        )
        ear.wait(lambda: len(ear.states) > 5, says="states go on")
    finally:
        bound.cancel()
        subprocess.run(["kill", str(pid)], check=True)
        out, _ = shell.communicate(timeout=BOUND_S)
    lost = {seq for s, seq in ear.lost if s == stream}
    figures(f"full disk: 6000 events, {len(lost)} dropped and reported, {len(ear.events)} heard, integrity ok")
    assert out.splitlines()[-1] == "ok"
    assert max(lost) < max(ear.of(stream)), "the oldest go"
    assert f'"events_lost": {len(lost)}' in out, "its own count is ours"


def until(what: Callable[[], object]) -> None:
    """For what has no event to wait on: another process's files."""
    end = time.monotonic() + BOUND_S
    while not what():
        assert time.monotonic() < end
        pause(0.02)


def accounted(heard: Heard, stream: str) -> set[int]:
    return heard.of(stream) | {seq for s, seq in heard.lost if s == stream}


def fill(file: Path) -> None:
    with file.open("wb", buffering=0) as junk:
        try:
            while True:
                junk.write(b"x" * 4096)
        except OSError:
            pass


def test_steps_of_the_clock(mosquitto: Mosquitto, tmp_path: Path, ending: Any, figures: Any) -> None:
    """1970, then now, then 30 days back and forth: one event each, and nobody's numbers go back."""
    clock = tmp_path / "clock"
    clock.write_text(EPOCH)
    env = wall_clock(clock)
    ear = ending(Ear(mosquitto.port))
    source = ending(Source(mosquitto.port, tmp_path / "state", "--every", "0.02", env=env))
    ear.wait(lambda: len(ear.events) > 10)
    for number, offset in enumerate(("+0", "-30d", "+30d"), 1):
        clock.write_text(offset)
        ear.wait(lambda n=number: len(steps(ear)) == n, says=f"a step to {offset}")  # type: ignore[misc]
        heard = len(ear.events)
        ear.wait(lambda n=heard: len(ear.events) > n + 5)  # type: ignore[misc]
    source.end()
    said = [ear.said[key] for key in sorted(ear.said)]
    assert [e["seq"] for e in said] == list(range(1, len(said) + 1))
    assert [e["mono_ns"] for e in said] == sorted(e["mono_ns"] for e in said)
    assert [round(float(s.split()[0]) / 86400) for s in steps(ear)][1:] == [-30, 60], "one event each"
    figures(f"clock 1970 -> now -> -30 d -> +30 d: {len(said)} events in order, 3 steps told: {steps(ear)}")


def steps(ear: Ear) -> list[str]:
    return [ear.said[key]["detail"] for key in sorted(ear.said) if ear.said[key]["kind"] == "clock_step"]


def test_killing_the_daemon_itself(mosquitto: Mosquitto, tmp_path: Path, ending: Any, figures: Any) -> None:
    """The whole service: cameras, network and all. Every life's first event comes through."""
    ear = ending(Ear(mosquitto.port))
    face, file, folder = tmp_path / "face.png", tmp_path / "edgefer.toml", tmp_path / "state"
    cv2.imwrite(str(face), astronaut())
    file.write_text(f"""device = "car-1"
[capture]
kind = "picture"
source = "{face}"
[publish]
port = {mosquitto.port}
[state]
folder = "{folder}"
spool_mb = 1
""")
    command = [sys.executable, "-m", "edgefer", "run", "--config", str(file)]
    committed: set[Key] = set()
    slowest = 0.0
    for _ in range(DAEMON_KILLS):
        known = ear.streams()
        with subprocess.Popen(command, stderr=subprocess.PIPE) as daemon:
            try:
                slowest = max(slowest, ear.wait(lambda known=known: ear.streams() - known))  # type: ignore[misc]
            finally:
                daemon.kill()
        committed |= set(on_disk(folder))
    assert len({stream for stream, _ in committed}) == DAEMON_KILLS
    assert committed <= set(ear.events)
    assert slowest <= 20
    said = f"{DAEMON_KILLS} daemon SIGKILLs: {len(committed)} committed, 0 lost"
    figures(f"{said}, start to first event at most {slowest:.1f} s")
