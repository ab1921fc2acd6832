"""Recipes are strict, and those that ship are read."""

from __future__ import annotations

from pathlib import Path

import pytest

from export import recipe
from export.errors import InputError, RecipeError


def test_every_shipped_recipe_is_valid() -> None:
    shipped = sorted(Path(recipe.__file__).parent.glob("recipes/*.toml"))
    assert shipped
    for path in shipped:
        plan = recipe.read(path)
        assert plan.name == path.stem
        assert recipe.read(path, reduced=True).data == plan.data


def test_an_unknown_key_is_named(recipe_file: Path) -> None:
    recipe_file.write_text("colour = 1\n" + recipe_file.read_text())
    with pytest.raises(RecipeError, match="'colour': unknown key"):
        recipe.read(recipe_file)


def test_a_missing_recipe_says_where_recipes_are(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="export/recipes"):
        recipe.read(tmp_path / "none.toml")


def test_broken_toml_is_one_line(recipe_file: Path) -> None:
    recipe_file.write_text("name = ")
    with pytest.raises(RecipeError, match="not valid TOML"):
        recipe.read(recipe_file)


def test_sizes_follow_the_plan() -> None:
    plan = recipe.Step(sizes=[(32, 2), (48, 1)], lr=0.1)
    assert [plan.size_at(k) for k in range(plan.epochs)] == [32, 32, 48]


def test_a_recipe_may_say_what_changes_on_another_set() -> None:
    path = Path(recipe.__file__).parent / "recipes" / "naseem2024-visible.toml"
    assert recipe.read(path).training.schedule == "plateau"
    assert recipe.read(path, data="nvie").training.schedule == "cosine"
    assert recipe.read(path, data="viri").training.schedule == "plateau"
