"""One training step of a recipe: optimiser, schedule, averaged weights, a checkpoint after every epoch."""

from __future__ import annotations

import math
import os
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from export import checkpoint, curve
from export.data import augment
from export.data.faces import U8, Faces
from export.errors import InputError
from export.models.network import Batch, Network, one_branch
from export.recipe import Recipe, Step

Say = Callable[[str], None]


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


def autocast() -> Any:
    return torch.autocast(device().type, dtype=precision(), enabled=precision() != torch.float32)


def machine() -> dict[str, Any]:
    """processor (by the name its maker gives it), cores, accelerator: what a results file says of the training."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return {"processor": named[0] if named else "unknown", "cores": os.cpu_count() or 1, "accelerator": accelerator}


def cpu_seconds() -> float:
    """Processor time of this process and of its finished children (the loaders of finished epochs)."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


class Trainer:
    """Trains ``network`` through one step; what has been done before is taken from the step's checkpoint."""

    def __init__(self, step: Step, recipe: Recipe, network: Network, out: Path) -> None:
        self.step, self.recipe, self.out = step, recipe, out
        network.begin(step.name)
        self.network: Any = network.to(device(), memory_format=torch.channels_last)
        self.average = AveragedModel(network, multi_avg_fn=_averaging(recipe.training.ema), use_buffers=True)
        self.optimiser = self._optimiser()
        self.epoch, self.cpu, self.wall, self.rows = 0, 0.0, 0.0, 0
        self.watched: list[float] = []
        self.losses: list[float] = []

    def _optimiser(self) -> torch.optim.Optimizer:
        t = self.recipe.training
        moved = [p for _, p in self.network.trainable(self.step.name)]
        groups = [
            {"params": [p for p in moved if p.ndim > 1], "weight_decay": t.weight_decay},
            {"params": [p for p in moved if p.ndim <= 1], "weight_decay": 0.0},
        ]
        if t.optimiser == "adam":
            return torch.optim.Adam(groups, lr=self.step.lr)
        return torch.optim.SGD(groups, lr=self.step.lr, momentum=t.momentum, nesterov=t.momentum > 0)

    @property
    def path(self) -> Path:
        return step_file(self.out, self.step)

    def run(self, train: Faces, check: Faces | None, say: Say) -> None:
        """Every epoch that is left; then the network holds the averaged weights."""
        self._resume(train, say)
        curve.keep(self.out, self._backed)
        self.network.prior = self.recipe.training.prior * torch.from_numpy(train.log_frequency()).to(device())
        if check is None and self.recipe.training.schedule == "plateau":
            say(f"{self.step.name}: no rows are watched; the rate falls when the training loss stops falling")
        while self.epoch < self.step.epochs:
            cpu, wall = cpu_seconds(), time.monotonic()
            loss = self._epoch(train, say)
            self.losses.append(loss)
            if check is not None:
                self.watched.append(self.accuracy(check))
            self.epoch += 1
            self.cpu += cpu_seconds() - cpu
            self.wall += time.monotonic() - wall
            self._log(loss)
            self._save(train)
            done = f"{self.step.name} {self.epoch}/{self.step.epochs}"
            watched = f", watch {self.watched[-1]:.2%}" if self.watched else ""
            say(f"{done}: loss {loss:.3f}{watched}, {self.cpu / 60:.1f} CPU min so far")
        self.network.prior = 0.0
        if self.recipe.training.ema:
            self.network.load_state_dict(self.average.module.state_dict())

    def _epoch(self, faces: Faces, say: Say) -> float:
        self.network.train()
        torch.manual_seed(self.recipe.seed * 100_003 + self.epoch)  # dropout repeats itself after a restart
        loader = self.loader(faces)
        total, steps, shown = 0.0, len(loader), time.monotonic()
        for k, batch in enumerate(loader):
            self._rate((self.epoch + k / steps) / self.step.epochs)
            total += self.learn(batch)
            if time.monotonic() - shown > 10:
                shown = time.monotonic()
                done = f"{self.step.name} {self.epoch + 1}/{self.step.epochs}: {k / steps:4.0%}"
                say(f"\r{done}, loss {total / (k + 1):.3f}")
        self.rows += steps * self.recipe.training.batch
        return total / max(1, steps)

    def learn(self, batch: list[Tensor]) -> float:
        """One step of the optimiser; returns the loss."""
        with autocast():
            loss = self.network.loss(on_device(batch), self.step.name, self.recipe.training.label_smoothing)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        self.average.update_parameters(self.network)
        return float(loss.detach())

    def loader(self, faces: Faces) -> DataLoader[Any]:
        r, name = self.recipe, self.step.name
        either = not self.network.needs and not one_branch(name)
        ranges = r.augment if either else r.augment.model_copy(update={"lens_lost": 0.0})
        seed = r.seed + (0 if one_branch(name) else 1000)
        size = self.step.size_at(self.epoch)
        data = augment.PairDataset(faces, size, self.network.uses, ranges, seed, self.epoch)
        order = torch.Generator().manual_seed(r.seed * 100_003 + self.epoch)
        workers: dict[str, int] = {"num_workers": 1, "prefetch_factor": 8}
        if len(data) < 2000:  # a process costs more than it saves
            workers = {}
        batch = min(r.training.batch, len(data))
        return DataLoader(data, batch, shuffle=True, generator=order, drop_last=True, **workers)

    def _rate(self, progress: float) -> None:
        """``progress`` runs from 0 to 1 over the whole step: linear warm-up, then half a cosine to zero or plateaus.

        Plateaus are judged on the watched accuracy; where no rows are watched (folds, a set without such a split) on
        the training loss.
        """
        w = self.step.warmup
        if progress < w:
            factor = progress / w
        elif self.recipe.training.schedule == "cosine":
            factor = 0.5 * (1 + math.cos(math.pi * (progress - w) / (1 - w)))
        else:
            factor = curve.plateau_factor(self.watched or [-loss for loss in self.losses])
        for group in self.optimiser.param_groups:
            group["lr"] = self.step.lr * max(factor, 1e-3)

    def accuracy(self, faces: Faces) -> float:
        """Top-1 of the averaged weights on undisturbed crops, of the side this epoch trained at."""
        net = self.average.module if self.recipe.training.ema else self.network
        return accuracy(net, faces, self.step.size_at(self.epoch), self.recipe.seed, self.step.name)

    def _save(self, train: Faces) -> None:
        checkpoint.write(
            self.path,
            {
                "epoch": self.epoch, "model": self.network.state_dict(), "average": self.average.state_dict(),
                "optimiser": self.optimiser.state_dict(), "recipe": self.recipe.model_dump(mode="json"),
                "labels": list(train.classes), "data": train.fingerprint, "cpu": self.cpu, "wall": self.wall,
                "rows": self.rows, "watched": self.watched, "losses": self.losses,
            },
        )  # fmt: skip

    def _resume(self, train: Faces, say: Say) -> None:
        state = begun(self.path, self.recipe, train)
        if state is None:
            return
        self.network.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.epoch, self.watched = state["epoch"], list(state["watched"])
        self.losses = list(state.get("losses", []))  # older checkpoints have none
        self.cpu, self.wall, self.rows = state["cpu"], state["wall"], state["rows"]
        say(f"{self.step.name}: goes on after epoch {self.epoch} ({self.path})")

    def _log(self, loss: float) -> None:
        rate = self.optimiser.param_groups[0]["lr"]
        watched = round(self.watched[-1], 4) if self.watched else None
        row = {"step": self.step.name, "epoch": self.epoch, "loss": round(loss, 4), "watch": watched,
               "lr": float(f"{rate:.3g}"), "cpu_seconds": round(self.cpu, 1)}  # fmt: skip
        curve.add(self.out, row)

    def _backed(self, row: curve.Row) -> bool:
        """Whether a checkpoint stands behind a row of the log: of this step, or of another one of the recipe."""
        if row["step"] == self.step.name:
            return row["epoch"] <= self.epoch
        others = {step.name for step in self.recipe.training.steps}
        return row["step"] in others and (self.out / f"{row['step']}.pt").is_file()


def step_file(out: Path, step: Step) -> Path:
    """The checkpoint of a step."""
    return out / f"{step.name}.pt"


def begun(path: Path, recipe: Recipe, train: Faces) -> dict[str, Any] | None:
    """What a step's checkpoint holds, None where there is none. Raises InputError where it is another training's.

    A training may go on with more epochs; anything else that differs would make another result of it.
    """
    if not path.is_file():
        return None
    state = checkpoint.step_state(path, device())
    other = changed(state["recipe"], recipe, longer=True)
    if state["data"] != train.fingerprint:
        other.append("data")
    if other:
        raise InputError(f"{path}: begun with another {', '.join(other)}; choose another --out or delete that folder")
    return state


def changed(recipe: dict[str, Any], today: Recipe, longer: bool = False) -> list[str]:
    """The parts in which a checkpoint's recipe would train another network than ``today``'s; longer: more epochs are
    no such difference."""
    then, now = _as_read_today(recipe), today.model_dump(mode="json")
    parts = ["model", "start", "soup", "augment", "distil", "training", "seed", "crop"]
    parts += ["template"] if today.augment.framed else []
    part = _rest if longer else dict.get
    return [k for k in parts if part(then, k) != part(now, k)]


def _as_read_today(recipe: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint's recipe with the keys that have been added since, at their defaults."""
    try:
        return Recipe.model_validate(recipe).model_dump(mode="json")
    except ValidationError:
        return recipe


def _rest(recipe: dict[str, Any], key: str) -> Any:
    """A part of a recipe without the steps' lengths, which may grow."""
    part = recipe.get(key)
    return {k: v for k, v in part.items() if k != "steps"} if key == "training" and part else part


def _averaging(decay: float) -> Any:
    """Exponential moving average that starts as a plain mean: (1 + n) / (10 + n) until that exceeds ``decay``, or a
    short step would keep much of the weights it began with."""

    def update(average: Any, current: Any, n: Any) -> None:
        now = min(decay, (1 + float(n)) / (10 + float(n)))
        get_ema_multi_avg_fn(now)(average, current, n)

    return update


@torch.inference_mode()  # type: ignore[untyped-decorator]
def accuracy(network: Network, faces: Faces, size: int, seed: int, step: str = "") -> float:
    """Top-1 on undisturbed crops of ``size`` pixels, of what training step ``step`` trains."""
    network.eval()
    right = 0
    with autocast():
        for batch in batches(faces, size, network.uses, seed):
            logits = network.predict(on_device(list(batch)), step)
            right += int((logits.argmax(1).cpu() == batch[3]).sum())
    return right / len(faces)


def on_device(batch: list[Tensor]) -> Batch:
    v, i, p, y = (x.to(device(), non_blocking=True) for x in batch)
    return v, i, p, y


def batches(faces: Faces, size: int, lenses: tuple[str, ...], seed: int, count: int = 32) -> Iterator[Batch]:
    """Undisturbed examples in order: what a network is watched, completed and scored with.

    Few at a time: with the maps of 256 a processor waits for fresh memory (the default's network: half the pictures a
    second, or less). Where there is no infrared lens, one fixed draw of the simulation per picture stands in.
    """
    infrared = faces.infrared
    if infrared is None and "infrared" in lenses:
        infrared = augment.simulated_infrared(faces.images, seed)
    for s in range(0, len(faces), count):
        rows = np.arange(s, min(s + count, len(faces)))
        visible = _frames(faces, faces.images, rows, size)
        other = torch.zeros_like(visible) if infrared is None else _frames(faces, infrared, rows, size)
        yield visible, other, torch.ones(len(rows), 2), torch.from_numpy(faces.labels[rows])


def _frames(faces: Faces, images: U8, rows: Any, size: int) -> Tensor:
    """uint8 [N, 1, size, size], or [N, T, 1, size, size] where the set has sequences."""
    chosen = rows if faces.sequence is None else faces.sequence[rows]
    picked = images[chosen]
    flat = resized(picked.reshape(-1, *images.shape[1:]), size)
    return torch.from_numpy(flat.reshape(*picked.shape[:-2], 1, size, size))


def resized(images: U8, side: int) -> U8:
    """uint8 [N, H, W] -> uint8 [N, side, side]."""
    if images.shape[1:] == (side, side):
        return images
    return np.stack([cv2.resize(x, (side, side), interpolation=cv2.INTER_AREA) for x in images])
