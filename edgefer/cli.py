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
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import TYPE_CHECKING

from edgefer import arguments, config_file
from edgefer.config import Config, State
from edgefer.errors import EX_OK, EX_SOFTWARE, EX_UNAVAILABLE, EdgeferError, UsageError

if TYPE_CHECKING:  # numpy comes with them, and `edgefer --help` needs none
    from edgefer.store import Store
    from edgefer.types import Reading


def main(argv: Sequence[str] | None = None) -> int:
    """``edgefer``: returns the exit code; a user sees a traceback only at log.level debug."""
    try:
        args = arguments.parser(_COMMANDS).parse_args(argv)
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
        return _with_publisher(config_file.read(args.config), args.publisher)

    settings = read()
    _logging(settings.log.level)
    faulthandler.enable()
    private.warn(args.config, settings)
    app.run(settings, stop, requests=requests, reread=read)


def _replay(args: argparse.Namespace) -> int:
    stop = _stop_on_signal()
    from edgefer import app

    settings = _replayed(config_file.read(args.config) if args.config else Config(), args)
    _logging(settings.log.level)
    if args.expect is None and args.write_expect is None:
        app.run(settings, stop)
        return EX_OK
    if args.realtime:
        raise UsageError("--realtime may drop frames: leave it out with --expect and --write-expect")
    return _expectation(args, settings, stop)


def _expectation(args: argparse.Namespace, settings: Config, stop: Callable[[], bool]) -> int:
    """0: as expected or written; 1, as of diff(1): the readings differ."""
    from edgefer import app, expect
    from edgefer.serving import bundle_to_serve, open_store

    readings: list[Reading] = []
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        app.run(settings, stop, readings.append)
    bundle = bundle_to_serve(settings, open_store).title
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
            "state": State(),  # neither the device's spool nor its privacy switch
            "capture": base.capture.model_copy(update=recording),
            "publish": base.publish.model_copy(update=publish),
        }
    )


def _record(args: argparse.Namespace) -> None:
    from edgefer import consent
    from edgefer.capture import Recorder, Room, open_rig, record

    settings = config_file.read(args.config)
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
        full = record(rig, recorder, args.seconds, stop, room, guard)
        missed = sum(n for name, n in rig.counters().items() if name.endswith("_drops"))
    print(f"{args.recording}: {recorder.count} frames; {missed} came and are not in it", file=sys.stderr)
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
    settings = config_file.read(args.config)
    _logging(settings.log.level)
    return command.from_lenses(args, settings.capture, stop)


def _demo(args: argparse.Namespace) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the broker and the service end with the show
    from edgefer.demo import show

    return show.demo(forever=args.forever)


def _watch(args: argparse.Namespace) -> None:
    from edgefer import watch

    settings = config_file.read(args.config) if args.config else Config()
    given = {"host": args.host, "port": args.port, "username": args.username, "password_file": args.password_file}
    changes = {key: value for key, value in given.items() if value is not None}
    broker = config_file.build({"publish": {**settings.publish.model_dump(), **changes}}, "watch").publish
    stop = _stop_on_signal()
    _logging("warning")
    device = args.device or settings.device
    watch.watch(broker, device, as_json=args.json, from_start=args.all, should_stop=stop)


def _bench(args: argparse.Namespace) -> None:
    from edgefer import bench

    settings = config_file.read(args.config) if args.config else Config()
    if args.backend == "tensorrt":
        from edgefer import bench_engine

        bench_engine.bench_engines(settings, args.seconds, args.json)
        return
    settings = settings.model_copy(update={"state": State()})  # neither the device's spool nor its privacy switch
    bench.bench(settings, bench.Plan(args.seconds, args.recording, args.vs, args.json))


def _doctor(args: argparse.Namespace) -> int:
    from edgefer import doctor

    if args.reference:
        print(doctor.reference())
        return EX_OK
    return doctor.doctor(args.config, args.json)


def _engine(args: argparse.Namespace) -> int:
    from edgefer import engine_cli

    settings = config_file.read(args.config) if args.config else Config()
    _logging(settings.log.level)
    if args.bundle:
        settings = settings.model_copy(update={"infer": settings.infer.model_copy(update={"bundle": str(args.bundle)})})
    if args.action == "build":
        return engine_cli.build(settings, args.target)
    (engine_cli.show if args.action == "list" else engine_cli.clean)(settings)
    return EX_OK


def _bundle_inspect(args: argparse.Namespace) -> None:
    from edgefer import bundle

    opened = bundle.open_bundle(args.bundle)
    print(json.dumps({**opened.manifest.model_dump(mode="json"), "sha256": opened.sha256}, indent=1))


def _bundle_verify(args: argparse.Namespace) -> None:
    from edgefer import bundle, engine_cli
    from edgefer.config import Infer
    from edgefer.infer import open_network

    opened = bundle.open_bundle(args.bundle)
    open_network(opened, Infer(), engine_cli.tell).close()
    print(
        f"{opened.title}: {len(opened.manifest.files)} files and {len(opened.golden.logits)} golden vectors are right"
    )


def _store(args: argparse.Namespace) -> Store:
    """The store of the device's configuration, as its owner: root must not leave files the service cannot read."""
    from edgefer.release import Keys
    from edgefer.serving import self_test
    from edgefer.store import Store, become_owner

    settings = config_file.read(args.config)
    folder = args.store or settings.service_store()
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


def _with_publisher(settings: Config, kind: str | None) -> Config:
    if kind is None:
        return settings
    return settings.model_copy(update={"publish": settings.publish.model_copy(update={"kind": kind})})


def _logging(level: str) -> None:
    from edgefer import journal

    journal.setup(level)


def _stop_on_signal() -> Callable[[], bool]:
    """Whether one came. No Event: a second signal inside its set() would wait for ever for the lock of the first."""
    came: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _: came.append(number))
    return lambda: bool(came)


_COMMANDS: arguments.Commands = {
    "run": _run,
    "demo": _demo,
    "watch": _watch,
    "bench": _bench,
    "doctor": _doctor,
    "calibrate": _calibrate,
    "record": _record,
    "replay": _replay,
    "bundle inspect": _bundle_inspect,
    "bundle verify": _bundle_verify,
    "bundle install": _bundle_install,
    "bundle activate": _bundle_activate,
    "bundle rollback": _bundle_rollback,
    "bundle list": _bundle_list,
    "engine build": _engine,
    "engine list": _engine,
    "engine clean": _engine,
}
