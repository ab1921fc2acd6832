"""What the five papers print: ``published.toml``, read into one row per figure."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from export.errors import InputError
from export.report.results import Status

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE = Path(__file__).with_name("published.toml")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Paper(_Part):
    short: str
    """authors and year"""
    citation: str
    title: str
    systems: str
    """what of it is rebuilt here, in one line"""


class _Table(_Part):
    paper: str
    where: str
    dataset: str
    metrics: list[str]
    split: str
    """as the paper states it"""
    status: Status
    reason: str
    """key of [reasons]"""
    rows: list[tuple[str, list[float]]]
    """[system, one value per metric]"""
    recipes: dict[str, list[str]] = {}
    """system -> our recipes that stand beside it"""
    no_recipe: dict[str, str] = {}
    """system of the paper's own -> why it has none"""


class _File(_Part):
    papers: dict[str, Paper]
    reasons: dict[str, str]
    tables: list[_Table]


class Figure(_Part):
    """One published number."""

    paper: str
    system: str
    dataset: str
    metric: str
    value: float
    """as printed"""
    where: str
    split: str
    status: Status
    reason: str
    recipes: tuple[str, ...]
    no_recipe: str = ""
    """why a system of the paper's own has none"""


@cache
def read(path: Path = FILE) -> tuple[dict[str, Paper], tuple[Figure, ...]]:
    """Papers by key, in the order of the file, and every figure. Raises InputError of one line when it is wrong."""
    try:
        file = _File.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, tomllib.TOMLDecodeError) as e:
        raise InputError(f"{path}: {e}") from None
    except ValidationError as e:
        first = e.errors(include_url=False)[0]
        raise InputError(f"{path}: '{'.'.join(map(str, first['loc']))}': {first['msg']}") from None
    return file.papers, tuple(f for table in file.tables for f in _figures(table, file, path))


def _figures(table: _Table, file: _File, path: Path) -> list[Figure]:
    if table.paper not in file.papers or table.reason not in file.reasons:
        raise InputError(f"{path}: {table.paper} {table.where}: unknown paper or reason {table.reason!r}")
    unknown = {*table.recipes, *table.no_recipe} - {name for name, _ in table.rows}
    unknown |= set(table.recipes) & set(table.no_recipe)
    if unknown or any(len(values) != len(table.metrics) for _, values in table.rows):
        raise InputError(f"{path}: {table.paper} {table.where}: rows do not fit metrics or recipes {sorted(unknown)}")
    shared = table.model_dump(include={"paper", "dataset", "where", "split", "status"})
    reason = file.reasons[table.reason]
    return [
        Figure(system=system, metric=metric, value=value, reason=reason,
               recipes=tuple(table.recipes.get(system, ())), no_recipe=table.no_recipe.get(system, ""), **shared)
        for system, values in table.rows
        for metric, value in zip(table.metrics, values, strict=True)
    ]  # fmt: skip


def beside(recipe: str, path: Path = FILE) -> list[Figure]:
    """The figures that name ``recipe``."""
    return [f for f in read(path)[1] if recipe in f.recipes]
