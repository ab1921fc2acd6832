"""Pixel fusion by an adversarial generator, and a classifier behind it as one network (Zou et al. 2021, section 3).

Inside the generator and the discriminator an image is float [N, 1, H, W] in -1..1. The paper's figures with the
numbers of filters of the generator and the sizes of the fully connected layers are not legible: those are options.
"""

from __future__ import annotations

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from edgefer.types import U8
from export.errors import RecipeError
from export.models import pyconv
from export.models.network import BOTH, Batch, Network

SLOPE = 0.2
"""of the leaky rectifiers, on the negative side"""
DISCRIMINATOR = ((64, 1), (64, 2), (128, 1), (128, 2), (256, 1), (256, 2))
"""filters and stride of the six 3x3 convolutions"""


class GeneratorOptions(BaseModel):
    """Size of the generator."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    channels: tuple[int, int, int, int] = (32, 32, 16, 16)
    """filters of the first four layers, which the paper does not print: 36 thousand multiplications per pixel"""


class Options(BaseModel):
    """Of the generator and the classifier behind it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    generator: GeneratorOptions = GeneratorOptions()
    classifier: pyconv.Options = pyconv.Options()
    """its ``lens`` has no meaning here: it looks at the fused image"""
    freeze_generator: bool = True
    """the generator keeps the weights of its own training while the classifier learns"""


class Generator(nn.Module):
    """Five convolutions of stride 1 (5x5, 5x5, 3x3, 3x3, 1x1), padded; sizes are kept (Zou et al. 2021, fig. 3).

    The first layer sees both images, layers 2 and 3 the infrared image once more, 4 and 5 the visible one.
    """

    def __init__(self, options: GeneratorOptions) -> None:
        super().__init__()
        a, b, c, d = options.channels
        self.conv1 = nn.Conv2d(2, a, 5, padding=2)
        self.conv2 = nn.Conv2d(a + 1, b, 5, padding=2)
        self.conv3 = nn.Conv2d(b + 1, c, 3, padding=1)
        self.conv4 = nn.Conv2d(c + 1, d, 3, padding=1)
        self.conv5 = nn.Conv2d(d + 1, 1, 1)

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Two images [N, 1, H, W] in -1..1 -> the fused one."""
        x = torch.cat((infrared, visible), dim=1)
        again = (infrared, infrared, visible, visible)
        for layer, image in zip((self.conv1, self.conv2, self.conv3, self.conv4), again, strict=True):
            x = torch.cat((nn.functional.leaky_relu(layer(x), SLOPE), image), dim=1)
        return torch.tanh(self.conv5(x))

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def fuse(self, visible: U8, infrared: U8) -> U8:
        """Two images uint8 [H, W] -> the fused one."""
        where = next(self.parameters()).device
        pair = (torch.from_numpy(np.ascontiguousarray(x))[None, None].to(where) for x in (visible, infrared))
        fused = grey(self(*(scaled(x) for x in pair)))[0, 0].round().clamp(0, 255)
        return np.asarray(fused.cpu().numpy().astype(np.uint8))


def scaled(x: Tensor) -> Tensor:
    """0..255 -> float -1..1."""
    return x.float() / 127.5 - 1.0


def grey(x: Tensor) -> Tensor:
    """-1..1 -> float32 0..255."""
    return (x.float() + 1.0) * 127.5


class Discriminator(nn.Module):
    """Six 3x3 convolutions without padding, two fully connected layers, no sigmoid (Zou et al. 2021, fig. 4): a critic.

    Raises RecipeError when ``side`` is too small for its three halvings.
    """

    def __init__(self, side: int, width: float = 1.0) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inside, left = 1, side
        for filters, stride in DISCRIMINATOR:
            outside = max(4, round(filters * width))
            layers += [nn.Conv2d(inside, outside, 3, stride), nn.LeakyReLU(SLOPE)]
            inside, left = outside, (left - 3) // stride + 1
        if left < 1:
            raise RecipeError(f"patches of {side} pixels vanish in the discriminator; 'side' must be 29 or more")
        self.convolutions = nn.Sequential(*layers)
        self.fc1 = nn.Linear(inside * left * left, inside)
        self.fc2 = nn.Linear(inside, 1)

    def forward(self, image: Tensor) -> Tensor:
        """[N, 1, side, side] in -1..1 -> score [N], large for what looks like a visible image."""
        x = self.convolutions(image).flatten(1)
        score: Tensor = self.fc2(nn.functional.leaky_relu(self.fc1(x), SLOPE))
        return score[:, 0]


class WganNetwork(nn.Module):
    """Both players, for the adversarial training."""

    def __init__(self, options: GeneratorOptions, side: int, width: float = 1.0) -> None:
        super().__init__()
        self.generator = Generator(options)
        self.discriminator = Discriminator(side, width)


class PixelFusion(Network):
    """Generator and PyConv-SE18 as one graph with the signature of the device."""

    uses = needs = BOTH
    fusion = "pixel: one image made of both by a WGAN generator, then one classifier"

    def __init__(self, options: Options, classes: int) -> None:
        super().__init__()
        self.options = options
        self.generator = Generator(options.generator)
        self.classifier = pyconv.PyConvSE18(options.classifier, classes)

    def begin(self, step: str) -> None:
        self.generator.requires_grad_(not self.options.freeze_generator)

    def fused(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Raw crops [N, 1, S, S] in 0..255 -> fused float32 [N, 1, S, S] in 0..255."""
        return grey(self.generator(scaled(visible), scaled(infrared)))

    def forward(self, visible: Tensor, infrared: Tensor, present: Tensor) -> Tensor:
        return self.classifier.classify(self.fused(visible, infrared))

    def loss(self, batch: Batch, step: str, smoothing: float) -> Tensor:
        return self.classifier.loss_of(self.fused(batch[0], batch[1]), batch[3], smoothing)
