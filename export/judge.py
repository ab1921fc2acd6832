"""Holds a quantised graph against the float graph on views of the watched rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from edgefer.types import F32
from export import metrics, onnx_graph
from export.data.faces import Labels
from export.lenses import Inputs

MAX_DROP, MIN_AGREEMENT = 0.005, 0.97


@dataclass(frozen=True)
class Candidate:
    """One way to quantise and what it gives on the watched views: shares in 0..1, size in bytes."""

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

    @property
    def title(self) -> str:
        kept = f", float: {' '.join(self.keep_float)}" if self.keep_float else ""
        right = f"{self.accuracy:.2%} (float {self.float_accuracy:.2%})"
        return f"{self.method}{kept}: {right}, agreement {self.agreement:.2%}, {self.size / 1e6:.2f} MB"


@dataclass(frozen=True)
class Judge:
    """expected: the float graph's logits float32 [N, K]; ``exact``: run Q/DQ as they stand (TensorRT's arithmetic)."""

    inputs: Inputs
    labels: Labels
    expected: F32
    threads: int
    exact: bool = False

    @classmethod
    def of(cls, source: Path, inputs: Inputs, labels: Labels, threads: int) -> Judge:
        return cls(inputs, labels, onnx_graph.run(source, inputs, threads=threads), threads)

    @property
    def float_accuracy(self) -> float:
        return metrics.accuracy(self.expected, self.labels)

    def logits(self, file: Path) -> F32:
        return onnx_graph.run(file, self.inputs, threads=self.threads, exact=self.exact)

    def __call__(self, file: Path, method: str, keep_float: tuple[str, ...]) -> Candidate:
        logits = self.logits(file)
        right, same = metrics.accuracy(logits, self.labels), metrics.agreement(logits, self.expected)
        return Candidate(method, keep_float, right, self.float_accuracy, same, file.stat().st_size)

    def fewer(self, views: int) -> Judge:
        """The same over about so many views, evenly spread: the lens states lie one behind the other."""
        step = max(1, len(self.labels) // views)
        visible, infrared, present = self.inputs
        part = (visible[::step], infrared[::step], present[::step])
        return replace(self, inputs=part, labels=self.labels[::step], expected=self.expected[::step])
