"""How a V4L2 device is reached, and what the kernel's refusals mean to a person. Thin: no judgement."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import select
import stat
from typing import Any, Protocol

from edgefer.capture.source import WrongDeviceError
from edgefer.errors import CameraError


class Kernel(Protocol):
    """The five calls through which a device is reached; all raise OSError."""

    def open(self, path: str) -> int: ...

    def ioctl(self, fd: int, request: int, argument: Any) -> None: ...

    def map(self, fd: int, length: int, offset: int) -> Any: ...

    def wait(self, fd: int, timeout_s: float) -> bool:
        """Whether a frame is ready."""

    def close(self, fd: int) -> None: ...


class Linux:
    """The real ones."""

    def open(self, path: str) -> int:
        if not stat.S_ISCHR(os.stat(path).st_mode):
            raise OSError(errno.ENOTTY, "not a device")
        return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def ioctl(self, fd: int, request: int, argument: Any) -> None:
        fcntl.ioctl(fd, request, argument)

    def map(self, fd: int, length: int, offset: int) -> Any:
        return mmap.mmap(fd, length, offset=offset)

    def wait(self, fd: int, timeout_s: float) -> bool:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        ready = poll.poll(timeout_s * 1e3)
        if ready and not ready[0][1] & select.POLLIN:
            raise OSError(errno.ENODEV, "gone")
        return bool(ready)

    def close(self, fd: int) -> None:
        os.close(fd)


def explained(path: str, error: OSError) -> CameraError:
    """One line with the remedy for what the kernel says."""
    lines = {
        errno.ENOENT: f"{path}: no such camera; is it plugged in? v4l2-ctl --list-devices shows what is there",
        errno.EACCES: f"{path}: permission denied; is this user in group video? (usermod -aG video USER)",
        errno.EPERM: f"{path}: permission denied; does the service's DevicePolicy let it through?",
        errno.EBUSY: f"{path}: in use; another program, or the other lens, has it: fuser {path} tells",
        errno.ENODEV: f"{path}: the camera has gone; is it still plugged in?",
        errno.ENOSPC: f"{path}: not enough USB bandwidth; use another port, a lower rate or size, or MJPG",
    }
    if error.errno in (errno.ENOTTY, errno.EISDIR, errno.ENOTDIR):
        return WrongDeviceError(f"{path}: not a camera; v4l2-ctl --list-devices shows what is there")
    return CameraError(lines.get(error.errno or 0, f"{path}: the driver refuses: {error.strerror}; see dmesg"))


def links() -> dict[str, str]:
    """The names in /dev/v4l that last, and the nodes they lead to."""
    found: dict[str, str] = {}
    for folder in ("/dev/v4l/by-id", "/dev/v4l/by-path"):
        try:
            found |= {entry.path: os.path.realpath(entry.path) for entry in os.scandir(folder)}
        except OSError:
            continue
    return found
