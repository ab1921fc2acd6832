"""In which order things reach the disk: content before its name, the name before anybody builds on it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgefer import durable


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The writing calls as they come, fsync told by what it syncs."""
    made: list[str] = []

    def noted(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            folder = name == "fsync" and stat.S_ISDIR(os.fstat(args[0]).st_mode)
            made.append("fsync folder" if folder else name)
            return real(*args, **kwargs)

        return call

    for name in ("fsync", "replace", "symlink"):
        monkeypatch.setattr(os, name, noted(name))
    return made


def test_a_file_is_on_disk_before_it_has_its_name(tmp_path: Path, calls: list[str]) -> None:
    durable.write(tmp_path / "x", b"old")
    durable.write(tmp_path / "x", b"new" * 100_000)
    assert calls == ["fsync", "replace", "fsync folder"] * 2
    assert (tmp_path / "x").read_bytes() == b"new" * 100_000
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o600
    assert [f.name for f in tmp_path.iterdir()] == ["x"]


def test_a_link_is_never_missing(tmp_path: Path, calls: list[str]) -> None:
    for target in ("a", "b"):
        durable.point(tmp_path / "current", target)
        assert os.readlink(tmp_path / "current") == target
    assert calls == ["symlink", "replace", "fsync folder"] * 2


def test_what_a_cut_left_behind_is_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / ".x.part").write_text("half")
    (tmp_path / ".current.part").symlink_to("half")
    durable.write(tmp_path / "x", b"whole")
    durable.point(tmp_path / "current", "x")
    durable.remove(tmp_path / "gone")
    assert (tmp_path / "current").read_bytes() == b"whole"


def test_a_link_planted_as_the_side_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("keep")
    (tmp_path / ".x.part").symlink_to("victim")
    with pytest.raises(OSError, match="symbolic links"):
        durable.write(tmp_path / "x", b"gone")
    assert (tmp_path / "victim").read_text() == "keep"
