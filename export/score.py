"""``python -m export score RECIPE``: what a trained network is worth on its test rows, as one small results file.

Float32 in torch, batches of undisturbed crops, one pass; the graph that leaves the workstation equals torch within
1e-4 (`export.onnx_graph`). Bundles are measured by `evaluate`, through the device's own path.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from edgefer.types import F32
from export import (
    checkpoint,
    data,
    lenses,
    metrics,
    onnx_graph,
    protocol,
    provenance,
    statistics,
    temporal_graph,
    train,
    trainer,
)  # fmt: skip
from export import recipe as recipes
from export.data.faces import Faces, Labels
from export.errors import InputError
from export.evaluate import GAINS, darkened
from export.models.network import Network, Temporal
from export.recipe import Recipe
from export.report import cost
from export.report.results import (
    CleanMode,
    Estimate,
    Fold,
    Latency,
    Light,
    Machine,
    Mode,
    Reliability,
    System,
)  # fmt: skip
from export.train import Job
from export.trainer import Say

BINS = 15
Probs = npt.NDArray[np.float64]


def score(job: Job, say: Say) -> System:
    """Figures of a finished training. Raises InputError when it is not finished.

    What is simulated of the tests (infrared, darkness) is drawn with the recipe's own seed, whichever it was trained
    with: else the tests would differ, too.
    """
    recipe, seeded = replace(job, seed=None).recipe, job.recipe
    parts = list(protocol.parts(recipe, train.temporal(recipe)))
    trained = [_finished(job.out / p.name / train.NETWORK, seeded, p) for p in parts]
    answers = [_answered(t.model, p, recipe, say) for t, p in zip(trained, parts, strict=True)]
    found = {
        **_identity(job, recipe, seeded.seed),
        **_network(trained[0], recipe, parts[0].test),
        **_tested(parts, answers),
    }
    if recipe.data.name == "fer2013":
        found["darkness"] = _darkness(trained[0].model, parts[0], recipe, say)
    then = provenance.trained(job.out / parts[0].name)
    return System(
        **found, machine=Machine(**trained[0].spent["machine"]), trained=then,
        training=provenance.training(job, trained, [*then.start.values(), *then.soup]),
        protocol=protocol.line(recipe, len(parts[0].train), sum(len(x.labels) for x in answers)),
        curve=provenance.curve(job.out / parts[0].name),
        extra=_extra(trained[0].model, Answers.pooled(answers)),
    )  # fmt: skip


def _finished(path: Path, recipe: Recipe, part: protocol.Part) -> checkpoint.Trained:
    """The network of one part. Raises InputError when it was trained on other rows than this part's, or with another
    seed."""
    trained = checkpoint.load(path, recipe)
    checkpoint.check_seed(path, recipe.seed)
    checkpoint.check_trained(path)
    if not {"cpu", "wall", "rows", "budget", "machine", "precision"} <= set(trained.spent):
        raise InputError(f"{path}: does not say how it was trained; train again")
    learnt = recipe.training.steps or recipe.soup
    if trained.labels != part.train.classes or (learnt and trained.data != part.train.fingerprint):
        raise InputError(f"{path}: trained on other data than {recipe.data.name} {part.name}; train again")
    return trained


@dataclass(frozen=True)
class Answers:
    """modes: camera state -> calibrated probabilities [N, K]; person: [N] or None; clean: bool [N] or None."""

    labels: Labels
    modes: dict[str, Probs]
    person: Any
    clean: Any

    @classmethod
    def pooled(cls, parts: list[Answers]) -> Answers:
        """All folds one behind the other."""
        labels = np.concatenate([p.labels for p in parts])
        modes = {m: np.concatenate([p.modes[m] for p in parts]) for m in parts[0].modes}
        person = None if parts[0].person is None else np.concatenate([p.person for p in parts])
        return cls(labels, modes, person, parts[0].clean)

    @property
    def headline(self) -> Probs:
        return next(iter(self.modes.values()))


def _identity(job: Job, recipe: Recipe, seed: int) -> dict[str, Any]:
    same = ("paper", "title", "family", "role", "compares_with", "change")
    variant = "reduced" if job.reduced else "full"
    own = recipes.read(job.file, job.reduced).data
    return {name: getattr(recipe, name) for name in same} | {
        "seed": seed, "repeat": seed != recipe.seed, "on": "" if recipe.data == own else job.data,
        "recipe": recipe.name, "variant": variant, "dataset": data.READERS[recipe.data.name].about.partition(",")[0],
    }  # fmt: skip


def _network(trained: checkpoint.Trained, recipe: Recipe, test: Faces) -> dict[str, Any]:
    network = trained.model
    size = cost.cost(network, recipe.crop)
    return {
        "lenses": network.uses, "fusion": network.fusion, "labels": trained.labels, "data_fingerprint": trained.data,
        "parameters": size.parameters, "macs": size.macs, "latency_ms": latency(network, recipe.crop),
        "simulated": lenses.simulated(test, network.uses),
    }  # fmt: skip


def _tested(parts: list[protocol.Part], answers: list[Answers]) -> dict[str, Any]:
    a = Answers.pooled(answers)
    clean = {} if a.clean is None else {m: _clean(x[a.clean], a.labels[a.clean]) for m, x in a.modes.items()}
    modes = {m: mode(x, a.labels, a.person) for m, x in a.modes.items()}
    return {"modes": modes, "clean": clean, "folds": _folds(parts, answers)}


def _answered(network: Network, part: protocol.Part, recipe: Recipe, say: Say) -> Answers:
    """Every camera state on the test rows of one part; the temperature comes from the watched rows."""
    say(f"scoring {recipe.name} {part.name}")
    test = part.test
    rows = protocol.whole(test) if isinstance(network, Temporal) else np.arange(len(test))
    out = {}
    for name in modes_of(network):
        temperature = 1.0
        if part.watch is not None:
            temperature = metrics.fit_temperature(logits(network, part.watch, name, recipe), part.watch.labels)
        out[name] = metrics.probabilities(logits(network, test, name, recipe)[rows], temperature)
    return Answers(test.labels[rows], out, None if test.person is None else test.person[rows], part.clean)


def modes_of(network: Network) -> list[str]:
    """The camera states a network has an answer in; the first is the headline."""
    return ["+".join(network.uses)] if network.needs else list(lenses.MODES)


@torch.inference_mode()  # type: ignore[untyped-decorator]
def logits(network: Network, faces: Faces, mode: str, recipe: Recipe) -> F32:
    """float32 [N, K] of undisturbed crops; a lens that ``mode`` does not name is dead."""
    return np.concatenate([x.numpy() for x in _answers(network, faces, mode, recipe)])


def _answers(network: Network, faces: Faces, mode: str, recipe: Recipe) -> Iterator[torch.Tensor]:
    there = torch.tensor([float(lens in mode) for lens in ("visible", "infrared")])
    for v, i, present, _ in trainer.batches(faces, recipe.crop, network.uses, recipe.seed, 128):
        seen = there.expand(len(present), 2) if not network.needs else present
        yield network(v * int(seen[0, 0]), i * int(seen[0, 1]), seen).float()


def mode(probs: Any, labels: Labels, groups: Any) -> Mode:
    """Every figure of one camera state; intervals draw people where the set knows them."""
    table = metrics.confusion(probs, labels)
    answers, k = probs.argmax(axis=1), probs.shape[1]
    found: dict[str, Estimate] = {}
    for name in ("accuracy", "macro_precision", "macro_recall", "macro_f1"):
        measure = statistics.MEASURES[name]
        low, high = statistics.bootstrap(measure, answers, labels, k, groups)
        value = float(measure(table))
        found[name] = Estimate(value=value, interval_95=(min(low, value), max(high, value)))
    return Mode(
        images=len(labels), ece=metrics.calibration_error(probs, labels), confusion=tuple(map(tuple, table.tolist())),
        reliability=reliability(probs, labels), **found,
    )  # fmt: skip


def reliability(probs: Any, labels: Labels) -> Reliability:
    """Equal-width bins of the top probability."""
    top, right = probs.max(axis=1), probs.argmax(axis=1) == labels
    which = np.clip(np.ceil(top * BINS).astype(int) - 1, 0, BINS - 1)
    inside = [which == b for b in range(BINS)]
    return Reliability(
        edges=tuple(np.linspace(0, 1, BINS + 1).tolist()), count=tuple(int(x.sum()) for x in inside),
        confidence=tuple(float(top[x].mean()) if x.any() else None for x in inside),
        accuracy=tuple(float(right[x].mean()) if x.any() else None for x in inside),
    )  # fmt: skip


def _clean(probs: Any, labels: Labels) -> CleanMode:
    low, high = statistics.bootstrap(statistics.accuracy, probs.argmax(axis=1), labels, probs.shape[1])
    return CleanMode(
        images=len(labels), accuracy=Estimate(value=metrics.accuracy(probs, labels), interval_95=(low, high))
    )


def _darkness(network: Network, part: protocol.Part, recipe: Recipe, say: Say) -> tuple[Light, ...]:
    """Accuracy at each light of the visible lens; the infrared lens brings its own."""
    name, out = modes_of(network)[0], []
    for gain in (1.0, *GAINS):
        say(f"\rdarkness {gain:g}")
        dark = part.test
        if gain < 1 and "visible" in network.uses:
            infrared = _bright_infrared(network, dark, recipe)
            dark = replace(dark, images=darkened(dark.images, gain, recipe.seed), infrared=infrared)
        right = logits(network, dark, name, recipe).argmax(axis=1) == dark.labels
        share = float(right.mean())
        out.append(Light(gain=gain, accuracy=share, interval_95=metrics.wilson(share, len(right))))
    return tuple(out)


def _bright_infrared(network: Network, faces: Faces, recipe: Recipe) -> Any:
    """The infrared pictures of the light scene: a simulation must not be made of the dark visible ones."""
    if faces.infrared is not None or "infrared" not in network.uses:
        return faces.infrared
    from export.data.augment import simulated_infrared

    return simulated_infrared(faces.images, recipe.seed)


def _folds(parts: list[protocol.Part], answers: list[Answers]) -> tuple[Fold, ...]:
    if len(parts) == 1:
        return ()
    out = []
    for part, found in zip(parts, answers, strict=True):
        most = np.bincount(part.train.labels).argmax()
        majority = float((found.labels == most).mean())
        right = metrics.accuracy(found.headline, found.labels)
        out.append(Fold(name=part.name, images=len(found.labels), accuracy=right, majority=majority))
    return tuple(out)


def _extra(network: Network, a: Answers) -> dict[str, float]:
    table = metrics.confusion(a.headline, a.labels)
    out = {name: round(float(statistics.MEASURES[name](table)), 4) for name in ("macro_specificity", "gar", "far")}
    weights = getattr(network, "weights", None)
    if isinstance(weights, torch.Tensor):
        names = list(network.get_submodule("singles")._modules)
        out |= {f"weight of {m}": round(float(w), 2) for m, w in zip(names, weights, strict=True)}
    return out


def latency(network: Network, side: int) -> Latency:
    """Of the float graphs through ONNX Runtime, one pair at a time."""
    with tempfile.TemporaryDirectory() as folder:
        return cost.latencies({"one": graphs(network, side, Path(folder))})["one"]


def graphs(network: Network, side: int, folder: Path) -> list[Path]:
    """The float graphs a device would run one behind the other, written into ``folder``."""
    if not isinstance(network, Temporal):
        return [onnx_graph.export_float(network, side, folder / "float.onnx")]
    two = temporal_graph.export_temporal(network, side, folder)
    return [two.encoder, two.head]


def table(s: System) -> str:
    """The figures as plain text."""
    lines = [f"{s.key}: {s.protocol}", f"{'lenses':20}{'accuracy':>9}  {'95 % interval':>16}{'macro F1':>10}{'ECE':>7}"]
    for name, m in s.modes.items():
        low, high = m.accuracy.interval_95
        f1 = m.macro_f1.value
        lines.append(f"{name:20}{m.accuracy.value:9.2%}  {low:7.2%} -{high:7.2%}{f1:10.2%}{m.ece:7.3f}")
    lines += [f"light x {x.gain:<12g}{x.accuracy:9.2%}" for x in s.darkness]
    return "\n".join(lines + [f"{f.name:20}{f.accuracy:9.2%}  of {f.images}" for f in s.folds])
