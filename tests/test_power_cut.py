"""The power goes at any instant: SIGKILL at the entry of every writing system call of install, activate, confirm and
rollback, by strace, and after each cut exactly one of old and new serves, whole."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import power_cutter
import pytest
from release_workshop import Workshop, confirmed, quick_folder

OLD, NEW = "1.1.0", "1.2.0"


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    folder = quick_folder(tmp_path_factory.mktemp("cut"))
    yield Workshop(folder)
    shutil.rmtree(folder)


def prepared(w: Workshop, operation: str) -> Path:
    """A store in which 1.1.0 is confirmed and ``operation`` with 1.2.0 comes next; a spoilt 1.2.0 for install."""
    shutil.rmtree(w.folder / "store", ignore_errors=True)
    store, offered = w.store(), w.folder / "offered"
    if not offered.exists():
        w.bundle(OLD, 5).rename(w.folder / "old")
        w.bundle(NEW, 6).rename(offered)
    confirmed(store, w.folder / "old")
    store.install(offered)
    if operation == "install":
        (store.folder / "staged" / f"default@{NEW}" / "MODEL_CARD.md").write_text("worn out")
    if operation in ("confirm", "rollback"):
        store.activate(f"default@{NEW}")
    if operation == "rollback":
        store.confirm(f"default@{NEW}")
    return store.folder


def cuts(w: Workshop, operation: str) -> list[str]:
    """A line for every cut, as tests/power_cutter.py prints them."""
    scratch = w.folder / "scratch"
    scratch.mkdir(exist_ok=True)
    calls = ",".join(power_cutter.CALLS)
    command = ["strace", "-f", "-o", "/dev/null", "-e", f"trace={calls}",
               "-e", f"inject={calls}:signal=SIGKILL:when={power_cutter.AT}",
               sys.executable, "-B", power_cutter.__file__, str(prepared(w, operation)), str(scratch),
               f"default@{NEW}", operation, w.public("key-1")]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if "Operation not permitted" in done.stderr and not done.stdout:
        pytest.skip("strace may not trace here")
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    return done.stdout.splitlines()


AFTER = {
    "install": {f"{OLD} bar 5"},
    "activate": {f"{OLD} bar 5", f"{NEW}>{OLD} bar 5"},
    "confirm": {f"{NEW}>{OLD} bar 5", f"{NEW}>{OLD} bar 6"},
    "rollback": {f"{NEW}>{OLD} bar 6", f"{OLD} bar 6"},
}
"""what may serve, with what behind it, and the bar for new releases"""
AT_LEAST = {"install": 20, "activate": 4, "confirm": 9, "rollback": 6}
"""cuts, so that a change of system calls does not make the test hollow"""
WORN: dict[str, tuple[str, ...]] = {
    "install": ("mkdir 1:", "mkdir 2:", "rename 1:", *(f"{c} {k}:" for c in ("write", "fsync") for k in (1, 2, 3, 4))),
    "activate": (),
    "confirm": (),
    "rollback": (),
}
"""cuts before the worn-out staged bundle, which installing cures, was put aside"""


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not here (apt install strace)")
@pytest.mark.parametrize("operation", AFTER)
def test_a_cut_at_any_writing_call_leaves_one_valid_bundle(operation: str, workshop: Workshop) -> None:
    lines = cuts(workshop, operation)
    assert len(lines) >= AT_LEAST[operation], lines
    for line in lines:
        found = re.fullmatch(r".*: (.+ bar \d+) broken (\d+); again: (.+); then (.+ bar \d+) broken (\d+)", line)
        assert found is not None, line
        after, broken, again, then, broken_then = found.groups()
        assert after in AFTER[operation], line
        assert int(broken) == (line.startswith(WORN[operation])), line
        if operation != "rollback":  # repeated after a cut that came late it goes one further back, to what ships
            assert again == "done", line
            assert int(broken_then) == 0, line
            assert then.split(">")[0].split(" ")[0] == (OLD if operation == "install" else NEW), line
