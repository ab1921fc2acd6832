"""The graph for TensorRT: INT8 by explicit Q/DQ in TensorRT's own rules, the rest FP16, one crop at a time.

TensorRT takes every precision from the graph (strongly typed), and a convolution becomes INT8 only where its input and
its weights both come out of a DequantizeLinear. So: symmetric INT8, zero point 0, weights per output channel, biases
float, nothing between a convolution and its ReLU, and of a residual sum the skip side alone is quantised, so that the
other side is summed inside the convolution's own kernel. Linear layers stay FP16: one row times a matrix is under 1 %
of the work. What the rules are and what breaks them: `export.tensorrt_rules`.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType, create_calibrator

from export.calibration import METHODS, PERCENTILE, Pairs, quiet, stride
from export.lenses import Inputs

QUANTISED, RESIDUAL = "Conv", "Add"
PAIR = ("QuantizeLinear", "DequantizeLinear")
HALF = {QUANTISED, "ConvTranspose", "Gemm", "MatMul", "Relu", RESIDUAL, "MaxPool", "AveragePool", *PAIR}
"""what runs in FP16 behind the first convolution. Sums over a picture (of squares: beyond FP16's 65504), gates, softmax
and sigmoid stay FP32."""
PRECISION, KEPT = "edgefer.precision", "edgefer.float_convolutions"
"""notes inside the file, so that a graph says by itself what its engine must hold"""
TINY = 6.1e-5
"""smallest normal FP16: a scale below it loses bits"""


def load(source: Path) -> ModelProto:
    """The float graph, every convolution called by its place in the network, as `visible.layer1.0.conv1`."""
    model = onnx.load(str(source))
    taken: set[str] = set()
    for node in of_type(model, QUANTISED):
        name = node.input[1].removeprefix("model.").removesuffix(".weight")
        node.name = name if name not in taken else f"{name}#{len(taken)}"
        taken.add(node.name)
    return model


def labelled(model: ModelProto, precision: str, kept: Collection[str] = ()) -> ModelProto:
    """``model`` with a note of what it claims to be: its precision and, of INT8, the convolutions that are not."""
    notes = {PRECISION: precision, KEPT: " ".join(kept)}
    helper.set_model_props(model, notes)
    return model


def claims(model: ModelProto) -> set[str]:
    """The convolutions that an engine must run in INT8; none when the graph is not an INT8 one of ours."""
    notes = {p.key: p.value for p in model.metadata_props}
    if notes.get(PRECISION) != "int8":
        return set()
    return set(convolutions(model)) - set(notes.get(KEPT, "").split())


def of_type(model: ModelProto, *kinds: str) -> list[NodeProto]:
    return [n for n in model.graph.node if n.op_type in kinds]


def convolutions(model: ModelProto) -> list[str]:
    return [n.name for n in of_type(model, QUANTISED)]


def measured(model: ModelProto, calibration: Inputs, method: str) -> Any:
    """The range of every tensor that a convolution or a sum reads (ONNX Runtime's ``TensorsData``)."""
    extra = {"symmetric": METHODS[method] != CalibrationMethod.Entropy, "percentile": PERCENTILE}
    pairs, step = Pairs(calibration), stride(len(calibration[2]))
    with tempfile.TemporaryDirectory() as folder, quiet():
        file = Path(folder) / "float.onnx"
        onnx.save(model, str(file))
        calibrator = create_calibrator(
            str(file), [QUANTISED, RESIDUAL], str(Path(folder) / "seen.onnx"), METHODS[method], extra_options=extra
        )
        for start in range(0, len(pairs), step):
            pairs.set_range(start, start + step)
            calibrator.collect_data(pairs)
        return calibrator.compute_data()


def quantised(model: ModelProto, ranges: Any, layers: Collection[str]) -> ModelProto:
    """A copy whose convolutions named in ``layers`` are INT8 by Q/DQ; the rest is float32, the batch as it was."""
    skips = {add.name: skip for add in of_type(model, RESIDUAL) if (skip := skip_side(model, add)) is not None}
    chosen = [*layers, *(name for name, side in skips.items() if _ends_in(model, name, side, layers))]
    if not layers:
        return copy.deepcopy(model)
    options = {
        "ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False,
        "OpTypesToExcludeOutputQuantization": [QUANTISED, RESIDUAL], "DedicatedQDQPair": True,
        "MinimumRealRange": 257 * TINY,  # 255 steps, and some for the rounding to FP16
    }  # fmt: skip
    with quiet():
        shaped = onnx.shape_inference.infer_shapes(model)
        quantizer = QDQQuantizer(
            shaped, True, False, QuantType.QInt8, QuantType.QInt8, ranges, chosen, [], [QUANTISED, RESIDUAL], options
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
    out: ModelProto = quantizer.model.model
    for add in of_type(out, RESIDUAL):
        if add.name in chosen:
            _unpaired(out, add, 1 - skips[add.name])
    return _swept(out)


def skip_side(model: ModelProto, add: NodeProto) -> int | None:
    """Which input of a sum is the shortcut: not the convolution's; of two convolutions, the one of fewer weights.

    None for a sum that ends no convolution (a constant, a scaled map): it is no residual sum.
    """
    feeds = producers(model)
    sizes = {i.name: int(np.prod(i.dims)) for i in model.graph.initializer}
    ends = [feeds.get(name) for name in add.input]
    if any(name in sizes for name in add.input) or not any(e is not None and e.op_type == QUANTISED for e in ends):
        return None
    weights = [sizes.get(e.input[1], 0) if e is not None and e.op_type == QUANTISED else 0 for e in ends]
    return int(np.argmin(weights))


def _ends_in(model: ModelProto, add: str, skip: int, layers: Collection[str]) -> bool:
    """Whether the convolution that the sum would be fused into is one of ``layers``."""
    node = next(n for n in of_type(model, RESIDUAL) if n.name == add)
    end = producers(model).get(node.input[1 - skip])
    return end is not None and end.name in layers


def producers(model: ModelProto) -> dict[str, NodeProto]:
    return {out: node for node in model.graph.node for out in node.output}


def _unpaired(model: ModelProto, node: NodeProto, side: int) -> None:
    """Let ``node`` read this side as it was before its Q/DQ pair."""
    feeds = producers(model)
    pair = feeds.get(node.input[side])
    if pair is not None and pair.op_type == "DequantizeLinear":
        node.input[side] = feeds[pair.input[0]].input[0]


def _swept(model: ModelProto) -> ModelProto:
    """Without nodes and initializers that nobody reads."""
    graph = model.graph
    while True:
        read = {i for n in graph.node for i in n.input} | {o.name for o in graph.output}
        alive = [n for n in graph.node if read & set(n.output)]
        if len(alive) == len(graph.node):
            break
        _replace(graph.node, alive)
    _replace(graph.initializer, [i for i in graph.initializer if i.name in read])
    return model


def _replace(field: Any, values: Iterable[Any]) -> None:
    kept = [copy.deepcopy(v) for v in values]
    del field[:]
    field.extend(kept)


def one_at_a_time(model: ModelProto) -> ModelProto:
    """A copy for a batch of one: TensorRT then needs no optimisation profile and every shape is known."""
    out = copy.deepcopy(model)
    for value in (*out.graph.input, *out.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    del out.graph.value_info[:]
    return out


def half(model: ModelProto) -> ModelProto:
    """A copy with FP16 behind the first convolution where :data:`HALF` has the operator, with casts at the borders.

    Not `convert_float_to_float16` of ONNX Runtime: it casts to FP16 and back between any two nodes that are to stay
    float32, and the nodes of its result are out of order (onnx.checker refuses it).
    """
    out = copy.deepcopy(model)
    graph, inside = out.graph, _half_nodes(model)
    made = {o for n in graph.node if n.name in inside for o in n.output}
    weights = {i.name: i for i in graph.initializer if i.data_type == TensorProto.FLOAT}
    plain = _float32(model)
    nodes: list[NodeProto] = []
    cast: dict[str, str] = {}
    for node in graph.node:
        to_half = node.name in inside
        for k, name in enumerate(node.input):
            if to_half and name in weights:
                node.input[k] = _half_weight(out, weights[name], cast)
            elif name in plain and name not in weights and (name in made) != to_half:
                node.input[k] = _cast(nodes, name, to_half, cast)
        nodes.append(node)
    _replace(graph.node, nodes)
    _logits_in_float32(out, made)
    del graph.value_info[:]
    return _swept(out)


def _half_nodes(model: ModelProto) -> set[str]:
    """Names of the nodes that go to FP16: of :data:`HALF`, a convolution or behind one, and every Q/DQ."""
    reached: set[str] = set()
    names = set()
    for node in model.graph.node:
        behind = node.op_type == QUANTISED or any(i in reached for i in node.input)
        if behind:
            reached |= set(node.output)
        if node.op_type in PAIR or (behind and node.op_type in HALF):
            names.add(node.name)
    return names


def _float32(model: ModelProto) -> set[str]:
    """Names of all float32 tensors that are no initializers."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = (*graph.value_info, *graph.input, *graph.output)
    return {v.name for v in values if v.type.tensor_type.elem_type == TensorProto.FLOAT}


def _half_weight(model: ModelProto, weight: TensorProto, done: dict[str, str]) -> str:
    name = f"{weight.name}_half"
    if weight.name not in done:
        small = numpy_helper.to_array(weight).astype(np.float16)
        model.graph.initializer.append(numpy_helper.from_array(small, name))
        done[weight.name] = name
    return name


def _cast(nodes: list[NodeProto], name: str, to_half: bool, done: dict[str, str]) -> str:
    """The other precision's copy of a tensor; the cast is appended to ``nodes`` when it is new."""
    if name not in done:
        kind = TensorProto.FLOAT16 if to_half else TensorProto.FLOAT
        done[name] = f"{name}_{'half' if to_half else 'float'}"
        nodes.append(helper.make_node("Cast", [name], [done[name]], f"cast_{done[name]}", to=kind))
    return done[name]


def _logits_in_float32(model: ModelProto, made: set[str]) -> None:
    for output in model.graph.output:
        if output.name not in made:
            continue
        inner = f"{output.name}_half"
        for node in model.graph.node:
            _rename(node.input, output.name, inner)
            _rename(node.output, output.name, inner)
        node = helper.make_node("Cast", [inner], [output.name], f"cast_{output.name}", to=TensorProto.FLOAT)
        model.graph.node.append(node)


def _rename(field: Any, old: str, new: str) -> None:
    for k, name in enumerate(field):
        if name == old:
            field[k] = new
