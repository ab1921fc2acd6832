# ruff: noqa: E501
"""V4L2 without a camera: the structures against the kernel's header, the choices as stories, the reader on a driver in
Python. That a real driver answers as this one does has to be seen on a real one."""

from __future__ import annotations

import ctypes
import errno
import logging
import shutil
import subprocess
from pathlib import Path

import pytest
from capture_helpers import FakeClock
from fake_v4l2 import FakeKernel

from edgefer.capture import open_sources
from edgefer.capture import v4l2_abi as abi
from edgefer.capture.formats import Scale
from edgefer.capture.reader import REOPEN_LIMIT_S, WRONG_LIMIT_S, pause_s
from edgefer.capture.source import WrongDeviceError
from edgefer.capture.v4l2 import DAMAGED_LIMIT, SILENCE_S, V4l2Source
from edgefer.capture.v4l2_choice import Mode, Range, Settings, choose_mode, plan_controls, stable_name
from edgefer.config import Capture
from edgefer.errors import CameraError, ConfigError
from edgefer.types import Lens

V, NIR = Lens
AUTOMATIC = Settings()
HEADER = Path("/usr/include/linux/videodev2.h")

IN_C = {
    abi.Capability: ("v4l2_capability", {"device_caps": "device_caps"}),
    abi.FormatDescription: ("v4l2_fmtdesc", {"pixelformat": "pixelformat"}),
    abi.FrameSize: ("v4l2_frmsizeenum", {"type": "type", "values": "stepwise"}),
    abi.FrameInterval: ("v4l2_frmivalenum", {"type": "type", "values": "stepwise"}),
    abi.Format: (
        "v4l2_format",
        {"width": "fmt.pix.width", "field": "fmt.pix.field", "bytesperline": "fmt.pix.bytesperline"},
    ),
    abi.StreamParm: ("v4l2_streamparm", {"numerator": "parm.capture.timeperframe.numerator"}),
    abi.RequestBuffers: ("v4l2_requestbuffers", {"memory": "memory"}),
    abi.Buffer: ("v4l2_buffer", {"seconds": "timestamp", "sequence": "sequence", "offset": "m", "length": "length"}),
    abi.Control: ("v4l2_control", {"value": "value"}),
    abi.QueryControl: ("v4l2_queryctrl", {"minimum": "minimum", "maximum": "maximum", "flags": "flags"}),
}
NUMBERS = {
    "VIDIOC_QUERYCAP": abi.QUERYCAP, "VIDIOC_ENUM_FMT": abi.ENUM_FMT, "VIDIOC_S_FMT": abi.S_FMT,
    "VIDIOC_REQBUFS": abi.REQBUFS, "VIDIOC_QUERYBUF": abi.QUERYBUF, "VIDIOC_QBUF": abi.QBUF, "VIDIOC_DQBUF": abi.DQBUF,
    "VIDIOC_STREAMON": abi.STREAMON, "VIDIOC_STREAMOFF": abi.STREAMOFF, "VIDIOC_S_PARM": abi.S_PARM,
    "VIDIOC_S_CTRL": abi.S_CTRL, "VIDIOC_QUERYCTRL": abi.QUERYCTRL, "VIDIOC_ENUM_FRAMESIZES": abi.ENUM_FRAMESIZES,
    "VIDIOC_ENUM_FRAMEINTERVALS": abi.ENUM_FRAMEINTERVALS, "V4L2_BUF_TYPE_VIDEO_CAPTURE": abi.CAPTURE,
    "V4L2_MEMORY_MMAP": abi.MMAP, "V4L2_FRMSIZE_TYPE_DISCRETE": abi.DISCRETE, "V4L2_CAP_VIDEO_CAPTURE": abi.CAP_VIDEO_CAPTURE,
    "V4L2_CAP_META_CAPTURE": abi.CAP_META_CAPTURE, "V4L2_CAP_VIDEO_CAPTURE_MPLANE": abi.CAP_MPLANE,
    "V4L2_CAP_STREAMING": abi.CAP_STREAMING, "V4L2_CAP_DEVICE_CAPS": abi.CAP_DEVICE_CAPS,
    "V4L2_BUF_FLAG_ERROR": abi.FLAG_ERROR, "V4L2_BUF_FLAG_TIMESTAMP_MASK": abi.FLAG_CLOCK,
    "V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC": abi.FLAG_CLOCK_MONOTONIC, "V4L2_CTRL_FLAG_DISABLED": abi.CTRL_DISABLED,
    "V4L2_CID_AUTOGAIN": abi.CID_AUTOGAIN, "V4L2_CID_GAIN": abi.CID_GAIN, "V4L2_CID_ILLUMINATORS_1": abi.CID_ILLUMINATOR,
    "V4L2_CID_EXPOSURE_AUTO": abi.CID_EXPOSURE_AUTO, "V4L2_CID_EXPOSURE_ABSOLUTE": abi.CID_EXPOSURE,
    "V4L2_CID_EXPOSURE_AUTO_PRIORITY": abi.CID_EXPOSURE_PRIORITY, "V4L2_CID_FLASH_LED_MODE": abi.CID_FLASH_LED_MODE,
    "V4L2_EXPOSURE_MANUAL": abi.EXPOSURE_MANUAL, "V4L2_EXPOSURE_AUTO": abi.EXPOSURE_AUTO,
    "V4L2_EXPOSURE_APERTURE_PRIORITY": abi.EXPOSURE_APERTURE, "V4L2_FLASH_LED_MODE_TORCH": abi.FLASH_TORCH,
    "V4L2_FLASH_LED_MODE_NONE": abi.FLASH_OFF, "V4L2_PIX_FMT_YUYV": abi.fourcc("YUYV"), "V4L2_PIX_FMT_GREY": abi.fourcc("GREY"),
    "V4L2_PIX_FMT_Y10": abi.fourcc("Y10 "), "V4L2_PIX_FMT_Y12": abi.fourcc("Y12 "), "V4L2_PIX_FMT_Y16": abi.fourcc("Y16 "),
    "V4L2_PIX_FMT_NV12": abi.fourcc("NV12"), "V4L2_PIX_FMT_UYVY": abi.fourcc("UYVY"), "V4L2_PIX_FMT_MJPEG": abi.fourcc("MJPG"),
    "V4L2_PIX_FMT_BGR24": abi.fourcc("BGR3"), "V4L2_PIX_FMT_RGB24": abi.fourcc("RGB3"),
}  # fmt: skip


@pytest.mark.skipif(not HEADER.exists() or shutil.which("gcc") is None, reason="needs gcc and linux/videodev2.h")
def test_structures_and_numbers_are_the_kernels(tmp_path: Path) -> None:
    told, ours = ["#include <stdio.h>\n#include <stddef.h>\n#include <linux/videodev2.h>\nint main(void){"], []
    for struct, (name, fields) in IN_C.items():
        told.append(f'printf("%zu\\n", sizeof(struct {name}));')
        ours.append(ctypes.sizeof(struct))
        for mine, theirs in fields.items():
            told.append(f'printf("%zu\\n", offsetof(struct {name}, {theirs}));')
            ours.append(getattr(struct, mine).offset)
    for name, number in NUMBERS.items():
        told.append(f'printf("%llu\\n", (unsigned long long)(unsigned)({name}));')
        ours.append(number)
    (tmp_path / "v.c").write_text("\n".join([*told, "return 0;}"]))
    subprocess.run(["gcc", "v.c", "-o", "v"], cwd=tmp_path, check=True, timeout=60)
    said = subprocess.run([tmp_path / "v"], capture_output=True, text=True, check=True, timeout=10).stdout.split()
    assert ours == [int(n) for n in said]


RAW, JPEG = Mode("YUYV", 640, 480, 30.0), Mode("MJPG", 640, 480, 30.0)


@pytest.mark.parametrize(
    ("modes", "lens", "fps", "taken"),
    [
        ([JPEG, RAW], V, 25, RAW),
        ([JPEG, Mode("YUYV", 640, 480, 15.0)], V, 25, JPEG),
        ([Mode("YUYV", 1280, 720, 30.0), JPEG, Mode("YUYV", 320, 240, 60.0)], V, 25, JPEG),
        ([Mode("YUYV", 1280, 720, 10.0), Mode("NV12", 800, 600, 30.0), Mode("YUYV", 320, 240, 60.0)], V, 25,
         Mode("NV12", 800, 600, 30.0)),
        ([RAW, Mode("GREY", 640, 480, 30.0), Mode("Y16 ", 640, 480, 30.0)], NIR, 25, Mode("GREY", 640, 480, 30.0)),
        ([RAW, Mode("Y10 ", 640, 480, 0.0)], NIR, 25, Mode("Y10 ", 640, 480, 0.0)),
        ([Mode("YUYV", 640, 480, 10.0), Mode("MJPG", 640, 480, 15.0)], V, 25, Mode("MJPG", 640, 480, 15.0)),
        ([RAW, JPEG], V, 60, RAW),
        ([Mode("H264", 640, 480, 30.0), RAW], V, 25, RAW),
    ],
)  # fmt: skip
def test_the_mode_that_serves_best_is_taken(modes: list[Mode], lens: Lens, fps: float, taken: Mode) -> None:
    assert choose_mode(modes, lens, (640, 480), fps) == taken
    assert choose_mode(modes[::-1], lens, (640, 480), fps) == taken, "whatever the driver lists first"


def test_a_camera_without_a_known_format_is_told_what_it_offers() -> None:
    with pytest.raises(CameraError, match="offers BA81, H264, none"):
        choose_mode([Mode("H264", 640, 480, 30.0), Mode("BA81", 640, 480, 30.0)], V, (640, 480), 25)


ALL = {
    abi.CID_EXPOSURE_AUTO: Range(0, 3), abi.CID_EXPOSURE: Range(3, 2047), abi.CID_EXPOSURE_PRIORITY: Range(0, 1),
    abi.CID_AUTOGAIN: Range(0, 1), abi.CID_GAIN: Range(0, 100), abi.CID_ILLUMINATOR: Range(0, 1),
}  # fmt: skip


def test_controls_are_locked_with_the_switch_before_the_value_and_within_the_range() -> None:
    plan, missing = plan_controls(Settings(exposure_ms=8.0, gain=500, illuminator="on"), ALL)
    assert plan == [
        (abi.CID_EXPOSURE_AUTO, abi.EXPOSURE_MANUAL), (abi.CID_EXPOSURE, 80), (abi.CID_AUTOGAIN, 0), (abi.CID_GAIN, 100),
        (abi.CID_ILLUMINATOR, 1),
    ]  # fmt: skip
    assert missing == []


def test_automatic_exposure_may_not_slow_the_camera_down() -> None:
    plan, _ = plan_controls(Settings(), ALL)
    assert plan == [
        (abi.CID_EXPOSURE_AUTO, abi.EXPOSURE_APERTURE),
        (abi.CID_EXPOSURE_PRIORITY, 0),
        (abi.CID_AUTOGAIN, 1),
    ]


def test_what_the_driver_has_no_switch_for_is_named() -> None:
    assert plan_controls(Settings(8.0, 3, "off"), {}) == ([], ["exposure_ms", "gain", "illuminator"])
    assert plan_controls(Settings(illuminator="off"), {abi.CID_FLASH_LED_MODE: Range(0, 2)})[0] == [
        (abi.CID_FLASH_LED_MODE, 0)
    ]


def test_a_name_that_lasts_is_found() -> None:
    links = {"/dev/v4l/by-path/pci-1": "/dev/video2", "/dev/v4l/by-id/usb-cam-index0": "/dev/video2"}
    assert stable_name("/dev/video2", links) == "/dev/v4l/by-id/usb-cam-index0"
    assert stable_name("/dev/v4l/by-id/usb-cam-index0", links) is None
    assert stable_name("/dev/video0", links) is None


def source(
    kernel: FakeKernel, lens: Lens = V, settings: Settings = AUTOMATIC, clock: FakeClock | None = None
) -> V4l2Source:
    clock = clock or FakeClock()
    kernel.monotonic = lambda: clock.now - 500_000_000
    return V4l2Source(
        lens,
        "/dev/v4l/by-id/cam",
        (64, 48),
        30.0,
        settings,
        Scale(),
        clock=clock,
        monotonic=kernel.monotonic,
        kernel=kernel,
    )


def test_frames_carry_the_drivers_time_and_its_count(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "edgefer.capture")
    kernel, clock = FakeKernel(), FakeClock()
    cam = source(kernel, clock=clock)
    cam.open()
    clock.wait(1.0)
    taken = clock.now
    kernel.trouble = lambda k, b: clock.wait(0.030)  # exposure is over; transfer takes its time
    (frame,) = cam.read(0.1)
    assert abs(frame.mono_ns - taken) <= 1000, "microseconds are what the driver gives"
    assert (frame.index, frame.image.shape) == (0, (48, 64, 3))
    kernel.burst = 3
    assert cam.read(0.1)[0].index == 3, "the newest; the driver's count shows what was skipped"
    assert [r.getMessage() for r in caplog.records] == ["visible lens: /dev/v4l/by-id/cam, YUYV 64x48"]
    assert (kernel.format, kernel.rate) == (("YUYV", 64, 48), 30.0)
    cam.close()
    cam.close()
    assert (kernel.open_files, kernel.maps) == (set(), 0)


def test_a_driver_without_the_monotonic_clock_is_stamped_on_arrival() -> None:
    kernel, clock = FakeKernel(), FakeClock()
    kernel.clock_flag = 0
    cam = source(kernel, clock=clock)
    cam.open()
    clock.wait(1.0)
    assert cam.read(0.1)[0].mono_ns == clock.now
    cam.close()


def test_frames_use_their_memory_again_once_nobody_looks_at_them() -> None:
    cam = source(FakeKernel())
    cam.open()
    kept = [cam.read(0.1)[0] for _ in range(3)]
    assert len({f.image.ctypes.data for f in kept}) == 3
    before = [f.image.copy() for f in kept]
    seen = {cam.read(0.1)[0].image.ctypes.data for _ in range(30)}
    assert len(seen) == 1, "and no more than one is needed"
    assert all((a == f.image).all() for a, f in zip(before, kept, strict=True)), "what is kept is not written over"
    cam.close()


def test_settings_reach_the_driver_and_what_it_lacks_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    kernel = FakeKernel()
    kernel.controls = {abi.CID_EXPOSURE_AUTO: (0, 3), abi.CID_EXPOSURE: (1, 5000)}
    cam = source(kernel, NIR, Settings(exposure_ms=5.0, illuminator="on"))
    cam.open()
    cam.open()
    cam.close()
    assert kernel.set_controls == {abi.CID_EXPOSURE_AUTO: abi.EXPOSURE_MANUAL, abi.CID_EXPOSURE: 50}
    told = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert told == ["infrared lens: /dev/v4l/by-id/cam cannot do illuminator; left as it is"]


@pytest.mark.parametrize(
    ("where", "number", "line"),
    [
        ("open", errno.ENOENT, "no such camera"), ("open", errno.EACCES, "permission denied; is this user in group video"),
        ("open", errno.EPERM, "DevicePolicy"), ("open", errno.ENOTTY, "not a camera"),
        (abi.QUERYCAP, errno.ENOTTY, "not a camera"), (abi.S_FMT, errno.EBUSY, "in use; another program, or the other lens"),
        (abi.STREAMON, errno.ENOSPC, "not enough USB bandwidth"), (abi.REQBUFS, errno.EIO, "the driver refuses: refused"),
    ],
)  # fmt: skip
def test_each_refusal_is_one_line_and_leaves_nothing_open(where: str | int, number: int, line: str) -> None:
    kernel = FakeKernel()
    if isinstance(where, int):
        kernel.fail[where] = number
    else:
        kernel.refuse = number
    with pytest.raises(CameraError, match=f"^/dev/v4l/by-id/cam: .*{line}") as told:
        source(kernel).open()
    assert "\n" not in str(told.value)
    assert (kernel.open_files, kernel.maps) == (set(), 0)


@pytest.mark.parametrize(
    ("capabilities", "line"),
    [(abi.CAP_META_CAPTURE, "metadata node"), (abi.CAP_MPLANE, "gstreamer"), (2, "no camera")],
)
def test_a_node_that_is_no_camera_is_tried_again_but_seldom(capabilities: int, line: str) -> None:
    kernel = FakeKernel()
    kernel.capabilities = capabilities
    with pytest.raises(WrongDeviceError, match=f"^/dev/v4l/by-id/cam: .*{line}") as told:
        source(kernel).open()
    assert pause_s(10, 1.0, told.value) == WRONG_LIMIT_S


def test_16_bits_that_come_the_other_way_round_are_not_taken_for_ours() -> None:
    assert [abi.name_of(abi.fourcc("Y16 ") | end << 31) for end in (0, 1)] == ["Y16 ", "Y16 -BE"]
    with pytest.raises(CameraError, match="offers Y16 -BE, none"):
        choose_mode([Mode("Y16 -BE", 640, 480, 30.0)], NIR, (640, 480), 25)


def test_a_driver_that_sets_another_format_than_asked_for_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = FakeKernel()

    def stubborn(self: FakeKernel, f: abi.Format) -> None:
        f.pixelformat = abi.fourcc("H264")

    monkeypatch.setitem(FakeKernel.CALLS, abi.S_FMT, stubborn)
    with pytest.raises(CameraError, match="cam: was asked for YUYV and sends H264, which is not understood") as told:
        source(kernel).open()
    assert "gstreamer" in str(told.value)
    assert kernel.open_files == set()


def test_a_driver_that_says_ready_and_has_nothing_is_silent_too() -> None:
    kernel, clock = FakeKernel(), FakeClock()
    cam = source(kernel, clock=clock)
    cam.open()
    kernel._queued.clear()
    kernel.wait = lambda fd, timeout_s: True  # type: ignore[method-assign]
    assert cam.read(0.1) == ()
    clock.wait(SILENCE_S)
    with pytest.raises(CameraError, match="stopped sending"):
        cam.read(0.1)
    cam.close()


def test_a_file_is_no_camera(tmp_path: Path) -> None:
    (tmp_path / "video0").touch()
    with pytest.raises(WrongDeviceError, match="video0: not a camera"):
        V4l2Source(V, str(tmp_path / "video0"), (64, 48), 30.0).open()
    with pytest.raises(WrongDeviceError, match="null: not a camera"):
        V4l2Source(V, "/dev/null", (64, 48), 30.0).open()


def test_a_camera_that_vanishes_in_the_middle_of_a_frame_says_so_and_closes() -> None:
    kernel = FakeKernel()
    cam = source(kernel)
    cam.open()
    kernel.fail = {abi.DQBUF: errno.ENODEV, abi.QBUF: errno.ENODEV, abi.STREAMOFF: errno.ENODEV}
    with pytest.raises(CameraError, match="the camera has gone; is it still plugged in"):
        cam.read(0.1)
    cam.close()
    assert (kernel.open_files, kernel.maps) == (set(), 0)


def _empty(kernel: FakeKernel, buffer: abi.Buffer) -> None:
    buffer.bytesused = 0


def _short(kernel: FakeKernel, buffer: abi.Buffer) -> None:
    buffer.bytesused //= 2


def _damaged(kernel: FakeKernel, buffer: abi.Buffer) -> None:
    buffer.flags |= abi.FLAG_ERROR


@pytest.mark.parametrize(
    ("trouble", "line"), [(_empty, "empty buffer"), (_short, "cut short"), (_damaged, "damaged frame")]
)
def test_a_bad_frame_is_skipped_and_many_in_a_row_open_the_device_anew(trouble: object, line: str) -> None:
    kernel = FakeKernel()
    cam = source(kernel)
    cam.open()
    kernel.trouble = trouble  # type: ignore[assignment]
    for _ in range(DAMAGED_LIMIT - 1):
        assert cam.read(0.1) == ()
    kernel.trouble = None
    assert len(cam.read(0.1)) == 1
    kernel.trouble = trouble  # type: ignore[assignment]
    for _ in range(DAMAGED_LIMIT - 1):
        assert cam.read(0.1) == ()
    with pytest.raises(CameraError, match=f"{line}, {DAMAGED_LIMIT} times in a row"):
        cam.read(0.1)
    cam.close()
    assert kernel.maps == 0


def test_a_camera_that_streams_nothing_is_opened_anew() -> None:
    kernel, clock = FakeKernel(), FakeClock()
    cam = source(kernel, clock=clock)
    cam.open()
    kernel.silent = True
    clock.wait(SILENCE_S - 0.1)
    assert cam.read(0.1) == ()
    clock.wait(0.1)
    with pytest.raises(CameraError, match="stopped sending"):
        cam.read(0.1)
    cam.close()


def test_retries_back_off_and_a_replugged_camera_is_still_back_within_five_seconds() -> None:
    plug, wrong = CameraError("gone"), WrongDeviceError("a printer")
    assert [pause_s(k, 1.0, plug) for k in (1, 2, 3, 50)] == [1.0, 2.0, REOPEN_LIMIT_S, REOPEN_LIMIT_S]
    assert [pause_s(k, 1.0, wrong) for k in (1, 5, 6, 5000)] == [1.0, 16.0, WRONG_LIMIT_S, WRONG_LIMIT_S]
    assert REOPEN_LIMIT_S + 2.0 < 5.0, "a USB camera takes up to two seconds to open"


@pytest.mark.parametrize("second", ["/dev/video7", "7", "link"])
def test_two_lenses_on_one_node_are_refused_whatever_they_are_called(second: str, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/video7")
    name = str(tmp_path / "link") if second == "link" else second
    with pytest.raises(ConfigError, match=r"^'capture.infrared': .* is the same camera as 'capture.visible'"):
        open_sources(Capture(kind="v4l2", visible="/dev/video7", infrared=name))


def test_four_lenses_are_four_sources() -> None:
    config = Capture(kind="v4l2", visible="0", infrared="1", visible2="2", infrared2="3")
    assert [s.lenses for s in open_sources(config)] == [(V,), (NIR,), (V,), (NIR,)]
