"""Results files, read and written (`export.report.results`)."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from export.errors import InputError
from export.report.results import Part, System

Kind = TypeVar("Kind", bound=Part)
_NUMBERS = re.compile(r"\[\n[-+\d.,\seEnul]*\n\s*\]")
"""a list of bare numbers, which reads better on one line"""


def read_one(path: Path, kind: type[Kind]) -> Kind:
    """Raises InputError of one line that names the file and the first key that is wrong."""
    remedy = "make it anew with its command"
    try:
        return kind.model_validate_json(path.read_bytes(), strict=True)
    except OSError as e:
        raise InputError(f"{path}: unreadable ({e.strerror})") from None
    except ValidationError as e:
        first = e.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"])) or "file"
        said = "unknown key" if first["type"] == "extra_forbidden" else first["msg"]
        raise InputError(f"{path}: '{key}': {' '.join(said.split())}; {remedy}") from None


def read_systems(folder: Path) -> list[System]:
    """Every ``*.json`` of the folder, by paper, then systems before ablations and comparisons, then by name.

    Raises InputError when a file is broken or two files speak of one recipe.
    """
    found: dict[str, System] = {}
    for path in sorted(folder.glob("*.json")):
        system = read_one(path, System)
        if system.key in found:
            raise InputError(f"{path}: 'recipe': a second result of {system.key}; delete the older file")
        found[system.key] = system
    rank = ("system", "ablation", "comparison")
    return sorted(found.values(), key=lambda s: (s.paper, rank.index(s.role), s.key))


def write(system: System, folder: Path) -> Path:
    """``folder/KEY.json``, in the order of the fields, fit for version control."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{system.key}.json"
    text = json.dumps(system.model_dump(mode="json"), indent=1, ensure_ascii=False)
    path.write_text(_NUMBERS.sub(lambda m: " ".join(m.group().split()), text) + "\n", encoding="utf-8")
    return path
