"""Wires the objects a configuration asks for; starts and stops them in order."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from edgefer import messages, metrics, sdnotify
from edgefer.align import Aligner
from edgefer.birth import Birth, version
from edgefer.bundle import Bundle
from edgefer.capture import open_rig
from edgefer.capture.rig import Rig
from edgefer.config import Config, Locate
from edgefer.control import Control, PrivacyMemory
from edgefer.decide import Decider
from edgefer.errors import EdgeferError, Stopped
from edgefer.health import StageTimes, Watchdog, memory_mb, power_mode, temperatures
from edgefer.infer import Network, reason
from edgefer.infer.engine import GpuError
from edgefer.infer.tensorrt import DetectorEngine
from edgefer.journal import fields
from edgefer.life import Life, Step
from edgefer.locate import Locator
from edgefer.locate.yunet import YuNet, YuNetEngine, canvas, check_forward, model_path
from edgefer.messages import Health, Message, Status
from edgefer.pipeline import Pipeline
from edgefer.publish import Publisher, open_publisher
from edgefer.registration import WINDOW, RegistrationCheck, window_template
from edgefer.reload import Parts, Reloader, Requests
from edgefer.report import Every, Reporter
from edgefer.serving import Serving, open_store, tell_start, visible_only
from edgefer.shutter import Shutter
from edgefer.stamp import Stamper, boot_id, new_stream
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
    life = Life(config.state.path())
    serving = Serving(config, open_store(config), life, should_stop)
    narrowed = visible_only if serving.step is Step.VISIBLE_ONLY else lambda c: c
    given, config = config, narrowed(config)
    read = reread or (lambda: given)
    try:
        with (
            started(config, on_reading=on_reading, serving=serving) as pipeline,
            # Narrowed again: a reload, for a certificate say, must not bring back what crashed.
            _reloader(pipeline, config, serving, requests or Requests(), lambda: narrowed(read())),
        ):
            serving.ready()
            _loop(config, pipeline, should_stop)
    except GpuError:
        raise  # counts as a crash: what steps down at last runs without a GPU
    except Stopped:
        sdnotify.notify("STOPPING=1")
        log.info("stopped while starting")
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
    """Everything open, the network proven, the cameras running unless privacy is on; then the same in reverse.

    ``rig`` serves once: after privacy the configured cameras are opened.
    """
    rigs = [rig] if rig is not None else []
    memory = PrivacyMemory(config.state.path())
    # A missing recording shows before the network loads.
    shutter = Shutter(lambda: rigs.pop() if rigs else open_rig(config.capture), closed=memory.read())
    serving = serving or Serving(config)
    pipeline = _build(config, shutter, memory, serving)
    pipeline.on_reading = on_reading
    publisher, stamper = pipeline.publisher, pipeline.reporter.stamper
    try:
        publisher.private(shutter.closed)
        publisher.open(pipeline.birth())
        try:
            told = lambda: counters(shutter, publisher, serving)  # noqa: E731
            with shutter, metrics.served(config.health.prometheus_port, pipeline.times, told):
                publisher.publish(
                    stamper.message(messages.EventSystem, kind="started", detail=pipeline.birth.bundle.title)
                )
                for kind, detail in serving.take_told():
                    publisher.publish(stamper.message(messages.EventSystem, kind=kind, detail=detail))
                yield pipeline
        finally:
            publisher.close(stamper.message(Status, state="stopped", session=max(1, now_ns() // 1_000_000)))
    finally:  # what serves now: a reload may have changed both
        pipeline.locator.close()
        pipeline.network.close()


def _build(config: Config, shutter: Shutter, memory: PrivacyMemory, serving: Serving) -> Pipeline:
    """The pipeline with its network and detector; what was opened is closed when the rest cannot be."""
    with ExitStack() as undo:
        bundle, network = serving.open()
        undo.callback(network.close)
        log.info("bundle %s opened on %s, golden vectors passed", bundle.title, network.backend)
        locator = open_locator(config, network.backend, serving.fell_back, serving.tell)
        undo.callback(locator.close)
        stamper = Stamper(config.device, new_stream(), boot_id())
        publisher = open_publisher(config.publish, config.device, stamper, config.state)
        pipeline = wire(config, bundle, network, locator, shutter, publisher, stamper, memory, serving)
        undo.pop_all()
    return pipeline


def _reloader(
    pipeline: Pipeline, config: Config, serving: Serving, requests: Requests, reread: Callable[[], Config]
) -> Reloader:
    stamper = pipeline.reporter.stamper
    parts = Parts(
        locator=lambda new, backend: open_locator(new, backend, serving.fell_back, serving.tell),
        check=lambda new, bundle: registration_check(new, bundle, stamper),
    )
    reloader = Reloader(requests, reread, config, serving, pipeline, stamper, parts)
    pipeline.control.activate = reloader.activate
    return reloader


def open_locator(
    config: Config,
    backend: str,
    on_fallback: Callable[[str], object],
    progress: Callable[[str], object] = tell_start,
) -> Locator:
    """The detector runs on the GPU when ``locate.backend`` says so, or is "auto" and the network's ``backend`` does.

    Raises EdgeferError of one line.
    """
    asked, threads = config.locate.backend, config.infer.threads
    if asked == "tensorrt" or (asked == "auto" and backend == "tensorrt"):
        try:
            return Locator(config.locate, threads, detector_engine(config, progress))
        except Exception as e:  # as open_network: whatever a vendor's library raises
            if asked == "tensorrt":
                raise
            log.warning("the face detector does not run on TensorRT, OpenCV runs it: %s", reason(e))
            on_fallback(reason(e))
    return Locator(config.locate, threads)


def detector_engine(config: Config, progress: Callable[[str], object]) -> YuNetEngine:
    """YuNet on the GPU for the frames asked for, held against OpenCV's run of it. Raises EdgeferError of one line."""
    size = canvas(config.locate, config.capture.width, config.capture.height)
    forward = DetectorEngine(model_path(config.locate.model), size, config.infer, progress)
    try:
        check_forward(forward, config.locate, size)
    except BaseException:
        forward.close()
        raise
    return YuNetEngine(config.locate, forward, size)


def wire(
    config: Config,
    bundle: Bundle,
    network: Network,
    locator: Locator,
    rig: Shutter,
    publisher: Publisher,
    stamper: Stamper,
    memory: PrivacyMemory,
    serving: Serving,
) -> Pipeline:
    m = bundle.manifest
    times = StageTimes()
    reporter = Reporter(stamper, bundle.title, config.publish.rate_hz, rig.lenses)
    birth = Birth(config, bundle, stamper, rig.lenses)

    def set_rate(rate_hz: float) -> None:
        reporter.set_rate(rate_hz)
        birth.rate_hz = rate_hz
        publisher.publish(birth())

    def alive(state: str) -> None:
        sdnotify.notify(state)
        serving.beat(times.counts()["infer"])

    return Pipeline(
        rig=rig,
        locator=locator,
        aligner=Aligner(config.align, m.crop.size, m.crop.visible_channels, m.crop.template),
        network=network,
        decider=Decider(config.decide, m.labels, m.temperature, m.thresholds.min_conf, m.lenses_needed),
        reporter=reporter,
        publisher=publisher,
        birth=birth,
        control=Control(publisher, rig, memory, set_rate),
        watchdog=Watchdog(alive),
        check=registration_check(config, bundle, stamper),
        health=HealthSource(stamper, rig, publisher, serving, times, config.health.period_s),
        times=times,
    )


def registration_check(config: Config, bundle: Bundle, stamper: Stamper) -> RegistrationCheck:
    """Cuts wide windows through the same calibration and looks at them with a detector of its own."""
    crop = bundle.manifest.crop
    cutter = Aligner(config.align, WINDOW, 3, window_template(crop.template, crop.size))
    detector = YuNet(Locate(model=config.locate.model, width=WINDOW))
    return RegistrationCheck(config.align, stamper, cutter.cut, detector.detect)


def counters(rig: Shutter, publisher: Publisher, serving: Serving) -> dict[str, int]:
    """What the health message and the Prometheus endpoint count. ``crashes``: ever, on this device."""
    return {**rig.counters(), **publisher.counters(), "crashes": serving.life.record.died}


class HealthSource:
    """The health message once every ``period_s``, else None."""

    def __init__(
        self, stamper: Stamper, rig: Shutter, publisher: Publisher, serving: Serving, times: StageTimes, period_s: float
    ) -> None:
        self._stamper, self._rig, self._publisher, self._times = stamper, rig, publisher, times
        self._serving = serving
        self.set_period(period_s)
        self._start = self._then = time.monotonic()
        self._done, self._counted = times.counts(), rig.counters()

    def set_period(self, period_s: float) -> None:
        self._due = Every(period_s, now_ns)

    def __call__(self) -> Message | None:
        if not self._due():
            return None
        now, before = time.monotonic(), self._done
        stages, self._done = self._times.summary(before), self._times.counts()
        rate = (self._done["decide"] - before["decide"]) / max(now - self._then, 1e-6)
        told, earlier = counters(self._rig, self._publisher, self._serving), self._counted
        watched = {"visible_fps": "visible_frames", "infrared_fps": "infrared_frames", "pairs": "pairs"}
        rates = {rate: (told[k] - earlier[k]) / max(now - self._then, 1e-6) for rate, k in watched.items()}
        self._then, self._counted = now, dict(told)
        return self._stamper.message(
            Health,
            rates={"readings": rate, **rates},
            timing=self._rig.timing(),
            stages=stages,
            spool_depth=told.pop("spool_depth", 0),
            counters=told,
            events=self._publisher.tails(),
            memory_mb=memory_mb(),
            temperatures=temperatures(),
            power_mode=power_mode(),
            uptime_s=now - self._start,
        )
