"""Pixel fusion: figures of merit by hand, the two players, and a training that is interrupted."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the export extra")
from export import adversarial, fusionmetrics, pixelfusion  # noqa: E402
from export.adversarial import WganOptions  # noqa: E402
from export.errors import InputError, RecipeError  # noqa: E402
from export.models import pyconv  # noqa: E402
from export.models.pixel import Discriminator, Generator, GeneratorOptions, Options, PixelFusion  # noqa: E402
from export.patches import FacePatches, ScenePatches  # noqa: E402
from export.pixelfusion import Pair  # noqa: E402

pytestmark = pytest.mark.torch

TINY = GeneratorOptions(channels=(4, 4, 4, 4))
PLAN = WganOptions(side=32, epochs=2, steps=2, batch=4, generator=TINY, width=0.1)
CLASSIFIER = pyconv.Options(widths=(16, 16, 16, 16), stem_stride=2)


def _scene(seed: int, h: int = 48, w: int = 64) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Blurred noise of full contrast: something with edges."""
    noise = cv2.GaussianBlur(np.random.default_rng(seed).normal(size=(h, w)), (0, 0), 2.0)
    return np.asarray(255 * (noise - noise.min()) / np.ptp(noise), np.uint8)


def _pairs(n: int = 3) -> list[Pair]:
    return [Pair(f"scene {k}", _scene(k), _scene(100 + k)) for k in range(n)]


# ---- figures of merit


def test_entropy_deviation_and_frequency_of_stripes() -> None:
    stripes = np.tile(np.array([0, 10], np.uint8), (6, 4))
    assert fusionmetrics.entropy(stripes) == 1.0
    assert fusionmetrics.deviation(stripes) == 5.0
    assert fusionmetrics.spatial_frequency(stripes) == 10.0
    flat = np.full((6, 8), 7, np.uint8)
    assert [f(flat) for f in (fusionmetrics.entropy, fusionmetrics.deviation, fusionmetrics.spatial_frequency)] == [
        0
    ] * 3


def test_mutual_information_of_a_copy_is_its_entropy_and_of_independent_halves_nothing() -> None:
    x = _scene(0)
    assert fusionmetrics.mutual_information(x, x) == pytest.approx(fusionmetrics.entropy(x))
    assert fusionmetrics.mutual_information(x, 255 - x) == pytest.approx(fusionmetrics.entropy(x))
    across, down = np.meshgrid(np.array([0, 9] * 4, np.uint8), np.array([0, 9] * 4, np.uint8))
    assert fusionmetrics.mutual_information(across, down) == pytest.approx(0.0, abs=1e-12)


def test_ssim_of_a_copy_and_of_constants() -> None:
    x = _scene(0)
    assert fusionmetrics.ssim(x, x) == pytest.approx(1.0)
    a, b = np.full((16, 16), 50, np.uint8), np.full((16, 16), 150, np.uint8)
    c1 = 2.55**2
    assert fusionmetrics.ssim(a, b) == pytest.approx((2 * 50 * 150 + c1) / (50**2 + 150**2 + c1))


def test_ssim_is_the_one_that_is_trained_on() -> None:
    from export.losses import ssim

    a, b = _scene(0), _scene(1)
    x, y = (torch.from_numpy(s.copy())[None, None] / 255 for s in (a, b))
    assert fusionmetrics.ssim(a, b) == pytest.approx(float(ssim(x, y)), abs=1e-4)


def test_edge_transfer_of_copies_is_the_top_of_both_curves() -> None:
    x = _scene(0)
    top = 0.9994 / (1 + np.exp(-7.5)) * 0.9879 / (1 + np.exp(-4.4))
    assert fusionmetrics.edge_transfer(x, x, x) == pytest.approx(top)
    assert fusionmetrics.edge_transfer(x, x, np.full_like(x, 9)) < 0.01
    assert fusionmetrics.edge_transfer(np.zeros_like(x), np.zeros_like(x), x) == 0.0


def test_edge_transfer_weighs_the_sources_by_their_edges() -> None:
    """The flat source has no edges to lose: a copy of the other one is as good as can be."""
    x, flat = _scene(0), np.full((48, 64), 9, np.uint8)
    assert fusionmetrics.edge_transfer(x, flat, x) == pytest.approx(fusionmetrics.edge_transfer(x, x, x))


def test_visual_information_of_copies() -> None:
    x = _scene(0, 64, 80)
    half = (x // 2).astype(np.uint8)
    assert fusionmetrics.visual_information(x, x) == pytest.approx(1.0)
    assert fusionmetrics.visual_information(half, x) > 1.0 > fusionmetrics.visual_information(x, half)
    noisy = np.clip(x + np.random.default_rng(0).normal(0, 20, x.shape), 0, 255).astype(np.uint8)
    assert fusionmetrics.visual_information(x, noisy) < 0.7
    assert fusionmetrics.visual_information(np.zeros_like(x), x) == 0.0


# ---- baselines


@pytest.mark.parametrize("name", sorted(pixelfusion.BASELINES))
def test_fusing_an_image_with_itself_changes_nothing(name: str) -> None:
    x = _scene(0, 51, 67)
    fused = pixelfusion.BASELINES[name](x, x)
    assert fused.dtype == np.uint8
    assert np.abs(fused.astype(int) - x).max() <= 1


def test_average_and_maximum_by_hand() -> None:
    a, b = np.array([[0, 200, 255]], np.uint8), np.array([[100, 100, 255]], np.uint8)
    assert pixelfusion.average(a, b).tolist() == [[50, 150, 255]]
    assert pixelfusion.maximum(a, b).tolist() == [[100, 200, 255]]


@pytest.mark.parametrize("name", ["laplacian pyramid", "guided filter"])
def test_detail_of_either_lens_survives(name: str) -> None:
    """Left half only in the visible, right half only in the infrared image: averaging halves the contrast."""
    visible, infrared = _scene(0, 64, 128), _scene(1, 64, 128)
    visible[:, 64:], infrared[:, :64] = 128, 128
    fused = pixelfusion.BASELINES[name](visible, infrared)
    for source, part in ((visible, np.s_[8:-8, 8:48]), (infrared, np.s_[8:-8, 80:-8])):
        assert fused[part].std() > 0.85 * source[part].std()
        assert pixelfusion.average(visible, infrared)[part].std() < 0.6 * source[part].std()


def test_guided_filter_keeps_the_edge_that_its_guide_has() -> None:
    step = np.repeat([[0.0, 1.0]], 32, axis=0).repeat(16, axis=1)
    noisy = step + np.random.default_rng(0).normal(0, 0.05, step.shape)
    smooth = pixelfusion.guided_filter(step, noisy, 4, 1e-3)
    assert (smooth[:, 16:] - smooth[:, :16]).min() > 0.9
    assert smooth[:, :12].std() < 0.5 * noisy[:, :12].std()


# ---- pairs


def test_pairs_are_read_and_the_last_of_the_drive_held_out(tmp_path: Path) -> None:
    for name in ("TNO_01", *(f"RoadScene_{k:02}" for k in range(19))):
        for lens in ("vi", "ir"):
            cv2.imwrite(str(tmp_path / f"{name}_{lens}.png"), _scene(len(name)))
    (tmp_path / "RoadScene_09_ir.png").rename(tmp_path / "RoadScene_90_ir.png")
    (tmp_path / "RoadScene_10_vi.png").write_bytes(b"no")
    pairs, unused = pixelfusion.read_pairs(tmp_path)
    assert unused == (
        "RoadScene_09_vi.png: unpaired, lacks RoadScene_09_ir.*",
        "RoadScene_10_ir.png: unpaired, RoadScene_10_vi.png is not usable",
        "RoadScene_10_vi.png: unreadable (damaged or cut short)",
        "RoadScene_90_ir.png: unpaired, lacks RoadScene_90_vi.*",
    )
    train, held_out = pixelfusion.split_pairs(pairs)
    assert [p.name for p in train] == ["RoadScene_00", "RoadScene_01"]
    assert [p.name for p in held_out] == [*(f"RoadScene_{k:02}" for k in range(2, 19) if k not in (9, 10)), "TNO_01"]
    assert train[0].visible.shape == train[0].infrared.shape == (48, 64)


def test_patches_stay_aligned() -> None:
    """The infrared image is the negative of the visible one, so every patch must be the negative of its partner."""
    scene = _scene(0)
    source = ScenePatches([Pair("negative", scene, 255 - scene)])
    visible, infrared = source.patches(8, 32, np.random.default_rng(0))
    assert visible.shape == (8, 32, 32)
    assert np.array_equal(visible, 255 - infrared)
    assert len({p.tobytes() for p in visible}) > 4


def test_faces_get_a_simulated_lens_that_sees_in_the_dark() -> None:
    faces = np.stack([_scene(k, 48, 48) for k in range(3)])
    visible, infrared = FacePatches(faces, dark=1.0).patches(6, 32, np.random.default_rng(0))
    assert visible.shape == infrared.shape == (6, 32, 32)
    assert visible.mean() < 0.6 * infrared.mean()


def test_varied_patches_stay_aligned_and_are_of_the_asked_side() -> None:
    """Both lenses show the same square at the same scale; their contrasts differ."""
    scene = _scene(0, 80, 80)
    visible, infrared = ScenePatches([Pair("same", scene, scene)], vary=True).patches(8, 32, np.random.default_rng(0))
    assert visible.shape == infrared.shape == (8, 32, 32)
    for v, i in zip(visible, infrared, strict=True):
        inside = (v > 0) & (v < 255) & (i > 0) & (i < 255)
        assert np.corrcoef(v[inside], i[inside])[0, 1] > 0.99
    assert np.abs(visible.astype(int) - infrared).mean() > 3


def test_varied_patches_are_turned_by_quarters_both_lenses_alike() -> None:
    stripes = np.tile(np.where(np.arange(80) % 20 < 10, 60, 180).astype(np.uint8), (80, 1))
    visible, infrared = ScenePatches([Pair("", stripes, stripes)], vary=True).patches(16, 32, np.random.default_rng(0))
    upright = [[bool(x.std(axis=0).max() < 1) for x in lens] for lens in (visible, infrared)]
    assert upright[0] == upright[1]
    assert 0 < sum(upright[0]) < 16


def test_pairs_smaller_than_the_patch_are_named() -> None:
    with pytest.raises(InputError, match="scene 0: smaller than the patches of 64"):
        ScenePatches(_pairs(1)).patches(1, 64, np.random.default_rng(0))


# ---- networks


def test_generator_keeps_the_size_and_sees_each_lens_where_the_paper_says() -> None:
    net = Generator(GeneratorOptions())
    assert [tuple(c.weight.shape[2:]) for c in net.children()] == [(5, 5), (5, 5), (3, 3), (3, 3), (1, 1)]
    assert [c.in_channels for c in net.children()] == [2, 33, 33, 17, 17]
    x = torch.zeros(1, 1, 9, 13)
    assert net(x, x).shape == x.shape
    with torch.no_grad():  # only what is appended to layer 5 counts: the visible image
        for p in net.parameters():
            p.zero_()
        net.conv5.weight[0, -1] = 1.0
        visible = torch.linspace(-1, 1, 117).reshape(1, 1, 9, 13)
        assert torch.allclose(net(visible, x), torch.tanh(visible))


def test_discriminator_has_the_size_of_the_paper() -> None:
    net = Discriminator(48)
    assert [c.out_channels for c in net.convolutions[::2]] == [64, 64, 128, 128, 256, 256]
    assert net(torch.zeros(2, 1, 48, 48)).shape == (2,)
    with pytest.raises(RecipeError, match="'side' must be 29 or more"):
        Discriminator(28)


def test_penalty_of_a_linear_critic_by_hand() -> None:
    """Score = 3 * first pixel: the slope has length 3 everywhere, so the penalty is 4."""

    class First(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return 3 * x[:, 0, 0, 0]

    real, fake = torch.ones(2, 1, 4, 4), torch.zeros(2, 1, 4, 4)
    assert float(adversarial.gradient_penalty(First(), real, fake)) == pytest.approx(4.0)
    assert float(adversarial.critic_loss(First(), real, fake, 10.0)) == pytest.approx(0 - 3 + 40)


def test_content_loss_is_nothing_where_all_images_are_one() -> None:
    x = torch.from_numpy(_scene(0, 32, 32))[None, None] / 127.5 - 1
    assert float(adversarial.content_loss(x, x, x, PLAN)) == pytest.approx(0.0, abs=1e-5)
    assert float(adversarial.content_loss(-x, x, x, PLAN)) > 1.0


def test_content_loss_is_the_sum_of_equation_three() -> None:
    v, i, f = (torch.from_numpy(_scene(k, 32, 32).copy())[None, None] / 255 for k in range(3))
    from export import losses

    infrared = ((f - i) ** 2).mean() + 1 - losses.ssim(f, i).mean()
    visible = losses.lbp_loss(f, v, 15.0) + losses.gradient_loss(f, v)
    paper = PLAN.model_copy(update={"alpha": 2.0, "beta": 3.0, "structure": 0.0})
    got = adversarial.content_loss(*(2 * x - 1 for x in (f, v, i)), paper)
    assert float(got) == pytest.approx(float(2 * infrared + 3 * visible), abs=1e-5)
    ours = paper.model_copy(update={"structure": 0.5, "information": 0.2})
    more = adversarial.content_loss(*(2 * x - 1 for x in (f, v, i)), ours) - got
    lost = 2 - losses.visual_information(v, f) - losses.visual_information(i, f)
    assert float(more) == pytest.approx(float(0.5 * (1 - losses.ssim(f, v)) + 0.2 * lost), abs=1e-4)


def test_classifier_learns_behind_a_frozen_generator_and_both_when_asked() -> None:
    batch = (*(torch.randint(0, 256, (4, 1, 48, 48), dtype=torch.uint8) for _ in range(2)), torch.ones(4, 2),
             torch.arange(4))  # fmt: skip
    for freeze in (True, False):
        net = PixelFusion(Options(generator=TINY, classifier=CLASSIFIER, freeze_generator=freeze), 7)
        net.begin("joined")
        with torch.autocast("cpu", torch.bfloat16):
            loss = net.loss(batch, "joined", 0.1)
        loss.backward()
        moved = {n.split(".")[0] for n, p in net.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
        assert moved == ({"classifier"} if freeze else {"generator", "classifier"})
        assert {n.split(".")[0] for n, _ in net.trainable("joined")} == moved


def test_generator_and_classifier_are_one_graph(tmp_path: Path) -> None:
    """``export_float`` holds the graph against torch itself, to 1e-4."""
    pytest.importorskip("onnxruntime")
    from export.onnx_graph import export_float

    net = PixelFusion(Options(generator=TINY, classifier=CLASSIFIER), 7).eval()
    assert export_float(net, 48, tmp_path / "net.onnx").is_file()


# ---- training


class Stop(Exception):
    pass


def _stop_after_first(line: str) -> None:
    if line.startswith("epoch 1"):
        raise Stop


def test_stopped_and_resumed_equals_straight(tmp_path: Path, silent: Any) -> None:
    source = ScenePatches(_pairs())
    straight = adversarial.train_generator(PLAN, source, tmp_path / "straight", 3, silent)
    with pytest.raises(Stop):
        adversarial.train_generator(PLAN, source, tmp_path / "broken", 3, _stop_after_first)
    resumed = adversarial.train_generator(PLAN, source, tmp_path / "broken", 3, silent)
    a, b = (torch.load(p, weights_only=True) for p in (straight, resumed))
    assert a["epoch"] == b["epoch"] == 2
    for part in ("generator", "discriminator"):
        assert all(torch.equal(v, b[part][k]) for k, v in a[part].items())
    rows = [json.loads(line) for line in (tmp_path / "broken" / "training.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert set(rows[0]) == {"epoch", "critic", "adversarial", "content", "seconds"}


def test_a_generator_costs_what_all_its_sessions_cost(
    tmp_path: Path, silent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten processor seconds an epoch; it is stopped after the first."""
    clock = itertools.count(0, 10)
    monkeypatch.setattr(adversarial, "cpu_seconds", lambda: float(next(clock)))
    source = ScenePatches(_pairs())
    with pytest.raises(Stop):
        adversarial.train_generator(PLAN, source, tmp_path, 3, _stop_after_first)
    path = adversarial.train_generator(PLAN, source, tmp_path, 3, silent)
    assert adversarial.spent(path)["cpu"] == 20
    assert adversarial.spent(path)["wall"] > 0


def test_a_generator_begun_anew_has_a_curve_of_its_own(tmp_path: Path, silent: Any) -> None:
    source = ScenePatches(_pairs())
    adversarial.train_generator(PLAN, source, tmp_path, 0, silent).unlink()
    adversarial.train_generator(PLAN.model_copy(update={"epochs": 1}), source, tmp_path, 0, silent)
    rows = [json.loads(line) for line in (tmp_path / "training.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1]


def test_content_falls_and_the_checkpoint_starts_the_network(tmp_path: Path, silent: Any) -> None:
    plan = PLAN.model_copy(update={"steps": 10, "lr": 1e-2})
    path = adversarial.train_generator(plan, ScenePatches(_pairs()), tmp_path, 0, silent)
    rows = [json.loads(line) for line in (tmp_path / "training.jsonl").read_text().splitlines()]
    assert rows[-1]["content"] < 0.8 * rows[0]["content"]
    net = PixelFusion(Options(generator=TINY, classifier=CLASSIFIER), 7)
    net.generator.load_state_dict(torch.load(path, weights_only=True)["generator"])
    visible, infrared = _scene(0), _scene(1)
    raw = (torch.from_numpy(x)[None, None] for x in (visible, infrared))
    with torch.inference_mode():
        fused = net.fused(*raw)[0, 0].round().numpy()
    assert np.array_equal(fused, adversarial.load_generator(path).fuse(visible, infrared))


def test_another_plan_does_not_go_on_in_the_same_folder(tmp_path: Path, silent: Any) -> None:
    adversarial.train_generator(PLAN, ScenePatches(_pairs()), tmp_path, 0, silent)
    other = PLAN.model_copy(update={"beta": 3.0})
    with pytest.raises(InputError, match="other options or another seed"):
        adversarial.train_generator(other, ScenePatches(_pairs()), tmp_path, 0, silent)


def test_a_training_begun_before_an_option_was_there_goes_on(tmp_path: Path, silent: Any) -> None:
    path = adversarial.train_generator(PLAN, ScenePatches(_pairs()), tmp_path, 0, silent)
    state = torch.load(path, weights_only=True)
    del state["options"]["information"], state["spent"]
    torch.save(state, path)
    assert adversarial.spent(path) == {}
    longer, said = PLAN.model_copy(update={"epochs": PLAN.epochs + 1}), list[str]()
    adversarial.train_generator(longer, ScenePatches(_pairs()), tmp_path, 0, said.append)
    assert adversarial.spent(path) == {}  # a part of it would pass for the whole
    assert said[0].endswith("; begun by an older version, which did not note what these epochs cost")
    assert torch.load(path, weights_only=True)["epoch"] == PLAN.epochs + 1


def test_comparison_lists_baselines_and_generator(tmp_path: Path, silent: Any) -> None:
    path = adversarial.train_generator(PLAN, ScenePatches(_pairs()), tmp_path, 0, silent)
    table = pixelfusion.compare_fusion(path, _pairs(2), silent)
    assert set(table) == {*pixelfusion.BASELINES, "wgan"}
    assert set(table["wgan"]) == {"EN", "SD", "SF", "MI", "SSIM", "Qabf", "VIF"}
    pixelfusion.write_results(tmp_path / "fusion.json", table, seed=0)
    assert json.loads((tmp_path / "fusion.json").read_text())["about"] == {"seed": 0}


@pytest.mark.parametrize("content", [None, b"no"])
def test_a_missing_or_broken_checkpoint_is_one_line(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "generator.pt").write_bytes(content)
    with pytest.raises(InputError, match=r"train one first|train again"):
        pixelfusion.compare_fusion(tmp_path / "generator.pt", _pairs(1), str)
    with pytest.raises(InputError, match="no infrared/visible pairs"):
        pixelfusion.compare_fusion(None, [], str)
