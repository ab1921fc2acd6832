"""A camera made of a script, for tests and fault drills; it holds a real file descriptor while open."""

from __future__ import annotations

import os
import queue
from collections.abc import Iterable, Sequence
from enum import Enum

import numpy as np

from edgefer.capture.source import Clock, EndOfStream
from edgefer.errors import CameraError, InputError
from edgefer.types import U8, Frame, Lens, now_ns


class Step(Enum):
    """What a scripted camera does instead of delivering a picture."""

    FAIL = "the device fails: CameraError"
    DAMAGED = "the recording is damaged: InputError"
    SILENCE = "nothing within the timeout"
    END = "the stream is over"


Event = Step | U8 | int
"""a step, a picture (the same for every lens served), or a grey level: noise around it, never twice the same"""


class FakeSource:
    """Plays ``script`` one event a read, then what `play` adds, and is silent in between.

    A silent read blocks for its timeout or until the next `play`. opened and closed count the calls that did
    something; whoever opens it twice without closing it leaks a descriptor, as with a real camera.
    """

    def __init__(
        self, lenses: Sequence[Lens] = (Lens.VISIBLE,), script: Iterable[Event] = (), clock: Clock = now_ns
    ) -> None:
        self._lenses = tuple(lenses)
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._clock = clock
        self._rng = np.random.default_rng(0)
        self._fd: int | None = None
        self._index = 0
        self.opened = self.closed = 0
        self.broken = False
        """while True, `open` raises CameraError: the plug is out"""
        self.play(*script)

    @property
    def lenses(self) -> tuple[Lens, ...]:
        return self._lenses

    def play(self, *events: Event) -> None:
        """Adds events to the script; may be called from another thread."""
        for event in events:
            self._events.put(event)

    def open(self) -> None:
        if self.broken:
            raise CameraError("fake camera: the plug is out")
        self._fd = os.open(os.devnull, os.O_RDONLY)
        self._index = 0
        self.opened += 1

    def read(self, timeout_s: float) -> tuple[Frame, ...]:
        """The next event of the script. Raises what the script says, and CameraError when it is not open."""
        if self._fd is None:
            raise CameraError("fake camera: read before open")
        try:
            event = self._events.get(timeout=timeout_s)
        except queue.Empty:
            return ()
        return self._perform(event)

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
            self.closed += 1

    def _perform(self, event: Event) -> tuple[Frame, ...]:
        if event is Step.SILENCE:
            return ()
        if event is Step.END:
            raise EndOfStream
        if event is Step.DAMAGED:
            raise InputError("fake recording: damaged")
        if isinstance(event, Step):
            raise CameraError("fake camera: the device has failed")
        mono_ns, index = self._clock(), self._index
        self._index += 1
        return tuple(Frame(lens, self._picture(lens, event), mono_ns, index) for lens in self._lenses)

    def _picture(self, lens: Lens, event: U8 | int) -> U8:
        if not isinstance(event, int):
            return event
        shape = (48, 64, 3) if lens is Lens.VISIBLE else (48, 64)
        noisy = self._rng.normal(event, 2.0, shape)
        return np.clip(noisy, 0, 255).astype(np.uint8)
