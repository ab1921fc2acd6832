"""Figures from confusion tables, their bootstrap intervals, and the test over folds. Pure numpy.

``tables`` are counts [..., K, K], row the true class, column the answer, as :func:`export.metrics.confusion` gives
them; leading axes are carried through. Classes that do not occur are left out of a macro mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Real = npt.NDArray[np.float64]
Tables = npt.NDArray[np.int64] | npt.NDArray[np.float64]
Measure = Callable[[Tables], Real]


def accuracy(tables: Tables) -> Real:
    """Right answers over all (Jayaraman & Mahendran 2025, eq. 26)."""
    return np.asarray(_hits(tables).sum(axis=-1) / tables.sum(axis=(-1, -2)))


def macro_precision(tables: Tables) -> Real:
    """Mean over the classes of TP / (TP + FP) (eq. 28); a class that is never answered counts 0."""
    return _macro(_ratio(_hits(tables), tables.sum(axis=-2)), tables)


def macro_recall(tables: Tables) -> Real:
    """Mean over the classes of TP / (TP + FN) (eq. 29)."""
    return _macro(_ratio(_hits(tables), tables.sum(axis=-1)), tables)


def macro_f1(tables: Tables) -> Real:
    """Mean over the classes of 2 TP / (2 TP + FP + FN), which is eq. 30 for each."""
    return _macro(_ratio(2 * _hits(tables), tables.sum(axis=-1) + tables.sum(axis=-2)), tables)


def macro_specificity(tables: Tables) -> Real:
    """Mean over the classes of TN / (TN + FP) (eq. 27)."""
    others = tables.sum(axis=(-1, -2))[..., None] - tables.sum(axis=-1)
    false = tables.sum(axis=-2) - _hits(tables)
    return _macro(_ratio(others - false, others), tables)


def genuine_acceptance(tables: Tables) -> Real:
    """GAR, eq. 31: TP / (TP + FN), mean over the classes.

    That is recall (eq. 29) letter by letter; that the paper's Tables 7 and 9 differ follows from no equation of it.
    """
    return macro_recall(tables)


def false_acceptance(tables: Tables) -> Real:
    """FAR, eq. 32 (printed as FRR): answers accepted though false, over all attempts. A share, not per cent.

    Every picture is one attempt, so it is 1 - accuracy; the paper's Tables 4 and 10 do not add up to 100 %.
    """
    return 1.0 - accuracy(tables)


MEASURES: dict[str, Measure] = {
    "accuracy": accuracy,
    "macro_precision": macro_precision,
    "macro_recall": macro_recall,
    "macro_f1": macro_f1,
    "macro_specificity": macro_specificity,
    "gar": genuine_acceptance,
    "far": false_acceptance,
}


def _hits(tables: Tables) -> Real:
    return np.asarray(np.diagonal(tables, axis1=-2, axis2=-1), np.float64)


def _ratio(part: Tables | Real, whole: Tables | Real) -> Real:
    return np.asarray(np.where(whole > 0, part / np.maximum(whole, 1e-300), 0.0))


def _macro(values: Real, tables: Tables) -> Real:
    """Mean over the classes that occur as truth."""
    occurs = tables.sum(axis=-1) > 0
    return np.asarray(np.where(occurs, values, 0.0).sum(axis=-1) / np.maximum(occurs.sum(axis=-1), 1))


def bootstrap(
    measure: Measure, answers: npt.NDArray[np.int64], labels: npt.NDArray[np.int64], classes: int,
    groups: npt.NDArray[Any] | None = None, rounds: int = 2000, seed: int = 0,
) -> tuple[float, float]:  # fmt: skip
    """95 % percentile interval (Efron & Tibshirani 1993, section 13.3) of ``measure``.

    answers, labels: int [N]; ``groups`` [N] draws whole people or sequences instead of rows, which is what frames of
    one person need. Drawing rows with replacement is a multinomial draw of the table's cells, so no row is touched.
    """
    rng = np.random.default_rng(seed)
    cells = labels * classes + answers
    if groups is None:
        counts = np.bincount(cells, minlength=classes**2)
        drawn = rng.multinomial(len(cells), counts / len(cells), rounds)
    else:
        which = np.unique(groups, return_inverse=True)[1].reshape(-1)
        n = int(which.max()) + 1
        each = np.bincount(which * classes**2 + cells, minlength=n * classes**2).reshape(n, -1)
        drawn = rng.multinomial(n, np.full(n, 1 / n), rounds) @ each
    low, high = np.quantile(measure(drawn.reshape(rounds, classes, classes)), [0.025, 0.975])
    return float(low), float(high)


def friedman(table: Real) -> tuple[float, float]:
    """Do methods differ over folds? (Friedman 1937): statistic and p, chi-square with methods - 1 degrees of freedom.

    table: float [folds, methods], any figure of merit; equal figures share their ranks, with the usual correction.
    Raises ValueError for fewer than two folds or methods. All equal: (0, 1).
    """
    n, k = table.shape
    if min(n, k) < 2:
        raise ValueError(f"Friedman's test needs two folds and two methods at least, got {n} and {k}")
    less = (table[:, None, :] < table[:, :, None]).sum(axis=-1)
    equal = (table[:, None, :] == table[:, :, None]).sum(axis=-1)
    ranks = less + (equal + 1) / 2
    ties = (equal**2 - 1).sum() / (n * k * (k * k - 1))
    if ties >= 1:
        return 0.0, 1.0
    spread = ((ranks.mean(axis=0) - (k + 1) / 2) ** 2).sum()
    statistic = float(12 * n / (k * (k + 1)) * spread / (1 - ties))
    return statistic, chi_square_tail(statistic, k - 1)


def chi_square_tail(x: float, freedom: int) -> float:
    """P(X >= x) for whole degrees of freedom, by the finite series of the incomplete gamma function."""
    half = x / 2
    if half <= 0:
        return 1.0
    odd = freedom % 2
    tail = math.erfc(math.sqrt(half)) if odd else 0.0
    for j in range(freedom // 2):
        power = j + odd / 2
        tail += math.exp(power * math.log(half) - half - math.lgamma(power + 1))
    return min(1.0, tail)
