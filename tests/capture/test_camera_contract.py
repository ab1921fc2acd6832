"""What every camera kind promises. Walks the registry: a new kind needs a line in `MAKE`, and no new test."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from capture_helpers import Write, motion_jpeg_url, picture
from fake_v4l2 import FakeKernel

from edgefer.capture import KINDS, EndOfStream, Source, open_rig, open_sources
from edgefer.capture.opencv import _has_gstreamer
from edgefer.config import Capture
from edgefer.errors import CameraError, ConfigError, InputError
from edgefer.types import Frame, Lens

FAST = {"fps": 200.0, "width": 64, "height": 48}
Make = Callable[[Path, Write], Capture]


def _picture_file(folder: Path) -> str:
    cv2.imwrite(str(folder / "face.png"), picture(Lens.VISIBLE, 0, (90, 60)))
    return str(folder / "face.png")


def _recording(**options: object) -> Make:
    return lambda folder, write: Capture(kind="recording", source=str(write(period_ms=5.0, **options)), **FAST)


def _stacked(layout: str, size: tuple[int, int]) -> Make:
    def make(folder: Path, write: Write) -> Capture:
        source = write(period_ms=5.0, lenses=(Lens.VISIBLE,), size=size)
        return Capture.model_validate({"kind": "recording", "source": str(source), "layout": layout, **FAST})

    return make


def _served(folder: Path, write: Write) -> Capture:
    return Capture(kind="rtsp", visible=motion_jpeg_url(), **FAST)


def _simulated_kernel(folder: Path, write: Write) -> Capture:
    """A camera driver in Python, behind the five calls through which the real one is reached."""
    return Capture(kind="v4l2", visible="0", **FAST)


NO_CAMERA = pytest.mark.skipif(not Path("/dev/video0").exists(), reason="no /dev/video0 on this machine")
NO_GSTREAMER = pytest.mark.skipif(not _has_gstreamer(), reason="this OpenCV has no GStreamer")
PIPELINE = "videotestsrc is-live=true pattern=snow ! video/x-raw,format=BGR,width=64,height=48 ! appsink drop=true"

MAKE = [
    pytest.param(_recording(), id="recording-video"),
    pytest.param(_recording(images=True), id="recording-images"),
    pytest.param(_recording(lenses=(Lens.INFRARED,)), id="recording-one-lens"),
    pytest.param(_stacked("side-by-side", (128, 48)), id="recording-side-by-side"),
    pytest.param(_stacked("top-bottom", (64, 96)), id="recording-top-bottom"),
    pytest.param(lambda f, w: Capture(kind="picture", source=_picture_file(f), **FAST), id="picture"),
    pytest.param(_stacked("interleaved", (64, 96)), id="recording-interleaved"),
    pytest.param(lambda f, w: Capture(kind="simulator", source=_picture_file(f), **FAST), id="simulator"),
    pytest.param(_served, id="rtsp-motion-jpeg-over-http"),
    pytest.param(_simulated_kernel, id="v4l2-simulated-kernel"),
    pytest.param(lambda f, w: Capture(kind="v4l2", visible="0"), marks=[pytest.mark.camera, NO_CAMERA], id="v4l2"),
    pytest.param(
        lambda f, w: Capture(kind="gstreamer", visible=PIPELINE, **FAST),
        marks=[pytest.mark.camera, NO_GSTREAMER], id="gstreamer",
    ),
]  # fmt: skip


def test_every_registered_kind_is_held_to_the_contract() -> None:
    assert {str(param.id).split("-")[0] for param in MAKE} == set(KINDS)
    assert set(KINDS) == set(Capture.model_fields["kind"].annotation.__args__)  # type: ignore[union-attr]


@pytest.fixture(params=MAKE)
def config(
    request: pytest.FixtureRequest, tmp_path: Path, write_recording: Write, monkeypatch: pytest.MonkeyPatch
) -> Capture:
    if request.param is _simulated_kernel:
        monkeypatch.setattr("edgefer.capture.v4l2.Linux", FakeKernel)
    made: Capture = request.param(tmp_path, write_recording)
    return made


def take(source: Source, count: int) -> list[tuple[Frame, ...]]:
    """The next ``count`` deliveries; fewer when the stream ends."""
    deliveries: list[tuple[Frame, ...]] = []
    try:
        while len(deliveries) < count:
            deliveries += [frames] if (frames := source.read(0.5)) else []
    except EndOfStream:
        pass
    return deliveries


def test_frames_have_the_promised_form(config: Capture) -> None:
    for source in open_sources(config):
        source.open()
        for frames in take(source, 4):
            assert tuple(frame.lens for frame in frames) == source.lenses
            for frame in frames:
                assert frame.image.dtype == np.uint8
                assert frame.image.shape == ((48, 64, 3) if frame.lens is Lens.VISIBLE else (48, 64))
        source.close()


def test_times_and_indices_increase_from_zero(config: Capture) -> None:
    for source in open_sources(config):
        source.open()
        deliveries = take(source, 6)
        source.close()
        assert [frames[0].index for frames in deliveries] == list(range(6))
        assert all(a[0].mono_ns < b[0].mono_ns for a, b in pairwise(deliveries))
        assert all(len({frame.mono_ns for frame in frames}) == 1 for frames in deliveries), "one stream, one time"


def test_close_is_idempotent_and_open_starts_again(config: Capture) -> None:
    for source in open_sources(config):
        source.close()
        for _ in range(2):
            source.open()
            assert take(source, 1)[0][0].index == 0
            source.close()
            source.close()


def test_no_picture_repeats_so_that_no_live_lens_is_frozen(config: Capture) -> None:
    for source in open_sources(config):
        source.open()
        first, second = take(source, 2)
        source.close()
        assert not any(np.array_equal(a.image, b.image) for a, b in zip(first, second, strict=True))


def test_a_rig_delivers_from_it(config: Capture) -> None:
    with open_rig(config) as rig:
        pair = None
        while pair is None:
            pair = rig.next_pair(5.0)
    assert pair.visible is not None or pair.infrared is not None


@pytest.mark.parametrize("kind", ["recording", "picture", "simulator"])
def test_a_missing_source_is_an_input_error_at_once(kind: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere"):
        open_rig(Capture.model_validate({"kind": kind, "source": str(tmp_path / "nowhere")}))


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_missing_key_is_named(kind: str) -> None:
    with pytest.raises(ConfigError, match=r"'capture\.(source|visible)'"):
        open_rig(Capture.model_validate({"kind": kind}))
    with pytest.raises(ConfigError, match=r"'capture\.source'"):
        open_rig(Capture.model_validate({"kind": kind, "layout": "top-bottom"}))


@pytest.mark.parametrize(
    ("kind", "device", "remedy"),
    [
        ("v4l2", "/dev/video-none", r"/dev/video-none: no such camera; is it plugged in\? v4l2-ctl --list-devices"),
        ("v4l2", "77", r"/dev/video77: no such camera"),
        ("rtsp", "rtsp://u:p@127.0.0.1:1/x", r"^rtsp://127.0.0.1:1/x: the stream does not open; try it with ffplay"),
        ("gstreamer", "nosuchsrc ! appsink", r"nosuchsrc ! appsink: (this OpenCV has no GStreamer|the pipeline)"),
    ],
)
def test_a_missing_camera_is_a_clear_camera_error(kind: str, device: str, remedy: str) -> None:
    (source,) = open_sources(Capture.model_validate({"kind": kind, "visible": device}))
    with pytest.raises(CameraError, match=remedy) as error:
        source.open()
    assert "\n" not in str(error.value)
    source.close()


def test_a_recording_of_two_lenses_cannot_be_halved(write_recording: Write) -> None:
    with pytest.raises(ConfigError, match=r"capture\.layout"):
        open_rig(Capture(kind="recording", source=str(write_recording()), layout="top-bottom"))
