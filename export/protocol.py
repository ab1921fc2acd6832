"""Who is trained on, watched and tested: the official split of a set, or folds that keep people apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from export import data
from export.data import fer2013, splits
from export.data.faces import Faces
from export.errors import RecipeError
from export.recipe import Data, Recipe


@dataclass(frozen=True)
class Part:
    """One training and its test. watch: rows looked at during training, never the test's; None: none are.

    clean: bool [N] of the test rows without a twin in the set's training rows; None: the set has no twins.
    """

    name: str
    train: Faces
    watch: Faces | None
    test: Faces
    clean: npt.NDArray[np.bool_] | None = None


def parts(recipe: Recipe, temporal: bool) -> Iterator[Part]:
    """One for an official split, one per fold otherwise. Raises RecipeError for folds of a set without people."""
    d = recipe.data
    if not d.folds:
        train, test = (data.load(d.name, split, side=recipe.crop) for split in (d.train, d.test))
        watch = data.load(d.name, d.watch, side=recipe.crop) if d.watch else None
        clean = fer2013.twin_free() if d.name == "fer2013" and d.test == "private" else None
        yield Part("", train, watch, test, clean)
        return
    faces = _frames(data.load(d.name, d.train, side=recipe.crop), temporal)
    if d.folds == "share":
        cut = splits.by_share(faces.labels, seed=recipe.seed)
        yield Part("", faces.take(cut.train), faces.take(cut.val), faces.take(cut.test))
        return
    if faces.person is None:
        raise RecipeError(f"recipe {recipe.name}: 'data.folds': the set {d.name} does not say whose face is whose")
    by_group = d.folds == "group"
    folds = splits.leave_one_group_out(faces.person) if by_group else splits.by_person(faces.person, d.count)
    for k, fold in enumerate(folds):
        yield Part(f"fold-{k + 1}", faces.take(fold.train), None, faces.take(fold.test))


def other(name: str) -> Data:
    """How a recipe is trained on another set (``--data``): its own split, or 70/15/15 at random where it has none.

    Raises UsageError for a set that no reader knows.
    """
    reader = data.reader(name)
    if "all" in reader.splits:
        return Data(name=name, train="all", folds="share")
    return Data(name=name) if "public" in reader.splits else Data(name=name, watch="", test="test")


def _frames(faces: Faces, temporal: bool) -> Faces:
    """Temporal networks get the whole sequences; all others get every frame as a picture of its own."""
    if not temporal or faces.sequence is None:
        return replace(faces, sequence=None)
    return faces


def whole(faces: Faces) -> npt.NDArray[np.int64]:
    """Rows whose sequence is complete (not led by a repeated first frame): what a temporal network is tested on."""
    if faces.sequence is None:
        return np.arange(len(faces))
    return np.setdiff1d(np.arange(len(faces)), faces.sequence[:, :-1])


def line(recipe: Recipe, train: int, test: int) -> str:
    """The protocol in one line, for the report."""
    d = recipe.data
    if d.folds == "person":
        split = f"{d.count} folds by person, pooled, no selection"
    elif d.folds == "group":
        split = "one group held out at a time, pooled, no selection"
    elif d.folds == "share":
        split = "70/15/15 at random per class, people not kept apart (the papers')"
    elif d.name == "fer2013":
        split = "official split, training rows without twins of the tests, selection and temperature on PublicTest"
    else:
        split = f"splits {d.train}/{d.watch}/{d.test}"
    return f"{d.name}: {split}; {train} trained on, {test} tested on, one pass, no test-time augmentation"
