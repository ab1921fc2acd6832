"""Multiply-accumulates counted by hand, and latency of real graphs."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs the export extra")
from torch import Tensor, nn  # noqa: E402

from export.errors import UsageError  # noqa: E402
from export.models.network import Network  # noqa: E402
from export.report import cost  # noqa: E402

pytestmark = pytest.mark.torch


def test_convolutions_linear_layers_and_products() -> None:
    conv = nn.Conv2d(3, 8, 5, stride=2, padding=2, groups=1)
    assert cost.macs(conv, torch.zeros(1, 3, 16, 16)) == 8 * 8 * 8 * 3 * 25
    grouped = nn.Conv2d(4, 8, 3, padding=1, groups=4)
    assert cost.macs(grouped, torch.zeros(1, 4, 6, 6)) == 6 * 6 * 8 * 1 * 9
    assert cost.macs(nn.Linear(10, 7), torch.zeros(3, 10)) == 3 * 70


@pytest.mark.parametrize("ways", [1, 2])
def test_lstm_by_hand(ways: int) -> None:
    # Two layers, five steps: 4 gates of 6 units on 3 (then 6 or 12) inputs and 6 states.
    layer = nn.LSTM(3, 6, num_layers=2, batch_first=True, bidirectional=ways == 2)
    expected = 5 * ways * 4 * 6 * ((3 + 6) + (6 * ways + 6))
    assert cost.macs(layer, torch.zeros(1, 5, 3)) == expected


def test_attention_is_counted_and_the_module_left_as_it_was() -> None:
    class Attend(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.attention(x, x, x, need_weights=False)[0]

    module = Attend().train()
    # Projections in and out: 4 x 8 x 8 for each of 5 steps; scores and mixture: 5 x 5 x 8 each.
    assert cost.macs(module, torch.zeros(1, 5, 8)) == 5 * 4 * 64 + 2 * 5 * 5 * 8
    assert module.training
    assert torch.backends.mha.get_fastpath_enabled()


class Two(Network):
    """One convolution, called once for each lens."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.head = nn.Linear(8, 3)

    def forward(self, visible: Tensor, infrared: Tensor, present: Tensor) -> Tensor:
        return self.head(torch.cat([self.conv(x.float()).mean(dim=(2, 3)) for x in (visible, infrared)], dim=1))


def test_a_layer_that_two_lenses_share_counts_twice_and_its_weights_once() -> None:
    found = cost.cost(Two(), 10)
    assert found.macs == 2 * 10 * 10 * 4 * 9 + 24
    assert found.parameters == 40 + 27


def test_latencies_take_turns_and_chain_graphs(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="needs the export extra")
    pytest.importorskip("onnxruntime", reason="needs the cpu extra")
    helper, kind = onnx.helper, onnx.TensorProto
    x = helper.make_tensor_value_info("visible", kind.UINT8, ["N", 4, 4, 1])
    y = helper.make_tensor_value_info("logits", kind.FLOAT, ["N", 4, 4, 1])
    graph = helper.make_graph([helper.make_node("Cast", ["visible"], ["logits"], to=kind.FLOAT)], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    path = tmp_path / "one.onnx"
    onnx.save(model, str(path))
    found = cost.latencies({"single": [path], "chain": [path, path]}, runs=5)
    assert list(found) == ["single", "chain"]
    assert all(0 < x.median <= x.p95 for x in found.values())
    assert found["single"].runtime == "ONNX Runtime 1 thread batch 1"


def test_what_is_no_graph_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs the cpu extra")
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"no")
    with pytest.raises(UsageError, match=r"broken\.onnx: not a graph"):
        cost.latencies({"broken": [path]}, runs=1)
