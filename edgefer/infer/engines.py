"""The engine cache: plans built on this machine, one file each, found again by everything that went into them.

    NAME-KEY.engine    a line of JSON (the key in words, size and sha256 of the plan), then the plan
    lock               held while one is built: a second process waits and then reads

A file that is truncated, changed or made for something else is as good as none. Writing is whole or not at all.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgefer.bundle import file_sha256
from edgefer.errors import ServiceError
from edgefer.infer.builder import Options
from edgefer.infer.cuda import Gpu
from edgefer.infer.network import Progress

log = logging.getLogger("edgefer.engines")
MAGIC = "edgefer engine 1"
KEPT = 12
"""engines that stay; the longest unused go first. Two bundles of two graphs and the detector, twice over"""
WAIT_S = 3600.0
POLL_S = 0.25
SAY_S = 10.0
"""that it waits for another process is said this often"""
HEADER_MOST = 65536


@dataclass(frozen=True)
class Key:
    """Everything that makes an engine what it is; another value of any field is another engine."""

    graph: str
    onnx_sha256: str
    library: str
    gpu: str
    capability: str
    options: str

    @staticmethod
    def of(file: Path, library: str, gpu: Gpu, options: Options) -> Key:
        """``library``: name and version."""
        capability = ".".join(map(str, gpu.capability))
        return Key(file.stem, file_sha256(file), library, gpu.name, capability, json.dumps(asdict(options)))

    @property
    def file(self) -> str:
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()
        return f"{self.graph}-{digest[:20]}.engine"


@dataclass(frozen=True)
class Entry:
    """A file of the cache: its key, or what is wrong with it."""

    path: Path
    key: Key | None
    bytes: int
    fault: str = ""


class EngineCache:
    """The folder; it is made when the first engine is stored. Several processes may use it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def plan(self, key: Key, build: Callable[[], bytes], progress: Progress) -> bytes:
        """The plan for ``key``, built once whoever asks. Raises ServiceError, and whatever ``build`` raises."""
        found = self._load(key)
        if found is not None:
            return found
        with self._lock(progress):
            found = self._load(key)  # another process may have been quicker
            if found is None:
                log.info("building the engine of %s for %s (%s): minutes, once", key.graph, key.gpu, key.library)
                progress(f"building {key.graph}")  # the first step of a builder may be a long one
                found = build()
                self._store(key, found)
        return found

    def discard(self, key: Key) -> None:
        """The plan turned out to be of no use. Raises ServiceError."""
        _remove(self.folder / key.file)

    def entries(self) -> list[Entry]:
        """Every engine, the last used first."""
        return [_entry(f) for f in self._files()]

    def clean(self, progress: Progress) -> list[Path]:
        """Remove every engine and what a killed build left. Returns what was removed. Raises ServiceError."""
        if not self.folder.is_dir():
            return []
        with self._lock(progress):
            gone = [*self.folder.glob("*.engine"), *self.folder.glob("*.part")]
            for file in gone:
                _remove(file)
        return gone

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("*.engine"), key=_used, reverse=True)

    def _load(self, key: Key) -> bytes | None:
        path = self.folder / key.file
        try:
            header, plan = _read(path)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as e:
            log.warning("%s: %s; it is built again", path, e)
            return None
        if _key(header) != key:
            log.warning("%s: made for something else; it is built again", path)
            return None
        with suppress(OSError):  # another user's file, or one that is just being cleaned away: it serves all the same
            os.utime(path)
        return plan

    def _store(self, key: Key, plan: bytes) -> None:
        """An engine that cannot be stored still serves, this time."""
        path = self.folder / key.file
        part = path.with_suffix(".part")
        header = {"magic": MAGIC, **asdict(key), "bytes": len(plan), "sha256": hashlib.sha256(plan).hexdigest()}
        try:
            with part.open("wb") as f:
                f.write(json.dumps(header).encode() + b"\n" + plan)
                f.flush()
                os.fsync(f.fileno())
            part.replace(path)
            self._prune(path)
        except OSError as e:
            log.warning("%s: cannot be stored (%s); the next start builds it again", path, e.strerror)
            part.unlink(missing_ok=True)

    def _prune(self, newest: Path) -> None:
        """``newest`` stays whatever the clock says: a device may start in 1970."""
        others = [file for file in self._files() if file != newest]
        for old in others[KEPT - 1 :]:
            old.unlink(missing_ok=True)

    @contextmanager
    def _lock(self, progress: Progress) -> Iterator[None]:
        """One builder at a time; the kernel frees the lock of a process that dies."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            held = (self.folder / "lock").open("w")
        except OSError as e:
            raise ServiceError(f"{self.folder}: no engine can be kept here ({e.strerror}); set infer.engines") from None
        with held:
            _take(held.fileno(), progress)
            yield


def _take(fd: int, progress: Progress) -> None:
    start = time.monotonic()
    said = -SAY_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            waited = time.monotonic() - start
        if waited > WAIT_S:
            raise ServiceError(f"another process has been building engines for {WAIT_S:g} s; end it")
        due = waited - said >= SAY_S
        said = waited if due else said
        progress("waiting for another process that builds an engine" if due else "")
        time.sleep(POLL_S)


def _remove(file: Path) -> None:
    try:
        file.unlink(missing_ok=True)
    except OSError as e:
        raise ServiceError(f"{file}: cannot be removed ({e.strerror}); do it as the user that made it") from None


def _read(path: Path) -> tuple[dict[str, Any], bytes]:
    """Header and plan. Raises OSError, or ValueError that says what is wrong."""
    with path.open("rb") as f:
        header = _header(f.readline(HEADER_MOST))
        plan = f.read()
    if len(plan) != header["bytes"]:
        raise ValueError(f"{len(plan)} bytes, should be {header['bytes']}")
    if hashlib.sha256(plan).hexdigest() != header["sha256"]:
        raise ValueError("its sha256 is not that of its header")
    return header, plan


def _header(line: bytes) -> dict[str, Any]:
    try:
        header = json.loads(line)
    except ValueError:
        header = None
    if not isinstance(header, dict) or header.get("magic") != MAGIC or not {"bytes", "sha256"} <= set(header):
        raise ValueError("not an engine of ours")
    return header


def _key(header: dict[str, Any]) -> Key | None:
    try:
        return Key(**{name: header[name] for name in Key.__dataclass_fields__})
    except KeyError:
        return None


def _used(path: Path) -> float:
    """When it was last used; 0 for one that another process has just removed."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _entry(path: Path) -> Entry:
    size = 0
    try:
        size = path.stat().st_size
        header, _ = _read(path)
    except (OSError, ValueError) as e:
        return Entry(path, None, size, str(e))
    key = _key(header)
    return Entry(path, key, size, "" if key and key.file == path.name else "made for something else")


def default_folder() -> Path:
    """systemd's cache folder of the service, else the user's."""
    service = os.environ.get("CACHE_DIRECTORY", "").split(":")[0]
    if service:
        return Path(service) / "engines"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgefer" / "engines"
