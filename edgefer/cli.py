"""Arguments and exit codes only: 0 done, 64 usage, 66 no input, 69 service missing or refusing, 78 configuration."""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from edgefer import config as configuration
from edgefer.config import Config
from edgefer.errors import EX_OK, EX_SOFTWARE, EX_UNAVAILABLE, EX_USAGE, EdgeferError, UsageError

if TYPE_CHECKING:  # numpy comes with it, and `edgefer --help` needs none
    from edgefer.types import Reading


def main(argv: Sequence[str] | None = None) -> int:
    """``edgefer``: returns the exit code; a user sees a traceback only at log.level debug."""
    try:
        args = _parser().parse_args(argv)
        return int(args.command(args) or EX_OK)
    except EdgeferError as e:
        return _say(str(e), e.exit_code)
    except KeyboardInterrupt:
        return _say("interrupted", 130)
    except BrokenPipeError:
        sys.stdout = None  # else Python complains again at exit
        return EX_UNAVAILABLE
    except ImportError as e:
        return _say(f"{e.name or e} is not installed: install edgefer with its extra [cpu]", EX_UNAVAILABLE)
    except Exception as e:
        logging.getLogger("edgefer").debug("unexpected", exc_info=True)
        return _say(f"internal error, please report it: {type(e).__name__}: {' '.join(str(e).split())}", EX_SOFTWARE)


def _say(line: str, code: int) -> int:
    print(f"edgefer: {line}", file=sys.stderr)
    return code


def daemon(argv: Sequence[str] | None = None) -> int:
    """``edgefer-daemon``: the same as ``edgefer run``."""
    return main(["run", *(sys.argv[1:] if argv is None else argv)])


def _run(args: argparse.Namespace) -> None:
    stop = _stop_on_signal()  # before the slow imports: a stop during start-up is a clean one
    from edgefer import app

    settings = _with_publisher(configuration.read(args.config), args.publisher)
    _logging(settings.log.level)
    faulthandler.enable()
    app.run(settings, stop.is_set)


def _replay(args: argparse.Namespace) -> int:
    stop = _stop_on_signal()
    from edgefer import app

    settings = _replayed(configuration.read(args.config) if args.config else Config(), args)
    _logging(settings.log.level)
    if args.expect is None and args.write_expect is None:
        app.run(settings, stop.is_set)
        return EX_OK
    if args.realtime:
        raise UsageError("--realtime may drop frames: leave it out with --expect and --write-expect")
    return _expectation(args, settings, stop)


def _expectation(args: argparse.Namespace, settings: Config, stop: threading.Event) -> int:
    """0: as expected or written; 1, as of diff(1): the readings differ."""
    from edgefer import app, expect

    readings: list[Reading] = []
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        app.run(settings, stop.is_set, readings.append)
    bundle = app.open_bundle(settings).title
    if args.write_expect is not None:
        expect.write(args.write_expect, readings, bundle)
        print(f"{args.write_expect}: {len(readings)} readings")
        return EX_OK
    lines, good = expect.verdict(args.expect, bundle, readings, args.tolerance)
    print("\n".join(lines), file=sys.stdout if good else sys.stderr)
    return EX_OK if good else 1


def _replayed(base: Config, args: argparse.Namespace) -> Config:
    """On the recording; when not at the recorded pace, with a state for every reading."""
    recording = {"kind": "recording", "source": str(args.recording), "realtime": args.realtime, "repeat": False}
    publish = {"kind": args.publisher} if args.realtime else {"kind": args.publisher, "rate_hz": 1e6}
    return base.model_copy(
        update={
            "capture": base.capture.model_copy(update=recording),
            "publish": base.publish.model_copy(update=publish),
        }
    )


def _record(args: argparse.Namespace) -> None:
    from edgefer import consent
    from edgefer.capture import Recorder, Room, open_rig, record

    settings = configuration.read(args.config)
    _logging(settings.log.level)
    stop = _stop_on_signal()
    guard = (lambda frame: None) if args.i_have_consent else consent.FaceGuard(settings.locate)
    print(consent.NOTICE if args.i_have_consent else consent.FACE_FREE, file=sys.stderr)
    with (
        Recorder(args.recording, settings.capture.fps, args.images, args.i_have_consent) as recorder,
        open_rig(settings.capture) as rig,
    ):
        print(f"recording to {args.recording}, Ctrl-C ends it", file=sys.stderr)
        room = Room(most=round(args.limit_mb * 1e6))
        full = record(rig, recorder, args.seconds, stop.is_set, room, guard)
    if full is not None:
        print(f"{args.recording}: ended early and kept: {full}", file=sys.stderr)


def _calibrate(args: argparse.Namespace) -> int:
    from edgefer.calibrate import command

    if args.self_test:
        from edgefer.calibrate.selftest import self_test

        return self_test()
    if args.print_board:
        return command.print_board(args.board, args.print_board)
    if args.pairs is not None:
        return command.from_folder(args)
    if args.config is None:
        raise UsageError("calibrate: name --config FILE (live lenses) or --from FOLDER (recording, or pairs)")
    stop = _stop_on_signal()
    settings = configuration.read(args.config)
    _logging(settings.log.level)
    return command.from_lenses(args, settings.capture, stop.is_set)


def _demo(args: argparse.Namespace) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the broker and the service end with the show
    from edgefer.demo import show

    return show.demo(forever=args.forever)


def _bench(args: argparse.Namespace) -> None:
    from edgefer import bench

    settings = configuration.read(args.config) if args.config else Config()
    bench.bench(settings, bench.Plan(args.seconds, args.recording, args.vs, args.json))


def _doctor(args: argparse.Namespace) -> int:
    from edgefer import doctor

    if args.reference:
        print(doctor.reference())
        return EX_OK
    return doctor.doctor(args.config)


def _bundle_inspect(args: argparse.Namespace) -> None:
    from edgefer import bundle

    opened = bundle.open_bundle(args.bundle)
    print(json.dumps({**opened.manifest.model_dump(mode="json"), "sha256": opened.sha256}, indent=1))


def _bundle_verify(args: argparse.Namespace) -> None:
    from edgefer import bundle
    from edgefer.config import Infer
    from edgefer.infer import open_network

    opened = bundle.open_bundle(args.bundle)
    open_network(opened, Infer()).close()
    print(
        f"{opened.title}: {len(opened.manifest.files)} files and {len(opened.golden.logits)} golden vectors are right"
    )


class _Parser(argparse.ArgumentParser):
    """argparse exits with 2; sysexits.h says 64."""

    def error(self, message: str) -> NoReturn:
        self.exit(EX_USAGE, f"edgefer: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    from edgefer.bundle import DEFAULT

    top = _Parser(prog="edgefer", description="The driver's expression from a visible + infrared camera, over MQTT.")
    verbs = top.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)

    def add(name: str, help_: str, command: object, group: object = None) -> argparse.ArgumentParser:
        p: argparse.ArgumentParser = (group or verbs).add_parser(name, help=help_, description=help_)  # type: ignore[attr-defined]
        p.set_defaults(command=command)
        return p

    publisher = {"choices": ("mqtt", "stdout"), "help": "instead of publish.kind of the configuration"}
    p = add("run", "run the pipeline until stopped (what edgefer-daemon does)", _run)
    p.add_argument("--config", type=Path, required=True, metavar="FILE", help="configuration, see deploy/edgefer.toml")
    p.add_argument("--publisher", **publisher)  # type: ignore[arg-type]
    p = add("demo", "show the whole way on a synthetic drive, with its own broker", _demo)
    p.add_argument("--forever", action="store_true", help="repeat until Ctrl-C")
    p = add("bench", "measure frames/s, stage times, memory and start-up on this machine", _bench)
    p.add_argument("--config", type=Path, metavar="FILE", help="configuration to measure; default: the defaults")
    p.add_argument("--seconds", type=_positive, default=10.0, help="length of each measured run (10)")
    p.add_argument("--recording", type=Path, metavar="FOLDER", help="frames to use; default: the demo's")
    p.add_argument(
        "--vs", metavar="KEY=VALUE", help="measure this setting beside it, e.g. infer.threads=1 or infer.bundle=DIR"
    )
    p.add_argument("--json", type=Path, metavar="FILE", help="write the figures here as well")
    p = add("doctor", "say what is there, what is missing and what to do about it", _doctor)
    p.add_argument("--config", type=Path, metavar="FILE", help="check this configuration too")
    p.add_argument("--reference", action="store_true", help="print the configuration reference and exit")
    group = add("bundle", "look at a bundle", None).add_subparsers(
        metavar="COMMAND", required=True, parser_class=_Parser
    )
    for name, help_, command in (
        ("inspect", "print the manifest of a verified bundle", _bundle_inspect),
        ("verify", "check every hash and the golden vectors on this machine", _bundle_verify),
    ):
        p = add(name, help_, command, group)
        p.add_argument(
            "bundle", type=Path, nargs="?", default=DEFAULT, help="bundle folder; default: the one that ships"
        )
    p = add("calibrate", "measure the geometry of the lenses with a printed board", _calibrate)
    _calibrate_arguments(p)
    p = add("record", "write what the lenses see into a recording", _record)
    p.add_argument("recording", type=Path, help="folder to create")
    p.add_argument("--config", type=Path, required=True, metavar="FILE", help="configuration whose cameras to use")
    p.add_argument("--seconds", type=_positive, default=3600.0, help="stop after this long")
    p.add_argument("--images", action="store_true", help="lossless PNG files instead of two video files")
    p.add_argument("--limit-mb", type=_positive, default=2000.0, help="stop when it takes so many MB (2000)")
    p.add_argument("--i-have-consent", action="store_true", help="faces may be recorded; default: none may be in view")
    p = add("replay", "run the pipeline on a recording", _replay)
    p.add_argument("recording", type=Path, help="folder written by `edgefer record`")
    p.add_argument("--config", type=Path, metavar="FILE", help="configuration of everything but the cameras")
    p.add_argument("--publisher", default="stdout", **publisher)  # type: ignore[arg-type]
    p.add_argument(
        "--realtime", action="store_true", help="at the recorded pace; default: every frame, as fast as it goes"
    )
    either = p.add_mutually_exclusive_group()
    either.add_argument("--write-expect", type=Path, metavar="FILE", help="write the readings as those to expect")
    either.add_argument("--expect", type=Path, metavar="FILE", help="compare with them: 0 as expected, 1 different")
    p.add_argument("--tolerance", type=_positive, default=0.02, help="of probabilities and scores (0.02)")
    return top


def _calibrate_arguments(p: argparse.ArgumentParser) -> None:
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
    p.add_argument("--seconds", type=_positive, default=300.0, help="give up after this long")
    p.add_argument("--print-board", type=Path, metavar="FILE", help="write the board as PNG for printing, and end")
    p.add_argument("--self-test", action="store_true", help="calibrate rendered boards, print the errors, and end")


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number of seconds")
    return value


def _with_publisher(settings: Config, kind: str | None) -> Config:
    if kind is None:
        return settings
    return settings.model_copy(update={"publish": settings.publish.model_copy(update={"kind": kind})})


def _logging(level: str) -> None:
    logging.basicConfig(
        level=level.upper(), format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr, force=True
    )


def _stop_on_signal() -> threading.Event:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    return stop
