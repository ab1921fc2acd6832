"""Which rows a bundle is made of and measured on, and what its card and its results say of them.

Calibration pictures and the template come from the training rows, temperature and thresholds from the watched ones,
figures from the tested ones: those of the recipe's own set, with its own infrared pictures where it has them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgefer.bundle import Manifest
from export import data, models, protocol, train
from export.data.faces import Faces
from export.errors import InputError, UsageError
from export.pack import WATCHED
from export.recipe import Data, Recipe

LEAST = 10
"""validation pictures below which no temperature is fitted: each of so few would move it"""


@dataclass(frozen=True)
class Rows:
    """plan: the recipe on its set; about: what card and results say of that set, None for FER2013's official split,
    of which the card has its own words."""

    plan: Recipe
    part: protocol.Part
    about: dict[str, Any] | None

    @property
    def watch(self) -> Faces:
        """What temperature and thresholds are chosen on. Raises InputError where that is next to nothing."""
        faces, name = self.part.watch, self.plan.data.name
        if faces is None or len(faces) < LEAST:
            count = 0 if faces is None else len(faces)
            where = (
                "" if self.plan.data.folds else ", in a folder val/ beside train/ and test/ (--data paired or folders)"
            )
            need = f"temperature and thresholds need {LEAST}"
            raise InputError(f"{name}: {count} validation pictures, {need}: add pictures{where}")
        return faces

    @property
    def splits(self) -> dict[str, npt.NDArray[np.bool_]]:
        """The rows that are measured, by the name of their table rows: bool [N] of the tested ones each."""
        everything = np.ones(len(self.part.test), np.bool_)
        if self.about is None and self.part.clean is not None:
            return {"private": everything, "private-clean": self.part.clean}
        return {"test": everything}


def of(job: train.Job) -> Rows:
    """Raises UsageError for a recipe of which there is no one network, InputError for a set no bundle can be of."""
    plan = job.recipe
    if plan.model.name == train.GENERATOR:
        raise UsageError(f"{job.file}: a generator of faces is no system; pack a recipe that starts from it")
    if plan.data.folds in ("person", "group"):
        raise UsageError(f"{job.file}: {_folded(plan.data)}")
    _check_lenses(plan)
    (part,) = protocol.parts(plan, train.temporal(plan))
    _check_classes(plan.data.name, part.train)
    return Rows(plan, part, None if plan.data == Data() else _about(job, plan, part))


def _folded(d: Data) -> str:
    """Why folds make no bundle, and what would."""
    shares = "" if d.name in protocol.BY_PERSON else f", or at random with --data {d.name}"
    return (
        f"{d.name} is trained in folds, one network each, so there is no one network to pack; lay its pictures in "
        f"train/, val/ and test/ (nobody in two of them) and train with --data paired, folders or thermal{shares}"
    )


def _check_classes(name: str, faces: Faces) -> None:
    """A bundle tells two expressions apart or more, each of which it has been taught."""
    if len(faces.classes) < 2:
        raise InputError(f"{name}: {faces.classes[0]} is its only expression; a bundle tells two or more apart")
    count = np.bincount(faces.labels, minlength=len(faces.classes))
    if missing := [label for label, n in zip(faces.classes, count, strict=True) if not n]:
        raise InputError(f"{name}: no picture of {', '.join(missing)} to train on; add some or take that class out")


def _check_lenses(plan: Recipe) -> None:
    """The thermal set has the same picture in both lenses' places. Raises UsageError where that would pass for two."""
    if plan.data.name == "thermal" and models.build(plan.model, 2).needs != ("infrared",):
        raise UsageError(
            f"recipe {plan.name}: the set thermal has no visible lens; of it a bundle over infrared alone can be made, "
            "such as of naseem2024-thermal"
        )


def check_bundle(rows: Rows, manifest: Manifest, where: Any) -> None:
    """Whether the tested rows say what this bundle is worth. Raises InputError."""
    own, its, name = rows.part.train.classes, tuple(manifest.labels), rows.plan.data.name
    if own != its:
        raise InputError(f"{where}: it answers {', '.join(its)}, {name} has {', '.join(own)}; not measured")
    if rows.about is not None and rows.part.train.fingerprint not in manifest.training.data.values():
        raise InputError(
            f"{where}: not trained on the training rows of {name}, perhaps on those that test; not measured"
        )
    chosen_on = manifest.training.data.get(f"{name}, {WATCHED}")  # an older bundle does not say
    if rows.about is not None and chosen_on not in (None, getattr(rows.part.watch, "fingerprint", None)):
        raise InputError(
            f"{where}: its threshold was chosen on other pictures than the {WATCHED} of {name}, perhaps on those that "
            "test; not measured"
        )


def _about(job: train.Job, plan: Recipe, part: protocol.Part) -> dict[str, Any]:
    faces = {"trained_on": part.train, "validated_on": part.watch, "tested_on": part.test}
    known = part.train.person is not None and part.test.person is not None
    return {
        "name": plan.data.name,
        "is": data.READERS[plan.data.name].about,
        "protocol": protocol.line(plan, len(part.train), len(part.test)),
        **{key: _counts(part.train.classes, held) for key, held in faces.items()},
        "people_trained_and_tested": part.mixed if known else None,
        "files_not_used": len(set(part.unused)),
        "infrared": _infrared(plan, part.train),
        "begun_on": sorted(_begun_on(job) - {plan.data.name}),
    }


def _counts(classes: tuple[str, ...], faces: Faces | None) -> dict[str, int]:
    labels = np.zeros(0, np.int64) if faces is None else faces.labels
    return dict(zip(classes, np.bincount(labels, minlength=len(classes)).tolist(), strict=True))


def _infrared(plan: Recipe, faces: Faces) -> str:
    """What the network has seen as the infrared lens."""
    if "infrared" not in models.build(plan.model, 2).uses:
        return "nothing, the network looks at the visible lens alone"
    if plan.model.options.get("msx_is_lens"):
        return "the camera's own MSX pictures of the set, in the infrared lens's place"
    return "a simulation of the same visible face" if faces.infrared is None else "the set's own infrared pictures"


def _begun_on(job: train.Job) -> set[str]:
    """The sets of all recipes that this one starts from or is taught by."""
    parents = [job.beside(name) for name in train.parents(job.recipe)]
    return {p.recipe.data.name for p in parents}.union(*map(_begun_on, parents))
