"""What a user installs: edgefer alone, with its default bundle."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_the_wheel_holds_edgefer_and_nothing_else(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", reason="the wheel is built without the network, so setuptools must be there")
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    subprocess.run([*build, str(ROOT)], check=True, timeout=300, capture_output=True)
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {t for t in tops if not t.endswith(".dist-info")} == {"edgefer"}
    for needed in ("edgefer/bundles/default/classifier.onnx", "edgefer/bundles/default/golden.npz", "edgefer/py.typed"):
        assert needed in names
