"""Registry of the networks: a recipe names one, tests walk it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from export.errors import RecipeError, UsageError
from export.models import jayaraman, naseem, pixel, pyconv, resnet, shared, singh
from export.models.network import Network
from export.recipe import Model

Kind = TypeVar("Kind", bound=BaseModel)


@dataclass(frozen=True)
class Entry:
    """make(options, classes) builds the network with random weights."""

    make: type[Any]
    options: type[BaseModel]


REGISTRY: dict[str, Entry] = {
    "dual-resnet": Entry(resnet.DualResNet, resnet.Options),
    "shared-trunk": Entry(shared.SharedTrunk, shared.Options),
    "single": Entry(naseem.SingleModality, naseem.SingleOptions),
    "early-fusion": Entry(naseem.EarlyFusion, naseem.FusionOptions),
    "late-fusion": Entry(naseem.LateFusion, naseem.FusionOptions),
    "jayaraman": Entry(jayaraman.Jayaraman, jayaraman.Options),
    "singh": Entry(singh.Singh, singh.Options),
    "pixel-fusion": Entry(pixel.PixelFusion, pixel.Options),
    "pyconv-se18": Entry(pyconv.PyConvSE18, pyconv.Options),
    "pair-fusion": Entry(naseem.PairFusion, naseem.PairOptions),
}


def entry(model: Model) -> Entry:
    """Raises UsageError when the recipe names no registered network."""
    if model.name not in REGISTRY:
        raise UsageError(f"[model] name = {model.name!r}: unknown; one of {', '.join(sorted(REGISTRY))}")
    return REGISTRY[model.name]


def build(model: Model, classes: int) -> Network:
    """Raises UsageError when the recipe names no registered network, RecipeError when an option is wrong."""
    kind = entry(model)
    network: Network = kind.make(options(model, kind.options), classes)
    return network


def options(model: Model, kind: type[Kind]) -> Kind:
    """The options that the recipe gives, checked. Raises RecipeError naming the wrong one and those there are."""
    try:
        return kind.model_validate(model.options)
    except ValidationError as e:
        first = e.errors(include_url=False)[0]
        known = f"unknown option; {model.name} has {', '.join(kind.model_fields)}"
        said = known if first["type"] == "extra_forbidden" else first["msg"]
        raise RecipeError(f"recipe: 'model.{'.'.join(map(str, first['loc']))}': {said}") from None
