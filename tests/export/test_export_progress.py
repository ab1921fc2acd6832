"""A passing line is rewritten on a terminal and whole anywhere else."""

from __future__ import annotations

import io

from export.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_sees_one_line_that_changes() -> None:
    out = Terminal()
    say = Progress(out)
    say("\rten percent")
    say("\r20 %")
    say("done")
    assert out.getvalue() == "\rten percent\r20 %       \rdone\n"


def test_a_file_gets_whole_lines() -> None:
    out = io.StringIO()
    say = Progress(out)
    say("\r10 %")
    say("done")
    assert out.getvalue() == "10 %\ndone\n"


def test_close_ends_a_passing_line_once() -> None:
    out = Terminal()
    say = Progress(out)
    say("\rhalf")
    say.close()
    say.close()
    assert out.getvalue() == "\rhalf\n"
