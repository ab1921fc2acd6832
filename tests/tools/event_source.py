"""A device without cameras: the real publisher and spool, fed with numbered events. Killed and counted by the tests.

    event_source.py PORT FOLDER [--every S] [--count N] [--spool-mb N] [--host HOST] [--tls CA CERT KEY]

One event every S seconds, a state every 0.1 s, health every second; after N events it only keeps the connection.
SIGTERM ends it cleanly; it prints its counters then. A line "ready" says that events flow, "made" that N are stored.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import threading
import time

from edgefer import messages
from edgefer.config import Publish, State
from edgefer.messages import EventDriver, EventSystem, Health, Meta, StateDriver, Status
from edgefer.publish.mqtt import MqttPublisher
from edgefer.report import ClockWatch
from edgefer.stamp import Stamper, boot_id, new_stream
from edgefer.types import LensState


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("folder")
    parser.add_argument("--every", type=float, default=0.01)
    parser.add_argument("--count", type=int, default=10**9)
    parser.add_argument("--spool-mb", type=int, default=4)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--keepalive", type=int, default=5)
    parser.add_argument("--tls", nargs=3, default=("", "", ""), metavar=("CA", "CERT", "KEY"))
    return parser.parse_args()


class Source:
    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.stamper = Stamper("car-1", new_stream(), boot_id())
        tls = dict(zip(("ca_file", "cert_file", "key_file"), args.tls, strict=True))
        config = Publish(host=args.host, port=args.port, keepalive_s=args.keepalive, **tls)
        self.publisher = MqttPublisher(config, "car-1", self.stamper, State(folder=args.folder, spool_mb=args.spool_mb))
        self.clock = ClockWatch()
        self.made = 0

    def meta(self) -> Meta:
        bundle = messages.BundleInfo(name="none", version="1", sha256="0" * 64)
        return self.stamper.message(
            Meta, software="event source", bundle=bundle, labels=("a", "b"), schemas=(), cameras=(), limits={}
        )

    def run(self, stopped: list[int]) -> None:
        self.publisher.open(self.meta())
        print("ready", flush=True)
        told = False
        state = health = due = time.monotonic()
        while not stopped:
            now = time.monotonic()
            while self.made < self.args.count and due <= now and self.unstored() < 500:
                due += self.args.every
                self.event()
            if not told and self.made >= self.args.count and self.unstored() == 0:
                told = True
                print("made", flush=True)
            self.look_at_the_clock()
            if now >= state:
                state = now + 0.1
                self.state()
            if now >= health:
                health = now + 1.0
                self.health()
            self.publisher.check()
            time.sleep(min(self.args.every, 0.05))
        self.publisher.close(self.stamper.message(Status, state="stopped", session=1))
        print(json.dumps({"made": self.made, **self.publisher.counters()}), flush=True)

    def unstored(self) -> int:
        """Made and not yet on disk. This source waits for a slow disk; a daemon would lose, count and tell."""
        return self.made - self.publisher.counters()["events_committed"]  # some of these may be dropped later

    def event(self) -> None:
        self.made += 1
        a, b = ("a", "b") if self.made % 2 else ("b", "a")
        self.publisher.publish(self.stamper.message(EventDriver, kind="label", before=a, after=b, conf=0.5))

    def look_at_the_clock(self) -> None:
        step = self.clock.update(self.stamper.offset_ns())
        if step is not None:
            self.made += 1
            self.publisher.publish(self.stamper.message(EventSystem, kind="clock_step", detail=f"{step:+.3f} s"))

    def state(self) -> None:
        quality = messages.Quality(face=1.0, age_ms=0, lenses=(LensState.OK, LensState.OK))
        said = {"valid": True, "label": "a", "conf": 0.5, "probs": {"a": 0.5}, "bundle": "none@1"}
        self.publisher.publish(self.stamper.message(StateDriver, **said, quality=quality))

    def health(self) -> None:
        counters = self.publisher.counters()
        depth = counters.pop("spool_depth")
        said = {"rates": {}, "stages": {}, "memory_mb": 0.0, "temperatures": {}, "uptime_s": 0.0}
        events = self.publisher.tails()
        self.publisher.publish(
            self.stamper.message(Health, **said, counters=counters, spool_depth=depth, events=events)
        )


def main() -> None:
    if "faketime" in os.environ.get("LD_PRELOAD", ""):  # it takes the monotonic deadline of time.sleep for a date
        time.sleep = threading.Event().wait  # type: ignore[assignment]
    logging.basicConfig(level="WARNING", stream=sys.stderr)
    stopped: list[int] = []  # no Event: set() in a handler waits for ever for the lock that wait() may hold
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    Source(arguments()).run(stopped)


if __name__ == "__main__":
    main()
