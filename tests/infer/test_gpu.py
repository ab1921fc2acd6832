"""On a machine with an NVIDIA GPU: `make test-gpu`. The same tests run on the emulated GPU everywhere, fewer times."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import pytest

from edgefer import app
from edgefer.bundle import open_bundle
from edgefer.config import Config, Infer
from edgefer.errors import EdgeferError
from edgefer.health import memory_mb
from edgefer.infer import Network, open_network
from edgefer.infer.cuda import open_cuda
from edgefer.infer.engine import Engine
from edgefer.infer.tensorrt import bundle_graphs, open_engine
from edgefer.locate import Locator
from edgefer.types import AlignedPair, Scores


@dataclass(frozen=True)
class Place:
    """Where the suite runs, and how often what is repeated is."""

    runs: int
    openings: int
    pictures: int


@pytest.fixture(params=[pytest.param("real", marks=pytest.mark.gpu), "emulated"])
def place(request: pytest.FixtureRequest) -> Place:
    if request.param == "emulated":
        request.getfixturevalue("emulated")
        return Place(60, 3, 24)
    try:
        open_cuda()
        open_bundle().graph("tensorrt")
    except EdgeferError as e:
        cannot(e)
    return Place(10_000, 50, 500)


def cannot(why: EdgeferError) -> NoReturn:
    """A skip, or a failure where `make test-gpu` asks for a GPU: all skipped would look like all passed."""
    if os.environ.get("EDGEFER_GPU") == "required":
        pytest.fail(str(why))
    pytest.skip(str(why))


def feed(pair: AlignedPair) -> dict[str, Any]:
    return {"visible": pair.visible, "infrared": pair.infrared, "present": pair.present}


def pairs(n: int) -> Iterator[AlignedPair]:
    """The golden pictures, brighter, darker, shifted and noisy: the same ones every time."""
    g, rng = open_bundle().golden, np.random.default_rng(0)
    for k in range(n):
        one = k % len(g.logits)
        gain, shift = rng.uniform(0.6, 1.4), rng.integers(-3, 4, 2)
        pictures = []
        for source in (g.visible, g.infrared):
            moved = np.roll(source[one : one + 1], shift, (1, 2)) * gain + rng.normal(0, 3, source[:1].shape)
            pictures.append(np.clip(moved, 0, 255).astype(np.uint8))
        yield AlignedPair(pictures[0], pictures[1], g.present[one : one + 1])


def engine(**config: Any) -> Engine:
    file, options = bundle_graphs(open_bundle())[0]
    return open_engine(file, options, Infer(**config), lambda _: None)


@pytest.fixture
def network(place: Place) -> Iterator[Network]:
    opened = open_network(open_bundle(), Infer(backend="tensorrt"))
    yield opened
    opened.close()


def as_it_stands() -> Any:
    """The engine's own graph in ONNX Runtime, Q/DQ computed as they stand: ONNX Runtime's graph is another."""
    ort = pytest.importorskip("onnxruntime")
    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.log_severity_level = 3
    file = bundle_graphs(open_bundle())[0][0]
    return ort.InferenceSession(file.read_bytes(), options, ["CPUExecutionProvider"])


def test_the_engine_equals_onnx_runtime(network: Network, place: Place) -> None:
    """Probabilities within 0.02, the same answer in 99 of 100."""
    reference, t = as_it_stands(), open_bundle().manifest.temperature

    def both(pair: AlignedPair) -> tuple[Scores, Scores]:
        return network.infer(pair), Scores(reference.run(["logits"], feed(pair))[0][0])

    found = [both(pair) for pair in pairs(place.pictures)]
    gaps = [np.abs(a.probabilities(t) - b.probabilities(t)).max() for a, b in found]
    assert max(gaps) <= 0.02
    assert np.mean([a.logits.argmax() == b.logits.argmax() for a, b in found]) >= 0.99


def test_ten_thousand_inferences_without_a_byte_of_growth(place: Place) -> None:
    one, given = engine(), [feed(p) for p in pairs(16)]
    for k in range(place.runs // 10):
        one.infer(given[k % 16])
    free, resident = open_cuda().free_bytes(), memory_mb()
    for k in range(place.runs):
        one.infer(given[k % 16])
    assert open_cuda().free_bytes() == free
    assert memory_mb() - resident < 1.0
    one.close()


def test_wrong_shapes_and_types_are_refused_and_leave_the_engine_well(network: Network) -> None:
    good = next(pairs(1))
    expected = network.infer(good).logits
    for name in ("visible", "infrared", "present"):
        for bad in (getattr(good, name)[:, :-1], np.concatenate((getattr(good, name),) * 2),
                    getattr(good, name).astype(np.float64)):  # fmt: skip
            with pytest.raises(ValueError, match=name):
                network.infer(AlignedPair(**{**feed(good), name: bad}))
    assert np.array_equal(network.infer(good).logits, expected)


def test_two_threads(network: Network, place: Place) -> None:
    given = list(pairs(8))
    expected = [network.infer(p).logits for p in given]
    with ThreadPoolExecutor(2) as pool:
        for k, scores in enumerate(pool.map(network.infer, given * (place.runs // 20))):
            assert np.array_equal(scores.logits, expected[k % 8])


def test_closed_and_opened_again_fifty_times(place: Place) -> None:
    engine().close()
    free, given = open_cuda().free_bytes(), feed(next(pairs(1)))
    answers = set()
    for _ in range(place.openings):
        one = engine()
        answers.add(one.infer(given)["logits"].tobytes())
        one.close()
    assert len(answers) == 1
    assert open_cuda().free_bytes() == free


@pytest.mark.parametrize("memory", ["copy", "mapped"])
@pytest.mark.parametrize("graph", [True, False])
def test_every_manner_answers_alike(memory: str, graph: bool, place: Place) -> None:
    one, plain = engine(memory=memory, cuda_graph=graph), engine(memory="copy", cuda_graph=False)
    for pair in pairs(6):
        assert np.array_equal(one.infer(feed(pair))["logits"], plain.infer(feed(pair))["logits"])
    one.close()
    plain.close()


@pytest.mark.gpu
def test_the_detector_on_the_gpu_finds_the_faces_opencv_finds() -> None:
    from locate_portraits import two_faces

    try:
        detector = app.detector_engine(Config(), lambda _: None)
    except EdgeferError as e:
        cannot(e)
    locator, theirs = Locator(Config().locate, 1, detector), Locator(Config().locate, 1)
    found = [x._detector.detect(two_faces()) for x in (locator, theirs)]
    assert len(found[0]) == len(found[1]) > 0
    for a, b in zip(*found, strict=True):
        assert np.abs(np.array(a.box) - b.box).max() < 1
        assert np.abs(a.landmarks - b.landmarks).max() < 1
    locator.close()
