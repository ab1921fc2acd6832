"""``python -m export engine``: NVIDIA's own builder on the graph for TensorRT, and what became of every layer.

TensorRT for RTX builds without a GPU (the same Python API), so a workstation and CI can prove that the graph parses and
that every quantised convolution is INT8. It does not prove a Jetson's fusions or speed: the engine that a device runs
is built on that device.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from edgefer.bundle import open_bundle
from edgefer.errors import ServiceError
from export.engine_layers import Layer, fallen_back, from_inspector, from_log, table
from export.errors import EngineError, InputError
from export.tensorrt_graph import claims, convolutions
from export.tensorrt_rules import check
from export.tensorrt_search import FILES

LIBRARIES = ("tensorrt_rtx", "tensorrt")
TARGET = "SM86"
"""Ampere as in a Jetson Orin (SM87), which TensorRT for RTX does not build for"""
TARGETS = ("SM75", "SM80", "SM86", "SM89", "SM120", "SM121")
Say = Callable[[str], None]


@dataclass(frozen=True)
class Built:
    """plan: the serialised engine; builder: library and version; target: GPU it is for."""

    plan: bytes
    layers: list[Layer]
    builder: str
    target: str


def source(given: Path, out: Path | None, precision: str) -> Path:
    """The graph to build: an ONNX file itself, a bundle's for TensorRT, or what ``quantize`` left in ``out``."""
    if given.suffix == ".onnx":
        return given
    if given.is_dir():
        if precision != "int8":
            raise InputError(f"{given}: a bundle carries the int8 graph alone; name the recipe to build {precision}")
        return open_bundle(given).graph("tensorrt")
    assert out is not None
    return out / FILES[precision]


def build_and_check(file: Path, to: Path, target: str, say: Say) -> Built:
    """Builds ``file``, writes `NAME.plan` and `NAME.layers.json` into ``to``.

    Raises InputError (no such file, or one that does not parse), ServiceError (no builder) and EngineError when a
    convolution of the quantised part is not INT8; the report is written even then, the plan is not.
    """
    model, plan = load(file), to / f"{file.stem}.plan"
    plan.unlink(missing_ok=True)  # of an earlier build: it would pass for this one's
    wanted = claims(model)
    if wanted:
        check(model, str(file))
    built = build(model.SerializeToString(), file.name, target)
    lost = fallen_back(built.layers, wanted)
    _report(built, convolutions(model), wanted, lost, file, to)
    say(table(built.layers))
    count = sum(layer.multiplies and layer.int8 for layer in built.layers)
    say(f"{file.name}: {built.builder}, {built.target}, {len(built.plan) / 1e6:.1f} MB, {count} INT8 convolutions of "
        f"{len(convolutions(model))}; {len(wanted)} are to be INT8")  # fmt: skip
    if lost:
        more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        raise EngineError(f"{file}: not INT8 in the engine: {lost[0]}{more}; see {to / file.stem}.layers.json")
    plan.write_bytes(built.plan)
    return built


def load(file: Path) -> onnx.ModelProto:
    try:
        return onnx.load(str(file))
    except FileNotFoundError:
        raise InputError(f"{file}: not found; run `python -m export quantize` first") from None
    except Exception as e:
        raise InputError(f"{file}: not an ONNX graph ({type(e).__name__}); run `python -m export quantize`") from None


def library() -> Any:
    """TensorRT for RTX, else TensorRT. Raises ServiceError when neither is installed."""
    for name in LIBRARIES:
        try:
            return importlib.import_module(name)
        except (ImportError, OSError):  # not installed, or without its own libraries
            continue
    raise ServiceError("no TensorRT builder is installed: pip install 'edgefer[engine]' (it needs no GPU)")


def build(graph: bytes, name: str, target: str = TARGET) -> Built:
    """A strongly typed build: every precision comes from the graph. Raises InputError or EngineError."""
    trt = library()
    rtx = trt.__name__ == LIBRARIES[0]
    log = _log(trt)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(graph):
        first = parser.get_error(0)
        raise InputError(f"{name}: the parser refuses {first.node_name() or 'it'}: {_reason(first.desc())}")
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if rtx:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, target), 0)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(f"{name}: the builder gave up: {_reason(log.worst)}")
    data = bytes(plan)
    layers = from_log(log.lines) if rtx else _inspected(trt, log, data)
    if not layers:
        raise EngineError(f"{name}: {trt.__name__} {trt.__version__} built it but names no layers; nothing was checked")
    return Built(data, layers, f"{trt.__name__} {trt.__version__}", target if rtx else "this machine's GPU")


def _inspected(trt: Any, log: Any, plan: bytes) -> list[Layer]:
    """TensorRT itself needs a GPU to build, so the engine can be opened here and asked."""
    engine = trt.Runtime(log).deserialize_cuda_engine(plan)
    if engine is None:
        raise EngineError(f"the engine just built cannot be opened: {_reason(log.worst)}")
    return from_inspector(engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON))


def _log(trt: Any) -> Any:
    """A logger that keeps every line; the layers come at VERBOSE."""

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[str] = []
            self.worst = "it said nothing"

        def log(self, severity: Any, message: str) -> None:
            self.lines += message.splitlines()
            # Without a driver the library says so in an error of its own; that is no fault of the graph.
            if severity <= trt.ILogger.ERROR and "CUDA" not in message:
                self.worst = message

    return Log()


def _reason(text: str) -> str:
    """What the library says, on one line; that there is no driver here is no reason."""
    said = " ".join(line.strip() for line in text.splitlines() if "Cuda Runtime" not in line)
    return said[:300] or "no reason given"


def _report(built: Built, everything: Sequence[str], wanted: set[str], lost: list[str], file: Path, to: Path) -> None:
    to.mkdir(parents=True, exist_ok=True)
    report = {
        "graph": file.name, "builder": built.builder, "target": built.target, "plan_bytes": len(built.plan),
        "convolutions": len(everything), "to_be_int8": sorted(wanted), "fell_back": lost,
        "layers": [asdict(layer) for layer in built.layers],
    }  # fmt: skip
    (to / f"{file.stem}.layers.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
