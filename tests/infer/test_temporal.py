"""A network over several frames on the device: what it remembers, in which order, and when it forgets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from bundle_workshop import copy_of_default, edit_golden, edit_manifest
from hypothesis import given
from hypothesis import strategies as st

from edgefer.bundle import file_sha256, open_bundle
from edgefer.config import Infer
from edgefer.errors import BundleError
from edgefer.infer import Network, open_network
from edgefer.infer.window import Window
from edgefer.types import AlignedPair

FRAMES, WIDTH = 3, 4


@given(frames=st.integers(2, 32), story=st.lists(st.sampled_from(["push", "push", "push", "reset"]), max_size=90))
def test_the_window_is_the_last_frames_oldest_first(frames: int, story: list[str]) -> None:
    window, seen = Window(frames, 2), []
    for k, what in enumerate(story):
        if what == "reset":
            window.reset()
            seen = []
            continue
        seen.append(k)
        expected = ([seen[0]] * frames + seen)[-frames:]
        got = window.push(np.array([k, -k], np.float32))
        assert got.dtype == np.float32
        assert got.flags.c_contiguous
        assert np.array_equal(got, np.array([[[e, -e] for e in expected]]))


@pytest.fixture(scope="module")
def weights() -> tuple[np.ndarray, np.ndarray]:
    """Of the encoder, [S * S, WIDTH], and of the head, [FRAMES * WIDTH, K]: every frame weighs differently."""
    m, rng = open_bundle().manifest, np.random.default_rng(0)
    encoder = rng.normal(0, 1e-4, (m.crop.size**2, WIDTH))
    return encoder.astype(np.float32), rng.normal(0, 1, (FRAMES * WIDTH, len(m.labels))).astype(np.float32)


def graph(file: Path, inputs: dict[str, tuple[str, list[object]]], weight: np.ndarray, output: str) -> None:
    """The first input, flattened, times ``weight``; the other inputs are there and not used."""
    onnx = pytest.importorskip("onnx", reason="needs the export extra")
    h, t = onnx.helper, onnx.TensorProto
    first = next(iter(inputs))
    nodes = [
        h.make_node("Cast", [first], ["real"], to=t.FLOAT),
        h.make_node("Flatten", ["real"], ["flat"]),
        h.make_node("MatMul", ["flat", "weight"], [output]),
    ]
    ins = [h.make_tensor_value_info(name, getattr(t, kind), shape) for name, (kind, shape) in inputs.items()]
    outs = [h.make_tensor_value_info(output, t.FLOAT, ["N", weight.shape[1]])]
    made = h.make_graph(nodes, "g", ins, outs, [onnx.numpy_helper.from_array(weight, "weight")])
    onnx.save(h.make_model(made, opset_imports=[h.make_opsetid("", 19)], ir_version=9), str(file))


@pytest.fixture
def bundle(tmp_path: Path, weights: tuple[np.ndarray, np.ndarray]) -> Path:
    """The default bundle's folder with an encoder of the visible lens and a head in place of its classifier."""
    path = copy_of_default(tmp_path)
    s = open_bundle().manifest.crop.size
    crop: list[object] = ["N", s, s, 1]
    pair = {"visible": ("UINT8", crop), "infrared": ("UINT8", crop), "present": ("FLOAT", ["N", 2])}
    graph(path / "classifier.onnx", pair, weights[0], "features")
    graph(path / "head.onnx", {"features": ("FLOAT", ["N", FRAMES, WIDTH])}, weights[1], "logits")
    head = {"file": "head.onnx", "runtime": "onnxruntime", "precision": "float32"}
    section = {"window": FRAMES, "features": WIDTH, "heads": [head]}
    names = ("classifier.onnx", "head.onnx")
    edit_manifest(
        path,
        lambda m: m.update(
            temporal=section, lenses_needed=["visible"], temperature=1.0,
            graphs=[g for g in m["graphs"] if g["runtime"] == "onnxruntime"],
            files={**m["files"], **{n: file_sha256(path / n) for n in names}},
        ),
    )  # fmt: skip
    visible = open_bundle().golden.visible
    edit_golden(path, logits=np.concatenate([expected([v] * FRAMES, weights) for v in visible]))
    return path


def expected(frames: list[np.ndarray], weights: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Logits [1, K] to the visible crops ``frames``, oldest first."""
    features = np.stack([f.reshape(-1).astype(np.float32) @ weights[0] for f in frames])
    return features.reshape(1, -1) @ weights[1]


@pytest.fixture
def network(bundle: Path) -> Iterator[Network]:
    opened = open_network(open_bundle(bundle), Infer(threads=1))
    yield opened
    opened.close()


def faces(n: int) -> list[np.ndarray]:
    s = open_bundle().manifest.crop.size
    return list(np.random.default_rng(1).integers(0, 256, (n, s, s, 1), np.uint8))


def pair(visible: np.ndarray, present: tuple[float, float] = (1.0, 1.0)) -> AlignedPair:
    return AlignedPair(visible[None].copy(), np.zeros_like(visible)[None], np.array([present], np.float32))


def test_it_answers_over_the_last_frames(network: Network, weights: tuple[np.ndarray, np.ndarray]) -> None:
    seen = faces(8)
    for k, face in enumerate(seen):
        window = ([seen[0]] * FRAMES + seen[: k + 1])[-FRAMES:]
        logits = network.infer(pair(face)).logits
        assert logits.shape == (weights[1].shape[1],)
        assert np.allclose(logits, expected(window, weights)[0], atol=1e-4)


def test_the_golden_vectors_leave_nothing_behind(bundle: Path, weights: tuple[np.ndarray, np.ndarray]) -> None:
    edit_manifest(bundle, lambda m: m.update(lenses_needed=[]))
    opened, face = open_network(open_bundle(bundle), Infer(threads=1)), faces(1)[0]
    assert np.allclose(opened.infer(pair(face)).logits, expected([face] * FRAMES, weights)[0], atol=1e-4)
    opened.close()


def test_reset_forgets(network: Network, weights: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = faces(2)
    network.infer(pair(a))
    network.reset()
    assert np.allclose(network.infer(pair(b)).logits, expected([b] * FRAMES, weights)[0], atol=1e-4)


def test_a_frame_without_the_lens_it_needs_is_not_remembered(
    network: Network, weights: tuple[np.ndarray, np.ndarray]
) -> None:
    a, black, b = faces(1)[0], np.zeros_like(faces(1)[0]), faces(2)[1]
    network.infer(pair(a))
    network.infer(pair(black, (0.0, 1.0)))
    assert np.allclose(network.infer(pair(b)).logits, expected([b] * FRAMES, weights)[0], atol=1e-4)
    network.infer(pair(a, (1.0, 0.0)))
    assert np.allclose(network.infer(pair(a)).logits, expected([b, a, a], weights)[0], atol=1e-4)


def test_closed_is_closed_for_both_graphs(network: Network) -> None:
    network.close()
    network.reset()
    with pytest.raises(ValueError, match="closed"):
        network.infer(pair(faces(1)[0]))


def test_a_head_for_another_window_or_a_broken_one_is_refused(bundle: Path) -> None:
    edit_manifest(bundle, lambda m: m["temporal"].update(window=4))
    with pytest.raises(BundleError, match=r"head\.onnx.*do not fit the manifest"):
        open_network(open_bundle(bundle), Infer())
    (bundle / "head.onnx").write_bytes(b"no graph")
    with pytest.raises(BundleError, match=r"head\.onnx: sha256"):
        open_bundle(bundle)


def test_golden_answers_are_those_of_single_frames(bundle: Path, weights: tuple[np.ndarray, np.ndarray]) -> None:
    """Answers packed from a running sequence, without forgetting between the vectors, are refused."""
    visible = list(open_bundle().golden.visible)
    running = [([visible[0]] * FRAMES + visible[: k + 1])[-FRAMES:] for k in range(len(visible))]
    edit_golden(bundle, logits=np.concatenate([expected(w, weights) for w in running]))
    with pytest.raises(BundleError, match="off by"):
        open_network(open_bundle(bundle), Infer())
