"""PyCUDA's driver module as far as edgefer uses it, on the processor: no GPU is had by it, and none is claimed.

It is stricter than the real one. Every call needs a current context; memory that is freed is overwritten; what is
alive is counted; a stream that is being captured runs nothing.
"""

from __future__ import annotations

import ctypes
import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np


class Error(Exception):
    pass


class LogicError(Error):
    pass


class host_alloc_flags:
    DEVICEMAP = 2


class device_attribute:
    INTEGRATED, CAN_MAP_HOST_MEMORY = "INTEGRATED", "CAN_MAP_HOST_MEMORY"
    MULTIPROCESSOR_COUNT = "MULTIPROCESSOR_COUNT"


ATTRIBUTES = {"INTEGRATED": 0, "CAN_MAP_HOST_MEMORY": 1, "MULTIPROCESSOR_COUNT": 8}
NAME, CAPABILITY, TOTAL = "Emulated GPU", (8, 7), 1 << 30
live: dict[int, int] = {}
"""bytes by address of what is allocated"""
copies: list[int] = []
"""bytes of every copy made"""
events: list[int] = []
"""how many copies had been made when each event was recorded"""
_threads = threading.local()
_streams: dict[int, Stream] = {}
_graphs: dict[int, list[Callable[[], None]]] = {}
_numbers = itertools.count(1)


def _stack() -> list[Any]:
    if not hasattr(_threads, "stack"):
        _threads.stack = []
    return _threads.stack


def depth() -> int:
    """Contexts on this thread's stack."""
    return len(_stack())


def _need_context() -> None:
    if not _stack():
        raise LogicError("no currently active context")


def init() -> None:
    pass


class Context:
    def push(self) -> None:
        _stack().append(self)

    def detach(self) -> None:
        self.pop()

    @staticmethod
    def pop() -> None:
        _need_context()
        _stack().pop()


class Device:
    def __init__(self, number: int) -> None:
        assert number == 0

    def name(self) -> str:
        return NAME

    def compute_capability(self) -> tuple[int, int]:
        return CAPABILITY

    def get_attribute(self, which: str) -> int:
        return ATTRIBUTES[which]

    def retain_primary_context(self) -> Context:
        return Context()


class _Memory:
    def __init__(self, size: int) -> None:
        _need_context()
        self._bytes = ctypes.create_string_buffer(size)
        self.address = ctypes.addressof(self._bytes)
        live[self.address] = size

    def free(self) -> None:
        _need_context()
        size = live.pop(self.address)
        ctypes.memset(self.address, 0xDD, size)


class DeviceAllocation(_Memory):
    def __int__(self) -> int:
        return self.address


class PagelockedHostAllocation(_Memory):
    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any], mapped: bool) -> None:
        super().__init__(max(1, int(np.prod(shape)) * dtype.itemsize))
        self._mapped = mapped
        self.__array_interface__ = {
            "shape": shape, "typestr": dtype.str, "data": (self.address, False), "version": 3}  # fmt: skip

    def get_device_pointer(self) -> int:
        if not self._mapped:
            raise LogicError("not mapped")
        return self.address


def pagelocked_empty(shape: tuple[int, ...], dtype: Any, mem_flags: int = 0) -> np.ndarray[Any, Any]:
    return np.asarray(PagelockedHostAllocation(shape, np.dtype(dtype), bool(mem_flags & host_alloc_flags.DEVICEMAP)))


def mem_alloc(size: int) -> DeviceAllocation:
    return DeviceAllocation(size)


def mem_get_info() -> tuple[int, int]:
    _need_context()
    return TOTAL - sum(live.values()), TOTAL


class Stream:
    def __init__(self, flags: int = 0) -> None:
        _need_context()
        assert flags == 1, "not CU_STREAM_NON_BLOCKING"
        self.handle = next(_numbers)
        self.captured: list[Callable[[], None]] | None = None
        _streams[self.handle] = self

    def run(self, work: Callable[[], None]) -> None:
        _need_context()
        if self.captured is not None:
            self.captured.append(work)
        else:
            work()

    def synchronize(self) -> None:
        _need_context()


def run_on(handle: int, work: Callable[[], None]) -> None:
    _streams[handle].run(work)


def memcpy_htod_async(device: DeviceAllocation, host: np.ndarray[Any, Any], stream: Stream) -> None:
    stream.run(lambda: _copy(int(device), host.ctypes.data, host.nbytes))


def memcpy_dtoh_async(host: np.ndarray[Any, Any], device: DeviceAllocation, stream: Stream) -> None:
    stream.run(lambda: _copy(host.ctypes.data, int(device), host.nbytes))


def _copy(to: int, source: int, size: int) -> None:
    copies.append(size)
    ctypes.memmove(to, source, size)


class Event:
    def record(self, stream: Stream) -> None:
        self.at = time.perf_counter()
        events.append(len(copies))

    def synchronize(self) -> None:
        pass

    def time_till(self, later: Event) -> float:
        return (later.at - self.at) * 1e3


def driver_call(name: str, *args: Any) -> None:
    """The five calls that edgefer sends to the driver itself."""
    _need_context()
    if name == "cuStreamBeginCapture_v2":
        _streams[args[0].value].captured = []
    elif name == "cuStreamEndCapture":
        stream, number = _streams[args[0].value], next(_numbers)
        assert stream.captured is not None
        _graphs[number], stream.captured = stream.captured, None
        args[1]._obj.value = number
    elif name == "cuGraphInstantiateWithFlags":
        number = next(_numbers)
        _graphs[number] = _graphs[args[1].value]
        args[0]._obj.value = number
    elif name == "cuGraphLaunch":
        for work in _graphs[args[0].value]:
            work()
    else:
        assert name in ("cuGraphDestroy", "cuGraphExecDestroy")
        del _graphs[args[0].value]


def graphs_alive() -> int:
    return len(_graphs)
