"""One lens's pictures on disk: a video, or a folder of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Protocol

import cv2

from edgefer.capture.picture import read_picture
from edgefer.errors import InputError
from edgefer.types import U8

PICTURES: Final = (".png", ".jpg", ".jpeg")


class Reel(Protocol):
    """One lens's pictures."""

    def picture(self, index: int) -> U8 | None:
        """Picture ``index``, asked in increasing order; None past the end. Raises InputError."""

    def close(self) -> None: ...


def open_reel(path: Path) -> Reel:
    """Raises InputError when ``path`` is neither a video nor a folder of pictures."""
    return _Folder(path) if path.is_dir() else _Video(path)


class _Folder:
    def __init__(self, path: Path) -> None:
        self._pictures = sorted(p for p in path.iterdir() if p.suffix.lower() in PICTURES)
        if not self._pictures:
            raise InputError(f"{path}: holds no PNG or JPEG picture; record again or correct recording.json")

    def picture(self, index: int) -> U8 | None:
        return read_picture(self._pictures[index]) if index < len(self._pictures) else None

    def close(self) -> None:
        """Nothing is open between pictures."""


class _Video:
    def __init__(self, path: Path) -> None:
        self._capture = cv2.VideoCapture(str(path))
        self._at = 0
        if not self._capture.isOpened():
            raise InputError(f"{path}: not a video this OpenCV can read; record again, or use folders of pictures")

    def picture(self, index: int) -> U8 | None:
        while self._at < index and self._capture.grab():
            self._at += 1
        self._at += 1
        image: U8 | None = self._capture.read()[1]
        return image

    def close(self) -> None:
        self._capture.release()
