"""The golden check: the network's answers on this machine against those it was packed with. Pure."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgefer.bundle import GOLDEN, Bundle
from edgefer.errors import BundleError
from edgefer.types import AlignedPair, Scores


def golden_gap(infer: Callable[[AlignedPair], Scores], bundle: Bundle, runtime: str = "onnxruntime") -> float:
    """Largest difference of any probability over all golden vectors, from the answers of ``runtime``'s graph."""
    g, t = bundle.golden, bundle.manifest.temperature
    expected = g.expected(runtime)
    worst = 0.0
    for k in range(len(expected)):
        one = slice(k, k + 1)
        here = infer(AlignedPair(g.visible[one], g.infrared[one], g.present[one])).probabilities(t)
        gap = float(np.abs(here - Scores(expected[k]).probabilities(t)).max())
        worst = max(worst, gap if np.isfinite(gap) else np.inf)
    return worst


def check_golden(infer: Callable[[AlignedPair], Scores], bundle: Bundle, runtime: str = "onnxruntime") -> float:
    """Raises BundleError when the gap passes the manifest's tolerance; returns the gap."""
    gap = golden_gap(infer, bundle, runtime)
    limit = bundle.manifest.golden_tolerance
    if gap > limit:
        raise BundleError(
            f"{bundle.path / GOLDEN}: on this machine the network is off by {gap:.3f} in probability (limit {limit}); "
            "install a bundle whose graph is made for this processor"
        )
    return gap
