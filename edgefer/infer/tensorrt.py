"""TensorRT on the GPU: one path for TensorRT 10.3, 10.13, 11 and TensorRT for RTX.

A graph becomes an engine here on the machine (:mod:`builder`), is kept (:mod:`engines`) and run (:mod:`engine`).
The library and PyCUDA are imported on opening; their absence is one line that says what to install.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgefer.bundle import Bundle
from edgefer.config import Infer
from edgefer.errors import BundleError, ServiceError
from edgefer.infer import vendor as vendors
from edgefer.infer.builder import Job, Options, build_apart
from edgefer.infer.cuda import Gpu, open_cuda
from edgefer.infer.engine import Engine, Manner, RejectedPlan
from edgefer.infer.engines import EngineCache, Key, default_folder
from edgefer.infer.network import Array, FusionNetwork, Progress, Signature, crop_inputs, graph_files
from edgefer.infer.vendor import Vendor
from edgefer.types import F32, U8

log = logging.getLogger("edgefer.tensorrt")
DETECTOR_INPUT = "input"


class TensorRtGraph:
    """One graph file as an engine, held against what the manifest says. Raises BundleError or ServiceError."""

    def __init__(
        self, file: Path, config: Infer, inputs: Signature, output: tuple[str, int], progress: Progress
    ) -> None:
        self._engine, self._output = open_engine(file, static(inputs), config, progress), output[0]
        expected = {output[0]: (np.dtype(np.float32), (1, output[1]))}
        if self._engine.inputs != inputs or self._engine.outputs != expected:
            self._engine.close()
            raise BundleError(f"{file}: the graph's inputs or outputs do not fit the manifest; make the bundle again")

    def run(self, feed: dict[str, Array]) -> F32:
        out: F32 = self._engine.infer(feed)[self._output][0]
        return out

    def close(self) -> None:
        self._engine.close()


def tensorrt_network(bundle: Bundle, config: Infer, progress: Progress) -> FusionNetwork:
    """The backend: ``bundle``'s graphs for TensorRT. Raises BundleError or ServiceError."""
    return FusionNetwork(
        bundle, "tensorrt", lambda file, inputs, output: TensorRtGraph(file, config, inputs, output, progress)
    )


class DetectorEngine:
    """The face detector's network as an engine: uint8 [H, W, 3] BGR in, its raw outputs by name out.

    size: (height, width) of every picture, multiples of 32. Raises BundleError or ServiceError.
    """

    def __init__(self, file: Path, size: tuple[int, int], config: Infer, progress: Progress) -> None:
        self._engine = open_engine(file, detector_options(size), config, progress)

    def __call__(self, image: U8) -> dict[str, F32]:
        return self._engine.infer({DETECTOR_INPUT: image[None]})

    def close(self) -> None:
        self._engine.close()


def open_engine(file: Path, options: Options, config: Infer, progress: Progress) -> Engine:
    """``file`` as an engine of this GPU, out of the cache or built now. Raises BundleError or ServiceError."""
    vendor, cuda = vendors.load(), open_cuda()
    mapped = cuda.integrated if config.memory == "auto" else config.memory == "mapped"
    if mapped and not cuda.can_map:
        raise ServiceError(f"{cuda.gpu.name} cannot share memory with the processor: set infer.memory to copy")
    manner, cache = Manner(mapped, config.cuda_graph), cache_of(config)
    key = Key.of(file, vendor.title, cuda.gpu, options)
    build = _build(vendor, file, options, progress)
    try:
        return Engine(vendor, cuda, cache.plan(key, build, progress), file.name, manner)
    except RejectedPlan as e:
        log.warning("%s; it is built again", e)
        cache.discard(key)
    return Engine(vendor, cuda, cache.plan(key, build, progress), file.name, manner)


def _build(
    vendor: Vendor, file: Path, options: Options, progress: Progress, target: tuple[int, int] | None = None
) -> Callable[[], bytes]:
    return lambda: build_apart(Job(file, options, vendor.name, target), progress)


def prepare(file: Path, options: Options, config: Infer, progress: Progress, target: tuple[int, int] | None) -> Key:
    """Have the engine in the cache, without running it. ``target``: compute capability of a GPU that is not here.

    Raises BundleError or ServiceError.
    """
    vendor = vendors.load("tensorrt_rtx") if target else vendors.load()
    gpu = Gpu("any", target) if target else open_cuda().gpu
    key = Key.of(file, vendor.title, gpu, options)
    cache_of(config).plan(key, _build(vendor, file, options, progress, target), progress)
    return key


def bundle_graphs(bundle: Bundle) -> list[tuple[Path, Options]]:
    """What of ``bundle`` becomes an engine."""
    file, head = graph_files(bundle, "tensorrt")
    found = [(file, static(crop_inputs(bundle)))]
    t = bundle.manifest.temporal
    if head is not None and t is not None:
        found.append((head, static({"features": (np.dtype(np.float32), (1, t.window, t.features))})))
    return found


def static(inputs: Signature) -> Options:
    return Options(shapes=tuple((name, shape) for name, (_, shape) in inputs.items()))


def detector_options(size: tuple[int, int]) -> Options:
    """size: (height, width), multiples of 32."""
    return Options(shapes=((DETECTOR_INPUT, (1, *size, 3)),), image=DETECTOR_INPUT)


def cache_of(config: Infer) -> EngineCache:
    return EngineCache(Path(config.engines) if config.engines else default_folder())


def gpu_memory() -> dict[str, Any]:
    """Free device memory, bytes, and the GPU's name."""
    cuda = open_cuda()
    return {"gpu": cuda.gpu.name, "free_bytes": cuda.free_bytes()}
