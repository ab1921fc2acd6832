"""Which rows are learned from, watched and tested on: the papers' shares, and splits that keep people apart.

Pure numpy; every function is deterministic for its seed. ``Split.name`` is the line the report prints.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from export.errors import UsageError

Rows = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Anything = npt.NDArray[Any]


def _none() -> Rows:
    return np.zeros(0, np.int64)


@dataclass(frozen=True)
class Split:
    """Rows (int64, ascending) to train on, to choose by (empty when nothing is chosen) and to test on: disjoint."""

    name: str
    train: Rows
    test: Rows
    val: Rows = field(default_factory=_none)

    def leak_free(self, images: Anything) -> Split:
        """The same without the training rows whose pixels occur in ``val`` or ``test``; images [N, ...] of all rows."""
        seen = np.concatenate([self.val, self.test])
        keep = without_duplicates(images[self.train], images[seen])
        return replace(
            self, train=self.train[keep], name=f"{self.name}; {int((~keep).sum())} training rows with a twin left out"
        )


def by_share(labels: Anything, shares: tuple[float, ...] = (0.70, 0.15, 0.15), seed: int = 0) -> Split:
    """(train, val, test) shares drawn at random within each class: the split of papers 001 (Table 1) and 000.

    People are not kept apart. Of a class of n the training gets floor(0.70 n), validation floor(0.15 n) and the test
    the rest: the only rounding that fits what the papers print, 77 training images of 111 angry ones and 18 test
    images of every VIRI class (rows of their confusion matrices; 90 in all, so 84.44 % is 76 of 90).
    Raises UsageError unless there are three shares that make up the whole.
    """
    if len(shares) != 3 or min(shares) < 0 or abs(sum(shares) - 1) > 1e-9:
        raise UsageError(f"shares {shares}: give three (train, validation, test) that add up to 1")
    rng = np.random.default_rng(seed)
    parts: tuple[list[Rows], list[Rows], list[Rows]] = ([], [], [])
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        train, val = _floor(shares[0], len(rows)), _floor(shares[1], len(rows))
        for part, cut in zip(parts, np.split(rows, [train, train + val]), strict=True):
            part.append(cut)
    train_rows, val_rows, test_rows = (np.sort(np.concatenate([_none(), *part])) for part in parts)
    text = " / ".join(f"{100 * share:g}" for share in shares)
    return Split(f"random {text} % per class, people not kept apart, seed {seed}", train_rows, test_rows, val_rows)


def _floor(share: float, n: int) -> int:
    """floor(share * n), of the decimal that was meant: 0.29 * 100 is 29 although its float product is below."""
    return int(np.floor(share * n + 1e-9))


def by_person(person: Anything, folds: int = 10, seed: int = 0, validate: bool = False) -> tuple[Split, ...]:
    """Subject-independent folds of about equal size: nobody is in two of them, every row is tested once.

    Greedy: whoever has most rows goes first, always to the smallest fold; the seed orders equals.
    ``validate``: the fold after the tested one is kept out of training to choose by.
    Raises UsageError when there are fewer people than folds, or too few folds.
    """
    people, rows_of = np.unique(person, return_inverse=True)
    least = 3 if validate else 2
    if not least <= folds <= len(people):
        raise UsageError(
            f"{folds} folds by person: there are {len(people)} people; choose {least} to {len(people)}, "
            "or hold out one at a time"
        )
    fold = _deal(np.bincount(rows_of), folds, np.random.default_rng(seed))[rows_of]
    name = f"{folds}-fold by person, nobody in two folds, seed {seed}"
    return tuple(_fold(fold, i, f"{name}, fold {i + 1}", validate) for i in range(folds))


def _deal(counts: Rows, folds: int, rng: np.random.Generator) -> Rows:
    """Fold of each person: the largest first, to the fold with the fewest rows (of those, the fewest people)."""
    order = rng.permutation(len(counts))
    order = order[np.argsort(-counts[order], kind="stable")]
    out, rows, heads = np.zeros(len(counts), np.int64), np.zeros(folds, np.int64), np.zeros(folds, np.int64)
    for who in order:
        to = np.lexsort((heads, rows))[0]
        out[who] = to
        rows[to] += counts[who]
        heads[to] += 1
    return out


def _fold(fold: Rows, i: int, name: str, validate: bool) -> Split:
    after = (i + 1) % (int(fold.max()) + 1) if validate else -1
    train = np.flatnonzero((fold != i) & (fold != after))
    return Split(name, train, np.flatnonzero(fold == i), np.flatnonzero(fold == after))


def leave_one_group_out(group: Anything) -> tuple[Split, ...]:
    """One split per group, in the order of their names; that group is the test.

    A group of one picture is no test: the picture stays in every split's training rows. Raises UsageError below two
    groups to hold out.
    """
    names, sizes = np.unique(group, return_counts=True)
    groups = names[sizes > 1]
    if len(groups) < 2:
        raise UsageError(f"leave one group out: there are {len(groups)} groups of two pictures or more, two are needed")
    return tuple(
        Split(f"one of {len(groups)} groups left out: {g}", np.flatnonzero(group != g), np.flatnonzero(group == g))
        for g in groups
    )


def duplicate_groups(images: Anything) -> npt.NDArray[np.int32]:
    """int32 [N]: equal numbers mark pixel-identical images ([N, ...]); numbered in the order of first occurrence."""
    number: dict[bytes, int] = {}
    return np.array([number.setdefault(key, len(number)) for key in _keys(images)], np.int32)


def without_duplicates(train_images: Anything, test_images: Anything) -> Mask:
    """bool [N]: the training rows whose pixels do not occur in the test; near twins (recompressed) are not found."""
    seen = set(_keys(test_images))
    return np.array([key not in seen for key in _keys(train_images)], np.bool_)


def _keys(images: Anything) -> list[bytes]:
    head = str((images.shape[1:], images.dtype)).encode()
    return [hashlib.sha256(head + np.ascontiguousarray(image).tobytes()).digest() for image in images]
