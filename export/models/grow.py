"""A larger residual network that begins by saying exactly what a smaller trained one says (Chen, Goodfellow & Shlens
2016, "Net2Net", arXiv 1511.05641).

Wider: a new channel repeats one of the stage (sec. 2.2), and whoever read that channel now reads the two in shares that
add up to the old weight, drawn for each reader so that the twins part in training. Deeper: a new block's last batch
norm begins at zero, so that the block hands its input on (sec. 2.3; the input of a block is never negative).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

State = dict[str, Tensor]


@dataclass(frozen=True)
class Channels:
    """of: int64 [wide], the channel of the small network that each channel repeats."""

    of: Tensor

    @classmethod
    def draw(cls, narrow: int, wide: int, rng: torch.Generator) -> Channels:
        """Raises ValueError when there would be fewer."""
        if wide < narrow:
            raise ValueError(f"{wide} channels cannot hold {narrow}")
        return cls(torch.cat((torch.arange(narrow), torch.randint(narrow, (wide - narrow,), generator=rng))))

    def made(self, x: Tensor) -> Tensor:
        """A tensor whose first axis are these channels, as their maker's weights: repeated."""
        return x[self.of]

    def read(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """[out, channels, ...], as a reader's weights: shared out between repeated channels."""
        share = torch.rand(x.shape[0], len(self.of), generator=rng) + 0.2
        total = torch.zeros(x.shape[:2]).index_add_(1, self.of, share)
        share /= total[:, self.of]
        return x[:, self.of] * share.reshape(share.shape + (1,) * (x.ndim - 2))

    def twice(self) -> Channels:
        """The channels of two such maps (mean and deviation, say), one after the other."""
        return Channels(torch.cat((self.of, self.of + int(self.of.max()) + 1)))


class Growing:
    """Fills ``state``, begun as the larger network was made, from ``given``; keys as in ``ResNet``."""

    def __init__(self, given: State, own: State) -> None:
        self.given, self.state = given, {k: v.clone() for k, v in own.items()}
        self.rng = torch.Generator().manual_seed(1)

    def conv(self, name: str, norm: str, inside: Channels | None) -> Channels:
        """A convolution and its batch norm; returns its channels. None: the input has not grown."""
        out = Channels.draw(len(self.given[f"{name}.weight"]), len(self.state[f"{name}.weight"]), self.rng)
        self._conv(name, norm, inside, out)
        return out

    def linear(self, name: str, out: Channels | None, inside: Channels) -> None:
        weight, bias = inside.read(self.given[f"{name}.weight"], self.rng), self.given[f"{name}.bias"]
        self.state[f"{name}.weight"] = weight if out is None else out.made(weight)
        self.state[f"{name}.bias"] = bias if out is None else out.made(bias)

    def stage(self, name: str, inside: Channels) -> Channels:
        """All blocks of a stage; returns its channels."""
        last = f"{name}.0.conv2.weight"
        out = Channels.draw(len(self.given[last]), len(self.state[last]), self.rng)
        for block in sorted(
            {".".join(k.split(".")[: name.count(".") + 2]) for k in self.state if k.startswith(f"{name}.")}
        ):
            if f"{block}.conv1.weight" in self.given:
                self._block(block, inside if block.endswith(".0") else out, out)
            else:
                self.state[f"{block}.bn2.weight"].zero_()
        return out

    def _block(self, name: str, inside: Channels, out: Channels) -> None:
        middle = self.conv(f"{name}.conv1", f"{name}.bn1", inside)
        self._conv(f"{name}.conv2", f"{name}.bn2", middle, out)
        if f"{name}.downsample.0.weight" in self.given:
            self._conv(f"{name}.downsample.0", f"{name}.downsample.1", inside, out)

    def _conv(self, name: str, norm: str, inside: Channels | None, out: Channels) -> None:
        kernel = self.given[f"{name}.weight"]
        self.state[f"{name}.weight"] = out.made(kernel if inside is None else inside.read(kernel, self.rng))
        for key in (k for k in self.given if k.startswith(f"{norm}.")):
            self.state[key] = out.made(self.given[key]) if self.given[key].ndim else self.given[key]
