"""Commands carried out: in the loop, and by the service as a process over a real broker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from locate_portraits import astronaut
from mosquitto_broker import BOUND_S, Mosquitto

from edgefer import app
from edgefer.capture import Recorder
from edgefer.capture.fake import FakeSource
from edgefer.capture.rig import Rig
from edgefer.config import Config
from edgefer.config_file import build
from edgefer.control import PRIVACY_FILE, PrivacyMemory
from edgefer.errors import CameraError
from edgefer.messages import Command, EventDriver, Message, Meta, Privacy, Rate, Reload, StateDriver
from edgefer.pipeline import Pipeline
from edgefer.shutter import Shutter
from edgefer.types import Frame, Lens

sys.path.insert(0, str(Path(__file__).parent / "publish"))
from test_commands import Operator

ID = "3f2b8a50-1111-4222-8333-444455556666"


class Boss:
    """Puts commands to a pipeline on standard output, and keeps what it says."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.commands: list[Command] = []
        self.answers: list[tuple[str, bool, str]] = []
        self.said: list[Message] = []
        self.private: list[bool] = []
        far: Any = pipeline.publisher
        far.take_command = lambda: self.commands.pop(0) if self.commands else None
        far.answer = lambda command, ok, reason="": self.answers.append((command.NAME, ok, reason))
        far.publish, far.private = self.said.append, self.private.append

    def states(self) -> list[StateDriver]:
        return [m for m in self.said if isinstance(m, StateDriver)]

    def events(self) -> list[tuple[str, str, str]]:
        return [(m.kind, m.before, m.after) for m in self.said if isinstance(m, EventDriver)]


@pytest.fixture
def settings(tmp_path: Path) -> Config:
    face = tmp_path / "face.png"
    cv2.imwrite(str(face), astronaut())
    return build(
        {
            "capture": {"kind": "picture", "source": str(face)},
            "publish": {"kind": "stdout", "rate_hz": 30.0},
            "state": {"folder": str(tmp_path / "state")},
        },
        "test",
    )


@pytest.fixture
def running(settings: Config) -> Iterator[tuple[Pipeline, Boss]]:
    with app.started(settings) as pipeline:
        boss = Boss(pipeline)
        until_valid(pipeline, boss)
        yield pipeline, boss


def until_valid(pipeline: Pipeline, boss: Boss) -> None:
    end = time.monotonic() + BOUND_S
    while not (boss.states() and boss.states()[-1].valid):
        assert time.monotonic() < end
        pipeline.step()


def test_privacy_stops_within_the_frame_under_way(running: tuple[Pipeline, Boss], tmp_path: Path) -> None:
    """The command comes while a frame is being looked at: not even that frame's reading is told."""
    pipeline, boss = running
    find = pipeline.locator.find

    def find_and_be_told(pair: Any) -> Any:
        boss.commands.append(Privacy(id=ID, on=True))
        boss.said.clear()
        return find(pair)

    pipeline.locator.find = find_and_be_told  # type: ignore[method-assign]
    while not boss.answers:
        pipeline.step()
    assert boss.said == []
    assert boss.answers == [("privacy", True, "")]
    assert boss.private == [True]
    assert (tmp_path / "state" / PRIVACY_FILE).exists()
    assert not [t for t in threading.enumerate() if t.name.startswith("capture-")], "the lenses are released"
    for _ in range(3):
        assert pipeline.step(), "a quiet loop is a healthy one"
    assert {(s.valid, s.why, s.label, s.conf, tuple(s.probs)) for s in boss.states()} == {
        (False, "privacy", "unknown", 0.0, ())
    }
    assert ("privacy", "off", "on") in boss.events()
    assert not [m for m in boss.said if getattr(m, "kind", "") == "lens_lost"], "released is not lost"

    pipeline.locator.find = find  # type: ignore[method-assign]
    boss.commands.append(Privacy(id=ID, on=False))
    until_valid(pipeline, boss)
    assert ("privacy", "on", "off") in boss.events()
    assert boss.private == [True, False]
    assert not (tmp_path / "state" / PRIVACY_FILE).exists()


def test_a_start_under_privacy_opens_no_lens(settings: Config, tmp_path: Path) -> None:
    assert PrivacyMemory(tmp_path / "state").write(True) == ""
    with app.started(settings) as pipeline:
        boss = Boss(pipeline)
        pipeline.step()
        assert [s.why for s in boss.states()] == ["privacy"]
        assert not [t for t in threading.enumerate() if t.name.startswith("capture-")]


def test_privacy_that_cannot_be_remembered_is_on_all_the_same(running: tuple[Pipeline, Boss], tmp_path: Path) -> None:
    pipeline, boss = running
    (tmp_path / "state").write_text("in the way")
    boss.commands.append(Privacy(id=ID, on=True))
    pipeline.step()
    ((_, ok, reason),) = boss.answers
    assert ok
    assert "not remembered" in reason
    assert boss.states()[-1].why == "privacy"


def test_the_memory_is_in_doubt_on_the_private_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = PrivacyMemory(tmp_path)
    assert not memory.read()

    def broken(_: Path) -> bool:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "exists", broken)
    assert memory.read()
    assert not PrivacyMemory(None).read()


def test_a_lens_that_does_not_come_back_leaves_privacy_on(settings: Config) -> None:
    rigs = [Rig([FakeSource((Lens.VISIBLE,))], settings.capture)]

    def make() -> Rig:
        if not rigs:
            raise CameraError("the visible lens is gone")
        return rigs.pop()

    shutter = Shutter(make)
    with shutter:
        shutter.close()
        with pytest.raises(CameraError):
            shutter.open()
        assert shutter.closed
        assert shutter.next_pair(0.0) is None


def test_privacy_off_is_remembered_once_the_lenses_are_open_and_not_before(
    running: tuple[Pipeline, Boss], tmp_path: Path
) -> None:
    """Refused, or killed while the lenses open: the next start is private."""
    pipeline, boss = running
    boss.commands.append(Privacy(id=ID, on=True))
    pipeline.step()
    memory, make = PrivacyMemory(tmp_path / "state"), pipeline.rig._make

    def gone() -> Rig:
        raise CameraError("the visible lens is gone")

    pipeline.rig._make = gone
    boss.commands.append(Privacy(id=ID, on=False))
    pipeline.step()
    assert boss.answers[-1] == ("privacy", False, "the visible lens is gone")
    assert boss.states()[-1].why == "privacy"
    assert memory.read()

    at_opening: list[bool] = []
    pipeline.rig._make = lambda: (at_opening.append(memory.read()), make())[1]
    boss.commands.append(Privacy(id=ID, on=False))
    pipeline.step()
    assert boss.answers[-1] == ("privacy", True, "")
    assert at_opening == [True]
    assert not memory.read()


def test_a_lens_whose_driver_hangs_is_named_in_the_answer_until_it_lets_go(
    settings: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by an answer that comes after privacy was off and on again: the lens of before is still open."""
    monkeypatch.setattr("edgefer.capture.rig.JOIN_S", 0.2)
    hangs, lets_go = threading.Event(), threading.Event()

    class Hung(FakeSource):
        def read(self, timeout_s: float) -> tuple[Frame, ...]:
            hangs.set()
            assert lets_go.wait(BOUND_S)
            return super().read(timeout_s)

    hung = Hung((Lens.VISIBLE,))
    with app.started(settings, rig=Rig([hung, FakeSource((Lens.INFRARED,))], settings.capture)) as pipeline:
        boss = Boss(pipeline)
        assert hangs.wait(BOUND_S)
        for on in (True, True, False, True):
            boss.commands.append(Privacy(id=ID, on=on))
            pipeline.step()
        lets_go.set()
        still_open = "visible lens not released: the driver hangs"
        assert [(ok, reason) for _, ok, reason in boss.answers] == [
            (True, still_open), (True, still_open), (True, ""), (True, still_open),
        ]  # fmt: skip
        assert pipeline.control.private, "no reading and no frame used: that holds all the same"
        for thread in threading.enumerate():
            if thread.name.startswith("capture-"):
                thread.join(BOUND_S)
        boss.commands.append(Privacy(id=ID, on=True))
        pipeline.step()
        assert boss.answers[-1] == ("privacy", True, "")
        assert hung.closed == hung.opened == 1


def test_the_rate_changes_and_meta_says_so(running: tuple[Pipeline, Boss]) -> None:
    pipeline, boss = running
    boss.commands.append(Rate(id=ID, rate_hz=0.5))
    pipeline.step()
    boss.said.clear()
    for _ in range(10):
        pipeline.step()
    assert boss.answers == [("rate", True, "")]
    assert len(boss.states()) <= 1
    boss.commands.append(Rate(id=ID, rate_hz=2.0))
    pipeline.step()
    assert [m.limits["state_rate_hz"] for m in boss.said if isinstance(m, Meta)] == [2.0]


def test_reload_asks_the_bundle_store_and_says_when_there_is_none(settings: Config) -> None:
    with app.started(settings) as pipeline:
        boss = Boss(pipeline)
        boss.commands.append(Reload(id=ID))
        pipeline.step()
    assert boss.answers == [("reload", False, "there is no bundle store on this device")]
    with app.started(settings) as pipeline:
        pipeline.control.activate = lambda: (True, "bundle b@2 serves")
        boss = Boss(pipeline)
        boss.commands.append(Reload(id=ID))
        pipeline.step()
    assert boss.answers == [("reload", True, "bundle b@2 serves")]


# -- the service over a broker --------------------------------------------------------------------------------------


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Two seconds of the astronaut as two video files: open descriptors show whether the lenses are held."""
    folder, face = tmp_path / "recording", cv2.resize(astronaut(), (320, 240))
    grain = np.random.default_rng(0)
    with Recorder(folder, fps=25) as recorder:
        for k in range(50):
            visible = np.clip(face + grain.integers(0, 6, face.shape, np.uint8), 0, 255).astype(np.uint8)
            recorder.write(Frame(Lens.VISIBLE, visible, k * 40_000_000, k))
            recorder.write(Frame(Lens.INFRARED, visible[:, :, 1].copy(), k * 40_000_000, k))
    return folder


def videos_open(process: subprocess.Popen[Any], recording: Path) -> int:
    links = Path(f"/proc/{process.pid}/fd")
    return sum(os.path.realpath(link).startswith(str(recording)) for link in links.iterdir())


@pytest.mark.broker
def test_privacy_over_the_broker_outlives_a_kill(mosquitto: Mosquitto, tmp_path: Path, recording: Path) -> None:
    file = tmp_path / "edgefer.toml"
    file.write_text(f"""device = "car-1"
[capture]
kind = "recording"
source = "{recording}"
repeat = true
[publish]
port = {mosquitto.port}
[state]
folder = "{tmp_path / "state"}"
spool_mb = 1
""")
    command = [sys.executable, "-m", "edgefer", "run", "--config", str(file)]
    boss = Operator(mosquitto.port)
    process = subprocess.Popen(command)
    try:
        boss.wait(lambda t, p: t == "state/driver" and json.loads(p)["valid"])
        assert videos_open(process, recording) == 2
        answer = boss.ask("privacy", on=True)
        assert (answer["ok"], answer["reason"]) == (True, "")
        assert videos_open(process, recording) == 0, "released before the answer"
        after = len(boss.heard)
        boss.wait(lambda t, p: t == "event/driver" and json.loads(p)["kind"] == "privacy", 0)
        boss.wait(lambda t, p: t == "state/driver" and bool(p), after)
        process.kill()
        process.wait()

        process, restarted = subprocess.Popen(command), len(boss.heard)
        state = boss.wait(lambda t, p: t == "state/driver" and bool(p), restarted)
        assert state["why"] == "privacy"
        assert videos_open(process, recording) == 0
        late = Operator(mosquitto.port)
        late.wait(lambda t, p: t == "meta")
        late.end()
        assert not [t for t, _, retained in late.heard if t == "state/driver" and retained]
        told = [json.loads(p) for t, p, _ in boss.heard[after:] if t == "state/driver" and p]
        assert {s["why"] for s in told} == {"privacy"}
        assert boss.ask("privacy", on=False)["ok"]
        boss.wait(lambda t, p: t == "state/driver" and bool(p) and json.loads(p)["valid"], restarted)
        assert boss.ask("rate", rate_hz=20.0)["ok"]
        boss.wait(lambda t, p: t == "meta" and json.loads(p)["limits"]["state_rate_hz"] == 20.0)
        assert boss.ask("reload") | {"id": ""} == {
            "id": "", "ok": False, "reason": "there is no store of signed bundles here: set 'update.key_1'",
        }  # fmt: skip
    finally:
        process.kill()
        process.wait()
        boss.end()
