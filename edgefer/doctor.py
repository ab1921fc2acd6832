"""``edgefer doctor``: what is there, what is missing, and what to do about it, a line each."""

from __future__ import annotations

import importlib
import json
import os
import platform
import socket
from collections.abc import Callable
from pathlib import Path

from edgefer import config as configuration
from edgefer import doctor_nvidia as nvidia
from edgefer.config import Config
from edgefer.errors import EX_OK, EX_SOFTWARE, EdgeferError, ServiceError
from edgefer.types import FramePair, LensState, now_ns

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
    """Five seconds of the real thing, fewer when both lenses show something sooner."""
    from edgefer.capture import open_rig

    end, pair = now_ns() + 5_000_000_000, None
    with open_rig(settings.capture) as rig:
        while now_ns() < end and not rig.ended and not _both_live(pair):
            pair = rig.next_pair(0.25) or pair
    if pair is None or not (pair.visible_state.usable or pair.infrared_state.usable):
        raise ServiceError("no lens delivers a picture; check [capture], plugs and the group `video`")
    return f"visible {pair.visible_state.value}, infrared {pair.infrared_state.value}"


def _both_live(pair: FramePair | None) -> bool:
    return pair is not None and pair.visible_state is pair.infrared_state is LensState.OK


def _broker(settings: Config) -> str:
    p = settings.publish
    if p.kind == "stdout":
        return "none asked for (publish.kind = stdout)"
    try:
        socket.create_connection((p.host, p.port), timeout=3).close()
    except OSError as e:
        raise ServiceError(f"{p.host}:{p.port} does not answer ({e}); check publish.host and publish.port") from None
    return f"{p.host}:{p.port} accepts connections"


def reference() -> str:
    """The configuration reference as a Markdown table, and which keys SIGHUP changes."""
    rows = ["| key | value | default | meaning |", "|---|---|---|---|"]
    for key, kind, default, meaning in configuration.reference():
        rows.append(f"| `{key}` | {kind} | `{default}` | {meaning} |")
    live = ", ".join(f"`{key}`" for key in configuration.LIVE)
    return "\n".join([*rows, "", f"Changed while the service runs, by SIGHUP: {live}. The others need a restart."])
