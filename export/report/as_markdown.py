"""A :class:`Document` as GitHub-flavoured Markdown; pictures are linked, relative to the file's folder."""

from __future__ import annotations

import re
from pathlib import Path

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

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~!$])")
_LEADING = re.compile(r"^(\d+)([.)])(\s)|^([-+=])")
"""what would open a list or a rule at the start of a line"""


def render(document: Document, folder: Path) -> str:
    blocks = [f"# {escape(document.title)}", *(_block(b, folder) for b in document.blocks)]
    return "\n\n".join(blocks) + "\n"


def escape(text: str) -> str:
    """Any string as plain prose on one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()).replace("&", "&amp;"))


def _block(block: Block, folder: Path) -> str:
    match block:
        case Heading(level, text):
            return f"{'#' * level} {escape(text)}"
        case Paragraph(text):
            return _line(text)
        case Items(lines):
            return "\n".join(f"- {_line(line)}" for line in lines)
        case Table():
            return _table(block)
        case Image():
            return _image(block, folder)
        case Gallery(images):
            return "\n\n".join(_image(i, folder) for i in images)


def _image(image: Image, folder: Path) -> str:
    where = image.path.relative_to(folder).as_posix()
    return f"![{escape(image.alt)}](<{where}>)" + (f"\n\n{_line(image.caption)}" if image.caption else "")


def _line(text: Text) -> str:
    return _LEADING.sub(lambda m: f"{m[1]}\\{m[2]}{m[3]}" if m[1] else f"\\{m[4]}", _inline(text))


def _inline(text: Text) -> str:
    return "".join(map(_span, parts(text)))


def _span(span: Inline) -> str:
    if isinstance(span, Strong):
        # Blanks at the ends would keep the stars from closing.
        return f"**{escape(span.text)}**" + " " * span.text.endswith(" ") if span.text.strip() else ""
    return _code(" ".join(span.text.split())) if isinstance(span, Code) else _keep_ends(span)


def _keep_ends(text: str) -> str:
    """Escaping joins blanks; those at the ends part a span from its neighbours."""
    if not text.strip():
        return " " if text else ""
    return " " * text[0].isspace() + escape(text) + " " * text[-1].isspace()


def _code(text: str) -> str:
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}".replace("|", "\\|")


def _table(table: Table) -> str:
    rule = ["---:" if k in table.numeric else "---" for k in range(len(table.columns))]
    rows = [[escape(c) for c in table.columns], rule, *([_inline(c) for c in row] for row in table.rows)]
    lines = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"{_line(table.caption)}\n\n{lines}" if table.caption else lines
