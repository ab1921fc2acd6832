"""The small interface every camera kind stands behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from edgefer.errors import CameraError
from edgefer.types import Frame, Lens

Clock = Callable[[], int]
"""nanoseconds, monotonic: `edgefer.types.now_ns` or a test's own"""

Wait = Callable[[float], object]
"""sleeps for at most so many seconds: `time.sleep` or a test's own"""


class EndOfStream(Exception):
    """A finite recording is over. A result, not a fault: no exit code."""


class WrongDeviceError(CameraError):
    """What is there is no camera. Trying again seldom helps, so it is done seldom."""


class Source(Protocol):
    """Serves one lens, or both when they arrive in one stream. Used by one thread at a time.

    `open` may be called again after `close`: that is how a lost camera comes back.
    """

    @property
    def lenses(self) -> tuple[Lens, ...]:
        """The lenses this source serves, known before `open`."""

    def open(self) -> None:
        """Claims the device. Raises CameraError (worth another try) or InputError (not)."""

    def read(self, timeout_s: float) -> tuple[Frame, ...]:
        """One frame for each lens served, or an empty tuple when nothing came within ``timeout_s`` seconds.

        Raises CameraError when the device has failed, InputError when a recording is damaged, EndOfStream after the
        last frame of a finite recording.
        """

    def close(self) -> None:
        """Releases everything; harmless when nothing is open."""
