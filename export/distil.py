"""Softened targets: what networks trained before say of the training faces, mixed into the labels.

Hinton, Vinyals & Dean 2015 (arXiv 1503.02531, eq. 2 to 4), with the teachers' answers worked out once, on the
undisturbed picture and its mirror image: whatever light, patch or dead lens a training view has, its target stays what
the teachers saw in good light. The labels of FER2013 are noisy; a teacher's doubt is part of what there is to learn.
"""

from __future__ import annotations

import contextlib
import os
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from edgefer.bundle import file_sha256
from edgefer.types import F32
from export import checkpoint, metrics, trainer
from export.data.faces import Faces
from export.errors import InputError, RecipeError
from export.models.network import Network, Temporal
from export.recipe import Distil, Recipe
from export.trainer import Say


@dataclass(frozen=True)
class Teacher:
    """recipe: as it was trained, with its crop; file: its network."""

    recipe: Recipe
    file: Path


def with_targets(
    faces: Faces, watched: Faces | None, how: Distil, teachers: Sequence[Teacher], out: Path, say: Say
) -> Faces:
    """``faces`` with ``soft`` float32 [N, K]: (1 - share) x label + share x mean of the teachers' probabilities.

    Every teacher's opinion is kept in ``out`` for when the training goes on.

    A teacher's temperature is fitted on the ``watched`` rows (1 where there are none). Raises InputError for a teacher
    that has seen other training rows (a test's twin among them would reach the pupil), RecipeError for a temporal one.
    """
    mean = np.zeros((len(faces), len(faces.classes)), np.float32)
    for teacher in teachers:
        trained = checkpoint.load(teacher.file, teacher.recipe)
        if trained.data != faces.fingerprint or trained.labels != faces.classes:
            raise InputError(f"{teacher.file}: the teacher was trained on other rows than the recipe's; train it again")
        if isinstance(trained.model, Temporal):
            raise RecipeError(f"recipe: 'distil.teachers': {teacher.recipe.name} needs sequences")
        kept = out / f"teacher-{teacher.recipe.name}.npz"
        ask = partial(_opinion, trained.model, teacher.recipe, faces, watched, say)
        mean += _kept(kept, teacher, faces, ask)
    mean /= len(teachers)
    label = np.eye(len(faces.classes), dtype=np.float32)[faces.labels]
    right = float((mean.argmax(axis=1) == faces.labels).mean())
    say(f"teachers agree with {right:.1%} of the labels; they make {how.share:.0%} of the targets")
    return replace(faces, soft=(1 - how.share) * label + how.share * mean)


def _kept(path: Path, teacher: Teacher, faces: Faces, make: Callable[[], F32]) -> F32:
    """``make``'s answer, or the one kept in ``path`` from the same weights and rows."""
    key = f"{file_sha256(teacher.file)} {faces.fingerprint}"
    with (
        contextlib.suppress(OSError, ValueError, KeyError, zipfile.BadZipFile),
        path.open("rb") as f,
        np.load(f) as kept,
    ):
        if str(kept["key"]) == key:
            return np.asarray(kept["probabilities"], np.float32)
    made = make()
    part = path.with_suffix(".part")
    with part.open("wb") as target:
        np.savez(target, probabilities=made, key=key)
    os.replace(part, path)
    return made


def _opinion(network: Network, recipe: Recipe, faces: Faces, watched: Faces | None, say: Say) -> F32:
    """Calibrated probabilities float32 [N, K], mean of the picture and its mirror image."""
    network = network.to(trainer.device(), memory_format=torch.channels_last)
    temperature = 1.0
    if watched is not None:
        temperature = metrics.fit_temperature(_logits(network, recipe, watched, f"{recipe.name}, watched", say),
                                              watched.labels)  # fmt: skip
    mirrored = replace(faces, images=faces.images[..., ::-1].copy())
    views = [_logits(network, recipe, f, f"{recipe.name}, view {k}", say) for k, f in enumerate((faces, mirrored))]
    return np.mean([metrics.probabilities(x, temperature) for x in views], axis=0, dtype=np.float32)


@torch.inference_mode()  # type: ignore[untyped-decorator]
def _logits(network: Network, recipe: Recipe, faces: Faces, title: str, say: Say) -> F32:
    out, done = [], 0
    last = recipe.training.steps[-1].name if recipe.training.steps else ""  # one branch answers for itself
    with trainer.autocast():
        for batch in trainer.batches(faces, recipe.crop, network.uses, recipe.seed):
            out.append(network.predict(trainer.on_device(list(batch)), last).float().cpu().numpy())
            done += len(out[-1])
            say(f"\rteacher {title}: {done}/{len(faces)}")
    return np.concatenate(out)
