"""sd_notify: a path, an abstract name, nobody there."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from edgefer.sdnotify import notify


@pytest.mark.parametrize("abstract", [False, True])
def test_the_manager_hears_it(abstract: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"@edgefer-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name[1:] if abstract else name)
        manager.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        assert notify("READY=1\nSTATUS=serving")
        assert manager.recv(100) == b"READY=1\nSTATUS=serving"


def test_without_a_manager_nothing_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify("READY=1")
    for deaf in (str(tmp_path / "gone"), "vsock:1:2", ""):
        monkeypatch.setenv("NOTIFY_SOCKET", deaf)
        assert not notify("WATCHDOG=1")
