"""Wires the objects a configuration asks for; starts and stops them in order."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from edgefer import bundle as bundles
from edgefer import messages, metrics, sdnotify
from edgefer.align import Aligner
from edgefer.bundle import Bundle
from edgefer.capture import open_rig
from edgefer.capture.rig import Rig
from edgefer.config import Config
from edgefer.decide import Decider
from edgefer.errors import BundleError
from edgefer.health import StageTimes, Watchdog, memory_mb, power_mode, temperatures
from edgefer.infer import Network, open_network
from edgefer.locate import Locator
from edgefer.locate.yunet import MODEL_FILE, MODEL_SHA256
from edgefer.messages import Health, Message, Meta, Stamper, Status
from edgefer.pipeline import Pipeline
from edgefer.publish import Publisher, open_publisher
from edgefer.report import Every, Reporter
from edgefer.types import Reading, now_ns

log = logging.getLogger("edgefer")


def open_bundle(config: Config) -> Bundle:
    return bundles.open_bundle(Path(config.infer.bundle) if config.infer.bundle else bundles.DEFAULT)


def run(config: Config, should_stop: Callable[[], bool], on_reading: Callable[[Reading], None] | None = None) -> None:
    """The daemon: until ``should_stop`` or the end of a recording. Raises EdgeferError, one line."""
    with started(config, on_reading=on_reading) as pipeline:
        try:
            if not should_stop():
                sdnotify.notify("READY=1")
                log.info("ready: device %s", config.device)
            pipeline.run(should_stop)
        finally:
            sdnotify.notify("STOPPING=1")


@contextmanager
def started(
    config: Config, rig: Rig | None = None, on_reading: Callable[[Reading], None] | None = None
) -> Iterator[Pipeline]:
    """Everything open, the network proven, the cameras running; on the way out the same in reverse."""
    rig = rig if rig is not None else open_rig(config.capture)  # a missing recording shows before the network loads
    bundle = open_bundle(config)
    network = open_network(bundle, config.infer)
    log.info("bundle %s opened, golden vectors passed", bundle.title)
    try:
        stamper = Stamper(config.device, messages.new_stream(), messages.boot_id())
        publisher = open_publisher(config.publish, config.device, stamper)
        pipeline = wire(config, bundle, network, rig, publisher, stamper)
        pipeline.on_reading = on_reading
        publisher.open(meta(config, bundle, stamper, rig))
        try:
            with rig, metrics.served(config.health.prometheus_port, pipeline.times, lambda: counters(rig, publisher)):
                publisher.publish(stamper.message(messages.EventSystem, kind="started", detail=bundle.title))
                yield pipeline
        finally:
            publisher.close(stamper.message(Status, state="stopped", session=max(1, now_ns() // 1_000_000)))
    finally:
        network.close()


def wire(
    config: Config, bundle: Bundle, network: Network, rig: Rig, publisher: Publisher, stamper: Stamper
) -> Pipeline:
    m = bundle.manifest
    if m.detector.sha256 != MODEL_SHA256:
        raise BundleError(f"{bundle.path}: made with another face detector than {MODEL_FILE}; install a fitting bundle")
    times = StageTimes()
    return Pipeline(
        rig=rig,
        locator=Locator(config.locate, config.infer.threads),
        aligner=Aligner(config.align, m.crop.size, m.crop.visible_channels, m.crop.template),
        network=network,
        decider=Decider(config.decide, m.labels, m.temperature, m.thresholds.min_conf, m.lenses_needed),
        reporter=Reporter(stamper, bundle.title, config.publish.rate_hz, rig.lenses),
        publisher=publisher,
        watchdog=Watchdog(sdnotify.notify),
        health=HealthSource(stamper, rig, publisher, times, config.health.period_s),
        times=times,
    )


def meta(config: Config, bundle: Bundle, stamper: Stamper, rig: Rig) -> Meta:
    """The birth document."""
    m = bundle.manifest
    return stamper.message(
        Meta,
        software=f"edgefer {version()}",
        bundle=messages.BundleInfo(name=m.name, version=m.version, sha256=bundle.sha256),
        labels=tuple(m.labels),
        schemas=tuple(messages.schema_id(kind) for kind in messages.MESSAGES),
        cameras=tuple(f"{config.capture.kind} {lens.value}" for lens in rig.lenses),
        limits={"state_rate_hz": config.publish.rate_hz, "lost_after_s": config.capture.lost_s},
    )


def version() -> str:
    try:
        return metadata.version("edgefer")
    except metadata.PackageNotFoundError:
        return "unknown"


def counters(rig: Rig, publisher: Publisher) -> dict[str, int]:
    """What the health message and the Prometheus endpoint count."""
    return {**rig.counters(), **publisher.counters()}


class HealthSource:
    """The health message once every ``period_s``, else None."""

    def __init__(self, stamper: Stamper, rig: Rig, publisher: Publisher, times: StageTimes, period_s: float) -> None:
        self._stamper, self._rig, self._publisher, self._times = stamper, rig, publisher, times
        self._due = Every(period_s, now_ns)
        self._start = self._then = time.monotonic()
        self._done = times.counts()

    def __call__(self) -> Message | None:
        if not self._due():
            return None
        now, before = time.monotonic(), self._done
        stages, self._done = self._times.summary(before), self._times.counts()
        rate = (self._done["decide"] - before["decide"]) / max(now - self._then, 1e-6)
        self._then = now
        return self._stamper.message(
            Health,
            rates={"readings": rate},
            stages=stages,
            counters=counters(self._rig, self._publisher),
            spool_depth=0,
            memory_mb=memory_mb(),
            temperatures=temperatures(),
            power_mode=power_mode(),
            uptime_s=now - self._start,
        )
