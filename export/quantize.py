"""``python -m export quantize``: the trained network as one INT8 graph per runtime.

ONNX Runtime on the processor: activations uint8, weights int8 of seven bits (reduced range): full-range INT8 saturates
16-bit sums on processors without VNNI and gives wrong answers there. Batch norm is folded before; the standardisation
of the crops, the gates' sigmoids and the soft arithmetic between stay in float. TensorRT: `export.tensorrt_search`.

The calibration method, and the layers that stay in float if the target is missed, are chosen on the watched rows
(FER2013: PublicTest); the calibration images are training pairs with all their faults (dark cabin, covered patch, dead
lens).
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx
import torch
from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

from export import checkpoint, lenses, onnx_graph, temporal_graph, tensorrt_search
from export.calibration import METHODS, PERCENTILE, Pairs, calibration_inputs, quiet, stride
from export.data.faces import Faces
from export.errors import InputError
from export.judge import Candidate, Judge
from export.lenses import Inputs
from export.models.network import Temporal
from export.models.resnet import BasicBlock
from export.recipe import Recipe

PRECISION = "int8 U8S8, reduced range"
FLOAT, INT8, REPORT = "classifier-fp32.onnx", "classifier.onnx", "quantisation.json"
STEMS = ("visible.conv1", "infrared.conv1", "backbone.conv1", "classifier.conv1")
FALLBACKS = ((*STEMS,), (*STEMS, "gate", "head", "Gemm"))
"""name parts kept in float, tried in this order when every method misses the target: stem, then linear layers too"""
Say = Callable[[str], None]


def quantize_graph(
    source: Path, target: Path, calibration: Inputs, method: str, keep_float: Sequence[str] = ()
) -> Path:
    """One U8S8 Q/DQ graph with reduced range; nodes whose name or weights hold a part of ``keep_float`` stay float."""
    step = stride(len(calibration[2]))
    with quiet():
        quantize_static(
            str(source), str(target), Pairs(calibration), quant_format=QuantFormat.QDQ, per_channel=True,
            reduce_range=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv", "Gemm", "Add"], nodes_to_exclude=_excluded(source, keep_float),
            calibrate_method=METHODS[method], extra_options={"CalibStridedMinMax": step, "CalibPercentile": PERCENTILE},
        )  # fmt: skip
    return target


def _excluded(source: Path, keep_float: Sequence[str]) -> list[str]:
    """The kept layers, and every sum with a constant: the residual sums have none, the standardisation's has."""
    graph = onnx.load(str(source)).graph
    constants = {i.name for i in graph.initializer}
    out = []
    for node in graph.node:
        names = " ".join([node.name, *node.input])
        arithmetic = node.op_type == "Add" and any(name in constants for name in node.input)
        if arithmetic or any(part in names for part in keep_float):
            out.append(node.name)
    return out


def quantize(
    recipe: Recipe,
    weights: Path,
    out: Path,
    train: Faces,
    watch: Faces,
    say: Say,
    threads: int = 1,
    about: dict[str, Any] | None = None,
) -> Path:
    """Writes the float graph, the best INT8 graph and ``quantisation.json`` with all figures into ``out``.

    about: what `export.rows` says of the set; None: FER2013's official split.
    """
    out.mkdir(parents=True, exist_ok=True)
    trained = _trained(weights, recipe, train)
    said: dict[str, Any] = {"recipe": recipe.name, "simulated": lenses.simulated(train, trained.model.needs)}
    said |= {"validation_data_sha256": watch.fingerprint, "made_of": made_of(recipe, weights)}
    said |= {"set": about} if about else {}
    if isinstance(trained.model, Temporal):
        return _two_graphs(recipe, trained, trained.model, out, said, say)
    _drop(trained.model, recipe)
    source = onnx_graph.export_float(trained.model, recipe.crop, out / FLOAT)
    watched = lenses.head(watch, recipe.quantisation.watched_images, recipe.seed)
    inputs, labels = lenses.mixed(watched, recipe.seed, trained.model.needs)
    judge = Judge.of(source, inputs, labels, threads)
    views = f"{len(labels)} {'validation' if about else 'PublicTest'} views"
    say(f"float graph: {judge.float_accuracy:.2%} on {views}, {_mb(source)}")
    calibration = calibration_inputs(train, recipe, trained.model.needs)
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        tried = _search(recipe, source, Path(scratch), calibration, judge, say)
        best = max(tried, key=lambda c: (c.good, c.score))
        _file(Path(scratch), best).replace(out / INT8)
    say(f"kept: {best.title} -> {out / INT8}" + ("" if best.good else " (misses the target)"))
    tensorrt = tensorrt_search.search(recipe, source, out, calibration, judge, say)
    _report(out, trained, {
        "chosen": asdict(best), "candidates": [asdict(c) for c in tried], "precision": PRECISION,
        "calibration": f"{len(calibration[2])} training pairs", "compared_on": views,
        "tensorrt": tensorrt, **said,
    })  # fmt: skip
    return out / INT8


def made_of(recipe: Recipe, weights: Path) -> dict[str, Any]:
    """What the graphs come from beside the pictures, as the report keeps it. Raises InputError without a network."""
    digest = hashlib.sha256()
    for name, tensor in sorted(checkpoint.finished_state(weights)["network"].items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    parts = {"model", "crop", "augment", "quantisation"} | ({"template"} if recipe.augment.framed else set())
    settings = recipe.model_dump(mode="json", include=parts)
    return {"weights_sha256": digest.hexdigest(), **settings}


def _trained(weights: Path, recipe: Recipe, train: Faces) -> checkpoint.Trained:
    """The network, if trained on these very rows: else it may have seen those that test it. Raises InputError."""
    trained = checkpoint.load(weights, recipe)
    if (trained.labels, trained.data) != (train.classes, train.fingerprint):
        raise InputError(f"{weights}: trained on other rows of {recipe.data.name} than are there now; train again")
    return trained


def _drop(network: torch.nn.Module, recipe: Recipe) -> None:
    """Leave nothing of the recipe's dropped blocks but the shortcut. Raises InputError when a shortcut computes."""
    for name in recipe.quantisation.drop:
        parent, _, last = name.rpartition(".")
        try:
            block = network.get_submodule(name)
        except AttributeError:
            block = None
        if not isinstance(block, BasicBlock) or not isinstance(block.downsample, torch.nn.Identity):
            why = f"{name} is no residual block whose shortcut is its input"
            raise InputError(f"recipe {recipe.name}: 'quantisation.drop': {why}")
        setattr(network.get_submodule(parent), last, torch.nn.Identity())


def _report(out: Path, trained: checkpoint.Trained, more: dict[str, Any]) -> None:
    report = {
        **more, "checkpoint_epoch": trained.epoch,
        "budget_minutes": trained.spent.get("budget"), "labels": list(trained.labels),
        "fusion": trained.model.fusion, "lenses_needed": list(trained.model.needs),
        "training_data_sha256": trained.data,
    }  # fmt: skip
    (out / REPORT).write_text(json.dumps(report, indent=1) + "\n")


def _two_graphs(
    recipe: Recipe, trained: checkpoint.Trained, network: Temporal, out: Path, said: dict[str, Any], say: Say
) -> Path:
    """Encoder and head of a network over several frames, in float32: their INT8 form has not been tried."""
    graphs = temporal_graph.export_temporal(network, recipe.crop, out)
    _report(out, trained, {"precision": "float32", "temporal": graphs.section(), **said})
    say(f"encoder and head, float32: {graphs.encoder}, {graphs.head}")
    return graphs.encoder


def _search(recipe: Recipe, source: Path, scratch: Path, data: Inputs, judge: Judge, say: Say) -> list[Candidate]:
    """Every method with the recipe's own exceptions; then, only if all miss the target, more layers in float."""
    kept = tuple(recipe.quantisation.keep_float)
    tried = [_try(source, scratch, data, judge, method, kept, say) for method in METHODS]
    for more in FALLBACKS:
        if any(c.good for c in tried):
            break
        best = max(tried, key=lambda c: c.score)
        tried.append(_try(source, scratch, data, judge, best.method, kept + more, say))
    return tried


def _try(
    source: Path, scratch: Path, data: Inputs, judge: Judge, method: str, kept: tuple[str, ...], say: Say
) -> Candidate:
    file = scratch / "candidate.onnx"
    candidate = judge(quantize_graph(source, file, data, method, kept), method, kept)
    file.replace(_file(scratch, candidate))
    say(candidate.title)
    return candidate


def _file(scratch: Path, c: Candidate) -> Path:
    return scratch / f"{c.method}-{len(c.keep_float)}.onnx"


def _mb(file: Path) -> str:
    return f"{file.stat().st_size / 1e6:.2f} MB"
