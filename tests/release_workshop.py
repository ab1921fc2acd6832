"""Signed bundles small enough to be made, spoilt and installed a thousand times."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from bundle_workshop import edit_golden, edit_manifest, seal

from edgefer.bundle import DEFAULT, Bundle, open_bundle
from edgefer.release import Keys
from edgefer.store import Store
from export import sign


def no_self_test(bundle: Bundle) -> None:
    """These bundles carry no graph that could run; tests of the self-test bring one."""


def quick_folder(fallback: Path) -> Path:
    """A fresh folder in memory where there is one: thousands of fsync(2) wear out a tester's patience on a disk."""
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(dir=memory)) if os.access(memory, os.W_OK) else fallback


class Workshop:
    """Makes keys and signed bundles below ``folder``; ``store()`` trusts key 1 and key 2."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("key-1", "key-2", "foreign"):
            sign.keygen(folder / name)

    def key(self, name: str = "key-1") -> Path:
        return self.folder / name / sign.PRIVATE

    def public(self, name: str) -> str:
        return str(self.folder / name / sign.PUBLIC)

    def bundle(self, version: str, number: int, key: str = "key-1") -> Path:
        """A tiny bundle ``default@version``, signed under ``number``."""
        made = self.folder / f"made-{version}-{number}-{key}"
        shutil.copytree(DEFAULT, made)
        for graph in made.glob("*.onnx"):
            graph.write_bytes(f"graph of {version}".encode() * 20)
        golden = open_golden(made)
        edit_golden(made, **{name: array[:2] for name, array in golden.items()})
        self.sign(made, version, number, key)
        return made

    def real(self, version: str, number: int) -> Path:
        """The network that ships under another version, signed."""
        made = Path(shutil.copytree(DEFAULT, self.folder / f"real-{version}-{number}"))
        self.sign(made, version, number)
        return made

    def sign(self, made: Path, version: str, number: int, key: str = "key-1") -> None:
        edit_manifest(made, lambda m: m.update(version=version))
        seal(made)
        sign.sign(made, number, self.key(key))

    def keys(self) -> Keys:
        return Keys([self.public("key-1"), self.public("key-2")])

    def store(self, keys: Keys | None = None) -> Store:
        return Store(self.folder / "store", self.keys() if keys is None else keys, no_self_test)


def open_golden(bundle: Path) -> dict[str, object]:
    import numpy as np

    with np.load(bundle / "golden.npz") as z:
        return {name: z[name] for name in z.files}


def confirmed(store: Store, bundle: Path) -> str:
    """Install, activate, confirm."""
    name = store.install(bundle).name
    store.activate(name)
    store.confirm(name)
    assert open_bundle(store.folder / "current").title == name
    return name
