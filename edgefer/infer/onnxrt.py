"""ONNX Runtime on the processor: the backend that runs everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgefer.bundle import Bundle
from edgefer.config import Infer
from edgefer.errors import BundleError, ServiceError
from edgefer.infer.network import FusionNetwork, Progress, Signature, check_feed
from edgefer.types import F32

_TYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}


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
        check_feed(self._inputs, feed)
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


def onnx_network(bundle: Bundle, config: Infer, _progress: Progress) -> FusionNetwork:
    """The backend: ``bundle``'s graphs for ONNX Runtime. Raises BundleError or ServiceError."""
    return FusionNetwork(bundle, "onnxruntime", lambda file, inputs, output: OnnxGraph(file, config, inputs, output))


def _options(ort: Any, config: Infer) -> Any:
    """Threads are limited and do not spin: a busy neighbour core must not slow inference down."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = config.threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options
