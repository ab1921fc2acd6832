"""What is copied into the store of a bundle that is offered: its files and nothing else, each of a bounded size."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from edgefer import bundle as bundles
from edgefer import durable
from edgefer.bundle import MANIFEST, MANIFEST_HASH
from edgefer.errors import BundleError
from edgefer.release import RELEASE, SIGNATURE

MAX_BYTES = 512 * 2**20
"""of all files of a bundle together"""


def copy_head(source: Path, to: Path) -> None:
    """Release and manifest, small by what they are."""
    for name, limit in ((RELEASE, 4096), (SIGNATURE, 4096), (MANIFEST, 2**20), (MANIFEST_HASH, 4096)):
        _copy_file(source / name, to / name, limit)


def copy_rest(source: Path, to: Path) -> None:
    """What the manifest lists and nothing else."""
    left = MAX_BYTES
    for name in bundles.read_manifest(to).files:
        left -= _copy_file(source / name, to / name, left)


def _copy_file(source: Path, to: Path, limit: int) -> int:
    """Bytes copied. Links, pipes and devices are refused: a staged file is a file."""
    try:
        with open(os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise BundleError(f"{source}: not a regular file; copy the bundle again")
            data = file.read(limit + 1)
    except FileNotFoundError:
        unsigned = "; the bundle is not signed, `python -m export sign` does it" if source.name == RELEASE else ""
        raise BundleError(f"{source}: not found{unsigned}") from None
    except OSError as e:
        raise BundleError(f"{source}: {e.strerror}; copy the bundle again") from None
    if len(data) > limit:
        raise BundleError(f"{source}: too large for a bundle (512 MiB in all, 1 MiB for its manifest)")
    durable.create(to, data)
    return len(data)
