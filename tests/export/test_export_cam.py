"""Activation maps of networks whose reasons are known because they were made by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the export extra")
pytest.importorskip("cv2", reason="needs the cpu extra")
from report_samples import mode, system  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from export.data.faces import Faces  # noqa: E402
from export.errors import UsageError  # noqa: E402
from export.models.network import Network  # noqa: E402
from export.report import cam, results, write_report  # noqa: E402

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
    for recipe in ("sees", "blind", "untrained"):
        one = system(recipe, labels=("left", "right"), modes={"both": mode_of_two}, simulated="the infrared lens")
        results.write(one, tmp_path / "results" / "systems")
    results.write(system("other-classes"), tmp_path / "results" / "systems")
    asked: list[str] = []

    def networks(found: results.System) -> Network | None:
        asked.append(found.key)
        return {"sees": Halves(), "blind": Flat()}.get(found.recipe)

    out = tmp_path / "out"
    page = write_report(tmp_path / "results", tmp_path, out, lambda line: None, _faces(), networks).read_text()
    assert asked == ["blind", "sees", "untrained"]
    assert [p.name for p in (out / "figures").glob("*-cam.png")] == ["sees-cam.png"]
    assert "Where sees looks</h3>" in page
    assert "Not drawn: Flat: no map sees the visible lens" in page
    assert "untrained looks" not in page
