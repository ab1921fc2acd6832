"""``python -m export report --train``: every recipe trained and scored, those first that others start from."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from export import adversarial, checkpoint, data, pixelfusion, recipe, score, train
from export.data.faces import Faces
from export.errors import ExportError
from export.models.network import Network
from export.report import cost, outdated, results
from export.report.results import System
from export.train import Job

Say = Callable[[str], None]
RUNS = Path("runs")


def missing(recipes: Path, into: Path, reduced: bool, minutes: float | None, say: Say) -> None:
    """Train and score what has no results file. A recipe that cannot run here (a set that is not there, a backbone
    without torchvision) is named and passed over; the report then has its row without figures. A result that is not of
    what its recipe says today is named and left: it is for whoever asked for it to throw away."""
    have = {s.key: s for s in results.read_systems(into)}
    if untold := [key for key, s in have.items() if s.trained is None]:
        say(f"{len(untold)} results do not say what they were trained with: {', '.join(untold)}")
    for file in sorted(recipes.glob("*.toml")):
        job = Job(file, folder(file.stem, reduced), reduced, minutes)
        known = have.get(f"{file.stem}-reduced" if reduced else file.stem)
        try:
            if known:
                _tell_outdated(known, job, into, say)
                continue
            train.train(job, say)
            if job.recipe.model.name != train.GENERATOR:
                results.write(score.score(job, say), into)
            elif job.recipe.data.name == train.SCENES:
                fusion(job, into.parent, say)
        except (ExportError, RuntimeError, ValueError) as e:  # torch's own, such as memory: the others go on
            say(f"{file.stem}: passed over: {' '.join(str(e).split())}")


def _tell_outdated(known: System, job: Job, into: Path, say: Say) -> None:
    differs = outdated.changed(known.trained, job.recipe) if known.trained else ""
    if differs:
        anew = f"to have it made anew, delete {into.name}/{known.key}.json and {job.out}"
        say(f"{known.key}: its result was trained {differs}; {anew}")


def fusion(job: Job, into: Path, say: Say) -> Path:
    """Figures of merit of a trained scene generator beside the classical methods, on the pairs held out."""
    pairs, unused = pixelfusion.read_pairs(data.fer2013.data_root())
    train.tell_unused(unused, job.out / train.UNUSED, say)
    held_out = pixelfusion.split_pairs(pairs)[1]
    table = pixelfusion.compare_fusion(job.out / adversarial.FILE, held_out, say)
    command = f"python -m export score export/recipes/{job.file.name}"
    path = into / "pixel-fusion.json"
    pixelfusion.write_results(path, table, pairs=len(held_out), dataset="RoadScene (held out) and TNO", command=command)
    return path


def folder(name: str, reduced: bool) -> Path:
    return (RUNS / "reduced" if reduced else RUNS) / name


def time_all(recipes: Path, into: Path, say: Say) -> None:
    """Measure every system anew in one run, pair by pair in turns, and note it in the results files.

    What was measured when a system was scored rests on how busy the machine was just then; only this can be compared.
    """
    systems = {s.key: s for s in results.read_systems(into)}
    with tempfile.TemporaryDirectory() as scratch:
        files = {}
        for key, system in systems.items():
            network = trained(recipes, system)
            if network is not None:
                say(f"\rgraphs of {key}")
                (own := Path(scratch) / key).mkdir()
                side = recipe.read(recipes / f"{system.recipe}.toml").crop
                files[key] = score.graphs(network, side, own)
        for key, measured in cost.latencies(files).items():
            say(f"{key}: {measured.median:.2f} ms, p95 {measured.p95:.2f}")
            results.write(systems[key].model_copy(update={"latency_ms": measured}), into)


def trained(recipes: Path, system: System) -> Network | None:
    """The network behind a result (of folds the first), or None where its weights are not here."""
    reduced = system.variant == "reduced"
    home = folder(system.recipe, reduced)
    path = home / train.NETWORK if (home / train.NETWORK).is_file() else home / "fold-1" / train.NETWORK
    try:
        return checkpoint.load(path, recipe.read(recipes / f"{system.recipe}.toml", reduced)).model
    except ExportError:
        return None


def for_maps(recipes: Path, say: Say) -> tuple[Faces | None, Callable[[System], object | None] | None]:
    """Test faces and trained networks for the activation maps; (None, None) where the faces are not there."""
    try:
        faces = data.load("fer2013", "private")
    except ExportError as e:
        say(f"no activation maps: {e}")
        return None, None

    return faces, lambda system: trained(recipes, system)
