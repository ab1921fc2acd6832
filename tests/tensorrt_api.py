"""The names of TensorRT's Python API in the versions we serve, collected from NVIDIA's own binding wheels.

    python tests/tensorrt_api.py       # downloads the wheels (3 MB), writes tests/tensorrt_names.json

The wheels exclude each other (one package name) and their libraries are not on PyPI. So each is unpacked apart and
imported in a process of its own, with stand-ins for the libraries whose functions do nothing: enough for ``dir()``.
Needs pip, the network and a C compiler.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

NAMES = Path(__file__).with_name("tensorrt_names.json")
WHEELS = {
    "10.3.0": "tensorrt-cu12-bindings==10.3.0",  # JetPack 6
    "10.13.3.9": "tensorrt-cu12-bindings==10.13.3.9",  # JetPack 7
    "11.4.0.106": "tensorrt-cu13-bindings==11.4.0.106",  # workstations, JetPack from 7.2.2
    "rtx 1.7.1.116": "tensorrt-rtx-cu13-bindings==1.7.1.116",
}
Api = dict[str, list[str]]
"""class -> its members; "" -> the module's own names"""

LOOK = """
import importlib.util, inspect, json, sys
spec = importlib.util.spec_from_file_location(sys.argv[1], sys.argv[2])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
public = lambda x: sorted(n for n in dir(x) if not n.startswith("_"))
api = {n: public(getattr(module, n)) for n in public(module) if inspect.isclass(getattr(module, n))}
print(json.dumps({"": public(module), **api}))
"""


def collect(requirement: str, folder: Path) -> Api:
    """Download, unpack and look at one binding wheel in ``folder``."""
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:", "-d", str(folder)]
    subprocess.run([*pip, requirement], check=True, capture_output=True, timeout=600)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as z:
        z.extractall(folder)
    binding = next(folder.glob("*/tensorrt*.so"))
    functions: list[str] = []
    while True:
        stand_in(needed(binding), functions, folder)
        done = look(binding, folder)
        missing = re.search(r"undefined symbol: (\w+)", done.stderr)
        if missing is None:
            break
        functions.append(missing[1])
    done.check_returncode()
    found: Api = json.loads(done.stdout)
    return found


def needed(binding: Path) -> set[str]:
    """The NVIDIA libraries that the binding asks for, by name inside the file."""
    found = re.findall(rb"lib(?:nvinfer|nvonnxparser|tensorrt)[a-z_]*\.so[.0-9]*", binding.read_bytes())
    return {name.decode() for name in found}


def stand_in(libraries: set[str], functions: list[str], folder: Path) -> None:
    """Shared libraries of those names in ``folder``; each has all ``functions``, which return 0."""
    source = folder / "stand_in.c"
    source.write_text("".join(f"long {name}(void) {{ return 0; }}\n" for name in functions))
    for name in libraries:
        subprocess.run(["cc", "-shared", "-fPIC", "-o", folder / name, source, f"-Wl,-soname,{name}"], check=True)


def look(binding: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", LOOK, binding.name.split(".")[0], str(binding)]
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folder)}
    return subprocess.run(command, env=environment, check=False, capture_output=True, text=True, timeout=120)


def read() -> dict[str, Api]:
    """version -> API, from the checked-in list."""
    kept: dict[str, Api] = json.loads(NAMES.read_text())
    common = kept.pop("everywhere")
    return {
        version: {name: [*common.get(name, []), *own.get(name, [])] for name in {*common, *own}}
        for version, own in kept.items()
    }


def write(apis: dict[str, Api]) -> None:
    """What all versions have is written once."""
    first, *rest = apis.values()
    common = {
        name: sorted(set(members).intersection(*(x.get(name, []) for x in rest)))
        for name, members in first.items()
        if all(name in x for x in rest)
    }
    kept = {"everywhere": common}
    for version, api in apis.items():
        own = {name: sorted(set(members) - set(common.get(name, []))) for name, members in api.items()}
        kept[version] = {name: members for name, members in own.items() if members or name not in common}
    lines = []
    for version, api in kept.items():
        rows = ",\n".join(f"  {json.dumps(name)}: {json.dumps(members)}" for name, members in sorted(api.items()))
        lines.append(f" {json.dumps(version)}: {{\n{rows}\n }}")
    NAMES.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def main() -> None:
    apis = {}
    for version, requirement in WHEELS.items():
        with tempfile.TemporaryDirectory() as folder:
            apis[version] = collect(requirement, Path(folder))
        print(f"{requirement}: {len(apis[version])} classes")
    write(apis)
    print(f"{NAMES}: written")


if __name__ == "__main__":
    main()
