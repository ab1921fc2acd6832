"""What a network costs: parameters, multiply-accumulates for one pair, and the latency of its ONNX graphs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from export.errors import UsageError
from export.models.network import Network
from export.report.results import Latency

WARMUP = 10


@dataclass(frozen=True)
class Cost:
    parameters: int
    macs: int
    """multiply-accumulates of convolutions, matrix products (attention included) and recurrent layers for one pair;
    what works element by element (norms, activations, pooling, preparation without a convolution) is left out"""


def cost(network: Network, size: int) -> Cost:
    """For one pair of ``size`` x ``size`` crops, in eval mode; the network is left as it was."""
    parameters = sum(p.numel() for p in network.parameters())
    return Cost(parameters, macs(network, *_pair(network, size)))


def macs(module: nn.Module, *inputs: Tensor) -> int:
    """Multiply-accumulates of ``module(*inputs)``: torch's own count of products, and LSTMs, which it leaves out.

    A layer called k times counts k times. An LSTM of width H on D inputs costs 4 H (D + H) per step, direction and
    row (Hochreiter & Schmidhuber 1997), a projection to P 4 H (D + P) + H P.
    """
    counter = FlopCounterMode(display=False)
    recurrent = _Recurrent(counter)
    hooks = [h for m in module.modules() if isinstance(m, nn.LSTM) for h in recurrent.attach(m)]
    training, fast = module.training, torch.backends.mha.get_fastpath_enabled()
    try:
        # Attention as plain products: the counter does not know the calls that fuse it.
        torch.backends.mha.set_fastpath_enabled(False)
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            module.eval()(*inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        module.train(training)
        for hook in hooks:
            hook.remove()
    return int(counter.get_total_flops()) // 2 + recurrent.macs


class _Recurrent:
    """Adds what the counter did not see inside an LSTM; on some devices it does see the products."""

    def __init__(self, counter: FlopCounterMode) -> None:
        self.counter, self.macs, self.before = counter, 0, 0

    def attach(self, layer: nn.LSTM) -> tuple[Any, Any]:
        return layer.register_forward_pre_hook(self._enter), layer.register_forward_hook(self._leave)

    def _enter(self, layer: nn.LSTM, inputs: tuple[Tensor, ...]) -> None:
        self.before = int(self.counter.get_total_flops())

    def _leave(self, layer: nn.LSTM, inputs: tuple[Tensor, ...], output: Any) -> None:
        rows = inputs[0].numel() // inputs[0].shape[-1]
        seen = (int(self.counter.get_total_flops()) - self.before) // 2
        self.macs += rows * _lstm_step(layer) - seen


def _lstm_step(layer: nn.LSTM) -> int:
    """Multiply-accumulates of one step of one row, all layers and directions."""
    ways, out = 2 if layer.bidirectional else 1, layer.proj_size or layer.hidden_size
    project = layer.hidden_size * layer.proj_size
    widths = [layer.input_size] + [ways * out] * (layer.num_layers - 1)
    return sum(ways * (4 * layer.hidden_size * (w + out) + project) for w in widths)


def _pair(network: Network, size: int) -> tuple[Tensor, Tensor, Tensor]:
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    crops = torch.randint(0, 256, (2, 1, 1, size, size), generator=generator, dtype=torch.uint8).to(device)
    return crops[0], crops[1], torch.ones(1, 2, device=device)


def latencies(graphs: Mapping[str, Sequence[Path]], runs: int = 200, threads: int = 1) -> dict[str, Latency]:
    """Median and 95th percentile of ``runs`` single pairs through ONNX Runtime, by name.

    The graphs of one name run one behind the other (encoder and head of a temporal network). Names take turns, pair
    by pair, so that whatever else the machine does falls on all alike. Raises UsageError when a graph cannot be run.
    """
    sessions = {name: [_session(path, threads) for path in paths] for name, paths in graphs.items()}
    taken: dict[str, list[float]] = {name: [] for name in graphs}
    for turn in range(WARMUP + runs):
        for name, chain in sessions.items():
            start = time.perf_counter()
            for session, inputs in chain:
                session.run(None, inputs)
            if turn >= WARMUP:
                taken[name].append(1e3 * (time.perf_counter() - start))
    label = f"ONNX Runtime {threads} thread{'s' * (threads > 1)} batch 1"
    return {
        name: Latency(median=float(np.median(t)), p95=float(np.percentile(t, 95)), runtime=label)
        for name, t in taken.items()
    }


def _session(path: Path, threads: int) -> tuple[Any, dict[str, Any]]:
    """A session and one fitting set of random inputs; a dimension without a size is 1."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    try:
        session = ort.InferenceSession(path.read_bytes(), options, ["CPUExecutionProvider"])
    except Exception as e:  # onnxruntime raises types of its own, without a common base
        raise UsageError(f"{path}: not a graph that ONNX Runtime can run ({type(e).__name__})") from None
    rng = np.random.default_rng(0)
    return session, {i.name: _random(i.type, [d if isinstance(d, int) else 1 for d in i.shape], rng)
                     for i in session.get_inputs()}  # fmt: skip


def _random(kind: str, shape: list[int], rng: np.random.Generator) -> Any:
    if kind == "tensor(uint8)":
        return rng.integers(0, 256, shape, np.uint8)
    return np.ones(shape, np.float32) if shape[-1:] == [2] else rng.standard_normal(shape, np.float32)
