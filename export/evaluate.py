"""``python -m export evaluate``: what the bundle is worth, measured through the device's own path.

Crops go into :func:`edgefer.infer.open_network`, one at a time, exactly as in the daemon; no test-time augmentation.
The tested rows (FER2013: PrivateTest) are only looked at here: temperature and thresholds came from the watched ones
(PublicTest) when the bundle was made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgefer.bundle import Bundle, file_sha256
from edgefer.config import Infer
from edgefer.infer import Network, open_network
from edgefer.types import F32, F64, U8, AlignedPair
from export import framing, lenses, metrics, onnx_graph, otherdata, robustness, steadiness
from export.data import augment
from export.data.faces import Faces, Labels
from export.lenses import Inputs

GAINS = (0.5, 0.25, 0.1, 0.05, 0.02, 0.01)
"""light on the visible lens, relative to the picture as taken; the infrared lens brings its own"""
COVERAGE = 0.8
DARK_KEYS = {"visible+infrared": "fused", "visible": "visible", "infrared": "infrared"}
Say = Callable[[str], None]


def evaluate_device(
    bundle: Bundle,
    faces: Faces,
    splits: Mapping[str, npt.NDArray[np.bool_]],
    seed: int,
    say: Say,
    source: Path | None,
    threads: int = 1,
) -> dict[str, Any]:
    """All figures of ``faces`` (the tested rows), by split: bool [N] each, the first of them whole.

    ``source`` is the float graph to compare with; None leaves the comparison out and says so.
    """
    network = open_network(bundle, Infer(backend="onnxruntime", threads=threads))
    try:
        views = lenses.views(faces, seed, bundle.manifest.lenses_needed)
        logits = {mode: device_logits(network, x, f"{mode}", say) for mode, x in views.items()}
        darkness = dark_steps(network, faces, views, logits, seed, say)
        answer = _answer(network, say)
        m, template = bundle.manifest, np.array(bundle.manifest.crop.template, np.float64)
        framed = _framed(faces, template, bundle, seed, answer)
        faults = [] if m.lenses_needed else robustness.rows(
            faces, views["infrared"][1][..., 0], logits, template, seed, answer
        )  # fmt: skip
    finally:
        network.close()
    return {
        "bundle": bundle.title,
        "graph_sha256": file_sha256(bundle.graph("onnxruntime")),
        "graph_bytes": bundle.graph("onnxruntime").stat().st_size,
        "simulated": lenses.simulated(faces, m.lenses_needed),
        "protocol": "device path (edgefer.infer, ONNX Runtime, batch 1), no test-time augmentation; no command "
        "selects anything on these images",
        "infrared_seed": seed if faces.infrared is None else None,
        "temperature": m.temperature,
        "splits": {
            name: {mode: figures(x[rows], faces.labels[rows], m.temperature, m.labels) for mode, x in logits.items()}
            for name, rows in splits.items()
        }
        | {f"{next(iter(splits))}-framed": framed},
        "float": against_float(source, views, logits, faces.labels, say, threads),
        "darkness": darkness,
        "faults": faults,
    }


def beyond(bundle: Bundle, faces: Faces, seed: int, say: Say, threads: int = 1) -> dict[str, Any]:
    """What no accuracy on ``faces`` (PrivateTest) shows: other sets, and how the label behaves in time."""
    m, template = bundle.manifest, np.array(bundle.manifest.crop.template, np.float64)
    network = open_network(bundle, Infer(backend="onnxruntime", threads=threads))
    try:
        answer = _answer(network, say)
        others = otherdata.cross(m.labels, template, m.crop.size, m.lenses_needed, seed, answer)
        mode, shown = next(iter(lenses.views(faces, seed, m.lenses_needed).items()))
        logits = answer(shown, mode)
    finally:
        network.close()
    reaction = steadiness.reaction(logits, faces.labels, m.labels, m.temperature, m.thresholds.min_conf, seed)
    return {"other_data": others, "time": {"drive": steadiness.drive(bundle.path), "reaction": reaction}}


def _framed(faces: Faces, template: F64, bundle: Bundle, seed: int, answer: robustness.Answer) -> dict[str, Any]:
    """Figures of the same pictures as the device would frame them (`export.framing`), by state of the lenses."""
    m, found = bundle.manifest, {}
    faces, missed = framing.faces(faces, template, m.crop.size)
    for mode, x in lenses.views(faces, seed, m.lenses_needed).items():
        known = figures(answer(x, f"framed, {mode}"), faces.labels, m.temperature, m.labels)
        found[mode] = {**known, "faces_not_found": missed}
    return found


def _answer(network: Network, say: Say) -> robustness.Answer:
    return lambda inputs, title: device_logits(network, inputs, title, say)


def device_logits(network: Network, inputs: Inputs, name: str, say: Say) -> F32:
    """Batch 1 through the device's runner: logits float32 [N, K]."""
    visible, infrared, present = inputs
    out, n = [], len(present)
    for k in range(n):
        one = slice(k, k + 1)
        network.reset()  # every picture is somebody else's
        out.append(network.infer(AlignedPair(visible[one], infrared[one], present[one])).logits)
        if k % 500 == 499:
            say(f"\r{name}: {k + 1}/{n}")
    return np.stack(out)


def figures(logits: F32, labels: Labels, temperature: float, names: list[str]) -> dict[str, Any]:
    """Accuracy with its 95 % interval, calibration after the temperature, recalls, selective accuracy, confusion.

    The recall of a class without a picture is None.
    """
    probs = metrics.probabilities(logits, temperature)
    right = metrics.accuracy(logits, labels)
    recalls = metrics.recall(logits, labels)
    return {
        "images": len(labels),
        "accuracy": right,
        "interval_95": list(metrics.wilson(right, len(labels))),
        "ece": metrics.calibration_error(probs, labels),
        "selective_accuracy_80": metrics.selective_accuracy(probs, labels, COVERAGE),
        "recall": {n: None if np.isnan(r) else float(r) for n, r in zip(names, recalls, strict=True)},
        "balanced_accuracy": float(np.nanmean(recalls)),
        "confusion": metrics.confusion(logits, labels).tolist(),
    }


def against_float(
    source: Path | None, views: dict[str, Inputs], logits: dict[str, F32], labels: Labels, say: Say, threads: int
) -> dict[str, Any]:
    """INT8 minus FP32 in points and the share of equal answers, per mode; both through ONNX Runtime."""
    if source is None:
        return {"skipped": "no float graph and no checkpoint at hand"}
    out = {}
    for mode, inputs in views.items():
        say(f"\rfloat graph, {mode}")
        expected = onnx_graph.run(source, inputs, threads=threads)
        right = metrics.accuracy(expected, labels)
        out[mode] = {
            "accuracy": right,
            "int8_minus_float_points": 100 * (metrics.accuracy(logits[mode], labels) - right),
            "agreement": metrics.agreement(logits[mode], expected),
        }
    return out


def dark_steps(
    network: Network, faces: Faces, views: dict[str, Inputs], logits: dict[str, F32], seed: int, say: Say
) -> list[dict[str, float]]:
    """Accuracy at each gain of the visible lens: fused, each lens alone, the better one. Infrared does not change.

    The lens is told to be present even where it shows next to nothing; the daemon would call it black.
    """
    rows = []
    for gain in GAINS:
        dark = darkened(faces.images, gain, seed)
        row = {"gain": gain}
        for mode, (_, infrared, present) in views.items():
            scores = logits[mode]
            if present[0, 0]:
                lit = lenses.inputs(dark, infrared[..., 0], mode)
                scores = device_logits(network, lit, f"gain {gain:g}, {mode}", say)
            row[DARK_KEYS[mode]] = metrics.accuracy(scores, faces.labels)
        if len(views) > 1:
            row["better_single"] = max(row["visible"], row["infrared"])
        rows.append(row)
    return rows


def darkened(images: U8, gain: float, seed: int) -> U8:
    """uint8 [N, S, S] at ``gain`` times the light, each image with noise of its own."""
    return np.stack([augment.darken(x, gain, np.random.default_rng((seed, 77, i))) for i, x in enumerate(images)])


def flat_metrics(results: dict[str, Any]) -> dict[str, float]:
    """The manifest's short form: share of right answers per split and mode, calibration, cost of INT8, bytes."""
    out: dict[str, float] = {"graph_bytes": float(results["graph_bytes"])}
    for split, modes in results["splits"].items():
        for mode, f in modes.items():
            key = f"{split}.{mode}".replace("-", "_").replace("+", "_")
            out[f"{key}.accuracy"] = round(f["accuracy"], 4)
            out[f"{key}.ece"] = round(f["ece"], 4)
    for mode, f in results["float"].items():
        if mode != "skipped":
            key = f"int8.{mode}".replace("+", "_")
            out[f"{key}.minus_float_points"] = round(f["int8_minus_float_points"], 2)
            out[f"{key}.agreement"] = round(f["agreement"], 4)
    return out


def table(results: dict[str, Any]) -> str:
    """The figures as aligned plain text."""
    lines = [f"{results['bundle']}: {results['protocol']}"]
    lines += [f"{results['set']['name']}: {results['set']['protocol']}"] if "set" in results else []
    lines += [f"Simulated: {results['simulated']}."] if results["simulated"] else []
    lines.append("")
    lines.append(
        f"{'split':16}{'lenses':18}{'accuracy':>9}  {'95 % interval':>16}{'ECE':>7}{'at 80 %':>9}{'balanced':>10}"
    )
    for split, modes in results["splits"].items():
        for mode, f in modes.items():
            low, high = f["interval_95"]
            lines.append(
                f"{split:16}{mode:18}{f['accuracy']:9.2%}  {low:7.2%} -{high:7.2%}{f['ece']:7.3f}"
                f"{f['selective_accuracy_80']:9.2%}{f['balanced_accuracy']:10.2%}"
            )
    blocks = [_recall_rows(results), _float_rows(results), _dark_rows(results)]
    more: dict[str, Callable[[Any], list[str]]] = {
        "faults": robustness.table, "other_data": otherdata.table, "time": steadiness.table
    }  # fmt: skip
    blocks += [rows(results[key]) for key, rows in more.items() if results.get(key)]
    return "\n".join(lines + [line for block in blocks for line in ("", *block)])


def _recall_rows(results: dict[str, Any]) -> list[str]:
    split, modes = first(results)
    names = list(next(iter(modes.values()))["recall"])
    rows = [f"{f'recall, {split}':20}" + "".join(f"{n:>11}" for n in names)]
    return rows + [f"{m:20}" + "".join(f"{share(f['recall'][n]):>11}" for n in names) for m, f in modes.items()]


def first(results: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The split of all tested rows: its name, and figures by mode."""
    found: tuple[str, dict[str, Any]] = next(iter(results["splits"].items()))
    return found


def share(value: float | None) -> str:
    """In per cent; "-" of nothing."""
    return "-" if value is None else f"{value:.1%}"


def _float_rows(results: dict[str, Any]) -> list[str]:
    if "skipped" in results["float"]:
        return [f"INT8 against FP32: left out, {results['float']['skipped']}"]
    rows = [f"{'INT8 against FP32':20}{'FP32':>9}{'points':>9}{'agreement':>11}"]
    for mode, f in results["float"].items():
        rows.append(f"{mode:20}{f['accuracy']:9.2%}{f['int8_minus_float_points']:9.2f}{f['agreement']:11.2%}")
    return rows


def _dark_rows(results: dict[str, Any]) -> list[str]:
    keys = [k for k in results["darkness"][0] if k != "gain"]
    rows = ["visible light".ljust(20) + "".join(f"{k.replace('_', ' '):>15}" for k in keys)]
    return rows + [f"{r['gain']:<20g}" + "".join(f"{r[k]:15.2%}" for k in keys) for r in results["darkness"]]
