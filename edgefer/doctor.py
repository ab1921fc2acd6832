"""``edgefer doctor``: what is there, what is missing, and what to do about it, a line each."""

from __future__ import annotations

import importlib
import json
import os
import platform
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

from edgefer import config as configuration
from edgefer import doctor_nvidia as nvidia
from edgefer.config import Config
from edgefer.errors import EX_OK, EX_SOFTWARE, BundleError, EdgeferError, ServiceError
from edgefer.types import FramePair, Lens, LensState, now_ns

Check = Callable[[], str]


def doctor(path: Path | None, as_json: bool = False) -> int:
    """Print a line per check (ok, note, FAIL), or one JSON document; the exit code is 0 or that of the first error."""
    settings = configuration.read(path) if path else Config()
    worst, said = EX_OK, []
    for name, check in _checks(settings, path is not None).items():
        state, text, code = _outcome(check)
        worst = worst or code
        said.append({"check": name, "state": state.lower(), "text": text})
        if not as_json:
            print(f"{state:<6}{name}: {text}")
    if as_json:
        print(json.dumps({"exit_code": worst, "checks": said}, indent=1))
    return worst


def _outcome(check: Check) -> tuple[str, str, int]:
    """State, words and exit code."""
    try:
        return "ok", check(), EX_OK
    except nvidia.Note as note:
        return "note", str(note), EX_OK
    except EdgeferError as e:
        return "FAIL", str(e), e.exit_code
    except Exception as e:  # the other checks are still worth hearing
        return "FAIL", f"internal error, please report it: {type(e).__name__}: {e}", EX_SOFTWARE


def _checks(settings: Config, configured: bool) -> dict[str, Check]:
    checks: dict[str, Check] = {
        "system": lambda: f"Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} processors",
        "opencv": lambda: _package("cv2", "pip install 'edgefer[cpu]'; on a Jetson it comes with JetPack"),
        "onnxruntime": lambda: _package("onnxruntime", "pip install 'edgefer[cpu]'"),
        "int8": _int8,
        "detector": lambda: _detector(settings),
        "bundle": lambda: _bundle(settings),
        "updates": lambda: _updates(settings),
        "cuda": nvidia.cuda,
        "tensorrt": nvidia.library,
        "engines": lambda: nvidia.engines(settings),
        "power": nvidia.power,
        "permissions": lambda: nvidia.permissions(settings),
        "clock": nvidia.clock,
    }
    if configured:
        checks["cameras"] = lambda: _cameras(settings)
        checks["broker"] = lambda: _broker(settings)
    return checks


def _package(name: str, remedy: str) -> str:
    try:
        module = importlib.import_module(name)
    except ImportError as e:
        raise ServiceError(f"not installed ({e}); {remedy}") from None
    return str(module.__version__)


def _int8() -> str:
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return "this system does not say; the golden check decides"
    vnni = any(flag in flags for flag in ("avx512_vnni", "avx_vnni", "asimddp"))
    return "the processor has 8-bit dot products" if vnni else "no 8-bit dot products: needs a reduced-range graph"


def _detector(settings: Config) -> str:
    from edgefer.locate.yunet import model_path

    return f"{model_path(settings.locate.model)}, sha256 as pinned"


def _bundle(settings: Config) -> str:
    """Of what the service would serve with; that it would do without TensorRT is a note."""
    from edgefer import engine_cli, serving

    opened, why = serving.bundle_to_serve(settings), list[str]()
    network = serving.open_checked(opened, settings.infer, why.append, engine_cli.tell)
    network.close()
    said = f"{opened.title}, {len(opened.golden.logits)} golden vectors pass here on {network.backend}"
    if why:
        raise nvidia.Note(f"{said}; TensorRT does not serve: {why[0]}")
    return said


def _cameras(settings: Config) -> str:
    """Five seconds of the real thing, half of that when every lens is well: swapped plugs show after two."""
    from edgefer.capture import open_rig

    start, pair = now_ns(), None
    with open_rig(settings.capture) as rig:
        while not rig.ended and now_ns() < start + (2.5e9 if _well(rig.lenses, pair) else 5e9):
            pair = rig.next_pair(0.25) or pair
    return cameras_verdict(rig.lenses, pair)


def _well(lenses: Sequence[Lens], pair: FramePair | None) -> bool:
    return pair is not None and all(pair.state(lens) is LensState.OK for lens in lenses)


def cameras_verdict(lenses: Sequence[Lens], pair: FramePair | None) -> str:
    """What the configured ``lenses`` show. Raises Note for what may be the light, ServiceError for what is not."""
    if pair is None:
        raise ServiceError("no lens delivers a picture; check [capture], plugs and the group `video`")
    said = ", ".join(f"{lens.value} {pair.state(lens).value}" for lens in lenses)
    states = {pair.state(lens) for lens in lenses}
    if LensState.WRONG_SPECTRUM in states:
        raise ServiceError(f"{said}; exchange capture.visible and capture.infrared")
    if states & {LensState.LOST, LensState.FROZEN}:
        raise ServiceError(f"{said}; check [capture], plugs and the group `video`")
    if states != {LensState.OK}:
        raise nvidia.Note(f"{said}; is there light, and nothing before the lens?")
    return said


def _broker(settings: Config) -> str:
    p = settings.publish
    if p.kind == "stdout":
        return "none asked for (publish.kind = stdout)"
    where = p.host if p.host.startswith("/") else f"{p.host}:{p.port}"
    try:
        _reach(p.host, p.port)
    except OSError as e:
        raise ServiceError(f"{where} does not answer ({e}); check publish.host and publish.port") from None
    return f"{where} accepts connections"


def _reach(host: str, port: int) -> None:
    if not host.startswith("/"):
        socket.create_connection((host, port), timeout=3).close()
        return
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(3)
        link.connect(host)


def _updates(settings: Config) -> str:
    """Which bundles are staged and which one serves; a note where there are no updates."""
    from edgefer.serving import SHIPS, open_store

    store = open_store(settings)
    if store is None:
        raise nvidia.Note("no signed bundles: 'update.key_1' is empty, or there is no state folder")
    if not os.access(store.folder if store.folder.exists() else store.folder.parent, os.R_OK | os.X_OK):
        raise nvidia.Note(f"{store.folder}: only its owner may look; run the doctor as root")
    entries = store.entries()
    unreadable = [e.name for e in entries if e.roles and not e.number]
    if unreadable:
        raise BundleError(f"{store.folder}: {', '.join(unreadable)} cannot be read or is not signed; install it again")
    trial = " (on trial)" if store.on_trial() else ""
    return f"{store.current() or SHIPS} serves{trial}, {len(entries)} staged, highest confirmed {store.highest()}"


def reference() -> str:
    """The configuration reference as a Markdown table, and which keys SIGHUP changes."""
    rows = ["| key | value | default | meaning |", "|---|---|---|---|"]
    for key, kind, default, meaning in configuration.reference():
        rows.append(f"| `{key}` | {kind} | `{default}` | {meaning} |")
    live = ", ".join(f"`{key}`" for key in configuration.LIVE)
    return "\n".join([*rows, "", f"Changed while the service runs, by SIGHUP: {live}. The others need a restart."])
