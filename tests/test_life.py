"""The service's life under a service manager: a real process, a real notify socket."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from bundle_workshop import copy_of_default, edit_golden
from locate_portraits import astronaut

from edgefer.bundle import open_bundle
from edgefer.errors import EX_CONFIG, EX_OK


class Manager:
    """What systemd is to the service: hears its notifications."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(folder / "notify"))
        self._socket.settimeout(20)
        self.process: subprocess.Popen[str] | None = None

    def start(self, text: str) -> subprocess.Popen[str]:
        face, file = self._folder / "face.png", self._folder / "edgefer.toml"
        cv2.imwrite(str(face), astronaut())
        file.write_text(f'[capture]\nkind = "picture"\nsource = "{face}"\n[publish]\nkind = "stdout"\n{text}')
        command = [sys.executable, "-m", "edgefer", "run", "--config", str(file)]
        self.process = subprocess.Popen(
            command, env={"NOTIFY_SOCKET": str(self._folder / "notify"), "PATH": "/usr/bin:/bin"},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        return self.process

    def hear(self) -> str:
        return self._socket.recv(4096).decode()

    def heard_nothing(self) -> bool:
        self._socket.setblocking(False)
        try:
            self._socket.recv(4096)
        except BlockingIOError:
            return True
        return False

    def end(self) -> None:
        self._socket.close()
        if self.process is not None:
            self.process.kill()
            self.process.communicate()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path)
    yield made
    made.end()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_ready_alive_stopping_stopped(manager: Manager, number: signal.Signals) -> None:
    process = manager.start("")
    assert manager.hear() == "READY=1"
    assert [manager.hear(), manager.hear()] == ["WATCHDOG=1"] * 2
    process.send_signal(number)
    rest = [manager.hear()]
    while rest[-1] == "WATCHDOG=1":
        rest.append(manager.hear())
    assert rest[-1] == "STOPPING=1"
    out, err = process.communicate(timeout=20)
    assert process.returncode == EX_OK
    assert '"state":"stopped"' in out.splitlines()[-1]
    assert "Traceback" not in err


def test_golden_vectors_that_fail_are_never_ready(manager: Manager, tmp_path: Path) -> None:
    bundle = copy_of_default(tmp_path)
    edit_golden(bundle, logits=np.flip(open_bundle(bundle).golden.logits, axis=1))
    process = manager.start(f'[infer]\nbundle = "{bundle}"\n')
    _, err = process.communicate(timeout=30)
    assert process.returncode == EX_CONFIG
    assert "golden.npz" in err
    assert manager.heard_nothing()
