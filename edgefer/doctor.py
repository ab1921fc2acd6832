"""``edgefer doctor``: what is there, what is missing, and what to do about it, a line each.

What `edgefer run` opens is opened here by the same functions: a configuration that passes does start.
"""

from __future__ import annotations

import http.client
import importlib
import json
import os
import platform
import socket
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgefer import config as configuration
from edgefer import config_file
from edgefer import doctor_nvidia as nvidia
from edgefer.config import Config, Publish
from edgefer.errors import EX_OK, EX_SOFTWARE, BundleError, ConfigError, EdgeferError, ServiceError
from edgefer.types import FramePair, Lens, LensState, now_ns

if TYPE_CHECKING:
    from edgefer.store import Store

Check = Callable[[], str]


def doctor(path: Path | None, as_json: bool = False) -> int:
    """Print a line per check (ok, note, FAIL), or one JSON document; the exit code is 0 or that of the first error."""
    settings = config_file.read(path) if path else Config()
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
        checks["calibration"] = lambda: _calibration(settings)
        checks["state"] = lambda: _state(settings)
        checks["cameras"] = lambda: _cameras(settings)
        checks["secrets"] = lambda: _secrets(settings)
        checks["broker"] = lambda: _broker(settings)
        checks["metrics"] = lambda: _metrics(settings)
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
    from edgefer.app import open_locator
    from edgefer.engine_cli import tell
    from edgefer.locate.yunet import model_path

    file, why = model_path(settings.locate.model), list[str]()
    open_locator(settings, "", why.append, tell).close()
    return f"{file}, sha256 as pinned"


def _bundle(settings: Config) -> str:
    """Of what the service would serve with; that it would do without TensorRT is a note."""
    from edgefer import engine_cli, serving

    opened, why = serving.bundle_to_serve(settings, _store), list[str]()
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


def _calibration(settings: Config) -> str:
    from edgefer.align.calibration import read_calibration

    file = settings.align.calibration
    if not file:
        return "none ('align.calibration'): a place in one lens's picture is taken for the same in the other's"
    read_calibration(Path(file), settings.align.eyes_mm)
    return file


def _state(settings: Config) -> str:
    """Without the folder the service runs, but forgets: events, and that privacy is on."""
    named = settings.state.path()
    folder = named or configuration.SERVICE_STATE
    if named is None and not folder.exists():
        raise nvidia.Note("no state folder: systemd gives one; elsewhere set 'state.folder', or a restart forgets all")
    there = next(p for p in (folder, *folder.parents) if os.path.lexists(p))
    try:
        tempfile.TemporaryFile(dir=there).close()
    except PermissionError:
        raise nvidia.Note(f"{there}: only its owner may write here; run the doctor as root") from None
    except OSError as e:
        raise ConfigError(f"'state.folder': {folder}: {there}: {e.strerror}; name another") from None
    return str(folder)


def _secrets(settings: Config) -> str:
    """Certificates and password, as the service reads them."""
    from edgefer.publish._link import TCP_S
    from edgefer.publish._paho import new_client
    from edgefer.publish._tls import Secrets

    p = settings.publish
    if p.kind == "stdout":
        return "none asked for (publish.kind = stdout)"
    try:
        secrets = Secrets(_handed_over(p))
        new_client(p, settings.device, TCP_S, secrets)
    except ConfigError as e:
        raise ConfigError(f"{e}; correct the key or the file") from None
    return "TLS" if secrets.context else "no TLS ('publish.ca_file' is empty)"


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


def _handed_over(publish: Publish) -> Publish:
    """Outside the unit: with the files that it hands over as credentials. Raises Note where only root may look."""
    from edgefer.publish._tls import CREDENTIALS, FILES

    named = {key: getattr(publish, key) for key in FILES if getattr(publish, key).startswith(CREDENTIALS)}
    source = configuration.SERVICE_TLS
    if not named or "CREDENTIALS_DIRECTORY" in os.environ or not source.exists():
        return publish
    if not os.access(source, os.R_OK | os.X_OK):
        raise nvidia.Note(f"{', '.join(named)}: only root may look into {source}; run the doctor as root")
    return publish.model_copy(update={k: str(source / name.removeprefix(CREDENTIALS)) for k, name in named.items()})


def _metrics(settings: Config) -> str:
    from edgefer import metrics
    from edgefer.health import StageTimes

    port = settings.health.prometheus_port
    try:
        with metrics.served(port, StageTimes(), dict):
            return f"http://{metrics.HOST}:{port}/metrics" if port else "none asked for (health.prometheus_port = 0)"
    except ConfigError:
        if not _answers(metrics.HOST, port):
            raise
    return f"a running edgefer answers on port {port}"


def _answers(host: str, port: int) -> bool:
    """Whether it is an edgefer that has the port."""
    asked = http.client.HTTPConnection(host, port, timeout=3)
    try:
        asked.request("GET", "/metrics")
        return b"edgefer_start_time_seconds" in asked.getresponse().read(1 << 20)
    except (OSError, http.client.HTTPException):
        return False
    finally:
        asked.close()


def _reach(host: str, port: int) -> None:
    if not host.startswith("/"):
        socket.create_connection((host, port), timeout=3).close()
        return
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(3)
        link.connect(host)


def _store(settings: Config) -> Store | None:
    """The service's. Raises Note for one that may not be looked at."""
    from edgefer.serving import service_store

    try:
        return service_store(settings)
    except ServiceError as e:
        raise nvidia.Note(str(e)) from None


def _updates(settings: Config) -> str:
    """Which bundles are staged and which one serves; a note where there are no updates."""
    from edgefer.serving import SHIPS

    store = _store(settings)
    if store is None:
        raise nvidia.Note("no signed bundles: 'update.key_1' is empty")
    entries = store.entries()
    unreadable = [e.name for e in entries if e.roles and not e.number]
    if unreadable:
        raise BundleError(f"{store.folder}: {', '.join(unreadable)} cannot be read or is not signed; install it again")
    trial = " (on trial)" if store.on_trial() else ""
    return f"{store.current() or SHIPS} serves{trial}, {len(entries)} staged, highest confirmed {store.highest()}"


def reference() -> str:
    """The configuration reference as a Markdown table, and which keys SIGHUP changes."""
    rows = ["| key | value | default | meaning |", "|---|---|---|---|"]
    for key, kind, default, meaning in config_file.reference():
        rows.append(f"| `{key}` | {kind} | `{default}` | {meaning} |")
    live = ", ".join(f"`{key}`" for key in configuration.LIVE)
    return "\n".join([*rows, "", f"Changed while the service runs, by SIGHUP: {live}. The others need a restart."])
