"""Are secrets, configuration and state private? Looked at once, at the start; a line each for what is not."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from edgefer.config import Config
from edgefer.redact import without_password

log = logging.getLogger("edgefer.private")


def warn(file: Path, config: Config) -> None:
    for line in findings(file, config):
        log.warning("%s", line)


def findings(file: Path, config: Config) -> Iterator[str]:
    """A line for each file that others may read or change and should not."""
    yield from _check(file, stat.S_IWGRP | stat.S_IWOTH, "others may change the configuration", "go-w")
    c, p = config.capture, config.publish
    if any(without_password(name) != name for name in (c.source, c.visible, c.infrared, c.visible2, c.infrared2)):
        yield from _check(file, stat.S_IROTH, "others may read a camera's password in it", "o-r")
    for key, name in (("publish.key_file", p.key_file), ("publish.password_file", p.password_file)):
        if name and not name.startswith("$"):  # credentials are the service manager's own care
            yield from _check(Path(name), stat.S_IRWXO | stat.S_IWGRP, f"'{key}' is not private", "o-rwx,g-w")
    for slot, name in ((1, config.update.key_1), (2, config.update.key_2)):
        if name:
            yield from _check(Path(name), stat.S_IWGRP | stat.S_IWOTH, f"others may change 'update.key_{slot}'", "go-w")
    for folder in (config.state.path(), config.store_path()):
        if folder is not None:
            yield from _check(folder, stat.S_IRWXG | stat.S_IRWXO, "the state folder is not private", "go-rwx")


def _check(path: Path, bits: int, what: str, remedy: str) -> Iterator[str]:
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return  # who needs it will say so
    if mode & bits:
        yield f"{path}: {what} (mode {stat.S_IMODE(mode):04o}); chmod {remedy} {path}"
