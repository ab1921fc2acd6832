"""The bundle proves itself: whatever is amiss is one line, and nothing of it runs."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_workshop import copy_of_default, edit_golden, edit_manifest, seal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgefer import app
from edgefer.bundle import DEFAULT, MANIFEST, MANIFEST_HASH, open_bundle
from edgefer.capture.rig import Rig
from edgefer.config import Infer
from edgefer.config_file import build
from edgefer.errors import EX_CONFIG, BundleError
from edgefer.infer import alone, open_network
from edgefer.infer.golden import golden_gap


def test_the_graph_that_ships_tells_nothing_of_the_machine_it_was_made_on() -> None:
    for name in open_bundle().manifest.files:
        assert b"site-packages" not in (DEFAULT / name).read_bytes()
    assert b".py" not in open_bundle().graph("onnxruntime").read_bytes()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return copy_of_default(tmp_path)


def refused(bundle: Path, *parts: str) -> None:
    with pytest.raises(BundleError) as e:
        open_network(open_bundle(bundle), Infer()).close()
    assert e.value.exit_code == EX_CONFIG
    line = str(e.value)
    assert "\n" not in line
    for part in parts:
        assert part in line


def test_the_bundle_that_ships_is_whole_small_and_right_on_this_machine() -> None:
    opened = open_bundle()
    open_network(opened, Infer()).close()
    assert sum(f.stat().st_size for f in DEFAULT.iterdir()) < 12e6
    assert {f.name for f in DEFAULT.iterdir()} == {*opened.manifest.files, MANIFEST, MANIFEST_HASH}
    assert len(opened.golden.logits) >= 16
    assert {tuple(p) for p in opened.golden.present} == {(1, 1), (1, 0), (0, 1)}


@pytest.mark.parametrize("name", sorted(open_bundle().manifest.files) if DEFAULT.is_dir() else [])
def test_a_flipped_bit_anywhere_is_refused_by_file(name: str, bundle: Path) -> None:
    data = bytearray((bundle / name).read_bytes())
    for at in (0, len(data) // 2, len(data) - 1):
        data[at] ^= 1
        (bundle / name).write_bytes(data)
        refused(bundle, name, "sha256", "install the bundle again")
        data[at] ^= 1
    (bundle / name).write_bytes(data)
    open_bundle(bundle)
    (bundle / name).unlink()
    refused(bundle, name, "missing")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.floats(0, 1), flip=st.integers(1, 255), name=st.sampled_from([MANIFEST, MANIFEST_HASH]))
def test_no_changed_byte_of_the_manifest_is_accepted(at: float, flip: int, name: str, bundle: Path) -> None:
    file, whole = bundle / name, (DEFAULT / name).read_bytes()
    data = bytearray(whole.strip())
    data[int(at * (len(data) - 1))] ^= flip
    file.write_bytes(data)
    try:
        refused(bundle, "manifest")
    finally:
        file.write_bytes(whole)


@pytest.mark.parametrize("template", [[[0.0, 0.0]] * 5, [[float("nan"), 1.0]] * 5])
def test_a_crop_template_that_is_no_face(template: list[list[float]], bundle: Path) -> None:
    edit_manifest(bundle, lambda m: m["crop"].update(template=template))
    refused(bundle, "crop")


def test_a_label_that_means_something_else(bundle: Path) -> None:
    edit_manifest(bundle, lambda m: m["labels"].__setitem__(0, "unknown"))
    refused(bundle, "unknown")


def test_golden_vectors_of_another_type(bundle: Path) -> None:
    edit_golden(bundle, visible=open_bundle(bundle).golden.visible.astype(np.float32))
    refused(bundle, "golden.npz", "visible is float32")


def test_a_bundle_made_with_another_detector(bundle: Path) -> None:
    edit_manifest(bundle, lambda m: m["detector"].update(sha256="0" * 64))
    settings_ = build({"infer": {"bundle": str(bundle)}, "publish": {"kind": "stdout"}}, "test")
    with pytest.raises(BundleError, match="face detector"), app.started(settings_, rig=Rig([], settings_.capture)):
        pass


def test_not_a_bundle_at_all(tmp_path: Path) -> None:
    refused(tmp_path, "manifest.json: not found", "python -m export bundle")
    refused(DEFAULT / MANIFEST, "not found")


def test_a_schema_of_another_time(bundle: Path) -> None:
    edit_manifest(bundle, lambda m: m.update(schema_version=2))
    refused(bundle, "schema_version 2", "reads 1")


def test_an_unknown_key_a_wrong_type_and_a_path_outside(bundle: Path) -> None:
    edit_manifest(bundle, lambda m: m.update(colour="red"))
    refused(bundle, "'colour'")
    edit_manifest(bundle, lambda m: (m.pop("colour"), m.update(temperature=-1)))
    refused(bundle, "'temperature'")
    edit_manifest(bundle, lambda m: (m.update(temperature=1.0), m["files"].update({"../passwd": "0" * 64})))
    refused(bundle, "files")


def test_a_manifest_that_does_not_vouch_for_its_graph(bundle: Path) -> None:
    edit_manifest(bundle, lambda m: m["files"].pop(m["graphs"][0]["file"]))
    refused(bundle, "lacks a sha256")


def temporal(m: dict[str, Any], **changes: Any) -> None:
    head = {"file": m["graphs"][0]["file"], "runtime": "onnxruntime", "precision": "float32"}
    m["graphs"] = m["graphs"][:1]
    m["temporal"] = {"window": 3, "features": 8, "heads": [head], **changes}


def test_a_temporal_section_is_held_to_its_bounds(bundle: Path) -> None:
    for window in (1, 33):
        edit_manifest(bundle, lambda m, w=window: temporal(m, window=w))  # type: ignore[misc]
        refused(bundle, "'temporal.window'")
    for window in (2, 32):
        edit_manifest(bundle, lambda m, w=window: temporal(m, window=w))  # type: ignore[misc]
        assert open_bundle(bundle).head("onnxruntime") == open_bundle(bundle).graph("onnxruntime")
    edit_manifest(bundle, lambda m: temporal(m, features=0))
    refused(bundle, "'temporal.features'")


def test_a_head_must_be_there_for_every_runtime_and_vouched_for(bundle: Path) -> None:
    other = {"file": "classifier.onnx", "runtime": "tensorrt", "precision": "float32"}
    edit_manifest(bundle, lambda m: temporal(m, heads=[other]))
    refused(bundle, "no head for onnxruntime")
    edit_manifest(bundle, lambda m: temporal(m, heads=[{**other, "runtime": "onnxruntime", "file": "head.onnx"}]))
    refused(bundle, "lacks a sha256 for head.onnx")


def test_a_classifier_passed_off_as_an_encoder(bundle: Path) -> None:
    edit_manifest(bundle, temporal)
    refused(bundle, "do not fit the manifest")
    with pytest.raises(BundleError, match="no graph for onnxruntime"):
        open_bundle().head("onnxruntime")


def test_a_runtime_listed_twice(bundle: Path) -> None:
    edit_manifest(bundle, lambda m: m["graphs"].append({**m["graphs"][0], "precision": "float32"}))
    refused(bundle, "graphs names a runtime twice")


def test_each_runtime_has_its_own_golden_answers(bundle: Path) -> None:
    """A bundle from before, which has one set, is held to it by every runtime."""
    logits = open_bundle(bundle).golden.logits
    edit_golden(bundle, logits_tensorrt=logits + 1)
    golden = open_bundle(bundle).golden
    assert np.array_equal(golden.expected("onnxruntime"), logits)
    assert np.array_equal(golden.expected("tensorrt"), logits + 1)
    open_network(open_bundle(bundle), Infer()).close()
    edit_golden(bundle, logits_tensorrt=logits[:, :-1])
    refused(bundle, "golden.npz", "logits_tensorrt is float32")


def test_a_bundle_of_one_set_of_answers_holds_every_runtime_to_it(bundle: Path) -> None:
    with np.load(bundle / "golden.npz") as z:
        arrays = {name: z[name] for name in z if name != "logits_tensorrt"}
    np.savez_compressed(bundle / "golden.npz", **arrays)
    seal(bundle)
    golden = open_bundle(bundle).golden
    assert np.array_equal(golden.expected("tensorrt"), golden.logits)


def test_the_golden_check_asks_for_the_answers_of_the_runtime_at_work(bundle: Path) -> None:
    logits = open_bundle(bundle).golden.logits
    edit_golden(bundle, logits_tensorrt=logits[:, ::-1])
    opened = open_bundle(bundle)
    network = open_network(opened, Infer())
    try:
        infer = partial(alone, network)
        assert golden_gap(infer, opened, "onnxruntime") < opened.manifest.golden_tolerance
        assert golden_gap(infer, opened, "tensorrt") > 0.1
    finally:
        network.close()


def test_other_answers_than_the_golden_ones(bundle: Path) -> None:
    edit_golden(bundle, logits=open_bundle(bundle).golden.logits[:, ::-1])
    refused(bundle, "golden.npz", "off by")


def test_answers_that_are_not_numbers(bundle: Path) -> None:
    edit_golden(bundle, logits=np.full_like(open_bundle(bundle).golden.logits, np.nan))
    refused(bundle, "golden.npz", "off by")


def test_golden_vectors_of_another_shape_or_none(bundle: Path) -> None:
    golden = open_bundle(bundle).golden
    edit_golden(bundle, visible=golden.visible[:, :-1])
    refused(bundle, "golden.npz", "visible is uint8")
    edit_golden(bundle, visible=golden.visible[:0], infrared=golden.infrared[:0], present=golden.present[:0],
                logits=golden.logits[:0])  # fmt: skip
    refused(bundle, "golden.npz")


def test_a_graph_that_is_none_and_one_for_another_runtime(bundle: Path) -> None:
    (bundle / "classifier.onnx").write_bytes(b"not a graph")
    seal(bundle)
    refused(bundle, "classifier.onnx", "cannot load")
    edit_manifest(bundle, lambda m: m.update(graphs=[{**m["graphs"][0], "runtime": "tensorrt"}]))
    refused(bundle, "no graph for onnxruntime", "tensorrt")


def test_a_graph_that_does_not_fit_its_manifest(bundle: Path) -> None:
    labels = open_bundle(bundle).manifest.labels
    edit_manifest(bundle, lambda m: m.update(labels=[*labels, "boredom"]))
    wider = np.zeros((len(open_golden(bundle)), len(labels) + 1), np.float32)
    edit_golden(bundle, logits=wider, logits_tensorrt=wider)
    refused(bundle, "do not fit the manifest")


def open_golden(bundle: Path) -> np.ndarray:
    with np.load(bundle / "golden.npz") as z:
        return z["logits"]
