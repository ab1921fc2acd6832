"""Figures from confusion tables against hand calculations, the interval and the test against known values."""

from __future__ import annotations

import numpy as np
import pytest

from export import statistics

TABLE = np.array([[8, 2, 0], [1, 3, 0], [3, 0, 3]])
"""20 pictures: precisions 8/12, 3/5, 3/3; recalls 8/10, 3/4, 3/6"""


def test_every_figure_by_hand() -> None:
    by_hand = {
        "accuracy": 14 / 20,
        "macro_precision": (8 / 12 + 3 / 5 + 1) / 3,
        "macro_recall": (0.8 + 0.75 + 0.5) / 3,
        "macro_f1": (16 / 22 + 6 / 9 + 6 / 9) / 3,
        "macro_specificity": (6 / 10 + 14 / 16 + 14 / 14) / 3,
        "gar": (0.8 + 0.75 + 0.5) / 3,
        "far": 6 / 20,
    }
    assert {n: float(m(TABLE)) for n, m in statistics.MEASURES.items()} == pytest.approx(by_hand)


def test_tables_in_a_stack_are_measured_one_by_one() -> None:
    stack = np.stack((TABLE, TABLE.T, np.eye(3, dtype=int)))
    for measure in statistics.MEASURES.values():
        assert measure(stack) == pytest.approx([float(measure(t)) for t in stack])


def test_a_class_that_does_not_occur_is_left_out() -> None:
    table = np.array([[4, 0, 0], [0, 4, 0], [0, 0, 0]])
    assert statistics.macro_recall(table) == statistics.macro_f1(table) == 1.0


def answers(n: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    return np.where(rng.random(n) < share, labels, (labels + 1) % 3), labels


def test_the_interval_of_accuracy_is_the_binomial_one() -> None:
    given, labels = answers(400, 0.8, 1)
    share = float((given == labels).mean())
    half = 1.96 * (share * (1 - share) / 400) ** 0.5
    low, high = statistics.bootstrap(statistics.accuracy, given, labels, 3, rounds=5000)
    assert (low, high) == pytest.approx((share - half, share + half), abs=0.006)


def test_the_seed_decides_and_the_figure_lies_inside() -> None:
    given, labels = answers(200, 0.7, 2)
    for measure in statistics.MEASURES.values():
        one, again, other = (statistics.bootstrap(measure, given, labels, 3, seed=s) for s in (0, 0, 1))
        assert one == again != other
        table = np.bincount(labels * 3 + given, minlength=9).reshape(3, 3)
        assert one[0] < float(measure(table)) < one[1]


def test_three_frames_of_a_sequence_are_one_observation() -> None:
    """Each row three times over: by rows the interval is too narrow by root three, by groups it is the old one."""
    given, labels = answers(150, 0.75, 3)
    old = np.ptp(statistics.bootstrap(statistics.accuracy, given, labels, 3, rounds=5000))
    thrice, of_thrice, group = np.repeat(given, 3), np.repeat(labels, 3), np.repeat(np.arange(150).astype(str), 3)
    rows = np.ptp(statistics.bootstrap(statistics.accuracy, thrice, of_thrice, 3, rounds=5000))
    groups = np.ptp(statistics.bootstrap(statistics.accuracy, thrice, of_thrice, 3, group, 5000))
    assert rows == pytest.approx(old / 3**0.5, rel=0.1)
    assert groups == pytest.approx(old, rel=0.1)


@pytest.mark.parametrize(
    ("x", "freedom", "p"),
    [
        (3.841459, 1, 0.05),
        (5.991465, 2, 0.05),
        (7.81473, 3, 0.05),
        (13.27670, 4, 0.01),
        (16.919, 9, 0.05),
        (0, 3, 1),
    ],
)
def test_chi_square_tails_of_the_printed_tables(x: float, freedom: int, p: float) -> None:
    assert statistics.chi_square_tail(x, freedom) == pytest.approx(p, rel=1e-5)


def test_friedman_by_hand_and_with_ties() -> None:
    """Ranks 1, 2, 3 in every one of four folds: 12 * 4 / 12 * (1 + 0 + 1) = 8 with two degrees of freedom."""
    ordered = np.array([[0.1, 0.2, 0.3], [0.5, 0.6, 0.9], [0.2, 0.3, 0.4], [0.0, 0.1, 0.7]])
    assert statistics.friedman(ordered) == pytest.approx((8.0, np.exp(-4)))
    tied = ordered.copy()
    tied[0, 1] = 0.1
    # ranks of the first fold 1.5, 1.5, 3: mean ranks 4.5/4, 7.5/4, 3; correction 1 - 6 / (4 * 3 * 8)
    by_hand = 4 * ((1.125 - 2) ** 2 + (1.875 - 2) ** 2 + 1) / (1 - 6 / 96)
    assert statistics.friedman(tied)[0] == pytest.approx(by_hand)
    assert statistics.friedman(np.ones((3, 3))) == (0.0, 1.0)


def test_one_fold_is_no_test() -> None:
    with pytest.raises(ValueError, match="two folds"):
        statistics.friedman(np.ones((1, 3)))
