"""Recordings: what `edgefer record` writes and the recording camera plays.

A folder with

* ``recording.json``: {"format": 1, "visible": NAME, "infrared": NAME, "width": pixels, "height": pixels, "fps": rate};
  NAME is a video file, or a folder of PNG or JPEG pictures in the order of their names; a lens that was not there is
  left out; width and height are the visible lens's (the infrared one's when it is alone);
* ``timestamps.csv``: the header ``lens,index,time_ns``, then one row for each frame. index is the place of the frame in
  its lens's video or folder, counted from 0; index and time_ns strictly increase within a lens. Times are nanoseconds
  on one clock for both lenses; a gap in them means that the lens was dead.
"""

from __future__ import annotations

import csv
import json
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edgefer.capture.opencv import convert
from edgefer.capture.reel import open_reel
from edgefer.capture.source import Clock, EndOfStream, Wait
from edgefer.errors import CameraError, InputError
from edgefer.types import U8, Frame, Lens, now_ns

FORMAT: Final = 1
HEADER: Final = ("lens", "index", "time_ns")

Times = list[tuple[int, int]]
"""(index, time_ns) of each frame"""


@dataclass(frozen=True)
class Recording:
    """A recording's description, checked; frames are not opened yet."""

    folder: Path
    files: dict[Lens, Path]
    times: dict[Lens, Times]
    size: tuple[int, int]
    fps: float

    @property
    def start_ns(self) -> int:
        return min(times[0][1] for times in self.times.values())

    @property
    def length_ns(self) -> int:
        """From the first frame of either lens to one frame period after the last."""
        return max(times[-1][1] for times in self.times.values()) - self.start_ns + round(1e9 / self.fps)


def read_recording(folder: Path) -> Recording:
    """Checks the folder, and that the first picture of each lens can be read.

    Raises InputError: one line with the file and the remedy.
    """
    described = _read_json(folder / "recording.json")
    files = {lens: folder / described[lens.value] for lens in Lens if described.get(lens.value)}
    for path in files.values():
        if not path.exists():
            raise InputError(f"{path}: missing, though recording.json names it; record again or correct the name")
    times = _read_times(folder / "timestamps.csv", files)
    for lens, path in files.items():
        _probe(path, times[lens][0][0])
    size = int(described["width"]), int(described["height"])
    return Recording(folder, files, times, size, float(described["fps"]))


def _probe(path: Path, index: int) -> None:
    reel = open_reel(path)
    try:
        if reel.picture(index) is None:
            raise _cut_short(path, index)
    finally:
        reel.close()


def _cut_short(path: Path, index: int) -> InputError:
    return InputError(
        f"{path}: ends before frame {index}, which timestamps.csv lists: the recording is cut short; record again, "
        "or remove the rows"
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; a recording is a folder written by `edgefer record`") from None
    except (OSError, ValueError) as e:
        raise InputError(f"{path}: cannot be read as JSON: {e}; record again") from None
    if not isinstance(described, dict) or described.get("format") != FORMAT:
        found = described.get("format") if isinstance(described, dict) else None
        raise InputError(f"{path}: format {found!r} is unknown, this version reads format {FORMAT}; update edgefer")
    _check_fields(path, described)
    return described


def _check_fields(path: Path, described: dict[str, Any]) -> None:
    for key in ("width", "height", "fps"):
        value = described.get(key)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e5:
            raise InputError(f"{path}: '{key}' must be a positive number (got {value!r}); correct it")
    names = [described.get(lens.value) for lens in Lens]
    if not any(names) or any(name is not None and not isinstance(name, str) for name in names):
        raise InputError(f"{path}: 'visible' or 'infrared' must name a video or a folder of pictures")


def _read_times(path: Path, files: dict[Lens, Path]) -> dict[Lens, Times]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise InputError(f"{path}: cannot be read: {e}; a recording has one, record again") from None
    if not rows or tuple(rows[0]) != HEADER:
        raise InputError(f"{path}:1: the header must be {','.join(HEADER)}")
    times: dict[Lens, Times] = {lens: [] for lens in files}
    for number, row in enumerate(rows[1:], 2):
        _add_row(times, row, f"{path}:{number}")
    for lens, listed in times.items():
        if not listed:
            raise InputError(f"{path}: no row for the {lens.value} lens; remove it from recording.json or record again")
    return times


def _add_row(times: dict[Lens, Times], row: list[str], where: str) -> None:
    try:
        name, index, time_ns = row
        lens, entry = Lens(name), (int(index), int(time_ns))
    except ValueError:
        raise InputError(f"{where}: '{','.join(row)}' is not lens,index,time_ns; correct or remove it") from None
    if lens not in times:
        raise InputError(f"{where}: recording.json names no {lens.value} lens; add it or remove the row")
    last = times[lens][-1] if times[lens] else (-1, -1)
    if entry[0] <= last[0] or entry[1] <= last[1]:
        raise InputError(f"{where}: index and time_ns must increase within a lens; correct or remove the row")
    times[lens].append(entry)


class Epoch:
    """The moment at which a replay began, shared by its lenses so that they stay on one time base."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._users = 0
        self._start_ns = 0

    def join(self) -> int:
        """The start, in nanoseconds; the first to come sets it."""
        with self._lock:
            if self._users == 0:
                self._start_ns = self._clock()
            self._users += 1
            return self._start_ns

    def leave(self) -> None:
        with self._lock:
            self._users -= 1


class RecordingSource:
    """Plays one lens of a recording. Frame times are re-stamped to now, so that ages are real.

    realtime: each frame comes at its recorded pace; else at once, and its time may lie ahead of the clock. repeat:
    starts again at the end. Sources of one recording share an ``epoch``.
    """

    def __init__(
        self, recording: Recording, lens: Lens, epoch: Epoch, *, realtime: bool = True, repeat: bool = False,
        clock: Clock = now_ns, wait: Wait = time.sleep,
    ) -> None:  # fmt: skip
        self._recording = recording
        self._lens = lens
        self._epoch = epoch
        self._realtime = realtime
        self._repeat = repeat
        self._clock = clock
        self._wait = wait
        self._frames: Generator[Frame, None, None] | None = None
        self._next: Frame | None = None
        self._size: tuple[int, int] | None = None

    @property
    def lenses(self) -> tuple[Lens, ...]:
        return (self._lens,)

    def open(self) -> None:
        self.close()
        self._frames = self._play(self._epoch.join())

    def read(self, timeout_s: float) -> tuple[Frame, ...]:
        """Raises InputError naming file and frame when the recording is damaged, EndOfStream when it is over."""
        if self._frames is None:
            raise InputError(f"{self._recording.folder}: read before open")
        if self._next is None:  # decoded before the wait, so that it is there on time
            self._next = next(self._frames, None)
            if self._next is None:
                raise EndOfStream
        if self._realtime and not self._is_due(self._next.mono_ns, timeout_s):
            return ()
        frame, self._next = self._next, None
        return (frame,)

    def close(self) -> None:
        if self._frames is not None:
            self._frames.close()
            self._frames = self._next = None
            self._epoch.leave()

    def _is_due(self, due_ns: int, timeout_s: float) -> bool:
        left_s = (due_ns - self._clock()) / 1e9
        if left_s > 0:
            self._wait(min(left_s, timeout_s))
        return self._clock() >= due_ns

    def _play(self, start_ns: int) -> Generator[Frame, None, None]:
        """All frames, for ever when repeated. Each round lasts as long as the longer lens."""
        recording, count = self._recording, 0
        while True:
            reel = open_reel(recording.files[self._lens])
            try:
                for index, time_ns in recording.times[self._lens]:
                    image = self._checked(reel.picture(index), index)
                    yield Frame(self._lens, image, start_ns + time_ns - recording.start_ns, count)
                    count += 1
            finally:
                reel.close()
            if not self._repeat:
                return
            start_ns += recording.length_ns

    def _checked(self, image: U8 | None, index: int) -> U8:
        path = self._recording.files[self._lens]
        if image is None:
            raise _cut_short(path, index)
        try:
            converted = convert(image, self._lens)
        except CameraError as e:
            raise InputError(f"{path}: frame {index}: {e}") from None
        self._check_size(path, index, converted)
        return converted

    def _check_size(self, path: Path, index: int, image: U8) -> None:
        """The lens that recording.json gives the size of, or else the first frame, says what all must be."""
        size = (image.shape[1], image.shape[0])
        files = self._recording.files
        if self._lens is Lens.VISIBLE or Lens.VISIBLE not in files:
            expected = self._recording.size
        else:
            expected = self._size = self._size or size
        if size != expected:
            raise InputError(
                f"{path}: frame {index} is {size[0]}x{size[1]}, not {expected[0]}x{expected[1]} as the frames before; "
                "record again with one size"
            )
