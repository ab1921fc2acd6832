"""Writes recordings (see `edgefer.capture.recording` for the format)."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import cv2

from edgefer.capture.recording import FORMAT, HEADER
from edgefer.capture.rig import Rig
from edgefer.errors import CameraError, InputError
from edgefer.types import U8, Frame, Lens


class Recorder:
    """A context manager that writes into ``<folder>.part`` and gives it its name when all went well.

    images: folders of PNG (exact, large) instead of MJPG video (about 2 GB at most for each lens).
    fps: written into the video and recording.json; replay follows the frames' own times. consent: noted there too.
    Raises InputError when ``folder`` holds something, or a ``.part`` of an earlier run is in the way.
    """

    def __init__(self, folder: Path, fps: float, images: bool = False, consent: bool = False) -> None:
        self._folder, self._consent = folder, consent
        self._part = folder.with_name(folder.name + ".part")
        self._fps = fps
        self._images = images
        self._tracks: dict[Lens, _Track] = {}
        self._last_ns: dict[Lens, int] = {}
        self._rows: list[tuple[str, int, int]] = []

    def __enter__(self) -> Recorder:
        if self._folder.exists() and not (self._folder.is_dir() and not any(self._folder.iterdir())):
            raise InputError(f"{self._folder}: exists already; name a new folder")
        if self._part.exists():
            raise InputError(f"{self._part}: left over from a recording that was killed; remove it")
        try:
            self._part.mkdir(parents=True)
        except OSError as e:
            raise InputError(f"{self._part}: cannot be created: {e.strerror}") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for track in self._tracks.values():
                track.close()
            if kind is None:
                for track in self._tracks.values():
                    track.verify()
                self._finish()
        finally:
            shutil.rmtree(self._part, ignore_errors=True)  # there is none after a good end

    def write(self, frame: Frame) -> None:
        """Appends a frame, uint8 [H, W, 3] or [H, W]; each lens keeps one size and its times increase.

        Raises InputError otherwise, or when the disk refuses.
        """
        lens = frame.lens
        if frame.mono_ns <= self._last_ns.get(lens, -1):
            raise InputError(f"{self._folder}: a {lens.value} frame came that is not later than the one before")
        if lens not in self._tracks:
            self._tracks[lens] = self._open_track(frame)
        index = self._tracks[lens].add(frame.image)
        self._last_ns[lens] = frame.mono_ns
        self._rows.append((lens.value, index, frame.mono_ns))

    @property
    def count(self) -> int:
        """Frames written so far, both lenses together."""
        return len(self._rows)

    def bytes_written(self) -> int:
        """What the pictures take on disk so far."""
        return sum(track.bytes_written() for track in self._tracks.values())

    def bytes_free(self) -> int:
        """Room left on that disk."""
        return shutil.disk_usage(self._part).free

    def _open_track(self, frame: Frame) -> _Track:
        path = self._part / frame.lens.value
        return _PngTrack(path, frame.image) if self._images else _VideoTrack(path, frame.image, self._fps)

    def _finish(self) -> None:
        if not self._rows:
            raise InputError(f"{self._folder}: no frame was written, so there is no recording")
        try:
            with (self._part / "timestamps.csv").open("w", encoding="utf-8", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows([HEADER, *self._rows])
            (self._part / "recording.json").write_text(json.dumps(self._described(), indent=2) + "\n", encoding="utf-8")
            os.replace(self._part, self._folder)
        except OSError as e:
            raise InputError(f"{self._folder}: cannot be written: {e.strerror}; is the disk full?") from None

    def _described(self) -> dict[str, Any]:
        leading = self._tracks.get(Lens.VISIBLE) or self._tracks[Lens.INFRARED]
        h, w = leading.shape[:2]
        names = {lens.value: track.name for lens, track in self._tracks.items()}
        return {"format": FORMAT, **names, "width": w, "height": h, "fps": self._fps, "consent": self._consent}


class _Track(Protocol):
    name: str
    shape: tuple[int, ...]

    def add(self, image: U8) -> int:
        """The index the picture got."""

    def bytes_written(self) -> int: ...

    def close(self) -> None: ...

    def verify(self) -> None:
        """After `close`. Raises InputError when the disk does not hold what was added."""


class _VideoTrack:
    def __init__(self, path: Path, image: U8, fps: float) -> None:
        self._path = path.with_suffix(".avi")
        self.name = self._path.name
        self.shape = image.shape
        size = (image.shape[1], image.shape[0])
        code = cv2.VideoWriter.fourcc(*"MJPG")
        self._writer = cv2.VideoWriter(str(self._path), cv2.CAP_OPENCV_MJPEG, code, fps, size, True)
        self._count = 0
        if not self._writer.isOpened():
            raise InputError(f"{self._path}: OpenCV cannot write this video; record pictures instead")

    def add(self, image: U8) -> int:
        _check_size(self._path, self.shape, image)
        # OpenCV's grey Motion JPEG cannot be decoded by FFmpeg, so a grey frame is written in colour.
        self._writer.write(image if image.ndim == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2BGR))
        self._count += 1
        return self._count - 1

    def bytes_written(self) -> int:
        return self._path.stat().st_size if self._path.exists() else 0

    def close(self) -> None:
        self._writer.release()

    def verify(self) -> None:
        """OpenCV's writer says nothing when the disk is full or the file has become too long for its format."""
        reader = cv2.VideoCapture(str(self._path), cv2.CAP_OPENCV_MJPEG)  # the others estimate the count
        held = max(0, int(reader.get(cv2.CAP_PROP_FRAME_COUNT)))
        reader.release()
        if held != self._count:
            raise InputError(f"{self._path}: holds {held} of {self._count} frames; is the disk full?")


class _PngTrack:
    def __init__(self, path: Path, image: U8) -> None:
        path.mkdir()
        self._path = path
        self.name = path.name
        self.shape = image.shape
        self._count = self._bytes = 0

    def add(self, image: U8) -> int:
        _check_size(self._path, self.shape, image)
        path = self._path / f"{self._count:08d}.png"
        if not cv2.imwrite(str(path), image):
            raise InputError(f"{path}: cannot be written; is the disk full?")
        self._count += 1
        self._bytes += path.stat().st_size
        return self._count - 1

    def bytes_written(self) -> int:
        return self._bytes

    def close(self) -> None:
        """Every picture is closed as soon as it is written."""

    def verify(self) -> None:
        """Every write was checked."""


def _check_size(path: Path, shape: tuple[int, ...], image: U8) -> None:
    if image.shape != shape:
        old, new = ("x".join(str(n) for n in s[1::-1]) for s in (shape, image.shape))
        raise InputError(f"{path}: the frame size changed from {old} to {new}; record again with one size")


@dataclass(frozen=True)
class Room:
    """most: bytes a recording may take; spare: bytes that stay free on the disk."""

    most: int = 2_000_000_000
    spare: int = 500_000_000

    def why_full(self, written: int, free: int) -> str | None:
        """One clause when there is no room for more. Pure."""
        if written >= self.most:
            return f"the recording has reached {self.most / 1e6:.0f} MB"
        if free < self.spare:
            return f"less than {self.spare / 1e6:.0f} MB are left on the disk"
        return None


def record(
    rig: Rig, recorder: Recorder, seconds: float, should_stop: Callable[[], bool] = lambda: False,
    room: Room | None = None, guard: Callable[[Frame], None] = lambda frame: None,
) -> str | None:  # fmt: skip
    """Writes what ``rig`` (started) delivers for ``seconds``, until ``should_stop()`` or an end of recording or room.

    guard: raises what forbids a frame. Returns why there was no room for more, None when there was.
    Raises CameraError when not one frame came, InputError as `Recorder.write`.
    """
    end_ns, full = rig.now_ns() + round(seconds * 1e9), None
    while not should_stop() and not rig.ended and rig.now_ns() < end_ns and full is None:
        pair = rig.next_pair(0.2)
        for frame in () if pair is None else (pair.visible, pair.infrared):
            if frame is not None:
                guard(frame)
                recorder.write(frame)
        if room is not None:
            full = room.why_full(recorder.bytes_written(), recorder.bytes_free())
    if recorder.count == 0:
        raise CameraError(f"no lens delivered a frame in {seconds:g} s; is the camera plugged in?")
    return full
