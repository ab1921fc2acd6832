"""What every registered network is to the rest of the stage: one call for single frames, one for sequences.

A network takes what the device hands over, raw grey crops and ``present``; standardisation, filters and every other
step of preparation happen inside ``forward``, so that they travel with the weights into the graph.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn import functional

Batch = tuple[Tensor, Tensor, Tensor, Tensor]
"""visible and infrared uint8 [N, 1, S, S] (sequences [N, T, 1, S, S]), present float32 [N, 2], label int64 [N] (in
training perhaps a target float32 [N, K])"""

BOTH = ("visible", "infrared")


def one_branch(step: str) -> bool:
    """Whether a training step trains one branch by itself on crops of either lens: its name begins with "single"."""
    return step.startswith("single")


class Network(nn.Module):
    """Base of the fusion networks. Subclasses define ``forward`` and, where a paper has one, their own ``loss``."""

    uses: tuple[str, ...] = BOTH
    """lenses it looks at"""
    needs: tuple[str, ...] = BOTH
    """lenses without which it has no answer (the manifest's ``lenses_needed``); () when either will do"""
    fusion: str = ""
    """one line for the manifest and the report, such as "early: features concatenated" """

    prior: Tensor | float = 0.0
    """added to the logits of ``loss`` alone: what of the training classes' frequency the answers shall not carry, as
    logarithm, float32 [K] (Menon et al. 2021, "Long-tail learning via logit adjustment", eq. 10)"""

    def forward(self, visible: Tensor, infrared: Tensor, present: Tensor) -> Tensor:
        """visible, infrared: uint8 or float [N, 1, S, S] in 0..255; present: float32 [N, 2] -> logits [N, K]."""
        raise NotImplementedError

    def predict(self, batch: Batch, step: str) -> Tensor:
        """Logits [N, K] of what training step ``step`` trains: the whole network unless a step trains a part."""
        visible, infrared, present, _ = batch
        out: Tensor = self(visible, infrared, present)
        return out

    def loss(self, batch: Batch, step: str, smoothing: float) -> Tensor:
        """Scalar; cross entropy with label smoothing unless the paper says otherwise."""
        logits = self.predict(batch, step).float() + self.prior
        return functional.cross_entropy(logits, batch[3], label_smoothing=smoothing)

    def begin(self, step: str) -> None:
        """Called once before the first epoch of ``step``: carry weights over from the step before, freeze parts."""

    def trainable(self, step: str) -> Iterator[tuple[str, nn.Parameter]]:
        """Named parameters that ``step`` moves."""
        return ((n, p) for n, p in self.named_parameters() if p.requires_grad)


class Temporal(Network):
    """A network over the last ``window`` frames: an encoder per frame and a head over their features.

    The device encodes each frame once and keeps the last ``window`` features, oldest first; before that many frames
    have been seen, the first one stands for those before it. ``forward`` on single frames does the same.
    """

    window: int = 3

    def encode(self, visible: Tensor, infrared: Tensor, present: Tensor) -> Tensor:
        """Frames [N, 1, S, S] -> features float32 [N, D]."""
        raise NotImplementedError

    def head(self, features: Tensor) -> Tensor:
        """Features float32 [N, window, D], oldest first -> logits [N, K]."""
        raise NotImplementedError

    def forward(self, visible: Tensor, infrared: Tensor, present: Tensor) -> Tensor:
        """As :meth:`Network.forward`, also for sequences: visible, infrared [N, T, 1, S, S] with T = window."""
        if visible.ndim == 4:
            one = self.encode(visible, infrared, present)
            return self.head(one[:, None].expand(-1, self.window, -1))
        n, t = visible.shape[:2]
        v, i = visible.flatten(0, 1), infrared.flatten(0, 1)
        return self.head(self.encode(v, i, present.repeat_interleave(t, 0)).unflatten(0, (n, t)))
