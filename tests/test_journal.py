"""Log lines: priorities and key fields for journald, plain ones elsewhere, floods cut short."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgefer import journal
from edgefer.journal import BURST, KINDS, PERIOD_S, RateLimit, fields


@pytest.fixture
def root() -> Iterator[None]:
    """The root logger as it was."""
    logger = logging.getLogger()
    before, level = logger.handlers[:], logger.level
    yield
    logger.handlers[:] = before
    logger.setLevel(level)


def test_what_journald_reads_has_priorities_and_fields(tmp_path: Path, root: None, monkeypatch: object) -> None:
    with (tmp_path / "journal").open("w+") as stream:
        s = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{s.st_dev}:{s.st_ino}")  # type: ignore[attr-defined]
        journal.setup("info", stream)
        log = logging.getLogger("edgefer.test")
        log.info("went %s", "well", extra=fields(bundle="default@1.0.0", why="two words"))
        log.warning("look")
        log.debug("not told")
        try:
            raise ValueError("x")
        except ValueError:
            log.exception("broken")
        lines = (tmp_path / "journal").read_text().splitlines()
    assert lines[:3] == [
        '<6>edgefer.test: went well bundle=default@1.0.0 why="two words"', "<4>edgefer.test: look",
        "<3>edgefer.test: broken",
    ]  # fmt: skip
    assert all(line.startswith("<3>") for line in lines[3:])
    assert lines[-1] == "<3>ValueError: x"


def test_elsewhere_lines_are_plain(root: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "1:2")
    stream = io.StringIO()
    journal.setup("info", stream)
    logging.getLogger("edgefer.test").info("hello", extra=fields(crashes=3))
    assert stream.getvalue() == "INFO edgefer.test: hello crashes=3\n"


def record(message: str, *args: object) -> logging.LogRecord:
    return logging.LogRecord("edgefer", logging.ERROR, "", 0, message, args, None)


def test_a_flood_of_one_kind_is_cut_short_counted_and_told() -> None:
    now = [0.0]
    limit = RateLimit(lambda: now[0])
    passed = sum(limit.filter(record("lens %d lost", k)) for k in range(1000))
    assert passed == BURST
    assert limit.filter(record("another")), "another kind is not held back by it"
    now[0] = PERIOD_S
    late = record("lens %d lost", 7)
    assert limit.filter(late)
    assert late.__dict__["fields"] == {"left_out": 1000 - BURST}
    now[0] = 2 * PERIOD_S
    quiet = record("lens %d lost", 7)
    assert limit.filter(quiet)
    assert "fields" not in quiet.__dict__


def test_kinds_are_bounded() -> None:
    limit = RateLimit(lambda: 0.0)
    for k in range(2 * KINDS):
        limit.filter(record(f"kind {k}"))
    assert len(limit._kinds) == KINDS
