"""The bundle's network over one graph or two (an encoder and a head), whatever backend runs the graphs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edgefer.bundle import LENSES, Bundle
from edgefer.errors import BundleError
from edgefer.infer.window import Window
from edgefer.types import F32, AlignedPair, Scores

Array = np.ndarray[Any, Any]
Signature = dict[str, tuple[np.dtype[Any], tuple[int, ...]]]
"""input name -> type and shape of a batch of one"""
Progress = Callable[[str], object]
"""told in a few words what a long start is doing, every call a step done; empty: nothing new. May raise to end it."""


class Graph(Protocol):
    """One graph ready to run. ``close`` frees it and may be called twice."""

    def run(self, feed: dict[str, Array]) -> F32:
        """float32 [numbers of the output] of a batch of one. Raises ValueError on a wrong shape or type, or closed."""
        ...

    def close(self) -> None: ...


OpenGraph = Callable[[Path, Signature, tuple[str, int]], Graph]
"""file, inputs, output (name, numbers per row) -> graph; raises BundleError or ServiceError of one line"""


def graph_files(bundle: Bundle, runtime: str) -> tuple[Path, Path | None]:
    """The graph for ``runtime`` and, of a temporal network, its head.

    A bundle that names none for TensorRT is asked for its one graph: the builder and the golden vectors judge it.
    """
    temporal = bundle.manifest.temporal is not None
    try:
        return bundle.graph(runtime), bundle.head(runtime) if temporal else None
    except BundleError:
        if runtime != "tensorrt":
            raise
        return bundle.graph("onnxruntime"), bundle.head("onnxruntime") if temporal else None


def crop_inputs(bundle: Bundle) -> Signature:
    """What every network is fed: one pair."""
    crop = bundle.manifest.crop
    return {
        "visible": (np.dtype(np.uint8), (1, crop.size, crop.size, crop.visible_channels)),
        "infrared": (np.dtype(np.uint8), (1, crop.size, crop.size, 1)),
        "present": (np.dtype(np.float32), (1, 2)),
    }


def check_feed(inputs: Signature, feed: dict[str, Array]) -> None:
    """Raises ValueError that names the input."""
    for name, (dtype, shape) in inputs.items():
        if feed[name].dtype != dtype or feed[name].shape != shape:
            raise ValueError(f"{name}: {feed[name].dtype} {feed[name].shape}, expected {dtype} {shape}")


class FusionNetwork:
    """Opens ``bundle``'s graph for ``runtime``, of a temporal network both. Raises BundleError or ServiceError."""

    def __init__(self, bundle: Bundle, runtime: str, open_graph: OpenGraph) -> None:
        m, t = bundle.manifest, bundle.manifest.temporal
        self.backend = runtime
        answer = ("logits", len(m.labels))
        file, head = graph_files(bundle, runtime)
        self._head: Graph | None = None
        self._graph = open_graph(file, crop_inputs(bundle), answer if t is None else ("features", t.features))
        if t is not None and head is not None:
            frames: Signature = {"features": (np.dtype(np.float32), (1, t.window, t.features))}
            try:
                self._head = open_graph(head, frames, answer)
            except BaseException:
                self.close()
                raise
            self._window = Window(t.window, t.features)
            self._needed = [LENSES.index(lens) for lens in m.lenses_needed]

    def infer(self, pair: AlignedPair) -> Scores:
        out = self._graph.run({"visible": pair.visible, "infrared": pair.infrared, "present": pair.present})
        if self._head is None:
            return Scores(out)
        scores = Scores(self._head.run({"features": self._window.push(out)}))
        if not pair.present[0, self._needed].all():
            self.reset()  # what was not seen must not be remembered
        return scores

    def reset(self) -> None:
        if self._head is not None:
            self._window.reset()

    def close(self) -> None:
        self._graph.close()
        if self._head is not None:
            self._head.close()
