"""``python -m export bundle``: a complete, verified bundle, put in place whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgefer.bundle import CARD, GOLDEN, MANIFEST, MANIFEST_HASH, Bundle, Manifest, file_sha256, open_bundle
from edgefer.config import Infer
from edgefer.infer import open_network
from edgefer.locate.yunet import MODEL_FILE, MODEL_SHA256
from export import card, golden, lenses, metrics, onnx_graph
from export.data.faces import Faces
from export.errors import InputError, UsageError
from export.evaluate import COVERAGE, flat_metrics
from export.quantize import INT8, PRECISION, REPORT
from export.recipe import Recipe

TOLERANCE = 0.03
"""largest difference of a probability that another processor's rounding may make"""
Evaluate = Callable[[Bundle], dict[str, Any]]


@dataclass(frozen=True)
class Calibration:
    """temperature: divides the logits; min_conf: calibrated probability below which a reading is uncertain."""

    temperature: float
    min_conf: float


def calibrate(graph: Path, public: Faces, seed: int, threads: int = 1) -> Calibration:
    """From PublicTest through the quantised graph, both lenses and each alone in equal shares.

    ``min_conf`` is the confidence that the surest 80 % of those views reach: the rest, where the network errs most
    (selective risk, Geifman & El-Yaniv 2017), is better called uncertain. The daemon compares it with a probability
    smoothed over time, which is steadier than a single view's.
    """
    inputs, labels = lenses.mixed(public, seed)
    logits = onnx_graph.run(graph, inputs, threads=threads)
    temperature = metrics.fit_temperature(logits, labels)
    least = metrics.confidence_at(metrics.probabilities(logits, temperature), COVERAGE)
    return Calibration(round(temperature, 4), round(least, 3))


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


def verified(path: Path) -> Bundle:
    """The opened bundle, its graph held against the golden vectors here. Raises BundleError."""
    bundle = open_bundle(path)
    open_network(bundle, Infer(threads=1)).close()
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
    except FileNotFoundError:
        raise InputError(f"{out / REPORT}: not found; run `python -m export quantize` first") from None
    except (OSError, ValueError) as e:
        raise InputError(f"{out / REPORT}: unreadable ({e}); run `python -m export quantize` again") from None
    return report


def _fill(recipe: Recipe, out: Path, stage: Path) -> dict[str, Any]:
    """The graph and the golden vectors; returns the quantisation report."""
    if recipe.template is None:
        raise UsageError(f"recipe {recipe.name} has no crop template; measure it: python -m export template RECIPE")
    report = read_report(out)
    if not (out / INT8).is_file():
        raise InputError(f"{out / INT8}: not found; run `python -m export quantize` first")
    shutil.copyfile(out / INT8, stage / INT8)
    vectors = golden.make(stage / INT8, recipe.crop, np.array(recipe.template, np.float64))
    np.savez_compressed(stage / GOLDEN, **asdict(vectors))
    return report


def _seal(stage: Path, recipe: Recipe, c: Calibration, report: dict[str, Any], results: dict[str, Any]) -> None:
    """Write the card and, last, the manifest with every hash."""
    text = card.model_card(recipe, asdict(c), report, results)
    (stage / CARD).write_text(text, encoding="utf-8")
    manifest = Manifest.model_validate(_manifest(recipe, c, report, results, _hashes(stage)))
    (stage / MANIFEST).write_text(json.dumps(manifest.model_dump(mode="json"), indent=1) + "\n", encoding="utf-8")
    (stage / MANIFEST_HASH).write_text(file_sha256(stage / MANIFEST) + "\n", encoding="ascii")


def _hashes(stage: Path) -> dict[str, str]:
    return {name: file_sha256(stage / name) for name in sorted((INT8, GOLDEN, CARD))}


def _manifest(
    recipe: Recipe, c: Calibration, report: dict[str, Any], results: dict[str, Any], files: dict[str, str]
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
        "graphs": [{"file": INT8, "runtime": "onnxruntime", "precision": PRECISION}],
        "golden_tolerance": TOLERANCE,
        "detector": {"name": MODEL_FILE, "sha256": MODEL_SHA256},
        "training": {
            "recipe": recipe.name,
            "data": {"FER2013, leak-free Training": report["training_data_sha256"]},
            "simulated": lenses.SIMULATED,
        },
        "metrics": flat_metrics(results) if results else {},
        "files": files,
    }
