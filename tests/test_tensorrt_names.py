"""Every TensorRT name that our code uses exists in every version we serve; the list is NVIDIA's, read from its wheels.

The versions cannot be installed together, and no machine of ours has more than one. `tests/tensorrt_names.json` holds
their names; `python tests/tensorrt_api.py` writes it anew.
"""

from __future__ import annotations

import ast
import os
import sys
import tempfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import tensorrt_api

ROOT = Path(__file__).parents[1]
FILES = sorted([*(ROOT / "edgefer" / "infer").glob("*.py"), *(ROOT / "export").glob("engine*.py")])
MODULES = {"tensorrt", "tensorrt_rtx"}
RTX = "rtx 1.7.1.116"
RTX_ONLY = {"ComputeCapability", "num_compute_capabilities", "set_compute_capability"}
"""a target is only named when the builder is TensorRT for RTX; TensorRT itself builds for the GPU that is there"""

FILES_HAVE = {"read", "seek", "write"}
"""TensorRT's streams have them in some versions; ours are of files"""


def dotted(node: ast.expr) -> list[str]:
    """`a.b.c` as its parts; [] for anything else."""
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Attribute):
        head = dotted(node.value)
        return [*head, node.attr] if head else []
    return []


def used(source: str, known: set[str]) -> tuple[set[str], set[str]]:
    """(names inside the module, such as `BuilderFlag.TF32`; members of any object that TensorRT knows the name of)."""
    names: set[str] = set()
    members: set[str] = set()
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in MODULES:
            names |= {alias.name for alias in node.names}
        if not isinstance(node, ast.Attribute):
            continue
        members.add(node.attr)
        parts = dotted(node)
        for root in ("trt", "_trt", *MODULES):
            if root in parts[:-1]:
                inside = [p for p in parts[parts.index(root) + 1 :] if not p.startswith("_")]
                names |= {".".join(inside[:2])} if inside else set()
    speaks = "trt" in source or any(m in source for m in MODULES)
    return names, (members & known - FILES_HAVE if speaks else set())


def missing(source: str, apis: dict[str, tensorrt_api.Api]) -> list[str]:
    """`name: not in VERSION` for every name of ``source`` that a version has not."""
    known = {m for api in apis.values() for cls, members in api.items() if cls for m in members}
    names, members = used(source, known)
    found = []
    for version, api in apis.items():
        have = {m for cls, inside in api.items() if cls for m in inside}
        for name in sorted(names):
            cls, _, member = name.partition(".")
            if cls not in api[""] or (member and cls in api and member not in api[cls]):
                found.append(f"{name}: not in {version}")
        found += [f"{name}: not in {version}" for name in sorted(members - have)]
    return [f for f in found if not (f.split(":")[0].split(".")[0] in RTX_ONLY and not f.endswith(RTX))]


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_every_name_is_there_in_every_version(file: Path) -> None:
    assert missing(file.read_text(), tensorrt_api.read()) == []


def test_the_builder_uses_what_the_list_is_about() -> None:
    """The reading of the source finds something: without it the test above would pass on anything."""
    apis = tensorrt_api.read()
    known = {m for api in apis.values() for cls, members in api.items() if cls for m in members}
    names, members = used((ROOT / "export" / "engine.py").read_text(), known)
    assert {"Builder", "OnnxParser", "NetworkDefinitionCreationFlag.STRONGLY_TYPED"} <= names
    assert {"build_serialized_network", "profiling_verbosity", "create_engine_inspector"} <= members
    assert set(apis) == set(tensorrt_api.WHEELS)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("config.set_flag(trt.BuilderFlag.FP16)", "BuilderFlag.FP16: not in 11.4.0.106"),
        ("self._trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH", "EXPLICIT_BATCH: not in 11.4.0.106"),
        ("trt; config.int8_calibrator = None", "int8_calibrator: not in 11.4.0.106"),
        ("trt; engine.device_memory_size", "device_memory_size: not in 11.4.0.106"),
        ("from tensorrt import IInt8EntropyCalibrator2", "IInt8EntropyCalibrator2: not in 11.4.0.106"),
        ("trt.Bulider(log)", "Bulider: not in 10.3.0"),
    ],
)
def test_a_name_that_is_gone_or_never_was_is_found(line: str, said: str) -> None:
    assert any(said in found for found in missing(line, tensorrt_api.read()))


def test_every_target_of_the_builder_exists() -> None:
    engine = ast.parse((ROOT / "export" / "engine.py").read_text())
    targets = next(n.value for n in engine.body if isinstance(n, ast.Assign) and dotted(n.targets[0]) == ["TARGETS"])
    assert set(ast.literal_eval(targets)) <= set(tensorrt_api.read()[RTX]["ComputeCapability"])


def test_the_list_is_that_of_the_wheel_installed_here() -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="needs the engine extra")
    if not RTX.endswith(trt.__version__):
        pytest.skip(f"TensorRT for RTX {trt.__version__} is installed, the list holds {RTX}")
    listed = tensorrt_api.read()[RTX]
    for name in ("Builder", "IBuilderConfig", "OnnxParser", "ICudaEngine", "IExecutionContext", "Runtime"):
        assert set(listed[name]) == {m for m in dir(getattr(trt, name)) if not m.startswith("_")}, name


@pytest.mark.skipif(os.environ.get("CI") != "true", reason="downloads the binding wheels; set CI=true to run it")
@pytest.mark.parametrize("version", tensorrt_api.WHEELS)
def test_the_list_is_that_of_the_wheels(version: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        api = tensorrt_api.collect(tensorrt_api.WHEELS[version], Path(folder))
    listed = tensorrt_api.read()[version]
    assert {name: sorted(members) for name, members in listed.items() if name in api} == api
