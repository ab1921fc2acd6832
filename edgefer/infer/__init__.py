"""Runs the fusion network. One file per backend behind :class:`Network`; registered by name.

Opening loads the graph, checks names, types and shapes, and holds the answers against the bundle's golden vectors on
this very machine: full-range INT8 is wrong on processors without VNNI, a builder may fuse what it should not, and only
the machine itself can tell.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Protocol

from edgefer.bundle import Bundle
from edgefer.config import Infer
from edgefer.errors import EdgeferError
from edgefer.infer.cuda import has_driver
from edgefer.infer.golden import check_golden
from edgefer.infer.network import Progress
from edgefer.infer.onnxrt import onnx_network
from edgefer.infer.tensorrt import tensorrt_network
from edgefer.types import AlignedPair, Scores

log = logging.getLogger("edgefer.infer")


class Network(Protocol):
    """A network ready to run; ``close`` frees it and may be called twice.

    A temporal one remembers: its calls are the frames of one face in order, from one thread at a time.
    """

    backend: str
    """its name in ``BACKENDS``"""

    def infer(self, pair: AlignedPair) -> Scores:
        """One pair (batch of 1) to logits. Raises ValueError on a wrong shape or dtype."""
        ...

    def reset(self) -> None:
        """Forget the frames seen: the face was lost, the next one may be another. Nothing where none are kept."""
        ...

    def close(self) -> None: ...


BACKENDS: dict[str, Callable[[Bundle, Infer, Progress], Network]] = {
    "tensorrt": tensorrt_network,
    "onnxruntime": onnx_network,
}
Fallback = Callable[[str], object]
"""told in one line why TensorRT does not serve although there is an NVIDIA GPU"""


def alone(network: Network, pair: AlignedPair) -> Scores:
    """The answer to a pair that has no frames before it."""
    network.reset()
    return network.infer(pair)


def open_network(
    bundle: Bundle, config: Infer, progress: Progress = lambda _: None, on_fallback: Fallback = lambda _: None
) -> Network:
    """Open, verify against the golden vectors (which also warms the network up), return.

    ``infer.backend`` "auto" is TensorRT where there is an NVIDIA GPU and everything passes, else ONNX Runtime.
    Raises BundleError when the graph does not fit its manifest or gives other answers here, ServiceError when the
    backend is not installed.
    """
    if config.backend != "auto":
        return _proven(config.backend, bundle, config, progress)
    if has_driver():
        try:
            return _proven("tensorrt", bundle, config, progress)
        except Exception as e:  # whatever a vendor's library raises: the driver is not left without a reading
            log.warning("TensorRT does not serve, ONNX Runtime does: %s", reason(e))
            on_fallback(reason(e))
    return _proven("onnxruntime", bundle, config, progress)


def reason(error: Exception) -> str:
    """Why something failed, in one line."""
    flat = " ".join(str(error).split())
    return flat if isinstance(error, EdgeferError) else f"{type(error).__name__}: {flat}"


def _proven(backend: str, bundle: Bundle, config: Infer, progress: Progress) -> Network:
    network = BACKENDS[backend](bundle, config, progress)
    try:
        check_golden(partial(alone, network), bundle, backend)
        network.reset()
    except BaseException:
        network.close()
        raise
    return network
