"""Which bundle serves: the configured one, or the store's, behind it the last good one, last the one that ships."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from edgefer import bundle as bundles
from edgefer import sdnotify
from edgefer.bundle import Bundle
from edgefer.config import Config, Infer
from edgefer.errors import BundleError, EdgeferError, ServiceError, Stopped
from edgefer.infer import Network, open_network
from edgefer.infer.builder import STALL_S
from edgefer.journal import fields
from edgefer.life import AGAIN_S, Heart, Life, Step
from edgefer.locate.yunet import MODEL_FILE, MODEL_SHA256
from edgefer.release import Keys
from edgefer.store import Store

log = logging.getLogger("edgefer.serving")

SHIPS = "the bundle that ships"
Told = tuple[str, str]
"""kind and detail of an event/system"""


def self_test(bundle: Bundle) -> None:
    """The golden vectors on this machine. Raises BundleError."""
    open_checked(bundle, Infer()).close()


def content(file: Path) -> str:
    """The sha256 of a file, to see whether it is another one; empty for one that cannot be read."""
    try:
        return bundles.file_sha256(file)
    except OSError:
        return ""


def tell_start(step: str) -> None:
    """A long start (an engine is being built) goes on: the service manager waits as long as steps come."""
    if step:
        sdnotify.notify(f"EXTEND_TIMEOUT_USEC={int((STALL_S + 60) * 1e6)}\nSTATUS={step}")


def open_checked(
    bundle: Bundle,
    infer: Infer,
    on_fallback: Callable[[str], object] = lambda why: None,
    progress: Callable[[str], object] = tell_start,
) -> Network:
    """The network of ``bundle``, which must be made with our face detector and pass its golden vectors here.

    ``on_fallback`` hears why TensorRT does not serve where it was to.
    """
    if bundle.manifest.detector.sha256 != MODEL_SHA256:
        raise BundleError(f"{bundle.path}: made with another face detector than {MODEL_FILE}; install a fitting bundle")
    return open_network(bundle, infer, progress, on_fallback)


def open_store(config: Config) -> Store | None:
    """This process's store; None when there is none, or no key. Raises ConfigError for a bad key."""
    return _store(config, config.store_path())


def service_store(config: Config) -> Store | None:
    """The service's store, for a command beside it. Raises ConfigError for a bad key, ServiceError for one that may not
    look: it would take the bundle that ships for the one that serves."""
    store = _store(config, config.service_store())
    there = store and next(p for p in (store.folder, *store.folder.parents) if os.path.exists(p))
    if there and not os.access(there, os.R_OK | os.X_OK):
        raise ServiceError(f"{there}: only its owner may look; run this as root")
    return store


def _store(config: Config, folder: Path | None) -> Store | None:
    keys = Keys([config.update.key_1, config.update.key_2])
    if folder is None or not len(keys):
        if folder is not None and os.path.islink(folder / "current"):
            log.error("%s: not used, since 'update.key_1' and 'update.key_2' are empty", folder)
        return None
    return Store(folder, keys, self_test)


def bundle_to_serve(config: Config, open_it: Callable[[Config], Store | None] = service_store) -> Bundle:
    """What serves: the configured bundle, else the store's, else the one that ships. ``open_it``: `open_store` for what
    this process served."""
    store = None if config.infer.bundle else open_it(config)
    if store is not None and (name := store.current()) is not None:
        return store.open(name)
    return bundles.open_bundle(Path(config.infer.bundle) if config.infer.bundle else bundles.DEFAULT)


def visible_only(config: Config) -> Config:
    """What runs when all else has crashed: least hardware, least code."""
    lone = config.capture.infrared and not config.capture.visible and not config.capture.source
    capture = config.capture if lone else config.capture.model_copy(update={"visible_only": True})
    infer = config.infer.model_copy(update={"backend": "onnxruntime", "bundle": ""})
    locate = config.locate.model_copy(update={"backend": "opencv"})
    return config.model_copy(update={"capture": capture, "infer": infer, "locate": locate})


class Serving:
    """Opens what serves and remembers what there is to tell of it (``take_told``, to be published as event/system)."""

    def __init__(
        self, config: Config, store: Store | None = None, life: Life | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:  # fmt: skip
        self.infer, self.store, self.life = config.infer, store, life or Life(None)
        self._should_stop = should_stop
        self._starting, self._said = True, False
        self.step = self.life.begin()
        self.heart = Heart(time.monotonic, config.update.confirm_s, self.life.steady)
        self.bundle: Bundle | None = None
        """what `open` opened last; after a reload the pipeline takes it over a little later"""
        self._serves: Bundle | None = None
        self._confirming = threading.Thread()
        self._told: list[Told] = []

    def open(self) -> tuple[Bundle, Network]:
        """The bundle to serve with, golden vectors passed. Raises BundleError when not even the last one opens."""
        if self.step is Step.VISIBLE_ONLY:
            return self._note(self._load(bundles.DEFAULT))
        if self.infer.bundle:
            return self._note(self._configured())
        # A confirmed one is the last good one: power that is cut three times at short stops must not take it back.
        trial = self.store.current() if self.store is not None and self.store.on_trial() else None
        if self.step is Step.LAST_GOOD and trial is not None and self.life.suspects(trial):
            self._take_back(trial, f"{self.life.record.crashes} crashes in a row")
        return self._note(self._staged() or self._load(bundles.DEFAULT))

    def tell(self, step: str) -> None:
        """What a long opening is doing. Raises Stopped when the service is to end: a stop must not wait for a build."""
        if self._should_stop():
            raise Stopped
        if self._starting and step:
            self._said = True
            tell_start(step)

    def ready(self) -> None:
        """From now on no time is asked for: it would hold the watchdog off as well (systemd extends both)."""
        self._starting = False
        if self._said:
            sdnotify.notify("STATUS=")  # not "building ..." for as long as the service runs

    def take_told(self) -> list[Told]:
        told, self._told = self._told, []
        return told

    def fell_back(self, why: str) -> None:
        self._told.append(("backend_fallback", why[:512]))

    def beat(self, scored: int) -> None:
        """About once a second while work is finished; ``scored``: faces scored since the start."""
        if self.heart.beat(scored):
            self.confirm()

    def swapped(self, bundle: Bundle, scored: int) -> None:
        """The pipeline has taken over ``bundle``."""
        self._serves = bundle
        self.heart.restart_trial(scored)

    def undo(self, bundle: Bundle | None, infer: Infer) -> None:
        """What ``open`` opened last was not taken over, these serve on; the next ``open`` opens it again."""
        self.bundle, self.infer = bundle, infer
        self._told = [told for told in self._told if told[0] != "bundle_activated"]
        if bundle is not None:
            self.life.serves(bundle.title)

    def activate(self, name: str) -> None:
        """Put the staged bundle ``name`` on trial; ``open`` then opens it. Raises EdgeferError."""
        if self.store is not None:
            self.store.activate(self.staged(name))

    def staged(self, name: str | None) -> str:
        """``name`` (None: `Store.newest`) when signature and hashes are right. Raises EdgeferError."""
        if self.store is None:
            raise BundleError("there is no store of signed bundles here: set 'update.key_1'")
        if self.infer.bundle:
            raise BundleError("'infer.bundle' names the bundle to use; leave it empty to serve from the store")
        if self.step is Step.VISIBLE_ONLY:
            raise BundleError(f"after {self.life.record.crashes} crashes {SHIPS} serves until the next start")
        name = name or self.store.newest()
        self.store.open(name)
        return name

    def confirm(self) -> None:
        """What serves is good, if it is the one on trial. On a thread of its own: a busy disk holds up no frame."""
        store, serves = self.store, self._serves
        if store is None or serves is None or not store.on_trial() or self._confirming.is_alive():
            return
        if serves.path == store.path(serves.title):  # activated is not yet serving
            self._confirming = threading.Thread(
                target=self._confirm, args=(store, serves.title), name="confirm", daemon=True
            )
            self._confirming.start()

    def changed(self) -> bool:
        """Whether ``open`` would open another bundle than the last time, or new content in its folder."""
        if self.step is Step.VISIBLE_ONLY or (self.step is Step.LAST_GOOD and self.infer.bundle):
            return False
        name = self.store.current() if self.store and not self.infer.bundle else None
        path = Path(self.infer.bundle) if self.infer.bundle else bundles.DEFAULT
        path = self.store.path(name) if self.store and name else path
        return self.bundle is None or (self.bundle.path, self.bundle.sha256) != (path, content(path / bundles.MANIFEST))

    @staticmethod
    def _confirm(store: Store, name: str) -> None:
        try:
            done = store.confirm(name)
            if done:
                log.info("bundle %s confirmed, release %d", done.name, done.number, extra=fields(bundle=done.name))
        except EdgeferError as e:
            log.error("bundle not confirmed: %s; tried again in %g s", e, AGAIN_S)

    def _configured(self) -> tuple[Bundle, Network]:
        if self.step is Step.LAST_GOOD:
            self._told.append(("bundle_rolled_back", f"{self.infer.bundle} crashes; {SHIPS} serves"))
            return self._load(bundles.DEFAULT)
        return self._load(Path(self.infer.bundle))

    def _staged(self) -> tuple[Bundle, Network] | None:
        """The store's bundle; one that does not open is taken back, until one does. None: the one that ships."""
        while self.store is not None and (name := self.store.current()) is not None:
            try:
                bundle = self.store.open(name)
                return bundle, open_checked(bundle, self.infer, self.fell_back, self.tell)
            except BundleError as e:
                if not self._take_back(name, str(e)):
                    return None
        return None

    def _take_back(self, name: str, why: str) -> bool:
        assert self.store is not None
        try:
            now = self.store.rollback() or SHIPS
        except EdgeferError as e:
            log.error("bundle %s cannot be taken back: %s", name, e)
            return False
        log.error(
            "bundle %s taken back, %s serves: %s",
            name,
            now,
            why,
            extra=fields(bundle=name, crashes=self.life.record.crashes),
        )
        self._told.append(("bundle_rolled_back", f"{name} -> {now}: {why}"[:512]))
        return True

    def _load(self, path: Path) -> tuple[Bundle, Network]:
        bundle = bundles.open_bundle(path)
        return bundle, open_checked(bundle, self.infer, self.fell_back, self.tell)

    def _note(self, opened: tuple[Bundle, Network]) -> tuple[Bundle, Network]:
        """A change that nobody has told yet is told: it came from the command line or with an update of the package."""
        self.bundle = opened[0]
        self._serves = self._serves or self.bundle
        title = self.bundle.title
        before = self.life.serves(title)
        if before not in ("", title) and not any(kind.startswith("bundle_") for kind, _ in self._told):
            self._told.append((self._direction(before, title), f"{before} -> {title}"))
        return opened

    def _direction(self, before: str, after: str) -> str:
        older = self.store is not None and self.store.number(before) > self.store.number(after)
        return "bundle_rolled_back" if older else "bundle_activated"
