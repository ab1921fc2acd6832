"""What the doctor says of a Jetson's parts, and how: lines or JSON, never a failure for what is merely not there."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

import cv2
import pytest
from locate_portraits import astronaut
from release_workshop import Workshop

from edgefer import app, doctor, metrics
from edgefer import doctor_nvidia as nvidia
from edgefer.cli import main
from edgefer.config import Config
from edgefer.config_file import build, read
from edgefer.errors import (
    EX_CONFIG,
    EX_NOINPUT,
    EX_OK,
    EX_SOFTWARE,
    EX_UNAVAILABLE,
    ConfigError,
    EdgeferError,
    ServiceError,
)
from edgefer.health import StageTimes
from edgefer.infer.cuda import open_cuda
from edgefer.infer.engines import EngineCache
from edgefer.serving import open_store
from edgefer.types import FramePair, Lens, LensState


def test_json_says_the_same_as_the_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == EX_OK
    lines = capsys.readouterr().out.splitlines()
    assert main(["doctor", "--json"]) == EX_OK
    said = json.loads(capsys.readouterr().out)
    assert said["exit_code"] == EX_OK
    names = [c["check"] for c in said["checks"]]
    assert {"cuda", "tensorrt", "engines", "power", "permissions", "clock", "bundle", "detector"} <= set(names)
    assert [line[6:].split(":")[0] for line in lines] == names
    assert [line[:6].strip() for line in lines] == [c["state"] for c in said["checks"]]


OK, LOST, BLACK, SWAPPED = LensState.OK, LensState.LOST, LensState.BLACK, LensState.WRONG_SPECTRUM


def test_every_lens_that_is_configured_must_deliver() -> None:
    def verdict(visible: LensState, infrared: LensState, lenses: Sequence[Lens] = tuple(Lens)) -> str:
        return doctor.cameras_verdict(lenses, FramePair(None, None, visible, infrared, 1))

    assert verdict(OK, OK) == "visible ok, infrared ok"
    assert verdict(OK, LOST, [Lens.VISIBLE]) == "visible ok", "there is no other"
    with pytest.raises(ServiceError, match="infrared lost; check"):
        verdict(OK, LOST)
    with pytest.raises(ServiceError, match="exchange"):
        verdict(SWAPPED, SWAPPED)
    with pytest.raises(nvidia.Note, match="visible black, infrared ok; is there light"):
        verdict(BLACK, OK)
    with pytest.raises(ServiceError, match="no lens delivers"):
        doctor.cameras_verdict(tuple(Lens), None)


def test_swapped_plugs_are_told_at_installation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "edgefer.toml"
    cv2.imwrite(str(tmp_path / "p.png"), astronaut())
    file.write_text(f'[capture]\nkind = "simulator"\nsource = "{tmp_path / "p.png"}"\n'
                    'faults = "visible:wrong_spectrum:0-60"\n[publish]\nkind = "stdout"\n')  # fmt: skip
    assert main(["doctor", "--config", str(file)]) == EX_UNAVAILABLE
    assert "FAIL  cameras: visible wrong_spectrum, infrared wrong_spectrum; exchange" in capsys.readouterr().out


def test_without_an_nvidia_driver_nothing_nvidia_is_a_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(nvidia, "has_driver", lambda: False)
    with pytest.raises(nvidia.Note, match="ONNX Runtime runs"):
        nvidia.cuda()
    with pytest.raises(nvidia.Note, match="not a Jetson"):
        nvidia.power(tmp_path / "none")


def test_with_a_driver_and_no_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia, "has_driver", lambda: True)
    monkeypatch.setattr("edgefer.infer.vendor.MODULES", ("no_such_tensorrt",))
    with pytest.raises(ServiceError, match="JetPack"):
        nvidia.library()


def test_the_power_mode_by_name_and_the_others(tmp_path: Path) -> None:
    status, modes = tmp_path / "status", tmp_path / "nvpmodel.conf"
    status.write_text("pmode:0001 fmode:2")
    modes.write_text("< POWER_MODEL ID=0 NAME=15W >\nCPU_ONLINE CORE_0 1\n< POWER_MODEL ID=1 NAME=25W >\n"
                     "< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n")  # fmt: skip
    said = nvidia.power(status, modes)
    assert said.startswith("mode 1 25W; others: 0 15W, 2 MAXN_SUPER;")
    assert "nvpmodel -m" in said
    assert "jetson_clocks" in said
    assert nvidia.power(status, tmp_path / "none") == "mode 1"
    status.write_text("")
    with pytest.raises(nvidia.Note, match="nvpmodel -q"):
        nvidia.power(status, modes)


def test_a_node_that_cannot_be_used_is_named_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = tmp_path / "nvmap"
    settings = build({"capture": {"visible": "/dev/none", "infrared2": "/dev/null"}}, "test")
    with pytest.raises(nvidia.Note):
        nvidia.permissions(build({}, "test"), (str(gpu),))
    gpu.write_text("")
    assert nvidia.permissions(settings, (str(gpu),)).startswith("2 device nodes")
    monkeypatch.setattr("os.access", lambda path, how: "nvmap" not in str(path))
    with pytest.raises(ServiceError, match=r"nvmap: no access .*usermod -aG video,render"):
        nvidia.permissions(settings, (str(gpu),))


def test_every_gpu_node_the_doctor_asks_for_is_open_to_the_unit() -> None:
    """Else `runuser` reaches the GPU and the service does not: it would run on ONNX Runtime for ever."""
    unit = (Path(__file__).parents[1] / "systemd" / "edgefer-daemon.service").read_text()
    allowed = re.findall(r"^DeviceAllow=(\S+) rw$", unit, re.MULTILINE)
    groups = {"char-nvidia*": "/dev/nvidia*", "char-drm": "/dev/dri/*"}
    for node in nvidia.NODES:
        assert any(fnmatch(node, groups.get(rule, rule)) for rule in allowed), node


def test_an_unset_clock_is_a_note_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia, "clock_synchronised", lambda: True)
    assert nvidia.clock() == "synchronised"
    monkeypatch.setattr(nvidia, "clock_synchronised", lambda: False)
    with pytest.raises(nvidia.Note, match="timedatectl"):
        nvidia.clock()


def test_the_bundle_looked_at_is_the_one_that_would_serve(tmp_path: Path) -> None:
    """The store's, where there is one: what ships is only behind it."""
    w = Workshop(tmp_path)
    settings = {"update": {"key_1": w.public("key-1"), "store": str(tmp_path / "store")}}
    store = open_store(build(settings, "test"))
    assert store is not None
    done = store.install(w.real("9.9.9", 7))
    store.activate(done.name)
    assert doctor._bundle(build(settings, "test")).startswith(done.name)


def test_outside_the_service_manager_every_command_looks_at_the_services_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No $STATE_DIRECTORY, no update.store: as on a device over ssh."""
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    monkeypatch.setattr("edgefer.config.SERVICE_STATE", tmp_path / "state")
    w, file = Workshop(tmp_path), tmp_path / "edgefer.toml"
    file.write_text(f'[update]\nkey_1 = "{w.public("key-1")}"\n')
    bundle = w.real("9.9.9", 7)
    assert main(["bundle", "install", str(bundle), "--config", str(file)]) == EX_OK
    assert main(["bundle", "activate", "default@9.9.9", "--config", str(file)]) == EX_OK
    assert doctor._bundle(read(file)).startswith("default@9.9.9")
    assert doctor._updates(read(file)).startswith("default@9.9.9 serves (on trial), 1 staged")
    built: list[Path] = []
    monkeypatch.setattr("edgefer.engine_cli.open_cuda", lambda: None)
    monkeypatch.setattr("edgefer.infer.tensorrt.prepare", lambda graph, *_: built.append(graph) or open_cuda())
    main(["engine", "build", "--config", str(file)])
    assert built[0].parent == tmp_path / "state" / "bundles" / "staged" / "default@9.9.9"
    assert open_store(read(file)) is None, "`run` in a terminal is not the service and leaves its store alone"
    monkeypatch.setattr("os.access", lambda path, how: False)
    for check in (doctor._bundle, doctor._updates):
        with pytest.raises(nvidia.Note, match="only its owner may look"):
            check(read(file))
    assert main(["engine", "build", "--config", str(file)]) == EX_UNAVAILABLE
    assert "only its owner may look; run this as root" in capsys.readouterr().err


def test_a_fallback_is_a_note_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgefer.infer.has_driver", lambda: True)
    monkeypatch.setattr("edgefer.infer.cuda._opened", [])
    monkeypatch.setattr("edgefer.infer.vendor.MODULES", ("no_such_tensorrt",))
    with pytest.raises(nvidia.Note, match=r"pass here on onnxruntime; TensorRT does not serve: .*not installed"):
        doctor._bundle(Config())


def test_a_check_that_breaks_does_not_hide_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def breaks() -> str:
        raise KeyError("uid 4711")

    monkeypatch.setattr(nvidia, "cuda", breaks)
    assert main(["doctor"]) == EX_SOFTWARE
    out = capsys.readouterr().out
    assert "FAIL  cuda: internal error, please report it: KeyError" in out
    assert "clock: " in out


def test_a_damaged_engine_fails_the_doctor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, folder = tmp_path / "edgefer.toml", tmp_path / "engines"
    file.write_text(f'[infer]\nengines = "{folder}"\n[publish]\nkind = "stdout"\n[capture]\nkind = "picture"\n'
                    f'source = "{tmp_path}/none.png"\n')  # fmt: skip
    settings = build({"infer": {"engines": str(folder)}}, "test")
    with pytest.raises(nvidia.Note, match="is empty"):
        nvidia.engines(settings)
    EngineCache(folder).folder.mkdir()
    (folder / "classifier-0.engine").write_bytes(b"half an eng")
    assert main(["doctor", "--config", str(file)]) == EX_UNAVAILABLE
    assert "FAIL  engines: " in capsys.readouterr().out


def updates(capsys: pytest.CaptureFixture[str], file: Path) -> dict[str, str]:
    main(["doctor", "--config", str(file), "--json"])
    return next(c for c in json.loads(capsys.readouterr().out)["checks"] if c["check"] == "updates")


def test_the_store_of_bundles_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    w, file = Workshop(tmp_path), tmp_path / "edgefer.toml"
    capture = '[capture]\nkind = "picture"\nsource = "/nowhere.png"\n[publish]\nkind = "stdout"\n'
    file.write_text(capture)
    assert updates(capsys, file)["state"] == "note"
    file.write_text(f'{capture}[update]\nkey_1 = "{w.public("key-1")}"\nstore = "{w.store().folder}"\n')
    assert updates(capsys, file)["text"].startswith("the bundle that ships serves, 0 staged")
    w.store().install(w.real("1.1.0", 5))
    w.store().activate("default@1.1.0")
    said = updates(capsys, file)
    assert (said["state"], said["text"]) == ("ok", "default@1.1.0 serves (on trial), 1 staged, highest confirmed 0")
    (w.store().folder / "staged" / "default@1.1.0" / "release.sig").unlink()
    said = updates(capsys, file)
    assert (said["state"], "install it again" in said["text"]) == ("fail", True)


def said_of(check: str, text: str, folder: Path) -> tuple[str, str, int]:
    """State, words and exit code of one check on a configuration that is right but for ``text``."""
    file = folder / "edgefer.toml"
    cv2.imwrite(str(folder / "p.png"), astronaut())
    kind = "" if "[publish]" in text else '[publish]\nkind = "stdout"\n'
    file.write_text(f'[capture]\nkind = "picture"\nsource = "{folder / "p.png"}"\n{kind}{text}\n')
    return doctor._outcome(doctor._checks(read(file), True)[check])


NEVER_STARTS = {
    "no calibration": ("calibration", '[align]\ncalibration = "/nowhere.json"', "align.calibration", EX_NOINPUT),
    "no CA": ("secrets", '[publish]\nca_file = "/nowhere.crt"', "publish.ca_file", EX_CONFIG),
    "a password without a user": ("secrets", '[publish]\npassword_file = "/nowhere"', "publish.username", EX_CONFIG),
    "no credentials": (
        "secrets", '[publish]\nca_file = "$CREDENTIALS_DIRECTORY/ca.crt"', "publish.ca_file", EX_CONFIG,
    ),
    "a detector on no GPU": ("detector", '[locate]\nbackend = "tensorrt"', "", EX_UNAVAILABLE),
}  # fmt: skip


@pytest.mark.parametrize("fault", NEVER_STARTS)
def test_what_never_starts_fails_here_too_with_the_same_code(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    monkeypatch.setattr("edgefer.config.SERVICE_TLS", tmp_path / "none")
    check, text, key, code = NEVER_STARTS[fault]
    state, words, exit_code = said_of(check, text, tmp_path)
    assert (state, key in words, exit_code) == ("FAIL", True, code), words
    with pytest.raises(EdgeferError) as e:
        app.run(read(tmp_path / "edgefer.toml"), lambda: True)
    assert e.value.exit_code == code


def test_a_port_that_is_taken_fails_unless_edgefer_has_it(tmp_path: Path) -> None:
    pytest.importorskip("prometheus_client", reason="prometheus-client is not installed: extra metrics")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        state, words, code = said_of("metrics", f"[health]\nprometheus_port = {port}", tmp_path)
        assert (state, "health.prometheus_port" in words, code) == ("FAIL", True, EX_CONFIG)
    with metrics.served(port, StageTimes(), dict):
        state, words, code = said_of("metrics", f"[health]\nprometheus_port = {port}", tmp_path)
        assert (state, code) == ("ok", EX_OK), "the service itself, while the doctor looks"
    assert said_of("metrics", f"[health]\nprometheus_port = {port}", tmp_path)[0] == "ok"


def test_a_state_folder_that_cannot_be_had_fails(tmp_path: Path) -> None:
    """The service would run, and forget that privacy is on."""
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/edgefer")):
        state, words, code = said_of("state", f'[state]\nfolder = "{folder}"', tmp_path)
        assert (state, words.startswith(f"'state.folder': {folder}: "), code) == ("FAIL", True, EX_CONFIG), words
    assert said_of("state", f'[state]\nfolder = "{tmp_path}/new/one"', tmp_path)[0] == "ok"
    assert not (tmp_path / "new").exists(), "looking makes nothing"


def test_credentials_are_looked_at_where_the_unit_takes_them_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    monkeypatch.setattr("edgefer.config.SERVICE_TLS", tmp_path)
    settings = build({"publish": {"ca_file": "$CREDENTIALS_DIRECTORY/ca.crt"}}, "test")
    with pytest.raises(ConfigError, match=rf"'publish\.ca_file': {tmp_path}/ca\.crt: No such file.*correct"):
        doctor._secrets(settings)
    (tmp_path / "ca.crt").write_text("junk")
    with pytest.raises(ConfigError, match=r"'publish\.ca_file': not usable PEM"):
        doctor._secrets(settings)
    monkeypatch.setattr("os.access", lambda path, how: False)
    with pytest.raises(nvidia.Note, match="run the doctor as root"):
        doctor._secrets(settings)


def test_a_broker_behind_a_unix_socket_answers_too(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "mqtt.sock"))
        listener.listen()
        settings = build({"publish": {"host": str(tmp_path / "mqtt.sock")}}, "test")
        assert doctor._broker(settings) == f"{tmp_path / 'mqtt.sock'} accepts connections"
    with pytest.raises(ServiceError, match=r"mqtt\.sock does not answer"):
        doctor._broker(settings)
