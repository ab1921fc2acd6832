"""What linux/videodev2.h says, as far as it is needed: structures, numbers, ioctl codes. No judgement, no I/O.

A test holds every size, offset and number against the kernel's own header.
"""

from __future__ import annotations

import ctypes
from typing import Final

u8, u32, i32 = ctypes.c_uint8, ctypes.c_uint32, ctypes.c_int32

CAPTURE: Final = 1
"""V4L2_BUF_TYPE_VIDEO_CAPTURE"""
MMAP: Final = 1
DISCRETE: Final = 1
CAP_VIDEO_CAPTURE, CAP_META_CAPTURE, CAP_MPLANE = 0x00000001, 0x00800000, 0x00001000
CAP_STREAMING, CAP_DEVICE_CAPS = 0x04000000, 0x80000000
FLAG_ERROR, FLAG_CLOCK, FLAG_CLOCK_MONOTONIC = 0x0040, 0xE000, 0x2000
CTRL_DISABLED: Final = 0x0001

CID_AUTOGAIN, CID_GAIN, CID_ILLUMINATOR = 0x00980912, 0x00980913, 0x00980925
CID_EXPOSURE_AUTO, CID_EXPOSURE, CID_EXPOSURE_PRIORITY = 0x009A0901, 0x009A0902, 0x009A0903
CID_FLASH_LED_MODE: Final = 0x009C0901
EXPOSURE_MANUAL, EXPOSURE_AUTO, EXPOSURE_APERTURE = 1, 0, 3
FLASH_OFF, FLASH_TORCH = 0, 2


class Capability(ctypes.Structure):
    _fields_ = (
        ("driver", ctypes.c_char * 16), ("card", ctypes.c_char * 32), ("bus_info", ctypes.c_char * 32),
        ("version", u32), ("capabilities", u32), ("device_caps", u32), ("reserved", u32 * 3),
    )  # fmt: skip


class FormatDescription(ctypes.Structure):
    _fields_ = (
        ("index", u32), ("type", u32), ("flags", u32), ("description", ctypes.c_char * 32), ("pixelformat", u32),
        ("mbus_code", u32), ("reserved", u32 * 3),
    )  # fmt: skip


class FrameSize(ctypes.Structure):
    """``values``: width and height when discrete, else min, max and step of the width, then of the height."""

    _fields_ = (
        ("index", u32), ("pixel_format", u32), ("type", u32), ("values", u32 * 6), ("reserved", u32 * 2),
    )  # fmt: skip


class FrameInterval(ctypes.Structure):
    """``values``: seconds as a fraction when discrete, else the shortest first."""

    _fields_ = (
        ("index", u32), ("pixel_format", u32), ("width", u32), ("height", u32), ("type", u32), ("values", u32 * 6),
        ("reserved", u32 * 2),
    )  # fmt: skip


class Format(ctypes.Structure):
    _fields_ = (
        ("type", u32), ("_align", u32), ("width", u32), ("height", u32), ("pixelformat", u32), ("field", u32),
        ("bytesperline", u32), ("sizeimage", u32), ("rest", u8 * 176),
    )  # fmt: skip


class StreamParm(ctypes.Structure):
    _fields_ = (
        ("type", u32), ("capability", u32), ("capturemode", u32), ("numerator", u32), ("denominator", u32),
        ("rest", u8 * 184),
    )  # fmt: skip


class RequestBuffers(ctypes.Structure):
    _fields_ = (("count", u32), ("type", u32), ("memory", u32), ("capabilities", u32), ("rest", u32))


class Buffer(ctypes.Structure):
    _fields_ = (
        ("index", u32), ("type", u32), ("bytesused", u32), ("flags", u32), ("field", u32),
        ("seconds", ctypes.c_long), ("microseconds", ctypes.c_long), ("timecode", u8 * 16), ("sequence", u32),
        ("memory", u32), ("offset", ctypes.c_ulong), ("length", u32), ("reserved2", u32), ("request_fd", i32),
    )  # fmt: skip


class Control(ctypes.Structure):
    _fields_ = (("id", u32), ("value", i32))


class QueryControl(ctypes.Structure):
    _fields_ = (
        ("id", u32), ("type", u32), ("name", ctypes.c_char * 32), ("minimum", i32), ("maximum", i32), ("step", i32),
        ("default_value", i32), ("flags", u32), ("reserved", u32 * 2),
    )  # fmt: skip


def _code(direction: int, number: int, kind: type[ctypes.Structure] | type[ctypes.c_int]) -> int:
    """_IOC('V'): direction 1 writes, 2 reads, 3 both."""
    return direction << 30 | ctypes.sizeof(kind) << 16 | ord("V") << 8 | number


QUERYCAP: Final = _code(2, 0, Capability)
ENUM_FMT: Final = _code(3, 2, FormatDescription)
S_FMT: Final = _code(3, 5, Format)
REQBUFS: Final = _code(3, 8, RequestBuffers)
QUERYBUF: Final = _code(3, 9, Buffer)
QBUF: Final = _code(3, 15, Buffer)
DQBUF: Final = _code(3, 17, Buffer)
STREAMON: Final = _code(1, 18, ctypes.c_int)
STREAMOFF: Final = _code(1, 19, ctypes.c_int)
S_PARM: Final = _code(3, 22, StreamParm)
S_CTRL: Final = _code(3, 28, Control)
QUERYCTRL: Final = _code(3, 36, QueryControl)
ENUM_FRAMESIZES: Final = _code(3, 74, FrameSize)
ENUM_FRAMEINTERVALS: Final = _code(3, 75, FrameInterval)


def fourcc(code: str) -> int:
    return int.from_bytes(code.encode("latin-1"), "little")


def name_of(pixelformat: int) -> str:
    """The four characters; "-BE" behind those of a big-endian form, as the kernel prints it."""
    name = (pixelformat & 0x7FFFFFFF).to_bytes(4, "little").decode("latin-1")
    return name + "-BE" if pixelformat & 0x80000000 else name
