"""The tiny recipe's network with random weights, and what ``quantize`` makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from export import checkpoint, models, quantize, recipe
from export.data import fer2013


def network(plan: recipe.Recipe) -> Any:
    """Random weights and batch norms with statistics, so that folding them is not folding ones and zeros."""
    torch.manual_seed(0)
    made = models.build(plan.model, len(fer2013.LABELS))
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.3, 0.3)
            module.running_var.uniform_(0.5, 2.0)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    return made.eval()


def quantised(world: Path) -> Path:
    """The working folder of ``world``'s recipe after ``quantize``."""
    plan, out, data = recipe.read(world / "tiny.toml"), world / "out", world / "data"
    out.mkdir()
    faces, public = fer2013.load("train", data), fer2013.load("public", data)
    trained = checkpoint.finished(network(plan), plan, faces.classes, faces.fingerprint, {"epochs": 2})
    checkpoint.write(out / "network.pt", trained)
    said: list[str] = []
    quantize.quantize(plan, out / "network.pt", out, faces, public, said.append)
    (out / "said.txt").write_text("\n".join(said))
    return out
