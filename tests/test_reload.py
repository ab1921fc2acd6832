"""A staged bundle put to work by its name while the pipeline runs: what the reload command comes down to."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import cv2
import numpy as np
import pytest
from bundle_workshop import copy_of_default, edit_golden, edit_manifest
from locate_portraits import astronaut
from release_workshop import Workshop

from edgefer import app
from edgefer.bundle import open_bundle
from edgefer.config import Config
from edgefer.config_file import build
from edgefer.messages import Command, EventSystem, Message, Meta, Rate, StateDriver
from edgefer.pipeline import Pipeline
from edgefer.reload import AGAIN, Parts, Reloader, Requests, differences, merged
from edgefer.serving import Serving, open_store


class Running:
    """A pipeline on a still picture whose messages are kept; ``go`` runs it until something was said."""

    def __init__(self, pipeline: Pipeline, reloader: Reloader) -> None:
        self.pipeline, self.reloader = pipeline, reloader
        self.said: list[Message] = []
        self._at = 0
        pipeline.publisher.publish = self.said.append  # type: ignore[method-assign]

    def go(self, true: Callable[[Message], bool]) -> Message:
        """The next message that fits, after the one before; at most two hundred are waited for."""
        limit = len(self.said) + 200
        self.pipeline.run(lambda: any(map(true, self.said[self._at :])) or len(self.said) > limit)
        found = next(k for k in range(self._at, len(self.said)) if true(self.said[k]))
        self._at = found + 1
        return self.said[found]


@pytest.fixture
def w(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


@pytest.fixture
def running(w: Workshop, tmp_path: Path) -> Iterator[Running]:
    cv2.imwrite(str(tmp_path / "face.png"), astronaut())
    config = build(
        {
            "capture": {"kind": "picture", "source": str(tmp_path / "face.png")},
            "publish": {"kind": "stdout", "rate_hz": 30.0},
            "update": {"key_1": w.public("key-1"), "store": str(tmp_path / "store")},
        },
        "test",
    )
    serving = Serving(config, open_store(config))
    with (
        app.started(config, serving=serving) as pipeline,
        app._reloader(pipeline, config, serving, Requests(), lambda: config) as reloader,
    ):
        yield Running(pipeline, reloader)


def system(kind: str) -> Callable[[Message], bool]:
    return lambda m: isinstance(m, EventSystem) and m.kind == kind


def test_a_staged_bundle_serves_by_its_name_or_as_the_newest(running: Running, w: Workshop) -> None:
    assert running.reloader.activate() == (False, "no bundle is staged here; `edgefer bundle install` its folder first")
    store = w.store()
    for version, number in (("1.1.0", 5), ("1.2.0", 6)):
        store.install(w.real(version, number))
    assert running.reloader.activate("default@1.1.0") == (True, "")
    running.go(system("bundle_activated"))
    store.confirm("default@1.1.0")
    running.go(lambda m: isinstance(m, Meta) and m.bundle.version == "1.1.0")
    state = running.go(lambda m: isinstance(m, StateDriver) and m.valid)
    assert (state.bundle, state.label) == ("default@1.1.0", "happiness")  # type: ignore[attr-defined]
    assert running.reloader.activate() == (True, "")
    running.go(lambda m: isinstance(m, StateDriver) and m.bundle == "default@1.2.0")
    store.rollback()
    running.reloader._requests.put(AGAIN)  # as SIGHUP does after `edgefer bundle rollback`
    running.go(system("bundle_rolled_back"))
    ok, reason = running.reloader.activate()
    assert (ok, "default@1.2.0 was taken back here" in reason) == (False, True), (
        "a fleet's cmd/reload does not know that"
    )
    assert running.reloader.activate("default@1.2.0") == (True, "")
    running.go(lambda m: isinstance(m, StateDriver) and m.bundle == "default@1.2.0")


def test_meta_says_what_serves_and_at_which_rate_whoever_asked_for_it(running: Running, w: Workshop) -> None:
    """A bundle from a reload and a rate from a command, in both orders; then a rate from the configuration."""
    asked: list[Command] = []
    far: Any = running.pipeline.publisher
    far.take_command = lambda: asked.pop(0) if asked else None
    far.answer = lambda command, ok, reason="": None
    w.store().install(w.real("1.1.0", 5))

    def told() -> tuple[str, float]:
        said: Any = running.go(lambda m: isinstance(m, Meta))
        return said.bundle.version, said.limits["state_rate_hz"]

    ships = open_bundle().manifest.version
    asked.append(Rate(id=str(uuid4()), rate_hz=20.0))
    assert told() == (ships, 20.0)
    running.reloader.activate("default@1.1.0")
    assert told() == ("1.1.0", 20.0)
    asked.append(Rate(id=str(uuid4()), rate_hz=10.0))
    assert told() == ("1.1.0", 10.0)
    config = running.reloader._read()
    changed = config.model_copy(update={"publish": config.publish.model_copy(update={"rate_hz": 25.0})})
    running.reloader._read = lambda: changed
    running.reloader._requests.put(AGAIN)
    assert told() == ("1.1.0", 25.0)


@pytest.mark.parametrize("name", ["/tmp/x", "../default@1.1.0", "https://example.org/b", "default@9.9.9"])
def test_what_is_no_staged_bundle_is_refused_at_once(name: str, running: Running, w: Workshop) -> None:
    w.store().install(w.bundle("1.1.0", 5))
    ok, reason = running.reloader.activate(name)
    assert not ok
    assert "staged" in reason


def test_a_bundle_that_answers_wrongly_here_is_refused_and_told_and_the_old_one_serves_on(
    running: Running, w: Workshop
) -> None:
    wrong = w.real("1.1.0", 5)
    edit_golden(wrong, logits=open_bundle(wrong).golden.logits[:, ::-1])
    w.sign(wrong, "1.1.0", 5)
    w.store().install(wrong)
    assert running.reloader.activate("default@1.1.0") == (True, ""), "its signature and hashes are right"
    event = running.go(system("bundle_rolled_back"))
    assert "default@1.1.0 refused" in str(event.detail)  # type: ignore[attr-defined]
    assert "golden" in str(event.detail)  # type: ignore[attr-defined]
    state = running.go(lambda m: isinstance(m, StateDriver))
    assert state.bundle == open_bundle().title  # type: ignore[attr-defined]


def test_a_reload_that_fails_half_way_leaves_the_bundle_for_the_next_one(
    running: Running, w: Workshop, caplog: pytest.LogCaptureFixture
) -> None:
    """The store names another bundle and the calibration is missing: neither is taken over, and both are later."""
    w.store().install(w.real("1.1.0", 5))
    w.store().activate("default@1.1.0")
    good, opened = running.reloader._read(), list[Any]()
    bad = good.model_copy(update={"align": good.align.model_copy(update={"calibration": "/nowhere.json"})})
    running.reloader._read = lambda: bad
    open_network = running.reloader._serving.open

    def watched() -> Any:
        opened.append(open_network())
        opened[-1][1].close = lambda: opened.append("closed")
        return opened[-1]

    running.reloader._serving.open = watched  # type: ignore[method-assign]
    running.reloader._requests.put(AGAIN)
    running.go(lambda m: "everything stays as it is" in caplog.text)
    assert opened[1:] == ["closed"]
    assert running.pipeline.network is not opened[0][1]
    running.reloader._serving.open = open_network  # type: ignore[method-assign]
    running.reloader._read = lambda: good
    running.reloader._requests.put(AGAIN)
    running.go(system("bundle_activated"))
    state = running.go(lambda m: isinstance(m, StateDriver) and m.valid)
    assert state.bundle == "default@1.1.0"  # type: ignore[attr-defined]
    told = [m for m in running.said if isinstance(m, EventSystem) and m.kind == "bundle_activated"]
    assert len(told) == 1


def test_what_serves_at_the_end_is_closed(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "face.png"), astronaut())
    capture = {"kind": "picture", "source": str(tmp_path / "face.png")}
    config = build({"capture": capture, "publish": {"kind": "stdout"}}, "test")
    closed: list[str] = []

    class New:
        def __init__(self, name: str) -> None:
            self.close = lambda: closed.append(name)

    with app.started(config) as pipeline:
        pipeline.network.close()
        pipeline.network, pipeline.locator = New("network"), New("locator")  # type: ignore[assignment]
    assert closed == ["locator", "network"]


def test_a_cameras_password_is_in_no_line(caplog: pytest.LogCaptureFixture, running: Running) -> None:
    config = running.reloader._read()
    capture = config.capture.model_copy(update={"visible": "rtsp://eye:secret@192.0.2.7/live"})
    running.reloader._read = lambda: config.model_copy(update={"capture": capture})
    with caplog.at_level("INFO"):
        running.reloader._requests.put(AGAIN)
        running.go(lambda m: "reload: done" in caplog.text)
    assert "capture.visible '' -> 'rtsp://192.0.2.7/live': needs a restart" in caplog.text


def reload(running: Running, section: str = "log", **keys: object) -> None:
    """SIGHUP with other values of ``section``, and wait until it is done."""
    before = running.reloader._read()
    new = before.model_copy(update={section: getattr(before, section).model_copy(update=keys)})
    running.reloader._read = lambda: new
    running.reloader._requests.put(AGAIN)
    running.reloader._requests.put("no bundle of this name")  # refused, after what was asked for first
    running.go(lambda m: isinstance(m, EventSystem) and "no bundle of this name" in (m.detail or ""))


def test_threads_reach_the_detector_and_a_reload_that_fails_changes_none(running: Running) -> None:
    reload(running, "infer", threads=1)
    assert cv2.getNumThreads() == 1
    good = running.reloader._read()
    bad = good.align.model_copy(update={"calibration": "/nowhere.json"})
    running.reloader._read = lambda: good.model_copy(update={"align": bad})
    reload(running, "infer", threads=2)
    assert cv2.getNumThreads() == 1


def test_the_detector_goes_where_the_network_goes(running: Running, w: Workshop) -> None:
    """locate.backend = "auto": a network that moves to another backend takes it along."""
    asked: list[str] = []
    parts, open_network = running.reloader._parts, running.reloader._serving.open

    def elsewhere() -> Any:
        bundle, network = open_network()
        network.backend = "tensorrt"
        return bundle, network

    def locator(config: Config, backend: str) -> Any:
        asked.append(backend)
        return parts.locator(config, "onnxruntime")

    running.reloader._parts = Parts(locator, parts.check)
    first = running.pipeline.locator
    reload(running, "decide", margin=0.1)
    assert (asked, running.pipeline.locator) == ([], first)
    running.reloader._serving.open = elsewhere  # type: ignore[method-assign]
    w.store().activate(w.store().install(w.real("1.1.0", 5)).name)
    reload(running)
    assert asked == ["tensorrt"]
    assert running.pipeline.locator is not first
    running.reloader._serving.open = open_network  # type: ignore[method-assign]
    reload(running, "infer", cuda_graph=False)
    assert asked == ["tensorrt", "onnxruntime"], "its engine is made with the same settings"


def test_a_calibration_made_anew_under_its_name_is_read_again(running: Running, tmp_path: Path) -> None:
    file, size = tmp_path / "calibration.json", {"visible_size": [640, 480], "infrared_size": [640, 480]}
    file.write_text(json.dumps({"homography": np.eye(3).tolist(), **size}))
    reload(running, "align", calibration=str(file))
    before, check = running.pipeline.aligner, running.pipeline.check
    reload(running)
    assert (running.pipeline.aligner, running.pipeline.check) == (before, check), "what the check has seen is kept"
    file.write_text(json.dumps({"homography": np.diag((1.0, 1.0, 0.9)).tolist(), **size}))
    reload(running)
    pair: Any = type("Pair", (), {"image": np.zeros((480, 640))})()
    assert running.pipeline.aligner is not before
    assert running.pipeline.check is not check
    made = running.pipeline.aligner._calibration.matrix(pair.image.shape, pair.image.shape)
    assert made[2, 2] == pytest.approx(0.9)


def test_a_bundle_replaced_in_its_folder_is_opened_anew(running: Running, tmp_path: Path) -> None:
    folder = copy_of_default(tmp_path)
    reload(running, "infer", bundle=str(folder))
    before = running.pipeline.network
    reload(running)
    assert running.pipeline.network is before
    sha256 = running.pipeline.birth().bundle.sha256
    edit_manifest(folder, lambda m: m.update(version="7.7.7"))
    assert running.pipeline.birth().bundle.sha256 == sha256, "meta speaks of what serves, not of what lies there"
    reload(running)
    assert running.pipeline.network is not before
    assert running.pipeline.birth().bundle.version == "7.7.7"
    assert running.pipeline.birth().bundle.sha256 != sha256


def test_without_a_store_there_is_nothing_to_activate() -> None:
    from edgefer.errors import BundleError

    with pytest.raises(BundleError, match=r"set 'update\.key_1'"):
        Serving(Config()).staged(None)


def test_only_live_keys_are_taken_over() -> None:
    old = Config()
    changed = {"rate_hz": 9.0, "port": 9}
    new = build(
        {"device": "x", "capture": {"fps": 5.0}, "publish": changed, "decide": {"margin": 0.5},
         "health": {"prometheus_port": 9464, "period_s": 5.0}}, "test",
    )  # fmt: skip
    assert {key for key, _, _ in differences(old, new)} == {
        "device", "capture.fps", "publish.rate_hz", "publish.port", "decide.margin", "health.prometheus_port",
        "health.period_s",
    }  # fmt: skip
    taken = {key: value for key, _, value in differences(old, merged(old, new))}
    assert taken == {"publish.rate_hz": 9.0, "decide.margin": 0.5, "health.period_s": 5.0}
