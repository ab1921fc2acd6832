"""Adversarial training of the fusion generator: an improved WGAN (Zou et al. 2021, section 3.2), resumable.

The critic learns to tell visible images from fused ones; the generator learns to be taken for visible while the
content loss holds it to both sources. Images are float [N, 1, H, W] in -1..1 as in ``export.models.pixel``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional

from export import checkpoint, curve, losses
from export.errors import InputError
from export.models.pixel import Discriminator, Generator, GeneratorOptions, WganNetwork, scaled
from export.patches import PatchSource
from export.trainer import cpu_seconds, device, precision

U8 = npt.NDArray[np.uint8]
FILE = "generator.pt"


class WganOptions(BaseModel):
    """Of the adversarial training. The paper prints neither its weights nor its schedule; what has no source beside it
    was chosen by trial on RoadScene pairs that are not held out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    side: int = Field(default=48, ge=29)
    """of the training patches, pixels"""
    epochs: int = Field(default=20, ge=1)
    steps: int = Field(default=50, ge=1)
    """steps of the generator per epoch"""
    critic_steps: int = Field(default=1, ge=1)
    """steps of the discriminator before each of the generator's. Gulrajani et al. 2017 take 5; the paper does not say.
    One is enough here, where the content loss alone already brings the generator most of the way"""
    batch: int = Field(default=16, ge=1)
    lr: float = Field(default=5e-4, gt=0)
    """of both Adam optimisers (betas 0 and 0.9, Gulrajani et al. 2017); falls linearly to a tenth"""
    content: float = Field(default=1000.0, ge=0)
    """lambda of eq. 2; the content loss is a mean over the pixels, a critic's slope is not, hence the size"""
    alpha: float = Field(default=1.0, ge=0)
    """of eq. 3: hold to the infrared image"""
    beta: float = Field(default=1.0, ge=0)
    """of eq. 3: hold to the visible image"""
    structure: float = Field(default=0.75, ge=0)
    """weight of 1 - SSIM to the visible image, beside alpha and beta. Not in the paper, whose loss has 0 here: without
    it the sum of the similarities to both sources stayed below that of plain averaging, also where the pixels
    themselves were optimised, for beta from 0.5 to 300"""
    information: float = Field(default=0.0, ge=0)
    """weight of 2 - the visual information of both sources. Not in the paper either: without it the similarities are
    had at the price of contrast, also where the pixels themselves were optimised (on training pairs)"""
    penalty: float = Field(default=10.0, ge=0)
    """lambda_1 of eq. 8"""
    steepness: float = Field(default=15.0, gt=0)
    """of the soft local binary pattern; steeper ones draw the noise of flat regions"""
    generator: GeneratorOptions = GeneratorOptions()
    width: float = Field(default=1.0, gt=0)
    """of the discriminator: its filters times this"""


def content_loss(fused: Tensor, visible: Tensor, infrared: Tensor, o: WganOptions) -> Tensor:
    """Eq. 3, scalar, on intensities of 0..1.

    The print divides everything by HW. For the squared Frobenius norms that makes means; SSIM and the gradient term
    (eq. 5) are means already, and a second division would leave nothing of them, so they are taken as they are.
    ``structure`` and ``information`` add terms that are not in the paper.
    """
    f, v, i = ((x.float() + 1) / 2 for x in (fused, visible, infrared))
    to_infrared = functional.mse_loss(f, i) + (1 - losses.ssim(f, i).mean())
    to_visible = losses.lbp_loss(f, v, o.steepness) + losses.gradient_loss(f, v)
    return o.alpha * to_infrared + o.beta * to_visible + _not_in_the_paper(f, v, i, o)


def _not_in_the_paper(f: Tensor, v: Tensor, i: Tensor, o: WganOptions) -> Tensor:
    loss = f.new_zeros(())
    if o.structure:
        loss = loss + o.structure * (1 - losses.ssim(f, v).mean())
    if o.information:
        held = losses.visual_information(v, f) + losses.visual_information(i, f)
        loss = loss + o.information * (2 - held.mean())
    return loss


def gradient_penalty(critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """E[(||grad D(x)||_2 - 1)^2] at random points between real and fused images, scalar.

    Eq. 1 and 8 print the norm minus one without the square, whose minimum would be a critic without any slope; the
    square, and the points in between, are those of Gulrajani et al. 2017, eq. 3, which the paper cites.
    """
    share = torch.rand(len(real), 1, 1, 1, device=real.device)
    between = (share * real + (1 - share) * fake).requires_grad_()
    (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return ((slope.float().flatten(1).norm(dim=1) - 1) ** 2).mean()


def critic_loss(critic: nn.Module, real: Tensor, fake: Tensor, penalty: float) -> Tensor:
    """Eq. 8, scalar: what is visible shall score high, what is fused low."""
    return critic(fake).float().mean() - critic(real).float().mean() + penalty * gradient_penalty(critic, real, fake)


# ---- training


class _Game:
    """Two players, two optimisers, one checkpoint."""

    def __init__(self, options: WganOptions, out: Path, seed: int) -> None:
        torch.manual_seed(seed)
        self.options, self.out, self.seed, self.epoch = options, out, seed, 0
        self.spent = {"cpu": 0.0, "wall": 0.0}
        self.where = device()
        net = WganNetwork(options.generator, options.side, options.width).to(self.where)
        self.generator: Generator = net.generator
        self.critic: Discriminator = net.discriminator
        self.players: dict[str, nn.Module] = {"generator": net.generator, "discriminator": net.discriminator}
        self.optimisers = {
            name: torch.optim.Adam(player.parameters(), options.lr, betas=(0.0, 0.9))
            for name, player in self.players.items()
        }

    @property
    def path(self) -> Path:
        return self.out / FILE

    def timed_epoch(self, source: PatchSource) -> dict[str, float]:
        """One epoch, whose cost is added to ``spent`` (empty where that of the epochs before is not known)."""
        cpu, wall = cpu_seconds(), time.monotonic()
        row = {k: round(v, 5) for k, v in self.run_epoch(source).items()}
        seconds = time.monotonic() - wall
        more = {"cpu": cpu_seconds() - cpu, "wall": seconds}
        self.spent = {key: value + more[key] for key, value in self.spent.items()}
        return {"epoch": self.epoch, **row, "seconds": round(seconds, 1)}

    def run_epoch(self, source: PatchSource) -> dict[str, float]:
        """One epoch; every draw is a function of (seed, epoch), so a resumed training repeats an unbroken one."""
        torch.manual_seed(self.seed * 100_003 + self.epoch)
        rng = np.random.default_rng((self.seed, self.epoch))
        sums = np.zeros(3)
        for step in range(self.options.steps):
            self._rate((self.epoch + step / self.options.steps) / self.options.epochs)
            sums += self._step(source, rng)
        self.epoch += 1
        return dict(zip(("critic", "adversarial", "content"), (sums / self.options.steps).tolist(), strict=True))

    def _rate(self, progress: float) -> None:
        for optimiser in self.optimisers.values():
            for group in optimiser.param_groups:
                group["lr"] = self.options.lr * (1 - 0.9 * progress)

    def _step(self, source: PatchSource, rng: np.random.Generator) -> tuple[float, float, float]:
        with torch.autocast(self.where.type, dtype=precision(), enabled=precision() != torch.float32):
            return self._moves(source, rng)

    def _moves(self, source: PatchSource, rng: np.random.Generator) -> tuple[float, float, float]:
        for _ in range(self.options.critic_steps):
            visible, infrared = self._draw(source, rng)
            with torch.no_grad():
                fake = self.generator(visible, infrared)
            score = critic_loss(self.critic, visible, fake, self.options.penalty)
            self._move("discriminator", score)
        fused = self.generator(visible, infrared)
        adversarial, content = -self.critic(fused).float().mean(), content_loss(fused, visible, infrared, self.options)
        self._move("generator", adversarial + self.options.content * content)  # eq. 2, eq. 7
        return float(score.detach()), float(adversarial.detach()), float(content.detach())

    def _draw(self, source: PatchSource, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        pair = source.patches(self.options.batch, self.options.side, rng)
        visible, infrared = (scaled(torch.from_numpy(x)[:, None].to(self.where)) for x in pair)
        return visible, infrared

    def _move(self, name: str, loss: Tensor) -> None:
        optimiser = self.optimisers[name]
        optimiser.zero_grad(set_to_none=True)
        loss.backward(inputs=list(self.players[name].parameters()))
        optimiser.step()

    def save(self) -> None:
        state: dict[str, Any] = {name: player.state_dict() for name, player in self.players.items()}
        state |= {f"{name}_optimiser": optimiser.state_dict() for name, optimiser in self.optimisers.items()}
        state |= {
            "epoch": self.epoch,
            "spent": self.spent,
            "seed": self.seed,
            "options": self.options.model_dump(mode="json"),
        }
        checkpoint.write(self.path, state)

    def resume(self, say: Callable[[str], None]) -> None:
        if not self.path.is_file():
            return
        state = _read(self.path, self.where)
        begun = state["options"].model_copy(update={"epochs": self.options.epochs})
        if begun != self.options or state["seed"] != self.seed:
            raise InputError(f"{self.path}: begun with other options or another seed; choose another folder")
        for name, player in self.players.items():
            player.load_state_dict(state[name])
            self.optimisers[name].load_state_dict(state[f"{name}_optimiser"])
        self.epoch, self.spent = int(state["epoch"]), dict(state.get("spent", {}))
        lost = "" if self.spent else "; begun by an older version, which did not note what these epochs cost"
        say(f"goes on after epoch {self.epoch} ({self.path}){lost}")


def train_generator(options: WganOptions, pairs: PatchSource, out: Path, seed: int, say: Callable[[str], None]) -> Path:
    """Train in ``out``, or go on there; returns the checkpoint, whose ``generator`` is the state dict of the result.

    After every epoch the checkpoint (both players, both optimisers, epoch, options, what all epochs cost) is replaced
    whole and a row {epoch, critic, adversarial, content, seconds} is added to ``training.jsonl``. Raises InputError
    when ``out`` holds a training with other options.
    """
    out.mkdir(parents=True, exist_ok=True)
    game = _Game(options, out, seed)
    game.resume(say)
    curve.keep(out, lambda row: row["epoch"] <= game.epoch)
    while game.epoch < options.epochs:
        row = game.timed_epoch(pairs)
        curve.add(out, row)
        game.save()
        say(", ".join(f"{k} {v}" for k, v in row.items()))
    return game.path


def load_generator(path: Path) -> Generator:
    """The trained generator in eval mode, on the processor. Raises InputError when ``path`` holds none."""
    state = _read(path, "cpu")
    generator = Generator(state["options"].generator)
    generator.load_state_dict(state["generator"])
    return generator.eval()


def spent(path: Path) -> dict[str, float]:
    """``cpu`` and ``wall`` seconds of all sessions; {} of a training begun by an older version. Raises InputError."""
    return dict(_read(path, "cpu").get("spent", {}))


def _read(path: Path, where: torch.device | str) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, map_location=where, weights_only=True)
        if not {"generator", "discriminator", "options", "epoch", "seed"} <= set(state):
            raise ValueError
        state["options"] = WganOptions.model_validate(state["options"])  # younger ones have their defaults
    except FileNotFoundError:
        raise InputError(f"{path}: no generator; train one first") from None
    except Exception as e:
        raise InputError(f"{path}: not a generator's checkpoint ({type(e).__name__}); train again") from None
    return state
