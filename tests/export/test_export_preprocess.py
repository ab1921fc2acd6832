"""What the graph does to a picture before the first weight, held against plain NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the export extra")
from torch import nn  # noqa: E402

from export.models.preprocess import (  # noqa: E402
    CELL,
    GlobalContrastNormalisation,
    HogNormalisation,
    MedianFilter,
    Resize,
)
from export.temporal_graph import run  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("default")]


def noise(n: int = 2, size: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (n, 1, size, size)).astype(np.float32))


def test_the_median_is_that_of_the_nine_pixels() -> None:
    x = noise()
    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    assert np.array_equal(MedianFilter()(x).numpy(), np.median(windows.reshape(*x.shape, 9), axis=-1))


def test_salt_and_pepper_go_and_edges_stay() -> None:
    clean = torch.zeros(1, 1, 16, 16)
    clean[..., 8:] = 200.0
    spotted = clean.clone()
    spotted[0, 0, 4, 3], spotted[0, 0, 9, 12] = 255.0, 0.0
    assert torch.equal(MedianFilter()(spotted), clean)


def test_contrast_is_global_and_a_black_picture_stays_black() -> None:
    x = noise()
    x[1] = 0.0
    y = GlobalContrastNormalisation()(x)
    assert y[0].mean().abs() < 1e-4
    assert y[0].std() == pytest.approx(1.0, abs=0.01)
    assert torch.equal(y[1], torch.zeros_like(y[1]))


def histograms_by_hand(image: np.ndarray) -> np.ndarray:
    """Eq. 1-6 for one pixel after another, votes shared between neighbouring bins: [9, H / 8, W / 8]."""
    p = np.pad(image.astype(np.float64), 1, mode="edge")
    h, w = image.shape
    out = np.zeros((9, h // CELL, w // CELL))
    for r in range(h):
        for c in range(w):
            across, upward = p[r + 1, c + 2] - p[r + 1, c], p[r, c + 1] - p[r + 2, c + 1]
            place = (np.degrees(np.arctan2(upward, across)) % 180) / 20 - 0.5
            below = int(np.floor(place))
            size = np.hypot(across, upward) / CELL**2
            out[below % 9, r // CELL, c // CELL] += size * (1 - (place - below))
            out[(below + 1) % 9, r // CELL, c // CELL] += size * (place - below)
    return out


def test_histograms_are_those_of_the_equations() -> None:
    x = noise(1, 16)
    ours = HogNormalisation().histograms(x)[0].numpy()
    assert np.allclose(ours, histograms_by_hand(x[0, 0].numpy()), atol=1e-3)


def test_block_energy_is_the_norm_of_36_bins() -> None:
    """With 2x2 cells there is one block, and every cell is in it alone (eq. 8)."""
    x = noise(1, 16)
    k2 = (histograms_by_hand(x[0, 0].numpy()) ** 2).sum()
    assert HogNormalisation().energy(x)[0, 0].numpy() == pytest.approx(np.full((2, 2), k2), rel=1e-4)


def test_brightness_does_not_matter_and_contrast_hardly() -> None:
    x = noise() * 0.5 + 40
    hog = HogNormalisation()
    assert torch.allclose(hog(x + 30), hog(x), atol=1e-3)
    assert torch.allclose(hog(x * 2), hog(x), rtol=0.02, atol=1e-3)
    assert torch.equal(hog(torch.full((1, 1, 16, 16), 7.0)), torch.zeros(1, 1, 16, 16))


def test_light_that_differs_from_side_to_side_is_evened_out() -> None:
    x = noise(1, 64)
    x[..., 32:] *= 0.25
    y = HogNormalisation()(x)
    before, after = (t[..., :24].std() / t[..., 40:].std() for t in (x, y))
    assert before > 3.5
    assert after < 1.3


def test_a_crop_of_the_right_size_passes_and_another_is_scaled() -> None:
    x = noise(1, 48)
    assert torch.equal(Resize(48)(x), x)
    assert Resize(64)(x).shape == (1, 1, 64, 64)


@pytest.mark.parametrize("module", [MedianFilter(), GlobalContrastNormalisation(), HogNormalisation(), Resize(24)])
def test_the_graph_does_the_same(module: nn.Module, tmp_path: Path) -> None:
    """Among the pictures a flat one: where there is no gradient there must be no NaN."""
    program = torch.onnx.export(
        module.eval(), (noise(),), input_names=["x"], dynamo=True, opset_version=19, verbose=False,
        dynamic_shapes=({0: torch.export.Dim("N")},),
    )  # fmt: skip
    program.save(tmp_path / "x.onnx")
    x = noise(3, seed=1)
    x[2] = 90.0
    assert np.allclose(run(tmp_path / "x.onnx", {"x": x.numpy()}), module(x).numpy(), atol=1e-4)
