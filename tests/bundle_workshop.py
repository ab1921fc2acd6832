"""Copies of the default bundle that can be spoilt, and re-sealed where only the content shall be wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgefer.bundle import DEFAULT, GOLDEN, MANIFEST, MANIFEST_HASH, file_sha256


def copy_of_default(folder: Path) -> Path:
    return Path(shutil.copytree(DEFAULT, folder / "bundle"))


def edit_manifest(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    file = bundle / MANIFEST
    raw = json.loads(file.read_text())
    change(raw)
    file.write_text(json.dumps(raw))
    (bundle / MANIFEST_HASH).write_text(file_sha256(file) + "\n")


def seal(bundle: Path) -> None:
    """Hashes that fit the files again."""
    edit_manifest(bundle, lambda m: m["files"].update({n: file_sha256(bundle / n) for n in m["files"]}))


def edit_golden(bundle: Path, **arrays: np.ndarray) -> None:
    with np.load(bundle / GOLDEN) as z:
        changed = {**{k: z[k] for k in z.files}, **arrays}
    np.savez_compressed(bundle / GOLDEN, **changed)
    seal(bundle)
