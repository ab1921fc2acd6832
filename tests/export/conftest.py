"""A tiny world for the workstation stage: synthetic faces, a network of a few channels, no EDGEFER_DATA needed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

TINY = """
name = "tiny"
version = "0.0.1"
crop = 16
template = [[5.0, 6.0], [10.0, 6.0], [7.5, 9.0], [5.5, 12.0], [9.5, 12.0]]
[model]
name = "dual-resnet"
widths = [8, 8, 16, 16]
[training]
batch = 8
ema = 0.5
[[training.steps]]
name = "single"
sizes = [[12, 1], [16, 1]]
lr = 0.05
[[training.steps]]
name = "joined"
sizes = [[16, 2]]
lr = 0.02
[quantisation]
calibration_images = 8
sensitivity_views = 6
"""


def write_faces(root: Path) -> Path:
    """A fer2013.npz of 48 random 16-pixel "faces"; row 0 is blank, rows 1 (train) and 40 (private) are twins."""
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (48, 16, 16), np.uint8)
    images[0] = 7
    images[40] = images[1]
    group = np.arange(48, dtype=np.int32)
    group[40] = 1
    split = np.repeat(np.array([0, 1, 2], np.uint8), (24, 12, 12))
    labels = (np.arange(48) % 7).astype(np.uint8)
    root.mkdir()
    np.savez_compressed(root / "fer2013.npz", images=images, labels=labels, split=split, dup_group=group)
    return root


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Networks of a few channels are faster on one thread, and so are the tests beside them."""
    try:
        import torch
    except ImportError:
        return
    torch.set_num_threads(1)


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture
def data_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = write_faces(tmp_path / "data")
    monkeypatch.setenv("EDGEFER_DATA", str(root))
    return root


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny.toml and data/, for what is too dear to be made anew for every test."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "tiny.toml").write_text(TINY)
    write_faces(folder / "data")
    return folder


@pytest.fixture(scope="session")
def quantised(tiny_world: Path) -> Path:
    """A working folder after ``quantize``; not to be written to."""
    pytest.importorskip("torch", reason="needs the export extra")
    import tiny_network

    return tiny_network.quantised(tiny_world)


@pytest.fixture
def silent() -> Any:
    return lambda line: None


@pytest.fixture
def real_data(monkeypatch: pytest.MonkeyPatch) -> Path:
    root = os.environ.get("EDGEFER_DATA")
    if not root or not (Path(root) / "fer2013.npz").is_file():
        pytest.skip("EDGEFER_DATA does not name a folder with fer2013.npz")
    return Path(root)
