"""The emulated GPU (tests/emulated): real files, processes, threads and locks of ours on it, no NVIDIA code at all."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

EMULATED = Path(__file__).parents[1] / "emulated"
NAMES = ("tensorrt", "pycuda", "pycuda.driver")


@pytest.fixture(scope="session")
def engine_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all tests that do not look at the cache itself."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch, engine_folder: Path) -> Iterator[ModuleType]:
    """The emulated ``pycuda.driver``; at the end nothing may be left on the GPU or on this thread's context stack."""
    kept = {name: sys.modules.pop(name) for name in NAMES if name in sys.modules}
    monkeypatch.syspath_prepend(str(EMULATED))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(EMULATED), os.environ.get("PYTHONPATH", ""))))
    monkeypatch.setenv("XDG_CACHE_HOME", str(engine_folder))
    monkeypatch.delenv("CACHE_DIRECTORY", raising=False)
    driver = importlib.import_module("pycuda.driver")
    monkeypatch.setattr("edgefer.infer.has_driver", lambda: True)
    monkeypatch.setattr("edgefer.infer.cuda._opened", [])
    monkeypatch.setattr("edgefer.infer.cuda._call", driver.driver_call)
    monkeypatch.setattr("edgefer.infer.vendor._loggers", {})
    yield driver
    for name in NAMES:
        sys.modules.pop(name, None)
    sys.modules.update(kept)
    assert not driver.live, "memory left on the GPU"
    assert driver.graphs_alive() == 0
    assert driver.depth() == 0
