"""A recipe: one small TOML file that says everything a training needs besides the data."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from export.errors import InputError, RecipeError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

REDUCED = Path(__file__).parent / "reduced.toml"
"""what every recipe is trained with under ``--reduced``, so that the systems differ in the network alone"""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Model(BaseModel):
    """``name`` and the options of that network; which there are, the registry says (`export.models`)."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class Augment(_Section):
    """Ranges of the random training views; every probability is per picture or sequence."""

    rotation_deg: float = 12.0
    zoom: float = 0.15
    shift: float = 0.07
    shear: float = 0.0
    """largest slant, pixels sideways per pixel down"""
    distortion: float = 0.0
    """largest move of a corner (perspective), share of the side"""
    contrast: float = 0.3
    dark: float = 0.25
    """probability that the visible lens sees a dark cabin"""
    darkest: float = Field(0.02, gt=0, lt=0.5)
    """least light of a dark cabin, share of daylight"""
    sun: float = Field(0.0, ge=0, le=1)
    """probability that the visible lens, where it is not dark, has the sun on one side"""
    black: float = 0.0
    """probability that one lens is black and nobody has noticed, shared evenly"""
    erase: float = 0.3
    """probability that a patch of both lenses is covered (hand, glasses, mask)"""
    lens_lost: float = 0.4
    """probability that one of the two lenses is dead (modality dropout), shared evenly"""
    misregistered: float = 0.0
    """probability that infrared lies up to 6 % of the side off, beyond what a calibration leaves behind"""
    framed: float = Field(0.0, ge=0, le=1)
    """probability that a face is put on the template by its landmarks first, as on the device (`export.framing`)"""
    mixed: float = Field(0.0, ge=0, le=1)
    """probability that another training face is mixed into one, with up to half the share, and the targets alike"""


class Step(_Section):
    """One training step. ``sizes`` lists [crop side in pixels, epochs]: early epochs on small crops are cheap."""

    name: str = "joined"
    sizes: list[tuple[Annotated[int, Field(ge=8, le=1024)], Annotated[int, Field(ge=1)]]] = Field(min_length=1)
    lr: float = Field(gt=0)
    warmup: float = Field(0.1, ge=0, lt=1)
    """share of the steps in which the rate rises"""

    @property
    def epochs(self) -> int:
        return sum(n for _, n in self.sizes)

    def size_at(self, epoch: int) -> int:
        for size, n in self.sizes:
            if epoch < n:
                return size
            epoch -= n
        raise IndexError(epoch)


class Training(_Section):
    batch: int = Field(128, ge=2)
    optimiser: Literal["sgd", "adam"] = "sgd"
    schedule: Literal["cosine", "plateau"] = "cosine"
    """half a cosine to zero after the warm-up, or a tenth of the rate after five epochs without a better watch; where
    no rows are watched, without a lower training loss"""
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    prior: float = Field(0, ge=0, le=1)
    """what of the classes' frequency in the training rows the answers do not carry; 1: as if all were as frequent.
    Networks with a loss of their own do not know it."""
    ema: float = Field(0.998, ge=0, lt=1)
    """decay of the averaged weights, per step; 0: the last weights are the result"""
    steps: list[Step] = []


class Data(_Section):
    """name: a reader of `export.data`; train, watch and test are splits it knows."""

    name: str = "fer2013"
    train: str = "train"
    watch: str = "public"
    """"": no rows are watched"""
    test: str = "private"
    folds: Literal["", "share", "person", "group"] = ""
    """instead of watch and test: 70/15/15 at random per class (the papers'), ``count`` folds that keep people apart, or
    one group held out at a time. With ``--data`` the set decides, or NAME:person and NAME:group do"""
    count: int = Field(10, ge=2)


class Distil(_Section):
    """Targets softened by networks trained before (`export.distil`)."""

    teachers: list[str] = Field(min_length=1)
    """recipes; those that are not trained yet are trained first"""
    share: float = Field(0.7, ge=0, le=1)
    """of the target that is the teachers' mean, the rest is the label's"""


class Quantisation(_Section):
    calibration_images: int = 512
    keep_float: list[str] = Field(default_factory=list)
    """name parts of layers that stay in float"""
    drop: list[str] = Field(default_factory=list)
    """residual blocks left out of the graphs, by name, as trunk.layer3.2: their shortcut alone stays"""
    watched_images: int = Field(1000, ge=1)
    """watched images (FER2013: PublicTest) on which candidates are compared, each in every state of the lenses"""
    sensitivity_views: int = Field(96, ge=0)
    """watched views on which each convolution's own INT8 noise is measured (TensorRT graph); 0: not measured"""


class Recipe(_Section):
    name: str
    version: str = "1.0.0"
    title: str = ""
    """one line for the report"""
    paper: str = "ours"
    family: Literal["visible", "infrared", "msx", "early", "late", "pixel", "temporal"] = "early"
    """what is fused where, for the light benchmark"""
    role: Literal["system", "ablation", "comparison"] = "system"
    compares_with: str = ""
    """recipe that an ablation or comparison stands beside"""
    change: str = ""
    """what differs from that recipe"""
    note: str = ""
    """why the report has no figures of it, where that is not for want of a training"""
    caveat: str = ""
    """what a reader of its figures must know of how it was made, in whole sentences, for the model card"""
    seed: int = 1
    crop: int = 48
    template: list[tuple[float, float]] | None = Field(default=None, min_length=5, max_length=5)
    """x, y of right eye, left eye, nose tip, right and left mouth corner in the crop, pixels (`export template`)"""
    data: Data = Data()
    model: Model
    start: dict[str, str] = Field(default_factory=dict)
    """part of the network -> recipe whose trained weights it begins with (that recipe is trained first), or a
    torchvision-style ResNet state dict (.pth), of which every tensor that fits is taken. What is frozen must all be
    given: ImageNet's ResNet-18 has the stem of ``stem = 7, stem_stride = 2``"""
    soup: list[str] = Field(default_factory=list)
    """recipes of the same network: it begins with the mean of their trained weights (a name given twice counts twice)
    and has no [start]; Wortsman et al. 2022, "Model soups", section 2"""
    distil: Distil | None = None
    augment: Augment = Augment()
    training: Training = Training()
    quantisation: Quantisation = Quantisation()


def read(path: Path, reduced: bool = False, data: str = "") -> Recipe:
    """Raises InputError when there is no such file, RecipeError naming file and key when it is wrong.

    A table ``[on.NAME]`` holds what changes on another set (``data``, NAME or NAME:person), ``[reduced]`` what changes
    under ``reduced``, on top of what `reduced.toml` changes for all. What was measured on the recipe's own set, its
    template and its caveat, does not hold on another.
    """
    table = _table(path)
    own, on, name = table.pop("reduced", {}), table.pop("on", {}), data.partition(":")[0]
    if name and name != _set(table):
        table = {key: value for key, value in table.items() if key not in ("template", "caveat")}
    table = merged(table, on.get(name, {}))
    if reduced:
        table = merged(merged(table, _table(REDUCED)), own)
    try:
        return Recipe.model_validate(table)
    except ValidationError as e:
        first = e.errors(include_url=False)[0]
        said = "unknown key" if first["type"] == "extra_forbidden" else first["msg"]
        raise RecipeError(f"{path}: '{'.'.join(map(str, first['loc']))}': {said}") from None


def other_seed(recipe: Recipe, asked: int | None) -> int | None:
    """The seed asked for; None where it is the recipe's own, whose runs and results have no seed in their names."""
    return None if asked == recipe.seed else asked


def place(name: str, reduced: bool = False, data: str = "", seed: int | None = None) -> Path:
    """Where a recipe is trained, below ``runs/``; what it starts from lies beside it: of the same size, set, seed."""
    return Path(data, "reduced" if reduced else "", "" if seed is None else f"seed-{seed}", name)


def _set(table: dict[str, Any]) -> Any:
    held = table.get("data")
    return held.get("name", Data().name) if isinstance(held, dict) else Data().name


def _table(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path}: no such recipe; those that ship are in export/recipes/") from None
    except OSError as e:
        raise InputError(f"{path}: unreadable ({e.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise RecipeError(f"{path}: not valid TOML: {e}") from None


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """``over`` wins key by key; tables are merged, everything else is replaced."""
    out = dict(base)
    for key, value in over.items():
        inside = out.get(key)
        out[key] = merged(inside, value) if isinstance(inside, dict) and isinstance(value, dict) else value
    return out
