"""A TCP proxy that misbehaves on request: what a bad link does to an MQTT client.

    stalling_proxy.py LISTEN_PORT TARGET_HOST TARGET_PORT      then type pass, stall, swallow or cut, a line each

pass: forward. stall: take nothing and send nothing, everything stays open and goes on later. swallow: take everything
and throw it away, also on new connections (a half-open link); what was swallowed is gone, so connections that met it
never recover. cut: close all connections, then pass.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading

MODES = ("pass", "stall", "swallow", "cut")
LOOK_S = 0.05


class StallingProxy:
    """``with StallingProxy(host, port) as proxy:`` listens on ``proxy.port`` of loopback; ``proxy.mode = "stall"``."""

    def __init__(self, host: str, port: int, listen: int = 0) -> None:
        self._target = (host, port)
        self._listener = socket.create_server(("127.0.0.1", listen))
        self.port: int = self._listener.getsockname()[1]
        self._mode, self._open = "pass", True
        self._links: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def __enter__(self) -> StallingProxy:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._open = False
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._cut()
        for thread in self._threads:
            thread.join(5)

    @property
    def mode(self) -> str:
        return self._mode

    @mode.setter
    def mode(self, mode: str) -> None:
        assert mode in MODES, mode
        self._mode = "pass" if mode == "cut" else mode
        if mode == "cut":
            self._cut()

    def _cut(self) -> None:
        for link in self._links:
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while self._open:
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target, timeout=2)
            except OSError:
                if self._open:
                    with contextlib.suppress(OSError, UnboundLocalError):
                        near.close()
                continue
            self._links += [near, far]
            for source, sink in ((near, far), (far, near)):
                self._threads.append(threading.Thread(target=self._pump, args=(source, sink), daemon=True))
                self._threads[-1].start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        poisoned = False
        source.settimeout(LOOK_S)
        pause = threading.Event()
        while self._open:
            if self._mode == "stall":
                pause.wait(LOOK_S)
                continue
            try:
                data = source.recv(65536)
            except TimeoutError:
                continue
            except OSError:
                break
            if not data:
                break
            poisoned = poisoned or self._mode == "swallow"
            if not poisoned:
                with contextlib.suppress(OSError):
                    sink.settimeout(2)
                    sink.sendall(data)
                    sink.settimeout(LOOK_S)
        for link in (source, sink):
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)
            link.close()


def main() -> None:
    listen, host, port = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    with StallingProxy(host, port, listen) as proxy:
        for line in sys.stdin:
            if line.strip() in MODES:
                proxy.mode = line.strip()
            print(proxy.mode, flush=True)


if __name__ == "__main__":
    main()
