"""From torch to ONNX with the one signature every bundle has; batch norm is folded on the way.

visible uint8 [N, S, S, 1], infrared uint8 [N, S, S, 1], present float32 [N, 2] -> logits float32 [N, K]
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from edgefer.types import F32
from export.errors import UsageError
from export.lenses import Inputs, feed
from export.models.resnet import DeviceGraph

OPSET = 19
"""the first in which Q/DQ scales may be FP16, which the TensorRT graph needs"""
TOLERANCE = 1e-4


def folded(model: nn.Module) -> nn.Module:
    """A copy in eval mode whose convolutions and linear layers have swallowed the batch norm behind them."""
    model = copy.deepcopy(model).eval()
    for module in model.modules():
        names = list(module._modules)
        for name in names:
            following = name.replace("conv", "bn") if name.startswith("conv") else _next(names, name, module)
            norm = module._modules.get(following)
            foldable = isinstance(module._modules[name], nn.Conv2d | nn.Linear)
            if foldable and isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
                _fold(module, name, following, norm)
    return model


def _next(names: list[str], name: str, module: nn.Module) -> str:
    """The layer behind ``name`` inside a Sequential; nowhere else does the order of children say who feeds whom."""
    k = names.index(name) + 1
    return names[k] if isinstance(module, nn.Sequential) and k < len(names) else ""


def _fold(module: nn.Module, name: str, following: str, norm: nn.Module) -> None:
    layer: Any = module._modules[name]
    fuse: Any = fuse_conv_bn_eval if isinstance(layer, nn.Conv2d) else fuse_linear_bn_eval
    module._modules[name] = fuse(layer, norm)
    module._modules[following] = nn.Identity()


def export_float(model: nn.Module, size: int, path: Path) -> Path:
    """Write the float graph of ``model`` for crops of ``size`` pixels and hold it against torch.

    Raises UsageError when ONNX Runtime's answers differ from torch's by more than 1e-4.
    """
    graph = DeviceGraph(folded(model)).eval()
    inputs = tuple(torch.from_numpy(x) for x in random_inputs(2, size))
    n = torch.export.Dim("N")
    with _quiet():
        program = torch.onnx.export(
            graph, inputs, input_names=["visible", "infrared", "present"], output_names=["logits"],
            opset_version=OPSET, dynamo=True, dynamic_shapes=({0: n}, {0: n}, {0: n}), verbose=False,
        )  # fmt: skip
    program.save(path, external_data=False)
    _strip(path)
    gap = float_gap(model, path, size)
    if gap > TOLERANCE:
        raise UsageError(f"{path}: ONNX Runtime differs from torch by {gap:.2e} in a logit (limit {TOLERANCE})")
    return path


def _strip(path: Path) -> None:
    """Take out what the exporter notes of its own machine: source paths, stack traces, the torch program."""
    model = onnx.load(str(path))
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    onnx.save(model, str(path))


@contextlib.contextmanager
def _quiet() -> Any:
    """The exporter talks on stdout, in the log and in warnings; what matters is checked on the result."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def random_inputs(n: int, size: int, seed: int = 0) -> Inputs:
    """Noise of the signature's types: visible, infrared, present (the last row has lost a lens)."""
    rng = np.random.default_rng(seed)
    visible, infrared = (rng.integers(0, 256, (n, size, size, 1), np.uint8) for _ in range(2))
    present = np.ones((n, 2), np.float32)
    present[-1, n % 2] = 0.0
    return visible, infrared, present


def float_gap(model: nn.Module, path: Path, size: int) -> float:
    """Largest difference of a logit between torch (batch norm not folded) and the graph, batch of 5."""
    inputs = random_inputs(5, size)
    with torch.inference_mode():
        expected = DeviceGraph(copy.deepcopy(model)).eval()(*(torch.from_numpy(x) for x in inputs)).numpy()
    return float(np.abs(run(path, inputs) - expected).max())


def run(path: Path, inputs: Inputs, batch: int = 16, threads: int = 1, exact: bool = False) -> F32:
    """The graph in ``path`` on any number of pairs, in batches, through ONNX Runtime: logits float32 [N, K].

    ``exact`` computes Q/DQ as they stand, in float, where ONNX Runtime would put its own INT8 kernels in their place.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.disable_quant_qdq", "1" if exact else "0")
    session = ort.InferenceSession(path.read_bytes(), options, ["CPUExecutionProvider"])
    fixed = session.get_inputs()[0].shape[0]
    batch = fixed if isinstance(fixed, int) else batch
    parts = []
    for s in range(0, len(inputs[2]), batch):
        parts.append(session.run(["logits"], feed(inputs, slice(s, s + batch)))[0])
    return np.concatenate(parts)
