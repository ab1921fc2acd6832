"""What every backend that opens here must do."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from edgefer.bundle import open_bundle
from edgefer.config import Infer
from edgefer.errors import EdgeferError
from edgefer.infer import BACKENDS, Network, open_network
from edgefer.infer.cuda import open_cuda
from edgefer.infer.golden import golden_gap
from edgefer.types import AlignedPair

HERE = ["onnxruntime", "tensorrt", "emulated"]
"""every backend, and the TensorRT one once more on the emulated GPU"""


def config_of(backend: str, request: pytest.FixtureRequest, **more: int) -> Infer:
    """Skips, with the reason, what cannot open here."""
    if backend == "emulated":
        request.getfixturevalue("emulated")
        return Infer(backend="tensorrt", **more)
    if backend == "tensorrt":
        try:
            open_cuda()
            bundle_graph_for_tensorrt()
        except EdgeferError as e:
            pytest.skip(str(e))
    return Infer(backend=backend, **more)  # type: ignore[arg-type]


def bundle_graph_for_tensorrt() -> None:
    """Raises BundleError when the default bundle names none."""
    open_bundle().graph("tensorrt")


@pytest.fixture(params=HERE)
def network(request: pytest.FixtureRequest) -> Iterator[Network]:
    opened = open_network(open_bundle(), config_of(request.param, request))
    yield opened
    opened.close()


def test_every_backend_is_walked() -> None:
    assert set(BACKENDS) == set(HERE) - {"emulated"}


def one(k: int = 0) -> AlignedPair:
    g = open_bundle().golden
    return AlignedPair(g.visible[k : k + 1].copy(), g.infrared[k : k + 1].copy(), g.present[k : k + 1].copy())


def test_logits_of_one_pair(network: Network) -> None:
    logits = network.infer(one()).logits
    assert (logits.shape, logits.dtype) == ((len(open_bundle().manifest.labels),), np.float32)
    assert np.isfinite(logits).all()


def test_the_same_answer_every_time_and_from_every_thread(network: Network) -> None:
    expected = network.infer(one()).logits
    with ThreadPoolExecutor(2) as pool:
        for got in pool.map(lambda _: network.infer(one()).logits, range(20)):
            assert np.array_equal(got, expected)


def test_what_an_absent_lens_shows_does_not_matter(network: Network) -> None:
    """The mask is in the network: garbage behind present = 0 changes nothing."""
    g = open_bundle().golden
    rng = np.random.default_rng(0)
    for k in np.flatnonzero(g.present.min(axis=1) == 0)[:4]:
        pair = one(int(k))
        lost = (pair.visible, pair.infrared)[int(pair.present[0].argmin())]
        before = network.infer(pair).logits
        lost[:] = rng.integers(0, 256, lost.shape)
        assert np.allclose(network.infer(pair).logits, before, atol=1e-4)


@pytest.mark.parametrize("name", ["visible", "infrared", "present"])
def test_a_wrong_shape_or_type_is_refused_by_name(name: str, network: Network) -> None:
    good = getattr(one(), name)
    for bad in (good[:, :-1], np.concatenate((good, good)), good.astype(np.float64)):
        with pytest.raises(ValueError, match=name):
            network.infer(replace(one(), **{name: bad}))


def test_closed_twice_is_closed(network: Network) -> None:
    network.close()
    network.close()
    with pytest.raises(ValueError, match="closed"):
        network.infer(one())


@pytest.mark.parametrize("backend", HERE)
def test_golden_vectors_pass_with_any_number_of_threads(backend: str, request: pytest.FixtureRequest) -> None:
    opened = open_bundle()
    for threads in (1, 2, 4):
        network = open_network(opened, config_of(backend, request, threads=threads))
        assert golden_gap(network.infer, opened, network.backend) <= opened.manifest.golden_tolerance
        network.close()


def test_full_range_int8_on_a_processor_without_vnni_would_be_noticed() -> None:
    """Answers like those of saturated INT8 (one logit in four off by several) do not pass the golden check."""
    opened = open_bundle()
    network = open_network(opened, Infer())
    rng = np.random.default_rng(1)

    def saturating(pair: AlignedPair) -> object:
        scores = network.infer(pair)
        return replace(scores, logits=scores.logits + rng.normal(0, 1, scores.logits.shape).astype(np.float32))

    assert golden_gap(saturating, opened) > opened.manifest.golden_tolerance  # type: ignore[arg-type]
    network.close()
