"""An INT8 graph for TensorRT, broken in one place. Each function changes the model it is given."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

LAYER = "visible.layer2.0.conv1"


def node(model: ModelProto, name: str) -> NodeProto:
    return next(n for n in model.graph.node if n.name == name)


def maker(model: ModelProto, tensor: str) -> NodeProto:
    return next(n for n in model.graph.node if tensor in n.output)


def constant(model: ModelProto, name: str) -> TensorProto:
    return next(i for i in model.graph.initializer if i.name == name)


def value(model: ModelProto, name: str) -> np.ndarray:
    return numpy_helper.to_array(constant(model, name))


def replace(model: ModelProto, name: str, array: np.ndarray) -> None:
    constant(model, name).CopyFrom(numpy_helper.from_array(array, name))


def new(model: ModelProto, name: str, array: np.ndarray) -> str:
    model.graph.initializer.append(numpy_helper.from_array(array, name))
    return name


def float_weight(model: ModelProto) -> None:
    conv = node(model, LAYER)
    dq = maker(model, conv.input[1])
    whole = value(model, dq.input[0]).astype(np.float16) * value(model, dq.input[1]).reshape(-1, 1, 1, 1)
    conv.input[1] = new(model, "float_weight", whole.astype(np.float16))


def wrong_axis(model: ModelProto) -> None:
    dq = maker(model, node(model, LAYER).input[1])
    next(a for a in dq.attribute if a.name == "axis").i = 1
    inputs = value(model, dq.input[0]).shape[1]
    replace(model, dq.input[1], np.full(inputs, 0.01, np.float16))
    replace(model, dq.input[2], np.zeros(inputs, np.int8))


def missing_pair(model: ModelProto) -> None:
    conv = node(model, LAYER)
    conv.input[0] = maker(model, maker(model, conv.input[0]).input[0]).input[0]


def zero_point(model: ModelProto) -> None:
    replace(model, maker(model, node(model, LAYER).input[0]).input[2], np.array(3, np.int8))


def unsigned(model: ModelProto) -> None:
    dq = maker(model, node(model, LAYER).input[0])
    zero = new(model, "unsigned", np.array(0, np.uint8))
    dq.input[2] = maker(model, dq.input[0]).input[2] = zero


def quantised_bias(model: ModelProto) -> None:
    conv = node(model, LAYER)
    bias = value(model, conv.input[2])
    ints = new(model, "bias_ints", np.zeros(len(bias), np.int32))
    scale = new(model, "bias_scale", np.array(0.01, np.float16))
    zero = new(model, "bias_zero", np.array(0, np.int32))
    at = list(model.graph.node).index(conv)
    model.graph.node.insert(at, helper.make_node("DequantizeLinear", [ints, scale, zero], ["bias"], "bias_dq"))
    node(model, LAYER).input[2] = "bias"


def small_scale(model: ModelProto) -> None:
    replace(model, maker(model, node(model, LAYER).input[0]).input[1], np.array(3e-5, np.float16))


def pair_before_relu(model: ModelProto) -> None:
    conv = node(model, LAYER)
    like = maker(model, conv.input[0])
    relu = next(n for n in model.graph.node if n.op_type == "Relu" and n.input[0] == conv.output[0])
    at = list(model.graph.node).index(relu)
    scale = list(like.input[1:])
    out = conv.output[0]
    model.graph.node.insert(at, helper.make_node("DequantizeLinear", ["mid_q", *scale], ["mid"], "mid_dq"))
    model.graph.node.insert(at, helper.make_node("QuantizeLinear", [out, *scale], ["mid_q"], "mid_q"))
    next(n for n in model.graph.node if n.name == relu.name).input[0] = "mid"


def bare_skip(model: ModelProto) -> None:
    out = node(model, "visible.layer1.0.conv2").output[0]
    add = next(n for n in model.graph.node if n.op_type == "Add" and out in n.input)
    side = 1 - list(add.input).index(out)
    add.input[side] = maker(model, maker(model, add.input[side]).input[0]).input[0]


def quantised_gate(model: ModelProto) -> None:
    like = maker(model, node(model, LAYER).input[0])
    sigmoid = next(n for n in model.graph.node if n.op_type == "Sigmoid")
    at = list(model.graph.node).index(sigmoid)
    one = new(model, "gate_scale", np.array(0.1, np.float32))
    pair = [
        helper.make_node("QuantizeLinear", [sigmoid.input[0], one, like.input[2]], ["gate_q"], "gate_q"),
        helper.make_node("DequantizeLinear", ["gate_q", one, like.input[2]], ["gate"], "gate_dq"),
    ]
    for k, n in enumerate(pair):
        model.graph.node.insert(at + k, n)
    node(model, sigmoid.name).input[0] = "gate"


def old_opset(model: ModelProto) -> None:
    model.opset_import[0].version = 18


def open_batch(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"


FAULTS = {
    float_weight: f"{LAYER}: its weights are float",
    wrong_axis: f"{LAYER}: the weight scales are not one per output channel on axis 0",
    missing_pair: f"{LAYER}: no Q/DQ on its input",
    zero_point: "a zero point other than 0",
    unsigned: "the zero point is UINT8",
    quantised_bias: "dequantises an INT32 bias",
    small_scale: "a scale below 6.1e-05",
    pair_before_relu: f"{LAYER}: Q/DQ between it and",
    bare_skip: "no Q/DQ on the skip side",
    quantised_gate: "behind a DequantizeLinear; it belongs in float",
    old_opset: "opset 18",
    open_batch: "visible: the batch is not fixed to 1",
}
"""mutation -> what the check must say of it"""
