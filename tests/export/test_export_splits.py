"""Splits: the papers' shares with the papers' counts, people never in two folds, twins never learned from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.data import splits
from export.data.fer2013 import read_npz
from export.errors import UsageError

VIRI = {"angry": 111, "happy": 114, "neutral": 114, "sad": 114, "surprise": 113}
"""images per class, papers 001 and 000"""

PEOPLE = st.lists(st.integers(0, 12), min_size=4, max_size=120).filter(lambda p: len(set(p)) >= 4)


def test_the_shares_give_the_counts_of_the_papers() -> None:
    labels = np.repeat(list(VIRI), list(VIRI.values()))
    split = splits.by_share(labels)
    train, val, test = (
        {c: int((labels[rows] == c).sum()) for c in VIRI} for rows in (split.train, split.val, split.test)
    )
    assert len(labels) == 566
    assert train == {"angry": 77, "happy": 79, "neutral": 79, "sad": 79, "surprise": 79}
    assert val == {"angry": 16, "happy": 17, "neutral": 17, "sad": 17, "surprise": 16}
    assert test == dict.fromkeys(VIRI, 18)
    assert round(100 * 76 / len(split.test), 2) == 84.44
    assert split.name == "random 70 / 15 / 15 % per class, people not kept apart, seed 0"


@given(st.lists(st.integers(0, 6), max_size=200), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_by_share_tells_every_row_once_and_keeps_the_shares_within_a_row_per_class(rows: list[int], seed: int) -> None:
    labels = np.array(rows, np.int64)
    split = splits.by_share(labels, seed=seed)
    everything = np.concatenate([split.train, split.val, split.test])
    assert sorted(everything) == list(range(len(labels)))
    for label in np.unique(labels):
        n = int((labels == label).sum())
        assert 0 <= 0.70 * n - (labels[split.train] == label).sum() < 1
        assert 0 <= 0.15 * n - (labels[split.val] == label).sum() < 1


def test_the_seed_decides_who_is_drawn() -> None:
    labels = np.repeat(np.arange(3), 40)
    a, b, c = (splits.by_share(labels, seed=s) for s in (1, 1, 2))
    assert np.array_equal(a.test, b.test)
    assert not np.array_equal(a.test, c.test)


def test_a_share_is_the_decimal_that_was_typed() -> None:
    assert len(splits.by_share(np.zeros(100, int), (0.29, 0.0, 0.71)).train) == 29  # 0.29 * 100 is 28.999999999999996


@pytest.mark.parametrize("shares", [(0.7, 0.2, 0.2), (0.7, 0.3), (1.2, -0.1, -0.1)])
def test_shares_that_are_no_whole_are_refused(shares: tuple[float, ...]) -> None:
    with pytest.raises(UsageError, match="add up to 1"):
        splits.by_share(np.zeros(9, int), shares)


@given(PEOPLE, st.integers(3, 4), st.booleans(), st.integers(0, 3))
@settings(max_examples=80, deadline=None)
def test_by_person_nobody_is_in_two_folds_and_every_row_is_tested_once(
    people: list[int], folds: int, validate: bool, seed: int
) -> None:
    person = np.array(people)
    out = splits.by_person(person, folds, seed, validate)
    assert len(out) == folds
    assert sorted(np.concatenate([s.test for s in out])) == list(range(len(person)))
    for s in out:
        train, val, test = set(person[s.train]), set(person[s.val]), set(person[s.test])
        assert not train & test
        assert not (train | test) & val
        assert len(s.train) + len(s.val) + len(s.test) == len(person)
        assert bool(val) == validate
        assert test


@given(PEOPLE, st.integers(2, 4))
@settings(max_examples=60, deadline=None)
def test_by_person_the_folds_differ_by_no_more_than_one_person_has(people: list[int], folds: int) -> None:
    sizes = [len(s.test) for s in splits.by_person(np.array(people), folds)]
    assert max(sizes) - min(sizes) <= np.bincount(people).max()


def test_by_person_is_the_same_again_and_says_which_fold() -> None:
    person = np.array([f"S{i % 30:03}" for i in range(300)])
    first, again = splits.by_person(person, 10, 5), splits.by_person(person, 10, 5)
    assert all(np.array_equal(a.test, b.test) for a, b in zip(first, again, strict=True))
    assert {len(s.test) for s in first} == {30}
    assert first[3].name == "10-fold by person, nobody in two folds, seed 5, fold 4"


@pytest.mark.parametrize("seed", range(8))
def test_by_person_the_one_with_most_rows_goes_first(seed: int) -> None:
    person = np.array([0] * 6 + [1, 2, 3, 4, 5, 6])
    assert [len(s.test) for s in splits.by_person(person, 2, seed)] == [6, 6]


def test_more_folds_than_people_are_refused() -> None:
    with pytest.raises(UsageError, match="there are 3 people; choose 2 to 3"):
        splits.by_person(np.array([1, 2, 3, 3]), 10)


def test_one_group_out_of_each_split() -> None:
    group = np.array([4, 0, 4, 2, 0, 2])
    out = splits.leave_one_group_out(group)
    assert [s.name for s in out] == [f"one of 3 groups left out: {g}" for g in (0, 2, 4)]
    assert [s.test.tolist() for s in out] == [[1, 4], [3, 5], [0, 2]]
    assert [s.train.tolist() for s in out] == [[0, 2, 3, 5], [0, 1, 2, 4], [1, 3, 4, 5]]
    with pytest.raises(UsageError, match="two are needed"):
        splits.leave_one_group_out(np.zeros(3))


def test_a_group_of_one_picture_is_trained_on_and_never_the_test() -> None:
    """The thermal set's seventh group: the last of its trainings was refused after all others had run."""
    out = splits.leave_one_group_out(np.array([0, 1, 6, 1, 0]))
    assert [s.test.tolist() for s in out] == [[0, 4], [1, 3]]
    assert all(2 in s.train for s in out)


def test_twins_are_found_by_their_pixels() -> None:
    rng = np.random.default_rng(0)
    train, test = rng.integers(0, 256, (6, 8, 8), np.uint8), rng.integers(0, 256, (3, 8, 8), np.uint8)
    test[1] = train[4]
    train[5] = train[0]
    assert splits.without_duplicates(train, test).tolist() == [True, True, True, True, False, True]
    assert splits.without_duplicates(train.reshape(6, 4, 16), test).all()  # same bytes, another picture
    assert splits.duplicate_groups(np.concatenate([train, test])).tolist() == [0, 1, 2, 3, 4, 0, 5, 4, 6]


def test_a_split_without_leaks_says_how_many_rows_it_lost() -> None:
    images = np.arange(10, dtype=np.uint8).reshape(10, 1, 1).repeat(4, 1)
    images[[0, 1]] = images[[8, 9]]
    split = splits.Split("x", np.arange(6), np.arange(8, 10), np.arange(6, 8)).leak_free(images)
    assert split.train.tolist() == [2, 3, 4, 5]
    assert split.name == "x; 2 training rows with a twin left out"


@pytest.mark.data
def test_the_twins_that_the_pack_counts(real_data: Path) -> None:
    d = read_npz(real_data / "fer2013.npz", ("images", "split"))
    training, tests = d["images"][d["split"] == 0], d["images"][d["split"] > 0]
    assert int(splits.without_duplicates(training, tests).sum()) == 28006
    assert len(np.unique(splits.duplicate_groups(d["images"]))) == 34034
