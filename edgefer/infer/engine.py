"""One plan on the GPU: buffers bound once, one stream, one launch a call. A context manager in spirit: close it.

uint8 pictures go up as they are (a quarter of float32's bytes) through page-locked buffers that are reused. Where the
GPU shares the processor's memory the buffers can be mapped instead, and nothing is copied. Copies and execution are
captured as one CUDA graph when the engine allows it and the graph gives the very same bytes as the stream.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgefer.errors import ServiceError
from edgefer.infer.cuda import Buffer, Cuda, CudaGraph
from edgefer.infer.network import Array, Signature, check_feed
from edgefer.infer.vendor import Vendor

log = logging.getLogger("edgefer.tensorrt")
_NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING, for which PyCUDA has no name: what others put on the default stream neither waits for this
one nor breaks its capture"""
_TYPES: dict[str, type[np.generic]] = {
    "FLOAT": np.float32, "HALF": np.float16, "UINT8": np.uint8, "INT8": np.int8, "INT32": np.int32, "INT64": np.int64,
}  # fmt: skip


class RejectedPlan(ServiceError):
    """The library does not take this plan: another GPU's, another version's, or damaged. Build it again."""


class GpuError(ServiceError):
    """The GPU failed in the middle of its work. It counts as a crash: the last step down does without a GPU."""


@dataclass(frozen=True)
class Manner:
    """How an engine is run. mapped: buffers shared with the GPU; graph: captured and launched as one."""

    mapped: bool
    graph: bool


class Engine:
    """A plan ready to run, from any thread, one call at a time. Raises RejectedPlan or ServiceError of one line.

    ``graph_used``: whether the captured CUDA graph is what runs.
    """

    def __init__(self, vendor: Vendor, cuda: Cuda, plan: bytes, title: str, manner: Manner) -> None:
        self.title, self.inputs, self.outputs = title, _none(), _none()
        self.graph_used = False
        self._vendor, self._cuda, self._lock = vendor, cuda, threading.Lock()
        self._runtime: Any = None
        self._engine: Any = None
        self._context: Any = None
        self._stream: Any = None
        self._graph: CudaGraph | None = None
        self._buffers: dict[str, Buffer] = {}
        try:
            with cuda.current():
                self._load(plan)
                self._bind(manner.mapped)
                if manner.graph:
                    self._capture()
        except cuda.drv.Error as e:
            self.close()
            raise ServiceError(f"{title}: the GPU refuses ({e}); other programs may hold its memory") from None
        except BaseException:
            self.close()
            raise

    def infer(self, feed: dict[str, Array]) -> dict[str, Array]:
        """Outputs by name, arrays of their own. Raises ValueError (wrong input, closed) or GpuError."""
        check_feed(self.inputs, feed)
        with self._lock:
            if self._context is None:
                raise ValueError("the network is closed")
            try:
                with self._cuda.current():
                    return self._run(feed)
            except (self._cuda.drv.Error, ServiceError) as e:
                raise GpuError(f"{self.title}: the GPU failed ({e}); a restart opens it anew") from None

    def gpu_seconds(self, feed: dict[str, Array], runs: int = 8) -> float:
        """One run as the GPU's own clock sees it, copies included, seconds: the mean of ``runs`` in a row.

        In a row, since the GPU would else wait for the first launch, and that wait is the runner's and not the GPU's.
        """
        check_feed(self.inputs, feed)
        drv = self._cuda.drv
        with self._lock, self._cuda.current():
            before, after = drv.Event(), drv.Event()
            self._fill(feed)
            self._launch()
            before.record(self._stream)
            for _ in range(runs):
                self._launch()
            after.record(self._stream)
            after.synchronize()
            return float(before.time_till(after)) / 1e3 / runs

    def close(self) -> None:
        """Free everything on the GPU and the page-locked memory; again: nothing. Never raises for a GPU that failed."""
        with self._lock, suppress(self._cuda.drv.Error), self._cuda.current():
            if self._stream is not None:
                with suppress(self._cuda.drv.Error):  # a GPU that failed has nothing left to wait for
                    self._stream.synchronize()
            if self._graph is not None:
                self._graph.close()
            self._graph = None
            self._context = None  # the order the library wants: context, engine, runtime
            self._engine = None
            self._runtime = None
            for buffer in self._buffers.values():
                buffer.free()
            self._buffers.clear()
            self._stream = None

    def _load(self, plan: bytes) -> None:
        self._vendor.errors()
        self._runtime = self._vendor.trt.Runtime(self._vendor.logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise RejectedPlan(f"{self.title}: {self._vendor.title} does not take the engine: {self._vendor.cause()}")
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise ServiceError(f"{self.title}: {self._vendor.title} cannot run the engine: {self._vendor.cause()}")

    def _bind(self, mapped: bool) -> None:
        engine, trt = self._engine, self._vendor.trt
        self._stream = self._cuda.drv.Stream(_NON_BLOCKING)
        for k in range(engine.num_io_tensors):
            name = engine.get_tensor_name(k)
            shape = tuple(engine.get_tensor_shape(name))
            dtype = np.dtype(_TYPES.get(engine.get_tensor_dtype(name).name, np.void))
            if dtype == np.void or min(shape, default=1) < 0:
                raise ServiceError(f"{self.title}: {name} is {dtype} {shape}, which this runner does not feed")
            into = self.inputs if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT else self.outputs
            into[name] = (dtype, shape)
            self._buffers[name] = buffer = Buffer(self._cuda, dtype, shape, mapped)
            if not self._context.set_tensor_address(name, buffer.address):
                raise ServiceError(f"{self.title}: {self._vendor.title} does not take {name}: {self._vendor.cause()}")

    def _capture(self) -> None:
        """Only what answers exactly like the stream is used. The stream runs first: libraries set up on that.

        A run on something else lies between, so that a graph that does nothing is not taken for one that is right.
        """
        feed = _noise(self.inputs, 0)
        expected = self._run(feed)
        self._run(_noise(self.inputs, 1))
        try:
            self._graph = CudaGraph(int(self._stream.handle), self._enqueue)
            given = self._run(feed)
            if any(given[name].tobytes() != expected[name].tobytes() for name in expected):
                raise ServiceError("the captured graph answers otherwise than the stream")
        except (ServiceError, self._cuda.drv.Error) as e:
            log.warning("%s: no CUDA graph (%s); the stream is used", self.title, e)
            if self._graph is not None:
                self._graph.close()
            self._graph = None
        self.graph_used = self._graph is not None

    def _run(self, feed: dict[str, Array]) -> dict[str, Array]:
        self._fill(feed)
        self._launch()
        self._stream.synchronize()
        return {name: self._buffers[name].host.copy() for name in self.outputs}

    def _fill(self, feed: dict[str, Array]) -> None:
        for name in self.inputs:
            np.copyto(self._buffers[name].host, feed[name])

    def _launch(self) -> None:
        if self._graph is not None:
            self._graph.launch()
        else:
            self._enqueue()

    def _enqueue(self) -> None:
        for name in self.inputs:
            self._buffers[name].upload(self._stream)
        if not self._context.execute_async_v3(int(self._stream.handle)):
            raise ServiceError(f"{self.title}: {self._vendor.title} did not run: {self._vendor.cause()}")
        for name in self.outputs:
            self._buffers[name].download(self._stream)


def runner_seconds(engine: Engine, feed: dict[str, Array]) -> float:
    """One call as the caller's clock sees it, seconds."""
    start = time.perf_counter()
    engine.infer(feed)
    return time.perf_counter() - start


def _none() -> Signature:
    return {}


def _noise(inputs: Signature, seed: int) -> dict[str, Array]:
    """Something to run on: the same every time."""
    rng = np.random.default_rng(seed)
    return {name: rng.integers(0, 2, shape).astype(dtype) * (1 if dtype.kind == "f" else 100)
            for name, (dtype, shape) in inputs.items()}  # fmt: skip
