"""Wires the objects a configuration asks for; starts and stops them in order."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata

from edgefer import messages, sdnotify
from edgefer.align import Aligner
from edgefer.bundle import Bundle
from edgefer.capture import open_rig
from edgefer.capture.rig import Rig
from edgefer.config import Config, state_folder
from edgefer.decide import Decider
from edgefer.errors import EdgeferError
from edgefer.health import StageTimes, Watchdog, memory_mb, temperatures
from edgefer.infer import Network
from edgefer.journal import fields
from edgefer.life import Life, Step
from edgefer.locate import Locator
from edgefer.messages import Health, Message, Meta, Stamper, Status
from edgefer.pipeline import Pipeline
from edgefer.publish import Publisher, open_publisher
from edgefer.reload import Reloader, Requests
from edgefer.report import Every, Reporter
from edgefer.serving import Serving, open_store, visible_only
from edgefer.types import Reading, now_ns

log = logging.getLogger("edgefer")


def run(
    config: Config,
    should_stop: Callable[[], bool],
    on_reading: Callable[[Reading], None] | None = None,
    requests: Requests | None = None,
    reread: Callable[[], Config] | None = None,
) -> None:
    """The daemon: until ``should_stop`` or the end of a recording. Raises EdgeferError, one line.

    ``requests``: what SIGHUP asks for; ``reread`` gives the configuration as it is then.
    """
    life = Life(state_folder())
    serving = Serving(config, open_store(config), life)
    config = visible_only(config) if serving.step is Step.VISIBLE_ONLY else config
    try:
        with (
            started(config, on_reading=on_reading, serving=serving) as pipeline,
            _reloader(pipeline, config, serving, requests or Requests(), reread or (lambda: config)),
        ):
            _loop(config, pipeline, should_stop)
    except EdgeferError:
        life.end()  # told in one line and not cured by another bundle: no crash
        raise
    life.end()


def _loop(config: Config, pipeline: Pipeline, should_stop: Callable[[], bool]) -> None:
    try:
        if not should_stop():
            sdnotify.notify("READY=1")
            log.info("ready: device %s", config.device, extra=fields(device=config.device, version=version()))
        pipeline.run(should_stop)
    finally:
        sdnotify.notify("STOPPING=1")


@contextmanager
def started(
    config: Config, rig: Rig | None = None, on_reading: Callable[[Reading], None] | None = None,
    serving: Serving | None = None,
) -> Iterator[Pipeline]:  # fmt: skip
    """Everything open, the network proven, the cameras running; on the way out the same in reverse."""
    rig = rig if rig is not None else open_rig(config.capture)  # a missing recording shows before the network loads
    serving = serving or Serving(config)
    bundle, network = serving.open()
    log.info("bundle %s opened, golden vectors passed", bundle.title)
    try:
        stamper = Stamper(config.device, messages.new_stream(), messages.boot_id())
        publisher = open_publisher(config.publish, config.device, stamper)
        pipeline = wire(config, bundle, network, rig, publisher, stamper, serving)
        pipeline.on_reading = on_reading
        publisher.open(meta(config, bundle, stamper, rig))
        try:
            with rig:
                publisher.publish(stamper.message(messages.EventSystem, kind="started", detail=bundle.title))
                for kind, detail in serving.take_told():
                    publisher.publish(stamper.message(messages.EventSystem, kind=kind, detail=detail))
                yield pipeline
        finally:
            publisher.close(stamper.message(Status, state="stopped", session=max(1, now_ns() // 1_000_000)))
    finally:
        network.close()


def _reloader(
    pipeline: Pipeline, config: Config, serving: Serving, requests: Requests, reread: Callable[[], Config]
) -> Reloader:
    stamper = pipeline.reporter.stamper

    def birth(config: Config, bundle: Bundle) -> Meta:
        return meta(config, bundle, stamper, pipeline.rig)

    return Reloader(requests, reread, config, serving, pipeline, stamper, birth)


def wire(
    config: Config, bundle: Bundle, network: Network, rig: Rig, publisher: Publisher, stamper: Stamper,
    serving: Serving,
) -> Pipeline:  # fmt: skip
    m = bundle.manifest
    times = StageTimes()

    def alive(state: str) -> None:
        sdnotify.notify(state)
        serving.beat(times.counts()["infer"])

    return Pipeline(
        rig=rig,
        locator=Locator(config.locate, config.infer.threads),
        aligner=Aligner(config.align, m.crop.size, m.crop.visible_channels, m.crop.template),
        network=network,
        decider=Decider(config.decide, m.labels, m.temperature, m.thresholds.min_conf, m.lenses_needed),
        reporter=Reporter(stamper, bundle.title, config.publish.rate_hz, rig.lenses),
        publisher=publisher,
        watchdog=Watchdog(alive),
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


class HealthSource:
    """The health message once every ``period_s``, else None."""

    def __init__(self, stamper: Stamper, rig: Rig, publisher: Publisher, times: StageTimes, period_s: float) -> None:
        self._stamper, self._rig, self._publisher, self._times = stamper, rig, publisher, times
        self.set_period(period_s)
        self._start = self._then = time.monotonic()
        self._done = times.counts()

    def set_period(self, period_s: float) -> None:
        self._due = Every(period_s, now_ns)

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
            counters={**self._rig.counters(), **self._publisher.counters()},
            spool_depth=0,
            memory_mb=memory_mb(),
            temperatures=temperatures(),
            uptime_s=now - self._start,
        )
