"""The bundle's graph for ONNX Runtime on a processor without 8-bit dot products (VNNI), which qemu-user emulates.

    python tests/tools/without_vnni.py [BUNDLE] [--vectors 24] [--cpu Haswell]

ONNX Runtime asks the processor (CPUID) what it can do and takes its AVX2 kernels there, whose sums of two products
saturate at 16 bits. Prints the largest difference in probability from the golden answers; about a second a vector.
Needs qemu-x86_64 (`apt install qemu-user`) and an x86-64 machine.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CPU = "Haswell"
"""AVX2, no AVX-512, no VNNI"""
NETWORK = """
import json, sys
from pathlib import Path
from edgefer.bundle import open_bundle
from edgefer.config import Infer
from edgefer.infer.onnxrt import onnx_network
from edgefer.types import AlignedPair
bundle, n = open_bundle(Path(sys.argv[1])), int(sys.argv[2])
g = bundle.golden
network = onnx_network(bundle, Infer(threads=1), lambda _: None)
pairs = [AlignedPair(g.visible[k : k + 1], g.infrared[k : k + 1], g.present[k : k + 1]) for k in range(n)]
print(json.dumps([network.infer(pair).logits.tolist() for pair in pairs]))
"""


def missing() -> str:
    """Why nothing can be emulated here, or an empty text."""
    if shutil.which("qemu-x86_64") is None:
        return "qemu-x86_64 is not installed: apt install qemu-user"
    with Path(sys.executable).open("rb") as f:
        elf = f.read(20)
    return "" if elf[:4] == b"\x7fELF" and elf[18:20] == b"\x3e\x00" else f"{sys.executable} is not an x86-64 program"


def emulated(code: str, *args: str, cpu: str = CPU) -> Any:
    """What ``code`` prints as JSON on a processor of that name."""
    command = ["qemu-x86_64", "-cpu", cpu, sys.executable, "-c", code, *args]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=600)
    if done.returncode != 0:
        raise RuntimeError(f"{cpu}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def gap(bundle: Path, vectors: int, cpu: str = CPU) -> tuple[float, int]:
    """Largest difference in probability from the golden answers there, and how many labels are the same."""
    import numpy as np

    from edgefer.bundle import open_bundle
    from edgefer.types import Scores

    opened = open_bundle(bundle)
    t, golden = opened.manifest.temperature, opened.golden.logits[:vectors]
    logits = np.array(emulated(NETWORK, str(bundle), str(vectors), cpu=cpu), np.float32)
    pairs = zip(logits, golden, strict=True)
    gaps = [np.abs(Scores(a).probabilities(t) - Scores(b).probabilities(t)).max() for a, b in pairs]
    return float(max(gaps)), int((logits.argmax(1) == golden.argmax(1)).sum())


def main() -> None:
    sys.path.insert(0, str(ROOT))
    from edgefer.bundle import DEFAULT, open_bundle

    p = argparse.ArgumentParser(description="the golden vectors on a processor without VNNI")
    p.add_argument("bundle", type=Path, nargs="?", default=DEFAULT)
    p.add_argument("--vectors", type=int, default=0, help="how many; 0: all")
    p.add_argument("--cpu", default=CPU, help="a name of `qemu-x86_64 -cpu help`")
    a = p.parse_args()
    if why := missing():
        sys.exit(why)
    opened = open_bundle(a.bundle)
    n = a.vectors or len(opened.golden.logits)
    worst, same = gap(a.bundle, n, a.cpu)
    print(f"{opened.title} on {a.cpu}: {n} golden vectors, off by at most {worst:.4f} in probability, "
          f"{same} labels the same; the limit is {opened.manifest.golden_tolerance}")  # fmt: skip
    sys.exit(worst > opened.manifest.golden_tolerance)


if __name__ == "__main__":
    main()
