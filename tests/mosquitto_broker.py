"""A real mosquitto on loopback, started and killed by the tests that need a broker."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

BOUND_S = 10.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Mosquitto:
    """One broker on a loopback port that stays the same over stop() and start()."""

    def __init__(self, binary: str, folder: Path, users: dict[str, str], acl: str) -> None:
        self.host, self.port = "127.0.0.1", free_port()
        self._binary, self._config = binary, folder / f"mosquitto-{self.port}.conf"
        self._process: subprocess.Popen[str] | None = None
        self._config.write_text("\n".join(self._settings(folder, users, acl)) + "\n")

    def _settings(self, folder: Path, users: dict[str, str], acl: str) -> Iterator[str]:
        yield f"listener {self.port} {self.host}"
        yield "persistence false\nlog_dest stderr\nallow_anonymous " + ("false" if users else "true")
        yield "max_queued_messages 10000"  # as in deploy/; with 1,000 a subscriber that lags misses some
        if os.geteuid() == 0:
            yield "user root"  # else it drops to a user that may not read this folder
        if users:
            passwords = folder / f"passwords-{self.port}"
            passwords.write_text("".join(f"{name}:{secret}\n" for name, secret in users.items()))
            subprocess.run(["mosquitto_passwd", "-U", str(passwords)], check=True, timeout=BOUND_S)
            yield f"password_file {passwords}"
        if acl:
            (folder / f"acl-{self.port}").write_text(acl)
            yield f"acl_file {folder / f'acl-{self.port}'}"

    def start(self) -> None:
        command = [self._binary, "-c", str(self._config)]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        up = threading.Event()
        self._reader = threading.Thread(target=self._watch, args=(self._process, up), daemon=True)
        self._reader.start()
        assert up.wait(BOUND_S), "mosquitto did not say that it runs"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @staticmethod
    def _watch(process: subprocess.Popen[str], up: threading.Event) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            if line.rstrip().endswith("running"):
                up.set()

    def stop(self) -> None:
        """Kill it, as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(BOUND_S)
            self._reader.join(BOUND_S)
            assert self._process.stderr is not None
            self._process.stderr.close()
            self._process = None


MakeMosquitto = Callable[..., Mosquitto]
