"""PyConv-SE18: what it sees, what it learns from, and that it leaves the workstation unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the export extra")
from export.losses import large_margin_cosine  # noqa: E402
from export.models import pyconv  # noqa: E402
from export.models.pyconv import Options, PyConvSE18  # noqa: E402

pytestmark = pytest.mark.torch

NARROW = Options(widths=(16, 16, 32, 32), stem_stride=2)


def _batch(n: int = 6, side: int = 48) -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(0)
    lenses = (torch.randint(0, 256, (n, 1, side, side), generator=g, dtype=torch.uint8) for _ in range(2))
    return *lenses, torch.ones(n, 2), torch.arange(n) % 7


@pytest.mark.parametrize("widths", [(16, 32, 64, 128), (32, 64, 128, 256), (20, 24, 28, 36)])
def test_splits_fill_every_width(widths: tuple[int, int, int, int]) -> None:
    for stage, width in enumerate(widths):
        assert sum(pyconv.splits(width, len(pyconv.KERNELS[stage]))) == width
    net = PyConvSE18(Options(widths=widths, stem_stride=2), 7).eval()
    v, i, p, _ = _batch(2)
    assert net(v, i, p).shape == (2, 7)


def test_full_size_levels_are_those_of_the_pyramid() -> None:
    pyramid = PyConvSE18(Options(), 7).stages[0][0].pyramid
    levels = [pyramid.conv1, pyramid.conv2, pyramid.conv3, pyramid.conv4]
    assert [(c.kernel_size[0], c.groups, c.out_channels) for c in levels] == [
        (3, 1, 16), (5, 4, 16), (7, 8, 16), (9, 16, 16),
    ]  # fmt: skip


@pytest.mark.parametrize("stride", [1, 2])
def test_training_with_zeros_multiplied_is_the_grouped_convolution(stride: int) -> None:
    pyramid = pyconv.PyConv(16, 32, stride, pyconv.KERNELS[0], pyconv.GROUPS[0])
    conv, x = pyramid.conv4, torch.randn(2, 16, 13, 13)
    assert conv.groups == 8
    dense = pyramid.train()._convolved(conv, x)
    assert torch.allclose(dense, conv(x), atol=1e-5)
    dense.square().sum().backward()
    through_dense, conv.weight.grad = conv.weight.grad, None
    conv(x).square().sum().backward()
    assert torch.allclose(through_dense, conv.weight.grad, atol=1e-3)


def test_it_sees_the_centre_only() -> None:
    net = PyConvSE18(NARROW, 7).eval()
    v, i, p, _ = _batch()
    edge = v.clone()
    edge[..., :2, :] = 255
    assert torch.equal(net(v, i, p), net(edge, i, p))
    edge[..., 2, :] = 255
    assert not torch.equal(net(v, i, p), net(edge, i, p))
    assert torch.equal(net(v, i, p), net(v[..., 2:46, 2:46], i, p))


@pytest.mark.parametrize("lens", ["visible", "infrared"])
def test_it_looks_at_one_lens(lens: Any) -> None:
    net = PyConvSE18(NARROW.model_copy(update={"lens": lens}), 7).eval()
    v, i, p, _ = _batch()
    assert net.uses == net.needs == (lens,)
    assert torch.equal(net(v, i, p), net(v, torch.zeros_like(i), p)) == (lens == "visible")
    assert torch.equal(net(v, i, p), net(torch.zeros_like(v), i, p)) == (lens == "infrared")


def test_loss_is_cross_entropy_plus_a_tenth_of_the_cosine_loss() -> None:
    net = PyConvSE18(NARROW, 7).eval()
    batch = v, i, p, y = _batch()
    entropy = torch.nn.functional.cross_entropy(net(v, i, p), y)
    cosine = large_margin_cosine(net.feature(v), net.fc.weight, y, 16.0, 0.2)
    with torch.inference_mode():
        loss = float(net.loss(batch, "", 0.0))
    assert loss == pytest.approx(float((entropy + 0.1 * cosine).detach()), abs=1e-4)


def test_gradient_reaches_every_parameter_in_bfloat16() -> None:
    net = PyConvSE18(NARROW, 7).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        loss = net.loss(_batch(), "", 0.1)
    loss.backward()
    silent = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


def test_graph_equals_network_and_has_no_batch_norm_left(tmp_path: Path) -> None:
    """``export_float`` holds the graph against torch itself, to 1e-4."""
    onnx = pytest.importorskip("onnx")
    from export.onnx_graph import export_float

    path = export_float(PyConvSE18(NARROW, 7).eval(), 48, tmp_path / "net.onnx")
    graph = onnx.load(path).graph
    assert [i.name for i in graph.input] == ["visible", "infrared", "present"]
    assert not any(node.op_type == "BatchNormalization" for node in graph.node)
