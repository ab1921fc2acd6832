"""From the bytes of a camera buffer to a picture. Pure: bytes and numbers in, arrays out.

Formats are named by their V4L2 four-character codes. Samples of more than 8 bits are little-endian 16-bit words.

| code | content | bytes per pixel |
|---|---|---|
| GREY | 8-bit grey | 1 |
| Y10, Y12, Y16 | 10, 12 or 16 bits of grey in the low end of a word | 2 |
| YUYV, UYVY | colour, 4:2:2 | 2 |
| NV12 | colour, 4:2:0, brightness plane first | 1.5 |
| BGR3, RGB3 | colour, 8 bits each | 3 |
| MJPG | one JPEG a frame | - |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import cv2
import numpy as np
import numpy.typing as npt

from edgefer.errors import CameraError
from edgefer.types import U8, Lens

U16 = npt.NDArray[np.uint16]
Scaling = Literal["auto", "bits", "percentile", "temperature"]

DEPTHS: Final = {"Y10 ": 10, "Y12 ": 12, "Y16 ": 16}
_CODES: Final = {
    ("YUYV", Lens.VISIBLE): cv2.COLOR_YUV2BGR_YUYV,
    ("UYVY", Lens.VISIBLE): cv2.COLOR_YUV2BGR_UYVY,
    ("BGR3", Lens.INFRARED): cv2.COLOR_BGR2GRAY,
    ("RGB3", Lens.INFRARED): cv2.COLOR_RGB2GRAY,
    ("RGB3", Lens.VISIBLE): cv2.COLOR_RGB2BGR,
}
_BYTES: Final = {
    "GREY": 1.0, **dict.fromkeys(DEPTHS, 2.0), "YUYV": 2.0, "UYVY": 2.0, "NV12": 1.5,
    "BGR3": 3.0, "RGB3": 3.0,
}  # fmt: skip
FORMATS: Final = (*_BYTES, "MJPG")
LEAST_SPAN: Final = 256
"""counts that a 16-bit picture spans at least: one count never becomes more than one grey level, so that the noise
behind a closed cover is not blown up into a picture"""
ZERO_C: Final = 273.15


@dataclass(frozen=True, slots=True)
class Scale:
    """How more than 8 bits become 8.

    bits: the sensor's full range, so that exposure means what it says. percentile: the 1st becomes 0, the 99th 255, for
    thermal sensors that use a narrow band. temperature: ``low_c`` degrees become 0, ``high_c`` 255, for radiometric
    sensors that count ``kelvin_per_count``: the same skin is the same grey all day. auto: percentile for 16 bits, else
    bits.
    """

    kind: Scaling = "auto"
    low_c: float = 15.0
    high_c: float = 45.0
    kelvin_per_count: float = 0.01


_AUTO: Final = Scale()


def decode(
    data: Any, code: str, size: tuple[int, int], lens: Lens, scale: Scale = _AUTO, stride: int = 0,
    out: U8 | None = None,
) -> U8:  # fmt: skip
    """The picture in ``data`` (bytes, memoryview or uint8 [n]): uint8 [H, W, 3] BGR of the visible lens, [H, W] grey of
    the infrared one.

    size: (width, height); stride: bytes from row to row, 0: no padding; out: array to fill, where the format allows.
    Raises CameraError, without the device's name, when the data is short, empty or no picture, or a side is odd where
    neighbours share their colour.
    """
    raw = np.frombuffer(data, np.uint8)
    if raw.size == 0:
        raise CameraError("the camera sent an empty buffer")
    if code == "MJPG":
        return _jpeg(raw, size, lens)
    if code not in _BYTES:
        raise CameraError(f"the pixel format {code!r} is not understood; use one of {', '.join(FORMATS)}")
    if (size[0] % 2 and code in ("YUYV", "UYVY", "NV12")) or (size[1] % 2 and code == "NV12"):
        raise CameraError(f"{code} pictures have even sides, not {size[0]}x{size[1]}; ask for another capture.width")
    rows = _rows(raw, code, size, stride)
    if code in DEPTHS:
        grey_out = out if lens is Lens.INFRARED else None
        return _grey_to(lens, narrowed(rows.view("<u2"), DEPTHS[code], scale, grey_out), out)
    if code == "GREY":
        return _copied(rows, out) if lens is Lens.INFRARED else _grey_to(lens, rows, out)
    return _colour(rows, code, size, lens, out)


def chroma_in(data: Any, code: str, size: tuple[int, int], stride: int = 0) -> float | None:
    """Mean distance of the colours from grey, as `edgefer.capture.look.chroma_of` has it; None where there is none."""
    if code not in ("YUYV", "UYVY", "NV12"):
        return None
    rows = _rows(np.frombuffer(data, np.uint8), code, size, stride)
    u_at = 1 if code == "YUYV" else 0
    colour = rows[size[1] :: 8, ::8] if code == "NV12" else rows[::16, u_at::16]
    return 1.5 * float(np.abs(colour.astype(np.int16) - 128).mean())


def narrowed(samples: U16, depth: int, scale: Scale = _AUTO, out: U8 | None = None) -> U8:
    """uint16 [H, W] of ``depth`` bits to uint8 [H, W] by ``scale``."""
    low, span = limits(samples, depth, scale)
    gain = 255.0 / span
    if low <= 0:  # nothing falls below black: the same numbers, ten times faster
        return np.asarray(cv2.convertScaleAbs(samples, dst=out, alpha=gain, beta=-low * gain))
    whole: U8 = cv2.addWeighted(samples, gain, samples, 0.0, -low * gain, dst=out, dtype=cv2.CV_8U)
    return whole


def limits(samples: U16, depth: int, scale: Scale) -> tuple[float, float]:
    """(count that becomes 0, counts from there to 255) under ``scale``."""
    kind = scale.kind if scale.kind != "auto" else ("percentile" if depth == 16 else "bits")
    if kind == "bits":
        return 0.0, float((1 << depth) - 1)
    if kind == "percentile":
        low, high = (float(v) for v in np.percentile(samples[::8, ::8], (1, 99)))
        return low, max(high - low, float(LEAST_SPAN >> (16 - depth)), 1.0)
    return (scale.low_c + ZERO_C) / scale.kelvin_per_count, (scale.high_c - scale.low_c) / scale.kelvin_per_count


def _rows(raw: U8, code: str, size: tuple[int, int], stride: int) -> U8:
    """uint8 [rows, bytes of a row], a view without the padding. NV12 has H / 2 rows of colour below."""
    w, h = size
    rows, used = (h * 3 // 2, w) if code == "NV12" else (h, round(_BYTES[code] * w))
    stride = max(stride, used)
    needed = stride * (rows - 1) + used
    if raw.size < needed:
        raise CameraError(f"the camera sent {raw.size} of {needed} bytes: a frame was cut short")
    return np.lib.stride_tricks.as_strided(raw, (rows, used), (stride, 1), writeable=False)


def _colour(rows: U8, code: str, size: tuple[int, int], lens: Lens, out: U8 | None) -> U8:
    w, h = size
    if code == "NV12":
        if lens is Lens.INFRARED:
            return _copied(rows[:h], out)
        return np.asarray(cv2.cvtColor(rows, cv2.COLOR_YUV2BGR_NV12, dst=out))
    if code in ("YUYV", "UYVY") and lens is Lens.INFRARED:  # brightness as it came: no way through colour and back
        return np.asarray(cv2.extractChannel(rows.reshape(h, w, 2), int(code == "UYVY"), dst=out))
    pixels = rows.reshape(h, w, 2 if code in ("YUYV", "UYVY") else 3)
    if (code, lens) not in _CODES:
        return _copied(pixels, out)
    return np.asarray(cv2.cvtColor(pixels, _CODES[code, lens], dst=out))


def _jpeg(raw: U8, size: tuple[int, int], lens: Lens) -> U8:
    try:
        image = cv2.imdecode(raw, cv2.IMREAD_COLOR if lens is Lens.VISIBLE else cv2.IMREAD_GRAYSCALE)
    except cv2.error:
        image = None
    if image is None:
        raise CameraError("the camera sent a JPEG that cannot be read: a frame was cut short")
    found = (image.shape[1], image.shape[0])
    if found != size:
        raise CameraError(f"the frame size changed from {size[0]}x{size[1]} to {found[0]}x{found[1]}")
    return np.asarray(image)


def _grey_to(lens: Lens, grey: U8, out: U8 | None) -> U8:
    """A grey sensor may serve as the visible lens."""
    return grey if lens is Lens.INFRARED else np.asarray(cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR, dst=out))


def _copied(pixels: U8, out: U8 | None) -> U8:
    """Out of the driver's buffer, which is handed back."""
    if out is None:
        return pixels.copy()
    np.copyto(out, pixels)
    return out
