"""The shared losses against values worked out by hand, and their gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the export extra")
from export import fusionmetrics, losses  # noqa: E402

pytestmark = pytest.mark.torch


def _noise(seed: int, side: int = 24) -> torch.Tensor:
    return torch.rand(2, 1, side, side, generator=torch.Generator().manual_seed(seed))


def test_cosine_margin_by_hand() -> None:
    """Lengths do not count: the cosines are 1 and 0, so the loss is log(1 + exp(0 - s (1 - m)))."""
    features, weight = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.5, 0.0], [0.0, 7.0]])
    loss = losses.large_margin_cosine(features, weight, torch.tensor([0]), scale=4.0, margin=0.25)
    assert float(loss) == pytest.approx(math.log1p(math.exp(-3.0)), abs=1e-6)


def test_margin_makes_it_harder_only_for_the_true_class() -> None:
    features, weight, labels = torch.randn(6, 5), torch.randn(3, 5), torch.arange(6) % 3
    values = [float(losses.large_margin_cosine(features, weight, labels, 8.0, m)) for m in (0.0, 0.2, 0.4)]
    assert values[0] < values[1] < values[2]


def test_cosine_margin_stays_float32_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        features = torch.randn(4, 5).bfloat16()
        loss = losses.large_margin_cosine(features, torch.randn(3, 5), torch.tensor([0, 1, 2, 0]), 8.0, 0.2)
    assert loss.dtype == torch.float32


def test_ssim_of_constants_is_the_luminance_term() -> None:
    x, y = torch.full((1, 1, 16, 16), 0.2), torch.full((1, 1, 16, 16), 0.6)
    assert float(losses.ssim(x, y)) == pytest.approx((2 * 0.12 + 1e-4) / (0.04 + 0.36 + 1e-4), abs=1e-3)


def test_ssim_is_one_for_itself_symmetric_and_below_for_noise() -> None:
    x, y = _noise(0), _noise(1)
    assert torch.allclose(losses.ssim(x, x), torch.ones(2), atol=1e-5)
    assert torch.allclose(losses.ssim(x, y), losses.ssim(y, x), atol=1e-6)
    assert float(losses.ssim(x, y).max()) < 0.3


def test_ssim_agrees_with_scikit_image() -> None:
    metrics = pytest.importorskip("skimage.metrics")
    x, y = _noise(0, 40)[:1], (0.7 * _noise(0, 40) + 0.3 * _noise(1, 40))[:1]
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0, "full": True}
    _, theirs = metrics.structural_similarity(x[0, 0].numpy(), y[0, 0].numpy(), **options)
    assert float(losses.ssim(x, y)) == pytest.approx(float(theirs[5:-5, 5:-5].mean()), abs=1e-4)


@pytest.mark.parametrize("side", [48, 30, 96])
def test_visual_information_is_the_figure_of_merit(side: int) -> None:
    rng = np.random.default_rng(side)
    source, other = (np.kron(rng.integers(0, 256, (side // 6,) * 2), np.ones((6, 6))) for _ in range(2))
    for image in (source, source * 0.5 + 60, 0.7 * source + 0.3 * other, 255 - source):
        pair = [x.round().astype(np.uint8) for x in (source, image)]
        got = losses.visual_information(*(torch.from_numpy(x)[None, None] / 255 for x in pair))
        assert float(got) == pytest.approx(fusionmetrics.visual_information(*pair), abs=2e-3)


def test_visual_information_of_flat_images_has_a_gradient_that_is_finite() -> None:
    source, image = torch.zeros(1, 1, 48, 48), torch.zeros(1, 1, 48, 48, requires_grad=True)
    losses.visual_information(source, image).sum().backward()
    assert image.grad is not None
    assert bool(torch.isfinite(image.grad).all())


def test_gradient_loss_of_a_ramp_against_a_flat_image() -> None:
    """A ramp of 0.1 per column differs by 0.1 to the right everywhere and by nothing downwards."""
    ramp = (torch.arange(9) * 0.1).expand(1, 1, 9, 9)
    assert float(losses.gradient_loss(ramp, torch.zeros(1, 1, 9, 9))) == pytest.approx(0.01, abs=1e-6)
    assert float(losses.gradient_loss(ramp + 0.3, ramp)) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(("bit", "place"), [(0, (1, 2)), (1, (0, 2)), (2, (0, 1)), (4, (1, 0)), (7, (2, 2))])
def test_a_steep_pattern_is_the_binary_one(bit: int, place: tuple[int, int]) -> None:
    """One neighbour brighter, all others darker: only its own bit is set."""
    x = torch.zeros(1, 1, 3, 3)
    x[0, 0, 1, 1] = 0.5
    x[0, 0, place[0], place[1]] = 1.0
    assert round(float(losses.soft_lbp(x, steepness=200.0)) * 255, 3) == 2**bit


def test_pattern_is_blind_to_brightness_and_lies_in_the_unit_range() -> None:
    x = 0.5 * _noise(2)
    code = losses.soft_lbp(x)
    assert code.shape == (2, 1, 22, 22)
    assert 0.0 <= float(code.min()) < float(code.max()) <= 1.0
    assert torch.allclose(code, losses.soft_lbp(x + 0.4), atol=1e-4)
    assert float(losses.lbp_loss(x, x)) == 0.0


@pytest.mark.parametrize("loss", [losses.lbp_loss, losses.gradient_loss, lambda x, y: -losses.ssim(x, y).mean()])
def test_descent_brings_the_images_together(loss: object) -> None:
    x, y = _noise(3).requires_grad_(), _noise(4)
    assert callable(loss)
    before = loss(x, y)
    before.backward()
    gradient, start = x.grad, x.detach()
    assert gradient is not None
    assert np.count_nonzero(gradient.numpy()) > 0.9 * gradient.numel()
    assert float(loss(start - 1e-2 / gradient.norm() * gradient, y)) < float(before.detach())
