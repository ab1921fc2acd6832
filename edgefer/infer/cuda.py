"""The GPU through PyCUDA: its primary context on any thread, buffers, and one captured CUDA graph.

The primary context is the one TensorRT itself uses through the CUDA runtime. It is retained once a process and given
back when that ends: the runtime inside TensorRT holds it as long. Everything inside it (streams, buffers, graphs) is
freed by ``close``.
"""

from __future__ import annotations

import atexit
import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from edgefer.errors import ServiceError

REMEDY = "pip install pycuda (deploy/install.sh does it)"
_lock = threading.Lock()


@dataclass(frozen=True)
class Gpu:
    """What an engine is built for: the GPU's name with its multiprocessors, and its compute capability.

    Every Jetson Orin calls itself Orin, and a disk may move from a Nano (8 SM) to an AGX (16 SM).
    """

    name: str
    capability: tuple[int, int]


@cache
def has_driver() -> bool:
    """Whether NVIDIA's driver is on this machine at all."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


class Cuda:
    """The first GPU. Use :func:`open_cuda`. Raises ServiceError of one line."""

    def __init__(self) -> None:
        try:
            import pycuda.driver as drv
        except ImportError as e:
            cause = f"PyCUDA is not installed ({e}): {REMEDY}" if has_driver() else "no NVIDIA GPU: there is no driver"
            raise ServiceError(cause) from None
        self.drv = drv
        try:
            drv.init()
            device = drv.Device(0)
            asked = drv.device_attribute
            name = f"{device.name()} ({device.get_attribute(asked.MULTIPROCESSOR_COUNT)} SM)"
            self.gpu = Gpu(name, tuple(device.compute_capability()))
            self.integrated = bool(device.get_attribute(asked.INTEGRATED))
            self.can_map = bool(device.get_attribute(asked.CAN_MAP_HOST_MEMORY))
            self._context = device.retain_primary_context()
        except drv.Error as e:
            raise ServiceError(
                f"no NVIDIA GPU answers ({e}); check the driver and the groups video and render"
            ) from None

    @contextmanager
    def current(self) -> Iterator[None]:
        """The context is this thread's inside the block; blocks may be nested."""
        self._context.push()
        try:
            yield
        finally:
            self._context.pop()

    def release(self) -> None:
        """At the end of the process. Left to PyCUDA's destructor, the wrong driver call would give it back."""
        with suppress(self.drv.Error):
            self._context.push()
            self._context.detach()

    def free_bytes(self) -> int:
        """Device memory that is not in use, bytes."""
        with self.current():
            return int(self.drv.mem_get_info()[0])


_opened: list[Cuda] = []


def open_cuda() -> Cuda:
    """The process's GPU. Raises ServiceError when there is none or PyCUDA is missing."""
    with _lock:
        if not _opened:
            _opened.append(Cuda())
            atexit.register(_opened[0].release)
        return _opened[0]


class Buffer:
    """A page-locked host array and the device memory behind it, for one tensor. Made and freed inside ``current``.

    mapped: the GPU reads and writes the host array itself; else every run copies.
    """

    def __init__(self, cuda: Cuda, dtype: np.dtype[Any], shape: tuple[int, ...], mapped: bool) -> None:
        drv = cuda.drv
        flags = drv.host_alloc_flags.DEVICEMAP if mapped else 0
        self._drv = drv
        self.host: np.ndarray[Any, Any] = drv.pagelocked_empty(shape, dtype, mem_flags=flags)
        self.host[...] = 0
        self._device: Any = None
        try:
            self._device = None if mapped else drv.mem_alloc(self.host.nbytes)
            self.address = int(self.host.base.get_device_pointer() if mapped else self._device)
        except BaseException:
            self.free()
            raise

    def upload(self, stream: Any) -> None:
        if self._device is not None:
            self._drv.memcpy_htod_async(self._device, self.host, stream)

    def download(self, stream: Any) -> None:
        if self._device is not None:
            self._drv.memcpy_dtoh_async(self.host, self._device, stream)

    def free(self) -> None:
        if self._device is not None:
            self._device.free()
        pinned = self.host.base
        self.host = np.empty(0, self.host.dtype)  # the array must not outlive its memory
        pinned.free()  # type: ignore[union-attr]


class CudaGraph:
    """What ``enqueue`` puts on ``stream``, captured once and launched as one. Made and closed inside ``current``.

    PyCUDA knows no capture, so these five calls go to the driver itself. Raises ServiceError when the driver refuses.
    """

    _THREAD_LOCAL = 1
    """capture mode: what other threads do meanwhile does not matter"""

    def __init__(self, stream: int, enqueue: Callable[[], None]) -> None:
        self._stream = ctypes.c_void_p(stream)
        self._exec = ctypes.c_void_p()
        graph = ctypes.c_void_p()
        _call("cuStreamBeginCapture_v2", self._stream, ctypes.c_int(self._THREAD_LOCAL))
        try:
            try:
                enqueue()
            finally:  # else the stream would take no work ever after
                _call("cuStreamEndCapture", self._stream, ctypes.byref(graph))
            _call("cuGraphInstantiateWithFlags", ctypes.byref(self._exec), graph, ctypes.c_ulonglong(0))
        finally:
            if graph:
                with suppress(ServiceError):
                    _call("cuGraphDestroy", graph)

    def launch(self) -> None:
        _call("cuGraphLaunch", self._exec, self._stream)

    def close(self) -> None:
        """Never raises: on a GPU that failed every call answers with that failure, and more is to be freed."""
        if self._exec:
            with suppress(ServiceError):
                _call("cuGraphExecDestroy", self._exec)
            self._exec = ctypes.c_void_p()


@cache
def _function(name: str) -> Any:
    return getattr(ctypes.CDLL("libcuda.so.1"), name)


def _call(name: str, *args: Any) -> None:
    try:
        status = _function(name)(*args)
    except (OSError, AttributeError) as e:
        raise ServiceError(f"the NVIDIA driver has no {name} ({e}); infer.cuda_graph = false does without") from None
    if status:
        raise ServiceError(f"{name} failed with CUDA error {status}; infer.cuda_graph = false does without")
