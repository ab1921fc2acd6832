"""What TensorRT asks of a graph, checked on the graph itself: each fault is one line that names the node.

A parser rejects some of these; others build and are merely slow (a convolution that stays FP16) or wrong (an unsigned
zero point is read as a signed one), so they are errors here.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from export.errors import UsageError
from export.tensorrt_graph import PAIR, QUANTISED, RESIDUAL, TINY, claims, of_type, producers

OPSET = 19
"""from here on Q/DQ scales may be FP16"""
SOFT = ("Sigmoid", "Softmax", "LogSoftmax", "Tanh")


def check(model: ModelProto, name: str) -> None:
    """Raises UsageError with the first fault."""
    found = faults(model)
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise UsageError(f"{name}: {found[0]}{more}; TensorRT would misread it: run `python -m export quantize` again")


def faults(model: ModelProto) -> list[str]:
    """Every broken rule, in the order of the nodes."""
    return list(_all(model))


def _all(model: ModelProto) -> Iterator[str]:
    view = _View(model)
    opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)
    if opset < OPSET:
        yield f"opset {opset}, Q/DQ with FP16 scales need {OPSET}"
    for value in (*model.graph.input, *model.graph.output):
        if value.type.tensor_type.shape.dim[0].dim_value != 1:
            yield f"{value.name}: the batch is not fixed to 1"
    for node in of_type(model, *PAIR):
        yield from _pair(view, node)
    wanted = claims(model)
    for node in of_type(model, QUANTISED):
        if node.name in wanted:
            yield from _convolution(view, node)
    for node in of_type(model, *SOFT):
        if view.source(node.input[0], "DequantizeLinear"):
            yield f"{node.name}: {node.op_type} behind a DequantizeLinear; it belongs in float"


class _View:
    """Who makes, reads and holds what in a graph."""

    def __init__(self, model: ModelProto) -> None:
        self.feeds = producers(model)
        self.values = {i.name: i for i in model.graph.initializer}
        self.readers: dict[str, list[NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def source(self, tensor: str, kind: str) -> NodeProto | None:
        """The node that makes ``tensor`` when it is of this kind."""
        node = self.feeds.get(tensor)
        return node if node is not None and node.op_type == kind else None


def _pair(view: _View, node: NodeProto) -> Iterator[str]:
    """Scale and zero point of one QuantizeLinear or DequantizeLinear; what may be dequantised at all."""
    scale = view.values.get(node.input[1])
    if scale is None:
        yield f"{node.name}: its scale is computed, not a constant"
    elif not (numpy_helper.to_array(scale).astype(np.float64) >= TINY).all():
        yield f"{node.name}: a scale below {TINY}, the smallest normal FP16 number"
    zero = view.values.get(node.input[2]) if len(node.input) > 2 else None
    if zero is None or zero.data_type != TensorProto.INT8:
        kind = "none, which means UINT8" if zero is None else TensorProto.DataType.Name(zero.data_type)
        yield f"{node.name}: the zero point is {kind}; INT8 is needed"
    elif numpy_helper.to_array(zero).any():
        yield f"{node.name}: a zero point other than 0"
    held = view.values.get(node.input[0])
    if held is not None and held.data_type == TensorProto.INT32:
        yield f"{node.name}: dequantises an INT32 bias; biases stay float"


def _convolution(view: _View, node: NodeProto) -> Iterator[str]:
    """Q/DQ on the input, INT8 weights with a scale per output channel, a float bias, a free way to the ReLU."""
    dq = view.source(node.input[0], "DequantizeLinear")
    if dq is None or not view.source(dq.input[0], "QuantizeLinear"):
        yield f"{node.name}: no Q/DQ on its input"
    yield from _weights(view, node)
    if len(node.input) > 2 and node.input[2] not in view.values:
        yield f"{node.name}: its bias is not a float constant"
    for reader in view.readers.get(node.output[0], []):
        if reader.op_type == "QuantizeLinear":
            yield from _quantised_output(view, node, reader)
        elif reader.op_type == RESIDUAL:
            yield from _sum(view, node, reader)


def _weights(view: _View, node: NodeProto) -> Iterator[str]:
    dq = view.source(node.input[1], "DequantizeLinear")
    weight = view.values.get(dq.input[0]) if dq is not None else None
    if dq is None or weight is None or weight.data_type != TensorProto.INT8:
        yield f"{node.name}: its weights are float"
        return
    axis = next((a.i for a in dq.attribute if a.name == "axis"), 1)
    scale = view.values.get(dq.input[1])
    if axis != 0 or scale is None or list(scale.dims) != [weight.dims[0]]:
        yield f"{node.name}: the weight scales are not one per output channel on axis 0"


def _quantised_output(view: _View, node: NodeProto, q: NodeProto) -> Iterator[str]:
    for dq in view.readers.get(q.output[0], []):
        for reader in view.readers.get(dq.output[0], []):
            if reader.op_type == "Relu":
                yield f"{node.name}: Q/DQ between it and {reader.name}"


def _sum(view: _View, node: NodeProto, add: NodeProto) -> Iterator[str]:
    """A sum that ends a convolution needs Q/DQ on its other side, unless that side is a constant."""
    other = add.input[1] if add.input[0] == node.output[0] else add.input[0]
    if other not in view.values and not view.source(other, "DequantizeLinear"):
        yield f"{add.name}: no Q/DQ on the skip side"
