"""Figures of merit: pure numpy. ``probs`` float [N, K] rows sum to one, ``logits`` float [N, K], ``labels`` int [N]."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Real = npt.NDArray[np.float32] | npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

Z95 = 1.959963984540054
"""standard normal quantile of a two-sided 95 % interval"""


def probabilities(logits: Real, temperature: float = 1.0) -> npt.NDArray[np.float64]:
    """Softmax of logits / temperature (Guo et al. 2017, eq. 9), float64 [N, K]."""
    z = logits.astype(np.float64) / temperature
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def accuracy(scores: Real, labels: Labels) -> float:
    """Share of rows whose largest score is the label's."""
    return float((scores.argmax(axis=1) == labels).mean())


def wilson(share: float, n: int) -> tuple[float, float]:
    """95 % interval of a share observed in ``n`` independent trials (Wilson 1927)."""
    middle = share + Z95 * Z95 / (2 * n)
    half = Z95 * math.sqrt(share * (1 - share) / n + Z95 * Z95 / (4 * n * n))
    scale = 1 + Z95 * Z95 / n
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def calibration_error(probs: Real, labels: Labels, bins: int = 15) -> float:
    """Expected calibration error (Guo et al. 2017, eq. 3): equal-width bins (0, 1/bins], ... of the top probability."""
    confidence = probs.max(axis=1)
    right = probs.argmax(axis=1) == labels
    which = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gap = 0.0
    for b in range(bins):
        inside = which == b
        if inside.any():
            gap += float(inside.mean()) * abs(float(right[inside].mean()) - float(confidence[inside].mean()))
    return gap


def confusion(scores: Real, labels: Labels) -> npt.NDArray[np.int64]:
    """int64 [K, K]: row the true class, column the answer."""
    k = scores.shape[1]
    return np.bincount(labels * k + scores.argmax(axis=1), minlength=k * k).reshape(k, k).astype(np.int64)


def recall(scores: Real, labels: Labels) -> npt.NDArray[np.float64]:
    """float64 [K]; NaN for a class that does not occur."""
    table = confusion(scores, labels)
    total = table.sum(axis=1)
    return np.where(total > 0, table.diagonal() / np.maximum(total, 1), np.nan)


def agreement(a: Real, b: Real) -> float:
    """Share of rows on which two networks give the same top class."""
    return float((a.argmax(axis=1) == b.argmax(axis=1)).mean())


def confidence_at(probs: Real, coverage: float) -> float:
    """The top probability that the ``coverage`` most confident share of the rows reaches."""
    ordered = np.sort(probs.max(axis=1))[::-1]
    return float(ordered[_kept(len(ordered), coverage) - 1])


def selective_accuracy(probs: Real, labels: Labels, coverage: float) -> float:
    """Accuracy on the ``coverage`` most confident share (Geifman & El-Yaniv 2017); ties go to the earlier row."""
    order = np.argsort(-probs.max(axis=1), kind="stable")[: _kept(len(labels), coverage)]
    return accuracy(probs[order], labels[order])


def _kept(n: int, coverage: float) -> int:
    return max(1, round(n * coverage))


def negative_log_likelihood(logits: Real, labels: Labels, temperature: float) -> float:
    """Mean over the rows, nats."""
    z = logits.astype(np.float64) / temperature
    top = z.max(axis=1)
    log_sum = top + np.log(np.exp(z - top[:, None]).sum(axis=1))
    return float((log_sum - z[np.arange(len(labels)), labels]).mean())


def fit_temperature(
    logits: Real, labels: Labels, low: float = 0.05, high: float = 10.0, tolerance: float = 1e-4
) -> float:
    """The temperature of least negative log-likelihood (Guo et al. 2017), by golden-section search over its logarithm.

    The likelihood is convex in 1/temperature, hence unimodal here; where every row is right it only grows towards
    temperature 0, at which the network would be sure of everything: then 1.
    """
    if accuracy(logits, labels) == 1:
        return 1.0
    ratio = (math.sqrt(5) - 1) / 2
    a, b = math.log(low), math.log(high)

    def loss(x: float) -> float:
        return negative_log_likelihood(logits, labels, math.exp(x))

    c, d = b - ratio * (b - a), a + ratio * (b - a)
    at_c, at_d = loss(c), loss(d)
    while b - a > tolerance:
        if at_c < at_d:
            b, d, at_d = d, c, at_c
            c = b - ratio * (b - a)
            at_c = loss(c)
        else:
            a, c, at_c = c, d, at_d
            d = a + ratio * (b - a)
            at_d = loss(d)
    return math.exp((a + b) / 2)
