"""``python -m export bundle``: a complete, verified bundle, put in place whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from pydantic import TypeAdapter, ValidationError

from edgefer.bundle import (
    CARD,
    GOLDEN,
    MANIFEST,
    MANIFEST_HASH,
    Bundle,
    Golden,
    Manifest,
    Name,
    Version,
    file_sha256,
    open_bundle,
)
from edgefer.config import Infer
from edgefer.infer import open_network
from edgefer.locate.yunet import MODEL_FILE, MODEL_SHA256
from export import card, golden, lenses, metrics, onnx_graph, temporal_graph, tensorrt_rules
from export.data.faces import Faces
from export.errors import InputError, UsageError
from export.evaluate import COVERAGE, flat_metrics
from export.lenses import Answer
from export.quantize import INT8, REPORT
from export.recipe import Recipe

TOLERANCE = 0.03
"""largest difference of a probability that another processor's rounding may make"""
MOST_CONF = 0.9
"""largest ``min_conf``: easy pictures may all be answered so surely that next to nothing in a car would reach them"""
WATCHED = "validation rows"
"""what the manifest calls those that temperature and threshold were chosen on"""
Evaluate = Callable[[Bundle], dict[str, Any]]


@dataclass(frozen=True)
class Calibration:
    """temperature: divides the logits; min_conf: calibrated probability below which a reading is uncertain."""

    temperature: float
    min_conf: float


def files(report: dict[str, Any]) -> list[str]:
    """The graphs of the bundle, ONNX Runtime's first: one per runtime, or encoder and head."""
    if "temporal" in report:
        return [temporal_graph.ENCODER, temporal_graph.HEAD]
    return [INT8, report["tensorrt"]["file"]] if "tensorrt" in report else [INT8]


def graphs(report: dict[str, Any]) -> list[dict[str, str]]:
    """Which graph is for which runtime, as the manifest says it."""
    found = [{"file": files(report)[0], "runtime": "onnxruntime", "precision": report["precision"]}]
    own = report.get("tensorrt")
    return found + ([{"file": own["file"], "runtime": "tensorrt", "precision": own["precision"]}] if own else [])


def answering(out: Path, report: dict[str, Any], threads: int = 1) -> Answer:
    """The graphs that ``quantize`` left in ``out`` at work, one pair at a time as on the device."""
    if "temporal" not in report:
        return lambda inputs: onnx_graph.run(out / INT8, inputs, batch=1, threads=threads)
    section = report["temporal"]
    encoder, head = (out / name for name in files(report))
    graphs = temporal_graph.TwoGraphs(encoder, head, section["window"], section["features"])
    return lambda inputs: temporal_graph.frame_logits(graphs, inputs)


def calibrate(answer: Answer, needed: Sequence[str], watch: Faces, seed: int) -> Calibration:
    """From the watched rows (FER2013: PublicTest), framed as on the device, through the graph; both lenses and each
    alone in equal shares where either will do.

    ``min_conf`` is the confidence that the surest 80 % of those views reach, MOST_CONF at most: the rest, where the
    network errs most (selective risk, Geifman & El-Yaniv 2017), is better called uncertain. The daemon compares it
    with a probability smoothed over time, which is steadier than a single view's.
    """
    inputs, labels = lenses.mixed(watch, seed, needed)
    logits = answer(inputs)
    temperature = metrics.fit_temperature(logits, labels)
    least = metrics.confidence_at(metrics.probabilities(logits, temperature), COVERAGE)
    return Calibration(round(temperature, 4), round(min(least, MOST_CONF), 3))


def pack(recipe: Recipe, out: Path, to: Path, calibration: Calibration, evaluate: Evaluate) -> dict[str, Any]:
    """Build beside ``to``, check on this machine, measure, then swap. Returns the results of ``evaluate``.

    Whatever fails on the way leaves the old bundle as it was. Raises InputError, UsageError or BundleError.
    """
    stage = to.parent / f".{to.name}.new"
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir(parents=True)
    try:
        report = _fill(recipe, out, stage)
        results: dict[str, Any] = {}
        _seal(stage, recipe, calibration, report, results)
        results = evaluate(verified(stage))
        _seal(stage, recipe, calibration, report, results)
        verified(stage)
        swap(stage, to)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return results


def check(recipe: Recipe) -> None:
    """What a bundle needs beside pictures, before anything is trained: a name and a version that it may bear, and the
    portraits of its golden vectors. Raises UsageError or InputError."""
    for key, kind in (("name", Name), ("version", Version)):
        try:
            TypeAdapter(kind).validate_python(getattr(recipe, key))
        except ValidationError as e:
            raise UsageError(f"recipe {recipe.name}: no bundle: '{key}': {e.errors()[0]['msg']}") from None
    for portrait in golden.PORTRAITS:
        golden.read(portrait)


def verified(path: Path) -> Bundle:
    """The opened bundle, its graph held against the golden vectors here. Raises BundleError."""
    bundle = open_bundle(path)
    open_network(bundle, Infer(backend="onnxruntime", threads=1)).close()
    return bundle


def swap(stage: Path, to: Path) -> None:
    """Put ``stage`` in the place of ``to``; the old folder goes only when the new one has opened there."""
    old = to.parent / f".{to.name}.old"
    shutil.rmtree(old, ignore_errors=True)
    if to.exists():
        os.replace(to, old)
    try:
        os.replace(stage, to)
        open_bundle(to)
    except BaseException:
        shutil.rmtree(to, ignore_errors=True)
        if old.exists():
            os.replace(old, to)
        raise
    shutil.rmtree(old, ignore_errors=True)


def read_report(out: Path) -> dict[str, Any]:
    """What ``export quantize`` left in ``out``. Raises InputError when it did not run."""
    try:
        report: dict[str, Any] = json.loads((out / REPORT).read_text(encoding="utf-8"))
        if not isinstance(report, dict):
            raise ValueError("no JSON object")
    except FileNotFoundError:
        raise InputError(f"{out / REPORT}: not found; run `python -m export quantize` first") from None
    except (OSError, ValueError) as e:
        raise InputError(f"{out / REPORT}: unreadable ({e}); run `python -m export quantize` again") from None
    return report


def _fill(recipe: Recipe, out: Path, stage: Path) -> dict[str, Any]:
    """The graph and the golden vectors; returns the quantisation report. ``recipe`` has a template."""
    report = read_report(out)
    for name in files(report):
        if not (out / name).is_file():
            raise InputError(f"{out / name}: not found; run `python -m export quantize` first")
        shutil.copyfile(out / name, stage / name)
    template = np.array(recipe.template, np.float64)
    vectors = golden.make(answering(stage, report), recipe.crop, template, report["lenses_needed"])
    if "tensorrt" in report:
        vectors = _with_tensorrt(vectors, stage / report["tensorrt"]["file"])
    arrays = {name: x for name, x in asdict(vectors).items() if x is not None}
    np.savez_compressed(stage / GOLDEN, **arrays)
    return report


def _with_tensorrt(vectors: Golden, graph: Path) -> Golden:
    """The answers of TensorRT's graph: its Q/DQ computed as they stand, and first its rules checked once more."""
    tensorrt_rules.check(onnx.load(str(graph)), graph.name)
    inputs = (vectors.visible, vectors.infrared, vectors.present)
    return replace(vectors, logits_tensorrt=onnx_graph.run(graph, inputs, exact=True))


def _seal(stage: Path, recipe: Recipe, c: Calibration, report: dict[str, Any], results: dict[str, Any]) -> None:
    """Write the card and, last, the manifest with every hash."""
    text = card.model_card(recipe, asdict(c), report, results)
    (stage / CARD).write_text(text, encoding="utf-8")
    names = sorted([*files(report), GOLDEN, CARD])
    hashes = {name: file_sha256(stage / name) for name in names}
    try:
        manifest = Manifest.model_validate(_manifest(recipe, c, report, results, hashes))
    except ValidationError as e:
        wrong = e.errors(include_url=False)[0]
        raise UsageError(
            f"recipe {recipe.name}: no bundle: '{'.'.join(map(str, wrong['loc']))}': {wrong['msg']}"
        ) from None
    # A bundle over single frames must stay readable to devices that know no "temporal".
    text = json.dumps(manifest.model_dump(mode="json", exclude_none=True), indent=1)
    (stage / MANIFEST).write_text(text + "\n", encoding="utf-8")
    (stage / MANIFEST_HASH).write_text(file_sha256(stage / MANIFEST) + "\n", encoding="ascii")


def _data(report: dict[str, Any]) -> dict[str, str]:
    """What the network was trained on and, where its owner can exchange them, what its threshold was chosen on."""
    trained_on = report["training_data_sha256"]
    if "set" not in report:
        return {"FER2013, leak-free Training": trained_on}
    name, watched = report["set"]["name"], report.get("validation_data_sha256")
    data = {f"{name}, training rows": trained_on}
    return data | ({f"{name}, {WATCHED}": watched} if watched else {})


def _manifest(
    recipe: Recipe, c: Calibration, report: dict[str, Any], results: dict[str, Any], hashes: dict[str, str]
) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "name": recipe.name,
        "version": recipe.version,
        "labels": report["labels"],
        "crop": {"size": recipe.crop, "visible_channels": 1, "template": recipe.template},
        "lenses_needed": report["lenses_needed"],
        "fusion": report["fusion"],
        "temperature": c.temperature,
        "thresholds": {"min_conf": c.min_conf},
        "graphs": graphs(report),
        "temporal": report.get("temporal"),
        "golden_tolerance": TOLERANCE,
        "detector": {"name": MODEL_FILE, "sha256": MODEL_SHA256},
        "training": {
            "recipe": report.get("recipe", recipe.name),
            "data": _data(report),
            "simulated": report.get("simulated", lenses.SIMULATED),
        },
        "metrics": flat_metrics(results) if results else {},
        "files": hashes,
    }
