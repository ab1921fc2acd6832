"""Runs the fusion network. One file per backend behind :class:`Network`; registered by name.

Opening loads the graph, checks names, types and shapes, and holds the answers against the bundle's golden vectors on
this very machine: full-range INT8 is wrong on processors without VNNI, and only the machine itself can tell.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

from edgefer.bundle import Bundle
from edgefer.config import Infer
from edgefer.infer.golden import check_golden
from edgefer.infer.onnxrt import OnnxRuntime
from edgefer.types import AlignedPair, Scores


class Network(Protocol):
    """A network ready to run; ``close`` frees it and may be called twice.

    A temporal one remembers: its calls are the frames of one face in order, from one thread at a time.
    """

    def infer(self, pair: AlignedPair) -> Scores:
        """One pair (batch of 1) to logits. Raises ValueError on a wrong shape or dtype."""
        ...

    def reset(self) -> None:
        """Forget the frames seen: the face was lost, the next one may be another. Nothing where none are kept."""
        ...

    def close(self) -> None: ...


BACKENDS: dict[str, Callable[[Bundle, Infer], Network]] = {"onnxruntime": OnnxRuntime}


def alone(network: Network, pair: AlignedPair) -> Scores:
    """The answer to a pair that has no frames before it."""
    network.reset()
    return network.infer(pair)


def open_network(bundle: Bundle, config: Infer) -> Network:
    """Open, verify against the golden vectors (which also warms the network up), return.

    Raises BundleError when the graph does not fit its manifest or gives other answers here, ServiceError when the
    backend is not installed.
    """
    network = BACKENDS[config.backend](bundle, config)
    try:
        check_golden(partial(alone, network), bundle, config.backend)
        network.reset()
    except BaseException:
        network.close()
        raise
    return network
