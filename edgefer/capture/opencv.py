"""Live cameras through OpenCV: V4L2 devices and GStreamer pipelines."""

from __future__ import annotations

import os
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from edgefer.capture.source import Clock
from edgefer.errors import CameraError
from edgefer.types import U8, Frame, Lens, now_ns

# OpenCV waits 10 s for a V4L2 device that has stopped sending, and reads this once, at the first wait; GStreamer's
# limits go with the open call below.
os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", "1")

_OPEN_MS: Final = 5000
_READ_MS: Final = 1000
_RAW_16_BIT: Final = ("Y16 ", "Y16", "Y12 ", "Y10 ")
_LEAST_SPAN: Final = 256
"""counts that a 16-bit picture spans at least: one count never becomes more than one grey level, so that the noise
behind a closed cover is not blown up into a picture"""


class OpenCvSource:
    """One camera, one lens. Frames are stamped with the time they arrive.

    kind: v4l2 (``device`` is a path or an index) or gstreamer (a pipeline that ends in an appsink, which should drop:
    ``appsink drop=true max-buffers=1``, BGR or GRAY8). size (width, height) and fps are requests; what comes is taken,
    but must not change while the device is open.
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
        self._index = 0

    @property
    def lenses(self) -> tuple[Lens, ...]:
        return (self._lens,)

    def open(self) -> None:
        """Raises CameraError naming the device and the remedy."""
        self.close()
        self._capture = self._open_v4l2() if self._kind == "v4l2" else self._open_gstreamer()
        self._shape = None
        self._index = 0

    def read(self, timeout_s: float) -> tuple[Frame, ...]:
        """The next frame. Blocks until it arrives, at most 1 s whatever ``timeout_s``: OpenCV cannot be interrupted.

        Raises CameraError when nothing arrived or the frame size has changed.
        """
        if self._capture is None:
            raise CameraError(f"{self._device}: read before open")
        try:
            delivered, image = self._capture.read()
        except cv2.error as e:
            raise CameraError(f"{self._device}: OpenCV gave up: {' '.join(str(e).split())}") from None
        arrived_ns = self._clock()
        if not delivered or image is None:
            raise CameraError(f"{self._device}: the camera has stopped sending; is it still plugged in?")
        self._check_size(image)
        self._index += 1
        return (Frame(self._lens, convert(image, self._lens), arrived_ns, self._index - 1),)

    def close(self) -> None:
        if self._capture is not None:
            self._capture.release()
            self._capture = None

    def _check_size(self, image: npt.NDArray[Any]) -> None:
        if self._shape is not None and self._shape != image.shape:
            (old_h, old_w), (new_h, new_w) = self._shape[:2], image.shape[:2]
            raise CameraError(f"{self._device}: the frame size changed from {old_w}x{old_h} to {new_w}x{new_h}")
        self._shape = image.shape

    def _open_v4l2(self) -> Any:
        path = f"/dev/video{self._device}" if self._device.isdigit() else self._device
        _check_device(path)
        capture = cv2.VideoCapture()
        if not _try_open(capture, path, cv2.CAP_V4L2, []):
            raise CameraError(f"{path}: cannot be opened as a camera; is another program using it? fuser {path} tells")
        width, height, fps = self._wanted
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, width)
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, height)
        capture.set(cv2.CAP_PROP_FPS, fps)
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        if _fourcc(capture) in _RAW_16_BIT:  # else OpenCV keeps the upper byte alone, often an empty one
            capture.set(cv2.CAP_PROP_CONVERT_RGB, 0)
        return capture

    def _open_gstreamer(self) -> Any:
        if not _has_gstreamer():
            raise CameraError(
                f"{self._device}: this OpenCV has no GStreamer; use the system's python3-opencv (JetPack brings one) "
                'or capture.kind = "v4l2"'
            )
        capture = cv2.VideoCapture()
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _OPEN_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _READ_MS]
        if not _try_open(capture, self._device, cv2.CAP_GSTREAMER, limits):
            raise CameraError(f"{self._device}: the pipeline does not start; try it with gst-launch-1.0")
        return capture


def _try_open(capture: Any, name: str, backend: int, limits: list[int]) -> bool:
    try:
        return bool(capture.open(name, backend, limits))
    except cv2.error:
        return False


def _check_device(path: str) -> None:
    """Asked before OpenCV is, which would print a warning of its own at every try."""
    if not os.path.exists(path):
        raise CameraError(f"{path}: no such camera; is it plugged in? v4l2-ctl --list-devices shows what is there")
    if not os.access(path, os.R_OK | os.W_OK):
        raise CameraError(f"{path}: permission denied; is this user in group video? (usermod -aG video USER)")


def _has_gstreamer() -> bool:
    registry = cv2.videoio_registry
    return cv2.CAP_GSTREAMER in registry.getBackends() and bool(registry.hasBackend(cv2.CAP_GSTREAMER))


def _fourcc(capture: Any) -> str:
    code = int(capture.get(cv2.CAP_PROP_FOURCC))
    return bytes((code >> shift) & 0xFF for shift in (0, 8, 16, 24)).decode("latin-1")


def convert(image: npt.NDArray[Any], lens: Lens) -> U8:
    """What a lens delivers from what OpenCV does: uint8 or uint16, [H, W] or [H, W, 1, 3 or 4] in BGR order.

    Returns uint8, [H, W, 3] BGR for the visible lens, [H, W] grey for the infrared one.
    Raises CameraError for any other kind of picture.
    """
    if image.dtype not in (np.uint8, np.uint16) or image.ndim not in (2, 3):
        raise CameraError(f"a picture of type {image.dtype} and shape {image.shape} is not understood; use BGR or grey")
    if image.dtype == np.uint16:
        image = scale_to_bytes(image)
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    to_grey = lens is Lens.INFRARED
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
    converted: U8 = cv2.cvtColor(image, codes[channels, to_grey])
    return converted


def scale_to_bytes(image: npt.NDArray[np.uint16]) -> U8:
    """uint16 [H, W] (or [H, W, 1]) to uint8: the 1st percentile becomes 0, the 99th 255, both of a subsample.

    A raw 16-bit sensor uses a narrow band of its range, so that the upper byte alone would be nearly empty.
    """
    low, high = np.percentile(image[::8, ::8], (1, 99))
    span = max(high - low, _LEAST_SPAN)
    scaled: U8 = np.clip((image.astype(np.float32) - low) * (255.0 / span), 0, 255).astype(np.uint8)
    return scaled
