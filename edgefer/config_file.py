"""The configuration file: TOML, strict, read once; what is wrong with it is said in one line with the remedy.

`edgefer doctor --reference` prints the table that stands in the README from the keys in `edgefer.config`.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from edgefer.config import Config, Section
from edgefer.errors import ConfigError
from edgefer.redact import without_password

if sys.version_info >= (3, 11):
    import tomllib
else:  # Python 3.10 on JetPack 6
    import tomli as tomllib


def read(path: Path) -> Config:
    """Parse and check ``path``. Relative paths inside stay relative to the working directory.

    Raises ConfigError: one line with file, key and remedy.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file; start from deploy/edgefer.toml") from None
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path}: cannot be read: {e}") from None
    except tomllib.TOMLDecodeError as e:
        raise ConfigError(f"{path}: not valid TOML: {e}") from None
    return build(raw, str(path))


def build(raw: dict[str, Any], where: str) -> Config:
    """A Config from plain values; ``where`` names them in errors. Raises ConfigError."""
    try:
        return Config.model_validate(raw)
    except ValidationError as e:
        raise ConfigError(f"{where}: {_first_line(e)}") from None


def _first_line(error: ValidationError) -> str:
    problems = error.errors(include_url=False)
    first = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"unknown key '{key}'{_suggestion(first['loc'])}"
    message = first["msg"].removeprefix("Value error, ")
    got = first["input"]
    if isinstance(got, str):
        got = without_password(got)
    elif not isinstance(got, int | float):  # a section or list may hold a camera's password
        return f"'{key}': {message}" if key else message
    return f"'{key}': {message} (got {got!r})"


def _suggestion(loc: tuple[int | str, ...]) -> str:
    section: Any = Config
    for part in loc[:-1]:
        section = section.model_fields[str(part)].annotation
    known = list(section.model_fields)
    near = difflib.get_close_matches(str(loc[-1]), known, 1, 0.65)
    return f"; did you mean '{near[0]}'?" if near else f"; known here: {', '.join(known)}"


def reference() -> Iterator[tuple[str, str, str, str]]:
    """(key, type, default, meaning) of every key, for the README."""
    for name, field in Config.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, Section):
            for key, inner in section.model_fields.items():
                yield f"{name}.{key}", _type_name(inner.annotation), _default(inner.default), inner.description or ""
        else:
            yield name, _type_name(field.annotation), _default(field.default), field.description or ""


def _type_name(annotation: Any) -> str:
    choices = [a for a in get_args(annotation) if isinstance(a, str)]
    if choices:
        return ", ".join(f'"{c}"' for c in choices)
    if isinstance(annotation, type) and not get_args(annotation):
        return {"str": "text", "int": "whole number", "float": "number", "bool": "true / false"}[annotation.__name__]
    return "4 numbers" if "tuple" in str(annotation) else "number"


def _default(value: Any) -> str:
    if value is None:
        return "from the bundle"
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, tuple):
        return str(list(value))
    return str(value).lower()
