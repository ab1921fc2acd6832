"""Standard output as the far end: one JSON line each, and a reader that leaves."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import pytest
from wire_samples import one_of_each, stamper

from edgefer.config import Publish
from edgefer.errors import ServiceError
from edgefer.messages import Meta, Status
from edgefer.publish.stdout import StdoutPublisher

READER_LEAVES = """
import os, sys
sys.path[:0] = sys.argv[1:]
from wire_samples import one_of_each, stamper
from edgefer.config import Publish
from edgefer.errors import ServiceError
from edgefer.publish import open_publisher
clock = stamper()
sender = open_publisher(Publish(kind="stdout"), "car-1", clock)
sender.open(one_of_each(clock)[4])
sys.stdin.readline()
sender.publish(one_of_each(clock)[0])
try:
    sender.check()
except ServiceError as e:
    print(e, file=sys.stderr)
sender.publish(one_of_each(clock)[0])
sender.close(one_of_each(clock)[3])
print(sender.counters()["dropped_offline"], file=sys.stderr)
"""


def test_one_line_each_from_online_to_stopped() -> None:
    clock, out = stamper(), io.StringIO()
    samples = one_of_each(clock)
    sender = StdoutPublisher(Publish(kind="stdout"), "car-1", clock, out)
    sender.publish(samples[0])  # not open yet: dropped and counted
    sender.open(next(m for m in samples if isinstance(m, Meta)))
    sender.publish(samples[0])
    sender.check()
    assert sender.connected
    sender.close(clock.message(Status, state="stopped", session=1))
    said = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["topic"].removeprefix("edgefer/v1/car-1/") for line in said] == [
        "status",
        "meta",
        "state/driver",
        "status",
    ]
    assert said[0]["payload"]["state"] == "online"
    assert said[-1]["payload"]["state"] == "stopped"
    assert sender.counters() == {"published": 4, "dropped_offline": 1}
    assert not sender.connected


def test_a_reader_that_left_is_one_line_and_no_traceback() -> None:
    command = [sys.executable, "-c", READER_LEAVES, *sys.path]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as child:  # type: ignore[call-overload]
        assert '"online"' in child.stdout.readline()
        assert '/meta"' in child.stdout.readline()
        child.stdout.close()
        child.stdin.write("go\n")
        child.stdin.flush()
        complaints = child.stderr.read().splitlines()
        assert child.wait(30) == 0
    assert complaints == ["the reader of standard output is gone", "2"]


def test_a_closed_stream_is_a_service_error_from_check() -> None:
    out = io.StringIO()
    sender = StdoutPublisher(Publish(kind="stdout"), "car-1", stamper(), out)
    sender.open(next(m for m in one_of_each(stamper()) if isinstance(m, Meta)))
    out.close()
    sender.publish(one_of_each(stamper())[0])
    with pytest.raises(ServiceError, match="cannot be written"):
        sender.check()
