"""CNN, BiLSTM, point-multiplication attention, LDA and DenseNet of Singh et al. 2025 (paper 004), as encoder and head.

The paper gives no channel counts, kernel sizes or widths: 3x3 kernels and 32, 64, 128, 256 channels are ours, as is
the grid of 4x4 regions that the last map is averaged to. "Features from the local regions" (section 3.4) are what the
BiLSTM reads: the regions of each frame, frame by frame, so that the attention can choose both regions and frames
(section 2.2). Encoder: resize, median filter, global contrast normalisation, CNN. Head: everything behind it.

LDA (section 3.7) stands between layers that are trained by gradient, though it is fitted to the features before it.
It is kept in the coordinates of its input: while training the layer passes features on; :meth:`Singh.complete` then
puts the projection onto the span of the class means there, in the metric of the scatter within classes. That is
Fisher's reduction to K - 1 dimensions written as an F x F matrix of that rank, so the DenseNet behind it, trained on
features that center loss has gathered round those means, stays right without being trained again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional

from export.errors import InputError
from export.models.center import CenterLoss
from export.models.jayaraman import scaled
from export.models.network import Batch, Temporal
from export.models.preprocess import GlobalContrastNormalisation, MedianFilter, Resize

GRID = 4
"""regions along a side of the face"""


class Options(BaseModel):
    """Switches take one module out, for the ablation (Table 1); ``width`` multiplies channels and neurons."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    lens: Literal["visible", "infrared"] = "visible"
    """the lens it looks at; the paper has one"""
    window: int = Field(3, ge=1, le=32)
    """frames of a sequence"""
    side: int = Field(128, ge=32, le=256, multiple_of=32)
    """pixels the crop is brought to"""
    width: float = Field(1.0, gt=0, le=2)
    """factor of channels and neurons"""
    dropout: float = Field(0.3, ge=0, lt=1)
    """before the classifier"""
    lstm: bool = True
    """off: a layer without memory in its place"""
    attention: bool = True
    """off: the plain mean of the sequence"""
    center_loss: bool = True
    """off: cross entropy alone"""
    lda: bool = True
    """off: :meth:`Singh.complete` changes nothing"""
    dense: bool = True
    """off: the classifier reads the projected features"""
    center_weight: float = Field(0.01, ge=0)
    """lambda of Wen et al. 2016, eq. 5"""
    center_rate: float = Field(0.5, gt=0, le=1)
    """alpha of Wen et al. 2016, algorithm 1"""


def cnn(width: float) -> nn.Sequential:
    """Seven layers (section 3.4): four convolutions with batch norm, three down-samplings between them."""
    layers: list[nn.Module] = []
    inside = 1
    for k, count in enumerate((32, 64, 128, 256)):
        outside = scaled(count, width)
        layers += [nn.Conv2d(inside, outside, 3, padding=1, bias=False), nn.BatchNorm2d(outside), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if k < 3 else []
        inside = outside
    return nn.Sequential(*layers)


class PointAttention(nn.Module):
    """Each step's state times a learned query, softmax over the steps, weighted mean (sections 3.3, 3.6)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.key = nn.Linear(width, width)
        self.query = nn.Parameter(torch.randn(width) * width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """[N, steps, F] -> [N, F]"""
        scores = (torch.tanh(self.key(x)) * self.query).float().sum(dim=-1, keepdim=True)
        return (torch.softmax(scores, dim=1) * x).sum(dim=1)


class DenseReconstruction(nn.Module):
    """Dense connections (Huang et al. 2017): each layer reads all before it; a last one leads back to the width.

    Behind LDA a feature has no place in the picture any more, so the layers are fully connected.
    """

    def __init__(self, width: int, growth: int, depth: int = 4) -> None:
        super().__init__()
        self.grow = nn.ModuleList(self._layer(width + k * growth, growth) for k in range(depth))
        self.back = self._layer(width + depth * growth, width)

    @staticmethod
    def _layer(inside: int, outside: int) -> nn.Sequential:
        return nn.Sequential(nn.Linear(inside, outside, bias=False), nn.BatchNorm1d(outside), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.grow:
            x = torch.cat((x, layer(x)), dim=1)
        out: Tensor = self.back(x)
        return out


class Singh(Temporal):
    """Options switch modules; ``loss`` is cross entropy + center_weight * center loss of the attended feature."""

    fusion = "none: one lens, an encoder per frame and a head over the last frames"
    projection: Tensor
    middle: Tensor

    def __init__(self, options: Options, classes: int) -> None:
        super().__init__()
        o = self.options = options
        self.window = o.window
        self.uses = self.needs = (o.lens,)
        region, hidden = scaled(256, o.width), scaled(128, o.width)
        self.prepare = nn.Sequential(Resize(o.side), MedianFilter(), GlobalContrastNormalisation())
        self.cnn = cnn(o.width)
        self.regions = nn.AvgPool2d(o.side // 8 // GRID)
        self.sequence: nn.Module = nn.Sequential(nn.Linear(region, 2 * hidden), nn.Tanh())
        if o.lstm:
            self.sequence = nn.LSTM(region, hidden, batch_first=True, bidirectional=True)
        self.attend: nn.Module | None = PointAttention(2 * hidden) if o.attention else None
        self.register_buffer("projection", torch.eye(2 * hidden))
        self.register_buffer("middle", torch.zeros(2 * hidden))
        self.dense: nn.Module = DenseReconstruction(2 * hidden, hidden // 2) if o.dense else nn.Identity()
        self.classify = nn.Sequential(nn.Dropout(o.dropout), nn.Linear(2 * hidden, classes))
        self.center = CenterLoss(classes, 2 * hidden, o.center_rate) if o.center_loss else None

    def encode(self, visible: Tensor, infrared: Tensor, present: Tensor) -> Tensor:
        """Frames [N, 1, S, S] -> float32 [N, 16 * channels]: the regions row by row, each with its channels."""
        x = visible if self.options.lens == "visible" else infrared
        with torch.autocast(x.device.type, enabled=False):
            x = self.prepare(x.float())
        return self.regions(self.cnn(x)).float().flatten(2).transpose(1, 2).flatten(1)

    def attended(self, features: Tensor) -> Tensor:
        """Features [N, window, D] -> the attended feature float32 [N, F]: what center loss and LDA work on."""
        steps = features.unflatten(-1, (GRID * GRID, -1)).flatten(1, 2)
        out = self.sequence(steps)
        out = out[0] if isinstance(out, tuple) else out
        pooled: Tensor = self.attend(out) if self.attend is not None else out.mean(dim=1)
        return pooled.float()

    def head(self, features: Tensor) -> Tensor:
        return self._classified(self.attended(features))

    def _classified(self, attended: Tensor) -> Tensor:
        with torch.autocast(attended.device.type, enabled=False):
            x = (attended - self.middle) @ self.projection + self.middle
        logits: Tensor = self.classify(self.dense(x))
        return logits.float()

    def describe(self, batch: Batch) -> Tensor:
        """The attended feature float32 [N, F] of single frames or sequences."""
        visible, infrared, present, _ = batch
        t = visible.shape[1] if visible.ndim == 5 else 1
        if visible.ndim == 5:
            visible, infrared = visible.flatten(0, 1), infrared.flatten(0, 1)
            present = present.repeat_interleave(t, 0)
        features = self.encode(visible, infrared, present).unflatten(0, (-1, t))
        return self.attended(features if t == self.window else features.expand(-1, self.window, -1))

    def begin(self, step: str) -> None:
        """A space settled on another set must not stand in the way of learning this one."""
        self.projection.copy_(torch.eye(len(self.projection)))
        self.middle.zero_()

    def loss(self, batch: Batch, step: str, smoothing: float) -> Tensor:
        attended = self.describe(batch)
        entropy = functional.cross_entropy(self._classified(attended), batch[3], label_smoothing=smoothing)
        if self.center is None:
            return entropy
        return entropy + self.options.center_weight * self.center(attended, batch[3])

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def complete(self, batches: Iterable[Batch]) -> str:
        """Fit LDA to the training set's ``batches`` (in eval mode, undisturbed); returns what was found, for the log.

        Raises InputError when there are fewer than two classes. Nothing happens where the option is off.
        """
        if not self.options.lda:
            return "no discriminant analysis"
        place = self.projection.device
        seen = [(self.describe(tuple(x.to(place) for x in b)).cpu(), b[3].cpu()) for b in batches]
        features, labels = (torch.cat(x).numpy() for x in zip(*seen, strict=True))
        projection, middle = discriminant_projection(features.astype(np.float64), labels)
        self.projection.copy_(torch.from_numpy(projection.astype(np.float32)))
        self.middle.copy_(torch.from_numpy(middle.astype(np.float32)))
        return f"discriminant space of {round(float(np.trace(projection)))} dimensions, from {len(labels)} examples"


def discriminant_projection(
    features: npt.NDArray[np.float64], labels: npt.NDArray[np.int64], shrinkage: float = 1e-3
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Fisher's discriminant space as a projector: (P [F, F], middle [F]), to be used as (x - middle) P + middle.

    With W the scatter within classes and the columns of M the class means less the middle, P is the projection onto
    the span of M that is orthogonal in the metric of the inverse of W: its rank is K - 1 at most. ``shrinkage``, as a
    share of the mean variance, keeps W invertible.
    """
    present = np.unique(labels)
    if len(present) < 2:
        raise InputError("discriminant analysis needs two classes at least; check the labels of the training set")
    means = np.stack([features[labels == c].mean(axis=0) for c in present])
    middle = means.mean(axis=0)
    inside = features - means[np.searchsorted(present, labels)]
    within = inside.T @ inside / len(labels)
    within += np.eye(len(within)) * (shrinkage * np.trace(within) / len(within) + 1e-12)
    span = (means - middle).T
    solved = np.linalg.solve(within, span)
    return solved @ np.linalg.pinv(span.T @ solved, rcond=1e-10, hermitian=True) @ span.T, middle
