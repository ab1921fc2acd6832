"""Which of a camera's modes is taken, and which controls are set. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from edgefer.capture import v4l2_abi as abi
from edgefer.errors import CameraError
from edgefer.types import Lens

_PREFERRED: Final = {
    Lens.VISIBLE: ("NV12", "YUYV", "UYVY", "BGR3", "RGB3", "MJPG", "GREY", "Y10 ", "Y12 ", "Y16 "),
    Lens.INFRARED: ("GREY", "Y10 ", "Y12 ", "Y16 ", "NV12", "YUYV", "UYVY", "BGR3", "RGB3", "MJPG"),
}
"""raw before JPEG (no decoding, no blocks in the face); for infrared grey before colour"""
RATE_SHARE: Final = 0.9
"""of the rate asked for: 23.976 is good enough for 25, 15 is not"""


@dataclass(frozen=True, slots=True)
class Mode:
    """fps: the highest rate the camera has for it; 0: it does not say."""

    code: str
    width: int
    height: int
    fps: float


@dataclass(frozen=True, slots=True)
class Range:
    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Settings:
    """exposure_ms: 0 is automatic; gain: below 0 is automatic, else the driver's units; illuminator: on, off, leave."""

    exposure_ms: float = 0.0
    gain: int = -1
    illuminator: str = "leave"


def choose_mode(modes: Sequence[Mode], lens: Lens, size: tuple[int, int], fps: float) -> Mode:
    """The mode for ``size`` and ``fps``: first the size, then the rate, then the format. Of sizes that are not the one
    asked for, the smallest that is not smaller. Raises CameraError that names what the camera has."""
    known = [m for m in modes if m.code in _PREFERRED[lens]]
    if not known:
        offered = ", ".join(sorted({m.code.strip() for m in modes})) or "nothing"
        raise CameraError(f'offers {offered}, none of which is understood; convert it with capture.kind = "gstreamer"')

    def cost(m: Mode) -> tuple[bool, int, bool, int, float]:
        smaller = m.width < size[0] or m.height < size[1]
        off = abs(m.width * m.height - size[0] * size[1])
        slow = 0 < m.fps < RATE_SHARE * fps
        return smaller, off, slow, _PREFERRED[lens].index(m.code), -m.fps

    best = min(known, key=cost)
    if 0 < best.fps < RATE_SHARE * fps:  # of what is too slow, the fastest
        same = [m for m in known if (m.width, m.height) == (best.width, best.height)]
        best = max(same, key=lambda m: (m.fps, -_PREFERRED[lens].index(m.code)))
    return best


def plan_controls(settings: Settings, has: Mapping[int, Range]) -> tuple[list[tuple[int, int]], list[str]]:
    """((control, value) in the order to be set, what was asked for and cannot be had)."""
    plan: list[tuple[int, int]] = []
    missing: list[str] = []
    _plan_exposure(settings.exposure_ms, has, plan, missing)
    if settings.gain < 0:
        plan += [(abi.CID_AUTOGAIN, 1)] if abi.CID_AUTOGAIN in has else []
    elif abi.CID_GAIN in has:
        plan += [(abi.CID_AUTOGAIN, 0)] if abi.CID_AUTOGAIN in has else []
        plan.append((abi.CID_GAIN, _within(has[abi.CID_GAIN], settings.gain)))
    else:
        missing.append("gain")
    _plan_illuminator(settings.illuminator, has, plan, missing)
    return plan, missing


def _plan_exposure(ms: float, has: Mapping[int, Range], plan: list[tuple[int, int]], missing: list[str]) -> None:
    """Automatic exposure may not lengthen the frame period; locked exposure counts 100 microseconds."""
    if ms <= 0:
        if abi.CID_EXPOSURE_AUTO in has:
            cameras_own = abi.EXPOSURE_APERTURE if has[abi.CID_EXPOSURE_AUTO].high >= abi.EXPOSURE_APERTURE else 0
            plan.append((abi.CID_EXPOSURE_AUTO, cameras_own))
        if abi.CID_EXPOSURE_PRIORITY in has:
            plan.append((abi.CID_EXPOSURE_PRIORITY, 0))
    elif abi.CID_EXPOSURE in has:
        plan += [(abi.CID_EXPOSURE_AUTO, abi.EXPOSURE_MANUAL)] if abi.CID_EXPOSURE_AUTO in has else []
        plan.append((abi.CID_EXPOSURE, _within(has[abi.CID_EXPOSURE], round(ms * 10))))
    else:
        missing.append("exposure_ms")


def _plan_illuminator(wish: str, has: Mapping[int, Range], plan: list[tuple[int, int]], missing: list[str]) -> None:
    if wish == "leave":
        return
    on = wish == "on"
    if abi.CID_ILLUMINATOR in has:
        plan.append((abi.CID_ILLUMINATOR, int(on)))
    elif abi.CID_FLASH_LED_MODE in has:
        plan.append((abi.CID_FLASH_LED_MODE, abi.FLASH_TORCH if on else abi.FLASH_OFF))
    else:
        missing.append("illuminator")


def _within(limits: Range, value: int) -> int:
    return max(limits.low, min(limits.high, value))


def stable_name(path: str, names: Mapping[str, str]) -> str | None:
    """A name of the camera at ``path`` that survives replugging; ``names``: link -> the node it leads to, as listed in
    /dev/v4l/by-id and by-path. None when ``path`` is one already, or there is none."""
    if path in names:
        return None
    return next((link for link, node in sorted(names.items()) if node == path), None)
