"""What a builder made of a graph: its layers with their types and the nodes fused into them, and what fell back.

Two sources, one form. TensorRT for RTX prints one line per layer at the end of a VERBOSE build, no GPU needed. TensorRT
itself tells it through the engine inspector (JSON), which needs the engine on a GPU.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

CONVOLUTION = ("correlation", "conv")
"""how the kinds of layers that multiply weights begin or go on: `correlation`, `CaskConvolution`, `CaskConvActPool`"""
_LINE = re.compile(
    r"^Name: (?P<name>.*?), LayerType: (?P<kind>\w+), Inputs: \[(?P<inputs>.*?)\], Constants: \[(?P<weights>.*?)\], "
    r"Outputs: \[(?P<outputs>.*?)\], TacticName: .*?, Metadata: ?(?P<nodes>.*)$"
)
_TYPE = re.compile(r"Datatype: (\w+)")
_NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
_KNOWN = ("Int8", "FP16", "Half", "FP32", "Float", "Int32", "Int64", "UInt8", "Bool")


@dataclass(frozen=True)
class Layer:
    """Types as the builder calls them (`Int8`, `Half`, `Float`); nodes: names of the ONNX nodes inside."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    weights: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[str, ...]

    @property
    def multiplies(self) -> bool:
        """Whether it is a convolution; elementwise layers that finish one name its node too."""
        return any(part in self.kind.lower() for part in CONVOLUTION)

    @property
    def int8(self) -> bool:
        return self.inputs[:1] == ("Int8",) and self.weights[:1] == ("Int8",)


def from_log(lines: Iterable[str]) -> list[Layer]:
    """The layers that a VERBOSE build printed; waiting and signalling between streams left out."""
    found = []
    for line in lines:
        m = _LINE.match(line)
        if m and m["kind"] not in ("signal", "wait"):
            inputs, weights, outputs = (tuple(_TYPE.findall(m[k])) for k in ("inputs", "weights", "outputs"))
            found.append(Layer(m["name"], m["kind"], inputs, weights, outputs, tuple(_NODE.findall(m["nodes"]))))
    return found


def from_inspector(text: str) -> list[Layer]:
    """The layers in the JSON of TensorRT's engine inspector (profiling verbosity DETAILED)."""
    return [_inspected(x) for x in json.loads(text)["Layers"] if isinstance(x, dict)]


def _inspected(x: dict[str, Any]) -> Layer:
    inputs, outputs = (tuple(_kind(t) for t in x.get(side, [])) for side in ("Inputs", "Outputs"))
    weights = x.get("Weights", {}).get("Type")
    nodes = tuple(_NODE.findall(x.get("Metadata", "")))
    return Layer(x["Name"], x["LayerType"], inputs, (weights,) if weights else (), outputs, nodes)


def _kind(tensor: dict[str, Any]) -> str:
    text = tensor.get("Datatype") or tensor.get("Format/Datatype", "")
    return next((k for k in _KNOWN if k in text), text)


def fallen_back(layers: Sequence[Layer], wanted: Collection[str]) -> list[str]:
    """The convolutions of ``wanted`` that no layer runs in INT8, each with the types it got instead."""
    return [f"{name} {_types(layers, name)}" for name in sorted(wanted) if not _has_int8(layers, name)]


def _has_int8(layers: Sequence[Layer], node: str) -> bool:
    return any(layer.int8 for layer in layers if layer.multiplies and node in layer.nodes)


def _types(layers: Sequence[Layer], node: str) -> str:
    """`(Half x Half)`: input and weights of the layer that multiplies ``node``."""
    for layer in layers:
        if layer.multiplies and node in layer.nodes:
            return f"({' x '.join([*layer.inputs[:1], *layer.weights[:1]])})"
    return "(in no convolution layer)"


def table(layers: Sequence[Layer]) -> str:
    """One line a layer: kind, types in and out, the nodes inside."""
    rows = [f"{'kind':14}{'in':14} {'weights':9}{'out':14} nodes"]
    for x in layers:
        fused = " + ".join(n for n in x.nodes if not n.endswith("DequantizeLinear")) or x.name
        types = ("+".join(x.inputs), x.weights[0] if x.weights else "-", "+".join(x.outputs))
        rows.append(f"{x.kind:14}{types[0]:14} {types[1]:9}{types[2]:14} {fused}")
    return "\n".join(rows)
