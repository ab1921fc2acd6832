"""What the network is shown outside training: the three states of the camera, as inputs of the device graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgefer.types import F32, U8
from export.data import augment
from export.data.faces import Faces, Labels

Inputs = tuple[U8, U8, F32]
"""visible uint8 [N, S, S, 1], infrared uint8 [N, S, S, 1], present float32 [N, 2]"""

Answer = Callable[[Inputs], F32]
"""a graph, or an encoder and its head, at work: inputs -> logits float32 [N, K]"""

MODES = {"visible+infrared": (1, 1), "visible": (1, 0), "infrared": (0, 1)}
"""name -> ``present``"""


def modes(needed: Sequence[str]) -> dict[str, tuple[int, int]]:
    """The states in which a network that needs these lenses has an answer."""
    if not needed:
        return MODES
    name = "+".join(lens for lens in ("visible", "infrared") if lens in needed)
    return {name: MODES[name]}


SIMULATED = (
    "the infrared lens is a simulation (edgefer.capture.nir) of the same visible face; no real infrared image was used"
)


def simulated(faces: Faces, needed: Sequence[str] = ()) -> str:
    """What is not real of these faces to a network that needs these lenses; "" where the set has an infrared lens, or
    the network does not look at one."""
    return SIMULATED if faces.infrared is None and "infrared" in (needed or ("visible", "infrared")) else ""


def infrared(faces: Faces, seed: int) -> U8:
    """uint8 [N, S, S]: the set's own infrared pictures, else one fixed draw of the simulation per picture."""
    return augment.simulated_infrared(faces.images, seed) if faces.infrared is None else faces.infrared


def inputs(visible: U8, infrared: U8, mode: str) -> Inputs:
    """uint8 [N, S, S] of each lens -> the graph's inputs; a lens that is not there is zero, as on the device."""
    seen = MODES[mode]
    v, i = (x[..., None] * np.uint8(on) for x, on in zip((visible, infrared), seen, strict=True))
    return v, i, np.tile(np.array(seen, np.float32), (len(visible), 1))


def feed(pairs: Inputs, rows: slice) -> dict[str, npt.NDArray[Any]]:
    """The chosen rows under the graph's input names."""
    visible, infrared, present = pairs
    return {"visible": visible[rows], "infrared": infrared[rows], "present": present[rows]}


def views(faces: Faces, seed: int, needed: Sequence[str] = ()) -> dict[str, Inputs]:
    """Every mode of every face, undisturbed light."""
    other = infrared(faces, seed)
    return {mode: inputs(faces.images, other, mode) for mode in modes(needed)}


def mixed(faces: Faces, seed: int, needed: Sequence[str] = ()) -> tuple[Inputs, Labels]:
    """All modes of every face, one behind the other: M N rows, and their labels int64 [M N]."""
    shown = views(faces, seed, needed)
    visible, infrared, present = zip(*shown.values(), strict=True)
    stacked = (np.concatenate(visible), np.concatenate(infrared), np.concatenate(present))
    return stacked, np.tile(faces.labels, len(shown))


def head(faces: Faces, count: int, seed: int) -> Faces:
    """``count`` random faces (all when there are fewer)."""
    chosen = np.sort(np.random.default_rng(seed).permutation(len(faces))[:count])
    return faces.take(chosen)
