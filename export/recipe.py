"""A recipe: one small TOML file that says everything a training needs besides the data."""

from __future__ import annotations

import sys
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from export.errors import InputError, RecipeError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Model(_Section):
    name: str
    widths: list[int]
    stem_stride: int = 1
    dropout: float = 0.2
    pretrained: str = ""
    """torchvision-style ResNet state dict (.pth) to start the branch from; every tensor that fits is taken"""


class Stage(_Section):
    """One training step. ``sizes`` lists [crop side in pixels, epochs]: early epochs on small crops are cheap."""

    sizes: list[tuple[int, int]]
    lr: float
    warmup: float = 0.1
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
    batch: int = 128
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    ema: float = 0.998
    """decay of the averaged weights, per step"""
    single: Stage
    joined: Stage


class Quantisation(_Section):
    calibration_images: int = 512
    keep_float: list[str] = Field(default_factory=list)
    """name parts of layers that stay in float"""


class Recipe(_Section):
    name: str
    version: str
    seed: int = 1
    crop: int = 48
    template: list[tuple[float, float]] | None = Field(default=None, min_length=5, max_length=5)
    """x, y of right eye, left eye, nose tip, right and left mouth corner in the crop, pixels (`export template`)"""
    model: Model
    training: Training
    quantisation: Quantisation = Quantisation()


def read(path: Path) -> Recipe:
    """Raises InputError when there is no such file, RecipeError naming file and key when it is wrong."""
    try:
        return Recipe.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path}: no such recipe; those that ship are in export/recipes/") from None
    except OSError as e:
        raise InputError(f"{path}: unreadable ({e.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise RecipeError(f"{path}: not valid TOML: {e}") from None
    except ValidationError as e:
        first = e.errors(include_url=False)[0]
        said = "unknown key" if first["type"] == "extra_forbidden" else first["msg"]
        raise RecipeError(f"{path}: '{'.'.join(map(str, first['loc']))}': {said}") from None
