"""The house stands: who may import whom, and what `import edgefer` may need."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "edgefer"
STAGES = {"capture", "locate", "align", "infer", "decide", "publish"}
SHARED = {"types", "config", "errors", "bundle", "messages", "redact", "stamp"}
KNOWS_SEVERAL = {
    "pipeline",
    "app",
    "api",
    "bench",
    "bench_engine",
    "doctor",
    "doctor_nvidia",
    "engine_cli",
    "calibrate",
    "cli",
    "demo",
    "reload",
    "serving",
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imported(file: Path) -> set[str]:
    """Every module named in an import anywhere in ``file``, dotted."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{file}: relative import"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def rooms(file: Path) -> set[str]:
    """The parts of edgefer that ``file`` imports: the second name of `edgefer.x...`."""
    return {name.split(".")[1] for name in imported(file) if name.startswith("edgefer.")}


@pytest.mark.parametrize("file", modules(), ids=lambda f: str(f.relative_to(PACKAGE)))
def test_the_device_package_sees_neither_the_workstation_nor_torch(file: Path) -> None:
    forbidden = {"torch", "onnx", "export", "lightning", "kornia"}
    assert not {name.split(".")[0] for name in imported(file)} & forbidden


@pytest.mark.parametrize("file", modules(), ids=lambda f: str(f.relative_to(PACKAGE)))
def test_a_stage_imports_the_shared_types_and_itself(file: Path) -> None:
    room = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room in STAGES:
        own = {p.removesuffix(".py") for p in (room,)}
        assert rooms(file) - own <= SHARED
    elif room not in KNOWS_SEVERAL:
        assert len((rooms(file) & STAGES) - {room}) <= 1


def test_edgefer_imports_without_torch_onnx_tensorrt_and_a_gpu() -> None:
    blocked = ("torch", "onnx", "export", "tensorrt", "pycuda", "amqtt", "onnxruntime")
    code = f"import sys\nfor n in {blocked}: sys.modules[n] = None\n"
    for file in modules():
        name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        if not name.endswith("__main__"):
            code += f"import {name.removesuffix('.__init__')}\n"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
