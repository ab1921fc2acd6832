"""A soup: a network that begins with the mean of others' weights, trained on from the same ones in different ways.

Wortsman et al. 2022, "Model soups" (arXiv 2203.05482), section 2, the uniform soup: one network, in one pass, that
often answers better than each of them, as long as they lie close to each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from export import checkpoint, models
from export.errors import InputError, RecipeError
from export.models.network import Network
from export.recipe import Recipe


def check(recipe: Recipe, members: Sequence[Recipe], file: Path) -> None:
    """Before anything is trained. Raises RecipeError where ``recipe``, of ``file``, cannot be the members' mean."""
    if recipe.soup and recipe.start:
        raise RecipeError(f"{file}: 'soup': all weights are its mean, nothing is left for [start]; take one out")
    if recipe.soup and hasattr(models.entry(recipe.model).make, "complete"):
        raise RecipeError(f"{file}: 'soup': {recipe.model.name} settles a part in closed form; its mean is none")
    for member in members:
        if member.model != recipe.model:
            raise RecipeError(f"{file}: 'soup': {member.name} has another [model]; give all of them the same")


def begin(network: Network, paths: Sequence[Path], classes: tuple[str, ...], rows: str) -> None:
    """Give ``network`` the mean of finished ones' weights and of their batch norms' statistics.

    classes: what all of them tell apart, in order; rows: fingerprint of those that all have been trained on, "" where
    that does not matter. Raises InputError naming the first that differs, or that was read back from a bundle: its
    batch norms share the work with its convolutions in another way.
    """
    own = network.state_dict()
    mean = {key: torch.zeros_like(tensor, dtype=torch.float64) for key, tensor in own.items()}
    for path in paths:
        checkpoint.check_trained(path)
        state = checkpoint.finished_state(path)
        if rows and state["data"] != rows:
            raise InputError(f"{path}: trained on other rows than the recipe's; a soup without steps is of one set")
        if tuple(state["labels"]) != classes:
            raise InputError(f"{path}: tells apart {', '.join(state['labels'])}, the recipe {', '.join(classes)}")
        for key, tensor in state["network"].items():
            mean[key] += tensor.double() / len(paths)
    network.load_state_dict({key: tensor.to(own[key].dtype) for key, tensor in mean.items()})
