"""Live cameras without a camera: a stand-in for cv2.VideoCapture, pixel formats, and halved pictures."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from capture_helpers import FakeClock, picture

from edgefer.capture import open_sources
from edgefer.capture.fake import FakeSource
from edgefer.capture.opencv import OpenCvSource, complete_pipeline, convert, gstreamer_limits, scale_to_bytes
from edgefer.capture.picture import PictureSource
from edgefer.capture.stacked import StackedSource
from edgefer.config import Capture
from edgefer.errors import CameraError, ConfigError, InputError
from edgefer.types import Lens


class StandIn:
    """cv2.VideoCapture with a script: pictures, or None for a device that has stopped."""

    images: Iterable[Any] = ()
    opens = True
    stamps_ms: Iterable[float] = ()

    def __init__(self) -> None:
        self.left = list(self.images)
        self.stamps_left = list(self.stamps_ms)
        self.released = False
        type(self).last = self

    last: StandIn

    def open(self, name: str, backend: int, limits: list[int]) -> bool:
        return self.opens

    def get(self, key: int) -> float:
        assert key == cv2.CAP_PROP_POS_MSEC
        return self.stamps_left.pop(0)

    def read(self, into: Any = None) -> tuple[bool, Any]:
        image = self.left.pop(0)
        if isinstance(image, str):
            raise cv2.error("backend broke")
        return image is not None, image

    def release(self) -> None:
        self.released = True


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A device file that exists, and OpenCV that opens it."""
    monkeypatch.setattr(cv2, "VideoCapture", StandIn)
    monkeypatch.setattr(StandIn, "images", ())
    (tmp_path / "video0").touch()
    return str(tmp_path / "video0")


def camera(device: str, lens: Lens = Lens.VISIBLE) -> OpenCvSource:
    source = OpenCvSource(lens, "rtsp", device, (64, 48), 25.0)
    source.open()
    return source


def test_a_changed_frame_size_names_both_sizes(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StandIn, "images", [np.zeros((48, 64, 3), np.uint8), np.zeros((240, 320, 3), np.uint8)])
    source = camera(device)
    assert source.read(0.1)[0].index == 0
    with pytest.raises(CameraError, match="from 64x48 to 320x240"):
        source.read(0.1)
    source.close()
    assert StandIn.last.released


@pytest.mark.parametrize(("fault", "message"), [(None, "stopped sending"), ("error", "OpenCV gave up")])
def test_a_device_that_stops_is_a_camera_error(
    device: str, monkeypatch: pytest.MonkeyPatch, fault: object, message: str
) -> None:
    monkeypatch.setattr(StandIn, "images", [fault])
    with pytest.raises(CameraError, match=message):
        camera(device).read(0.1)


def test_a_stream_that_does_not_open_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", StandIn)
    monkeypatch.setattr(StandIn, "opens", False)
    with pytest.raises(CameraError, match=r"^rtsp://camera/1: the stream does not open"):
        camera("rtsp://me:secret@camera/1")


def test_one_stream_for_two_lenses_is_named_without_its_password() -> None:
    url = "rtsp://me:secret@camera/1"
    with pytest.raises(ConfigError, match=r"^'capture\.infrared': rtsp://camera/1 is the same camera"):
        open_sources(Capture(kind="rtsp", visible=url, infrared=url))


def test_no_line_about_a_pipeline_tells_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "rtspsrc location=rtsp://me:secret@camera/1 ! decodebin ! videoconvert"
    monkeypatch.setattr("edgefer.capture.opencv._has_gstreamer", lambda: False)
    with pytest.raises(CameraError, match=r"rtsp://camera/1 ! decodebin .*no GStreamer"):
        OpenCvSource(Lens.VISIBLE, "gstreamer", text, (64, 48), 25.0).open()
    monkeypatch.setattr("edgefer.capture.opencv._has_gstreamer", lambda: True)
    monkeypatch.setattr(cv2, "VideoCapture", StandIn)
    monkeypatch.setattr(StandIn, "opens", False)
    with pytest.raises(CameraError, match=r"rtsp://camera/1 ! decodebin .*does not start"):
        OpenCvSource(Lens.VISIBLE, "gstreamer", text, (64, 48), 25.0).open()


def test_an_opencv_that_knows_no_limits_for_gstreamer_is_given_none() -> None:
    """Ubuntu's 4.5 and 4.6 refuse to open a pipeline with them."""
    assert [gstreamer_limits(v) for v in ("4.5.4", "4.6.0", "4.7.0-dev")] == [[], [], []]
    assert all(len(gstreamer_limits(v)) == 4 for v in ("4.8.0", "4.10.0", "5.0.0-pre"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("videotestsrc ! appsink", "videotestsrc ! appsink"),
        (
            "nvarguscamerasrc sensor-id=1",
            "nvarguscamerasrc sensor-id=1 ! video/x-raw(memory:NVMM),width=640,height=480,framerate=30/1,format=NV12 ! "
            "nvvidconv ! video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=BGR ! "
            "appsink drop=true max-buffers=1 sync=false",
        ),
        (
            "v4l2src device=/dev/video2",
            "v4l2src device=/dev/video2 ! decodebin ! videoscale ! video/x-raw,width=640,height=480 ! "
            "videoconvert ! video/x-raw,format=BGR ! appsink drop=true max-buffers=1 sync=false",
        ),
    ],
)
def test_a_pipeline_is_completed(text: str, expected: str) -> None:
    assert complete_pipeline(text, 640, 480, 30.0) == expected


@pytest.mark.skipif(shutil.which("gst-launch-1.0") is None, reason="gst-launch-1.0 is not installed")
def test_a_completed_pipeline_is_one_that_gstreamer_runs() -> None:
    text = complete_pipeline("videotestsrc num-buffers=5", 64, 48, 30.0) + " wait-on-eos=false"
    done = subprocess.run(
        ["gst-launch-1.0", "-q", *text.split()], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("stamps_ms", "taken"),
    [
        ([0.0, 33.3, 66.7, 100.0], [0, 33_300_000, 66_700_000, 100_000_000]),
        ([0.0, 0.0, 0.0, 0.0], [0, "arrival", "arrival", "arrival"]),
        ([-1.0, -1.0, -1.0, -1.0], ["arrival"] * 4),
        ([40.0, 80.0, 80.0, 120.0], [40_000_000, 80_000_000, "arrival", "arrival"]),
    ],
)
def test_a_pipeline_is_stamped_by_its_own_clock_as_long_as_that_runs(
    stamps_ms: list[float], taken: list[object], clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", StandIn)
    monkeypatch.setattr("edgefer.capture.opencv._has_gstreamer", lambda: True)
    monkeypatch.setattr(StandIn, "images", [picture(Lens.VISIBLE, k) for k in range(4)])
    monkeypatch.setattr(StandIn, "stamps_ms", stamps_ms)
    source = OpenCvSource(Lens.VISIBLE, "gstreamer", "nvarguscamerasrc", (64, 48), 25.0, clock=clock)
    for _ in range(2):
        source.open()
        assert [source.read(0.1)[0].mono_ns for _ in range(4)] == [clock.now if t == "arrival" else t for t in taken]


def test_reading_a_closed_camera_is_an_error() -> None:
    with pytest.raises(CameraError, match="before open"):
        OpenCvSource(Lens.VISIBLE, "rtsp", "rtsp://x", (64, 48), 25.0).read(0.1)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(48, 64), (48, 64, 1), (48, 64, 3), (48, 64, 4)])
def test_any_picture_becomes_what_the_lens_promises(shape: tuple[int, ...], dtype: type[np.generic]) -> None:
    image = np.full(shape, 77, dtype)
    assert convert(image, Lens.VISIBLE).shape == (48, 64, 3)
    grey = convert(image, Lens.INFRARED)
    assert (grey.shape, grey.dtype) == ((48, 64), np.uint8)


@pytest.mark.parametrize(("shape", "dtype"), [((48, 64), np.float32), ((48, 64, 2), np.uint8), ((64,), np.uint8)])
def test_a_picture_that_is_none_is_refused(shape: tuple[int, ...], dtype: type[np.generic]) -> None:
    with pytest.raises(CameraError, match="not understood"):
        convert(np.zeros(shape, dtype), Lens.VISIBLE)


def test_a_narrow_16_bit_band_fills_the_byte() -> None:
    ramp = np.linspace(7000, 9000, 480 * 640).reshape(480, 640).astype(np.uint16)
    grey = scale_to_bytes(ramp)
    assert (grey.min(), grey.max()) == (0, 255)
    assert np.all(np.diff(grey[:, 0].astype(int)) >= 0)


def test_the_noise_behind_a_cover_stays_dark() -> None:
    noise = np.random.default_rng(0).integers(3000, 3004, (480, 640), dtype=np.uint16)
    assert scale_to_bytes(noise).max() < 6


def test_even_rows_are_visible_and_odd_rows_infrared() -> None:
    even, odd = picture(Lens.VISIBLE, 1), picture(Lens.VISIBLE, 2)
    both = np.stack([even, odd], axis=1).reshape(96, 64, 3)
    source = StackedSource(FakeSource((Lens.VISIBLE,), [both]), "interleaved")
    source.open()
    visible, infrared = source.read(0.1)
    source.close()
    assert np.array_equal(visible.image, even)
    assert np.array_equal(infrared.image, odd[:, :, 1])
    assert infrared.chroma is not None


@pytest.mark.parametrize(("layout", "axis"), [("side-by-side", 1), ("top-bottom", 0)])
def test_a_stacked_picture_is_halved_visible_first_without_a_copy(layout: str, axis: int) -> None:
    left, right = picture(Lens.VISIBLE, 1), picture(Lens.VISIBLE, 2)
    both = np.concatenate([left, right], axis=axis)
    source = StackedSource(FakeSource((Lens.VISIBLE,), [both]), layout)
    source.open()
    visible, infrared = source.read(0.1)
    source.close()
    assert np.array_equal(visible.image, left)
    assert np.shares_memory(visible.image, both)
    assert np.array_equal(infrared.image, right[:, :, 1])


def test_a_stacked_picture_of_odd_width_is_refused() -> None:
    source = StackedSource(FakeSource((Lens.VISIBLE,), [picture(Lens.VISIBLE, 0, (63, 48))]), "side-by-side")
    source.open()
    with pytest.raises(ConfigError, match="63x48 cannot be halved"):
        source.read(0.1)
    source.close()


def test_a_picture_keeps_its_pace_and_does_not_catch_up_after_a_stall(tmp_path: Path, clock: FakeClock) -> None:
    cv2.imwrite(str(tmp_path / "p.png"), picture(Lens.VISIBLE, 0))
    source, start = PictureSource(tmp_path / "p.png", (64, 48), 25.0, clock, clock.wait), clock.now
    source.open()
    stamps = [source.read(1.0)[0].mono_ns - start for _ in range(4)]
    assert stamps == [0, 40_000_000, 80_000_000, 120_000_000]
    assert source.read(0.01) == ()
    clock.wait(10.0)
    late = [source.read(1.0)[0].mono_ns - start for _ in range(4)]
    assert [b - a for a, b in pairwise(late)] == [40_000_000] * 3


def test_a_picture_is_letterboxed_not_stretched(tmp_path: Path, clock: FakeClock) -> None:
    cv2.imwrite(str(tmp_path / "p.png"), np.full((50, 400, 3), 200, np.uint8))
    source = PictureSource(tmp_path / "p.png", (320, 240), 25.0, clock, clock.wait)
    source.open()
    frame = source.read(1.0)[0].image
    assert frame[120].mean() > 190
    assert frame[20].mean() < 10


@pytest.mark.parametrize("content", [b"", b"no picture"])
def test_a_file_that_is_no_picture_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "p.png").write_bytes(content)
    with pytest.raises(InputError, match=r"p\.png: not a picture"):
        PictureSource(tmp_path / "p.png", (64, 48), 25.0)
