"""What can be typed: the arguments of every command. What they do is in :mod:`edgefer.cli`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from edgefer.config import SERVICE_CONFIG
from edgefer.errors import EX_USAGE

Commands = Mapping[str, Callable[[argparse.Namespace], object]]
"""the words typed, such as "bundle install", -> what carries them out"""
PUBLISHER: dict[str, Any] = {"choices": ("mqtt", "stdout"), "help": "instead of publish.kind of the configuration"}


class Parser(argparse.ArgumentParser):
    """argparse exits with 2; sysexits.h says 64."""

    def error(self, message: str) -> NoReturn:
        self.exit(EX_USAGE, f"edgefer: {message}; see {self.prog} --help\n")


class _Verbs:
    """``add`` makes a command; ``group`` one that has commands of its own."""

    def __init__(self, commands: Commands, top: argparse.ArgumentParser, prefix: str = "") -> None:
        self._commands, self._prefix = commands, prefix
        self._verbs = top.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)

    def add(self, name: str, help_: str) -> argparse.ArgumentParser:
        p = self._verbs.add_parser(name, help=help_, description=help_)
        p.set_defaults(command=self._commands[self._prefix + name])
        return p

    def group(self, name: str, help_: str) -> _Verbs:
        p = self._verbs.add_parser(name, help=help_, description=help_)
        return _Verbs(self._commands, p, f"{self._prefix}{name} ")


def parser(commands: Commands) -> Parser:
    top = Parser(prog="edgefer", description="The driver's expression from a visible + infrared camera, over MQTT.")
    verbs = _Verbs(commands, top)
    for section in (_service, _measuring, _bundles, _engines, _lenses, _recordings):
        section(verbs)
    return top


def _service(verbs: _Verbs) -> None:
    p = verbs.add("run", "run the pipeline until stopped (what edgefer-daemon does)")
    p.add_argument("--config", type=Path, required=True, metavar="FILE", help="configuration, see deploy/edgefer.toml")
    p.add_argument("--publisher", **PUBLISHER)
    p = verbs.add("demo", "show the whole way on a synthetic drive, with its own broker")
    p.add_argument("--forever", action="store_true", help="repeat until Ctrl-C")
    p = verbs.add("watch", "hear a device: live table, each event once, missing ones asked for")
    p.add_argument("device", nargs="?", help="device id; default: that of the configuration")
    p.add_argument("--config", type=Path, metavar="FILE", help="take the broker from here, [publish]")
    p.add_argument("--host", help="broker instead of publish.host")
    p.add_argument("--port", type=int, help="instead of publish.port")
    p.add_argument("--username", help="instead of publish.username")
    p.add_argument("--password-file", metavar="FILE", help="instead of publish.password_file")
    p.add_argument("--json", action="store_true", help="a line of JSON for every message")
    p.add_argument("--all", action="store_true", help="ask for every event the device still has, not only for new gaps")


def _measuring(verbs: _Verbs) -> None:
    p = verbs.add("bench", "measure frames/s, stage times, memory and start-up on this machine")
    p.add_argument("--config", type=Path, metavar="FILE", help="configuration to measure; default: the defaults")
    p.add_argument("--seconds", type=positive_seconds, default=10.0, help="length of each measured run (10)")
    p.add_argument("--recording", type=Path, metavar="FOLDER", help="frames to use; default: the demo's")
    p.add_argument(
        "--vs", metavar="KEY=VALUE", help="measure this setting beside it, e.g. infer.threads=1 or infer.bundle=DIR"
    )
    p.add_argument("--json", type=Path, metavar="FILE", help="write the figures here as well")
    p.add_argument(
        "--backend", choices=("tensorrt",), help="measure the engines on the GPU instead: runner against GPU time, "
        "copied against mapped memory, CUDA graph against stream",
    )  # fmt: skip
    p = verbs.add("doctor", "say what is there, what is missing and what to do about it")
    p.add_argument("--config", type=Path, metavar="FILE", help="check this configuration too")
    p.add_argument("--json", action="store_true", help="one JSON document instead of lines")
    p.add_argument("--reference", action="store_true", help="print the configuration reference and exit")


def _bundles(verbs: _Verbs) -> None:
    from edgefer.bundle import DEFAULT

    group = verbs.group("bundle", "look at a bundle; install, activate, roll back signed ones")
    for name, help_ in (
        ("inspect", "print the manifest of a verified bundle"),
        ("verify", "check every hash and the golden vectors on this machine"),
    ):
        p = group.add(name, help_)
        p.add_argument(
            "bundle", type=Path, nargs="?", default=DEFAULT, help="bundle folder; default: the one that ships"
        )
    _store(group)


def _store(group: _Verbs) -> None:
    for name, help_ in (
        ("install", "stage a signed bundle on this device"),
        ("activate", "let a staged bundle serve, on trial at first"),
        ("rollback", "go back to the bundle that served before"),
        ("list", "what is staged, and what serves"),
    ):
        p = group.add(name, help_)
        if name == "install":
            p.add_argument("bundle", type=Path, help="folder of a bundle signed by `python -m export sign`")
        if name == "activate":
            p.add_argument("name", metavar="NAME@VERSION", help="a staged bundle, see `edgefer bundle list`")
        if name == "list":
            p.add_argument("--json", action="store_true", help="for programs")
        p.add_argument("--config", type=Path, default=SERVICE_CONFIG, metavar="FILE",
                       help="the device's configuration: keys and store (%(default)s)")  # fmt: skip
        p.add_argument("--store", type=Path, metavar="FOLDER", help="instead of update.store")


def _engines(verbs: _Verbs) -> None:
    group = verbs.group("engine", "the TensorRT engines of this machine")
    for name, help_ in (
        ("build", "build the network's and the detector's engine, unless they are there"),
        ("list", "the engines in the cache, and what is wrong with one"),
        ("clean", "remove them; the next start builds anew"),
    ):
        p = group.add(name, help_)
        p.set_defaults(action=name, bundle=None)
        p.add_argument("--config", type=Path, metavar="FILE", help="configuration; default: the defaults")
        if name == "build":
            p.add_argument("--bundle", type=Path, metavar="FOLDER", help="instead of infer.bundle")
            p.add_argument(
                "--target", metavar="8.6", help="for a GPU that is not here, by compute capability (TensorRT for RTX)"
            )


def _lenses(verbs: _Verbs) -> None:
    p = verbs.add("calibrate", "measure the geometry of the lenses with a printed board")
    p.add_argument("--config", type=Path, metavar="FILE", help="configuration whose cameras to use")
    p.add_argument(
        "--from", dest="pairs", type=Path, metavar="FOLDER", help="a recording, or visible/ and infrared/ with pictures"
    )
    p.add_argument("--board", default="charuco:9x6:26", metavar="KIND:CxR:MM", help="board (charuco:9x6:26); kinds: "
                   "charuco, chessboard, circles, acircles")  # fmt: skip
    p.add_argument("--out", type=Path, default=Path("calibration.json"), metavar="FILE", help="file to write")
    p.add_argument("--report", type=Path, metavar="FILE", help="HTML report; default: beside --out")
    p.add_argument("--quick", action="store_true", help="one board at the driver's place: right at that distance only")
    p.add_argument("--grey-visible", action="store_true", help="the visible lens has no colour: it is not swapped")
    p.add_argument("--seconds", type=positive_seconds, default=300.0, help="give up after this long")
    p.add_argument("--print-board", type=Path, metavar="FILE", help="write the board as PNG for printing, and end")
    p.add_argument("--self-test", action="store_true", help="calibrate rendered boards, print the errors, and end")


def _recordings(verbs: _Verbs) -> None:
    p = verbs.add("record", "write what the lenses see into a recording")
    p.add_argument("recording", type=Path, help="folder to create")
    p.add_argument("--config", type=Path, required=True, metavar="FILE", help="configuration whose cameras to use")
    p.add_argument("--seconds", type=positive_seconds, default=3600.0, help="stop after this long")
    p.add_argument("--images", action="store_true", help="lossless PNG files instead of two video files")
    p.add_argument("--limit-mb", type=positive_seconds, default=2000.0, help="stop when it takes so many MB (2000)")
    p.add_argument("--i-have-consent", action="store_true", help="faces may be recorded; default: none may be in view")
    p = verbs.add("replay", "run the pipeline on a recording")
    p.add_argument("recording", type=Path, help="folder written by `edgefer record`")
    p.add_argument("--config", type=Path, metavar="FILE", help="configuration of everything but the cameras")
    p.add_argument("--publisher", default="stdout", **PUBLISHER)
    p.add_argument(
        "--realtime", action="store_true", help="at the recorded pace; default: every frame, as fast as it goes"
    )
    either = p.add_mutually_exclusive_group()
    either.add_argument("--write-expect", type=Path, metavar="FILE", help="write the readings as those to expect")
    either.add_argument("--expect", type=Path, metavar="FILE", help="compare with them: 0 as expected, 1 different")
    p.add_argument("--tolerance", type=positive_seconds, default=0.02, help="of probabilities and scores (0.02)")


def positive_seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number of seconds")
    return value
