"""``python -m export report --train``: every recipe trained and scored, those first that others start from."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from export import adversarial, checkpoint, data, models, pixelfusion, protocol, provenance, recipe, score, train
from export.data.faces import Faces
from export.errors import ExportError
from export.models.network import Network
from export.recipe import Recipe
from export.report import cost, files, outdated, results
from export.report.page import Networks
from export.report.results import System, Training
from export.train import Job

Say = Callable[[str], None]
RUNS = Path("runs")
FUSION = "pixel-fusion.json"


def missing(recipes: Path, into: Path, reduced: bool, minutes: float | None, say: Say, seed: int | None = None) -> None:
    """Train and score what has no results file. A recipe that cannot run here (a set that is not there, a backbone
    without torchvision) is named and passed over; the report then has its row without figures. A result that is not of
    what its recipe says today is named and left: it is for whoever asked for it to throw away."""
    have = {s.key: s for s in files.read_systems(into)}
    if untold := [key for key, s in have.items() if s.trained is None]:
        say(f"{len(untold)} results do not say what they were trained with: {', '.join(untold)}")
    for file in sorted(recipes.glob("*.toml")):
        try:
            _make(_job(file, reduced, minutes, seed), have, into, say)
        except (ExportError, RuntimeError, ValueError) as e:  # torch's own, such as memory: the others go on
            say(f"{file.stem}: passed over: {' '.join(str(e).split())}")


def _job(file: Path, reduced: bool, minutes: float | None, seed: int | None) -> Job:
    seed = recipe.other_seed(recipe.read(file, reduced), seed)
    return Job(file, folder(file.stem, reduced, seed), reduced, minutes, seed=seed)


def _make(job: Job, have: dict[str, System], into: Path, say: Say) -> None:
    known = have.get(results.key(job.file.stem, job.reduced, job.seed))
    if job.recipe.model.name == train.GENERATOR:
        _generator(job, into.parent, say)
    elif known:
        _tell_outdated(known, job, into, say)
    else:
        train.train(job, say)
        files.write(score.score(job, say), into)


def _tell_outdated(known: System, job: Job, into: Path, say: Say) -> None:
    if differs := outdated.changed(known.trained, job.recipe) if known.trained else "":
        anew = f"to have it made anew, delete {into.name}/{known.key}.json and {job.out}"
        say(f"{known.key}: its result was trained {differs}; {anew}")


def _generator(job: Job, into: Path, say: Say) -> None:
    """One of scenes is measured where that has not been done. One of faces has no figures of its own: whoever starts
    from it trains it. The table has room for one, that of the recipe's own seed."""
    if job.recipe.data.name != train.SCENES or job.seed is not None:
        return
    file = into / FUSION
    about = files.read_one(file, results.PixelFusion).about if file.is_file() else None
    if about is None or job.recipe.name not in about.recipes:
        train.train(job, say)
        fusion(job, into, say)
    elif about.model and about.model != job.recipe.model.options:
        anew = f"to have it made anew, delete {FUSION} and {job.out}"
        say(f"{job.recipe.name}: {FUSION} was measured with other options than the recipe's of today; {anew}")


def fusion(job: Job, into: Path, say: Say) -> Path:
    """Figures of merit of a trained scene generator beside the classical methods, on the pairs held out.

    Raises InputError when its training is not finished, or was with another seed.
    """
    pairs, unused = pixelfusion.read_pairs(data.fer2013.data_root())
    train.tell_unused(unused, job.out / train.UNUSED, say)
    seen, held_out = pixelfusion.split_pairs(pairs)
    state = provenance.kept(job.out / train.NETWORK)
    checkpoint.check_seed(job.out / train.NETWORK, job.recipe.seed)
    table = pixelfusion.compare_fusion(job.out / adversarial.FILE, held_out, say)
    about = results.AboutFusion(
        pairs=len(held_out), dataset="RoadScene (held out) and TNO",
        command=f"python -m export score export/recipes/{job.file.name}", **_made(state),
        data_fingerprint=state["data"] or _fingerprint(seen),
    )  # fmt: skip
    path = into / FUSION
    pixelfusion.write_results(path, table, **about.model_dump(mode="json"))
    return path


def _made(state: dict[str, Any]) -> dict[str, Any]:
    """What a generator's checkpoint says of its training."""
    then, spent = Recipe.model_validate(state["recipe"]), state["spent"]
    o = models.options(then.model, adversarial.WganOptions)
    training = Training(
        cpu_minutes=round(spent["cpu"] / 60, 1), wall_minutes=round(spent["wall"] / 60, 1), epochs=spent["epochs"],
        images_seen=spent["epochs"] * o.steps * o.critic_steps * o.batch, width=provenance.FULL,
        precision=spent["precision"], budget_minutes=spent["budget"],
    )  # fmt: skip
    machine = results.Machine(**spent["machine"])
    about = {"recipes": (then.name,), "seed": then.seed, "model": then.model.options}
    return {**about, "machine": machine, "training": training}


def _fingerprint(pairs: Sequence[pixelfusion.Pair]) -> str:
    digest = hashlib.sha256()
    for pair in pairs:
        digest.update(pair.visible.tobytes() + pair.infrared.tobytes())
    return digest.hexdigest()


def folder(name: str, reduced: bool, seed: int | None = None, data: str = "") -> Path:
    return RUNS / recipe.place(name, reduced, data, seed)


def time_all(recipes: Path, into: Path, say: Say) -> None:
    """Measure every system anew in one run, pair by pair in turns, and note it in the results files.

    What was measured when a system was scored rests on how busy the machine was just then; only this can be compared.
    Where a system's weights are not here, random ones of the same shapes take the same time, and so do other seeds.
    """
    systems = {s.key: s for s in files.read_systems(into) if not s.repeat}
    with tempfile.TemporaryDirectory() as scratch:
        graphs = {}
        for key, system in systems.items():
            network = trained(recipes, system) or _untrained(recipes, system)
            if network is not None:
                say(f"\rgraphs of {key}")
                (own := Path(scratch) / key).mkdir()
                side = recipe.read(recipes / f"{system.recipe}.toml", data=system.on).crop
                graphs[key] = score.graphs(network, side, own)
        for key, measured in cost.latencies(graphs).items():
            say(f"{key}: {measured.median:.2f} ms, p95 {measured.p95:.2f}")
            files.write(systems[key].model_copy(update={"latency_ms": measured}), into)


def trained(recipes: Path, system: System) -> Network | None:
    """The network behind a result (of folds the first), or None where its weights are not here."""
    reduced = system.variant == "reduced"
    home = folder(system.recipe, reduced, data=system.on)
    path = home / train.NETWORK if (home / train.NETWORK).is_file() else home / "fold-1" / train.NETWORK
    try:
        return checkpoint.load(path, recipe.read(recipes / f"{system.recipe}.toml", reduced, system.on)).model
    except ExportError:
        return None


def _untrained(recipes: Path, system: System) -> Network | None:
    """With random weights; None where the recipe cannot be built here any more."""
    try:
        plan = recipe.read(recipes / f"{system.recipe}.toml", system.variant == "reduced", system.on)
        return models.build(plan.model, len(system.labels)).eval()
    except ExportError:
        return None


def for_maps(recipes: Path, say: Say) -> tuple[Faces | None, Networks]:
    """FER2013's test faces (None where they are not there), and for the activation maps each system's trained network
    with faces of its own set that it was not trained on."""
    kept: dict[str, Faces] = {}

    def shown(system: System) -> tuple[Network, Faces] | None:
        network = trained(recipes, system)
        if network is None:
            return None
        try:
            plan = Job(recipes / f"{system.recipe}.toml", RUNS, system.variant == "reduced", data=system.on).recipe
            key = f"{plan.data} {plan.crop} {plan.model.options.get('msx_is_lens')}"
            if key not in kept:
                kept[key] = next(protocol.parts(plan, temporal=False)).test
        except ExportError as e:
            say(f"no activation maps of {system.key}: {e}")
            return None
        return network, kept[key]

    try:
        return data.load("fer2013", "private"), shown
    except ExportError as e:
        say(f"no mistakes of the bundle: {e}")
        return None, shown
