"""From tiny weights to a bundle the device opens: signature, golden vectors, whole or not at all."""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the export extra")
for needed in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(needed, reason="needs the export and cpu extras")

from tiny_network import network  # noqa: E402

from edgefer.bundle import Bundle, open_bundle  # noqa: E402
from edgefer.config import Infer  # noqa: E402
from edgefer.errors import BundleError  # noqa: E402
from edgefer.infer import open_network  # noqa: E402
from export import __main__ as command  # noqa: E402
from export import checkpoint, evaluate, golden, onnx_graph, pack, packing, quantize, recipe  # noqa: E402
from export.data import fer2013  # noqa: E402
from export.errors import InputError, UsageError  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("default")]
PORTRAITS = all(importlib.util.find_spec(p.package) for p in golden.PORTRAITS)
portraits = pytest.mark.skipif(not PORTRAITS, reason="needs the demo extra (public-domain portraits)")


@pytest.fixture
def work(quantised: Path, data_root: Path) -> Path:
    """The same, with EDGEFER_DATA set to the synthetic faces."""
    return quantised


def _results(bundle: Bundle) -> dict[str, Any]:
    faces, clean = fer2013.load("private"), fer2013.twin_free()
    splits = {"private": np.ones(len(faces), np.bool_), "private-clean": clean}
    found = evaluate.evaluate_device(bundle, faces, splits, 1, lambda line: None, None)
    return {**found, "command": "a test"}


CALIBRATION = pack.Calibration(1.5, 0.3)


def test_a_lens_that_is_not_present_has_no_say(recipe_file: Path, tmp_path: Path) -> None:
    path = onnx_graph.export_float(network(recipe.read(recipe_file)), 16, tmp_path / "float.onnx")
    visible, infrared, present = onnx_graph.random_inputs(2, 16)
    present[:] = (1.0, 0.0)
    one = onnx_graph.run(path, (visible, infrared, present))
    assert np.array_equal(one, onnx_graph.run(path, (visible, np.zeros_like(infrared), present)))


def test_quantisation_compares_all_methods_and_keeps_the_arithmetic_in_float(work: Path) -> None:
    import onnx

    report = json.loads((work / quantize.REPORT).read_text())
    assert {c["method"] for c in report["candidates"]} == set(quantize.METHODS)
    graph = onnx.load(work / quantize.INT8).graph
    feeds = {name: n.op_type for n in graph.node for name in n.output}
    fed = {
        kind: [feeds.get(n.input[0]) for n in graph.node if n.op_type == kind] for kind in ("Conv", "Sigmoid", "Sqrt")
    }
    stems = 2 * bool(report["chosen"]["keep_float"])
    assert fed["Conv"].count("DequantizeLinear") >= len(fed["Conv"]) - stems > 0
    assert fed["Sqrt"] == ["Add", "Add"]  # the standardisation: neither Q/DQ behind its sum nor before its root


def test_the_graphs_tell_nothing_of_the_machine_they_were_made_on(work: Path) -> None:
    """torch's exporter notes source paths and stack traces at every node."""
    for name in (quantize.FLOAT, quantize.INT8):
        data = (work / name).read_bytes()
        assert b"site-packages" not in data
        assert b".py" not in data


def test_weights_use_seven_bits(work: Path) -> None:
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(work / quantize.INT8).graph
    weights = [w for i in graph.initializer if (w := numpy_helper.to_array(i)).dtype == np.int8 and w.ndim >= 2]
    assert weights
    assert max(int(np.abs(w.astype(int)).max()) for w in weights) <= 64


def test_layers_named_in_the_recipe_stay_in_float(work: Path, tmp_path: Path) -> None:
    import onnx

    calibration = onnx_graph.random_inputs(4, 16)
    target = tmp_path / "kept.onnx"
    quantize.quantize_graph(work / quantize.FLOAT, target, calibration, "minmax", ["visible.conv1"])
    graph = onnx.load(target).graph
    floats = {i.name for i in graph.initializer if i.data_type == onnx.TensorProto.FLOAT}
    assert "model.visible.conv1.weight" in floats
    assert "model.infrared.conv1.weight" not in floats


@portraits
def test_a_packed_bundle_opens_on_the_device_and_carries_its_figures(
    work: Path, recipe_file: Path, tmp_path: Path
) -> None:
    to = tmp_path / "bundles" / "tiny"
    plan = recipe.read(recipe_file).model_copy(update={"caveat": "Its gate was set by hand."})
    results = pack.pack(plan, work, to, CALIBRATION, _results)
    bundle = open_bundle(to)
    open_network(bundle, Infer(threads=1)).close()
    assert bundle.manifest.metrics == evaluate.flat_metrics(results)
    assert bundle.manifest.graphs[0].precision == "int8 U8S8, reduced range"
    assert (to / "golden.npz").stat().st_size < 80_000
    assert [p.name for p in to.parent.iterdir()] == ["tiny"]
    assert "simulation" in evaluate.table(results)
    card = " ".join((to / "MODEL_CARD.md").read_text().split())
    for said in ("simulation", "not a DDAW or ADDW", "Art. 5(1)(f)", "unknown", "`a test`", "INT8 against FP32: not"):
        assert said in card, said
    assert plan.caveat in card


@portraits
def test_a_bundle_has_a_graph_and_golden_answers_for_each_runtime(
    work: Path, recipe_file: Path, tmp_path: Path
) -> None:
    to = tmp_path / "tiny"
    pack.pack(recipe.read(recipe_file), work, to, CALIBRATION, lambda bundle: {})
    bundle = open_bundle(to)
    assert [(g.runtime, g.file) for g in bundle.manifest.graphs] == [
        ("onnxruntime", "classifier.onnx"), ("tensorrt", "classifier-tensorrt.onnx"),
    ]  # fmt: skip
    assert bundle.manifest.graphs[1].precision == "int8 Q/DQ symmetric, 40 of 40 convolutions, rest fp16"
    assert set(bundle.manifest.files) >= {"classifier.onnx", "classifier-tensorrt.onnx"}
    assert bundle.graph("tensorrt") == to / "classifier-tensorrt.onnx"
    g = bundle.golden
    answers = onnx_graph.run(bundle.graph("tensorrt"), (g.visible, g.infrared, g.present), exact=True)
    assert np.abs(answers - g.expected("tensorrt")).max() < 1e-3
    assert np.abs(g.expected("tensorrt") - g.expected("onnxruntime")).max() > 1e-3


def _requantised(recipe_file: Path, out: Path, more: str) -> None:
    recipe_file.write_text(recipe_file.read_text() + more)
    plan, faces, public = recipe.read(recipe_file), fer2013.load("train"), fer2013.load("public")
    trained = checkpoint.finished(network(plan), plan, faces.classes, faces.fingerprint, {"epochs": 2})
    out.mkdir()
    checkpoint.write(out / "network.pt", trained)
    quantize.quantize(plan, out / "network.pt", out, faces, public, lambda line: None)


@portraits
def test_int8_is_compared_with_the_float_graph_it_was_made_of_only(
    work: Path, recipe_file: Path, tmp_path: Path
) -> None:
    pack.pack(recipe.read(recipe_file), work, tmp_path / "tiny", CALIBRATION, lambda bundle: {})
    bundle, other, said = open_bundle(tmp_path / "tiny"), tmp_path / "other", list[str]()
    assert packing._float_graph(argparse.Namespace(out=work), bundle, said.append) == work / quantize.FLOAT
    other.mkdir()
    shutil.copy(work / quantize.FLOAT, other)
    (other / quantize.INT8).write_bytes(b"another training's")
    assert packing._float_graph(argparse.Namespace(out=other), bundle, said.append) is None
    assert len(said) == 1


def test_a_block_named_in_the_recipe_is_left_out(work: Path, recipe_file: Path, tmp_path: Path) -> None:
    import onnx

    _requantised(recipe_file, tmp_path / "out", 'drop = ["visible.layer1.1"]\n')
    whole, less = (
        [
            i.name
            for i in onnx.load(folder / quantize.FLOAT).graph.initializer
            if i.name.endswith(("conv1.weight", "conv2.weight"))
        ]
        for folder in (work, tmp_path / "out")
    )
    assert set(whole) - set(less) == {"model.visible.layer1.1.conv1.weight", "model.visible.layer1.1.conv2.weight"}


@pytest.mark.parametrize("name", ["visible.layer2.0", "visible.conv1", "visible.layer9.0"])
def test_what_cannot_be_left_out_is_named(name: str, data_root: Path, recipe_file: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"'quantisation.drop': {name} is no residual block"):
        _requantised(recipe_file, tmp_path / "out", f'drop = ["{name}"]\n')


@portraits
def test_a_graph_that_tensorrt_would_misread_is_not_packed(work: Path, recipe_file: Path, tmp_path: Path) -> None:
    import onnx
    import tensorrt_mutants

    out = tmp_path / "out"
    shutil.copytree(work, out)
    graph = onnx.load(out / "classifier-tensorrt.onnx")
    tensorrt_mutants.unsigned(graph)
    onnx.save(graph, out / "classifier-tensorrt.onnx")
    with pytest.raises(UsageError, match=r"classifier-tensorrt\.onnx: relu.*the zero point is UINT8"):
        pack.pack(recipe.read(recipe_file), out, tmp_path / "to", CALIBRATION, _results)
    assert not (tmp_path / "to").exists()


@portraits
def test_whatever_fails_leaves_the_old_bundle(work: Path, recipe_file: Path, tmp_path: Path) -> None:
    plan, to = recipe.read(recipe_file), tmp_path / "bundles" / "tiny"
    pack.pack(plan, work, to, CALIBRATION, _results)
    before = open_bundle(to).sha256

    def broken(bundle: Bundle) -> dict[str, Any]:
        raise InputError("the data went away")

    with pytest.raises(InputError, match="went away"):
        pack.pack(plan, work, to, pack.Calibration(2.0, 0.5), broken)
    assert open_bundle(to).sha256 == before
    assert [p.name for p in to.parent.iterdir()] == ["tiny"]


@portraits
def test_a_new_bundle_that_does_not_open_in_place_is_taken_back(
    work: Path, recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to = tmp_path / "bundles" / "tiny"
    pack.pack(recipe.read(recipe_file), work, to, CALIBRATION, _results)
    before = open_bundle(to).sha256
    stage = tmp_path / "bundles" / ".tiny.new"
    stage.mkdir()
    with pytest.raises(BundleError):
        pack.swap(stage, to)
    assert open_bundle(to).sha256 == before


def test_bundle_without_quantize_says_what_to_run(recipe_file: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="export quantize"):
        pack.pack(recipe.read(recipe_file), tmp_path / "empty", tmp_path / "to", CALIBRATION, _results)


PAPER = """
name = "of-a-paper"
[model]
name = "single"
widths = [64, 64, 64, 64]
[quantisation]
sensitivity_views = 6
[reduced.model]
widths = [8, 8, 8, 8]
stem_stride = 2
"""


@portraits
def test_a_system_trained_reduced_is_packed_by_the_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No template in the recipe: it is measured on the pictures trained on; the card tells the budget."""
    file, out, to = tmp_path / "paper.toml", tmp_path / "out", tmp_path / "out/bundle"
    file.write_text(PAPER)
    _portrait_set(tmp_path / "data")
    monkeypatch.setenv("EDGEFER_DATA", str(tmp_path / "data"))
    common = [str(file), "--reduced", "--out", str(out), "--threads", "1"]
    assert command.main(["train", *common, "--cpu-minutes", "0.05"]) == 0, capsys.readouterr().err
    for verb in ("quantize", "bundle", "evaluate"):
        assert command.main([verb, *common]) == 0, capsys.readouterr().err
    bundle = open_bundle(to)
    assert bundle.manifest.lenses_needed == ["visible"]
    assert np.abs(np.array(bundle.manifest.crop.template) - TEMPLATE).max() < 3
    card = (to / "MODEL_CARD.md").read_text()
    assert "as many as 0.05 processor minutes paid for" in card
    assert f"export evaluate {file} --reduced --bundle {to}" in card


TEMPLATE = np.array([[14.76, 18.08], [32.24, 18.08], [23.5, 28.1], [16.41, 35.44], [30.59, 35.44]])


def _portrait_set(root: Path) -> None:
    """A fer2013.npz of 48 crops of the two portraits, each a little another way."""
    images = golden.pairs(48, TEMPLATE, ("visible",), count=48)[0][..., 0]
    root.mkdir()
    split = np.repeat(np.array([0, 1, 2], np.uint8), (24, 12, 12))
    labels, group = (np.arange(48) % 7).astype(np.uint8), np.arange(48, dtype=np.int32)
    np.savez_compressed(root / "fer2013.npz", images=images, labels=labels, split=split, dup_group=group)


@portraits
def test_golden_vectors_cover_every_lens_state_and_the_dark(recipe_file: Path) -> None:
    template = np.array(recipe.read(recipe_file).template)
    visible, infrared, present = golden.pairs(48, template * 3)
    states = {tuple(row) for row in present.tolist()}
    assert states == {(1.0, 1.0), (1.0, 0.0), (0.0, 1.0)}
    assert not visible[present[:, 0] == 0].any()
    assert not infrared[present[:, 1] == 0].any()
    levels = visible[present[:, 0] == 1].mean(axis=(1, 2, 3))
    assert levels.min() < 40 < levels.max()


def test_a_missing_portrait_names_the_packages() -> None:
    with pytest.raises(InputError, match="pip install scikit-image matplotlib"):
        golden.read(golden.Portrait("no_such_package", "x.png", ()))


OTHERS = {
    "single": {"modality": "visible", "widths": [8, 8, 8, 8]},
    "early-fusion": {"widths": [8, 8, 8, 8]},
    "singh": {"width": 0.125, "side": 32},
}


@portraits
@pytest.mark.parametrize("name", sorted(OTHERS))
def test_a_network_of_the_papers_becomes_a_bundle_the_device_runs(
    name: str, recipe_file: Path, data_root: Path, tmp_path: Path
) -> None:
    """One lens, both lenses needed, several frames: packed, opened against its golden vectors, evaluated."""
    plan = recipe.read(recipe_file)
    unmeasured = plan.quantisation.model_copy(update={"sensitivity_views": 0})
    model = recipe.Model(name=name, **OTHERS[name])
    plan = plan.model_copy(update={"model": model, "quantisation": unmeasured})
    out, to, faces = tmp_path / "out", tmp_path / "bundle", fer2013.load("train")
    out.mkdir()
    made = network(plan)
    trained = checkpoint.finished(made, plan, faces.classes, faces.fingerprint, {"epochs": 2})
    checkpoint.write(out / "network.pt", trained)
    quantize.quantize(plan, out / "network.pt", out, faces, fer2013.load("public"), lambda line: None)
    report = pack.read_report(out)
    calibration = pack.calibrate(pack.answering(out, report), report["lenses_needed"], fer2013.load("public"), 1)
    results = pack.pack(plan, out, to, calibration, _results)
    bundle = open_bundle(to)
    assert bundle.manifest.lenses_needed == list(made.needs)
    assert list(results["splits"]["private"]) == ["+".join(made.needs)]
    assert (bundle.manifest.temporal is not None) == (name == "singh")
    assert [g.runtime for g in bundle.manifest.graphs] == ["onnxruntime", "tensorrt"][: 1 + (name != "singh")]
    assert ("temporal" in json.loads((to / "manifest.json").read_text())) == (name == "singh")
    card = (to / "MODEL_CARD.md").read_text()
    assert "| light | " + ("visible alone" if made.needs == ("visible",) else "fused") in card
    assert ("infrared brings its own light" in card) == (made.needs != ("visible",))
    assert ("**Simulated:**" in card) == bool(bundle.manifest.training.simulated) == ("infrared" in made.uses)
    open_network(bundle, Infer(threads=1)).close()
