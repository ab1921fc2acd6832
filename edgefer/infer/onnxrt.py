"""ONNX Runtime on the processor: the backend that runs everywhere."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgefer.bundle import Bundle
from edgefer.config import Infer
from edgefer.errors import BundleError, ServiceError
from edgefer.types import AlignedPair, Scores

_TYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}


class OnnxRuntime:
    """Opens ``bundle``'s graph for ``onnxruntime``. Raises BundleError or ServiceError of one line."""

    def __init__(self, bundle: Bundle, config: Infer) -> None:
        try:
            import onnxruntime as ort
        except ImportError:
            raise ServiceError("onnxruntime is not installed: pip install 'edgefer[cpu]'") from None
        file = bundle.graph("onnxruntime")
        try:
            self._session = ort.InferenceSession(file.read_bytes(), _options(ort, config), ["CPUExecutionProvider"])
        except Exception as e:
            first = str(e).splitlines()[0]
            raise BundleError(f"{file}: ONNX Runtime cannot load it ({first}); install the bundle again") from None
        m = bundle.manifest
        s = m.crop.size
        self._inputs = {
            "visible": (np.dtype(np.uint8), (1, s, s, m.crop.visible_channels)),
            "infrared": (np.dtype(np.uint8), (1, s, s, 1)),
            "present": (np.dtype(np.float32), (1, 2)),
        }
        self._check_signature(str(file), len(m.labels))

    def infer(self, pair: AlignedPair) -> Scores:
        feed: dict[str, np.ndarray[Any, Any]] = {
            "visible": pair.visible, "infrared": pair.infrared, "present": pair.present,
        }  # fmt: skip
        for name, (dtype, shape) in self._inputs.items():
            if feed[name].dtype != dtype or feed[name].shape != shape:
                raise ValueError(f"{name}: {feed[name].dtype} {feed[name].shape}, expected {dtype} {shape}")
        if self._session is None:
            raise ValueError("the network is closed")
        return Scores(self._session.run(["logits"], feed)[0][0])

    def close(self) -> None:
        self._session = None

    def _check_signature(self, file: str, classes: int) -> None:
        inputs = {
            i.name: (np.dtype(_TYPES.get(i.type, object)), tuple(i.shape[1:])) for i in self._session.get_inputs()
        }
        expected = {name: (dtype, shape[1:]) for name, (dtype, shape) in self._inputs.items()}
        outputs = {o.name: o.shape[-1] for o in self._session.get_outputs()}
        if inputs != expected or outputs != {"logits": classes}:
            raise BundleError(f"{file}: the graph's inputs or outputs do not fit the manifest; make the bundle again")


def _options(ort: Any, config: Infer) -> Any:
    """Threads are limited and do not spin: a busy neighbour core must not slow inference down."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = config.threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options
