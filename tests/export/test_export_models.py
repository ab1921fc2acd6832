"""Every registered network: shape, gradients, the device's signature, and the same answers in ONNX Runtime."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the export extra")
for needed in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(needed, reason="needs the export and cpu extras")

from export import models, onnx_graph, recipe, train  # noqa: E402
from export.adversarial import WganOptions  # noqa: E402
from export.errors import RecipeError, UsageError  # noqa: E402
from export.models import naseem  # noqa: E402
from export.models.network import Temporal  # noqa: E402
from export.recipe import Model  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("default")]
NARROW: dict[str, dict[str, Any]] = {
    **{name: {"widths": [8, 8, 16, 64]} for name in ("dual-resnet", "single", "early-fusion", "late-fusion")},
    "pair-fusion": {"widths": [8, 8, 16, 64]},
    "shared-trunk": {"widths": [8, 8, 16, 64]},
    "pyconv-se18": {"widths": [16, 16, 16, 16]},
    "pixel-fusion": {"classifier": {"widths": [16, 16, 16, 16]}},
    "jayaraman": {"width": 0.25, "side": 48, "pools": "between"},
    "singh": {"width": 0.125, "side": 32},
}
"""options that make a network quick to export; one that is not named here is walked at its full size"""
SIDE = 48
CLASSES = 7


def _network(name: str, **options: Any) -> Any:
    """Random weights, and batch norms with statistics, so that folding them is not folding ones and zeros."""
    torch.manual_seed(0)
    network = models.build(Model(name=name, **{**NARROW.get(name, {}), **options}), CLASSES)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.3, 0.3)
            module.running_var.uniform_(0.5, 2.0)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    return network


def _batch(n: int) -> Any:
    visible, infrared, present = (torch.from_numpy(x) for x in onnx_graph.random_inputs(n, SIDE))
    shape = (n, 1, SIDE, SIDE)
    return visible.reshape(shape), infrared.reshape(shape), present, torch.arange(n) % CLASSES


@pytest.mark.parametrize("name", sorted(models.REGISTRY))
def test_forward_gives_logits_and_the_loss_reaches_every_parameter(name: str) -> None:
    network = _network(name).train()
    batch = _batch(8)
    assert network.predict(batch, "joined").shape == (8, CLASSES)
    for step in ("single", "joined") if name in ("dual-resnet", "shared-trunk") else ("joined",):
        network.begin(step)
        network.loss(batch, step, 0.1).backward()
    still = [n for n, p in network.named_parameters() if p.requires_grad and not (p.grad is not None and p.grad.any())]
    assert not still


@pytest.mark.parametrize("name", sorted(models.REGISTRY))
def test_the_graph_has_the_device_signature_and_answers_as_torch_does(name: str, tmp_path: Path) -> None:
    import onnx

    network = _network(name).eval()
    path = onnx_graph.export_float(network, SIDE, tmp_path / "float.onnx")  # holds the answers against torch's
    graph = onnx.load(path).graph
    shapes = {t.name: [d.dim_value or d.dim_param for d in t.type.tensor_type.shape.dim] for t in graph.input}
    assert shapes == {"visible": ["N", SIDE, SIDE, 1], "infrared": ["N", SIDE, SIDE, 1], "present": ["N", 2]}
    assert [t.name for t in graph.output] == ["logits"]
    feeds = {name: n.op_type for n in graph.node for name in n.output}
    normed = [feeds.get(n.input[0]) for n in graph.node if n.op_type == "BatchNormalization"]
    assert not set(normed) & {"Conv", "Gemm"}  # those are folded
    assert onnx_graph.float_gap(network, path, SIDE) <= onnx_graph.TOLERANCE


THREE = ["visible", "infrared", "msx"]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("single", {"modality": "infrared", "attention": True}),
        ("single", {"modality": "msx"}),
        ("early-fusion", {"modalities": ["visible", "msx"]}),
        ("early-fusion", {"modalities": THREE, "frozen": True}),
        ("late-fusion", {"modalities": THREE}),
        ("pair-fusion", {"attention": False}),
    ],
)
def test_the_forms_that_recipes_give_a_network_leave_the_workstation_too(
    name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    network = _network(name, **options).eval()
    path = onnx_graph.export_float(network, SIDE, tmp_path / "float.onnx")
    assert onnx_graph.float_gap(network, path, SIDE) <= onnx_graph.TOLERANCE


@pytest.mark.parametrize("name", sorted(models.REGISTRY))
def test_a_lens_that_is_not_used_has_no_say(name: str) -> None:
    """What ``uses`` promises, the trainer relies on: such a lens is not even drawn."""
    network = _network(name).eval()
    visible, infrared, present, _ = _batch(2)
    given = {"visible": visible, "infrared": infrared}
    with torch.inference_mode():
        expected = network(**given, present=present)
        for lens in set(given) - set(network.uses):
            assert torch.equal(network(**{**given, lens: 255 - given[lens]}, present=present), expected)
        for lens in network.uses:
            assert not torch.equal(network(**{**given, lens: 255 - given[lens] // 2}, present=present), expected)


def test_the_blend_lays_the_visible_fine_structure_over_infrared() -> None:
    msx = naseem.Msx()
    infrared = torch.full((1, 1, SIDE, SIDE), 100.0)
    flat = torch.full_like(infrared, 30.0)
    assert torch.allclose(msx(flat, infrared), infrared, atol=1e-3)
    edge = flat.clone()
    edge[..., SIDE // 2 :] = 90.0
    blend = msx(edge, infrared)[0, 0, SIDE // 2]
    assert blend[SIDE // 2] > 115
    assert blend[SIDE // 2 - 1] < 85
    assert torch.allclose(blend[[0, -1]], torch.tensor(100.0), atol=1e-3)


def test_pairs_are_interleaved() -> None:
    network = _network("pair-fusion")
    seen: list[Any] = []
    network.head[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    visible, infrared, present, _ = _batch(2)
    network.eval()(visible, infrared, present)
    v, i = (network.modal(lens).pooled(visible, infrared) for lens in ("visible", "infrared"))
    assert torch.equal(seen[0][:, 0::2], v)
    assert torch.equal(seen[0][:, 1::2], i)


def test_one_step_training_moves_the_head_alone() -> None:
    network = _network("early-fusion", frozen=True)
    network.begin("joined")
    network.train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    moved = [p for _, p in network.trainable("joined")]
    network.loss(_batch(8), "joined", 0.0).backward()
    torch.optim.SGD(moved, lr=0.1).step()
    changed = {k for k, v in network.state_dict().items() if not torch.equal(v, before[k])}
    assert changed
    assert not [k for k in changed if ".backbone." in k]


def test_late_fusion_finds_the_lens_that_knows() -> None:
    """Infrared is made to know the label and visible to know nothing: all weight goes to infrared."""
    network = _network("late-fusion").eval()
    visible, infrared, present, label = _batch(CLASSES)
    right = torch.eye(CLASSES) * 9
    network.singles["visible"].forward = lambda v, i, p: torch.roll(right, 1, dims=1)
    network.singles["infrared"].forward = lambda v, i, p: right
    assert "infrared" in network.complete([(visible, infrared, present, label)])
    assert network.weights[1] > 0.5
    assert torch.equal(network(visible, infrared, present).argmax(1), label)


def test_the_simplex_has_every_tenth() -> None:
    assert len(naseem.simplex(2)) == 11
    assert len(naseem.simplex(3)) == 66
    assert all(abs(sum(w) - 1) < 1e-9 for w in naseem.simplex(3))


def test_an_unknown_option_names_those_there_are() -> None:
    with pytest.raises(RecipeError, match=r"'model\.width': unknown option; single has .*widths"):
        models.build(Model(name="single", width=3), CLASSES)


def test_a_sequence_of_one_frame_repeated_is_that_frame() -> None:
    for name in models.REGISTRY:
        network = _network(name).eval()
        if isinstance(network, Temporal):
            visible, infrared, present, _ = _batch(2)
            film = [x[:, None].expand(-1, network.window, -1, -1, -1) for x in (visible, infrared)]
            with torch.inference_mode():
                assert torch.allclose(network(visible, infrared, present), network(*film, present), atol=1e-5)


def test_every_shipped_recipe_fits_the_registry_and_its_neighbours() -> None:
    """Options the network knows, starts and comparisons that are recipes, at full and at reduced size."""
    shipped = {path.stem: path for path in Path(recipe.__file__).parent.glob("recipes/*.toml")}
    for path in shipped.values():
        for reduced in (False, True):
            plan = recipe.read(path, reduced)
            known = models.REGISTRY[plan.model.name].options if plan.model.name != train.GENERATOR else WganOptions
            models.options(plan.model, known)
            assert set(plan.start.values()) | ({plan.compares_with} - {""}) <= set(shipped), path


def test_a_backbone_of_torchvision_says_where_it_comes_from() -> None:
    if importlib.util.find_spec("torchvision"):
        pytest.skip("torchvision is here")
    with pytest.raises(UsageError, match="backbone 'vgg16' comes from torchvision, which cannot be imported here"):
        models.build(Model(name="single", backbone="vgg16"), CLASSES)


def test_ghostnet_learns_and_leaves_the_workstation(tmp_path: Path) -> None:
    network = models.build(Model(name="single", backbone="ghostnet", stem_stride=2), CLASSES)
    network.train().loss(_batch(8), "joined", 0.0).backward()
    assert not [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    backbone = sum(p.numel() for p in network.modal.backbone.parameters())
    assert 2.6e6 < backbone < 2.8e6  # 5.2 million with the paper's classifier of 1280 and 1000
    onnx_graph.export_float(network.eval(), SIDE, tmp_path / "ghost.onnx")
