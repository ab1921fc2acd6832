"""Who is trained on, watched and tested where a recipe is trained on another set."""

from __future__ import annotations

from pathlib import Path

import pytest
from face_files import grey, picture

from export import protocol, recipe
from export.errors import InputError, RecipeError, UsageError


def _plan(name: str) -> recipe.Recipe:
    return recipe.Recipe(name="any", crop=16, model={"name": "single"}, data=protocol.other(name))


def _paired(root: Path, classes: tuple[str, ...], first: int, who: str = "") -> None:
    """Two pairs of each class, the grey of the visible lens counted from ``first`` in tens."""
    for k, label in enumerate(c for c in classes for _ in range(2)):
        for lens, more in (("visible", 0), ("infrared", 5)):
            picture(root / lens / label / who / f"{k}.png", first + 10 * k + more, (16, 16))


def test_another_set_keeps_its_people_apart(data_root: Path) -> None:
    assert protocol.other("ckplus").folds == "person"
    assert protocol.other("thermal").folds == "group"
    assert protocol.other("viri").folds == "share"
    assert (protocol.other("rafdb").watch, protocol.other("rafdb").test) == ("", "test")
    assert protocol.other("fer2013") == recipe.Data()


@pytest.mark.parametrize("val", [True, False])
def test_a_sets_own_splits_are_used(data_root: Path, val: bool) -> None:
    """Each part numbers the classes that it has; the tests' numbers must be those trained on."""
    viri = data_root / "viri"
    _paired(viri / "train", ("angry", "happy", "sad"), 40)
    _paired(viri / "test", ("happy", "sad"), 140)
    if val:
        _paired(viri / "val", ("sad",), 100)
    (part,) = protocol.parts(_plan("viri"), temporal=False)
    assert part.train.classes == part.test.classes == ("anger", "happiness", "sadness")
    assert (part.train.labels.tolist(), part.test.labels.tolist()) == ([0, 0, 1, 1, 2, 2], [1, 1, 2, 2])
    assert grey(part.test.images) == [140, 150, 160, 170]
    assert part.watch is None or (part.watch.labels.tolist(), part.watch.classes) == ([2, 2], part.train.classes)
    assert (part.watch is not None) is val


def test_a_thermal_set_of_train_and_test_folders_is_not_held_out_by_group(data_root: Path) -> None:
    for split in ("train", "test"):
        for k in range(2):
            picture(data_root / "thermal" / split / "happy" / f"{k}.png", 90 + 10 * k, (16, 16))
    (part,) = protocol.parts(_plan("thermal"), temporal=False)
    assert (len(part.train), len(part.test), part.watch) == (2, 2, None)


def test_a_class_that_is_only_tested_is_named(data_root: Path) -> None:
    _paired(data_root / "viri" / "train", ("angry", "happy"), 40)
    _paired(data_root / "viri" / "test", ("angry", "sad"), 100)
    with pytest.raises(InputError, match="viri: no picture of sadness to train on"):
        list(protocol.parts(_plan("viri"), temporal=False))


def test_a_set_without_a_test_folder_says_what_it_has(data_root: Path) -> None:
    _paired(data_root / "viri" / "train", ("angry", "happy"), 40)
    with pytest.raises(InputError, match="no split 'test' in this folder; it has train"):
        list(protocol.parts(_plan("viri"), temporal=False))


@pytest.mark.parametrize(("how", "count"), [("person", 10), ("group", 11)])
def test_a_paired_set_that_knows_its_people_is_split_by_them_when_asked(data_root: Path, how: str, count: int) -> None:
    for k in range(11):
        _paired(data_root / "viri", ("angry", "happy"), 40 + 10 * k, who=f"P{k}")
    parts = list(protocol.parts(_plan(f"viri:{how}"), temporal=False))
    assert len(parts) == count
    assert sum(len(part.test) for part in parts) == 44
    assert not any(part.mixed for part in parts)
    (papers,) = protocol.parts(_plan("viri"), temporal=False)
    assert papers.mixed == len(set(papers.train.person) & set(papers.test.person)) > 0


def test_folds_by_person_of_a_set_without_people_say_what_would_do(data_root: Path) -> None:
    _paired(data_root / "viri", ("angry", "happy"), 40)
    with pytest.raises(RecipeError, match=r"does not say whose face is whose .*with a folder per person"):
        list(protocol.parts(_plan("viri:person"), temporal=False))


def test_folds_of_another_kind_or_of_a_set_with_splits_of_its_own_are_refused(data_root: Path) -> None:
    with pytest.raises(UsageError, match="--data viri:people: viri:person makes ten folds by person, viri:group one"):
        protocol.other("viri:people")
    with pytest.raises(UsageError, match=r"--data rafdb:person: the set has splits of its own \(train, test\)"):
        protocol.other("rafdb:person")
    with pytest.raises(UsageError, match="did you mean 'viri'"):
        protocol.other("virri:person")


@pytest.mark.parametrize(
    ("name", "watch", "said"),
    [
        ("rafdb", "", "official split, train / test, no selection"),
        ("viri", "val", "the set's own split, train / test, selection and temperature on val"),
        ("fer2013", "", "official split, train / test, no selection"),
    ],
)
def test_the_line_says_whose_split_it_is(name: str, watch: str, said: str) -> None:
    own = recipe.Data(name=name, watch=watch, test="test")
    plan = recipe.Recipe(name="any", model={"name": "single"}, data=own)
    assert protocol.line(plan, 8, 4) == f"{said}; 8 trained on, 4 tested on, one pass, no test-time augmentation"
