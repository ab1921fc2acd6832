"""What the capture tests share: a clock that moves only when told to, and recordings on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from capture_helpers import FakeClock, Write, picture

from edgefer.capture import Recorder
from edgefer.types import Frame, Lens


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def write_recording(tmp_path: Path) -> Write:
    """write_recording(count=8, lenses=both, images=False, period_ms=40, size=(64, 48)) -> its folder."""

    def write(
        count: int = 8, lenses: tuple[Lens, ...] = tuple(Lens), images: bool = False, period_ms: float = 40.0,
        size: tuple[int, int] = (64, 48), name: str = "drive",
    ) -> Path:  # fmt: skip
        with Recorder(tmp_path / name, 1e3 / period_ms, images) as recorder:
            for i in range(count):
                for lens in lenses:
                    recorder.write(Frame(lens, picture(lens, i, size), 5_000_000_000 + round(i * period_ms * 1e6), i))
        return tmp_path / name

    return write
