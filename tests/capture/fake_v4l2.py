"""The kernel's side of V4L2, in the kernel's own structures, for a camera that is not there.

Every `wait` takes one picture, fills the buffer that was queued first and stamps it; `trouble` makes it misbehave.
"""

from __future__ import annotations

import errno
import itertools
import mmap
import time
from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from edgefer.capture import v4l2_abi as abi

Trouble = Callable[["FakeKernel", abi.Buffer], None]


class FakeKernel:
    def __init__(
        self, modes: tuple[tuple[str, int, int, tuple[float, ...]], ...] = (("YUYV", 64, 48, (30.0, 200.0)),)
    ) -> None:
        self.modes = modes
        self.capabilities = abi.CAP_VIDEO_CAPTURE | abi.CAP_STREAMING
        self.controls: dict[int, tuple[int, int]] = {}
        self.set_controls: dict[int, int] = {}
        self.format: tuple[str, int, int] | None = None
        self.rate = 0.0
        self.open_files: set[int] = set()
        self.maps = 0
        self.clock_flag = abi.FLAG_CLOCK_MONOTONIC
        self.monotonic: Callable[[], int] = time.monotonic_ns
        self.fail: dict[int, int] = {}
        """ioctl -> errno"""
        self.refuse = 0
        """errno of open"""
        self.trouble: Trouble | None = None
        self.silent = False
        self.burst = 1
        """frames taken for each wait"""
        self._numbers = itertools.count(10)
        self._queued: deque[int] = deque()
        self._done: deque[abi.Buffer] = deque()
        self._memory: list[_Memory] = []
        self._sequence = 100
        self._rng = np.random.default_rng(0)

    def open(self, path: str) -> int:
        if self.refuse:
            raise OSError(self.refuse, "refused")
        number = next(self._numbers)
        self.open_files.add(number)
        return number

    def close(self, fd: int) -> None:
        self.open_files.remove(fd)

    def map(self, fd: int, length: int, offset: int) -> Any:
        self.maps += 1
        self._memory[offset].kernel = self
        return self._memory[offset]

    def wait(self, fd: int, timeout_s: float) -> bool:
        if self.silent:
            return False
        for _ in range(self.burst):
            self._expose()
        return bool(self._done)

    def ioctl(self, fd: int, request: int, argument: Any) -> None:
        assert fd in self.open_files
        if request in self.fail:
            raise OSError(self.fail[request], "refused")
        self.CALLS[request](self, argument)

    def _capability(self, c: abi.Capability) -> None:
        c.capabilities = self.capabilities

    def _formats(self, f: abi.FormatDescription) -> None:
        f.pixelformat = abi.fourcc(_nth(dict.fromkeys(m[0] for m in self.modes), f.index))

    def _sizes(self, s: abi.FrameSize) -> None:
        found = _nth([m for m in self.modes if abi.fourcc(m[0]) == s.pixel_format], s.index)
        s.type, s.values[0], s.values[1] = abi.DISCRETE, found[1], found[2]

    def _intervals(self, i: abi.FrameInterval) -> None:
        wanted = (abi.name_of(i.pixel_format), i.width, i.height)
        fps = _nth(next(m[3] for m in self.modes if m[:3] == wanted), i.index)
        i.type, i.values[0], i.values[1] = abi.DISCRETE, 1000, round(fps * 1000)

    def _set_format(self, f: abi.Format) -> None:
        self.format = (abi.name_of(f.pixelformat), f.width, f.height)
        f.bytesperline = f.width * (1 if self.format[0] in ("GREY", "NV12") else 2)
        f.sizeimage = f.bytesperline * f.height * (3 if self.format[0] == "NV12" else 2) // 2

    def _set_rate(self, p: abi.StreamParm) -> None:
        self.rate = p.denominator / p.numerator

    def _request(self, r: abi.RequestBuffers) -> None:
        assert self.format is not None
        self._memory = [_Memory(-1, self.format[1] * self.format[2] * 2) for _ in range(r.count)]

    def _query(self, b: abi.Buffer) -> None:
        b.length, b.offset = len(self._memory[b.index]), b.index

    def _queue(self, b: abi.Buffer) -> None:
        assert b.index not in self._queued, "queued twice"
        self._queued.append(b.index)

    def _dequeue(self, b: abi.Buffer) -> None:
        if not self._done:
            raise BlockingIOError(errno.EAGAIN, "nothing there")
        done = self._done.popleft()
        for name in ("index", "bytesused", "flags", "seconds", "microseconds", "sequence"):
            setattr(b, name, getattr(done, name))

    def _off(self, _: Any) -> None:
        self._queued.clear()
        self._done.clear()

    def _query_control(self, q: abi.QueryControl) -> None:
        if q.id not in self.controls:
            raise OSError(errno.EINVAL, "no such control")
        q.minimum, q.maximum = self.controls[q.id]

    def _set_control(self, c: abi.Control) -> None:
        self.set_controls[c.id] = c.value

    CALLS: ClassVar[Any] = {
        abi.QUERYCAP: _capability, abi.ENUM_FMT: _formats, abi.ENUM_FRAMESIZES: _sizes,
        abi.ENUM_FRAMEINTERVALS: _intervals, abi.S_FMT: _set_format, abi.S_PARM: _set_rate, abi.REQBUFS: _request,
        abi.QUERYBUF: _query, abi.QBUF: _queue, abi.DQBUF: _dequeue, abi.STREAMON: lambda self, _: None,
        abi.STREAMOFF: _off, abi.QUERYCTRL: _query_control, abi.S_CTRL: _set_control,
    }  # fmt: skip

    def _expose(self) -> None:
        self._sequence += 1
        if not self._queued:
            return  # the driver drops what it has no buffer for
        index = self._queued.popleft()
        memory = self._memory[index]
        memory[:] = self._rng.integers(16, 235, len(memory), dtype=np.uint8).tobytes()
        seconds, rest = divmod(self.monotonic(), 1_000_000_000)
        done = abi.Buffer(
            index=index, bytesused=len(memory), flags=self.clock_flag, seconds=seconds, microseconds=rest // 1000,
            sequence=self._sequence,
        )  # fmt: skip
        if self.trouble is not None:
            self.trouble(self, done)
        self._done.append(done)


class _Memory(mmap.mmap):
    """The driver's memory as the program sees it. Closing it fails while a picture still looks into it."""

    kernel: FakeKernel

    def close(self) -> None:
        super().close()
        self.kernel.maps -= 1


def _nth(items: Any, index: int) -> Any:
    found = list(itertools.islice(items, index, index + 1))
    if not found:
        raise OSError(errno.EINVAL, "end of the list")
    return found[0]
