"""A temporal network as the device runs it: two graphs, so that a frame is encoded once.

encoder  visible uint8 [N, S, S, 1], infrared uint8 [N, S, S, 1], present float32 [N, 2] -> features float32 [N, D]
head     features float32 [N, T, D], oldest frame first -> logits float32 [N, K]
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor, nn

from edgefer.types import F32
from export.errors import UsageError
from export.lenses import Inputs
from export.models.network import Temporal
from export.onnx_graph import OPSET, TOLERANCE, _quiet, _strip, folded, random_inputs

ENCODER = "encoder.onnx"
HEAD = "head.onnx"


class EncoderGraph(nn.Module):
    """Raw crops as the device holds them in, features out."""

    def __init__(self, network: Temporal) -> None:
        super().__init__()
        self.network = network

    def forward(self, visible: Tensor, infrared: Tensor, present: Tensor) -> Tensor:
        n, h, w, _ = visible.shape
        # The cast comes first, as in DeviceGraph.
        v, i = (x.float().reshape(n, 1, h, w) for x in (visible, infrared))
        return self.network.encode(v, i, present)


class HeadGraph(nn.Module):
    """Features of the window in, logits out."""

    def __init__(self, network: Temporal) -> None:
        super().__init__()
        self.network = network

    def forward(self, features: Tensor) -> Tensor:
        return self.network.head(features)


@dataclass(frozen=True)
class TwoGraphs:
    """Where the graphs lie and what the manifest's ``temporal`` says of them."""

    encoder: Path
    head: Path
    window: int
    """T, frames"""
    features: int
    """D, numbers per frame"""

    def section(self, precision: str = "float32") -> dict[str, Any]:
        """The manifest's ``temporal`` section (:class:`edgefer.bundle.Temporal`), the head for ONNX Runtime."""
        head = {"file": self.head.name, "runtime": "onnxruntime", "precision": precision}
        return {"window": self.window, "features": self.features, "heads": [head]}


def export_temporal(network: Temporal, size: int, folder: Path) -> TwoGraphs:
    """Write both graphs into ``folder`` for crops of ``size`` pixels and hold them against torch.

    Raises UsageError when a graph's answers differ from torch's by more than 1e-4.
    """
    plain = folded(network)
    assert isinstance(plain, Temporal)
    inputs = tuple(torch.from_numpy(x) for x in random_inputs(2, size))
    with torch.inference_mode():
        width = int(EncoderGraph(plain)(*inputs).shape[1])
    graphs = TwoGraphs(folder / ENCODER, folder / HEAD, network.window, width)
    _write(EncoderGraph(plain), inputs, ["visible", "infrared", "present"], "features", graphs.encoder)
    _write(HeadGraph(plain), (torch.zeros(2, network.window, width),), ["features"], "logits", graphs.head)
    for path, gap in zip((graphs.encoder, graphs.head), gaps(network, graphs, size), strict=True):
        if not gap <= TOLERANCE:
            raise UsageError(f"{path}: ONNX Runtime differs from torch by {gap:.2e} (limit {TOLERANCE})")
    return graphs


def gaps(network: Temporal, graphs: TwoGraphs, size: int) -> tuple[float, float]:
    """Largest difference between torch (batch norm not folded) and each graph: (a feature, a logit), batch of 5."""
    live = copy.deepcopy(network).eval()
    inputs = random_inputs(5, size)
    shuffled = np.random.default_rng(1).permuted(np.tile(np.arange(5), (graphs.window, 1)), axis=1).T
    with torch.inference_mode():
        features = EncoderGraph(live)(*(torch.from_numpy(x) for x in inputs))
        window = features[torch.from_numpy(shuffled)]
        logits = live.head(window).numpy()
    encoded = run(graphs.encoder, dict(zip(("visible", "infrared", "present"), inputs, strict=True)))
    answered = run(graphs.head, {"features": window.numpy()})
    return float(np.abs(encoded - features.numpy()).max()), float(np.abs(answered - logits).max())


def run(path: Path, feed: dict[str, np.ndarray]) -> F32:
    """The only output of the graph in ``path``, one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = 1, 1, 3
    session = ort.InferenceSession(path.read_bytes(), options, ["CPUExecutionProvider"])
    out: F32 = session.run(None, feed)[0]
    return out


def sequence_logits(graphs: TwoGraphs, visible: np.ndarray, infrared: np.ndarray, present: F32) -> F32:
    """Sequences uint8 [N, T, S, S, 1], present float32 [N, 2] through both graphs: logits float32 [N, K]."""
    n, t = visible.shape[:2]
    frames: Inputs = (visible.reshape(n * t, *visible.shape[2:]), infrared.reshape(n * t, *infrared.shape[2:]),
                      np.repeat(present, t, axis=0))  # fmt: skip
    features = run(graphs.encoder, dict(zip(("visible", "infrared", "present"), frames, strict=True)))
    return run(graphs.head, {"features": features.reshape(n, t, -1)})


def frame_logits(graphs: TwoGraphs, inputs: Inputs) -> F32:
    """Single frames, each filling the window by itself: logits float32 [N, K]."""
    features = run(graphs.encoder, dict(zip(("visible", "infrared", "present"), inputs, strict=True)))
    return run(graphs.head, {"features": np.repeat(features[:, None], graphs.window, axis=1)})


def _write(graph: nn.Module, inputs: tuple[Tensor, ...], names: list[str], output: str, path: Path) -> None:
    n = torch.export.Dim("N")
    with _quiet():
        program = torch.onnx.export(
            graph.eval(), inputs, input_names=names, output_names=[output], opset_version=OPSET, dynamo=True,
            dynamic_shapes=tuple({0: n} for _ in inputs), verbose=False,
        )  # fmt: skip
    program.save(path, external_data=False)
    _strip(path)
