"""What a frame costs: memory, and other threads' time. Processor time is measured by running this file as a program:

python tests/capture/test_cost.py
"""

from __future__ import annotations

import threading
import time
import tracemalloc
from collections.abc import Callable
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from capture_helpers import FakeClock
from fake_v4l2 import FakeKernel

from edgefer.align import Aligner
from edgefer.capture import eye as eyes
from edgefer.capture.look import Look
from edgefer.capture.mailbox import Mailbox
from edgefer.capture.opencv import OpenCvSource
from edgefer.capture.source import Source
from edgefer.capture.stacked import StackedSource
from edgefer.capture.v4l2 import V4l2Source
from edgefer.config import Align, Capture
from edgefer.types import Face, Frame, FramePair, Lens

LIMIT = 64 * 1024
TEMPLATE = [(38.0, 46.0), (74.0, 46.0), (56.0, 66.0), (41.0, 87.0), (71.0, 87.0)]
FACE = Face(
    Lens.VISIBLE, (250, 150, 140, 180),
    np.array([(287, 215), (353, 215), (320, 253), (293, 287), (347, 287)], np.float32), 0.9,
)  # fmt: skip


class Bench:
    """Two V4L2 lenses on a driver in Python -> mailbox -> pair -> both crops, one frame a `step`, in one thread."""

    def __init__(self, visible: str = "YUYV", infrared: str = "Y10 ", layout: str = "") -> None:
        """visible, infrared: formats of the lenses; layout: one camera of the first format holds both."""
        self.clock = FakeClock()
        self.mailbox = Mailbox(Capture(), [(lens, 0) for lens in Lens], False, self.clock)
        self.kernels: list[FakeKernel] = []
        w, h = {"": (640, 480), "side-by-side": (1280, 480)}.get(layout, (640, 960))
        first = self._camera(Lens.VISIBLE, visible, (w, h))
        self.sources: list[Source] = [StackedSource(first, layout)] if layout else [
            first, self._camera(Lens.INFRARED, infrared, (w, h))
        ]  # fmt: skip
        for source in self.sources:
            source.open()
        self.aligner = Aligner(Align(), 112, 1, TEMPLATE)
        self.kernel_s = 0.0

    def _camera(self, lens: Lens, code: str, size: tuple[int, int]) -> V4l2Source:
        kernel = FakeKernel(((code, *size, (30.0,)),))
        kernel.monotonic = self.clock
        self.kernels.append(kernel)
        expose = kernel._expose

        def timed() -> None:
            start = time.thread_time()
            expose()
            self.kernel_s += time.thread_time() - start

        kernel._expose = timed  # type: ignore[method-assign]
        return V4l2Source(lens, "0", size, 30.0, clock=self.clock, monotonic=self.clock, kernel=kernel)

    def step(self) -> FramePair:
        self.clock.wait(0.04)
        for source in self.sources:
            self.mailbox.post(source.read(0.0))
        pair = self.mailbox.next_pair(0.0)
        assert pair is not None
        assert pair.visible is not None
        assert pair.infrared is not None
        self.aligner.cut(pair, FACE)
        return pair

    def close(self) -> None:
        for source in self.sources:
            source.close()


@pytest.mark.parametrize(
    "lenses",
    [
        {}, {"visible": "NV12", "infrared": "GREY"}, {"visible": "GREY", "infrared": "Y16 "},
        {"layout": "side-by-side"}, {"layout": "top-bottom"}, {"layout": "interleaved"},
    ],
    ids=lambda lenses: "-".join(lenses.values()).strip() or "YUYV-Y10",
)  # fmt: skip
def test_no_frame_allocates_more_than_64_kb(lenses: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Peaks of traced memory (NumPy's and OpenCV's arrays included) over each frame, after the first have warmed up.

    The driver's own picture is made outside the trace.
    """
    bench = Bench(**lenses)
    for kernel in bench.kernels:
        monkeypatch.setattr(kernel, "_rng", _Still())
    assert max(peaks(bench.step)) <= LIMIT
    bench.close()


def peaks(step: Callable[[], object]) -> list[int]:
    """Bytes by which memory rose at most during each of thirty steps, after thirty others."""
    for _ in range(30):
        step()
    tracemalloc.start()
    try:
        found = []
        for _ in range(30):
            tracemalloc.reset_peak()
            start = tracemalloc.get_traced_memory()[0]
            step()
            found.append(tracemalloc.get_traced_memory()[1] - start)
        return found
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("lens", list(Lens))
def test_a_stream_through_opencv_allocates_no_picture_either(lens: Lens, tmp_path: Path) -> None:
    """A video file stands for the network: FFmpeg decodes it into memory of its own, which is not counted."""
    video = cv2.VideoWriter(str(tmp_path / "v.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (640, 480))
    for k in range(70):
        video.write(np.full((480, 640, 3), k, np.uint8))
    video.release()
    source = OpenCvSource(lens, "rtsp", str(tmp_path / "v.avi"), (640, 480), 25.0)
    source.open()
    kept: list[Frame] = []

    def step() -> None:
        kept[:] = [*kept[-2:], *source.read(0.1)]

    assert max(peaks(step)) <= LIMIT
    assert [int(f.image.mean()) for f in kept] == pytest.approx([57, 58, 59], abs=2), "what is kept is not written over"
    source.close()


class _Still:
    """Noise for the driver's picture without new memory."""

    def integers(self, low: int, high: int, n: int, dtype: object) -> _Still:
        self._frame = _frame(n)
        return self

    def tobytes(self) -> bytes:
        return self._frame


@cache
def _frame(count: int) -> bytes:
    return np.random.default_rng(0).integers(16, 235, count, dtype=np.uint8).tobytes()


def test_a_reader_that_looks_at_a_picture_keeps_no_other_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The visible lens's picture takes for ever to judge; infrared frames go on being delivered."""
    clock, inside, release = FakeClock(), threading.Event(), threading.Event()
    look_at = eyes.look_at

    def slow(image: np.ndarray, chroma: float | None, closely: bool) -> Look:
        if image.ndim == 3:
            inside.set()
            assert release.wait(20)
        return look_at(image, chroma, closely)

    monkeypatch.setattr(eyes, "look_at", slow)
    mailbox = Mailbox(Capture(), [(lens, 0) for lens in Lens], False, clock)
    mailbox.start()
    visible = Frame(Lens.VISIBLE, np.zeros((48, 64, 3), np.uint8), clock.now, 0)
    reader = threading.Thread(target=mailbox.post, args=((visible,),))
    reader.start()
    assert inside.wait(20)
    try:
        clock.wait(5.0)
        for k in range(5):
            clock.wait(0.04)
            mailbox.post((Frame(Lens.INFRARED, np.zeros((48, 64), np.uint8), clock.now, k),))
            clock.wait(0.03)
            pair = mailbox.next_pair(0.0)
            assert pair is not None
            assert pair.infrared is not None
    finally:
        release.set()
        reader.join()


if __name__ == "__main__":
    cv2.setNumThreads(1)
    run = Bench()
    for _ in range(100):
        run.step()
    run.kernel_s, begin, count = 0.0, time.process_time(), 1000
    for _ in range(count):
        run.step()
    spent_ms = (time.process_time() - begin - run.kernel_s) / count * 1e3
    print(f"{spent_ms:.2f} ms of processor time a pair, 640x480, one core")
