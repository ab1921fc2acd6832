"""``python -m export train RECIPE``: two steps (one branch alone, then both joined), restartable after every epoch.

Three-step training of Naseem et al. 2024 with the first two steps shared: one branch is trained on crops of either
lens, both branches start from it, then everything is fine-tuned jointly with modality dropout.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from export import checkpoint, models
from export.data import augment, fer2013
from export.models.resnet import start_from_file
from export.recipe import Recipe, Stage

Batch = tuple[Tensor, Tensor, Tensor, Tensor]
Forward = Callable[[nn.Module, Batch], tuple[Tensor, Tensor]]


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def precision() -> torch.dtype:
    """bfloat16 where the processor multiplies it natively (2.3 times faster on AVX512-BF16), else float32."""
    if torch.cuda.is_available() or (torch.backends.cpu.get_cpu_capability() == "AVX512" and _has_bf16()):
        return torch.bfloat16
    return torch.float32


def _has_bf16() -> bool:
    try:
        return "avx512_bf16" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def single_lens(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Alternate rows show the visible and the infrared lens."""
    visible, infrared, _, label = batch
    x = visible.clone()
    x[1::2] = infrared[1::2]
    return model(x), label


def both_lenses(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    visible, infrared, present, label = batch
    return model(visible, infrared, present), label


class Trainer:
    """One training step of the recipe: optimiser, schedule, averaged weights, checkpoint."""

    def __init__(self, stage: str, plan: Stage, recipe: Recipe, model: nn.Module, forward: Forward, out: Path) -> None:
        t = recipe.training
        self.stage, self.plan, self.recipe, self.forward, self.out = stage, plan, recipe, forward, out
        self.model = model.to(device(), memory_format=torch.channels_last)
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(t.ema), use_buffers=True)
        decayed = [p for p in model.parameters() if p.ndim > 1]
        plain = [p for p in model.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": t.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self.optimiser = torch.optim.SGD(groups, lr=plan.lr, momentum=t.momentum, nesterov=True)
        self.epoch = 0

    @property
    def path(self) -> Path:
        return self.out / f"{self.stage}.pt"

    def run(self, train: fer2013.Faces, check: fer2013.Faces, say: Callable[[str], None]) -> nn.Module:
        self._resume(say)
        while self.epoch < self.plan.epochs:
            started = time.monotonic()
            loss = self._epoch(train, say)
            accuracy = self.accuracy(check)
            self.epoch += 1
            self._save(train)
            seconds = time.monotonic() - started
            self._log(epoch=self.epoch, loss=round(loss, 4), public=round(accuracy, 4), seconds=round(seconds, 1))
            done = f"{self.stage} {self.epoch}/{self.plan.epochs}"
            say(f"{done}: loss {loss:.3f}, public {accuracy:.2%}, {seconds:.0f} s")
        return self.average.module

    def _epoch(self, faces: fer2013.Faces, say: Callable[[str], None]) -> float:
        self.model.train()
        torch.manual_seed(self.recipe.seed * 100_003 + self.epoch)  # dropout repeats itself after a restart
        lost = 0.0 if self.stage == "single" else augment.Augment.lens_lost
        views = augment.Augment(size=self.plan.size_at(self.epoch), lens_lost=lost)
        seed = self.recipe.seed + (0 if self.stage == "single" else 1000)
        loader = _loader(augment.PairDataset(faces, views, seed, self.epoch), self.recipe, self.epoch)
        total, steps, shown = 0.0, len(loader), time.monotonic()
        criterion = nn.CrossEntropyLoss(label_smoothing=self.recipe.training.label_smoothing)
        for k, batch in enumerate(loader):
            self._rate((self.epoch + k / steps) / self.plan.epochs)
            with torch.autocast(device().type, dtype=precision(), enabled=precision() != torch.float32):
                logits, label = self.forward(self.model, _on_device(batch))
                loss = criterion(logits.float(), label)
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            self.optimiser.step()
            self.average.update_parameters(self.model)
            total += float(loss.detach())
            if time.monotonic() - shown > 10:
                shown = time.monotonic()
                say(f"\r{self.stage} {self.epoch + 1}/{self.plan.epochs}: {k / steps:4.0%}, loss {total / (k + 1):.3f}")
        return total / steps

    def _rate(self, progress: float) -> None:
        """Linear warm-up, then half a cosine to zero; ``progress`` runs from 0 to 1 over the whole step."""
        w = self.plan.warmup
        factor = progress / w if progress < w else 0.5 * (1 + math.cos(math.pi * (progress - w) / (1 - w)))
        for group in self.optimiser.param_groups:
            group["lr"] = self.plan.lr * max(float(factor), 1e-3)

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def accuracy(self, faces: fer2013.Faces) -> float:
        """Top-1 of the averaged weights, clean visible crops (and simulated infrared when both are seen).

        The crops have the side this epoch trains at: the network has seen no other yet.
        """
        net = self.average.eval()
        infrared = augment.simulated_infrared(faces.images, seed=self.recipe.seed)
        images, infrared = (_resized(x, self.plan.size_at(self.epoch)) for x in (faces.images, infrared))
        right = 0
        for s in range(0, len(faces), 256):
            part = slice(s, s + 256)
            v, i = (torch.from_numpy(x[part])[:, None] for x in (images, infrared))
            label = torch.from_numpy(faces.labels[part])
            with torch.autocast(device().type, dtype=precision(), enabled=precision() != torch.float32):
                if self.stage == "single":
                    logits = net(v.to(device()))
                else:
                    logits = net(*(x.to(device()) for x in (v, i, torch.ones(len(v), 2))))
            right += int((logits.argmax(1).cpu() == label).sum())
        return right / len(faces)

    def _save(self, train: fer2013.Faces) -> None:
        """Whole or not at all: a temporary name, then rename."""
        state = {
            "epoch": self.epoch, "model": self.model.state_dict(), "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(), "recipe": self.recipe.model_dump(mode="json"),
            "labels": list(fer2013.LABELS), "data": train.fingerprint, "augment": asdict(augment.Augment()),
        }  # fmt: skip
        part = self.path.with_suffix(".part")
        torch.save(state, part)
        os.replace(part, self.path)

    def _resume(self, say: Callable[[str], None]) -> None:
        if not self.path.is_file():
            return
        state = checkpoint.read_state(self.path, device())
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.epoch = state["epoch"]
        say(f"{self.stage}: goes on after epoch {self.epoch} ({self.path})")

    def _log(self, **row: Any) -> None:
        with (self.out / "training.jsonl").open("a") as f:
            f.write(json.dumps({"stage": self.stage, **row}) + "\n")


def _on_device(batch: list[Tensor]) -> Batch:
    v, i, p, y = (x.to(device(), non_blocking=True) for x in batch)
    return v, i, p, y


def _resized(images: augment.U8, side: int) -> augment.U8:
    """uint8 [N, H, W] -> uint8 [N, side, side]."""
    if images.shape[1] == side:
        return images
    return np.stack([cv2.resize(x, (side, side), interpolation=cv2.INTER_AREA) for x in images])


def _loader(data: augment.PairDataset, recipe: Recipe, epoch: int) -> DataLoader[Any]:
    order = torch.Generator().manual_seed(recipe.seed * 100_003 + epoch)
    workers: dict[str, int] = {"num_workers": 1, "prefetch_factor": 8}
    if len(data) < 1000:  # a process costs more than it saves
        workers = {}
    return DataLoader(data, recipe.training.batch, shuffle=True, generator=order, drop_last=True, **workers)


def train(recipe: Recipe, out: Path, say: Callable[[str], None]) -> Path:
    """Both steps; returns the checkpoint of the fused network, whose ``average`` weights are the result."""
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    faces, check = fer2013.load("train"), fer2013.load("public")
    where = f"{device()} {precision()}, threads {torch.get_num_threads()}"
    say(f"{len(faces)} training faces, {len(check)} to watch, {where}")
    single, dual = models.build(recipe.model, len(fer2013.LABELS))
    if recipe.model.pretrained:
        taken = start_from_file(single.branch, Path(recipe.model.pretrained))
        say(f"{taken} tensors from {recipe.model.pretrained}")
    first = Trainer("single", recipe.training.single, recipe, single, single_lens, out)
    dual.start_from(first.run(faces, check, say))
    second = Trainer("joined", recipe.training.joined, recipe, dual, both_lenses, out)
    second.run(faces, check, say)
    return second.path
