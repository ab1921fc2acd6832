"""The report says the same in both renderings, escapes what it is given, and names what is broken or missing."""

from __future__ import annotations

import html
import json
import re
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib", reason="the report's figures")
from report_samples import estimate, mode, system

from export.errors import InputError, RecipeError
from export.report import (
    as_html,
    as_markdown,
    benches,
    cells,
    files,
    material,
    published,
    results,
    sections,
    write_report,
)
from export.report.document import Code, Document, Heading, Items, Paragraph, Strong, Table
from export.report.results import AboutFusion, Fold, PixelFusion

NASTY = 'a|b <script>alert("x")</script> *c* _d_ `e` & [f](g) \\ $h$'


class Reader(HTMLParser):
    """What a browser would show: text by table cell, tags that were opened, and where they point."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.inside = False
        self.tags: set[str] = set()
        self.sources: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.sources += [v or "" for k, v in attrs if k in ("src", "href")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.inside = True

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.rows[-1][-1] += data


def _markdown_rows(text: str) -> list[list[str]]:
    """Table rows as GitHub would split them, without escapes and code marks."""
    rows = [line.strip()[2:-2] for line in text.splitlines() if line.startswith("| ")]
    cells = [re.split(r"(?<!\\) \| ", row) for row in rows]
    plain = [[html.unescape(re.sub(r"\\(.)", r"\1", c)).replace("`", "").replace("**", "") for c in r] for r in cells]
    return [r for r in plain if not set("".join(r)) <= set("-: ")]


def make_world(tmp_path: Path) -> Path:
    """A results folder and a recipes folder with two trained recipes of the three, and pixel fusion."""
    folder = tmp_path / "results" / "systems"
    files.write(system(), folder)
    early = system(
        "naseem2024-early", paper="naseem2024", title="Early fusion", family="early", modes={"both": mode(0.7)},
        lenses=("visible", "infrared"), simulated="the infrared lens",
        darkness=[{"gain": 1.0, "accuracy": 0.66}, {"gain": 0.1, "accuracy": 0.44}],
    )  # fmt: skip
    files.write(early, folder)
    files.write(_variant("naseem2024-early-1step", "1-step training", estimate(0.6)), folder)
    (tmp_path / "results" / "pixel-fusion.json").write_text(json.dumps({
        "methods": {"average": {"EN": 6.5, "SSIM": 0.7}, "WGAN": {"EN": 6.9, "SSIM": 0.75}},
        "about": {"pairs": 75, "command": "python -m export fuse", "seen": "day",
                  "recipes": ["zou2021-generator"]},
    }))  # fmt: skip
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "waiting.toml").write_text('name = "zou2021-waiting"\n')
    (tmp_path / "recipes" / "part.toml").write_text('name = "zou2021-generator"\n')
    (tmp_path / "recipes" / "done.toml").write_text('name = "zou2021-pyconv"\n')
    return tmp_path


@pytest.fixture
def world(tmp_path: Path) -> Path:
    return make_world(tmp_path)


@dataclass(frozen=True)
class Page:
    folder: Path
    markdown: str
    html: str

    @property
    def rows(self) -> list[list[str]]:
        return Reader(self.html).rows


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The page of :func:`make_world`, drawn once for all who only read it."""
    root = make_world(tmp_path_factory.mktemp("world"))
    return Page(root / "out", *_write(root))


def _variant(recipe: str, change: str, accuracy: dict[str, Any]) -> results.System:
    return system(
        recipe, paper="naseem2024", family="early", role="ablation", compares_with="naseem2024-early", change=change,
        modes={"both": {**mode(), "accuracy": accuracy}},
    )  # fmt: skip


def _write(world: Path) -> tuple[str, str]:
    page = write_report(world / "results", world / "recipes", world / "out", lambda line: None)
    return (world / "out" / "report.md").read_text(), page.read_text()


def test_every_table_row_is_in_both_renderings(page: Page) -> None:
    rows = page.rows
    assert rows == _markdown_rows(page.markdown)
    assert [r for r in rows if "a processor" in r][-1][:3] == ["zou2021-pyconv", "1", "ab" * 8]
    assert any(
        [r[2], *r[5:8]] == ["66.4 [64.4, 68.4]", "61.0 [59.0, 63.0]", "59.0 [57.0, 61.0]", "60.0 [58.0, 62.0]"]
        for r in rows
    )


def test_the_page_needs_nothing_beside_it(page: Page) -> None:
    seen = Reader(page.html)
    assert not seen.tags & {"script", "link", "iframe", "object"}
    assert all(s.startswith(("data:image/png;base64,", "#")) for s in seen.sources)
    assert "@import" not in page.html
    assert "url(" not in page.html


def test_every_picture_the_markdown_names_is_there(page: Page) -> None:
    named = re.findall(r"\]\(<(.+?)>\)", page.markdown)
    assert "figures/darkness-1.png" in named
    assert "figures/pixel-fusion.png" in named
    assert all((page.folder / name).is_file() for name in named)


def test_a_recipe_without_a_result_has_a_row_with_its_command(page: Page) -> None:
    waiting = [r for r in page.rows if "not trained yet: " in "".join(r)]
    assert len(waiting) == 1
    assert waiting[0][0] == "zou2021-waiting zou2021-waiting"
    assert waiting[0][2].startswith("not trained yet: python -m export train ")
    assert waiting[0][2].endswith("recipes/waiting.toml")
    assert str(page.folder.parent) not in page.html + page.markdown


def test_a_recipe_that_cannot_run_here_says_so_itself(world: Path) -> None:
    note = "its backbone comes from a package that is not here"
    (world / "recipes" / "naseem2024-early-vm-vgg16.toml").write_text(
        f'name = "naseem2024-early-vm-vgg16"\npaper = "naseem2024"\nrole = "comparison"\nnote = "{note}"\n'
    )
    text, _ = _write(world)
    assert note in text
    assert "recipes/naseem2024-early-vm-vgg16.toml" not in text


def test_systems_on_equal_folds_are_told_apart_by_friedmans_test() -> None:
    def folds(*shares: float, images: int = 50) -> tuple[Fold, ...]:
        return tuple(Fold(name=f"fold-{k}", images=images, accuracy=x) for k, x in enumerate(shares))

    better = system("one", dataset="CK+", folds=folds(0.9, 0.91, 0.92, 0.93))
    worse = system("two", dataset="CK+", folds=folds(0.8, 0.81, 0.82, 0.83))
    other = system("three", dataset="CK+", folds=folds(0.8, 0.81))
    frames = system("four", dataset="CK+", folds=folds(0.7, 0.71, 0.72, 0.73, images=150))
    (line,) = benches.friedman_tests([better, worse, other, frames])
    assert "chi-square 4.00, p 0.046 (one, two)" in str(line)


def test_a_part_of_others_is_not_called_untrained(page: Page) -> None:
    row = next(r for r in page.rows if r[0] == "zou2021-generator zou2021-generator")
    assert row[2] == "trained as a part of others, no accuracy of its own"
    assert "Results: 3. Recipes not trained yet: 1." in page.html


def test_what_a_bundle_or_a_result_rests_on_is_not_called_untrained(world: Path) -> None:
    """Through parts and teachers in turn; the bundle itself has figures elsewhere."""
    (world / "results" / "ships.json").write_text("{}")
    rests = {
        "ships": '[start]\n"" = "branch"\n', "branch": '[distil]\nteachers = ["teacher"]\n',
        "teacher": '[start]\n"" = "first"\n', "first": "", "nobody": "",
    }  # fmt: skip
    for name, text in rests.items():
        (world / "recipes" / f"{name}.toml").write_text(f'name = "{name}"\n{text}')
    markdown, _ = _write(world)
    remark = {r[0].split()[0]: r[2] for r in _markdown_rows(markdown) if len(r) == 12}
    assert remark["ships"] == "measured as a bundle: export/results/ships.json and its model card"
    assert {remark[name] for name in ("branch", "teacher", "first")} == {
        "trained as a part of others, no accuracy of its own"
    }
    assert remark["nobody"].startswith("not trained yet: ")
    assert "Recipes not trained yet: 2." in markdown


def test_an_ablation_stands_beside_its_recipe(page: Page) -> None:
    row = next(r for r in page.rows if r[:2] == ["naseem2024-early-1step", "1-step training"])
    assert row[3:8] == ["60.0 [58.0, 62.0]", "naseem2024-early", "70.0 [68.0, 72.0]", "−10.0", "yes"]


def test_a_fusion_stands_beside_the_singles_it_is_made_of_in_every_light(world: Path) -> None:
    """Not beside another paper's better network; MSX is a single; a modality without a result is named."""
    folder = world / "results" / "systems"
    light = [{"gain": 1.0, "accuracy": 0.5}, {"gain": 0.1, "accuracy": 0.45}]
    for name, family in (("naseem2024-eye", "visible"), ("naseem2024-blend", "msx")):
        files.write(system(name, paper="naseem2024", family=family, darkness=light), folder)
    (world / "recipes" / "early.toml").write_text(
        'name = "naseem2024-early"\n[start]\n"branches.visible" = "naseem2024-eye"\n'
        '"branches.infrared" = "naseem2024-heat"\n"branches.msx" = "naseem2024-blend"\n'
    )
    markdown, _ = _write(world)
    rows = [r for r in _markdown_rows(markdown) if r[:2] == ["early", "naseem2024-early"]]
    assert rows[-1] == [
        "early", "naseem2024-early", "naseem2024-eye, naseem2024-blend (no result of infrared)", "+16.0", "−1.0",
    ]  # fmt: skip
    assert "**−1.0**" in markdown


def test_the_best_fusion_figure_is_bold(page: Page) -> None:
    assert '<td>WGAN</td><td class="number"><strong>6.900</strong></td>' in page.html
    assert '<td class="number">6.500</td>' in page.html


def test_claims_and_what_cannot_be_reproduced_are_told(page: Page) -> None:
    for text in (page.markdown, page.html):
        assert "97.76" in text
        assert "VIRI (566 pairs" in text
    claims = page.html.split("Claims that cannot be true under an honest split</h2>")[1].split("<h2")[0]
    assert "97.76" in claims
    assert "69.3" not in claims


def test_a_recipe_measured_at_both_sizes_has_both_rows(world: Path) -> None:
    small = system(variant="reduced", modes={"visible": mode(0.6)})
    assert files.write(small, world / "results" / "systems").name == "zou2021-pyconv-reduced.json"
    m = material.read(world / "results", world / "recipes", world)
    assert [m.find("zou2021-pyconv", s) for s in (system(), small)] == [system(), small]
    assert [m.find("naseem2024-early", s) is None for s in (system(), small)] == [False, False]
    assert m.find("zou2021-pyconv", system(on="viri")) is None  # nothing of that set to stand beside


def test_what_is_measured_small_only_is_told_how_to_go_on(world: Path) -> None:
    (world / "results" / "systems" / "zou2021-pyconv.json").unlink()
    files.write(system(variant="reduced"), world / "results" / "systems")
    blocks = sections.provenance(material.read(world / "results", world / "recipes", world))
    assert [line.text.endswith("recipes/done.toml") for line in blocks[-1].lines] == [True]


def test_an_empty_checkout_still_makes_a_page(tmp_path: Path) -> None:
    page = write_report(tmp_path / "none", tmp_path / "none", tmp_path / "out", lambda line: None).read_text()
    assert "Results: 0. Recipes not trained yet: 0." in page
    assert "No recipe of this paper yet." in page


def test_what_is_given_cannot_become_markup(tmp_path: Path) -> None:
    rows = (((NASTY, Code(NASTY), Strong(NASTY)), "1. no list"),)
    document = Document(NASTY, [Heading(2, NASTY), Paragraph("- no list"), Items((NASTY,)), Table((NASTY, "n"), rows)])
    seen = Reader(as_html.render(document))
    assert "script" not in seen.tags
    assert seen.rows == [[NASTY, "n"], [NASTY * 3, "1. no list"]]
    text = as_markdown.render(document, tmp_path)
    assert "\n\\- no list" in text
    assert [len(r) for r in _markdown_rows(text)] == [2, 2]


def test_no_special_character_of_markdown_is_left_bare() -> None:
    left = re.sub(r"\\.", "", as_markdown.escape(NASTY))
    assert not set("|<>*_`[]$\\") & set(left)
    assert "&amp;" in left


def test_code_with_back_ticks_and_bars_stays_code(tmp_path: Path) -> None:
    text = as_markdown.render(Document("t", [Paragraph(("run ", Code("a `b` | c")))]), tmp_path)
    assert "run ``a `b` \\| c``" in text


def test_a_row_with_a_cell_too_few_is_refused() -> None:
    with pytest.raises(ValueError, match="2 cells"):
        Table(("a", "b"), (("only",),))


def _broken(world: Path, change: Any) -> Path:
    path = world / "results" / "systems" / "zou2021-pyconv.json"
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))
    return path


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda raw: raw.pop("macs"), "'macs': Field required"),
        (lambda raw: raw.update(acuracy=1), "'acuracy': unknown key"),
        (lambda raw: raw["modes"]["visible"]["accuracy"].update(value=66.4), "'modes.visible.accuracy.value'"),
        (lambda raw: raw["modes"]["visible"].update(confusion=[[1]]), "confusion must be 3 x 3"),
        (lambda raw: raw.update(seed="1"), "'seed': Input should be a valid integer"),
    ],
)
def test_a_broken_result_is_one_line_that_names_it(world: Path, change: Any, said: str) -> None:
    path = _broken(world, change)
    with pytest.raises(InputError) as caught:
        _write(world)
    line = str(caught.value)
    assert str(path) in line
    assert said in line
    assert "\n" not in line


def test_a_result_that_is_no_json_and_one_told_twice_are_refused(world: Path) -> None:
    path = world / "results" / "systems" / "more.json"
    path.write_text("{")
    with pytest.raises(InputError, match=r"more\.json: 'file': Invalid JSON"):
        _write(world)
    path.write_text(files.write(system(), world / "elsewhere").read_text())
    with pytest.raises(InputError, match="a second result of zou2021-pyconv"):
        _write(world)


def test_a_broken_recipe_is_named(world: Path) -> None:
    (world / "recipes" / "bad.toml").write_text("name = ")
    with pytest.raises(RecipeError, match=r"bad\.toml: not a recipe"):
        _write(world)


def test_a_result_survives_its_file(tmp_path: Path) -> None:
    one = system()
    path = files.write(one, tmp_path)
    assert files.read_systems(tmp_path) == [one]
    assert "[ 60, 20, 20 ]" in path.read_text()


def test_fusion_methods_must_share_their_metrics() -> None:
    with pytest.raises(ValueError, match="same metrics"):
        PixelFusion(methods={"a": {"EN": 1.0}, "b": {"SD": 1.0}}, about=AboutFusion(pairs=1, command="c"))


def test_the_cost_of_a_recipe_includes_what_it_begins_with(world: Path) -> None:
    """From the parts' own results, or as noted; what nobody can tell is named, and a part of another width is none."""

    def add(recipe: str, **changes: Any) -> None:
        variant = changes.pop("variant", "full")
        plan = system().training.model_dump() | {"starts_from": ("zou2021-pyconv",), **changes}
        files.write(system(recipe, training=plan, variant=variant), world / "results" / "systems")

    add("next")
    add("lost", starts_from=("gone", "next"))
    add("told", starts_from=("next", "gone"), parts={"next": 1.0, "zou2021-pyconv": 2.0, "gone": 4.0})
    add("small", variant="reduced")
    add("foreign", starts_from=("net.pth",), parts={"net.pth": None})
    m = material.read(world / "results", world / "recipes", world)
    cost = {s.recipe: cells.total(*m.total_cpu(s)) for s in m.systems}
    assert cost["next"] == "79.0"
    assert cost["lost"] == "118.5 and that of gone"
    assert cost["told"] == "46.5"
    assert cost["small"] == "39.5 and that of zou2021-pyconv"
    assert cost["foreign"] == "39.5 and that of net.pth"


def test_published_figures_are_beside_the_recipes_they_name(tmp_path: Path) -> None:
    text = published.FILE.read_text()
    path = tmp_path / "published.toml"
    path.write_text(text.replace('["zou2021-pyconv"]', '["zou2021-pyconv", "mine"]'))
    found = published.beside("mine", path)
    assert [(f.value, f.status, f.where) for f in found if f.dataset == "FER2013"] == [
        (69.3, "same protocol", "Table 1")
    ]
    path.write_text(text.replace('reason = "fer-official"', 'reason = "none"'))
    published.read.cache_clear()
    with pytest.raises(InputError, match="unknown paper or reason 'none'"):
        published.read(path)


def test_a_figure_without_a_recipe_says_why_and_one_of_another_paper_says_whose(world: Path) -> None:
    (world / "recipes" / "eye.toml").write_text('name = "naseem2024-visible"\n')
    markdown, _ = _write(world)
    rows = _markdown_rows(markdown)
    why = "the paper does not say what the BiLSTM reads in its place"
    ablations = [r for r in rows if r[0] == "Singh et al. 2025, no feature extraction"]
    assert [(r[1], r[2], r[5]) for r in ablations] == [
        ("FER2013", "accuracy 61.2", why), ("CK+", "accuracy 73.5", why)
    ]  # fmt: skip
    assert [r[6] for r in rows if r[0] == "no feature extraction"] == [f"none: {why}"] * 2
    assert [r[6] for r in rows if r[:2] == ["CNN-SVM", "FER2013"]] == ["–"]
    (waiting,) = (r for r in rows if r[0] == "naseem2024-visible naseem2024-visible")
    assert "81.11 accuracy, VIRI (Table 3, Fig. 8 and 9)" in waiting[3]
    assert "81.11 accuracy, VIRI (Naseem et al. 2025, Table 1 (ablation))" in waiting[3]


@pytest.mark.parametrize("wrong", ['"nonesuch" = "why"', '"complete network" = "why"'])
def test_a_reason_for_a_recipe_that_is_there_or_for_no_system_is_refused(tmp_path: Path, wrong: str) -> None:
    text, end = published.FILE.read_text(), 'reads in its place" }'
    assert end in text
    (tmp_path / "published.toml").write_text(text.replace(end, f"{end[:-2]}, {wrong} }}"))
    with pytest.raises(InputError, match="singh2025 Table 1: rows do not fit"):
        published.read(tmp_path / "published.toml")


def test_every_system_of_a_paper_has_its_recipe_or_the_reason() -> None:
    """What was asked for by name: no ablation or early fusion of a paper is listed without either."""
    asked = ("no feature", "no attention", "no reconstruction", "without attention", "early fusion", "late fusion")
    own = [f for f in published.read()[1] if f.system.startswith(asked)]
    assert len(own) > 20
    assert [f.system for f in own if not f.recipes and not f.no_recipe] == []


def test_the_papers_figures_are_all_there() -> None:
    papers, figures = published.read()
    assert len(papers) == 5
    assert {f.paper for f in figures} == set(papers)
    by_status = {s: {f.dataset.split(",")[0] for f in figures if f.status == s} for s in ("claim", "same protocol")}
    assert by_status == {"claim": {"FER2013", "FER"}, "same protocol": {"FER2013"}}
