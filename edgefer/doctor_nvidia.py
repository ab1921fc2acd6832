"""What ``edgefer doctor`` asks of a Jetson, or any machine with an NVIDIA GPU. Paths are arguments for the tests."""

from __future__ import annotations

import getpass
import os
import re
from pathlib import Path

from edgefer.config import Config
from edgefer.errors import ServiceError
from edgefer.infer import tensorrt, vendor
from edgefer.infer.cuda import has_driver, open_cuda
from edgefer.stamp import clock_synchronised

NODES = (
    "/dev/nvmap", "/dev/nvhost-gpu", "/dev/nvhost-ctrl-gpu", "/dev/nvgpu/igpu0/ctrl", "/dev/nvidia0", "/dev/nvidiactl",
    "/dev/nvidia-uvm", "/dev/dri/renderD128",
)  # fmt: skip
POWER_STATUS, POWER_MODES = Path("/var/lib/nvpmodel/status"), Path("/etc/nvpmodel.conf")
ADVICE = "choose the one of your power budget with `nvpmodel -m ID`; `jetson_clocks` keeps the clocks from sagging"


class Note(Exception):
    """Neither right nor wrong: something is not here, or worth knowing."""


def cuda() -> str:
    if not has_driver():
        raise Note("no NVIDIA driver here; ONNX Runtime runs the network")
    found = open_cuda()
    memory = "memory shared with the processor" if found.integrated else "memory of its own"
    return f"{found.gpu.name}, compute capability {'.'.join(map(str, found.gpu.capability))}, {memory}"


def library() -> str:
    if has_driver():
        return vendor.load().title
    try:
        raise Note(f"{vendor.load().title} is installed, but there is no NVIDIA driver to run it on")
    except ServiceError:
        raise Note("not installed, and no NVIDIA driver to run it on") from None


def power(status: Path = POWER_STATUS, modes: Path = POWER_MODES) -> str:
    try:
        found = re.search(r"\bpmode:(\d+)", status.read_text())
    except OSError:
        raise Note("no nvpmodel here: not a Jetson") from None
    if found is None:
        raise Note(f"{status}: names no mode; `nvpmodel -q` tells it")
    number = int(found[1])
    named = dict(_modes(modes))
    others = ", ".join(f"{k} {v}" for k, v in sorted(named.items()) if k != number)
    return f"mode {number} {named.get(number, '')}".rstrip() + (f"; others: {others}; {ADVICE}" if others else "")


def _modes(file: Path) -> list[tuple[int, str]]:
    try:
        text = file.read_text()
    except OSError:
        return []
    return [(int(n), name) for n, name in re.findall(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", text)]


def permissions(settings: Config, nodes: tuple[str, ...] = NODES) -> str:
    c = settings.capture
    lenses = [d for d in (c.visible, c.infrared, c.visible2, c.infrared2, c.source) if d.startswith("/dev/")]
    there = [node for node in (*nodes, *lenses) if Path(node).exists()]
    if not there:
        raise Note("no GPU or camera nodes here")
    denied = [node for node in there if not os.access(node, os.R_OK | os.W_OK)]
    if denied:
        raise ServiceError(
            f"{', '.join(denied)}: no access for {getpass.getuser()}; `usermod -aG video,render {getpass.getuser()}` "
            "and log in again"
        )
    return f"{len(there)} device nodes can be used by {getpass.getuser()}"


def clock() -> str:
    if not clock_synchronised():
        raise Note(
            "not synchronised since boot: times are marked so in every message; `timedatectl set-ntp true`, or chrony "
            "with the vehicle's time source"
        )
    return "synchronised"


def engines(settings: Config) -> str:
    """Nothing to say where no engine can be used."""
    cache = tensorrt.cache_of(settings.infer)
    found = cache.entries()
    bad = [e.path.name for e in found if e.fault]
    if bad:
        raise ServiceError(
            f"{cache.folder}: {', '.join(bad)} damaged; `edgefer engine clean`, then `edgefer engine build`"
        )
    if not found:
        raise Note(f"{cache.folder} is empty" + ("; `edgefer engine build` fills it" if has_driver() else ""))
    return f"{len(found)} in {cache.folder}"
