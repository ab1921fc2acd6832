"""What a training starts from: the right network of another recipe, and nothing that has seen the people held out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from face_files import picture, text

torch = pytest.importorskip("torch", reason="needs the export extra")
for needed in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(needed, reason="needs the export and cpu extras")
from export import __main__ as command  # noqa: E402
from export import budget, checkpoint, provenance, score, train  # noqa: E402
from export.errors import InputError, RecipeError  # noqa: E402
from export.report import files, results  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("default")]
STEP = '[training]\nbatch = 8\nema = 0.0\nsteps = [{ name = "joined", sizes = [[16, 1]], lr = 0.05 }]\n'
ONE = 'name = "one"\ncrop = 16\n[model]\nname = "single"\nwidths = [4, 4, 4, 4]\n' + STEP
PUPIL = ONE.replace('"one"', '"pupil"') + '[distil]\nteachers = ["one"]\n'
EARLY = (
    'name = "early"\ncrop = 16\n[model]\nname = "early-fusion"\nwidths = [4, 4, 4, 4]\nfrozen = true\n'
    '[start]\n"branches.visible.backbone" = "one"\n"branches.infrared.backbone" = "one"\n' + STEP
)
WGAN = """
name = "wgan"
[model]
name = "wgan"
side = 29
epochs = 1
steps = 1
batch = 2
width = 0.1
generator.channels = [2, 2, 2, 2]
"""
PIXEL = """
name = "pixel"
[model]
name = "pixel-fusion"
generator.channels = [2, 2, 2, 2]
classifier.widths = [16, 16, 16, 16]
classifier.stem_stride = 2
[start]
generator = "wgan"
[training]
batch = 8
ema = 0.0
steps = [{ name = "joined", sizes = [[48, 1]], lr = 0.05 }]
"""
FOLDS = '[data]\nname = "ckplus"\ntrain = "all"\nfolds = "person"\ncount = 3\n[model]'
PEOPLE = 10


@pytest.fixture
def recipes(tmp_path: Path, data_root: Path) -> Path:
    """CK+ of ten people, two sequences each, and five recipes on FER2013."""
    rng, n = np.random.default_rng(0), 6 * PEOPLE
    arrays = {
        "images": rng.integers(0, 256, (n, 48, 48), np.uint8), "labels": (np.arange(n) // 3 % 7).astype(np.uint8),
        "subject": np.repeat([f"S{k:03}" for k in range(PEOPLE)], 6), "frame": np.tile(np.arange(1, 4), 2 * PEOPLE),
        "sequence": np.tile(np.repeat(["001", "002"], 3), PEOPLE),
        "classes": np.array(["anger", "contempt", "disgust", "fear", "happy", "sadness", "surprise"]),
    }  # fmt: skip
    np.savez_compressed(data_root / "ckplus48.npz", **arrays)
    folder = tmp_path / "recipes"
    folder.mkdir()
    for content in (ONE, PUPIL, EARLY, WGAN, PIXEL):
        (folder / f"{content.split(chr(34))[1]}.toml").write_text(content)
    return folder


def _on_ckplus(recipes: Path, *names: str, folds: str = FOLDS) -> None:
    """Three folds by person in the recipes' own words."""
    for name in names:
        file = recipes / f"{name}.toml"
        file.write_text(file.read_text().replace("[model]", folds))


def _job(recipes: Path, name: str, data: str = "") -> train.Job:
    return train.Job(recipes / f"{name}.toml", recipes.parent / "runs" / name, data=data)


def _state(path: Path) -> dict[str, Any]:
    return checkpoint.read_state(path)


def test_a_fold_starts_from_the_same_fold_of_its_parents(recipes: Path) -> None:
    said: list[str] = []
    made = train.train(_job(recipes, "early", "ckplus"), said.append)
    assert len(made) == 10
    for k, path in enumerate(made, start=1):
        fused, single = _state(path), _state(recipes.parent / "runs" / "one" / f"fold-{k}" / train.NETWORK)
        assert fused["data"] == single["data"]
        own = {n: v for n, v in single["network"].items() if n.startswith("modal.backbone.")}
        for lens in ("visible", "infrared"):
            at = f"branches.{lens}.backbone."
            assert all(torch.equal(fused["network"][n.replace("modal.backbone.", at)], v) for n, v in own.items())
    assert len({_state(path)["data"] for path in made}) == 10
    assert said.count("early starts from one") == 1


def test_folds_that_are_trained_are_not_trained_again(recipes: Path, silent: Any) -> None:
    _on_ckplus(recipes, "one", "early")
    train.train(_job(recipes, "one"), silent)
    (recipes.parent / "runs" / "one" / "fold-3" / "joined.pt").unlink()
    said: list[str] = []
    train.train(_job(recipes, "early"), said.append)
    assert "early starts from one" not in said
    assert not (recipes.parent / "runs" / "one" / "fold-3" / "joined.pt").is_file()


def test_a_parent_that_has_seen_the_people_held_out_is_refused(recipes: Path, silent: Any) -> None:
    """Its folds were drawn before a file was added, say: other people were held out of each."""
    _on_ckplus(recipes, "one", "early")
    one = recipes.parent / "runs" / "one"
    train.train(_job(recipes, "one"), silent)
    (one / "fold-2" / train.NETWORK).write_bytes((one / "fold-3" / train.NETWORK).read_bytes())
    with pytest.raises(InputError, match=r"fold-2/network\.pt: trained on other rows of ckplus fold-2 .*; delete"):
        train.train(_job(recipes, "early"), silent)


def test_a_teacher_is_that_of_the_fold(recipes: Path) -> None:
    _on_ckplus(recipes, "one", "pupil")
    said: list[str] = []
    assert len(train.train(_job(recipes, "pupil"), said.append)) == 3
    assert sum(line.startswith("teachers agree") for line in said) == 3


def test_a_generator_sees_the_faces_of_its_fold_only_and_its_cost_is_counted(recipes: Path) -> None:
    _on_ckplus(recipes, "wgan", "pixel")
    said, own, its = list[str](), 0.0, 0.0
    made = train.train(_job(recipes, "pixel"), said.append)
    assert len(made) == 3
    for k, path in enumerate(made, start=1):
        generator = _state(recipes.parent / "runs" / "wgan" / f"fold-{k}" / train.NETWORK)
        pixel = _state(path)
        assert generator["data"] == pixel["data"]
        assert torch.equal(pixel["network"]["generator.conv5.weight"], generator["network"]["conv5.weight"])
        own, its = own + pixel["spent"]["cpu"] / 60, its + generator["spent"]["cpu"] / 60
    assert min(own, its) > 0
    assert train.total_cpu(_job(recipes, "pixel")) == pytest.approx(own + its)
    assert f"pixel: {own:.1f} CPU min, {own + its:.1f} with all it starts from" in said


@pytest.mark.parametrize(
    ("parent", "own"),
    [
        ('folds = "person"\ncount = 5', 'folds = "person"\ncount = 4'),
        ('folds = "share"', 'folds = "person"'),
        ('folds = "person"', 'folds = "share"'),
        ('folds = "person"', None),
    ],
)
def test_other_folds_than_the_parents_are_refused(recipes: Path, silent: Any, parent: str, own: str | None) -> None:
    """None: the recipe is on FER2013 and its parent has ten networks, none of which is the one to start from."""
    for name, folds in (("one", parent), ("early", own)):
        if folds:
            _on_ckplus(recipes, name, folds=f'[data]\nname = "ckplus"\ntrain = "all"\n{folds}\n[model]')
    with pytest.raises(RecipeError, match=r"recipe early: 'data\.folds': not those of one, which it starts from"):
        train.train(_job(recipes, "early"), silent)


def test_weights_of_another_set_start_every_fold(recipes: Path, silent: Any) -> None:
    _on_ckplus(recipes, "early")
    assert len(train.train(_job(recipes, "early"), silent)) == 3
    assert (recipes.parent / "runs" / "one" / train.NETWORK).is_file()


def _imagenet(path: Path) -> Path:
    """A file in torchvision's form: ResNet-18's keys, three colours in the stem."""
    from export.models.resnet import ResNet

    donor = {k: torch.rand_like(v) for k, v in ResNet([4, 4, 4, 4], 2, 7).state_dict().items() if v.is_floating_point()}
    torch.save({**donor, "conv1.weight": torch.rand(4, 3, 7, 7)}, path)
    return path


def _one_step(recipes: Path, given: Path, model: str) -> train.Job:
    """1-step training from a file for the visible backbone, from a recipe for the other."""
    early = EARLY.replace('"branches.visible.backbone" = "one"', f'"branches.visible.backbone" = "{given}"')
    (recipes / "early.toml").write_text(early.replace("frozen = true", model))
    return _job(recipes, "early")


def test_a_stem_that_a_file_does_not_fit_is_not_frozen_as_it_was_drawn(recipes: Path, silent: Any) -> None:
    given = _imagenet(recipes.parent / "resnet18.pth")
    refused = r"'start\.branches\.visible\.backbone' gives no branches\.visible\.backbone\.conv1\.weight of this shape"
    with pytest.raises(RecipeError, match=refused + r", .*stem = 7, stem_stride = 2\), or do not freeze it"):
        train.train(_one_step(recipes, given, "frozen = true"), silent)
    assert train.train(_one_step(recipes, given, "frozen = false"), silent)


def test_a_file_with_the_networks_stem_is_frozen_as_it_is(recipes: Path, silent: Any) -> None:
    given = _imagenet(recipes.parent / "resnet18.pth")
    (recipes / "one.toml").write_text(ONE.replace("widths", "stem = 7\nstem_stride = 2\nwidths"))
    (path,) = train.train(_one_step(recipes, given, "frozen = true\nstem = 7\nstem_stride = 2"), silent)
    made, held = _state(path)["network"], torch.load(given)
    stem = made["branches.visible.backbone.conv1.weight"]
    assert torch.equal(stem, held["conv1.weight"].sum(dim=1, keepdim=True))
    assert torch.equal(made["branches.visible.backbone.layer4.1.conv2.weight"], held["layer4.1.conv2.weight"])
    assert torch.equal(made["branches.visible.backbone.bn1.running_mean"], held["bn1.running_mean"])
    assert train.total_cpu(_job(recipes, "one")) is not None
    assert train.total_cpu(_job(recipes, "early")) is None  # who knows what ImageNet's weights cost


def test_what_is_frozen_must_be_given_by_something(recipes: Path, silent: Any) -> None:
    (recipes / "pixel.toml").write_text(PIXEL.replace('[start]\ngenerator = "wgan"\n', ""))
    with pytest.raises(RecipeError, match=r"'start' gives no generator\.conv1\.bias of this shape and 9 more"):
        train.train(_job(recipes, "pixel"), silent)


def _nvie(root: Path, people: int) -> None:
    """Eight samples a person, both lenses; the expressions take turns."""
    rows = [f"s{k},P{k // 8},{('happy', 'fear', 'disgust')[k % 3]},1.5" for k in range(8 * people)]
    text(root / "nvie" / "labels.csv", "\n".join(["sample,subject,expression,intensity", *rows]))
    for k in range(len(rows)):
        for lens in ("visible", "infrared"):
            picture(root / "nvie" / lens / f"s{k}.png", 40 + k, (16, 16))


def test_real_pairs_are_trained_and_scored_in_folds_by_person(
    recipes: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The paper's own schedule on NVIE is that of its folds, too; the papers' split says what it mixes."""
    _nvie(data_root, 3)
    monkeypatch.chdir(recipes.parent)
    file = recipes / "early.toml"
    file.write_text(EARLY + '[on.nvie.training]\nschedule = "plateau"\n')
    more = [str(file), "--threads", "1", "--data"]
    assert command.main(["train", *more, "nvie:group"]) == 0
    told = capsys.readouterr().err
    assert "no rows are watched" in told
    assert "both trained on and tested on" not in told
    assert command.main(["score", *more, "nvie:group"]) == 0
    found = files.read_one(Path("runs/nvie:group/early/early-on-nvie-group.json"), results.System)
    assert [fold.images for fold in found.folds] == [8, 8, 8]
    assert found.protocol.startswith("one group held out at a time")
    assert command.main(["train", *more, "nvie"]) == 0
    assert "nvie: 3 people are both trained on and tested on; --data nvie:person keeps" in capsys.readouterr().err


@pytest.fixture
def soup(recipes: Path) -> Path:
    """Recipes "two", as "one" of another seed, and "soup", a third of "one" and two of "two"."""
    (recipes / "two.toml").write_text(ONE.replace('"one"', '"two"\nseed = 2'))
    file = recipes / "soup.toml"
    file.write_text('soup = ["one", "two", "two"]\n' + ONE.replace('"one"', '"soup"').replace(STEP, ""))
    return file


def test_a_soup_is_the_mean_of_what_was_trained(recipes: Path, soup: Path, silent: Any) -> None:
    said: list[str] = []
    (path,) = train.train(_job(recipes, "soup"), said.append)
    assert any(re.fullmatch(r"soup: mean of one, two, two, watch \d+\.\d\d%", line) for line in said)
    one, two, mean = (_state(path.parents[1] / name / train.NETWORK)["network"] for name in ("one", "two", "soup"))
    moved = [key for key in one if one[key].is_floating_point() and not torch.equal(one[key], two[key])]
    assert "fc.weight" in moved
    for key in moved:
        torch.testing.assert_close(mean[key], (one[key] + 2 * two[key]) / 3)
    found = score.score(_job(recipes, "soup"), silent)
    assert found.training.starts_from == ("one", "two")
    assert (found.training.epochs, found.training.images_seen) == (0, 0)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("widths = [4,", "widths = [8,", r"soup\.toml: 'soup': one has another \[model\]"),
        ("[model]", '[start]\n"" = "one"\n[model]', r"'soup': all weights are its mean, nothing is left for \[start\]"),
        ('"single"', '"late-fusion"', r"'soup': late-fusion settles a part in closed form; its mean is none"),
    ],
)
def test_a_soup_that_cannot_be_is_refused_before_anything_is_trained(
    recipes: Path, soup: Path, silent: Any, old: str, new: str, said: str
) -> None:
    soup.write_text(soup.read_text().replace(old, new))
    with pytest.raises(RecipeError, match=said):
        train.train(_job(recipes, "soup"), silent)
    assert not (recipes.parent / "runs").exists()


def test_only_a_soup_that_is_trained_on_may_have_seen_other_rows(recipes: Path, soup: Path, silent: Any) -> None:
    two = recipes / "two.toml"
    two.write_text(two.read_text().replace("[model]", '[data]\ntrain = "public"\n[model]'))
    with pytest.raises(InputError, match=r"two/network\.pt: trained on other rows than the recipe's"):
        train.train(_job(recipes, "soup"), silent)
    soup.write_text(soup.read_text() + STEP)
    (path,) = train.train(_job(recipes, "soup"), silent)
    soup.write_text(soup.read_text().replace(STEP, ""))
    state = _state(path)
    checkpoint.write(path, {**state, "data": "of other rows"})
    with pytest.raises(InputError, match="trained on other data than fer2013"):
        score.score(_job(recipes, "soup"), silent)


def test_a_soup_takes_no_network_read_back_from_a_bundle_and_none_of_other_classes(
    recipes: Path, soup: Path, silent: Any
) -> None:
    train.train(_job(recipes, "soup"), silent)
    path = recipes.parent / "runs" / "two" / train.NETWORK
    state = _state(path)
    checkpoint.write(path, {**state, "labels": state["labels"][::-1]})
    with pytest.raises(InputError, match=r"two/network\.pt: tells apart neutral, surprise"):
        train.train(_job(recipes, "soup"), silent)
    checkpoint.write(path, {**state, "spent": {**state["spent"], "restored": "tiny@0.0.1"}})
    with pytest.raises(InputError, match=r"two/network\.pt: read back from the bundle tiny@0\.0\.1"):
        train.train(_job(recipes, "soup"), silent)


def test_a_soup_does_not_go_on_with_another_ones_training_nor_keep_its_curve(
    recipes: Path, soup: Path, silent: Any
) -> None:
    whole = soup.read_text() + STEP
    soup.write_text(whole)
    (path,) = train.train(_job(recipes, "soup"), silent)
    assert len(provenance.curve(path.parent)) == 1
    soup.write_text(whole.replace('"one", "two", "two"', '"one", "two"'))
    with pytest.raises(InputError, match="begun with another soup"):
        train.train(_job(recipes, "soup"), silent)
    soup.write_text(soup.read_text().replace(STEP, ""))
    train.train(_job(recipes, "soup"), silent)
    assert provenance.curve(path.parent) == ()


def test_a_soup_by_folds_is_of_the_same_folds(recipes: Path, soup: Path, silent: Any) -> None:
    _on_ckplus(recipes, "one", "two", "soup")
    two = recipes / "two.toml"
    two.write_text(two.read_text().replace("seed = 2", "seed = 1").replace("lr = 0.05", "lr = 0.01"))
    made = train.train(_job(recipes, "soup"), silent)
    assert [path.parent.name for path in made] == ["fold-1", "fold-2", "fold-3"]
    for path in made:
        one, two_, mean = (
            _state(recipes.parent / "runs" / name / path.parent.name / train.NETWORK)["network"]["fc.weight"]
            for name in ("one", "two", "soup")
        )
        torch.testing.assert_close(mean, (one + 2 * two_) / 3)


def test_a_soup_has_half_of_a_budget_as_all_that_is_made_of_trained_parts(recipes: Path, soup: Path) -> None:
    assert [budget.allowed(40, _job(recipes, name).recipe) for name in ("one", "early", "soup")] == [40, 20, 20]
