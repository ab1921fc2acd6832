"""Class activation maps per class and modality: Grad-CAM (Selvaraju et al. 2017, eqs. 1 and 2) for any Network.

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
from export.models.naseem import Modal
from export.models.network import Network

__all__ = ["Network", "Place", "examples", "grad_cam", "montage", "overlay", "places"]
Map = npt.NDArray[np.float32]
Key = tuple[int, int]
"""(place in a list of modules, call)"""
Outputs = dict[Key, Tensor]
LENSES = ("visible", "infrared")
LOCAL = 1.1
"""how many times more a change in one quarter of the face must move that quarter of a map than any other. Behind layers
that mix all places it is 0.8 to 1.0, behind convolutions 1.2 (3x3, each place seeing the whole face) to 16"""


@dataclass(frozen=True)
class Place:
    """Where a modality is looked at: the ``call``-th call of a module during one forward pass."""

    module: nn.Module
    call: int
    shared: bool = False
    """the other lens has a say in it too (pixel fusion): one map for both"""


def _is_square(output: object) -> bool:
    """Crops are square, and so is a map of one."""
    return isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] == output.shape[3] >= 2


@contextmanager
def _watched(modules: list[nn.Module], keep: Outputs) -> Iterator[None]:
    """Maps [N, C, H, W] by (place in ``modules``, call); the network goes on with a copy, in case it works in place."""

    def hook(index: int) -> Any:
        calls = itertools.count()

        def store(_: nn.Module, __: Any, output: Any) -> Any:
            call = next(calls)
            if not _is_square(output):
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
    """modality -> where to look: the lenses the network uses, and MSX where it has a branch of its own.

    A network that knows says so itself, ``cam_layers() -> {modality: module}``, or the networks it is made of do. Else
    it is the last map in space on the way to the logits: inside the modality's own branch, where there are such; or
    that changes with this lens and not with the other; or (one branch for a fused picture) that changes with it at
    all. Raises UsageError when no map sees a modality.
    """
    if named := _named(network):
        return {modality: Place(module, 0) for modality, module in named.items()}
    modules = [m for m in network.modules() if m is not network]
    seen = _dependence(network, modules, size)
    branches: dict[str, set[nn.Module]] = {
        m.modality: set(m.backbone.modules()) for m in modules if isinstance(m, Modal)
    }
    found = {}
    for modality in branches or [lens for lens in network.uses if lens in LENSES]:
        mine = [k for k, by in seen.items() if (modules[k[0]] in branches[modality] if branches else modality in by)]
        if not mine:
            raise UsageError(f"{type(network).__name__}: no map in space sees {modality}; give it cam_layers()")
        key = mine[-1] if branches else next((k for k in reversed(mine) if seen[k] == {modality}), mine[-1])
        found[modality] = Place(modules[key[0]], key[1], shared=not branches and len(seen[key]) > 1)
    return found


def _named(network: Network) -> dict[str, nn.Module]:
    """What the network says itself, else what the networks inside it say (late fusion)."""
    inside = [m for m in network.modules() if m is not network and isinstance(m, Network)]
    for speakers in ([network], inside):
        told = [own() for m in speakers if (own := getattr(m, "cam_layers", None)) is not None]
        if layers := {modality: module for layers in told for modality, module in layers.items()}:
            return layers
    return {}


def _dependence(network: Network, modules: list[nn.Module], size: int) -> dict[Key, set[str]]:
    """Which lenses move each map in space on the way to the logits, in the order they are made."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (4, 1, 1, size, size), generator=generator).float()
    base, logits = _maps(network, modules, noise[0], noise[1])
    other = {"visible": _maps(network, modules, noise[2], noise[1])[0],
             "infrared": _maps(network, modules, noise[0], noise[3])[0]}  # fmt: skip
    keys = [key for key, output in base.items() if output.requires_grad]
    grads = torch.autograd.grad(logits.sum(), [base[k] for k in keys], allow_unused=True) if keys else ()
    local = _locality(network, modules, noise, base)
    return {
        key: {lens for lens, moved in other.items() if not torch.equal(moved[key], base[key])}
        for key, gradient in zip(keys, grads, strict=True)
        if gradient is not None and local[key] > LOCAL
    }


def _locality(network: Network, modules: list[nn.Module], noise: Tensor, base: Outputs) -> dict[Key, float]:
    """How much more a quarter of the face moves its own quarter of each map than any other; mean over the quarters.

    A tensor of four dimensions need not be a map: attention over groups, patches and channels makes such too.
    """
    half = noise.shape[-1] // 2
    sums = dict.fromkeys(base, 0.0)
    for quarter in range(4):
        own = torch.zeros_like(noise[0], dtype=torch.bool)
        rows, columns = (slice(half, None) if side else slice(half) for side in divmod(quarter, 2))
        own[..., rows, columns] = True
        moved, _ = _maps(network, modules, noise[2].where(own, noise[0]), noise[3].where(own, noise[1]))
        for key, output in base.items():
            sums[key] += _own_share(moved[key] - output, quarter) / 4
    return sums


def _own_share(difference: Tensor, quarter: int) -> float:
    """Mean change [N, C, H, W] of one corner over that of the corner moved most of the other three."""
    change = difference.detach().float().abs().mean(dim=(0, 1))
    h = change.shape[0] // 2
    corners = [change[y, x].mean() for y in (slice(h), slice(-h, None)) for x in (slice(h), slice(-h, None))]
    own = corners.pop(quarter)
    return float(own / max(*corners, torch.tensor(1e-12)))


def _maps(network: Network, modules: list[nn.Module], v: Tensor, i: Tensor) -> tuple[Outputs, Tensor]:
    """Crops float [1, 1, S, S] -> the maps and the logits. The crops ask for gradients, for frozen branches' sake."""
    keep: Outputs = {}
    with torch.enable_grad(), _watched(modules, keep):
        logits = network.eval()(v.requires_grad_(), i.requires_grad_(), torch.ones(1, 2))
    return keep, logits


def grad_cam(network: Network, at: dict[str, Place], visible: U8, infrared: U8, target: int) -> dict[str, Map]:
    """modality -> float32 [S, S] in 0..1 for one pair (uint8 [S, S]) and class ``target``, at :func:`places`.

    Weights are the mean gradients of the class's logit (eq. 1); the map is the positive part of the weighted sum
    (eq. 2), enlarged to the crop, its maximum 1 (all 0 where nothing speaks for the class). Raises UsageError when
    there is no map at one of the places.
    """
    modules = list(dict.fromkeys(p.module for p in at.values()))
    keep, logits = _maps(network, modules, _tensor(visible), _tensor(infrared))
    keys = {modality: (modules.index(p.module), p.call) for modality, p in at.items()}
    if flat := [type(at[modality].module).__name__ for modality, key in keys.items() if key not in keep]:
        raise UsageError(f"{type(network).__name__}: what {', '.join(flat)} makes is no map; name another layer")
    maps = {modality: keep[key] for modality, key in keys.items()}
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
    """A PNG: one row per class, for each modality the face and the face under its map. Holds real faces: never commit
    it.

    Raises UsageError when no class has a correctly classified face or no map sees a modality.
    """
    from export.report import figures

    found = examples(network, faces, seed)
    if not found:
        raise UsageError("no face of the test rows is classified correctly, so there is nothing to draw")
    at = places(network, faces.images.shape[1])
    titles = [t for x, place in at.items() for t in (x, f"{x}, map{' of both' if place.shared else ''}")]
    rows = {faces.classes[k]: _row(network, at, *found[k], target=k) for k in sorted(found)}
    return figures.pictures(rows, titles, path)


def _row(network: Network, at: dict[str, Place], visible: U8, infrared: U8, target: int) -> list[U8]:
    maps = grad_cam(network, at, visible, infrared, target)
    faces = [_picture(network, modality, visible, infrared) for modality in maps]
    return [p for face, heat in zip(faces, maps.values(), strict=True) for p in (_grey(face), overlay(face, heat))]


def _picture(network: Network, modality: str, visible: U8, infrared: U8) -> U8:
    """uint8 [S, S]: what the network sees of a modality; the derived MSX has no lens of its own."""
    if modality == "visible":
        return visible
    derived = [m.msx for m in network.modules() if isinstance(m, Modal) and m.modality == modality and m.msx]
    if not derived:
        return infrared
    blend = derived[0](_tensor(visible), _tensor(infrared))[0, 0]
    return np.asarray(blend.round().numpy().astype(np.uint8))


def _grey(face: U8) -> U8:
    return np.repeat(face[..., None], 3, axis=2)
