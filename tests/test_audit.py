"""The dependency audit says what it did not look at."""

from __future__ import annotations

import importlib.util
from pathlib import Path

SPEC = importlib.util.spec_from_file_location("audit", Path(__file__).parents[1] / ".ci" / "audit.py")
assert SPEC is not None
assert SPEC.loader is not None
audit = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(audit)

CLEAN = {"name": "a", "version": "1", "vulns": []}
SKIPPED = {"name": "b", "skip_reason": "not found"}
BAD = {"name": "c", "version": "2", "vulns": [{"id": "X-1", "fix_versions": ["3"]}]}


def test_clean_means_that_everything_was_looked_at() -> None:
    assert audit.judge({"dependencies": [CLEAN]}, 1) == (
        ["audit: no known vulnerability in the 1 packages that a device installs"],
        False,
    )
    for report in ({"dependencies": [CLEAN, SKIPPED]}, {"dependencies": [CLEAN]}):
        lines, bad = audit.judge(report, 2)
        assert (lines[-1][:31], bad) == ("audit: NOT done for 1 of 2 pack", False)


def test_a_known_vulnerability_fails_whatever_else_was_skipped() -> None:
    lines, bad = audit.judge({"dependencies": [BAD, SKIPPED]}, 2)
    assert bad
    assert lines[0] == "audit: c 2: X-1, fixed in 3"


def test_what_a_device_installs_is_listed() -> None:
    packages = audit.installed(audit.direct())
    assert {"numpy", "pydantic", "pydantic_core", "paho-mqtt", "cryptography"} <= {
        n.replace("-core", "_core") for n in packages
    }
    assert "pytest" not in packages
    assert "torch" not in packages
