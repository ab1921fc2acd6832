"""SIGHUP, or a bundle put to work: a new configuration or network between two frames, without a stop.

What takes time (reading, loading, golden vectors) happens on a thread beside the pipeline; the change itself is made by
the pipeline between two frames. Whatever fails leaves everything as it is, in one line.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import cv2

from edgefer import sdnotify
from edgefer.align import Aligner
from edgefer.bundle import Bundle
from edgefer.config import LIVE, Config, Section
from edgefer.decide import Decider
from edgefer.errors import EdgeferError, Stopped
from edgefer.infer import Network
from edgefer.journal import fields
from edgefer.locate import Locator
from edgefer.messages import EventSystem, Message
from edgefer.pipeline import Pipeline
from edgefer.redact import without_password
from edgefer.serving import Serving, Told, content
from edgefer.stamp import Stamper
from edgefer.types import Face, FramePair

log = logging.getLogger("edgefer.reload")

AGAIN = ""
"""the request to read the configuration again; any other is the name of a staged bundle"""
_END = "\0"
Requests = SimpleQueue[str]
"""SimpleQueue.put is safe in a signal handler"""
Change = Callable[[Pipeline], None]


@dataclass(frozen=True)
class Parts:
    """How the parts that a reload replaces are made, from the new configuration and the bundle that serves.

    ``locator`` is told the backend of the network beside it.
    """

    locator: Callable[[Config, str], Locator]
    check: Callable[[Config, Bundle], Callable[[FramePair, Face | None], Message | None]]


def differences(old: Section, new: Section, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(key, old value, new value) of every key that differs."""
    for name in type(old).model_fields:
        a, b = getattr(old, name), getattr(new, name)
        if isinstance(a, Section):
            yield from differences(a, b, f"{prefix}{name}.")
        elif a != b:
            yield f"{prefix}{name}", a, b


def is_live(key: str) -> bool:
    return key in LIVE or f"{key.split('.', maxsplit=1)[0]}.*" in LIVE


def merged(old: Config, new: Config) -> Config:
    """``old`` with the live keys of ``new``."""
    found: dict[str, Any] = {}
    for key, _, value in differences(old, new):
        section, _, name = key.partition(".")
        if is_live(key):
            found.setdefault(section, {})[name] = value
    return old.model_copy(update={s: getattr(old, s).model_copy(update=keys) for s, keys in found.items()})


def _detector(config: Config) -> tuple[Section, Section]:
    """What the face detector depends on: it takes its threads and its engine from ``infer``."""
    return config.locate, config.infer.model_copy(update={"bundle": ""})


def _calibration(config: Config) -> str:
    file = config.align.calibration
    return content(Path(file)) if file else ""


def _shown(value: Any) -> str:
    return repr(without_password(value) if isinstance(value, str) else value)


class Reloader:
    """``read`` gives the configuration as it is now; the pipeline was wired with ``config``, ``serving``."""

    def __init__(
        self, requests: Requests, read: Callable[[], Config], config: Config, serving: Serving,
        pipeline: Pipeline, stamper: Stamper, parts: Parts,
    ) -> None:  # fmt: skip
        self._requests, self._read = requests, read
        self._config, self._serving = config, serving
        self._pipeline, self._stamper, self._parts = pipeline, stamper, parts
        self._backend, self._calibration = pipeline.network.backend, _calibration(config)
        self._thread = threading.Thread(target=self._run, name="reload", daemon=True)

    def __enter__(self) -> Reloader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Does not wait for a network that is just loading: a stop has five seconds."""
        self._requests.put(_END)

    def activate(self, name: str | None = None) -> tuple[bool, str]:
        """Put the staged bundle ``name`` (NAME@VERSION, never a path or address; None: the newest) to work.

        (True, "") once its signature and hashes are right; the golden vectors run beside the pipeline, and an
        event/system tells the end: bundle_activated or bundle_rolled_back. (False, reason) else. Takes milliseconds,
        from any thread.
        """
        try:
            self._requests.put(self._serving.staged(name))
        except EdgeferError as e:
            return False, str(e)
        return True, ""

    def _run(self) -> None:
        while (request := self._requests.get()) != _END:
            sdnotify.notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
            try:
                self._serve(request)
            except Stopped:
                return
            except EdgeferError as e:
                log.error("reload: %s; everything stays as it is", e)
                if request != AGAIN:
                    told = [("bundle_rolled_back", f"{request} refused: {e}"[:512])]
                    self._pipeline.changes.put(partial(self._tell, told=told))
            except Exception:
                log.exception("reload: internal error, please report it; everything stays as it is")
            finally:
                sdnotify.notify("READY=1")

    def _serve(self, request: str) -> None:
        new = self._read() if request == AGAIN else self._config
        if request != AGAIN:
            self._serving.activate(request)
        for key, old, value in differences(self._config, new):
            told = "" if is_live(key) else ": needs a restart of the service, stays as it was until then"
            log.info("reload: %s %s -> %s%s", key, _shown(old), _shown(value), told)
        changes = self._changes(merged(self._config, new))
        self._pipeline.changes.put(lambda pipeline: [change(pipeline) for change in changes])

    def _changes(self, new: Config) -> list[Change]:
        """What the pipeline has to do; everything slow is done here. Raises EdgeferError before anything is changed."""
        locator, network, before = None, None, (self._serving.bundle, self._serving.infer)
        calibration = _calibration(new)
        if calibration != self._calibration:
            log.info("reload: align.calibration: other content")
        try:
            network = self._network(new)
            backend = network[1].backend if network else self._backend
            if backend != self._backend or _detector(new) != _detector(self._config):
                locator = self._parts.locator(new, backend)
            changes = list(self._prepared(new, network, calibration != self._calibration))
        except BaseException:
            self._serving.undo(*before)
            cv2.setNumThreads(self._config.infer.threads)  # a new locator has set its own
            for made in (locator, network[1] if network else None):
                if made is not None:
                    made.close()
            raise
        if locator is not None:
            changes.insert(0, lambda p: self._look_with(p, locator))
        self._config, self._backend, self._calibration = new, backend, calibration
        return changes

    def _prepared(self, new: Config, network: tuple[Bundle, Network] | None, calibrated: bool) -> Iterator[Change]:
        old, bundle = self._config, self._serving.bundle
        assert bundle is not None
        m = bundle.manifest
        if network or calibrated or new.align != old.align:
            aligner = Aligner(new.align, m.crop.size, m.crop.visible_channels, m.crop.template)
            check = self._parts.check(new, bundle)
            yield lambda p: setattr(p, "aligner", aligner)
            yield lambda p: setattr(p, "check", check)
        if network or new.decide != old.decide:
            decider = Decider(new.decide, m.labels, m.temperature, m.thresholds.min_conf, m.lenses_needed)
            yield lambda p: setattr(p, "decider", decider)
        if network:
            yield lambda p: self._swap(p, bundle, network[1])
        yield lambda p: self._rates(p, old, new, bundle, network is not None)

    @staticmethod
    def _look_with(p: Pipeline, locator: Locator) -> None:
        old, p.locator = p.locator, locator
        old.close()

    def _tell(self, p: Pipeline, told: list[Told]) -> None:
        for kind, detail in told:
            p.publisher.publish(self._stamper.message(EventSystem, kind=kind, detail=detail))

    def _network(self, new: Config) -> tuple[Bundle, Network] | None:
        """A bundle and its network, where another is to serve or in another way."""
        if new.infer == self._config.infer and not self._serving.changed():
            return None
        self._serving.infer = new.infer
        return self._serving.open()

    def _swap(self, p: Pipeline, bundle: Bundle, network: Network) -> None:
        old, p.network = p.network, network
        old.close()
        p.reporter.set_bundle(bundle.title)
        self._serving.swapped(bundle, p.times.counts()["infer"])
        log.info("bundle %s serves, golden vectors passed", bundle.title, extra=fields(bundle=bundle.title))

    def _rates(self, p: Pipeline, old: Config, new: Config, bundle: Bundle, other: bool) -> None:
        self._tell(p, self._serving.take_told())
        p.birth.bundle = bundle
        if new.publish.rate_hz != old.publish.rate_hz:  # else what cmd/rate has asked for stays
            p.reporter.set_rate(new.publish.rate_hz)
            p.birth.rate_hz = new.publish.rate_hz
        if other or new.publish.rate_hz != old.publish.rate_hz:
            p.publisher.publish(p.birth())
        if new.health.period_s != old.health.period_s:
            p.health.set_period(new.health.period_s)
        self._serving.heart.confirm_s = new.update.confirm_s
        logging.getLogger().setLevel(new.log.level.upper())
        p.publisher.renew()
        log.info("reload: done")
