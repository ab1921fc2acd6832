"""The best INT8 graph for TensorRT: three calibrations compared, each layer's own noise, the loudest kept in FP16.

Judged on the processor with Q/DQ computed as they stand, which is what an engine computes up to the rounding of FP16.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgefer.types import F32
from export import metrics, tensorrt_graph, tensorrt_rules
from export.calibration import METHODS
from export.judge import Candidate, Judge
from export.lenses import Inputs
from export.recipe import Recipe

FILES = {
    "int8": "classifier-tensorrt.onnx",
    "fp16": "classifier-tensorrt-fp16.onnx",
    "fp32": "classifier-tensorrt-fp32.onnx",
}
"""precision -> file in the working folder; the bundle carries the first"""
KEEP = (2, 4, 8)
"""how many of the most sensitive convolutions are tried in FP16: 2 always, more while the target is missed"""
FINAL_VIEWS = 750
"""views for the finished graph: FP16 has no kernels on most processors and is computed slowly there"""
Say = Callable[[str], None]


@dataclass(frozen=True)
class Noise:
    """What INT8 in one convolution alone does to the logits: signal to noise in dB, share of equal answers."""

    layer: str
    decibel: float
    agreement: float


def search(recipe: Recipe, source: Path, out: Path, calibration: Inputs, judge: Judge, say: Say) -> dict[str, Any]:
    """Writes the three graphs into ``out``; returns what `quantisation.json` says of them under ``tensorrt``."""
    work = _Work(source, calibration, judge, say)
    kept = tuple(n for n in work.layers if any(part in n for part in recipe.quantisation.keep_float))
    tried = [work.attempt(method, kept) for method in METHODS]
    best = max(tried, key=lambda c: c.score)
    noise = work.noise(best.method, recipe.quantisation.sensitivity_views)
    for step, count in enumerate(KEEP):
        if (step and any(c.good for c in tried)) or count > len(noise):
            break
        loud = tuple(n.layer for n in noise[:count])
        tried.append(work.attempt(best.method, tuple(dict.fromkeys((*kept, *loud)))))
    best = max(tried, key=lambda c: (c.good, c.score))
    final = work.write(best, out)
    return {
        "chosen": asdict(best), "candidates": [asdict(c) for c in tried], "final": asdict(final),
        "sensitivity": [asdict(n) for n in noise], "precision": _precision(work.layers, best.keep_float),
        "file": FILES["int8"],
    }  # fmt: skip


class _Work:
    """The float graph, its calibrations (each made once) and the judge."""

    def __init__(self, source: Path, calibration: Inputs, judge: Judge, say: Say) -> None:
        self.model = tensorrt_graph.load(source)
        self.layers = tensorrt_graph.convolutions(self.model)
        self._calibration, self._judge, self._say = calibration, judge, say
        self._ranges: dict[str, Any] = {}

    def ranges(self, method: str) -> Any:
        if method not in self._ranges:
            self._ranges[method] = tensorrt_graph.measured(self.model, self._calibration, method)
        return self._ranges[method]

    def quantised(self, method: str, layers: Collection[str]) -> onnx.ModelProto:
        return tensorrt_graph.quantised(self.model, self.ranges(method), layers)

    def attempt(self, method: str, kept: tuple[str, ...]) -> Candidate:
        """All convolutions but ``kept`` in INT8, the rest float32, on every watched view."""
        model = self.quantised(method, [n for n in self.layers if n not in kept])
        found = _on_disk(model, lambda file: _exact(self._judge)(file, method, kept))
        self._say(f"TensorRT, {found.title}")
        return found

    def noise(self, method: str, views: int) -> list[Noise]:
        """Each convolution alone in INT8, the loudest first; printed as a table."""
        if not views:
            return []
        judge = _exact(self._judge).fewer(views)
        found = []
        for layer in self.layers:
            logits = _on_disk(self.quantised(method, [layer]), judge.logits)
            same = metrics.agreement(logits, judge.expected)
            found.append(Noise(layer, decibel(judge.expected, logits), same))
        found.sort(key=lambda n: n.decibel)
        self._say(f"INT8 in one convolution alone ({method}, {len(judge.labels)} views), most sensitive first:")
        for n in found:
            self._say(f"  {n.layer:32} {n.decibel:5.1f} dB   agreement {n.agreement:.2%}")
        return found

    def write(self, best: Candidate, out: Path) -> Candidate:
        """The three files; the INT8 one held to the rules and judged once more with its FP16."""
        int8 = self.quantised(best.method, [n for n in self.layers if n not in best.keep_float])
        models = {"int8": tensorrt_graph.half(int8), "fp16": tensorrt_graph.half(self.model), "fp32": self.model}
        for precision, model in models.items():
            finished = tensorrt_graph.one_at_a_time(model)
            tensorrt_graph.labelled(finished, precision, best.keep_float)
            onnx.checker.check_model(finished, full_check=True)
            tensorrt_rules.check(finished, FILES[precision])
            onnx.save(finished, str(out / FILES[precision]))
        final = _exact(self._judge).fewer(FINAL_VIEWS)(out / FILES["int8"], best.method, best.keep_float)
        self._say(f"TensorRT, kept with FP16: {final.title}" + ("" if final.good else " (misses the target)"))
        return final


def _exact(judge: Judge) -> Judge:
    return replace(judge, exact=True)


def _on_disk(model: onnx.ModelProto, use: Callable[[Path], Any]) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "candidate.onnx"
        onnx.save(model, str(file))
        return use(file)


def decibel(expected: F32, given: F32) -> float:
    """Signal to noise of logits, 10 log10(power / power of the difference); 99 when they are equal."""
    noise = float(np.square(given - expected).sum())
    return min(99.0, 10 * float(np.log10(np.square(expected).sum() / noise))) if noise > 0 else 99.0


def _precision(layers: list[str], kept: Collection[str]) -> str:
    return f"int8 Q/DQ symmetric, {len(layers) - len(set(kept))} of {len(layers)} convolutions, rest fp16"
