"""The report: every section in reading order, written as Markdown with pictures beside it and as one HTML file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from export.errors import UsageError
from export.report import as_html, as_markdown, benches, literature, material, sections
from export.report.document import Block, Code, Document, Heading, Image, Paragraph, Strong
from export.report.material import Material
from export.report.results import System

if TYPE_CHECKING:  # the readers need OpenCV, the page alone does not
    from edgefer.bundle import Bundle
    from export.data.faces import Faces

TITLE = "EdgeFER: the systems of five papers, trained and compared"
Networks = Callable[[System], "tuple[object, Faces] | None"]
"""result -> its trained Network and faces it was not trained on; None where there are no weights or no faces"""
Say = Callable[[str], None]
_INTRO = (
    "Every figure of ours is read from result files that the training and scoring commands wrote; none is typed in. "
    "Published figures are as the papers print them. Write this page again with "
)


def write_report(
    results_dir: Path,
    recipes_dir: Path,
    out: Path,
    say: Say,
    faces: Faces | None = None,
    networks: Networks | None = None,
    bundle: Bundle | None = None,
) -> Path:
    """Write ``out/report.md``, ``out/report.html`` and ``out/figures/``; returns the HTML file.

    ``results_dir`` holds ``systems/NAME.json`` and ``pixel-fusion.json``, ``recipes_dir`` one TOML per recipe. With
    ``networks`` the page also has class activation maps of real faces, with ``faces`` (test rows of FER2013) and
    ``bundle`` the bundle's surest mistakes: keep ``out`` out of version control.

    Raises InputError or RecipeError of one line naming the file that is broken.
    """
    out.mkdir(parents=True, exist_ok=True)
    m = material.read(results_dir, recipes_dir, out / "figures")
    say(f"report: {len(m.systems)} results, {len(m.pending)} recipes without one")
    page = compose(m, activation_maps(m, networks, say), mistakes(m, faces, bundle, say))
    (out / "report.md").write_text(as_markdown.render(page, out), encoding="utf-8")
    target = out / "report.html"
    target.write_text(as_html.render(page), encoding="utf-8")
    say(f"report: {target}")
    return target


def compose(m: Material, maps: list[Block], wrong: list[Block]) -> Document:
    """The page in reading order."""
    page = Document(TITLE, [Paragraph((_INTRO, Code("python -m export report"), "."))])
    page.add(*sections.overview(m), *sections.verdicts(m), *sections.papers(m))
    for section in (benches.ablations, benches.backbones, benches.light, benches.pixel, benches.thermal):
        page.add(*section(m))
    page.add(*benches.sequences(m), Heading(2, "Class activation maps"), *maps)
    page.add(Heading(2, "Where the bundle is wrong and sure"), *wrong)
    page.add(*literature.not_reproducible(m), *literature.claims(m), *literature.everything(m))
    page.add(*sections.provenance(m))
    return page


def activation_maps(m: Material, networks: Networks | None, say: Say) -> list[Block]:
    """One montage per trained system whose weights and test faces are at hand."""
    if networks is None:
        return [Paragraph(_NO_MAPS)]
    from export.report import cam  # needs torch, the rest of the report does not

    blocks: list[Block] = []
    for s in m.systems:
        network, faces = networks(s) or (None, None)
        if isinstance(network, cam.Network) and faces is not None and s.labels == faces.classes:
            say(f"activation maps: {s.key}")
            blocks += [Heading(3, f"Where {s.key} looks"), _looks(m, s, cam.montage, network, faces)]
    return [Paragraph(_MAPS), *blocks] if blocks else [Paragraph(_NO_MAPS)]


def mistakes(m: Material, faces: Faces | None, bundle: Bundle | None, say: Say) -> list[Block]:
    """The surest wrong answers of the bundle that ships, by true class."""
    if faces is None or bundle is None or faces.images.shape[1] != bundle.manifest.crop.size:
        return [Paragraph("Not drawn: they need the test faces (EDGEFER_DATA) and a bundle for crops of their size.")]
    from export.report import failures  # needs OpenCV and a runtime, the rest of the report does not

    logits = failures.answers(bundle, faces, 1, say)
    found = failures.surest(logits, faces.labels, bundle.manifest.temperature)
    path = failures.montage(found, faces, m.pictures / "mistakes.png")
    alt = f"Faces that {bundle.title} gets wrong, by true class"
    return [Paragraph(_WRONG), Image(path, alt, f"{bundle.title}; rows: true class; above each face: what it said")]


_WRONG = (
    "The surest mistakes on PrivateTest, infrared simulated. Many of the labels are themselves in doubt; the rest "
    "shows what the network confuses. The faces are the data publisher's: do not pass them on."
)


def _looks(m: Material, s: System, draw: Callable[..., Path], network: object, faces: Faces) -> Block:
    """The montage, or why there is none: one system without a map does not cost the others their page."""
    try:
        path = draw(network, faces, m.pictures / f"{s.key}-cam.png", seed=s.seed)
    except UsageError as e:
        return Paragraph(f"Not drawn: {e}.")
    note = (Strong("Simulated: "), f"{s.simulated}.") if s.simulated else ""
    return Image(path, f"Where {s.key} looks, one correctly classified face per class", note)


_MAPS = (
    "Gradient-weighted maps (Selvaraju et al. 2017) at the last map in space of each modality's branch, as coarse as "
    "that is, for one correctly classified test face per class (where people are held out in turn, of the first fold; "
    "a network of sequences sees one frame all the time). MSX is shown as the network derives it. Red: speaks for the "
    "class. The faces are the data publisher's: do not pass them on."
)
_NO_MAPS = "Not drawn: they need the test faces (EDGEFER_DATA) and the trained weights (runs/)."
