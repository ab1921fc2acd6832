"""Whether a result is of what its recipe says today. Pure: what was trained and the recipe in, one line out."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from export.recipe import Recipe
from export.report.results import Trained

PARTS = {
    "augment": "other views", "training": "another schedule", "model": "another network", "start": "other beginnings",
    "soup": "another soup", "distil": "other teachers", "crop": "another crop",
}  # fmt: skip
"""part of a recipe -> how the line says that it has changed since"""


def changed(then: Trained, today: Recipe) -> str:
    """Such as "with other views than the recipe's of today"; "" where nothing that makes a result has changed."""
    said = _differing(then, today.model_dump(mode="json"))
    return f"with {said} than the recipe's of today" if said else ""


def apart(one: Trained, other: Trained) -> str:
    """Such as "other views", what ``one`` was trained with beside ``other``; "" where they make the same result."""
    parts = {"name": "", **other.model_dump(mode="json", include=set(PARTS))}
    return _differing(one, _as_read_today(parts))


def _differing(then: Trained, now: dict[str, Any]) -> str:
    was = _as_read_today({**now, **then.model_dump(mode="json", include=set(PARTS))})
    return " and ".join(word for part, word in PARTS.items() if was.get(part) != now.get(part))


def _as_read_today(recipe: dict[str, Any]) -> dict[str, Any]:
    """With the keys that have been added since, at their defaults; as it is where one of its keys is gone."""
    try:
        return Recipe.model_validate(recipe).model_dump(mode="json")
    except ValidationError:
        return recipe
