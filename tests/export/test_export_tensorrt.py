"""The graph for TensorRT: its rules, what NVIDIA's own builder makes of it, and that every known fault is caught."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the export extra")
for needed in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(needed, reason="needs the export and cpu extras")

import onnx  # noqa: E402
import tensorrt_mutants as mutants  # noqa: E402

from edgefer.bundle import DEFAULT, open_bundle  # noqa: E402
from edgefer.locate.yunet import model_path  # noqa: E402
from export import __main__ as command  # noqa: E402
from export import engine, engine_layers, onnx_graph, quantize, tensorrt_graph, tensorrt_rules  # noqa: E402
from export.errors import EngineError, InputError  # noqa: E402
from export.tensorrt_search import FILES  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.tensorrt, pytest.mark.filterwarnings("default")]
Mutation = Callable[[onnx.ModelProto], None]


@pytest.fixture(scope="module")
def graphs(quantised: Path) -> dict[str, onnx.ModelProto]:
    return {precision: onnx.load(quantised / name) for precision, name in FILES.items()}


@pytest.fixture
def builder() -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs the engine extra (NVIDIA's builder, no GPU)")


def broken(graphs: dict[str, onnx.ModelProto], mutate: Mutation) -> onnx.ModelProto:
    model = copy.deepcopy(graphs["int8"])
    mutate(model)
    return model


def test_all_three_graphs_keep_the_rules_and_say_what_they_are(graphs: dict[str, onnx.ModelProto]) -> None:
    assert {precision: tensorrt_rules.faults(model) for precision, model in graphs.items()} == {
        "int8": [], "fp16": [], "fp32": [],
    }  # fmt: skip
    claims = {precision: len(tensorrt_graph.claims(model)) for precision, model in graphs.items()}
    assert claims == {"int8": 40, "fp16": 0, "fp32": 0}


@pytest.mark.parametrize("mutate", mutants.FAULTS, ids=lambda f: f.__name__)
def test_every_broken_rule_is_named(mutate: Mutation, graphs: dict[str, onnx.ModelProto]) -> None:
    assert any(mutants.FAULTS[mutate] in fault for fault in tensorrt_rules.faults(broken(graphs, mutate)))


def test_the_graph_for_onnx_runtime_is_none_for_tensorrt(quantised: Path) -> None:
    for file in (quantised / quantize.INT8, DEFAULT / "classifier.onnx"):
        assert any("the zero point is UINT8" in fault for fault in tensorrt_rules.faults(onnx.load(file)))


def test_gates_and_preparation_stay_float32_and_convolutions_are_half(graphs: dict[str, onnx.ModelProto]) -> None:
    model = onnx.shape_inference.infer_shapes(graphs["fp16"], strict_mode=True)
    kinds = {v.name: v.type.tensor_type.elem_type for v in model.graph.value_info}
    found = {
        kind: {kinds[n.output[0]] for n in model.graph.node if n.op_type == kind}
        for kind in ("Conv", "Sigmoid", "Sqrt", "ReduceMean")
    }
    single, half = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
    assert found == {"Conv": {half}, "Sigmoid": {single}, "Sqrt": {single}, "ReduceMean": {single}}


def test_the_half_graph_answers_as_the_single_one(quantised: Path) -> None:
    inputs = onnx_graph.random_inputs(12, 16)
    exact = onnx_graph.run(quantised / FILES["fp32"], inputs)
    half = onnx_graph.run(quantised / FILES["fp16"], inputs)
    assert 0 < np.abs(half - exact).max() < 0.01


def test_what_int8_costs_is_measured_and_printed_layer_by_layer(quantised: Path) -> None:
    report = json.loads((quantised / quantize.REPORT).read_text())["tensorrt"]
    noise = {n["layer"]: n["decibel"] for n in report["sensitivity"]}
    assert len(noise) == 40
    assert list(noise.values()) == sorted(noise.values())
    assert noise["visible.conv1"] > 0
    assert "visible.layer1.0.conv1" in (quantised / "said.txt").read_text()
    assert {c["method"] for c in report["candidates"]} >= set(quantize.METHODS)


def test_a_layer_kept_in_float_has_no_pairs_and_is_not_asked_for(quantised: Path) -> None:
    source = tensorrt_graph.load(quantised / quantize.FLOAT)
    ranges = tensorrt_graph.measured(source, onnx_graph.random_inputs(4, 16), "minmax")
    rest = [n for n in tensorrt_graph.convolutions(source) if n != mutants.LAYER]
    model = tensorrt_graph.one_at_a_time(tensorrt_graph.half(tensorrt_graph.quantised(source, ranges, rest)))
    tensorrt_graph.labelled(model, "int8", [mutants.LAYER])
    assert tensorrt_rules.faults(model) == []
    assert tensorrt_graph.claims(model) == set(rest)
    conv = mutants.node(model, mutants.LAYER)
    assert mutants.value(model, conv.input[1]).dtype == np.float16


def test_weights_near_zero_get_a_scale_that_tensorrt_can_read(quantised: Path) -> None:
    source = tensorrt_graph.load(quantised / quantize.FLOAT)
    weight = next(i for i in source.graph.initializer if i.name == "model.visible.layer1.1.conv2.weight")
    weight.CopyFrom(onnx.numpy_helper.from_array(1e-6 * onnx.numpy_helper.to_array(weight), weight.name))
    ranges = tensorrt_graph.measured(source, onnx_graph.random_inputs(4, 16), "minmax")
    layers = tensorrt_graph.convolutions(source)
    model = tensorrt_graph.one_at_a_time(tensorrt_graph.half(tensorrt_graph.quantised(source, ranges, layers)))
    tensorrt_graph.labelled(model, "int8", [])
    assert tensorrt_rules.faults(model) == []


@pytest.mark.usefixtures("builder")
def test_nvidias_builder_runs_every_convolution_in_int8(graphs: dict[str, onnx.ModelProto]) -> None:
    built = engine.build(graphs["int8"].SerializeToString(), "int8")
    assert engine_layers.fallen_back(built.layers, tensorrt_graph.claims(graphs["int8"])) == []
    assert sum(x.multiplies and x.int8 for x in built.layers) == 40
    fused = [x for x in built.layers if any("relu" in n for n in x.nodes) and any("conv" in n for n in x.nodes)]
    assert fused, "no layer joins a convolution's end, its ReLU and the next quantisation"
    assert len(built.plan) > 100_000


@pytest.mark.usefixtures("builder")
def test_nvidias_builder_takes_the_half_and_single_graphs_as_they_are(graphs: dict[str, onnx.ModelProto]) -> None:
    for precision, kind in (("fp16", "Half"), ("fp32", "Float")):
        layers = engine.build(graphs[precision].SerializeToString(), precision).layers
        convolutions = [x for x in layers if x.multiplies]
        assert len(convolutions) == 40
        assert {(x.inputs[0], x.weights[0]) for x in convolutions} == {(kind, kind)}


@pytest.mark.usefixtures("builder")
@pytest.mark.parametrize("mutate", [mutants.float_weight, mutants.wrong_axis, mutants.missing_pair])
def test_a_convolution_that_falls_back_shows_in_the_layers(
    mutate: Mutation, graphs: dict[str, onnx.ModelProto]
) -> None:
    """Such a graph builds without a word; only the layers tell."""
    model = broken(graphs, mutate)
    lost = engine_layers.fallen_back(engine.build(model.SerializeToString(), "x").layers, tensorrt_graph.claims(model))
    assert len(lost) == 1
    assert lost[0].startswith(f"{mutants.LAYER} (Half x ")


@pytest.mark.usefixtures("builder")
@pytest.mark.parametrize("mutate", [mutants.zero_point, mutants.quantised_bias])
def test_the_parser_refuses_in_one_line(mutate: Mutation, graphs: dict[str, onnx.ModelProto]) -> None:
    with pytest.raises(InputError, match="the parser refuses") as e:
        engine.build(broken(graphs, mutate).SerializeToString(), "x.onnx")
    assert "\n" not in str(e.value)


@pytest.mark.usefixtures("builder")
def test_the_face_detector_builds() -> None:
    layers = engine.build(model_path().read_bytes(), "yunet").layers
    assert sum(x.multiplies for x in layers) > 20


@pytest.mark.usefixtures("builder")
def test_the_graph_that_ships_builds_with_every_convolution_in_int8() -> None:
    file = open_bundle().graph("tensorrt")
    model = onnx.load(file)
    assert tensorrt_rules.faults(model) == []
    assert tensorrt_graph.claims(model)
    built = engine.build(model.SerializeToString(), file.name)
    assert engine_layers.fallen_back(built.layers, tensorrt_graph.claims(model)) == []


@pytest.mark.usefixtures("builder")
def test_the_command_writes_plan_and_report(quantised: Path, tmp_path: Path) -> None:
    out = tmp_path / "engines"
    assert command.main(["engine", str(quantised / FILES["int8"]), "--out", str(out)]) == 0
    report = json.loads((out / "classifier-tensorrt.layers.json").read_text())
    assert report["fell_back"] == []
    assert len(report["to_be_int8"]) == report["convolutions"] == 40
    assert (out / "classifier-tensorrt.plan").stat().st_size == report["plan_bytes"]


@pytest.mark.usefixtures("builder")
def test_the_command_fails_when_a_convolution_is_not_int8(
    graphs: dict[str, onnx.ModelProto],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The rules see it first; without them the builder's layers do."""
    file = tmp_path / "broken.onnx"
    onnx.save(broken(graphs, mutants.float_weight), str(file))
    assert command.main(["engine", str(file), "--out", str(tmp_path)]) == 64
    monkeypatch.setattr(engine, "check", lambda model, name: None)
    (tmp_path / "broken.plan").write_bytes(b"an earlier one")
    assert command.main(["engine", str(file), "--out", str(tmp_path)]) == EngineError.exit_code == 78
    said = capsys.readouterr().err.strip().splitlines()
    assert f"not INT8 in the engine: {mutants.LAYER} (Half x Half)" in said[-1]
    assert not (tmp_path / "broken.plan").exists()
    assert json.loads((tmp_path / "broken.layers.json").read_text())["fell_back"]


def refused(capsys: pytest.CaptureFixture[str], code: int, *argv: str) -> str:
    """The one line on standard error."""
    assert command.main(["engine", *argv]) == code
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_what_cannot_be_built_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    no_graph = tmp_path / "no.onnx"
    no_graph.write_bytes(b"not a graph")
    out = ("--out", str(tmp_path))
    assert "not an ONNX graph" in refused(capsys, 66, str(no_graph), *out)
    assert "export quantize" in refused(capsys, 66, str(tmp_path / "none.onnx"), *out)
    assert "manifest.json: not found" in refused(capsys, 78, str(tmp_path), *out)
    assert "SM75, SM80" in refused(capsys, 64, str(no_graph), "--target", "SM87", *out)


def test_a_bundle_from_before_tensorrt_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from bundle_workshop import copy_of_default, edit_manifest

    bundle = copy_of_default(tmp_path)
    edit_manifest(bundle, lambda m: m.update(graphs=[g for g in m["graphs"] if g["runtime"] != "tensorrt"]))
    line = refused(capsys, 78, str(bundle), "--out", str(tmp_path))
    assert "no graph for tensorrt; this bundle serves onnxruntime" in line


def test_without_a_builder_the_package_is_named(
    quantised: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in engine.LIBRARIES:
        monkeypatch.setitem(sys.modules, name, None)
    line = refused(capsys, 69, str(quantised / FILES["int8"]), "--out", str(tmp_path))
    assert "pip install 'edgefer[engine]'" in line


INSPECTED = {
    "Layers": [
        "Reformatting CopyNode",
        {
            "Name": "visible.conv1 + node_relu", "LayerType": "CaskConvolution",
            "Inputs": [{"Name": "a", "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}],
            "Outputs": [{"Name": "b", "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}],
            "Weights": {"Type": "Int8", "Count": 288}, "Metadata": "[ONNX Layer: visible.conv1][ONNX Layer: node_relu]",
        },
        {
            "Name": "visible.conv2", "LayerType": "CaskConvolution",
            "Inputs": [{"Name": "b", "Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}],
            "Outputs": [], "Weights": {"Type": "Half", "Count": 288}, "Metadata": "[ONNX Layer: visible.conv2]",
        },
    ]
}  # fmt: skip


def test_the_inspectors_form_of_tensorrt_is_read_too() -> None:
    """In the layout of NVIDIA/TensorRT issues 3737 and 4020; no GPU here has written one."""
    layers = engine_layers.from_inspector(json.dumps(INSPECTED))
    assert engine_layers.fallen_back(layers, {"visible.conv1"}) == []
    assert engine_layers.fallen_back(layers, {"visible.conv2", "other"}) == [
        "other (in no convolution layer)", "visible.conv2 (FP16 x Half)",
    ]  # fmt: skip
