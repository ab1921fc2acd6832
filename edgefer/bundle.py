"""The bundle: everything the device needs of a trained network, in one folder that proves itself.

    manifest.json    what it is and how to use it (:class:`Manifest`), with the sha256 of every other file
    manifest.sha256  the sha256 of manifest.json
    classifier.onnx  visible uint8 [N, S, S, C], infrared uint8 [N, S, S, 1], present float32 [N, 2] -> logits [N, K]
    classifier-tensorrt.onnx  the same network in TensorRT's form, where the bundle has one (`graphs` in the manifest)
    golden.npz       inputs and the logits they must give, checked at every start on the machine itself
    MODEL_CARD.md    data, protocol, figures, limits

A network over several frames (``temporal`` in the manifest) is two graphs: ``graphs`` then gives features float32
[N, D] instead of logits, and a head takes the last T of them, float32 [N, T, D], oldest first, to logits [N, K].

Opening verifies hashes and shapes; anything amiss is a BundleError of one line.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgefer.errors import BundleError
from edgefer.types import F32, U8, UNKNOWN

MANIFEST = "manifest.json"
MANIFEST_HASH = "manifest.sha256"
GOLDEN = "golden.npz"
CARD = "MODEL_CARD.md"
LENSES = ("visible", "infrared")
DEFAULT = Path(__file__).parent / "bundles" / "default"

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$")]
Label = Annotated[str, Field(pattern=r"^[a-z_]{1,24}$")]
Name = Annotated[str, Field(pattern=r"^[a-z0-9-]{1,32}$")]
Version = Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+$")]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Crop(_Part):
    """The aligned crop: side in pixels, channels of the visible one (1 grey, 3 BGR), landmark template in pixels."""

    size: int = Field(ge=16, le=512)
    visible_channels: Literal[1, 3]
    template: list[tuple[float, float]] = Field(min_length=5, max_length=5)
    """x, y of right eye, left eye, nose tip, right and left mouth corner in the crop"""

    @model_validator(mode="after")
    def _template_is_a_face(self) -> Crop:
        if np.ptp(np.array(self.template), axis=0).min() < 0.1 * self.size:
            raise ValueError("template: the landmarks lie on each other")
        return self


class Graph(_Part):
    """One file of weights and the runtime it is right for (a graph that is right for one can be wrong for another)."""

    file: FileName
    runtime: Literal["onnxruntime", "tensorrt"]
    precision: str


class Temporal(_Part):
    """A network over the last frames: ``graphs`` encode one frame each, ``heads`` answer over their features.

    A golden vector stands alone: its answer is that to a window filled with it.
    """

    window: int = Field(ge=2, le=32)
    """T, frames the head looks back over, the newest included"""
    features: int = Field(ge=1, le=65536)
    """D, numbers per frame"""
    heads: list[Graph] = Field(min_length=1)


class Detector(_Part):
    """The face detector this bundle was made with; its file is not part of the bundle."""

    name: str
    sha256: Sha256


class Thresholds(_Part):
    min_conf: Share
    """smoothed probability below which the reading is ``uncertain``"""


class Training(_Part):
    recipe: str
    data: dict[str, str]
    """data set -> sha256 of what was used of it"""
    simulated: str
    """what in the data is not real"""


class Manifest(_Part):
    schema_version: Literal[1]
    name: Name
    version: Version
    labels: list[Label] = Field(min_length=2, max_length=64)
    crop: Crop
    lenses_needed: list[Literal["visible", "infrared"]]
    """lenses without which the network has no answer; empty: either will do"""
    fusion: str
    temperature: float = Field(gt=0)
    thresholds: Thresholds
    graphs: list[Graph] = Field(min_length=1)
    golden_tolerance: float = Field(gt=0, le=0.2)
    """largest difference of any probability from the golden one"""
    detector: Detector
    training: Training
    metrics: dict[str, float]
    files: dict[FileName, Sha256]
    temporal: Temporal | None = None
    """None: a network over single frames"""

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        if len(set(self.labels)) != len(self.labels) or UNKNOWN in self.labels:
            raise ValueError(f"labels repeat, or one is called {UNKNOWN}")
        runtimes = [g.runtime for g in self.graphs]
        if len(set(runtimes)) != len(runtimes):
            raise ValueError("graphs names a runtime twice")
        heads = self.temporal.heads if self.temporal else []
        headless = {g.runtime for g in self.graphs} - {h.runtime for h in heads}
        if self.temporal and headless:
            raise ValueError(f"temporal has no head for {', '.join(sorted(headless))}")
        missing = ({g.file for g in (*self.graphs, *heads)} | {GOLDEN, CARD}) - set(self.files)
        if missing:
            raise ValueError(f"files lacks a sha256 for {', '.join(sorted(missing))}")
        return self


@dataclass(frozen=True)
class Golden:
    """visible uint8 [M, S, S, C], infrared uint8 [M, S, S, 1], present float32 [M, 2], logits float32 [M, K].

    ``logits_tensorrt`` are the answers of the graph for TensorRT, where the bundle has one: other rounding, other
    answers. A bundle from before has none, and ``logits`` hold for every runtime.
    """

    visible: U8
    infrared: U8
    present: F32
    logits: F32
    logits_tensorrt: F32 | None = None

    def expected(self, runtime: str) -> F32:
        """float32 [M, K]: what the graph for ``runtime`` must answer."""
        own = self.logits_tensorrt if runtime == "tensorrt" else None
        return self.logits if own is None else own


@dataclass(frozen=True)
class Bundle:
    path: Path
    manifest: Manifest
    golden: Golden
    sha256: str
    """of the manifest as it was opened, which holds the hashes of everything else"""

    @property
    def title(self) -> str:
        return f"{self.manifest.name}@{self.manifest.version}"

    def graph(self, runtime: str) -> Path:
        """The file for ``runtime``, of a temporal network the encoder. Raises BundleError when there is none."""
        return self._file(self.manifest.graphs, runtime)

    def head(self, runtime: str) -> Path:
        """The head of a temporal network for ``runtime``. Raises BundleError when there is none."""
        return self._file(self.manifest.temporal.heads if self.manifest.temporal else [], runtime)

    def _file(self, graphs: list[Graph], runtime: str) -> Path:
        for g in graphs:
            if g.runtime == runtime:
                return self.path / g.file
        has = ", ".join(sorted({g.runtime for g in self.manifest.graphs}))
        remedy = f"set infer.backend to one of these or install a bundle that has a graph for {runtime}"
        raise BundleError(f"{self.path}: no graph for {runtime}; this bundle serves {has}: {remedy}")


def open_bundle(path: Path = DEFAULT) -> Bundle:
    """Read and verify a bundle folder. Raises BundleError naming the file and the remedy."""
    manifest = read_manifest(path)
    for name, expected in manifest.files.items():
        _verify(path / name, expected)
    return Bundle(path, manifest, _golden(path / GOLDEN, manifest), file_sha256(path / MANIFEST))


def file_sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


def read_manifest(path: Path) -> Manifest:
    """The manifest of a bundle folder, its own hash right; the files it lists are not looked at. Raises BundleError."""
    file = path / MANIFEST
    try:
        data, expected = file.read_bytes(), (path / MANIFEST_HASH).read_text(encoding="ascii").strip()
        if hashlib.sha256(data).hexdigest() != expected:
            raise BundleError(f"{file}: its sha256 is not that in {MANIFEST_HASH}; install the bundle again")
        raw: Any = json.loads(data)
    except (FileNotFoundError, NotADirectoryError):
        raise BundleError(f"{file}: not found; a bundle is a folder made by `python -m export bundle`") from None
    except (OSError, ValueError) as e:
        raise BundleError(f"{file}: unreadable ({e}); install the bundle again") from None
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if version != 1:
        raise BundleError(f"{file}: schema_version {version!r}, this edgefer reads 1; install a bundle made for it")
    try:
        return Manifest.model_validate(raw)
    except ValidationError as e:
        first = e.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"])) or "manifest"
        raise BundleError(f"{file}: '{key}': {first['msg']}; install the bundle again") from None


def _verify(file: Path, expected: str) -> None:
    try:
        actual = file_sha256(file)
    except FileNotFoundError:
        raise BundleError(f"{file}: missing; install the bundle again") from None
    except OSError as e:
        raise BundleError(f"{file}: unreadable ({e}); install the bundle again") from None
    if actual != expected:
        short = f"sha256 is {actual[:12]}..., the manifest says {expected[:12]}..."
        raise BundleError(f"{file}: {short}; install the bundle again")


def _golden(file: Path, m: Manifest) -> Golden:
    try:
        with np.load(file, allow_pickle=False) as z:
            own = z.get("logits_tensorrt")
            golden = Golden(z["visible"], z["infrared"], z["present"], z["logits"], own)
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as e:
        raise BundleError(f"{file}: no golden vectors in it ({e}); make the bundle again") from None
    n, s = len(golden.logits), m.crop.size
    expected = {
        "visible": (n, s, s, m.crop.visible_channels), "infrared": (n, s, s, 1),
        "present": (n, 2), "logits": (n, len(m.labels)),
    }  # fmt: skip
    if golden.logits_tensorrt is not None:
        expected["logits_tensorrt"] = (n, len(m.labels))
    for name, shape in expected.items():
        actual, dtype = getattr(golden, name).shape, getattr(golden, name).dtype
        if n == 0 or actual != shape or dtype != (np.uint8 if name in LENSES else np.float32):
            raise BundleError(f"{file}: {name} is {dtype} {actual}, expected {shape}; make the bundle again")
    return golden
