"""The graph for ONNX Runtime is right without VNNI too: run by ONNX Runtime's AVX2 kernels, in qemu-user."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
import without_vnni

from edgefer.bundle import DEFAULT, open_bundle

pytestmark = pytest.mark.skipif(bool(without_vnni.missing()), reason=without_vnni.missing() or "it can run here")

PRODUCT = """
import json, sys
import numpy as np, onnxruntime as ort
options = ort.SessionOptions()
options.log_severity_level, options.intra_op_num_threads = 3, 1
session = ort.InferenceSession(sys.argv[1], options, ["CPUExecutionProvider"])
print(json.dumps(session.run(None, {"a": np.full((1, 64), 255, np.uint8)})[0].ravel().tolist()))
"""


def product(folder: Path, weight: int) -> Path:
    """uint8 [1, 64] x int8 [64, 16], every weight the same -> int32."""
    onnx = pytest.importorskip("onnx", reason="needs the export extra")
    import numpy as np

    h, t = onnx.helper, onnx.TensorProto
    b = onnx.numpy_helper.from_array(np.full((64, 16), weight, np.int8), "b")
    ends = h.make_tensor_value_info("a", t.UINT8, [1, 64]), h.make_tensor_value_info("y", t.INT32, [1, 16])
    graph = h.make_graph([h.make_node("MatMulInteger", ["a", "b"], ["y"])], "g", [ends[0]], [ends[1]], [b])
    onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 13)], ir_version=9), str(folder / "p.onnx"))
    return folder / "p.onnx"


def test_the_emulated_processor_is_one_on_which_full_range_int8_is_wrong(tmp_path: Path) -> None:
    """Else the test below would show nothing. Weights of seven bits are right there, and are what the graph has."""
    assert set(without_vnni.emulated(PRODUCT, str(product(tmp_path, 127)))) != {64 * 255 * 127}
    assert set(without_vnni.emulated(PRODUCT, str(product(tmp_path, 64)))) == {64 * 255 * 64}


def test_the_bundle_that_ships_gives_its_golden_answers_there() -> None:
    gap, same = without_vnni.gap(DEFAULT, 4)
    assert gap <= open_bundle().manifest.golden_tolerance
    assert same == 4
