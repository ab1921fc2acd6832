"""Live cameras through OpenCV: GStreamer pipelines, and network streams through FFmpeg."""

from __future__ import annotations

from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from edgefer.capture.formats import Scale, narrowed
from edgefer.capture.look import chroma_of
from edgefer.capture.pool import FramePool
from edgefer.capture.source import Clock
from edgefer.errors import CameraError
from edgefer.redact import without_password
from edgefer.types import U8, Frame, Lens, now_ns

_OPEN_MS: Final = 5000
_READ_MS: Final = 1000
_LIMITS: Final = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _OPEN_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _READ_MS]


class OpenCvSource:
    """One camera, one lens. A network's frames are stamped with the time they arrive, a pipeline's with its own clock
    (that of the sensor or driver, where the element knows it), as long as it shows one that runs.

    kind: gstreamer (``device`` is a pipeline, see `complete_pipeline`) or rtsp (a URL that FFmpeg reads: rtsp://,
    http:// with Motion JPEG). size (width, height) and fps are requests to a pipeline that does not say; what comes is
    taken, but must not change while the device is open.
    """

    def __init__(
        self, lens: Lens, kind: str, device: str, size: tuple[int, int], fps: float, *, clock: Clock = now_ns
    ) -> None:
        self._lens = lens
        self._kind = kind
        self._device = device
        self._wanted = (*size, fps)
        self._clock = clock
        self._capture: Any = None
        self._shape: tuple[int, ...] | None = None
        self._dtype: Any = np.dtype(np.uint8)
        self._taken, self._made = FramePool(), FramePool()
        self._index = 0
        self._stamp_ns = 0
        self._stamped = kind == "gstreamer"

    @property
    def lenses(self) -> tuple[Lens, ...]:
        return (self._lens,)

    def open(self) -> None:
        """Raises CameraError naming the device and the remedy."""
        self.close()
        self._capture = self._open_stream() if self._kind == "rtsp" else self._open_gstreamer()
        self._shape = None
        self._index = self._stamp_ns = 0
        self._stamped = self._kind == "gstreamer"

    def read(self, timeout_s: float) -> tuple[Frame, ...]:
        """The next frame. Blocks until it arrives, at most 1 s whatever ``timeout_s``: OpenCV cannot be interrupted.

        Raises CameraError when nothing arrived or the frame size has changed.
        """
        if self._capture is None:
            raise CameraError(f"{without_password(self._device)}: read before open")
        try:
            delivered, image = self._capture.read(self._room())
        except cv2.error as e:
            raise CameraError(f"{without_password(self._device)}: OpenCV gave up: {' '.join(str(e).split())}") from None
        arrived_ns = self._clock()
        if not delivered or image is None:
            raise CameraError(
                f"{without_password(self._device)}: the camera has stopped sending; is it still plugged in?"
            )
        self._check_size(image)
        self._index += 1
        coloured = self._lens is Lens.INFRARED and image.ndim == 3 and image.shape[2] >= 3 and image.dtype == np.uint8
        chroma = chroma_of(image) if coloured else None
        out = self._made.take(image.shape[:2] if self._lens is Lens.INFRARED else (*image.shape[:2], 3))
        return (
            Frame(self._lens, convert(image, self._lens, out), self._taken_ns(arrived_ns), self._index - 1, chroma),
        )

    def close(self) -> None:
        if self._capture is not None:
            self._capture.release()
            self._capture = None

    def _taken_ns(self, arrived_ns: int) -> int:
        """When the picture was taken, on the pipeline's clock; that of its arrival once the pipeline has shown none."""
        if not self._stamped:
            return arrived_ns
        before, self._stamp_ns = self._stamp_ns, round(self._capture.get(cv2.CAP_PROP_POS_MSEC) * 1e6)
        self._stamped = before < self._stamp_ns or (self._index == 1 and self._stamp_ns == 0)
        return self._stamp_ns if self._stamped else arrived_ns

    def _room(self) -> npt.NDArray[Any] | None:
        """Memory for a picture like the last one, so that OpenCV needs none of its own."""
        return None if self._shape is None else self._taken.take(self._shape, self._dtype)

    def _check_size(self, image: npt.NDArray[Any]) -> None:
        if self._shape is not None and self._shape != image.shape:
            (old_h, old_w), (new_h, new_w) = self._shape[:2], image.shape[:2]
            raise CameraError(
                f"{without_password(self._device)}: the frame size changed from {old_w}x{old_h} to {new_w}x{new_h}"
            )
        self._shape, self._dtype = image.shape, image.dtype

    def _open_stream(self) -> Any:
        capture = cv2.VideoCapture()
        if not _try_open(capture, self._device, cv2.CAP_FFMPEG, _LIMITS):
            raise CameraError(f"{without_password(self._device)}: the stream does not open; try it with ffplay")
        return capture

    def _open_gstreamer(self) -> Any:
        if not _has_gstreamer():
            raise CameraError(
                f"{without_password(self._device)}: this OpenCV has no GStreamer; use the system's python3-opencv "
                '(JetPack brings one) or capture.kind = "v4l2" or "rtsp"'
            )
        capture = cv2.VideoCapture()
        pipeline = complete_pipeline(self._device, *self._wanted)
        if not _try_open(capture, pipeline, cv2.CAP_GSTREAMER, gstreamer_limits(cv2.__version__)):
            raise CameraError(f"{without_password(pipeline)}: the pipeline does not start; try it with gst-launch-1.0")
        return capture


def _try_open(capture: Any, name: str, backend: int, limits: list[int]) -> bool:
    try:
        return bool(capture.open(name, backend, limits))
    except cv2.error:
        return False


def _has_gstreamer() -> bool:
    registry = cv2.videoio_registry
    return cv2.CAP_GSTREAMER in registry.getBackends() and bool(registry.hasBackend(cv2.CAP_GSTREAMER))


def gstreamer_limits(version: str) -> list[int]:
    """Open and read limits for an OpenCV of ``version``; before 4.8 its GStreamer refuses to open with any."""
    major, minor = (int(n) for n in version.split(".")[:2])
    return _LIMITS if (major, minor) >= (4, 8) else []


def complete_pipeline(text: str, width: int, height: int, fps: float) -> str:
    """A whole pipeline for OpenCV from what the configuration says.

    Text that has an appsink is taken as it is. Else the size, the conversion to BGR and a sink that keeps one frame are
    appended; after nvarguscamerasrc (Jetson, CSI) by way of the memory its hardware uses.
    """
    if "appsink" in text:
        return text
    rate = f"{round(fps * 1000)}/1000" if fps != int(fps) else f"{int(fps)}/1"
    sink = "videoconvert ! video/x-raw,format=BGR ! appsink drop=true max-buffers=1 sync=false"
    if "nvarguscamerasrc" in text:
        caps = f"video/x-raw(memory:NVMM),width={width},height={height},framerate={rate},format=NV12"
        return f"{text} ! {caps} ! nvvidconv ! video/x-raw,format=BGRx ! {sink}"
    return f"{text} ! decodebin ! videoscale ! video/x-raw,width={width},height={height} ! {sink}"


def convert(image: npt.NDArray[Any], lens: Lens, out: U8 | None = None) -> U8:
    """What a lens delivers from what OpenCV does: uint8 or uint16, [H, W] or [H, W, 1, 3 or 4] in BGR order.

    Returns uint8, [H, W, 3] BGR for the visible lens, [H, W] grey for the infrared one; ``image`` itself when it is
    that, else in ``out`` if given. Raises CameraError for any other kind of picture.
    """
    if image.dtype not in (np.uint8, np.uint16) or image.ndim not in (2, 3):
        raise CameraError(f"a picture of type {image.dtype} and shape {image.shape} is not understood; use BGR or grey")
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    to_grey = lens is Lens.INFRARED
    if image.dtype == np.uint16:
        image = scale_to_bytes(image, out if to_grey and image.ndim == 2 else None)
    channels = 1 if image.ndim == 2 else image.shape[2]
    if channels == (1 if to_grey else 3):
        return image
    codes = {
        (1, False): cv2.COLOR_GRAY2BGR,
        (3, True): cv2.COLOR_BGR2GRAY,
        (4, True): cv2.COLOR_BGRA2GRAY,
        (4, False): cv2.COLOR_BGRA2BGR,
    }
    if (channels, to_grey) not in codes:
        raise CameraError(f"a picture with {channels} channels is not understood; use BGR or grey")
    converted: U8 = cv2.cvtColor(image, codes[channels, to_grey], dst=out)
    return converted


def scale_to_bytes(image: npt.NDArray[np.uint16], out: U8 | None = None) -> U8:
    """uint16 [H, W] (or [H, W, C]) to uint8: the 1st percentile becomes 0, the 99th 255; into ``out`` if given.

    A raw 16-bit sensor uses a narrow band of its range, so that the upper byte alone would be nearly empty.
    """
    return narrowed(image, 16, Scale("percentile"), out).reshape(image.shape)
