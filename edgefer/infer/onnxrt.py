"""ONNX Runtime on the processor: the backend that runs everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgefer.bundle import LENSES, Bundle
from edgefer.config import Infer
from edgefer.errors import BundleError, ServiceError
from edgefer.infer.window import Window
from edgefer.types import F32, AlignedPair, Scores

_TYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}
Signature = dict[str, tuple[np.dtype[Any], tuple[int, ...]]]
"""input name -> type and shape of a batch of one"""


class OnnxGraph:
    """One graph file, its inputs and its only output (name, numbers per row) held against what the manifest says.

    Raises BundleError or ServiceError of one line.
    """

    def __init__(self, file: Path, config: Infer, inputs: Signature, output: tuple[str, int]) -> None:
        try:
            import onnxruntime as ort
        except ImportError:
            raise ServiceError("onnxruntime is not installed: pip install 'edgefer[cpu]'") from None
        try:
            self._session = ort.InferenceSession(file.read_bytes(), _options(ort, config), ["CPUExecutionProvider"])
        except Exception as e:
            first = str(e).splitlines()[0]
            raise BundleError(f"{file}: ONNX Runtime cannot load it ({first}); install the bundle again") from None
        self._inputs, self._output = inputs, output
        self._check_signature(file)

    def run(self, feed: dict[str, np.ndarray[Any, Any]]) -> F32:
        """float32 [numbers of the output] of a batch of one. Raises ValueError on a wrong shape or type."""
        for name, (dtype, shape) in self._inputs.items():
            if feed[name].dtype != dtype or feed[name].shape != shape:
                raise ValueError(f"{name}: {feed[name].dtype} {feed[name].shape}, expected {dtype} {shape}")
        if self._session is None:
            raise ValueError("the network is closed")
        out: F32 = self._session.run([self._output[0]], feed)[0][0]
        return out

    def close(self) -> None:
        self._session = None

    def _check_signature(self, file: Path) -> None:
        inputs = {
            i.name: (np.dtype(_TYPES.get(i.type, object)), tuple(i.shape[1:])) for i in self._session.get_inputs()
        }
        expected = {name: (dtype, shape[1:]) for name, (dtype, shape) in self._inputs.items()}
        outputs = {o.name: o.shape[-1] for o in self._session.get_outputs()}
        if inputs != expected or outputs != dict([self._output]):
            raise BundleError(f"{file}: the graph's inputs or outputs do not fit the manifest; make the bundle again")


class OnnxRuntime:
    """Opens ``bundle``'s graph for ``onnxruntime``, of a temporal network both. Raises BundleError or ServiceError."""

    def __init__(self, bundle: Bundle, config: Infer) -> None:
        m = bundle.manifest
        s, answer = m.crop.size, ("logits", len(m.labels))
        inputs: Signature = {
            "visible": (np.dtype(np.uint8), (1, s, s, m.crop.visible_channels)),
            "infrared": (np.dtype(np.uint8), (1, s, s, 1)),
            "present": (np.dtype(np.float32), (1, 2)),
        }
        t = m.temporal
        output = answer if t is None else ("features", t.features)
        self._graph = OnnxGraph(bundle.graph("onnxruntime"), config, inputs, output)
        self._head: OnnxGraph | None = None
        if t is not None:
            frames: Signature = {"features": (np.dtype(np.float32), (1, t.window, t.features))}
            self._head = OnnxGraph(bundle.head("onnxruntime"), config, frames, answer)
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


def _options(ort: Any, config: Infer) -> Any:
    """Threads are limited and do not spin: a busy neighbour core must not slow inference down."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = config.threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options
