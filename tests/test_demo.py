"""`edgefer demo`: the whole show as a user sees it, in one process tree with its own broker."""

from __future__ import annotations

import subprocess
import sys

from edgefer.demo import clip, table


def show() -> tuple[list[str], dict[str, str], int]:
    """The lines of one show, its summary by first word, and how many states were received."""
    command = [sys.executable, "-m", "edgefer", "demo"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    rows = done.stdout.splitlines()
    summary = {row.split()[0]: row for row in rows[-3:]}
    return rows, summary, int(summary["received"].split()[1])


def test_the_show_runs_and_sums_up() -> None:
    rows, summary, received = show()
    if received < 80:
        # Seen once in some forty shows, on Python 3.13: the embedded broker passed on 18 states and no more. The cause
        # is not known; twice in a row would be a fault of ours.
        rows, summary, received = show()
    assert received >= 80, "about 20 s at 5 Hz, over MQTT\n" + "\n".join(rows)
    assert int(summary["label"].split()[2].rstrip(":")) >= 3
    assert any("lenses lost/ok" in row for row in rows), "the dead lens was shown"
    assert any("lenses black/ok" in row for row in rows), "the night was shown"


def test_the_script_has_its_day_its_night_and_its_dead_lens() -> None:
    shots = {t: clip.script(t) for t in (0, 3.5, 6, 6.5, 9, 15, 19)}
    assert [round(shots[t].mix) for t in (0, 3.5, 6, 9, 15, 19)] == [0, 1, 0, 1, 1, 0]
    assert shots[6.5].alive == (False, True)
    assert shots[0].light == 1.0
    assert shots[15].light < 0.01


def test_the_board_shows_only_what_it_was_told() -> None:
    board = table.Board()
    assert table.lines(board) == ["edgefer  waiting"]
    state = {
        "dev": "demo", "bundle": "default@1.0.0", "valid": False, "why": "no_face", "label": "unknown", "conf": 0.0,
        "probs": {}, "ts": "2026-01-01T00:00:00.000Z",
        "quality": {"face": 0.0, "age_ms": 12, "lenses": ["lost", "ok"]},
    }  # fmt: skip
    board.take("meta", {"labels": ["happiness", "neutral"]})
    board.take("state/driver", state)
    shown = "\n".join(table.lines(board))
    assert "unknown (no_face)" in shown
    assert "visible lost" in shown
    board.take("state/driver", {**state, "valid": True, "label": "happiness", "probs": {"happiness": 0.75}})
    board.take("event/driver", {"ts": state["ts"], "kind": "label", "before": "neutral", "after": "happiness"})
    shown = "\n".join(table.lines(board))
    assert "HAPPINESS" in shown
    assert "75.0%" in shown
    assert "neutral -> happiness" in shown
    assert (board.states, board.valid, list(board.labels)) == (2, 1, ["happiness"])
