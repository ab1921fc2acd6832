"""The count of crashes, what follows from it, and when a bundle on trial is good: pure judgement and one small file."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from release_workshop import Workshop

from edgefer import app
from edgefer.config import Config
from edgefer.config_file import build
from edgefer.errors import BundleError
from edgefer.life import AGAIN_S, FILE, SCORED_MIN, STEADY_S, Heart, Life, Step, proven, step
from edgefer.serving import Serving, visible_only


def test_every_third_crash_is_a_step_down_and_the_last_step_is_the_last() -> None:
    steps = [step(n) for n in range(9)]
    assert steps == [Step.AS_CONFIGURED] * 3 + [Step.LAST_GOOD] * 3 + [Step.VISIBLE_ONLY] * 3
    assert step(10**6) is Step.VISIBLE_ONLY


def test_only_ends_that_were_not_told_count(tmp_path: Path) -> None:
    life = Life(tmp_path)
    assert life.begin() is Step.AS_CONFIGURED
    life.end()
    for n in range(1, 4):
        life = Life(tmp_path)
        life.begin()
        assert life.record.crashes == n - 1
    assert Life(tmp_path).begin() is Step.LAST_GOOD
    life = Life(tmp_path)
    life.begin()
    life.end()
    assert Life(tmp_path).begin() is Step.LAST_GOOD, "a stop in the midst of it does not clear the count"
    life.steady()
    assert Life(tmp_path).record.crashes == 0


def test_a_first_start_counts_where_no_folder_is_yet(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "state"
    Life(folder).begin()
    assert Life(folder).record.running
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_spoilt_count_and_a_full_disk_stop_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / FILE).write_text("half a rec")
    assert Life(tmp_path).begin() is Step.AS_CONFIGURED
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING):
        Life(tmp_path / "file").begin()
    assert "crashes are not counted" in caplog.text
    assert Life(None).begin() is Step.AS_CONFIGURED


def test_the_suspect_stays_the_same_however_often_taking_it_back_is_cut_short(tmp_path: Path) -> None:
    life = Life(tmp_path)
    assert life.suspects("default@1.2.0")
    assert Life(tmp_path).suspects("default@1.2.0")
    assert not Life(tmp_path).suspects("default@1.1.0"), "what serves after it is not taken back for its crashes"


def test_good_means_long_enough_and_with_faces_seen() -> None:
    assert proven(300.0, SCORED_MIN, 300.0)
    assert not proven(299.9, 10_000, 300.0)
    assert not proven(10_000.0, SCORED_MIN - 1, 300.0)


def test_a_heart_is_steady_once_and_a_trial_proven_once_a_minute() -> None:
    now, steady = [100.0], list[float]()
    heart = Heart(lambda: now[0], 300.0, lambda: steady.append(now[0]))
    proofs = []
    for _ in range(1000):
        now[0] += 1.0
        if heart.beat(int(now[0])):
            proofs.append(now[0])
    assert (steady, proofs) == ([100.0 + STEADY_S], [400.0 + AGAIN_S * k for k in range(12)])
    heart.restart_trial(1100)
    now[0] += 300.0
    assert not heart.beat(1100 + SCORED_MIN - 1)
    assert heart.beat(1100 + SCORED_MIN)


def test_a_configured_bundle_that_crashes_gives_way_to_the_one_that_ships(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"running": true, "crashes": 2}')
    config = build({"infer": {"bundle": "/nowhere/mine"}}, "test")
    serving = Serving(config, None, Life(tmp_path))
    bundle, network = serving.open()
    network.close()
    assert bundle.title.startswith("default@")
    assert [kind for kind, _ in serving.take_told()] == ["bundle_rolled_back"]
    assert serving.take_told() == []


def test_a_confirmed_bundle_is_the_last_good_one_whatever_dies(tmp_path: Path) -> None:
    """Power that is cut at three short stops in a row is no reason to go back to the network before."""
    w = Workshop(tmp_path)
    store = w.store()
    for version, number in (("1.1.0", 5), ("1.2.0", 6)):
        store.install(w.real(version, number))
        store.activate(f"default@{version}")
        store.confirm(f"default@{version}")
    (tmp_path / FILE).write_text('{"running": true, "crashes": 2}')
    serving = Serving(Config(), store, Life(tmp_path))
    bundle, network = serving.open()
    network.close()
    assert serving.step is Step.LAST_GOOD
    assert bundle.title == "default@1.2.0"
    assert (store.current(), serving.take_told()) == ("default@1.2.0", [])


def test_after_six_crashes_no_reload_and_no_command_brings_another_bundle(tmp_path: Path) -> None:
    w = Workshop(tmp_path)
    store = w.store()
    store.install(w.real("1.1.0", 5))
    (tmp_path / FILE).write_text('{"running": true, "crashes": 5}')
    serving = Serving(visible_only(Config()), store, Life(tmp_path))
    _, network = serving.open()
    network.close()
    with pytest.raises(BundleError, match="after 6 crashes the bundle that ships serves"):
        serving.staged("default@1.1.0")
    store.activate("default@1.1.0")
    assert not serving.changed()


def test_crashes_are_counted_for_ever(tmp_path: Path) -> None:
    for _ in range(3):
        Life(tmp_path).begin()
    Life(tmp_path).steady()
    life = Life(tmp_path)
    life.begin()
    assert (life.record.crashes, life.record.died) == (1, 3)


def test_a_unit_with_the_infrared_lens_alone_keeps_it() -> None:
    lone = build({"capture": {"infrared": "/dev/video2"}, "infer": {"bundle": "x"}}, "test")
    assert not visible_only(lone).capture.visible_only
    both = build({"capture": {"infrared": "/dev/video2", "visible": "/dev/video0"}, "infer": {"bundle": "x"}}, "test")
    assert visible_only(both).capture.visible_only
    assert visible_only(both).infer.bundle == ""


def test_a_stop_while_an_engine_is_being_built_is_clean_and_no_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Minutes of building, and a vehicle that is switched off: its steps are where the stop is noticed."""
    steps, face = list[str](), tmp_path / "face.png"
    cv2.imwrite(str(face), np.zeros((48, 64, 3), np.uint8))

    def building(bundle: object, infer: object, progress: Callable[[str], object], on_fallback: object) -> object:
        for k in range(100):
            steps.append(f"step {k}")
            progress(steps[-1])
        raise AssertionError("the stop was not noticed")

    monkeypatch.setattr("edgefer.serving.open_network", building)
    capture, publish = {"kind": "picture", "source": str(face)}, {"kind": "stdout"}
    config = build({"capture": capture, "publish": publish, "state": {"folder": str(tmp_path)}}, "test")
    app.run(config, lambda: len(steps) >= 3)
    assert len(steps) == 3
    assert Life(tmp_path).record.running is False
