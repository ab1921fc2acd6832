"""NVIDIA's library, found by name: TensorRT (JetPack, workstations) or TensorRT for RTX, which has the same API."""

from __future__ import annotations

import importlib
import logging
import threading
from collections import deque
from typing import Any

from edgefer.errors import ServiceError

MODULES = ("tensorrt", "tensorrt_rtx")
OLDEST = (10, 3)
"""of TensorRT proper: JetPack 6.1; older ones lack strong typing as we use it"""
REMEDY = (
    "on a Jetson it comes with JetPack (apt install python3-libnvinfer, and an environment made with "
    "--system-site-packages); on a workstation pip install tensorrt-rtx-cu13"
)
log = logging.getLogger("edgefer.tensorrt")
_LEVELS = {
    "INTERNAL_ERROR": logging.ERROR, "ERROR": logging.ERROR, "WARNING": logging.WARNING,
    "INFO": logging.DEBUG, "VERBOSE": logging.DEBUG,
}  # fmt: skip
_lock = threading.Lock()
_loggers: dict[str, Any] = {}


class Vendor:
    """``trt``: the library's module; ``title``: name and version, as it stands in an engine's key."""

    def __init__(self, name: str) -> None:
        self.trt = importlib.import_module(name)
        self.name, self.version = name, str(self.trt.__version__)
        self.title = f"{name} {self.version}"
        if name == "tensorrt" and _numbers(self.version) < OLDEST:
            raise ServiceError(f"TensorRT {self.version} is too old, 10.3 is the oldest that serves; update JetPack")
        self.logger = _logger(name, self.trt)

    def errors(self) -> list[str]:
        """What the library reported since the last call, oldest first."""
        said = list(self.logger.said)
        self.logger.said.clear()
        return said

    def cause(self) -> str:
        """The first error since the last call, in one short line."""
        said = self.errors()
        return one_line(said[0]) if said else "no reason given"


def load(name: str | None = None) -> Vendor:
    """The library of that name, else the first there is. Raises ServiceError that says what to install."""
    causes = []
    for candidate in (name,) if name else MODULES:
        try:
            return Vendor(candidate)
        except (ImportError, OSError) as e:
            causes.append(one_line(str(e)))
    raise ServiceError(f"TensorRT is not installed ({'; '.join(causes)}): {REMEDY}")


def one_line(text: str, most: int = 300) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= most else flat[: most - 3] + "..."


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())


def _logger(name: str, trt: Any) -> Any:
    """One a process and library: the library keeps the first it was given, whatever it is given later."""
    with _lock:
        if name not in _loggers:
            _loggers[name] = _logger_class(trt)()
        return _loggers[name]


def _logger_class(trt: Any) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]
        """Everything the library says goes to ``logging``; errors are kept for the one line the user sees."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.said: deque[str] = deque(maxlen=16)

        def log(self, severity: Any, message: str) -> None:
            level = _LEVELS.get(severity.name, logging.ERROR)
            if level >= logging.ERROR:
                self.said.append(message)
            if log.isEnabledFor(level):
                log.log(level, "%s", one_line(message, 1000))

    return Logger
