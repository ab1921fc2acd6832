"""Writes that a power cut leaves whole: the old content or the new, never a mixture.

Content goes to a side file, is synced, takes the name by rename(2), and the folder is synced: only then may the caller
build on it.
"""

from __future__ import annotations

import os
from pathlib import Path


def write(path: Path, data: bytes) -> None:
    """``data`` as the private file ``path`` (0600), replacing what was there. Raises OSError."""
    part = path.with_name(f".{path.name}.part")
    create(part, data)
    os.replace(part, path)
    sync_folder(path.parent)


def create(path: Path, data: bytes) -> None:
    """A synced private file; its name is as lasting as the next ``sync_folder``. Raises OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    with open(os.open(path, flags, 0o600), "wb", buffering=0) as file:
        left = memoryview(data)
        while left:
            left = left[file.write(left) :]
        os.fsync(file.fileno())


def point(link: Path, target: str) -> None:
    """The symbolic link ``link`` to ``target``, replacing an older one at one instant. Raises OSError."""
    part = link.with_name(f".{link.name}.part")
    part.unlink(missing_ok=True)
    os.symlink(target, part)
    os.replace(part, link)
    sync_folder(link.parent)


def remove(path: Path) -> None:
    """Without the file or link ``path``; harmless when it is not there. Raises OSError."""
    path.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
