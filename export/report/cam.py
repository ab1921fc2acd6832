"""Class activation maps per class and lens: Grad-CAM (Selvaraju et al. 2017, eqs. 1 and 2) for any Network.

Naseem et al. 2024 (section IV-F) show class activation maps of both lenses. Grad-CAM equals theirs up to a factor
where pooling and one linear layer follow the last convolution, and also holds where fusion layers stand between.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from export.data.faces import U8, Faces
from export.errors import UsageError
from export.models.network import Network

__all__ = ["Network", "Place", "examples", "grad_cam", "montage", "overlay", "places"]
Map = npt.NDArray[np.float32]
Outputs = dict[tuple[int, int], Tensor]
LENSES = ("visible", "infrared")


@dataclass(frozen=True)
class Place:
    """Where a lens is looked at: the ``call``-th call of a module during one forward pass."""

    module: nn.Module
    call: int
    shared: bool = False
    """the other lens has a say in it too (pixel fusion): one map for both"""


@contextmanager
def _watched(modules: list[nn.Module], keep: Outputs) -> Iterator[None]:
    """Maps [N, C, H, W] by (place in ``modules``, call); the network goes on with a copy, in case it works in place."""

    def hook(index: int) -> Any:
        calls = itertools.count()

        def store(_: nn.Module, __: Any, output: Any) -> Any:
            call = next(calls)
            if not isinstance(output, Tensor) or output.ndim != 4 or min(output.shape[2:]) < 2:
                return None
            keep[index, call] = output
            return output.clone()

        return store

    handles = [m.register_forward_hook(hook(k)) for k, m in enumerate(modules)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def places(network: Network, size: int) -> dict[str, Place]:
    """lens -> where to look, for the lenses the network uses.

    A network that knows says so itself, ``cam_layers() -> {lens: module}``. Else (or when it names none) it is the
    last map on the way to the logits that changes with this lens and not with the other, and failing that (one branch
    for a fused picture) the last that changes with it at all. Raises UsageError when no map sees a lens.
    """
    named = getattr(network, "cam_layers", None)
    if named is not None and (layers := named()):
        return {lens: Place(module, 0) for lens, module in layers.items()}
    modules = [m for m in network.modules() if m is not network]
    seen = _dependence(network, modules, size)
    found = {}
    for lens in network.uses:
        if lens in LENSES:
            mine = [key for key, by in seen.items() if lens in by]
            if not mine:
                raise UsageError(f"{type(network).__name__}: no map sees the {lens} lens; give it cam_layers()")
            index, call = next((key for key in reversed(mine) if seen[key] == {lens}), mine[-1])
            found[lens] = Place(modules[index], call, shared=len(seen[index, call]) > 1)
    return found


def _dependence(network: Network, modules: list[nn.Module], size: int) -> dict[tuple[int, int], set[str]]:
    """Which lenses move each map on the way to the logits, in the order they are made."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (4, 1, 1, size, size), generator=generator).float()
    base, logits = _maps(network, modules, noise[0], noise[1])
    other = {"visible": _maps(network, modules, noise[2], noise[1])[0],
             "infrared": _maps(network, modules, noise[0], noise[3])[0]}  # fmt: skip
    keys = [key for key, output in base.items() if output.requires_grad]
    grads = torch.autograd.grad(logits.sum(), [base[k] for k in keys], allow_unused=True) if keys else ()
    return {
        key: {lens for lens, moved in other.items() if not torch.equal(moved[key], base[key])}
        for key, gradient in zip(keys, grads, strict=True)
        if gradient is not None
    }


def _maps(network: Network, modules: list[nn.Module], v: Tensor, i: Tensor) -> tuple[Outputs, Tensor]:
    """Crops float [1, 1, S, S] -> the maps and the logits. The crops ask for gradients, for frozen branches' sake."""
    keep: Outputs = {}
    with torch.enable_grad(), _watched(modules, keep):
        logits = network.eval()(v.requires_grad_(), i.requires_grad_(), torch.ones(1, 2))
    return keep, logits


def grad_cam(network: Network, at: dict[str, Place], visible: U8, infrared: U8, target: int) -> dict[str, Map]:
    """lens -> float32 [S, S] in 0..1 for one pair (uint8 [S, S]) and class ``target``, at :func:`places`.

    Weights are the mean gradients of the class's logit (eq. 1); the map is the positive part of the weighted sum
    (eq. 2), enlarged to the crop, its maximum 1 (all 0 where nothing speaks for the class).
    """
    modules = list(dict.fromkeys(p.module for p in at.values()))
    keep, logits = _maps(network, modules, _tensor(visible), _tensor(infrared))
    maps = {lens: keep[modules.index(p.module), p.call] for lens, p in at.items()}
    grads = torch.autograd.grad(logits[0, target], list(maps.values()), allow_unused=True)
    size = visible.shape[0]
    return {lens: _weigh(a, g, size) for (lens, a), g in zip(maps.items(), grads, strict=True)}


def _weigh(activation: Tensor, gradient: Tensor | None, size: int) -> Map:
    if gradient is None:
        return np.zeros((size, size), np.float32)
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    small = torch.relu((weights * activation).sum(dim=1))[0].detach().float().numpy()
    full = cv2.resize(small, (size, size))
    return np.asarray(full / max(float(full.max()), 1e-12), np.float32)


def overlay(face: U8, heat: Map, weight: float = 0.45) -> U8:
    """uint8 [S, S, 3] RGB: the map in colour over the grey face [S, S]."""
    colours = cv2.applyColorMap((255 * heat.clip(0, 1)).astype(np.uint8), cv2.COLORMAP_JET)
    grey = np.repeat(face[..., None], 3, axis=2).astype(np.float32)
    return np.asarray((1 - weight) * grey + weight * colours[..., ::-1], np.uint8)


def with_infrared(faces: Faces, seed: int) -> Faces:
    """Faces of a set without an infrared lens get the simulated one (edgefer.capture.nir)."""
    if faces.infrared is not None:
        return faces
    from export.data import augment

    return replace(faces, infrared=augment.simulated_infrared(faces.images, seed))


def examples(network: Network, faces: Faces, seed: int, most: int = 512) -> dict[int, tuple[U8, U8]]:
    """class -> (visible, infrared) uint8 [S, S] of one face the network gets right, among ``most`` random ones.

    A class of which none is right has no entry.
    """
    rows = np.random.default_rng(seed).permutation(len(faces))[:most]
    chosen = with_infrared(replace(faces, sequence=None).take(rows), seed)
    assert chosen.infrared is not None
    found: dict[int, tuple[U8, U8]] = {}
    for label, v, i in zip(chosen.labels.tolist(), chosen.images, chosen.infrared, strict=True):
        if label not in found and _answer(network, v, i) == label:
            found[label] = (v, i)
    return found


def _tensor(face: U8) -> Tensor:
    return torch.from_numpy(face[None, None].astype(np.float32))


def _answer(network: Network, v: U8, i: U8) -> int:
    with torch.no_grad():
        return int(network.eval()(_tensor(v), _tensor(i), torch.ones(1, 2)).argmax())


def montage(network: Network, faces: Faces, path: Path, seed: int = 0) -> Path:
    """A PNG: one row per class, for each lens the face and the face under its map. Holds real faces: never commit it.

    Raises UsageError when no class has a correctly classified face or no map sees a lens.
    """
    from export.report import figures

    found = examples(network, faces, seed)
    if not found:
        raise UsageError("no face of the test rows is classified correctly, so there is nothing to draw")
    at = places(network, faces.images.shape[1])
    titles = [t for lens in at for t in (lens, f"{lens}, map")]
    rows = {faces.classes[k]: _row(network, at, *found[k], target=k) for k in sorted(found)}
    return figures.pictures(rows, titles, path)


def _row(network: Network, at: dict[str, Place], visible: U8, infrared: U8, target: int) -> list[U8]:
    maps = grad_cam(network, at, visible, infrared, target)
    # A derived lens has no picture of its own; its map lies over the visible face.
    faces = [infrared if lens == "infrared" else visible for lens in maps]
    return [p for face, heat in zip(faces, maps.values(), strict=True) for p in (_grey(face), overlay(face, heat))]


def _grey(face: U8) -> U8:
    return np.repeat(face[..., None], 3, axis=2)
