"""A :class:`Document` as one HTML file: pictures inside it, no script, nothing fetched, readable on a phone."""

from __future__ import annotations

import base64
import html
import re

from export.report.document import (
    Block,
    Code,
    Document,
    Gallery,
    Heading,
    Image,
    Inline,
    Items,
    Paragraph,
    Strong,
    Table,
    Text,
    parts,
)

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --faint: #59636e; --line: #d1d9e0; --back: #fff; --band: #f6f8fa; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --faint: #9aa4af; --line: #3d444d; --back: #14181d; --band: #1c2128; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 76rem; color: var(--ink); background: var(--back);
  font: 16px/1.55 system-ui, "Segoe UI", Roboto, "Liberation Sans", sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.7rem; line-height: 1.25; } h2 { margin-top: 2.6rem; padding-top: .6rem;
  border-top: 1px solid var(--line); font-size: 1.35rem; } h3 { margin-top: 1.8rem; font-size: 1.08rem; }
p, li { max-width: 46rem; } nav ul { columns: 17rem; padding-left: 1.1rem; } nav li { break-inside: avoid; }
a { color: inherit; } code { font-size: .88em; background: var(--band); padding: .1em .3em; border-radius: 4px; }
.wide { overflow-x: auto; margin: 1rem 0; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; font-size: .86rem; line-height: 1.4; width: 100%; }
caption, figcaption { text-align: left; color: var(--faint); font-size: .86rem; }
caption { padding: .5rem .6rem; }
th, td { padding: .4rem .6rem; text-align: left; vertical-align: top; border-top: 1px solid var(--line); }
td { min-width: 4.5rem; } th { background: var(--band); vertical-align: bottom; }
tr > :first-child { position: sticky; left: 0; min-width: 8.5rem; background: var(--back); }
th:first-child { background: var(--band); } td.text { min-width: 13rem; }
.number { text-align: right; font-variant-numeric: tabular-nums; } td.number { white-space: nowrap; }
.gallery { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; margin: 1.2rem 0; }
.gallery figure { flex: 1 1 20rem; max-width: 26rem; margin: 0; }
figure { margin: 1.2rem 0; } figcaption { padding-top: .4rem; max-width: 46rem; }
img { max-width: 100%; height: auto; background: #fff; border-radius: 4px; }
"""
_LONG = 40
"""characters from which a cell is given room"""


def render(document: Document) -> str:
    """Raises OSError when a picture cannot be read."""
    title, anchors = html.escape(document.title), _anchors(document)
    body = "\n".join(_block(b, anchors) for b in document.blocks)
    contents = "".join(f'<li><a href="#{anchors[s]}">{html.escape(s)}</a></li>' for s in document.sections)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
        f'<nav aria-label="Contents"><ul>{contents}</ul></nav>\n<main>\n{body}\n</main>\n</body>\n</html>\n'
    )


def _anchors(document: Document) -> dict[str, str]:
    slug = (re.sub(r"[^a-z0-9]+", "-", s.lower()).strip("-") for s in document.sections)
    return {s: f"{k + 1}-{name}" for k, (s, name) in enumerate(zip(document.sections, slug, strict=True))}


def _block(block: Block, anchors: dict[str, str]) -> str:
    match block:
        case Heading(level, text):
            mark = f' id="{anchors[text]}"' if level == 2 else ""
            return f"<h{level}{mark}>{html.escape(text)}</h{level}>"
        case Paragraph(text):
            return f"<p>{_inline(text)}</p>"
        case Items(lines):
            return "<ul>" + "".join(f"<li>{_inline(line)}</li>" for line in lines) + "</ul>"
        case Table():
            return _table(block)
        case Image():
            return _image(block)
        case Gallery(images):
            return '<div class="gallery">' + "".join(map(_image, images)) + "</div>"


def _inline(text: Text) -> str:
    return "".join(map(_span, parts(text)))


def _span(span: Inline) -> str:
    if isinstance(span, Strong):
        return f"<strong>{html.escape(span.text)}</strong>" if span.text else ""
    return f"<code>{html.escape(span.text)}</code>" if isinstance(span, Code) else html.escape(span)


def _table(table: Table) -> str:
    head = "".join(f"<th{_number(table, k)}>{html.escape(c)}</th>" for k, c in enumerate(table.columns))
    rows = "".join(
        "<tr>" + "".join(f"<td{_cell(table, k, c)}>{_inline(c)}</td>" for k, c in enumerate(row)) + "</tr>\n"
        for row in table.rows
    )
    caption = f"<caption>{_inline(table.caption)}</caption>" if table.caption else ""
    return (
        f'<div class="wide" tabindex="0"><table>{caption}<thead><tr>{head}</tr></thead>\n'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _number(table: Table, k: int) -> str:
    return ' class="number"' if k in table.numeric else ""


def _cell(table: Table, k: int, text: Text) -> str:
    length = sum(len(p if isinstance(p, str) else p.text) for p in parts(text))
    return ' class="text"' if length > _LONG else _number(table, k)


def _image(image: Image) -> str:
    data = base64.b64encode(image.path.read_bytes()).decode("ascii")
    caption = f"<figcaption>{_inline(image.caption)}</figcaption>" if image.caption else ""
    alt = html.escape(image.alt)
    return f'<figure><img src="data:image/png;base64,{data}" alt="{alt}">{caption}</figure>'
