"""Everything the page is made of, read once: results, recipes without one, what the papers print."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from export import recipe as recipes
from export.errors import RecipeError
from export.report import files, outdated, published, seeds, singles
from export.report.document import Code, Strong, Text
from export.report.results import PixelFusion, Published, System
from export.report.seeds import Repeat
from export.report.singles import Standing

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

OURS = "ours"
BUDGET = 40
"""CPU minutes that every system has at reduced width, about; half of them where it begins with others"""


@dataclass(frozen=True)
class Plan:
    """What a recipe's file says to the report."""

    recipe: str
    paper: str
    title: str
    path: Path
    command: str
    """what trains it"""
    note: str = ""
    """why there are no figures, as the recipe says itself"""
    caveat: str = ""
    """what a reader of its figures must know of how it was made"""
    family: str = "early"
    role: str = "system"
    start: dict[str, str] = field(default_factory=dict)
    """part of the network -> recipe that it begins with"""
    teachers: tuple[str, ...] = ()
    soup: tuple[str, ...] = ()


@dataclass(frozen=True)
class Material:
    systems: list[System]
    recipes: dict[str, Plan]
    fusion: PixelFusion | None
    papers: dict[str, published.Paper]
    literature: tuple[published.Figure, ...]
    pictures: Path
    """folder of the report's figures"""
    bundles: frozenset[str] = frozenset()
    """recipes that were measured as a bundle, ``results/RECIPE.json``"""
    repeats: tuple[Repeat, ...] = ()
    """results of other seeds than the recipes' own, in the means of ``systems`` or not"""

    @property
    def used(self) -> set[str]:
        """Recipes that must have been trained, since results of others rest on them: parts and teachers, theirs in
        turn, and the generator that pixel fusion was measured with."""
        made = set(self.fusion.about.recipes if self.fusion else ())
        made |= {name for s in self.systems for name in s.training.starts_from}
        queue = [*made, *self.bundles]
        while queue:
            plan = self.recipes.get(queue.pop())
            further = {*plan.start.values(), *plan.soup, *plan.teachers} - made if plan else set()
            made |= further
            queue += further
        return made

    def remark(self, plan: Plan) -> Text:
        """Why a recipe has no row of figures."""
        if plan.recipe in self.bundles:
            return ("measured as a bundle: ", Code(f"export/results/{plan.recipe}.json"), " and its model card")
        if plan.note:
            return plan.note
        if plan.recipe in self.used:
            return "trained as a part of others, no accuracy of its own"
        return ("not trained yet: ", Code(plan.command))

    @property
    def pending(self) -> list[Plan]:
        """Recipes that have no result yet."""
        have = {s.recipe for s in self.systems if not s.on}
        return [p for name, p in self.recipes.items() if name not in have]

    def of(self, paper: str) -> list[System]:
        return [s for s in self.systems if s.paper == paper]

    def short(self, paper: str) -> str:
        """Authors and year."""
        return self.papers[paper].short if paper in self.papers else paper

    def pick(self, keep: Callable[[System], bool]) -> list[System]:
        return [s for s in self.systems if keep(s)]

    def result(self, recipe: str, variant: str, on: str = "") -> System | None:
        """on: another set than the recipe's own."""
        return next((s for s in self.systems if s.row == (recipe, variant, on)), None)

    def find(self, recipe: str, beside: System) -> System | None:
        """The result of a recipe on the set of another's, of the same variant where it has both."""
        of = [s for s in self.systems if (s.recipe, s.on) == (recipe, beside.on)]
        return self.result(recipe, beside.variant, beside.on) or next(iter(of), None)

    def command(self, recipe: str, variant: str, on: str = "") -> str:
        """What trains a recipe, or goes on with it."""
        plan = self.recipes.get(recipe)
        said = plan.command if plan else f"python -m export train export/recipes/{recipe}.toml"
        said += f" --data {on}" if on else ""
        return f"{said} --reduced --cpu-minutes {BUDGET}" if variant == "reduced" else said

    def differs(self, system: System) -> str | None:
        """How what was trained differs from the recipe of today, "" where it does not; None: nobody can tell.

        Raises RecipeError naming a broken recipe.
        """
        plan = self.recipes.get(system.recipe)
        if plan is None or system.trained is None:
            return None
        return outdated.changed(system.trained, recipes.read(plan.path, system.variant == "reduced", system.on))

    def caveats(self, names: Iterable[str]) -> list[Text]:
        """What the recipes themselves say of how they were made."""
        told = [p for name in names if (p := self.recipes.get(name)) and p.caveat]
        return [(Strong("Caveat: "), Code(p.recipe), f" {p.caveat}") for p in told]

    def standing(self, system: System) -> Standing:
        """A fused system beside its single modalities."""
        plan = self.recipes.get(system.recipe)
        return singles.standing(system, self.systems, plan.start if plan else {})

    def beside(self, recipe: str, own: tuple[Published, ...] = ()) -> list[Published]:
        """The published figures of a system: its own, else what the literature lists for its recipe."""
        if own:
            return list(own)
        return [
            Published(figure=f.value, what=f"{f.metric}, {f.dataset}", where=self._where(f, recipe), status=f.status,
                      reason=f.reason)
            for f in self.literature
            if recipe in f.recipes and f.metric.startswith(("accuracy", "average"))
        ]  # fmt: skip

    def _where(self, f: published.Figure, recipe: str) -> str:
        """With the paper's name where it is not the recipe's own."""
        plan = self.recipes.get(recipe)
        return f.where if plan is None or plan.paper == f.paper else f"{self.short(f.paper)}, {f.where}"

    def total_cpu(self, system: System) -> tuple[float, list[str]]:
        """CPU minutes of a recipe and of all it begins with, each once; and those of which nobody can tell."""
        spent: dict[str, float | None] = {system.recipe: system.training.cpu_minutes}
        queue = [system]
        while queue:
            one = queue.pop().training
            spent = {**one.parts, **spent}
            for name in one.starts_from:
                if name not in spent:
                    part = self.result(name, system.variant, system.on)
                    spent[name] = part.training.cpu_minutes if part else None
                    queue += [part] if part else []
        return sum(x for x in spent.values() if x is not None), [name for name, x in spent.items() if x is None]


def read(results_dir: Path, recipes_dir: Path, pictures: Path) -> Material:
    """Raises InputError naming a broken result, RecipeError naming a broken recipe."""
    systems, repeats = seeds.gathered(files.read_systems(results_dir / "systems"))
    fused = results_dir / "pixel-fusion.json"
    papers, literature = published.read()
    fusion = files.read_one(fused, PixelFusion) if fused.is_file() else None
    plans = [_plan(path) for path in sorted(recipes_dir.glob("*.toml"))]
    bundles = frozenset(p.recipe for p in plans if (results_dir / f"{p.recipe}.json").is_file())
    return Material(systems, {p.recipe: p for p in plans}, fusion, papers, literature, pictures, bundles, repeats)


def _plan(path: Path) -> Plan:
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

    def said(key: str, default: str = "") -> str:
        return str(raw.get(key, default)).strip()

    return Plan(
        recipe, paper, said("title", recipe), path, f"python -m export train {where}", said("note"), said("caveat"),
        said("family", "early"), said("role", "system"), dict(raw.get("start", {})),
        tuple(raw.get("distil", {}).get("teachers", ())), tuple(raw.get("soup", ())),
    )  # fmt: skip
