"""Everything the page is made of, read once: results, recipes without one, what the papers print."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from export.errors import RecipeError
from export.report import published, results
from export.report.document import Code, Text
from export.report.results import PixelFusion, Published, System

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

OURS = "ours"


@dataclass(frozen=True)
class Pending:
    """A recipe that has no result yet."""

    recipe: str
    paper: str
    title: str
    command: str

    @property
    def remark(self) -> Text:
        return ("not trained yet: ", Code(self.command))


@dataclass(frozen=True)
class Material:
    systems: list[System]
    pending: list[Pending]
    fusion: PixelFusion | None
    papers: dict[str, published.Paper]
    literature: tuple[published.Figure, ...]
    pictures: Path
    """folder of the report's figures"""
    by_name: dict[str, System] = field(default_factory=dict)

    def of(self, paper: str) -> list[System]:
        return [s for s in self.systems if s.paper == paper]

    def pick(self, keep: Callable[[System], bool]) -> list[System]:
        return [s for s in self.systems if keep(s)]

    def beside(self, system: System) -> list[Published]:
        """The published figures of a system: its own, else what the literature lists for its recipe."""
        if system.published:
            return list(system.published)
        return [
            Published(figure=f.value, what=f"{f.metric}, {f.dataset}", where=f.where, status=f.status, reason=f.reason)
            for f in self.literature
            if system.recipe in f.recipes and f.metric.startswith("accuracy")
        ]

    def total_cpu(self, recipe: str) -> float | None:
        """CPU minutes of a recipe and of all it begins with; None when one of them has no result."""
        needed, queue = set[str](), [recipe]
        while queue:
            name = queue.pop()
            if name not in self.by_name:
                return None
            if name not in needed:
                needed.add(name)
                queue += self.by_name[name].training.starts_from
        return sum(self.by_name[n].training.cpu_minutes for n in needed)


def read(results_dir: Path, recipes_dir: Path, pictures: Path) -> Material:
    """Raises InputError naming a broken result, RecipeError naming a broken recipe."""
    systems = results.read_systems(results_dir / "systems")
    fused = results_dir / "pixel-fusion.json"
    papers, literature = published.read()
    have = {s.recipe: s for s in systems}
    waiting = [p for p in map(_pending, sorted(recipes_dir.glob("*.toml"))) if p.recipe not in have]
    fusion = results.read_one(fused, PixelFusion) if fused.is_file() else None
    return Material(systems, waiting, fusion, papers, literature, pictures, have)


def _pending(path: Path) -> Pending:
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise RecipeError(f"{path}: not a recipe: {' '.join(str(e).split())}") from None
    recipe = raw.get("name", path.stem)
    if not isinstance(recipe, str):
        raise RecipeError(f"{path}: 'name': must be text")
    paper = raw.get("paper") or recipe.split("-")[0]
    paper = paper if paper in published.read()[0] else OURS
    # The last folders are enough to type, and say nothing of the machine the report was made on.
    where = Path(*path.parts[-3:]).as_posix()
    return Pending(recipe, paper, str(raw.get("title", recipe)), f"python -m export train {where}")
