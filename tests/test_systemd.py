"""The unit file, as far as systemd's own tools can judge it without running it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[1] / "systemd" / "edgefer-daemon.service"
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")


@needs_systemd
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    """With the program's path replaced by one that exists: verify insists on that."""
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/edgefer/bin/edgefer-daemon", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@needs_systemd
def test_its_exposure_is_low() -> None:
    command = ["systemd-analyze", "security", "--offline=true", str(UNIT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"exposure level for .*: ([\d.]+)", done.stdout)
    assert found is not None, done.stderr
    assert float(found.group(1)) <= 1.5


def test_a_wrong_configuration_is_not_restarted() -> None:
    from edgefer.errors import EX_CONFIG, EX_NOINPUT, EX_USAGE

    assert f"RestartPreventExitStatus={EX_USAGE} {EX_NOINPUT} {EX_CONFIG}" in UNIT.read_text()
