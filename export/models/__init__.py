"""Registry of the fusion networks: a recipe names one, tests walk it.

An entry builds (single-lens network of the first training step, fused network).
"""

from __future__ import annotations

from collections.abc import Callable

from export.errors import UsageError
from export.models.resnet import DualLens, SingleLens
from export.recipe import Model

Built = tuple[SingleLens, DualLens]


def _dual_resnet(m: Model, classes: int) -> Built:
    parts = (classes, tuple(m.widths), m.stem_stride, m.dropout)
    return SingleLens(*parts), DualLens(*parts)


REGISTRY: dict[str, Callable[[Model, int], Built]] = {"dual-resnet": _dual_resnet}


def build(model: Model, classes: int) -> Built:
    """Raises UsageError when the recipe names no registered network."""
    if model.name not in REGISTRY:
        raise UsageError(f"[model] name = {model.name!r}: unknown; one of {', '.join(sorted(REGISTRY))}")
    return REGISTRY[model.name](model, classes)
