"""``edgefer bench --backend tensorrt``: what our runner adds to the GPU's own time, and which manner is the fastest.

For the network and the detector, copied and mapped memory, CUDA graph and stream: one call by the caller's clock
against the same work by the GPU's clock (events around several runs in a row, copies included). The manners take turns,
so that a slow spell of the machine meets all of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from edgefer import app, serving
from edgefer.bench import write_json
from edgefer.bundle import Bundle
from edgefer.config import Config
from edgefer.infer import open_network
from edgefer.infer.cuda import open_cuda
from edgefer.infer.engine import Engine, runner_seconds
from edgefer.infer.network import Array
from edgefer.infer.tensorrt import bundle_graphs, detector_options, open_engine
from edgefer.infer.vendor import load
from edgefer.locate.yunet import canvas, model_path
from edgefer.types import AlignedPair

MANNERS = [(memory, graph) for memory in ("copy", "mapped") for graph in (True, False)]
ROUNDS = 10
WARM = 20


def bench_engines(config: Config, seconds: float, file: Path | None) -> None:
    """Measure, print, write the JSON when asked. Raises EdgeferError of one line, without a GPU too."""
    cuda, vendor = open_cuda(), load()
    bundle = serving.bundle_to_serve(config)
    manners = [m for m in MANNERS if m[0] == "copy" or cuda.can_map]
    report: dict[str, Any] = {"gpu": cuda.gpu.name, "library": vendor.title, "integrated": cuda.integrated}
    with ExitStack() as stack:
        engines = {name: _engines(config, bundle, name, manners, stack) for name in ("network", "detector")}
        for name, by_manner in engines.items():
            report[name] = _measure(by_manner, seconds / 3)
    report["both"] = _end_to_end(config, bundle, seconds / 3)
    print("\n".join(table(report)))
    if file:
        write_json(file, report)


def _engines(
    config: Config, bundle: Bundle, name: str, manners: list[tuple[str, bool]], stack: ExitStack
) -> dict[str, Engine]:
    size = canvas(config.locate, config.capture.width, config.capture.height)
    graph = {"network": bundle_graphs(bundle)[0], "detector": (model_path(config.locate.model), detector_options(size))}
    found = {}
    for memory, captured in manners:
        infer = config.infer.model_copy(update={"memory": memory, "cuda_graph": captured})
        engine = open_engine(*graph[name], infer, lambda _: None)
        stack.callback(engine.close)
        found[f"{memory}, {'graph' if engine.graph_used else 'stream'}"] = engine
    return found


def _measure(engines: dict[str, Engine], seconds: float) -> dict[str, dict[str, float]]:
    """Per manner: p50 and p99 of a call, p50 of the GPU alone, and the difference, microseconds."""
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in engines}
    for engine in engines.values():
        for _ in range(WARM):
            engine.infer(_feed(engine))
    for _ in range(ROUNDS):
        for name, engine in engines.items():
            _turn(engine, times[name], seconds / ROUNDS / len(engines))
    return {name: _figures(*pair) for name, pair in times.items()}


def _turn(engine: Engine, into: tuple[list[float], list[float]], seconds: float) -> None:
    feed, end = _feed(engine), time.monotonic() + seconds
    while True:
        into[0].append(runner_seconds(engine, feed))
        into[1].append(engine.gpu_seconds(feed))
        if time.monotonic() >= end:
            return


def _figures(runner: list[float], gpu: list[float]) -> dict[str, float]:
    p50, p99 = np.percentile(runner, (50, 99)) * 1e6
    alone = float(np.median(gpu)) * 1e6
    return {"p50_us": float(p50), "p99_us": float(p99), "gpu_us": alone, "runner_us": float(p50) - alone}


def _feed(engine: Engine) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    return {name: rng.integers(0, 2, shape).astype(dtype) for name, (dtype, shape) in engine.inputs.items()}


def _end_to_end(config: Config, bundle: Bundle, seconds: float) -> dict[str, float]:
    """Detector and network one after the other, as in the pipeline, microseconds."""
    golden = bundle.golden
    pair = AlignedPair(golden.visible[:1], golden.infrared[:1], golden.present[:1])
    frame = np.zeros((config.capture.height, config.capture.width, 3), np.uint8)
    network = open_network(bundle, config.infer.model_copy(update={"backend": "tensorrt"}))
    try:
        detector = app.detector_engine(config, lambda _: None)
        try:
            times = _repeat(lambda: (detector.detect(frame), network.infer(pair)), seconds)
        finally:
            detector.close()
    finally:
        network.close()
    p50, p99 = np.percentile(times, (50, 99)) * 1e6
    return {"p50_us": float(p50), "p99_us": float(p99)}


def _repeat(work: Callable[[], object], seconds: float) -> list[float]:
    for _ in range(WARM):
        work()
    times: list[float] = []
    end = time.monotonic() + seconds
    while not times or time.monotonic() < end:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return times


def within(t: dict[str, float]) -> bool:
    """Whether our runner adds at most 10 % or 30 microseconds to the GPU's own time."""
    return t["runner_us"] <= max(0.1 * t["gpu_us"], 30.0)


def table(report: dict[str, Any]) -> list[str]:
    rows = [f"{report['gpu']}, {report['library']}, microseconds, batch 1"]
    rows.append(
        f"  {'engine':<10}{'manner':<16}{'p50':>9}{'p99':>9}{'GPU alone':>11}{'runner':>9}{'share':>8}  10 % or 30 us"
    )
    for name in ("network", "detector"):
        rows += [
            f"  {name:<10}{manner:<16}{t['p50_us']:>9.0f}{t['p99_us']:>9.0f}{t['gpu_us']:>11.0f}{t['runner_us']:>9.0f}"
            f"{t['runner_us'] / t['gpu_us']:>8.1%}  {'within' if within(t) else 'OVER'}"
            for manner, t in report[name].items()
        ]
    both = report["both"]
    rows.append(f"  detector, decoding and network together: p50 {both['p50_us']:.0f}, p99 {both['p99_us']:.0f}")
    return rows
