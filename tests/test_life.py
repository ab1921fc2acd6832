"""The service's life under a service manager: a real process, a real notify socket."""

from __future__ import annotations

import fcntl
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from bundle_workshop import copy_of_default, edit_golden
from locate_portraits import astronaut
from mosquitto_broker import Mosquitto, free_port
from release_workshop import Workshop, confirmed

from edgefer import app
from edgefer.bundle import open_bundle
from edgefer.capture import Recorder
from edgefer.capture.fake import FakeSource
from edgefer.capture.rig import Rig
from edgefer.config_file import build
from edgefer.demo import clip
from edgefer.errors import EX_CONFIG, EX_OK
from edgefer.life import Life, Record
from edgefer.messages import EventSystem
from edgefer.types import Frame, Lens


class Manager:
    """What systemd is to the service: hears its notifications, and its messages on standard output."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.publish = 'kind = "stdout"'
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(folder / "notify"))
        self._socket.settimeout(20)
        self.process: subprocess.Popen[str] | None = None

    def configure(self, text: str, rate_hz: float = 5.0) -> Path:
        face, file = self.folder / "face.png", self.folder / "edgefer.toml"
        cv2.imwrite(str(face), astronaut())
        publish = f"[publish]\n{self.publish}\nrate_hz = {rate_hz}\n"
        capture = "" if "[capture]" in text else f'[capture]\nkind = "picture"\nsource = "{face}"\n'
        file.write_text(capture + publish + text)
        return file

    def start(self, text: str, rate_hz: float = 5.0, pipe: int = 0, **environ: str) -> subprocess.Popen[str]:
        """``pipe``: bytes that standard output holds before a writer has to wait."""
        file = self.configure(text, rate_hz)
        command = [sys.executable, "-m", "edgefer", "run", "--config", str(file)]
        self.state.mkdir(mode=0o700, exist_ok=True)
        env = {
            "NOTIFY_SOCKET": str(self.folder / "notify"),
            "STATE_DIRECTORY": str(self.state),
            "PATH": "/usr/bin:/bin",
        }
        self.process = subprocess.Popen(
            command,
            env={**env, **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        if pipe:
            fcntl.fcntl(self.process.stdout, fcntl.F_SETPIPE_SZ, pipe)
        return self.process

    def hear(self) -> str:
        return self._socket.recv(4096).decode()

    def until(self, notification: str) -> None:
        heard: list[str] = []
        while notification not in heard:
            heard.append(self.hear())

    def message(self, topic: str, **said: object) -> dict[str, Any]:
        """The next message that fits, of at most two hundred."""
        assert self.process is not None
        assert self.process.stdout is not None
        for _ in range(200):
            line = json.loads(self.process.stdout.readline())
            if line["topic"].endswith(topic) and said.items() <= line["payload"].items():
                return dict(line["payload"])
        raise AssertionError(f"not heard: {topic} {said}")

    def until_silent(self, seconds: float) -> None:
        """Raises TimeoutError once nothing was heard for ``seconds``; gives up after a minute of chatter."""
        self._socket.settimeout(seconds)
        for _ in range(60):
            self.hear()

    def heard_nothing(self) -> bool:
        self._socket.setblocking(False)
        try:
            self._socket.recv(4096)
        except BlockingIOError:
            return True
        finally:
            self._socket.settimeout(20)
        return False

    def stop(self, number: signal.Signals = signal.SIGTERM) -> tuple[str, str]:
        """What it says from the signal to its end."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.communicate(timeout=20)

    def end(self) -> None:
        self._socket.close()
        if self.process is not None:
            self.process.kill()
            self.process.communicate()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path)
    yield made
    made.end()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ready_alive_stopping_stopped(manager: Manager, number: signal.Signals) -> None:
    process = manager.start("")
    assert manager.hear() == "READY=1"
    assert [manager.hear(), manager.hear()] == ["WATCHDOG=1"] * 2
    began = time.monotonic()
    out, err = manager.stop(number)
    assert time.monotonic() - began < 5
    manager.until("STOPPING=1")
    assert process.returncode == EX_OK
    assert '"state":"stopped"' in out.splitlines()[-1]
    assert "Traceback" not in err


@pytest.mark.broker
@pytest.mark.parametrize("hangs", [False, True], ids=["broker answers", "broker hangs"])
def test_a_stop_takes_less_than_five_seconds(hangs: bool, manager: Manager, mosquitto: Mosquitto) -> None:
    manager.publish = f"port = {mosquitto.port}"
    process = manager.start("")
    manager.until("READY=1")
    assert process.stderr is not None
    while "connected" not in process.stderr.readline():
        pass
    assert mosquitto._process is not None
    if hangs:
        mosquitto._process.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    manager.stop()
    assert time.monotonic() - began < 5
    assert process.returncode == EX_OK
    assert Life(manager.state).record.running is False, "and it is no crash"


def test_a_stalled_pipeline_starves_the_watchdog_and_its_death_shows_where(manager: Manager) -> None:
    """The reader of standard output stops reading: the write blocks, as any hung call would. systemd then aborts."""
    process = manager.start("", rate_hz=30.0, pipe=4096)
    manager.until("READY=1")
    with pytest.raises(TimeoutError):
        manager.until_silent(3.0)
    _, err = manager.stop(signal.SIGABRT)
    assert process.returncode == -signal.SIGABRT
    assert "Fatal Python error: Aborted" in err
    assert "in _publish" in err, "the stack names the stage that hung"
    assert Life(manager.state).record.running, "and the next start counts it"


def test_golden_vectors_that_fail_are_never_ready(manager: Manager, tmp_path: Path) -> None:
    bundle = copy_of_default(tmp_path)
    edit_golden(bundle, logits=np.flip(open_bundle(bundle).golden.logits, axis=1))
    process = manager.start(f'[infer]\nbundle = "{bundle}"\n')
    _, err = process.communicate(timeout=30)
    assert process.returncode == EX_CONFIG
    assert "golden.npz" in err
    assert manager.heard_nothing()


# -- reload ------------------------------------------------------------------------------------------------------------


def test_a_reload_changes_what_it_can_says_what_it_cannot_and_drops_no_frame(manager: Manager, tmp_path: Path) -> None:
    """In lockstep on a recording every frame becomes a reading: 40 ms apart, so a dropped one would show."""
    drive = tmp_path / "clip"
    with Recorder(drive, fps=clip.FPS) as recorder:
        for _, frames in clip.render(4.0):
            for frame in frames:
                recorder.write(frame)
    capture = f'[capture]\nkind = "recording"\nsource = "{drive}"\nrealtime = false\n'
    manager.start(capture, rate_hz=30.0, pipe=4096)  # it waits for this reader, so the reload comes in its midst
    manager.until("READY=1")
    first = manager.message("state/driver")
    manager.configure(
        f'{capture}lost_s = 0.9\n[decide]\nsmoothing_s = 0.5\n[infer]\nthreads = 1\n[log]\nlevel = "debug"\n', 30.0
    )
    assert manager.process is not None
    manager.process.send_signal(signal.SIGHUP)
    manager.until("READY=1")
    manager.configure("[infer]\nthreads = 0\n")
    manager.process.send_signal(signal.SIGHUP)
    manager.until("READY=1")
    out, err = manager.process.communicate(timeout=60)
    assert manager.process.returncode == EX_OK
    times = [first["mono_ns"]] + [
        m["payload"]["mono_ns"] for m in map(json.loads, out.splitlines()) if m["topic"].endswith("state/driver")
    ]
    assert {round((b - a) / 1e6) for a, b in pairwise(times)} == {40}
    assert len(times) >= 98
    assert "reload: infer.threads 2 -> 1\n" in err
    assert "reload: decide.smoothing_s 0.35 -> 0.5\n" in err
    assert "reload: capture.lost_s 0.6 -> 0.9: needs a restart" in err
    assert "reload: done" in err
    assert "edgefer.toml: 'infer.threads'" in err, "the bad file is named and changes nothing"
    assert "Traceback" not in err


def test_the_rate_changes_live(manager: Manager) -> None:
    manager.start("", rate_hz=0.1)
    manager.until("READY=1")
    assert manager.message("meta")["limits"]["state_rate_hz"] == 0.1
    manager.configure("", rate_hz=20.0)
    assert manager.process is not None
    manager.process.send_signal(signal.SIGHUP)
    assert manager.message("meta")["limits"]["state_rate_hz"] == 20.0
    for _ in range(5):  # at 0.1 Hz this would take 50 s
        manager.message("state/driver")
    manager.stop()


# -- crashes -----------------------------------------------------------------------------------------------------------


def keys(w: Workshop, more: str = "") -> str:
    return f'[update]\nkey_1 = "{w.public("key-1")}"\n{more}'


def test_a_bundle_that_crashes_goes_back_and_then_the_visible_lens_goes_on_alone(manager: Manager) -> None:
    w = Workshop(manager.folder)
    shutil.move(two_releases(w), manager.state / "bundles")
    for _ in range(3):  # SIGKILL right after the start: as a segmentation fault or the watchdog would end it
        manager.start(keys(w))
        assert manager.message("state/driver")["bundle"] == "default@1.2.0"
        manager.stop(signal.SIGKILL)
    manager.start(keys(w))
    event = manager.message("event/system", kind="bundle_rolled_back")
    assert event["detail"] == "default@1.2.0 -> default@1.1.0: 3 crashes in a row"
    assert manager.message("state/driver")["bundle"] == "default@1.1.0"
    manager.stop(signal.SIGKILL)
    (manager.state / "life.json").write_text(Record(running=True, crashes=5, suspect="default@1.2.0").model_dump_json())
    manager.start(keys(w))
    state = manager.message("state/driver")
    assert state["bundle"] == open_bundle().title, "the one that ships"
    assert state["quality"]["lenses"][1] == "lost", "visible only"
    assert state["label"] == "happiness"
    assert manager.process is not None
    manager.process.send_signal(signal.SIGHUP)
    for _ in range(2):  # its own, and the reload's
        manager.until("READY=1")
    manager.message("state/driver")
    _, err = manager.stop()
    assert [line for line in err.splitlines() if " -> " in line] == [], "a reload brings back nothing that crashed"
    assert Life(manager.state).record.running is False


def two_releases(w: Workshop) -> Path:
    """A store in which 1.1.0 is confirmed and 1.2.0 on trial."""
    store = w.store()
    confirmed(store, w.real("1.1.0", 5))
    store.activate(store.install(w.real("1.2.0", 6)).name)
    return store.folder


# -- updates while it runs ---------------------------------------------------------------------------------------------


def test_an_update_serves_after_a_reload_and_is_confirmed_in_good_health(manager: Manager) -> None:
    w = Workshop(manager.folder)
    manager.start(keys(w, "confirm_s = 1.0\n"))
    assert manager.message("state/driver")["bundle"] == open_bundle().title
    run = [sys.executable, "-m", "edgefer", "bundle"]
    where = ["--config", str(manager.folder / "edgefer.toml"), "--store", str(manager.state / "bundles")]
    for command in (["install", str(w.real("1.1.0", 5))], ["activate", "default@1.1.0"]):
        done = subprocess.run([*run, *command, *where], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (EX_OK, ""), done
    assert manager.process is not None
    manager.process.send_signal(signal.SIGHUP)
    assert manager.message("event/system", kind="bundle_activated")["detail"].endswith("-> default@1.1.0")
    assert manager.message("meta")["bundle"]["version"] == "1.1.0"
    assert manager.message("state/driver")["bundle"] == "default@1.1.0"
    for _ in range(100):
        if (manager.state / "bundles" / "confirmed").is_symlink():
            break
        manager.message("state/driver")
    _, err = manager.stop()
    assert "bundle default@1.1.0 confirmed, release 5" in err
    assert (manager.state / "bundles" / "highest").read_text() == "5\n"


def test_an_update_that_does_not_open_is_taken_back_at_the_start(manager: Manager) -> None:
    w = Workshop(manager.folder)
    folder = shutil.move(two_releases(w), manager.state / "bundles")
    (Path(folder) / "staged" / "default@1.2.0" / "classifier.onnx").write_bytes(b"worn out")
    manager.start(keys(w))
    event = manager.message("event/system", kind="bundle_rolled_back")
    assert event["detail"].startswith("default@1.2.0 -> default@1.1.0: ")
    assert "classifier.onnx" in event["detail"]
    assert manager.message("state/driver")["bundle"] == "default@1.1.0"
    manager.stop()


# -- a stop in the worst case ---------------------------------------------------------------------------------------


@pytest.mark.broker
def test_a_stop_with_camera_and_broker_hanging_takes_less_than_five_seconds(
    mosquitto: Mosquitto, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A driver that does not come back, a broker that acknowledges nothing, a scrape endpoint: all bounds at once."""
    never = threading.Event()

    class Stuck(FakeSource):
        def read(self, timeout_s: float) -> tuple[Frame, ...]:
            never.wait(30)
            return ()

    config = build(
        {
            "publish": {"port": mosquitto.port},
            "state": {"folder": str(tmp_path / "state"), "spool_mb": 1},
            "health": {"prometheus_port": free_port()},
        },
        "test",
    )
    assert mosquitto._process is not None
    rig = Rig([Stuck((Lens.VISIBLE,))], config.capture)
    try:
        with app.started(config, rig=rig) as pipeline:
            while not pipeline.publisher.connected:
                pipeline.step()
            mosquitto._process.send_signal(signal.SIGSTOP)
            stamper = pipeline.reporter.stamper
            for _ in range(40):
                pipeline.publisher.publish(stamper.message(EventSystem, kind="started"))
            began = time.monotonic()
        took = time.monotonic() - began
    finally:
        never.set()
        mosquitto._process.send_signal(signal.SIGCONT)
    print(f"stopped in {took:.2f} s")
    assert "left behind" in caplog.text, "the camera did hang"
    assert pipeline.publisher.counters()["spool_depth"] > 0, "and so did the broker"
    assert took < 4.75, "0.25 s may pass before the loop sees the signal"
