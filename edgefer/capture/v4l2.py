"""V4L2 and UVC cameras, read without a library: OpenCV's reader knows neither the buffer's clock, nor its sequence
number, nor the flag of a damaged frame, nor most controls, and cannot be interrupted.

What to choose is in `v4l2_choice`, what the bytes mean in `formats`, the structures in `v4l2_abi`, the system calls in
`v4l2_kernel`.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from edgefer.capture import v4l2_abi as abi
from edgefer.capture.formats import FORMATS, Scale, chroma_in, decode
from edgefer.capture.pool import FramePool
from edgefer.capture.source import Clock, WrongDeviceError
from edgefer.capture.v4l2_choice import Mode, Range, Settings, choose_mode, plan_controls, stable_name
from edgefer.capture.v4l2_kernel import Kernel, Linux, explained, links
from edgefer.errors import CameraError
from edgefer.types import Frame, Lens, now_ns

log = logging.getLogger("edgefer.capture")

BUFFERS: Final = 4
DAMAGED_LIMIT: Final = 10
"""damaged or empty frames in a row before the device is opened anew"""
SILENCE_S: Final = 2.0
"""a device that streams and sends nothing for this long is opened anew"""
_CONTROLS: Final = (
    abi.CID_AUTOGAIN, abi.CID_GAIN, abi.CID_ILLUMINATOR, abi.CID_EXPOSURE_AUTO, abi.CID_EXPOSURE,
    abi.CID_EXPOSURE_PRIORITY, abi.CID_FLASH_LED_MODE,
)  # fmt: skip


_AUTOMATIC, _AUTO_SCALE = Settings(), Scale()


class V4l2Source:
    """One camera, one lens. Frames carry the driver's own times (monotonic clock, turned into boot time).

    device: a path, best one below /dev/v4l/by-id, or a number. size (width, height) and fps are wishes; the nearest
    mode the camera has is taken. For radiometric or deep sensors see ``scale``.
    """

    def __init__(
        self, lens: Lens, device: str, size: tuple[int, int], fps: float, settings: Settings = _AUTOMATIC,
        scale: Scale = _AUTO_SCALE, *, clock: Clock = now_ns, monotonic: Clock = time.monotonic_ns,
        kernel: Kernel | None = None,
    ) -> None:  # fmt: skip
        self._lens, self._wish = lens, (size, fps)
        self._path = f"/dev/video{device}" if device.isdigit() else device
        self._settings, self._scale = settings, scale
        self._clock, self._monotonic = clock, monotonic
        self._kernel = kernel or Linux()
        self._pool = FramePool()
        self._fd: int | None = None
        self._maps: list[Any] = []
        self._mode = Mode("", 0, 0, 0.0)
        self._stride = 0
        self._first: int | None = None
        self._damaged = 0
        self._heard_ns = 0
        self._said = False

    @property
    def lenses(self) -> tuple[Lens, ...]:
        return (self._lens,)

    def open(self) -> None:
        """Raises CameraError naming the device and the remedy."""
        self.close()
        try:
            self._fd = self._kernel.open(self._path)
            self._check_kind()
            self._mode = choose_mode(list(self._modes()), self._lens, *self._wish)
            self._set_mode()
            self._set_controls()
            self._start()
        except OSError as e:
            self.close()
            raise explained(self._path, e) from None
        except CameraError as e:
            self.close()
            raise type(e)(f"{self._path}: {e}") from None
        self._first, self._damaged, self._heard_ns = None, 0, self._clock()
        self._tell_once()

    def read(self, timeout_s: float) -> tuple[Frame, ...]:
        """The newest frame; what the driver had before that is handed back unread.

        Raises CameraError when the device has gone, sends nothing for ``SILENCE_S`` or only damaged frames.
        """
        if self._fd is None:
            raise CameraError(f"{self._path}: read before open")
        try:
            if not self._kernel.wait(self._fd, timeout_s):
                return self._silent()
            return self._newest()
        except OSError as e:
            raise explained(self._path, e) from None

    def close(self) -> None:
        if self._fd is None:
            return
        with contextlib.suppress(OSError):  # it has gone, or never streamed
            self._call(abi.STREAMOFF, ctypes.c_int(abi.CAPTURE))
        for mapped in self._maps:
            mapped.close()
        self._maps.clear()
        self._kernel.close(self._fd)
        self._fd = None

    def _call(self, request: int, argument: Any) -> Any:
        assert self._fd is not None
        self._kernel.ioctl(self._fd, request, argument)
        return argument

    def _check_kind(self) -> None:
        found = self._call(abi.QUERYCAP, abi.Capability())
        can = found.device_caps if found.capabilities & abi.CAP_DEVICE_CAPS else found.capabilities
        if can & abi.CAP_VIDEO_CAPTURE and can & abi.CAP_STREAMING:
            return
        if can & abi.CAP_META_CAPTURE:
            raise WrongDeviceError("the metadata node of a camera; its pictures are on another one, usually ...-index0")
        if can & abi.CAP_MPLANE:
            raise WrongDeviceError('sends planes apart, which is not read here; use capture.kind = "gstreamer"')
        raise WrongDeviceError("a video device, but no camera; v4l2-ctl --list-devices shows what is there")

    def _modes(self) -> Iterator[Mode]:
        for fmt in self._listed(abi.ENUM_FMT, lambda k: abi.FormatDescription(index=k, type=abi.CAPTURE)):
            pixels = fmt.pixelformat
            for size in self._sizes(pixels):
                yield Mode(abi.name_of(pixels), *size, self._fps(pixels, *size))

    def _sizes(self, pixels: int) -> list[tuple[int, int]]:
        """All of them, or of a range the nearest to the wish; the wish itself where the driver does not say."""
        found = list(self._listed(abi.ENUM_FRAMESIZES, lambda k: abi.FrameSize(index=k, pixel_format=pixels)))
        w, h = self._wish[0]
        if not found:
            return [(w, h)]
        if found[0].type == abi.DISCRETE:
            return [(s.values[0], s.values[1]) for s in found]
        low_w, high_w, _, low_h, high_h, _ = found[0].values
        return [(max(low_w, min(high_w, w)), max(low_h, min(high_h, h)))]

    def _fps(self, pixels: int, w: int, h: int) -> float:
        found = list(
            self._listed(
                abi.ENUM_FRAMEINTERVALS, lambda k: abi.FrameInterval(index=k, pixel_format=pixels, width=w, height=h)
            )
        )
        return max((i.values[1] / i.values[0] for i in found if i.values[0]), default=0.0)

    def _listed(self, request: int, make: Callable[[int], Any]) -> Iterator[Any]:
        """The driver's list, which ends with EINVAL; one that knows no such list says ENOTTY."""
        for index in range(64):
            try:
                item = self._call(request, make(index))
            except OSError as e:
                if e.errno in (errno.EINVAL, errno.ENOTTY):
                    return
                raise
            yield item
            if getattr(item, "type", abi.DISCRETE) != abi.DISCRETE and request != abi.ENUM_FMT:
                return

    def _set_mode(self) -> None:
        wanted, fps = self._mode, self._wish[1]
        got = self._call(
            abi.S_FMT,
            abi.Format(
                type=abi.CAPTURE, width=wanted.width, height=wanted.height, pixelformat=abi.fourcc(wanted.code), field=1
            ),
        )
        self._mode = Mode(abi.name_of(got.pixelformat), got.width, got.height, wanted.fps)
        if self._mode.code not in FORMATS:
            raise CameraError(
                f"was asked for {wanted.code.strip()} and sends {self._mode.code.strip()}, which is not understood; "
                'convert it with capture.kind = "gstreamer"'
            )
        self._stride = 0 if self._mode.code == "MJPG" else got.bytesperline
        try:
            self._call(abi.S_PARM, abi.StreamParm(type=abi.CAPTURE, numerator=1000, denominator=round(fps * 1000)))
        except OSError as e:
            if e.errno not in (errno.EINVAL, errno.ENOTTY):  # a fixed rate
                raise

    def _set_controls(self) -> None:
        has: dict[int, Range] = {}
        for control in _CONTROLS:
            try:
                found = self._call(abi.QUERYCTRL, abi.QueryControl(id=control))
            except OSError:
                continue
            if not found.flags & abi.CTRL_DISABLED:
                has[control] = Range(found.minimum, found.maximum)
        plan, missing = plan_controls(self._settings, has)
        for control, value in plan:
            try:
                self._call(abi.S_CTRL, abi.Control(id=control, value=value))
            except OSError as e:
                missing.append(f"control 0x{control:08x} = {value} ({e.strerror})")
        if missing and not self._said:
            log.warning("%s lens: %s cannot do %s; left as it is", self._lens.value, self._path, ", ".join(missing))

    def _start(self) -> None:
        count = self._call(abi.REQBUFS, abi.RequestBuffers(count=BUFFERS, type=abi.CAPTURE, memory=abi.MMAP)).count
        for index in range(count):
            buffer = self._call(abi.QUERYBUF, abi.Buffer(index=index, type=abi.CAPTURE, memory=abi.MMAP))
            assert self._fd is not None
            self._maps.append(self._kernel.map(self._fd, buffer.length, buffer.offset))
            self._call(abi.QBUF, buffer)
        self._call(abi.STREAMON, ctypes.c_int(abi.CAPTURE))

    def _newest(self) -> tuple[Frame, ...]:
        buffer = None
        while (following := self._dequeue()) is not None:
            if buffer is not None:
                self._call(abi.QBUF, buffer)
            buffer = following
        if buffer is None:
            return self._silent()
        try:
            return self._frame(buffer)
        finally:
            self._call(abi.QBUF, buffer)

    def _dequeue(self) -> abi.Buffer | None:
        try:
            return abi.Buffer.from_buffer_copy(self._call(abi.DQBUF, abi.Buffer(type=abi.CAPTURE, memory=abi.MMAP)))
        except BlockingIOError:
            return None

    def _frame(self, buffer: abi.Buffer) -> tuple[Frame, ...]:
        self._heard_ns = self._clock()
        mode, size = self._mode, (self._mode.width, self._mode.height)
        data, fault = memoryview(self._maps[buffer.index])[: buffer.bytesused], ""
        try:
            if buffer.flags & abi.FLAG_ERROR:
                raise CameraError("the camera sent a damaged frame")
            out = self._pool.take((size[1], size[0], 3) if self._lens is Lens.VISIBLE else (size[1], size[0]))
            image = decode(data, mode.code, size, self._lens, self._scale, self._stride, out)
            chroma = chroma_in(data, mode.code, size, self._stride) if self._lens is Lens.INFRARED else None
        except CameraError as e:
            fault = str(e)  # and not the error itself, which holds on to the driver's memory
        if fault:
            return self._note_damage(fault)
        self._damaged = 0
        if self._first is None:
            self._first = buffer.sequence
        return (Frame(self._lens, image, self._time_of(buffer), buffer.sequence - self._first, chroma),)

    def _time_of(self, buffer: abi.Buffer) -> int:
        """Boot time. A driver without the monotonic clock says so, and the time of arrival has to do."""
        if buffer.flags & abi.FLAG_CLOCK != abi.FLAG_CLOCK_MONOTONIC:
            return self._heard_ns
        age_ns = self._monotonic() - (buffer.seconds * 1_000_000_000 + buffer.microseconds * 1000)
        return self._clock() - age_ns

    def _note_damage(self, fault: str) -> tuple[Frame, ...]:
        self._damaged += 1
        if self._damaged >= DAMAGED_LIMIT:
            raise CameraError(f"{self._path}: {fault}, {self._damaged} times in a row; check cable and USB bandwidth")
        return ()

    def _silent(self) -> tuple[Frame, ...]:
        if self._clock() - self._heard_ns >= SILENCE_S * 1e9:
            raise CameraError(f"{self._path}: the camera has stopped sending; is it still plugged in?")
        return ()

    def _tell_once(self) -> None:
        if self._said:
            return
        self._said = True
        m = self._mode
        log.info("%s lens: %s, %s %dx%d", self._lens.value, self._path, m.code.strip(), m.width, m.height)
        better = stable_name(self._path, links())
        if better is not None:
            log.info("%s lens: %s keeps its name when replugged; use it instead", self._lens.value, better)
