"""Two lenses, one trunk: with one lens alive the network is that lens's plain ResNet."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs the export extra")
from export import checkpoint  # noqa: E402
from export.errors import InputError  # noqa: E402
from export.models.shared import Options, SharedTrunk  # noqa: E402
from export.recipe import Recipe  # noqa: E402

pytestmark = pytest.mark.torch


def _network() -> SharedTrunk:
    torch.manual_seed(3)
    network = SharedTrunk(Options(widths=[8, 8, 16, 16]), 7)
    for p in network.mix.parameters():
        torch.nn.init.normal_(p, std=2.0)
    return network.eval()


def _crops(n: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    v, i = (torch.randint(0, 256, (n, 1, 24, 24), generator=g, dtype=torch.uint8) for _ in range(2))
    return v, i


@pytest.mark.parametrize("lens", ["visible", "infrared"])
def test_a_lens_that_is_not_there_counts_nothing_whatever_its_crop_shows(lens: str) -> None:
    network, (v, i) = _network(), _crops()
    present = torch.tensor([[1.0, 0.0] if lens == "visible" else [0.0, 1.0]]).expand(4, 2)
    alone = network.head(network.trunk(getattr(network, lens)(v if lens == "visible" else i)))
    assert torch.allclose(network(v, i, present), alone, atol=1e-4)


def test_both_lenses_count_when_both_are_there() -> None:
    network, (v, i) = _network(), _crops()
    both = torch.ones(4, 2)
    answer = network(v, i, both)
    assert not torch.allclose(answer, network(v.flip(0), i, both), atol=1e-3)
    assert not torch.allclose(answer, network(v, i.flip(0), both), atol=1e-3)


@pytest.mark.parametrize("dark", [0, 1])
def test_a_lens_in_the_dark_is_weighed_out_unless_the_other_is_as_dark(dark: int) -> None:
    network, crops = _network(), list(_crops())
    for p in network.mix.parameters():
        torch.nn.init.normal_(p, std=0.1)
    lit = network(*crops, torch.ones(4, 2))
    crops[dark] = crops[dark] // 20  # a mean of about 6
    other = torch.tensor([[float(dark), 1.0 - dark]]).expand(4, 2)
    assert torch.allclose(network(*crops, torch.ones(4, 2)), network(*crops, other), atol=1e-3)
    crops[1 - dark] = crops[1 - dark] // 20
    assert not torch.allclose(network(*crops, torch.ones(4, 2)), network(*crops, other), atol=1e-3)
    assert not torch.allclose(lit, network(*crops, other), atol=1e-3)


def test_the_joined_step_begins_with_one_branch_for_both_lenses_and_equal_weights() -> None:
    network, (v, i) = SharedTrunk(Options(widths=[8, 8, 16, 16]), 7).eval(), _crops()
    network.begin("joined")
    present = torch.ones(4, 2)
    swapped = network(i, v, present)
    assert torch.allclose(network(v, i, present), swapped, atol=1e-5)
    share = network.mix.share(network.visible(v), network.infrared(i), torch.zeros(4, 1))
    assert torch.allclose(share, torch.full_like(share, 0.5))


def test_a_refined_step_goes_on_with_each_lens_s_own_weights() -> None:
    network = _network()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    network.begin("refined")
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert not torch.equal(before["visible.conv1.weight"], before["infrared.conv1.weight"])


LARGE = Options(widths=[8, 12, 20, 24], blocks=[2, 3, 2, 3])


def _finished(path: Path) -> SharedTrunk:
    small = _network()
    for module in small.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.5, 0.5)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    recipe = Recipe(name="small", model={"name": "shared-trunk"}, training={"steps": []})
    torch.save(checkpoint.finished(small, recipe, ("a",) * 7, "rows", {"epochs": 1}), path)
    return small


def test_a_larger_network_begins_by_saying_what_the_smaller_one_says(tmp_path: Path) -> None:
    small, large = _finished(tmp_path / "network.pt"), SharedTrunk(LARGE, 7)
    checkpoint.start(large, "", tmp_path / "network.pt")
    present = torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    with torch.inference_mode():
        assert torch.allclose(small(*_crops(), present), large.eval()(*_crops(), present), atol=1e-5)


def test_channels_that_repeat_one_part_in_training(tmp_path: Path) -> None:
    _finished(tmp_path / "network.pt")
    large = SharedTrunk(LARGE, 7)
    checkpoint.start(large, "", tmp_path / "network.pt")
    kernel = large.visible.layer2[0].conv2.weight
    twins = [(a, b) for a in range(8) for b in range(8, 12) if torch.equal(kernel[a], kernel[b])]
    assert len(twins) == 4
    large(*_crops(), torch.ones(4, 2)).square().sum().backward()
    assert all(not torch.allclose(kernel.grad[a], kernel.grad[b]) for a, b in twins)


def test_a_narrower_network_cannot_begin_with_a_wider_one(tmp_path: Path) -> None:
    _finished(tmp_path / "network.pt")
    with pytest.raises(InputError, match="8 channels cannot hold 16; give the recipe widths at least as large"):
        checkpoint.start(SharedTrunk(Options(widths=[8, 8, 8, 8]), 7), "", tmp_path / "network.pt")
