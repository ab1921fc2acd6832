"""What a training leaves behind: the averaged weights and where they come from."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from export import models
from export.errors import InputError, RecipeError
from export.models.network import Network
from export.recipe import Model, Recipe


@dataclass(frozen=True)
class Trained:
    """model: the network in eval mode, float32, on the processor; data: sha256 of the training images;
    spent: cpu and wall seconds, rows seen, epochs, budget in minutes or None."""

    model: Network
    epoch: int
    labels: tuple[str, ...]
    data: str
    spent: dict[str, Any]


def write(path: Path, state: dict[str, Any]) -> None:
    """Whole or not at all: a temporary name, then rename."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, path)


def write_text(path: Path, text: str) -> None:
    """Whole or not at all, for what lies beside the checkpoints."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def finished(
    network: nn.Module, recipe: Recipe, labels: tuple[str, ...], data: str, spent: dict[str, Any]
) -> dict[str, Any]:
    """What :func:`load` and :func:`start` read; data: fingerprint of the training rows."""
    return {
        "network": network.state_dict(), "recipe": recipe.model_dump(mode="json"), "epoch": int(spent["epochs"]),
        "labels": list(labels), "data": data, "spent": spent,
    }  # fmt: skip


def start(network: Network, part: str, path: Path) -> frozenset[str]:
    """Give a part of ``network`` (all of it: "") the weights of a finished one, where names and shapes fit.

    Of all modules of the finished network that one is taken of which most fits; among equals the one of the part's own
    name, then one of a lens that ``network`` looks at. Returns the names in the part of the tensors taken; raises
    InputError when none of them is a matrix or a kernel, RecipeError when ``network`` has no such part.
    """
    given = finished_state(path)["network"]
    module = submodule(network, part)
    given = _grown(module, given, path)
    own, name = module.state_dict(), part.rpartition(".")[2]
    inside = {".".join(key.split(".")[:depth]) for key in given for depth in range(key.count(".") + 1)}
    found = {place: _fitting(given, place, own) for place in sorted(inside)}

    def rank(place: str) -> tuple[int, bool, bool]:
        return len(found[place]), place.rpartition(".")[2] == name, bool(set(network.uses) & set(place.split(".")))

    best = max(found, key=rank)
    if not any(v.ndim > 1 for v in found[best].values()):
        raise InputError(f"{path}: nothing in it fits '{part}'; check [start] of the recipe")
    module.load_state_dict(found[best], strict=False)
    return frozenset(found[best])


def check_frozen(network: Network, recipe: Recipe, given: set[str]) -> None:
    """What no step of the recipe trains must have been given: it would stay as it was drawn, and nobody would see it.

    given: names of the tensors that [start] or a soup brought. Raises RecipeError naming the first that is missing.
    """
    missing = sorted(_untrained(network, recipe) - given)
    if not missing:
        return
    places = [p for p in recipe.start if not p or missing[0].startswith(f"{p}.")]
    key = f"start.{max(places, key=len)}" if places else "start"
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    raise RecipeError(
        f"recipe {recipe.name}: '{key}' gives no {missing[0]} of this shape{more}, which frozen would stay random; "
        "set [model] as what is given has it (torchvision's ResNet-18: stem = 7, stem_stride = 2), or do not freeze it"
    )


def _untrained(network: Network, recipe: Recipe) -> set[str]:
    """Tensors of the modules that no step trains: parameters, and the statistics beside them."""
    steps, probe = recipe.training.steps, copy.deepcopy(network)
    for step in steps:
        probe.begin(step.name)
    still = {n.rpartition(".")[0] for n, p in probe.named_parameters() if not (steps and p.requires_grad)}
    return {k for k, v in probe.state_dict().items() if v.is_floating_point() and k.rpartition(".")[0] in still}


def _grown(module: nn.Module, given: dict[str, Any], path: Path) -> dict[str, Any]:
    """``given`` made as large as ``module`` where that is a network which knows how, and has the same parts."""
    own = module.state_dict()
    if (
        not hasattr(module, "grown")
        or not given.keys() <= own.keys()
        or not _fitting(given, "", own).keys() < given.keys()
    ):
        return given
    try:
        return module.grown(given)
    except ValueError as e:
        raise InputError(f"{path}: {e}; give the recipe widths at least as large") from None


def submodule(network: nn.Module, part: str) -> nn.Module:
    """Raises RecipeError naming what there is when ``network`` has no such part."""
    try:
        return network.get_submodule(part)
    except AttributeError:
        known = ", ".join(name for name, _ in network.named_children())
        raise RecipeError(f"recipe: 'start.{part}': the network has no such part; at its top: {known}") from None


def _fitting(given: dict[str, Any], place: str, own: dict[str, Any]) -> dict[str, Any]:
    head = f"{place}." if place else ""
    cut = {k.removeprefix(head): v for k, v in given.items() if k.startswith(head)}
    return {k: v for k, v in cut.items() if k in own and v.shape == own[k].shape}


def read_state(path: Path, where: torch.device | str = "cpu") -> dict[str, Any]:
    """The raw checkpoint: plain containers, tensors and (in the optimiser's rates) NumPy numbers; no code is run."""
    plain = [np.float64(0).__reduce__()[0], np.dtype, type(np.dtype(np.float64))]
    with torch.serialization.safe_globals(plain):
        state: dict[str, Any] = torch.load(path, map_location=where, weights_only=True)
    return state


def finished_state(path: Path) -> dict[str, Any]:
    """What :func:`finished` made, as it was written. Raises InputError when there is none."""
    try:
        state = read_state(path)
        if not {"network", "recipe", "labels", "data", "spent"} <= set(state):
            raise ValueError
    except FileNotFoundError:
        raise InputError(f"{path}: no checkpoint; run `python -m export train` first") from None
    except Exception as e:
        raise InputError(f"{path}: not a checkpoint of this stage ({type(e).__name__}); train again") from None
    return state


def step_state(path: Path, where: torch.device | str) -> dict[str, Any]:
    """The checkpoint of a training step. Raises InputError when it is torn or none."""
    try:
        state = read_state(path, where)
        if not {"epoch", "model", "average", "optimiser", "recipe", "data", "cpu"} <= set(state):
            raise ValueError
    except Exception as e:
        raise InputError(
            f"{path}: not a checkpoint of this stage ({type(e).__name__}); delete it to begin anew"
        ) from None
    return state


def trained_on(path: Path) -> str:
    """Fingerprint of the rows that a finished network has seen. Raises InputError when there is none."""
    return str(finished_state(path)["data"])


def check_seed(path: Path, seed: int) -> None:
    """Raises InputError where a finished network was trained with another seed."""
    if (was := finished_state(path)["recipe"].get("seed", seed)) != seed:
        raise InputError(f"{path}: trained with seed {was}, not {seed}; choose another --out or delete that folder")


def check_trained(path: Path) -> None:
    """Raises InputError where a network was read back from a bundle (`export.restore`): it is not the recipe's own."""
    if was := spent(path).get("restored"):
        raise InputError(
            f"{path}: read back from the bundle {was}, not trained here; train a recipe that starts from it, or "
            "measure that bundle with `evaluate --bundle`"
        )


def spent(path: Path) -> dict[str, Any]:
    """What a finished network cost (:class:`Trained`). Raises InputError when there is none."""
    return dict(finished_state(path)["spent"])


def load(path: Path, recipe: Recipe) -> Trained:
    """Raises InputError when the file is missing, broken, or belongs to another network than the recipe's."""
    state = finished_state(path)
    if Model.model_validate(state["recipe"]["model"]) != recipe.model:
        raise InputError(f"{path}: made with another [model] than recipe {recipe.name}; train again or fix the recipe")
    labels = tuple(state["labels"])
    network = models.build(recipe.model, len(labels))
    try:
        network.load_state_dict(state["network"])
    except RuntimeError as e:
        raise InputError(f"{path}: weights do not fit the network ({str(e).splitlines()[0]}); train again") from None
    return Trained(network.eval(), int(state["epoch"]), labels, str(state["data"]), state["spent"])
