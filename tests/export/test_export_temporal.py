"""The temporal networks: shapes, gradients, the split into two graphs, and what a sequence is to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the export extra")
from bundle_workshop import copy_of_default, edit_golden, edit_manifest  # noqa: E402

from edgefer.bundle import Bundle, file_sha256, open_bundle  # noqa: E402
from edgefer.config import Infer  # noqa: E402
from edgefer.infer import open_network  # noqa: E402
from edgefer.types import AlignedPair  # noqa: E402
from export import temporal_graph  # noqa: E402
from export.errors import InputError, UsageError  # noqa: E402
from export.models import jayaraman, singh  # noqa: E402
from export.models.center import CenterLoss  # noqa: E402
from export.models.network import Batch, Temporal  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("default")]

SMALL: list[Callable[[], Temporal]] = [
    lambda: jayaraman.Jayaraman(jayaraman.Options(side=32, width=0.25, image=16, groups=4, patches=4), 5),
    lambda: jayaraman.Jayaraman(
        jayaraman.Options(side=64, width=0.125, pools="between", separable=True, activation="relu", lens="infrared"), 5
    ),
    lambda: singh.Singh(singh.Options(side=32, width=0.125), 5),
    lambda: singh.Singh(singh.Options(side=32, width=0.125, lens="infrared", window=2), 5),
]
SWITCHES = ["lstm", "attention", "center_loss", "lda", "dense"]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small wait for each other's threads longer than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=SMALL, ids=["jayaraman", "jayaraman-cheap", "singh", "singh-infrared"])
def network(request: pytest.FixtureRequest) -> Temporal:
    torch.manual_seed(0)
    return request.param()


def batch(n: int = 6, frames: int | None = None, size: int = 20) -> Batch:
    rng = np.random.default_rng(0)
    shape = (n, 1, size, size) if frames is None else (n, frames, 1, size, size)
    visible, infrared = (torch.from_numpy(rng.integers(0, 256, shape, np.uint8)) for _ in range(2))
    return visible, infrared, torch.ones(n, 2), torch.arange(n) % 5


@pytest.mark.parametrize("sequences", [False, True])
def test_logits_and_a_gradient_for_every_parameter(network: Temporal, sequences: bool) -> None:
    given = batch(frames=network.window if sequences else None)
    assert network(*given[:3]).shape == (6, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = network.loss(given, "only", 0.1)
    loss.backward()
    without = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not without


@pytest.mark.parametrize("off", SWITCHES)
def test_each_module_can_be_taken_out(off: str) -> None:
    network = singh.Singh(singh.Options(side=32, width=0.125, **{off: False}), 5)
    loss = network.loss(batch(), "only", 0.0)
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.parameters())
    full = singh.Singh(singh.Options(side=32, width=0.125), 5)
    if off != "lda":
        assert set(dict(full.named_parameters())) != set(dict(network.named_parameters())) or off == "center_loss"
        assert (network.center is None) == (off == "center_loss")


@pytest.mark.parametrize("make", SMALL[1:3], ids=["jayaraman", "singh"])
def test_the_two_graphs_answer_as_torch_does(make: Callable[[], Temporal], tmp_path: Path) -> None:
    """``export_temporal`` refuses a gap; a sequence through both is the whole network on it."""
    torch.manual_seed(0)
    network = make()
    if isinstance(network, singh.Singh):
        network.eval().complete([batch(40)])
    with torch.no_grad():
        network.train()(*batch(32)[:3])
    network.eval()
    graphs = temporal_graph.export_temporal(network, 20, tmp_path)
    visible, infrared, present, _ = batch(4, network.window)
    both = temporal_graph.sequence_logits(
        graphs, *(x.numpy().transpose(0, 1, 3, 4, 2) for x in (visible, infrared)), present.numpy()
    )
    with torch.inference_mode():
        assert np.allclose(both, network(visible, infrared, present).numpy(), atol=1e-4)
    assert b".py" not in graphs.encoder.read_bytes() + graphs.head.read_bytes()


def test_a_graph_that_differs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(temporal_graph, "_write", lambda *_: None)
    monkeypatch.setattr(temporal_graph, "run", lambda path, feed: np.float32(1.0))
    with pytest.raises(UsageError, match="differs from torch"):
        temporal_graph.export_temporal(SMALL[2](), 20, tmp_path)


def test_a_single_frame_is_a_sequence_of_itself_and_order_matters(network: Temporal) -> None:
    network.eval()
    visible, infrared, present, _ = batch(4)
    t = network.window
    with torch.inference_mode():
        alone = network(visible, infrared, present)
        repeated = network(visible[:, None].repeat(1, t, 1, 1, 1), infrared[:, None].repeat(1, t, 1, 1, 1), present)
        assert torch.allclose(alone, repeated, atol=1e-5)
        v, i, p, _ = batch(4, t)
        assert not torch.allclose(network(v, i, p), network(v.flip(1), i.flip(1), p), atol=1e-6)


def test_only_the_chosen_lens_is_looked_at(network: Temporal) -> None:
    network.eval()
    visible, infrared, present, _ = batch()
    other = [visible, infrared]
    unseen = 1 if network.uses == ("visible",) else 0
    other[unseen] = torch.zeros_like(visible)
    with torch.inference_mode():
        assert torch.equal(network(*other, present), network(visible, infrared, present))
        other[1 - unseen] = torch.zeros_like(visible)
        assert not torch.equal(network(*other, present), network(visible, infrared, present))


def test_the_paper_s_sizes() -> None:
    """64 - 3 * 4 = 52 behind three unpadded 5x5 convolutions, 13 behind two pools; 300 neurons; 7 layers at 128."""
    full = jayaraman.Jayaraman(jayaraman.Options(), 7)
    assert full.dcnn[:9](torch.zeros(1, 1, 64, 64)).shape == (1, 128, 52, 52)
    assert full.eval().encode(*batch(2)[:3]).shape == (2, 300)
    layers = [type(m).__name__ for m in singh.cnn(1.0)]
    assert (layers.count("Conv2d"), layers.count("MaxPool2d")) == (4, 3)


def test_the_cubic_is_odd_bounded_and_smooth() -> None:
    x = torch.linspace(-3, 3, 601, dtype=torch.float64, requires_grad=True)
    y = jayaraman.PiecewiseCubic()(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert torch.allclose(y, -y.flip(0))
    assert float(y.detach().max()) == pytest.approx(1.0)
    assert float(slope[300]) == pytest.approx(1.0)
    assert slope.diff().abs().max() < 0.02, "no jump of the slope"


def test_patches_are_rectangles_of_the_image() -> None:
    """Eq. 13: group g is a band of W / R_g columns, patch p of it H / R_p rows."""
    network = jayaraman.Jayaraman(jayaraman.Options(side=32, width=0.125, image=16, groups=8, patches=4), 5)
    image = torch.arange(256.0).view(1, 16, 16)
    patches = network.patched(image.flatten(1))
    assert patches.shape == (1, 8, 4, 2 * 4)
    assert torch.equal(patches[0, 3, 2], image[0, 8:12, 6:8].flatten())


def test_each_side_s_attention_takes_the_keys_of_the_other() -> None:
    """Eq. 16: Q_S K_C V_S and Q_C K_S V_C."""
    torch.manual_seed(0)
    layer = jayaraman.DualAttention(8, 2)
    s, c = torch.randn(2, 2, 4, 4, 8)
    for answer, q_v, k in ((0, "spatial", "channel"), (1, "channel", "spatial")):
        layer.zero_grad(set_to_none=True)
        (layer(s, c)[answer] * torch.linspace(1, 2, 8)).sum().backward()
        moved = [getattr(layer, f"{side}_qkv").weight.grad.abs().sum(1).view(3, 8).sum(1) > 0 for side in (q_v, k)]
        own, others = moved
        assert (own.tolist(), others.tolist()) == ([True, False, True], [False, True, False])


def test_centres_move_towards_their_class_as_wen_has_it() -> None:
    center = CenterLoss(3, 2, rate=0.5)
    features, labels = torch.tensor([[2.0, 0.0], [4.0, 0.0], [0.0, 8.0]]), torch.tensor([0, 0, 2])
    assert float(center(features, labels)) == pytest.approx((4 + 16 + 64) / 6)
    # 0.5 * (2 + 4) / (1 + 2) and 0.5 * 8 / (1 + 1); class 1 was not there
    assert torch.allclose(center.centres, torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 2.0]]))
    before = center.centres.clone()
    center.eval()(features, labels)
    assert torch.equal(center.centres, before)


def clouds() -> tuple[np.ndarray, np.ndarray]:
    """Three classes in six dimensions; classes differ along two, the loudest dimension says nothing."""
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 3
    features = rng.normal(0, [1, 1, 1, 1, 1, 9], (300, 6))
    features[:, :2] += np.array([[0, 0], [4, 0], [0, 4]])[labels]
    return features, labels


def test_the_discriminant_projection_keeps_class_means_and_drops_the_rest() -> None:
    features, labels = clouds()
    p, middle = singh.discriminant_projection(features, labels)
    assert np.allclose(p @ p, p, atol=1e-8)
    assert np.linalg.matrix_rank(p, tol=1e-6) == 2
    moved = (features - middle) @ p + middle
    for c in range(3):
        assert np.allclose(moved[labels == c].mean(axis=0), features[labels == c].mean(axis=0), atol=1e-8)

    def nearest(x: np.ndarray) -> float:
        means = np.stack([x[labels == c].mean(axis=0) for c in range(3)])
        return float((((x[:, None] - means) ** 2).sum(-1).argmin(1) == labels).mean())

    assert nearest(moved) > 0.95
    assert np.ptp(moved[:, 5]) < 0.3 * np.ptp(features[:, 5])
    with pytest.raises(InputError, match="two classes"):
        singh.discriminant_projection(features, np.zeros(300, np.int64))


def test_completing_changes_the_answers_once_and_travels_with_the_weights() -> None:
    torch.manual_seed(0)
    network = SMALL[2]().eval()
    given = batch(40)
    with torch.inference_mode():
        before = network(*given[:3])
        said = network.complete([batch(15), given])
        after = network(*given[:3])
    assert "4 dimensions, from 55 examples" in said
    assert not torch.allclose(before, after, atol=1e-6)
    other = SMALL[2]().eval()
    other.load_state_dict(network.state_dict())
    with torch.inference_mode():
        assert torch.equal(other(*given[:3]), after)


def test_without_lda_completing_changes_nothing() -> None:
    network = singh.Singh(singh.Options(side=32, width=0.125, lda=False), 5).eval()
    network.complete([batch(40)])
    assert torch.equal(network.projection, torch.eye(len(network.middle)))


def test_the_device_answers_to_a_sequence_as_torch_does(tmp_path: Path) -> None:
    """Exported, bundled and opened by the device's own runner, frame after frame."""
    torch.manual_seed(0)
    network = singh.Singh(singh.Options(side=32, width=0.125, window=4), 7)
    visible, infrared, present, _ = batch(24, 6, open_bundle().manifest.crop.size)
    with torch.no_grad():
        network.train()(visible[:, 0], infrared[:, 0], present)
    network.eval()
    with torch.inference_mode():
        whole = network(visible[:1, 2:], infrared[:1, 2:], present[:1]).numpy()
    opened = open_network(bundle_of(network, tmp_path), Infer(threads=1))
    for k in range(6):
        v, i = (x[0, k].numpy().reshape(1, *x.shape[-2:], 1) for x in (visible, infrared))
        logits = opened.infer(AlignedPair(v, i, np.ones((1, 2), np.float32))).logits
    opened.close()
    assert np.allclose(logits, whole[0], atol=1e-4)


def bundle_of(network: Temporal, folder: Path) -> Bundle:
    """The default bundle with ``network`` in place of its classifier; golden answers by torch, on single frames."""
    path = copy_of_default(folder)
    graphs = temporal_graph.export_temporal(network, open_bundle().manifest.crop.size, path)
    encoder = {"file": graphs.encoder.name, "runtime": "onnxruntime", "precision": "float32"}
    files = {p.name: file_sha256(p) for p in (graphs.encoder, graphs.head)}
    change = {"temporal": graphs.section(), "graphs": [encoder], "lenses_needed": list(network.needs)}
    edit_manifest(path, lambda m: m.update(change | {"files": m["files"] | files}))
    golden = open_bundle().golden
    with torch.inference_mode():
        crops = (torch.from_numpy(x).permute(0, 3, 1, 2) for x in (golden.visible, golden.infrared))
        edit_golden(path, logits=network(*crops, torch.from_numpy(golden.present)).numpy())
    return open_bundle(path)
