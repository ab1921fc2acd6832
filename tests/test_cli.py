"""What a user types and sees: exit codes, one line for every fault, never a traceback."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from locate_portraits import astronaut
from mosquitto_broker import MakeMosquitto

import edgefer
from edgefer.capture import Recorder
from edgefer.cli import main
from edgefer.errors import EX_CONFIG, EX_NOINPUT, EX_OK, EX_SOFTWARE, EX_UNAVAILABLE, EX_USAGE
from edgefer.types import Frame, Lens


def edgefer_process(*args: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgefer", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


def config(folder: Path, text: str) -> str:
    file = folder / "edgefer.toml"
    file.write_text(text)
    return str(file)


FAULTS = {
    "no command": ([], EX_USAGE, "--help"),
    "no such command": (["fly"], EX_USAGE, "fly"),
    "run without a configuration": (["run"], EX_USAGE, "--config"),
    "missing configuration": (["run", "--config", "nowhere.toml"], EX_CONFIG, "nowhere.toml: no such"),
    "negative seconds": (["bench", "--seconds", "-1"], EX_USAGE, "-1"),
    "missing recording": (["replay", "nowhere"], EX_NOINPUT, "nowhere"),
    "missing bundle": (["bundle", "verify", "nowhere"], EX_CONFIG, "nowhere"),
    "comparing with nothing": (["bench", "--vs", "threads"], EX_USAGE, "section.key=value"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_and_its_exit_code(fault: str) -> None:
    args, code, part = FAULTS[fault]
    done = edgefer_process(*args)
    assert done.returncode == code, done.stderr
    assert part in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


RUN_FAULTS = {
    "no camera named": ("", EX_CONFIG, "capture"),
    "no such recording": ('[capture]\nkind = "recording"\nsource = "gone"\n', EX_NOINPUT, "gone"),
    "no such picture": ('[capture]\nkind = "picture"\nsource = "gone.png"\n', EX_NOINPUT, "gone.png"),
    "no such bundle": (
        '[capture]\nkind = "picture"\nsource = "FACE"\n[infer]\nbundle = "gone"\n', EX_CONFIG, "gone"),
    "no such calibration": (
        '[capture]\nkind = "picture"\nsource = "FACE"\n[align]\ncalibration = "gone.json"\n', EX_NOINPUT, "gone.json"),
    "no such detector": (
        '[capture]\nkind = "picture"\nsource = "FACE"\n[locate]\nmodel = "gone.onnx"\n', EX_CONFIG, "locate.model"),
    "no such password file": (
        '[capture]\nkind = "picture"\nsource = "FACE"\n[publish]\nusername = "u"\npassword_file = "gone"\n',
        EX_CONFIG, "publish.password_file"),
}  # fmt: skip


@pytest.mark.parametrize("fault", RUN_FAULTS)
def test_the_service_refuses_what_it_cannot_use(fault: str, tmp_path: Path) -> None:
    text, code, part = RUN_FAULTS[fault]
    face = tmp_path / "face.png"
    cv2.imwrite(str(face), astronaut())
    done = edgefer_process("run", "--config", config(tmp_path, text.replace("FACE", str(face))))
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("edgefer: ")
    assert part in last


@pytest.mark.broker
def test_a_broker_that_refuses_ends_the_service_in_one_line(tmp_path: Path, make_mosquitto: MakeMosquitto) -> None:
    broker = make_mosquitto(users={"car-1": "right"})
    face, password = tmp_path / "face.png", tmp_path / "password"
    cv2.imwrite(str(face), astronaut())
    password.write_text("wrong\n")
    text = f"""device = "car-1"
[capture]
kind = "picture"
source = "{face}"
[publish]
port = {broker.port}
username = "car-1"
password_file = "{password}"
"""
    done = edgefer_process("run", "--config", config(tmp_path, text))
    assert done.returncode == EX_UNAVAILABLE, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert f"127.0.0.1:{broker.port}" in last
    assert "publish.password_file" in last
    assert "wrong" not in done.stderr


def test_lenses_that_never_deliver_are_named_and_the_service_goes_on(tmp_path: Path) -> None:
    text = '[capture]\nvisible = "/dev/video98"\ninfrared = "/dev/video99"\n'
    command = [sys.executable, "-m", "edgefer", "run", "--config", config(tmp_path, text), "--publisher", "stdout"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        state = next(x for x in map(json.loads, process.stdout) if x["topic"].endswith("state/driver"))
        process.terminate()
        said = process.stderr.read()
        assert process.wait(timeout=30) == EX_OK
    assert state["payload"]["why"] == "camera_lost"
    for device in ("/dev/video98", "/dev/video99"):
        assert said.count(device) == 1, said


def test_a_reader_that_goes_away_ends_the_service_in_one_line(tmp_path: Path) -> None:
    """`edgefer run --publisher stdout | head -1`."""
    face = tmp_path / "face.png"
    cv2.imwrite(str(face), astronaut())
    file = config(tmp_path, f'[capture]\nkind = "picture"\nsource = "{face}"\n')
    command = [sys.executable, "-m", "edgefer", "run", "--config", file, "--publisher", "stdout"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read()
        assert process.wait(timeout=30) == EX_UNAVAILABLE
    assert "Traceback" not in said
    assert "Exception" not in said


def test_without_opencv_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['cv2'] = None; from edgefer.cli import main; sys.exit(main(sys.argv[1:]))"
    for args in (["doctor"], ["run", "--config", "x"], ["replay", "x"], ["bench"]):
        command = [sys.executable, "-c", code, *args]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode in (EX_UNAVAILABLE, EX_CONFIG)
        assert "Traceback" not in done.stderr
    assert "cv2 is not installed" in done.stderr


def test_what_nobody_foresaw_is_one_line_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(path: Path) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("edgefer.config_file.read", broken)
    assert main(["run", "--config", "x"]) == EX_SOFTWARE
    assert capsys.readouterr().err == "edgefer: internal error, please report it: RuntimeError: two lines\n"


def test_a_reader_that_has_read_enough() -> None:
    """`edgefer doctor --reference | head -1`."""
    command = [sys.executable, "-m", "edgefer", "doctor", "--reference"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""


A_SIGNAL_AT_EVERY_LINE_OF_THE_HANDLER = """
import signal, sys
from edgefer import cli
stop = cli._stop_on_signal()
assert not stop()
def once_more(*_):
    signal.raise_signal(signal.SIGINT)
    return once_more
sys.settrace(once_more)
signal.raise_signal(signal.SIGTERM)
sys.settrace(None)
assert stop()
"""


def test_a_signal_inside_the_handler_of_another_one_does_not_hang() -> None:
    subprocess.run([sys.executable, "-c", A_SIGNAL_AT_EVERY_LINE_OF_THE_HANDLER], check=True, timeout=30)


def test_stdout_carries_the_wire_format_and_sigterm_ends_it_cleanly(tmp_path: Path) -> None:
    face = tmp_path / "face.png"
    cv2.imwrite(str(face), astronaut())
    file = config(tmp_path, f'device = "car-7"\n[capture]\nkind = "picture"\nsource = "{face}"\n')
    command = [sys.executable, "-m", "edgefer", "run", "--config", file, "--publisher", "stdout"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [json.loads(process.stdout.readline()) for _ in range(12)]
        process.terminate()
        rest = [json.loads(line) for line in process.stdout]
        assert process.wait(timeout=30) == EX_OK
    states = [m["payload"] for m in lines if m["topic"] == "edgefer/v1/car-7/state/driver"]
    assert states[-1]["label"] == "happiness"
    assert rest[-1]["topic"] == "edgefer/v1/car-7/status"
    assert rest[-1]["payload"]["state"] == "stopped"


@pytest.mark.parametrize(
    "command", ["run", "demo", "bench", "doctor", "engine", "bundle", "calibrate", "record", "replay"]
)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as e:
        main([command, "--help"])
    assert e.value.code == 0
    assert len(capsys.readouterr().out) > 80


def test_record_then_replay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the lenses saw for a second comes out of a replay as readings, frame for frame."""
    face = tmp_path / "face.png"
    cv2.imwrite(str(face), astronaut())
    cameras = config(tmp_path, f'[capture]\nkind = "picture"\nsource = "{face}"\n[publish]\nrate_hz = 30.0\n')
    consent = ("record", "--i-have-consent", "--config", cameras)
    recorded = edgefer_process(*consent, "--seconds", "1.5", str(tmp_path / "drive"))
    assert recorded.returncode == EX_OK, recorded.stderr
    assert "must have agreed" in recorded.stderr
    rows = len((tmp_path / "drive" / "timestamps.csv").read_text().splitlines()) - 1
    assert re.search(rf"drive: {rows} frames; \d+ came and are not in it", recorded.stderr)
    assert json.loads((tmp_path / "drive" / "recording.json").read_text())["consent"] is True
    replayed = edgefer_process("replay", str(tmp_path / "drive"))
    assert replayed.returncode == EX_OK, replayed.stderr
    states = [json.loads(x)["payload"] for x in replayed.stdout.splitlines() if "state/driver" in x]
    rows = (tmp_path / "drive" / "timestamps.csv").read_text().splitlines()
    visible, infrared = (sum(row.startswith(lens) for row in rows) for lens in ("visible", "infrared"))
    assert visible > 3, "25 a second where there is time for it"
    # A frame without its partner (a busy machine records some) makes a reading of its own, a pair makes one.
    assert max(visible, infrared) <= len(states) <= visible + infrared
    assert {s["label"] for s in states} == {"happiness"}
    again = edgefer_process(*consent, "--seconds", "1", str(tmp_path / "drive"))
    assert again.returncode == EX_NOINPUT
    assert "drive" in again.stderr


def filmed(folder: Path, picture: np.ndarray, frames: int = 20) -> Path:
    """A recording of ``picture`` with a little noise, 25 frames a second."""
    grain = np.random.default_rng(0)
    with Recorder(folder, 25.0, images=True) as recorder:
        for k in range(frames):
            visible = cv2.add(picture, grain.integers(0, 4, picture.shape, np.uint8))
            for lens, image in ((Lens.VISIBLE, visible), (Lens.INFRARED, visible[:, :, 2].copy())):
                recorder.write(Frame(lens, image, k * 40_000_000, k))
    return folder


def test_a_recording_is_a_regression_test_by_one_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drive, expected = str(filmed(tmp_path / "drive", astronaut())), tmp_path / "expected.json"
    assert main(["replay", drive, "--write-expect", str(expected)]) == EX_OK
    assert capsys.readouterr().out == f"{expected}: 20 readings\n"
    assert main(["replay", drive, "--expect", str(expected), "--tolerance", "0.001"]) == EX_OK
    assert capsys.readouterr().out == f"20 readings as expected ({expected})\n"
    expected.write_text(expected.read_text().replace('"label": "happiness"', '"label": "anger"'))
    assert main(["replay", drive, "--expect", str(expected)]) == 1
    said = capsys.readouterr()
    assert "label happiness, expected anger" in said.err
    assert said.out == ""
    assert main(["replay", drive, "--expect", str(expected), "--realtime"]) == EX_USAGE
    assert main(["replay", drive, "--expect", str(tmp_path / "gone.json")]) == EX_NOINPUT
    assert "write one with --write-expect" in capsys.readouterr().err


def test_without_consent_a_face_ends_the_recording_and_nothing_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = cv2.copyMakeBorder(cv2.resize(astronaut(), (256, 192)), 144, 144, 192, 192, cv2.BORDER_REPLICATE)
    cabin = cv2.resize(astronaut()[:60], (640, 480))
    for name, picture, code in (("face", small, EX_USAGE), ("cabin", cabin, EX_OK)):
        seen = filmed(tmp_path / f"{name}.seen", picture, 5)
        cameras = config(tmp_path, f'[capture]\nkind = "recording"\nsource = "{seen}"\nrealtime = false\n')
        assert main(["record", "--config", cameras, str(tmp_path / name)]) == code
        assert ("--i-have-consent" in capsys.readouterr().err) == (code == EX_USAGE)
    assert not list(tmp_path.glob("face")) + list(tmp_path.glob("*.part"))
    assert json.loads((tmp_path / "cabin" / "recording.json").read_text())["consent"] is False


def test_doctor_says_what_is_there_and_what_is_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == EX_OK
    out = capsys.readouterr().out
    assert all(f"ok    {part}: " in out for part in ("system", "opencv", "onnxruntime", "int8", "detector", "bundle"))
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    face = tmp_path / "face.png"
    cv2.imwrite(str(face), astronaut())
    text = f'[capture]\nkind = "picture"\nsource = "{face}"\n[publish]\nport = {port}\n'
    assert main(["doctor", "--config", config(tmp_path, text)]) == EX_UNAVAILABLE
    out = capsys.readouterr().out
    assert "ok    cameras" in out
    assert "FAIL  broker" in out
    assert str(port) in out


def test_bundle_inspect_prints_the_manifest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bundle", "inspect"]) == EX_OK
    assert json.loads(capsys.readouterr().out)["schema_version"] == 1
    assert main(["bundle", "verify"]) == EX_OK


def test_two_arrays_in_a_reading_out() -> None:
    picture = astronaut()
    with edgefer.open_bundle() as estimate:
        both = estimate(picture, cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY))
        assert (both.label, both.valid) == ("happiness", True)
        assert estimate(picture).label == "happiness"
        assert estimate(None, picture[:, :, 2].copy()).label == "happiness"
        assert estimate(picture[:40, :40].copy()).why == "no_face"
        with pytest.raises(ValueError, match=r"visible: .* \[H, W, 3\] BGR"):
            estimate(picture[:, :, 0])
