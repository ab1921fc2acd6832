"""The figures of merit against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from export import metrics

PROBS = np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.45, 0.55]])
LABELS = np.array([0, 1, 1, 0])
"""right, wrong, right, wrong"""


def test_accuracy_confusion_and_recall() -> None:
    assert metrics.accuracy(PROBS, LABELS) == 0.5
    assert metrics.confusion(PROBS, LABELS).tolist() == [[1, 1], [1, 1]]
    assert metrics.recall(PROBS, LABELS).tolist() == [0.5, 0.5]


def test_recall_of_a_class_that_does_not_occur_is_not_a_number() -> None:
    assert np.isnan(metrics.recall(PROBS, np.zeros(4, np.int64))[1])


def test_wilson_interval() -> None:
    # Newcombe 1998, table I: 81 of 263 -> 0.2553 to 0.3662
    low, high = metrics.wilson(81 / 263, 263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    assert metrics.wilson(1.0, 10)[1] == pytest.approx(1.0)
    assert metrics.wilson(0.0, 10)[0] == pytest.approx(0.0)


def test_calibration_error_by_hand() -> None:
    # every row has a bin of its own: (0.1 + 0.6 + 0.3 + 0.55) / 4
    assert metrics.calibration_error(PROBS, LABELS) == pytest.approx(0.3875)
    # one bin: |0.5 - 0.6875|
    assert metrics.calibration_error(PROBS, LABELS, bins=1) == pytest.approx(0.1875)


def test_calibration_error_puts_a_bin_s_upper_edge_inside_it() -> None:
    certain = np.array([[1.0, 0.0]])
    assert metrics.calibration_error(certain, np.array([0])) == 0.0


def test_selective_accuracy_keeps_the_surest() -> None:
    assert metrics.selective_accuracy(PROBS, LABELS, 0.5) == 1.0
    assert metrics.selective_accuracy(PROBS, LABELS, 0.75) == pytest.approx(2 / 3)
    assert metrics.confidence_at(PROBS, 0.5) == pytest.approx(0.7)


def test_agreement() -> None:
    assert metrics.agreement(PROBS, PROBS[:, ::-1]) == 0.0
    assert metrics.agreement(PROBS, 3 * PROBS) == 1.0


def test_temperature_by_hand() -> None:
    # Logits (2, 0), right three times in four: the best probability is 3/4, so exp(2 / T) = 3.
    logits = np.tile(np.array([2.0, 0.0]), (4, 1))
    assert metrics.fit_temperature(logits, np.array([0, 0, 0, 1])) == pytest.approx(2 / math.log(3), rel=1e-3)


def test_no_temperature_is_fitted_to_rows_that_are_all_right() -> None:
    """The likelihood only grows the nearer it comes to 0: every probability would be 1."""
    assert metrics.fit_temperature(np.tile(np.array([2.0, 0.0]), (4, 1)), np.zeros(4, np.int64)) == 1.0


def test_probabilities_do_not_overflow() -> None:
    probs = metrics.probabilities(np.array([[1e4, 0.0]]), 0.5)
    assert probs.tolist() == [[1.0, 0.0]]
    assert metrics.negative_log_likelihood(np.array([[1e4, 0.0]]), np.array([1]), 1.0) == pytest.approx(1e4)
