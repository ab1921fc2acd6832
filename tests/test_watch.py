"""The reference subscriber: what is double, what is missing, when to ask; and the command itself over a broker."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mosquitto_broker import BOUND_S, Mosquitto, free_port
from wire_samples import one_of_each, stamper

from edgefer.cli import main
from edgefer.config import Publish, State
from edgefer.errors import EX_CONFIG, EX_UNAVAILABLE
from edgefer.messages import EventSystem, Meta, Status
from edgefer.publish.mqtt import MqttPublisher
from edgefer.watch import Watcher
from edgefer.watch.gaps import ANSWER_S, CHUNK, GRACE_S, STREAMS, TRIES, Ask, Gaps, Stream

A, B = "0123abcd", "4567ef01"


def hear(gaps: Gaps, *numbers: int, stream: str = A) -> list[bool]:
    return [gaps.take(stream, n) for n in numbers]


def asks(gaps: Gaps, now: float) -> list[Ask]:
    return list(gaps.due(now))


def test_an_event_is_new_once() -> None:
    gaps = Gaps()
    assert hear(gaps, 5, 6, 6, 5, 8, 8) == [True, True, False, False, True, False]
    assert (gaps.heard, gaps.duplicates) == (3, 3)


def test_a_hole_is_asked_for_after_a_moment_and_again_when_nothing_comes() -> None:
    gaps = Gaps()
    hear(gaps, 1, 2, 6, 9)
    assert asks(gaps, 0) == []
    assert asks(gaps, GRACE_S) == [Ask(A, 3, 5)]
    assert asks(gaps, GRACE_S + 1) == []
    assert asks(gaps, GRACE_S + ANSWER_S) == [Ask(A, 3, 5)]
    hear(gaps, 4, 3, 5)
    assert asks(gaps, GRACE_S + 2 * ANSWER_S) == [Ask(A, 7, 8)]
    hear(gaps, 7, 8)
    assert (gaps.missing, asks(gaps, 999)) == (0, [])


def test_overtaking_is_no_hole() -> None:
    gaps = Gaps()
    hear(gaps, 1, 3)
    assert asks(gaps, 0) == []
    hear(gaps, 2)
    assert asks(gaps, 99) == []


def test_where_we_came_in_is_no_hole_and_a_new_stream_begins_at_one() -> None:
    gaps = Gaps()
    hear(gaps, 500)
    hear(gaps, 3, stream=B)
    asks(gaps, 0)
    assert asks(gaps, GRACE_S) == [Ask(B, 1, 2)]
    everything = Gaps(from_start=True)
    hear(everything, 500)
    asks(everything, 0)
    assert asks(everything, GRACE_S) == [Ask(A, 1, 499)]


def test_the_end_of_a_stream_is_told_by_health() -> None:
    gaps = Gaps()
    gaps.tails({B: 7})  # history
    hear(gaps, 1)
    gaps.tails({B: 7, A: 3})
    asks(gaps, 0)
    assert asks(gaps, GRACE_S) == [Ask(A, 2, 3)]


def test_streams_of_before_are_history_also_when_an_event_comes_before_the_first_health() -> None:
    """A device that is switched on while somebody watches: not all its past is asked for."""
    gaps = Gaps()
    hear(gaps, 1, stream=B)
    gaps.tails({A: 900, B: 3})
    asks(gaps, 0)
    assert asks(gaps, GRACE_S) == [Ask(B, 2, 3)]


def test_streams_are_bounded_whoever_names_them() -> None:
    gaps = Gaps()
    for n in range(3 * STREAMS):
        gaps.tails({f"{n:08x}": 1})
    assert len(gaps._streams) == STREAMS


@pytest.mark.parametrize(
    ("topic", "payload"),
    [("event/driver", b'{"seq": 1}'), ("event/system", b'{"stream": "0123abcd", "seq": "x"}'), ("health", b"[1]x"),
     ("health", b'{"events": null}'), ("state/driver", b"\xff"),
     ("health", b'{"events": {"0123abcd": 9223372036854775808}}'), ("health", b'{"events": {"#": 7}}'),
     ("event/system", b'{"stream": "0123abcd", "seq": 9223372036854775808}'),
     ("event/system", b'{"stream": "0123abcd", "seq": 4, "lost_stream": "0123abcd", "first": 1, "last": 1e30}'),
     pytest.param("state/driver", b"[" * 200_000, id="deep")],
)  # fmt: skip
def test_what_is_no_message_is_said_and_passed_over(
    topic: str, payload: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[object] = []
    watcher = Watcher(Publish(), "car-1", told.append)
    watcher.hear(topic, payload)
    assert topic in caplog.text
    watcher.hear("event/system", b'{"stream": "0123abcd", "seq": 5}')
    assert len(told) == 1
    assert watcher.gaps.missing == 0


def test_a_broker_that_is_not_there_is_said_once(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edgefer", "watch", "--port", str(free_port()), "--json"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        bound = threading.Timer(BOUND_S, process.kill)
        bound.start()
        line = process.stderr.readline()
        bound.cancel()
        process.terminate()
        rest = process.stderr.read()
    assert "cannot be reached" in line
    assert "cannot be reached" not in rest


def test_credentials_are_the_units_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`edgefer watch --config` with the unit's own file: named are the key and what to do."""
    file = tmp_path / "edgefer.toml"
    file.write_text('[publish]\nca_file = "$CREDENTIALS_DIRECTORY/ca.crt"\n')
    assert main(["watch", "--config", str(file)]) == EX_CONFIG
    said = capsys.readouterr().err
    assert "'publish.ca_file'" in said
    assert "name a file instead" in said


def test_what_is_lost_is_not_asked_for() -> None:
    gaps = Gaps()
    hear(gaps, 1, 10)
    assert gaps.lost(A, 2, 8) == 7
    asks(gaps, 0)
    assert asks(gaps, GRACE_S) == [Ask(A, 9, 9)]
    assert gaps.answered(Ask(A, 9, 9), 0, 3.0) == 1
    assert (gaps.missing, gaps.given_up) == (0, 8)


def test_a_range_of_any_length_is_settled_at_once() -> None:
    """A device may say that as many are lost as a number can hold."""
    gaps, most = Gaps(from_start=True), 2**63 - 1
    hear(gaps, 5)
    assert gaps.lost(A, 3, most) == most - 3
    assert (gaps.missing, asks(gaps, 0), asks(gaps, GRACE_S)) == (2, [], [Ask(A, 1, 2)])
    assert hear(gaps, 2, 1, 1000) == [True, True, False]
    assert gaps.missing == 0


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 12), st.integers(0, 4)), max_size=25))
@example([(True, n, 0) for n in (2, 3, 4, 5, 1, 7)])  # neighbours become one range
def test_what_is_settled_is_what_a_set_of_numbers_would_hold(steps: list[tuple[bool, int, int]]) -> None:
    stream, settled, tail = Stream(), set[int](), 0
    for heard, first, more in steps:
        if heard:
            assert stream.settle(first) == (first not in settled)
            settled, tail = settled | {first}, max(tail, first)
        else:
            named = set(range(first, min(first + more, tail) + 1))
            assert stream.give_up(first, first + more) == len(named - settled)
            settled |= named
        left = sorted(set(range(1, tail + 1)) - settled)
        assert stream.missing == len(left)
        if left:
            first_hole = [n for k, n in enumerate(left) if n == left[0] + k]
            assert stream.hole() == (first_hole[0], first_hole[-1])


def test_a_device_that_never_answers_is_given_up() -> None:
    gaps, now, asked = Gaps(), 0.0, 0
    hear(gaps, 1, 3)
    while gaps.missing:
        asked += len(asks(gaps, now))
        now += ANSWER_S
    assert asked == TRIES


@settings(max_examples=60, deadline=None)
@given(st.permutations(range(1, 40)), st.lists(st.integers(1, 39), max_size=30), st.integers(5, 39))
def test_whatever_the_order_everything_is_heard_once(order: list[int], doubles: list[int], cut: int) -> None:
    gaps = Gaps(from_start=True)
    new = [n for n in order[:cut] + doubles if gaps.take(A, n)]
    gaps.tails({A: 39})
    now = 0.0
    while gaps.missing:
        for ask in asks(gaps, now):
            assert ask.last - ask.first < CHUNK
            new += [n for n in range(ask.first, ask.last + 1) if gaps.take(A, n)]
        now += GRACE_S
    assert sorted(new) == list(range(1, 40))


@pytest.mark.broker
def test_the_command_asks_for_what_it_missed(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """Events from before it came (--all), each once, as JSON lines."""
    clock = stamper()
    device = MqttPublisher(Publish(port=mosquitto.port), "car-1", clock, State(folder=str(tmp_path), spool_mb=1))
    device.open(next(m for m in one_of_each(stamper()) if isinstance(m, Meta)))
    for _ in range(5):
        device.publish(clock.message(EventSystem, kind="started"))
    ahead = subprocess.Popen(watch(mosquitto.port), stdout=subprocess.PIPE, text=True)  # takes the first five
    try:
        assert {e["seq"] for e in events(ahead, 5)} == {1, 2, 3, 4, 5}
        late = subprocess.Popen(watch(mosquitto.port, "--all"), stdout=subprocess.PIPE, text=True)
        try:
            lines = read_until(late, lambda said: said.get("topic") == "meta")
            device.publish(clock.message(EventSystem, kind="started"))
            lines += read_until(late, lambda said: said.get("topic") == "rsp/replay")
            got = {e["seq"]: e["replayed"] for e in events(late, 5)}
            assert got == dict.fromkeys(range(1, 6), True)
            assert {"watch": "asked", "stream": clock.stream, "first": 1, "last": 5} in lines
        finally:
            end(late)
    finally:
        end(ahead)
        device.close(clock.message(Status, state="stopped", session=1))


def watch(port: int, *more: str) -> list[str]:
    return [sys.executable, "-m", "edgefer", "watch", "car-1", "--port", str(port), "--json", *more]


def read_until(process: subprocess.Popen[str], last: object) -> list[dict]:
    timer = threading.Timer(BOUND_S, process.kill)
    timer.start()
    lines = []
    try:
        for line in process.stdout:  # type: ignore[union-attr]
            lines.append(json.loads(line))
            if last(lines[-1]):  # type: ignore[operator]
                return lines
    finally:
        timer.cancel()
    raise AssertionError(f"it ended, or said nothing more: {lines[-3:]}")


def events(process: subprocess.Popen[str], count: int) -> list[dict]:
    found: list[dict] = []

    def enough(line: dict) -> bool:
        if line.get("topic", "").startswith("event/"):
            found.append(line["payload"])
        return len(found) == count

    read_until(process, enough)
    return found


def end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    process.communicate(timeout=BOUND_S)
    assert process.returncode == 0


@pytest.mark.broker
def test_on_a_pipe_it_shows_a_line_and_a_refusing_broker_is_one_line(
    make_mosquitto: object, mosquitto: Mosquitto
) -> None:
    clock = stamper()
    device = MqttPublisher(Publish(port=mosquitto.port), "car-1", clock)
    device.open(next(m for m in one_of_each(clock) if isinstance(m, Meta)))
    shown = subprocess.Popen(watch(mosquitto.port)[:-1], stdout=subprocess.PIPE, text=True)
    try:
        stop = threading.Event()

        def feed() -> None:
            while not stop.wait(0.2):
                device.publish(one_of_each(clock)[0])

        feeder = threading.Thread(target=feed)
        feeder.start()
        timer = threading.Timer(BOUND_S, shown.kill)
        timer.start()
        assert any("happiness" in line for line in shown.stdout)  # type: ignore[union-attr]
        timer.cancel()
    finally:
        stop.set()
        feeder.join()
        end(shown)
        device.close(clock.message(Status, state="stopped", session=1))
    closed = make_mosquitto(users={"somebody": "else"})  # type: ignore[operator]
    refused = subprocess.run(watch(closed.port), capture_output=True, text=True, timeout=30, check=False)
    assert refused.returncode == EX_UNAVAILABLE
    assert refused.stderr.count("\n") == 1
    assert "refuses" in refused.stderr
