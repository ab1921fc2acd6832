"""A clock that moves only when told to, and pictures, for the capture tests."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np

from edgefer.types import U8, Lens

Write = Callable[..., Path]


class FakeClock:
    """Nanoseconds; `wait` is a sleep that takes no time."""

    def __init__(self) -> None:
        self.now = 1_000_000_000

    def __call__(self) -> int:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += round(seconds * 1e9)


def picture(lens: Lens, seed: int, size: tuple[int, int] = (64, 48)) -> U8:
    w, h = size
    shape = (h, w, 3) if lens is Lens.VISIBLE else (h, w)
    return np.random.default_rng(seed).integers(20, 200, shape, dtype=np.uint8)


_BLOCKS = np.random.default_rng(5).integers(30, 200, (12, 16)).astype(np.uint8)
_SCENE = np.kron(_BLOCKS, np.ones((40, 40), np.uint8))
_NOISE = np.random.default_rng(6).integers(0, 6, (579, 739), dtype=np.uint8)


def scene(noise: int) -> U8:
    """Something with sharp edges, lit: uint8 [480, 640]; every number has its own sensor noise."""
    y, x = np.random.default_rng(noise).integers(0, 99, 2)
    return np.asarray(_SCENE + _NOISE[y : y + 480, x : x + 640])


class _MotionJpeg(BaseHTTPRequestHandler):
    """One JPEG after the other, for ever, as network cameras send them."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        try:
            for k in itertools.count():
                data = cv2.imencode(".jpg", picture(Lens.VISIBLE, k))[1].tobytes()
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                self.wfile.write(head.encode() + data + b"\r\n")
        except OSError:
            return  # the viewer has gone

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


@cache
def motion_jpeg_url() -> str:
    """Of a network camera on this machine, which runs until the tests are over."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _MotionJpeg)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/stream.mjpg"
