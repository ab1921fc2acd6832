"""A report as data: headings, paragraphs, lists, tables, pictures. Two renderers read it, so both say the same."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Code:
    """Typed literally: a command, a file, a recipe's name."""

    text: str


@dataclass(frozen=True)
class Strong:
    text: str


Inline = str | Code | Strong
Text = Inline | tuple[Inline, ...]
"""one line of prose; renderers escape it, so it never carries markup of its own"""


def parts(text: Text) -> tuple[Inline, ...]:
    return text if isinstance(text, tuple) else (text,)


@dataclass(frozen=True)
class Heading:
    level: int
    """1 the page, 2 a section, 3 inside one"""
    text: str


@dataclass(frozen=True)
class Paragraph:
    text: Text


@dataclass(frozen=True)
class Items:
    lines: tuple[Text, ...]


@dataclass(frozen=True)
class Table:
    """``numeric`` columns are set flush right; every row has as many cells as ``columns``."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Text, ...], ...]
    numeric: frozenset[int] = frozenset()
    caption: Text = ""

    def __post_init__(self) -> None:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"a row does not have the {len(self.columns)} cells of {self.columns}")


@dataclass(frozen=True)
class Image:
    path: Path
    """PNG inside the report's folder"""
    alt: str
    """what a reader who cannot see it needs to know"""
    caption: Text = ""


@dataclass(frozen=True)
class Gallery:
    """Small pictures side by side where there is room."""

    images: tuple[Image, ...]


Block = Heading | Paragraph | Items | Table | Image | Gallery


@dataclass
class Document:
    title: str
    blocks: list[Block] = field(default_factory=list)

    def add(self, *blocks: Block) -> None:
        self.blocks.extend(blocks)

    @property
    def sections(self) -> list[str]:
        return [b.text for b in self.blocks if isinstance(b, Heading) and b.level == 2]
