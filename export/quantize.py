"""``python -m export quantize``: the trained network as an INT8 graph for ONNX Runtime on the processor.

Activations uint8, weights int8 of seven bits (reduced range): full-range INT8 saturates 16-bit sums on processors
without VNNI and gives wrong answers there. Batch norm is folded before; the standardisation of the crops, the gates'
sigmoids and the soft arithmetic between stay in float.

The calibration method, and the layers that stay in float if the target is missed, are chosen on PublicTest; the
calibration images are training pairs with all their faults (dark cabin, covered patch, dead lens).
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from edgefer.types import F32
from export import checkpoint, lenses, metrics, onnx_graph, temporal_graph
from export.data.augment import PairDataset
from export.data.faces import Faces, Labels
from export.lenses import Inputs
from export.models.network import BOTH, Temporal
from export.recipe import Recipe

PRECISION = "int8 U8S8, reduced range"
FLOAT, INT8, REPORT = "classifier-fp32.onnx", "classifier.onnx", "quantisation.json"
METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}
STEMS = ("visible.conv1", "infrared.conv1", "backbone.conv1", "classifier.conv1")
FALLBACKS = ((*STEMS,), (*STEMS, "gate", "head", "Gemm"))
"""name parts kept in float, tried in this order when every method misses the target: stem, then linear layers too"""
MAX_DROP, MIN_AGREEMENT = 0.005, 0.97
WATCHED = 1000
"""PublicTest images on which candidates are compared, each with both lenses, visible only and infrared only"""
Say = Callable[[str], None]


@dataclass(frozen=True)
class Candidate:
    """One way to quantise and what it gives on the watched images: shares in 0..1, size in bytes."""

    method: str
    keep_float: tuple[str, ...]
    accuracy: float
    float_accuracy: float
    agreement: float
    size: int

    @property
    def good(self) -> bool:
        return self.float_accuracy - self.accuracy <= MAX_DROP and self.agreement >= MIN_AGREEMENT

    @property
    def score(self) -> float:
        return self.accuracy + self.agreement


class Pairs(CalibrationDataReader):
    """Feeds inputs one by one; ORT asks for them in slices so that histograms need no room for all of them."""

    def __init__(self, inputs: Inputs) -> None:
        self._inputs, self._next, self._end = inputs, 0, len(inputs[2])

    def __len__(self) -> int:
        return len(self._inputs[2])

    def set_range(self, start_index: int, end_index: int) -> None:
        self._next, self._end = start_index, end_index

    def get_next(self) -> dict[str, npt.NDArray[Any]] | None:
        if self._next >= self._end:
            return None
        one = slice(self._next, self._next + 1)
        self._next += 1
        return lenses.feed(self._inputs, one)


def calibration_inputs(faces: Faces, recipe: Recipe, needed: Sequence[str] = ()) -> Inputs:
    """``quantisation.calibration_images`` random training pairs, drawn as in training but from another stream."""
    part = lenses.head(faces, recipe.quantisation.calibration_images, recipe.seed)
    views = recipe.augment.model_copy(update={"lens_lost": 0.0}) if needed else recipe.augment
    data = PairDataset(part, recipe.crop, BOTH, views, recipe.seed + 5000, 0)
    v, i, present, _ = zip(*(data[k] for k in range(len(data))), strict=True)
    visible, infrared = (np.stack([x.numpy()[0] for x in lens])[..., None] for lens in (v, i))
    return visible, infrared, np.stack([p.numpy() for p in present])


def quantize_graph(
    source: Path, target: Path, calibration: Inputs, method: str, keep_float: Sequence[str] = ()
) -> Path:
    """One U8S8 Q/DQ graph with reduced range; nodes whose name or weights hold a part of ``keep_float`` stay float."""
    count = len(calibration[2])
    stride = next(s for s in range(min(64, count), 0, -1) if count % s == 0)
    with _quiet():
        quantize_static(
            str(source), str(target), Pairs(calibration), quant_format=QuantFormat.QDQ, per_channel=True,
            reduce_range=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv", "Gemm", "Add"], nodes_to_exclude=_excluded(source, keep_float),
            calibrate_method=METHODS[method], extra_options={"CalibStridedMinMax": stride, "CalibPercentile": 99.99},
        )  # fmt: skip
    return target


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """ORT prints every histogram and asks for a pre-processing that has nothing left to do here."""
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)


def _excluded(source: Path, keep_float: Sequence[str]) -> list[str]:
    """The kept layers, and every sum with a constant: the residual sums have none, the standardisation's has."""
    graph = onnx.load(str(source)).graph
    constants = {i.name for i in graph.initializer}
    out = []
    for node in graph.node:
        names = " ".join([node.name, *node.input])
        arithmetic = node.op_type == "Add" and any(name in constants for name in node.input)
        if arithmetic or any(part in names for part in keep_float):
            out.append(node.name)
    return out


def quantize(recipe: Recipe, weights: Path, out: Path, train: Faces, public: Faces, say: Say, threads: int = 1) -> Path:
    """Writes the float graph, the best INT8 graph and ``quantisation.json`` with all figures into ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    trained = checkpoint.load(weights, recipe)
    if isinstance(trained.model, Temporal):
        return _two_graphs(recipe, trained, trained.model, out, say)
    source = onnx_graph.export_float(trained.model, recipe.crop, out / FLOAT)
    watched = lenses.head(public, WATCHED, recipe.seed)
    inputs, labels = lenses.mixed(watched, recipe.seed, trained.model.needs)
    judge = Judge(source, inputs, labels, threads)
    say(f"float graph: {judge.float_accuracy:.2%} on {len(labels)} PublicTest views, {_mb(source)}")
    calibration = calibration_inputs(train, recipe, trained.model.needs)
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        tried = _search(recipe, source, Path(scratch), calibration, judge, say)
        best = max(tried, key=lambda c: (c.good, c.score))
        _file(Path(scratch), best).replace(out / INT8)
    _report(out, trained, {
        "chosen": asdict(best), "candidates": [asdict(c) for c in tried], "precision": PRECISION,
        "calibration": f"{len(calibration[2])} training pairs", "compared_on": f"{len(labels)} PublicTest views",
    })  # fmt: skip
    say(f"kept: {_title(best)} -> {out / INT8}" + ("" if best.good else " (misses the target)"))
    return out / INT8


def _report(out: Path, trained: checkpoint.Trained, more: dict[str, Any]) -> None:
    report = {
        **more, "simulated": lenses.SIMULATED, "checkpoint_epoch": trained.epoch, "labels": list(trained.labels),
        "fusion": trained.model.fusion, "lenses_needed": list(trained.model.needs),
        "training_data_sha256": trained.data,
    }  # fmt: skip
    (out / REPORT).write_text(json.dumps(report, indent=1) + "\n")


def _two_graphs(recipe: Recipe, trained: checkpoint.Trained, network: Temporal, out: Path, say: Say) -> Path:
    """Encoder and head of a network over several frames, in float32: their INT8 form has not been tried."""
    graphs = temporal_graph.export_temporal(network, recipe.crop, out)
    _report(out, trained, {"precision": "float32", "temporal": graphs.section()})
    say(f"encoder and head, float32: {graphs.encoder}, {graphs.head}")
    return graphs.encoder


@dataclass
class Judge:
    """Holds a candidate against the float graph on the watched views."""

    source: Path
    inputs: Inputs
    labels: Labels
    threads: int

    def __post_init__(self) -> None:
        self.expected: F32 = onnx_graph.run(self.source, self.inputs, threads=self.threads)
        self.float_accuracy = metrics.accuracy(self.expected, self.labels)

    def __call__(self, file: Path, method: str, keep_float: tuple[str, ...]) -> Candidate:
        logits = onnx_graph.run(file, self.inputs, threads=self.threads)
        right, same = metrics.accuracy(logits, self.labels), metrics.agreement(logits, self.expected)
        return Candidate(method, keep_float, right, self.float_accuracy, same, file.stat().st_size)


def _search(recipe: Recipe, source: Path, scratch: Path, data: Inputs, judge: Judge, say: Say) -> list[Candidate]:
    """Every method with the recipe's own exceptions; then, only if all miss the target, more layers in float."""
    kept = tuple(recipe.quantisation.keep_float)
    tried = [_try(source, scratch, data, judge, method, kept, say) for method in METHODS]
    for more in FALLBACKS:
        if any(c.good for c in tried):
            break
        best = max(tried, key=lambda c: c.score)
        tried.append(_try(source, scratch, data, judge, best.method, kept + more, say))
    return tried


def _try(
    source: Path, scratch: Path, data: Inputs, judge: Judge, method: str, kept: tuple[str, ...], say: Say
) -> Candidate:
    file = scratch / "candidate.onnx"
    candidate = judge(quantize_graph(source, file, data, method, kept), method, kept)
    file.replace(_file(scratch, candidate))
    say(_title(candidate))
    return candidate


def _file(scratch: Path, c: Candidate) -> Path:
    return scratch / f"{c.method}-{len(c.keep_float)}.onnx"


def _title(c: Candidate) -> str:
    kept = f", float: {' '.join(c.keep_float)}" if c.keep_float else ""
    figures = f"{c.accuracy:.2%} (float {c.float_accuracy:.2%}), agreement {c.agreement:.2%}, {c.size / 1e6:.2f} MB"
    return f"{c.method}{kept}: {figures}"


def _mb(file: Path) -> str:
    return f"{file.stat().st_size / 1e6:.2f} MB"
