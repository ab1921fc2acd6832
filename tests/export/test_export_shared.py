"""Two lenses, one trunk: with one lens alive the network is that lens's plain ResNet."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="needs the export extra")
from export.models.shared import Options, SharedTrunk  # noqa: E402

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


def test_the_joined_step_begins_with_one_branch_for_both_lenses_and_equal_weights() -> None:
    network, (v, i) = SharedTrunk(Options(widths=[8, 8, 16, 16]), 7).eval(), _crops()
    network.begin("joined")
    present = torch.ones(4, 2)
    swapped = network(i, v, present)
    assert torch.allclose(network(v, i, present), swapped, atol=1e-5)
    share = network.mix.share(network.visible(v), network.infrared(i), present)
    assert torch.allclose(share, torch.full_like(share, 0.5))
