"""Reads what :mod:`export.train` writes: the averaged weights and where they come from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from export import models
from export.errors import InputError
from export.recipe import Model, Recipe

PREFIX = "module."
"""what torch's AveragedModel puts before every key; beside them it keeps ``n_averaged``"""


@dataclass(frozen=True)
class Trained:
    """model: the fused network in eval mode, float32, on the processor; data: sha256 of the training images."""

    model: nn.Module
    epoch: int
    labels: tuple[str, ...]
    data: str


def read_state(path: Path, where: torch.device | str = "cpu") -> dict[str, Any]:
    """The raw checkpoint: plain containers, tensors and (in the optimiser's rates) NumPy numbers; no code is run."""
    plain = [np.float64(0).__reduce__()[0], np.dtype, type(np.dtype(np.float64))]
    with torch.serialization.safe_globals(plain):
        state: dict[str, Any] = torch.load(path, map_location=where, weights_only=True)
    return state


def load(path: Path, recipe: Recipe) -> Trained:
    """Raises InputError when the file is missing, broken, or belongs to another network than the recipe's."""
    try:
        state = read_state(path)
        labels, made = tuple(state["labels"]), Model.model_validate(state["recipe"]["model"])
        weights = {k.removeprefix(PREFIX): v for k, v in state["average"].items() if k.startswith(PREFIX)}
        epoch, data = int(state["epoch"]), str(state["data"])
    except FileNotFoundError:
        raise InputError(f"{path}: no checkpoint; run `python -m export train` first") from None
    except Exception as e:
        raise InputError(f"{path}: not a checkpoint of this stage ({type(e).__name__}); train again") from None
    if made != recipe.model:
        raise InputError(f"{path}: made with another [model] than recipe {recipe.name}; train again or fix the recipe")
    _, dual = models.build(recipe.model, len(labels))
    try:
        dual.load_state_dict(weights)
    except RuntimeError as e:
        raise InputError(f"{path}: weights do not fit the network ({str(e).splitlines()[0]}); train again") from None
    return Trained(dual.eval(), epoch, labels, data)
