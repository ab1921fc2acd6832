"""Who is trained on, watched and tested: the official split of a set, or folds that keep people apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from export import data
from export.data import splits
from export.data.faces import Faces
from export.errors import InputError, RecipeError, UsageError
from export.recipe import Data, Recipe

BY_PERSON: dict[str, Literal["person", "group"]] = {"ckplus": "person", "jaffe": "person", "thermal": "group"}
"""sets whose pictures of one person are neighbours: a random split of them is worthless"""
OFFICIAL = ("fer2013", "rafdb")
"""sets that come with a split of their makers"""


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

    @property
    def unused(self) -> list[str]:
        """One line per file of the set that is not used, in whichever of its splits."""
        return [line for faces in (self.train, self.watch, self.test) if faces is not None for line in faces.rejected]

    @property
    def mixed(self) -> int:
        """How many people are both trained on and tested on, as far as the set knows them."""
        if self.train.person is None or self.test.person is None:
            return 0
        return len(np.intersect1d(self.train.person, self.test.person))


def parts(recipe: Recipe, temporal: bool) -> Iterator[Part]:
    """One for an official split or shares, one per fold otherwise.

    Raises RecipeError for folds of a set without people, InputError where a part has next to no pictures.
    """
    for part in _parts(recipe, temporal):
        if min(len(part.train), len(part.test)) < 2:
            sizes = f"{len(part.train)} pictures to train on and {len(part.test)} to test on"
            raise InputError(f"{recipe.data.name} {part.name}: {sizes} are too few; look at what was not used")
        yield part


def _parts(recipe: Recipe, temporal: bool) -> Iterator[Part]:
    d = recipe.data
    if not d.folds:
        train = _load(recipe, d.train)
        test = _among(train.classes, _load(recipe, d.test), recipe)
        watch = _among(train.classes, _load(recipe, d.watch), recipe) if d.watch else None
        yield Part("", train, watch, test, _clean(recipe, test))
        return
    faces = _frames(_load(recipe, d.train), temporal)
    if d.folds == "share":
        # The seed of the split is not the recipe's: what a network starts from must have been kept from the same rows.
        cut = splits.by_share(faces.labels)
        yield Part("", faces.take(cut.train), faces.take(cut.val), faces.take(cut.test))
        return
    if faces.person is None:
        raise RecipeError(
            f"recipe {recipe.name}: 'data.folds': the set {d.name} does not say whose face is whose (paired folders do "
            'with a folder per person); folds = "share" mixes people'
        )
    by_group = d.folds == "group"
    folds = splits.leave_one_group_out(faces.person) if by_group else splits.by_person(faces.person, d.count)
    for k, fold in enumerate(folds):
        yield Part(f"fold-{k + 1}", faces.take(fold.train), None, faces.take(fold.test))


def check_start(recipe: Recipe, other: Recipe) -> None:
    """Whether ``recipe`` may start from ``other``. Raises RecipeError where that has been trained in other folds: there
    is no one network to start from, or it has seen the rows that are held out here."""
    own, its = recipe.data, other.data
    apart = own.folds or its.folds if own.name == its.name else its.folds in ("person", "group")
    if apart and (own.name, own.train, own.folds, own.count) != (its.name, its.train, its.folds, its.count):
        raise RecipeError(
            f"recipe {recipe.name}: 'data.folds': not those of {other.name}, which it starts from; "
            "give both the same [data], or train with --data"
        )


def _load(recipe: Recipe, split: str) -> Faces:
    """One split at the recipe's crop; the camera's own MSX stands in the infrared lens's place where asked for."""
    faces = data.load(recipe.data.name, split, side=recipe.crop)
    if recipe.model.options.get("msx_is_lens"):
        if faces.msx is None:
            raise RecipeError(f"recipe {recipe.name}: 'model.msx_is_lens': no MSX pictures in {recipe.data.name}")
        faces = replace(faces, infrared=faces.msx)
    return faces


def _among(classes: tuple[str, ...], faces: Faces, recipe: Recipe) -> Faces:
    """``faces`` with the labels of ``classes``, those trained on: where a set lies in folders, each part numbers the
    classes that it has. Raises InputError where it has others."""
    if more := [name for name in faces.classes if name not in classes]:
        raise InputError(f"{recipe.data.name}: no picture of {', '.join(more)} to train on; take that class out")
    to = np.array([classes.index(name) for name in faces.classes], np.int64)
    return replace(faces, labels=to[faces.labels], classes=classes)


def _clean(recipe: Recipe, test: Faces) -> npt.NDArray[np.bool_] | None:
    """Which test rows have no twin in the set's own training rows; FER2013 alone is known to have them."""
    if recipe.data.name != "fer2013" or recipe.data.test != "private":
        return None
    return ~splits.without_duplicates(test.images, _load(recipe, "private-clean").images)


def other(spec: str) -> Data:
    """How a recipe is trained on another set (``--data NAME``): by the set's own splits where it has them, with people
    kept apart where their pictures are neighbours, else 70/15/15 at random per class, as the papers do.

    ``NAME:person`` and ``NAME:group`` ask for folds that keep people apart, ten or one per person, which NVIE always
    allows, VIRI and other paired folders where each person has a folder. Raises UsageError for a set that no reader
    knows and for folds of a set with splits of its own, InputError without EDGEFER_DATA.
    """
    name, _, folds = spec.partition(":")
    there = data.splits_there(name)
    if folds:
        return _kept_apart(name, folds, there)
    if "public" in there:
        return Data(name=name)
    if "all" not in there:
        return Data(name=name, watch="val" if "val" in there else "", test="test")
    return Data(name=name, train="all", folds=BY_PERSON.get(name, "share"))


def _kept_apart(name: str, folds: str, there: tuple[str, ...]) -> Data:
    if folds not in ("person", "group"):
        raise UsageError(f"--data {name}:{folds}: {name}:person makes ten folds by person, {name}:group one per person")
    if "all" not in there:
        raise UsageError(f"--data {name}:{folds}: the set has splits of its own ({', '.join(there)}); --data {name}")
    return Data.model_validate({"name": name, "train": "all", "folds": folds})


def _frames(faces: Faces, temporal: bool) -> Faces:
    """Temporal networks get the sequences; all others get every frame as a picture of its own."""
    return faces if temporal else replace(faces, sequence=None)


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
        split = "one group held out at a time (lone pictures stay in training), pooled, no selection"
    elif d.folds == "share":
        split = "70/15/15 at random per class, people not kept apart (the papers')"
    elif d == Data():
        split = "official split, training rows without twins of the tests, selection and temperature on PublicTest"
    else:
        whose = "official split" if d.name in OFFICIAL else "the set's own split"
        chosen = f"selection and temperature on {d.watch}" if d.watch else "no selection"
        split = f"{whose}, {d.train} / {d.test}, {chosen}"
    return f"{split}; {train} trained on, {test} tested on, one pass, no test-time augmentation"
