"""Activation maps of networks whose reasons are known because they were made by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the export extra")
pytest.importorskip("cv2", reason="needs the cpu extra")
from report_samples import LABELS, mode, system  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from export import checkpoint, compare, models, recipe  # noqa: E402
from export.data.faces import Faces  # noqa: E402
from export.errors import UsageError  # noqa: E402
from export.models import naseem  # noqa: E402
from export.models.network import Network  # noqa: E402
from export.report import cam, files, results, write_report  # noqa: E402

pytestmark = pytest.mark.torch
SIZE = 16


class Halves(Network):
    """Class 0 speaks for brightness of the visible left half, class 1 of the infrared right half."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 1, 1, bias=False)
        self.left, self.right = (nn.Conv2d(1, 1, 1, bias=False) for _ in range(2))
        self.unused = nn.Conv2d(1, 1, 1)
        for conv in (self.first, self.left, self.right):
            nn.init.ones_(conv.weight)

    def forward(self, visible: Tensor, infrared: Tensor, present: Tensor) -> Tensor:
        # Working in place must not disturb what was stored: 500 is more than any output.
        v = self.left(torch.relu_(self.first(visible.float()))).sub_(500.0) + 500.0
        i = torch.relu_(self.right(self.first(infrared.float())))
        self.unused(v)  # a later map of the visible lens, but not on the way to the logits
        half = SIZE // 2
        return torch.stack((v[..., :half].mean(dim=(1, 2, 3)), i[..., half:].mean(dim=(1, 2, 3))), dim=1)


class Fused(Network):
    """One branch for the mean of both lenses."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)

    def forward(self, visible: Tensor, infrared: Tensor, present: Tensor) -> Tensor:
        return self.conv((visible.float() + infrared.float()) / 2).mean(dim=(2, 3))


class Flat(Network):
    """Says class 0 unless the visible lens is black; no map anywhere."""

    def forward(self, visible: Tensor, infrared: Tensor, present: Tensor) -> Tensor:
        mean = visible.float().mean(dim=(2, 3))
        return torch.cat((mean, mean - 1), dim=1)


class Told(Halves):
    def cam_layers(self) -> dict[str, nn.Module]:
        return {"visible": self.first}


def _bright(columns: slice) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    face = np.full((SIZE, SIZE), 10, np.uint8)
    face[:, columns] = 250
    return face


def test_each_lens_is_looked_at_behind_its_own_last_map() -> None:
    network = Halves()
    found = cam.places(network, SIZE)
    assert found == {"visible": cam.Place(network.left, 0), "infrared": cam.Place(network.right, 0)}


def test_the_map_lies_on_the_half_that_decides() -> None:
    network, half = Halves(), SIZE // 2
    at = cam.places(network, SIZE)
    v, i = _bright(slice(0, half)), _bright(slice(half, SIZE))
    for_left = cam.grad_cam(network, at, v, i, target=0)
    assert for_left["visible"].max() == pytest.approx(1.0)
    assert for_left["visible"][:, :half].mean() > 10 * for_left["visible"][:, half:].mean()
    assert not for_left["infrared"].any(), "the infrared lens has no say in class 0"
    for_right = cam.grad_cam(network, at, v, i, target=1)
    assert for_right["infrared"][:, half:].mean() > 10 * for_right["infrared"][:, :half].mean()


def test_a_fused_picture_has_one_map_for_both_lenses() -> None:
    network = Fused()
    found = cam.places(network, SIZE)
    assert found["visible"] == found["infrared"] == cam.Place(network.conv, 0, shared=True)


def test_a_network_may_say_itself_where_to_look() -> None:
    network = Told()
    assert cam.places(network, SIZE) == {"visible": cam.Place(network.first, 0)}


class Named(Halves):
    """Names a layer whose output is no map."""

    def cam_layers(self) -> dict[str, nn.Module]:
        return {"visible": self.flat}

    def __init__(self) -> None:
        super().__init__()
        self.flat = nn.Linear(SIZE, 3, bias=False)

    def forward(self, visible: Tensor, infrared: Tensor, present: Tensor) -> Tensor:
        return super().forward(visible, infrared, present)[:, :1] + self.flat(visible.float()).mean(dim=(1, 2))


def test_a_named_layer_that_makes_no_map_is_refused() -> None:
    network, face = Named(), _bright(slice(0, 3))
    with pytest.raises(UsageError, match="Named: what Linear makes is no map; name another layer"):
        cam.grad_cam(network, cam.places(network, SIZE), face, face, target=0)


class Mixed(Halves):
    """Behind the maps of both halves every place is mixed with every other, and four dimensions stay."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mix = nn.Linear(SIZE * SIZE, 64)
        self.attend = nn.Conv2d(1, 8, 3, padding=1)

    def forward(self, visible: Tensor, infrared: Tensor, present: Tensor) -> Tensor:
        v = self.left(torch.relu(self.first(visible.float())))
        mixed = self.attend(self.mix(v.flatten(1)).unflatten(1, (1, 8, 8)))
        return mixed.mean(dim=(2, 3))[:, :2]


def test_what_mixes_all_places_is_no_map_of_the_face() -> None:
    network = Mixed()
    network.uses = ("visible",)
    assert cam.places(network, SIZE) == {"visible": cam.Place(network.left, 0)}


@pytest.mark.parametrize("pools", ["after", "between"])
def test_groups_patches_and_channels_are_no_map_of_the_face(pools: str) -> None:
    """Jayaraman's attention works on [N, groups, patches, channels] of an image made up by a recurrent layer."""
    torch.manual_seed(0)
    network = models.build(recipe.Model(name="jayaraman", width=0.25, pools=pools), 7)
    place = cam.places(network, 48)["visible"]
    assert place.module in set(network.dcnn.modules())


@pytest.mark.parametrize("modalities", [["visible", "msx"], ["visible", "infrared", "msx"]])
@pytest.mark.parametrize("model", ["late-fusion", "early-fusion"])
def test_every_modality_has_its_map_in_its_own_branch(model: str, modalities: list[str]) -> None:
    network = models.build(recipe.Model(name=model, modalities=modalities, widths=[8, 8, 8, 8]), 7)
    at = cam.places(network, 32)
    assert list(at) == modalities
    parts = {m.modality: set(m.modules()) for m in network.modules() if isinstance(m, naseem.Modal)}
    assert all(place.module in parts[modality] for modality, place in at.items())


def test_another_backbone_has_its_maps_by_modality_too() -> None:
    torch.manual_seed(0)
    plan = recipe.Model(name="early-fusion", modalities=["visible", "msx"], backbone="ghostnet", stem_stride=1)
    network = models.build(plan, 7)
    at = cam.places(network, 64)
    assert list(at) == ["visible", "msx"]
    for modality, place in at.items():
        assert place.module in set(network.branches[modality].backbone.modules())


def test_the_map_of_msx_lies_over_what_the_network_sees_of_it() -> None:
    network = models.build(recipe.Model(name="single", modality="msx", widths=[8, 8, 8, 8]), 7)
    rng = np.random.default_rng(0)
    v, i = (rng.integers(0, 256, (32, 32), np.uint8) for _ in range(2))
    face, under = cam._row(network, cam.places(network, 32), v, i, target=0)
    blend = naseem.Msx()(*(torch.from_numpy(x[None, None]) for x in (v, i)))[0, 0].round().numpy()
    assert np.array_equal(face[..., 0], blend.astype(np.uint8))
    assert under.shape == (32, 32, 3)
    own = models.build(recipe.Model(name="single", modality="msx", msx_is_lens=True, widths=[8, 8, 8, 8]), 7)
    assert np.array_equal(cam._row(own, cam.places(own, 32), v, i, target=0)[0][..., 0], i), "the camera's own blend"


def test_a_network_without_convolutions_is_told_what_to_do() -> None:
    with pytest.raises(UsageError, match="cam_layers"):
        cam.places(Flat(), SIZE)


def _faces(count: int = 8) -> Faces:
    half = SIZE // 2
    left, right = _bright(slice(0, half)), _bright(slice(half, SIZE))
    labels = np.arange(count) % 2
    # Class 0: bright on the visible left; class 1: bright on the infrared right.
    images = np.stack([left if k == 0 else np.full_like(left, 10) for k in labels])
    infrared = np.stack([right if k == 1 else np.full_like(right, 10) for k in labels])
    return Faces(images, labels, "0" * 64, ("left", "right"), infrared=infrared)


def test_examples_are_right_and_one_per_class() -> None:
    found = cam.examples(Halves(), _faces(), seed=0)
    assert sorted(found) == [0, 1]
    assert found[0][0][0, 0] == 250
    assert found[1][1][0, -1] == 250


def test_a_montage_is_a_png_and_needs_a_right_answer(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the report's figures")
    faces = _faces()
    path = cam.montage(Halves(), faces, tmp_path / "figures" / "cam.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    wrong = Faces(faces.images, 1 - faces.labels, faces.fingerprint, faces.classes, infrared=faces.infrared)
    with pytest.raises(UsageError, match="classified correctly"):
        cam.montage(Halves(), wrong, tmp_path / "none.png")


def test_the_overlay_is_red_where_the_map_is_one() -> None:
    heat = np.zeros((SIZE, SIZE), np.float32)
    heat[:, 8:] = 1.0
    seen = cam.overlay(np.full((SIZE, SIZE), 128, np.uint8), heat)
    assert seen.shape == (SIZE, SIZE, 3)
    assert seen[0, 12, 0] > seen[0, 12, 2]
    assert seen[0, 2, 2] > seen[0, 2, 0]


def test_the_page_shows_the_maps_and_says_where_there_is_none(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the report's figures")
    mode_of_two = {**mode(), "confusion": ((150, 0), (0, 150))}
    for name in ("sees", "blind", "untrained"):
        one = system(name, labels=("left", "right"), modes={"both": mode_of_two}, simulated="the infrared lens")
        files.write(one, tmp_path / "results" / "systems")
    files.write(system("other-classes"), tmp_path / "results" / "systems")
    other = replace(_faces(), classes=LABELS)
    asked: list[str] = []

    def networks(found: results.System) -> tuple[Network, Faces] | None:
        asked.append(found.key)
        own = {"sees": Halves(), "blind": Flat(), "other-classes": Halves()}.get(found.recipe)
        return own and (own, other if found.recipe == "other-classes" else _faces())

    out = tmp_path / "out"
    page = write_report(tmp_path / "results", tmp_path, out, lambda line: None, networks=networks).read_text()
    assert sorted(asked) == ["blind", "other-classes", "sees", "untrained"]
    assert {p.name for p in (out / "figures").glob("*-cam.png")} == {"sees-cam.png", "other-classes-cam.png"}
    assert "Where sees looks</h3>" in page
    assert "Not drawn: Flat: no map in space sees visible" in page
    assert "untrained looks" not in page


def test_a_page_without_weights_says_what_the_maps_need(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the report's figures")
    files.write(system("untrained"), tmp_path / "results" / "systems")
    page = write_report(tmp_path / "results", tmp_path, tmp_path / "out", str, networks=lambda s: None).read_text()
    assert "Not drawn: they need the test faces (EDGEFER_DATA) and the trained weights (runs/)." in page
    assert "Gradient-weighted" not in page


def test_each_system_is_shown_faces_of_its_own_set(
    tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thermal ones held out by group; a set that is not there costs its own maps only."""
    rng, groups = np.random.default_rng(0), np.repeat(np.arange(3, dtype=np.int32), 6)
    arrays = {"images": rng.integers(0, 256, (18, 48, 48), np.uint8), "labels": np.arange(18, dtype=np.uint8) % 3}
    classes = np.array(["anger", "fear", "happy"])
    np.savez(data_root / "thermal48.npz", group=groups, classes=classes, **arrays)
    monkeypatch.setattr(compare, "RUNS", tmp_path / "runs")
    for name in ("thermal", "jaffe"):
        file = tmp_path / f"{name}.toml"
        file.write_text(
            f'name = "{name}"\n[data]\nname = "{name}"\ntrain = "all"\nfolds = "group"\n'
            '[model]\nname = "single"\nmodality = "infrared"\nwidths = [8, 8, 8, 8]\n'
        )
        plan = recipe.read(file)
        home = tmp_path / "runs" / name / "fold-1"
        home.mkdir(parents=True)
        made = checkpoint.finished(models.build(plan.model, 3), plan, ("a", "b", "c"), "", {"epochs": 1})
        checkpoint.write(home / "network.pt", made)
    said: list[str] = []
    private, shown = compare.for_maps(tmp_path, said.append)
    assert private is not None
    network, faces = shown(system("thermal"))
    assert isinstance(network, naseem.SingleModality)
    assert faces.classes == ("anger", "fear", "happiness")
    assert len(set(faces.person)) == 1
    assert said == []
    assert shown(system("jaffe")) is None
    assert said[0].startswith("no activation maps of jaffe: ")
    assert shown(system("untrained")) is None
