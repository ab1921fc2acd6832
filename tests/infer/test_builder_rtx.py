"""NVIDIA's real builder (TensorRT for RTX needs no GPU to build) on what this package builds on a device.

`pip install --no-deps tensorrt-rtx-cu13 tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings`; skipped without.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from edgefer.cli import main
from edgefer.config import Infer
from edgefer.errors import EX_OK, BundleError, ServiceError
from edgefer.infer import vendor as vendors
from edgefer.infer.builder import Job, Options, build, build_apart
from edgefer.infer.tensorrt import cache_of, detector_options, prepare, static
from edgefer.locate.yunet import model_path

pytestmark = pytest.mark.tensorrt
AMPERE = (8, 6)


@pytest.fixture(scope="module")
def rtx() -> vendors.Vendor:
    pytest.importorskip("tensorrt_rtx", reason="NVIDIA's builder is not installed: pip install tensorrt-rtx-cu13")
    return vendors.load("tensorrt_rtx")


def pair_graph(folder: Path) -> Path:
    """uint8 pictures and the mask, batch N -> logits; as the bundle's graphs are fed."""
    onnx = pytest.importorskip("onnx", reason="needs the export extra")
    h, t = onnx.helper, onnx.TensorProto
    weights = np.random.default_rng(0).normal(size=(16 * 16 * 2 + 2, 3)).astype(np.float32)
    nodes = [
        *(h.make_node("Cast", [n], [f"{n}.real"], to=t.FLOAT) for n in ("visible", "infrared")),
        *(h.make_node("Flatten", [f"{n}.real"], [f"{n}.flat"]) for n in ("visible", "infrared")),
        h.make_node("Concat", ["visible.flat", "infrared.flat", "present"], ["all"], axis=1),
        h.make_node("MatMul", ["all", "weights"], ["logits"]),
    ]
    ins = [h.make_tensor_value_info(n, t.UINT8, ["N", 16, 16, 1]) for n in ("visible", "infrared")]
    ins.append(h.make_tensor_value_info("present", t.FLOAT, ["N", 2]))
    outs = [h.make_tensor_value_info("logits", t.FLOAT, ["N", 3])]
    made = h.make_graph(nodes, "g", ins, outs, [onnx.numpy_helper.from_array(weights, "weights")])
    onnx.save(h.make_model(made, opset_imports=[h.make_opsetid("", 19)], ir_version=9), str(folder / "pair.onnx"))
    return folder / "pair.onnx"


def pair_options() -> Options:
    crop = (np.dtype(np.uint8), (1, 16, 16, 1))
    return static({"visible": crop, "infrared": crop, "present": (np.dtype(np.float32), (1, 2))})


def test_the_detector_builds_from_its_file_and_is_fed_bytes(rtx: vendors.Vendor) -> None:
    steps: list[str] = []
    plan = build(rtx, Job(model_path(), detector_options((256, 320)), rtx.name, AMPERE), steps.append)
    assert len(plan) > 100_000
    assert steps
    assert steps[0].startswith(f"building {model_path().name}: ")


def test_byte_pictures_of_an_open_batch_build_as_one(rtx: vendors.Vendor, tmp_path: Path) -> None:
    job = Job(pair_graph(tmp_path), pair_options(), rtx.name, AMPERE)
    assert build_apart(job, lambda _: None)[:1000] == build(rtx, job, lambda _: None)[:1000]


def test_a_file_that_is_none_is_named_with_the_builders_own_words(
    rtx: vendors.Vendor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "broken.onnx"
    file.write_bytes(model_path().read_bytes()[:5000])
    with pytest.raises(BundleError, match=r"broken\.onnx: tensorrt_rtx [\d.]+ cannot read it: .*TensorRT") as e:
        build_apart(Job(file, pair_options(), rtx.name, AMPERE), lambda _: None)
    assert "\n" not in str(e.value)
    errors = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert errors
    assert {r.name for r in errors} == {"edgefer.tensorrt"}
    with pytest.raises(BundleError, match=r"gone.onnx: unreadable"):
        build_apart(Job(tmp_path / "gone.onnx", pair_options(), rtx.name, AMPERE), lambda _: None)


def test_an_operator_it_does_not_know_is_named(rtx: vendors.Vendor, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="needs the export extra")
    file = pair_graph(tmp_path)
    model = onnx.load(str(file))
    model.graph.node[-1].op_type = "BitwiseNot"
    del model.graph.node[-1].input[1:]
    onnx.save(model, str(file))
    with pytest.raises(BundleError, match="BitwiseNot"):
        build_apart(Job(file, pair_options(), rtx.name, AMPERE), lambda _: None)


def test_other_inputs_than_expected_are_refused(rtx: vendors.Vendor, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="its inputs are infrared, present, visible, expected input"):
        build(rtx, Job(pair_graph(tmp_path), detector_options((32, 32)), rtx.name, AMPERE), lambda _: None)


def test_a_gpu_it_cannot_build_for_is_named(rtx: vendors.Vendor, tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match=r"SM87 .*on the machine itself"):
        build(rtx, Job(pair_graph(tmp_path), pair_options(), rtx.name, (8, 7)), lambda _: None)


def test_engine_build_for_a_gpu_elsewhere(rtx: vendors.Vendor, tmp_path: Path) -> None:
    """Through the cache: built for real, read the second time."""
    config, file, steps = Infer(engines=str(tmp_path / "engines")), pair_graph(tmp_path), list[str]()
    key = prepare(file, pair_options(), config, steps.append, AMPERE)
    assert steps
    steps.clear()
    assert prepare(file, pair_options(), config, steps.append, AMPERE) == key
    assert steps == []
    entry = cache_of(config).entries()[0]
    assert (entry.key, entry.fault) == (key, "")
    assert key.library == rtx.title
    assert main(["engine", "list"]) == EX_OK


def test_without_a_gpu_the_engine_is_not_taken_and_says_why(rtx: vendors.Vendor, tmp_path: Path) -> None:
    """As far as deserialising comes on this machine: no crash, no engine, a reason in the log."""
    from edgefer.infer.cuda import has_driver

    if has_driver():
        pytest.skip("there is an NVIDIA driver: test_gpu.py runs engines")
    plan = build(rtx, Job(pair_graph(tmp_path), pair_options(), rtx.name, AMPERE), lambda _: None)
    assert rtx.trt.Runtime(rtx.logger).deserialize_cuda_engine(plan) is None
    assert "CUDA driver" in rtx.cause()
