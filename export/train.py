"""``python -m export train RECIPE``: every step of a recipe, restartable after every epoch.

Recipes that the network starts from (the single modalities of a 3-step training, say) are trained first.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from export import (
    adversarial,
    budget,
    checkpoint,
    curve,
    data,
    distil,
    framing,
    models,
    patches,
    pixelfusion,
    protocol,
    soup,
    trainer,
)
from export import recipe as recipes
from export.data.faces import Faces
from export.errors import InputError, RecipeError, UsageError
from export.models.network import Network, Temporal
from export.models.resnet import start_from_file
from export.recipe import Recipe
from export.trainer import Say, Trainer

NETWORK = "network.pt"
"""the finished network of a recipe, in its working folder"""
FOREIGN = ".pth"
"""a state dict of torchvision's, such as ResNet-18's of ImageNet"""
GENERATOR = "wgan"
"""name of the one network that is no classifier: the generator of the pixel fusion"""
SCENES = "pairs"
"""name of the fusion pairs where a recipe names its data"""
UNUSED = "not-used.txt"


@dataclass(frozen=True)
class Job:
    """Where a recipe lies and where its work goes.

    minutes: of processor time, None: the recipe's own epochs; data: another set than the recipe's and perhaps how it is
    split (:func:`protocol.other`), "": its own; seed: another than the recipe's, also for what it starts from.
    """

    file: Path
    out: Path
    reduced: bool = False
    minutes: float | None = None
    data: str = ""
    seed: int | None = None

    @property
    def recipe(self) -> Recipe:
        recipe = recipes.read(self.file, self.reduced, self.data)
        changes: dict[str, Any] = {"data": protocol.other(self.data)} if self.data else {}
        changes |= {} if self.seed is None else {"seed": self.seed}
        return recipe.model_copy(update=changes)

    def beside(self, name: str) -> Job:
        """The job of another recipe, as far as this one, on the same data and with the same seed."""
        return replace(self, file=self.file.with_name(f"{name}.toml"), out=self.out.with_name(name))


def train(job: Job, say: Say) -> list[Path]:
    """Returns the finished networks' files, one per fold. Raises ExportError with one line."""
    recipe = job.recipe
    _check_targets(recipe, job.file)
    soup.check(recipe, [job.beside(name).recipe for name in recipe.soup], job.file)
    for name in parents(recipe):
        if name == recipe.name:
            raise RecipeError(f"{job.file}: the recipe starts from itself ('start', 'soup' or 'distil.teachers')")
        protocol.check_start(recipe, job.beside(name).recipe)
        if not finished(job.beside(name)):
            _check_rows(recipe)
            say(f"{recipe.name} starts from {name}")
            train(job.beside(name), say)
    made = _trained(job, recipe, say)
    tell_cost(job, say)
    return made


def _trained(job: Job, recipe: Recipe, say: Say) -> list[Path]:
    if recipe.model.name != GENERATOR:
        return [_train_part(job, recipe, part, say) for part in protocol.parts(recipe, temporal(recipe))]
    if recipe.data.name == SCENES:
        return [_train_on_scenes(job, recipe, say)]
    return [_train_on_faces(job, recipe, part, say) for part in protocol.parts(recipe, False)]


def tell_cost(job: Job, say: Say) -> None:
    """Of a finished recipe, as far as its checkpoints and those of all it starts from are there."""
    own = whole = None
    with contextlib.suppress(InputError):
        own = own_cpu(job)
        whole = total_cpu(job)
    if own is not None:
        known = "not known of" if whole is None else f"{whole:.1f} with"
        say(f"{job.recipe.name}: {own:.1f} CPU min, {known} all it starts from")


def own_cpu(job: Job) -> float | None:
    """CPU minutes of all networks of a finished recipe; None where one is not there or does not say."""
    folds = job.recipe.data.folds in ("person", "group")
    files = sorted(job.out.glob(f"fold-*/{NETWORK}")) if folds else [job.out / NETWORK]
    spent = [checkpoint.spent(file) for file in files if file.is_file()]
    return sum(one["cpu"] for one in spent) / 60 if spent and all("cpu" in one for one in spent) else None


def total_cpu(job: Job) -> float | None:
    """CPU minutes of a finished recipe and of all the recipes that it needed, generators among them, each once; None
    where one is unknown, as of weights in a file."""
    total, done, queue = 0.0, set[str](), [job]
    while queue:
        one = queue.pop()
        if one.file.stem in done:
            continue
        recipe, own = one.recipe, own_cpu(one)
        if own is None or any(name.endswith(FOREIGN) for name in recipe.start.values()):
            return None
        total, done = total + own, done | {one.file.stem}
        queue += [one.beside(name) for name in parents(recipe)]
    return total


def parents(recipe: Recipe) -> list[str]:
    """The recipes whose trained networks this one needs."""
    names = [*recipe.start.values(), *recipe.soup, *(recipe.distil.teachers if recipe.distil else ())]
    return [name for name in dict.fromkeys(names) if not name.endswith(FOREIGN)]


def finished(job: Job) -> bool:
    """Whether all networks of a recipe are there. Raises InputError where one has seen rows held out by now, or is of
    another seed."""
    recipe = job.recipe
    if not recipe.data.folds:
        return _there(job.out / NETWORK, recipe)
    parts = list(protocol.parts(recipe, recipe.model.name != GENERATOR and temporal(recipe)))
    made = [job.out / part.name / NETWORK for part in parts]
    for file, part in zip(made, parts, strict=True):
        if file.is_file() and checkpoint.trained_on(file) != part.train.fingerprint:
            where = f"{recipe.data.name} {part.name}".strip()
            raise InputError(f"{file}: trained on other rows of {where} than are there now; delete {file.parent}")
    return all(_there(file, recipe) for file in made)


def up_to_date(job: Job) -> bool:
    """Whether all networks of a recipe are there and are what it says today. One without steps is what its parts are:
    it is made anew, in seconds, as long as they are there."""
    if not finished(job):
        return False
    recipe = job.recipe
    if not recipe.training.steps and all(finished(job.beside(name)) for name in parents(recipe)):
        return False
    return not trainer.changed(checkpoint.finished_state(job.out / NETWORK)["recipe"], recipe)


def _there(file: Path, recipe: Recipe) -> bool:
    if there := file.is_file():
        checkpoint.check_seed(file, recipe.seed)
    return there


def _check_rows(recipe: Recipe) -> None:
    """A set that is not there is said before hours of training what the recipe starts from. Raises InputError."""
    if recipe.data.name != SCENES:
        next(protocol.parts(recipe, False), None)


def _check_targets(recipe: Recipe, file: Path) -> None:
    """Softened and mixed targets need the plain cross entropy. Raises RecipeError."""
    for key, asked in (("distil", recipe.distil), ("augment.mixed", recipe.augment.mixed)):
        if asked and models.entry(recipe.model).make.loss is not Network.loss:
            raise RecipeError(f"{file}: '{key}': the loss of {recipe.model.name} needs whole labels; take it out")


def tell_unused(lines: Iterable[str], file: Path, say: Say) -> None:
    """No file of a set is dropped in silence: the first few are said, all are listed beside the checkpoints."""
    lines = list(dict.fromkeys(lines))
    if not lines:
        return
    for line in lines[:3]:
        say(f"not used: {line}")
    file.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.write_text(file, "\n".join(lines) + "\n")
    say(f"{len(lines)} files not used, listed in {file}")


def _train_on_scenes(job: Job, recipe: Recipe, say: Say) -> Path:
    """The adversarial training has no labels: patches of the scenes that are not held out."""
    pairs, unused = pixelfusion.read_pairs(data.fer2013.data_root())
    tell_unused(unused, job.out / UNUSED, say)
    train_pairs, _ = pixelfusion.split_pairs(pairs)
    return _train_generator(job.out, recipe, patches.ScenePatches(train_pairs, vary=True), "", say)


def _train_on_faces(job: Job, recipe: Recipe, part: protocol.Part, say: Say) -> Path:
    """Patches of the faces that the classifier behind it is trained on, too: never of those it is tested on."""
    tell_unused(part.unused, job.out / part.name / UNUSED, say)
    source = patches.FacePatches(part.train.images)
    return _train_generator(job.out / part.name, recipe, source, part.train.fingerprint, say)


def _train_generator(out: Path, recipe: Recipe, source: patches.PatchSource, seen: str, say: Say) -> Path:
    options = models.options(recipe.model, adversarial.WganOptions)
    path = out / NETWORK
    if _there(path, recipe):
        say(f"{recipe.name}: trained already ({path})")
        return path
    file = adversarial.train_generator(options, source, out, recipe.seed, say)
    spent = {**adversarial.spent(file), "rows": 0, "epochs": options.epochs}
    generator = adversarial.load_generator(file)
    checkpoint.write(path, checkpoint.finished(generator, recipe, (), seen, {**spent, "budget": None, **_where()}))
    return path


def temporal(recipe: Recipe) -> bool:
    return issubclass(models.entry(recipe.model).make, Temporal)


def _train_part(job: Job, recipe: Recipe, part: protocol.Part, say: Say) -> Path:
    job = replace(job, out=job.out / part.name)
    job.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    seen = f"{len(part.train)} training faces, {trainer.device()} {trainer.precision()}"
    say(f"{recipe.name} {part.name}: {seen}")
    tell_unused(part.unused, job.out / UNUSED, say)
    if part.mixed:
        apart = f"; --data {recipe.data.name}:person keeps them apart" if recipe.data.folds == "share" else ""
        say(f"{recipe.data.name}: {part.mixed} people are both trained on and tested on{apart}")
    network = built(job, recipe, part, say)
    faces = part.train
    if recipe.distil:
        teachers = [_teacher(job, part.name, name) for name in recipe.distil.teachers]
        faces = distil.with_targets(faces, part.watch, recipe.distil, teachers, job.out, say)
    if recipe.training.steps:
        faces = framing.framed(faces, recipe, say)
    return fit(job, recipe, network, faces, part.watch, say)


def _teacher(job: Job, fold: str, name: str) -> distil.Teacher:
    return distil.Teacher(_parent(job, fold, name).recipe, _given(job, fold, name))


def _parent(job: Job, fold: str, name: str) -> Job:
    """The job of a recipe that this one needs; a fold works in a folder inside its own job's."""
    return (replace(job, out=job.out.parent) if fold else job).beside(name)


def _given(job: Job, fold: str, name: str) -> Path:
    """The finished network that a part starts from: of the same fold where that recipe is trained in folds, too, so
    that whoever is held out has been held out of it (:func:`protocol.check_start`)."""
    parent = _parent(job, fold, name)
    return parent.out / (fold if parent.recipe.data.folds else "") / NETWORK


def built(job: Job, recipe: Recipe, part: protocol.Part, say: Say) -> Network:
    """The network with the weights it starts from. Raises RecipeError where some would stay random and frozen."""
    network = models.build(recipe.model, len(part.train.classes))
    given = _mean_given(network, job, recipe, part, say) if recipe.soup else set[str]()
    for where, name in recipe.start.items():
        if name.endswith(FOREIGN):
            taken = start_from_file(checkpoint.submodule(network, where), Path(name))
        else:
            taken = checkpoint.start(network, where, _given(job, part.name, name))
        given |= {f"{where}.{key}" if where else key for key in taken}
        say(f"{where or recipe.name}: {len(taken)} tensors from {name}")
    checkpoint.check_frozen(network, recipe, given)
    return network


def _mean_given(network: Network, job: Job, recipe: Recipe, part: protocol.Part, say: Say) -> set[str]:
    """The mean of its soup, and what that is worth on the watched rows; returns the names of the tensors given."""
    files = [_given(job, part.name, name) for name in recipe.soup]
    soup.begin(network, files, part.train.classes, "" if recipe.training.steps else part.train.fingerprint)
    network.to(trainer.device(), memory_format=torch.channels_last)
    watched = f", watch {trainer.accuracy(network, part.watch, recipe.crop, recipe.seed):.2%}" if part.watch else ""
    say(f"{recipe.name}: mean of {', '.join(recipe.soup)}{watched}")
    return set(network.state_dict())


def fit(job: Job, recipe: Recipe, network: Network, faces: Faces, check: Faces | None, say: Say) -> Path:
    """All steps of ``recipe`` on ``faces``; then what the network settles in closed form (weights of a late fusion)."""
    for step in recipe.training.steps:  # before a plan is made: that of another training stays as it is
        trainer.begun(trainer.step_file(job.out, step), recipe, faces)
    if not recipe.training.steps:
        curve.keep(job.out, lambda row: False)  # of a training that the folder held before
    minutes = budget.allowed(job.minutes, recipe)
    steps = budget.planned(minutes, recipe, network, faces, job.out, say)
    spent: dict[str, float] = {"cpu": 0.0, "wall": 0.0, "rows": 0, "epochs": 0}
    for step in steps:
        one = Trainer(step, recipe, network, job.out)
        one.run(faces, check, say)
        for key, value in (("cpu", one.cpu), ("wall", one.wall), ("rows", one.rows), ("epochs", one.epoch)):
            spent[key] += value
    network.eval()
    started = time.process_time()
    complete(network, recipe, faces, check, say)
    spent["cpu"] += time.process_time() - started
    path = job.out / NETWORK
    whole = {**spent, "budget": minutes, **_where()}
    checkpoint.write(path, checkpoint.finished(network, recipe, faces.classes, faces.fingerprint, whole))
    return path


def _where() -> dict[str, Any]:
    return {"machine": trainer.machine(), "precision": str(trainer.precision()).removeprefix("torch.")}


def complete(network: Network, recipe: Recipe, faces: Faces, check: Faces | None, say: Say) -> None:
    """What is settled in closed form: on the watched rows where nothing was trained, else on the training rows."""
    settle: Any = getattr(network, "complete", None)
    if settle is None:
        return
    if not recipe.training.steps and check is None:
        raise UsageError(f"{recipe.name}: its weights are searched on watched rows, and {recipe.data.name} has none")
    shown = faces if recipe.training.steps else check
    assert shown is not None
    said = settle(trainer.batches(shown, recipe.crop, network.uses, recipe.seed))
    say(f"{recipe.name}: {said}")
