"""Arguments and exit codes only: 0 done, 64 usage, 66 no input, 69 service missing or refusing, 78 configuration."""

from __future__ import annotations

import argparse
import faulthandler
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, NoReturn

from edgefer import config as configuration
from edgefer.config import Config
from edgefer.errors import EX_OK, EX_SOFTWARE, EX_UNAVAILABLE, EX_USAGE, EdgeferError

if TYPE_CHECKING:
    from edgefer.store import Store


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
    requests: SimpleQueue[str] = SimpleQueue()  # its put is safe in a signal handler
    if not os.isatty(0):  # in a terminal it means that the terminal is gone
        signal.signal(signal.SIGHUP, lambda *_: requests.put(""))
    from edgefer import app, private

    def read() -> Config:
        return _with_publisher(configuration.read(args.config), args.publisher)

    settings = read()
    _logging(settings.log.level)
    faulthandler.enable()
    private.warn(args.config, settings)
    app.run(settings, stop.is_set, requests=requests, reread=read)


def _replay(args: argparse.Namespace) -> None:
    stop = _stop_on_signal()
    from edgefer import app

    settings = _replayed(configuration.read(args.config) if args.config else Config(), args)
    _logging(settings.log.level)
    app.run(settings, stop.is_set)


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
    from edgefer.capture import Recorder, open_rig, record

    settings = configuration.read(args.config)
    _logging(settings.log.level)
    stop = _stop_on_signal()
    with (
        Recorder(args.recording, fps=settings.capture.fps, images=args.images) as recorder,
        open_rig(settings.capture) as rig,
    ):
        print(f"recording to {args.recording}, Ctrl-C ends it", file=sys.stderr)
        record(rig, recorder, args.seconds, stop.is_set)


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


def _store(args: argparse.Namespace) -> Store:
    """The store of the device's configuration, as its owner: root must not leave files the service cannot read."""
    from edgefer.config import SERVICE_STATE
    from edgefer.release import Keys
    from edgefer.serving import self_test
    from edgefer.store import Store, become_owner

    settings = configuration.read(args.config)
    folder = args.store or settings.update.folder() or SERVICE_STATE / "bundles"
    keys = Keys([settings.update.key_1, settings.update.key_2])
    become_owner(folder)
    return Store(folder, keys, self_test)


def _bundle_install(args: argparse.Namespace) -> None:
    done = _store(args).install(args.bundle)
    print(f"{done.name}, release {done.number}: staged; `edgefer bundle activate {done.name}` lets it serve")


def _bundle_activate(args: argparse.Namespace) -> None:
    done = _store(args).activate(args.name)
    trial = "on trial until it was in good health for update.confirm_s" if done.on_trial else "confirmed before"
    print(f"{done.name}, release {done.number}: active, {trial}; {_TAKES_EFFECT}")


def _bundle_rollback(args: argparse.Namespace) -> None:
    print(f"{_store(args).rollback() or 'the bundle that ships'} is active again; {_TAKES_EFFECT}")


def _bundle_list(args: argparse.Namespace) -> None:
    store = _store(args)
    entries = store.entries()
    if args.json:
        print(json.dumps([{"name": e.name, "number": e.number, "roles": e.roles} for e in entries]))
        return
    for e in entries:
        print(f"{e.name:32} release {e.number or 'not readable':<8} {', '.join(e.roles)}{' (on trial)' * e.on_trial}")
    print(f"{len(entries)} staged, highest confirmed release {store.highest()}")


_TAKES_EFFECT = "a running service takes it over with `systemctl reload edgefer-daemon`"


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
    group = add("bundle", "look at a bundle; install, activate, roll back signed ones", None).add_subparsers(
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
    _store_commands(add, group)
    p = add("record", "write what the lenses see into a recording", _record)
    p.add_argument("recording", type=Path, help="folder to create")
    p.add_argument("--config", type=Path, required=True, metavar="FILE", help="configuration whose cameras to use")
    p.add_argument("--seconds", type=_positive, default=3600.0, help="stop after this long")
    p.add_argument("--images", action="store_true", help="lossless PNG files instead of two video files")
    p = add("replay", "run the pipeline on a recording", _replay)
    p.add_argument("recording", type=Path, help="folder written by `edgefer record`")
    p.add_argument("--config", type=Path, metavar="FILE", help="configuration of everything but the cameras")
    p.add_argument("--publisher", default="stdout", **publisher)  # type: ignore[arg-type]
    p.add_argument(
        "--realtime", action="store_true", help="at the recorded pace; default: every frame, as fast as it goes"
    )
    return top


def _store_commands(add: Callable[..., argparse.ArgumentParser], group: object) -> None:
    for name, help_, command in (
        ("install", "stage a signed bundle on this device", _bundle_install),
        ("activate", "let a staged bundle serve, on trial at first", _bundle_activate),
        ("rollback", "go back to the bundle that served before", _bundle_rollback),
        ("list", "what is staged, and what serves", _bundle_list),
    ):
        p = add(name, help_, command, group)
        if name == "install":
            p.add_argument("bundle", type=Path, help="folder of a bundle signed by `python -m export sign`")
        if name == "activate":
            p.add_argument("name", metavar="NAME@VERSION", help="a staged bundle, see `edgefer bundle list`")
        if name == "list":
            p.add_argument("--json", action="store_true", help="for programs")
        p.add_argument("--config", type=Path, default=configuration.SERVICE_CONFIG, metavar="FILE",
                       help="the device's configuration: keys and store (%(default)s)")  # fmt: skip
        p.add_argument("--store", type=Path, metavar="FOLDER", help="instead of update.store")


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
    from edgefer import journal

    journal.setup(level)


def _stop_on_signal() -> threading.Event:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    return stop
